"""Strategies of hypothesis: networks of drawn layers, losses and optimizers.

FASTNET_EXAMPLES=20 tries 20 times as many of everything that is drawn.
"""

import os

import numpy as np
import pytest

import fastnet as fn

hypothesis = pytest.importorskip("hypothesis")
some = hypothesis.strategies
TIMES = int(os.environ.get("FASTNET_EXAMPLES", 1))


def tried(examples, **options):
    """Settings of a test that tries so many examples, TIMES over."""
    return hypothesis.settings(
        deadline=None, database=None, max_examples=examples * TIMES, **options)


SMOOTH = {
    "tanh": fn.Tanh, "sigmoid": fn.Sigmoid, "gelu": fn.GELU, "gelu_tanh": lambda: fn.GELU("tanh"),
    "silu": fn.SiLU, "softmax": fn.Softmax, "log_softmax": fn.LogSoftmax, "identity": fn.Identity}
ANY = {**SMOOTH, "relu": fn.ReLU, "leaky_relu": fn.LeakyReLU, "elu": fn.ELU}
# Wide layers take other ways through the engine, and more time.
WIDTHS = some.one_of(some.integers(1, 20), some.integers(1, 20),
                     some.sampled_from([31, 32, 33, 64, 200]), some.integers(65, 450))
UNIT = some.floats(0, 0.9)


KINDS = ["dense", "dense", "activation", "norm", "drop", "residual", "nested", "scale"]


@some.composite
def chains(draw, dtype, activations, width, *, rough=True, deep=2, kinds=KINDS, widest=450):
    """Layers that take so many features, and how many they give."""
    layers = []
    rng = np.random.default_rng(draw(some.integers(0, 2**32 - 1)))
    for kind in draw(some.lists(some.sampled_from(kinds), min_size=1, max_size=5)):
        if kind == "dense":
            wide = min(draw(WIDTHS), widest)
            fused = draw(some.sampled_from([None, *(activations.keys() - {"gelu_tanh"})]))
            layers.append(fn.Dense(width, wide, bias=draw(some.booleans()), activation=fused,
                                   dtype=dtype, rng=rng))
            width = wide
        elif kind == "activation":
            layers.append(activations[draw(some.sampled_from(sorted(activations)))]())
        elif kind == "norm" and (rough or width >= 8):  # narrower it is too steep for differences
            layers.append(fn.LayerNorm(
                width, affine=draw(some.booleans()), bias=draw(some.booleans()), dtype=dtype))
        elif kind in ("norm", "drop"):
            layers.append(fn.Dropout(draw(UNIT), rng=rng) if rough else fn.Identity())
        elif kind == "scale":
            layers.append(fn.Scale(draw(some.floats(-2, 2))))
        elif not deep:
            layers.append(fn.Flatten())
        else:
            inner, wide = draw(chains(
                dtype, activations, width, rough=rough, deep=deep - 1, kinds=kinds, widest=widest))
            if kind == "nested":
                layers.append(fn.Sequential(inner))
                width = wide
                continue
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
def losses(draw, n_out, end=None):
    """A loss for scores, or for what `end` makes of them, and what draws a target for n rows."""
    rng = np.random.default_rng(draw(some.integers(0, 2**32 - 1)))

    def classes():
        """None, or a weight of each class."""
        return rng.uniform(0.1, 2, n_out) if draw(some.booleans()) else None

    ignored = draw(some.sampled_from([None, 0, -100]))

    def labels(rng, n):
        found = rng.integers(0, n_out, n)
        return np.where(rng.uniform(size=n) < 0.2, -100, found) if ignored == -100 else found

    def all_labels(rng, n):
        return rng.integers(0, n_out, n)

    def rows(rng, n):
        return rng.dirichlet(np.ones(n_out), n) if n_out > 1 else np.ones((n, 1))

    def numbers(rng, n):
        return rng.uniform(0, 1, (n, n_out))

    if end is fn.Softmax:
        return fn.CrossEntropy(), draw(some.sampled_from([all_labels, rows]))
    reduction = draw(some.sampled_from(["mean", "sum"]))
    kind = fn.NegativeLogLikelihood if end is fn.LogSoftmax else draw(some.sampled_from([
        fn.SoftmaxCrossEntropy, fn.BinaryCrossEntropy, fn.MeanSquaredError, fn.Huber, fn.Poisson]))
    if kind in (fn.SoftmaxCrossEntropy, fn.NegativeLogLikelihood):
        target = draw(some.sampled_from([labels, rows]))
        options = {"weight": classes(), "ignore_index": ignored if target is labels else None}
        if kind is fn.SoftmaxCrossEntropy:
            options["label_smoothing"] = draw(some.one_of(some.just(0.0), some.floats(0, 1)))
        return kind(reduction, **options), target
    options = {}
    if kind is fn.BinaryCrossEntropy:
        options["pos_weight"] = classes()
    elif kind is fn.Huber:
        options["delta"] = draw(some.floats(0.01, 10))
    return kind(reduction, **options), numbers


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
