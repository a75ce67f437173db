"""Losses: one kernel call gives the loss of the samples and its gradient.

`forward(y, target, sample_weight=None)` keeps the gradient, which `backward()` hands over once.
With `reduction="mean"` it returns the mean as a Python float, with "sum" the sum; with "none" an
array of losses, and `backward` takes the gradient by these.

Where classes are meant, a target is one of

* labels: a vector (n,) of whole numbers 0 .. n_classes - 1 (bool for two classes);
* rows: a matrix (n, n_classes) of weights, finite and at least 0: one-hot or soft. A weight of 0
  contributes 0, whatever the score.

A sample that does not count (its weight is 0, or that of its class, or its label is ignored, or all
of its row is 0) has the loss and the gradient 0, whatever its scores.

A weighted mean is `sum(w * l) / sum(w)`, and 0 where all weights are 0.

What a loss was made with can be read from it, and not be changed: a compiled network has read it.
"""

from typing import Any

import numpy as np

from fastnet import _ops
from fastnet._convert import whole, within

__all__ = ["BinaryCrossEntropy", "CrossEntropy", "Huber", "Loss", "MeanSquaredError",
           "NegativeLogLikelihood", "Poisson", "SoftmaxCrossEntropy"]


class Loss:
    """Base of the losses: the gradient that one backward hands over.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
        Anything else: ValueError.
    """

    _reduction = "mean"
    _gradient: np.ndarray | None = None
    _loss_dimensions = 1        # of the losses with "none"; 0: as many as the scores

    def __init__(self, reduction: str = "mean") -> None:
        if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
        self._reduction = reduction

    @property
    def reduction(self) -> str:
        """What becomes of the losses of a batch."""
        return self._reduction

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and copy what lasts, not the gradient of a batch."""
        return {name: value for name, value in vars(self).items() if name != "_gradient"}

    def backward(self, dloss: Any = None) -> np.ndarray:
        """Return the gradient of the last forward's loss, in the shape and dtype of its `y`.

        Parameters
        ----------
        dloss : array_like, optional
            Gradient by the losses that forward returned, with `reduction="none"`: needed there, and
            for nothing else.

        Raises
        ------
        RuntimeError
            No forward since the last backward.
        TypeError, ValueError
            A `dloss` that is missing, not asked for, or of another shape.
        """
        gradient = self._gradient
        if gradient is None:
            raise RuntimeError(f"{type(self).__name__}.backward needs a forward before it, "
                               "and can be called once for each")
        if self._reduction == "none" or dloss is not None:
            if self._reduction != "none":
                raise TypeError("backward takes a gradient by the losses with reduction='none' "
                                "alone")
            if dloss is None:
                raise TypeError("backward needs the gradient by the losses with reduction='none'")
            dloss = _ops.as_floats(dloss, "dloss", gradient.dtype)
            if dloss.shape != gradient.shape[:self._loss_dimensions or gradient.ndim]:
                raise ValueError("dloss must have the shape of the losses, "
                                 f"{gradient.shape[:self._loss_dimensions or gradient.ndim]}, "
                                 f"got {dloss.shape}")
            gradient = _ops.scale_rows(gradient, dloss)
        self._gradient = None
        return gradient

    def _sample_weights(self, given: Any, scores: np.ndarray) -> np.ndarray:
        """Return the weights of samples, checked, in the dtype of the scores.

        For a mean they may come multiplied by a power of 2, so that none gets lost on the way.
        """
        weights: np.ndarray = _ops.as_floats(given, "sample_weight", scores.dtype)
        if weights.shape != scores.shape[:1]:
            raise ValueError(f"sample_weight must have shape {scores.shape[:1]}, "
                             f"got {weights.shape}")
        _ops.check_weights(weights, "sample_weight")
        return _ops.balanced(weights) if self._reduction == "mean" else weights

    def _options(self) -> dict[str, Any]:
        """Return what differs from the defaults, by name."""
        return {"reduction": self.reduction} if self.reduction != "mean" else {}

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._options().items())
        return f"{type(self).__name__}({options})"


class _ClassLoss(Loss):
    """Base of the losses over classes that take weights."""

    def __init__(
        self,
        reduction: str = "mean",
        *,
        weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction)
        self._weight = None if weight is None else _class_weights(weight, "weight")
        self._ignore_index = None if ignore_index is None else whole(ignore_index, "ignore_index")
        if self._ignore_index is not None and not -2**63 <= self._ignore_index < 2**63:
            raise ValueError("ignore_index must be in the interval [-2**63, 2**63), "
                             f"got {ignore_index}")
        self._label_smoothing = within(label_smoothing, "label_smoothing", "[0, 1]")
        # Whether every sample and class counts alike, and its label alone.
        self.is_plain = weight is None and ignore_index is None and not self._label_smoothing
        self._is_usual = self.is_plain and reduction == "mean"

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a pickle or a copy, whose array can be written to."""
        vars(self).update(state)
        self._weight = _constant(self._weight)

    @property
    def weight(self) -> np.ndarray | None:
        """Weight of each class; read-only."""
        return self._weight

    @property
    def ignore_index(self) -> int | None:
        """The label that does not count."""
        return self._ignore_index

    @property
    def label_smoothing(self) -> float:
        """Share of a row's weight that is spread over all classes."""
        return self._label_smoothing

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        if self.weight is not None:
            options["weight"] = self.weight.tolist()
        if self.ignore_index is not None:
            options["ignore_index"] = self.ignore_index
        if self.label_smoothing:
            options["label_smoothing"] = self.label_smoothing
        return options

    def rows(
        self, target: Any, scores: np.ndarray, sample_weight: Any
    ) -> tuple[np.ndarray, float]:
        """Return target, weights and smoothing as rows of weights, and what a mean divides by."""
        if sample_weight is not None:
            sample_weight = self._sample_weights(sample_weight, scores)
        weight = self.weight
        if weight is not None:
            weight = _ops.as_floats(weight, "weight", scores.dtype)
        target = _ops.as_target(target, scores, self.ignore_index)
        if len(target) != len(scores):
            raise ValueError(f"target must have {len(scores)} rows, got {len(target)}")
        return _ops.target_rows(
            target, scores.shape[1], scores.dtype, sample_weight, weight, self.label_smoothing,
            self.ignore_index)


def _class_weights(weights: Any, name: str) -> np.ndarray:
    """Return a vector of weights, at least one, finite and at least 0."""
    found: np.ndarray = _ops.as_floats(weights, name, np.dtype("float64"))
    if found.ndim != 1 or not len(found):
        raise ValueError(f"{name} must be a vector, got shape {found.shape}")
    _ops.check_weights(found, name)
    constant: np.ndarray = _constant(found)
    return constant


def _constant(array: Any) -> Any:
    """Return a copy that cannot be written to, or None."""
    if array is not None:
        array = array.copy()
        array.flags.writeable = False
    return array


class SoftmaxCrossEntropy(_ClassLoss):
    """Cross-entropy of the softmax of raw scores, in one exact step.

    Per row `l = sum_j t_j (logsumexp(x) - x_j)`, and with the sum s of the row's weights
    `dl/dx = s softmax(x) - t` (exercise D); the mean over n rows divides both by n.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
    weight : array_like (n_classes,), optional
        Of each class: a label's loss is multiplied by it, and the mean divides by the sum of the
        labels' weights. For rows of weights the classes' terms are multiplied, and the mean divides
        by the number of rows (or the sum of the samples' weights). Both as PyTorch does it.
    ignore_index : int, optional
        A label that does not count.
    label_smoothing : float
        In [0, 1]: this share of a row's weight is spread over all classes evenly (Szegedy et al.,
        2016).

    Raises
    ------
    TypeError, ValueError
        Another reduction, weights that are negative or not finite, a smoothing outside [0, 1].
    """

    def forward(self, logits: Any, target: Any, sample_weight: Any = None) -> Any:
        """Return the loss of scores `logits` (n, n_classes); with "none" an array (n,).

        Raises
        ------
        TypeError, ValueError
            Input that cannot be converted, shapes that do not fit, 0 rows, labels out of range,
            weights that are negative or not finite.
        """
        logits = _ops.as_floats(logits, "logits")
        if self._is_usual and sample_weight is None:
            target = _ops.as_target(target, logits)
            loss, self._gradient = _ops.softmax_cross_entropy(logits, target)
            return loss
        if self.is_plain and sample_weight is None:
            target = _ops.as_target(target, logits)
        else:
            _check_matrix(logits, "logits")
            target, total = self.rows(target, logits, sample_weight)
            if self._reduction == "mean":
                loss, self._gradient = _ops.softmax_cross_entropy(logits, target, total=total)
                return loss
        losses = np.empty(len(logits), logits.dtype) if self._reduction == "none" else None
        loss, self._gradient = _ops.softmax_cross_entropy(
            logits, target, total=1.0, losses=losses)
        return loss if losses is None else losses


class NegativeLogLikelihood(_ClassLoss):
    """Cross-entropy of logarithms of probabilities, as the `LogSoftmax` layer gives them.

    Per row `l = -sum_j t_j x_j` and `dl/dx = -t`; the mean over n rows divides both by n.

    Parameters
    ----------
    reduction, weight, ignore_index
        As of `SoftmaxCrossEntropy`.

    Raises
    ------
    TypeError, ValueError
        As `SoftmaxCrossEntropy`.
    """

    def __init__(
        self, reduction: str = "mean", *, weight: Any = None, ignore_index: int | None = None
    ) -> None:
        super().__init__(reduction, weight=weight, ignore_index=ignore_index)

    def forward(self, logp: Any, target: Any, sample_weight: Any = None) -> Any:
        """Return the loss of logarithms `logp` (n, n_classes); with "none" an array (n,).

        Raises
        ------
        TypeError, ValueError
            As `SoftmaxCrossEntropy.forward`.
        """
        logp = _ops.as_floats(logp, "logp")
        _check_matrix(logp, "logp")
        target, total = self.rows(target, logp, sample_weight)
        losses = np.empty(len(logp), logp.dtype) if self._reduction == "none" else None
        loss, self._gradient = _ops.negative_log_likelihood(
            logp, target, total=total if self._reduction == "mean" else 1.0, losses=losses)
        return loss if losses is None else losses


def _check_matrix(scores: np.ndarray, name: str) -> None:
    if scores.ndim != 2:
        raise ValueError(f"{name} must have 2 dimensions, got {scores.ndim}")


class CrossEntropy(Loss):
    """Cross-entropy of probabilities, as the `Softmax` layer gives them.

    Per row `l = -sum_j t_j log(p_j)` and `dl/dp = -t / p` (exercises B and D); the mean over n rows
    divides both by n.
    A probability of 0 under a positive weight is an infinite loss: `SoftmaxCrossEntropy` on raw
    scores has no such edge, and takes weights.
    """

    def __init__(self) -> None:
        super().__init__()

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


class EntryLoss(Loss):
    """Base of the losses that are a sum over entries; the kernel calls them by a kind."""

    kind = ""
    _delta = 1.0
    _pos_weight: np.ndarray | None = None
    _loss_dimensions = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a pickle or a copy; in older versions these two could be assigned."""
        vars(self).update(state)
        self._delta = vars(self).pop("delta", self._delta)
        self._pos_weight = _constant(vars(self).pop("pos_weight", self._pos_weight))

    @property
    def delta(self) -> float:
        """Up to where `Huber` squares."""
        return self._delta

    @property
    def pos_weight(self) -> np.ndarray | None:
        """What a yes counts in each column, in `BinaryCrossEntropy`; read-only."""
        return self._pos_weight

    def check(self, target: np.ndarray) -> None:
        """ValueError for a target that this loss cannot have."""

    def forward(self, y: Any, target: Any, sample_weight: Any = None) -> Any:
        """Return the loss; with "none" an array in the shape of `y`.

        Parameters
        ----------
        y : array_like (n, ...)
        target : array_like, shape of y
            Nothing is broadcast.
        sample_weight : array_like (n,), optional
            Each at least 0: the mean is `sum(w * l) / sum(w)`, each w counted for each entry.

        Raises
        ------
        TypeError, ValueError
            Input that cannot be converted, shapes that differ, no entries, weights that are
            negative or not finite, a target that the loss cannot have.
        """
        y = _ops.as_floats(y, "y")
        target = _ops.as_floats(target, "target", y.dtype)
        if target.shape != y.shape:
            raise ValueError(f"target must have the shape of y, {y.shape}, got {target.shape}")
        self.check(target)
        if y.size == 0:
            raise ValueError("a mean over 0 entries is not defined")
        if self.pos_weight is not None and y.ndim != 2:
            raise ValueError(f"y must have 2 dimensions where there is a pos_weight, got {y.ndim}")
        total: float | None = None
        if sample_weight is not None:
            if y.ndim == 0:
                raise ValueError("y must have at least 1 dimension where there is a "
                                 "sample_weight, got 0")
            sample_weight = self._sample_weights(sample_weight, y)
            total = _ops.sum_of_weights(sample_weight) * (y.size // len(y))
        shape = y.shape
        if sample_weight is not None and y.ndim > 2:
            y, target = y.reshape(len(y), -1), target.reshape(len(y), -1)
        losses = np.empty(y.shape, y.dtype) if self._reduction == "none" else None
        pos_weight = self.pos_weight
        if pos_weight is not None:
            pos_weight = _ops.as_floats(pos_weight, "pos_weight", y.dtype)
        loss, self._gradient = _ops.entry_losses(
            y, target, self.kind, sample_weight, pos_weight, self.delta,
            total if self._reduction == "mean" else 1.0, losses=losses)
        self._gradient = self._gradient.reshape(shape)
        return loss if losses is None else losses.reshape(shape)


class MeanSquaredError(EntryLoss):
    """Mean over all entries of `(y - target)^2`; gradient `2 (y - target) / size`.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
    """

    kind = "mean_squared_error"


class BinaryCrossEntropy(EntryLoss):
    """Cross-entropy of the sigmoid of raw scores, for one or many yes-or-no questions a row.

    Per entry, with `s(x) = 1 / (1 + exp(-x))` and the class's weight p:
    `l = -p t log(s(x)) - (1 - t) log(1 - s(x))`, exact for scores of any size, and
    `dl/dx = (1 - t) s(x) - p t s(-x)`. The mean is over all entries.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
    pos_weight : array_like (n_out,), optional
        p: what a yes counts in each column; the mean does not divide by it, as in PyTorch.

    Raises
    ------
    TypeError, ValueError
        Another reduction, weights that are negative or not finite.
    """

    kind = "binary_cross_entropy"

    def __init__(self, reduction: str = "mean", *, pos_weight: Any = None) -> None:
        super().__init__(reduction)
        if pos_weight is not None:
            self._pos_weight = _class_weights(pos_weight, "pos_weight")

    def check(self, target: np.ndarray) -> None:
        """ValueError for NaN and entries outside [0, 1]."""
        _ops.check_probabilities(target, "target")

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        if self.pos_weight is not None:
            options["pos_weight"] = self.pos_weight.tolist()
        return options


class Huber(EntryLoss):
    """Squared error near 0, absolute error far from it (Huber, 1964).

    With `d = y - target`: `l = d^2 / 2` where `|d| <= delta`, else `delta (|d| - delta / 2)`;
    `dl/dy = d`, but no farther from 0 than delta. The mean is over all entries.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
    delta : float
        Positive, else ValueError.
    """

    kind = "huber"

    def __init__(self, reduction: str = "mean", *, delta: float = 1.0) -> None:
        super().__init__(reduction)
        self._delta = within(delta, "delta", "(0, inf)")

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), **({"delta": self.delta} if self.delta != 1 else {})}


class Poisson(EntryLoss):
    """Negative log-likelihood of counts, whose expected number is the exponential of the score.

    `l = exp(y) - target * y`, without the term of the target alone; `dl/dy = exp(y) - target`. The
    mean is over all entries.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
    """

    kind = "poisson"

    def check(self, target: np.ndarray) -> None:
        """ValueError for entries that are negative or not finite."""
        _ops.check_weights(target, "target")
