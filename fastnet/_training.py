"""From samples to a trained model: parts, statistics, network, and its epochs one by one."""

import math
from collections.abc import Iterator

import numpy as np

from fastnet._data import Data, FileError
from fastnet._model import Model, make_network
from fastnet.losses import MeanSquaredError, SoftmaxCrossEntropy
from fastnet.network import Sequential
from fastnet.optimizers import SGD

Samples = tuple[np.ndarray, np.ndarray]     # x (n, n_features) and labels or numbers (n,)

# Loss and, with classes, accuracy of one epoch, as `Sequential.fit` measures them: "loss",
# "accuracy", "val_loss", "val_accuracy".
Epoch = dict[str, float]


def split(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the indices of n samples in random order: training, and 10 % for each of two others.

    Fewer than 6 samples leave none for these two.
    """
    n_others = round(n / 10)
    order = rng.permutation(n)
    a, b = n - 2 * n_others, n - n_others
    return order[:a], order[a:b], order[b:]


def prepare(
    data: Data, hidden: list[int], rng: np.random.Generator, dtype: str, standardise: bool
) -> tuple[Model, Samples, Samples, Samples]:
    """Split the data, and make an untrained model of them.

    Parameters
    ----------
    data : Data
    hidden : list of int
        Widths of the hidden layers.
    rng : numpy.random.Generator
        Source of the split and of the initial weights.
    dtype : {"float32", "float64"}
    standardise : bool
        Whether each column of `data.x` is brought to mean 0 and standard deviation 1, those of the
        training part. A column that is constant there only loses its mean. Numbers to predict are
        always standardised.

    Returns
    -------
    model : Model
    training, validation, test : (x, y)
        As the network takes them.

    Raises
    ------
    FileError
        Too few rows, or a number that is too far from those of the training part.
    """
    n = len(data.x)
    parts = split(n, rng)
    if len(parts[1]) == 0:
        raise FileError(f"{data.source}: {n} row{'s are' if n > 1 else ' is'} too few, as none is "
                        "left for validation and test; there must be at least 6")
    n_features = len(data.features)
    mean, scale = np.zeros(n_features), np.ones(n_features)
    if standardise:
        mean, scale = _statistics(data.x[parts[0]])
    if data.classes is None:
        of_target = _statistics(data.y[parts[0], np.newaxis])
        n_outputs, target_mean, target_scale = 1, float(of_target[0][0]), float(of_target[1][0])
    else:
        n_outputs, target_mean, target_scale = len(data.classes), 0.0, 1.0
    network = make_network([n_features, *hidden, n_outputs], rng, dtype)
    model = Model(network, data.features, data.target, data.classes, mean, scale,
                  target_mean, target_scale)
    x, y = model.inputs(data.x), model.targets(data.y)
    training, validation, test = ((x[part], y[part]) for part in parts)
    return model, training, validation, test


def _statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each column; 1 for that of a constant one."""
    mean, scale = x.mean(axis=0), x.std(axis=0)
    # The mean of equal numbers is not always exactly theirs.
    scale[(scale == 0) | (x.min(axis=0) == x.max(axis=0))] = 1
    return mean, scale


def train(
    network: Sequential,
    training: Samples,
    validation: Samples,
    rng: np.random.Generator,
    *,
    epochs: int = 50,
    batch_size: int = 32,
    lr: float = 0.1,
    momentum: float = 0.9,
) -> Iterator[Epoch]:
    """Train the network in place, one epoch for each item that is taken from the iterator.

    Parameters
    ----------
    network : Sequential
        Its outputs are raw scores where the targets are labels, and numbers where they are floats.
    training, validation : (x, y)
        x (n, n_features) and labels or numbers (n,). Nothing is learnt from validation.
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
    x, y = training
    if y.dtype.kind == "f":
        network.compile(SGD(lr, momentum), MeanSquaredError())
    else:
        network.compile(SGD(lr, momentum), SoftmaxCrossEntropy(), metrics=["accuracy"])
    for number in range(1, epochs + 1):
        try:
            history = network.fit(x, y, batch_size, validation_data=validation, rng=rng, verbose=0)
        except FloatingPointError as error:
            # Each fit counts from 1, and whether the last step was applied is of no use here.
            raise FloatingPointError(
                str(error).replace("at epoch 1,", f"at epoch {number},")
                .replace(", and the step was not applied", "")) from error
        epoch = {name: values[-1] for name, values in history.curves.items()}
        # The last update of all is followed by no step that would notice what it has done.
        if not math.isfinite(epoch["val_loss"]):
            raise FloatingPointError(
                f"the validation loss is {epoch['val_loss']} after epoch {number}, "
                f"step {math.ceil(len(x) / batch_size)}; a smaller lr may help")
        yield epoch


def describe_test(model: Model, test: Samples) -> str:
    """Return how well a trained model does on the test part, in words.

    The root mean square error is in the target's units; R2 is 1 for exact predictions and 0 for
    the mean of the test part's own targets.
    """
    scores = model.network.evaluate(*test)
    if scores.accuracy is not None:
        return f"test accuracy {scores.accuracy:.4f}"
    text = f"test RMSE {math.sqrt(scores.loss) * model.target_scale:.4g}"
    variance = float(np.var(test[1], dtype=np.float64))
    return f"{text}, R2 {1 - scores.loss / variance:.4f}" if variance > 0 else text
