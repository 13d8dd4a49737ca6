"The study of attacks: what it says of made-up records, where they are few, and where a check fails."
import json, numpy as np, pytest
from avh_nb.beyond import robust
from avh_nb.beyond.attacked import CHECKS, EPS, checks

def made_up(operator, seed, **changed):
    "A network that withstands more where it is bounded, and hides nothing"
    rng,more = np.random.default_rng(seed),.1*(operator==robust.TANH)
    def noise(): return float(rng.normal(scale=.002))
    m = {'accuracy clean': .7, 'zero gradients': 0., 'accuracy pgd 0.5': 0., 'transfer over pgd': .3, 'square over pgd': .1}
    for e,share in zip(EPS, (.4, .1)):
        pgds = share+more+noise()
        m |= {f'accuracy fgsm {e}': pgds+.1+noise(), f'accuracy pgd {e}': pgds, f'accuracy dlr {e}': pgds-.005,
            f'accuracy scaled {e}': pgds}
    m |= {'median l2': .3*(1+5*more)+noise()/9, 'median linf': .02*(1+5*more)+noise()/99}
    m |= {'rho l2 avh': -.5+noise(), 'rho l2 confidence': .6+noise(), 'rho l2 margin': .8, 'rho l2 norm': .3}
    m |= {'avh before': .04, 'avh crossing': .07, 'avh end': .1, 'avh per 1/255': .01-.02*more+noise()/99}
    return {**m, **{k: v for k,v in changed.items()}}

@pytest.fixture
def write(tmp_path, monkeypatch):
    "Records of all runs of the grid, some of their numbers changed"
    monkeypatch.setenv('AVH_RESULTS', str(tmp_path))
    def records(seeds=3, part='all', change=lambda config, seed: {}):
        rows = [dict(study='robust', config=c, seed=s, seconds=1., device='none', metrics=made_up(c['operator'], s, **change(c, s)))
            for c,s in robust.grid(seeds, part)]
        (tmp_path/'robust.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in rows))
    return records

def holds(): return [c.holds for c in robust.claims()]

def test_nothing_recorded(write, tmp_path):
    assert {(c.here, c.holds) for c in robust.claims()}=={('not run yet', 'open')}
    assert 'Not run yet' in robust.summary() and 'robust' not in robust.summary()
    assert robust.check_table()=='Not run yet.' and robust.draw_accuracies() is robust.draw_norms() is None

def test_one_seed_decides_nothing(write):
    write(1)
    assert set(holds()[:4])=={'open'} and 'not run yet' in robust.summary().lower()

def test_all_is_said_where_all_is_clear(write):
    write()
    assert holds()==['yes']*10+['no', 'yes']
    here = [c.here for c in robust.claims()]
    assert float(here[0].split()[0])==pytest.approx(10, abs=.6) and float(here[5].split()[0])==pytest.approx(1.5, abs=.05)
    assert here[4]=='7 of 7' and 'so it may be called more robust' in robust.summary()
    assert 'less clearly than confidence' in robust.summary() and 'climbs more slowly than' in robust.summary()

@pytest.mark.parametrize('name,value', [('zero gradients', .3), ('accuracy pgd 0.5', .2), ('transfer over pgd', -.1),
    ('square over pgd', -.1), ('accuracy dlr 8/255', .05), ('accuracy scaled 2/255', .2), ('accuracy fgsm 8/255', .01)])
def test_one_check_of_one_seed_takes_the_word_away(write, name, value):
    write(change=lambda c, s: {name: value} if (c['operator'], s)==(robust.TANH, 1) else {})
    assert holds()[4]=='no' and robust.claims()[4].here.startswith('6 of 7; not passed: ')
    assert 'nothing is said of being robust' in robust.summary() and 'called more robust' not in robust.summary()
    assert len(robust.failed(robust.TANH))==1 and robust.checked(robust.TANH)[robust.failed(robust.TANH)[0]]==(2, 3)

def test_a_gain_under_fgsm_alone_is_not_called_robust(write):
    write(change=lambda c, s: {f'accuracy {a} {e}': .1 for a in ('pgd', 'dlr', 'scaled') for e in EPS})
    assert holds()[0]==holds()[2]=='yes' and holds()[1]==holds()[3]=='open' and holds()[4]=='yes'
    assert 'it is not more robust' in robust.summary()

def test_checks_that_were_not_made_do_not_pass(write):
    write(change=lambda c, s: {})
    m = made_up(robust.INNER, 0)
    del m['square over pgd']
    assert len(checks(m))==len(CHECKS)-1 and all(checks(m).values())

def test_parts_are_apart(write):
    write(change=lambda c, s: {'accuracy pgd 8/255': .9} if c['part']=='fgsm training' and c['training']=='natural' else {})
    assert float(robust.claims()[8].here.split()[0])==pytest.approx(10, abs=.6)
    assert '–' not in robust.number_table({o: robust.of(o) for o in (robust.INNER, *robust.COSINE)}, {'clean': 'accuracy clean'})
    with pytest.raises(ValueError, match='part: expected one of all, attacks, fgsm training'): robust.grid(part='none')

def test_the_networks_are_those_of_the_other_study(monkeypatch):
    "Asked for under the configuration that they have there; the inner product for its examples, but not for its own"
    asked,given = [],[]
    monkeypatch.setattr('avh_nb.beyond.attacked.trained', lambda study, config, seed, device: asked.append((study, config, seed)) or Net())
    monkeypatch.setattr(robust, 'attack_metrics', lambda net, normalise, images, seed, sizes, other=None, squares=0:
        given.append((other is not None, squares)) or {})
    monkeypatch.setattr(robust, 'cifar10', lambda split: None)
    monkeypatch.setattr(robust, 'Normalise', lambda images: None)
    class Net:
        def float(self): return self
    for c,s in robust.grid(1, 'attacks'): robust.run(c, s)
    theirs = [('decoupled', c, s) for c,s in robust.NETWORKS.grid(1, 'normalised')]
    assert [a for i,a in enumerate(asked) if i==0 or i%2]==theirs and set(map(str, asked[2::2]))=={str(theirs[0])}
    assert given==[(False, 200), *[(True, 200*(c['operator']==robust.TANH)) for c,_ in robust.grid(1, 'attacks')[1:]]]
