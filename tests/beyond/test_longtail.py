"Long tails: what the study says of made-up records, where there are none, few, and of two lengths; and the published arithmetic."
import json, re, numpy as np, pytest
from avh_nb.beyond import longtail, longtail_published
from avh_nb.beyond.longtail import LOSSES, REPAIRED, of

COUNTS = 5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50
GAINS = {'CE': 0, 'CB-CE': 2, 'CB-CE by weights': 0, 'sigmoid': -1, 'CB-sigmoid': 1, 'CB-focal': 2, 'LDAM': 3, 'CE-DRW': 4, 'LDAM-DRW': 6,
    'AVH': 1, 'AVH-LDAM': 2, 'AVH, s = 30': 1, 'AVH-LDAM, s = 30': 5, 'AVH-LDAM-DRW, s = 30': 6,
    'joint': 0, 'cRT': 5, 'as they come': 1, 'LWS': 2, 'tau': 3, 'tau 1': 2, 'NCM': 1, 'NCM by cosine': 1, 'probe': 15} # points

def made_up(config, seed, more=0.):
    "Seeds differ far more than configurations; the rarer a class, the lower its recall"
    rng = np.random.default_rng([seed, len(str(config))])
    gain = GAINS[config.get('head', config['loss'])]+more
    if config['part']=='mild': gain /= 2
    if config.get('head')=='probe': gain -= 3*(config['loss']=='CB-CE')
    counts = COUNTS[::-1] if 'order' in config else 10*[1240] if config['part']=='equal' else COUNTS
    return dict(accuracy=.6+.05*seed+gain/100+rng.normal(scale=.0005), tau=.9,
        **{f'recall_{c}': .3+.1*np.log10(n)+gain/100 for c,n in enumerate(counts)}, **{f'count_{c}': n for c,n in enumerate(counts)})

@pytest.fixture
def write(tmp_path, monkeypatch):
    "Records of the whole grid but for some, some of them with more points"
    monkeypatch.setenv('AVH_RESULTS', str(tmp_path))
    def records(more=lambda config, seed: 0, keep=lambda config, seed: config['part']!='published'):
        "Adds points, and leaves runs out"
        runs = longtail.grid()
        long = dict(part='published', network='ResNet-32', epochs=200)
        asked = {c['loss'] for c,_ in runs if c['part']=='published'} # others are trained where there is more compute
        runs += [({**longtail.config_of(n), **long}, s) for n in PUBLISHED if n not in asked for s in range(3)]
        rows = [dict(study='longtail', config=c, seed=s, metrics=made_up(c, s, more(c, s)), seconds=1., device='none')
            for c,s in runs if keep(c, s)]
        (tmp_path/'longtail.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in rows))
    return records

PUBLISHED = 'CE', 'CB-CE', 'CE-DRW', 'LDAM-DRW'
TEXTS = {'weights': 'with class-balanced weights', 'sigmoid': 'so is sigmoid', 'imbalance': 'at an imbalance of 100 than at 10',
    'normaliser': 'divided by the number', 'LDAM': 'LDAM is more', 'both': 'than both', 'late': 'come in late', 'cRT': '(cRT)',
    'tau': '(τ)', 'LWS': '(LWS)', 'NCM': '(NCM)', 'draws': 'due to the balanced draws',
    'angle': 'the AVH loss is more', 'features': 'better features'}

def judged():
    "Key of TEXTS to its claim"
    found = longtail.published_claims()
    assert len(found)==len(TEXTS)
    return {k: next(c for c in found if words in c.text) for k,words in TEXTS.items()}

def test_nothing_recorded(write, tmp_path):
    assert {(c.here, c.holds) for c in longtail.claims() if c.holds!='not tested here'}=={('not run yet', 'open')}
    assert 'Not run yet' in longtail.summary() and longtail.draw_points() is longtail.draw_recall() is None
    assert '–' in longtail.gain_table({'a': of('CE')}, of('CE')) and longtail.PEOPLE.runs()==[]

def test_each_claim_has_its_own_difference(write):
    write()
    for c,points in zip(judged().values(), (2, 2, 1, 2, 3, 6, 2, 5, 3, 2, 1, 4, 4, 3)):
        assert c.holds=='yes', c
        assert float(re.search(r'[+-]\d+\.\d', c.here)[0])==pytest.approx(points, abs=.2), c
    assert 'over LDAM +' in judged()['both'].here

def test_claims_are_no_where_it_is_the_other_way_round(write):
    write(lambda c, s: -2*GAINS[c.get('head', c['loss'])]+(9 if c.get('head')=='probe' and c['loss']=='CB-CE' else 0))
    found = {k: c.holds for k,c in judged().items()}
    assert found.pop('normaliser')=='yes' # it matters, the other way round
    assert set(found.values())=={'no'}, found
    for words in ('does not help', 'gives worse features', 'none of the heads'): assert words in longtail.summary()

def test_noise_and_one_seed_are_open(write):
    write(lambda c, s: 9*(s-1)*(c['loss'] in ('LDAM', 'CB-CE') or c.get('head')=='cRT'))
    found = judged()
    assert found['LDAM'].holds==found['cRT'].holds=='open' and 'does not clearly help' in longtail.summary()
    write(keep=lambda c, s: s==0)
    assert {c.here for c in judged().values()}=={'not run yet'}
    assert longtail.gain_table({'CE': of('CE'), 'LDAM': of('LDAM')}, of('CE')).splitlines()[-1].split(' | ')[-2:]==['–', '1 |']

def test_a_normaliser_that_changes_nothing_does_not_matter(write):
    write(lambda c, s: 2*(c['loss']=='CB-CE by weights'))
    assert judged()['normaliser'].holds=='no' and 'It hardly matters' in longtail.summary()

def test_both_lengths_have_to_bear_a_claim_out(write):
    write(keep=lambda c, s: True)
    c = judged()['weights']
    assert c.holds=='yes' and c.here.startswith('25 epochs +') and '; 200 epochs +' in c.here
    c = judged()['both'] # LDAM itself is not trained for 200 epochs
    assert [words.split(' +')[0] for words in c.here.split('; ')]==['over CE, 25 epochs', 'over LDAM, 25 epochs', 'over CE, 200 epochs']
    write(lambda c, s: -4*(c['part']=='published' and c['loss']=='CB-CE'), keep=lambda c, s: True)
    found = judged()
    assert found['weights'].holds=='mixed' and found['cRT'].here.startswith('+')
    assert 'helps only in part' in longtail.summary()

def test_one_long_seed_is_not_counted(write):
    write(keep=lambda c, s: c['part']!='published' or s==0)
    assert 'epochs' not in judged()['weights'].here

def test_of_both_rivals_both_have_to_be_recorded(write):
    write(keep=lambda c, s: c['loss']!='LDAM' and c['part']!='published')
    assert judged()['both'].here=='not run yet'

def test_a_long_run_does_not_stand_in_for_the_short_ones(write):
    write(keep=lambda c, s: c['part']=='published')
    assert judged()['weights'].here=='not run yet' and longtail.draw_points() is None

def test_head_and_tail_follow_the_images_not_the_class_numbers():
    straight,reversed_ = (made_up(dict(part='reversed', loss='CE', **order), 0) for order in ({}, dict(order='reversed')))
    assert longtail.by_frequency(straight)==pytest.approx(longtail.by_frequency(reversed_))
    s = longtail.shots(reversed_)
    assert s['head']>s['middle']>s['tail'] and s['tail']==pytest.approx(100*np.mean([reversed_[f'recall_{c}'] for c in (0, 1, 2)]))
    assert np.average(list(s.values()), weights=(3, 4, 3))==pytest.approx(np.mean(longtail.by_frequency(straight)))

@pytest.mark.parametrize('interval,word', [((2, 1, 3), 'yes'), ((-2, -3, -1), 'yes'), ((.4, .3, .5), 'yes'), ((0, -.9, .9), 'no'),
    ((0, -1.1, .9), 'open'), ((0, -.9, 1.1), 'open')])
def test_what_matters(interval, word): assert longtail.matters(longtail.Interval(*interval))==word

def test_the_summary_compares_networks_of_one_length(write):
    write()
    runs = longtail.PEOPLE.runs()
    assert {c['change'] for c,_ in runs}=={'CB-CE', 'LDAM-DRW', 'cRT', 'equal'} and all(s[:3]==[0, 1, 2] for _,s in runs)

def test_what_is_not_tested_says_why():
    rows = [c for c in longtail.claims() if c.holds=='not tested here']
    assert len(rows)==5 and all(c.here and c.published for c in rows)

def test_every_name_is_one_configuration():
    for name in (*LOSSES, *REPAIRED): assert of(name).items()<=longtail.config_of(name).items()
    assert len({json.dumps([c, s], sort_keys=True) for c,s in longtail.grid()})==len(longtail.grid())

# The published tables

def slow_gains(classes):
    "Without pandas: of five losses at each imbalance, unweighted minus beta = 0.9999"
    numbers = [w for w in longtail_published.CLASS_BALANCED[classes].split()]
    blocks = [numbers[i:i+26] for i in range(0, len(numbers), 26)]
    return {int(b[0][:-1]): sum(float(b[1+5*k])-float(b[5+5*k]) for k in range(5))/5 for b in blocks}

@pytest.mark.parametrize('classes', [10, 100])
def test_gains_at_a_fixed_beta(classes):
    g = longtail_published.gains(classes=classes)
    assert dict(g)==pytest.approx(slow_gains(classes)) and list(g.index)==[200, 100, 50, 20, 10]
    assert all(.1<e<80 for e in longtail_published.errors(classes).to_numpy().ravel())

def test_chance_and_the_best_of_twenty():
    e = longtail_published.errors()
    assert longtail_published.chance()==pytest.approx(np.sqrt(np.mean([(e.loc[i, .9]-e.loc[i, 0])**2/2 for i in e.index])))
    assert longtail_published.best_of().best.tolist()==[31.11, 25.43, 20.73, 15.64, 12.51]
    assert longtail_published.best_of(100).best.tolist()==[63.77, 60.40, 54.68, 47.41, 42.01]
    assert longtail_published.gains(0).abs().max()==0

def test_points_are_differences_from_cross_entropy():
    points = longtail_published.published_points()
    assert points['LDAM-DRW']-points['LDAM']==pytest.approx(26.65-22.97) and set(points)<={*LOSSES, *REPAIRED}
    assert points['CE-DRW']-points['CB-CE']==pytest.approx(27.63-25.14)
