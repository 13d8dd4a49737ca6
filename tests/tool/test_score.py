"`avh score` as it is typed: options, exit codes, what it prints; the library behind it is played by a stub where it has tests of its own."
import inspect, json, os, re, shlex, signal, subprocess, sys, time
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from safetensors.torch import save_file
from avh_nb.curate.agreement import LabelMapError
from avh_nb.curate.job import Options
from avh_nb.curate.passes import TooManyErrors
from avh_nb.measure.scores import score
from avh_nb.scale.embeddings import embedding_table, write_embeddings
from avh_nb.scale.store import Store
from avh_nb.tool.main import main, printable
from avh_nb.tool.score import avh_score, hardest_lines, quoted, same_command

class Found:
    "What a run has found"
    def __init__(self, names=('a.png', 'b.png'), errors=()):
        self.errors = list(errors)
        same = dict(logit_margin=-1., label_name='cat', pred_name='dog')
        self.frame = pd.DataFrame(dict(id=names, path=names, avh=[.2, .1][:len(names)], **same))
    def __len__(self): return len(self.frame)
    def hardest(self, n): return self.frame.head(n)
    def picture(self, n): return Image.new('RGB', (4, 4), 'red')

@pytest.fixture
def typed(monkeypatch, tmp_path, capsys):
    "Runs a line; gives the exit code, what was printed, and what score_images was called with"
    monkeypatch.chdir(tmp_path)
    (tmp_path/'scores').mkdir()
    def run(line, does=None, **env):
        called = []
        def score_images(*args, **kwargs):
            called.append((args, kwargs))
            if isinstance(does, BaseException): raise does
            return Found() if does is None else does
        monkeypatch.setattr('avh_nb.curate.run.score_images', score_images)
        for k,v in env.items(): monkeypatch.setenv(k, v)
        monkeypatch.setattr(sys, 'argv', ['avh', *shlex.split(line)])
        with pytest.raises(SystemExit) as e: main()
        return e.value.code or 0,*capsys.readouterr(),called
    return run

LINE = 'score --model lite/0 --data photos'

def test_options_reach_the_library(typed):
    code,out,err,called = typed(f'{LINE} --out scores --batch-size 8 --shard 3/64 --max-errors 5% --limit 20 --keep features,topk:3 '
        '--dry-run --label species --on-error raise --workers auto --restrict')
    (args,kwargs), = called
    assert code==0 and args==('lite/0', 'photos', 'scores')
    changed = dict(batch_size=8, shard=(3, 64), max_errors='5%', limit=20, keep='features,topk:3', dry_run=True, label='species',
        on_error='raise', restrict=True)
    assert kwargs==changed # what was not typed is left to the library

def test_several_files_are_given_as_a_list(typed):
    assert typed('score --model lite/0 --data a.tar b.tar --dry-run')[3][0][0]==('lite/0', ['a.tar', 'b.tar'], 'scores')

def test_names_of_classes_are_read(typed, tmp_path):
    (tmp_path/'names.txt').write_text('cat\ndog\n')
    assert typed(f'{LINE} --classes names.txt --dry-run')[3][0][1]['classes']==['cat', 'dog']
    code,out,err,called = typed(f'{LINE} --classes nowhere.txt')
    assert code==1 and err.count('\n')==1 and 'nowhere.txt' in err and not called

@pytest.mark.parametrize('more,said', [('--shard 3/3', '--shard: expected i/n'), ('--shard 3', '--shard: expected i/n'),
    ('--batch-size 0', '--batch-size: expected auto or'), ('--workers some', '--workers: expected auto or'), ('--chunk -1', 'expected'),
    ('--limit 1.5', '--limit: expected a whole number'), ('--max-errors 1.5', '--max-errors: expected a number of images or a share'),
    ('--head best', '--head: expected one of auto, model, probe, none'), ('--dtype int8', '--dtype: expected one of'),
    ('--seed one', '--seed'), ('--labels_map x', 'unrecognized'), ('--dry', 'unrecognized'), ('extra --out', '--out')])
def test_a_mistake_on_the_command_line_is_exit_2(typed, more, said):
    code,out,err,called = typed(f'{LINE} {more}')
    assert code==2 and said in err and not called and len(err.splitlines())==2

@pytest.mark.parametrize('line', ['score', 'score --model lite/0', 'score --data photos'])
def test_model_and_data_are_needed(typed, line): assert typed(line)[0]==2

@pytest.mark.parametrize('error,code,said', [
    (ValueError('image: no column "img"'), 1, 'avh score: image: no column "img"\n'),
    (OSError(28, 'No space left on device'), 1, 'avh score: [Errno 28] No space left on device\n'),
    (ImportError("this needs timm: pip install 'avh_nb[images]'"), 1, "avh score: this needs timm: pip install 'avh_nb[images]'\n"),
    (ModuleNotFoundError("No module named 'timm.data'", name='timm.data'), 1, "avh score: this needs timm: pip install 'avh_nb[images]'\n"),
    (KeyError('weight'), 1, "avh score: KeyError: 'weight' (AVH_DEBUG=1 shows where)\n"),
    (ValueError('broken: a\x1b[2J\nb'), 1, 'avh score: broken: a\\x1b[2J\\nb\n'),
    (LabelMapError('labels: point at other classes\n  a\x1b -> b'), 3, 'avh score: labels: point at other classes\n  a\\x1b -> b\n'),
    (TooManyErrors('errors: 20 images could not be read'), 4, 'avh score: errors: 20 images could not be read\n')])
def test_exit_codes_and_one_line(typed, error, code, said):
    got,out,err,_ = typed(LINE, error)
    assert (got, out+err)==(code, said)
    got,out,err,_ = typed(LINE, error, AVH_DEBUG='1')
    assert 'Traceback' in err and err.endswith(said) and got==code

def test_ctrl_c_prints_how_to_go_on(typed):
    code,out,err,_ = typed("score --model lite/0 --data 'my photos' it\\'s.png --overwrite --limit 5", KeyboardInterrupt())
    assert code==130 and out==''
    line = err.splitlines()[-1]
    assert shlex.split(line)==['avh', 'score', '--model', 'lite/0', '--data', 'my photos', "it's.png", '--limit', '5']

def test_what_was_found_is_printed(typed, tmp_path):
    bad = 'dog\x1b]0;title\x07\n\u202egpj.png'
    code,out,err,_ = typed(LINE, Found((bad, 'b.png'), [dict(id='c', path='c', reason='broken')]))
    assert code==0 and not err and re.search(r'hardest of 2 images', out)
    assert r'dog\x1b]0;title\x07\n\u202egpj.png' in out and not set('\x1b\x07\u202e') & set(out)
    with Image.open(tmp_path/'scores'/'hardest.png') as picture: assert picture.size==(4, 4)
    assert 'scores/hardest.png' in out and 'errors.parquet: 1 image could not be read' in out and 'avh store ls scores' in out
    places = [l for l in out.splitlines() if re.match(r'(table|picture|errors) ', l)]
    assert len(places)==3

def test_a_dry_run_prints_no_table(typed):
    code,out,err,_ = typed(f'{LINE} --dry-run')
    assert (code, out, err)==(0, '', '')

def test_nothing_scored_yet(typed, tmp_path):
    "One shard of several, before the last one has fitted the probe"
    code,out,err,_ = typed(LINE, Found(()))
    assert code==0 and 'no image has scores yet' in out and not (tmp_path/'scores'/'hardest.png').exists()

@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_no_text_leaves_its_line(text):
    safe = printable(text)
    assert safe.isprintable() and safe.encode('utf-8') is not None
    frame = pd.DataFrame(dict(avh=[.5], path=[text], label_name=[text or None], pred_name=[None]), dtype=object)
    lines = hardest_lines(frame)
    assert len(lines)==2 and all(l.isprintable() for l in lines)

def test_a_command_can_be_pasted():
    "As bash reads it; no NUL can be in an argument"
    names = ['a b', "it's", '$(date)', '`date`', '\\', '-x', 'é', '猫', 'a\nb',
        "\x1b'\\\n$", os.fsdecode(b'\xff\xfe x'), '"', '!', '*', '']
    line = same_command(['avh', 'score', '--data', *names])
    assert line.isprintable()
    done = subprocess.run(['bash', '-c', 'avh() { printf "%s\\0" "$@"; }; '+line], capture_output=True)
    assert done.stdout.split(b'\0')[2:-1]==[os.fsencode(n) for n in names]
    assert quoted('plain')=='plain'

def test_the_command_and_the_function_take_the_same():
    own = {k: p.default for k,p in inspect.signature(avh_score).parameters.items() if k not in ('model', 'data', 'out')}
    theirs = {k: p.default for k,p in inspect.signature(Options).parameters.items()}
    assert set(theirs)-set(own)=={'transform', 'progress'} and set(own)-set(theirs)<={'dry_run'}
    assert {k: v for k,v in own.items() if k in theirs and theirs[k]!=v and (theirs[k] or v)}=={}

# The library itself

MODEL = '''
import os, time, numpy as np, torch

class Colours(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 3)
        with torch.no_grad(): self.fc.weight.copy_(30*torch.eye(3)); self.fc.bias.zero_()
    def forward(self, x):
        time.sleep(float(os.environ.get('SLEEP', 0)))
        return self.fc(x.mean((2, 3))-x.mean((1, 2, 3))[:, None])

def as_tensor(image): return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()/255
def network(): return Colours(),as_tensor
'''
NAMES = 'fox','frog','whale'

@pytest.fixture
def photos(tmp_path):
    "Ten photos of each of three colours, and the network that sees them"
    rng = np.random.default_rng(0)
    for k,name in enumerate(NAMES):
        (tmp_path/'photos'/name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 100, (8, 8, 3), dtype=np.uint8)
            pixels[..., k] += 60
            Image.fromarray(pixels).save(tmp_path/'photos'/name/f'{i}.png')
    (tmp_path/'colours.py').write_text(MODEL)
    (tmp_path/'names.txt').write_text('\n'.join(NAMES))
    return tmp_path

OURS = 'score --model colours.py:network --data photos --out scores'

@pytest.fixture
def runs(photos, monkeypatch, capfd):
    monkeypatch.chdir(photos)
    def run(line):
        monkeypatch.setattr(sys, 'argv', ['avh', *shlex.split(line)])
        with pytest.raises(SystemExit) as e: main()
        return e.value.code or 0,*capfd.readouterr()
    return run

def test_the_map_that_is_likely_right_is_written_and_works(runs, photos):
    (photos/'wrong.txt').write_text('frog\nwhale\nfox')
    code,out,err = runs(f'{OURS} --classes wrong.txt')
    assert code==3 and not out and "'frog' (0)" in err and 'Traceback' not in err
    path = re.search(r'if it is right, add (--labels-map \S+)$', err.strip())[1]
    assert json.loads((photos/'scores'/'labels_map.json').read_text())==dict(fox=0, frog=1, whale=2)
    code,out,err = runs(f'{OURS} --classes wrong.txt {path}')
    assert code==0 and 'The hardest of 30 images' in out
    (row,) = Store(photos/'scores').summary()
    assert row['accuracy']==1
    assert runs('store check scores')[:2]==(0, '1 run: all is well\n')

def test_names_of_files_stay_text(runs, photos):
    for bad in ('\x1b[2Jx\n\u202egpj.png', "it's $(date).png"): (photos/'photos'/'fox'/bad).write_text('broken')
    os.rename(photos/'photos'/'frog'/'3.png', photos/'photos'/'frog'/'\x1b]0;me\x07.png')
    code,out,err = runs(f'{OURS} --classes names.txt --max-errors 2')
    assert code==0 and '2 images could not be read' in out
    assert not set('\x1b\x07\u202e') & set(out+re.sub(r'\x1b\[A', '', err))
    for line in ('store ls scores', 'store check scores', 'store sql scores "select id, path, avh from scores order by avh"'):
        code,out,err = runs(line)
        assert code==0 and not set('\x1b\x07\u202e') & set(out+err)
    assert r'\x1b]0;me\x07.png' in out
    code,out,err = runs(f'{OURS}2 --classes names.txt --max-errors 1')
    assert code==4 and '\x1b' not in re.sub(r'\x1b\[A', '', err) and 'max_errors' in err and 'Traceback' not in err

def test_a_dry_run_leaves_nothing(runs, photos):
    code,out,err = runs(f'{OURS} --classes names.txt --dry-run')
    assert code==0 and 'images/s' in out and not (photos/'scores').exists()

def test_ctrl_c_finishes_the_part_and_the_printed_command_goes_on(runs, photos):
    env = {**os.environ, 'SLEEP': '.2', 'PYTHONPATH': os.pathsep.join(sys.path)}
    line = f'{OURS} --classes names.txt --chunk 5 --overwrite'
    p = subprocess.Popen([sys.executable, '-m', 'avh_nb', *line.split()], cwd=photos, env=env, stderr=subprocess.PIPE, text=True)
    def parts(): return len(list(photos.rglob('part-*.parquet')))
    until = time.time()+60
    while not parts() and time.time()<until: time.sleep(.02)
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=60)[1]
    assert p.returncode==130 and 0<parts()<6 and 'Traceback' not in err
    again = err.strip().splitlines()[-1]
    assert again==f'python -m avh_nb {line.removesuffix(" --overwrite")}'
    code,out,err = runs(again.removeprefix('python -m avh_nb '))
    assert code==0 and 'The hardest of 30 images' in out and parts()==6

def test_embeddings_need_no_images(runs, photos):
    g = torch.Generator().manual_seed(0)
    w,x = torch.randn(3, 5, generator=g),torch.randn(40, 5, generator=g)
    y = torch.arange(40)%3
    save_file(dict(weight=w), photos/'head.safetensors')
    for i in range(4): write_embeddings(photos/f'emb-{i}.parquet', embedding_table(x[i::4], 'float32', label=y[i::4].numpy()))
    files = ' '.join(f'emb-{i}.parquet' for i in range(4))
    line = f'score --model embeddings --data {files} --classes head.safetensors --out vectors'
    assert runs(f'{line} --shard 1/2')[:2]==(0, '20 rows were scored; the table: avh store ls vectors\n')
    assert runs(line)[:2]==(0, '20 rows were scored; the table: avh store ls vectors\n') # those of the other share
    t = Store(photos/'vectors').run('embeddings').table(['avh', 'label'])
    expected = torch.cat([score(x[i::4], w, y[i::4]).avh for i in range(4)])
    np.testing.assert_allclose(t['avh'].to_numpy(), expected, rtol=1e-6)
    for more,said in (('--probe logistic', '--probe: has no part in scoring embeddings'), ('--labels-map x', '--labels-map: has no part')):
        code,out,err = runs(f'{line} {more}')
        assert code==1 and said in err and err.count('\n')==1
    code,out,err = runs(line.replace('--classes head.safetensors', ''))
    assert code==1 and 'embeddings need class vectors, such as --classes head.safetensors' in err
    code,out,err = runs(line.replace('head.safetensors', 'names.txt'))
    assert code==1 and err.count('\n')==1 and 'names.txt' in err

def test_convert_and_score_a_list_column(runs, photos):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    pq.write_table(pa.table(dict(v=x.tolist())), photos/'list.parquet')
    assert runs('convert list.parquet --out fast')[:2]==(0, '1 file in fast\n')
    code,out,err = runs('convert nowhere --out fast')
    assert code==1 and 'nowhere' in err and 'Traceback' not in err
