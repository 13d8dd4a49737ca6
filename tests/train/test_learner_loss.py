"A learner with a loss of its own and a term for the weights: the usual training where these change nothing, annealed, resumable."
import pytest, torch, torch.nn.functional as F
from avh_nb.data.sets import digits
from avh_nb.loss.balanced import ClassBalancedLoss, DeferredReweighting, OnLogits, class_weights
from avh_nb.loss.energy import EnergyRegulariser
from avh_nb.loss.ldam import LDAM
from avh_nb.loss.margin import MarginSoftmax
from avh_nb.train.learner import Learner
from avh_nb.train.models import small_cnn

TRAIN = digits().split(.3)[0]

def learner(loss=None, regulariser=None, **kwargs):
    torch.manual_seed(0)
    model = small_cnn(bias=False, width=.5)
    return Learner(model, TRAIN, **{**dict(epochs=2, batch_size=64, progress=False), **kwargs}, loss=loss and loss(model),
        regulariser=regulariser and regulariser(model))

def plain(model): return MarginSoftmax(margin=1, normalise=False, w=model.head.weight)
def margin(model): return MarginSoftmax(margin=3, anneal='sphereface', w=model.head.weight)

def test_a_softmax_as_a_loss_is_the_usual_training():
    ours,usual = learner(plain).fit(),learner().fit()
    assert [h['loss'] for h in ours.history]==pytest.approx([h['loss'] for h in usual.history], rel=1e-4)
    assert ours.history[-1]['accuracy']==pytest.approx(usual.history[-1]['accuracy'], abs=.01)

def test_a_function_will_do_as_a_loss():
    weighted = lambda model: lambda x, y: F.cross_entropy(model.head(x), y, torch.ones(10))
    assert learner(weighted).fit().history[-1]['loss']==pytest.approx(learner().fit().history[-1]['loss'], rel=1e-4)

def test_the_loss_is_annealed_by_the_share_that_is_done():
    seen = []
    class Watched(MarginSoftmax):
        def anneal(self, share): seen.append(share); super().anneal(share)
    l = learner(lambda model: Watched(margin=2, anneal='sphereface', w=model.head.weight))
    seen.clear(); l.fit()
    steps = 2*l.steps
    assert seen==pytest.approx([i/steps for i in range(steps)])

def test_a_term_is_added_to_the_loss_of_each_batch():
    l = learner(regulariser=lambda model: lambda: 3.+0*model.head.weight.sum())
    assert l.fit().history[0]['loss']==pytest.approx(learner().fit().history[0]['loss']+3, rel=1e-4)
    spread = learner(regulariser=lambda model: EnergyRegulariser(model, head=100)).fit()
    def near(l): u = F.normalize(l.bare_model.head.weight.detach()); return (u@u.T).fill_diagonal_(-1).max()
    assert near(spread)<near(learner().fit())

def test_a_stopped_run_goes_on_and_another_loss_is_refused(tmp_path):
    class Stop(Exception): pass
    class Once:
        def after_epoch(self, learner):
            if learner.epoch==2: raise Stop
    path,both = tmp_path/'run.safetensors',dict(loss=margin, regulariser=EnergyRegulariser)
    with pytest.raises(Stop): learner(**both, checkpoint=path, epochs=3, callbacks=[Once()]).fit()
    resumed,unbroken = learner(**both, checkpoint=path, epochs=3).fit(),learner(**both, epochs=3).fit()
    for a,b in zip(resumed.bare_model.state_dict().values(), unbroken.bare_model.state_dict().values()): assert torch.equal(a, b)
    for other in (dict(loss=plain, regulariser=EnergyRegulariser), dict(loss=margin),
            dict(loss=margin, regulariser=lambda model: EnergyRegulariser(model, half=True))):
        with pytest.raises(ValueError, match='is of a run with'): learner(**other, checkpoint=path, epochs=3).fit()

TAIL = [100, 60, 40, 30, 20, 10, 9, 8, 7, 5]
@pytest.mark.parametrize('make', [lambda model: OnLogits(model.head, ClassBalancedLoss(TAIL, 0, normaliser='weights')),
    lambda model: LDAM(TAIL, w=model.head.weight)], ids=['on logits', 'LDAM'])
def test_a_run_that_is_killed_goes_on_with_the_right_weights(make, tmp_path):
    "Killed before, at and after the switch"
    class Kill(Exception): pass
    def run(path, kill=None, share=.5):
        torch.manual_seed(0)
        model = small_cnn(width=.5)
        loss = make(model)
        later,seen = DeferredReweighting(loss, TAIL, share),[]
        class Watch:
            def anneal(self, share): seen.append((share, loss.class_weight.clone()))
            def after_epoch(self, learner):
                if learner.epoch==kill: raise Kill
        l = Learner(model, TRAIN, 4, schedule='late', batch_size=64, steps=3, loss=loss,
            callbacks=[later, Watch()], checkpoint=path, progress=False)
        try: l.fit()
        except Kill: pass
        assert seen and all(torch.equal(w, class_weights(TAIL, .9999).float() if s>=share else torch.ones(10)) for s,w in seen)
        return l
    path = tmp_path/'run.safetensors'
    for epoch in (1, 2, 3, 4): run(path, epoch)
    resumed,unbroken = run(path),run(None)
    assert [h['loss'] for h in resumed.history]==[h['loss'] for h in unbroken.history]
    for a,b in zip(resumed.bare_model.state_dict().values(), unbroken.bare_model.state_dict().values()): assert torch.equal(a, b)
    assert run(None, share=1).history[-1]['loss']!=unbroken.history[-1]['loss']

def test_what_would_not_be_trained_is_refused():
    with pytest.raises(ValueError, match=r'loss: expected parameters of the model, got another of shape \(10, 32\)'):
        learner(lambda model: LDAM(TAIL, 32))
    with pytest.raises(ValueError, match=r'no_decay: expected parameters of the model, got another of shape \(3,\)'):
        learner(no_decay=[torch.nn.Parameter(torch.zeros(3))])
