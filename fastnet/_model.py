"""A trained network with what leads from a table to it and back, and how a file holds both."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from fastnet._data import Classes, FileError
from fastnet._files import ModelFileError, read_bytes
from fastnet._state_file import parse
from fastnet.layers import Dense, ReLU
from fastnet.network import Sequential


@dataclass(frozen=True)
class Model:
    """A network, how its inputs are standardised, and what its outputs mean.

    Attributes
    ----------
    network : Sequential
        Dense layers with ReLU between them.
    features : list of str
        Names of the columns, in the order of the inputs.
    target : str
    classes : list of str or int, or None
        One for each output; None: the output is a number.
    mean, scale : ndarray of float64 (n_features,)
        The inputs are `(x - mean) / scale`.
    target_mean, target_scale : float
        A number is `output * target_scale + target_mean`.
    """

    network: Sequential
    features: list[str]
    target: str
    classes: Classes | None
    mean: np.ndarray
    scale: np.ndarray
    target_mean: float = 0.0
    target_scale: float = 1.0

    @property
    def widths(self) -> list[int]:
        """Numbers of features, of units in each hidden layer, and of outputs."""
        dense = [layer for layer in self.network.layers if isinstance(layer, Dense)]
        return [dense[0].in_features, *(layer.out_features for layer in dense)]

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """Return what the network is given for rows of the table.

        Raises
        ------
        FileError
            A number so far from the training data that the network's dtype cannot hold it.
        """
        return self._standardised(x, self.features, self.mean, self.scale)

    def targets(self, y: np.ndarray) -> np.ndarray:
        """Return what the network's outputs are compared with: labels, or standardised numbers.

        Raises
        ------
        FileError
            As `inputs`.
        """
        if self.classes is not None:
            return y
        return self._standardised(
            y[:, np.newaxis], [self.target], self.target_mean, self.target_scale)[:, 0]

    def _standardised(
        self, x: np.ndarray, names: list[str], mean: np.ndarray | float, scale: np.ndarray | float
    ) -> np.ndarray:
        with np.errstate(over="ignore"):
            result: np.ndarray = ((x - mean) / scale).astype(self.network.dtype)
        bad = np.argwhere(~np.isfinite(result))
        if len(bad):
            i, j = bad[0]
            raise FileError(f"row {i + 1}, column {names[j]!r}: {x[i, j]:g} is too far from the "
                            "training data")
        return result

    def predict(self, x: np.ndarray) -> tuple[list[str], list[list[Any]]]:
        """Return a header and rows: the label and each class's probability, or the number.

        Probabilities stand under the classes' names; where a class is called "label", as the first
        column is, all under "p(name)".

        Raises
        ------
        FileError
            As `inputs`; FileError too where the outputs are not finite.
        """
        inputs = self.inputs(x)
        if self.classes is None:
            outputs = self.network.predict(inputs).astype(np.float64)
            outputs = outputs * self.target_scale + self.target_mean
        else:
            outputs = self.network.predict_proba(inputs)
        bad = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
        if len(bad):
            raise FileError(f"row {bad[0] + 1}: the numbers are too far from the training data")
        if self.classes is None:
            return ["prediction"], [list(row) for row in outputs]
        labels = [self.classes[i] for i in outputs.argmax(axis=1)]
        names = [str(name) for name in self.classes]
        if "label" in names:
            names = [f"p({name})" for name in names]
        return (["label", *names],
                [[label, *row] for label, row in zip(labels, outputs, strict=True)])

    def state(self) -> dict[str, Any]:
        """Return what a file holds: the network, and what leads from a table to it and back."""
        return {**self.network._file_state(False), "table": {
            "features": self.features, "target": self.target, "classes": self.classes,
            "mean": self.mean, "scale": self.scale,
            "target_mean": self.target_mean, "target_scale": self.target_scale}}


def make_network(widths: list[int], rng: np.random.Generator, dtype: str) -> Sequential:
    """Return dense layers of these widths, ReLU between them; the outputs are raw scores."""
    layers: list[Any] = []
    for n_in, n_out in pairwise(widths):
        layers += [Dense(n_in, n_out, rng=rng, dtype=dtype), ReLU()]
    return Sequential(layers[:-1])


def read_model(path: str) -> Model:
    """Return the model that a file holds.

    Raises
    ------
    FileError
        No model, a damaged one, or one whose parts do not fit together.
    OSError
        A file that cannot be read. The message is meant to be shown.
    """
    try:
        kind, state = parse(path, read_bytes(path))
    except ModelFileError as error:
        raise FileError(str(error)) from error
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from error
    if kind != "network" or "table" not in state:
        raise FileError(f"{path} does not say what its columns are, as the models of "
                        "`python -m fastnet train` do")
    try:
        return _model(state)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
            ValueError) as error:
        raise FileError(f"{path} is not a model of a table, or is damaged") from error


def network_for_rows(state: Any) -> Sequential:
    """Return the network of a file's content, for rows as they stand in the table.

    What leads from the table to the network and back becomes part of its first and last layer,
    computed in double and rounded once. How the network was trained does not fit it any more.

    Raises
    ------
    ValueError
        No model; or the network's dtype has too few digits, or too small a range, for a column.
        Content that was made up can raise others, as in `read_model`.
    """
    model = _model(state)
    network, dtype = model.network, np.finfo(model.network.dtype)
    far = float(dtype.max)**0.75        # the weights have the rest of the range
    for name, mean, scale in zip(
            [*model.features, model.target], [*model.mean.tolist(), model.target_mean],
            [*model.scale.tolist(), model.target_scale], strict=True):
        if not (1 / far < scale < far and abs(mean) / scale * dtype.eps < 1e-3):
            raise ValueError(f"column {name!r}, of mean {mean:g} and standard deviation {scale:g}, "
                             f"needs more than the network's {dtype.dtype}")
    values = [value.astype(np.float64) for _, value, _ in network.parameters()]
    (first_weight, first_bias), (last_weight, last_bias) = values[:2], values[-2:]
    first_weight /= model.scale[:, np.newaxis]
    first_bias -= model.mean @ first_weight
    if model.classes is None:
        last_weight *= model.target_scale
        last_bias *= model.target_scale
        last_bias += model.target_mean
    with np.errstate(over="ignore"):
        for (name, value, _), found in zip(network.parameters(), values, strict=True):
            value[...] = found
            if not np.isfinite(value).all():
                raise ValueError(f"{name} is too large for rows as they stand in the table")
    network._trainer = None
    return network


def _model(state: Any) -> Model:
    """Return the model of a file's content; one of several errors if it is none."""
    network, about = Sequential._of_file_state(state), dict(state["table"])
    model = Model(network, **about)
    n_in, *_, n_out = model.widths
    if model.classes is None:
        fits = n_out == 1
    else:
        fits = _are_names(model.classes, str, n_out) or _are_names(model.classes, int, n_out)
    vectors = [model.mean, model.scale]
    numbers = [model.target_mean, model.target_scale]
    if not (fits and _is_plain(network)
            and _are_names(model.features, str, n_in) and _are_names([model.target], str, 1)
            and all(isinstance(one, np.ndarray) and one.dtype == np.float64
                    and one.shape == (n_in,) and np.isfinite(one).all() for one in vectors)
            and (model.scale > 0).all()
            and all(type(one) is float and math.isfinite(one) for one in numbers)
            and model.target_scale > 0
            and all(np.isfinite(value).all() for _, value, _ in network.parameters())):
        raise ValueError("the parts do not fit together")
    return model


def _is_plain(network: Sequential) -> bool:
    """Return whether these are dense layers with ReLU between them, as of `make_network`."""
    dense, between = network.layers[::2], network.layers[1::2]
    return (len(dense) > len(between) and all(type(layer) is ReLU for layer in between)
            and all(type(layer) is Dense and layer.bias is not None and layer.activation is None
                    for layer in dense))


def _are_names(names: Any, kind: type, n: int) -> bool:
    """Return whether these are n different names of one kind, in a list."""
    return (isinstance(names, list) and all(type(name) is kind for name in names)
            and len(set(names)) == len(names) == n)
