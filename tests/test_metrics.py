"""Metrics against values worked by hand, their twins in `reference`, NumPy and scikit-learn."""

import pickle
import warnings
from functools import partial

import numpy as np
import pytest

import fastnet as fn
from fastnet import metrics, reference
from fastnet.metrics import accuracy, binary_accuracy, r2_score, top_k_accuracy

SPECIAL = [-np.inf, -1, 0, 1, np.inf, np.nan]


def make_network(loss="softmax_cross_entropy", own_metrics=(), dtype="float32"):
    net = fn.Sequential([fn.Dense(4, 3, dtype=dtype, rng=1)])
    net.compile(fn.SGD(0.1), loss, own_metrics)
    return net


def make_data(dtype="float32"):
    x = np.random.default_rng(2).normal(size=(30, 4)).astype(dtype)
    return x, x[:, :3].argmax(axis=1)


# ---- Values ----------------------------------------------------------------------------------

@pytest.mark.parametrize("k, expected", [(1, 1 / 4), (2, 2 / 4), (3, 1), (4, 1)])
def test_top_k_by_hand(k, expected, dtype):
    scores = np.array([[3, 2, 1], [1, 3, 2], [1, 2, 3], [3, 2, 1]], dtype)
    assert top_k_accuracy(scores, [0, 2, 0, 2], k) == expected
    if k == 1:
        assert accuracy(scores, [0, 2, 0, 2]) == expected


def test_top_k_takes_five_by_default(rng):
    scores, labels = rng.normal(size=(40, 9)), rng.integers(9, size=40)
    assert top_k_accuracy(scores, labels) == top_k_accuracy(scores, labels, 5)
    assert top_k_accuracy(scores, labels, 4) < top_k_accuracy(scores, labels) < 1


@pytest.mark.parametrize("label, k, right", [
    (0, 1, True), (1, 1, False), (1, 2, True), (2, 2, False), (2, 3, True)])
def test_of_equal_scores_the_first_counts_as_larger(label, k, right, dtype):
    assert top_k_accuracy(np.ones((1, 3), dtype), [label], k) == right


def test_binary_accuracy_by_hand(dtype):
    """A score of 0 and a target of 1/2 are both on the side of no."""
    scores = np.array([[1, -1], [0, 2], [0, 1e-30]], dtype)
    target = np.array([[1, 0], [1, 0], [0.5, 0.5 + 1e-6]], dtype)
    assert binary_accuracy(scores, target) == 4 / 6


def test_r2_by_hand(dtype):
    target = np.array([[1, 2], [2, 2], [3, 5]], dtype)
    scores = np.array([[1, 2], [2, 2], [4, 2]], dtype)
    assert r2_score(scores[:, :1], target[:, :1]) == 1 - 1 / 2
    assert r2_score(scores[:, 1:], target[:, 1:]) == 1 - 9 / 6
    assert r2_score(scores, target) == (0.5 - 0.5) / 2
    assert r2_score(target, target) == 1
    assert r2_score(np.broadcast_to(target.mean(axis=0), (3, 2)), target) == 0


@pytest.mark.parametrize("constant", [0, 1, 0.1, 0.3, 1 / 3, 1e30])
def test_a_column_of_equal_targets_counts_1_if_met_and_else_0(constant, dtype):
    """However their sum is rounded."""
    for n in (1, 2, 3, 10, 49):
        target = np.full((n, 1), constant, dtype)
        assert r2_score(target, target) == 1
        assert r2_score(2 * target + 1, target) == 0
        column = np.arange(n, dtype=dtype)[:, None]
        assert r2_score(np.hstack([2 * target + 1, column]), np.hstack([target, column])) == 0.5


@pytest.mark.parametrize("where", ["scores", "target"])
def test_r2_does_not_hide_nan(where, dtype):
    arrays = {"scores": np.array([[1], [2]], dtype), "target": np.array([[1], [1]], dtype)}
    for bad in (np.nan, np.inf) if where == "target" else (np.nan,):
        arrays[where][0] = bad
        assert np.isnan(r2_score(**arrays))


def test_34_a_target_that_is_nan_has_no_right_answer(dtype):
    assert binary_accuracy(np.array([[-1], [-1]], dtype), np.array([[np.nan], [0]], dtype)) == 0.5


# ---- Twins -----------------------------------------------------------------------------------

@pytest.mark.parametrize("n, n_classes", [(1, 1), (1, 7), (20, 2), (50, 5), (8, 33)])
def test_counts_are_those_of_the_reference(n, n_classes, dtype, rng):
    """With ties, NaN and infinite scores, for labels and for rows."""
    for _ in range(5):
        scores = rng.choice(SPECIAL, (n, n_classes)).astype(dtype)
        labels = rng.integers(n_classes, size=n)
        rows = rng.choice([0, 0.25, 0.5, 1], (n, n_classes)).astype(dtype)
        unknown = np.where(rows == 0.25, dtype.type(np.nan), rows)
        for k in range(1, n_classes + 2):
            for target in (labels, rows):
                expected = reference.count_correct(scores.tolist(), target.tolist(), k) / n
                assert top_k_accuracy(scores, target, k) == expected
        expected = reference.count_same_side(scores.tolist(), rows.tolist()) / scores.size
        assert binary_accuracy(scores, rows) == expected
        expected = reference.count_same_side(scores.tolist(), unknown.tolist()) / scores.size
        assert binary_accuracy(scores, unknown) == expected


def test_r2_is_that_of_the_reference(dtype, rng):
    scores = rng.normal(size=(30, 4)).astype(dtype)
    target = rng.normal(size=(30, 4)).astype(dtype)
    target[:, 1], scores[:, 1] = 2, 2
    target[:, 2] = 3
    assert r2_score(scores, target) == pytest.approx(
        reference.r2_score(scores.tolist(), target.tolist()), rel=1e-12)


def test_r2_is_taken_in_double(rng):
    """The variance of large float32 targets is lost in float32."""
    target = (rng.integers(100, size=(50, 1)) + 2**23).astype("float32")
    scores = target + rng.integers(3, size=(50, 1)).astype("float32")
    assert r2_score(scores, target) == pytest.approx(
        r2_score(scores.astype("float64"), target.astype("float64")), rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_top_k_is_a_stable_sort(k, dtype, rng):
    scores = rng.integers(4, size=(200, 10)).astype(dtype)
    labels = rng.integers(10, size=200)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert top_k_accuracy(scores, labels, k) == np.mean((best == labels[:, None]).any(axis=1))


def test_scikit_learn_agrees(dtype, rng):
    theirs = pytest.importorskip("sklearn.metrics")
    scores = rng.permuted(np.tile(np.arange(7.0), (60, 1)), axis=1).astype(dtype)
    labels = rng.integers(7, size=60)
    for k in range(1, 7):
        assert top_k_accuracy(scores, labels, k) == pytest.approx(
            theirs.top_k_accuracy_score(labels, scores, k=k, labels=range(7)))
    assert accuracy(scores, labels) == theirs.accuracy_score(labels, scores.argmax(axis=1))
    target = rng.normal(size=scores.shape).astype(dtype)
    target[:, 2], target[:, 3] = scores[0, 2], 4
    scores[:, 2] = scores[0, 2]
    for columns in (slice(0, 1), slice(2, 3), slice(3, 4), slice(None)):
        assert r2_score(scores[:, columns], target[:, columns]) == pytest.approx(
            theirs.r2_score(target[:, columns], scores[:, columns]), rel=1e-4)
    yes = target > 0
    assert binary_accuracy(scores, yes) == theirs.accuracy_score(yes.ravel(), scores.ravel() > 0)


def test_labels_and_one_hot_rows_are_the_same(dtype, rng):
    scores, labels = rng.normal(size=(30, 5)).astype(dtype), rng.integers(5, size=30)
    for k in range(1, 6):
        assert top_k_accuracy(scores, np.eye(5)[labels], k) == top_k_accuracy(scores, labels, k)


@pytest.mark.parametrize("k", [3, 4, 10**30, np.int64(3)])
def test_from_the_number_of_classes_on_all_are_right(k, rng):
    scores, labels = rng.choice(SPECIAL, (20, 3)), rng.integers(3, size=20)
    assert top_k_accuracy(scores, labels, k) == 1


# ---- Inputs ----------------------------------------------------------------------------------

FORMS = {
    "float16": lambda a: a.astype("float16"), "list": np.ndarray.tolist,
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "Fortran": np.asfortranarray, "reversed": lambda a: a[::-1].copy()[::-1],
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()), "integers": lambda a: a.astype(int)}


@pytest.mark.parametrize("form", FORMS)
def test_harmless_forms_are_converted(form, rng):
    convert = FORMS[form]
    scores = rng.integers(-3, 4, (40, 4)).astype("float64")
    labels, rows = rng.integers(4, size=40), rng.integers(2, size=(40, 4)).astype("float64")
    for metric, target in ((accuracy, labels), (top_k_accuracy, rows), (binary_accuracy, rows),
                           (r2_score, rows)):
        for given in (target, convert(target)):
            assert metric(convert(scores), given) == metric(scores, target)


def test_a_vector_of_targets_goes_with_one_column_of_scores(rng):
    scores, target = rng.normal(size=(20, 1)), rng.integers(2, size=20).astype(float)
    for metric in (binary_accuracy, r2_score):
        expected = metric(scores, target.reshape(-1, 1))
        assert metric(scores, target) == metric(scores[:, 0], target) == expected


def test_inputs_are_left_alone(rng):
    scores, labels, rows = rng.normal(size=(9, 3)), rng.integers(3, size=9), np.ones((9, 3))
    before = [array.tobytes() for array in (scores, labels, rows)]
    for metric, target in ((accuracy, labels), (binary_accuracy, rows), (r2_score, rows)):
        metric(scores, target)
    assert [array.tobytes() for array in (scores, labels, rows)] == before


@pytest.mark.parametrize("k, error", [
    (0, ValueError), (-1, ValueError), (1.0, TypeError), ("1", TypeError), (True, TypeError),
    (None, TypeError)])
def test_49_a_k_that_is_none(k, error):
    with pytest.raises(error, match="k must be"):
        top_k_accuracy([[1, 2]], [0], k)


@pytest.mark.parametrize("metric, scores, target, match", [
    (accuracy, np.empty((0, 3)), np.empty(0, int), "0 rows"),
    (binary_accuracy, np.empty((0, 3)), np.empty((0, 3)), "0 rows"),
    (r2_score, np.empty((0, 1)), np.empty(0), "0 rows"),
    (accuracy, [1, 2], [0, 1], "scores must have 2 dimensions"),
    (accuracy, [[1, 2]], [0, 1], "target must have"),
    (accuracy, [[1, 2]], [[0, 1, 2]], "target must have"),
    (accuracy, [[1, 2]], [2], "target.*2"),
    (accuracy, [[1, 2]], [-1], "target.*-1"),
    (accuracy, [[1, 2]], [0.5], "whole numbers"),
    (accuracy, [[1, 2]], 0, "target must have 1 dimension"),
    (accuracy, [["a", "b"]], [0], "scores must hold real numbers"),
    (accuracy, [[1j, 2]], [0], "scores must hold real numbers"),
    (binary_accuracy, [[1, 2]], [1, 0], "shape of scores"),
    (binary_accuracy, [[1, 2]], [[1, 0], [1, 0]], "shape of scores"),
    (r2_score, [[1], [2]], [[1, 2]], "shape of scores"),
    (r2_score, [1, 2], [[1, 2]], "shape of scores"),
    (r2_score, [[[1]]], [[[1]]], "2 dimensions"),
    (r2_score, 1, 1, "dimension")])
def test_04_05_06_shapes_and_values_that_do_not_fit(metric, scores, target, match):
    with pytest.raises(ValueError, match=match):
        metric(scores, target)


@pytest.mark.parametrize("metric", [accuracy, binary_accuracy, r2_score])
def test_21_26_what_is_no_plain_array(metric):
    for scores, target, match in [
            (None, [[1.0]], "scores must be an array, got None"),
            ([[1.0]], None, "target must be an array, got None"),
            (np.ma.ones((1, 1)), [[1.0]], "scores must be a plain array, got a masked array")]:
        with pytest.raises(TypeError, match=match):
            metric(scores, target)


# ---- Names -----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["accuracy", "binary_accuracy", "r2_score"])
def test_names_lead_to_functions(name):
    assert metrics.get(name) == (name, getattr(metrics, name))
    assert metrics.get(getattr(metrics, name)) == (name, getattr(metrics, name))


def test_any_number_goes_into_the_name_of_top_k(rng):
    scores, labels = rng.normal(size=(30, 12)), rng.integers(12, size=30)
    for k in (1, 2, 11, 999_999_999):
        name, function = metrics.get(f"top_{k}_accuracy")
        assert name == f"top_{k}_accuracy"
        assert function(scores, labels) == top_k_accuracy(scores, labels, k)


@pytest.mark.parametrize("name", [
    "", "recall", "Accuracy", "top_accuracy", "top_0_accuracy", "top_05_accuracy",
    "top_-1_accuracy", "top_5_accuracy ", "top_5_accuracy\n", "top_k_accuracy",
    "top_1234567890_accuracy"])
def test_49_other_names(name):
    with pytest.raises(ValueError, match="metrics must hold callables, 'top_5_accuracy'"):
        metrics.get(name)


@pytest.mark.parametrize("metric", [None, 1, ["accuracy"], metrics])
def test_49_what_is_neither_a_name_nor_callable(metric):
    with pytest.raises(TypeError, match="metrics must hold names and callables"):
        metrics.get(metric)


class Largest:
    """A metric with a memory."""

    def __call__(self, scores, target):
        return scores.max()


def half(scores, target):
    return 0.5


# ---- In a network ----------------------------------------------------------------------------

def test_a_network_measures_all_under_their_names():
    net = make_network(own_metrics=["accuracy", "top_2_accuracy", half, Largest()])
    x, y = make_data()
    scores = net.predict(x)
    found = net.evaluate(x, y).metrics
    assert found == {
        "accuracy": accuracy(scores, y), "top_2_accuracy": top_k_accuracy(scores, y, 2),
        "half": 0.5, "Largest": float(scores.max())}
    history = net.fit(x, y, epochs=3, rng=0, verbose=0, validation_data=(x, y))
    for name in found:
        assert len(vars(history)[name]) == len(vars(history)[f"val_{name}"]) == 3
    assert {name: vars(history)[f"val_{name}"][-1] for name in found} == net.evaluate(x, y).metrics


@pytest.mark.parametrize("loss, as_target", [
    ("softmax_cross_entropy", lambda labels: labels.astype("int8")),
    ("softmax_cross_entropy", lambda labels: np.eye(3)[labels]),
    ("mse", lambda labels: np.eye(3)[labels].tolist())])
def test_a_metric_is_given_arrays(loss, as_target, dtype):
    seen = []

    def look(scores, target):
        seen.append((scores.dtype, scores.shape, target.dtype, target.shape))
        return 0

    net = make_network(loss, [look], dtype)
    x, y = make_data(dtype)
    target = as_target(y)
    net.fit(x, target, batch_size=7, verbose=0)
    net.evaluate(x, target)
    rows = np.ndim(target) == 2
    expected = (dtype, (30, 3), dtype if rows else np.int64, (30, 3) if rows else (30,))
    assert seen == [expected, expected]


def test_ones_own_accuracy_is_not_taken_for_the_built_in_one():
    def accuracy(scores, target):
        return 7

    net = make_network(own_metrics=[accuracy])
    assert net.evaluate(*make_data()) == (pytest.approx(net.evaluate(*make_data()).loss), 7.0)
    assert net.fit(*make_data(), verbose=0).accuracy == [7.0]


@pytest.mark.parametrize("wrong, error, match", [
    ("accuracy", TypeError, "metrics must be a list"),
    (accuracy, TypeError, "metrics must be a list"),
    (None, TypeError, "metrics must be a list"),
    ([None], TypeError, "metrics must hold names"),
    (["recall"], ValueError, "metrics must hold callables"),
    (["accuracy", accuracy], ValueError, "'accuracy' came twice"),
    ([half, half], ValueError, "'half' came twice"),
    ([lambda s, t: 0, lambda s, t: 1], ValueError, "'<lambda>' came twice"),
    ([partial(top_k_accuracy, k=1), partial(top_k_accuracy, k=2)], ValueError, "came twice")])
def test_49_metrics_that_cannot_be_compiled(wrong, error, match):
    net = make_network(own_metrics=["accuracy"])
    before = net.evaluate(*make_data())
    with pytest.raises(error, match=match):
        net.compile("adam", metrics=wrong)
    assert net.evaluate(*make_data()) == before


@pytest.mark.parametrize("name", ["loss", "epoch", "val_loss", "val_x", "curves", "plot",
                                  "__class__", "_append"])
def test_49_names_that_a_history_needs_itself(name):
    def metric(scores, target):
        return 0

    metric.__name__ = name
    with pytest.raises(ValueError, match=f"a metric cannot be called '{name}'"):
        make_network(own_metrics=[metric])


@pytest.mark.parametrize("value", [None, "0.5", "many", [1], np.zeros(2), 1j],
                         ids=["None", "digits", "text", "list", "array", "complex"])
def test_a_metric_has_to_return_a_number(value):
    def strange(scores, target):
        return value

    net = make_network(own_metrics=[strange])
    with pytest.raises(TypeError, match="the metric strange must return a number, got"):
        net.evaluate(*make_data())


@pytest.mark.parametrize("value", [1, True, np.float32(0.5), np.int8(3), np.array(2.0), np.nan])
def test_any_number_will_do(value):
    def number(scores, target):
        return value

    found = make_network(own_metrics=[number]).evaluate(*make_data()).metrics["number"]
    assert type(found) is float
    np.testing.assert_equal(found, float(value))


def test_the_error_of_a_metric_comes_through_and_does_no_harm():
    def broken(scores, target):
        raise LookupError("broken")

    net, twin = make_network(own_metrics=[broken]), make_network()
    x, y = make_data()
    for call in (net.evaluate, partial(net.fit, rng=0, verbose=0)):
        with pytest.raises(LookupError, match="broken"):
            call(x, y)
    twin.fit(x, y, rng=0, verbose=0)
    assert net.train_step(x, y) == twin.train_step(x, y)


def test_a_metric_that_does_not_fit_the_target_says_so():
    net = make_network(own_metrics=["r2_score"])
    with pytest.raises(ValueError, match="target must have the shape of scores"):
        net.evaluate(*make_data())


def test_metrics_are_pickled_with_the_network():
    net = make_network(own_metrics=["accuracy", "top_2_accuracy", half, Largest()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy = pickle.loads(pickle.dumps(net))
    x, y = make_data()
    assert copy.evaluate(x, y) == net.evaluate(x, y)
    assert copy.evaluate(x, y).metrics == net.evaluate(x, y).metrics
    for network in (net, copy):
        network.history = vars(network.fit(x, y, rng=0, verbose=0))
    assert copy.history == net.history


def test_a_metric_that_returns_a_number_too_large_or_has_no_name():
    def huge(scores, target):
        return 10**400

    net = fn.Sequential([fn.Dense(2, 2, rng=0)])
    net.compile(metrics=[huge])
    with pytest.raises(TypeError, match="the metric huge must return a number"):
        net.evaluate(np.ones((3, 2)), [0, 1, 1])

    class Numbered:
        __name__ = 5

        def __call__(self, scores, target):
            return 0.0

    with pytest.raises(TypeError, match="metrics must have a str as __name__, got 5"):
        net.compile(metrics=[Numbered()])
