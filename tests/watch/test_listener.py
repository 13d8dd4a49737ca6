"A head is what makes the logits: a listener holds the layer against what it made and against what the model returned."
import numpy as np, pytest, torch
from torch import nn
from types import SimpleNamespace
from avh_nb.measure.model import score_model
from avh_nb.watch.listener import Listener
from avh_nb.watch.tracker import Tracker

class Adapted(nn.Module):
    "LoRA: a frozen layer and a product of two thin ones, the second of which starts at zero"
    def __init__(self, d, c):
        super().__init__()
        self.base_layer,self.lora_A,self.lora_B = nn.Linear(d, c),nn.Linear(d, 2, bias=False),nn.Linear(2, c, bias=False)
        nn.init.zeros_(self.lora_B.weight)
    def forward(self, x): return self.base_layer(x)+self.lora_B(self.lora_A(x))

def body(last): return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), last).eval()

@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)

def heard(model, x, y=None, head=None, **kwargs):
    listener = Listener(model, head, y)
    try:
        with torch.no_grad(): [model(b, **kwargs) for b in x.split(4)]
    finally: listener.close()
    return listener.frame()

@pytest.mark.parametrize('head', [None, '2.base_layer'])
def test_the_base_layer_of_an_adapter_is_not_remembered(head):
    model,x,y = body(Adapted(5, 3)),torch.randn(8, 4),torch.arange(8)%3
    tracker = Tracker(head=head)
    with tracker.listen(model, labels=y): model(x)
    nn.init.normal_(model[2].lora_B.weight, std=.1)
    with pytest.raises(ValueError, match="head: '2.base_layer' does not make the logits"), tracker.listen(model, labels=y): model(x)
    assert tracker.epochs()==[1] and not model._forward_hooks and not model[2].base_layer._forward_hooks

class Cosine(nn.Linear):
    def forward(self, x): return 16*nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight))

class Temperature(nn.Sequential):
    def forward(self, x): return super().forward(x)/2

@pytest.mark.parametrize('model', [lambda: body(Cosine(5, 3)), lambda: Temperature(*body(nn.Linear(5, 3))).eval()],
    ids=['cosine', 'temperature'])
def test_a_named_layer_that_does_not_make_the_logits_is_refused(model):
    with pytest.raises(ValueError, match="head: '2' (made the logit .* where x·w . bias is|does not make the logits)"):
        heard(model(), torch.randn(8, 4), head='2')

class Returns(nn.Module):
    def __init__(self, f): super().__init__(); self.net,self.f = body(nn.Linear(5, 3)),f
    def forward(self, x): return self.f(self.net(x))

@pytest.mark.parametrize('f', [lambda z: z, lambda z: SimpleNamespace(logits=z), lambda z: dict(logits=z, loss=z.sum()),
    lambda z: (z.sum(), z), lambda z: z.softmax(1)])
def test_a_model_may_return_its_logits_in_many_ways(f):
    model,x = Returns(f).eval(),torch.randn(8, 4)
    expected = score_model(model.net, [x], progress=False).to_frame()
    found = heard(model, x, head='net.2')
    for k in expected: np.testing.assert_allclose(found[k], expected[k], rtol=1e-5, atol=1e-6)

def test_logits_in_a_finer_dtype_than_they_were_made_in():
    "As Accelerate returns those of mixed precision"
    class Mixed(Returns):
        def forward(self, x):
            with torch.autocast('cpu', torch.bfloat16): z = self.net(x)
            return z.float()
    model,x = Mixed(None).eval(),torch.randn(64, 4)
    assert len(heard(model, x, head='net.2'))==64 # rounding is no other head
    model.net.append(nn.Hardtanh(-.2, .2))
    with pytest.raises(ValueError, match='does not make the logits'): heard(model, x, head='net.2')

class Takes(nn.Module):
    def __init__(self): super().__init__(); self.net = body(nn.Linear(5, 3))
    def forward(self, x, labels=None, label=None): return self.net(x)

def test_labels_that_are_known_twice_count_once():
    model,x,y = Takes().eval(),torch.randn(4, 4),torch.tensor([0, 2, 1, 0])
    for name in ('labels', 'label'):
        for known in (None, y): assert heard(model, x, known, **{name: y}).label.tolist()==y.tolist()

def test_labels_are_of_all_samples_or_of_none():
    model,x = Takes().eval(),torch.randn(4, 4)
    listener = Listener(model)
    model(x); model(x, labels=torch.arange(4)%3)
    listener.close()
    with pytest.raises(ValueError, match='labels: 4 for 8 samples; expected all or none'): listener.frame()

def test_samples_without_a_direction_are_told_once():
    model,x = Returns(lambda z: z).eval(),torch.randn(8, 4)
    model.net[0].bias.data.zero_()
    x[[5, 7]] = 0.
    with pytest.warns(UserWarning) as said: frame = heard(model, x)
    assert [str(w.message).split(';')[0] for w in said]==['2 of 8 rows of x are zero or not finite, the first at index 5']
    assert frame.avh.isna().tolist()==[False]*5+[True, False, True]
