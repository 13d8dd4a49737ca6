"Parquet, tar and data sets of Hugging Face: read in place, in any order and from many threads, and nothing in them leads elsewhere."
import io, json, os, random, tarfile, time
from concurrent.futures import ThreadPoolExecutor
import datasets, pyarrow as pa, pyarrow.parquet as pq, pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from avh_nb.data import shards
from avh_nb.data.folders import decode, open_images
from avh_nb.data.shards import open_tar, tar_members
from avh_nb.data.tables import ParquetSource, choose_columns, class_names, load_hf, open_dataset

datasets.disable_progress_bars()

def png(value=0, form='png'):
    b = io.BytesIO(); Image.new('RGB', (4, 4), (value, 0, 0)).save(b, form); return b.getvalue()

def column(source, name='id'): return source.manifest[name].to_pylist()

def refused(match, *args, **kwargs):
    with pytest.raises(ValueError, match=match) as e: open_images(*args, **kwargs)
    assert str(e.value).isprintable()

STRUCT = pa.struct([('bytes', pa.binary()), ('path', pa.string())])

def parquet(path, images, schema=None, rows=None, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = STRUCT if images and isinstance(images[0], dict) else pa.binary()
    table = pa.table(dict(image=pa.array(images, kind), **columns))
    pq.write_table(table.replace_schema_metadata(schema), path, row_group_size=rows)
    return path

def hf(**names):
    features = {k: dict(names=n, _type='ClassLabel') for k,n in names.items()}
    return {b'huggingface': json.dumps(dict(info=dict(features=features)))}

# Parquet

@pytest.mark.parametrize('label,metadata,expected', [
    (pa.array([1, 0, -1]), hf(label=['cat', 'dog']), ['dog', 'cat', None]),
    (pa.array([1, 0, None]), hf(label=['cat', 'dog']), ['dog', 'cat', None]),
    (pa.array([10, 2, -1]), None, ['10', '2', '-1']), (pa.array(['x', '', None]), None, ['x', None, None]),
    (pa.array(['x', 'y', 'x']).dictionary_encode(), None, ['x', 'y', 'x']),
    (pa.array([1, 0, 1], pa.uint8()), {b'huggingface': b'no JSON'}, ['1', '0', '1']),
    (pa.array(['a', 'b', 'c'], pa.large_string()), hf(label=['cat', 'dog']), ['a', 'b', 'c'])])
def test_labels_of_all_kinds(tmp_path, label, metadata, expected):
    s = open_images(parquet(tmp_path/'a.parquet', [png(i) for i in range(3)], metadata, label=label))
    assert column(s, 'label')==expected and s.kind=='parquet' and not s.random_access
    assert column(s)==column(s, 'path')==['a.parquet:0', 'a.parquet:1', 'a.parquet:2']
    assert column(s, 'mtime')==[(tmp_path/'a.parquet').stat().st_mtime_ns]*3 and column(s, 'bytes')==[0]*3

@pytest.mark.parametrize('label,metadata,message', [
    (pa.array([0, 2]), hf(label=['cat', 'dog']), 'a.parquet: column label: row 1: expected a class from 0 to 1, or -1 for none, got 2'),
    (pa.array([.5, 1]), None, 'column label: expected integers or texts, got double'),
    (pa.array([[1], [2]]), None, 'expected integers or texts, got list')])
def test_labels_that_are_none(tmp_path, label, metadata, message):
    refused(message, parquet(tmp_path/'a.parquet', [png(), png()], metadata, label=label))

def test_metadata_of_a_stranger():
    for bad in (b'', b'[]', b'{"info": []}', b'{"info": {"features": 7}}', b'{"info": {"features": {"label": {"names": "abc"}}}}', b'\xff'):
        assert class_names(pa.schema([], {b'huggingface': bad}))=={}

def test_columns_are_found_or_asked_for(tmp_path):
    path = parquet(tmp_path/'a.parquet', [png(1)], hf(fine=['x'], coarse=['y']), mask=[png(2)], fine=[0], coarse=[0], n=[1.])
    refused('image: .*a.parquet: name one of image, mask with image=', path)
    refused('label: .*a.parquet: name one of fine, coarse with label=', path, image='image')
    s = open_images(path, image='mask', label='fine', id='coarse', group='fine')
    assert (column(s), column(s, 'label'), column(s, 'group'))==(['y'], ['x'], ['x']) and s.read(0)==png(2)
    refused('id: .*expected one of image, mask, fine, coarse, n, got x', path, image='image', label='fine', id='x')
    refused('image: .*expected one of image, mask, got fine', path, image='fine')
    pq.write_table(pa.table(dict(n=[1])), tmp_path/'n.parquet')
    refused('image: .*no column of bytes or of struct<bytes, path>, only n', tmp_path/'n.parquet')

def test_ids(tmp_path):
    named = [dict(bytes=png(i), path=f'{i}.png') for i in range(3)]
    assert column(open_images(parquet(tmp_path/'a.parquet', named)))==['0.png', '1.png', '2.png']
    assert column(open_images(parquet(tmp_path/'a.parquet', [*named, named[0]])))==[f'a.parquet:{i}' for i in range(4)]
    assert column(open_images(parquet(tmp_path/'a.parquet', [*named, dict(bytes=png(), path=None)])))==[f'a.parquet:{i}' for i in range(4)]
    assert column(open_images(parquet(tmp_path/'a.parquet', named, key=[7, 8, 9]), id='key'))==['7', '8', '9']
    refused('id: each image needs one of its own, got 7 twice', parquet(tmp_path/'a.parquet', named, key=[7, 8, 7]), id='key')
    refused('id: each image needs one, and there is none at a.parquet:1', parquet(tmp_path/'a.parquet', named, key=[7, None, 7]), id='key')

def test_folders_lists_and_patterns_of_files(tmp_path):
    for k in range(3): parquet(tmp_path/f'd{k%2}'/f'{k}.parquet', [png(10*k+i) for i in range(3)], rows=2)
    s = open_images(tmp_path)
    assert column(s, 'path')==[f'{p}.parquet:{i}' for p in ('d0/0', 'd0/2', 'd1/1') for i in range(3)]
    assert [s.read(i) for i in range(9)]==[png(v) for v in (0, 1, 2, 20, 21, 22, 10, 11, 12)]
    assert len(open_images(f'{tmp_path}/d0/*.parquet'))==6==len(open_images([tmp_path/'d0'/'0.parquet', tmp_path/'d0'/'2.parquet']))
    parquet(tmp_path/'d1'/'x.parquet', [png()], extra=[1]); assert len(open_images(tmp_path/'d1'))==4
    parquet(tmp_path/'d1'/'a.parquet', [png()], label=[1])
    refused('label: .*a.parquet has a column label, and those before it have none', tmp_path/'d1')
    parquet(tmp_path/'d1'/'1.parquet', [png()], label=[1])
    refused('label: .*x.parquet: expected one of image, extra, got label', tmp_path/'d1')
    for name in ('train-00000-of-00001', 'test-00000-of-00001'): parquet(tmp_path/'hub'/'data'/f'{name}.parquet', [png()])
    refused("hub holds test, train; give one of them, such as '.*/train\\*'", tmp_path/'hub')

def test_files_that_are_no_parquet(tmp_path):
    whole = parquet(tmp_path/'a.parquet', [png(i) for i in range(50)]).read_bytes()
    for bad in (b'', b'PAR1', whole[:-20], whole[:len(whole)//2], b'x'*500):
        (tmp_path/'b.parquet').write_bytes(bad); refused('b.parquet: not a whole Parquet file', tmp_path/'b.parquet')
    refused('has no row', parquet(tmp_path/'b.parquet', []))

def test_damage_inside_names_the_image(tmp_path):
    path = parquet(tmp_path/'a.parquet', [os.urandom(3000) for _ in range(200)], rows=100)
    s,data = open_images(path),bytearray(path.read_bytes())
    data[:len(data)//3] = bytes(len(data)//3)
    path.write_bytes(data)
    with pytest.raises((ValueError, OSError), match=r'^a.parquet:3: '): s.read(3)
    with pytest.raises((ValueError, OSError), match=r'^a.parquet:4: '): s.read(4) # again, and not out of step
    assert len(s.read(199))==3000

def test_cells_without_bytes(tmp_path):
    (tmp_path/'in').mkdir(); (tmp_path/'in'/'x.png').write_bytes(png(5)); (tmp_path/'out.png').write_bytes(png(6))
    (tmp_path/'in'/'link.png').symlink_to(tmp_path/'out.png')
    paths = ['x.png', '../out.png', str(tmp_path/'out.png'), 'link.png', 'gone.png', None, '/etc/passwd', 'a\0b']
    s = open_images(parquet(tmp_path/'in'/'a.parquet', [dict(bytes=None, path=p) for p in paths]+[None]))
    assert s.read(0)==png(5)
    for i,match in ((1, 'leads out of its folder'), (2, 'leads out of its folder'), (3, 'leads out of its folder'), (4, 'No such file'),
            (5, 'there is no image in this row'), (6, 'leads out of its folder'), (7, 'null'), (8, 'there is no image in this row')):
        with pytest.raises((OSError, ValueError), match=f'^a.parquet:{i}: .*{match}'): s.read(i)

@pytest.mark.parametrize('rows', [1, 7, 31, 32, 33, 100, 1000])
def test_any_order_and_many_threads_read_the_same(tmp_path, rows):
    data = [bytes([i%256])*(i%50+1) for i in range(300)]
    parquet(tmp_path/'0.parquet', data[:170], rows=rows); parquet(tmp_path/'1.parquet', data[170:], rows=rows)
    s = open_images(tmp_path)
    assert [s.read(i) for i in range(300)]==data
    order = random.Random(rows).sample(range(300), 60)
    assert [s.read(i) for i in order]==[data[i] for i in order]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(s.read, range(300)))==data and list(pool.map(s.read, reversed(range(300))))==data[::-1]

def test_reading_in_order_reads_once(tmp_path, monkeypatch):
    opened = []
    class Counted(pq.ParquetFile):
        def __init__(self, *args, **kwargs): opened.append(args); super().__init__(*args, **kwargs)
    s = open_images(parquet(tmp_path/'a.parquet', [bytes([i]) for i in range(200)], rows=50))
    monkeypatch.setattr(pq, 'ParquetFile', Counted)
    with ThreadPoolExecutor(4) as pool: assert list(pool.map(s.read, range(200)))==[bytes([i]) for i in range(200)]
    assert len(opened)==4 # once for each row group

def test_what_is_kept_is_bounded(tmp_path, monkeypatch):
    s = open_images(parquet(tmp_path/'a.parquet', [bytes(10_000)]*600))
    for i in range(600): s.read(i)
    assert len(s._kept)==8
    monkeypatch.setattr(ParquetSource, 'most', 10_000*32*3)
    for i in range(600): s.read(i); assert len(s._kept)<=8
    assert len(s._kept)<=3

def test_memory_does_not_grow_with_the_row_group(tmp_path):
    with pq.ParquetWriter(tmp_path/'a.parquet', pa.schema([('image', pa.binary())]), compression='none', use_dictionary=False) as w:
        w.write_table(pa.table(dict(image=[bytes(50_000)]*4000)), row_group_size=4000)
    s,before,most = open_images(tmp_path/'a.parquet'),pa.total_allocated_bytes(),0
    for i in range(4000): s.read(i); most = max(most, pa.total_allocated_bytes()-before)
    print(f'{most/1e6:.0f} MB of 200 MB')
    assert most<100e6

# tar

def tar(path, files, **about):
    with tarfile.open(path, 'w', **about) as t:
        for name,data in files:
            member = tarfile.TarInfo(name); member.size,member.mtime = len(data),5
            t.addfile(member, io.BytesIO(data))
    return path

def test_samples_of_webdataset(tmp_path):
    about = b'{"label": "dog", "who": "p", "n": 7}'
    files = [('a/1.jpg', png(1, 'jpeg')), ('a/1.cls', b'3\n'), ('a/2.jpg', png(2, 'jpeg')), ('a/2.json', about), ('b.JPG', png(3, 'jpeg')),
        ('b.txt', b'cat '), ('c.png', png(4)), ('d.pdf', b''), ('.e.png', b'')]
    s = open_images(tar(tmp_path/'s.tar', files))
    assert column(s)==['a/1.jpg', 'a/2.jpg', 'b.JPG', 'c.png'] and column(s, 'label')==['3', 'dog', 'cat', None]
    assert column(s, 'path')[0]=='s.tar/a/1.jpg' and column(s, 'mtime')==[5*10**9]*4 and column(s, 'bytes')[3]==len(png(4))
    assert s.kind=='tar' and not s.random_access and s.skipped=={'.pdf': 1, 'hidden': 1} and s.read(3)==png(4)
    assert column(open_images(tmp_path/'s.tar', group='who'), 'group')==[None, 'p', None, None]
    assert column(open_images(tmp_path/'s.tar', label='n'), 'label')==[None, '7', None, None]
    assert column(open_images(tmp_path/'s.tar', image='png'))==['c.png']==column(open_images(tmp_path/'s.tar', image='.PNG'))
    refused('label: beside no image of .* called nn', tmp_path/'s.tar', label='nn')
    refused('id: each image needs one, and there is none at s.tar/a/1.jpg', tmp_path/'s.tar', id='who')
    refused('no image in .*s.tar', tmp_path/'s.tar', image='gif')

def test_a_packed_folder_has_no_labels_and_says_so(tmp_path):
    s = open_images(tar(tmp_path/'s.tar', [('./p/cat/x.1.png', png(1)), ('./p/cat/x.2.png', png(2))]))
    assert column(s)==['p/cat/x.1.png', 'p/cat/x.2.png'] and column(s, 'label')==[None]*2 and 'no labels stand beside' in repr(s)

def test_captions_are_no_labels(tmp_path):
    tar(tmp_path/'s.tar', [('1.png', png()), ('1.txt', b'a long story about a dog '*9)])
    assert column(open_images(tmp_path/'s.tar'), 'label')==[None]
    assert column(open_images(tmp_path/'s.tar', label='txt'), 'label')[0].startswith('a long story')

def test_shards_in_order_and_ids_over_all(tmp_path):
    for k in range(12): tar(tmp_path/f's-{k:03}.tar', [(f'{i}.png', png(10*k+i)) for i in range(3)])
    s = open_images(tmp_path/'s-{000..011}.tar')
    assert column(s)==column(s, 'path')==[f's-{k:03}.tar/{i}.png' for k in range(12) for i in range(3)]
    assert [s.read(i) for i in range(36)]==[png(10*k+i) for k in range(12) for i in range(3)]
    assert open_images(tmp_path).manifest.equals(s.manifest) and open_images(f'{tmp_path}/*.tar').manifest.equals(s.manifest)
    with ThreadPoolExecutor(8) as pool: assert list(pool.map(s.read, range(36)))==[s.read(i) for i in range(36)]

def test_nothing_leads_out_and_nothing_is_written(tmp_path):
    (tmp_path/'in').mkdir()
    with tarfile.open(tmp_path/'in'/'s.tar', 'w') as t:
        def add(name, kind=tarfile.REGTYPE, data=b'', link=''):
            m = tarfile.TarInfo(name); m.type,m.size,m.linkname = kind,len(data),link
            t.addfile(m, io.BytesIO(data))
        for name in ('../up.png', '/tmp/abs.png', 'a/../../up.png', 'a/../b.png', '..', '//x.png'): add(name, data=png())
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE):
            add('l.png', kind, link='/etc/passwd')
        add('a', tarfile.DIRTYPE); add('good.png', data=png(7)); add('\x1b[31m\nx.png', data=png(8)); add('good.png', data=png(9))
    s = open_images(tmp_path/'in'/'s.tar')
    assert column(s)==['good.png', '\x1b[31m\nx.png'] and [s.read(0), s.read(1)]==[png(9), png(8)] # as tar has it, the later one
    assert s.skipped=={'that lead out of the archive': 6, 'links or devices': 5, 'written again later': 1}
    assert sorted(os.listdir(tmp_path))==['in'] and sorted(os.listdir(tmp_path/'in'))==['s.tar']
    assert '\x1b' not in repr(s)

@pytest.mark.parametrize('how', ['gz', 'bz2', 'xz'])
def test_a_compressed_tar_file_is_refused(tmp_path, how):
    with tarfile.open(tmp_path/f's.tar.{how}', f'w:{how}') as t: t.addfile(tarfile.TarInfo('a.png'))
    refused('is compressed, .*decompress it first', tmp_path/f's.tar.{how}')
    (tmp_path/f's.tar.{how}').rename(tmp_path/'s.tar'); refused('is compressed', tmp_path/'s.tar')

def test_damaged_tar_files(tmp_path):
    whole = tar(tmp_path/'a.tar', [(f'{i}.png', png(i)) for i in range(4)]).read_bytes()
    ends = whole.rstrip(b'\0')
    def bad(data, match):
        (tmp_path/'b.tar').write_bytes(data)
        refused(f'b.tar: not a tar file that can be read .*{match}', tmp_path/'b.tar')
    bad(b'', 'empty file'); bad(b'x'*2000, ''); bad(whole[:100], '')
    bad(whole[:512+20], 'unexpected end'); bad(ends[:-10], 'unexpected end')
    bad(whole[:2*1024], 'no end mark') # between two members
    bad(whole[:2048]+b'\xff'*512+whole[2560:], 'damaged, or several archives in one, at byte 2,048')
    bad(whole+whole, 'damaged, or several archives in one')
    bad(whole[:2048]+whole[2048:2048+124]+b'\xff'*12+whole[2048+136:], '') # a size below 0

def header(name, size, kind=b'0'):
    "A header that Python's own writer would not make"
    size = size.to_bytes(12, 'big', signed=True) if size<0 else f'{size:011o}\0'.encode()
    if size[0]&0x80: size = b'\xff'+size[1:]
    h = name.encode().ljust(100, b'\0')+b'0000644\0'+b'0000000\0'*2+size+b'00000000000\0'+b' '*8+kind+b'\0'*100+b'ustar\00000'
    h = h.ljust(512, b'\0')
    return h[:148]+f'{sum(h):06o}\0 '.encode()+h[156:]

@pytest.mark.parametrize('data', [header('a.png', -512), header('a.png', 0)+header('b.png', -1024), header('a.png', -2**40),
    header('x', -512, b'x'), header('a.png', 2**33), header('L', 2**33, b'L'), header('x', 20, b'x')*3000,
    header('S', 512, b'S')+bytes(512)], ids=['back to itself', 'back and forth', 'far back', 'extended and back', 'beyond the end',
    'a long name beyond the end', 'nested', 'sparse'])
def test_hostile_headers_end(tmp_path, data):
    (tmp_path/'s.tar').write_bytes(data+bytes(1024))
    start = time.perf_counter()
    refused('s.tar', tmp_path/'s.tar')
    assert time.perf_counter()-start<20 # and does not go round for ever

@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5119), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_damage_is_a_tar_file_or_a_value_error(changes):
    path = os.path.join(os.environ['AVH_RUNS'], f'{os.getpid()}.tar')
    tar(path, [('a.png', b'x'*600), ('b.cls', b'1'), ('b.json', b'{}')])
    with open(path, 'r+b') as f:
        for at,value in changes: f.seek(at); f.write(bytes([value]))
    try: tar_members(path)
    except ValueError as e: assert str(e).startswith(path) and str(e).isprintable()

@pytest.mark.parametrize('beside,match', [(('1.json', b'{'), 'not JSON'), (('1.json', b'\xff'), 'not JSON'),
    (('1.json', b'{"label": [1]}'), 'label: expected a text or a whole number'), (('1.json', b'{"label": 0.5}'), 'got 0.5')])
def test_labels_beside_that_cannot_be_read(tmp_path, beside, match):
    refused(f's.tar: beside 1.png: .*{match}', tar(tmp_path/'s.tar', [('1.png', png()), beside]))

def test_odd_labels_beside(tmp_path):
    s = open_images(tar(tmp_path/'s.tar', [('1.png', png()), ('1.cls', b'\xff'), ('2.png', png()), ('2.json', b'{"label": "\\ud800"}'),
        ('3.png', png()), ('3.json', b'[1]'), ('4.png', png()), ('4.cls', b''), ('5.png', png()), ('5.json', b'{"label": null}')]))
    assert column(s, 'label')==[r'\xff', r'\ud800', None, None, None]

def test_a_name_that_is_not_utf8_in_a_tar_file(tmp_path):
    s = open_images(tar(tmp_path/'s.tar', [('caf\udce9.png', png(3))], format=tarfile.GNU_FORMAT))
    assert column(s)==[r'caf\xe9.png'] and s.read(0)==png(3)

def test_two_images_of_a_sample(tmp_path):
    tar(tmp_path/'s.tar', [('1.png', png(1)), ('1.mask.png', png(2)), ('1.cls', b'4')])
    refused('image: .*1.png, 1.mask.png belong to one sample; say which', tmp_path/'s.tar')
    s = open_images(tmp_path/'s.tar', image='mask.png')
    assert column(s)==['1.mask.png'] and column(s, 'label')==['4'] and s.read(0)==png(2) and s.skipped=={'.png': 1}

def test_a_tar_file_that_changes(tmp_path):
    s = open_images(tar(tmp_path/'s.tar', [('1.png', png(1))]))
    (tmp_path/'s.tar').write_bytes(b'short')
    with pytest.raises(ValueError, match='^1.png: .*has become shorter'): s.read(0)
    (tmp_path/'s.tar').unlink()
    with pytest.raises(OSError, match='^1.png: .*No such file'): s.read(0)

def test_many_members_are_listed_quickly(tmp_path):
    tar(tmp_path/'s.tar', [(f'{i:05}.{s}', b'1') for i in range(5000) for s in ('png', 'cls')])
    start = time.perf_counter(); s = open_tar([tmp_path/'s.tar'], tmp_path)
    print(f'{2*len(s)/(time.perf_counter()-start):,.0f} members/s')
    assert len(s)==5000 and shards.Sample.LONGEST==100

# datasets

def hugged(n=6):
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=['cat', 'dog']), who=datasets.Value('string'))
    cells = [dict(bytes=png(i), path=f'{i}.png') for i in range(n)]
    label,who = [i%2 if i else -1 for i in range(n)],[f'p{i//2}' for i in range(n)]
    return datasets.Dataset.from_dict(dict(image=cells, label=label, who=who), features)

def test_a_data_set(tmp_path):
    s = open_images(hugged(), group='who')
    assert s.kind=='datasets' and s.random_access and column(s)==[f'{i}.png' for i in range(6)] and column(s, 'group')[5]=='p2'
    assert column(s, 'label')==[None, 'dog', 'cat', 'dog', 'cat', 'dog'] and [s.read(i) for i in range(6)]==[png(i) for i in range(6)]
    part = open_images(hugged().shuffle(seed=1).select([3, 1]).with_format('torch'))
    assert [decode(part.read(i), 'x').getpixel((0, 0))[0] for i in range(2)]==[int(k[0]) for k in column(part)]
    assert column(part, 'bytes')==[len(part.read(i)) for i in range(2)]
    with ThreadPoolExecutor(8) as pool: assert list(pool.map(s.read, list(range(6))*20))==[png(i) for i in range(6)]*20

def test_data_sets_that_are_refused(tmp_path):
    refused("got DatasetDict; choose a split, such as data\\['train'\\]", datasets.DatasetDict(train=hugged()))
    refused('got IterableDataset', hugged().to_iterable_dataset())
    refused('has no row', hugged().select([])); refused('no column of bytes', hugged().remove_columns('image'))
    refused('label: .*expected one of image, label, who, got x', hugged(), label='x')

def test_paths_of_a_data_set(tmp_path):
    for i in range(3): (tmp_path/f'{i}.png').write_bytes(png(i))
    made = datasets.Dataset.from_dict(dict(image=[str(tmp_path/f'{i}.png') for i in range(3)]+[None]))
    s = open_dataset(made.cast_column('image', datasets.Image()))
    assert [s.read(i) for i in range(3)]==[png(i) for i in range(3)] and column(s)==['0', '1', '2', '3'] and column(s, 'bytes')==[0]*4
    with pytest.raises(ValueError, match='^3: there is no image in this row'): s.read(3)

def test_data_sets_by_name(tmp_path):
    datasets.DatasetDict(train=hugged(4), test=hugged(2)).save_to_disk(tmp_path/'saved')
    s = open_images(f'hf:{tmp_path}/saved@test')
    assert len(s)==2 and s.where==f'hf:{tmp_path}/saved@test' and s.read(1)==png(1)
    hugged(3).save_to_disk(tmp_path/'one'); assert len(load_hf(f'{tmp_path}/one@any'))==3
    for name in ('cifar10', '@test', 'cifar10@', ''): refused('data: expected hf:NAME@SPLIT, such as hf:cifar10@test', f'hf:{name}')
    refused('saved@val cannot be loaded', f'hf:{tmp_path}/saved@val')
    refused('gone@train cannot be loaded', f'hf:{tmp_path}/gone@train')

def test_a_local_folder_by_its_builder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path/'cache')
    for label in ('cat', 'dog'):
        (tmp_path/'d'/'train'/label).mkdir(parents=True); (tmp_path/'d'/'train'/label/'1.png').write_bytes(png(len(label)))
    s = open_images(f'hf:{tmp_path}/d@train')
    assert column(s, 'label')==['cat', 'dog'] and s.read(0)==png(3)

def test_choose_columns_lists_what_there_is():
    with pytest.raises(ValueError, match='image: here: no column of bytes or of struct<bytes, path>, only a, b'):
        choose_columns(pa.schema([('a', pa.int64()), ('b', pa.struct([('path', pa.string())]))]), where='here')
