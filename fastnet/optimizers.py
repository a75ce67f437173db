"""Optimizers: they change parameters in place by the gradients that backward left on the layers."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from fastnet import _ops
from fastnet._convert import finite

__all__ = ["SGD"]


class SGD:
    """Gradient descent with momentum.

    `v = momentum * v + g` and `w = w - lr * v`, or `w = w - lr * (g + momentum * v)` with
    `nesterov`, as PyTorch does it. v starts at 0 and belongs to the optimizer. While lr is
    constant this is the same as `v = momentum * v + lr * g`, `w = w - v` (exercise F).
    Both forms of momentum: Sutskever et al., 2013.

    Parameters
    ----------
    lr : float
        Learning rate, in [0, inf).
    momentum : float
        In [0, 1).
    nesterov : bool
        Needs a positive momentum.

    Raises
    ------
    TypeError
        A hyper-parameter that is no number.
    ValueError
        One outside its interval. Each can also be assigned later, with the same checks.
    """

    def __init__(self, lr: float, momentum: float = 0.0, nesterov: bool = False) -> None:
        self._velocities: dict[tuple[int, str], np.ndarray] = {}
        self._layers: dict[int, Any] = {}       # keeps the layers alive whose id is a key above
        self.lr = lr
        self.momentum = momentum
        self.nesterov = nesterov

    @property
    def lr(self) -> float:
        """Learning rate; a new one counts from the next step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        number = finite(value, "lr")
        if number < 0:
            raise ValueError(f"lr must be in the interval [0, inf), got {number}")
        self._lr = number

    @property
    def momentum(self) -> float:
        """Share of the velocity that is kept from one step to the next."""
        return self._momentum

    @momentum.setter
    def momentum(self, value: float) -> None:
        number = finite(value, "momentum")
        if not 0 <= number < 1:
            raise ValueError(f"momentum must be in the interval [0, 1), got {number}")
        if number == 0 and getattr(self, "_nesterov", False):
            raise ValueError("momentum must be in the interval (0, 1) with nesterov, got 0.0")
        self._momentum = number

    @property
    def nesterov(self) -> bool:
        """Whether the step looks ahead along the velocity."""
        return self._nesterov

    @nesterov.setter
    def nesterov(self, value: bool) -> None:
        if value and self._momentum == 0:
            raise ValueError("momentum must be in the interval (0, 1) with nesterov, got 0.0")
        self._nesterov = bool(value)

    def step(self, layers: Iterable[Any]) -> None:
        """Update the parameters of all layers once; all are checked before the first changes.

        Parameters
        ----------
        layers : iterable of layers
            Each yields `(name, value, gradient)` from `parameters()`.

        Raises
        ------
        ValueError
            The same layer twice; arrays that are not float32 or float64, contiguous and writable,
            or gradients of another shape or dtype than their parameters.
        TypeError
            Something that is not a layer, or whose parameters are no arrays.
        """
        seen: set[int] = set()
        gradients, values, velocities = [], [], []
        for layer in layers:
            if not hasattr(layer, "parameters"):
                raise TypeError(f"layers must hold layers, got {layer!r}")
            if id(layer) in seen:
                raise ValueError(f"layers must hold each layer once, got {layer!r} twice")
            seen.add(id(layer))
            for name, value, gradient in layer.parameters():
                gradients.append(gradient)
                values.append(value)
                velocities.append(self._velocity(layer, name, value) if self._momentum else None)
        _ops.sgd_update(gradients, values, velocities, self._lr, self._momentum, self._nesterov)

    def _velocity(self, layer: Any, name: str, value: np.ndarray) -> np.ndarray:
        """Return the velocity of a parameter, 0 in the beginning."""
        key = id(layer), name
        if key not in self._velocities:
            self._velocities[key] = np.zeros_like(value)
            self._layers[id(layer)] = layer
        return self._velocities[key]

    def __repr__(self) -> str:
        nesterov = ", nesterov=True" if self._nesterov else ""
        return f"SGD(lr={self._lr}, momentum={self._momentum}{nesterov})"
