"Pseudo labels against a slow loop written from the equations; known wrong variants are caught; a killed run loses nothing."
import json, math, os, signal, subprocess, sys
from functools import partial
import numpy as np, pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from scipy.optimize import minimize
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from avh_nb.loss.angular import AngularLinear
from avh_nb.measure.scores import avc, score
from avh_nb.train.checkpoint import LastRound, SourceValidation, TargetOracle
from avh_nb.transfer.pseudo_labels import METHODS, Audit, class_thresholds, picked_by_one, pseudo_labels, regulariser
from avh_nb.data.domain import Domain, batches
from avh_nb.transfer.selftrainer import SelfTrainer, portions
from avh_nb.train.models import small_cnn
from processes import wait_for

# The slow reference: lists and loops, from the equations

def slow_thresholds(values, predicted, portion, n_classes, balance=True):
    if not balance: return [slow_thresholds(values, [0]*len(values), portion, 1)[0]]*n_classes
    res = []
    for k in range(n_classes):
        of_k = sorted((v for v,p in zip(values, predicted) if p==k), reverse=True)
        res.append(of_k[max(1, round(portion*len(of_k)))-1] if of_k else math.inf)
    return res

def slow_labels(probs, portion, gate=None, method='cbst', alpha=.25, class_balance=True):
    n_classes = len(probs[0])
    predicted = [row.index(max(row)) for row in probs]
    lam = slow_thresholds([max(row) for row in probs], predicted, portion, n_classes, class_balance)
    beta = gate and slow_thresholds([g[k] for g,k in zip(gate, predicted)], predicted, portion, n_classes, class_balance)
    res = []
    for i,row in enumerate(probs):
        ratio = [p/l for p,l in zip(row, lam)]
        k = ratio.index(max(ratio))
        if 'lrent' in method:
            total = sum(r**(1/alpha) for r in ratio)
            label,keep = [r**(1/alpha)/total for r in ratio],total>=1-1e-12
        else: label,keep = [float(c==k) for c in range(n_classes)],row[k]>=lam[k]
        if gate: keep = gate[i][k]>=beta[k]
        res.append(label if keep else [0.]*n_classes)
    return res

@st.composite
def tables(draw, zeros=True):
    "Probabilities with many ties and empty classes: small whole numbers, divided by their sum"
    n,k = draw(st.integers(1, 12)),draw(st.integers(2, 5))
    rows = draw(st.lists(st.lists(st.integers(0 if zeros else 1, 4), min_size=k, max_size=k).filter(any), min_size=n, max_size=n))
    return [[v/sum(r) for v in r] for r in rows]

@settings(deadline=None, max_examples=300)
@given(tables(), tables(), st.floats(.01, 1), st.sampled_from(METHODS), st.sampled_from([.25, 1.]), st.booleans(), st.booleans())
def test_pseudo_labels_equal_the_slow_loop(probs, other, portion, method, alpha, gated, balance):
    gate = [[*other[i%len(other)], *[.1]*5][:len(probs[0])] for i in range(len(probs))] if gated else None
    got = pseudo_labels(torch.tensor(probs, dtype=torch.float64), portion, gate and torch.tensor(gate, dtype=torch.float64), method, alpha,
        balance)
    expected = torch.tensor(slow_labels(probs, portion, gate, method, alpha, balance), dtype=torch.float64)
    if 'lrent' in method and not gated: # a sum that is 1 but for rounding may go either way
        lam = torch.tensor(slow_thresholds([max(r) for r in probs], [r.index(max(r)) for r in probs], portion, len(probs[0]), balance),
            dtype=torch.float64)
        clear = (((torch.tensor(probs, dtype=torch.float64)/lam)**(1/alpha)).sum(1)-1).abs()>1e-9
        got,expected = got[clear],expected[clear]
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)

def random_case(n=400, k=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    x,w = torch.randn(n, 10, generator=g).relu(),torch.randn(k, 10, generator=g)
    return (x@w.T+torch.linspace(1, -1, k)).softmax(1),avc(x, w)

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('method', METHODS)
def test_random_probabilities_equal_the_slow_loop(method, dtype):
    p,a = (t.to(dtype) for t in random_case())
    for gate in (None, a):
        got = pseudo_labels(p, .35, gate, method)
        assert got.dtype==dtype
        torch.testing.assert_close(got.double(), torch.tensor(slow_labels(p.tolist(), .35, gate is not None and gate.tolist(), method),
            dtype=torch.float64), rtol=1e-5, atol=1e-6)

def test_the_top_portion_of_each_predicted_class_is_selected():
    p,_ = random_case()
    predicted = p.argmax(1)
    for portion in (.01, .2, .5, 1):
        confidence = p.max(1).values
        chosen = confidence>=class_thresholds(confidence, predicted, portion, 6)[predicted]
        for k in range(6): assert chosen[predicted==k].sum()==max(1, round(portion*int((predicted==k).sum())))

def test_nothing_is_selected_of_a_class_that_was_never_predicted():
    p = torch.tensor([[.6, .3, .1], [.5, .4, .1]])
    assert class_thresholds(p.max(1).values, p.argmax(1), 1., 3)[1:].tolist()==[math.inf]*2
    for method in ('cbst', 'lrent'):
        labels = pseudo_labels(p, 1., method=method)
        assert labels[:, 1:].sum()==0 and labels[:, 0].tolist()==[1, 1]

# Limits

def test_a_gate_by_the_probabilities_is_cbst():
    p,_ = random_case()
    for balance in (True, False):
        assert torch.equal(pseudo_labels(p, .3, gate=p, class_balance=balance), pseudo_labels(p, .3, class_balance=balance))

def test_without_balance_and_with_all_samples_every_sample_gets_its_predicted_class():
    p,_ = random_case()
    assert torch.equal(pseudo_labels(p, 1., class_balance=False), F.one_hot(p.argmax(1), 6).float())

def test_lrent_with_a_small_alpha_is_cbst():
    p,_ = random_case()
    torch.testing.assert_close(pseudo_labels(p.double(), .3, method='lrent', alpha=1e-6), pseudo_labels(p.double(), .3))

def test_lrent_minimises_its_objective_and_keeps_where_that_is_below_zero():
    p,alpha = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(1),.25
    lam = class_thresholds(p.max(1).values, p.argmax(1), .3, 4).numpy()
    got = pseudo_labels(p, .3, method='lrent', alpha=alpha).numpy()
    kept = 0
    def objective(z, p):
        y = np.exp(z-np.logaddexp.reduce(z))
        return -(y*np.log(p/lam)).sum()+alpha*(y*np.log(y)).sum()
    for i in range(len(p)):
        best = minimize(objective, np.zeros(4), args=(p[i].numpy(),), method='BFGS', options=dict(gtol=1e-10))
        if best.fun<-1e-6: np.testing.assert_allclose(got[i], np.exp(best.x-np.logaddexp.reduce(best.x)), atol=1e-4); kept += 1
        elif best.fun>1e-6: assert not got[i].any()
    assert 10<kept<60 and np.isfinite(lam).all()

def test_regularisers_are_least_where_the_network_is_undecided():
    for method,formula in (('mrkld', lambda p: -p.log().mean(1)), ('mrl2', lambda p: (p**2).sum(1)),
        ('mrent', lambda p: (p*p.log()).sum(1))):
        z = torch.randn(50, 5, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(regulariser(z, method), formula(z.softmax(1)))
        assert (regulariser(z, method)>regulariser(torch.zeros(1, 5, dtype=torch.float64), method)).all()
        assert torch.autograd.gradcheck(partial(regulariser, method=method), z)
    assert torch.equal(regulariser(z, 'mrkld+lrent'), regulariser(z, 'mrkld')) and not regulariser(z, 'lrent').any()

# Wrong variants

def unselected_become_class_0(p, portion, gate=None): return F.one_hot(pseudo_labels(p, portion, gate).argmax(1), p.shape[1]).to(p)
def thresholds_from_all_samples(p, portion, gate=None):
    lam = torch.stack([c.topk(max(1, round(portion*len(p)))).values[-1] for c in p.T])
    label = (p/lam).argmax(1)
    return F.one_hot(label, p.shape[1])*(p.gather(1, label[:, None])>=lam[label][:, None])
def one_threshold_for_all(p, portion, gate=None): return pseudo_labels(p, portion, gate, class_balance=False)
def label_is_the_predicted_class(p, portion, gate=None):
    return F.one_hot(p.argmax(1), p.shape[1])*pseudo_labels(p, portion, gate).sum(1, keepdim=True)
def gate_against_the_thresholds_of_confidence(p, portion, gate=None):
    lam = class_thresholds(p.max(1).values, p.argmax(1), portion, p.shape[1])
    label = (p/lam).argmax(1)
    g = p if gate is None else gate
    return F.one_hot(label, p.shape[1])*(g.gather(1, label[:, None])>=lam[label][:, None])
def gate_changes_the_label(p, portion, gate=None): return pseudo_labels(p if gate is None else gate, portion)
def strictly_above(p, portion, gate=None):
    lam = class_thresholds(p.max(1).values, p.argmax(1), portion, p.shape[1])
    label = (p/lam).argmax(1)
    return F.one_hot(label, p.shape[1])*(p.gather(1, label[:, None])>lam[label][:, None])

def follows_the_loop(f):
    p,a = random_case()
    for gate in (None, a):
        torch.testing.assert_close(f(p, .3, gate).float(), torch.tensor(slow_labels(p.tolist(), .3, gate is not None and gate.tolist())))

def test_the_right_one_passes(): follows_the_loop(pseudo_labels)

@pytest.mark.parametrize('mutant', [unselected_become_class_0, thresholds_from_all_samples, one_threshold_for_all,
    label_is_the_predicted_class,
    gate_against_the_thresholds_of_confidence, gate_changes_the_label, strictly_above], ids=lambda f: f.__name__)
def test_mutant_is_caught(mutant):
    with pytest.raises(AssertionError): follows_the_loop(mutant)

# Bad input

P,A = random_case(20, 4)
@pytest.mark.parametrize('message,call', [
    ('probs: expected rows of probabilities that sum to 1, got sum 1.5', lambda: pseudo_labels(P*1.5, .3)),
    ('probs: expected rows of probabilities that sum to 1, got sum nan .* in row 3',
    lambda: pseudo_labels(P.index_fill(0, torch.tensor([3]), torch.nan), .3)),
    ('smallest -1 in row 2', lambda: pseudo_labels(P.index_copy(0, torch.tensor([2]), torch.tensor([[2., -1, 0, 0]])), .3)),
    ('at least one sample', lambda: pseudo_labels(P[:0], .3)),
    ('probs: expected floating point of shape', lambda: pseudo_labels(P[0], .3)),
    ('portion: expected above 0 and up to 1, got 0', lambda: pseudo_labels(P, 0)),
    ('portion: expected above 0 and up to 1, got 1.01', lambda: class_thresholds(P[:, 0], P.argmax(1), 1.01, 4)),
    ('gate: expected shape', lambda: pseudo_labels(P, .3, A[:, :3])),
    ('gate: NaN in row 5', lambda: pseudo_labels(P, .3, A.index_fill(0, torch.tensor([5]), torch.nan))),
    ('confidence: NaN at index 0', lambda: class_thresholds(P[:, 0]*torch.nan, P.argmax(1), .3, 4)),
    ('predicted: expected shape', lambda: class_thresholds(P[:, 0], P.argmax(1)[:3], .3, 4)),
    ('alpha: expected above 0', lambda: pseudo_labels(P, .3, method='lrent', alpha=0)),
    ('method: expected one of', lambda: regulariser(P, 'crst')),
])
def test_bad_input_is_named(message, call):
    with pytest.raises(ValueError, match=message): call()

# The audit and the rounds

def test_the_audit_counts_by_hand():
    labels = torch.tensor([[1., 0], [1, 0], [0, 1], [0, 0], [0, 1]])
    audit = Audit(('a', 'b'))
    audit.add(1, labels, torch.tensor([0, 1, 1, 1, -1]), norm=torch.tensor([1., 3, 5, 7, 9]))
    f = audit.frame()
    assert f.selected.tolist()==[2, 2] and f.known.tolist()==[2, 1] and f.right.tolist()==[1, 1] and f.of_class.tolist()==[1, 3]
    assert f.precision.tolist()==[.5, 1] and f.recall.tolist()==[1, 1/3] and f.norm.tolist()==[2, 7]
    assert audit.rounds().precision.tolist()==[2/3]
    json.dumps(audit.rows, allow_nan=False)

def test_picked_by_one():
    a,b = torch.tensor([[1., 0], [0, 0], [0, 1]]),torch.tensor([[0., 1], [1, 0], [0, 0]])
    assert picked_by_one(a, b).tolist()==[False, False, True] and picked_by_one(b, a).tolist()==[False, True, False]

def test_selection_rules_pick_by_what_they_name():
    h = [dict(validation=v, accuracy=a) for v,a in ((.5, .9), (.7, .1), (.7, .2), (.6, .3))]
    assert [r().pick(h) for r in (LastRound, SourceValidation, TargetOracle)]==[3, 2, 0]

def test_batches_go_through_all_before_any_comes_twice():
    i = batches(7, 3, 10, torch.Generator().manual_seed(0)).flatten()
    for start in range(0, 28, 7): assert sorted(i[start:start+7].tolist())==list(range(7))

def toy_domain(n, seed, classes=3, shift=0.):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n)%classes
    x = torch.randn(n, 1, 8, 8, generator=g)*.3+torch.eye(8)[y][:, None, None, :]+shift
    return Domain(lambda i, generator: x[i], y, tuple('abcdefgh'[:classes]), f'toy {seed}')

def toy_trainer(**kwargs):
    torch.manual_seed(0)
    return SelfTrainer(small_cnn(3, width=.5), toy_domain(90, 0), toy_domain(60, 1, shift=.2),
        **{**dict(schedule=(0, .2, .5), steps=10, batch_size=16, progress=False), **kwargs})

def test_the_labels_of_the_target_are_not_trained_on():
    a = toy_trainer().fit()
    b = toy_trainer()
    b.target.y = (b.target.y+1)%3 # a lie
    b.fit()
    for p,q in zip(a.model.parameters(), b.model.parameters()): assert torch.equal(p, q)
    assert a.result['accuracy']!=b.result['accuracy']

def test_portion_0_does_not_see_the_target():
    a,b = toy_trainer(schedule=(0, 0)),toy_trainer(schedule=(0, 0))
    b.target = toy_domain(30, 5)
    for p,q in zip(a.fit().model.parameters(), b.fit().model.parameters()): assert torch.equal(p, q)

def test_held_out_images_of_the_source_are_not_trained_on():
    seen,t = set(),toy_trainer()
    inputs = t.source.inputs
    t.source.inputs = lambda i, generator: (generator is not None and seen.update(i.tolist())) or inputs(i, generator)
    t.fit()
    assert seen and not seen & set(t.validation.tolist()) and len(t.validation)==9

def test_a_gate_by_confidence_trains_as_cbst():
    for p,q in zip(toy_trainer().fit().model.parameters(), toy_trainer(gate='confidence').fit().model.parameters()):
        assert torch.equal(p, q)

def test_features_without_direction_do_not_stop_a_run():
    t = toy_trainer(gate='avc')
    t.model.body[-2].bias.data.fill_(-1e3) # after the ReLU all features are zero
    with pytest.warns(UserWarning, match='zero or not finite'): t.fit()
    assert t.result['round']==3

def test_the_rule_decides_which_weights_are_kept(tmp_path):
    for rule in (SourceValidation(), TargetOracle()):
        t = toy_trainer(selection=rule, checkpoint=tmp_path/f'{rule.name}.safetensors').fit()
        assert t.result['selection']==rule.name
        p = t.look(t.target, torch.arange(len(t.target)))[1]
        assert (p.argmax(1)==t.target.y).double().mean().item()==t.result['accuracy']
        again = toy_trainer(selection=rule, checkpoint=tmp_path/f'{rule.name}.safetensors').fit()
        for p,q in zip(t.model.parameters(), again.model.parameters()): assert torch.equal(p, q)

def test_runs_whose_names_differ_after_the_last_dot_are_two(tmp_path):
    def run(lr): return toy_trainer(lr=lr, selection=SourceValidation(), checkpoint=tmp_path/f'cbst_{lr}').fit()
    one,two,again = run(.01),run(.05),run(.01)
    for p,q in zip(one.model.parameters(), again.model.parameters()): assert torch.equal(p, q)
    assert one.history==again.history!=two.history
    assert {p.name for p in tmp_path.iterdir()}=={'cbst_0.01', 'cbst_0.05', 'cbst_0.01.picked', 'cbst_0.05.picked'}

def of_tensors(x, y, name): return Domain.of((x, y), name=name, classes='abc')

@pytest.mark.parametrize('stored', [True, False], ids=['in memory', 'by a function'])
@pytest.mark.parametrize('role', ['source', 'target'])
def test_other_domains_of_the_same_name_and_size_are_refused(tmp_path, role, stored):
    def domain(seed, change=None):
        d = toy_domain(60, seed)
        x,y = d.inputs(torch.arange(60), None),d.y
        if change=='order': x = x.flip(0)
        if change=='pixel': x = x.clone(); x[59, 0, 7, 7] += 1
        if change=='scale': x = 2*x
        if change=='labels': y = y.roll(1)
        return of_tensors(x, y, d.name) if stored else Domain(lambda i, generator: x[i], y, tuple('abc'), d.name)
    def run(**changes):
        torch.manual_seed(0)
        return SelfTrainer(small_cnn(3, width=.5), domain(0, changes.get('source')), domain(1, changes.get('target')), schedule=(0, .5),
            steps=3, batch_size=16,
            checkpoint=tmp_path/'run', progress=False)
    history = run().fit().history
    for change in ('order', 'pixel', 'scale', 'labels'):
        what = 'labels' if change=='labels' else 'inputs'
        with pytest.raises(ValueError, match=f'run is of a run that differs in its {what} of the {role}'): run(**{role: change}).fit()
    assert run().fit().history==history

class Flipped(torch.utils.data.Dataset):
    "Images that are mirrored by chance whenever they are read"
    targets,classes = [0, 1, 2]*20,list('abc')
    def __init__(self, chance): self.chance = chance
    def __len__(self): return 60
    def __getitem__(self, i):
        x = torch.full((1, 8, 8), i, dtype=torch.uint8); x[0, :, 0] = 255
        return (x.flip(2) if self.chance()<.5 else x),self.targets[i]

@pytest.mark.parametrize('chance', [lambda: torch.rand(()), lambda: np.random.rand()], ids=['of PyTorch', 'of others'])
def test_chance_in_a_data_set_does_not_keep_a_run_from_going_on(tmp_path, chance):
    "And the draws of the run itself are those they were"
    def run(**kwargs):
        np.random.seed(None)
        d = [Domain.of(Flipped(chance), name=name, prepare=lambda x: x/255) for name in ('a', 'b')]
        torch.manual_seed(0)
        return SelfTrainer(small_cnn(3, width=.5), *d, schedule=(0, .5), steps=3, batch_size=16, progress=False, **kwargs)
    torch.manual_seed(5); before = torch.rand(3)
    trainer = run(checkpoint=tmp_path/'run')
    torch.manual_seed(5); trainer.data(); assert torch.equal(torch.rand(3), before)
    history = trainer.fit().history
    assert run(checkpoint=tmp_path/'run').fit().history==history

def test_no_updates_and_too_few_samples_are_refused():
    for wrong in ('steps', 'batch_size'):
        with pytest.raises(ValueError, match=f'{wrong}: expected a whole number of at least 1, got 0'): toy_trainer(**{wrong: 0})
    with pytest.raises(ValueError, match='source: expected at least two samples, toy 0 has 1'):
        SelfTrainer(small_cnn(3), toy_domain(1, 0), toy_domain(9, 1))

def test_portions_of_the_papers(): assert portions()==(.2, .25, .3, .35, .4, .45, .5)

SCRIPT = '''
import sys, time, torch
sys.path[:0] = [sys.argv[3], sys.argv[3]+'/..']
from pathlib import Path
from test_selftrainer import toy_trainer
torch.set_num_threads(1)
folder,slow = Path(sys.argv[1]),sys.argv[2]=='slow'
t = toy_trainer(schedule=(0, .2, .3, .5), gate='avc', checkpoint=folder/'run.safetensors')
inputs,count = t.target.inputs,0
def watched(index, generator):
    global count
    if generator is not None:
        count += 1
        if slow and count==15: (folder/'in-round-3').touch(); time.sleep(60) # the fifth batch of round 3
    return inputs(index, generator)
t.target.inputs = watched
t.fit()
torch.save(t.pseudo, folder/'labels.pt')
'''

@pytest.mark.skipif(os.name!='posix', reason='SIGKILL')
def test_sigkill_in_round_3_and_resume(tmp_path):
    def start(folder, how):
        folder.mkdir(exist_ok=True); return subprocess.Popen([sys.executable, '-c', SCRIPT, str(folder), how, os.path.dirname(__file__)])
    whole,broken = tmp_path/'whole',tmp_path/'broken'
    assert start(whole, 'fast').wait()==0
    p = start(broken, 'slow')
    wait_for(broken/'in-round-3', p)
    p.send_signal(signal.SIGKILL); p.wait()
    def history(folder):
        with safe_open(folder/'run.safetensors', 'pt') as f: return json.loads(f.metadata()['state'])['info']
    assert [h['round'] for h in history(broken)['history']]==[0, 1, 2]
    assert start(broken, 'fast').wait()==0
    a,b = load_file(whole/'run.safetensors'),load_file(broken/'run.safetensors')
    assert a.keys()==b.keys() and len(a)>10
    for k in a: assert torch.equal(a[k], b[k]), k
    assert history(whole)==history(broken)
    assert torch.equal(torch.load(whole/'labels.pt', weights_only=True), torch.load(broken/'labels.pt', weights_only=True))
    assert not list(broken.glob('*.part'))

# Any classifier: what a user brings

class OwnNet(nn.Module):
    "Neither `features` nor `head`"
    def __init__(self, last):
        super().__init__()
        self.trunk,self.last = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Dropout(.1)),last
    def forward(self, x): return self.last(self.trunk(x))

HEADS = dict(linear=lambda: nn.Linear(16, 3), unbiased=lambda: nn.Linear(16, 3, bias=False), angular=lambda: AngularLinear(16, 3),
    scaled=lambda: AngularLinear(16, 3, scale=5., learn_scale=True))

def own_trainer(head, **kwargs):
    torch.manual_seed(0)
    return SelfTrainer(OwnNet(HEADS[head]()), toy_domain(90, 0), toy_domain(60, 1, shift=.2),
        **{**dict(schedule=(0, .2, .5), steps=10, batch_size=16, lr=.05, gate='avc', progress=False), **kwargs})

@pytest.mark.parametrize('head', HEADS)
def test_every_head_is_trained_and_audited_as_it_is(head):
    t = own_trainer(head).fit()
    assert t.result['round']==3 and t.result['accuracy']>.5
    assert t.history[-1]['validation']>t.history[0]['validation']
    t.model.eval()
    x = t.target.inputs(torch.arange(len(t.target)), None)
    with torch.no_grad(): p,f = t.model(x).softmax(1),t.model.trunk(x)
    torch.testing.assert_close(t.view[1], p, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(t.view[0], f, rtol=1e-4, atol=1e-5)
    s = t.scores(torch.arange(len(t.target))%3)
    torch.testing.assert_close(s.confidence, p.gather(1, torch.arange(len(p))[:, None]%3)[:, 0], rtol=1e-3, atol=1e-5)

@pytest.mark.parametrize('head', HEADS)
def test_the_audit_carries_the_confidence_of_the_head(head):
    t = own_trainer(head, schedule=(.5,))
    t.history[:] = [dict(round=0, portion=0, **t.evaluate())]
    p = t.view[1]
    t.label(.5)
    chosen,label = t.pseudo.sum(1)>0,t.pseudo.argmax(1)
    for row,k in zip(t.audit.rows, range(3)):
        here = chosen & (label==k)
        if here.any(): assert row['confidence']==pytest.approx(p[here, k].double().mean().item(), rel=1e-3)

def test_forgetting_the_scale_would_be_seen():
    "What an audit by weight and bias alone would have said of an angular head"
    t = own_trainer('scaled', schedule=()).fit()
    y = torch.zeros(len(t.target), dtype=torch.int64)
    wrong = score(t.view[0], t.class_vectors, y).confidence
    assert (wrong-t.scores(y).confidence).abs().max()>.05

def test_an_adapted_network_resumes_and_keeps_its_own_names(tmp_path):
    whole,path = own_trainer('angular').fit(),tmp_path/'run.safetensors'
    cut = own_trainer('angular', checkpoint=path)
    inputs,calls = cut.target.inputs,[]
    def stops(i, generator):
        if generator is not None: calls.append(1)
        if len(calls)==15: raise KeyboardInterrupt
        return inputs(i, generator)
    cut.target.inputs = stops
    with pytest.raises(KeyboardInterrupt): cut.fit()
    resumed = own_trainer('angular', checkpoint=path).fit()
    assert resumed.history==whole.history and resumed.audit.rows==whole.audit.rows
    for a,b in zip(resumed.model.state_dict().values(), whole.model.state_dict().values()): assert torch.equal(a, b)
    names = {k.removeprefix('model.') for k in load_file(path) if k.startswith('model.')}
    assert names==set(whole.model.state_dict())

def test_as_a_user_writes_it(tmp_path, monkeypatch):
    "README: a network of torchvision, a labelled folder and one without labels"
    rng = np.random.default_rng(0)
    for domain,offset in (('photos', 0), ('sketches', 40)):
        for i in range(24):
            folder = tmp_path/domain/('cat', 'dog')[i%2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 120, (32, 32, 3))+offset
            pixels[:, :16*(1+i%2)] += 80
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder/f'{i}.png')
    monkeypatch.chdir(tmp_path)
    photos,sketches = ImageFolder('photos'),ImageFolder('sketches')
    torch.manual_seed(0)
    model = resnet18(num_classes=2)
    source = Domain.of(photos)
    target = Domain.of([sketches[i][0] for i in range(len(sketches))], classes=photos.classes, name='sketches')
    assert (source.name, target.name)==('photos', 'sketches')
    def trainer():
        return SelfTrainer(model, source, target, gate='avc', checkpoint='run.safetensors', schedule=(0, .5), steps=4, batch_size=8,
            progress=False)
    t = trainer().fit()
    assert t.result['count selected']>0 and t.result['accuracy'] is None and (tmp_path/'run.safetensors').exists()
    assert {k for k in load_file('run.safetensors') if k.startswith('model.')}=={f'model.{k}' for k in model.state_dict()}
    with pytest.warns(UserWarning, match='began with other weights'): again = trainer().fit() # of the network that is trained by now
    assert again.history==t.history

def test_a_network_without_a_linear_head_is_refused_by_name():
    with pytest.raises(ValueError, match='model: no nn.Linear makes the logits'):
        SelfTrainer(nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU()), toy_domain(9, 0), toy_domain(9, 1), progress=False)
