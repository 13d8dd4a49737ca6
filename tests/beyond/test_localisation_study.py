"Localisation: what the page says of made-up records, of either sign, where the interval holds 0, and where there are none."
import numpy as np, pytest
from avh_nb.beyond import localisation, localisation_published
from avh_nb.beyond.cue_halves import HOWS, KINDS, MEASURES

class Made(dict):
    "Metrics that are there whatever they are called: an estimate, and an interval of its own width"
    def __init__(self, at, half): super().__init__(); self.at,self.half = at,half
    def __missing__(self, name):
        for end,sign in ((' low', -1), (' high', 1)):
            if name.endswith(end): return self[name.removesuffix(end)]+sign*self.half
        return self.at(name)

@pytest.fixture
def made(monkeypatch):
    "Records of three splits"
    def records(at, half=.005):
        def by_seed(study, **of): return {s: Made(lambda name, s=s: at(name)+.001*(s-1), half) for s in range(3)}
        monkeypatch.setattr(localisation, 'by_seed', by_seed)
        monkeypatch.setattr(localisation, 'people_recorded', lambda study: {})
    return records

def signed(sign):
    "Every difference is 3 points, of one sign"
    return lambda name: sign*.03 if ' - ' in name or 'gain' in name or 'votes' in name else .5

@pytest.fixture
def nothing(tmp_path, monkeypatch): monkeypatch.setenv('AVH_RESULTS', str(tmp_path))

def test_nothing_recorded(nothing):
    found = localisation.claims()
    assert {(c.here, c.holds) for c in found if c.holds!='not tested here'}=={('not run yet', 'open')}
    assert 'Not run yet' in localisation.summary() and not localisation.recorded_parts()
    assert localisation.draw_measures() is localisation.draw_parameter() is localisation.draw_seen() is None
    assert localisation.measure_table('box').count('–')==len(KINDS)*len(HOWS)

def below(c): return c.rule.startswith('below')

@pytest.mark.parametrize('sign', (1, -1))
def test_verdicts_follow_the_sign(made, sign):
    made(signed(sign))
    for c in (*localisation.published_claims(), *localisation.angular_claims()):
        if c.here=='not run yet': continue # of people
        assert c.holds==('yes' if (sign>0)!=below(c) else 'no'), c
    assert sum(map(below, localisation.published_claims()))==1 # PaS
    told = localisation.summary()
    assert (' higher than under min-max (+3.0 [+2.5, +3.5] points)' in told)==(sign>0)
    assert (' lower than under min-max (-3.0 [-3.5, -2.5] points)' in told)==(sign<0)
    assert ('every map has a lower PxAP than the Gaussian' in told and 'not every' not in told)==(sign<0)
    assert ('lies less within' in told)==(sign>0) and ('lies more within' in told)==(sign<0)

def test_an_interval_that_holds_0_is_open(made):
    made(lambda name: .001 if ' - ' in name or 'gain' in name or 'votes' in name else .5, half=.05)
    assert {c.holds for c in localisation.published_claims()}=={'open'}
    assert 'not clearly different from' in localisation.summary() and 'lies no differently in' in localisation.summary()

def test_chosen_and_default_parameters_may_answer_differently(made):
    made(lambda name: signed(-1 if name.endswith(' published') else 1)(name))
    boxes = localisation.published_claims()[0]
    assert boxes.holds=='mixed' and 'p chosen +3.0' in boxes.here and 'p by default -3.0' in boxes.here

def test_estimates_are_means_over_splits_of_the_ends_too(made):
    made(lambda name: .2, half=.1)
    assert localisation.estimate('pxap cam ivr')==pytest.approx((20, 10, 30))
    assert localisation.estimate('auc cam shape', factor=1)==pytest.approx((.2, .1, .3))

def test_tables_and_figures(made, monkeypatch):
    shown = []
    monkeypatch.setattr(localisation, 'figure', lambda *a, **k: shown.append(a) or real(*a, **k))
    real = __import__('avh_nb.report.plots', fromlist=['figure']).figure
    made(lambda name: .5)
    assert localisation.measure_table('pxap').count('50.0<br>[49.5, 50.5]')==len(KINDS)*len(HOWS)
    assert '[' not in localisation.measure_table('pxap', ' published', whole=False)
    assert localisation.baselines().count('50.0')==2*len(MEASURES)
    for draw in (localisation.draw_measures, localisation.draw_parameter, localisation.draw_seen): draw()
    assert len(shown)==3

def test_published_differences_are_those_of_the_table():
    gain,sets = localisation_published.gain,localisation_published.SETS
    assert [gain('IVR', 'min-max', s) for s in sets]==['+1.82', '+3.16', '+0.61']
    assert gain('CAM', 'centre Gaussian', sets[2])=='+14.2'
    means = np.array(list(localisation_published.PUBLISHED.values()))
    assert means.argmax(0).tolist()==[3, 3, 1] # IVR twice, max on OpenImages
    assert {c.holds for c in localisation_published.not_tested()}=={'not tested here'}
