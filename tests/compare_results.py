"""What two checkouts say: the table of claims, the README's table, and every number of the executed pages of studies and of index.

python tests/compare_results.py OLD NEW

Pages are matched by name, without leading digits. Nothing is executed but the claims. Exits with 1 if a number differs.
"""
import difflib, json, os, re, subprocess, sys
from collections import Counter
from html import unescape
from pathlib import Path

CLAIMS = "import json; from avh_nb.{} import {} as rows; print('ROWS'+json.dumps([list(r) for r in rows()]))"
NUMBER = re.compile(r'[-+−]?(?:\d[\d,]*\d|\d)(?:\.\d+)?(?:e[-+]?\d+)?')

def claim_rows(root):
    "The table of claims as a checkout computes it: lists of claim, published, here, holds"
    env = {k: v for k,v in os.environ.items() if k!='AVH_RESULTS'} | dict(PYTHONPATH=str(root), OMP_NUM_THREADS='1', MPLBACKEND='agg')
    where = ('report.claims', 'claims') if (root/'avh_nb'/'report'/'claims.py').exists() else ('site', 'claim_table')
    done = subprocess.run([sys.executable, '-c', CLAIMS.format(*where)], cwd=root, env=env, capture_output=True, text=True)
    if done.returncode: sys.exit(f'{root}: {done.stderr}')
    return json.loads(done.stdout.split('ROWS')[1])

def readme_rows(root):
    "The table of claims in the README, as lists of cells"
    lines = (root/'README.md').read_text(encoding='utf-8').splitlines()
    start = next(i for i,l in enumerate(lines) if re.match(r'\| claim \|', l))
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith('|'))
    return [[c.strip() for c in l.strip('|').split('|')] for l in lines[start+2:end]]

def pages(root):
    "Name of a page -> its notebook, for index and the studies"
    found = [*[p for room in ('paper', 'beyond') for p in sorted((root/'nbs'/room).glob('*.ipynb'))], root/'nbs'/'index.ipynb']
    return {re.sub(r'^\d+[a-z]?_', '', p.stem): p for p in found}

def texts(path):
    "What the cells of a notebook put out in words: Markdown, HTML without tags and scripts, text"
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        for out in cell.get('outputs', []):
            if out.get('name')=='stderr': continue # progress bars
            data = out.get('data', {})
            kind = next((k for k in ('text/markdown', 'text/html', 'text/plain') if k in data), None)
            text = ''.join(data[kind] if kind else out.get('text', ''))
            if kind=='text/html': text = unescape(re.sub(r'<(style|script)\b.*?</\1>|<[^>]*>', ' ', text, flags=re.S))
            if kind=='text/plain' and 'image/png' in data or re.match(r'<(?:Figure|IPython)', text): continue
            yield kind or 'text',text

def numbers(path):
    "All numbers of a page in their order, and how many tables hold them"
    found,tables = [],0
    for _,text in texts(path):
        tables += len(re.findall(r'^\|(?:\s*:?-+:?\s*\|)+\s*$', text, flags=re.M))
        text = re.sub(r'\]\([^)]*\)|0x[0-9a-f]+', ' ', text) # addresses
        found += NUMBER.findall(text)
    html = [o['data']['text/html'] for c in json.loads(path.read_text(encoding='utf-8'))['cells'] for o in c.get('outputs', [])
        if 'text/html' in o.get('data', {})]
    return found,tables+sum(''.join(h).count('<table') for h in html)

def differences(old, new):
    "Pairs of what stands in one place; an empty string where there is nothing"
    found = []
    for op,a,b,c,d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if op=='equal': continue
        pairs = [*old[a:b], *['']*max(0, d-c-b+a)],[*new[c:d], *['']*max(0, b-a-d+c)]
        found += list(zip(*pairs))
    return found

def report(what, old, new, show=str):
    "Print what differs; how many do"
    found = differences(old, new)
    print(f'{what}: {len(old)} old, {len(new)} new, {len(found)} differ')
    for a,b in found: print(f'    {show(a) or "(none)"} -> {show(b) or "(none)"}')
    return len(found)

def main(old, new):
    old,new = Path(old).resolve(),Path(new).resolve()
    def row(cells): return ' | '.join(cells)
    n = report('rows of the table of claims', [*map(row, claim_rows(old))], [*map(row, claim_rows(new))])
    n += report("rows of the README's table", [*map(row, readme_rows(old))], [*map(row, readme_rows(new))])
    before,after = pages(old),pages(new)
    for name in before:
        if name not in after: print(f'{name}: not in {new}'); n += 1; continue
        (a,tables),(b,tables_now) = numbers(before[name]),numbers(after[name])
        n += report(f'{name}: {tables} tables old, {tables_now} new; numbers', a, b)
    for name in after.keys()-before.keys(): print(f'{name}: new, {len(numbers(after[name])[0])} numbers, not compared')
    lost = Counter(k for p in before.values() for k in numbers(p)[0])-Counter(k for p in after.values() for k in numbers(p)[0])
    print(f'numbers that no page has any more, wherever they moved: {sum(lost.values())}', *lost)
    print('all the same' if not n else f'{n} differences')
    return n>0

if __name__=='__main__':
    if len(sys.argv)!=3: sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
