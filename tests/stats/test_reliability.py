"Reliability over models against slow loops, against truths known from how scores were made, and against easy mistakes."
import math
import numpy as np, pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from avh_nb.stats.correlation import spearman
from avh_nb.stats.reliability import (_icc, _sums, compare_images, image_hardness, model_reliability, models_needed,
    percentile_ranks, spearman_brown, split_half_reliability)

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow]) # whatever else the machine does
value = st.integers(-3, 3).map(float)
shape = st.tuples(st.integers(1, 6), st.integers(2, 12))
matrices = shape.flatmap(lambda s: arrays(float, s, elements=value))
gapped = shape.flatmap(lambda s: arrays(float, s, elements=value | st.just(math.nan)))

def simulated(noise, models=8, images=3000, seed=0):
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=images)
    return theta+noise*rng.normal(size=(models, images)),stats.norm.cdf(theta/np.sqrt(1+2*noise**2))

def true_icc(noise): return 6/np.pi*np.arcsin(1/(1+noise**2)/2) # Spearman's correlation of two models in the population

# Ranks

def slow_ranks(matrix):
    res = np.full(matrix.shape, np.nan)
    for m,row in enumerate(matrix):
        known = [v for v in row if v==v]
        for i,v in enumerate(row):
            if v==v: res[m, i] = (sum(o<v for o in known)+sum(o==v for o in known)/2)/len(known)
    return res

@patient
@given(gapped)
def test_ranks_against_a_slow_loop(matrix):
    ranks = percentile_ranks(matrix)
    np.testing.assert_allclose(ranks, slow_ranks(matrix))
    np.testing.assert_allclose(percentile_ranks(ranks), ranks) # ranks of ranks are the ranks
    np.testing.assert_allclose(percentile_ranks(3*matrix**3+matrix), ranks) # whatever the scale of a model
    for row in ranks:
        if not np.isnan(row).all(): assert np.nanmean(row)==pytest.approx(.5)

def test_infinite_scores_are_ranked():
    np.testing.assert_allclose(percentile_ranks([[np.inf, 0, -np.inf, np.nan]]), [[5/6, .5, 1/6, np.nan]])

@pytest.mark.parametrize('bad', [[1, 2, 3], 3., [[1], [2]], np.zeros((2, 2, 2)), np.zeros((2, 0))])
def test_shapes_that_are_refused(bad):
    for f in (percentile_ranks, image_hardness, model_reliability, split_half_reliability, lambda m: compare_images(m, 0, 1)):
        with pytest.raises(ValueError, match=r'matrix: expected shape \(M, N\), N at least 2'): f(bad)

# Error bars

@patient
@given(gapped)
def test_hardness_against_a_slow_loop(matrix):
    h,ranks = image_hardness(matrix),slow_ranks(matrix)
    for i in range(matrix.shape[1]):
        known = ranks[:, i][~np.isnan(ranks[:, i])]
        assert h.models[i]==len(known) and np.isnan(h.mean[i])==(not len(known)) and np.isnan(h.error[i])==(len(known)<2)
        if len(known): assert h.mean[i]==pytest.approx(known.mean())
        if len(known)>1:
            assert h.error[i]==pytest.approx(known.std(ddof=1)/len(known)**.5, abs=1e-12) and 0<=h.low[i]<=h.mean[i]+1e-12<=h.high[i]+2e-12
            assert h.high[i]<=1

@patient
@given(matrices)
def test_easy_and_hard_are_mirrored(matrix):
    h,m = image_hardness(matrix),image_hardness(-matrix)
    np.testing.assert_allclose(h.mean, 1-m.mean); np.testing.assert_allclose(h.low, 1-m.high, atol=1e-12)

@pytest.mark.parametrize('noise', [.3, .5, 1, 2])
def test_error_bars_cover(noise):
    scores,true = simulated(noise, images=6000, seed=3)
    h = image_hardness(scores)
    covered,naive = ((h.low<=true) & (true<=h.high)).mean(),(abs(h.mean-true)<=stats.t.ppf(.975, 7)*h.error).mean()
    normal = (abs(h.mean-true)<=1.96*h.error).mean()
    print(f'noise {noise}: {covered:.1%} of the 95 % intervals of 8 models hold the truth; of mean ± t·error {naive:.1%}, '
        f'of mean ± 1.96·error {normal:.1%}')
    assert .93<=covered<=.97 and normal<.93 # the mutant: as if eight were many
    half = image_hardness(scores, level=.5)
    assert .47<=((half.low<=true) & (true<=half.high)).mean()<=.53

# Share of variance

def slow_icc(ranks):
    "One-way analysis of variance as textbooks have it"
    groups = [c[~np.isnan(c)] for c in ranks.T]
    groups = [g for g in groups if len(g)]
    n,k = sum(map(len, groups)),len(groups)
    mean = np.concatenate(groups).mean()
    between = sum(len(g)*(g.mean()-mean)**2 for g in groups)/(k-1)
    within = sum(((g-g.mean())**2).sum() for g in groups)/(n-k)
    size = (n-sum(len(g)**2 for g in groups)/n)/(k-1)
    return (between-within)/(between+(size-1)*within)

@patient
@given(gapped)
def test_icc_against_a_slow_loop(matrix):
    ranks = slow_ranks(matrix)
    n = (~np.isnan(ranks)).sum(0)
    assume((n>0).sum()>1 and n.max()>1)
    got = _icc(_sums(ranks).sum(0))
    with np.errstate(invalid='ignore', divide='ignore'): want = slow_icc(ranks)
    assert np.isnan(got) and not abs(want)<1e3 or got==pytest.approx(want, rel=1e-6, abs=1e-9)

@pytest.mark.parametrize('noise', [.3, .5, 1, 2])
def test_reliability_and_models_needed_against_the_truth(noise):
    scores,_ = simulated(noise, images=2000, seed=1)
    r,true = model_reliability(scores),true_icc(noise)
    print(f'noise {noise}: one model {r.one:.3f} (truth {true:.3f}), eight {r.mean:.3f} (truth {spearman_brown(true, 8):.3f}), '
        f'split halves {r.halves:.3f}, needed {r.needed()} (truth {models_needed(true)})')
    assert r.one.mean==pytest.approx(true, rel=.1) and r.mean.mean==pytest.approx(spearman_brown(true, 8), rel=.1)
    assert r.halves==pytest.approx(spearman_brown(true, 8), rel=.1) and abs(r.needed()-models_needed(true))<=.1*models_needed(true)
    assert r.one.low<true<r.one.high and r.mean.low<spearman_brown(true, 8)<r.mean.high
    # what it means: the mean of eight agrees as well with that of eight others
    rng = np.random.default_rng(9)
    theta = rng.normal(size=4000)
    halves = [percentile_ranks(theta+noise*rng.normal(size=(8, 4000))).mean(0) for _ in range(2)]
    assert np.corrcoef(*halves)[0, 1]==pytest.approx(r.mean.mean, abs=.03)

def test_icc_is_the_mean_correlation_of_two_models():
    scores,_ = simulated(1., models=5, images=2000)
    pairs = [spearman(a, b) for i,a in enumerate(scores) for b in scores[:i]]
    assert model_reliability(scores).one.mean==pytest.approx(np.mean(pairs), abs=2e-3)

def test_limits():
    rng = np.random.default_rng(0)
    row = rng.normal(size=300)
    same,noise = model_reliability(np.stack([row]*4)),model_reliability(rng.normal(size=(8, 2000)))
    assert same.one.mean==pytest.approx(1) and same.halves==pytest.approx(1) and same.needed()==1 and same.one.high<=1
    assert abs(noise.one.mean)<.02 and noise.one.verdict()=='open' and noise.needed()>300
    opposed = model_reliability(np.stack([row, -row, row, -row]))
    assert opposed.one.mean<0 and opposed.needed()==math.inf and opposed.mean.mean==0
    two = model_reliability(simulated(1., models=2)[0])
    assert np.isnan([two.one.low, two.one.high, two.mean.low]).all() and two.one.mean==pytest.approx(true_icc(1.), abs=.05)
    nothing = 'matrix: expected images that differ and have 2 scores or more, got none with'
    for bad in (np.zeros((1, 9)), np.where(np.eye(4), 1., np.nan), np.zeros((3, 9))): # one score an image, or all alike
        with pytest.raises(ValueError, match=nothing): model_reliability(bad)

def test_scores_that_are_missing_change_little():
    scores,_ = simulated(1., images=3000, seed=2)
    whole = model_reliability(scores).one.mean
    missing = scores.copy(); missing[np.random.default_rng(0).random(scores.shape)<.3] = np.nan
    r = model_reliability(missing)
    assert r.one.mean==pytest.approx(whole, abs=.03) and r.halves==pytest.approx(model_reliability(scores).halves, rel=.1)

@pytest.mark.parametrize('spread,least', [(0, .93), (.5, .88)])
def test_the_interval_of_the_icc_holds_for_other_models_and_images(spread, least):
    rng = np.random.default_rng(0)
    noise = .8*np.exp(spread*rng.normal(size=(2, 100000)))
    true,found = (6/np.pi*np.arcsin(1/np.sqrt((1+noise**2).prod(0))/2)).mean(),[]
    for _ in range(120):
        each = .8*np.exp(spread*rng.normal(size=(6, 1)))
        found.append(model_reliability(rng.normal(size=200)+each*rng.normal(size=(6, 200))).one)
    covered = np.mean([f.low<=true<=f.high for f in found])
    print(f'spread of noise {spread}: {covered:.1%} of the intervals of the ICC hold the truth')
    assert covered>=least

# How many

@patient
@given(st.floats(.001, .999), st.floats(.01, .99))
def test_models_needed_are_just_enough(r, target):
    n = models_needed(r, target)
    assert n>=1 and spearman_brown(r, n)>=target-1e-9 and (n==1 or spearman_brown(r, n-1)<target+1e-9)

@patient
@given(st.floats(.01, .99), st.integers(1, 30))
def test_spearman_brown_there_and_back(r, k):
    assert spearman_brown(spearman_brown(r, k), 1/k)==pytest.approx(r) and spearman_brown(r, k)>=r-1e-12

@pytest.mark.parametrize('target', [0, 1, 90, math.nan])
def test_targets_that_are_refused(target):
    with pytest.raises(ValueError, match='target: expected between 0 and 1'): models_needed(.5, target)

# Two images

def test_equal_images_are_told_apart_as_rarely_as_promised():
    rng,p = np.random.default_rng(0),[]
    theta = np.tile(rng.normal(size=300), 2)
    for _ in range(4):
        scores = percentile_ranks(theta+rng.normal(size=(8, 600)))
        d = scores[:, :300]-scores[:, 300:]
        p += list(stats.ttest_1samp(d, 0).pvalue)
        for i in (0, 7): assert compare_images(scores, i, i+300).p==pytest.approx(stats.ttest_1samp(d[:, i], 0).pvalue)
    alarms = np.mean(np.array(p)<.05)
    print(f'false alarms at 5 %: {alarms:.3f}')
    assert .03<alarms<.065

def test_different_images_are_told_apart():
    theta = np.r_[np.linspace(-2, 2, 200)]
    scores = theta+np.random.default_rng(0).normal(size=(8, 200))
    c = compare_images(scores, 190, 10)
    assert c.difference.verdict()=='yes' and c.p<1e-3 and c.models==8
    back = compare_images(scores, 10, 190)
    assert back.difference.mean==pytest.approx(-c.difference.mean) and back.p==pytest.approx(c.p)
    scores[:5, 10] = np.nan
    assert compare_images(scores, 190, 10).models==3
    scores[:7, 10] = np.nan
    with pytest.raises(ValueError, match='at least 2 models that have scored images 190 and 10, got 1'): compare_images(scores, 190, 10)
    same = np.tile(np.arange(5.), (4, 1))
    assert compare_images(same, 1, 1).p==1 and compare_images(same, 2, 1).p==0
