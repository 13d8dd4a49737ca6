"The line at the end of each command's --help does what it says: here with little data, and without a network."
import ast, builtins, json, os, shlex, sys
from glob import glob
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest
from PIL import Image
from avh_nb.tool import bench
from avh_nb.tool.main import COMMANDS, main
from avh_nb.tool.layers import print_layers
from avh_nb.tool.steps import print_steps

def typed(name):
    "Runs the example of a command in the current folder, as a shell would"
    words = shlex.split(COMMANDS[name].example)
    sys.argv = [w for word in words for w in (sorted(glob(word)) if '*' in word and ' ' not in word else [word])]
    with pytest.raises(SystemExit) as e: main()
    return e.value.code or 0

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Photos of goldfish and of ostriches, and embeddings"
    place = tmp_path_factory.mktemp('place')
    rng = np.random.default_rng(0)
    for name in ('goldfish', 'ostrich'):
        (place/'photos'/name).mkdir(parents=True)
        for i in range(4): Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(place/'photos'/name/f'{i}.jpg')
    (place/'embeddings').mkdir()
    for i in range(2): pq.write_table(pa.table(dict(x=rng.normal(size=(9, 4)).tolist())), place/'embeddings'/f'{i}.parquet')
    return place

@pytest.fixture
def there(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv('AVH_DATA', str(place/'data')); monkeypatch.setenv('AVH_RESULTS', str(place/'results'))
    monkeypatch.setattr(sys, 'argv', [])
    return place

@pytest.fixture
def scored(there, capfd):
    if not (there/'scores').exists(): assert typed('score')==0
    capfd.readouterr()
    return there

def test_score(there, capfd):
    assert typed('score')==0
    out,err = capfd.readouterr()
    assert 'The hardest of 8 images' in out and 'ostrich' in out and Image.open(there/'scores'/'hardest.png').load()
    before = {p: p.read_bytes() for p in (there/'scores').rglob('part-*.parquet')}
    assert typed('score')==0 and {p: p.read_bytes() for p in (there/'scores').rglob('part-*.parquet')}==before # nothing is done again

def test_store_ls(scored, capfd):
    assert typed('store ls')==0
    heads,run,*_ = capfd.readouterr().out.splitlines()
    assert run.split()[:4]==['lite/0', 'final', '0', '8']

def test_store_check(scored, capfd):
    assert typed('store check')==0, capfd.readouterr().out
    assert capfd.readouterr().out=='1 run: all is well\n'

def test_store_compact(scored, capfd):
    assert typed('store compact')==0 and 'lite/0' in capfd.readouterr().out

def test_store_sql(scored, capfd):
    pytest.importorskip('duckdb')
    assert typed('store sql')==0
    heads,*rows = capfd.readouterr().out.splitlines()
    avh = [float(r.split()[-1]) for r in rows]
    assert heads.split()==['path', 'avh'] and len(rows)==8 and avh==sorted(avh, reverse=True)

def test_convert(there, capfd):
    assert typed('convert')==0 and capfd.readouterr().out=='2 files in fast/\n'
    assert sorted(os.listdir(there/'fast'))==['0.parquet', '1.parquet']

def test_rebuild(there, capfd):
    assert typed('rebuild')==0 and capfd.readouterr().out.startswith('human: 0 of ')

def test_data(there, capfd):
    assert typed('data')==0 and capfd.readouterr().out=='1,797 images in digits\n'
    assert sorted(os.listdir(there/'digits'))==list('0123456789')
    assert typed('data')=='folder: \'digits\' is not empty'

def test_bench(there, capfd, monkeypatch):
    monkeypatch.setattr(bench, 'SHAPES', ((40, 8, 4), (40, 8, 4))); monkeypatch.setattr(bench, 'LOSS_SHAPES', ((8, 8, 4),))
    compare = bench.compare
    monkeypatch.setattr(bench, 'compare', lambda *args, **kwargs: compare(*args, **kwargs | dict(memory=False, rounds=1)))
    monkeypatch.setattr(bench, 'print_steps', lambda device: print_steps(device, n=4, width=.0625, rounds=1))
    monkeypatch.setattr(bench, 'print_layers', lambda device: print_layers(device, n=2, rounds=1, memory=False))
    monkeypatch.setattr(bench, 'print_errors', lambda device: None); monkeypatch.setattr(bench, 'print_tracker_cost', lambda: None)
    assert typed('bench')==0
    out = capfd.readouterr().out
    assert 'engine on cpu' in out and 'a training step of CNN-9 at batch 4\n  plain ' in out and ', half-space energy ' in out
    assert 'at batch 2: ratios of time, and of memory\n  float32: convolution ' in out and '\n  bfloat16: convolution ' in out

def test_no_example_is_left_out():
    "That of site is run where the site is checked"
    here = {k.removeprefix('test_').replace('_', ' ') for k in globals() if k.startswith('test_')}
    assert set(COMMANDS)-here=={'site'}

START = sorted((Path(__file__).parents[2]/'nbs'/'start').glob('*.ipynb'))

@pytest.mark.parametrize('page', START, ids=lambda p: p.stem)
def test_a_page_to_start_with_is_short(page):
    "How to install it, blocks of at most twelve lines of code, and nothing exported; nbdev_test executes all of it"
    cells = [(c['cell_type'], ''.join(c['source'])) for c in json.loads(page.read_text(encoding='utf-8'))['cells']]
    text = '\n'.join(s for kind,s in cells if kind=='markdown')
    assert 'not on PyPI' in text and '**Look at**' in str(cells)
    assert 'git clone https://github.com/avh-nb/avh_nb && cd avh_nb\npip install -e' in text
    shown = [s for kind,s in cells if kind=='code' and '#| hide' not in s and '#| echo: false' not in s]
    assert shown and all(sum(1 for l in s.splitlines() if l.strip() and not l.startswith('#|'))<=12 for s in shown)
    assert not any(s.startswith(('#| export', '#| default_exp')) for _,s in cells)

def free_names(blocks):
    "Names that blocks of code use and neither they nor those before them make"
    made,free = set(dir(builtins)),set()
    for block in blocks:
        nodes = list(ast.walk(ast.parse(block)))
        made |= {a.asname or a.name.split('.')[0] for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}
        made |= {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}|{n.arg for n in nodes if isinstance(n, ast.arg)}
        made |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        free |= {n.id for n in nodes if isinstance(n, ast.Name)}-made
    return free

@pytest.mark.parametrize('page', START, ids=lambda p: p.stem)
def test_what_is_seen_of_a_page_can_be_pasted(page):
    "No block leans on a cell that a reader of the site does not see"
    cells = [''.join(c['source']) for c in json.loads(page.read_text(encoding='utf-8'))['cells'] if c['cell_type']=='code']
    assert free_names(s for s in cells if '#| hide' not in s and '#| echo: false' not in s)==set()

def test_a_free_name_is_found():
    assert free_names(['import os\nx = [y for y in os.listdir()]', 'print(x, z)'])=={'z'}
