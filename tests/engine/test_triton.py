"The Triton kernels and the engines on them, in the interpreter where there is no GPU, against float64"
import importlib.util, os, subprocess, sys
from pathlib import Path
import pytest, torch
import avh_nb as av
from avh_nb.angle import angle_between, pairs_in_float64
from avh_nb.engine import reference as torch_engines
from avh_nb.engine.reference import TorchEngine, TorchLoss
from avh_nb.engine.tally import CLASSES
from avh_nb.loss.angular import avh_loss
from avh_nb.measure.scores import scores_of
from avh_nb.engine.choice import which_engine
from conftest import interpreter
pytest.importorskip('triton')

INTERPRETED = not torch.cuda.is_available()
DEVICE = 'cpu' if INTERPRETED else 'cuda'
pytestmark = pytest.mark.filterwarnings('ignore::RuntimeWarning') # of NumPy, in which the interpreter computes

with interpreter(): from avh_nb.engine import triton_engine as engine, triton_loss as loss

@pytest.fixture(autouse=True)
def in_the_interpreter():
    with interpreter(): yield

TILE = (16, 16, 16, 4, 2)
EPS = 2**-23
SEEN = {}

def seen(name, error):
    SEEN[name] = max(SEEN.get(name, 0.), float(error))
    return float(error)

@pytest.fixture(scope='module', autouse=True)
def figures():
    yield
    print(); [print(f'{name:24} {error:.1e}') for name,error in sorted(SEEN.items())]

def inside(t, fill=float('nan')):
    "A copy of `t` between other memory that must be neither read nor written"
    room = torch.full((t.numel()+4096,), fill, dtype=t.dtype, device=DEVICE)
    view = room[2048:2048+t.numel()].view(t.shape)
    return view.copy_(t)

def data(n, c, d, seed=0, dtype=torch.float32, factor=1., shift=0.):
    g = torch.Generator().manual_seed(seed)
    make = lambda *shape: inside((factor*(torch.randn(*shape, generator=g)+shift)).to(dtype))
    x,w = make(n, d),make(c, d)
    y = torch.randint(c, (n,), generator=g).to(DEVICE)
    return x,w,y

def norms(x, w): return tuple(inside(torch.linalg.vector_norm(t.double(), dim=1).float()) for t in (x, w))

def reference(x, w, y, bias=None, scale=None):
    "The plain formulas in float64, a row at a time"
    x,w = x.double().cpu(),w.double().cpu()
    rows = []
    for i in range(len(x)):
        cos = (w@x[i]/w.norm(dim=1)/x[i].norm()).clamp(-1, 1)
        # Of nearly parallel vectors the difference says more than the cosine
        u,v = x[i]/x[i].norm(),w/w.norm(dim=1, keepdim=True)
        angle = 2*torch.atan2((u-v).norm(dim=1), (u+v).norm(dim=1))
        z = w@x[i] if scale is None else scale*(torch.pi-angle)
        if bias is not None: z = z+bias.double().cpu()
        held = z.argmax().item() if y is None else y[i].item()
        other = torch.arange(len(w))!=held
        row = dict(held=held, total=angle[other].sum().item(), z=z, cos=cos, other=other)
        if other.any():
            m = z[other].max()
            g = z[other]-m
            g = g[torch.arange(len(g))!=g.argmax()] # without the largest itself
            near = cos.where(other, torch.tensor(-9., dtype=torch.float64))
            left = z.where(other, torch.tensor(-torch.inf, dtype=torch.float64))
            after = left.index_fill(0, left.argmax(), -torch.inf)
            row |= dict(largest=m.item(), largest_class=left.argmax().item(), second=after.max().item(),
                second_class=after.argmax().item() if after.max()>-torch.inf else -1,
                rest=g.exp().sum().item(),
                rest_squared=(2*g).exp().sum().item(), weighted=(g*g.exp()).where(g>-700, torch.zeros(())).sum().item(),
                nearest_class=near.argmax().item())
        else: row |= dict(largest=-torch.inf, largest_class=-1, second=-torch.inf, second_class=-1, rest=0., rest_squared=0., weighted=0.,
            nearest_class=-1)
        rows.append(row)
    return rows

def check(x, w, y, bias=None, scale=None, label='', rows=None, delta=EPS, engine=engine, **kwargs):
    "Compare one call with the reference; `rows`: only these"
    kwargs = dict(tile=TILE) | kwargs
    res = engine.others(x, w, y, *norms(x, w), bias=bias, scale=scale, **kwargs)
    size = x.double().norm(dim=1).cpu()*w.double().norm(dim=1).max().cpu()
    for i,row in enumerate(reference(x, w, y, bias, scale)):
        if rows is not None and i not in rows: continue
        got = {name: t[i].item() for name,t in res.items()}
        # What float32 can know of a logit
        if scale is None: unit = 1e-6*size[i].item()
        else: unit = scale*torch.pi*3e-7/row['cos'].abs().max().neg().add(1).clamp(1e-12).sqrt().item()+scale*1e-6
        if bias is not None: unit += 1e-7*bias.abs().max().item()
        if y is None:
            assert row['z'].max()-row['z'][got['held']]<=2*unit
            if got['held']!=row['held']: continue
        else: assert got['held']==row['held']
        if got['doubtful']: SEEN['doubtful rows'] = SEEN.get('doubtful rows', 0)+1
        elif row['other'].any(): assert seen(label+'total', abs(got['total']/row['total']-1))<1e-6, (i, got, row['total'])
        else: assert got['total']==0
        if 'largest' not in res: continue
        if not row['other'].any():
            assert (got['largest'], got['largest_class'], got['second'], got['second_class'], got['rest'], got['rest_squared'],
                got['weighted'], got['nearest_class'], got['doubtful'])==(-torch.inf, -1, -torch.inf, -1, 0, 0, 0, -1, False)
            continue
        assert row['other'][got['largest_class']] and row['other'][got['nearest_class']]
        assert row['z'][got['largest_class']]>=row['largest']-2*unit
        assert row['cos'][got['nearest_class']]>=row['cos'][row['other']].max()-1e-6
        assert seen(label+'largest/unit', abs(got['largest']-row['largest'])/unit)<1
        if got['largest_class']!=row['largest_class']: continue
        if row['second_class']<0: assert (got['second'], got['second_class'])==(-torch.inf, -1)
        else:
            assert row['other'][got['second_class']] and got['second_class']!=got['largest_class']
            assert row['z'][got['second_class']]>=row['second']-2*unit
            assert seen(label+'second/unit', abs(got['second']-row['second'])/unit)<1
        for name in ('rest', 'rest_squared'):
            assert seen(label+name+'/unit', abs(got[name]-row[name])/(unit+1e-6)/(row[name]+1e-36))<4, (i, name, got, row[name])
        assert abs(got['weighted']-row['weighted'])<4*(unit+1e-6)*(row['rest']-row['weighted']+1e-36), (i, got['weighted'], row['weighted'])
    return res

SHAPES = [(1, 1, 1), (1, 37, 20), (20, 1, 5), (20, 2, 7), (33, 50, 40), (16, 32, 16), (5, 3, 1), (17, 49, 33)]

@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('labels', (True, False))
def test_shapes(shape, labels):
    x,w,y = data(*shape)
    check(x, w, y if labels else None)

@pytest.mark.parametrize('labels', (True, False))
def test_bias_and_scale(labels):
    x,w,y = data(20, 50, 24)
    y = y if labels else None
    check(x, w, y, bias=inside(torch.randn(50, generator=torch.Generator().manual_seed(1))*3))
    check(x, w, y, scale=16.); check(x, w, y, scale=1)

def test_not_full():
    x,w,y = data(20, 50, 24)
    full,part = check(x, w, y),check(x, w, y, full=False)
    assert list(part)==['held', 'total', 'doubtful'] and torch.equal(full['total'], part['total'])
    assert list(check(x, w, None, full=False))==['held', 'total', 'doubtful']

def test_no_rows():
    x,w,y = data(0, 5, 4)
    res = engine.others(x, w, y, *norms(x, w))
    assert all(t.shape==(0,) for t in res.values())
    assert [t.dtype for t in res.values()]==[torch.int64, torch.float64, torch.bool, torch.float32, torch.int64, torch.float32,
        torch.int64, torch.float32, torch.float32, torch.float32, torch.int64]

def test_labels_elsewhere():
    x,w,y = data(20, 40, 9)
    y[::3] = -1
    res = check(x, w, y)
    assert res['held'].tolist()==y.tolist()

def test_strides():
    x,w,y = data(20, 40, 9)
    expected = engine.others(x, w, y, *norms(x, w), tile=TILE)
    got = engine.others(x.T.contiguous().T, torch.stack([w, w], 1)[:, 0], torch.stack([y, y], 1)[:, 0], *norms(x, w), tile=TILE)
    assert all(torch.equal(a, b) for a,b in zip(expected.values(), got.values()))

@pytest.mark.parametrize('dtype', (torch.float16, torch.bfloat16))
def test_half(dtype):
    x,w,y = data(20, 40, 24, dtype=dtype)
    check(x, w, y, label='half '); check(x, w, None, label='half '); check(x, w, y, precision='fast', label='half ')
    check(x, w.float(), y, label='half ')

@pytest.mark.skipif(not INTERPRETED, reason='products are cut only on a GPU')
def test_precisions_in_the_interpreter():
    "Its products are exact in each: what differs is the flag"
    x,w,y = data(20, 2, 24)
    w[1] = w[0]
    for precision,flags in (('exact', True), ('tf32x3', True), ('fast', False)):
        res = engine.others(x, torch.cat([w, x[:1]]), torch.zeros_like(y), norms(x, w)[0], norms(torch.cat([w, x[:1]]), w)[0],
            precision=precision, tile=TILE)
        assert res['doubtful'][0]==flags

@pytest.mark.skipif(INTERPRETED, reason='needs a GPU')
@pytest.mark.parametrize('precision,bound', (('tf32x3', 2e-6), ('fast', 2e-3)))
def test_precisions(precision, bound):
    x,w,y = data(300, 500, 512)
    res = engine.others(x, w, y, *norms(x, w), precision=precision)
    for i,row in enumerate(reference(x, w, y)): assert abs(res['total'][i].item()/row['total']-1)<bound

@pytest.mark.skipif(INTERPRETED, reason='needs a GPU')
@pytest.mark.parametrize('dtype', (torch.float32, torch.float16, torch.bfloat16))
def test_usual_tiles(dtype):
    for shape in ((300, 500, 512), (129, 65, 33), (1, 1, 1)):
        x,w,y = data(*shape, dtype=dtype)
        check(x, w, y, tile=None); check(x, w, None, tile=None); check(x, w, y, tile=None, scale=16.)
        check(x, w, None, tile=None, full=False)

@pytest.mark.parametrize('bad', (0., float('nan'), float('inf')))
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_rows_without_direction(bad):
    x,w,y = data(20, 40, 9)
    for labels in (y, None):
        for scale in (None, 8.):
            good = engine.others(x, w, labels, *norms(x, w), scale=scale, tile=TILE)
            spoilt = inside(x)
            spoilt[5] = bad
            res = engine.others(spoilt, w, labels, *norms(spoilt, w), scale=scale, tile=TILE)
            keep = torch.arange(20, device=DEVICE)!=5
            assert all(torch.equal(good[k][keep], res[k][keep]) for k in good)
            assert 0<=res['held'][5]<40 and res['total'][5].isnan()
            for k in ('largest_class', 'second_class', 'nearest_class'): assert -1<=res[k][5]<40

def test_large_logits():
    x,w,y = data(20, 70, 12, factor=30.)
    res = check(x, w, y, label='large ')
    assert res['largest'].max()>2e3
    g = torch.Generator().manual_seed(3)
    res = check(*data(20, 70, 12), bias=inside(1e4*torch.randn(70, generator=g)), label='large ')
    assert res['largest'].max()>1e4 and all(res[k].isfinite().all() for k in ('rest', 'rest_squared', 'weighted'))

def small_rest(engine, largest):
    "The largest logit is that of class `largest`, and far above all others: 1 and what they sum to is 1 in float32"
    x,w = inside(torch.ones(1, 1)),inside(torch.rand(50, 1, generator=torch.Generator().manual_seed(2))+3)
    w[largest] = 28
    row, = reference(x, w, torch.tensor([0]))
    res = engine.others(x, w, torch.tensor([0], device=DEVICE), *norms(x, w), tile=TILE)
    assert row['rest']<2e-9 and res['largest_class'].item()==largest
    for name in ('rest', 'rest_squared', 'weighted'): assert seen('small '+name, abs(res[name].item()/row[name]-1))<1e-5

@pytest.mark.parametrize('largest', (5, 20, 49))
def test_small_rest(largest): small_rest(engine, largest)

def test_classes_ruled_out():
    "A bias of -inf takes a class out of the softmax, not out of the angles"
    x,w,y = data(20, 70, 12)
    bias = inside(torch.zeros(70))
    bias[20:60] = -torch.inf
    y = y%20
    res,some = engine.others(x, w, y, *norms(x, w), bias=bias, tile=TILE),torch.cat([w[:20], w[60:]])
    less,all_ = engine.others(x, some, y, *norms(x, some), tile=TILE),engine.others(x, w, y, *norms(x, w), tile=TILE)
    assert torch.equal(res['total'], all_['total'])
    for k in ('rest', 'rest_squared', 'weighted', 'largest', 'second'): torch.testing.assert_close(res[k], less[k], rtol=1e-6, atol=1e-6)
    bias[:] = -torch.inf
    res = engine.others(x, w, y, *norms(x, w), bias=bias, tile=TILE)
    assert res['largest'].eq(-torch.inf).all() and res['largest_class'].eq(-1).all() and res['rest'].eq(0).all()
    assert res['second'].eq(-torch.inf).all() and res['second_class'].eq(-1).all()
    bias[[7, 65]] = 0 # two are left, one for those that have the other held out
    res = engine.others(x, w, torch.full_like(y, 65), *norms(x, w), bias=bias, tile=TILE)
    assert res['largest_class'].eq(7).all() and res['second_class'].eq(-1).all()
    res = engine.others(x, w, torch.full_like(y, 30), *norms(x, w), bias=bias, tile=TILE)
    assert (res['largest_class']+res['second_class']).eq(72).all()

def equal_logits(engine):
    "The first of equals, within a tile and across tiles"
    x,w,_ = data(20, 64, 12)
    w[[9, 20, 40, 41]] = w[3].clone(); x = inside(w[3].repeat(20, 1)+.3*x)
    res = engine.others(x, w, None, *norms(x, w), tile=TILE)
    assert res['held'].eq(3).all() and res['largest_class'].eq(9).all() and res['nearest_class'].eq(9).all() and res['doubtful'].all()
    assert res['second_class'].eq(20).all()
    res = engine.others(x, w, torch.full((20,), 9, device=DEVICE), *norms(x, w), tile=TILE)
    assert res['largest_class'].eq(3).all() and res['nearest_class'].eq(3).all() and res['second_class'].eq(20).all()

def test_ties():
    "And two that are equally near are in doubt"
    equal_logits(engine)
    for first,second in ((5, 6), (5, 40), (40, 5)): assert equally_near(engine, first, second)

def equally_near(engine, first, second):
    "Is a row in doubt that has two others at the same 0.7 rad?"
    w = data(1, 64, 12, seed=4)[1]
    w[second] = 2*w[first]
    x = inside(rotated(w[first].double().cpu(), .7, torch.Generator().manual_seed(4)).float()[None])
    res = engine.others(x, w, torch.tensor([63], device=DEVICE), *norms(x, w), tile=TILE)
    w[second] = 0.01*w[0]+w[1]
    alone = engine.others(x, w, torch.tensor([63], device=DEVICE), *norms(x, w), tile=TILE)
    assert res['nearest_class'].item()==min(first, second) and alone['nearest_class'].item()==first and not alone['doubtful'].item()
    return res['doubtful'].item()

def rotated(u, angle, g):
    "A vector at `angle` from the float64 row `u`"
    v = torch.randn(u.shape, generator=g, dtype=torch.float64)
    v -= (v@u)/(u@u)*u
    return u/u.norm()*torch.cos(torch.tensor(angle))+v/v.norm()*torch.sin(torch.tensor(angle))

@pytest.mark.parametrize('where', (2, 30))
def test_doubtful(where):
    "Another class at 1e-4 rad, or at pi less that, among few classes or many others"
    g = torch.Generator().manual_seed(5)
    x,w,_ = data(3, 40, 16)
    for sign in (1, -1):
        few = inside(torch.stack([w[0], (sign*rotated(x[0].double().cpu(), 1e-4, g)).float().to(DEVICE)]))
        res = engine.others(x, few, torch.zeros(3, dtype=torch.int64, device=DEVICE), *norms(x, few), tile=TILE, full=False)
        assert res['doubtful'].tolist()==([True, False, False] if sign>0 else [True, False, False])
        w[where] = few[1]
        y = torch.ones(3, dtype=torch.int64, device=DEVICE)
        res = check(x, w, y)
        assert res['doubtful'].tolist()==[True, False, False]
        # Held out it is no trouble
        assert not check(x, w, torch.full_like(y, where))['doubtful'].any()

def test_doubtful_rule():
    "The flag is the rule, over many angles of all sizes"
    g = torch.Generator().manual_seed(6)
    n_flagged = 0
    for c in (2, 20):
        for power in torch.arange(-4, 0.1, .25).tolist():
            x,w,y = data(4, c, 8, seed=int(-100*power))
            w[-1] = rotated(x[0].double().cpu(), 10**power, g).float()
            y = y%(c-1)
            res = check(x, w, y)
            for i,row in enumerate(reference(x, w, y)):
                t = row['cos'][row['other']]
                a,first = t.abs(),t.topk(min(2, len(t))).values
                left,right = (a>.9).sum().item()*EPS/max(1-a.max()**2, EPS)**.5,2e-7*row['total']
                flagged = bool(left>right) or bool(first[0]>.6 and len(first)>1 and first[0]-first[1]<4*EPS)
                if not .8*right<left<1.25*right: assert res['doubtful'][i].item()==flagged
                n_flagged += flagged
    assert 20<n_flagged<200

def test_many_classes():
    "A hundred thousand classes, and every tile brings a larger logit"
    n = 10**5
    g = torch.Generator().manual_seed(7)
    w,bias = inside(torch.rand(n, 1, generator=g)+.5),torch.linspace(-6, 6, n)+torch.rand(n, generator=g)
    x,y = inside(torch.tensor([[1.], [-1]])),torch.tensor([5, n-1], device=DEVICE)
    bias = inside(bias)
    res = engine.others(x, w, y, *norms(x, w), bias=bias, tile=(2, 1024, 1, 4, 2) if INTERPRETED else None)
    for i,row in enumerate(reference(x, w, y, bias)):
        for name in ('rest', 'rest_squared', 'weighted'): assert seen('many '+name, abs(res[name][i].item()/row[name]-1))<2e-6

def test_arccos():
    "The polynomial, at the angles themselves: scale 1 and one other class give pi less the angle"
    t = torch.cat([torch.linspace(-1, 1, 2001, dtype=torch.float64), 1-torch.logspace(-7, -1, 50, dtype=torch.float64)])
    w = inside(torch.stack([t, (1-t*t).clamp(min=0).sqrt()], 1).float())
    x,y = inside(torch.tensor([[1., 0]])),torch.zeros(len(w), dtype=torch.int64, device=DEVICE)
    res = engine.others(x.expand(1, 2), w, None, *(torch.ones(k, device=DEVICE) for k in (1, len(w))), full=False, tile=TILE)
    # One class at a time, as many rows
    angle = engine.others(w, x, y-1, torch.ones(len(w), device=DEVICE), torch.ones(1, device=DEVICE), full=False,
        tile=(1024, 16, 16, 4, 2) if INTERPRETED else None)['total'].cpu()
    exact = w[:, 0].double().cpu().acos()
    assert seen('arccos, relative', ((angle-exact).abs()/exact.clamp(min=1e-9)).max())<4e-7 and (angle[exact==0]==0).all()
    assert seen('sum of arccos', abs(res['total'].item()/(exact.sum()-exact.min()).item()-1))<1e-6

LOSSES = [(1, 1, 1), (1, 30, 5), (40, 1, 7), (37, 70, 24), (16, 64, 9)]

def loss_check(n, c, d, scale=12., with_offset=False, angle=None, loss=loss, **kwargs):
    "The kernel of the loss, with labels of all kinds, against the plain formulas"
    x,w,_ = data(n, c, d)
    if angle is not None: w[0] = rotated(x[0].double().cpu(), angle, torch.Generator().manual_seed(8)).float()*3
    xn,wn = norms(x, w)
    held = inside(torch.arange(n)*7%(c+2)-1, 10**9) # -1 and C are none
    dot = inside(w.float()@x.float().T)
    t = (dot.double()/wn.double()[:, None]/xn.double()).cpu().clamp(-1, 1)
    offset = inside(scale*t.acos().min(0).values.float()) if with_offset else None
    e = ((0 if offset is None else offset.double().cpu())-scale*t.acos()).exp().where(torch.arange(c)[:, None]!=held.cpu(), 0)
    k = e/(wn.double().cpu()[:, None]*(1-t*t).clamp(min=8*EPS).sqrt())
    room = dot._base.clone()
    sums = loss.exponential_sums(dot, xn, wn, held, scale, offset, **(dict(tile=(8, 16, 4), part=32) | kwargs))
    # The rounding of a cosine is as much as is known of an angle
    unit = 1e-6+scale*4e-7/(1-t*t).clamp(min=8*EPS).sqrt()
    assert seen('loss k/unit',
        ((dot.double().cpu()/k-1).abs().where(k>1e-36, torch.zeros(()).double())/(unit+4e-7/(1-t*t).clamp(min=8*EPS))).max())<1
    assert seen('loss sums', ((sums.double().cpu()-e.sum(0)).abs()/(e.sum(0)+1e-36)).max()/unit.max())<1
    assert torch.equal(dot.cpu()==0, k==0) or k[k>0].min()<1e-36
    assert torch.equal(room[:2048].isnan(), dot._base[:2048].isnan()) and dot._base[2048+n*c:].isnan().all()
    return dot,sums

@pytest.mark.parametrize('shape', LOSSES, ids=str)
def test_loss(shape):
    loss_check(*shape); loss_check(*shape, with_offset=True, scale=200.); loss_check(*shape, tile=(16, 16, 4), part=128)

def test_loss_ends():
    for angle in (0., 1e-4, 1e-2, 3.1415, 3.14159265358979): loss_check(9, 20, 6, angle=angle)

def test_loss_repeats():
    a,b = loss_check(37, 70, 24),loss_check(37, 70, 24)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])

def test_loss_of_some_classes():
    "Rows of a larger buffer, and labels counted from the first of them"
    x,w,y = data(37, 70, 24)
    (xn,wn),whole = norms(x, w),w@x.T
    pieces = whole.clone()
    sums = loss.exponential_sums(whole, xn, wn, y, 9.)
    parts = [loss.exponential_sums(pieces[p], xn, wn[p], y-p.start, 9.) for p in (slice(0, 33), slice(33, 70))]
    assert torch.equal(pieces, whole)
    torch.testing.assert_close(sum(parts), sums, rtol=1e-6, atol=0)

def test_loss_refuses_strides():
    with pytest.raises(ValueError, match='contiguous'):
        loss.exponential_sums(torch.ones(3, 4).T, torch.ones(3), torch.ones(4), torch.zeros(3, dtype=torch.int64), 1.)

def test_loss_of_nothing():
    held = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    assert loss.exponential_sums(torch.empty(0, 4, device=DEVICE), torch.ones(4, device=DEVICE), torch.ones(0, device=DEVICE), held,
        1.).tolist()==[0]*4
    assert loss.exponential_sums(torch.empty(3, 0, device=DEVICE), torch.ones(0, device=DEVICE), torch.ones(3, device=DEVICE), held[:0],
        1.).shape==(0,)

def loss_engine_check(loss, kind='TritonLoss', c=30, with_offset=False, tolerance=3e-6):
    "Each step of the loss against the same in PyTorch and float64; some labels are not among the classes"
    x,w,y = data(20, c, 9)
    y[::4] = -1
    x[1] = w[y[1]]+.5*x[1] # its label is the nearest
    drawn = torch.Generator().manual_seed(3)
    g,share,offset = inside(torch.randn(20, 9, generator=drawn)),*inside(torch.rand(2, 20, generator=drawn))
    if not with_offset: offset = None
    xn,wn = norms(x, w)
    theirs,mine,long = TorchLoss(x, w),getattr(loss, kind)(x, w),lambda t: t if t is None or t.dtype==torch.int64 else t.double()
    def close(a, b): return seen(kind, (long(a)-b).abs().max()/b.abs().max().clamp(min=1e-30))<tolerance
    own,expected_own = mine.label_angles(x, w, y, xn, wn),theirs.label_angles(*map(long, (x, w, y, xn, wn)))
    assert close(own, expected_own)
    k = inside(torch.zeros(c, 20))
    mine.inner_products(w, x, out=k)
    expected_k = long(w)@long(x).T
    assert close(k, expected_k)
    assert close(mine.largest_cosines(k, xn, wn, y), theirs.largest_cosines(expected_k.clone(), long(xn), long(wn), y))
    sums,expected_sums = mine.exponential_sums(k, xn, wn, y, 5., offset),theirs.exponential_sums(expected_k, long(xn), long(wn), y, 5.,
        long(offset))
    assert (expected_sums==0).all() if c==1 and (y==0).all() else close(sums, expected_sums)
    result,expected = mine.add_label(k, y, own, sums, share, 5., offset),theirs.add_label(expected_k, y, expected_own, expected_sums,
        long(share), 5., long(offset))
    assert close(k, expected_k) and close(result[0], expected[0]) and close(result[1], expected[1])
    expected_g = long(g)
    mine.project_out(g, x, xn, share); theirs.project_out(expected_g, long(x), long(xn), long(share))
    assert close(g, expected_g)

@pytest.mark.parametrize('kind', ('TritonLoss', 'FastTritonLoss'))
def test_each_step_of_the_loss(kind, monkeypatch):
    tolerance = 3e-6 if INTERPRETED or kind=='TritonLoss' else 1e-2
    def refuse(*_): raise AssertionError('the setting is that of the whole process')
    monkeypatch.setattr(torch, 'set_float32_matmul_precision', refuse)
    loss_engine_check(loss, kind, tolerance=tolerance); loss_engine_check(loss, kind, c=1, tolerance=tolerance)
    loss_engine_check(loss, kind, with_offset=True, tolerance=tolerance)

def tally_check(engine, x, w, y=None, bias=None, scale=None, sums=1e-6, softmax=1e-5, kind='TritonEngine'):
    "A tally against that of PyTorch in float64, and the sums of angles where there are labels"
    mine,theirs = getattr(engine, kind)(w, bias, scale),TorchEngine(w.double(), bias if bias is None else bias.double(), scale)
    (t,norm,doubtful),(expected,_,_) = mine.tally(x, y),theirs.tally(x.double(), y)
    assert mine.usable and torch.equal(norm, torch.linalg.vector_norm(x.float(), dim=1))
    sure = ~doubtful
    for (name,a),(_,b) in zip(t, expected):
        assert a.dtype==b.dtype and a.shape==b.shape and a.device==x.device
        a,b = a[sure],b[sure]
        if a.dtype==torch.int64: assert torch.equal(a, b), name
        elif name in ('angle', 'nearest', 'logit', 'largest_angle'):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True, msg=name)
        else:
            torch.testing.assert_close(a, b, rtol=sums if name=='total' else softmax, atol=0 if name=='total' else 1e-30, msg=lambda m,
                name=name: f'{name}: {m}')
    if y is None: return doubtful
    angle,total,_ = mine.angle_sums(x, y)
    assert torch.equal(angle, t.angle) or y.min()<0
    assert torch.equal(total, t.total)
    return doubtful

@pytest.mark.parametrize('kind', ('TritonEngine',)+('FastTritonEngine',)*INTERPRETED) # which is as exact only there
@pytest.mark.parametrize('head', ('labels', 'none', 'bias', 'scale', 'elsewhere'))
def test_tally(head, kind):
    x,w,y = data(70, 130, 20, factor=.5)
    y = {'none': None, 'elsewhere': torch.where(y<40, -1, y)}.get(head, y)
    tally_check(engine, x, w, y, torch.randn(130, generator=torch.Generator().manual_seed(1)).to(DEVICE) if head=='bias' else None,
        9. if head=='scale' else None, kind=kind)

def test_tally_of_the_parts():
    "What is found for some of the classes adds up"
    x,w,y = data(40, 90, 12, factor=.5)
    for labels in (y, None):
        parts = [engine.TritonEngine(w[p]).tally(x, labels if labels is None else labels-p.start)[0] for p in (slice(0, 20), slice(20, 90))]
        for name,classes in parts[1]:
            if name in CLASSES: classes[classes>=0] += 20
        whole = scores_of(engine.TritonEngine(w).tally(x, labels)[0], 90)
        for name,values in scores_of(parts[0]+parts[1], 90).items():
            torch.testing.assert_close(values, whole[name], rtol=1e-5, atol=1e-6, msg=name)

def test_labels_that_are_none():
    x,w,y = data(3, 40, 9)
    y[:] = torch.tensor([-1, 40, 7])
    t,_,_ = engine.TritonEngine(w).tally(x, y)
    angle,_,_ = engine.TritonEngine(w).angle_sums(x, y)
    assert t.held.tolist()==[-1, -1, 7] and angle.isnan().tolist()==t.angle.isnan().tolist()==[True, True,
        False] and t.logit[:2].eq(-torch.inf).all()

def test_what_an_engine_takes():
    _,w,_ = data(1, 5, 4)
    make = engine.TritonEngine
    assert make(w).usable and make(w, torch.ones(5, device=DEVICE)).usable and make(w.half()).usable
    for bad in (0., 1e-20, 1e20, float('nan'), float('inf')):
        v = w.clone()
        v[3] *= bad
        assert make(v).usable is False
    assert not make(w, torch.full((5,), torch.inf, device=DEVICE)).usable

def test_an_old_triton_is_refused(monkeypatch):
    monkeypatch.delattr('triton.language.div_rn')
    with pytest.raises(ImportError, match='and 3 is needed'): load(Path(engine.__file__))

def test_slices():
    def of(n, d):
        seen = []
        engine.TritonEngine(torch.ones(1, d, device=DEVICE)).over_slices(seen.append, n)
        return seen
    assert of(0, 3)==[slice(0, 0)] and of(5, 3)==[slice(0, 5)]
    assert of(2**18+1, 256)==[slice(0, 2**18), slice(2**18, 2**18+1)] and of(2**18, 2**9)==[slice(0, 2**17), slice(2**17, 2**18)]

def test_pairs_in_pieces(monkeypatch):
    x,w,y = data(50, 7, 12)
    y[3] = -1
    whole = pairs_in_float64(angle_between, x, w, y)
    monkeypatch.setattr('avh_nb.angle.PAIRS', 100)
    assert torch.equal(whole.nan_to_num(-1), pairs_in_float64(angle_between, x, w, y).nan_to_num(-1)) and whole[3].isnan()

def stays_predicted(engine):
    "Of equal logits the first is held out, however its logit is rounded afterwards"
    g = torch.Generator().manual_seed(0)
    x,w = torch.randn(60, 37, generator=g),torch.randn(30, 37, generator=g)
    w[[3, 9, 20]] = w[5].clone()
    x = inside(x+w[5])
    w = inside(w)
    t,_,_ = engine.TritonEngine(w).tally(x)
    twins = t.held==3
    assert twins.sum()>30 and t.largest_class[twins].eq(5).all()
    assert torch.equal(scores_of(t, 30)['pred'], t.held)

def test_stays_predicted(): stays_predicted(engine)

SCORED = [(1, 1, 5), (1, 30, 7), (40, 1, 7), (37, 2, 9), (70, 130, 20)]
BY_NAME = [(shape, 'triton') for shape in SCORED]+[(SCORED[3], 'triton-fast')]*INTERPRETED
SOFTMAX = ('confidence', 'entropy', 'loss', 'el2n', 'margin')

@pytest.mark.parametrize('shape,name', BY_NAME, ids=str)
def test_scores(shape, name):
    "What a caller gets, of labels, without, with a bias, and of angular logits"
    x,w,y = data(*shape, factor=.7)
    bias = torch.randn(shape[1], generator=torch.Generator().manual_seed(1)).to(DEVICE)
    expected = av.avh(x.double(), w.double(), y, engine='torch')
    assert seen(name+' avh', (av.avh(x, w, y, engine=name)/expected-1).abs().max())<1e-6
    for kwargs in (dict(y=y), {}, dict(y=y, bias=bias), dict(bias=bias), dict(y=y, scale=9.), dict(scale=9.)):
        long = {k: v.double() if k=='bias' else v for k,v in kwargs.items()}
        got,expected = av.score(x, w, engine=name, **kwargs),av.score(x.double(), w.double(), engine='torch', **long)
        assert torch.equal(got.pred, expected.pred) and torch.equal(got.pred2, expected.pred2)
        for field in ('norm', 'angle', 'avh', 'avc', 'angle_pred', 'avh_pred'):
            assert seen(f'{name} {field}', (getattr(got, field)/getattr(expected, field)-1).abs().max())<1e-6
        torch.testing.assert_close(got.angular_gap.double(), expected.angular_gap, rtol=1e-6, atol=1e-6, equal_nan=True)
        for field in ('logit_margin', 'energy'):
            torch.testing.assert_close(getattr(got, field).double(), getattr(expected, field), rtol=1e-5, atol=1e-5, equal_nan=True)
        for field in SOFTMAX:
            a,b = getattr(got, field),getattr(expected, field)
            assert seen(f'{name} softmax', ((a-b).abs()/(b.abs()+1e-30 if field!='margin' else 1)).max())<1e-5, (field, a, b)

def test_scores_keep_small_digits():
    "A sample that is all but certain: its loss, entropy and error are what little is left"
    x,w,y = data(20, 40, 24)
    x = 25*w[y]/norms(x, w)[1][y, None]**2+.1*x
    got,expected = av.score(x, w, y, engine='triton'),av.score(x.double(), w.double(), y, engine='torch')
    assert expected.loss.median()<1e-6
    for field in ('loss', 'entropy', 'el2n'): assert seen('small scores', (getattr(got, field)/getattr(expected, field)-1).abs().max())<3e-5

@pytest.mark.parametrize('dtype', (torch.float16, torch.bfloat16), ids=str)
def test_scores_of_half_precision(dtype):
    x,w,y = data(20, 40, 24, dtype=dtype)
    for v in (w, w.float()):
        assert seen('half avh', (av.avh(x, v, y, engine='triton')/av.avh(x.double(), v.double(), y, engine='torch')-1).abs().max())<1e-6

def test_rows_that_have_no_angle():
    "They get NaN and are reported; rows and class vectors too short or too long for float32 are right all the same"
    x,w,y = data(40, 20, 9)
    x[3],x[5],x[7,2] = 0,torch.nan,torch.inf
    x[9] *= 1e-20
    x[11] *= 1e18
    for f in (lambda e: av.avh(x, w, y, engine=e), lambda e: av.avh(x, w, engine=e), lambda e: av.score(x, w, y, engine=e).avh,
        lambda e: av.score(x, w, scale=9., engine=e).avh):
        with pytest.warns(UserWarning, match='3 of 40 rows of x are zero or not finite, the first at index 3'): got = f('triton')
        with pytest.warns(UserWarning): expected = f('torch')
        assert got.isnan().nonzero()[:, 0].tolist()==[3, 5, 7]
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=0, equal_nan=True)
    good = torch.arange(12, 40, device=DEVICE)
    torch.testing.assert_close(av.avh(x[good], 1e-20*w, y[good], engine='triton'), av.avh(x[good], w, y[good], engine='torch'), rtol=1e-6,
        atol=0)
    w[2] = 0
    with pytest.raises(ValueError, match='w: row 2'): av.avh(x[good], w, y[good], engine='triton')

def test_scores_of_no_rows():
    x,w,y = data(0, 5, 4)
    assert av.avh(x, w, y, engine='triton').shape==(0,) and len(av.score(x, w, engine='triton'))==0

def test_small_angles_are_exact():
    "Label or others near the sample or against it: the row is computed again, and is right to float32"
    g = torch.Generator().manual_seed(5)
    for angle in (1e-6, 1e-4, .02, 3.1415):
        x,w,y = data(6, 3, 16)
        for c in (0, 1): w[c] = rotated(x[c].double().cpu(), angle, g).float()
        assert seen('small angles', (av.avh(x, w, y, engine='triton')/av.avh(x.double(), w.double(), y, engine='torch')-1).abs().max())<1e-6

def gradients(x, w, y, name, **kwargs):
    x,w = x.clone().requires_grad_(),w.clone().requires_grad_()
    value = avh_loss(x, w, y, engine=name, **kwargs)
    return value.detach(),*torch.autograd.grad(value, (x, w))

@pytest.mark.parametrize('shape,name', BY_NAME, ids=str)
def test_avh_loss(shape, name, monkeypatch):
    "Value and gradients, in one block of rows and in several; a large scale takes the largest logit off"
    x,w,y = data(*shape)
    y[::7] = -100
    for rows in (1024, 16):
        monkeypatch.setattr('avh_nb.loss.fused.ROWS', rows)
        for kwargs in (dict(scale=40.), dict(reduction='sum', weight=torch.linspace(.5, 1, shape[1], device=DEVICE))):
            got,expected = gradients(x, w, y, name, **kwargs),gradients(x.double(), w.double(), y, 'torch', **kwargs)
            # of one class the loss is 0, and so is its gradient
            for what,a,b in zip(('value', 'in x', 'in w'), got, expected):
                assert seen(f"loss {what}{', scale 40'*('scale' in kwargs)}",
                    (a-b).norm()/b.norm().clamp(min=1e-6))<(5e-6 if 'scale' in kwargs else 1e-6), what

def test_avh_loss_repeats():
    x,w,y = data(70, 130, 20)
    assert all(map(torch.equal, gradients(x, w, y, 'triton'), gradients(x, w, y, 'triton')))

@pytest.mark.skipif(not INTERPRETED, reason='a GPU is what the engine is for')
def test_others_are_not_interpreted(monkeypatch):
    "Tensors on a processor go to Triton only by name, and only where the interpreter is asked for"
    x,w = torch.randn(2**10, 2**8),torch.randn(2**8, 2**8)
    assert which_engine(None, x, w)!='triton' and which_engine('triton', x, w)=='triton'
    monkeypatch.delenv('TRITON_INTERPRET')
    with pytest.raises(ValueError, match='takes tensors on cuda, got cpu'): which_engine('triton', x, w)

def others_checks(engine):
    "Enough to notice each of the mutants below, of the first kernel"
    x,w,y = data(18, 50, 20)
    check(x, w, y, engine=engine); check(x, w, None, engine=engine); check(x, w, y, scale=9., engine=engine)
    near = data(18, 50, 3, seed=9)
    check(*near, engine=engine)
    for first,second in ((5, 6), (5, 40), (40, 5)): assert equally_near(engine, first, second)
    small_rest(engine, 5); small_rest(engine, 20); equal_logits(engine)
    x,w,_ = data(1, 50, 12)
    w[5:40] = x[0]
    assert engine.others(x, w, None, *norms(x, w), tile=TILE)['held'].item()==5
    pair = inside(torch.stack([w[0], -x[0]+1e-4*w[1]]))
    assert engine.others(x, pair, torch.zeros(1, dtype=torch.int64, device=DEVICE), *norms(x, pair), tile=TILE,
        full=False)['doubtful'].all()

def engine_checks(engine):
    "Of what is done around it"
    x,w,y = data(18, 50, 20, factor=.5)
    y[3] = -1
    bias = torch.randn(50, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    tally_check(engine, x, w, y); tally_check(engine, x, w, None, bias); tally_check(engine, x, w, y, scale=9.)
    tally_check(engine, *data(5, 1, 3))
    stays_predicted(engine)
    x[4] = 0; x[5] = torch.nan; x[6] *= 1e-20; x[7] *= 1e20
    for doubtful in (engine.TritonEngine(w).tally(x, y)[2], engine.TritonEngine(w).angle_sums(x, y)[2]): assert doubtful[4:8].all()

def loss_checks(loss):
    "And of the second"
    loss_check(37, 70, 24, loss=loss); loss_check(37, 70, 24, with_offset=True, loss=loss); loss_check(9, 20, 6, angle=0., loss=loss)
    loss_engine_check(loss); loss_engine_check(loss, with_offset=True)

MUTANTS = {
    'sums not rescaled': ('e_sum = shrink*(', 'e_sum = ('),
    'squares rescaled once': ('e2_sum = shrink*shrink*', 'e2_sum = shrink*'),
    'weighted not shifted': ('(eg_sum+step*(e_sum+joins))', 'eg_sum'),
    'weighted without the former largest': ('step*(e_sum+joins)', 'step*e_sum'),
    'former largest lost': ('e_sum = shrink*(e_sum+joins)', 'e_sum = shrink*e_sum'),
    'former largest lost to the squares': ('(e2_sum+joins)', 'e2_sum'),
    'largest among the rest': ('tl.where(column[None, :]==best[:, None], 0., tl.exp(gap))', 'tl.exp(gap)'),
    'digits swallowed by a 1': ('tl.sum(e, 1).to(tl.float64)', '((tl.sum(e, 1)+1)-1).to(tl.float64)'),
    'label not held out': ('other &= column[None, :]!=own[:, None]', 'other &= own[:, None]<column[None, :]+100'),
    'classes past the end': ('other = exists[None, :]', 'other = column[None, :]>=0'),
    'runner-up of earlier tiles lost': ('tl.minimum(first, top))', 'top-3)'),
    'last of equals': ('tl.min(tl.where(values==largest[:, None], column[None, :], 2147483647), 1)',
    'tl.max(tl.where(values==largest[:, None], column[None, :], -1), 1)'),
    'best kept': ('tl.where(new, where, best)', 'tl.where(new, best, where)'),
    'norm of w forgotten': ('[None, :]\n        angle', '[None, :]*0+dot*inverse_norm[:, None]\n        angle'),
    'a digit of the arccos': ('(p*a+_P2)', '(p*a+.99775*_P2)'),
    'no arccos below 0': ('tl.where(t<0, -p+_PI, p)', 'p'),
    'last dimensions': ('range(0, n_dims, DIMS)', 'range(0, n_dims-DIMS+1, DIMS)'),
    'negative cosines in no doubt': ('tl.where(other, tl.abs(t), 0.)', 'tl.where(other, t, 0.)'),
    'second of the classes before lost': ('tl.where(new, best_old, best2)', 'best2'),
    'second of equals: the last': ('tl.where(late>m2,', 'tl.where(late>=m2,'),
    'second: the largest of this tile again': ('tl.where(new, top2, top)', 'top'),
    'engine: angle to the nearest for that to the largest': ('if len(odd): ', 'if False: '),
    'engine: rounding decides': ('if y is None: logit = ', 'if False: logit = '),
    'engine: lengths in no doubt': (' | ~usual_length(norm)', ''),
    'engine: bias of the held class forgotten': ('logit += self.bias', 'logit += 0*self.bias'),
    'engine: logit of none': ('logit.masked_fill_(held<0, -torch.inf)', 'logit'),
    'engine: none is near': ('.masked_fill(near<0, torch.inf)', ''),
    'loss: no floor': ('tl.maximum((1-t)*(1+t), _FLOOR)', 'tl.maximum((1-t)*(1+t), 1e-9*_FLOOR)'),
    'loss: no norm of w': ('e*inverse_w*', 'e*'),
    'loss: offset forgotten': ('shift-scale*_arccos', '-scale*_arccos'),
    'loss: sums of masked entries': ("tl.where(other, shift-scale*_arccos(t), float('-inf'))", 'shift-scale*_arccos(t)'),
    'loss: label not held out': ('mask & (column[:, None]!=own)', 'mask'),
    'loss: one part': ('tl.program_id(1)*PART+start', 'start'),
    'torch: label where there is none': ('torch.where(y>=0, -others*inverse, k.gather(0, column))', '-others*inverse'),
    'torch: label held out nowhere': ('torch.where(here, value, t.gather(0, column))', 't.gather(0, column)'),
    'torch: offset forgotten': ('else offset-scale*angle', 'else -scale*angle'),
    'torch: not projected': ('value=-1)', 'value=-0)'),
    'loss: label to few digits': ('pairs_in_float64(angle_between, x, w, y)', 'pairs_in_float64(angle_between, x, w, y).half().double()'),
}

def load(path):
    spec = importlib.util.spec_from_file_location('avh_nb.engine.mutant', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def torch_checks(torch_engines):
    "Of the steps that the loss on a GPU shares with the one in plain PyTorch"
    loss_engine_check(torch_engines, 'TorchLoss'); loss_engine_check(torch_engines, 'TorchLoss', with_offset=True)

def checks(name, engine, loss, torch_engines=torch_engines):
    if name.startswith('torch'): torch_checks(torch_engines)
    elif name.startswith('loss'): loss_checks(loss)
    elif name.startswith('engine'): engine_checks(engine)
    else: others_checks(engine)

@pytest.mark.parametrize('which', ('kernel', 'engine', 'loss', 'torch'))
def test_no_mutant(which): checks(which, engine, loss)

@pytest.mark.parametrize('name', MUTANTS)
def test_mutants(name, tmp_path):
    old,new = MUTANTS[name]
    source = Path(dict(loss=loss, torch=torch_engines).get(name.split(':')[0], engine).__file__).read_text()
    assert source.count(old)==1, 'the mutant has nothing to change'
    path = tmp_path/'mutant.py'
    path.write_text(source.replace(old, new))
    before,mutant = dict(SEEN),load(path)
    with pytest.raises((AssertionError, IndexError)): checks(name, mutant, mutant, mutant)
    SEEN.clear(); SEEN.update(before)

def test_compiles(tmp_path):
    "For GPUs that need not be there: no more than a few spilled bytes, and shared memory that every one of them has"
    env = {k: v for k,v in os.environ.items() if k!='TRITON_INTERPRET'} | dict(TRITON_CACHE_DIR=str(tmp_path))
    done = subprocess.run([sys.executable, str(Path(__file__).parent/'compile_triton.py'), '--brief'], env=env, capture_output=True,
        text=True, timeout=300)
    if 'no compiler' in done.stdout: pytest.skip(done.stdout)
    assert done.returncode==0, done.stderr[-2000:]
    usage = [line.rsplit('|', 1)[1].split() for line in done.stdout.splitlines()]
    assert len(usage)>=10
    for registers,stack,shared in usage: assert int(registers)<=255 and int(stack)<=128 and int(shared)<=99*1024

def test_an_engine_on_a_gpu_is_tried_before_it_is_taken(monkeypatch):
    import avh_nb.engine.choice as which
    real = engine.TritonEngine.angle_sums
    def wrong(*args): a,total,doubtful = real(*args); return a,1.001*total,doubtful
    def failing(*args): raise RuntimeError('out of registers')
    for f,says in ((real, ''), (wrong, 'is wrong by 1e-03 here'), (failing, 'does not run here (RuntimeError: out of registers)')):
        which._tried.cache_clear()
        monkeypatch.setattr(engine.TritonEngine, 'angle_sums', f)
        assert which._tried('triton', DEVICE)==says
    which._tried.cache_clear()
    asked = []
    monkeypatch.setattr(which, '_tried', lambda *args: (asked.append(args), 'is wrong here')[1])
    assert which.why_not('triton', 'cuda')=='is wrong here' and asked==[('triton', 'cuda')]
    assert which.why_not('numba')=='' and len(asked)==1
