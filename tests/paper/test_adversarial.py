"The walk in numbers, by hand on made-up steps; the summary says what its records say."
import numpy as np, pytest
from avh_nb.paper import adversarial as study
from avh_nb.report.records import read_records
from avh_nb.stats.correlation import Interval

@pytest.mark.parametrize('low,high,word', [(.6, .7, 'yes'), (.3, .4, 'no'), (.4, .6, 'open')])
def test_judging_against_chance(low, high, word): assert Interval((low+high)/2, low, high).verdict(at=.5)==word

def made_up(n=60, steps=4, seed=0):
    "Images that cross at step 1, 2, ... or never, in turn; the first is wrong from the start"
    rng,source = np.random.default_rng(seed),np.zeros(n, int)
    when = np.arange(n)%steps+1
    when[0] = 0
    keys = ('angle_source', 'angle_target', 'norm', 'avh', 'avh_target', 'avh_predicted', 'angular_gap_predicted', 'confidence',
        'confidence_predicted', 'entropy')
    way = [{**{k: rng.random(n) for k in keys}, 'pred': np.where(s>=when, 1, 0)} for s in range(steps)]
    return way,source,np.ones(n, int),when

def test_a_summary_by_hand():
    way,source,target,when = made_up()
    got = study.summarise(way, source, target)
    right,won = when>0,(when>0) & (when<len(way))
    assert got['images']==59 and got['success']==got['at_target']==pytest.approx(won.sum()/59)
    for s in range(4):
        assert got[f'crossed step {s}']==pytest.approx((when[right]<=s).mean())
        assert got[f'norm step {s}']==pytest.approx(way[s]['norm'][right].mean())
    for k,hard in study.HARDNESS.items():
        sign = 1 if hard=='high' else -1
        clean,end = sign*way[0][k][won],sign*way[-1][k][won]
        across = sign*np.array([way[when[i]][k][i] for i in np.flatnonzero(won)])
        assert got[f'auroc end {k}']==pytest.approx((end[:, None]>clean).mean())
        assert got[f'auroc crossing {k}']==pytest.approx((across[:, None]>clean).mean())

def test_without_ten_winners_no_share_is_given():
    way,source,target,when = made_up(n=12) # three cross by the second step
    got = study.summarise(way[:2], source, target)
    assert not any(k.startswith('auroc') for k in got) and got['crossed step 1']>0
    assert np.isnan(study.over_families({'a': [got, got]}, 'auroc end avh')).all()

def test_records_are_read_by_attack_family_and_seed(monkeypatch):
    rows = [dict(study='adversarial', config={'arch': a, **attack}, seed=s, metrics=dict(success=i+j/10+s/100))
        for s in (1, 0) for j,a in enumerate(study.FAMILIES) for i,attack in enumerate(study.ATTACKS)]
    monkeypatch.setattr(study, 'recorded', lambda name, **wanted: [r for r in rows if wanted.items()<=r['config'].items()])
    study.of_attack.cache_clear()
    try:
        for i in range(4):
            assert [[m['success'] for m in ms] for ms in study.of_attack(i).values()]==[[i+j/10, i+j/10+.01] for j in range(4)]
        i = study.over_families(study.of_attack(2), 'success')
        half = .01/np.sqrt(2)*12.7062/np.sqrt(2) # Student's t for one degree of freedom
        assert i==pytest.approx((2.155, 2.155-half, 2.155+half), abs=1e-4)
        del rows[:16]
        study.of_attack.cache_clear()
        with pytest.raises(LookupError, match='fewer than 2 seeds'): study.of_attack(0)
    finally: study.of_attack.cache_clear()

def test_the_page_says_what_the_records_say():
    records = [r for r in read_records('adversarial') if r['config']['eps']=='8/255' and r['config']['attack']=='pgd']
    for claim,k in zip(study.claims(), ('avh', 'avh_predicted')):
        mean = np.mean([r['metrics'][f'auroc end {k}'] for r in records])
        assert claim.here.startswith(f'{mean:.2f} [') and claim.here in study.lead()+study.details()
