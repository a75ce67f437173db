"""scikit-learn's estimators on fastnet: equal to theirs, at home among their tools, and more.

That they pass scikit-learn's own tests is seen in `test_sklearn_swap.py`.
"""

import copy
import pickle
import re
import tracemalloc
import warnings

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn", "1.8")

from sklearn import datasets  # noqa: E402
from sklearn import neural_network as theirs  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

import fastnet as fn  # noqa: E402
from fastnet import sklearn as ours  # noqa: E402
from fastnet._fitting import Samples  # noqa: E402
from fastnet._state_file import read_state, write_state  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
              pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1")]

BOOKS = ("classes_", "loss_", "best_loss_", "loss_curve_", "validation_scores_",
         "best_validation_score_", "t_", "n_features_in_", "n_iter_", "n_layers_", "n_outputs_",
         "out_activation_")


@parametrize_with_checks([ours.MLPClassifier(max_iter=20), ours.MLPRegressor(max_iter=20)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# ---- Equal to theirs -------------------------------------------------------------------------

def problem(kind, n=150):
    """Samples, targets and the names of both classes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5))
    score = x[:, :3] @ rng.normal(size=(3, 4)) + 0.3 * rng.normal(size=(n, 4))
    if kind == "two classes":
        return x, np.where(score[:, 0] > 0, "yes", "no"), "MLPClassifier", {}
    if kind == "classes":
        return x, score.argmax(axis=1) * 10, "MLPClassifier", {}
    if kind == "many labels":
        return x, (score > 0.3).astype(int), "MLPClassifier", {}
    if kind == "numbers":
        return x, score[:, 0], "MLPRegressor", {}
    if kind == "rows of numbers":
        return x, score, "MLPRegressor", {}
    return x, rng.poisson(np.exp(0.3 * score[:, 0])).astype(float), "MLPRegressor", {
        "loss": "poisson"}


PROBLEMS = ["two classes", "classes", "many labels", "numbers", "rows of numbers", "counts"]
each_problem = pytest.mark.parametrize("kind", PROBLEMS)


def both(kind, *, weights=False, fit=None, **options):
    """One of theirs and one of ours, fitted alike."""
    x, y, name, more = problem(kind)
    options = {"hidden_layer_sizes": (7, 4), "max_iter": 50, "random_state": 3,
               "n_iter_no_change": 1000, "batch_size": 32, **more, **options}
    given = {"sample_weight": np.random.default_rng(1).uniform(0, 3, len(x))} if weights else {}
    pair = getattr(theirs, name)(**options), getattr(ours, name)(**options)
    for estimator in pair:
        (fit or (lambda e: e.fit(x, y, **given)))(estimator)
    return (*pair, x, y)


def assert_equal_results(their, own, x, tolerance=1e-8):
    for name in BOOKS:
        assert hasattr(own, name) == hasattr(their, name), name
        expected, found = getattr(their, name, None), getattr(own, name, None)
        if expected is None or isinstance(expected, str):
            assert found == expected, name
        elif name == "classes_":
            assert np.array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=name)
    for found, expected in zip(own.coefs_ + own.intercepts_, their.coefs_ + their.intercepts_,
                               strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    found, expected = own.predict(x), their.predict(x)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if found.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=0, atol=100 * tolerance)
    else:
        assert np.array_equal(found, expected)
        for name in ("predict_proba", "predict_log_proba"):
            np.testing.assert_allclose(getattr(own, name)(x), getattr(their, name)(x), rtol=0,
                                       atol=100 * tolerance)


@pytest.mark.parametrize("weights", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("options", [
    {"solver": "sgd"}, {"solver": "sgd", "momentum": 0},
    {"solver": "sgd", "learning_rate_init": 0.01, "nesterovs_momentum": False},
    {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.1, "tol": 0.02,
     "n_iter_no_change": 2},
    {"solver": "adam"}, {"solver": "adam", "alpha": 0.5, "beta_1": 0.5, "epsilon": 1e-3},
    {"solver": "adam", "activation": "tanh", "shuffle": False},
    {"solver": "sgd", "activation": "logistic", "batch_size": "auto"},
    {"solver": "sgd", "activation": "identity", "batch_size": 1, "max_iter": 5}], ids=str)
@each_problem
def test_loss_curves_are_theirs(kind, options, weights):
    """For equal random states, also where samples are shuffled and the last batch is short."""
    their, own, x, _ = both(kind, weights=weights, **options)
    assert len(own.loss_curve_) == own.n_iter_ > 1
    assert_equal_results(their, own, x)


@each_problem
def test_lbfgs_ends_where_theirs_does(kind):
    their, own, x, _ = both(kind, solver="lbfgs", max_iter=15)
    assert own.n_iter_ == their.n_iter_
    assert own.loss_ == pytest.approx(their.loss_, rel=1e-8)
    np.testing.assert_allclose(own.coefs_[0], their.coefs_[0], rtol=0, atol=1e-5)
    assert not hasattr(own, "loss_curve_")


@pytest.mark.parametrize("options", [{}, {"solver": "sgd", "learning_rate": "adaptive"}], ids=str)
@each_problem
def test_early_stopping_is_theirs(kind, options):
    their, own, x, _ = both(kind, early_stopping=True, n_iter_no_change=3, max_iter=100,
                            learning_rate_init=0.02, validation_fraction=0.2, **options)
    assert own.n_iter_ < 100 or options
    assert_equal_results(their, own, x)
    assert len(own.validation_loss_curve_) == own.n_iter_


@each_problem
def test_stopping_by_the_training_loss_is_theirs(kind):
    their, own, x, _ = both(kind, tol=0.01, n_iter_no_change=3, max_iter=500,
                            learning_rate_init=0.02)
    assert 1 < own.n_iter_ < 500
    assert_equal_results(their, own, x)


@each_problem
def test_partial_fit_is_theirs(kind):
    x, y, *_ = problem(kind)

    def parts(estimator):
        more = {"classes": np.unique(y)} if kind in ("two classes", "classes") else {}
        if kind == "many labels":
            more = {"classes": list(range(4))}
        for i in range(0, 150, 10):
            estimator.partial_fit(x[i:i + 10], y[i:i + 10], **more)
            more = {}
        for i in range(20):                     # one by one: without scikit-learn's checks
            estimator.partial_fit(x[i:i + 1], y[i:i + 1])

    their, own, *_ = both(kind, fit=parts)
    assert own.t_ == 170
    assert_equal_results(their, own, x)


@pytest.mark.parametrize("seed", [3, "shared", "NumPy's"])
@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_random_numbers_of_partial_fit_are_theirs(kind, seed):
    """Those of a source that others share too, where all samples are but one batch."""
    x, y, *_ = problem(kind)
    more = {"classes": np.unique(y)} if kind == "classes" else {}
    sources, results = [], []
    for module, copies in ((theirs, False), (ours, False), (ours, True)):
        np.random.seed(3)
        source = {"shared": np.random.RandomState(3), "NumPy's": None}.get(seed, seed)
        one = getattr(module, problem(kind)[2])(
            hidden_layer_sizes=(7,), random_state=source, batch_size=50)
        for rows in (40, 40, 1, 40, 150):
            one.partial_fit(x[:rows], y[:rows], **more)
            one = pickle.loads(pickle.dumps(one)) if copies else one
        results.append(one.coefs_[0])
        drawn = np.random if seed == "NumPy's" else one.random_state
        sources.append(seed if seed == 3 else drawn.random_sample())
    assert sources[0] == sources[1] == sources[2]
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-10)
    assert np.array_equal(results[1], results[2])       # which checks each call


def test_a_warm_partial_fit_wants_all_classes_as_theirs_does():
    x, y, *_ = problem("classes")
    for module in (theirs, ours):
        one = module.MLPClassifier(warm_start=True, random_state=0)
        for _ in range(2):
            one.partial_fit(x, y, classes=[0, 10, 20, 30])
        for given in (x[y > 0], x[y > 0].tolist()):
            with pytest.raises(ValueError, match="same classes as in the previous call"):
                one.partial_fit(given, y[y > 0])


@pytest.mark.parametrize("learning_rate, changed", [
    ("invscaling", {"learning_rate_init": 0.5}), ("invscaling", {"power_t": 2.0}),
    ("invscaling", {"learning_rate": "constant"}), ("constant", {"learning_rate": "invscaling"}),
    ("adaptive", {"learning_rate": "constant"})], ids=str)
def test_learning_rates_of_partial_fit_are_theirs(learning_rate, changed):
    """Those of the first call count."""
    x, y, *_ = problem("numbers")

    def parts(estimator):
        for _ in range(3):
            estimator.partial_fit(x, y)
        estimator.set_params(**changed)
        for _ in range(8):
            estimator.partial_fit(x, y)

    their, own, *_ = both("numbers", fit=parts, solver="sgd", learning_rate=learning_rate,
                          learning_rate_init=0.1, n_iter_no_change=2, tol=1.0)
    assert own._optimizer.learning_rate == pytest.approx(their._optimizer.learning_rate)
    assert_equal_results(their, own, x)


@each_problem
def test_warm_start_is_theirs(kind):
    x, y, *_ = problem(kind)

    def twice(estimator):
        estimator.fit(x, y)
        estimator.set_params(max_iter=7)
        estimator.fit(x[:100], y[:100]) if kind == "numbers" else estimator.fit(x, y)

    their, own, *_ = both(kind, fit=twice, warm_start=True, max_iter=10)
    assert len(own.loss_curve_) == 17
    assert_equal_results(their, own, x)


def test_float32_stays_and_all_else_is_float64():
    x, y, *_ = problem("classes")
    for given, dtype, found in [
            (x.astype("f4"), None, "f4"), (x, None, "f8"), ((100 * x).astype(int), None, "f8"),
            (x, "float32", "f4"), (x.astype("f4"), "float64", "f8"), (x, np.float32, "f4")]:
        own = ours.MLPClassifier(max_iter=2, dtype=dtype).fit(given, y)
        assert {coef.dtype for coef in own.coefs_ + own.intercepts_} == {np.dtype(found)}
        assert own.predict_proba(given).dtype == found
    their, own = (module.MLPClassifier(random_state=0, max_iter=30).fit(x.astype("f4"), y)
                  for module in (theirs, ours))
    np.testing.assert_allclose(own.loss_curve_, their.loss_curve_, rtol=1e-4)


@pytest.mark.parametrize("load", [datasets.load_iris, datasets.load_wine,
                                  datasets.load_breast_cancer, datasets.load_diabetes])
def test_with_defaults_scores_are_theirs(load):
    """Results differ by rounding alone, so that few seeds are enough."""
    x, y = load(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    name = "MLPRegressor" if load is datasets.load_diabetes else "MLPClassifier"
    scores = [[getattr(module, name)(random_state=seed).fit(x[::2], y[::2]).score(x[1::2], y[1::2])
               for seed in range(3)] for module in (theirs, ours)]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-6)


# ---- More than theirs ------------------------------------------------------------------------

def trained(kind, **options):
    x, y, name, more = problem(kind)
    return getattr(ours, name)(**{"hidden_layer_sizes": (7, 4), "max_iter": 20, "random_state": 3,
                                  **more, **options}).fit(x, y), x, y


def test_class_weights_are_sample_weights():
    x, y, *_ = problem("classes")
    by_class = {0: 1, 10: 2, 20: 0.5, 30: 3}
    options = {"max_iter": 20, "random_state": 0}
    by_dict = ours.MLPClassifier(class_weight=by_class, **options).fit(x, y)
    by_sample = ours.MLPClassifier(**options).fit(
        x, y, sample_weight=[by_class[label] for label in y])
    plain = ours.MLPClassifier(**options).fit(x, y)
    assert by_dict.loss_curve_ == by_sample.loss_curve_ != plain.loss_curve_
    balanced = ours.MLPClassifier(class_weight="balanced", **options).fit(x, y)
    assert balanced.loss_curve_ != plain.loss_curve_
    both = ours.MLPClassifier(class_weight=by_class, **options).fit(x, y, np.full(len(x), 2.0))
    np.testing.assert_allclose(both.loss_curve_, by_dict.loss_curve_, rtol=0, atol=0.02)


@each_problem
def test_a_batch_without_any_weight_teaches_nothing(kind):
    x, y, name, more = problem(kind)
    weights = np.where(np.arange(150) // 50 == 1, 0.0, 1.0)
    options = {"solver": "sgd", "momentum": 0, "alpha": 0.5, "shuffle": False, "batch_size": 50,
               "max_iter": 4, "random_state": 0, **more}
    own = getattr(ours, name)(**options).fit(x, y, weights)
    without = getattr(ours, name)(**options).fit(x[weights > 0], y[weights > 0], np.ones(100))
    assert all(map(np.array_equal, own.coefs_, without.coefs_))
    np.testing.assert_allclose(own.loss_curve_, without.loss_curve_)
    own.set_params(alpha=1e-4, momentum=0.9).fit(x, y, weights)
    assert np.isfinite(own.loss_curve_).all() and own.loss_curve_[-1] < own.loss_curve_[0]


@pytest.mark.parametrize("options", [
    {"dropout": 0.3}, {"weight_decay": 0.1}, {"clip_norm": 0.01}, {"layer_norm": True},
    {"activation": "gelu"}, {"activation": ["tanh", "silu"]},
    {"dropout": 0.2, "layer_norm": True, "activation": "elu", "early_stopping": True}], ids=str)
@each_problem
def test_further_options_change_the_training_and_come_back(kind, options):
    plain, x, _ = trained(kind)
    own, *_ = trained(kind, **options)
    again, *_ = trained(kind, **options)
    assert own.loss_curve_ != plain.loss_curve_ and own.loss_curve_ == again.loss_curve_
    assert own.loss_curve_[-1] < own.loss_curve_[0]
    assert np.array_equal(own.predict(x), own.predict(x))           # no dropout here
    assert clone(own).get_params() == own.get_params()


@pytest.mark.parametrize("kind", ["two classes", "classes", "many labels"])
def test_label_smoothing_raises_the_least_loss(kind):
    plain, *_ = trained(kind, max_iter=300, tol=0)
    smooth, *_ = trained(kind, max_iter=300, tol=0, label_smoothing=0.3)
    assert smooth.loss_ > plain.loss_ + 0.1
    k = {"two classes": 2, "classes": 4, "many labels": 2}[kind]
    least = 0.3 / k * np.log(k / 0.3) if kind == "many labels" else 0
    assert smooth.loss_ > least


def test_adamw_is_fastnets():
    x, y, *_ = problem("numbers")
    own = ours.MLPRegressor(hidden_layer_sizes=(6,), weight_decay=0.1, alpha=0, random_state=0,
                            max_iter=3, shuffle=False, epsilon=1e-12).fit(x, y)
    start = theirs.MLPRegressor(hidden_layer_sizes=(6,), random_state=0, max_iter=1,
                                learning_rate_init=1e-300).fit(x, y)
    net = fn.Sequential([fn.Dense(5, 6, dtype="float64"), fn.ReLU(),
                         fn.Dense(6, 1, dtype="float64")])
    for dense, weight, bias in zip(net.layers[::2], start.coefs_, start.intercepts_, strict=True):
        dense.weight, dense.bias = weight, bias
    net.compile(fn.AdamW(1e-3, weight_decay=0.1, eps=1e-12, decay_vectors=False), "mse")
    net.fit(x, y, epochs=3, batch_size=150, shuffle=False, verbose=0)
    for dense, weight in zip(net.layers[::2], own.coefs_, strict=True):
        np.testing.assert_allclose(dense.weight, weight, rtol=0, atol=1e-9)


def test_validation_data_of_the_callers():
    x, y, *_ = problem("classes")
    own = ours.MLPClassifier(max_iter=10, random_state=0).fit(
        x[:100], y[:100], X_val=x[100:], y_val=y[100:])
    alone = ours.MLPClassifier(max_iter=10, random_state=0).fit(x[:100], y[:100])
    assert own.loss_curve_ == alone.loss_curve_ and alone.validation_loss_curve_ == []
    expected = -np.mean(np.log(own.predict_proba(x[100:]))[
        np.arange(50), np.searchsorted(own.classes_, y[100:])])
    assert own.validation_loss_curve_[-1] == pytest.approx(expected)
    assert len(own.validation_loss_curve_) == 10
    assert own.history_.val_loss[-1] == pytest.approx(expected)


def test_callbacks_are_called():
    class Stops(fn.callbacks.Callback):
        seen = 0

        def on_epoch_end(self, epoch, logs=None):
            type(self).seen += 1
            self.model.stop_training = epoch == 4

    own, *_ = trained("classes", callbacks=[Stops()])
    assert own.n_iter_ == Stops.seen == 5


@pytest.mark.parametrize("options", [
    {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
    {"solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.01,
     "learning_rate_init": 0.1},
    {"early_stopping": True, "n_iter_no_change": 4, "learning_rate_init": 0.02, "dropout": 0.1},
    {"n_iter_no_change": 3, "tol": 0.02, "shuffle": False, "batch_size": 40}], ids=str)
@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_a_fit_goes_on_from_a_checkpoint_with_the_same_bits(kind, options, tmp_path):
    x, y, *_ = problem(kind)

    def fitted(epochs, *callbacks):
        return trained(kind, max_iter=epochs, callbacks=list(callbacks), **options)[0]

    whole, path = fitted(80), tmp_path / "fit"
    fitted(3, fn.callbacks.Checkpoint(path))
    for _ in range(2):                          # the second time there is nothing left to do
        rest = fitted(80, fn.callbacks.Checkpoint(path, resume=True))
        assert all(map(np.array_equal, rest.coefs_ + rest.intercepts_,
                       whole.coefs_ + whole.intercepts_))
        for name in (*ours.OF_EPOCHS, "classes_"):
            if hasattr(whole, name):
                assert np.array_equal(getattr(rest, name), getattr(whole, name)), name
        assert vars(rest.history_) == vars(whole.history_)
    if "early_stopping" in options:
        return
    whole.partial_fit(x, y)
    with pytest.raises(ValueError, match=r"does not support Checkpoint\(resume=True\)"):
        rest.partial_fit(x, y)
    rest.set_params(callbacks=[fn.callbacks.Checkpoint(path)]).partial_fit(x, y)
    assert np.array_equal(rest.coefs_[0], whole.coefs_[0]) and rest.t_ == whole.t_


@pytest.mark.parametrize("changed", [
    lambda kept: kept["books"].pop("t_"), lambda kept: kept["books"].update(more=1),
    lambda kept: kept["books"].update(t_=-1), lambda kept: kept["books"].update(loss_curve_=["a"]),
    lambda kept: kept["books"].update(validation_scores_=None), lambda kept: kept.pop("best"),
    lambda kept: kept["best"].pop(), lambda kept: kept["books"].update(best_loss_=1.0)])
def test_60_61_a_checkpoint_whose_books_are_made_up(changed, tmp_path):
    checkpoint = fn.callbacks.Checkpoint(tmp_path / "fit", resume=True)
    own, x, y = trained("classes", early_stopping=True, callbacks=[checkpoint])
    state = read_state(checkpoint.path, "network")
    changed(dict(state["fit"]["callbacks"])["_Convergence"])
    write_state(checkpoint.path, "network", state)
    before = own.predict_proba(x), own.t_, list(own.loss_curve_)
    with pytest.raises(fn.ModelFileError, match="does not fit this network"):
        own.fit(x, y)
    assert np.array_equal(own.predict_proba(x), before[0])
    assert (own.t_, own.loss_curve_) == before[1:]


def test_60_61_a_checkpoint_of_other_answers(tmp_path):
    """Its losses and its classes mean something else."""
    x, y, *_ = problem("classes")
    checkpoint = fn.callbacks.Checkpoint(tmp_path / "fit", resume=True)
    options = {"hidden_layer_sizes": (5,), "random_state": 0, "callbacks": [checkpoint]}
    ours.MLPClassifier(**options, max_iter=3).fit(x, y)
    for kind, answers in ((ours.MLPClassifier, y.max() - y), (ours.MLPClassifier, y.astype(str)),
                          (ours.MLPRegressor, np.eye(4)[y // 10])):
        with pytest.raises(fn.ModelFileError, match="it is of MLPClassifier, softmax of"):
            kind(**options, max_iter=4).fit(x, answers + ("!" if answers.dtype.kind == "U" else 7))
    assert ours.MLPClassifier(**options, max_iter=5).fit(x, y).n_iter_ == 5


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda own: pickle.loads(pickle.dumps(own))])
def test_coefs_of_a_copy_are_its_networks(copied):
    own, x, _ = trained("classes")
    other = copied(own)
    other.coefs_[0] *= 0
    other.intercepts_[0][:] = 0
    assert not other.network_.layers[0].weight.any() and own.coefs_[0].any()
    own.coefs_ = [coef + 1 for coef in own.coefs_]          # and nobody has looked at them yet
    assert np.array_equal(copied(own).coefs_[0], own.coefs_[0])
    assert np.array_equal(copied(own).predict_proba(x), own.predict_proba(x))
    own.coefs_ = [coef[1:] for coef in own.coefs_]
    with pytest.raises(ValueError, match=r"coefs_\[0\] must have shape"):
        copied(own).predict(x)


@each_problem
def test_frozen_predicts_the_same(kind):
    own, x, _ = trained(kind)
    frozen = own.frozen()
    np.testing.assert_allclose(frozen.predict(x).astype(float) if own.predict(x).dtype.kind != "U"
                               else frozen.predict(x) == "yes",
                               own.predict(x).astype(float) if own.predict(x).dtype.kind != "U"
                               else own.predict(x) == "yes", rtol=0, atol=1e-12)
    if hasattr(own, "predict_proba"):
        np.testing.assert_allclose(frozen.predict_proba(x), own.predict_proba(x), atol=1e-12)
    before = frozen.predict(x[:1])
    own.partial_fit(x, problem(kind)[1])
    assert np.array_equal(frozen.predict(x[:1]), before)
    with pytest.raises(ValueError, match="X must have 5 features, got 4"):
        frozen.predict(x[:, :4])


@each_problem
def test_conversion_both_ways(kind):
    x, y, name, more = problem(kind)
    their = getattr(theirs, name)(random_state=0, max_iter=20, **more).fit(x, y)
    own = getattr(ours, name).from_sklearn(their)
    back = own.to_sklearn()
    assert type(back) is type(their) and back.get_params() == their.get_params()
    for one in (own, back):
        assert_equal_results(their, one, x, 1e-12)
    del their._optimizer                # the optimizer's state does not come along
    own.partial_fit(x, y)
    their.partial_fit(x, y)
    np.testing.assert_allclose(own.coefs_[0], their.coefs_[0], rtol=0, atol=1e-8)
    assert not np.array_equal(back.coefs_[0], own.coefs_[0])
    for options, match in [
            ({"dropout": 0.1}, "no dropout"), ({"layer_norm": True}, "no layer_norm"),
            ({"activation": "gelu"}, "no activation 'gelu'")]:
        with pytest.raises(ValueError, match=match):
            trained(kind, **options)[0].to_sklearn()


@pytest.mark.parametrize("options, changed", [
    ({"activation": "gelu"}, {"activation": "relu"}), ({}, {"activation": "tanh"}),
    ({"layer_norm": True}, {"layer_norm": False}), ({"dropout": 0.1}, {"dropout": 0.0}),
    ({}, {"hidden_layer_sizes": (5,)})], ids=str)
def test_what_was_set_after_the_fit_does_not_go_to_scikit_learn(options, changed):
    own, *_ = trained("classes", **options)
    own.set_params(**changed)
    with pytest.raises(ValueError, match=f"{next(iter(changed))} was not"):
        own.to_sklearn()


@pytest.mark.parametrize("early", [False, True])
def test_conversions_share_nothing_and_go_on_where_it_is_warm(early):
    own, x, y = trained("classes", warm_start=True, early_stopping=early)
    their = own.to_sklearn()
    back = ours.MLPClassifier.from_sklearn(their)
    before = [pickle.dumps(one) for one in (own, back)]
    their.fit(x, y)
    assert [pickle.dumps(one) for one in (own, back)] == before
    own.fit(x, y)
    np.testing.assert_allclose(own.loss_curve_, their.loss_curve_, rtol=0, atol=1e-8)
    back.fit(x, y)
    assert back.loss_curve_ == own.loss_curve_


# ---- Copies, weights by hand, memory ---------------------------------------------------------

@each_problem
def test_copies_go_on_alike(kind):
    own, x, y = trained(kind)
    copies = [pickle.loads(pickle.dumps(own)), copy.deepcopy(own)]
    for one in (own, *copies):
        one.partial_fit(x[:1], y[:1])
        one.partial_fit(x[1:2], y[1:2])
    for one in copies:
        assert all(map(np.array_equal, one.coefs_, own.coefs_)) and one.loss_ == own.loss_
    unfitted = pickle.loads(pickle.dumps(clone(own)))
    with pytest.raises(NotFittedError):
        unfitted.predict(x)


@pytest.mark.parametrize("solver, changed", [
    ("adam", {"solver": "sgd"}), ("adam", {"beta_1": 0.5}), ("adam", {"beta_2": 0.5}),
    ("adam", {"epsilon": 0.1}), ("adam", {"weight_decay": 0.3}), ("adam", {"clip_norm": 1e-3}),
    ("sgd", {"solver": "adam"}), ("sgd", {"momentum": 0.1}), ("sgd", {"nesterovs_momentum": False}),
    ("sgd", {"learning_rate_init": 0.5}), ("sgd", {"power_t": 2.0}),
    ("sgd", {"learning_rate": "constant"})], ids=str)
def test_the_optimizer_stays_what_it_was_made_as(solver, changed, tmp_path):
    """In copies and files as well, whatever parameters are set before."""
    own, x, y = trained("numbers", solver=solver, learning_rate="invscaling")
    plain = copy.deepcopy(own)
    own.set_params(**changed).save(tmp_path / "model")
    for one in (plain, own, loaded := fn.load(tmp_path / "model"), pickle.loads(pickle.dumps(own))):
        for _ in range(3):
            one.partial_fit(x, y)
        assert all(map(np.array_equal, one.coefs_, plain.coefs_))
    loaded.save(tmp_path / "model")
    assert fn.load(tmp_path / "model").fit(x, y).predict(x).tolist() == own.fit(
        x, y).predict(x).tolist()


def test_weights_that_were_put_in_by_hand_count():
    own, x, y = trained("numbers")
    expected = own.predict(x)
    own.intercepts_[-1] = own.intercepts_[-1] + 1
    np.testing.assert_allclose(own.predict(x), expected + 1)
    own.coefs_ = [coef * 0 for coef in own.coefs_]
    assert np.ptp(own.predict(x)) == 0
    own.partial_fit(x[:1], y[:1])
    own.intercepts_[-1][:] = 5                      # also in place
    assert abs(own.predict(x)).max() > 1


def test_memory_does_not_grow_with_partial_fit():
    x, y, *_ = problem("classes")
    own = ours.MLPClassifier().partial_fit(x, y, classes=[0, 10, 20, 30])
    sizes = []
    for _ in range(3):
        for i in range(1500):
            own.partial_fit(x[i % 150:i % 150 + 1], y[i % 150:i % 150 + 1])
        sizes.append(len(pickle.dumps(own)))
    assert len(own.loss_curve_) == 1000 and sizes[1] == pytest.approx(sizes[2], rel=0.01)
    tracemalloc.start()
    try:
        for i in range(2000):
            own.partial_fit(x[i % 150:i % 150 + 1], y[i % 150:i % 150 + 1])
        before = tracemalloc.get_traced_memory()[0]
        for i in range(2000):
            own.partial_fit(x[i % 150:i % 150 + 1], y[i % 150:i % 150 + 1])
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()


# ---- Among scikit-learn's tools ---------------------------------------------------------------

def test_at_home_in_pipelines_searches_and_ensembles():
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.inspection import permutation_importance
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_validate
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = datasets.load_iris(return_X_y=True)
    one = ours.MLPClassifier((10,), max_iter=150, random_state=0, learning_rate_init=0.02)
    grid = {"dropout": [0.0, 0.1], "hidden_layer_sizes": [(5,), (10,)]}
    for estimator in (
            make_pipeline(StandardScaler(), one), GridSearchCV(one, grid, cv=3),
            GridSearchCV(one, grid, cv=3, n_jobs=2), HalvingGridSearchCV(one, grid, cv=3),
            CalibratedClassifierCV(one, cv=3), VotingClassifier([("a", one), ("b", clone(one))],
                                                               voting="soft"),
            StackingClassifier([("a", one)], LogisticRegression(), cv=3),
            BaggingClassifier(one, 3, random_state=0)):
        assert estimator.fit(x, y).score(x, y) > 0.9, estimator
    assert cross_validate(one, x, y, cv=3)["test_score"].min() > 0.9
    importances = permutation_importance(one.fit(x, y), x, y, random_state=0).importances_mean
    assert importances.argmax() in (2, 3)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib(backend):
    from joblib import Parallel, delayed, parallel_config

    x, y = datasets.load_iris(return_X_y=True)
    own = ours.MLPClassifier(max_iter=30, random_state=0).fit(x, y)
    with parallel_config(backend, n_jobs=2):
        found = Parallel()(delayed(own.predict)(x[i::4]) for i in range(4))
        fitted = Parallel()(delayed(clone(own).fit)(x, y) for _ in range(3))
    assert all(np.array_equal(part, own.predict(x[i::4])) for i, part in enumerate(found))
    assert all(one.loss_curve_ == own.loss_curve_ for one in fitted)


def test_frames_names_and_output():
    pandas = pytest.importorskip("pandas")
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = datasets.load_iris(return_X_y=True, as_frame=True)
    own = ours.MLPClassifier(max_iter=30, random_state=0).fit(x, y)
    assert list(own.feature_names_in_) == list(x.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        own.predict(x.rename(columns={x.columns[0]: "other"}))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        own.predict(x.to_numpy())
    pipeline = make_pipeline(StandardScaler(), own).set_output(transform="pandas").fit(x, y)
    assert isinstance(pipeline[:-1].transform(x), pandas.DataFrame)
    own.partial_fit(x[:1], y[:1])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        own.partial_fit(x[:1].to_numpy(), y[:1].to_numpy())
    assert "MLPClassifier" in own._repr_html_()
    assert repr(ours.MLPClassifier(dropout=0.5)) == "MLPClassifier(dropout=0.5)"


def test_metadata_is_routed():
    from sklearn.model_selection import cross_validate

    x, y = datasets.load_iris(return_X_y=True)
    weights = np.random.default_rng(0).uniform(0, 1, len(x))
    with sklearn.config_context(enable_metadata_routing=True):
        own = ours.MLPClassifier(max_iter=20, random_state=0).set_fit_request(sample_weight=True)
        own.set_score_request(sample_weight=False).set_partial_fit_request(classes=True)
        found = cross_validate(own, x, y, cv=3, params={"sample_weight": weights},
                               return_estimator=True)
    plain = cross_validate(ours.MLPClassifier(max_iter=20, random_state=0), x, y, cv=3,
                           return_estimator=True)
    assert [e.loss_ for e in found["estimator"]] != [e.loss_ for e in plain["estimator"]]


class Interrupts(fn.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 3:
            self.seen = [value.copy() for _, value, _ in self.model.parameters()]
            raise KeyboardInterrupt


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("again", [False, True])
def test_54_ctrl_c_ends_the_fit(solver, again):
    """With KeyboardInterrupt, and what was learnt so far; scikit-learn's would warn."""
    x, y, *_ = problem("classes")
    own = ours.MLPClassifier(solver=solver, random_state=0, early_stopping=again)
    if again:
        own.fit(x, y)
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        own.set_params(callbacks=[interrupts]).fit(x, y)
    assert own.n_iter_ == len(own.loss_curve_) == len(own.history_.loss) == 4
    assert all(np.array_equal(now, then) for (_, now, _), then in zip(
        own.network_.parameters(), interrupts.seen, strict=True))
    assert np.shares_memory(own.coefs_[0], own.network_.layers[0].weight)
    assert own.predict(x).shape == (150,)
    own.set_params(callbacks=None)
    own.fit(x, y) if again else own.partial_fit(x, y)


@pytest.mark.parametrize("calls", range(1, 12))
def test_54_an_interrupted_lbfgs_has_the_last_point_that_was_accepted(calls, monkeypatch):
    x, y, *_ = problem("numbers")
    y = 100 * y                                 # so that line searches try several points
    curve, counted = [], ours._Trainer.gradients

    def interrupted(*arguments):
        curve.append(None)
        if len(curve) == calls:
            raise KeyboardInterrupt
        return counted(*arguments)

    own = ours.MLPRegressor(hidden_layer_sizes=(6,), solver="lbfgs", random_state=0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ours._Trainer, "gradients", interrupted)
        own.fit(x, y)
    if not hasattr(own, "coefs_"):
        assert calls <= 6                       # nothing was accepted yet
        return
    same = clone(own).set_params(max_iter=own.n_iter_).fit(x, y)
    assert 1 <= own.n_iter_ == same.n_iter_ < calls
    assert all(map(np.array_equal, own.coefs_, same.coefs_))
    assert np.array_equal(own.predict(x), same.predict(x))


# ---- Bad input -------------------------------------------------------------------------------

def test_what_is_wrong_is_said_in_their_words():
    x, y, *_ = problem("classes")
    bad = x.copy()
    bad[3, 2] = np.nan
    own = ours.MLPClassifier(max_iter=5, random_state=0).fit(x, y)
    for call, match in [
            (lambda m: m.fit(bad, y), "Input X contains NaN"),
            (lambda m: m.predict(bad), "Input X contains NaN"),
            (lambda m: m.predict(x[:, :3]), "X has 3 features, but MLPClassifier is expecting 5"),
            (lambda m: m.predict(x[0]), "Expected 2D array, got 1D array instead"),
            (lambda m: m.fit(x, y[:-1]), "inconsistent numbers of samples"),
            (lambda m: m.fit(x, y, sample_weight=[1, 2]), "sample_weight.shape == "),
            (lambda m: m.partial_fit(x, y + 1), "`y` has classes not in `self.classes_`"),
            (lambda m: m.partial_fit(x[:1], np.array([77])), "classes not in `self.classes_`"),
            (lambda m: m.partial_fit(bad[3:4], y[3:4]), "Input X contains NaN"),
            (lambda m: m.partial_fit(x[:1], y[:1], classes=[1, 2]), "is not the same as on last"),
            (lambda m: m.fit(x, y, X_val=x[:, :2], y_val=y), "X has 2 features"),
            (lambda m: m.fit(x, y, X_val=x, y_val=y[:4]), "inconsistent numbers of samples"),
            (lambda m: m.set_params(hidden_layer_sizes=-1).fit(x, y), "hidden_layer_sizes"),
            (lambda m: m.set_params(alpha=-1).fit(x, y), "The 'alpha' parameter"),
            (lambda m: m.set_params(dropout=1.0).fit(x, y), "The 'dropout' parameter"),
            (lambda m: m.set_params(weight_decay=-1).fit(x, y), "The 'weight_decay' parameter"),
            (lambda m: m.set_params(label_smoothing=1).fit(x, y), "The 'label_smoothing' param"),
            (lambda m: m.set_params(clip_norm=0).fit(x, y), "The 'clip_norm' parameter"),
            (lambda m: m.set_params(layer_norm=3).fit(x, y), "The 'layer_norm' parameter"),
            (lambda m: m.set_params(dtype="int32").fit(x, y), "dtype"),
            (lambda m: m.set_params(dtype=np.int64).fit(x, y), "dtype must be float32, float64"),
            (lambda m: m.set_params(activation="relo").fit(x, y), "The 'activation' parameter"),
            (lambda m: m.set_params(activation=["relu"] * 2).fit(x, y), "one name for each of 1"),
            (lambda m: m.set_params(activation=[3]).fit(x, y), "activation must hold names"),
            (lambda m: m.set_params(solver="sgd", weight_decay=0.1).fit(x, y), "solver='adam'"),
            (lambda m: m.set_params(solver="lbfgs", dropout=0.1).fit(x, y), "dropout needs")]:
        with pytest.raises(ValueError, match=match):
            call(copy.deepcopy(own))
    with pytest.raises(AttributeError, match="no attribute 'partial_fit'"):
        ours.MLPClassifier(solver="lbfgs").partial_fit(x, y)
    with pytest.raises((TypeError, ValueError), match="callback"):
        ours.MLPClassifier(callbacks=[3]).fit(x, y)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_an_error_in_a_fit_keeps_the_steps_that_were_taken(steps):
    """And before the first one the estimator is what it was."""
    class Fails(fn.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.batch_to_come(0)

        def on_train_batch_end(self, batch, logs=None):
            self.batch_to_come(batch + 1)

        def batch_to_come(self, batch):
            if batch == steps:
                self.seen = [value.copy() for _, value, _ in self.model.parameters()]
                raise OSError("no room")

    own, x, y = trained("classes", batch_size=10)
    before, curve = own.predict_proba(x), own.loss_curve_
    fails = Fails()
    with pytest.raises(OSError, match="no room"):
        own.set_params(callbacks=[fails], random_state=4).fit(x[:, :4] if steps else x, y)
    if steps:
        assert own.n_features_in_ == 4 and own.loss_curve_ == []
        assert own.predict(x[:, :4]).shape == (150,)
        assert all(np.array_equal(now, then) for (_, now, _), then in zip(
            own.network_.parameters(), fails.seen, strict=True))
    else:
        assert np.array_equal(own.predict_proba(x), before) and own.loss_curve_ is curve


def test_38_steps_go_on_after_one_that_diverged():
    own, x, y = trained("numbers")
    for one in (x[:1], x[:1], np.full((1, 5), 1e200), x[1:2], x[2:3]):
        before = own.predict(x)
        if one[0, 0] == 1e200:
            with pytest.raises(ValueError, match="non-finite"), np.errstate(all="ignore"):
                own.partial_fit(one, y[:1])
            assert np.array_equal(own.predict(x), before)
        else:
            own.partial_fit(one, y[:1])
            assert not np.array_equal(own.predict(x), before)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("learning_rate", ["invscaling", "adaptive"])
@pytest.mark.parametrize("warm", [False, True])
def test_38_a_first_step_that_diverges_leaves_the_estimator_as_it_was(warm, learning_rate):
    """Books, the learning rate and all."""
    own, x, y = trained("numbers", warm_start=warm, solver="sgd", learning_rate=learning_rate)
    own.set_params(n_iter_no_change=1, tol=10.0)
    for go_on in (own.fit, own.partial_fit)[not warm:]:
        for _ in range(3):
            before = {**vars(own), "loss_curve_": list(own.loss_curve_)}
            rate, predicted = own._optimizer.lr, own.predict(x)
            with pytest.raises(ValueError, match="non-finite"):
                go_on(np.full_like(x, 1e200), y, np.ones(len(x)))
            for name in (*BOOKS, "validation_loss_curve_"):
                assert getattr(own, name, None) == before.get(name), name
            assert own._optimizer is before["_optimizer"] and own._optimizer.lr == rate
            assert np.array_equal(own.predict(x), predicted)


def test_one_class_is_predicted():
    x = problem("classes")[0]
    for their, own in [[module.MLPClassifier(max_iter=3, random_state=0).fit(x, ["a"] * 150)
                        for module in (theirs, ours)]]:
        assert set(own.predict(x)) == set(own.frozen().predict(x)) == {"a"}
        np.testing.assert_allclose(own.predict_proba(x), their.predict_proba(x))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("early", [False, True])
def test_38_training_that_diverges(early):
    x, y, *_ = problem("numbers")
    own = ours.MLPRegressor(solver="sgd", learning_rate_init=1e6, early_stopping=early, max_iter=30,
                            n_iter_no_change=40, random_state=0)
    if not early:
        with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
            own.fit(x, y)
        return
    own.fit(x, y)
    assert np.isnan(own.validation_scores_[-1]) and np.isfinite(own.predict(x)).all()
    assert np.isnan(own.loss_) and own.n_iter_ == 30


def test_a_fit_that_has_not_converged_warns():
    x, y, *_ = problem("classes")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        with pytest.raises(ConvergenceWarning, match=r"Maximum iterations \(3\) reached"):
            ours.MLPClassifier(max_iter=3).fit(x, y)
        ours.MLPClassifier(max_iter=3000, tol=0.1).fit(x, y)


def test_a_callback_for_batches_does_not_change_the_poisson_loss():
    class Watching(fn.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            pass

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(203, 7)), rng.poisson(3, 203).astype(float)
    for shuffle in (True, False):
        curves = [ours.MLPRegressor(loss="poisson", random_state=0, max_iter=3, batch_size=50,
                               shuffle=shuffle, callbacks=callbacks).fit(x, y).loss_curve_
                  for callbacks in (None, [Watching()])]
        np.testing.assert_allclose(*curves, rtol=1e-12)      # summed by batches, or at once


@pytest.mark.parametrize("outputs", [1, 3])
def test_poisson_losses_of_the_same_data_are_equal(outputs):
    """Of training and validation, which has no weights but where somebody measures with them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), rng.poisson(3, (60, outputs)).astype(float)
    own = ours.MLPRegressor("poisson", solver="sgd", learning_rate_init=1e-200, random_state=0,
                            max_iter=2, alpha=0, batch_size=60)
    own.fit(x, y if outputs > 1 else y[:, 0], X_val=x, y_val=y if outputs > 1 else y[:, 0])
    assert own.validation_loss_curve_ == pytest.approx(own.loss_curve_, rel=1e-12)
    w = rng.uniform(0, 3, 60)
    measured = own.network_._trainer.measure(Samples(x, y, w)).loss * outputs
    own.fit(x, y if outputs > 1 else y[:, 0], w)
    assert measured == pytest.approx(own.loss_curve_[0], rel=1e-12)


@pytest.mark.parametrize("kind", ["classes", "numbers"])
@pytest.mark.parametrize("warm", [False, True])
def test_steps_go_on_after_a_fit_by_lbfgs(warm, kind):
    own, x, y = trained(kind, warm_start=warm)
    for solver, go_on in (("adam", own.partial_fit), ("lbfgs", own.fit), ("adam", own.partial_fit)):
        own.set_params(solver=solver)
        other = copy.deepcopy(own)          # which has nothing to be quick with
        for _ in range(3):
            go_on(x, y)
    for _ in range(3):
        other.partial_fit(x, y)
    assert all(map(np.array_equal, own.coefs_, other.coefs_))


@pytest.mark.parametrize("kind, changed", [
    ("classes", {"activation": "tanh"}), ("numbers", {"activation": ["relu", "gelu"]}),
    ("classes", {"dropout": 0.2}), ("numbers", {"layer_norm": True}),
    ("classes", {"hidden_layer_sizes": (7,)}), ("numbers", {"hidden_layer_sizes": [7, 5]}),
    ("classes", {"dtype": "float32"}), ("numbers", {"loss": "poisson"})], ids=str)
@pytest.mark.parametrize("how", ["fit", "lbfgs", "partial_fit"])
def test_49_parameters_of_a_network_that_is_there_cannot_change(how, kind, changed):
    own, x, y = trained(kind, hidden_layer_sizes=(7, 4), warm_start=True)
    others = {name: getattr(own, name) for name in changed}
    if how == "lbfgs" and "dropout" not in changed:         # which it does not have
        own.set_params(solver="lbfgs")
    go_on = own.partial_fit if how == "partial_fit" else own.fit
    for _ in range(3):                      # also where the one before was quick
        go_on(x, y)
        before = [value.copy() for value in own.coefs_]
        (name, value), = changed.items()
        own.set_params(**changed)
        with pytest.raises(ValueError, match=re.escape(
                f"{name} was not {value!r} when the network was built: set it back, or fit anew")):
            go_on(x, y)
        assert all(map(np.array_equal, own.coefs_, before))
        own.set_params(**others)
    own.set_params(**changed, warm_start=False).fit(abs(x), abs(y))


@pytest.mark.parametrize("options", [
    {"hidden_layer_sizes": [], "dropout": 0.5, "layer_norm": True},
    {"hidden_layer_sizes": 5, "dropout": np.float32(0.1), "activation": "logistic"},
    {"hidden_layer_sizes": np.array([5, 3]), "activation": ("gelu", "gelu_tanh"),
     "layer_norm": True, "dtype": np.float32}], ids=str)
def test_parameters_that_say_the_same_may_be_set_anew(options, tmp_path):
    own, x, y = trained("classes", warm_start=True, **options)
    own.set_params(hidden_layer_sizes=list(np.atleast_1d(own.hidden_layer_sizes)))
    if own.activation == "logistic":
        own.set_params(activation=["sigmoid"], dropout=float(own.dropout))
    own.fit(x, y).partial_fit(x, y)
    own.save(tmp_path / "model")
    fn.load(tmp_path / "model").partial_fit(x, y)
    pickle.loads(pickle.dumps(own)).fit(x, y)


@pytest.mark.parametrize("changed", [
    {"class_weight": {0: 100.0, 1: 0.001, 2: 0.001}}, {"batch_size": 7}, {"label_smoothing": 0.3},
    {"alpha": 1.0}, {"callbacks": [5]}, {"early_stopping": True}, {"batch_size": -5},
    {"n_threads": -3}], ids=str)
def test_parameters_that_are_set_count_in_the_next_partial_fit(changed):
    """Also where the one before was quick."""
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("f4")
    y = np.arange(40) % 3
    model = ours.MLPClassifier((6,), random_state=0, shuffle=False)
    for _ in range(3):
        model.partial_fit(x, y, classes=[0, 1, 2])
    other = copy.deepcopy(model)            # which has nothing to be quick with
    results = []
    for one in (model, other):
        one.set_params(**changed)
        try:
            one.partial_fit(x, y)
        except (TypeError, ValueError) as error:
            results.append(str(error))
        results.append([value.tobytes() for value in one.coefs_])
    assert results[:len(results) // 2] == results[len(results) // 2:]
