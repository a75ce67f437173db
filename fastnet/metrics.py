"""Figures that describe a result and are not trained on."""

from typing import Any

from fastnet import _ops

__all__ = ["accuracy"]


def accuracy(scores: Any, target: Any) -> float:
    """Return the share of rows whose largest score stands where the target says.

    Parameters
    ----------
    scores : array_like (n, n_classes)
        Raw scores or probabilities; of equal ones the first counts as the largest.
    target : array_like (n,) or (n, n_classes)
        Labels, or rows whose largest entry is meant.

    Raises
    ------
    TypeError, ValueError
        As the losses.
    """
    scores = _ops.as_floats(scores, "scores")
    target = _ops.as_target(target, scores)
    return _ops.count_correct(scores, target) / len(scores)
