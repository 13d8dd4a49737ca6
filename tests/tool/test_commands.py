"The commands as they are typed, as messages and pages tell people to type them, and as they are after a plain installation."
import json, os, re, shlex, subprocess, sys
from configparser import ConfigParser
from importlib import import_module
from inspect import unwrap
from pathlib import Path
import pytest, torch
from fastcore.script import anno_parser
from avh_nb.data.sets import SOURCES
from avh_nb.report.claims import STUDIES, study
from avh_nb.tool.main import COMMANDS, start

ROOT,BIN = Path(__file__).parents[2],Path(sys.executable).parent

def command_of(name):
    module,function = COMMANDS[name][0].split(':')
    return unwrap(getattr(import_module(module), function))

def typed(monkeypatch, line):
    "What a command says in one line where it refuses; None where it does not"
    monkeypatch.setattr(sys, 'argv', shlex.split(line))
    try: start(sys.argv[0])
    except SystemExit as e: return e.code

@pytest.fixture
def empty(tmp_path, monkeypatch):
    for name in ('AVH_DATA', 'AVH_RESULTS', 'AVH_RUNS'): monkeypatch.setenv(name, str(tmp_path/name))
    return tmp_path

def told():
    "Each command line that a message, a page or the Makefile names: where, and what"
    name = '|'.join(COMMANDS)
    for path in (*sorted((ROOT/'avh_nb').rglob('*.py')), *sorted((ROOT/'nbs').rglob('*.ipynb')), ROOT/'README.md', ROOT/'CONTRIBUTING.md',
        ROOT/'Makefile'):
        if '.ipynb_checkpoints' in path.parts: continue
        text = path.read_text(encoding='utf-8')
        if path.suffix=='.ipynb': text = '\n'.join(''.join(c['source']) for c in json.loads(text)['cells'])
        for found in re.findall(rf'`((?:{name})(?: [^`\n]*)?)`|^\t?((?:{name})(?: [^\n=,(]*)?)$', text, flags=re.M):
            yield path.relative_to(ROOT),''.join(found)

def test_every_command_that_people_are_told_to_run_parses():
    lines = list(told())
    assert {'avh_data', 'avh_rebuild', 'avh_bench', 'avh_site'}=={l.split()[0] for _,l in lines} and len(lines)>30
    messages = [l for p,l in lines if p.suffix=='.py' and l.startswith('avh_data ')]
    assert len(messages)>=3 # of locate, of the explorer, of the rebuild
    for path,line in lines:
        line = re.sub(r'\{.*?\}|\$\(STUDY\)|STUDY|(?<=avh_rebuild )(NAME|toys?)\b', 'cifar10' if line.startswith('avh_data') else 'human',
            line)
        name,*arguments = shlex.split(line)
        if not arguments and name in ('avh_rebuild', 'avh_site'): continue # the command's name in a sentence
        try: given = vars(anno_parser(command_of(name), prog=name).parse_args(arguments))
        except SystemExit: pytest.fail(f'{path}: {line}')
        if name=='avh_data': assert set(given['names'])<=set(SOURCES), (path, line)
        if name=='avh_rebuild': assert given['study'] in STUDIES, (path, line)

def test_data_are_fetched_by_name(tmp_path):
    "The command itself; files that are there are not fetched"
    for source in (*SOURCES['cifar10'], *SOURCES['cifar10h']):
        (tmp_path/source.file).parent.mkdir(exist_ok=True); (tmp_path/source.file).touch()
    done = subprocess.run([BIN/'avh_data', 'cifar10', 'cifar10h'], capture_output=True, text=True,
        env={**os.environ, 'AVH_DATA': str(tmp_path)})
    assert done.returncode==0, done.stderr
    assert done.stdout.split()==[str(tmp_path/s.file) for s in (*SOURCES['cifar10'], *SOURCES['cifar10h'])]

def test_data_without_a_name_are_listed(empty, monkeypatch, capsys):
    assert typed(monkeypatch, 'avh_data') is None
    assert capsys.readouterr().out.count('missing')==len(SOURCES)
    assert 'name: expected one of cifar10' in typed(monkeypatch, 'avh_data imagenet')

def test_what_a_rebuild_asks_for_can_be_typed(empty, monkeypatch):
    "The command that the message names is taken as it stands; here it cannot download"
    line = re.search(r'run `(.*?)`', typed(monkeypatch, 'avh_rebuild human'))[1]
    asked = []
    monkeypatch.setattr('avh_nb.tool.rebuild.fetch', lambda name: asked.append(name) or [])
    assert typed(monkeypatch, line) is None and asked==['cifar10', 'cifar10h']

@pytest.mark.parametrize('line,said', [
    ('avh_rebuild human --device foo --dry', "device: expected cpu or cuda, got 'foo'"),
    ('avh_rebuild human --device cuda:0 --dry', "got 'cuda:0'"),
    ('avh_bench --device foo', "device: expected cpu or cuda, got 'foo'"), ('avh_bench --device foo --record', 'device: expected'),
    ('avh_bench --record --seeds 0', 'seeds: expected at least 1, got 0'),
    ('avh_rebuild human --seeds 0', 'seeds: expected at least 1, got 0'),
    ('avh_rebuild human --seeds -1 --dry', 'seeds: expected at least 1, got -1'),
    ('avh_rebuild selftrain --pairs photo', 'pairs: expected such as'),
    *[(f'avh_rebuild {s} --part 3 --dry', 'part: ') for s in STUDIES if s!='toy']])
def test_a_choice_that_there_is_not_is_refused_before_anything_starts(empty, monkeypatch, capsys, line, said):
    refused = typed(monkeypatch, line)
    assert said in refused and '\n' not in refused and capsys.readouterr().out==''
    assert list(empty.iterdir())==[]

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
@pytest.mark.parametrize('line', ['avh_rebuild human --device cuda --dry', 'avh_rebuild bench --device cuda', 'avh_bench --device cuda'])
def test_cuda_where_there_is_none(empty, monkeypatch, line):
    assert typed(monkeypatch, line)=='device: expected cpu, since PyTorch finds no CUDA device here'

def test_a_file_that_is_no_record_is_named_in_one_line(empty, monkeypatch):
    (empty/'AVH_RESULTS').mkdir(); (empty/'AVH_RESULTS'/'human.jsonl').write_text('\n{}\n')
    refused = typed(monkeypatch, 'avh_rebuild human --dry')
    assert 'human.jsonl: line 2: expected a record' in refused and '\n' not in refused

def test_a_dry_rebuild_makes_nothing(empty, monkeypatch, capsys):
    for name in STUDIES:
        if study(name).grid: assert typed(monkeypatch, f'avh_rebuild {name} --dry') is None
    assert capsys.readouterr().out.count(': 0 of ')==len(STUDIES)-1 and list(empty.iterdir())==[]

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
for command,where in ENTRY_POINTS.items():
    module,function = where.split(':')
    sys.argv = [command]
    try: getattr(importlib.import_module(module), function)()
    except SystemExit as e: print(e.code)
'''

def test_after_a_plain_installation_a_command_says_which_extra_it_needs():
    entry_points = dict(e.split('=') for e in settings()['console_scripts'].split())
    assert set(entry_points)==set(COMMANDS)
    code = f"REQUIREMENTS = {settings()['requirements']!r}\nENTRY_POINTS = {entry_points!r}\n{PLAIN}"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode==0 and not done.stderr, done.stderr
    for command,line in zip(entry_points, said := done.stdout.splitlines(), strict=True):
        extra = COMMANDS[command][1]
        assert re.fullmatch(rf"{command} needs \w+: pip install 'avh_nb\[{extra}\]'", line), said
        assert f'{extra}_requirements' in settings()
