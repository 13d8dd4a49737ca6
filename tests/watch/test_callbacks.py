"The tracker in loops of others: what it kept is what scoring the model afterwards gives."
import logging
from collections import UserDict
import numpy as np, pytest, torch
from avh_nb.watch.callbacks import learner_callback, lightning_callback, transformers_callback
from avh_nb.data.sets import digits
from avh_nb.loss.angular import AngularLinear
from avh_nb.measure.model import score_model
from avh_nb.train.learner import Learner
from avh_nb.train.models import small_cnn
from avh_nb.watch.tracker import Tracker, read_trace, trace_means

pytestmark = pytest.mark.filterwarnings('ignore') # those libraries warn of many things
logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)

@pytest.fixture(scope='module')
def data():
    train,test = digits().split(.8)
    def loader(d, **kwargs):
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset((d.x/255).float(), d.y), batch_size=128, **kwargs)
    return loader(train, shuffle=True),loader(test),test

def assert_last_epoch_is(tracker, model, loader, y):
    last = tracker.trace().pipe(lambda t: t[t.epoch==t.epoch.max()])
    scores = score_model(model, loader, progress=False).numpy()
    for k in ('avh', 'confidence', 'norm', 'angle', 'entropy'):
        np.testing.assert_allclose(last[k], getattr(scores, k), rtol=1e-4, atol=1e-5)
    assert (last.pred.to_numpy()==scores.pred).all() and (last.label.to_numpy()==y.numpy()).all()

def module(call='itself'):
    import lightning.pytorch as pl
    class Digits(pl.LightningModule):
        def __init__(self): super().__init__(); self.net = small_cnn()
        def forward(self, x): return self.net(x)
        def training_step(self, batch, i): return dict(loss=torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
        def validation_step(self, batch, i): (self if call=='itself' else self.net)(batch[0])
        def configure_optimizers(self): return torch.optim.AdamW(self.parameters(), 2e-3)
    torch.manual_seed(0)
    return Digits()

def fit(module, tracker, data, epochs=2, **kwargs):
    import lightning.pytorch as pl
    ckpt,kwargs = kwargs.pop('ckpt_path', None),{'enable_checkpointing': False, **kwargs}
    trainer = pl.Trainer(max_epochs=epochs, accelerator='cpu', callbacks=[lightning_callback(tracker)], logger=False,
        enable_progress_bar=False, enable_model_summary=False, **kwargs)
    trainer.fit(module, *data[:2], ckpt_path=ckpt)
    return trainer

@pytest.mark.parametrize('call', ['itself', 'a part'])
def test_lightning(data, tmp_path, call):
    m,tracker = module(call),Tracker(folder=tmp_path)
    fit(m, tracker, data)
    assert tracker.epochs()==[1, 2] and tracker.head=='net.head' # the sanity check left no epoch 0
    assert_last_epoch_is(tracker, m, data[1], data[2].y)
    assert trace_means(tracker.trace()).train_loss.is_monotonic_decreasing
    assert not m._forward_pre_hooks and not m.net.head._forward_pre_hooks

def test_lightning_goes_on(data, tmp_path):
    "A second trainer, as after a kill, goes on with the trace where it is told to"
    folder,kwargs = tmp_path/'trace',dict(enable_checkpointing=True, default_root_dir=tmp_path)
    trainer = fit(m := module(), Tracker(folder=folder), data, 2, **kwargs)
    with pytest.raises(ValueError, match='holds the trace of a run; give another folder, or resume=True'): Tracker(folder=folder)
    first = Tracker(folder=folder, resume=True)
    before = first.trace()
    trainer.save_checkpoint(tmp_path/'last.ckpt')
    fit(m := module(), first, data, 3, ckpt_path=tmp_path/'last.ckpt', **kwargs)
    assert first.epochs()==[1, 2, 3] and first.trace().query('epoch<3').equals(before)
    assert_last_epoch_is(first, m, data[1], data[2].y)
    with pytest.warns(UserWarning, match='epoch 1: .*epochs 2 to 3 are dropped'):
        fit(module(), again := Tracker(folder=folder, resume=True), data, 1)
    assert again.epochs()==[1] # from the beginning

@pytest.mark.parametrize('kwargs', [dict(val_check_interval=.5), dict(val_check_interval=.4), dict(check_val_every_n_epoch=2),
    dict(limit_val_batches=2), dict(precision='bf16-mixed'),
    dict(num_sanity_val_steps=0), dict(check_val_every_n_epoch=None, val_check_interval=9)], ids=str)
def test_lightning_validates_as_it_is_told(data, kwargs):
    "One row of scores an epoch, that of its last validation"
    tracker = Tracker()
    fit(module(), tracker, data, 2, **kwargs)
    assert tracker.epochs()==([2] if kwargs.get('check_val_every_n_epoch')==2 else [1, 2])
    assert (tracker.trace().groupby('epoch').size()==(256 if 'limit_val_batches' in kwargs else len(data[2]))).all()
    assert tracker.trace().train_loss.notna().all()

def test_lightning_keeps_what_belongs_to_the_training(data):
    tracker = Tracker()
    trainer = fit(m := module(), tracker, data, 1)
    trainer.validate(m, data[0], verbose=False)
    assert tracker.epochs()==[1] and not m._forward_pre_hooks
    assert_last_epoch_is(tracker, m, data[1], data[2].y)

@pytest.mark.parametrize('named', [False, True])
def test_lightning_with_several_sets(data, tmp_path, named):
    m,tracker,(train,test,images) = module(),Tracker(folder=tmp_path),data
    m.validation_step = lambda batch, i, dataloader_idx=0: m(batch[0])
    few = torch.utils.data.DataLoader(torch.utils.data.Subset(test.dataset, range(50)), batch_size=20)
    fit(m, tracker, (train, dict(few=few, all=test) if named else [few, test]), 2)
    for name,loader,y in (('few' if named else '0', few, images.y[:50]), ('all' if named else '1', test, images.y)):
        assert tracker.of(name).epochs()==[1, 2] and read_trace(tmp_path/name).equals(tracker.sets[name].trace())
        assert_last_epoch_is(tracker.sets[name], m, loader, y)
    assert tracker.epochs()==[]

def vision():
    from transformers import ViTConfig, ViTForImageClassification
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_channels=1, hidden_size=24, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=48, num_labels=10))

def rows(d, n=None): return [dict(pixel_values=(x/255).float(), labels=y) for x,y in zip(d.x[:n], d.y[:n])]

def trainer_of(model, tmp_path, callbacks=(), n=None, sets=None, kind=None, loss=None, **kwargs):
    "A Trainer of two epochs on digits"
    import transformers
    train,test = digits().split(.8)
    kwargs = dict(num_train_epochs=2, per_device_train_batch_size=128, per_device_eval_batch_size=100, eval_strategy='epoch',
        logging_strategy='epoch', save_strategy='no',
        report_to=[], use_cpu=True, disable_tqdm=True, seed=0) | kwargs
    return (kind or transformers.Trainer)(model, transformers.TrainingArguments(str(tmp_path/'out'), **kwargs),
        train_dataset=rows(train, n), eval_dataset=sets or rows(test, n),
        callbacks=list(callbacks), compute_loss_func=loss)

def test_transformers(data, tmp_path):
    vit,tracker,test = vision(),Tracker(folder=tmp_path/'trace'),data[2]
    trainer_of(vit, tmp_path, [transformers_callback(tracker)]).train()
    assert tracker.epochs()==[1, 2] and tracker.head=='classifier'
    batches = [dict(pixel_values=(test.x[i]/255).float(), labels=test.y[i]) for i in torch.arange(len(test)).split(100)]
    assert_last_epoch_is(tracker, vit, batches, test.y)
    assert not vit._forward_pre_hooks and not vit.classifier._forward_pre_hooks

def test_neither_library_is_needed_to_import(tmp_path):
    import subprocess, sys
    code = ("import sys; import avh_nb.watch.callbacks; "
        "print(any(m in sys.modules for m in ('lightning', 'pytorch_lightning', 'transformers')))")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip()=='False'


def test_labels_are_found_in_any_mapping(data):
    "Tokenisers give mappings that are no dict"
    class Net(torch.nn.Module):
        def __init__(self): super().__init__(); self.net = small_cnn()
        def forward(self, pixels): return self.net(pixels)
    test = data[2]
    tracker = Tracker([UserDict(pixels=test.x/255, labels=test.y)])
    tracker.track(Net())
    assert tracker.trace().label.tolist()==test.y.tolist()

def with_old_weight_norm(net):
    with pytest.warns(FutureWarning): net.head = torch.nn.utils.weight_norm(net.head)

def with_angles(net): net.head = AngularLinear(net.head.in_features, 10, scale=7.)

@pytest.mark.parametrize('change', [lambda net: None, with_angles, with_old_weight_norm], ids=['linear', 'angular', 'weight norm'])
def test_learner(change, tmp_path):
    "An angular head is scored with its scale, and a weight that is made anew in each run is that of the finished epoch"
    train,test = digits().split(.8)
    torch.manual_seed(0)
    net = small_cnn()
    change(net)
    tracker,seen = Tracker(folder=tmp_path),[]
    def extra(x, w, y, bias):
        seen.append((w.shape, bias is None))
        return dict(largest=x.amax(1))
    learner = Learner(net, train, epochs=2, batch_size=128, callbacks=[learner_callback(tracker, test, extra)], progress=False).fit()
    assert tracker.epochs()==[0, 1, 2] and seen[0]==((10, net.head.in_features), net.head.bias is None)
    normalised = [(learner.normalise(x), y) for x,y in zip(test.x.split(100), test.y.split(100))]
    assert_last_epoch_is(tracker, learner.bare_model, normalised, test.y)
    trace = tracker.trace()
    last = trace[trace.epoch==2]
    with torch.no_grad(): logits = torch.cat([learner.bare_model.eval()(x) for x,_ in normalised])
    np.testing.assert_allclose(last.confidence, logits.softmax(1)[range(len(test)), test.y], rtol=1e-3, atol=1e-5)
    assert last.train_loss.iloc[0]==learner.history[-1]['loss'] and trace.train_loss[trace.epoch==0].isna().all()
    assert last.largest.notna().all()

def test_a_tracker_is_told_what_it_cannot_track():
    for data,got in ((None, 'none'), (digits(), 'Images'), (3, 'int')):
        with pytest.raises(ValueError, match=f'data: expected a loader of .inputs, labels., got {got}'): Tracker(data).track(small_cnn())

def test_transformers_trains_without_a_listener(data, tmp_path):
    "Hooks are on the model while it is evaluated, and only then"
    from transformers import TrainerCallback
    class Look(TrainerCallback):
        training,evaluating = [],[]
        def on_step_end(self, *args, model=None, **kwargs): self.training.append(len(model._forward_pre_hooks))
        def on_prediction_step(self, *args, model=None, **kwargs): self.evaluating.append(len(model._forward_pre_hooks))
    tracker = Tracker()
    trainer_of(vision(), tmp_path, [transformers_callback(tracker), Look()], 200, eval_on_start=True).train()
    assert tracker.epochs()==[0, 1, 2] and set(Look.training)=={0} and set(Look.evaluating)=={1}

def smoothed(tmp_path, **kwargs): return trainer_of(vision(), tmp_path, n=200, label_smoothing_factor=.1, **kwargs)
def with_a_loss(tmp_path, **kwargs):
    return trainer_of(vision(), tmp_path, n=200, loss=lambda out, y, num_items_in_batch=None: torch.nn.functional.cross_entropy(out.logits,
        y), **kwargs)
def of_a_class(tmp_path, **kwargs):
    from transformers import Trainer
    class Own(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            y = inputs.pop('labels')
            out = model(**inputs)
            loss = torch.nn.functional.cross_entropy(out.logits, y)
            return (loss, out) if return_outputs else loss
    return trainer_of(vision(), tmp_path, n=200, kind=Own, **kwargs)

@pytest.mark.parametrize('make', [smoothed, with_a_loss, of_a_class])
def test_labels_that_a_trainer_keeps_from_the_model(data, tmp_path, make):
    "They are asked for, and found where the callback knows the trainer"
    tracker = Tracker(folder=tmp_path/'refused')
    trainer = make(tmp_path, callbacks=[transformers_callback(tracker)])
    with pytest.raises(ValueError, match='labels: the Trainer keeps them from the model; trainer.add_callback'): trainer.train()
    assert tracker.epochs()==[] and not trainer.model._forward_pre_hooks
    tracker,trainer = Tracker(folder=tmp_path/'found'),make(tmp_path)
    trainer.add_callback(transformers_callback(tracker, trainer))
    trainer.train()
    test = data[2]
    assert_last_epoch_is(tracker, trainer.model, [dict(pixel_values=(test.x[:200]/255).float(), labels=test.y[:200])], test.y[:200])
    assert tracker.epochs()==[1, 2] and trainer.prediction_step.__func__ is type(trainer).prediction_step

def test_transformers_with_several_sets(data, tmp_path):
    test,vit,tracker = data[2],vision(),Tracker(folder=tmp_path/'trace')
    sets = dict(a=rows(test, 30), a_long_runtime=rows(test, 50))
    trainer = trainer_of(vit, tmp_path, [transformers_callback(tracker)], 200, sets, eval_on_start=True)
    trainer.train()
    assert tracker.epochs()==[] and list(tracker.sets)==list(sets) and not vit._forward_pre_hooks
    for name,n in (('a', 30), ('a_long_runtime', 50)):
        assert tracker.sets[name].epochs()==[0, 1, 2]
        assert_last_epoch_is(tracker.sets[name], vit, [dict(pixel_values=(test.x[:n]/255).float(), labels=test.y[:n])], test.y[:n])
    with pytest.raises(ValueError, match='holds the trace of a run'): Tracker(folder=tmp_path/'trace')

def test_transformers_keeps_what_belongs_to_the_training(data, tmp_path):
    "Not what is evaluated under another name meanwhile, nor afterwards"
    from transformers import TrainerCallback
    class TooMuch(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            trainer.evaluate(rows(data[2], 10), metric_key_prefix='other')
            control.should_evaluate = True # which that evaluation took back
    tracker = Tracker()
    trainer = trainer_of(vision(), tmp_path, [transformers_callback(tracker), TooMuch()], 200)
    trainer.train()
    trainer.evaluate(rows(data[2], 10))
    assert tracker.epochs()==[1, 2] and tracker.trace().groupby('epoch').size().tolist()==[200, 200]

def test_transformers_goes_on(data, tmp_path):
    folder = tmp_path/'trace'
    trainer_of(vision(), tmp_path, [transformers_callback(Tracker(folder=folder))], 200, save_strategy='epoch').train()
    tracker = Tracker(folder=folder, resume=True)
    before = tracker.trace()
    trainer = trainer_of(vision(), tmp_path, [transformers_callback(tracker)], 200, save_strategy='epoch', num_train_epochs=3)
    trainer.train(resume_from_checkpoint=True)
    assert tracker.epochs()==[1, 2, 3] and tracker.trace().query('epoch<3').equals(before)

class Cosine(torch.nn.Linear):
    def forward(self, x): return 16*torch.nn.functional.linear(torch.nn.functional.normalize(x), torch.nn.functional.normalize(self.weight))

def test_a_learner_is_held_to_its_head(data):
    net = small_cnn()
    net.head = Cosine(net.head.in_features, 10, bias=False)
    train,test = digits().split(.8)
    with pytest.raises(ValueError, match="head: 'head' made the logit"):
        Learner(net, train, epochs=1, callbacks=[learner_callback(Tracker(), test)], progress=False).fit()

def test_further_columns_do_not_take_the_names_of_scores(data):
    train,test = digits().split(.8)
    tracker = Tracker()
    callback = learner_callback(tracker, test, lambda x, w, y, b: dict(margin=x.amax(1)))
    with pytest.raises(ValueError, match="extra: the scores have a column 'margin' of their own"):
        Learner(small_cnn(), train, epochs=1, callbacks=[callback], progress=False).fit()
    assert tracker.epochs()==[]

@pytest.mark.parametrize('lost', [[], ['run.safetensors']], ids=['checkpoint', 'no checkpoint'])
def test_a_learner_goes_on(tmp_path, lost):
    "With the trace, from its checkpoint, or from the beginning where a kill left none"
    train,test = digits().split(.8)
    class Killed(Exception): pass
    class Kill:
        def after_epoch(self, learner):
            if learner.epoch==2: raise Killed # the trace has the epoch, the checkpoint has not
    def learner(folder, resume, *more):
        torch.manual_seed(0)
        tracker = Tracker(folder=folder/'trace', resume=resume)
        return tracker,Learner(small_cnn(), train, epochs=3, batch_size=256, callbacks=[learner_callback(tracker, test), *more],
            checkpoint=folder/'run.safetensors', progress=False)
    whole,l = learner(tmp_path/'whole', False)
    l.fit()
    with pytest.raises(Killed): learner(tmp_path/'broken', False, Kill())[1].fit()
    for f in lost: (tmp_path/'broken'/f).unlink()
    with pytest.raises(ValueError, match='holds the trace of a run'): learner(tmp_path/'broken', False)
    broken,l = learner(tmp_path/'broken', True)
    if lost:
        with pytest.warns(UserWarning, match='epochs 1 to 2 are dropped'): l.fit()
    else: l.fit()
    assert broken.epochs()==[0, 1, 2, 3] and broken.trace().equals(whole.trace())
