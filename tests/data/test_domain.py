"A domain of every kind of data set, what is read when, and what is refused."
import numpy as np, pytest, torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms import v2 as transforms
from avh_nb.data.domain import Domain, OnDemand, as_labels, as_pixels, labels_of
from avh_nb.data.images import Images, Normalise, mirror
from avh_nb.data.sets import digits

N = 30
G = torch.Generator().manual_seed(0)
BYTES = torch.randint(256, (N, 3, 8, 8), dtype=torch.uint8, generator=G)
Y = torch.arange(N)%3
EXPECTED = (BYTES-BYTES.float().mean((0, 2, 3), keepdim=True))/BYTES.float().std((0, 2, 3), keepdim=True)

class Pictures(Dataset):
    "As those of torchvision: PIL images, labels, names of classes"
    classes = ['a', 'b', 'c']
    def __init__(self, form='pil', **attributes):
        self.form,self.read = form,[]
        for k,v in attributes.items(): setattr(self, k, v)
    def __len__(self): return N
    def __getitem__(self, i):
        self.read.append(i)
        x = BYTES[i]
        if self.form=='pil': x = Image.fromarray(x.permute(1, 2, 0).numpy())
        if self.form=='float': x = x/255
        return x,Y[i].item()

KINDS = {
    'Images': lambda: Images(BYTES, Y, ('a', 'b', 'c'), 'toy'),
    'tuple of tensors': lambda: (BYTES, Y),
    'tuple of arrays': lambda: (BYTES.numpy(), Y.numpy().astype(np.int32)),
    'TensorDataset': lambda: TensorDataset(BYTES, Y),
    'PIL images': Pictures,
    'tensors one by one': lambda: Pictures('bytes'),
    'a subset': lambda: Subset(Pictures(), range(N)),
    'two of them': lambda: ConcatDataset([Subset(Pictures(), range(10)), Subset(Pictures(targets=Y), range(10, N))]),
    'a list': lambda: [(x, y) for x,y in zip(BYTES, Y)],
}

@pytest.mark.parametrize('kind', KINDS)
def test_bytes_of_every_kind_are_normalised_by_themselves(kind):
    d = Domain.of(KINDS[kind]())
    assert len(d)==N and d.y.dtype==torch.int64 and torch.equal(d.y, Y) and len(d.classes)==3
    index = torch.tensor([4, 1, 29])
    x = d.inputs(index, None)
    assert x.dtype==torch.float32
    torch.testing.assert_close(x, EXPECTED[index], rtol=1e-5, atol=1e-5)

@pytest.mark.parametrize('make', [lambda x: (x, Y), lambda x: TensorDataset(x, Y), lambda x: [(a, int(b)) for a,b in zip(x, Y)]],
    ids=['tuple', 'TensorDataset', 'list'])
@pytest.mark.parametrize('x', [BYTES/255, torch.randn(N, 5), torch.randn(N, 5, dtype=torch.float64)], ids=['images', 'features', 'float64'])
def test_floats_pass_as_they_are(make, x):
    d = Domain.of(make(x))
    assert torch.equal(d.inputs(torch.arange(N), None), x) and d.classes==('0', '1', '2')

def test_names_of_classes_and_of_the_domain():
    assert Domain.of(Pictures()).classes==('a', 'b', 'c') and Domain.of(Pictures()).name=='Pictures'
    assert Domain.of(Subset(Subset(Pictures(), [0, 1]), [1])).classes==('a', 'b', 'c')
    d = Domain.of((BYTES, Y), classes=['x', 'y', 'z', 'never seen'], name='mine')
    assert d.classes==('x', 'y', 'z', 'never seen') and d.name=='mine'
    assert Domain.of(FakeData(6, (3, 8, 8), 10)).y.max()<10

@pytest.mark.parametrize('dataset', [BYTES, (BYTES,), (BYTES, None), TensorDataset(BYTES), list(BYTES), [(x,) for x in BYTES],
    [(x, None) for x in BYTES]],
    ids=['tensor', 'tuple of one', 'with None', 'TensorDataset', 'list', 'list of tuples', 'list with None'])
def test_labels_that_are_missing_are_unknown(dataset):
    d = Domain.of(dataset, classes='abc')
    assert d.y.tolist()==[-1]*N
    torch.testing.assert_close(d.inputs(torch.arange(5), None), EXPECTED[:5], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match='classes: expected the names'): Domain.of(dataset)

def test_some_labels_may_be_unknown():
    y = Y.clone(); y[4] = -1
    assert Domain.of((BYTES, y)).y[4]==-1
    assert Domain.of([(x, None if i==4 else int(v)) for i,(x,v) in enumerate(zip(BYTES, Y))]).y[4]==-1

@pytest.mark.parametrize('mode,channels', [('L', 1), ('1', 1), ('RGB', 3), ('RGBA', 3), ('P', 3), ('CMYK', 3)])
def test_modes_of_pil_images(mode, channels):
    image = Image.fromarray(BYTES[0].permute(1, 2, 0).numpy()).convert(mode)
    x = as_pixels(image)
    assert x.shape==(channels, 8, 8) and x.dtype==torch.uint8
    if mode=='RGB': assert torch.equal(x, BYTES[0])

def folder_of_images(path, n=40):
    for i in range(n):
        (path/'ab'[i%2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(BYTES[i%N].permute(1, 2, 0).numpy()).resize((8+i%3, 8)).save(path/'ab'[i%2]/f'{i:02d}.png')
    return path

def test_a_folder_is_read_by_index(tmp_path):
    loaded = []
    resize = transforms.Compose([transforms.Lambda(lambda x: loaded.append(1) or x), transforms.Resize((8, 8))])
    dataset = ImageFolder(folder_of_images(tmp_path/'photos'), resize)
    prepare = lambda x: x/255 # with it there is nothing to look at beforehand
    d = Domain.of(dataset, prepare)
    assert len(loaded)<=3 and d.name=='photos' and d.classes==('a', 'b') and d.y.tolist()==[0]*20+[1]*20
    loaded.clear()
    assert d.inputs(torch.tensor([0, 39, 5]), None).shape==(3, 3, 8, 8) and len(loaded)==3

def test_statistics_of_what_is_read_on_demand_come_from_few_images():
    class Many(Dataset):
        targets,read = [0]*5000,0
        def __len__(self): return 5000
        def __getitem__(self, i): self.read += 1; return torch.full((1, 4, 4), i*255//4999, dtype=torch.uint8),0
    many = Many()
    d = Domain.of(many)
    assert many.read<=202
    x = d.inputs(torch.arange(0, 5000, 100), None)
    assert abs(x.mean())<.05 and x.std()==pytest.approx(1, abs=.1) # and from all of the range

def test_labels_are_read_from_lists_where_there_are_some():
    for key in ('targets', 'labels'):
        dataset = Pictures(**{key: Y+1})
        assert labels_of(dataset)==(Y+1).tolist() and dataset.read==[]
    dataset = Pictures(targets=Y.tolist(), target_transform=lambda y: 2-y)
    assert labels_of(Subset(dataset, [0, 1]))==[2, 1] and dataset.read==[]
    assert labels_of(Pictures(targets=[1, 2]))==Y.tolist() # a list of another length is none

def test_augmentation_acts_in_training_alone():
    d = Domain.of((BYTES, Y), augment=mirror)
    i = torch.arange(N)
    torch.testing.assert_close(d.inputs(i, None), EXPECTED, rtol=1e-5, atol=1e-5)
    once,again = (d.inputs(i, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(once, again) and not torch.equal(once, d.inputs(i, None))
    flipped = Normalise(Images(BYTES, Y, tuple('abc'), ''))(mirror(BYTES, torch.Generator().manual_seed(3)))
    assert torch.equal(once, flipped) # bytes are mirrored before they are normalised

def test_what_was_a_domain_stays_one():
    "Images with a function of one's own, by place"
    images = digits()[:20]
    d = Domain.of(images, Normalise(images), mirror)
    assert torch.equal(d.inputs(torch.arange(20), None), Normalise(images)(images.x)) and d.name=='digits'

SPOILT = torch.zeros(N, 4); SPOILT[3, 2] = torch.nan

class Stream(IterableDataset):
    def __iter__(self): return iter([])

class Dicts(Pictures):
    def __getitem__(self, i): return dict(image=BYTES[i], label=0)

@pytest.mark.parametrize('message,call', [
    ('dataset: expected Images, tensors .* got DataLoader; give its .dataset', lambda: Domain.of(DataLoader(Pictures()))),
    ('dataset: expected Images, tensors .* got Stream', lambda: Domain.of(Stream())),
    ('dataset: expected Images, tensors .* got NoneType', lambda: Domain.of(None)),
    ('dataset: expected Images, tensors .* got function', lambda: Domain.of(lambda i: i)),
    ('dataset: expected items .*, got a dict of image, label', lambda: Domain.of(Dicts())),
    ('dataset: expected 30 labels, one per sample, got 3', lambda: Domain.of((BYTES, Y[:3]))),
    ('dataset: expected integer labels, got nan for sample 0', lambda: Domain.of((BYTES, Y*torch.nan))),
    ('dataset: expected finite numbers, got others in sample 3', lambda: Domain.of((SPOILT, Y))),
    ('dataset: expected finite numbers, got others in sample 3', lambda: Domain.of((-1/(1-SPOILT.nan_to_num(1.)), Y), prepare=lambda x: x)),
    ('dataset: item 3: expected finite numbers', lambda: Domain.of([(x, int(y)) for x,y in zip(SPOILT, Y)]).inputs(torch.tensor([2, 3]),
    None)),
    ('dataset: expected integer labels, got 0.5 for sample 0', lambda: Domain.of((BYTES, Y+.5))),
    (r'dataset: expected integer labels, got \[0, 1\]', lambda: Domain.of((BYTES, torch.stack([Y, Y+1], 1)))),
    ('dataset: expected labels from 0, or -1 for unknown, got -2 for sample 0', lambda: Domain.of((BYTES, Y-2))),
    ('dataset: expected labels below 2, as there are classes, got 2 for sample 2', lambda: Domain.of((BYTES, Y), classes='ab')),
    ('dataset: expected bytes .* or floats, got torch.int64', lambda: Domain.of((BYTES.long(), Y))),
    ('dataset: expected images .* of bytes, got shape .30, 5.*give floats, or prepare=', lambda: Domain.of((BYTES[:, 0, 0, :5], Y))),
    ('dataset: expected x of shape', lambda: Domain.of((torch.tensor(1.), None), classes='a')),
    ('dataset: item 0: expected a PIL image or a tensor, got ndarray', lambda: Domain.of([(x.numpy(), 0) for x in BYTES])),
    ('dataset: item 0: expected a PIL image or a tensor, got str', lambda: Domain.of([('cat.png', 0)])),
    ('prepare: expected a function or None, got float', lambda: Domain.of((BYTES, Y), .5)),
    ('augment: expected a function or None, got bool', lambda: Domain.of((BYTES, Y), augment=True)),
])
def test_what_does_not_fit_is_named(message, call):
    with pytest.raises(ValueError, match=message): call()

def test_sizes_that_differ_are_named_when_they_are_read(tmp_path):
    d = Domain.of(ImageFolder(folder_of_images(tmp_path/'photos')), prepare=lambda x: x/255)
    with pytest.raises(ValueError,
        match=r'dataset: item 1 is .*\(3, 8, 10\), another .*\(3, 8, 8\); a transform has to bring all to one size'):
        d.inputs(torch.tensor([0, 1]), None)

def test_in_memory_every_sample_counts_and_on_demand_two_hundred():
    x = torch.zeros(1000, 1, 2, 2, dtype=torch.uint8)
    changed = x.clone(); changed[501, 0, 1, 1] = 1
    assert Domain.of((x, Y[:1].expand(1000))).fingerprint()!=Domain.of((changed, Y[:1].expand(1000))).fingerprint()
    class Many(Dataset):
        targets,read = [0]*1000,0
        def __len__(self): return 1000
        def __getitem__(self, i): self.read += 1; return x[i]+i%7,0
    many = Many()
    d = Domain.of(many, prepare=lambda x: x/255)
    many.read = 0
    assert d.fingerprint()==d.fingerprint() and many.read==2*(200+16)

def test_another_preparation_is_another_domain():
    def prints(*args): return Domain.of((BYTES, Y), *args).fingerprint()['inputs']
    assert prints()==prints(Normalise(Images(BYTES, Y, tuple('abc'), '')))!=prints(lambda x: x/255)
    assert prints()==prints(None, mirror) # augmentation acts in training alone

def test_labels_keep_their_kind():
    assert as_labels([np.int8(1), torch.tensor(2), True], 3).tolist()==[1, 2, 1]
    assert OnDemand(Pictures())[torch.tensor([3])].dtype==torch.uint8
