"Plateau, growth and stalling against slow loops and on curves whose answer is known."
import math
import numpy as np, pytest
from hypothesis import assume, given, strategies as st
from hypothesis.extra.numpy import arrays
from avh_nb.stats.curves import growth_rate, plateau, recent_share, stalled

curve = arrays(float, st.integers(2, 30), elements=st.floats(-5, 5).map(lambda v: round(v, 3)))

def slow_plateau(values, criterion):
    "The smallest t on a fine grid from which on the straight-line curve has made its share"
    t = np.linspace(0, len(values)-1, 4000*(len(values)-1)+1)
    share = (np.interp(t, np.arange(len(values)), values)-values[0])/(values[-1]-values[0])
    behind = np.flatnonzero(share<criterion)
    return t[behind[-1]+1]

@given(curve, st.sampled_from([.5, .8, .9, .95]))
def test_plateau_against_a_fine_grid(values, criterion):
    assume(abs(values[-1]-values[0])>.1)
    assert plateau(values, criterion=criterion)==pytest.approx(slow_plateau(values, criterion), abs=2e-3)

@given(curve, st.floats(.1, 10), st.floats(-3, 3), st.booleans())
def test_plateau_does_not_depend_on_unit_or_sign(values, scale, shift, turn):
    assume(abs(values[-1]-values[0])>.1)
    other = (-1 if turn else 1)*scale*values+shift
    assert plateau(other)==pytest.approx(plateau(values), abs=1e-6)

@given(curve)
def test_a_higher_criterion_is_never_reached_earlier(values):
    assume(abs(values[-1]-values[0])>.1)
    at = [plateau(values, criterion=c) for c in (.5, .7, .9, .95, 1)]
    assert at==sorted(at) and 0<=at[0] and at[-1]<=len(values)-1

def test_first_crossing_is_not_enough():
    "The easy mistake: the first epoch that reaches the criterion, though the curve falls back"
    values = np.array([0, 1, .2, .3, .4, 1])
    first = int(np.argmax(values>=.95))
    assert first==1 and plateau(values)>4.9

@given(st.floats(-.3, .3), st.floats(.1, 100), st.integers(4, 40))
def test_growth_of_an_exponential(rate, start, n):
    values = start*np.exp(rate*np.arange(n))
    assert growth_rate(values)==pytest.approx(rate, abs=1e-6)
    assert growth_rate(7*values)==pytest.approx(rate, abs=1e-6)
    assert growth_rate(values, epochs=np.arange(n)/n)==pytest.approx(rate*n, abs=1e-4) # per unit of the epochs given

@given(curve, st.integers(1, 10))
def test_recent_share(values, patience):
    assume(abs(values[-1]-values[0])>.1)
    before = values[-1-patience] if patience<len(values) else values[0]
    assert recent_share(values, patience)==pytest.approx((values[-1]-before)/(values[-1]-values[0]))

def test_stalled_needs_a_falling_loss():
    t = np.arange(30)
    still,falling = np.where(t<5, .1-.01*t, .05),2-.05*t
    assert stalled(still, falling) and not stalled(still, still) and not stalled(still, 2-falling) and not stalled(falling, falling)
    assert not stalled(still[:4], falling[:4], patience=3) # too early to say

@pytest.mark.parametrize('f', [plateau, growth_rate, recent_share])
def test_bad_curves(f):
    for bad,said in (([1.], 'at least 2'), ([[1., 2.]], 'shape'), ([1., math.inf], 'inf at index 1')):
        with pytest.raises(ValueError, match=said): f(bad)
    if f is not recent_share:
        with pytest.raises(ValueError, match='epochs'): f([1., 2.], epochs=[1, 1])
