"`avh score` as it is typed: options, exit codes, what it prints; the library behind it is played by a stub where it has tests of its own."
import inspect, os, re, shlex, subprocess, sys, types
import pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
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

class LabelMapError(ValueError): suggestion = None
class TooManyErrors(ValueError): pass

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
        stubs = dict(labels=dict(LabelMapError=LabelMapError), run=dict(TooManyErrors=TooManyErrors, score_images=score_images))
        for name,names in stubs.items():
            module = types.ModuleType(f'avh_nb.curate.{name}')
            module.__dict__.update(names)
            monkeypatch.setitem(sys.modules, module.__name__, module)
        if 'avh_nb.curate' not in sys.modules: monkeypatch.setitem(sys.modules, 'avh_nb.curate', types.ModuleType('avh_nb.curate'))
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
    names = ['a b', "it's", '$(date)', '`date`', '\\', '-x', 'é', '猫', 'a\nb', "\x1b'\\\n$", os.fsdecode(b'\xff\xfe x'), '"', '!', '*', '']
    line = same_command(['avh', 'score', '--data', *names])
    assert line.isprintable()
    done = subprocess.run(['bash', '-c', 'avh() { printf "%s\\0" "$@"; }; '+line], capture_output=True)
    assert done.stdout.split(b'\0')[2:-1]==[os.fsencode(n) for n in names]
    assert quoted('plain')=='plain'

def test_the_command_and_the_function_take_the_same():
    curate = pytest.importorskip('avh_nb.curate.job')
    own = {k: p.default for k,p in inspect.signature(avh_score).parameters.items() if k not in ('model', 'data', 'out')}
    theirs = {k: p.default for k,p in inspect.signature(curate.Options).parameters.items()}
    assert set(theirs)-set(own)=={'transform', 'progress'} and set(own)<=set(theirs)
    assert {k: v for k,v in own.items() if theirs[k]!=v}=={}
