"Margins against cos(mθ) in float64 and pytorch-metric-learning, in their limits and at the ends of the circle; and known wrong variants."
import math
import pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck
from avh_nb.loss.energy import hyperspherical_energy
from avh_nb.loss.margin import ANNEALING, Annealing, ArcFace, CosFace, MarginLoss, MarginSoftmax, SphereFacePlus, directions, margin_cosine

def data(n=10, d=6, k=4, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=dtype),torch.randn(k, d, generator=g, dtype=dtype),torch.randint(k, (n,), generator=g)

def by_angle(a, m):
    "ψ as its paper writes it"
    k = min(math.floor(a*m/math.pi), m-1)
    return (-1)**k*math.cos(m*a)-2*k

def slow_loss(x, w, y, m, normalise, lam=0., scale=None):
    "Sample by sample and class by class"
    total = 0.
    for a,label in zip(x, y.tolist()):
        logits = []
        for c,v in enumerate(w):
            angle = math.acos(max(-1, min(1, (a@v/(a.norm()*v.norm())).item())))
            length = (a.norm().item() if scale is None else scale)*(1 if normalise else v.norm().item())
            plain = length*math.cos(angle)
            logits.append((lam*plain+length*by_angle(angle, m))/(1+lam) if c==label else plain)
        total += math.log(sum(math.exp(z-max(logits)) for z in logits))+max(logits)-logits[label]
    return total/len(x)

@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 8), d=st.integers(2, 6), k=st.integers(2, 5), m=st.integers(1, 6), normalise=st.booleans(),
    lam=st.sampled_from([0., .5, 5., 1000.]), scale=st.sampled_from([None, 3.]), seed=st.integers(0, 99))
def test_the_loss_is_that_of_the_slow_formula(n, d, k, m, normalise, lam, scale, seed):
    x,w,y = data(n, d, k, seed)
    loss = MarginSoftmax(margin=m, normalise=normalise, anneal=lambda share: lam, scale=scale, w=nn.Parameter(w))
    assert loss(x, y).item()==pytest.approx(slow_loss(x, w, y, m, normalise, lam, scale), rel=1e-9)

@pytest.mark.parametrize('m', [1, 2, 3, 4, 5])
def test_psi_at_the_ends_and_at_the_joints(m):
    joints = torch.tensor([math.cos(j*math.pi/m) for j in range(m+1)], dtype=torch.float64)
    for away in (0., 1e-9, -1e-9): # on both sides of a joint it is the same: ψ is continuous
        expected = torch.tensor([1.-2*j for j in range(m+1)], dtype=torch.float64)
        torch.testing.assert_close(margin_cosine((joints+away).clamp(-1, 1), m), expected, atol=1e-6, rtol=0)
    c = torch.tensor([1., -1, 0, 1+1e-7, -1-1e-7], dtype=torch.float64, requires_grad=True)
    slope, = torch.autograd.grad(margin_cosine(c, m).sum(), c)
    assert slope.isfinite().all() and slope[:2].tolist()==pytest.approx([m*m, m*m])
    assert slope[2].item()==pytest.approx(m if m%2 else 0) # an even margin is flat at 90 degrees

@pytest.mark.parametrize('m', [1, 2, 3, 4])
@pytest.mark.parametrize('normalise', [True, False])
def test_gradients(m, normalise):
    x,w,y = data(5, 3, 3, seed=m)
    loss = MarginSoftmax(margin=m, normalise=normalise, w=nn.Parameter(torch.ones_like(w)), anneal=lambda share: .3)
    def of(x, w):
        own = torch.func.functional_call(loss, dict(weight=w), (x, y))
        return own
    assert gradcheck(of, (x.requires_grad_(), w.requires_grad_()))

@pytest.mark.parametrize('kind', [MarginSoftmax, CosFace, ArcFace, SphereFacePlus, MarginLoss])
def test_features_on_and_opposite_their_vector_and_zeros_have_finite_gradients(kind):
    w = torch.eye(4, 6)
    x = torch.cat([w, -w, torch.zeros(1, 6), 1e30*w[:1], 1e-30*w[:1]]).requires_grad_()
    y = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0, 0, 0])
    for scale in (None, 8.):
        loss = kind(6, 4, scale=scale)
        with torch.no_grad(): loss.weight.copy_(w)
        value = loss(x, y)
        gx,gw = torch.autograd.grad(value, (x, loss.weight))
        assert value.isfinite() and gx.isfinite().all() and gw.isfinite().all() and gx[8].abs().sum()==0

# limits

def test_margin_one_is_the_cosine_times_the_length():
    x,w,y = data(dtype=torch.float32)
    loss = MarginSoftmax(margin=1, w=nn.Parameter(w))
    z = x.norm(dim=1, keepdim=True)*F.cosine_similarity(x[:, None], w, dim=2)
    torch.testing.assert_close(loss(x, y), F.cross_entropy(z, y)); torch.testing.assert_close(loss.logits(x), z)

@pytest.mark.parametrize('m', [2, 3, 4])
def test_without_end_the_annealing_is_a_softmax(m):
    x,w,y = data()
    loss = MarginSoftmax(margin=m, normalise=False, w=nn.Parameter(w), anneal=lambda share: math.inf if share==0 else 1e12)
    torch.testing.assert_close(loss(x, y), F.cross_entropy(x@w.T, y)) # the first λ is that of share 0
    loss.anneal(.5); torch.testing.assert_close(loss(x, y), F.cross_entropy(x@w.T, y), rtol=1e-9, atol=1e-9)

@pytest.mark.parametrize('name,margin,ours', [('SphereFaceLoss', 2, MarginSoftmax), ('SphereFaceLoss', 3, MarginSoftmax),
    ('SphereFaceLoss', 4, MarginSoftmax), ('CosFaceLoss', .35, CosFace), ('ArcFaceLoss', 28.6, ArcFace)])
def test_the_whole_margin_is_that_of_pytorch_metric_learning(name, margin, ours):
    losses = pytest.importorskip('pytorch_metric_learning.losses')
    x,w,y = data(50, 6, 4, dtype=torch.float32)
    theirs = getattr(losses, name)(4, 6, margin=margin, scale=1 if name=='SphereFaceLoss' else 8)
    with torch.no_grad(): theirs.W.copy_(w.T)
    loss = ours(margin=margin if name!='ArcFaceLoss' else math.radians(margin), w=nn.Parameter(w),
        scale=None if name=='SphereFaceLoss' else 8)
    a,b = x.clone().requires_grad_(),x.clone().requires_grad_()
    torch.testing.assert_close(loss(a, y), theirs(b, y), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(loss(a, y), a)[0], torch.autograd.grad(theirs(b, y), b)[0], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(loss.logits(x), theirs.get_logits(x), rtol=1e-4, atol=1e-4)

@settings(deadline=None, max_examples=30)
@given(share=st.floats(0, 1), name=st.sampled_from(sorted(ANNEALING)))
def test_annealing_falls_from_its_base_to_its_end(share, name):
    a = ANNEALING[name]
    assert a(0)==a.base and a.least<=a(1)<=a(share)<=a.base
    t = share*a.steps
    assert a(share)==pytest.approx(max(a.least, a.base*(1+a.gamma*t)**-a.power))

def test_what_cross_entropy_takes():
    x,w,y = data(dtype=torch.float32)
    y[2] = -7
    kept,z = y!=-7,x@w.T
    weight = torch.tensor([1., 2, 0, 3])
    for options in (dict(weight=weight), dict(label_smoothing=.2), dict(weight=weight, label_smoothing=.1), dict(reduction='sum'),
            dict(reduction='none')):
        loss = MarginSoftmax(margin=1, normalise=False, w=nn.Parameter(w), ignore_index=-7, **options)
        torch.testing.assert_close(loss(x, y), F.cross_entropy(z, y, ignore_index=-7, **options))
        if options.get('reduction')!='none': assert loss(x[kept], y[kept]).isfinite()

def test_the_energy_of_class_vectors_is_added():
    x,w,y = data()
    loss = SphereFacePlus(margin=3, w=nn.Parameter(w), energy=2., s=2)
    torch.testing.assert_close(loss(x, y), MarginSoftmax(margin=3, w=nn.Parameter(w))(x, y)+2*hyperspherical_energy(w, 2))

def test_autocast_no_grad_and_half_precision():
    x,w,y = data(dtype=torch.float32)
    loss = MarginSoftmax(6, 4, 4)
    with torch.autocast('cpu', torch.bfloat16): inside = loss(x, y)
    assert torch.equal(inside, loss(x, y))
    with torch.inference_mode(): assert torch.equal(loss(x, y), inside)
    assert loss(x.bfloat16(), y).dtype==torch.float32

def test_a_training_step_compiles_into_one_graph():
    x,w,y = data(dtype=torch.float32)
    loss = MarginSoftmax(6, 4, 3, anneal='sphereface')
    counter = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(loss, backend=counter, fullgraph=True)
    for share in (0, .01, 1): # another λ needs no other graph
        loss.anneal(share)
        a,b = x.clone().requires_grad_(),x.clone().requires_grad_()
        torch.testing.assert_close(compiled(a, y), loss(b, y))
        torch.testing.assert_close(torch.autograd.grad(compiled(a, y), a)[0], torch.autograd.grad(loss(b, y), b)[0], rtol=1e-4, atol=1e-6)
    assert counter.frame_count==1

def test_directions_are_safe():
    u,length = directions(torch.tensor([[3., 4], [0, 0], [1e38, 0], [1e-38, 0]]))
    assert u.tolist()==[[pytest.approx(.6), pytest.approx(.8)], [0, 0], [1, 0], [1, 0]] and length.isfinite().all()

@pytest.mark.parametrize('make,message', [
    (lambda: MarginSoftmax(5, 4, 0), 'margin: expected a whole number of at least 1, got 0'),
    (lambda: MarginSoftmax(5, 4, 2.5), 'margin: expected a whole number of at least 1, got 2.5'),
    (lambda: MarginSoftmax(5, 4, True), 'margin: expected a whole number'),
    (lambda: MarginSoftmax(5, 4, math.nan), 'margin: expected a whole number'),
    (lambda: MarginSoftmax(5, 4, 'four'), 'margin: expected a whole number'),
    (lambda: MarginSoftmax(5, 1), 'out_features: expected at least 2 classes, got 1'),
    (lambda: MarginSoftmax(5), 'in_features, out_features: expected both'),
    (lambda: MarginSoftmax(5, 4, scale=0), 'scale: expected above 0'),
    (lambda: MarginSoftmax(5, 4, weight=torch.ones(3)), r'weight: expected shape \(4,\), one per class, got \(3,\)'),
    (lambda: MarginSoftmax(5, 4, anneal='linear'), 'anneal: expected one of sphereface'),
    (lambda: MarginSoftmax(5, 4, anneal=3), 'anneal: expected a name or a function, got 3'),
    (lambda: Annealing(1, 1, 1, 0, 10)(2), 'share: expected from 0 to 1, got 2'),
    (lambda: MarginSoftmax(5, 4)(torch.randn(3, 6), torch.tensor([0, 1, 2])), 'x'),
    (lambda: MarginSoftmax(5, 4)(torch.randn(3, 5), torch.tensor([0, 1, 4])), 'y: .*'),
    (lambda: MarginSoftmax(5, 4)(torch.randn(3, 5), torch.rand(3, 4)), 'y: expected integer labels')])
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message): make()

# mistakes that are in use

def psi_with_taylor(c, m):
    "A branch of one port: the series of the cosine with an odd term"
    t = m*c.clamp(-1, 1).acos()
    return 1-t**2/2+t**4/24-t**6/720+t**8/40320-t**9/362880

def psi_of_acos(c, m):
    "Without a clamp"
    a = c.acos()
    k = (m*a/math.pi).floor()
    return (-1)**k*torch.cos(m*a)-2*k

def psi_without_steps(c, m):
    "Turned at each joint, but not lowered"
    a = c.clamp(-1+1e-7, 1-1e-7).acos()
    return (-1)**(m*a/math.pi).floor()*torch.cos(m*a)

def psi_not_continued(c, m): return torch.cos(m*c.clamp(-1, 1).acos())

def fits(psi):
    "What the tests above ask of ψ"
    angle = torch.linspace(0, math.pi, 181, dtype=torch.float64)
    for m in (2, 3, 4):
        c = angle.cos().clone().requires_grad_()
        value = psi(c, m)
        expected = torch.tensor([by_angle(a, m) for a in angle.tolist()], dtype=torch.float64)
        slope, = torch.autograd.grad(value.sum(), c)
        if not torch.allclose(value, expected, atol=1e-6) or not slope.isfinite().all(): return False
    return True

def test_the_right_psi_fits(): assert fits(margin_cosine)

@pytest.mark.parametrize('wrong', [psi_with_taylor, psi_of_acos, psi_without_steps, psi_not_continued])
def test_mutant_is_caught(wrong): assert not fits(wrong)

def test_annealing_by_calls_is_caught():
    "λ must not move because the loss was computed, as for validation"
    x,w,y = data()
    loss = MarginSoftmax(6, 4, 4, anneal='sphereface')
    first = loss(x.float(), y)
    for _ in range(20): loss(x.float(), y)
    assert torch.equal(loss(x.float(), y), first)
