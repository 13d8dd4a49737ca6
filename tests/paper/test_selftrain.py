"The study of self-training: its runs, its records, and what is read off them, by hand."
import json
from pathlib import Path
import numpy as np, pytest, torch
from avh_nb.paper import selftrain as study
from avh_nb.report.records import read_records
from avh_nb.transfer import adaptation
from avh_nb.data.domain import Domain

ROOT = Path(__file__).parents[2]

@pytest.mark.parametrize('name,expected', [
    ('cbst', ('cbst', None, 'softmax')), ('cbst+avh', ('cbst', 'avc', 'softmax')), ('mrkld+lrent+avh', ('mrkld+lrent', 'avc', 'softmax')),
    ('lrent+avc-labels', ('lrent', None, 'avc')), ('cbst+margin', ('cbst', 'margin', 'softmax')),
    ('mrent+avh', ('mrent', 'avc', 'softmax')), ('source', ('cbst', None, 'softmax'))])
def test_names_of_methods(name, expected):
    assert tuple(adaptation.arguments(name).values())==expected
    assert study.twin(name)==name.split('+avh')[0].split('+avc')[0].split('+margin')[0]

@pytest.mark.parametrize('name', ['cbts', 'avh', 'cbst+angle', '', 'cbst+avh+margin', 'cbst+avh+avc-labels', 'source+avh'])
def test_a_method_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match='methods: expected such as'): adaptation.arguments(name)

def test_all_methods_take_the_same_number_of_updates():
    assert {len(adaptation.schedule(c)) for c,_ in study.grid(1) if 'target' in c}=={7}
    assert set(adaptation.schedule(dict(method='source', portions='1.00')))=={0} and adaptation.schedule(dict(method='cbst',
        portions='0.50'))==(.5,)*7

def test_the_grid_covers_what_it_says():
    runs = [(c, s) for c,s in study.grid(3) if 'target' in c]
    assert len({json.dumps([c, s]) for c,s in study.grid(3)})==len(study.grid(3)) # none twice
    plain = {(c['source'], c['target'], c['method'], s) for c,s in runs if all(c[k]==v for k,v in study.FACTORS.items())}
    assert plain>={(*p, m, s) for p in (*study.PACS_PAIRS,
        *study.DIGIT_PAIRS) for m in study.MAIN for s in range(3)} and len(study.PACS_PAIRS)==12
    only = study.grid(1, pairs=(('photo', 'sketch'),), methods=('cbst', 'cbst+avh'))
    assert [(c['source'], c['target'], c['method'], s) for c,s in only]==[('photo', 'sketch', 'cbst', 0),
        ('photo', 'sketch', 'cbst+avh', 0)]
    assert study.needs(only)==('pacs',) and study.needs(study.grid(1, 'digits'))==('usps',) and study.needs(study.grid(1))==('pacs',
        'usps') and study.needs(study.grid(1, 'recipe'))==('pacs',)

def test_committed_records_are_whole():
    records = read_records('selftrain', ROOT/'results')
    assert {json.dumps([r['config'], r['seed']]) for r in records}=={json.dumps([c, s]) for c,s in study.grid(3)}
    for r in records:
        assert r['commit'] and not r['commit'].endswith('+changes') and {'device', 'versions', 'time', 'seconds'}<=r.keys()
        if 'target' not in r['config']: continue
        m = r['metrics']
        assert r['config']['selection']=='last round' and m['accuracy']==pytest.approx(m['accuracy by round'][-1],
            abs=1e-5) and len(m['accuracy by round'])==7
        assert m['accuracy, target oracle']>=max(m['accuracy'], m['start'])-1e-9

def test_the_twins_start_from_the_same_network():
    starts = {}
    for r in read_records('selftrain', ROOT/'results'):
        if 'target' in r['config']:
            starts.setdefault(json.dumps([{k: v for k,v in r['config'].items() if k not in ('method', 'portions', 'class_balance')},
                r['seed']]), set()).add(r['metrics']['start'])
    assert starts and all(len(v)==1 for v in starts.values())

def test_the_network_does_not_depend_on_what_its_domain_cost(monkeypatch):
    "Features that are computed the first time draw random numbers; those from the disk do not"
    x,y = torch.randn(40, 1280, generator=torch.Generator().manual_seed(0)),torch.arange(40)%7
    def domain(draws): return lambda *args: (torch.rand(draws), Domain(lambda i, generator: x[i], y, tuple('abcdefg'), 'toy'))[1]
    weights = []
    for draws in (0, 10):
        monkeypatch.setattr(adaptation, 'domain', domain(draws))
        adaptation._source_network.cache_clear()
        weights.append(adaptation.source_network({**study.LITE, **study.FACTORS, 'steps': 2, 'source_rounds': 1}, 'toy',
            0).model.head.weight)
    adaptation._source_network.cache_clear()
    assert torch.equal(*weights)

@pytest.fixture
def records(monkeypatch):
    "Records of one's own making in place of the committed ones"
    def use(rows):
        monkeypatch.setattr(study, 'recorded', lambda name, part: [r for r in rows if part in r['config']])
        for f in (study.table, study._groups, study.gain): f.cache_clear()
    yield use
    for f in (study.table, study._groups, study.gain): f.cache_clear()

def test_gain_by_hand(records):
    def accuracy(pair, method, seed):
        return .5+.01*study.PACS_PAIRS.index(pair)+(.03 if method=='cbst+avh' and pair[1]!='sketch' else 0)+.001*seed*(method=='cbst+avh')
    records([dict(config=c, seed=s, metrics={'accuracy': accuracy((c['source'], c['target']), c['method'], s)}) for c,s in study.grid(3,
        'pacs')])
    g = study.gain('cbst+avh')
    each = np.array([(0 if p[1]=='sketch' else 3)+.1 for p in study.PACS_PAIRS])
    np.testing.assert_allclose(g['each'], each, atol=1e-9)
    assert g['over_pairs'][0]==pytest.approx(each.mean()) and g['over_seeds'][0]==pytest.approx(each.mean()) and g['won']==12
    assert g['pairs']==12
    half = each.std(ddof=1)/np.sqrt(12)*2.200985 # Student's t for 11 degrees of freedom
    assert g['over_pairs'][1:]==pytest.approx((each.mean()-half, each.mean()+half), abs=1e-5)
    half = .1/np.sqrt(3)*4.302653 # seeds 0, 1, 2 add 0, 0.1, 0.2 points
    assert g['over_seeds'][1:]==pytest.approx((each.mean()-half, each.mean()+half), abs=1e-5)
    assert study.gain('lrent+avh')['over_pairs'][0]==pytest.approx(0)
    with pytest.raises(LookupError, match='avh rebuild selftrain'): study.by_pair('cbst', statistics='source')

def test_precision_by_hand(records):
    rows = [dict(config=c, seed=s, metrics={'accuracy': .5,
        'precision avc by round': [.1*s+.01*r for r in range(6)]+[None]}) for c,s in study.grid(3, 'pacs', methods=('cbst',))]
    records(rows)
    p = study.precision('avc')
    assert p.shape==(12, 7) and p.iloc[0, :6].tolist()==pytest.approx([10+r for r in range(6)]) and p.iloc[:, 6].isna().all()
