"Real classifiers of three libraries, with random weights and no network."
import copy
import pytest, torch, torch.nn.functional as F
from torch import nn
import avh_nb as av
from avh_nb.loss.angular import AngularLinear
from avh_nb.measure.head import Head, find_head, is_head, logits_of, unpack_batch
from avh_nb.measure.model import score_model
from avh_nb.watch.listener import Listener

torch.manual_seed(0)
X,Y = torch.randn(6, 3, 64, 64),torch.tensor([0, 1, 2, 3, 4, 5])

def check(model, batches, name):
    "The head is found, and the scores are those of features and logits taken by hand"
    assert find_head(model, batches[0])[0]==name
    s = av.score_model(model, batches, progress=False)
    model.eval()
    with torch.no_grad(): logits = torch.cat([logits_of(unpack_batch(b)[0](model)) for b in batches])
    y = torch.cat([unpack_batch(b)[1] for b in batches])
    assert torch.equal(s.pred, logits.argmax(1))
    torch.testing.assert_close(s.confidence, logits.softmax(1).gather(1, y[:, None])[:, 0], rtol=1e-4, atol=1e-6)
    assert s.avh.isfinite().all() and len(s)==len(y)

def loader(x, y, size=4): return list(zip(x.split(size), y.split(size)))

@pytest.mark.parametrize('name,head', [('resnet18', 'fc'), ('mobilenet_v3_small', 'classifier.3'), ('vgg11', 'classifier.6'), ('densenet121', 'classifier'), ('alexnet', 'classifier.6')])
def test_torchvision(name, head):
    import torchvision
    check(torchvision.models.get_model(name, num_classes=7), loader(X, Y), head)

@pytest.mark.parametrize('name,head', [('resnet10t', 'fc'), ('vit_tiny_patch16_224', 'head'), ('convnext_atto', 'head.fc')])
def test_timm(name, head):
    timm = pytest.importorskip('timm')
    x = torch.randn(6, 3, 224, 224) if name.startswith('vit') else X
    check(timm.create_model(name, num_classes=7), loader(x, Y), head)

def test_transformers_image():
    t = pytest.importorskip('transformers')
    config = t.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16, num_labels=7)
    check(t.ViTForImageClassification(config), [dict(pixel_values=x, labels=y) for x,y in loader(X, Y)], 'classifier')

def test_transformers_text():
    t = pytest.importorskip('transformers')
    config = t.BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=7)
    ids = torch.randint(50, (6, 9))
    batches = [dict(input_ids=i, attention_mask=torch.ones_like(i), labels=y) for i,y in loader(ids, Y)]
    check(t.BertForSequenceClassification(config), batches, 'classifier')

def test_a_classifier_without_linear_head_is_refused():
    import torchvision
    with pytest.raises(ValueError, match=r"no nn.Linear makes the logits .* the last layer that ran is 'classifier.3', a AdaptiveAvgPool2d.* What works: .*head="):
        av.score_model(torchvision.models.squeezenet1_1(num_classes=7), loader(X, Y), progress=False)

def test_a_head_on_every_token_is_refused():
    t = pytest.importorskip('transformers')
    config = t.GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2, num_labels=7, pad_token_id=0)
    with pytest.raises(ValueError, match='no nn.Linear makes the logits .* score'):
        av.score_model(t.GPT2ForSequenceClassification(config), [dict(input_ids=torch.randint(1, 50, (6, 9)), labels=Y)], progress=False)

def test_batches_before_an_error_are_not_lost():
    import torchvision
    kept = []
    with pytest.raises(ValueError, match='batch 1: y: expected labels'):
        for s in av.score_batches(torchvision.models.resnet18(num_classes=7), loader(X, Y.clone().index_fill_(0, torch.tensor([5]), 99))): kept.append(s)
    assert len(kept)==1 and len(kept[0])==4

# What a head may be

x,y = torch.randn(12, 6),torch.arange(12)%4

def network(head=None, seed=0):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout())
    return nn.Sequential(body, head or nn.Linear(5, 4)).train()

def assert_scores_are_those_of(model, s, x=x, y=y):
    "Softmax scores of the model's own logits in evaluation mode"
    modes = [m.training for m in model.modules()]
    with torch.no_grad(): p = logits_of(model.eval()(x)).double().softmax(1)
    for m,training in zip(model.modules(), modes): m.training = training
    assert torch.equal(s.pred, p.argmax(1)) and s.avh.isfinite().all()
    torch.testing.assert_close(s.confidence.double(), p.gather(1, y[:, None])[:, 0], rtol=1e-4, atol=1e-6)

def scores(model, **kwargs): return score_model(model, [(x[:8], y[:8]), (x[8:], y[8:])], progress=False, **kwargs)

def heard(model, called=None, labels=y):
    "What a listener hears in a validation loop"
    model.eval()
    listener = Listener(model, labels=labels)
    try:
        with torch.no_grad(): (called or model)(x)
    finally: listener.close()
    frame = listener.frame()
    return av.Scores(**{k: torch.tensor(frame[k].to_numpy()) for k,_ in score_model(network(), [x], progress=False)})

class Pooled(nn.Module):
    "As torchvision's squeezenet, with the mean over the places before the classifier"
    def __init__(self):
        super().__init__()
        self.features,self.final_conv = nn.Conv2d(3, 5, 3),nn.Conv2d(5, 4, 1)
    def forward(self, x): return self.final_conv(F.relu(self.features(x)).mean((2, 3), keepdim=True)).flatten(1)

def test_a_convolution_on_pooled_features():
    torch.manual_seed(0)
    model,images = Pooled(),torch.randn(12, 3, 8, 8)
    assert find_head(model, images)==('final_conv', model.final_conv)
    s = score_model(model, [(images, y)], progress=False)
    assert_scores_are_those_of(model, s, images)
    features = F.relu(model.features(images)).mean((2, 3)).detach()
    torch.testing.assert_close(s.avh, av.avh(features, model.final_conv.weight.detach().flatten(1), y))
    assert torch.equal(score_model(model, [(images, y)], head='final_conv', progress=False).avh, s.avh)

def test_a_convolution_on_maps_is_refused():
    import torchvision
    model = torchvision.models.squeezenet1_1(num_classes=7)
    with pytest.raises(ValueError, match=r"'classifier.1' has to run once a batch on features \(N, D\); it ran 1 times on \(4, 512, 3, 3\)"):
        score_model(model, loader(X, Y), head='classifier.1', progress=False)

def test_convolutional_head_of_timm():
    timm = pytest.importorskip('timm')
    check(timm.create_model('resnetv2_50', num_classes=7), loader(X, Y), 'head.fc')

def test_a_head_without_bias():
    model = network(nn.Linear(5, 4, bias=False))
    assert Head.of(model[1]).bias is None
    assert_scores_are_those_of(model, scores(model))

@pytest.mark.parametrize('learn_scale', [False, True])
def test_an_angular_head(learn_scale):
    model = network(AngularLinear(5, 4, scale=3., learn_scale=learn_scale))
    head = Head.of(model[1])
    assert head.scale==pytest.approx(3) and head.bias is None
    assert_scores_are_those_of(model, scores(model))
    features = model.eval()[0](x).detach()
    torch.testing.assert_close(head.logits(features), model[1](features).detach(), rtol=1e-5, atol=1e-5)

@pytest.mark.parametrize('how', ['wrapped', 'in place', 'a part'])
@pytest.mark.parametrize('called_before', [False, True])
def test_a_compiled_model(how, called_before):
    "Hooks put on after the first call have to fire"
    torch.compiler.reset()
    plain = network().eval()
    model = copy.deepcopy(plain)
    if how=='wrapped': model = torch.compile(model, backend='eager')
    elif how=='in place': model.compile(backend='eager')
    else: model = nn.Sequential(torch.compile(model, backend='eager'))
    if called_before:
        with torch.no_grad(): model(x)
    s = scores(model)
    assert_scores_are_those_of(plain, s)
    names = dict(wrapped=('_orig_mod.1', '1'), part=('0._orig_mod.1',)).get(how.split()[-1], ('1',))
    assert find_head(model, x)[0]==names[0]
    for name in names: assert torch.equal(scores(model, head=name).avh, s.avh)
    torch.testing.assert_close(heard(model).avh, s.avh)

def test_compiled_models_run_compiled_again_afterwards():
    "Neither scoring nor listening leaves a model running uncompiled"
    calls = []
    def backend(graph, inputs): return lambda *args: calls.append(1) or graph.forward(*args)
    torch.compiler.reset()
    model = torch.compile(network().eval(), backend=backend)
    with torch.no_grad(): model(x)
    scores(model); heard(model)
    before = len(calls)
    with torch.no_grad(): model(x)
    assert len(calls)>before

def test_data_parallel():
    plain = network()
    model = nn.DataParallel(copy.deepcopy(plain))
    assert find_head(model, x)[0]=='module.1'
    s = scores(model)
    assert_scores_are_those_of(plain, s)
    for name in ('1', 'module.1'): assert torch.equal(scores(model, head=name).avh, s.avh)
    assert torch.equal(scores(plain, head='module.1').avh, s.avh) # a name that was found in the wrapper
    torch.testing.assert_close(heard(model).avh, s.avh)

def state(model): return {k: v.clone() for k,v in model.state_dict().items()}

def old_weight_norm(layer):
    with pytest.warns(FutureWarning): return torch.nn.utils.weight_norm(layer)

@pytest.mark.parametrize('norm', [old_weight_norm, torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.spectral_norm, torch.nn.utils.parametrizations.spectral_norm],
    ids=['weight norm, hook', 'weight norm', 'spectral norm, hook', 'spectral norm'])
def test_a_parametrised_head_is_left_as_it_was(norm):
    "In training mode, where spectral norm would go on with its power iteration"
    model = network(norm(nn.Linear(5, 4)))
    before = state(model)
    s = scores(model)
    assert_scores_are_those_of(model, s)
    assert torch.equal(scores(model).avh, s.avh)
    Head.of(model[1])
    after = state(model)
    assert all(torch.equal(v, after[k]) for k,v in before.items()) and model[1].training

@pytest.mark.parametrize('norm', [old_weight_norm, torch.nn.utils.spectral_norm], ids=['weight norm', 'spectral norm'])
def test_a_weight_that_hooks_make_is_never_an_old_one(norm):
    "As after a step of training, when the layer has not run with its new parameters yet"
    layer = norm(nn.Linear(5, 4))
    with torch.no_grad():
        for p in layer.parameters(): p.add_(torch.randn_like(p))
    got = Head.of(layer).w
    features = torch.randn(3, 5)
    torch.testing.assert_close(F.linear(features, got, layer.bias), layer.eval()(features))

class DropWeights(nn.Module):
    def forward(self, w): return F.dropout(w, .5, self.training)

def test_class_vectors_are_read_in_evaluation_mode():
    model = network()
    nn.utils.parametrize.register_parametrization(model[1], 'weight', DropWeights())
    s = scores(model)
    assert_scores_are_those_of(model, s)
    assert torch.equal(scores(model).avh, s.avh) and model[1].parametrizations.weight[0].training

class Cosines(nn.Linear):
    def forward(self, x): return 16*F.linear(F.normalize(x), F.normalize(self.weight))

@pytest.mark.parametrize('given', [None, '1'])
def test_a_layer_that_only_is_called_linear_is_refused(given):
    model = network(Cosines(5, 4, bias=False))
    with pytest.raises(ValueError, match="head: '1' made the logit .* where x·w"): scores(model, head=given)

@pytest.mark.parametrize('given', [None, '1'])
def test_a_temperature_by_a_hook_is_refused(given):
    model = network()
    model[1].register_forward_hook(lambda m, args, out: out/1.5)
    with pytest.raises(ValueError, match="head: '1' made the logit"): scores(model, head=given)

def test_half_precision_and_dead_samples_pass_the_comparison():
    model = network()
    with torch.autocast('cpu', torch.bfloat16): s = scores(model)
    assert s.avh.isfinite().all()
    with torch.no_grad():
        for p in model[0].parameters(): p.zero_()
    with pytest.warns(UserWarning, match='12 of 12 rows'): assert scores(model).avh.isnan().all()

@pytest.mark.parametrize('layer,expected', [(nn.Linear(3, 2), True), (nn.Conv2d(3, 2, 1), True), (nn.Conv2d(3, 2, 1, padding=1), False), (nn.Conv2d(3, 2, 3), False),
    (nn.Conv2d(4, 2, 1, groups=2), False), (AngularLinear(3, 2), True), (nn.ReLU(), False), (None, False)], ids=str)
def test_what_can_be_a_head(layer, expected): assert is_head(layer)==expected
