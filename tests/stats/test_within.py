"Agreement between and within classes against slow loops, limiting cases and known wrong variants."
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from scipy import stats
from avh_nb.stats.correlation import spearman
from avh_nb.stats.within import agreement_parts, share_between, slope_within

def slow_ranks(v):
    "The mean place of all values that are equal"
    places = sorted(v)
    return [sum(i+1 for i,p in enumerate(places) if p==value)/places.count(value) for value in v]

def slow_parts(score, human, y):
    "Class by class and image by image: between, within and the share of the covariance"
    ranks = [slow_ranks(list(v)) for v in (score, human)]
    n,of = len(y),{c: [i for i in range(len(y)) if y[i]==c] for c in set(y)}
    grand = (n+1)/2
    mean = [{c: sum(r[i] for i in images)/len(images) for c,images in of.items()} for r in ranks]
    def moment(f, g): return sum(f(i)*g(i) for i in range(n))
    def between(k): return lambda i: mean[k][y[i]]-grand
    def within(k): return lambda i: ranks[k][i]-mean[k][y[i]]
    def correlation(part):
        a,b = part(0),part(1)
        norm = (moment(a, a)*moment(b, b))**.5
        return moment(a, b)/norm if norm>1e-9 else float('nan')
    total = moment(lambda i: ranks[0][i]-grand, lambda i: ranks[1][i]-grand)
    return correlation(between),correlation(within),moment(between(0), between(1))/total if abs(total)>1e-9 else float('nan')

@st.composite
def images(draw):
    "Scores and votes with many ties, classes of unequal size"
    n = draw(st.integers(1, 24))
    return tuple(np.array(draw(st.lists(st.integers(0, top), min_size=n, max_size=n))) for top in (6, 3, draw(st.integers(0, 4))))

@settings(deadline=None, max_examples=200)
@given(images())
def test_parts_are_those_of_a_slow_loop(made):
    score,human,y = (v.tolist() for v in made)
    parts = agreement_parts(score, human, y)
    between,within,share = slow_parts(score, human, y)
    np.testing.assert_allclose([parts['between'], parts['within']], [between, within], atol=1e-9)
    if abs(share)<1e3 or np.isnan(share): np.testing.assert_allclose(share_between(score, human, y), share, atol=1e-6)

@settings(deadline=None)
@given(images())
def test_only_the_order_counts_and_names_of_classes_do_not(made):
    score,human,y = made
    parts = agreement_parts(score, human, y)
    for changed in (agreement_parts(np.exp(score)-7, human**3+1., y), agreement_parts(score, human, 100-7*y),
        agreement_parts(*(v[::-1] for v in made)), agreement_parts(*(torch.from_numpy(v) for v in made))):
        np.testing.assert_allclose(list(changed.values()), list(parts.values()), atol=1e-12)
    for turned in (agreement_parts(-score, human, y), agreement_parts(score, -human, y)):
        np.testing.assert_allclose(list(turned.values()), [-v for v in parts.values()], atol=1e-12)
    np.testing.assert_allclose(list(agreement_parts(human, score, y).values()), list(parts.values()), atol=1e-12)

@settings(deadline=None)
@given(images())
def test_spearman_is_put_together_from_the_parts(made):
    "With the share of the variance that lies between classes on either side"
    score,human,y = made
    rho,parts = spearman(score, human),agreement_parts(score, human, y)
    if np.isnan(rho): return
    ranks = [stats.rankdata(v) for v in (score, human)]
    share = [np.var([r[y==c].mean() for c in y])/np.var(r) for r in ranks]
    of_between,of_within = np.sqrt(np.prod(share)),np.sqrt(np.prod(1-np.array(share)).clip(0))
    np.testing.assert_allclose(np.nan_to_num(parts['between'])*of_between+np.nan_to_num(parts['within'])*of_within, rho, atol=1e-6)

def test_no_covariance_has_no_share():
    "Where rounding of class means would leave a rest of it"
    assert np.isnan(share_between([0, 0, 0, 0, 1, 1], [0, 1, 1, 2, 0, 2], [0, 0, 0, 0, 0, 1]))

def test_limits():
    rng = np.random.default_rng(0)
    score,human = rng.normal(size=(2, 60))
    one = agreement_parts(score, human, np.zeros(60))
    assert np.isnan(one['between']) and share_between(score, human, np.zeros(60))==0
    np.testing.assert_allclose(one['within'], spearman(score, human)) # of one class it is Spearman's correlation
    each = agreement_parts(score, human, np.arange(60))
    assert np.isnan(each['within']) and share_between(score, human, np.arange(60))==1
    np.testing.assert_allclose(each['between'], spearman(score, human)) # one image a class
    y = np.arange(60)%3
    assert np.isnan(agreement_parts(y/7, human, y)['within']) and np.isnan(agreement_parts(score, y, y)['within'])
    assert share_between(y/7, y*2., y)==1 and agreement_parts(y/7, -y, y)['between']==pytest.approx(-1)
    assert all(np.isnan(v) for v in (*agreement_parts(np.ones(60), human, y).values(), share_between(np.ones(60), human, y)))

@pytest.fixture
def unequal():
    "Two classes of 200 and of 2 images, one of 50, which score and people order differently"
    rng,y = np.random.default_rng(1),np.repeat([0, 1, 2], (200, 2, 50))
    score,human = (np.array(m)[y]+rng.normal(size=len(y)) for m in ([0., 3, 1], [0., .5, 2]))
    return score,human,y

def test_a_class_counts_by_its_size(unequal):
    score,human,y = unequal
    ranks = [stats.rankdata(v) for v in (score, human)]
    means = np.array([[r[y==c].mean() for c in range(3)] for r in ranks])
    unweighted = np.corrcoef(means)[0, 1]
    weighted = np.cov(means, fweights=np.bincount(y))
    between = agreement_parts(*unequal)['between']
    np.testing.assert_allclose(between, weighted[0, 1]/np.sqrt(weighted[0, 0]*weighted[1, 1]))
    assert abs(between-unweighted)>.05

def test_ranks_are_those_of_all_images(unequal):
    "Neither values themselves nor ranks within a class give the same"
    score,human,y = unequal
    score = np.exp(2*score)
    def within(a, b): return np.corrcoef(*(v-np.array([v[y==c].mean() for c in range(3)])[y] for v in (a, b)))[0, 1]
    got = agreement_parts(score, human, y)['within']
    ranks = [stats.rankdata(v) for v in (score, human)]
    np.testing.assert_allclose(got, within(*ranks))
    own = [np.concatenate([stats.rankdata(v[y==c])/(y==c).sum() for c in range(3)]) for v in (score, human)]
    assert abs(got-within(score, human))>.02 and abs(got-within(*own))>.005

def test_what_a_class_knows_is_not_counted_within():
    "Plain Spearman sees agreement where the score knows only the class"
    rng,y = np.random.default_rng(0),np.arange(3000)%10
    score,human = y+rng.normal(size=3000),y+rng.normal(size=3000)
    parts = agreement_parts(score, human, y)
    assert spearman(score, human)>.8 and abs(parts['within'])<.05 and parts['between']>.99 and share_between(score, human, y)>.99

@pytest.mark.parametrize('given,says', [
    (([1, float('inf')], [1, 2], [0, 1]), 'score: expected finite values, got inf at index 1'),
    (([1, 2], [float('nan'), 2], [0, 1]), 'human: expected finite values, got nan at index 0'),
    (([1, 2], [1, 2], [0, float('nan')]), 'y: expected finite values, got nan at index 1'),
    (([1, 2], [1], [0, 1]), 'human: expected 2 values, as score has, got 1'),
    (([1, 2], [1, 2], [0]), 'y: expected 2 values, as score has, got 1'),
    (([[1, 2]], [1, 2], [0, 1]), r'score: expected shape \(N,\), got \(1, 2\)')])
def test_bad_input_is_named(given, says):
    for f in (agreement_parts, share_between):
        with pytest.raises(ValueError, match=says): f(*given)

@settings(deadline=None)
@given(st.integers(2, 4), st.integers(1, 6), st.integers(0, 2**31))
def test_a_slope_with_class_effects_is_least_squares_with_a_dummy_for_each_class(k, c, seed):
    rng = np.random.default_rng(seed)
    x,value = rng.normal(size=(2, k, c))
    design = np.column_stack([x.ravel(), np.tile(np.eye(c), (k, 1))])
    np.testing.assert_allclose(slope_within(x, value), np.linalg.lstsq(design, value.ravel(), rcond=None)[0][0], rtol=1e-6, atol=1e-8)
    levels,condition = rng.normal(size=c),rng.normal()
    np.testing.assert_allclose(slope_within(x, value+levels), slope_within(x, value), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(slope_within(x+levels, 3*x-value), 3-slope_within(x, value), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(slope_within(x, 2*x+condition), 2, rtol=1e-6)

def test_a_slope_where_identity_and_x_are_confounded():
    "Without class effects, or with means over classes taken off instead, the sign is another"
    x = np.array([[0., 3, 6], [1, 4, 7]])
    value = np.array([0., 10, 20])-x
    assert slope_within(x, value)==pytest.approx(-1) and np.polyfit(x.ravel(), value.ravel(), 1)[0]>1
    assert slope_within(x.T, value.T)>1 # classes and conditions exchanged
    assert slope_within([[0., 3], [1, 3]], [[0., 9], [2, -9]])==2 # a class for which x does not vary says nothing

@pytest.mark.parametrize('given,says', [
    (([[1., 2], [1, 2]], [[1., 2], [3, 4]]), 'x: expected a class for which it varies'),
    (([[1., 2]], [[1., 2]]), 'x: expected a class for which it varies'),
    (([1., 2], [1., 2]), r'x: expected shape \(K, C\), K and C at least 1, got \(2,\)'),
    (([[], []], [[], []]), r'x: expected shape \(K, C\), K and C at least 1, got \(2, 0\)'),
    (([[1.], [2]], [[1.]]), r'value: expected shape \(2, 1\), as x has, got \(1, 1\)'),
    (([[1.], [float('inf')]], [[1.], [2]]), r'x: expected finite values, got inf at \(1, 0\)'),
    (([[1.], [2]], [[1.], [float('nan')]]), r'value: expected finite values, got nan at \(1, 0\)')])
def test_bad_input_of_a_slope_is_named(given, says):
    with pytest.raises(ValueError, match=says): slope_within(*given)
