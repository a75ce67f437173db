"""Losses: one kernel call gives the mean over the samples and its gradient.

`forward(y, target)` returns the mean loss as a Python float and keeps the gradient, which
`backward()` hands over once. Where classes are meant, a target is one of

* labels: a vector (n,) of whole numbers 0 .. n_classes - 1 (bool for two classes);
* rows: a matrix (n, n_classes) of weights, finite and at least 0: one-hot or soft. A weight of 0
  contributes 0, whatever the score.
"""

from typing import Any

import numpy as np

from fastnet import _ops

__all__ = ["CrossEntropy", "Loss", "MeanSquaredError", "SoftmaxCrossEntropy"]


class Loss:
    """Base of the losses: the gradient that one backward hands over."""

    _gradient: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and copy what lasts, not the gradient of a batch."""
        return {name: value for name, value in vars(self).items() if name != "_gradient"}

    def backward(self) -> np.ndarray:
        """Return the gradient of the last forward's loss, in the shape and dtype of its `y`.

        Raises
        ------
        RuntimeError
            No forward since the last backward.
        """
        gradient = self._gradient
        if gradient is None:
            raise RuntimeError(f"{type(self).__name__}.backward needs a forward before it, "
                               "and can be called once for each")
        self._gradient = None
        return gradient

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class SoftmaxCrossEntropy(Loss):
    """Cross-entropy of the softmax of raw scores, in one exact step.

    Per row `l = sum_j t_j (logsumexp(x) - x_j)`, and with the sum s of the row's weights
    `dl/dx = s softmax(x) - t` (exercise D); the mean over n rows divides both by n.
    """

    def forward(self, logits: Any, target: Any) -> float:
        """Return the mean loss of scores `logits` (n, n_classes).

        Raises
        ------
        TypeError, ValueError
            Input that cannot be converted, shapes that do not fit, 0 rows, labels out of range,
            weights that are negative or not finite.
        """
        logits = _ops.as_floats(logits, "logits")
        target = _ops.as_target(target, logits)
        loss, self._gradient = _ops.softmax_cross_entropy(logits, target)
        return loss


class CrossEntropy(Loss):
    """Cross-entropy of probabilities, as the `Softmax` layer gives them.

    Per row `l = -sum_j t_j log(p_j)` and `dl/dp = -t / p` (exercises B and D); the mean over n rows
    divides both by n.
    A probability of 0 under a positive weight is an infinite loss: `SoftmaxCrossEntropy` on raw
    scores has no such edge.
    """

    def forward(self, p: Any, target: Any) -> float:
        """Return the mean loss of probabilities `p` (n, n_classes).

        Raises
        ------
        TypeError, ValueError
            As `SoftmaxCrossEntropy.forward`; also for entries outside [0, 1].
        """
        p = _ops.as_floats(p, "P")
        target = _ops.as_target(target, p)
        loss, self._gradient = _ops.cross_entropy(p, target)
        return loss


class MeanSquaredError(Loss):
    """Mean over all entries of `(y - target)^2`; gradient `2 (y - target) / size`."""

    def forward(self, y: Any, target: Any) -> float:
        """Return the mean loss; `target` must have the shape of `y`, nothing is broadcast.

        Raises
        ------
        TypeError, ValueError
            Input that cannot be converted, shapes that differ, no entries.
        """
        y = _ops.as_floats(y, "y")
        target = _ops.as_floats(target, "target", y.dtype)
        if target.shape != y.shape:
            raise ValueError(f"target must have the shape of y, {y.shape}, got {target.shape}")
        loss, self._gradient = _ops.mean_squared_error(y, target)
        return loss
