"What is declared once holds everywhere: the duties of engines, the table of them, and the numbers that all of them read."
import importlib, inspect, math, re, sys, types
from pathlib import Path
import numpy as np, pytest, torch
import avh_nb as av
import avh_nb.engine.choice as choice, avh_nb.engine.tally as tally
from avh_nb.measure.scores import scores_of
from avh_nb import angle
from avh_nb.engine.reference import TorchEngine, TorchLoss
from avh_nb.engine.tally import Engine, LossEngine, Tally
from avh_nb.measure.definitions import PREDICTED
from avh_nb.loss.angular import avh_loss
from conftest import interpreter

ROOT = Path(__file__).parents[2]
BRINGS = dict(numba='numba', triton='triton')

def loaded(path):
    module,_,kind = path.rpartition('.')
    for package in BRINGS:
        if package in module.rpartition('.')[2]: pytest.importorskip(package)
    with interpreter(): return getattr(importlib.import_module(module), kind)

def parameters(f): return [(p.name, p.default, p.kind) for p in inspect.signature(f).parameters.values()]

def duties(base): return ['__init__', *(n for n,f in vars(base).items() if inspect.isfunction(f) and not n.startswith('_'))]

@pytest.mark.parametrize('name', choice.ENGINES)
@pytest.mark.parametrize('field,base', [('engine', Engine), ('loss', LossEngine)])
def test_every_engine_of_the_table_fulfils_the_contract(name, field, base):
    kind = loaded(getattr(choice.ENGINES[name], field))
    assert issubclass(kind, base) and not inspect.isabstract(kind)
    assert len(duties(base))>=4 and base.__abstractmethods__<=set(duties(base))
    for duty in duties(base): assert parameters(getattr(kind, duty))==parameters(getattr(base, duty)), duty
    own = {n for c in kind.__mro__ if c not in (*base.__mro__,
        object) for n in vars(c) if inspect.isfunction(vars(c).get(n)) and not n.startswith('_')}
    assert own<=set(duties(base)), 'an engine has no public duties of its own'

def test_duties_are_not_named_like_one_that_is_missing():
    assert duties(Engine)==['__init__', 'over_slices', 'angle_sums', 'tally']
    assert duties(LossEngine)==['__init__', 'run_parts', 'inner_products', 'label_angles', 'exponential_sums', 'largest_cosines',
        'add_label', 'project_out']

class Recording(TorchEngine):
    "A new engine, of one module and one line"
    asked = []
    def angle_sums(self, x, y): Recording.asked.append('angle_sums'); return super().angle_sums(x, y)
    def tally(self, x, y=None): Recording.asked.append('tally'); return super().tally(x, y)

class RecordingLoss(TorchLoss):
    made = 0
    def __init__(self, x, w): RecordingLoss.made += 1; super().__init__(x, w)

@pytest.fixture
def a_new_engine(monkeypatch):
    "First in the table, for tensors in memory"
    module = types.ModuleType('recording')
    module.Recording,module.RecordingLoss = Recording,RecordingLoss
    monkeypatch.setitem(sys.modules, 'recording', module)
    line = choice.EngineEntry('recording.Recording', 'recording.RecordingLoss', 'cpu', (torch.float32,))
    monkeypatch.setattr(choice, 'ENGINES', {'recording': line, **choice.ENGINES})
    choice._loaded.cache_clear(); Recording.asked.clear(); RecordingLoss.made = 0
    yield line
    choice._loaded.cache_clear()

def drawn(n=4000, d=64, c=100):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=g),torch.randn(c, d, generator=g),torch.randint(c, (n,), generator=g)

def test_a_new_engine_is_chosen_and_answers(a_new_engine):
    x,w,y = drawn()
    assert choice.fastest('cpu')==choice.which_engine(None, x, w)=='recording'
    assert torch.equal(av.avh(x, w, y), av.avh(x, w, y, engine='torch')) and set(Recording.asked)=={'angle_sums'}
    assert torch.equal(av.score(x, w, y).loss, av.score(x, w, y, engine='torch').loss) and 'tally' in Recording.asked
    assert torch.equal(avh_loss(x, w, y), avh_loss(x, w, y, engine='torch')) and RecordingLoss.made==1
    assert avh_loss(x[:9], w, y[:9], engine='recording').isfinite() and RecordingLoss.made==2
    assert choice.which_engine(None, x.double(), w)!='recording' and choice.which_engine(None, x[:9], w)=='torch'
    with pytest.raises(ValueError, match='recording computes in float32, and got float64'): av.avh(x.double(), w, y, engine='recording')
    with pytest.raises(ValueError, match='expected one of recording, torch, numba'): av.avh(x, w, y, engine='no such')

def test_an_engine_that_must_be_asked_for_is_not_chosen(a_new_engine, monkeypatch):
    monkeypatch.setitem(choice.ENGINES, 'recording', a_new_engine._replace(unasked=False))
    assert choice.which_engine(None, *drawn()[:2])!='recording' and choice.which_engine('recording', *drawn()[:2])=='recording'

def test_the_next_in_the_table_is_taken_where_the_first_does_not_load(a_new_engine, monkeypatch):
    expected = 'torch' if choice.why_not('numba') else 'numba'
    monkeypatch.delitem(sys.modules, 'recording')
    choice._loaded.cache_clear()
    assert choice.why_not('recording').startswith('needs ') and choice.which_engine(None, *drawn()[:2])==expected

@pytest.mark.parametrize('error,tolerance,says', [(0., 1e-6, ''), (1e-3, 1e-6, 'is wrong by 1e-03 here'), (1e-3, 1e-2, ''), (1., None, '')])
def test_the_trial_is_that_of_the_table(a_new_engine, monkeypatch, error, tolerance, says):
    real = TorchEngine.angle_sums
    def off(self, x, y): a,total,doubtful = real(self, x, y); return a,total*(1+error),doubtful
    monkeypatch.setattr(Recording, 'angle_sums', off)
    monkeypatch.setitem(choice.ENGINES, 'recording', a_new_engine._replace(tolerance=tolerance))
    choice._tried.cache_clear()
    assert choice.why_not('recording')==says
    choice._tried.cache_clear()

def test_no_device_is_named_but_in_the_table():
    "What is fast where is data"
    for page in ('engine/choice', 'engine/tally', 'engine/reference', 'loss/fused', 'loss/logits', 'loss/angular', 'loss/family',
        'scale/ranks'):
        source = (ROOT/'avh_nb'/f'{page}.py').read_text(encoding='utf-8')
        assert not re.search(r"""==\s*['"](cuda|cpu|numba|triton)['"]|['"](cuda|cpu|numba|triton)['"]\s*==|if cuda""", source), page

# tallies of another type

def test_tallies_may_be_of_float32():
    x,w,y = drawn(50, 8, 30)
    t,_,_ = TorchEngine(w).tally(x, y)
    parts = [TorchEngine(w[p]).tally(x, torch.where((y>=p.start) & (y<p.stop), y-p.start, -1))[0] for p in (slice(0, 11), slice(11, 30))]
    for name,classes in parts[1]:
        if name in tally.CLASSES: classes[classes>=0] += 11
    narrow = [Tally(*(v if v.dtype==torch.int64 else v.float() for _,v in p)) for p in parts]
    added = narrow[0]+narrow[1]
    for (name,a),(_,b) in zip(added, t):
        assert a.dtype==(torch.int64 if name in tally.CLASSES else torch.float32)
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-5)
    for (name,a),(_,b) in zip(scores_of(added, 30).items(), scores_of(t, 30).items()):
        assert a.dtype==(torch.int64 if name in PREDICTED else torch.float32)
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-4, atol=1e-5)

# one rule, read by all

def same(a, b): return float(np.float32(a))==float(np.float32(b))

def test_constants_of_numba_are_those_of_the_house():
    pytest.importorskip('numba')
    import avh_nb.engine.numba_kernels as kernels, avh_nb.engine.numba_loss as loss
    assert all(map(same, kernels.P, angle.ARCCOS)) and len(kernels.P)==len(angle.ARCCOS)
    assert (kernels.LOW, kernels.HIGH)==tuple(map(np.float32, angle.SAFE[torch.float32]))
    for mine,theirs in ((kernels._STEEP, tally.STEEP), (kernels._CLOSE, tally.CLOSE), (kernels._DELTA, tally.DELTA),
        (kernels._TOLERANCE, tally.TOLERANCE)):
        assert same(mine, theirs)
    assert (kernels.SHORTEST, kernels.LONGEST, kernels.TIE)==(tally.SHORTEST, tally.LONGEST, tally.TIE)
    assert same(loss.FLOOR, angle.sine_floor(torch.float32))

def test_constants_of_triton_are_those_of_the_house():
    pytest.importorskip('triton')
    with interpreter(): import avh_nb.engine.triton_engine as engine, avh_nb.engine.triton_loss as loss
    assert [getattr(engine, f'_P{i}').value for i in range(8)]==list(angle.ARCCOS)
    assert (engine._STEEP.value, engine._TOLERANCE.value, engine._CLOSE.value)==(tally.STEEP, tally.TOLERANCE, tally.CLOSE)
    assert engine._TIE.value*tally.DELTA==tally.TIE and engine.METHODS['exact'][1]==engine.METHODS['half'][1]==tally.DELTA
    assert loss._FLOOR.value==angle.sine_floor(torch.float32) and engine._PI.value==math.pi

def test_the_numbers_of_the_rule():
    "As they were found; who changes one changes it for all engines"
    assert (tally.DELTA, tally.STEEP, tally.TOLERANCE, tally.CLOSE, tally.TIE)==(2**-23, .9, 2e-7, .6, 2**-21)
    assert (tally.SHORTEST, tally.LONGEST)==(1e-15, 1e15) and angle.sine_floor(torch.float32)==2**-20

@pytest.mark.parametrize('name', [n for n in choice.ENGINES if n!='torch'])
def test_numbers_are_typed_once(name):
    "No engine has a number of the rule or of the arccos of its own"
    for field in ('engine', 'loss'):
        module = getattr(choice.ENGINES[name], field).rpartition('.')[0]
        pages = [module, *(['avh_nb.engine.numba_kernels'] if 'numba' in module else [])]
        for page in pages:
            code = re.sub(r'#.*|""".*?"""', '', (ROOT/(page.replace('.', '/')+'.py')).read_text(encoding='utf-8'))
            for number in ('1.5707963', '214598697', '0889773122', '0501641884', '2e-7', '1e-15', '1e15', '2**-23', '2.**-23'):
                assert number not in code, (page, number)

def test_the_loss_on_a_gpu_overrides_what_its_kernel_does():
    pytest.importorskip('triton')
    with interpreter(): from avh_nb.engine.triton_loss import FastTritonLoss, TritonLoss
    def written(c): return {n for n in vars(c) if inspect.isfunction(vars(c)[n])}
    assert issubclass(TritonLoss, TorchLoss) and written(TritonLoss)=={'label_angles',
        'exponential_sums'} and written(FastTritonLoss)=={'inner_products'}
