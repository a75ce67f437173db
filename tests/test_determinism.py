"""The same bits: for a row whatever the other rows are, from run to run, in every process, for any
number of threads, wherever arrays lie and whatever was called before.

One build, one instruction set, one seed and the same data are what has to be the same. How many
rows there are may change the way of a product: sizes in one of these classes go the same way.
"""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

import fastnet as fn

OF_NETWORKS = [*((n, n) for n in range(1, 16)), (16, 31), (32, 63), (64, 100_000)]
OF_FROZEN = [(1, 1), (2, 3), (4, 100_000)]

# Where ways change: few and many outputs, one input, one output, more than a block of sums.
SHAPES = [(1, 1), (2, 3), (5, 1), (4, 3), (10, 2), (16, 3), (31, 5), (33, 4), (64, 7), (100, 6),
          (129, 8), (200, 17), (256, 9), (300, 32), (400, 10), (500, 20), (784, 10), (1000, 2),
          (330, 70), (65, 260)]


def dense(n_in, n_out, dtype, **more):
    return fn.Dense(n_in, n_out, bias_init="uniform", dtype=dtype, rng=n_in + n_out, **more)


def make(kind, n_in, dtype):
    return fn.Sequential({
        "all": lambda: [
            dense(n_in, 33, dtype, activation="gelu"), fn.Dropout(0.5, rng=0),
            fn.Residual([fn.LayerNorm(33, dtype=dtype), dense(33, 33, dtype), fn.SiLU()]),
            fn.Softmax(), dense(33, 17, dtype, activation="tanh"), fn.ELU(), fn.Scale(3.0),
            fn.Residual([dense(17, 17, dtype, activation="sigmoid"), fn.LogSoftmax()]),
            dense(17, 7, dtype, activation="leaky_relu"), fn.GELU("tanh"), fn.Softmax()],
        "relu": lambda: [dense(n_in, 50, dtype), fn.ReLU(), dense(50, 3, dtype)],
    }[kind]())


class Twice(fn.Identity):
    """A layer of somebody's own: a network of it runs layer by layer."""

    def forward(self, x, out=None):
        return 2 * np.asarray(x)


def samples_of(first, last, rng):
    """Some sizes of a class, with its ends and what large inputs are cut into."""
    among = [n for n in (65, 100, 255, 256, 257, 300, 511, 513, 1000, 4097) if first < n < last]
    if last - first > 1:
        among += map(int, rng.integers(first, min(last, 3000) + 1, 2))
    return sorted({first, min(last, 2500), *among})


def assert_rows_are_independent(predict, x, classes, rng, spoilt=True):
    """Row by row: alone among others, in any order and beside NaN and huge numbers."""
    for first, last in classes:
        sizes = samples_of(first, last, rng)
        few = first                                     # rows that all these sizes have
        expected = predict(x[:sizes[0]])[:few]
        for n in sizes:
            at = rng.permutation(n)[:few]               # where these rows are to stand
            mixed = x[rng.integers(len(x), size=n)]
            if spoilt:
                mixed[rng.integers(n, size=1 + n // 3)] = rng.choice([np.nan, np.inf, 1e30, -0.0])
            mixed[at] = x[:few]
            assert predict(mixed)[at].tobytes() == expected.tobytes(), (n, first, last)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_of_a_dense_layer_does_not_depend_on_the_others(shape, dtype, rng):
    net = fn.Sequential([dense(*shape, dtype)])
    x = rng.normal(size=(4200, shape[0])).astype(dtype)
    assert_rows_are_independent(net.predict, x, OF_NETWORKS, rng)
    assert_rows_are_independent(net.layers[0].forward, x, OF_NETWORKS, rng)
    assert_rows_are_independent(net.frozen().predict, x, OF_FROZEN, rng)


@pytest.mark.parametrize("kind", ["all", "relu"])
def test_a_row_of_a_network_does_not_depend_on_the_others(kind, dtype, rng):
    net = make(kind, 40, dtype)
    x = rng.normal(size=(4200, 40)).astype(dtype)
    assert_rows_are_independent(net.predict, x, OF_NETWORKS, rng)
    assert_rows_are_independent(net.predict_proba, x, OF_NETWORKS, rng)
    assert_rows_are_independent(net.frozen().predict, x, OF_FROZEN, rng)
    assert_rows_are_independent(net.frozen().predict_proba, x, OF_FROZEN, rng)
    by_layers = fn.Sequential([Twice(), dense(40, 9, dtype)])
    assert_rows_are_independent(by_layers.predict, x, OF_NETWORKS, rng)


def test_a_row_of_an_estimator_does_not_depend_on_the_others(rng):
    sklearn = pytest.importorskip("fastnet.sklearn")
    x = rng.normal(size=(4200, 40))
    model = sklearn.MLPClassifier((9,), max_iter=2, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        model.fit(x[:50], rng.integers(3, size=50))
    assert_rows_are_independent(model.predict_proba, x, OF_NETWORKS, rng, spoilt=False)
    assert_rows_are_independent(model.frozen().predict_proba, x, OF_FROZEN, rng)


@pytest.mark.parametrize("n", [65_281, 255 * 256 + 1, 131_073])
def test_the_last_block_of_rows_is_not_a_short_one(n, rng):
    """Cut into blocks of 256 there would be one row left."""
    net = fn.Sequential([dense(100, 3, "float32"), dense(3, 600, "float32"),
                         dense(600, 5, "float32")])
    x = rng.normal(size=(n, 100)).astype("float32")
    expected = net.predict(x[-70:])[-70:]
    assert net.predict(x)[-70:].tobytes() == expected.tobytes()

    def equal(scores, target):
        return scores[-70:].tobytes() == expected.tobytes()

    net.compile("sgd", "mse", metrics=[equal])
    assert net.evaluate(x, np.zeros((n, 5))).metrics["equal"] == 1


@pytest.mark.parametrize("features, rows", [(64, 16_385), (20_000, 65)])
def test_memory_maps_are_cut_evenly_too(features, rows, tmp_path, rng):
    np.save(tmp_path / "x.npy", rng.normal(size=(rows, features)))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")              # float64, the network is float32
    net = fn.Sequential([dense(features, 3, "float32")])
    assert net.predict(x)[-64:].tobytes() == net.predict(np.array(x[-64:])).tobytes()


# ---- Threads -----------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["all", "relu"])
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_predictions_and_their_rows_have_the_bits_of_one_thread(kind, threads, dtype, rng):
    net, twin = make(kind, 700, dtype), make(kind, 700, dtype)
    net._engine.forced = threads
    x = rng.normal(size=(4200, 700)).astype(dtype)
    for n in (1, 2, 3, 15, 16, 17, 63, 64, 127, 300, 513, 1025, 4001, 4200):
        assert net.predict(x[:n]).tobytes() == twin.predict(x[:n]).tobytes(), n
    assert_rows_are_independent(net.predict, x, OF_NETWORKS[-3:], rng)


@pytest.mark.long
def test_no_part_of_a_softmax_is_so_short_that_it_goes_another_way():
    """10 401 rows in 26 parts of 416: the last one would be a single row."""
    n, wide = 10_401, 2_500
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, wide)).astype("f4"), rng.integers(32, size=n)
    found = set()
    for threads in (1, 7):
        net = fn.Sequential([fn.Dense(wide, wide, rng=0), fn.Dense(wide, 32, rng=1), fn.Softmax(),
                             fn.Dense(32, 32, weight_init=lambda shape, rng: 9 * np.eye(32))])
        net.compile("sgd")
        net._engine.forced = threads
        scores = np.empty((n, 32), "f4")
        trainer = net._trainer
        net._engine.train(x, y, None, trainer._objective, n, None, False, False,
                          trainer._steps_of(1), True, scores)
        found.add(scores.tobytes())
    assert len(found) == 1


# ---- Runs and processes ------------------------------------------------------------------------

TRAINED = """
import hashlib
import sys
import numpy as np
import fastnet as fn

dtype, threads, busy = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "busy"
if busy:                                # memory that was used before, and calls of other sizes
    kept = [np.full(size, np.nan, dtype) for size in (7, 1000, 99_999) for _ in range(20)]
    for n in (1, 300, 17):
        other = fn.Sequential([fn.Dense(9, 40, dtype=dtype), fn.Tanh(),
                               fn.Dense(40, 3, dtype=dtype)])
        other.compile("adam", "mse")
        other.train_step(np.ones((n, 9)), np.ones((n, 3)))
        other.predict(np.ones((n, 9)))
    del kept
rng = np.random.default_rng(5)
x, y = rng.normal(size=(700, 90)), rng.integers(4, size=700)
net = fn.Sequential([fn.Dense(90, 300, dtype=dtype, rng=rng), fn.GELU(), fn.Dropout(0.2, rng=rng),
                     fn.LayerNorm(300, dtype=dtype), fn.Dense(300, 200, dtype=dtype, rng=rng),
                     fn.ReLU(), fn.Dense(200, 4, dtype=dtype, rng=rng)])
net.compile("adam", metrics=["accuracy"])
net._engine.forced = threads
history = net.fit(x, y, batch_size=64, epochs=3, rng=1, verbose=0)
found = hashlib.sha256()
for _, value, _ in net.parameters():
    found.update(value.tobytes())
found.update(net.predict(x).tobytes() + repr([history.loss, history.accuracy]).encode())
print(found.hexdigest())
"""


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_every_process_and_any_number_of_threads_come_to_the_same_bits(kind):
    """Other seeds of Python's hashes, addresses of memory and earlier calls; 1 to 5 threads."""
    found = set()
    for seed, threads, before in (("0", 1, ""), ("1", 1, "busy"), ("2", 2, ""), ("3", 5, "busy")):
        done = subprocess.run(
            [sys.executable, "-c", TRAINED, kind, str(threads), before], text=True, timeout=120,
            capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        found.add(done.stdout)
    assert len(found) == 1 and len(found.pop()) == 2 * hashlib.sha256().digest_size + 1


@pytest.mark.parametrize("kind", ["all", "relu"])
def test_bits_do_not_depend_on_where_arrays_lie(kind, fenced, dtype, rng):
    """Inputs, targets and outputs begin at any entry of a line of the cache."""
    x, y = rng.normal(size=(70, 40)).astype(dtype), rng.integers(3, size=70)
    weights = rng.uniform(1, 2, 70).astype(dtype)
    found = set()
    for offset in range(64 // dtype.itemsize):
        net, fences = make(kind, 40, dtype), fenced()
        placed = fences.put(x, offset)
        net.compile("adam", "cross_entropy" if kind == "all" else "softmax_cross_entropy")
        more = [] if kind == "all" else [fences.put(weights, offset + 3)]
        net.train_step(placed, y, *more)
        out = fences.put(np.zeros((70, 3 if kind == "relu" else 7), dtype), offset + 5)
        net.predict(placed, out)
        assert fences.stand()
        found.add(out.tobytes() + b"".join(value.tobytes() for _, value, _ in net.parameters()))
    assert len(found) == 1


def test_bits_do_not_depend_on_earlier_calls(dtype, rng):
    x, y = rng.normal(size=(600, 40)).astype(dtype), rng.integers(3, size=600)
    fresh, used = make("relu", 40, dtype), make("relu", 40, dtype)
    for net in (fresh, used):
        net.compile("sgd")
    for n in (600, 1, 33):                              # of other sizes, and nothing is learnt
        used.predict(x[:n])
        used.evaluate(x[:n], y[:n])
        used.forward(x[:n])
        with pytest.raises(FloatingPointError):
            used.train_step(np.full((n, 40), np.nan), y[:n])
        used._engine.poison(np.nan)
    for net in (fresh, used):
        net.fit(x, y, epochs=2, rng=0, verbose=0)
    assert used.predict(x[:50]).tobytes() == fresh.predict(x[:50]).tobytes()
