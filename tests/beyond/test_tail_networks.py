"Networks of a long tail: a killed run ends as an unbroken one, heads leave the network alone, and a run records what its pages read."
import numpy as np, pytest, torch
from avh_nb.angle import angles
from avh_nb.beyond import tail_networks
from avh_nb.beyond.networks import ranks_file
from avh_nb.beyond.tail_networks import (HEADS, LOSSES, draw_of, features_of, grid, loss_of, make_head, put_right, run, tail_metrics,
    train_tail)
from avh_nb.data.imbalance import class_counts
from avh_nb.data.sets import digits
from avh_nb.report.who import read_ranks
from avh_nb.train.models import small_cnn

CONFIG = dict(part='losses', loss='CE', imbalance=10, network='resnet', epochs=5)
QUICK = dict(batch_size=64, steps=6, augment=None, mixed_precision='no', progress=False)

def trained(loss='CE', seed=0, **options):
    return train_tail(dict(CONFIG, loss=loss), seed, images=digits(), network=small_cnn, **{**QUICK, 'checkpoint': None, **options})

@pytest.fixture(scope='module')
def of():
    learner,left = trained()
    test = digits()[torch.arange(0, len(digits()), 9)]
    return learner,test,features_of(learner, test, left)

@pytest.fixture(scope='module')
def heads(of):
    "All heads, and what they were made from, before and after"
    learner,_,found = of
    state,before = ({k: v.clone() for k,v in d.items()} for d in (learner.bare_model.state_dict(), found))
    return {name: make_head(name, found)[0] for name in HEADS},state,before

class Stop(Exception): pass

@pytest.mark.parametrize('loss', ['CE-DRW', 'LDAM-DRW', 'AVH-LDAM-DRW, s = 30'])
@pytest.mark.parametrize('epoch', [2, 4]) # before the weights come in, and when they are there
def test_a_killed_run_ends_as_an_unbroken_one(tmp_path, monkeypatch, loss, epoch):
    whole,_ = trained(loss)
    def stop(self, learner):
        if learner.epoch==epoch+1: raise Stop
    with monkeypatch.context() as patch:
        patch.setattr(tail_networks.DeferredReweighting, 'after_epoch', stop)
        with pytest.raises(Stop): trained(loss, checkpoint=tmp_path/'run.safetensors')
    resumed,_ = trained(loss, checkpoint=tmp_path/'run.safetensors')
    for a,b in zip(whole.bare_model.state_dict().values(), resumed.bare_model.state_dict().values()): assert torch.equal(a, b)
    assert torch.equal(whole.loss.class_weight, resumed.loss.class_weight) and whole.loss.class_weight.unique().numel()>1

def test_weights_come_in_with_the_first_drop_of_the_rate(monkeypatch):
    seen = []
    anneal = tail_networks.DeferredReweighting.anneal
    def watched(self, share):
        anneal(self, share)
        seen.append(self.loss.class_weight.unique().numel()>1)
    monkeypatch.setattr(tail_networks.DeferredReweighting, 'anneal', watched)
    learner,_ = trained('CE-DRW')
    rates = [learner.scheduler.lr_lambdas[0](i) for i in range(len(seen))]
    assert len(seen)==30 and [r<.5 for r in rates[6:]]==seen[6:] and not any(seen[:6])

@pytest.mark.parametrize('loss', LOSSES)
def test_every_loss_trains_the_head_and_predicts_by_it(loss):
    learner,_ = trained(loss)
    assert np.isfinite([h['loss'] for h in learner.history]).all()
    assert learner.loss.weight is learner.bare_model.head.weight
    x = learner.features(digits()[:20])
    with torch.no_grad(): logits = learner.loss.logits(x)
    assert logits.shape==(20, 10) and logits.isfinite().all()

def test_the_bias_of_a_sigmoid_begins_at_the_prior_and_is_not_decayed():
    learner,_ = trained('CB-sigmoid')
    groups = {g['weight_decay']: g['params'] for g in learner.optimizer.param_groups}
    assert [p is learner.bare_model.head.bias for p in groups[0.]]==[True] and len(groups)==2
    head = torch.nn.Linear(4, 10)
    _,_,spared = loss_of('sigmoid', head, torch.arange(1, 11))
    assert spared[0] is head.bias and torch.allclose(head.bias, torch.tensor(-np.log(9.), dtype=torch.float32))

def test_all_networks_see_as_many_batches():
    steps = {imbalance: len(draw_of(dict(part='losses', imbalance=imbalance), 0, digits())[0]) for imbalance in (1, 10, 50)}
    assert len(set(steps.values()))==3 # sets of different sizes
    assert tail_networks.BATCH*tail_networks.BATCHES<=12_406<tail_networks.BATCH*(tail_networks.BATCHES+1)

def test_the_equal_set_has_the_size_of_the_tail():
    tail,equal = (draw_of(dict(part=part, imbalance=10), 3, digits())[0] for part in ('losses', 'equal'))
    assert 0<=len(tail)-len(equal)<10 and class_counts(equal).unique().numel()==1

def test_heads_leave_network_and_features_alone(of, heads):
    (learner,_,found),(_,state,before) = of,heads
    assert all(torch.equal(v, state[k]) for k,v in learner.bare_model.state_dict().items()) # batch statistics too
    assert all(torch.equal(v, before[k]) for k,v in found.items())

def test_heads_that_scale_class_vectors_leave_avh_alone_and_new_ones_do_not(of, heads):
    _,test,found = of
    hsf = np.random.default_rng(0).random(len(test))
    def scores(name):
        head = heads[0][name]
        with torch.no_grad(): return tail_metrics(found['x'], head.weight.detach(), head(found['x']), test.y, hsf)[1]
    joint = scores('joint')
    for name in ('tau', 'tau 1', 'LWS'): torch.testing.assert_close(scores(name).avh, joint.avh, rtol=1e-5, atol=1e-7)
    assert (scores('cRT').avh-joint.avh).abs().max()>1e-3
    assert torch.equal(scores('tau 1').pred, angles(found['x'], found['w']).argmin(1)) # the smallest angle decides

def test_tau_is_not_chosen_on_the_test_set(of):
    _,_,found = of
    other = {**found, 'x': torch.randn_like(found['x']), 'logits': torch.zeros_like(found['logits'])}
    assert make_head('tau', other)[1]==make_head('tau', found)[1]

def test_put_right_by_a_loop(of, heads):
    _,test,found = of
    hsf = np.random.default_rng(0).random(len(test))
    with torch.no_grad():
        a,b = (tail_metrics(found['x'], h.weight.detach(), h(found['x']), test.y, hsf)[1]
            for h in (heads[0][n] for n in ('joint', 'cRT')))
    fixed = [i for i in range(len(test)) if a.pred[i]!=test.y[i] and b.pred[i]==test.y[i]]
    expected = len(fixed)/len(test),sum(b.avh[i]<a.avh[i] for i in fixed)/max(1, len(fixed)),(b.avh<a.avh).float().mean()
    assert list(put_right(a, b, test.y).values())==pytest.approx([float(e) for e in expected])

def test_a_run_is_trained_once_and_its_heads_read_its_features(tmp_path, monkeypatch):
    monkeypatch.setenv('AVH_RUNS', str(tmp_path/'runs')); monkeypatch.setenv('AVH_RESULTS', str(tmp_path/'results'))
    test = digits()[torch.arange(0, len(digits()), 9)]
    monkeypatch.setattr(tail_networks, 'photographs', lambda: (digits(), test, np.random.default_rng(0).random(len(test))))
    monkeypatch.setattr(tail_networks, 'cifar10', lambda split: digits() if split=='train' else test)
    calls = []
    def quick(config, seed, device='cpu'):
        calls.append(config)
        return train_tail(config, seed, device, network=small_cnn, **{**QUICK, 'checkpoint': None})
    monkeypatch.setattr(tail_networks, 'train_tail', quick)
    plain = run(CONFIG, 0)
    heads = {h: run(dict(CONFIG, part='heads', head=h), 0) for h in ('joint', 'cRT', 'tau')}
    assert calls==[CONFIG]
    assert heads['joint']['accuracy']==pytest.approx(plain['accuracy']) and heads['joint']['fixed']==0
    assert {'fixed', 'fixed lower', 'lower'}<=set(heads['cRT']) and 'tau' in heads['tau'] and 'tau' not in heads['cRT']
    assert [plain[f'count_{c}'] for c in range(10)]==class_counts(draw_of(CONFIG, 0)[0]).tolist()
    assert {'accuracy', 'avh between', 'confidence within', 'vector_9', 'recall_0', 'rho_norm', 'fisher'}<=set(plain)
    assert len(read_ranks(ranks_file('longtail', dict(CONFIG, part='heads', head='cRT'), 0)))==len(test)

def test_the_runs_of_each_part_share_what_is_compared():
    of_part = {}
    for c,s in grid(): of_part.setdefault(c['part'], set()).add(s)
    assert all({0, 1, 2}<=seeds for seeds in of_part.values())
    assert len(grid(seeds=1, part='mild'))==2 and all(c['order']=='reversed' for c,_ in grid(part='reversed'))
