"What a probe says of a sample is what a probe fitted without it says: held against refits, and against ways to get it wrong."
import inspect, math, warnings
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from reference import scores as slow_scores
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics import average_precision_score, roc_auc_score
from avh_nb.curate import duplicates, folds, probe, ridge
from avh_nb.curate.duplicates import duplicate_groups, exact_copies, group_ids, joined, near_copies, nearest
from avh_nb.curate.folds import fitted_temperature, logistic_folds
from avh_nb.curate.probe import out_of_sample, ridge_loo
from avh_nb.data.sets import digits

def data(n, d, c, seed=0, dtype=torch.float64):
    "Classes that overlap, away from the origin"
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n)%c
    x = torch.randn(n, d, generator=g, dtype=torch.float64)+1+2*torch.randn(c, d, generator=g, dtype=torch.float64)[y]/d**.25
    return x.to(dtype),y

def refit(x, y, n_classes, penalty):
    "Ridge regression by the normal equations: class vectors and intercepts"
    xb = np.c_[x, np.ones(len(x))]
    p = penalty*np.eye(xb.shape[1]); p[-1, -1] = 0
    wb = np.linalg.solve(xb.T@xb+p, xb.T@(2*np.eye(n_classes)[y]-1))
    return wb[:-1].T,wb[-1]

def by_refits(x, y, penalty, temperature, groups=None, samples=None):
    "Slow scores of each sample from a regression without its group"
    x,y,n_classes,rows = (x.double()-x.double().mean(0)).numpy(),y.numpy(),int(y.max())+1,[]
    groups = np.arange(len(y)) if groups is None else groups
    for i in range(len(y)) if samples is None else samples:
        keep = (groups!=groups[i]) & (y>=0)
        w,b = (t/temperature for t in refit(x[keep], y[keep], n_classes, penalty))
        z = w@x[i]+b
        label = y[i] if y[i]>=0 else z.argmax()
        row = slow_scores([x[i].tolist()], w.tolist(), [label], b.tolist())[0]
        others = np.delete(z, label)
        rows.append(row|dict(logit_margin=z[label]-others.max(), pred2=np.argsort(-z, kind='stable')[1], energy=-np.log(np.exp(z).sum()),
            probs=np.exp(z)/np.exp(z).sum()))
    return rows

def agree(out, rows, samples=None, eps=1e-8):
    samples = list(range(len(rows))) if samples is None else samples
    for name in rows[0]:
        got = out.probs if name=='probs' else getattr(out.scores, name)
        expected = torch.tensor(np.array([r[name] for r in rows]))
        torch.testing.assert_close(got[samples].double(), expected.double(), atol=1e-6 if name=='probs' else eps, rtol=eps)

# Ridge regression against refits

def test_three_hundred_refits():
    x,y = data(300, 40, 5)
    out = ridge_loo(x, y, ridge=3.)
    agree(out, by_refits(x, y, 3., out.temperature))
    w,b = refit((x-x.mean(0)).numpy(), y.numpy(), 5, 3.)
    torch.testing.assert_close(out.centre, x.mean(0))
    torch.testing.assert_close(out.w*out.temperature, torch.tensor(w), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(out.bias*out.temperature, torch.tensor(b), atol=1e-9, rtol=1e-9)
    assert (out.fold==-1).all() and out.repeats==1 and out.spread is None and out.scores.avh.dtype==torch.float64

@pytest.mark.parametrize('n,d,c', [(60, 90, 3), (50, 7, 2), (41, 40, 4)], ids=['fewer samples than dimensions', 'two classes', 'as many'])
def test_refits_with_groups_and_unknown_labels(n, d, c):
    x,y = data(n, d, c)
    groups = np.arange(n)
    groups[[3, 10]],groups[[5, 6, 7]],groups[20:28],groups[[1, 30]] = 3,5,20,1
    y[[0, 5, 21, 33]] = -1 # alone, in small groups, and alone again
    out = ridge_loo(x, y, ridge=.5, groups=groups)
    agree(out, by_refits(x, y, .5, out.temperature, groups))
    assert out.about['in_groups']==15 and out.about['labelled']==n-4

def test_large_groups_take_the_smaller_system():
    x,y = data(240, 10, 3)
    groups = np.repeat([0, 1, 2, 3], [60, 60, 60, 60]); y[[5, 70]] = -1 # of 60 members in 10 dimensions
    out = ridge_loo(x, y, ridge=2., groups=groups)
    agree(out, by_refits(x, y, 2., out.temperature, groups))
    x,y = data(120, 90, 3) # and in 90
    groups = np.repeat([0, 1, 2], 40)
    out = ridge_loo(x, y, ridge=2., groups=groups)
    agree(out, by_refits(x, y, 2., out.temperature, groups))

def test_imbalanced_classes_and_constant_features():
    x,y = data(200, 12, 4)
    keep = (y!=3) | (torch.arange(200)<16) # four of class 3
    x,y = x[keep].clone(),y[keep]
    x[:, 5] = 2.; x[:, 6] = 0.
    out = ridge_loo(x, y, ridge=1.)
    agree(out, by_refits(x, y, 1., out.temperature))
    assert (out.w[:, 5:7].abs()<1e-12).all()

def test_blocks_do_not_matter(monkeypatch):
    x,y = data(150, 12, 3)
    groups = np.arange(150)//2
    whole = ridge_loo(x, y, groups=groups)
    for page in (probe, ridge): monkeypatch.setattr(page, 'NUMBERS', 300) # a few rows
    small = ridge_loo(x, y, groups=groups)
    for (name,a),(_,b) in zip(whole.scores, small.scores): torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9, msg=name)

MUTANTS = { # in _few of ridge: what is there, what stands in its place, and a case that tells
    'leverage ignored': ('r = e/(1-inner)', 'r = e'),
    'intercept forgotten': ('inner = (h+1/b.n)', 'inner = h'),
    'outputs in-sample': ('LeftOut(f-combined(h+1/b.n), r)', 'LeftOut(f, r)'),
    'length in-sample': ('(r*(combined(torch', '0*(r*(combined(torch'),
    'length with a wrong sign': ('-2*(a@w)', '+2*(a@w)'),
    'mean forgotten': ('h+(a@middle)[:, None]', 'h'),
    'products in-sample': ('-combined(h+(a@middle)[:, None])', ''),
}

@pytest.mark.parametrize('name', MUTANTS)
def test_mutants_are_caught(name, monkeypatch):
    x,y = data(30, 6, 3); y[:8] = -1
    source = inspect.getsource(ridge._few)
    assert source.count(MUTANTS[name][0])==1
    space = dict(vars(ridge))
    exec(source.replace(*MUTANTS[name]), space)
    right = ridge_loo(x, y, ridge=1.)
    agree(right, by_refits(x, y, 1., right.temperature))
    monkeypatch.setattr(ridge, '_few', space['_few'])
    out = ridge_loo(x, y, ridge=1.)
    with pytest.raises(AssertionError): agree(out, by_refits(x, y, 1., out.temperature))

def test_unknown_members_that_count_are_caught(monkeypatch):
    x,y = data(30, 6, 3); y[1] = -1
    groups = np.arange(30); groups[1] = 0
    space = dict(vars(ridge))
    exec(inspect.getsource(ridge._few).replace('*(known[:, :, None] & known[:, None])', ''), space)
    monkeypatch.setattr(ridge, '_few', space['_few'])
    out = ridge_loo(x, y, ridge=1., groups=groups)
    with pytest.raises(AssertionError): agree(out, by_refits(x, y, 1., out.temperature, groups))

# What must hold of anything out of sample

@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), i=st.integers(0, 39), label=st.integers(0, 2))
def test_a_label_does_not_touch_its_own_judgement(seed, i, label):
    x,y = data(40, 6, 3, seed)
    groups = np.arange(40)//2
    other = y.clone(); other[i] = label
    for g,same in ((None, [i]), (groups, [i, i^1])): # itself, and its companion
        a,b = (ridge_loo(x, t, 3, ridge=1., groups=g) for t in (y, other))
        for name in ('pred', 'pred2', 'angle_pred', 'avh_pred'):
            torch.testing.assert_close(getattr(a.scores, name)[same], getattr(b.scores, name)[same], atol=1e-9, rtol=1e-9)

@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_order_and_names_of_groups_do_not_matter(seed):
    x,y = data(30, 5, 3, seed)
    groups,order = [f'g{k%12}' for k in range(30)],torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    a,b = ridge_loo(x, y, groups=groups),ridge_loo(x[order], y[order], groups=[groups[k] for k in order])
    for (name,s),(_,t) in zip(a.scores, b.scores): torch.testing.assert_close(s[order], t, atol=1e-7, rtol=1e-7, msg=name)

def test_length_and_place_of_features():
    x,y = data(60, 8, 3)
    a,b = ridge_loo(x, y),ridge_loo(100*x, y)
    torch.testing.assert_close(a.scores.avh, b.scores.avh); torch.testing.assert_close(a.probs, b.probs)
    moved = ridge_loo(x+5, y) # what all features share is no one's direction
    for (name,s),(_,t) in zip(a.scores, moved.scores): torch.testing.assert_close(s, t, atol=1e-9, rtol=1e-9, msg=name)

# Kinds of input, and hard ones

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_types_of_features(dtype):
    x,y = data(80, 6, 3, dtype=dtype)
    out = ridge_loo(x, y, ridge=1.)
    agree(out, by_refits(x, y, 1., out.temperature), eps=2e-5)
    assert out.scores.avh.dtype==out.w.dtype==torch.float32

@pytest.mark.parametrize('f', [ridge_loo, logistic_folds, out_of_sample], ids=lambda f: f.__name__)
def test_arrays_come_back_as_arrays(f):
    x,y = data(60, 6, 3)
    t,a = f(x, y),f(x.numpy(), y.numpy())
    assert all(isinstance(v, np.ndarray) for v in (a.probs, a.fold, a.w, a.bias, a.scores.avh, a.scores.pred))
    np.testing.assert_allclose(a.scores.avh, t.scores.avh.numpy()); assert str(a)[:11]=='OutOfSample' and 'seconds' not in str(a)

@pytest.mark.parametrize('c', [2, 3])
def test_the_only_image_of_a_class(c):
    x,y = data(30, 6, c)
    y = torch.where(torch.arange(30)==4, c-1, y.clamp(max=c-2)) # one of the last class, and with two classes nothing else without it
    with pytest.warns(UserWarning, match='1 of 30 samples leave a class without an image: their angular scores are NaN'):
        out = ridge_loo(x, y, ridge=1.)
    assert out.about['without_class']==1
    for name,values in out.scores:
        nothing = name in ('angle', 'avh', 'avc', 'angular_gap', 'angle_pred', 'avh_pred')
        assert values[4].isnan()==nothing if values.is_floating_point() else values[4]>=0
        assert not values[torch.arange(30)!=4].isnan().any()
    assert out.scores.pred[4]!=c-1 and out.scores.logit_margin[4]<0
    rows = by_refits(x, y, 1., out.temperature, samples=[k for k in range(30) if k!=4])
    agree(out, rows, [k for k in range(30) if k!=4])
    w,b = (t/out.temperature for t in refit(np.delete(x.numpy(), 4, 0), np.delete(y.numpy(), 4), c, 1.))
    z = w@x[4].numpy()+b
    assert abs(out.scores.logit_margin[4].item()-(z[c-1]-z[:c-1].max()))<1e-8

def test_a_class_within_one_group():
    x,y = data(30, 6, 3)
    groups = np.arange(30); groups[y==2] = 99
    with pytest.warns(UserWarning, match='10 of 30 samples leave a class'): out = ridge_loo(x, y, groups=groups)
    assert out.scores.avh.isnan().eq(y==2).all() and out.scores.confidence.isfinite().all()

def test_rows_without_direction_are_left_alone():
    x,y = data(40, 6, 3)
    bad = x.clone(); bad[3] = 0; bad[7, 2] = math.nan; bad[9, 0] = math.inf
    rest = torch.ones(40, dtype=torch.bool).index_fill(0, torch.tensor([3, 7, 9]), False)
    for f in (ridge_loo, lambda x, y: logistic_folds(x, y, repeats=2), out_of_sample):
        with pytest.warns(UserWarning, match='3 of 40 rows of x are zero or not finite, the first at index 3'): out = f(bad, y)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            clean = f(x[rest], y[rest])
        for name,values in out.scores:
            assert (values[~rest]==-1).all() if name in ('pred', 'pred2') else values[~rest].isnan().all(), name
        assert out.probs[~rest].isnan().all() and (out.fold[~rest]==-1).all()
        if f in (ridge_loo, out_of_sample): torch.testing.assert_close(out.scores.avh[rest], clean.scores.avh, atol=1e-6, rtol=1e-6)
        assert out.scores.loss[rest].isfinite().all()

@pytest.mark.parametrize('f', [ridge_loo, logistic_folds, out_of_sample], ids=lambda f: f.__name__)
@pytest.mark.parametrize('change,message', [
    (dict(x=torch.zeros(6)), r'x: expected .*shape \(N, D\)'), (dict(x=torch.zeros(40, 6).long()), 'x: expected floating point'),
    (dict(x=torch.zeros(0, 6), y=torch.zeros(0).long()), 'expected two classes at least, got no label'),
    (dict(x='x'), 'x: expected'), (dict(y=torch.zeros(3).long()), 'y: expected 40 labels'),
    (dict(y=torch.zeros(40)), 'y: expected integer'),
    (dict(y=torch.full((40,), -2)), 'y: expected'), (dict(y=torch.zeros(40).long()), 'expected two classes at least, got one class'),
    (dict(y=torch.full((40,), -1)), 'expected two classes at least, got no label'),
    (dict(y=2*(torch.arange(40)%3)), 'class 1 has no image; number the classes that have, from 0'),
    (dict(groups=[1, 2]), 'groups: expected 40, one per row of x, got 2'), (dict(groups=['a']*40), 'groups: expected two at least'),
    (dict(n_classes=4), 'y: class 3 has no image'), (dict(n_classes=2), 'y: expected labels from 0 to 1, or -1 for unknown, got 2'),
], ids=lambda v: v if isinstance(v, str) else '-'.join(v))
def test_bad_input(f, change, message):
    x,y = data(40, 6, 3)
    with pytest.raises(ValueError, match=message): f(**(dict(x=x, y=y)|change))

def test_bad_options():
    x,y = data(40, 6, 3)
    for value in (0., -1., math.inf, math.nan):
        with pytest.raises(ValueError, match='ridge: expected above 0 and finite'): ridge_loo(x, y, ridge=value)
    with pytest.raises(ValueError, match="probe: expected one of 'auto', 'ridge-loo', 'logistic', got 'knn'"): out_of_sample(x, y, 'knn')
    with pytest.raises(ValueError, match='x: all rows with a label are equal'): ridge_loo(torch.ones(40, 6), y)
    for options,message in ((dict(folds=1), 'folds: expected 2 at least, got 1'), (dict(repeats=0), 'repeats: expected 1 at least, got 0'),
            (dict(folds=14), 'folds: class 1 has 13 images, fewer than 14 folds; take folds=13, or ridge_loo, which needs no folds')):
        with pytest.raises(ValueError, match=message): logistic_folds(x, y, **options)
    y[y==2] = 1; y[0] = 2
    with pytest.raises(ValueError, match='class 2 has 1 image, fewer than 5 folds; take ridge_loo'): logistic_folds(x, y)

# The penalty and the temperature

def test_penalty_is_the_best_of_the_row():
    x,y = data(80, 30, 2, seed=3)
    out = ridge_loo(x, y)
    def error(penalty):
        heads = [refit(np.delete(x.numpy(), i, 0), np.delete(y.numpy(), i), 2, penalty) for i in range(80)]
        z = np.array([w@x[i].numpy()+b for i,(w,b) in enumerate(heads)])
        return ((z-(2*np.eye(2)[y]-1))**2).mean()
    b = ridge.axes_of(x, y, 2)
    tried = [s*b.squares.mean().item() for s in ridge.SHARES[::3]]+[out.about['ridge']]
    assert min(map(error, tried))==error(out.about['ridge']) and out.about['ridge_was']=='chosen'

def test_a_part_of_the_samples_is_enough(monkeypatch):
    x,y = data(2000, 10, 4)
    whole = ridge_loo(x, y)
    monkeypatch.setattr(probe, 'ENOUGH', (500, 10**9))
    part = ridge_loo(x, y)
    assert .3<part.about['ridge']/whole.about['ridge']<3.5 and .8<part.temperature/whole.temperature<1.25

def test_temperature():
    g = torch.Generator().manual_seed(0)
    z = 3*torch.randn(400, 5, generator=g).double(); y = (z+2*torch.randn(400, 5, generator=g)).argmax(1)
    t = fitted_temperature(z, y)
    loss = [torch.nn.functional.cross_entropy(z/s, y).item() for s in (t/1.1, t, t*1.1)]
    assert loss[1]<loss[0] and loss[1]<loss[2]
    assert fitted_temperature(z+100*torch.randn(400, 1), y)==pytest.approx(t, rel=1e-3) # what all classes share is nothing
    assert 1e-4<fitted_temperature(z, z.argmax(1))<1 and fitted_temperature(z, z.argmin(1))>100 # all right, all wrong

# Folds

def test_folds_keep_groups_and_classes():
    x,y = data(120, 6, 3)
    groups = np.arange(120)//4; y[[1, 100]] = -1; y[40:44] = -1 # a group without any label
    out = logistic_folds(x, y, groups=groups, repeats=2)
    for g in range(30): assert len(set(out.fold[groups==g].tolist()))==1
    assert (out.fold==-1).nonzero()[:, 0].tolist()==[40, 41, 42, 43] and set(out.fold.tolist())=={-1, 0, 1, 2, 3, 4}
    for k in range(5): assert len(set(y[(out.fold==k) & (y>=0)].tolist()))==3
    assert out.spread.shape==(120,) and (out.spread[y>=0]>0).all()

def test_folds_against_plain_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    x,y = data(90, 6, 3)
    out = logistic_folds(x, y, repeats=1, c=2.)
    z = torch.zeros(90, 3).double()
    xs = x-x.mean(0)
    for k in range(5):
        out_k = out.fold==k
        part = x[~out_k]-x[~out_k].mean(0)
        length = part.square().sum(1).mean().sqrt()
        fit = LogisticRegression(C=2., max_iter=1000).fit(part/length, y[~out_k])
        z[out_k] = torch.tensor(fit.decision_function((x[out_k]-x[~out_k].mean(0))/length))
    z /= out.temperature
    torch.testing.assert_close(out.probs, z.softmax(1).float(), atol=1e-5, rtol=1e-4)
    own = z.gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(out.scores.logit_margin, own-z.scatter(1, y[:, None], -math.inf).amax(1), atol=1e-6, rtol=1e-6)
    assert xs.shape==(90, 6) and out.spread is None

def test_a_class_whose_groups_are_too_few():
    x,y = data(60, 6, 3)
    groups = np.where(y==2, 100, np.arange(60))
    with pytest.raises(ValueError, match='groups: without fold . class 2 has no image'): logistic_folds(x, y, groups=groups)
    with pytest.warns(UserWarning, match='20 of 60'): ridge_loo(x, y, groups=groups)

def test_two_classes_in_folds():
    x,y = data(60, 6, 2)
    out = logistic_folds(x, y)
    torch.testing.assert_close(out.w[0], -out.w[1]); assert (out.scores.pred==y).double().mean()>.7
    torch.testing.assert_close(out.scores.avh, out.scores.angle/math.pi) # of two opposite vectors

# Duplicates

def test_groups_of_any_kind():
    assert group_ids([3, 3.0, None, float('nan'), None, '3'], 6).tolist()==[0, 0, 1, 2, 3, 4]
    assert group_ids(np.array(['b', 'a', 'b']), 3).tolist()==[0, 1, 0] and group_ids([], 0).shape==(0,)
    assert joined(np.array([0, 1, 2]), np.array([0, 0, 1]), np.array([0, 1, 1])).tolist()==[0, 0, 0]

@settings(max_examples=30, deadline=None)
@given(a=st.lists(st.integers(0, 5), min_size=8, max_size=8), b=st.lists(st.integers(0, 5), min_size=8, max_size=8))
def test_joined_is_the_finest_that_keeps_both(a, b):
    found = joined(np.array(a), np.array(b))
    parent = list(range(8))
    for _ in range(8):
        for i in range(8):
            for j in range(8):
                if a[i]==a[j] or b[i]==b[j]: parent[i] = parent[j] = min(parent[i], parent[j])
    assert [[found[i]==found[j] for j in range(8)] for i in range(8)]==[[parent[i]==parent[j] for j in range(8)] for i in range(8)]

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_exact_copies_of_all_types(dtype):
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    ids = exact_copies(torch.cat([x, x[7:9], x[7:8]]))
    assert ids[7]==ids[50]==ids[52] and ids[8]==ids[51] and len(set(ids))==50
    assert (exact_copies(x.T.contiguous().T)==exact_copies(x)).all() # however it lies in memory

def test_neighbours_in_blocks(monkeypatch):
    x = torch.randn(300, 20, generator=torch.Generator().manual_seed(0))
    whole = nearest(x, 5)
    monkeypatch.setattr(duplicates, 'PRODUCTS', 2000)
    for a,b in zip(whole, nearest(x, 5)): torch.testing.assert_close(a, b)

def test_near_copies_of_few_and_odd_rows():
    g = torch.Generator().manual_seed(0)
    for n in (2, 3, 5): assert len(set(duplicate_groups(torch.randn(n, 20, generator=g))))==n
    assert duplicate_groups(torch.ones(4, 3)).tolist()==[0]*4 and duplicate_groups(torch.zeros(0, 3)).tolist()==[]
    x = torch.randn(60, 20, generator=g); x[3], x[4], x[5] = 0, math.nan, math.nan
    assert len(set(duplicate_groups(x)))==60
    near = x[:1].repeat(30, 1)+1e-3*torch.randn(30, 20, generator=g) # nothing but copies, and no other neighbours to tell by
    assert len(set(near_copies(near)))==30

def test_duplicates_are_joined_to_given_groups():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(100, 20, generator=g)
    x = torch.cat([x, x[:2]+.02*torch.randn(2, 20, generator=g), x[2:3]])
    ids = duplicate_groups(x, groups=[None]*50+['a']*50+['b', 'b', None])
    assert ids[0]==ids[1]==ids[100]==ids[101] and ids[2]==ids[102] and len(set(ids[50:100]))==1 and len(set(ids))==50
    assert len(set(duplicate_groups(x, most=50)))==102

# On digits, as the design asks

PIXELS,TRUTH = digits().x.flatten(1).numpy()/255,digits().y.numpy()

def features(x, seed): return Nystroem(gamma=.05, n_components=400, random_state=seed).fit_transform(x)

def flipped(seed, share=.06):
    p = ridge_loo(features(PIXELS, seed), TRUTH).probs
    confused = (np.stack([p[TRUTH==k].mean(0) for k in range(10)])-2*np.eye(10)).argmax(1)
    g,y = np.random.default_rng(seed),TRUTH.copy()
    uniform,pair = np.array_split(g.permutation(len(y))[:round(share*len(y))], 2)
    y[uniform] = (y[uniform]+g.integers(1, 10, len(uniform)))%10
    y[pair] = confused[y[pair]]
    return y,y!=TRUTH

@pytest.mark.parametrize('f', [ridge_loo, lambda x, y: logistic_folds(x, y, repeats=1)], ids=['ridge-loo', 'logistic'])
def test_flipped_labels_are_found(f):
    for seed in range(3):
        y,wrong = flipped(seed)
        s = f(features(PIXELS, seed), y).scores
        area,precision = roc_auc_score(wrong, -s.logit_margin),average_precision_score(wrong, -s.logit_margin)
        print(f'seed {seed}: AUROC {area:.3f}, AP {precision:.3f}, of AVH {roc_auc_score(wrong, s.avh):.3f}')
        assert area>=.96 and precision>=.45

def test_cleanlab_says_the_same():
    rank = pytest.importorskip('cleanlab.rank')
    y,_ = flipped(0)
    for out in (ridge_loo(features(PIXELS, 0), y), logistic_folds(features(PIXELS, 0), y, repeats=2)):
        quality = rank.get_label_quality_scores(y, out.probs.astype(np.float64), method='self_confidence')
        np.testing.assert_allclose(quality, out.scores.confidence, atol=1e-6)

def test_planted_duplicates():
    g = np.random.default_rng(0)
    base = g.permutation(len(TRUTH))[:600]
    y = TRUTH[base].copy(); change = g.random(600)<.2; y[change] = (y[change]+g.integers(1, 10, change.sum()))%10
    x = features(np.concatenate([PIXELS[base], (PIXELS[base]+g.normal(0, 1/32, (600, 64))).clip(0, 1)]), 0)
    twice = np.tile(y, 2)
    def accuracy(out): return (out.scores.pred==twice[:len(out.scores.pred)]).mean()
    once,ignored,grouped = accuracy(ridge_loo(x[:600], y)),accuracy(ridge_loo(x, twice)),accuracy(out_of_sample(x, twice))
    print(f'apparent accuracy: once {once:.3f}, duplicates ignored {ignored:.3f}, grouped {grouped:.3f}')
    assert ignored>=once+.05 and abs(grouped-once)<.02
    assert accuracy(out_of_sample(x, twice, duplicates=False))==ignored

def test_about_says_how():
    x,y = data(60, 20, 3)
    assert out_of_sample(x, y).about['duplicates']=='near and exact' and out_of_sample(x, y).about['asked']=='auto'
    assert out_of_sample(x, y, duplicates=False).about['duplicates']=='not looked for'
    import json
    for f in (ridge_loo, logistic_folds, out_of_sample): assert json.loads(json.dumps(f(x, y).about))
    for name in ('OutOfSample', 'ridge_loo', 'logistic_folds', 'out_of_sample', 'duplicate_groups'): assert name in probe.__all__
    assert folds.OutOfSample is probe.OutOfSample
