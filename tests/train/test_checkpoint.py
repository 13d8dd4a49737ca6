"A checkpoint belongs to its run: to its settings, its data and its network, and to one file name."
import pytest, torch
from safetensors.torch import save_file
from torch import nn
from avh_nb.data.images import Images, mirror
from avh_nb.train.checkpoint import SourceValidation, checkpoint_info, load_checkpoint, save_checkpoint
from avh_nb.train.learner import Learner
from avh_nb.train.models import small_cnn
from avh_nb.train.training import Training, one_cycle

X = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
Y,CLASSES = torch.arange(64)%10,tuple('0123456789')

def learner(x=X, y=Y, classes=CLASSES, model=None, epochs=2, **kwargs):
    torch.manual_seed(0)
    return Learner(model or small_cnn(), Images(x, y, classes, 'noise'), epochs, **{**dict(batch_size=16, progress=False), **kwargs})

def state(model): return {k: v.clone() for k,v in model.state_dict().items()}
def same(a, b): return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

# The names of its files

class Fixed(Training):
    "A weight that becomes `value` in the first round, which is the best"
    def __init__(self, value, checkpoint, selection=None, **kwargs):
        self.model,self.value = nn.Linear(1, 1, bias=False),value
        nn.init.zeros_(self.model.weight)
        self.optimizer = torch.optim.SGD(self.model.parameters(), .1)
        super().__init__(2, 1, 0, dict(value=value), selection or SourceValidation(), checkpoint, progress=False, **kwargs)
    def parts(self): return self.model,self.optimizer,None
    def updates(self, generator):
        with torch.no_grad(): self.model.weight[:] = self.value+self.done()
        yield 0.
    def report(self, loss): return dict(validation=-len(self.history))

@pytest.mark.parametrize('names', [('run_0.1', 'run_0.2'), ('run.pt', 'run.safetensors'), ('run', 'run.')])
def test_each_checkpoint_has_companions_of_its_own(tmp_path, names):
    one,two = (Fixed(v, tmp_path/n).fit() for v,n in zip((1., 5.), names))
    again = Fixed(1., tmp_path/names[0]).fit() # finished: it takes what was kept
    assert (one.model.weight.item(), two.model.weight.item(), again.model.weight.item())==(1, 5, 1)
    assert {p.name for p in tmp_path.iterdir()}=={*names, *(f'{n}.picked' for n in names)}

def test_a_home_folder_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path/'home')); monkeypatch.chdir(tmp_path)
    Fixed(1., '~/run').fit()
    assert {p.name for p in (tmp_path/'home').iterdir()}=={'run', 'run.picked'} and not (tmp_path/'~').exists()

# Files that are none

def test_a_file_that_is_no_checkpoint_is_named_before_anything_is_loaded(tmp_path):
    path = tmp_path/'run.safetensors'
    learner(checkpoint=path).fit()
    whole = path.read_bytes()
    def refused(message):
        fresh = learner(checkpoint=path)
        before = state(fresh.bare_model)
        with pytest.raises(ValueError, match=f'run.safetensors: {message}'): fresh.fit()
        with pytest.raises(ValueError, match=f'run.safetensors: {message}'): load_checkpoint(path, nn.Linear(1, 1), None, None)
        assert same(state(fresh.bare_model), before) and fresh.history==[]
    for cut in (0, 5, 200, len(whole)-1):
        path.write_bytes(whole[:cut]); refused('not a whole safetensors file .*remove it')
    save_file(dict(weight=torch.ones(3)), path); refused('holds tensors, but no checkpoint of a training')
    save_file(dict(weight=torch.ones(3)), path, metadata=dict(state='{"info": 1}')); refused('holds tensors, but no checkpoint')
    path.unlink(); path.mkdir(); refused('not a whole safetensors file')

def test_without_the_weights_of_the_best_round_it_is_said_what_to_do(tmp_path):
    path = tmp_path/'run.safetensors'
    Fixed(1., path).fit()
    kept = tmp_path/'run.safetensors.picked'
    whole = kept.read_bytes()
    kept.rename(tmp_path/'run.picked.safetensors')
    with pytest.raises(ValueError,
        match=r'run.safetensors.picked, .* is not there; an earlier version kept them in .*run.picked.safetensors: rename it'):
        Fixed(1., path).fit()
    (tmp_path/'run.picked.safetensors').unlink()
    with pytest.raises(ValueError, match=r'run.safetensors.picked, .* is not there; remove .*run.safetensors to begin anew'):
        Fixed(1., path).fit()
    kept.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match='run.safetensors.picked: not a whole safetensors file'): Fixed(1., path).fit()
    save_file(dict(weight=torch.ones(1, 2)), kept)
    with pytest.raises(ValueError, match='run.safetensors.picked: holds the weights of another network'): Fixed(1., path).fit()

# Data and network

OTHERS = {
    'images': dict(x=X.flip(0), y=Y),
    'images with a pixel changed': dict(x=X^(torch.arange(64*64).view(X.shape)==4000).to(torch.uint8), y=Y),
    'labels': dict(y=Y.roll(1)),
    'labels by their names': dict(classes=CLASSES[::-1]),
    'network': dict(model=lambda: small_cnn(width=.5)),
    'network without bias': dict(model=lambda: small_cnn(bias=False)),
    'network of another dtype': dict(model=lambda: small_cnn().double()),
}

@pytest.mark.parametrize('other', OTHERS)
def test_other_data_or_another_network_of_the_same_name_are_refused(tmp_path, other):
    path = tmp_path/'run.safetensors'
    learner(checkpoint=path).fit()
    kwargs = {k: v() if k=='model' else v for k,v in OTHERS[other].items()}
    fresh = learner(checkpoint=path, **kwargs)
    before = state(fresh.bare_model)
    with pytest.raises(ValueError, match=f'run.safetensors is of a run that differs in its {other.split()[0]}; give another file'):
        fresh.fit()
    assert same(state(fresh.bare_model), before)

def test_a_dropout_is_part_of_the_network(tmp_path):
    def network(p):
        model = small_cnn(); model.body.append(nn.Dropout(p)); return model
    path = tmp_path/'run'
    learner(model=network(.1), checkpoint=path).fit()
    with pytest.raises(ValueError, match='differs in its network'): learner(model=network(.2), checkpoint=path).fit()

def test_the_same_data_and_network_go_on_in_silence(tmp_path):
    path,unbroken = tmp_path/'run',learner(epochs=3).fit()
    half = learner(epochs=3, checkpoint=path); half.rounds = 2; half.fit()
    resumed = learner(x=X.clone(), y=Y.clone(), epochs=3, checkpoint=path).fit() # warnings are errors here
    assert same(state(resumed.bare_model), state(unbroken.bare_model))

def test_other_weights_at_the_beginning_are_said(tmp_path):
    "A network that was made without a seed goes on; one that somebody trained is not what comes back"
    path,trained = tmp_path/'run',learner(lr=.01).fit().bare_model
    first = learner(checkpoint=path); first.rounds = 1; first.fit()
    began = checkpoint_info(path)['fingerprints']
    for _ in range(2): # what a run began with is remembered, however often it is taken up
        with pytest.warns(UserWarning,
            match='run is of a run that began with other weights than this network has, and goes on from its own'):
            resumed = learner(model=trained, checkpoint=path).fit()
        assert checkpoint_info(path)['fingerprints']==began
        assert same(state(resumed.bare_model), state(learner().fit().bare_model))
        trained = learner(lr=.02).fit().bare_model

def test_a_checkpoint_of_an_earlier_version_is_taken_with_a_word(tmp_path):
    path = tmp_path/'run'
    half = learner(checkpoint=path); half.rounds = 1; half.fit()
    info = checkpoint_info(path); del info['fingerprints']
    save_checkpoint(path, *half.parts(), info)
    with pytest.warns(UserWarning, match='does not say of which data and network it is'): resumed = learner(checkpoint=path).fit()
    assert same(state(resumed.bare_model), state(learner().fit().bare_model)) and 'images' in checkpoint_info(path)['fingerprints']
    save_checkpoint(path, *learner(model=small_cnn(width=.5)).parts(), info)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match='run: holds the weights of another network'):
        learner(checkpoint=path).fit()

def test_data_are_looked_at_only_for_a_checkpoint():
    class Unseen(Fixed):
        def data(self): raise AssertionError
    assert Unseen(1., None).fit().model.weight.item()==1

def test_more_epochs_are_another_run(tmp_path):
    learner(checkpoint=tmp_path/'run').fit()
    with pytest.raises(ValueError, match='is of a run with epochs 2, expected 4; give another file, or remove this one'):
        learner(epochs=4, checkpoint=tmp_path/'run').fit()

# What cannot be trained

@pytest.mark.parametrize('wrong', [dict(epochs=0), dict(batch_size=0), dict(epochs=1.5)])
def test_counts_are_whole(wrong):
    with pytest.raises(ValueError, match=f'{next(iter(wrong))}: expected a whole number of at least 1'): learner(**wrong)

def test_no_updates_are_refused():
    with pytest.raises(ValueError, match='steps: expected a whole number of at least 1, got 0'): Training(1, 0, 0, {})

@pytest.mark.parametrize('label', [-1, -100, 7])
def test_labels_that_the_head_does_not_know_are_refused(label):
    if label==-100: # nobody can put it into Images but afterwards
        images = Images(X, Y%7, CLASSES, 'noise'); images.y[5] = label
        with pytest.raises(ValueError, match='train: .* got -100 for image 5'): Learner(small_cnn(7), images, 1, batch_size=16)
    else:
        y = (Y%7).masked_fill(torch.arange(64)==5, label)
        with pytest.raises(ValueError, match=f'train: expected labels from 0 to 6, as the head has, got {label} for image 5'):
            learner(y=y, model=small_cnn(7))

@pytest.mark.parametrize('updates', [1, 2, 3, 4, 5])
def test_a_cycle_of_any_length_trains(updates):
    "Up to four updates at the peak, and from five on up and down"
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), .3)
    schedule,rates = one_cycle(optimizer, .3, updates),[]
    for _ in range(updates): rates.append(optimizer.param_groups[0]['lr']); optimizer.step(); schedule.step()
    assert rates==[.3]*updates if updates<5 else rates[0]<rates[1]>rates[4]
    l = learner(x=X[:16*updates], y=Y[:16*updates], epochs=1) if updates<5 else learner(x=X[:16], y=Y[:16], epochs=5)
    before = state(l.bare_model)
    assert not same(before, state(l.fit().bare_model)) and len(l.history)==l.rounds

def test_a_short_cycle_resumes(tmp_path):
    half = learner(x=X[:16], y=Y[:16], epochs=3, checkpoint=tmp_path/'run'); half.rounds = 2; half.fit()
    assert len(learner(x=X[:16], y=Y[:16], epochs=3, checkpoint=tmp_path/'run').fit().history)==3

def test_the_cycle_is_the_one_it_was():
    def rates(make):
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), .1)
        schedule,res = make(optimizer),[]
        for _ in range(40): res.append(optimizer.param_groups[0]['lr']); optimizer.step(); schedule.step()
        return res
    assert rates(lambda o: one_cycle(o, .1, 40))==rates(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, .1, total_steps=40, pct_start=.25))

def test_images_that_do_not_vary_train_to_numbers():
    l = learner(x=torch.full_like(X, 7), augment=mirror).fit()
    assert all(torch.isfinite(torch.tensor(h['loss'])) for h in l.history)
