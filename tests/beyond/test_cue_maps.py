"Maps of cue conflict: curves over ranks against the maps, the choice on halves against brute force, and what a wrong way would give."
import numpy as np, pytest, torch
from functools import cache
from hypothesis import given, settings, strategies as st
from types import SimpleNamespace
from sklearn.metrics import average_precision_score, roc_auc_score
from avh_nb.beyond import cue_halves, cue_maps, cue_seen
from avh_nb.data.boxes import mask_boxes
from avh_nb.measure.normalise import NORMALISATIONS, normalise_map, resize_map
from avh_nb.stats.localisation import max_box_accuracy, pixel_average_precision

SIZE,S = cue_maps.SIZE,4 # three images of each of four silhouettes
OF = np.repeat(np.arange(S), 3)

@cache
def world():
    "Maps of two kinds that lie over their object more or less, and the objects"
    g = torch.Generator().manual_seed(1)
    masks = np.repeat((resize_map(torch.rand(S, 4, 4, generator=g), SIZE)>.62).numpy(), 3, 0)
    near = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(masks).float(), 7)
    maps = {kind: resize_map(near*on+torch.rand(len(OF), 7, 7, generator=g)-.3, SIZE).numpy() for kind,on in (('cam', .9), ('avh', .3))}
    return maps,masks,mask_boxes(masks)

@cache
def made_table(which, kind, of='shape'):
    maps,masks,boxes = world()
    return cue_maps.curves(maps.get(kind, maps['cam'].mean(0, keepdims=True)), masks, boxes)

@pytest.fixture
def small(monkeypatch):
    "The study on these images; what it keeps is kept for one test alone"
    cue = SimpleNamespace(silhouette=OF, texture=np.arange(len(OF))%3, images=SimpleNamespace(y=torch.zeros(len(OF), dtype=int)))
    def of(): return (np.arange(S)[:, None]==OF).astype(np.float32)
    for page in (cue_maps, cue_halves, cue_seen):
        for k,v in dict(ANGULAR=('avh',), BEST={'best cam': ('cam',), 'best angular': ('avh',), 'best norm': ('avh',)},
            silhouettes=of, table=made_table, kept=lambda name, make: make(), cue_conflict=lambda: cue, N_BOOT=6,
            cue_masks=lambda: torch.from_numpy(world()[1]), KINDS=('cam', 'avh')).items():
            if hasattr(page, k): monkeypatch.setattr(page, k, v)
    for name in ('halves', 'draws', 'counting', 'searched', 'counted', 'quantities'):
        monkeypatch.setattr(cue_halves, name, cache(getattr(cue_halves, name).__wrapped__))
    monkeypatch.setattr(cue_seen, 'draws', cue_halves.draws)
    return cue

# Curves

@settings(max_examples=8, deadline=None)
@given(st.sampled_from(list(NORMALISATIONS)), st.sampled_from(range(0, 1000, 10)))
def test_curves_tell_what_normalised_maps_tell(how, thousandths):
    p,(maps,masks,boxes),t = thousandths/1000,world(),made_table('0', 'cam')
    normal = normalise_map(torch.from_numpy(maps['cam']), how, p).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cue_maps, 'silhouettes', lambda: np.eye(len(OF), dtype=np.float32))
        inside,outside = cue_maps.binned_pixels(t, how, p).sum(1)
    ours = cue_halves.average_precision(inside, outside)
    assert ours==pytest.approx(pixel_average_precision(normal, masks), abs=2e-4)
    found = max_box_accuracy(normal, boxes[:, None], 'V1', ious=(.6,)).accuracy
    assert (cue_maps.fits(t, how, p)>=.6).mean(0).max()==pytest.approx(found, abs=1.01/len(OF)) # an image may stand on the border

def test_pxap_is_average_precision_of_all_pixels_together():
    "Of pooled pixels, and not the mean over images: an easy mistake"
    maps,masks,_ = world()
    normal = normalise_map(torch.from_numpy(maps['cam']), 'minmax', 0).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cue_maps, 'silhouettes', lambda: np.eye(len(OF), dtype=np.float32))
        counts = cue_maps.binned_pixels(made_table('0', 'cam'), 'minmax', 0)
    exact = average_precision_score(masks.ravel(), normal.ravel())
    of_each = np.mean([average_precision_score(m.ravel(), v.ravel()) for m,v in zip(masks, normal)])
    ours = cue_halves.average_precision(*counts.sum(1))
    assert ours==pytest.approx(exact, abs=1e-3) and abs(ours-of_each)>2e-3

def test_a_threshold_for_each_image_finds_more_boxes():
    "The classic error: thresholds are shared by all images"
    good = cue_maps.fits(made_table('0', 'avh'), 'minmax', 0)>=.9
    assert good.mean(0).max()<good.any(1).mean()

def test_one_map_for_all_images_is_like_many_copies():
    maps,masks,boxes = world()
    one,many = (cue_maps.curves(m, masks, boxes) for m in (maps['cam'][:1], np.repeat(maps['cam'][:1], len(OF), 0)))
    for k in one: np.testing.assert_allclose(one[k], many[k])

# Halves

def test_what_is_picked_comes_from_the_other_half(small):
    options = [(kind, how, range(len(cue_halves.P))) for kind in ('cam', 'avh') for how in cue_halves.HOWS]
    for seed in range(3):
        picks = cue_halves.picked('0', 'pxap', options, seed)
        for half,(kind,how,p,_) in enumerate(picks):
            other = cue_halves.halves()[2*seed+1-half]>0
            def reached(kind, how, p, some=other):
                counts = cue_maps.binned_pixels(made_table('0', kind), how, p)[:, some].sum(1)
                return cue_halves.average_precision(*counts)
            best = max(reached(k, h, cue_halves.P[i]) for k,h,some in options for i in some)
            assert reached(kind, how, p)==pytest.approx(best)

def test_tested_is_what_the_maps_of_each_half_reach_together(small):
    maps,masks,boxes = world()
    picks = [('cam', 'ivr', .3, 100), ('avh', 'max', .1, 60)]
    first = cue_halves.halves()[2*2][OF]>0
    normal = [normalise_map(torch.from_numpy(maps[kind]), how, p).numpy() for kind,how,p,_ in picks]
    mixed = np.where(first[:, None, None], *normal)
    assert cue_halves.tested_on('0', 'pxap', picks, 2)[0]==pytest.approx(pixel_average_precision(mixed, masks), abs=2e-4)
    agree = small.texture==0
    assert cue_halves.tested_on('0', 'agree', picks, 2)[0]==pytest.approx(pixel_average_precision(mixed[agree], masks[agree]), abs=2e-4)
    swapped = pixel_average_precision(np.where(first[:, None, None], *normal[::-1]), masks)
    assert abs(cue_halves.tested_on('0', 'pxap', picks, 2)[0]-swapped)>1e-3 # halves that are mixed up

def test_a_silhouette_that_is_drawn_twice_counts_twice(small):
    maps,masks,_ = world()
    normal = normalise_map(torch.from_numpy(maps['cam']), 'ivr', .45).numpy()
    found = cue_halves.tested_on('0', 'pxap', 2*[('cam', 'ivr', .45, 0)], 0)
    for b,weights in enumerate(cue_halves.draws()[:4]):
        rows = np.repeat(np.arange(len(OF)), weights[OF].astype(int))
        assert found[b]==pytest.approx(pixel_average_precision(normal[rows], masks[rows]), abs=2e-4)

def test_images_of_a_silhouette_are_drawn_together(small):
    assert cue_halves.draws().shape==(7, S) and (cue_halves.draws().sum(1)==S).all()
    assert (cue_halves.halves().sum(1)==S//2).all()

def test_boxes_that_matter_are_those_which_the_whole_image_does_not_find(small, monkeypatch):
    masks = torch.ones(len(OF), SIZE, SIZE, dtype=bool)
    masks[:6, :, 100:] = False
    monkeypatch.setattr(cue_halves, 'cue_masks', lambda: masks)
    assert cue_halves.counting('small').sum(0).tolist()==6*[1]+6*[0] and cue_halves.counting('box').sum()==len(OF)
    good = np.arange(len(OF))<4
    assert cue_halves.share_found('small', good, np.ones((1, S)))[0]==pytest.approx(4/6)
    assert cue_halves.share_found('box', good, np.ones((1, S)))[0]==pytest.approx(4/12)
    assert cue_halves.constant('box')[0]==pytest.approx(.5) and not cue_halves.constant('small').any()

def test_quantities_are_consistent(small):
    q,picks = cue_halves.quantities('0', 0)
    for m in cue_halves.MEASURES:
        np.testing.assert_allclose(q[f'{m} cam max - ivr'], q[f'{m} cam max']-q[f'{m} cam ivr'])
        assert (q[f'{m} avh spread']>=0).all() and (q[f'{m} best cam'][0]<=1)
        assert {p for _,_,p,_ in picks[f'{m} cam ivr published']}=={.45} and {p for _,_,p,_ in picks[f'{m} cam max published']}=={0}
    assert q['pxap best cam'][0]>q['pxap best angular'][0] # the maps were made so
    assert picks['agree cam ivr']==picks['pxap cam ivr']

# Where maps lie

def test_auc_of_pixels():
    maps,masks,_ = world()
    ours = cue_seen.pixels_auc(made_table('0', 'avh'))
    exact = [roc_auc_score(m.ravel(), v.ravel()) for m,v in zip(masks, maps['avh'])]
    np.testing.assert_allclose(ours, exact, atol=5e-4)

def test_within_a_silhouette_is_no_matter_of_silhouettes(small, monkeypatch):
    "Where votes rise from silhouette to silhouette, but maps lie the worse the higher the votes are within one"
    small.votes = SimpleNamespace(hsf=lambda y: OF/4+np.tile([0, .01, .02], S))
    small.texture = np.ones(len(OF))
    small.images = SimpleNamespace(y=torch.zeros(len(OF)))
    at = np.append(cue_maps.places(), SIZE**2)[:-1]/SIZE**2
    def lies(which, kind, of='shape'): return dict(objects=9999*(1-at**(1+OF+np.tile([.2, .1, 0], S))[:, None]))
    monkeypatch.setattr(cue_seen, 'table', lies); monkeypatch.setattr(cue_seen, 'N_BOOT', 6)
    q = cue_seen.seen('0')
    assert q['votes and auc cam shape within'][0]<-.9 and q['votes and auc cam shape'][0]>.8
    assert q['auc cam shape'][0]==pytest.approx(cue_seen.pixels_auc(lies('0', 'cam')).mean())

def test_bad_input():
    with pytest.raises(ValueError, match='part: expected one of all, maps'): cue_seen.grid(part='boxes')
    with pytest.raises(ValueError, match='pooling: expected one of everywhere'): cue_seen.pooled('0', 'middle')
