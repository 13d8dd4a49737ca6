"Files and labels are read rightly or refused; nothing is cut, bent or guessed on the way."
import io
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest, torch
from PIL import Image
from torchvision.datasets import ImageFolder
from avh_nb.data.attack import fgsm
from avh_nb.data.domain import Domain, as_pixels
from avh_nb.data.images import Images, Normalise, eight_bit, fingerprint, load_image, read_images
from avh_nb.data.sets import cifar10, cifar10h, pacs
from avh_nb.transfer.generalisation import normalise_by_domains
from avh_nb.transfer.pseudo_labels import class_thresholds

DEEP = np.array([[0, 20000], [257, 65535]], dtype=np.uint16)

def encoded(image, form='png', **kwargs):
    b = io.BytesIO(); image.save(b, form, **kwargs); return b.getvalue()

def parquet(path, images=None, label=(0, 1), **columns):
    images = images or [encoded(Image.new('RGB', (2, 2), (10*i, 0, 0))) for i in range(len(label))]
    pq.write_table(pa.table(dict(image=images, label=label, **columns)), path)
    return path

# Pixels

@pytest.mark.parametrize('mode,channels', [('L', 1), ('RGB', 3)])
@pytest.mark.parametrize('make', [lambda: encoded(Image.fromarray(DEEP)), lambda: encoded(Image.fromarray(DEEP), 'tiff'),
    lambda: encoded(Image.fromarray(DEEP.astype('>u2')), 'tiff')], ids=['PNG', 'TIFF', 'big-endian TIFF'])
def test_sixteen_bits_are_scaled(tmp_path, make, mode, channels):
    x,_ = read_images(parquet(tmp_path/'deep.parquet', [make()], [0]), 'image', mode=mode)
    assert x.shape==(1, channels, 2, 2) and (x==torch.tensor([[0, 78], [1, 255]], dtype=torch.uint8)).all()

@pytest.mark.parametrize('mode', ['I', 'F'])
def test_numbers_of_unknown_range_are_refused(tmp_path, mode):
    image = encoded(Image.new(mode, (2, 2), 20000), 'tiff')
    with pytest.raises(ValueError, match=f'wide.parquet: row 1: .*got mode {mode}, whose range is not known'):
        read_images(parquet(tmp_path/'wide.parquet', [encoded(Image.fromarray(DEEP)), image], [0, 0]), 'image')
    with pytest.raises(ValueError, match=f'got mode {mode}'): as_pixels(Image.new(mode, (2, 2)))

def see_through():
    "Red that nobody sees, red that is half seen, and red"
    red = Image.new('RGBA', (3, 1), (255, 0, 0, 0)); red.putpixel((1, 0), (255, 0, 0, 128)); red.putpixel((2, 0), (255, 0, 0, 255))
    return red

def palette():
    p = Image.new('P', (2, 1)); p.putpalette([255, 0, 0, 0, 0, 255]); p.putpixel((1, 0), 1)
    return Image.open(io.BytesIO(encoded(p, transparency=0)))

def test_what_is_transparent_is_laid_on_white():
    assert as_pixels(see_through())[:, 0].T.tolist()==[[255, 255, 255], [255, 127, 127], [255, 0, 0]]
    assert as_pixels(palette())[:, 0].T.tolist()==[[255, 255, 255], [0, 0, 255]]
    assert np.asarray(eight_bit(Image.new('LA', (1, 1), (0, 0)), 'L')).tolist()==[[255]]

def held(orientation=6):
    "White on the left, black on the right, and a camera that was held by its side"
    image = Image.new('RGB', (16, 8)); image.paste((255,)*3, (0, 0, 8, 8))
    exif = image.getexif(); exif[0x0112] = orientation
    return image,exif

def test_a_data_set_is_read_as_stored_and_a_user_sees_upright(tmp_path):
    image,exif = held()
    stored = encoded(image, 'jpeg', exif=exif, quality=95)
    x,_ = read_images(parquet(tmp_path/'held.parquet', [stored], [0]), 'image')
    assert x.shape==(1, 3, 8, 16) and x[0, 0, 0, 0]>250
    (tmp_path/'photos'/'a').mkdir(parents=True); (tmp_path/'photos'/'a'/'held.jpg').write_bytes(stored)
    for loader in (load_image, lambda path: Image.open(path).convert('RGB')): # the latter is that of torchvision
        x = Domain.of(ImageFolder(tmp_path/'photos', loader=loader), prepare=lambda x: x).inputs(torch.tensor([0]), None)
        assert x.shape==(1, 3, 16, 8) and x[0, 0, 0].min()>250 and x[0, 0, -1].max()<5 # the left is on top now
    assert as_pixels(load_image(tmp_path/'photos'/'a'/'held.jpg')).shape==(3, 16, 8) # and is not turned twice

# Labels

@pytest.mark.parametrize('label,message', [
    (pa.array([0., 1.7]), "column 'label': expected integer labels, got double"),
    (pa.array([0, float('nan')]), 'expected integer labels, got double'),
    (pa.array(['0', 'cat']), 'expected integer labels, got string'),
    (pa.array([True, False]), 'expected integer labels, got bool'),
    (pa.array([0, None]), 'row 1: no label'),
    (pa.array([0, -2]), "row 1: column 'label': expected labels from 0, or -1 for unknown, got -2"),
    (pa.array([0, 2**64-1], pa.uint64()), 'expected labels from 0, or -1 for unknown, got 18446744073709551615'),
], ids=['fraction', 'NaN', 'string', 'bool', 'null', 'negative', 'beyond int64'])
def test_labels_that_are_none_name_file_and_column(tmp_path, label, message):
    with pytest.raises(ValueError, match=f'bad.parquet: .*{message}'): read_images(parquet(tmp_path/'bad.parquet', label=label), 'image')

def test_labels_of_all_integer_kinds_are_read(tmp_path):
    for kind in (pa.int8(), pa.uint8(), pa.int32(), pa.uint64()):
        _,y = read_images(parquet(tmp_path/'good.parquet', label=pa.array([1, 100], kind)), 'image')
        assert y.dtype==torch.int64 and y.tolist()==[1, 100]

def test_rows_are_chosen_by_one_boolean_each(tmp_path):
    path = parquet(tmp_path/'two.parquet', label=[3, 4])
    assert read_images(path, 'image', keep=lambda t: np.array(t['label'])==4)[1].tolist()==[4]
    for mode,channels in (('RGB', 3), ('L', 1)):
        x,y = read_images(path, 'image', mode=mode, keep=lambda t: np.zeros(2, bool))
        assert x.shape[:2]==(0, channels) and x.ndim==4 and y.shape==(0,)
    for wrong in (np.ones(1, bool), np.ones(3, bool), np.array([0, 1])):
        with pytest.raises(ValueError, match='keep: expected 2 booleans, one per row'):
            read_images(path, 'image', keep=lambda t, wrong=wrong: wrong)

def test_images_hold_labels_of_their_classes_alone():
    x = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    some = Images(x, torch.tensor([0, -1, 2, 1]), ('a', 'b', 'c'), 'some')
    assert some.only(('c', 'a')).y.tolist()==[1, -1, 0] # unknown stays unknown
    for y,message in ((torch.tensor([0, 1, 2, 30]), 'got 30 for sample 3'),
        (torch.tensor([0., 1, 2, 1]), 'expected integer labels, got torch.float32'),
            (torch.tensor([0, 1]), 'expected 4 labels')):
        with pytest.raises(ValueError, match=f'y: .*{message}'): Images(x, y, ('a', 'b', 'c'), 'wrong')
        if len(y)==4:
            with pytest.raises(ValueError, match=f'y: .*{message}'): Domain(lambda i, g: x[i], y, ('a', 'b', 'c'), 'wrong')

def test_places_that_index_by_a_label_refuse_an_unknown_one():
    confidence = torch.tensor([.9, .8, .7])
    with pytest.raises(ValueError, match='predicted: expected integers from 0 to 2'):
        class_thresholds(confidence, torch.tensor([0, -1, 2]), .5, 3)
    x = torch.full((2, 1, 2, 2), .5)
    with pytest.raises(ValueError, match='y: expected integer labels from 0, .* down to -100'):
        fgsm(lambda x: x.flatten(1), x, torch.tensor([1, -100]), .1)

# Sources

@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv('AVH_DATA', str(tmp_path))
    for name in ('cifar10', 'cifar10h', 'pacs'): (tmp_path/name).mkdir()
    return tmp_path

def test_a_source_is_held_against_what_it_should_be(root):
    small = [encoded(Image.new('RGB', (8, 8)))]*4
    pq.write_table(pa.table(dict(img=small, label=[0, 1, 2, 3])), root/'cifar10'/'test-00000-of-00001.parquet')
    with pytest.raises(ValueError, match=r'cifar10 test: expected images of shape \(10000, 3, 32, 32\), got \(4, 3, 8, 8\)'):
        cifar10.__wrapped__('test')
    path = root/'pacs'/'train-00000-of-00001.parquet'
    parquet(path, label=[0, 30], domain=['photo', 'photo'])
    with pytest.raises(ValueError, match="row 1: column 'label': expected labels from 0 to 6, got 30"): pacs.__wrapped__('photo')
    with pytest.raises(ValueError, match='pacs sketch: expected images of shape .3929, 3., got .0, 3'): pacs.__wrapped__('sketch')
    parquet(path)
    with pytest.raises(ValueError, match='train-00000-of-00001.parquet: keep asks for what is not there .*"domain".*only image, label'):
        pacs.__wrapped__('photo')

@pytest.mark.parametrize('bad', [.5, -1., np.nan, np.inf])
def test_votes_are_whole_and_not_negative(root, bad):
    votes = np.ones((10000, 10)); votes[7, 3] = bad
    np.save(root/'cifar10h'/'cifar10h-counts.npy', votes)
    with pytest.raises(ValueError, match='whole numbers of votes from 0, .* for image 7'): cifar10h.__wrapped__()

# Fingerprints, and what was there before

@pytest.mark.parametrize('change', ['pixel', 'order', 'shape', 'dtype', 'layout'])
def test_a_fingerprint_follows_content(change):
    x = torch.randint(256, (6, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    other = dict(order=x.flip(0), shape=x.view(6, 3, 2, 8), dtype=x.view(torch.int8),
        layout=x.contiguous(memory_format=torch.channels_last)).get(change, x.clone())
    if change=='pixel': other[5, 2, 3, 3] ^= 1
    assert (fingerprint(x)==fingerprint(other))==(change=='layout') # how it lies in memory is nobody's business

def test_statistics_are_those_they_were():
    dark,light = torch.full((4000, 1, 2, 2), 50, dtype=torch.uint8),torch.full((2000, 1, 2, 2), 200, dtype=torch.uint8)
    assert normalise_by_domains([dark, light]).mean.item()==(4000*50+1000*200)/5000 # the end of the last domain does not count
    assert Normalise(Images(dark, torch.zeros(4000).long(), ('a',),
        'dark'))(dark).abs().max()==0 # nothing varies, and nothing is divided by 0
