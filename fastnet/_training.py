"""The network for the handwritten digits and the loop that trains it, layer by layer."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastnet.digits import load_digits
from fastnet.layers import Dense, ReLU
from fastnet.losses import SoftmaxCrossEntropy
from fastnet.metrics import accuracy
from fastnet.optimizers import SGD

Samples = tuple[np.ndarray, np.ndarray]     # x (n, in_features) and labels (n,)

N_TRAINING, N_VALIDATION = 1437, 180        # of 1797 digits; the other 180 are the test


class Epoch(NamedTuple):
    """Loss and accuracy of one epoch.

    Those of training are means over the samples, each seen before its step's update; those of
    validation belong to the parameters at the end of the epoch.
    """

    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float


def split_digits(rng: np.random.Generator, dtype: str) -> tuple[Samples, Samples, Samples]:
    """Return the digits in random order as training (1437), validation (180) and test (180)."""
    x, y = load_digits()
    order = rng.permutation(len(x))
    x, y = x[order].astype(dtype), y[order]
    a, b = N_TRAINING, N_TRAINING + N_VALIDATION
    return (x[:a], y[:a]), (x[a:b], y[a:b]), (x[b:], y[b:])


def make_layers(rng: np.random.Generator, dtype: str) -> list[Any]:
    """Return 64-100-10 with random initial weights; its outputs are raw scores."""
    return [Dense(64, 100, rng=rng, dtype=dtype), ReLU(), Dense(100, 10, rng=rng, dtype=dtype)]


def measure(layers: Sequence[Any], samples: Samples) -> tuple[float, float]:
    """Return loss and accuracy of the layers as they are."""
    x, target = samples
    y = x
    for layer in layers:
        y = layer.forward(y)
    return SoftmaxCrossEntropy().forward(y, target), accuracy(y, target)


def train(
    layers: Sequence[Any],
    training: Samples,
    validation: Samples,
    rng: np.random.Generator,
    *,
    epochs: int = 50,
    batch_size: int = 32,
    lr: float = 0.1,
    momentum: float = 0.9,
) -> Iterator[Epoch]:
    """Train the layers in place, one epoch for each item that is taken from the iterator.

    Parameters
    ----------
    layers : sequence of layers
    training, validation : (x, labels)
        x (n, in_features) and labels (n,). Nothing is learnt from validation.
    rng : numpy.random.Generator
        Source of the order of the samples, a new one in each epoch.
    epochs, batch_size : int
        At least 1. The last batch of an epoch holds what is left.
    lr, momentum : float
        As `SGD` takes them.

    Yields
    ------
    Epoch

    Raises
    ------
    FloatingPointError
        A loss that is not finite; a step with such a loss is not applied.
    """
    x, target = training
    loss, sgd = SoftmaxCrossEntropy(), SGD(lr, momentum)
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(x))
        loss_sum = correct = 0.0
        for step, start in enumerate(range(0, len(x), batch_size), 1):
            batch = order[start : start + batch_size]

            y = x[batch]
            for layer in layers:
                y = layer.forward(y)
            value = loss.forward(y, target[batch])
            if not math.isfinite(value):
                raise FloatingPointError(f"the loss is {value} at epoch {epoch}, step {step}; "
                                         "a smaller lr may help")
            dy = loss.backward()
            for layer in reversed(layers):
                dy = layer.backward(dy)
            sgd.step(layers)

            loss_sum += value * len(batch)
            correct += accuracy(y, target[batch]) * len(batch)

        # The last update of all is followed by no step that would notice what it has done.
        val_loss, val_accuracy = measure(layers, validation)
        if not math.isfinite(val_loss):
            raise FloatingPointError(f"the validation loss is {val_loss} after epoch {epoch}, "
                                     f"step {step}; a smaller lr may help")
        yield Epoch(loss_sum / len(x), correct / len(x), val_loss, val_accuracy)
