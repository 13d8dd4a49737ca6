"Folders and lists as people have them: everything that is an image is found once, in one order, and the rest is counted or refused."
import csv, io, json, os, random, tarfile, tempfile
from pathlib import Path
import datasets, numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from avh_nb.data.folders import SPLITS, decode, expand, open_images, pick
from avh_nb.data.tables import csv_rows

def png(value=0, form='png'):
    b = io.BytesIO(); Image.new('RGB', (4, 4), (value, 0, 0)).save(b, form); return b.getvalue()

def put(root, *paths, data=None):
    for i,path in enumerate(paths):
        (root/path).parent.mkdir(parents=True, exist_ok=True)
        (root/path).write_bytes(png(i) if data is None else data)
    return root

def column(source, name='id'): return source.manifest[name].to_pylist()

def refused(match, *args, **kwargs):
    with pytest.raises(ValueError, match=match) as e: open_images(*args, **kwargs)
    assert str(e.value).isprintable() and len(str(e.value))<800
    return str(e.value)

# Folders

def test_the_first_folder_below_is_the_label(tmp_path):
    s = open_images(put(tmp_path, 'b/1.png', 'a/x/y/2.JPG', 'a/3.webp', 'c d/4.tiff'))
    assert column(s)==['a/3.webp', 'a/x/y/2.JPG', 'b/1.png', 'c d/4.tiff'] and column(s, 'label')==['a', 'a', 'b', 'c d']
    assert s.kind=='folder' and s.random_access and len(s)==4 and s.skipped=={} and s.notes==[]
    assert column(s, 'path')==column(s) and column(s, 'group')==[None]*4
    for i,path in enumerate(column(s)):
        assert s.read(i)==(tmp_path/path).read_bytes() and s.file(i)==str(tmp_path/path)
        assert column(s, 'bytes')[i]==len(s.read(i)) and column(s, 'mtime')[i]==(tmp_path/path).stat().st_mtime_ns

def test_a_flat_folder_has_no_labels(tmp_path):
    s = open_images(put(tmp_path, '10.png', '9.png', '1.png'))
    assert column(s)==['1.png', '10.png', '9.png'] and column(s, 'label')==[None]*3 and 'no labels' in repr(s)

def test_images_beside_folders_have_no_label_and_it_is_said(tmp_path):
    s = open_images(put(tmp_path, 'a/1.png', 'b/2.png', 'cover.png'))
    assert column(s, 'label')==['a', 'b', None] and s.notes==['1 images beside the folders have no label']
    assert 'all that are in a folder have the label a' in repr(open_images(put(tmp_path/'n', 'a/1.png')))

def test_what_is_hidden_or_no_image_is_counted(tmp_path):
    put(tmp_path, 'a/1.png', 'a/.2.png', '.git/3.png', 'a/._1.png', 'Thumbs.db', 'a/readme', 'a/4.HEIC', 'a/5.svg', 'a/6.svg')
    os.mkfifo(tmp_path/'a'/'7.png')
    s = open_images(tmp_path)
    assert column(s)==['a/1.png']
    assert s.skipped=={'hidden': 3, '.db': 1, 'without suffix': 1, '.heic': 1, '.svg': 2, 'pipe or device': 1}
    assert '9 skipped: 3 hidden, 2 .svg' in repr(s)

def test_nothing_there(tmp_path):
    refused(f'data: no image in {tmp_path}, which is empty; an image ends in .jpg', tmp_path)
    put(tmp_path, 'x/1.heic', '2.heic', '3\x1b[31m.tx\x1bt')
    message = refused(r'only 2 .heic, 1 .tx\\x1bt; an image ends', tmp_path)
    assert '\x1b' not in message
    for path in (tmp_path/'gone', 'http://a.b/c.jpg', ''): refused('data: there is no .*; expected a folder, a list.csv, files', path)
    for path in ('x.txt', 'x.zip', 'y'):
        refused('expected a folder, .* got (.txt|.zip|a file without suffix)', put(tmp_path, path)/path)
    for what in (7, None, [], [None], {}): refused('data: expected a folder, a list.csv', what)
    refused('got .zip and folder together', [tmp_path, tmp_path/'x.zip'])

@pytest.mark.parametrize('names', [['train'], ['train', 'val'], ['Test', 'TRAINING', 'validation']])
def test_splits_are_no_classes(tmp_path, names):
    for n in names: put(tmp_path, f'{n}/a/1.png')
    refused(f'{tmp_path} holds .*, parts of a data set and not classes; give one of them: {tmp_path}/{min(names)}', tmp_path)
    assert column(open_images(tmp_path/names[0]), 'label')==['a']
    assert len(open_images(put(tmp_path, 'bus/1.png')))==len(names)+1 # a train is a vehicle beside a bus
    assert SPLITS

def test_a_column_makes_no_sense_of_a_folder(tmp_path):
    put(tmp_path, 'a/1.png')
    for option in ('image', 'label', 'id', 'group'): refused(f'{option}: .* has no column x', tmp_path, **{option: 'x'})

# Links

def test_links_are_followed_once_and_never_in_circles(tmp_path):
    root,elsewhere = put(tmp_path/'root', 'a/1.png', 'a/deep/2.png'),put(tmp_path/'elsewhere', '3.png', 'more/4.png')
    links = dict(b=elsewhere, x=root/'x', y=root/'gone', z=elsewhere)
    links |= {'a/up': root, 'a/self': root/'a', 'a/deep/out': elsewhere/'more', 'y.png': root/'gone.png', 'l.png': root/'a'/'1.png'}
    for at,to in links.items(): (root/at).symlink_to(to)
    (elsewhere/'back').symlink_to(root)
    s = open_images(root)
    # what really is below comes first; of links to one folder the first in order counts, and goes all the way
    assert column(s)==['a/1.png', 'a/deep/2.png', 'a/deep/out/4.png', 'b/3.png', 'l.png', 'y.png']
    assert column(s, 'label')==['a', 'a', 'a', 'b', None, None]
    assert s.skipped=={'link to a folder that is read anyway': 5, 'without suffix': 2}
    with pytest.raises(OSError, match='^y.png: .*y.png: No such file'): s.read(5)

def test_a_root_that_is_a_link(tmp_path):
    put(tmp_path/'real', 'a/1.png'); (tmp_path/'link').symlink_to('real')
    assert column(open_images(tmp_path/'link'))==['a/1.png']

def test_order_does_not_hang_on_the_disk(tmp_path, monkeypatch):
    put(tmp_path, *[f'{a}/{b}.png' for a in ('b', 'a-b', 'a', 'B', 'ä') for b in (10, 2, 'x')]); put(tmp_path/'far', '1.png')
    (tmp_path/'m').symlink_to(tmp_path/'far'); (tmp_path/'k').symlink_to(tmp_path/'far')
    whole,scan = open_images(tmp_path).manifest,os.scandir
    class Shuffled:
        def __init__(self, path): self.all = list(scan(path)); random.shuffle(self.all)
        def __enter__(self): return iter(self.all)
        def __exit__(self, *_): pass
    monkeypatch.setattr(os, 'scandir', Shuffled)
    for _ in range(5): assert open_images(tmp_path).manifest.equals(whole)
    ids = whole['id'].to_pylist()
    assert ids==sorted(ids, key=lambda s: s.encode())

def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    put(tmp_path, 'a/1.png')
    def denied(path): raise PermissionError(13, 'Permission denied', str(path))
    monkeypatch.setattr(os, 'scandir', denied)
    refused(r'cannot be listed \(Permission denied\)', tmp_path)

def test_a_file_that_goes_away_is_an_image_that_cannot_be_read(tmp_path):
    s = open_images(put(tmp_path, 'a/1.png', 'a/2.png'))
    (tmp_path/'a'/'1.png').unlink(); (tmp_path/'a'/'2.png').unlink(); (tmp_path/'a'/'2.png').mkdir()
    with pytest.raises(OSError, match='^a/1.png: .*No such file'): s.read(0)
    with pytest.raises(ValueError, match='^a/2.png: not a file'): s.read(1)

names = st.binary(min_size=1, max_size=12).filter(lambda b: not set(b) & set(b'/\0') and not b.startswith(b'.'))

@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(names, names), min_size=1, max_size=6, unique=True))
def test_any_names_are_found_and_read(pairs):
    "Bytes that are not UTF-8, line breaks, escapes: each file is found, and its bytes come back by its place and by a list"
    with tempfile.TemporaryDirectory() as folder:
        root,files = os.fsencode(folder),{}
        for a,b in pairs:
            os.makedirs(os.path.join(root, b'x'+a), exist_ok=True)
            path = os.path.join(b'x'+a, b+b'.png')
            with open(os.path.join(root, path), 'wb') as f: f.write(path)
            files[path] = a
        s = open_images(folder)
        assert sorted(s.read(i) for i in range(len(s)))==sorted(files)
        assert len(set(column(s, 'label')))==len(set(files.values())) and repr(s).replace('\n', '').isprintable()
        pq.write_table(s.manifest, folder+'/m.parquet'); json.dumps(column(s)).encode() # any format holds them
        if all(i.strip(' \t')==i for i in column(s)):
            with open(folder+'/list.csv', 'w', newline='', encoding='utf-8') as f:
                csv.writer(f).writerows([['path']]+[[i] for i in column(s)])
            again = open_images(folder+'/list.csv')
            assert column(again)==column(s) and [again.read(i) for i in range(len(s))]==[s.read(i) for i in range(len(s))]

def by_rglob(root):
    "A slow way to the same, where there are no links"
    suffixes,found = {'.png', '.jpg'},{}
    for p in root.rglob('*'):
        parts = p.relative_to(root).parts
        if p.is_file() and p.suffix.lower() in suffixes and not any(a.startswith('.') for a in parts):
            found['/'.join(parts)] = parts[0] if len(parts)>1 else None
    return [(k, found[k]) for k in sorted(found, key=str.encode)]

part = st.sampled_from(['a', 'B', 'a-b', '.h', 'é', '10', '9'])

@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.lists(part, max_size=3).map(tuple), part, st.sampled_from(['.png', '.JPG', '.txt', ''])), max_size=12))
def test_folders_as_a_slow_way_finds_them(files):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for parts,name,suffix in files: put(root, '/'.join((*parts, f'{name}_{suffix}')))
        expected = by_rglob(root)
        if not expected: refused('data: no image in', root)
        else: assert list(zip(column(s := open_images(root)), column(s, 'label')))==expected

def last_folder(root): return [(k, k.split('/')[-2] if '/' in k else None) for k,_ in by_rglob(root)]
def one_level(root): return [(k, l) for k,l in by_rglob(root) if k.count('/')==1]
def by_path(root): return [(str(p.relative_to(root)), p.relative_to(root).parts[0]) for p in sorted(root.rglob('*.png'))]
def any_link(root):
    return sorted((os.path.relpath(os.path.join(at, f), root), os.path.relpath(at, root).split('/')[0]) for at,_,fs in
        os.walk(root, followlinks=True) for f in fs)

@pytest.mark.parametrize('mutant', [last_folder, one_level, by_path, any_link])
def test_other_ways_to_list_a_folder_fail(tmp_path, mutant):
    put(tmp_path, 'a/1.png', 'a/x/2.png', 'a-b/3.JPG', 'c.png'); (tmp_path/'a'/'l').symlink_to(tmp_path/'a-b')
    s = open_images(tmp_path)
    assert list(zip(column(s), column(s, 'label')))==[('a-b/3.JPG', 'a-b'), ('a/1.png', 'a'), ('a/x/2.png', 'a'), ('c.png', None)]
    assert mutant(tmp_path)!=list(zip(column(s), column(s, 'label')))

# Lists

def listed(root, text, name='list.csv'): (root/name).write_bytes(text if isinstance(text, bytes) else text.encode()); return root/name

@pytest.mark.parametrize('text', ['path,label\na.png,cat\nb.png,dog\n', 'path;label\na.png;cat\nb.png;dog',
    'label\tpath\ncat\ta.png\ndog\tb.png\n',
    '\ufeffpath,label\r\na.png,cat\r\nb.png,dog\r\n', '\ufeffpath;label\r\n"a.png";"cat"\r\n\r\nb.png;dog\r\n',
    'file_name, label\na.png, cat \nb.png,dog', 'note,path,label\n"a;b\nc",a.png,cat\n,b.png,dog',
    'path;label,class;x\na.png;cat;1\nb.png;dog;2'],
    ids=['comma', 'semicolon', 'tab', 'BOM', 'BOM semicolon quotes', 'blanks', 'line break in a cell', 'commas in a name'])
def test_lists_as_programs_write_them(tmp_path, text):
    s = open_images(listed(put(tmp_path, 'a.png', 'b.png'), text), label='label,class' if 'label,class' in text else None)
    assert s.kind=='list' and column(s)==['a.png', 'b.png'] and column(s, 'label')==['cat', 'dog'] and s.read(1)==png(1)

def test_names_of_columns_and_paths_from_the_list(tmp_path):
    put(tmp_path, 'in/a.png', 'b.png')
    path = listed(tmp_path/'in', f'where,what,who,key\na.png,cat,p1,7\n../b.png,,p1,8\n{tmp_path}/b.png,dog,,9\n')
    s = open_images(path, image='where', label='what', id='key', group='who')
    assert column(s)==['7', '8', '9'] and column(s, 'label')==['cat', None, 'dog'] and column(s, 'group')==['p1', 'p1', None]
    assert [s.read(i) for i in range(3)]==[png(0), png(1), png(1)] and column(s, 'bytes')[1]==len(png(1))
    assert column(open_images(listed(tmp_path, 'path\nb.png')), 'label')==[None]

@pytest.mark.parametrize('text,message', [
    ('', 'no column is called path, file_name'), ('path,label\n', 'no row below the names'), ('\n\n', 'no column is called path'),
    ('a.png,cat\n', 'image: no column is called path, .*list.csv, only a.png, cat; name the column of paths with image='),
    ('path,label\na.png\n', 'line 2: expected 2 cells, as the first row has, got 1'),
    ('path,label\na.png,cat\n\nb.png,dog,x\n', 'line 4: expected 2 cells, as the first row has, got 3'),
    ('path,path\na.png,b\n', 'a column is there twice'), ('path,label\n,cat\n', 'line 2: the path or the id is empty'),
    ('path,label\na.png,cat\nb.png,dog\na.png,cow\n', 'list.csv: lines 2 and 4 have the same id a.png; name a column of ids with id='),
    ('path,label\n"a.png,cat\n', r'not a CSV file that can be read \(unexpected end of data\)'),
    ('path\n'+'a'*200_000, r'not a CSV file that can be read \(field larger'),
    ('path,label\na.png,stra\xdfe'.encode('latin-1'), 'line 2: not UTF-8; save the list as UTF-8'),
    ('path,label\na.png,cat'.encode('utf-16'), 'line 1: not UTF-8'), ('path|label\na.png|cat', 'only path|label'),
])
def test_lists_that_are_refused(tmp_path, text, message): refused(f'{message}', listed(put(tmp_path, 'a.png', 'b.png'), text))

def test_columns_that_are_not_there(tmp_path):
    path = listed(put(tmp_path, 'a.png'), 'path,label\na.png,cat')
    for option in ('image', 'label', 'id', 'group'): refused(f'{option}: no column x\\\\n in .*list.csv, only', path, **{option: 'x\n'})
    assert pick(['image', 'path'])==['path', None, None, None]

def test_a_missing_file_comes_up_when_it_is_read(tmp_path):
    put(tmp_path, *[f'{i}.png' for i in range(10)])
    s = open_images(listed(tmp_path, 'path\n'+'\n'.join(f'{i}.png' for i in range(20))))
    assert column(s, 'bytes')[10:]==[0]*10==column(s, 'mtime')[10:]
    with pytest.raises(OSError, match=f'^15.png: {tmp_path}/15.png: No such file'): s.read(15)
    refused(f'11 of the first 20 images are not there, such as {tmp_path}/10.png; paths count from the folder of the list',
        listed(tmp_path, 'path\n'+'\n'.join(f'{i}.png' for i in range(21) if i)))
    (tmp_path/'dir.png').mkdir()
    refused('1 of the first 1 images are not there', listed(tmp_path, 'path\ndir.png'))
    refused('1 of the first 1 images are not there', listed(tmp_path, 'path\na\0b.png'))

cells = st.text(st.characters(codec='utf-8', exclude_characters='\0\r'), min_size=1, max_size=15).filter(lambda c: c.strip(' \t')==c)

@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6, unique_by=lambda r: r[0]), st.sampled_from(',;\t'), st.booleans(),
    st.sampled_from(['\n', '\r\n']))
def test_any_cells_come_back(rows, separator, mark, end):
    with tempfile.NamedTemporaryFile('w', newline='', encoding='utf-8-sig' if mark else 'utf-8', suffix='.csv') as f:
        csv.writer(f, delimiter=separator, lineterminator=end).writerows([('path', 'label'), *rows])
        f.flush()
        columns,got = csv_rows(f.name)
    assert columns==['path', 'label'] and [tuple(cells) for _,cells in got]==rows

@settings(max_examples=80, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.text(st.sampled_from('path,;\t"\n\r a'), max_size=60).map(str.encode)))
def test_any_bytes_are_a_list_or_a_value_error(data):
    with tempfile.NamedTemporaryFile(suffix='.csv') as f:
        f.write(data); f.flush()
        try: csv_rows(f.name)
        except ValueError as e: assert str(e).startswith(f.name) and str(e).isprintable()

# Patterns

def test_patterns(tmp_path):
    put(tmp_path, 'a/1.png', 'a/2.png', 'b/3.jpg', 'b/x [1].png', 's-008.txt', 's-009.txt', 's-010.txt')
    s = open_images([tmp_path/'a'/'*.png', f'{tmp_path}/b/3.jpg'])
    assert s.kind=='list' and column(s)==[f'{tmp_path}/a/1.png', f'{tmp_path}/a/2.png', f'{tmp_path}/b/3.jpg'] and s.read(2)==png(2)
    assert len(open_images(tmp_path/'b'/'x [1].png'))==1 # a name before it is a pattern
    assert [p[-7:] for p in expand(f'{tmp_path}/s-{{008..010}}.txt')]==['008.txt', '009.txt', '010.txt']
    assert [p[-7:] for p in expand(f'{tmp_path}/s-00{{8..9}}.txt')]==['008.txt', '009.txt']
    refused('data: there is no .*s-011.txt', tmp_path/'s-{008..011}.txt')
    refused('the smaller number first', tmp_path/'{9..8}.txt'); refused('the smaller number first', tmp_path/'{0..999999999}.txt')
    refused('give the folder', f'{tmp_path}/**/*.jpeg')
    refused('id: each image needs one of its own', [tmp_path/'a'/'1.png', tmp_path/'a'/'*.png'])
    refused('got folder together', [tmp_path/'a', tmp_path/'b'])

def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(put(tmp_path, 'photos/a/1.png')))
    assert len(open_images('~/photos'))==1

# The same images in every kind

def test_all_kinds_give_the_same_images(tmp_path):
    x,y = load_digits(return_X_y=True)
    data = []
    for i in range(60):
        b = io.BytesIO(); Image.fromarray((x[i].reshape(8, 8)*15).astype(np.uint8)).save(b, 'png'); data.append(b.getvalue())
    paths = [f'{y[i]}/{i:03}.png' for i in range(60)]
    for path,d in zip(paths, data): put(tmp_path/'folder', path, data=d)
    listed(tmp_path/'folder', 'path,label\n'+'\n'.join(f'{p},{l}' for p,l in zip(paths, y)))
    cells = [dict(bytes=d, path=p) for d,p in zip(data, paths)]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=[str(i) for i in range(10)]))
    hugged = datasets.Dataset.from_dict(dict(image=cells, label=y[:60].tolist()), features)
    hugged.to_parquet(tmp_path/'hugged.parquet', batch_size=7)
    pq.write_table(pa.table(dict(image=data, label=y[:60].astype(str), name=paths)), tmp_path/'bytes.parquet', row_group_size=13)
    for k in range(2):
        with tarfile.open(tmp_path/f'{k}.tar', 'w') as tar:
            for path,d,label in list(zip(paths, data, y))[30*k:30*k+30]:
                for name,content in ((path, d), (path.replace('.png', '.cls'), str(label).encode())):
                    member = tarfile.TarInfo(name); member.size = len(content); tar.addfile(member, io.BytesIO(content))
    kinds = dict(folder=open_images(tmp_path/'folder'), list=open_images(tmp_path/'folder'/'list.csv'), datasets=open_images(hugged),
        parquet=open_images(tmp_path/'hugged.parquet'), tar=open_images(tmp_path/'{0..1}.tar'),
        bytes=open_images(tmp_path/'bytes.parquet', id='name'))
    assert [s.kind for s in kinds.values()]==['folder', 'list', 'datasets', 'parquet', 'tar', 'parquet']
    expected = {p: (d, str(l)) for p,d,l in zip(paths, data, y)}
    for s in kinds.values():
        assert {k: (s.read(i), l) for i,(k,l) in enumerate(zip(column(s), column(s, 'label')))}==expected
        assert decode(s.read(3), 'x').size==(8, 8) and s.manifest.schema==kinds['folder'].manifest.schema
