"""Optimizers: they change parameters in place by the gradients that backward left on the layers.

All of them take, besides their own options,

* `weight_decay`: an L2 penalty, `g + weight_decay * w` in place of g (`AdamW`: see there);
* `decay_vectors`: False spares biases and the parameters of `LayerNorm` from it;
* `clip_value`: each entry of a gradient is kept within -clip_value and clip_value, before decay;
* `clip_norm`: if the norm of all gradients together is larger, they are multiplied by
  `clip_norm / (norm + 1e-6)`, before anything else (Pascanu et al., 2013; so PyTorch).

`lr` is a number, or a callable that gives the learning rate of a step by the number of those
taken before (see `fastnet.schedules`). Options can be assigned later, and count from the next step.
"""

import math
import operator
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from copy import deepcopy
from itertools import pairwise
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np

from fastnet import _ops
from fastnet._convert import Call, flag, own_arrays, whole, within
from fastnet._layer import Layer, listed

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop"]

_MOST_STEPS = 2**53 - 1             # which floats count exactly
Rate: TypeAlias = float | Callable[[int], float]
States: TypeAlias = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]


def _has_parameters(candidate: Any) -> bool:
    return hasattr(candidate, "parameters") and not isinstance(candidate, type)


def _leaves(layers: Iterable[Any]) -> Iterator[Any]:
    """Yield layers, and in place of those that hold others these."""
    for layer in layers:
        inner = getattr(layer, "_chain", None)
        if inner is None:
            yield layer
        else:
            yield from _leaves(inner)


def _overlap(arrays: list[Any]) -> bool:
    """Return whether two contiguous arrays share memory."""
    spans = sorted((array.__array_interface__["data"][0], array.nbytes)
                   for array in arrays if isinstance(array, np.ndarray))
    return any(start + size > following for (start, size), (following, _) in pairwise(spans))


def _copied(state: np.ndarray | None) -> np.ndarray | None:
    return None if state is None else state.copy()


class _ByLayer(MutableMapping[Any, list[States]]):
    """States by layer; a layer need not be hashable, and those that compare equal are two."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Any, list[States]]] = {}

    def __getitem__(self, layer: Any) -> list[States]:
        return self._kept[id(layer)][1]

    def __setitem__(self, layer: Any, states: list[States]) -> None:
        self._kept[id(layer)] = layer, states

    def __delitem__(self, layer: Any) -> None:
        del self._kept[id(layer)]

    def __iter__(self) -> Iterator[Any]:
        return (layer for layer, _ in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def __or__(self, others: "_ByLayer") -> "_ByLayer":
        both = _ByLayer()
        both._kept = self._kept | others._kept
        return both

    def __reduce__(self) -> Any:
        return _ByLayer, (), None, None, iter(self.items())     # ids are others there


class _Plan(NamedTuple):
    """What one step took from a list of layers, for the next step with the same."""

    layers: list[Any]
    gradients: list[np.ndarray]
    values: list[np.ndarray]
    states: tuple[list[Any], list[Any], list[Any]]      # the first of each parameter, the second...
    decays: list[bool] | None
    changes: int                # of what is trainable

    def fits(self, layers: Any) -> bool:
        """Return whether these are the same layers."""
        return (type(layers) is list and _ops.same_objects(self.layers, layers)
                and self.changes == Layer.changes)


class _Option:
    """A number, kept under `_name`: assigning checks that it lies in an interval."""

    def __init__(self, doc: str, low: float = 0.0, high: float = math.inf, *,
                 above: bool = False, optional: bool = False) -> None:
        self.__doc__ = doc
        self.interval = f"{'(' if above else '['}{low:g}, {high:g})"
        self.optional = optional

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        return self if optimizer is None else getattr(optimizer, "_" + self.name)

    def __set__(self, optimizer: Any, value: Any) -> None:
        number = None
        if value is not None or not self.optional:
            number = within(value, self.name, self.interval)
        optimizer._check(self.name, number)
        key, kept, states = "_" + self.name, vars(optimizer), optimizer._states
        if self.name == "momentum" and not number:          # forgets
            states = _ByLayer()
            for layer, own in optimizer._states.items():
                states[layer] = [(None, second, third) for _, second, third in own]
        # No call from here on: Ctrl-C comes before all of it, or after.
        optimizer.version += 1
        optimizer._plan, optimizer._states, kept[key] = None, states, number


class Optimizer:
    """Base of the optimizers: their options, and the states of parameters by layer."""

    rule = ""
    _lr: float
    _schedule: Callable[[int], float] | None = None
    _weight_decay: float = 0.0
    _clip_norm: float | None = None
    _clip_value: float | None = None
    _momentum: float = 0.0
    weight_decay: Any = _Option("Factor of the L2 penalty's gradient.")
    clip_norm: Any = _Option("Largest norm of all gradients, or None.", above=True, optional=True)
    clip_value: Any = _Option("Largest entry of a gradient, or None.", above=True, optional=True)

    def __init__(
        self, lr: Rate, weight_decay: float = 0.0,
        decay_vectors: bool = True,
        clip_norm: float | None = None, clip_value: float | None = None,
    ) -> None:
        self._states = _ByLayer()           # in parameters' order
        self._plan: _Plan | None = None
        self.taken = np.zeros(1, np.int64)  # steps: an array, so that compiled code can count
        self.version = 0            # grows with every change of an option
        self.lr = lr
        self.weight_decay = weight_decay
        self.decay_vectors = decay_vectors
        self.clip_norm = clip_norm
        self.clip_value = clip_value

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a pickle; those of older versions have the number of steps as it is."""
        vars(self).update(own_arrays(state))
        self._plan, self._states = None, _ByLayer()
        for layer, states in state["_states"].items():
            self._states[layer] = own_arrays(states)
        if "steps" in state:
            self.taken = np.zeros(1, np.int64)
            self.steps = vars(self).pop("steps")

    def __copy__(self) -> Self:
        """Return a copy with states of its own, for the same layers."""
        return deepcopy(self, {id(layer): layer for layer in self._states})

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return int(self.taken[0])

    @steps.setter
    def steps(self, value: int) -> None:
        value = whole(value, "steps", 0)
        if value > _MOST_STEPS:
            raise ValueError(f"steps must be in the interval [0, {_MOST_STEPS}], got {value}")
        self.taken[0] = value

    @property
    def lr(self) -> Any:
        """Learning rate of the next step; a number or a schedule can be assigned."""
        return self._lr if self._schedule is None else self._scheduled(self.steps)

    @lr.setter
    def lr(self, value: Any) -> None:
        schedule = value if callable(value) else None
        lr = within(value, "lr", "[0, inf)") if schedule is None else self._scheduled(
            self.steps, schedule)
        self._lr, self._schedule = lr, schedule         # no call from here on: see `_Option`
        self.version += 1

    def _scheduled(self, step: int, schedule: Callable[[int], float] | None = None) -> float:
        """Return what a schedule, by default the own one, gives for a step, checked."""
        asked = self._schedule if schedule is None else schedule
        assert asked is not None
        return within(asked(step), f"lr of step {step}", "[0, inf)")

    def _next(self, steps: int) -> list[float]:
        """Return the learning rates of the next steps; the last one stands for more."""
        if self._schedule is None:
            return [self._lr]
        return [self._scheduled(self.steps + i) for i in range(steps)]

    @property
    def schedule(self) -> Callable[[int], float] | None:
        """What gives the learning rate of each step, if it is no number."""
        return self._schedule

    @property
    def constant(self) -> bool:
        """Whether rates are the same for every step."""
        return self._schedule is None

    def _state(self, layers: Iterable[Any]) -> dict[str, Any]:
        """Return all that steps have changed: what is kept for each parameter, and how far it is.
        """
        return {"name": type(self).__name__, "steps": self.steps,
                "lr": None if self._schedule is not None else self._lr,
                "states": [self._states.get(layer) for layer in _leaves(layers)]}

    def _restored(self, layers: Iterable[Any], state: dict[str, Any]) -> list[Call]:
        """Return the calls that let it go on from there; an error where that does not fit."""
        leaves = list(_leaves(layers))
        if state["name"] != type(self).__name__:
            raise ValueError(f"its optimizer is {state['name']}, not {type(self).__name__}")
        if len(state["states"]) != len(leaves):
            raise ValueError(f"its optimizer has states of {len(state['states'])} layers")
        steps = whole(state["steps"], "steps of the optimizer", 0)
        if steps > _MOST_STEPS:
            raise ValueError(f"its optimizer has taken {steps} steps")
        states = _ByLayer()
        for layer, given in zip(leaves, state["states"], strict=True):
            if given is None:
                continue
            values = [value for _, value, _ in layer.parameters()]
            states[layer] = [(_copied(first), _copied(second), _copied(third))
                             for first, second, third in given]
            if len(given) != len(values) or any(
                    one is not None and (one.shape, one.dtype) != (value.shape, value.dtype)
                    for value, own in zip(values, states[layer], strict=True) for one in own):
                raise ValueError(f"its optimizer's states do not fit {layer!r}")
        new: dict[str, Any] = {"_states": states, "_plan": None, "version": self.version + 1}
        if state["lr"] is not None and self._schedule is None:
            new["_lr"] = within(state["lr"], "lr", "[0, inf)")
        return [(vars(self).update, (new,)), (operator.setitem, (self.taken, 0, steps))]

    def _assignable(self) -> dict[str, Any]:
        """Return all numbers that can be assigned, without a schedule."""
        names = [name for name in dir(type(self)) if isinstance(getattr(type(self), name), _Option)]
        found = {name: getattr(self, name) for name in (*names, "decay_vectors")}
        return found if self._schedule is not None else {**found, "lr": self._lr}

    def _assign(self, options: dict[str, Any]) -> None:
        """Assign those that are others."""
        own = self._assignable()
        for name, value in options.items():
            if own.get(name) != value:
                setattr(self, name, value)

    def _check(self, name: str, value: float | None) -> None:
        """Refuse what does not go together with other options."""

    @property
    def decay_vectors(self) -> bool:
        """Whether biases and the parameters of `LayerNorm` decay as well."""
        return self._decay_vectors

    @decay_vectors.setter
    def decay_vectors(self, value: bool) -> None:
        self._decay_vectors, self._plan = flag(value, "decay_vectors"), None
        self.version += 1

    @property
    def _uses(self) -> tuple[bool, bool, bool]:
        """Which of the three states a parameter has."""
        raise NotImplementedError

    def rates(self, steps: int) -> np.ndarray:
        """Return rate, root, shrink and decay of the next steps, as the kernel takes them.

        The last of them stands for more.
        """
        lrs = self._next(steps)
        rates = np.empty((len(lrs), 4))
        for i, lr in enumerate(lrs):
            rates[i] = lr, 1.0, 1.0, self.decay
        return rates

    def numbers(self) -> dict[str, float]:
        """Return the rule's own numbers, as `Update` in _table.pxd calls them."""
        raise NotImplementedError

    def step(self, layers: Any) -> None:
        """Update the parameters of all layers once; all are checked before anything changes.

        Parameters
        ----------
        layers : iterable of layers, or one layer
            Each yields `(name, value, gradient)` from `parameters()`.

        Raises
        ------
        ValueError
            The same parameter twice; arrays that are not float32 or float64, contiguous and
            writable, or gradients of another shape or dtype than their parameters.
        TypeError
            Something that is not a layer, or whose parameters are no arrays.
        """
        plan, started = self._plan, None
        if plan is None or not plan.fits(layers):
            self._plan = None
            chain = [layers] if _has_parameters(layers) else listed(layers)
            plan, started = self._prepare(chain)
        # What comes with parameters that have changed is here before, or is done by the kernel's
        # call: no want of memory and no Ctrl-C shall come between.
        steps, states = self.steps, self._states
        if started is not None:
            self._states = states | started         # zeros, so far
        try:
            self._apply(plan)
        except BaseException as error:
            if _ops.counts(self.taken, steps):      # it was refused
                self._states = states
                if started is None and isinstance(error, ValueError):
                    self._plan = None   # a layer may have joined a network, which moves its arrays
                    self.step(layers)
                    return
            raise
        if started is not None:
            if all(isinstance(layer, Layer) and type(layer.parameters()) is tuple
                   for layer in chain):
                self._plan = plan

    def _apply(self, plan: _Plan) -> None:
        """Call the kernel for all parameters of a plan, once; it counts the step as well."""
        raise NotImplementedError

    def _common(self, plan: _Plan) -> dict[str, Any]:
        """Return the kernel's arguments that all rules share."""
        scale = 1.0
        if self._clip_norm is not None:
            norm = math.sqrt(sum(map(_ops.sum_of_squares, plan.gradients)))
            scale = min(1.0, self._clip_norm / (norm + 1e-6))
        return {"scale": scale, "decay": self.decay, "decays": plan.decays,
                "clip": math.inf if self._clip_value is None else self._clip_value,
                "taken": self.taken}

    @property
    def decay(self) -> float:
        """What times a parameter is added to its gradient."""
        decay: float = self._weight_decay
        return decay

    def _prepare(self, layers: list[Any]) -> tuple[_Plan, _ByLayer]:
        """Return what a step needs, and the states that start with it."""
        decays: list[bool] | None = None if self.decay_vectors else []
        plan = _Plan(layers, [], [], ([], [], []), decays, Layer.changes)
        started = _ByLayer()
        for layer in _leaves(layers):
            if not _has_parameters(layer):
                raise TypeError(f"layers must hold layers, got {layer!r}")
            if not getattr(layer, "trainable", True):
                continue
            own = list(layer.parameters())
            plan.values.extend(value for _, value, _ in own)
            plan.gradients.extend(gradient for _, _, gradient in own)
            if decays is not None:
                decays.extend(value.ndim > 1 for _, value, _ in own)
            states = self._states_of(layer, own)
            if states is not self._states.get(layer):
                started[layer] = states
            for one in states:
                for place, state in zip(plan.states, one, strict=True):
                    place.append(state)
        if _overlap(plan.values):
            raise ValueError("layers must hold each parameter once, but one came twice")
        return plan, started

    def _states_of(self, layer: Any, parameters: list[Any]) -> list[States]:
        """Return what is kept for a layer, or zeros where nothing is."""
        kept = self._states.get(layer)
        if kept is None:
            kept = [(None, None, None)] * len(parameters)
        if len(kept) != len(parameters):
            raise ValueError(f"{layer!r} had {len(kept)} parameters before, got {len(parameters)}")
        uses, complete = self._uses, []
        for (_, value, _), states in zip(parameters, kept, strict=True):
            first, second, third = (
                state if not used or state is not None else np.zeros_like(value)
                for state, used in zip(states, uses, strict=True))
            complete.append((first, second, third))
        same = all(a is b for old, new in zip(kept, complete, strict=True)
                   for a, b in zip(old, new, strict=True))
        return kept if same and layer in self._states else complete

    def _keep(self, layer: Any, places: list[States]) -> None:
        """Let the states of a layer live in these arrays, which are 0, from now on."""
        kept = self._states.get(layer, [])
        for new, old in zip(places, kept, strict=False):
            for place, state in zip(new, old, strict=True):
                if place is not None and state is not None:
                    place[...] = state
        self._states[layer] = places
        self._plan = None

    def _options(self) -> dict[str, Any]:
        """Return what differs from the defaults, by name."""
        options: dict[str, Any] = {}
        if self._weight_decay or isinstance(self, AdamW):       # whose default is not 0
            options["weight_decay"] = self._weight_decay
        if not self.decay_vectors:
            options["decay_vectors"] = False
        if self._clip_norm is not None:
            options["clip_norm"] = self._clip_norm
        if self._clip_value is not None:
            options["clip_value"] = self._clip_value
        return options

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self._options().items())
        lr = self._lr if self._schedule is None else self._schedule
        return f"{type(self).__name__}(lr={lr!r}{options})"


class SGD(Optimizer):
    """Gradient descent with momentum.

    `v = momentum * v + g` and `w = w - lr * v`, or `w = w - lr * (g + momentum * v)` with
    `nesterov`, as PyTorch does it. v starts at 0 and belongs to the optimizer. While lr is
    constant this is the same as `v = momentum * v + lr * g`, `w = w - v` (exercise F).
    Both forms of momentum: Sutskever et al., 2013.

    Parameters
    ----------
    lr : float or callable
        Learning rate, in [0, inf), or a schedule.
    momentum : float
        In [0, 1).
    nesterov : bool
        Needs a positive momentum.
    weight_decay, decay_vectors, clip_norm, clip_value
        See `fastnet.optimizers`.

    Raises
    ------
    TypeError
        A hyper-parameter that is no number.
    ValueError
        One outside its interval. Each can also be assigned later, with the same checks.
    """

    rule = "sgd"
    _momentum: float
    momentum: Any = _Option(
        "Share of the velocity that is kept from one step to the next; 0 forgets velocities.",
        high=1.0)

    def __init__(
        self, lr: Rate, momentum: float = 0.0, nesterov: bool = False, *,
        weight_decay: float = 0.0, decay_vectors: bool = True,
        clip_norm: float | None = None, clip_value: float | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, decay_vectors, clip_norm, clip_value)
        self.momentum = momentum
        self.nesterov = nesterov

    def _check(self, name: str, value: float | None) -> None:
        if name == "momentum" and value == 0 and getattr(self, "_nesterov", False):
            raise ValueError("momentum must be in the interval (0, 1) with nesterov, got 0.0")

    @property
    def nesterov(self) -> bool:
        """Whether the step looks ahead along the velocity."""
        return self._nesterov

    @nesterov.setter
    def nesterov(self, value: bool) -> None:
        value = flag(value, "nesterov")
        if value and self._momentum == 0:
            raise ValueError("momentum must be in the interval (0, 1) with nesterov, got 0.0")
        self._nesterov = value
        self.version += 1

    @property
    def _uses(self) -> tuple[bool, bool, bool]:
        return bool(self._momentum), False, False

    def numbers(self) -> dict[str, float]:
        """See `Optimizer.numbers`."""
        if self._nesterov:
            return {"momentum": self._momentum, "look": self._momentum, "direct": 1.0}
        return {"momentum": self._momentum}

    def _apply(self, plan: _Plan) -> None:
        velocities = plan.states[0] if self._momentum else [None] * len(plan.values)
        lr = self._lr if self._schedule is None else self._scheduled(self.steps)
        if not (self._weight_decay or self._clip_norm or self._clip_value):     # it is quicker
            _ops.sgd_update(plan.gradients, plan.values, velocities,
                            lr, self._momentum, self._nesterov, taken=self.taken)
        else:
            _ops.sgd_update(plan.gradients, plan.values, velocities,
                            lr, self._momentum, self._nesterov, **self._common(plan))

    def _options(self) -> dict[str, Any]:
        nesterov = {"nesterov": True} if self._nesterov else {}
        return {"momentum": self._momentum, **nesterov, **super()._options()}


class Adam(Optimizer):
    """Adam: steps by the mean of gradients over the root of the mean of their squares.

    `m = beta1 * m + (1 - beta1) * g`, `s = beta2 * s + (1 - beta2) * g**2` and, at step t,
    `w = w - lr * (m / (1 - beta1**t)) / (sqrt(s / (1 - beta2**t)) + eps)`, as PyTorch does it
    (Kingma and Ba, 2015). The t is the optimizer's count of steps, while PyTorch has one for each
    parameter: a layer that is thawed after many steps takes larger first steps here, about twice
    as large after 500.

    Parameters
    ----------
    lr : float or callable
        In [0, inf), or a schedule.
    betas : (float, float)
        Each in [0, 1).
    eps : float
        In (0, inf).
    weight_decay, decay_vectors, clip_norm, clip_value
        See `fastnet.optimizers`.

    Raises
    ------
    TypeError, ValueError
        As `SGD`.
    """

    rule = "adam"
    _beta1: float
    _beta2: float
    _eps: float
    beta1: Any = _Option("Share of the mean that is kept from one step to the next.", high=1.0)
    beta2: Any = _Option("Likewise of the mean of squares.", high=1.0)
    eps: Any = _Option("Added to the root, so that nothing is divided by 0.", above=True)

    def __init__(
        self, lr: Rate = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, *,
        weight_decay: float = 0.0, decay_vectors: bool = True,
        clip_norm: float | None = None, clip_value: float | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, decay_vectors, clip_norm, clip_value)
        try:
            self.beta1, self.beta2 = betas
        except (TypeError, ValueError) as error:
            if isinstance(betas, (tuple, list)) and len(betas) == 2:
                raise
            raise TypeError(f"betas must be a pair of numbers, got {betas!r}") from error
        self.eps = eps

    @property
    def betas(self) -> tuple[float, float]:
        """Both betas."""
        return self._beta1, self._beta2

    @property
    def _uses(self) -> tuple[bool, bool, bool]:
        return True, True, False

    def rates(self, steps: int) -> np.ndarray:
        """See `Optimizer.rates`."""
        rates: np.ndarray = _ops.adam_rates(
            self._next(steps), self.steps, steps, self._beta1, self._beta2, self._own_decay,
            self.decay)
        return rates

    @property
    def constant(self) -> bool:
        """Whether rates are the same for every step: the correction for a short past is not."""
        return False

    @property
    def _own_decay(self) -> float:
        """What times lr a parameter loses of itself, besides the step."""
        return 0.0

    def numbers(self) -> dict[str, float]:
        """See `Optimizer.numbers`."""
        return {"momentum": self._beta1, "memory": self._beta2, "eps": self._eps}

    def _apply(self, plan: _Plan) -> None:
        rate, root, shrink, _ = self.rates(1)[0].tolist()
        _ops.adam_update(
            plan.gradients, plan.values, plan.states[0], plan.states[1], rate=rate,
            beta1=self._beta1, beta2=self._beta2, eps=self._eps, root=root, shrink=shrink,
            **self._common(plan))

    def _options(self) -> dict[str, Any]:
        options = {"betas": self.betas} if self.betas != (0.9, 0.999) else {}
        eps = {"eps": self._eps} if self._eps != 1e-8 else {}
        return {**options, **eps, **super()._options()}


class AdamW(Adam):
    """Adam with a decay of its own: `w = (1 - lr * weight_decay) * w` before Adam's step.

    The decay does not go through the gradient's means, so it is the same for all parameters
    (Loshchilov and Hutter, 2019).

    Parameters
    ----------
    weight_decay : float
        In [0, inf).
    lr, betas, eps, decay_vectors, clip_norm, clip_value
        As of `Adam`.

    Raises
    ------
    TypeError, ValueError
        As `SGD`.
    """

    def __init__(
        self, lr: Rate = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, *,
        weight_decay: float = 0.01, decay_vectors: bool = True,
        clip_norm: float | None = None, clip_value: float | None = None,
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay=weight_decay, decay_vectors=decay_vectors,
                         clip_norm=clip_norm, clip_value=clip_value)

    @property
    def decay(self) -> float:
        """0: this decay is not added to gradients."""
        return 0.0

    @property
    def _own_decay(self) -> float:
        return self._weight_decay


class RMSprop(Optimizer):
    """Steps by gradients over the root of the mean of their squares.

    `s = alpha * s + (1 - alpha) * g**2` and `w = w - lr * g / (sqrt(s) + eps)`. With `momentum`
    `v = momentum * v + g / (sqrt(s) + eps)` and `w = w - lr * v`; `centered` takes the variance in
    place of s, by a mean of the gradients. As PyTorch does it (Tieleman and Hinton, 2012; centered:
    Graves, 2013); a variance that is rounded below 0 counts as 0.

    Parameters
    ----------
    lr : float or callable
        In [0, inf), or a schedule.
    alpha : float
        In [0, 1).
    eps : float
        In (0, inf).
    momentum : float
        In [0, 1).
    centered : bool
    weight_decay, decay_vectors, clip_norm, clip_value
        See `fastnet.optimizers`.

    Raises
    ------
    TypeError, ValueError
        As `SGD`.
    """

    rule = "rmsprop"
    _alpha: float
    _eps: float
    _momentum: float
    alpha: Any = _Option("Share of the means that is kept from one step to the next.", high=1.0)
    eps: Any = _Option("Added to the root, so that nothing is divided by 0.", above=True)
    momentum: Any = _Option("Share of the velocity that is kept.", high=1.0)

    def __init__(
        self, lr: Rate = 0.01, alpha: float = 0.99, eps: float = 1e-8, momentum: float = 0.0,
        centered: bool = False, *,
        weight_decay: float = 0.0, decay_vectors: bool = True,
        clip_norm: float | None = None, clip_value: float | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, decay_vectors, clip_norm, clip_value)
        self.alpha, self.eps, self.momentum = alpha, eps, momentum
        self._centered = flag(centered, "centered")

    @property
    def centered(self) -> bool:
        """Whether the gradients' mean is taken off."""
        return self._centered

    @property
    def _uses(self) -> tuple[bool, bool, bool]:
        return bool(self._momentum), True, self._centered

    def numbers(self) -> dict[str, float]:
        """See `Optimizer.numbers`."""
        return {"momentum": self._momentum, "memory": self._alpha, "eps": self._eps}

    def _apply(self, plan: _Plan) -> None:
        first, squares, third = plan.states
        _ops.rmsprop_update(
            plan.gradients, plan.values, squares, first if self._momentum else None,
            third if self._centered else None, rate=self.lr, alpha=self._alpha, eps=self._eps,
            momentum=self._momentum, **self._common(plan))

    def _options(self) -> dict[str, Any]:
        own: dict[str, Any] = {"alpha": self._alpha} if self._alpha != 0.99 else {}
        if self._eps != 1e-8:
            own["eps"] = self._eps
        if self._momentum:
            own["momentum"] = self._momentum
        if self._centered:
            own["centered"] = True
        return {**own, **super()._options()}
