"Record files under many writers, merges, editors and kills."
import json, multiprocessing, os, shutil, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest, torch
from avh_nb.paper import human
from avh_nb.report import claims as table
from avh_nb.report.records import append_record, read_records, run_study

posix = pytest.mark.skipif(os.name!='posix', reason='file locks and fork')
RESULTS = Path(__file__).parents[2]/'results'

@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.setenv('AVH_RUNS', str(tmp_path/'runs'))
    return tmp_path/'runs'

def made(seed, **metrics): return dict(study='toy', config=dict(arch='a'), seed=seed, metrics=metrics)
def line(seed, **metrics): return json.dumps(made(seed, **metrics))+'\n'
def grid(n): return [(dict(arch='a'), s) for s in range(n)]
def files(folder): return [p for p in folder.rglob('*') if p.is_file()]

def at_once(*functions):
    "Each in a process of its own; they come back when all have ended"
    fork = multiprocessing.get_context('fork')
    processes = [fork.Process(target=f) for f in functions]
    for p in processes: p.start()
    for p in processes: p.join(120)
    return [p.exitcode for p in processes]

@posix
def test_three_writers_of_150_records(tmp_path):
    def write(k):
        for i in range(150): append_record(made(150*k+i, curve=[k]*(500+i)), tmp_path)
    assert at_once(*[lambda k=k: write(k) for k in range(3)])==[0, 0, 0]
    found = read_records('toy', tmp_path)
    assert sorted(r['seed'] for r in found)==list(range(450))
    assert all(r['metrics']['curve']==[r['seed']//150]*(500+r['seed']%150) for r in found)

@posix
def test_two_at_once_share_the_work(tmp_path, work):
    def run(config, seed, device):
        with open(tmp_path/'log', 'a') as f: f.write(f'{seed} {os.getpid()}\n')
        time.sleep(.03)
        return dict(value=seed)
    def study(): run_study('toy', grid(12), run, folder=tmp_path, progress=False)
    assert at_once(study, study)==[0, 0]
    log = [l.split() for l in (tmp_path/'log').read_text().splitlines()]
    assert sorted(int(s) for s,_ in log)==list(range(12)) and len({pid for _,pid in log})==2
    assert sorted(json.loads(l)['seed'] for l in (tmp_path/'toy.jsonl').read_text().splitlines())==list(range(12))
    assert files(work)==[]

@posix
def test_what_another_process_could_not_finish_is_made_here(tmp_path):
    "One fails and one is killed while this one waits for them"
    parent = os.getpid()
    def run(config, seed, device):
        if os.getpid()==parent: return dict(value=seed)
        (tmp_path/f'in-{seed}').touch()
        time.sleep(.5)
        if seed==0: raise ValueError('no such thing')
        os.kill(os.getpid(), signal.SIGKILL)
    fork = multiprocessing.get_context('fork')
    others = [fork.Process(target=lambda s=s: run_study('toy', [(dict(arch='a'), s)], run, folder=tmp_path,
        progress=False)) for s in range(2)]
    for p in others: p.start()
    end = time.monotonic()+60
    while not all((tmp_path/f'in-{s}').exists() for s in range(2)): assert time.monotonic()<end; time.sleep(.01)
    here = run_study('toy', grid(3), run, folder=tmp_path, progress=False)
    for p in others: p.join()
    assert [p.exitcode for p in others]==[1, -signal.SIGKILL]
    assert [r['seed'] for r in here]==[2, 0, 1] # first what nobody was at

def test_without_file_locks_one_process_records_as_before_and_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'fcntl', None) # as on Windows
    with pytest.warns(UserWarning, match='files cannot be locked here'):
        run_study('toy', grid(2), lambda config,seed,device: dict(value=seed), folder=tmp_path, progress=False)
    with pytest.warns(UserWarning, match='one process at a time'): append_record(made(5), tmp_path)
    assert [r['seed'] for r in read_records('toy', tmp_path)]==[0, 1, 5]

def test_a_run_of_the_grid_is_made_once(tmp_path):
    calls = []
    def run(config, seed, device): calls.append(seed); return dict(value=seed)
    run_study('toy', [*grid(2), *grid(2)], run, folder=tmp_path, progress=False)
    assert calls==[0, 1] and len(read_records('toy', tmp_path))==2

@pytest.mark.parametrize('metric,written', [(np.float32(.5), .5), (np.int64(3), 3), (torch.tensor([.25]), .25), (np.float64(.1), .1),
    (float('nan'), 'nan'), (np.float32('inf'), 'inf'), (torch.zeros(2), 'tensor([0., 0.])'), ({1, 2}, '{1, 2}')])
def test_a_metric_that_json_does_not_take_loses_no_run(tmp_path, work, metric, written):
    def run(config, seed, device): return dict(good=1., odd=metric if seed==0 else 2.)
    taken = isinstance(written, (int, float))
    if taken: run_study('toy', grid(3), run, folder=tmp_path, progress=False)
    else:
        with pytest.raises(RuntimeError, match='1 of 3 runs failed') as e: run_study('toy', grid(3), run, folder=tmp_path, progress=False)
        kept, = files(work)
        assert str(kept) in str(e.value) and "['odd']" in str(e.value)
        assert json.loads(kept.read_text())['metrics']==dict(good=1., odd=written)
    assert [r['metrics']['odd'] for r in read_records('toy', tmp_path)]==[written]*taken+[2., 2.]

def test_metrics_that_are_no_dict_are_kept_too(tmp_path, work):
    with pytest.raises(RuntimeError, match='metrics: expected names and values, got 0.9'):
        run_study('toy', grid(1), lambda *a: .9, folder=tmp_path, progress=False)
    assert len(files(work))==1 and read_records('toy', tmp_path)==[]

def test_a_run_that_fails_keeps_its_checkpoint_and_one_that_is_recorded_does_not(tmp_path, work):
    from avh_nb.report.records import run_folder
    def run(config, seed, device):
        checkpoint = run_folder('toy', config, seed)/'checkpoint'
        resumed = checkpoint.exists()
        checkpoint.parent.mkdir(parents=True, exist_ok=True); checkpoint.touch()
        if not resumed: raise ValueError('killed')
        return dict(value=1)
    with pytest.raises(RuntimeError): run_study('toy', grid(1), run, folder=tmp_path, progress=False)
    assert 'checkpoint' in {p.name for p in files(work)}
    run_study('toy', grid(1), run, folder=tmp_path, progress=False)
    assert files(work)==[]

def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
    path = tmp_path/'toy.jsonl'
    path.write_text(line(0)+line(1)+line(2).rstrip('\n'))
    append_record(made(9), tmp_path)
    assert path.read_text()==line(0)+line(1)+line(2)+line(9)

def test_a_torn_last_line_is_cut_off_and_said(tmp_path):
    path = tmp_path/'toy.jsonl'
    path.write_text(line(0)+line(1)[:20])
    assert [r['seed'] for r in read_records('toy', tmp_path)]==[0]
    with pytest.warns(UserWarning, match='toy.jsonl: the last line was half written and is cut off'): append_record(made(9), tmp_path)
    assert path.read_text()==line(0)+line(9)

def test_equal_runs_count_once_and_are_named(tmp_path):
    "As two rebuilds at once, or a merge of both sides, leave them"
    path = tmp_path/'toy.jsonl'
    path.write_text(line(0, a=1)+'\n'+line(1, a=2)+'\r\n'+line(0, a=3)+line(1, a=2))
    with pytest.warns(UserWarning, match='toy.jsonl: the same run is on lines 1 and 5, 3 and 6; the later one counts'):
        found = read_records('toy', tmp_path)
    assert [(r['seed'], r['metrics']['a']) for r in found]==[(0, 3), (1, 2)]

@pytest.mark.parametrize('bad,said', [('<<<<<<< HEAD\n', "line 2 is not JSON .*<<<<<<< HEAD"),
    ('{}\n', 'line 2: expected a record, got one without study'), ('{}', 'line 2: .* without study'),
    ('[]\n', r'line 2: expected a record, got \[\]'), ('3\n', 'line 2: expected a record'),
    ('{"study": "toy"}\n', 'without config, seed, metrics'),
    (line(3).replace('toy', 'human'), "line 2: expected a record of the study toy, got one of 'human'"),
    (line(3)[:20]+'\n', 'line 2 is not JSON')])
def test_a_line_that_is_no_record_is_named(tmp_path, bad, said):
    path = tmp_path/'toy.jsonl'
    for text in (line(0)+bad, line(0)+bad.rstrip('\n')+'\n'+line(1)):
        path.write_text(text)
        with pytest.raises(ValueError, match=said) as e: read_records('toy', tmp_path)
        assert str(path) in str(e.value)

@pytest.mark.parametrize('study', ['../escape', '/tmp/escape', 'a/b', '', '.hidden'])
def test_a_study_is_a_name_and_no_path(tmp_path, study):
    (tmp_path/'results').mkdir()
    for f in (lambda: append_record({**made(0), 'study': study}, tmp_path/'results'), lambda: read_records(study, tmp_path/'results')):
        with pytest.raises(ValueError, match='study: expected a name'): f()
    assert files(tmp_path)==[]

def test_appending_leaves_what_is_there_as_it_is(tmp_path):
    shutil.copy(RESULTS/'dynamics.jsonl', tmp_path)
    before = (RESULTS/'dynamics.jsonl').read_bytes()
    append_record(dict(study='dynamics', config={}, seed=0, metrics={}), tmp_path)
    assert (tmp_path/'dynamics.jsonl').read_bytes()[:len(before)]==before

def test_doubled_records_change_no_claim(tmp_path, monkeypatch):
    "Forty lines of each study once more, as a merge of two branches leaves them"
    before = [tuple(c) for c in table.study('adversarial').claims()]
    shutil.copytree(RESULTS, tmp_path/'r')
    for study in ('adversarial', 'dynamics'):
        path = tmp_path/'r'/f'{study}.jsonl'
        path.write_text(path.read_text()+''.join(path.read_text().splitlines(keepends=True)[:40]))
    monkeypatch.setenv('AVH_RESULTS', str(tmp_path/'r'))
    from avh_nb.paper import adversarial, families
    for cached in (adversarial.of_attack, families.curves): cached.cache_clear()
    with pytest.warns(UserWarning, match='adversarial.jsonl: the same run is on lines'):
        assert [tuple(c) for c in adversarial.claims()]==before
    with pytest.warns(UserWarning, match='dynamics.jsonl: the same run is on lines'): assert len(families.curves())>0
    for cached in (adversarial.of_attack, families.curves): cached.cache_clear()

def test_a_study_that_cannot_say_what_it_claims_takes_one_row(monkeypatch):
    def broken(): raise KeyError('avh')
    monkeypatch.setattr(human, 'STUDY', replace(human.STUDY, claims=broken))
    monkeypatch.setattr(table, 'STUDIES', {k: table.STUDIES[k] for k in ('human', 'adversarial')})
    first,*others = table.claims()
    assert (first.text, first.here, first.holds)==('human: its claims could not be computed', "KeyError: 'avh'", 'error')
    assert len(others)==2 and all(c.holds!='error' for c in others)

def test_the_table_says_by_its_exit_code_that_a_study_is_missing(tmp_path):
    shutil.copy(RESULTS/'adversarial.jsonl', tmp_path)
    (tmp_path/'human_alignment.jsonl').write_text('{}\n')
    done = subprocess.run([sys.executable, '-m', 'avh_nb.report.claims'],
        env={**os.environ, 'AVH_RESULTS': str(tmp_path), 'COLUMNS': '160'}, capture_output=True, text=True)
    assert done.returncode==1 and 'Traceback' not in done.stderr, done.stderr
    said = ' '.join(done.stdout.split())
    assert 'error | human: its claims could not be computed' in said and 'human_alignment.jsonl' in said
    assert 'yes | an adversarial example' in said
