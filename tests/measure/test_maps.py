"Maps of a class: found in real networks, equal to loops over places, and not those of the usual mistakes."
import copy, math, warnings
import numpy as np, pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
import avh_nb as av
from avh_nb.loss.angular import AngularLinear
from avh_nb.measure.head import Head
from avh_nb.measure.maps import LAST, MAPS, _Passing, class_activation_map, evidence, feature_map, map_of
from avh_nb.train import models

torch.manual_seed(0)
X = torch.randn(3, 3, 64, 64)
Y = torch.tensor([2, 0, 6])

def state(model): return {k: v.clone() for k,v in model.state_dict().items()}

def check(model, x=X, y=Y, **kwargs):
    "The CAM adds up to the logit without bias; the model is left as it was. Returns the map"
    before,modes = state(model),[m.training for m in model.modules()]
    head,features = feature_map(model, x, **kwargs)
    cam = map_of(head, features, y)
    assert all(v.equal(before[k]) for k,v in model.state_dict().items()) and modes==[m.training for m in model.modules()]
    assert not any(m._forward_hooks for m in model.modules()) and not features.requires_grad
    with torch.no_grad(): logits = copy.deepcopy(model).eval()(x)[range(len(x)), y]
    bias = 0 if head.bias is None else head.bias[y]
    torch.testing.assert_close(cam.mean((1, 2)), logits-bias, rtol=1e-4, atol=1e-5)
    return features

# Architectures, with random weights

def torchvision_model(name, **options):
    import torchvision
    return torchvision.models.get_model(name, num_classes=7, **options)

@pytest.mark.parametrize('name,options,d', [('mobilenet_v2', dict(width_mult=.25), 1280), ('efficientnet_b0', {}, 1280),
    ('regnet_y_400mf', {}, 440), ('shufflenet_v2_x0_5', {}, 1024)])
def test_torchvision(name, options, d): assert check(torchvision_model(name, **options)).shape==(3, d, 2, 2)

def test_resnet_and_densenet():
    "By hand: what the last block makes; and the ReLU that is a function, in place"
    import torchvision
    model,seen = torchvision_model('resnet18').eval(),[]
    features = check(model)
    model.layer4.register_forward_hook(lambda m, args, out: seen.append(out))
    with torch.no_grad(): model(X)
    assert features.equal(seen[0]) and features.shape==(3, 512, 2, 2)
    model = torchvision.models.DenseNet(4, (1, 1, 1, 2), 8, num_classes=7).eval()
    with torch.no_grad(): assert check(model).equal(model.features(X).relu())

def test_swin_of_torchvision_and_timm_has_its_channels_last():
    import torchvision
    swin = torchvision.models.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [2, 2], num_classes=7)
    assert check(swin).shape==(3, 24, 8, 8)
    timm = pytest.importorskip('timm')
    swin = timm.create_model('swin_tiny_patch4_window7_224', num_classes=7, img_size=64, window_size=2, embed_dim=24, depths=(1, 1, 1, 1),
        num_heads=(1, 2, 2, 2))
    features = check(swin)
    with torch.no_grad(): own = swin.eval().forward_features(X) # (N, H, W, D), after the last norm
    assert features.shape==(3, 192, 2, 2) and features.equal(own.movedim(3, 1))

@pytest.mark.parametrize('name', ['resnet10t', 'mobilenetv2_035'])
def test_timm(name):
    timm = pytest.importorskip('timm')
    check(timm.create_model(name, num_classes=7))

@pytest.mark.parametrize('make,options', [(models.resnet, {}), (models.resnet, dict(bias=False, signed=True)), (models.densenet, {}),
    (models.resnet, dict(blocks=(1, 1), channels=(8, 16)))])
def test_families(make, options): check(make(7, **options), X[..., :32, :32])

def test_efficientnet_lite():
    pytest.importorskip('efficientnet_lite_pytorch')
    model = models.efficientnet_lite(7, pretrained=False)
    features = check(model, head='head')
    with torch.no_grad(): torch.testing.assert_close(features.mean((2, 3)), model.eval().features(X))

TOO_EARLY = r"is not the mean over places of a map \(N, {}, H, W\); .*{}.* What works: a network whose head directly follows an average"

def tiny_vit():
    import torchvision
    return torchvision.models.VisionTransformer(32, 16, 1, 2, 24, 48, num_classes=7)

def tiny_convnext():
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt
    return ConvNeXt([CNBlockConfig(24, 48, 1), CNBlockConfig(48, None, 1)], num_classes=7)

@pytest.mark.parametrize('make,size,d,found', [
    (lambda: torchvision_model('mobilenet_v3_small'), 64, 1024, r"the last map, \(3, 576, 2, 2\), has no axis of 1024 channels: a hidden"),
    (tiny_convnext, 32, 48, r"the last map of 48 channels is \(3, 48, 4, 4\), and its mean is off by up to \d.*"
        "a normalisation"),
    (tiny_vit, 32, 24, r"the last map of 24 channels is \(3, 24, 2, 2\), .*a choice of tokens"),
    (lambda: models.alexnet(7), 32, 256, r"the last map, \(3, 64, 4, 4\), has no axis of 256 channels: a hidden layer"),
    (lambda: models.vgg(7), 32, 256, r"the last map, \(3, 128, 2, 2\), has no axis"),
    (lambda: torchvision_model('shufflenet_v2_x0_5'), 32, 1024, "what has 1024 channels is of one place: .*the images are too small"),
], ids=['mobilenet_v3', 'convnext', 'vit', 'alexnet', 'vgg', 'small images'])
def test_what_has_no_such_map_is_refused(make, size, d, found):
    model = make()
    with pytest.raises(ValueError, match=TOO_EARLY.format(d, found)): feature_map(model, X[..., :size, :size])
    assert model.training and not any(m._forward_hooks for m in model.modules())

def test_a_head_that_runs_before_the_pooling_is_refused():
    with pytest.raises(ValueError, match='no nn.Linear makes the logits'): feature_map(torchvision_model('squeezenet1_1'), X)

def test_a_model_without_any_map():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(ValueError, match='no map ran before it'): feature_map(model, X[:, 0, 0, :4])
    with pytest.raises(ValueError, match="the model has no module 'fc'"): feature_map(model, X[:, 0, 0, :4], head='fc')

# Ways of pooling, batches, wrappers, modes

class Net(nn.Module):
    "Everything that may go wrong at once: batch statistics, dropout, a block that runs twice, a ReLU in place, pooling by a function"
    def __init__(self, pool=lambda m: m.mean((2, 3)), d=6, head=None):
        super().__init__()
        self.first,self.drop,self.pool,self.head = nn.Conv2d(3, d, 3, 2),nn.Dropout2d(),pool,head or nn.Linear(d, 7)
        self.twice = nn.Sequential(nn.Conv2d(d, d, 3, padding=1), nn.BatchNorm2d(d))
    def map(self, x): return self.drop(self.twice(self.twice(self.first(x)))).relu_()
    def forward(self, x): return self.head(self.pool(self.map(x)))

SMALL = torch.randn(3, 3, 9, 13)

POOLS = [lambda m: m.mean((2, 3)), lambda m: m.mean([-1, -2]), lambda m: m.mean(3).mean(2), lambda m: m.flatten(2).mean(-1),
    lambda m: F.adaptive_avg_pool2d(m, 1).flatten(1), lambda m: F.avg_pool2d(input=m, kernel_size=m.shape[2:])[..., 0, 0],
    lambda m: m.sum((2, 3))/m[0, 0].numel(), lambda m: torch.einsum('nchw->nc', m)/m[0, 0].numel(),
    lambda m: m.permute(0, 2, 3, 1).mean((1, 2)), lambda m: torch.mean(m, dim=(2, 3), keepdim=True).squeeze(3).squeeze(2)]

@pytest.mark.parametrize('pool', POOLS)
def test_ways_of_pooling(pool):
    net = Net(pool)
    features = check(net, SMALL)
    with torch.no_grad(): torch.testing.assert_close(features, net.eval().map(SMALL))

@pytest.mark.parametrize('pool', [lambda m: m.amax((2, 3)), lambda m: m.sum((2, 3)), lambda m: F.normalize(m.mean((2, 3))),
    lambda m: m[..., 0, 0], lambda m: m.mean((2, 3))+1e-3, lambda m: 1.001*m.mean((2, 3)), lambda m: m.pow(3).mean((2, 3)).pow(1/3)])
def test_other_pooling_is_refused(pool):
    with pytest.raises(ValueError, match='its mean is off by up to'): feature_map(Net(pool), SMALL)

@pytest.mark.parametrize('turned', [False, True])
def test_as_many_channels_as_places_on_a_side(turned):
    "Both readings of the shape fit; the numbers say which is meant"
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    class Square(nn.Module):
        def __init__(self): super().__init__(); self.body,self.head = net,nn.Linear(4, 7)
        def forward(self, x): m = self.body(x); return self.head(m.movedim(1, 3).contiguous().mean((1, 2)) if turned else m.mean((2, 3)))
    x = torch.randn(3, 3, 6, 6)
    assert check(Square(), x).equal(net(x).detach())

def test_batches():
    net = Net().eval()
    expected = feature_map(net, SMALL)[1]
    for batch in ((SMALL, Y), [SMALL, Y], dict(x=SMALL, labels=Y), SMALL.numpy(), lambda model: model(SMALL), (SMALL,), ([SMALL], Y)):
        assert feature_map(net, batch)[1].equal(expected)

def test_wrappers():
    net = Net().train()
    expected = feature_map(net, SMALL)[1]
    assert feature_map(nn.DataParallel(net), SMALL)[1].equal(expected)
    assert feature_map(nn.DataParallel(net), SMALL, head='module.head')[1].equal(expected)
    if not hasattr(torch.compiler, 'set_stance'): return
    wrapped = torch.compile(net, backend='eager')
    wrapped(SMALL)
    expected = feature_map(net, SMALL)[1]
    assert feature_map(wrapped, SMALL)[1].equal(expected) and feature_map(wrapped, SMALL, head='head')[1].equal(expected)
    part = copy.deepcopy(net)
    part.twice = torch.compile(part.twice, backend='eager')
    assert feature_map(part, SMALL)[1].equal(expected)

def test_inference_mode_and_gradients():
    net = Net()
    expected = class_activation_map(net, SMALL, Y)
    with torch.inference_mode(): assert class_activation_map(net, SMALL, Y).equal(expected)
    x = SMALL.clone().requires_grad_()
    assert class_activation_map(net, x, Y).equal(expected) and x.grad is None and all(p.grad is None for p in net.parameters())
    net(x)[:, 0].sum().backward() # and the model can be trained on
    assert x.grad is not None

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    net = Net().eval()
    expected = {kind: class_activation_map(net, SMALL, Y, kind) for kind in MAPS}
    with torch.autocast('cpu', dtype):
        got = {kind: class_activation_map(net, SMALL, Y, kind) for kind in MAPS}
        logits = net(SMALL)[range(3), Y].detach()
    for kind in MAPS:
        assert got[kind].dtype==torch.float32
        places = expected['norm']>.1 # nearer to 0 a direction is mostly rounding
        torch.testing.assert_close(got[kind][places], expected[kind][places], rtol=.05, atol=.1)
    torch.testing.assert_close(got['cam'].mean((1, 2)), logits.float()-net.head.bias[Y], rtol=.02, atol=.02)

def test_double_precision():
    net = Net().double().eval()
    assert class_activation_map(net, SMALL.double(), Y).dtype==torch.float64
    cam = class_activation_map(net, SMALL.double(), Y)
    torch.testing.assert_close(cam.mean((1, 2)), net(SMALL.double())[range(3), Y]-net.head.bias[Y], rtol=1e-12, atol=1e-12)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_cuda():
    net = Net().cuda().eval()
    for kind in MAPS:
        m = class_activation_map(net, SMALL, Y, kind) # moved there
        assert m.is_cuda
        torch.testing.assert_close(m.cpu(), class_activation_map(copy.deepcopy(net).cpu(), SMALL, Y, kind), rtol=1e-2, atol=1e-2)

class Other(torch.Tensor): "What some libraries feed to networks"

def test_subclasses_and_scripted_bodies():
    net = Net().eval()
    expected = feature_map(net, SMALL)[1]
    features = feature_map(net, SMALL.as_subclass(Other))[1]
    assert type(features) is torch.Tensor and features.equal(expected)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore') # deprecated
        net.first = torch.jit.trace(net.first, SMALL)
    torch.testing.assert_close(feature_map(net, SMALL)[1], expected)

def test_heads():
    conv = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 7, 1), nn.Flatten())
    check(conv, SMALL)
    early = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 7, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match='no nn.Linear makes the logits'): feature_map(early, SMALL)
    check(Net(head=nn.utils.parametrizations.weight_norm(nn.Linear(6, 7))), SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        check(Net(head=nn.utils.weight_norm(nn.Linear(6, 7, bias=False))), SMALL)
    one = Net(head=nn.Linear(6, 1))
    assert feature_map(one, SMALL)[0].w.shape==(1, 6)
    softened = nn.Sequential(Net(), nn.Softmax(1))
    with pytest.raises(ValueError, match='softmax'): feature_map(softened, SMALL)
    both = Net()
    both.forward = lambda x: both.head(both.pool(both.map(x)))+both.head(both.pool(both.map(-x)))
    with pytest.raises(ValueError, match='has to run once per batch'): feature_map(both, SMALL, head='head')

def test_angular_heads():
    net = Net(head=AngularLinear(6, 7))
    head,features = feature_map(net, SMALL)
    assert head.scale==net.head.angular_scale
    assert map_of(head, features, Y).equal(map_of(Head(head.w), features, Y))
    s = av.score(features.mean((2, 3)), head.w, Y, scale=head.scale)
    assert head.logits(features.mean((2, 3))).argmax(1).equal(s.pred)

def test_few_maps_are_kept():
    "A network of equal layers would fill the memory"
    passing = _Passing(6)
    with passing:
        m = SMALL.new_zeros(3, 6, 9, 9)
        for _ in range(50): m = m+1
    assert len(passing.maps)==LAST and passing.maps[-1].max()==49 # what entered the last sum
    deep = nn.Sequential(nn.Conv2d(3, 6, 3), *[nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()) for _ in range(20)],
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 7))
    check(deep, SMALL)

# Values

def by_loops(w, f, y, kind):
    "Each place by itself, in Python"
    def angle(a, b):
        la,lb = (math.sqrt(sum(v*v for v in u)) for u in (a, b))
        return math.pi/2 if la==0 else math.acos(max(-1, min(1, sum(p*q for p,q in zip(a, b))/la/lb)))
    n,_,height,width = f.shape
    res = torch.zeros(n, height, width, dtype=torch.float64)
    for i in range(n):
        for r in range(height):
            for c in range(width):
                x,own = f[i, :, r, c].tolist(),w[y[i]].tolist()
                a = [angle(x, v) for v in w.tolist()]
                res[i, r, c] = dict(cam=sum(p*q for p,q in zip(x, own)), cosine=math.cos(a[y[i]]), angle=a[y[i]], avh=a[y[i]]/sum(a),
                    avc=(math.pi-a[y[i]])/sum(math.pi-v for v in a), norm=math.sqrt(sum(v*v for v in x)))[kind]
    return res

F_,W = torch.randn(3, 5, 2, 4).relu(),torch.randn(7, 5)
F_[0, :, 1, 2] = 0 # a place without direction

@pytest.mark.parametrize('kind', MAPS)
def test_a_map_is_that_of_a_loop_over_places(kind):
    expected = by_loops(W, F_, Y, kind)
    torch.testing.assert_close(map_of(Head(W.double()), F_.double(), Y, kind), expected, rtol=1e-9, atol=1e-9)
    got = map_of(Head(W, torch.randn(7)), F_, Y, kind) # whatever the bias is
    assert got.dtype==torch.float32 and got.shape==(3, 2, 4)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)

def test_each_place_has_the_score_of_its_vector():
    places = F_.permute(0, 2, 3, 1).reshape(-1, 5)
    some = places.any(1)
    s = av.score(places[some], W, Y.repeat_interleave(8)[some])
    for kind in ('avh', 'avc', 'angle', 'norm'):
        torch.testing.assert_close(map_of(Head(W), F_, Y, kind).flatten()[some], getattr(s, kind), rtol=1e-5, atol=1e-7)

def test_many_places_and_classes_are_taken_in_parts(monkeypatch):
    expected = {k: map_of(Head(W), F_, Y, k) for k in ('avh', 'avc')}
    monkeypatch.setattr('avh_nb.measure.maps.PLACES', 20) # 2 places of 7 classes
    for k,m in expected.items(): torch.testing.assert_close(map_of(Head(W), F_, Y, k), m, rtol=1e-6, atol=0)

def test_nothing_is_warned_of_where_there_is_no_direction():
    f = F_.clone()
    f[1, 2, 0, 0],f[2, 3, 1, 1] = math.nan,math.inf
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for kind,neutral in dict(cosine=0, angle=math.pi/2, avh=1/7, avc=1/7, norm=0, cam=0).items():
            m = map_of(Head(W), f, Y, kind)
            assert m[0, 1, 2]==torch.tensor(neutral) and not m[1, 0, 0].isfinite() and not m[2, 1, 1].isfinite()
            assert m.isfinite().sum()==22
            if kind in ('cosine', 'angle', 'avh', 'avc'): assert m[1, 0, 0].isnan() and m[2, 1, 1].isnan()
            assert map_of(Head(W), f[:0], Y[:0], kind).shape==(0, 2, 4)

def test_classes():
    expected = map_of(Head(W), F_, torch.tensor([4, 4, 4]), 'avh')
    for y in (4, np.int64(4), torch.tensor(4), [4, 4, 4], np.array([4, 4, 4], np.uint8), torch.tensor([4]*3, dtype=torch.int32)):
        assert map_of(Head(W), F_, y, 'avh').equal(expected)
    for y,says in ((7, 'from 0 to 6, got 7'), (-1, 'got -1'), ([0, 1], 'expected 3 labels'), (1., 'integer'), (True, 'integer'),
        (None, 'expected a tensor'), ('cat', 'y: ')):
        with pytest.raises(ValueError, match=says): map_of(Head(W), F_, y)

def test_class_vectors_without_direction():
    w = W.clone(); w[5] = 0
    for kind in ('cam', 'norm', 'angle', 'cosine'): assert map_of(Head(w), F_, Y, kind).equal(map_of(Head(W), F_, Y, kind))
    for kind,y in (('avh', Y), ('avc', Y), ('angle', 5), ('cosine', torch.tensor([0, 5, 1]))):
        with pytest.raises(ValueError, match=r'w: row 5 \(class 5\) is zero'): map_of(Head(w), F_, y, kind)

@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32-1), st.floats(.01, 100), st.floats(.01, 100))
def test_lengths(seed, a, b):
    g = torch.Generator().manual_seed(seed)
    f,w = torch.randn(2, 4, 3, 3, generator=g, dtype=torch.float64),torch.randn(5, 4, generator=g, dtype=torch.float64)
    y = torch.randint(5, (2,), generator=g)
    longer = w.clone(); longer[y[0]] *= b
    for kind in MAPS:
        m = map_of(Head(w), f, y, kind)
        factor = a if kind in ('cam', 'norm') else 1
        torch.testing.assert_close(map_of(Head(w), a*f, y, kind), factor*m, rtol=1e-9, atol=1e-12)
        factor = b if kind=='cam' else 1
        torch.testing.assert_close(map_of(Head(longer), f, y, kind)[0], factor*m[0], rtol=1e-9, atol=1e-12)
    cosine,angle = (map_of(Head(w), f, y, k) for k in ('cosine', 'angle'))
    assert cosine.abs().max()<=1 and 0<=angle.min() and angle.max()<=math.pi
    for kind in ('avh', 'avc'):
        torch.testing.assert_close(sum(map_of(Head(w), f, c, kind) for c in range(5)), torch.ones(2, 3, 3, dtype=torch.float64))
    along = map_of(Head(w), w[y][..., None, None].expand(-1, -1, 1, 2), y, 'cosine')
    torch.testing.assert_close(along, torch.ones_like(along)); assert along.max()<=1

def test_evidence_is_high_where_the_class_is():
    "On the class vector itself, against its opposite"
    f = torch.stack([W[3], -W[3]], 1)[None, :, None] # (1, 5, 1, 2)
    for kind in set(MAPS)-{'norm'}:
        e = evidence(map_of(Head(W), f, 3, kind), kind)
        assert e[0, 0, 0]>e[0, 0, 1], kind
    for kind in MAPS:
        m = map_of(Head(W), F_, Y, kind)
        assert torch.equal(evidence(m, kind), m) is (MAPS[kind].speaks=='high')
    with pytest.raises(ValueError, match='kind: expected one of cam'): evidence(m, 'heat')

# Mistakes

NET = Net().train()
NET(torch.randn(20, 3, 9, 13)) # its running statistics are not those of a batch

def right(x, y): return class_activation_map(NET, x, y)
def in_training_mode(x, y):
    with torch.no_grad(): m = copy.deepcopy(NET).train().map(x)
    return torch.einsum('ndhw,nd->nhw', m, NET.head.weight[y].detach())
def before_the_relu(x, y):
    net = copy.deepcopy(NET).eval()
    with torch.no_grad(): m = net.twice(net.twice(net.first(x)))
    return torch.einsum('ndhw,nd->nhw', m, net.head.weight[y])
def of_the_block_as_it_ran_first(x, y):
    net = copy.deepcopy(NET).eval()
    with torch.no_grad(): m = net.twice(net.first(x)).relu()
    return torch.einsum('ndhw,nd->nhw', m, net.head.weight[y])
def with_the_bias(x, y): return right(x, y)+NET.head.bias[y].detach()[:, None, None]
def cut_off_at_zero(x, y): return right(x, y).relu()
def added_over_places(x, y): return right(x, y)*right(x, y)[0].numel()
def of_the_next_class(x, y): return right(x, (y+1)%7)

def adds_up(cam):
    with torch.no_grad(): logits = copy.deepcopy(NET).eval()(SMALL)[range(3), Y]-NET.head.bias[Y]
    torch.testing.assert_close(cam(SMALL, Y).mean((1, 2)), logits, rtol=1e-4, atol=1e-5)

def test_the_cam_adds_up_to_the_logit(): adds_up(right)

@pytest.mark.parametrize('wrong', [in_training_mode, before_the_relu, of_the_block_as_it_ran_first, with_the_bias, cut_off_at_zero,
    added_over_places, of_the_next_class], ids=lambda f: f.__name__)
def test_mistakes_are_caught(wrong):
    torch.manual_seed(0)
    with pytest.raises(AssertionError): adds_up(wrong)
