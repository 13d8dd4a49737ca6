"Shortcuts: what the study says of made-up records, where there are none, few, or the other way round; orders, duels and flows by loops."
import itertools, json, numpy as np, pandas as pd, pytest
from functools import cache
from hypothesis import given, strategies as st
from avh_nb.beyond import cue_flatness, cue_preference, networks, shortcuts
from avh_nb.beyond.cue_networks import EPOCHS, NETWORKS
from avh_nb.beyond.cue_preference import (CHANCE, ROUNDS, agreement_of_orders, ahead, duels, first_epoch, foretold, in_order, orders,
    right_pairs, shares)
from avh_nb.beyond.shortcuts import each
from avh_nb.data.cues import CUES

SCALE_FIRST = 'colour', 'scale', 'shape', 'orientation'

@cache
def levels_of(k): return np.array([l for l in itertools.product(range(3), repeat=k) if len(set(l))>1]).repeat(1560//(3**k-3), 0)

@cache
def made_up(config, seed, order=SCALE_FIRST, early=.1, unlearnt=frozenset()):
    "As runs record them, of networks that go by each cue in some of the images, the more the earlier it stands in the order"
    rng,config = np.random.default_rng([seed, *map(ord, config)]),json.loads(config)
    if config['part']=='rate': return dict(loss=.1)
    if config['part']=='probe': return dict(accuracy=.99-.2*order.index(config['cue'])+rng.normal(scale=.01))
    cues = tuple(config['cues'].split(', ')) if 'cues' in config else CUES
    levels,at = levels_of(len(cues)),np.array([[.75, .13, .08, .04][order.index(c)] for c in cues])
    at /= at.sum()
    def answers(p): return levels[np.arange(len(levels)), rng.choice(len(p), len(levels), p=p/p.sum())]
    def followed(a): return {c: float((a==levels[:, k]).mean()) for k,c in enumerate(cues)}
    if config['part'] in ('forced', 'abundance'):
        stays = config.get('radius', 0)<1 and (config['part']=='forced' or config['cue']==order[0])
        m = {**followed(answers(np.eye(4)[cues.index(config['cue'])] if stays else at)), 'diagonal': 1., 'loss': .01, 'norm': 20.}
        of = 1+order.index(config['cue'])
        for r in cue_flatness.RADII if config['part']=='forced' else ():
            m |= {f'rise {r}': r**2*of*(1+.05*rng.normal()), f'right {r}': 1-r*of/8+.002*rng.normal()}
        return m
    m,goal,learns = {'loss': .01},answers(at),not {(config['part'], config['network'], s) for s in (seed, None)} & unlearnt
    for e in range(EPOCHS+1):
        share,now = max(0, e-4)/(EPOCHS-4),min(1, e/3) # angles are faster
        a = goal if e==EPOCHS else answers(share*at+(1-share)/len(at))
        m |= {f'{c}_{e}': v for c,v in followed(a).items()} | {f'confidence {c}_{e}': v for c,v in followed(a).items()}
        m |= {f'avc {c}_{e}': 1/3+.1*now*(at[k]-at.mean())
            for k,c in enumerate(cues)}
        m |= {f'agrees confidence_{e}': min(1, .4+.6*e/EPOCHS), f'agrees avc_{e}': min(.99, .4+.6*e/EPOCHS+early)}
        m[f'diagonal_{e}'] = share if learns else .5
    for l,of in zip(levels[::(size := 1560//(3**len(cues)-3))], goal.reshape(-1, size)):
        m[f"cell {''.join(map(str, l))}"] = '/'.join(map(str, np.bincount(of, minlength=3)))
    return m

@pytest.fixture
def write(monkeypatch):
    "Records of the whole grid but for those of people, some of them left out or with other preferences"
    rows = []
    monkeypatch.setattr(networks, 'read_records', lambda study: rows if study=='shortcuts' else [])
    def records(keep=lambda config, seed: True, **how):
        rows[:] = [dict(study='shortcuts', config=c, seed=s, metrics=made_up(json.dumps(c), s, **how), seconds=1., device='none')
            for c,s in shortcuts.grid() if not c['part'].startswith('people') and keep(c, s)]
    return records

TEXTS = {'published': 'with published shapes', 'fair': 'and with fair', 'scale': 'it is scale', 'shape': 'it is shape and not',
    'agree': 'agree on the order', 'up': 'orientation moves up', 'cuts': 'cut points', 'avc': 'of four cues first', 'three': 'and of three',
    'earlier': 'at an earlier epoch', 'foretells': 'foretells more', 'angle': 'smallest angle', 'flat': 'are flatter',
    'right': 'still classified correctly',
    'flattest': 'the flattest of all', 'flow': 'trainings that start', 'probe': 'linear probe'}

def judged():
    "Key of TEXTS to its claim"
    found = [*shortcuts.networks_claims(), *shortcuts.angles_claims(), *cue_flatness.solutions_claims()]
    assert len(found)==len(TEXTS)
    return {k: next(c for c in found if words in c.text) for k,words in TEXTS.items()}

def test_nothing_recorded(write):
    assert {(c.here, c.holds) for c in judged().values()}=={('not run yet', 'open')}
    assert shortcuts.claims()[-1].holds=='not tested here' and 'Not run yet' in shortcuts.summary()
    p,f = cue_preference,cue_flatness
    drawn = p.draw_preference,p.draw_duels,p.draw_foretold,f.draw_flatness,f.draw_abundance
    assert [f() for f in drawn]==[None]*5 and shortcuts.PEOPLE.runs()==[]

def test_claims_of_networks_that_are_as_claimed(write):
    write()
    found = {k: c.holds for k,c in judged().items()}
    assert {k for k,v in found.items() if v=='yes'}>=set(TEXTS)-{'up', 'cuts', 'angle'}, found
    assert found['up']!='yes' and found['cuts']!='yes' # the same on both sides but for chance
    for words in ('all networks go by colour', 'all go by scale', 'shape is ahead', 'are flatter', 'end at the preferred one',
        'AVC foretells more'):
        assert words in shortcuts.summary()
    assert in_order()==list(SCALE_FIRST)

def test_claims_of_networks_that_are_the_other_way_round(write):
    write(order=SCALE_FIRST[::-1], early=-.2)
    found = {k: c.holds for k,c in judged().items()}
    assert {found[k] for k in ('published', 'fair', 'shape', 'foretells')}=={'no'}
    assert in_order()[0]=='orientation' and all(w in shortcuts.summary() for w in ('orientation is ahead', 'AVC foretells fewer'))
    assert found['flat']==found['probe']==found['agree']=='yes' # of the cue that is preferred here

def test_one_seed_is_open(write):
    write(keep=lambda c, s: s in (0, 99))
    assert {c.here for k,c in judged().items() if k!='agree'}=={'not run yet'}

def test_rounds_that_are_not_recorded_leave_the_others_alone(write):
    write(keep=lambda c, s: c['part']=='preference')
    found = judged()
    assert found['fair'].holds=='yes' and {found[k].here for k in ('scale', 'shape', 'agree', 'flat')}=={'not run yet'}
    assert 'all networks go by colour' in shortcuts.summary() and cue_preference.draw_preference(['pairs']) is None

def test_a_round_that_is_not_learnt_does_not_count(write):
    write(unlearnt=frozenset({('pairs', 'MLP', None), ('pairs', 'ViT', None)}))
    def of_shape(*where): return ahead(*where, 'shape')
    assert set(each(of_shape, 'fair', 'pairs'))=={'ResNet'} and len(each(ahead))==3
    assert judged()['shape'].here.startswith('ResNet') and 'MLP' not in judged()['shape'].here
    assert (orders('MLP')[['shape', 'orientation']]==3.5).all(axis=None) and (orders()['shape']==3).all()
    write(unlearnt=frozenset({('preference', 'ViT', 1)}))
    rest = shares('ViT').drop(index=1)
    assert ahead('ViT').mean==pytest.approx((rest['colour']-rest[list(CUES[1:])].max(axis=1)).mean())
    assert list(foretold('avc', 'ViT').index)==[0, 2, 3, 4] and len(shares('ViT'))==5
    assert (orders('ViT').loc[1, 'colour'], orders('ViT').loc[0, 'colour'])!=(1, 1)
    write(unlearnt=frozenset(('pairs', n, None) for n in NETWORKS))
    assert judged()['shape'].here=='not run yet'
    with pytest.raises(LookupError, match='no network has learnt pairs'): each(of_shape, 'fair', 'pairs')

def test_differences_are_paired_by_seed(monkeypatch):
    def made(network, shapes, part): # seeds differ far more than shapes
        return pd.DataFrame({'orientation': [30.+10*s+2*(shapes=='fair') for s in range(5)]})
    monkeypatch.setattr(shortcuts, 'shares', made); monkeypatch.setattr(shortcuts, 'of_learnt', lambda f, *where: f)
    assert shortcuts.fair_over_published('ResNet')==pytest.approx((2, 2, 2))

@pytest.fixture
def rows(monkeypatch):
    "Shares of each round, in two runs, to be changed"
    found = {'preference': [99, 30, 31.2, 31.4], 'without colour': [26, 95, 24], 'pairs': [50.2, 49.8]}
    monkeypatch.setattr(cue_preference, 'shares', lambda n, s, part: pd.DataFrame([found[part]]*2, columns=ROUNDS[part]))
    monkeypatch.setattr(cue_preference, 'learnt', lambda *where: pd.Series([99., 100.]))
    return found

def test_orders_by_hand(rows):
    assert orders().iloc[0].to_dict()==dict(colour=1, scale=2, shape=3.5, orientation=3.5)
    rows['pairs'] = [40, 60]
    assert orders().iloc[1].to_dict()==dict(colour=1, scale=2, orientation=3, shape=4)
    assert in_order()==['colour', 'scale', 'orientation', 'shape']
    rows['preference'],rows['without colour'] = [20, 90, 31, 32],[80, 30, 20] # the winner of four wins again
    assert orders().iloc[0]['shape']==1
    rows.update({'preference': [50.3, 50, 20, 20], 'without colour': [40, 60, 20], 'pairs': [60, 40]}) # a tie at the top
    assert orders().iloc[0].to_dict()==dict(colour=1.5, shape=1.5, scale=3, orientation=4)

def test_runs_with_the_same_order_agree(monkeypatch):
    monkeypatch.setattr(cue_preference, 'orders', lambda n, s: pd.DataFrame([[1, 3, 2, 4]]*2, columns=CUES))
    assert agreement_of_orders()==pytest.approx((1, 1, 1))

@given(st.lists(st.integers(0, 5), min_size=4, max_size=4), st.lists(st.integers(0, 5), min_size=4, max_size=4))
def test_right_pairs_by_a_loop(values, final):
    right = wrong = n = 0
    for i in range(4):
        for j in range(i):
            if final[i]==final[j]: continue
            n += 1
            right += (values[i]-values[j])*(final[i]-final[j])>0
            wrong += (values[i]-values[j])*(final[i]-final[j])<0
    assert right_pairs(values, final)==(pytest.approx((right-wrong)/n) if n else pytest.approx(np.nan, nan_ok=True))

def test_an_order_that_is_lost_again_does_not_count():
    good,bad,final = [4, 3, 2, 1],[3, 4, 2, 1],[90, 50, 40, 31]
    assert first_epoch([good, bad, good, good], final)==2 and first_epoch([good]*3, final)==0 and first_epoch([good, bad], final)==2

@pytest.mark.parametrize('part', ROUNDS)
def test_duels_and_shares_by_a_loop_over_images(write, part):
    write()
    m = cue_preference.runs_of_round('ViT', 'fair', part)[0]
    n_cues = len(ROUNDS[part])
    images = [(tuple(map(int, k[5:])), answer) for k,v in m.items() if k.startswith('cell ') for answer,n in enumerate(v.split('/'))
        for _ in range(int(n))]
    found = duels(m)
    for i,j in itertools.permutations(range(n_cues), 2):
        told = [answer==l[i] for l,answer in images if l[i]!=l[j]]
        assert found[i, j]==pytest.approx(100*np.mean(told))
    followed = shares('ViT', 'fair', part).loc[0]
    for k,c in enumerate(ROUNDS[part]): assert followed[c]==pytest.approx(100*np.mean([a==l[k] for l,a in images]))

@pytest.mark.parametrize('part', ROUNDS)
def test_chance_is_that_of_a_network_that_goes_by_one_cue(part):
    levels = levels_of(len(ROUNDS[part]))
    assert 100*(levels[:, 0]==levels[:, 1]).mean()==pytest.approx(CHANCE[part]) and abs(CHANCE[part]-100/3)>2 # it is not one of three

def test_flow_by_a_loop(write):
    write()
    ends,inward = {},[]
    for s in range(3):
        arrive,leave = [],[]
        for c,r in itertools.product(CUES, cue_flatness.STARTS):
            m = networks.by_seed('shortcuts', part='abundance', cue=c, radius=r)[s]
            end = max(CUES, key=lambda to: m[to])
            ends[c, end] = ends.get((c, end), 0)+1
            if c=='colour': leave.append(end!='colour')
            else: arrive.append(end=='colour')
        inward.append(100*(np.mean(arrive)-np.mean(leave)))
    table = cue_flatness.flow()
    assert {(c, to): table.loc[c, to] for c in CUES for to in CUES if table.loc[c, to]}==ends
    assert cue_flatness.more_inward('colour').mean==pytest.approx(np.mean(inward))

def test_flatness_is_judged_at_its_radius_and_by_the_preference(write):
    write()
    rises = cue_flatness.by_cue(f'rise {cue_flatness.AT}')
    assert cue_flatness.flatter().mean==pytest.approx((rises['orientation']-rises['colour']).mean())
    right = cue_flatness.by_cue(f'right {cue_flatness.AT}')
    assert cue_flatness.flatter('right').mean==pytest.approx(100*(right['colour']-right['orientation']).mean())
    assert cue_flatness.ahead_of_all(-rises).mean==pytest.approx((rises[list(CUES[1:])].min(axis=1)-rises['colour']).mean())
    assert cue_flatness.ahead_of_all(-rises).low>0>cue_flatness.ahead_of_all(-rises, 'scale').high

def test_final_answers_are_foretold_by_definition(write):
    write()
    for n in NETWORKS:
        assert foretold('confidence', n).eq(100).all()
        assert ahead(n).mean==pytest.approx((shares(n)['colour']-shares(n)[list(CUES[1:])].max(axis=1)).mean())

@pytest.mark.parametrize('cues', [CUES, ('shape', 'orientation')])
def test_the_small_version_is_a_training(cues):
    found = shortcuts.small_version('MLP', cues=cues, epochs=2, train=150)
    assert list(found)==list(cues) and len(found)==3
    if len(cues)==2: assert (found.sum(axis=1)<=100+1e-6).all() # no image names the same class twice
    again,other = (shortcuts.small_version('MLP', cues=cues, epochs=2, train=150, seed=s) for s in (0, 1))
    assert again.equals(found) and not other.equals(found)
