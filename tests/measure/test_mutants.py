"The mistakes of two public re-implementations, and some of our own making, must not pass for AVH."
import pytest, torch
import avh_nb as av

def right(x, w, y): return av.avh(x, w, y)

def column_over_row(x, w, y):
    "Angles (N, 1) divided by sums (N,): N x N"
    a = av.angles(x, w)
    return a.gather(1, y[:, None])/a.sum(1)

def norm_of_the_batch(x, w, y):
    "One norm for all features"
    a = ((x@w.T)/(x.norm()*w.norm(dim=1))).clamp(-1, 1).acos()
    return a.gather(1, y[:, None])[:, 0]/a.sum(1)

def norm_of_the_matrix(x, w, y):
    "One norm for all class vectors"
    a = ((x@w.T)/(x.norm(dim=1, keepdim=True)*w.norm())).clamp(-1, 1).acos()
    return a.gather(1, y[:, None])[:, 0]/a.sum(1)

def mean_in_place_of_sum(x, w, y): return av.avh(x, w, y)*len(w)
def label_left_out_of_the_sum(x, w, y):
    a = av.angles(x, w); own = a.gather(1, y[:, None])[:, 0]
    return own/(a.sum(1)-own)
def confidence_in_place_of_hardness(x, w, y): return av.avc(x, w).gather(1, y[:, None])[:, 0]
def cosine_in_place_of_angle(x, w, y):
    c = 1-av.angles(x, w).cos()
    return c.gather(1, y[:, None])[:, 0]/c.sum(1)
def float32_arccos(x, w, y):
    n = torch.nn.functional.normalize
    a = (n(x, dim=1)@n(w, dim=1).T).clamp(-1, 1).acos()
    return a.gather(1, y[:, None])[:, 0]/a.sum(1)

g = torch.Generator().manual_seed(0)
X,W,Y = torch.randn(30, 6, generator=g),torch.randn(5, 6, generator=g),torch.randint(5, (30,), generator=g)

def one_number_a_sample(f): assert f(X, W, Y).shape==(30,)
def length_of_a_feature_is_ignored(f):
    x = X*torch.logspace(-1, 1, 30)[:, None]
    torch.testing.assert_close(f(x, W, Y), f(X, W, Y), rtol=1e-4, atol=1e-6)
def length_of_a_class_vector_is_ignored(f):
    w = W*torch.tensor([1., 3., .2, 1., 10.])[:, None]
    torch.testing.assert_close(f(X, w, Y), f(X, W, Y), rtol=1e-4, atol=1e-6)
def shares_sum_to_one(f):
    torch.testing.assert_close(sum(f(X, W, torch.full_like(Y, c)) for c in range(5)), torch.ones(30), rtol=1e-4, atol=1e-4)
def parallel_is_zero(f): torch.testing.assert_close(f(2*W, W, torch.arange(5)), torch.zeros(5), atol=1e-6, rtol=0)
def known_angles(f):
    "0, 90 and 135 degrees to three classes"
    w = torch.tensor([[1., 0.], [0., 1.], [-1., -1.]])
    torch.testing.assert_close(f(torch.tensor([[2., 0.]]*2), w, torch.tensor([1, 2])), torch.tensor([90/225, 135/225]), rtol=1e-5, atol=0)
def small_angles_are_right(f):
    w = torch.eye(3)
    got = f(torch.tensor([[1., 1e-4, 0.]]), w, torch.tensor([0]))
    torch.testing.assert_close(got.double(), torch.tensor([1e-4/(1e-4+torch.pi-1e-4)], dtype=torch.float64), rtol=1e-5, atol=0)

CHECKS = [one_number_a_sample, length_of_a_feature_is_ignored, length_of_a_class_vector_is_ignored, shares_sum_to_one, parallel_is_zero,
    known_angles, small_angles_are_right]
MUTANTS = {column_over_row: one_number_a_sample, norm_of_the_batch: length_of_a_feature_is_ignored,
    norm_of_the_matrix: length_of_a_class_vector_is_ignored,
    mean_in_place_of_sum: shares_sum_to_one, label_left_out_of_the_sum: shares_sum_to_one,
    confidence_in_place_of_hardness: parallel_is_zero,
    cosine_in_place_of_angle: known_angles, float32_arccos: small_angles_are_right}

@pytest.mark.parametrize('check', CHECKS, ids=lambda f: f.__name__)
def test_avh_passes(check): check(right)

@pytest.mark.parametrize('mutant', MUTANTS, ids=lambda f: f.__name__)
def test_mutant_is_caught(mutant):
    with pytest.raises(AssertionError): MUTANTS[mutant](mutant)
