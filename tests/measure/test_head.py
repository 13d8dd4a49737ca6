"Real classifiers of three libraries, with random weights and no network."
import copy, re
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

@pytest.mark.parametrize('name,head', [('resnet18', 'fc'), ('mobilenet_v3_small', 'classifier.3'), ('vgg11', 'classifier.6'),
    ('densenet121', 'classifier'), ('alexnet', 'classifier.6')])
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
    config = t.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16,
        num_labels=7)
    check(t.ViTForImageClassification(config), [dict(pixel_values=x, labels=y) for x,y in loader(X, Y)], 'classifier')

def test_transformers_text():
    t = pytest.importorskip('transformers')
    config = t.BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=7)
    ids = torch.randint(50, (6, 9))
    batches = [dict(input_ids=i, attention_mask=torch.ones_like(i), labels=y) for i,y in loader(ids, Y)]
    check(t.BertForSequenceClassification(config), batches, 'classifier')

def test_a_classifier_without_linear_head_is_refused():
    import torchvision
    with pytest.raises(ValueError,
        match=r"no nn.Linear makes the logits .* the last layer that ran is 'classifier.3', a AdaptiveAvgPool2d.* What works: .*head="):
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
        for s in av.score_batches(torchvision.models.resnet18(num_classes=7), loader(X, Y.clone().index_fill_(0, torch.tensor([5]), 99))):
            kept.append(s)
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
    with pytest.raises(ValueError,
        match=r"'classifier.1' has to run once per batch on features \(N, D\); it ran 1 times on \(4, 512, 3, 3\)"):
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

@pytest.mark.parametrize('how', ['wrapped', 'in place', 'a part', 'its body', 'dynamic'])
@pytest.mark.parametrize('called_before', [False, True])
def test_a_compiled_model(how, called_before):
    "Hooks put on after the first call have to fire"
    torch.compiler.reset()
    plain = network().eval()
    model = copy.deepcopy(plain)
    if how=='wrapped': model = torch.compile(model, backend='eager')
    elif how=='dynamic': model = torch.compile(model, backend='eager', dynamic=True)
    elif how=='in place': model.compile(backend='eager')
    elif how=='its body': model[0] = torch.compile(model[0], backend='eager')
    else: model = nn.Sequential(torch.compile(model, backend='eager'))
    if called_before:
        with torch.no_grad(): model(x)
    s = scores(model)
    assert_scores_are_those_of(plain, s)
    names = dict(wrapped=('_orig_mod.1', '1'), dynamic=('_orig_mod.1', '1'), part=('0._orig_mod.1', '0.1')).get(how.split()[-1], ('1',))
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

@pytest.mark.skipif(not hasattr(torch.compiler, 'set_stance'), reason='nothing to take away')
def test_before_set_stance_a_compiled_part_is_named(monkeypatch):
    "PyTorch before 2.6: the network within is run, and a part that hooks can't hear is named"
    monkeypatch.delattr(torch.compiler, 'set_stance', raising=False)
    torch.compiler.reset()
    plain = network().eval()
    model = torch.compile(copy.deepcopy(plain), backend='eager')
    part = nn.Sequential(torch.compile(copy.deepcopy(plain), backend='eager'))
    with torch.no_grad(): model(x); part(x)
    assert_scores_are_those_of(plain, scores(model))
    for head in (None, '0.1'):
        with pytest.raises(ValueError,
            match=r"(no layer of it ran|it ran 0 times) \(0 is compiled, and before PyTorch 2.6 hooks do not fire"):
            score_model(part, [x], head=head, progress=False)

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
    with pytest.warns((FutureWarning, UserWarning)): return torch.nn.utils.weight_norm(layer)

@pytest.mark.parametrize('norm', [old_weight_norm, torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.spectral_norm,
    torch.nn.utils.parametrizations.spectral_norm],
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

class Notes(nn.Module):
    "Buffers that change in any mode: in place, by another tensor, and two caches with what the module notes of them"
    def __init__(self):
        super().__init__()
        for name,value in dict(calls=torch.tensor(0), mean=torch.zeros(5), table=torch.zeros(1), base=torch.zeros(2)).items():
            self.register_buffer(name, value)
        self.shape,self.longest = (1,),0
    def forward(self, x):
        self.calls += 1
        self.mean = .9*self.mean+.1*x.mean(0)
        if len(x)>self.shape[0]: self.table,self.shape = torch.zeros(len(x)),(len(x),) # grows
        if len(x)>self.longest: self.base,self.longest = torch.full((2,), 1.*len(x)),len(x) # keeps its size
        assert len(self.table)==self.shape[0] and (self.base==self.longest).all()
        return x

@pytest.mark.parametrize('inference', [False, True])
def test_buffers_are_left_as_they_were(inference):
    torch.manual_seed(0)
    model = network(nn.Sequential(nn.BatchNorm1d(5), Notes(), nn.Linear(5, 4)))
    model(x[:3]) # in training mode
    before = state(model)
    with torch.inference_mode(inference): s = scores(model)
    assert len(s)==12 and all(m.training for m in model.modules())
    after = state(model)
    assert [k for k,v in before.items() if v.shape!=after[k].shape]==['1.1.table'] # a cache may grow
    for k,v in before.items(): assert torch.equal(v, after[k]) or 'table' in k, k
    model(x)

def test_a_loss_may_be_waiting_for_its_gradient():
    "What autograd has kept for it is not touched"
    model = network(nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4))).eval()
    loss = model(x).sum()
    scores(model)
    loss.backward()
    assert model[0][0].weight.grad.any()

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

class Masked(nn.Linear):
    "Leaves a class out"
    def forward(self, x): return super().forward(x).index_fill(1, torch.tensor([2]), -torch.inf)

def hooked(change):
    layer = nn.Linear(5, 4)
    layer.register_forward_hook(lambda m, args, out: change(out))
    return layer

def turned_angular():
    layer = AngularLinear(5, 4)
    layer.register_forward_hook(lambda m, args, out: out/1.01)
    return layer

NOT_LINEAR = {'cosines': lambda: Cosines(5, 4, bias=False), 'a class masked': lambda: Masked(5, 4),
    'temperature': lambda: hooked(lambda z: z/1.01),
    'another bias': lambda: hooked(lambda z: z+1e-4), 'temperature of an angular head': turned_angular}

@pytest.mark.parametrize('given', [None, '1'])
@pytest.mark.parametrize('case', NOT_LINEAR)
def test_a_layer_that_only_is_called_linear_is_refused(case, given):
    "By name, with the largest miss and what would work"
    model = network(NOT_LINEAR[case]()).eval()
    with torch.no_grad(): miss = (model(x[:8])-Head.of(model[1]).logits(model[0](x[:8]))).abs().max().item()
    with pytest.raises(ValueError, match=r"head: '1' made the logit .* where (x·w \+ bias|s\(π − A\)) is .* What works: avh_nb.score") as e:
        scores(model, head=given)
    assert float(re.search(r'the largest miss, (\S+?)\. ', str(e.value))[1])==pytest.approx(miss, rel=.1)

class Adapted(nn.Module):
    "A layer with a small one beside it, as LoRA has it, which starts with zeros"
    def __init__(self, b):
        super().__init__()
        self.base_layer,self.a,self.b = nn.Linear(5, 4),nn.Linear(5, 2, bias=False),nn.Linear(2, 4, bias=False)
        with torch.no_grad(): self.b.weight.copy_(b*torch.randn(4, 2))
    def forward(self, x): return self.base_layer(x)+self.b(self.a(x))

class Mean(nn.Module):
    "Two heads, as DeiT has them"
    def __init__(self): super().__init__(); self.base_layer,self.other = nn.Linear(5, 4),nn.Linear(5, 4)
    def forward(self, x): return (self.base_layer(x)+self.other(x))/2

class Tempered(nn.Module):
    def __init__(self): super().__init__(); self.base_layer = nn.Linear(5, 4)
    def forward(self, x): return self.base_layer(x)/1.01

@pytest.mark.parametrize('given', [None, '1.base_layer'])
@pytest.mark.parametrize('head', [lambda: Adapted(1e-5), Mean, Tempered], ids=['adapter', 'two heads', 'temperature'])
def test_a_layer_that_something_comes_after_is_refused(head, given):
    model = network(head())
    with pytest.raises(ValueError,
        match=r"(nearest, '1\.base_layer', misses them by|"
            r"'1\.base_layer' does not make the logits: .* differs from it by) up to .* What works"):
        scores(model, head=given)

def test_an_adapter_of_zeros_changes_nothing():
    assert_scores_are_those_of(model := network(Adapted(0.)), scores(model))

@pytest.mark.parametrize('last', [nn.Softmax(1), nn.LogSoftmax(1)], ids=['softmax', 'log-softmax'])
def test_probabilities_are_scored_where_the_head_is_named(last):
    "Their softmax is that of the scores; without the name they would be taken for logits"
    plain = network()
    model = nn.Sequential(plain, last)
    assert_scores_are_those_of(plain, scores(model, head='0.1'))
    with pytest.raises(ValueError, match="they are a softmax of what '0.1' makes"): scores(model)

class LaterOn(nn.Linear):
    "Changes what it does after some calls"
    def __init__(self, calls): super().__init__(5, 4); self.calls = calls
    def forward(self, x): self.calls -= 1; return super().forward(x)*(1 if self.calls>=0 else 1.01)

@pytest.mark.parametrize('head', [LaterOn, lambda calls: nn.Sequential(nn.Linear(5, 4), Then(calls))], ids=['in it', 'after it'])
def test_every_batch_is_compared(head):
    kept = []
    with pytest.raises(ValueError, match='batch 1: head: '):
        for s in av.score_batches(network(head(2)), [(x[:8], y[:8]), (x[8:], y[8:])]): kept.append(s) # one call finds the head
    assert len(kept)==1

class Then(nn.Module):
    def __init__(self, calls): super().__init__(); self.calls = calls
    def forward(self, z): self.calls -= 1; return z*(1 if self.calls>=0 else 1.01)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize('head', [nn.Linear, AngularLinear])
def test_rounding_passes_the_comparison_and_little_more(head, dtype):
    "With many features, many classes and lengths of all sizes"
    torch.manual_seed(0)
    model,features = nn.Sequential(nn.Identity(), head(300, 500)).to(dtype),torch.randn(60, 300).to(dtype)*torch.logspace(-3, 2, 60)[:,
        None].to(dtype)
    if head is AngularLinear:
        features[:20],features[20:40] = model[1].weight[:20].detach(),-model[1].weight[:20].detach() # angles of 0 and pi
    assert score_model(model, [features], progress=False).avh.isfinite().all()
    model[1].register_forward_hook(lambda m, args, out: out*1.05)
    with pytest.raises(ValueError, match="head: '1' made the logit"): score_model(model, [features], progress=False)

@pytest.mark.parametrize('setting', ['autocast', 'medium'])
def test_settings_in_force_pass_the_comparison(setting):
    torch.manual_seed(0)
    model,features = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 500)),torch.randn(60, 64)
    if setting=='autocast':
        with torch.autocast('cpu', torch.bfloat16): s = score_model(model, [features], progress=False)
    else:
        torch.set_float32_matmul_precision('medium')
        try: s = score_model(model, [features], progress=False)
        finally: torch.set_float32_matmul_precision('highest')
    assert s.avh.isfinite().all()

def test_dead_samples_pass_the_comparison():
    model = network()
    with torch.no_grad():
        for p in model[0].parameters(): p.zero_()
    with pytest.warns(UserWarning, match='12 of 12 rows'): assert scores(model).avh.isnan().all()

@pytest.mark.parametrize('layer,expected', [(nn.Linear(3, 2), True), (nn.Conv2d(3, 2, 1), True), (nn.Conv2d(3, 2, 1, padding=1), False),
    (nn.Conv2d(3, 2, 3), False),
    (nn.Conv2d(4, 2, 1, groups=2), False), (AngularLinear(3, 2), True), (nn.ReLU(), False), (None, False)], ids=str)
def test_what_can_be_a_head(layer, expected): assert is_head(layer)==expected

# Heads of zeros, and of one class

def zeroed(rows, seed=0):
    model = network(seed=seed)
    with torch.no_grad(): model[1].weight[rows] = 0
    return model

@pytest.mark.parametrize('engine', ['torch', 'numba'])
@pytest.mark.parametrize('rows', [slice(None), 2], ids=['all', 'one'])
def test_class_vectors_of_zeros_have_no_angles_and_a_softmax(rows, engine):
    "One warning over the loader, and a training may start so"
    pytest.importorskip(engine)
    model = zeroed(rows)
    with pytest.warns(UserWarning, match=r"(4|1) of 4 class vectors are zero, the first of class (0|2); scores by angle are NaN") as told:
        s = scores(model, engine=engine)
    assert len(told)==1
    with torch.no_grad(): features = model.eval()[0](x); logits = model[1](features)
    p = logits.double().softmax(1)
    by_hand = dict(confidence=p.gather(1, y[:, None])[:, 0], entropy=-(p*p.log()).sum(1), norm=features.norm(dim=1),
        loss=F.cross_entropy(logits, y, reduction='none'), energy=-logits.logsumexp(1),
        logit_margin=logits.gather(1, y[:, None])[:, 0]-logits.scatter(1, y[:, None], -torch.inf).amax(1))
    for name,values in by_hand.items():
        torch.testing.assert_close(getattr(s, name).double(), values.double(), rtol=1e-5, atol=1e-6, msg=name)
    assert torch.equal(torch.stack([s.pred, s.pred2], 1), logits.topk(2).indices) and s.el2n.isfinite().all() and s.margin.isfinite().all()
    for name in ('angle', 'avh', 'avc', 'angular_gap', 'angle_pred', 'avh_pred'): assert getattr(s, name).isnan().all(), name
    with pytest.raises(ValueError, match='batch 0: w: .* class vectors are zero'): scores(model, on_invalid='raise')

def test_samples_without_direction_are_told_from_classes_without():
    model = zeroed(slice(None))
    with torch.no_grad():
        for p in model[0].parameters(): p.zero_()
    with pytest.warns(UserWarning) as told: s = scores(model)
    assert [re.match(r'12 of 12 rows|4 of 4 class', str(w.message)) is not None for w in told]==[True, True] and s.confidence.isnan().all()

def test_class_vectors_of_zeros_given_by_hand_are_refused():
    with pytest.raises(ValueError, match=r'row 1 \(class 1\) is zero'):
        av.score(torch.randn(2, 3), torch.eye(3)*torch.tensor([[1.], [0.], [1.]]))

def test_one_output_is_refused():
    model = network(nn.Linear(5, 1))
    with pytest.raises(ValueError, match='head: has one output.* by a sigmoid'): score_model(model, [(x, y.clamp(max=0))], progress=False)

# What is no network

def test_what_hooks_cannot_look_into_is_refused():
    plain = network().eval()
    exported = torch.export.export(plain, (x,))
    for model,kind in ((torch.jit.trace(plain, x), 'TopLevelTracedModule'), (exported, 'ExportedProgram'), (lambda x: x, 'function')):
        with pytest.raises(ValueError, match=f"model: expected an nn.Module that hooks can look into, got {kind}. What works"):
            scores(model)
    with pytest.raises(ValueError, match="model: has no evaluation mode. What works: what it was made of"): scores(exported.module())
    with pytest.raises(ValueError, match="on the meta device, and have no values"): scores(network().to('meta'))

def test_a_message_names_few_layers():
    deep = nn.Sequential(*(nn.Linear(6, 6) for _ in range(27)), nn.Tanh())
    with pytest.raises(ValueError, match=r"the linear layers, from the last, are 26, 25, 24, 23 and 23 more; the nearest, '26', misses"):
        scores(deep)
    with pytest.raises(ValueError, match=r"its linear layers, from the last, are 26, 25, 24, 23 and 23 more$"): scores(deep, head='fc')
