"Class-balanced losses against printed values, exact fractions, slow loops and torchvision; and the mistakes that are in circulation."
import copy, io, math
from fractions import Fraction
import numpy as np, pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck
from avh_nb.loss.angular import AVHLoss, AngularLinear
from avh_nb.loss.balanced import (KINDS, NORMALISERS, ClassBalancedLoss, DeferredReweighting, OnLogits, check_counts, class_weights,
    effective_number, prior_bias, sigmoid_loss)
from avh_nb.loss.margin import CosFace

COUNTS = 5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50 # CIFAR-10 with an imbalance of 100

def sizes(imbalance, largest=5000, c=10): return [int(largest*(1/imbalance)**(i/(c-1))) for i in range(c)]

def data(n=12, c=10, seed=0, spread=3., dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return spread*torch.randn(n, c, generator=g, dtype=dtype),torch.randint(c, (n,), generator=g)

def slow_sample(z, label, kind, gamma):
    "The loss of one sample, from its definition"
    if kind=='softmax': return math.log(sum(math.exp(v-max(z)) for v in z))+max(z)-z[label]
    total = 0.
    for i,v in enumerate(z):
        p = 1/(1+math.exp(-v if i==label else v))
        total -= (1-p)**(gamma if kind=='focal' else 0)*math.log(p)
    return total

def slow_loss(logits, y, weight, kind, gamma, normaliser):
    "Sample by sample and class by class"
    total = sum(weight[label]*slow_sample(z, label, kind, gamma) for z,label in zip(logits.tolist(), y.tolist()))
    return total/(len(y) if normaliser=='samples' else sum(weight[label] for label in y.tolist()))

def slow_weights(counts, beta):
    "By exact fractions"
    share = [1/Fraction(n) if beta==1 else (1-Fraction(beta))/(1-Fraction(beta)**n) for n in counts]
    return [float(len(counts)*s/sum(share)) for s in share]

# printed values

PRINTED = { # weights, and how far the last digit allows them to be off
    .99: ([.784]*4+[.785, .800, .868, 1.041, 1.385, 1.984], 5e-4),
    .999: ([.181187, .189414, .215742, .272859, .378479, .560581, .868804, 1.386165, 2.258450, 3.688319], 5e-7),
    .9999: ([.050611, .076900, .121134, .195037, .318805, .524590, .868349, 1.442627, 2.409223, 3.992724], 5e-7),
    1: ([.040, .067, .112, .187, .312, .520, .867, 1.447, 2.424, 4.024], 5e-4)}

@pytest.mark.parametrize('beta', PRINTED)
def test_weights_to_the_printed_digits(beta):
    expected,off = PRINTED[beta]
    assert class_weights(COUNTS, beta).tolist()==pytest.approx(expected, abs=off+1e-12, rel=0)

def test_a_small_beta_is_no_weighting():
    weight = class_weights(COUNTS, .9)
    assert .999<weight.min() and weight.max()<1.0055 # printed as 0.999 ... 1.005

@pytest.mark.parametrize('beta,ratio,mean', [(.9, '1.01', '0.9995'), (.99, '2.53', '0.798'), (.999, '20.4', '0.273'),
    (.9999, '78.9', '0.171'), (1, '100', '0.162')])
def test_ratio_and_mean_over_samples_to_the_printed_digits(beta, ratio, mean):
    weight,n = class_weights(COUNTS, beta),torch.tensor(COUNTS, dtype=torch.float64)
    def printed(value, like): return f"{value:.{len(like.partition('.')[2])}f}"
    assert printed((weight.max()/weight.min()).item(), ratio)==ratio
    assert printed(((n*weight).sum()/n.sum()).item(), mean)==mean

@pytest.mark.parametrize('imbalance,mean', [(10, .623), (20, .452), (50, .269), (100, .171), (200, .105)])
def test_mean_weight_of_a_sample(imbalance, mean):
    counts = sizes(imbalance)
    if imbalance==100: assert tuple(counts)==COUNTS
    weight,n = class_weights(counts, .9999),torch.tensor(counts, dtype=torch.float64)
    assert round(((n*weight).sum()/n.sum()).item(), 3)==mean

@pytest.mark.parametrize('beta,ratio', [(.9, '2.4'), (.99, '20'), (.999, '79'), (.9999, '98')])
def test_ratios_for_a_hundred_classes(beta, ratio):
    weight = class_weights(sizes(100, 500, 100), beta)
    digits = len(ratio.partition('.')[2])
    assert f'{(weight.max()/weight.min()).item():.{digits}f}'==ratio

def test_effective_numbers_to_the_printed_digits():
    assert [round(e, 1) for e in effective_number([5000, 50], .9999).tolist()]==[3934.8, 49.9]

# the effective number

BETAS = 0, .5, .9, .99, .999, .9999, .999999, 1-1e-12
def exact(n, beta): return float((1-Fraction(beta)**n)/(1-Fraction(beta)))

def right_to(found, digits, betas=BETAS):
    "Is a form of E_n right for all betas, and for few as well as many images?"
    return all(found(n, beta)==pytest.approx(exact(n, beta), rel=10**-digits) for beta in betas for n in (1, 2, 7, 50, 1000))

def test_the_effective_number_is_exact(): assert right_to(lambda n, beta: effective_number(n, beta).item(), 12)

def powers(dtype):
    def found(n, beta):
        b = dtype(beta)
        with np.errstate(all='ignore'): return float((dtype(1)-b**n)/(dtype(1)-b))
    return found

@pytest.mark.parametrize('wrong,digits', [(powers(np.float32), 5), (powers(np.float64), 12)])
def test_one_minus_a_power_is_caught(wrong, digits): assert not right_to(wrong, digits, [.9999, .999999])

@settings(deadline=None, max_examples=60)
@given(n=st.integers(2, 3000), beta=st.sampled_from(BETAS))
def test_the_effective_number_follows_from_one_image_to_the_next(n, beta):
    before,now = effective_number([n-1, n], beta).tolist()
    assert now==pytest.approx(1+beta*before, rel=1e-9) and before<=now<=n*(1+1e-12)
    assert now<=1/(1-beta)*(1+1e-9) # the volume of the whole class
    assert effective_number(1, beta).item()==pytest.approx(1, rel=1e-12)

@settings(deadline=None, max_examples=60)
@given(counts=st.lists(st.integers(1, 500), min_size=1, max_size=8), beta=st.sampled_from([0, .5, .99, .999, 1]))
def test_weights_sum_to_the_classes_and_fall_with_the_counts(counts, beta):
    weight = class_weights(counts, beta)
    assert weight.dtype==torch.float64 and weight.sum().item()==pytest.approx(len(counts), rel=1e-12)
    assert weight.tolist()==pytest.approx(slow_weights(counts, beta), rel=1e-9)
    order = torch.tensor(counts).argsort()
    assert (weight[order].diff()<=1e-12).all()

def test_limits_of_the_weights():
    n = torch.tensor(COUNTS, dtype=torch.float64)
    assert torch.equal(class_weights(COUNTS, 0), torch.ones(10, dtype=torch.float64))
    inverse = 10/n/(1/n).sum()
    torch.testing.assert_close(class_weights(COUNTS, 1), inverse)
    torch.testing.assert_close(class_weights(COUNTS, 1-1e-10), inverse, rtol=1e-5, atol=0) # continuous there
    torch.testing.assert_close(class_weights([7]*4, .999), torch.ones(4, dtype=torch.float64)) # classes of equal size need none

@pytest.mark.parametrize('counts', [list(COUNTS), np.array(COUNTS), np.array(COUNTS, dtype=np.uint16), torch.tensor(COUNTS),
    torch.tensor(COUNTS).float()], ids=['list', 'array', 'uint16', 'tensor', 'floats'])
def test_counts_of_all_kinds(counts): assert check_counts(counts, 10).tolist()==list(COUNTS)

# the losses

@settings(deadline=None, max_examples=80)
@given(c=st.integers(2, 6), n=st.integers(1, 6), beta=st.sampled_from([0, .9, .999, 1]), kind=st.sampled_from(KINDS),
    gamma=st.sampled_from([0., .5, 1., 2.]), normaliser=st.sampled_from(NORMALISERS), seed=st.integers(0, 99))
def test_the_loss_is_that_of_the_slow_loop(c, n, beta, kind, gamma, normaliser, seed):
    (logits,y),counts = data(n, c, seed),sizes(50, 500, c)
    found = ClassBalancedLoss(counts, beta, kind, gamma, normaliser)(logits, y).item()
    assert found==pytest.approx(slow_loss(logits, y, slow_weights(counts, beta), kind, gamma, normaliser), rel=1e-6)

@pytest.mark.parametrize('bits', [torch.float32, torch.float64])
def test_gamma_zero_is_sigmoid_cross_entropy_summed_over_classes(bits):
    logits,y = data(dtype=bits)
    plain = F.binary_cross_entropy_with_logits(logits, F.one_hot(y, 10).to(bits), reduction='none').sum(1)
    torch.testing.assert_close(sigmoid_loss(logits, y, 0.), plain)
    for loss in (ClassBalancedLoss(COUNTS, 0, 'focal', 0.), ClassBalancedLoss(COUNTS, 0, 'sigmoid')):
        torch.testing.assert_close(loss(logits, y), plain.mean())
    weighted = ClassBalancedLoss(COUNTS, .99, 'focal', 0.)(logits, y)
    torch.testing.assert_close(weighted, ClassBalancedLoss(COUNTS, .99, 'sigmoid', 2.)(logits, y)) # which has no gamma
    assert not torch.isclose(weighted, ClassBalancedLoss(COUNTS, .99, 'focal', .5)(logits, y))

@pytest.mark.parametrize('normaliser', NORMALISERS)
def test_beta_zero_is_unweighted(normaliser):
    logits,y = data()
    torch.testing.assert_close(ClassBalancedLoss(COUNTS, 0, normaliser=normaliser)(logits, y), F.cross_entropy(logits, y))
    for kind in KINDS[1:]:
        torch.testing.assert_close(ClassBalancedLoss(COUNTS, 0, kind, 2., normaliser)(logits, y),
            sigmoid_loss(logits, y, 2. if kind=='focal' else 0.).mean())

@pytest.mark.parametrize('gamma', [.5, 1., 2.])
def test_torchvision_has_the_same_focal_loss(gamma):
    focal = pytest.importorskip('torchvision.ops').sigmoid_focal_loss
    logits,y = data(40, spread=2.)
    weight = class_weights(COUNTS, .9999).float().double()
    theirs = focal(logits, F.one_hot(y, 10).double(), alpha=-1, gamma=gamma, reduction='none').sum(1)
    torch.testing.assert_close(sigmoid_loss(logits, y, gamma), theirs)
    torch.testing.assert_close(ClassBalancedLoss(COUNTS, .9999, 'focal', gamma)(logits, y), (weight[y]*theirs).mean())
    a,b = logits.clone().requires_grad_(),logits.clone().requires_grad_()
    other = focal(b, F.one_hot(y, 10).double(), alpha=-1, gamma=gamma, reduction='sum')
    torch.testing.assert_close(torch.autograd.grad(sigmoid_loss(a, y, gamma).sum(), a)[0], torch.autograd.grad(other, b)[0])

def test_both_normalisers_are_those_of_pytorch():
    logits,y = data()
    weight = class_weights(COUNTS, .9999).float().double()
    by_sample,by_weight = (ClassBalancedLoss(COUNTS, .9999, normaliser=how)(logits, y) for how in NORMALISERS)
    torch.testing.assert_close(by_weight, F.cross_entropy(logits, y, weight)) # integer labels
    torch.testing.assert_close(by_sample, F.cross_entropy(logits, F.one_hot(y, 10).double(), weight)) # the same call with floats
    torch.testing.assert_close(by_sample/by_weight, weight[y].mean())

@pytest.mark.parametrize('normaliser', NORMALISERS)
@pytest.mark.parametrize('kind', KINDS)
def test_integer_and_one_hot_labels_agree(kind, normaliser):
    logits,y = data()
    loss = ClassBalancedLoss(COUNTS, .9999, kind, normaliser=normaliser)
    for bits in (torch.float16, torch.float32, torch.float64):
        assert torch.equal(loss(logits, F.one_hot(y, 10).to(bits)), loss(logits, y))
    for whole in (torch.int8, torch.uint8, torch.int32): assert torch.equal(loss(logits, y.to(whole)), loss(logits, y))

def test_where_pytorch_changes_its_normaliser_ours_does_not():
    logits,y = data()
    weight,onehot = class_weights(COUNTS, .9999),F.one_hot(y, 10).double()
    assert not torch.isclose(F.cross_entropy(logits, y, weight), F.cross_entropy(logits, onehot, weight), rtol=.1)
    ours = ClassBalancedLoss(COUNTS, .9999, normaliser='weights')
    assert not torch.isclose(ours(logits, onehot), F.cross_entropy(logits, onehot, weight), rtol=.1)

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('normaliser', NORMALISERS)
def test_gradients(kind, normaliser):
    logits,y = data(5, 4)
    loss = ClassBalancedLoss(sizes(20, 100, 4), .99, kind, 1.5, normaliser)
    assert gradcheck(lambda z: loss(z, y), logits.requires_grad_())

def test_the_weight_is_read_at_each_call():
    logits,y = data(dtype=torch.float32)
    loss = ClassBalancedLoss(COUNTS, .9999)
    before = loss(logits, y)
    loss.class_weight = torch.ones(10); torch.testing.assert_close(loss(logits, y), F.cross_entropy(logits, y))
    loss.class_weight = None; torch.testing.assert_close(loss(logits, y), F.cross_entropy(logits, y))
    loss.class_weight = class_weights(COUNTS, .9999); assert torch.isclose(loss(logits, y), before) # float64 does no harm
    loss.class_weight = torch.zeros(10)
    for loss.normaliser in NORMALISERS: assert loss(logits, y)==0
    loss.class_weight = torch.ones(9)
    with pytest.raises(ValueError, match=r'class_weight: expected shape \(10,\), got \(9,\)'): loss(logits, y)

@pytest.mark.parametrize('normaliser', NORMALISERS)
def test_no_samples_no_loss(normaliser):
    assert ClassBalancedLoss(COUNTS, .9999, normaliser=normaliser)(torch.zeros(0, 10), torch.zeros(0).long())==0

def test_sigmoid_losses_see_what_softmax_does_not():
    logits,y = data()
    shifted = logits+torch.randn(12, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for kind in KINDS:
        loss = ClassBalancedLoss(COUNTS, .9999, kind)
        assert torch.isclose(loss(logits, y), loss(shifted, y)).item()==(kind=='softmax')

# the bias at the start

@pytest.mark.parametrize('c,with_prior,without,bias', [(10, 3.2508, 6.9315, -2.197225), (100, 5.6002, 69.3147, -4.595120)])
@pytest.mark.parametrize('normaliser', NORMALISERS)
def test_starting_losses(c, with_prior, without, bias, normaliser):
    head,x,y = nn.Linear(4, c),torch.zeros(32, 4),torch.arange(32)%c
    loss = OnLogits(head, ClassBalancedLoss([5]*c, .9, 'sigmoid', normaliser=normaliser))
    nn.init.zeros_(head.bias); assert round(loss(x, y).item(), 4)==without
    left_out, = prior_bias(head)
    assert left_out is head.bias and left_out.requires_grad and left_out.is_leaf
    assert round(loss(x, y).item(), 4)==with_prior and head.bias.tolist()==pytest.approx([bias]*c, abs=1e-6)
    torch.testing.assert_close(head.bias.detach().sigmoid(), torch.full((c,), 1/c))

# the hardest samples

def modulator(logits, y, gamma=1.):
    "What the loss of the label's class is multiplied by, found from the loss: other classes add nothing here"
    return sigmoid_loss(logits, y, gamma)/sigmoid_loss(logits, y, 0.)

def modulator_as_published(logits, y, gamma=1.):
    z = logits.gather(1, y[:, None])[:, 0]
    return torch.exp(-gamma*z-gamma*torch.log1p(torch.exp(-z)))

def keeps_the_hardest(form):
    "Is the modulator of a positive that is wrong without doubt 1, and its gradient finite, in whatever precision?"
    for bits in FLOATS:
        for z in (-5., -12., -100., -1000.):
            logits = torch.full((1, 3), -1000. if bits!=torch.float16 else -60000., dtype=bits)
            logits[0, 0] = z
            logits.requires_grad_()
            found = form(logits, torch.tensor([0]))
            slope, = torch.autograd.grad(found.sum(), logits)
            if not torch.allclose(found.float(), torch.tensor([1.]), atol=.01) or not slope.isfinite().all(): return False
    return True

FLOATS = torch.float16, torch.bfloat16, torch.float32
def test_the_hardest_positive_keeps_its_modulator(): assert keeps_the_hardest(modulator)
def test_the_overflow_of_the_original_is_caught():
    assert not keeps_the_hardest(modulator_as_published)
    assert modulator_as_published(torch.full((1, 1), -100.), torch.tensor([0]))==0 # where it should be 1
    assert modulator_as_published(torch.full((1, 1), -12., dtype=torch.float16), torch.tensor([0]))==0

@pytest.mark.parametrize('bits', FLOATS)
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('gamma', [0., .5, 2.])
def test_values_and_gradients_stay_finite(bits, kind, gamma):
    logits = torch.tensor([[-100., 100, 0], [100, -100, -100], [0, 0, 0], [-30000, 30000, -30000]]).to(bits).requires_grad_()
    loss = ClassBalancedLoss([50, 5, 500], .99, kind, gamma)
    value = loss(logits, torch.tensor([0, 0, 0, 0]))
    slope, = torch.autograd.grad(value, logits)
    assert value.isfinite() and value>0 and slope.isfinite().all() and value.dtype==torch.float32
    assert slope[0, 0]<0 # the hardest positive is pushed up

@pytest.mark.parametrize('gamma', [.5, 1., 2.])
def test_the_slope_of_the_hardest_positive_is_its_weight(gamma):
    z = torch.tensor([[-100., -100]]).requires_grad_() # the other class adds nothing
    slope, = torch.autograd.grad(sigmoid_loss(z, torch.tensor([0]), gamma).sum(), z)
    assert slope.tolist()==[[pytest.approx(-1), pytest.approx(0, abs=1e-12)]]

# where it runs

@pytest.mark.parametrize('kind', KINDS)
def test_autocast_no_grad_and_half_precision(kind):
    logits,y = data(dtype=torch.float32)
    loss = ClassBalancedLoss(COUNTS, .9999, kind)
    with torch.autocast('cpu', torch.bfloat16): inside = loss(logits, y)
    assert inside.dtype==torch.float32 and torch.equal(inside, loss(logits, y))
    with torch.no_grad(): assert torch.equal(loss(logits, y), inside)
    with torch.inference_mode(): assert torch.equal(loss(logits, y), inside)
    half = logits.half()
    assert torch.equal(loss(half, y), loss(half.float(), y)) # computed in float32
    over = OnLogits(nn.Linear(4, 10), loss)
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast('cpu', torch.bfloat16):
        value = over(x, y)
        assert over.logits(x).dtype==torch.bfloat16 and value.dtype==torch.float32
    value.backward(); assert over.weight.grad.isfinite().all()

@pytest.mark.parametrize('kind', KINDS)
def test_compiles_into_one_graph(kind):
    logits,y = data(dtype=torch.float32)
    loss = ClassBalancedLoss(COUNTS, .9999, kind)
    counter = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(loss, backend=counter, fullgraph=True)
    for weight in (loss.class_weight, torch.ones(10), 2*torch.ones(10)): # other weights need no other graph
        loss.class_weight = weight
        a,b = logits.clone().requires_grad_(),logits.clone().requires_grad_()
        torch.testing.assert_close(compiled(a, y), loss(b, y))
        torch.testing.assert_close(torch.autograd.grad(compiled(a, y), a)[0], torch.autograd.grad(loss(b, y), b)[0])
    assert counter.frame_count==1
    torch.testing.assert_close(compiled(logits, F.one_hot(y, 10).float()), loss(logits, y))

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('kind', KINDS)
def test_weights_follow_the_logits_to_the_gpu(kind):
    logits,y = data(dtype=torch.float32)
    loss = ClassBalancedLoss(COUNTS, .9999, kind) # stays where it is
    torch.testing.assert_close(loss(logits.cuda(), y.cuda()).cpu(), loss(logits, y))
    over = OnLogits(nn.Linear(4, 10).cuda(), loss)
    DeferredReweighting(over, COUNTS).anneal(0)
    assert loss.class_weight.device==over.weight.device

def test_it_can_be_saved_and_says_what_it_is():
    loss,file = ClassBalancedLoss(COUNTS, .999, 'focal', .5, 'weights'),io.BytesIO()
    torch.save(loss.state_dict(), file); file.seek(0)
    other = ClassBalancedLoss([1]*10, .9)
    other.load_state_dict(torch.load(file)); assert torch.equal(other.class_weight, loss.class_weight)
    said = repr(loss)
    assert 'beta=0.999, kind=focal, gamma=0.5, normaliser=weights' in said and ' at 0x' not in said and '5000, 2997' in said
    assert 'gamma' not in repr(ClassBalancedLoss(COUNTS, .9)) and '1 to 100 in 100 classes' in repr(ClassBalancedLoss(range(1, 101), .9))
    assert ' at 0x' not in repr(DeferredReweighting(CosFace(4, 10), COUNTS))

# over a head, and late in the training

def test_a_criterion_over_a_head():
    x,y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)),torch.arange(6)
    head = nn.Linear(4, 10)
    loss = OnLogits(head, ClassBalancedLoss(COUNTS, .9999, 'sigmoid'))
    assert loss.weight is head.weight and torch.equal(loss.logits(x), head(x))
    assert torch.equal(loss(x, y), loss.criterion(head(x), y))
    loss.class_weight = torch.full((10,), 2.)
    assert loss.criterion.class_weight is loss.class_weight and dict(loss.named_buffers())['criterion.class_weight'][0]==2
    assert not hasattr(OnLogits(head, nn.CrossEntropyLoss()), 'class_weight')
    assert 'class_weight' not in loss.__dict__
    angular = OnLogits(AngularLinear(4, 10), ClassBalancedLoss(COUNTS, 0))
    torch.testing.assert_close(angular(x, y), AVHLoss(w=angular.weight)(x, y)) # any head will do

@pytest.mark.parametrize('make', [lambda: OnLogits(nn.Linear(4, 10), ClassBalancedLoss(COUNTS, .5)), lambda: AVHLoss(4, 10),
    lambda: CosFace(4, 10, scale=5.)], ids=['on logits', 'AVH', 'CosFace'])
def test_deferred_reweighting_has_no_state(make):
    loss = make()
    deferred = DeferredReweighting(loss, COUNTS, share=.8, beta=.9999)
    x,y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)),torch.tensor([0, 9, 9, 3, 1, 0])
    values = {}
    for share in (0., .7999, .8, .9, 1., .3, .8, 0.): # as a run that is resumed somewhere, in any order
        deferred.anneal(share); deferred.after_epoch(None)
        weight = loss.class_weight
        assert weight.dtype==torch.float32 and weight.device==loss.weight.device
        expected = class_weights(COUNTS, .9999).float() if share>=.8 else torch.ones(10)
        assert torch.equal(weight, expected)
        values.setdefault(share>=.8, loss(x, y)); assert torch.equal(values[share>=.8], loss(x, y))
    assert not torch.isclose(values[True], values[False])

@pytest.mark.parametrize('rounds,share,first', [(200, .8, 160), (25, .8, 20), (10, .9, 9), (5, .6, 3), (3, 0, 0), (4, 1, 4)])
def test_weights_begin_with_the_first_batch_of_their_epoch(rounds, share, first):
    loss = CosFace(4, 10)
    deferred = DeferredReweighting(loss, COUNTS, share)
    for epoch in range(rounds):
        for step in range(3):
            deferred.anneal((epoch+step/3)/rounds)
            assert (loss.class_weight.max()>1).item()==(epoch>=first)

@pytest.mark.parametrize('rounds,steps', [(3, 5), (7, 10), (25, 97), (12, 5), (33, 10), (1, 30)])
def test_weights_begin_where_the_learning_rate_drops(rounds, steps):
    "(2 + 2/5)/3 is rounded to less than 0.8, as a learner computes it"
    loss,total = CosFace(4, 10),rounds*steps
    deferred,seen = DeferredReweighting(loss, COUNTS),[]
    for epoch in range(rounds):
        for step in range(steps):
            deferred.anneal((epoch+step/steps)/rounds)
            seen.append((loss.class_weight.max()>1).item())
    assert seen==[5*i>=4*total for i in range(total)]

def test_a_state_that_is_loaded_leaves_the_deferred_weights_alone():
    "Loading writes into the buffer: it must not be the tensor that the callback keeps"
    loss = OnLogits(nn.Linear(4, 10), ClassBalancedLoss(COUNTS, .9999))
    deferred = DeferredReweighting(loss, COUNTS)
    deferred.anneal(0); early = copy.deepcopy(loss.state_dict())
    deferred.anneal(.9); loss.load_state_dict(early); deferred.anneal(.95)
    assert torch.equal(loss.class_weight, class_weights(COUNTS, .9999).float())
    twin = copy.deepcopy(deferred) # with a loss of its own
    twin.anneal(0); assert loss.class_weight.max()>3 and twin.loss.class_weight.max()==1

@pytest.mark.parametrize('make,message', [
    (lambda: class_weights([5, 0, 3], .9), 'counts: expected whole numbers of at least 1, got 0 for class 1'),
    (lambda: class_weights([5, -2], .9), 'got -2 for class 1'),
    (lambda: class_weights([5, 2.5], .9), 'got 2.5 for class 1'),
    (lambda: class_weights([math.inf, 2], .9), 'got inf for class 0'),
    (lambda: class_weights([math.nan, 2], .9), 'got nan for class 0'),
    (lambda: class_weights([[5, 2]], .9), r'counts: expected one number for each class, got shape \(1, 2\)'),
    (lambda: class_weights([], .9), r'counts: expected one number for each class, got shape \(0,\)'),
    (lambda: class_weights(7, .9), r'counts: expected one number for each class, got shape \(\)'),
    (lambda: class_weights(None, .9), 'counts: expected whole numbers of at least 1, got None'),
    (lambda: class_weights(['a'], .9), 'counts: expected whole numbers'),
    (lambda: check_counts([5, 2], 3), 'counts: expected 3, one for each class, got 2'),
    *[(lambda beta=beta: class_weights([5, 2], beta), 'beta: expected from 0') for beta in (-.1, 1.0001, math.nan, '0.9', None, True)],
    (lambda: effective_number(0, .9), 'n: expected whole numbers of at least 1, got 0'),
    (lambda: effective_number(5, 2), 'beta: expected from 0'),
    (lambda: ClassBalancedLoss([5, 0], .9), 'counts: .* got 0 for class 1'),
    (lambda: ClassBalancedLoss(COUNTS, 2), 'beta: expected from 0'),
    (lambda: ClassBalancedLoss(COUNTS, .9, 'hinge'), "kind: expected one of softmax, sigmoid, focal, got 'hinge'"),
    *[(lambda gamma=gamma: ClassBalancedLoss(COUNTS, .9, 'focal', gamma), 'gamma: expected a number of at least 0, got')
        for gamma in (-.5, math.nan, math.inf, '1', None)],
    (lambda: ClassBalancedLoss(COUNTS, .9, normaliser='mean'), "normaliser: expected one of samples, weights, got 'mean'"),
    (lambda: ClassBalancedLoss(COUNTS, .9)(torch.zeros(2, 9), torch.tensor([0, 1])), r'logits: expected floats \(N, 10\), as there are 10'),
    (lambda: ClassBalancedLoss(COUNTS, .9)(torch.zeros(10), torch.tensor([0])), 'logits: expected floats'),
    (lambda: ClassBalancedLoss(COUNTS, .9)(torch.zeros(2, 10).long(), torch.tensor([0, 1])), 'logits: expected floats'),
    (lambda: ClassBalancedLoss(COUNTS, .9)(None, torch.tensor([0, 1])), 'logits: expected floats .* got NoneType'),
    (lambda: ClassBalancedLoss(COUNTS, .9)(torch.zeros(2, 10), torch.tensor([0, 10])), 'y: expected labels from 0 to 9, got 10 at index 1'),
    (lambda: ClassBalancedLoss(COUNTS, .9)(torch.zeros(2, 10), torch.tensor([0])), 'y: expected 2 labels'),
    (lambda: ClassBalancedLoss(COUNTS, .9)(torch.zeros(2, 10), [0, 1]), 'y: expected a tensor, got list'),
    (lambda: ClassBalancedLoss(COUNTS, .9)(torch.zeros(2, 10), np.array([0, 1])), 'y: expected a tensor, got ndarray'),
    (lambda: ClassBalancedLoss(COUNTS, .9)(torch.zeros(2, 10), torch.tensor([True, False])), 'y: expected integer labels'),
    (lambda: ClassBalancedLoss(COUNTS, .9)(torch.zeros(2, 10), torch.tensor([0., 1])), 'y: expected integers .* or one-hot rows'),
    (lambda: ClassBalancedLoss(COUNTS, .9)(torch.zeros(2, 10), torch.full((2, 10), .1)), 'y: expected one-hot rows.* at row 0'),
    (lambda: ClassBalancedLoss(COUNTS, .9)(torch.zeros(2, 10), torch.eye(10)[:2]+torch.eye(10)[1:3]), 'y: expected one-hot rows.* row 0'),
    (lambda: ClassBalancedLoss(COUNTS, .9)(torch.zeros(2, 10), torch.eye(10)[:2]*torch.tensor([[1.], [0]])), 'y: expected .* row 1'),
    (lambda: prior_bias(nn.Linear(4, 10, bias=False)), 'head: expected a layer with a bias'),
    (lambda: prior_bias(AngularLinear(4, 10)), 'head: expected a layer with a bias'),
    (lambda: prior_bias(nn.Linear(4, 1)), 'head: expected a layer with a bias for at least 2 classes'),
    (lambda: OnLogits(nn.ReLU(), nn.CrossEntropyLoss()), 'head: expected a layer with a weight'),
    (lambda: DeferredReweighting(CosFace(4, 9), COUNTS), 'counts: expected 9, one for each class, got 10'),
    (lambda: DeferredReweighting(CosFace(4, 10), COUNTS, 1.5), 'share: expected from 0 to 1, got 1.5'),
    (lambda: DeferredReweighting(CosFace(4, 10), COUNTS, math.nan), 'share: expected from 0 to 1, got nan'),
    (lambda: DeferredReweighting(CosFace(4, 10), COUNTS, beta=2), 'beta: expected from 0'),
    (lambda: DeferredReweighting(nn.CrossEntropyLoss(), COUNTS), 'loss: expected one with class_weight and weight, got CrossEntropyLoss')])
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message): make()

# mistakes that are in use

W = torch.tensor(slow_weights(COUNTS, .9999), dtype=torch.float64)
def hot(y): return F.one_hot(y, 10).double()
def bce(z, y, **options): return F.binary_cross_entropy_with_logits(z, hot(y), **options)

def bce_of_softmax(z, y): return F.binary_cross_entropy(z.softmax(1), hot(y), W[y][:, None])
def bce_of_softmax_summed(z, y): return 10*bce_of_softmax(z, y)
def mean_over_classes(z, y): return (W[y][:, None]*bce(z, y, reduction='none')).mean()
def weights_not_used(z, y): return bce(z, y, reduction='none').sum(1).mean()
def positives_weighted(z, y): return bce(z, y, pos_weight=W, reduction='none').sum(1).mean()
def weight_of_each_output(z, y): return bce(z, y, weight=W.expand_as(z), reduction='none').sum(1).mean()
def summing_to_one(z, y): return ClassBalancedLoss(COUNTS, .9999, 'sigmoid')(z, y)/10
def mean_one_over_samples(z, y):
    n = torch.tensor(COUNTS, dtype=torch.float64)
    return (W[y]*sigmoid_loss(z, y)).mean()*n.sum()/(n*W).sum()
def counts_of_the_batch(z, y):
    return (class_weights(hot(y).sum(0).clamp(min=1), .9999)[y]*sigmoid_loss(z, y)).mean()
def other_normaliser(z, y): return ClassBalancedLoss(COUNTS, .9999, 'sigmoid', normaliser='weights')(z, y)
def focal_of_the_mean(z, y):
    loss = (W[y]*sigmoid_loss(z, y)).mean()
    return (1-(-loss).exp())*loss
def focal_of_each_sum(z, y):
    loss = sigmoid_loss(z, y)
    return (W[y]*(1-(-loss).exp())*loss).mean()
def weight_inside(z, y):
    loss = W[y][:, None]*bce(z, y, reduction='none')
    return ((1-(-loss).exp())*loss).sum(1).mean()
def weight_inside_softmax(z, y):
    loss = F.cross_entropy(z, y, W, reduction='none')
    return ((1-(-loss).exp())*loss).mean()
def softmax_focal(z, y):
    loss = F.cross_entropy(z, y, reduction='none')
    return (W[y]*(1-(-loss).exp())*loss).mean()
def balance_of_positives(z, y):
    "The default alpha of torchvision's focal loss"
    right = torch.where(hot(y)>0, z, -z)
    balance = torch.where(hot(y)>0, .25, .75)
    return (W[y][:, None]*balance*(-right).sigmoid()*-F.logsigmoid(right)).sum(1).mean()
def by_sum_of_weights(z, y): return F.cross_entropy(z, y, W)

def fits(loss, kind):
    "What is asked of a loss with beta 0.9999, gamma 1 and the published normaliser"
    return all(loss(z, y).item()==pytest.approx(slow_loss(z, y, W.tolist(), kind, 1., 'samples'), rel=1e-6)
        for z,y in (data(seed=seed, spread=2.) for seed in range(3)))

@pytest.mark.parametrize('kind', KINDS)
def test_the_right_losses_fit(kind): assert fits(ClassBalancedLoss(COUNTS, .9999, kind), kind)

@pytest.mark.parametrize('wrong,kind', [
    (bce_of_softmax, 'softmax'), (bce_of_softmax_summed, 'softmax'), (by_sum_of_weights, 'softmax'),
    (mean_over_classes, 'sigmoid'), (weights_not_used, 'sigmoid'), (positives_weighted, 'sigmoid'), (weight_of_each_output, 'sigmoid'),
    (summing_to_one, 'sigmoid'), (mean_one_over_samples, 'sigmoid'), (counts_of_the_batch, 'sigmoid'), (other_normaliser, 'sigmoid'),
    (focal_of_the_mean, 'focal'), (focal_of_each_sum, 'focal'), (weight_inside, 'focal'), (weight_inside_softmax, 'focal'),
    (softmax_focal, 'focal'), (balance_of_positives, 'focal')])
def test_mutant_is_caught(wrong, kind): assert not fits(wrong, kind)

@pytest.mark.parametrize('p,weight,wrong,right', [(.5, 3.99, 2.59, 1.38), (.5, .05, .0012, .0173)])
def test_a_weight_inside_the_probability_changes_the_focus(p, weight, wrong, right):
    "As in a well-known code, for one output: the tail counts almost twice as much as it should, the head hardly at all"
    loss = -math.log(p)
    digits = 2 if weight>1 else 4
    assert round((1-p**weight)*weight*loss, digits)==wrong
    z = torch.tensor([[math.log(p/(1-p)), -100]])
    assert weight*sigmoid_loss(z, torch.tensor([0]), 1.).item()==pytest.approx(right, abs=.6*10**-digits)

@pytest.mark.parametrize('gamma,message', [(.5, 'fraction of a loss below 0')])
def test_the_modulator_of_a_sample_that_is_right_is_no_nan(gamma, message):
    "1 - p from a cross-entropy that rounding makes less than 0 has no square root"
    below = torch.tensor(-1e-7)
    assert ((1-(-below).exp())**gamma).isnan(), message
    z = torch.tensor([[200., -200]]).requires_grad_()
    loss = sigmoid_loss(z, torch.tensor([0]), gamma)
    assert loss==0 and torch.autograd.grad(loss.sum(), z)[0].isfinite().all()
