"The package is what the notebooks export, the README what index says, the site has no broken link, the commands answer."
import json, os, re, shutil, subprocess, sys
from pathlib import Path
import nbformat, numpy as np, pytest, torch
from PIL import Image
from avh_nb.data.sets import SOURCES, available
from avh_nb.data.votes import cue_conflict
from avh_nb.measure.scores import avh
from avh_nb.paper.lite import categories_of, imagenet_head
from avh_nb.paper.visda import VISDA
from avh_nb.report.claims import STUDIES, claims, claims_table, print_claims, study
from avh_nb.tool.api import definitions
from avh_nb.tool.main import COMMANDS
from avh_nb.tool.render import site_address
from avh_nb.tool.site import readme
from avh_nb.transfer.features import lite_features

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
    "Every block, one after the other, as it would be pasted"
    monkeypatch.chdir(tmp_path)
    names,blocks = {},python_blocks()
    assert len(blocks)>=3
    for block in blocks: exec(block, names)
    assert names['scores'].avh.shape==(5,) and type(names['model'].fc).__name__=='Linear'

def test_the_readmes_commands_run(tmp_path):
    "Every block: those of avh are run where index is executed; git, pip and make are stand-ins that say how they were called"
    blocks = re.findall(r'```sh\n(.*?)```', (ROOT/'README.md').read_text(encoding='utf-8'), flags=re.S)
    code = [c.source for c in nbformat.read(ROOT/'nbs/index.ipynb', as_version=4).cells if c.cell_type=='code']
    run_there = [b for b in blocks if b.startswith('avh ')]
    assert run_there and all(f'"""\n{b}"""' in '\n'.join(code) for b in run_there) and any("'-ec', commands]" in c for c in code)
    stand_in = '#!/bin/sh\necho "$(basename "$0") $@" >> "$CALLS"\n[ "$2" = "" ] || [ "$1" != clone ] || mkdir "$(basename "$2")"\n'
    for name in ('git', 'pip', 'make'):
        (tmp_path/'bin').mkdir(exist_ok=True); (tmp_path/'bin'/name).write_text(stand_in); (tmp_path/'bin'/name).chmod(0o755)
    env = dict(CALLS=str(tmp_path/'calls'), PATH=f"{tmp_path/'bin'}{os.pathsep}{os.environ['PATH']}")
    for b in set(blocks)-set(run_there): assert run('bash', '-ec', b, cwd=tmp_path, **env).returncode==0, b
    calls = set((tmp_path/'calls').read_text().splitlines())
    assert calls=={'git clone https://github.com/avh-nb/avh_nb', 'pip install -e .[images]', 'make paper', 'make test'}

def hardness():
    "What is written in the picture of the hardest images"
    return json.loads(Image.open(ROOT/'nbs/images/hardness.png').text['rows'])

def test_the_picture_of_hardness_says_what_its_alt_text_says():
    rows = hardness()
    avh,people = ([float(r[k].split()[0]) for r in rows] for k in ('avh', 'people'))
    assert len(rows)==10 and max(avh[:5])<min(avh[5:]) and min(people[:5])>=9 and max(people[5:])<=6
    said = (ROOT/'nbs/index.ipynb').read_text(encoding='utf-8')
    assert all(f" {r['label']}" in said for r in rows)

@pytest.mark.skipif(not available('cue_conflict'), reason='no cue conflict images')
def test_the_numbers_of_the_picture_of_hardness_are_computed():
    cue,rows = cue_conflict(),hardness()
    at = [cue.votes.names.tolist().index(r['name']) for r in rows]
    x,y = lite_features(cue.images.x[at], size=224),cue.images.y[at]
    (w,_),of = imagenet_head('0'),categories_of('cue')
    hard = avh(x, torch.stack([w[c].mean(0) for c in of]), y)
    for k,(r,i) in enumerate(zip(rows, at)):
        assert r['people']==f"{cue.votes.counts[i, y[k]]:.0f} of {cue.votes.shown[i]}"
        assert float(r['avh'])==pytest.approx(hard[k].item(), abs=1e-3)

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
            assert any({'image/png', 'image/jpeg'} & set(o.get('data', {})) for o in c.outputs), f'{path}: a figure without its picture'
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
    assert len(re.findall(r'^(yes|no|open|mixed|not)\s', done.stdout, flags=re.M))==len(claims())

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
    recorded = [c for c in claims() if c.study and study(c.study).grid]
    assert len(recorded)>10
    rows = re.sub(r'\]\(((?:paper|beyond)/\w+)\.ipynb', rf']({site_address(ROOT)}/\1.html', claims_table(recorded)).split('\n')[2:]
    for row in rows: assert row in text
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

UNFINISHED = {} # study -> runs that are still to be made

@pytest.mark.parametrize('study', RECORDED)
def test_rebuild_says_what_is_recorded(tmp_path, study):
    done = run(*AVH, 'rebuild', study, '--dry', AVH_DATA=str(tmp_path))
    recorded,of = re.search(rf'{study}: (\d+) of (\d+) runs are recorded', done.stdout).groups()
    assert done.returncode==0 and int(recorded)==int(of)-UNFINISHED.get(study, 0)

def test_rebuild_without_data_says_in_one_line_what_is_missing(tmp_path):
    done = run(*AVH, 'rebuild', 'human', AVH_DATA=str(tmp_path), AVH_RESULTS=str(tmp_path))
    assert done.returncode==1 and done.stderr.strip().count('\n')==0
    assert 'human needs cifar10 and cifar10h' in done.stderr and 'avh data cifar10 cifar10h' in done.stderr

def test_rebuild_of_one_pair_says_in_one_line_what_is_missing(tmp_path):
    command = (*AVH, 'rebuild', 'selftrain', '--pairs', 'photo:sketch', '--methods', 'cbst,cbst+avh', '--seeds', '1')
    done = run(*command, AVH_DATA=str(tmp_path), AVH_RESULTS=str(tmp_path))
    assert done.returncode==1 and done.stderr.strip().count('\n')==0 and 'selftrain needs pacs in' in done.stderr
    done = run(*command, AVH_DATA=str(tmp_path)) # recorded
    assert done.returncode==0 and done.stdout.strip().count('\n')==0 and '2 of 2 runs are recorded' in done.stdout
    assert 'needs pacs in' in done.stdout

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
    assert done.returncode==1 and 'visda needs visda in' in done.stderr

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
