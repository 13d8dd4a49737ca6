"The plan of the house: who imports whom, what a page may hold, and that every link leads somewhere."
import ast, importlib, io, json, re, subprocess, sys, tokenize
from pathlib import Path
import pytest, yaml
import avh_nb

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT/'avh_nb'
MODULES = sorted(p for p in PACKAGE.rglob('*.py') if p.stem not in ('__init__', '__main__', '_modidx'))
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)

def name_of(path): return '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)

def imports(path):
    "Modules of the package that a module imports, wherever in it"
    package,found = name_of(path).split('.')[:-1],set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or '').split('.')[0]=='avh_nb'):
            base = package[:len(package)-node.level+1] if node.level else []
            parts = [*base, *[p for p in (node.module or '').split('.') if p and p!='avh_nb']]
            for alias in node.names:
                whole = '.'.join([*parts, alias.name])
                found.add(whole if (PACKAGE/Path(*parts, alias.name)).with_suffix('.py').exists() else '.'.join(parts))
        if isinstance(node, ast.Import): found |= {a.name[len('avh_nb.'):] for a in node.names if a.name.startswith('avh_nb.')}
    return found-{''}

def sidebar():
    "Pages in the order of reading"
    def pages(node):
        if isinstance(node, str): yield node
        elif isinstance(node, list):
            for n in node: yield from pages(n)
        else: yield from pages(node['contents'])
    return list(pages(yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']))

def import_table():
    "Room -> rooms it may import from, as CONTRIBUTING says"
    rows = re.findall(r'^\| `([\w, ]+)` \| (.*?) \|$', (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8'), flags=re.M)
    return {room: set(re.findall(r'[\w.]+', may)) for rooms,may in rows for room in rooms.split(', ')}

def room(module): return module.split('.')[0]

def test_modules_import_only_from_rooms_of_the_table():
    table = import_table()
    assert {room(name_of(p)) for p in MODULES}==set(table), 'CONTRIBUTING names other rooms than there are'
    wrong = []
    for path in MODULES:
        here,may = name_of(path),table[room(name_of(path))]
        for target in imports(path):
            if room(target)==room(here)!='paper' or target in may or room(target) in may or 'all' in may and target!=here: continue
            wrong.append(f'{here} imports {target}')
    assert wrong==[]

def test_within_a_room_only_from_pages_that_stand_earlier():
    order = {p.removesuffix('.ipynb').replace('/', '.'): i for i,p in enumerate(sidebar())}
    wrong = [f'{name_of(p)} imports {t}' for p in MODULES for t in imports(p)
        if room(t)==room(name_of(p)) and t in order and order[t]>=order[name_of(p)]]
    assert wrong==[]

def test_no_circle():
    graph,seen = {name_of(p): imports(p) for p in MODULES},{}
    def visit(m, way):
        assert m not in way, f"a circle: {' -> '.join([*way, m])}"
        if m in seen: return
        for t in graph.get(m, ()): visit(t, [*way, m])
        seen[m] = True
    for m in graph: visit(m, [])

def test_every_page_stands_in_the_sidebar_once():
    pages = sidebar()
    assert sorted(pages)==sorted(str(p.relative_to(ROOT/'nbs')) for p in NOTEBOOKS)

def test_a_name_is_an_address():
    public = set(avh_nb.__all__)
    for p in NOTEBOOKS:
        assert not re.search(r'\d', p.stem), f'{p.name}: reading order stands in _quarto.yml, not in names'
        default = re.search(r'#\| default_exp (\S+)', p.read_text(encoding='utf-8').replace('\\n', '\n').replace('"', ' '))
        if default: assert default[1]=='.'.join(p.relative_to(ROOT/'nbs').with_suffix('').parts)
    for folder in PACKAGE.iterdir(): assert folder.stem not in public, f'{folder.stem} is a public function too'
    for p in MODULES:
        if 'triton' in p.stem or p.parent.name=='tool': continue
        assert type(importlib.import_module(f'avh_nb.{name_of(p)}')).__name__=='module'
    import avh_nb.angle as angle, avh_nb.measure.scores as scores
    assert angle.angles is avh_nb.angles and scores.score is avh_nb.score

# Pages

def cells(path): return [(c['cell_type'], ''.join(c['source'])) for c in json.loads(path.read_text(encoding='utf-8'))['cells']]
def exported(source): return re.match(r'#\| exports?i?\b', source) is not None
def lines(source): return sum(1 for l in source.split('\n') if l.strip() and not l.startswith('#|'))

LONGEST,PAGE,CELL = 140,180,40
# One kernel is one function, which a compiler has to see whole
LARGE_CELLS = {
    'engine/numba_kernels': 58, # the pass that makes a tally
    'engine/triton_engine': 76, # the kernel of all scores
}
LARGE_PAGES = {}

def test_lines_fit():
    long = [f'{p.relative_to(ROOT)}: {len(l)} characters: {l[:60]}' for p in NOTEBOOKS for kind,s in cells(p) if kind=='code'
        for l in s.split('\n') if len(l)>LONGEST and not l.startswith(('#| fig-cap: ', '#| fig-alt: '))] # text, and one string each
    assert long==[]

def test_pages_and_cells_are_small():
    wrong = []
    for p in NOTEBOOKS:
        page = str(p.relative_to(ROOT/'nbs').with_suffix(''))
        sizes = [lines(s) for kind,s in cells(p) if kind=='code' and exported(s)]
        if sum(sizes)>LARGE_PAGES.get(page, PAGE): wrong.append(f'{page}: {sum(sizes)} exported lines')
        for n in sizes:
            if n>LARGE_CELLS.get(page, CELL): wrong.append(f'{page}: a cell of {n} lines')
    assert wrong==[]

ASSERTION = re.compile(r'\bassert\b|\btest_\w+\(|pytest\.|raises|warns')

def definitions(page):
    "Each exported definition of a page, and whether the next cells use it with an assertion, before something else is exported"
    code = [s for kind,s in cells(page) if kind=='code']
    for i,s in enumerate(code):
        if not exported(s): continue
        try: tree = ast.parse(s)
        except SyntaxError: continue
        follow = []
        for t in code[i+1:]:
            if exported(t): break
            follow.append(t)
        for node in tree.body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith('_'): continue
            yield node.name,any(re.search(rf'\b{node.name}\b', t) and ASSERTION.search(t) for t in follow)

def share_of_uses():
    found = [(p, name, used) for p in NOTEBOOKS for name,used in definitions(p)]
    return sum(used for *_,used in found)/len(found),[f'{p.stem}.{name}' for p,name,used in found if not used]

def test_a_definition_is_followed_by_a_use():
    share,without = share_of_uses()
    assert share>=.8, f'{share:.0%}; without: {without}'

def test_a_cell_of_imports_holds_imports_only():
    "nbdev executes what a page imports to show its signatures, and warns about what else a cell would do"
    mixed = []
    for p in NOTEBOOKS:
        code = [s for kind,s in cells(p) if kind=='code']
        if not any(map(exported, code)): continue # nothing is executed
        for s in code:
            if re.search(r'^#\| *(export|exec_doc|eval: false)', s, flags=re.M): continue
            kinds = {type(n) for n in ast.walk(ast.parse(s))}
            if kinds & {ast.Import, ast.ImportFrom} and kinds & {ast.Expr, ast.Assign}: mixed.append(f'{p.relative_to(ROOT)}: {s[:80]}')
    assert mixed==[]

def test_ruff_finds_nothing():
    command = [Path(sys.executable).parent/'ruff', 'check', '--no-cache', '--output-format', 'concise', 'avh_nb', 'tests', 'setup.py']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode==0, done.stdout+done.stderr

def test_what_is_exported_is_shown():
    "A study shows its code: what the site would hide stands on a short list"
    hidden = [str(p.relative_to(ROOT/'nbs')) for p in NOTEBOOKS for kind,s in cells(p) if kind=='code' and s.startswith('#| exporti')]
    assert hidden==[]

def parameter_comments(source):
    "Comments beside the parameters, the result and the fields of each definition of a cell"
    comments = {t.start[0]: t.string for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type==tokenize.COMMENT}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name.startswith('_') and node.name!='__init__': continue
        if isinstance(node, ast.FunctionDef): signature = range(node.lineno, node.body[0].lineno)
        elif isinstance(node, ast.ClassDef): signature = [f.lineno for f in node.body if isinstance(f, ast.AnnAssign)]
        else: continue
        for line in signature:
            if line in comments: yield node.name,comments[line]

def test_no_signature_shows_raw_markdown():
    "nbdev makes a link of the back-ticked name of anything public, and in a signature the link is shown as it is written"
    public = {n for p in MODULES for n in re.findall(r"'(\w+)'", re.search(r'__all__ = \[(.*?)\]', p.read_text(encoding='utf-8'),
        flags=re.S)[1])}
    assert {'score', 'Head', 'AngularLinear', 'Images'} <= public
    wrong = [f'{p.relative_to(ROOT/"nbs")}: {definition}: {name}' for p in NOTEBOOKS for kind,s in cells(p) if kind=='code' and exported(s)
        for definition,comment in parameter_comments(s) for name in re.findall(r'`([\w.]+)`', comment) if set(name.split('.')) & public]
    assert wrong==[]

def test_parameter_comments_are_found():
    source = """
def f(
    x, # What `score` takes
)->int: # A number
    "Says"
    return 1 # not this

class A:
    b: int # Field
    def __init__(self,
        c, # Argument
    ): pass
    def _hidden(self, # no
    ): pass
"""
    assert list(parameter_comments(source))==[('f', '# What `score` takes'), ('f', '# A number'), ('A', '# Field'),
        ('__init__', '# Argument')]

@pytest.mark.parametrize('page', NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT/'nbs')))
def test_links_lead_somewhere(page):
    "In JupyterLab, relative links of a page and of what it printed"
    nb = json.loads(page.read_text(encoding='utf-8'))
    texts = [''.join(c['source']) for c in nb['cells'] if c['cell_type']=='markdown']
    texts += [''.join(o['data']['text/markdown']) for c in nb['cells'] for o in c.get('outputs', []) if 'text/markdown' in o.get('data',
        {})]
    for link in re.findall(r'\]\(([^)\s]+)\)', '\n'.join(texts)):
        if re.match(r'https?:|#|mailto:', link): continue
        path = link.split('#')[0]
        assert not path.endswith('.html'), f'{link} is dead in JupyterLab: link to the notebook'
        assert (page.parent/path).exists(), link
