"A folder of images to a table: killed and resumed, broken files, wrong labels, every kind of source, stopping, shards."
import json, os, signal, subprocess, sys, tarfile, time
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest, torch
from avh_nb.curate.agreement import LabelMapError
from avh_nb.curate.passes import TooManyErrors
from avh_nb.curate.result import Run
from avh_nb.curate.run import score_images
from avh_nb.scale.store import Store
from yours import digits, write_folder, write_model

QUIET = dict(progress=False)

@pytest.fixture(scope='module')
def yours(tmp_path_factory):
    "Folder with digits/ of 600 images in ten folders, and digits.py"
    folder = tmp_path_factory.mktemp('yours')
    write_folder(folder/'digits', *digits())
    write_model(folder)
    return folder

@pytest.fixture(scope='module')
def model(yours): return f'{yours}/digits.py:network'

@pytest.fixture(scope='module')
def whole(yours, model):
    "The table of an undisturbed run"
    return score_images(model, yours/'digits', yours/'whole', chunk=60, **QUIET)

def same(a, b): return a.table.equals(b.table)

CALL = '''
import sys, torch
torch.set_num_threads(1)
from avh_nb.curate.run import score_images
score_images(sys.argv[1], sys.argv[2], sys.argv[3], chunk=60, batch_size=20, progress=False)
'''

def start(yours, out, **env):
    command = [sys.executable, '-c', CALL, f'{yours}/digits.py:network', str(yours/'digits'), str(out)]
    return subprocess.Popen(command, env={**os.environ, **env}, stderr=subprocess.PIPE, text=True)

def parts(out): return sorted(Path(out).rglob('part-*.parquet'))

def wait_for(out, n, process):
    while len(parts(out))<n and process.poll() is None: time.sleep(.01)
    assert process.poll() is None, process.stderr.read()

def finish(process, code=0):
    "What a process said, which has to end in this way"
    text = process.communicate()[1]
    assert process.returncode==code, text
    return text

def test_a_killed_run_goes_on_to_the_same_bytes(yours, model, tmp_path):
    undisturbed = score_images(model, yours/'digits', tmp_path/'whole', chunk=60, batch_size=20, **QUIET)
    seen = tmp_path/'seen'
    for least in (2, 5): # killed twice
        process = start(yours, tmp_path/'out', SEEN=str(seen), SLEEP='.03')
        wait_for(tmp_path/'out', least, process)
        process.kill(); process.communicate()
    finish(start(yours, tmp_path/'out', SEEN=str(seen)))
    run = Run(tmp_path/'out')
    assert [p.read_bytes() for p in parts(tmp_path/'out')]==[p.read_bytes() for p in parts(tmp_path/'whole')]
    assert same(run, undisturbed) and len(set(run.frame.id))==600
    shown = sum(map(int, seen.read_text().split()))
    assert 600<=shown<=600+2*60+3 # one chunk more for each kill, and one image by which each call finds the head

def test_scores_are_those_of_score_model(yours, model, whole):
    from avh_nb.curate.pretrained import pretrained
    from avh_nb.data.folders import open_images
    from avh_nb.data.source import decode
    from avh_nb.measure.model import score_model
    classifier,source = pretrained(model),open_images(yours/'digits')
    x = torch.stack([classifier.transform(decode(source.read(i), '')) for i in range(len(source))])
    y = torch.tensor([int(label) for label in source.manifest['label'].to_pylist()])
    s = score_model(classifier.model, [(x, y)], progress=False)
    frame = whole.frame
    assert (frame.id==source.manifest['id'].to_pylist()).all() and (frame.label==y.numpy()).all() and set(frame.sample_kind)=={'unknown'}
    for name,values in s: np.testing.assert_allclose(frame[name], values.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
    assert (frame.pred==frame.label).mean()>.95

def test_folders_named_by_numbers_are_read_as_numbers(yours, model, tmp_path):
    x,y = digits(120)
    names = [str(k) for k in range(12)]
    write_folder(tmp_path/'twelve', np.concatenate([x, x[:24]]), np.concatenate([y, np.repeat([10, 11], 12)]), names)
    class Twelve(torch.nn.Module): # knows of 12 classes
        def __init__(self, net):
            super().__init__()
            self.fc = torch.nn.Linear(64, 12)
            with torch.no_grad(): self.fc.weight[:10],self.fc.bias[:10] = net.fc.weight,net.fc.bias
        def forward(self, x): return self.fc(x.flatten(1))
    from avh_nb.curate.pretrained import pretrained
    classifier = pretrained(model)
    run = score_images(Twelve(classifier.model), tmp_path/'twelve', tmp_path/'out', transform=classifier.transform, **QUIET)
    assert (run.frame.label==run.frame.label_name.astype(int)).all() and run.scores.info['made_by']['head']=='model'

def test_permuted_folders_stop_before_a_part_is_written(yours, model, tmp_path):
    names = [str((k+3)%10) for k in range(10)]
    write_folder(tmp_path/'permuted', *digits(), names)
    with pytest.raises(LabelMapError) as caught: score_images(model, tmp_path/'permuted', tmp_path/'out', chunk=60, **QUIET)
    assert not parts(tmp_path/'out')
    assert {str(k): int(c) for k,c in caught.value.suggestion.items()}=={names[k]: k for k in range(10)}
    assert sum(f"{n}" in str(caught.value) for n in names)>=2
    right = caught.value.suggestion
    good = score_images(model, tmp_path/'permuted', tmp_path/'out', labels_map=right, **QUIET)
    assert (good.frame.pred==good.frame.label).mean()>.95
    given = dict(zip(right, np.roll(list(right.values()), 1).tolist())) # by hand, and so the last word
    with pytest.warns(UserWarning, match='does not see in the images what their labels say'):
        bad = score_images(model, tmp_path/'permuted', tmp_path/'given', labels_map=given, **QUIET)
    assert (bad.frame.pred==bad.frame.label).mean()<.1

class Body(torch.nn.Module):
    "Features, and no head"
    def forward(self, x): return x.flatten(1)

def test_a_network_without_a_head_gives_features_to_a_probe(yours, model, tmp_path):
    from avh_nb.curate.pretrained import pretrained
    transform = pretrained(model).transform
    run = score_images(Body(), yours/'digits', tmp_path/'out', transform=transform, head='probe', **QUIET)
    assert (run.frame.pred==run.frame.label).mean()>.85 and set(run.frame.sample_kind)=={'oof'}
    with pytest.raises(ValueError, match='no nn.Linear makes the logits'):
        score_images(Body(), yours/'digits', tmp_path/'own', transform=transform, head='model', **QUIET)

def broken(folder, n):
    for i,p in enumerate(sorted(folder.rglob('*.png'))[::29][:n]): p.write_bytes(b'' if i%2 else p.read_bytes()[:60])

@pytest.mark.parametrize('n', [2, 20])
def test_broken_files(yours, model, tmp_path, n):
    folder = write_folder(tmp_path/'digits', *digits())
    broken(folder, n)
    if n==20:
        for chunk in (60, 60, 600, 600): # the second time no part is left to do, and it is still too many
            with pytest.raises(TooManyErrors, match='max_errors 1% allows 6 of 600'):
                score_images(model, folder, tmp_path/('out' if chunk==60 else 'one'), chunk=chunk, **QUIET)
        assert len(pq.read_table(tmp_path/'out'/'errors.parquet'))>6
    run = score_images(model, folder, tmp_path/'out', chunk=60, max_errors=20, **QUIET)
    errors = pq.read_table(tmp_path/'out'/'errors.parquet').to_pylist()
    assert len(run)==600-n and len(errors)==len(run.errors)==n and all(e['reason'] for e in errors)
    assert not {e['id'] for e in errors} & set(run.frame.id)
    with pytest.raises(ValueError, match='data: '): score_images(model, folder, tmp_path/'raise', on_error='raise', **QUIET)

def test_another_crop_is_refused_by_name(yours, tmp_path):
    finish(start(yours, tmp_path/'out', CROP='.95'))
    text = finish(start(yours, tmp_path/'out', CROP='.875'), 1)
    assert 'crop_pct 0.95, this run has 0.875; choose another --out or --overwrite' in text

def test_other_images_are_refused_by_name(yours, model, tmp_path):
    folder = write_folder(tmp_path/'digits', *digits(100))
    score_images(model, folder, tmp_path/'out', **QUIET)
    (folder/'3'/'00000.png').write_bytes((folder/'0'/'00000.png').read_bytes())
    with pytest.raises(ValueError, match='list of other images'): score_images(model, folder, tmp_path/'out', **QUIET)

GROWTH = '''
import sys, resource, torch
torch.set_num_threads(1)
from avh_nb.curate.run import score_images
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
def call(out, limit): score_images(sys.argv[1], sys.argv[2], out, chunk=600, limit=limit, max_errors=0, progress=False)
call(sys.argv[3]+'/a', 600); first = peak()
call(sys.argv[3]+'/b', 6000); print(peak()-first)
'''

def test_memory_does_not_grow_with_the_images(yours, tmp_path):
    x,y = digits()
    write_folder(tmp_path/'many', np.tile(x, (10, 1, 1)), np.tile(y, 10))
    command = [sys.executable, '-c', GROWTH, f'{yours}/digits.py:network', str(tmp_path/'many'), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    print(f'grew by {float(done.stdout):.0f} MB')
    assert float(done.stdout)<50

def as_list(yours, folder):
    rows = [f'{p},{p.parent.name}' for p in sorted((yours/'digits').rglob('*.png'))]
    (folder/'list.csv').write_text('\n'.join(['path,label', *rows]))
    return folder/'list.csv'

def as_parquet(yours, folder):
    files = sorted((yours/'digits').rglob('*.png'))
    images = [dict(bytes=p.read_bytes(), path=f'{p.parent.name}/{p.name}') for p in files]
    pq.write_table(pa.table(dict(image=images, label=[int(p.parent.name) for p in files])), folder/'images.parquet', row_group_size=50)
    return folder/'images.parquet'

def as_tar(yours, folder):
    for k in range(2):
        with tarfile.open(folder/f'shard-{k:03}.tar', 'w') as tar:
            for p in sorted((yours/'digits').rglob('*.png'))[k::2]:
                key = f'{p.parent.name}_{p.stem}'
                (folder/f'{key}.cls').write_text(p.parent.name)
                tar.add(p, f'{key}.png'); tar.add(folder/f'{key}.cls', f'{key}.cls')
    return str(folder/'shard-{000..001}.tar')

def as_dataset(yours, folder):
    datasets = pytest.importorskip('datasets')
    files = sorted((yours/'digits').rglob('*.png'))
    features = datasets.Features(dict(image=datasets.Image(), label=datasets.ClassLabel(names=[str(k) for k in range(10)])))
    return datasets.Dataset.from_dict(dict(image=[str(p) for p in files], label=[int(p.parent.name) for p in files]), features=features)

@pytest.mark.parametrize('make', [as_list, as_parquet, as_tar, as_dataset])
def test_every_kind_of_source_gives_the_same_scores(yours, model, whole, tmp_path, make):
    run = score_images(model, make(yours, tmp_path), tmp_path/'out', chunk=60, **QUIET)
    names = 'avh','confidence','logit_margin','energy'
    def values(r): return r.frame.sort_values(['label_name', *names])[list(names)].to_numpy()
    np.testing.assert_allclose(values(run), values(whole), atol=1e-6)

def test_two_shards_make_the_table_of_one(yours, model, whole, tmp_path):
    for i in (1, 0): run = score_images(model, yours/'digits', tmp_path/'out', chunk=60, shard=(i, 2), **QUIET)
    assert same(run, whole) and [p.read_bytes() for p in parts(tmp_path/'out')]==[p.read_bytes() for p in parts(yours/'whole')]
    assert Store(tmp_path/'out').check()==[]

def test_an_interrupted_run_finishes_its_part(yours, tmp_path):
    process = start(yours, tmp_path/'out', SLEEP='.1')
    wait_for(tmp_path/'out', 1, process)
    process.send_signal(signal.SIGINT)
    text = finish(process, -signal.SIGINT)
    assert 'Finishing this part' in text and 'KeyboardInterrupt' in text
    n = len(parts(tmp_path/'out'))
    assert 2<=n<10 and not list((tmp_path/'out').rglob('*.part'))
    unfinished, = Store(tmp_path/'out').check()
    assert f'{600-60*n} of 600 images are not scored yet' in unfinished

class NotANumber(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.fc,self.n = net.fc,0
    def forward(self, x):
        x = x.flatten(1).clone()
        if len(x)>1: x[1] = torch.nan
        return self.fc(x)

def test_a_network_that_gives_nan_for_one_image(yours, model, tmp_path):
    from avh_nb.curate.pretrained import pretrained
    classifier = pretrained(model)
    folder = write_folder(tmp_path/'digits', *digits(50))
    run = score_images(NotANumber(classifier.model), folder, tmp_path/'out', transform=classifier.transform, **QUIET)
    assert run.frame.avh.isna().sum()==1 and run.frame.pred.isna().sum()==1 and len(run)==50
    assert len(run.hardest(50))==49

def test_batches_halve_where_memory_runs_out(yours, model, whole, tmp_path):
    from avh_nb.curate.pretrained import pretrained
    classifier = pretrained(model)
    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = classifier.model.fc
        def forward(self, x):
            if len(x)>9: raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return self.fc(x.flatten(1))
    run = score_images(Small(), yours/'digits', tmp_path/'out', transform=classifier.transform, chunk=60, **QUIET)
    np.testing.assert_allclose(run.frame.avh, whole.frame.avh, rtol=1e-5)

def test_an_error_of_the_network_keeps_the_parts_before(yours, model, tmp_path):
    from avh_nb.curate.pretrained import pretrained
    classifier = pretrained(model)
    class Fails(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc,self.n = classifier.model.fc,0
        def forward(self, x):
            self.n += len(x)
            if self.n>200: raise ValueError('the network is broken')
            return self.fc(x.flatten(1))
    with pytest.raises(ValueError, match='the network is broken'):
        score_images(Fails(), yours/'digits', tmp_path/'out', transform=classifier.transform, chunk=60, **QUIET)
    assert len(parts(tmp_path/'out'))==3 and len(Run(tmp_path/'out'))==180

def test_a_probe_scores_out_of_sample(yours, model, tmp_path):
    folder = write_folder(tmp_path/'digits', *digits(), list('abcdefghij'))
    run = score_images(model, folder, tmp_path/'out', chunk=100, **QUIET)
    frame = run.frame
    assert set(frame.sample_kind)=={'oof'} and run.scores.info['made_by']['head']=='probe'
    assert (frame.pred_name==frame.label_name).mean()>.85
    probs = run.vectors('probs')
    np.testing.assert_allclose(probs[np.arange(600), frame.label], frame.confidence, atol=1e-6)
    assert run.vectors('features').shape==(600, 64)
    stored = {p: p.stat().st_mtime_ns for p in parts(tmp_path/'out')}
    score_images(model, folder, tmp_path/'out', chunk=100, **QUIET)
    assert {p: p.stat().st_mtime_ns for p in parts(tmp_path/'out')}==stored # nothing was done again

def test_the_restricted_head_speaks_of_the_classes_that_occur(yours, model, tmp_path):
    x,y = digits()
    folder = write_folder(tmp_path/'digits', x[y%3==0], y[y%3==0])
    run = score_images(model, folder, tmp_path/'out', restrict=True, keep='probs', **QUIET)
    assert run.vectors('probs').shape[1]==4 and run.scores.info['about']['classes']==['0', '3', '6', '9']
    assert (run.frame.pred_name==run.frame.label_name).mean()>.95

def test_arguments_are_checked_before_anything_is_written(yours, model, tmp_path):
    bad = dict(chunk=0, batch_size=-1, device='tpu', dtype='int8', shard=(3, 2), max_errors='half', keep='logits', head='mine', probe='svm',
        on_error='ignore', limit=0, workers=0)
    for name,value in bad.items():
        with pytest.raises(ValueError, match=f'^{name}: '): score_images(model, yours/'digits', tmp_path/'out', **{name: value}, **QUIET)
    assert not (tmp_path/'out').exists()

def test_the_record_says_how(whole):
    info = whole.scores.info
    assert {'model', 'weights', 'preprocessing', 'images', 'head', 'avh_nb', 'dtype', 'chunk'} <= set(info['made_by'])
    assert {'device', 'versions', 'command', 'started', 'classes'} <= set(info['about'])
    json.dumps(info)
