"The package is what the notebooks export, the README what index says, the site has no broken link, the commands answer."
import json, os, re, shutil, subprocess, sys
from pathlib import Path
import nbformat, numpy as np, pytest, torch
from PIL import Image
from avh_nb.data.sets import SOURCES
from avh_nb.paper.visda import VISDA
from avh_nb.report.claims import STUDIES, claims, claims_table, print_claims, study
from avh_nb.tool.api import definitions
from avh_nb.tool.main import COMMANDS
from avh_nb.tool.render import site_address
from avh_nb.tool.site import readme

ROOT,BIN = Path(__file__).parents[1],Path(sys.executable).parent
AVH = sys.executable,'-m','avh_nb'
IGNORE = shutil.ignore_patterns('.git', '.venv', '_proc', '_docs', '__pycache__', '.ipynb_checkpoints', '*.egg-info', '.hypothesis')

def run(*command, cwd=ROOT, **env):
    return subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, env={**os.environ, **env})

@pytest.fixture
def copy(tmp_path): return shutil.copytree(ROOT, tmp_path/'copy', symlinks=True, ignore=IGNORE)

def files(folder, *patterns):
    return {p.relative_to(folder): p.read_bytes() for pattern in patterns for p in sorted(folder.rglob(pattern))
        if '__pycache__' not in p.parts}

def test_export_and_clean_leave_no_difference(copy):
    before = files(copy, 'nbs/**/*.ipynb', 'avh_nb/**/*.py')
    for command in ('nbdev_export', 'nbdev_clean'):
        done = run(BIN/command, cwd=copy)
        assert done.returncode==0, done.stderr
    after = files(copy, 'nbs/**/*.ipynb', 'avh_nb/**/*.py')
    assert before.keys()==after.keys()
    assert [str(k) for k in before if before[k]!=after[k]]==[]

def test_readme_is_index(tmp_path):
    (tmp_path/'nbs').mkdir()
    made = readme(ROOT/'nbs/index.ipynb', tmp_path/'nbs/images', site_address(ROOT), tmp_path)
    assert made==(ROOT/'README.md').read_text(encoding='utf-8')

def test_the_readmes_links_to_the_site_are_pages():
    pages = re.findall(re.escape(site_address(ROOT))+r'/([\w/]+)\.html', (ROOT/'README.md').read_text(encoding='utf-8'))
    assert len(pages)>10
    for p in pages: assert (ROOT/'nbs'/p).with_suffix('.ipynb').exists(), p

def test_readme_names_commands_that_exist():
    text,makefile = (ROOT/'README.md').read_text(encoding='utf-8'),(ROOT/'Makefile').read_text()
    targets = set(re.findall(r'\bmake (\w+)', text))
    assert targets>={'paper', 'test', 'lab'}
    for t in targets: assert re.search(rf'^{t}:', makefile, flags=re.M), t
    commands = {name.split()[0] for name in COMMANDS}
    for command in set(re.findall(r'`avh (\w+)', text)): assert command in commands, command
    assert not set(re.findall(r'`(avh_\w+)', text))-{'avh_nb'} and (BIN/'avh').exists()
    for link in re.findall(r'\]\((?!http)([^)#]+)\)', text): assert (ROOT/link).exists(), link

def python_blocks(): return re.findall(r'```python\n(.*?)```', (ROOT/'README.md').read_text(encoding='utf-8'), flags=re.S)

def test_the_readmes_python_runs(tmp_path, monkeypatch):
    "Every block, one after the other; what the text calls yours stands here"
    monkeypatch.chdir(tmp_path)
    g = torch.Generator().manual_seed(0)
    def images(n, classes): return [(torch.randn(3, 32, 32, generator=g), i%classes) for i in range(n)]
    yours = dict(
        held_out_loader=torch.utils.data.DataLoader(images(8, 10), 4), epochs=2, train_one_epoch=lambda model: 1.,
        photos=images(24, 10), sketches=images(24, 10), labels=torch.arange(8))
    names,blocks = dict(yours),python_blocks()
    assert len(blocks)>=6
    short = "gate='avc', schedule=(0, .5), steps=2, batch_size=8" # in place of ten rounds of a hundred steps
    assert sum("gate='avc'" in block for block in blocks)==1
    for block in blocks: exec(block.replace("gate='avc'", short), names)
    assert names['s'].avh.shape==(8,) and type(names['model'].fc).__name__=='AngularLinear' and names['loss'].isfinite()
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    for name in yours: assert f'`{name}`' in text, f'{name}: the README does not say what it is'

def test_what_is_for_the_site_only_is_not_committed():
    cells = [c for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts for c in nbformat.read(p,
        as_version=4).cells if c.source.startswith('#| site-only')]
    assert cells and all(set(o.data)=={'text/markdown'} for c in cells for o in c.outputs)

def test_committed_notebooks_are_small_and_executed():
    for path in (ROOT/'nbs').rglob('*.ipynb'):
        if '.ipynb_checkpoints' in path.parts: continue
        nb = nbformat.read(path, as_version=4)
        for cell in nb.cells:
            for out in cell.get('outputs', []):
                for data in out.get('data', {}).values(): assert len(str(data))<1.4*200_000, f'{path}: an output over 200 KB'
        drawn = [c for c in nb.cells if c.cell_type=='code' and '#| label: fig-' in c.source]
        for c in drawn:
            assert any('image/png' in o.get('data', {}) for o in c.outputs), f'{path}: a figure without its picture'
            # nbdev hands on the first line of an option alone
            assert re.search(r'^#\| fig-cap: ".*"$', c.source, flags=re.M), f'{path}: a figure without a caption on one line'

def test_definitions_are_where_they_are_said_to_be():
    for path in (ROOT/'avh_nb').rglob('*.py'):
        code = path.read_text(encoding='utf-8').splitlines()
        for name,line in definitions(path).items():
            assert re.match(rf"\s*(async )?(def|class) {name.split('.')[-1]}\b", code[line-1]), (path, name)

def test_claims_need_nothing_of_the_sites(tmp_path):
    "A reader without nbdev's and the site's packages can print the table"
    for name in ('nbformat', 'nbclient', 'latex2mathml', 'nbdev', 'smalldocs'):
        (tmp_path/f'{name}.py').write_text('raise ImportError(__name__)')
    (tmp_path/'run.py').write_text(f'import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); '
        'runpy.run_module("avh_nb.report.claims", run_name="__main__")')
    done = run(sys.executable, tmp_path/'run.py', PYTHONPATH=str(ROOT), COLUMNS='120')
    assert done.returncode==0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()==['holds', '|', 'claim', '|', 'published', '|', 'here'] and max(map(len, lines))<=120
    assert len(re.findall(r'^(yes|no|open|mixed)\s', done.stdout, flags=re.M))==len(claims())

@pytest.mark.parametrize('width', [80, 160, 300])
def test_the_table_of_claims_fits(width, capsys):
    print_claims(found := claims(), width)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines))<=min(width, 160)
    claim = ' '.join(l.split(' | ')[1].strip() for l in lines[2:] if ' | ' in l).split()
    assert claim==[w for c in found for w in c.text.split()]

def test_the_readmes_table_is_that_of_the_records():
    "What is computed live, as the toy is, may differ in its last digit on another machine"
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    recorded = [c for s in STUDIES if study(s).grid for c in study(s).claims()]
    assert len(recorded)>10
    for row in claims_table(recorded).split('\n')[2:]: assert row in text
    for c in claims(): assert f"| {c.text} |".replace('|ρ|', '\\|ρ\\|') in text

NOT_RUN = ('visda', 'imagenet') # recipes for those who have the images
RECORDED = [s for s in STUDIES if study(s).grid and s not in (*NOT_RUN, 'bench')] # a machine has benchmarks of its own

def test_the_registry_holds_every_study():
    made = [s for s in STUDIES if study(s).grid and s not in NOT_RUN]
    recorded = {*made, *(t.name for s in made for t in study(s).then)}
    assert {p.stem for p in (ROOT/'results').glob('*.jsonl')}==recorded
    shown = run(*AVH, 'rebuild', '--help').stdout
    for s in STUDIES: assert re.search(rf'\b{s}\b', shown), s

def test_rebuild_of_benchmarks(tmp_path):
    done = run(*AVH, 'rebuild', 'bench', '--part', 'error', '--seeds', '1', '--dry', AVH_RESULTS=str(tmp_path))
    assert done.returncode==0 and done.stdout.strip()=='bench: 0 of 4 runs are recorded'

@pytest.mark.parametrize('study', RECORDED)
def test_rebuild_says_what_is_recorded(tmp_path, study):
    done = run(*AVH, 'rebuild', study, '--dry', AVH_DATA=str(tmp_path))
    recorded,of = re.search(rf'{study}: (\d+) of (\d+) runs are recorded', done.stdout).groups()
    assert done.returncode==0 and recorded==of

def test_rebuild_without_data_says_in_one_line_what_is_missing(tmp_path):
    done = run(*AVH, 'rebuild', 'human', AVH_DATA=str(tmp_path), AVH_RESULTS=str(tmp_path))
    assert done.returncode==1 and done.stderr.strip().count('\n')==0
    assert 'human needs cifar10 and cifar10h' in done.stderr and 'avh data cifar10 cifar10h' in done.stderr

def test_rebuild_of_one_pair_says_in_one_line_what_is_missing(tmp_path):
    command = (*AVH, 'rebuild', 'selftrain', '--pairs', 'photo:sketch', '--methods', 'cbst,cbst+avh', '--seeds', '1')
    done = run(*command, AVH_DATA=str(tmp_path), AVH_RESULTS=str(tmp_path))
    assert done.returncode==1 and done.stderr.strip().count('\n')==0 and 'selftrain needs pacs below' in done.stderr
    done = run(*command, AVH_DATA=str(tmp_path)) # recorded
    assert done.returncode==0 and done.stdout.strip().count('\n')==0 and '2 of 2 runs are recorded' in done.stdout
    assert 'needs pacs below' in done.stdout

def test_visda_runs_from_one_command(tmp_path):
    "A generated set in the official layout"
    rng = np.random.default_rng(0)
    for split in ('train', 'validation'):
        folder = tmp_path/'visda'/split
        lines = []
        for k,name in enumerate(VISDA):
            (folder/name).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder/name/f'{i}.jpg')
                lines.append(f'{name}/{i}.jpg {k}')
        (folder/'image_list.txt').write_text('\n'.join(lines))
    env = dict(AVH_DATA=str(tmp_path), AVH_RESULTS=str(tmp_path/'results'), AVH_RUNS=str(tmp_path/'runs'), OMP_NUM_THREADS='1')
    done = run(*AVH, 'rebuild', 'visda', '--part', 'tiny', '--seeds', '1', '--methods', 'mrkld+lrent+avh', **env)
    assert done.returncode==0, done.stderr
    records = [json.loads(l) for l in (tmp_path/'results'/'visda.jsonl').read_text().splitlines()]
    assert [r['config']['method'] for r in records]==['mrkld+lrent+avh']
    for r in records: assert r['metrics']['class_mean']==pytest.approx(np.mean([r['metrics'][f'of {k}'] for k in VISDA]))
    assert not [p for p in (tmp_path/'runs').rglob('*') if p.is_file()] # half a gigabyte a run
    (tmp_path/'visda'/'train'/'image_list.txt').unlink()
    done = run(*AVH, 'rebuild', 'visda', '--part', 'tiny', '--seeds', '2', **env)
    assert done.returncode==1 and 'visda needs visda below' in done.stderr

def test_data_lists_what_is_there(tmp_path):
    done = run(*AVH, 'data', AVH_DATA=str(tmp_path))
    assert done.returncode==0 and done.stdout.count('missing')==len(SOURCES)

def test_the_least_versions_that_are_tried_are_those_of_the_settings():
    from configparser import ConfigParser
    parser = ConfigParser(delimiters=['='], interpolation=None)
    parser.read(ROOT/'settings.ini', encoding='utf-8')
    allowed = {k: dict(re.findall(r'([\w-]+)>=([\d.]+)', parser['DEFAULT'][f'{k}requirements'])) for k in ('', 'study_', 'fast_',
        'adapters_')}
    plain = allowed.pop('').pop('torch')
    tried = dict(re.findall(r'^([\w-]+)==([\d.]+)$', (ROOT/'tests/least.txt').read_text(), flags=re.M))
    workflow = (ROOT/'.github/workflows/ci.yml').read_text()
    assert f'torch=={plain}' in workflow
    for extra in allowed.values():
        for package,least in extra.items(): assert (tried[package]+'.').startswith(least+'.'), package
