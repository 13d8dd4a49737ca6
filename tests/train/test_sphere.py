"Decoupled convolutions against patches cut out one by one, their limiting cases, and the wrong variants of published code."
import copy, math
from concurrent.futures import ThreadPoolExecutor
import pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call
from avh_nb.train import magnitude as products, sphere
from avh_nb.train.magnitude import ANGLES, BOUND, MAGNITUDES, holding_gain
from avh_nb.train.models import Classifier, resnet
from avh_nb.train.plain import plain_cnn, plain_resnet
from avh_nb.train.sphere import (DecoupledConv2d, FilterOrthogonality, ProjectFilters, decouple, decoupled_layers, patch_norms,
    project_filters, unit_filters)

EVERY = [(m, a) for m in MAGNITUDES for a in ANGLES]
def draw(*shape, seed=0, dtype=torch.float64): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)

def layer_of(*args, seed=0, dtype=torch.float64, **options):
    "With filters of several lengths and ratios that differ"
    conv = DecoupledConv2d(*args, **options).to(dtype)
    with torch.no_grad():
        lengths = torch.linspace(.2, 3, len(conv.weight), dtype=torch.float64)
        conv.weight.copy_(draw(*conv.weight.shape, seed=seed)*lengths.view(-1, 1, 1, 1))
        if conv.ratio is not None: conv.ratio.copy_(torch.linspace(.6, 1.4, len(conv.ratio)))
    return conv

def slow(conv, x, w, ratio=None, mean=None):
    "The formulas of the paper on every patch; `mean` is the stored length, None that of the batch"
    if conv.padding=='same': # the odd pixel comes last
        (up,down),(left,right) = [(d*(k-1)//2, d*(k-1)-d*(k-1)//2) for d,k in zip(conv.dilation, conv.kernel_size)]
    else: up,left = down,right = (0, 0) if conv.padding=='valid' else conv.padding
    x = F.pad(x, (left, right, up, down), 'constant' if conv.padding_mode=='zeros' else conv.padding_mode)
    patches = F.unfold(x, conv.kernel_size, conv.dilation, 0, conv.stride).unflatten(1, (conv.groups, -1)) # N, G, d, L
    length = (patches**2).sum(2, keepdim=True).add(1e-4)**.5
    filters = w.flatten(1)/(w.flatten(1)**2).sum(1, keepdim=True)**.5
    cos = torch.einsum('god,ngdl->ngol', filters.unflatten(0, (conv.groups, -1)), patches)/length
    theta = cos.acos()
    g = dict(cosine=cos, linear=1-2*theta/math.pi, square=cos.sign()*cos**2,
        sigmoid=torch.tanh((math.pi/2-theta)/.6)/math.tanh(math.pi/1.2))[conv.angle]
    if conv.magnitude in ('sphere', 'linear'): h = length if conv.magnitude=='linear' else 1
    else:
        if conv.radius=='learnt': r = ((ratio**2+1e-4)*(length.mean() if mean is None else mean)).view(1, conv.groups, -1, 1)
        else: r = (length.mean().detach() if mean is None else mean) if conv.radius=='first' else conv.radius
        h = torch.minimum(length, torch.as_tensor(r, dtype=x.dtype))/r if conv.magnitude=='ball' else (length/r).tanh()
    side = [(s-d*(k-1)-1)//t+1 for s,d,k,t in zip(x.shape[2:], conv.dilation, conv.kernel_size, conv.stride)]
    return conv.gain*(h*g).flatten(1, 2).unflatten(2, side)

def gradients(out, leaves, seed=9):
    return torch.autograd.grad((out*draw(*out.shape, seed=seed).to(out.dtype)).sum(), leaves)

def same_as_slow(conv, x, rtol=1e-7, atol=1e-8):
    "Outputs, and gradients of images, filters and ratios, in the mode that the layer is in"
    mean = None if conv.training or not hasattr(conv, 'mean_norm') else conv.mean_norm.clone()
    mine = [x.detach().clone().requires_grad_(), *conv.parameters()]
    theirs = [t.detach().clone().requires_grad_() for t in mine]
    out,expected = conv(mine[0]),slow(conv, *theirs, **({} if mean is None else dict(mean=mean)))
    torch.testing.assert_close(out, expected, rtol=rtol, atol=atol)
    for a,b in zip(gradients(out, mine), gradients(expected, theirs)): torch.testing.assert_close(a, b, rtol=rtol, atol=atol)

@st.composite
def geometries(draw_):
    groups = draw_(st.sampled_from([1, 2, 3]))
    kernel = draw_(st.sampled_from([1, 3, (3, 1), (2, 3), (1, 2), 2]))
    stride = draw_(st.sampled_from([1, 2, (2, 1), (1, 3)]))
    paddings = [0, 1, (0, 2), 'valid']+(['same'] if stride==1 else [])
    return dict(args=(groups*draw_(st.integers(1, 2)), groups*draw_(st.integers(1, 3)), kernel), groups=groups, stride=stride,
        padding=draw_(st.sampled_from(paddings)), dilation=draw_(st.sampled_from([1, 2, (1, 2)])),
        padding_mode=draw_(st.sampled_from(['zeros', 'zeros', 'reflect', 'replicate', 'circular'])))

@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize('magnitude,angle', EVERY)
@settings(deadline=None, max_examples=25)
@given(geometry=geometries(), radius=st.sampled_from(['learnt', 'first', .7, 2]), gain=st.sampled_from([1., 'hold', 2.5]),
    training=st.booleans(), last=st.booleans(), n=st.integers(1, 3), seed=st.integers(0, 99))
def test_outputs_and_gradients_are_those_of_the_patches(magnitude, angle, geometry, radius, gain, training, last, n, seed):
    args,options = geometry['args'],{k: v for k,v in geometry.items() if k!='args'}
    conv = layer_of(*args, magnitude=magnitude, angle=angle, radius=radius, gain=gain, seed=seed, **options).train(training)
    if not training and hasattr(conv, 'mean_norm'): conv.mean_norm.fill_(1.3)
    x = draw(n, args[0], 6, 7, seed=seed+1)
    same_as_slow(conv, x.contiguous(memory_format=torch.channels_last) if last else x)

def test_a_large_batch_is_split_without_a_trace(monkeypatch):
    "The product is made a few images at a time: more blocks or fewer give the same"
    for magnitude in MAGNITUDES:
        conv,x = layer_of(2, 4, 3, magnitude=magnitude, angle='linear'),draw(7, 2, 5, 5)
        monkeypatch.setattr(products, 'BLOCK', 3*4*9) # three images, so that the last block has one
        same_as_slow(conv, x)

# limiting cases

@pytest.mark.parametrize('options', [dict(), dict(stride=2, padding=1, groups=2), dict(dilation=2, padding='same')])
def test_linear_cosine_is_a_convolution_with_unit_filters(options):
    conv,x = layer_of(4, 6, 3, magnitude='linear', **options),draw(2, 4, 9, 9)
    unit = conv.weight/conv.weight.square().sum((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(conv(x), F.conv2d(x, unit, None, conv.stride, conv.padding, conv.dilation, conv.groups))

def test_linear_square_is_bcos_with_b_2():
    "B-cos (Boehle et al. 2022): the linear product, times |cos| to the power B-1"
    conv,x = layer_of(3, 5, 3, magnitude='linear', angle='square', padding=1),draw(2, 3, 8, 8)
    linear = F.conv2d(x, F.normalize(conv.weight.flatten(1)).view_as(conv.weight), padding=1)
    length = (F.avg_pool2d(x.square().sum(1, keepdim=True), 3, 1, 1, divisor_override=1)+1e-4).sqrt()
    torch.testing.assert_close(conv(x), linear*(linear/length).abs())
    torch.testing.assert_close(layer_of(3, 5, 3, magnitude='linear', angle='square', padding=1, gain=3.)(x), 3*conv(x))

@pytest.mark.parametrize('angle', ANGLES)
def test_the_angle_goes_from_1_to_minus_1_and_is_odd(angle):
    conv = layer_of(4, 1, 3, angle=angle)
    w = conv.weight.detach()
    along = 50*torch.stack([w[0]/w.norm(), -w[0]/w.norm()])
    torch.testing.assert_close(conv(along).flatten(), torch.tensor([1., -1], dtype=torch.float64), atol=1e-3, rtol=0)
    x = draw(6, 4, 3, 3)
    torch.testing.assert_close(conv(-x), -conv(x))
    torch.testing.assert_close(conv(3*x), conv(x), atol=1e-4, rtol=0) # a sphere sees no length

@pytest.mark.parametrize('magnitude', MAGNITUDES)
def test_the_length_of_a_filter_does_not_matter(magnitude):
    conv,x = layer_of(3, 4, 3, magnitude=magnitude),draw(2, 3, 6, 6)
    before = conv(x)
    along = (torch.autograd.grad(before.square().sum(), conv.weight)[0]*conv.weight).sum((1, 2, 3))
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-10, rtol=0) # the gradient is at a right angle
    with torch.no_grad(): conv.weight *= 1e3
    torch.testing.assert_close(conv(x), before)

@pytest.mark.parametrize('angle', ANGLES)
def test_the_gain_holds_the_scale_of_a_deep_network(angle):
    torch.manual_seed(0)
    convs = [DecoupledConv2d(64, 64, 3, padding=1, padding_mode='circular', magnitude='linear', angle=angle, gain='hold') for _ in range(8)]
    for conv in convs: nn.init.kaiming_normal_(conv.weight)
    x = torch.randn(2, 64, 8, 8).relu()
    with torch.no_grad():
        y = x
        for conv in convs: y = conv(y).relu()
    assert .3<(y.square().mean()/x.square().mean()).sqrt()<3
    if angle!='cosine': assert abs(8*math.log(holding_gain(angle, 576)/math.sqrt(2)))>math.log(3) # that of the cosine would not do

# slopes

def jacobian_norms(conv, points):
    "Largest singular value at each point of a layer whose window is the whole image: there is one patch"
    def one(v): return conv(v.view(1, *conv.weight.shape[1:])).flatten()
    return torch.stack([torch.linalg.matrix_norm(torch.autograd.functional.jacobian(one, p), 2) for p in points])

def points(d=18, n=12):
    "From the middle of the space to far beyond every radius"
    p = F.normalize(draw(n, d, seed=3))*torch.logspace(-4, 2, n, dtype=torch.float64)[:, None]
    return torch.cat([p, torch.zeros(1, d, dtype=torch.float64)])

@pytest.mark.parametrize('magnitude', BOUND)
@pytest.mark.parametrize('radius', [.3, 2, 'learnt'])
def test_bounded_operators_have_slope_one_over_radius(magnitude, radius):
    conv = layer_of(2, 6, 3, magnitude=magnitude, radius=radius).eval()
    nn.init.orthogonal_(conv.weight) # of rank 6: the map from patch to outputs is h(|x|)/|x| times a projection
    r = radius if radius!='learnt' else ((conv.ratio.square()+1e-4)*conv.mean_norm).min().item()
    norms = jacobian_norms(conv, points())
    assert (norms<=1/r*(1+1e-9)).all()
    assert norms.max()>.99/r # and the bound is attained, where patches are small
    if radius!='learnt':
        with torch.no_grad(): conv.weight.copy_(draw(*conv.weight.shape)) # filters at any angle: times the norm of their matrix
        times = torch.linalg.matrix_norm(unit_filters(conv).detach().flatten(1), 2)
        assert (jacobian_norms(conv, points())<=times/r*(1+1e-9)).all()

def test_a_sphere_has_no_such_bound():
    conv = layer_of(2, 6, 3)
    nn.init.orthogonal_(conv.weight)
    norms = jacobian_norms(conv, points())
    assert norms.max().item()==pytest.approx(100, rel=1e-3) and norms.argmax()==len(norms)-1 # one over the root of 1e-4, at zero
    far = points()[:-1].norm(dim=1)>1
    torch.testing.assert_close(norms[:-1][far]*points()[:-1][far].norm(dim=1), norms.new_ones(far.sum()), rtol=1e-3, atol=0)

@pytest.mark.parametrize('magnitude', BOUND)
def test_where_patches_overlap_the_slope_of_a_map_is_larger(magnitude):
    "A pixel is in up to nine patches: the bound of the whole map is larger by the root of that"
    conv,x = layer_of(2, 6, 3, magnitude=magnitude, radius=.5, padding=1),.05*draw(1, 2, 6, 6)
    nn.init.orthogonal_(conv.weight)
    j = torch.autograd.functional.jacobian(lambda x: conv(x).flatten(), x).flatten(1)
    assert 1/.5<torch.linalg.matrix_norm(j, 2)<=3/.5

@pytest.mark.parametrize('magnitude,angle', EVERY)
def test_gradcheck(magnitude, angle):
    for radius in ('learnt', 'first', 1.5) if magnitude in BOUND else (1,):
        conv = layer_of(2, 2, 2, magnitude=magnitude, angle=angle, radius=radius, groups=2)
        conv(draw(2, 2, 3, 3)) # whose length 'first' keeps
        leaves = dict(conv.named_parameters())
        def of(x, *values, conv=conv, leaves=leaves): return functional_call(conv, dict(zip(leaves, values)), x)
        x = draw(2, 2, 3, 3, seed=1)
        assert gradcheck(of, (x.requires_grad_(), *[p.detach().clone().requires_grad_() for p in leaves.values()]))

@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('magnitude,angle', EVERY)
def test_zero_patches_and_zero_filters_leave_all_finite(magnitude, angle, autocast):
    conv = layer_of(4, 6, 3, magnitude=magnitude, angle=angle, padding=1, dtype=torch.float32)
    with torch.no_grad(): conv.weight[0] = 0
    partly = draw(3, 4, 6, 6, dtype=torch.float32)
    partly[:, :, :, :4],partly[1] = 0,0
    tiny,huge = 1e-30*partly,1e6*partly
    along = conv.weight.detach()[1].expand(2, 4, 3, 3).clone() # a patch that is a filter
    for x in (torch.zeros(2, 4, 5, 5), partly, tiny, huge, 1e3*along):
        conv.zero_grad()
        x = x.clone().requires_grad_()
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast): out = conv(x)
        (out.float()*draw(*out.shape, dtype=torch.float32)).sum().backward()
        assert out.isfinite().all() and x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in conv.parameters())
        assert out[:, 0].eq(0).all() # nothing points along a filter that is zero
    assert conv(torch.zeros(1, 4, 5, 5)).eq(0).all()

# the stored mean

@pytest.mark.parametrize('magnitude', BOUND)
def test_in_eval_mode_an_image_does_not_depend_on_its_batch(magnitude):
    conv,x = layer_of(3, 4, 3, magnitude=magnitude),draw(4, 3, 6, 6)
    conv(x)
    conv.eval()
    kept = conv.mean_norm.clone()
    out = conv(x)
    assert torch.equal(conv(x), out) and torch.equal(conv.mean_norm, kept)
    torch.testing.assert_close(conv(x[1:2])[0], out[1])
    torch.testing.assert_close(conv(torch.cat([100*x[:1], x[1:2]]))[1], out[1])
    torch.testing.assert_close(conv(x[1]), out[1]) # without a batch
    conv.train()
    assert not torch.allclose(conv(torch.cat([100*x[:1], x[1:2]]))[1], out[1]) # in training it does

@pytest.mark.parametrize('momentum', [.1, .5])
def test_the_running_mean_is_that_of_a_loop(momentum):
    conv,mean = layer_of(3, 4, 3, magnitude='tanh', momentum=momentum, stride=2),0.
    for i in range(15):
        x = (1+i)*draw(2, 3, 7, 7, seed=i)
        conv(x)
        lengths = [(x[n, :, r:r+3, c:c+3].square().sum()+1e-4).sqrt().item() for n in range(2) for r in (0, 2, 4) for c in (0, 2, 4)]
        share = max(momentum, 1/(i+1))
        mean += share*(sum(lengths)/len(lengths)-mean)
        assert conv.mean_norm.item()==pytest.approx(mean, rel=1e-7)
    assert conv.batches==15 and not conv.mean_norm.requires_grad

@pytest.mark.parametrize('magnitude', BOUND)
def test_the_radius_of_the_first_batch_stays(magnitude):
    conv,x = layer_of(3, 4, 3, magnitude=magnitude, radius='first'),draw(2, 3, 6, 6)
    out = conv(x)
    assert conv.mean_norm.item()==pytest.approx(patch_norms(conv, x).mean().item(), rel=1e-9) and conv.ratio is None
    for scale in (5, 100): conv(scale*x)
    torch.testing.assert_close(conv(x), out)
    torch.testing.assert_close(conv.eval()(x), out)
    conv.train().mean_norm.requires_grad_(False)
    fixed = layer_of(3, 4, 3, magnitude=magnitude, radius=conv.mean_norm.item())
    torch.testing.assert_close(fixed(x), out)
    assert set(fixed.state_dict())=={'weight'}

def test_a_state_dict_comes_back():
    for radius,keys in (('learnt', {'weight', 'ratio', 'mean_norm', 'batches'}), ('first', {'weight', 'mean_norm', 'batches'})):
        def make(seed, radius=radius): return layer_of(3, 4, 3, magnitude='tanh', radius=radius, seed=seed)
        old,new,x = make(0),make(1),draw(2, 3, 6, 6)
        for i in range(3): old((1+i)*x)
        assert set(old.state_dict())==keys
        new.load_state_dict(old.state_dict())
        assert torch.equal(new.eval()(x), old.eval()(x))
        assert torch.equal(new.train()(2*x), old.train()(2*x)) and torch.equal(new.mean_norm, old.mean_norm)
        twin = copy.deepcopy(old)
        assert torch.equal(twin.eval()(x), old.eval()(x))
        twin.train()(50*x)
        assert twin.batches==old.batches+1 # nothing is shared

# precision, layout, threads, compilation

@pytest.mark.parametrize('magnitude,angle', EVERY)
def test_channels_last_is_kept_and_changes_nothing(magnitude, angle):
    x = draw(3, 4, 6, 6, dtype=torch.float32)
    conv = layer_of(4, 6, 3, magnitude=magnitude, angle=angle, groups=2, padding=1, dtype=torch.float32)
    other = copy.deepcopy(conv).to(memory_format=torch.channels_last)
    xs = [x.clone().requires_grad_(), x.clone(memory_format=torch.channels_last).requires_grad_()]
    a,b = conv(xs[0]),other(xs[1])
    assert b.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for p,q in zip(gradients(a, [xs[0], *conv.parameters()]), gradients(b, [xs[1], *other.parameters()])):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)

@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('magnitude,angle', EVERY)
def test_bfloat16_autocast_is_near_float32(magnitude, angle, last):
    conv,x = layer_of(16, 8, 3, magnitude=magnitude, angle=angle, padding=1, dtype=torch.float32),draw(3, 16, 8, 8, dtype=torch.float32)
    if last: conv,x = conv.to(memory_format=torch.channels_last),x.contiguous(memory_format=torch.channels_last)
    other = copy.deepcopy(conv)
    xs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    with torch.autocast('cpu', torch.bfloat16): out = conv(xs[0])
    assert out.dtype==torch.bfloat16
    exact = other(xs[1])
    def off(a, b): return ((a.float()-b).norm()/b.norm()).item()
    assert off(out, exact)<.02
    # with the weights of float32 both ways
    for a,b in zip(gradients(out.float(), [xs[0], *conv.parameters()]), gradients(exact, [xs[1], *other.parameters()])):
        assert a.dtype==torch.float32 and off(a, b)<(.1 if a.ndim==1 else .04) # the gradient of a ratio is what remains of a long sum
    if magnitude in BOUND: assert torch.equal(conv.mean_norm, other.mean_norm)

def test_lengths_are_not_summed_in_bfloat16():
    conv,x = nn.Conv2d(256, 2, 5, padding=2, bias=False),draw(2, 256, 9, 9).bfloat16()
    with torch.autocast('cpu', torch.bfloat16): norms = patch_norms(conv, x)
    exact = (F.unfold(x.double(), 5, padding=2).square().sum(1)+1e-4).sqrt().view(2, 1, 9, 9)
    assert norms.dtype==torch.float32
    torch.testing.assert_close(norms.double(), exact, rtol=1e-5, atol=0)
    assert patch_norms(conv, x.double()).dtype==torch.float64
    dilated = nn.Conv2d(256, 2, 3, dilation=2, padding=2, bias=False)
    with torch.autocast('cpu', torch.bfloat16): norms = patch_norms(dilated, x)
    assert norms.dtype==torch.float32
    torch.testing.assert_close(norms, patch_norms(dilated, x.float()))

@pytest.mark.parametrize('magnitude,radius', [('sphere', 1), ('ball', 'first'), ('ball', .7), ('tanh', 'learnt'), ('linear', 1)])
def test_compiled_is_eager(magnitude, radius):
    conv = layer_of(3, 4, 3, magnitude=magnitude, angle='linear', radius=radius, padding=1, dtype=torch.float32)
    other = copy.deepcopy(conv)
    for training in (True, False):
        conv.train(training); other.train(training)
        compiled = torch.compile(conv, fullgraph=True, backend='aot_eager')
        x = draw(3, 3, 6, 6, seed=5, dtype=torch.float32)
        a,b = x.clone().requires_grad_(),x.clone().requires_grad_()
        for _ in range(2):
            out,expected = compiled(a),other(b)
            torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
            for p,q in zip(gradients(out, [a, *conv.parameters()]), gradients(expected, [b, *other.parameters()])):
                torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
        if isinstance(radius, str):
            torch.testing.assert_close(conv.mean_norm, other.mean_norm)
            assert conv.batches==other.batches==2

@pytest.mark.parametrize('magnitude', MAGNITUDES)
def test_without_gradients_and_in_several_threads(magnitude):
    conv,x = layer_of(3, 4, 3, magnitude=magnitude).eval(),draw(4, 3, 6, 6)
    out = conv(x)
    def grads(_):
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(conv(leaf).square().sum(), leaf)[0]
    g = grads(0)
    with torch.no_grad(): assert torch.equal(conv(x), out) and not conv(x).requires_grad
    with torch.inference_mode(): assert torch.equal(conv(x), out)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(o, out) for o in pool.map(lambda _: conv(x).detach(), range(12)))
        assert all(torch.equal(o, g) for o in pool.map(grads, range(12)))
    torch.testing.assert_close(conv.train()(x[0]), conv(x[:1])[0])

@pytest.mark.parametrize('magnitude,angle', EVERY)
def test_a_graph_can_be_walked_twice_and_weights_can_be_frozen(magnitude, angle):
    conv,x = layer_of(3, 4, 3, magnitude=magnitude, angle=angle),draw(2, 3, 6, 6).requires_grad_()
    leaves,kept = [x, *conv.parameters()],x.detach().clone()
    loss = conv(x).square().sum()
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    for a,b in zip(first, torch.autograd.grad(loss, leaves)): assert torch.equal(a, b)
    assert torch.equal(x, kept)
    conv.requires_grad_(False)
    g, = torch.autograd.grad(conv(x).square().sum(), x)
    torch.testing.assert_close(g, first[0])

def test_a_second_derivative_is_refused_and_not_wrong():
    conv,x = layer_of(3, 4, 3, magnitude='tanh'),draw(2, 3, 6, 6).requires_grad_()
    g, = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'): g.square().sum().backward()

def test_an_optimiser_moves_filters_and_radii():
    conv,x = layer_of(3, 4, 3, magnitude='tanh'),draw(8, 3, 6, 6)
    target = layer_of(3, 4, 3, magnitude='tanh', seed=5)
    with torch.no_grad(): target.ratio.fill_(1.7)
    goal,optimizer = target(x).detach(),torch.optim.Adam(conv.parameters(), .1)
    losses = []
    for _ in range(60):
        losses.append(F.mse_loss(conv(x), goal))
        optimizer.zero_grad(); losses[-1].backward(); optimizer.step()
    assert losses[-1]<.05*losses[0] and conv.ratio.mean()>1.3

# models

def convs(model): return [m for m in model.modules() if isinstance(m, nn.Conv2d)]

@pytest.mark.parametrize('make', [lambda: resnet(width=.25), lambda: plain_cnn(width=.0625), lambda: plain_resnet(width=.125, norm=None)])
@pytest.mark.parametrize('magnitude', MAGNITUDES)
def test_a_network_is_decoupled_and_keeps_its_filters(make, magnitude):
    model = make().eval()
    before,windows = dict(model.named_parameters()),[math.prod(c.kernel_size)>1 for c in convs(model)]
    assert decouple(model, magnitude, 'square', radius='learnt', gain=1.5) is model and not any(m.training for m in model.modules())
    assert [type(c) is DecoupledConv2d for c in convs(model)]==windows and any(windows)
    after = dict(model.named_parameters())
    assert all(after[k] is p for k,p in before.items()) # an optimiser made before goes on
    assert set(after)-set(before)==({f'{k}.ratio' for k in decoupled_layers(model)} if magnitude in BOUND else set())
    for c in decoupled_layers(model).values(): assert (c.magnitude, c.angle, c.gain)==(magnitude, 'square', 1.5)
    out = model.train()(torch.rand(4, 3, 32, 32))
    out.square().sum().backward()
    assert out.shape==(4, 10) and all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

def test_networks_of_torchvision():
    models = pytest.importorskip('torchvision').models
    for name,magnitude in (('mobilenet_v3_small', 'ball'), ('squeezenet1_1', 'tanh')):
        model = getattr(models, name)(num_classes=5)
        n = len(convs(model))
        some = sum(math.prod(c.kernel_size)>1 for c in convs(model))
        groups = [c.groups for c in convs(model)]
        decouple(model, magnitude)
        assert len(decoupled_layers(model))==some<n and [c.groups for c in convs(model)]==groups
        assert model.eval()(torch.rand(1, 3, 64, 64)).isfinite().all()
        decouple(model, magnitude, pointwise=True)
        assert len(decoupled_layers(model))==n and model(torch.rand(1, 3, 64, 64)).isfinite().all()

def test_modules_that_are_shared_or_nested():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(), nn.Sequential(conv, nn.Sequential(nn.Conv2d(3, 2, 3, dtype=torch.float64).float())))
    decouple(model, 'ball')
    assert model[0] is model[2][0] and type(model[0]) is DecoupledConv2d and type(model[2][1][0]) is DecoupledConv2d
    twice = decouple(nn.Sequential(conv, nn.ReLU(), conv), 'ball') # under two names of one parent
    assert twice[0] is twice[2] and type(twice[2]) is DecoupledConv2d and twice[0].weight is conv.weight
    inside = nn.Sequential(nn.Identity(), plain_cnn(width=.0625))
    assert len(decoupled_layers(decouple(inside)))==9 and isinstance(inside[1], Classifier)
    alone = decouple(nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), 2, 2, padding_mode='reflect').double(), 'tanh', radius=2)
    assert (alone.kernel_size, alone.stride, alone.padding, alone.dilation, alone.groups, alone.padding_mode)==(
        (3, 2), (2, 1), (1, 0), (2, 2), 2, 'reflect') and alone.weight.dtype==torch.float64
    same_as_slow(alone, draw(2, 4, 9, 9))
    with pytest.raises(ValueError, match='model: expected nn.Conv2d with a window of more than one pixel, Sequential has none'):
        decouple(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(3, 4)))
    left = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    with pytest.raises(ValueError, match='magnitude'): decouple(left, 'cube')
    assert all(type(m) is nn.Conv2d for m in left) # an error changes nothing

def test_projection_leaves_the_network_as_it_was():
    model,x = decouple(plain_cnn(width=.0625), 'tanh').eval(),torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for c in decoupled_layers(model).values(): c.weight *= 5
    before,parameters = model(x),list(model.parameters())
    class Holder: bare_model = model
    for project in (project_filters, lambda m: ProjectFilters().after_epoch(Holder)):
        with torch.no_grad(): next(iter(decoupled_layers(model).values())).weight[0] *= 3
        project(model)
        for c in decoupled_layers(model).values():
            torch.testing.assert_close(c.weight.detach().flatten(1).norm(dim=1), torch.ones(len(c.weight)))
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    assert all(a is b for a,b in zip(parameters, model.parameters()))
    with torch.no_grad(): next(iter(decoupled_layers(model).values())).weight[0] = 0
    project_filters(model)
    assert next(iter(decoupled_layers(model).values())).weight[0].eq(0).all()

def test_orthogonality_is_that_of_a_loop():
    model = nn.Sequential(layer_of(3, 4, 2, dtype=torch.float32), nn.Conv2d(4, 4, 3), layer_of(4, 5, 3, seed=2, dtype=torch.float32))
    total = 0.
    for conv in (model[0], model[2]):
        u = [f.flatten().double()/f.double().norm() for f in conv.weight.detach()]
        for i in range(len(u)):
            for j in range(len(u)): total += (float(u[i]@u[j])-(i==j))**2/2
    regulariser = FilterOrthogonality(model, weight=.3)
    assert total>.1
    assert regulariser().item()==pytest.approx(.3*total, rel=1e-5)
    with torch.autocast('cpu', torch.bfloat16): assert torch.equal(regulariser(), FilterOrthogonality(model, .3)())
    project_filters(model)
    optimizer = torch.optim.SGD(model.parameters(), .5)
    for _ in range(100): optimizer.zero_grad(); regulariser().backward(); optimizer.step()
    assert regulariser().item()<.01*.3*total and model[1].weight.grad is None

# bad input

@pytest.mark.parametrize('make,message', [
    (lambda: DecoupledConv2d(3, 4, 3, magnitude='cube'), "magnitude: expected one of sphere, ball, tanh, linear, got 'cube'"),
    (lambda: DecoupledConv2d(3, 4, 3, angle='sine'), "angle: expected one of cosine, linear, square, sigmoid, got 'sine'"),
    (lambda: DecoupledConv2d(3, 4, 3, magnitude='ball', radius=0), "radius: expected 'learnt', 'first' or a number above 0, got 0"),
    (lambda: DecoupledConv2d(3, 4, 3, magnitude='tanh', radius=-2.), 'radius: expected .* got -2.0'),
    (lambda: DecoupledConv2d(3, 4, 3, magnitude='tanh', radius=math.nan), 'radius: expected .* got nan'),
    (lambda: DecoupledConv2d(3, 4, 3, magnitude='tanh', radius=math.inf), 'radius: expected .* got inf'),
    (lambda: DecoupledConv2d(3, 4, 3, magnitude='tanh', radius=True), 'radius: expected .* got True'),
    (lambda: DecoupledConv2d(3, 4, 3, magnitude='tanh', radius='fixed'), "radius: expected .* got 'fixed'"),
    (lambda: DecoupledConv2d(3, 4, 3, gain=-1), "gain: expected 'hold' or a number above 0, got -1"),
    (lambda: DecoupledConv2d(3, 4, 3, bias=True), 'bias: a decoupled convolution has none'),
    (lambda: DecoupledConv2d(4, 6, 3, groups=3), 'in_channels must be divisible by groups'),
    (lambda: DecoupledConv2d(4, 6, 3, groups=4), 'out_channels must be divisible by groups'),
    (lambda: DecoupledConv2d(3, 4, 3)(torch.rand(2, 4, 8, 8)), r'x: expected images of 3 channels, .* got shape \(2, 4, 8, 8\)'),
    (lambda: DecoupledConv2d(3, 4, 3)(torch.rand(4, 8, 8)), 'x: expected images of 3 channels'),
    (lambda: DecoupledConv2d(3, 4, 3)(torch.rand(3, 8)), r'x: expected images of 3 channels, .* got shape \(3, 8\)'),
    (lambda: holding_gain('sine', 9), 'angle: expected one of'),
    (lambda: decouple(nn.Linear(3, 4)), 'model: expected nn.Conv2d with a window of more than one pixel, Linear has none'),
    (lambda: decouple(nn.Conv2d(3, 4, 1)), 'model: expected nn.Conv2d'),
    (lambda: decouple(plain_cnn(width=.0625), 'cube'), 'magnitude: expected one of'),
    (lambda: decouple(plain_cnn(width=.0625), 'ball', radius=0), 'radius: expected'),
    (lambda: decoupled_layers(nn.Conv2d(3, 4, 3)), 'model: expected decoupled convolutions, Conv2d has none'),
    (lambda: project_filters(plain_cnn(width=.0625)), 'model: expected decoupled convolutions, Classifier has none'),
    (lambda: FilterOrthogonality(nn.Linear(3, 4)), 'model: expected decoupled convolutions, Linear has none')])
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message): make()

def test_not_a_number_stays_where_it_is():
    conv,x = layer_of(3, 4, 3, magnitude='ball', radius=1.),draw(3, 3, 6, 6)
    x[1, 0, 0, 0] = math.nan
    out = conv(x)
    assert out[1, :, 0, 0].isnan().all() and out[[0, 2]].isfinite().all() and out[1, :, 1:].isfinite().all()

# mistakes that are in use

def divided_by(norm):
    "A layer whose filters are divided by another length"
    class Wrong(DecoupledConv2d):
        def forward(self, x):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sphere, 'unit_filters', lambda conv: conv.weight/norm(conv.weight))
                return super().forward(x)
    return Wrong

def lost(of):
    "A layer made right, to which something is done"
    class Wrong(DecoupledConv2d):
        def __init__(self, *args, **kwargs): super().__init__(*args, **kwargs); of(self)
    return Wrong

def outside_a_parameter(conv):
    ratio = conv.ratio.detach().clone().requires_grad_()
    del conv.ratio
    conv.ratio = ratio

class OfTheBatch(DecoupledConv2d):
    "The mean length of the batch, whatever the mode"
    def forward(self, x):
        if not self.training: self.mean_norm.copy_(patch_norms(self, x).mean())
        return super().forward(x)

class DetachedMean(DecoupledConv2d):
    "No gradient through the mean length"
    def forward(self, x):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sphere, '_radius', lambda conv, n, right=sphere._radius: (conv.ratio.square()+1e-4)*n.mean().detach()
                if conv.training else right(conv, n))
            return super().forward(x)

WRONG = { # name -> layer, and what is to catch it
    'wrong axis': divided_by(lambda w: w.reshape(-1, len(w)).norm(dim=0).view(-1, 1, 1, 1)),
    'one dimension': divided_by(lambda w: w.norm(dim=1, keepdim=True)),
    'data': divided_by(lambda w: w.data.flatten(1).norm(dim=1).view(-1, 1, 1, 1)),
    'outside a parameter': lost(outside_a_parameter), 'of the batch': OfTheBatch, 'detached mean': DetachedMean}

def fits(kind):
    "What the tests above ask of a layer: outputs, gradients, what is learnt, and what is stored"
    conv,x = kind(3, 4, 3, magnitude='tanh', padding=1).double(),draw(3, 3, 6, 6)
    if set(dict(conv.named_parameters()))!={'weight', 'ratio'}: return False
    with torch.no_grad(): conv.weight.copy_(draw(*conv.weight.shape)*torch.tensor([.3, 1, 2, 4]).view(-1, 1, 1, 1))
    try:
        same_as_slow(conv, x)
        same_as_slow(conv.eval(), 3*x)
    except AssertionError: return False
    return True

def test_the_right_layer_fits(): assert fits(DecoupledConv2d)

@pytest.mark.parametrize('name', WRONG)
def test_mutant_is_caught(name): assert not fits(WRONG[name])
