"""Learning rates that change from step to step: `SGD(lr=Cosine(0.1, steps=1000))`.

A schedule is any callable that takes the number of steps taken so far, from 0, and returns the
learning rate of the next one. Optimizers ask it once per step; `fit` asks for a whole epoch before
it begins, so that no Python runs between steps.
"""

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from fastnet._convert import positive, whole, within

__all__ = ["Cosine", "InverseScaling", "StepDecay"]


def _number(step: int) -> int:
    """Return the number of a step, checked; far beyond what anybody takes all are alike."""
    return min(whole(step, "step", 0), 2**63)


def _times_power(lr: float, base: float, exponent: float) -> float:
    """Return `lr * base**exponent`, also where only the power is too large or small for a float."""
    if lr == 0:
        return 0.0
    try:
        power = float(base**exponent)
        if base == 0 or power >= sys.float_info.min:
            return lr * power
    except OverflowError:
        pass
    try:
        return math.exp(math.log(lr) + exponent * math.log(base))
    except OverflowError:
        return math.inf


_rate = partial(within, interval="[0, inf)")
_count = partial(whole, least=0)


class _Schedule:
    """Base of the schedules: numbers are checked, also when they are assigned later."""

    _checks: ClassVar[dict[str, Callable[..., Any]]]        # of value and name

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._checks:
            value = self._checks[name](value, name)
            self._check(**{**vars(self), name: value})
        super().__setattr__(name, value)

    def _check(self, **numbers: Any) -> None:
        """Refuse numbers that do not go together."""


class StepDecay(_Schedule):
    """`lr * factor ** (step // every)`: constant, but for a jump every so many steps.

    Parameters
    ----------
    lr : float
        In [0, inf).
    every : int
        At least 1.
    factor : float
        In [0, inf).

    Raises
    ------
    TypeError, ValueError
        A number outside its interval.
    """

    _checks: ClassVar = {"lr": _rate, "every": positive, "factor": _rate}

    def __init__(self, lr: float, every: int, factor: float = 0.1) -> None:
        self.lr, self.every, self.factor = lr, every, factor

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, an int counted from 0."""
        return _times_power(self.lr, self.factor, _number(step) // self.every)

    def __repr__(self) -> str:
        return f"StepDecay({self.lr}, every={self.every}, factor={self.factor})"


class Cosine(_Schedule):
    """Half a cosine from `lr` down to `final`, after a linear warm-up.

    For `step < warmup` it is `lr * (step + 1) / warmup`; then, with `p` from 0 to 1 on the way to
    `steps`, `final + (lr - final) * (1 + cos(pi * p)) / 2`; from `steps` on `final` (Loshchilov and
    Hutter, 2017).

    Parameters
    ----------
    lr : float
        In [0, inf).
    steps : int
        Until the end is reached, the warm-up included; at least 1.
    warmup : int
        From 0 to less than `steps`.
    final : float
        In [0, inf).

    Raises
    ------
    TypeError, ValueError
        A number outside its interval.
    """

    _checks: ClassVar = {"lr": _rate, "steps": positive, "warmup": _count, "final": _rate}

    def __init__(self, lr: float, steps: int, warmup: int = 0, final: float = 0.0) -> None:
        self.lr, self.steps, self.warmup, self.final = lr, steps, warmup, final

    def _check(self, **numbers: Any) -> None:
        steps, warmup = numbers.get("steps", math.inf), numbers.get("warmup", 0)
        if warmup >= steps:
            raise ValueError(f"warmup must be less than steps, {steps}, got {warmup}")

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, an int counted from 0."""
        step = _number(step)
        if step < self.warmup:
            return self.lr * ((step + 1) / self.warmup)
        way = min(step - self.warmup, self.steps - self.warmup) / (self.steps - self.warmup)
        return self.final + (self.lr - self.final) * ((1 + math.cos(math.pi * way)) / 2)

    def __repr__(self) -> str:
        return f"Cosine({self.lr}, steps={self.steps}, warmup={self.warmup}, final={self.final})"


class InverseScaling(_Schedule):
    """`lr / (step + 1) ** power`, scikit-learn's "invscaling" with a count of steps.

    Parameters
    ----------
    lr : float
        In [0, inf).
    power : float
        In [0, inf).

    Raises
    ------
    TypeError, ValueError
        A number outside its interval.
    """

    _checks: ClassVar = {"lr": _rate, "power": _rate}

    def __init__(self, lr: float, power: float = 0.5) -> None:
        self.lr, self.power = lr, power

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, an int counted from 0."""
        return _times_power(self.lr, _number(step) + 1, -self.power)

    def __repr__(self) -> str:
        return f"InverseScaling({self.lr}, power={self.power})"
