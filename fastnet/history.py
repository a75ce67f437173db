"""What training and evaluation report."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["History", "Scores"]


class _Pair(NamedTuple):
    loss: float
    accuracy: float | None


class Scores(_Pair):
    """What `evaluate` returns: `loss` and `accuracy`, and further figures by name.

    A pair, to be taken apart: `loss, accuracy = network.evaluate(x, y)`.

    Attributes
    ----------
    loss : float
    accuracy : float or None
        None where it is not among the metrics.
    metrics : dict
        Every metric that `compile` was given, by its name; accuracy too.
    """

    metrics: dict[str, float] = {}      # noqa: RUF012 - of a pair that was made without

    def __new__(cls, loss: float, metrics: dict[str, float] | None = None) -> Scores:
        """Return loss and metrics as such a pair."""
        scores = super().__new__(cls, loss, (metrics or {}).get("accuracy"))
        scores.metrics = dict(metrics or {})
        return scores

    def __reduce__(self) -> tuple[type, tuple[float, dict[str, float]]]:
        return type(self), (self.loss, self.metrics)

    def __repr__(self) -> str:
        figures = {"accuracy": self.accuracy, **self.metrics}
        return f"Scores(loss={self.loss}" + "".join(
            f", {name}={value}" for name, value in figures.items()) + ")"


class History:
    """What `fit` recorded, one number per epoch.

    Every metric that `compile` was given has a list of its name, and one with `val_` before it.

    Attributes
    ----------
    epoch : list of int
        The epochs' numbers, from 1.
    loss, accuracy : list of float
        Means over the training samples, each seen before its step's update.
    val_loss, val_accuracy : list of float
        Of the validation data, at the end of the epoch.
        A list is empty where nothing was measured.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.loss: list[float] = []
        self.accuracy: list[float] = []
        self.val_loss: list[float] = []
        self.val_accuracy: list[float] = []

    @property
    def curves(self) -> dict[str, list[float]]:
        """All that was measured, by name."""
        return {name: values for name, values in vars(self).items() if values and name != "epoch"}

    def _append(self, epoch: int, figures: dict[str, float]) -> None:
        self.epoch.append(epoch)
        for name, value in figures.items():
            vars(self).setdefault(name, []).append(value)

    def plot(self) -> Axes | np.ndarray:
        """Draw the curves; needs matplotlib.

        Returns
        -------
        axes : matplotlib Axes, or an array of them if more than the loss was measured
        """
        from matplotlib import pyplot
        from matplotlib.ticker import MaxNLocator

        curves = self.curves
        names = [name for name in curves if not name.startswith("val_")] or ["loss"]
        figure, axes = pyplot.subplots(
            1, len(names), figsize=(5 * len(names), 4), layout="constrained")
        for ax, name in zip(np.atleast_1d(axes), names, strict=True):
            for label, column, style in [("training", name, "-"),
                                         ("validation", f"val_{name}", "--")]:
                if curve := curves.get(column):
                    marker = "." if len(curve) <= 20 else ""
                    ax.plot(self.epoch, curve, style, marker=marker, label=label)
            ax.set(xlabel="epoch", ylabel=name)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.grid(alpha=0.3)
            ax.legend()
        drawn: Axes | np.ndarray = axes
        return drawn

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {values[-1]:.4f}" for name, values in self.curves.items())
        epochs = f"{len(self.loss)} epoch{'s' if len(self.loss) != 1 else ''}"
        return f"History({epochs}{': ' if last else ''}{last})"
