"A run that is killed and resumed ends where an unbroken one ends."
import json, os, signal, subprocess, sys
import pytest, torch
from avh_nb.watch.tracker import Tracker, read_trace
from safetensors.torch import load_file
from processes import wait_for

SCRIPT = '''
import sys, time, torch
from avh_nb.data.sets import digits
from avh_nb.data.images import mirror
from avh_nb.train.learner import Learner
from avh_nb.train.models import small_cnn
from avh_nb.watch.callbacks import learner_callback
from avh_nb.watch.tracker import Tracker
folder, slow = sys.argv[1], float(sys.argv[2])

class Slow:
    def after_epoch(self, learner): time.sleep(slow)

torch.set_num_threads(1)
train, test = digits().split(.8)
torch.manual_seed(0)
traced = learner_callback(Tracker(folder=folder+'/trace', resume=True), test)
Learner(small_cnn(), train, epochs=6, batch_size=128, augment=mirror, callbacks=[traced, Slow()],
    checkpoint=folder+'/run.safetensors', progress=False).fit()
'''

def start(folder, slow): return subprocess.Popen([sys.executable, '-c', SCRIPT, str(folder), str(slow)], start_new_session=True)

@pytest.mark.skipif(os.name!='posix', reason='SIGKILL')
def test_sigkill_and_resume(tmp_path):
    whole,broken = tmp_path/'whole',tmp_path/'broken'
    whole.mkdir(); broken.mkdir()
    assert start(whole, 0).wait()==0
    for epoch in (2, 4): # killed twice, each time after the trace of an epoch was written and before its checkpoint
        p = start(broken, 1.)
        wait_for(broken/'trace'/f'epoch-{epoch:03d}.parquet', p)
        os.killpg(p.pid, signal.SIGKILL); p.wait()
    assert sorted(read_trace(broken/'trace').epoch.unique())==[0, 1, 2, 3, 4] # what was finished is whole
    assert start(broken, 0).wait()==0
    a,b = load_file(whole/'run.safetensors'),load_file(broken/'run.safetensors')
    assert a.keys()==b.keys() and len(a)>10
    for k in a: assert torch.equal(a[k], b[k]), k
    assert read_trace(whole/'trace').equals(read_trace(broken/'trace'))
    assert not list(broken.rglob('*.part'))

LOOP = '''
import sys, time, torch
from pathlib import Path
from avh_nb.data.sets import digits
from avh_nb.train.models import small_cnn
from avh_nb.watch.tracker import Tracker
torch.set_num_threads(1)
train, test = digits().split(.8)
model, tracker = small_cnn(), Tracker([(test.x/255, test.y)], sys.argv[1])
for epoch in range(1, 6):
    model.train()
    for i in torch.arange(len(train)).split(128):
        torch.nn.functional.cross_entropy(model(train.x[i]/255), train.y[i]).backward()
        if epoch==4: Path(sys.argv[1], 'in-epoch-4').touch(); time.sleep(60)
    tracker.track(model, epoch)
'''

@pytest.mark.skipif(os.name!='posix', reason='SIGKILL')
def test_sigkill_in_mid_epoch_keeps_the_trace_of_the_finished_ones(tmp_path):
    p = subprocess.Popen([sys.executable, '-c', LOOP, str(tmp_path)])
    wait_for(tmp_path/'in-epoch-4', p)
    p.send_signal(signal.SIGKILL); p.wait()
    trace = read_trace(tmp_path)
    assert trace.groupby('epoch').size().to_dict()=={1: 359, 2: 359, 3: 359}
    assert trace.avh.notna().all() and Tracker(folder=tmp_path, resume=True).report()['epochs']==3

STUDY = '''
import sys, time
from avh_nb.report.records import run_study
def run(config, seed, device):
    time.sleep(float(sys.argv[2])); return dict(value=seed*10)
run_study('toy', [(dict(arch='a'), s) for s in range(4)], run, folder=sys.argv[1])
'''

@pytest.mark.skipif(os.name!='posix', reason='SIGKILL')
def test_a_killed_study_goes_on_where_it_stopped(tmp_path):
    p = subprocess.Popen([sys.executable, '-c', STUDY, str(tmp_path), '1'], stderr=subprocess.DEVNULL)
    wait_for(tmp_path/'toy.jsonl', p, filled=True)
    p.send_signal(signal.SIGKILL); p.wait()
    with open(tmp_path/'toy.jsonl', 'a') as f: f.write('{"study": "toy", "config": {"ar') # and killed while writing
    done = len((tmp_path/'toy.jsonl').read_text().splitlines())-1
    assert 1<=done<4
    subprocess.run([sys.executable, '-c', STUDY, str(tmp_path), '0'], check=True, stderr=subprocess.DEVNULL)
    records = [json.loads(l) for l in (tmp_path/'toy.jsonl').read_text().splitlines()]
    assert [(r['seed'], r['metrics']['value']) for r in records]==[(s, 10*s) for s in range(4)]
    for r in records: assert {'study', 'config', 'seed', 'metrics', 'seconds', 'device', 'versions', 'commit', 'time'} <= r.keys()
