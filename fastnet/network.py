"""A whole network: `Sequential`, what its training records, and its frozen form for prediction."""

from __future__ import annotations  # numpy.random is slow to import: not before it is used

import math
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from itertools import pairwise, takewhile
from typing import Any, NamedTuple, Self

import numpy as np

from fastnet import _engine, _ops, _torch
from fastnet._convert import (
    Call,
    copying,
    flag,
    generator,
    positive,
    set_random_state,
    whole,
    within,
)
from fastnet._describe import build, build_bare, describe, parameters_of, register
from fastnet._distributed import SharedFitting, SharedSteps
from fastnet._fitting import Batches, Fitting, Portion, Samples, lazy_rows
from fastnet._layer import (
    Chain,
    WeightedLayer,
    chained,
    check_apart,
)
from fastnet._ranks import Ranks, all_or_none, ranks_of, splits
from fastnet._state_file import write_state
from fastnet._trainer import Trainer, foreign
from fastnet.activations import Activation, Identity, LogSoftmax, ReLU, Softmax
from fastnet.callbacks import Callback, Progress, check_callbacks
from fastnet.history import History, Scores
from fastnet.layers import (
    ELU,
    GELU,
    Dense,
    Dropout,
    Flatten,
    LayerNorm,
    LeakyReLU,
    Residual,
    Scale,
    Sigmoid,
    SiLU,
    Tanh,
)
from fastnet.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    EntryLoss,
    Loss,
    SoftmaxCrossEntropy,
)
from fastnet.optimizers import Optimizer

__all__ = ["Predictor", "Sequential"]

class _Head(NamedTuple):
    """What the last layer's output says about classes.

    `function`: how probabilities come from it, "softmax", "sigmoid", "identity", or why there are
    none; `independent`: one question per output, not one class per row.
    """

    function: str
    independent: bool

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        if self.function == "identity":
            return scores
        if self.function == "softmax":
            return _ops.softmax_forward(scores)
        if self.function == "sigmoid":
            return _ops.activation_forward(scores, "sigmoid")
        raise ValueError(f"probabilities need classes, which {self.function}")

    def labels(self, scores: np.ndarray) -> np.ndarray:
        if scores.ndim != 2:
            raise ValueError(f"classes need rows of scores, got {scores.ndim} dimensions")
        if self.independent:
            yes = (scores > (0 if self.function == "sigmoid" else 0.5)).astype(np.int64)
            return yes[:, 0] if yes.shape[1] == 1 else yes
        labels: np.ndarray = scores.argmax(axis=1)
        return labels


# Which network a layer belongs to, for as long as both live; by identity, as layers of somebody's
# own may be equal, or have no hash.
_networks: dict[int, tuple[weakref.ref[Any], weakref.ref[Sequential]]] = {}


def _network_of(layer: Any) -> Sequential | None:
    """Return the network that a layer belongs to."""
    found = _networks.get(id(layer))
    return found[1]() if found is not None else None


def _weak(layer: Any) -> weakref.ref[Any]:
    """Return a reference to a layer, with which its entry among those of networks ends."""
    try:
        return weakref.ref(layer, partial(_networks.pop, id(layer)))
    except TypeError as error:
        raise TypeError(f"{layer!r} must allow weak references, but its class has __slots__ "
                        "without '__weakref__'") from error


class _Table:
    """What `summary` shows: text, or a table where a notebook asks for HTML."""

    def __init__(self, rows: list[tuple[str, ...]], notes: list[str]) -> None:
        self.rows, self.notes = rows, notes

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]),
                            *(cell.rjust(width) for cell, width in
                              zip(row[1:], widths[1:], strict=True))])
                 for row in self.rows]
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join([*lines, "-" * len(lines[0]), *self.notes])

    def _repr_html_(self) -> str:
        from html import escape

        head, *body = self.rows
        cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
                        for row in body)
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        return f"<table><tr>{cells}</tr>{lines}</table>{notes}"


def _batch_of(
    ranks: Ranks, split: bool, take: Any, x: Any, y: Any, sample_weight: Any
) -> Portion:
    """Return this rank's batch, or its part of one; it may be empty."""
    if split:
        part = ranks.share(len(x))
        x, y = x[part], y[part]
        sample_weight = None if sample_weight is None else sample_weight[part]
    portion: Portion = take(x, y, sample_weight, ranks)
    return portion


class _Operations:
    """A chain of layers as the engine's list of operations, and where each parameter goes."""

    def __init__(self, layers: Iterable[Any], dtype: np.dtype, width: int) -> None:
        self.dtype = dtype
        self.list: list[dict[str, Any]] = []
        self.weighted: list[tuple[WeightedLayer, list[tuple[int, tuple[int, ...]]]]] = []
        self.inner: list[tuple[Sequential, slice]] = []
        self.size = 0
        self.width = width
        self._chain(layers)

    def _chain(self, layers: Iterable[Any]) -> None:
        for layer in layers:
            kind = type(layer)
            if isinstance(layer, WeightedLayer):
                self._weighted(layer)
            elif kind is Sequential:
                start = self.size
                self._chain(layer.layers)
                if self.size > start:
                    self.inner.append((layer, slice(start, self.size)))
            elif kind is Residual:
                width = self.width
                self._add("remember")
                self._chain(layer.layers)
                if self.width != width:         # as a first layer it says no width of its own
                    raise ValueError(f"the layers in a Residual must keep the width {width}, "
                                     f"but give {self.width}")
                self._add("add")
            elif kind is Scale:
                self._add("scale", factor=layer.factor)
            elif kind is Dropout:
                self._add("dropout", factor=layer.p, seen=layer._seen)
            elif isinstance(layer, Activation):
                self._add("activation", function=layer.kind, factor=layer.alpha)
            elif kind not in (Flatten, Identity):
                self._add({ReLU: "relu", Softmax: "softmax", LogSoftmax: "log_softmax"}[kind])

    def _add(self, kind: str, **more: Any) -> None:
        self.list.append({"kind": kind, "n_in": self.width, "n_out": self.width, **more})

    def _weighted(self, layer: WeightedLayer) -> None:
        places = []
        starts = {"weight": -1, "bias": -1}
        for name, value, _ in layer.parameters():
            starts[name] = self.size
            places.append((self.size, value.shape))
            self.size += _engine.padded(value.size, self.dtype)
        self.weighted.append((layer, places))
        if isinstance(layer, LayerNorm):
            self._add("layer_norm", factor=layer.eps, trains=layer._trains, **starts)
            return
        self._add("dense", trains=layer._trains, **starts)
        assert isinstance(layer, Dense)
        self.width = self.list[-1]["n_out"] = layer.out_features
        if layer.activation is not None:
            self._chain([layer.activation])

    def views(self, buffer: np.ndarray) -> list[list[np.ndarray]]:
        """Return the parameters of every layer that has any as views of a buffer."""
        return [[buffer[start:start + math.prod(shape)].reshape(shape) for start, shape in places]
                for _, places in self.weighted]


def _flat(layers: Iterable[Any]) -> Iterable[Any]:
    """Yield layers, those inside others too."""
    for layer in layers:
        yield layer
        if isinstance(layer, (Sequential, Residual)):
            yield from _flat(layer.layers)


def _limit(n_threads: int | None) -> int:
    """Return what the engine is told of it: an int of C's, 0 where there is no limit."""
    return min(n_threads or 0, 2**30)


BUILT_IN = (
    Dense, LayerNorm, Dropout, Residual, Scale, Flatten, Identity, ReLU, LeakyReLU, ELU, Sigmoid,
    Tanh, GELU, SiLU, Softmax, LogSoftmax)


def _native(layer: Any) -> bool:
    """Return whether a layer is built in, with its activation."""
    return type(layer) in (*BUILT_IN, Sequential) and (
        type(layer) is not Dense or layer.activation is None
        or type(layer.activation) in BUILT_IN)


# Attributes of a network that its copies and pickles make or say in their own way.
MADE_ANEW = {"_layers", "_dtype", "_parameters", "_trainer", "_current_fit", "stop_training",
             "_rng", "_operations", "_engine", "_n_threads", "_use", "_memory", "_passing"}


class Sequential(Chain):
    """Layers one after another, trained and run as a whole.

    Built-in layers run in compiled code, one native call per step, per epoch or per prediction.
    With a layer of one's own among them the network runs layer by layer, and `summary` says so.
    A network is a layer itself: it has `forward`, `backward` and `parameters`, and can be part of
    another.

    The parameters of all dense layers move into one buffer, of which `weight`, `bias` and their
    gradients are views from then on; arrays that were fetched before become read-only. After a
    step the gradients are undefined, unless `compile` was asked to keep them.

    A step has the bits that the layers give when they are called one by one. Batches above 256
    rows are taken in blocks of rows, whose gradients are added up: there the last bits can differ.

    Large work is shared by several threads, where that is measured to be quicker; results have the
    same bits for any number of them.

    Parameters
    ----------
    layers : sequence of layers
        The width that one gives is the width that the next one takes.
    n_threads : int, optional
        At most so many threads work on a step or a prediction, and no more than
        `fastnet.get_num_threads()`; None: that many. 1 never leaves the calling thread.

    Raises
    ------
    TypeError
        Something that is no layer, or a layer of two inputs; `n_threads` is no whole number.
    ValueError
        No layers; widths that do not fit; different dtypes; a layer twice, or of another network;
        `n_threads` below 1.
    RuntimeError
        A network among the layers is in use; or this one is made already.
    """

    _use: _engine.Use       # shared with the networks inside

    def __init_subclass__(cls) -> None:
        """TypeError for a pass of its own, which training and predictions would not ask."""
        super().__init_subclass__()
        for name in ("forward", "backward"):
            if getattr(cls, name) is not getattr(Sequential, name):
                raise TypeError(f"{cls.__name__}, a network, cannot have its own {name}, as "
                                "compiled code runs its layers: let it be a Layer that holds one")

    def __init__(self, layers: Sequence[Any], n_threads: int | None = None) -> None:
        if "_use" in vars(self):
            raise RuntimeError("a network is made once: make another one")
        if hasattr(layers, "forward") or isinstance(layers, (str, bytes)):
            raise TypeError(f"layers must be a sequence of layers, got {layers!r}")
        self._layers = chained(layers)
        every = list(_flat(self._layers))
        if len({id(layer) for layer in every}) < len(every):
            raise ValueError("layers must hold each layer once, but one came twice")
        self._check_free(every)
        self._dtype = self._common_dtype(every)
        self._check_widths()
        self._parameters: np.ndarray | None = None
        self._trainer: Trainer | None = None
        self._current_fit: Fitting | None = None
        self.stop_training = False
        self._rng: np.random.Generator | None = None
        self._operations: _Operations | None = None
        self._engine: _engine.Engine | None = None
        self.n_threads = n_threads
        use, owner = _engine.Use(), weakref.ref(self)
        references = [_weak(layer) for layer in every]
        calls: list[Call] = []
        if (any(type(layer) is Dense for layer in every)
                and all(map(_native, every))):
            calls = self._join(use)
        for layer in (self, *every):
            if isinstance(layer, Sequential):       # now this network trains it
                calls.append((vars(layer).update, ({"_use": use, "_trainer": None},)))
        for layer, reference in zip(every, references, strict=True):
            calls.append((_networks.__setitem__, (id(layer), (reference, owner))))
        _ops.at_once(calls)             # so that none is in two networks, or half in one

    def _check_free(self, every: list[Any]) -> None:
        """ValueError for a layer of another network, unless this network takes that one in.

        RuntimeError where that one is in use.
        """
        for layer in every:
            if isinstance(layer, Sequential):
                layer._use.check_free()
            owner = _network_of(layer)
            if owner is not None and not any(owner is other for other in every):
                raise ValueError(f"{layer!r} belongs to another network already")

    @staticmethod
    def _common_dtype(every: list[Any]) -> np.dtype:
        dtypes = {layer.dtype for layer in every if isinstance(layer, WeightedLayer)}
        if len(dtypes) > 1:
            raise ValueError("layers must have one dtype, got "
                             + " and ".join(sorted(map(str, dtypes))))
        return dtypes.pop() if dtypes else np.dtype("float32")

    def _check_widths(self) -> None:
        """ValueError where a built-in layer is given another width than it takes."""
        def follow(layers: Iterable[Any], width: int | None) -> int | None:
            for layer in layers:
                if isinstance(layer, Dense):
                    if width is not None and width != layer.in_features:
                        raise ValueError(
                            f"{layer!r} takes {layer.in_features} features, but is given {width}")
                    width = layer.out_features
                elif isinstance(layer, LayerNorm):
                    if width is not None and width != layer.features:
                        raise ValueError(
                            f"{layer!r} takes {layer.features} features, but is given {width}")
                    width = layer.features
                elif type(layer) is Sequential:
                    width = follow(layer.layers, width)
                elif type(layer) is Residual:
                    inner = follow(layer.layers, width)
                    if None not in (inner, width) and inner != width:
                        raise ValueError(f"the layers in a Residual must keep the width {width}, "
                                         f"but give {inner}")
                    width = inner
                elif type(layer) not in BUILT_IN:
                    width = None
            return width

        follow(self._layers, None)

    def _join(self, use: _engine.Use) -> list[Call]:
        """Copy all parameters into one buffer; return the calls that let networks work with it."""
        operations = _Operations(self._layers, self._dtype, self._in_features())
        parameters = _engine.aligned_zeros(operations.size, self._dtype)
        gradients = _engine.aligned_zeros(operations.size, self._dtype)
        ready = [(network, network._engine_of(parameters[part], gradients[part], use))
                 for network, part in [(self, slice(None)), *operations.inner]]
        places = zip(operations.views(parameters), operations.views(gradients), strict=True)
        calls = []
        for (layer, _), (values, grads) in zip(operations.weighted, places, strict=True):
            calls += layer._move(list(zip(values, grads, strict=True)))
        for network, (own, buffer, engine) in ready:
            calls.append((vars(network).update, (
                {"_operations": own, "_parameters": buffer, "_engine": engine},)))
        return calls

    def _engine_of(
        self, parameters: np.ndarray, gradients: np.ndarray, use: _engine.Use
    ) -> tuple[_Operations, np.ndarray, _engine.Engine]:
        """Return operations, parameters and the engine that works on these buffers.

        They are to hold the layers' parameters one after the other.
        """
        operations = _Operations(self._layers, self._dtype, self._in_features())
        engine = _engine.Engine(
            operations.list, parameters, gradients, self._flattens(), use=use)
        engine.n_threads = _limit(self._n_threads)
        return operations, parameters, engine

    def _in_features(self) -> int:
        """Return the width of the first layer that has one."""
        first: Any = next(layer for layer in _flat(self._layers)
                          if isinstance(layer, WeightedLayer))
        return int(first.features if isinstance(first, LayerNorm) else first.in_features)

    def _flattens(self) -> bool:
        """Whether inputs may have more dimensions: a Flatten comes before all that wants rows."""
        before = takewhile(
            lambda layer: not isinstance(layer, (WeightedLayer, Softmax, LogSoftmax)),
            _flat(self._layers))
        return any(type(layer) is Flatten for layer in before)

    @property
    def n_threads(self) -> int | None:
        """How many threads may work on a step or a prediction; None: as many as the process may."""
        return self._n_threads

    @n_threads.setter
    def n_threads(self, value: int | None) -> None:
        number = None if value is None else positive(value, "n_threads")
        limit = _limit(number)
        self._n_threads = number                # no call from here on: no Ctrl-C between the two
        if self._engine is not None:
            self._engine.n_threads = limit

    # ---- As a layer ----------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers, in order."""
        return self._layers

    @property
    def dtype(self) -> np.dtype:
        """Type of parameters and outputs."""
        return self._dtype

    def forward(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the last layer's output; every layer remembers what backward needs."""
        *first, last = self._layers
        if out is not None:
            self._check_apart(out, x, "the input")
        y = x
        with self._use:
            before = self._remembered()
            try:
                for layer in first:
                    y = layer.forward(y)
                y = last.forward(y) if out is None else last.forward(y, out)
                y = self._output(y, out, last)
            except BaseException:
                self._put_back(before)
                raise
        return y

    @staticmethod
    def _output(found: Any, out: np.ndarray | None, layer: Any) -> np.ndarray:
        """Return what a layer gave, which may be somebody's own, in `out` if there is one.

        TypeError where that is no array.
        """
        y = np.asarray(found)
        if y.ndim == 0 or y.dtype.kind not in "fiub":
            raise TypeError(f"{layer!r} must give an array of numbers with a row for "
                            f"each sample, got {found!r:.100}")
        if out is None or y is out:
            return y
        _ops.check_out(out, np.require(y, requirements="C"))
        out[...] = y
        return out

    def _given(self) -> np.ndarray | None:
        first = self._layers[0]
        return first._given() if type(first) in (*BUILT_IN, Sequential) else None

    def _check_apart(self, out: np.ndarray, given: Any, name: str) -> None:
        """ValueError where `out` overlaps what is still to be read when it is written."""
        check_apart(out, given, name)
        for name, value, gradient in self.parameters():
            check_apart(out, value, name)
            check_apart(out, gradient, f"the gradient of {name}")

    def backward(self, dy: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the gradient by the input; the layers get their parameters' gradients."""
        first, *others = self._layers
        if out is not None:
            self._check_apart(out, dy, "dY")
        dx = dy
        with self._use:
            given = None if out is None else self._given()
            if given is not None:
                _ops.check_out(out, given)      # before gradients change
            for layer in reversed(others):
                dx = layer.backward(dx)
            dx = first.backward(dx) if out is None else first.backward(dx, out)
        return np.asarray(dx) if out is None else self._output(dx, out, first)

    # ---- Training ------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Optimizer | str = "sgd",
        loss: Loss | str = "softmax_cross_entropy",
        metrics: Sequence[Any] = (),
        *,
        keep_gradients: bool = False,
    ) -> None:
        """Choose how to train.

        Parameters
        ----------
        optimizer : optimizer or str
            "sgd" (`SGD(lr=0.01)`), "adam", "adamw" or "rmsprop", with the defaults of their
            classes. Its state belongs to it and goes with it.
        loss : loss or str
            "softmax_cross_entropy", "cross_entropy", "negative_log_likelihood",
            "binary_cross_entropy", "mean_squared_error" or "mse", "huber", "poisson".
        metrics : sequence of str and callables
            What else to measure, in training and validation: "accuracy" (of `BinaryCrossEntropy`
            the share of entries that are right), "top_5_accuracy" with any number, "r2_score", or
            a callable of scores (n, n_out) and target that returns a number; see
            `fastnet.metrics`. All but "accuracy" need the scores of an epoch at its end.
        keep_gradients : bool
            Leave the gradients of the last step on the layers, and refuse a step whose gradients
            are not finite. Costs time.

        Raises
        ------
        TypeError, ValueError
            Something else; `SoftmaxCrossEntropy` behind a `Softmax`, or `BinaryCrossEntropy` behind
            a `Sigmoid`, which would be taken twice;
            accuracy of a loss without classes; a metric twice.
        RuntimeError
            The network is part of another one, another thread trains it, or it is in a `fit`.
        """
        if _network_of(self) is not None:
            raise RuntimeError("this network is part of another one, which trains it")
        trainer = Trainer(self, optimizer, loss, metrics, keep_gradients)
        if isinstance(trainer.loss, SoftmaxCrossEntropy) and self._ends_in(Softmax):
            raise ValueError("SoftmaxCrossEntropy takes raw scores, but the network ends in a "
                             "Softmax: leave that out (predict_proba gives probabilities), or use "
                             "CrossEntropy")
        if isinstance(trainer.loss, BinaryCrossEntropy) and self._ends_in(Sigmoid):
            raise ValueError("BinaryCrossEntropy takes raw scores, but the network ends in a "
                             "Sigmoid: leave that out; predict_proba gives probabilities")
        forget: list[Call] = []
        if self._engine is not None:
            forget.append((self._engine.forget_pending, ()))
        with self._use.training:
            if self._current_fit is not None:
                raise RuntimeError("compile the network when its fit has ended, not in a callback")
            _ops.at_once([*forget, (vars(self).update, ({"_trainer": trainer},))])

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer that `compile` was given."""
        return None if self._trainer is None else self._trainer.optimizer

    @property
    def loss(self) -> Loss | None:
        """The loss that `compile` was given."""
        return None if self._trainer is None else self._trainer.loss

    def _ends_in(self, kind: type) -> bool:
        """Whether the last layer that does something in a prediction is of this kind."""
        layers: list[Any] = [*self._layers]
        while layers:
            last = layers.pop()
            if isinstance(last, Sequential):
                layers += last.layers
            elif isinstance(last, Dense):
                layers = [last.activation]      # None is none, and no layer before counts
            elif not (type(last) in (Identity, Flatten, Dropout)
                      or type(last) is Scale and last.factor == 1):
                return isinstance(last, kind)
        return False

    def _compiled(self) -> Trainer:
        """Return how to train; RuntimeError where that is not known."""
        if self._trainer is None:
            raise RuntimeError("compile the network first, with an optimizer and a loss")
        return self._trainer

    def train_step(
        self, x: Any, y: Any, sample_weight: Any = None, *, update: bool = True,
        comm: Any = None, shard: str = "own",
    ) -> float:
        """Take one step on a batch and return its mean loss, as it was before the update.

        Parameters
        ----------
        x : array_like (n, in_features)
        y : array_like (n,) or (n, out_features)
            Labels or rows, as the loss takes them.
        sample_weight : array_like (n,), optional
            What each sample counts, at least 0; the mean is `sum(w * l) / sum(w)`. Where batches
            are added up, by `update` or over ranks, the sum of each one's must be 0 or lie between
            2**-64 and 2**64.
        update : bool
            False only gathers gradients. The next step that updates takes them along, as if all
            their samples had come in one batch.
        comm : mpi4py.MPI.Comm, optional
            Take the step together with all processes of a communicator; see `fit`. All get the mean
            loss of all samples. The first such step after `compile` gives all ranks the parameters
            and the optimizer's state of rank 0.
        shard : {"own", "split"}
            With `comm`: whether the batch is this rank's own part, which may be empty, or the whole
            one, of which each rank takes a part.

        Raises
        ------
        RuntimeError
            `compile` was not called; the network is in use by another thread.
        TypeError, ValueError
            Inputs or targets that cannot be converted, shapes that do not fit, labels out of
            range, 0 rows, weights that cannot be added up.
        FloatingPointError
            The loss is not finite, and the step is not applied; or parameters are not finite after
            it, which is seen at once, and the step is applied unless gradients are kept. Gradients
            that were gathered before are lost.
        """
        trainer = self._compiled()
        if comm is not None and (ranks := ranks_of(comm)) is not None:
            return self._shared_step(trainer, ranks, splits(shard), x, y, sample_weight, update)
        return trainer.step(x, y, sample_weight, update)

    def _shared_step(
        self, trainer: Trainer, ranks: Ranks, split: bool, x: Any, y: Any, weights: Any,
        update: bool,
    ) -> float:
        """Take a step with other ranks."""
        steps: SharedSteps | None = trainer.shared
        with ranks.all_or_none():
            if steps is None or steps.ranks.comm != ranks.comm:
                steps = SharedSteps(self, trainer, ranks)
                steps.begin({})
                steps.follow(ranks.on_first(self._training_state))
                trainer.shared = steps
            portion = steps.prepared(
                lambda: _batch_of(ranks, split, partial(trainer.batch, None), x, y, weights))
            return steps.step(portion, update)

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int = 32,
        epochs: int = 1,
        validation_data: tuple[Any, ...] | None = None,
        validation_split: float = 0.0,
        shuffle: bool = True,
        rng: int | np.random.Generator | None = None,
        verbose: int = 1,
        sample_weight: Any = None,
        class_weight: Any = None,
        callbacks: Sequence[Callback] = (),
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        gradient_accumulation_steps: int = 1,
        comm: Any = None,
        shard: str = "own",
    ) -> History:
        """Train for some epochs, each a pass over all samples in steps of `batch_size`.

        Parameters
        ----------
        x : array_like (n, in_features), or iterable of batches
            A memory map (`numpy.load(path, mmap_mode="r")`) may be larger than memory. Of the
            network's dtype it is read where it lies; of another, batch by batch. Each element of an
            iterable is `(x, y)` or `(x, y, sample_weight)`, a step.
        y : array_like (n,) or (n, out_features)
            Labels or rows, as the loss takes them; None where `x` gives batches.
        batch_size : int
            The last batch of an epoch holds what is left. Not used where `x` gives batches.
        epochs : int
        validation_data : (x, y) or (x, y, sample_weight), optional
            Measured after each epoch; nothing is learnt from it.
        validation_split : float
            In [0, 1): this share of the samples, the last ones, is validation data instead.
        shuffle : bool
            Take the samples in a new random order in each epoch; batches come as they are given.
        rng : int, numpy.random.Generator or None
            Source of these orders; None: one of the network's own, different in each process.
        verbose : int
            0: silent; 1: progress, as a bar where tqdm is installed, else a line per epoch.
        sample_weight : array_like (n,), optional
            What each sample counts, at least 0; the mean is `sum(w * l) / sum(w)`. The sum of those
            of each batch that an iterable gives, and of each rank's own, must be 0 or lie between
            2**-64 and 2**64, with `class_weight` too.
        class_weight : dict or "balanced", optional
            What each sample of a class counts, by label, 1 for those left out; "balanced" makes all
            classes count alike, `n / (n_classes * number of its samples)`. Multiplied with
            `sample_weight`. The labels of a dict are whole numbers that the loss takes. Counts in
            training alone: validation data is not weighted by its classes.
        callbacks : sequence of Callback
            See `fastnet.callbacks`.
        initial_epoch : int
            How many epochs were done before: `epochs` counts them, and an int as `rng` passes
            over their orders, so that this fit goes on where an earlier one ended.
        steps_per_epoch : int, optional
            How many batches an epoch has, where `x` gives batches; None: all of them.
        gradient_accumulation_steps : int
            How many batches make one step, as if they were one batch. In an epoch that leaves
            fewer, these are the last step.
        comm : mpi4py.MPI.Comm, optional
            Train together with all processes of a communicator, each of which calls this, such as
            `mpi4py.MPI.COMM_WORLD`: see docs/DISTRIBUTED.md. Each step's gradients are added up
            over all ranks, and the history is the same on all. Rank 0's parameters, optimizer and
            random numbers are everybody's at the begin; it alone shows progress and calls
            callbacks. With one process, or None, nothing is different.
        shard : {"own", "split"}
            With `comm`. "own": what is given here is this rank's own part, of any number of
            samples, also 0; a step is `batch_size` samples of each rank, for as long as there are
            any. "split": what is given is the whole, the same on all ranks, and each takes its part
            of every batch; the result is that of one process, up to rounding (and other masks of
            dropout).

        Returns
        -------
        history : History

        Raises
        ------
        RuntimeError, TypeError, ValueError
            As `train_step`; batches that run out; another rank has failed.
        FloatingPointError
            As `train_step`, naming epoch and step.
        KeyboardInterrupt
            On Ctrl-C, between two steps: the parameters are those of a finished step.
        """
        with all_or_none(ranks := ranks_of(comm)):
            return self._fit(
                ranks, splits(shard), x, y, batch_size, epochs, validation_data, validation_split,
                shuffle, rng, verbose, sample_weight, class_weight, callbacks, initial_epoch,
                steps_per_epoch, gradient_accumulation_steps)

    def _fit(
        self, ranks: Ranks | None, split: bool, x: Any, y: Any, batch_size: int, epochs: int,
        validation_data: Any, validation_split: float, shuffle: bool,
        rng: int | np.random.Generator | None, verbose: int, sample_weight: Any, class_weight: Any,
        callbacks: Sequence[Callback], initial_epoch: int, steps_per_epoch: int | None,
        gradient_accumulation_steps: int,
    ) -> History:
        """Do as `fit` says. Until the fit has begun, ranks send nothing but what can fail."""
        trainer, others = self._compiled(), None if split else ranks
        batch_size, epochs = positive(batch_size, "batch_size"), positive(epochs, "epochs")
        parts = positive(gradient_accumulation_steps, "gradient_accumulation_steps")
        done = whole(initial_epoch, "initial_epoch", 0)
        if not isinstance(verbose, (bool, int)) or verbose not in (0, 1):
            raise ValueError(f"verbose must be 0 or 1, got {verbose!r}")
        shuffle = flag(shuffle, "shuffle")
        validation_split = within(validation_split, "validation_split", "[0, 1)")
        own_callbacks = check_callbacks(callbacks)
        source: Samples | Batches
        validation: Samples | None = None
        orders = None
        if y is None and not isinstance(x, (np.ndarray, str, bytes)) and isinstance(x, Iterable):
            if sample_weight is not None or validation_split or isinstance(class_weight, str):
                raise ValueError("sample_weight, validation_split and class_weight='balanced' need "
                                 "x and y as arrays, not batches")
            steps = None if steps_per_epoch is None else positive(steps_per_epoch,
                                                                  "steps_per_epoch")
            take = partial(trainer.batch, class_weight)
            if ranks is not None:
                take = partial(_batch_of, ranks, split, take)
            source = Batches(x, steps, take, empty=ranks is not None)
            if source.ends and epochs - done > 1:
                raise ValueError(f"x can be gone through once, not {epochs - done} times: give "
                                 "something that can be iterated anew, or steps_per_epoch")
        else:
            if steps_per_epoch is not None:
                raise ValueError("steps_per_epoch needs batches, not x and y as arrays")
            samples = trainer.samples(x, y, sample_weight, others)
            if validation_split:
                if validation_data is not None:
                    raise ValueError("validation_data and validation_split exclude each other")
                samples, validation = samples.split(validation_split)
            samples = trainer.by_class(samples, class_weight, others)
            if shuffle:
                orders = self._orders(rng)
                if rng is not None and not isinstance(rng, np.random.Generator) and done < epochs:
                    for _ in range(done):
                        orders.permutation(len(samples))
            # The engine takes large batches in blocks, so there is nothing to gather.
            rows = min(batch_size * parts, max(1, len(samples)))
            source, batch_size, parts = samples, rows, 1
        if validation_data is not None:
            if not isinstance(validation_data, (tuple, list)):
                raise TypeError("validation_data must be a tuple, got "
                                f"{type(validation_data).__name__}")
            if len(validation_data) not in (2, 3):
                raise ValueError("validation_data must be (x, y) or (x, y, sample_weight), got "
                                 f"{len(validation_data)} items")
            x_val, y_val, *more = validation_data
            validation = trainer.samples(x_val, y_val, (more or [None])[0], others)
        progress = [Progress()] if verbose else []
        with self._use.training:
            before, stops = self._current_fit, self.stop_training   # a callback may fit as well
            try:
                trainer.forget_pending()
                self.stop_training = False
                fitting = self._current_fit = (
                    Fitting if ranks is None else partial(SharedFitting, ranks, split))(
                    self, trainer, source, validation, rows=batch_size, epochs=epochs, epoch=done,
                    orders=orders, parts=parts, callbacks=[*own_callbacks, *progress])
                return fitting.run()
            finally:
                self._current_fit = before
                if before is not None:
                    self.stop_training = stops
                trainer._pending = None         # as `forget_pending`, for which there may be no
                if self._engine is not None:    # memory
                    self._engine.forget_pending()
                for bar in progress:
                    bar.close()

    def _orders(self, rng: int | np.random.Generator | None) -> np.random.Generator:
        """Return the generator that is asked for, or the network's own."""
        if rng is not None:
            return generator(rng)
        if self._rng is None:
            self._rng = np.random.default_rng()
        return self._rng

    # ---- Measuring and predicting --------------------------------------------------------------

    def evaluate(
        self, x: Any, y: Any, sample_weight: Any = None, *, comm: Any = None, shard: str = "own",
    ) -> Scores:
        """Return mean loss and metrics of the network as it is.

        Parameters
        ----------
        x : array_like (n, in_features)
        y : array_like (n,) or (n, out_features)
        sample_weight : array_like (n,), optional
            What each sample counts in the loss; with `comm` as of `fit`.
        comm, shard
            As of `fit`: the loss and metrics of the samples of all ranks, which must have the same
            network.

        Returns
        -------
        scores : Scores
            The pair `loss, accuracy`, with all `metrics` by name; accuracy is None unless it is
            among them.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            As `train_step`.
        """
        with all_or_none(ranks := ranks_of(comm)):
            trainer, split = self._compiled(), splits(shard)
            samples = trainer.samples(x, y, sample_weight, None if split else ranks)
            if ranks is None:
                tally = trainer.measure(samples)
                return Scores(tally.loss, tally.measured())
            figures = SharedSteps(self, trainer, ranks).figures_of(samples, split)
            return Scores(figures.pop("loss"), figures)

    def predict(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the last layer's output: raw scores, where the network ends in a `Dense`.

        A row gets the same bits whatever the other rows are, while their number stays among 16 to
        31, 32 to 63, or is at least 64; each smaller number stands for itself. Of `frozen` these
        classes are 1, 2 to 3, and at least 4.

        Parameters
        ----------
        x : array_like (n, in_features)
        out : ndarray (n, out_features), optional
            Written to and returned; must have the network's dtype and not overlap `x`.

        Raises
        ------
        TypeError, ValueError
            Input that cannot be converted, a wrong shape, an unfit `out`.
        RuntimeError
            Another thread is training the network.
        """
        if foreign(x, self._dtype):
            return self._predict_map(x, out)
        if self._engine is not None:
            return self._engine.predict(x, out)
        *first, last = (getattr(layer, "predict", layer.forward) for layer in self._layers)
        if out is not None:
            self._check_apart(out, x, "the input")
        y = x
        with self._use:
            for predict in first:
                y = predict(y)
            y = last(y) if out is None else last(y, out)
        return self._output(y, out, self._layers[-1])

    def _predict_map(self, x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """Predict a memory map of another type, some rows at a time."""
        parts = max(1, len(x) // max(64, lazy_rows(x)))     # not so few that another way is quicker
        ends = [len(x) * part // parts for part in range(1, parts + 1)]
        with self._use:
            first = self.predict(np.asarray(x[:ends[0]]))
            shape = len(x), first.shape[1]
            if out is None:
                out = np.empty(shape, first.dtype)
            check_apart(out, x, "X")        # each part of it is written before the next is read
            if not isinstance(out, np.ndarray):
                raise TypeError(f"out must be a numpy.ndarray, got {type(out).__name__}")
            if out.shape != shape:
                raise ValueError(f"out must have shape {shape}, got {out.shape}")
            for start, end in pairwise([0, *ends]):
                self.predict(np.asarray(x[start:end]), out[start:end])
        return out

    def predict_proba(self, x: Any) -> np.ndarray:
        """Return probabilities (n, n_out).

        Of classes, by the softmax of scores, unless the network ends in one; of independent
        answers, by the sigmoid, where it is compiled with `BinaryCrossEntropy`.

        Raises
        ------
        TypeError, ValueError
            As `predict`; ValueError too for a network compiled with another loss of entries, such
            as `MeanSquaredError`.
        """
        return self._head().probabilities(self.predict(x))

    def _head(self) -> _Head:
        """Return what the output says about classes."""
        if self._ends_in(Softmax) or isinstance(self.loss, CrossEntropy):
            return _Head("identity", False)
        if self._ends_in(Sigmoid):
            return _Head("identity", True)
        if isinstance(self.loss, BinaryCrossEntropy):
            return _Head("sigmoid", True)
        if isinstance(self.loss, EntryLoss):
            return _Head(f"{type(self.loss).__name__} does not have", False)
        return _Head("softmax", False)

    def predict_labels(self, x: Any) -> np.ndarray:
        """Return the class of the largest score of each row, as int64 (n,); the first of equals.

        Of independent answers (see `predict_proba`) 1 where the probability is above 1/2, else 0,
        as (n, n_out), or (n,) where there is one output.

        Raises
        ------
        TypeError, ValueError
            As `predict`.
        """
        return self._head().labels(self.predict(x))

    def frozen(self) -> Predictor:
        """Return an immutable copy for prediction, with weights packed for speed.

        Raises
        ------
        ValueError
            The network has layers that are not built in.
        RuntimeError
            Another thread trains the network.
        """
        if self._engine is None or self._operations is None or self._parameters is None:
            raise ValueError("only a network of built-in layers, with a Dense among them, can be "
                             "frozen")
        with self._use:
            return Predictor(self._operations.list, self._parameters, self._flattens(),
                             self._engine.n_threads, self._head())

    # ---- To and from PyTorch -------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all parameters with PyTorch's names and layout.

        Layers count as the modules that `to_torch` makes of them: inner networks in the same row,
        and an activation of a `Dense` behind it, so that the second `Dense` of
        `[Dense(..., activation="relu"), Dense(...)]` has `"2.weight"`. The layers in a `Residual`
        count from 0 again, as in `parameters`: `"1.0.weight"`.

        Returns
        -------
        state : dict of str to ndarray
            Contiguous, in the network's dtype; a weight of a `Dense` is (out_features,
            in_features). `torch.nn.Module.load_state_dict` takes tensors: give it what
            `to_torch().state_dict()` gives.

        Raises
        ------
        ValueError
            A layer with parameters is not built in.
        RuntimeError
            Another thread trains the network.
        """
        with self._use:
            return {name: value.copy()
                    for name, value in _torch.named_parameters(_torch.unfolded(self._layers))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy parameters in that `state_dict` gave, here or in PyTorch.

        The optimizer, and which layers are trainable, stay as they are.

        Parameters
        ----------
        state : dict of str to array_like or torch.Tensor
            All parameters of the network, in the shapes of `state_dict`, of any floating-point
            type that NumPy knows; converted to the network's.

        Raises
        ------
        TypeError
            No dict; an entry that cannot be converted.
        ValueError
            Missing or unexpected names, a wrong shape, entries that are no floating-point numbers
            or too large for the network's dtype, a layer with parameters that is not built in.
        RuntimeError
            The network is in use by another thread.
            Whatever is raised, nothing has changed.
        """
        with self._use.exclusive:
            _torch.load(dict(_torch.named_parameters(_torch.unfolded(self._layers))), state)

    def to_torch(self) -> Any:
        """Return the network as a `torch.nn.Sequential`, with copies of the parameters.

        Each `Dense` is a `Linear`, with a module of its own behind it for its activation; modules
        of inner networks stand in the same row. Parameters keep their dtype, lie on the CPU, and
        require gradients where the layer is trainable. Like any new module it is in training mode:
        call `eval()` before it predicts, if there is a `Dropout` in it.

        Raises
        ------
        ImportError
            PyTorch is not installed.
        ValueError
            A layer that PyTorch has no module for: `Residual`, `Scale`, layers of one's own.
        RuntimeError
            Another thread trains the network.
        """
        with self._use:
            return _torch.module_of(_torch.unfolded(self._layers))

    @classmethod
    def from_torch(cls, module: Any) -> Self:
        """Return a network that predicts what a PyTorch module predicts in `eval()`.

        `fastnet.from_torch` is the same. Parameters are copied, from any device. A layer is
        trainable where its parameters require gradients. `Dropout` gets a new seed, which is
        different each time.

        Parameters
        ----------
        module : torch.nn.Sequential or a single module
            Of `Linear`, `ReLU`, `LeakyReLU`, `ELU`, `GELU`, `Sigmoid`, `Tanh`, `SiLU`, `Softmax`
            and `LogSoftmax` (of dimension 1 or -1), `Identity`, `Flatten` (of all dimensions but
            the first), `Dropout`, `LayerNorm` (over one dimension), and more such sequences, which
            become part of one row.
            A `BatchNorm1d` in evaluation mode becomes part of the `Linear` directly before it, or
            else of the one directly behind it. The network rounds differently then; if it is
            trained further, there is no normalization.

        Returns
        -------
        network : Sequential

        Raises
        ------
        ImportError
            PyTorch is not installed.
        TypeError
            No module.
        ValueError
            Another module, a subclass of one, or one with forward hooks; other options; a
            `BatchNorm1d` in training mode, without running statistics or without a `Linear` beside
            it; a dtype other than float32 and float64, or both of them; a layer that is frozen in
            part.
            Modules that share parameters, as one that stands in two places: layers here have their
            own, so training would drive them apart. Modules without parameters may be shared.
        """
        return cls(_torch.layers_of(module))

    # ---- Files, stopping and going on ----------------------------------------------------------

    def save(self, path: str | os.PathLike[str], *, include_optimizer: bool = True) -> None:
        """Write the network to a file, which `fastnet.load` reads.

        The file has the layers, their parameters, where dropout stands, and how to train: optimizer
        with all it keeps, loss, metrics, and where the network's own order of samples stands. So
        training goes on with the same bits. Gradients that `train_step` has gathered for a later
        update are not part of it. The file has the layout of safetensors; parameters have the names
        that `parameters` gives them.

        Parameters
        ----------
        path : str or path
            What stands there is replaced when the new file is complete, and never half.
        include_optimizer : bool
            False: without optimizer, loss and metrics.

        Raises
        ------
        ValueError
            A layer, optimizer, loss or metric that is not built in; the file is not touched.
        OSError
            The file cannot be written; what stood there is as it was.
        RuntimeError
            Another thread trains the network.
        """
        include_optimizer = flag(include_optimizer, "include_optimizer")
        with self._use:
            write_state(path, "network", self._file_state(include_optimizer))

    def _file_state(self, include_optimizer: bool = True) -> dict[str, Any]:
        """Return what a file holds: the network in words, and the state of its training."""
        trainer = self._trainer if include_optimizer else None
        state = self._training_state()
        return {
            "network": {**describe(self),
                        "compiled": None if trainer is None else trainer.description(),
                        "orders": None if self._rng is None else self._rng.bit_generator.state},
            **state, "optimizer": None if trainer is None else state["optimizer"], "fit": None}

    @classmethod
    def _of_file_state(cls, state: dict[str, Any]) -> Sequential:
        """Return the network that a file holds; one of several errors where it is none."""
        about, parameters = dict(state["network"]), state["parameters"]
        compiled, orders = about.pop("compiled"), about.pop("orders")
        expected = parameters_of(about)
        for name in expected.keys() | parameters.keys():    # before anything of a size is built
            value = parameters.get(name)
            given = None if value is None else (value.shape, str(value.dtype))
            if given != expected.get(name):
                raise ValueError(f"the parameter {name} is {given or 'missing'}, but must be "
                                 f"{expected.get(name) or 'left out'}")
        network = build(about)
        if not isinstance(network, cls):
            raise ValueError(f"it holds {type(network).__name__}, and no network")
        if compiled is not None:
            if set(compiled) != {"optimizer", "loss", "metrics", "keep_gradients"}:
                raise ValueError("how it was compiled is unknown")
            network.compile(build_bare(compiled["optimizer"]), build_bare(compiled["loss"]),
                            compiled["metrics"], keep_gradients=flag(compiled["keep_gradients"],
                                                                     "keep_gradients"))
        if orders is not None:
            network._rng = np.random.default_rng(0)
            set_random_state(network._rng.bit_generator, orders)
        network._set_training_state({**state, "fit": None})
        return network

    def _checkpoint_state(self) -> dict[str, Any]:
        """Return what a checkpoint holds: the state of a fit, and the network where it can."""
        state = self._training_state()
        try:
            return {**self._file_state(), **state}
        except ValueError:              # not built in: a checkpoint does without
            return {"network": None, **state}

    def _dropouts(self) -> list[Dropout]:
        """Return all layers that count what they have seen."""
        inner = (getattr(layer, "activation", None) for layer in _flat(self._layers))
        return [layer for layer in (*_flat(self._layers), *inner) if isinstance(layer, Dropout)]

    def _training_state(self) -> dict[str, Any]:
        """Return all that training needs to go on from here, besides the layers themselves.

        Numbers, text, None and arrays in lists and dicts; arrays are those in use.
        """
        optimizer = self.optimizer
        return {
            "parameters": {name: value for name, value, _ in self.parameters()},
            "dropout": [layer._seen.tolist() for layer in self._dropouts()],
            "optimizer": None if optimizer is None else optimizer._state(self._layers),
            "fit": None if self._current_fit is None else self._current_fit.state()}

    def _set_training_state(self, state: dict[str, Any]) -> None:
        """Go on from there; ValueError, and nothing is changed, where it is of another network."""
        parameters = list(self.parameters())
        if list(state["parameters"]) != [name for name, _, _ in parameters]:
            raise ValueError(f"its parameters are {', '.join(state['parameters'])}")
        for name, value, _ in parameters:
            found = state["parameters"][name]
            if found.shape != value.shape or found.dtype != value.dtype:
                raise ValueError(f"{name} is {found.dtype} {found.shape}, but must be "
                                 f"{value.dtype} {value.shape}")
        dropouts = self._dropouts()
        if len(state["dropout"]) != len(dropouts):
            raise ValueError(f"it has {len(state['dropout'])} Dropout layers")
        seen = np.array(state["dropout"], np.uint64).reshape(len(dropouts), 2)
        fit = self._current_fit if state["fit"] is not None else None
        if fit is not None:
            fit.check_state(state["fit"])
        calls = [*copying((value for _, value, _ in parameters), state["parameters"].values()),
                 *copying((layer._seen for layer in dropouts), seen)]
        with self._use.exclusive:
            if self._trainer is not None and state["optimizer"] is not None:
                calls += self._trainer.optimizer._restored(self._layers, state["optimizer"])
            if fit is not None:
                fit.set_state(state["fit"])     # which may call somebody's own callback
            _ops.at_once(calls)

    # ---- Looking at it -------------------------------------------------------------------------

    def summary(self) -> None:
        """Show every layer's output width and parameters, and the total; a table in notebooks."""
        table = self._table()
        try:
            from IPython import get_ipython  # type: ignore[import-not-found]
            if get_ipython() is not None:
                from IPython.display import display  # type: ignore[import-not-found]
                display(table)
                return
        except ImportError:
            pass
        print(table)

    def _table(self) -> _Table:
        rows: list[tuple[str, ...]] = [("layer", "output", "parameters")]
        width: int | None = None

        def walk(layers: Iterable[Any], indent: str) -> None:
            nonlocal width
            for layer in layers:
                own = 0
                if isinstance(layer, (Sequential, Residual)):
                    rows.append((f"{indent}{type(layer).__name__}", "", ""))
                    walk(layer.layers, indent + "  ")
                    continue
                own = sum(value.size for _, value, _ in layer.parameters())
                if isinstance(layer, Dense):
                    width = layer.out_features
                elif isinstance(layer, LayerNorm):
                    width = layer.features
                elif type(layer) not in BUILT_IN:
                    width = None
                frozen = "" if getattr(layer, "trainable", True) or not own else " (frozen)"
                rows.append((f"{indent}{layer!r}",
                             f"(n, {width})" if width is not None else "?", f"{own:,}{frozen}"))

        walk(self._layers, "")
        values = [value for _, value, _ in self.parameters()]
        total = sum(value.size for value in values)
        size = sum(value.nbytes for value in values)
        notes = [f"{total:,} parameters, {size:,} bytes, {self._dtype}"]
        if self._engine is None:
            foreign = sorted({
                repr(layer) if type(layer) is Dense else type(layer).__name__
                for layer in _flat(self._layers) if not _native(layer)})
            notes.append("runs layer by layer" + (
                f", because of {', '.join(foreign)}" if foreign else ", as it has no Dense"))
        elif self._trainer is not None and not self._trainer.runs_epochs:
            notes.append("trains layer by layer, as optimizer or loss is not built in")
        return _Table(rows, notes)

    def __repr__(self) -> str:
        return f"Sequential({list(self._layers)!r})"

    # ---- Copies --------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and copy layers and how to train them; buffers are made anew."""
        with self._use.training:                # refused while another thread does
            pass
        how = None if self._trainer is None else self._trainer.arguments()
        more = {name: value for name, value in vars(self).items() if name not in MADE_ANEW}
        return {"_layers": self._layers, "_rng": self._rng, "how": how,
                "n_threads": self._n_threads, "more": more}

    def __copy__(self) -> Sequential:
        """Return a copy with copies of the layers, each of which belongs to one network alone."""
        return deepcopy(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        Sequential.__init__(self, state["_layers"], state.get("n_threads"))
        vars(self).update(state.get("more", {}))
        self._rng = state["_rng"]
        if state["how"] is not None:
            self._trainer = Trainer(self, *state["how"])


register(Sequential, "layers")


class Predictor(_engine.Forward):
    """A network for prediction alone: its own packed copy of the weights, which never changes.

    Made by `Sequential.frozen`. Any number of threads may use one.
    """

    def __init__(
        self, operations: list[dict[str, Any]], parameters: np.ndarray, flattens: bool,
        n_threads: int, head: _Head,
    ) -> None:
        if "_head" in vars(self):
            raise RuntimeError("a Predictor never changes: make another one")
        self._head = head               # the others go to `__new__`

    def predict_proba(self, x: Any) -> np.ndarray:
        """Return probabilities: as `Sequential.predict_proba`."""
        return self._head.probabilities(self.predict(x))

    def predict_labels(self, x: Any) -> np.ndarray:
        """Return classes: as `Sequential.predict_labels`."""
        return self._head.labels(self.predict(x))

    def __reduce__(self) -> Any:
        reduced: Any = super().__reduce__()
        return reduced[0], (*reduced[1], self._head)

    def __repr__(self) -> str:
        return f"Predictor({self.in_features} to {self.out_features}, {self.dtype})"



