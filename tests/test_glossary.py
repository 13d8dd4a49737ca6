"The glossary: in alphabetical order, whole for the abbreviations of the README, and every link to it meets a term."
import json, re
from pathlib import Path

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT/'nbs'/'glossary.ipynb'
EXPLAINED = {'AVC', 'AVH', 'CBST', 'CRST', 'ERM', 'Family', 'Gate', 'HSF', 'LRENT', 'MRKLD', 'Neighbour', 'Record', 'Twin', 'Verdict',
    'A-Softmax', 'Angular Fisher score', 'Annealing', 'Ceiling', 'CNN-9', 'GAN', 'Half-space', 'L-Softmax', 'Margin', 'MHE', 'Psi (ψ)'}
# Formats, parts of a machine, licences, and files: no words of this project
COMMON = {'BY', 'CC', 'CITATION', 'CONTRIBUTING', 'CPU', 'CSV', 'DIR', 'FILE', 'GPU', 'HTML', 'ICML', 'JPEG', 'JSON', 'PNG', 'README',
    'SQL', 'STUDY', 'VGG', 'VOTES'}

def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']

def said(path):
    "Text and printed Markdown of a page"
    for c in cells(path):
        yield ''.join(c['source'])
        for o in c.get('outputs', []): yield ''.join(o.get('data', {}).get('text/markdown', ''))

def terms():
    "Term -> what is said of it"
    text = '\n'.join(''.join(c['source']) for c in cells(GLOSSARY))
    return {t: d.strip() for t,d in re.findall(r'^### (.+)\n([^#]*)', text, flags=re.M)}

def anchor(term):
    "The address of a heading on the page, as Pandoc makes it"
    return re.sub(r'[^\w\s-]', '', term).strip().lower().replace(' ', '-')

def abbreviations(text):
    "Words in capitals, outside code, addresses and the citation"
    text = re.sub(r'```.*?```|`[^`]*`|\]\([^)]*\)|https?://\S+', ' ', text, flags=re.S)
    return set(re.findall(r'(?<![\w-])[A-Z][A-Z0-9-]*[A-Z0-9](?!\w)', text))-COMMON

def test_terms_stand_in_alphabetical_order_and_say_something():
    found = terms()
    assert len(found)>40 and list(found)==sorted(found, key=str.casefold)
    assert len({anchor(t) for t in found})==len(found)
    for term,text in found.items():
        assert 20<len(text)<400 and re.search(r'\]\([\w/]+\.ipynb\)$', text), f'{term}: a sentence or two, and the page where it lives'

def test_what_a_reader_meets_is_explained(): assert EXPLAINED <= set(terms())

def test_the_abbreviations_of_the_readme_and_its_claims_are_explained():
    readme = (ROOT/'README.md').read_text(encoding='utf-8')
    assert {'AVH', 'CBST', 'PACS'} <= abbreviations(readme)
    assert abbreviations(readme)-set(terms())==set()

def test_abbreviations_are_found():
    assert abbreviations('CBST and `SQL`, [see AVC](ABC.html); CNN-9. A word, ResNet, CSV.')=={'CBST', 'AVC', 'CNN-9'}

def test_links_to_the_glossary_lead_to_a_term():
    there,dead = {anchor(t) for t in terms()},[]
    for path in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in path.parts: continue
        dead += [f'{path.relative_to(ROOT)}: {a}' for text in said(path) for a in re.findall(r'glossary\.ipynb#([^\s)]+)', text)
            if a not in there]
    assert dead==[]
    assert anchor('Second class')=='second-class' and anchor('HSF')=='hsf'
