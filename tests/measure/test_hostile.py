"Input that makes no sense, and input at the edge of sense: each is refused by name or answered right."
import warnings
import numpy as np, pytest, torch
import avh_nb as av

g = torch.Generator().manual_seed(0)
X,W,Y = torch.randn(6, 5, generator=g),torch.randn(4, 5, generator=g),torch.tensor([0, 1, 2, 3, 0, 1])
FUNCTIONS = [av.avh, av.score]
nan,inf = float('nan'),float('inf')

def changed(t, row, value):
    t = t.clone(); t[row] = value; return t

REFUSED = {
    'x of rank 1': (X[0], W, Y, r'x: expected shape \(N, D\)'),
    'x of rank 3': (X[None], W, Y, r'x: expected shape \(N, D\)'),
    'w of rank 1': (X, W[0], Y, r'w: expected shape \(C, D\)'),
    'integer x': (X.long(), W, Y, 'x: expected floating point'),
    'integer w': (X, W.long(), Y, 'w: expected floating point'),
    'complex x': (X.to(torch.complex64), W, Y, 'x: expected floating point'),
    'list for x': (X.tolist(), W, Y, 'x: expected a tensor'),
    'no class': (X, W[:0], Y, 'w: expected at least one class'),
    'no dimension': (X[:, :0], W[:, :0], Y, 'w: expected at least one dimension'),
    'other dimension': (X[:, :4], W, Y, 'x: expected 5 columns'),
    'label too large': (X, W, changed(Y, 3, 4), 'y: expected labels from 0 to 3, got 4 at index 3'),
    'negative label': (X, W, changed(Y, 2, -1), 'got -1 at index 2'),
    'float labels': (X, W, Y.float(), 'y: expected integer labels'),
    'boolean labels': (X, W, Y>0, 'y: expected integer labels'),
    'labels longer than x': (X, W, torch.cat([Y, Y]), 'y: expected 6 labels'),
    'labels shorter than x': (X, W, Y[:3], 'y: expected 6 labels'),
    'labels as a column': (X, W, Y[:, None], r'y: expected shape \(N,\)'),
    'zero class vector': (X, changed(W, 2, 0.), Y, r'row 2 \(class 2\) is zero'),
    'NaN in a class vector': (X, changed(W, 1, nan), Y, r'row 1 \(class 1\) is not finite'),
    'infinite class vector': (X, changed(W, 3, inf), Y, r'row 3 \(class 3\) is not finite'),
}

@pytest.mark.parametrize('f', FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize('case', REFUSED)
def test_refused_by_name(f, case):
    x,w,y,message = REFUSED[case]
    with pytest.raises(ValueError, match=message): f(x, w, y)

@pytest.mark.parametrize('case', [k for k in REFUSED if 'label' not in k])
def test_angles_and_avc_refuse_the_same(case):
    x,w,_,message = REFUSED[case]
    for f in (av.angles, av.avc):
        with pytest.raises(ValueError, match=message): f(x, w)

def test_bias_that_makes_no_sense():
    with pytest.raises(ValueError, match=r'bias: expected shape \(4,\)'): av.score(X, W, Y, bias=torch.zeros(4, 1))
    with pytest.raises(ValueError, match=r'bias: expected shape \(4,\), one per class, as a tensor or an array, got list'):
        av.score(X, W, Y, bias=[0.]*4)
    for value,name in ((nan, 'NaN'), (inf, 'inf')):
        with pytest.raises(ValueError, match=f'bias: expected numbers, got {name} at index 2'):
            av.score(X, W, Y, bias=changed(torch.zeros(4), 2, value))
        with pytest.raises(ValueError, match=f'bias: expected numbers, got {name} at index 2'):
            av.avh(X, W, bias=changed(torch.zeros(4), 2, value))
    with pytest.raises(ValueError, match='bias: expected a number for one class at least'): av.score(X, W, bias=torch.full((4,), -inf))

def test_a_bias_of_minus_infinity_leaves_a_class_out():
    s,without = av.score(X, W, Y%2, bias=torch.tensor([0., 0., 0., -inf])),av.score(X, W[:3], Y%2)
    for name in ('pred', 'confidence', 'entropy', 'loss', 'margin'):
        torch.testing.assert_close(getattr(s, name), getattr(without, name), msg=name)

def test_masked_arrays_are_refused():
    masked = np.ma.masked_array(X.numpy(), mask=X.numpy()>1)
    with pytest.raises(ValueError, match='mask'): av.score(masked, W.numpy(), Y.numpy())
    with pytest.raises(ValueError, match='mask'):
        av.score_model(torch.nn.Linear(5, 4), [(X, np.ma.masked_array(Y.numpy(), mask=Y.numpy()>1))], progress=False)

def test_unknown_on_invalid():
    with pytest.raises(ValueError, match="on_invalid: expected 'warn' or 'raise'"): av.avh(X, W, Y, on_invalid='ignore')

@pytest.mark.parametrize('value', [0., nan, inf, -inf])
@pytest.mark.parametrize('f', FUNCTIONS, ids=lambda f: f.__name__)
def test_a_row_without_direction_is_nan_and_alone(f, value):
    good = f(X, W, Y)
    with pytest.warns(UserWarning, match='1 of 6 rows of x .* index 3') as caught: bad = f(changed(X, 3, value), W, Y)
    assert len(caught)==1
    others = [0, 1, 2, 4, 5]
    for a,b in zip(*[[t for _,t in v] if isinstance(v, av.Scores) else [v] for v in (good, bad)]):
        assert torch.equal(a[others], b[others])
        assert b[3].isnan() if b.is_floating_point() else b[3]==-1
    with pytest.raises(ValueError, match='x: 1 of 6 rows'): f(changed(X, 3, value), W, Y, on_invalid='raise')

def test_one_bad_number_spoils_its_row_only():
    for value in (nan, inf):
        x = X.clone(); x[2, 1] = value
        with pytest.warns(UserWarning): bad = av.avh(x, W, Y)
        assert bad.isnan().tolist()==[False, False, True, False, False, False]

def test_no_samples():
    assert av.avh(X[:0], W, Y[:0]).shape==(0,) and av.angles(X[:0], W).shape==(0, 4) and len(av.score(X[:0], W, Y[:0]))==0

def test_one_class():
    s = av.score(X, W[:1], torch.zeros(6).long())
    assert torch.equal(s.avh, torch.ones(6)) and torch.equal(s.confidence, torch.ones(6)) and s.angular_gap.isnan().all()

def test_one_sample():
    torch.testing.assert_close(av.avh(X[:1], W, Y[:1]), av.avh(X, W, Y)[:1])

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('scale', [1e4, 1e-20])
def test_long_and_tiny_rows(dtype, scale):
    "The angles are those of the numbers as stored: exact powers of two keep them so"
    if dtype==torch.float16 and scale<1: scale = 2.**-10 # float16 ends at 6e-8
    factor = 2.**round(np.log2(scale)) if dtype!=torch.float16 else (2.**13 if scale>1 else scale)
    x,w = (X/8).to(dtype),W.to(dtype)
    long = x*factor
    assert long.isfinite().all() and (long!=0).all()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        torch.testing.assert_close(av.avh(long, w, Y).double(), av.avh(long.double(), w.double(), Y), rtol=1e-6, atol=0)
        torch.testing.assert_close(av.avh(w, x*factor, torch.tensor([0, 1, 2, 3])).double(),
            av.avh(w.double(), (x*factor).double(), torch.tensor([0, 1, 2, 3])), rtol=1e-6, atol=0)

def test_extreme_float64_lengths():
    for scale in (1e200, 1e-200):
        torch.testing.assert_close(av.avh(scale*X.double(), W.double(), Y), av.avh(X.double(), W.double(), Y), rtol=1e-12, atol=0)
        torch.testing.assert_close(av.angles(X.double(), scale*W.double()), av.angles(X.double(), W.double()), rtol=1e-12, atol=0)

def test_half_precision_comes_back_as_float32():
    for dtype in (torch.float16, torch.bfloat16):
        assert av.avh(X.to(dtype), W.to(dtype), Y).dtype==av.angles(X.to(dtype), W.to(dtype)).dtype==torch.float32

def test_strided_input():
    big = torch.randn(12, 10, generator=g)
    x = big[::2, ::2]
    assert not x.is_contiguous()
    torch.testing.assert_close(av.avh(x, W.T.contiguous().T, Y), av.avh(x.contiguous(), W, Y))
    np.testing.assert_allclose(av.avh(x.numpy()[::-1], W.numpy(), Y.numpy()[::-1]), av.avh(x, W, Y).numpy()[::-1], rtol=1e-6)

def test_input_that_requires_grad():
    x,w = X.clone().requires_grad_(),W.clone().requires_grad_()
    assert not av.avh(x, w, Y).requires_grad and not av.score(x, w, Y).avh.requires_grad # scores are diagnostics
    assert av.angles(x, w).requires_grad # angles are for learning
    assert torch.equal(av.avh(x, w, Y), av.avh(X, W, Y))

def test_input_is_left_as_it_was():
    x,w = X.clone(),W.clone()
    x[0] *= 1e30
    copy = x.clone(),w.clone()
    av.score(x, w, Y); av.avh(x, w, Y)
    assert torch.equal(x, copy[0]) and torch.equal(w, copy[1])

def test_a_million_samples():
    x,w = torch.randn(1_000_000, 8, generator=g),torch.randn(3, 8, generator=g)
    y = torch.randint(3, (1_000_000,), generator=g)
    got = av.avh(x, w, y)
    assert got.isfinite().all()
    torch.testing.assert_close(got[-5:], av.avh(x[-5:], w, y[-5:]))

def test_large_logits_stay_finite():
    s = av.score(1e4*X, W, Y)
    for name,t in s:
        if name!='pred': assert t.isfinite().all(), name

def test_unsigned_and_small_label_types():
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32): assert torch.equal(av.avh(X, W, Y.to(dtype)), av.avh(X, W, Y))
    for dtype in (np.uint16, np.uint32, np.int8):
        np.testing.assert_array_equal(av.avh(X.numpy(), W.numpy(), Y.numpy().astype(dtype)), av.avh(X, W, Y).numpy())

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA here')
def test_cuda_gives_what_the_cpu_gives():
    for (name,a),(_,b) in zip(av.score(X, W, Y), av.score(X.cuda(), W.cuda(), Y.cuda()).cpu()): torch.testing.assert_close(a, b, msg=name)
