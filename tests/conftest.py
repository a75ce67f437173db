"""What tests of kernels share: dtypes, random numbers, every kernel with arrays, and fences."""

import gc
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from fastnet import _ops

FENCE = 256     # entries; no kernel writes more than 8 vectors of 16 at a time

# Where one of these is set pytest shows whole diffs, also of megabytes of parameters: an hour each.
for name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(name, None)


def pytest_collection_finish():
    """Collections of garbage need not look through ten thousand tests each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)


class Fenced:
    """Copies of arrays, each between two fences: entries that nobody may write to."""

    def __init__(self):
        self._fences = []

    def put(self, array, offset=0):
        """Return a copy that begins `offset` entries behind a multiple of 64 bytes."""
        memory = np.full(array.size + 2 * FENCE + 64, 7, array.dtype)
        start = FENCE + -memory.ctypes.data // array.itemsize % (64 // array.itemsize) + offset
        end = start + array.size
        self._fences += [memory[:start], memory[end:]]
        memory[start:end] = array.ravel()
        return memory[start:end].reshape(array.shape)

    def stand(self):
        """Return whether all fences are what they were."""
        return all((fence == 7).all() for fence in self._fences)


@pytest.fixture
def fenced():
    return Fenced


class Call(NamedTuple):
    """A kernel and arrays for it: `run(*inputs, *outputs)` writes the outputs."""

    run: Callable
    inputs: list
    outputs: list


def calls_of_every_kernel(rng, dtype, n, n_in, n_out):
    """Calls by name, for a layer from n_in to n_out and a batch of n; outputs start as NaN.

    A name begins with that of the function in `_ops`. Losses and counts are outputs as well.
    """
    def draw(*shape):
        return rng.normal(size=shape).astype(dtype)

    def blank(*shape, dtype=dtype):
        return np.full(shape, np.nan, dtype)

    X, W, b, V = draw(n, n_in), draw(n_in, n_out), draw(n_out), draw(n_in, n_out)
    A, B, dZ = draw(n, n_out), draw(n, n_out), draw(n, n_out)
    Z, number = blank(n, n_out), blank(1, dtype=np.float64)
    packed = _ops.pack_weights(W)
    labels = rng.integers(n_out, size=n)
    P, T = rng.uniform(0.1, 1, (2, n, n_out)).astype(dtype)
    weight, bias = draw(n_out), draw(n_out)
    stats, blank_stats = _ops.layer_norm_forward(A)[1], blank(n, 2, dtype=np.float64)

    w, c, mask = rng.uniform(0.1, 2, (n, n_out)).astype(dtype), b**2, rng.integers(2, size=n) > 0
    row_weights = np.where(mask, w[:, 0], 0).astype(dtype)
    # All that a step can be told, for every rule.
    steps = {"scale": 0.7, "clip": 0.5, "decay": 0.1, "shrink": 0.9, "decays": [True]}
    adam = {"rate": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-6, "root": 1.2}
    rmsprop = {"rate": 0.1, "alpha": 0.9, "eps": 1e-6}

    def update(*arguments):
        _ops.sgd_update([arguments[0]], [arguments[1]], [arguments[2]], 0.1, 0.9, True)

    def loss(function):
        return lambda x, t, dx, value: value.fill(function(x, t, dx)[0])

    def entry_loss(kind):
        Y = B**2 if kind == "poisson" else T
        delta = 0.5

        def full(X, Y, w, p, dX, losses, value):
            value.fill(_ops.entry_losses(X, Y, kind, w, p, delta, 3.5, dX, losses)[0])

        def weighed(X, Y, w, *outputs):
            full(X, Y, w, None, *outputs)

        def plain(X, Y, dX, value):
            value.fill(_ops.entry_losses(X, Y, kind, delta=delta, dY=dX)[0])

        def without_gradient(X, Y, losses, value):
            value.fill(_ops.entry_losses(X, Y, kind, losses=losses, gradient=False)[0])

        outputs = [Z, blank(n, n_out), number]
        return {
            f"entry_losses of {kind}": Call(plain, [A, Y], [Z, number]),
            f"entry_losses of {kind} without gradient": Call(
                without_gradient, [A, Y], [Z, number]),
            f"entry_losses of {kind} with weights of rows": Call(
                weighed, [A, Y, row_weights], outputs),
            f"entry_losses of {kind} with weights of entries": Call(weighed, [A, Y, w], outputs),
            f"entry_losses of {kind} with pos_weight": Call(
                full, [A, Y, row_weights, c], outputs)}

    def activation(kind):
        Y = _ops.activation_forward(A, kind, 0.3)
        return {
            f"activation_forward of {kind}": Call(
                lambda X, Y: _ops.activation_forward(X, kind, 0.3, Y), [A], [Z]),
            f"activation_backward of {kind}": Call(
                lambda X, Y, dY, dX: _ops.activation_backward(X, Y, dY, kind, 0.3, dX),
                [A, Y, dZ], [Z])}

    activations = {name: call for kind in _ops.ACTIVATIONS
                   for name, call in activation(kind).items()}
    entry_losses = {name: call for kind in _ops.ENTRY_LOSSES
                    for name, call in entry_loss(kind).items()}
    return activations | entry_losses | {
        "dense_forward": Call(_ops.dense_forward, [X, W, b], [Z]),
        "dense_forward with ReLU": Call(
            lambda *arrays: _ops.dense_forward(*arrays, relu=True), [X, W, b], [Z]),
        "dense_backward": Call(_ops.dense_backward, [X, W, dZ],
                               [blank(n, n_in), blank(n_in, n_out), blank(n_out)]),
        "dense_backward through a ReLU": Call(
            lambda X, W, dZ, dX: _ops.dense_backward(X, W, dZ, dX, relu=True),
            [X, W, dZ], [blank(n, n_in)]),
        "dense_backward that adds": Call(
            lambda X, W, dZ, dW, db: _ops.dense_backward(X, W, dZ, None, dW, db, False, add=True),
            [X, W, dZ], [draw(n_in, n_out), draw(n_out)]),
        "pack_weights": Call(_ops.pack_weights, [W], [np.full_like(packed, np.nan)]),
        "dense_forward_packed": Call(
            lambda X, packed, b, Z: _ops.dense_forward_packed(X, packed, n_out, b, Z),
            [X, packed, b], [Z]),
        "dense_sgd_update": Call(
            lambda X, dZ, W, V, dX: _ops.dense_sgd_update(
                X, dZ, W, V, dX, lr=0.1, momentum=0.9, rows=5), [X, dZ], [W, V, blank(n, n_in)]),
        "exp_forward": Call(_ops.exp_forward, [A], [Z]),
        "log_forward": Call(_ops.log_forward, [P], [Z]),
        "relu_forward": Call(_ops.relu_forward, [A], [Z]),
        "relu_backward": Call(_ops.relu_backward, [A, dZ], [Z]),
        "add_forward": Call(_ops.add_forward, [A, B], [Z]),
        "add_backward": Call(_ops.add_backward, [dZ], [Z, Z.copy()]),
        "maximum_forward": Call(_ops.maximum_forward, [A, B], [Z]),
        "maximum_backward": Call(_ops.maximum_backward, [A, B, dZ], [Z, Z.copy()]),
        "scale_forward": Call(lambda X, Y: _ops.scale_forward(X, 0.3, Y), [A], [Z]),
        "scale_backward": Call(lambda dY, dX: _ops.scale_backward(dY, 0.3, dX), [dZ], [Z]),
        "softmax_forward": Call(_ops.softmax_forward, [A], [Z]),
        "softmax_backward": Call(_ops.softmax_backward, [P, dZ], [Z]),
        "log_softmax_forward": Call(_ops.log_softmax_forward, [A], [Z]),
        "log_softmax_backward": Call(
            _ops.log_softmax_backward, [_ops.log_softmax_forward(A), dZ], [Z]),
        "layer_norm_forward": Call(
            lambda X, weight, bias, Y, stats: _ops.layer_norm_forward(
                X, weight, bias, 1e-5, Y, stats), [A, weight, bias], [Z, blank_stats]),
        "layer_norm_forward without weights": Call(
            lambda X, Y, stats: _ops.layer_norm_forward(X, Y=Y, stats=stats),
            [A], [Z, blank_stats]),
        "layer_norm_backward": Call(_ops.layer_norm_backward, [A, weight, stats, dZ],
                                    [Z, blank(n_out), blank(n_out)]),
        "layer_norm_backward without weights": Call(
            lambda X, stats, dY, dX: _ops.layer_norm_backward(X, None, stats, dY, dX),
            [A, stats, dZ], [Z]),
        "layer_norm_backward that adds": Call(
            lambda X, weight, stats, dY, dweight, dbias: _ops.layer_norm_backward(
                X, weight, stats, dY, None, dweight, dbias, False, add=True),
            [A, weight, stats, dZ], [draw(n_out), draw(n_out)]),
        "dropout": Call(lambda X, Y: _ops.dropout(X, 0.4, 2**40 + 3, 37, Y), [A], [Z]),
        "softmax_cross_entropy of labels": Call(
            loss(_ops.softmax_cross_entropy), [A, labels], [Z, number]),
        "softmax_cross_entropy of rows": Call(
            loss(_ops.softmax_cross_entropy), [A, T], [Z, number]),
        "softmax_cross_entropy with losses": Call(
            lambda X, T, dX, losses, value: value.fill(
                _ops.softmax_cross_entropy(X, T, dX, total=3.5, losses=losses)[0]),
            [A, T], [Z, blank(n), number]),
        "softmax_cross_entropy of labels with losses alone": Call(
            lambda X, labels, losses, value: value.fill(_ops.softmax_cross_entropy(
                X, labels, gradient=False, losses=losses)[0]), [A, labels], [blank(n), number]),
        "target_rows of labels": Call(
            lambda labels, T, total: total.fill(_ops.target_rows(
                labels, n_out, dtype, T=T)[1]), [labels], [Z, number]),
        "target_rows of labels with all weights": Call(
            lambda labels, w, c, T, total: total.fill(_ops.target_rows(
                labels, n_out, dtype, w, c, 0.1, 0, T)[1]), [labels, row_weights, c], [Z, number]),
        "target_rows of rows with all weights": Call(
            lambda R, w, c, T, total: total.fill(_ops.target_rows(
                R, n_out, dtype, w, c, 0.1, None, T)[1]), [T, row_weights, c], [Z, number]),
        "negative_log_likelihood": Call(
            loss(_ops.negative_log_likelihood), [A, T], [Z, number]),
        "negative_log_likelihood with losses": Call(
            lambda X, T, dX, losses, value: value.fill(
                _ops.negative_log_likelihood(X, T, dX, total=3.5, losses=losses)[0]),
            [A, T], [Z, blank(n), number]),
        "scale_rows": Call(_ops.scale_rows, [A, row_weights], [Z]),
        "scale_rows of entries": Call(_ops.scale_rows, [A, w], [Z]),
        "sum_of_weights": Call(
            lambda w, total: total.fill(_ops.sum_of_weights(w)), [w], [number]),
        "cross_entropy of labels": Call(loss(_ops.cross_entropy), [P, labels], [Z, number]),
        "cross_entropy of rows": Call(loss(_ops.cross_entropy), [P, T], [Z, number]),
        "mean_squared_error": Call(loss(_ops.mean_squared_error), [A, B], [Z, number]),
        "count_correct": Call(
            lambda A, T, number: number.fill(_ops.count_correct(A, T)), [A, T], [number]),
        "count_correct of the best 2": Call(
            lambda A, T, number: number.fill(_ops.count_correct(A, T, 2)), [A, T], [number]),
        "count_same_side": Call(
            lambda A, T, number: number.fill(_ops.count_same_side(A, T)), [A, T], [number]),
        "r2_score": Call(
            lambda A, T, number: number.fill(_ops.r2_score(A, T)), [A, T], [number]),
        "sgd_update": Call(update, [dZ], [A, B]),
        "sgd_update with every number": Call(
            lambda g, w, v: _ops.sgd_update(
                [g], [w], [v], 0.1, 0.9, gain=0.8, look=0.7, direct=0.6, **steps), [dZ], [A, B]),
        "sgd_update without velocity": Call(
            lambda g, w: _ops.sgd_update([g], [w], [None], 0.1, **steps), [dZ], [A]),
        "adam_update": Call(
            lambda g, w, m, s: _ops.adam_update([g], [w], [m], [s], **adam, **steps),
            [dZ], [A, B, T]),
        "rmsprop_update": Call(
            lambda g, w, s: _ops.rmsprop_update([g], [w], [s], **rmsprop), [dZ], [A, T]),
        "rmsprop_update with velocity": Call(
            lambda g, w, s, v: _ops.rmsprop_update(
                [g], [w], [s], [v], momentum=0.9, **rmsprop, **steps), [dZ], [A, T, B]),
        "rmsprop_update with velocity and average": Call(
            lambda g, w, s, v, m: _ops.rmsprop_update(
                [g], [w], [s], [v], [m], momentum=0.9, **rmsprop, **steps),
            [dZ], [A, T, B, P]),
        "sum_of_squares": Call(
            lambda g, total: total.fill(_ops.sum_of_squares(g)), [dZ], [number]),
    }


@pytest.fixture
def every_kernel():
    return calls_of_every_kernel
