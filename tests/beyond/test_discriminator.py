"Energy in a GAN's discriminator: the mistake of the published code, gradients, scores against slow formulas, and runs that repeat."
import math
import pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from avh_nb.beyond import discriminator as page
from avh_nb.beyond.discriminator import (ENERGIES, WEIGHT, energy_of, energy_weight, gan_differences, gan_grid, gan_run, gan_table,
    gan_verdict, gan_words, gradient_sizes, layer_table, overall, raw_weights, regulariser)
from avh_nb.beyond.gan import (OURS, STEPS, begin, classifier_score, discriminator, discriminator_loss, frechet_distance, judge,
    train_gan)
from avh_nb.data.sets import mnist5k
from avh_nb.loss.energy import hyperspherical_energy
from avh_nb.report.journal import as_json

def filters(n=9, d=20, seed=0):
    "Filters with something in common, so that full and half-space differ"
    return (torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)+.5).requires_grad_()

# Half-space, as published

def slow_half(w):
    "The energy of filters and their negatives, pair by pair"
    both = [*w, *(-w)]
    pairs = [(a/a.norm()-b/b.norm()).pow(2).sum() for i,a in enumerate(both) for b in both[:i]]
    return -torch.stack(pairs).log().mean()

def published(w, axis):
    "The published term without its weight, for filters in columns: 0 is the axis it joins them along, 1 the one that was meant"
    eps,w = 1e-4,w.T
    w = torch.cat([w, -w], axis)
    w = w/(w.pow(2).sum(0, keepdim=True)+eps).sqrt()
    return -((2-2*w.T@w).triu(1)+eps).log().mean()

def of_pairs(term, n):
    "From the mean over all entries of the matrix, those that are no pairs at log 1e-4, to the mean over pairs"
    return (term*n**2+math.log(1e-4)*n*(n+1)/2)/(n*(n-1)/2)

def test_the_published_axis_is_a_mutant_of_half_space():
    w = filters()
    n,right = len(w),slow_half(w)
    assert torch.isclose(hyperspherical_energy(w, half=True), right)
    assert torch.isclose(of_pairs(published(w, 1), 2*n), right, atol=2e-3) # what was meant
    wrong = of_pairs(published(w, 0), n)
    assert torch.isclose(wrong, hyperspherical_energy(w), atol=2e-3) and abs(wrong-right)>.1 # what it is

def test_the_published_weight_means_the_same_here():
    "Collected twice, and divided by all entries: (N-1)/N times the gradient of the mean over pairs"
    w = filters()
    theirs, = torch.autograd.grad(2*published(w, 0), w)
    ours, = torch.autograd.grad(hyperspherical_energy(w), w)
    assert torch.allclose(theirs, (len(w)-1)/len(w)*ours, atol=2e-3*ours.abs().max().item())

def test_a_single_row_has_no_pairs():
    w = filters(n=1)
    assert torch.autograd.grad(published(w, 0), w)[0].abs().max()==0
    assert len(raw_weights(discriminator()))==len(OURS)

# Gradients

def test_the_spectral_norm_does_not_change_the_gradient_of_the_energy():
    net = discriminator().eval()
    layer = net[2]
    raw = layer.parametrizations.weight.original
    a, = torch.autograd.grad(hyperspherical_energy(raw), raw)
    b, = torch.autograd.grad(hyperspherical_energy(layer.weight), raw)
    assert torch.allclose(a, b, atol=1e-4*a.abs().max().item())

def test_the_part_of_the_energy_vanishes_with_its_weight():
    G,D,draw = begin(0)
    D.eval()
    real,noise = draw(16)
    fake = G(noise).detach()
    def gradient(weight):
        return torch.autograd.grad(discriminator_loss(D, real, fake)+weight*energy_of(D), raw_weights(D))
    own,energy = gradient(0.),torch.autograd.grad(energy_of(D), raw_weights(D))
    for o,g in zip(torch.autograd.grad(discriminator_loss(D, real, fake), raw_weights(D)), own): assert torch.equal(o, g)
    for o,e,g in zip(own, energy, gradient(.5)): assert torch.allclose(g, o+.5*e, rtol=1e-4, atol=1e-7)

def test_sizes_are_root_mean_squares_and_leave_the_network_as_it_was():
    torch.manual_seed(0)
    D = discriminator()
    before = {k: v.clone() for k,v in D.state_dict().items()}
    real,fake = torch.rand(2, 8, 1, 28, 28)
    own,energy = gradient_sizes(D, real, fake)
    assert D.training and all(torch.equal(v, before[k]) for k,v in D.state_dict().items()) and all(p.grad is None for p in D.parameters())
    D.eval()
    discriminator_loss(D, real, fake).backward()
    for size,w in zip(own, raw_weights(D)):
        assert size==pytest.approx(math.sqrt(sum(g**2 for g in w.grad.flatten().tolist())/w.numel()), rel=1e-4)
    together = torch.cat([w.grad.flatten() for w in raw_weights(D)])
    assert overall(own, D)==pytest.approx(together.pow(2).mean().sqrt().item(), rel=1e-4)

def test_the_rule_of_the_weight_that_matters():
    G,D,draw = begin(page.CHOSEN_AT)
    real,noise = draw(256)
    own,energy = gradient_sizes(D, real, G(noise).detach())
    assert energy_weight('a tenth of the gradient')*overall(energy, D)==pytest.approx(.1*overall(own, D), rel=1e-3)
    assert page.CHOSEN_AT not in {s for _,s in gan_grid(10)} and energy_weight('none')==0 and energy_weight('published')==WEIGHT
    with pytest.raises(ValueError, match='energy: expected one of none, published'): energy_weight('half')

# Runs

def state(nets): return [v for net in nets for v in net.state_dict().values()]
def same(a, b): return all(torch.equal(v, w) for v,w in zip(state(a), state(b)))

def spread(weight): return lambda net: weight*energy_of(net)

def test_runs_repeat():
    first = train_gan(0, spread(1e-2), steps=3)
    torch.rand(5) # what others draw meanwhile
    assert same(first, train_gan(0, spread(1e-2), steps=3))
    assert not same(first, train_gan(1, spread(1e-2), steps=3)) and not same(first, train_gan(0, steps=3))

def test_without_weight_the_energy_is_not_asked(monkeypatch):
    plain = train_gan(0, steps=2)
    assert same(plain, train_gan(0, spread(0.), steps=2)) # no part in the gradient
    monkeypatch.setattr(page, 'energy_of', lambda net: pytest.fail('asked'))
    assert same(plain, train_gan(0, regulariser('none'), steps=2))
    with pytest.raises(pytest.fail.Exception): train_gan(0, regulariser('published'), steps=1)

def test_the_energy_pushes_filters_apart():
    a,b = (energy_of(train_gan(0, spread(w), steps=10)[1]).item() for w in (0, 100.))
    assert b<a-1e-3

def test_a_run_gives_numbers():
    config,seed = gan_grid(1)[1]
    assert config==dict(part='gan', energy='published', steps=STEPS) and seed==0
    m = gan_run({**config, 'steps': 2}, 0)
    assert as_json(m, 'metrics')==m and gan_run({**config, 'steps': 2}, 0)==m
    assert m['ratio start']<1e-6 and m['energy 1 start']>0 and m['excess 1 end']>=0

# Scores

@given(st.integers(0, 10**6), st.integers(2, 12), st.floats(.1, 20))
@settings(max_examples=30, deadline=None)
def test_classifier_score_against_a_loop(seed, n, sharp):
    p = (sharp*torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(1)
    mean = [sum(r[c] for r in p.tolist())/n for c in range(5)]
    slow = math.exp(sum(q*math.log(q/m) for r in p.tolist() for q,m in zip(r, mean) if q)/n)
    assert classifier_score(p)==pytest.approx(slow, rel=1e-6) and 1-1e-9<=slow<=5+1e-9

def test_limits_of_the_classifier_score():
    assert classifier_score(torch.full((30, 10), .1))==pytest.approx(1)
    assert classifier_score(torch.eye(10)[[3]*30])==pytest.approx(1) # always the same digit
    assert classifier_score(torch.eye(10).repeat(7, 1))==pytest.approx(10)

def test_frechet_distance():
    g = torch.Generator().manual_seed(0)
    a,b = torch.randn(300, 1, generator=g),3*torch.randn(200, 1, generator=g)+1
    assert frechet_distance(a, b)==pytest.approx(((a.mean()-b.mean())**2+(a.std()-b.std())**2).item(), rel=1e-5)
    a,b = torch.randn(300, 4, generator=g),torch.randn(200, 4, generator=g)@torch.randn(4, 4, generator=g)
    A,B = a.double().T.cov(),b.double().T.cov()
    slow = (a.mean(0)-b.mean(0)).double().pow(2).sum()+A.trace()+B.trace()-2*torch.linalg.eigvals(A@B).sqrt().real.sum()
    assert frechet_distance(a, b)==pytest.approx(slow.item(), rel=1e-6)==frechet_distance(b, a)
    flat = F.pad(a, (0, 2)) # two features that never change
    assert frechet_distance(flat, flat)==pytest.approx(0, abs=1e-6)

def test_the_judge_is_the_same_whoever_asks():
    judge.cache_clear()
    torch.manual_seed(1)
    with torch.no_grad(): body,head = judge()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1)) # the numbers that others draw are not disturbed
    held_out = mnist5k().split(.8)[1]
    with torch.no_grad(): assert (head(body(held_out.x.float()/127.5-1)).argmax(1)==held_out.y).float().mean()>.9 # and it has learnt

# What follows

def records(**scores):
    return [dict(study='energy', config=dict(part='gan', energy=e.replace('_', ' '), steps=STEPS), seed=s, metrics={'classifier score': v})
        for e,of in scores.items() for s,v in enumerate(of) if v is not None]

def test_differences_pair_seeds():
    found = records(none=[5, None, 7, 6], published=[6, 9, 7.5, None])
    assert gan_differences(found)==pytest.approx([1, .5]) and gan_differences(found, ENERGIES[2])==[]
    other = [dict(study='energy', config=dict(part='gan', energy='published', steps=5), seed=0, metrics={'classifier score': 0.}),
        dict(study='energy', config=dict(part='width'), seed=0, metrics={'accuracy': .5})]
    assert gan_differences([*other, *found])==gan_differences(found)

def test_verdicts():
    assert gan_verdict(records(none=[5, 6, 7], published=[6, 7.1, 7.9]))=='yes'
    assert gan_verdict(records(none=[5, 6, 7], published=[4, 5.1, 5.9]))=='no'
    assert gan_verdict(records(none=[5, 6, 7], published=[5.1, 5.8, 7.1]))=='open'

@pytest.mark.parametrize('found', [[], records(none=[5, 6]), records(published=[5]), records(none=[5], published=[6])])
def test_few_records(found):
    v = gan_verdict(found)
    assert v=='open' and v.interval is None
    assert 'not recorded' in gan_words(found) and len(gan_table([]))==len(layer_table([]))==0
