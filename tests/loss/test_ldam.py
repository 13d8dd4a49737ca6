"LDAM on the cosine and on the angle: published margins, a slow loop, limiting cases, the shift of the angle; and known wrong variants."
import copy, math
import numpy as np, pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck
from avh_nb.loss.angular import AVHLoss, attainable, default_scale
from avh_nb.loss.balanced import DeferredReweighting, class_weights
from avh_nb.loss.family import named_loss
from avh_nb.loss.ldam import LDAM, AngularLDAM, class_margins
from avh_nb.loss.margin import CosFace, MarginLoss

SIZES = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50] # CIFAR-10 at imbalance 100
PUBLISHED = [.158114, .179697, .204238, .232091, .263829, .299768, .340675, .387221, .440497, .5]
KINDS = [LDAM, AngularLDAM]

def data(n=12, d=6, k=4, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=dtype),torch.randn(k, d, generator=g, dtype=dtype),torch.randint(k, (n,), generator=g)

def slow_margins(counts, max_margin):
    "K is found from the largest, class by class"
    raw = [1/math.sqrt(math.sqrt(n)) for n in counts]
    return [max_margin*r/max(raw) for r in raw]

def slow_loss(kind, x, w, y, counts, max_margin, scale, weight=None, smoothing=0., lam=0.):
    "Sample by sample and class by class; with weights, a mean over weights"
    margins,c,total,parts = slow_margins(counts, max_margin),len(w),0.,0.
    weight = [1.]*c if weight is None else weight.tolist()
    for a,label in zip(x, y.tolist()):
        z = []
        for j,v in enumerate(w):
            cos = max(-1, min(1, (a@v/(a.norm()*v.norm())).item()))
            margin = margins[j]/(1+lam) if j==label else 0
            z.append(scale*(cos-margin if kind is LDAM else math.pi-math.acos(cos)-margin))
        log_sum = max(z)+math.log(sum(math.exp(v-max(z)) for v in z))
        own = (1-smoothing)*weight[label]*(log_sum-z[label])
        total += own+smoothing/c*sum(weight[j]*(log_sum-z[j]) for j in range(c))
        parts += weight[label]
    return total/parts

# margins

def test_margins_to_the_printed_digits():
    assert [round(m, 6) for m in class_margins(SIZES).tolist()]==PUBLISHED
    assert class_margins(SIZES).dtype==torch.float64 and class_margins(np.array(SIZES)).equal(class_margins(torch.tensor(SIZES)))

@settings(deadline=None, max_examples=60)
@given(counts=st.lists(st.integers(1, 10**9), min_size=1, max_size=12), largest=st.sampled_from([0., .3, .5, 2.]), times=st.integers(1, 50))
def test_margins_fall_with_the_counts_and_depend_on_ratios_only(counts, largest, times):
    margins = class_margins(counts, largest)
    torch.testing.assert_close(margins.tolist(), slow_margins(counts, largest))
    assert margins.max().item()==largest and (margins>=0).all()
    order = np.argsort(counts, kind='stable')
    assert (margins[order.copy()].diff()<=0).all()
    torch.testing.assert_close(class_margins([n*times for n in counts], largest), margins)

def test_margins_are_the_best_split_of_two():
    n = torch.tensor([900., 20], dtype=torch.float64)
    share = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    best = share[(1/(share*n[0].sqrt())+1/((1-share)*n[1].sqrt())).argmin()]
    margins = class_margins(n)
    assert best.item()==pytest.approx((margins[0]/margins.sum()).item(), abs=1e-5)

# the losses

@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from(KINDS), n=st.integers(1, 8), d=st.integers(2, 6), k=st.integers(2, 5), seed=st.integers(0, 99),
    largest=st.sampled_from([0., .3, .5]), scale=st.sampled_from([1., 4., 30.]), weighted=st.booleans(),
    smoothing=st.sampled_from([0., .1]))
def test_the_loss_is_that_of_the_slow_loop(kind, n, d, k, seed, largest, scale, weighted, smoothing):
    x,w,y = data(n, d, k, seed)
    counts = torch.randint(1, 900, (k,), generator=torch.Generator().manual_seed(seed)).tolist()
    weight = class_weights(counts, .99) if weighted else None
    loss = kind(counts, max_margin=largest, scale=scale, w=nn.Parameter(w), weight=weight, label_smoothing=smoothing)
    assert loss(x, y).item()==pytest.approx(slow_loss(kind, x, w, y, counts, largest, scale, weight, smoothing), rel=1e-9, abs=1e-9)

def aside(loss, c):
    "The loss of a feature that is at 90 degrees to every class vector"
    return loss(torch.eye(12)[[11]], torch.tensor([c])).item()

def test_loss_at_the_start():
    loss = LDAM(SIZES, w=nn.Parameter(torch.eye(10, 12)))
    assert round(aside(loss, 9), 2)==17.20 and round(aside(loss, 0), 2)==6.94
    s,angular = default_scale(10),AngularLDAM(SIZES, w=nn.Parameter(torch.eye(10, 12)))
    assert aside(angular, 9)==pytest.approx(math.log(1+9*math.exp(s*.5)), rel=1e-6)
    on = angular(torch.eye(12)[[9]], torch.tensor([9])).item()
    assert math.exp(-on)==pytest.approx(attainable(s, 10, math.pi/2-.5), rel=1e-6)

@pytest.mark.parametrize('options', [{}, dict(anneal=lambda share: 3.), dict(label_smoothing=.1), dict(weight=torch.tensor([1., 2, 0, 3])),
    dict(reduction='sum'), dict(reduction='none')])
def test_with_equal_counts_it_is_cosface(options):
    x,w,y = data(dtype=torch.float32)
    theirs = CosFace(margin=.4, scale=30, w=nn.Parameter(w), **options)
    ours = LDAM([7]*4, max_margin=.4, scale=30, w=theirs.weight, **options)
    torch.testing.assert_close(ours(x, y), theirs(x, y)); assert torch.equal(ours.logits(x), theirs.logits(x))

def test_cosface_of_pytorch_metric_learning_with_the_margin_of_one_class():
    "It has no margin for each class: so the samples of each class by themselves"
    losses = pytest.importorskip('pytorch_metric_learning.losses')
    x,w,_ = data(dtype=torch.float32)
    ours = LDAM([90, 40, 10, 3], scale=30, w=nn.Parameter(w))
    for c,margin in enumerate(class_margins([90, 40, 10, 3]).tolist()):
        theirs,y = losses.CosFaceLoss(4, 6, margin=margin, scale=30),torch.full((12,), c)
        with torch.no_grad(): theirs.W.copy_(w.T)
        torch.testing.assert_close(ours(x, y), theirs(x, y), rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('options', [{}, dict(label_smoothing=.1), dict(weight=torch.tensor([1., 2, 0, 3]))])
def test_without_a_margin_the_angular_one_is_the_avh_loss(options):
    x,w,y = data(dtype=torch.float32)
    y[3] = -100
    plain = AVHLoss(w=nn.Parameter(w), **options)
    for counts in ([5]*4, [9, 4, 2, 1]):
        loss = AngularLDAM(counts, max_margin=0, w=plain.weight, **options)
        assert loss.scale==plain.scale and loss.angular_scale==plain.angular_scale and torch.equal(loss.logits(x), plain.logits(x))
        a,b = x.clone().requires_grad_(),x.clone().requires_grad_()
        torch.testing.assert_close(loss(a, y), plain(b, y))
        for g,h in zip(torch.autograd.grad(loss(a, y), (a, loss.weight)), torch.autograd.grad(plain(b, y), (b, plain.weight))):
            torch.testing.assert_close(g, h, rtol=1e-4, atol=1e-6)
    none = torch.full_like(y, -100)
    assert loss(x, none)==plain(x, none)==0 # none counts

@settings(deadline=None, max_examples=40)
@given(c=st.integers(0, 3), angle=st.floats(0, math.pi-.5), scale=st.sampled_from([None, 2., 20.]))
def test_the_margin_shifts_the_angle(c, angle, scale):
    "In a plane at 90 degrees to the other class vectors: what the AVH loss makes of a feature that is turned away by the margin"
    w,counts = nn.Parameter(torch.eye(4, 6, dtype=torch.float64)),[800, 90, 20, 3]
    ours,plain = AngularLDAM(counts, scale=scale, w=w),AVHLoss(scale=scale, w=w)
    def at(a): return (math.cos(a)*w[c].detach()+math.sin(a)*torch.eye(6, dtype=torch.float64)[5])[None]
    y = torch.tensor([c])
    shifted = angle+class_margins(counts)[c].item()
    assert ours(at(angle), y).item()==pytest.approx(plain(at(shifted), y).item(), rel=1e-6, abs=1e-9)

def test_the_odds_of_the_label_fall_by_a_factor():
    "By exp(s Δ), wherever the feature lies"
    x,w,y = data()
    counts,s = [800, 90, 20, 3],5.
    for kind in KINDS:
        loss = kind(counts, scale=s, w=nn.Parameter(w))
        odds = [1/(each.exp()-1) for each in (torch.stack([loss(x[i:i+1], y[i:i+1]) for i in range(12)]),
            F.cross_entropy(loss.logits(x), y, reduction='none'))]
        torch.testing.assert_close(odds[0]*(s*class_margins(counts)[y]).exp(), odds[1])

@pytest.mark.parametrize('kind', KINDS)
def test_to_predict_there_is_no_margin(kind):
    x,w,_ = data()
    one,other = (kind(c, max_margin=m, w=nn.Parameter(w), scale=9.) for c,m in (([1, 9, 99, 999], .5), ([5]*4, 0)))
    assert torch.equal(one.logits(x), other.logits(x))
    unit = F.normalize(x)@F.normalize(w).T
    torch.testing.assert_close(one.logits(x), 9*unit if kind is LDAM else 9*(math.pi-unit.acos()))

@pytest.mark.parametrize('kind', KINDS)
def test_a_rarer_label_asks_more(kind):
    loss = kind(SIZES, w=nn.Parameter(torch.eye(10, 12)))
    assert (torch.tensor([aside(loss, c) for c in range(10)]).diff()>0).all()
    larger = kind(SIZES, max_margin=.9, w=loss.weight)
    assert all(aside(larger, c)>aside(loss, c) for c in range(10))

@pytest.mark.parametrize('kind', KINDS)
def test_lengths_do_not_count(kind):
    x,w,y = data()
    a,b = kind([9, 4, 2, 1], w=nn.Parameter(w)),kind([9, 4, 2, 1], w=nn.Parameter(w*torch.tensor([[1.], [3], [.1], [20]])))
    torch.testing.assert_close(a(x, y), b(7*x, y))

def test_annealing_takes_from_the_margin():
    x,w,y = data()
    loss = LDAM([9, 4, 2, 1], w=nn.Parameter(w), anneal=lambda share: 4*(1-share))
    for share in (0, .5, 1):
        loss.anneal(share)
        assert loss(x, y).item()==pytest.approx(slow_loss(LDAM, x, w, y, [9, 4, 2, 1], .5, 30., lam=4*(1-share)), rel=1e-6)

# weights that are set from outside

@pytest.mark.parametrize('kind', KINDS)
def test_weights_are_read_at_each_call(kind):
    x,w,y = data(dtype=torch.float32)
    counts = [800, 90, 20, 3]
    loss = kind(counts, w=nn.Parameter(w))
    first,weight = loss(x, y),class_weights(counts, .9999).float()
    loss.class_weight = weight
    torch.testing.assert_close(loss(x, y), kind(counts, w=loss.weight, weight=weight)(x, y))
    assert not torch.isclose(loss(x, y), first)
    loss.class_weight = 5*weight # a mean over weights: their size does not count
    torch.testing.assert_close(loss(x, y), kind(counts, w=loss.weight, weight=weight)(x, y))
    loss.class_weight = torch.ones(4); assert torch.equal(loss(x, y), first)

@pytest.mark.parametrize('kind', KINDS)
def test_deferred_reweighting(kind):
    x,w,y = data(dtype=torch.float32)
    counts = [800, 90, 20, 3]
    loss = kind(counts, w=nn.Parameter(w))
    later,plain = DeferredReweighting(loss, counts, share=.8),loss(x, y)
    later.anneal(.79); assert torch.equal(loss(x, y), plain)
    later.anneal(.8)
    expected = slow_loss(kind, x, w, y, counts, .5, float(loss.scale), class_weights(counts, .9999))
    assert loss(x, y).item()==pytest.approx(expected, rel=1e-5)
    other = kind(counts, 6) # a new one takes the state that was saved then
    other.load_state_dict(loss.state_dict()); assert torch.equal(other(x, y), loss(x, y))

@pytest.mark.parametrize('kind', KINDS)
def test_what_moves_with_the_loss(kind):
    loss = kind(SIZES, 6)
    assert {'margins', 'class_weight'}<=set(dict(loss.named_buffers())) and [n for n,_ in loss.named_parameters()]==['weight']
    elsewhere = copy.deepcopy(loss).to('meta')
    assert elsewhere.margins.device.type==elsewhere.class_weight.device.type=='meta'
    made = kind(SIZES, w=nn.Parameter(torch.empty(10, 6, device='meta'))) # class vectors that lie there already
    assert made.margins.device.type==made.class_weight.device.type=='meta'
    if torch.cuda.is_available():
        x,_,y = data(6, 6, 10, dtype=torch.float32)
        there = copy.deepcopy(loss).cuda()
        torch.testing.assert_close(there(x.cuda(), y.cuda()).cpu(), loss(x, y), rtol=1e-4, atol=1e-4)

@pytest.mark.parametrize('kind', KINDS)
def test_weights_may_be_taken_away_and_wrong_ones_are_named(kind):
    x,w,y = data(dtype=torch.float32)
    loss = kind([800, 90, 20, 3], w=nn.Parameter(w))
    first,loss.class_weight = loss(x, y),None
    assert torch.equal(loss(x, y), first)
    loss.class_weight = torch.ones(5)
    with pytest.raises(ValueError, match=r'weight: expected shape \(4,\), one per class, got \(5,\)'): loss(x, y)
    with pytest.raises(ValueError, match=r'weight: expected shape \(4,\), one per class, got list'):
        kind([800, 90, 20, 3], 6, weight=[1, 2, 3, 4])

@pytest.mark.parametrize('kind', [*KINDS, CosFace, AVHLoss])
def test_booleans_are_no_labels(kind):
    x,w,y = data(dtype=torch.float32)
    loss = kind([800, 90, 20, 3], w=nn.Parameter(w)) if kind in KINDS else kind(w=nn.Parameter(w))
    with pytest.raises(ValueError, match='y: expected integer labels, got torch.bool'): loss(x, y>0)
    for whole in (torch.uint8, torch.int8, torch.int32): assert torch.equal(loss(x, y.to(whole)), loss(x, y))

# gradients

@pytest.mark.parametrize('kind', KINDS)
def test_gradients(kind):
    x,w,y = data(5, 3, 4, seed=3)
    loss = kind([9, 4, 2, 1], scale=3., w=nn.Parameter(torch.ones_like(w)))
    def of(x, w): return torch.func.functional_call(loss, dict(weight=w), (x, y))
    assert gradcheck(of, (x.requires_grad_(), w.requires_grad_()))

@pytest.mark.parametrize('kind', KINDS)
def test_at_both_ends_and_at_zeros_the_gradient_is_finite(kind):
    w = torch.eye(4, 6)
    x = torch.cat([w, -w, torch.zeros(1, 6), 1e30*w[:1], 1e-30*w[:1]]).requires_grad_()
    y = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0, 0, 0])
    loss = kind([800, 90, 20, 3], w=nn.Parameter(w))
    value = loss(x, y)
    gx,gw = torch.autograd.grad(value, (x, loss.weight))
    assert value.isfinite() and gx.isfinite().all() and gw.isfinite().all() and gx[8].abs().sum()==0

# how they are used

@pytest.mark.parametrize('kind', KINDS)
def test_autocast_inference_and_half_precision(kind):
    x,_,y = data(dtype=torch.float32)
    loss = kind([800, 90, 20, 3], 6)
    with torch.autocast('cpu', torch.bfloat16): inside = loss(x, y)
    assert torch.equal(inside, loss(x, y)) and inside.dtype==torch.float32
    with torch.inference_mode(): assert torch.equal(loss(x, y), inside)
    assert loss(x.bfloat16(), y).dtype==torch.float32
    half = kind([800, 90, 20, 3], w=nn.Parameter(loss.weight.detach().bfloat16())) # the margins keep their digits
    assert half.margins.dtype==torch.float32 and half(x, y).isfinite()

@pytest.mark.parametrize('kind', KINDS)
def test_a_training_step_compiles_into_one_graph(kind):
    x,_,y = data(dtype=torch.float32)
    counts = [800, 90, 20, 3]
    loss = kind(counts, 6)
    counter,later = CompileCounterWithBackend('aot_eager'),DeferredReweighting(loss, counts)
    compiled = torch.compile(loss, backend=counter, fullgraph=True)
    for share in (0, .5, .9): # other weights need no other graph
        later.anneal(share)
        a,b = x.clone().requires_grad_(),x.clone().requires_grad_()
        torch.testing.assert_close(compiled(a, y), loss(b, y))
        torch.testing.assert_close(torch.autograd.grad(compiled(a, y), a)[0], torch.autograd.grad(loss(b, y), b)[0], rtol=1e-4, atol=1e-6)
    assert counter.frame_count==1

def test_by_name():
    x,_,y = data(dtype=torch.float32)
    for name,kind in (('ldam', LDAM), ('avh-ldam', AngularLDAM)):
        for options,own in (({}, {}), (dict(margin=.3, scale=8.), dict(max_margin=.3, scale=8.)), (dict(margin=0), dict(max_margin=0))):
            torch.manual_seed(0); found = named_loss(name, 6, 4, counts=[9, 4, 2, 1], label_smoothing=.1, **options)
            torch.manual_seed(0); made = kind([9, 4, 2, 1], 6, label_smoothing=.1, **own)
            assert type(found) is kind and torch.equal(found(x, y), made(x, y))
    assert isinstance(named_loss('ldam', 6, 4, counts=[1]*4), MarginLoss)

@pytest.mark.parametrize('kind', KINDS)
def test_what_it_prints_has_no_addresses(kind):
    assert ' at 0x' not in repr(kind(SIZES, 6)) and '0.5' in repr(kind(SIZES, 6))

@pytest.mark.parametrize('make,message', [
    (lambda kind: kind([5, 0, 3], 6), 'counts: expected whole numbers of at least 1, got 0'),
    (lambda kind: kind([5, -2, 3], 6), 'counts: expected whole numbers of at least 1'),
    (lambda kind: kind([5, 2.5], 6), 'counts: expected whole numbers of at least 1'),
    (lambda kind: kind([5, math.nan], 6), 'counts: expected whole numbers of at least 1'),
    (lambda kind: kind([[5, 2]], 6), 'counts: expected one number for each class'),
    (lambda kind: kind([5, 2, 3], w=nn.Parameter(torch.eye(4))), 'counts: expected 4'),
    (lambda kind: kind([5, 2], 6, max_margin=-.1), 'max_margin: expected a finite number of at least 0, got -0.1'),
    (lambda kind: kind([5, 2], 6, max_margin=math.inf), 'max_margin: expected a finite number'),
    (lambda kind: kind([5, 2], 6, max_margin=math.nan), 'max_margin: expected a finite number'),
    (lambda kind: kind([5, 2], 6, max_margin='half'), 'max_margin: expected a finite number'),
    (lambda kind: kind([5, 2], 6, max_margin=True), 'max_margin: expected a finite number'),
    (lambda kind: kind([5, 2], 6, scale=0), 'scale: expected above 0'),
    (lambda kind: kind([5, 2], 6, scale=-3.), 'scale: expected above 0'),
    (lambda kind: kind([5, 2], 6, scale=math.inf), 'scale: expected above 0'),
    (lambda kind: kind([5, 2]), 'in_features, out_features: expected both, or w'),
    (lambda kind: kind([5, 2], 6, weight=torch.ones(3)), r'weight: expected shape \(2,\).*got \(3,\)'),
    (lambda kind: kind([5, 2], 6)(torch.randn(3, 5), torch.tensor([0, 1, 1])), 'x'),
    (lambda kind: kind([5, 2], 6)(torch.randn(3, 6), torch.tensor([0, 1, 2])), 'y: .*'),
    (lambda kind: kind([5, 2], 6)(torch.randn(3, 6), torch.tensor([0, 1])), 'y: .*'),
    (lambda kind: kind([5, 2], 6)(torch.randn(3, 6), torch.eye(2)[[0, 1, 1]]), 'y: expected integer labels')])
@pytest.mark.parametrize('kind', KINDS)
def test_errors_name_the_argument(kind, make, message):
    with pytest.raises(ValueError, match=message): make(kind)

def test_more_errors():
    with pytest.raises(ValueError, match='scale: expected a number above 0, got None'): LDAM([5, 2], 6, scale=None)
    for name in ('ldam', 'avh-ldam'):
        with pytest.raises(ValueError, match=f'counts: expected the training samples of each class, {name}'): named_loss(name, 6, 4)
        with pytest.raises(ValueError, match='counts: expected 4'): named_loss(name, 6, 4, counts=[3, 2])

# mistakes that are in use

COUNTS = [800, 90, 20, 3]

class Right:
    "LDAM written in one piece, to be got wrong"
    margins = class_margins(COUNTS)
    def __init__(self, w): self.w = w
    def cosines(self, x): return F.normalize(x)@F.normalize(self.w).T
    def with_margin(self, cosine, y): return 30*(cosine-F.one_hot(y, 4)*self.margins)
    def loss(self, x, y): return F.cross_entropy(self.with_margin(self.cosines(x), y), y)
    def logits(self, x): return 30*self.cosines(x)

class AfterTheScale(Right):
    def with_margin(self, cosine, y): return 30*cosine-F.one_hot(y, 4)*self.margins
class FreeClassVectors(Right):
    "Margins on what are no cosines: only the features have length 1"
    def cosines(self, x): return F.normalize(x)@self.w.T
class SquareRoot(Right): margins = .5*(min(COUNTS)/torch.tensor(COUNTS, dtype=torch.float64))**.5
class SmallestIsMax(Right): margins = .5*(max(COUNTS)/torch.tensor(COUNTS, dtype=torch.float64))**.25
class FrequentGetsMore(Right): margins = .5*(torch.tensor(COUNTS, dtype=torch.float64)/max(COUNTS))**.25
class OfAllClasses(Right):
    "Each class loses its margin, not only the label"
    def with_margin(self, cosine, y): return 30*(cosine-self.margins)
class OneForAll(Right): margins = torch.full((4,), .5)
class AlsoToPredict(Right):
    def logits(self, x): return 30*(self.cosines(x)-self.margins)

def fits(candidate):
    "Does it agree with the library's on a batch, in the loss and in the prediction?"
    x,w,y = data()
    ours,other = LDAM(COUNTS, w=nn.Parameter(w)),candidate(w)
    return torch.allclose(ours(x, y), other.loss(x, y), rtol=1e-6) and torch.allclose(ours.logits(x), other.logits(x))

def test_the_right_one_fits(): assert fits(Right)

@pytest.mark.parametrize('wrong', [AfterTheScale, FreeClassVectors, SquareRoot, SmallestIsMax, FrequentGetsMore, OfAllClasses, OneForAll,
    AlsoToPredict])
def test_mutant_is_caught(wrong): assert not fits(wrong)

def test_weights_over_the_number_of_samples_are_caught():
    "The published class-balanced losses divide by that, LDAM by the sum of the weights"
    x,w,y = data()
    weight = class_weights(COUNTS, .9999)
    loss = LDAM(COUNTS, w=nn.Parameter(w), weight=weight)
    each = LDAM(COUNTS, w=nn.Parameter(w), weight=weight, reduction='none')(x, y)
    torch.testing.assert_close(loss(x, y), each.sum()/weight[y].sum())
    assert not torch.isclose(loss(x, y), each.mean())
