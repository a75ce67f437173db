"""What tests of kernels share: dtypes, random numbers, every kernel with arrays, and fences."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from fastnet import _ops

FENCE = 256     # entries; no kernel writes more than 8 vectors of 16 at a time


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

    def update(*arguments):
        _ops.sgd_update([arguments[0]], [arguments[1]], [arguments[2]], 0.1, 0.9, True)

    def loss(function):
        return lambda x, t, dx, value: value.fill(function(x, t, dx)[0])

    return {
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
        "softmax_cross_entropy of labels": Call(
            loss(_ops.softmax_cross_entropy), [A, labels], [Z, number]),
        "softmax_cross_entropy of rows": Call(
            loss(_ops.softmax_cross_entropy), [A, T], [Z, number]),
        "cross_entropy of labels": Call(loss(_ops.cross_entropy), [P, labels], [Z, number]),
        "cross_entropy of rows": Call(loss(_ops.cross_entropy), [P, T], [Z, number]),
        "mean_squared_error": Call(loss(_ops.mean_squared_error), [A, B], [Z, number]),
        "count_correct": Call(
            lambda A, T, number: number.fill(_ops.count_correct(A, T)), [A, T], [number]),
        "sgd_update": Call(update, [dZ], [A, B]),
    }


@pytest.fixture
def every_kernel():
    return calls_of_every_kernel
