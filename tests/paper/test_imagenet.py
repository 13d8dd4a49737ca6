"The recipe for ImageNet through its command: both layouts, killed and resumed, refusals of one line, known wrong variants."
import csv, json, os, re, subprocess, sys, time
from dataclasses import replace
import numpy as np, pandas as pd, pytest
from PIL import Image
from scipy import stats
from scipy.io import savemat
from avh_nb.curate import validation
from avh_nb.curate.run import score_images
from avh_nb.curate.validation import judged, labelled, read_labels, stem
from avh_nb.curate.vocabulary import imagenet
from avh_nb.data.sets import data_folder
from avh_nb.paper import imagenet as page
from avh_nb.report.records import read_records
from avh_nb.stats.correlation import bin_index

RATERS = data_folder()/'imagenet_real'/'raters.npz'
SYNSETS = imagenet().synsets
CLASSES,EACH = tuple(range(0, 1000, 83))[:12],8 # enough for predictions to be held against labels

NETWORK = '''
import os, time, numpy as np, torch
from torch import nn

def pattern(k): return torch.from_numpy(np.random.default_rng(100+k).choice([-1., 1.], 48)).float()

class Patterns(nn.Module):
    "A pattern of 4 x 4 colours for each of twelve classes; what others look like is drawn by chance"
    def __init__(self, off):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.fc = nn.Linear(48, 1000, bias=False)
        self.fc.weight.data = .4*torch.randn(1000, 48, generator=g)
        for k in range(12): self.fc.weight.data[83*k] = pattern(k)
        self.off = off*torch.randn(48, generator=g)
    def forward(self, x):
        if os.environ.get('SEEN'):
            with open(os.environ['SEEN'], 'a') as f: f.write(f'{len(x)} ')
        time.sleep(float(os.environ.get('SLEEP', 0)))
        return self.fc(4*nn.functional.avg_pool2d(x-.5, 8).flatten(1)+self.off)

def sharp(): return Patterns(0)
def dull(): return Patterns(1)
def blind(): return Patterns(6)
'''

def pattern(k): return np.random.default_rng(100+k).choice([-1., 1.], 48).reshape(3, 4, 4)

class Tiny:
    "A set of 96 images of 32 pixels in the official layouts, of which more and more is noise, and what people said of them"
    def __init__(self, folder, names=None, labels=None):
        self.folder,rng = folder,np.random.default_rng(0)
        self.names = names or [f'ILSVRC2012_val_{i:08d}' for i in rng.permutation(50_000)[:len(CLASSES)*EACH]+1]
        self.k = np.array([CLASSES.index(c) for c in labels]) if labels else np.arange(len(self.names))%len(CLASSES)
        self.share = rng.uniform(.05, 1, len(self.names))
        for at in ('folders/val', 'flat/val'): (folder/at).mkdir(parents=True)
        for name,k,s in zip(self.names, self.k, self.share):
            signal,noise = (v.repeat(8, 1).repeat(8, 2).transpose(1, 2, 0) for v in (pattern(k), rng.normal(0, 1, (3, 4, 4))))
            x = .5+.25*(s*signal+(1-s)*noise)
            image = Image.fromarray((255*x).clip(0, 255).astype(np.uint8))
            at = folder/'folders'/'val'/SYNSETS[CLASSES[k]]
            at.mkdir(exist_ok=True)
            for path in (at/f'{name}.JPEG', folder/'flat'/'val'/f'{name}.JPEG'): image.save(path, 'JPEG', quality=95)
        self.of = {n: SYNSETS[CLASSES[k]] for n,k in zip(self.names, self.k)}
        (folder/'net.py').write_text(NETWORK)
        self.models = ','.join(f'{folder}/net.py:{f}' for f in ('sharp', 'dull', 'blind'))

    def solution(self, path):
        path.write_text('ImageId,PredictionString\n'+''.join(f'{n},{s} 1 2 3 4\n' for n,s in self.of.items()))
    def raters(self, path, raters=10, seed=0):
        "As ReaL publishes it: answers no, maybe, yes of all raters to questions (image, class)"
        rng,n = np.random.default_rng(10+seed),len(self.names)
        draw = rng.random((raters, n))
        self.answers = (draw<self.share).astype(int)+(draw<.8*self.share) # maybe, or sure
        info = np.array([(f'{name}.JPEG', str(CLASSES[k])) for name,k in zip(self.names, self.k)])
        order = rng.permutation(n)
        np.savez(path, tensor=np.eye(3)[self.answers[:, order]], info=info[order], ids=np.arange(raters))
        return path
    def hsf(self): return dict(zip(self.names, self.answers.mean(0)/2))

@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    t = Tiny(tmp_path_factory.mktemp('imagenet'))
    t.votes = t.raters(t.folder/'raters.npz')
    return t

@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv('AVH_RESULTS', str(tmp_path/'results')); monkeypatch.setenv('AVH_RUNS', str(tmp_path/'runs'))

def typed(*words, **env):
    "The command in a process of its own"
    return subprocess.Popen([sys.executable, '-m', 'avh_nb', 'rebuild', 'imagenet', *map(str, words)], text=True,
        env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

def rebuild(capsys, *words):
    "The command in this process: what it exits with, and what it printed"
    from avh_nb.tool.main import start
    code = None
    try: code = start('rebuild', ['imagenet', *map(str, words)])
    except SystemExit as e: code = e.code
    return code,capsys.readouterr()

def metrics(): return {r['config']['model']: r['metrics'] for r in read_records('imagenet')}

# End to end

def slow_spearman(a, b): return stats.spearmanr(a, b).statistic

def test_both_layouts_make_one_record_a_network(tiny, tmp_path, capsys):
    (flat := tiny.folder/'flat'/'LOC_val_solution.csv').unlink(missing_ok=True)
    tiny.solution(flat)
    code,said = rebuild(capsys, '--images', tiny.folder/'flat'/'val', '--votes', tiny.votes, '--models', tiny.models)
    assert code is None, said
    assert '0 of 3 runs are recorded' in said.out and '96 of 96 images' in said.err and 'LOC_val_solution.csv' in said.err
    before = (tmp_path/'results'/'imagenet.jsonl').read_bytes()
    code,said = rebuild(capsys, '--images', tiny.folder/'folders'/'val', '--votes', tiny.votes, '--models', tiny.models)
    assert code is None and '3 of 3 runs are recorded' in said.out # the same set
    assert (tmp_path/'results'/'imagenet.jsonl').read_bytes()==before
    assert not [p for p in (tmp_path/'runs').rglob('*') if p.is_file()]
    assert rebuild(capsys)[1].out=='imagenet: 3 of 3 runs are recorded\n' # by its records alone
    hsf = tiny.hsf()
    for name,m in metrics().items():
        t = pd.read_parquet(tmp_path/'results'/m['trace'])
        assert t.id.tolist()==sorted(tiny.names) and t.hsf.tolist()==pytest.approx([hsf[n] for n in t.id])
        assert t.hsf.nunique()>10 and [SYNSETS[k] for k in t.label]==[tiny.of[n] for n in t.id]
        assert m['accuracy']==pytest.approx((t.pred==t.label).mean()) and m['scored']==96 and m['unscored']==0
        for k,sign in (('avh', -1), ('confidence', 1), ('norm', 1)):
            assert m[f'{k} rho']==pytest.approx(slow_spearman(sign*t[k], t.hsf), abs=1e-5), (name, k)
            assert m[f'{k} z']==pytest.approx(np.arctanh(m[f'{k} rho'])) and m[f'{k} mean']==pytest.approx(t[k].mean(), rel=1e-5)
        edges = [(-1, .2), (.2, .4), (.4, .6), (.6, .8), (.8, 1)]
        inside = [(t.hsf>lo+1e-12) & (t.hsf<=hi+1e-12) for lo,hi in edges]
        assert m['bins']==[int(i.sum()) for i in inside]
        for b,i in enumerate(inside):
            few = i.sum()<3 or t.hsf[i].nunique()<2
            assert m[f'avh bin {b+1}']==(None if few else pytest.approx(slow_spearman(-t.avh[i], t.hsf[i]), abs=1e-5))
    m = metrics()
    assert m['net.py:sharp']['accuracy']>.6>m['net.py:blind']['accuracy'] and m['net.py:sharp']['avh low']>.2
    over, = read_records('imagenet_across')
    assert over['metrics']['avh rho']==pytest.approx(np.mean([r['avh rho'] for r in m.values()]), abs=1e-5)
    taus = stats.kendalltau([-r['avh mean'] for r in m.values()], [r['accuracy'] for r in m.values()]).statistic
    assert over['metrics']['tau']==pytest.approx(taus) and over['metrics']['networks']==3
    claims = page.claims()
    assert len(claims)==5 and claims[0].here.startswith(f"{over['metrics']['avh rho']:.3f} [") and 'error' not in {c.holds for c in claims}

def test_a_run_killed_goes_on_to_the_same_record(tiny, tmp_path, monkeypatch, capsys):
    "SIGKILL after some of the parts; each image is seen once, but for the part that was lost"
    monkeypatch.setattr(page, 'score_images', lambda *a, chunk, **k: score_images(*a, chunk=12, batch_size=12, **k))
    options = '--images',tiny.folder/'folders'/'val','--votes',tiny.votes,'--models',f'{tiny.folder}/net.py:sharp'
    whole = tmp_path/'whole'
    monkeypatch.setenv('AVH_RESULTS', str(whole))
    assert rebuild(capsys, *options)[0] is None
    expected = read_records('imagenet')[0]
    code = ('import sys; import avh_nb.paper.imagenet as page; from avh_nb.curate.run import score_images\n'
        'page.score_images = lambda *a, chunk, **k: score_images(*a, chunk=12, batch_size=12, **k)\n'
        "from avh_nb.tool.main import main; main(['rebuild', 'imagenet', *sys.argv[1:]])")
    env = {**os.environ, 'AVH_RESULTS': str(tmp_path/'results'), 'SEEN': str(tmp_path/'seen')}
    def begin(**more): return subprocess.Popen([sys.executable, '-c', code, *map(str, options)], text=True, env={**env, **more},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process,parts = begin(SLEEP='.2'),lambda: list((tmp_path/'runs').rglob('part-*.parquet'))
    end = time.monotonic()+60
    while len(parts())<3 and process.poll() is None and time.monotonic()<end: time.sleep(.02)
    process.kill(); _,err = process.communicate()
    assert 3<=len(parts())<8, err
    assert not (tmp_path/'results'/'imagenet.jsonl').exists()
    process = begin()
    out,err = process.communicate(timeout=60)
    assert process.returncode==0, err
    record = json.loads((tmp_path/'results'/'imagenet.jsonl').read_text())
    assert (record['config'], record['metrics'])==(expected['config'], expected['metrics'])
    a,b = (pd.read_parquet(at/expected['metrics']['trace']) for at in (whole, tmp_path/'results'))
    assert a.equals(b) and parts()==[]
    assert 96<=sum(map(int, (tmp_path/'seen').read_text().split()))<=96+12+2 # one part, and one image by which each call finds the head

@pytest.mark.skipif(not RATERS.exists(), reason='without the raters of ImageNet')
def test_with_the_answers_of_real_raters(tmp_path, capsys):
    "Real file names, questions and answers; the images are drawn"
    info = np.load(RATERS, allow_pickle=False)['info']
    mine = info[np.isin(info[:, 1], [str(c) for c in CLASSES])]
    names,labels = [],[]
    for image,c in mine:
        if stem(image) not in names and labels.count(int(c))<6: names.append(stem(image)); labels.append(int(c))
    t = Tiny(tmp_path/'real', [*names, 'ILSVRC2012_val_99999999'], [*labels, CLASSES[0]]) # nobody was asked about the last
    code,said = rebuild(capsys, '--images', t.folder/'folders'/'val', '--votes', RATERS, '--models', f'{t.folder}/net.py:sharp')
    assert code is None and f'{len(names)} of {len(names)+1} images' in said.err, said
    trace = pd.read_parquet(tmp_path/'results'/metrics()['net.py:sharp']['trace']).set_index('id').hsf
    tensor,ask = np.load(RATERS, allow_pickle=False)['tensor'],{(stem(i), int(c)): q for q,(i,c) in enumerate(info)}
    for n,c in zip(names, labels): # by a loop over the published table
        no,maybe,yes = tensor[:, ask[n, c]].sum(0)
        assert trace[n]==pytest.approx((yes+maybe/2)/(no+maybe+yes))
    assert len(trace)==len(names) and trace.nunique()>3

def test_votes_in_a_table_of_ones_own(tiny, tmp_path, capsys):
    rows = [dict(image=f'some/{n}.jpg', **{'class': s, 'selected': 1+i%7, 'shown': 9}) for i,(n,s) in enumerate(tiny.of.items())]
    with open(tmp_path/'votes.csv', 'w', newline='') as f:
        w = csv.DictWriter(f, ['image', 'class', 'selected', 'shown']); w.writeheader(); w.writerows(rows[5:])
    found = judged(tiny.folder/'folders'/'val', tmp_path/'votes.csv')
    said = {stem(r['image']): r['selected']/9 for r in rows[5:]}
    assert dict(zip(found.source.manifest['id'].to_pylist(), found.hsf))==pytest.approx(said)

# Refusals

def refused(capsys, *words):
    code,said = rebuild(capsys, *words)
    assert isinstance(code, str) and '\n' not in code, (code, said)
    return code

def test_what_is_missing_is_said_in_one_line(tiny, tmp_path, capsys):
    val,one = tiny.folder/'folders'/'val',('--models', f'{tiny.folder}/net.py:sharp')
    assert refused(capsys).startswith('imagenet needs --images DIR and --votes FILE')
    assert 'expected --images DIR' in refused(capsys, '--votes', tiny.votes)
    assert 'expected --votes FILE' in refused(capsys, '--images', val)
    assert 'votes: ' in refused(capsys, '--images', val, '--votes', tmp_path/'nothing.npz')
    assert refused(capsys, '--images', tmp_path/'nothing', '--votes', tiny.votes).startswith('images: there is no ')
    assert 'there is no file' in refused(capsys, '--images', val, '--votes', tiny.votes, '--models', 'no.py:net')
    assert 'models: expected --images' in refused(capsys, *one)
    assert not (tmp_path/'results').exists() and not (tmp_path/'runs').exists()
    done = typed('--images', val)
    out,err = done.communicate()
    assert (done.returncode, out, err.count('\n'))==(1, '', 1) and err.startswith('votes: expected --votes FILE')

def test_a_choice_that_only_this_study_has(capsys):
    from avh_nb.tool.main import start
    for option in ('--images', '--votes', '--labels', '--models'):
        with pytest.raises(SystemExit) as e: start('rebuild', ['human', option, 'x', '--dry'])
        assert e.value.code==f'{option[2:]}: human has no such choice'

def test_a_wrong_layout_is_refused(tiny, tmp_path, capsys):
    def of(images, *more): return refused(capsys, '--images', images, '--votes', tiny.votes, *more)
    (tiny.folder/'flat'/'LOC_val_solution.csv').unlink(missing_ok=True)
    assert 'name one with --labels FILE' in of(tiny.folder/'flat'/'val')
    cats = tmp_path/'set'/'val'/'cats'
    cats.mkdir(parents=True); Image.new('RGB', (8, 8)).save(cats/'1.jpg')
    assert re.search(r"or in one for each class, such as n01440764, got cats/1.jpg$", of(tmp_path/'set'/'val'))
    assert 'parts of a data set and not classes' in of(tmp_path/'set') # the folder above
    (tmp_path/'one.txt').write_text('ILSVRC2012_val_00000001 1\nILSVRC2012_val_00000002 2\n')
    assert 'has none of the images' in of(tmp_path/'set'/'val', '--labels', tmp_path/'one.txt')

def test_labels_in_another_order(tiny, tmp_path, capsys):
    "ILSVRC's own numbers: refused without their table, right with it, and found out where they are taken for those of networks"
    order = np.random.default_rng(1).permutation(1000)
    number = {SYNSETS[c]: i for i,c in enumerate(order, 1)} # as the development kit counts
    kit = tmp_path/'ILSVRC2012_devkit_t12'/'data'
    kit.mkdir(parents=True)
    truth = kit/'ILSVRC2012_validation_ground_truth.txt'
    known = [tiny.of.get(f'ILSVRC2012_val_{i:08d}', SYNSETS[0]) for i in range(1, 50_001)]
    truth.write_text('\n'.join(str(number[s]) for s in known)+'\n')
    options = '--images',tiny.folder/'flat'/'val','--votes',tiny.votes,'--models',f'{tiny.folder}/net.py:sharp','--labels'
    assert 'labels: ' in (said := refused(capsys, *options, truth)) and 'put meta.mat of the development kit beside it' in said
    table = np.array([(i, s) for s,i in number.items()], [('ILSVRC2012_ID', object), ('WNID', object)])
    savemat(kit/'meta.mat', dict(synsets=table))
    _,found,_ = labelled(tiny.folder/'flat'/'val', truth)
    assert found==[tiny.of[n] for n in sorted(tiny.names)]
    off = tmp_path/'off.txt' # each class has another's number
    off.write_text(''.join(f'{n}.JPEG {(number[s]-1)}\n' for n,s in tiny.of.items()))
    raters = np.load(tiny.votes)
    info = np.array([(i, str(number[SYNSETS[int(c)]]-1)) for i,c in raters['info']]) # votes that make the same mistake
    np.savez(tmp_path/'off.npz', tensor=raters['tensor'], info=info, ids=raters['ids'])
    options = '--images',tiny.folder/'flat'/'val','--votes',tmp_path/'off.npz','--models',f'{tiny.folder}/net.py:sharp','--labels'
    said = refused(capsys, *options, off)
    assert 'imagenet: 1 of 1 runs failed' in said and 'the network does not see in the images what their labels say' in said
    assert said.endswith('Are the labels in another order?') and read_records('imagenet')==[]
    off.write_text(''.join(f'{n}.JPEG {number[s]}\n' for n,s in tiny.of.items())+'ILSVRC2012_val_00000000 1000\n')
    assert 'has the class 1000, so the labels are in another order' in refused(capsys, *options, off)

def test_lists_that_are_none(tmp_path):
    path = tmp_path/'list.txt'
    for text,said in (('', 'expected 50,000 lines'), ('a n01440764\nb\x1b[2J cat', r'b\x1b[2J: expected a synset'),
        ('a 3\na.JPEG 4', 'two classes'), ('x n01440764\ny', "y: expected a synset or a number from 0 to 999, got ''")):
        path.write_text(text)
        with pytest.raises(ValueError, match='^labels: ') as e: read_labels(path)
        assert said in str(e.value) and '\n' not in str(e.value) and '\x1b' not in str(e.value)
    path.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ValueError, match='cannot be read'): read_labels(path)
    (tmp_path/'meta.mat').write_bytes(b'no matrix')
    path.write_text('5\n'*50_000)
    with pytest.raises(ValueError, match='meta.mat: cannot be read'): read_labels(path)

# Known wrong variants

def right(t, found):
    "Does each image of a set have the votes that were given for it?"
    hsf = t.hsf()
    return found.hsf.tolist()==pytest.approx([hsf[n] for n in found.source.manifest['id'].to_pylist()])

def test_votes_joined_by_place_are_seen(tiny, monkeypatch):
    val = tiny.folder/'folders'/'val'
    assert right(tiny, judged(val, tiny.votes))
    in_folders,read = [f'{stem(p)}.JPEG' for p in labelled(val)[0].manifest['path'].to_pylist()],validation.read_votes
    def by_place(path): return replace(read(path), names=in_folders) # as if votes stood in the order of the folders
    monkeypatch.setattr(validation, 'read_votes', by_place)
    assert not right(tiny, judged(val, tiny.votes))

def test_maybe_counted_as_no_is_seen(tiny, tmp_path):
    raters = np.load(tiny.votes)
    tensor = raters['tensor'].copy()
    tensor[..., 0] += tensor[..., 1]; tensor[..., 1] = 0
    np.savez(tmp_path/'no.npz', tensor=tensor, info=raters['info'], ids=raters['ids'])
    assert not right(tiny, judged(tiny.folder/'folders'/'val', tmp_path/'no.npz'))

def test_bins_that_are_closed_at_the_other_end_are_seen(tiny):
    hsf = judged(tiny.folder/'folders'/'val', tiny.votes).hsf
    wrong = np.clip(np.searchsorted([.2, .4, .6, .8], hsf, side='right'), 0, 4)
    assert np.isclose(hsf[:, None], [.2, .4, .6, .8]).any() and page._bins(hsf)!=np.bincount(wrong, minlength=5).tolist()
    assert page._bins(hsf)==np.bincount(bin_index(hsf), minlength=5).tolist()

def test_another_set_is_another_run(tiny, tmp_path):
    "Other votes, other labels, fewer images; but not another folder"
    val = tiny.folder/'folders'/'val'
    tiny.solution(tmp_path/'LOC_val_solution.csv')
    first = judged(val, tiny.votes).config
    assert judged(tiny.folder/'flat'/'val', tiny.votes, tmp_path/'LOC_val_solution.csv').config==first
    other = Tiny(tmp_path/'other')
    changed = [judged(val, other.raters(tmp_path/'other.npz', seed=1)).config]
    next((tmp_path/'other'/'folders'/'val').rglob('*.JPEG')).unlink()
    changed.append(judged(tmp_path/'other'/'folders'/'val', tiny.votes).config)
    assert changed[0]['votes']!=first['votes'] and changed[0]['list']==first['list']
    assert changed[1]['votes']==first['votes'] and changed[1]['list']!=first['list'] and changed[1]['images']==95
