"The protocol sees what it may see and no more."
import pytest, torch
from torch import nn
from avh_nb.data.domain import Domain
from avh_nb.transfer.leave_one_out import ERM, DomainAlgorithm, DomainTrainer
from avh_nb.loss.angular import AVHLoss
from avh_nb.loss.family import SoftmaxLoss, neighbour
from avh_nb.loss.margin import MarginSoftmax
from avh_nb.train.checkpoint import LastRound, TargetOracle, TrainingDomainValidation

CLASSES = ('a', 'b', 'c')

def toy(name, n=40, shift=0., seed=0):
    "Three clouds; the first column numbers the samples"
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n)%3
    x = torch.randn(n, 4, generator=g)+4*torch.eye(4)[1+y]+shift
    x[:, 0] = torch.arange(n)
    return Domain(lambda index, generator: x[index], y, CLASSES, name)

class Recorder(DomainAlgorithm):
    "Keeps what it is given, and counts its updates in a weight"
    def __init__(self, script=None):
        super().__init__()
        self.seen,self.script,self.at = [],script or {},nn.Parameter(torch.zeros(()))
        self.optimizer = torch.optim.SGD([self.at], 1.)
    def update(self, minibatches):
        self.seen.append([(x[:, 0].int().tolist(), y.tolist()) for x,y in minibatches])
        with torch.no_grad(): self.at += 1
        return 0.
    def predict(self, x):
        return torch.eye(3)[x[:, 0].long()%3]

def test_only_the_training_part_of_training_domains_is_learnt_from():
    algorithm = Recorder()
    t = DomainTrainer(algorithm, [toy('one'), toy('two', 25)], [toy('three', 30)], checks=3, steps=7, batch_size=6, validation=.2,
        progress=False).fit()
    assert len(algorithm.seen)==21 and all(len(step)==2 and all(len(i)==len(y)==6 for i,y in step) for step in algorithm.seen)
    for domain,(held,used) in enumerate(zip(t.held_out, t.used)):
        learnt = {i for step in algorithm.seen for i in step[domain][0]}
        assert learnt==set(used.tolist()) and not learnt & set(held.tolist())
        assert len(held)==round(.2*len(t.train[domain]))
        assert all(label==i%3 for step in algorithm.seen for i,label in zip(*step[domain])) # labels stay with their samples
    assert [h['step'] for h in t.history]==[7, 14, 21]

class Scripted(Recorder):
    "Right on so large a share of the seen and the unseen domain as the script says for the current check"
    def predict(self, x):
        seen,unseen = self.script[int(self.at)]
        unseen_here = (x[:, 0]>=1000).all()
        right = torch.arange(len(x))<round((unseen if unseen_here else seen)*len(x))
        y = x[:, 0].long()%3
        return torch.eye(3)[torch.where(right, y, (y+1)%3)]

def scripted(selection):
    unseen = toy('unseen', 30)
    far = Domain(lambda i, g: unseen.inputs(i, g)+torch.tensor([1002., 0, 0, 0]), unseen.y, CLASSES, 'unseen')
    script = {1: (.5, .9), 2: (.9, .2), 3: (.7, .5)}
    return DomainTrainer(Scripted(script), [toy('one', 50)], [far], checks=3, steps=1, selection=selection, progress=False).fit()

@pytest.mark.parametrize('rule,check', [(None, 2), (TrainingDomainValidation(), 2), (LastRound(), 3), (TargetOracle(), 1)],
    ids=['default', 'validation', 'last', 'oracle'])
def test_each_rule_ends_with_its_check(rule, check):
    t = scripted(rule)
    assert t.result['step']==check and t.algorithm.at.item()==check # its weights too
    assert t.result['selection']==(rule or TrainingDomainValidation()).name
    assert t.result['accuracy']==pytest.approx({1: .9, 2: .2, 3: .5}[check], abs=.02)

def made(seed=0, loss=None, **kwargs):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(.2))
    scaled = lambda d: Domain(lambda i, g: d.inputs(i, g)*torch.tensor([0., 1, 1, 1]), d.y, CLASSES, d.name)
    return DomainTrainer(ERM(body, loss or AVHLoss(8, 3, 3.), 40, lr=.1), [scaled(toy('one')), scaled(toy('two', shift=.5))],
        [scaled(toy('three', shift=1.))], **{**dict(checks=4, steps=10, batch_size=8, progress=False), **kwargs})

@pytest.mark.parametrize('loss', [lambda: SoftmaxLoss(8, 3), lambda: SoftmaxLoss(8, 3, .1), lambda: AVHLoss(8, 3),
    lambda: AVHLoss(8, 3, learn_scale=True), *(lambda name=name: neighbour(name, 8, 3, 4.) for name in ('cosine', 'cosface', 'arcface')),
    lambda: MarginSoftmax(8, 3, 1)])
def test_every_loss_learns_behind_the_same_interface(loss):
    t = made(loss=loss()).fit()
    assert t.result['validation']>.9 and t.result['accuracy']>.6
    assert t.algorithm.loss.weight.shape==(3, 8) and t.accuracy(t.test[0])[0]==t.result['accuracy']

def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path):
    whole = made().fit()
    cut = made(checkpoint=tmp_path/'run.safetensors')
    update,calls = cut.algorithm.update,[]
    def stops(minibatches):
        calls.append(1)
        if len(calls)==25: raise KeyboardInterrupt
        return update(minibatches)
    cut.algorithm.update = stops
    with pytest.raises(KeyboardInterrupt): cut.fit()
    resumed = made(checkpoint=tmp_path/'run.safetensors').fit()
    assert resumed.history==whole.history and len(resumed.history)==4
    for a,b in zip(resumed.algorithm.state_dict().values(), whole.algorithm.state_dict().values()): assert torch.equal(a, b)
    with pytest.raises(ValueError, match='is of a run with algorithm'):
        made(loss=AVHLoss(8, 3, 4.), checkpoint=tmp_path/'run.safetensors').fit()

def test_runs_whose_names_differ_after_the_last_dot_are_two(tmp_path):
    def run(lr):
        trainer = made(checkpoint=tmp_path/f'erm_{lr}')
        for group in trainer.algorithm.optimizer.param_groups: group['weight_decay'] = lr
        trainer.keeper.identity['lr'] = lr
        return trainer.fit().algorithm
    one,two,again = run(.1),run(.2),run(.1)
    for a,b in zip(one.parameters(), again.parameters()): assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a,b in zip(one.parameters(), two.parameters()))

@pytest.mark.parametrize('role,at', [('train', 1), ('test', 0)])
def test_other_domains_of_the_same_name_and_size_are_refused(tmp_path, role, at):
    made(checkpoint=tmp_path/'run.safetensors').fit()
    other = made(checkpoint=tmp_path/'run.safetensors')
    d = getattr(other, role)[at]
    inputs = d.inputs
    d.inputs = lambda i, g: inputs(i, g).flip(0) if len(i)==len(d) else inputs(i, g)
    with pytest.raises(ValueError, match=f'is of a run that differs in its inputs of {d.name}'): other.fit()
    other = made(checkpoint=tmp_path/'run.safetensors')
    getattr(other, role)[at].y = d.y.roll(1)
    with pytest.raises(ValueError, match=f'is of a run that differs in its labels of {d.name}'): other.fit()

@pytest.mark.parametrize('steps', [1, 2, 3, 4])
def test_few_updates_are_a_training_too(steps):
    torch.manual_seed(0)
    erm = ERM(nn.Linear(4, 8), SoftmaxLoss(8, 3), steps, lr=.1)
    before = [p.clone() for p in erm.parameters()]
    DomainTrainer(erm, [toy('one')], [toy('two')], checks=1, steps=steps, progress=False).fit()
    assert all(not torch.equal(a, b) for a,b in zip(before, erm.parameters()))

def test_errors_name_the_argument():
    one,two = toy('one'),toy('two')
    unlabelled = Domain(one.inputs, torch.full((40,), -1), CLASSES, 'unlabelled')
    other = Domain(one.inputs, one.y, ('x', 'y', 'z'), 'other')
    for train,test,message in (([], [two], 'train: expected at least one'), ([one], [], 'test: expected at least one'),
        ([one, two], [two], 'not trained on, got two'), ([one, one], [two], 'train: expected domains of different names, got one, one'),
        ([unlabelled], [two], 'unlabelled has 40 and lacks 40'), ([one], [other], 'expected the classes of one')):
        with pytest.raises(ValueError, match=message): DomainTrainer(Recorder(), train, test)
    with pytest.raises(ValueError, match='validation: expected above 0'): DomainTrainer(Recorder(), [one], [two], validation=0.)
    for wrong in ('checks', 'steps', 'batch_size'):
        with pytest.raises(ValueError, match=f'{wrong}: expected a whole number of at least 1, got 0'):
            DomainTrainer(Recorder(), [one], [two], **{wrong: 0})
    with pytest.raises(ValueError, match='the loss is not finite'):
        made(loss=AVHLoss(8, 3, 3., weight=torch.full((3,), float('nan')))).fit()
