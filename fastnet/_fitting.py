"""The loop of `Sequential.fit`: epochs, their batches, callbacks, and what is measured.

The network's trainer is asked for steps on a portion of the samples, and to measure others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastnet._convert import set_random_state
from fastnet.callbacks import Callback, Checkpoint, methods_called
from fastnet.history import History
from fastnet.metrics import Metric

LAZY_ENTRIES = 2**20    # of a memory map that are converted at a time, where nothing is trained


def lazy_rows(x: np.ndarray) -> int:
    """Return how many rows of a memory map these are."""
    return max(1, LAZY_ENTRIES * len(x) // max(1, x.size))


class Portion(NamedTuple):
    """Rows to train on or to measure by one call, as the network takes them."""

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None
    order: np.ndarray | None = None     # which rows to take; None: all


NOTHING = Portion(np.empty((0, 1)), np.empty(0, np.intp), None)
Prepare: TypeAlias = Callable[[Any, Any, Any], Portion]     # from x, y and weights


@dataclass
class Samples:
    """Samples with targets and weights, checked.

    With `prepare` they lie in a memory map of another type, and are converted some rows at a time.
    Arrays are views of the caller's, whose shape and dtype may change while a fit goes on.
    """

    x: Any
    y: Any
    weights: np.ndarray | None
    prepare: Prepare | None = None

    def __post_init__(self) -> None:
        self.x, self.y = self.x[:], self.y[:]
        if self.weights is not None:
            self.weights = self.weights[:]

    def __len__(self) -> int:
        return len(self.x)

    def part(self, rows: slice) -> Samples:
        """Return some of them."""
        return Samples(self.x[rows], self.y[rows],
                       None if self.weights is None else self.weights[rows], self.prepare)

    def split(self, share: float) -> tuple[Samples, Samples]:
        """Return the first samples, and the last ones, which are this share of all."""
        n = len(self)
        kept = n - round(n * share)
        if n and not 0 < kept < n:
            raise ValueError(f"validation_split {share} leaves no sample of {n} on one side")
        return self.part(slice(0, kept)), self.part(slice(kept, n))

    def portions(
        self, rows: int, order: np.ndarray | None = None,
        share: Callable[[int], slice] | None = None,
    ) -> Iterator[Portion]:
        """Yield all of them in their order, up to so many rows at a time.

        `share`: which part of so many rows to yield; None: all.
        """
        for start in range(0, len(self), rows):
            end = min(start + rows, len(self))
            if share is not None:
                part = share(end - start)
                start, end = start + part.start, start + part.stop
            chosen: Any = slice(start, end)
            if start == end:
                yield NOTHING
                continue
            if order is not None:
                chosen = order[chosen]
                if self.prepare is None:            # the engine gathers them
                    yield Portion(self.x, self.y, self.weights, chosen)
                    continue
            some = (self.x[chosen], self.y[chosen],
                    None if self.weights is None else self.weights[chosen])
            yield Portion(*some) if self.prepare is None else self.prepare(*some)


class Batches:
    """Batches from anything that can be iterated, for one epoch after the other.

    Parameters
    ----------
    source : iterable of (x, y) or (x, y, sample_weight)
    steps : int or None
        Batches of an epoch; None: all that there are.
    prepare : callable
    empty : bool
        Whether an epoch may be without any batch.
    """

    def __init__(
        self, source: Iterable[Any], steps: int | None, prepare: Prepare, empty: bool = False
    ) -> None:
        self._source, self._steps, self._prepare = source, steps, prepare
        self._empty = empty
        self._iterator: Iterator[Any] | None = None

    @property
    def ends(self) -> bool:
        """Whether there is one epoch only: an iterator cannot be gone through twice."""
        return self._steps is None and isinstance(self._source, Iterator)

    def epoch(self) -> Iterator[Portion]:
        """Yield the batches of the next epoch; ValueError where there are none, or too few."""
        if self._steps is None:
            found = 0
            for found, batch in enumerate(self._source, 1):
                yield self._portion(batch, found)
            if not (found or self._empty):
                raise ValueError("x gave no batch")
            return
        for number in range(1, self._steps + 1):
            yield self._portion(self._next(number), number)

    def _next(self, number: int) -> Any:
        for again in (True, False):
            if self._iterator is None:
                self._iterator = iter(self._source)
            for batch in self._iterator:
                return batch
            self._iterator = None
            if not again or isinstance(self._source, Iterator):
                break
        raise ValueError(f"x has no more batches at step {number} of {self._steps}")

    def _portion(self, batch: Any, number: int) -> Portion:
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise TypeError("x must give batches (x, y) or (x, y, sample_weight), but batch "
                            f"{number} is {type(batch).__name__}")
        return self._prepare(batch[0], batch[1], batch[2] if len(batch) > 2 else None)


class Tally:
    """What is measured over an epoch or a set of samples, portion by portion.

    Parameters
    ----------
    metrics : dict
        By name.
    counts : bool
        Whether "accuracy" is counted on the way, in `correct` of `answers`.

    Attributes
    ----------
    keeps_scores : bool
        Whether there are metrics that need all scores.
    """

    def __init__(self, metrics: dict[str, Metric], counts: bool) -> None:
        self.metrics, self.counts = metrics, counts
        self.keeps_scores = len(metrics) > counts
        self.total = self.shares = 0.0
        self.correct = self.answers = 0
        self.scores: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []

    def add(self, total: float, shares: float, correct: int, answers: int) -> None:
        """Count a portion."""
        self.total += total
        self.shares += shares
        self.correct += correct
        self.answers += answers

    def keep(self, scores: np.ndarray, targets: np.ndarray) -> None:
        """Keep a portion's scores, as they are now."""
        self.scores.append(scores.copy())
        self.targets.append(targets.copy())

    @property
    def loss(self) -> float:
        """The mean; 0 where nothing counts."""
        return self.total / self.shares if self.shares else 0.0

    def figures(self) -> dict[str, float]:
        """Return the loss and every metric."""
        return {"loss": self.loss, **self.measured()} if self.metrics else {"loss": self.loss}

    def measured(self) -> dict[str, float]:
        """Return every metric."""
        found: dict[str, float] = {}
        if self.keeps_scores:
            scores, targets = np.concatenate(self.scores), np.concatenate(self.targets)
        for name, metric in self.metrics.items():
            if name == "accuracy" and self.counts:
                found[name] = self.correct / max(1, self.answers)
                continue
            value = metric(scores, targets) if len(targets) else math.nan
            try:
                if isinstance(value, (str, bytes, bytearray)):
                    raise TypeError("text")
                found[name] = float(value)
            except (TypeError, ValueError, OverflowError) as error:
                raise TypeError(f"the metric {name} must return a number, got {value!r}") from error
        return found


class Fitting:
    """A fit under way: all that it was asked for, and how far it has come.

    Attributes
    ----------
    epoch, epochs : int
        How many are done, and how many are to be.
    orders : numpy.random.Generator or None
        Source of the order of the samples, by `permutation(n)`, or something that has that and a
        `bit_generator` with a `state`; None: as they stand.
    history : History
    callbacks : list of Callback
        Checkpoints come last, as they write what the others have come to.
    """

    def __init__(
        self, network: Any, trainer: Any, source: Samples | Batches, validation: Samples | None, *,
        rows: int, epochs: int, epoch: int, orders: Any,
        parts: int, callbacks: Sequence[Callback],
    ) -> None:
        self.network, self.trainer = network, trainer
        self.source, self.validation = source, validation
        self.rows, self.epochs, self.epoch, self.orders = rows, epochs, epoch, orders
        self.parts = parts
        self.callbacks = sorted(callbacks, key=lambda callback: isinstance(callback, Checkpoint))
        self.history = History()
        self._share: Callable[[int], slice] | None = None       # of a batch's rows
        self._methods = {name: methods_called(name, self.callbacks) for name in (
            "on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end",
            "on_epoch_end", "on_train_end")}
        self.watches_batches = bool(self._methods["on_train_batch_begin"]
                                    or self._methods["on_train_batch_end"])
        for callback in self.callbacks:
            callback.model = network

    def run(self) -> History:
        """Train."""
        figures: dict[str, float] = {}
        self._call("on_train_begin", figures)
        while self.epoch < self.epochs and not self._stops():
            self._call("on_epoch_begin", self.epoch, {})
            if self._stops():
                break
            figures = self._figures(self._train())
            if self.validation is not None:
                measured = self._figures(self.trainer.measure(self.validation))
                figures |= {f"val_{name}": value for name, value in measured.items()}
            self.epoch += 1
            self.history._append(self.epoch, figures)
            self._call("on_epoch_end", self.epoch - 1, figures)
        self._call("on_train_end", figures)
        return self.history

    def _stops(self) -> bool:
        return bool(self.network.stop_training)

    def _figures(self, tally: Tally) -> dict[str, float]:
        return tally.figures()

    def _call(self, name: str, *arguments: Any) -> None:
        for method in self._methods[name]:
            method(*arguments)

    def _train(self) -> Tally:
        """Go through all samples once."""
        tally: Tally = self.trainer.tally()
        place = f" at epoch {self.epoch + 1}"
        for number, portion in enumerate(self._portions()):
            if self.watches_batches:
                self._call("on_train_batch_begin", number, {})
            updates = self.parts == 1 or (number + 1) % self.parts == 0
            rows = self.rows if isinstance(self.source, Samples) else len(portion.x)
            loss = self.trainer.train_on(portion, rows, place, number, tally, updates)
            if self.watches_batches:
                self._call("on_train_batch_end", number, {"loss": loss})
            if self._stops():
                break
        if self.parts > 1:
            self.trainer.apply_pending(place)
        return tally

    def _portions(self) -> Iterable[Portion]:
        if isinstance(self.source, Batches):
            return self.source.epoch()
        source = self.source
        order = self.orders.permutation(len(source.x)) if self.orders is not None else None
        if not self.watches_batches and source.prepare is None and self.trainer.runs_epochs:
            return [Portion(source.x, source.y, source.weights, order)]
        return source.portions(self.rows, order, self._share)

    def state(self) -> dict[str, Any]:
        """Return what it takes to go on from here."""
        orders = None if self.orders is None else self.orders.bit_generator.state
        return {
            "epoch": self.epoch,
            "orders": orders, "history": vars(self.history),
            "callbacks": [[name, callback.state_dict()] for name, callback in self._stateful()]}

    def _stateful(self) -> list[tuple[str, Callback]]:
        """Return the callbacks that have something to keep, with their classes' names."""
        return [(type(callback).__name__, callback) for callback in self.callbacks
                if type(callback).state_dict is not Callback.state_dict
                and (callback.state_dict() or not isinstance(callback, Checkpoint))]

    def check_state(self, state: dict[str, Any]) -> None:
        """ValueError where callbacks or orders were others."""
        before = [name for name, _ in state["callbacks"]]
        now = [name for name, _ in self._stateful()]
        if before != now:
            raise ValueError(f"its callbacks were {', '.join(before) or 'none'}, but are "
                             f"{', '.join(now) or 'none'}")
        if (state["orders"] is None) != (self.orders is None):
            raise ValueError("shuffle was not the same")
        if self.orders is not None:
            kinds = [one["bit_generator"] for one in (state["orders"],
                                                      self.orders.bit_generator.state)]
            if kinds[0] != kinds[1]:
                raise ValueError(f"its orders came from {kinds[0]}, not from {kinds[1]}")

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there, where `check_state` has nothing against it."""
        if self.orders is not None:
            set_random_state(self.orders.bit_generator, state["orders"])
        for (_, callback), (_, one) in zip(self._stateful(), state["callbacks"], strict=True):
            callback.load_state_dict(one)
        self.epoch = state["epoch"]
        vars(self.history).update(state["history"])
