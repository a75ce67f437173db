"""A trained network with what leads from a table to it and back, and how a file holds both."""

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from fastnet._data import Classes, FileError, read_arrays, read_bytes
from fastnet.layers import Dense, ReLU
from fastnet.network import Sequential

DESCRIPTION = "description"     # the file's entry that is text; all others are numbers


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
        return (["label", *map(str, self.classes)],
                [[label, *row] for label, row in zip(labels, outputs, strict=True)])

    def arrays(self) -> dict[str, Any]:
        """Return what a file holds: parameters, the inputs' statistics, and a text about them."""
        description = {
            "widths": self.widths,
            "dtype": str(self.network.dtype),
            "task": "regression" if self.classes is None else "classification",
            "features": self.features,
            "target": self.target,
            "classes": self.classes,
            "target_mean": self.target_mean,
            "target_scale": self.target_scale,
        }
        parameters = {name: value for name, value, _ in self.network.parameters()}
        return {**parameters, "mean": self.mean, "scale": self.scale,
                DESCRIPTION: np.array(json.dumps(description))}


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
    arrays = read_arrays(path, read_bytes(path))
    try:
        return _model(arrays)
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise FileError(f"{path} is not a model of fastnet, or is damaged") from error


def _model(arrays: dict[str, np.ndarray]) -> Model:
    """Return the model of these arrays; one of several errors if they are none."""
    about = json.loads(str(arrays.pop(DESCRIPTION)))
    widths, dtype, task, features, target, classes, target_mean, target_scale = (
        about[name] for name in ("widths", "dtype", "task", "features", "target", "classes",
                                 "target_mean", "target_scale"))
    expected = {"mean": ([widths[0]], "float64"), "scale": ([widths[0]], "float64")}
    for i, (n_in, n_out) in enumerate(pairwise(widths)):
        expected[f"{2 * i}.weight"] = [n_in, n_out], dtype
        expected[f"{2 * i}.bias"] = [n_out], dtype
    found = {name: (list(array.shape), str(array.dtype)) for name, array in arrays.items()}
    if task == "regression":
        fits = classes is None and widths[-1] == 1
    else:
        fits = task == "classification" and (
            _are_names(classes, str, widths[-1]) or _are_names(classes, int, widths[-1]))
    # All this before anything of these widths is made.
    if not (fits and found == expected
            and _are_names(features, str, widths[0]) and _are_names([target], str, 1)
            and all(np.isfinite(array).all() for array in arrays.values())
            and math.isfinite(target_mean) and math.isfinite(target_scale)
            and target_scale > 0 and (arrays["scale"] > 0).all()):
        raise ValueError("the parts do not fit together")
    network = make_network(widths, np.random.default_rng(0), dtype)
    for name, value, _ in network.parameters():
        value[...] = arrays[name]
    return Model(network, features, target, classes, arrays["mean"], arrays["scale"],
                 target_mean, target_scale)


def _are_names(names: Any, kind: type, n: int) -> bool:
    """Return whether these are n different names of one kind, in a list."""
    return (isinstance(names, list) and all(type(name) is kind for name in names)
            and len(set(names)) == len(names) == n)
