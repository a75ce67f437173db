"""Memory of the process stays what it is, however often something is done.

Resident memory, what malloc has given out and what Python knows of are measured after a beginning,
in which caches fill, and again after many calls: 500 by default, and 100 000 with `-m long`. What
malloc gives out would show 16 bytes kept of each, resident memory 16 of each hundred thousand. Of
what takes long there are fewer, down to a hundredth.
"""

import copy
import ctypes
import gc
import os
import pickle
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import fastnet as fn

FOLDER = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
X = np.random.default_rng(0).normal(size=(40, 30)).astype("f4")
Y = np.arange(40) % 3


def make(dtype="float32", optimizer="adam"):
    net = fn.Sequential([fn.Dense(30, 50, activation="gelu", dtype=dtype, rng=0), fn.Dropout(0.1),
                         fn.Residual([fn.LayerNorm(50, dtype=dtype),
                                      fn.Dense(50, 50, dtype=dtype)]),
                         fn.ReLU(), fn.Dense(50, 3, dtype=dtype, rng=1)])
    net.compile(optimizer, metrics=["accuracy"])
    return net


def small():
    net = fn.Sequential([fn.Dense(4, 5, activation="relu", rng=0), fn.Dense(5, 3, rng=1)])
    net.compile("adam")
    return net


NET, FROZEN = make(), make().frozen()
BY_LAYERS = fn.Sequential([fn.Dense(30, 3, rng=0), type("Own", (fn.Identity,), {})()])
BY_LAYERS.compile()
OUT = np.zeros((40, 3), "f4")


def refused():
    for call in (lambda: NET.train_step(X[:, 1:], Y), lambda: NET.train_step(X, Y + 7),
                 lambda: NET.train_step(X * np.nan, Y), lambda: NET.predict("text"),
                 lambda: NET.predict(X, OUT[:7]), lambda: FROZEN.predict(X[0])):
        with pytest.raises((ValueError, FloatingPointError)):
            call()


def saved_and_loaded():
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        NET.save(Path(folder, "net"))
        fn.load(Path(folder, "net")).predict(X)


def a_damaged_file():
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        path = Path(folder, "net")
        path.write_bytes(DAMAGED)
        with pytest.raises(fn.ModelFileError):
            fn.load(path)


PLACE = tempfile.TemporaryDirectory(dir=FOLDER)     # for as long as the process lasts
SAVED = Path(PLACE.name, "small")
small().save(SAVED)
NET.save(Path(PLACE.name, "net"))
DAMAGED = Path(PLACE.name, "net").read_bytes()[:-1] + b"?"

# What is done, and how much of a long run's 100 000 (it may hold many calls).
CALLS = {
    "steps": (lambda: NET.train_step(X, Y), 1),
    "steps layer by layer": (lambda: BY_LAYERS.train_step(X, Y), 1),
    "steps of changing sizes": (lambda: [NET.train_step(X[:n], Y[:n]) for n in (1, 40, 7)], 0.3),
    "weighted steps": (lambda: NET.train_step(X, Y, OUT[:, 0] * 0 + 1), 1),
    "gathered steps": (lambda: [NET.train_step(X, Y, update=False), NET.train_step(X, Y)], 0.5),
    "predictions": (lambda: [NET.predict(X), NET.predict(X, OUT), NET.predict_labels(X)], 1),
    "frozen predictions": (lambda: [FROZEN.predict(X), FROZEN.predict_proba(X)], 1),
    "measuring": (lambda: NET.evaluate(X, Y), 1),
    "fits": (lambda: NET.fit(X, Y, batch_size=9, verbose=0), 0.1),
    "fits on batches": (lambda: NET.fit([(X, Y)], verbose=0), 0.1),
    "layers": (lambda: (NET.forward(X), NET.backward(OUT)), 0.3),
    "constructions": (small, 1),
    "constructions of more layers": (make, 0.1),
    "loads": (lambda: fn.load(SAVED), 1),
    "frozen copies": (NET.frozen, 0.3),
    "copies": (lambda: copy.deepcopy(NET), 0.02),
    "pickles": (lambda: pickle.loads(pickle.dumps(NET)).predict(X), 0.03),
    "saves and loads": (saved_and_loaded, 0.01),
    "damaged files": (a_damaged_file, 0.1),
    "refused calls": (refused, 0.1),
    "edits": (lambda: setattr(NET.layers[0], "weight", np.zeros((30, 50))), 1),
}


def resident():
    """Bytes of memory that the process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _Malloc(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]


def given_out():
    """Bytes that malloc has given out, where it tells."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return 0
    library.mallinfo2.restype = _Malloc
    found = library.mallinfo2()
    return found.uordblks + found.hblkhd


def assert_flat(call, times, slack):
    """Resident memory grows by less than `slack` bytes in so many calls, malloc's by 8 for each.

    That is, in nine tenths of them. The tenth in which it grew most is passed over: Python's table
    of names, to which NumPy's errstate adds some that are forgotten again, is built anew now and
    then, of 2 MB at a time.
    """
    for _ in range(max(20, times // 10)):
        call()
    seen = []
    for tenth in range(11):
        for _ in range(times // 10 if tenth else 0):
            call()
        gc.collect()
        seen.append((resident(), given_out()))
    limits = {"resident": slack, "given out": max(4096, 8 * times)}
    for (memory, limit), values in zip(limits.items(), zip(*seen, strict=True), strict=True):
        grown = values[-1] - values[0] - max(np.diff(values))
        assert grown <= limit, f"{grown:,} bytes more {memory} after {times:,} calls"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_kept_of_a_call(name):
    """Python's allocator tells to the byte; what bypasses it, malloc and resident memory."""
    call, share = CALLS[name]
    times = max(30, round(500 * share))
    for _ in range(20):
        call()
    gc.collect()
    tracemalloc.start()
    try:
        call()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(times // 5):
            call()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # Python keeps lists of tuples and the like to use again, some ten kilobytes of them.
    assert grown < 64_000, f"{grown} bytes in {times // 5} calls"
    assert_flat(call, times, 450_000)


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_kept_of_a_hundred_thousand_calls(name):
    call, share = CALLS[name]
    assert_flat(call, round(100_000 * share), 1_400_000)
    print(f"{name}: {resident() / 2**20:.1f} MB after {round(100_000 * share):,}")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_nothing_is_kept_by_estimators():
    sklearn = pytest.importorskip("fastnet.sklearn")
    model = sklearn.MLPClassifier((9,), random_state=0)
    model.partial_fit(X, Y, classes=[0, 1, 2])

    def call():
        model.partial_fit(X, Y)
        model.predict(X)
        model.frozen().predict(X)

    for _ in range(1100):           # the latest 1000 losses are kept
        model.partial_fit(X, Y)
    assert_flat(call, 300, 1 << 20)
