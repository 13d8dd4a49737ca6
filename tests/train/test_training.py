"The one training loop: what it draws, saves and refuses, on trainers of three lines."
import json, math
import pytest, torch
from torch import nn
from avh_nb.core import seeded
from avh_nb.data.images import Images
from avh_nb.train.checkpoint import Keeper, LastRound, SourceValidation, checkpoint_info, load_checkpoint, save_checkpoint
from avh_nb.train.classifier import Adapted, as_classifier
from avh_nb.train.learner import Learner
from avh_nb.train.models import small_cnn
from avh_nb.train.training import Training, hold_out

class Walk(Training):
    "A weight that takes random steps, and a row before the first round"
    first = 1
    def __init__(self, rounds=4, losses=None, **kwargs):
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.optimizer,self.losses,self.log = torch.optim.SGD(self.model.parameters(), .5, momentum=.9),losses or {},[]
        super().__init__(rounds, 3, **{**dict(seed=0, identity=dict(steps=3), progress=False), **kwargs})
    def parts(self): return self.model,self.optimizer,None
    def begin(self): self.history[:] = [dict(validation=0.)]
    def extra(self): return dict(log=self.log)
    def restore(self, info): self.log = info['log']
    def updates(self, generator):
        for i in range(3):
            step = torch.rand((), generator=generator)+torch.rand(()) # of both generators
            with torch.no_grad(): self.model.weight += step
            yield self.losses.get((self.done(), i), step.item())
    def report(self, loss):
        self.log.append(loss)
        return dict(loss=loss, validation=-abs(len(self.history)-2.))

def weights(t): return t.model.weight.item()

def test_what_a_round_draws_follows_from_seed_and_round():
    t = Walk(seed=7).fit()
    expected = 0.
    for r in range(1, 5):
        g = seeded(7, r)
        for _ in range(3): expected += (torch.rand((), generator=g)+torch.rand(())).item()
    assert weights(t)==pytest.approx(expected, rel=1e-6)
    assert weights(Walk(seed=8).fit())!=weights(t)

@pytest.mark.parametrize('rule', [LastRound(), SourceValidation()], ids=lambda r: r.name)
@pytest.mark.parametrize('stop', range(4))
def test_a_run_that_stops_anywhere_ends_as_if_it_had_not(tmp_path, rule, stop):
    whole,path = Walk(selection=rule).fit(),tmp_path/'run.safetensors'
    class Killed(Walk):
        def updates(self, generator):
            for i,loss in enumerate(super().updates(generator)):
                if self.done()==stop and i==1: raise KeyboardInterrupt
                yield loss
    cut = Killed(selection=rule, checkpoint=path)
    with pytest.raises(KeyboardInterrupt): cut.fit()
    assert checkpoint_info(path)['history']==whole.history[:stop+1]
    resumed = Walk(selection=rule, checkpoint=path).fit()
    assert resumed.history==whole.history and resumed.log==whole.log and weights(resumed)==weights(whole)
    assert resumed.result==whole.result and not list(tmp_path.glob('*.part'))
    again = Walk(selection=rule, checkpoint=path).fit() # nothing is left to do
    assert again.history==whole.history and weights(again)==weights(whole)

def test_the_rule_may_pick_the_model_as_it_came(tmp_path):
    class First(SourceValidation):
        name = 'first'
        def pick(self, history): return 0
    for kwargs in (dict(), dict(checkpoint=tmp_path/'run.safetensors')):
        t = Walk(selection=First(), **kwargs).fit()
        assert weights(t)==0 and t.result==dict(validation=0., selection='first')

@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_before_its_row(tmp_path, bad):
    t = Walk(losses={(2, 1): bad}, checkpoint=tmp_path/'run.safetensors')
    with pytest.raises(ValueError, match='round 3: the loss is not finite; take a lower learning rate than 0.5'): t.fit()
    assert len(t.history)==3 and len(checkpoint_info(tmp_path/'run.safetensors')['history'])==3

def test_the_peak_of_a_schedule_is_named():
    images = Images(torch.zeros(64, 1, 8, 8, dtype=torch.uint8), torch.zeros(64).long(), tuple('0123456789'), 'black')
    for schedule in ('cycle', 'steps'):
        model = small_cnn()
        with torch.no_grad(): model.head.bias[0] = torch.nan
        with pytest.raises(ValueError, match=r'epoch 1: the loss is not finite; take a lower learning rate than 0\.3,'):
            Learner(model, images, 2, lr=.3, schedule=schedule, batch_size=16, progress=False).fit()

def test_a_learner_that_diverges_keeps_its_last_epoch(tmp_path):
    g = torch.Generator().manual_seed(0)
    images = Images(torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8, generator=g), torch.arange(64)%10, tuple('0123456789'), 'noise')
    class Spoil:
        def after_epoch(self, learner):
            if learner.epoch==2:
                with torch.no_grad(): learner.bare_model.head.weight.fill_(torch.nan)
    torch.manual_seed(0)
    learner = Learner(small_cnn(), images, 4, batch_size=16, callbacks=[Spoil()], checkpoint=tmp_path/'run.safetensors', progress=False)
    with pytest.raises(ValueError, match='epoch 3: the loss is not finite'): learner.fit()
    assert [h['epoch'] for h in checkpoint_info(tmp_path/'run.safetensors')['history']]==[1, 2]

def test_another_run_is_refused(tmp_path):
    Walk(checkpoint=tmp_path/'run.safetensors').fit()
    with pytest.raises(ValueError, match='is of a run with steps 3, expected 4'):
        Walk(identity=dict(steps=4), checkpoint=tmp_path/'run.safetensors').fit()

def test_a_second_fit_changes_nothing():
    t = Walk().fit()
    before = json.dumps(t.history),weights(t)
    t.fit()
    assert (json.dumps(t.history), weights(t))==before

@pytest.mark.parametrize('n,share,expected', [(10, .2, 2), (10, .01, 1), (10, .99, 9), (2, .5, 1), (10, .25, 2)])
def test_no_part_is_empty(n, share, expected):
    held,used = hold_out(n, share, 0)
    assert len(held)==expected and sorted([*held.tolist(), *used.tolist()])==list(range(n))
    assert torch.equal(held, torch.randperm(n, generator=torch.Generator().manual_seed(0))[:expected])

# Checkpoints

@pytest.mark.parametrize('make', [lambda p: torch.optim.SGD(p, .1, momentum=.9), lambda p: torch.optim.AdamW(p, .1)], ids=['SGD', 'AdamW'])
def test_a_checkpoint_brings_everything_back(tmp_path, make):
    def step(model, optimizer, scheduler):
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step(); optimizer.zero_grad(); scheduler.step()
    def made():
        torch.manual_seed(0)
        model = nn.Linear(3, 2).to(memory_format=torch.preserve_format)
        optimizer = make(model.parameters())
        return model,optimizer,torch.optim.lr_scheduler.StepLR(optimizer, 1, .5)
    one,two = made(),made()
    step(*one); save_checkpoint(tmp_path/'a', *one, dict(note='x'))
    assert load_checkpoint(tmp_path/'a', *two)==dict(note='x')
    step(*one); step(*two)
    for a,b in zip(one[0].parameters(), two[0].parameters()): assert torch.equal(a, b)
    assert one[1].param_groups[0]['lr']==two[1].param_groups[0]['lr']

def test_of_the_last_round_no_copy_is_kept(tmp_path):
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), .1)
    for rule,files in ((LastRound(), 1), (SourceValidation(), 2)):
        folder = tmp_path/rule.name
        Keeper(rule, folder/'run.safetensors').keep(model, optimizer, None, [dict(validation=0.)])
        assert len(list(folder.iterdir()))==files

# Any classifier

def test_adapters_leave_modes_and_hooks_as_they_were():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 3))
    model[1].eval()
    found = as_classifier(model, torch.randn(2, 4))
    assert isinstance(found, Adapted) and found.head is model[2]
    assert [m.training for m in model]==[True, False, True] and not model[2]._forward_pre_hooks
    x = torch.randn(5, 4, requires_grad=True)
    found(x).sum().backward() # gradients pass
    assert x.grad is not None and found.features(x).requires_grad

def test_a_model_of_the_contract_is_taken_as_it_is():
    model = small_cnn()
    before = {k: v.clone() for k,v in model.state_dict().items()}
    assert as_classifier(model, torch.randn(2, 1, 8, 8)) is model
    for k,v in model.state_dict().items(): assert torch.equal(v, before[k]) # running statistics too
