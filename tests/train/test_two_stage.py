"Repairs of a head against slow loops and limits, what they may not touch, and the schedule that wasted its last epoch."
import copy, math
import numpy as np, pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from scipy.stats import chisquare
from sklearn.metrics import recall_score
from sklearn.neighbors import NearestCentroid
from torch import nn
from avh_nb.angle import angles
from avh_nb.loss.angular import AngularLinear
from avh_nb.measure.scores import avh
from avh_nb.train import two_stage
from avh_nb.train.two_stage import (SAMPLING, TAUS, NearestMean, balanced_sampler, choose_tau, class_shares, recalls, rescale_head,
    retrain_head, tau_normalise)

def draw(*shape, seed=0, dtype=torch.float64): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)

def blobs(counts, d=16, noise=1.5, seed=0, relu=True):
    "Features around fixed centres, in mixed order"
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
    x = draw(len(counts), d, seed=1)[y]+noise*draw(len(y), d, seed=seed+2)
    return (x.relu() if relu else x).float(),y

def linear(weight, bias=None):
    head = nn.Linear(*weight.shape[::-1], bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is not None: head.bias.copy_(bias)
    return head

COUNTS = [1000, 316, 100, 32, 10] # imbalance 100
RARE,LEVEL,SPARE = blobs(COUNTS),blobs([300]*5, seed=10),blobs([60]*5, seed=20)
@pytest.fixture(scope='module')
def joint(): return retrain_head(*RARE, 5, 'instance', steps=400)
@pytest.fixture(scope='module')
def again(): return retrain_head(*RARE, 5, steps=400)
def mean_recall(head): return recalls(head(LEVEL[0]).argmax(1), LEVEL[1], 5).mean().item()

# Shares and draws

def slow_shares(counts, q):
    total = 0.
    for n in counts: total += n**q
    return [n**q/total for n in counts]

@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=12), st.floats(0, 1))
def test_shares_are_those_of_a_slow_loop(counts, share):
    one,half,none = (slow_shares(counts, q) for q in (1, .5, 0))
    mixed = [(1-share)*a+share*b for a,b in zip(one, none)]
    for sampling,expected in zip(SAMPLING, (one, half, none, mixed)):
        got = class_shares(counts, sampling, share)
        assert got.dtype==torch.float64 and got.shape==(len(counts),)
        np.testing.assert_allclose(got, expected, rtol=1e-12)
        assert got.sum().item()==pytest.approx(1)
    assert torch.equal(class_shares(counts, 'progressive', 0), class_shares(counts, 'instance'))
    assert torch.equal(class_shares(counts, 'progressive', 1), class_shares(counts, 'class-balanced'))

def test_counts_may_be_a_tensor_or_an_array():
    for counts in (torch.tensor(COUNTS), np.array(COUNTS), torch.tensor(COUNTS, dtype=torch.float32)):
        assert class_shares(counts, 'square-root').tolist()==class_shares(COUNTS, 'square-root').tolist()

Y = torch.tensor([0]*60+[1]*30+[2]*10)[torch.randperm(100, generator=torch.Generator().manual_seed(5))]
@pytest.mark.parametrize('sampling', SAMPLING)
def test_the_sampler_draws_classes_at_their_shares_and_images_of_a_class_equally(sampling):
    n,share = 40_000,.3
    index = torch.tensor(list(balanced_sampler(Y, sampling, n, share, seed=1)))
    assert len(index)==n
    expected = class_shares(Y.bincount(), sampling, share)
    assert chisquare(Y[index].bincount(minlength=3), n*expected).pvalue>.001
    for c in range(3):
        of = index.bincount(minlength=100)[Y==c]
        assert chisquare(of).pvalue>.001
    others = [s for s in SAMPLING if s!=sampling] # the check tells them apart
    assert all(chisquare(Y[index].bincount(minlength=3), n*class_shares(Y.bincount(), s, share)).pvalue<1e-6 for s in others)

def test_a_sampler_has_a_generator_of_its_own():
    state = torch.random.get_rng_state()
    sampler = balanced_sampler(Y, seed=3)
    first,second = list(sampler),list(sampler)
    assert first!=second and len(first)==len(sampler)==100
    assert list(balanced_sampler(Y, seed=3))==first!=list(balanced_sampler(Y, seed=4))
    assert torch.equal(state, torch.random.get_rng_state())
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(Y), 25, sampler=balanced_sampler(Y, seed=3))
    assert torch.cat([y for y, in loader]).tolist()==Y[first].tolist()

def test_progressive_training_goes_from_images_to_classes(monkeypatch):
    seen = []
    real = two_stage._image_weights
    monkeypatch.setattr(two_stage, '_image_weights', lambda y, sampling, share=0.:
        seen.append((sampling, share)) or real(y, sampling, share))
    retrain_head(*RARE, 5, 'progressive', steps=5)
    assert seen[1:]==[('progressive', s/4) for s in range(5)]
    seen.clear()
    retrain_head(*RARE, 5, 'progressive', steps=1)
    assert seen[1:]==[('progressive', 0)]

# Heads that are trained

def test_a_head_trained_again_finds_rare_classes(joint, again):
    assert mean_recall(again)>mean_recall(joint)+.1
    rare = [recalls(h(LEVEL[0]).argmax(1), LEVEL[1], 5)[-1] for h in (joint, again)]
    assert rare[1]>rare[0]+.2
    assert isinstance(again, nn.Linear) and again.weight.shape==(5, 16) and again.bias is not None and again.weight.requires_grad

def test_a_head_trained_again_is_that_of_a_plain_loop():
    "Same start, draws and rates, with momentum and decay by hand"
    x,y = RARE[0].double(),RARE[1]
    steps,batch,lr,decay = 7,32,.3,.01
    sampler = balanced_sampler(y, 'square-root', batch, seed=6)
    params = [torch.empty(s).uniform_(-1/4, 1/4, generator=sampler.generator).double() for s in ((5, 16), 5)]
    moved = [torch.zeros_like(p) for p in params]
    for step in range(steps):
        index,rate = list(sampler),lr*(1+math.cos(math.pi*step/steps))/2
        leaves = [p.clone().requires_grad_() for p in params]
        loss = -(x[index]@leaves[0].T+leaves[1]).log_softmax(1)[range(batch), y[index]].mean()
        for p,m,g in zip(params, moved, torch.autograd.grad(loss, leaves)):
            m.mul_(.9).add_(g+decay*p)
            p.sub_(rate*m)
    head = retrain_head(x, y, 5, 'square-root', steps, batch, lr, decay, seed=6)
    assert head.weight.dtype==torch.float64
    for got,expected in zip(head.parameters(), params): torch.testing.assert_close(got.data, expected, rtol=1e-9, atol=1e-10)

def test_factors_are_those_of_a_plain_loop():
    x,y = RARE[0].double(),RARE[1]
    start = linear(draw(5, 16, seed=4), draw(5, seed=5))
    steps,batch,lr,decay = 7,32,.3,.01
    sampler,factor,moved = balanced_sampler(y, 'class-balanced', batch, seed=6),torch.ones(5).double(),torch.zeros(5).double()
    for step in range(steps):
        index,leaf = list(sampler),factor.clone().requires_grad_()
        z = leaf*(x[index]@start.weight.data.T+start.bias.data) # on the bias too
        g, = torch.autograd.grad(-z.log_softmax(1)[range(batch), y[index]].mean(), leaf)
        moved = .9*moved+g+decay*factor
        factor = factor-lr*(1+math.cos(math.pi*step/steps))/2*moved
    head = rescale_head(start, x, y, steps=steps, batch_size=batch, lr=lr, weight_decay=decay, seed=6)
    torch.testing.assert_close(head.weight.data, factor[:, None]*start.weight.data, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(head.bias.data, factor*start.bias.data, rtol=1e-9, atol=1e-10)
    assert (factor-1).abs().max()>.01

def rates_of(monkeypatch, train, schedule=torch.optim.lr_scheduler.CosineAnnealingLR):
    "Rate of each step, and what it is after the last"
    rates,optimizers,real = [],[],torch.optim.SGD.step
    def step(self, *args):
        rates.append(self.param_groups[0]['lr']); optimizers.append(self)
        return real(self, *args)
    step.hooked = True # or PyTorch would wrap it
    with monkeypatch.context() as m:
        m.setattr(torch.optim.SGD, 'step', step)
        m.setattr(torch.optim.lr_scheduler, 'CosineAnnealingLR', schedule)
        train()
    return rates,optimizers[-1].param_groups[0]['lr']

def no_step_is_wasted(rates, after, peak):
    n = len(rates)
    return min(rates)>0 and abs(after)<1e-9 and np.allclose(rates, [peak*(1+math.cos(math.pi*i/n))/2 for i in range(n)])

class MovedFirst(torch.optim.lr_scheduler.CosineAnnealingLR):
    "As published: the schedule moves before the step, so that the last one has rate 0"
    def __init__(self, optimizer, total):
        super().__init__(optimizer, total)
        super().step()

@pytest.mark.filterwarnings('ignore:Detected call of `lr_scheduler')
def test_the_rate_is_zero_only_after_the_last_step(monkeypatch, joint):
    for train in (lambda: retrain_head(*RARE, 5, steps=20), lambda: rescale_head(joint, *RARE, steps=20)):
        assert no_step_is_wasted(*rates_of(monkeypatch, train), .2)
        published,after = rates_of(monkeypatch, train, MovedFirst)
        assert not no_step_is_wasted(published, after, .2) and published[-1]==pytest.approx(0, abs=1e-9)

def test_rescaling_helps_and_has_one_factor_for_class_vector_and_bias(joint):
    scaled = rescale_head(joint, *RARE)
    factor = scaled.bias/joint.bias
    assert mean_recall(scaled)>mean_recall(joint)+.1 and (factor>0).all() and factor.max()>1.2*factor.min()
    torch.testing.assert_close(scaled.weight, factor[:, None]*joint.weight)
    x,y = LEVEL[0].double(),LEVEL[1]
    torch.testing.assert_close(avh(x, scaled.weight.data.double(), y), avh(x, joint.weight.data.double(), y), rtol=1e-6, atol=1e-7)
    bare = linear(joint.weight.data)
    assert rescale_head(bare, *RARE, steps=5).bias is None

# Lengths of class vectors, and AVH

def test_tau_zero_drops_the_bias_only(joint):
    bare = tau_normalise(joint, 0)
    assert torch.equal(bare.weight, joint.weight) and bare.bias is None and joint.bias is not None

def test_tau_is_the_power_of_a_slow_loop(joint):
    for tau in (.3, 1, 2):
        for w,got in zip(joint.weight.data.double(), tau_normalise(joint, tau).weight.data):
            length = sum(v*v for v in w.tolist())**.5
            np.testing.assert_allclose(got, w/length**tau, rtol=1e-6)

CASES = dict(seed=st.integers(0, 10**6), c=st.integers(2, 7), d=st.integers(2, 9))
def case(seed, c, d): return draw(20, d, seed=seed),linear(draw(c, d, seed=seed+1), draw(c, seed=seed+2)),torch.arange(20)%c

@settings(max_examples=50)
@given(**CASES, tau=st.floats(0, 3), low=st.floats(.01, 1), high=st.floats(1, 100))
def test_positive_factors_and_tau_cannot_change_avh(seed, c, d, tau, low, high):
    x,head,y = case(seed, c, d)
    before = avh(x, head.weight.data, y)
    factor = torch.linspace(low, high, c, dtype=torch.float64)[:, None]
    for w in (tau_normalise(head, tau).weight.data, factor*head.weight.data):
        torch.testing.assert_close(avh(x, w, y), before, rtol=1e-9, atol=1e-9)
    turned = head.weight.data+head.weight.data.roll(1, 0) # what adds up directions does
    assert (avh(x, turned, y)-before).abs().max()>1e-6

@settings(max_examples=50)
@given(**CASES)
def test_the_smallest_angle_is_tau_one_without_bias(seed, c, d):
    x,head,_ = case(seed, c, d)
    assert torch.equal(angles(x, head.weight.data).argmin(1), tau_normalise(head, 1)(x).argmax(1))

def test_other_taus_and_the_bias_do_predict_otherwise(joint):
    smallest = angles(LEVEL[0], joint.weight.data).argmin(1)
    for head in (joint, tau_normalise(joint, 0), tau_normalise(joint, 2)): assert (head(LEVEL[0]).argmax(1)!=smallest).any()

def test_a_head_trained_again_and_class_means_change_avh(joint, again):
    x,y = LEVEL
    before = avh(x, joint.weight.data, y)
    assert (avh(x, again.weight.data, y)-before).abs().mean()>1e-3
    assert (avh(x, NearestMean(*RARE, 5, 'un').weight, y)-before).abs().mean()>1e-3

def test_tau_has_the_best_mean_recall(joint):
    found = [recall_score(SPARE[1], tau_normalise(joint, t)(SPARE[0]).argmax(1), average='macro') for t in TAUS]
    assert choose_tau(joint, *SPARE)==TAUS[int(np.argmax(found))]
    assert TAUS==tuple(np.round(np.arange(0, 2.05, .1), 1))

def test_it_is_the_mean_over_classes_not_over_images():
    head = linear(torch.tensor([[4., 0], [0, 1]]))
    x = torch.tensor([[1., 1.5], [1, 1.5], [1, 1.5], [1, 3]]) # tau 0 finds the three of class 0, tau 1 the one of class 1
    y = torch.tensor([0, 0, 0, 1])
    of = [recalls(tau_normalise(head, t)(x).argmax(1), y, 2).tolist() for t in (0, 1)]
    assert of==[[1, 0], [0, 1]] # a tie by classes
    assert choose_tau(head, x, y, (1, 0))==0 and choose_tau(head, x, y, (1.,))==1
    x,y = torch.cat([x, torch.tensor([[1., .1]])]),torch.tensor([0, 0, 0, 1, 0])
    assert choose_tau(head, x, y, (0, 1))==1 # 1/4 + 1 against 1 + 0, though fewer images are found

def test_of_ties_the_smallest(joint):
    assert choose_tau(joint, 10*F.normalize(joint.weight.data), torch.arange(5), (2, .7, 1.3))==.7

@given(st.integers(0, 1000))
def test_recalls_are_those_of_scikit_learn(seed):
    g = torch.Generator().manual_seed(seed)
    y,p = torch.cat([torch.arange(4), torch.randint(4, (30,), generator=g)]),torch.randint(4, (34,), generator=g)
    np.testing.assert_allclose(recalls(p, y, 4), recall_score(y, p, average=None, labels=range(4), zero_division=0))
    assert recalls(p, y, 5)[4].isnan()

# Class means

def slow_means(x, y, c, kind):
    rows = [r.double() for r in x]
    centre = sum(rows)/len(rows)
    if kind=='cl2n': rows = [r-centre for r in rows]
    if kind!='un': rows = [r/math.sqrt(sum(v*v for v in r.tolist())) for r in rows]
    return torch.stack([sum(r for r,l in zip(rows, y) if l==k)/sum(1 for l in y if l==k) for k in range(c)]),centre

@pytest.mark.parametrize('kind', ['un', 'l2n', 'cl2n'])
def test_means_and_scores_are_those_of_a_slow_loop(kind):
    x,y = blobs([40, 20, 8, 3, 2])
    means,centre = slow_means(x, y, 5, kind)
    fresh = LEVEL[0][:40]
    u = fresh.double()-(centre if kind=='cl2n' else 0)
    if kind!='un': u = u/u.square().sum(1, keepdim=True).sqrt()
    far,near = NearestMean(x, y, 5, kind),NearestMean(x, y, 5, kind, 'cosine')
    torch.testing.assert_close(far.weight.double(), means, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(far.prepare(fresh).double(), u, rtol=1e-5, atol=1e-6)
    for i in range(40):
        for k in range(5):
            assert far(fresh)[i, k].item()==pytest.approx(-(u[i]-means[k]).square().sum().item(), rel=1e-4)
            assert near(fresh)[i, k].item()==pytest.approx((u[i]@means[k]/u[i].norm()/means[k].norm()).item(), abs=1e-5)
    if kind!='un': assert (far.weight.norm(dim=1)<.999).all() # of unit vectors, not made unit again

def test_by_distance_it_is_the_classifier_of_scikit_learn():
    reference,ncm = NearestCentroid().fit(*RARE),NearestMean(*RARE, 5, 'un')
    np.testing.assert_allclose(ncm.weight, reference.centroids_, rtol=1e-4, atol=1e-5)
    assert (ncm(LEVEL[0]).argmax(1).numpy()==reference.predict(LEVEL[0])).all()

def test_distance_and_cosine_differ_where_means_differ_in_length():
    x,y = torch.tensor([[1., 0], [1, 0], [0, 1], [.8, -.6]]),torch.tensor([0, 0, 1, 1])
    by = {b: NearestMean(x, y, 2, 'l2n', b) for b in ('distance', 'cosine')}
    assert by['distance'].weight.norm(dim=1).tolist()==pytest.approx([1, .2**.5])
    turn = torch.tensor([20., 60, -70]).deg2rad()
    u = torch.stack([turn.cos(), turn.sin()], 1)
    assert by['distance'](u).argmax(1).tolist()==[0, 1, 1] and by['cosine'](u).argmax(1).tolist()==[1, 1, 0]
    again = F.normalize(by['distance'].weight) # known wrong variant: with means of length 1 both are the same
    assert torch.cdist(u, again).argmin(1).tolist()==[1, 1, 0]

def test_the_cosine_of_unit_features_is_the_smallest_angle_to_a_mean():
    ncm = NearestMean(*RARE, 5, 'l2n', 'cosine')
    assert torch.equal(ncm(LEVEL[0]).argmax(1), angles(LEVEL[0], ncm.weight).argmin(1))
    torch.testing.assert_close(ncm(LEVEL[0]), angles(LEVEL[0], ncm.weight).cos(), rtol=1e-4, atol=1e-5)

def test_class_means_come_back_from_a_state_dict():
    a,b = NearestMean(*RARE, 5),NearestMean(*LEVEL, 5)
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(SPARE[0]), b(SPARE[0])) and not list(a.parameters()) and "kind='cl2n'" in repr(a)

# What they may not touch

def test_nothing_that_is_given_is_touched(joint):
    x,y,head = RARE[0].clone(),RARE[1].clone(),copy.deepcopy(joint)
    given_ = [t.clone() for t in (x, y, head.weight, head.bias)]
    state = torch.random.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    retrain_head(x, y, 5, steps=3); retrain_head(x, y, 5, 'progressive', steps=3)
    scaled,bare = rescale_head(head, x, y, steps=3),tau_normalise(head, 0)
    choose_tau(head, x, y); NearestMean(x, y, 5)(x); recalls(y, y, 5)
    with torch.no_grad(): scaled.weight.zero_(); scaled.bias.zero_(); bare.weight.zero_() # results share no memory
    assert all(torch.equal(a, b) for a,b in zip(given_, (x, y, head.weight, head.bias)))
    assert torch.equal(state, torch.random.get_rng_state()) and (numpy_state==np.random.get_state()[1]).all()
    assert head.weight.grad is None and x.grad is None

def test_results_depend_on_the_seed_alone(joint):
    torch.manual_seed(1); a,b = retrain_head(*RARE, 5, steps=3),rescale_head(joint, *RARE, steps=3)
    torch.manual_seed(2); c,d = retrain_head(*RARE, 5, steps=3),rescale_head(joint, *RARE, steps=3)
    assert torch.equal(a.weight, c.weight) and torch.equal(b.weight, d.weight)
    assert not torch.equal(a.weight, retrain_head(*RARE, 5, steps=3, seed=1).weight)
    assert not torch.equal(b.weight, rescale_head(joint, *RARE, steps=3, seed=1).weight)

def test_without_gradients_around_it_and_from_features_that_have_one(joint):
    x = RARE[0].clone().requires_grad_()
    with torch.no_grad(): a = retrain_head(x, RARE[1], 5, steps=3)
    assert torch.equal(a.weight, retrain_head(*RARE, 5, steps=3).weight)
    with torch.inference_mode(): cached = RARE[0]+0
    assert torch.equal(a.weight, retrain_head(cached, RARE[1], 5, steps=3).weight)
    b = rescale_head(joint, cached, RARE[1], steps=3)
    assert torch.equal(b.weight, rescale_head(joint, *RARE, steps=3).weight) and x.grad is None

def test_what_surrounds_the_training_does_not_change_it(joint):
    a,b = retrain_head(*RARE, 5, steps=5),rescale_head(joint, *RARE, steps=5)
    for around in (torch.inference_mode(), torch.autocast('cpu', torch.bfloat16), torch.no_grad()):
        with around: c,d = retrain_head(*RARE, 5, steps=5),rescale_head(joint, *RARE, steps=5)
        assert torch.equal(a.weight, c.weight) and torch.equal(b.weight, d.weight) and c.weight.requires_grad
        assert not c.weight.is_inference()
        with around: scores,tau = NearestMean(*RARE, 5)(LEVEL[0]),choose_tau(joint, *SPARE)
        assert torch.equal(scores, NearestMean(*RARE, 5)(LEVEL[0])) and tau==choose_tau(joint, *SPARE)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype, joint):
    x = RARE[0].to(dtype)
    same = retrain_head(x.float(), RARE[1], 5, steps=3)
    assert torch.equal(retrain_head(x, RARE[1], 5, steps=3).weight, same.weight)
    assert NearestMean(x, RARE[1], 5).weight.dtype==torch.float32
    low = copy.deepcopy(joint).to(dtype)
    assert rescale_head(low, *RARE, steps=3).weight.dtype==torch.float32 and tau_normalise(low, 1).weight.dtype==dtype

def test_arrays_and_small_labels_are_taken():
    a = retrain_head(RARE[0].numpy(), RARE[1].to(torch.uint8).numpy(), 5, steps=3)
    assert torch.equal(a.weight, retrain_head(*RARE, 5, steps=3).weight)
    ncm = NearestMean(*RARE, 5)
    assert torch.equal(ncm(LEVEL[0].numpy()), ncm(LEVEL[0])) and torch.equal(recalls(Y.numpy(), Y.numpy(), 3), recalls(Y, Y, 3))

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_on_a_gpu_results_stay_there_and_are_the_same(joint):
    x,y = (t.cuda() for t in RARE)
    for got,expected in ((retrain_head(x, y, 5, steps=20), retrain_head(*RARE, 5, steps=20)),
        (rescale_head(joint, x, y, steps=20), rescale_head(joint, *RARE, steps=20)), (NearestMean(x, y, 5), NearestMean(*RARE, 5))):
        assert got.weight.is_cuda
        torch.testing.assert_close(got.weight.cpu(), expected.weight, rtol=1e-3, atol=1e-3)
    assert choose_tau(joint, x, y) in TAUS and tau_normalise(joint.cuda(), 1).weight.is_cuda
    joint.cpu()

# Bad input

def off(i, v):
    y = RARE[1].clone()
    y[i] = v
    return y
def nan_row():
    x = RARE[0].clone()
    x[7, 2] = math.nan
    return x

BAD = {
    'shares, name': (lambda j: class_shares(COUNTS, 'random'),
        'sampling: expected one of instance, square-root, class-balanced, progressive'),
    'shares, empty': (lambda j: class_shares([3, 0, 2], 'instance'),
        'counts: expected at least one image of each class, got 0 for class 1'),
    'shares, NaN': (lambda j: class_shares([3, math.nan], 'instance'), 'got nan for class 1'),
    'shares, none': (lambda j: class_shares([], 'instance'), 'counts: expected one number per class, got shape (0,)'),
    'shares, table': (lambda j: class_shares([[1, 2]], 'instance'), 'counts: expected one number per class, got shape (1, 2)'),
    'shares, share': (lambda j: class_shares(COUNTS, 'progressive', -.1), 'share: expected from 0 to 1, got -0.1'),
    'sampler, gap': (lambda j: balanced_sampler(torch.tensor([0, 0, 2])),
        'y: class 1 has no images; expected at least one of each of the 3 classes'),
    'sampler, empty': (lambda j: balanced_sampler(torch.tensor([]).long()), 'y: expected labels (N,), N at least 1, got (0,)'),
    'sampler, list': (lambda j: balanced_sampler([0, 1]), 'y: expected labels (N,), N at least 1, got list'),
    'sampler, floats': (lambda j: balanced_sampler(torch.rand(3)), 'y: expected integer labels, got torch.float32'),
    'sampler, below': (lambda j: balanced_sampler(torch.tensor([0, -1])), 'got -1 at index 1'),
    'sampler, n': (lambda j: balanced_sampler(Y, n=0), 'n: expected a whole number of at least 1, got 0'),
    'sampler, name': (lambda j: balanced_sampler(Y, 'balanced'),
        "sampling: expected one of instance, square-root, class-balanced, progressive, got 'balanced'"),
    'cRT, label above': (lambda j: retrain_head(RARE[0], off(3, 5), 5), 'y: expected labels from 0 to 4, got 5 at index 3'),
    'cRT, label below': (lambda j: retrain_head(RARE[0], off(3, -1), 5), 'y: expected labels from 0 to 4, got -1 at index 3'),
    'cRT, class': (lambda j: retrain_head(*RARE, 6), 'y: class 5 has no images; expected at least one of each of the 6 classes'),
    'cRT, lengths': (lambda j: retrain_head(RARE[0], RARE[1][1:], 5), f'y: expected {len(RARE[1])} labels, one per row of x'),
    'cRT, shape': (lambda j: retrain_head(RARE[0][0], RARE[1], 5),
        'x: expected features (N, D) in floating point, N and D at least 1, got (16,)'),
    'cRT, integers': (lambda j: retrain_head(RARE[0].long(), RARE[1], 5), 'got (1458, 16) of torch.int64'),
    'cRT, list': (lambda j: retrain_head([[1.]], RARE[1], 5), 'got list'),
    'cRT, empty': (lambda j: retrain_head(RARE[0][:0], RARE[1][:0], 5),
        'x: expected features (N, D) in floating point, N and D at least 1'),
    'cRT, NaN': (lambda j: retrain_head(nan_row(), RARE[1], 5), 'x: expected finite features, row 7 is not'),
    'cRT, classes': (lambda j: retrain_head(*RARE, 0), 'n_classes: expected a whole number of at least 1, got 0'),
    'cRT, name': (lambda j: retrain_head(*RARE, 5, 'class'),
        "sampling: expected one of instance, square-root, class-balanced, progressive, got 'class'"),
    'cRT, steps': (lambda j: retrain_head(*RARE, 5, steps=0), 'steps: expected a whole number of at least 1, got 0'),
    'cRT, batch': (lambda j: retrain_head(*RARE, 5, batch_size=1.5), 'batch_size: expected a whole number of at least 1, got 1.5'),
    'cRT, rate': (lambda j: retrain_head(*RARE, 5, lr=0), 'lr: expected above 0 and finite, got 0'),
    'cRT, decay': (lambda j: retrain_head(*RARE, 5, weight_decay=-1), 'weight_decay: expected at least 0 and finite, got -1'),
    'cRT, diverges': (lambda j: retrain_head(*RARE, 5, lr=1e30, steps=20), 'lr: the loss is not finite; take a lower rate than 1e+30'),
    'LWS, no weight': (lambda j: rescale_head(nn.ReLU(), *RARE),
        'head: expected a layer with logits x·w + bias, such as an nn.Linear, got ReLU'),
    'LWS, tensor': (lambda j: rescale_head(j.weight, *RARE),
        'head: expected a layer with logits x·w + bias, such as an nn.Linear, got Parameter'),
    'LWS, angles': (lambda j: rescale_head(AngularLinear(16, 5), *RARE),
        'head: expected a layer with logits x·w + bias, such as an nn.Linear, got AngularLinear'),
    'LWS, columns': (lambda j: rescale_head(j, RARE[0][:, :9], RARE[1]), 'x: expected 16 columns, as the head has, got shape (1458, 9)'),
    'LWS, classes': (lambda j: rescale_head(linear(torch.ones(4, 16)), *RARE), 'y: expected labels from 0 to 3, got 4'),
    'LWS, steps': (lambda j: rescale_head(j, *RARE, steps=-1), 'steps: expected a whole number of at least 1, got -1'),
    'tau, below': (lambda j: tau_normalise(j, -.5), 'tau: expected at least 0 and finite, got -0.5'),
    'tau, NaN': (lambda j: tau_normalise(j, math.nan), 'tau: expected at least 0 and finite, got nan'),
    'tau, no weight': (lambda j: tau_normalise(nn.Flatten(), 1), 'head: expected a layer with logits x·w + bias'),
    'tau, zero': (lambda j: tau_normalise(linear(torch.eye(3)[:, :2]), 1),
        'head: expected class vectors with a direction, that of class 2 has length 0'),
    'taus, none': (lambda j: choose_tau(j, *SPARE, ()), 'taus: expected at least one, got none'),
    'taus, below': (lambda j: choose_tau(j, *SPARE, (1, -1)), 'tau: expected at least 0 and finite, got -1'),
    'taus, class': (lambda j: choose_tau(j, SPARE[0][SPARE[1]>0], SPARE[1][SPARE[1]>0]), 'y: class 0 has no images'),
    'tau, NaN vector': (lambda j: tau_normalise(linear(torch.full((2, 3), math.nan)), 1),
        'head: expected class vectors with a direction, that of class 0 has length nan'),
    'recalls, logits': (lambda j: recalls(torch.eye(3), torch.arange(3), 3),
        'predicted: expected one class per image, shape (N,), got (3, 3)'),
    'recalls, lengths': (lambda j: recalls(Y[1:], Y, 3), 'y: expected 99 labels'),
    'NCM, kind': (lambda j: NearestMean(*RARE, 5, 'cosine'), "kind: expected one of un, l2n, cl2n, got 'cosine'"),
    'NCM, by': (lambda j: NearestMean(*RARE, 5, by='dot'), "by: expected one of distance, cosine, got 'dot'"),
    'NCM, class': (lambda j: NearestMean(*RARE, 7), 'y: class 5 has no images'),
    'NCM, columns': (lambda j: NearestMean(*RARE, 5)(RARE[0][:, 1:]), 'x: expected features (N, 16), got (1458, 15)'),
    'NCM, list': (lambda j: NearestMean(*RARE, 5)([[1.]*16]), 'x: expected features (N, 16), got list'),
    'NCM, zero': (lambda j: NearestMean(torch.tensor([[1., 0], [-1, 0], [0, 1]]), torch.tensor([0, 0, 1]), 2, 'l2n', 'cosine'),
        "x: the mean of class 0 is zero; expected one with a direction, or by='distance'"),
}
@pytest.mark.parametrize('name', BAD)
def test_bad_input_is_named(name, joint):
    call,message = BAD[name]
    with pytest.raises(ValueError) as e: call(joint)
    assert message in str(e.value)
