"The collectors on tiny stored results, and the committed records against each other."
import json, shutil
from pathlib import Path
import numpy as np, pandas as pd, pytest
from avh_nb.data.sets import available, cifar10, cifar10h
from avh_nb.data.votes import human_selection_frequency
from avh_nb.paper import families, human
from avh_nb.report.records import as_frame, read_records, run_key

ROOT,GOLDEN = Path(__file__).parents[2],Path(__file__).parent/'golden'

@pytest.fixture
def golden(monkeypatch): monkeypatch.setenv('AVH_RESULTS', str(GOLDEN))

def test_as_frame(golden):
    frame = as_frame(read_records('human'))
    assert frame[['arch', 'seed', 'accuracy']].values.tolist()==[['resnet', 0, .9], ['resnet', 1, .8]]

def test_the_record_over_most_seeds_is_taken(golden):
    assert families.aligned(arch=families.FAMILY_MEAN)['avh rho']==.3
    assert families.aligned(arch=families.FAMILY_MEAN)['seeds']==3
    with pytest.raises(LookupError, match='0 records .*avh rebuild human'): families.aligned(arch='lenet')

def test_claims_say_what_the_records_say(golden):
    follows,better,norm = human.claims()
    assert (follows.here, follows.holds)==('0.300 [0.280, 0.320]', 'yes')
    assert (better.here, better.holds)==('-0.020 [-0.030, -0.010]', 'no')
    assert (norm.here, norm.holds)==('0.050 [0.040, 0.060]', 'yes')

@pytest.mark.parametrize('low,high,word', [(.01, .02, 'yes'), (-.02, -.01, 'no'), (-.01, .01, 'open')])
def test_verdict_of_a_recorded_interval(low, high, word):
    m = {'avh difference': (low+high)/2, 'avh difference_low': low, 'avh difference_high': high}
    assert families.interval_of(m, 'avh', 'difference')==((low+high)/2, low, high) and families.interval_of(m, 'avh',
        'difference').verdict()==word

def test_summaries_are_those_that_are_recorded():
    "All that is held against people follows from the records of the training"
    assert human.ALIGNMENT.todo(human.summaries())==[] and human.STUDY.then==(human.ALIGNMENT,)
    assert human.summaries(part='families')==[] # a part of the grid is not summed up

def test_a_broken_line_in_the_middle_is_named(tmp_path):
    shutil.copytree(GOLDEN, tmp_path/'r')
    text = (tmp_path/'r'/'human.jsonl').read_text().splitlines()
    (tmp_path/'r'/'human.jsonl').write_text('\n'.join(['{broken', *text]))
    with pytest.raises(ValueError, match='line 1 is not JSON'): read_records('human', tmp_path/'r')

def test_committed_records_are_whole():
    records = read_records('human', ROOT/'results')
    assert len({run_key(r) for r in records})==len(records)>=12
    found = {(r['config']['arch'], r['seed']) for r in records if r['config'] in families.ONE_CYCLE.values()}
    assert found=={(a, s) for a in families.FAMILY_RUNS for s in range(3)}
    for r in records:
        assert (ROOT/'results'/r['metrics']['trace']).exists() and r['commit'] and not r['commit'].endswith('+changes')
        assert r['metrics']['selection']=='last epoch'
    assert all(r['metrics']['train_accuracy']>.99 for r in records if r['config']['arch']=='resnet')

def test_traces_hold_what_the_records_say():
    "Accuracy and the mean of AVH from the per-image scores, against record and per-epoch table"
    for r in read_records('human', ROOT/'results'):
        trace = pd.read_parquet(ROOT/'results'/r['metrics']['trace'])
        epochs = pd.read_parquet(ROOT/'results'/r['metrics']['trace'].replace('.parquet', '_epochs.parquet'))
        assert len(trace) in (10000, 6000) and np.isfinite(trace.avh).all()
        assert abs((trace.pred==trace.label).mean()-r['metrics']['accuracy'])<1e-9
        last = epochs[(epochs.epoch==r['config']['epochs']) & (epochs.score=='avh')].iloc[0]
        assert abs(last['mean']-trace.avh.mean())<1e-6 and abs(last['rho']-r['metrics']['rho_avh'])<1e-9

@pytest.mark.skipif(not available('cifar10', 'cifar10h'), reason='CIFAR-10 and CIFAR-10H are not below the data root')
def test_a_record_is_reproduced_from_its_trace():
    r = next(r for r in read_records('human', ROOT/'results') if r['config']['classes']=='all')
    trace = pd.read_parquet(ROOT/'results'/r['metrics']['trace'])
    hsf = human_selection_frequency(cifar10h(), cifar10('test').y.numpy())
    assert (trace.label.values==cifar10('test').y.numpy()).all()
    for k,rho in families.agreement(trace, hsf).items(): assert abs(rho-r['metrics'][f'rho_{k}'])<1e-6, k

def test_golden_files_have_the_keys_of_real_ones():
    real = read_records('human_alignment', ROOT/'results')[0]
    for line in (GOLDEN/'human_alignment.jsonl').read_text().splitlines(): assert set(json.loads(line)['metrics'])<=set(real['metrics'])
