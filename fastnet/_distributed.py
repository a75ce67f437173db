"""Training with several processes (`fit(..., comm=MPI.COMM_WORLD)`): its steps, and its fit.

In a step each rank goes forward and backward with its own samples, and leaves sums of gradients.
One message adds these up over all ranks, and with them what the mean divides by and what else is
said of a step; then all take the same update. So it makes no difference how many samples each
brings, and parameters stay the same on all ranks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from fastnet import _ops
from fastnet._convert import copying, set_random_state
from fastnet._fitting import NOTHING, Batches, Fitting, Portion, Samples, Tally
from fastnet._ranks import Ranks, fingerprint
from fastnet.callbacks import Callback
from fastnet.optimizers import _leaves


class _Step(NamedTuple):
    """What stands behind the gradients in a step's message, added up over the ranks.

    All in the dtype of the network: counts are exact up to 2**24 samples a step in float32.
    """

    waiting: float = 0.0        # what the gradients are to be divided by
    total: float = 0.0          # of the losses of this step, and
    shares: float = 0.0         # what their mean divides by
    correct: float = 0.0
    answers: float = 0.0
    rows: float = 0.0
    more: float = 0.0           # ranks that have more batches in this epoch,
    failed: float = 0.0         # that have failed,
    stops: float = 0.0          # and whose network was told to stop


class SharedSteps:
    """A trainer's steps, taken by all ranks together; what else a `Fitting` asks a trainer.

    Attributes
    ----------
    more : bool
        Before a step: whether this rank has another batch; after it: whether any rank has.
    error : BaseException or None
        What has failed since the last step.
    stop : bool
        Whether any rank's network was told to stop, as far as all know.
    """

    runs_epochs = False

    def __init__(self, network: Any, trainer: Any, ranks: Ranks) -> None:
        self.network, self.trainer, self.ranks = network, trainer, ranks
        self.more = self.stop = False
        self.error: BaseException | None = None
        self.dropouts = network._dropouts()
        self._waits = False         # whether there are gradients without an update yet

    # ---- Before the first ----------------------------------------------------------------------

    def begin(self, described: dict[str, Any]) -> None:
        """ValueError on all ranks unless they have the same network, and what else must be."""
        trainer = self.trainer
        self.ranks.agree({
            "FASTNET_ISA, which instructions are used,": _ops.isa,
            "the network": [(name, value.shape, str(value.dtype))
                            for name, value, _ in self.network.parameters()],
            "the optimizer": type(trainer.optimizer).__name__,
            "the loss": type(trainer.loss).__name__,
            "metrics": list(trainer.metrics),
            **described})

    def follow(self, state: dict[str, Any]) -> None:
        """Take over the state of training that rank 0 has, if this is another."""
        with self.ranks.together():
            if self.ranks.rank:
                self.network._set_training_state(state)

    # ---- A step --------------------------------------------------------------------------------

    def prepared(self, work: Callable[[], Portion]) -> Portion:
        """Return the portion that this makes; nothing where it fails, as the next step tells."""
        try:
            return work()
        except BaseException as problem:        # also Ctrl-C: the others wait
            self.error = problem
            return NOTHING

    def step(self, portion: Portion, update: bool) -> float:
        """Take a step, and return the mean loss over all ranks' samples."""
        return self.train_on(portion, len(portion.x), "", 0, self.tally(), update)

    def train_on(
        self, portion: Portion, batch_size: int, place: str, number: int, tally: Tally,
        update: bool,
    ) -> float:
        """Take a step on what all ranks bring, which may be nothing; return its mean loss."""
        local = self.trainer.tally()
        rows = len(portion.x) if portion.order is None else len(portion.order)
        if rows and self.error is None:
            self._own_part(portion, rows, place, number, local)
        sums, waiting = self.trainer.waiting()
        tail = sums[len(sums) - len(_Step._fields):]
        tail[:] = _Step(waiting, local.total, local.shares, local.correct, local.answers, rows,
                        self.more, self.error is not None, self.network.stop_training)
        self.ranks.add_up(sums if update else tail)
        step = _Step(*tail.tolist())
        if step.failed or not step.rows:
            self.trainer.forget_pending()
            error, self.error = self.error, None
            self.ranks.exchange(None, error)
            raise self.ranks.known(ValueError("a mean over 0 rows is not defined"))
        self.more, self.stop = step.more > 0, step.stops > 0
        total, shares = self.trainer.reported(step.total, step.shares, step.rows)
        value = total / shares if self.trainer.loss.reduction == "mean" and shares else total
        if not math.isfinite(value):
            self.trainer.forget_pending()
            raise self.ranks.known(self.trainer.failure(
                "loss", value, f"{place}, step {number + 1}" if place else ""))
        tally.add(total, shares, round(step.correct), round(step.answers))
        tally.scores += local.scores
        tally.targets += local.targets
        self._waits = not update
        if update:
            self._update(sums, step.waiting, place)
        return float(value)

    def _own_part(
        self, portion: Portion, rows: int, place: str, number: int, local: Tally
    ) -> None:
        """Add the gradients of this rank's samples to those that wait."""
        try:
            with self._own_seeds():
                self.trainer.train_on(portion, rows, place, number, local, False)
        except FloatingPointError:              # of a loss that is not finite, as all will see
            local.add(math.nan, 1, 0, 0)
        except BaseException as problem:        # also Ctrl-C: the others wait
            self.error = problem

    def _update(self, sums: np.ndarray, waiting: float, place: str) -> None:
        self.trainer.take_waiting(sums, waiting)
        try:
            self.trainer.apply_pending(place)
        except FloatingPointError as error:     # all have the same gradients and parameters
            raise self.ranks.known(error) from None

    def apply_pending(self, place: str) -> None:
        """Update by the gradients that all ranks have gathered, if there are any."""
        if self._waits:
            self._waits = False
            sums, waiting = self.trainer.waiting()
            tail = sums[len(sums) - len(_Step._fields):]
            tail[:] = _Step(waiting=waiting)
            self.ranks.add_up(sums)
            self._update(sums, float(tail[0]), place)

    @contextmanager
    def _own_seeds(self) -> Iterator[None]:
        """Let this rank drop other entries than the others do."""
        seeds = [layer._seen[1:] for layer in self.dropouts]
        for seed in seeds:
            seed += np.uint64(self.ranks.seed)
        try:
            yield
        finally:
            for seed in seeds:
                seed -= np.uint64(self.ranks.seed)

    # ---- What is measured ----------------------------------------------------------------------

    def tally(self) -> Tally:
        """See `Trainer.tally`."""
        tally: Tally = self.trainer.tally()
        return tally

    def measure(self, samples: Samples) -> Tally:
        """Return what there is to say about the samples of all ranks."""
        tally = self.tally()
        with self.ranks.together():
            if len(samples):
                tally = self.trainer.measure(samples)
        rows, total, shares, correct, answers = map(sum, zip(*self.ranks.exchange(
            (len(samples), tally.total, tally.shares, tally.correct, tally.answers)), strict=True))
        if not rows:
            raise self.ranks.known(ValueError("a mean over 0 rows is not defined"))
        tally.total, tally.shares = float(total), float(shares)
        tally.correct, tally.answers = int(correct), int(answers)
        return tally

    def figures_of(self, samples: Samples, split: bool) -> dict[str, float]:
        """Return loss and metrics of the samples of all ranks, or of what all were given."""
        self.begin({"shard": split})
        check_shards(self.ranks, split, "x and y", samples)
        if split:
            samples = samples.part(self.ranks.share(len(samples)))
        return self.figures(self.measure(samples))

    def figures(self, tally: Tally) -> dict[str, float]:
        """Return loss and metrics, which rank 0 computes of all scores."""
        if tally.keeps_scores:
            found = self.ranks.gather((tally.scores, tally.targets))
            tally.scores = [some for scores, _ in found for some in scores]
            tally.targets = [some for _, targets in found for some in targets]
        return self.ranks.on_first(tally.figures)


def check_shards(ranks: Ranks, splits: bool, name: str, samples: Samples) -> None:
    """ValueError where ranks that take parts of the same arrays were given others; a warning where
    ranks that bring their own were given the same."""
    first, *others = ranks.exchange(fingerprint(samples.x, samples.y))
    same = all(other == first for other in others)
    if splits and not same:
        raise ranks.known(ValueError(
            f"with shard='split' all ranks must be given the same {name}; with shard='own' each "
            "brings a part of its own"))
    if not splits and same and len(samples) and ranks.rank == 0:
        warnings.warn(f"all ranks were given the same {name}, and learn the same from it: with "
                      "shard='split' each takes a part", stacklevel=5)


class SharedFitting(Fitting):
    """A fit that all ranks do together.

    Callbacks are called on rank 0 alone, and what they decide is passed on: the parameters, numbers
    of the optimizer, which layers are trainable, and whether to stop.

    Parameters
    ----------
    ranks : Ranks
    splits : bool
        Whether samples are those of all ranks, of which each takes its part of every batch; else
        they are this rank's own, and it brings batches of its own size.
    others
        As of `Fitting`.
    """

    trainer: SharedSteps

    def __init__(
        self, ranks: Ranks, splits: bool, network: Any, trainer: Any, source: Samples | Batches,
        validation: Samples | None, *, callbacks: Sequence[Callback], **more: Any,
    ) -> None:
        steps = SharedSteps(network, trainer, ranks)
        steps.begin({
            "epochs": more["epochs"], "initial_epoch": more["epoch"],
            "gradient_accumulation_steps": more["parts"], "shard": splits,
            "shuffle": more["orders"] is not None,
            "batch_size": more["rows"] if splits else None,
            "whether x gives batches": isinstance(source, Batches),
            "whether there is validation data": validation is not None})
        for name, samples in (("x and y", source), ("validation_data", validation)):
            if isinstance(samples, Samples):
                check_shards(ranks, splits, name, samples)
        if splits and validation is not None:
            validation = validation.part(ranks.share(len(validation)))
        super().__init__(network, steps, source, validation,
                         callbacks=() if ranks.rank else callbacks, **more)
        self.ranks, self._share = ranks, ranks.share if splits else None
        self._called = ranks.on_first(
            lambda: {name for name, methods in self._methods.items() if methods})
        self.watches_batches = not self._called.isdisjoint(
            {"on_train_batch_begin", "on_train_batch_end"})

    def _stops(self) -> bool:
        return self.trainer.stop

    # ---- Callbacks -----------------------------------------------------------------------------

    def _call(self, name: str, *arguments: Any) -> None:
        begins = name == "on_train_begin"
        if not begins and name not in self._called:
            return

        def decided() -> tuple[dict[str, Any] | None, dict[str, Any]]:
            super(SharedFitting, self)._call(name, *arguments)
            return self.network._training_state() if begins else None, self._decisions()

        state, decisions = self.ranks.on_first(decided)
        if state is not None:
            state["fit"]["callbacks"] = []          # they are on rank 0 alone
            self.trainer.follow(state)
        self._follow(decisions)

    def _decisions(self) -> dict[str, Any]:
        """Return what callbacks may have changed."""
        return {"parameters": [value for _, value, _ in self.network.parameters()],
                "options": self.network.optimizer._assignable(),
                "trainable": [getattr(layer, "trainable", True)
                              for layer in _leaves(self.network.layers)],
                "stop": bool(self.network.stop_training)}

    def _follow(self, decisions: dict[str, Any]) -> None:
        self.trainer.stop = decisions["stop"]
        self.network.stop_training |= decisions["stop"]
        if self.ranks.rank == 0:
            return
        _ops.at_once(copying((value for _, value, _ in self.network.parameters()),
                             decisions["parameters"]))
        self.network.optimizer._assign(decisions["options"])
        for layer, trainable in zip(
                _leaves(self.network.layers), decisions["trainable"], strict=True):
            if getattr(layer, "trainable", True) != trainable:
                layer.trainable = trainable

    # ---- An epoch ------------------------------------------------------------------------------

    def _portions(self) -> Iterator[Portion]:
        """Yield this rank's batches, and then nothing as often as others still have some."""
        own = iter(super()._portions())
        following = self._next(own)
        while True:
            portion, following = following, None if following is None else self._next(own)
            self.trainer.more = following is not None
            yield NOTHING if portion is None else portion
            if not self.trainer.more:
                return

    def _next(self, own: Iterator[Portion]) -> Portion | None:
        try:
            return next(own, None)
        except BaseException as problem:        # also Ctrl-C: the others wait
            self.trainer.error = problem
            return None

    def _train(self) -> Tally:
        tally = super()._train()
        orders = None           # ranks that take parts of the same samples have the same orders
        if self.orders is not None and self._share is None and self.ranks.rank == 0:
            orders = self.orders.bit_generator.state
        dropouts = self.trainer.dropouts
        found = self.ranks.exchange((orders, [int(layer._seen[0]) for layer in dropouts],
                                     bool(self.network.stop_training)))
        if self.orders is not None and found[0][0] is not None and self.ranks.rank:
            set_random_state(self.orders.bit_generator, found[0][0])
        for layer, *seen in zip(dropouts, *(seen for _, seen, _ in found), strict=True):
            layer._seen[0] = max(seen)
        self.trainer.stop = any(stop for _, _, stop in found)
        self.network.stop_training |= self.trainer.stop
        return tally

    def _figures(self, tally: Tally) -> dict[str, float]:
        return self.trainer.figures(tally)
