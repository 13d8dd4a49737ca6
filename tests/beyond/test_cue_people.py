"People and networks on images in conflict: what a run records, which way each score points, and what is said of made-up records."
import json, numpy as np, pytest
from avh_nb.beyond import cue_answers, cue_people
from avh_nb.beyond.cue_people import AHEAD, HEADS, LITES, NAMES, NEAREST, ends
from avh_nb.report.journal import read_records
from avh_nb.report.who import read_ranks
from avh_nb.stats.correlation import spearman

N = 90

class FewVotes:
    "Ten people each, on a few made-up images"
    def __init__(self, counts): self.counts,self.shown = counts,np.full(len(counts), 10)
    def hsf(self, y): return self.counts[np.arange(len(y)), y]/10
    def ceiling(self, y): return dict(ceiling=.9, split_half=.7)

@pytest.fixture
def few(monkeypatch, tmp_path):
    "Made-up images and people; `networks` sets what networks say of them"
    rng = np.random.default_rng(0)
    shape = np.arange(N)//3%3
    texture = (shape+1)%3
    counts = np.zeros((N, 3), int)
    counts[np.arange(N), shape] = rng.integers(0, 9, N)
    counts[np.arange(N), texture] = 1
    images = cue_answers.Judged(np.arange(N), shape, texture, np.arange(N)//3, np.arange(N)%9, FewVotes(counts))
    monkeypatch.setenv('AVH_RESULTS', str(tmp_path))
    whole = cue_people.Alignment.of
    monkeypatch.setattr(cue_people.Alignment, 'of', lambda *a, **k: whole(*a, **k, n_boot=50)) # fewer draws
    monkeypatch.setattr(cue_people, 'judged', lambda *a: images)
    monkeypatch.setattr(cue_people, 'saw_shape', lambda: images.votes.hsf(shape))
    def networks(say): monkeypatch.setattr(cue_people, 'look', lambda which, head, *a, **k: say(images, which, head))
    return networks

def easy(images, which, head):
    "All scores say easy where people do"
    v = images.votes.hsf(images.shape)
    turned = {k: -v if end=='high' else v for k,end in cue_answers.FOLLOW.items() if head in (HEADS[0], NEAREST) or k!='confidence_1000'}
    answer = np.where(np.arange(N)%3==0, images.shape, np.where(np.arange(N)%3==1, images.texture, 9))
    return turned,dict(softmax=answer, angle=images.texture)

def test_a_score_that_says_easy_where_people_do_is_positive(few):
    few(easy)
    for config in (dict(part='people', head=HEADS[0]), dict(part='people together', head=NEAREST)):
        m = cue_people.run_people(config, 0)
        assert {k: m[f'rho_{k}'] for k in NAMES}==pytest.approx(dict.fromkeys(NAMES, 1.))
        assert all(m[f'{a} over {b}']==pytest.approx(0) for a,b in AHEAD)
        assert (m['bias softmax'], m['bias angle'], m['shape softmax'], m['texture softmax'])==pytest.approx((.5, 0, 1/3, 1/3))
    assert m['people texture']==pytest.approx(.1) and m['people bias']>.5

def test_the_ends_that_are_hard_are_those_of_the_formulas():
    "A feature nearer to the shape's class vector is easier by every score but the norm"
    import torch
    w,t = torch.eye(3).double(),torch.linspace(.1, 1.4, 20).double()
    x = torch.stack([t.cos(), t.sin(), torch.full_like(t, .1)], 1) # turned from shape to texture
    zero,one = torch.zeros(20).long(),torch.ones(20).long()
    s = cue_answers.cue_scores(cue_answers.angles(x, w), 3*x@w.T, x.norm(dim=1), zero, one)
    for k,v in s.items():
        if k!='norm': assert spearman(v.numpy()*(1 if cue_answers.FOLLOW[k]=='high' else -1), t.numpy())>.99, k

def test_three_networks_are_their_mean_and_each_is_its_own(few):
    def say(images, which, head):
        s,answers = easy(images, which, head)
        noise = np.random.default_rng(int(which)).random(N)
        return s|dict(confidence=s['confidence']+(1+int(which))*noise),answers
    few(say)
    alone = [cue_people.run_people(dict(part='people', head=HEADS[0]), n) for n in range(3)]
    together = cue_people.run_people(dict(part='people together', head=HEADS[0]), 0)
    for k in ('rho_avh', 'rho_confidence', 'avh over confidence', 'bias softmax'):
        assert together[k]==pytest.approx(np.mean([m[k] for m in alone])), k
    assert len({m['rho_confidence'] for m in alone})==3
    assert all(m['rho_confidence low']<=m['rho_confidence']<=m['rho_confidence high'] for m in alone)
    assert 'ceiling' in together and 'ceiling' not in alone[0] and {'all avh', 'all norm'}<=set(alone[0])

def test_what_a_head_fitted_to_texture_says_of_the_shape_is_kept(few, monkeypatch):
    import torch
    few(easy)
    right = torch.nn.functional.one_hot(torch.from_numpy(cue_people.judged().texture), 3).float()
    right[:30] = right[:30].roll(1, 1) # a third is wrong
    monkeypatch.setattr(cue_people, 'fitted', lambda *a: (None, right))
    config = dict(part='people', head='fitted to texture')
    m = cue_people.run_people(config, 2)
    assert m['accuracy']==m['texture softmax'] and m['accuracy new']==pytest.approx(2/3) and 'rho_confidence_1000' not in m
    ranks = read_ranks(cue_people.ranks_file('shortcuts', config, 2))
    assert len(ranks)==N and spearman(ranks.avh, -cue_people.saw_shape())>.99
    with pytest.raises(ValueError, match='seed: expected a network from 0 to 2, got 3'): cue_people.run_people(config, 3)

def test_every_run_has_a_file_of_its_own():
    runs = [(c, s) for c,s in cue_people.people_grid() if c['part']=='people']
    assert len({cue_people.ranks_file('shortcuts', c, s) for c,s in runs})==len(runs)==9
    assert len({json.dumps([c, s]) for c,s in cue_people.people_grid()})==13 and len(LITES)==3

def made_up(config, seed, ahead=.02, half=.01, bias=.25, shape=.05, texture=-.2, against=-.1, angular=0.):
    more = dict(zip(HEADS, (0, shape, texture))).get(config['head'], 0)
    rho = {k: .3+against*k.startswith('prefers') for k in NAMES}|dict(confidence=.3-ahead, confidence_1000=.3-ahead, norm=-.1)
    rho['prefers_softmax'] -= angular
    of = {f'rho_{k}': v+more+.001*seed*(more!=0) for k,v in rho.items()}|{f'{a} over {b}': rho[a]-rho[b] for a,b in AHEAD}
    of |= {f'bias {how}': bias for how in ('softmax', 'angle', 'published')}|{'people bias': .959}
    return {k: v for n,x in of.items() for k,v in ends(n, (x, x-half, x+half)).items()}|dict(ceiling=.88, accuracy=.5, images=1200)

@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv('AVH_RESULTS', str(tmp_path))
    def records(keep=lambda c, s: True, **changed):
        rows = [dict(study='shortcuts', config=c, seed=s, seconds=1., device='none', metrics=made_up(c, s, **changed))
            for c,s in cue_people.people_grid() if keep(c, s)]
        (tmp_path/'shortcuts.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in rows))
    return records

def holds(): return [c.holds for c in cue_people.people_claims()]

def test_nothing_recorded(write):
    write(lambda c, s: False)
    assert {(c.here, c.holds) for c in cue_people.people_claims()}=={('not run yet', 'open')}
    assert cue_people.draw_shape_bias() is cue_people.draw_following() is None
    assert all('Not run yet' in f() for f in (cue_people.people_table, cue_people.head_table, cue_people.people_sentence,
        cue_people.people_summary))

@pytest.mark.parametrize('missing', cue_people.people_grid(), ids=str)
def test_one_run_is_missing(write, missing):
    write(lambda c, s: (c, s)!=missing)
    assert not cue_people.recorded_people() and cue_people.people_table()=='Not run yet.' and cue_people.draw_following() is None
    assert 'error' not in holds()

def test_claims_follow_the_records(write):
    write()
    assert holds()==['yes', 'yes', 'open', 'no', 'yes', 'yes', 'yes', 'yes'] and cue_people.people_claims()[4].inside
    write(ahead=-.02); assert holds()[1]=='no'
    write(half=.03); assert holds()[1]=='open'
    write(bias=.8); assert holds()[5]=='no'
    write(against=.1); assert holds()[2:4]==['open', 'yes']
    write(angular=.02); assert holds()[2]=='yes'
    write(angular=-.02); assert holds()[2]=='no'
    write(shape=-.05, texture=.2); assert holds()[6:]==['no', 'no']

def test_the_sentence_says_what_the_interval_does(write):
    for changed,words in ((dict(), 'does so better than'), (dict(ahead=-.02), 'does so less well'), (dict(half=.03), 'is open')):
        write(**changed)
        said = cue_people.people_sentence()
        assert words in said and f"{cue_people.told('avh over confidence'):+.3f}" in said and said in cue_people.people_summary()
    write(half=.4); assert 'does not clearly follow' in cue_people.people_sentence()

def test_a_figure_of_whatever_is_recorded(write):
    write(); cue_people.draw_shape_bias(); cue_people.draw_following()
    rows = cue_people.people_table().split('\n')
    assert len(rows)==2+len(NAMES) and rows[2].startswith('| AVH | 0.300 | 0.300 | 0.300 | 0.300<br>[0.290, 0.310]')
    assert len(cue_people.head_table().split('\n'))==2+len(HEADS)+1

def test_the_records_are_those_of_the_page_about_people():
    "All 1,280 images there, with the same networks and vectors; and figures that others have measured on the same data"
    if not any(r['config'].get('part')=='people' for r in read_records('shortcuts')): pytest.skip('not recorded')
    runs = cue_people.by_seed('shortcuts', part='people', head=HEADS[0])
    there = next(r['metrics'] for r in read_records('people') if r['config']==dict(images='cue', size='as trained', head='mean'))
    measured = {'avh': (.333, .308, .278), 'confidence': (.280, .309, .252), 'norm': (-.150, -.095, -.097)} # on PNGs instead of JPEGs
    for n,which in enumerate(LITES):
        for k,values in measured.items():
            assert runs[n][f'all {k}']==pytest.approx(there[f'{k} rho lite{which}'], abs=1e-4)
            assert runs[n][f'all {k}']==pytest.approx(values[n], abs=.03)
