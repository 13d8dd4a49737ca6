"A data set of Hugging Face is scored once: what is the same is found again, and what is not is not."
import io, json, os, subprocess, sys
import datasets, numpy as np, pytest, torch
from PIL import Image
from torch import nn
import avh_nb as av
from avh_nb.curate.classifier import Classifier, to_pixels
from avh_nb.curate.mapped import batch_scorer, map_scores, scores_fingerprint
from avh_nb.curate.vocabulary import Vocabulary

class Counted(nn.Sequential):
    "A network that counts the images it is run on"
    images = 0
    def forward(self, x):
        type(self).images += len(x)
        return super().forward(x)

def network(seed=0):
    torch.manual_seed(seed)
    return Counted(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))

class Crop:
    def __init__(self, size): self.size,self.preprocessing = size,dict(crop=size)
    def __call__(self, image): return to_pixels(image.crop((0, 0, self.size, self.size)))

def classifier(seed=0, size=8, classes=None): return Classifier('small', network(seed), Crop(size), vocabulary=classes)

def pictures(n=20):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (10, 9, 3), dtype=np.uint8)) for _ in range(n)]

LABELS = [i%3 for i in range(20)]
FEATURES = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=['cat', 'dog', 'owl']), more=datasets.Value('string'))

@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()

@pytest.fixture
def stored(tmp_path):
    made = datasets.Dataset.from_dict(dict(image=pictures(), label=LABELS, more=['x']*20), FEATURES)
    made.save_to_disk(tmp_path/'stored')
    return lambda: datasets.load_from_disk(tmp_path/'stored') # read anew, as another session does

def images_run(f):
    before = Counted.images
    return f(),Counted.images-before

def expected(c, labels=LABELS):
    x = torch.stack([c.transform(i) for i in pictures()])
    with torch.no_grad(): features = c.model[:2](x)
    return av.score(features, c.model[2].weight.detach(), None if labels is None else torch.tensor(labels), bias=c.model[2].bias.detach())

@pytest.mark.parametrize('label', ['label', None])
def test_scores_are_those_of_the_network(stored, label):
    whole = map_scores(stored(), classifier(), label=label, batch_size=6)
    for name,values in expected(classifier(), LABELS if label else None):
        np.testing.assert_allclose(whole[f'avh_{name}'][:], values, rtol=1e-5, atol=1e-6)
    assert set(whole.column_names)=={'image', 'label', 'more', 'avh_error', *(f'avh_{n}' for n,_ in expected(classifier()))}
    assert whole['label'][:]==LABELS and whole.features['image']==datasets.Image() and whole.features['avh_avh'].dtype=='float32'
    assert np.array_equal(np.asarray(whole[7]['image']), np.asarray(pictures()[7])) # images are as they were

def test_the_same_call_does_not_run_the_network_again(stored):
    "Not for other batches or another copy of the same network; other weights, crops, columns and data are others"
    first,n = images_run(lambda: map_scores(stored(), classifier(), label='label'))
    assert n==20+20 # finding the head runs the network on the first batch
    for again in (lambda: map_scores(stored(), classifier(), label='label'),
        lambda: map_scores(stored(), classifier(), label='label', batch_size=3),
        lambda: map_scores(stored(), Classifier('renamed', network(), Crop(8)), label='label')):
        whole,n = images_run(again)
        assert n==0 and whole.to_pandas().drop(columns='image').equals(first.to_pandas().drop(columns='image'))
    for other in (lambda: map_scores(stored(), classifier(seed=1), label='label'), lambda: map_scores(stored(), classifier()),
        lambda: map_scores(stored(), classifier(size=7), label='label'),
        lambda: map_scores(stored(), classifier(), label='label', prefix='y'),
        lambda: map_scores(stored().select(range(10)), classifier(), label='label')):
        assert images_run(other)[1]>0 and images_run(other)[1]==0
    one = classifier()
    with torch.no_grad(): one.model[2].bias[0] += 1e-6
    assert images_run(lambda: map_scores(stored(), one, label='label'))[1]>0
    assert images_run(lambda: map_scores(stored(), classifier(), label='label', load_from_cache_file=False))[1]>0 # asked for

def hooked(net): net.register_forward_hook(lambda *args: None); return net
def noted(net): net.note = 'mine'; return net
def laid_out(net): net[2].weight.data = net[2].weight.data.T.contiguous().T; return net
def trained(net): net(torch.zeros(1, 3, 8, 8)).sum().backward(); net.zero_grad(); return net

@pytest.mark.parametrize('change', [hooked, noted, laid_out, trained, lambda net: torch.compile(net, backend='eager')],
    ids='hooked noted laid_out trained compiled'.split())
def test_what_changes_no_score_changes_no_fingerprint(stored, change):
    assert scores_fingerprint(stored(), Classifier('small', change(network()), Crop(8)))==scores_fingerprint(stored(), classifier())

def test_the_library_alone_takes_the_same_network_for_another(stored):
    "For a hook, an attribute, another layout or batch size; what is built anew in the same way it finds"
    def plain():
        torch.manual_seed(0)
        return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)).eval()
    def fingerprint(net, **kwargs):
        def f(batch): return dict(z=net(torch.stack([to_pixels(i) for i in batch['image']])).argmax(1).tolist())
        return stored().map(f, batched=True, **kwargs)._fingerprint
    first = fingerprint(plain())
    assert fingerprint(plain())==first
    for other in (lambda: fingerprint(hooked(plain())), lambda: fingerprint(noted(plain())), lambda: fingerprint(laid_out(plain())),
        lambda: fingerprint(plain(), batch_size=3)): assert other()!=first

def test_another_process_finds_it(stored, tmp_path):
    name = scores_fingerprint(stored(), classifier(), a=1)
    code = "import datasets, sys; sys.path.insert(0, sys.argv[2]); import test_mapped as t\n" \
        "print(t.scores_fingerprint(datasets.load_from_disk(sys.argv[1]), t.classifier(), a=1))"
    done = subprocess.run([sys.executable, '-c', code, tmp_path/'stored', os.path.dirname(__file__)], capture_output=True, text=True,
        env={**os.environ, 'PYTHONHASHSEED': '7'})
    assert done.stdout.strip()==name and len(name)==32, done.stderr

def test_only_scores_go_to_the_cache(stored, tmp_path):
    map_scores(stored(), classifier(), label='label')
    cached = [f for f in (tmp_path/'stored').glob('cache-*.arrow')]
    assert len(cached)==1 and 'image' not in datasets.Dataset.from_file(str(cached[0])).column_names

def test_data_in_memory_has_a_cache_where_it_is_given_one(tmp_path):
    made = datasets.Dataset.from_dict(dict(image=pictures(), label=LABELS, more=['x']*20), FEATURES)
    for kwargs,again in (({}, True), (dict(cache_file_name=str(tmp_path/'scores.arrow')), False)):
        assert images_run(lambda: map_scores(made, classifier(), label='label', **kwargs))[1]>0 # noqa: B023
        assert (images_run(lambda: map_scores(made, classifier(), label='label', **kwargs))[1]>0)==again # noqa: B023

def test_what_has_no_scores_says_why(tmp_path):
    good = io.BytesIO(); pictures(1)[0].save(good, 'png')
    pictures(1)[0].save(tmp_path/'file.png')
    def row(bytes=None, path=None): return dict(bytes=bytes, path=path and str(path))
    rows = [row(good.getvalue()), row(b'no image\x1b[31m', 'b.png'), None, row(path=tmp_path/'file.png'), row(path=tmp_path/'gone.png'),
        row(good.getvalue(), 'c.png'), row(good.getvalue(), 'd.png')]
    made = datasets.Dataset.from_dict(dict(image=rows, label=[0, 1, 2, 0, 1, -1, None]),
        datasets.Features(image=datasets.Image(decode=False), label=datasets.Value('int64')))
    for size in (1, 7): # a batch without any, too
        whole = map_scores(made, classifier(), label='label', batch_size=size)
        errors,scores = whole['avh_error'][:],whole['avh_avh'][:]
        assert [i for i,e in enumerate(errors) if e is None]==[i for i,v in enumerate(scores) if v is not None]==[0, 3]
        assert whole['avh_pred'][1] is None and scores[0]==scores[3]
        assert errors[2]=='no image' and errors[5]==errors[6]=='no label' and 'b.png' in errors[1] and 'gone.png' in errors[4]
        assert not any('\x1b' in e for e in errors if e)

def test_images_are_upright_and_of_any_mode():
    image = Image.new('RGB', (10, 9)); image.paste((255,)*3, (0, 0, 5, 9))
    exif = image.getexif(); exif[0x0112] = 6
    held,upright,cmyk = (io.BytesIO() for _ in range(3))
    image.save(held, 'png', exif=exif); image.transpose(Image.Transpose.ROTATE_270).save(upright, 'png')
    image.convert('CMYK').save(cmyk, 'tiff')
    scores,_ = batch_scorer(Classifier('any', network(), lambda i: to_pixels(i.resize((8, 8)))), 'image')
    got = scores(dict(image=[dict(bytes=b.getvalue(), path=None) for b in (held, upright, cmyk)]))
    assert got['avh_error']==[None]*3 and got['avh_avh'][0]==got['avh_avh'][1]!=got['avh_avh'][2]

@pytest.mark.parametrize('change', [lambda d: d.with_format('torch'), lambda d: d.with_format('numpy'), lambda d: d.shuffle(seed=0),
    lambda d: d.select([5, 3]), lambda d: d.select([]), lambda d: d.rename_column('image', 'picture'),
    lambda d: d.cast_column('image', datasets.Image(decode=False))], ids='torch numpy shuffled chosen empty renamed encoded'.split())
def test_data_sets_as_they_come(stored, change):
    given = change(stored())
    name = next(c for c in given.column_names if c in ('image', 'picture'))
    whole = map_scores(given, classifier(), name, 'label')
    assert whole.format['type']==given.format['type'] and len(whole)==len(given) and whole.features[name]==given.features[name]
    by_number = dict(zip((np.asarray(i).tobytes() for i in pictures()), expected(classifier()).avh.tolist()))
    plain = whole.with_format(None).cast_column(name, datasets.Image())
    for row in plain: assert row['avh_avh']==pytest.approx(by_number[np.asarray(row[name]).tobytes()], rel=1e-5)

def test_of_one_split_and_its_columns(stored):
    for wrong,message in (
        (lambda: map_scores(datasets.DatasetDict(test=stored()), classifier()), 'dataset: expected one split, .*got DatasetDict'),
        (lambda: map_scores(stored().to_iterable_dataset(), classifier()), 'dataset: .*got IterableDataset'),
        (lambda: map_scores(stored(), classifier(), 'picture'), "image: no column 'picture', only 'image', 'label', 'more'"),
        (lambda: map_scores(stored(), classifier(), label='class'), "label: no column 'class'"),
        (lambda: map_scores(stored(), classifier(), label='more'), 'label: expected ClassLabel or integers, got Value'),
        (lambda: map_scores(stored(), 'lite/9'), 'model: expected lite/0')):
        with pytest.raises(ValueError, match=f'^{message}'): wrong()

def test_classes_are_held_against_those_of_the_network(stored):
    right,turned = Vocabulary(['Cat', 'dog', 'owl']),Vocabulary(['dog', 'cat', 'owl'])
    whole = map_scores(stored(), classifier(classes=right), label='label')
    np.testing.assert_allclose(whole['avh_avh'][:], expected(classifier()).avh, rtol=1e-5)
    with pytest.raises(ValueError, match='^label: 2 of 3 classes are others to the network, such as 0, which is cat here and dog there'):
        map_scores(stored(), classifier(classes=turned), label='label')
    renumbered = stored().align_labels_with_mapping(dict(cat=1, dog=0, owl=2), 'label') # what the error says
    whole = map_scores(renumbered, classifier(classes=turned), label='label')
    np.testing.assert_allclose(whole['avh_avh'][:], expected(classifier(), [(1, 0, 2)[y] for y in LABELS]).avh, rtol=1e-5)
    beyond = stored().remove_columns('label').add_column('label', [2]*19+[3]) # which is no class of the network
    with pytest.raises(ValueError, match='y: expected labels from 0 to 2, got 3'): map_scores(beyond, classifier(), label='label')

def test_a_fingerprint_says_all_that_scores_hang_on(stored):
    data,c = stored(),classifier()
    prints = {scores_fingerprint(data, c, **more) for more in ({}, dict(label='label'), dict(label='more'), dict(prefix='x'))}
    assert len(prints)==4 and scores_fingerprint(data, c)==scores_fingerprint(stored(), classifier())
    json.dumps(c.preprocessing)
    half = classifier(); half.model.half()
    assert scores_fingerprint(data, half)!=scores_fingerprint(data, c)!=scores_fingerprint(data.select(range(19)), c)
