"Boxes, IoU and accuracies against slow loops and what OpenCV gave, PxAP against scikit-learn, and the usual mistakes as mutants."
import numpy as np, pytest, torch
from functools import cache
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from sklearn.metrics import average_precision_score
import avh_nb.stats.localisation as page
from avh_nb.data.boxes import cue_masks, mask_boxes
from avh_nb.data.sets import available
from avh_nb.stats.contours import level_boxes
from avh_nb.stats.localisation import (average_precision, box_iou, max_box_accuracy, overlaps, pixel_average_precision, pixel_counts,
    threshold_boxes)

# A slow reference, by sets of pixels

FOUR = [(-1, 0), (0, -1), (0, 1), (1, 0)]
CLOCKWISE = [(0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1)] # from the left

def connected(pixels, around):
    "Connected sets of pixels, in the order of their first pixels"
    left,res = set(pixels),[]
    for start in sorted(pixels):
        if start not in left: continue
        part,todo = set(),[start]
        left.discard(start)
        while todo:
            y,x = todo.pop()
            part.add((y, x))
            for dy,dx in around:
                if (y+dy, x+dx) in left: left.discard((y+dy, x+dx)); todo.append((y+dy, x+dx))
        res.append(part)
    return res

def traced_area(part):
    "Walk along the outer border of a part, from pixel centre to pixel centre, and sum up what lies on one side"
    here = min(part)
    back,path = (0, -1),[here]
    while True:
        turn = CLOCKWISE.index(back)
        for i in range(1, 9):
            dy,dx = CLOCKWISE[(turn+i)%8]
            if (here[0]+dy, here[1]+dx) in part: break
        else: return 0 # a single pixel
        before = CLOCKWISE[(turn+i-1)%8]
        back = here[0]+before[0]-here[0]-dy,here[1]+before[1]-here[1]-dx
        here = here[0]+dy,here[1]+dx
        if len(path)>1 and (path[-1],here)==(path[0],path[1]) : break
        path.append(here)
    return abs(sum(a[0]*b[1]-a[1]*b[0] for a,b in zip(path, path[1:])))/2

def ends(part): return [min(x for _,x in part), min(y for y,_ in part), max(x for _,x in part), max(y for y,_ in part)]

def slow_boxes(on, every, holes=True, mutant=''):
    "Boxes as the published code draws them"
    high,wide = on.shape
    around = FOUR if mutant=='four neighbours' else CLOCKWISE
    parts = connected(set(zip(*map(list, np.nonzero(on)))), around)
    everywhere = {(y, x) for y in range(-1, high+1) for x in range(-1, wide+1)}
    if not parts: return [[0, 0, 0, 0]]
    _,*gaps = connected(everywhere-set().union(*parts), FOUR)
    if every:
        res = [ends(p) for p in parts]
        if holes and mutant!='no holes': res += [[x0-1, y0-1, x1+1, y1+1] for x0,y0,x1,y1 in map(ends, gaps)]
    else:
        def measure(part):
            if mutant=='counted pixels': return len(part)
            if mutant=='not filled': # squares of four neighbours that the part itself has
                squares = [len(part & {(y, x), (y, x+1), (y+1, x), (y+1, x+1)}) for y,x in everywhere]
                return squares.count(4)+squares.count(3)/2
            return traced_area(everywhere-connected(everywhere-part, FOUR)[0])
        sizes = [measure(p) for p in parts]
        first = sizes.index(max(sizes)) if mutant=='first of equals' else len(sizes)-1-sizes[::-1].index(max(sizes))
        res = [ends(parts[first])]
    if mutant=='exact ends': return res
    clip = mutant!='not clipped'
    return [[x0, y0, min(x1+1, wide-1) if clip else x1+1, min(y1+1, high-1) if clip else y1+1] for x0,y0,x1,y1 in res]

def slow_iou(a, b, mutant=''):
    one = mutant!='without + 1'
    def pixels(x0, y0, x1, y1): return {(x, y) for x in range(int(x0), int(x1)+one) for y in range(int(y0), int(y1)+one)}
    a,b = pixels(*a),pixels(*b)
    return len(a&b)/len(a|b) if a|b else 0.

def slow_overlaps(map, objects, version, steps=1000, mutant=''):
    "Of one image the best IoU at every threshold, computed for each of them"
    grey,seen,res = [[int(np.floor(v*255+(.5 if mutant=='rounded' else 0))) for v in row] for row in map.tolist()],{},[]
    grey = np.array(grey)
    for tau in np.arange(0, 1, 1/steps):
        level = int(tau*grey.max())
        on = grey>=level if mutant=='not strict' else grey>level
        if (key := on.tobytes()) not in seen:
            seen[key] = max(slow_iou(b, o, mutant) for b in slow_boxes(on, version=='V2', mutant=mutant) for o in objects)
        res.append(seen[key])
    return np.array(res)

# Boxes

def picture(text): return np.array([[c=='#' for c in row] for row in text.split()])

# What cv2.findContours (RETR_TREE), contourArea and boundingRect of OpenCV 5.0.0 gave, and those of 4.14.0 and 4.5.5 too, the ends
# x + w and y + h clipped: the largest contour, and all of them
OPENCV = [
    ('diagonal ring', '..#....... .#.#...... #...#..... .#.#...... ..#....... .......... ##########',
        [0, 0, 5, 5], [[0, 0, 5, 5], [0, 0, 5, 5], [0, 6, 9, 6]]),
    ('ring in ring', '#########.... #.......#.... #.#####.#.... #.#...#.#.### #.#.#.#.#.### #.#...#.#.### #.#####.#.... #.......#.... '
        '#########....', [0, 0, 9, 8], [[0, 0, 9, 8], [0, 0, 9, 8], [2, 2, 7, 7], [2, 2, 7, 7], [4, 4, 5, 5], [10, 3, 12, 6]]),
    ('holes that touch', '######.. #..####. #..##### ###..### ###..#.# .####### ..######',
        [0, 0, 7, 6], [[0, 0, 4, 4], [0, 0, 7, 6], [2, 2, 6, 6], [5, 3, 7, 6]]),
    ('no area', '.##....# ........ #..##... #......# .......#',
        [7, 3, 7, 4], [[0, 2, 1, 4], [1, 0, 3, 1], [3, 2, 5, 3], [7, 0, 7, 1], [7, 3, 7, 4]]),
    ('equal areas', '##...##. ##...##. ........ .##..### .##....# .......#',
        [1, 3, 3, 5], [[0, 0, 2, 2], [1, 3, 3, 5], [5, 0, 7, 2], [5, 3, 7, 5]]),
    ('borders', '.#.## #.... ....# ###.. #.#.#', [0, 3, 3, 4], [[0, 0, 2, 2], [0, 3, 3, 4], [3, 0, 4, 1], [4, 2, 4, 3], [4, 4, 4, 4]]),
    ('chessboard', '#.#.# .#.#. #.#.# .#.#.', [0, 0, 4, 3], [[0, 0, 4, 3], [0, 1, 3, 3], [1, 0, 4, 3], [2, 1, 4, 3]]),
    ('open hull', '#######......... #.....#..######. #.###.#..######. #.###.#..######. #.....#..######. ###.###..######.',
        [9, 1, 15, 5], [[0, 0, 7, 5], [2, 2, 5, 4], [9, 1, 15, 5]]),
    ('everything', '### ###', [0, 0, 2, 1], [[0, 0, 2, 1]]),
    ('one pixel', '... ..#', [2, 1, 2, 1], [[2, 1, 2, 1]]),
]

@pytest.mark.parametrize('text,largest,every', [c[1:] for c in OPENCV], ids=[c[0] for c in OPENCV])
def test_boxes_that_opencv_gave(text, largest, every):
    on = picture(text)
    for other in (on, on*.7, np.where(on, .9, .2)): # whatever the values
        level = [(other.max()+other.min())/2 if not on.all() else 0]
        assert threshold_boxes(other, level)[0].tolist()==[largest]
        assert sorted(threshold_boxes(other, level, every=True, holes=True)[0].tolist())==every
    assert slow_boxes(on, False)==[largest] and sorted(slow_boxes(on, True))==every # the reference, too

grey = st.integers(1, 8).flatmap(lambda h: st.integers(1, 9).flatmap(lambda w: arrays(np.int64, (h, w), elements=st.integers(0, 5))))

@settings(deadline=None, max_examples=60)
@given(grey)
def test_boxes_against_sets_of_pixels(map):
    levels = np.array([2, -1, 5, 0, 3, 3, 1, 4]) # in no order, one twice
    for every,holes in ((False, False), (True, False), (True, True)):
        for level,boxes in zip(levels, threshold_boxes(map, levels, every, holes)):
            assert sorted(boxes.tolist())==sorted(slow_boxes(map>level, every, holes)), (level, every, holes)

@pytest.mark.parametrize('seed', range(4))
def test_smooth_maps_level_by_level(seed):
    "Many levels, parts and holes, also within one another"
    rng = np.random.default_rng(seed)
    map = ndimage.gaussian_filter(rng.normal(size=(22, 25)), rng.uniform(.6, 2))
    levels = np.linspace(map.min()-.1, map.max(), 12)
    for every in (False, True):
        for level,boxes in zip(levels, threshold_boxes(map, levels, every, True)):
            assert sorted(boxes.tolist())==sorted(slow_boxes(map>level, every))

def test_a_map_of_rings_within_rings():
    "A nest of frames with a dot in the middle, each a bit lower or higher than the one around it"
    y,x = np.mgrid[:21, :21]
    ring = np.maximum(abs(y-10), abs(x-10))
    for heights in ([5, 0, 4, 1, 3, 0, 2, 0, 5, 1, 3], [1, 3, 0, 2, 0, 5, 0, 3, 1, 4, 2]):
        map = np.array(heights)[ring]
        for every in (False, True):
            for level,boxes in zip(range(6), threshold_boxes(map, range(6), every, True)):
                assert sorted(boxes.tolist())==sorted(slow_boxes(map>level, every))

def test_any_scale_of_values():
    map = np.random.default_rng(0).normal(size=(12, 12))
    levels = np.quantile(map, [.2, .5, .8])
    expected = threshold_boxes(map, levels, True, True)
    for turn in (np.exp, lambda v: 1e6*v-1e9, lambda v: 1e-30*v):
        for a,b in zip(threshold_boxes(turn(map), turn(levels), True, True), expected): assert sorted(a.tolist())==sorted(b.tolist())

def test_parts_are_found_once_for_all_levels(monkeypatch):
    "A map with four values has three levels that differ, or four with that above which there is nothing"
    asked = []
    monkeypatch.setattr(page, 'level_boxes', lambda map, levels, *a: asked.append(levels) or level_boxes(map, levels, *a))
    map = np.random.default_rng(0).choice([0, .2, .6, 1], size=(9, 9))
    max_box_accuracy([map], [[[0, 0, 4, 4]]])
    assert [len(l) for l in asked]==[3]
    overlaps(map, [[0, 0, 4, 4]], np.linspace(-1, 2, 5000))
    assert len(asked[1])==5

def test_more_levels_than_are_looked_at_together(monkeypatch):
    map = np.random.default_rng(0).random((9, 9))
    levels = np.linspace(-.1, 1, 60)
    expected = overlaps(map, [[2, 2, 6, 6]], levels, True, True)
    monkeypatch.setattr(page, 'SOME', 7)
    np.testing.assert_array_equal(overlaps(map, [[2, 2, 6, 6]], levels, True, True), expected)
    assert len(set(expected))>9

# IoU

box = st.tuples(*[st.integers(0, 6)]*4).map(lambda b: [min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])])

@given(st.lists(box, min_size=1, max_size=4), st.lists(box, min_size=1, max_size=4))
def test_iou_by_counting_pixels(a, b):
    np.testing.assert_allclose(box_iou(a, b), [[slow_iou(i, j) for j in b] for i in a], rtol=1e-12)

# Accuracy

def twelve():
    "Maps that need no random numbers, and the boxes of objects"
    y,x = np.mgrid[:16, :20]
    maps = [np.sin((i+2)*x/7+i)+np.cos((12-i)*y/9-i)+np.sin((x*y+5*i)/23) for i in range(12)]
    objects = [[0, 3, 15, 14], [10, 0, 19, 4], [4, 4, 14, 10], [0, 1, 19, 8], [0, 0, 15, 15], [7, 0, 14, 7], [0, 0, 19, 14], [6, 8, 18, 15],
        [12, 0, 17, 8], [10, 5, 19, 15], [0, 6, 5, 14], [8, 0, 19, 3]]
    return np.stack([(m-m.min())/np.ptp(m) for m in maps]),[np.array([o]) for o in objects]

def few():
    "Small ones, for slow loops"
    rng = np.random.default_rng(3)
    maps = ndimage.gaussian_filter(rng.normal(size=(4, 9, 10)), (0, .7, .7))
    maps -= maps.min((1, 2), keepdims=True)
    objects = np.sort(rng.integers(0, 9, (4, 2, 2)), 1).reshape(4, 1, 4)
    return maps/maps.max((1, 2), keepdims=True),objects

@cache
def table(version, mutant=''): return np.stack([slow_overlaps(m, o, version, mutant=mutant) for m,o in zip(*few())])

# The published steps with OpenCV 5.0.0, 4.14.0 and 4.5.5: images of twelve that are found, and the first threshold with so many
@pytest.mark.parametrize('version,found,tau,total', [
    ('V1', [7, 5, 5], [.538, .408, .569], 3329.9915410138974), ('V2', [12, 11, 7], [.573, .573, .597], 4143.438335452328)])
def test_accuracy_that_opencv_gave(version, found, tau, total):
    ours = max_box_accuracy(*twelve(), version, ious=(.3, .5, .7))
    np.testing.assert_allclose(list(ours.by_iou.values()), np.array(found)/12)
    np.testing.assert_allclose(list(ours.threshold.values()), tau)
    assert ours.accuracy==pytest.approx(np.mean(found)/12)
    greys = [(m*255).astype(np.uint8) for m in twelve()[0]]
    ious = [overlaps(g, o, (np.arange(0, 1, .001)*g.max()).astype(int), version=='V2', True) for g,o in zip(greys, twelve()[1])]
    assert np.sum(ious)==pytest.approx(total, rel=1e-12)

def test_versions():
    maps,objects = twelve()
    one,two = (max_box_accuracy(maps, objects, v) for v in ('V1', 'V2'))
    assert list(one.by_iou)==[.5] and list(two.by_iou)==[.3, .5, .7] and one.accuracy==one.by_iou[.5]
    assert two.accuracy==pytest.approx(np.mean(list(two.by_iou.values())))

IOUS = np.arange(.1, 1, .05)

@pytest.mark.parametrize('version', ['V1', 'V2'])
def test_a_thousand_thresholds_by_brute_force(version):
    maps,objects = few()
    found = table(version)[:, :, None]>=IOUS
    ours = max_box_accuracy(maps, objects, version, ious=IOUS)
    np.testing.assert_allclose(list(ours.by_iou.values()), found.mean(0).max(0))
    np.testing.assert_allclose(list(ours.threshold.values()), found.sum(0).argmax(0)/1000)

@pytest.mark.parametrize('version,mutant', [*[(v, m) for v in ('V1', 'V2') for m in
    ('exact ends', 'not clipped', 'without + 1', 'rounded', 'not strict', 'four neighbours')],
    ('V2', 'no holes'), ('V1', 'counted pixels')])
def test_mutants_of_boxes_give_other_numbers(version, mutant):
    maps,objects = few()
    right,wrong = table(version),table(version, mutant)
    levels = [(np.arange(1000)*.001*int((m*255).max())).astype(int) for m in maps]
    ours = [overlaps((m*255).astype(np.uint8), o, l, version=='V2', version=='V2') for m,o,l in zip(maps, objects, levels)]
    np.testing.assert_allclose(ours, right)
    assert abs(right-wrong).max()>.01

def test_a_part_is_measured_with_its_holes():
    ring,right = picture(OPENCV[1][1]),[OPENCV[1][2]]
    assert threshold_boxes(ring, [0])[0].tolist()==right and slow_boxes(ring, False, mutant='not filled')!=right
    assert slow_boxes(picture(OPENCV[3][1]), False, mutant='first of equals')!=[OPENCV[3][2]]

@pytest.mark.parametrize('version', ['V1', 'V2'])
def test_a_threshold_for_each_image_is_a_mistake(version):
    found = table(version)>=.2
    ours = max_box_accuracy(*few(), version, ious=[.2]).accuracy
    assert ours==pytest.approx(found.mean(0).max()) and found.any(1).mean()>ours+.2

def test_holes_can_be_left_out():
    ring = np.zeros((1, 12, 12)); ring[0, 1:11, 1:11],ring[0, 4:8, 4:8] = 1,0
    hole = [[[3, 3, 9, 9]]] # the box that its contour has
    assert max_box_accuracy(ring, hole, ious=[.95]).accuracy==1 and max_box_accuracy(ring, hole, ious=[.95], holes=False).accuracy==0
    assert max_box_accuracy(ring, hole, 'V1', ious=[.95]).accuracy==0

def test_any_of_several_objects_counts():
    maps,objects = twelve()
    both = [np.concatenate([o, [[0, 0, 1, 1]]]) for o in objects]
    assert max_box_accuracy(maps, both, ious=IOUS).accuracy>=max_box_accuracy(maps, objects, ious=IOUS).accuracy
    two,one = [[[18, 14, 19, 15], *objects[0]]],objects[:1]
    assert max_box_accuracy(maps[:1], two, ious=[.7])==max_box_accuracy(maps[:1], one, ious=[.7])

@pytest.mark.parametrize('value', [0, .4, 1])
def test_a_constant_map(value):
    "Nothing is above the largest value; below it, the box is the image"
    maps = np.full((1, 10, 12), float(value))
    everywhere = max_box_accuracy(maps, [[[0, 0, 11, 9]]]).accuracy
    assert everywhere==(value>0) and max_box_accuracy(maps, [[[0, 0, 0, 0]]]).accuracy==(value==0)

@pytest.mark.parametrize('turn', [torch.tensor, lambda v: torch.tensor(v, requires_grad=True), lambda v: torch.tensor(v).float(), list])
def test_tensors_and_lists(turn):
    maps,objects = twelve()
    maps = np.round(maps*128)/128 # as exact in 32 bits
    assert max_box_accuracy(turn(maps), objects)==max_box_accuracy(maps, objects)
    masks = maps>.7
    assert pixel_average_precision(turn(maps), torch.tensor(masks))==pixel_average_precision(maps, masks)
    assert pixel_average_precision(torch.tensor(maps).bfloat16(), masks)==pytest.approx(1, abs=.01)

# Pixels

GRID = np.arange(1000)*.001

def several(seed, values=None):
    rng = np.random.default_rng(seed)
    masks = ndimage.gaussian_filter(rng.normal(size=(4, 13, 11)), (0, 2, 2))>.05
    maps = rng.choice(np.append(GRID, 1) if values is None else values, size=masks.shape)
    maps[masks] = np.maximum(maps, rng.permutation(maps.ravel()).reshape(maps.shape))[masks]
    return maps,masks,rng.random(masks.shape)<.2

@pytest.mark.parametrize('seed', range(5))
def test_pxap_against_scikit_learn(seed):
    for values in (None, GRID[::100], [0., 1.], [.3, .301, .999, 1]):
        maps,masks,_ = several(seed, values)
        assert pixel_average_precision(maps, masks)==pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)

@pytest.mark.parametrize('seed', range(3))
def test_pxap_of_values_between_the_bins(seed):
    "As if they were rounded down to their bin, and near to what no bins give"
    maps,masks,_ = several(seed)
    between = np.minimum(maps+np.random.default_rng(seed).uniform(0, .0009, maps.shape), 1)
    assert pixel_average_precision(between, masks)==pixel_average_precision(maps, masks)
    assert pixel_average_precision(between, masks)==pytest.approx(average_precision_score(masks.ravel(), between.ravel()), abs=.01)
    coarse = np.floor(maps*4)/4
    assert pixel_average_precision(maps, masks, bins=4)==pytest.approx(average_precision_score(masks.ravel(), coarse.ravel()))

@pytest.mark.parametrize('seed', range(3))
def test_pixels_to_ignore(seed):
    maps,masks,ignore = several(seed)
    keep = ~ignore | masks # of an object all pixels count
    expected = average_precision_score(masks[keep], maps[keep])
    assert pixel_average_precision(maps, masks, ignore)==pytest.approx(expected, abs=1e-12)
    for wrong in (average_precision_score(masks.ravel(), maps.ravel()), average_precision_score(masks[~ignore], maps[~ignore]),
        average_precision_score((masks | ignore).ravel(), maps.ravel())): assert abs(wrong-expected)>1e-3

def test_all_images_share_one_curve():
    "The easy mistake: a mean of curves"
    maps,masks,_ = several(0)
    maps[0] /= 2
    each = np.mean([average_precision_score(m.ravel(), v.ravel()) for m,v in zip(masks, maps)])
    assert abs(pixel_average_precision(maps, masks)-each)>.01

@pytest.mark.parametrize('value', [0, .4567, 1])
def test_a_constant_map_has_the_share_of_the_objects(value):
    _,masks,ignore = several(1)
    assert pixel_average_precision(np.full(masks.shape, value), masks)==pytest.approx(masks.mean())
    assert pixel_average_precision(np.full(masks.shape, value), masks, ignore)==pytest.approx(masks[~ignore | masks].mean())

@given(arrays(np.int64, (2, 6), elements=st.integers(0, 5)), st.integers(1, 4))
def test_average_precision_of_counts(counts, times):
    inside,outside = counts
    values = np.repeat(np.tile(np.arange(6), 2), counts.ravel())
    truth = np.repeat([True, False], counts.sum(1))
    if not inside.any(): assert np.isnan(average_precision(inside, outside))
    else: assert average_precision(inside, outside)==pytest.approx(average_precision_score(truth, values))
    together = average_precision(np.stack([inside, times*inside]), np.stack([outside, times*outside]))
    np.testing.assert_allclose(together[0], together[1])

def test_every_bin_holds_its_edge():
    counts = pixel_counts(np.append(GRID, 1)[None], np.ones((1, 1001), bool))
    assert counts.tolist()==[[1]*1001, [0]*1001]

# Errors

def test_what_is_refused():
    maps,objects = twelve()
    masks = maps>.5
    for call in (lambda: max_box_accuracy(maps[:0], []), lambda: pixel_average_precision(maps[:0], masks[:0])):
        with pytest.raises(ValueError, match='maps: expected one image at least'): call()
    for wrong in (-.1, 1.1, np.nan, np.inf):
        bad = maps.copy(); bad[3, 1, 2] = wrong
        with pytest.raises(ValueError, match=r'maps: image 3: expected values from 0 to 1, got .* in row 1, column 2'):
            max_box_accuracy(bad, objects)
        with pytest.raises(ValueError, match=r'map: expected values from 0 to 1, got .* in row 1, column 2, for image 3'):
            pixel_average_precision(bad, masks)
    with pytest.raises(ValueError, match=r'mask: expected booleans of shape \(16, 20\), as the map has, got bool of shape \(20, 16\)'):
        pixel_average_precision(maps, masks.transpose(0, 2, 1))
    with pytest.raises(ValueError, match='ignore: expected 12, one for each map, got 11'): pixel_average_precision(maps, masks, masks[:11])
    with pytest.raises(ValueError, match=r'ignore: expected booleans .* for image 0'): pixel_average_precision(maps, masks, maps)
    with pytest.raises(ValueError, match='masks: expected a pixel of an object'): pixel_average_precision(maps, masks & ~masks)
    with pytest.raises(ValueError, match='bins: expected at least 1, got 0'): pixel_average_precision(maps, masks, bins=0)
    with pytest.raises(ValueError, match='boxes: expected 12, one for each map, got 11'): max_box_accuracy(maps, objects[:11])
    with pytest.raises(ValueError, match='ious: expected shares'): max_box_accuracy(maps, objects, ious=[50])
    with pytest.raises(ValueError, match='steps: expected at least 1'): max_box_accuracy(maps, objects, steps=0)
    with pytest.raises(ValueError, match="version: expected 'V1' or 'V2', got 2"): max_box_accuracy(maps, objects, 2)
    with pytest.raises(ValueError, match=r'maps: image 0: expected shape \(H, W\)'): max_box_accuracy(maps[0], (objects*2)[:16])

@pytest.mark.parametrize('box,match', [([[0, 0, 20, 15]], 'within 20 x 16 pixels'), ([[0, -1, 3, 3]], 'within 20 x 16 pixels'),
    ([[0, 0, 3, 16]], 'within 20 x 16'), ([[4, 0, 3, 3]], 'x0 <= x1'), ([], r'shape \(n, 4\)'), (np.zeros((0, 4)), 'one box at least'),
    ([[0, 0, np.nan, 3]], 'x0 <= x1'), ([['a']*4], 'expected numbers')])
def test_boxes_that_are_refused(box, match):
    maps,objects = twelve()
    with pytest.raises(ValueError, match=f'boxes: image 1: .*{match}'): max_box_accuracy(maps[:2], [objects[0], box])

@pytest.mark.skipif(not available('cue_conflict'), reason='needs cue_conflict')
def test_known_figures_of_cue_conflict():
    "PxAP of maps that have not seen the image, and how many boxes the whole image passes for"
    masks = cue_masks().numpy()
    away = np.arange(224)-111.5
    centre = np.exp(-(away[:, None]**2+away**2)/(2*56**2))
    some = masks[::80]
    for map,known in ((np.full((224, 224), .5), .444), (centre, .711)):
        bins = np.searchsorted(np.append(GRID, 1), map, 'right').ravel()-1
        def of(m, bins=bins): return average_precision(*(np.bincount(bins, v.sum(0).ravel()) for v in (m, ~m)))
        assert of(masks)==pytest.approx(known, abs=6e-4)
        assert of(some)==pytest.approx(pixel_average_precision([map]*len(some), some), abs=1e-12)
    passed = max_box_accuracy(np.ones((len(some), 224, 224)), [b[None] for b in mask_boxes(some)]).by_iou
    iou = box_iou([[0, 0, 223, 223]], mask_boxes(masks))[0]
    np.testing.assert_allclose([(iou>=t).mean() for t in (.3, .5, .7)], [.963, .783, .555], atol=6e-4)
    np.testing.assert_allclose(list(passed.values()), [(iou[::80]>=t).mean() for t in (.3, .5, .7)])
