"The three questions by slow loops and known answers, wrong variants that have to be told apart, and the committed records."
import json
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from avh_nb.angle import angles
from avh_nb.data.images import Images
from avh_nb.paper import ambiguity, divided
from avh_nb.report.records import read_records
from avh_nb.stats.correlation import Interval

ROOT = Path(__file__).parents[2]
small = st.lists(st.integers(0, 5), min_size=1, max_size=12)

def network(n=60, k=5, d=8, seed=0, bias=0.):
    "Angles, logits and norms of made-up features; labels near the first angle; votes that lean to the label"
    g = torch.Generator().manual_seed(seed)
    x,w,b = torch.randn(n, d, generator=g),torch.randn(k, d, generator=g),bias*torch.randn(k, generator=g)
    a,rng = angles(x, w),np.random.default_rng(seed)
    y = np.where(rng.random(n)<.8, a.argmin(1).numpy(), rng.integers(0, k, n))
    p = np.where(rng.random((n, 1))<.5, .02, .6)
    counts = np.stack([rng.multinomial(20, q) for q in (1-p)*np.eye(k)[y]+p*np.eye(k)[(y+1)%k]])
    return (a, x@w.T+b, x.norm(dim=1)),y,counts

# Pairs

@given(small, small, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_pairs_by_counting(hard, easy, seed):
    rng = np.random.default_rng(seed)
    v,u = rng.integers(0, 3, len(hard))+(np.arange(len(hard))==0),rng.integers(0, 3, len(easy))+(np.arange(len(easy))==0)
    won = sum(p*q*((h>e)+.5*(h==e)) for h,p in zip(hard, v) for e,q in zip(easy, u))
    assert divided.pairs(np.array(hard), np.array(easy))(v, u)==pytest.approx(won/(v.sum()*u.sum()))

@given(small, small)
@settings(max_examples=40, deadline=None)
def test_pairs_knows_only_the_order(hard, easy):
    hard,easy = np.array(hard, float),np.array(easy, float)
    v,u = np.ones(len(hard)),np.ones(len(easy))
    share = divided.pairs(hard, easy)(v, u)
    assert divided.pairs(np.exp(hard), np.exp(easy))(v, u)==pytest.approx(share)
    assert divided.pairs(-hard, -easy)(v, u)==pytest.approx(1-share)

def test_pairs_at_its_limits():
    ones = np.ones(3)
    assert [divided.pairs(ones+d, ones)(ones, ones) for d in (1, 0, -1)]==[1, .5, 0]

# Second places

def second_places(counts, y=None):
    "The classes on the second place, by a loop"
    res = []
    for i,c in enumerate(counts):
        order = sorted(range(len(c)), key=lambda j: (-c[j], j))
        rest = [j for j in order if j!=(order[0] if y is None else y[i])]
        most = c[rest[0]]
        level = {j for j in range(len(c)) if c[j]==most and most>0}
        res.append(level if y is None else level-{y[i]})
    return res

@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(any), min_size=1, max_size=8), st.booleans(), st.data())
@settings(max_examples=80, deadline=None)
def test_named_second_by_a_loop(counts, known, data):
    y = [data.draw(st.integers(0, 2)) for _ in counts] if known else None
    got = divided.named_second(counts, y)
    assert [set(np.flatnonzero(r)) for r in got]==second_places(counts, y)

@pytest.mark.parametrize('bias', [0, 3.])
def test_seconds_by_a_loop(bias):
    seen,y,counts = network(bias=bias)
    put_in = (y+np.arange(len(y))%2)%5
    got,n = divided.seconds(seen, y, counts, put_in)(np.ones(len(y))),len(y)
    a,z = seen[0].numpy(),seen[1].numpy()
    first,others = second_places(counts),second_places(counts, y)
    for what,use,right,beside in (('second', [i for i in range(n) if first[i]], first, False),
            ('divided second', [i for i in range(n) if sorted(counts[i])[-2]>=.25*counts[i].sum()], first, False),
            ('beside', [i for i in range(n) if others[i]], others, True),
            ('put in', [i for i in range(n) if put_in[i]!=y[i]], [{p} for p in put_in], True)):
        def second(near, i, beside=beside):
            order = sorted(range(5), key=lambda c: -near[i, c])
            return next(c for c in order if c!=y[i]) if beside else order[1]
        by = {k: [second(v, i) for i in use] for k,v in dict(angle=-a, probability=z).items()}
        for k in by: assert got[f'{what} {k}']==pytest.approx(np.mean([c in right[i] for c,i in zip(by[k], use)])), (what, k)
        assert got[f'{what} apart']==pytest.approx(np.mean(np.array(by['angle'])!=np.array(by['probability'])))
        assert got[f'{what} difference']==pytest.approx(got[f'{what} angle']-got[f'{what} probability'])

def test_equal_lengths_and_no_bias_make_the_orders_one():
    (a,_,norm),y,counts = network()
    got = divided.seconds((a, 7*torch.cos(a), norm), y, counts)(np.ones(len(y)))
    assert got['second apart']==got['beside apart']==0 and got['second difference']==0

def test_weights_are_repeated_images():
    seen,y,counts = network()
    w = np.random.default_rng(1).integers(0, 3, len(y))
    i = np.repeat(np.arange(len(y)), w)
    more = tuple(t[i] for t in seen)
    for f in (lambda s,y,c: divided.sees(s, y, c, dict(dark=(*s[:2], s[2]*.9))), divided.seconds, divided.follows):
        weighted,repeated = f(seen, y, counts)(w.astype(float)),f(more, y[i], counts[i])(np.ones(len(i)))
        assert weighted==pytest.approx(repeated)

# Wrong variants, on a network that is made to tell them apart

def test_a_second_that_is_the_least_likely_is_another():
    seen,y,counts = network()
    right = divided.seconds(seen, y, counts)(np.ones(len(y)))
    for wrong in ((-seen[0]+np.pi, seen[1], seen[2]), (seen[0], -seen[1], seen[2])): # a sign that is turned
        got = divided.seconds(wrong, y, counts)(np.ones(len(y)))
        assert got['second difference']!=right['second difference']

def test_follows_has_its_sign():
    "Where angles are what people said, the correlation is 1; where they are the contrary, -1"
    counts = np.array([[20-i, i, 0] for i in range(1, 10)])
    y,share = np.zeros(9, int),torch.from_numpy(counts/20)
    for sign in (1, -1):
        seen = 1-sign*share/2,sign*share,torch.ones(9)
        got = divided.follows(seen, y, counts)(np.ones(9))
        for k in ('angle', 'log probability', 'probability'): assert got[f'follows {k}']==pytest.approx(sign), k
        assert got['follows angle over probability']==pytest.approx(0)

def test_follows_leaves_out_where_nobody_named_another():
    seen,y,counts = network()
    alone = (counts>0).sum(1)==1
    assert alone.any()
    w = np.ones(len(y))
    of = divided.follows(seen, y, counts)
    assert of(w)['follows angle']==of(np.where(alone & (counts.argmax(1)==y), 5., w))['follows angle']

def test_hardness_is_turned():
    "Each score says hard of the image far from all class vectors, with a small norm, and not of the one on its own"
    w = torch.eye(3)
    x = torch.tensor([[5., .1, .1], [.5, .49, .48]])
    h = divided.hardness(angles(x, w), x@w.T, x.norm(dim=1), np.zeros(2, int))
    assert tuple(h)==divided.ASKED and all(v[1]>v[0] for v in h.values())

def test_what_degradation_does_is_seen_and_its_mean_taken():
    (a,z,norm),y,counts = network()
    got = divided.sees((a, z, norm), y, counts, dict(less=(a, z, norm*1e-3), more=(a, z, norm*1e3)))(np.ones(len(y)))
    assert (got['less norm'], got['more norm'], got['degradation norm'])==(1, 0, .5)
    assert got['less avh']==got['degradation entropy']==.5

def test_votes_of_one_kind_are_refused():
    seen,y,_ = network()
    for counts in (np.eye(5, dtype=int)[y]*20, np.full((60, 5), 4)):
        with pytest.raises(ValueError, match='counts: expected some images that people are divided on, and some not'):
            divided.sees(seen, y, counts, {})

# Intervals

def test_pooled_draws_images_and_networks():
    "Two networks that say 0 and 1 are 1/2, from 0 to 1; groups are drawn whole"
    one = lambda v: [lambda w: dict(v=v, n=float(w.sum()), first=float(w[0]), second=float(w[1]))]
    got = divided.pooled([one(0.), one(1.)], 4, groups=np.array([7, 7, 8, 8]), n_boot=200)
    assert got['v']==Interval(.5, 0, 1) and got['n']==Interval(4, 4, 4) and got['first']==got['second']
    alone = divided.pooled([one(1.)], 4, n_boot=50)
    assert alone['v']==Interval(1, 1, 1)

def test_answers_hold_all_questions_and_are_the_same_again():
    seen,y,counts = network()
    args = [(seen, dict(dark=seen))],y,counts
    a,b = (divided.answers(*args, n_boot=20) for _ in range(2))
    assert a==b and {'ambiguity avh', 'degradation norm', 'second difference', 'follows angle over log probability'}<=a.keys()
    assert 'put in angle' not in a and all(i.low<=i.high for i in a.values())

# The page

@given(st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_mixtures(seed):
    g = torch.Generator().manual_seed(seed)
    images = Images(torch.randint(0, 256, (6, 1, 4, 4), generator=g).byte(), torch.tensor([0, 0, 1, 1, 2, 2]), tuple('abc'), 'made')
    m,second,share = ambiguity.mixtures(images, [0, .25, 1], seed)
    assert (m.y!=second).all() and torch.equal(m.x[:6], images.x)
    for i in range(6): # the whole second image is one of its class
        assert any(torch.equal(m.x[12+i], x) for x in images.x[images.y==second[i]])
        mean = .75*images.x[i].double()+.25*m.x[12+i].double()
        assert (m.x[6+i].double()-mean).abs().max()<=.51
    votes = ambiguity.as_votes(m.y, second, share, 3)
    assert (votes.sum(1)==100).all() and (votes[np.arange(18), second]==np.round(100*share)).all()

def test_examples_stand_at_even_steps():
    n,rng = 41,np.random.default_rng(0)
    first = rng.permutation(np.arange(30, 71))
    counts = np.stack([first, 100-first, 0*first], 1)
    a = torch.rand(n, 3, generator=torch.Generator().manual_seed(0))
    got = ambiguity.examples([(a, a, a[:, 0])], np.zeros(n, int), counts, 5)
    assert [e[3] for e in got]==[30, 40, 50, 60, 70] and all(e[3]+e[4]==100 and e[1:3]==[0, 1] for e in got)
    for e in got: assert e[5:]==pytest.approx([round(v, 3) for v in a[e[0], :2].tolist()])

@pytest.mark.parametrize('verdicts,word', [(['yes', 'yes'], 'yes'), (['no', 'no'], 'no'), (['yes', 'no'], 'mixed'),
    (['yes', 'open'], 'mixed'), (['open', 'open'], 'open')])
def test_together(verdicts, word): assert ambiguity.together(verdicts)==word

def made_up(avh, second, follows):
    def interval(v): return Interval(v, v-.05, v+.05)
    of = {f'{what} {k}': interval(avh) for what in ('ambiguity', 'degradation') for k in divided.ASKED}
    of |= {f'{f} {k}': interval(follows) for f in ('follows', 'divided follows') for k in ('angle', 'angle over log probability')}
    of |= {f'{what} avh over confidence': interval(0) for what in ('ambiguity', 'degradation')}
    return of | {'second difference': interval(second), 'second angle': interval(.3), 'second probability': interval(.3),
        'second apart': interval(.1), 'images': 10_000.}

@pytest.mark.parametrize('made,holds,lead', [((.8, .2, .4), ['yes']*3, 'AVH sees both sources'),
    ((.3, -.2, -.4), ['no']*3, 'AVH sees neither'), ((.52, .01, .01), ['open']*3, 'Whether AVH sees either is open')])
def test_claims_and_text_follow_the_records(monkeypatch, made, holds, lead):
    monkeypatch.setattr(ambiguity, 'found', lambda case: made_up(*made))
    assert [c.holds for c in ambiguity.claims()]==holds
    text = ambiguity.verdict()+ambiguity.details()
    assert text.startswith(f'**{lead}') and f'{made[1]:+.3f} [' in text
    assert ('none' in text)==(made[0]>.55)

def test_committed_records_are_whole():
    records = read_records('ambiguity', ROOT/'results')
    configs = [json.dumps([r['config'], r['seed']]) for r in records]
    assert len(set(configs))==len(configs) and {json.dumps([c, 0]) for c in ambiguity.CASES.values()}<=set(configs)
    for r in records:
        m = r['metrics']
        assert r['commit'] and not r['commit'].endswith('+changes') and {'device', 'versions', 'time', 'seconds'}<=r.keys()
        assert all(m[f'{k} low']<=v<=m[f'{k} high'] for k,v in m.items() if f'{k} low' in m)
        assert len(json.loads(m['examples']))==8 and m['ambiguous']+m['agreed']<m['images']
        for what in ('second', 'beside'):
            assert abs(m[f'{what} difference'])<=m[f'{what} apart']+1e-6 # where the orders agree they hit alike
