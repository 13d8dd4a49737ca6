"Hyperspherical energy against a loop over all pairs, its bounds, and the wrong variants of published code."
import math
import pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.autograd import gradcheck
from avh_nb.loss.angular import AngularLinear
from avh_nb.loss.energy import EnergyRegulariser, energy_bound, hyperspherical_energy
from avh_nb.train.plain import plain_cnn

def filters(n=5, d=7, seed=0): return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

def slow(w, s=0, half=False, angular=False):
    "Over the pairs of all 2N vectors"
    u = [v/v.norm() for v in w.flatten(1).double()]
    if half: u = u+[-v for v in u]
    total,pairs = 0.,0
    for i in range(len(u)):
        for j in range(i):
            q = (u[i]-u[j]).square().sum().item()
            if angular:
                t = math.acos(max(-1, min(1, (u[i]@u[j]).item())))/math.pi+1e-4
                f = -math.log(t) if s==0 else t**-s
            else: f = -math.log(q) if s==0 else q**(-s/2)
            total,pairs = total+f,pairs+1
    return total/pairs

@settings(deadline=None, max_examples=80)
@given(n=st.integers(2, 7), d=st.integers(2, 9), s=st.sampled_from([0, 1, 2]), half=st.booleans(), angular=st.booleans(),
    seed=st.integers(0, 999))
def test_energy_is_that_of_the_slow_loop(n, d, s, half, angular, seed):
    w = filters(n, d, seed)
    # where two filters are nearly one, the loop itself has few digits
    c = (F.normalize(w)@F.normalize(w).T-torch.eye(n)).abs().max()
    if c>.999999: return
    assert hyperspherical_energy(w, s, half, angular).item()==pytest.approx(slow(w, s, half, angular), rel=1e-6, abs=1e-9)

@pytest.mark.parametrize('s', [0, 1, 2])
@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('angular', [False, True])
def test_gradients(s, half, angular):
    w = filters(4, 3).requires_grad_()
    assert gradcheck(lambda w: hyperspherical_energy(w, s, half, angular), w)
    with torch.no_grad(): w[1] = w[0]; w[2] = -w[0]
    g, = torch.autograd.grad(hyperspherical_energy(w, s, half, angular), w)
    assert g.isfinite().all() and hyperspherical_energy(w, s, half, angular).isfinite()

@settings(deadline=None, max_examples=40)
@given(n=st.integers(2, 9), d=st.integers(1, 9), s=st.sampled_from([0, 1, 2]), half=st.booleans(), seed=st.integers(0, 99))
def test_no_filters_undercut_the_bound(n, d, s, half, seed):
    assert hyperspherical_energy(filters(n, d, seed), s, half).item()>=energy_bound(n, d, s, half)-1e-9

@pytest.mark.parametrize('s', [0, 1, 2])
def test_bounds_are_attained(s):
    for n in (2, 4, 9):
        simplex = torch.eye(n, dtype=torch.float64)-1/n # spans n-1 dimensions
        assert hyperspherical_energy(simplex, s).item()==pytest.approx(energy_bound(n, n-1, s))
        q = torch.linalg.qr(filters(n, n))[0]
        assert hyperspherical_energy(q, s, half=True).item()==pytest.approx(energy_bound(n, n, s, half=True))
        assert energy_bound(n, n+5, s, half=True)==energy_bound(n, n, s, half=True)

@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), half=st.booleans(), scale=st.floats(1e-6, 1e6))
def test_order_and_length_of_filters_change_nothing(seed, half, scale):
    w = filters(6, 12, seed).view(6, 3, 2, 2)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    lengths = torch.linspace(.5, 2, 6, dtype=torch.float64)[:, None, None, None]*scale
    e = hyperspherical_energy(w, half=half)
    torch.testing.assert_close(hyperspherical_energy(w[order], half=half), e)
    torch.testing.assert_close(hyperspherical_energy(w*lengths, half=half), e)
    signs = torch.tensor([1., -1]*3, dtype=torch.float64)[:, None, None, None]
    if half: torch.testing.assert_close(hyperspherical_energy(w*signs, half=True), e) # a line has no sign

def test_precision_and_autocast():
    w = torch.randn(64, 144, generator=torch.Generator().manual_seed(0))
    exact = hyperspherical_energy(w.double(), 2, half=True)
    torch.testing.assert_close(hyperspherical_energy(w, 2, half=True).double(), exact, rtol=1e-6, atol=0)
    with torch.autocast('cpu', torch.bfloat16): assert torch.equal(hyperspherical_energy(w), hyperspherical_energy(w.clone()))
    with torch.autocast('cpu', torch.bfloat16): inside = EnergyRegulariser(plain := plain_cnn(width=.0625))()
    assert torch.equal(inside, EnergyRegulariser(plain)())

def test_the_layers_of_a_network():
    model = plain_cnn(width=.125)
    r = EnergyRegulariser(model, half=True)
    assert len(r.layers)==11 and list(r.layers)[-1]=='head' # nine convolutions, the features, the class vectors
    by_hand = sum(slow(m.weight.detach(), half=True) for m in list(r.layers.values())[:3])
    assert sum(r.energy(k) for k in list(r.layers)[:3]).item()==pytest.approx(by_hand, rel=1e-5)
    assert r.energy('head').item()==pytest.approx(slow(model.head.weight.detach()), rel=1e-5)
    # ten random hidden layers, as the published logs begin: -6.91 in full space and -6.94 in half-space, 10 log 2 without chance
    wide = plain_cnn(width=1)
    for half,published in ((False, -6.91), (True, -6.94)):
        r = EnergyRegulariser(wide, head=0, half=half)
        assert r().item()==pytest.approx(published, abs=.03)

def test_the_weight_for_the_width_takes_the_width_out():
    def push(n, equal_at):
        "Root mean square of the gradient of one filter of unit length"
        w = nn.Linear(2000, n, bias=False)
        with torch.no_grad(): w.weight.copy_(F.normalize(torch.randn(n, 2000, generator=torch.Generator().manual_seed(0))))
        r = EnergyRegulariser(nn.Sequential(w, nn.Linear(n, 2)), head=0, half=True, equal_at=equal_at)
        return torch.autograd.grad(r(), w.weight)[0].norm(dim=1).mean().item()
    assert push(64, None)/push(16, None)==pytest.approx(4**-1.5, rel=.1)
    assert push(64, 16)/push(16, 16)==pytest.approx(1, rel=.1)

def test_a_training_step_compiles():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8*36, 5))
    r = EnergyRegulariser(model, half=True)
    def step(x, y): return F.cross_entropy(model(x), y)+r()
    x,y = torch.randn(4, 3, 8, 8),torch.arange(4)
    compiled = torch.compile(step, backend='aot_eager')
    torch.testing.assert_close(compiled(x, y), step(x, y))
    a,b = (torch.autograd.grad(f(x, y), model[0].weight)[0] for f in (compiled, step))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)

def zero_row():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    with torch.no_grad(): model[0].weight[2] = 0
    return EnergyRegulariser(model)()

@pytest.mark.parametrize('make,message', [
    (lambda: hyperspherical_energy(filters(), 3), 's: expected 0, 1 or 2, got 3'),
    (lambda: hyperspherical_energy(filters(), True), 's: expected 0, 1 or 2, got True'),
    (lambda: hyperspherical_energy(filters(1)), r'w: expected floats of shape \(N, ...\) with at least 2 filters, got \(1, 7\)'),
    (lambda: hyperspherical_energy(torch.ones(3)), 'w: expected floats of shape'),
    (lambda: hyperspherical_energy(torch.ones(3, 3, dtype=torch.long)), 'w: expected floats'),
    (lambda: hyperspherical_energy([[1., 2]]), 'w: expected floats of shape .*, got list'),
    (lambda: hyperspherical_energy(torch.eye(3)*torch.tensor([[1.], [1], [0]])), 'w: expected filters that point somewhere, row 2 is zero'),
    (zero_row, '0: expected filters that point somewhere, row 2 is zero'),
    (lambda: EnergyRegulariser(nn.Sequential(nn.ReLU(), nn.Linear(4, 1))), 'model: expected a convolution or a linear layer'),
    (lambda: EnergyRegulariser(nn.Linear(4, 3), head=math.inf), 'head: expected a finite weight from 0'),
    (lambda: EnergyRegulariser(nn.Linear(4, 3), s=-1), 's: expected 0, 1 or 2, got -1'),
    (lambda: EnergyRegulariser(nn.Linear(4, 3), equal_at=0), 'equal_at: expected a number of filters, got 0'),
    (lambda: energy_bound(1, 4), 'n: expected a whole number of at least 2'),
    (lambda: energy_bound(3, 0), 'd: expected a whole number of at least 1'),
    (lambda: energy_bound(3, 4, 5), 's: expected 0, 1 or 2, got 5')])
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message): make()

def test_an_angular_head_is_a_layer_too():
    assert list(EnergyRegulariser(nn.Sequential(nn.Linear(4, 3), AngularLinear(3, 5))).layers)==['0', '1']

# mistakes that are in use

def reshaped(w, half=False):
    "Right for TensorFlow's (height, width, in, out), wrong for (out, in, height, width)"
    return hyperspherical_energy(w.reshape(-1, len(w)).T, half=half)
def wrong_axis(w, half=False):
    "The negatives beside the filters and not below them, as in the code of the GAN"
    u = w.flatten(1)
    return hyperspherical_energy(torch.cat([u, -u], 1) if half else u)
def of_mean_distance(w, half=False):
    "What one layer for faces calls MHE: the inverse of the mean squared distance"
    u = F.normalize(w.flatten(1))
    u = torch.cat([u, -u]) if half else u
    return 1/torch.pdist(u).square().mean()
def with_the_diagonal(w, half=False):
    u = F.normalize(w.flatten(1))
    u = torch.cat([u, -u]) if half else u
    return -(2-2*u@u.T+1e-4).log().mean()
def right(w, half=False): return hyperspherical_energy(w, half=half)

def fits(energy):
    "What the tests above ask of an energy"
    w = torch.linalg.qr(filters(12, 12))[0][:6].view(6, 3, 2, 2)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    orthogonal = math.isclose(energy(w, half=True).item(), energy_bound(6, 12, half=True), rel_tol=1e-9)
    some = filters(6, 12, 1).view(6, 3, 2, 2)
    still = torch.allclose(energy(some[order]), energy(some), rtol=1e-9)
    return orthogonal and still and math.isclose(energy(some).item(), slow(some), rel_tol=1e-9)

def test_the_right_energy_fits(): assert fits(right)

@pytest.mark.parametrize('wrong', [reshaped, wrong_axis, of_mean_distance, with_the_diagonal])
def test_mutant_is_caught(wrong): assert not fits(wrong)

def test_the_mean_distance_is_content_with_two_clusters():
    "Two opposite clusters have nearly the largest mean squared distance and an energy without bound"
    u = F.normalize(filters(1, 20))+1e-3*filters(8, 20)
    clusters,spread = torch.cat([u[:4], -u[4:]]),filters(8, 20)
    assert of_mean_distance(clusters)<of_mean_distance(spread) and hyperspherical_energy(clusters)>hyperspherical_energy(spread)+1
