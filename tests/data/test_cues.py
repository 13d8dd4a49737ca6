"Cues: levels and splits against loops over a small grid, chance by counting, draws that stay the same, and known mistakes."
import hashlib, itertools, math, random, re
from collections import Counter
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from mutants import mutant
from avh_nb.data import cues as page
from avh_nb.data.cues import CUES, CueImages, chance_line, cue_levels, diagonal, off_diagonal, sprite_cues
from avh_nb.data.sprites import LATENTS, N_VALUES, all_latents, draw_sprites

def one_factor(factor, values):
    latents = torch.zeros(len(values), 6).long()
    latents[:, LATENTS.index(factor)] = torch.tensor(values)
    return latents

def ranges(m, factor, n_levels, bins):
    "Values at each level, and those that are dropped"
    values = [*range(N_VALUES[factor])]
    level = m.cue_levels(one_factor(factor, values), (factor,), n_levels, bins)[:, 0].tolist()
    return [[v for v in values if level[v]==l] for l in (*range(n_levels), -1)]

# Levels

def published_cuts(n, n_levels, strict):
    "By trying all ends; `strict` counts what is left without the value at the last cut (> for >=)"
    cuts = [0]
    for l in range(n_levels):
        left = sum(v>cuts[-1] if strict else v>=cuts[-1] for v in range(n))
        wanted = left/(n_levels-l)
        cuts.append(min(range(cuts[-1]+1, n+1), key=lambda end: abs(sum(cuts[-1]<=v<end for v in range(n))-wanted)))
    return cuts[1:]

def published_bins(m):
    assert ranges(m, 'scale', 3, 'published')==[[0, 1], [2], [3, 4], [5]]
    thirds = [[*range(13)], [*range(13, 26)], [*range(26, 39)], []]
    assert ranges(m, 'orientation', 3, 'published')==thirds # 40 there, of which the last is dropped
    assert published_cuts(6, 3, True)==[2, 3, 5] and published_cuts(40, 3, True)==[13, 26, 39]

def equal_bins(m):
    assert ranges(m, 'scale', 3, 'equal')==[[0, 1], [2, 3], [4, 5], []] and published_cuts(6, 3, False)==[2, 4, 6]
    assert ranges(m, 'orientation', 3, 'equal')==[[*range(13)], [*range(13, 26)], [*range(26, 39)], []]

def test_the_published_bins(): published_bins(page)
def test_the_equal_bins(): equal_bins(page)

@given(st.integers(2, 60), st.integers(2, 12))
@settings(deadline=None)
def test_cuts_against_trying_all(n, n_levels):
    if n_levels>n: return
    cuts = page._ends(n, n_levels, 0)
    sizes = np.diff([0, *cuts])
    assert cuts==published_cuts(n, n_levels, False) and cuts[-1]==n and sizes.max()-sizes.min()<=1 and sizes.min()>0
    if n_levels<n: assert page._ends(n, n_levels, 1)==published_cuts(n, n_levels, True)

@pytest.mark.parametrize('n_levels', [2, 3])
@pytest.mark.parametrize('bins', ['equal', 'published'])
def test_levels_row_by_row(n_levels, bins):
    "The levels of an image, one value at a time"
    pick = all_latents()[torch.randint(2_875_392, (300,), generator=torch.Generator().manual_seed(0))]
    levels = cue_levels(pick, CUES, n_levels, bins)
    assert levels.dtype==torch.int64 and levels.shape==(300, 4)
    for row,own in zip(pick.tolist(), levels.tolist()):
        for cue,level in zip(CUES, own):
            value = row[LATENTS.index(cue)]
            if cue in ('colour', 'shape'): assert level==(value if value<n_levels else -1)
            else: assert value in ranges(page, cue, n_levels, bins)[level] # -1 is the last of these
    assert torch.equal(cue_levels(pick, CUES[::-1], n_levels, bins), levels.flip(1))
    assert torch.equal(cue_levels(pick.numpy(), CUES, n_levels, bins), levels)

def test_positions_are_cues_too():
    assert ranges(page, 'x', 2, 'equal')==[[*range(16)], [*range(16, 32)], []]
    assert ranges(page, 'colour', 4, 'equal')==[[0], [1], [2], [3], []]

# Splits of a small grid, by loops

def grid(seed=0, copies=3):
    "Levels of three cues with two levels and one value that is not admitted, some copies of each, in random order"
    rows = [list(r) for r in itertools.product((-1, 0, 1), repeat=3)]*copies
    random.Random(seed).shuffle(rows)
    return rows

def in_diagonal(row): return all(l==row[0] and l>=0 for l in row)
def off_it(row): return all(l>=0 for l in row) and any(l!=row[0] for l in row)

def by_brute_force(m):
    rows = grid()
    levels = torch.tensor(rows)
    on = [i for i,row in enumerate(rows) if in_diagonal(row)]
    off = [i for i,row in enumerate(rows) if off_it(row)]
    assert len(on)==2*3 and len(off)==6*3
    assert sorted(m.diagonal(levels, 6, 0).tolist())==on # all that there are
    for by in (None, 0, 1, 2): assert sorted(m.off_diagonal(levels, 18, 0, by).tolist())==off
    for seed in range(3):
        for n in (2, 4): assert Counter(rows[i][0] for i in m.diagonal(levels, n, seed).tolist())=={0: n//2, 1: n//2}
        cells = Counter(tuple(rows[i]) for i in m.off_diagonal(levels, 12, seed).tolist())
        assert set(cells.values())=={2} and len(cells)==6 and all(off_it(c) for c in cells)
        for by in range(3): assert Counter(rows[i][by] for i in m.off_diagonal(levels, 10, seed, by).tolist())=={0: 5, 1: 5}
    for too_many,call in ((7, m.diagonal), (19, m.off_diagonal)):
        with pytest.raises(ValueError, match='levels: expected'): call(levels, too_many)

def test_splits_by_brute_force(): by_brute_force(page)

def a_fair_draw(m):
    "Each member of a group is drawn as often as any other, and the order says nothing"
    levels,counts,first = torch.tensor(grid()),Counter(),Counter()
    for seed in range(400):
        index = m.off_diagonal(levels, 7, seed)
        counts.update(index.tolist()); first.update([tuple(levels[index[0]].tolist())])
    expected = 7*400/18
    assert len(counts)==18 and sum((c-expected)**2/expected for c in counts.values())<45 # chi squared of 17 degrees
    assert len(first)==6 and sum((c-400/6)**2/(400/6) for c in first.values())<25 # of 5
    order = m.diagonal(torch.tensor([[0, 0]]*50+[[1, 1]]*50), 100, 0).tolist()
    assert 10<sum(i<50 for i in order[:50])<40 # no level comes first

def test_a_fair_draw(): a_fair_draw(page)

def balanced(m, levels, n, seed, by):
    "Balance, membership, no repetition, and errors that are due"
    rows,l,k = levels.tolist(),max(map(max, levels.tolist()))+1,len(levels[0])
    off = [i for i,row in enumerate(rows) if off_it(row)]
    groups = [c for c in itertools.product(range(l), repeat=k) if len(set(c))>1] if by is None else [*range(l)]
    def group(i): return tuple(rows[i]) if by is None else rows[i][by]
    there = Counter(map(group, off))
    try: index = m.off_diagonal(levels, n, seed, by).tolist()
    except ValueError as e:
        assert min(there[g] for g in groups)<math.ceil(n/len(groups)), str(e)
        return
    assert len(index)==n==len(set(index)) and set(index)<=set(off)
    drawn = Counter(map(group, index))
    assert {drawn[g] for g in groups} <= {n//len(groups), -(-n//len(groups))}
    for smaller in {1, n//2, n-1}-{0, n}: assert set(m.off_diagonal(levels, smaller, seed, by).tolist())<set(index) # nested

@given(st.integers(2, 3), st.integers(2, 3), st.integers(0, 3), st.integers(1, 30), st.integers(0, 2**32-1), st.data())
@settings(max_examples=60, deadline=None)
def test_draws_of_any_levels(l, k, copies, n, seed, data):
    rows = [list(r) for r in itertools.product(range(l), repeat=k)]*(1+copies)
    rows += data.draw(st.lists(st.lists(st.integers(-1, l-1), min_size=k, max_size=k), max_size=10))
    levels = torch.tensor(data.draw(st.permutations(rows)))
    balanced(page, levels, n, seed, data.draw(st.sampled_from([None, *range(k)])))

# Draws that recorded runs rest on

def digest(index): return hashlib.sha256(index.numpy().astype('<i8').tobytes()).hexdigest()[:16]

@pytest.fixture(scope='module')
def levels(): return cue_levels(all_latents())

DRAWS = {('diagonal', 0): 'a540a263a6b38565', ('diagonal', 4): '55caf2cdb507e0ca', ('off', 0): '3637517f9250dd23',
    ('off', 4): 'a5dcdafba86f0218', 'by shape': '9edb1acf0dd469a6', 'published': '28ac92a60833f052'}

def test_draws_stay_the_same(levels):
    found = {('diagonal', seed): digest(diagonal(levels, 5000, seed)) for seed in (0, 4)}
    found |= {('off', seed): digest(off_diagonal(levels, 1560, seed)) for seed in (0, 4)}
    found['by shape'] = digest(off_diagonal(levels, 1560, 0, 1))
    found['published'] = digest(diagonal(cue_levels(all_latents(), bins='published'), 5000, 0))
    assert found==DRAWS

def leaves_generators_alone(m):
    levels = torch.tensor(grid())
    np.random.seed(5); random.seed(5); torch.manual_seed(5)
    before = np.random.get_state()[1].tolist(),np.random.get_state()[2],random.getstate(),torch.get_rng_state().tolist()
    first = m.off_diagonal(levels, 7, 3).tolist()
    assert (np.random.get_state()[1].tolist(),np.random.get_state()[2],random.getstate(),torch.get_rng_state().tolist())==before
    np.random.seed(6)
    assert m.off_diagonal(levels, 7, 3).tolist()==first!=m.off_diagonal(levels, 7, 4).tolist()

def test_global_generators_are_neither_used_nor_touched(): leaves_generators_alone(page)

def test_levels_of_any_kind():
    levels = torch.tensor(grid())
    for draw in (diagonal, off_diagonal):
        expected = draw(levels, 4, 1)
        assert expected.dtype==torch.int64
        for other in (levels.to(torch.int8), levels.int(), levels.numpy(), levels.tolist()): assert torch.equal(draw(other, 4, 1), expected)
    assert torch.equal(off_diagonal(levels, np.int64(4), np.int32(1), np.int64(2)), off_diagonal(levels, 4, 1, 2))

# Chance

def chances(m):
    for l in (2, 3, 4):
        for k in (2, 3, 4):
            cells = [c for c in itertools.product(range(l), repeat=k) if len(set(c))>1]
            for read,asked in itertools.permutations(range(k), 2): # a network that reads one cue, asked for another
                assert m.chance_line(l, k)==pytest.approx(sum(c[read]==c[asked] for c in cells)/len(cells))

def test_chance_by_counting():
    chances(page)
    assert [round(chance_line(3, k), 3) for k in (2, 3, 4)]==[0, .25, .308] and chance_line(2, 2)==0

# Images

def test_images_show_their_levels():
    images = sprite_cues('off-diagonal', 156, seed=2)
    assert images.x.shape==(156, 3, 64, 64) and images.x.dtype==torch.uint8 and images.levels.dtype==torch.int64
    light = images.x.double().sum((2, 3))/255
    assert torch.equal(light.argmax(1), images.of('colour').y) # red, green, blue; never white
    assert ((light>0).sum(1)==1).all()
    scale = (light.sum(1)/1.2).sqrt()/16 # from the area, which is the same for all shapes
    value = ((scale-.5)*10).round().long()
    assert torch.equal(value//2, images.of('scale').y) and set(value.tolist())==set(range(6))
    assert (images.of('shape').classes, images.of('shape').name)==(('0', '1', '2'), 'off-diagonal sprites, fair (seed 2), by shape')
    assert [len(set(row))>1 for row in images.levels.tolist()]==[True]*156
    # shape and orientation: the sprite is one of those that can have these levels, in the middle of the image
    for x,row in zip(images.x[:3], images.levels[:3].tolist()):
        rows,columns = x.amax(0).sum(1).double(),x.amax(0).sum(0).double()
        at = [round(((m*(torch.arange(64)+.5)).sum()/m.sum()-16).item()*31/32) for m in (columns, rows)]
        own = [[row[0], row[1], s, o, *at] for s in (2*row[2], 2*row[2]+1) for o in range(13*row[3], 13*row[3]+13)]
        assert (draw_sprites(own)==x).flatten(1).all(1).sum()==1

def test_the_published_bins_never_show_the_largest_scale():
    kinds = {bins: sprite_cues('diagonal', 60, 'published', bins=bins) for bins in ('equal', 'published')}
    largest = {bins: (images.x.amax(1).double().sum((1, 2))/255/1.2).sqrt().max()/16 for bins,images in kinds.items()}
    assert abs(largest['equal']-1)<.02 and abs(largest['published']-.9)<.02
    assert kinds['published'].name=='diagonal sprites, published, published bins (seed 0)'
    assert kinds['equal'].name=='diagonal sprites, published (seed 0)'

def test_no_image_twice_and_none_in_both_sets():
    for shapes in ('fair', 'published'):
        agree,disagree = sprite_cues('diagonal', 1500, shapes),sprite_cues('off-diagonal', 780, shapes)
        seen = [x.numpy().tobytes() for x in (*agree.x, *disagree.x)]
        assert len(set(seen))==2280
        assert sorted(agree.levels[:, 0].bincount().tolist())==[500]*3 and (agree.levels==agree.levels[:, :1]).all()
        assert disagree.levels.unique(dim=0, return_counts=True)[1].tolist()==[10]*78

def test_seeds_and_shapes():
    first,again,other,shapes = (sprite_cues('diagonal', 30, *a) for a in ((), ('fair', 0), ('fair', 1), ('published', 0)))
    assert torch.equal(first.x, again.x) and not torch.equal(first.x, other.x)
    assert torch.equal(first.levels, shapes.levels) and not torch.equal(first.x, shapes.x)
    heart = first.levels[:, 1]==0 # the same latents: where the fair set shows a heart, the published one has a square in its place
    middle = torch.arange(64)+.5
    for axis in (1, 2):
        a,b = ((x[heart].amax(1).double().sum(axis)*middle).sum(1)/x[heart].amax(1).double().sum((1, 2)) for x in (first.x, shapes.x))
        assert (a-b).abs().max()<.3

def test_other_cues_and_sizes():
    images = sprite_cues('off-diagonal', 12, cues=['shape', 'orientation'], size=32, n_levels=2)
    assert images.x.shape==(12, 3, 32, 32) and images.cues==('shape', 'orientation') and images.classes==('0', '1')
    assert Counter(map(tuple, images.levels.tolist()))=={(0, 1): 6, (1, 0): 6}
    by = sprite_cues('off-diagonal', 90, by='scale')
    assert by.of('scale').y.bincount().tolist()==[30]*3
    assert by[by.levels[:, 0]==0].of('shape').classes==('0', '1', '2') and len(by[:7])==7

def test_classes_are_those_of_the_levels():
    images = CueImages(torch.zeros(2, 3, 4, 4).byte(), torch.tensor([[0, 3], [1, 2]]), ('colour', 'x'), 'two')
    assert images.classes==('0', '1', '2', '3') and repr(images)=='two: 2 images of shape (3, 4, 4), cues colour, x'
    named = CueImages(images.x, images.levels, images.cues, 'two', ('a', 'b', 'c', 'd', 'e'))
    assert named[:1].of('x').classes==('a', 'b', 'c', 'd', 'e')

# Bad input

FEW = torch.tensor([[0, 0], [1, 1], [0, 1], [1, 0], [1, 0], [-1, 0]])

BAD = {
    'unknown cue': (lambda: sprite_cues(cues=('colour', 'size')),
        "cues: expected names among colour, shape, scale, orientation, x, y, got 'size'"),
    'a word for cues': (lambda: cue_levels([[0]*6], 'colour'), "got 'c'"),
    'a cue twice': (lambda: cue_levels([[0]*6], ('x', 'x')), "cues: expected each name once, and at least one, got ('x', 'x')"),
    'no cue': (lambda: cue_levels([[0]*6], ()), 'cues: expected each name once, and at least one, got ()'),
    'one level': (lambda: cue_levels([[0]*6], n_levels=1), 'n_levels: expected from 2 to 4, as many as colour has values, got 1'),
    'four shapes': (lambda: cue_levels([[0]*6], n_levels=4), 'n_levels: expected from 2 to 3, as many as shape has values, got 4'),
    'half a level': (lambda: cue_levels([[0]*6], n_levels=2.5), 'got 2.5'),
    'bins': (lambda: sprite_cues(bins='quantiles'), "bins: expected 'equal' or 'published', got 'quantiles'"),
    'latents': (lambda: cue_levels([[0, 0, 6, 0, 0, 0]]), 'latents: row 0: expected scale from 0 to 5, got 6'),
    'a cue with one level': (lambda: diagonal(FEW[[0, 2]], 1), 'levels: column 0: expected a cue with at least two levels, got only 0'),
    'a cue without levels': (lambda: off_diagonal(torch.tensor([[0, -1], [1, -1]]), 1),
        'levels: column 1: expected a cue with at least two levels, got none'),
    'one cue': (lambda: off_diagonal(FEW[:, :1], 1), 'levels: expected integers (N, K) of at least two cues, got int64 of shape (6, 1)'),
    'float levels': (lambda: diagonal(FEW.double(), 1), 'levels: expected integers (N, K) of at least two cues, got float64'),
    'no images': (lambda: diagonal(FEW[:0], 1), 'levels: column 0: expected a cue with at least two levels, got none'),
    'a diagonal without images': (lambda: diagonal(FEW[2:], 2), 'levels: expected 1 images of level 0 of all cues, got 0'),
    'nothing off the diagonal': (lambda: off_diagonal(FEW[:2], 2), 'levels: expected 1 images of cell (0, 1), got 0'),
    'too few in a cell': (lambda: off_diagonal(FEW, 4), 'levels: expected 2 images of cell (0, 1), got 1'),
    'too few at a level': (lambda: off_diagonal(FEW, 4, by=0), 'levels: expected 2 images of level 0 of cue 0, got 1'),
    'too many sprites': (lambda: sprite_cues(n=10**6), 'got 26624'),
    'none': (lambda: diagonal(FEW, 0), 'n: expected a whole number from 1, got 0'),
    'half an image': (lambda: off_diagonal(FEW, 1.5), 'n: expected a whole number from 1, got 1.5'),
    'seed': (lambda: diagonal(FEW, 1, seed=2**32), 'seed: expected a whole number from 0 to 4294967295, got 4294967296'),
    'no seed': (lambda: diagonal(FEW, 1, seed=None), 'seed: expected a whole number from 0 to 4294967295, got None'),
    'third of two cues': (lambda: off_diagonal(FEW, 1, by=2), 'by: expected the position of a cue, from 0 to 1, got 2'),
    'from the end': (lambda: off_diagonal(FEW, 1, by=-1), 'by: expected the position of a cue, from 0 to 1, got -1'),
    'by a name that is no cue': (lambda: sprite_cues('off-diagonal', 9, by='x'),
        "by: expected None, or one of ('colour', 'shape', 'scale', 'orientation'), got 'x'"),
    'by on the diagonal': (lambda: sprite_cues('diagonal', 9, by='shape'), "by: expected None, got 'shape'"),
    'which': (lambda: sprite_cues('off'), "which: expected 'diagonal' or 'off-diagonal', got 'off'"),
    'shapes': (lambda: sprite_cues(n=3, shapes='round'), "shapes: expected one of published, fair, got 'round'"),
    'of': (lambda: sprite_cues(n=3).of('x'), "cue: expected one of colour, shape, scale, orientation, got 'x'"),
    'levels of others': (lambda: CueImages(torch.zeros(2, 3, 4, 4), FEW, ('a', 'b'), ''), 'levels: expected shape (2, 2), got (6, 2)'),
    'chance of one cue': (lambda: chance_line(3, 1), 'n_cues: expected a whole number from 2, got 1'),
    'chance of one level': (lambda: chance_line(1, 3), 'n_levels: expected a whole number from 2, got 1'),
    'chance of fractions': (lambda: chance_line(2.5, 3), 'n_levels: expected a whole number from 2, got 2.5'),
}

@pytest.mark.parametrize('name', BAD)
def test_bad_input_is_refused(name):
    call,message = BAD[name]
    with pytest.raises(ValueError, match=re.escape(message)): call()

# Known mistakes

def any_levels(m):
    for seed in range(4):
        for by in (None, 0, 2): balanced(m, torch.tensor(grid(seed)), 11, seed, by)

def test_draws_of_the_grid(): any_levels(page)

MUTANTS = { # name: (before, after, the check that tells it)
    '> for >= in the equal bins': ('int(published))', '1)', equal_bins),
    '>= for > in the published bins': ('int(published))', '0)', published_bins),
    '39 published orientations': ("N_VALUES[cue]+(published and cue=='orientation')", 'N_VALUES[cue]', published_bins),
    'white admitted': ('torch.where(level<n_levels, level, -1)', 'level.clamp(max=n_levels-1)', published_bins),
    'ends belong to the range': ('right=True', 'right=False', equal_bins),
    'what is not admitted, off it': ('~same & (levels>=0).all(1)', '~same', by_brute_force),
    'any two equal are the diagonal': ('(levels==levels[:, :1]).all(1)', '(levels==levels[:, :1]).sum(1)>1', by_brute_force),
    'the diagonal off the diagonal': ('~same & (levels>=0).all(1)', '(levels>=0).all(1)', by_brute_force),
    'cells of two cues': ('l**(k-1-i)', 'l**min(k-1-i, 1)', by_brute_force),
    'by the first cue': ('np.where(off, levels[:, by], -1)', 'np.where(off, levels[:, 0], -1)', by_brute_force),
    'with replacement': ('random.permutation(end-start)[:size]', 'random.randint(0, max(end-start, 1), size)', any_levels),
    'the first of each group': ('[random.permutation(end-start)[:size]]', '[:size]', a_fair_draw),
    'one more of the first groups': ('sizes[random.permutation(g)[:n%g]] += 1', 'sizes[:n%g] += 1', a_fair_draw),
    'group after group': ('random.permutation(np.concatenate(drawn))', 'np.concatenate(drawn)', a_fair_draw),
    'not nested': ('np.random.RandomState(seed),len(names)', 'np.random.RandomState((seed+n)%2**32),len(names)', any_levels),
    'unseeded': ('np.random.RandomState(seed)', 'np.random.RandomState()', leaves_generators_alone),
    'the generator of the process': ('np.random.RandomState(seed)', 'np.random', leaves_generators_alone),
    'chance of one in L': ('(l**(k-1)-l)/(l**k-l)', '1/l', chances),
    'chance with the diagonal': ('(l**(k-1)-l)/(l**k-l)', 'l**(k-1)/l**k', chances),
}

@pytest.mark.parametrize('name', MUTANTS)
def test_mutants_are_caught(name):
    old,new,check = MUTANTS[name]
    wrong = mutant(page, old, new)
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)): check(wrong)

def test_sets_that_differ_have_names_that_differ():
    sets = [{}, dict(bins='published'), dict(cues=('shape', 'scale')), dict(size=32), dict(n_levels=2), dict(by='shape'),
        dict(seed=1), dict(shapes='published')]
    assert len({sprite_cues('off-diagonal', 12, **of).name for of in sets})==len(sets)
