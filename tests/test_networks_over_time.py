"""A network in any order of use, beside a twin in plain NumPy that knows only the formulas.

It is built, trained by steps and by fits, asked, saved and loaded, pickled and copied, edited by
hand, frozen in part and thawed, given to several native threads, refused bad input; and after each
of these its parameters and predictions are the twin's, up to rounding, and other copies of it have
the same bits.

    python -m pytest tests/test_networks_over_time.py --hypothesis-show-statistics

shows how many were tried, and `-m long` tries 50 times as many.
"""

import copy
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest

import fastnet as fn

hypothesis = pytest.importorskip("hypothesis")
from drawn_networks import tried  # noqa: E402
from hypothesis import stateful  # noqa: E402

some = hypothesis.strategies
SEEDS = some.integers(0, 2**32 - 1)
FEATURES, CLASSES = 6, 4
TOLERANCE = 1e-9            # of float64, after at most 60 steps


# ---- The twin ----------------------------------------------------------------------------------

class Twin:
    """Dense layers with tanh or ReLU between, softmax cross-entropy, SGD or Adam: the textbook."""

    def __init__(self, weights, biases, activation, adam):
        self.W, self.b = [w.copy() for w in weights], [b.copy() for b in biases]
        self.activation, self.adam = activation, adam
        self.first = [np.zeros_like(p) for p in self.parameters()]
        self.second = [np.zeros_like(p) for p in self.parameters()]
        self.steps, self.frozen = 0, [False] * len(self.W)

    def parameters(self):
        return [p for pair in zip(self.W, self.b, strict=True) for p in pair]

    def forward(self, x):
        self.values = [x]
        for i, (w, b) in enumerate(zip(self.W, self.b, strict=True)):
            x = x @ w + b
            if i < len(self.W) - 1:
                x = np.tanh(x) if self.activation == "tanh" else np.maximum(x, 0)
            self.values.append(x)
        return x

    def probabilities(self, x):
        scores = self.forward(x)
        e = np.exp(scores - scores.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def loss(self, x, labels, weights):
        p = self.probabilities(x)
        return -(weights * np.log(p[np.arange(len(x)), labels])).sum() / weights.sum()

    def step(self, x, labels, weights):
        loss = self.loss(x, labels, weights)
        dy = self.probabilities(x)
        dy[np.arange(len(x)), labels] -= 1
        dy *= (weights / weights.sum())[:, None]
        gradients = []
        for i in reversed(range(len(self.W))):
            if i < len(self.W) - 1:
                y = self.values[i + 1]
                dy = dy * (1 - y * y if self.activation == "tanh" else y > 0)
            gradients[:0] = [self.values[i].T @ dy, dy.sum(0)]
            dy = dy @ self.W[i].T
        self.steps += 1
        for i, (p, g) in enumerate(zip(self.parameters(), gradients, strict=True)):
            if not self.frozen[i // 2]:
                self.update(i, p, g)
        return loss

    def update(self, i, p, g):
        if not self.adam:
            self.first[i][...] = 0.9 * self.first[i] + g
            p -= 0.05 * self.first[i]
            return
        self.first[i][...] = 0.9 * self.first[i] + 0.1 * g
        self.second[i][...] = 0.999 * self.second[i] + 0.001 * g * g
        m = self.first[i] / (1 - 0.9**self.steps)
        p -= 0.01 * m / (np.sqrt(self.second[i] / (1 - 0.999**self.steps)) + 1e-8)


# ---- The machine -------------------------------------------------------------------------------

class Machine(stateful.RuleBasedStateMachine):
    """One network, its twin, and what was written or copied of it on the way."""

    @stateful.initialize(widths=some.lists(some.integers(1, 40), max_size=3), seed=SEEDS,
                         activation=some.sampled_from(["tanh", "relu"]), adam=some.booleans())
    def build(self, widths, seed, activation, adam):
        rng = np.random.default_rng(seed)
        sizes = [FEATURES, *widths, CLASSES]
        kinds = {"tanh": fn.Tanh, "relu": fn.ReLU}
        layers = []
        for i in range(len(sizes) - 1):
            layers += [fn.Dense(sizes[i], sizes[i + 1], dtype="float64", rng=rng,
                                bias_init="uniform")]
            layers += [kinds[activation]()] if i < len(sizes) - 2 else []
        self.net = fn.Sequential(layers)
        self.net.compile(fn.Adam(0.01) if adam else fn.SGD(0.05, 0.9))
        self.twin = Twin([d.weight for d in self.dense()], [d.bias for d in self.dense()],
                         activation, adam)
        self.adam = adam
        self.folder = tempfile.TemporaryDirectory()
        self.kept = []              # frozen copies, with what the twin said then

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def dense(self):
        return [layer for layer in self.net.layers if isinstance(layer, fn.Dense)]

    def batch(self, n, seed):
        rng = np.random.default_rng(seed)
        return rng.normal(size=(n, FEATURES)), rng.integers(CLASSES, size=n)

    @stateful.rule(n=some.integers(1, 300), seed=SEEDS, weighted=some.booleans())
    def train_step(self, n, seed, weighted):
        x, labels = self.batch(n, seed)
        weights = np.random.default_rng(seed).uniform(0.1, 2, n) if weighted else np.ones(n)
        loss = self.net.train_step(x, labels, *([weights] if weighted else []))
        assert loss == pytest.approx(self.twin.step(x, labels, weights), rel=TOLERANCE)

    @stateful.rule(n=some.integers(1, 60), size=some.integers(1, 60), seed=SEEDS,
                   watched=some.booleans())
    def fit(self, n, size, seed, watched):
        class Watches(fn.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                pass

        x, labels = self.batch(n, seed)
        self.net.fit(x, labels, batch_size=size, verbose=0, rng=seed,
                     callbacks=[Watches()] if watched else [])
        order = np.random.default_rng(seed).permutation(n)
        for first in range(0, n, size):
            some_rows = order[first:first + size]
            self.twin.step(x[some_rows], labels[some_rows], np.ones(len(some_rows)))

    @stateful.rule(n=some.integers(1, 40), parts=some.integers(1, 4), seed=SEEDS)
    def gather(self, n, parts, seed):
        """Batches without an update; the last one takes all of them along."""
        x, labels = self.batch(n * parts, seed)
        for part in range(parts):
            rows = slice(part * n, part * n + n)
            self.net.train_step(x[rows], labels[rows], update=part == parts - 1)
        self.twin.step(x, labels, np.ones(n * parts))

    @stateful.rule(layer=some.integers(0, 3), seed=SEEDS, whole=some.booleans())
    def edit(self, layer, seed, whole):
        layer %= len(self.dense())
        rng = np.random.default_rng(seed)
        dense = self.dense()[layer]
        new = rng.normal(size=dense.weight.shape) / np.sqrt(len(dense.weight))
        if whole:
            dense.weight = new
        else:
            dense.weight[...] = new
        dense.bias[0] = 0.5
        self.twin.W[layer][...] = new
        self.twin.b[layer][0] = 0.5

    @stateful.rule(layer=some.integers(0, 3))
    def freeze_or_thaw(self, layer):
        layer %= len(self.dense())
        self.twin.frozen[layer] = not self.twin.frozen[layer]
        self.dense()[layer].trainable = not self.twin.frozen[layer]

    @stateful.rule(n=some.sampled_from([1, 2, 3, 8]))
    def several_threads(self, n):
        self.net._engine.forced = n

    @stateful.rule(way=some.sampled_from(["file", "pickle", "copy", "state"]), on=some.booleans())
    def there_and_back(self, way, on):
        """Go on with the copy or with the original."""
        if way == "file":
            self.net.save(Path(self.folder.name, "net"))
            other = fn.load(Path(self.folder.name, "net"))
        elif way == "pickle":
            other = pickle.loads(pickle.dumps(self.net))
        elif way == "copy":
            other = copy.deepcopy(self.net)
        else:
            state, before = self.net.state_dict(), bits(self.net)
            self.edit(0, 1, True)
            self.net.load_state_dict(state)
            assert bits(self.net) == before
            for i, dense in enumerate(self.dense()):
                self.twin.W[i][...], self.twin.b[i][...] = dense.weight, dense.bias
            return
        x, labels = self.batch(9, 9)
        assert other.predict(x).tobytes() == self.net.predict(x).tobytes()
        again = copy.deepcopy(self.net)
        assert again.train_step(x, labels) == other.train_step(x, labels)
        assert bits(again) == bits(other)
        if on:
            if way == "file":
                other = fn.load(Path(self.folder.name, "net"))
            else:
                other = copy.deepcopy(self.net)
            self.net = other

    @stateful.rule(what=some.sampled_from(["nan", "shape", "label", "rows", "text", "stop"]))
    def refuse(self, what):
        """Nothing of it is seen later."""
        x, labels = self.batch(5, 5)
        if what == "nan":
            x[2, 2] = np.nan
        elif what == "shape":
            x = x[:, 1:]
        elif what == "label":
            labels[3] = CLASSES
        elif what == "rows":
            labels = labels[1:]
        elif what == "text":
            x = x.astype(str)
        if what == "stop":
            class Fails(fn.callbacks.Callback):
                def on_train_begin(self, logs=None):
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                self.net.fit(x, labels, verbose=0, callbacks=[Fails()])
            return
        error = FloatingPointError if what == "nan" else ValueError
        with pytest.raises(error):
            self.net.train_step(x, labels)
        with pytest.raises(error):
            self.net.fit(x, labels, batch_size=len(x), verbose=0)

    @stateful.rule(seed=SEEDS)
    def keep_a_frozen_copy(self, seed):
        x, _ = self.batch(7, seed)
        self.kept.append((self.net.frozen(), x, self.twin.forward(x)))

    @stateful.rule(n=some.integers(1, 700), seed=SEEDS)
    def predict(self, n, seed):
        x, labels = self.batch(n, seed)
        expected = self.twin.forward(x)
        for model in (self.net, self.net.frozen()):
            np.testing.assert_allclose(model.predict(x), expected, rtol=TOLERANCE, atol=TOLERANCE)
            np.testing.assert_allclose(model.predict_proba(x), self.twin.probabilities(x),
                                       rtol=TOLERANCE, atol=TOLERANCE)
        assert self.net.predict(x).tobytes() == self.net.predict(x).tobytes()
        assert self.net.evaluate(x, labels).loss == pytest.approx(
            self.twin.loss(x, labels, np.ones(n)), rel=TOLERANCE)

    @stateful.invariant()
    def parameters_are_the_twins(self):
        if not hasattr(self, "net"):
            return
        found = [value for _, value, _ in self.net.parameters()]
        for value, expected in zip(found, self.twin.parameters(), strict=True):
            np.testing.assert_allclose(value, expected, rtol=TOLERANCE, atol=TOLERANCE)
            expected[...] = value               # so that rounding does not add up
        assert self.net.optimizer.steps == self.twin.steps
        for model, x, expected in self.kept:
            np.testing.assert_allclose(model.predict(x), expected, rtol=TOLERANCE, atol=TOLERANCE)


def bits(net):
    return [value.tobytes() for _, value, _ in net.parameters()]


class TestANetworkOverTime(Machine.TestCase):
    settings = tried(60, stateful_step_count=30,
                     suppress_health_check=list(hypothesis.HealthCheck))


@pytest.mark.long
class TestANetworkOverALongTime(Machine.TestCase):
    settings = tried(3000, stateful_step_count=50,
                     suppress_health_check=list(hypothesis.HealthCheck))
