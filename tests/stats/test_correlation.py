"Statistics against scipy, slow loops and known cases."
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from avh_nb.data.votes import human_entropy, human_selection_frequency, noise_ceiling
from avh_nb.stats.human import Alignment, alignment
from avh_nb.measure.scores import HARD_IS
from avh_nb.stats.correlation import Interval, bin_index, bootstrap_spearman, compare_dependent, meng_z, partial_spearman, spearman

values = arrays(float, st.integers(4, 40), elements=st.integers(-5, 5).map(float)) # many ties

@settings(deadline=None)
@given(values, st.integers(0, 2**31))
def test_spearman_is_scipys(a, seed):
    b = np.random.default_rng(seed).integers(0, 4, len(a)).astype(float)
    if len(set(a))<2 or len(set(b))<2: assert np.isnan(spearman(a, b))
    else:
        np.testing.assert_allclose(spearman(a, b), stats.spearmanr(a, b).statistic, atol=1e-12)
        np.testing.assert_allclose(spearman(np.exp(a), b), spearman(a, b), atol=1e-12) # only the order counts

@settings(deadline=None, max_examples=30)
@given(values, st.integers(0, 2**31))
def test_a_bootstrap_draw_is_spearman_of_the_drawn(a, seed):
    b = np.random.default_rng(seed).normal(size=len(a))
    if len(set(a))<2: return
    drawn = np.random.default_rng(seed).integers(0, len(a), len(a))
    with np.errstate(all='ignore'): got = bootstrap_spearman([a, b], b, 1, seed)[0]
    for g,v in zip(got, (a, b)):
        expected = spearman(v[drawn], b[drawn])
        assert np.isnan(g) if np.isnan(expected) else abs(g-expected)<1e-9

def test_meng_z_on_a_case_computed_by_hand():
    "r1 .6, r2 .4, r12 .5, n 103: mean square .26, f .5/1.48, h (1-f .26)/.74"
    f = .5/1.48; h = (1-f*.26)/.74
    expected = (np.arctanh(.6)-np.arctanh(.4))*np.sqrt(100/(2*.5*h))
    np.testing.assert_allclose(meng_z(.6, .4, .5, 103), expected)
    assert meng_z(.4, .6, .5, 103)==-meng_z(.6, .4, .5, 103)
    assert meng_z(.6, .4, .9, 103) > meng_z(.6, .4, .1, 103) # the more alike the scores, the surer the difference

def test_paired_bootstrap_and_test_agree():
    rng = np.random.default_rng(0)
    shared,human = rng.normal(size=(2, 2000))
    a,b = (human*k+shared+.3*rng.normal(size=2000) for k in (.5, .4))
    c = compare_dependent(a, b, human)
    d = c.difference
    assert d.low>0 and c.p<.001 and d.low<d.mean<d.high and d.verdict()=='yes'

def test_partial_correlation_of_what_adds_nothing():
    rng = np.random.default_rng(0)
    human = rng.normal(size=5000); known = human+rng.normal(size=5000)
    assert abs(partial_spearman(known+.5*rng.normal(size=5000), human, known)) < .05 < partial_spearman(human+rng.normal(size=5000), human,
        known)

def test_bins_are_open_below_and_closed_above():
    assert bin_index([0, .1, .2, np.nextafter(.2, 1), .8, .81, 1]).tolist()==[0, 0, 0, 1, 3, 4, 4]

def test_votes_against_a_slow_loop():
    rng = np.random.default_rng(0)
    counts,y = rng.integers(0, 9, (50, 4))+np.eye(4, dtype=int)[0],rng.integers(0, 4, 50)
    for i in range(50):
        p = counts[i]/counts[i].sum()
        np.testing.assert_allclose(human_selection_frequency(counts, y)[i], p[y[i]])
        np.testing.assert_allclose(human_entropy(counts)[i], -sum(v*np.log(v) for v in p if v>0), atol=1e-12)

@pytest.mark.parametrize('bad,message', [(np.ones(3, int), 'shape'), (np.ones((3, 2)), 'integer votes'),
    (-np.ones((3, 2), int), 'no negative'), (np.zeros((3, 2), int), 'image 0 has no vote')])
def test_votes_that_make_no_sense(bad, message):
    with pytest.raises(ValueError, match=f'counts: .*{message}'): human_entropy(bad)

def test_noise_ceiling_is_seeded_and_bounded():
    rng = np.random.default_rng(0)
    counts = rng.multinomial(20, [.8, .2], 200)
    assert noise_ceiling(counts, np.zeros(200, int), 5)==noise_ceiling(counts, np.zeros(200, int), 5)
    with pytest.raises(ValueError, match='at least 2 votes'): noise_ceiling(np.array([[1, 0]]), [0])

def test_alignment_turns_every_score_towards_easy():
    "Every score that follows people perfectly, whichever end is hard, has correlation 1"
    human = np.linspace(.1, 1, 50)
    t = alignment({k: human if end=='low' else -human for k,end in HARD_IS.items()}, human, n_boot=10)
    np.testing.assert_allclose(t.rho, 1); np.testing.assert_allclose(t.difference, 0, atol=1e-12)

def test_a_difference_is_an_interval_and_the_table_says_the_same():
    rng = np.random.default_rng(0)
    human = rng.uniform(size=200)
    runs = [dict(avh=-human+rng.normal(size=200), confidence=human+rng.normal(size=200), norm=rng.normal(size=200)) for _ in range(3)]
    a = Alignment.of(runs, human, n_boot=50)
    d,row = a.difference('avh', 'confidence'),a.table().loc['avh']
    assert isinstance(d, Interval) and d==(row.difference, row.difference_low, row.difference_high)
    assert d.mean==pytest.approx(np.mean([spearman(-r['avh'], human)-spearman(r['confidence'], human) for r in runs]))
    assert list(row.index)==['rho', 'low', 'high', 'z', *[f'bin {b}' for b in range(1, 6)], 'difference', 'difference_low',
        'difference_high', 'p', 'partial']
    both = Alignment.mean([a, a])
    assert both.table().loc['avh', ['rho', 'low', 'high']].tolist()==pytest.approx(row[['rho', 'low', 'high']].tolist())
