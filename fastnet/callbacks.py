"""What happens between epochs: `network.fit(..., callbacks=[EarlyStopping(patience=5)])`.

A callback of one's own is a subclass of `Callback` with some of its methods, which have Keras's
names and arguments. Those at the ends of epochs cost next to nothing. With a method for batches
each step is a call of its own, some 3 microseconds more than in an epoch's one call, and then what
the method itself takes.
"""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from fastnet import _ops
from fastnet._convert import copying, flag, positive, set_random_state, whole, within
from fastnet._files import ModelFileError, as_path
from fastnet._state_file import read_state, write_state
from fastnet.history import History

__all__ = ["Callback", "Checkpoint", "EarlyStopping", "ReduceLROnPlateau"]


class Callback:
    """Base of the callbacks; all methods do nothing.

    Epochs and batches count from 0. `logs` holds what was measured, by name: "loss", "accuracy",
    "val_loss" and so on. A network's `stop_training = True` ends the fit after the step, or epoch,
    that is under way.

    Attributes
    ----------
    model : Sequential
        The network that is trained, from the fit's begin on.
    """

    model: Any = None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Act before the first epoch."""

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Act after the last epoch; not where an error ended the fit."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Act before an epoch."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Act after an epoch; `logs` has its figures."""

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Act before a step."""

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Act after a step; `logs` has its loss."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep: numbers, text, None, arrays, lists and dicts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""

    def _check_state(self, state: Any, parameters: dict[str, Any]) -> None:
        """One of several errors where a file, with such parameters, has made up this state."""


class _Watch:
    """A figure of the epochs, and the best that it has been."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor must be the name of a figure, got {monitor!r}")
        if not isinstance(mode, str) or mode not in ("auto", "min", "max"):
            raise ValueError(f"mode must be 'auto', 'min' or 'max', got {mode!r}")
        if mode == "auto":
            mode = "max" if monitor.endswith(("accuracy", "r2_score")) else "min"
        self.monitor, self.mode = monitor, mode
        self.min_delta = within(min_delta, "min_delta", "[0, inf)")
        self.forget()

    @staticmethod
    def check(state: Any, *counts: str) -> None:
        """An error unless a file's state has a best figure, and counts of epochs."""
        within(state["best"], "best", "[-inf, inf]")
        for name in counts:
            whole(state[name], name, 0)

    def forget(self) -> None:
        self.best = math.inf if self.mode == "min" else -math.inf

    def value(self, logs: dict[str, float] | None) -> float:
        """Return the figure; ValueError where it was not measured."""
        if logs is None or self.monitor not in logs:
            raise ValueError(f"monitor is {self.monitor!r}, but fit measures "
                             f"{', '.join(map(repr, logs or {}))}; figures with 'val_' need "
                             "validation data")
        return logs[self.monitor]

    def better(self, value: float) -> bool:
        """Return whether a value is better than the best by more than min_delta."""
        better = operator.lt if self.mode == "min" else operator.gt
        margin = -self.min_delta if self.mode == "min" else self.min_delta
        return bool(better(value, self.best + margin))

    def improves(self, value: float) -> bool:
        """Return whether a value is better, and remember it then."""
        if not self.better(value):
            return False
        self.best = value
        return True


class EarlyStopping(Callback):
    """Stop when a figure has not become better for some epochs, and go back to the best.

    Parameters
    ----------
    monitor : str
        Which figure: "loss", "val_loss", "val_accuracy" or another one of the history.
    min_delta : float
        In [0, inf): only a change by more counts as better.
    patience : int
        After how many epochs without a better one to stop; 0 is as 1.
    mode : {"auto", "min", "max"}
        Which way is better; "auto": up for names that end with "accuracy" or "r2_score".
    restore_best_weights : bool
        At the end of the fit put the parameters of the best epoch back, also where it was not
        stopped; not where an error or Ctrl-C ended it.
    start_from_epoch : int
        Epochs before this one, counted from 0, are not looked at.

    Attributes
    ----------
    best : float
        The best figure.
    best_epoch : int or None
        And its epoch, counted from 0.
    stopped_epoch : int or None
        The epoch after which the fit was stopped, counted from 0.

    Raises
    ------
    TypeError, ValueError
        A parameter of the wrong kind or outside its interval; in `fit`, a figure that is not
        measured.
    """

    def __init__(
        self, monitor: str = "val_loss", min_delta: float = 0.0, patience: int = 0,
        mode: str = "auto", restore_best_weights: bool = True, start_from_epoch: int = 0,
    ) -> None:
        self._watch = _Watch(monitor, mode, min_delta)
        self.patience = whole(patience, "patience", 0)
        self.restore_best_weights = flag(restore_best_weights, "restore_best_weights")
        self.start_from_epoch = whole(start_from_epoch, "start_from_epoch", 0)
        self.on_train_begin()

    @property
    def best(self) -> float:
        """The best figure so far."""
        return self._watch.best

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Forget earlier fits."""
        self._watch.forget()
        self.wait = 0
        self.best_epoch: int | None = None
        self.stopped_epoch: int | None = None
        self._best_weights: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the figure."""
        value = self._watch.value(logs)
        if epoch < self.start_from_epoch:
            return
        if self._watch.better(value):
            weights = None
            if self.restore_best_weights:
                weights = [w.copy() for _, w, _ in self.model.parameters()]
            # Without a call between them, so that Ctrl-C comes before all or after.
            self._watch.best, self.wait = value, 0
            self.best_epoch, self._best_weights = epoch, weights
            return
        self.wait += 1
        if self.wait >= self.patience:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Put the best parameters back."""
        if self._best_weights is not None:
            with self.model._use.exclusive:
                _ops.at_once(copying((value for _, value, _ in self.model.parameters()),
                                     self._best_weights))

    def state_dict(self) -> dict[str, Any]:
        """Return the best figure, its epoch and parameters, and how long there was no better."""
        return {"best": self._watch.best, "wait": self.wait, "best_epoch": self.best_epoch,
                "stopped_epoch": self.stopped_epoch, "weights": self._best_weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._watch.best, self.wait = state["best"], state["wait"]
        self.best_epoch, self._best_weights = state["best_epoch"], state["weights"]
        self.stopped_epoch = state["stopped_epoch"]
        if self.stopped_epoch is not None:
            self.model.stop_training = True

    def _check_state(self, state: Any, parameters: dict[str, Any]) -> None:
        known = [name for name in ("best_epoch", "stopped_epoch") if state[name] is not None]
        self._watch.check(state, "wait", *known)
        if state["weights"] is not None:
            for best, (name, value) in zip(state["weights"], parameters.items(), strict=True):
                if (best.shape, best.dtype) != (value.shape, value.dtype):
                    raise ValueError(f"{name} is {value.dtype} {value.shape}, but its best is "
                                     f"{best.dtype} {best.shape}")


class ReduceLROnPlateau(Callback):
    """Multiply the learning rate by a factor when a figure has not become better for some epochs.

    Parameters
    ----------
    monitor, min_delta, mode
        As of `EarlyStopping`.
    factor : float
        In (0, 1).
    patience : int
        After how many epochs without a better one to reduce the rate; 0 is as 1.
    cooldown : int
        How many epochs after that are not counted.
    min_lr : float
        In [0, inf): the rate does not go below.

    Raises
    ------
    TypeError, ValueError
        As `EarlyStopping`; in `fit`, an optimizer whose lr is a schedule.
    """

    def __init__(
        self, monitor: str = "val_loss", factor: float = 0.1, patience: int = 10,
        mode: str = "auto", min_delta: float = 1e-4, cooldown: int = 0, min_lr: float = 0.0,
    ) -> None:
        self._watch = _Watch(monitor, mode, min_delta)
        self.factor = within(factor, "factor", "(0, 1)")
        self.patience = whole(patience, "patience", 0)
        self.cooldown = whole(cooldown, "cooldown", 0)
        self.min_lr = within(min_lr, "min_lr", "[0, inf)")
        self.on_train_begin()

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Forget earlier fits."""
        if self.model is not None and self.model.optimizer.schedule is not None:
            raise ValueError("ReduceLROnPlateau needs an optimizer whose lr is a number, got "
                             f"{self.model.optimizer!r}")
        self._watch.forget()
        self.wait = self.resting = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the figure."""
        better = self._watch.improves(self._watch.value(logs))
        self.wait = 0 if better or self.resting else self.wait + 1
        self.resting = max(0, self.resting - 1)
        if self.wait >= max(1, self.patience):
            optimizer = self.model.optimizer
            if optimizer.lr > self.min_lr:
                optimizer.lr = max(optimizer.lr * self.factor, self.min_lr)
            self.resting, self.wait = self.cooldown, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the best figure, and how long there was no better."""
        return {"best": self._watch.best, "wait": self.wait, "resting": self.resting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._watch.best, self.wait, self.resting = state["best"], state["wait"], state["resting"]

    def _check_state(self, state: Any, parameters: dict[str, Any]) -> None:
        self._watch.check(state, "wait", "resting")


class Checkpoint(Callback):
    """Write all that training needs to a file after an epoch, and go on from it after a stop.

    The file holds parameters, the optimizer's state, where random orders and dropout stand, the
    history and the state of the other callbacks. A fit that goes on from it ends with the same
    bits as one that was never stopped, for the same data and arguments. Where all layers,
    optimizer, loss and metrics are built in, `fastnet.load` makes a network of it.

    Parameters
    ----------
    path : str, bytes or path
        In the format of `Sequential.save`; written beside its place and moved there when it is
        complete.
    every : int
        After how many epochs each it may be written.
    monitor : str, optional
        Write only when this figure is better than in all epochs before, also those between which
        `every` passes over; so with `every=1` the file has the best epoch.
    mode : {"auto", "min", "max"}
        As of `EarlyStopping`.
    resume : bool
        If the file exists when the fit begins, go on from it.

    Raises
    ------
    TypeError, ValueError
        As `EarlyStopping`; in `fit`, a file that is no checkpoint, or one of another network.
    OSError
        In `fit`: the file cannot be read or written.
    """

    def __init__(
        self, path: str | bytes | os.PathLike[Any], every: int = 1, monitor: str | None = None,
        mode: str = "auto", resume: bool = False,
    ) -> None:
        self.path = Path(as_path(path))
        self.every = positive(every, "every")
        watch = _Watch("loss" if monitor is None else monitor, mode)    # checks mode in any case
        self._watch = None if monitor is None else watch
        self.resume = flag(resume, "resume")

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Go on from the file, if that is asked for."""
        if self._watch is not None:
            self._watch.forget()
        if self.resume and self.path.exists():
            self.restore(self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the figure, and write the file if it is time."""
        better = self._watch is None or self._watch.improves(self._watch.value(logs))
        if better and (epoch + 1) % self.every == 0:
            write_state(self.path, "network", self.model._checkpoint_state())

    def restore(self, network: Any) -> None:
        """Give a network the parameters of the file, and its optimizer, if it has one, its state.

        Raises
        ------
        OSError, ValueError
            As in `fit`.
        """
        try:
            state = read_state(self.path, "network")
            if state["fit"] is not None and network._current_fit is not None:
                _check_fit(network._current_fit, state["fit"], state["parameters"])
            network._set_training_state(state)
        except ModelFileError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ModelFileError(f"{self.path} does not fit this network: {error}") from error

    def state_dict(self) -> dict[str, Any]:
        """Return the best figure."""
        return {} if self._watch is None else {"best": self._watch.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        if self._watch is not None:
            self._watch.best = state["best"]

    def _check_state(self, state: Any, parameters: dict[str, Any]) -> None:
        if self._watch is not None:
            self._watch.check(state)


def _check_fit(fit: Any, state: Any, parameters: dict[str, Any]) -> None:
    """One of several errors unless a fit can go on from a file's state, before it does."""
    fit.check_state(state)
    whole(state["epoch"], "epoch", 0)
    check_history(state["history"])
    if fit.orders is not None:
        set_random_state(deepcopy(fit.orders.bit_generator), state["orders"])
    for (_, callback), (_, one) in zip(fit._stateful(), state["callbacks"], strict=True):
        callback._check_state(one, parameters)


def check_history(history: Any) -> None:
    """ValueError unless these are the lists of a `History`, from a file."""
    if not isinstance(history, dict):
        raise ValueError("its history is no table")
    for name, values in history.items():
        kinds = (int,) if name == "epoch" else (int, float)
        if not isinstance(name, str) or hasattr(History, name) or not isinstance(values, list) \
                or any(type(value) not in kinds for value in values):
            raise ValueError(f"its history has no list of numbers {name!r}")


class Progress(Callback):
    """Show each epoch's figures: as a bar where tqdm is installed, else in a line."""

    _bar: Any = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Make the bar, when it is known where the fit begins."""
        self.epochs = self.model._current_fit.epochs
        try:
            from tqdm import tqdm  # type: ignore[import-untyped]
        except ImportError:
            return
        if self._bar is None:
            self._bar = tqdm(total=self.epochs, initial=epoch, unit="epoch", file=sys.stdout)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Show an epoch."""
        figures = ", ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        if self._bar is None:
            width = len(str(self.epochs))
            print(f"epoch {epoch + 1:{width}}/{self.epochs}: {figures}", flush=True)
        else:
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update()

    def close(self) -> None:
        """Leave the bar as it is; it has to be called however the fit ends."""
        if self._bar is not None:
            self._bar.close()


def check_callbacks(callbacks: Any) -> list[Callback]:
    """Return them as a list; TypeError for anything else."""
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Sequence):
        raise TypeError(f"callbacks must be a list of callbacks, got {callbacks!r}")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise TypeError(f"callbacks must hold callbacks, got {callback!r}")
    return list(callbacks)


def methods_called(name: str, callbacks: Sequence[Callback]) -> list[Callable[..., None]]:
    """Return a method of each callback, but of those that have only the one that does nothing."""
    methods = [getattr(callback, name) for callback in callbacks]
    nothing = getattr(Callback, name)
    return [method for method in methods if getattr(method, "__func__", None) is not nothing]
