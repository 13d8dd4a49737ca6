"Long-tailed draws: the published counts and indices, nested, a partition, in any order, and without a trace in the process."
import hashlib, math, random, re
import numpy as np, pyarrow.parquet as pq, pytest, torch
from hypothesis import given, settings, strategies as st
from mutants import mutant
from avh_nb.data import imbalance as page
from avh_nb.data.images import Images
from avh_nb.data.imbalance import by_shot, class_counts, class_sizes, drawn, drawn_index, long_tailed, recalls, shot_groups
from avh_nb.data.sets import available, locate

CIFAR10 = { # imbalance -> sizes, sum, and the digest of the indices at seed 0
    10: ([5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500], 20431, 'a17d69f192b1cf6d'),
    20: ([5000, 3584, 2569, 1842, 1320, 946, 678, 486, 348, 250], 17023, 'fed8b23a7a778a40'),
    50: ([5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100], 13996, 'd7edcfaf02772bee'),
    100: ([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50], 12406, '4bf45bff8878d278'),
    200: ([5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25], 11203, 'a88004a1d1361093'),
}
CIFAR100 = {10: (19573, 69, 31, 0), 20: (15907, 53, 47, 0), 50: (12608, 41, 41, 18), 100: (10847, 35, 35, 30), 200: (9502, 30, 31, 39)}

def digest(index): return hashlib.sha256(index.numpy().astype('<i8').tobytes()).hexdigest()[:16]

def numbered(counts, unknown=0, seed=0, classes=None):
    "Images in random order whose only pixels are their number"
    y = np.repeat([*range(len(counts)), -1], [*counts, unknown])
    y = torch.from_numpy(np.random.default_rng(seed).permutation(y))
    x = torch.stack([torch.arange(len(y))//256, torch.arange(len(y))%256], 1).to(torch.uint8)[:, :, None, None]
    return Images(x, y, classes or tuple(f'class {c}' for c in range(len(counts))), 'numbered')

def numbers(images, c=None):
    x = images.x[..., 0, 0].long()
    return (256*x[:, 0]+x[:, 1])[slice(None) if c is None else images.y==c].tolist()

# Sizes

@pytest.mark.parametrize('imbalance', CIFAR10)
def test_the_sizes_of_cifar10(imbalance):
    sizes,total,_ = CIFAR10[imbalance]
    assert class_sizes(5000, 10, imbalance)==sizes and sum(sizes)==total
    assert all(type(n) is int for n in class_sizes(np.int64(5000), 10, np.float64(imbalance)))

@pytest.mark.parametrize('imbalance', CIFAR100)
def test_the_totals_and_groups_of_cifar100(imbalance):
    sizes,(total,*groups) = class_sizes(500, 100, imbalance),CIFAR100[imbalance]
    assert sum(sizes)==total and [len(g) for g in shot_groups(sizes).values()]==groups

@given(st.integers(1, 6000), st.integers(2, 40), st.floats(1, 300))
def test_sizes_against_the_formula(largest, c, imbalance):
    f,power = 1/imbalance,[i/(c-1) for i in range(c)]
    expected = [math.floor(largest*f**p) for p in power]
    if expected[-1]<1:
        with pytest.raises(ValueError, match='imbalance: .* leaves no image of the rarest class'): class_sizes(largest, c, imbalance)
        return
    sizes = class_sizes(largest, c, imbalance)
    assert sizes==expected and sizes[0]==largest and sizes==sorted(sizes, reverse=True)
    half = c//2
    assert class_sizes(largest, c, imbalance, 'step')==[largest]*half+[math.floor(largest*f)]*(c-half)

def test_the_step_of_cifar10():
    assert class_sizes(5000, 10, 100, 'step')==[5000]*5+[50]*5 and class_sizes(500, 100, 10, profile='step')==[500]*50+[50]*50
    tail,rest = long_tailed(numbered([9]*5), 3, profile='step')
    assert class_counts(tail).tolist()==[9, 9, 3, 3, 3] and class_counts(rest).tolist()==[0, 0, 6, 6, 6]
    assert tail.name=='numbered, imbalance 3 in a step (seed 0)'

def test_without_imbalance_all_is_drawn():
    images = numbered([7]*4)
    for profile in ('exponential', 'step'):
        tail,rest = long_tailed(images, 1, profile=profile)
        assert sorted(numbers(tail))==sorted(numbers(images)) and len(rest)==0 and rest.x.shape==(0, 2, 1, 1)

# Which images

@pytest.fixture(scope='module')
def labels():
    "Labels of CIFAR-10, in its order; the images are not needed"
    if not available('cifar10'): pytest.skip('needs CIFAR-10')
    return torch.from_numpy(pq.read_table(locate('cifar10/train-00000-of-00001.parquet'), columns=['label'])['label'].to_numpy())

@pytest.mark.parametrize('imbalance', CIFAR10)
def test_the_draws_of_ldam(labels, imbalance):
    sizes,_,expected = CIFAR10[imbalance]
    index = drawn_index(labels, sizes)
    assert index.dtype==torch.int64 and digest(index)==expected
    assert index[-sizes[-1]:][:6].tolist()==[22220, 38393, 22240, 25393, 19625, 47692] # class 9
    assert index[sizes[0]:][:4].tolist()==[6489, 3605, 5683, 39489] # class 1

def test_images_are_drawn_as_indices_say(labels):
    "From a set in which an image is its number"
    x = torch.stack([torch.arange(50000)//256, torch.arange(50000)%256], 1).to(torch.uint8)[:, :, None, None]
    images = Images(x, labels, tuple('0123456789'), 'CIFAR-10')
    tail,rest = long_tailed(images, 100)
    assert digest(torch.tensor(numbers(tail)))==CIFAR10[100][2] and len(rest)==37594
    assert numbers(rest)==sorted(set(range(50000))-set(numbers(tail)))
    turned,_ = long_tailed(images, 100, order=range(9, -1, -1))
    assert class_counts(turned).tolist()==CIFAR10[100][0][::-1] and set(numbers(turned, 9))>set(numbers(tail, 9))

def same_as_reference(index_of, seed=0):
    "Against a shuffle by hand (Fisher and Yates, from the end), from the 32-bit words of the generator"
    y,sizes,expected = numbered([40, 3, 25, 12], unknown=5).y,[17, 2, 25, 1],[]
    words = iter(np.random.RandomState(seed).randint(0, 2**32, 1000, dtype=np.uint32).tolist())
    for c,size in enumerate(sizes):
        items = [i for i,label in enumerate(y.tolist()) if label==c]
        for i in range(len(items)-1, 0, -1):
            mask = 2**i.bit_length()-1
            j = next(w&mask for w in words if w&mask<=i) # what is too large is drawn again
            items[i],items[j] = items[j],items[i]
        expected += items[:size]
    assert index_of(y, sizes, seed).tolist()==expected

@pytest.mark.parametrize('seed', [0, 1, 2**32-1])
def test_indices_against_a_loop(seed): same_as_reference(drawn_index, seed)

many_sets = st.lists(st.integers(20, 60), min_size=2, max_size=6)

def nested(long_tailed, counts, low, high, seed, order=None):
    "Are the images at a higher imbalance the first ones, class by class, of those at a lower one?"
    images = numbered(counts, unknown=4)
    (large,_),(small,_) = (long_tailed(images, f, seed=seed, order=order) for f in (low, high))
    for c in range(len(counts)):
        of_small = numbers(small, c)
        assert of_small==numbers(large, c)[:len(of_small)]

@settings(max_examples=40, deadline=None)
@given(many_sets, st.integers(1, 10), st.integers(1, 10), st.integers(0, 2**32-1))
def test_draws_are_nested(counts, low, more, seed): nested(long_tailed, counts, low, low+more, seed)

def independent_of_order(long_tailed, counts, order, imbalance, seed):
    "Two orders: a class has its first images in both, and its size goes with its place"
    images,c = numbered(counts),len(counts)
    (plain,_),(other,_) = (long_tailed(images, imbalance, seed=seed, order=o) for o in (None, order))
    sizes = class_sizes(min(counts), c, imbalance)
    assert class_counts(plain).tolist()==sizes and class_counts(other)[torch.tensor(order)].tolist()==sizes
    for k in range(c):
        a,b = numbers(plain, k),numbers(other, k)
        assert a[:len(b)]==b[:len(a)]

@settings(max_examples=40, deadline=None)
@given(st.data(), many_sets, st.integers(1, 20), st.integers(0, 2**32-1))
def test_the_order_decides_only_how_many(data, counts, imbalance, seed):
    order = data.draw(st.permutations(range(len(counts))))
    independent_of_order(long_tailed, counts, order, imbalance, seed)
    nested(long_tailed, counts, 2, 9, seed, order)

@settings(max_examples=40, deadline=None)
@given(st.data(), st.lists(st.integers(1, 30), min_size=2, max_size=6), st.integers(0, 5), st.integers(0, 1000))
def test_drawn_and_left_out_are_a_partition(data, counts, unknown, seed):
    images,sizes = numbered(counts, unknown),[data.draw(st.integers(1, n)) for n in counts]
    taken,rest = drawn(images, sizes, seed)
    assert sorted(numbers(taken)+numbers(rest))==list(range(len(images))) and numbers(rest)==sorted(numbers(rest))
    assert class_counts(taken).tolist()==sizes and taken.y.tolist()==sorted(taken.y.tolist()) and (rest.y==-1).sum()==unknown
    for part in (taken, rest): assert torch.equal(part.y, images.y[numbers(part)]) and part.classes==images.classes
    assert numbers(taken)==drawn_index(images.y, sizes, seed).tolist()
    assert (class_counts(taken)+class_counts(rest)).tolist()==class_counts(images).tolist()==counts

def test_seeds_differ_and_names_say_what_is_drawn():
    images = numbered([30]*3, classes=('cat', 'dog', 'cow'))
    assert numbers(long_tailed(images, 3, seed=1)[0])!=numbers(long_tailed(images, 3)[0])
    names = [s.name for order in (None, [0, 1, 2], ['cow', 'dog', 'cat'], torch.tensor([1, 2, 0])) for s in long_tailed(images, 3.,
        seed=4, order=order)]
    assert names[::2]==['numbered, imbalance 3 (seed 4)']*2+['numbered, imbalance 3 reversed (seed 4)',
        'numbered, imbalance 3 in order 1 2 0 (seed 4)']
    assert names[1::2]==[f'left out of {n}' for n in names[::2]] and images.name=='numbered'
    assert [s.name for s in drawn(images, [9, 2, 1], 7)]==['numbered, 12 drawn (seed 7)', 'numbered, 78 left out (seed 7)']

def test_names_and_indices_are_one_order():
    images = numbered([30]*3, classes=('cat', 'dog', 'cow'))
    first = numbers(long_tailed(images, 5, order=[2, 0, 1])[0])
    for order in (['cow', 'cat', 'dog'], ['cow', 0, np.int64(1)], np.array([2, 0, 1]), torch.tensor([2, 0, 1])):
        assert numbers(long_tailed(images, 5, order=order)[0])==first

def leaves_generators_alone(index_of):
    y = numbered([20]*3).y
    np.random.seed(5); random.seed(5); torch.manual_seed(5)
    before = np.random.get_state()[1].tolist(),np.random.get_state()[2],random.getstate(),torch.get_rng_state().tolist()
    first = index_of(y, [9, 5, 2]).tolist()
    assert (np.random.get_state()[1].tolist(),np.random.get_state()[2],random.getstate(),torch.get_rng_state().tolist())==before
    np.random.seed(6)
    assert index_of(y, [9, 5, 2]).tolist()==first # nor does it read it

def test_global_generators_are_neither_used_nor_touched(): leaves_generators_alone(drawn_index)

def test_labels_of_any_kind():
    y = numbered([9, 8, 7]).y
    expected = drawn_index(y, [3, 2, 1])
    for other in (y.int(), y.to(torch.int8), y.numpy(), y.tolist()): assert torch.equal(drawn_index(other, [3, 2, 1]), expected)
    for sizes in ((3, 2, 1), torch.tensor([3, 2, 1]), np.array([3, 2, 1]), [3., 2., 1.]):
        assert torch.equal(drawn_index(y, sizes), expected)

# Groups

def test_groups_include_their_ends():
    groups = shot_groups(torch.tensor([101, 20, 19, 100, 0, 5000]))
    assert {g: c.tolist() for g,c in groups.items()}=={'many': [0, 5], 'medium': [1, 3], 'few': [2, 4]} and list(groups)==['many',
        'medium', 'few']
    assert {g: c.tolist() for g,c in shot_groups([3, 2, 1], many=2, few=2).items()}=={'many': [0], 'medium': [1], 'few': [2]}
    assert all(c.dtype==torch.int64 for c in groups.values())

@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 100)), min_size=1, max_size=12))
def test_means_against_a_loop(pairs):
    counts,values = [n for n,_ in pairs],[v/100 for _,v in pairs]
    means = by_shot(values, counts)
    for group,inside in dict(many=lambda n: n>100, medium=lambda n: 20<=n<=100, few=lambda n: n<20).items():
        own = [v for n,v in zip(counts, values) if inside(n)]
        assert math.isnan(means[group]) if not own else means[group]==pytest.approx(sum(own)/len(own), abs=1e-6)

def test_an_empty_group_is_nan_not_zero():
    means = by_shot(torch.arange(10)/10, CIFAR10[100][0]) # 8 many, 2 medium, 0 few
    assert means['many']==pytest.approx(.35) and means['medium']==pytest.approx(.85) and math.isnan(means['few'])
    assert [len(c) for c in shot_groups(CIFAR10[100][0]).values()]==[8, 2, 0]

# Bad input

BAD = {
    'imbalance below 1': (lambda i: long_tailed(i, .99), 'imbalance: expected at least 1 and finite, got 0.99'),
    'imbalance 0': (lambda i: class_sizes(50, 3, 0), 'imbalance: expected at least 1 and finite, got 0'),
    'infinite': (lambda i: long_tailed(i, math.inf), 'imbalance: expected at least 1 and finite, got inf'),
    'NaN': (lambda i: long_tailed(i, math.nan), 'imbalance: expected at least 1 and finite, got nan'),
    'no image is left': (lambda i: long_tailed(i, 30), 'imbalance: 30 leaves no image of the rarest class where the largest has 20'),
    'profile': (lambda i: long_tailed(i, 2, profile='linear'), "profile: expected one of exponential, step, got 'linear'"),
    'one class': (lambda i: class_sizes(50, 1, 2), 'n_classes: expected a whole number from 2, got 1'),
    'fraction of an image': (lambda i: class_sizes(50.5, 3, 2), 'largest: expected a whole number from 1, got 50.5'),
    'infinitely many': (lambda i: class_sizes(math.inf, 3, 2), 'largest: expected a whole number from 1, got inf'),
    'a class without images': (lambda i: long_tailed(i[i.y!=1], 2),
        'images: expected at least one of each class, got none of class 1 (dog)'),
    'a class without images, drawn': (lambda i: drawn(i[i.y!=2], [1]*3), 'got none of class 2 (cow)'),
    'a class without labels': (lambda i: drawn_index(i.y[i.y!=2], [1]*3), 'got none of class 2'),
    'twice': (lambda i: long_tailed(i, 2, order=[0, 1, 1]), 'order: expected each of 3 classes once, as an index or a name, got [0, 1, 1]'),
    'too short': (lambda i: long_tailed(i, 2, order=[0, 1]), 'order: expected each of 3 classes once'),
    'below 0': (lambda i: long_tailed(i, 2, order=[0, 1, -1]), 'order: expected each of 3 classes once'),
    'beyond': (lambda i: long_tailed(i, 2, order=[1, 2, 3]), 'got [1, 2, 3]'),
    'fractions': (lambda i: long_tailed(i, 2, order=[0, 1, 2.]), 'got [0, 1, 2.0]'),
    'unknown name': (lambda i: long_tailed(i, 2, order=['cat', 'dog', 'sow']), "got ['cat', 'dog', 'sow']"),
    'name twice': (lambda i: long_tailed(i, 2, order=['cat', 'dog', 0]), "got ['cat', 'dog', 0]"),
    'too many': (lambda i: drawn(i, [20, 21, 22]), 'sizes: expected a whole number from 1 to 21 for class 2 (cow), got 22'),
    'none': (lambda i: drawn(i, [0, 2, 2]), 'sizes: expected a whole number from 1 to 20 for class 0 (cat), got 0'),
    'fewer than none': (lambda i: drawn(i, [2, -1, 2]), 'sizes: expected a whole number from 1 to 30 for class 1 (dog), got -1'),
    'fraction': (lambda i: drawn(i, [2, 2.5, 2]), 'for class 1 (dog), got 2.5'),
    'NaN images': (lambda i: drawn(i, [2, math.nan, 2]), 'for class 1 (dog), got nan'),
    'wrong number of sizes': (lambda i: drawn(i, [2, 2]), 'sizes: expected 3 numbers, one per class, got 2'),
    'no seed': (lambda i: drawn(i, [2, 2, 2], seed=None), 'seed: expected a whole number from 0 to 4294967295, got None'),
    'negative seed': (lambda i: long_tailed(i, 2, seed=-1), 'seed: expected a whole number from 0 to 4294967295, got -1'),
    'labels beyond': (lambda i: drawn_index(torch.tensor([0, 1, 2]), [1, 1]), 'y: expected labels from 0 to 1, or -1 for unknown, got 2'),
    'negative count': (lambda i: shot_groups([3, -2]), 'counts: expected numbers from 0, got -2 for class 1'),
    'NaN count': (lambda i: shot_groups([math.nan, 2.]), 'counts: expected numbers from 0, got nan for class 0'),
    'no counts': (lambda i: by_shot([], []), 'expected one number per class, got shape (0,)'),
    'crossed': (lambda i: shot_groups([3, 2], many=5, few=6), 'few: expected at most many, 5, got 6'),
    'no imbalance': (lambda i: long_tailed(i, None), 'imbalance: expected at least 1 and finite, got None'),
    'a word for a number': (lambda i: class_sizes('50', 3, 2), "largest: expected a whole number from 1, got '50'"),
    'one size for all': (lambda i: drawn(i, 2), 'sizes: expected one number per class, got shape ()'),
    'no sizes': (lambda i: drawn(i, None), 'sizes: expected one number per class, got None'),
    'order of one': (lambda i: long_tailed(i, 2, order=1), 'order: expected each of 3 classes once, as an index or a name, got 1'),
    'counts of None': (lambda i: shot_groups(None), 'counts: expected one number per class, got None'),
    'words for values': (lambda i: by_shot(['a', 'b'], [1, 2]), "values: expected one number per class, got ['a', 'b']"),
    'logits for classes': (lambda i: recalls(torch.eye(3), torch.arange(3), 3), 'predicted: expected one class per image'),
    'wrong number of values': (lambda i: by_shot([1., 2], [1, 2, 3]), 'values: expected 3 numbers, one per class, got 2'),
}

@pytest.mark.parametrize('name', BAD)
def test_bad_input_is_refused(name):
    call,message = BAD[name]
    with pytest.raises(ValueError, match=re.escape(message)): call(numbered([20, 30, 21], classes=('cat', 'dog', 'cow')))

# Known mistakes

def whole(m):
    "All that a draw has to hold, for any module"
    for imbalance,(sizes,*_) in CIFAR10.items(): assert m.class_sizes(5000, 10, imbalance)==sizes
    assert m.class_sizes(8, 3, 4, 'step')==[8, 2, 2]
    for seed in (0, 1): same_as_reference(m.drawn_index, seed)
    leaves_generators_alone(m.drawn_index)
    nested(m.long_tailed, [40, 30, 50], 2, 7, 0); nested(m.long_tailed, [40, 30, 50], 2, 7, 0, [2, 0, 1])
    independent_of_order(m.long_tailed, [40, 30, 50], [2, 0, 1], 5, 0)
    assert math.isnan(m.by_shot([1., 1], [500, 50])['few'])
    assert [len(g) for g in m.shot_groups([101, 100, 20, 19]).values()]==[1, 2, 1]
    rest = numbers(m.drawn(numbered([9, 9]), [3, 3])[1])
    assert rest==sorted(rest) and len(rest)==12

MUTANTS = {
    'unseeded': ('np.random.RandomState(seed)', 'np.random.RandomState()'),
    'generator of the process': ('random,index = np.random.RandomState(seed),[]', 'np.random.seed(seed); random,index = np.random,[]'),
    "the process's generator, unseeded": ('np.random.RandomState(seed)', 'np.random'),
    'new generator': ('np.random.RandomState(seed)', 'np.random.default_rng(seed)'),
    'each class with the same seed': ('        random.shuffle(of_class)', '        np.random.RandomState(seed).shuffle(of_class)'),
    'shuffles follow the order': ('for k,size in enumerate(sizes):', 'for k,size in sorted(enumerate(sizes), key=lambda s: -s[1]):'),
    'cut before the shuffle': ('        of_class = np.flatnonzero(y==k)', '        of_class = np.flatnonzero(y==k)[:size]'),
    'with replacement': ('        random.shuffle(of_class)', '        of_class = random.choice(of_class, size)'),
    'rounded': ('int(largest*f**power)', 'round(largest*f**power)'),
    'rounded up': ('int(largest*f**power)', 'math.ceil(largest*f**power)'),
    'one class too many': ('i/(c-1)', 'i/c'),
    'half of an odd number': ('[0]*(c//2)+[1]*(c-c//2)', '[0]*(c-c//2)+[1]*(c//2)'),
    'sizes by place, not by class': ('[sizes[k] for k in range(c)]', '[sizes[k] for k in order]'),
    'largest class of all': ('class_counts(images).min().item()', 'class_counts(images)[order[0]].item()'),
    'an empty group is 0': ('.double().mean().item()', '.double().sum().item()/max(1, len(classes))'),
    'ends of groups': ('counts>many, medium=(counts<=many)', 'counts>=many, medium=(counts<many)'),
    'left out by class': ('.nonzero()[:, 0]\n    def part', '.nonzero()[:, 0].flip(0)\n    def part'),
}

def test_the_original_holds(): whole(page)

@pytest.mark.parametrize('name', MUTANTS)
def test_mutants_are_caught(name):
    module = mutant(page, *MUTANTS[name])
    with pytest.raises((AssertionError, ValueError)): whole(module)

def cut_off(class_sizes): assert class_sizes(5000, 10, 100)==CIFAR10[100][0]

TOLD_BY = {
    'unseeded': lambda m: nested(m.long_tailed, [40, 30, 50], 2, 7, 0),
    "the process's generator, unseeded": lambda m: leaves_generators_alone(m.drawn_index),
    'generator of the process': lambda m: leaves_generators_alone(m.drawn_index),
    'cut before the shuffle': lambda m: nested(m.long_tailed, [40, 30, 50], 2, 7, 0),
    'shuffles follow the order': lambda m: independent_of_order(m.long_tailed, [40, 30, 50], [2, 0, 1], 5, 0),
    'rounded': lambda m: cut_off(m.class_sizes),
}

@pytest.mark.parametrize('name', TOLD_BY)
def test_each_check_tells_its_mistake(name):
    module = mutant(page, *MUTANTS[name])
    TOLD_BY[name](page)
    with pytest.raises(AssertionError): TOLD_BY[name](module)
