"""Kernels read and write inside their arrays: inputs end right before a page nobody may touch.

A read beyond an input's end stops the process here, on every instruction set; tests of the outputs'
surroundings stand in test_kernels.py.
"""

import ctypes
import mmap
import sys
import threading

import numpy as np
import pytest

from fastnet import _ops

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect")


class Guarded:
    """Memory that ends before a page without access."""

    def __init__(self, size):
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, size + mmap.PAGESIZE)
        self.bytes = np.frombuffer(self.memory, np.uint8)[:size]
        libc = ctypes.CDLL(None, use_errno=True)
        guard = ctypes.c_void_p(self.bytes.ctypes.data + size)
        assert libc.mprotect(guard, mmap.PAGESIZE, 0) == 0

    def put(self, array):
        """Return a copy that ends where the accessible memory does."""
        place = self.bytes[len(self.bytes) - array.nbytes:].view(array.dtype).reshape(array.shape)
        place[...] = array
        return place


@pytest.fixture(scope="module")
def places():
    return [Guarded(2**21) for _ in range(4)]


def shapes():
    rng = np.random.default_rng(7)
    some = [tuple(rng.integers(1, high, 3)) for high in (12, 40, 90) for _ in range(120)]
    blocks = [(34, 58, 6), (257, 7, 9), (7, 257, 9), (9, 7, 257), (300, 33, 2), (1, 300, 130),
              (400, 65, 11), (3, 50, 600), (260, 513, 10)]
    return [tuple(map(int, shape)) for shape in some + blocks]


def test_dense_reads_nothing_beyond_its_inputs(places, dtype):
    rng = np.random.default_rng(8)
    for n, n_in, n_out in shapes():
        X, W, b, dZ = (rng.normal(size=size).astype(dtype)
                       for size in [(n, n_in), (n_in, n_out), n_out, (n, n_out)])
        x, w, bias, dz = (place.put(a) for place, a in zip(places, (X, W, b, dZ), strict=True))
        dW, dw = np.empty_like(W), np.empty_like(W)
        for relu in (False, True):
            assert np.array_equal(_ops.dense_forward(x, w, bias, relu=relu),
                                  _ops.dense_forward(X, W, b, relu=relu))
        assert np.array_equal(_ops.dense_backward(x, w, dz, dW=dw),
                              _ops.dense_backward(X, W, dZ, dW=dW))
        assert np.array_equal(dw, dW)


def test_the_other_kernels_read_nothing_beyond_their_inputs(places, dtype):
    rng = np.random.default_rng(9)
    for n, k in [(1, 1), (1, 17), (7, 3), (13, 10), (33, 33)]:
        X, Y, Z = (rng.normal(size=(n, k)).astype(dtype) for _ in range(3))
        x, y, z = (place.put(a) for place, a in zip(places, (X, Y, Z), strict=False))
        labels = places[3].put(rng.integers(k, size=n))
        for kernel, guarded, free in [
                (_ops.relu_forward, (x,), (X,)), (_ops.relu_backward, (x, y), (X, Y)),
                (_ops.add_forward, (x, y), (X, Y)), (_ops.maximum_forward, (x, y), (X, Y)),
                (_ops.maximum_backward, (x, y, z), (X, Y, Z)), (_ops.softmax_forward, (x,), (X,)),
                (_ops.softmax_backward, (x, y), (X, Y)),
                (_ops.softmax_cross_entropy, (x, labels), (X, labels.copy())),
                (_ops.mean_squared_error, (x, y), (X, Y))]:
            found, expected = kernel(*guarded), kernel(*free)
            if not isinstance(found, tuple):
                found, expected = (found,), (expected,)
            assert all(map(np.array_equal, found, expected))
        before = X.copy()
        _ops.sgd_update([y], [x], [z], 0.1, 0.9)
        _ops.sgd_update([Y], [X], [Z], 0.1, 0.9)
        assert np.array_equal(x, X) and not np.array_equal(X, before)


def test_a_small_stack_is_enough(dtype):
    """Some systems give threads 128 KB; the panels must fit beside what the interpreter needs."""
    X, W = np.ones((40, 600), dtype), np.ones((600, 5), dtype)
    results = []

    def work():
        Z = _ops.dense_forward(X, W)
        results.append(_ops.dense_backward(X, W, Z, dW=np.empty_like(W)))

    before = threading.stack_size(192 * 1024)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert results[0][0, 0] == 600 * 5
