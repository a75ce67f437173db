"""The engine: what the layers give, bit for bit, what independent witnesses give, and no trace.

No trace in memory, in the processor's mode, in other threads' results, or of a step that failed.
"""

import contextlib
import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastnet as fn
from fastnet import reference

SIZES = (32, 7, 1, 33, 64, 5, 32, 2)        # of batches, one after the other

# From 6 or 300 features to 4. A layer of 300 x 256 is updated together with its gradient, and with
# a single sample one of 64 outputs or more. `norm` makes a LayerNorm.
NETWORKS = {
    "one layer": lambda dense, norm: [dense(6, 4)],
    "three layers": lambda dense, norm: [
        dense(6, 33), fn.ReLU(), dense(33, 17), fn.ReLU(), dense(17, 4)],
    "no biases": lambda dense, norm: [dense(6, 10, False), fn.ReLU(), dense(10, 4, False)],
    "no ReLU": lambda dense, norm: [dense(6, 10), dense(10, 7), dense(7, 4)],
    "ReLU at odd places": lambda dense, norm: [
        fn.ReLU(), dense(6, 40), fn.ReLU(), fn.ReLU(), fn.Scale(-0.5), dense(40, 30),
        fn.Scale(-2.0), fn.ReLU(), dense(30, 4), fn.ReLU()],
    "Scale at both ends": lambda dense, norm: [fn.Scale(0.3), dense(6, 4), fn.Scale(3.0)],
    "Softmax inside": lambda dense, norm: [
        fn.Softmax(), dense(6, 5), fn.Softmax(), fn.ReLU(), dense(5, 4)],
    "Residual": lambda dense, norm: [
        dense(6, 20), fn.ReLU(), fn.Residual([dense(20, 20), fn.ReLU(), dense(20, 20)]),
        fn.ReLU(), dense(20, 4)],
    "Residual at both ends": lambda dense, norm: [
        fn.Residual([dense(6, 6), fn.ReLU()]), dense(6, 4), fn.Residual([fn.ReLU(), dense(4, 4)])],
    "nested Residual": lambda dense, norm: [
        dense(6, 9),
        fn.Residual([
            fn.Residual([dense(9, 9), fn.ReLU(), fn.Residual([dense(9, 9), fn.Scale(0.5)])]),
            fn.ReLU(), fn.Residual([fn.ReLU()]), fn.Residual([fn.Residual([dense(9, 9)])])]),
        dense(9, 4)],
    "wide inside a Residual": lambda dense, norm: [
        fn.Residual([dense(6, 50), fn.ReLU(), fn.Residual([dense(50, 50)]), dense(50, 6)]),
        dense(6, 4)],
    "nested Sequential": lambda dense, norm: [
        fn.Sequential([dense(6, 10), fn.ReLU()]),
        fn.Residual([fn.Sequential([dense(10, 10), fn.Sequential([fn.ReLU()])])]),
        fn.Sequential([fn.Sequential([dense(10, 4)])])],
    "Flatten": lambda dense, norm: [
        fn.Flatten(), dense(6, 10), fn.Flatten(), fn.ReLU(), dense(10, 4)],
    "wide": lambda dense, norm: [
        dense(6, 80), fn.ReLU(), dense(80, 64), fn.Residual([dense(64, 64), fn.ReLU()]),
        dense(64, 97), fn.ReLU(), dense(97, 4)],
    "large first": lambda dense, norm: [dense(300, 256, False), fn.ReLU(), dense(256, 4)],
    "large inside": lambda dense, norm: [
        dense(6, 300), fn.ReLU(), dense(300, 256), fn.ReLU(), dense(256, 4, False)],
    "large in a Residual": lambda dense, norm: [
        fn.Residual([dense(300, 256), fn.ReLU(), dense(256, 300)]), dense(300, 4)],
    "activations": lambda dense, norm: [
        dense(6, 33), fn.LeakyReLU(0.1), dense(33, 17), fn.ELU(1.5), dense(17, 9), fn.Sigmoid(),
        dense(9, 8), fn.Tanh(), dense(8, 4)],
    "smooth activations": lambda dense, norm: [
        dense(6, 33), fn.GELU(), dense(33, 17), fn.GELU("tanh"), dense(17, 20), fn.SiLU(),
        fn.Identity(), dense(20, 4)],
    "activations at odd places": lambda dense, norm: [
        fn.SiLU(), fn.Tanh(), dense(6, 40), fn.ReLU(), fn.GELU(), fn.Identity(),
        fn.Residual([fn.ELU()]), dense(40, 40), fn.GELU(), fn.ReLU(), dense(40, 4), fn.Sigmoid()],
    "activations of layers": lambda dense, norm: [
        dense(6, 33, activation="gelu"), dense(33, 17, False, activation="relu"),
        dense(17, 20, activation=fn.LeakyReLU(-0.3)), fn.ReLU(),
        dense(20, 7, activation="softmax"), fn.Residual([dense(7, 7, activation="relu")]),
        dense(7, 4, activation="tanh")],
    "LogSoftmax": lambda dense, norm: [
        fn.LogSoftmax(), dense(6, 40), fn.LogSoftmax(), dense(40, 4), fn.LogSoftmax()],
    "LayerNorm": lambda dense, norm: [
        dense(6, 33), norm(33), fn.ReLU(), dense(33, 17), norm(17, bias=False), fn.Tanh(),
        dense(17, 9, False), norm(9, affine=False), dense(9, 4)],
    "LayerNorm at both ends": lambda dense, norm: [norm(6), dense(6, 4), norm(4)],
    "LayerNorm without weights at both ends": lambda dense, norm: [
        norm(6, affine=False), dense(6, 10), fn.ReLU(), dense(10, 4), norm(4, affine=False)],
    "LayerNorm in a Residual": lambda dense, norm: [
        fn.Residual([norm(6), dense(6, 6, activation="gelu")]), dense(6, 20),
        fn.Residual([norm(20, bias=False), dense(20, 50, activation="gelu"), dense(50, 20),
                     fn.Dropout(0.2, rng=1)]),
        fn.Residual([fn.Sequential([norm(20)])]), norm(20), dense(20, 4)],
    "Dropout": lambda dense, norm: [
        dense(6, 33), fn.ReLU(), fn.Dropout(0.5, rng=1), dense(33, 17), fn.Dropout(0.1, rng=2),
        fn.ReLU(), dense(17, 4)],
    "Dropout at both ends": lambda dense, norm: [
        fn.Dropout(0.2, rng=1), dense(6, 10), fn.Dropout(0.3, rng=2), fn.Dropout(0.0, rng=3),
        fn.ReLU(), dense(10, 4), fn.Dropout(0.1, rng=4)],
    "Dropout in a Residual": lambda dense, norm: [
        dense(6, 20), fn.Residual([fn.Dropout(0.3, rng=1), dense(20, 20), fn.Dropout(0.2, rng=2)]),
        fn.Residual([fn.Dropout(0.5, rng=3)]), fn.Residual([fn.Residual([fn.Dropout(0.1, rng=4)])]),
        norm(20), dense(20, 4)],
    "large with LayerNorm and Dropout": lambda dense, norm: [
        norm(300), fn.Dropout(0.1, rng=1), dense(300, 256, activation="relu"),
        fn.Dropout(0.5, rng=2),
        fn.Residual([norm(256), dense(256, 256, activation="silu"), fn.Dropout(0.2, rng=3)]),
        dense(256, 4)],
}
KINDS = {"labels": fn.SoftmaxCrossEntropy, "soft rows": fn.SoftmaxCrossEntropy,
         "probabilities": fn.CrossEntropy, "squares": fn.MeanSquaredError}
CASES = [(name, "labels") for name in NETWORKS] + [
    (name, kind) for name in ("Residual", "Flatten", "large inside", "LayerNorm in a Residual")
    for kind in ("soft rows", "probabilities", "squares")]


def make_layers(name, dtype, kind="labels"):
    rng = np.random.default_rng(3)

    def dense(n_in, n_out, bias=True, activation=None):
        return fn.Dense(n_in, n_out, bias, activation=activation, bias_init="uniform", dtype=dtype,
                        rng=rng)

    def norm(features, **options):
        layer = fn.LayerNorm(features, dtype=dtype, **options)
        for _, value, _ in layer.parameters():
            value[...] = rng.uniform(0.5, 1.5, size=features)
        return layer

    return NETWORKS[name](dense, norm) + ([fn.Softmax()] if kind == "probabilities" else [])


def make_batch(rng, name, n, dtype, kind="labels"):
    shape = (n, 2, 3) if name == "Flatten" else (n, 300 if "large" in name else 6)
    x = rng.normal(size=(n, 6) if name == "large inside" else shape).astype(dtype)
    if kind == "squares":
        return x, rng.normal(size=(n, 4)).astype(dtype)
    if kind == "soft rows":
        return x, rng.dirichlet(np.ones(4), n).astype(dtype)
    return x, rng.integers(4, size=n)


def make_network(name, dtype, kind="labels", lr=0.05, momentum=0.9, nesterov=False, **options):
    net = fn.Sequential(make_layers(name, dtype, kind))
    net.compile(fn.SGD(lr, momentum, nesterov), KINDS[kind](), **options)
    return net


def forward(layers, x):
    for layer in layers:
        x = layer.forward(x)
    return x


def predict(layers, x):
    """As forward, but Dropout does nothing and does not count."""
    for layer in layers:
        x = layer.predict(x)
    return x


def step_by_hand(layers, loss, sgd, x, target):
    scores = forward(layers, x)
    value = loss.forward(scores, target)
    dy = loss.backward()
    for layer in reversed(layers):
        dy = layer.backward(dy)
    sgd.step(layers)
    return value


def values(layers):
    return [value.copy() for layer in layers for _, value, _ in layer.parameters()]


def bits(layers):
    return b"".join(value.tobytes() for value in values(layers))


# ---- The layers ------------------------------------------------------------------------------

@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("name, kind", CASES)
def test_steps_have_the_bits_of_layers_driven_by_hand(
        name, kind, momentum, nesterov, dtype, rng):
    layers = make_layers(name, dtype, kind)
    twins = copy.deepcopy(layers)
    before = values(layers)
    net = fn.Sequential(layers)
    assert bits(layers) == bits(twins)                          # joining moves, nothing else
    net.compile(fn.SGD(0.1, momentum, nesterov), KINDS[kind]())
    loss, sgd = KINDS[kind](), fn.SGD(0.1, momentum, nesterov)
    for n in SIZES:
        x, target = make_batch(rng, name, n, dtype, kind)
        assert net.predict(x).tobytes() == predict(twins, x).tobytes()
        assert net.train_step(x, target) == step_by_hand(twins, loss, sgd, x, target)
        assert bits(layers) == bits(twins)
    assert not any(map(np.array_equal, values(layers), before))


@pytest.mark.parametrize("name, kind", CASES)
def test_kept_gradients_have_the_bits_of_the_layers(name, kind, dtype, rng):
    net, forgetful = (make_network(name, dtype, kind, keep_gradients=keep)
                      for keep in (True, False))
    twins = copy.deepcopy(list(net.layers))
    loss, sgd = KINDS[kind](), fn.SGD(0.05, 0.9)
    for n in SIZES:
        x, target = make_batch(rng, name, n, dtype, kind)
        step_by_hand(twins, loss, sgd, x, target)
        net.train_step(x, target)
        forgetful.train_step(x, target)
        for (_, _, found), (_, _, expected) in zip(
                net.parameters(), fn.Sequential(twins).parameters(), strict=True):
            assert found.tobytes() == expected.tobytes() and found.any()
    assert bits([net]) == bits([forgetful]) == bits(twins)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("name, kind", [
    ("Residual", "labels"), ("large inside", "soft rows"), ("three layers", "squares"),
    ("LayerNorm in a Residual", "labels"), ("Dropout at both ends", "soft rows")])
def test_fit_has_the_bits_of_layers_driven_by_hand(name, kind, shuffle, dtype, rng):
    """With a short last batch. Samples come in the order of `Generator.permutation`."""
    net = make_network(name, dtype, kind, metrics=[] if kind == "squares" else ["accuracy"])
    twins = copy.deepcopy(list(net.layers))
    loss, sgd, orders = KINDS[kind](), fn.SGD(0.05, 0.9), np.random.default_rng(5)
    x, target = make_batch(rng, name, 45, dtype, kind)
    history = net.fit(x, target, batch_size=16, epochs=3, shuffle=shuffle, rng=5, verbose=0)
    losses, accuracies = [], []
    for _ in range(3):
        order = orders.permutation(45) if shuffle else np.arange(45)
        total = right = 0
        for batch in np.split(order, [16, 32]):
            if kind != "squares":       # before the update, and a Dropout counts once
                scores = forward(copy.deepcopy(twins), x[batch])
                right += round(len(batch) * fn.accuracy(scores, target[batch]))
            total += len(batch) * step_by_hand(twins, loss, sgd, x[batch], target[batch])
        losses.append(total / 45)
        accuracies.append(right / 45)
    assert history.loss == losses and bits([net]) == bits(twins)
    assert history.accuracy == ([] if kind == "squares" else accuracies)


@pytest.mark.parametrize("name", ["three layers", "Residual", "LayerNorm in a Residual"])
def test_the_optimizers_state_is_shared_by_all_ways_to_step(name, dtype, rng):
    """`train_step`, `fit`, `step([net])` and `step(layers)`; a new lr counts from the next step."""
    net = make_network(name, dtype)
    twins, loss = copy.deepcopy(list(net.layers)), fn.SoftmaxCrossEntropy()
    sgd, twin_sgd = fn.SGD(0.05, 0.9), fn.SGD(0.05, 0.9)
    net.compile(sgd)

    def fit(x, target):
        net.fit(x, target, batch_size=len(x), shuffle=False, verbose=0)

    ways = [lambda x, target: step_by_hand(list(net.layers), loss, sgd, x, target),
            net.train_step, fit,
            lambda x, target: step_by_hand([net], loss, sgd, x, target)]
    for i in range(24):
        if i == 10:
            sgd.lr = twin_sgd.lr = 0.01
        if i == 15:
            sgd.momentum = twin_sgd.momentum = 0        # forgets
        if i == 18:
            sgd.momentum = twin_sgd.momentum = 0.8
        x, target = make_batch(rng, name, 12, dtype)
        ways[i * i % 7 % 4](x, target)
        step_by_hand(twins, loss, twin_sgd, x, target)
        assert bits([net]) == bits(twins), i


def test_steps_by_hand_before_joining_count(dtype, rng):
    layers = make_layers("three layers", dtype)
    twins, loss = copy.deepcopy(layers), fn.SoftmaxCrossEntropy()
    sgd, twin_sgd = fn.SGD(0.05, 0.9), fn.SGD(0.05, 0.9)
    x, target = make_batch(rng, "three layers", 12, dtype)
    step_by_hand(layers, loss, sgd, x, target)
    net = fn.Sequential(layers)
    net.compile(sgd)
    net.train_step(x, target)
    for _ in range(2):
        step_by_hand(twins, loss, twin_sgd, x, target)
    assert bits(layers) == bits(twins)
    outer = fn.Sequential([net])
    outer.compile(sgd)
    outer.train_step(x, target)
    step_by_hand(twins, loss, twin_sgd, x, target)
    assert bits(layers) == bits(twins)


# ---- The reference, and PyTorch --------------------------------------------------------------

def test_steps_are_those_of_the_textbook():
    """`fastnet.reference` adds in another order: 1e-12 is far above that in float64."""
    rng = np.random.default_rng(0)
    net = fn.Sequential([fn.Dense(3, 5, dtype="float64", rng=rng), fn.ReLU(),
                         fn.Residual([fn.Dense(5, 5, dtype="float64", rng=rng), fn.Scale(0.5)]),
                         fn.Dense(5, 4, dtype="float64", rng=rng)])
    net.compile(fn.SGD(0.5, 0.9))
    W1, b1, W2, b2, W3, b3 = parameters = [value.tolist() for value in values([net])]
    velocities = [np.zeros_like(value).tolist() for value in parameters]
    for _ in range(10):
        X, labels = rng.normal(size=(7, 3)).tolist(), rng.integers(4, size=7).tolist()
        H = reference.dense_forward(X, W1, b1)
        A = reference.relu_forward(H)
        R = reference.scale_forward(reference.dense_forward(A, W2, b2), 0.5)
        S = reference.add_forward(R, A)
        loss, dZ = reference.softmax_cross_entropy(reference.dense_forward(S, W3, b3), labels)
        dS, dW3, db3 = reference.dense_backward(S, W3, dZ)
        dA, dW2, db2 = reference.dense_backward(A, W2, reference.scale_backward(dS, 0.5))
        dH = reference.relu_backward(H, reference.add_forward(dA, dS))
        _, dW1, db1 = reference.dense_backward(X, W1, dH)
        assert net.train_step(X, labels) == pytest.approx(loss, abs=1e-12)
        for i, gradient in enumerate([dW1, db1, dW2, db2, dW3, db3]):
            rows = [gradient] if i % 2 else gradient
            W, V = ([value] if i % 2 else value for value in (parameters[i], velocities[i]))
            for row, gradients in enumerate(rows):
                W[row], V[row] = textbook_update(gradients, W[row], V[row])
            parameters[i], velocities[i] = (W[0], V[0]) if i % 2 else (W, V)
        W1, b1, W2, b2, W3, b3 = parameters
        for found, expected in zip(values([net]), parameters, strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def textbook_update(gradients, weights, velocities):
    velocities = [0.9 * v + g for v, g in zip(velocities, gradients, strict=True)]
    return [w - 0.5 * v for w, v in zip(weights, velocities, strict=True)], velocities


@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("kind", ["labels", "soft rows", "squares"])
def test_fifty_steps_of_pytorch(kind, momentum, nesterov, rng):
    """Sums in another order, 50 times: 1e-9 in float64, far below any real mistake."""
    torch = pytest.importorskip("torch")
    net = make_network("Residual", "float64", kind, 0.1, momentum, nesterov, keep_gradients=True)
    leaves = [torch.tensor(value, requires_grad=True) for value in values([net])]
    sgd = torch.optim.SGD(leaves, lr=0.1, momentum=momentum, nesterov=nesterov)
    loss = torch.nn.functional.mse_loss if kind == "squares" else torch.nn.functional.cross_entropy

    def torch_forward(x):
        W1, b1, W2, b2, W3, b3, W4, b4 = leaves
        h = torch.relu(torch.tensor(x) @ W1 + b1)
        return torch.relu(torch.relu(h @ W2 + b2) @ W3 + b3 + h) @ W4 + b4

    for step in range(50):
        x, target = make_batch(rng, "Residual", SIZES[step % len(SIZES)], np.float64, kind)
        np.testing.assert_allclose(net.predict(x), torch_forward(x).detach(), rtol=0, atol=1e-9)
        sgd.zero_grad()
        expected = loss(torch_forward(x), torch.tensor(target))
        expected.backward()
        assert net.train_step(x, target) == pytest.approx(expected.item(), abs=1e-9)
        for (_, _, gradient), leaf in zip(net.parameters(), leaves, strict=True):
            np.testing.assert_allclose(gradient, leaf.grad, rtol=0, atol=1e-9)
        sgd.step()
    for found, leaf in zip(values([net]), leaves, strict=True):
        np.testing.assert_allclose(found, leaf.detach(), rtol=0, atol=1e-9)


# ---- No trace in memory ----------------------------------------------------------------------

def run_and_poison(name, kind, dtype, value):
    """All bits that come out of steps and predictions of changing sizes."""
    rng, net, found = np.random.default_rng(0), make_network(name, dtype, kind), []

    def poison():
        if value is not None:
            net._engine.poison(value)

    for n in SIZES:
        x, target = make_batch(rng, name, n, dtype, kind)
        found.append(net.train_step(x, target))
        poison()
        found.append(net.predict(x).tobytes())
        poison()
        found.append(tuple(net.evaluate(x, target)))
        poison()
    x, target = make_batch(rng, name, 20, dtype, kind)
    found += net.fit(x, target, batch_size=3, rng=0, verbose=0).loss
    return [*found, bits([net])]


@pytest.mark.parametrize("name, kind", CASES)
def test_nothing_is_read_that_an_earlier_call_left_behind(name, kind, dtype):
    plain, nan, zeros = (
        run_and_poison(name, kind, dtype, value) for value in (None, np.nan, 0.0))
    assert plain == nan == zeros


@pytest.mark.parametrize("name", ["Residual", "large inside", "LayerNorm in a Residual"])
def test_equal_bits_from_run_to_run(name, dtype, rng):
    x, target = make_batch(rng, name, 100, dtype)
    seen, others = set(), []
    for i in range(3):
        others.append(np.ones(1000 * i + 3))                # buffers lie elsewhere
        net = make_network(name, dtype)
        history = net.fit(x, target, batch_size=8, epochs=2, rng=1, verbose=0)
        seen.add((bits([net]), net.predict(x).tobytes(), *history.loss))
    assert len(seen) == 1


def allocated_by(call):
    """Bytes that a call keeps, and that it needs in between, once it is warm.

    What was there before is not traced, so to give it back and take it anew shows as well.
    """
    call()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["Residual", "LayerNorm in a Residual"])
@pytest.mark.parametrize("keep", [False, True])
def test_a_thousand_steps_allocate_nothing(keep, name, dtype, rng):
    """Of a batch's values, the smallest has 1 KB. NumPy tells tracemalloc about its arrays."""
    net = make_network(name, dtype, metrics=["accuracy"], keep_gradients=keep)
    x, target = make_batch(rng, name, 64, dtype)
    many, labels = make_batch(rng, name, 2000, dtype)
    out = np.empty((64, 4), dtype)

    def steps():
        for _ in range(1000):
            net.train_step(x, target)

    def predictions():
        for _ in range(1000):
            net.predict(x, out)

    def fit():
        net.fit(many, labels, batch_size=2, shuffle=False, verbose=0)

    for call in (steps, predictions, fit):
        kept, needed = allocated_by(call)
        assert kept < 1000 and needed < 5000, call.__name__


# ---- No trace in the processor's mode --------------------------------------------------------

def has_subnormals(dtype):
    half = np.full(3, np.finfo(dtype).tiny, dtype) / 2
    return bool((half * 2 == np.finfo(dtype).tiny).all())


@pytest.mark.parametrize("name", ["Residual", "large inside", "LayerNorm in a Residual"])
def test_the_caller_has_subnormal_numbers_after_every_call(name, dtype, rng):
    net = make_network(name, dtype, metrics=["accuracy"])
    x, target = make_batch(rng, name, 300, dtype)
    bad = np.full_like(x, np.nan)
    for call in (lambda: net.train_step(x, target), lambda: net.predict(x),
                 lambda: net.evaluate(x, target), lambda: net.frozen().predict(x),
                 lambda: net.fit(x, target, validation_split=0.1, verbose=0)):
        call()
        assert has_subnormals(dtype)
    for call in (net.train_step, lambda x, y: net.fit(x, y, verbose=0)):
        with pytest.raises(FloatingPointError):
            call(bad, target)
        assert has_subnormals(dtype)
        with pytest.raises(ValueError):
            call(x, target + 4)
        assert has_subnormals(dtype)


@pytest.mark.parametrize("name", ["three layers", "large inside"])
def test_no_number_ends_subnormal_however_long_one_sample_is_repeated(name, dtype, rng):
    """Velocities would: 0.8 times twice the smallest number, rounded, is the same again."""
    net = make_network(name, dtype, "squares", lr=0.02, momentum=0.8)
    x, target = make_batch(rng, name, 1, dtype, "squares")
    steps = 5000
    net.fit(np.repeat(x, steps, 0), np.repeat(target, steps, 0), batch_size=1, verbose=0)
    velocities = [v for kept in net.optimizer._states.values() for v, _, _ in kept]
    for array in (*values([net]), *velocities):
        assert np.all((array == 0) | (np.abs(array) >= np.finfo(dtype).tiny))
    assert not all(velocity.all() for velocity in velocities)       # some got as far as 0


# ---- Large batches: blocks of rows ------------------------------------------------------------

BLOCK = 256             # rows, for layers of fewer than 256 x 600 weights


@pytest.mark.parametrize("name, kind", [
    ("Residual", "labels"), ("nested Sequential", "soft rows"), ("no ReLU", "squares"),
    ("three layers", "probabilities"), ("large inside", "labels"),
    ("smooth activations", "labels"), ("LayerNorm in a Residual", "labels"),
    ("LayerNorm", "squares"), ("LayerNorm at both ends", "labels"),
    ("Dropout at both ends", "labels"), ("Dropout in a Residual", "soft rows")])
@pytest.mark.parametrize("n", [BLOCK + 1, 3 * BLOCK + 5])
def test_large_batches_give_the_numbers_of_the_layers(name, kind, n, dtype, rng):
    """Gradients of blocks are added up, in another order than the layers' sums over all rows."""
    net, forgetful = (make_network(name, dtype, kind, keep_gradients=keep)
                      for keep in (True, False))
    twins, loss = copy.deepcopy(list(net.layers)), KINDS[kind]()
    x, target = make_batch(rng, name, n, dtype, kind)
    expected = step_by_hand(twins, loss, fn.SGD(0.05, 0.9), x, target)
    precision = np.finfo(dtype).eps
    assert net.train_step(x, target) == pytest.approx(expected, rel=1e-14)
    for (_, _, found), (_, _, gradient) in zip(
            net.parameters(), fn.Sequential(twins).parameters(), strict=True):
        assert np.abs(found - gradient).max() <= 30 * precision * max(1, np.abs(gradient).max())
    assert not np.array_equal(found, np.zeros_like(found))
    for _ in range(2):
        forgetful.train_step(x, target)
    net.train_step(x, target)
    assert bits([net]) == bits([forgetful])


def test_a_batch_of_one_block_has_the_bits_of_the_layers_and_two_blocks_those_of_their_sum(
        dtype, rng):
    net = make_network("three layers", dtype, lr=0.0, keep_gradients=True)
    x, target = make_batch(rng, "three layers", 2 * BLOCK, dtype)

    def gradients(x, target):
        net.train_step(x, target)
        return [gradient.copy() for _, _, gradient in net.parameters()]

    twins, loss = copy.deepcopy(list(net.layers)), fn.SoftmaxCrossEntropy()
    halves = [gradients(x[part], target[part]) for part in (slice(BLOCK), slice(BLOCK, None))]
    step_by_hand(twins, loss, fn.SGD(0.0), x[BLOCK:], target[BLOCK:])
    for found, (_, _, expected) in zip(halves[1], fn.Sequential(twins).parameters(), strict=True):
        assert np.array_equal(found, expected)
    for whole, first, second in zip(gradients(x, target), *halves, strict=True):
        assert np.allclose(whole, (first + second) / 2, rtol=0, atol=4 * np.finfo(dtype).eps)


def test_large_batches_count_right_answers_in_every_block(rng):
    net = make_network("three layers", "float64", lr=0.0, metrics=["accuracy"])
    x, target = make_batch(rng, "three layers", 2 * BLOCK + 77, "float64")
    history = net.fit(x, target, batch_size=len(x), shuffle=True, rng=1, verbose=0)
    assert history.loss[0] == pytest.approx(net.evaluate(x, target).loss, rel=1e-14)
    assert history.accuracy[0] == np.mean(net.predict_labels(x) == target)


def test_38_a_large_batch_with_a_bad_last_block_is_not_applied(dtype, rng):
    net = make_network("three layers", dtype)
    x, target = make_batch(rng, "three layers", 3 * BLOCK, dtype)
    net.train_step(x, target)
    before = bits([net])
    x[-1] = np.nan
    with pytest.raises(FloatingPointError, match="the loss is nan, and the step was not applied"):
        net.train_step(x, target)
    assert bits([net]) == before


def test_memory_for_training_does_not_grow_with_the_batch(rng):
    net = make_network("wide", "float32")
    x, target = make_batch(rng, "wide", 100 * BLOCK, "float32")
    net.train_step(x[:BLOCK], target[:BLOCK])
    _, needed = allocated_by(lambda: net.train_step(x, target))
    assert needed < 8 * len(x) + 10_000         # a copy of the labels


# ---- Dropout: which entries a step drops ------------------------------------------------------

@pytest.mark.parametrize("n", [1, 33, BLOCK, BLOCK + 44, 3 * BLOCK + 5])
def test_a_step_drops_what_the_layer_would_drop_in_blocks_too(n, dtype):
    """Scores are 0 and each sample has a weight of its own, whose gradient is 0 if it is dropped.

    Three steps, of which each goes on where the last one ended; and predictions do not count.
    """
    dropout = fn.Dropout(0.4, rng=7)
    twin = copy.deepcopy(dropout)
    net = fn.Sequential([fn.Dense(n, 5, False, weight_init="zeros", dtype=dtype), dropout])
    net.compile(fn.SGD(0.0), "mse", keep_gradients=True)
    x, target = np.eye(n, dtype=dtype), np.ones((n, 5), dtype)
    for _ in range(3):
        net.train_step(x, target)
        net.predict(x)
        net.evaluate(x, target)
        net.frozen().predict(x)
        expected = twin.forward(np.ones((n, 5), dtype))
        factor = dtype.type(-2 / (5 * n))
        np.testing.assert_allclose(net.layers[0].weight_grad, factor * expected, rtol=1e-6)


def test_every_way_to_step_counts_the_same_entries(dtype, rng):
    dropout = fn.Dropout(0.5, rng=7)
    twin = copy.deepcopy(dropout)
    net = fn.Sequential([fn.Dense(6, 4, dtype=dtype), dropout])
    net.compile(fn.SGD(0.1), "mse")
    x, target = rng.normal(size=(600, 6)), rng.normal(size=(600, 4))
    net.train_step(x, target)
    net.fit(x, target, batch_size=32, epochs=2, verbose=0)
    net.forward(x)
    twin.forward(np.ones((600, 16)))
    ones = np.ones((50, 4))
    assert np.array_equal(dropout.forward(ones), twin.forward(ones))


@pytest.mark.parametrize("name", ["Dropout", "LayerNorm in a Residual"])
def test_copies_of_a_network_go_on_to_drop_the_same_entries(name, dtype, rng):
    net = make_network(name, dtype)
    x, target = make_batch(rng, name, 40, dtype)
    net.train_step(x, target)
    twins = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    for _ in range(3):
        expected = net.train_step(x, target)
        assert [twin.train_step(x, target) for twin in twins] == [expected] * 2
    assert {bits([twin]) for twin in twins} == {bits([net])}


@pytest.mark.parametrize("name", ["LayerNorm in a Residual", "Dropout at both ends",
                                  "activations of layers", "LogSoftmax"])
def test_a_frozen_copy_predicts_like_the_network(name, dtype, rng):
    net = make_network(name, dtype)
    for n in (1, 32, 700):
        x, _ = make_batch(rng, name, n, dtype)
        expected = net.predict(x)
        for model in (net.frozen(), pickle.loads(pickle.dumps(net.frozen()))):
            np.testing.assert_allclose(model.predict(x), expected, rtol=0,
                                       atol=50 * np.finfo(dtype).eps * np.abs(expected).max())
        np.testing.assert_allclose(predict(net.layers, x), expected, rtol=0,
                                   atol=50 * np.finfo(dtype).eps * np.abs(expected).max())


# ---- Freezing --------------------------------------------------------------------------------

FREEZABLE = ["Residual", "wide", "nested Sequential", "large inside", "large in a Residual",
             "LayerNorm", "LayerNorm in a Residual", "large with LayerNorm and Dropout",
             "activations of layers"]


def weighted(layers):
    """The layers with parameters, those inside others in their place."""
    found = []
    for layer in layers:
        inner = getattr(layer, "layers", None)
        found += weighted(inner) if inner else [layer] if any(layer.parameters()) else []
    return found


def freeze(layers, which):
    """Freeze the even or the odd ones of the layers with parameters, and return both kinds."""
    every = weighted(layers)
    for layer in every[which::2]:
        layer.trainable = False
    return every[which::2], every[1 - which::2]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("n", [1, 32, 300])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", FREEZABLE)
def test_frozen_layers_keep_their_bits_and_the_others_step_as_if_none_were_frozen(
        name, which, n, keep, dtype, rng):
    """The twin freezes nothing: its layers get their old numbers back after each step."""
    net, twin = (make_network(name, dtype, keep_gradients=keep) for _ in range(2))
    frozen, others = freeze(net.layers, which)
    same = weighted(twin.layers)[which::2]
    before, starts = values(frozen), values(others)
    assert before and starts
    for _ in range(3):
        x, target = make_batch(rng, name, n, dtype)
        assert net.train_step(x, target) == twin.train_step(x, target)
        if keep:                                # the gradients of all, of frozen layers too
            for (_, _, found), (_, _, expected) in zip(
                    net.parameters(), twin.parameters(), strict=True):
                assert found.tobytes() == expected.tobytes()
        for layer, old in zip(same, frozen, strict=True):
            for (_, value, _), (_, kept, _) in zip(
                    layer.parameters(), old.parameters(), strict=True):
                assert not np.array_equal(value, kept)      # without freezing it would move
                value[...] = kept
        assert bits([net]) == bits([twin])
    assert all(map(np.array_equal, values(frozen), before))
    assert not any(map(np.array_equal, values(others), starts))


@pytest.mark.parametrize("which", [0, 1])
def test_frozen_layers_so_large_that_a_large_batch_is_one_block(which, dtype, rng):
    """From 256 x 600 weights on a block has more rows, and the update waits for all gradients."""
    net = fn.Sequential([fn.Dense(600, 300, dtype=dtype, rng=1), fn.ReLU(),
                         fn.Dense(300, 4, dtype=dtype, rng=2)])
    net.compile(fn.SGD(0.05, 0.9))
    twins, loss, sgd = copy.deepcopy(list(net.layers)), fn.SoftmaxCrossEntropy(), fn.SGD(0.05, 0.9)
    frozen, others = freeze(net.layers, which)
    freeze(twins, which)
    before, starts = bits(frozen), bits(others)
    x, target = rng.normal(size=(290, 600)).astype(dtype), rng.integers(4, size=290)
    for _ in range(2):
        net.train_step(x, target)
        step_by_hand(twins, loss, sgd, x, target)
    assert bits([net]) == bits(twins) and bits(frozen) == before and bits(others) != starts


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", FREEZABLE)
def test_fit_and_steps_by_hand_leave_frozen_layers_alone(name, which, dtype, rng):
    """With a last batch of one sample."""
    net = make_network(name, dtype)
    twins, loss = copy.deepcopy(list(net.layers)), fn.SoftmaxCrossEntropy()
    by_hand = copy.deepcopy(net)
    frozen, others = freeze(net.layers, which)
    freeze(twins, which)
    freeze(by_hand.layers, which)
    before, starts = values(frozen), values(others)
    x, target = make_batch(rng, name, 33, dtype)
    net.fit(x, target, batch_size=16, epochs=2, shuffle=False, verbose=0)
    sgd, other_sgd = fn.SGD(0.05, 0.9), fn.SGD(0.05, 0.9)
    for _ in range(2):
        for batch in np.split(np.arange(33), [16, 32]):
            step_by_hand(twins, loss, sgd, x[batch], target[batch])
            step_by_hand([by_hand], loss, other_sgd, x[batch], target[batch])
    assert bits([net]) == bits(twins) == bits([by_hand])
    assert all(map(np.array_equal, values(frozen), before))
    assert not any(map(np.array_equal, values(others), starts))


@pytest.mark.parametrize("name", FREEZABLE)
def test_freezing_and_thawing_count_from_the_next_step_however_it_is_taken(name, dtype, rng):
    """A velocity rests while its layer is frozen."""
    net = make_network(name, dtype)
    twins, loss = copy.deepcopy(list(net.layers)), fn.SoftmaxCrossEntropy()
    sgd, twin_sgd = fn.SGD(0.05, 0.9), fn.SGD(0.05, 0.9)
    net.compile(sgd)
    layers = list(net.layers)
    ways = [lambda x, target: step_by_hand(layers, loss, sgd, x, target), net.train_step,
            lambda x, target: net.fit(x, target, batch_size=len(x), shuffle=False, verbose=0),
            lambda x, target: step_by_hand([net], loss, sgd, x, target)]
    every, their_twins = weighted(layers), weighted(twins)
    for i in range(20):
        for j, pair in enumerate(zip(every, their_twins, strict=True)):
            for layer in pair:
                layer.trainable = (i + j) % 3 != 0 or i % 5 == 4
        x, target = make_batch(rng, name, 12 if i % 4 else 1, dtype)
        old = [values([layer]) for layer in every]
        ways[i * i % 7 % 4](x, target)
        step_by_hand(twins, loss, twin_sgd, x, target)
        assert bits([net]) == bits(twins), i
        for layer, kept in zip(every, old, strict=True):
            changed = not all(map(np.array_equal, values([layer]), kept))
            assert changed == layer.trainable, i


def test_a_velocity_rests_while_its_layer_is_frozen(dtype):
    layer = fn.Dense(1, 1, bias=False, weight_init="zeros", dtype=dtype)
    other = fn.Dense(1, 1, bias=False, weight_init="zeros", dtype=dtype)
    layer.weight_grad, other.weight_grad = [[1]], [[1]]
    sgd, layers, found = fn.SGD(lr=1.0, momentum=0.5), [layer, other], []
    for trainable in (True, False, False, True):
        layer.trainable = trainable
        sgd.step(layers)
        found.append((layer.weight.item(), other.weight.item()))
    assert found == [(-1, -1), (-1, -2.5), (-1, -4.25), (-2.5, -6.125)]


@pytest.mark.parametrize("n", [1, 32, 300])
def test_a_network_that_is_frozen_as_a_whole_only_measures(n, dtype, rng):
    net = make_network("LayerNorm in a Residual", dtype)
    assert net.trainable
    net.trainable = False
    assert not net.trainable and not any(layer.trainable for layer in weighted(net.layers))
    before = bits([net])
    x, target = make_batch(rng, "", n, dtype)
    assert np.isfinite(net.train_step(x, target))
    net.fit(x, target, verbose=0)
    net.optimizer.step([net])
    assert bits([net]) == before
    net.trainable = True
    net.train_step(x, target)
    assert bits([net]) != before


def test_layers_in_others_are_frozen_with_them():
    inner = fn.Sequential([fn.Dense(3, 3), fn.ReLU()])
    residual = fn.Residual([inner, fn.LayerNorm(3)])
    outer = fn.Sequential([residual, fn.Dense(3, 2)])
    dense, norm, last = weighted(outer.layers)
    residual.trainable = False
    assert [layer.trainable for layer in (dense, norm, last)] == [False, False, True]
    assert not residual.trainable and not inner.trainable and outer.trainable
    inner.trainable = True
    assert [layer.trainable for layer in (dense, norm, last)] == [True, False, True]
    assert residual.trainable
    for value in (False, True):
        outer.trainable = value
        assert [layer.trainable for layer in (dense, norm, last)] == [value] * 3


@pytest.mark.parametrize("make", [fn.Residual, fn.Sequential])
def test_what_holds_layers_is_not_trainable_when_none_with_parameters_is(make):
    """A ReLU has nothing that an optimizer could change."""
    dense = fn.Dense(3, 3)
    whole = make([dense, fn.ReLU()])
    assert whole.trainable
    dense.trainable = False
    assert not whole.trainable
    assert not make([fn.ReLU()]).trainable


class Shift(fn.Layer):
    """y = x + s: a layer of one's own, whose parameters are always the same tuple."""

    def __init__(self, width):
        self.s, self.ds = np.zeros(width, np.float32), np.zeros(width, np.float32)
        self.kept = (("s", self.s, self.ds),)

    def forward(self, x, out=None):
        return x + self.s

    def backward(self, dy, out=None):
        self.ds[...] = dy.sum(axis=0)
        return dy

    def parameters(self):
        return self.kept


def test_layers_of_ones_own_are_frozen_too(rng):
    """In a network, which then runs layer by layer."""
    own, dense = Shift(4), fn.Dense(4, 4, rng=0)
    net = fn.Sequential([dense, own, fn.Dense(4, 3, rng=1)])
    net.compile(fn.SGD(0.1, 0.9))
    x, target = rng.normal(size=(20, 4)), rng.integers(3, size=20)
    for frozen, free in [(own, dense), (dense, own)]:
        frozen.trainable, free.trainable = False, True
        before, start = bits([frozen]), bits([free])
        net.train_step(x, target)
        net.fit(x, target, batch_size=8, verbose=0)
        assert bits([frozen]) == before and bits([free]) != start


def test_freezing_a_layer_of_ones_own_counts_from_the_next_step_by_hand():
    """The optimizer has already made a step with the same list of layers."""
    own, sgd = Shift(2), fn.SGD(1.0)
    layers = [own, fn.Dense(2, 2)]
    own.ds[...] = 1
    for trainable, expected in [(True, -1), (False, -1), (False, -1), (True, -2)]:
        own.trainable = trainable
        sgd.step(layers)
        assert (own.s == expected).all()


@pytest.mark.parametrize("make_copy", [
    copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"])
def test_copies_stay_frozen_and_each_is_thawed_for_itself(make_copy, dtype, rng):
    net = make_network("LayerNorm in a Residual", dtype)
    freeze(net.layers, 1)
    twin = make_copy(net)
    x, target = make_batch(rng, "", 32, dtype)
    for _ in range(2):
        assert net.train_step(x, target) == twin.train_step(x, target)
    assert bits([net]) == bits([twin])
    assert [layer.trainable for layer in weighted(twin.layers)] == [
        layer.trainable for layer in weighted(net.layers)]
    twin.trainable = True
    assert not all(layer.trainable for layer in weighted(net.layers))


def test_the_summary_marks_frozen_layers(capsys):
    net = fn.Sequential([fn.Dense(3, 4), fn.LayerNorm(4), fn.ReLU(), fn.Dense(4, 2)])
    net.layers[0].trainable = net.layers[1].trainable = net.layers[2].trainable = False
    net.summary()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:6]]
    assert [line[-2:] for line in lines] == [
        ["16", "(frozen)"], ["8", "(frozen)"], ["4)", "0"], ["2)", "10"]]


# ---- Steps that fail -------------------------------------------------------------------------

def test_38_a_step_whose_loss_is_not_finite_is_not_applied(dtype, rng):
    """Nor does it move a velocity: the next step is the one that a twin takes."""
    net, twin = (make_network("large inside", dtype) for _ in range(2))
    x, target = make_batch(rng, "large inside", 8, dtype)
    bad = x.copy()
    for value in (np.nan, np.inf):
        bad[3, 2] = value
        net.train_step(x, target)
        twin.train_step(x, target)
        with pytest.raises(FloatingPointError, match="the loss is nan, and the step was not appl"):
            net.train_step(bad, target)
        assert bits([net]) == bits([twin])
    net.train_step(x, target)
    twin.train_step(x, target)
    assert bits([net]) == bits([twin])


def test_38_fit_names_epoch_and_step_and_keeps_the_steps_before(dtype, rng):
    net, twin = (make_network("Residual", dtype) for _ in range(2))
    x, target = make_batch(rng, "Residual", 45, dtype)
    x[22] = np.nan
    with pytest.raises(FloatingPointError, match="the loss is nan at epoch 1, step 3, and the st"):
        net.fit(x, target, batch_size=10, shuffle=False, verbose=0)
    twin.fit(x[:20], target[:20], batch_size=10, shuffle=False, verbose=0)
    assert bits([net]) == bits([twin])


def test_38_training_that_diverges_stops_before_it_spoils_parameters():
    net, twin = (make_network("one layer", "float64", "squares", lr=1e20) for _ in range(2))
    x, target = np.ones((20, 6)), np.ones((20, 4))
    steps = 0
    with pytest.raises(FloatingPointError, match="the loss is inf"):
        while True:
            before = bits([twin])
            twin.train_step(x[:10], target[:10])
            steps += 1
    assert steps > 2 and bits([twin]) == before
    place = f"at epoch {steps // 2 + 1}, step {steps % 2 + 1}, and the step was not applied"
    with pytest.raises(FloatingPointError, match=f"the loss is inf {place}"):
        net.fit(x, target, batch_size=10, epochs=99, verbose=0)
    assert bits([net]) == before and all(np.isfinite(value).all() for value in values([net]))


def overflowing(keep, lr):
    """A network and a batch whose loss is 1e30, and whose gradient is too large for float32."""
    net = fn.Sequential([fn.Dense(1, 1, weight_init="zeros")])
    net.compile(fn.SGD(lr, 0.9), "mse", keep_gradients=keep)
    return net, [[1e25]], [[1e15]]


def test_38_kept_gradients_that_overflow_are_refused():
    net, x, target = overflowing(True, 0.1)
    with pytest.raises(FloatingPointError, match="the gradient is not finite at epoch 1, step 1, "
                                                 "and the step was not applied"):
        net.fit(x, target, verbose=0)
    assert not any(map(np.any, values([net])))
    net.train_step([[1]], [[1]])
    assert net.layers[0].weight == net.layers[0].bias == np.float32(0.2)    # v was 0


@pytest.mark.parametrize("lr", [0.1, 0.0])
def test_38_gradients_that_overflow_are_found_by_the_next_step_at_the_latest(lr):
    net, x, target = overflowing(False, lr)
    with pytest.raises(FloatingPointError):
        for _ in range(2):
            net.train_step(x, target)
    with pytest.raises(FloatingPointError, match="parameters are infinite or NaN"):
        net.train_step([[1]], [[1]])


def test_40_scores_of_minus_infinity():
    net = fn.Sequential([fn.Dense(1, 2, weight_init="zeros")])
    net.compile()
    net.layers[0].bias = [-np.inf, -np.inf]
    with pytest.raises(FloatingPointError, match="at epoch 1, step 1, because parameters are inf"):
        net.fit([[1]], [0], verbose=0)


def test_39_scores_that_are_no_probabilities_are_refused(dtype, rng):
    net = make_network("Residual", dtype)
    net.compile(loss="cross_entropy")
    x, target = make_batch(rng, "Residual", 5, dtype)
    before = bits([net])
    for call in (net.train_step, net.evaluate, lambda x, y: net.fit(x, y, verbose=0)):
        with pytest.raises(ValueError, match="CrossEntropy takes probabilities"):
            call(x, target)
    assert bits([net]) == before


def test_55_memory_runs_out_and_the_network_goes_on():
    net = fn.Sequential([fn.Dense(1, 2**21, weight_init="zeros"), fn.ReLU()])
    net.compile()
    x, target = np.ones((2**21, 1), np.float32), np.zeros(2**21, int)
    before = bits([net])
    for call in (lambda: net.train_step(x, target), lambda: net.predict(x),
                 lambda: net.fit(x, target, batch_size=2**21, verbose=0)):
        with pytest.raises(MemoryError):
            call()
    assert bits([net]) == before
    assert net.train_step(x[:2], target[:2]) == pytest.approx(21 * np.log(2))
    assert net.predict(x[:2]).shape == (2, 2**21)


# ---- Threads ---------------------------------------------------------------------------------

@pytest.mark.parametrize("freeze", [False, True])
def test_50_many_threads_predict_at_once(freeze, dtype, rng):
    """Of changing sizes, long enough to let each other in."""
    net = make_network("wide inside a Residual", dtype)
    model = net.frozen() if freeze else net
    inputs = [make_batch(rng, "", n, dtype)[0] for n in (1, 700, 3, 2500, 90)]
    expected = [model.predict(x).tobytes() for x in inputs]

    def work(i):
        order = [(i + j) % len(inputs) for j in range(30)]
        return all(model.predict(inputs[j]).tobytes() == expected[j] for j in order)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(8)))


def fit_and_meanwhile(fit, call):
    """Call again and again while another thread trains; return results, and count refusals."""
    def work():
        while True:
            with contextlib.suppress(RuntimeError):     # a call may come first, and refuse it
                return fit()

    results, refused, thread = [], 0, threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        try:
            results.append(call())
        except RuntimeError:
            refused += 1
            time.sleep(0.001)
    thread.join()
    return results, refused


@pytest.mark.parametrize("whose", ["the network's own", "an inner network's"])
def test_51_predictions_while_another_thread_trains_are_refused_or_correct(whose, rng):
    x, target = make_batch(rng, "large inside", 3200, np.float32)
    layers = make_layers("large inside", np.float32)
    twin, inner = fn.Sequential(copy.deepcopy(layers)), fn.Sequential(layers)
    net = inner if whose == "the network's own" else fn.Sequential([inner])
    for network in (net, twin):
        network.compile(fn.SGD(0.01))
    some = x[:100]
    results, refused = fit_and_meanwhile(
        lambda: net.fit(x, target, batch_size=32, shuffle=False, verbose=0),
        lambda: inner.predict(some).tobytes())
    correct = {twin.predict(some).tobytes()}
    for first in range(0, 3200, 32):
        twin.train_step(x[first:first + 32], target[first:first + 32])
        correct.add(twin.predict(some).tobytes())
    assert bits([net]) == bits([twin])
    assert set(results) <= correct
    assert refused or whose != "the network's own"


def test_51_a_second_fit_is_refused_or_has_its_turn(rng):
    x, target = make_batch(rng, "large inside", 1600, np.float32)
    start, outcomes = threading.Barrier(2), {}

    def fit(network, batch_size):
        network.fit(x, target, batch_size=batch_size, shuffle=False, verbose=0)

    for sizes in ((32,), (64,), (32, 64), (64, 32)):
        twin = make_network("large inside", np.float32)
        for size in sizes:
            fit(twin, size)
        outcomes[bits([twin])] = sorted(sizes)
    net = make_network("large inside", np.float32)

    def race(size):
        start.wait()
        try:
            fit(net, size)
        except RuntimeError:
            return None
        return size

    with ThreadPoolExecutor(2) as threads:
        finished = [size for size in threads.map(race, (32, 64)) if size]
    assert outcomes[bits([net])] == finished


# ---- Ctrl-C ----------------------------------------------------------------------------------

@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
def test_54_a_signal_stops_a_long_fit_and_the_network_goes_on(dtype, rng):
    """An epoch here would take seconds."""
    net = make_network("large inside", dtype)
    x, target = make_batch(rng, "large inside", 50_000, dtype)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        start = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            net.fit(x, target, batch_size=8, epochs=2, verbose=0)
        assert time.perf_counter() - start < 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert has_subnormals(dtype)
    net.train_step(x[:8], target[:8])


INTERRUPTED = """
import signal
import numpy as np
import fastnet as fn

signal.signal(signal.SIGINT, signal.default_int_handler)    # background jobs inherit none

def make():
    rng = np.random.default_rng(0)
    net = fn.Sequential([fn.Dense(8, 512, rng=rng), fn.ReLU(), fn.Dense(512, 512, rng=rng),
                         fn.ReLU(), fn.Dense(512, 4, rng=rng)])
    net.compile(fn.SGD(0.01, 0.9))
    return net, rng.normal(size=(200_000, 8)).astype("f4"), rng.integers(4, size=200_000)

def bits(net):
    return b"".join(value.tobytes() for _, value, _ in net.parameters())

net, x, y = make()
print("ready", flush=True)
try:
    net.fit(x, y, batch_size=32, epochs=2, rng=7, verbose=0)
except KeyboardInterrupt:
    print("stopped", flush=True)
twin, _, _ = make()
order, steps = np.random.default_rng(7).permutation(len(x)), 0
while bits(twin) != bits(net) and steps < 2000:
    batch = order[32 * steps:][:32]
    twin.train_step(x[batch], y[batch])
    steps += 1
print(steps if bits(twin) == bits(net) else "no finished step", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGINT")
def test_54_ctrl_c_leaves_the_parameters_of_a_finished_step():
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        start = time.perf_counter()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopped\n"
        assert time.perf_counter() - start < 1              # an epoch takes far longer
        assert 0 < int(process.stdout.readline()) < 2000


@pytest.mark.parametrize("order", [None, np.array([1, 0])], ids=["in order", "shuffled"])
def test_28_labels_that_change_while_they_are_in_use_are_not_followed(order):
    """They were checked before; another thread may have written to them since."""
    net = fn.Sequential([fn.Dense(2, 3)])
    net.compile()
    before = net.layers[0].weight.copy()
    for bad in (3, -1, 2**62):
        outcome, *_ = net._engine.train(
            np.ones((2, 2), np.float32), np.array([0, bad]), None, net._trainer._objective, 2,
            order, False, False, net._trainer._steps_of(1))
        assert outcome == "label"
    assert np.array_equal(net.layers[0].weight, before)


def test_06_rows_of_other_numbers_or_widths_are_refused_by_the_engine_itself(dtype):
    """Whoever calls it has looked at them; but what it reads is memory."""
    net = fn.Sequential([fn.Dense(4, 3, dtype=dtype, rng=0)])
    net.compile(fn.SGD(0.1), "mse")
    x, rows, weights = (np.ones(shape, dtype) for shape in [(6, 4), (6, 3), 6])
    for bad in ((x[:, 1:], rows, weights), (x, rows[:, :1], weights), (x, rows[:5], weights),
                (x, np.zeros(5, np.intp), weights), (x, rows, weights[:5])):
        bad = [np.ascontiguousarray(array) for array in bad]
        trainer = net._compiled()
        with pytest.raises(ValueError, match=r"target must have shape \(6, 3\) or \(6,\), got"):
            net._engine.train(*bad, trainer._objective, 6, None, False, False,
                              trainer._steps_of(1))
        with pytest.raises(ValueError, match=r"target must have shape \(6, 3\) or \(6,\), got"):
            net._engine.evaluate(*bad, trainer._objective, False)
    assert net.optimizer.steps == 0
