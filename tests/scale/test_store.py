"The store keeps what was computed: through kills, full disks, several writers, merging; and never mixes what does not belong together."
import json, os, re, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, pytest, torch
from hypothesis import HealthCheck, assume, given, settings, strategies as st
import avh_nb as av
from avh_nb.scale import parts as parts_page, runs as runs_page, upkeep as upkeep_page
from avh_nb.scale.manifest import MANIFEST, as_manifest, manifest_digest, other_images
from avh_nb.scale.parts import COLUMNS, SCHEMA, TEXT, aside, conform, read_part, part_name, write_part
from avh_nb.scale.runs import fingerprint_of, first_difference, folder_name, folder_text, part_files, plain, settled
from avh_nb.scale.store import Store, StoreRun, hardness
from avh_nb.scale.upkeep import check_run, compact_run

text = st.text(st.characters(exclude_categories=['Cs']))
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow]) # whatever else the machine does
few = settings(patient, max_examples=15)
FLOATS = [n for n,t in COLUMNS.items() if t==pa.float32()]

def scores(first, n, seed=0, **more):
    "Made-up scores of images first to first+n-1; those of an image do not depend on how the images are cut into chunks"
    rows = range(first, first+n)
    rng = [np.random.default_rng((seed, i)) for i in rows]
    columns = {c: np.array([g.normal() for g in rng], np.float32) for c in ('avh', 'loss', 'confidence')}
    labels = np.array([i%3 for i in rows], np.int32)
    return pa.table(dict(id=[f'class{i%3}/{i:06}.png' for i in rows], label=labels, label_name=[f'class{i}' for i in labels],
        pred=np.array([i%3 if i%5 else 0 for i in rows], np.int32), sample_kind=['oof']*n, row=np.array(rows), **columns, **more))

def begun(root, made_by=None, **run):
    r = StoreRun(root, run.pop('model', 'timm/tiny'), **run)
    r.begin({'model': 'tiny', 'chunk': 10, **(made_by or {})}, dict(device='cpu'))
    return r

def everything(table): return table.to_pylist()

def python(code, *args):
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

# Names

@patient
@given(text.filter(bool), text.filter(bool))
def test_names_come_back_and_stay_in_the_folder(a, b):
    try: names = [folder_name(t) for t in (a, b)]
    except ValueError: assume(False)
    assert [folder_text(n) for n in names]==[a, b] and (names[0]==names[1])==(a==b)
    inside = Path('/root/scores').joinpath(f'model={names[0]}')
    assert os.path.normpath(inside)==str(inside) and inside.parent==Path('/root/scores')

@pytest.mark.parametrize('name', ['..', '../..', '/etc/passwd', 'a\\b', 'C:', 'nul\0l', 'a\nb', "o'hara", '[x]*?', '%2e%2e', ' ', '🦊'])
def test_odd_names_of_models(tmp_path, name):
    run = begun(tmp_path/'s', model=name, checkpoint=name)
    run.write(0, scores(0, 3))
    assert tmp_path/'s' in run.folder.resolve().parents
    found, = Store(tmp_path/'s').runs()
    assert (found.model, found.checkpoint, found.rows())==(name, name, 3)
    assert Store(tmp_path/'s').sql("select distinct model from scores").model.tolist()==[name]

def test_two_names_never_share_a_folder():
    tricky = ['a/b', 'a--b', 'a-/b', 'a/-b', 'a//b', 'a---b', 'a-%2Db', 'a%2D-b', 'a/--b', 'a-b']
    assert len({folder_name(t) for t in tricky})==len(tricky)
    mutant = {t.replace('/', '--') for t in tricky} # the easy mistake
    assert len(mutant)<len(tricky)

# Ingredients

some_json = st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-3, 3) | st.text(max_size=3),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3), max_leaves=8)
ingredients = st.dictionaries(st.text(max_size=3), some_json, max_size=3)

@settings(patient, max_examples=50)
@given(ingredients, ingredients)
def test_a_difference_is_found_where_fingerprints_differ(a, b):
    for one,two in ((a, b), (a, json.loads(json.dumps(a)))):
        found = first_difference(plain(one), plain(two))
        assert (found is None)==(fingerprint_of(one)==fingerprint_of(two))

@patient
@given(ingredients)
def test_order_of_keys_is_no_ingredient(a):
    assert fingerprint_of(a)==fingerprint_of(dict(reversed(a.items())))

@pytest.mark.parametrize('old,new,what', [
    (dict(a=dict(b=[1, 2])), dict(a=dict(b=[1, 3])), 'a.b.1 2, this run has 3'),
    (dict(a=1), dict(a=1, b='x'), 'b nothing, this run has "x"'),
    (dict(a=1, b=None), dict(a=1), 'b null, this run has nothing'),
    (dict(w='0'*99), dict(w='1'), f'w "{"0"*59}..., this run has "1"'),
    (dict(), dict(a='nothing'), 'a nothing, this run has "nothing"'),
    (dict(a=1), dict(a=True), 'a 1, this run has true'),
    (dict(a=1), dict(a=1.), 'a 1, this run has 1.0')])
def test_begin_names_the_first_ingredient_that_differs(tmp_path, old, new, what):
    StoreRun(tmp_path/'s', 'm').begin(old, {})
    with pytest.raises(ValueError) as e: StoreRun(tmp_path/'s', 'm').begin(new, {})
    assert str(e.value)==f'{tmp_path/"s"}/ was made with {what}; choose another --out or --overwrite'

@pytest.mark.parametrize('bad', [dict(a=float('nan')), dict(a=np.float32(1)), dict(a={1, 2}), dict(a=b'x')])
def test_ingredients_that_json_cannot_hold(tmp_path, bad):
    with pytest.raises(ValueError, match='made_by: expected what JSON can hold'): StoreRun(tmp_path, 'm').begin(bad, {})
    assert list(tmp_path.iterdir())==[]

# Tables

columns_of_a_row = st.fixed_dictionaries(dict(id=text), optional=dict(path=text, label=st.none() | st.integers(-1, 9),
    label_name=st.none() | text, avh=st.none() | st.floats(width=32), row=st.integers(0, 2**40), mine=st.integers(-9, 9)))

@few
@given(st.lists(columns_of_a_row, min_size=1, max_size=8, unique_by=lambda r: r['id']))
def test_what_is_written_comes_back(tmp_path_factory, rows):
    run = begun(tmp_path_factory.mktemp('odd')/'s')
    half = len(rows)//2
    for n,part in enumerate((rows[:half], rows[half:])):
        names = dict.fromkeys(['id', *(n for r in part for n in r)])
        run.write(n, pa.table({c: [r.get(c) for r in part] for c in names}))
    back = everything(run.table())
    assert [r['id'] for r in back]==[r['id'] for r in rows]
    def same(a, b): return a==b or a is None and b==-1 or a!=a and b!=b
    for given_,got in zip(rows, back):
        assert all(same(v, got[n]) for n,v in given_.items()), (given_, got)
    compact_run(run)
    again = everything(run.table())
    assert [{k: repr(v) for k,v in r.items()} for r in again]==[{k: repr(v) for k,v in r.items()} for r in back]

@pytest.mark.parametrize('columns,what', [
    (dict(id=['a', 'a']), "expected ids that are there once, got 'a' 2 times"),
    (dict(id=['a', None]), 'row 1 has no id'),
    (dict(id=[1, 2]), "column 'id': expected text, got int64"),
    (dict(avh=[1., 2]), "no column 'id', only 'avh'"),
    (dict(id=['a', 'b'], avh=['1', '2']), "column 'avh': expected float, got string"),
    (dict(id=['a', 'b'], pred=[1., 2]), "column 'pred': expected integer, got double"),
    (dict(id=['a', 'b'], pred=[1, 2**33]), "column 'pred'"),
    (dict(id=['a', 'b'], pred_name=[1, 2]), "column 'pred_name': expected text, got int64"),
    (dict(id=['a', 'b'], avh=[True, False]), "column 'avh': expected float, got bool"),
    (dict(id=['a', 'b'], mine=[dict(a=1), dict(a=2)]), "column 'mine': expected numbers or text"),
    (dict(id=['a', 'b'], model=['x', 'y']), "column 'model': expected another name")])
def test_tables_that_are_refused(tmp_path, columns, what):
    run = begun(tmp_path/'s')
    with pytest.raises(ValueError, match=re.escape(f'table: {what}')): run.write(0, pa.table(columns))
    assert part_files(run.folder)==[] and [p.name for p in run.folder.iterdir()]==['_avh.json']

@pytest.mark.parametrize('column', [pa.array([1, 2], pa.int8()), pa.array([1, 2], pa.uint64()), pa.array([.5, 2], pa.float16()),
    pa.array([.5, 2], pa.float64()), pa.array(['a', 'b'], pa.large_string()), pa.array(['a', 'b'], pa.string_view()),
    pa.array([True, None]), pa.array(['a', 'b']).dictionary_encode(), pa.array([b'ab', b'cd'], pa.binary(2)), pa.array([None, None])],
    ids=lambda c: str(c.type)[:20])
def test_columns_of_ones_own(tmp_path, column):
    run = begun(tmp_path/'s')
    run.write(0, pa.table(dict(mine=column, id=['a', 'b'])))
    table = run.table()
    assert table.column_names==[*COLUMNS, 'mine'] and table['mine'].to_pylist()==column.to_pylist()
    assert Store(tmp_path/'s').sql('select count(mine) as n from scores').n[0]==2-column.null_count

def test_text_is_taken_however_it_is_encoded_and_integers_as_floats():
    for t in (pa.string(), pa.large_string(), pa.string_view(), TEXT, pa.dictionary(pa.int8(), pa.large_string())):
        table = conform(pa.table(dict(id=pa.array(['a', 'b']).cast(t), pred_name=pa.array(['x', None]).cast(t), norm=[1, 2])))
        assert table.schema.types==[pa.string(), TEXT, pa.float32()] and table['pred_name'].to_pylist()==['x', None]

def test_order_of_columns_is_fixed():
    assert list(COLUMNS)==['id', 'path', 'label', 'label_name', 'pred', 'pred_name', 'pred2', 'confidence', 'margin', 'logit_margin',
        'loss', 'entropy', 'el2n', 'energy', 'norm', 'angle', 'avh', 'avc', 'angular_gap', 'angle_pred', 'avh_pred', 'fold', 'repeats',
        'sample_kind', 'row'], 'new columns at the end only; else a new schema'

def test_parts_may_have_other_columns(tmp_path):
    run = begun(tmp_path/'s')
    for n,t in enumerate((dict(id=['a'], avh=[.5]), dict(id=['b'], mine=[1]), dict(id=['c'], mine=[.5]))): run.write(n, pa.table(t))
    for _ in range(2):
        t = run.table(['id', 'avh', 'mine', 'entropy'])
        assert t.to_pydict()==dict(id=['a', 'b', 'c'], avh=[.5, None, None], mine=[None, 1, .5], entropy=[None]*3)
        assert run.table(['mine'])['mine'].to_pylist()==[None, 1, .5]
        compact_run(run)
    with pytest.raises(ValueError, match="columns: expected some of id, path, .*, row, or of one's own that is there, got 'your'"):
        run.table(['your'])

# Kills, full disks, several writers

SHARD = """
import sys
import numpy as np, pyarrow as pa
from avh_nb.scale.runs import StoreRun
run = StoreRun(sys.argv[1], 'timm/tiny')
run.begin(dict(model='tiny', chunk=10), dict(device='cpu'))
for n in range(int(sys.argv[2]), 12, int(sys.argv[3])):
    rows = np.arange(10*n, 10*n+10)
    run.write(n, pa.table(dict(id=[f'{i}.png' for i in rows], avh=rows/7, row=rows)))
    print(n, flush=True)
"""
HALF = """
import time
from avh_nb.scale import parts
footer = parts.pq.ParquetWriter.add_key_value_metadata
def hang(self, about): # rows are written, the footer is not
    if '"first": 2' in about['avh']: print('half', flush=True); time.sleep(600)
    return footer(self, about)
parts.pq.ParquetWriter.add_key_value_metadata = hang
"""

def small(n):
    rows = np.arange(10*n, 10*n+10)
    return pa.table(dict(id=[f'{i}.png' for i in rows], avh=rows/7, row=rows))

def forked(f):
    "A copy of this process that calls `f` and writes what it says; its number, and where to read"
    read,write = os.pipe()
    pid = os.fork()
    if pid: os.close(write); return pid,os.fdopen(read)
    try: said = str(f())
    except BaseException as e: said = f'{type(e).__name__}: {e}'
    os.write(write, said.encode())
    os._exit(0)

def answers(processes):
    for pid,out in processes:
        with out: yield out.read()
        os.waitpid(pid, 0)

needs_fork = pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork here')

@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    run = begun(tmp_path_factory.mktemp('undisturbed')/'s')
    for n in range(12): run.write(n, small(n))
    return {p.name: p.read_bytes() for p in part_files(run.folder)}

def contents(run): return {p.name: p.read_bytes() for p in part_files(run.folder)}

def test_killed_in_the_middle_of_a_file(tmp_path, undisturbed):
    process = python(HALF+SHARD, tmp_path/'s', 0, 1)
    lines = [process.stdout.readline().strip() for _ in range(3)]
    process.send_signal(signal.SIGKILL); process.wait()
    assert lines==['0', '1', 'half'], process.stderr.read()
    process.stdout.close(); process.stderr.close()
    run = begun(tmp_path/'s') # the same command again
    left, = [p for p in run.folder.iterdir() if p.suffix=='.part']
    assert left.stat().st_size and run.done()=={0, 1} and run.table()['row'].to_pylist()==list(range(20))
    assert any(left.name in line for line in check_run(run))
    for n in sorted(set(range(12))-run.done()): run.write(n, small(n))
    assert contents(run)==undisturbed
    compact_run(run); assert left.exists() # it may be another's who still writes
    os.utime(left, (time.time()-7200,)*2)
    compact_run(run); assert not left.exists() and check_run(run)==[]

@needs_fork
def test_killed_before_a_file_got_its_name(tmp_path):
    run = begun(tmp_path/'s')
    run.write(0, small(0))
    def write():
        parts_page.os.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        run.write(1, small(1))
    assert list(answers([forked(write)]))==['']
    assert sum(p.suffix=='.part' for p in run.folder.iterdir())==1
    assert run.done()=={0} and run.rows()==10
    run.write(1, small(1)); assert run.done()=={0, 1}

def test_two_shards_at_once(tmp_path, undisturbed):
    shards = [python(SHARD, tmp_path/'s', i, 2) for i in (0, 1)]
    for i,p in enumerate(shards):
        out,err = p.communicate()
        assert p.returncode==0 and out.split()==[str(n) for n in range(i, 12, 2)], err
    run = begun(tmp_path/'s')
    assert contents(run)==undisturbed and run.done()==set(range(12)) and check_run(run)==[]

@needs_fork
def test_many_begin_at_once_and_one_recipe_wins(tmp_path):
    for round_ in range(5):
        root,start = tmp_path/f'{round_}',time.time()+.2
        def begin(recipe, root=root, start=start):
            while time.time()<start: pass
            StoreRun(root, 'm').begin(dict(recipe=recipe), {})
            return 'in'
        said = list(answers([forked(lambda i=i: begin(i%2)) for i in range(6)]))
        recipe = StoreRun(root, 'm').info['made_by']['recipe']
        assert [s=='in' for s in said]==[i%2==recipe for i in range(6)], said
        assert all(s=='in' or f'was made with recipe {recipe}, this run has {1-recipe}' in s for s in said)
        assert [p.name for p in StoreRun(root, 'm').folder.iterdir()]==['_avh.json']

@needs_fork
def test_many_write_the_same_chunk_at_once(tmp_path):
    run = begun(tmp_path/'s')
    said = list(answers([forked(lambda: run.write(0, small(0))) for _ in range(6)]))
    assert said==['None']*6 and run.table()['row'].to_pylist()==list(range(10)) and len(list(run.folder.iterdir()))==2

def test_begin_where_a_file_system_has_no_links(tmp_path, monkeypatch):
    def refuse(*args): raise OSError(95, 'Operation not supported')
    monkeypatch.setattr(parts_page.os, 'link', refuse)
    begun(tmp_path/'s')
    with pytest.raises(ValueError, match='was made with x nothing, this run has 1'): begun(tmp_path/'s', dict(x=1))

@needs_fork
def test_a_full_disk(tmp_path):
    import resource
    run = begun(tmp_path/'s')
    run.write(0, small(0))
    def write():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
        run.write(1, scores(10, 3000))
    said, = answers([forked(write)])
    assert re.fullmatch(r'OSError: \[Errno 27\] .*part-00001-\w{8}\.parquet: the disk is full\. The parts before it are good: make room, '
        'and run again to go on', said)
    assert sorted(p.name[:10] for p in run.folder.iterdir())==['_avh.json', 'part-00000']
    assert run.table()['row'].to_pylist()==list(range(10))

def test_other_errors_of_a_disk_are_left_as_they_are(tmp_path, monkeypatch):
    run = begun(tmp_path/'s')
    def refuse(*args): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(parts_page.os, 'fsync', refuse)
    with pytest.raises(PermissionError, match='Permission denied'): run.write(0, scores(0, 3))
    assert run.done()==set() and len(list(run.folder.iterdir()))==1

def test_aside_leaves_nothing_of_what_fails(tmp_path):
    with pytest.raises(RuntimeError):
        with aside(tmp_path/'a') as p: p.write_text('half'); raise RuntimeError
    assert list(tmp_path.iterdir())==[]

# What is no part, and what belongs to another run

def test_cut_files_are_named(tmp_path):
    run = begun(tmp_path/'s')
    for n in (0, 1): run.write(n, scores(10*n, 10))
    last = part_files(run.folder)[1]
    whole = last.read_bytes()
    for size in (0, 3, len(whole)//2, len(whole)-1):
        last.write_bytes(whole[:size])
        for ask in (run.done, run.table, run.rows, run.errors, lambda: Store(tmp_path/'s').sql('select 1')):
            with pytest.raises(ValueError, match=f'{re.escape(str(last))}: not a whole Parquet file .*; remove it and run again'): ask()
        assert any('not a whole Parquet file' in line for line in check_run(run))
    last.unlink(); assert run.done()=={0}

def test_a_bit_that_fell_over_is_noticed(tmp_path):
    run = begun(tmp_path/'s')
    run.write(0, scores(0, 500))
    path, = part_files(run.folder)
    whole,want = path.read_bytes(),everything(run.table())
    footer = len(whole)-8-int.from_bytes(whole[-8:-4], 'little')
    silent = 0
    for at in np.random.default_rng(0).integers(4, footer, 40): # in the data
        path.write_bytes(whole[:at]+bytes([whole[at]^16])+whole[at+1:])
        try: silent += everything(run.table())!=want
        except ValueError as e: assert str(path) in str(e) and 'damaged' in str(e)
    assert silent==0

def test_foreign_parts_are_refused(tmp_path):
    run,other = begun(tmp_path/'s'),begun(tmp_path/'s', dict(x=1), seed=1)
    run.write(0, scores(0, 10)); other.write(1, scores(10, 10))
    stray, = part_files(other.folder)
    (run.folder/stray.name).write_bytes(stray.read_bytes())
    for ask in (run.done, run.table, run.rows):
        with pytest.raises(ValueError, match=f'{stray.name}: made with other ingredients: its fingerprint is {stray.stem[-8:]}'): ask()
    with pytest.raises(ValueError, match='made with other ingredients'): read_part(stray, fingerprint=run.fingerprint)
    plain_file = run.folder/'part-00007-00000000.parquet'
    (run.folder/stray.name).unlink(); pq.write_table(scores(0, 3), plain_file)
    with pytest.raises(ValueError, match='its fingerprint is missing'): run.done()
    begun(tmp_path/'s', dict(x=1), seed=1) # the other run is as it was
    run.begin(run.info['made_by'], {}, overwrite=True)
    assert run.done()=={0} and not plain_file.exists()

def test_a_newer_schema_is_refused(tmp_path):
    run = begun(tmp_path/'s')
    run.write(0, scores(0, 10))
    path, = part_files(run.folder)
    path.write_bytes(path.read_bytes().replace(b'"schema": 1', b'"schema": 2'))
    with pytest.raises(ValueError, match='of schema 2, and this version reads up to 1; install a newer avh_nb'): run.done()
    with pytest.raises(ValueError, match='of schema 2'): read_part(path)
    (tmp_path/'s'/'schema=12').mkdir()
    with pytest.raises(ValueError, match='schema=12: of schema 12, and this version reads up to 1'): Store(tmp_path/'s')

def test_schema_0_is_still_read(tmp_path):
    frame = av.score(torch.randn(50, 8), torch.randn(5, 8), torch.randint(5, (50,))).to_frame()
    for name,f in (('plain', frame), ('named', frame.assign(id=[f'{i}.png' for i in range(50)], label=3))):
        f.to_parquet(tmp_path/f'{name}.parquet', index=name=='named')
        t = read_part(tmp_path/f'{name}.parquet')
        assert t.column_names[:len(COLUMNS)]==list(COLUMNS) and t.schema.field('pred').type==pa.int32()
        assert t['id'].to_pylist()==[f'{i}{".png" if name=="named" else ""}' for i in range(50)]
        for n in frame: np.testing.assert_array_equal(t[n].to_numpy(), f[n].to_numpy())
        assert t['row'].null_count==50 and t['label'].null_count==(0 if name=='named' else 50)
    with pytest.raises(ValueError, match='fingerprint is missing'): read_part(tmp_path/'plain.parquet', fingerprint='0'*64)
    with pytest.raises(FileNotFoundError): read_part(tmp_path/'none.parquet')

def test_what_is_not_named_like_a_part_is_no_part(tmp_path):
    run = begun(tmp_path/'s')
    run.write(0, scores(0, 10))
    path, = part_files(run.folder)
    names = [f'{path.name}.tmp', f'{path.name}.part', 'part-00001.parquet', 'part-00000 (1).parquet', f'.{path.name}', f'x{path.name}',
        'notes.txt']
    for n in names: (run.folder/n).write_bytes(path.read_bytes()[:50])
    assert run.done()=={0} and len(run.table())==10 and Store(tmp_path/'s').sql('select count(*) as n from scores').n[0]==10
    assert len(check_run(run))==len(names)

def test_overwrite_removes_parts_of_other_recipes_and_nothing_else(tmp_path):
    run,beside = begun(tmp_path/'s'),begun(tmp_path/'s', seed=1)
    for r in (run, beside):
        for n in (0, 1): r.write(n, scores(10*n, 10))
    others = [run.folder/'notes.txt', run.folder/'part-00000 (copy).parquet', tmp_path/'s'/'mine.txt']
    for p in others: p.write_text('mine')
    run.begin(run.info['made_by'], {}, overwrite=True) # the same recipe
    assert run.done()=={0, 1}
    with pytest.raises(ValueError, match='choose another --out or --overwrite'): begun(tmp_path/'s', dict(x=1))
    assert run.done()=={0, 1}
    new = StoreRun(tmp_path/'s', 'timm/tiny')
    new.begin(dict(x=1), {}, overwrite=True)
    new.write(1, scores(10, 10))
    StoreRun(tmp_path/'s', 'timm/tiny').begin(dict(x=1), {}, overwrite=True) # another shard, or the same command after a kill
    assert new.done()=={1} and beside.done()=={0, 1} and [p.read_text() for p in others]==['mine']*3
    with pytest.raises(ValueError, match='another process began this run with other ingredients'): run.write(2, scores(20, 10))

def test_damaged_notes_are_named(tmp_path):
    run = begun(tmp_path/'s')
    for text_ in ('{', '[]', '{"schema": 1}'):
        (run.folder/'_avh.json').write_text(text_)
        with pytest.raises(ValueError, match='_avh.json: (damaged|says nothing of a run).*; remove it and run again'): begun(tmp_path/'s')
    (run.folder/'_avh.json').unlink()
    run.begin(dict(model='tiny'), {}); assert run.done()==set()

def test_errors_stand_in_the_footer(tmp_path):
    run = begun(tmp_path/'s')
    odd = dict(id='x\n"y', path=Path('a/ü.png'), reason=ValueError('no image'))
    run.write(0, scores(0, 0), [odd]); run.write(1, scores(0, 2), [odd | dict(id='z')])
    assert [e['id'] for e in run.errors()]==['x\n"y', 'z'] and run.errors()[0]==dict(id='x\n"y', path='a/ü.png', reason='no image')
    assert run.done()=={0, 1} and run.rows()==2
    store = Store(tmp_path/'s')
    assert store.keep_errors()==2
    first = pq.read_table(tmp_path/'s'/'errors.parquet').to_pylist()[0]
    assert first==dict(model='timm/tiny', checkpoint='final', id='x\n"y', path='a/ü.png', reason='no image', seed=0)
    with pytest.raises(ValueError, match="errors: expected id, path and reason of each, got one without 'path'"):
        run.write(2, scores(0, 2), [dict(id='x')])

# Merging

@few
@given(st.sets(st.integers(0, 15), min_size=1), st.integers(1, 20000), st.data())
def test_merging_changes_nothing_that_is_read(tmp_path_factory, numbers, size, data):
    run = begun(tmp_path_factory.mktemp('merge')/'s')
    for n in numbers: run.write(n, scores(10*n, 10), [dict(id=f'e{n}', path='', reason='')]*(n%3==0))
    def seen(): return everything(run.table()),run.done(),run.errors(),run.rows()
    before = seen()
    was,now = compact_run(run, size)
    assert was==len(numbers) and seen()==before and compact_run(run, size)[1]<=now
    more = data.draw(st.sets(st.integers(0, 15)))-numbers
    for n in more: run.write(n, scores(10*n, 10)) # the run goes on
    assert run.done()==numbers | more
    compact_run(run)
    spans = [(p.first, p.last) for p in run.parts()]
    assert run.done()==numbers | more and all(b[0]>a[1]+1 for a,b in zip(spans, spans[1:])) # what can be merged is
    assert [r['row'] for r in everything(run.table())]==[10*n+i for n in sorted(numbers | more) for i in range(10)]

@pytest.mark.parametrize('steps', range(8))
def test_merging_is_killed_at_any_step(tmp_path, monkeypatch, steps):
    run = begun(tmp_path/'s')
    for n in range(6): run.write(n, scores(10*n, 10))
    before,left = everything(run.table()),[steps]
    class Killed(BaseException): pass
    def until(f):
        def g(*args, **kwargs):
            if not left[0]: raise Killed
            left[0] -= 1
            return f(*args, **kwargs)
        return g
    with monkeypatch.context() as m:
        m.setattr(parts_page.os, 'replace', until(os.replace)); m.setattr(Path, 'unlink', until(Path.unlink))
        try: compact_run(run, 4*part_files(run.folder)[0].stat().st_size)
        except Killed: pass
    assert everything(run.table())==before and run.done()==set(range(6)) and run.rows()==60
    assert Store(tmp_path/'s').sql('select count(*) as n from scores').n[0]==60
    compact_run(run)
    assert everything(run.table())==before and len(part_files(run.folder))==1

def test_parts_that_vanish_while_they_are_read(tmp_path, monkeypatch):
    run = begun(tmp_path/'s')
    for n in range(3): run.write(n, scores(10*n, 10))
    read,merged = runs_page.read_columns,[]
    def slow(part, columns=None): # another process merges after the footers were read
        if not merged: merged.append(compact_run(run))
        return read(part, columns)
    monkeypatch.setattr(runs_page, 'read_columns', slow)
    assert [r['row'] for r in everything(run.table())]==list(range(30)) and merged==[(3, 1)]

def test_parts_that_overlap_are_named(tmp_path):
    run = begun(tmp_path/'s')
    for first,last in ((0, 2), (2, 4)):
        path = run.folder/part_name(run.fingerprint, first, last)
        write_part(path, conform(scores(10*first, 30)), parts_page.Part(path, SCHEMA, run.fingerprint, first, last, 0, []))
    with pytest.raises(ValueError, match='part-00002-00004-.*: has chunks in common with part-00000-00002-'): run.table()
    assert 'has chunks in common' in check_run(run)[-1]

def slow_settled(spans):
    "The spans that no other one holds, or None where two overlap otherwise; the first of equals"
    spans = list(dict.fromkeys(spans))
    kept = sorted(s for s in spans if not any(o!=s and o[0]<=s[0] and s[1]<=o[1] for o in spans))
    return None if any(a[1]>=b[0] for a,b in zip(kept, kept[1:])) else kept

@patient
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)).map(lambda t: (t[0], t[0]+t[1])), max_size=6))
def test_which_parts_count(spans):
    made = [parts_page.Part(Path(f'{i}'), 1, '', a, b, 0, []) for i,(a,b) in enumerate(spans)]
    want = slow_settled(spans)
    if want is None:
        with pytest.raises(ValueError, match='has chunks in common'): settled(made)
    else:
        kept,inside = settled(made)
        assert [(p.first, p.last) for p in kept]==want and sorted([*kept, *inside])==sorted(made)

def test_a_merged_part_that_cannot_be_read_again_costs_nothing(tmp_path, monkeypatch):
    run = begun(tmp_path/'s')
    for n in range(3): run.write(n, scores(10*n, 10))
    before = everything(run.table())
    with monkeypatch.context() as m:
        m.setattr(upkeep_page, 'write_part', lambda path, table, part: write_part(path, table[:-1], part))
        with pytest.raises(ValueError, match='was not written as it should be; the parts that it was made of are still there'):
            compact_run(run)
    bad = next(p for p in part_files(run.folder) if 'part-00000-00002' in p.name); bad.unlink()
    assert everything(run.table())==before

# The list of images

image = st.fixed_dictionaries(dict(id=text, path=st.none() | text, bytes=st.none() | st.integers(0, 9), mtime=st.integers(-2**60, 2**60),
    label=st.none() | st.sampled_from(['', 'cat']), group=st.none()))
lists = st.lists(image, max_size=6, unique_by=lambda r: r['id'])

def manifest(rows): return as_manifest(pa.table({n: pa.array([r[n] for r in rows], t) for n,t in MANIFEST.items()}))

@patient
@given(lists, lists, st.integers(0, 6))
def test_a_digest_tells_lists_apart_and_not_chunks(a, b, cut):
    t = manifest(a)
    for same in (pa.concat_tables([t[:cut], t[cut:]]), pa.concat_tables([manifest(a[:cut]), manifest(a[cut:])]), t.slice(0)):
        assert manifest_digest(same)==manifest_digest(t)
    if len(a)>1: assert manifest_digest(t[1:])==manifest_digest(manifest(a[1:])) # of memory that begins before
    assert (manifest_digest(manifest(b))==manifest_digest(t))==(a==b)

def test_a_digest_is_the_same_tomorrow():
    t = as_manifest(pa.table(dict(id=['a', 'ü'], path=['a.png', None], bytes=[1, None], label=['', None])))
    assert manifest_digest(t)=='f4e2f61b30ed066b2fdc754771a4d44a755ef42492aeaaf9ae429336bb5b0f94'

@patient
@given(lists, st.data())
def test_where_lists_differ(rows, data):
    assume(rows)
    i,name = data.draw(st.integers(0, len(rows)-1)),data.draw(st.sampled_from(['path', 'bytes', 'label']))
    changed = [dict(r) for r in rows]
    changed[i][name] = data.draw(st.sampled_from({'path': ['x', None], 'bytes': [77, None], 'label': ['dog', None]}[name]))
    assume(changed[i]!=rows[i])
    assert other_images(manifest(rows), manifest(changed))==f"{name} of row {i} is {rows[i][name]!r} there and {changed[i][name]!r} here"
    if len(rows)>1: assert other_images(manifest(rows), manifest(rows[:-1]))==f"{len(rows)} there and {len(rows)-1} here"

def images(n, **more): return pa.table(dict(id=[f'class{i%3}/{i:06}.png' for i in range(n)], bytes=range(n), **more))

def test_a_manifest_is_kept(tmp_path):
    store = Store(tmp_path/'s')
    assert store.manifest is None and store.runs()==[] and store.check()==[f"{tmp_path/'s'}: no such folder"]
    digest = store.keep_manifest(images(30, mine=range(30)))
    assert store.keep_manifest(images(30))==digest==manifest_digest(store.manifest) and store.check()==[]
    (tmp_path/'s'/'_avh.json').unlink() # killed before it was written
    assert store.keep_manifest(images(30))==digest
    with pytest.raises(ValueError, match='manifest.parquet: a list of other images: 30 there and 29 here; choose another --out'):
        store.keep_manifest(images(29))
    with pytest.raises(ValueError, match="manifest: no column 'id'"): store.keep_manifest(pa.table(dict(path=['a'])))
    with pytest.raises(ValueError, match="manifest: expected ids that are there once, got 'a' 2 times"):
        store.keep_manifest(pa.table(dict(id=['a', 'a'])))
    with pytest.raises(ValueError, match="manifest: column 'bytes': "): store.keep_manifest(pa.table(dict(id=['a'], bytes=['many'])))
    pq.write_table(as_manifest(images(29)), tmp_path/'s'/'manifest.parquet')
    assert store.check()==[f"{tmp_path/'s'/'manifest.parquet'}: was changed after the first run"]
    (tmp_path/'s'/'manifest.parquet').write_bytes(b'half')
    with pytest.raises(ValueError, match='manifest.parquet: damaged'): store.manifest # noqa: B018

def test_a_run_that_is_begun_anew_may_bring_other_images(tmp_path):
    store = Store(tmp_path/'s')
    old,run = store.keep_manifest(images(30)),store.run('m')
    run.begin(dict(images=old), {}); run.write(0, scores(0, 10))
    with pytest.raises(ValueError, match='30 there and 31 here; choose another --out'): store.keep_manifest(images(31))
    new = store.keep_manifest(images(31), anew=store.run('m'))
    assert new==manifest_digest(store.manifest)==store.keep_manifest(images(31)) and new!=old
    run.begin(dict(images=new), {}, overwrite=True); run.write(0, scores(0, 10))
    store.run('other').begin(dict(images=new), {})
    with pytest.raises(ValueError, match='31 there and 32 here; choose another --out'): store.keep_manifest(images(32), anew=run)
    assert len(store.manifest)==31 and run.done()=={0}

@needs_fork
def test_many_bring_a_manifest_at_once(tmp_path):
    for round_ in range(4):
        store,start = Store(tmp_path/f'{round_}'),time.time()+.2
        def keep(n, store=store, start=start):
            while time.time()<start: pass
            return store.keep_manifest(images(n))
        said = list(answers([forked(lambda i=i: keep(20+i%2)) for i in range(6)]))
        n = len(store.manifest)
        assert [len(s)==64 for s in said]==[20+i%2==n for i in range(6)], said
        assert store.check()==[] and len(list(store.folder.iterdir()))==2

# The whole store

@pytest.fixture
def three(tmp_path):
    "Three seeds of one model, another checkpoint and another model; the last two have scored less"
    root = tmp_path/"it's [my] *photos*"/'model=x'/'seed=9'
    store = Store(root)
    store.keep_manifest(images(40))
    for i,(model,checkpoint,seed,n) in enumerate([('timm/a', 'final', 0, 4), ('timm/a', 'final', 1, 4), ('timm/a', 'final', 2, 4),
            ('timm/a', 'epoch 5', 0, 3), ("o'b", 'final', 0, 2)]):
        r = begun(root, model=model, checkpoint=checkpoint, seed=seed)
        for k in range(n): r.write(k, scores(10*k, 10, i))
    return store

def test_the_table_of_all_runs(three):
    f = three.frame()
    want = pd.concat([r.table().to_pandas().assign(model=r.model, checkpoint=r.checkpoint, seed=r.seed) for r in three.runs()])
    assert len(f)==170 and list(f)==['model', 'checkpoint', 'seed', *COLUMNS]
    for n in ('model', 'seed', 'checkpoint', 'id', 'avh', 'label_name'): assert f[n].tolist()==want[n].tolist()
    assert three.table(['seed', 'avh']).column_names==['seed', 'avh'] and len(three.table(['model']))==170
    with pytest.raises(ValueError, match="got 'nothing'"): three.table(['nothing'])
    three.run('timm/a').write(9, pa.table(dict(id=['z'], mine=[7])))
    assert three.table(['mine', 'id'])['mine'].null_count==170 and three.frame().mine.dropna().tolist()==[7]
    assert len(Store(three.folder/'none').table())==0 and 'Store ' in repr(three) and '5 runs' in repr(three)

def test_sql_against_pandas(three):
    f = three.frame()
    got = three.sql("select model, checkpoint, seed, label, avg(avh) as avh, count(*) as n from scores group by all order by all")
    want = f.groupby(['model', 'checkpoint', 'seed', 'label'], observed=True).agg(avh=('avh', 'mean'), n=('id', 'size')).reset_index()
    keys = ['model', 'checkpoint', 'seed', 'label']
    assert got[keys].astype(str).values.tolist()==want[keys].astype(str).values.tolist() and got.n.tolist()==want.n.tolist()
    np.testing.assert_allclose(got.avh, want.avh, rtol=1e-5)
    hardest = three.sql("select label, unnest(arg_max(id, avh, 2)) as id from scores where model='timm/a' and seed=1 group by label")
    one = f[(f.model=='timm/a') & (f.seed==1)].sort_values('avh', ascending=False).groupby('label').head(2)
    assert sorted(hardest.id)==sorted(one.id)
    assert three.sql("select count(*) as n from scores join manifest using (id)").n[0]==170
    assert three.sql("select * from scores limit 1").columns.tolist()==['model', 'checkpoint', 'seed', *COLUMNS]
    assert three.sql("select entropy, fold from scores limit 1").isna().all().all() # columns that no part has
    assert len(Store(three.folder/'none').sql('select * from scores'))==0
    three.compact(); assert three.sql("select count(*) as n from scores").n[0]==170

def test_sql_says_what_it_needs(three, monkeypatch):
    monkeypatch.setitem(sys.modules, 'duckdb', None)
    with pytest.raises(ImportError, match=r"this needs duckdb: pip install 'avh_nb\[sql\]'"): three.sql('select 1')

def test_lines_say_what_there_is(three):
    r = begun(three.folder, model='evil\n\x1b[31mname')
    r.write(0, pa.table(dict(id=['a', 'b', 'c'], avh=[.5, np.nan, .7], label=[1, -1, 0], pred=[1, 0, 1])),
        [dict(id='d', path='', reason='')])
    begun(three.folder, model='empty')
    rows = {(s['model'], s['checkpoint'], s['seed']): s for s in three.summary()}
    f = three.frame(['model', 'checkpoint', 'seed', 'avh', 'label', 'pred'])
    for (model,checkpoint,seed),s in rows.items():
        g = f[(f.model==model) & (f.checkpoint==checkpoint) & (f.seed==seed)]
        known = g[g.label>=0]
        assert s['rows']==len(g) and (s['avh'] is None)==(not len(g))
        if len(g): assert s['avh']==pytest.approx(g.avh.mean(), rel=1e-5) and s['accuracy']==pytest.approx((known.label==known.pred).mean())
    assert rows['evil\n\x1b[31mname', 'final', 0]['errors']==1 and rows['timm/a', 'final', 1]['sample_kind']=='oof'
    lines = three.ls()
    assert lines[0].split()==['model', 'checkpoint', 'seed', 'rows', 'errors', 'sample_kind', 'avh', 'accuracy'] and len(lines)==8
    assert all(l.isprintable() for l in lines) and any(r'evil\n\x1b[31mname' in l for l in lines)

def test_what_check_finds(three, tmp_path):
    root,run = three.folder,three.run('timm/a')
    def said(): return [l.replace(str(root), '.') for l in three.check()]
    missing = said()
    assert len(missing)==2 and missing[0].endswith("20 of 40 images are not scored yet, the first 'class2/000020.png'")
    for model,checkpoint,first in (('timm/a', 'epoch 5', 3), ("o'b", 'final', 2)):
        for k in range(first, 4): three.run(model, checkpoint).write(k, scores(10*k, 10))
    assert said()==[]
    (root/'stray.txt').write_text('x'); assert said()==[".: 'stray.txt' is no part of a store"]; (root/'stray.txt').unlink()
    for name in ('features', 'verdicts', 'errors.parquet'): (root/name).mkdir()
    assert said()==[]
    run.write(4, scores(30, 5)) # of images that have scores
    assert said()[0].endswith("5 ids are there more than once, the first 'class0/000030.png'")
    run.write(4, scores(40, 5))
    assert said()[0].endswith("5 ids are not in the manifest, the first 'class1/000040.png'")
    run.write(4, scores(0, 0), [dict(id='class0/000000.png', path='', reason='')])
    assert said()[0].endswith("1 ids are there more than once, the first 'class0/000000.png'")
    part_files(run.folder)[-1].unlink()
    run.write(3, scores(30, 10).set_column(5, 'row', [list(range(10))]))
    assert said()[0].endswith("10 rows are elsewhere in the manifest, the first 'class0/000030.png'")
    run.write(1, scores(10, 9)); run.write(3, scores(30, 10))
    assert 'part-00001' in said()[0] and said()[0].endswith('9 rows and 0 errors, expected 10')
    run.write(1, scores(10, 9), [dict(id='class1/000019.png', path='', reason='')]); assert said()==[]
    last = part_files(run.folder)[-1]; last.rename(last.with_name(part_name(run.fingerprint, 7)))
    assert any('its footer says chunks 3 to 3' in l for l in said())
    (run.folder/'_avh.json').unlink()
    assert said()==[f"./{run.folder.relative_to(root)}: has parts and no _avh.json that says what they were made by"]

def test_repeats(three):
    seeds, = hardness(three)
    assert (seeds.same, seeds.over)==(dict(model='timm/a', checkpoint='final'), [0, 1, 2]) and seeds.matrix.shape==(3, 40)
    f = three.frame(['model', 'checkpoint', 'seed', 'id', 'avh', 'confidence'])
    wide = f[(f.model=='timm/a') & (f.checkpoint=='final')].pivot(index='seed', columns='id', values='avh')
    np.testing.assert_array_equal(seeds.matrix, wide[seeds.ids])
    low, = hardness(three, 'confidence')
    np.testing.assert_array_equal(low.matrix, -f[(f.model=='timm/a') & (f.checkpoint=='final')].pivot(index='seed', columns='id',
        values='confidence')[low.ids])
    models, = hardness(three, over='model')
    assert models.same==dict(checkpoint='final', seed=0) and models.over==["o'b", 'timm/a']
    assert np.isnan(models.matrix).sum(1).tolist()==[20, 0]
    assert [r.over for r in hardness(three, over='checkpoint')]==[['epoch 5', 'final']]
    with pytest.raises(ValueError, match="columns: expected some of .*got 'nothing'"): hardness(three, 'nothing')
    with pytest.raises(ValueError, match="over: expected one of 'model', 'checkpoint', 'seed', got 'x'"): hardness(three, over='x')
    with pytest.raises(ValueError, match="score: expected a column of numbers, got 'id'"): hardness(three, 'id')

def test_bytes_a_row(tmp_path):
    n,rng = 20000,np.random.default_rng(0)
    logit,angle,gap = rng.normal(3, 4, n),rng.normal(1.1, .15, n).clip(.05),rng.normal(.3, .2, n)
    p,label = 1/(1+np.exp(-logit)),np.arange(n)//20
    columns = dict(id=[f'n{c:08}/n{c:08}_{i*2654435761%2**32}.JPEG' for i,c in enumerate(label)], label=label,
        pred=np.where(rng.random(n)<.8, label, rng.integers(0, 1000, n)), confidence=p, logit_margin=logit, entropy=rng.gamma(1, 1, n),
        loss=-np.log(p), norm=rng.normal(30, 5, n), angle=angle, avh=angle/1550, avh_pred=(angle+np.minimum(gap, 0))/1550, angular_gap=gap,
        energy=rng.normal(20, 4, n))
    run = begun(tmp_path/'s')
    for k in range(0, n, 4096): run.write(k//4096, pa.table(columns).slice(k, 4096))
    def size(): return sum(p.stat().st_size for p in part_files(run.folder))/n
    before = size(); compact_run(run)
    print(f'{before:.1f} bytes a row of 13 columns in parts of 4,096, {size():.1f} merged')
    assert size()<before<=45
    plain_table = pa.table({c: np.float32(v) if np.asarray(v).dtype.kind=='f' else v for c,v in columns.items()})
    pq.write_table(plain_table, tmp_path/'plain.parquet')
    assert (tmp_path/'plain.parquet').stat().st_size/n>1.2*size() # what pyarrow makes of it unasked

def test_a_footer_that_makes_no_sense(tmp_path):
    run = begun(tmp_path/'s')
    run.write(0, scores(0, 3))
    path, = part_files(run.folder)
    whole = path.read_bytes()
    for old,new in ((b'"first": 0', b'"fist": 00'), (b'"schema": 1', b'"schema":""'), (b'"schema": 1', b'"schema"; 1')):
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(ValueError, match='its footer is damaged'): run.done()
    path.write_bytes(whole.replace(b'"rows": 3', b'"rows": 4'))
    with pytest.raises(ValueError, match='3 rows, its footer says 4'): run.done()
