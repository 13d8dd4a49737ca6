"The attacks against those of foolbox."
import foolbox, pytest, torch
from avh_nb.data.attack import fgsm, pgd, pgd_path

@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.Softplus(), torch.nn.Flatten(),
        torch.nn.Linear(8*49, 7)).eval().requires_grad_(False)

@pytest.fixture(scope='module')
def data():
    g = torch.Generator().manual_seed(1)
    return torch.rand(40, 3, 16, 16, generator=g),torch.randint(7, (40,), generator=g)

def of_foolbox(attack, net, x, y, eps, targeted):
    criterion = foolbox.criteria.TargetedMisclassification(y) if targeted else foolbox.criteria.Misclassification(y)
    return attack(foolbox.PyTorchModel(net, bounds=(0, 1), device='cpu'), x, criterion, epsilons=eps)[0]

@pytest.mark.parametrize('targeted', [False, True])
@pytest.mark.parametrize('eps,steps,step_size', [(8/255, 20, 1/255), (.3, 7, .1)])
def test_pgd(net, data, eps, steps, step_size, targeted):
    theirs = of_foolbox(foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps, random_start=False), net, *data, eps, targeted)
    assert (pgd(net, *data, eps, steps, step_size, targeted)-theirs).abs().max()<1e-6

def test_fgsm(net, data):
    theirs = of_foolbox(foolbox.attacks.FGSM(random_start=False), net, *data, .1, False)
    assert (fgsm(net, *data, .1)-theirs).abs().max()<1e-6

def test_the_loss_rises_away_and_falls_towards(net, data):
    x,y = data
    for targeted in (False, True):
        losses = [torch.nn.functional.cross_entropy(net(p), y).item() for p in pgd_path(net, x, y, .1, 10, targeted=targeted)]
        assert all((b<a)==targeted for a,b in zip(losses, losses[1:])), (targeted, losses)

def test_the_network_is_left_alone(data):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3*16*16, 7))
    with torch.no_grad(): pgd(net, *data, .1) # gradients are needed, whatever the caller's mode
    assert all(p.grad is None for p in net.parameters()) and not data[0].requires_grad
