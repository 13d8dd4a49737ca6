"The measure against slow loops, its properties, and how right it is in float32."
import subprocess, sys
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
import avh_nb as av
from avh_nb.tool.timing import extra_memory, largest_error
from avh_nb.engine.choice import why_not
from avh_nb.measure.scores import HARD_IS, scores_from
import reference

def drawn(seed, n=7, d=5, c=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=dtype),torch.randn(c, d, generator=g, dtype=dtype),torch.randint(c, (n,), generator=g)

sizes = st.tuples(st.integers(0, 2**31), st.integers(1, 9), st.integers(2, 6), st.integers(1, 8))
quick = settings(deadline=None, max_examples=60)

@quick
@given(sizes, st.booleans())
def test_score_equals_slow_loop(size, with_bias):
    seed,n,d,c = size
    x,w,y = drawn(seed, n, d, c)
    bias = torch.randn(c, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) if with_bias else None
    got = av.score(x, w, y, bias=bias)
    for i,row in enumerate(reference.scores(x.tolist(), w.tolist(), y.tolist(), None if bias is None else bias.tolist())):
        for name,value in row.items(): np.testing.assert_allclose(getattr(got, name)[i].item(), value, rtol=1e-9, atol=1e-9, err_msg=name)
    torch.testing.assert_close(av.avh(x, w, y), got.avh, rtol=1e-12, atol=0)

FREE = 'pred', 'pred2', 'energy', 'angle_pred', 'avh_pred' # whatever the label

def equal_row(got, i, row, names=None):
    for name in names or row: np.testing.assert_allclose(getattr(got, name)[i].item(), row[name], rtol=1e-9, atol=1e-9, err_msg=name)

def never(c, g):
    "A bias that rules out some classes, but not all"
    bias = torch.where(torch.rand(c, generator=g)<.5, -torch.inf, 0).double()
    bias[torch.randint(c, (), generator=g)] = 0
    return bias

@quick
@given(sizes)
def test_classes_that_are_never_predicted(size):
    x,w,y = drawn(*size)
    bias = never(len(w), torch.Generator().manual_seed(size[0]))
    got,free = av.score(x, w, y, bias=bias),av.score(x, w, bias=bias)
    for i,row in enumerate(reference.scores(x.tolist(), w.tolist(), y.tolist(), bias.tolist())):
        equal_row(got, i, row); equal_row(free, i, row, FREE)

@quick
@given(sizes, st.booleans())
def test_of_equal_logits_the_first_is_ahead(size, ruled_out):
    seed,n,_,c = size
    g = torch.Generator().manual_seed(seed)
    a,norm = torch.rand(n, c, generator=g).double()*3,torch.rand(n, generator=g).double()
    z = torch.randint(-1, 2, (n, c), generator=g).double()
    if ruled_out: z += never(c, g)
    y = torch.randint(c, (n,), generator=g)
    got,free = scores_from(a, z, norm, y),scores_from(a, z, norm)
    for i,row in enumerate(map(reference.scores_of_one, a.tolist(), z.tolist(), y.tolist(), norm.tolist())):
        equal_row(got, i, row); equal_row(free, i, row, FREE)

@pytest.mark.parametrize('labelled', [True, False])
def test_many_small_blocks_give_what_one_gives(monkeypatch, labelled):
    x,w,y = drawn(0, 40, 6, 50)
    y = y if labelled else None
    whole = av.score(x, w, y)
    whole_avh = av.avh(x, w, y)
    import avh_nb.engine.reference as engine
    monkeypatch.setattr(engine, 'block_shape', lambda *args: (7, 11)) # 6 blocks of samples, 5 of classes
    for (name,a),(_,b) in zip(whole, av.score(x, w, y)): torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=name)
    torch.testing.assert_close(whole_avh, av.avh(x, w, y), rtol=1e-10, atol=0)
    assert len(list(engine.angle_blocks(x, w)))==6

@quick
@given(sizes, st.floats(1e-6, 1e6), st.integers(0, 7))
def test_length_changes_no_angle(size, scale, which):
    x,w,y = drawn(*size)
    longer = w.clone(); longer[which%len(w)] *= scale
    torch.testing.assert_close(av.avh(scale*x, longer, y), av.avh(x, w, y), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(av.avc(scale*x, longer), av.avc(x, w), rtol=1e-7, atol=1e-9)

@quick
@given(sizes)
def test_permuting_classes_permutes(size):
    x,w,y = drawn(*size)
    order = torch.randperm(len(w), generator=torch.Generator().manual_seed(size[0]))
    back = order.argsort()
    torch.testing.assert_close(av.avc(x, w[order]), av.avc(x, w)[:, order])
    torch.testing.assert_close(av.avh(x, w[order], back[y]), av.avh(x, w, y))

@quick
@given(sizes)
def test_shares_sum_to_one(size):
    x,w,y = drawn(*size, dtype=torch.float32)
    each = torch.stack([av.avh(x, w, torch.full_like(y, c)) for c in range(len(w))])
    assert ((each>=0) & (each<=1)).all()
    torch.testing.assert_close(each.sum(0), torch.ones(len(x)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(av.avc(x, w).sum(1), torch.ones(len(x)), rtol=1e-5, atol=1e-6)

@quick
@given(sizes, st.floats(.1, 10))
def test_parallel_to_its_class_is_zero(size, scale):
    _,w,_ = drawn(*size)
    if len(w)>1: torch.testing.assert_close(av.avh(scale*w, w, torch.arange(len(w))), torch.zeros(len(w), dtype=w.dtype), atol=1e-9, rtol=0)

@quick
@given(st.integers(0, 2**31))
def test_a_row_does_not_depend_on_its_neighbours(seed):
    x,w,y = drawn(seed, 6)
    alone = torch.cat([av.avh(x[i:i+1], w, y[i:i+1]) for i in range(6)])
    torch.testing.assert_close(av.avh(x, w, y), alone)

def test_without_label_scores_speak_of_the_prediction():
    x,w,_ = drawn(0, 200, 6, 40, torch.float32)
    bias = torch.randn(40, generator=torch.Generator().manual_seed(1))
    s = av.score(x, w, bias=bias)
    assert (s.pred==(x@w.T+bias).argmax(1)).all()
    torch.testing.assert_close(s.confidence, (x@w.T+bias).softmax(1).amax(1))
    torch.testing.assert_close(av.avh(x, w, bias=bias), av.avh(x, w, s.pred))

@pytest.mark.parametrize('labelled', [True, False])
def test_sure_samples_keep_their_order_in_float32(labelled):
    "Loss, entropy and error of a sample with confidence 1 - 1e-12 are small numbers, not 0"
    x,w = torch.arange(1, 30, dtype=torch.float32)[:, None]*torch.tensor([1., 0., 0.]),torch.eye(3)
    y = torch.zeros(29).long() if labelled else None
    s,exact = av.score(x, w, y),av.score(x.double(), w.double(), y)
    for name in ('loss', 'entropy', 'el2n'):
        torch.testing.assert_close(getattr(s, name).double(), getattr(exact, name), rtol=1e-5, atol=0)
        assert (getattr(s, name).diff()<0).all()

@pytest.mark.parametrize('engine', ['torch', *([] if why_not('numba') else ['numba'])])
def test_the_logit_margin_ranks_where_the_margin_has_ended(engine):
    "A thousand samples with confidence above 1 - 1e-7, in any order"
    g = torch.Generator().manual_seed(0)
    x,w,y = torch.randn(1000, 64, generator=g),torch.randn(10, 64, generator=g),torch.randint(10, (1000,), generator=g)
    x += 1.5*w[y]
    s,exact = av.score(x, w, y, engine=engine),av.score(x.double(), w.double(), y)
    sure = exact.loss<1e-7
    x,y = x[sure].repeat(9, 1)[:1000]*torch.linspace(1, 2, 1000)[:, None],y[sure].repeat(9)[:1000]
    s,exact = av.score(x, w, y, engine=engine),av.score(x.double(), w.double(), y)
    assert len(s)==1000 and (1-exact.confidence<1e-7).all() and s.logit_margin.dtype==s.margin.dtype==torch.float32
    assert len(s.logit_margin.unique())==1000 and len(s.margin.unique())<10
    assert torch.equal(s.logit_margin.argsort(), exact.logit_margin.argsort())

@pytest.mark.parametrize('labelled', [True, False])
def test_scores_of_the_predicted_class_are_those_of_the_label_it_would_be(labelled):
    x,w,y = drawn(0, 200, 6, 40, torch.float32)
    w,bias = w*torch.logspace(-1, 1, 40)[:, None],torch.randn(40, generator=torch.Generator().manual_seed(1))
    for options in (dict(bias=bias), {}, dict(scale=7.)):
        s = av.score(x, w, y if labelled else None, **options)
        of_pred = av.score(x, w, s.pred, **options)
        for a,b in ((s.angle_pred, of_pred.angle), (s.avh_pred, of_pred.avh), (s.energy, of_pred.energy)):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        if not labelled: assert torch.equal(s.angle_pred, s.angle) and torch.equal(s.avh_pred, s.avh) and (s.logit_margin>=0).all()
        nearest = av.angles(x, w).amin(1)
        assert (s.angle_pred>nearest+.1).any() if 'scale' not in options else torch.allclose(s.angle_pred, nearest)

loo_sizes = given(sizes, st.booleans(), st.booleans())

@quick
@loo_sizes
def test_scores_from_angles_and_logits_are_those_of_a_sample_at_a_time(size, labelled, with_bias):
    "Class vectors of its own for each sample"
    seed,n,d,c = size
    x,_,y = drawn(*size)
    g = torch.Generator().manual_seed(seed)
    w,bias = torch.randn(n, c, d, generator=g, dtype=torch.float64),torch.randn(n, c, generator=g, dtype=torch.float64)
    if not with_bias: bias = torch.zeros_like(bias)
    a,z = torch.cat([av.angles(x[i:i+1], w[i]) for i in range(n)]),torch.einsum('nd,ncd->nc', x, w)+bias
    y = y if labelled else None
    one = [av.score(x[i:i+1], w[i], y if y is None else y[i:i+1], bias=bias[i]) for i in range(n)]
    for (name,got),(_,want) in zip(scores_from(a, z, x.norm(dim=1), y), av.Scores.cat(one)):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9, equal_nan=True, msg=lambda m,name=name: f'{name}: {m}')

def test_scores_from_leaves_its_inputs_alone_and_takes_what_there_is(monkeypatch):
    x,w,y = drawn(0, 50, 6, 9)
    a,z,norm = av.angles(x, w),x@w.T,x.norm(dim=1)
    kept,whole = [t.clone() for t in (a, z, norm)],scores_from(a, z, norm, y)
    assert all(map(torch.equal, kept, (a, z, norm)))
    monkeypatch.setattr('avh_nb.measure.scores.BLOCK', 16*9*7) # 7 rows at a time
    for (name,got),(_,want) in zip(scores_from(a, z, norm, y), whole): assert torch.equal(got, want), name
    single = scores_from(a.float(), z.float(), norm.float(), y)
    assert {v.dtype for _,v in single}=={torch.float32, torch.int64}
    for (name,got),(_,want) in zip(single, whole):
        torch.testing.assert_close(got.to(want.dtype), want, rtol=1e-5, atol=1e-5, msg=lambda m,name=name: f'{name}: {m}')
    arrays = scores_from(a.numpy(), z.numpy(), norm.numpy(), y.numpy())
    assert type(arrays.energy) is np.ndarray and (arrays.pred2==whole.pred2.numpy()).all()
    assert len(scores_from(a[:0], z[:0], norm[:0]))==0
    one = scores_from(a[:, :1], z[:, :1], norm)
    assert one.pred2.eq(-1).all() and one.logit_margin.isnan().all() and one.avh_pred.eq(1).all()

def test_a_row_that_is_no_number_is_nan_and_no_other_is():
    x,w,y = drawn(0, 9, 6, 5)
    a,z,norm = av.angles(x, w),x@w.T,x.norm(dim=1)
    whole = scores_from(a, z, norm, y)
    a[0, 3],z[1, 2],z[2, 4],z[3],norm[4] = torch.nan,torch.nan,torch.inf,-torch.inf,torch.nan
    s = scores_from(a, z, norm, y)
    for (name,got),(_,want) in zip(s, whole):
        assert got[:5].eq(-1).all() if name in ('pred', 'pred2') else got[:5].isnan().all(), name
        assert torch.equal(got[5:], want[5:]), name
    z[5, 1:] = -torch.inf # are never predicted
    assert scores_from(a, z, norm, y).pred[5]==0 and scores_from(a, z, norm, y).pred2[5]==-1

@pytest.mark.parametrize('wrong,said', [
    (dict(angles=[[.1]]), 'angles: expected shape .N, C. with one class at least, as a tensor or an array, got list'),
    (dict(angles=torch.ones(4)), 'angles: expected shape .N, C.'), (dict(angles=torch.ones(4, 0)), 'angles: expected shape .N, C.'),
    (dict(angles=torch.full((4, 3), 57.)), 'angles: expected radians from 0 to pi, got 57 in row 0'),
    (dict(angles=-torch.ones(4, 3)), 'angles: expected radians from 0 to pi, got -1 in row 0'),
    (dict(logits=torch.ones(4, 2)), r'logits: expected shape \(4, 3\), as angles has, got \(4, 2\)'),
    (dict(logits=None), r'logits: expected shape \(4, 3\), as angles has, got NoneType'),
    (dict(norm=torch.ones(3)), r'norm: expected shape \(4,\), as angles has, got \(3,\)'),
    (dict(norm=1.), r'norm: expected shape \(4,\), as angles has, got float'),
    (dict(y=torch.tensor([0, 1, 2, 3])), 'y: expected labels from 0 to 2, got 3 at index 3'),
    (dict(y=torch.zeros(3).long()), 'y: expected 4 labels')])
def test_what_scores_from_refuses(wrong, said):
    right = dict(angles=torch.ones(4, 3), logits=torch.randn(4, 3), norm=torch.ones(4), y=torch.zeros(4).long())
    with pytest.raises(ValueError, match=said): scores_from(**{**right, **wrong})

@pytest.mark.parametrize('towards', ['label', 'other'])
@pytest.mark.parametrize('d', [2, 64, 768])
@pytest.mark.parametrize('c', [2, 10, 100])
def test_float32_avh_is_within_1e6_of_float64(towards, d, c):
    assert max(largest_error(300, d, c, towards, seed=s) for s in range(3)) < 1e-6

@pytest.mark.parametrize('setting', ['autocast', 'medium'])
def test_precision_settings_of_training_do_not_reach_the_scores(setting):
    x,w,y = drawn(0, 200, 64, 50, torch.float32)
    before = av.avh(x, w, y)
    if setting=='autocast':
        with torch.autocast('cpu', torch.bfloat16): after = av.avh(x, w, y)
    else:
        torch.set_float32_matmul_precision('medium')
        try: after = av.avh(x, w, y)
        finally: torch.set_float32_matmul_precision('highest')
    torch.testing.assert_close(after, before, rtol=1e-6, atol=0) # their products are taken in float64 then

def test_memory_is_a_block_and_the_result():
    "(20000, 64, 2000) has 160 MB of angles"
    used = extra_memory('avh', 'torch', 20000, 64, 2000)
    if used is None: pytest.skip('this system keeps no high-water mark')
    assert used < 64*2**20 < extra_memory('avh', 'plain', 20000, 64, 2000)

def test_hard_is_says_which_end():
    "On features that are closer and closer to a wrong class, every score moves to its hard end"
    w = torch.eye(3, dtype=torch.float64)
    t = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
    s = av.score(3*((1-t)*w[0]+t*w[1]), w, torch.zeros(20).long())
    for name,end in HARD_IS.items():
        v = getattr(s, name)
        if name in ('norm', 'entropy', 'energy', 'angle_pred', 'avh_pred'): v = v[:10] # hardest half-way, and easy again as the wrong class
        assert (v.diff()>0).all() if end=='high' else (v.diff()<0).all(), name

def test_import_is_light():
    code = ("import sys, avh_nb; print([m for m in ('pandas', 'seaborn', 'sklearn', 'timm', 'transformers', 'accelerate', "
        "'matplotlib', 'scipy', 'torchvision') if m in sys.modules])")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip()=='[]'

def test_one_table_says_everything_of_a_score():
    "Fields, hard ends and documentation are those of `SCORES`"
    import dataclasses
    from avh_nb.measure import scores
    ends = dict(confidence='low', entropy='high', loss='high', el2n='high', margin='low', norm='low', angle='high', avh='high', avc='low',
        angular_gap='low', logit_margin='low', energy='high', angle_pred='high', avh_pred='high')
    assert list(scores.SCORES)==list(HARD_IS) and [f.name for f in dataclasses.fields(av.Scores)]==['pred', 'pred2', *scores.SCORES]
    for name,d in scores.SCORES.items():
        assert HARD_IS[name]==d.hard and d.formula and d.label and f'- {name}: {d.meaning}' in av.Scores.__doc__
    assert {k: HARD_IS.get(k) for k in ends}==ends # of those that were there first

def test_a_new_score_is_a_row_and_a_line():
    "In a process of its own, the row added where the table stands and the formula where the formulas stand"
    code = """
import importlib.util, sys, types, torch
from pathlib import Path
def changed(name, old, to):
    "A page with one line more, in place of what it was"
    source = Path(importlib.util.find_spec(name).origin).read_text(encoding='utf-8')
    assert source.count(old)==1
    new = types.ModuleType(name); new.__package__ = 'avh_nb.measure'
    sys.modules[name] = new
    exec(compile(source.replace(old, to), name, 'exec'), new.__dict__)
    return new
changed('avh_nb.measure.definitions', "SCORES = dict(\\n",
    "SCORES = dict(\\n    nearest=Definition('high', 'min A(x, w_c), c != y', 'nearest', 'smallest other angle', 'rad'),\\n")
new = changed('avh_nb.measure.scores', "        confidence=p,\\n", "        confidence=p, nearest=t.nearest,\\n")
g = torch.Generator().manual_seed(0)
x,w,y = torch.randn(6, 5, generator=g),torch.randn(4, 5, generator=g),torch.arange(6)%4
s = new.score(x, w, y)
torch.testing.assert_close(s.nearest-s.angle, s.angular_gap)
assert new.HARD_IS['nearest']=='high' and '- nearest: smallest other angle (rad)' in new.Scores.__doc__ and 'nearest' in s.to_frame()
"""
    subprocess.run([sys.executable, '-c', code], check=True)
