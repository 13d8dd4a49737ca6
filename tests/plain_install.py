"What an installation without extras has to do, under the least versions too: python tests/plain_install.py"
import warnings; warnings.simplefilter('error')
import copy, sys
import numpy as np, torch, torch.nn.functional as F
from torch import nn
import avh_nb as av

torch.manual_seed(0)
x,w,y = torch.randn(400, 64),torch.randn(100, 64),torch.arange(400)%100
cos = F.normalize(x.double())@F.normalize(w.double()).T
expected = cos.acos().gather(1, y[:, None])[:, 0]/cos.acos().sum(1)

def close(a, b): torch.testing.assert_close(torch.as_tensor(a).double(), b.double(), rtol=1e-5, atol=1e-6)

close(av.avh(x, w, y), expected)
close(av.avh(x.numpy(), w.numpy(), y.numpy()), expected)
with torch.inference_mode(): close(av.score(x, w, y).avh, expected)

net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 100))
confidence = net(x).softmax(1).gather(1, y[:, None])[:, 0].detach()
close(av.score_model(net, [(x, y)], progress=False).confidence, confidence)
compiled = torch.compile(net, backend='eager').eval()
with torch.no_grad(): compiled(x)
close(av.score_model(compiled, [(x, y)], progress=False).confidence, confidence)

loss = av.AVHLoss(64, 100)
plain = F.cross_entropy(loss.logits(x), y)
close(loss(x, y).detach(), plain.detach())
loss(x, y).backward()
with warnings.catch_warnings():
    warnings.simplefilter('ignore') # of the compiler's own
    close(torch.compile(loss, backend='eager')(x, y).detach(), plain.detach())
    import torch._dynamo # noqa: F401, which PyTorch 2.3 cannot load within vmap
    each = torch.func.vmap(torch.func.grad(lambda x, y: loss(x[None], y[None])))(x[:4], y[:4])
one = x[:1].clone().requires_grad_()
loss(one, y[:1]).backward()
close(each[0], one.grad[0])

head = av.AngularLinear(64, 100, scale=5.)
other = av.AngularLinear(64, 100)
other.load_state_dict(copy.deepcopy(head.state_dict()))
close(other(x).detach(), head(x).detach())
assert not {'pandas', 'pyarrow', 'torchvision'} & set(sys.modules)
print(f'torch {torch.__version__}, NumPy {np.__version__}: all right')
