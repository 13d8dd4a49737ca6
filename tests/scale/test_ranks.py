"Two processes that share the classes find what one process finds."
from datetime import timedelta
import numpy as np, pytest, torch, torch.distributed as dist, torch.multiprocessing as mp
import avh_nb as av
from avh_nb.loss.angular import avh_loss
from avh_nb.scale.ranks import sharded_avh_loss, sharded_score
from avh_nb.engine.choice import why_not

ENGINES = ['torch']+([] if why_not('numba') else ['numba'])

def data(dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    x,w = torch.randn(300, 24, generator=g, dtype=torch.float64).to(dtype),torch.randn(41, 24, generator=g, dtype=torch.float64).to(dtype)
    return x,w,torch.randint(41, (300,), generator=g),torch.randn(41, generator=g).to(dtype)

def together(rank, file, case, results):
    torch.set_num_threads(1)
    # whoever waits in vain fails
    dist.init_process_group('gloo', init_method=f'file://{file}', rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try: results[rank] = case(slice(0, 29) if rank==0 else slice(29, 41))
    except ValueError as e: results[rank] = f'ValueError: {e}'
    finally: dist.destroy_process_group()

def both(tmp_path, case):
    "What `case` gives on each of two ranks"
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(together, (str(tmp_path/'meet'), case, results), nprocs=2)
        return results[0],results[1]

def scores_case(mine):
    x,w,y,bias = data()
    x[5],x[6] = 0,float('nan')
    x[7] = w[3]+1e-5*x[7] # near a class of the first rank
    out = {}
    for engine in ENGINES:
        for name,(labels,options) in dict(labelled=(y, {}), bias=(y, dict(bias=bias)), predicted=(None, {}),
            predicted_bias=(None, dict(bias=bias)), angular=(y, dict(scale=6.)), predicted_angular=(None, dict(scale=6.))).items():
            part = {k: v[mine] if k=='bias' else v for k,v in options.items()}
            with pytest.warns(UserWarning, match='2 of 300'): sharded = sharded_score(x, w[mine], labels, engine=engine, **part)
            with pytest.warns(UserWarning, match='2 of 300'): whole = av.score(x.double(), w.double(), labels, **options)
            out[engine, name] = {k: (v.numpy(), u.numpy()) for (k,v),(_,u) in zip(sharded, whole)}
    return out

def test_scores_are_those_of_one_process(tmp_path):
    for result in both(tmp_path, scores_case):
        assert len(result)==6*len(ENGINES)
        for case,scores in result.items():
            for name,(got,want) in scores.items():
                assert np.array_equal(np.isnan(got), np.isnan(want)), (case, name)
                bound = 1e-6 if name in ('avh', 'avc', 'angle') else 1e-5
                np.testing.assert_allclose(got, want, rtol=bound, atol=bound, err_msg=f'{case} {name}')
            np.testing.assert_allclose(*(v[~np.isnan(v)] for v in scores['avh']), rtol=1e-6)

def loss_case(mine):
    out = {}
    for engine in ENGINES:
        for scale in (4., 40.): # with and without the largest logit taken off
            x,w,y,_ = data()
            y[:9] = -100
            x[20] = 0
            x1,w1,x2,w2 = (t.clone().requires_grad_() for t in (x, w, x, w[mine]))
            whole,part = avh_loss(x1, w1, y, scale, engine='torch'),sharded_avh_loss(x2, w2, y, scale, engine=engine)
            whole.backward(); (3*part).backward()
            out[engine, scale] = [(a.detach().numpy(), b.detach().numpy()) for a,b in ((part, whole), (x2.grad/3, x1.grad),
                (w2.grad/3, w1.grad[mine]))]
    return out

def test_loss_and_gradients_are_those_of_one_process(tmp_path):
    for result in both(tmp_path, loss_case):
        for case,pairs in result.items():
            # float32 angles are right to 1e-7 or two, and s of them stand in an exponent
            for got,want in pairs: np.testing.assert_allclose(got, want, rtol=1e-6, atol=2.5e-7*case[1]*abs(want).max(), err_msg=str(case))

def training_case(mine):
    x,w,y,_ = data()
    whole,part = w.clone().requires_grad_(),w[mine].clone().requires_grad_()
    a,b = torch.optim.SGD([whole], 1., momentum=.9),torch.optim.SGD([part], 1., momentum=.9)
    for _ in range(20):
        for optimizer,loss in ((a, avh_loss(x, whole, y, 5.)), (b, sharded_avh_loss(x, part, y, 5.))):
            optimizer.zero_grad(); loss.backward(); optimizer.step()
    return ((whole[mine]-part).norm()/whole[mine].norm()).item(),(whole-w).abs().max().item()

def test_training_ends_where_that_of_one_process_ends(tmp_path):
    for apart,moved in both(tmp_path, training_case): assert apart<1e-6 and moved>.5

def mistaken_case(mine):
    x,w,y,_ = data()
    if mine.start: w[35] = 0
    return sharded_score(x, w[mine], y)

def test_a_mistake_on_one_rank_is_told_on_all(tmp_path):
    first,second = both(tmp_path, mistaken_case)
    assert 'rank 1 was given what it' in first and 'row 6 (class 6) is zero' in second

def wrong_types():
    "What one rank may be given by mistake"
    x,w,y,_ = data()
    def score(**wrong): return lambda mine: sharded_score(**{**dict(x=x, w=w[mine], y=y), **wrong})
    def loss(**wrong): return lambda mine: sharded_avh_loss(**{**dict(x=x, w=w[mine], y=y), **wrong})
    return dict(x=score(x=x.tolist()), w=score(w=None), labels=score(y=y.tolist()), bias=score(bias=[0.]*12), scale=score(scale='5'),
        engine=score(engine=3),
        infinite_bias=score(bias=torch.full((12,), torch.inf)), features=loss(x=None), classes=loss(w=[1.]), targets=loss(y=None),
        factor=loss(scale='5'))

def wrong_types_case(mine):
    said = {}
    for name,call in wrong_types().items():
        right = (sharded_avh_loss if name in ('features', 'classes', 'targets', 'factor') else sharded_score)
        x,w,y,_ = data()
        try: call(mine) if mine.start else right(x, w[mine], y)
        except Exception as e: said[name] = f'{type(e).__name__}: {e}'
    return said,str(sharded_score(x, w[mine], y).avh.sum().item()) # and all goes on

def test_a_wrong_type_on_one_rank_is_told_on_all(tmp_path):
    (first,a),(second,b) = both(tmp_path, wrong_types_case)
    assert a==b and list(first)==list(second)==list(wrong_types())
    assert set(first.values())=={"ValueError: rank 1 was given what it can't take; its own error says what"}
    for name,start in dict(x='x: expected a tensor', w='w: expected a tensor', labels='y: expected a tensor', bias='bias: expected shape',
        engine='engine: expected one of',
        infinite_bias='bias: expected numbers below infinity, got inf at index 0 of this rank', features='x: expected a tensor',
        classes='w: expected a tensor').items():
        assert second[name].startswith(f'ValueError: {start}'), second[name]

def learnt_case(mine):
    x,w,y,_ = data()
    return sharded_avh_loss(x, w[mine], y, torch.tensor(5., requires_grad=True))

def test_a_learnt_scale_is_not_left_without_its_gradient(tmp_path):
    for said in both(tmp_path, learnt_case): assert said=='ValueError: scale: expected a number; a learnt one gets no gradient over ranks'

def half_case(mine):
    x,w,y,_ = data(torch.bfloat16)
    s = sharded_score(x, w[mine], y)
    return str(s.avh.dtype),(s.avh/av.avh(x.double(), w.double(), y)-1).abs().max().item()

def test_half_precision_is_computed_in_float32(tmp_path):
    for dtype,error in both(tmp_path, half_case): assert dtype=='torch.float32' and error<1e-6
