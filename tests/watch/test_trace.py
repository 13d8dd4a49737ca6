"What a trace is made of, and what it tells of a training in which some epochs cannot be used."
import subprocess, sys
import numpy as np, pandas as pd, pytest
from avh_nb.measure.scores import score
from avh_nb.watch.trace import epoch_files, fingerprint, read_trace, write_parquet
from avh_nb.watch.tracker import report

def scored(n, classes, dims=16, labels=True, dtype='float32'):
    rng = np.random.default_rng(classes)
    x,w = rng.normal(size=(n, dims)).astype(dtype),rng.normal(size=(classes, dims)).astype(dtype)
    y = rng.integers(classes, size=n)
    frame = score(x, w, y).to_frame()
    return frame.assign(label=y) if labels else frame

@pytest.mark.parametrize('stray', ['epoch-best', 'epoch-001 (copy)', 'epoch-1', 'epoch--01'])
def test_a_stray_file_is_named(tmp_path, stray):
    for name in ('epoch-001', stray): write_parquet(pd.DataFrame(dict(avh=[.1])), tmp_path/f'{name}.parquet')
    for read in (epoch_files, read_trace):
        with pytest.raises(ValueError) as e: read(tmp_path)
        assert f'{stray}.parquet is no epoch of a trace' in str(e.value) and 'move it' in str(e.value)

@pytest.mark.parametrize('classes', [1, 2, 10, 997, 30_000])
@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_the_scores_tell_the_number_of_classes(classes, dtype):
    assert fingerprint(scored(5, classes, 4, dtype=dtype))['classes']==classes

def test_the_number_of_classes_where_scores_are_extreme():
    w = np.eye(3)
    x = np.concatenate([[[1, 2, 3.]], w, -w, np.zeros((1, 3))]) # any; along a class vector, against it, and without direction
    with pytest.warns(UserWarning, match='1 of 8 rows'): frame = score(x, w, np.array([0, 0, 1, 2, 0, 1, 2, 0])).to_frame()
    assert fingerprint(frame)['classes']==3
    assert fingerprint(frame[1:])['classes'] is None and fingerprint(frame[['avh']])['classes'] is None # they do not tell

def test_a_fingerprint_holds_the_order_of_the_labels_and_nothing_else_of_them():
    frame = scored(20, 5)
    same = frame.assign(label=frame.label.astype('int32'), loss=0.)
    assert fingerprint(same)==fingerprint(frame)
    other = frame.assign(label=frame.label.to_numpy()[::-1])
    assert fingerprint(other)['labels']!=fingerprint(frame)['labels']

def training(epochs=12):
    t = np.arange(epochs)
    return pd.DataFrame(dict(epoch=t, image=0, avh=.1-.03*(1-np.exp(-t/2)), norm=np.exp(.02*t), loss=2.3*np.exp(-t/20)))

@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('name,epoch', [('loss', 3), ('avh', 0), ('norm', 11)])
def test_an_epoch_that_is_not_finite_is_named_and_left_out(name, epoch, value):
    trace,broken = training(),training()
    broken.loc[broken.epoch==epoch, name] = value
    with pytest.warns(UserWarning) as said: got = report(broken)
    assert [str(w.message) for w in said]==[f'epoch {epoch}: {name} is not finite, and left out of the report']
    whole = report(trace[trace.epoch!=epoch])
    for k in {'loss': ('loss_plateau', 'avh_stalled'), 'avh': ('avh_plateau', 'avh_stalled'), 'norm': ('norm_growth',)}[name]:
        assert got[k]==whole[k]
    other = {'loss': 'avh_plateau', 'avh': 'loss_plateau', 'norm': 'loss_plateau'}[name]
    assert got[other]==report(trace)[other] and got['epochs']==11

def test_a_training_that_diverged_for_good_is_reported_up_to_there():
    broken = training()
    broken.loc[broken.epoch>=6, ['avh', 'norm', 'loss']] = np.nan
    with pytest.warns(UserWarning) as said: got = report(broken)
    assert [str(w.message).split(' is')[0] for w in said]==[f'epoch 6 and 5 more: {k}' for k in ('avh', 'loss', 'norm')]
    assert got=={**report(training(6)), 'epochs': 11}

def test_a_loss_that_is_logged_now_and_then_is_none_that_diverged():
    trace = training().assign(train_loss=lambda t: t.loss.where(t.epoch%2==1))
    got,odd = report(trace),report(trace[trace.epoch%2==1])
    assert got['loss_plateau']==odd['loss_plateau'] and got['avh_stalled']==odd['avh_stalled']

@pytest.mark.parametrize('missing', ['pandas', 'pyarrow'])
def test_what_is_missing_is_said_with_its_extra(tmp_path, missing):
    code = f'''
import sys
sys.modules['{missing}'] = None
from avh_nb.watch.tracker import Tracker
Tracker(folder={str(tmp_path/'trace')!r})
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert f"ImportError: this needs {missing}: pip install 'avh_nb[study]'" in done.stderr
