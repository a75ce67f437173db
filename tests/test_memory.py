"""Kernels read and write inside their arrays, and do not care where these lie.

Beyond the arrays' ends stands a page that nobody may touch: whoever does stops the process, on
every instruction set. Or there are fences around them, entries that must stay as they are.
"""

import ctypes
import mmap
import sys
import threading

import numpy as np
import pytest

import fastnet as fn
from fastnet import _engine, _ops, reference

FENCE = 1024    # entries

# Every tail of a vector in each dimension, then each way of a product and its blocks.
SIZES = [*range(1, 34), 37, 67]
SHAPES = sorted({shape for s in SIZES for shape in [(s, 5, 7), (3, s, 4), (4, 6, s)]}) + [
    (1, 300, 130), (2, 300, 270), (3, 50, 600), (5, 167, 2), (7, 257, 9), (9, 7, 257), (16, 90, 17),
    (20, 101, 130), (34, 58, 6), (64, 70, 1), (257, 7, 9), (260, 513, 10), (300, 33, 2),
    (400, 40, 20), (400, 65, 11)]


def test_what_is_tested_here_is_every_kernel(every_kernel, rng, dtype):
    tested = {name.split()[0] for name in every_kernel(rng, dtype, 1, 1, 1)}
    without_twin = {"pack_weights", "dense_forward_packed", "dense_sgd_update"}
    assert tested == set(reference.__all__) | without_twin


def test_every_kernel_writes_all_of_its_outputs_and_nothing_else(every_kernel, fenced, rng, dtype):
    """Outputs start as NaN, which no result here is."""
    for shape in SHAPES:
        for name, call in every_kernel(rng, dtype, *shape).items():
            fences = fenced()
            outputs = [fences.put(output, sum(shape) % 16) for output in call.outputs]
            call.run(*call.inputs, *outputs)
            assert fences.stand(), (name, shape)
            assert not any(np.isnan(output).any() for output in outputs), (name, shape)


@pytest.mark.parametrize(
    "shape", [(13, 77, 53), (2, 300, 140), (64, 40, 3), (5, 33, 33), (40, 9, 1)], ids=str)
def test_every_kernel_gives_the_same_bits_in_every_run_and_wherever_its_arrays_lie(
        shape, every_kernel, fenced, rng, dtype):
    """Vectors may start at any entry: what is added up in which order depends on shapes alone."""
    for name, call in every_kernel(rng, dtype, *shape).items():
        seen = set()
        for offset in [0, *range(64 // dtype.itemsize)]:        # the first place twice: two runs
            fences = fenced()
            inputs = [fences.put(array, offset + i) for i, array in enumerate(call.inputs)]
            outputs = [fences.put(array, offset + 3 * i) for i, array in enumerate(call.outputs)]
            call.run(*inputs, *outputs)
            assert fences.stand(), (name, offset)
            seen.add(b"".join(output.tobytes() for output in outputs))
        assert len(seen) == 1, name


# ---- Up to the last page ---------------------------------------------------------------------

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
    return [Guarded(2**21) for _ in range(7)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect")
def test_no_kernel_touches_what_lies_beyond_its_arrays(places, every_kernel, rng, dtype):
    some = [tuple(map(int, rng.integers(1, high, 3))) for high in (12, 40, 90) for _ in range(120)]
    for shape in some + SHAPES:
        for name, call in every_kernel(rng, dtype, *shape).items():
            arrays = call.inputs + [output.copy() for output in call.outputs]
            guarded = [place.put(array) for place, array in zip(places, arrays, strict=False)]
            assert len(guarded) == len(arrays)
            call.run(*arrays)
            call.run(*guarded)
            assert all(map(np.array_equal, guarded, arrays)), (name, shape)


def test_a_small_stack_is_enough(dtype):
    """Some systems give threads 128 KB; the panels must fit beside what the interpreter needs."""
    results = []

    def work():
        for n, n_in, n_out in [(40, 600, 5), (600, 300, 400)]:
            X, W = np.ones((n, n_in), dtype), np.ones((n_in, n_out), dtype)
            Z = _ops.dense_forward(X, W)
            results.append(_ops.dense_backward(X, W, Z, dW=np.empty_like(W))[0, 0])

    before = threading.stack_size(192 * 1024)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert results == [600 * 5, 300 * 400]


@pytest.mark.parametrize("batch", [1, 5, 16, 255, 257, 300, 512, 513, 770])
def test_engines_stay_in_their_memory(batch, dtype, rng, monkeypatch):
    """A last batch may have larger blocks than those before: 257 rows are taken as 129 and 128."""
    fences = []

    def fenced_zeros(size, dtype):
        memory = aligned_zeros(size + 2 * FENCE, dtype)
        fences.extend([memory[:FENCE], memory[FENCE + size:]])
        memory[:FENCE] = memory[FENCE + size:] = 7
        return memory[FENCE:FENCE + size]

    aligned_zeros = _engine.aligned_zeros
    monkeypatch.setattr(_engine, "aligned_zeros", fenced_zeros)
    for last in (1, batch * 5 // 6, batch - 1):
        net = fn.Sequential([
            fn.Dense(7, 19, activation="tanh", dtype=dtype, rng=0),
            fn.Residual([fn.LayerNorm(19, dtype=dtype), fn.Dense(19, 19, dtype=dtype, rng=1)]),
            fn.Dropout(0.2, rng=0), fn.ReLU(), fn.Dense(19, 3, dtype=dtype, rng=2)])
        net.compile("adam", metrics=["accuracy"])
        n = 2 * batch + last
        x, y = rng.normal(size=(n, 7)), rng.integers(3, size=n)
        net.fit(x, y, batch, rng=0, verbose=0)
        net.fit(x, y, batch, sample_weight=rng.uniform(size=n), shuffle=False, verbose=0)
        net.train_step(x[:batch], y[:batch], update=False)
        net.evaluate(x, y)
        net.predict(x)
        net.frozen().predict(x)
    assert len(fences) > 12 and all((fence == 7).all() for fence in fences)
