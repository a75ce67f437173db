"""Strategies of hypothesis: networks of drawn layers, losses and optimizers."""

import numpy as np
import pytest

import fastnet as fn

hypothesis = pytest.importorskip("hypothesis")
some = hypothesis.strategies

SMOOTH = {
    "tanh": fn.Tanh, "sigmoid": fn.Sigmoid, "gelu": fn.GELU, "gelu_tanh": lambda: fn.GELU("tanh"),
    "silu": fn.SiLU, "softmax": fn.Softmax, "log_softmax": fn.LogSoftmax, "identity": fn.Identity}
ANY = {**SMOOTH, "relu": fn.ReLU, "leaky_relu": fn.LeakyReLU, "elu": fn.ELU}
WIDTHS = some.one_of(some.integers(1, 20), some.sampled_from([31, 32, 33, 64, 200]))
UNIT = some.floats(0, 0.9)


KINDS = ["dense", "dense", "activation", "norm", "drop", "residual", "scale"]


@some.composite
def chains(draw, dtype, activations, width, *, rough=True, deep=2, kinds=KINDS):
    """Layers that take so many features, and how many they give."""
    layers = []
    rng = np.random.default_rng(draw(some.integers(0, 2**32 - 1)))
    for kind in draw(some.lists(some.sampled_from(kinds), min_size=1, max_size=5)):
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
            inner, wide = draw(chains(
                dtype, activations, width, rough=rough, deep=deep - 1, kinds=kinds))
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
