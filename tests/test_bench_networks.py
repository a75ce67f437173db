"""`python -m bench networks` runs, catches wrong contenders, and tells honestly what it found.

Nothing here asserts how fast anything is, and NumPy alone is needed; other libraries are verified
where they are installed. As in test_bench.py each test starts a Python in the repository's root.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.bench, pytest.mark.skipif(
    not (ROOT / "bench" / "__main__.py").is_file(),
    reason="the bench folder of the repository is not beside the tests")]


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env={**os.environ},
                          capture_output=True, text=True, timeout=120)


def script(text):
    """Run a script in which bench can be imported; what fails in it fails here."""
    done = python("-c", text)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tables(printed):
    """The tables, each as the cells of its lines without the rule below the heading."""
    found, inside = [], False
    for line in printed.splitlines():
        if line.startswith("|"):
            if not inside:
                found.append([])
            found[-1].append([cell.strip() for cell in line.split("|")[1:-1]])
        inside = line.startswith("|")
    return [[heading, *rows] for heading, _, *rows in found]


# ---- Verification ------------------------------------------------------------------------------

TASK = """
import numpy as np
from bench import contenders, networks
from bench.kernels import WrongResult

def complaint(function, *arguments):
    try:
        function(*arguments)
    except WrongResult as error:
        return str(error)
    return ""
"""


VARIANTS = ["plain", "adam", "gelu", "tanh", "dropout_layernorm"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_textbook_step_follows_the_slope(variant):
    """Each weight changes as the slope tells, which is from central differences of a plain loss."""
    script(TASK + f"variant = contenders.VARIANTS[{variant!r}]" + """
import math
task = networks.make_task(networks.Network((3, 4, 5, 2), 6), "float64", variant).without_dropout()
variant = task.variant
activation = {"relu": lambda z: max(z, 0), "tanh": math.tanh,
              "gelu": lambda z: z * math.erfc(-z / math.sqrt(2)) / 2}[variant.activation]

def loss(weights, x, y):
    total = 0.0
    for row, label in zip(x, y):
        rest = list(weights)
        while len(rest) > 2:
            row = row @ rest.pop(0) + rest.pop(0)
            if variant.norm:
                row = (row - np.mean(row)) / math.sqrt(np.var(row) + 1e-5)
                row = row * rest.pop(0) + rest.pop(0)
            row = np.array([activation(z) for z in row])
        scores = row @ rest[0] + rest[1]
        total += math.log(sum(math.exp(s) for s in scores)) - scores[label]
    return total / len(x)

weights = [w.copy() for w in task.weights]
assert len(weights) == (10 if variant.norm else 6)
state = contenders.textbook_state(weights, variant)
slopes, squares = ([np.zeros_like(w) for w in weights] for _ in range(2))
h = 1e-6
for t, (x, y) in enumerate(zip(task.x[:3], task.y), 1):
    assert abs(loss(weights, x, y) - contenders.textbook_step(
        [w.copy() for w in weights], [v.copy() for v in state], x, y, variant)) < 1e-14
    expected = []
    for w, v, s in zip(weights, slopes, squares):
        slope = np.empty_like(w)
        for index in np.ndindex(w.shape):
            value = w[index]
            w[index] = value + h
            above = loss(weights, x, y)
            w[index] = value - h
            below = loss(weights, x, y)
            w[index] = value
            slope[index] = (above - below) / (2 * h)
        if variant.optimizer == "adam":
            v[...] = 0.9 * v + (1 - 0.9) * slope
            s[...] = 0.999 * s + (1 - 0.999) * slope**2
            change = v / (1 - 0.9**t) / (np.sqrt(s / (1 - 0.999**t)) + 1e-8)
            expected.append(w - contenders.ADAM_LR * change)
        else:
            v[...] = contenders.MOMENTUM * v + slope
            expected.append(w - contenders.LR * v)
    contenders.textbook_step(weights, state, x, y, variant)
    # Slopes are right to some 1e-9, times lr; Adam divides them by slopes as small as 1e-5.
    tolerance = 1e-4 * contenders.ADAM_LR if variant.optimizer == "adam" else 1e-8 * contenders.LR
    for w, value in zip(weights, expected):
        assert np.abs(w - value).max() < tolerance, np.abs(w - value).max()
""")


def test_verification_catches_wrong_training():
    printed = script(TASK + """
LR, MOMENTUM = contenders.LR, contenders.MOMENTUM

def trainer(task, step, many=False):
    weights = [w.copy() for w in task.weights]
    velocities = [np.zeros_like(w) for w in weights]
    def run(x, y):
        return step(weights, velocities, x, y)
    return contenders.Trainer(contenders.as_they_are, run, lambda: weights, many)

textbook = contenders.textbook_step

def with_constants(lr, momentum):
    def step(*arguments):
        contenders.LR, contenders.MOMENTUM = lr, momentum
        loss = textbook(*arguments)
        contenders.LR, contenders.MOMENTUM = LR, MOMENTUM
        return loss
    return step

def without(choose):
    # Some weights are never trained.
    def step(weights, velocities, x, y):
        before = [w.copy() for w in weights]
        loss = textbook(weights, velocities, x, y)
        for w, old in zip(choose(weights), choose(before)):
            w[...] = old
        return loss
    return step

def nesterov(weights, velocities, x, y):
    loss = textbook(weights, velocities, x, y)
    for w, v in zip(weights, velocities):
        w -= LR * MOMENTUM * v
    return loss

def linear(weights, velocities, x, y):
    # Gradients pass where ReLU is 0.
    right = contenders.textbook_activation
    contenders.textbook_activation = lambda kind, z: (right(kind, z)[0], np.ones_like(z))
    loss = textbook(weights, velocities, x, y)
    contenders.textbook_activation = right
    return loss

first = []
def first_batch(weights, velocities, x, y):
    first.append((x, y))
    return textbook(weights, velocities, *first[0])

wrong = {
    "a larger lr": with_constants(1.05 * LR, MOMENTUM),
    "a larger momentum": with_constants(LR, 0.95),
    "no momentum": with_constants(LR, 0.0),
    "nesterov": nesterov,
    "no training": without(lambda weights: weights),
    "no training of the last bias": without(lambda weights: weights[-1:]),
    "no training of the first bias": without(lambda weights: weights[1:2]),
    "no training of a row": without(lambda weights: [weights[0][-1]]),
    "no training of a column": without(lambda weights: [weights[0][:, -1]]),
    "no ReLU backward": linear,
    "a sample less": lambda w, v, x, y: textbook(w, v, x[:-1], y[:-1]),
    "the first batch for ever": first_batch,
    "wrong labels": lambda w, v, x, y: textbook(w, v, x, (y + (np.arange(len(y)) == 0)) % 3),
    "sum instead of mean": lambda *arguments: len(arguments[2]) * textbook(*arguments),
    "a loss that is a bit off": lambda *arguments: textbook(*arguments) + 1e-3,
    "no loss": lambda *arguments: textbook(*arguments) * float("nan"),
    "a vector for a loss": lambda *arguments: [textbook(*arguments)] * 2,
}
caught = 0
for dtype in ("float32", "float64"):
    for widths in [(4, 5, 3), (64, 64, 64, 3)]:
        task = networks.make_task(networks.Network(widths, 12), dtype)
        exact = networks.exact_training(task)
        def said(step):
            first.clear()
            try:
                return complaint(
                    networks.verify_training, "it", trainer(task, step), task, exact)
            except TypeError as error:
                return f"it is wrong: {error}"      # float() of a vector
        assert said(textbook) == ""
        for name, step in wrong.items():
            assert said(step).startswith("it is wrong"), (name, dtype, widths, said(step))
            caught += 1

        # Many steps per call: all losses, or their mean; wrong ones are seen in both.
        def epoch(form, step=textbook):
            def run(weights, velocities, x, y):
                return form([step(weights, velocities, *batch) for batch in zip(x, y)])
            return complaint(
                networks.verify_training, "it", trainer(task, run, True), task, exact)
        assert epoch(np.array) == epoch(np.mean) == ""
        assert "losses" in epoch(lambda losses: np.mean(losses) + 1e-3)
        assert "losses" in epoch(lambda losses: np.array(losses)[::-1])
        assert "shapes" in epoch(lambda losses: np.array(losses)[:-1])
        assert "is wrong" in epoch(np.mean, wrong["no momentum"])
        transposed = contenders.Trainer(
            contenders.as_they_are, lambda x, y: exact.losses.mean(),
            lambda: [w.T for w in exact.weights], True)
        assert "shapes" in complaint(networks.verify_training, "it", transposed, task, exact)
print(caught)
""")
    assert int(printed) == 4 * 17


def test_verification_catches_wrong_variants():
    """What other libraries do, or do by another setting, is seen; so is dropout that is missing."""
    script(TASK + """
from dataclasses import replace
from functools import partial

def trainer(task, constants, frozen):
    weights = [w.copy() for w in task.weights]
    state = contenders.textbook_state(weights, task.variant)
    rng = np.random.default_rng(0)

    def step(x, y):
        before = {name: getattr(contenders, name) for name in constants}
        old = [weights[i].copy() for i in frozen]
        vars(contenders).update(constants)
        loss = contenders.textbook_step(weights, state, x, y, task.variant, rng)
        vars(contenders).update(before)
        for i, w in zip(frozen, old):
            weights[i][...] = w
        return loss

    return contenders.Trainer(contenders.as_they_are, step, lambda: weights)

def gelu_tanh(kind, z):
    u = 2 * (2 / np.pi)**0.5 * (z + 0.044715 * z**3)
    p = 1 / (1 + np.exp(-u))
    return z * p, p + z * p * (1 - p) * 2 * (2 / np.pi)**0.5 * (1 + 3 * 0.044715 * z**2)

def with_slope(change):
    right = contenders.textbook_activation
    def activation(kind, z):
        value, slope = right(kind, z)
        return value, change(z, value, slope)
    return {"textbook_activation": activation}

textbook_hidden = contenders.textbook_hidden
def unbiased(z, affine, variant, rng):
    # The variance is divided by one less: as if gains were smaller.
    n = z.shape[1]
    gain, shift = affine
    h, backward = textbook_hidden(z, [gain * ((n - 1) / n)**0.5, shift], variant, rng)
    return h, backward

wrong = {
    "adam": {
        "lr": dict(ADAM_LR=1.05e-5), "beta1": dict(BETA1=0.95), "beta2": dict(BETA2=0.99),
        "eps": dict(ADAM_EPS=1e-7), "slope": with_slope(lambda z, h, slope: np.ones_like(z))},
    "gelu": {
        "approximate": dict(textbook_activation=gelu_tanh),
        "slope": with_slope(lambda z, h, slope: z > 0)},
    "tanh": {
        "slope": with_slope(lambda z, h, slope: 1 - h),
        "no slope": with_slope(lambda z, h, slope: np.ones_like(z))},
    "dropout_layernorm": {
        "eps": dict(NORM_EPS=1e-3), "unbiased": dict(textbook_hidden=unbiased)},
}
assert set(wrong) | {"plain"} == set(contenders.VARIANTS)
for name, ways in wrong.items():
    for dtype in ("float32", "float64"):
        task = networks.make_task(networks.Network((4, 6, 5, 3), 12), dtype,
                                  contenders.VARIANTS[name])
        certain = task.without_dropout()
        exact = networks.exact_training(certain)

        def said(constants={}, frozen=(), task=certain):
            return complaint(networks.verify_training, "it", trainer(task, constants, frozen),
                             certain, exact)

        assert said() == ""
        for way, constants in ways.items():
            if dtype == "float64" or way not in ("eps", "beta2", "approximate"):    # less than 1 %
                assert said(constants).startswith("it is wrong"), (name, dtype, way)
        for index in range(len(task.weights)):
            assert said(frozen=[index]).startswith("it is wrong"), (name, dtype, index)
        if name == "dropout_layernorm":
            if dtype == "float32":      # in float64 losses tell it first
                assert "gain of layer 1 off" in said(frozen=[2])
                assert "shift of layer 2 off" in said(frozen=[7])
            assert "losses" in said(task=task)

            def dropping(trainer):
                return complaint(networks.verify_dropout, "it", trainer, task, exact)

            def epoch(task, form):
                single = trainer(task, {}, ())
                return replace(single, many=True, step=lambda x, y: form(
                    [single.step(*batch) for batch in zip(x, y)]))

            for make in (partial(trainer, constants={}, frozen=()),
                         partial(epoch, form=np.array), partial(epoch, form=np.mean)):
                assert dropping(make(task)) == ""
                assert dropping(make(certain)) == "it is wrong: it drops nothing"
""")


def test_verification_catches_wrong_scores():
    script(TASK + """
for dtype in ("float32", "float64"):
    task = networks.make_task(networks.Network((4, 5, 3), 12), dtype)
    x = task.x[0].copy()

    def said(run):
        return complaint(networks.verify_inference, "it", run, task, x)

    def right(weights=task.weights):
        return contenders.textbook_forward(weights, x)[-1]

    def one_off(entry=(-1, -1)):
        scores = right()
        scores[entry] += 1e-2
        return scores

    W1, b1, W2, b2 = task.weights
    stale = right()
    assert said(right) == ""
    assert np.array_equal(x, task.x[0])         # it is timed with this one
    for name, run in {
        "no first bias": lambda: right([W1, 0 * b1, W2, b2]),
        "no last bias": lambda: right([W1, b1, W2, 0 * b2]),
        "no ReLU": lambda: (x @ W1 + b1) @ W2 + b2,
        "softmax": lambda: np.exp(right()) / np.exp(right()).sum(axis=1, keepdims=True),
        "those of another input": lambda: stale,
        "one entry": one_off,
        "NaN": lambda: right() * np.nan,
        "a sample less": lambda: right()[:-1],
        "a list": lambda: right().tolist(),
        "another dtype": lambda: right().astype("float64" if dtype == "float32" else "float32"),
    }.items():
        assert said(run).startswith("it is wrong: scores"), (name, said(run))
""")


VERIFY_ALL = TASK + """
def verified(loaded, dtype):
    found, skipped = [], {}
    for widths, batch in [((5, 7, 6, 3), 4), ((5, 7, 3), 1)]:
        network = networks.Network(widths, batch)
        task = networks.make_task(network, dtype)
        x = task.x[0].copy()
        found += networks.verified_trainers(loaded, task, str(network), skipped)
        for contender in loaded.values():
            assert contender.described()
            for name, run in contender.inference(task, x).items():
                networks.verify_inference(name, run, task, x)
                found.append(name)
    assert not skipped, skipped
    return set(found)

def verified_variants(loaded, dtype):
    # The trainers by variant, and why others do not take part.
    found, skipped = {}, {}
    for name, variant in contenders.VARIANTS.items():
        if name != "plain":
            skipped[name] = {}
            network = networks.Network((5, 7, 6, 3), 4)
            task = networks.make_task(network, dtype, variant)
            found[name] = set(networks.verified_trainers(
                loaded, task, str(network), skipped[name]))
    return found, {name: reasons for name, reasons in skipped.items() if reasons}
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fastnet_and_numpy_are_right(dtype):
    script(VERIFY_ALL + f"dtype = {dtype!r}" + """
import importlib.util
loaded, skipped = contenders.load(
    {"fastnet": contenders.Fastnet, "NumPy": contenders.NumPy}, dtype)
assert skipped == {}
fastnet = {"fastnet step", "fastnet fit", "fastnet layers"}
numpy = {"NumPy", "NumPy in place", "NumPy samples last"}
assert verified(loaded, dtype) == {*fastnet, *numpy, "fastnet frozen", "fastnet predict"}
found, skipped = verified_variants(loaded, dtype)
if importlib.util.find_spec("scipy"):
    assert not skipped
else:
    assert found.pop("gelu") == fastnet
    assert skipped == {"gelu": {"NumPy": "GELU needs SciPy's erf"}}
assert all(ways == fastnet | numpy for ways in found.values()), found
""")


@pytest.mark.parametrize("name, module, ways", [
    ("PyTorch", "torch", {"PyTorch"}),
    ("JAX", "jax", {"JAX jit", "JAX scan"}),
    ("scikit-learn", "sklearn", {"scikit-learn", "scikit-learn epoch"}),
    ("onnxruntime", "onnxruntime", {"onnxruntime"}),
])
def test_what_is_installed_is_right(name, module, ways):
    """In float64, where nothing hides behind rounding; a run verifies all it times by itself."""
    if not importlib.util.find_spec(module):
        pytest.skip(f"{module} is not installed")
    script(VERIFY_ALL + f"name, ways = {name!r}, {ways!r}" + """
loaded, skipped = contenders.load({name: contenders.PEERS[name]}, "float64")
assert not skipped, skipped
assert verified(loaded, "float64") == ways
if name != "onnxruntime":
    found, skipped = verified_variants(loaded, "float64")
    unable = {"gelu", "dropout_layernorm"} if name == "scikit-learn" else set()
    assert skipped == {variant: {name: "has no such layers"} for variant in unable}
    assert all(trainers == (set() if variant in unable else ways)
               for variant, trainers in found.items()), found
""")


@pytest.mark.parametrize("name, module", [
    ("fastnet", "fastnet"), ("NumPy", "numpy"), ("PyTorch", "torch"), ("JAX", "jax")])
def test_dropout_is_what_it_should_be(name, module):
    """A tenth is dropped, others in each step; what is kept grows; backward drops the same.

    With a batch of 1 a row of the last weights changes by lr times what is kept of its input times
    the softmax's gradient, which the loss tells.
    """
    if not importlib.util.find_spec(module):
        pytest.skip(f"{module} is not installed")
    script(TASK + f"name = {name!r}" + """
variant = contenders.VARIANTS["dropout_layernorm"]
task = networks.make_task(networks.Network((4, 4000, 2), 1), "float64", variant)
task.weights[2] /= 100
task.weights[3][...] = 0.1                      # all units are active
known = {"fastnet": contenders.Fastnet, **contenders.PEERS}
trainers = known[name]("float64").training(task)
assert len(trainers) == {"fastnet": 3, "NumPy": 3, "PyTorch": 1, "JAX": 2}[name]
W, b, *affine = task.weights[:4]
for who, trainer in trainers.items():
    changes, before = [], task.weights
    for x, y in zip(task.x[:2], task.y):
        h, _ = contenders.textbook_hidden(x @ W + b, affine, task.without_dropout().variant, None)
        batch = (x[None], y[None]) if trainer.many else (x, y)
        loss = np.ravel(trainer.step(*trainer.prepare(*batch)))[0]
        after = [np.array(w) for w in trainer.weights()]
        changes.append([new - old for new, old in zip(after, before)])
        before = after
        if len(changes) == 1:
            size = contenders.LR * (1 - np.exp(-loss))      # of the softmax's gradient, times lr
            kept = changes[0][4][:, y[0]] / (size * h[0])
    dropped = np.abs(kept) < 1e-6
    assert np.allclose(kept[~dropped], 1 / 0.9, rtol=1e-6), (who, kept)
    assert 0.075 < dropped.mean() < 0.125, who
    down = task.weights[4][:, task.y[0, 0]] - task.weights[4][:, 1 - task.y[0, 0]]
    assert np.allclose(changes[0][3], size * kept * down, rtol=1e-6, atol=1e-14), who   # shift
    again = np.isclose(changes[1][4], contenders.MOMENTUM * changes[0][4], rtol=1e-6).all(axis=1)
    assert 0.075 < again.mean() < 0.125, who
    assert (again & dropped).mean() < 0.03, who
""")


# ---- Timing and judging ------------------------------------------------------------------------

def test_seconds_are_per_step():
    """One call of many steps counts as so many; single calls go round the same batches."""
    script(TASK + """
network = networks.Network((2, 3, 2), 1)
task = networks.make_task(network, "float32")
assert network.steps_per_call == len(task.x) == 1000
seen = []

def step(x, y):
    seen.append(x)
    return 0.0

single = contenders.Trainer(contenders.as_they_are, step, lambda: task.weights)
many = contenders.Trainer(contenders.as_they_are, step, lambda: task.weights, many=True)
networks.repeated(single, task, 3).repeat(7)
assert [int(np.flatnonzero((task.x == x).all((1, 2)))[0]) for x in seen] == [0, 1, 2, 0, 1, 2, 0]
seen.clear()
networks.repeated(many, task, 3).repeat(2)
assert [x.shape for x in seen] == [(3, 1, 2)] * 2

networks.time_in_turns = lambda loops, *_: {name: [3.0, 6.0] for name in loops}
timing = networks.Timing(1, 0.0)
samples = networks.time_training({"single": single, "many": many}, task, network, timing)
assert samples == {"single": [3.0, 6.0], "many": [0.003, 0.006]}

spoilt = contenders.Trainer(contenders.as_they_are, step, lambda: [np.array([1.0, np.inf])])
assert "2-3-2@1: spoilt is wrong: weights are not finite" in complaint(
    networks.time_training, {"single": single, "spoilt": spoilt}, task, network, timing)
""")


def test_who_is_compared_with_whom():
    """One step per call stays among its like; with many steps fastnet meets all others."""
    script(TASK + """
class Both(contenders.NumPy):
    def training(self, task):
        [(_, single), *_] = super().training(task).items()
        [(_, other), *_] = super().training(task).items()

        def epoch(x, y):
            return np.array([other.step(*batch) for batch in zip(x, y)])

        many = contenders.Trainer(contenders.as_they_are, epoch, other.weights, many=True)
        return {"single": single, "many": many}

networks.time_in_turns = lambda runs, *_: {name: [1.0] for name in runs}
loaded = {"fastnet": contenders.Fastnet("float64"), "both": Both("float64")}
network = networks.Network((3, 4, 3), 2)
[result] = networks.run([network], loaded, "float64", networks.Timing(1, 0.0))
one, many, inference = result.comparisons
assert (result.network, result.steps_per_call) == ("3-4-3@2", network.steps_per_call)
assert set(one.times) == {"fastnet step", "fastnet layers", "single"}
assert set(many.times) == {*one.times, "fastnet fit", "many"}
assert one.fastest == "single" and one.ratio == 1.0
assert many.fastest == "many" and many.ratio == 1.0
assert many.ratios["single"] == network.steps_per_call      # a call each, here of equal time
assert set(inference.times) == {"fastnet frozen", "fastnet predict", "fastnet layers",
                                "NumPy", "NumPy in place", "NumPy samples last"}
""")


def test_networks_of_the_grid():
    script("""
from bench import networks
known = networks.read_networks()
assert {str(network) for network in known} == set(networks.TARGETS) and len(known) == 13
flop = {str(network): network.flop for network in known}
assert flop["2-3-2@1"] == 2 * (2 * 6 + 3 * 6)
assert flop["784-128-10@128"] == 2 * 128 * (2 * 784 * 128 + 3 * 128 * 10)
steps = [network.steps_per_call for network in known]
assert max(steps) == 1000 and min(steps) == 2
quick = networks.choose(None, quick=True)
assert 5 < len(quick) < 13 and networks.choose(None, quick=False) == known
[one] = networks.choose(["784-1000-10@10000"], quick=True)      # asked for is asked for
assert one == ((784, 1000, 10), 10000)
""")


def test_comparisons_of_made_up_samples():
    script("""
from bench.contenders import VARIANTS
from bench.networks import INFERENCE, MANY, ONE, compare

name = "64-64-64-10@64"         # targets 2 and 2.05
samples = {"fastnet step": [1.0, 2.0, 4.0], "fastnet layers": [9.0] * 3,
           "NumPy": [8.0, 8.0, 8.0], "JAX jit": [2.0, 6.0, 9.0]}
found = compare(name, ONE, "float32", samples)
assert (found.network, found.form, found.dtype) == (name, ONE, "float32")
# JAX's median is the lowest. Round by round 2, 3 and 2.25 times: not 6 / 2.
assert (found.fastnet, found.fastest, found.ratio) == ("fastnet step", "JAX jit", 2.25)
assert found.ratios == {"NumPy": 4.0, "JAX jit": 2.25}
assert (found.target, found.met) == (2, True)
assert found.times["JAX jit"].median == 6.0 and set(found.times) == set(samples)

# In inference another target counts; what just reaches one meets it.
for seconds, met in [(2.04, False), (2.05, True)]:
    found = compare(name, INFERENCE, "float32", {"fastnet frozen": [1.0], "NumPy": [seconds]})
    assert (found.target, found.met) == (2.05, met)

# A way of fastnet's stands for it in each comparison, even where another of its ways is faster.
ways = {"fastnet layers": [1.0], "fastnet step": [2.0], "fastnet fit": [3.0], "NumPy": [6.0]}
assert compare(name, MANY, "float32", ways).fastnet == "fastnet fit"
assert compare(name, MANY, "float32", ways).ratio == 2.0
assert compare(name, ONE, "float32", ways).fastnet == "fastnet step"
assert compare(name, ONE, "float32", ways).ratio == 3.0

# A variant has no targets.
found = compare(name, ONE, "float32", samples, VARIANTS["adam"])
assert (found.ratio, found.target, found.met) == (2.25, None, None)

# Nothing to compare with, or no target: no verdict.
alone = compare(name, ONE, "float32", {"fastnet step": [1.0]})
assert (alone.fastest, alone.ratio, alone.target, alone.met) == (None, None, 2, None)
for network, dtype in [(name, "float64"), ("1-2-3@4", "float32")]:
    found = compare(network, ONE, dtype, samples)
    assert (found.ratio, found.target, found.met) == (2.25, None, None)
""")


# ---- The command -------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
    """A run on the smallest network with NumPy: what it prints, and what its files hold."""
    folder = tmp_path_factory.mktemp("networks")
    json_file, markdown, plot = (folder / name for name in ("a.json", "a.md", "a.png"))
    drawn = ["--plot", str(plot)] if importlib.util.find_spec("matplotlib") else []
    done = python("-m", "bench", "networks", "--quick", "--nets", "2-3-2@1", "--peers", "NumPy",
                  "--rounds", "3", "--json", str(json_file), "--markdown", str(markdown), *drawn)
    assert done.returncode == 0, done.stderr
    if drawn:
        assert plot.read_bytes().startswith(b"\x89PNG")
    return done.stdout, json.loads(json_file.read_text()), markdown.read_text()


def test_the_command_shows_all_it_found(smallest):
    printed, saved, markdown = smallest
    assert markdown == printed
    for name in ("command", "processor", "Python", "NumPy", "fastnet", "dtype", "NumPy as",
                 "fastnet as", "samples", "verified", "figures", "share of a core"):
        assert f"- {name}: {saved['environment'][name]}\n" in printed
    assert "--nets 2-3-2@1 --peers NumPy" in saved["environment"]["command"]

    [result] = saved["results"]
    assert (result["network"], result["steps_per_call"]) == ("2-3-2@1", 1000)
    one, many, inference = result["comparisons"]
    assert [found["form"] for found in (one, many, inference)] == [
        "one step per call", "many steps per call", "inference"]
    assert [found["target"] for found in (one, many, inference)] == [4, 4, 25]
    for found in (one, many, inference):
        assert set(found["ratios"]) == {"NumPy", "NumPy in place", "NumPy samples last"}
        assert found["ratio"] == found["ratios"][found["fastest"]]
        assert found["met"] == (found["ratio"] >= found["target"])
        for times in found["times"].values():
            assert 0 < times["q1"] <= times["median"] <= times["q3"] and times["samples"] >= 3

    contenders, verdicts = tables(printed)
    heading, *rows = contenders
    assert heading[:3] == ["contender", "steps per call", "training step us"]
    assert [row[0] for row in rows] == list(many["times"] | inference["times"])
    times = r"[\d.]+ \[[\d.]+-[\d.]+\]"
    for name, _, training, *_, running, _ in rows:
        for cell, found in ((training, many), (running, inference)):
            assert re.fullmatch(times if name in found["times"] else "-", cell), (name, cell)
    _, *rows = verdicts
    assert [(row[0], row[1], row[2], row[4], row[7], row[8]) for row in rows] == [
        ("2-3-2@1", found["form"], found["fastest"], found["fastnet"], f"{found['target']}",
         "yes" if found["met"] else "no") for found in (one, many, inference)]
    for row, found in zip(rows, (one, many, inference), strict=True):
        assert float(row[6]) == pytest.approx(found["ratio"], rel=5e-3)     # three digits
    met = sum(found["met"] for found in (one, many, inference))
    assert f"\n{met} of 3 targets are met\n" in printed


def test_the_command_runs_variants(tmp_path, smallest):
    """In training only, without targets; the variant is recorded, as it is not for plain ones."""
    json_file, plot = tmp_path / "a.json", tmp_path / "a.png"
    drawn = ["--plot", str(plot)] if importlib.util.find_spec("matplotlib") else []
    done = python("-m", "bench", "networks", "--variant", "dropout_layernorm", "--quick", "--nets",
                  "2-3-2@1", "--peers", "NumPy", "onnxruntime", "--rounds", "3", "--json",
                  str(json_file), *drawn)
    assert done.returncode == 0, done.stderr
    if drawn:
        assert plot.read_bytes().startswith(b"\x89PNG")
    saved = json.loads(json_file.read_text())
    described = "dropout_layernorm: layer norm, relu, dropout(0.1) in hidden layers; sgd"
    assert saved["environment"]["variant"] == described
    assert f"- variant: {described}\n" in done.stdout
    assert "- onnxruntime: left out: does not train\n" in done.stdout
    assert "- onnxruntime as" not in done.stdout
    assert "without dropout" in saved["environment"]["verified"]
    [result] = saved["results"]
    assert [found["form"] for found in result["comparisons"]] == [
        "one step per call", "many steps per call"]
    for found in result["comparisons"]:
        assert set(found["ratios"]) == {"NumPy", "NumPy in place", "NumPy samples last"}
        assert (found["target"], found["met"]) == (None, None)
    contenders, verdicts = tables(done.stdout)
    assert contenders[0] == ["contender", "steps per call", "training step us", "/fastnet step",
                             "/fastnet fit"]
    assert [row[0] for row in contenders[1:]] == list(result["comparisons"][1]["times"])
    assert [row[7:] for row in verdicts[1:]] == [["-", "-"]] * 2
    assert "targets are met" not in done.stdout

    printed, plain, _ = smallest
    assert "variant" not in plain["environment"] and "variant" not in printed


def test_what_is_missing_is_named():
    """Not installed, unable to run here, or unable to do a network: the others go on."""
    done = python("-c", """
import sys
for name in ("torch", "jax", "onnxruntime"):
    sys.modules[name] = None                # importing it fails
from bench import __main__, contenders

class Unable(contenders.Contender):
    def described(self):
        return "made up"
    def training(self, task):
        raise contenders.Skipped("two classes are too few")

class Broken(contenders.Contender):
    def __init__(self, dtype):
        raise contenders.Skipped("there is no compiler")

contenders.PEERS["scikit-learn"], contenders.PEERS["torch.compile"] = Unable, Broken
sys.argv[1:] = ["networks", "--nets", "2-3-2@1", "--rounds", "1"]
__main__.networks.time_in_turns = lambda runs, *_: {name: [1.0] for name in runs}
sys.exit(__main__.main())
""")
    assert done.returncode == 0, done.stderr
    for line in ("PyTorch: left out: import of torch halted; None in sys.modules",
                 "JAX: left out: import of jax halted", "onnxruntime: left out: ",
                 "torch.compile: left out: there is no compiler",
                 "scikit-learn as: made up", "scikit-learn left out: two classes are too few"):
        assert f"- {line}" in done.stdout, line
    contenders, _ = tables(done.stdout)
    assert [row[0] for row in contenders[1:] if not row[0].startswith("fastnet")] == [
        "NumPy", "NumPy in place", "NumPy samples last"]


def test_quick_runs_go_without_torch_compile():
    printed = script("""
import sys
from bench import __main__, contenders
class Unused(contenders.Contender):
    def __init__(self, dtype):
        raise AssertionError("it was loaded")
contenders.PEERS["torch.compile"] = Unused
__main__.networks.run = lambda *_: []
sys.argv[1:] = ["networks", "--quick", "--peers", "NumPy", "torch.compile"]
assert __main__.main() == 0
""")
    assert "- torch.compile: left out: compiles for too long for a quick run\n" in printed


def test_a_wrong_contender_stops_the_run():
    done = python("-c", """
import sys
from bench import __main__, contenders
right = contenders.in_place

def wrong(task):
    trainer = right(task)
    def weights():
        trainer.weights()[0][0, 0] += 1e-4
        return trainer.weights()
    return contenders.Trainer(trainer.prepare, trainer.step, weights)

contenders.in_place = wrong
sys.argv[1:] = ["networks", "--quick", "--nets", "2-3-2@1", "--peers", "NumPy"]
sys.exit(__main__.main())
""")
    assert done.returncode == 1
    assert "2-3-2@1: NumPy in place is wrong: W of layer 1 off by" in done.stderr
    assert "| NumPy" not in done.stdout


def test_unknown_names_are_refused():
    done = python("-m", "bench", "networks", "--nets", "2-3-2")
    assert done.returncode == 1 and "no network is called '2-3-2'" in done.stderr
    assert "2-3-2@1, 10-50-3@1" in done.stderr
    done = python("-m", "bench", "networks", "--peers", "numpy")
    assert done.returncode == 2 and "invalid choice: 'numpy'" in done.stderr
    done = python("-m", "bench", "networks", "--variant", "silu")
    assert done.returncode == 2 and "invalid choice: 'silu'" in done.stderr


def test_the_plot_shows_every_ratio():
    pytest.importorskip("matplotlib")
    script("""
from bench.networks import INFERENCE, MANY, ONE, Result, compare, draw
name = "2-3-2@1"
one = {"fastnet step": [1.0], "NumPy": [3.0]}
many = {"fastnet fit": [0.5], "NumPy": [3.0], "JAX scan": [2.0]}
inference = {"fastnet frozen": [1.0], "onnxruntime": [7.0]}
results = [Result(network, 10, [compare(network, form, "float32", samples) for form, samples in
                               [(ONE, one), (MANY, many), (INFERENCE, inference)]], {})
           for network in (name, "1-1-2@3")]
figure = draw(results, "title")
assert [axes.get_title() for axes in figure.axes] == [
    "training, one step per call", "training, many steps per call", "inference"]
shown = [{line.get_label(): line.get_xydata().tolist() for line in axes.lines
          if not line.get_label().startswith("_")} for axes in figure.axes]
def at(ratio):
    return [[0.0, ratio], [1.0, ratio]]
target = "target for the lowest"
assert shown == [{"NumPy": at(3.0), target: [[0.0, 4.0]]},
                 {"NumPy": at(6.0), "JAX scan": at(4.0), target: [[0.0, 4.0]]},
                 {"onnxruntime": at(7.0), target: [[0.0, 25.0]]}], shown
assert all(axes.get_yscale() == "log" for axes in figure.axes)
assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == [name, "1-1-2@3"]
assert len({line.get_color() for axes in figure.axes for line in axes.lines
            if line.get_label() in ("NumPy", "JAX scan", "onnxruntime")}) == 3
""")
