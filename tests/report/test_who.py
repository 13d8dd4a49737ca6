"Who is hard, as a table, a figure and kept ranks."
import os
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from avh_nb.report.plots import STYLES, register
from avh_nb.report.phone import narrowed, smallest_text
from avh_nb.report.who import draw_who, keep_ranks, read_ranks, who_table
from avh_nb.stats.correlation import Interval, spearman
from avh_nb.stats.human import FOLLOWED, Who, who_is_hard
from avh_nb.tool.tables import dress_tables

def who(ratio, *change):
    def interval(v): return Interval(v, v-.03, v+.02)
    return Who(.4, .5, .45, interval(ratio), interval(1), dict.fromkeys(FOLLOWED, .3), dict(zip(FOLLOWED, map(interval, change))))

NAMED = {'margin': who(.9, .1, -.2, 0), 'energy': who(1.1, 0, .3, -.1)}

def test_the_table_says_what_was_found():
    head,_,*rows = who_table(NAMED).split('\n')
    assert head.count('|')==7 and [r.split(' | ')[0] for r in rows]==['| margin', '| energy']
    assert rows[0]==('| margin | 0.90<br>[0.87, 0.92] | 1.00<br>[0.97, 1.02] | +0.100<br>[+0.070, +0.120] | '
        '-0.200<br>[-0.230, -0.180] | +0.000<br>[-0.030, +0.020] |')

def test_the_site_sets_its_numbers_to_the_right():
    head,_,row,_ = [[c.strip() for c in l.strip('|').split('|')] for l in who_table(NAMED).split('\n')]
    cells = [''.join(f'<{tag}>{c}</{tag}>' for c in cells) for tag,cells in (('th', head), ('td', row))]
    made = dress_tables(f'<table><thead><tr>{cells[0]}</tr></thead><tr>{cells[1]}</tr></table>')
    assert made.count('class="num"')==10 and made.count('class="interval"')==5

@pytest.fixture
def fig():
    draw_who(NAMED)
    yield plt.gcf()
    plt.close('all')

def bars(ax): return [s[:, 0].round(6).tolist() for c in ax.collections for s in c.get_segments()]

def test_the_figure_shows_what_the_table_says(fig):
    left,right = fig.axes
    assert bars(left)==[pytest.approx([i.low, i.high]) for of in ('ratio', 'corrected') for i in (getattr(w, of) for w in NAMED.values())]
    assert [t.get_text() for t in left.get_legend().get_texts()]==['as it is', 'noise taken out']
    assert bars(right)==[pytest.approx([w.change[k].low, w.change[k].high]) for k in FOLLOWED for w in NAMED.values()]
    for ax,at in ((left, 1), (right, 0)): assert [l.get_xdata() for l in ax.lines if len(l.get_xdata())==2]==[[at]*2]
    assert [t.get_text() for t in left.get_yticklabels()]==list(NAMED)
    assert [t.get_text() for t in right.get_legend().get_texts()]==['AVH', 'confidence', 'norm of x']
    for ax in fig.axes: assert ax.get_xlabel() and ax.get_ylim()[0]>ax.get_ylim()[1]

def test_scores_differ_without_colour_and_do_not_lie_on_each_other(fig):
    points = [l for l in fig.axes[1].lines if l.get_marker() not in ('|', 'None', None, '')]
    assert len({p.get_marker() for p in points})==3
    assert len({tuple(p.get_ydata()) for p in points})==6

def test_a_phone_shows_one_panel_below_the_other(fig):
    tall = narrowed(fig)
    places = [ax.get_subplotspec() for ax in tall.axes]
    assert {p.colspan.start for p in places}=={0} and {p.rowspan.start for p in places}=={0, 1}
    assert smallest_text(tall)>=8 and all([t.get_text() for t in ax.get_yticklabels()]==list(NAMED) for ax in tall.axes)

def test_names_are_those_of_the_plots():
    register('a toy', label='a toy change', color=1)
    try:
        assert '| a toy change |' in who_table({'a toy': NAMED['margin']})
        draw_who({'a toy': NAMED['margin']})
        assert [t.get_text() for t in plt.gcf().axes[0].get_yticklabels()]==['a toy change']
    finally: STYLES.pop('a toy'); plt.close('all')

@pytest.mark.parametrize('make', [who_table, draw_who])
def test_what_is_no_answer(make):
    with pytest.raises(ValueError, match='named: expected at least one change'): make({})
    with pytest.raises(ValueError, match=r"named\['b'\]: expected what `who_is_hard` returns, got float"): make(dict(NAMED, b=.9))

# Ranks

def exact(v): return (stats.rankdata(v)-.5)/len(v)

@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 600), st.integers(1, 50))
def test_a_rank_is_the_share_of_images_below(seed, n, levels):
    "Against exact shares: the order is kept, ties stay ties, and no image is further off than a 256th"
    from avh_nb.report.who import _rank
    v = np.random.default_rng(seed).integers(0, levels, n)/7
    got = _rank(v, 'avh', n)
    assert got.dtype==np.uint8 and (np.diff(got[np.argsort(v)].astype(int))>=0).all()
    assert all(len(set(got[v==x]))==1 for x in set(v))
    assert (got==np.floor(256*exact(v)+1e-9)).all()
    if n<=256 and levels>1: assert len(set(got))==len(set(v)) # nothing is lost

@pytest.fixture
def made():
    "Ten thousand images: AVH and confidence as networks have them, and people who say the same of many"
    rng = np.random.default_rng(0)
    easy = rng.beta(5, 1, 10_000)
    return dict(avh=-easy+.2*rng.normal(size=10_000), confidence=(1/(1+np.exp(-12*easy-3*rng.normal(size=10_000)))).astype('float16'),
        norm=np.exp(easy+rng.normal(size=10_000))),np.round(easy*51)/51

def test_kept_ranks_correlate_as_the_scores_do(made, tmp_path, record_property):
    scores,human = made
    keep_ranks(tmp_path/'a'/'run.parquet', **scores)
    kept = read_ranks(tmp_path/'a'/'run.parquet')
    assert list(kept)==list(FOLLOWED) and len(kept)==10_000 and os.listdir(tmp_path/'a')==['run.parquet']
    off = [abs(spearman(kept[k], b)-spearman(scores[k], a)) for k in FOLLOWED for a,b in ((human, human), (scores['avh'], kept['avh']))]
    size = (tmp_path/'a'/'run.parquet').stat().st_size
    record_property('ranks in 8 bits', f'{size/3000:.1f} KB per score of 10,000 images, correlations off by at most {max(off):.1e}')
    assert max(off)<1e-3 and size<3*12_000

def test_coarser_ranks_would_be_noticed(made):
    "In three bits the error is larger than what is allowed"
    scores,human = made
    assert abs(spearman(exact(scores['avh'])*8//1, human)-spearman(scores['avh'], human))>1e-3

def test_the_answer_is_the_same_from_ranks(made, tmp_path):
    scores,human = made
    rng = np.random.default_rng(1)
    def runs(noise): return [{k: v[:2000]+noise*v.std()*rng.normal(size=2000) for k,v in scores.items()} for _ in range(3)]
    kinds = [runs(.3), runs(.6)]
    def kept(run, name):
        keep_ranks(tmp_path/name, **run)
        return read_ranks(tmp_path/name)
    w = who_is_hard(*kinds, human[:2000], 20)
    r = who_is_hard(*([kept(run, f'{i}{j}') for j,run in enumerate(k)] for i,k in enumerate(kinds)), human[:2000], 20)
    np.testing.assert_allclose(r.ratio, w.ratio, atol=1e-3)
    for k in FOLLOWED: np.testing.assert_allclose(r.change[k], w.change[k], atol=1e-3)

@pytest.mark.parametrize('score,values,said', [('confidence', [1, np.nan, 2], 'expected finite values, got nan at index 1'),
    ('norm', [1, 2], 'expected 3 values, as avh has, got 2: index 2 is in one alone'),
    ('confidence', [1, 2, 3, 4], 'expected 3 values, as avh has, got 4: index 3 is in one alone'),
    ('avh', [[1, 2, 3]], r'expected shape \(N,\), N at least 1, got \(1, 3\)'),
    ('avh', [], r'expected shape \(N,\), N at least 1, got \(0,\)'),
    ('avh', .5, r'expected shape \(N,\), N at least 1, got \(\)')])
def test_scores_that_cannot_be_kept(score, values, said, tmp_path):
    given = dict(dict.fromkeys(FOLLOWED, [1., 2., 3.]), **{score: values})
    with pytest.raises(ValueError, match=f'^{score}: {said}'): keep_ranks(tmp_path/'run', **given)
    assert os.listdir(tmp_path)==[]

def test_a_file_of_something_else(tmp_path):
    pd.DataFrame(dict(avh=[1], confidence=[1], norm=[1])).to_parquet(tmp_path/'a')
    with pytest.raises(ValueError, match=r'a: expected columns avh, confidence, norm in 8 bits, got avh \(int64\)'):
        read_ranks(tmp_path/'a')
    with pytest.raises(FileNotFoundError): read_ranks(tmp_path/'b')
