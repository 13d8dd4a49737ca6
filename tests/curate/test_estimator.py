"The estimator is one in scikit-learn's sense: its own checks, all of them, and the probe's scores behind it."
import pickle, subprocess, sys, warnings
import numpy as np, pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator
from avh_nb.curate.estimator import HardnessEstimator
from avh_nb.curate.probe import out_of_sample, ridge_loo

@pytest.fixture(scope='module')
def some(): return tuple(t[:300] for t in load_digits(return_X_y=True))

@pytest.mark.parametrize('duplicates', [True, False])
def test_checks_of_scikit_learn(duplicates):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore') # it tries classes of one image too
        results = check_estimator(HardnessEstimator(duplicates=duplicates), on_fail=None)
    failed = {r['check_name'] for r in results if r['status'] not in ('passed', 'skipped')}
    skipped = {r['check_name'] for r in results if r['status']=='skipped'}
    assert failed==set() and skipped<={'check_array_api_input'} and len(results)>40

def test_scores_of_the_training_data_are_those_of_the_probe(some):
    X,y = some
    model,out = HardnessEstimator().fit(X, y),out_of_sample(X, y)
    for (name,a),(_,b) in zip(model.oof_scores_, out.scores): np.testing.assert_array_equal(a, b, err_msg=name)
    np.testing.assert_array_equal(model.oof_proba_, out.probs); np.testing.assert_array_equal(model.coef_, out.w)
    assert model.oof_scores_.pred.shape==(300,) and model.about_['probe']=='ridge-loo'
    plain = HardnessEstimator(duplicates=False).fit(X, y, groups=np.arange(300)//2)
    np.testing.assert_array_equal(plain.oof_scores_.avh, ridge_loo(X, y, groups=np.arange(300)//2).scores.avh)

def test_any_labels_and_typical_samples(some):
    X,y = some
    names = np.array([f'digit {9-k}' for k in y]) # their order is another one
    model = HardnessEstimator().fit(X, names)
    assert (model.classes_[model.oof_scores_.pred]==names).mean()>.85 and (model.predict(X)==names).mean()>.95
    np.testing.assert_array_equal(model.predict(X), model.classes_[model.predict_proba(X).argmax(1)])
    typical = model.score_samples(X)
    odd = model.score_samples(np.random.default_rng(0).permuted(X, axis=1))
    assert typical.shape==(300,) and (typical<=0).all() and np.median(typical)>np.median(odd)
    with pytest.warns(UserWarning, match='1 of 1 rows of x are zero'): assert np.isnan(model.score_samples(model.centre_[None]))[0]

def test_logistic(some):
    X,y = some
    model = HardnessEstimator('logistic', random_state=1).fit(X, y)
    np.testing.assert_array_equal(model.oof_scores_.avh, out_of_sample(X, y, 'logistic', seed=1).scores.avh)
    assert (model.predict(X)==y).mean()>.95

def test_two_labels_of_sign(some):
    X,y = some
    model = HardnessEstimator().fit(X, np.where(y<5, -1, 1)) # -1 is a class here
    assert model.decision_function(X).shape==(300,)
    np.testing.assert_array_equal(model.predict(X), np.where(model.decision_function(X)>0, 1, -1))

def test_it_is_copied_kept_and_searched(some):
    X,y = some
    model = HardnessEstimator(duplicates=False, random_state=3).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(again.oof_scores_.avh, model.oof_scores_.avh)
    assert clone(model).get_params()==dict(probe='ridge-loo', duplicates=False, random_state=3) and not hasattr(clone(model), 'coef_')
    search = GridSearchCV(HardnessEstimator(), dict(duplicates=[True, False]), cv=3).fit(X, y)
    assert search.best_score_>.85

@pytest.mark.parametrize('X,message', [(np.full((20, 3), np.nan), 'NaN'), (np.full((20, 3), np.inf), 'infinity'),
    (np.array([['a', 'b']]*20), 'could not convert|Unable to convert|dtype')])
def test_bad_features(X, message):
    with pytest.raises(ValueError, match=message): HardnessEstimator().fit(X, np.arange(20)%2)

def test_bad_calls(some):
    X,y = some
    with pytest.raises(ValueError, match="probe: expected one of .*, got 'tree'"): HardnessEstimator('tree').fit(X, y)
    with pytest.raises(ValueError, match='expected two classes at least, got one class'): HardnessEstimator().fit(X, np.ones(300))
    with pytest.raises(ValueError, match='X has 5 features'): HardnessEstimator().fit(X, y).predict(X[:, :5])
    with pytest.raises(AttributeError, match='not fitted'): HardnessEstimator().score_samples(X)

def test_the_package_does_without_scikit_learn():
    code = ("import sys; sys.modules['sklearn'] = sys.modules['scipy'] = None; import avh_nb, avh_nb.curate.probe, torch; "
        "torch.manual_seed(0); x = torch.randn(40, 5); from avh_nb.curate.ridge import axes_of; axes_of(x, torch.arange(40)%2, 2)\n"
        "try: avh_nb.curate.probe.ridge_loo(x, torch.arange(40)%2)\n"
        "except ImportError as e: assert \"pip install 'avh_nb[images]'\" in str(e)\n"
        "else: raise SystemExit('no error')")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode==0, done.stderr
