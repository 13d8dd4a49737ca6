"Does a change alter who is hard? Against slow loops, with changes that are planted, and with intervals that should hold the truth."
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from avh_nb.stats import human as page
from avh_nb.stats.correlation import Interval
from avh_nb.stats.human import FOLLOWED, Who, who_is_hard

def networks(people, rng, n=3, of=None, noise=.6):
    "AVH follows `of`, and is high where that is low; confidence and norm follow people; all with noise of their own"
    def seen(what): return what+noise*rng.normal(size=len(people))
    return [dict(avh=-seen(people if of is None else of), confidence=seen(people), norm=seen(people)) for _ in range(n)]

@pytest.fixture
def rng(): return np.random.default_rng(0)

@pytest.fixture
def people(rng): return rng.normal(size=400)

def slow(plain, changed):
    "Agreement, ceiling and own, pair by pair"
    def rho(a, b): return stats.spearmanr(a['avh'], b['avh']).statistic
    across = [rho(changed[i], plain[j]) for i in range(len(plain)) for j in range(len(plain)) if i!=j]
    within,own = ([rho(k[i], k[j]) for j in range(len(k)) for i in range(j)] for k in (plain, changed))
    return np.mean(across),np.mean(within),np.mean(own)

@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**31), st.integers(3, 5), st.integers(1, 9))
def test_pair_by_pair(seed, n, levels):
    "With ties, and whatever strictly increasing function a score goes through"
    rng = np.random.default_rng(seed)
    people = rng.normal(size=60)
    def coarse(runs): return [dict(r, avh=np.round(r['avh']*levels)) for r in runs]
    plain,changed = (coarse(networks(people, rng, n)) for _ in range(2))
    w = who_is_hard(plain, changed, people, 5)
    np.testing.assert_allclose((w.agreement, w.ceiling, w.own), slow(plain, changed), atol=1e-9)
    assert w.ratio.mean==pytest.approx(w.agreement/w.ceiling)
    rho = [[stats.spearmanr(k['avh'], -people).statistic for k in kind] for kind in (plain, changed)]
    assert w.before['avh']==pytest.approx(np.mean(rho[0])) and w.change['avh'].mean==pytest.approx(np.mean(np.subtract(*rho[::-1])))
    other = who_is_hard([dict(r, avh=np.exp(r['avh'])) for r in plain], changed, people**3, 5)
    assert other==w

def test_the_error_of_the_ratio_by_hand(people, rng, monkeypatch):
    "Leaving out a seed of both kinds at once, and images a fiftieth at a time"
    plain,changed = (networks(people, rng, 4) for _ in range(2))
    def ratio(p, c):
        a,ceiling,own = slow(p, c)
        return a/ceiling,a/(ceiling*own)**.5
    seeds = [ratio(*([r for j,r in enumerate(k) if j!=i] for k in (plain, changed))) for i in range(4)]
    part = np.random.default_rng(0).permutation(400)%50
    images = [ratio(*([dict(avh=r['avh'][part!=p]) for r in k] for k in (plain, changed))) for p in range(50)]
    asked = []
    monkeypatch.setattr(page, '_together', lambda *a: asked.append(a))
    who_is_hard(plain, changed, people, 5)
    for k in (0, 1): # the ratio, and corrected for noise
        errors = [(len(v)-1)/len(v)*sum((x[k]-np.mean(v, 0)[k])**2 for x in v) for v in (seeds, images)]
        np.testing.assert_allclose(asked[3+k], [ratio(plain, changed)[k], *errors, 4], rtol=1e-6)

def test_the_error_of_a_change_by_hand(people, rng, monkeypatch):
    plain,changed = (networks(people, rng) for _ in range(2))
    asked = []
    monkeypatch.setattr(page, '_together', lambda *a: asked.append(a))
    who_is_hard(plain, changed, people, 300)
    def rho(run, k, take): return (-1 if k=='avh' else 1)*stats.spearmanr(run[k][take], people[take]).statistic
    def change(k, take): return [rho(c, k, take)-rho(p, k, take) for p,c in zip(plain, changed)]
    for k,(mean,seeds,images,s) in zip(FOLLOWED, asked[:3], strict=True):
        here = change(k, np.arange(400))
        assert s==3 and mean==pytest.approx(np.mean(here)) and seeds==pytest.approx(np.var(here, ddof=1)/3)
        drawn = [np.mean(change(k, rng.integers(0, 400, 400))) for _ in range(300)] # other draws of the same images
        assert images==pytest.approx(np.var(drawn), rel=.4)

def check_copies():
    rng = np.random.default_rng(1)
    people = rng.normal(size=200)
    plain = networks(people, rng)
    w = who_is_hard(plain, plain, people, 5)
    assert w.ratio==(1, 1, 1) and w.verdict()=='open' and all(c==(0, 0, 0) for c in w.change.values())

def check_seeds_in_common():
    "What the networks of one seed have in common is not agreement between kinds"
    rng = np.random.default_rng(2)
    people,mark = rng.normal(size=1000),rng.normal(size=(3, 1000))
    def kind(): return [dict(r, avh=r['avh']+m) for r,m in zip(networks(people, rng), mark)]
    w = who_is_hard(kind(), kind(), people, 5)
    assert abs(w.ratio.mean-1)<.15

def test_copies_agree_as_the_seeds_do(): check_copies()
def test_seeds_in_common(): check_seeds_in_common()

@pytest.mark.parametrize('check', [check_copies, check_seeds_in_common])
def test_pairs_of_one_seed_would_be_noticed(check, monkeypatch):
    def wrong(avh, seeds=None):
        c,s = np.corrcoef(stats.rankdata(avh, axis=1)),len(avh)//2
        seeds = np.arange(s) if seeds is None else seeds
        different = ~np.eye(len(seeds), dtype=bool)
        return c[np.ix_(seeds+s, seeds)].mean(),c[np.ix_(seeds, seeds)][different].mean(),0. # with i==j
    monkeypatch.setattr(page, '_agreement', wrong)
    with pytest.raises(AssertionError): check()

def test_the_order_of_seeds_does_not_matter_if_it_is_the_same(people, rng):
    plain,changed = (networks(people, rng, 4) for _ in range(2))
    w,other = who_is_hard(plain, changed, people, 5),who_is_hard(*([k[i] for i in (2, 0, 3, 1)] for k in (plain, changed)), people, 5)
    np.testing.assert_allclose([w.agreement, w.ceiling, w.own, *w.ratio], [other.agreement, other.ceiling, other.own, *other.ratio])
    assert who_is_hard(plain, [plain[i] for i in (1, 2, 3, 0)], people, 5).ratio.mean>1.01 # here copies are taken for other seeds

def test_noise_lowers_the_ratio_and_own_says_that_it_is_noise(people, rng):
    plain,changed = networks(people, rng),networks(people, rng)
    noise = rng.normal(size=(3, 400))
    found = [who_is_hard(plain, [dict(r, avh=r['avh']+k*e) for r,e in zip(changed, noise)], people, 50) for k in (0, 1, 2, 3)]
    for name in ('agreement', 'own'): assert (np.diff([getattr(w, name) for w in found])<0).all()
    assert [w.ceiling for w in found]==[found[0].ceiling]*4
    assert [w.verdict() for w in found]==['open', *['yes']*3] and [w.change['avh'].below(0) for w in found[1:]]==['yes']*3
    for w in found: assert w.corrected.mean==pytest.approx(w.agreement/(w.own*w.ceiling)**.5) and abs(w.corrected.mean-1)<.15
    for w in found[1:]: assert w.ratio.mean<.85 and w.corrected.below(1)=='open'
    for w in found: assert w.change['norm']==found[0].change['norm']

def test_other_images_are_not_taken_for_noise(people, rng):
    w = who_is_hard(networks(people, rng), networks(people, rng, of=people+.7*rng.normal(size=400)), people, 50)
    assert w.verdict()==w.corrected.below(1)=='yes'

def test_changed_networks_that_do_not_agree_have_no_corrected_agreement(people, rng):
    against = [dict(r, avh=i*rng.normal(size=400)-(i-1)*r['avh']) for i,r in enumerate(networks(people, rng))]
    w = who_is_hard(networks(people, rng), against, people, 5)
    assert w.own<0 and np.isnan(w.corrected).all() and np.isfinite(w.ratio).all()

@pytest.mark.parametrize('score', FOLLOWED)
@pytest.mark.parametrize('kind', [1, -1])
def test_a_planted_change_is_found_with_its_sign(score, kind, people, rng):
    "Scores that are nearer to people, or further away; none of the others moves"
    plain = networks(people, rng)
    turn = -1 if score=='avh' else 1
    near = [dict(r, **{score: r[score]+turn*kind*.3*people}) for r in plain]
    w = who_is_hard(plain, near, people, 50)
    assert w.change[score].verdict()==('yes' if kind>0 else 'no')
    assert all(c==(0, 0, 0) for k,c in w.change.items() if k!=score) and (score=='avh' or w.ratio==(1, 1, 1))
    assert w.before['avh']>.7

def test_intervals_hold_the_truth():
    "No change in truth: kinds differ on images in AVH, seeds differ in confidence, nothing in norm; either variance alone is too little"
    rng,asked,n = np.random.default_rng(0),[],60
    def intervals(mean, seeds, images, s):
        asked.append([page_together(mean, *v, s) for v in ((seeds, images), (seeds, 0), (0, images))])
        return asked[-1][0]
    def run(people, kind):
        noise = rng.normal(size=(3, n))
        return dict(avh=-people-kind-.3*noise[0], confidence=people+np.exp(rng.normal())*noise[1], norm=people+noise[2])
    page_together = page._together
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, '_together', intervals)
        for _ in range(100):
            people,*kinds = rng.normal(size=(3, n))
            who_is_hard(*([run(people, k) for _ in range(3)] for k in kinds), people, 30)
    held = np.array([[i.low<=0<=i.high for i in of] for of in asked]).reshape(100, 5, 3)[:, :3].sum(0) # (score, how)
    assert (held[:, 0]>=88).all(), held
    assert held[0, 1]<88 and held[1, 2]<88, held # seeds alone, images alone

def test_tables_and_further_columns(people, rng):
    plain,changed = networks(people, rng),networks(people, rng)
    frames = [pd.DataFrame(r).assign(entropy=0., name='a')[['name', 'norm', 'entropy', 'avh', 'confidence']] for r in changed]
    w = who_is_hard(plain, frames, people.tolist(), 5)
    assert w==who_is_hard(plain, changed, people, 5)
    assert isinstance(w, Who) and isinstance(w.ratio, Interval) and list(w.before)==list(w.change)==list(FOLLOWED)
    assert w.verdict().rule=='below 1'

def bad(i, **of): return lambda runs: [dict(r, **of) if j==i else r for j,r in enumerate(runs)]

@pytest.mark.parametrize('change,said', [
    (lambda runs: runs[:2], 'expected at least 3 seeds, got 2'), (lambda runs: runs[0], 'expected a list, one entry per seed'),
    (lambda runs: [runs[0], {k: v for k,v in runs[1].items() if k!='norm'}, runs[2]], '.1.: expected avh, confidence, norm, got no norm'),
    (bad(1, norm=np.ones(3)), r".1..'norm'.: expected shape \(400,\), got \(3,\)"),
    (bad(2, avh=np.ones(400)), ".2..'avh'.: expected values that differ, got 400 equal ones"),
    (bad(0, confidence=np.r_[np.zeros(7), np.inf, np.ones(392)]), ".0..'confidence'.: expected finite values, got inf at index 7")])
@pytest.mark.parametrize('which', ['plain', 'changed'])
def test_what_cannot_be_compared(which, change, said, people, rng):
    runs = dict(plain=networks(people, rng), changed=networks(people, rng))
    runs[which] = change(runs[which])
    with pytest.raises(ValueError, match=f'^{which}.*{said}'): who_is_hard(human=people, **runs)

@pytest.mark.parametrize('human,said', [
    (np.ones(400), 'values that differ'), (np.r_[np.nan, np.ones(399)], 'finite values, got nan at index 0'),
    (np.ones((400, 2)), r'shape \(N,\), got \(400, 2\)'), ([], 'values that differ, got 0'), (np.arange(9), 'at least 10 images, got 9')])
def test_people_that_make_no_sense(human, said, people, rng):
    with pytest.raises(ValueError, match=f'^human: expected {said}'): who_is_hard(networks(people, rng), networks(people, rng), human)

def test_other_errors(people, rng):
    with pytest.raises(ValueError, match='^changed: expected 3 seeds, as plain has, got 4'):
        who_is_hard(networks(people, rng), networks(people, rng, 4), people)
    with pytest.raises(ValueError, match="^plain.0..'avh'.: expected shape .399,., got .400,"):
        who_is_hard(networks(people, rng), networks(people, rng), people[1:])
