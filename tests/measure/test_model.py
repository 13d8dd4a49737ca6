"What loaders give and how they fail: batches of all forms, labels of all kinds, and an end before the end."
import numpy as np, pytest, torch
from torch import nn
import avh_nb as av
from avh_nb.measure.head import unpack_batch

g = torch.Generator().manual_seed(0)
X,Y = torch.randn(12, 6, generator=g),torch.randint(4, (12,), generator=g)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(), nn.Linear(5, 4))
batches = [(X[:8], Y[:8]), (X[8:], Y[8:])]

def scores(loader, model=model, **kwargs): return av.score_model(model, loader, progress=False, **kwargs)

WHOLE = scores(batches)

def equal(a, b): return all(torch.equal(u, v) for (_,u),(_,v) in zip(a, b))

class Sum(nn.Module):
    "Two inputs"
    def __init__(self): super().__init__(); self.net = model
    def forward(self, a, b): return self.net(a+b)

FORMS = {
    'NumPy labels': lambda x, y: (x, y.numpy()), 'unsigned labels': lambda x, y: (x, y.numpy().astype(np.uint16)),
    'a list of labels': lambda x, y: (x, y.tolist()),
    'NumPy inputs': lambda x, y: [x.numpy(), y.numpy()], 'an index after the labels': lambda x, y: (x, y, torch.arange(len(y))),
    'weights after the labels': lambda x, y: (x, y, torch.rand(len(y))), 'one input in a tuple': lambda x, y: ((x,), y),
    'arguments': lambda x, y: (dict(input=x), y),
    **{key: (lambda x, y, key=key: {'input': x, key: y}) for key in ('labels', 'label', 'targets', 'target', 'y')}}

@pytest.mark.parametrize('form', FORMS)
def test_batches_of_all_forms(form): assert equal(scores([FORMS[form](x, y) for x,y in batches]), WHOLE)

def test_two_inputs():
    for batch in (((X/4, 3*X/4), Y), (dict(a=X/4, b=3*X/4), Y), dict(a=X/4, b=3*X/4, y=Y)):
        torch.testing.assert_close(scores([batch], Sum()).confidence, WHOLE.confidence)

def devices(v):
    "Of all tensors in something nested"
    if isinstance(v, torch.Tensor): return {v.device.type}
    return set().union(*map(devices, v.values() if isinstance(v, dict) else v))

def test_tensors_are_moved_wherever_they_are():
    "To a device without memory, as there may be no other here"
    for batch in ((X, Y), dict(input=X, y=Y), ((X, dict(mask=X)), Y), (dict(a=[X]), Y)):
        run,_ = unpack_batch(batch, 'meta')
        assert run(lambda *args, **kwargs: devices([args, kwargs]))=={'meta'}

LABELS = {
    'strings': (['cat']*8, 'y: expected integer labels, got list'), 'objects': ([dict(boxes=1)]*8, 'y: expected integer labels, got list'),
    'one hot': (torch.eye(4)[Y[:8]], r'y: expected shape \(N,\)'), 'fractions': (Y[:8].numpy()/2,
    'y: expected integer labels, got torch.float64'),
    'too few': (Y[:7].numpy(), 'y: expected 8 labels'), 'too large': ((Y[:8]+4).tolist(), 'y: expected labels from 0 to 3')}

@pytest.mark.parametrize('case', LABELS)
def test_labels_that_are_none_are_refused(case):
    labels,message = LABELS[case]
    with pytest.raises(ValueError, match=f'batch 1: {message}'): scores([batches[0], (X[:8], labels)])

@pytest.mark.parametrize('labelled_first', [True, False])
def test_batches_with_and_without_labels_do_not_mix(labelled_first):
    loader = [batches[0], X[8:]] if labelled_first else [X[:8], batches[1]]
    with pytest.raises(ValueError, match='batch 1: y: expected labels in all batches or in none'): scores(loader)

def test_an_index_in_the_place_of_labels_is_refused():
    "Where it fits: as many classes as samples. Sorted labels before an index pass"
    wide = nn.Linear(6, 12)
    index = torch.arange(12)
    for batch in ((X, index, Y), (X, index.numpy(), Y.numpy()), [X, index.int(), Y]):
        with pytest.raises(ValueError,
            match=r'batch 0: y: the second entry of the batch counts 0, 1, 2.* score \(\(x, y\) for x, index, y in loader\)'):
            scores([batch], wide)
    expected = scores([(X, index)], wide)
    for batch in ((X, index, index), (X, index, X), (X, index, torch.rand(12))): assert equal(scores([batch], wide), expected)
    assert equal(scores((((x, y) for x,_,y in [(X, index, Y)])), wide), scores([(X, Y)], wide))

NO_LOADERS = {
    'a pair': ((X, Y), 'got one batch, a tuple: put it into a list'), 'a list of the two': ([X, Y],
    'got one batch, a list: put it into a list'),
    'arrays': ((X.numpy(), Y.numpy()), 'got one batch, a tuple'), 'a tensor': (X, 'got one batch, a Tensor'),
    'a dictionary': (dict(input=X, y=Y), 'got one batch, a dict'),
    'a data set': (torch.utils.data.TensorDataset(X, Y), 'got a data set, TensorDataset.*DataLoader'),
    'nothing': (None, 'such as a DataLoader, got NoneType')}

@pytest.mark.parametrize('f', [scores, lambda loader: list(av.score_batches(model, loader))], ids=['score_model', 'score_batches'])
@pytest.mark.parametrize('case', NO_LOADERS)
def test_what_is_no_loader_is_refused(f, case):
    loader,message = NO_LOADERS[case]
    with pytest.raises(ValueError, match=f'loader: expected an iterable of batches.*{message}'): f(loader)

# An end before the end

class Mute(Exception):
    "As before Python 3.11"
    add_note = property()

def until(error):
    yield batches[0]
    raise error

@pytest.mark.parametrize('error', [OSError('disk'), KeyboardInterrupt(), StopAsyncIteration()], ids=lambda e: type(e).__name__)
def test_what_was_scored_before_an_error_is_in_it(error):
    with pytest.raises(type(error)) as caught: scores(until(error))
    assert caught.value is error and len(error.scores)==8
    for (name,a),(_,b) in zip(error.scores, WHOLE): assert torch.equal(a, b[:8]), name
    if hasattr(error, 'add_note'): assert 'the scores of the 8 samples before it are in `scores` of this exception' in error.__notes__[0]
    assert model.training and not any(m._forward_hooks for m in model.modules())

def test_what_was_scored_before_an_error_without_notes():
    with pytest.raises(Mute) as caught: scores(until(Mute()))
    assert len(caught.value.scores)==8

def test_what_was_scored_before_a_refusal():
    "Of the model, or of a batch"
    for bad in ((X[8:, :3], Y[8:]), (X[8:], Y[8:]+9)):
        with pytest.raises((RuntimeError, ValueError)) as caught: scores([batches[0], bad])
        assert torch.equal(caught.value.scores.avh, WHOLE.avh[:8])

def test_an_error_before_the_first_scores_has_none():
    with pytest.raises(ValueError, match='batch 0') as caught: scores([(X, Y+9)])
    assert not hasattr(caught.value, 'scores')

@pytest.mark.parametrize('default', ['float64', 'bfloat16', 'a device'])
@pytest.mark.parametrize('head', [nn.Linear, av.AngularLinear])
def test_another_default_type_or_device_changes_nothing(head, default):
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), head(5, 4))
    with torch.no_grad(): net[0].bias[0] = .3
    expected = scores([(X, Y, Y)], net)
    if default=='a device': torch.set_default_device('meta')
    else: torch.set_default_dtype(getattr(torch, default))
    try: got = scores([(X, Y, Y)], net)
    finally: torch.set_default_device(None); torch.set_default_dtype(torch.float32)
    assert equal(got, expected)

@pytest.mark.parametrize('engine', ['torch', 'numba'])
def test_inference_mode_of_an_engine(engine):
    pytest.importorskip(engine)
    torch.manual_seed(0)
    big,x,y = nn.Linear(64, 500),torch.randn(200, 64),torch.randint(500, (200,))
    expected = scores([(x, y)], big, engine=engine)
    with torch.inference_mode(): assert equal(scores([(x, y)], big, engine=engine), expected)

@pytest.mark.parametrize('made_there', [False, True])
def test_inference_mode(made_there):
    with torch.inference_mode():
        net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)) if made_there else model
        inside = scores(batches, net)
        first = list(av.score_batches(net, batches))[0]
    assert equal(inside, scores(batches, net)) and torch.equal(first.avh, inside.avh[:8])

def test_what_must_not_be_written_to_is_not():
    "A network may begin with an operation in place; a file that is mapped for reading would end the process"
    x = np.frombuffer(X.numpy().tobytes(), np.float32).reshape(X.shape)
    before,net = x.copy(),nn.Sequential(nn.ReLU(inplace=True), nn.Linear(X.shape[1], 4))
    scores = av.score_model(net, [(x, Y)], progress=False)
    assert np.array_equal(x, before) and (x<0).any()
    assert torch.equal(scores.avh, av.score_model(net, [(X.clone(), Y)], progress=False).avh)
