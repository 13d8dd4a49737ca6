"The four normalisations against the published formulas, value by value, and what must not change them."
import math, warnings
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from avh_nb.measure.normalise import NORMALISATIONS, normalise_map, resize_map

def published(map, how, p):
    "In Python lists: what is above or below the share p is cut off first, then the formula as it was published"
    v = sorted(map.flatten().tolist())
    n = len(v)
    cut = dict(minmax=int(p/2*n), max=int(p*n)).get(how, 0)
    least,most = (v[cut] if how=='minmax' else v[0]),v[n-1-cut]
    def of(x):
        if how=='minmax': return (min(max(x, least), most)-least)/(most-least)
        if how=='max': return max(0, min(x, most))/most
        if how=='pas': return min(1, (x-least)/(v[int(p*n)]-least))
        return max(0, x-v[int(p*n)])/(most-v[int(p*n)])
    return torch.tensor([[of(x) for x in row] for row in map.tolist()], dtype=torch.float64)

def some_map(seed, kind=0):
    g = torch.Generator().manual_seed(seed)
    m = torch.randn(6, 7, generator=g, dtype=torch.float64)
    return (m, m.exp()-.5, m.round(), (m*100).relu()-20)[kind]

hows,shares = st.sampled_from(list(NORMALISATIONS)),st.floats(0, .999)

def matches(f, seed, kind, how, p):
    m = some_map(seed, kind)
    if how=='max' and m.flatten().sort()[0][m.numel()-1-int(p*m.numel())]<=0: return # what that means has a test of its own
    try: expected = published(m, how, p)
    except ZeroDivisionError: return
    torch.testing.assert_close(f(m, how, p), expected, rtol=1e-12, atol=1e-12)

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32-1), st.integers(0, 3), hows, shares)
def test_published_formulas(seed, kind, how, p): matches(normalise_map, seed, kind, how, p)

def test_defaults_are_those_published():
    m = some_map(0)
    assert NORMALISATIONS==dict(minmax=0, max=0, pas=.9, ivr=.45)
    for how,p in NORMALISATIONS.items(): torch.testing.assert_close(normalise_map(m, how), published(m, how, p))
    assert normalise_map(m).equal(normalise_map(m, 'ivr', .45))

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32-1), st.integers(0, 3), hows, shares, st.floats(.01, 100), st.floats(-50, 50))
def test_what_changes_nothing(seed, kind, how, p, scale, shift):
    m = some_map(seed, kind)
    got = normalise_map(m, how, p)
    torch.testing.assert_close(normalise_map(scale*m, how, p), got, rtol=1e-9, atol=1e-9)
    if kind!=2 and how!='max': torch.testing.assert_close(normalise_map(m+shift, how, p), got, rtol=1e-9, atol=1e-9)
    assert got.min()>=0 and got.max()<=1
    order = m.flatten().argsort() # it never turns two values round
    assert (got.flatten()[order].diff()>=0).all()
    torch.testing.assert_close(normalise_map(got, how, p), got, rtol=1e-12, atol=1e-12) # twice is no more than once
    assert normalise_map(m, 'ivr', 0).equal(normalise_map(m, 'minmax', 0))
    assert normalise_map(m[:, torch.randperm(7, generator=torch.Generator().manual_seed(0))], how, p).sum().isclose(got.sum())

def test_each_map_by_itself():
    maps = torch.stack([some_map(s)*10**s for s in range(4)])
    for how in NORMALISATIONS:
        assert normalise_map(maps, how).equal(torch.stack([normalise_map(m, how) for m in maps]))
        assert (normalise_map(maps, how).amax((1, 2))==1).all()

def test_zeros_without_a_warning():
    m = some_map(0)
    nan,inf = m.clone(),m.clone()
    nan[2, 3],inf[0, 0] = math.nan,-math.inf
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for bad in (nan, inf, torch.full((6, 7), .3), torch.zeros(6, 7), torch.full((6, 7), -2.)):
            for how in NORMALISATIONS:
                for p in (0, .3, .99): assert not normalise_map(bad, how, p).any()
            both = normalise_map(torch.stack([bad.double(), m]))
            assert not both[0].any() and both[1].equal(normalise_map(m))
        assert not normalise_map(m-10, 'max').any() and not normalise_map(m-10, 'max', .5).any()
        assert not normalise_map(np.full((6, 7), np.nan)).any()

def test_a_resized_constant_map_stays_constant():
    for value in (.1, .3, 1/3, 1e-3, 1234.5):
        for how in NORMALISATIONS: assert not normalise_map(resize_map(torch.full((7, 7), value), 224), how).any()

def test_where_both_ends_are_the_same_value():
    m = torch.tensor([[0., 0, 0, 0, 0, 0, 0, 0, 0, 5], [0, 0, 0, 0, 0, 0, 0, 0, -5, 0]])
    assert normalise_map(m+5, 'pas', .5).equal((m>-5).float()) # rank 10 is 5, the least is 0
    assert normalise_map(m.clamp(min=0), 'pas', .5).equal((m>0).float())
    assert normalise_map(m, 'minmax', .5).equal((m>0).float())
    assert normalise_map(m, 'max', .5).equal((m>0).float()) and normalise_map(m-1, 'max', .5).equal((m>1).float())
    assert normalise_map(torch.tensor([[-0., -0., -0., 2.]]), 'max', .5).equal(torch.tensor([[0., 0, 0, 1]]))

def test_types_and_shapes():
    m = some_map(0)
    assert normalise_map(m.float()).dtype==torch.float32 and normalise_map(m.half()).dtype==normalise_map(m.bfloat16()).dtype==torch.float32
    assert normalise_map(m.mul(50).to(torch.int32)).dtype==torch.float32 and normalise_map(m>0, 'minmax').equal((m>0).float())
    got = normalise_map(m.numpy())
    assert isinstance(got, np.ndarray) and got.dtype==np.float64 and np.array_equal(got, normalise_map(m).numpy())
    assert normalise_map(m.T).equal(normalise_map(m).T) and normalise_map(m[None, :0, :].new_zeros(0, 6, 7)).shape==(0, 6, 7)
    assert normalise_map(m.clone().requires_grad_()).requires_grad is False
    before = m.clone(); normalise_map(m); assert m.equal(before)

def test_bad_input():
    m = some_map(0)
    for p in (1, 1., -.1, math.nan, 2):
        for how in NORMALISATIONS:
            with pytest.raises(ValueError, match='p: expected from 0 to below 1'): normalise_map(m, how, p)
    with pytest.raises(ValueError, match="how: expected one of minmax, max, pas, ivr, got 'mean'"): normalise_map(m, 'mean')
    for bad in (m[0], m[None, None], m[:0], m[None, :, :0]):
        for f in (normalise_map, lambda b: resize_map(b, 8)):
            with pytest.raises(ValueError, match=r'map: expected \(H, W\) or \(N, H, W\), got'): f(bad)
    with pytest.raises(ValueError, match='got list'): normalise_map(m.tolist())
    for size in (0, (3, 0), (1, 2, 3), -4):
        with pytest.raises(ValueError, match='size: expected pixels'): resize_map(m, size)

# Resizing

def cubic(t, a=-.75):
    t = abs(t)
    return (a+2)*t**3-(a+3)*t**2+1 if t<=1 else a*(t**3-5*t**2+8*t-4) if t<2 else 0

def bicubic(m, size):
    "Sixteen places around each pixel, those beyond the edge as at the edge"
    (h,w),(height,width) = m.shape,size
    res = torch.zeros(size, dtype=torch.float64)
    for r in range(height):
        for c in range(width):
            y,x = (r+.5)*h/height-.5,(c+.5)*w/width-.5
            for i in range(math.floor(y)-1, math.floor(y)+3):
                for j in range(math.floor(x)-1, math.floor(x)+3):
                    res[r, c] += cubic(y-i)*cubic(x-j)*m[min(max(i, 0), h-1), min(max(j, 0), w-1)]
    return res

@pytest.mark.parametrize('size', [(12, 14), (9, 20), (6, 7), (3, 4)])
def test_bicubic(size):
    m = some_map(3)
    torch.testing.assert_close(resize_map(m, size), bicubic(m, size), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(resize_map(m.float().numpy(), size), bicubic(m, size).float().numpy(), rtol=1e-4, atol=1e-5)

def test_resizing_overshoots_and_normalising_afterwards_does_not():
    m = torch.zeros(7, 7); m[2:5, 2:5] = 1
    large = resize_map(m, 56)
    assert large.max()>1.01 and large.min()<-.01
    first = resize_map(normalise_map(m, 'minmax'), 56)
    assert first.max()>1.01 # in the other order
    assert normalise_map(large, 'minmax').min()==0 and normalise_map(large, 'minmax').max()==1
    assert resize_map(m, (56, 56)).equal(large) and resize_map(m[None], 56)[0].equal(large)

# Mistakes

def rank_rounded_up(m, how, p):
    return normalise_map(m, how, min(p+1/m.numel(), .9999)) if how in ('pas', 'ivr') else normalise_map(m, how, p)
def interpolated_percentile(m, how, p):
    if how!='ivr': return normalise_map(m, how, p)
    g = (m-np.percentile(m.numpy(), 100*p)).clamp(min=0)
    return g/g.max()
def not_cut_off(m, how, p):
    v = m.flatten().sort()[0][int(p*m.numel())]
    return (m-v)/(m.max()-v) if how=='ivr' else normalise_map(m, how, p)
def minimum_first(m, how, p): return normalise_map(m-m.min() if how=='max' else m, how, p)
def from_the_top(m, how, p): return normalise_map(m, how, 1-p if how in ('pas', 'ivr') and p>0 else p)
def cut_off_at_zero_first(m, how, p): return normalise_map(m.clamp(min=0), how, p) # as a public library does
def cut_off_on_one_side(m, how, p):
    if how!='minmax': return normalise_map(m, how, p)
    v = m.flatten().sort()[0][int(p*m.numel())]
    return normalise_map(m.clamp(min=v), how, 0)

@pytest.mark.parametrize('wrong', [rank_rounded_up, interpolated_percentile, not_cut_off, minimum_first, from_the_top,
    cut_off_at_zero_first, cut_off_on_one_side], ids=lambda f: f.__name__)
def test_mistakes_are_caught(wrong):
    caught = 0
    for how in NORMALISATIONS:
        for p in (0, .29, .45, .8):
            try: matches(wrong, 5, 0, how, p)
            except AssertionError: caught += 1
            matches(normalise_map, 5, 0, how, p)
    assert caught
