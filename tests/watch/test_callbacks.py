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
from avh_nb.watch.tracker import Tracker, trace_means

pytestmark = pytest.mark.filterwarnings('ignore') # those libraries warn of many things
logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)

@pytest.fixture(scope='module')
def data():
    train,test = digits().split(.8)
    def loader(d, **kwargs): return torch.utils.data.DataLoader(torch.utils.data.TensorDataset((d.x/255).float(), d.y), batch_size=128, **kwargs)
    return loader(train, shuffle=True),loader(test),test

def assert_last_epoch_is(tracker, model, loader, y):
    last = tracker.trace().pipe(lambda t: t[t.epoch==t.epoch.max()])
    scores = score_model(model, loader, progress=False).numpy()
    for k in ('avh', 'confidence', 'norm', 'angle', 'entropy'): np.testing.assert_allclose(last[k], getattr(scores, k), rtol=1e-4, atol=1e-5)
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
    trainer = pl.Trainer(max_epochs=epochs, accelerator='cpu', callbacks=[lightning_callback(tracker)], logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **kwargs)
    trainer.fit(module, *data[:2])

@pytest.mark.parametrize('call', ['itself', 'a part'])
def test_lightning(data, tmp_path, call):
    m,tracker = module(call),Tracker(folder=tmp_path)
    fit(m, tracker, data)
    assert tracker.epochs()==[1, 2] and tracker.head=='net.head' # the sanity check left no epoch 0
    assert_last_epoch_is(tracker, m, data[1], data[2].y)
    assert trace_means(tracker.trace()).train_loss.is_monotonic_decreasing
    assert not m._forward_pre_hooks and not m.net.head._forward_pre_hooks

def test_lightning_goes_on(data, tmp_path):
    "A second trainer, as after a kill, adds to the trace"
    m = module()
    fit(m, Tracker(folder=tmp_path), data, 1)
    fit(m, tracker := Tracker(folder=tmp_path, head='net.head'), data, 2)
    assert tracker.epochs()==[1, 2] and len(tracker.trace())==2*len(data[2])

def test_transformers(data, tmp_path):
    from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification
    torch.manual_seed(0)
    vit = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_channels=1, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, num_labels=10))
    train,test = digits().split(.8)
    def rows(d): return [dict(pixel_values=(x/255).float(), labels=y) for x,y in zip(d.x, d.y)]
    args = TrainingArguments(str(tmp_path/'out'), num_train_epochs=2, per_device_train_batch_size=128, per_device_eval_batch_size=100, eval_strategy='epoch', logging_strategy='epoch',
        save_strategy='no', report_to=[], use_cpu=True, disable_tqdm=True, seed=0)
    tracker = Tracker(folder=tmp_path/'trace')
    Trainer(vit, args, train_dataset=rows(train), eval_dataset=rows(test), callbacks=[transformers_callback(tracker)]).train()
    assert tracker.epochs()==[1, 2] and tracker.head=='classifier'
    batches = [dict(pixel_values=(test.x[i]/255).float(), labels=test.y[i]) for i in torch.arange(len(test)).split(100)]
    assert_last_epoch_is(tracker, vit, batches, test.y)
    assert not vit._forward_pre_hooks and not vit.classifier._forward_pre_hooks

def test_neither_library_is_needed_to_import(tmp_path):
    import subprocess, sys
    code = "import sys; import avh_nb.watch.callbacks; print(any(m in sys.modules for m in ('lightning', 'pytorch_lightning', 'transformers')))"
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
    assert last.train_loss.iloc[0]==learner.history[-1]['loss'] and trace.train_loss[trace.epoch==0].isna().all() and last.largest.notna().all()

def test_a_tracker_is_told_what_it_cannot_track():
    for data,got in ((None, 'none'), (digits(), 'Images'), (3, 'int')):
        with pytest.raises(ValueError, match=f'data: expected a loader of .inputs, labels., got {got}'): Tracker(data).track(small_cnn())

def test_transformers_trains_without_a_listener(data, tmp_path):
    "Hooks are on the model while it is evaluated, and only then"
    from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification
    torch.manual_seed(0)
    vit = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_channels=1, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, num_labels=10))
    train,test = digits().split(.8)
    def rows(d): return [dict(pixel_values=(x/255).float(), labels=y) for x,y in zip(d.x[:200], d.y[:200])]
    class Look(TrainerCallback):
        training,evaluating = [],[]
        def on_step_end(self, *args, model=None, **kwargs): self.training.append(len(model._forward_pre_hooks))
        def on_prediction_step(self, *args, model=None, **kwargs): self.evaluating.append(len(model._forward_pre_hooks))
    args = TrainingArguments(str(tmp_path/'out'), num_train_epochs=2, per_device_train_batch_size=100, eval_strategy='epoch', eval_on_start=True, save_strategy='no', report_to=[],
        use_cpu=True, disable_tqdm=True, seed=0)
    tracker = Tracker()
    Trainer(vit, args, train_dataset=rows(train), eval_dataset=rows(test), callbacks=[transformers_callback(tracker), Look()]).train()
    assert tracker.epochs()==[0, 1, 2] and set(Look.training)=={0} and set(Look.evaluating)=={1}
