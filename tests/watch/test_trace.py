"What a trace is made of, and what it tells of a training in which some epochs cannot be used."
import json, subprocess, sys
import numpy as np, pandas as pd, pytest
from avh_nb.measure.scores import score
from avh_nb.watch.trace import Trace, epoch_files, fingerprint, read_trace, write_parquet
from avh_nb.watch.tracker import report, trace_means

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

LATER = ['pred2', 'logit_margin', 'energy', 'angle_pred', 'avh_pred'] # columns that a trace of an earlier version lacks

@pytest.mark.parametrize('noted', [True, False])
def test_a_trace_of_an_earlier_version_is_read_and_gone_on_with(tmp_path, noted):
    frame = scored(30, 5)
    old = Trace(tmp_path)
    for epoch in (1, 2): old.keep(frame.drop(columns=LATER), epoch, train_loss=1/epoch)
    if not noted: (tmp_path/'trace.json').unlink() # as the first versions left it
    before = read_trace(tmp_path)
    new = Trace(tmp_path, resume=True)
    new.keep(frame, train_loss=.2)
    trace = read_trace(tmp_path)
    assert trace[:60][list(before)].equals(before) and new.epochs()==[1, 2, 3]
    for name in LATER:
        assert trace[name][:60].isna().all() and np.array_equal(trace[name][60:], frame[name])
    means = trace_means(trace)
    assert 'pred2' not in means and means.energy.isna().tolist()==[True, True, False] and means.avh.notna().all()
    assert report(trace)['epochs']==3
    with pytest.raises(ValueError, match='expected 5 classes'): new.keep(scored(30, 6).assign(label=frame.label))

def test_a_number_that_was_logged_before_a_score_took_its_name_keeps_it(tmp_path):
    frame = scored(10, 5)
    write_parquet(frame.drop(columns=LATER).assign(energy=7.), tmp_path/'epoch-001.parquet')
    known = dict(fingerprint(frame), scores=[k for k in frame if k not in LATER], logged=['energy'])
    (tmp_path/'trace.json').write_text(json.dumps(dict(run='0', **known)), encoding='utf-8')
    trace = Trace(tmp_path, resume=True)
    for value in (8., 9.): trace.keep(frame, energy=value)
    assert [g.tolist() for _,g in read_trace(tmp_path).groupby('epoch').energy]==[[v]*10 for v in (7., 8., 9.)]
    assert read_trace(tmp_path).logit_margin[10:].notna().all()
    with pytest.raises(ValueError, match='avh_pred: the scores have a column of this name'): trace.keep(frame, avh_pred=1.)
    with pytest.raises(ValueError, match='energy: the scores have a column of this name'): Trace().keep(frame, energy=1.)

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
