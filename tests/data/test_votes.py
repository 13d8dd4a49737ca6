"Human votes against slow loops, wrong variants and bad files; a pickle that would run something runs nothing."
import csv, datetime, os, pickle, struct
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest
from hypothesis import given, settings, strategies as st
from scipy import sparse
from avh_nb.data.annotations import TRIALS, imagenetv2, read_votes, real_raters, table_votes
from avh_nb.data.frequency import human_entropy, human_selection_frequency, noise_ceiling
from avh_nb.data.pickles import safe_pickle
from avh_nb.data.sets import available
from avh_nb.data.votes import Votes, cifar10h_votes
from avh_nb.report.records import read_records

# Votes

@st.composite
def polls(draw, per_class=None):
    "Votes, their labels, and the three answers (N, K) they were made of"
    n,k,seed = draw(st.integers(1, 12)),draw(st.integers(2, 6)),draw(st.integers(0, 99))
    rng,per_class = np.random.default_rng(seed),draw(st.booleans()) if per_class is None else per_class
    names,y = np.array([f'{i}.png' for i in rng.permutation(n)], object),rng.integers(0, k, n)
    if not per_class:
        counts = rng.integers(0, 6, (n, k))
        return Votes(counts, range(k), counts.sum(1)+rng.integers(0, 3, n), names),y,None
    yes,maybe,no = rng.integers(0, 4, (3, n, k))*(rng.random((n, k))<.6)
    as_stored = sparse.csr_array if draw(st.booleans()) else np.asarray
    return Votes(as_stored(yes+maybe/2), range(k), as_stored(yes+maybe+no), names, maybe=as_stored(maybe)),y,(yes, maybe, no)

def dense(a): return a.toarray() if hasattr(a, 'toarray') else a

@settings(deadline=None, max_examples=60)
@given(polls())
def test_against_a_slow_loop(poll):
    v,y,answers = poll
    counts,shown = dense(v.counts),dense(v.shown)
    hsf,entropy,second = v.hsf(y),v.entropy(),v.second(y)
    for i,label in enumerate(y):
        asked = shown[i, label] if v.per_class else shown[i]
        if asked==0: assert np.isnan(hsf[i])
        else:
            assert 0<=hsf[i]<=1
            np.testing.assert_allclose(hsf[i], counts[i, label]/asked)
            if answers: np.testing.assert_allclose(hsf[i], (answers[0][i, label]+.5*answers[1][i, label])/asked)
        p = counts[i][counts[i]>0]/max(counts[i].sum(), 1e-9)
        if len(p): np.testing.assert_allclose(entropy[i], -sum(q*np.log(q) for q in p), atol=1e-12)
        else: assert np.isnan(entropy[i])
        others = [(-counts[i, c], c) for c in range(counts.shape[1]) if c!=label and counts[i, c]>0]
        assert second[i]==(min(others)[1] if others else -1)

@settings(deadline=None, max_examples=40)
@given(polls(), st.randoms())
def test_order_does_not_matter(poll, random):
    v,y,_ = poll
    order = list(range(len(v))); random.shuffle(order); order = np.array(order)
    by_name = v.of_names(v.names[order])
    assert by_name.names.tolist()==v.names[order].tolist()
    for w in (v[order], by_name):
        for f in ('hsf', 'second'): np.testing.assert_array_equal(getattr(w, f)(y[order]), getattr(v, f)(y)[order])
        np.testing.assert_array_equal(w.entropy(), v.entropy()[order])
    assert len(v[np.arange(len(v))<1])==1

def test_wrong_variants_are_told_apart():
    "Maybe as nothing or as yes, whether the first choice is the label, names in another order: each gives another number here"
    yes,maybe,no = np.array([[[3, 1], [1, 2]], [[1, 1], [2, 1]], [[1, 3], [2, 2]]])
    v = Votes(yes+maybe/2, 'ab', yes+maybe+no, np.array(['x', 'y']), maybe=maybe)
    y,asked = np.array([0, 1]),yes+maybe+no
    right = v.hsf(y)
    np.testing.assert_allclose(right, [3.5/5, 2.5/5])
    def at(a): return a[np.arange(2), y]
    wrong = [at(yes/asked), at((yes+maybe)/asked), (v.counts.argmax(1)==y)*1., at(yes+maybe/2)/(yes+maybe/2).sum(1),
        v.of_names(['y', 'x']).hsf(y)]
    for w in wrong: assert not np.allclose(w, right)

@pytest.mark.parametrize('change,message', [(dict(classes='abc'), 'classes: expected 2 names'),
    (dict(shown=np.ones(3)), 'shown: expected'),
    (dict(shown=np.array([1, 9])), 'counts: image 0 has more votes'),
    (dict(names=np.array(['x', 'x'])), 'names: expected each image once'),
    (dict(counts=np.array([[1, np.nan], [0, 0]])), 'counts: expected numbers from 0, got nan for image 0'),
    (dict(seconds=np.ones(3)), 'seconds: expected'), (dict(counts=np.ones(2)), 'counts: expected shape'),
    (dict(maybe=np.ones(2)), 'maybe: exp')])
def test_what_does_not_fit_together(change, message):
    with pytest.raises(ValueError, match=message): Votes(**{**dict(counts=np.array([[1, 2], [3, 4]]), classes='ab', shown=np.array([3, 7])),
        **change})

def test_ceilings():
    "As `noise_ceiling` for one choice of all; for questions, near it, whatever the halves; chance leaves nothing"
    rng,y = np.random.default_rng(0),np.zeros(1200, int)
    counts = np.stack([rng.multinomial(20, [q, 1-q]) for q in rng.beta(4, 1, size=1200)])
    whole = noise_ceiling(counts, y)
    assert Votes(counts, 'ab', counts.sum(1)).ceiling(y)==whole
    asked = Votes(sparse.csr_array(counts), 'ab', sparse.csr_array(np.full((1200, 2), 20)))
    assert abs(asked.ceiling(y)['ceiling']-whole['ceiling'])<.02
    np.testing.assert_allclose(human_selection_frequency(counts, y), asked.hsf(y))
    np.testing.assert_allclose(human_entropy(counts), asked.entropy())
    unsure = rng.multinomial(10, [.5, .3, .2], size=1200) # everybody alike
    alike = Votes(unsure[:, :1]+unsure[:, 1:2]/2, 'a', np.full((1200, 1), 10), maybe=unsure[:, 1:2])
    assert abs(alike.ceiling(y)['split_half'])<.06
    half = alike.hsf(y); assert abs(half.mean()-.65)<.01
    with pytest.raises(ValueError, match='maybe that says'): Votes(alike.counts, 'a', alike.shown).ceiling(y)
    with pytest.raises(ValueError, match='two people or more'): Votes(np.ones((9, 1)), 'a', np.ones((9, 1))).ceiling(np.zeros(9, int))

@pytest.mark.skipif(not available('cifar10', 'cifar10h'), reason='needs CIFAR-10 and CIFAR-10H')
def test_ceilings_that_are_recorded():
    from avh_nb.data.sets import cifar10
    r = cifar10h_votes().ceiling(cifar10('test').y.numpy())
    recorded = [x['metrics'] for x in read_records('human_alignment') if x['metrics']['images']==10000]
    assert recorded
    for m in recorded:
        for k,v in r.items(): assert abs(m[k]-v)<1e-6

# Pickles

class Calls:
    "A thing whose pickle is a call"
    def __init__(self, f, *args): self.call = f,args
    def __reduce__(self): return self.call

def refused(path, data, match):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=match) as e: safe_pickle(path)
    assert '\n' not in str(e.value) and str(path) in str(e.value)

@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('deep', [False, True])
def test_a_pickle_runs_nothing(protocol, deep, tmp_path):
    ran = tmp_path/'ran'
    for f,args,name in ((os.system, (f'touch {ran}',), 'system'), (eval, (f'open({str(ran)!r}, "w")',), 'eval'),
            (getattr, ('', 'join'), 'getattr'),
            (exec, (f'open({str(ran)!r}, "w")',), 'exec'), (Path, ('x',), 'Path'), (bytearray, (10**12,), 'bytearray'),
            (np.core.multiarray._reconstruct if not hasattr(np, '_core') else np._core.multiarray._reconstruct,
                (np.ndarray, (0,), b'b'), 'numpy')):
        thing = Calls(f, *args)
        refused(tmp_path/'p', pickle.dumps({'a': [(thing, 1)]} if deep else thing, protocol), f"asks for '.*{name}.*refused")
    refused(tmp_path/'p', pickle.dumps(np.arange(3), protocol), "asks for 'numpy")
    assert not ran.exists()

MARKER = b"(cos\nsystem\nS'touch ran'\ntR."
@pytest.mark.parametrize('data,match', [(MARKER, 'os system'), (b"cos\nsystem\n(S'touch ran'\ntR.", 'os system'),
    (b"(S'touch ran'\nios\nsystem\n.", 'os system'), (b"(cos\nsystem\nS'touch ran'\no.", 'os system'), (b"(S'x'\no.", 'OBJ is refused'),
    (b'\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran\x85R.', 'os system'),
    (b'\x80\x04\x8c\x08builtins\x8c\x0cset.__init__\x93)R.', 'set.__init__'), # no attributes of what is allowed
    (b'\x82\x01.', 'EXT1 is refused'), (b'\x83\x01\x00.', 'EXT2 is refused'), (b'\x84\x01\x00\x00\x00.', 'EXT4 is refused'),
    (b'Pid\n.', 'PERSID is refused'),
    (b'NQ.', 'BINPERSID is refused'), (b'\x96\x00\x00\x00\x00\x00\x10\x00\x00.', 'byte 0'), (b'\x97.', 'NEXT_BUFFER is refused'),
    (b'ccopy_reg\n_reconstructor\n(cos\nsystem\nc__builtin__\nobject\nNtR.', 'os system'), (b'cbuiltins\nset\n.', 'a name and no data'),
    (b'\x80\x04}\x94b.', 'IndexError|state'), (b']}b.', 'sets the state'), (b'N)R.', 'no function'), (b'(lp0\n0g7\n.', 'KeyError'),
    (b'', 'byte 0'), (b'a.', 'IndexError'),
    (b'}]Ns.', 'keys, got list'), (b'})\x85\x85Ns.', 'keys, got tuple'), (b'}(K\x01u.', 'key without a value'),
    (b'Na.', 'IndexError|list'), (b'NNa.', 'expected a list'),
    (b'\x8d'+struct.pack('<Q', 2**62)+b'x.', 'byte 0'), (b'B'+struct.pack('<I', 2**32-1)+b'x.', 'byte 0'),
    (b'I'+b'9'*5000+b'\n.', 'byte 0')])
def test_hostile_instructions(data, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(tmp_path/'p', data, match)
    assert not (tmp_path/'ran').exists()

def test_a_large_number_makes_no_large_memory(tmp_path):
    "The memo of Python's unpickler has as many places as its largest number says"
    (tmp_path/'p').write_bytes(b'\x80\x02K\x01r\xff\xff\xff\x7f0j\xff\xff\xff\x7f.')
    assert safe_pickle(tmp_path/'p')==1
    twice = b'('+b']q\x00(' + b'K\x01'*50 + b'e0' + b'cbuiltins\nset\nh\x00\x85R'*200 + b't.' # the same list copied into set after set
    refused(tmp_path/'p', twice, 'again and again')

def test_a_pickle_cut_short_anywhere(tmp_path):
    data = pickle.dumps(published('a', 'b'), 3)
    for n in range(0, len(data), 7): refused(tmp_path/'p', data[:n], 'byte')

plain = st.recursive(st.none() | st.booleans() | st.integers(-2**80, 2**80) | st.floats(allow_nan=False) | st.text()
    | st.binary(max_size=300),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner) | st.sets(st.integers())
        | st.frozensets(st.text()), max_leaves=20)
@settings(deadline=None, max_examples=50)
@given(plain, st.integers(0, 5))
def test_what_is_plain_is_read_as_it_was(value, protocol):
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/'p'; path.write_bytes(pickle.dumps(value, protocol))
        got = safe_pickle(path)
    assert got==value and type(got) is type(value)

# Annotations

def published(*images):
    "In the shape of the published pickle"
    from dateutil.tz import tzlocal
    def answer(*chosen, status='Approved'):
        return dict(WorkerId='w', AssignmentStatus=status, Answer=list(chosen), AcceptTime=datetime.datetime(2018, 8, 1, tzinfo=tzlocal()))
    hits = {'t': dict(uuid='t', wnid='n02', images_all=list(images), source_filename='main.json', time='2018'),
        'u': dict(uuid='u', wnid='n01', images_all=[images[0]]), 'v': dict(uuid='v', wnid='n02', images_all=[images[0]]),
        'trial': dict(wnid='n02', images_all=list(images), source_filename=TRIALS[2]), 'black': dict(wnid='n02', images_all=list(images)),
        'nobody': dict(wnid='n03', images_all=list(images))}
    assignments = dict(t={'1': answer(images[0]), '2': answer(*images, status='Submitted'), '3': answer(*images, status='Rejected')},
        u={'4': answer(''), '5': answer(images[0])}, v={'6': answer('')}, trial={'7': answer()}, black={'8': answer()})
    return dict(hits=hits, blacklisted_hits={'black': {}}, mturk_ids_to_uuid={}, assignments=assignments, json_dir='d',
        json_filenames=['f'],
        username='x', backup_s3_key='k', local_hit_ids_missing_remotely=[], time_string='2018')

@pytest.mark.parametrize('protocol', range(6))
def test_the_published_shape(protocol, tmp_path):
    path = tmp_path/'data_live.pickle'; path.write_bytes(pickle.dumps(published('b.jpg', 'a.jpg'), protocol))
    v = imagenetv2(path)
    assert v.names.tolist()==['a.jpg', 'b.jpg'] and v.classes==('n01', 'n02') # n03 was shown to nobody
    np.testing.assert_allclose(v.hsf([1, 1]), [.5, 2/3]); np.testing.assert_allclose(v.hsf([0, 0]), [np.nan, .5])
    assert read_votes(path, ['n03', 'n02', 'n01']).hsf([1, 1]).tolist()==v.hsf([1, 1]).tolist()

@settings(deadline=None, max_examples=25)
@given(polls())
def test_a_table_of_ones_own(poll):
    import tempfile
    v,y,_ = poll
    with tempfile.TemporaryDirectory() as folder:
        if v.per_class:
            counts,shown,maybe = map(dense, (v.counts, v.shown, v.maybe))
            i,c = np.nonzero(shown)
            if not len(i): return
            t = dict(image=v.names[i].tolist(), selected=counts[i, c].tolist(), shown=shown[i, c].tolist(), maybe=maybe[i, c].tolist())
            t['class'] = [str(k) for k in c]
        else: t = dict(image=v.names.tolist(), shown=v.shown.tolist(), **{str(k): v.counts[:, k].tolist() for k in v.classes})
        pq.write_table(pa.table(t), Path(folder)/'v.parquet')
        with open(Path(folder)/'v.csv', 'w', newline='') as f: csv.writer(f).writerows([list(t), *zip(*t.values())])
        for name in ('v.csv', 'v.parquet'):
            got = read_votes(Path(folder)/name, [str(k) for k in v.classes])
            known = np.isin(v.names, got.names)
            np.testing.assert_array_equal(got.of_names(v.names[known]).hsf(y[known]), v.hsf(y)[known])

@pytest.mark.parametrize('text,match', [('', 'expected columns image'), ('picture,cat\nx,1\n', "got 'picture', 'cat'"),
    ('image,cat\nx,1,2\n', 'line 2: expected 2'),
    ('image,cat,cat\nx,1,2\n', 'each once'), ('image,cat\nx,-1\n', "line 2: column 'cat': expected a number from 0, got '-1'"),
    ('image,cat\nx,1\n\n"a\nb",nan\n', "line 5: column 'cat': expected a number from 0, got 'nan'"),
    ('image,cat\n,1\n', "line 2: column 'image'"),
    ('image,cat,shown\nx,5,4\n', "line 2: column 'shown': fewer"),
    ('image,class,selected,shown\nx,a,1,2\nx,a,1,2\n', 'line 3: image and class stand further up'),
    ('image,class,shown\nx,a,1\n', 'expected columns image, class, selected, shown'),
    ('image,cat\n"x,1\n', 'not a table that can be read')])
def test_bad_tables(text, match, tmp_path):
    path = tmp_path/'own.csv'; path.write_text(text)
    with pytest.raises(ValueError, match=match) as e: table_votes(path)
    assert str(path) in str(e.value)

def test_classes_in_an_order_of_ones_own(tmp_path):
    (tmp_path/'v.csv').write_text('image,class,selected,shown\nx,10,1,2\nx,9,2,2\n')
    assert table_votes(tmp_path/'v.csv').classes==('9', '10') and table_votes(tmp_path/'v.csv', ['10', '9', '8']).hsf([0]).tolist()==[.5]
    with pytest.raises(ValueError, match="line 2: column 'class': expected one of '9'"): table_votes(tmp_path/'v.csv', ['9'])
    (tmp_path/'w.csv').write_text('image,a,b\nx,1,2\n')
    with pytest.raises(ValueError, match=r"missing \['c'\], beside them \['b'\]"): table_votes(tmp_path/'w.csv', ['a', 'c'])

def test_raters_against_a_slow_loop(tmp_path):
    rng = np.random.default_rng(0)
    questions = sorted({(f'{rng.integers(9)}.JPEG', str(rng.integers(1000))) for _ in range(30)}, key=lambda q: q[::-1])
    answers = np.eye(4)[rng.integers(0, 4, (7, len(questions)))][:, :, 1:] # the first of four is no answer
    np.savez(tmp_path/'r.npz', tensor=answers, info=np.array(questions), ids=np.arange(7))
    v = read_votes(tmp_path/'r.npz')
    for q,(name,c) in enumerate(questions):
        said = answers[:, q].sum(0)
        np.testing.assert_allclose(v.of_names([name]).hsf([int(c)]), [(said[2]+said[1]/2)/said.sum() if said.sum() else np.nan])

@pytest.mark.parametrize('change,match', [(dict(info=np.array([['a', '1000']])), 'classes from 0 to 999'),
    (dict(tensor=np.ones((2, 1, 3))), 'one of no, maybe and yes'),
    (dict(tensor=np.ones((2, 1))), 'expected tensor'), (dict(info=np.array([['a', {}]], object)), 'not a whole NumPy archive'),
    (dict(tensor=None), 'not a whole')])
def test_raters_of_another_shape(change, match, tmp_path):
    arrays = {**dict(tensor=np.zeros((2, 1, 3)), info=np.array([['a', '1']])), **change}
    np.savez(tmp_path/'r.npz', **{k: v for k,v in arrays.items() if v is not None})
    with pytest.raises(ValueError, match=f'r.npz.*{match}'): real_raters(tmp_path/'r.npz')
