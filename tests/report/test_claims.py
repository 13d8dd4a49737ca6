"One table decides the verdicts and explains them; rows of the table of claims lead to page and record."
import re
from importlib.metadata import metadata
from pathlib import Path
import pytest
from avh_nb.report import claims as page
from avh_nb.report.claims import STUDIES, Claim, claims_of, claims_table, legend, links_of
from avh_nb.stats.correlation import Interval
from avh_nb.stats.verdict import VERDICTS, Verdict

HOME = metadata('avh_nb')['Home-page']
ABOVE,BELOW,ACROSS = Interval(2, 1, 3),Interval(-2, -3, -1),Interval(0, -1, 1)

def words(): return [i.verdict() for i in (ABOVE, BELOW, ACROSS)]

def meanings(): return dict(re.findall(r'^- \*\*([\w ]+)\*\*: (.*)$', legend(), flags=re.M))

def test_the_legend_says_what_is_decided():
    "Each word is asked of an interval of its kind, and its line in the legend speaks of it"
    assert words()==['yes', 'no', 'open'] and Verdict.together(words()[:2])=='mixed'
    said = meanings()
    assert list(said)==list(VERDICTS)
    for word,must in (('yes', 'lies where'), ('no', 'elsewhere'), ('open', 'across'), ('mixed', 'differ'), ('error', 'not be computed'),
            ('not tested here', 'nothing here')):
        assert must in said[word]
        assert not any(must in text for other,text in said.items() if other!=word), word

@pytest.mark.parametrize('mutant,found', [
    (lambda v: {'no': v['yes'], 'yes': v['no']}, ['no', 'yes', 'open']), # the words changed places
    (lambda v: {'yes': ('', lambda sides: True)}, ['yes', 'yes', 'yes']),
    (lambda v: {'open': ('', lambda sides: False), 'mixed': ('', lambda sides: sides=={'both'})}, ['yes', 'no', 'mixed'])])
def test_the_table_decides_and_nothing_else_does(mutant, found, monkeypatch):
    "A change of the table changes verdicts and legend together"
    changed = mutant(dict(VERDICTS))
    for word,line in changed.items(): monkeypatch.setitem(VERDICTS, word, line)
    assert words()==found
    assert {k: v for k,v in meanings().items() if k in changed}=={k: f'{text}.' for k,(text,_) in changed.items()}

@pytest.mark.parametrize('interval,judge,word,rule', [
    (ABOVE, lambda i: i.verdict(1), 'open', 'above 1'), # the end itself is not above
    (ABOVE, lambda i: i.verdict(.999), 'yes', 'above 0.999'),
    (ABOVE, lambda i: i.below(3.5), 'yes', 'below 3.5'), (ABOVE, lambda i: i.below(0), 'no', 'below 0'),
    (ACROSS, lambda i: i.within(1.5), 'yes', 'from -1.5 to 1.5'), (ACROSS, lambda i: i.within(.5), 'open', 'from -0.5 to 0.5'),
    (BELOW, lambda i: i.within(.5), 'no', 'from -0.5 to 0.5')])
def test_a_verdict_knows_its_rule(interval, judge, word, rule):
    v = judge(interval)
    assert (v, v.rule, v.interval)==(word, rule, interval)

def test_what_is_not_tested_here_is_said_and_never_decided():
    sides = ['claimed', 'other', 'both']
    every = [{s for s,bit in zip(sides, f'{i:03b}') if bit=='1'} for i in range(8)]
    assert {Verdict.of(s) for s in every}=={'yes', 'no', 'open', 'mixed'}
    c = Claim('ImageNet', '59.23 %', 'ImageNet is not at hand', 'not tested here')
    assert (c.rule, c.inside, c.told)==('', None, 'ImageNet is not at hand')
    assert claims_table([c]).split('\n')[-1]=='| ImageNet | 59.23 % | ImageNet is not at hand | – | not tested here | – |'
    with pytest.raises(ValueError, match='holds: expected one of .*not tested here.*, got .untested.'): Claim('', '', '', 'untested')

def test_a_terminal_shows_what_is_not_tested(capsys):
    page.print_claims([Claim('a', 'b', 'c', 'not tested here')], width=60)
    assert [l.split(' | ')[0].strip() for l in capsys.readouterr().out.split('\n')[2:5]]==['not', 'tested', 'here']

def test_the_site_has_a_badge_for_every_verdict():
    from avh_nb.tool.tables import VERDICTS as badges
    css = (Path(__file__).parents[2]/'nbs'/'styles.css').read_text(encoding='utf-8')
    assert set(badges)==set(VERDICTS)
    for word in VERDICTS: assert f".verdict-{word.replace(' ', '-')} {{" in css or f".verdict-{word.replace(' ', '-')}," in css, word

@pytest.mark.parametrize('published,inside', [('1.5', True), ('+3', True), ('1', True), ('0.9', False), ('-2', False), ('a figure', None),
    ('+5.1 (VisDA)', None), ('', None)])
def test_the_published_value_is_compared_where_it_can_be(published, inside):
    told = {None: '2', True: '2; published value inside', False: '2; published value outside'}[inside]
    c = Claim('', published, '2', ABOVE.verdict())
    assert c.inside is inside and c.told==told
    assert Claim('', published, '2', 'yes').inside is None # a plain word has no interval

def test_each_row_leads_to_page_and_record():
    of = claims_of('human')+claims_of('selftrain')
    rows = claims_table(of, '../').split('\n')[2:]
    titles = [r for r in rows if r.startswith('| **')]
    assert titles==['| **Human eyes** |  |  |  |  |  |', '| **Self-training across domains** |  |  |  |  |  |']
    rows = [r for r in rows if r not in titles]
    assert len(rows)==len(of)
    for row,c in zip(rows, of):
        assert f'[page](../paper/{c.study}.ipynb)' in row and f'[record]({HOME}/blob/main/results/{c.study}.jsonl)' in row
        assert row.split(' | ')[-2]==c.holds

def test_only_records_that_are_there_are_linked(monkeypatch, tmp_path):
    monkeypatch.setenv('AVH_RESULTS', str(tmp_path))
    for name in STUDIES: assert 'record' not in links_of(name) and f'({page.page_of(name)})' in links_of(name)
