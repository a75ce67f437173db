"""Several threads: the same bits for any number of them; forks, other threads and exits."""

import os
import subprocess
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import fastnet as fn
from fastnet import _ops, _pool

THREADS = [2, 3, 8]


def make(kind, dtype):
    rng = np.random.default_rng(1)

    def dense(n_in, n_out, **options):
        return fn.Dense(n_in, n_out, dtype=dtype, rng=rng, **options)

    return fn.Sequential({
        "wide": lambda: [dense(300, 500), fn.ReLU(), dense(500, 400), fn.ReLU(), dense(400, 10)],
        "all layers": lambda: [
            dense(300, 129, activation="gelu"), fn.Dropout(0.3, rng=rng),
            fn.Residual([fn.LayerNorm(129, dtype=dtype), dense(129, 129), fn.SiLU(),
                         fn.Scale(0.5)]),
            fn.Tanh(), dense(129, 130), fn.ELU(), fn.Softmax(), dense(130, 64), fn.LogSoftmax(),
            dense(64, 3)],
        "wide of all layers": lambda: [
            dense(300, 384), fn.Softmax(), dense(384, 400, activation="gelu"),
            fn.Residual([fn.LayerNorm(400, dtype=dtype), fn.Softmax(), fn.Scale(0.5)]),
            fn.Dropout(0.3, rng=rng), fn.LogSoftmax(), fn.Tanh(), dense(400, 10)],
        "one output": lambda: [dense(300, 260), fn.ReLU(), dense(260, 1)],
        "narrow": lambda: [dense(300, 7), fn.ReLU(), dense(7, 300), fn.Sigmoid(), dense(300, 5),
                           fn.LogSoftmax()],
    }[kind]())


def bits(net):
    return b"".join(value.tobytes() for _, value, _ in net.parameters())


def trained(kind, dtype, threads, optimizer, n, batch, **options):
    rng = np.random.default_rng(2)
    net = make(kind, dtype)
    n_out = net.predict(np.zeros((1, 300))).shape[1]
    x, y = rng.normal(size=(n, 300)), rng.normal(size=(n, n_out))
    net.compile(optimizer(), "mse", **options)
    net._engine.forced = threads
    history = net.fit(x, y, batch_size=batch, epochs=2, rng=0, verbose=0)
    return bits(net), history.loss, net.predict(x).tobytes(), net.evaluate(x, y).loss


@pytest.mark.parametrize("optimizer", [
    lambda: fn.SGD(1e-5, 0.9), lambda: fn.Adam(1e-3), lambda: fn.AdamW(1e-3, clip_norm=0.1)],
    ids=["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("n, batch", [(100, 33), (600, 600), (70, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "kind", ["wide", "all layers", "wide of all layers", "one output", "narrow"])
def test_bits_do_not_depend_on_the_number_of_threads(kind, dtype, n, batch, optimizer):
    alone = trained(kind, dtype, 1, optimizer, n, batch)
    for threads in THREADS:
        assert trained(kind, dtype, threads, optimizer, n, batch) == alone


@pytest.mark.parametrize("width", [383, 384, 1000])
def test_no_row_of_a_wide_layer_is_made_twice(width):
    """Two parts that write the same entries of a softmax spoil them, now and then."""
    net = fn.Sequential([fn.Dense(100, width, rng=0), fn.Softmax(), fn.LogSoftmax()])
    x = np.random.default_rng(0).normal(size=(900, 100)).astype("f4")
    net._engine.forced = 1
    alone = net.predict(x).tobytes()
    net._engine.forced = 2
    assert all(net.predict(x).tobytes() == alone for _ in range(60))


def test_gradients_that_are_kept():
    results = []
    for threads in (1, 2):
        net = make("wide", "float32")
        net.compile(fn.Adam(1e-3), "mse", keep_gradients=True)
        net._engine.forced = threads
        rng = np.random.default_rng(2)
        net.train_step(rng.normal(size=(300, 300)), rng.normal(size=(300, 10)))
        results.append([gradient.tobytes() for _, _, gradient in net.parameters()])
    assert results[0] == results[1]


# ---- The networks that the benchmarks time ---------------------------------------------------

GRID = Path(__file__).resolve().parent.parent / "bench" / "grid.toml"
STEPS, BRIEF = 200, 1e9         # multiplications that the short version of a test may take


def grid():
    """Widths and batch of every network."""
    if not GRID.exists():
        return []
    return [(net["widths"], net["batch"]) for net in tomllib.loads(GRID.read_text())["net"]]


def after_steps(widths, batch, dtype, steps, threads):
    """Parameters and losses after some steps with dropout; `threads`: of each step, in turns."""
    rng = np.random.default_rng(4)
    layers = []
    for i, (n_in, n_out) in enumerate(pairwise(widths)):
        layers += [fn.Dense(n_in, n_out, dtype=dtype, rng=i), fn.ReLU(), fn.Dropout(0.1, rng=i)]
    net = fn.Sequential(layers[:-2])
    net.compile(fn.SGD(0.01, 0.9))
    x = rng.normal(size=(2, batch, widths[0])).astype(dtype)
    y = rng.integers(0, widths[-1], (2, batch))
    losses = []
    for step in range(steps):
        net._engine.forced = threads[step % len(threads)]
        losses.append(net.train_step(x[step % 2], y[step % 2]))
    return bits(net), losses


def check_bits(widths, batch, dtype, steps, others):
    """The number of threads changes from step to step: no step may notice."""
    alone = after_steps(widths, batch, dtype, steps, [1])
    for threads in others:
        assert after_steps(widths, batch, dtype, steps, threads) == alone


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("widths, batch", grid(), ids=str)
def test_the_networks_of_the_grid(widths, batch, dtype):
    work = 3 * batch * sum(a * b for a, b in pairwise(widths))
    check_bits(widths, batch, dtype, min(STEPS, max(1, int(BRIEF / work))), [[2, 3, 8]])


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("widths, batch", grid(), ids=str)
def test_200_steps_of_the_networks_of_the_grid(widths, batch, dtype):
    check_bits(widths, batch, dtype, STEPS, [[2], [3], [8]])


def busy(core):
    """A process that keeps a core busy."""
    return subprocess.Popen([sys.executable, "-c", (
        f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass")])


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs affinity")
@pytest.mark.parametrize("widths, batch", [([64, 64, 64, 10], 64), ([17, 256, 256, 6], 256)])
def test_bits_under_load(widths, batch):
    """Also where the number of threads is left to measurements, which the load disturbs."""
    neighbours = [busy(core) for core in sorted(os.sched_getaffinity(0))[:2]]
    try:
        check_bits(widths, batch, "float32", STEPS, [[2, 3, 8], [0]])
    finally:
        for process in neighbours:
            process.kill()
            process.wait()


def test_nested_in_python_threads():
    """Fits in several Python threads share the pool: who finds it busy works alone."""
    def fit(_):
        return after_steps([300, 400, 10], 200, "float32", 20, [2, 3])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fit, range(4)))
    assert found == [after_steps([300, 400, 10], 200, "float32", 20, [1])] * 4


def test_56_nested_in_processes():
    joblib = pytest.importorskip("joblib")
    done = joblib.Parallel(2)(joblib.delayed(after_steps)([300, 400, 10], 200, "float32", 20, [0])
                              for _ in range(2))
    assert done == [after_steps([300, 400, 10], 200, "float32", 20, [1])] * 2


# ---- The pool itself ---------------------------------------------------------------------------

@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("work", [0, 300, 30_000])
def test_every_part_is_done_once(work, threads):
    for parts in (1, 2, 7, 100):
        counts = np.zeros(parts, np.int32)
        for _ in range(100 if work < 1000 else 3):
            _pool.exercise(counts, work, threads)
        assert set(counts) == {100 if work < 1000 else 3}


def test_workers_stay():
    assert _pool.exercise(np.zeros(4, np.int32), 10, 3) >= 2


def test_several_python_threads_at_once():
    failed = []

    def loop():
        counts = np.zeros(5, np.int32)
        for _ in range(2000):
            _pool.exercise(counts, 50, 3)
        if set(counts) != {2000}:
            failed.append(counts)

    threads = [threading.Thread(target=loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def run(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          timeout=120)


FORK = """
import os, sys
import numpy as np
from fastnet import _ops, _pool
def works():
    counts = np.zeros(8, np.int32)
    _pool.exercise(counts, 1000, 3)
    return set(counts) == {1}
def threads():
    return len(os.listdir("/proc/self/task"))
if BEFORE:
    assert works()
for _ in range(20):
    child = os.fork()
    if not child:
        os._exit(0 if works() and works() and threads() == 3 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert works()
print("fine")
"""


PROCESSORS = """
import os, time
import numpy as np
from fastnet import _pool
a, b = sorted(os.sched_getaffinity(0))[:2]
before = set(os.listdir("/proc/self/task"))
_pool.exercise(np.zeros(8, np.int32), 1000, 2)
worker, = (int(task) for task in set(os.listdir("/proc/self/task")) - before)
def check(caller, expected):
    os.sched_setaffinity(0, {caller})
    _pool.exercise(np.zeros(8, np.int32), 1000, 2)
    for late in range(60):  # it may wake late, where others are busy
        time.sleep(0.05)
        if os.sched_getaffinity(worker) == expected:
            return
    raise AssertionError((caller, expected, os.sched_getaffinity(worker)))
everywhere = os.sched_getaffinity(0)
os.sched_setaffinity(worker, {a, b})
check(a, {b})
check(b, {a})
check(a, {b})
os.sched_setaffinity(worker, {a})   # somebody's choice: no other processor is added to it
check(b, {a})
check(a, {a})
check(b, {a})
os.sched_setaffinity(worker, everywhere)
check(a, everywhere - {a})
print("fine")
"""


@pytest.mark.skipif(len(getattr(os, "sched_getaffinity", lambda pid: [])(0)) < 2,
                    reason="needs Linux and two processors")
def test_workers_leave_the_callers_processor_alone():
    done = run(PROCESSORS)
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("before", [False, True])
def test_52_fork(before):
    done = run(FORK.replace("BEFORE", str(before)))
    assert done.stdout == "fine\n", done.stderr


def test_exit_while_workers_wait():
    done = run("import numpy as np; from fastnet import _pool; "
               "_pool.exercise(np.zeros(8, np.int32), 1000, 4); print('fine')")
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


# ---- Layers called one by one ------------------------------------------------------------------

@pytest.fixture
def forced():
    yield _ops.force_threads
    _ops.force_threads(0)


@pytest.mark.parametrize("kind", [
    lambda dtype: fn.Dense(300, 500, dtype=dtype, rng=0),
    lambda dtype: fn.Dense(784, 10, dtype=dtype, rng=0),
    lambda dtype: fn.Dense(300, 1, dtype=dtype, rng=0),
    lambda dtype: fn.Dense(300, 400, activation="relu", dtype=dtype, rng=0),
    lambda dtype: fn.ReLU(), lambda dtype: fn.GELU(), lambda dtype: fn.Tanh()],
    ids=["wide", "narrow", "one output", "with a ReLU", "ReLU", "GELU", "Tanh"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 3, 33, 1000])
def test_layers_have_the_same_bits(kind, dtype, n, forced):
    results = []
    for threads in (1, *THREADS):
        forced(threads)
        layer = kind(dtype)
        rng = np.random.default_rng(3)
        x = rng.normal(size=(n, getattr(layer, "in_features", 500))).astype(dtype)
        y = layer.forward(x)
        dx = layer.backward(rng.normal(size=y.shape).astype(dtype))
        gradients = [gradient.tobytes() for _, _, gradient in layer.parameters()]
        results.append((y.tobytes(), dx.tobytes(), gradients))
    assert all(found == results[0] for found in results)
