"What every call shares: arrays as they come from files, refusals by name, and products that no setting of the process makes coarser."
import hashlib, re, subprocess, sys, threading
from contextlib import contextmanager
from pathlib import Path
import numpy as np, pytest, torch, torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
import avh_nb as av
from avh_nb.core import as_tensor, check_features, exact_product, reduced
from avh_nb.engine.choice import why_not
from avh_nb.loss.angular import AngularLinear, avh_loss
from avh_nb.measure.head import Head

ROOT = Path(__file__).parents[1]
ENGINES = ['torch']+([] if why_not('numba') else ['numba'])

def drawn(n=60, d=24, c=30):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=g),torch.randn(c, d, generator=g),torch.randint(c, (n,), generator=g)

# arrays

@pytest.mark.parametrize('engine', ENGINES)
def test_a_file_that_is_mapped_for_reading_is_neither_copied_nor_written_to(tmp_path, engine):
    "To write would end this process"
    x,w,y = (t.numpy() for t in drawn())
    w[3] = w[4]+1e-5*w[3] # some are in doubt
    x[:5] = w[y[:5]]
    for name,a in dict(x=x, w=w, y=y).items(): np.save(tmp_path/f'{name}.npy', a)
    mapped = {n: np.load(tmp_path/f'{n}.npy', mmap_mode='r') for n in 'xwy'}
    digests = {n: hashlib.sha256((tmp_path/f'{n}.npy').read_bytes()).hexdigest() for n in 'xwy'}
    for a in mapped.values(): assert not a.flags.writeable and as_tensor(a).data_ptr()==a.ctypes.data
    mx,mw,my = mapped.values()
    assert np.array_equal(av.avh(mx, mw, my, engine=engine), av.avh(x, w, y, engine=engine))
    for labels in ((y, my), (None, None)):
        for (name,a),(_,b) in zip(av.score(mx, mw, labels[1], engine=engine), av.score(x, w, labels[0], engine=engine)):
            assert np.array_equal(a, b), name
    assert np.array_equal(av.angles(mx, mw), av.angles(x, w)) and np.array_equal(av.avc(mx, mw), av.avc(x, w))
    del mx,mw,my,mapped
    assert digests=={n: hashlib.sha256((tmp_path/f'{n}.npy').read_bytes()).hexdigest() for n in 'xwy'}

def test_what_is_lent_is_kept_alive():
    t = as_tensor(np.frombuffer(bytes(4*1000), np.float32))
    assert [np.frombuffer(bytes([255])*4000, np.uint8).sum() for _ in range(50)] and (t==0).all()

def test_arrays_of_any_layout_are_read_as_numpy_reads_them():
    a = np.arange(24, dtype=np.float32).reshape(4, 6)
    record = np.zeros(4, [('id', 'u1'), ('value', 'f4')])
    record['value'] = [1, 2, 3, 4]
    for v in (a[::-1], a[:, ::-2], a.T, a[::2, 1::2], a.astype('>f4'), np.asfortranarray(a), np.broadcast_to(a[0], (3, 6)), record['value'],
        a[:0], np.float16(a), np.matrix(a),
        np.ma.masked_array(a), np.array([3, 2**62], np.uint64), np.array([1, 2], '>u2'), np.array([5, -5], '>i4')):
        assert np.array_equal(as_tensor(v).numpy(), v), v
        frozen = np.array(v, copy=True); frozen.flags.writeable = False
        assert np.array_equal(as_tensor(frozen).numpy(), v)

def refused(x=None, w=None, y=None, **options):
    a,b,c = (t.numpy() for t in drawn(5, 4, 3))
    return lambda: av.avh(a if x is None else x(a), b if w is None else w(b), c if y is None else y(c), **options)

@pytest.mark.parametrize('call,message', [
    (refused(x=lambda a: np.ma.masked_greater(a, 0)), 'x: expected an array without masked values'),
    (refused(w=lambda a: a.astype(np.longdouble)), 'w: expected an array of numbers of at most 64 bits, got dtype float128'),
    (refused(w=lambda a: a.astype(complex)), 'w: expected an array of numbers'),
    (refused(y=lambda a: np.ma.masked_equal(a, a[0])), 'y: expected an array without masked values'),
    (refused(y=lambda a: np.full(5, 2**64-3, np.uint64)), r'y: expected numbers below 2\^63, got 18446744073709551613'),
    (refused(y=lambda a: a.astype(str)), 'y: expected an array of numbers'),
    (refused(x=lambda a: torch.tensor(a).to(torch.float8_e4m3fn)),
    'x: expected floating point of 16, 32 or 64 bits, got torch.float8_e4m3fn'),
    (refused(x=lambda a: a.astype('>f4'), w=lambda a: a.astype('>f8')), None)],
    ids=['masked', 'longdouble', 'complex', 'masked labels', 'uint64', 'names', 'float8', 'byte order'])
def test_the_argument_is_named(call, message):
    if message is None: assert np.isfinite(call()).all(); return
    with pytest.raises(ValueError, match='^'+message): call()

def test_half_types_are_taken_and_no_other():
    x,w,_ = drawn()
    for kind in (torch.float16, torch.bfloat16, torch.float64): check_features(x.to(kind), w)

# products

NEW = hasattr(torch.backends.cuda.matmul, 'fp32_precision') # settings for each library, from PyTorch 2.9 on
SETTINGS = ['legacy']+(['generic', 'mkldnn'] if NEW else [])

@contextmanager
def coarse(name):
    "A process that may multiply coarsely, and afterwards one in which nothing was ever set"
    if name=='legacy': torch.set_float32_matmul_precision('medium')
    elif name=='generic': torch.backends.fp32_precision = 'tf32'
    else: torch.backends.mkldnn.matmul.fp32_precision = 'bf16'
    try: yield
    finally:
        if name=='legacy': torch.set_float32_matmul_precision('highest')
        if NEW:
            for where in (torch.backends, torch.backends.mkldnn.matmul, torch.backends.cuda.matmul): where.fp32_precision = 'none'

def rounds():
    "Does the process say so? Read here once more, in other words"
    if NEW: return torch._C._get_fp32_precision_getter('mkldnn', 'matmul') in ('tf32', 'bf16')
    return torch.get_float32_matmul_precision()!='highest'

class CoarseHardware(TorchDispatchMode):
    "A processor that rounds the operands of float32 products to bfloat16 wherever the process lets it"
    products = 'mm', 'addmm', 'addmm_', 'bmm', 'dot', 'mv', 'vdot', '_linear_pointwise'
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        if f.overloadpacket.__name__ in self.products and rounds():
            def rounded(a): return a.bfloat16().float() if isinstance(a, torch.Tensor) and a.dtype==torch.float32 else a
            kept = int(f.overloadpacket.__name__.startswith('addmm'))
            args = *args[:kept],*map(rounded, args[kept:])
        return f(*args, **(kwargs or {}))

def everything():
    "Whatever multiplies, with its gradients"
    x,w,y = drawn()
    res = dict(logits=Head(w).logits(x), avc=av.avc(x, w))
    for engine in ENGINES:
        res |= {f'{engine} avh': av.avh(x, w, y, engine=engine)}
        for name,options in dict(plain={}, angular=dict(scale=6.), few=dict()).items():
            s = av.score(x, w[:9] if name=='few' else w, None if name=='few' else y, engine=engine, **options)
            res |= {f'{engine} {name} {k}': v for k,v in s if k!='pred'}
    def learnt(name, f):
        a,b = x.clone().requires_grad_(),w.clone().requires_grad_()
        value = f(a, b)
        first = torch.autograd.grad(value, (a, b), create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), (a, b))
        res.update({f'{name} {i}': t.detach() for i,t in enumerate((value, *first, *second))})
    learnt('angles', lambda a, b: av.angles(a, b).square().mean())
    layer = AngularLinear(24, 30, scale=5.)
    learnt('layer', lambda a, b: F.cross_entropy(torch.func.functional_call(layer, dict(weight=b), (a,)), y))
    ways = {f'{e} loss {s}': dict(scale=s, engine=e) for e in ENGINES for s in (5., 30.)}
    ways |= dict(smooth=dict(label_smoothing=.1), none=dict(reduction='none'), learnt=dict(scale=torch.tensor(5.)))
    for name,options in ways.items(): learnt(name, lambda a, b, o=options: avh_loss(a, b, y, **{'scale': 5., **o}).sum())
    learnt('soft', lambda a, b: avh_loss(a, b, F.one_hot(y, 30)*.9+.1/30, 5.))
    return res

def same(got, want):
    for k in want:
        torch.testing.assert_close(got[k], want[k], rtol=1e-4, atol=2e-6*want[k].abs().max().item(), equal_nan=True, msg=lambda m,
            k=k: f'{k}: {m}')

@pytest.mark.parametrize('name', SETTINGS)
def test_no_setting_takes_digits_off(name):
    want = everything()
    x,w,_ = drawn()
    with coarse(name), CoarseHardware():
        assert ((x@w.T)-x.double()@w.double().T).abs().max()>1e-2 # it does multiply coarsely
        got = everything()
    assert got.keys()==want.keys()
    same(got, want)

def test_autocast_takes_no_digits_off():
    want = everything()
    with torch.autocast('cpu', torch.bfloat16): got = everything()
    second = [k for k in want if k[-2:] in (' 3', ' 4')] # derivatives, which PyTorch itself makes of the first: not within autocast
    same(got, {k: v for k,v in want.items() if k not in second})

@pytest.mark.parametrize('name', SETTINGS)
def test_the_setting_is_read_as_it_is(name):
    assert not reduced('cpu') and not reduced('mps') and not reduced('meta')
    with coarse(name): assert reduced('cpu') and not reduced('mps') and reduced('cuda')==(name!='mkldnn')
    assert not reduced('cpu') and not reduced('cuda')

def test_nothing_sets_how_the_process_multiplies(monkeypatch):
    "Four threads at once, whose setting is the same afterwards; and no page that could"
    def refuse(*_): raise AssertionError('the setting is that of the whole process')
    with coarse('legacy'), monkeypatch.context() as patch:
        patch.setattr(torch, 'set_float32_matmul_precision', refuse)
        x,w,y = drawn()
        failed = []
        def work():
            try: [(av.avh(x, w, y), avh_loss(x, w, y), av.angles(x, w)) for _ in range(10)]
            except BaseException as e: failed.append(e)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert failed==[] and torch.get_float32_matmul_precision()=='medium'
    setters = r'set_float32_matmul_precision\(|allow_tf32 *=|fp32_precision *=[^=]'
    assert [p.name for p in (ROOT/'avh_nb').rglob('*.py') if re.search(setters, p.read_text(encoding='utf-8'))]==[]

@pytest.mark.parametrize('name', SETTINGS)
def test_a_compiled_graph_multiplies_exactly_too(name):
    x,w,y = drawn()
    layer,made = AngularLinear(24, 30),[]
    def backend(graph, _): made.append(graph.print_readable(print_output=False)); return graph
    for f in (lambda x, y: F.cross_entropy(layer(x), y), lambda x, y: avh_loss(x, layer.weight, y, 3.)):
        for on in (False, True):
            torch._dynamo.reset(); made.clear()
            compiled = torch.compile(f, backend=backend, fullgraph=True)
            if not on: value = compiled(x, y)
            else:
                with coarse(name): assert torch.allclose(compiled(x, y), value)
            assert ('double' in made[0] or 'float64' in made[0])==on

def test_the_result_goes_where_it_is_wanted():
    x,w,_ = drawn()
    out,want = torch.ones(60, 30),x@w.T
    for on in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(exact_product.__globals__, 'reduced', lambda device_type, on=on: on)
            assert exact_product(x, w.T, out=out) is out
            torch.testing.assert_close(out, want)
            exact_product(x, w.T, out=out, add=True)
            torch.testing.assert_close(out, 2*want)
            assert exact_product(x.double(), w.T.double()).dtype==torch.float64

def test_the_compiler_is_not_loaded_on_import():
    code = "import sys, torch, avh_nb, avh_nb.loss.angular; print('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()=='False'
