"The metric is the mean that a loop over samples finds: in batches, in collections, in copies, and over two processes."
import copy, json, math, pickle, subprocess, sys
from datetime import timedelta
import pytest, torch, torch.distributed as dist, torch.multiprocessing as mp
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy
import avh_nb as av
from avh_nb.measure.scores import SCORES
from avh_nb.watch.metric import HardnessMean

C,AVERAGES = 5,('micro', 'macro', 'none')

def data(n=80, seed=0):
    "Features of which two have no direction, class vectors, labels of which none is 4, and a bias"
    g = torch.Generator().manual_seed(seed)
    x,w,bias = torch.randn(n, 6, generator=g),torch.randn(C, 6, generator=g),torch.randn(C, generator=g)
    x[3],x[11] = 0,math.nan
    return x,w,torch.randint(C-1, (n,), generator=g),bias

def slow_means(scores, y):
    "The three means and what is ignored, sample by sample"
    of = {c: [s for s,l in zip(scores.tolist(), y.tolist()) if l==c and not math.isnan(s)] for c in range(C)}
    each = [math.fsum(v)/len(v) if v else math.nan for v in of.values()]
    some,every = [m for m in each if not math.isnan(m)],sum(of.values(), [])
    return dict(micro=math.fsum(every)/len(every) if every else math.nan, macro=math.fsum(some)/len(some) if some else math.nan,
        none=each),sum(math.isnan(s) for s in scores.tolist())

def scored(name, x, w, y, bias):
    with pytest.warns(UserWarning, match='2 of'): return getattr(av.score(x, w, y, bias=bias), name)

def close(got, want, bound=1e-6):
    "As far as scores of other batches are the same; a mean of scores that are given is closer"
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=bound, atol=bound, equal_nan=True)

@pytest.mark.parametrize('average', AVERAGES)
@pytest.mark.parametrize('name', SCORES)
def test_means_are_those_of_a_loop(name, average):
    x,w,y,bias = data()
    means,ignored = slow_means(scored(name, x, w, y, bias), y)
    metric = HardnessMean(C, name, average)
    for rows in torch.arange(len(x)).split(13): metric.update(x[rows], y[rows], w, bias)
    close(metric.compute(), means[average])
    assert metric.ignored==ignored==2 and metric.samples.sum()==78 and metric.samples[4]==0
    assert metric.higher_is_better==(SCORES[name].hard=='low')

@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(st.floats(-10, 10, width=32) | st.just(math.nan), st.integers(0, C-1)), max_size=6), min_size=1,
    max_size=5))
def test_batches_do_not_matter(batches):
    "Empty ones, of one class, of NaN alone"
    whole = [pair for batch in batches for pair in batch]
    means,ignored = slow_means(torch.tensor([s for s,_ in whole]), torch.tensor([y for _,y in whole]))
    for average in AVERAGES:
        metric = HardnessMean(C, 'mine', average)
        for batch in batches:
            metric.update(torch.tensor([s for s,_ in batch]), torch.tensor([y for _,y in batch], dtype=torch.int64))
        close(metric.compute(), means[average], 1e-9)
        assert metric.ignored==ignored and metric.higher_is_better is None

def test_small_scores_are_not_lost_beside_a_large_sum():
    large,one,y = torch.tensor([2.**24]),torch.ones(1),torch.zeros(1, dtype=torch.int64)
    metric,single = HardnessMean(C, 'mine'),HardnessMean(C, 'mine').set_dtype(torch.float32) # where a device has no float64
    for m in (metric, single):
        m.update(large, y)
        for _ in range(200): m.update(one, y)
    assert metric.compute()==(2**24+200)/201 and single.compute().dtype==torch.float32
    assert single.mine_sum[0]==2**24 # what float32 would have made of it

def test_forward_gives_the_batch_and_keeps_the_whole():
    x,w,y,_ = data()
    scores = scored('avh', x, w, y, None)
    metric = HardnessMean(C, average='none')
    for rows in torch.arange(len(x)).split(13): close(metric(x[rows], y[rows], w), slow_means(scores[rows], y[rows])[0]['none'])
    close(metric.compute(), slow_means(scores, y)[0]['none'])
    kept = copy.deepcopy(metric),pickle.loads(pickle.dumps(metric)),metric.clone()
    metric.reset()
    assert metric.samples.sum()==metric.ignored==0
    with pytest.warns(UserWarning, match='before the ``update`` method'): assert metric.compute().isnan().all() # torchmetrics says so
    for again in kept:
        close(again.compute(), slow_means(scores, y)[0]['none'])
        again.update(x, y, w)
        assert again.samples.sum()==2*78

def test_states_are_saved_where_they_are_asked_for():
    x,w,y,_ = data()
    metric,other = HardnessMean(C),HardnessMean(C)
    metric.update(x, y, w)
    assert dict(metric.state_dict())=={}
    for m in (metric, other): m.persistent(True)
    other.load_state_dict(metric.state_dict())
    assert torch.equal(other.avh_sum, metric.avh_sum) and other.samples.sum()==78 and other.ignored==2

def test_a_collection_takes_each_for_itself():
    "Where the first batch tells nothing, states of all scores are equal, and metrics of one state would be merged for good"
    x,w,y,bias = data()
    metrics = MetricCollection(dict(accuracy=MulticlassAccuracy(C, average='micro'), each=HardnessMean(C, average='none'),
        **{name: HardnessMean(C, name) for name in ('avh', 'norm', 'loss')}))
    nothing = torch.zeros(2, 6)
    metrics.update(preds=torch.zeros(2, C), target=y[:2], x=nothing, y=y[:2], w=w, bias=bias)
    metrics.update(preds=(x@w.T+bias).nan_to_num(), target=y, x=x, y=y, w=w, bias=bias)
    found = metrics.compute()
    for name in ('avh', 'norm', 'loss'):
        means,_ = slow_means(scored(name, x, w, y, bias), y)
        close(found[name], means['micro'])
        if name=='avh': close(found['each'], means['none'])
    groups = sorted(sorted(g) for g in metrics.compute_groups.values())
    assert groups==[['accuracy'], ['avh', 'each'], ['loss'], ['norm']] # of one score the sums are made once

def test_gradients_and_compiled_loops_are_left_alone():
    x,w,y,_ = data()
    x,w = x.requires_grad_(),w.requires_grad_()
    metric = HardnessMean(C)
    value = metric(x, y, w)
    assert not value.requires_grad and not metric.avh_sum.requires_grad
    metric.update(av.avh(x[:3], w, y[:3]), y[:3])
    with torch.inference_mode(): metric.update(x, y, w)
    metric.update(x, y, w)
    assert metric.samples.sum()==3*78+3

@pytest.mark.parametrize('kwargs,message', [(dict(n_classes=0), 'n_classes: .*got 0'), (dict(n_classes=True), 'n_classes: .*got True'),
    (dict(n_classes=2.), 'n_classes: .*got 2.0'), (dict(n_classes=3, score='a b'), "score: .*got 'a b'"),
    (dict(n_classes=3, score=None), 'score: .*got None'), (dict(n_classes=3, average='weighted'), "average: .*got 'weighted'")])
def test_what_makes_no_metric_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=f'^{message}'): HardnessMean(**kwargs)

def test_what_makes_no_batch_is_refused_and_changes_nothing():
    x,w,y,_ = data()
    metric = HardnessMean(C)
    for args,message in (((x, y), r'x: expected scores \(N,\), or features'), ((x[:, 0], y, w), r'x: expected features \(N, D\), as w'),
        (([.1, .2], y), 'x: expected scores .*got list'), ((y, y), 'x: .*got torch.int64'), ((x, y[:-1], w), 'y: expected 80 labels'),
        ((x, y-1, w), 'y: expected labels from 0 to 4, got -1'), ((x, y.float(), w), 'y: expected integer labels'),
        ((x, y, w[:-1]), 'w: expected 5 class vectors'), ((x, y, w[:, :-1]), 'x: expected 5 columns')):
        with pytest.raises(ValueError, match=f'^{message}'): metric.update(*args)
    assert metric.samples.sum()==metric.ignored==0 and not metric.avh_sum.any()

# Over processes

def together(rank, file, out):
    torch.set_num_threads(1)
    # whoever waits in vain fails
    dist.init_process_group('gloo', init_method=f'file://{file}', rank=rank, world_size=2, timeout=timedelta(seconds=120))
    try:
        x,w,y,_ = data()
        mine = slice(30, 80) if rank else slice(0, 30)
        metrics = MetricCollection({average: HardnessMean(C, average=average) for average in AVERAGES})
        for rows in torch.arange(80)[mine].split(13): metrics.update(x[rows], y[rows], w)
        found = [{k: v.tolist() for k,v in metrics.compute().items()} for _ in range(2)]
        out.write_text(json.dumps([*found, metrics['micro'].samples.sum().item()]))
    finally: dist.destroy_process_group()

def test_two_processes_find_what_one_finds(tmp_path):
    "This one and another, which has to import torchmetrics first"
    x,w,y,_ = data()
    means,_ = slow_means(scored('avh', x, w, y, None), y)
    other = mp.get_context('spawn').Process(target=together, args=(1, tmp_path/'meet', tmp_path/'1'))
    other.start()
    threads = torch.get_num_threads()
    try: together(0, tmp_path/'meet', tmp_path/'0')
    finally:
        torch.set_num_threads(threads)
        other.join(120)
    assert other.exitcode==0
    for rank,mine in ((0, 28), (1, 50)):
        once,twice,own = json.loads((tmp_path/str(rank)).read_text())
        assert own==mine # what is synchronised for an answer is each one's own again afterwards
        for found in (once, twice):
            for average in AVERAGES: close(torch.tensor(found[average], dtype=torch.float64), means[average])

# With others

def test_lightning_logs_it(tmp_path):
    pl = pytest.importorskip('lightning.pytorch')
    x,w,y,_ = data(40)
    x = x.nan_to_num()+.1

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.fc,self.hardness = nn.Linear(6, C, bias=False),HardnessMean(C)
            self.fc.weight = nn.Parameter(w)
        def validation_step(self, batch, i):
            self.hardness.update(batch[0], batch[1], self.fc.weight)
            self.log('avh', self.hardness)

    trainer = pl.Trainer(accelerator='cpu', logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        enable_checkpointing=False)
    found = trainer.validate(Module(), DataLoader(TensorDataset(x, y), 12), verbose=False)
    assert found[0]['avh']==pytest.approx(av.avh(x, w, y).mean().item(), rel=1e-6)

def test_the_package_does_not_need_torchmetrics():
    code = "import sys; sys.modules['torchmetrics'] = None; import avh_nb, avh_nb.watch.tracker\ntry: import avh_nb.watch.metric\n" \
        "except ImportError as e: assert \"pip install 'avh_nb[adapters]'\" in str(e); print('said')"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout=='said\n', done.stderr
