"Networks that choose a cue, and solutions forced to one: evaluation, turning, counting and seeds, each with the variant that is wrong."
import numpy as np, pytest, torch
from accelerate.utils import set_seed
from torch import nn
from avh_nb.beyond import cue_networks, cue_solutions
from avh_nb.beyond.cue_networks import (NETWORKS, Followed, agreeing_loss, cell_counts, cue_learner, cue_sets, cue_shares, n_cells,
    preference_metrics, run_preference)
from avh_nb.beyond.cue_solutions import STARTS, filters, forced_set, grid, loss_rises, probe_accuracy, run, run_solution, turned
from avh_nb.core import seeded
from avh_nb.data.cues import CUES, chance_line
from avh_nb.train.models import Classifier

SMALL = dict(size=32, train=150, held=60, conflict=156)

@pytest.fixture(scope='module')
def sets(): return cue_sets('fair', 0, **SMALL)

def trained(sets, epochs=1, name='ResNet', callbacks=()):
    set_seed(0)
    return cue_learner(NETWORKS[name](3, 32), sets[0], 0, epochs, batch_size=50, callbacks=callbacks).fit()

def state_of(model): return {k: v.clone() for k,v in model.state_dict().items()}
def same(a, b): return all(torch.equal(v, b[k]) for k,v in a.items())

def test_sets_agree_disagree_and_differ_by_seed(sets):
    train,held,conflict = sets
    assert (len(train), len(held), len(conflict))==(150, 60, 156) and n_cells(CUES)==78
    levels = torch.as_tensor(conflict.levels)
    assert not (levels==levels[:, :1]).all(1).any()
    other = cue_sets('fair', 1, **SMALL)
    for a,b in zip(sets, other): assert not torch.equal(a.x, b.x)
    for a,b in zip(sets, cue_sets('fair', 0, **SMALL)): assert torch.equal(a.x, b.x)
    three = cue_sets('fair', 0, cues=CUES[1:], **{**SMALL, 'conflict': 48})
    red = (three[0].x.float().mean((0, 2, 3))>0)
    assert red.all() and three[2].cues==CUES[1:] # colour is free

# Evaluation

def looks_in_evaluation_mode(sets):
    "Does what is seen not depend on which images are looked at together, and leave the network as it was?"
    learner = trained(sets)
    before,(_,held,conflict) = state_of(learner.bare_model),sets
    rows = torch.arange(7)
    whole,part = Followed(conflict, held),Followed(conflict[rows], held)
    for f in (whole, part): f.after_epoch(learner)
    alike = torch.allclose(whole.seen[0]['confidence'][:7], part.seen[0]['confidence'], atol=1e-4)
    return alike and same(before, state_of(learner.bare_model))

def test_images_are_looked_at_in_evaluation_mode(sets): assert looks_in_evaluation_mode(sets)

def test_train_mode_is_noticed(sets, monkeypatch):
    "As in the public code: batch normalisation sees the test images, and keeps their statistics"
    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, 'eval', lambda self: self.train())
        assert not looks_in_evaluation_mode(sets)

def test_being_followed_does_not_change_a_training(sets):
    plain,followed = trained(sets, 2),trained(sets, 2, callbacks=(Followed(sets[2], sets[1]),))
    assert same(state_of(plain.bare_model), state_of(followed.bare_model))

# What is counted

@pytest.mark.parametrize('name', NETWORKS)
def test_metrics_by_a_loop(sets, name):
    f = Followed(sets[2], sets[1])
    learner = trained(sets, 2, name, (f,))
    m,levels = preference_metrics(f),torch.as_tensor(sets[2].levels)
    assert len(f.seen)==3 # untrained, and after two epochs
    with torch.no_grad(): z = learner.bare_model.head(learner.features(sets[2].of('shape')))
    answers = z.argmax(1).tolist()
    for k,c in enumerate(CUES):
        assert m[f'{c}_2']==pytest.approx(np.mean([a==l[k] for a,l in zip(answers, levels.tolist())]))
        assert m[f'confidence {c}_2']==pytest.approx(np.mean([p[l[k]] for p,l in zip(z.softmax(1).tolist(), levels.tolist())]), abs=1e-5)
    assert m['agrees confidence_2']==1 and 0<=m['agrees avc_2']<=1
    for key,n in cell_counts(f.answers(), levels).items():
        rows = [a for a,l in zip(answers, levels.tolist()) if ''.join(map(str, l))==key.removeprefix('cell ')]
        assert n=='/'.join(str(rows.count(i)) for i in range(3))

@pytest.mark.parametrize('cues', [CUES, CUES[1:], ('shape', 'orientation')])
def test_one_cue_alone_is_at_chance_on_the_others_and_that_is_not_one_of_three(cues):
    levels = torch.as_tensor(cue_sets('fair', 0, cues=cues, **{**SMALL, 'conflict': 2*n_cells(cues)})[2].levels)
    seen = cue_shares(nn.functional.one_hot(levels[:, 0], 3).float(), levels, cues)
    assert seen.pop(cues[0])==1
    for v in seen.values(): assert v==pytest.approx(chance_line(3, len(cues))) and abs(v-1/3)>.02

# Turning

def grows(model, radius, generator):
    "A wrong variant: the filter is moved, and not brought back to its length"
    for p in filters(model):
        w = p.detach().flatten(1)
        u = torch.randn(w.shape, generator=generator)
        u -= w*(u*w).sum(1, keepdim=True)/w.norm(dim=1, keepdim=True)**2
        p.data = (w+radius*u/u.norm(dim=1, keepdim=True)*w.norm(dim=1, keepdim=True)).view_as(p)

def turns(before, after, radius):
    "Are all filters as long as before, and turned by arctan(radius)?"
    for b,p in zip(before, after, strict=True):
        a,w = b.flatten(1),p.detach().flatten(1)
        angle = torch.acos((a*w).sum(1)/a.norm(dim=1)/w.norm(dim=1))
        if not torch.allclose(w.norm(dim=1), a.norm(dim=1), rtol=1e-4): return False
        if not torch.allclose(angle, torch.tensor(radius).atan().expand_as(angle), atol=2e-3): return False
    return True

@pytest.mark.parametrize('radius', [.1, 1., 2.])
@pytest.mark.parametrize('name', NETWORKS)
def test_filters_are_turned_and_come_back(name, radius):
    set_seed(0)
    model = NETWORKS[name](3, 32)
    with torch.no_grad(): # some begin as zeros, which have no direction
        for p in filters(model):
            if not p.any(): p.normal_()
    state,before = state_of(model),[p.detach().clone() for p in filters(model)]
    with pytest.raises(RuntimeError, match='stop'):
        with turned(model, radius, seeded(5, 1)): # not the seed of the weights
            assert turns(before, filters(model), radius)
            others = {k for k,p in model.named_parameters() if p.ndim<2}
            assert all(torch.equal(state[k], v) for k,v in model.state_dict().items() if k in others)
            raise RuntimeError('stop')
    assert same(state, state_of(model))

def test_a_filter_that_grows_is_noticed():
    model = NETWORKS['MLP'](3, 32)
    before = [p.detach().clone() for p in filters(model)]
    grows(model, 1., seeded(0, 0))
    assert not turns(before, filters(model), 1.)

def small_net():
    "A layer in front of batch normalisation, whose length changes nothing"
    return Classifier(nn.Sequential(nn.Conv2d(3, 6, 5, 4, bias=False), nn.BatchNorm2d(6, eps=1e-12), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten()), 6, 3)

def test_the_length_of_filters_does_not_make_a_solution_flat(sets):
    set_seed(0)
    learner = cue_learner(small_net(), sets[0], 0, 3, batch_size=50, mixed_precision='no').fit()
    here = loss_rises(learner, sets[1], (.3,), 4)
    norm,k = learner.bare_model.body[1],20.
    with torch.no_grad(): # the same function, by filters that are longer
        learner.bare_model.body[0].weight.mul_(k); norm.running_mean.mul_(k); norm.running_var.mul_(k**2)
    there = loss_rises(learner, sets[1], (.3,), 4)
    assert here['rise 0.3']>.01 and there['rise 0.3']==pytest.approx(here['rise 0.3'], rel=1e-3)

def test_rises_by_a_loop(sets):
    learner = trained(sets)
    at,state = agreeing_loss(learner, sets[1]),state_of(learner.bare_model)
    rises = []
    for d in range(3):
        with turned(learner.bare_model, .5, seeded(7, d)): rises.append(agreeing_loss(learner, sets[1])-at)
    found = loss_rises(learner, sets[1], (0., .5), 3, seed=7)
    assert found['rise 0.5']==pytest.approx(np.mean(rises), rel=1e-4)
    assert found['rise sd 0.5']==pytest.approx(np.std(rises, ddof=1), rel=1e-3)
    assert found['rise 0.0']==pytest.approx(0, abs=1e-4) and len(set(rises))==3 and same(state, state_of(learner.bare_model))

# Runs

@pytest.fixture
def quick(monkeypatch, tmp_path):
    "Runs on few small images; how often a network is trained"
    monkeypatch.setenv('AVH_RUNS', str(tmp_path/'runs')); monkeypatch.setenv('AVH_RESULTS', str(tmp_path/'results'))
    def few(shapes, seed, bins='equal', cues=CUES): return cue_sets(shapes, seed, bins, cues, **{**SMALL, 'conflict': 2*n_cells(cues)})
    fits = []
    def learner(model, train, seed, epochs=1, lr=.1, **options):
        found = cue_learner(model, train, seed, 1, lr, **{**options, 'batch_size': 50})
        fit = found.fit
        found.fit = lambda: fits.append((len(train), seed)) or fit()
        return found
    for module in (cue_networks, cue_solutions):
        monkeypatch.setattr(module, 'cue_sets', few); monkeypatch.setattr(module, 'cue_learner', learner)
    monkeypatch.setattr(cue_networks, 'NETWORKS', {n: (lambda c, f=f: f(c, 32)) for n,f in NETWORKS.items()})
    monkeypatch.setattr(cue_solutions, 'NETWORKS', cue_networks.NETWORKS); monkeypatch.setattr(cue_networks, 'EPOCHS', 1)
    monkeypatch.setattr(cue_solutions, 'TRAIN', 156); monkeypatch.setattr(cue_solutions, 'RADII', (.3,))
    draw = cue_solutions.sprite_cues
    monkeypatch.setattr(cue_solutions, 'sprite_cues', lambda *args, **kwargs: draw(*args, **{**kwargs, 'size': 32}))
    return fits

def differ(f, config):
    "Do two seeds give different runs, and one seed the same one?"
    a,b,again = (f(config, s) for s in (0, 1, 0))
    return a==again and a!=b and a['loss']!=b['loss']

PREFERENCE = dict(part='preference', network='MLP', shapes='fair')

def test_seeds_are_runs_of_their_own(quick):
    assert differ(run_preference, PREFERENCE)
    assert not differ(lambda config, seed: run_preference(config, 0), PREFERENCE) # as in the public code: ten runs that are one

def test_a_run_names_its_cues(quick):
    m = run(dict(PREFERENCE, part='without colour', cues='shape, scale, orientation'), 0)
    assert 'shape_1' in m and 'colour_1' not in m and len([k for k in m if k.startswith('cell ')])==24
    assert set(run(dict(part='rate', network='MLP', shapes='fair', rate=.1), 0))=={'loss'}

def test_a_forced_network_is_trained_once_and_turned_before_it_is_trained_again(quick):
    forced = dict(part='forced', network='MLP', shapes='fair', cue='scale')
    m = run_solution(forced, 0)
    assert quick==[(150+156, 0)] and {'colour', 'shape', 'scale', 'orientation', 'diagonal', 'loss', 'norm'}<=set(m)
    again = run_solution(dict(forced, part='abundance', radius=.5), 0)
    assert quick==[(306, 0), (150, 0)] and 'rise 0.3' not in again and again!=m
    assert run_solution(forced, 0)==m and len(quick)==2

def test_a_start_is_turned_by_its_radius(quick, monkeypatch):
    config = dict(part='abundance', network='MLP', shapes='fair', cue='shape', radius=1.)
    model,*_ = cue_solutions.forced_network(config, 3)
    seen = []
    learner = cue_solutions.cue_learner
    def watched(model, *args, **kwargs):
        found = learner(model, *args, **kwargs)
        found.fit = lambda: seen.append([p.detach().clone() for p in filters(model)]) # not trained
        return found
    monkeypatch.setattr(cue_solutions, 'cue_learner', watched)
    m = run_solution(config, 3)
    start, = seen
    assert turns(filters(model), start, 1.)
    assert m['norm']==pytest.approx(sum(p.square().sum().item() for p in filters(model))**.5, rel=1e-4)

def test_a_forced_set_is_labelled_by_its_cue(sets):
    train,_,conflict = sets
    for k,c in enumerate(CUES):
        both = forced_set(c, train, conflict)
        assert torch.equal(both.y[:150], train.y) and torch.equal(both.y[150:], torch.as_tensor(conflict.levels)[:, k])

def test_a_probe_reads_what_a_plane_can_read(sets):
    conflict = cue_sets('fair', 0, **{**SMALL, 'conflict': 390})[2]
    colour,orientation = (probe_accuracy(conflict.of(c), 260) for c in ('colour', 'orientation'))
    assert colour==1 and orientation<.6

def test_the_grid_holds_each_run_once():
    runs = grid()
    assert len({str(r) for r in runs})==len(runs)
    assert {len(grid(part=p)) for p in ('preference', 'without colour', 'pairs')}=={30} and len(grid(part='abundance'))==12*len(STARTS)
    assert {c['part'] for c,_ in grid(part='people')}<={'people', 'people together'}
    with pytest.raises(ValueError, match="part: expected one of all, rate.*got 'texture'"): grid(part='texture')
