"Rarity: known slopes are recovered from made-up records, classes and sizes are not mixed up, and what is said follows."
import json, matplotlib.pyplot as plt, numpy as np, pytest
from scipy import stats
from avh_nb.beyond import rarity
from avh_nb.beyond.networks import paired
from avh_nb.data.sets import CIFAR10

SIZES = np.array([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])
EASY_TAIL = np.array([.05, .05, .065, .075, .06, .068, .05, .045, .04, .042]) # as people find the classes: horse, ship and truck easy
CONFIGS = [*rarity.METHODS.values(), *(rarity.of(loss) for loss in ('LDAM', 'AVH', 'AVH-LDAM')),
    *(rarity.of(loss, 'reversed') for loss in rarity.BOTH)]

def images_of(part): return {'equal': np.full(10, 1240), 'reversed': SIZES[::-1]}.get(part, SIZES)

def made_up(config, seed, noise=.001, slope=-.01, angle=2., lift=.2, inside=.1, squeeze=.5, level=0.):
    "Metrics of a run: AVH falls with the logarithm of the images, and people agree more after balancing"
    rng = np.random.default_rng([seed, len(json.dumps(config))])
    n = images_of(config['part'])
    avh = level+(EASY_TAIL+slope*np.log10(n/1240))*(squeeze if 'LDAM' in config['loss'] else 1)+noise*rng.normal(size=10)
    numbers = dict(avh=avh, confidence=.9-3*avh, recall=1-4*avh, vector=80+angle*np.log10(n)+30*noise*rng.normal(size=10), count=n)
    plain = config==rarity.of()
    parts = {f'{s} {p}': .3+(0 if plain else up)+noise*rng.normal() for s in ('avh', 'confidence') for p,up in (('between', lift),
        ('within', inside))}
    new = {'fixed': .06, 'fixed lower': .8+noise*rng.normal(), 'lower': .5} if 'head' in config else {}
    return {'avh': .06, **parts, **new, **{f'{k}_{c}': float(v[c]) for k,v in numbers.items() for c in range(10)}}

@pytest.fixture
def write(tmp_path, monkeypatch):
    "Records of runs, and what was made up for each"
    monkeypatch.setenv('AVH_RESULTS', str(tmp_path))
    def records(configs=CONFIGS, seeds=3, change=lambda config, seed: {}, **changed):
        rows = [dict(study='longtail', config=c, seed=s, seconds=1., device='none', metrics={**made_up(c, s, **changed), **change(c, s)})
            for c in configs for s in range(seeds if isinstance(seeds, int) else seeds(c))]
        (tmp_path/'longtail.jsonl').write_text(''.join(json.dumps(r)+'\n' for r in rows))
        return {(json.dumps(r['config']), r['seed']): r['metrics'] for r in rows}
    return records

def by_hand(values):
    "Mean and Student's t"
    half = stats.t.ppf(.975, len(values)-1)*np.std(values, ddof=1)/len(values)**.5
    return np.mean(values)+np.array([0, -half, half])

def slow_slope(runs, name):
    "Least squares with a dummy for each class, row by row"
    rows,right = [],[]
    for m in runs:
        for c in range(10):
            rows.append([np.log10(m[f'count_{c}']), *(float(c==k) for k in range(10))])
            right.append(m[f'{name}_{c}'])
    return np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0][0]

@pytest.mark.parametrize('name', ['avh', 'confidence', 'recall', 'vector'])
@pytest.mark.parametrize('loss', rarity.BOTH)
def test_the_slope_is_that_of_least_squares_and_its_interval_is_over_seeds(write, name, loss):
    kept = write()
    def runs(s): return [kept[json.dumps(rarity.of(loss, part)), s] for part in ('losses', 'reversed')]
    np.testing.assert_allclose(rarity.rarity_slope(name, loss, 100), by_hand([100*slow_slope(runs(s), name) for s in range(3)]), rtol=1e-9)

def test_a_known_slope_is_recovered(write):
    for slope in (-.02, 0., .013):
        write(noise=0, slope=slope)
        assert rarity.rarity_slope()==pytest.approx((slope,)*3, abs=1e-12)
        assert rarity.rarity_slope('recall', 'CE', 100)==pytest.approx((-400*slope,)*3, abs=1e-9)
        assert rarity.rarity_slope('avh', 'LDAM-DRW').mean==pytest.approx(slope/2)
    write(seeds=20)
    found = rarity.rarity_slope()
    assert found.low<-.01<found.high and found.high-found.low<.001

def test_without_class_effects_the_answer_is_another(write):
    "In the draw as it is the tail is easy: from it alone rare classes look easier"
    kept = write(noise=0)
    runs = [kept[json.dumps(rarity.of('CE', part)), 0] for part in ('losses', 'reversed')]
    def pooled(runs): return np.polyfit(np.log10(np.concatenate([rarity.by_class(m, 'count') for m in runs])),
        np.concatenate([rarity.by_class(m, 'avh') for m in runs]), 1)[0]
    assert rarity.rarity_slope().mean==pytest.approx(-.01) and pooled(runs[:1])>-.004 # half of it and more is gone
    assert pooled(runs[1:])<-.016 # and the reversed draw exaggerates
    x,value = (np.array([rarity.by_class(m, k) for m in [*runs, runs[0]]]) for k in ('count', 'avh')) # two networks of one order
    assert rarity.slope_within(np.log10(x), value)==pytest.approx(-.01) and abs(pooled([*runs, runs[0]])+.01)>.001

def test_a_general_difference_between_the_orders_changes_nothing(write):
    write(noise=0)
    before = rarity.rarity_slope().mean
    write(noise=0, change=lambda c, s: {f'avh_{k}': made_up(c, s, noise=0)[f'avh_{k}']+.05*(c['part']=='reversed') for k in range(10)})
    assert rarity.rarity_slope().mean==pytest.approx(before)

def test_only_seeds_that_both_orders_have_count(write):
    write(seeds=lambda c: 5 if c==rarity.of() else 3)
    of_three = rarity.rarity_slope()
    write(seeds=3)
    assert rarity.rarity_slope()==of_three

def test_against_equal_classes(write):
    "Each order by itself; and taken off both, they change nothing"
    kept = write()
    def run(part, s): return kept[json.dumps(rarity.of('CE', part)), s]
    for part in ('losses', 'reversed'):
        lines = [stats.linregress([np.log10(run(part, s)[f'count_{c}']/1240) for c in range(10)],
            [run(part, s)[f'avh_{c}']-run('equal', s)[f'avh_{c}'] for c in range(10)]) for s in range(3)]
        np.testing.assert_allclose(rarity.from_equal(part), by_hand([f.slope for f in lines]))
        np.testing.assert_allclose(rarity.from_equal(part, 'level'), by_hand([f.intercept for f in lines]), atol=1e-12)
    for s in range(3):
        off = [{**run(p, s), **{f'avh_{c}': run(p, s)[f'avh_{c}']-run('equal', s)[f'avh_{c}'] for c in range(10)}} for p in ('losses',
            'reversed')]
        assert slow_slope(off, 'avh')==pytest.approx(slow_slope([run(p, s) for p in ('losses', 'reversed')], 'avh'))

def test_a_level_is_that_of_a_class_of_equal_size(write):
    def harder(c, s): return {f'avh_{k}': made_up(c, s, noise=0)[f'avh_{k}']+.003*(c['part']!='equal') for k in range(10)}
    write(noise=0, change=harder)
    for part in ('losses', 'reversed'):
        assert rarity.from_equal(part)==pytest.approx((-.01,)*3) and rarity.from_equal(part, 'level')==pytest.approx((.003,)*3)

@pytest.mark.parametrize('score', ['avh', 'confidence'])
@pytest.mark.parametrize('part', ['between', 'within'])
def test_changes_of_agreement_are_paired(write, score, part):
    write(seeds=lambda c: 5 if c['loss']=='CE' and c['part']!='equal' else 3)
    for name,entries in rarity.METHODS.items():
        assert rarity.agreement_change(name, part, score)==paired('longtail', f'{score} {part}', entries, rarity.of())
    assert rarity.agreement_change('CE', part, score)==(0, 0, 0)

def test_spread_is_over_the_classes_and_its_ratio_over_seeds(write):
    kept = write()
    def logs(over): return [np.log(np.std([kept[json.dumps(rarity.of('LDAM')), s][f'avh_{c}'] for c in range(10)])/over(s)
        /np.std([kept[json.dumps(rarity.of()), s][f'avh_{c}'] for c in range(10)])) for s in range(3)]
    np.testing.assert_allclose(rarity.spread_ratio('LDAM'), np.exp(by_hand(logs(lambda s: 1))))
    assert rarity.spread_ratio('LDAM').high<.7 and rarity.spread_ratio('CE')==(1, 1, 1)
    kept = write(change=lambda c, s: {'avh': .03 if c['loss']=='LDAM' else .06}) # half the spread, but half the mean too
    np.testing.assert_allclose(rarity.spread_ratio('LDAM', True), np.exp(by_hand(logs(lambda s: .5))))
    assert abs(rarity.spread_ratio('LDAM', True).mean-1)<.1

def test_nothing_recorded(write, tmp_path):
    assert {(c.here, c.holds) for c in rarity.rarity_claims()}=={('not run yet', 'open')}
    assert 'Not run yet' in rarity.rarity_summary()
    tables = [rarity.slope_table(), rarity.equal_table(), *map(rarity.agreement_table, ('between', 'within')), rarity.spread_table(),
        rarity.right_table()]
    assert all('–' in t and '0' not in t.split('\n', 2)[2].replace('s = 30', '') for t in tables)
    assert rarity.draw_rarity() is rarity.draw_agreement() is None and not plt.get_fignums()

def test_one_seed_says_nothing(write):
    write(seeds=1)
    assert {c.here for c in rarity.rarity_claims()}=={'not run yet'} and rarity.draw_rarity() is None and not plt.get_fignums()

def test_what_is_recorded_is_said(write):
    write([rarity.of(), rarity.of('CB-CE'), rarity.of('LDAM')])
    assert [c.here=='not run yet' for c in rarity.rarity_claims()]==[True, True, True, True, False]
    write([rarity.of(), rarity.of(part='reversed')])
    said = rarity.rarity_summary()
    assert said.startswith('**Rarity makes a class harder') and said.count('not run yet')==2

def holds(): return [c.holds for c in rarity.rarity_claims()]

def test_claims_of_every_kind(write):
    write()
    assert holds()==['yes']*5
    write(change=lambda c, s: {'avh': .015 if c['loss']=='LDAM' else .06}) # more alike, but only since AVH as a whole is smaller
    assert holds()==['yes']*4+['mixed']
    write(slope=.01, angle=-2., lift=-.2, inside=-.1, squeeze=2)
    assert holds()==['no']*5
    write(slope=0, angle=0, lift=0, inside=0, squeeze=1)
    assert holds()[:4]==['open']*4
    write(change=lambda c, s: {'avh between': .1+.01*s} if c['loss']=='LDAM-DRW' else {})
    assert holds()[1]=='mixed' and holds()[2]=='yes'

def test_claims_say_what_was_found(write):
    write(noise=0)
    found = rarity.rarity_claims()
    assert found[0].here=='-0.0100 [-0.0100, -0.0100]' and found[3].here=='+2.0 [+2.0, +2.0]'
    assert found[1].here=='; '.join(f'{m} +0.200 [+0.200, +0.200]' for m in rarity.BALANCING)
    assert 'cRT +0.100' in found[2].here and found[4].here.startswith('as it is 0.50')
    assert {c.published for c in found}=={'not given', 'yes (Fang et al. 2021)'} and [c.rule for c in found][0]=='below 0'

@pytest.mark.parametrize('changed,said', [
    (dict(), ('**Rarity makes a class harder', 'agree more with people about which classes', 'agree more with people about which images')),
    (dict(slope=.01, lift=-.2, inside=-.1), ('does not make a class harder by AVH but easier', 'agree less with people about which classes',
        'agree less with people about which images')),
    (dict(slope=0, lift=0, inside=0), ('Whether rarity makes a class harder by AVH is open', 'which classes are hard is open',
        'which images of a class are hard is open'))])
def test_one_sentence_for_each_answer(write, changed, said):
    write(**changed)
    summary = rarity.rarity_summary()
    for words,claim in zip(said, rarity.rarity_claims()): assert words in summary and claim.here in summary
    assert summary.count('. ')+summary.count('.**')<=4 and summary.endswith('.')

def test_methods_that_differ_are_said_to(write):
    write(change=lambda c, s: {'avh between': .1+.01*s} if c['loss']=='LDAM-DRW' else {})
    assert 'which classes are hard depends on how it is done' in rarity.rarity_summary()

def test_what_a_new_head_does(write):
    write(noise=0)
    cells = '6.0<br>[6.0, 6.0]','80.0<br>[80.0, 80.0]','50.0<br>[50.0, 50.0]','+30.0<br>[+30.0, +30.0]'
    assert rarity.right_table().split('\n')[-1]==f"| cRT | {' | '.join(cells)} |"

@pytest.fixture
def figures():
    plt.close('all')
    yield
    plt.close('all')

@pytest.mark.parametrize('more', [3, 5])
def test_the_picture_of_classes(write, figures, more):
    "Also where one order has more seeds: those that both have are drawn"
    write(seeds=lambda c: more if c==rarity.of() else 3)
    rarity.draw_rarity()
    ax, = plt.gcf().axes
    *classes,slope = ax.lines
    assert len(classes)==10 and {t.get_text() for t in ax.texts}==set(CIFAR10)
    for c,line in enumerate(classes):
        np.testing.assert_allclose(line.get_xdata(), [SIZES[c], SIZES[9-c]])
        np.testing.assert_allclose(line.get_ydata(), [np.mean([made_up(rarity.of('CE', p), s)[f'avh_{c}'] for s in range(3)])
            for p in ('losses', 'reversed')])
    (x0,x1),(y0,y1) = slope.get_data()
    assert (y1-y0)/np.log10(x1/x0)==pytest.approx(rarity.rarity_slope().mean)
    by_class = {t.get_text(): t for t in ax.texts} # a label leads to the point with more images
    for c,name in enumerate(CIFAR10): assert by_class[name].xy==pytest.approx(max(zip(classes[c].get_xdata(), classes[c].get_ydata())))
    heights = sorted(t.xyann[1] for t in ax.texts)
    assert min(np.diff(heights))>=.059*np.ptp([l.get_ydata() for l in classes])
    assert [len(s.get_offsets()) for s in ax.collections]==[10, 10, 10]

def test_the_picture_without_equal_classes(write, figures):
    write([rarity.of(), rarity.of(part='reversed')])
    rarity.draw_rarity()
    assert len(plt.gcf().axes[0].collections)==2

def test_the_picture_of_agreement(write, figures):
    write([c for c in CONFIGS if c!=rarity.METHODS['cRT']])
    rarity.draw_agreement()
    left,right = plt.gcf().axes
    assert [t.get_text() for t in left.get_yticklabels()]==[m for m in rarity.METHODS if m!='cRT']
    assert 'between' in left.get_xlabel() and 'within' in right.get_xlabel()
    bars = [c.get_segments()[0] for c in left.collections]
    shown = rarity.over_runs(lambda m: m['avh between'], rarity.of())
    np.testing.assert_allclose(bars[0][:, 0], [shown.low, shown.high])
