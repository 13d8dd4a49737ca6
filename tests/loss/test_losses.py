"The AVH loss against a slow float64 formula, at the ends of the circle, under autocast and compile; and the mistakes that it must not be."
import copy, math
from functools import partial
import pytest, torch, torch.nn.functional as F
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from hypothesis import given, settings, strategies as st
from torch.autograd import gradcheck, gradgradcheck
import avh_nb as av, avh_nb.loss.fused as numbers
from avh_nb import AngularLinear, AVHLoss
from avh_nb.measure import scores
from avh_nb.loss.fused import fused_loss
from avh_nb.loss.logits import angular_logits, plain_loss
from avh_nb.measure.head import find_head
from avh_nb.watch.listener import Listener
from avh_nb.loss.angular import Loss, attainable, avh_loss, default_scale, scale_for
from avh_nb.loss.family import FAMILY, SoftmaxLoss, named_loss, neighbour
from avh_nb.loss.margin import MarginLoss

def data(n=12, d=5, k=4, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=dtype).requires_grad_(),torch.randn(k, d, generator=g,
        dtype=dtype).requires_grad_(),torch.randint(k, (n,), generator=g)

def slow_logits(x, w, scale):
    "Pair by pair, as it is written; for autograd, away from the ends"
    return torch.stack([torch.stack([scale*(math.pi-torch.acos((a@c)/(a.norm()*c.norm()))) for c in w]) for a in x])

def slow_loss(x, w, y, scale, weight=None, ignore_index=-100, label_smoothing=0.):
    "Sample by sample; the mean over what counts"
    total,count,k = 0.,0.,len(w)
    for z,label in zip(slow_logits(x, w, scale), y.tolist()):
        if label==ignore_index: continue
        log_p = z-torch.logsumexp(z, 0)
        of = torch.ones(k, dtype=z.dtype) if weight is None else weight
        total = total-(1-label_smoothing)*of[label]*log_p[label]-label_smoothing/k*(of*log_p).sum()
        count = count+of[label]
    return total/count

def grads(loss, *tensors): return torch.autograd.grad(loss, tensors)

@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 9), d=st.integers(2, 7), k=st.integers(1, 6), scale=st.floats(.1, 30), seed=st.integers(0, 99),
    weighted=st.booleans(), smoothing=st.sampled_from([0., .1, 1.]), ignored=st.booleans())
def test_value_and_gradient_are_those_of_the_slow_formula(n, d, k, scale, seed, weighted, smoothing, ignored):
    x,w,y = data(n, d, k, seed)
    if ignored and n>1: y[0] = -7
    options = dict(weight=torch.rand(k, dtype=torch.float64)+.1 if weighted else None, ignore_index=-7, label_smoothing=smoothing)
    ours,slow = avh_loss(x, w, y, scale, **options),slow_loss(x, w, y, scale, **options)
    torch.testing.assert_close(ours, slow, rtol=1e-10, atol=1e-12)
    for a,b in zip(grads(ours, x, w), grads(slow, x, w)): torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)

@pytest.mark.parametrize('options', [dict(), dict(reduction='sum'), dict(reduction='none'), dict(label_smoothing=.2),
    dict(weight=torch.tensor([1., 2, 3, 0])), dict(weight=torch.tensor([1., 2, 3, 0]), label_smoothing=.2)], ids=str)
def test_float32_is_close_to_float64(options):
    x,w,y = data(40, 20, 4)
    y[3] = -100
    exact = avh_loss(x, w, y, 5., **{k: v.double() if k=='weight' else v for k,v in options.items()})
    rough = avh_loss(x.float(), w.float(), y, 5., **options)
    torch.testing.assert_close(rough.double(), exact, rtol=1e-5, atol=1e-6)
    for a,b in zip(grads(rough.sum(), x, w), grads(exact.sum(), x, w)): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
def test_soft_targets_mean_what_they_do_in_cross_entropy(reduction):
    x,w,_ = data()
    soft = torch.rand(12, 4, dtype=torch.float64).softmax(1)
    torch.testing.assert_close(avh_loss(x, w, soft, 3., reduction=reduction),
        F.cross_entropy(slow_logits(x, w, 3.), soft, reduction=reduction))
    y = torch.arange(12)%4
    torch.testing.assert_close(avh_loss(x, w, F.one_hot(y, 4).double(), 3., reduction=reduction),
        avh_loss(x, w, y, 3., reduction=reduction))

@pytest.mark.parametrize('options', [dict(), dict(reduction='sum'), dict(label_smoothing=.1),
    dict(weight=torch.tensor([1., 2, 3, .5], dtype=torch.float64))], ids=str)
def test_gradcheck_and_gradgradcheck(options):
    x,w,y = data(5)
    y[1] = -100
    assert gradcheck(lambda *a: avh_loss(*a, y, 4., **options), (x, w)) and gradgradcheck(lambda *a: avh_loss(*a, y, 4., **options), (x, w))

def test_a_learnt_scale_has_its_gradient():
    x,w,y = data(5)
    s = torch.tensor(2., dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda *a: avh_loss(a[0], a[1], y, a[2]), (x, w, s))
    loss = AVHLoss(5, 4, scale=3., learn_scale=True)
    optimizer = torch.optim.SGD(loss.parameters(), .5)
    for _ in range(5): optimizer.zero_grad(); loss(x.detach().float(), y).backward(); optimizer.step()
    assert 0<loss.scale.item()!=3

@pytest.mark.parametrize('rows', [1, 3, 5, 100])
def test_blocks_do_not_show(monkeypatch, rows):
    x,w,y = data(11)
    share = torch.rand(11, dtype=torch.float64)
    monkeypatch.setattr(numbers, 'ROWS', rows)
    fused,plain = fused_loss(x, w, y, share, 3.),plain_loss(x, w, y, share, 3.)
    torch.testing.assert_close(fused, plain)
    for a,b in zip(grads(fused, x, w), grads(plain, x, w)): torch.testing.assert_close(a, b)

def test_gradients_are_made_once_and_only_where_they_are_wanted(monkeypatch):
    x,w,y = data()
    made,real = [],numbers.loss_and_gradients
    monkeypatch.setattr(numbers, 'loss_and_gradients', lambda *args: (made.append(args[6]), real(*args))[1])
    with torch.no_grad(): quiet = avh_loss(x, w, y, 3.)
    avh_loss(x.detach(), w.detach(), y, 3.)
    assert made==[False, False]
    loss = avh_loss(x, w, y, 3.)
    first = torch.autograd.grad(loss, (x, w), retain_graph=True)
    assert made==[False, False, True] and loss==quiet
    for a,b in zip(first, torch.autograd.grad(loss, (x, w))): assert torch.equal(a, b) # a retained graph gives the same again

# derivatives of any kind

LEARNT = dict(scale=torch.tensor(2., dtype=torch.float64, requires_grad=True))

@pytest.mark.parametrize('options', [dict(scale=3.), dict(scale=3., label_smoothing=.1), dict(scale=3., reduction='none'), LEARNT],
    ids=['fused', 'smooth', 'none', 'learnt'])
@pytest.mark.parametrize('fixed', ['x', 'w'])
def test_a_gradient_penalty_with_the_other_side_fixed(options, fixed):
    x,w,y = data(6)
    def penalty(x, w):
        v = w if fixed=='x' else x
        g, = torch.autograd.grad(avh_loss(x, w, y, **options).sum(), v, create_graph=True)
        return torch.autograd.grad(g.square().sum(), v)[0]
    torch.testing.assert_close(penalty(*((x.detach(), w) if fixed=='x' else (x, w.detach()))), penalty(x, w), rtol=1e-12, atol=1e-14)
    assert gradgradcheck(lambda v: avh_loss(*((x.detach(), v) if fixed=='x' else (v, w.detach())), y, **options).sum(),
        (w if fixed=='x' else x,))

WAYS = dict(loss={}, sum=dict(reduction='sum'), none=dict(reduction='none'), smooth=dict(label_smoothing=.1),
    weight=dict(weight=torch.tensor([1., 2, 3, .5]).double()))

@pytest.mark.parametrize('options', WAYS.values(), ids=WAYS)
def test_gradients_of_each_sample_are_those_of_a_loop(options):
    x,w,y = data(6)
    y[2] = -100
    def one(w, x, y): return avh_loss(x[None], w, y[None], 3., **options).sum()
    loop = torch.stack([grads(one(w, *pair), w)[0] for pair in zip(x, y)])
    torch.testing.assert_close(vmap(grad(one), (None, 0, 0))(w.detach(), x.detach(), y), loop, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(vmap(lambda y: one(w, x[0], y))(y), torch.stack([one(w, x[0], v) for v in y])) # only the label differs

@pytest.mark.parametrize('learn_scale', [False, True])
@pytest.mark.parametrize('kind', [AngularLinear, AVHLoss])
def test_modules_within_torch_func(kind, learn_scale):
    x,_,y = data(6)
    torch.manual_seed(0)
    module = kind(5, 4, scale=3., learn_scale=learn_scale).double()
    def loss(parameters, x, y):
        if kind is AVHLoss: return functional_call(module, parameters, (x[None], y[None]))
        return F.cross_entropy(functional_call(module, parameters, (x[None],)), y[None])
    parameters = dict(module.named_parameters())
    got = vmap(grad(loss), (None, 0, 0))(parameters, x.detach(), y)
    for i in range(6):
        for name,g in zip(parameters, torch.autograd.grad(loss(parameters, x[i].detach(), y[i]), parameters.values())):
            torch.testing.assert_close(got[name][i], g, rtol=1e-9, atol=1e-12, msg=name)

@pytest.mark.parametrize('f', [lambda x, w: av.angles(x, w), lambda x, w: angular_logits(x, w, 2.), lambda x,
    w: angular_logits(x, w, 2., torch.arange(6)%4), lambda x, w: avh_loss(x, w, torch.arange(6)%4, 3.),
    lambda x, w: avh_loss(x, w, torch.eye(4).double()[torch.arange(6)%4]*.8+.05, 3.)],
    ids=['angles', 'logits', 'logits of labels', 'loss', 'soft'])
def test_forwards_backwards_and_twice(f):
    x,w,_ = (t.detach() for t in data(6))
    g = torch.Generator().manual_seed(1)
    dx,dw = torch.randn(6, 5, generator=g, dtype=torch.float64),torch.randn(4, 5, generator=g, dtype=torch.float64)
    value,change = jvp(f, (x, w), (dx, dw))
    torch.testing.assert_close(value, f(x, w))
    torch.testing.assert_close(change, (f(x+1e-6*dx, w+1e-6*dw)-f(x-1e-6*dx, w-1e-6*dw))/2e-6, rtol=1e-6, atol=1e-7)
    for arg in (0, 1): torch.testing.assert_close(jacfwd(f, arg)(x, w), jacrev(f, arg)(x, w), rtol=1e-9, atol=1e-12)
    def total(x, w): return f(x, w).square().sum()
    torch.testing.assert_close(hessian(total)(x, w), torch.autograd.functional.hessian(lambda x: total(x, w), x), rtol=1e-8, atol=1e-10)

def test_angles_are_looked_at_within_vmap_too():
    x,w,_ = (t.detach() for t in data(6))
    torch.testing.assert_close(vmap(vmap(lambda a, b: av.angles(a[None], b[None])[0, 0], (None, 0)), (0, None))(x, w), av.angles(x, w))
    x[2] = 0
    with pytest.warns(UserWarning, match='1 of 1 rows of x are zero'): each = vmap(lambda a: av.angles(a[None], w)[0])(x)
    assert each[2].isnan().all() and each.isnan().sum()==4
    with pytest.raises(ValueError, match='x: 1 of 1 rows'): vmap(lambda a: av.angles(a[None], w, on_invalid='raise')[0])(x)
    with pytest.raises(ValueError, match='class 1\\) is zero'):
        vmap(lambda a: av.angles(a[None], w*torch.tensor([[1.], [0], [1], [1]]))[0])(x)

# the ends

def limit(x, w, y, scale):
    "Gradient of one sample's loss in x, in float64 by the formula, an angle of 0 or pi giving none"
    none = 2e-6 if x.dtype==torch.float32 else 1e-9 # what rounding makes of an angle of 0
    x,w = x.double(),w.double()
    xn,wn = x/x.norm(),w/w.norm(dim=1, keepdim=True)
    cos = wn@xn
    p = torch.softmax(-scale*torch.acos(cos.clamp(-1, 1)), 0)
    p[y] -= 1
    total = torch.zeros_like(x)
    for c in range(len(w)):
        rejection = cos[c]*xn-wn[c]
        if rejection.norm()>none: total += -scale*p[c]*rejection/rejection.norm()/x.norm()
    return total

@pytest.mark.parametrize('path', ['fused', 'plain'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('sign', [1, -1])
@pytest.mark.parametrize('towards', [0, 1])
def test_on_a_class_vector_and_against_it(path, dtype, sign, towards):
    "On the label's vector, on another's, and against either"
    _,w,_ = data(dtype=dtype)
    x = (sign*2.5*w[towards:towards+1]).detach().requires_grad_()
    loss = avh_loss(x, w, torch.tensor([0]), 3., reduction='mean' if path=='fused' else 'none').sum()
    angles = torch.acos(F.cosine_similarity(x.double(), w.double()).clamp(-1, 1))
    tolerance = dict(rtol=1e-3, atol=2e-3) if dtype==torch.float32 else dict(rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss.double(), F.cross_entropy(-3*angles[None], torch.tensor([0])), **tolerance)
    gx,gw = grads(loss, x, w)
    assert gx.isfinite().all() and gw.isfinite().all()
    torch.testing.assert_close(gx[0].double(), limit(x[0].detach(), w.detach(), 0, 3.), **tolerance)

@pytest.mark.parametrize('angle', [1e-5, 1e-4, 1e-2, 1., math.pi-1e-2, math.pi-1e-4])
def test_near_the_label_the_float32_gradient_is_right(angle):
    g = torch.Generator().manual_seed(0)
    w = F.normalize(torch.randn(4, 8, generator=g, dtype=torch.float64), dim=1)
    away = F.normalize(w[1]-(w[1]@w[0])*w[0], dim=0)
    x = (math.cos(angle)*w[0]+math.sin(angle)*away)[None]
    for reduction in ('mean', 'none'):
        x32,w32 = x.float().requires_grad_(),w.float()
        got, = grads(avh_loss(x32, w32, torch.tensor([0]), 5., reduction=reduction).sum(), x32)
        want = limit(x32[0].detach(), w32, 0, 5.)
        assert (got[0]-want).norm()<.03*want.norm(), (reduction, got, want)

@pytest.mark.parametrize('cosine,bound', [(.999, 2e-5), (.99999, 2e-4), (.9999999, 2e-3)])
@pytest.mark.parametrize('way', ['layer', 'soft', 'smooth'])
def test_near_a_class_vector_the_gradient_needs_no_label(way, cosine, bound):
    "float32 against float64 with every angle by the half-angle form; the loss is known where the layer is asked for logits"
    g = torch.Generator().manual_seed(0)
    w = torch.randn(10, 16, generator=g)
    y = torch.randint(10, (50,), generator=g)
    of = F.normalize(w.double(), dim=1)[y]
    away = torch.randn(50, 16, generator=g).double()
    away = F.normalize(away-(away*of).sum(1, keepdim=True)*of, dim=1)
    x = (3*(cosine*of+math.sqrt(1-cosine**2)*away)).float()
    target = F.one_hot(y, 10)*.9+.1/10
    def loss(x, w):
        if way=='layer': return F.cross_entropy(angular_logits(x, w, 5.), target.to(x.dtype))
        return avh_loss(x, w, *((target.to(x.dtype), 5.) if way=='soft' else (y, 5.)), label_smoothing=.1*(way=='smooth'))
    def exact(x, w):
        u,v = F.normalize(x, dim=1)[:, None],F.normalize(w, dim=1)
        return F.cross_entropy(-5*2*torch.atan2((u-v).norm(dim=2), (u+v).norm(dim=2)), target.double())
    rough,fine = [x.requires_grad_(), w.requires_grad_()],[t.detach().double().requires_grad_() for t in (x, w)]
    (gx,gw),(fx,fw) = torch.autograd.grad(loss(*rough), rough),torch.autograd.grad(exact(*fine), fine)
    assert ((gx-fx).norm(dim=1)/fx.norm(dim=1)).max()<bound and (gw-fw).norm()/fw.norm()<2*bound

def test_a_step_from_a_wrong_class_leaves_it():
    for dtype in (torch.float32, torch.float64):
        _,w,_ = data(dtype=dtype)
        for reduction in ('mean', 'none'):
            x = w[2:3].detach().clone().requires_grad_()
            step = x-.05*grads(avh_loss(x, w, torch.tensor([1]), 3., reduction=reduction).sum(), x)[0]
            before,after = angular_logits(x, w, 1.)[0],angular_logits(step, w, 1.)[0]
            assert after[1]>before[1] and after[2]<before[2]

@pytest.mark.parametrize('reduction', ['mean', 'none'])
def test_zeros_have_no_direction(reduction):
    x,w,y = data(dtype=torch.float32)
    with torch.no_grad(): x[2],w[3] = 0,0
    y[2] = 1
    loss = avh_loss(x, w, y, 3., reduction=reduction)
    gx,gw = grads(loss.sum(), x, w)
    assert gx.isfinite().all() and gw.isfinite().all() and (gx[2]==0).all() and (gw[3]==0).all() and (gx[0]!=0).any()
    torch.testing.assert_close(avh_loss(x, w, y, 3., reduction='none')[2].item(), math.log(4))

def test_nan_in_a_feature_is_nan_in_its_loss_alone():
    x,w,y = data()
    with torch.no_grad(): x[2, 0] = math.nan
    losses = avh_loss(x, w, y, 3., reduction='none')
    assert losses[2].isnan() and losses.isnan().sum()==1 and avh_loss(x, w, y, 3.).isnan()

@pytest.mark.parametrize('factor', [1e-30, 1e-12, 1e12, 1e30])
def test_squares_that_leave_float32(factor):
    x,w,y = data(dtype=torch.float32)
    torch.testing.assert_close(avh_loss(x*factor, w, y, 3.), avh_loss(x, w, y, 3.), rtol=1e-5, atol=0)
    torch.testing.assert_close(avh_loss(x, w*factor, y, 3.), avh_loss(x, w, y, 3.), rtol=1e-5, atol=0)
    big = (x*factor).detach().requires_grad_()
    torch.testing.assert_close(grads(avh_loss(big, w, y, 3.), big)[0]*factor, grads(avh_loss(x, w, y, 3.), x)[0], rtol=1e-3, atol=1e-5)

# what users of cross-entropy expect

@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('options', [dict(), dict(label_smoothing=.1), dict(weight=torch.ones(4).double())], ids=str)
def test_all_ignored_is_zero_and_so_is_an_empty_batch(reduction, options):
    x,w,y = data()
    for n in (12, 0):
        loss = avh_loss(x[:n], w, torch.full((n,), -100), 3., reduction=reduction, **options)
        assert loss==0 and all((g==0).all() for g in grads(loss, x, w))

def test_a_weight_of_zero_for_all_is_zero():
    x,w,y = data()
    loss = avh_loss(x, w, y, 3., weight=torch.zeros(4).double())
    assert loss==0 and (grads(loss, x)[0]==0).all()

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x,w,y = data(dtype=torch.float32)
    half = x.detach().to(dtype).requires_grad_()
    loss = avh_loss(half, w, y, 3.)
    assert loss.dtype==torch.float32
    torch.testing.assert_close(loss, avh_loss(half.detach().float(), w, y, 3.))
    assert grads(loss, half)[0].dtype==dtype

def test_autocast_changes_nothing():
    x,w,y = data(dtype=torch.float32)
    layer,loss = AngularLinear(5, 4),AVHLoss(w=torch.nn.Parameter(w.detach()))
    plain = layer(x),loss(x, y)
    with torch.autocast('cpu', torch.bfloat16): inside = layer(x),loss(x, y)
    for a,b in zip(plain, inside): assert a.dtype==b.dtype==torch.float32 and torch.equal(a, b)
    inside[1].backward()
    assert loss.weight.dtype==loss.weight.grad.dtype==torch.float32

def test_compiles_into_one_graph():
    x,w,y = data(dtype=torch.float32)
    layer = AngularLinear(5, 4)
    for f,args in ((lambda x, w, y: avh_loss(x, w, y, 3.), (x, w, y)),
        (lambda x, w, y: avh_loss(x, w, y, 3., label_smoothing=.1, reduction='sum'), (x, w, y)),
        (lambda x, y: F.cross_entropy(layer(x), y), (x, y))):
        torch._dynamo.reset()
        compiled = torch.compile(f, backend='aot_eager', fullgraph=True)
        torch.testing.assert_close(compiled(*args), f(*args))
        torch.testing.assert_close(grads(compiled(*args), x)[0], grads(f(*args), x)[0], rtol=1e-4, atol=1e-6)

def test_layer_and_module_agree_and_keep_their_parameters():
    x,_,y = data(dtype=torch.float32)
    layer = AngularLinear(5, 4, scale=3.)
    loss = AVHLoss(w=layer.weight, scale=3.)
    torch.testing.assert_close(F.cross_entropy(layer(x), y), loss(x, y))
    torch.testing.assert_close(loss.logits(x), layer(x))
    torch.testing.assert_close(layer(x.view(3, 4, 5)), layer(x).view(3, 4, 4))
    torch.testing.assert_close(layer(x[0]), layer(x)[0]) # one feature, as nn.Linear takes it
    assert [n for n,_ in layer.named_parameters()]==['weight'] and {n for n,_ in AngularLinear(5, 4,
        learn_scale=True).named_parameters()}=={'weight', 'log_scale'}
    again = AngularLinear(5, 4, scale=3.); again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x))
    torch.testing.assert_close(AVHLoss(5, 10).scale, default_scale(10))
    weighted = AVHLoss(w=layer.weight, scale=3., weight=torch.tensor([1., 2, 3, 4]), ignore_index=1, reduction='sum')
    torch.testing.assert_close(weighted(x, y), avh_loss(x, layer.weight, y, 3., torch.tensor([1., 2, 3, 4]), 1, 'sum'))

# the scale is part of what is saved

def network(scale=None, learn_scale=False):
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Sequential(AngularLinear(5, 4, scale, learn_scale)))

def without_scale(state): return {k: v for k,v in state.items() if not k.endswith('fixed_scale')}

@pytest.mark.parametrize('way', ['state_dict', 'torch', 'safetensors', 'copy', 'compiled', 'half', 'assign'])
def test_a_fixed_scale_travels_with_the_weights(tmp_path, way):
    saved,x = network(5.3),torch.randn(9, 6)
    state = saved.state_dict()
    if way=='torch': torch.save(state, tmp_path/'a.pt'); state = torch.load(tmp_path/'a.pt', weights_only=True)
    if way=='safetensors':
        files = pytest.importorskip('safetensors.torch')
        files.save_file(state, tmp_path/'a.safetensors'); state = files.load_file(tmp_path/'a.safetensors')
    if way=='copy': state = copy.deepcopy(saved).state_dict()
    if way=='compiled': state = {k.removeprefix('_orig_mod.'): v for k,v in torch.compile(saved).state_dict().items()}
    loaded = network()
    assert loaded[1][0].scale!=5.3
    if way=='half': loaded.half()
    loaded.load_state_dict(state, assign=way=='assign')
    assert loaded[1][0].scale==loaded[1][0].angular_scale==5.3 # to the last digit
    if way!='half': assert torch.equal(loaded(x), saved(x))

def test_modules_of_the_loss_keep_it_too():
    a,b = AVHLoss(5, 4, scale=2.5),AVHLoss(5, 4)
    b.load_state_dict(a.state_dict())
    x,_,y = data(dtype=torch.float32)
    assert b.scale==2.5 and torch.equal(a(x, y), b(x, y))

def test_a_file_from_before_loads_with_a_word():
    old,loaded = without_scale(network(5.).state_dict()),network(3.)
    with pytest.warns(UserWarning, match=r'^1\.0: the state_dict has no scale.*it stays 3, that of the constructor'):
        loaded.load_state_dict(old)
    assert loaded[1][0].scale==3. and torch.equal(loaded[1][0].weight, old['1.0.weight'])
    with pytest.warns(UserWarning, match='^AngularLinear: the state_dict has no scale'):
        AngularLinear(5, 4).load_state_dict(dict(weight=torch.ones(4, 5)))
    loaded.load_state_dict(dict(list(old.items())[:2]), strict=False) # of a part that has no such layer nothing is said
    learnt = network(3., learn_scale=True)
    learnt.load_state_dict(network(7., learn_scale=True).state_dict())
    assert learnt[1][0].angular_scale==pytest.approx(7.) and 'fixed_scale' not in str(list(learnt.state_dict()))
    with pytest.raises(RuntimeError, match='Missing.*log_scale'): learnt.load_state_dict(network(3.).state_dict())

def test_a_scale_that_is_none_is_not_loaded():
    state = network(5.).state_dict()
    state['1.0.fixed_scale'] = torch.tensor(-5.)
    with pytest.raises(ValueError, match='scale: expected above 0'): network().load_state_dict(state)

def test_a_checkpoint_from_before_is_resumed(tmp_path, monkeypatch):
    checkpoint = pytest.importorskip('avh_nb.train.checkpoint')
    model = network(5.)
    optimizer = torch.optim.SGD(model.parameters(), .1)
    with monkeypatch.context() as patch:
        patch.setattr(AngularLinear, '_save_to_state_dict', torch.nn.Module._save_to_state_dict)
        checkpoint.save_checkpoint(tmp_path/'old', model, optimizer, None, dict(epoch=3))
    checkpoint.save_checkpoint(tmp_path/'new', model, optimizer, None, dict(epoch=4))
    with pytest.warns(UserWarning, match='1.0: the state_dict has no scale'):
        assert checkpoint.load_checkpoint(tmp_path/'old', network(5.), optimizer, None)==dict(epoch=3)
    other = network(2.)
    assert checkpoint.load_checkpoint(tmp_path/'new', other, optimizer, None)==dict(epoch=4) and other[1][0].scale==5.

def test_a_layer_is_made_where_and_as_it_is_asked_for():
    torch.manual_seed(0); layer = AngularLinear(5, 4)
    torch.manual_seed(0); assert torch.equal(layer.weight, torch.nn.Linear(5, 4, bias=False).weight)
    with torch.device('meta'): deferred = AngularLinear(5, 4, scale=3., learn_scale=True)
    assert all(p.is_meta for p in deferred.parameters())
    deferred.to_empty(device='cpu'); deferred.reset_parameters()
    assert deferred.angular_scale==pytest.approx(3.) and deferred.weight.abs().max()<=5**-.5
    asked = AngularLinear(5, 4, learn_scale=True, device='meta', dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in asked.parameters()}=={('meta', torch.bfloat16)}

def test_a_traced_network_has_the_layer_as_one_node():
    model,x = network(3., learn_scale=True),torch.randn(9, 6)
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x)) and [n.op for n in traced.graph.nodes].count('call_function')==1
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))

ERRORS = [
    (dict(y=torch.tensor([0, 1, 4])), 'y: expected labels from 0 to 3, got 4 at index 2'),
    (dict(y=torch.tensor([0, -1, 2])), 'y: expected labels from 0 to 3, got -1 at index 1'),
    (dict(y=torch.tensor([0, 1])), 'y: expected 3 labels'),
    (dict(y=torch.rand(3, 5)), r'y: expected soft targets of shape \(3, 4\)'),
    (dict(y=[0, 1, 2]), 'y: expected a tensor'),
    (dict(scale=torch.tensor(-5.)), 'scale: expected above 0 and finite, got -5'),
    (dict(scale=torch.tensor(math.nan), reduction='none'), 'scale: expected above 0'),
    (dict(scale=torch.ones(4)), r'scale: expected a single number, got shape \(4,\)'),
    (dict(engine='fast'), 'engine: expected one of torch, numba'), (dict(engine='fast', label_smoothing=.1),
    'engine: expected one of torch, numba'),
    (dict(weight=[1.]*4), r'weight: expected shape \(4,\), one per class, got list'),
    (dict(scale=0.), 'scale: expected above 0'), (dict(scale=-1.), 'scale: expected above 0'),
    (dict(scale=math.nan), 'scale: expected above 0'),
    (dict(x=torch.randn(3, 6)), 'x: expected 5 columns'), (dict(x=torch.randn(5)), r'x: expected shape \(N, D\)'),
    (dict(weight=torch.ones(3)), r'weight: expected shape \(4,\)'), (dict(reduction='median'),
    "reduction: expected 'mean', 'sum' or 'none'"), (dict(label_smoothing=1.5), 'label_smoothing: expected from 0 to 1'),
]
@pytest.mark.parametrize('wrong,message', ERRORS, ids=[m for _,m in ERRORS])
def test_errors_name_the_argument(wrong, message):
    _,w,_ = data(dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        avh_loss(**{**dict(x=torch.randn(3, 5), w=w, y=torch.tensor([0, 1, 2]), scale=3.), **wrong})

@pytest.mark.parametrize('options,what', [(dict(label_smoothing=.1), 'label smoothing'), (dict(reduction='none'), 'no reduction'),
    (dict(scale=torch.tensor(2.)), 'a learnt scale'), (dict(y=torch.rand(3, 4)), 'soft targets')])
def test_an_engine_is_not_named_in_vain(options, what):
    pytest.importorskip('numba')
    _,w,_ = data(dtype=torch.float32)
    options = {**dict(x=torch.randn(3, 5), w=w, y=torch.tensor([0, 1, 2]), scale=3.), **options}
    with pytest.raises(ValueError, match=f'engine: numba has no part in a loss with {what}'): avh_loss(engine='numba', **options)
    assert torch.equal(avh_loss(engine='torch', **options), avh_loss(**options)) # the logits are its own

def test_errors_of_layers():
    for make in (lambda: AngularLinear(5, 4, scale=0), lambda: AngularLinear(5, 4, scale=torch.tensor(-5.)),
        lambda: angular_logits(torch.ones(1, 5), torch.ones(4, 5), torch.tensor(-5.)),
        lambda: angular_logits(torch.ones(1, 5), torch.ones(4, 5), -5.), lambda: AVHLoss(5, 4, scale=-1),
        lambda: neighbour('cosine', 5, 4, 0)):
        with pytest.raises(ValueError, match='scale: expected above 0'): make()
    with pytest.raises(ValueError, match='in_features, out_features'): AVHLoss(5)
    with pytest.raises(ValueError, match='x: expected 5 columns'): AngularLinear(5, 4)(torch.randn(3, 6))
    with pytest.raises(ValueError, match='name: expected one of'): neighbour('cubeface', 5, 4, 1.)

@given(p=st.floats(.2, .999), k=st.integers(6, 10**5))
def test_scale_for_is_the_inverse_of_attainable(p, k):
    assert attainable(scale_for(p, k), k)==pytest.approx(p)
    w = torch.eye(3)
    assert avh_loss(w[:1], w, torch.tensor([0]), scale_for(.9, 3)).neg().exp()==pytest.approx(.9, rel=1e-5)

# the cosine family, sample by sample

@pytest.mark.parametrize('name,margin', [('cosine', None), ('cosface', .2), ('arcface', .3), ('sphereface', 2)])
def test_neighbours_are_what_their_papers_say(name, margin):
    x,_,y = data(10, 6, 4, dtype=torch.float32)
    loss = neighbour(name, 6, 4, 4., margin)
    total = 0.
    for a,label in zip(x, y.tolist()):
        cos = [F.cosine_similarity(a, c, 0).item() for c in loss.weight]
        z = [4*c for c in cos]
        angle = math.acos(cos[label])
        if name=='cosface': z[label] = 4*(cos[label]-margin)
        if name=='arcface': z[label] = 4*(math.cos(angle+margin) if angle+margin<=math.pi else cos[label]-margin*math.sin(margin))
        if name=='sphereface':
            k = math.floor(angle*margin/math.pi)
            z[label] = 4*((-1)**k*math.cos(margin*angle)-2*k)
        total += math.log(sum(math.exp(v-max(z)) for v in z))+max(z)-z[label]
    assert loss(x, y).item()==pytest.approx(total/10, rel=1e-4)
    with torch.autocast('cpu', torch.bfloat16): loss(x, y).backward()
    assert loss.weight.dtype==torch.float32 and loss.logits(x).argmax(1).equal((F.normalize(x, dim=1)@F.normalize(loss.weight,
        dim=1).T).argmax(1))

# what every loss is

@pytest.mark.parametrize('name', FAMILY)
def test_every_loss_of_the_family_is_a_loss(name):
    x,_,y = data(10, 6, 4, dtype=torch.float32)
    torch.manual_seed(0)
    loss = named_loss(name, 6, 4, scale=4., margin=None, counts=[9, 4, 2, 1])
    assert isinstance(loss, Loss) and loss.weight.shape==(4, 6) and loss.logits(x).shape==(10, 4)
    g, = grads(loss(x, y), x)
    assert loss(x, y).shape==() and g.isfinite().all() and len(list(loss.parameters()))>0

def test_a_loss_without_logits_is_none():
    class Silent(Loss):
        def forward(self, x, y): return x.sum()
    with pytest.raises(TypeError, match='logits'): Silent()

def test_the_family_by_name_is_what_its_classes_are():
    for name,make in (('softmax', lambda: SoftmaxLoss(6, 4, .1)), ('avh', lambda: AVHLoss(6, 4, 3.)),
        ('arcface', lambda: neighbour('arcface', 6, 4, 3., .2))):
        torch.manual_seed(0)
        by_name = named_loss(name, 6, 4, **dict(softmax=dict(label_smoothing=.1), avh=dict(scale=3.),
            arcface=dict(scale=3., margin=.2))[name])
        torch.manual_seed(0); made = make()
        x,_,y = data(10, 6, 4, dtype=torch.float32)
        assert type(by_name) is type(made) and torch.equal(by_name(x, y), made(x, y))
    assert isinstance(named_loss('cosine', 6, 4, scale=3.), MarginLoss)
    with pytest.raises(ValueError, match='name: expected one of softmax'): named_loss('hinge', 6, 4)

# mistakes

def right(x, w, y, s=3.): return avh_loss(x, w, y, s)
def as_on_the_poster(x, w, y, s=3.): return torch.softmax(slow_logits(x, w, s), 1).gather(1, y[:, None]).mean()
def without_the_logarithm(x, w, y, s=3.): return -as_on_the_poster(x, w, y, s)
def detached_class_vectors(x, w, y, s=3.): return avh_loss(x, w.detach()+0*w, y, s)
def angle_for_its_complement(x, w, y, s=3.): return F.cross_entropy(-slow_logits(x, w, s), y)
def cosine_for_the_angle(x, w, y, s=3.): return F.cross_entropy(s*F.normalize(x, dim=1)@F.normalize(w, dim=1).T, y)
def norm_of_the_matrix(x, w, y, s=3.): return F.cross_entropy(s*(math.pi-((F.normalize(x, dim=1)@w.T)/w.norm()).clamp(-1, 1).acos()), y)
def length_left_in(x, w, y, s=3.): return F.cross_entropy(x.norm(dim=1, keepdim=True)*slow_logits(x, w, s), y)
def arccos_of_a_clamp(x, w, y, s=3.):
    return F.cross_entropy(s*(math.pi-(F.normalize(x, dim=1)@F.normalize(w, dim=1).T).clamp(-1, 1).acos()), y)
def arccos_as_it_is(x, w, y, s=3.): return F.cross_entropy(s*(math.pi-(F.normalize(x, dim=1)@F.normalize(w, dim=1).T).acos()), y)
def gradient_cut_at_the_clamp(x, w, y, s=3.):
    return F.cross_entropy(s*(math.pi-(F.normalize(x, dim=1)@F.normalize(w, dim=1).T).clamp(-.999, .999).acos()), y)

def falls_by_training(f):
    x,w,y = data()
    for _ in range(60):
        gx, = grads(f(x, w, y), x)
        x = (x-3*gx).detach().requires_grad_()
    assert (slow_logits(x, w, 1.).argmax(1)==y).all()
def is_unbounded_where_it_is_wrong(f):
    "A probability is between 0 and 1, its logarithm is not"
    w = torch.eye(2, dtype=torch.float64)
    assert f(-w[:1], w, torch.tensor([0]), 10.)>1
def classes_learn(f):
    x,w,y = data()
    assert (grads(f(x, w, y), w)[0]!=0).any()
def known_value(f):
    "30 and 90 degrees"
    x,w = torch.tensor([[math.cos(math.pi/6), .5, 0]], dtype=torch.float64),torch.tensor([[1., 0, 0], [0, 0, 1]], dtype=torch.float64)
    assert f(x, w, torch.tensor([0])).item()==pytest.approx(math.log(1+math.exp(-3*math.pi/3)))
def length_plays_no_part(f):
    x,w,y = data()
    torch.testing.assert_close(f(x*torch.arange(1, 13)[:, None], w*torch.tensor([[1.], [3], [.1], [5]]), y), f(x, w, y))
    torch.testing.assert_close((grads(f(x, w, y), x)[0]*x).sum(1), torch.zeros(12).double(), atol=1e-12, rtol=0)
def finite_at_the_ends(f):
    w = torch.eye(4, 5, requires_grad=True)
    x = torch.cat([w, -w]).detach().requires_grad_()
    assert all(g.isfinite().all() for g in grads(f(x, w, torch.arange(4).repeat(2)), x, w))
def pulls_to_the_last(f):
    "Close to the label the pull is that of any other angle"
    w = torch.eye(2)
    def pull(angle):
        x = torch.tensor([[math.cos(angle), math.sin(angle)]], requires_grad=True)
        return grads(f(x, w, torch.tensor([0]), .5), x)[0].norm().item()
    assert pull(1e-4)==pytest.approx(pull(1e-3), rel=.02)==pytest.approx(pull(.05), rel=.1)

CHECKS = [falls_by_training, is_unbounded_where_it_is_wrong, classes_learn, known_value, length_plays_no_part, finite_at_the_ends,
    pulls_to_the_last]
MUTANTS = {as_on_the_poster: falls_by_training, without_the_logarithm: is_unbounded_where_it_is_wrong,
    detached_class_vectors: classes_learn, angle_for_its_complement: falls_by_training,
    cosine_for_the_angle: known_value, norm_of_the_matrix: length_plays_no_part, length_left_in: length_plays_no_part,
    arccos_as_it_is: finite_at_the_ends, arccos_of_a_clamp: pulls_to_the_last, gradient_cut_at_the_clamp: pulls_to_the_last}

@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_the_loss_passes(check): check(right)

@pytest.mark.parametrize('mutant', MUTANTS, ids=lambda f: f.__name__)
def test_mutant_is_caught(mutant):
    with pytest.raises(AssertionError): MUTANTS[mutant](mutant)

def test_log_k_and_permutations():
    x,w,y = data()
    assert avh_loss(x, w, y, 1e-8).item()==pytest.approx(math.log(4), abs=1e-6)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(avh_loss(x, w[order], torch.argsort(order)[y], 3.), avh_loss(x, w, y, 3.))

# a model with such a head is a model like any other

@pytest.mark.parametrize('learn_scale', [False, True])
def test_scores_of_a_model_with_an_angular_head(learn_scale):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), AngularLinear(5, 4, scale=3., learn_scale=learn_scale))
    x,y = torch.randn(30, 6),torch.arange(30)%4
    name,layer = find_head(model, (x, y))
    assert (name, layer)==('2', model[2])
    with torch.no_grad(): features,p = model[:2](x),model(x).softmax(1)
    s = av.score_model(model, [(x[:20], y[:20]), (x[20:], y[20:])], progress=False)
    listener = Listener(model.eval(), labels=y)
    with torch.no_grad(): model(x)
    heard = listener.frame(); listener.close()
    torch.testing.assert_close(torch.tensor(heard.confidence.to_numpy()), s.confidence)
    for got in (s, av.score_model(model, [(x, y)], head='2', progress=False)):
        torch.testing.assert_close(got.confidence, p.gather(1, y[:, None])[:, 0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(got.loss, -p.gather(1, y[:, None])[:, 0].log(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.avh, av.avh(features, model[2].weight.detach(), y))
        assert torch.equal(got.pred, p.argmax(1))

def test_scores_with_a_scale_over_blocks_of_classes(monkeypatch):
    x,w,y = (t.detach() for t in data(50, 6, 40))
    p = slow_logits(x, w, 4.).softmax(1)
    monkeypatch.setattr(scores, 'angle_blocks', partial(scores.angle_blocks, block=2000))
    s = av.score(x, w, y, scale=4.)
    torch.testing.assert_close(s.confidence, p.gather(1, y[:, None])[:, 0])
    torch.testing.assert_close(s.entropy, -(p*p.log()).sum(1))
    for wrong in (dict(scale=-1.), dict(scale=3., bias=torch.zeros(40))):
        with pytest.raises(ValueError, match='scale: expected above 0'): av.score(x, w, y, **wrong)
