"A trace belongs to one run: what is of another is refused, and what goes on is said to."
import json, math
import numpy as np, pandas as pd, pytest, torch
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset
from avh_nb.measure.definitions import SCORES
from avh_nb.measure.model import score_model
from avh_nb.watch.trace import RESERVED, epoch_name
from avh_nb.watch.tracker import Tracker, epoch_numbers, read_trace, report, trace_means, write_parquet

def network(classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, classes))

def samples(n=8):
    torch.manual_seed(1)
    return torch.randn(n, 4),torch.arange(n)%3

def batches(n=8, labels=True):
    x,y = samples(n)
    return [(a, b) if labels else a for a,b in zip(x.split(5), y.split(5))]

def heights(tracker): return tracker.trace().groupby('epoch').avh.first().round(6).tolist()

def files(folder): return sorted(p.name for p in folder.iterdir())

@pytest.fixture(params=['memory', 'folder'])
def where(request, tmp_path): return dict(folder=tmp_path/'trace') if request.param=='folder' else {}

# Files

def test_an_epoch_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    frame = pd.DataFrame(dict(avh=[.1, .2], pred=[0, 1]))
    write_parquet(frame, tmp_path/'new'/'epoch-001.parquet')
    def fails(self, path, **kwargs):
        path.write_bytes(b'half of it')
        raise OSError('disk full')
    monkeypatch.setattr(pd.DataFrame, 'to_parquet', fails)
    for epoch in (1, 2):
        with pytest.raises(OSError, match='disk full'): write_parquet(frame*2, tmp_path/'new'/f'epoch-{epoch:03d}.parquet')
    assert files(tmp_path/'new')==['epoch-001.parquet']
    assert read_trace(tmp_path/'new')[['avh', 'pred']].equals(frame)

def test_writers_of_one_file_do_not_meet(tmp_path):
    "Each process writes to a file of its own, and what a killed one left is no part of the trace"
    Tracker(batches(), tmp_path).track(network())
    for left in ('epoch-002.parquet.123.part', 'trace.json.123.part', 'epoch-001.part'): (tmp_path/left).write_text('half of it')
    tracker = Tracker(batches(), tmp_path, resume=True)
    tracker.track(network())
    assert tracker.epochs()==[1, 2] and len(read_trace(tmp_path))==16 and (tmp_path/'epoch-001.part').read_text()=='half of it'

def test_a_home_folder_is_the_users(tmp_path, monkeypatch):
    (tmp_path/'here').mkdir()
    monkeypatch.chdir(tmp_path/'here')
    monkeypatch.setenv('HOME', str(tmp_path/'home')); monkeypatch.setenv('USERPROFILE', str(tmp_path/'home'))
    Tracker(batches(), '~/trace').track(network())
    assert files(tmp_path/'home'/'trace')==['epoch-001.parquet', 'trace.json'] and files(tmp_path/'here')==[]
    assert len(read_trace('~/trace'))==8

@pytest.mark.parametrize('folder', ['file', 'file/within', '/proc/trace'])
def test_a_folder_that_cannot_be_written_to_is_known_at_once(tmp_path, folder):
    (tmp_path/'file').touch()
    with pytest.raises(OSError, match='folder: cannot write to .*give another folder'): Tracker(batches(), tmp_path/folder)

def test_a_stray_file_is_refused_at_once_and_stops_no_training(tmp_path):
    tracker = Tracker(batches(), tmp_path)
    tracker.track(network())
    (tmp_path/'epoch-best.parquet').write_bytes((tmp_path/'epoch-001.parquet').read_bytes())
    tracker.track(network())
    assert tracker.epochs()==[1, 2]
    with pytest.raises(ValueError, match='epoch-best.parquet is no epoch of a trace.*move it'): Tracker(batches(), tmp_path, resume=True)

def test_more_than_a_thousand_epochs_come_in_order(tmp_path):
    tracker = Tracker(batches(), tmp_path)
    for epoch in (2, 999, 1000, 1001): tracker.track(network(), epoch)
    assert read_trace(tmp_path).epoch.unique().tolist()==Tracker(folder=tmp_path, resume=True).epochs()==[2, 999, 1000, 1001]

# One run

def test_another_run_is_refused(tmp_path):
    Tracker(batches(), tmp_path).track(network())
    before = {f: (tmp_path/f).read_bytes() for f in files(tmp_path)}
    with pytest.raises(ValueError, match='holds the trace of a run; give another folder, or resume=True'): Tracker(batches(), tmp_path)
    assert before=={f: (tmp_path/f).read_bytes() for f in files(tmp_path)}
    with pytest.raises(ValueError, match='holds the trace of a run'): Tracker(batches(), tmp_path.parent) # a part of which it would be

def test_a_run_goes_on(where):
    tracker = Tracker(batches(), **where)
    tracker.track(network(seed=1)); tracker.track(network(seed=2))
    tracker = Tracker(batches(), **where, resume=True) if where else tracker
    tracker.track(network(seed=3)); tracker.track(network(seed=4), epoch=7)
    assert tracker.epochs()==[1, 2, 3, 7]
    expected = [score_model(network(seed=s), batches(), progress=False).avh[0].item() for s in (1, 2, 3, 4)]
    assert heights(tracker)==pytest.approx(expected, abs=1e-6)

def test_a_trainer_that_goes_on_from_an_earlier_checkpoint(where):
    tracker = Tracker(batches(), **where, resume=True)
    for epoch in range(5): tracker.track(network(seed=epoch), epoch)
    other = Tracker(batches(), **where, resume=True) if where else tracker
    other.track(network(seed=10), epoch=4) # its last checkpoint was written before its last trace
    with pytest.warns(UserWarning, match='epoch 2: .*epochs 3 to 4 are dropped'): other.track(network(seed=11), epoch=2)
    expected = [score_model(network(seed=s), batches(), progress=False).avh[0].item() for s in (0, 1, 11)]
    assert other.epochs()==[0, 1, 2] and heights(other)==pytest.approx(expected, abs=1e-6)

def test_epochs_come_in_order_and_are_looked_at_before_anything_is_scored(where):
    tracker = Tracker(batches(), **where)
    tracker.track(network(), np.int64(3))
    def never(*args): raise AssertionError('it was scored')
    model = network()
    model.register_forward_pre_hook(never)
    for epoch in (3, 2, 0, -1, 4.5, True, np.float64(4), '4'):
        with pytest.raises(ValueError, match='^epoch: expected'): tracker.track(model, epoch)
        with pytest.raises(ValueError, match='^epoch: expected'), tracker.listen(model, epoch=epoch): raise AssertionError('it was let in')
    assert tracker.epochs()==[3]

def test_of_two_trackers_in_a_folder_the_earlier_is_told(tmp_path):
    first,second = Tracker(batches(), tmp_path),Tracker(batches(), tmp_path)
    second.track(network(seed=2))
    with pytest.raises(ValueError, match='another tracker has taken .* over'): first.track(network(seed=1))
    third = Tracker(batches(), tmp_path, resume=True)
    with pytest.raises(ValueError, match='another tracker has taken .* over'): second.track(network(seed=2))
    third.track(network(seed=3))
    assert third.epochs()==[1, 2]

def test_a_trace_of_an_older_version_goes_on(tmp_path):
    Tracker(batches(), tmp_path).track(network(), train_loss=1.)
    (tmp_path/'trace.json').unlink()
    assert report(read_trace(tmp_path))['epochs']==1
    for other,expected in ((batches(9), '8 samples'), (batches()[::-1], 'the labels'), (batches(labels=False), 'the labels')):
        with pytest.raises(ValueError, match=f'data: expected {expected}'): Tracker(other, tmp_path, resume=True).track(network())
        (tmp_path/'trace.json').unlink()
    with pytest.raises(ValueError, match='model: expected 3 classes'): Tracker(batches(), tmp_path, resume=True).track(network(4))
    tracker = Tracker(batches(), tmp_path, resume=True)
    tracker.track(network(), train_loss=2.)
    assert tracker.trace().train_loss.tolist()==[1.]*8+[2.]*8 and json.loads((tmp_path/'trace.json').read_text())['samples']==8

def test_a_start_that_was_killed_binds_nobody(tmp_path):
    "trace.json is written first; where no epoch followed, another held-out set may be"
    Tracker(batches(), tmp_path).track(network())
    (tmp_path/epoch_name(1)).unlink()
    for resume in (True, False):
        Tracker(batches(5), tmp_path, resume=resume).track(network(4))
        (tmp_path/epoch_name(1)).unlink()

def test_a_note_that_is_broken_is_named(tmp_path):
    Tracker(batches(), tmp_path).track(network())
    (tmp_path/'trace.json').write_text('{')
    with pytest.raises(ValueError, match='trace.json is not JSON .*remove it'): Tracker(batches(), tmp_path, resume=True)

# One held-out set

def test_another_held_out_set_is_refused(where):
    tracker = Tracker(batches(), **where)
    tracker.track(network())
    x,y = samples()
    shuffled = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    for data,model,said in ((batches(11), network(), 'expected 8 samples, .*, got 11'),
        (batches(labels=False), network(), 'expected the labels .*, got none'),
            ([(x[shuffled], y[shuffled])], network(), 'the same in another order.*shuffle=False'),
            ([(x, (y+1)%3)], network(), 'got other labels'),
            (batches(), network(4), 'expected 3 classes, .*, got 4')):
        tracker.data = data
        with pytest.raises(ValueError, match=said): tracker.track(model)
        with pytest.raises(ValueError, match=said), tracker.listen(model.eval(),
            labels=torch.cat([b[1] for b in data]) if isinstance(data[0], tuple) else None):
            for b in data: model(b[0] if isinstance(b, tuple) else b)
    assert tracker.epochs()==[1]

def test_without_labels_the_number_of_samples_is_compared(where):
    tracker = Tracker(batches(labels=False), **where)
    tracker.track(network())
    for data,said in ((batches(9, labels=False), '8 samples'), (batches(), 'no labels, .*, got labels')):
        tracker.data = data
        with pytest.raises(ValueError, match=said): tracker.track(network())

def test_a_loader_that_shuffles_is_refused_at_once():
    data = TensorDataset(*samples())
    for loader in (DataLoader(data, shuffle=True), DataLoader(data, sampler=SubsetRandomSampler([0, 1]))):
        with pytest.raises(ValueError, match='data: .*one that shuffles: give it shuffle=False'): Tracker(loader)
    with pytest.raises(ValueError, match='data: .*read every epoch, got generator'): Tracker(b for b in batches())
    Tracker(DataLoader(data)).track(network())

def test_labels_are_of_all_samples_or_of_none():
    for data in ([*batches(5), batches(labels=False)[0]], [batches(labels=False)[0], *batches(5)]):
        with pytest.raises(ValueError, match='label'): Tracker(data).track(network())

def test_each_of_several_held_out_sets_has_a_trace(tmp_path):
    frame = lambda n: score_model(network(), batches(n), progress=False).to_frame()
    for tracker in (Tracker(), Tracker(folder=tmp_path)):
        for epoch in range(2):
            for name,n in (('a', 8), (0, 5)): tracker.of(name).keep(frame(n), epoch)
        assert {k: len(t.trace()) for k,t in tracker.sets.items()}=={'a': 16, '0': 10} and tracker.of(None) is tracker
        with pytest.raises(ValueError, match='of the held-out sets a, 0'): tracker.trace()
        for name in ('../a', 'a/b', '', '.', '..'):
            with pytest.raises(ValueError, match='name: expected that of a folder'): tracker.of(name)
    with pytest.raises(FileNotFoundError, match='but in 0, a'): read_trace(tmp_path)
    with pytest.raises(ValueError, match='holds the trace of a run'): Tracker(folder=tmp_path)
    again = Tracker(folder=tmp_path, resume=True)
    again.of('a').keep(frame(8))
    assert again.of('a').epochs()==[0, 1, 2]

# Logged numbers

def test_a_number_named_like_a_score_is_refused_before_anything_is_scored(where):
    tracker,model = Tracker(batches(), **where),network()
    def never(*args): raise AssertionError('it was scored')
    handle = model.register_forward_pre_hook(never)
    for name in set(RESERVED)-{'epoch'}: # the number of the epoch is an argument
        said = f'^{name}: .*log the number under another, such as train_{name}='
        with pytest.raises(ValueError, match=said): tracker.track(model, **{name: 2.5})
        with pytest.raises(ValueError, match=said), tracker.listen(model, **{name: 2.5}): raise AssertionError('it was let in')
    assert tracker.epochs()==[]
    handle.remove()
    tracker.track(model, train_loss=torch.tensor(2.5, requires_grad=True))
    assert tracker.trace().train_loss.tolist()==[2.5]*8

def test_names_of_columns_stay_what_they_are(where):
    "A score of one's own cannot be logged, nor what was logged become a score"
    frame = score_model(network(), batches(), progress=False).to_frame().assign(largest=1.)
    tracker = Tracker(**where)
    tracker.keep(frame, lr=.1)
    with pytest.raises(ValueError, match='largest: the scores have a column of this name'): tracker.keep(frame, largest=3.)
    with pytest.raises(ValueError, match='lr: a logged number and a score'): tracker.keep(frame.assign(lr=2.))
    assert 'lr' not in frame and tracker.epochs()==[1]

@pytest.mark.parametrize('value', ['high', None, torch.ones(2), [1.]])
def test_what_is_no_number_is_not_logged(value):
    with pytest.raises(ValueError, match='^lr: expected a number, got'): Tracker(batches()).track(network(), lr=value)

# Models as they come

def compiled(model):
    model = torch.compile(model.eval(), backend='eager')
    with torch.no_grad(): model(samples()[0]) # validated before: hooks put on now would pass unheard
    return model

def compiled_in_place(model):
    model.eval().compile(backend='eager')
    with torch.no_grad(): model(samples()[0])
    return model

@pytest.mark.parametrize('wrap', [compiled, compiled_in_place, nn.DataParallel, nn.Module.eval, lambda m: m.double().float()])
@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_models_are_tracked_as_they_come(wrap, mode):
    expected = score_model(network(), batches(), progress=False).to_frame()
    model,tracking,listening = wrap(network()),Tracker(batches()),Tracker()
    with mode():
        for _ in range(2):
            tracking.track(model)
            model.eval()
            with listening.listen(model, labels=samples()[1].numpy()):
                for x,_ in batches(): model(x)
    for tracker in (tracking, listening):
        for _,trace in tracker.trace().groupby('epoch'):
            for k in expected: np.testing.assert_allclose(trace[k], expected[k], rtol=1e-5, atol=1e-6)
            assert trace.label.tolist()==samples()[1].tolist()

def test_labels_as_arrays():
    tracker = Tracker([(x, y.numpy()) for x,y in batches()])
    tracker.track(network())
    assert tracker.trace().label.tolist()==samples()[1].tolist()

def test_a_head_that_starts_at_zero_does_not_stop_a_training(where):
    model,tracker = network(),Tracker(batches(), **where)
    nn.init.zeros_(model[2].weight)
    with pytest.warns(UserWarning): tracker.track(model, epoch=0)
    for epoch in (1, 2, 3): tracker.track(network(seed=epoch), epoch)
    assert tracker.trace().query('epoch==0').avh.isna().all()
    with pytest.warns(UserWarning, match='epoch 0: avh is not finite'): found = tracker.report()
    assert found['avh_plateau']==pytest.approx(report(tracker.trace().query('epoch>0'))['avh_plateau'])

# Loggers

def slow_numbers(frame, logged):
    "The numbers of an epoch, one by one"
    res = dict(logged)
    for name in SCORES:
        values = sorted(v for v in frame[name].tolist() if not math.isnan(v))
        res[f'{name}/mean'] = math.fsum(values)/len(values)
        for q in (5, 50, 95):
            at = (len(values)-1)*q/100
            low,part = int(at),at-int(at)
            res[f'{name}/q{q:02d}'] = values[low]+(part*(values[low+1]-values[low]) if part else 0)
    pairs = list(zip(frame.pred, frame.label, frame.avh))
    res['accuracy'] = sum(p==y for p,y,_ in pairs)/len(pairs)
    for c in {y for _,y,_ in pairs}:
        of_class = [a for _,y,a in pairs if y==c]
        res[f'avh/class {c}'] = sum(of_class)/len(of_class)
    return res

def test_a_logger_gets_the_numbers_of_each_epoch(where):
    "By every way into the trace, after the epoch is kept, with the epoch as step"
    told,model = [],network()
    def log(numbers, step):
        assert step in tracker.epochs()
        told.append((step, numbers))
    tracker = Tracker(batches(), log=log, **where)
    tracker.track(model, epoch=0)
    model.eval()
    with tracker.listen(model, labels=samples()[1], train_loss=torch.tensor(2.5, requires_grad=True)), torch.no_grad():
        for x,_ in batches(): model(x)
    tracker.keep(score_model(model, batches(), progress=False).to_frame().assign(label=samples()[1].numpy()), 7, lr=.1)
    assert [step for step,_ in told]==[0, 1, 7]
    trace = tracker.trace()
    for (epoch,numbers),logged in zip(told, ({}, dict(train_loss=2.5), dict(lr=.1))):
        expected = slow_numbers(trace.query(f'epoch=={epoch}'), logged)
        assert set(numbers)==set(expected)
        for k,v in expected.items(): assert numbers[k]==pytest.approx(v, rel=1e-6), k
        assert all(type(v) is float for v in numbers.values())
        means = trace_means(trace).loc[epoch]
        assert numbers['accuracy']==means.accuracy and numbers['avh/mean']==pytest.approx(means.avh)
        json.dumps(numbers, allow_nan=False)

def test_a_logger_that_fails_costs_nothing(where):
    told = []
    def log(numbers, step):
        told.append(step)
        if step!=2: raise OSError(f'server away at {step}')
    tracker = Tracker(batches(), log=log, **where)
    for epoch in (1, 2, 3):
        if epoch==2: tracker.track(network(seed=epoch))
        else:
            with pytest.warns(UserWarning, match=f'log: OSError: server away at {epoch}; epoch {epoch} is in the trace'):
                tracker.track(network(seed=epoch))
    assert told==[1, 2, 3]==tracker.epochs() and len(tracker.trace())==24
    def stop(numbers, step): raise KeyboardInterrupt
    tracker.log = stop
    with pytest.raises(KeyboardInterrupt): tracker.track(network())
    assert tracker.epochs()==[1, 2, 3, 4]

def test_what_is_not_kept_is_not_logged(where):
    told = []
    tracker = Tracker(batches(), log=lambda numbers, step: told.append(step), **where)
    tracker.track(network(), 3)
    for wrong in (lambda: tracker.track(network(), 2), lambda: tracker.track(network(), avh=1.), lambda: tracker.track(network(4))):
        with pytest.raises(ValueError): wrong()
    assert told==[3]

def test_of_several_sets_the_name_stands_before_each_number(where):
    told = []
    tracker = Tracker(log=lambda numbers, step: told.append((step, set(numbers))), **where)
    frame = score_model(network(), batches(), progress=False).to_frame()
    for name in ('a', 'b'): tracker.of(name).keep(frame)
    names = set(epoch_numbers(frame))
    assert told==[(1, {f'{name}/{k}' for k in names}) for name in ('a', 'b')]

class TakesItByPosition:
    def __call__(self, numbers, step): self.said = step

@pytest.mark.parametrize('log', [TakesItByPosition(), lambda numbers, **kwargs: None, {}.update])
def test_a_logger_is_anything_that_takes_numbers_and_a_step(log): assert Tracker(log=log).log is log

@pytest.mark.parametrize('log', [3, 'wandb', lambda numbers: None, lambda numbers, epoch: None, lambda numbers, step, more: None])
def test_what_cannot_be_called_so_is_refused_at_once(log):
    with pytest.raises(ValueError, match=r'^log: expected a function that is called as log.numbers, step=epoch., got'): Tracker(log=log)

def test_classes_are_told_up_to_a_number():
    frame = pd.DataFrame(dict(avh=np.linspace(0, 1, 101), pred=0, label=np.arange(101)))
    assert not any('class' in k for k in epoch_numbers(frame)) and 'avh/class 100' in epoch_numbers(frame, classes=101)
    assert epoch_numbers(frame.drop(columns=['label', 'pred']))=={k: v for k,v in epoch_numbers(frame).items() if '/' in k}

def test_what_is_no_finite_number_is_left_out():
    frame = pd.DataFrame(dict(avh=[np.nan]*3, loss=[1., np.inf, np.inf], norm=[1., np.nan, 3.], pred=-1, label=0))
    numbers = epoch_numbers(frame, train_loss=math.nan)
    assert not any('avh' in k for k in numbers) and 'train_loss' not in numbers and numbers['norm/mean']==2
    assert set(numbers)=={'norm/mean', 'norm/q05', 'norm/q50', 'norm/q95', 'accuracy'}
