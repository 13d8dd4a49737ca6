"Tallies of any parts of the classes add up to that of all, with ties, classes that are never predicted, and few classes."
import functools, math, operator
import pytest, torch
from hypothesis import given, settings, strategies as st
from mutants import mutant
from avh_nb.engine import tally
from avh_nb.engine.reference import TorchEngine, block_tally
from avh_nb.measure.scores import scores_of

quick = settings(deadline=None, max_examples=150)

def slow(a, z, held, k0=0):
    "By lists, for one sample: what is to stand in the fields, of classes numbered from `k0`"
    others = [k for k in range(len(a)) if k!=held]
    order = sorted((k for k in others if z[k]>-math.inf), key=lambda k: -z[k]) # equals stay in order
    first,second = (order+[None, None])[:2]
    gaps = [z[k]-z[first] for k in order[1:]]
    def of(values, k, none): return none if k is None else values[k]
    def number(k): return -1 if k is None else k+k0
    return dict(held=number(held), angle=of(a, held, math.nan), logit=of(z, held, -math.inf), total=sum(a[k] for k in others),
        largest=of(z, first, -math.inf), largest_class=number(first), largest_angle=of(a, first, math.nan),
        second=of(z, second, -math.inf), second_class=number(second),
        rest=sum(map(math.exp, gaps)), rest_squared=sum(math.exp(2*g) for g in gaps), weighted=sum(g*math.exp(g) for g in gaps),
        nearest=min((a[k] for k in others), default=math.inf))

def drawn(seed, n, c, kind):
    "Angles and logits: any, few values, so that many are equal, or some that are never predicted"
    g = torch.Generator().manual_seed(seed)
    a,z = torch.rand(n, c, generator=g, dtype=torch.float64)*3,torch.randn(n, c, generator=g, dtype=torch.float64)*4
    if kind!='any': z = z.round().clamp(-2, 2)
    if kind=='never': z[:, torch.rand(c, generator=g)<.6] = -math.inf
    return a,z,torch.randint(c, (n,), generator=g)

def same(t, want, tol=1e-12):
    for (name,got),(_,b) in zip(t, want):
        assert got.dtype==b.dtype
        torch.testing.assert_close(got, b, rtol=tol, atol=tol, equal_nan=True, msg=lambda m,name=name: f'{name}: {m}')

cases = given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 8), st.sampled_from(['any', 'ties', 'never']), st.booleans())

@quick
@cases
def test_a_block_is_as_defined(seed, n, c, kind, labelled):
    a,z,y = drawn(seed, n, c, kind)
    t = block_tally(a.clone(), z.clone(), y+5 if labelled else None, slice(5, 5+c))
    held = y.tolist() if labelled else [q.index(max(q)) for q in z.tolist()]
    rows = [slow(*of, 5) for of in zip(a.tolist(), z.tolist(), held)]
    types_of = {k: torch.int64 if k in tally.CLASSES else torch.float64 for k in rows[0]}
    same(t, tally.Tally(**{k: torch.tensor([r[k] for r in rows], dtype=dtype) for k,dtype in types_of.items()}))

def parts_add_up(tally_of, seed, n, c, kind, labelled):
    "The classes cut anywhere, and the parts added in any order"
    a,z,y = drawn(seed, n, c, kind)
    y = y if labelled else None
    g = torch.Generator().manual_seed(seed+1)
    cuts = [0, *sorted(torch.randperm(c-1, generator=g)[:torch.randint(c, (), generator=g)].add(1).tolist()), c] if c>1 else [0, 1]
    parts = [tally_of(a[:, i:j].clone(), z[:, i:j].clone(), y, slice(i, j)) for i,j in zip(cuts, cuts[1:])]
    parts = [parts[i] for i in torch.randperm(len(parts), generator=g)]
    while len(parts)>1: # as a tree
        i = torch.randint(len(parts)-1, (), generator=g).item()
        parts[i:i+2] = [parts[i]+parts[i+1]]
    whole = block_tally(a.clone(), z.clone(), y, slice(0, c))
    possible = (z>-math.inf).any(1) # else no class can be held out for its logit, and `score` refuses such a bias
    def rows(t): return tally.Tally(*(v[possible] for _,v in t))
    same(rows(parts[0]), rows(whole), 1e-9)
    for (name,got),(_,want) in zip(scores_of(rows(parts[0]), c).items(), scores_of(rows(whole), c).items()):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9, equal_nan=True, msg=lambda m,name=name: f'{name}: {m}')

@quick
@cases
def test_any_parts_add_up(seed, n, c, kind, labelled): parts_add_up(block_tally, seed, n, c, kind, labelled)

@pytest.mark.parametrize('c', [1, 2, 3])
def test_few_classes(c):
    a,z,y = drawn(0, 20, c, 'any')
    for labels in (y, None):
        t = block_tally(a.clone(), z.clone(), labels, slice(0, c))
        s = scores_of(t, c)
        assert (t.largest_class>=0).eq(c>1).all() and (t.second_class>=0).eq(c>2).all()
        assert t.largest_angle.isnan().eq(c==1).all() and t.second.isinf().eq(c<3).all()
        assert (s['pred2']>=0).eq(c>1).all() and s['logit_margin'].isnan().eq(c==1).all()
        if c==2: assert torch.equal(s['pred']+s['pred2'], torch.ones(20).long())
        torch.testing.assert_close(s['energy'], -z.logsumexp(1))

def test_no_class_that_is_never_predicted_is_second():
    a,z = torch.ones(4, 3).double(),torch.tensor([[1., -math.inf, -math.inf]]*4).double()
    y = torch.tensor([0, 1, 2, 0])
    for labels in (y, None):
        for cuts in ([0, 3], [0, 1, 3], [0, 2, 3], [0, 1, 2, 3]):
            parts = [block_tally(a[:, i:j].clone(), z[:, i:j].clone(), labels, slice(i, j)) for i,j in zip(cuts, cuts[1:])]
            s = scores_of(functools.reduce(operator.add, parts), 3)
            assert s['pred'].eq(0).all() and s['pred2'].eq(-1).all() and s['avh_pred'].eq(1/3).all()
            d = torch.full((4,), math.inf).double() if labels is None else torch.tensor([math.inf, -math.inf, -math.inf, math.inf]).double()
            assert torch.equal(s['logit_margin'], d) and torch.equal(s['energy'], -torch.ones(4).double())
            assert s['angular_gap'].eq(0).all() # the others have angles all the same

def test_the_engine_in_blocks(monkeypatch):
    g = torch.Generator().manual_seed(0)
    x,w,y = torch.randn(30, 6, generator=g),torch.randn(50, 6, generator=g),torch.randint(50, (30,), generator=g)
    w[20] = w[31] = w[3]
    for labels in (y, None):
        whole = TorchEngine(w.double()).tally(x.double(), labels)[0]
        with monkeypatch.context() as m:
            m.setattr('avh_nb.engine.reference.block_shape', lambda *args: (7, 11))
            same(TorchEngine(w.double()).tally(x.double(), labels)[0], whole, 1e-9)

MUTANTS = {
    'last of equals': ('(k<other_k)', '(k>other_k)'),
    'second of the loser': ('torch.where(first, a.second, b.second)', 'torch.where(first, b.second, a.second)'),
    'second is always the largest of the other': ('(torch.where(ahead(*one, *other), p, q) for', '(p for'),
    'class of the second mixed up': ('first, a.second_class, b.second_class', 'first, b.second_class, a.second_class'),
    'angle of the other': ('torch.where(first, a.largest_angle, b.largest_angle)', 'torch.where(first, b.largest_angle, a.largest_angle)'),
    'angle to the nearer': ('torch.where(first, a.largest_angle, b.largest_angle)', 'torch.minimum(a.largest_angle, b.largest_angle)'),
    'never predicted, and yet the largest': ('largest_class=torch.where(never, -1, held)', 'largest_class=held'),
}

@pytest.mark.parametrize('name', MUTANTS)
def test_mutants(name):
    wrong = mutant(tally, *MUTANTS[name])
    def mutated(*args): return wrong.Tally(*(v for _,v in block_tally(*args)))
    with pytest.raises(AssertionError):
        for seed in range(60):
            for kind in ('any', 'ties', 'never'):
                for labelled in (True, False): parts_add_up(mutated, seed, 6, 7, kind, labelled)
