"Degradations and the within-image correlation against plain definitions."
import numpy as np, pytest, torch
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr
from avh_nb.data.degrade import DEGRADATIONS, LEVELS, degrade, within_image_spearman

@pytest.fixture(scope='module')
def images():
    g = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(30, 3, 6, 6, generator=g), 32, mode='bilinear')
    return (255*smooth).to(torch.uint8)

@pytest.mark.parametrize('kind', DEGRADATIONS)
def test_images_do_not_depend_on_their_neighbours(images, kind):
    if kind in ('noise', 'occlusion'): # drawn for the batch as a whole: the first images are the same
        assert torch.equal(degrade(images, kind, 3), degrade(images, kind, 3))
        return
    assert torch.equal(degrade(images, kind, 3)[5:6], degrade(images[5:6], kind, 3))

def test_contrast_keeps_the_mean_and_scales_the_spread(images):
    for level,left in enumerate(DEGRADATIONS['contrast'].levels, 1):
        x = degrade(images, 'contrast', level).float()
        spread = [(v-v.mean((1, 2, 3), keepdim=True)).std() for v in (x, images.float())]
        assert spread[0]/spread[1]==pytest.approx(left, abs=.05)

def test_noise_has_the_deviation_it_says_and_one_pattern():
    grey = torch.full((20, 1, 32, 32), 128, dtype=torch.uint8)
    noise = [degrade(grey, 'noise', l).float()-128 for l in range(1, LEVELS+1)]
    for n,sigma in zip(noise[:4], DEGRADATIONS['noise'].levels): assert n.std()/255==pytest.approx(sigma, rel=.05)
    assert np.corrcoef(noise[0].flatten(), noise[2].flatten())[0, 1]>.99 # the same noise, only stronger
    assert not torch.equal(degrade(grey, 'noise', 1, seed=1), degrade(grey, 'noise', 1))

def test_occlusion_is_one_growing_square():
    blank = torch.zeros(100, 3, 32, 32, dtype=torch.uint8)
    covered = [degrade(blank, 'occlusion', l)[:, 0]>0 for l in range(1, LEVELS+1)]
    for c,share in zip(covered, DEGRADATIONS['occlusion'].levels):
        side = round(32*share**.5)
        assert (c.flatten(1).sum(1)==side**2).all()
        assert (c.any(1).sum(1)==side).all() and (c.any(2).sum(1)==side).all() # a square, whole
    for small,large in zip(covered, covered[1:]):
        assert (small & ~large).float().mean()<.01 # each within the next, but for rounding at the rim
    assert len({tuple(c.flatten().nonzero()[0].tolist()) for c in covered[0]})>30 # not always at the same place

@given(arrays(float, st.tuples(st.integers(1, 20), st.integers(3, 7)), elements=st.integers(-3, 3).map(float)))
def test_within_image_spearman_against_scipy(h):
    for r,rho in zip(h, within_image_spearman(h)):
        assert rho==pytest.approx(0 if len(set(r))==1 else spearmanr(r, np.arange(len(r))).statistic, abs=1e-9)

@given(arrays(float, (8, 6), elements=st.integers(-3, 3).map(float)))
def test_only_the_order_counts(h):
    assert within_image_spearman(np.exp(h))==pytest.approx(within_image_spearman(h))
    assert within_image_spearman(-h)==pytest.approx(-within_image_spearman(h))

def test_within_is_not_between():
    "The easy mistake: correlating all images at once, where images that were hard to begin with drown the levels"
    rng = np.random.default_rng(0)
    h = rng.normal(0, 100, (200, 1))+np.arange(6)
    assert (within_image_spearman(h)==1).all()
    assert spearmanr(h.ravel(), np.tile(np.arange(6), 200)).statistic<.1
