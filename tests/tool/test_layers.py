"A pass is what a layer does between layers, each is timed in turn with a convolution, and memory counts all that is there at once."
import pytest, torch, torch.nn.functional as F
from avh_nb.tool import timing
from avh_nb.tool.layers import LAYERS, Pass, layer_costs, layer_peak
from avh_nb.train.magnitude import MAGNITUDES
from avh_nb.train.sphere import DecoupledConv2d

@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize('name', LAYERS)
def test_a_pass_gives_the_gradients_of_the_layer(name, half):
    one = Pass(name, 2, half, seed=3)
    assert name=='convolution' or one.conv.magnitude==name and one.conv.angle=='cosine' and one.conv.training
    x = one.x.detach().float().contiguous().requires_grad_()
    out = F.conv2d(x, one.conv.weight, padding=1) if name=='convolution' else one.conv(x)
    expected = torch.autograd.grad(out, [x, *one.conv.parameters()], one.grad.float())
    for a,b in zip(one(), expected, strict=True):
        if a.ndim>1 or not half: assert (a.float()-b).norm()<=(.03 if half else 1e-4)*b.norm()
        else: assert F.cosine_similarity(a, b, dim=0)>.9 # in half precision some lengths below the radius are rounded to it

def test_the_first_is_the_default_and_every_magnitude_has_its_turn():
    assert list(LAYERS)==['convolution', *MAGNITUDES] and list(LAYERS)[1]==DecoupledConv2d(3, 4, 3).magnitude
    assert torch.equal(Pass('convolution', 2).conv.weight, Pass('tanh', 2).conv.weight) # of the same draw

def test_each_is_timed_in_turn_with_the_convolution(monkeypatch):
    asked = []
    def timed(passes, rounds, device):
        asked.append((list(passes), rounds, {p.x.dtype for p in passes.values()}))
        return {k: [2., 4.] if k=='convolution' else [3., 4.] for k in passes}
    monkeypatch.setattr('avh_nb.tool.layers.interleaved', timed)
    costs = layer_costs(2, True, rounds=2, memory=False)
    others = [k for k in LAYERS if k!='convolution']
    assert asked==[([*dict.fromkeys(('convolution', k))], 2, {torch.bfloat16}) for k in LAYERS]
    assert costs['convolution']==dict(seconds=3., low=2., high=4., ratio=1.)
    for k in others: assert costs[k]==dict(seconds=3.5, low=3., high=4., ratio=1.25)

def test_memory_is_that_of_what_is_kept():
    "A linear magnitude keeps no more than a convolution: images, output, and their gradients"
    peak,tensors = layer_peak('linear', 32, True),32*32*32*2*2*(32+64)
    if peak is None: pytest.skip('the system keeps no mark of memory')
    assert tensors<=peak<1.5*tensors

def test_a_process_of_its_own(monkeypatch):
    if timing.alone('os', 'getpid()') is None: pytest.skip('the system keeps no mark of memory')
    assert timing.alone('os', 'getenv("HERE")', HERE='5')==5 and timing.alone('os', 'getenv("HERE")') is None
    monkeypatch.setattr(timing.os.path, 'exists', lambda path: False)
    assert timing.alone('os', 'getpid()') is None
