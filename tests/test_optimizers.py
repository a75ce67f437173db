"""Optimizers: their kernels, the conventions of others, and how a network takes their steps.

Values over many steps are compared with PyTorch's in `test_against_torch.py`. Numbers in names are
those of the list of bad inputs that the project keeps.
"""

import copy
import itertools
import math
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest

import fastnet as fn
from fastnet import _ops, reference

SIZES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 67, 1000]


def draw(rng, dtype, *shape):
    return rng.normal(size=shape).astype(dtype)


def assert_close(found, expected, n_eps=60):
    """Equal to `n_eps` units in the last place of the largest value, at least of 1."""
    allowed = n_eps * np.finfo(found.dtype).eps * max(1.0, np.max(np.abs(expected)))
    np.testing.assert_allclose(found, np.asarray(expected), rtol=0, atol=allowed)


# ---- Kernels and the reference ---------------------------------------------------------------

# What is done to a gradient, and to a parameter.
COMMON = [{}, {"scale": 0.3}, {"clip": 0.4}, {"decay": 0.2}, {"shrink": 0.9},
          {"scale": -1.5, "clip": 0.7, "decay": 0.1, "shrink": 0.8}]
OF_SGD = [
    {}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "gain": 0.5}, {"momentum": 0.9, "look": 0.7},
    {"momentum": 0.9, "direct": 0.3}, {"momentum": 0.5, "gain": 0.1, "look": 0.4, "direct": 0.2},
    {"momentum": 0.9, "nesterov": True, "gain": 0.2, "direct": 0.0}]


@pytest.mark.parametrize("common", COMMON, ids=str)
@pytest.mark.parametrize("options", OF_SGD, ids=str)
def test_sgd_update_agrees_with_the_reference(options, common, dtype, rng):
    for size in SIZES:
        w, v = draw(rng, dtype, size), np.zeros(size, dtype)
        expected, velocity = w.tolist(), v.tolist()
        for _ in range(3):
            g = draw(rng, dtype, size)
            _ops.sgd_update([g], [w], [v], 0.1, **options, **common)
            expected, velocity = reference.sgd_update(
                g.tolist(), expected, velocity, 0.1, **options, **common)
        assert_close(w, expected)
        assert_close(v, velocity)


@pytest.mark.parametrize("common", COMMON, ids=str)
def test_sgd_update_without_velocity_has_no_momentum(common, dtype, rng):
    for size in SIZES:
        w, g = draw(rng, dtype, size), draw(rng, dtype, size)
        expected, _ = reference.sgd_update(g.tolist(), w.tolist(), [0.0] * size, 0.1, **common)
        _ops.sgd_update([g], [w], [None], 0.1, **common)
        assert_close(w, expected)


@pytest.mark.parametrize("common", COMMON, ids=str)
@pytest.mark.parametrize("options", [
    {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}, {"beta1": 0.5, "beta2": 0.9, "eps": 0.1},
    {"beta1": 0.0, "beta2": 0.0, "eps": 1e-3}, {"beta1": 0.9, "beta2": 0.99, "eps": 1e-4,
                                                "root": 3.0}], ids=str)
def test_adam_update_agrees_with_the_reference(options, common, dtype, rng):
    for size in SIZES:
        w, m, s = draw(rng, dtype, size), np.zeros(size, dtype), np.zeros(size, dtype)
        expected = w.tolist(), m.tolist(), s.tolist()
        for _ in range(3):
            g = draw(rng, dtype, size)
            _ops.adam_update([g], [w], [m], [s], rate=0.1, **options, **common)
            expected = reference.adam_update(g.tolist(), *expected, rate=0.1, **options, **common)
        for found, other in zip((w, m, s), expected, strict=True):
            assert_close(found, other)


@pytest.mark.parametrize("common", COMMON, ids=str)
@pytest.mark.parametrize("velocity, average, momentum", [
    (False, False, 0.0), (True, False, 0.9), (False, True, 0.0), (True, True, 0.5),
    (True, False, 0.0)])
def test_rmsprop_update_agrees_with_the_reference(velocity, average, momentum, common, dtype, rng):
    for size in SIZES:
        w, s, v, a = draw(rng, dtype, size), *(np.zeros(size, dtype) for _ in range(3))
        expected = (w.tolist(), s.tolist(), v.tolist() if velocity else None,
                    a.tolist() if average else None)
        for _ in range(3):
            g = draw(rng, dtype, size)
            _ops.rmsprop_update(
                [g], [w], [s], [v] if velocity else None, [a] if average else None, rate=0.05,
                alpha=0.9, eps=1e-3, momentum=momentum, **common)
            new_w, new_s, buffer, mean = expected
            expected = reference.rmsprop_update(
                g.tolist(), new_w, new_s, 0.05, 0.9, 1e-3, buffer, momentum, mean, **common)
        assert_close(w, expected[0])
        assert_close(s, expected[1])
        if velocity:
            assert_close(v, expected[2])
        if average:
            assert_close(a, expected[3])


def test_a_variance_that_is_rounded_below_0_counts_as_0(dtype):
    """Equal gradients for long: the root is of 0, not of a negative number."""
    g, w, s, a = (np.full(5, value, dtype) for value in (0.1, 0, 0, 0))
    for _ in range(3000):
        _ops.rmsprop_update([g], [w], [s], None, [a], rate=1e-9, alpha=0.9, eps=1.0)
    assert np.isfinite(w).all() and (w < 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_sum_of_squares_agrees_with_the_reference(size, dtype, rng):
    g = draw(rng, dtype, size)
    assert _ops.sum_of_squares(g) == pytest.approx(
        reference.sum_of_squares(g.astype(float).tolist()), rel=1e-13)
    assert _ops.sum_of_squares(np.full(size, 1e30, dtype)) == pytest.approx(size * 1e60, rel=1e-6)


KERNELS = {
    "sgd": (1, lambda g, w, states, **more: _ops.sgd_update(g, w, states[0], 0.1, 0.9, **more)),
    "adam": (2, lambda g, w, states, **more: _ops.adam_update(
        g, w, *states, rate=0.1, beta1=0.9, beta2=0.99, eps=1e-6, **more)),
    "rmsprop": (3, lambda g, w, states, **more: _ops.rmsprop_update(
        g, w, *states, rate=0.1, alpha=0.9, eps=1e-6, momentum=0.9, **more)),
}


@pytest.mark.parametrize("name", KERNELS)
def test_each_parameter_decays_or_does_not(name, dtype, rng):
    count, update = KERNELS[name]
    values = [abs(draw(rng, dtype, 9)) for _ in range(2 + count)]

    def run(parameters, **more):
        g, w, *states = ([array.copy() for _ in range(parameters)] for array in values)
        update(g, w, states, **more)
        return [array.tobytes() for array in w]

    decayed, = run(1, decay=0.3, shrink=0.7)
    spared, = run(1)
    assert decayed != spared
    assert run(3, decay=0.3, shrink=0.7, decays=[True, False, True]) == [decayed, spared, decayed]
    with pytest.raises(ValueError, match="decays must have 3 entries, got 2"):
        run(3, decays=[True, False])


@pytest.mark.parametrize("name", KERNELS)
def test_updates_count_themselves(name, dtype, rng):
    """Once for all parameters, and not where one is refused."""
    count, update = KERNELS[name]
    values = [abs(draw(rng, dtype, 9)) for _ in range(2 + count)]
    taken = np.zeros(1, np.int64)
    update(*([array, array.copy()] for array in values[:2]),
           [[array, array.copy()] for array in values[2:]], taken=taken)
    assert taken == 1
    before = values[1].tobytes()
    with pytest.raises(ValueError, match="gradients, parameters and their states"):
        update(values[:1], [], [[array] for array in values[2:]], taken=taken)
    fixed = np.zeros(1, np.int64)
    fixed.flags.writeable = False
    for bad in (0, np.zeros(1), np.zeros(2, np.int64), np.zeros(1, ">i8"), fixed):
        with pytest.raises(TypeError, match="taken must be a numpy.ndarray of one int64"):
            update(values[:1], values[1:2], [[array] for array in values[2:]], taken=bad)
    assert taken == 1 and values[1].tobytes() == before


@pytest.mark.parametrize("name", KERNELS)
def test_49_kernels_check_all_before_they_change_any(name, dtype, rng):
    count, update = KERNELS[name]
    good = [draw(rng, dtype, 4) for _ in range(2 + count)]
    before = b"".join(array.tobytes() for array in good)
    read_only = draw(rng, dtype, 4)
    read_only.flags.writeable = False
    for place in range(1, 2 + count):
        others = [draw(rng, dtype, 4) for _ in range(2 + count)]
        for bad, error in [
                (draw(rng, dtype, 5), ValueError), (read_only, ValueError),
                (np.zeros(4, np.int64), ValueError), (draw(rng, dtype, 8)[::2], ValueError),
                ([1.0] * 4, TypeError), (others[place - 1], ValueError)]:
            arrays = [*others[:place], bad, *others[place + 1:]]
            lists = [[a, b] for a, b in zip(good, arrays, strict=True)]
            with pytest.raises(error):
                update(lists[0], lists[1], lists[2:])
    assert b"".join(array.tobytes() for array in good) == before
    with pytest.raises(ValueError, match="lists of one length"):
        update([good[0]], [], [[array] for array in good[2:]])


NO_STATE = """
import numpy as np
from fastnet import _ops
g, w, s = (np.ones(40) for _ in range(3))
call = {"means": lambda: _ops.adam_update([g], [w], [None], [s], rate=0.1, beta1=0.9, beta2=0.9,
                                          eps=1e-8),
        "squares": lambda: _ops.adam_update([g], [w], [s], [None], rate=0.1, beta1=0.9, beta2=0.9,
                                            eps=1e-8),
        "squares of rmsprop": lambda: _ops.rmsprop_update([g], [w], [None], rate=0.1, alpha=0.9,
                                                          eps=1e-8)}[NAME]
try:
    call()
except TypeError as error:
    print("refused")
"""


@pytest.mark.parametrize("name", ["means", "squares", "squares of rmsprop"])
def test_26_a_state_that_a_rule_needs_cannot_be_none(name):
    """In a process of its own, which a kernel that reads it would end."""
    done = subprocess.run([sys.executable, "-c", NO_STATE.replace("NAME", repr(name))],
                          capture_output=True, text=True, timeout=60)
    assert done.stdout == "refused\n", done


# ---- Conventions of others -------------------------------------------------------------------

RATES = (0.1, 0.1, 0.1, 0.02, 0.05, 0.05)           # a rate that changes tells some of them apart


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_as_scikit_learn_does_it(nesterov, rng):
    w, v = draw(rng, "f8", 9), np.zeros(9)
    own, velocity = w.copy(), v.copy()
    for rate in RATES:
        g = draw(rng, "f8", 9)
        velocity = 0.9 * velocity - rate * g
        own += 0.9 * velocity - rate * g if nesterov else velocity
        _ops.sgd_update([g], [w], [v], 1.0, 0.9, gain=rate, look=0.9 if nesterov else 1.0,
                        direct=rate if nesterov else 0.0)
        np.testing.assert_allclose(w, own, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(v, -velocity, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_as_onnx_does_it(nesterov, rng):
    alpha, beta, norm = 0.9, 0.6, 0.01
    w, v = draw(rng, "f8", 9), np.zeros(9)
    own, velocity = w.copy(), v.copy()
    for step, rate in enumerate(RATES):
        g = draw(rng, "f8", 9)
        regular = norm * own + g
        velocity = alpha * velocity + (beta if step else 1) * regular
        own = own - rate * (regular + alpha * velocity if nesterov else velocity)
        _ops.sgd_update([g], [w], [v], rate, alpha, nesterov, gain=beta if step else 1.0,
                        decay=norm)
        np.testing.assert_allclose(w, own, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(v, velocity, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("whose", ["paper", "scikit-learn", "onnx"])
def test_adam_as_others_do_it(whose, rng):
    """scikit-learn and ONNX add eps to the root that is not corrected."""
    b1, b2, eps, post = 0.8, 0.9, 0.05, 0.1 if whose == "onnx" else 0.0
    w, m, s = draw(rng, "f8", 9), np.zeros(9), np.zeros(9)
    own, mean, square = w.copy(), m.copy(), s.copy()
    for t, rate in enumerate(RATES, 1):
        g = draw(rng, "f8", 9)
        mean, square = b1 * mean + (1 - b1) * g, b2 * square + (1 - b2) * g**2
        if whose == "paper":
            own = own - rate * (mean / (1 - b1**t)) / (np.sqrt(square / (1 - b2**t)) + eps)
            numbers = {"rate": rate / (1 - b1**t), "root": 1 / math.sqrt(1 - b2**t)}
        else:
            corrected = rate * math.sqrt(1 - b2**t) / (1 - b1**t)
            own = (1 - post) * (own - corrected * mean / (np.sqrt(square) + eps))
            numbers = {"rate": corrected * (1 - post), "shrink": 1 - post}
        _ops.adam_update([g], [w], [m], [s], beta1=b1, beta2=b2, eps=eps, **numbers)
        np.testing.assert_allclose(w, own, rtol=1e-12, atol=1e-14)


# ---- Steps of a network ----------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": (fn.SGD, {"lr": 0.05}),
    "SGD, momentum": (fn.SGD, {"lr": 0.05, "momentum": 0.9}),
    "SGD, nesterov": (fn.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "Adam": (fn.Adam, {"lr": 0.01}),
    "Adam, options": (fn.Adam, {"lr": 0.01, "betas": (0.7, 0.9), "eps": 1e-3}),
    "AdamW": (fn.AdamW, {"lr": 0.01}),
    "RMSprop": (fn.RMSprop, {"lr": 0.001}),
    "RMSprop, momentum": (fn.RMSprop, {"lr": 0.001, "momentum": 0.9}),
    "RMSprop, all": (fn.RMSprop, {"lr": 0.001, "momentum": 0.8, "centered": True, "alpha": 0.9,
                                  "eps": 1e-3}),
}
FEW = ["SGD, nesterov", "Adam", "AdamW", "RMSprop, all"]
MORE = {
    "": {}, "decay": {"weight_decay": 0.1},
    "decay of matrices": {"weight_decay": 0.1, "decay_vectors": False},
    "clipped norm": {"clip_norm": 0.05}, "clipped entries": {"clip_value": 0.003},
    "all": {"weight_decay": 0.05, "decay_vectors": False, "clip_norm": 0.5, "clip_value": 0.01},
}
EACH = pytest.mark.parametrize("name", OPTIMIZERS)


def make(name, **more):
    kind, options = OPTIMIZERS[name]
    return kind(**{**options, **more})


def make_layers(dtype):
    """The inner layer is updated with its gradient, and with a single sample others are too."""
    rng = np.random.default_rng(1)
    return [fn.Dense(6, 200, dtype=dtype, rng=rng), fn.LayerNorm(200, dtype=dtype), fn.ReLU(),
            fn.Residual([fn.Dense(200, 200, dtype=dtype, rng=rng), fn.Tanh()]),
            fn.Dense(200, 4, dtype=dtype, rng=rng)]


def make_small_layers(dtype):
    rng = np.random.default_rng(1)
    return [fn.Dense(6, 5, dtype=dtype, rng=rng), fn.LayerNorm(5, dtype=dtype), fn.Tanh(),
            fn.Dense(5, 4, dtype=dtype, rng=rng)]


def make_batch(rng, dtype, n):
    return draw(rng, dtype, n, 6), rng.integers(4, size=n)


def gradients_by_hand(layers, x, target):
    loss = fn.SoftmaxCrossEntropy()
    for layer in layers:
        x = layer.forward(x)
    value = loss.forward(x, target)
    dy = loss.backward()
    for layer in reversed(layers):
        dy = layer.backward(dy)
    return value


def step_by_hand(layers, optimizer, x, target):
    value = gradients_by_hand(layers, x, target)
    optimizer.step(layers)
    return value


def values(layers):
    return [value.copy() for layer in layers for _, value, _ in layer.parameters()]


def bits(layers):
    return b"".join(value.tobytes() for value in values(layers))


@pytest.mark.parametrize("n", [1, 32, 200])
@pytest.mark.parametrize("more", MORE)
@EACH
def test_steps_of_a_network_have_the_bits_of_its_layers(name, more, n, dtype, rng):
    layers = make_layers(dtype)
    twins, before = copy.deepcopy(layers), values(layers)
    optimizer, by_hand = make(name, **MORE[more]), make(name, **MORE[more])
    net = fn.Sequential(layers)
    net.compile(optimizer)
    for step in range(6):
        if step == 3:
            optimizer.lr = by_hand.lr = optimizer.lr / 2
        x, target = make_batch(rng, dtype, n)
        assert net.train_step(x, target) == step_by_hand(twins, by_hand, x, target)
        assert bits(layers) == bits(twins)
    assert not any(map(np.array_equal, values(layers), before))
    assert optimizer.steps == by_hand.steps == 6


@EACH
def test_fit_takes_the_steps_of_train_step(name, dtype, rng):
    x, target = make_batch(rng, dtype, 45)
    nets = [fn.Sequential(make_layers(dtype)) for _ in range(2)]
    for net in nets:
        net.compile(make(name, clip_norm=1.0, weight_decay=0.01))
    nets[0].fit(x, target, batch_size=16, epochs=3, shuffle=False, verbose=0)
    for _ in range(3):
        for start in (0, 16, 32):
            nets[1].train_step(x[start:start + 16], target[start:start + 16])
    assert bits(nets[:1]) == bits(nets[1:])
    assert [net.optimizer.steps for net in nets] == [9, 9]


@EACH
def test_all_ways_to_step_share_the_state(name, dtype, rng):
    net = fn.Sequential(make_layers(dtype))
    twins, by_hand, optimizer = copy.deepcopy(list(net.layers)), make(name), make(name)
    net.compile(optimizer)
    ways = [net.train_step, lambda x, y: step_by_hand(list(net.layers), optimizer, x, y),
            lambda x, y: net.fit(x, y, batch_size=len(x), shuffle=False, verbose=0),
            lambda x, y: step_by_hand([net], optimizer, x, y)]
    for i in range(12):
        x, target = make_batch(rng, dtype, 8)
        ways[i % 4](x, target)
        step_by_hand(twins, by_hand, x, target)
        assert bits([net]) == bits(twins)


@pytest.mark.parametrize("more", MORE)
@EACH
def test_a_layer_of_ones_own_changes_no_bit(name, more, dtype, rng):
    class Own(fn.Dense):
        """Runs layer by layer."""

    layers = make_small_layers(dtype)
    own = copy.deepcopy(layers)
    own[0] = Own(6, 5, dtype=dtype, rng=0)
    own[0].weight, own[0].bias = layers[0].weight, layers[0].bias
    nets = [fn.Sequential(layers), fn.Sequential(own)]
    for net in nets:
        net.compile(make(name, **MORE[more]))
    for _ in range(3):
        x, target = make_batch(rng, dtype, 20)
        assert nets[0].train_step(x, target) == nets[1].train_step(x, target)
        assert bits(nets[:1]) == bits(nets[1:])
    assert nets[0]._engine is not None and nets[1]._engine is None


# ---- Clipping and decay ----------------------------------------------------------------------

@pytest.mark.parametrize("n", [1, 32, 300])
@EACH
def test_clipping_above_what_there_is_changes_nothing(name, n, dtype, rng):
    """A large batch has to wait for its gradients anyway; a small one does so to be clipped."""
    nets = [fn.Sequential(make_layers(dtype)) for _ in range(4)]
    for net, more in zip(nets, ({}, {"clip_norm": 1e6}, {"clip_value": 1e3},
                                {"clip_norm": 1e6, "clip_value": 1e3}), strict=True):
        net.compile(make(name, **more))
    for _ in range(3):
        x, target = make_batch(rng, dtype, n)
        losses = {net.train_step(x, target) for net in nets}
        assert len(losses) == 1
    for net in nets[1:]:
        for value, other in zip(values([nets[0]]), values([net]), strict=True):
            assert_close(value, other.astype(float), 8)


@pytest.mark.parametrize("way", ["engine", "by hand"])
@pytest.mark.parametrize("n", [1, 20, 300])
def test_clip_norm_bounds_the_norm_and_keeps_the_direction(n, way, dtype, rng):
    """With a rate of 1 a step of SGD is the gradient."""
    x, target = make_batch(rng, dtype, n)
    x *= 10
    steps = []
    for clip in (None, 0.25, 1e-3, 1e3):
        layers = make_layers(dtype)
        before, optimizer = values(layers), fn.SGD(1.0, clip_norm=clip)
        if way == "engine":
            net = fn.Sequential(layers)
            net.compile(optimizer)
            net.train_step(x, target)
        else:
            step_by_hand(layers, optimizer, x, target)
        steps.append(np.concatenate([
            (old.astype(float) - new).ravel()
            for old, new in zip(before, values(layers), strict=True)]))
    plain, clipped, tiny, loose = steps
    size = np.linalg.norm(plain)
    rounding = 1e3 * np.finfo(dtype).eps + 1e-6     # of 40000 weights of up to 1; as documented
    assert size > 1 and np.linalg.norm(loose - plain) < rounding
    assert abs(np.linalg.norm(clipped) - 0.25) < rounding
    assert abs(np.linalg.norm(tiny) - 1e-3) < rounding
    assert np.linalg.norm(clipped - plain * 0.25 / size) < rounding


@pytest.mark.parametrize("way", ["engine", "by hand"])
def test_clip_value_bounds_each_entry(way, dtype, rng):
    x, target = make_batch(rng, dtype, 20)
    x *= 10
    plain, clipped = make_small_layers(dtype), make_small_layers(dtype)
    before = values(plain)
    for layers, clip in ((plain, None), (clipped, 2.0**-5)):
        optimizer = fn.SGD(1.0, clip_value=clip)
        if way == "engine":
            net = fn.Sequential(layers)
            net.compile(optimizer)
            net.train_step(x, target)
        else:
            step_by_hand(layers, optimizer, x, target)
    largest = 0.0
    for old, new, other in zip(before, values(plain), values(clipped), strict=True):
        gradient = old - new
        largest = max(largest, np.abs(gradient).max())
        np.testing.assert_allclose(old - other, np.clip(gradient, -2.0**-5, 2.0**-5), rtol=0,
                                   atol=4 * np.finfo(dtype).eps)
    assert largest > 2.0**-4


@pytest.mark.parametrize("kind", [fn.SGD, fn.AdamW])
@pytest.mark.parametrize("vectors", [True, False])
def test_decay_without_gradients(kind, vectors, dtype):
    """All that moves is what decays: matrices, and vectors unless they are spared."""
    layers = make_small_layers(dtype)
    for layer in layers:
        for _, value, gradient in layer.parameters():
            value[...], gradient[...] = 1, 0
    kind(0.5, weight_decay=0.5, decay_vectors=vectors).step(layers)
    for layer in layers:
        for _, value, _ in layer.parameters():
            assert (value == (0.75 if vectors or value.ndim == 2 else 1)).all()


def test_adams_decay_goes_through_its_means_and_adamws_does_not(dtype):
    layers = [fn.Dense(2, 2, dtype=dtype) for _ in range(2)]
    for layer, optimizer in zip(layers, (fn.Adam(0.25, weight_decay=0.5),
                                         fn.AdamW(0.25, weight_decay=0.5)), strict=True):
        layer.weight, layer.weight_grad = np.full((2, 2), 4.0), np.zeros((2, 2))
        optimizer.step([layer])
    np.testing.assert_allclose(layers[0].weight, 3.75, rtol=1e-6)       # of the size of lr
    assert (layers[1].weight == 3.5).all()                              # of the size of w


# ---- Options ---------------------------------------------------------------------------------

def reference_step(optimizer, t, gradients, weights, states):
    """The weights after step t, by the formulas; `states` has dicts, which change."""
    scale = 1.0
    if optimizer.clip_norm is not None:
        norm = math.sqrt(sum(float((g.astype(float)**2).sum()) for g in gradients))
        scale = min(1.0, optimizer.clip_norm / (norm + 1e-6))
    found = []
    for g, w, state in zip(gradients, weights, states, strict=True):
        decay = optimizer.weight_decay if w.ndim > 1 or optimizer.decay_vectors else 0.0
        common = {"scale": scale, "clip": optimizer.clip_value, "decay": decay}
        flat_g, flat_w, size = g.ravel().tolist(), w.ravel().tolist(), w.size
        first, second, third = (state.setdefault(key, [0.0] * size) for key in "abc")
        if isinstance(optimizer, fn.SGD):
            new, state["a"] = reference.sgd_update(
                flat_g, flat_w, first, optimizer.lr, optimizer.momentum, optimizer.nesterov,
                **common)
        elif isinstance(optimizer, fn.Adam):
            b1, b2 = optimizer.betas
            if isinstance(optimizer, fn.AdamW):
                common |= {"decay": 0.0, "shrink": 1 - optimizer.lr * decay}
            new, state["a"], state["b"] = reference.adam_update(
                flat_g, flat_w, first, second, optimizer.lr / (1 - b1**t), b1, b2, optimizer.eps,
                1 / math.sqrt(1 - b2**t), **common)
        else:
            new, state["b"], state["a"], average = reference.rmsprop_update(
                flat_g, flat_w, second, optimizer.lr, optimizer.alpha, optimizer.eps, first,
                optimizer.momentum, third if optimizer.centered else None, **common)
            state["c"] = average or third
        if getattr(optimizer, "momentum", 1) == 0:      # which forgets the velocity
            state["a"] = [0.0] * size
        found.append(np.reshape(new, w.shape))
    return found


CHANGES = [
    *itertools.product(["SGD", "SGD, momentum", "Adam", "AdamW", "RMSprop", "RMSprop, all"], [
        ("lr", 0.002), ("weight_decay", 0.4), ("clip_norm", 0.01), ("clip_value", 0.002)]),
    *itertools.product(["SGD, momentum", "RMSprop, momentum", "RMSprop"], [("momentum", 0.5)]),
    ("SGD", ("momentum", 0.9)), ("SGD, momentum", ("nesterov", True)),
    ("SGD, nesterov", ("nesterov", False)), ("SGD, momentum", ("momentum", 0.0)),
    ("Adam", ("beta1", 0.5)), ("Adam", ("beta2", 0.9)), ("AdamW", ("eps", 0.1)),
    ("RMSprop", ("alpha", 0.5)), ("RMSprop, all", ("eps", 0.5)),
    *itertools.product(["SGD, momentum", "Adam", "AdamW"], [("decay_vectors", False)])]


@pytest.mark.parametrize("way", ["engine", "by hand"])
@pytest.mark.parametrize("name, change", CHANGES, ids=str)
def test_options_that_are_assigned_count_from_the_next_step(name, change, way, dtype, rng):
    decay = {"weight_decay": 0.1} if change[0] == "decay_vectors" else {}
    layers, optimizer = make_small_layers(dtype), make(name, **decay)
    net = fn.Sequential(layers) if way == "engine" else None
    if net is not None:
        net.compile(optimizer, keep_gradients=True)
    states = [{} for _ in values(layers)]
    for t in range(1, 7):
        if t == 4:
            setattr(optimizer, *change)
            assert getattr(optimizer, change[0]) == change[1]
        before = values(layers)
        x, target = make_batch(rng, dtype, 9)
        if net is not None:
            net.train_step(x, target)
        else:
            step_by_hand(layers, optimizer, x, target)
        gradients = [gradient for layer in layers for _, _, gradient in layer.parameters()]
        expected = reference_step(optimizer, t, gradients, before, states)
        for value, other in zip(values(layers), expected, strict=True):
            assert_close(value, other, 400)


@pytest.mark.parametrize("name", ["SGD, momentum", "RMSprop, momentum"])
def test_momentum_that_was_0_for_a_step_starts_anew_however_steps_are_taken(name, dtype, rng):
    layers = make_small_layers(dtype)
    twins = copy.deepcopy(layers)
    optimizer, by_hand = make(name), make(name)
    net = fn.Sequential(layers)
    net.compile(optimizer)
    for momentum in (0.9, 0.9, 0.0, 0.9, 0.9):
        optimizer.momentum = by_hand.momentum = momentum
        x, target = make_batch(rng, dtype, 9)
        net.train_step(x, target)
        step_by_hand(twins, by_hand, x, target)
        assert bits(layers) == bits(twins)


BAD = [
    *[(kind, {"lr": bad}, error, "lr must be")
      for kind in (fn.SGD, fn.Adam, fn.AdamW, fn.RMSprop)
      for bad, error in [(-0.1, ValueError), (np.nan, ValueError), (np.inf, ValueError),
                         ("0.1", TypeError), (None, TypeError)]],
    *[(kind, {name: bad}, error, f"{name} must be")
      for kind in (fn.SGD, fn.Adam, fn.AdamW, fn.RMSprop)
      for name, bad, error in [
          ("weight_decay", -1, ValueError), ("weight_decay", np.inf, ValueError),
          ("weight_decay", None, TypeError), ("clip_norm", 0, ValueError),
          ("clip_norm", -1, ValueError), ("clip_norm", np.inf, ValueError),
          ("clip_value", 0, ValueError), ("clip_value", np.nan, ValueError),
          ("clip_value", "1", TypeError)]],
    *[(kind, {"eps": bad}, error, "eps must be") for kind in (fn.Adam, fn.AdamW, fn.RMSprop)
      for bad, error in [(0, ValueError), (-1e-8, ValueError), ("0", TypeError)]],
    *[(fn.RMSprop, {name: bad}, ValueError, rf"{name} must be in the interval \[0, 1\), got")
      for name in ("alpha", "momentum") for bad in (1, -0.1)],
]


@pytest.mark.parametrize("kind, options, error, match", BAD, ids=str)
def test_49_options_outside_their_intervals(kind, options, error, match):
    with pytest.raises(error, match=match):
        kind(**{"lr": 0.1, **options})
    optimizer = kind(0.1)
    (name, bad), = options.items()
    before, version = repr(optimizer), optimizer.version
    with pytest.raises(error, match=match):
        setattr(optimizer, name, bad)
    assert repr(optimizer) == before and optimizer.version == version


@pytest.mark.parametrize("kind", [fn.Adam, fn.AdamW])
@pytest.mark.parametrize("betas, error, match", [
    ((1, 0.9), ValueError, r"beta1 must be in the interval \[0, 1\), got 1"),
    ((0.9, 1), ValueError, r"beta2 must be in the interval \[0, 1\), got 1"),
    ((-0.1, 0.9), ValueError, "beta1 must be"), ((0.9, np.nan), ValueError, "beta2 must be"),
    ((0.9, "x"), TypeError, "beta2 must be a number"), ((None, 0.9), TypeError, "beta1 must be a"),
    (0.9, TypeError, "betas must be a pair of numbers, got 0.9"),
    ((0.9,), TypeError, "betas must be a pair"), ((1, 2, 3), TypeError, "betas must be a pair"),
    (None, TypeError, "betas must be a pair")])
def test_49_betas(kind, betas, error, match):
    with pytest.raises(error, match=match):
        kind(0.1, betas)
    if isinstance(betas, tuple) and len(betas) == 2:
        optimizer = kind(0.1, (0.5, 0.25))
        with pytest.raises(error, match=match):
            optimizer.beta1, optimizer.beta2 = betas
    optimizer = kind(0.1, [0.5, 0.25])
    assert optimizer.betas == (0.5, 0.25)


@pytest.mark.parametrize("steps, error", [
    (-5, ValueError), (-2**63, ValueError), (2**53, ValueError), (2**70, ValueError),
    (1.7, TypeError), ("1", TypeError), (True, TypeError), (None, TypeError)])
def test_49_numbers_of_steps_that_are_none(steps, error):
    adam = fn.Adam()
    adam.steps = np.int64(7)
    with pytest.raises(error, match="^steps must be "):
        adam.steps = steps
    assert adam.steps == 7


def test_49_two_views_of_one_parameter():
    class Views:
        def __init__(self, *views):
            self.views = views

        def parameters(self):
            for view in self.views:
                yield "w", view, np.ones_like(view)

    memory = np.zeros(8, np.float32)
    for views in [(memory, memory[:]), (memory[:5], memory[4:]), (memory[2:3], memory)]:
        with pytest.raises(ValueError, match="each parameter once, but one came twice"):
            fn.SGD(1.0).step([Views(*views)])
        assert not memory.any()
    fn.SGD(1.0).step([Views(memory[:4]), Views(memory[4:])])
    assert memory.tolist() == [-1.0] * 8


def test_49_nesterov_needs_momentum():
    sgd = fn.SGD(0.1, 0.5, True)
    with pytest.raises(ValueError, match=r"momentum must be in the interval \(0, 1\) with nest"):
        sgd.momentum = 0
    assert sgd.momentum == 0.5
    sgd.nesterov = False
    sgd.momentum = 0
    with pytest.raises(ValueError, match=r"momentum must be in the interval \(0, 1\) with nest"):
        sgd.nesterov = True
    assert not sgd.nesterov


def test_49_what_an_optimizer_is_cannot_be_assigned():
    for optimizer, name in [(fn.Adam(), "betas"), (fn.RMSprop(), "centered")]:
        with pytest.raises(AttributeError):
            setattr(optimizer, name, (0.1, 0.1))


@EACH
def test_49_a_rate_beyond_float32_changes_nothing(name, rng):
    net = fn.Sequential(make_small_layers("float32"))
    optimizer = make(name, lr=1e39)
    net.compile(optimizer)
    before, (x, target) = bits([net]), make_batch(rng, "float32", 5)
    for call in (lambda: net.train_step(x, target), lambda: net.fit(x, target, verbose=0),
                 lambda: step_by_hand(list(net.layers), optimizer, x, target)):
        with pytest.raises(ValueError, match="for float32, got"):
            call()
    assert bits([net]) == before and optimizer.steps == 0
    optimizer.lr = 1e-3
    net.train_step(x, target)
    twin = fn.Sequential(make_small_layers("float32"))
    twin.compile(make(name, lr=1e-3))
    twin.train_step(x, target)
    assert bits([net]) == bits([twin])


def test_representations_tell_the_options():
    assert [repr(optimizer) for optimizer in (
        fn.SGD(0.1), fn.SGD(0.1, 0.9, True, weight_decay=0.5, decay_vectors=False),
        fn.Adam(), fn.Adam(0.1, (0.5, 0.9), 1e-4, clip_norm=1, clip_value=2),
        fn.AdamW(), fn.AdamW(weight_decay=0), fn.RMSprop(),
        fn.RMSprop(0.1, 0.9, 1e-4, 0.5, True))] == [
        "SGD(lr=0.1, momentum=0.0)",
        "SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.5, decay_vectors=False)",
        "Adam(lr=0.001)",
        "Adam(lr=0.1, betas=(0.5, 0.9), eps=0.0001, clip_norm=1.0, clip_value=2.0)",
        "AdamW(lr=0.001, weight_decay=0.01)", "AdamW(lr=0.001, weight_decay=0.0)",
        "RMSprop(lr=0.01)",
        "RMSprop(lr=0.1, alpha=0.9, eps=0.0001, momentum=0.5, centered=True)"]


@EACH
def test_a_representation_makes_the_same_optimizer(name):
    optimizer = make(name, weight_decay=0.3, clip_norm=2.0, decay_vectors=False)
    twin = eval(repr(optimizer), vars(fn))
    assert repr(twin) == repr(optimizer) and twin.numbers() == optimizer.numbers()
    assert twin.rates(3).tolist() == optimizer.rates(3).tolist()
    default = type(optimizer)(optimizer.lr)
    again = eval(repr(default), vars(fn))
    assert again.rates(3).tolist() == default.rates(3).tolist() and again.decay == default.decay


# ---- State -----------------------------------------------------------------------------------

COPIES = pytest.mark.parametrize("make_copy", [
    copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"])


@COPIES
@EACH
def test_copies_of_layers_and_optimizer_go_on_with_the_same_bits(name, make_copy, dtype, rng):
    layers, optimizer = make_small_layers(dtype), make(name)
    for _ in range(3):
        step_by_hand(layers, optimizer, *make_batch(rng, dtype, 9))
    twins, twin = make_copy((layers, optimizer))
    before = bits(layers)
    for _ in range(3):
        batch = make_batch(rng, dtype, 9)
        step_by_hand(twins, twin, *batch)
        assert bits(layers) == before != bits(twins)        # they share nothing
        step_by_hand(layers, optimizer, *batch)
        assert bits(layers) == bits(twins)
        before = bits(layers)


@EACH
def test_a_shallow_copy_of_an_optimizer_has_states_of_its_own_for_the_same_layers(
        name, dtype, rng):
    layers, optimizer = make_small_layers(dtype), make(name)
    step_by_hand(layers, optimizer, *make_batch(rng, dtype, 9))
    twin = copy.copy(optimizer)
    batch = make_batch(rng, dtype, 9)
    before, start = repr(twin._state(layers)), values(layers)
    step_by_hand(layers, optimizer, *batch)
    assert repr(twin._state(layers)) == before and (twin.steps, optimizer.steps) == (1, 2)
    after = bits(layers)
    own = [value for layer in layers for _, value, _ in layer.parameters()]
    for value, old in zip(own, start, strict=True):
        value[...] = old
    step_by_hand(layers, twin, *batch)
    assert bits(layers) == after


@COPIES
@EACH
def test_copies_of_a_network_go_on_with_the_same_bits(name, make_copy, dtype, rng):
    net = fn.Sequential(make_small_layers(dtype))
    net.compile(make(name))
    for _ in range(3):
        net.train_step(*make_batch(rng, dtype, 9))
    twin = make_copy(net)
    for _ in range(3):
        batch = make_batch(rng, dtype, 9)
        assert twin.train_step(*batch) == net.train_step(*batch)
        assert bits([twin]) == bits([net])


@EACH
def test_the_state_moves_into_a_network_with_its_layers(name, dtype, rng):
    layers, optimizer = make_layers(dtype), make(name)
    for _ in range(3):
        step_by_hand(layers, optimizer, *make_batch(rng, dtype, 9))
    twins, twin = copy.deepcopy((layers, optimizer))
    net = fn.Sequential(layers)
    net.compile(optimizer)
    for _ in range(3):
        batch = make_batch(rng, dtype, 9)
        assert net.train_step(*batch) == step_by_hand(twins, twin, *batch)
        assert bits(layers) == bits(twins)


@EACH
def test_another_optimizer_in_between_leaves_the_state_alone(name, dtype, rng):
    net = fn.Sequential(make_small_layers(dtype))
    first, other = make(name), fn.SGD(0.0)
    twin = fn.Sequential(make_small_layers(dtype))
    twin.compile(make(name))
    for optimizer in (first, other, first, other, first):
        net.compile(optimizer)
        batch = make_batch(rng, dtype, 9)
        net.train_step(*batch)
        if optimizer is first:
            twin.train_step(*batch)
        assert bits([net]) == bits([twin])


# ---- Frozen layers, refused steps, tiny numbers ----------------------------------------------

@pytest.mark.parametrize("n", [1, 32, 256])
@pytest.mark.parametrize("more", ["", "decay", "clipped norm"])
@EACH
def test_frozen_layers_keep_their_bits_and_others_step_as_without_them(name, more, n, dtype, rng):
    """By the network and by hand; the norm is that of the gradients that are used."""
    for frozen in (0, 1, 3, 4):
        chains = [make_layers(dtype) for _ in range(3)]
        net, optimizers = fn.Sequential(chains[0]), [make(name, **MORE[more]) for _ in chains]
        net.compile(optimizers[0])
        chains[0][frozen].trainable = chains[1][frozen].trainable = False
        before = bits([chains[0][frozen]])
        for _ in range(3):
            x, target = make_batch(rng, dtype, n)
            net.train_step(x, target)
            step_by_hand(chains[1], optimizers[1], x, target)
            gradients_by_hand(chains[2], x, target)
            optimizers[2].step([layer for i, layer in enumerate(chains[2]) if i != frozen])
            assert bits(chains[0]) == bits(chains[1]) == bits(chains[2])
        assert all(bits([layers[frozen]]) == before for layers in chains)
        for layer, start in zip(chains[0], make_layers(dtype), strict=True):
            if layer is not chains[0][frozen] and values([layer]):
                assert not any(map(np.array_equal, values([layer]), values([start])))


@EACH
def test_frozen_layers_keep_their_bits_in_large_batches_too(name, dtype, rng):
    layers = make_layers(dtype)
    layers[3].trainable = False
    before, first = bits([layers[3]]), bits([layers[0]])
    net = fn.Sequential(layers)
    net.compile(make(name, clip_norm=0.05, weight_decay=0.1))
    net.train_step(*make_batch(rng, dtype, 600))
    assert bits([layers[3]]) == before and bits([layers[0]]) != first


@pytest.mark.parametrize("own", [False, True], ids=["engine", "layer by layer"])
@EACH
def test_38_a_refused_step_does_not_count(name, own, dtype, rng):
    """Adam's rate is that of the steps that were taken."""
    class Own(fn.Tanh):
        """Runs layer by layer."""

    def network():
        layers = make_small_layers(dtype)
        if own:
            layers[2] = Own()
        net = fn.Sequential(layers)
        net.compile(make(name))
        return net

    net, twin = network(), network()
    for _ in range(3):
        x, target = make_batch(rng, dtype, 9)
        with pytest.raises(FloatingPointError, match="the step was not applied"):
            net.train_step(np.full_like(x, np.nan), target)
        with pytest.raises(FloatingPointError, match="epoch 1, step 1, and the step was not appl"):
            net.fit(np.full_like(x, np.nan), target, verbose=0)
        with pytest.raises(ValueError):
            net.train_step(x, target + 4)
        assert net.train_step(x, target) == twin.train_step(x, target)
        assert bits([net]) == bits([twin])
        assert net.optimizer.steps == twin.optimizer.steps


def test_38_the_steps_before_a_refused_one_count(dtype, rng):
    net, twin = (fn.Sequential(make_small_layers(dtype)) for _ in range(2))
    for each in (net, twin):
        each.compile("adam")
    x, target = make_batch(rng, dtype, 30)
    x[25] = np.nan
    with pytest.raises(FloatingPointError, match="epoch 1, step 3"):
        net.fit(x, target, batch_size=10, shuffle=False, verbose=0)
    for start in (0, 10):
        twin.train_step(x[start:start + 10], target[start:start + 10])
    assert net.optimizer.steps == 2 and bits([net]) == bits([twin])
    net.train_step(x[:9], target[:9])
    twin.train_step(x[:9], target[:9])
    assert bits([net]) == bits([twin])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
def test_54_steps_before_an_interrupt_count(rng):
    net = fn.Sequential(make_layers("float32"))
    net.compile("adam")
    x, target = make_batch(rng, "float32", 100_000)
    start = bits([net])

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            net.fit(x, target, batch_size=8, verbose=0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert bits([net]) != start
    assert net.optimizer.steps > 0


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop, momentum", "RMSprop, all"])
@pytest.mark.parametrize("way", ["engine", "by hand"])
def test_no_state_ends_subnormal_however_long_gradients_are_0(name, way, dtype):
    """A mean of squares that shrinks by a thousandth a step would stay subnormal for ever."""
    options = {"betas": (0.5, 0.9)} if name.startswith("Adam") else {"alpha": 0.9}
    layers = [fn.Dense(3, 2, dtype=dtype, rng=1)]
    optimizer = make(name, **options)
    if way == "engine":
        net = fn.Sequential(layers)
        net.compile(optimizer, "mean_squared_error")
        x = np.zeros((20_000, 3), dtype)
        net.train_step(x[:1] + 1, np.ones((1, 2)))
        net.fit(x, net.predict(x), batch_size=1, shuffle=False, verbose=0)
    else:
        layers[0].weight_grad, layers[0].bias_grad = np.ones((3, 2)), np.ones(2)
        optimizer.step(layers)
        layers[0].weight_grad, layers[0].bias_grad = np.zeros((3, 2)), np.zeros(2)
        for _ in range(20_000):
            optimizer.step(layers)
    states = [state for states in optimizer._states.values() for each in states for state in each
              if state is not None]
    assert len(states) >= 4
    for array in (*values(layers), *states):
        assert np.all((array == 0) | (np.abs(array) >= np.finfo(dtype).tiny))
    assert any((state == 0).all() for state in states)              # some got as far as 0


def test_where_gradients_are_0_adam_and_rmsprop_stay(dtype):
    for name in ("Adam", "RMSprop", "RMSprop, all"):
        layer, optimizer = fn.Dense(3, 2, dtype=dtype, rng=1), make(name)
        before = bits([layer])
        layer.weight_grad, layer.bias_grad = np.zeros((3, 2)), np.zeros(2)
        for _ in range(3):
            optimizer.step([layer])
        assert bits([layer]) == before


@pytest.mark.parametrize("eps", [1e-30, 1e-40, 1e-50])
def test_a_tiny_eps_keeps_weights_without_gradients_finite(eps, dtype):
    """Documented: eps is in (0, inf), so that nothing is divided by 0."""
    for kind in (fn.Adam, fn.RMSprop):
        layer, optimizer = fn.Dense(3, 2, dtype=dtype, rng=1), kind(0.1, eps=eps)
        before = bits([layer])
        layer.weight_grad, layer.bias_grad = np.zeros((3, 2)), np.zeros(2)
        optimizer.step([layer])
        assert bits([layer]) == before


@pytest.mark.parametrize("between", [0, 1], ids=["at once", "after a step"])
@pytest.mark.parametrize("own", [False, True])
def test_a_velocity_that_was_forgotten_does_not_come_back(own, between):
    def make():
        net = fn.Sequential([fn.Dense(4, 3, rng=0), *([type("Own", (fn.Identity,), {})()] * own)])
        net.compile(fn.SGD(0.1, 0.9))
        for _ in range(3):
            net.train_step(x, y)
        return net

    x, y = np.random.default_rng(0).normal(size=(6, 4)), np.arange(6) % 3
    net, twin = make(), make()
    net.optimizer.momentum = 0
    twin.compile(fn.SGD(0.1))
    for one in (net, twin)[:2 * between]:
        one.train_step(x, y)
    net.optimizer.momentum = 0.9
    twin.compile(fn.SGD(0.1, 0.9))
    for one in (net, twin):
        one.train_step(x, y)
    assert net.layers[0].weight.tobytes() == twin.layers[0].weight.tobytes()
