"""Figures that describe a result and are not trained on.

A metric is any callable of `(scores, target)` that returns a number: scores (n, n_out) as the
network gives them, target as its loss takes it, labels (n,) of int64 or rows (n, n_out).
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from fastnet import _ops
from fastnet._convert import positive

__all__ = ["accuracy", "binary_accuracy", "get", "r2_score", "top_k_accuracy"]

Metric: TypeAlias = Callable[[Any, Any], float]


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
        As the losses; 0 rows.
    """
    return top_k_accuracy(scores, target, 1)


def top_k_accuracy(scores: Any, target: Any, k: int = 5) -> float:
    """Return the share of rows with one of their k largest scores where the target says.

    Parameters
    ----------
    scores, target
        As of `accuracy`.
    k : int
        At least 1. From the number of classes on the share is 1.

    Raises
    ------
    TypeError, ValueError
        As `accuracy`; a `k` that is no whole number or below 1.
    """
    k = positive(k, "k")
    scores = _ops.as_floats(scores, "scores")
    target = _ops.as_target(target, scores)
    if len(scores) == 0:
        raise ValueError("a mean over 0 rows is not defined")
    return _ops.count_correct(scores, target, min(k, scores.shape[1])) / len(scores)


def binary_accuracy(scores: Any, target: Any) -> float:
    """Return the share of entries with a score above 0 where the target is above 1/2, or neither.

    Parameters
    ----------
    scores : array_like (n, n_out)
        Raw scores, of independent answers; a probability of 1/2 has the score 0.
    target : array_like (n, n_out)

    Raises
    ------
    TypeError, ValueError
        Input that cannot be converted, shapes that differ, no entries.
    """
    scores, target = _pair(scores, target)
    same: float = _ops.count_same_side(scores, target) / scores.size
    return same


def r2_score(scores: Any, target: Any) -> float:
    """Return R2, the share of the target's variance that is explained; the mean over columns.

    `1 - sum (t - y)^2 / sum (t - mean of t)^2`: 1 for exact predictions, 0 for the mean. A column
    of equal targets counts 1 if all are met and else 0, as in scikit-learn.

    Parameters
    ----------
    scores, target : array_like (n, n_out)

    Raises
    ------
    TypeError, ValueError
        As `binary_accuracy`.
    """
    return _ops.r2_score(*_pair(scores, target))


def _pair(scores: Any, target: Any) -> tuple[Any, Any]:
    """Return scores and target rows in one dtype, as matrices."""
    scores = _ops.as_floats(scores, "scores")
    target = _ops.as_floats(target, "target", scores.dtype)
    if scores.ndim == 1:
        scores = scores.reshape(-1, 1)
    if target.ndim == 1:
        target = target.reshape(-1, 1)
    if scores.ndim != 2:
        raise ValueError(f"scores must have 2 dimensions, got {scores.ndim}")
    if target.shape != scores.shape:
        raise ValueError(f"target must have the shape of scores, {scores.shape}, "
                         f"got {target.shape}")
    if len(scores) == 0:
        raise ValueError("a mean over 0 rows is not defined")
    return scores, target


def get(metric: Any) -> tuple[str, Metric]:
    """Return name and function of a metric.

    Parameters
    ----------
    metric : str or callable
        "accuracy", "binary_accuracy", "r2_score", "top_5_accuracy" (with any number), or a
        callable, which goes by its `__name__` or its class's.

    Raises
    ------
    TypeError, ValueError
        Something else.
    """
    if isinstance(metric, str):
        if metric in NAMES:
            return metric, NAMES[metric]
        if found := re.fullmatch(r"top_([1-9]\d{0,8})_accuracy", metric):
            return metric, partial(top_k_accuracy, k=int(found[1]))
        raise ValueError("metrics must hold callables, 'top_5_accuracy' (with any number) or "
                         f"{', '.join(map(repr, NAMES))}, got {metric!r}")
    if not callable(metric):
        raise TypeError(f"metrics must hold names and callables, got {metric!r}")
    name = getattr(metric, "__name__", type(metric).__name__)
    if not isinstance(name, str):
        raise TypeError(f"metrics must have a str as __name__, got {name!r}")
    return name, metric


NAMES: dict[str, Metric] = {
    "accuracy": accuracy, "binary_accuracy": binary_accuracy, "r2_score": r2_score}
