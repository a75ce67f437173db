"""Losses of drawn shapes, values and weights, also far out, against their formulas in float64."""

import numpy as np
import pytest

import fastnet as fn

hypothesis = pytest.importorskip("hypothesis")
from drawn_networks import tried  # noqa: E402

given, some = hypothesis.given, hypothesis.strategies
NUMBERS = some.one_of(
    some.floats(-100, 100, width=32), some.sampled_from([0.0, -0.0, 1e-30, 1e30, -1e30, 3e38]))


@some.composite
def batches(draw, target):
    """Scores, targets and weights, also of 0."""
    n, k = draw(some.integers(1, 40)), draw(some.integers(1, 40))
    numbers = np.random.default_rng(draw(some.integers(0, 2**32 - 1)))
    dtype = draw(some.sampled_from([np.float32, np.float64]))
    few = draw(some.lists(NUMBERS, min_size=1, max_size=20))
    y = numbers.choice(few, (n, k)).astype(dtype)
    w = numbers.choice([0, 1e-3, 1, 7], n).astype(dtype)
    return y, target(numbers, n, k), w


def run(loss, y, target, weights):
    return loss.forward(y, target, weights), loss.backward()


@tried(200)
@given(batches(lambda rng, n, k: rng.integers(k, size=n)), some.floats(0, 1))
def test_softmax_cross_entropy_of_anything_is_the_formula(batch, smoothing):
    x, labels, w = batch
    k = x.shape[1]
    z = x.astype(np.float64) - x.max(1, keepdims=True)
    e = np.exp(z)
    log_p = z - np.log(e.sum(1, keepdims=True))
    t = w[:, None] * ((1 - smoothing) * np.eye(k)[labels] + smoothing / k)
    total = w.sum(dtype=np.float64) or 1
    value, gradient = run(fn.SoftmaxCrossEntropy(label_smoothing=smoothing), x, labels, w)
    eps = float(np.finfo(x.dtype).eps)
    assert value == pytest.approx(-(t * log_p).sum() / total, rel=32 * eps, abs=1e3 * eps)
    expected = (t.sum(1, keepdims=True) * e / e.sum(1, keepdims=True) - t) / total
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=200 * eps)
    assert not gradient[w == 0].any()


@tried(200)
@given(batches(lambda rng, n, k: rng.choice([0, 0.25, 1], (n, k))), some.floats(0, 10))
def test_binary_cross_entropy_of_anything_is_the_formula(batch, positive):
    x, t, w = batch
    n, k = x.shape
    z = x.astype(np.float64)
    s = np.where(z > 0, 1, np.exp(-np.abs(z))) / (1 + np.exp(-np.abs(z)))
    soft = np.log1p(np.exp(-np.abs(z)))
    pt, u = positive * t, w[:, None].astype(np.float64)
    losses = pt * (np.maximum(-z, 0) + soft) + (1 - t) * (np.maximum(z, 0) + soft)
    total = u.sum() * k or 1
    loss = fn.BinaryCrossEntropy(pos_weight=np.full(k, positive))
    value, gradient = run(loss, x, t, w)
    eps = float(np.finfo(x.dtype).eps)
    assert value == pytest.approx((u * losses).sum() / total, rel=32 * eps)
    other = np.where(z > 0, np.exp(-np.abs(z)), 1) / (1 + np.exp(-np.abs(z)))
    np.testing.assert_allclose(gradient, u * ((1 - t) * s - pt * other) / total,
                               rtol=0, atol=100 * eps)
    assert not gradient[w == 0].any()


@tried(200)
@given(batches(lambda rng, n, k: rng.choice([-2, 0, 0.5, 3], (n, k))), some.floats(0.01, 100))
def test_huber_of_anything_is_the_formula(batch, delta):
    y, t, w = batch
    d, u = y.astype(np.float64) - t, w[:, None].astype(np.float64)
    a = np.abs(d)
    losses = np.where(a <= delta, d * d / 2, delta * (a - delta / 2))
    total = u.sum() * y.shape[1] or 1
    value, gradient = run(fn.Huber(delta=delta), y, t, w)
    assert value == pytest.approx((u * losses).sum() / total, rel=1e-12)
    np.testing.assert_allclose(gradient, u * np.clip(d, -delta, delta) / total,
                               rtol=4 * np.finfo(y.dtype).eps, atol=1e-37)
