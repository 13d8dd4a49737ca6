"Every engine against float64, where they are asked to be fast and where they have to give way."
import importlib.util, multiprocessing
import pytest, torch
from hypothesis import given, settings, strategies as st
import avh_nb as av
import avh_nb.engine.numba_engine as numba_engine, avh_nb.engine.choice as which
from avh_nb.loss.fused import fused_loss
from avh_nb.loss.logits import plain_loss
from avh_nb.tool.timing import compare, largest_error
from avh_nb.tool.contenders import contenders, engines_here
from avh_nb.loss.angular import avh_loss
from avh_nb.engine.numba_engine import NumbaEngine, in_threads
from avh_nb.engine.numba_loss import NumbaLoss
from avh_nb.engine.tally import _one
from avh_nb.measure.definitions import PREDICTED

quick = settings(deadline=None, max_examples=40)
SOFTMAX = 'confidence', 'entropy', 'loss', 'el2n', 'margin'

def drawn(seed, n, d, c, near=0.):
    "In float32, whatever is the default"
    g,kind = torch.Generator().manual_seed(seed),dict(dtype=torch.float32, device='cpu')
    x,w,y = torch.randn(n, d, generator=g, **kind),torch.randn(c, d, generator=g, **kind),torch.randint(c, (n,), generator=g, device='cpu')
    return x+near*w[y],w,y

def check(got, want):
    same = got.pred==want.pred # two logits that are equal to float32 may change places
    for (name,a),(_,b) in zip(got, want):
        assert torch.equal(a.isnan(), b.isnan()), name
        if name in ('angle_pred', 'avh_pred'): a,b = a[same],b[same]
        if name in ('avh', 'angle', 'norm', 'angle_pred', 'avh_pred'):
            torch.testing.assert_close(a.double(), b, rtol=1e-6, atol=1e-9, equal_nan=True, msg=lambda m,name=name: f'{name}: {m}')
        elif name in ('logit_margin', 'energy'): # differences of logits, which are as large as features are long
            assert ((a-b).abs()<=3e-6*(1+got.norm)+3e-5*b.abs())[~b.isnan()].all(), name
        elif name not in PREDICTED:
            torch.testing.assert_close(a.double(), b, rtol=3e-5, atol=3e-6, equal_nan=True, msg=lambda m,name=name: f'{name}: {m}')

@quick
@given(st.integers(0, 2**31), st.integers(1, 600), st.integers(1, 70), st.integers(1, 80), st.sampled_from(['label', 'prediction']),
    st.sampled_from(['linear', 'bias', 'angular']), st.sampled_from([0., 1., 5.]))
def test_scores_are_those_of_float64(seed, n, d, c, kind, head, near):
    x,w,y = drawn(seed, n, d, c, near)
    y = y if kind=='label' else None
    options = dict(linear={}, bias=dict(bias=torch.randn(c)), angular=dict(scale=6.))[head]
    got = av.score(x, w, y, engine='numba', **options)
    # a tie in float32 may be broken otherwise: the exact scores of the same prediction
    want = av.score(x.double(), w.double(), got.pred if y is None else y, **options)
    check(got, want)
    logits = (x.double()@w.double().T+(options['bias'] if head=='bias' else 0)) if head!='angular' else -av.angles(x.double(), w.double())
    chosen = logits.gather(1, got.pred[:, None])[:, 0]
    torch.testing.assert_close(chosen, logits.amax(1), rtol=1e-5, atol=1e-5)
    assert (got.pred2>=0).eq(c>1).all() and (got.pred2!=got.pred).all()
    if c>1:
        second = logits.scatter(1, got.pred[:, None], -torch.inf)
        torch.testing.assert_close(second.gather(1, got.pred2[:, None])[:, 0], second.amax(1), rtol=1e-5, atol=1e-5)
    of_pred = av.score(x.double(), w.double(), got.pred, **options)
    for name in ('angle', 'avh'):
        torch.testing.assert_close(getattr(got, f'{name}_pred').double(), getattr(of_pred, name), rtol=1e-6, atol=1e-9)
    if y is not None: torch.testing.assert_close(av.avh(x, w, y, engine='numba').double(), want.avh, rtol=1e-6, atol=1e-9)

@pytest.mark.parametrize('towards', ['label', 'other'])
@pytest.mark.parametrize('d', [2, 64, 768])
@pytest.mark.parametrize('c', [2, 16, 17, 300])
def test_avh_is_within_1e6_near_a_class_vector(towards, d, c):
    assert max(largest_error(300, d, c, towards, seed=s, contender='numba') for s in range(3)) < 1e-6

@pytest.mark.filterwarnings('ignore:.*rows of x are zero')
@pytest.mark.parametrize('c', [2, 100])
def test_without_doubt_there_would_be_errors(monkeypatch, c):
    "The rows that are left to the other engine are those that float32 gets wrong"
    real = NumbaEngine.angle_sums
    monkeypatch.setattr(NumbaEngine, 'angle_sums', lambda *args: (*real(*args)[:2], torch.zeros(len(args[1]), dtype=torch.bool)))
    assert not largest_error(300, 2, c, 'other', contender='numba') < 1e-6

def test_few_rows_are_in_doubt():
    x,w,y = drawn(0, 2000, 64, 100, near=2.)
    assert not NumbaEngine(w).angle_sums(x, y)[2].any()

@pytest.mark.parametrize('labelled', [True, False])
def test_rows_out_of_range_are_like_float64(labelled):
    x,w,y = drawn(0, 400, 20, 30)
    x[3],x[5, 2],x[7, 1] = 0,float('nan'),float('inf')
    x[9] *= 1e-20; x[11] *= 1e-38; x[13] *= 1e30
    y = y if labelled else None
    with pytest.warns(UserWarning, match='3 of 400 rows'): got = av.score(x, w, y, engine='numba')
    with pytest.warns(UserWarning, match='3 of 400 rows'): want = av.score(x.double(), w.double(), y)
    rows = torch.arange(400)!=13 # whose logits leave float32
    check(av.Scores(**{k: v[rows] for k,v in got}), av.Scores(**{k: v[rows] for k,v in want}))
    torch.testing.assert_close(got.avh[13].double(), want.avh[13], rtol=1e-6, atol=0)

@pytest.mark.parametrize('what', ['long vector', 'infinite bias', 'zero vector'])
def test_class_vectors_out_of_range_are_like_torch(what):
    x,w,y = drawn(0, 100, 20, 30)
    bias = torch.randn(30)
    if what=='long vector': w[4] *= 1e18
    if what=='infinite bias': bias[4] = -torch.inf
    if what=='zero vector':
        w[4] = 0
        with pytest.raises(ValueError, match=r'w: row 4 \(class 4\) is zero'): av.score(x, w, y, bias=bias, engine='numba')
        return
    for (name,a),(_,b) in zip(av.score(x, w, y, bias=bias, engine='numba'), av.score(x, w, y, bias=bias, engine='torch')):
        assert torch.equal(a, b), name

@pytest.mark.parametrize('engine', ['numba', 'torch'])
def test_logits_may_be_of_any_size(engine):
    x,w,y = drawn(0, 200, 30, 40)
    s = av.score(1e6*x, w, y, engine=engine)
    want = torch.nn.functional.cross_entropy(1e6*x.double()@w.double().T, y, reduction='none')
    assert want.max()>1e7
    torch.testing.assert_close(s.loss.double(), want, rtol=1e-5, atol=1e-5)
    masked = av.score(x, w, y, bias=torch.full((40,), -torch.inf).index_fill(0, y.unique(), 0), engine=engine)
    assert masked.loss.isfinite().all() and masked.entropy.isfinite().all()
    one = av.score(x, w, y, bias=torch.full((40,), -torch.inf).index_fill(0, torch.tensor([3]), 0), engine=engine)
    assert (one.pred==3).all() and torch.equal(one.loss==0, y==3) and (one.loss[y!=3]==torch.inf).all()

@pytest.mark.parametrize('engine', ['numba', 'torch'])
def test_equal_class_vectors_are_predicted_like_one(engine):
    "Of two logits that are equal but for rounding neither is ahead of the prediction"
    x,w,_ = drawn(0, 400, 30, 40)
    s = av.score(x, torch.cat([w, w, w]), engine=engine)
    assert (s.margin>=0).all() and torch.equal(s.pred%40, (x@w.T).argmax(1))
    torch.testing.assert_close(s.margin, torch.zeros(400), atol=3e-6, rtol=0)

@pytest.mark.parametrize('width', [2048, 20])
@pytest.mark.parametrize('c', [1, 2, 3, 16, 17, 90])
def test_of_equal_logits_the_first_is_ahead(monkeypatch, c, width):
    "Products of small whole numbers are exact in float32"
    monkeypatch.setattr(numba_engine, 'WIDTH', width)
    g = torch.Generator().manual_seed(c)
    x,w = torch.randint(1, 4, (300, 3), generator=g).float(),torch.randint(1, 4, (c, 3), generator=g).float()
    y,z = torch.randint(-1, c, (300,), generator=g),x@w.T
    for labels in (y, None) if c<=width else (y,): # the logit of a prediction is lifted above its equals, in each part
        t,_,_ = NumbaEngine(w).tally(x, labels)
        held = z.argmax(1) if labels is None else y
        assert torch.equal(t.held, held)
        a = av.angles(x.double(), w.double())
        for i in range(300):
            left = sorted((k for k in range(c) if k!=held[i]), key=lambda k: -z[i, k].item())+[-1]*2
            assert [t.largest_class[i].item(), t.second_class[i].item()]==left[:2]
            for k,logit,angle in zip(left, (t.largest[i], t.second[i]), (t.largest_angle[i], None)):
                assert logit==(z[i, k] if k>=0 else -torch.inf)
                if angle is not None and k>=0: assert abs(angle-a[i, k])<1e-9
                elif angle is not None: assert angle.isnan()

@pytest.mark.parametrize('labelled', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_blocks_of_any_size_give_the_same(monkeypatch, labelled, dtype):
    x,w,y = (t.to(dtype) if t.is_floating_point() else t for t in drawn(0, 700, 12, 90))
    x[::7] = w[y[::7]]
    y = y if labelled else None
    whole = av.score(x, w, y, engine='numba')
    check(whole, av.score(x.double(), w.double(), whole.pred if y is None else y))
    for name,value in dict(WIDTH=20, BLOCK=64*20, GROUP=32*100).items(): monkeypatch.setattr(numba_engine, name, value)
    check(av.score(x, w, y, engine='numba'), av.Scores(**{k: v.double() for k,v in whole}))
    if labelled: torch.testing.assert_close(av.avh(x, w, y, engine='numba'), whole.avh, rtol=1e-6, atol=1e-9)

def test_threads_change_nothing(monkeypatch):
    x,w,y = drawn(0, 3000, 24, 60)
    one = av.score(x, w, y, engine='numba'),av.avh(x, w, y, engine='numba')
    monkeypatch.setattr(numba_engine, 'SHARED', 0)
    torch.set_num_threads(2)
    try:
        two,inside = (av.score(x, w, y, engine='numba'), av.avh(x, w, y, engine='numba')),in_threads(lambda _: torch.get_num_threads(),
            [0, 1])
    finally: threads = torch.get_num_threads(); torch.set_num_threads(1)
    assert threads==2 and inside==[1, 1]
    check(two[0], av.Scores(**{k: v.double() for k,v in one[0]}))
    torch.testing.assert_close(two[1], one[1], rtol=1e-6, atol=0)

def _after_fork(queue):
    torch.set_num_threads(2)
    queue.put(sum(in_threads(lambda i: i, [1, 2, 3])))

def test_a_fork_gets_threads_of_its_own():
    torch.set_num_threads(2)
    try:
        assert sum(in_threads(lambda i: i, [1, 2])) == 3
        context = multiprocessing.get_context('fork')
        queue = context.Queue()
        child = context.Process(target=_after_fork, args=(queue,))
        child.start()
        assert queue.get(timeout=30) == 6
        child.join(30)
    finally: torch.set_num_threads(1)

def test_a_gradient_is_neither_asked_for_nor_in_the_way():
    x,w,y = drawn(0, 300, 24, 60)
    x.requires_grad_(); w.requires_grad_()
    assert not av.avh(x, w, y, engine='numba').requires_grad and not av.score(x, w, engine='numba').loss.requires_grad

def test_a_feature_on_another_class_vector_has_a_loss():
    "A cosine that rounding has brought above 1 is 1"
    w = torch.randn(40, 300, generator=torch.Generator().manual_seed(0))
    x,y = w.repeat(3, 1)*torch.linspace(.1, 9, 120)[:, None],(torch.arange(120)+1)%40
    torch.testing.assert_close(avh_loss(x, w, y, 30., engine='numba'), avh_loss(x, w, y, 30., engine='torch'), rtol=1e-5, atol=0)

# how a model is run, and what a user may have set

@pytest.fixture
def two_threads(monkeypatch):
    "However small the work is"
    monkeypatch.setattr(numba_engine, 'SHARED', 0)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)

MODES = torch.inference_mode, torch.no_grad, torch.enable_grad

@pytest.mark.parametrize('mode', MODES, ids=lambda m: m.__name__)
@pytest.mark.parametrize('made_in', MODES[:2], ids=lambda m: m.__name__)
@pytest.mark.parametrize('engine', ['numba', 'torch', None])
def test_scores_and_the_loss_in_any_mode(two_threads, mode, made_in, engine):
    "Threads are told in which mode they run; tensors may come from another"
    x,w,y = drawn(0, 4000, 64, 100)
    assert which.which_engine(None, x, w)=='numba'
    want = av.avh(x, w, y, engine='torch'),av.score(x, w, engine='torch').avh,avh_loss(x, w, y, engine='torch')
    with made_in(): x,w,y = x.clone(),w.clone(),y.clone()
    module = av.AVHLoss(64, 100)
    with mode():
        got = av.avh(x, w, y, engine=engine),av.score(x, w, engine=engine).avh,avh_loss(x, w, y, engine=engine)
        assert mode is torch.enable_grad or module(x, y).isfinite()
    for a,b in zip(got, want): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)

def test_threads_are_in_the_mode_of_the_caller(two_threads):
    def seen(): return in_threads(lambda _: (torch.is_grad_enabled(), torch.is_inference_mode_enabled()), [0, 1])
    for mode,is_so in zip(MODES, ((False, True), (False, False), (True, False))):
        with mode(): assert seen()==[is_so]*2
    assert seen()==[(True, False)]*2

def all_results():
    x,w,y = drawn(0, 700, 24, 60)
    x[3],x[5] = 0,w[3]+1e-5*x[5] # without direction, and in doubt
    res = []
    for engine in ('numba', 'torch'):
        for options in (dict(y=y), dict(), dict(scale=torch.pi), dict(y=y, bias=w[:, 0].contiguous())):
            with pytest.warns(UserWarning, match='1 of 700'): res += [v for _,v in av.score(x, w, engine=engine, **options)]
        for scale in (5., 40.):
            a,b = x[10:].clone().requires_grad_(),w.clone().requires_grad_()
            loss = avh_loss(a, b, y[10:], scale, engine=engine)
            res += [loss.detach(), *torch.autograd.grad(loss, (a, b))]
        res += [av.avh(x[10:], w[:5], y[10:]%5, engine=engine), av.avh(x[10:].half(), w, y[10:], engine=engine)]
    for options in (dict(label_smoothing=.1), dict(reduction='none')): res.append(avh_loss(x, w, y, 5., **options))
    return [*res, av.avc(x[10:], w), av.angles(x[10:], w)]

@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('default', [torch.float64, torch.float16, torch.bfloat16, 'meta'], ids=str)
def test_another_default_type_or_device_changes_nothing(request, default, threads):
    "'meta' stands for a GPU: what is made there by default, and not where the input is, has no numbers"
    if threads==2: request.getfixturevalue('two_threads')
    want = all_results()
    numba_engine._faster.cache_clear()
    if default=='meta': torch.set_default_device('meta')
    else: torch.set_default_dtype(default)
    try: got = all_results()
    finally: torch.set_default_device(None); torch.set_default_dtype(torch.float32)
    for i,(a,b) in enumerate(zip(got, want)):
        assert (a.dtype, a.device)==(b.dtype, b.device), i
        torch.testing.assert_close(a, b, equal_nan=True)

def test_autocast_changes_nothing_in_the_threads(two_threads):
    def loss():
        x,w,y = drawn(0, 700, 24, 60)
        x.requires_grad_(); w.requires_grad_()
        loss = avh_loss(x, w, y, 5., engine='numba')
        return loss.detach(),*torch.autograd.grad(loss, (x, w)),av.avh(x, w, y, engine='numba')
    want = loss()
    with torch.autocast('cpu', torch.bfloat16): got = loss()
    for a,b in zip(got, want): assert torch.equal(a, b)

# what is kept on disk

def test_compiled_code_is_kept_until_a_page_changes_that_has_a_part_in_it(tmp_path, monkeypatch):
    import avh_nb.engine.numba_kernels as kernels
    if not hasattr(kernels.norms, 'stats'): pytest.skip('nothing is compiled here')
    path = tmp_path/'page.py'
    path.write_text('from avh_nb.engine.numba_kernels import compiled\n@compiled\ndef f(x): return x+1\n')
    def misses():
        spec = importlib.util.spec_from_file_location('page', path)
        module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
        assert module.f(1)==2
        return sum(module.f.stats.cache_misses.values())
    assert (misses(), misses())==(1, 0)
    monkeypatch.setattr(kernels, '_PAGES', b'another')
    assert (misses(), misses())==(1, 0)

# the product

def test_the_other_product_is_exact_where_it_is_there():
    x,w = torch.randn(100, 64),torch.randn(50, 64)
    try: got = numba_engine._onednn(w, x, None)
    except (AttributeError, RuntimeError): pytest.skip('this build of PyTorch has no such operator')
    torch.testing.assert_close(got.double(), w.double()@x.double().T, rtol=1e-5, atol=1e-5)

def _gone(w, x, out): raise AttributeError('no such operator')
def _bfloat16(w, x, out): return (w.bfloat16()@x.bfloat16().T).float()
def _one_long_sum(w, x, out):
    out.zero_()
    for k in range(w.shape[1]): out += w[:, k, None]*x[None, :, k]
    return out
@pytest.mark.parametrize('other', [_gone, _bfloat16, _one_long_sum], ids=['gone', 'bfloat16', 'one long sum'])
def test_a_product_that_is_gone_or_not_exact_is_not_taken(monkeypatch, other):
    monkeypatch.setattr(numba_engine, '_onednn', other)
    numba_engine._faster.cache_clear()
    assert numba_engine.product() is numba_engine._mm
    numba_engine._faster.cache_clear()

@pytest.mark.parametrize('faster', [True, False])
def test_the_faster_product_is_taken(monkeypatch, faster):
    slow = lambda w,x,out: [torch.mm(w, x.T, out=out) for _ in range(6)][-1]
    monkeypatch.setattr(numba_engine, '_mm' if faster else '_onednn', slow)
    if faster: monkeypatch.setattr(numba_engine, '_onednn', lambda w,x,out: torch.mm(w, x.T, out=out))
    numba_engine._faster.cache_clear()
    assert numba_engine.product() is (numba_engine._onednn if faster else numba_engine._mm)
    x,w,y = drawn(0, 100, 20, 30)
    torch.testing.assert_close(av.avh(x, w, y, engine='numba').double(), av.avh(x.double(), w.double(), y), rtol=1e-6, atol=0)
    numba_engine._faster.cache_clear()

# which one

def test_large_work_takes_the_fast_engine_and_small_work_does_not():
    x,w = torch.randn(4000, 64),torch.randn(100, 64)
    assert which.which_engine(None, x, w)=='numba' and which.which_engine(None, x[:10], w)=='torch'
    assert torch.float64 in which.ENGINES[which.which_engine(None, x.double(), w)].dtypes and which.which_engine('torch', x, w)=='torch'

def test_without_numba_all_works_and_says_what_would_be_faster(monkeypatch):
    def refuse(name): raise ImportError("No module named 'numba'")
    which._loaded.cache_clear()
    monkeypatch.setattr(which.importlib, 'import_module', refuse)
    try:
        x,w,y = drawn(0, 4000, 64, 100)
        assert which.which_engine(None, x, w)=='torch' and av.avh(x, w, y).isfinite().all()
        with pytest.raises(ValueError, match=r"engine: numba needs numba: pip install 'avh_nb\[fast\]'"): av.avh(x, w, y, engine='numba')
        assert engines_here()[0].startswith('engine on cpu: torch; numba would be faster, but needs numba: pip install')
    finally: which._loaded.cache_clear()

def test_a_broken_numba_is_as_good_as_none(monkeypatch):
    def refuse(name): raise RuntimeError("cannot cache function: no locator available")
    which._loaded.cache_clear()
    monkeypatch.setattr(which.importlib, 'import_module', refuse)
    try: assert which.which_engine(None, torch.randn(4000, 64), torch.randn(100, 64))=='torch' and 'no locator' in which.why_not('numba')
    finally: which._loaded.cache_clear()

# tallies

@quick
@given(st.integers(0, 2**31), st.integers(2, 12), st.lists(st.integers(1, 11), max_size=3), st.booleans())
def test_tallies_of_parts_add_up_in_any_grouping(seed, c, cuts, ties):
    g = torch.Generator().manual_seed(seed)
    a,z = torch.rand(6, c, generator=g, dtype=torch.float64)*3,torch.randn(6, c, generator=g, dtype=torch.float64)*4
    if ties: z = z.round()
    ones = [_one(torch.full((6,), k), a[:, k], z[:, k]) for k in range(c)]
    for o,(k,angle,logit) in zip(ones, ((k, a[:, k], z[:, k]) for k in range(c))): # each a tally that holds its class out
        o.total,o.largest,o.largest_class,o.nearest = torch.zeros(6).double(),torch.full((6,), -torch.inf).double(),torch.full((6,),
            -1),torch.full((6,), torch.inf).double()
        o.held,o.angle,o.logit = torch.full((6,), k),angle,logit
    def added(parts):
        whole = parts[0]
        for p in parts[1:]: whole = whole+p
        return whole
    edges = [0, *sorted({k for k in cuts if k<c}), c]
    for t in (added(ones), added([added(ones[i:j]) for i,j in zip(edges, edges[1:])])):
        held = z.argmax(1)
        others = z.scatter(1, held[:, None], -torch.inf)
        m = others.amax(1, keepdim=True)
        e = (others-m).exp()
        assert torch.equal(t.held, held) and torch.equal(t.largest_class, others.argmax(1))
        for got,want in ((t.total, a.sum(1)-a.gather(1, held[:, None])[:, 0]), (t.largest, m[:, 0]), (t.rest, e.sum(1)-1),
            (t.rest_squared, (e*e).sum(1)-1),
            (t.weighted, (e*(others-m).clamp(min=-1e9)).sum(1)), (t.nearest,
            a.scatter(1, held[:, None], 9).amin(1))): torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)

# the loss

@quick
@given(st.integers(0, 2**31), st.integers(1, 400), st.integers(8, 40), st.integers(1, 60), st.sampled_from([1., 8., 40.]),
    st.sampled_from([0., 2.])) # in few dimensions other classes lie where float32 has no angle
def test_loss_and_gradients_are_those_of_float64(seed, n, d, c, scale, near):
    x,w,y = drawn(seed, n, d, c, near)
    share = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    x1,w1,x2,w2 = (t.requires_grad_() for t in (x.clone(), w.clone(), x.double(), w.double()))
    got,want = fused_loss(x1, w1, y, share, scale, NumbaLoss(x, w)),plain_loss(x2, w2, y, share.double(), scale)
    torch.testing.assert_close(got.double(), want, rtol=3e-6*max(1, scale/8), atol=1e-6)
    got.backward(); want.backward()
    for a,b in ((x1.grad, x2.grad), (w1.grad, w2.grad)):
        assert (a.double()-b).norm()<=1e-5*max(1, scale/8)*b.norm()+1e-6*scale*share.sum()/x.norm(dim=1).min()

@pytest.mark.parametrize('options', [dict(), dict(reduction='sum'), dict(weight=torch.linspace(0, 2, 40)), dict(scale=30.)],
    ids=['mean', 'sum', 'weight', 'scale'])
def test_the_loss_by_name(options):
    x,w,y = drawn(0, 500, 24, 40)
    y[:5] = -100
    results = []
    for engine in ('torch', 'numba'):
        a,b = x.clone().requires_grad_(),w.clone().requires_grad_()
        loss = avh_loss(a, b, y, engine=engine, **options)
        loss.backward()
        results.append((loss.detach(), a.grad, b.grad))
    for got,want in zip(*results): torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-6*want.abs().max().item())

def test_threads_and_blocks_do_not_change_the_loss(monkeypatch):
    x,w,y = drawn(0, 700, 24, 45)
    share,engine = torch.rand(700),NumbaLoss(x, w)
    def grads():
        a,b = x.clone().requires_grad_(),w.clone().requires_grad_()
        loss = fused_loss(a, b, y, share, 9., engine)
        return loss.detach(),*torch.autograd.grad(loss, (a, b))
    one = grads()
    import avh_nb.loss.fused as numbers
    monkeypatch.setattr(numbers, 'ROWS', 100)
    engine.n_parts = 2
    torch.set_num_threads(2)
    try: two = grads()
    finally: torch.set_num_threads(1)
    for a,b in zip(one, two): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6*a.abs().max().item())

@pytest.mark.parametrize('engine', ['torch', 'numba'])
def test_a_sure_sample_has_a_loss_above_zero(engine):
    "Loss and gradient of 1e-10 are numbers, not the rounding of 1"
    w = torch.eye(3)
    x = torch.tensor([[1., 1e-3, 2e-3]])
    loss = fused_loss(x.clone().requires_grad_(), w, torch.tensor([0]), torch.ones(1), 15., None if engine=='torch' else NumbaLoss(x, w))
    want = plain_loss(x.double(), w.double(), torch.tensor([0]), torch.ones(1).double(), 15.)
    assert 0<want<1e-8 and loss.item()==pytest.approx(want.item(), rel=1e-5)

# what is measured

def test_contenders_agree():
    shape = 300, 16, 20
    from avh_nb.tool.contenders import CONTENDERS, made_input
    x,w,y = made_input(*shape, length=.25)
    for work,reference,bound in (('avh', 'torch', 1e-6), ('loss', 'torch', 1e-4)):
        want = CONTENDERS[work][reference](x, w, y)()
        for name in ('plain', 'numba', *(('NumPy',) if work=='avh' else ())):
            got = CONTENDERS[work][name](x, w, y)()
            for a,b in zip(got, want) if work=='loss' else ((got, want),):
                torch.testing.assert_close(torch.as_tensor(a), b, rtol=bound, atol=bound)
    assert {'product', 'plain', 'torch', 'numba'}<=set(contenders('avh')) and {'linear', 'ArcFace', 'numba'}<=set(contenders('loss'))

def test_compare_times_each_with_the_first():
    row = compare('avh', (200, 16, 20), ('product', 'numba'), rounds=3)
    assert row['numba']['low']<=row['numba']['seconds']<=row['numba']['high'] and row['numba']['ratio']>0
    assert row['numba'].get('mb', 0)<20

def test_memory_of_the_fast_engine_is_a_block():
    from avh_nb.tool.timing import extra_memory
    used = extra_memory('score', 'numba', 20000, 64, 1000)
    if used is None: pytest.skip('this system keeps no high-water mark')
    assert used<16*2**20
