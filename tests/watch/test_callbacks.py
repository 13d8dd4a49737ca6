"The tracker in loops of others: what it kept is what scoring the model afterwards gives."
import logging
from collections import UserDict
import numpy as np, pytest, torch
from avh_nb.watch.callbacks import lightning_callback, transformers_callback
from avh_nb.data.sets import digits
from avh_nb.measure.head import score_model
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
