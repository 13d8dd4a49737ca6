"The package is what the notebooks export, the README what index says, the site has no broken link, the commands answer."
import json, os, re, shutil, subprocess, sys
from pathlib import Path
import nbformat, numpy as np, pytest, torch
from PIL import Image
from avh_nb.tool.rebuild import STUDIES
from avh_nb.paper.visda import VISDA
from avh_nb.tool.site import check_site, readme

ROOT,BIN = Path(__file__).parents[1],Path(sys.executable).parent
IGNORE = shutil.ignore_patterns('.git', '.venv', '_proc', '_docs', '__pycache__', '.ipynb_checkpoints', '*.egg-info', '.hypothesis')

def run(*command, cwd=ROOT, **env): return subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, env={**os.environ, **env})

@pytest.fixture
def copy(tmp_path): return shutil.copytree(ROOT, tmp_path/'copy', symlinks=True, ignore=IGNORE)

def files(folder, *patterns): return {p.relative_to(folder): p.read_bytes() for pattern in patterns for p in sorted(folder.rglob(pattern)) if '__pycache__' not in p.parts}

def test_export_and_clean_leave_no_difference(copy):
    before = files(copy, 'nbs/**/*.ipynb', 'avh_nb/**/*.py')
    for command in ('nbdev_export', 'nbdev_clean'):
        done = run(BIN/command, cwd=copy)
        assert done.returncode==0, done.stderr
    after = files(copy, 'nbs/**/*.ipynb', 'avh_nb/**/*.py')
    assert before.keys()==after.keys()
    assert [str(k) for k in before if before[k]!=after[k]]==[]

def test_a_notebook_imports_only_from_lower_numbers():
    number = {}
    for p in (ROOT/'nbs').rglob('[0-9][0-9]*_*.ipynb'): # 02a comes after 02 and before 02b
        before,name = p.stem.split('_', 1)
        number[('paper.' if p.parent.name=='paper' else '')+name] = before
    for path in (ROOT/'avh_nb').rglob('*.py'):
        name = '.'.join(path.relative_to(ROOT/'avh_nb').with_suffix('').parts)
        if name not in number: continue
        for dots,module in re.findall(r'^from (\.+)([\w.]+) import', path.read_text(), flags=re.M):
            target = module if len(dots)==1+name.count('.') else 'paper.'+module
            assert number[target]<number[name], f'{name} imports {target}'

def test_readme_is_index(tmp_path):
    ini = dict(l.split(' = ', 1) for l in (ROOT/'settings.ini').read_text().splitlines() if ' = ' in l)
    (tmp_path/'nbs').mkdir()
    made = readme(ROOT/'nbs/index.ipynb', tmp_path/'nbs/images', ini['doc_host']+ini['doc_baseurl'], tmp_path)
    assert made==(ROOT/'README.md').read_text(encoding='utf-8')

def test_readme_names_commands_that_exist():
    text,makefile = (ROOT/'README.md').read_text(encoding='utf-8'),(ROOT/'Makefile').read_text()
    targets = set(re.findall(r'\bmake (\w+)', text))
    assert targets>={'paper', 'test', 'lab'}
    for t in targets: assert re.search(rf'^{t}:', makefile, flags=re.M), t
    for command in set(re.findall(r'`(avh_\w+)', text)): assert (BIN/command).exists() or command=='avh_nb', command
    for link in re.findall(r'\]\((?!http)([^)#]+)\)', text): assert (ROOT/link).exists(), link

def test_the_readmes_python_runs():
    blocks = re.findall(r'```python\n(.*?)```', (ROOT/'README.md').read_text(encoding='utf-8'), flags=re.S)
    assert len(blocks)>=3
    names = {}
    exec('\n'.join(blocks[:3]), names)
    head, = [b for b in blocks if 'AngularLinear' in b]
    exec(head, names | dict(F=torch.nn.functional, labels=torch.arange(8)))

def test_what_is_for_the_site_only_is_not_committed():
    cells = [c for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts for c in nbformat.read(p, as_version=4).cells if c.source.startswith('#| site-only')]
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
            assert 'fig-cap' in c.source, f'{path}: a figure without a caption'

@pytest.mark.skipif(sys.version_info<(3, 11) and not shutil.which('quarto'), reason='no renderer')
def test_the_site_builds_without_broken_links(copy):
    done = run(BIN/'avh_site', 'docs', cwd=copy)
    assert done.returncode==0, done.stdout+done.stderr
    assert ' 0 broken' in done.stdout
    notebooks = [p for p in (copy/'nbs').rglob('*.ipynb')]
    for p in notebooks: assert (copy/'_docs'/p.relative_to(copy/'nbs').with_suffix('.html')).exists(), p
    for name,figures in (('human', 4), ('dynamics', 9), ('degradation', 3), ('gap', 2), ('selftrain', 4), ('domaingen', 3), ('adversarial', 4)):
        page = (copy/'_docs'/'paper'/f'{name}.html').read_text(encoding='utf-8')
        assert page.count('<img')>=figures and 'alt=""' not in page and len(page)<3_000_000, name
    (copy/'_docs'/'index.html').write_text('<a href="nowhere.html">x</a>')
    assert check_site(copy/'_docs')['broken']==['index.html: nowhere.html']

@pytest.mark.parametrize('study', [s for s in STUDIES if s!='visda'])
def test_rebuild_says_what_is_recorded(tmp_path, study):
    done = run(BIN/'avh_rebuild', study, '--dry', AVH_DATA=str(tmp_path))
    recorded,of = re.search(rf'{study}: (\d+) of (\d+) runs are recorded', done.stdout).groups()
    assert done.returncode==0 and recorded==of

def test_rebuild_without_data_says_in_one_line_what_is_missing(tmp_path):
    done = run(BIN/'avh_rebuild', 'human', AVH_DATA=str(tmp_path), AVH_RESULTS=str(tmp_path))
    assert done.returncode==1 and done.stderr.strip().count('\n')==0
    assert 'human needs cifar10 and cifar10h' in done.stderr and 'avh_data cifar10 cifar10h' in done.stderr

def test_rebuild_of_one_pair_says_in_one_line_what_is_missing(tmp_path):
    command = (BIN/'avh_rebuild', 'selftrain', '--pairs', 'photo:sketch', '--methods', 'cbst,cbst+avh', '--seeds', '1')
    done = run(*command, AVH_DATA=str(tmp_path), AVH_RESULTS=str(tmp_path))
    assert done.returncode==1 and done.stderr.strip().count('\n')==0 and 'selftrain needs pacs below' in done.stderr
    done = run(*command, AVH_DATA=str(tmp_path)) # recorded
    assert done.returncode==0 and done.stdout.strip().count('\n')==0 and '2 of 2 runs are recorded' in done.stdout and 'needs pacs below' in done.stdout

def test_visda_runs_from_one_command(tmp_path):
    "A generated set in the official layout"
    rng = np.random.default_rng(0)
    for split in ('train', 'validation'):
        folder = tmp_path/'visda'/split
        lines = []
        for k,name in enumerate(VISDA):
            (folder/name).mkdir(parents=True)
            for i in range(2): Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder/name/f'{i}.jpg'); lines.append(f'{name}/{i}.jpg {k}')
        (folder/'image_list.txt').write_text('\n'.join(lines))
    env = dict(AVH_DATA=str(tmp_path), AVH_RESULTS=str(tmp_path/'results'), AVH_RUNS=str(tmp_path/'runs'), OMP_NUM_THREADS='1')
    done = run(BIN/'avh_rebuild', 'visda', '--part', 'tiny', '--seeds', '1', '--methods', 'mrkld+lrent+avh', **env)
    assert done.returncode==0, done.stderr
    records = [json.loads(l) for l in (tmp_path/'results'/'visda.jsonl').read_text().splitlines()]
    assert [r['config']['method'] for r in records]==['mrkld+lrent+avh']
    for r in records: assert r['metrics']['class_mean']==pytest.approx(np.mean([r['metrics'][f'of {k}'] for k in VISDA]))
    (tmp_path/'visda'/'train'/'image_list.txt').unlink()
    done = run(BIN/'avh_rebuild', 'visda', '--part', 'tiny', '--seeds', '2', **env)
    assert done.returncode==1 and 'visda needs visda below' in done.stderr

def test_data_lists_what_is_there(tmp_path):
    done = run(BIN/'avh_data', AVH_DATA=str(tmp_path))
    assert done.returncode==0 and done.stdout.count('missing')==5
