"""Losses with weights: against the reference, by hand, by identities, and what they refuse.

The kernels' tolerances are a few eps of the largest number involved: sums are double, so that only
the exponentials, the products and the stores round in the dtype of the arrays.
"""

import copy
import itertools
import pickle

import numpy as np
import pytest

import fastnet as fn
from fastnet import _ops, reference

SHAPES = [(1, 1), (1, 4), (5, 1), (3, 5), (40, 3), (20, 10), (1, 33), (7, 33), (33, 33), (4, 127),
          (1000, 2), (150, 33)]
KINDS = ("mean_squared_error", "binary_cross_entropy", "huber", "poisson")
REDUCTIONS = ("mean", "sum", "none")


def draw(rng, dtype, *shape, scale=1.0):
    return (scale * rng.normal(size=shape)).astype(dtype)


def draw_weights(rng, dtype, *shape):
    """Some of them 0."""
    return (rng.uniform(0.1, 2, shape) * (rng.uniform(size=shape) > 0.2)).astype(dtype)


def assert_close(found, expected, n_eps, dtype):
    """Equal to `n_eps` units in the last place of the largest value."""
    expected = np.asarray(expected, dtype=np.float64)
    allowed = n_eps * np.finfo(dtype).eps * np.max(np.abs(expected), initial=0)
    assert np.shape(found) == expected.shape
    assert np.all(np.abs(np.asarray(found, dtype=np.float64) - expected) <= allowed)


# ---- Kernels and the reference ---------------------------------------------------------------

@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_target_rows_agree_with_the_reference(shape, dtype, rng):
    n, k = shape
    labels, rows = rng.integers(k, size=n), draw_weights(rng, dtype, n, k)
    samples, classes = draw_weights(rng, dtype, n), draw_weights(rng, dtype, k)
    for target, w, c, smoothing, ignored in itertools.product(
            (labels, rows), (None, samples), (None, classes), (0.0, 0.25, 1.0), (None, -1, 0)):
        if ignored == -1 and target is labels:
            target = np.where(rng.uniform(size=n) < 0.3, -1, labels)
        T = np.full((n, k), np.nan, dtype)
        found, total = _ops.target_rows(target, k, dtype, w, c, smoothing, ignored, T)
        expected, expected_total = reference.target_rows(
            target.tolist(), k, None if w is None else w.tolist(),
            None if c is None else c.tolist(), smoothing, ignored)
        assert found is T and type(total) is float
        assert_close(T, expected, 4, dtype)
        assert total == pytest.approx(expected_total, rel=1e-12)
        assert np.array_equal(T == 0, np.array(expected) == 0)          # exact zeros


def row_losses(logp, T):
    return [reference.negative_log_likelihood([x], [t], 1.0)[0]
            for x, t in zip(logp, T, strict=True)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_over_classes_agree_with_the_reference(shape, dtype, rng):
    n, k = shape
    x, T, total = draw(rng, dtype, n, k, scale=3.0), draw_weights(rng, dtype, n, k), 2.5 * n
    logp = reference.log_softmax_forward(x.tolist())
    expected, gradient = reference.negative_log_likelihood(x.tolist(), T.tolist(), total)
    losses = np.full(n, np.nan, dtype)
    value, found = _ops.negative_log_likelihood(x, T, total=total, losses=losses)
    size = np.abs(T * x).sum() / total
    assert abs(value - expected) <= 4 * np.finfo(dtype).eps * size
    assert_close(found, gradient, 4, dtype)
    assert_close(losses, row_losses(x.tolist(), T.tolist()), 4, dtype)

    expected, gradient = reference.softmax_cross_entropy(x.tolist(), T.tolist())
    value, found = _ops.softmax_cross_entropy(x, T, total=total, losses=losses)
    assert value == pytest.approx(expected / 2.5, rel=16 * float(np.finfo(dtype).eps))
    assert np.all(np.abs(found - np.array(gradient) / 2.5) <= 16 * np.finfo(dtype).eps
                  * T.sum(1, keepdims=True) / total)
    assert_close(losses, row_losses(logp, T.tolist()), 16, dtype)

    labels = rng.integers(k, size=n)
    expected, gradient = reference.softmax_cross_entropy(x.tolist(), labels.tolist())
    value, found = _ops.softmax_cross_entropy(x, labels, total=total, losses=losses)
    assert value == pytest.approx(expected / 2.5, rel=16 * float(np.finfo(dtype).eps), abs=1e-300)
    assert np.all(np.abs(found - np.array(gradient) / 2.5) <= 16 * np.finfo(dtype).eps / total)
    assert_close(losses, row_losses(logp, np.eye(k)[labels].tolist()), 16, dtype)


def entries(rng, dtype, kind, n, k):
    """Scores and what can be their targets."""
    y = draw(rng, dtype, n, k, scale=3.0)
    if kind == "binary_cross_entropy":
        t = rng.uniform(size=(n, k))
        return y, np.where(rng.uniform(size=(n, k)) < 0.5, t, np.rint(t)).astype(dtype)
    return y, rng.poisson(2, (n, k)).astype(dtype) if kind == "poisson" else draw(
        rng, dtype, n, k, scale=3.0)


def entry_losses_of_columns(y, t, kind, weights, positive, delta, total):
    """The reference has weights for rows alone: column by column, they are those of entries."""
    loss, columns = 0.0, []
    for j in range(y.shape[1]):
        value, gradient = reference.entry_losses(
            y[:, j:j + 1].tolist(), t[:, j:j + 1].tolist(), kind,
            None if weights is None else weights[:, j].tolist(),
            None if positive is None else [float(positive[j])], delta, total)
        loss += value
        columns.append(gradient)
    return loss, np.concatenate(columns, axis=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_of_entries_agree_with_the_reference(shape, kind, dtype, rng):
    n, k = shape
    y, t = entries(rng, dtype, kind, n, k)
    of_rows, of_entries = draw_weights(rng, dtype, n), draw_weights(rng, dtype, n, k)
    positive = draw_weights(rng, dtype, k) if kind == "binary_cross_entropy" else None
    delta = 0.75 if kind == "huber" else 1.0
    for weights, p, total in itertools.product(
            (None, of_rows, of_entries), {id(p): p for p in (None, positive)}.values(),
            (None, 3.5)):
        each = np.broadcast_to(weights[:, None] if weights is of_rows else weights, (n, k)) if (
            weights is not None) else None
        expected, gradient = entry_losses_of_columns(
            y, t, kind, each, p, delta, total or float(n * k))
        losses = np.full((n, k), np.nan, dtype)
        rounding = 16 * float(np.finfo(dtype).eps) + n * k * 1e-16      # of the sum, in double
        value, found = _ops.entry_losses(
            y, t, kind, weights, p, delta, total, losses=losses)
        assert value == pytest.approx(expected, rel=rounding, abs=1e-300)
        assert_close(found, gradient, 8, dtype)
        assert losses.sum(dtype=np.float64) / (total or n * k) == pytest.approx(
            expected, rel=rounding, abs=1e-300)
        if weights is not None:
            assert not losses[each == 0].any() and not found[each == 0].any()
        assert _ops.entry_losses(y, t, kind, weights, p, delta, total, gradient=False) == (
            value, None)


def test_entries_of_any_number_of_dimensions_are_one_row(dtype, rng):
    for kind in KINDS:
        y, t = entries(rng, dtype, kind, 6, 20)
        w = draw_weights(rng, dtype, 6, 20)
        expected, gradient = _ops.entry_losses(y, t, kind, w)
        for shape in [(120,), (2, 3, 20), (2, 3, 4, 5)]:
            found, dY = _ops.entry_losses(*(a.reshape(shape) for a in (y, t)), kind,
                                          w.reshape(shape))
            assert found == pytest.approx(expected, rel=1e-14)
            assert np.array_equal(dY, gradient.reshape(shape))


@pytest.mark.parametrize("size", [1, 2, 7, 16, 33, 1000])
def test_sums_and_rows_agree_with_the_reference(size, dtype, rng):
    w = draw_weights(rng, dtype, size)
    assert _ops.sum_of_weights(w) == pytest.approx(reference.sum_of_weights(w.tolist()), rel=1e-14)
    x = draw(rng, dtype, size, 7)
    expected = reference.scale_rows(x.astype(float).tolist(), w.astype(float).tolist())
    assert np.array_equal(_ops.scale_rows(x, w), np.array(expected).astype(dtype))
    assert np.array_equal(_ops.scale_rows(w, w), w * w)
    assert np.array_equal(_ops.scale_rows(x, x), x * x)


def test_long_sums_of_weights_are_taken_in_double():
    w = np.full(100_003, 0.1, np.float32)
    assert _ops.sum_of_weights(w) == pytest.approx(100_003 * float(np.float32(0.1)), rel=1e-11)


@pytest.mark.parametrize("bad", [-1e-3, np.inf, np.nan])
def test_weights_are_finite_and_at_least_0(bad, dtype):
    w = np.array([0.0, 1.0, bad, 1e30], dtype)
    with pytest.raises(ValueError, match=r"own\[2\] is .*, but weights must be finite and at leas"):
        _ops.check_weights(w, "own")
    assert _ops.check_weights(w[:2], "own") is None
    with pytest.raises(ValueError, match=r"sample_weight\[2\] is"):
        _ops.target_rows(np.zeros(4, int), 2, dtype, w)
    with pytest.raises(ValueError, match=r"class_weight\[2\] is"):
        _ops.target_rows(np.zeros(4, int), 4, dtype, None, w)


def test_probabilities_are_between_0_and_1(dtype):
    assert _ops.check_probabilities(np.array([[0.0, 1.0, 0.5]], dtype), "own") is None
    for bad in (-1e-3, 1.1, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"own must hold numbers in \[0, 1\], got"):
            _ops.check_probabilities(np.array([[0.0, bad]], dtype), "own")


# ---- Losses ----------------------------------------------------------------------------------

def classes(k):
    return np.linspace(0.5, 2, k)


# By what is special about them, for k outputs.
LOSSES = {
    "softmax": lambda reduction, k: fn.SoftmaxCrossEntropy(reduction),
    "softmax, weight": lambda reduction, k: fn.SoftmaxCrossEntropy(reduction, weight=classes(k)),
    "softmax, ignore_index": lambda reduction, k: fn.SoftmaxCrossEntropy(
        reduction, ignore_index=-100),
    "softmax, ignored class": lambda reduction, k: fn.SoftmaxCrossEntropy(
        reduction, ignore_index=0),
    "softmax, label_smoothing": lambda reduction, k: fn.SoftmaxCrossEntropy(
        reduction, label_smoothing=0.3),
    "softmax, all": lambda reduction, k: fn.SoftmaxCrossEntropy(
        reduction, weight=classes(k), ignore_index=-100, label_smoothing=0.3),
    "likelihood": lambda reduction, k: fn.NegativeLogLikelihood(reduction),
    "likelihood, all": lambda reduction, k: fn.NegativeLogLikelihood(
        reduction, weight=classes(k), ignore_index=-100),
    "squares": lambda reduction, k: fn.MeanSquaredError(reduction),
    "binary": lambda reduction, k: fn.BinaryCrossEntropy(reduction),
    "binary, pos_weight": lambda reduction, k: fn.BinaryCrossEntropy(
        reduction, pos_weight=classes(k)),
    "huber": lambda reduction, k: fn.Huber(reduction),
    "huber, delta": lambda reduction, k: fn.Huber(reduction, delta=0.3),
    "poisson": lambda reduction, k: fn.Poisson(reduction),
}
OF_CLASSES = [name for name in LOSSES if name.startswith(("softmax", "likelihood"))]
OF_ENTRIES = [name for name in LOSSES if name not in OF_CLASSES]
ALL = pytest.mark.parametrize("name", LOSSES)


def draw_target(rng, name, dtype, n, k, rows=False):
    if name in OF_ENTRIES:
        kind = {"squares": "mean_squared_error", "poisson": "poisson"}.get(name)
        return entries(rng, dtype, kind or "binary_cross_entropy", n, k)[1]
    if rows:
        return rng.dirichlet(np.ones(k), n).astype(dtype)
    labels = rng.integers(k, size=n)
    if "ignore_index" in name or "all" in name:
        labels[:n // 3] = -100
    return labels


def run(loss, y, target, *weights):
    return loss.forward(y, target, *weights), loss.backward()


H = 1e-5


@pytest.mark.parametrize("weighs", [False, True], ids=["", "sample_weight"])
@pytest.mark.parametrize("rows", [False, True], ids=["", "rows"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@ALL
def test_gradients_are_the_derivatives(name, reduction, rows, weighs, rng):
    """Central differences with step h: off by h^2 times the third derivative, and rounding / h."""
    for n, k in [(1, 4), (9, 3), (2, 33), (5, 1)]:
        loss = LOSSES[name](reduction, k)
        y, target = draw(rng, np.float64, n, k), draw_target(rng, name, np.float64, n, k, rows)
        if "huber" in name:             # away from the kinks
            distance = np.abs(y - target) - loss.delta
            y += np.where(np.abs(distance) < 10 * H, 20 * H, 0)
        weights = [draw_weights(rng, np.float64, n)] if weighs else []
        R = draw(rng, np.float64, *np.shape(loss.forward(y, target, *weights)))

        def value(loss=loss, y=y, target=target, weights=weights, R=R):
            return float(np.sum(R * loss.forward(y, target, *weights)))

        value()
        found = loss.backward(R) if reduction == "none" else R * loss.backward()
        for index in np.ndindex(y.shape):
            middle = y[index]
            y[index] = middle + H
            above = value()
            y[index] = middle - H
            below = value()
            y[index] = middle
            assert found[index] == pytest.approx((above - below) / (2 * H), rel=1e-7, abs=2e-8)


# ---- By hand ---------------------------------------------------------------------------------

LOG2 = np.log(2)
SCORES = np.log([[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]])     # probabilities 1/4, 1/2, 1/4


@pytest.mark.parametrize("options, target, weights, value, gradient", [
    ({}, [1, 0], None, 1.5 * LOG2, [[0.125, -0.25, 0.125], [-0.375, 0.25, 0.125]]),
    ({}, [1, 0], [1, 3], 1.75 * LOG2, [[0.0625, -0.125, 0.0625], [-9 / 16, 6 / 16, 3 / 16]]),
    ({"weight": [1, 3, 1]}, [1, 0], None, 1.25 * LOG2,
     [[3 / 16, -6 / 16, 3 / 16], [-3 / 16, 2 / 16, 1 / 16]]),
    ({"weight": [1, 3, 1]}, [[0, 1, 0], [1, 0, 0]], None, 2.5 * LOG2,
     [[3 / 8, -6 / 8, 3 / 8], [-3 / 8, 2 / 8, 1 / 8]]),
    ({"ignore_index": -1}, [1, -1], None, LOG2, [[0.25, -0.5, 0.25], [0, 0, 0]]),
    ({"ignore_index": 1}, [1, 0], None, 2 * LOG2, [[0, 0, 0], [-0.75, 0.5, 0.25]]),
    ({"label_smoothing": 0.3, "ignore_index": 7}, [1, 7], None, 1.2 * LOG2,
     [[0.15, -0.3, 0.15], [0, 0, 0]]),
    ({"reduction": "sum"}, [1, 0], [1, 3], 7 * LOG2,
     [[0.25, -0.5, 0.25], [-9 / 4, 6 / 4, 3 / 4]])])
def test_softmax_cross_entropy_by_hand(options, target, weights, value, gradient, dtype):
    loss = fn.SoftmaxCrossEntropy(**options)
    assert loss.forward(SCORES.astype(dtype), target, weights) == pytest.approx(
        value, rel=8 * float(np.finfo(dtype).eps))
    assert_close(loss.backward(), gradient, 8, dtype)


def test_negative_log_likelihood_by_hand(dtype):
    logp = np.array([[-1, -2], [-3, -4]], dtype)
    for loss, target, weights, value, gradient in [
            (fn.NegativeLogLikelihood(), [0, 1], None, 2.5, [[-0.5, 0], [0, -0.5]]),
            (fn.NegativeLogLikelihood(weight=[1, 3]), [0, 1], None, 3.25, [[-0.25, 0], [0, -0.75]]),
            (fn.NegativeLogLikelihood(), [0, 1], [3, 1], 1.75, [[-0.75, 0], [0, -0.25]]),
            (fn.NegativeLogLikelihood("sum"), [0, 1], None, 5, [[-1, 0], [0, -1]]),
            (fn.NegativeLogLikelihood(ignore_index=0), [0, 1], None, 4, [[0, 0], [0, -1]])]:
        assert run(loss, logp, target, weights)[0] == value
        loss.forward(logp, target, weights)
        assert loss.backward().tolist() == gradient
    loss = fn.NegativeLogLikelihood("none")
    assert loss.forward(logp, [0, 1], [2, 1]).tolist() == [2, 4]
    assert loss.backward([1, 10]).tolist() == [[-2, 0], [0, -10]]


def test_binary_cross_entropy_by_hand(dtype):
    """The sigmoid of log 3 is 3/4."""
    x = np.log(np.array([[1, 3], [3, 3]])).astype(dtype)
    target = [[0.5, 1], [0, 0.5]]
    losses = np.array([[LOG2, np.log(4 / 3)], [np.log(4), np.log(4) - np.log(3) / 2]])
    for loss, weights, value, gradient in [
            (fn.BinaryCrossEntropy(), None, losses.mean(), [[0, -1 / 16], [3 / 16, 1 / 16]]),
            (fn.BinaryCrossEntropy("sum"), None, losses.sum(), [[0, -0.25], [0.75, 0.25]]),
            (fn.BinaryCrossEntropy(), [3, 1], (losses * [[3], [1]]).sum() / 8,
             [[0, -3 / 32], [3 / 32, 1 / 32]]),
            (fn.BinaryCrossEntropy("sum", pos_weight=[3, 2]), None,
             2 * LOG2 + 2 * np.log(4 / 3) + np.log(4) + np.log(4 / 3) + LOG2,
             [[-0.5, -0.5], [0.75, 0.125]])]:
        assert loss.forward(x, target, weights) == pytest.approx(
            value, rel=8 * float(np.finfo(dtype).eps))
        assert_close(loss.backward(), gradient, 8, dtype)


def test_other_losses_of_entries_by_hand(dtype):
    y, target = np.array([[0.5, -3], [1, 2]], dtype), [[0, 0], [1, 5]]
    for loss, weights, value, gradient in [
            (fn.MeanSquaredError(), None, 18.25 / 4, [[0.25, -1.5], [0, -1.5]]),
            (fn.MeanSquaredError(), [1, 3], (9.25 + 27) / 8, [[0.125, -0.75], [0, -2.25]]),
            (fn.MeanSquaredError("sum"), None, 18.25, [[1, -6], [0, -6]]),
            (fn.Huber(), None, 5.125 / 4, [[0.125, -0.25], [0, -0.25]]),
            (fn.Huber("sum", delta=2), None, 8.125, [[0.5, -2], [0, -2]]),
            (fn.Huber(delta=0.25), [0, 1], (0.25 * 2.875) / 2, [[0, 0], [0, -0.125]])]:
        assert loss.forward(y, target, weights) == value
        assert loss.backward().tolist() == gradient
    loss = fn.Poisson("sum")
    assert loss.forward(np.log([[3.0]]).astype(dtype), [[2]]) == pytest.approx(
        3 - 2 * np.log(3), rel=8 * float(np.finfo(dtype).eps))
    assert_close(loss.backward(), [[1]], 8, dtype)


# ---- Identities ------------------------------------------------------------------------------

def alike(found, expected, dtype, n_eps=32):
    """Losses or arrays that went two ways are close."""
    np.testing.assert_allclose(found, expected, rtol=n_eps * np.finfo(dtype).eps,
                               atol=n_eps * np.finfo(dtype).eps * np.max(np.abs(expected)))


def test_softmax_of_two_classes_is_the_sigmoid_of_their_difference(dtype, rng):
    x, labels = draw(rng, dtype, 50, 2, scale=4.0), rng.integers(2, size=50)
    difference = (x[:, 1:].astype(float) - x[:, :1]).astype(dtype)
    x[:, 0], x[:, 1] = 0, difference[:, 0]              # so that nothing is rounded
    for reduction in ("mean", "sum"):
        two, d_two = run(fn.SoftmaxCrossEntropy(reduction, weight=[1, 3]), x, labels)
        one, d_one = run(fn.BinaryCrossEntropy(reduction, pos_weight=[3]), difference,
                         labels[:, None])
        share = np.where(labels == 1, 3, 1).sum() / 50 if reduction == "mean" else 1
        alike(two * share, one, dtype)
        alike(d_two[:, 1:] * share, d_one, dtype)
        alike(d_two[:, 0], -d_two[:, 1], dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_log_softmax_and_its_likelihood_are_the_softmax_cross_entropy(reduction, dtype, rng):
    x = draw(rng, dtype, 9, 5, scale=3.0)
    labels, weights = np.array([0, 1, 2, 3, 4, -7, 0, 1, -7]), draw_weights(rng, dtype, 9)
    options = {"weight": classes(5), "ignore_index": -7}
    value, gradient = run(fn.SoftmaxCrossEntropy(reduction, **options), x, labels, weights)
    layer, loss = fn.LogSoftmax(), fn.NegativeLogLikelihood(reduction, **options)
    alike(loss.forward(layer.forward(x), labels, weights), value, dtype)
    alike(layer.backward(loss.backward()), gradient, dtype)


def test_smoothing_0_is_none_and_smoothing_1_forgets_the_label(dtype, rng):
    x, labels = draw(rng, dtype, 20, 6), rng.integers(6, size=20)
    plain = run(fn.SoftmaxCrossEntropy(), x, labels)
    none = run(fn.SoftmaxCrossEntropy(label_smoothing=0.0), x, labels)
    assert none[0] == plain[0] and np.array_equal(none[1], plain[1])
    rows = run(fn.SoftmaxCrossEntropy(label_smoothing=1.0), x, labels)
    expected = run(fn.SoftmaxCrossEntropy(), x, np.full((20, 6), 1 / 6, dtype))
    alike(rows[0], expected[0], dtype)
    alike(rows[1], expected[1], dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@ALL
def test_weight_2_is_the_sample_twice(name, reduction, dtype, rng):
    n, k = 11, 3
    loss = LOSSES[name](reduction, k)
    y, target = draw(rng, dtype, n, k), draw_target(rng, name, dtype, n, k)
    times = rng.integers(3, size=n)                     # 0 is: not at all
    value, gradient = run(loss, y, target, times)
    repeated, d_repeated = run(loss, np.repeat(y, times, 0), np.repeat(target, times, 0))
    alike(value, repeated, dtype)
    sums = np.zeros((n, k))
    np.add.at(sums, np.repeat(np.arange(n), times), d_repeated)
    alike(gradient, sums, dtype)


@ALL
def test_equal_weights_change_nothing(name, dtype, rng):
    n, k = 23, 3
    loss = LOSSES[name]("mean", k)
    y, target = draw(rng, dtype, n, k), draw_target(rng, name, dtype, n, k)
    value, gradient = run(loss, y, target)
    for weight in (1, 2.5, 1e-4, 1e4):
        weighed, d_weighed = run(loss, y, target, np.full(n, weight))
        alike(weighed, value, dtype)
        alike(d_weighed, gradient, dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ignored", [-100, 2, 10**12])
@pytest.mark.parametrize("make", [fn.SoftmaxCrossEntropy, fn.NegativeLogLikelihood])
def test_ignored_rows_are_left_out(make, ignored, reduction, dtype, rng):
    x, labels = draw(rng, dtype, 30, 4), rng.integers(2, size=30)
    out = rng.uniform(size=30) < 0.4
    loss = make(reduction, weight=classes(4), ignore_index=ignored)
    value, gradient = run(loss, x, np.where(out, ignored, labels))
    expected, d_expected = run(loss, x[~out], labels[~out])
    alike(value, expected, dtype)
    alike(gradient[~out], d_expected, dtype)
    assert out.any() and not gradient[out].any()


@pytest.mark.parametrize("weighs", [False, True], ids=["", "sample_weight"])
@ALL
def test_the_sum_is_the_mean_times_what_it_divides_by_and_none_sums_up_to_it(
        name, weighs, dtype, rng):
    n, k = 12, 3
    mean, total, none = (LOSSES[name](reduction, k) for reduction in REDUCTIONS)
    y, target = draw(rng, dtype, n, k), draw_target(rng, name, dtype, n, k)
    if name in OF_CLASSES:
        target[0] = 1
    weights = draw_weights(rng, dtype, n) + 0.25 if weighs else np.ones(n)
    more = [weights] if weighs else []
    if name in OF_ENTRIES:
        divisor = weights.sum() * k
    else:
        used = target != (-100 if mean.ignore_index is None else mean.ignore_index)
        by_label = np.ones(k) if mean.weight is None else mean.weight
        divisor = (weights * used * by_label[np.maximum(target, 0)]).sum()
    value, gradient = run(total, y, target, *more)
    average, d_average = run(mean, y, target, *more)
    alike(value, divisor * average, dtype)
    alike(gradient, divisor * d_average, dtype)
    losses = none.forward(y, target, *more)
    assert losses.dtype == dtype and losses.shape == ((n, k) if name in OF_ENTRIES else (n,))
    alike(losses.sum(dtype=np.float64), value, dtype)
    ones = none.backward(np.ones_like(losses))
    assert ones.tobytes() == gradient.tobytes() and ones.dtype == dtype
    none.forward(y, target, *more)
    factors = draw(rng, dtype, *losses.shape)
    each = factors if name in OF_ENTRIES else factors[:, None]
    assert np.array_equal(none.backward(factors), gradient * each)


def test_huber_with_a_huge_delta_is_half_the_squared_error(dtype, rng):
    y, t = draw(rng, dtype, 9, 5), draw(rng, dtype, 9, 5)
    value, gradient = run(fn.Huber(delta=1e30), y, t)
    squares, d_squares = run(fn.MeanSquaredError(), y, t)
    assert value == pytest.approx(squares / 2, rel=1e-14)
    assert np.array_equal(gradient, d_squares / 2)


def test_huber_with_a_tiny_delta_is_the_absolute_error(dtype, rng):
    y, t = draw(rng, dtype, 9, 5), draw(rng, dtype, 9, 5)
    value, gradient = run(fn.Huber("sum", delta=2.0**-20), y, t)
    assert value * 2**20 == pytest.approx(np.abs(y.astype(float) - t).sum(), rel=1e-5)
    assert np.array_equal(gradient * 2**20, np.sign(y - t))


@ALL
def test_labels_rows_and_numbers_come_in_all_forms(name, dtype, rng):
    n, k = 6, 3
    loss = LOSSES[name]("mean", k)
    y, target = draw(rng, dtype, n, k), draw_target(rng, name, dtype, n, k)
    weights = draw_weights(rng, dtype, n)
    value, gradient = run(loss, y, target, weights)
    other = np.float64 if dtype == np.float32 else np.float32
    for form in (np.ndarray.tolist, np.asfortranarray, lambda a: np.repeat(a, 2, 0)[::2]):
        again, d_again = run(loss, y, form(target), form(weights))
        assert again == value and d_again.tobytes() == gradient.tobytes()
    converted, _ = run(loss, y, target.astype(other), weights.astype(other))
    alike(converted, value, np.float32)


# ---- Weights of 0, and scores without bounds -------------------------------------------------

EXTREMES = {"softmax": [0, -np.inf, 1e30], "likelihood": [-np.inf, -1e30, 0],
            "other": [np.inf, -np.inf, 1e30]}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@ALL
def test_a_sample_of_weight_0_contributes_exactly_0(name, reduction, dtype, rng):
    n, k = 20, 3
    loss = LOSSES[name](reduction, k)
    y, target = draw(rng, dtype, n, k), draw_target(rng, name, dtype, n, k)
    weights = rng.uniform(0.5, 2, n).astype(dtype)
    weights[[3, 8]] = 0
    y[[3, 8]] = EXTREMES[name.split(",")[0] if name in OF_CLASSES else "other"]
    value = loss.forward(y, target, weights)
    gradient = loss.backward(np.ones_like(value) if reduction == "none" else None)
    kept = weights > 0
    if reduction == "none":
        assert not value[[3, 8]].any() and value[kept].any()
        expected = loss.forward(y[kept], target[kept], weights[kept])
        alike(value[kept], expected, dtype)
        d_expected = loss.backward(np.ones_like(expected))
    else:
        expected, d_expected = run(loss, y[kept], target[kept], weights[kept])
        assert np.isfinite(value)
        alike(value, expected, dtype)
    assert not gradient[[3, 8]].any()
    alike(gradient[kept], d_expected, dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@ALL
def test_where_all_weights_are_0_loss_and_gradient_are_0(name, reduction, dtype, rng):
    for n in (1, 20):
        loss = LOSSES[name](reduction, 3)
        y, target = draw(rng, dtype, n, 3), draw_target(rng, name, dtype, n, 3)
        value, gradient = run(loss, y, target, np.zeros(n))
        assert value == 0 and gradient.shape == (n, 3) and not gradient.any()


@pytest.mark.parametrize("make", [fn.SoftmaxCrossEntropy, fn.NegativeLogLikelihood])
def test_where_all_labels_are_ignored_loss_and_gradient_are_0(make, dtype, rng):
    y = draw(rng, dtype, 4, 3)
    for loss, target in [(make(ignore_index=-1), [-1] * 4), (make(weight=[0, 1, 1]), [0] * 4),
                         (make(weight=[0, 0, 0]), [[0, 1, 0]] * 4)]:
        value, gradient = run(loss, y, target)
        assert value == 0 and not gradient.any()


ROWS_THAT_DO_NOT_COUNT = {
    "a sample of weight 0": lambda labels: ({}, labels, np.r_[0, np.ones(len(labels) - 1)]),
    "a class of weight 0": lambda labels: ({"weight": [1, 1, 0]}, np.r_[2, labels[1:]], None),
    "an ignored class": lambda labels: ({"ignore_index": 2}, np.r_[2, labels[1:]], None),
    "an ignored label": lambda labels: ({"ignore_index": -1}, np.r_[-1, labels[1:]], None),
    "an ignored label with smoothing": lambda labels: (
        {"ignore_index": -1, "label_smoothing": 0.5}, np.r_[-1, labels[1:]], None),
    "zeros as a target": lambda labels: (
        {}, np.concatenate([np.zeros((1, 3)), np.eye(3)[labels[1:]]]), None)}


@pytest.mark.parametrize("how", ROWS_THAT_DO_NOT_COUNT)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("make", [fn.SoftmaxCrossEntropy, fn.NegativeLogLikelihood])
def test_a_row_that_does_not_count_may_have_any_scores(make, reduction, how, dtype, rng):
    """Its loss and gradient are 0, and the others' have the bits that they have beside zeros."""
    for n in (1, 2, 3, 4, 5, 16, 17, 40):
        options, target, weights = ROWS_THAT_DO_NOT_COUNT[how](rng.integers(2, size=n))
        if "label_smoothing" in options and make is fn.NegativeLogLikelihood:
            continue
        loss, y = make(reduction, **options), draw(rng, dtype, n, 3)
        y[0] = 0
        expected = loss.forward(y, target, weights)
        ones = [np.ones_like(expected)] if reduction == "none" else []
        d_expected = loss.backward(*ones)
        assert not d_expected[0].any()
        for scores in ([-np.inf] * 3, [np.nan] * 3, [np.inf] * 3, [np.nan, 1, -np.inf],
                       [-np.inf, np.inf, 0], [1e30, -1e30, 1e30]):
            y[0] = scores
            value = loss.forward(y, target, weights)
            assert np.array_equal(value, expected)
            assert np.array_equal(loss.backward(*ones), d_expected)


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 32, 33, 40, 200])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_rows_that_do_not_count_at_every_width(width, reduction, dtype, rng):
    """Among others and all of them, in the kernel's ways by columns and along rows."""
    for n in (1, 3, 4, 17, 33):
        for share in (0.5, 1.0):
            loss = fn.SoftmaxCrossEntropy(reduction, label_smoothing=0.1)
            y, labels = draw(rng, dtype, n, width), rng.integers(width, size=n)
            weights = (rng.uniform(size=n) > share).astype(dtype)
            out = weights == 0
            y[out] = rng.choice([np.nan, np.inf, -np.inf, 1], (out.sum(), width))
            value = loss.forward(y, labels, weights)
            gradient = loss.backward(*[np.ones_like(value)] if reduction == "none" else [])
            y[out] = 0
            assert np.isfinite(value).all() and not gradient[out].any()
            assert np.array_equal(value, loss.forward(y, labels, weights))
            assert np.array_equal(
                gradient, loss.backward(*[np.ones_like(value)] if reduction == "none" else []))


@pytest.mark.parametrize("name", OF_ENTRIES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_sample_of_weight_0_may_hold_anything(name, reduction, dtype, rng):
    loss, k = LOSSES[name](reduction, 3), 3
    for n in (1, 2, 17):
        y, target = draw(rng, dtype, n, k), draw_target(rng, name, dtype, n, k)
        weights = np.r_[0, np.ones(n - 1)].astype(dtype)
        y[0] = 0
        expected = loss.forward(y, target, weights)
        ones = [np.ones_like(expected)] if reduction == "none" else []
        d_expected = loss.backward(*ones)
        for scores in (np.nan, np.inf, -np.inf, 3e38):
            y[0] = scores
            value = loss.forward(y, target, weights)
            assert np.array_equal(value, expected)
            assert np.array_equal(loss.backward(*ones), d_expected)
            assert not d_expected[0].any()


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_an_answer_that_counts_for_nothing_may_have_any_score(score, dtype):
    """A yes in a column whose yeses weigh 0, as in the reference."""
    y, target = np.array([[score, 0.5]], dtype), np.array([[1, 0.25]], dtype)
    value, gradient = run(fn.BinaryCrossEntropy("sum", pos_weight=[0, 1]), y, target)
    expected, d_expected = reference.entry_losses(
        [[0.0, 0.5]], [[1.0, 0.25]], "binary_cross_entropy", None, [0.0, 1.0], total=1.0)
    assert value == pytest.approx(expected, rel=8 * float(np.finfo(dtype).eps))
    assert gradient[0, 0] == 0
    assert_close(gradient, d_expected, 8, dtype)


def test_the_reference_leaves_out_rows_that_do_not_count():
    logits = [[float("nan"), float("inf")], [0.0, 0.0]]
    loss, gradient = reference.softmax_cross_entropy(logits, [[0.0, 0.0], [1.0, 0.0]])
    assert loss == np.log(2) / 2 and gradient == [[0, 0], [-0.25, 0.25]]


# ---- Weights of any size ---------------------------------------------------------------------

SIZES_OF_WEIGHTS = {"float32": (1e-45, 1e-40, 1e-38, 2e-38, 1e-37, 1e-30, 1e30, 1e37, 1e38, 3e38),
                    "float64": (5e-324, 1e-310, 1e-307, 1e-300, 1e-38, 1e38, 1e300, 1e307, 1.7e308)}


@pytest.mark.parametrize("rows", [False, True], ids=["", "rows"])
@ALL
def test_a_mean_does_not_depend_on_the_size_of_the_weights(name, rows, dtype, rng):
    """Sums of weights are taken in double and nothing is lost on the way, up to what the dtype
    can say: also where its sum overflows, and where products would count as 0."""
    for n in (1, 3, 20, 40):
        loss = LOSSES[name]("mean", 3)
        y, target = draw(rng, dtype, n, 3), draw_target(rng, name, dtype, n, 3, rows)
        some = rng.integers(2, size=n) if n > 1 else np.ones(1)
        value, gradient = run(loss, y, target, some)
        for size in SIZES_OF_WEIGHTS[dtype.name]:
            weights = np.where(some > 0, size, 0).astype(dtype)
            assert weights.any() or not some.any()
            found, d_found = run(loss, y, target, weights)
            alike(found, value, dtype)
            alike(d_found, gradient, dtype)


@pytest.mark.parametrize("size", [1e-30, 1e30, 1e37, 1e38])
@pytest.mark.parametrize("make", [fn.SoftmaxCrossEntropy, fn.NegativeLogLikelihood])
def test_a_mean_does_not_depend_on_the_size_of_class_weights(make, size, dtype, rng):
    for k in (3, 40):
        y, labels = draw(rng, dtype, 20, k), rng.integers(k, size=20)
        few, factor = classes(k), float(np.float32(size))
        value, gradient = run(make(weight=few), y, labels)
        found, d_found = run(make(weight=few * factor), y, labels)
        alike(found, value, dtype)
        alike(d_found, gradient, dtype)


@pytest.mark.parametrize("total", [1.0, 2.0**63, 2.0**64, 2.0**70, 2.0**120])
@pytest.mark.parametrize("shape", [(1, 3), (20, 3), (20, 40)], ids=str)
def test_kernels_divide_by_totals_of_any_size(shape, total, dtype, rng):
    """A power of 2 divides without rounding."""
    n, k = shape
    x, T = draw(rng, dtype, n, k), draw_weights(rng, dtype, n, k)
    large = (T * dtype.type(2.0**120)).astype(dtype)
    for kernel in (_ops.softmax_cross_entropy, _ops.negative_log_likelihood):
        value, gradient = kernel(x, T, total=1.0)
        found, d_found = kernel(x, large, total=total)
        assert found == pytest.approx(value * 2.0**120 / total, rel=1e-12)
        if total < 2.0**63:             # beyond what float32 can say
            continue
        np.testing.assert_allclose(d_found, gradient.astype(float) * (2.0**120 / total),
                                   rtol=4 * np.finfo(dtype).eps)
    y = draw(rng, dtype, n, k)
    for kind in ("mean_squared_error", "huber"):
        value, gradient = _ops.entry_losses(x, y, kind, T, total=1.0)
        found, d_found = _ops.entry_losses(x, y, kind, large, total=2.0**60 * total)
        assert found == pytest.approx(value * 2.0**60 / total, rel=1e-12)
        np.testing.assert_allclose(d_found, gradient.astype(float) * (2.0**60 / total),
                                   rtol=4 * np.finfo(dtype).eps)


def test_balanced_weights_have_a_sum_near_1_and_the_same_shares(dtype, rng):
    few = draw_weights(rng, dtype, 33)
    for same in (few, few * dtype.type(1e-15), few * dtype.type(1e15), np.zeros(3, dtype),
                 np.zeros(0, dtype)):
        assert _ops.balanced(same) is same
    for size in SIZES_OF_WEIGHTS[dtype.name]:
        weights = np.full(20, size, dtype)
        weights[3] = 0
        if 2.0**-64 < weights.sum(dtype=np.longdouble) < 2.0**64:
            continue
        found = _ops.balanced(weights)
        assert found is not weights and found[3] == 0 and len(set(found.tolist())) == 2
        assert 2.0**-80 < found.sum(dtype=np.float64) < 2.0**80
        assert np.frexp(found[0])[0] == np.frexp(weights[0])[0]     # a power of 2: no rounding
    with pytest.raises(TypeError, match="weights must be a numpy.ndarray, got list"):
        _ops.balanced([1.0])


def test_sums_have_the_size_of_the_weights(dtype, rng):
    y, target = draw(rng, dtype, 9, 3), rng.integers(3, size=9)
    loss = fn.SoftmaxCrossEntropy("sum")
    value, gradient = run(loss, y, target)
    for size in (2.0**-90, 2.0**100):
        found, d_found = run(loss, y, target, np.full(9, size))
        assert found == pytest.approx(value * size, rel=1e-6)
        np.testing.assert_allclose(d_found, gradient.astype(float) * size,
                                   rtol=32 * np.finfo(dtype).eps)


def test_a_class_of_weight_0_contributes_0_whatever_its_score(dtype):
    x = np.array([[-np.inf, 0, 0]], dtype)
    value, gradient = run(fn.SoftmaxCrossEntropy(weight=[0, 1, 1], label_smoothing=0.5), x, [1])
    assert value == pytest.approx(5 / 6 * LOG2, rel=1e-6)
    assert gradient[0, 0] == 0 and np.isfinite(gradient).all()


def test_scores_of_any_finite_size_have_their_exact_loss(dtype):
    huge = np.array([[1e30, 0.0]], dtype)
    size = float(huge[0, 0])
    for loss, y, target, value, gradient in [
            (fn.SoftmaxCrossEntropy(weight=[1, 1]), huge, [1], size, [[1, -1]]),
            (fn.SoftmaxCrossEntropy(weight=[1, 1]), huge, [0], 0, [[0, 0]]),
            (fn.SoftmaxCrossEntropy(label_smoothing=0.5), huge, [0], size / 4, [[0.25, -0.25]]),
            (fn.NegativeLogLikelihood(), -huge, [0], size, [[-1, 0]]),
            (fn.BinaryCrossEntropy("sum"), huge, [[0, 1]], size, [[1, -0.5]]),
            (fn.BinaryCrossEntropy("sum"), huge, [[1, 1]], 0, [[0, -0.5]]),
            (fn.BinaryCrossEntropy("sum"), -huge, [[1, 1]], size, [[-1, -0.5]]),
            (fn.BinaryCrossEntropy("sum", pos_weight=[2, 1]), -huge, [[1, 1]], 2 * size,
             [[-2, -0.5]]),
            (fn.MeanSquaredError("sum"), huge, [[0, 0]], size**2, [[2 * size, 0]]),
            (fn.Huber("sum"), -huge, [[0, 0]], size, [[-1, 0]]),
            (fn.Poisson("sum"), -huge, [[3, 1]], 3 * size, [[-3, 0]])]:
        found, d_found = run(loss, y, target)
        assert found == pytest.approx(value, rel=1e-7, abs=1)
        assert np.array_equal(d_found, np.array(gradient).astype(dtype)), loss


def test_binary_cross_entropy_keeps_its_digits_where_it_is_tiny(dtype):
    """1 - s(30) rounds to 0 or nearly, log(1 + exp(-30)) does not."""
    loss = fn.BinaryCrossEntropy("sum")
    for score in (-30.0, 30.0):
        value, gradient = run(loss, np.array([[score]], dtype), [[float(score > 0)]])
        assert value == pytest.approx(np.exp(-30), rel=1e-6 if dtype == np.float32 else 1e-14)
        assert gradient[0, 0] == pytest.approx(-np.sign(score) * np.exp(-30), rel=1e-5)


def test_nan_is_not_hidden(dtype):
    y = np.array([[np.nan, 1.0]], dtype)
    for name in LOSSES:
        target = [0] if name in OF_CLASSES else [[1, 1]]
        if name == "softmax, ignored class":
            target = [1]
        loss = LOSSES[name]("mean", 2)
        assert np.isnan(loss.forward(y, target)), name
        assert np.isnan(loss.backward()).any() or "likelihood" in name


# ---- What is refused -------------------------------------------------------------------------

@pytest.mark.parametrize("make", [
    fn.SoftmaxCrossEntropy, fn.NegativeLogLikelihood, fn.MeanSquaredError, fn.BinaryCrossEntropy,
    fn.Huber, fn.Poisson])
def test_49_another_reduction(make):
    for bad in ("average", None, 1, "Mean"):
        with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got"):
            make(bad)


@pytest.mark.parametrize("make, name", [
    (fn.SoftmaxCrossEntropy, "weight"), (fn.NegativeLogLikelihood, "weight"),
    (fn.BinaryCrossEntropy, "pos_weight")])
def test_49_weights_of_classes_that_are_none(make, name):
    for bad, error, match in [
            ([1, -0.5], ValueError, rf"{name}\[1\] is -0.5, but weights must be finite"),
            ([np.nan, 1], ValueError, rf"{name}\[0\] is nan, but weights must be finite"),
            ([1, np.inf], ValueError, rf"{name}\[1\] is inf, but weights must be finite"),
            ([], ValueError, f"{name} must be a vector, got shape"),
            (3, ValueError, f"{name} must be a vector, got shape"),
            ([[1, 2]], ValueError, f"{name} must be a vector, got shape"),
            (["a", "b"], ValueError, f"{name} must hold real numbers"),
            (np.ma.ones(2), TypeError, f"{name} must be a plain array")]:
        with pytest.raises(error, match=match):
            make(**{name: bad})
    loss = make(**{name: [1, 2, 3]})
    target = [[1, 0], [0, 1]] if name == "pos_weight" else [0, 1]
    with pytest.raises(ValueError, match=r"weight must have shape \(2,\), got \(3,\)"):
        loss.forward(np.ones((2, 2)), target)
    with pytest.raises(RuntimeError, match="needs a forward"):
        loss.backward()


def test_49_other_options_that_are_none():
    for bad in (-0.1, 1.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="label_smoothing must be in the interval"):
            fn.SoftmaxCrossEntropy(label_smoothing=bad)
    for bad in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="delta must be in the interval"):
            fn.Huber(delta=bad)
    for make, name in [(fn.Huber, "delta"), (fn.SoftmaxCrossEntropy, "label_smoothing")]:
        for bad in ("1", None, [1]):
            with pytest.raises(TypeError, match=f"{name} must be a number"):
                make(**{name: bad})
    for make in (fn.SoftmaxCrossEntropy, fn.NegativeLogLikelihood):
        for bad in (1.5, "1", [1], True, np.True_, 2.0, np.array([1])):
            with pytest.raises(TypeError, match="ignore_index must be an int, got"):
                make(ignore_index=bad)
        for bad in (2**63, -2**63 - 1, 10**400, -10**400, np.uint64(2**63)):
            with pytest.raises(ValueError, match=r"ignore_index must be in the interval "
                                                 r"\[-2\*\*63, 2\*\*63\), got"):
                make(ignore_index=bad)
        for good in (2**63 - 1, -2**63, np.int8(-1), np.array(7)):
            loss = make(ignore_index=good)
            assert loss.ignore_index == good and type(loss.ignore_index) is int
            assert loss.forward(np.zeros((2, 1)), np.array([0, int(good)], np.int64)) == 0
    with pytest.raises(TypeError):
        fn.NegativeLogLikelihood(label_smoothing=0.1)


@ALL
def test_06_49_weights_of_samples_that_are_none(name, dtype, rng):
    loss = LOSSES[name]("mean", 3)
    y, target = draw(rng, dtype, 4, 3), draw_target(rng, name, dtype, 4, 3)
    for bad, error, match in [
            ([1, 1, 1], ValueError, r"sample_weight must have shape \(4,\), got \(3,\)"),
            (np.ones((4, 1)), ValueError, "sample_weight must have"),
            (np.ones((4, 3)), ValueError, "sample_weight must have"),
            (2.0, ValueError, r"sample_weight must have shape \(4,\), got \(\)"),
            (np.ones((2, 2)), ValueError, r"sample_weight must have shape \(4,\), got \(2, 2\)"),
            ([1, 1, -1, 1], ValueError, r"sample_weight\[2\] is -1.0, but weights must be finite"),
            ([1, np.nan, 1, 1], ValueError, r"sample_weight\[1\] is nan"),
            ([np.inf, 1, 1, 1], ValueError, r"sample_weight\[0\] is inf"),
            (["a"] * 4, ValueError, "sample_weight must hold real numbers"),
            (np.ma.ones(4), TypeError, "sample_weight must be a plain array")]:
        with pytest.raises(error, match=match):
            loss.forward(y, target, bad)
        with pytest.raises(RuntimeError, match="needs a forward"):
            loss.backward()


@pytest.mark.parametrize("name", OF_CLASSES)
def test_01_04_06_28_targets_of_classes_that_are_none(name, dtype, rng):
    loss, y = LOSSES[name]("mean", 3), draw(rng, dtype, 2, 3)
    for bad, error, match in [
            ([0, 3], ValueError, r"target\[1\] is 3"), ([-1, 0], ValueError, r"target\[0\] is -1"),
            ([0, -99], ValueError, r"target\[1\] is -99"),
            ([0.5, 0], ValueError, r"target\[0\] is 0.5"), ([0], ValueError, "must have 2 rows"),
            ([0, 1, 2], ValueError, "must have 2 rows"),
            ([[1, 0]] * 2, ValueError, r"target must have shape \(2, 3\)"),
            ([[1], [2]], ValueError, "target must have shape"),
            ([[1, 0, -1]] * 2, ValueError, r"target\[0, 2\] is -1.0, but weights"),
            ([[1, 0, np.nan]] * 2, ValueError, r"target\[0, 2\] is nan, but weights"),
            (np.zeros((2, 3, 1)), ValueError, "target must have 1 dimension"),
            (None, TypeError, "target must be an array, got None")]:
        with pytest.raises(error, match=match):
            loss.forward(y, bad)
    with pytest.raises(ValueError, match="0 rows"):
        loss.forward(y[:0], np.zeros(0, int))
    for bad in (y[0], y[None]):
        with pytest.raises(ValueError, match="must have 2 dimensions"):
            loss.forward(bad, [0, 1])


def test_28_the_ignored_label_may_lie_out_of_range_and_others_may_not():
    y = np.zeros((3, 2))
    for make in (fn.SoftmaxCrossEntropy, fn.NegativeLogLikelihood):
        for ignored in (-1, 255, -2**62):
            for labels in ([0, 1, ignored], np.array([0, 1, ignored]), [0.0, 1.0, ignored]):
                assert np.isfinite(make(ignore_index=ignored).forward(y, labels))
            with pytest.raises(ValueError, match=r"target\[2\] is -3, but labels must be whole"):
                make(ignore_index=ignored).forward(y, [0, ignored, -3])
        bytes_ = np.array([0, 1, 255], np.uint8)
        assert np.isfinite(make(ignore_index=255).forward(y, bytes_))
        with pytest.raises(ValueError, match=r"target\[2\] is 255"):
            make(ignore_index=-1).forward(y, bytes_)            # which is not the same byte


@pytest.mark.parametrize("name", OF_ENTRIES)
def test_01_06_targets_of_entries_that_are_none(name, dtype, rng):
    loss = LOSSES[name]("mean", 3)
    y, target = draw(rng, dtype, 2, 3), draw_target(rng, name, dtype, 2, 3)
    for bad in (target[:1], target[:, :1], target[0], target.T, 1.0):
        with pytest.raises(ValueError, match=r"target must have the shape of y, \(2, 3\), got"):
            loss.forward(y, bad)
    for empty in ((0, 3), (0,)):
        for weights in (None, np.ones(0)):
            with pytest.raises(ValueError, match="0 entries"):
                loss.forward(np.ones(empty), np.ones(empty), weights)
    with pytest.raises(TypeError, match="target must be an array, got None"):
        loss.forward(y, None)


@ALL
def test_04_numbers_without_a_dimension(name, dtype):
    """A single entry has a loss; with a weight it would have to be a sample."""
    loss = LOSSES[name]("mean", 3)
    if name in OF_CLASSES:
        for weights in ([], [1.0], [[1.0]], [[[1.0]]]):
            with pytest.raises(ValueError, match="must have 2 dimensions, got 0"):
                loss.forward(dtype.type(0.5), 0.0, *weights)
            with pytest.raises(ValueError, match=r"target must have 1 dimension \(labels\) or 2"):
                loss.forward(np.zeros((2, 3), dtype), 0, *weights[:0])
        return
    if "pos_weight" in name:
        for y in (0.5, [0.5, 1], np.zeros((2, 3, 3))):
            for weights in ([], [np.ones(2)]):
                with pytest.raises(ValueError, match="y must have 2 dimensions where there is a "
                                                     f"pos_weight, got {np.ndim(y)}"):
                    loss.forward(y, np.zeros_like(y), *weights)
        return
    assert np.isfinite(loss.forward(dtype.type(0.5), 0.0)) and loss.backward().shape == ()
    for weights in (1.0, [1.0], [[1.0]]):
        with pytest.raises(ValueError, match="y must have at least 1 dimension where there is a "
                                             "sample_weight, got 0"):
            loss.forward(dtype.type(0.5), 0.0, weights)
    with pytest.raises(ValueError, match=r"target must have the shape of y, \(2,\), got \(\)"):
        loss.forward(np.zeros(2, dtype), 0.0, [1.0, 1.0])
    for shape in ((0, 3, 2), (3, 0), (2, 0, 2)):
        with pytest.raises(ValueError, match="a mean over 0 entries is not defined"):
            loss.forward(np.zeros(shape), np.zeros(shape), np.ones(shape[0]))


def test_04_kernels_refuse_targets_without_a_dimension(dtype):
    for bad, error in [(np.zeros((), int), ValueError), (None, TypeError), ([0, 1], TypeError)]:
        with pytest.raises(error, match="target must be a"):
            _ops.target_rows(bad, 3, dtype)


def test_targets_that_one_loss_alone_refuses(dtype):
    y = np.zeros((2, 2), dtype)
    for bad in (-0.5, 1.5, np.inf, -np.inf, np.nan):
        with pytest.raises(ValueError, match=r"target must hold numbers in \[0, 1\], got"):
            fn.BinaryCrossEntropy().forward(y, [[0, 1], [bad, 0]])
    for bad in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"target\[1, 0\] is .*, but weights must be finite"):
            fn.Poisson().forward(y, [[0, 100], [bad, 0]])
        assert not np.isfinite(fn.MeanSquaredError().forward(y, [[0, 1], [bad, 0]])) or bad == -1


@ALL
def test_the_gradient_by_the_losses_is_given_where_these_are(name, dtype, rng):
    y, target = draw(rng, dtype, 4, 3), draw_target(rng, name, dtype, 4, 3)
    for reduction in ("mean", "sum"):
        loss = LOSSES[name](reduction, 3)
        loss.forward(y, target)
        with pytest.raises(TypeError, match="takes a gradient by the losses with reduction='none'"):
            loss.backward(np.ones(4))
        assert loss.backward().shape == (4, 3)              # which was not lost
    loss = LOSSES[name]("none", 3)
    losses = loss.forward(y, target)
    with pytest.raises(TypeError, match="needs the gradient by the losses"):
        loss.backward()
    for bad, error in [(np.ones(3), ValueError), (np.ones((4, 2)), ValueError),
                       (np.ones((3, 3)), ValueError), (1.0, ValueError),
                       (np.ones((4, 3, 1)), ValueError), (["a"] * 4, ValueError),
                       (np.ma.ones(losses.shape), TypeError)]:
        with pytest.raises(error):
            loss.backward(bad)
    assert loss.backward(np.ones(losses.shape)).shape == (4, 3)


def test_the_gradient_by_the_losses_has_their_shape_and_no_other(rng):
    for name in LOSSES:
        loss = LOSSES[name]("none", 3)
        y, target = draw(rng, np.float32, 4, 3), draw_target(rng, name, np.float32, 4, 3)
        losses = loss.forward(y, target)
        wrong = (4,) if losses.shape == (4, 3) else (4, 3)
        with pytest.raises(ValueError, match="dloss"):
            loss.backward(np.ones(wrong))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@ALL
def test_45_46_backward_before_forward_or_twice(name, reduction, rng):
    loss = LOSSES[name](reduction, 3)
    y, target = draw(rng, np.float32, 4, 3), draw_target(rng, name, np.float32, 4, 3)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"{type(loss).__name__}.backward needs a forward"):
            loss.backward()
        value = loss.forward(y, target)
        loss.backward(*([value] if reduction == "none" else []))


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy,
                                       lambda loss: pickle.loads(pickle.dumps(loss))])
@ALL
def test_copies_have_the_options_and_no_data(name, make_copy, rng):
    loss = LOSSES[name]("sum", 3)
    y, target = draw(rng, np.float32, 4, 3), draw_target(rng, name, np.float32, 4, 3)
    value = loss.forward(y, target)
    twin = make_copy(loss)
    with pytest.raises(RuntimeError, match="needs a forward"):
        twin.backward()
    assert twin.forward(y, target) == value and repr(twin) == repr(loss)
    assert np.array_equal(twin.backward(), loss.backward())
    assert len(pickle.dumps(loss)) < 1000


def test_sample_weights_of_more_than_a_matrix(dtype, rng):
    """Losses of entries take (n, ...), with a weight for each of n."""
    weights = np.array([1, 0, 2], dtype)
    for name in OF_ENTRIES:
        if "pos_weight" in name:
            continue
        y, target = draw(rng, dtype, 3, 20), draw_target(rng, name, dtype, 3, 20)
        for reduction in ("mean", "sum"):
            value, gradient = run(LOSSES[name](reduction, 20), y, target, weights)
            for shape in [(3, 4, 5), (3, 2, 5, 2)]:
                found, d_found = run(LOSSES[name](reduction, 20), y.reshape(shape),
                                     target.reshape(shape), weights)
                assert found == pytest.approx(value, rel=1e-12)
                assert np.array_equal(d_found, gradient.reshape(shape))


def test_sample_weights_of_a_vector(dtype, rng):
    weights = np.array([1, 0, 2], dtype)
    for name in OF_ENTRIES:
        if "pos_weight" in name:
            continue
        y, target = draw(rng, dtype, 3, 1), draw_target(rng, name, dtype, 3, 1)
        value, gradient = run(LOSSES[name]("mean", 1), y, target, weights)
        found, d_found = run(LOSSES[name]("mean", 1), y[:, 0], target[:, 0], weights)
        assert found == pytest.approx(value, rel=1e-12)
        assert np.array_equal(d_found, gradient[:, 0])


def test_representations_tell_the_options():
    assert [repr(loss) for loss in (
        fn.SoftmaxCrossEntropy(), fn.SoftmaxCrossEntropy("sum", weight=[1, 2], ignore_index=-1,
                                                         label_smoothing=0.1),
        fn.NegativeLogLikelihood("none", ignore_index=0), fn.MeanSquaredError("sum"),
        fn.BinaryCrossEntropy(pos_weight=[0.5]), fn.Huber(delta=2), fn.Huber("none"),
        fn.Poisson())] == [
        "SoftmaxCrossEntropy()",
        "SoftmaxCrossEntropy(reduction='sum', weight=[1.0, 2.0], ignore_index=-1, "
        "label_smoothing=0.1)",
        "NegativeLogLikelihood(reduction='none', ignore_index=0)",
        "MeanSquaredError(reduction='sum')", "BinaryCrossEntropy(pos_weight=[0.5])",
        "Huber(delta=2.0)", "Huber(reduction='none')", "Poisson()"]


def test_weights_are_copied(dtype, rng):
    weight = np.ones(3, np.float64)
    loss, binary = fn.SoftmaxCrossEntropy(weight=weight), fn.BinaryCrossEntropy(pos_weight=weight)
    x, target = draw(rng, dtype, 4, 3), np.eye(3)[[0, 1, 2, 0]]
    before = loss.forward(x, target), binary.forward(x, target)
    weight[...] = 7
    assert (loss.forward(x, target), binary.forward(x, target)) == before


# ---- In a network ----------------------------------------------------------------------------

def layers_for(name, dtype):
    rng = np.random.default_rng(1)
    return [fn.Dense(6, 20, dtype=dtype, rng=rng), fn.ReLU(), fn.Dense(20, 3, dtype=dtype, rng=rng),
            *([fn.LogSoftmax()] if "likelihood" in name else [])]


def bits(layers):
    return b"".join(value.tobytes() for layer in layers for _, value, _ in layer.parameters())


def step_by_hand(layers, loss, optimizer, x, target, *weights):
    for layer in layers:
        x = layer.forward(x)
    value = loss.forward(x, target, *weights)
    dy = loss.backward()
    for layer in reversed(layers):
        dy = layer.backward(dy)
    optimizer.step(layers)
    return value


@pytest.mark.parametrize("weighs", [False, True], ids=["", "sample_weight"])
@pytest.mark.parametrize("rows", [False, True], ids=["", "rows"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@ALL
def test_steps_of_a_network_have_the_bits_of_its_layers(
        name, reduction, rows, weighs, dtype, rng):
    layers, loss = layers_for(name, dtype), LOSSES[name](reduction, 3)
    twins = copy.deepcopy(layers)
    net, sgd = fn.Sequential(layers), fn.SGD(0.001, 0.9)
    net.compile(fn.SGD(0.001, 0.9), LOSSES[name](reduction, 3))
    for n in (7, 40, 1, 256, 33):
        x, target = draw(rng, dtype, n, 6), draw_target(rng, name, dtype, n, 3, rows)
        weights = [draw_weights(rng, dtype, n)] if weighs else []
        before = bits(layers)
        assert net.train_step(x, target, *weights) == step_by_hand(
            twins, loss, sgd, x, target, *weights)
        assert bits(layers) == bits(twins)
        assert bits(layers) != before or weighs and not weights[0].any()
    x, target = draw(rng, dtype, 300, 6), draw_target(rng, name, dtype, 300, 3, rows)
    weights = [draw_weights(rng, dtype, 300)] if weighs else []
    assert net.train_step(x, target, *weights) == pytest.approx(
        step_by_hand(twins, loss, sgd, x, target, *weights), rel=20 * float(np.finfo(dtype).eps))
    for layer, twin in zip(layers, twins, strict=True):
        for (_, value, _), (_, other, _) in zip(layer.parameters(), twin.parameters(), strict=True):
            alike(value, other, dtype, 100)


@pytest.mark.parametrize("weighs", [False, True], ids=["", "sample_weight"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@ALL
def test_evaluate_gives_the_loss_of_predictions(name, reduction, weighs, dtype, rng):
    """Reported for a sample, where the loss is a sum."""
    net = fn.Sequential(layers_for(name, dtype))
    net.compile(loss=LOSSES[name](reduction, 3))
    for n in (1, 30, 1000):
        x, target = draw(rng, dtype, n, 6), draw_target(rng, name, dtype, n, 3)
        weights = [draw_weights(rng, dtype, n)] if weighs else []
        expected = LOSSES[name](reduction, 3).forward(net.predict(x), target, *weights)
        assert net.evaluate(x, target, *weights).loss == pytest.approx(
            expected / (n if reduction == "sum" else 1), rel=20 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("name", ["softmax", "softmax, all", "likelihood", "squares", "poisson"])
def test_a_networks_mean_does_not_depend_on_the_size_of_the_weights(name, dtype, rng):
    x, target = draw(rng, dtype, 40, 6), draw_target(rng, name, dtype, 40, 3)
    some = rng.integers(2, size=40)

    def trained(weights):
        net = fn.Sequential(layers_for(name, dtype))
        net.compile(fn.SGD(0.01, 0.9), LOSSES[name]("mean", 3))
        value = net.train_step(x, target, weights)
        history = net.fit(x, target, epochs=2, batch_size=16, shuffle=False, verbose=0,
                          sample_weight=weights)
        return [value, *history.loss, net.evaluate(x, target, weights).loss]

    expected = trained(some)
    for size in SIZES_OF_WEIGHTS[dtype.name]:
        weights = np.where(some > 0, size, 0).astype(dtype)
        np.testing.assert_allclose(trained(weights), expected,
                                   rtol=1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("weight, error", [
    (10**400, ValueError), ("abc", TypeError), ("2", TypeError), (None, TypeError),
    (1j, TypeError), (True, TypeError)], ids=lambda value: str(value)[:5])
def test_49_weights_of_classes_in_a_fit_are_numbers(weight, error):
    net = fn.Sequential([fn.Dense(2, 2, rng=0)])
    net.compile()
    before = net.layers[0].weight.tobytes()
    with pytest.raises(error, match="class_weight"):
        net.fit(np.ones((3, 2)), [0, 1, 1], verbose=0, class_weight={0: weight})
    assert net.layers[0].weight.tobytes() == before
