"""Initial values of parameters.

An initializer is a small object, called with the shape and a generator. Layers take one by object
or by name: "uniform", "zeros", "constant", "he_normal", "he_uniform", "glorot_normal",
"glorot_uniform". Anything callable in the same way serves as well.

Fan-in and fan-out of a shape (n_in, n_out) are n_in and n_out; a vector (n,) has n for both.
"""

from __future__ import annotations  # numpy.random is slow to import: not before it is used

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastnet._convert import finite

__all__ = [
    "Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Uniform", "Zeros",
]

Shape = tuple[int, ...]
Initializer = Callable[[Shape, "np.random.Generator"], np.ndarray]


@dataclass(frozen=True)
class Constant:
    """The same value everywhere.

    Parameters
    ----------
    value : float
        Finite, else ValueError.
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        finite(self.value, "value")

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return np.full(shape, float(self.value))


@dataclass(frozen=True)
class Zeros:
    """Zero everywhere."""

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return np.zeros(shape)


@dataclass(frozen=True)
class Uniform:
    """Uniform on [low, high).

    Parameters
    ----------
    low, high : float
        Finite, low <= high, and high - low is finite, else ValueError.
    """

    low: float = -0.05
    high: float = 0.05

    def __post_init__(self) -> None:
        low, high = finite(self.low, "low"), finite(self.high, "high")
        if low > high:
            raise ValueError(f"low must be in the interval (-inf, {self.high}], got {self.low}")
        finite(high - low, "high - low")

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(self.low, self.high, shape)


def _normal(shape: Shape, rng: np.random.Generator, variance: float) -> np.ndarray:
    return rng.normal(0.0, math.sqrt(variance), shape)


def _uniform(shape: Shape, rng: np.random.Generator, variance: float) -> np.ndarray:
    limit = math.sqrt(3.0 * variance)       # uniform on [-limit, limit) has variance limit^2 / 3
    return rng.uniform(-limit, limit, shape)


@dataclass(frozen=True)
class HeNormal:
    """Normal with variance 2 / fan_in (He et al., 2015): keeps the scale through ReLU layers."""

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return _normal(shape, rng, 2.0 / shape[0])


@dataclass(frozen=True)
class HeUniform:
    """Uniform with variance 2 / fan_in (He et al., 2015)."""

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return _uniform(shape, rng, 2.0 / shape[0])


@dataclass(frozen=True)
class GlorotNormal:
    """Normal with variance 2 / (fan_in + fan_out) (Glorot and Bengio, 2010)."""

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return _normal(shape, rng, 2.0 / (shape[0] + shape[-1]))


@dataclass(frozen=True)
class GlorotUniform:
    """Uniform with variance 2 / (fan_in + fan_out) (Glorot and Bengio, 2010)."""

    def __call__(self, shape: Shape, rng: np.random.Generator) -> np.ndarray:
        return _uniform(shape, rng, 2.0 / (shape[0] + shape[-1]))


_BY_NAME: dict[str, Initializer] = {
    "uniform": Uniform(),
    "zeros": Zeros(),
    "constant": Constant(),
    "he_normal": HeNormal(),
    "he_uniform": HeUniform(),
    "glorot_normal": GlorotNormal(),
    "glorot_uniform": GlorotUniform(),
}


def get(initializer: str | Initializer, name: str) -> Initializer:
    """Return the initializer that a name stands for; an object is returned as it is.

    Raises
    ------
    ValueError
        An unknown name.
    TypeError
        Neither a name nor callable.
    """
    if isinstance(initializer, str):
        if initializer not in _BY_NAME:
            raise ValueError(f"{name} must be one of {', '.join(_BY_NAME)}, got {initializer!r}")
        return _BY_NAME[initializer]
    if not callable(initializer):
        raise TypeError(f"{name} must be a name or an initializer, got {initializer!r}")
    return initializer
