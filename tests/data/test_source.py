"Names and pictures of strangers: nothing they hold reaches the terminal, takes the memory, or fails in another way than said."
import io, os, re, struct, tempfile, time, unicodedata, warnings, zlib
from concurrent.futures import ThreadPoolExecutor
import numpy as np, pyarrow as pa, pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageOps
from avh_nb.data import source
from avh_nb.data.images import eight_bit
from avh_nb.data.source import (ImageSource, as_text, decode, image_suffixes, inside, manifest_of, names_of, on_disk, read_file, shown,
    texts_of, unique_or, what_is)

NAMES = tempfile.TemporaryDirectory()

def encoded(image, form='png', **kwargs):
    b = io.BytesIO(); image.save(b, form, **kwargs); return b.getvalue()

def pattern(mode='RGB', size=(12, 7)):
    "An image that no turn leaves as it is"
    w,h = size
    a = np.add.outer(np.arange(h)*17, np.arange(w)*5)
    return Image.fromarray(np.stack([a, a[::-1]*2, a//3], 2).astype(np.uint8)).convert(mode)

# Names

@settings(deadline=None)
@given(st.text(st.characters(codec=None), max_size=40))
def test_what_is_printed_is_one_plain_line(name):
    line = shown(name)
    assert line.isprintable() and not set(map(unicodedata.category, line)) & {'Cc', 'Cf', 'Cs', 'Zl', 'Zp', 'Co', 'Cn'}
    line.encode(); assert len(line.splitlines())<=1
    if name.isprintable(): assert line==name

@pytest.mark.parametrize('name,line', [('a\x1b]0;title\x07.jpg', r'a\x1b]0;title\x07.jpg'), ('a\r\nb: fine', r'a\r\nb: fine'),
    ('\u2066x\u2069', r'\u2066x\u2069'), ('\x9b31m', r'\x9b31m'), ('\udcff', r'\udcff'),
    ('a\u2028b', r'a\u2028b'), (7, '7'), (b'\xe9', r'\udce9')])
def test_known_tricks_are_escaped(name, line): assert shown(name)==line

def test_a_long_name_is_cut_in_the_middle():
    line = shown('a'*1000+'b'*1000, 100)
    assert len(line)==101 and line[0]=='a' and line[-1]=='b' and '…' in line

@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=20).filter(lambda b: b'/' not in b and b'\0' not in b and b not in (b'.', b'..')))
def test_any_name_of_a_file_is_text_and_leads_back(name):
    path = os.path.join(os.fsencode(NAMES.name), name)
    with open(path, 'wb') as f: f.write(name)
    try:
        text = as_text(path)
        pa.array([text], pa.string()) # UTF-8, or this fails
        if all(c==c.encode('utf-8', 'replace').decode() for c in os.fsdecode(name)): assert text==os.fsdecode(path)
        assert read_file(on_disk(text))==name
    finally: os.unlink(path)

def test_a_name_that_looks_like_an_escape_is_itself(tmp_path):
    (tmp_path/r'\xff.png').write_bytes(b'plain')
    assert read_file(on_disk(as_text(tmp_path/r'\xff.png')))==b'plain'

@pytest.mark.parametrize('path', ['../a', '/etc/passwd', 'x/../../a', 'link/a', 'file'])
def test_no_path_leads_out(tmp_path, path):
    (tmp_path/'in').mkdir(); (tmp_path/'in'/'link').symlink_to(tmp_path); (tmp_path/'in'/'file').symlink_to('/etc/passwd')
    with pytest.raises(ValueError, match='leads out of its folder'): inside(tmp_path/'in', path)

def test_a_path_within_stays(tmp_path):
    (tmp_path/'link').symlink_to(tmp_path)
    for path in ('a', 'b/../a', 'link/a', str(tmp_path/'a')): assert inside(tmp_path, path)==os.path.realpath(tmp_path/'a')
    with pytest.raises(ValueError, match='leads out'): inside(tmp_path, '../'+tmp_path.name+'2/a') # a longer name is another folder

def test_names_are_counted_from_the_common_folder():
    assert names_of(['/a/b/1.tar', '/a/c/1.tar'])==['b/1.tar', 'c/1.tar'] and names_of(['x.tar'])==['x.tar']

# Tables and sources

def test_texts_of_all_kinds():
    for kind in (pa.int8(), pa.uint64(), pa.int32()): assert texts_of(pa.array([1, None, 0], kind), ['a', 'b'])==['b', None, 'a']
    assert texts_of(pa.array(['x', None]).dictionary_encode())==['x', None] and texts_of(pa.nulls(2))==[None, None]
    assert texts_of(pa.array([True, False]))==['True', 'False']
    assert texts_of(pa.chunked_array([['a'], ['b']], pa.large_string()))==['a', 'b']
    for wrong in (pa.array([1.5]), pa.array([[1]]), pa.array([b'x'])):
        with pytest.raises(ValueError, match='there: expected integers or texts, got'): texts_of(wrong, what='there')
    with pytest.raises(ValueError, match='there: row 1: expected a class from 0 to 0, or -1 for none, got -2'):
        texts_of(pa.array([0, -2]), ['a'], 'there')

def test_unique_or():
    assert unique_or(['a', None], ['0', '1'])==['0', '1'] and unique_or([], [])==[]

def test_a_manifest_is_of_the_types_that_are_promised():
    t = manifest_of(['a'], ['b'])
    assert t.schema==pa.schema([('id', pa.string()), ('path', pa.string()), ('bytes', pa.int64()), ('mtime', pa.int64()),
        ('label', pa.string()), ('group', pa.string())])
    with pytest.raises(ValueError, match=r'got a\\n twice'): manifest_of(['a\n', 'b', 'a\n'], list('abc'))
    with pytest.raises(ValueError, match='there is none at b'): manifest_of(['a', None], ['a', 'b'])

@pytest.mark.parametrize('error,kind', [(OSError(28, 'No space'), OSError), (ValueError('a\nb'), ValueError),
    (PermissionError(13, 'Denied', 'x\x1b'), OSError)])
def test_reading_names_the_image_and_keeps_the_kind(error, kind):
    class Broken(ImageSource):
        def encoded(self, i): raise error
    with pytest.raises(kind, match=r'^some\\n: ') as e: Broken('', manifest_of(['some\n'], ['x'])).read(0)
    assert str(e.value).isprintable()
    for i in (-1, 1):
        with pytest.raises(IndexError, match='expected an index from 0 to 0'): Broken('', manifest_of(['a'], ['x'])).read(i)

def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path/'pipe')
    for path in (tmp_path/'pipe', '/dev/zero', tmp_path):
        with pytest.raises(ValueError, match='not a file'): read_file(path)
    with open(tmp_path/'huge', 'wb') as f: f.truncate(2**40)
    with pytest.raises(ValueError, match='1,099,511,627,776 bytes, more than the 536,870,912'): read_file(tmp_path/'huge')

# Pictures

MODES = dict(png=['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'], tiff=['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr', 'LAB',
    'I;16'],
    jpeg=['1', 'L', 'RGB', 'CMYK', 'YCbCr'], webp=['RGB', 'RGBA', 'L', 'P'], gif=['1', 'L', 'P', 'RGB', 'RGBA'],
    bmp=['1', 'L', 'P', 'RGB', 'RGBA'],
    ppm=['1', 'L', 'RGB'], tga=['L', 'P', 'RGB', 'RGBA'], jpeg2000=['L', 'LA', 'RGB', 'RGBA'])

@pytest.mark.parametrize('form,mode', [(f, m) for f,modes in MODES.items() for m in modes])
def test_every_mode_becomes_rgb_as_eight_bit_has_it(form, mode):
    image = Image.fromarray(np.asarray(pattern('L')).astype(np.uint16)*257) if mode=='I;16' else pattern(mode)
    data = encoded(image, form)
    got = decode(data, 'x')
    assert got.mode=='RGB' and got.size==(12, 7)
    assert (np.asarray(got)==np.asarray(eight_bit(Image.open(io.BytesIO(data)), 'RGB'))).all()

def test_sixteen_bits_keep_their_greys():
    deep = Image.fromarray(np.array([[0, 20000, 65535]], dtype=np.uint16))
    for form in ('png', 'tiff'): assert np.asarray(decode(encoded(deep, form), 'x'))[0, :, 0].tolist()==[0, 78, 255]

@pytest.mark.parametrize('form', ['jpeg', 'png', 'webp', 'tiff'])
@pytest.mark.parametrize('orientation', range(10))
def test_upright_as_pillow_turns_it(form, orientation):
    image = pattern(); exif = image.getexif(); exif[0x0112] = orientation
    data = encoded(image, form, exif=exif, **({'lossless': True} if form=='webp' else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (np.asarray(decode(data, 'x'))==np.asarray(expected)).all()

def test_a_deep_picture_that_was_held_is_turned_too():
    deep = Image.fromarray(np.array([[0, 20000, 65535]], dtype=np.uint16)); exif = deep.getexif(); exif[0x0112] = 8
    assert np.asarray(decode(encoded(deep, exif=exif), 'x'))[:, 0, 0].tolist()==[255, 78, 0]

def test_damaged_exif_leaves_the_picture_as_it_lies():
    good = encoded(pattern(), 'jpeg', quality=95)
    for exif in (b'Exif\0\0', b'Exif\0\0II*\0\xff\xff\xff\xff', b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12', b'Exif\0\0rubbish'):
        data = good[:2]+b'\xff\xe1'+struct.pack('>H', len(exif)+2)+exif+good[2:]
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            assert (np.asarray(decode(data, 'x'))==np.asarray(decode(good, 'x'))).all()

def test_what_is_transparent_lies_on_white():
    image = Image.new('P', (2, 1)); image.putpalette([255, 0, 0, 0, 0, 255]); image.putpixel((1, 0), 1)
    for form in ('png', 'gif'): assert decode(encoded(image, form, transparency=0), 'x').getpixel((0, 0))==(255,)*3
    assert decode(encoded(image, transparency=bytes([0, 255])), 'x').getpixel((0, 0))==(255,)*3 # one alpha for each colour

@pytest.mark.parametrize('form', ['gif', 'png', 'webp', 'tiff'])
def test_the_first_frame_counts(form):
    frames = [Image.new('RGB', (8, 8), c) for c in ('red', 'lime', 'blue')]
    extra = dict(lossless=True) if form=='webp' else {}
    got = decode(encoded(frames[0], form, save_all=True, append_images=frames[1:], **extra), 'x')
    assert got.size==(8, 8) and got.getpixel((3, 3))==(255, 0, 0)

def bomb(w, h): # a PNG that says so, and holds next to nothing
    def chunk(kind, data): return struct.pack('>I', len(data))+kind+data+struct.pack('>I', zlib.crc32(kind+data))
    head = struct.pack('>IIBBBBB', w, h, 8, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR', head)+chunk(b'IDAT', zlib.compress(b''))+chunk(b'IEND', b'')

@pytest.mark.parametrize('size', [(9_500, 9_500), (20_000, 20_000), (2**31-1, 2**31-1)])
def test_a_bomb_is_refused_by_its_size_and_without_a_warning(size):
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        with pytest.raises(ValueError, match=f'^bomb.png: {size[0]:,} x {size[1]:,} pixels, more than'): decode(bomb(*size), 'bomb.png')
    assert not seen and Image.MAX_IMAGE_PIXELS==before

def test_limits_are_those_that_are_said(monkeypatch):
    monkeypatch.setattr(source, 'MAX_PIXELS', 12*7)
    assert decode(encoded(pattern()), 'x').size==(12, 7)
    monkeypatch.setattr(source, 'MAX_PIXELS', 12*7-1)
    with pytest.raises(ValueError, match='x: 12 x 7 pixels, more than the 83'): decode(encoded(pattern()), 'x')
    monkeypatch.undo()
    assert decode(encoded(Image.new('1', (1500, 3))), 'x').size==(1500, 3)
    with pytest.raises(ValueError, match='1,501 x 3 pixels, more than 500 times as long as wide'):
        decode(encoded(Image.new('1', (1501, 3))), 'x')

HEIC = b'\0\0\0\x18ftypheic'+bytes(40)
BAD = dict(empty=(b'', 'an empty file, 0 bytes'), text=(b'this is no image', 'but text'),
    svg=(b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'SVG'),
    xml=(b'<?xml version="1.0"?><svg/>', 'SVG'), heic=(HEIC, 'HEIC; convert it to JPEG'),
    html=(b'<!DOCTYPE html><p>404', 'a page in HTML'),
    lfs=(b'version https://git-lfs.github.com/spec/v1\noid', 'Git LFS'), pdf=(b'%PDF-1.7\n\xff', 'PDF'), zip=(b'PK\x03\x04\0\0\0', 'ZIP'),
    eps=(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'PostScript'), zeros=(bytes(500), 'not an image that can be read'),
    noise=(np.random.default_rng(0).bytes(500), 'not an image that can be read'),
    jpeg=(encoded(pattern(), 'jpeg')[:120], ''),
    png=(encoded(pattern(size=(90, 90)))[:-40], 'truncated'), cut_gif=(encoded(pattern('P'), 'gif')[:40], ''),
    head=(b'\x89PNG\r\n\x1a\n', ''),
    soi=(b'\xff\xd8\xff', ''), webp=(encoded(pattern(), 'webp')[:60], ''), tiff=(encoded(pattern(), 'tiff')[:60], ''),
    float=(encoded(Image.new('F', (2, 2)), 'tiff'), 'got mode F, whose range is not known'),
    wide=(encoded(Image.new('I', (2, 2)), 'tiff'), 'mode I'))

@pytest.mark.parametrize('kind', BAD)
def test_a_bad_picture_is_one_line_that_names_it(kind):
    data,why = BAD[kind]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(ValueError, match=f'^a/\\\\x1b.jpg: .*{re.escape(why)}') as e: decode(data, 'a/\x1b.jpg')
    assert type(e.value) is ValueError and str(e.value).isprintable() and len(str(e.value))<400 and '0x' not in str(e.value)

@settings(max_examples=150, deadline=None)
@given(st.sampled_from(['png', 'jpeg', 'gif', 'webp', 'bmp', 'tiff', 'tga', 'ppm', 'jpeg2000', 'sgi', 'pcx']), st.data())
def test_a_damaged_picture_is_a_picture_or_a_value_error(form, data):
    good = bytearray(encoded(pattern(size=(16, 16)), form))
    for _ in range(data.draw(st.integers(1, 6))): good[data.draw(st.integers(0, min(len(good), 200)-1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: assert decode(bytes(good[:data.draw(st.integers(0, len(good)))]), 'x').mode=='RGB'
        except ValueError as e: assert str(e).startswith('x: ') and str(e).isprintable()

@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_picture_or_a_value_error(data):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: decode(data, 'x')
        except ValueError as e: assert str(e).startswith('x: ') and what_is(data)

def test_only_pictures_are_opened():
    assert not {'.eps', '.ps', '.pdf', '.h5', '.svg', '.heic', '.ico', '.mpg', '.wmf', '.gz'} & image_suffixes()
    assert {'.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.webp', '.gif', '.bmp', '.tif', '.tiff', '.avif', '.jp2', '.mpo'} <= image_suffixes()

def test_threads_decode_the_same():
    data = [encoded(pattern(size=(64+i, 64)), 'jpeg') for i in range(24)]
    start = time.perf_counter(); one = [decode(d, 'x').tobytes() for d in data]; alone = time.perf_counter()-start
    with ThreadPoolExecutor(8) as pool: many = list(pool.map(lambda d: decode(d, 'x').tobytes(), data*3))
    print(f'{len(data)/alone:.0f} images/s alone')
    assert many==one*3

# What others do is not enough

def as_torchvision(data, name): return Image.open(io.BytesIO(data)).convert('RGB')
def turned_only(data, name): return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB')
def laid_on_white_only(data, name): return eight_bit(Image.open(io.BytesIO(data)), 'RGB')
def turned_first(data, name): return ImageOps.exif_transpose(eight_bit(Image.open(io.BytesIO(data)), 'RGB')) # a TIFF is turned by then

def upright(f):
    image = pattern(); exif = image.getexif(); exif[0x0112] = 6
    for form in ('jpeg', 'png'): assert f(encoded(image, form, exif=exif), 'x').size==(7, 12)
def white_behind(f): assert f(encoded(Image.new('RGBA', (1, 1), (255, 0, 0, 0))), 'x').getpixel((0, 0))==(255,)*3
def deep(f): assert f(encoded(Image.fromarray(np.full((1, 1), 20000, np.uint16))), 'x').getpixel((0, 0))[0]==78
def value_errors_alone(f):
    for data in (b'', b'text', encoded(pattern(), 'jpeg')[:150]):
        with pytest.raises(ValueError, match='^x: '): f(data, 'x')
def no_bombs(f):
    with pytest.raises(ValueError, match='pixels, more than'): f(bomb(9_500, 9_500), 'x')

@pytest.mark.parametrize('mutant,check', [(as_torchvision, upright), (as_torchvision, white_behind), (as_torchvision, deep),
    (as_torchvision, value_errors_alone), (as_torchvision, no_bombs), (turned_only, white_behind), (turned_only, deep),
    (laid_on_white_only, upright), (turned_first, no_bombs)])
def test_usual_ways_to_open_a_picture_fail_here(mutant, check):
    check(decode)
    with pytest.raises(BaseException): check(mutant) # noqa: B017, whatever it is
