"Networks that have seen ImageNet: categories of many classes, what decides whether the angle wins, and which score is chosen."
import json, math
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from avh_nb.data.sets import available
from avh_nb.paper import conditions, lite, people, predictors
from avh_nb.report.records import read_records
from avh_nb.stats.correlation import Interval, spearman

g = torch.Generator().manual_seed(0)

def angle(u, v): return math.acos(max(-1, min(1, float(u@v/(u.norm()*v.norm())))))

@pytest.mark.parametrize('vectors', lite.VECTORS)
def test_categories_by_a_slow_loop(vectors):
    x,w,b = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((6, 5), (7, 5), (7,)))
    of = [[0], [1, 2], [3, 4, 5, 6]]
    a,z = lite.of_categories(x, w, b, of, vectors)
    for i,f in enumerate(x):
        for k,classes in enumerate(of):
            each = [angle(f, w[c]) for c in classes]
            logits = [float(f@w[c]+b[c]) for c in classes]
            expected = dict(mean=(angle(f, w[classes].mean(0)), sum(logits)/len(logits)), nearest=(min(each), max(logits)),
                each=(sum(each)/len(each), math.log(sum(map(math.exp, logits)))))[vectors]
            assert (float(a[i, k]), float(z[i, k]))==pytest.approx(expected, abs=1e-6)

def test_a_category_of_the_same_class_twice_is_that_class():
    "The mean does not count how many classes a category has; a sum of angles would"
    x,w,b = torch.randn(4, 6, generator=g),torch.randn(3, 6, generator=g),torch.zeros(3)
    for v in ('mean', 'nearest', 'each'):
        once,_ = lite.of_categories(x, w, b, [[0], [1], [2]], v)
        twice,_ = lite.of_categories(x, torch.cat([w, w]), torch.cat([b, b]), [[0, 3], [1], [2]], v)
        assert torch.allclose(once, twice, atol=1e-6)

@pytest.fixture
def short(monkeypatch):
    "Heads that are fitted in fewer steps"
    monkeypatch.setattr(lite, 'fit_head', lambda *args, f=lite.fit_head: f(*args, steps=100))

def test_the_head_is_chosen_on_images_that_it_was_not_fitted_to(short):
    "With labels that are noise no decay helps on others, while on its own images the weakest would win"
    x,y = torch.randn(300, 40, generator=g),torch.randint(3, (300,), generator=g)
    *_,decay = lite.chosen_head(x, y, 3, n=60)
    assert decay==max(lite.DECAYS)

def test_heads_differ_by_seed_and_by_number_of_images(short, monkeypatch):
    monkeypatch.setattr(lite, 'DECAYS', (0,))
    x,y = torch.randn(300, 8, generator=g),torch.randint(2, (300,), generator=g)
    one,other,few = (lite.chosen_head(x, y, 2, s, n)[0] for s,n in ((0, None), (1, None), (0, 20)))
    assert not torch.equal(one, other) and not torch.equal(one, few)
    assert torch.equal(one, lite.chosen_head(x, y, 2, 0)[0])

@pytest.mark.skipif(not available('cifar10', 'cifar10h', 'cue_conflict'), reason='no data')
def test_images_of_a_condition():
    rows,y,human,groups = conditions.asked(dict(images='cue', size=conditions.NATIVE, head='mean'))
    assert (len(rows), len(set(groups)))==(1280, 160)
    silhouettes = pd.DataFrame(dict(y=y, g=groups))
    assert (silhouettes.groupby('g').y.nunique()==1).all() # all pictures of a thing have its label
    for h in ('entropy', 'seconds'):
        _,_,said,_ = conditions.asked(dict(images='cue', human=h))
        assert 0<=said.min() and said.max()<=1 and spearman(said, human)>.05 # turned: high means easy
    whole,some = (conditions.asked(dict(images='test', **more)) for more in ({}, dict(only='animals', classes=10)))
    assert np.array_equal(whole[2][some[0]], some[2]) and set(some[1])=={2, 3, 4, 5, 6, 7}

# What the pages say is held against the records: these fail if the records stop supporting it

def test_what_decides_the_sign():
    zero,fitted = people.only_the_head()
    assert zero.low>0 and fitted.high<0
    assert people.with_accuracy().high<0
    few,every = people.fewer_images()
    assert few.high>every.high and not few.verdict()=='no'
    assert not any(people.turns(of) for of in people.alone().values())
    of = {c.text: c.holds for c in people.claims()}
    assert [h for t,h in of.items() if 'same features' in t or 'less accurate' in t]==['yes', 'yes']

def test_records_that_say_otherwise_change_the_claims(tmp_path, monkeypatch):
    "The mutant: records in which the fitted head is read like that of ImageNet"
    with open(tmp_path/'people.jsonl', 'w') as f:
        for r in read_records('people'):
            for k,v in list(r['metrics'].items()):
                if k.startswith('avh difference') and r['config']['head']=='fitted': r['metrics'][k] = abs(v)
            f.write(json.dumps(r)+'\n')
    before = [c.holds for c in people.claims()]
    monkeypatch.setenv('AVH_RESULTS', str(tmp_path))
    after = [c.holds for c in people.claims()]
    assert before[3]=='yes' and after[3]=='no' and before[:3]==after[:3]

def test_the_grid_has_three_networks_and_two_resolutions():
    of = [(c, m) for c,m in people.conditions() if c['images']=='cue' and 'only' not in c]
    assert len({c['size'] for c,_ in of})>=2 and {c['head'] for c,_ in of}==set(lite.VECTORS)
    for _,m in people.conditions():
        assert sum(k.startswith('accuracy lite') for k in m)==3
        for k in ('avh', 'confidence', 'norm'): assert m[f'{k} low']<=m[f'{k} rho']<=m[f'{k} high']
        assert m['things']<=m['images']

def test_a_condition_that_is_not_recorded_is_named():
    with pytest.raises(LookupError, match="people: .*'size': 7.* is not recorded; run `avh rebuild people`"):
        people.condition(images='cue', size=7, head='mean')

# Which score is chosen

@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=30))
def test_ranks_turn_and_share(values):
    low,high = predictors.ranks(values),predictors.ranks(values, 'high')
    assert np.allclose(low+high, 1+1/len(values)) and 0<low.min() and low.max()<=1

def test_neighbours_by_a_slow_loop():
    x,y,groups = torch.randn(30, 5, generator=g),torch.randint(3, (30,), generator=g),torch.randint(12, (30,), generator=g)
    u = x/x.norm(dim=1, keepdim=True)
    u = u-u.mean(0)
    u = u/u.norm(dim=1, keepdim=True)
    got = predictors.neighbours_agree(x, y, groups, k=4)
    for i in range(30):
        others = sorted((j for j in range(30) if groups[j]!=groups[i]), key=lambda j: -float(u[i]@u[j]))[:4]
        weights = [math.exp(10*float(u[i]@u[j])) for j in others]
        assert got[i]==pytest.approx(sum(w for w,j in zip(weights, others) if y[j]==y[i])/sum(weights), abs=1e-5)

def test_the_recipe_is_chosen_on_the_other_images(monkeypatch):
    "The mutant is the best of the images that are reported on, which is too good"
    def of(**values): return pd.Series({k: Interval(v, v-.1, v+.1) for k,v in sorted(values.items(), key=lambda kv: -kv[1])})
    monkeypatch.setattr(predictors, 'found', dict(cue=of(a=.5, b=.3), test=of(only=.9, b=.4, a=.2)).get)
    assert predictors.chosen('cue')==('a', Interval(.5, .4, .6), Interval(.2, .1, .2+.1))
    assert predictors.chosen('test')[0]=='b' # what only one of the two has cannot be chosen

def test_no_recipe_sees_what_people_said(monkeypatch):
    "Votes enter at the end alone: with other votes the recipes are the same"
    seen,values = [],np.arange(40)/40
    monkeypatch.setattr(predictors, 'of_network', lambda images, which, size: {})
    monkeypatch.setattr(predictors, 'recipes', lambda *a: dict(x=[values]))
    for human in (values, values[::-1]):
        monkeypatch.setattr(predictors, 'asked', lambda c, human=human: (None, None, human, None))
        seen.append(predictors.run(dict(images='cue'), 0)['x: rho'])
    assert seen==pytest.approx([1, -1])
