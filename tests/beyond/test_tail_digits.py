"A long tail of digits: three sets that share no image, the losses of the study, scores by a slow loop, and what is said of made-up draws."
import numpy as np, pytest, torch
from avh_nb.angle import angles
from avh_nb.beyond.tail_digits import LOSSES, METHODS, by_class, percent, rarity_slope, repaired, summary, table, three_sets, trained
from avh_nb.beyond.tail_networks import loss_of
from avh_nb.data.images import Images
from avh_nb.data.imbalance import class_counts
from avh_nb.train.models import small_cnn

@pytest.fixture(scope='module')
def images():
    "Noise around a picture of each of four classes; no two alike"
    g = torch.Generator().manual_seed(0)
    y = torch.arange(4).repeat(110)
    x = 40+120*torch.rand(4, 1, 8, 8, generator=g)[y]+40*torch.rand(len(y), 1, 8, 8, generator=g)
    return Images(x.byte(), y, tuple('abcd'), 'noise')

@pytest.fixture(scope='module')
def learner(images): return trained('CE', three_sets(images, 10)[0], epochs=2)

def rows(images): return {bytes(x.numpy()) for x in images.x}

def test_the_three_sets_share_no_image(images):
    for seed in (0, 1):
        sets = three_sets(images, 10, seed)
        assert len(set.union(*map(rows, sets)))==sum(map(len, sets))
        assert [class_counts(s).tolist() for s in sets]==[[40, 18, 8, 4], [20]*4, [50]*4]

def test_only_the_long_tail_depends_on_seed_and_order(images):
    (tail,*balanced),(other,*same),(back,*too) = (three_sets(images, 10, **k) for k in ({}, dict(seed=1), dict(order='dcba')))
    for a,b,c in zip(balanced, same, too): assert torch.equal(a.x, b.x) and torch.equal(a.x, c.x)
    assert rows(tail)!=rows(other) and class_counts(back).tolist()==class_counts(tail).tolist()[::-1]

@pytest.mark.parametrize('name', LOSSES)
def test_losses_are_those_of_the_study(name, images):
    tail = three_sets(images, 10)[0]
    ours = trained(name, tail, epochs=1)
    model = small_cnn(4, width=.5)
    loss,later,_ = loss_of(name, model.head, class_counts(tail))
    model.head.load_state_dict(ours.bare_model.head.state_dict())
    x,y = torch.randn(30, 32, generator=torch.Generator().manual_seed(1)).relu(),tail.y[-30:]
    for share in (0, 1):
        for callbacks in (later, ours.callbacks):
            for c in callbacks: c.anneal(share)
        torch.testing.assert_close(ours.loss(x, y), loss(x, y))
    assert len(ours.callbacks)==len(later) and ours.loss.weight is ours.bare_model.head.weight

def slow(scores, x, w, y):
    "Recall and mean AVH of each class, image by image"
    a,right,hard = angles(x, w).double(),[[] for _ in w],[[] for _ in w]
    for i,k in enumerate(y.tolist()):
        right[k].append(float(scores[i].argmax()==k)); hard[k].append((a[i, k]/a[i].sum()).item())
    return [np.mean(r) for r in right],[np.mean(h) for h in hard]

def test_scores_by_class(learner, images):
    _,choice,test = three_sets(images, 10)
    x,heads = learner.features(test),repaired(learner, choice)
    found = {m: by_class(h, x, test.y) for m,h in dict(CE=learner.loss, **heads).items()}
    for m,h in dict(CE=learner.bare_model.head, **heads).items():
        seen = h.prepare(x) if m=='NCM' else x
        with torch.no_grad(): recall,hard = slow(h(x), seen, h.weight.detach(), test.y)
        np.testing.assert_allclose(found[m]['recall'], recall); np.testing.assert_allclose(found[m]['avh'], hard, atol=1e-5)
    ncm = heads['NCM']
    assert not np.allclose(slow(ncm(x), x, ncm.weight, test.y)[1], found['NCM']['avh'], atol=1e-3) # it compares prepared features
    np.testing.assert_allclose(found['τ']['avh'], found['CE']['avh'], atol=1e-5)

def test_an_ldam_loss_predicts_by_its_own_logits(images):
    tail,_,test = three_sets(images, 10)
    l = trained('LDAM-DRW', tail, epochs=1)
    with torch.no_grad(): l.bare_model.head.bias += torch.tensor([100., 0, 0, 0]) # a bias that no logit of LDAM has
    x = l.features(test)
    assert by_class(l.bare_model.head, x, test.y)['recall'].tolist()==[1, 0, 0, 0]
    with torch.no_grad(): recall,_ = slow(l.loss.logits(x), x, l.loss.weight.detach(), test.y)
    assert by_class(l.loss, x, test.y)['recall'].tolist()==recall!=[1, 0, 0, 0]

COUNTS = np.array([104, 71, 48, 33, 22, 15, 10, 7, 5, 3])

def draws(gains, slope=-.02, n=3):
    "Draws that differ far more than methods; a class has a level of AVH, and the network of the reverse order another"
    rng = np.random.default_rng(0)
    def one(m, level):
        counts = COUNTS[::-1] if m=='CE, reversed' else COUNTS
        hard = .2-.01*np.arange(10)+slope*np.log10(counts)+.3*(m=='CE, reversed')
        return dict(count=counts, avh=hard, recall=np.r_[np.ones(7), np.full(3, level+gains.get(m, 0)+.001*rng.normal())])
    return [{m: one(m, .3+.1*s) for m in (*METHODS, 'CE, reversed')} for s in range(n)]

def test_differences_are_taken_within_draws():
    runs = draws({'τ': .1})
    assert percent(runs, 'τ', 3).low<percent(runs, 'CE', 3).mean and percent(runs, 'τ', 3, 'CE').low>9
    assert percent(runs, 'CE').mean==pytest.approx(np.mean([100*r['CE']['recall'].mean() for r in runs]))

def test_the_slope_needs_both_orders():
    runs = draws({})
    assert np.allclose(rarity_slope(runs), -.02)
    assert np.polyfit(np.log10(COUNTS), runs[0]['CE']['avh'], 1)[0]>0 # one order: rare digits are easy here, and it says the opposite

def test_what_is_said():
    said = summary(draws({'CB-CE': .1, 'cRT': -.1}))
    assert 'higher with CB-CE; lower with cRT; not clearly different with CE-DRW, LDAM-DRW, τ, NCM.' in said
    assert 'falls' in said and 'in 3 draws' in said and 'rises' in summary(draws({}, slope=.02))
    assert 'higher' not in summary(draws({})) and 'lower' not in summary(draws({}))
    assert all(m in table(draws({})) for m in METHODS) and 'reversed' not in table(draws({}))
