"""Checking a backward against its forward, for those who write layers of their own."""

from __future__ import annotations  # numpy.random is slow to import: not before it is used

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastnet._convert import floats, generator, positive, within
from fastnet._layer import is_layer

__all__ = ["GradientError", "GradientReport", "check_gradients"]


class GradientError(NamedTuple):
    """One array of gradients against central differences.

    Attributes
    ----------
    name : str
        Of the parameter, or "input".
    error : float
        Largest `|backward - differences| / max(1, |backward|, |differences|)`; NaN if one is NaN.
    place : tuple of int
        Where that is.
    backward, differences : float
        What backward says there, and what the differences do.
    """

    name: str
    error: float
    place: tuple[int, ...]
    backward: float
    differences: float


class GradientReport:
    """What `check_gradients` found: true if every gradient is right, and telling when printed.

    Attributes
    ----------
    gradients : list of GradientError
        One for the input and one for each parameter.
    tolerance : float
    """

    def __init__(self, gradients: list[GradientError], tolerance: float) -> None:
        self.gradients, self.tolerance = gradients, tolerance

    def __bool__(self) -> bool:
        return all(found.error <= self.tolerance for found in self.gradients)

    def __repr__(self) -> str:
        width = max(len(found.name) for found in self.gradients)
        lines = [
            f"{'ok   ' if found.error <= self.tolerance else 'WRONG'}  {found.name:{width}}  "
            f"off by {found.error:.1e} at {list(found.place)}: backward says {found.backward:.9g}, "
            f"differences {found.differences:.9g}"
            for found in self.gradients]
        return "\n".join(lines)


def check_gradients(
    layer: Any,
    x: Any,
    *,
    step: float = 1e-6,
    tolerance: float = 1e-6,
    samples: int = 50,
    rng: int | np.random.Generator | None = 0,
) -> GradientReport:
    """Compare a layer's or network's backward with central differences in float64.

    The loss is a random linear function of the output, `sum(c * y)`. Each entry p of the input and
    of the parameters is moved a little: `(loss(p + h) - loss(p - h)) / (2 h)`. The layer itself is
    left as it is: copies of it are run, so it must allow `copy.deepcopy`.

    Parameters
    ----------
    layer : layer or Sequential
        Anything with `forward`, `backward` and `parameters`. Parameters must be float64.
    x : array_like
        An input. At a kink, such as 0 of a ReLU, differences are no derivative.
    step : float
        h, times `max(1, |p|)`.
    tolerance : float
        What counts as right: see `GradientError.error`.
    samples : int
        At most so many entries of each array, chosen at random.
    rng : int, numpy.random.Generator or None
        Source of c and of the choice.

    Returns
    -------
    report : GradientReport

    Raises
    ------
    TypeError, ValueError
        Something that is no layer, parameters that are not float64, an output that is no array of
        finite numbers, gradients in other shapes, options that are not positive.
    """
    if not is_layer(layer):
        raise TypeError(f"layer must have forward, backward and parameters, got {layer!r}")
    step = within(step, "step", "(0, inf)")
    tolerance = within(tolerance, "tolerance", "(0, inf)")
    samples = positive(samples, "samples")
    for name, value, _ in layer.parameters():
        if value.dtype != np.float64:
            raise ValueError(f"{name} must be float64 to be checked, got {value.dtype}")
    x = floats(x, "x", np.dtype("float64"))
    numbers = generator(rng)
    twin = deepcopy(layer)
    y = np.asarray(twin.forward(x.copy()))
    if y.dtype.kind != "f" or not np.isfinite(y).all():
        raise ValueError("the output must be an array of finite numbers")
    c = numbers.normal(size=y.shape)
    gradients = [("input", np.asarray(twin.backward(c.copy())))]
    gradients += [(name, np.array(gradient)) for name, _, gradient in twin.parameters()]

    def at(name: str, place: int, value: float) -> float:
        """Return the loss where one entry has another value."""
        moved, given = deepcopy(layer), x.copy()
        array = given if name == "input" else next(
            own for own_name, own, _ in moved.parameters() if own_name == name)
        array.flat[place] = value
        return float((c * moved.forward(given)).sum())

    found = []
    for name, gradient in gradients:
        values = x if name == "input" else next(
            value for own_name, value, _ in layer.parameters() if own_name == name)
        if gradient.shape != values.shape:
            raise ValueError(f"the gradient of {name} must have shape {values.shape}, "
                             f"got {gradient.shape}")
        places = numbers.permutation(values.size)[:samples]
        errors = _errors(values, gradient, places.tolist(), step, partial(at, name))
        found.append(max(errors, key=lambda entry: (entry[0] != entry[0], entry[0]),
                         default=(0.0, (), 0.0, 0.0)))
    return GradientReport(
        [GradientError(name, *entry) for (name, _), entry in zip(gradients, found, strict=True)],
        tolerance)


def _errors(
    values: np.ndarray, gradient: np.ndarray, places: list[int], step: float,
    loss: Callable[[int, float], float],
) -> Iterator[tuple[float, tuple[int, ...], float, float]]:
    """Yield error, place, gradient and difference of some entries."""
    for place in places:
        value = float(values.flat[place])
        h = step * max(1.0, abs(value))
        difference = (loss(place, value + h) - loss(place, value - h)) / (2 * h)
        own = float(gradient.flat[place])
        error = abs(own - difference) / max(1.0, abs(own), abs(difference))
        yield error, tuple(map(int, np.unravel_index(place, values.shape))), own, difference
