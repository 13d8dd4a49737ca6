"Vectors on disk are read as they were written, or refused; each is scored once, whoever does it and whatever is killed."
import json, signal
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from avh_nb.measure.head import Head
from avh_nb.scale.blocks import ahead, read_head, side_by_side
from avh_nb.scale.embeddings import (DTYPES, convert, embedding_column, embedding_field, embedding_table, embedding_writer, find_embeddings,
    layout_of, parquet_files, read_embeddings, rows_at_once, write_embeddings)
from avh_nb.scale.runs import StoreRun
from avh_nb.scale.shards import NARROW, PartScorer, made_vectors, score_files, start_shards, throughput
from avh_nb.scale.store import Store
from processes import wait_for

LISTS = [pa.list_, pa.large_list, lambda t: pa.list_(t, 3)]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]

def vectors(n=5, d=3, seed=0): return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
def column(values, kind, name='x'): return pa.table([pa.array(values, kind)], pa.schema([pa.field(name, kind)]))

# Layouts

@pytest.mark.parametrize('dtype', DTYPES)
def test_what_is_written_is_read(tmp_path, dtype):
    x = vectors(100, 7).to(getattr(torch, dtype))
    write_embeddings(tmp_path/'x.parquet', embedding_table(x, dtype, id=[str(i) for i in range(100)]))
    for source in (tmp_path/'x.parquet', str(tmp_path/'x.parquet'), pq.read_table(tmp_path/'x.parquet')):
        got = read_embeddings(source)
        assert torch.equal(torch.from_numpy(got.copy()), x.float() if dtype=='bfloat16' else x)
    assert read_embeddings(embedding_table(x[:0], dtype)).shape==(0, 7)

@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 20), d=st.integers(1, 5), cut=st.integers(0, 20), dtype=st.sampled_from(sorted(DTYPES)))
def test_bytes_are_those_of_the_rows(n, d, cut, dtype):
    "Against a loop over values, with slices that do not begin at 0, in one chunk and in several"
    x = vectors(n, d).to(getattr(torch, dtype))
    t = embedding_table(x, dtype)
    loop = np.array([np.frombuffer(v, DTYPES[dtype]) for v in t['embedding'].to_pylist()], DTYPES[dtype]).reshape(n, d)
    if dtype=='bfloat16': loop = torch.from_numpy(loop.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert np.array_equal(read_embeddings(t), loop)
    assert np.array_equal(read_embeddings(t.slice(cut)), loop[cut:])
    pieces = pa.concat_tables([t.slice(cut), t.slice(0, cut), t])
    assert np.array_equal(read_embeddings(pieces), np.concatenate([loop[cut:], loop[:cut], loop]))

@pytest.mark.parametrize('number', FLOATS, ids=str)
@pytest.mark.parametrize('kind', LISTS, ids=['list', 'large', 'fixed'])
def test_lists_are_read(tmp_path, kind, number):
    x = vectors(9).double().numpy().astype(number.to_pandas_dtype())
    t = column(list(x), kind(number))
    pq.write_table(t, tmp_path/'x.parquet', row_group_size=4)
    for source in (t, tmp_path/'x.parquet'):
        got = read_embeddings(source)
        assert got.dtype==x.dtype and np.array_equal(got, x)
    assert np.array_equal(read_embeddings(t.slice(4, 3)), x[4:7])
    assert len(read_embeddings(t.slice(0, 0)))==0

def test_no_copy():
    x = vectors(50, 8)
    t = embedding_table(x, 'float32')
    assert np.shares_memory(read_embeddings(t), x.numpy())
    lists = pa.FixedSizeListArray.from_arrays(x.flatten().numpy(), 8)
    assert np.shares_memory(read_embeddings(pa.table(dict(x=lists))), lists.flatten().to_numpy())

def test_nan_and_infinity_are_numbers():
    x = torch.tensor([[float('nan'), 1], [float('inf'), 2], [3, 4]])
    for dtype in DTYPES: assert np.array_equal(read_embeddings(embedding_table(x, dtype)).astype(np.float32), x.numpy(), equal_nan=True)
    with pytest.raises(ValueError, match='x: row 0 and 1 others do not fit float16'): embedding_column(torch.tensor([[7e4], [-7e4], [1]]))
    assert embedding_column(torch.tensor([[7e4]]), 'bfloat16')

@pytest.mark.parametrize('table,message', [
    (column([[1, 2], [3]], pa.list_(pa.float32())), "row 1: column 'x': expected 2 numbers, as in the first row, got 1"),
    (column([[1, 2], [3, 4, 5]], pa.large_list(pa.float64())), 'row 1: .*got 3'),
    (pa.concat_tables([column([[1, 2]], pa.list_(pa.float32())), column([[1, 2, 3]], pa.list_(pa.float32()))]), 'row 1: .*got 3'),
    (column([[1, 2], None], pa.list_(pa.float32())), 'row 1: .*no embedding'),
    (column([[1, 2, 3], None], pa.list_(pa.float32(), 3)), 'row 1: .*no embedding'),
    (column([[1, 2], [None, 4]], pa.list_(pa.float32())), 'row 1: .*a number is missing'),
    (column([[1, 2]], pa.list_(pa.int8())), r"one column of vectors.*the columns are 'x' \(list<.*int8>\)"),
    (column([b'12'], pa.binary(2)), r"the columns are 'x' \(fixed_size_binary\[2\]\)"),
    (column(['a'], pa.string(), 'evil\nname'), r"the columns are 'evil\\nname' \(string\)"),
    (pa.table({}), 'the columns are none'),
    (pa.table([[[1., 2]], [[3., 4]]], names=['a', 'b']), "column= to name one of several"),
    (pa.table([[[1., 2]], [[3., 4]]], names=['a', 'a']), 'one column of vectors'),
])
def test_what_is_no_matrix_is_refused(table, message):
    with pytest.raises(ValueError, match=message): read_embeddings(table)

def test_a_null_among_bytes_is_refused():
    field = embedding_field(2)
    t = pa.table([pa.array([b'1234', None], field.type)], pa.schema([field.with_nullable(True)]))
    with pytest.raises(ValueError, match='row 1: .*no embedding'): read_embeddings(t)

@pytest.mark.parametrize('meta', [dict(dtype='float16'), dict(dtype='float16', dim='3'), dict(dtype='int8', dim='4'),
    dict(dtype='float32', dim='-1'), dict(dtype='float16', dim='²'), dict(dtype='float16', dim='2.0'), dict(dtype='float32', dim='0'),
    {b'dtype': b'\xff', b'dim': b'2'}])
def test_metadata_are_not_believed(meta):
    assert layout_of(pa.field('x', pa.binary(4), metadata=meta)) is None
    assert layout_of(pa.field('x', pa.binary(4), metadata=dict(dtype='float16', dim='2')))==('float16', 2)

@pytest.mark.parametrize('x', [torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64), [[1., 2]], None, torch.zeros(2, 2, 2)],
    ids=['one', 'integers', 'list', 'None', 'three'])
def test_what_is_no_vector_is_refused(x):
    with pytest.raises(ValueError, match='x: expected floating-point vectors of shape'): embedding_column(x)
    with pytest.raises(ValueError, match='dim: expected at least 1'): embedding_column(torch.zeros(2, 0))

def test_a_file_that_is_none(tmp_path):
    (tmp_path/'x.parquet').write_text('no')
    with pytest.raises(ValueError, match="x.parquet': not a whole Parquet file"): read_embeddings(tmp_path/'x.parquet')
    with pytest.raises(FileNotFoundError): read_embeddings(tmp_path/'y.parquet')

def test_row_groups_are_small(tmp_path):
    assert all(rows_at_once(w)*w<=2**25 or rows_at_once(w)==1 for w in (1, 6, 1000, 1024, 2**24, 2**30)) and rows_at_once(1)==2**16
    write_embeddings(tmp_path/'x.parquet', embedding_table(torch.zeros(70000, 1)))
    m = pq.read_metadata(tmp_path/'x.parquet')
    assert [m.row_group(i).num_rows for i in range(m.num_row_groups)]==[65536, 4464]
    assert m.row_group(0).column(0).compression=='UNCOMPRESSED' and 'RLE_DICTIONARY' not in m.row_group(0).column(0).encodings

# Rewriting

def lists_file(file, x, group=50, **others):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(v=list(x), **others)), file, row_group_size=group)
    return file

def test_convert_keeps_the_rest(tmp_path):
    x = vectors(120).numpy()
    others = dict(path=[f'{i}.jpg' for i in range(120)], tags=[['a', None]]*120, box=[dict(x=i, y=.5) for i in range(120)],
        kind=pa.array(['cat', 'dog', None]*40).dictionary_encode(), at=pa.array(range(120), pa.timestamp('us')))
    old = lists_file(tmp_path/'in'/'sub'/'a.parquet', x, **others)
    new, = convert(tmp_path/'in', tmp_path/'out', progress=False)
    assert new==tmp_path/'out'/'sub'/'a.parquet' and np.array_equal(read_embeddings(new), x)
    a,b = pq.read_table(old),pq.read_table(new)
    assert a.column_names==b.column_names
    for name in others: assert a[name].equals(b[name])
    assert pq.read_metadata(new).num_row_groups==1

def test_convert_from_pandas_and_back(tmp_path):
    import pandas as pd
    frame = pd.DataFrame(dict(v=list(vectors().numpy()), name=list('abcde')))
    frame.to_parquet(tmp_path/'a.parquet')
    new, = convert(tmp_path/'a.parquet', tmp_path/'out', progress=False)
    assert pd.read_parquet(new)['name'].tolist()==list('abcde')

@pytest.mark.parametrize('dtype', DTYPES)
def test_convert_to_another_dtype(tmp_path, dtype):
    x = vectors(40)
    new, = convert(lists_file(tmp_path/'a.parquet', x.numpy()), tmp_path/'out', dtype=dtype, progress=False)
    to = x.to(getattr(torch, dtype))
    assert np.array_equal(read_embeddings(new), (to.float() if dtype=='bfloat16' else to).numpy())
    again, = convert(new, tmp_path/'again', progress=False) # from bytes to bytes
    assert np.array_equal(read_embeddings(again), read_embeddings(new))
    assert find_embeddings(pq.read_schema(again)).metadata[b'dtype']==dtype.encode()

def test_convert_goes_on_after_a_failure(tmp_path):
    for k in range(3): lists_file(tmp_path/'in'/f'{k}.parquet', vectors(20, seed=k).numpy())
    good = (tmp_path/'in'/'1.parquet').read_bytes()
    pq.write_table(pa.table(dict(v=[[1., 2, 3]]*30+[[1., 2]])), tmp_path/'in'/'1.parquet', row_group_size=10)
    with pytest.raises(ValueError, match="'1.parquet': row 30: column 'v': expected 3 numbers"):
        convert(tmp_path/'in', tmp_path/'out', progress=False)
    assert [p.name for p in (tmp_path/'out').iterdir()]==['0.parquet']
    (tmp_path/'in'/'1.parquet').write_bytes(good)
    times = (tmp_path/'out'/'0.parquet').stat().st_mtime_ns
    convert(tmp_path/'in', tmp_path/'out', progress=False)
    assert times==(tmp_path/'out'/'0.parquet').stat().st_mtime_ns
    for k in range(3): assert np.array_equal(read_embeddings(tmp_path/'out'/f'{k}.parquet'), vectors(20, seed=k).numpy())
    convert(tmp_path/'in', tmp_path/'out', dtype='float16', progress=False) # made of the same, but otherwise: made again
    assert read_embeddings(tmp_path/'out'/'0.parquet').dtype==np.float16
    lists_file(tmp_path/'in'/'0.parquet', vectors(21).numpy())
    convert(tmp_path/'in', tmp_path/'out', dtype='float16', progress=False)
    assert len(read_embeddings(tmp_path/'out'/'0.parquet'))==21

def test_convert_writes_over_nothing_of_others(tmp_path):
    x = lists_file(tmp_path/'in'/'a.parquet', vectors().numpy())
    before = x.read_bytes()
    with pytest.raises(ValueError, match='out: .*was not made by convert'): convert(tmp_path/'in', tmp_path/'in', progress=False)
    (tmp_path/'out').mkdir(); (tmp_path/'out'/'a.parquet').write_text('precious')
    with pytest.raises(ValueError, match='not a whole Parquet file'): convert(tmp_path/'in', tmp_path/'out', progress=False)
    assert x.read_bytes()==before and (tmp_path/'out'/'a.parquet').read_text()=='precious'

def test_convert_names_what_does_not_fit(tmp_path):
    lists_file(tmp_path/'a.parquet', vectors().numpy()*1e6)
    with pytest.raises(ValueError, match="'a.parquet': of the rows from 0 on: x: row 0 and .* do not fit float16"):
        convert(tmp_path/'a.parquet', tmp_path/'out', dtype='float16', progress=False)
    with pytest.raises(ValueError, match="dtype: expected one of"):
        convert(tmp_path/'a.parquet', tmp_path/'out', dtype='int8', progress=False)

def test_an_empty_file_is_converted_and_scored(tmp_path):
    pq.write_table(pa.table(dict(v=pa.array([], pa.list_(pa.float32())), id=pa.array([], pa.string()))), tmp_path/'a.parquet')
    new, = convert(tmp_path/'a.parquet', tmp_path/'out', progress=False)
    assert len(read_embeddings(new))==0 and pq.read_schema(new).names==['v', 'id']
    for files in (tmp_path/'a.parquet', new):
        scores = tmp_path/f'scores of {files.parent.name}'
        assert score_files(files, Head(vectors(4)), scores, progress=False)==0
        assert StoreRun(scores, 'embeddings').done()=={0}

def test_row_groups_without_rows_are_passed_over(tmp_path):
    t = embedding_table(vectors(20, 8, 1))
    with embedding_writer(tmp_path/'a.parquet', t.schema) as w:
        for part in (t[:0], t[:9], t[:0], t[9:], t[:0]): w.write_table(part)
    assert score_files(tmp_path/'a.parquet', head(), tmp_path/'s', progress=False)==20
    assert scored(tmp_path/'s')['id'].to_pylist()==[f'a.parquet:{i}' for i in range(20)]

def test_convert_holds_a_piece_at_a_time(tmp_path, monkeypatch):
    sizes,write = [],pq.ParquetWriter.write_table
    monkeypatch.setattr('avh_nb.scale.embeddings.rows_at_once', lambda width: 7)
    monkeypatch.setattr(pq.ParquetWriter, 'write_table', lambda self, t, *a, **k: (sizes.append(len(t)), write(self, t, *a, **k))[1])
    x = vectors(100).numpy()
    new, = convert(lists_file(tmp_path/'a.parquet', x, group=100), tmp_path/'out', progress=False)
    assert max(sizes[1:])==7 and np.array_equal(read_embeddings(new), x)

def test_files_are_sorted_and_named(tmp_path):
    for n in ('b/2', 'a', 'b/1', '.hidden/x', '_temporary/x', 'b/_x'): lists_file(tmp_path/f'{n}.parquet', vectors().numpy())
    (tmp_path/'a.parquet.part').write_text('')
    assert [n for n,_ in parquet_files(tmp_path)]==['a.parquet', 'b/1.parquet', 'b/2.parquet']
    assert [n for n,_ in parquet_files([tmp_path/'b'/'2.parquet', tmp_path/'a.parquet'])]==['2.parquet', 'a.parquet'] # by name
    with pytest.raises(ValueError, match="two are named 'a.parquet'"): parquet_files([tmp_path/'a.parquet']*2)
    (tmp_path/'empty').mkdir()
    for files in ([], tmp_path/'empty'):
        with pytest.raises(ValueError, match='got none'): parquet_files(files)

# Heads

def test_bad_heads_are_refused(tmp_path):
    def saved(**tensors): save_file(tensors, tmp_path/'h'); return tmp_path/'h'
    w,b = vectors(4),torch.zeros(4)
    for tensors,message in ((dict(weight=w.long()), 'weight: expected floating point'),
            (dict(weight=w, bias=b.long()), 'bias: expected floating'),
            (dict(a=w, b=w+1), r"expected class vectors.*'a' \(4, 3\), 'b' \(4, 3\)"), (dict(bias=b), 'or one such tensor'),
            (dict(weight=b), 'or one such tensor'), ({}, 'its tensors are none')):
        with pytest.raises(ValueError, match=message): read_head(saved(**tensors))
    with pytest.raises(ValueError, match="named 'fc'"): read_head(saved(weight=w), 'fc')
    with pytest.raises(FileNotFoundError): read_head(tmp_path/'none')
    assert read_head(saved(weight=w, other=torch.zeros(4), more=torch.zeros(4))).bias is None # which of two?
    assert read_head(saved(weight=w, bias=b), scale=8.).bias is None and read_head(saved(weight=w, bias=b), scale=8.).scale==8

# Scoring

def head(c=10, d=8): return Head(vectors(c, d, 5), vectors(c, 1, 6)[:, 0])

def made(folder, n=300, d=8, files=3, labels=True, **kwargs):
    x,y = vectors(n, d, 1).half(),torch.randint(10, (n,), generator=torch.Generator().manual_seed(2))
    for k,rows in enumerate(torch.arange(n).chunk(files)):
        others = dict(id=[f'i{r}' for r in rows.tolist()])|(dict(label=y[rows]) if labels else {})
        write_embeddings(folder/f'{k}.parquet', embedding_table(x[rows], **others))
    return x,y

def parts(folder): return {p.name: p.read_bytes() for p in folder.rglob('part-*.parquet')}
def scored(folder, columns=('id', 'label', *NARROW)): return StoreRun(folder, 'embeddings').table(list(columns))

@pytest.mark.parametrize('labels', [True, False])
@pytest.mark.parametrize('engine', ['torch', None])
def test_scores_are_those_in_memory(tmp_path, labels, engine):
    x,y = made(tmp_path/'v', labels=labels)
    h = head()
    assert score_files(tmp_path/'v', h, tmp_path/'s', engine=engine, progress=False)==300
    t,s = scored(tmp_path/'s'),h.score(x, y if labels else None)
    assert t['id'].to_pylist()==[f'i{i}' for i in range(300)]
    assert t['label'].to_pylist()==(y.tolist() if labels else [-1]*300)
    for name in NARROW: np.testing.assert_allclose(t[name].to_numpy(), getattr(s, name).numpy(), rtol=2e-6, atol=2e-6)
    assert t.column_names[2:]==list(NARROW) and len(t.column_names)==13

def test_the_store_is_in_order_and_merged_parts_are_done(tmp_path):
    made(tmp_path/'v', files=5)
    assert score_files(tmp_path/'v', head(), tmp_path/'s', shard=(0, 2), progress=False)==180
    assert score_files(tmp_path/'v', head(), tmp_path/'s', progress=False)==120
    before = scored(tmp_path/'s')
    Store(tmp_path/'s').compact()
    assert Store(tmp_path/'s').check()==[] and len(parts(tmp_path/'s'))==1
    assert score_files(tmp_path/'v', head(), tmp_path/'s', progress=False)==0 and scored(tmp_path/'s').equals(before)

def test_a_small_piece_makes_no_difference(tmp_path, monkeypatch):
    "Pieces of 7 rows, over the borders of row groups, by one thread and by three: all as in one piece"
    x,y = vectors(100, 8, 1).numpy(),torch.arange(100).numpy()%10
    lists_file(tmp_path/'v'/'a.parquet', x, group=9, label=y)
    before = torch.get_num_threads()
    whole = Head.of(torch.nn.Linear(8, 10).requires_grad_(False))
    assert score_files(tmp_path/'v', whole, tmp_path/'one', engine='torch', progress=False)==100
    monkeypatch.setattr('avh_nb.scale.blocks.rows_at_once', lambda width: 7)
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            score_files(tmp_path/'v', whole, tmp_path/f'{n} threads', engine='torch', progress=False)
    finally: torch.set_num_threads(before)
    a,b,c = (scored(tmp_path/n) for n in ('one', '1 threads', '3 threads'))
    assert b.equals(c) and a['id'].to_pylist()==b['id'].to_pylist()==[f'a.parquet:{i}' for i in range(100)]
    for name in NARROW: np.testing.assert_allclose(a[name].to_numpy(), b[name].to_numpy(), rtol=1e-6, atol=1e-6)

def test_labels_that_are_not_known(tmp_path):
    x,y = vectors(40, 8, 1),torch.arange(40)%10
    some = pa.array([None if i%4==0 else -1 if i%4==1 else v for i,v in enumerate(y.tolist())], pa.int16())
    pq.write_table(embedding_table(x, 'float32', label=some), tmp_path/'a.parquet')
    h = head()
    score_files(tmp_path/'a.parquet', h, tmp_path/'s', progress=False)
    t,with_label,free = scored(tmp_path/'s'),h.score(x, y),h.score(x)
    known = torch.arange(40)%4>1
    assert t['label'].to_numpy().tolist()==torch.where(known, y, -1).tolist()
    for name in NARROW:
        want = torch.where(known, getattr(with_label, name), getattr(free, name))
        np.testing.assert_allclose(t[name].to_numpy(), want.numpy(), rtol=2e-6, atol=2e-6)

@pytest.mark.parametrize('label,message', [
    (pa.array([0, 1, 10]), "'a.parquet': row group 0: row 2: label: expected from 0 to 9, or -1 or null for unknown, got 10"),
    (pa.array([0, -2, 1]), 'row 1: label: .*got -2'), (pa.array([0., 1, 2]), 'labels: expected integers .* got double'),
    (pa.array(['cat', 'dog', 'cat']), 'got string; rewrite them, or give label=None'), (pa.array([True, False, True]), 'got bool'),
    (pa.array([2**64-1, 0, 1], pa.uint64()), 'row 0: label: .*got 18446744073709551615')])
def test_bad_labels_are_refused(tmp_path, label, message):
    pq.write_table(embedding_table(vectors(3, 8), label=label), tmp_path/'a.parquet')
    with pytest.raises(ValueError, match=message): score_files(tmp_path/'a.parquet', head(), tmp_path/'s', progress=False)
    assert score_files(tmp_path/'a.parquet', head(), tmp_path/'free', label=None, progress=False)==3

def test_bad_ids_are_refused(tmp_path):
    for ids,message in ((['a', None, 'c'], 'row group 0: row 1: no id'), (['a', 'b', 'a'], "expected ids that are there once, got 'a'")):
        pq.write_table(embedding_table(vectors(3, 8), id=ids), tmp_path/'a.parquet')
        with pytest.raises(ValueError, match=message): score_files(tmp_path/'a.parquet', head(), tmp_path/'s', progress=False)
    pq.write_table(embedding_table(vectors(3, 8), id=[7, 8, 9], key=['x', 'y', 'z']), tmp_path/'a.parquet')
    score_files(tmp_path/'a.parquet', head(), tmp_path/'t', progress=False)
    assert scored(tmp_path/'t')['id'].to_pylist()==['7', '8', '9']
    score_files(tmp_path/'a.parquet', head(), tmp_path/'u', id='key', progress=False)
    assert scored(tmp_path/'u')['id'].to_pylist()==['x', 'y', 'z']
    with pytest.raises(ValueError, match="no column 'nr', only 'id', 'key', 'embedding'"):
        score_files(tmp_path/'a.parquet', head(), tmp_path/'v', id='nr', progress=False)

def test_rows_without_a_direction_are_nan_and_said_once(tmp_path):
    x = vectors(60, 8, 1); x[3] = 0; x[40, 2] = float('nan'); x[41, 0] = float('inf')
    for k in range(2): write_embeddings(tmp_path/'v'/f'{k}.parquet', embedding_table(x[30*k:30*k+30]))
    with pytest.warns(UserWarning, match="3 of 60 rows are zero or not finite, the first in '0.parquet'; their scores are NaN") as said:
        score_files(tmp_path/'v', head(), tmp_path/'s', progress=False)
    assert len(said)==1
    t = scored(tmp_path/'s')
    assert np.flatnonzero(np.isnan(t['avh'].to_numpy())).tolist()==[3, 40, 41] and t['pred'].to_numpy()[[3, 40, 41]].tolist()==[-1]*3

def test_another_head_or_other_columns_are_refused(tmp_path):
    made(tmp_path/'v')
    h = head()
    score_files(tmp_path/'v', h, tmp_path/'s', progress=False)
    for other in (Head(h.w+1e-6, h.bias), Head(h.w, None), Head(h.w, None, 8.)):
        with pytest.raises(ValueError, match=r'was made with head\.'): score_files(tmp_path/'v', other, tmp_path/'s', progress=False)
    with pytest.raises(ValueError, match='was made with columns'):
        score_files(tmp_path/'v', h, tmp_path/'s', columns=['avh'], progress=False)
    with pytest.raises(ValueError, match='was made with label "label"'):
        score_files(tmp_path/'v', h, tmp_path/'s', label=None, progress=False)
    assert score_files(tmp_path/'v', h, tmp_path/'s', model='another', columns=['avh', 'loss'], progress=False)==300
    assert score_files(tmp_path/'v', Head(h.w, None), tmp_path/'s', overwrite=True, progress=False)==300
    with pytest.raises(ValueError, match="columns: expected some of pred, .*got 'id'"):
        score_files(tmp_path/'v', h, tmp_path/'x', columns=['id'], progress=False)
    with pytest.raises(ValueError, match='engine: expected one of'):
        score_files(tmp_path/'v', h, tmp_path/'x', engine='abacus', progress=False)
    with pytest.raises(ValueError, match='holds vectors of 8 numbers, the class vectors have 9'):
        score_files(tmp_path/'v', Head(vectors(5, 9)), tmp_path/'x', progress=False)

def test_files_may_be_added_at_the_end_only(tmp_path):
    made(tmp_path/'v')
    score_files(tmp_path/'v', head(), tmp_path/'s', progress=False)
    write_embeddings(tmp_path/'v'/'3.parquet', embedding_table(vectors(10, 8), id=[f'new{i}' for i in range(10)]))
    assert score_files(tmp_path/'v', head(), tmp_path/'s', progress=False)==10
    write_embeddings(tmp_path/'v'/'0a.parquet', embedding_table(vectors(10, 8)))
    with pytest.raises(ValueError, match="files: number 1 was '1.parquet' of .* and is '0a.parquet'"):
        score_files(tmp_path/'v', head(), tmp_path/'s', progress=False)
    (tmp_path/'v'/'0a.parquet').unlink()
    write_embeddings(tmp_path/'v'/'1.parquet', embedding_table(vectors(10, 8)))
    with pytest.raises(ValueError, match="files: number 1 was '1.parquet' of .*, and is '1.parquet' of"):
        score_files(tmp_path/'v', head(), tmp_path/'s', progress=False)

@pytest.mark.parametrize('threads', [1, 2])
def test_a_broken_file_is_named_and_what_came_before_is_kept(tmp_path, threads):
    made(tmp_path/'v', files=4)
    path = tmp_path/'v'/'2.parquet'
    good = path.read_bytes()
    path.write_bytes(good[:-9]+b'\0'*9)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.raises(ValueError, match="2.parquet': not a whole Parquet file"):
            score_files(tmp_path/'v', head(), tmp_path/'s', progress=False)
        assert StoreRun(tmp_path/'s', 'embeddings').done()=={0, 1}
        path.write_bytes(good)
        assert score_files(tmp_path/'v', head(), tmp_path/'s', progress=False)==150
    finally: torch.set_num_threads(before)
    assert len(set(scored(tmp_path/'s')['id'].to_pylist()))==300

def test_damage_inside_a_file_names_the_row_group(tmp_path):
    t = embedding_table(vectors(300, 8, 1), label=np.zeros(300, np.int64))
    with embedding_writer(tmp_path/'a.parquet', t.schema) as w: w.write_table(t, row_group_size=100)
    m = pq.read_metadata(tmp_path/'a.parquet').row_group(1).column(1)
    data = bytearray((tmp_path/'a.parquet').read_bytes())
    at = m.data_page_offset
    data[at:at+12] = b'\xff'*12 # the header of the page
    (tmp_path/'a.parquet').write_bytes(data)
    with pytest.raises(ValueError, match="'a.parquet': row group [01]: damaged"):
        score_files(tmp_path/'a.parquet', head(), tmp_path/'s', progress=False)

def test_a_run_of_ones_own_and_bad_shards(tmp_path):
    made(tmp_path/'v')
    run = Store(tmp_path/'s').run('timm/resnet50', 'last', 3)
    assert score_files(tmp_path/'v', head(), run, shard=(1, 2), progress=False)==100 and run.done()=={1}
    for shard in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match='shard: expected'): score_files(tmp_path/'v', head(), run, shard=shard, progress=False)
    assert score_files(tmp_path/'v', head(), run, shard=(5, 7), progress=False)==0 # more processes than files

@settings(max_examples=15, deadline=None)
@given(files=st.integers(1, 7), n=st.integers(1, 5))
def test_each_file_has_one_shard(files, n):
    scorer = PartScorer.__new__(PartScorer)
    scorer.files,scorer.run = [None]*files,type('Run', (), dict(done=lambda self: {0}))()
    assert sorted(k for i in range(n) for k in scorer.missing((i, n)))==list(range(1, files))

# Processes

def test_shards_killed_and_begun_again_make_the_same_bytes(tmp_path):
    "kill -9 of one of two processes, then once more: each row once, and byte for byte what one undisturbed process makes"
    made_vectors(tmp_path, 24000, 32, 10, n_files=60)
    args = tmp_path/'vectors',tmp_path/'head.safetensors'
    score_files(args[0], read_head(args[1]), tmp_path/'one', progress=False)
    first,second,again = start_shards(*args, tmp_path/'two', [(0, 2), (1, 2), (0, 2)])
    folder = StoreRun(tmp_path/'two', 'embeddings')
    first.stdin.write('go\n'); first.stdin.flush()
    names = sorted(parts(tmp_path/'one'))
    wait_for(folder.folder/names[2], first)
    first.send_signal(signal.SIGKILL); first.communicate()
    left = len(folder.done())
    assert 0<left<30
    assert second.communicate('go\n')[0]=='12000\n'
    assert int(again.communicate('go\n')[0])==400*(30-left)
    assert parts(tmp_path/'one')==parts(tmp_path/'two')
    ids = scored(tmp_path/'two')['id'].to_pylist()
    assert len(ids)==len(set(ids))==24000

def test_a_shard_that_cannot_start_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr('avh_nb.scale.shards.WORKER', 'raise SystemExit(1)')
    with pytest.raises(RuntimeError, match='a shard did not start'): start_shards(tmp_path, tmp_path, tmp_path, [(0, 2), (1, 2)])

def test_reading_ahead_is_bounded_and_ends():
    made = []
    def items():
        for i in range(50): made.append(i); yield i
    it = side_by_side(items(), lambda i: i, 2)
    for i in range(10): assert next(it)==i
    it.close()
    assert len(made)<20
    assert list(ahead(iter([])))==[] and list(side_by_side(iter([]), abs, 2))==[]
    with pytest.raises(ZeroDivisionError): list(side_by_side(iter(range(5)), lambda i: 1//(3-i), 2))

def test_ratios_are_printed():
    "No bars on time here: on a quiet machine with 200,000 x 512 x 100 they are 5 for the layout and .7 for the disk"
    figures = throughput(20_000, 256, 50, rounds=2, listed=2_000)
    print(json.dumps({k: round(v, 2) for k,v in figures.items()}))
    assert figures['score_bytes']<45
