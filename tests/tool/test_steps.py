"The step that is timed is the one that a learner takes, and each variant adds what it says."
import pytest, torch
from avh_nb.data.images import Images
from avh_nb.loss.energy import EnergyRegulariser
from avh_nb.loss.margin import MarginSoftmax
from avh_nb.tool.steps import STEPS, Step, step_costs
from avh_nb.train.learner import Learner
from avh_nb.train.plain import plain_cnn

SMALL = dict(n=8, width=.0625)

def learner_of(step, name):
    "A learner that goes on from the step's weights, on its batch, and does nothing else to them"
    model = plain_cnn(width=SMALL['width'])
    model.load_state_dict(step.model.state_dict())
    loss,regulariser = [make and make(model) for make in STEPS[name]]
    images = Images(torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8), step.y, tuple('abcdefghij'), 'random')
    learner = Learner(model, images, 2, lr=.01, batch_size=8, loss=loss, regulariser=regulariser, mixed_precision='bf16', progress=False)
    learner.batch = lambda index, generator=None: (step.x, step.y)
    return learner

@pytest.mark.parametrize('name', STEPS)
def test_a_step_is_that_of_a_learner(name):
    step = Step(*STEPS[name], **SMALL)
    learner,before = learner_of(step, name),[p.detach().clone() for p in step.model.parameters()]
    for _ in range(2):
        step()
        for _ in learner.updates(torch.Generator().manual_seed(0)): pass
    for (k,a),b,old in zip(step.model.named_parameters(), learner.bare_model.parameters(), before):
        moved = (a-old).abs().max()
        assert moved>0 and (a-b).abs().max()<=1e-3*moved, k

def test_what_is_added_is_the_energy():
    plain,full,half = [Step(*STEPS[k], **SMALL) for k in ('plain', 'energy', 'half-space energy')]
    for step,is_half in ((full, False), (half, True)):
        added = step.objective()-plain.objective()
        torch.testing.assert_close(added, EnergyRegulariser(plain.model, half=is_half)(), rtol=1e-4, atol=1e-5)
    assert abs((full.objective()-half.objective()).item())>1e-3

def test_margins_are_those_of_their_losses():
    plain = Step(**SMALL)
    with torch.autocast('cpu', torch.bfloat16): features = plain.model.features(plain.x)
    for name,options in {'A-Softmax': dict(margin=4), 'L-Softmax': dict(margin=2, normalise=False)}.items():
        step = Step(*STEPS[name], **SMALL)
        torch.testing.assert_close(step.objective(), MarginSoftmax(w=plain.model.head.weight, **options)(features.float(), plain.y))
        assert step.loss.weight is step.model.head.weight

def test_each_is_timed_in_turn_with_the_plain_step(monkeypatch):
    asked = []
    def timed(steps, rounds, device):
        asked.append((list(steps), rounds, [s.loss is None and s.regulariser is None for s in steps.values()]))
        return {k: [2., 4.] if k=='plain' else [3., 4.] for k in steps}
    monkeypatch.setattr('avh_nb.tool.steps.interleaved', timed)
    costs = step_costs(rounds=2, **SMALL)
    others = [k for k in STEPS if k!='plain']
    assert asked==[(['plain'], 2, [True]), *[(['plain', k], 2, [True, False]) for k in others]]
    assert costs['plain']==dict(seconds=3., low=2., high=4., ratio=1.)
    for k in others: assert costs[k]==dict(seconds=3.5, low=3., high=4., ratio=1.25)
