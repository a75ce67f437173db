"""Networks of drawn layers, losses, optimizers and batches.

The engine against layers called one by one, and backward against central differences.
"""

import copy

import numpy as np
import pytest

import fastnet as fn

hypothesis = pytest.importorskip("hypothesis")
given, some = hypothesis.given, hypothesis.strategies
often = hypothesis.settings(deadline=None, max_examples=150, database=None)
seldom = hypothesis.settings(deadline=None, max_examples=60, database=None, derandomize=True)

SMOOTH = {
    "tanh": fn.Tanh, "sigmoid": fn.Sigmoid, "gelu": fn.GELU, "gelu_tanh": lambda: fn.GELU("tanh"),
    "silu": fn.SiLU, "softmax": fn.Softmax, "log_softmax": fn.LogSoftmax, "identity": fn.Identity}
ANY = {**SMOOTH, "relu": fn.ReLU, "leaky_relu": fn.LeakyReLU, "elu": fn.ELU}
WIDTHS = some.one_of(some.integers(1, 20), some.sampled_from([31, 32, 33, 64, 200]))
UNIT = some.floats(0, 0.9)


@some.composite
def chains(draw, dtype, activations, width, *, rough=True, deep=2):
    """Layers that take so many features, and how many they give."""
    layers = []
    rng = np.random.default_rng(draw(some.integers(0, 2**32 - 1)))
    for kind in draw(some.lists(some.sampled_from(
            ["dense", "dense", "activation", "norm", "drop", "residual", "scale"]),
            min_size=1, max_size=5)):
        if kind == "dense":
            wide = draw(WIDTHS)
            fused = draw(some.sampled_from([None, *(activations.keys() - {"gelu_tanh"})]))
            layers.append(fn.Dense(width, wide, bias=draw(some.booleans()), activation=fused,
                                   dtype=dtype, rng=rng))
            width = wide
        elif kind == "activation":
            layers.append(activations[draw(some.sampled_from(sorted(activations)))]())
        elif kind == "norm" and (rough or width >= 8):  # narrower it is too steep for differences
            layers.append(fn.LayerNorm(width, dtype=dtype))
        elif kind in ("norm", "drop"):
            layers.append(fn.Dropout(draw(UNIT), rng=rng) if rough else fn.Identity())
        elif kind == "scale":
            layers.append(fn.Scale(draw(some.floats(-2, 2))))
        elif not deep:
            layers.append(fn.Flatten())
        else:
            inner, wide = draw(chains(dtype, activations, width, rough=rough, deep=deep - 1))
            if wide != width:
                inner.append(fn.Dense(wide, width, dtype=dtype, rng=rng))
            layers.append(fn.Residual(inner))
    return layers, width


@some.composite
def networks(draw, activations, dtypes, **options):
    """Layers with a Dense at the end, as they are fit for any loss, and their widths."""
    dtype, n_in, n_out = draw(some.sampled_from(dtypes)), draw(WIDTHS), draw(some.integers(1, 20))
    layers, width = draw(chains(dtype, activations, n_in, **options))
    last = fn.Dense(width, n_out, dtype=dtype, rng=draw(some.integers(0, 99)))
    if draw(some.booleans()):                   # in part frozen
        layers[draw(some.integers(0, len(layers) - 1))].trainable = False
    return [*layers, last], dtype, n_in, n_out


@some.composite
def losses(draw, n_out):
    """A loss, and what draws a target for n rows."""
    reduction = draw(some.sampled_from(["mean", "sum"]))
    positive = np.arange(1, n_out + 1) / n_out

    def labels(rng, n):
        return rng.integers(0, n_out, n)

    def rows(rng, n):
        return rng.dirichlet(np.ones(n_out), n) if n_out > 1 else np.ones((n, 1))

    def numbers(rng, n):
        return rng.uniform(0, 1, (n, n_out))

    return draw(some.sampled_from([
        (fn.SoftmaxCrossEntropy(reduction), labels), (fn.SoftmaxCrossEntropy(reduction), rows),
        (fn.SoftmaxCrossEntropy(reduction, weight=positive, ignore_index=0,
                                label_smoothing=0.1), labels),
        (fn.BinaryCrossEntropy(reduction, pos_weight=positive), numbers),
        (fn.MeanSquaredError(reduction), numbers), (fn.Huber(reduction, delta=0.3), numbers),
        (fn.Poisson(reduction), numbers)]))


@some.composite
def optimizers(draw):
    more = {"weight_decay": draw(some.sampled_from([0.0, 0.01])),
            "decay_vectors": draw(some.booleans()),
            "clip_norm": draw(some.sampled_from([None, 0.1])),
            "clip_value": draw(some.sampled_from([None, 0.01]))}
    lr = draw(some.sampled_from([1e-3, fn.schedules.Cosine(1e-3, 5, warmup=2)]))
    return draw(some.sampled_from([
        fn.SGD(lr, **more), fn.SGD(lr, 0.9, **more), fn.SGD(lr, 0.5, nesterov=True, **more),
        fn.Adam(lr, **more), fn.AdamW(lr, **more), fn.RMSprop(lr, **more),
        fn.RMSprop(lr, momentum=0.9, centered=True, **more)]))


def bits(layers):
    return [value.tobytes() for layer in layers for _, value, _ in layer.parameters()]


@often
@given(networks(ANY, ["float32", "float64"]), some.data())
def test_a_network_trains_and_predicts_with_the_bits_of_its_layers(network, data):
    layers, dtype, n_in, n_out = network
    (loss, target_of), optimizer = data.draw(losses(n_out)), data.draw(optimizers())
    twins, of_twins = copy.deepcopy((layers, (loss, optimizer)))
    net = fn.Sequential(layers)
    net.compile(optimizer, loss)
    rng = np.random.default_rng(data.draw(some.integers(0, 2**32 - 1)))
    for n in data.draw(some.lists(some.integers(1, 256), min_size=1, max_size=4)):
        x, target = rng.normal(size=(n, n_in)).astype(dtype), target_of(rng, n)
        weights = [rng.uniform(0, 2, n)] if data.draw(some.booleans()) else []
        values, y = x, None
        for layer in twins:
            values = layer.forward(values)
        value = of_twins[0].forward(values, target, *weights)
        dy = of_twins[0].backward()
        for layer in reversed(twins):
            dy = layer.backward(dy)
        of_twins[1].step(twins)
        assert net.train_step(x, target, *weights) == value
        assert bits(layers) == bits(twins)
        y = x
        for layer in twins:
            y = layer.predict(y)
        assert net.predict(x).tobytes() == np.asarray(y).tobytes()


@seldom
@given(networks(SMOOTH, ["float64"], rough=False), some.data())
def test_backward_of_a_network_is_its_derivative(network, data):
    layers, _, n_in, _ = network
    rng = np.random.default_rng(data.draw(some.integers(0, 2**32 - 1)))
    x = rng.normal(size=(data.draw(some.integers(1, 5)), n_in))
    network = fn.Sequential(layers)
    reports = [fn.check_gradients(network, x, step=step) for step in (1e-6, 1e-5, 1e-7, 1e-4)]
    assert any(reports), reports[0]     # where it is steep small steps are needed, else larger ones
