"The five tests on made-up trainings whose answer is known; and the committed records."
import json
from pathlib import Path
import numpy as np, pandas as pd, pytest
from avh_nb.paper import adversarial, degradation, dynamics
from avh_nb.paper.families import ONE_CYCLE, STEPS, curves, run_name
from avh_nb.report.records import read_records
from avh_nb.stats.correlation import Interval

ROOT = Path(__file__).parents[2]

def way(t, time): return (1-np.exp(-t/time))/(1-np.exp(-t[-1]/time))

def made_up(folder, avh_time, accuracy_time, norm_rate, norm_rho, order=1):
    "Records and per-epoch tables in which AVH and accuracy approach their end with these time constants"
    (folder/'traces').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for study,configs in (('dynamics', STEPS), ('human', ONE_CYCLE)):
        with open(folder/f'{study}.jsonl', 'w') as f:
            for n,config in enumerate(configs.values()):
                for seed in range(3):
                    f.write(json.dumps(dict(study=study, config=config, seed=seed, metrics={}))+'\n')
                    t = np.arange(config['epochs']+1)/15*30
                    wiggle = 1+.002*rng.normal()
                    of = dict(
                        avh=.1-(.03+.002*order*n)*way(t, avh_time)*wiggle,
                        correct=.1+(.6+.05*n)*way(t, accuracy_time)*wiggle,
                        loss=2.3-way(t, accuracy_time)*wiggle,
                        norm=5*np.exp(norm_rate*t)*wiggle,
                        angle=1.5-.4*way(t, avh_time))
                    rho = dict(avh=.3*way(t, 2)+.01*rng.normal(), norm=norm_rho*way(t, 2)+.001*rng.normal())
                    rows = [dict(epoch=e, score=k, rho=rho[k][e] if k in rho else np.nan, mean=v[e],
                        **{f'bin {b}': v[e]*(1+b/50) for b in range(1, 6)}) for k,v in of.items() for e in range(len(t))]
                    if study=='dynamics': rows += [dict(epoch=e, score='train_loss', mean=of['loss'][e]) for e in range(1, len(t))]
                    else: rows = [r for r in rows if r['epoch']>0]
                    pd.DataFrame(rows).to_parquet(folder/'traces'/f'{run_name(config, seed)}_epochs.parquet')

@pytest.fixture
def verdicts(tmp_path, monkeypatch):
    def of(criterion=.95, **kwargs):
        curves.cache_clear()
        monkeypatch.setenv('AVH_RESULTS', str(tmp_path/'r'))
        made_up(tmp_path/'r', **kwargs)
        return [d.holds for d in dynamics.discoveries(criterion)]
    yield of
    curves.cache_clear()

def test_a_training_as_the_paper_tells_it(verdicts):
    assert verdicts(avh_time=2, accuracy_time=6, norm_rate=.01, norm_rho=-.02)==['yes', 'yes', 'yes', 'yes', 'yes']

def test_a_training_that_is_the_contrary(verdicts):
    assert verdicts(avh_time=6, accuracy_time=2, norm_rate=-.01, norm_rho=.2, order=-1)==['no', 'no', 'no', 'yes', 'no']

def test_the_criterion_moves_the_table(verdicts, tmp_path):
    verdicts(avh_time=2, accuracy_time=6, norm_rate=.01, norm_rho=0)
    a,b = dynamics.verdict_table(.95),dynamics.verdict_table(.9)
    assert '95% of its total change' in a and '90% of its total change' in b
    differing = [i for i,(x,y) in enumerate(zip(a.splitlines(), b.splitlines())) if x!=y and x.startswith('| ')]
    assert differing==[2] # of the rows, the first alone
    p = {c: dynamics.plateaus(c).avh.mean() for c in (.9, .95)}
    # 1-exp(-t/2) has gone 95 % of its way at t = 2 log 20, 90 % at 2 log 10, of 30
    q = dynamics.plateaus(.95).query('schedule=="steps"')
    assert q.avh.mean()==pytest.approx(2*np.log(20)/30, abs=.02) and q.correct.mean()==pytest.approx(6*np.log(20)/30,
        abs=.03) and p[.9]<p[.95]

@pytest.mark.parametrize('intervals,word', [([(.1, .2), (.3, .4)], 'yes'), ([(-.2, -.1)], 'no'), ([(.1, .2), (-.1, .2)], 'mixed'),
    ([(.1, .2), (-.2, -.1)], 'mixed'), ([(-.1, .2), (-.2, .1)], 'open')])
def test_both_schedules_have_to_agree(intervals, word):
    of = {i: Interval((low+high)/2, low, high).verdict() for i,(low,high) in enumerate(intervals)}
    assert dynamics.Discovery('', '', '', '', {}, of).holds==word

@pytest.mark.parametrize('order,p', [((0, 1, 2, 3), 1/24), ((1, 0, 2, 3), 4/24), ((1, 0, 3, 2), 9/24), ((3, 2, 1, 0), 1)])
def test_exact_p_counts_orders(order, p):
    "Of 24 orders 1, 3, 5, 6, 5, 3, 1 have 0 to 6 pairs out of order"
    avh = np.arange(4.)
    tau,found,reverse = dynamics.exact_p([-avh]*3, [avh[list(order)]]*3)
    wrong = sum(order[i]>order[j] for i in range(4) for j in range(i+1, 4))
    assert tau==pytest.approx(1-wrong/3) and found==pytest.approx(p)
    assert reverse==pytest.approx(sum((1, 3, 5, 6, 5, 3, 1)[wrong:])/24)

def test_seeds_do_not_make_more_of_four_families():
    "Ten seeds in the same order say no more than one"
    avh = np.array([.1, .2, .3, .4])
    assert dynamics.exact_p([avh], [-avh])==dynamics.exact_p([avh]*10, [-avh]*10)

def test_the_sentence_for_whatever_is_found(verdicts):
    verdicts(avh_time=2, accuracy_time=6, norm_rate=.01, norm_rho=-.02)
    assert dynamics.answer().startswith("**Of the paper's five discoveries about training, all five hold here: AVH levels off")

def test_the_sentence_for_the_contrary(verdicts):
    verdicts(avh_time=6, accuracy_time=2, norm_rate=-.01, norm_rho=.2, order=-1)
    assert 'training, one holds here: AVH follows people' in dynamics.answer() and 'four do not hold: AVH levels' in dynamics.answer()

def test_claims_are_those_of_the_table(verdicts):
    found = verdicts(avh_time=2, accuracy_time=6, norm_rate=.01, norm_rho=-.02)
    assert [c.holds for c in dynamics.claims()]==found
    table = dynamics.verdict_table()
    for c in dynamics.claims():
        assert c.text.split(': ', 1)[1] in table and c.here.split(': ', 1)[1].replace('; ', '<br>') in table

def test_committed_records_are_whole():
    for study,module in (('dynamics', dynamics), ('degradation', degradation), ('adversarial', adversarial)):
        records = read_records(study, ROOT/'results')
        assert {json.dumps([r['config'], r['seed']]) for r in records}=={json.dumps([c, s]) for c,s in module.grid(3)}, study
        for r in records:
            assert r['commit'] and not r['commit'].endswith('+changes') and {'device', 'versions', 'time', 'seconds'}<=r.keys()
    for r in read_records('dynamics', ROOT/'results'):
        assert r['metrics']['selection']=='last epoch'
        t = pd.read_parquet(ROOT/'results'/r['metrics']['trace'])
        last = t[t.epoch==r['config']['epochs']].set_index('score')['mean']
        assert abs(last['correct']-r['metrics']['accuracy'])<1e-9 and abs(last['loss']-r['metrics']['test_loss'])<1e-5
        assert abs(last['train_loss']-r['metrics']['train_loss'])<1e-9

def test_records_of_three_studies_speak_of_the_same_networks():
    "The clean images of degradation and the start of the walk are those of the last epoch of dynamics"
    accuracy = {(r['config']['arch'], r['seed']): r['metrics']['accuracy'] for r in read_records('dynamics', ROOT/'results')}
    for r in read_records('degradation', ROOT/'results'):
        assert r['metrics']['accuracy level 0']==pytest.approx(accuracy[r['config']['arch'], r['seed']], abs=2e-3)
    for r in read_records('adversarial', ROOT/'results'):
        assert r['metrics']['images']/2000==pytest.approx(accuracy[r['config']['arch'], r['seed']], abs=.03)

def test_harder():
    "AUROC by counting pairs"
    rng = np.random.default_rng(0)
    clean,now = ({k: rng.normal(size=50)+shift for k in adversarial.HARDNESS} for shift in (0, .5))
    which = rng.random(50)<.6
    got = adversarial.harder(clean, now, which)
    for k in adversarial.HARDNESS:
        sign = -1 if k in ('confidence_predicted', 'norm') else 1
        pairs = sign*now[k][which][:, None]>sign*clean[k][which][None]
        assert got[k]==pytest.approx(pairs.mean())

def test_degradation_claims_on_made_up_records(monkeypatch):
    def of(avh, confidence):
        return {d: [{'avh mean': avh+s, 'avh median': avh+s, 'confidence mean': confidence} for s in (0, .001, .002)] for d in ('blur',
            'noise')}
    def holds(*args):
        monkeypatch.setattr(degradation, 'by_degradation', lambda: of(*args))
        return [c.holds for c in degradation.claims()]
    assert [holds(*m) for m in ((.5, .2), (.5, .8), (.5, .501), (-.1, -.2))]==[['yes', 'yes'], ['yes', 'no'], ['yes', 'open'],
        ['no', 'yes']]
