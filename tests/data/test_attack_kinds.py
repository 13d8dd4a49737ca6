"Random starts, the other loss, restarts, the square attack and smallest changes: on a trained network, and on linear ones by hand."
import foolbox, pytest, torch
from hypothesis import given, settings, strategies as st
from avh_nb.data.attack import LOSSES, dlr, fgsm, lead, minimal, pgd, pgd_path, square

def seeded(n=0): return torch.Generator().manual_seed(n)

@pytest.fixture(scope='module')
def trained():
    "A network, trained for a moment on images whose class is a coarse pattern under noise, and images of it"
    g = seeded()
    pattern,y = torch.rand(5, 3, 8, 8, generator=g),torch.randint(5, (600,), generator=g)
    x = .2*pattern[y]+.8*torch.rand(600, 3, 8, 8, generator=g)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(128, 5))
    optimizer = torch.optim.Adam(net.parameters(), .01)
    for _ in range(60):
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step(); optimizer.zero_grad()
    net.eval().requires_grad_(False)
    right = net(x).argmax(1)==y
    assert right.float().mean()>.9
    return net,x[right][:200],y[right][:200]

def right(net, x, y): return (net(x).argmax(1)==y).float().mean().item()

@pytest.mark.parametrize('eps', [.02, .05, .1])
def test_pgd_is_at_least_as_strong_as_fgsm(trained, eps):
    net,x,y = trained
    one,many = (right(net, a, y) for a in (fgsm(net, x, y, eps), pgd(net, x, y, eps, generator=seeded(), restarts=2)))
    assert many<=one<1

@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('stop', [False, True])
def test_half_the_range_leaves_nothing(trained, loss, stop):
    assert right(trained[0], pgd(*trained, .5, loss=loss, generator=seeded(), stop=stop), trained[2])<=.01

@pytest.mark.parametrize('stop', [False, True])
@settings(max_examples=12, deadline=None)
@given(eps=st.floats(.004, .6), seed=st.integers(0, 9))
def test_a_random_start_stays_inside_ball_and_box(trained, stop, eps, seed):
    net,x,y = trained
    x = x[:20].clone()
    x[:5],x[5:10] = 0,1 # the box cuts the ball
    path = list(pgd_path(net, x, y[:20], eps, 3, generator=seeded(seed)))
    for p in (*path, pgd(net, x, y[:20], eps, 3, generator=seeded(seed), restarts=2, stop=stop)):
        assert (p-x).abs().max()<=eps+1e-6 and p.min()>=0 and p.max()<=1
    inner = (path[0]-x)[10:]
    assert inner.abs().mean()>eps/8 # a start in all of the ball, and to both sides
    assert (inner>0).any() and (inner<0).any()

def test_restarts_are_never_worse(trained):
    net,x,y = trained
    for loss,f in LOSSES.items():
        before = None
        for restarts in (1, 2, 4):
            a = pgd(net, x, y, .04, 4, loss=loss, generator=seeded(3), restarts=restarts)
            now = net(a).argmax(1)!=y,f(net(a), y)
            if before: # nothing that was won is lost, and where nothing changes the loss is no lower
                assert (now[0]>=before[0]).all() and (now[1][now[0]==before[0]]>=before[1][now[0]==before[0]]-1e-6).all()
                assert (now[1]>before[1]).any()
            before = now

def test_the_best_restart_is_taken_for_each_image_by_itself(trained):
    net,x,y = trained
    g = seeded(5)
    each = [pgd(net, x, y, .04, 4, generator=g) for _ in range(3)]
    won,value = (torch.stack(v) for v in zip(*((net(a).argmax(1)!=y, LOSSES['cross-entropy'](net(a), y)) for a in each)))
    first = (won*1e6+value.double()).argmax(0)
    assert len(first.unique())==3
    assert torch.equal(pgd(net, x, y, .04, 4, generator=seeded(5), restarts=3), torch.stack(each)[first, torch.arange(len(x))])

def test_targeted_restarts_take_the_one_that_arrives(trained):
    net,x,y = trained
    target = (y+1)%5
    one,four = ((net(pgd(net, x, target, .06, 5, targeted=True, generator=seeded(), restarts=n)).argmax(1)==target) for n in (1, 4))
    assert (four>=one).all() and four.float().mean()>one.float().mean()

def test_stopping_early_takes_what_the_path_passes(trained):
    net,x,y = trained
    path = list(pgd_path(net, x, y, .05, 10))
    wins = torch.stack([net(p).argmax(1)!=y for p in path])
    stopped = pgd(net, x, y, .05, 10, stop=True)
    first = torch.where(wins.any(0), wins.float().argmax(0), len(path)-1)
    assert len(first.unique())>3
    assert (stopped-torch.stack(path)[first, torch.arange(len(x))]).abs().max()<1e-6

@settings(max_examples=30, deadline=None)
@given(scale=st.floats(1e-3, 1e4), shift=st.floats(-100, 100))
def test_dlr_knows_no_scale_and_no_shift(scale, shift):
    logits,y = torch.randn(30, 6, generator=seeded(), dtype=torch.float64),torch.arange(30)%6
    assert torch.allclose(dlr(scale*logits+shift, y), dlr(logits, y), atol=1e-7)
    assert torch.allclose(lead(scale*logits+shift, y), scale*lead(logits, y), rtol=1e-6, atol=1e-8)

def test_dlr_by_hand_and_its_sign():
    "By sorting, as in the paper"
    logits,y = torch.randn(200, 6, generator=seeded(1)),torch.arange(200)%6
    for z,k,got in zip(logits.tolist(), y.tolist(), dlr(logits, y).tolist()):
        s = sorted(z, reverse=True)
        other = max(v for i,v in enumerate(z) if i!=k)
        assert got==pytest.approx(-(z[k]-other)/(s[0]-s[2]), abs=1e-4)
        assert (got>0)==(max(z)!=z[k])

def test_dlr_wins_where_cross_entropy_is_flat(trained):
    "Logits so large that the softmax is 1 in float32: no gradient, and a network that seems safe"
    net,x,y = trained
    def steep(x): return 1e4*net(x)
    flat,keen = (right(net, pgd(steep, x, y, .1, loss=loss), y) for loss in LOSSES)
    assert flat>.5 and keen==right(net, pgd(net, x, y, .1, loss='dlr'), y)<.1

def linear(seed=0, channels=1, side=6, classes=2):
    w = torch.randn(classes, channels*side*side, generator=seeded(seed))
    return w,lambda x: (x-.5).flatten(1)@w.T

def test_square_finds_what_a_linear_model_allows():
    "The lead falls by no more than eps times the sum of |w|; where that is twice enough it is found, where it is not enough nothing is"
    w,model = linear()
    x = .3+.4*torch.rand(100, 1, 6, 6, generator=seeded(1))
    y = model(x).argmax(1)
    need = (lead(model(x), y)/(w[0]-w[1]).abs().sum())
    eps = need.median().item()
    won = model(square(model, x, y, eps, 2000)).argmax(1)!=y
    assert not won[need>eps].any() and won[need<.9*eps].float().mean()>.95

def test_square_stays_inside_and_asks_no_more_than_it_may():
    w,model = linear(classes=4, channels=3)
    asked = []
    def counted(x): asked.append(len(x)); return model(x)
    x = torch.rand(30, 3, 6, 6, generator=seeded(1))
    y = model(x).argmax(1)
    y[:5] = (y[:5]+1)%4 # wrong as they are
    found = square(counted, x, y, .01, 40, seed=2)
    assert (found-x).abs().max()<=.01+1e-6 and found.min()>=0 and found.max()<=1
    assert torch.equal(found[:5], x[:5]) and max(asked[1:])<=25 and 2<len(asked)<=41
    assert torch.equal(found, square(model, x, y, .01, 40, seed=2)) and not torch.equal(found, square(model, x, y, .01, 40, seed=3))
    before,after = lead(model(x), y),lead(model(found), y)
    assert (after<=before).all() and (after<before)[5:].float().mean()>.9

def test_square_does_not_look_at_gradients(trained):
    net,x,y = trained
    def rounded(x): return (net(x)*100).round()/100 # piecewise constant
    assert right(net, pgd(lambda x: rounded(x)+0*x.sum(), x, y, .1), y)==1
    assert right(net, square(rounded, x, y, .1, 200), y)<.5

@pytest.mark.parametrize('norm,dual', [('l2', 2), ('linf', 1)])
def test_the_smallest_change_of_a_linear_model(norm, dual):
    "Distance to the nearest border"
    w,model = linear(2, classes=4)
    x = .4+.2*torch.rand(60, 1, 6, 6, generator=seeded(1)) # away from the box
    z = model(x)
    y = z.argmax(1)
    gap = w[y][:, None]-w[None]
    distance = torch.where(torch.arange(4)==y[:, None], torch.inf, (z.gather(1, y[:, None])-z)/gap.norm(dim=2, p=dual)).amin(1)
    found,size = minimal(model, x, y, norm, 100)
    assert (model(found).argmax(1)!=y).all() and (size>=distance*(1-1e-3)).all()
    assert (size/distance).median()<1.03 and (size/distance).max()<1.3

def test_foolboxs_own_change_in_the_euclidean_norm_is_larger(trained):
    "It does not return to its ball in 3.3.4; this test says when that is put right"
    net,x,y = trained
    theirs = foolbox.attacks.L2FMNAttack(steps=50).run(foolbox.PyTorchModel(net, bounds=(0, 1), device='cpu'), x, y)
    assert minimal(net, x, y)[1].median()<.97*(theirs-x).flatten(1).norm(dim=1).median()

def test_changes_that_are_not_needed_or_not_found(trained):
    net,x,y = trained
    wrong = (y+1)%5
    found,size = minimal(net, x[:20], wrong[:20])
    assert (size==0).all() and torch.equal(found, x[:20])
    found,size = minimal(lambda x: torch.tensor([[1., 0, 0]]).expand(len(x), 3)+0*x.flatten(1)[:, :3], x[:5], torch.zeros(5).long())
    assert size.isinf().all() and torch.equal(found, x[:5]) # a constant model

def test_attacks_are_the_same_for_a_seed(trained):
    net,x,y = trained
    for a in (lambda s: pgd(net, x, y, .05, 4, generator=seeded(s), restarts=2), lambda s: square(net, x, y, .05, 30, seed=s),
        lambda s: pgd(net, x, y, .05, 4, generator=seeded(s), stop=True)):
        assert torch.equal(a(1), a(1)) and not torch.equal(a(1), a(2))
    assert torch.equal(minimal(net, x, y, 'linf')[0], minimal(net, x, y, 'linf')[0])

def test_the_network_is_left_as_it_was(trained):
    net,x,y = trained
    loud = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)).train()
    for a in (lambda: pgd(loud, x, y, .1, 2, generator=seeded()), lambda: square(loud, x, y, .1, 5), lambda: minimal(loud, x, y, steps=3)):
        a()
        assert all(p.grad is None for p in loud.parameters()) and loud.training and not x.requires_grad

@pytest.mark.parametrize('call,said', [
    (lambda n, x, y: pgd(n, x, y, .1, loss='hinge'), "loss: expected one of cross-entropy, dlr, got 'hinge'"),
    (lambda n, x, y: pgd(n, x, y, .1, restarts=2), 'restarts: expected 1, or more with a generator of random starts, got 2'),
    (lambda n, x, y: pgd(n, x, y, .1, restarts=0, generator=seeded()), 'restarts: expected 1'),
    (lambda n, x, y: pgd(n, x, y, .1, steps=0), 'steps: expected at least 1, got 0'),
    (lambda n, x, y: pgd(n, x, y, .1, stop=True, targeted=True), 'stop: expected False'),
    (lambda n, x, y: pgd(n, x, y, 0), 'eps: expected above 0 and up to 1, got 0'),
    (lambda n, x, y: square(n, 2*x, y, .1), 'x: expected floats from 0 to 1'),
    (lambda n, x, y: square(n, x.flatten(1), y, .1), r'x: expected images \(N, C, H, W\), got shape'),
    (lambda n, x, y: square(n, x, y, .1, 0), 'queries: expected at least 1, got 0'),
    (lambda n, x, y: minimal(n, x, y, 'l1'), "norm: expected one of l2, linf, got 'l1'"),
    (lambda n, x, y: minimal(n, x, y, steps=0), 'steps: expected at least 1, got 0'),
    (lambda n, x, y: minimal(n, x, y[:3]), 'y: expected'),
    (lambda n, x, y: dlr(n(x)[:, :2], y%2), 'logits: expected at least 3 classes for the loss dlr, got 2')])
def test_errors(trained, call, said):
    with pytest.raises(ValueError, match=said): call(*trained)
