"""How a network is trained: optimizer, loss and metrics, and steps with them."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sized
from copy import copy
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from fastnet import _engine, _ops
from fastnet import metrics as measures
from fastnet._convert import as_number, flag, whole
from fastnet._describe import describe
from fastnet._fitting import NOTHING, Portion, Samples, Tally, lazy_rows
from fastnet._ranks import Ranks
from fastnet.history import History
from fastnet.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    EntryLoss,
    Huber,
    Loss,
    MeanSquaredError,
    NegativeLogLikelihood,
    Poisson,
    SoftmaxCrossEntropy,
)
from fastnet.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop

LOSSES = {
    "softmax_cross_entropy": SoftmaxCrossEntropy,
    "cross_entropy": CrossEntropy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "negative_log_likelihood": NegativeLogLikelihood,
    "binary_cross_entropy": BinaryCrossEntropy,
    "huber": Huber,
    "poisson": Poisson,
}
OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "sgd": lambda: SGD(lr=0.01), "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}
_Pending: TypeAlias = tuple[float, list[np.ndarray]]     # what to divide by, and sums of gradients
CLASS_LOSSES = (SoftmaxCrossEntropy, CrossEntropy, NegativeLogLikelihood)


def objective_of(loss: Loss, dtype: np.dtype, **more: Any) -> _engine.Objective:
    """Return a built-in loss as the engine takes it; `more`: of `Objective`."""
    def floats(value: Any, name: str) -> np.ndarray | None:
        return None if value is None else _ops.as_floats(value, name, dtype)

    if isinstance(loss, EntryLoss):
        return _engine.Objective(
            loss.kind, dtype, loss.reduction == "mean", delta=loss.delta,
            pos_weight=floats(loss.pos_weight, "pos_weight"), **more)
    if isinstance(loss, (SoftmaxCrossEntropy, NegativeLogLikelihood)):
        kind = ("softmax_cross_entropy" if isinstance(loss, SoftmaxCrossEntropy)
                else "negative_log_likelihood")
        return _engine.Objective(
            kind, dtype, loss.reduction == "mean", floats(loss.weight, "weight"),
            ignore_index=loss.ignore_index, label_smoothing=loss.label_smoothing, **more)
    return _engine.Objective("cross_entropy", dtype, **more)


def foreign(value: Any, dtype: np.dtype) -> bool:
    """Return whether this is a memory map that only a copy would make fit."""
    return isinstance(value, np.memmap) and value.ndim > 1 and not (
        value.dtype == dtype and value.flags.c_contiguous and value.flags.aligned)


def _weights_of_classes(
    class_weight: Any, target: np.ndarray, n_classes: int | None, ignored: int | None,
    others: Ranks | None,
) -> list[float]:
    """Return the weight of each sample by its label; "balanced": by the labels of other ranks too.

    `n_classes`: None where only a loss of somebody's own knows the labels.
    """
    if target.ndim != 1:
        raise ValueError("class_weight needs labels, a vector, as target")
    if isinstance(class_weight, str) and class_weight == "balanced":
        labels, counts = np.unique(target, return_counts=True)
        own = dict(zip(labels.tolist(), counts.tolist(), strict=True))
        found: Counter[int] = Counter()
        for some in [own] if others is None else others.exchange(own):
            found.update(some)
        counted = {label: count for label, count in found.items() if label != ignored}
        number = sum(counted.values())
        class_weight = {label: number / (len(counted) * n) for label, n in counted.items()}
    if not isinstance(class_weight, dict):
        raise TypeError(f"class_weight must be a dict or 'balanced', got {class_weight!r}")
    if n_classes is not None:
        for label in class_weight:
            if not 0 <= whole(label, "a label of class_weight") < n_classes and label != ignored:
                raise ValueError(f"class_weight must have labels from 0 to {n_classes - 1}, "
                                 f"got {label!r}")
    weights = {label: as_number(weight, f"class_weight[{label!r}]")
               for label, weight in class_weight.items()}
    return [weights.get(label, 1.0) for label in target.tolist()]


def _columns(scores: np.ndarray) -> int:
    """Return how many outputs there are in a row, which layers of one's own may give as numbers."""
    return int(scores.shape[1]) if scores.ndim > 1 else 1


def _scale(weights: np.ndarray) -> float:
    """Return the power of 2 that a loss takes away from the weights of a batch."""
    balanced = _ops.sum_of_weights(_ops.balanced(weights))
    return _ops.sum_of_weights(weights) / balanced if balanced else 1.0


def _value(loss: Any, scores: np.ndarray, y: Any, weights: Any) -> float:
    """Return the loss; somebody's own may take no weights."""
    value: float = (loss.forward(scores, y) if weights is None
                    else loss.forward(scores, y, weights))
    return value


class Trainer:
    """What `Sequential.compile` was given, checked, and the steps that it takes.

    A network of built-in layers with a built-in loss and optimizer takes them in the engine, any
    other layer by layer.

    Attributes
    ----------
    optimizer : Optimizer
    loss : Loss
    metrics : dict
        Functions of scores and target by name.
    """

    def __init__(
        self, network: Any, optimizer: Any, loss: Any, metrics: Any, keep_gradients: bool
    ) -> None:
        if isinstance(optimizer, str):
            if optimizer.lower() not in OPTIMIZERS:
                raise ValueError(f"optimizer must be one of {', '.join(map(repr, OPTIMIZERS))} or "
                                 f"an optimizer, got {optimizer!r}")
            optimizer = OPTIMIZERS[optimizer.lower()]()
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be an optimizer or its name, got {optimizer!r}")
        if isinstance(loss, str):
            if loss not in LOSSES:
                raise ValueError(f"loss must be one of {', '.join(map(repr, LOSSES))}, "
                                 f"got {loss!r}")
            loss = LOSSES[loss]()
        if not isinstance(loss, Loss):
            raise TypeError(f"loss must be a loss or its name, got {loss!r}")
        if loss.reduction == "none":
            raise ValueError("a network needs one number to make smaller: reduction must be 'mean' "
                             "or 'sum', got 'none'")
        self._network = weakref.proxy(network)      # which holds this
        self._engine: _engine.Engine | None = network._engine
        self._use: _engine.Use = network._use
        self._dtype: np.dtype = network.dtype
        for name, weights in (("weight", getattr(loss, "weight", None)),
                              ("pos_weight", getattr(loss, "pos_weight", None))):
            if weights is not None and self._engine is not None:
                if len(weights) != self._engine.n_out:
                    raise ValueError(f"{name} must have {self._engine.n_out} entries, one for each "
                                     f"output, got {len(weights)}")
        self.optimizer: Optimizer = optimizer
        self.loss: Loss = loss
        if isinstance(metrics, str) or not isinstance(metrics, Iterable):
            raise TypeError(f"metrics must be a list, got {metrics!r}")
        self._given = list(metrics)
        self.metrics = self._named()
        self._counts = self.metrics.get("accuracy") in (         # on the way
            measures.accuracy, measures.binary_accuracy)
        self._keeps_gradients = flag(keep_gradients, "keep_gradients")
        built_in = type(loss) in LOSSES.values()
        self._objective = objective_of(loss, self._dtype) if built_in else None
        kind = type(optimizer)              # one of ours, or a variant with other numbers
        self._native = built_in and kind.step is Optimizer.step and kind._apply in (
            SGD._apply, Adam._apply, RMSprop._apply)
        # With the version of the optimizer and the states that they were made from.
        self._steps: tuple[int, _engine.Steps, Any] | None = None
        self._pending: _Pending | None = None     # layer by layer
        self.shared: Any = None             # the steps that it takes with other ranks

    def arguments(self) -> tuple[Any, ...]:
        """Return what makes another one like this, for a network."""
        return self.optimizer, self.loss, self._given, self._keeps_gradients

    def description(self) -> dict[str, Any]:
        """Return optimizer, loss and metrics in words; ValueError where they are not built in."""
        names = {function: name for name, function in measures.NAMES.items()}
        for metric in self._given:
            if not isinstance(metric, str) and metric not in names:
                raise ValueError(f"the metric {metric!r} cannot be saved, as it is not built in")
        return {"optimizer": describe(self.optimizer), "loss": describe(self.loss),
                "metrics": [metric if isinstance(metric, str) else names[metric]
                            for metric in self._given],
                "keep_gradients": self._keeps_gradients}

    def _named(self) -> dict[str, measures.Metric]:
        """Return the metrics by name, checked."""
        found: dict[str, measures.Metric] = {}
        for metric in self._given:
            name, function = measures.get(metric)
            if name in found:
                raise ValueError(f"metrics must hold each name once, but {name!r} came twice")
            if hasattr(History, name) or name in ("loss", "epoch") or name.startswith("val_"):
                raise ValueError(f"a metric cannot be called {name!r}")
            if function is measures.accuracy:
                if isinstance(self.loss, BinaryCrossEntropy):
                    function = measures.binary_accuracy
                elif isinstance(self.loss, EntryLoss):
                    raise ValueError("accuracy needs classes, which "
                                     f"{type(self.loss).__name__} does not have")
            found[name] = function
        return found

    # ---- Samples as they are taken -----------------------------------------------------------

    def samples(
        self, x: Any, y: Any, sample_weight: Any = None, others: Ranks | None = None
    ) -> Samples:
        """Return samples as they are taken in training, or with the means to get there.

        `others`: ranks whose samples count along with these, which may be none.
        """
        alone = others is None
        if not (foreign(x, self._dtype) or foreign(y, self._dtype)) or not len(x):
            portion = self.portion(None, x, y, sample_weight, others, alone)
            return Samples(portion.x, portion.y, portion.weights)
        if not foreign(x, self._dtype):
            x = self._inputs(x)
        if not (foreign(y, self._dtype) and len(y) == len(x)):      # labels: a few bytes a sample
            y = self._target(y, len(x), self._width(self._inputs(x[:1])))
        self.portion(None, x[:1], y[:1], None)         # what is wrong with one is told now
        return Samples(x, y, self._weights(sample_weight, len(y), alone), self._part)

    def by_class(
        self, samples: Samples, class_weight: Any, others: Ranks | None = None
    ) -> Samples:
        """Return samples that count by their classes too; `others`: as of `samples`."""
        weights = self._by_class(class_weight, samples.x, samples.y, samples.weights, others,
                                 others is None)
        return replace(samples, weights=weights)

    def _part(self, x: Any, y: Any, weights: np.ndarray | None) -> Portion:
        """Return some of the samples of a map, whose weights were checked with all others."""
        return self.batch(None, x, y, None)._replace(weights=weights)

    def batch(
        self, class_weight: Any, x: Any, y: Any, sample_weight: Any, others: Ranks | None = None
    ) -> Portion:
        """Return a batch from outside; a step layer by layer checks its target by the scores."""
        if self._engine is None and class_weight is None and others is None:
            x = self._inputs(x)
            return Portion(x, y, self._weights_of_batch(sample_weight, len(x), False))
        return self.portion(class_weight, x, y, sample_weight, others)

    def portion(
        self, class_weight: Any, x: Any, y: Any, sample_weight: Any, others: Ranks | None = None,
        alone: bool = False,
    ) -> Portion:
        """Return samples as the network takes them, checked; `alone`: as of `_weights`."""
        if others is not None and isinstance(x, Sized) and not len(x):
            return NOTHING
        x = self._inputs(x)
        y = self._target(y, len(x), self._width(x))
        weights = self._weights(sample_weight, len(y), alone)
        return Portion(x, y, self._by_class(class_weight, x, y, weights, others, alone))

    def _inputs(self, x: Any) -> np.ndarray:
        if self._engine is not None:
            return self._engine.inputs(x)
        found: np.ndarray = _ops.as_floats(x, "X", self._dtype)
        if found.ndim == 0:
            raise ValueError("X must have a row for each sample, got a single number")
        return found

    def _width(self, x: np.ndarray) -> int:
        """Return the number of outputs, which layers of somebody's own have to be asked for."""
        if self._engine is not None:
            return self._engine.n_out
        return _columns(self._network.predict(x[:1]))

    def _target(self, target: Any, n: int, n_out: int) -> np.ndarray:
        """Return the target of n samples as the losses take it, checked."""
        loss = self.loss
        if isinstance(loss, CLASS_LOSSES):
            ignored = getattr(loss, "ignore_index", None)
            found: np.ndarray = _ops.as_target(target, np.empty((0, n_out), self._dtype), ignored)
            _ops.check_target(found, n, n_out, self._dtype, ignored)
            return found
        rows: np.ndarray = _ops.as_floats(target, "target", self._dtype)
        if not isinstance(loss, EntryLoss):     # somebody's own, which knows what it takes
            return rows
        if n_out == 1 and rows.ndim == 1:
            rows = rows.reshape(-1, 1)
        if rows.shape != (n, n_out):
            raise ValueError(f"target must have shape {(n, n_out)}, got {rows.shape}")
        if n == 0:
            raise ValueError("a mean over 0 rows is not defined")
        loss.check(rows)
        return rows

    def _weights(
        self, given: Any, n: int, alone: bool, name: str = "sample_weight"
    ) -> np.ndarray | None:
        """Return the weights of n samples, checked; None if all count alike.

        `alone`: whether no others are added to these samples. The weights of a mean may come
        multiplied by a power of 2 then.
        """
        if given is None:
            return None
        if isinstance(self.loss, CrossEntropy):
            raise ValueError("CrossEntropy takes no weights; SoftmaxCrossEntropy does")
        weights: np.ndarray = _ops.as_floats(given, name, self._dtype)
        if weights.shape != (n,):
            raise ValueError(f"{name} must have shape {(n,)}, got {weights.shape}")
        _ops.check_weights(weights, name)
        return self._balanced(weights, alone, name)

    def _balanced(self, weights: np.ndarray, alone: bool, name: str) -> np.ndarray:
        """Return weights in a size that kernels can sum up."""
        if self.loss.reduction != "mean":
            return weights
        found: np.ndarray = _ops.balanced(weights)
        if not alone and found is not weights:      # the others would be scaled otherwise
            raise ValueError(f"the sum of {name} must lie between 2**-64 and 2**64 in each batch "
                             "that is added to others, of one's own or of other ranks")
        return found

    def _weights_of_batch(self, given: Any, n: int, alone: bool) -> Any:
        """Return the weights of a batch of a network that runs layer by layer.

        A loss of somebody's own knows what it takes.
        """
        return given if self._objective is None else self._weights(given, n, alone)

    def _by_class(
        self, class_weight: Any, x: Any, y: np.ndarray, weights: np.ndarray | None,
        others: Ranks | None, alone: bool,
    ) -> np.ndarray | None:
        """Return the weights of samples times those of their classes."""
        if class_weight is None:
            return weights
        n_classes = None
        if isinstance(self.loss, CLASS_LOSSES) and len(x):
            n_classes = self._width(self._inputs(x[:1]))
        ignored = getattr(self.loss, "ignore_index", None)
        by_class: Any = self._weights(
            _weights_of_classes(class_weight, y, n_classes, ignored, others), len(y), alone,
            "class_weight")
        if weights is not None:
            name = "sample_weight times class_weight"
            product = _ops.scale_rows(weights, by_class)
            _ops.check_weights(product, name)
            lost = (product == 0) & (weights > 0) & (by_class > 0)
            if lost.any():
                raise ValueError(f"{name} is too small for {self._dtype} at sample {lost.argmax()}")
            by_class = self._balanced(product, alone, name)
        found: np.ndarray = by_class
        return found

    # ---- Steps -------------------------------------------------------------------------------

    def step(self, x: Any, y: Any, sample_weight: Any, update: bool) -> float:
        """Take one step on a batch, and return its mean loss: `Sequential.train_step`."""
        with self._use.training:
            waits = self._pending is not None or self._engine is not None and self._engine.pending
            alone = update and not waits
            if self._engine is None or not self._native:
                if sample_weight is not None:
                    x = self._inputs(x)
                    sample_weight = self._weights_of_batch(sample_weight, len(x), alone)
                return self._step_by_layers(x, y, sample_weight, "", update)[0]
            x = self._engine.inputs(x)
            target = self._target(y, len(x), self._engine.n_out)
            sample_weight = self._weights(sample_weight, len(x), alone)
            assert self._objective is not None
            outcome, _, value, *_ = self._engine.train(
                x, target, sample_weight, self._objective, len(x), None, False,
                self._keeps_gradients, self._steps_of(1), update)
            if outcome != "fine":
                raise self.failure(outcome, value, "")
            return value

    @property
    def runs_epochs(self) -> bool:
        """Whether many steps can be taken by one call."""
        return self._engine is not None and self._native

    def tally(self) -> Tally:
        return Tally(self.metrics, self._counts)

    def train_on(
        self, portion: Portion, batch_size: int, place: str, number: int, tally: Tally,
        update: bool,
    ) -> float:
        """Take a step per batch of a portion; return the last loss. `number`: of the portion."""
        x, y, weights, order = portion
        n = len(x) if order is None else len(order)
        if n == 0:
            raise ValueError("a mean over 0 rows is not defined")
        scores = None
        if not self.runs_epochs:
            if order is not None:
                x, y = x[order], y[order]
                weights = None if weights is None else weights[order]
            value, scores, y, weights = self._step_by_layers(
                x, y, weights, f"{place}, step {number + 1}", update)
            self._count(tally, value, scores, y, weights)
            return value
        assert self._engine is not None and self._objective is not None
        if tally.keeps_scores:
            scores = np.empty((n, self._engine.n_out), self._dtype)
        outcome, step, value, total, shares, correct = self._engine.train(
            x, y, weights, self._objective, batch_size, order, self._counts,
            self._keeps_gradients, self._steps_of(-(-n // batch_size)), update, scores)
        if outcome != "fine":
            raise self.failure(outcome, value, f"{place}, step {number + step}")
        if order is not None and (
                scores is not None or getattr(self.loss, "ignore_index", None) is not None):
            y = y[order]
        tally.add(total, shares, correct, self._answers(y, n))
        if scores is not None:
            tally.keep(*self._of_interest(scores, y))
        return value

    def apply_pending(self, place: str) -> None:
        """Update by the gradients that were gathered, if there are any."""
        if self.runs_epochs:
            assert self._engine is not None and self._objective is not None
            outcome = self._engine.apply_pending(
                self._objective, self._keeps_gradients, self._steps_of(1))
            if outcome != "fine":
                raise self.failure(outcome, math.nan, place)
        elif self._pending is not None:
            self._update_by_layers(self._pending, 0.0, place)

    def waiting(self) -> tuple[np.ndarray, float]:
        """Return the gradients that wait as a vector of sums, and what they are to be divided by.

        Zeros, where none wait. Behind them are 16 entries that are the caller's.
        """
        if self.runs_epochs:
            assert self._engine is not None
            return self._engine.waiting()
        if self._pending is None:
            self._pending = 0.0, [
                np.zeros_like(gradient) for _, _, gradient in self._network.parameters()]
        total, sums = self._pending
        return np.concatenate([*map(np.ravel, sums), np.zeros(16, self._dtype)]), total

    def take_waiting(self, sums: np.ndarray, total: float) -> None:
        """Let such a vector wait instead, the same one where it is changed."""
        if self.runs_epochs:
            assert self._engine is not None
            self._engine.divide_waiting(total)
            return
        assert self._pending is not None
        start = 0
        for own in self._pending[1]:
            own[...] = sums[start:start + own.size].reshape(own.shape)
            start += own.size
        self._pending = total, self._pending[1]

    def reported(self, total: float, shares: float, rows: float) -> tuple[float, float]:
        """Return what a step adds to an epoch's mean: of its losses, and what that divides by."""
        return total, shares

    def forget_pending(self) -> None:
        """Drop the gradients that were gathered."""
        self._pending = None
        if self._engine is not None:
            self._engine.forget_pending()

    def _step_by_layers(
        self, x: Any, y: Any, weights: Any, place: str, update: bool = True
    ) -> tuple[float, np.ndarray, Any, Any]:
        """Take a step by calling each layer; return the loss, the scores, target and weights."""
        loss = self.loss
        with self._use.exclusive:
            before, steps = self._network._remembered(), self.optimizer.steps
            try:
                scores = self._network.forward(x)
                if y is not None and loss.__class__ in LOSSES.values():
                    y = self._target(y, len(scores), _columns(scores))
                value = _value(loss, scores, y, weights)
                if not math.isfinite(value):
                    self._pending = None
                    raise self.failure("loss", value, place)
                self._network.backward(loss.backward())
                pending = self._pending
                if pending is not None or not update:
                    pending = self._gathered(
                        self._share(scores, y, weights) if loss.reduction == "mean" else 1.0)
                if update:
                    self._update_by_layers(pending, value, place)
                else:
                    self._pending = pending
            except BaseException:
                if self.optimizer.steps == steps:       # not applied: nothing was seen of it
                    self._network._put_back(before)
                raise
        return value, scores, y, weights

    def _gathered(self, share: float) -> _Pending:
        """Return the sums with the layers' gradients, times what their mean was divided by."""
        before, sums = self._pending or (0.0, [])
        gradients = [_ops.scale_forward(gradient, share)
                     for _, _, gradient in self._network.parameters()]
        return before + share, [
            _ops.add_forward(*pair) for pair in zip(sums, gradients, strict=True)
        ] if sums else gradients

    def _update_by_layers(self, pending: _Pending | None, value: float, place: str) -> None:
        """Update by the gradients on the layers, or by those that were gathered."""
        if pending is not None:
            total, sums = pending
            factor = 1 / total if total and self.loss.reduction == "mean" else 1.0
            for (_, _, gradient), gathered in zip(self._network.parameters(), sums, strict=True):
                gradient[...] = _ops.scale_forward(gathered, factor)
        if self._keeps_gradients and not all(
                np.isfinite(gradient).all() for _, _, gradient in self._network.parameters()):
            self._pending = None
            raise self.failure("gradient", value, place)
        # Forgotten before, as nothing may come between the step and that.
        waiting, steps = self._pending, self.optimizer.steps
        self._pending = None
        try:
            self.optimizer.step(self._network.layers)
        except BaseException:
            if _ops.counts(self.optimizer.taken, steps):
                self._pending = waiting
            raise
        if not all(np.isfinite(values).all() for _, values, _ in self._network.parameters()):
            raise self.failure("parameter", value, place)

    def failure(self, outcome: str, value: float, place: str) -> Exception:
        """Return what to raise where a step did not go well."""
        if outcome == "label":
            return ValueError("target changed while it was in use")
        if outcome == "probability":
            return ValueError("CrossEntropy takes probabilities, in [0, 1], but the network gives "
                              "others; for raw scores there is SoftmaxCrossEntropy")
        if outcome == "parameter":
            return FloatingPointError(f"the update{place} made parameters infinite or NaN; "
                                      "a smaller lr may help")
        if outcome == "gradient":
            return FloatingPointError(f"the gradient is not finite{place}, and the step was not "
                                      "applied; a smaller lr may help")
        if self._engine is not None and not self._engine.finite():
            return FloatingPointError(f"the loss is {value}{place}, because parameters are "
                                      "infinite or NaN; the step was not applied")
        return FloatingPointError(f"the loss is {value}{place}, and the step was not applied; "
                                  "a smaller lr may help")

    def _steps_of(self, steps: int) -> _engine.Steps:
        """Return the optimizer for the next steps, with its states in buffers like the parameters'.
        """
        optimizer, known = self.optimizer, self._steps
        rates = None if optimizer.constant else optimizer.rates(steps)  # schedules may set options
        if known is not None and known[0] == optimizer.version:
            if rates is not None:
                known[1].rates = rates
            return known[1]
        operations = self._network._operations
        uses, size = optimizer._uses, operations.size
        old: tuple[Any, ...] = (None,) * 3
        if known is not None and known[2] is optimizer._states:     # else there are others
            old = known[1].states
        first, second, third = states = tuple(
            None if not used else buffer if buffer is not None
            else _engine.aligned_zeros(size, self._dtype)
            for used, buffer in zip(uses, old, strict=True))
        if any(new is not before for new, before in zip(states, old, strict=True)):
            views = [None if buffer is None else operations.views(buffer) for buffer in states]
            for index, (layer, places) in enumerate(operations.weighted):
                optimizer._keep(layer, [
                    tuple(None if view is None else view[index][i]      # type: ignore[misc]
                          for view in views)
                    for i in range(len(places))])
        found = _engine.Steps(
            optimizer.rule, (first, second, third),
            optimizer.rates(steps) if rates is None else rates,
            math.inf if optimizer.clip_value is None else optimizer.clip_value,
            math.inf if optimizer.clip_norm is None else optimizer.clip_norm,
            optimizer.decay_vectors, optimizer.taken, **optimizer.numbers())
        self._steps = optimizer.version, found, optimizer._states
        return found

    # ---- What is measured --------------------------------------------------------------------

    def measure(self, samples: Samples) -> Tally:
        """Return what there is to say about samples."""
        tally = self.tally()
        rows = len(samples) if samples.prepare is None else lazy_rows(samples.x)
        with self._use:                     # all of them with the same parameters
            for x, y, weights, _ in samples.portions(max(1, rows)):
                self._measure_some(x, y, weights, tally)
        return tally

    def _measure_some(
        self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, tally: Tally
    ) -> None:
        if self._engine is None or self._objective is None:
            scores = self._network.predict(x)
            self._count(tally, _value(copy(self.loss), scores, y, weights), scores, y, weights)
            return
        kept = np.empty((len(x), self._engine.n_out), self._dtype) if tally.keeps_scores else None
        outcome, total, shares, correct = self._engine.evaluate(
            x, y, weights, self._objective, self._counts, kept)
        if outcome != "fine":
            raise self.failure(outcome, math.nan, "")
        tally.add(total, shares, correct, self._answers(y, len(x)))
        if kept is not None:
            tally.keep(*self._of_interest(kept, y))

    def _count(
        self, tally: Tally, value: float, scores: np.ndarray, y: np.ndarray,
        weights: np.ndarray | None,
    ) -> None:
        """Count a portion whose loss came from the layers, a sum as that of single samples."""
        share = self._share(scores, y, weights)
        tally.add(value * (share if self.loss.reduction == "mean" else 1), share,
                  self._right_answers(scores, y) if self._counts else 0,
                  self._answers(y, len(scores)))
        if tally.keeps_scores:
            tally.keep(*self._of_interest(scores, y))

    def _answers(self, y: np.ndarray, n: int) -> int:
        """Return how many of n rows' answers accuracy counts: not those whose label is ignored."""
        if not self._counts:
            return 0
        if self.metrics["accuracy"] is measures.binary_accuracy:
            return n * int(y.shape[1])
        ignored = getattr(self.loss, "ignore_index", None)
        return n if ignored is None or y.ndim > 1 else int((y != ignored).sum())

    def _of_interest(self, scores: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and targets of the rows whose label is not ignored."""
        ignored = getattr(self.loss, "ignore_index", None)
        if ignored is None or y.ndim > 1:
            return scores, y
        return scores[y != ignored], y[y != ignored]

    def _share(self, scores: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> float:
        """Return what the mean over a batch divides by, as often as an epoch's mean needs."""
        loss = self.loss
        if loss.reduction != "mean":
            return len(y)
        if isinstance(loss, (SoftmaxCrossEntropy, NegativeLogLikelihood)) and (
                weights is not None or not loss.is_plain):
            share = loss.rows(y, scores, weights)[1]
            return share if weights is None else share * _scale(weights)
        return len(y) if weights is None else _ops.sum_of_weights(weights)

    def _right_answers(self, scores: np.ndarray, y: np.ndarray) -> int:
        """Return how many answers are right; those whose label is ignored are not."""
        scores, y = self._of_interest(scores, y)
        if self.metrics["accuracy"] is measures.binary_accuracy:
            return _ops.count_same_side(scores, y)
        return round(measures.accuracy(scores, y) * len(y)) if len(y) else 0
