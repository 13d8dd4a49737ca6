"The site, built once for all of these tests, as text and in a browser."
import fcntl, importlib.util, json, os, re, shutil, sys
from functools import cache
from html import unescape
from pathlib import Path
import nbformat, pytest
from browser import CHROMIUM, Browser
from test_house import sidebar
from test_project import IGNORE, ROOT, run
from avh_nb.tool.api import taken
from avh_nb.tool.api import STUDY_ROOMS
from avh_nb.tool.colab import COLAB_CELL, IN_COLAB
from avh_nb.tool.main import COMMANDS
from avh_nb.tool.render import check_site, notebook_address, settings, site_address

pytestmark = pytest.mark.skipif(sys.version_info<(3, 11) and not shutil.which('quarto'), reason='no renderer')
GITHUB = settings(ROOT)['git_url']

@pytest.fixture(scope='session')
def built(tmp_path_factory):
    "A copy of the checkout with its site, and what was printed; whoever comes second waits for the first"
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get('PYTEST_XDIST_WORKER'): folder = folder.parent # which all processes share
    copy,said = folder/'site',folder/'site.json'
    with open(folder/'site.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            shutil.copytree(ROOT, copy, symlinks=True, ignore=IGNORE)
            done = run(sys.executable, '-m', 'avh_nb', *COMMANDS['site'].example.split()[1:], cwd=copy)
            said.write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
    return copy,json.loads(said.read_text())

@cache
def read(path): return path.read_text(encoding='utf-8')

@pytest.fixture(scope='session')
def docs(built): return built[0]/'_docs'

@pytest.fixture(scope='session')
def pages(docs): return {p.relative_to(docs).with_suffix('').as_posix(): read(p) for p in sorted(docs.rglob('*.html'))}

def test_it_builds_without_a_broken_link_or_a_warning(built, docs, tmp_path):
    copy,(code,out,err) = built
    assert code==0, out+err
    assert ' 0 broken' in out and 'Warning' not in out+err
    for p in (copy/'nbs').rglob('*.ipynb'): assert (docs/p.relative_to(copy/'nbs').with_suffix('.html')).exists(), p
    shutil.copytree(docs/'paper', tmp_path/'paper')
    (tmp_path/'index.html').write_text('<a href="nowhere.html">x</a>')
    assert 'index.html: nowhere.html' in check_site(tmp_path)['broken']

@pytest.mark.parametrize('name,figures', [('human', 4), ('dynamics', 2), ('conjecture', 4), ('degradation', 3), ('gap', 2),
    ('selftrain', 4), ('domaingen', 3), ('adversarial', 4)])
def test_studies_show_their_figures(pages, name, figures):
    page = pages[f'paper/{name}']
    assert page.count('<img')>=figures and page.count('<figcaption')>=figures and len(page)<3_000_000

# Names

SIGNATURE = re.compile(r'<h(\d) id="([^"]*)"[^>]*>([^<]+)</h\d>\s*(<div class="code-copy-outer-scaffold">.*?</pre>)', flags=re.S)

def test_links_to_github_lead_to_what_they_name(pages):
    "A source is that of the name below the link; any other link names a file"
    wrong,sources = [],0
    for name,text in pages.items():
        named = re.findall(r'blob/main/([^"#]+)#L(\w+)"[^>]*>source</a></p>\s*<h\d id="[^"]*"[^>]*>([^<]+)</h', text)
        for found,line,heading in named:
            sources += 1
            code = read(ROOT/found).splitlines()
            defined = line.isdigit() and re.match(r'\s*(?:async )?(?:def|class) (\w+)', code[int(line)-1])
            if found!=f'avh_nb/{name}.py' or not defined or defined[1]!=heading.split('.')[-1]:
                wrong.append(f'{name}: {heading}: {found}#L{line}')
        lines = re.findall(rf'href="{GITHUB}/blob/main/[^"#]+#L', text)
        if len(lines)!=len(named): wrong.append(f'{name}: {len(lines)-len(named)} links to lines that name nothing')
        wrong += [f'{name}: {path}' for path in re.findall(rf'href="{GITHUB}/blob/main/([^"#?]+)', text)
            if not (ROOT/unescape(path)).exists()]
    assert wrong==[] and sources>200

def test_names_are_said_once_and_plainly(pages):
    wrong = []
    for name,text in pages.items():
        found = SIGNATURE.findall(text)
        wrong += [f'{name}: {heading}: a link in the signature' for *_,heading,code in found if '](http' in code]
        headings = [heading for *_,heading,_ in found]
        wrong += [f'{name}: {h} is shown twice' for h in set(headings) if headings.count(h)>1]
        wrong += [f'{name}: {link} has no page' for link in re.findall(rf'<a href="{re.escape(site_address(ROOT))}/[^"]*"', text)]
        if 'Call self as a function' in text: wrong.append(f'{name}: no docstring')
        if re.search(r'<details open[^>]*class="code-fold"', text): wrong.append(f'{name}: a source is unfolded')
        levels = [1]+[int(l) for l in re.findall(r'<h(\d)[ >]', text.split('<main')[1].split('</header>', 1)[1])]
        wrong += [f'{name}: from a heading of level {a} to one of {b}' for a,b in zip(levels, levels[1:]) if b>a+1]
    assert wrong==[]

def test_main_names_stand_at_the_first_look(pages):
    "Where a page begins with an example of its own names, their signatures come before all others"
    looked = 0
    for path in (ROOT/'nbs').rglob('*.ipynb'):
        name = path.relative_to(ROOT/'nbs').with_suffix('').as_posix()
        code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type=='code']
        code = [c for c in code if not re.match(r'#\| *(hide|export\b|default_exp)', c)]
        names = taken(code[0], f"avh_nb.{name.replace('/', '.')}") if len(code)>1 else []
        shown = [h for _,_,h,_ in SIGNATURE.findall(pages[name])]
        documented = [n for n in names if n in shown]
        if name.split('/')[0] in STUDY_ROOMS or not documented: continue
        looked += 1
        assert shown[:len(documented)]==documented, name
    assert looked>=2 # of this room alone

# Getting about

def test_every_page_says_what_it_is_and_leads_on(pages):
    order,ini = [p.removesuffix('.ipynb') for p in sidebar()],settings(ROOT)
    for name,text in pages.items():
        here,up = notebook_address(ROOT),'../'*name.count('/')
        assert re.search(r'<html[^>]* lang="en"', text), name
        for said in ('name="description"', 'property="og:description"'): assert f'<meta {said} content="' in text, (name, said)
        assert (ROOT/'nbs'/re.search(rf'property="og:image" content="{site_address(ROOT)}/([^"]+)"', text)[1]).exists(), name
        assert f'<link rel="icon" href="{up}favicon.svg">' in text, name
        assert f'href="{here}/{name}.ipynb">GitHub</a>' in text and f'href="{name.split("/")[-1]}.ipynb" download' in text, name
        assert ('href="https://colab' in text)==name.startswith(IN_COLAB), name
        assert re.search(rf'avh_nb {re.escape(ini["version"])}, built on 20\d\d-\d\d-\d\d from <a href="{GITHUB}/tree/\w+">', text), name
        assert len(re.findall('class="pagination-link"', text))==1+(name not in (order[0], order[-1])), name
        assert 'id="quarto-back-to-top"' in text and 'quarto-color-scheme-toggle' in text, name
        stop = re.search(r'<(?:a|button|input)\b[^>]*>', text.split('<body')[1])[0]
        assert stop=='<a class="skip-link" href="#quarto-document-content">' and 'id="quarto-document-content"' in text, name

def test_the_notebook_beside_a_page_is_its_own(docs):
    for p in (ROOT/'nbs').rglob('*.ipynb'): assert (docs/p.relative_to(ROOT/'nbs')).read_bytes()==p.read_bytes(), p

# Colab

def test_pages_with_a_link_to_colab_begin_with_its_cell():
    without = []
    for path in [p for room in IN_COLAB for p in (ROOT/'nbs'/room).glob('*.ipynb')]:
        code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type=='code' and '#| default_exp' not in c.source]
        if code[0]!=COLAB_CELL: without.append(str(path.relative_to(ROOT)))
    assert without==[], 'avh site notebooks puts it there, and so does avh_nb.tool.colab.add_colab_cells alone'

@pytest.mark.skipif(not (ROOT/'.git').exists(), reason='not a repository')
def test_the_cell_for_colab_fetches_the_package_and_its_records(tmp_path):
    "On a machine that takes itself for Colab, where the repository is this one and pip writes down what it is asked for"
    pip = tmp_path/'bin'/'pip'
    pip.parent.mkdir()
    pip.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'); pip.chmod(0o755)
    config = {f'url.{ROOT}.insteadOf': f'{GITHUB}', 'safe.directory': '*'}
    env = dict(COLAB_RELEASE_TAG='release', PATH=f"{pip.parent}:{os.environ['PATH']}", GIT_CONFIG_COUNT=str(len(config)), PYTHONPATH='')
    for i,(k,v) in enumerate(config.items()): env |= {f'GIT_CONFIG_KEY_{i}': k, f'GIT_CONFIG_VALUE_{i}': v}
    cell = COLAB_CELL+"\nimport importlib.util\nprint(importlib.util.find_spec('avh_nb').origin, os.path.realpath('../../results'))"
    (tmp_path/'content').mkdir()
    (tmp_path/'cell.py').write_text(f'for _ in range(2): exec({cell!r})') # twice: a reader may run it again
    done = run(sys.executable, tmp_path/'cell.py', cwd=tmp_path/'content', **env)
    assert done.returncode==0, done.stderr
    there = tmp_path/'content'/'avh_nb'
    assert done.stdout.split()==[str(there/'avh_nb'/'__init__.py'), str((there/'results').resolve())]*2
    assert (there/'results').is_dir() and (there/'nbs'/'index.ipynb').exists()
    asked = (tmp_path/'asked').read_text().splitlines()
    assert len(asked)==1
    extras = re.fullmatch(r'install -q -e avh_nb\[([\w,]+)\]', asked[0])[1].split(',')
    assert {f'{e}_requirements' for e in extras}<=set(settings(ROOT))

# In a browser

@pytest.fixture(scope='session')
def browser(tmp_path_factory):
    if not CHROMIUM: pytest.skip('no Chromium')
    pytest.importorskip('websocket')
    with Browser(tmp_path_factory.mktemp('profile')) as b: yield b

WIDE = """[...document.querySelectorAll('.table-region, main table')].filter(t => t.offsetParent && t.scrollWidth > t.clientWidth+1)
  .map(t => (t.ariaLabel || 'a table')+': '+t.scrollWidth+' pixels in '+t.clientWidth)"""
ASIDE = 'document.documentElement.scrollWidth-document.documentElement.clientWidth'

def test_nothing_is_cut_off(browser, docs, record_property):
    "At 1280 pixels no table is wider than its column, and the column is wide; at 390 no page is wider than the screen"
    browser.mode('light')
    wide,aside,narrow,n = [],[],[],0
    for page in sorted(docs.rglob('*.html')):
        name = page.relative_to(docs)
        browser.size(1280); browser.open(page)
        wide += [f'{name}: {t}' for t in browser.run(WIDE)]
        if (width := browser.run("document.querySelector('main').clientWidth"))<740: narrow.append(f'{name}: {width}')
        browser.size(390)
        if (more := browser.run(ASIDE))>0: aside.append(f'{name}: {more}')
        n += 1
    record_property('pages measured', f'{n}, with {len(wide)} tables wider than their column at 1280 pixels, '
        f'and {len(aside)} pages wider than the screen at 390')
    assert (wide, narrow, aside)==([], [], []) and n>100

def axe():
    found = importlib.util.find_spec('axe_playwright_python')
    if not found: pytest.skip('no axe-playwright-python')
    return (Path(found.submodule_search_locations[0])/'axe.min.js').read_text(encoding='utf-8')

VIOLATIONS = """axe.run().then(r => r.violations.map(v => v.id+' ('+v.nodes.length+'): '+v.nodes[0].html.slice(0, 200)))"""

def test_axe_finds_no_violation(browser, docs, record_property):
    "Of the rules of axe-core: contrast, names, landmarks, headings, images; in both modes"
    program,found,counts = axe(),[],[]
    for page,mode in (*((p, 'light') for p in ('index', 'paper/human', 'paper/dynamics', 'watch/tracker', 'measure/model')),
        ('index', 'dark'), ('paper/human', 'dark')):
        browser.mode(mode); browser.size(1280); browser.open(docs/f'{page}.html')
        browser.run('new Promise(r => setTimeout(r, 150))') # a theme may fade in
        browser.run(program+';0')
        got = browser.run(VIOLATIONS)
        counts.append(f'{len(got)} on {page} ({mode})')
        found += [f'{page} ({mode}): {v}' for v in got]
    browser.mode('light')
    record_property('axe-core violations', ', '.join(counts))
    assert found==[]

def test_axe_finds_what_is_wrong(browser, tmp_path):
    (tmp_path/'a.html').write_text('<html lang="en"><title>a</title><main><h1>a</h1><img src="a.png"><p style="color: #aaa">'
        'words of a text</p></main>')
    browser.open(tmp_path/'a.html'); browser.run(axe()+';0')
    assert {v.split()[0] for v in browser.run(VIOLATIONS)}>={'image-alt', 'color-contrast'}

def test_the_keyboard_reaches_everything(browser, docs):
    browser.mode('light'); browser.size(1280); browser.open(docs/'paper'/'human.html')
    browser.key('Tab')
    assert browser.run('document.activeElement.className')=='skip-link'
    browser.key('Enter')
    assert browser.run('document.activeElement.id')=='quarto-document-content'
    assert browser.run("document.querySelectorAll('[data-bs-toggle=collapse]:not(button)').length")==0
    browser.run("document.querySelector('#quarto-sidebar button[data-bs-toggle=collapse]').focus()")
    before = browser.run('document.activeElement.ariaExpanded')
    browser.key('Enter')
    assert before=='true' and browser.run('document.activeElement.ariaExpanded')=='false'

def test_a_table_of_claims_is_cards_on_a_phone(browser, docs):
    browser.mode('light'); browser.size(390); browser.open(docs/'index.html')
    shown = "getComputedStyle(document.querySelector('table.claims tbody tr')).display"
    label = "getComputedStyle(document.querySelector('table.claims td[data-label]'), '::before').content"
    claims = "[...document.querySelectorAll('table.claims tbody tr')].filter(r => r.cells[1].textContent.trim())" # but for the titles
    badges = f"document.querySelectorAll('table.claims .verdict').length == {claims}.length"
    assert browser.run(shown)=='block' and browser.run(label)!='none' and browser.run(badges)
    browser.size(1280)
    assert browser.run(shown)=='table-row' and browser.run(label)=='none'
