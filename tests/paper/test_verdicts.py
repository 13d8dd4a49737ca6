"Sentences of the study pages for whatever the records say."
import pytest
from avh_nb.paper import domaingen, human, selftrain
from avh_nb.stats.correlation import Interval

YES,NO,UP,DOWN = Interval(2, 1, 3),Interval(-2, -3, -1),Interval(1, -1, 3),Interval(-1, -3, 1)

@pytest.mark.parametrize('gains,said', [
    ([YES]*4, 'gains 2.0 points; the gain is clear of zero for all four methods'),
    ([YES, UP, UP, YES], 'gains 1.0 to 2.0 points; the gain is clear of zero for two of the four methods'),
    ([UP]*4, 'gains 1.0 points; the gain is clear of zero for none of the four methods'),
    ([NO]*4, 'costs 2.0 points; the cost is clear of zero for all four methods'),
    ([DOWN]*4, 'costs 1.0 points; the cost is clear of zero for none of the four methods'),
    ([YES, UP, DOWN, DOWN], 'gains something for two of the four methods and costs something for the rest; '
        'it is clearly a gain for one of the four methods')])
def test_self_training(gains, said): assert selftrain.finding(gains)==said

@pytest.mark.parametrize('gains,cosine,said', [
    ([YES]*3, YES, ('raises the accuracy in all three set-ups', 'clearly ahead of')),
    ([UP, DOWN, YES], UP, ('raises the accuracy in one of three set-ups', 'cannot be distinguished from')),
    ([UP, UP, UP], NO, ('does not clearly change the accuracy in any', 'clearly behind')),
    ([NO]*3, NO, ('lowers the accuracy in all three set-ups', 'clearly behind')),
    ([NO, YES, YES], UP, ('in two of three set-ups and clearly lowers it in one of three', 'cannot be distinguished'))])
def test_domain_generalisation(gains, cosine, said):
    for part in said: assert part in domaingen.finding(gains, cosine)

@pytest.mark.parametrize('follows,ahead,families,said', [
    (YES, NO, [NO]*4, ('follows', 'but less closely', 'in no family and behind in all four')),
    (YES, YES, [YES]*4, ('follows', 'and more closely', 'in all four and behind in no family')),
    (YES, UP, [UP]*4, ('follows', 'and about as closely', 'in no family and behind in no family')),
    (YES, NO, [YES, NO, NO, UP], ('follows', 'but less closely', 'in one family and behind in two families')),
    (NO, NO, [NO]*4, ('goes against', 'and less closely', 'behind in all four'))])
def test_people(follows, ahead, families, said):
    text = human.finding(follows, ahead, families)
    assert text.startswith(said[0])
    for part in said: assert part in text
