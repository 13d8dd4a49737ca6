"Shape bias, scores of two cues and heads out of fold: against slow references, and against what would go wrong."
import math, numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from avh_nb.beyond import cue_answers as cues
from avh_nb.stats.correlation import interval

def slow_bias(shape, texture, groups, n_boot, seed):
    "Networks, draws and groups one after the other"
    ids = sorted(set(groups))
    rng = np.random.default_rng(seed)
    drawn,networks = rng.integers(0, len(ids), (n_boot, len(ids))),rng.integers(0, len(shape), (n_boot, len(shape)))
    def share(network, some):
        s = sum(v for g in some for v,of in zip(shape[network], groups) if of==g)
        t = sum(v for g in some for v,of in zip(texture[network], groups) if of==g)
        return s/(s+t)
    draws = [np.mean([share(k, [ids[g] for g in some]) for k in nets]) for some,nets in zip(drawn, networks)]
    return np.mean([share(k, ids) for k in range(len(shape))]),*interval(np.array(draws))

def test_shape_bias_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 7, 40)*3
    shape,texture = rng.integers(0, 5, (3, 40)),rng.integers(1, 4, (3, 40))
    np.testing.assert_allclose(cues.shape_bias(shape, texture, groups, 50, 4), slow_bias(shape, texture, groups, 50, 4))
    np.testing.assert_allclose(cues.shape_bias(shape[0], texture[0], groups, 50), slow_bias(shape[:1], texture[:1], groups, 50, 0))

def test_images_of_one_silhouette_are_drawn_together():
    "As if each image were independent, the interval is too narrow"
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(100), 8)
    shape = np.repeat(rng.random(100)<.3, 8) # all images of a silhouette are seen alike
    together,apart = (cues.shape_bias(shape, ~shape, g) for g in (groups, np.arange(800)))
    assert together.mean==apart.mean and together.high-together.low>2*(apart.high-apart.low)

def test_other_networks_widen_the_interval():
    rng = np.random.default_rng(2)
    shape = np.stack([rng.random(400)<p for p in (.1, .5, .9)])
    all_three,one = cues.shape_bias(shape, ~shape, np.arange(400)),cues.shape_bias(shape[1], ~shape[1], np.arange(400))
    assert all_three.high-all_three.low>3*(one.high-one.low)

def test_answers_that_name_neither_do_not_count():
    shape,texture = np.array([1, 0, 0, 0, 1, 0]),np.array([0, 1, 0, 0, 0, 1])
    assert cues.shape_bias(shape, texture, np.arange(6)).mean==.5
    keep = shape+texture>0
    assert cues.shape_bias(shape[keep], texture[keep], np.arange(keep.sum())).mean==.5
    assert np.isfinite(cues.shape_bias(shape, texture, np.arange(6))).all() # though some draws have no such answer

@given(st.integers(0, 10**6), st.integers(3, 8))
@settings(max_examples=25, deadline=None)
def test_scores_are_those_of_their_formulas(seed, k):
    g = torch.Generator().manual_seed(seed)
    x,w,b = torch.randn(6, 5, generator=g).double(),torch.randn(k, 5, generator=g).double(),torch.randn(k, generator=g).double()
    shape = torch.randint(0, k, (6,), generator=g)
    texture = (shape+torch.randint(1, k, (6,), generator=g))%k
    a,z = cues.angles(x, w),x@w.T+b
    s = cues.cue_scores(a, z, x.norm(dim=1), shape, texture)
    assert set(s)=={*cues.FOLLOW}-{'confidence_1000'}
    for i in range(6):
        of = [math.acos(max(-1, min(1, float(x[i]@v/x[i].norm()/v.norm())))) for v in w]
        y,t = int(shape[i]),int(texture[i])
        e = [math.exp(float(v)) for v in z[i]]
        rest = sum(math.pi-v for v in of)
        expected = dict(avh=of[y]/sum(of), avc=(math.pi-of[y])/rest, angle=of[y], confidence=e[y]/sum(e), norm=float(x[i].norm()),
            prefers_angle=of[t]-of[y], prefers_avc=(math.pi-of[y])/(2*math.pi-of[y]-of[t]), prefers_softmax=e[y]/(e[y]+e[t]))
        for name,v in expected.items(): assert float(s[name][i])==pytest.approx(v, rel=1e-5, abs=1e-6), name

def test_lengths_move_softmax_alone():
    g = torch.Generator().manual_seed(0)
    x,w = torch.randn(30, 6, generator=g).double(),torch.randn(4, 6, generator=g).double()
    shape = torch.arange(30)%4; texture = (shape+1)%4
    def of(w, x=x): return cues.cue_scores(cues.angles(x, w), x@w.T, x.norm(dim=1), shape, texture)
    plain,long,far = of(w),of(w*torch.tensor([1., 2, 3, 4])[:, None]),of(w, 5*x)
    for name in plain:
        by_angle = name in ('avh', 'avc', 'angle', 'prefers_angle', 'prefers_avc')
        assert torch.allclose(plain[name], long[name])==(by_angle or name=='norm'), name
        assert torch.allclose(plain[name], far[name])==by_angle, name

def test_a_large_difference_of_logits_is_not_lost():
    z = torch.tensor([[30., 0, 0], [31, 0, 0]])
    s = cues.cue_scores(torch.full((2, 3), 1.), z, torch.ones(2), torch.zeros(2).long(), torch.ones(2).long())
    assert s['prefers_softmax'][0]<s['prefers_softmax'][1]<1 # in float32 both would be 1

@given(st.integers(2, 6), st.integers(1, 4), st.integers(2, 5), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_groups_are_dealt_evenly_and_whole(folds, categories, size, seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(categories*folds*2), rng.integers(1, size, categories*folds*2))
    category = groups//(2*folds)
    order = rng.permutation(len(groups))
    fold = cues.deal(groups[order], category[order], folds, seed)
    for g in set(groups): assert len(set(fold[groups[order]==g]))==1
    for c in range(categories):
        count = [len(set(groups[order][(fold==f) & (category[order]==c)])) for f in range(folds)]
        assert count==[2]*folds

@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(cues, 'STEPS', 60)
    monkeypatch.setattr(cues, 'TRIED', (1e-3,))

def test_a_head_has_not_seen_the_group_that_it_is_asked_of(quick):
    "Where the label is a property of the group alone, nothing can be known of a new group; folds by image would let it leak"
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 6)
    y = torch.from_numpy(np.repeat(rng.permutation(np.arange(40)%4), 6))
    x = torch.from_numpy(8*rng.normal(size=(40, 60))[groups]+.1*rng.normal(size=(240, 60))).float()
    by_group,by_image = cues.deal(groups, y.numpy(), 5),rng.permutation(240)%5
    def right(fold): return (cues.out_of_fold(x, y, fold)[1].argmax(1)==y).float().mean().item()
    assert right(by_group)<.45 and right(by_image)>.9

def test_angles_and_logits_come_from_the_same_head(quick):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(90)%3
    x = torch.randn(90, 6, generator=g)+4*torch.nn.functional.one_hot(y, 6)
    a,z = cues.out_of_fold(x, y, np.arange(90)//3%3)
    assert (a.argmin(1)==z.argmax(1)).float().mean()>.9 and (z.argmax(1)==y).float().mean()>.85
    assert a.min()>=0 and a.max()<=math.pi

def test_the_next_fold_chooses_the_decay(monkeypatch):
    "Never the fold that the head is asked of, and the head that is asked is fitted to all the others"
    fitted = []
    def fit(x, y, k, decay, steps):
        fitted.append((set(x[:, 0].long().tolist()), decay))
        return torch.zeros(k, 2)+decay*1e3,torch.arange(k)*(decay-2e-3)*1e3 # the middle decay is nearest to indifference
    monkeypatch.setattr(cues, 'fit_head', fit)
    fold = np.arange(40)%4
    x = torch.from_numpy(np.stack([fold, np.ones(40)], 1)).float()
    cues.out_of_fold(x, torch.arange(40)//4%2, fold)
    n = len(cues.TRIED)
    for f in range(4):
        tried,(last,decay) = fitted[f*(n+1):f*(n+1)+n],fitted[f*(n+1)+n]
        assert [d for _,d in tried]==list(cues.TRIED) and decay==1e-3
        assert all(seen=={0, 1, 2, 3}-{f, (f+1)%4} for seen,_ in tried) and last=={0, 1, 2, 3}-{f}
