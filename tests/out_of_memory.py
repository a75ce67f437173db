"""What is done again and again while memory runs out: a script for `test_out_of_memory.py`.

    LD_PRELOAD=failing_malloc.so PYTHONMALLOC=malloc python out_of_memory.py NAME ...

For each name: the 1st allocation fails, then the 2nd alone, and so on until a run needs no more;
then every 7th with the 29 that follow it. Each run is a child of its own. It must end in a
MemoryError, or as if nothing had happened; what it worked on must be whole then, and usable. Prints
what happened. Each day sees another tenth of this; FASTNET_OOM_EVERY=1 tries all.

Others do not look everywhere. Python's `open` says of a lock that it is a RuntimeError, and some of
NumPy's functions end in a SystemError; Python 3.11 crashes where a dict's iterator or a
context variable finds no memory. These are counted apart, and must be few.
"""

import collections
import ctypes
import gc
import hashlib  # noqa: F401  (while memory is out, to import a module is an OSError of Python's)
import itertools
import json  # noqa: F401
import os
import signal
import sys
import tempfile
import traceback
from datetime import date
from pathlib import Path

import numpy as np

import fastnet as fn

libc = ctypes.CDLL(None)
left, many, failed = (ctypes.c_long.in_dll(libc, name) for name in ("left", "many", "failed"))
# Statuses of a child; the first two, and others, are failures.
OUTCOMES = ["", "", "enough memory", "no error", "MemoryError", "other error"]
# What Python says where it finds no memory for a lock, or for the bound __fspath__ of a path.
PYTHONS_WORDS = {RuntimeError: "can't allocate",
                 TypeError: "expected str, bytes or os.PathLike object, not PosixPath"}
PYTHONS_OWN = 77    # as in failing_malloc.c
SECONDS = 60        # after which something hangs
EVERY = int(os.environ.get("FASTNET_OOM_EVERY", "10"))
RNG = np.random.default_rng(0)
# More than 1 KB each: smaller blocks NumPy keeps for itself, and its next array takes one of them.
X = RNG.normal(size=(700, 33)).astype(np.float32)
LABELS = RNG.integers(0, 5, 700)
NUMBERS = RNG.normal(size=(700, 5)).astype(np.float32)
WEIGHTS = RNG.uniform(1, 2, 700).astype(np.float32)


def as_if_new():
    """Empty what Python and NumPy keep for objects to come; returns what has to live meanwhile."""
    gc.collect()
    return [np.empty(size, np.uint8) for size in range(4, 1024, 4) for _ in range(7)]


def once(work, look, objects, at, together):
    """Do something while allocations fail, see what is left, and return what happened.

    `look(objects, result)` says whether all is well; result None: there was an error.
    """
    outcome, where = "no error", ""
    result, left.value, many.value = None, at, together
    try:
        result = work(*objects)
    except MemoryError:
        many.value = 0
        outcome, where = "MemoryError", traceback.format_exc()
    except (SystemError, RuntimeError, TypeError) as error:
        many.value = 0
        *_, last = traceback.walk_tb(error.__traceback__)
        if not str(error).startswith(PYTHONS_WORDS.get(type(error), "")):
            raise
        if last[0].f_code.co_filename.endswith(".pyx"):     # not ours
            raise
        outcome = "other error"
    many.value = 0
    if not failed.value:
        assert outcome == "no error"
        outcome = "enough memory"
    try:
        look(objects, result)
    except AssertionError as error:
        error.add_note(where)
        raise
    return outcome


def in_a_child(*arguments):
    """Return what `once` does, or that Python crashed; whatever else it was ends this."""
    child = os.fork()
    if not child:
        status = 1
        signal.alarm(SECONDS)
        try:
            status = OUTCOMES.index(once(*arguments))
        except BaseException:
            many.value = 0
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in range(2, len(OUTCOMES)) or code == PYTHONS_OWN, f"it ended with status {code}"
    return "crash of Python's" if code == PYTHONS_OWN else OUTCOMES[code]


def sweep(name, objects, work, look):
    """Each run begins with the same objects."""
    gc.disable()
    first = date.today().toordinal() % EVERY
    for together, distance in ((1, EVERY), (30, 7 * EVERY)):
        found = collections.Counter()
        held = as_if_new()
        for at in itertools.count(first, distance):
            try:
                outcome = in_a_child(work, look, objects, at, together)
            except AssertionError as error:
                error.add_note(f"{name}: allocation {at}, {together} in a row")
                raise
            if outcome == "enough memory":
                break
            found[outcome] += 1
        del held
        share = 0.9 if EVERY == 1 else 0.75         # of some tenths more are others
        assert found["MemoryError"] >= share * found.total() > 0
        print(f"{name}: {together} in a row at {found.total()} places, "
              + ", ".join(f"{number} {outcome}" for outcome, number in found.most_common()),
              flush=True)


# ---- What networks have come to ----------------------------------------------------------------

def state(net):
    """All that a step changes, as bytes."""
    optimizer = net.optimizer
    kept = []
    for layer in (layer for layer in net.layers if list(layer.parameters())):
        for states in optimizer._states.get(layer, []):
            kept += [array.tobytes() for array in states if array is not None and array.any()]
    seen = [tuple(layer._seen) for layer in net.layers if isinstance(layer, fn.Dropout)]
    parameters = [value.tobytes() for _, value, _ in net.parameters()]
    return parameters, optimizer.steps, kept, seen


def check_trained(make_net, work, steps):
    """A sweep over training: `steps` are the arguments of the steps that `work` takes."""
    def after(n):
        net = make_net()
        for step in steps[:n]:
            net.train_step(*step[:-1], **step[-1])
        return net

    finished = [state(after(n)) for n in range(len(steps) + 1)]
    assert finished[0] != finished[-1]

    def look(objects, result):
        net = objects[0]
        now = state(net)
        assert now in finished, "not the parameters of a finished step"
        n = finished.index(now)
        assert result is None or n == len(steps), "an error was lost"
        for step in steps[n:]:
            net.train_step(*step[:-1], **step[-1])
        assert state(net) == finished[-1], "training does not go on as it would have"

    return (make_net(), np.random.default_rng(3)), work, look


def network(optimizer, loss="softmax_cross_entropy", widths=(33, 40, 5), hidden=fn.ReLU, steps=1000,
            threads=1, **options):
    def make(rng=None):
        rng = np.random.default_rng(1) if rng is None else rng
        layers = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [fn.Dense(n_in, n_out, rng=rng), hidden()]
        net = fn.Sequential(layers[:-1])
        net.compile(optimizer(), loss, **options)
        net.optimizer.steps = steps         # a number for which Python makes an object
        if net._engine is not None:
            net._engine.forced = threads
        return net
    return make


def orders(epochs):
    rng = np.random.default_rng(3)
    return [rng.permutation(len(X)) for _ in range(epochs)]


class Own(fn.activations.ReLU):
    """A layer that is not built in: steps are taken layer by layer."""


def fit(y, weights=None, rows=300, **options):
    def work(net, rng):
        return net.fit(X, y, rows, epochs=2, rng=rng, verbose=0, sample_weight=weights, **options)

    steps = [(X[some], y[some], None if weights is None else weights[some], {})
             for order in orders(2) for some in np.split(order, range(rows, len(X), rows))]
    return work, steps


def train_step(net, rng):
    return net.train_step(X, LABELS)


def gathered(net, rng):
    """Gradients of two batches, from an iterable."""
    return net.fit([(X[:300], NUMBERS[:300]), (X[300:], NUMBERS[300:])], epochs=2, verbose=0,
                   gradient_accumulation_steps=2)


def has_gathered(make_net):
    def make():
        net = make_net()
        net.train_step(X[::2], LABELS[::2], update=False)
        return net
    return make


def fits(n):
    return [(X, LABELS, None, {})] * n


# ---- Predictions, and files --------------------------------------------------------------------

def check_answers(make_net, work):
    """A sweep over something that changes nothing."""
    expected = work(make_net())

    def look(objects, result):
        [net] = objects
        for found in (work(net), result):
            assert found is None or np.array_equal(found, expected)

    return (make_net(),), work, look


trained = network(fn.Adam, metrics=["accuracy", "top_2_accuracy"])


def frozen():
    return trained().frozen()


def proba(net):
    return net.predict_proba(X)


def content(path):
    return Path(path).read_bytes()


def check_saved(folder):
    path = os.path.join(folder, "net.safetensors")

    def make():
        net = trained()
        net.save(path)
        net.train_step(X, LABELS)
        return (net,)

    [first] = make()
    before = content(path)
    first.save(path)
    after = content(path)

    def work(net):
        net.save(path)
        return "saved"

    def look(objects, result):
        drafts = set(os.listdir(folder)) - {"net.safetensors"}
        for draft in drafts:
            os.unlink(os.path.join(folder, draft))
        # Where all that it takes to remove it failed as well, it stays.
        assert failed.value > 1 or not drafts, "a temporary file stays"
        assert content(path) in ((before, after) if result is None else (after,))
        work(*objects)
        assert content(path) == after

    return make(), work, look


def check_loaded(folder):
    path = os.path.join(folder, "net.safetensors")
    net = trained()
    net.train_step(X, LABELS)
    net.save(path)
    expected = state(net)

    def look(objects, result):
        for found in (fn.load(path), result):
            assert found is None or state(found) == expected

    return (path,), fn.load, look


def check_built():
    make = network(lambda: fn.AdamW(fn.schedules.Cosine(0.01, 2000), clip_norm=1.0), hidden=fn.GELU)
    expected = state(make())

    def look(objects, result):
        for found in (make(), result):
            assert found is None or state(found) == expected

    return (np.random.default_rng(1),), make, look


def scenarios(folder):
    adam = network(fn.Adam, metrics=["accuracy"])
    return {
        "fit": lambda: check_trained(adam, *fit(LABELS)),
        "fit with weights": lambda: check_trained(
            network(lambda: fn.SGD(0.1, 0.9), widths=(33, 300, 5)), *fit(LABELS, WEIGHTS)),
        "fit in blocks on threads": lambda: check_trained(
            network(lambda: fn.RMSprop(fn.schedules.Cosine(0.01, 2000)), "mse", (33, 500, 5),
                    threads=2), *fit(NUMBERS, rows=len(X))),
        "fit with validation and a checkpoint": lambda: check_trained(adam, *fit(
            LABELS, validation_data=(X[:50], LABELS[:50]),
            callbacks=[fn.callbacks.Checkpoint(Path(folder, "checkpoint"))])),
        "fit layer by layer": lambda: check_trained(
            network(fn.Adam, "mse", hidden=Own), *fit(NUMBERS)),
        "fit on gathered batches": lambda: check_trained(
            network(fn.Adam, "mse"), gathered,
            2 * [(X[:300], NUMBERS[:300], None, {"update": False}),
                 (X[300:], NUMBERS[300:], None, {})]),
        "train_step": lambda: check_trained(adam, train_step, fits(1)),
        "train_step after gathered gradients": lambda: check_trained(
            has_gathered(adam), train_step, fits(1)),
        "train_step layer by layer": lambda: check_trained(
            network(fn.Adam, hidden=Own), train_step, fits(1)),
        "train_step layer by layer after gathered gradients": lambda: check_trained(
            has_gathered(network(fn.Adam, hidden=Own)), train_step, fits(1)),
        "build": check_built,
        "predict": lambda: check_answers(trained, lambda net: net.predict(X)),
        "predict layer by layer": lambda: check_answers(
            network(fn.Adam, hidden=Own), lambda net: net.predict(X)),
        "predict_proba": lambda: check_answers(trained, proba),
        "predict, frozen": lambda: check_answers(frozen, lambda net: net.predict(X)),
        "freeze": lambda: check_answers(trained, lambda net: net.frozen().predict(X)),
        "evaluate": lambda: check_answers(trained, lambda net: tuple(net.evaluate(X, LABELS))),
        "save": lambda: check_saved(folder),
        "load": lambda: check_loaded(folder),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        known = scenarios(folder)
        if sys.argv[1:] == ["--names"]:
            print(*known, sep="\n")
            sys.exit()
        for name in sys.argv[1:] or known:
            sweep(name, *known[name]())
