"""Inside kernels subnormal numbers count as 0; the caller's arithmetic stays what it was.

NaN and infinity reach all that depends on them, and nothing else. And while a kernel works long,
other threads can work too.
"""

import sys
import threading
import time

import numpy as np
import pytest

from fastnet import _ops


def has_subnormals(dtype):
    """Return whether the arithmetic of this thread gives and takes subnormal numbers."""
    tiny = np.full(3, np.finfo(dtype).tiny, dtype)
    half = tiny / 2
    return bool((half * 2 == tiny).all())


# ---- Subnormal numbers -----------------------------------------------------------------------

def updated(dW, W, V, lr, momentum):
    _ops.sgd_update([dW], [W], [V], lr, momentum)
    return W if V is None else V


def weight_gradient(X, dZ):
    dW = np.empty((X.shape[1], dZ.shape[1]), X.dtype)
    _ops.dense_backward(X, np.zeros_like(dW), dZ, dW=dW, input_gradient=False)
    return dW


def bias_gradient(dZ):
    db = np.empty(dZ.shape[1], dZ.dtype)
    _ops.dense_backward(dZ, np.zeros((dZ.shape[1],) * 2, dZ.dtype), dZ, db=db, input_gradient=False)
    return db


def smaller_probabilities(tiny, n, n_classes):
    """Of classes next to one that takes nearly all."""
    scores = np.zeros((n, n_classes), tiny.dtype)
    scores[:, 0] = 1 - np.log(tiny[0, 0])
    return _ops.softmax_forward(scores)[:, 1:]


def full(shape, value, like):
    return np.full(shape, value, like.dtype)


# From matrices (30, 40) of the smallest normal number: half of it in every entry, or less.
TOO_SMALL = {
    "scale": lambda tiny: _ops.scale_forward(tiny, 0.5),
    "sum": lambda tiny: _ops.add_forward(tiny * 1.5, -tiny),
    "Z of many outputs": lambda tiny: _ops.dense_forward(tiny, full((40, 20), 0.5 / 40, tiny)),
    "Z of one output": lambda tiny: _ops.dense_forward(tiny, full((40, 1), 0.5 / 40, tiny)),
    "dX": lambda tiny: _ops.dense_backward(
        full((30, 7), 1, tiny), full((7, 40), 0.5 / 40, tiny), tiny),
    "dW": lambda tiny: weight_gradient(full((30, 7), 0.5 / 30, tiny), tiny),
    "db": lambda tiny: bias_gradient(np.concatenate([tiny[:1] * 1.5, -tiny[:1]])),
    "exp": lambda tiny: _ops.exp_forward(np.log(tiny) - 1),
    "softmax of few classes": lambda tiny: smaller_probabilities(tiny, 5, 3),
    "softmax of many classes": lambda tiny: smaller_probabilities(tiny, 5, 40),
    "gradient of squares": lambda tiny: _ops.mean_squared_error(tiny, tiny * 0)[1],
    "weight": lambda tiny: updated(tiny, tiny * 1.5, None, 1.0, 0.0),
    "velocity": lambda tiny: updated(tiny * 0, tiny.copy(), tiny.copy(), 1.0, 0.5),
}


@pytest.mark.parametrize("name", TOO_SMALL)
def test_a_result_below_the_smallest_normal_number_is_zero(name, dtype):
    result = TOO_SMALL[name](np.full((30, 40), np.finfo(dtype).tiny, dtype))
    assert result.size and not result.any()


# From matrices (5, 5) of half the smallest normal number and of its inverse; and what 0 would give.
SUBNORMAL = {
    "scale": (lambda half, huge: _ops.scale_forward(half, float(huge[0, 0])), 0),
    "ReLU": (lambda half, huge: _ops.relu_forward(half), 0),
    "gradient of ReLU": (lambda half, huge: _ops.relu_backward(half, huge), 0),
    "Z": (lambda half, huge: _ops.dense_forward(half, huge), 0),
    "dX": (lambda half, huge: _ops.dense_backward(huge, huge, half), 0),
    "dW": (lambda half, huge: weight_gradient(huge, half), 0),
    "log": (lambda half, huge: _ops.log_forward(half), -np.inf),
    "cross-entropy": (lambda half, huge: _ops.cross_entropy(half, np.zeros(5, int))[0], np.inf),
    "weight": (lambda half, huge: updated(half, half * 0, None, float(huge[0, 0]), 0.0), 0),
}


@pytest.mark.parametrize("name", SUBNORMAL)
def test_a_subnormal_argument_counts_as_zero(name, dtype):
    run, expected = SUBNORMAL[name]
    half = np.full((5, 5), np.finfo(dtype).tiny / 2, dtype)
    assert np.all(run(half, 1 / (2 * half)) == expected)


def test_a_velocity_that_decays_ends_at_zero(dtype):
    """With subnormal numbers it would not: 0.9 times 4 times the smallest, rounded, is 4 times."""
    gradient, W, V = np.zeros(20, dtype), np.zeros(20, dtype), np.ones(20, dtype)
    for _ in range(20_000):
        _ops.sgd_update([gradient], [W], [V], 0.1, 0.9)
    assert not V.any()


# ---- The caller's mode -----------------------------------------------------------------------

@pytest.mark.parametrize("shape", [(5, 4, 3), (400, 100, 100)], ids=["short", "long"])
def test_the_caller_has_subnormal_numbers_before_and_after_every_call(
        shape, every_kernel, rng, dtype):
    assert has_subnormals(dtype)
    for name, call in every_kernel(rng, dtype, *shape).items():
        call.run(*call.inputs, *call.outputs)
        assert has_subnormals(dtype), name


def test_the_caller_has_subnormal_numbers_after_a_call_that_raises(dtype):
    X, W = np.ones((5, 4), dtype), np.ones((4, 3), dtype)
    for function, arguments in [
            (_ops.dense_forward, (X, X)), (_ops.dense_backward, (X, W, X)),
            (_ops.exp_forward, (X, X)), (_ops.softmax_cross_entropy, (X, np.full(5, 4))),
            (_ops.cross_entropy, (2 * X, X)),
            (_ops.sgd_update, ([X, X], [X.copy(), W], [None, None], 0.1))]:
        with pytest.raises(ValueError):
            function(*arguments)
        assert has_subnormals(dtype), function.__name__


@pytest.mark.parametrize("shape", [(5, 4, 3), (400, 100, 100)], ids=["short", "long"])
def test_a_caller_that_flushes_them_goes_on_to_do_so(shape, every_kernel, rng, dtype):
    torch = pytest.importorskip("torch")
    assert torch.set_flush_denormal(True)
    try:
        for name, call in every_kernel(rng, dtype, *shape).items():
            call.run(*call.inputs, *call.outputs)
            assert not has_subnormals(dtype), name
    finally:
        torch.set_flush_denormal(False)


# ---- NaN and infinity ------------------------------------------------------------------------

def assert_only(result, where, value):
    """`value` stands in `result` at all of `where`, and finite numbers elsewhere."""
    there = np.zeros(result.shape, bool)
    there[where] = True
    np.testing.assert_array_equal(result[there], value)
    assert np.isfinite(result[~there]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [
    (1, 1, 1), (3, 40, 20), (33, 128, 4), (7, 300, 5), (16, 800, 30), (64, 40, 1), (5, 3, 70),
    (400, 40, 20), (2, 300, 140)], ids=str)
def test_what_is_not_finite_goes_through_products(shape, value, dtype, rng):
    """All else is positive, so infinity meets no 0 and nothing to cancel.

    Where a row begins, as well: there a vector of the row before could reach it.
    """
    n, n_in, n_out = shape
    column = slice(None)
    sizes = {"X": (n, n_in), "W": (n_in, n_out), "dZ": (n, n_out)}
    reached = {"X": lambda i, p: {"Z": i, "dW": p},
               "W": lambda p, j: {"Z": (column, j), "dX": (column, p)},
               "dZ": lambda i, j: {"dX": i, "dW": (column, j), "db": j}}
    for name, at in [(name, at) for name, (rows, columns) in sizes.items()
                     for at in [(rows - 1, 0), (rng.integers(rows), rng.integers(columns))]]:
        given = {key: rng.uniform(0.5, 1, size).astype(dtype) for key, size in sizes.items()}
        given[name][at] = value
        X, W, dZ = given.values()
        Z, packed_Z = _ops.dense_forward(X, W), _ops.dense_forward_packed(
            X, _ops.pack_weights(W), n_out)
        dW, db = np.empty_like(W), np.empty(n_out, dtype)
        dX = _ops.dense_backward(X, W, dZ, dW=dW, db=db)
        for key, result in [("Z", Z), ("Z", packed_Z), ("dX", dX), ("dW", dW), ("db", db)]:
            assert_only(result, reached[name](*at).get(key, []), value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (5, 3), (40, 32), (17, 33)], ids=str)
def test_what_is_not_finite_spoils_its_row_of_a_softmax(shape, value, dtype, rng):
    """Infinity as well: less the row's maximum, itself, it is NaN."""
    X, i = rng.normal(size=shape).astype(dtype), rng.integers(shape[0])
    X[i, rng.integers(shape[1])] = value
    assert_only(_ops.softmax_forward(X), i, np.nan)
    for target in np.zeros(shape[0], int), np.ones(shape, dtype):
        loss, gradient = _ops.softmax_cross_entropy(X, target)
        assert np.isnan(loss)
        assert_only(gradient, i, np.nan)
    assert np.isnan(_ops.mean_squared_error(X, X)[0])
    dY = np.ones(shape, dtype)
    assert_only(_ops.softmax_backward(np.abs(X), dY), i, np.nan if value != value else -np.inf)


@pytest.mark.parametrize("nesterov", [False, True])
def test_what_is_not_finite_goes_through_updates(nesterov, dtype):
    for value in (np.nan, np.inf):
        dW, W, V, plain = (np.ones(37, dtype) for _ in range(4))
        dW[33] = value
        _ops.sgd_update([dW, dW], [W, plain], [V, None], 0.1, 0.9, nesterov)
        assert_only(V, 33, value)
        assert_only(W, 33, -value)
        assert_only(plain, 33, -value)


# ---- Other threads ---------------------------------------------------------------------------

def progress_during(call):
    """Return how far another thread gets during `call` if nothing but the call lets it in."""
    steps, done = [], threading.Event()

    def step():
        while not done.is_set():
            steps.append(None)
            time.sleep(1e-4)

    thread = threading.Thread(target=step)
    before = sys.getswitchinterval()
    thread.start()
    sys.setswitchinterval(1000)
    try:
        time.sleep(0.01)            # the thread is on its way
        start = len(steps)
        call()
        return len(steps) - start
    finally:
        sys.setswitchinterval(before)
        done.set()
        thread.join()


def test_long_work_lets_other_threads_work():
    A = np.ones((1000, 1000))       # 20 ms and more
    assert progress_during(lambda: _ops.dense_forward(A, A)) > 0


def test_short_work_and_work_on_labels_hold_them_up():
    """To let the GIL go costs more than a short call; and labels, once checked, must not change."""
    A, logits, labels = np.ones((20, 20)), np.ones((100_000, 10)), np.zeros(100_000, int)

    def many_short_calls():
        for _ in range(10_000):
            _ops.dense_forward(A, A)

    assert progress_during(many_short_calls) == 0
    assert progress_during(lambda: _ops.softmax_cross_entropy(logits, labels)) == 0
