"What the neighbour chapters say, held against made-up records: a verdict follows its numbers, and is open where nothing is recorded."
import json
from pathlib import Path
import pytest
from avh_nb.beyond import energy, margins, networks
from avh_nb.report.records import append_record

@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('AVH_RESULTS', str(tmp_path))
    return tmp_path

def put(study, config, seed, **metrics): append_record(dict(study=study, config=config, seed=seed, metrics=metrics))

def of(claims, words): return next(c for c in claims if words in c.text)

NETWORKS = dict(**networks.BASE, lr=.03)

def test_differences_are_paired_by_seed(folder):
    for s,luck in enumerate((.1, .2, .3)): # seeds differ far more than the two configurations
        put('networks', dict(loss='a'), s, accuracy=.5+luck)
        put('networks', dict(loss='b'), s, accuracy=.51+luck)
    d = networks.paired('networks', 'accuracy', dict(loss='b'), dict(loss='a'), 100)
    assert d.mean==pytest.approx(1) and d.low==pytest.approx(1) and d.verdict()=='yes'
    unpaired = networks.over_seeds('networks', 'accuracy', 100, loss='b')
    assert unpaired.high-unpaired.low>10

def record_energies(gains, **changed):
    for s in range(3):
        for e,gain in dict(none=0, **gains).items():
            put('energy', dict(part='filters', energy=e, **NETWORKS), s, accuracy=.7+.01*s+gain/100+changed.get(e, 0)*(s-1)/100)

@pytest.mark.parametrize('full,half,orthogonal,expected', [(1, 2, 2.1, ('yes', 'yes', 'yes', 'yes')),
    (-1, -2, 0, ('no', 'no', 'no', 'no'))])
def test_verdicts_about_energies_follow_the_records(folder, full, half, orthogonal, expected):
    record_energies(dict(full=full, half=half, orthogonality=orthogonal))
    claims = energy.claims()
    found = [of(claims, w) for w in ('full-space energy makes', 'half-space energy makes', 'half-space is better', 'is orthogonality')]
    assert tuple(c.holds for c in found)==expected
    assert found[0].here.startswith(f'{full:+.1f}')
    assert f'{half:+.1f}' in energy.summary()

def test_noisy_energies_are_open(folder):
    record_energies(dict(full=1, half=1, orthogonality=0), full=5, half=-5)
    assert [c.holds for c in energy.claims()[:3]]==['open']*3

def test_what_was_not_run_is_open_and_says_so(folder):
    claims = energy.claims()
    assert {c.here for c in claims[:9]}=={'not run yet'} and {c.holds for c in claims[:10]}=={'open'}
    assert claims[-1].holds=='not tested here'

def test_narrow_networks_are_judged_by_the_difference_of_differences(folder):
    record_energies(dict(half=1))
    for s in range(3):
        for e,gain in dict(none=0, half=3).items():
            put('energy', dict(part='width', energy=e, **dict(NETWORKS, width=.125)), s, accuracy=.6+.02*s+gain/100)
    c = of(energy.claims(), 'narrow network')
    assert c.holds=='yes' and c.here.startswith('+2.0')

def test_the_rare_class_is_judged_by_its_recall(folder):
    for s in range(3):
        for e,recall,accuracy in (('none', .3, .7), ('head', .25, .75)):
            put('energy', dict(part='imbalance', energy=e, images='one rare class', **NETWORKS), s, recall_0=recall+.01*s,
                accuracy=accuracy)
    c = of(energy.claims(), 'rare class')
    assert c.holds=='no' and c.here.startswith('-5.0')

def test_every_run_of_a_grid_is_one_configuration_with_files_of_its_own():
    for study in (margins.STUDY, energy.STUDY):
        runs = study.runs(3)
        assert len({json.dumps([c, s], sort_keys=True) for c,s in runs})==len(runs)
        files = [networks.ranks_file(study.name, c, s) for c,s in runs if c['part'] in ('cifar', 'filters')]
        assert len(set(files))==len(files)>0

def test_recorded_ranks_are_there_for_the_summaries():
    "The committed ranks let further seeds be compared with those there are"
    for study,plain in ((margins, margins.PLAIN), (energy, energy.PLAIN)):
        seeds = networks.by_seed(study.STUDY.name, **plain)
        assert len(seeds)>=3 and all(Path(networks.ranks_file(study.STUDY.name, plain, s)).exists() for s in seeds)

def test_unbalanced_draws_follow_their_seed():
    from avh_nb.data.sets import digits
    toy,counts = digits(),[3, *9*[10]]
    a,b = (energy.unbalanced(toy, counts, seed) for seed in (0, 0))
    assert a.x.equal(b.x) and a.y.bincount().tolist()==counts and not a.x.equal(energy.unbalanced(toy, counts, 1).x)

def test_class_weights_make_classes_equal():
    import torch
    from avh_nb.train.plain import plain_cnn
    model = plain_cnn(2, width=.0625)
    x = torch.randn(12, 128)
    y = torch.tensor([0]*10+[1]*2)
    z = model.head(x)
    each = torch.nn.functional.cross_entropy(z, y, reduction='none', label_smoothing=networks.SMOOTHING)
    balanced = (each[y==0].mean()+each[y==1].mean())/2
    assert energy.weighted([10, 2])(model)(x, y).item()==pytest.approx(balanced.item(), rel=.02)
