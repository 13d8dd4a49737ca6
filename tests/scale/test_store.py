"The store keeps what was computed: through kills, full disks, several writers, merging; and never mixes what does not belong together."
import json, os, re, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, pytest, torch
from hypothesis import HealthCheck, assume, given, settings, strategies as st
import avh_nb as av
from avh_nb.scale import parts as parts_page, runs as runs_page, upkeep as upkeep_page
from avh_nb.scale.manifest import MANIFEST, as_manifest, manifest_digest, other_images
from avh_nb.scale.parts import COLUMNS, SCHEMA, TEXT, aside, conform, read_footer, read_part, part_name, write_part
from avh_nb.scale.runs import fingerprint_of, first_difference, folder_name, folder_text, part_files, plain, settled
from avh_nb.scale.store import Store, StoreRun, hardness
from avh_nb.scale.upkeep import check_run, compact_run

text = st.text(st.characters(exclude_categories=['Cs']))
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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

def python(code, *args, **kwargs):
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)

# Names

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

@settings(max_examples=50)
@given(ingredients, ingredients)
def test_a_difference_is_found_where_fingerprints_differ(a, b):
    for one,two in ((a, b), (a, json.loads(json.dumps(a)))):
        found = first_difference(plain(one), plain(two))
        assert (found is None)==(fingerprint_of(one)==fingerprint_of(two))

@given(ingredients)
def test_order_of_keys_is_no_ingredient(a):
    assert fingerprint_of(a)==fingerprint_of(dict(reversed(a.items())))

@pytest.mark.parametrize('old,new,what', [
    (dict(a=dict(b=[1, 2])), dict(a=dict(b=[1, 3])), 'a.b.1 2, this run has 3'),
    (dict(a=1), dict(a=1, b='x'), 'b "(nothing)", this run has "x"'),
    (dict(a=1, b=None), dict(a=1), 'b null, this run has "(nothing)"'),
    (dict(w='0'*99), dict(w='1'), f'w "{"0"*59}..., this run has "1"'),
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

columns_of_a_row = st.fixed_dictionaries(dict(id=text), optional=dict(path=text, label=st.none() | st.integers(-1, 9), label_name=st.none() | text,
    avh=st.none() | st.floats(width=32), row=st.integers(0, 2**40), mine=st.integers(-9, 9)))

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
    pa.array([.5, 2], pa.float64()), pa.array(['a', 'b'], pa.large_string()), pa.array(['a', 'b'], pa.string_view()), pa.array([True, None]),
    pa.array(['a', 'b']).dictionary_encode(), pa.array([b'ab', b'cd'], pa.binary(2)), pa.array([None, None])], ids=lambda c: str(c.type)[:20])
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
    assert list(COLUMNS)==['id', 'path', 'label', 'label_name', 'pred', 'pred_name', 'pred2', 'confidence', 'margin', 'logit_margin', 'loss',
        'entropy', 'el2n', 'energy', 'norm', 'angle', 'avh', 'avc', 'angular_gap', 'angle_pred', 'avh_pred', 'fold', 'repeats', 'sample_kind',
        'row'], 'new columns at the end only; else a new schema'

def test_parts_may_have_other_columns(tmp_path):
    run = begun(tmp_path/'s')
    run.write(0, pa.table(dict(id=['a'], avh=[.5]))); run.write(1, pa.table(dict(id=['b'], mine=[1]))); run.write(2, pa.table(dict(id=['c'], mine=[.5])))
    for _ in range(2):
        t = run.table(['id', 'avh', 'mine', 'entropy'])
        assert t.to_pydict()==dict(id=['a', 'b', 'c'], avh=[.5, None, None], mine=[None, 1, .5], entropy=[None]*3)
        assert run.table(['mine'])['mine'].to_pylist()==[None, 1, .5]
        compact_run(run)
    with pytest.raises(ValueError, match="columns: expected some of id, path, .*, row, or of one's own that is there, got 'your'"): run.table(['your'])

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
    assert any(str(left) in line for line in check_run(run))
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
    with pytest.raises(ValueError, match='was made with x "\\(nothing\\)", this run has 1'): begun(tmp_path/'s', dict(x=1))

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
    assert sorted(p.name[:10] for p in run.folder.iterdir())==['_avh.json', 'part-00000'] and run.table()['row'].to_pylist()==list(range(10))

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
        with pytest.raises(ValueError, match=f'{stray.name}: made with other ingredients: its fingerprint is {other.fingerprint[:8]}'): ask()
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
    names = [f'{path.name}.tmp', f'{path.name}.part', 'part-00001.parquet', 'part-00000 (1).parquet', f'.{path.name}', f'x{path.name}', 'notes.txt']
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
    assert store.keep_errors()==2 and pq.read_table(tmp_path/'s'/'errors.parquet').to_pylist()[0]==dict(model='timm/tiny', checkpoint='final',
        id='x\n"y', path='a/ü.png', reason='no image', seed=0)
    with pytest.raises(KeyError): run.write(2, scores(0, 2), [dict(id='x')])

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
        with pytest.raises(ValueError, match='was not written as it should be; the parts that it was made of are still there'): compact_run(run)
    bad = next(p for p in part_files(run.folder) if 'part-00000-00002' in p.name); bad.unlink()
    assert everything(run.table())==before
