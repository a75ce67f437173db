"""Optimizers: they change parameters in place by the gradients that backward left on the layers."""

from collections.abc import Iterable, Iterator
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from fastnet import _ops
from fastnet._convert import finite

__all__ = ["SGD"]


def _has_parameters(candidate: Any) -> bool:
    return hasattr(candidate, "parameters") and not isinstance(candidate, type)


def _leaves(layers: Iterable[Any]) -> Iterator[Any]:
    """Yield layers, and in place of those that hold others these."""
    for layer in layers:
        inner = getattr(layer, "_chain", None)
        if inner is None:
            yield layer
        else:
            yield from _leaves(inner)


class _Plan(NamedTuple):
    """What one step took from a list of layers, for the next step with the same."""

    layers: list[Any]
    gradients: list[np.ndarray]
    values: list[np.ndarray]
    velocities: list[np.ndarray | None]

    def fits(self, layers: Any) -> bool:
        """Return whether these are the same layers."""
        return (type(layers) is list and len(layers) == len(self.layers)
                and all(map(is_, layers, self.layers)))


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
        self._velocities: dict[Any, list[np.ndarray]] = {}      # by layer, in parameters' order
        self._plan: _Plan | None = None
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
        """Share of the velocity that is kept from one step to the next; 0 forgets velocities."""
        return self._momentum

    @momentum.setter
    def momentum(self, value: float) -> None:
        number = finite(value, "momentum")
        if not 0 <= number < 1:
            raise ValueError(f"momentum must be in the interval [0, 1), got {number}")
        if number == 0 and getattr(self, "_nesterov", False):
            raise ValueError("momentum must be in the interval (0, 1) with nesterov, got 0.0")
        self._momentum = number
        self._plan = None
        if number == 0:
            for velocities in self._velocities.values():
                for velocity in velocities:
                    velocity[...] = 0

    @property
    def nesterov(self) -> bool:
        """Whether the step looks ahead along the velocity."""
        return self._nesterov

    @nesterov.setter
    def nesterov(self, value: bool) -> None:
        if value and self._momentum == 0:
            raise ValueError("momentum must be in the interval (0, 1) with nesterov, got 0.0")
        self._nesterov = bool(value)

    def step(self, layers: Any) -> None:
        """Update the parameters of all layers once; all are checked before anything changes.

        Parameters
        ----------
        layers : iterable of layers, or one layer
            Each yields `(name, value, gradient)` from `parameters()`.

        Raises
        ------
        ValueError
            The same parameter twice; arrays that are not float32 or float64, contiguous and
            writable, or gradients of another shape or dtype than their parameters.
        TypeError
            Something that is not a layer (or cannot be a key of a dict, which keeps the
            velocities), or whose parameters are no arrays.
        """
        plan, started = self._plan, None
        if plan is None or not plan.fits(layers):
            self._plan = None
            chain = [layers] if _has_parameters(layers) else list(layers)
            plan, started = self._prepare(chain)
        try:
            _ops.sgd_update(plan.gradients, plan.values, plan.velocities,
                            self._lr, self._momentum, self._nesterov)
        except ValueError:
            if started is not None:
                raise
            self._plan = None           # a layer may have joined a network, which moves its arrays
            self.step(layers)
            return
        if started is not None:
            self._velocities.update(started)
            if all(type(layer.parameters()) is tuple for layer in chain):
                self._plan = plan

    def _prepare(self, layers: list[Any]) -> tuple[_Plan, dict[Any, list[np.ndarray]]]:
        """Return what a step needs, and the velocities that start with it."""
        plan = _Plan(layers, [], [], [])
        started: dict[Any, list[np.ndarray]] = {}
        for layer in _leaves(layers):
            if not _has_parameters(layer):
                raise TypeError(f"layers must hold layers, got {layer!r}")
            own = list(layer.parameters())
            plan.values.extend(value for _, value, _ in own)
            plan.gradients.extend(gradient for _, _, gradient in own)
            if not self._momentum:
                plan.velocities.extend([None] * len(own))
                continue
            kept = self._velocities.get(layer)
            if kept is None:
                kept = started[layer] = [np.zeros_like(value) for _, value, _ in own]
            if len(kept) != len(own):
                raise ValueError(f"{layer!r} had {len(kept)} parameters before, got {len(own)}")
            plan.velocities.extend(kept)
        if len({id(value) for value in plan.values}) < len(plan.values):
            raise ValueError("layers must hold each parameter once, but one came twice")
        return plan, started

    def _keep(self, layer: Any, places: list[np.ndarray]) -> None:
        """Let the velocities of a layer live in these arrays, which are 0, from now on."""
        for place, velocity in zip(places, self._velocities.get(layer, ()), strict=False):
            place[...] = velocity
        self._velocities[layer] = places
        self._plan = None

    def __repr__(self) -> str:
        nesterov = ", nesterov=True" if self._nesterov else ""
        return f"SGD(lr={self._lr}, momentum={self._momentum}{nesterov})"
