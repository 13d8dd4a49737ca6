"What cleanlab and FiftyOne get is what we mean: the right class, the right image."
import importlib.metadata, sys, warnings
from pathlib import PurePath
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
import avh_nb as av
from avh_nb.curate import handover
from avh_nb.curate.handover import datalab, datalab_class, judged, lexicographic, predictions, same_files, to_fiftyone

NAMES = dict(numbers=[str(i) for i in range(12)], letters=list('bacfdehgikjl'), sorted=[f'{i:02}' for i in range(12)],
    mixed=['Zebra', 'ape', 'Äsche', 'été', 'a b', 'a', 'A', '_', '10', '9', 'ß', '猫'],
    synsets=[f'n0{i}' for i in (9, 10, 2, 33, 4, 5, 16, 7, 81, 1, 20, 3)])

def data(n=480, c=12, d=8, share=.05, seed=0):
    "Features, class vectors and biases of a classifier that is right, labels of which some are flipped, and which"
    rng = np.random.default_rng(seed)
    true = np.arange(n)%c
    y,flipped = true.copy(),np.sort(rng.choice(n, int(share*n), replace=False))
    y[flipped] = (y[flipped]+rng.integers(1, c, len(flipped)))%c
    w = 3*rng.normal(size=(c, d))
    x = (w[true]+rng.normal(size=(n, d))).astype(np.float32)
    w = w.astype(np.float32)
    return x,w,-(w**2).sum(1)/2,y,flipped

def probabilities(x, w, b): return torch.tensor(x@w.T+b).softmax(1).numpy()

def issues(lab): return np.flatnonzero(lab.get_issues('label').is_label_issue)

# cleanlab

@pytest.mark.parametrize('names', NAMES.values(), ids=NAMES)
def test_classes_are_right_however_names_sort(names):
    "Planted flips are found, and each label is judged by the probability of its own class, which is our confidence"
    from cleanlab.rank import get_label_quality_scores
    x,w,b,y,flipped = data()
    p,confidence = probabilities(x, w, b),av.score(x, w, y, bias=b).confidence
    np.testing.assert_allclose(get_label_quality_scores(y, p), confidence, atol=1e-6)
    lab = datalab(y, p, classes=names)
    found = lab.get_issues('label')
    assert issues(lab).tolist()==flipped.tolist()
    np.testing.assert_allclose(found.label_score, confidence, atol=1e-6)
    assert found.given_label.tolist()==[names[c] for c in y] and found.predicted_label.tolist()==[names[c] for c in p.argmax(1)]
    assert lab.class_names==np.unique(names).tolist()==[names[i] for i in lexicographic(names)]
    text = datalab_class()(dict(label=[names[c] for c in y]), label_name='label', verbosity=0) # as cleanlab's documents have it
    text.find_issues(pred_probs=p[:, lexicographic(names)])
    pd.testing.assert_frame_equal(text.get_issues('label'), found)

@pytest.mark.parametrize('names', NAMES.values(), ids=NAMES)
def test_columns_in_our_order_are_wrong_to_cleanlab(names, monkeypatch):
    "The mutant that does not reorder: it goes through without a word, and is right only where names sort as classes do"
    x,w,b,y,flipped = data()
    p,order = probabilities(x, w, b),lexicographic(names)
    class Unsorted(datalab_class()):
        def find_issues(self, pred_probs, **kwargs): super().find_issues(pred_probs=pred_probs[:, np.argsort(order)], **kwargs)
    monkeypatch.setattr(handover, 'datalab_class', lambda: Unsorted)
    found = issues(datalab(y, p, classes=names))
    assert (found.tolist()==flipped.tolist())==(names is NAMES['sorted'])

def test_numbers_as_names_sort_as_text():
    x,w,b,y,flipped = data()
    assert issues(datalab(y, probabilities(x, w, b))).tolist()==flipped.tolist()
    with pytest.raises(ValueError, match='^classes: expected a name for each, got cat twice'):
        datalab(y, probabilities(x, w, b), classes=['cat']*2+[str(i) for i in range(10)])

def test_what_cannot_be_judged_is_left_out():
    x,w,b,y,flipped = data()
    p,ids = probabilities(x, w, b),[f'photos/{i}.png' for i in range(len(y))]
    y[7],p[8],x[9, 0] = -1,np.nan,np.inf
    with pytest.warns(UserWarning, match='^3 of 480 images lack a label, probabilities or features, and are left out'):
        lab = datalab(y, p, x.astype(np.float16), NAMES['letters'], ids)
    assert lab.data['id'][:]==[ids[i] for i in range(480) if i not in (7, 8, 9)]
    assert {lab.data['id'][int(i)] for i in issues(lab)}=={ids[i] for i in flipped if i not in (7, 8, 9)}
    np.testing.assert_array_equal(judged(y, p, x), ~np.isin(np.arange(480), (7, 8, 9)))

def test_classes_without_labels_keep_their_columns():
    "A head of many classes on few folders: a label that should be of another class is among the worst"
    x,w,b,y,flipped = data(c=40)
    keep = np.isin(y, (3, 17, 25))
    p,names = probabilities(x, w, b)[keep],[str(i) for i in range(40)]
    lab = datalab(y[keep], p, classes=names)
    found = lab.get_issues('label')
    assert set(found.given_label)=={'3', '17', '25'} and found.predicted_label.tolist()==[names[c] for c in p.argmax(1)]
    wrong = np.isin(np.flatnonzero(keep), flipped)
    assert 0<wrong.sum() and found.label_score[wrong].max()<.01<found.label_score[~wrong].min()
    assert not len(issues(lab)) # cleanlab calls none wrong in favour of a class that nobody has

def test_neighbours_may_be_given():
    from sklearn.neighbors import NearestNeighbors
    x,w,b,y,flipped = data()
    p = probabilities(x, w, b)
    x[11] = x[10]+1e-4 # a near duplicate
    graph = NearestNeighbors(n_neighbors=10, metric='cosine').fit(x).kneighbors_graph(mode='distance')
    by_features,by_graph = datalab(y, p, x),datalab(y, p, knn_graph=graph)
    for kind in ('outlier', 'near_duplicate'):
        a,b = by_features.get_issues(kind),by_graph.get_issues(kind)
        np.testing.assert_allclose(a[f'{kind}_score'], b[f'{kind}_score'], atol=1e-3)
        assert a[f'is_{kind}_issue'].tolist()==b[f'is_{kind}_issue'].tolist()
    assert by_features.get_issues('near_duplicate').is_near_duplicate_issue[[10, 11]].all()
    y[0] = -1
    with pytest.raises(ValueError, match='^knn_graph: 1 of 480 images lack'): datalab(y, p, knn_graph=graph)

def test_checks_that_fail_inside_are_said():
    p = np.eye(3)[[0, 1, 2, 0, 1]]*.9+.1/3
    with pytest.warns(UserWarning, match='^cleanlab: Error in outlier: .*; Error in near_duplicate'):
        lab = datalab([0, 1, 2, 0, 1], p, np.random.default_rng(0).normal(size=(5, 4)))
    assert not len(issues(lab))

def test_nothing_is_passed_over_in_silence(monkeypatch):
    class Fails(datalab_class()):
        def find_issues(self, **kwargs): print('Error in label: no way\nFailed to check for these issue types: [LabelIssueManager]')
    monkeypatch.setattr(handover, 'datalab_class', lambda: Fails)
    with pytest.raises(ValueError, match='^cleanlab: Error in label: no way$'): datalab([0, 1], np.eye(2))

def test_arrays_that_do_not_go_together_are_refused():
    p = np.full((4, 3), 1/3)
    for args,message in ((([0, 1, 2], p), 'probs: expected 3 rows, one per label, got shape .4, 3'),
        (([0, 1, 2, 3], p), 'labels: expected -1 to 2, got 0 to 3'),
        (([0, 1, 2, -2], p), 'labels: expected -1 to 2, got -2'), (([0., 1, 2, 1], p), 'labels: expected integers .*float64'),
        ((['a', 'b', 'a', 'b'], p), 'labels: expected integers'), (([[0], [1], [2], [1]], p), 'labels: expected integers'),
        (([0, 1, 2, 1], p[:, 0]), 'probs: expected 4 rows'), (([0, 1, 2, 1], p*2), 'probs: .*sums to 2, at index 0'),
        (([0, 1, 2, 1], p+[1, -1, 0]), 'probs: expected rows of probabilities'), (([0, 1, 2, 1], np.log(p)), 'probs: .*sums to -3.296'),
        (([0, 1, 2, 1], p, p[:2]), 'features: expected 4 rows'), (([-1]*4, p), 'labels: none of 4 images has a label'),
        (([0, 1, 2, 1], np.full((4, 3), np.nan)), 'labels: none of 4'), (([0, 1, 2, 1], p, None, ['a']), 'classes: expected 3, got 1'),
        (([0, 1, 2, 1], p, None, None, ['x']), 'ids: expected 4, got 1'), ((np.zeros(0, int), p[:0]), 'labels: none of 0')):
        with pytest.raises(ValueError, match=f'^{message}'): datalab(*args)

@pytest.mark.parametrize('version,taken', [('2.9.0', True), ('2.10.1', True), ('3.0', True), ('2.8.0', False), ('2.7.1', False),
    ('1.0', False)])
def test_an_older_cleanlab_is_not_taken(version, taken, monkeypatch):
    monkeypatch.setattr(importlib.metadata, 'version', lambda name: version)
    if taken: assert datalab_class().__name__=='Datalab'
    else:
        said = f'cleanlab from 2.9 on, under the Apache licence; {version} is installed: pip install'
        with pytest.raises(ImportError, match=said): datalab_class()

def test_what_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cleanlab.datalab.datalab', None)
    with pytest.raises(ImportError, match=r"needs cleanlab: pip install 'cleanlab\[datalab\]>=2.9'"): datalab_class()
    def missing(name): raise importlib.metadata.PackageNotFoundError(name)
    monkeypatch.setattr(importlib.metadata, 'version', missing)
    with pytest.raises(ImportError, match='this needs cleanlab: pip install'): datalab_class()

def test_warnings_of_others_are_not_silenced(monkeypatch):
    "As they are by the import of cleanlab.datalab"
    def imported(module, install):
        warnings.filterwarnings('ignore')
        return SimpleNamespace(Datalab=None)
    monkeypatch.setattr(handover, 'theirs', imported)
    datalab_class()
    with pytest.raises(UserWarning): warnings.warn('an error here', stacklevel=1)

# FiftyOne: a stand-in, since the real one starts a database

class Stub:
    "A FiftyOne data set, as far as it is used: set_values refuses keys of no sample"
    def __init__(self, paths): self.samples,self.calls = {p: dict(mine=1) for p in paths},[]
    def values(self, field): return list(self.samples) if field=='filepath' else [s.get(field) for s in self.samples.values()]
    def set_values(self, field_name, values, key_field=None):
        if key_field!='filepath': raise ValueError(key_field)
        if set(values)-set(self.samples): raise ValueError('keys that do not match the filepath of any samples')
        self.calls.append(field_name)
        for path,v in values.items(): self.samples[path][field_name] = v

def classification(label=None, confidence=None, logits=None): return SimpleNamespace(label=label, confidence=confidence, logits=logits)

@pytest.fixture
def fiftyone(monkeypatch): monkeypatch.setitem(sys.modules, 'fiftyone', SimpleNamespace(Classification=classification))

def scored(labelled=True):
    x,w,b,y,_ = data(60)
    x[4] = 0
    with pytest.warns(UserWarning, match='1 of 60'): s = av.score(x, w, y if labelled else None, bias=b)
    frame = s.to_frame().assign(id=[f'{i}.png' for i in range(60)], path=[f'class {c}/{i}.png' for i,c in enumerate(y)], label=y)
    frame = frame.assign(label_name=[NAMES['letters'][c] for c in y], pred_name=[NAMES['letters'][c] if c>=0 else None for c in frame.pred])
    return frame,probabilities(x, w, b)

@pytest.mark.parametrize('labelled', [True, False])
def test_each_sample_gets_its_own(fiftyone, labelled):
    frame,p = scored(labelled)
    order = np.random.default_rng(1).permutation(60)
    dataset = Stub(['/home/me/photos/'+frame.path[i] for i in order]+['/home/me/photos/other.png'])
    assert to_fiftyone(dataset, frame, 'x', p) is dataset
    for i in range(60):
        sample = dataset.samples['/home/me/photos/'+frame.path[i]]
        for name in ('avh', 'norm', 'confidence', 'angular_gap'):
            if i==4: assert sample[f'x_{name}'] is None
            else: assert type(sample[f'x_{name}']) is float and sample[f'x_{name}']==frame[name][i]
        assert sample['x_label'].label==frame.label_name[i] and sample['mine']==1
        pred = sample['x_pred']
        if i==4: assert pred is None; continue
        assert pred.label==NAMES['letters'][p[i].argmax()] and pred.confidence==pytest.approx(p[i].max(), abs=1e-6)
        np.testing.assert_allclose(torch.tensor(pred.logits).softmax(0), p[i], atol=1e-7)
    assert dataset.samples['/home/me/photos/other.png']==dict(mine=1)
    assert len(set(dataset.calls))==len(dataset.calls) and not {'x_x_label', 'x_id', 'x_path', 'x_row'} & set(dataset.calls)

def test_without_names_and_probabilities(fiftyone):
    frame,p = scored()
    bare = frame.drop(columns=['pred_name', 'label_name', 'path']).assign(id=['/a/'+i for i in frame.id])
    dataset = to_fiftyone(Stub(bare.id), bare)
    assert [None if v is None else (v.label, v.logits) for v in dataset.values('avh_pred')]==[
        None if i==4 else (str(c), None) for i,c in enumerate(frame.pred)]
    assert 'avh_label' not in dataset.calls
    impossible = predictions(frame[:1], classification, np.eye(12)[:1])[0].logits
    assert np.isfinite(impossible).all() and torch.tensor(impossible).softmax(0)[0]==1

def test_what_fits_no_image_is_said(fiftyone):
    frame,p = scored()
    here,there = '/a/'+frame.path,'/b/'+frame.path
    with pytest.warns(UserWarning, match='^50 of 60 images of the table are not in the data set'): to_fiftyone(Stub(here[:10]), frame)
    for wrong,message in (((Stub(['/a/b.png']), frame), r"dataset: none .* it has \['/a/b.png'\] and that \['class 0/0.png'\]"),
        ((Stub([]), frame), 'dataset: none of its 0'), ((Stub(here), pd.concat([frame, frame])), 'frame: expected one row per image'),
        ((Stub(here), frame, 'avh', p[:3]), 'probs: expected 60 rows, as the table has, got 3'),
        ((Stub([*here, *there]), frame), 'path: class 0/0.png fits /a/class 0/0.png and /b/class 0/0.png')):
        with pytest.raises(ValueError, match=f'^{message}'): to_fiftyone(*wrong)

def test_names_of_files_are_printed_as_text(fiftyone):
    frame,_ = scored()
    frame.loc[0, 'path'] = 'a\x1b[31m\n.png'
    with pytest.raises(ValueError) as e: to_fiftyone(Stub(['/a/\x1b[31m.png']), frame)
    assert '\x1b' not in str(e.value) and '\n' not in str(e.value)

PARTS = st.lists(st.sampled_from(['a', 'b', 'c.png']), min_size=1, max_size=4)

@settings(max_examples=200, deadline=None)
@given(st.lists(PARTS, max_size=5), st.lists(st.tuples(st.booleans(), PARTS), max_size=5))
def test_same_files_are_those_that_end_alike(known, paths):
    "Against a search of every path among all"
    known = list(dict.fromkeys('/'+'/'.join(k) for k in known))
    paths = list(dict.fromkeys(('/' if whole else '')+'/'.join(p) for whole,p in paths))
    fits = {p: [k for k in known if k==p or p[0]!='/' and k.endswith('/'+p)] for p in paths}
    meant = [k[0] for k in fits.values() if len(k)==1]
    if any(len(k)>1 for k in fits.values()) or len(set(meant))<len(meant):
        with pytest.raises(ValueError, match='^path: '): same_files(paths, known)
    else: assert same_files(paths, known)=={p: k[0] for p,k in fits.items() if k}

def test_no_path_leads_out_of_its_folder():
    assert same_files(['../a.png', './b.png', '', None, float('nan'), 'x/../a.png'], ['/d/a.png', '/d/b.png'])=={'./b.png': '/d/b.png'}
    assert PurePath('./b.png').parts==('b.png',)
