"""What all layers share: the contract, the arrays of parameters, and what they are converted to."""

from __future__ import annotations  # numpy.random is slow to import: not before it is used

from collections.abc import Iterable, Sequence
from copy import deepcopy
from operator import attrgetter
from typing import Any, Self, TypeAlias

import numpy as np

from fastnet import _ops
from fastnet._convert import Call, flag, own_arrays

Parameter = tuple[str, np.ndarray, np.ndarray]
Seed: TypeAlias = "int | np.random.Generator | None"


def float_type(dtype: Any) -> np.dtype:
    """Return float32 or float64 as a native numpy.dtype; ValueError for any other."""
    try:
        found: np.dtype = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}") from error
    if dtype is None or not found.isnative or found.name not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
    return found


class CheckedArray:
    """An array attribute, kept under `_name`: assigning checks the value and copies it in."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        return self if layer is None else getattr(layer, "_" + self.name)

    def __set__(self, layer: Any, value: Any) -> None:
        array = self.__get__(layer)
        if array is None:
            raise ValueError(f"{self.name} cannot be assigned: the layer was made without one")
        converted = _ops.as_floats(value, self.name, array.dtype)
        if converted.shape != array.shape:
            raise ValueError(f"{self.name} must have shape {array.shape}, got {converted.shape}")
        array[...] = converted


class Layer:
    """Base of the layers: no parameters, and a memory that one backward uses up."""

    _memory: Any = None
    takes_two = False   # inputs
    changes = 0         # how often `trainable` was set anywhere, for those who keep what it was

    @property
    def trainable(self) -> bool:
        """Whether optimizers change the parameters; a new value counts from the next step."""
        return bool(vars(self).get("_trainable", True))

    @trainable.setter
    def trainable(self, value: Any) -> None:
        vars(self)["_trainable"] = flag(value, "trainable")
        Layer.changes += 1

    def predict(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return what `forward` does, and leave alone what backward needs.

        Layers that only act in training return `x` as it is.
        """
        memory = self._memory
        try:
            y: np.ndarray = self.forward(x, out)        # type: ignore[attr-defined]
        finally:
            self._memory = memory
        return y

    def parameters(self) -> Iterable[Parameter]:
        """Return `(name, value, gradient)` for each parameter array."""
        return ()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and copy what lasts: not the memory of a pass, which holds somebody's data."""
        return {name: value for name, value in vars(self).items()
                if name not in ("_memory", "_passing")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(own_arrays(state))

    def __copy__(self) -> Self:
        """Return a copy with arrays of its own."""
        return deepcopy(self)

    def _recall(self) -> Any:
        """Return what forward remembered; RuntimeError if there is nothing (any more)."""
        if self._memory is None:
            raise self._no_memory()
        return self._memory

    def _no_memory(self) -> RuntimeError:
        return RuntimeError(f"{type(self).__name__}.backward needs a forward before it, "
                            "and can be called once for each")

    def _given(self) -> np.ndarray | None:
        """Return an array of the shape and dtype of the last forward's input, if that is known."""
        memory = self._recall()
        if isinstance(memory, np.ndarray):
            return memory
        first, *others = memory         # an array, or its dtype and shape
        return first if isinstance(first, np.ndarray) else np.empty(others[0], first)

    def _gradient(self, dy: Any) -> np.ndarray:
        """Return `dy` in the dtype that forward remembered; ValueError for another shape."""
        return self._fitting(dy, *self._recall())

    @staticmethod
    def _fitting(dy: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """Return `dy` in a dtype; ValueError for another shape."""
        gradient = _ops.as_floats(dy, "dY", dtype)
        if gradient.shape != shape:
            raise ValueError(f"dY must have shape {shape}, got {gradient.shape}")
        return gradient

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def is_layer(candidate: Any) -> bool:
    """Return whether an object keeps the contract, as far as its methods tell."""
    return not isinstance(candidate, type) and all(
        hasattr(candidate, name) for name in ("forward", "backward", "parameters"))


def listed(layers: Any) -> list[Any]:
    """Return layers as a list; TypeError for what does not hold any."""
    try:
        return list(layers)
    except TypeError as error:
        raise TypeError(f"layers must be a sequence of layers, got {layers!r}") from error


def chained(layers: Any) -> tuple[Any, ...]:
    """Return layers that stand one after the other; TypeError, ValueError for what cannot."""
    found = tuple(listed(layers))
    if not found:
        raise ValueError("layers must hold at least 1 layer, got 0")
    for layer in found:
        if not is_layer(layer):
            raise TypeError(f"layers must hold layers, got {layer!r}")
        if getattr(layer, "takes_two", False):
            raise TypeError(f"{layer!r} takes two inputs, and cannot stand in a sequence")
    return found


def check_apart(out: Any, given: Any, name: str) -> None:
    """ValueError where `out` overlaps what is still to be read when it is written."""
    if isinstance(out, np.ndarray) and isinstance(given, np.ndarray):
        if np.may_share_memory(out, given):
            raise ValueError(f"out must not overlap {name}")


def any_trainable(layers: Iterable[Any]) -> bool:
    """Return whether any of the layers that have parameters is trainable."""
    return any(getattr(layer, "trainable", True) for layer in layers
               if any(True for _ in layer.parameters()))


_memory_of = attrgetter("_memory")


def _passing(layers: Iterable[Any]) -> Iterable[Layer]:
    """Yield the layers that remember something of a pass, those inside others too."""
    for layer in layers:
        if isinstance(layer, Layer):
            yield layer
            yield from _passing(getattr(layer, "_chain", ()))
            yield from _passing([getattr(layer, "activation", None)])


class Chain(Layer):
    """Base of layers that hold others, one after the other."""

    _passing: tuple[list[Layer], list[np.ndarray]] | None = None

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers, in order."""
        raise NotImplementedError

    @property
    def _chain(self) -> tuple[Any, ...]:
        """What an optimizer goes into, to keep each layer's state under that layer."""
        return self.layers

    @property
    def trainable(self) -> bool:
        """Whether optimizers change parameters of the layers; setting it sets all of them."""
        return any_trainable(self.layers)

    @trainable.setter
    def trainable(self, value: Any) -> None:
        value = flag(value, "trainable")
        for layer in self.layers:
            layer.trainable = value

    def parameters(self) -> Iterable[Parameter]:
        """Yield the layers' parameters, named `"0.weight"` and so on."""
        for index, layer in enumerate(self.layers):
            for name, value, gradient in layer.parameters():
                yield f"{index}.{name}", value, gradient

    def _remembered(self) -> tuple[list[Any], list[int]]:
        """Return what layers remember of passes: for backward, and how much each Dropout saw."""
        if self._passing is None:
            inside = list(_passing(self.layers))
            self._passing = inside, [layer._seen for layer in inside if hasattr(layer, "_seen")]
        inside, seen = self._passing
        return list(map(_memory_of, inside)), [int(numbers[0]) for numbers in seen] if seen else []

    def _put_back(self, remembered: tuple[list[Any], list[int]]) -> None:
        """Let the layers remember that again, as a pass has failed."""
        assert self._passing is not None
        calls: list[Call] = [(vars(layer).update, ({"_memory": memory},))
                             for layer, memory in zip(self._passing[0], remembered[0], strict=True)]
        calls += [(numbers.__setitem__, (0, before))
                  for numbers, before in zip(self._passing[1], remembered[1], strict=True)]
        _ops.at_once(calls)


class WeightedLayer(Layer):
    """Base of the layers with a `weight` and a `bias`, each of which may be missing."""

    _weight: Any
    _bias: Any
    weight = CheckedArray()
    bias = CheckedArray()
    weight_grad = CheckedArray()
    bias_grad = CheckedArray()

    def _allocate(
        self, dtype: np.dtype, weight: np.ndarray | None, bias: np.ndarray | None
    ) -> None:
        self._dtype = dtype
        self._weight, self._bias = weight, bias
        self._weight_grad = None if weight is None else np.zeros_like(weight)
        self._bias_grad = None if bias is None else np.zeros_like(bias)
        # An array, so that a network's compiled code can look at it.
        self._trains = np.ones(1, np.uint8)
        self._parameters: tuple[Parameter, ...] = ()
        if weight is not None and self._weight_grad is not None:
            self._parameters += (("weight", weight, self._weight_grad),)
        if bias is not None and self._bias_grad is not None:
            self._parameters += (("bias", bias, self._bias_grad),)

    @property
    def dtype(self) -> np.dtype:
        """Type of parameters, outputs and gradients."""
        return self._dtype

    @property
    def trainable(self) -> bool:
        """Whether optimizers change the parameters; a new value counts from the next step."""
        return bool(self._trains[0])

    @trainable.setter
    def trainable(self, value: Any) -> None:
        self._trains[0] = flag(value, "trainable")
        Layer.changes += 1

    def parameters(self) -> Iterable[Parameter]:
        """Return `("weight", weight, weight_grad)` and `("bias", bias, bias_grad)`."""
        return self._parameters

    def _move(self, places: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Call]:
        """Copy values and gradients to these arrays; return the calls that let them live there.

        The arrays that were handed out before become read-only: a change would have no effect.
        """
        moved: dict[str, Any] = {"_parameters": ()}
        calls: list[Call] = [(vars(self).update, (moved,))]
        for (name, *old), new in zip(self._parameters, places, strict=True):
            for source, place in zip(old, new, strict=True):
                place[...] = source
                calls.append((source.setflags, (False,)))
            moved["_parameters"] += ((name, *new),)
            moved[f"_{name}"], moved[f"_{name}_grad"] = new
        return calls
