"The commands as they are typed, as messages and pages tell people to type them, and as they are after a plain installation."
import json, os, re, shlex, subprocess, sys
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path
import pytest, torch
import avh_nb
from avh_nb.data.sets import SOURCES
from avh_nb.report.claims import STUDIES, study
from avh_nb.tool.data import INSIDE
from avh_nb.tool.main import COMMANDS, main, overview, parser

ROOT,BIN = Path(__file__).parents[2],Path(sys.executable).parent
OLD = 'rebuild','data','bench','site' # had names of their own

def parser_of(name):
    module,function = COMMANDS[name].where.split(':')
    return parser(getattr(import_module(module), function), name)

def found(words):
    "A command, and what is typed after it"
    n = next(n for n in (2, 1) if ' '.join(words[:n]) in COMMANDS)
    return ' '.join(words[:n]),words[n:]

def typed(monkeypatch, line):
    "What a command says in one line where it refuses; None where it does not"
    monkeypatch.setattr(sys, 'argv', shlex.split(line))
    try: main()
    except SystemExit as e: return e.code

def avh(*argv, **kwargs): return subprocess.run([sys.executable, '-m', 'avh_nb', *map(str, argv)], capture_output=True, text=True, **kwargs)

@pytest.fixture
def empty(tmp_path, monkeypatch):
    for name in ('AVH_DATA', 'AVH_RESULTS', 'AVH_RUNS'): monkeypatch.setenv(name, str(tmp_path/name))
    return tmp_path

def told():
    "Each command line that a message, a page or the Makefile names: where, and what"
    for path in (*sorted((ROOT/'avh_nb').rglob('*.py')), *sorted((ROOT/'nbs').rglob('*.ipynb')), ROOT/'README.md', ROOT/'CONTRIBUTING.md',
        ROOT/'Makefile'):
        if '.ipynb_checkpoints' in path.parts: continue
        text = path.read_text(encoding='utf-8')
        if path.suffix=='.ipynb': text = '\n'.join(''.join(c['source']) for c in json.loads(text)['cells'])
        lines = re.findall(r'`(avh [a-z][^`\n]*)`|^\t?(avh [a-z][^\n]*?)(?: +#.*)?$', text, flags=re.M)
        yield from ((path.relative_to(ROOT), ''.join(line)) for line in lines)

def test_every_command_that_people_are_told_to_run_parses(capsys):
    lines = [(path, line, shlex.split(line)[1:]) for path,line in told()]
    assert {*OLD, 'score', 'store'}<={words[0] for *_,words in lines} and len(lines)>40
    assert len([l for p,l,_ in lines if p.suffix=='.py' and l.startswith('avh data ')])>=3 # of locate, of the explorer, of the rebuild
    groups = {name.split()[0] for name in COMMANDS if ' ' in name}
    parsers = {name: parser_of(name) for name in COMMANDS}
    for path,line,_ in lines:
        cifar = 'cifar10' if line.startswith('avh data') else 'human'
        line = re.sub(r'\{.*?\}|\$\(STUDY\)|STUDY|(?<=avh rebuild )(NAME|toys?)\b', cifar, line).replace(' i/n', ' 0/2')
        words = shlex.split(line)[1:]
        if words[0] in groups and len(words)==1: continue # named in a sentence
        name,arguments = found(words)
        if not arguments or arguments==['--help']: continue # the same
        try: given = vars(parsers[name].parse_args(arguments))
        except SystemExit: pytest.fail(f'{path}: {line}: {capsys.readouterr().err}')
        if name=='data': assert set(given['names'])<=set(INSIDE if given['folder'] else SOURCES), (path, line)
        if name=='rebuild': assert given['study'] in STUDIES, (path, line)

def test_old_names_are_told_nowhere():
    "But where they are said to be old"
    for path in (*(ROOT/'avh_nb').rglob('*.py'), *(ROOT/'nbs').rglob('*.ipynb'), ROOT/'CONTRIBUTING.md', ROOT/'Makefile'):
        if '.ipynb_checkpoints' in path.parts or path.stem=='main': continue
        text = re.sub(r'from avh_nb\.[^\n"]* import [^\n"]*', '', path.read_text(encoding='utf-8')) # of functions that bear the old names
        assert not re.findall(rf"avh_(?:{'|'.join(OLD)})(?![\w('])", text), path

# The list, and what each command says of itself

def test_the_list_needs_nothing_heavy(tmp_path):
    code = 'import sys; from avh_nb.tool.main import main; main(["--help"]); print(*sorted({m.split(".")[0] for m in sys.modules}))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    *said,modules = done.stdout.splitlines()
    assert not {'torch', 'numpy', 'fastcore', 'pandas', 'pyarrow', 'PIL', 'tqdm'} & set(modules.split())
    assert [name for l in said if l.startswith('  ') for name in COMMANDS if l[2:].startswith(name+' ')]==list(COMMANDS)
    code = ('import sys; from avh_nb.tool.main import main\n'
        'try: main(["score", "--help"])\nfinally: print(*sorted({m.split(".")[0] for m in sys.modules}))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'torch' not in done.stdout.splitlines()[-1].split() and '--labels-map' in done.stdout

def test_python_m_and_version():
    assert avh('--version').stdout==f'avh_nb {avh_nb.__version__}\n'
    for argv in ([], ['scores'], ['--model', 'x'], ['store'], ['store', 'drop'], ['--help-me']):
        done = avh(*argv)
        assert (done.returncode, done.stdout)==(2, '') and done.stderr.endswith(overview('store' if argv[:1]==['store'] else '')+'\n')
        assert ('expected a command, got' in done.stderr)==(argv not in ([], ['store']))
    assert avh('sc\x1b[2Jore').stderr.startswith(r"avh: expected a command, got 'sc\\x1b[2Jore'")

@pytest.mark.parametrize('name', ['', 'store', *COMMANDS])
def test_help_is_one_screen_and_ends_with_an_example(name, monkeypatch, capsys):
    monkeypatch.setenv('COLUMNS', '100')
    assert typed(monkeypatch, f'avh {name} --help') in (None, 0)
    lines = capsys.readouterr().out.splitlines()
    example = COMMANDS.get(name, next(c for k,c in COMMANDS.items() if k.startswith(name))).example
    assert len(lines)<=40 and max(map(len, lines))<=100 and lines[-1]==f'example: {example}'
    assert example.startswith(f'avh {name}') and all(line.strip() for line in lines if 'usage' in line)

def test_help_can_be_asked_for_twice():
    "Defaults are not written into what the function says"
    assert parser_of('rebuild').format_help()==parser_of('rebuild').format_help()
    assert parser_of('rebuild').format_help().count('(default: 3)')==1

@pytest.mark.parametrize('name', OLD)
def test_an_old_name_works_and_says_the_new_one(name, monkeypatch, capsys):
    module,function = dict(e.split('=') for e in settings()['console_scripts'].split())[f'avh_{name}'].split(':')
    monkeypatch.setattr(sys, 'argv', [f'avh_{name}', '--help'])
    with pytest.raises(SystemExit) as e: getattr(import_module(module), function)()
    out,err = capsys.readouterr()
    assert not e.value.code and out.startswith(f'usage: avh {name} ')
    assert err==f'avh_{name} is now `avh {name}`; the old name goes with the next release\n'

# Commands of the studies

def test_data_are_fetched_by_name(tmp_path):
    "The command itself; files that are there are not fetched"
    for source in (*SOURCES['cifar10'], *SOURCES['cifar10h']):
        (tmp_path/source.file).parent.mkdir(exist_ok=True); (tmp_path/source.file).touch()
    done = avh('data', 'cifar10', 'cifar10h', env={**os.environ, 'AVH_DATA': str(tmp_path)})
    assert done.returncode==0, done.stderr
    assert done.stdout.split()==[str(tmp_path/s.file) for s in (*SOURCES['cifar10'], *SOURCES['cifar10h'])]

def test_data_without_a_name_are_listed(empty, monkeypatch, capsys):
    assert typed(monkeypatch, 'avh data') is None
    assert capsys.readouterr().out.count('missing')==len(SOURCES)
    assert 'name: expected one of cifar10' in typed(monkeypatch, 'avh data imagenet')

def test_what_a_rebuild_asks_for_can_be_typed(empty, monkeypatch):
    "The command that the message names is taken as it stands; here it cannot download"
    line = re.search(r'run `(.*?)`', typed(monkeypatch, 'avh rebuild human'))[1]
    asked = []
    monkeypatch.setattr('avh_nb.tool.data.fetch', lambda name: asked.append(name) or [])
    assert typed(monkeypatch, line) is None and asked==['cifar10', 'cifar10h']

@pytest.mark.parametrize('line,said', [
    ('avh rebuild human --device foo --dry', "device: expected cpu or cuda, got 'foo'"),
    ('avh rebuild human --device cuda:0 --dry', "got 'cuda:0'"),
    ('avh bench --device foo', "device: expected cpu or cuda, got 'foo'"), ('avh bench --device foo --record', 'device: expected'),
    ('avh bench --record --seeds 0', 'seeds: expected at least 1, got 0'),
    ('avh rebuild human --seeds 0', 'seeds: expected at least 1, got 0'),
    ('avh rebuild human --seeds -1 --dry', 'seeds: expected at least 1, got -1'),
    ('avh rebuild selftrain --pairs photo', 'pairs: expected such as'),
    *[(f'avh rebuild {s} --part 3 --dry', 'part: ') for s in STUDIES if s!='toy']])
def test_a_choice_that_there_is_not_is_refused_before_anything_starts(empty, monkeypatch, capsys, line, said):
    refused = typed(monkeypatch, line)
    assert said in refused and '\n' not in refused and capsys.readouterr().out==''
    assert list(empty.iterdir())==[]

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
@pytest.mark.parametrize('line', ['avh rebuild human --device cuda --dry', 'avh rebuild bench --device cuda', 'avh bench --device cuda'])
def test_cuda_where_there_is_none(empty, monkeypatch, line):
    assert typed(monkeypatch, line)=='device: expected cpu, since PyTorch finds no CUDA device here'

def test_a_file_that_is_no_record_is_named_in_one_line(empty, monkeypatch):
    (empty/'AVH_RESULTS').mkdir(); (empty/'AVH_RESULTS'/'human.jsonl').write_text('\n{}\n')
    refused = typed(monkeypatch, 'avh rebuild human --dry')
    assert 'human.jsonl: line 2: expected a record' in refused and '\n' not in refused

def test_a_dry_rebuild_makes_nothing(empty, monkeypatch, capsys):
    for name in STUDIES:
        if study(name).grid: assert typed(monkeypatch, f'avh rebuild {name} --dry') is None
    assert capsys.readouterr().out.count(': 0 of ')==len(STUDIES) and list(empty.iterdir())==[]

def settings():
    parser = ConfigParser(delimiters=['='], interpolation=None)
    parser.read(ROOT/'settings.ini', encoding='utf-8')
    return parser['DEFAULT']

# A Python that finds what `pip install .` brings, and nothing else
PLAIN = '''
import importlib.metadata as m, importlib, re, sys
from packaging.requirements import Requirement
def name(n): return re.sub('[-_.]+', '-', n).lower()
there,todo = set(),REQUIREMENTS.split()
while todo:
    r = Requirement(todo.pop())
    if name(r.name) in there or r.marker and not r.marker.evaluate({'extra': ''}): continue
    there.add(name(r.name))
    try: todo += m.requires(r.name) or []
    except m.PackageNotFoundError: pass
absent = {top for top,dists in m.packages_distributions().items() if not there & {name(d) for d in dists}}-{'avh_nb', 'packaging'}
assert {'pandas', 'PIL', 'nbformat', 'numba'} <= absent and not {'torch', 'numpy', 'fastcore', 'tqdm'} & absent
class Absent:
    def find_spec(self, module, path=None, target=None):
        if module.split('.')[0] in absent: raise ModuleNotFoundError(f'No module named {module!r}', name=module)
sys.meta_path.insert(0, Absent())
for k in [k for k in sys.modules if k.split('.')[0] in absent]: del sys.modules[k]
import torch, avh_nb as av
assert av.avh(torch.eye(3), torch.eye(3), torch.arange(3)).shape==(3,)
from avh_nb.tool.main import main
for line in LINES:
    try: main(line)
    except SystemExit as e: assert e.code==1
'''

def test_after_a_plain_installation_a_command_says_which_extra_it_needs():
    lines = [['rebuild', 'human'], ['data'], ['bench'], ['site', 'docs']]
    code = f"REQUIREMENTS = {settings()['requirements']!r}\nLINES = {lines!r}\n{PLAIN}"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    for (command,*_),line in zip(lines, said := done.stderr.splitlines(), strict=True):
        extra = COMMANDS[command].extra
        assert re.fullmatch(rf"avh {command}: this needs \w+: pip install 'avh_nb\[{extra}\]'", line), said
        assert f'{extra}_requirements' in settings()

def test_all_commands_are_installed():
    entry_points = dict(e.split('=') for e in settings()['console_scripts'].split())
    assert set(entry_points)=={'avh', *(f'avh_{name}' for name in OLD)}
    for where in entry_points.values():
        module,function = where.split(':')
        assert callable(getattr(import_module(module), function))
    assert {c.extra for c in COMMANDS.values()} <= {k.removesuffix('_requirements') for k in settings()}
