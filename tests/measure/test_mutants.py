"The mistakes of two public re-implementations, and some of our own making, must not pass for AVH."
import pytest, torch
import avh_nb as av
import reference

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

# of the scores that speak of the predicted class, and of what comes second

def columns(x, w, y, bias):
    s = av.score(x, w, y, bias=bias)
    return dict(pred2=s.pred2, logit_margin=s.logit_margin, energy=s.energy, angle_pred=s.angle_pred, avh_pred=s.avh_pred)

def instead(**wrong):
    "The columns, with one that is made another way of the angles a and the logits z"
    def f(x, w, y, bias):
        a,z = av.angles(x, w),x@w.T+bias
        return columns(x, w, y, bias)|{name: g(a, z, y, x@w.T) for name,g in wrong.items()}
    return f

def at(t, k): return t.gather(1, k[:, None])[:, 0]
def but(t, k): return t.scatter(1, k[:, None], -torch.inf)

COLUMNS = {
    'angle to the nearest': instead(angle_pred=lambda a,z,y,_: a.amin(1)),
    'angle to the label, less what the nearest is nearer': instead(
        angle_pred=lambda a,z,y,_: at(a, y)+(but(-a, y).amax(1).neg()-at(a, y)).clamp(max=0)),
    'predicted without the bias': instead(angle_pred=lambda a,z,y,plain: at(a, plain.argmax(1))),
    'share of the nearest': instead(avh_pred=lambda a,z,y,_: a.amin(1)/a.sum(1)),
    'share of the label': instead(avh_pred=lambda a,z,y,_: at(a, y)/a.sum(1)),
    'share of the others': instead(avh_pred=lambda a,z,y,_: at(a, z.argmax(1))/(a.sum(1)-at(a, y))),
    'second: the strongest other than the label': instead(pred2=lambda a,z,y,_: but(z, y).argmax(1)),
    'second: the second nearest': instead(pred2=lambda a,z,y,_: a.argsort(1)[:, 1]),
    'second: the strongest other than the label and the predicted': instead(pred2=lambda a,z,y,_: but(but(z, y), z.argmax(1)).argmax(1)),
    'margin of the predicted class': instead(logit_margin=lambda a,z,y,_: z.topk(2, 1).values.diff(dim=1)[:, 0].neg()),
    'margin to the largest of all': instead(logit_margin=lambda a,z,y,_: at(z, y)-z.amax(1)),
    'margin of probabilities': instead(logit_margin=lambda a,z,y,_: at(z.softmax(1), y)-but(z.softmax(1), y).amax(1)),
    'energy that is low where it is hard': instead(energy=lambda a,z,y,_: z.logsumexp(1)),
    'the largest logit for the energy': instead(energy=lambda a,z,y,_: -z.amax(1)),
    'energy of the others': instead(energy=lambda a,z,y,_: -but(z, y).logsumexp(1)),
}

def columns_are_right(f):
    "By loops; norms and bias make the predicted class another than the nearest, and labels are the first, second and third of a sample"
    x,w,bias = X.double(),W.double()*torch.tensor([1., 3., .2, 1., 5.])[:, None],torch.tensor([0., 2., -1., 1., 0.]).double()
    z = x@w.T+bias
    for rank in range(3):
        y = z.argsort(1, descending=True)[:, rank]
        got = f(x, w, y, bias)
        for i,row in enumerate(reference.scores(x.tolist(), w.tolist(), y.tolist(), bias.tolist())):
            for name in got: assert got[name][i].item()==pytest.approx(row[name], rel=1e-9), (name, i, rank)

def test_columns_are_right(): columns_are_right(columns)

@pytest.mark.parametrize('mutant', COLUMNS)
def test_a_wrong_column_is_caught(mutant):
    with pytest.raises(AssertionError): columns_are_right(COLUMNS[mutant])

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
