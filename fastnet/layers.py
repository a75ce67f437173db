"""Layers: parameters, what backward needs to remember, and one kernel call per pass.

Every layer keeps the same contract, and a layer of one's own is a class that keeps it too:

* `forward(x)` returns the output and remembers what `backward` will need; it leaves `x` alone;
* `backward(dy)` takes the gradient of the loss by that output, leaves the gradients of the
  parameters on the layer (overwriting the last ones) and returns the gradient by `x`;
* `parameters()` gives `(name, value, gradient)` for each, always the same arrays in the same order:
  optimizers change the values in place. Where it is a tuple they take it as fixed, and work faster.

Both passes return fresh arrays that the layer never touches again; with `out=` they write to an
array of the caller's. `backward` belongs to the last `forward` and can be called once for it. It
reads the input again (`Softmax`: the output), so changing that between the passes changes the
gradients.
Inputs may be anything that is harmless to convert: lists, integers, other float types and memory
orders. A converted input is a copy, and then later changes of the original are not seen.

Exercises A to F, named as sources of formulas, are worked by hand in `examples/`.
"""

from __future__ import annotations  # numpy.random is slow to import: not before it is used

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from fastnet import _ops, initializers
from fastnet._convert import finite, positive

__all__ = ["Add", "Dense", "Flatten", "Layer", "Maximum", "ReLU", "Residual", "Scale", "Softmax"]

Parameter = tuple[str, np.ndarray, np.ndarray]
Seed: TypeAlias = "int | np.random.Generator | None"


def _float_type(dtype: Any) -> np.dtype:
    """Return float32 or float64 as a native numpy.dtype; ValueError for any other."""
    try:
        found: np.dtype = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}") from error
    if dtype is None or not found.isnative or found.name not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
    return found


class _CheckedArray:
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

    def parameters(self) -> Iterable[Parameter]:
        """Return `(name, value, gradient)` for each parameter array."""
        return ()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and copy what lasts: not the memory of a pass, which holds somebody's data."""
        return {name: value for name, value in vars(self).items() if name != "_memory"}

    def _recall(self) -> Any:
        """Return what forward remembered; RuntimeError if there is nothing (any more)."""
        if self._memory is None:
            raise self._no_memory()
        return self._memory

    def _no_memory(self) -> RuntimeError:
        return RuntimeError(f"{type(self).__name__}.backward needs a forward before it, "
                            "and can be called once for each")

    def _gradient(self, dy: Any) -> np.ndarray:
        """Return `dy` in the dtype that forward remembered; ValueError for another shape."""
        dtype, shape = self._recall()
        gradient = _ops.as_floats(dy, "dY", dtype)
        if gradient.shape != shape:
            raise ValueError(f"dY must have shape {shape}, got {gradient.shape}")
        return gradient

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _is_layer(candidate: Any) -> bool:
    """Return whether an object keeps the contract, as far as its methods tell."""
    return not isinstance(candidate, type) and all(
        hasattr(candidate, name) for name in ("forward", "backward", "parameters"))


class Dense(Layer):
    """Fully connected layer: `y = x @ weight + bias`.

    Backward: `dx = dy @ weight.T`, `weight_grad = x.T @ dy`, `bias_grad = dy.sum(axis=0)`, by the
    chain rule on `y_ij = sum_k x_ik weight_kj + bias_j` (exercises B and F).

    Parameters
    ----------
    in_features, out_features : int
        Widths of input and output, at least 1.
    bias : bool
        Whether there is a bias.
    weight_init, bias_init : str or callable
        See `fastnet.initializers`.
    dtype : {"float32", "float64"}
        Of parameters, outputs and gradients; inputs are converted to it.
    rng : int, numpy.random.Generator or None
        Source of the initial values; None: different ones each time. Give several layers one
        generator: the same int would give them the same numbers.

    Attributes
    ----------
    weight : ndarray (in_features, out_features)
    bias : ndarray (out_features,), or None
    weight_grad, bias_grad : ndarray
        Gradients, in the shapes of `weight` and `bias`; 0 until the first backward.
        All four can be read, changed in place, and assigned: values are checked and copied in.

    Raises
    ------
    TypeError, ValueError
        Widths that are no positive integers, another dtype, an unknown initializer.
    MemoryError
        More weights than memory holds.
    """

    _weight: np.ndarray
    weight = _CheckedArray()
    bias = _CheckedArray()
    weight_grad = _CheckedArray()
    bias_grad = _CheckedArray()

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight_init: str | initializers.Initializer = "glorot_uniform",
        bias_init: str | initializers.Initializer = "zeros",
        dtype: Any = "float32",
        rng: Seed = None,
    ) -> None:
        n_in, n_out = positive(in_features, "in_features"), positive(out_features, "out_features")
        dtype = _float_type(dtype)
        if not isinstance(bias, (bool, np.bool_)):
            raise TypeError(f"bias must be a bool, got {bias!r}")
        weight_init = initializers.get(weight_init, "weight_init")
        bias_init = initializers.get(bias_init, "bias_init")
        generator = np.random.default_rng(rng)
        if n_in * n_out > sys.maxsize // dtype.itemsize:
            raise MemoryError(f"no memory holds {n_in} x {n_out} weights")

        self._weight = np.empty((n_in, n_out), dtype)
        self._weight_grad = np.zeros_like(self._weight)
        self._bias = np.empty(n_out, dtype) if bias else None
        self._bias_grad = np.zeros(n_out, dtype) if bias else None
        self.weight = weight_init((n_in, n_out), generator)
        if bias:
            self.bias = bias_init((n_out,), generator)
        self._parameters: tuple[Parameter, ...] = (("weight", self._weight, self._weight_grad),)
        if self._bias is not None and self._bias_grad is not None:
            self._parameters += (("bias", self._bias, self._bias_grad),)

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return int(self._weight.shape[0])

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return int(self._weight.shape[1])

    @property
    def dtype(self) -> np.dtype:
        """Type of parameters, outputs and gradients."""
        return self._weight.dtype

    def forward(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return `x @ weight + bias`.

        Parameters
        ----------
        x : array_like (n, in_features)
        out : ndarray (n, out_features), optional
            Written to and returned; must have the layer's dtype and not overlap `x`.

        Raises
        ------
        TypeError, ValueError
            An input that cannot be converted, a wrong shape, an unfit `out`.
        """
        x = _ops.as_floats(x, "X", self._weight.dtype)
        y = _ops.dense_forward(x, self._weight, self._bias, out)
        self._memory = x
        return y

    def backward(self, dy: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Set `weight_grad` and `bias_grad`, and return the gradient by the input.

        Parameters
        ----------
        dy : array_like (n, out_features)
            Gradient of the loss by the output of the last forward.
        out : ndarray (n, in_features), optional
            Written to and returned; must not overlap the input, `dy` or a parameter.

        Raises
        ------
        RuntimeError
            No forward since the last backward.
        TypeError, ValueError
            As `forward`.
        """
        x = self._memory
        if x is None:                   # as _recall, without the cost of a call
            raise self._no_memory()
        dy = _ops.as_floats(dy, "dY", x.dtype)
        dx = _ops.dense_backward(x, self._weight, dy, out, self._weight_grad, self._bias_grad)
        self._memory = None
        return dx

    def parameters(self) -> Iterable[Parameter]:
        """Return `("weight", weight, weight_grad)`, and with a bias that likewise."""
        return self._parameters

    def _move(self, places: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """Let values and gradients live in these arrays from now on.

        The arrays that were handed out before become read-only: a change would have no effect.
        """
        moved = []
        for (name, *old), new in zip(self._parameters, places, strict=True):
            for source, place in zip(old, new, strict=True):
                place[...] = source
                source.flags.writeable = False
            moved.append((name, *new))
            setattr(self, f"_{name}", new[0])
            setattr(self, f"_{name}_grad", new[1])
        self._parameters = tuple(moved)

    def __repr__(self) -> str:
        bias = "" if self._bias is not None else ", bias=False"
        dtype = "" if self.dtype == np.float32 else f', dtype="{self.dtype}"'
        return f"Dense({self.in_features}, {self.out_features}{bias}{dtype})"


class ReLU(Layer):
    """Rectifier: `y = max(x, 0)`, for inputs of any shape.

    Backward: `dx = 0` where `x <= 0`, else `dy`; the derivative at 0 is 0 (exercises A and E).
    NaN is passed on, and where `x` is NaN `dy` passes.
    """

    def forward(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return `max(x, 0)` in the shape of `x`; float32 and float64 keep their type."""
        x = _ops.as_floats(x, "X")
        y = _ops.relu_forward(x, out)
        self._memory = x
        return y

    def backward(self, dy: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the gradient by the input, in its shape and dtype."""
        x = self._memory
        if x is None:                   # as _recall, without the cost of a call
            raise self._no_memory()
        dx = _ops.relu_backward(x, _ops.as_floats(dy, "dY", x.dtype), out)
        self._memory = None
        return dx


class Flatten(Layer):
    """Rows of features: `(n, ...)` becomes `(n, product of the others)`; back again in backward."""

    def forward(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the entries of `x` (n, ...) as a matrix with n rows, in a fresh array."""
        x = _ops.as_floats(x, "X")
        if x.ndim < 2:
            raise ValueError(f"X must have at least 2 dimensions, got {x.ndim}")
        y = _ops.scale_forward(x.reshape(len(x), math.prod(x.shape[1:])), 1.0, out)
        self._memory = x.dtype, x.shape
        return y

    def backward(self, dy: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return `dy` in the shape of the input, in a fresh array."""
        dtype, shape = self._recall()
        dy = _ops.as_floats(dy, "dY", dtype)
        flat = len(dy), math.prod(shape[1:])
        if dy.shape != (shape[0], flat[1]):
            raise ValueError(f"dY must have shape {(shape[0], flat[1])}, got {dy.shape}")
        dx = _ops.scale_forward(dy.reshape(shape), 1.0, out)
        self._memory = None
        return dx


class Softmax(Layer):
    """Softmax over each row: `y_j = exp(x_j) / sum_k exp(x_k)`.

    Backward: `dx = y * (dy - (dy * y).sum(axis=1, keepdims=True))`, the Jacobian
    `diag(y) - y y^T` times `dy` (exercise D). It reads the output again, so leave that unchanged
    in between.

    A network that is trained as a classifier ends in raw scores and `SoftmaxCrossEntropy`, which
    is exact for scores of any size; this layer goes with `CrossEntropy`, or shows probabilities.
    """

    def forward(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the probabilities (n, n_classes) of scores `x` (n, n_classes)."""
        y = _ops.softmax_forward(_ops.as_floats(x, "X"), out)
        self._memory = y
        return y

    def backward(self, dy: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the gradient by the input (n, n_classes)."""
        y = self._recall()
        dx = _ops.softmax_backward(y, _ops.as_floats(dy, "dY", y.dtype), out)
        self._memory = None
        return dx


class Residual(Layer):
    """Skip connection: `y = inner(x) + x`.

    Backward: `dx = inner.backward(dy) + dy` (exercise C; He et al., 2016).

    Parameters
    ----------
    layers : sequence of layers
        The inner chain, at least one layer; its output must have the shape of its input.

    Raises
    ------
    TypeError
        Something that is no layer.
    ValueError
        No layers.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        if _is_layer(layers):
            raise TypeError(f"layers must be a sequence of layers, got {layers!r}")
        self.layers = tuple(layers)
        if not self.layers:
            raise ValueError("layers must hold at least 1 layer, got 0")
        for layer in self.layers:
            if not _is_layer(layer):
                raise TypeError(f"layers must hold layers, got {layer!r}")

    @property
    def _chain(self) -> tuple[Any, ...]:
        """What an optimizer goes into, to keep each layer's state under that layer."""
        return self.layers

    def forward(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return `inner(x) + x`, in the dtype of the inner chain's output.

        Raises
        ------
        ValueError
            The inner chain changes the shape; and whatever its layers raise.
        """
        x = y = _ops.as_floats(x, "X")
        for layer in self.layers:
            y = layer.forward(y)
        y = _ops.as_floats(y, "the inner layers' output")
        if y.shape != x.shape:
            raise ValueError(f"the inner layers must keep the shape {x.shape}, got {y.shape}")
        y = _ops.add_forward(y, _ops.as_floats(x, "X", y.dtype), out)
        self._memory = y.dtype, y.shape
        return y

    def backward(self, dy: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the gradient by the input; the inner layers get their parameters' gradients."""
        dx = dy = self._gradient(dy)
        _ops.check_out(out, dy)         # now: afterwards the inner layers have changed
        for layer in reversed(self.layers):
            dx = layer.backward(dx)
        dx = _ops.add_forward(_ops.as_floats(dx, "the inner layers' gradient", dy.dtype), dy, out)
        self._memory = None
        return dx

    def parameters(self) -> Iterable[Parameter]:
        """Yield the inner layers' parameters, named `"0.weight"` and so on."""
        for index, layer in enumerate(self.layers):
            for name, value, gradient in layer.parameters():
                yield f"{index}.{name}", value, gradient

    def __repr__(self) -> str:
        return f"Residual({list(self.layers)!r})"


def _same_type(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays of one dtype: float32 if both have it, else float64."""
    a, b = _ops.as_floats(a, "A"), _ops.as_floats(b, "B")
    dtype = np.result_type(a, b)
    return _ops.as_floats(a, "A", dtype), _ops.as_floats(b, "B", dtype)


class Add(Layer):
    """Sum of two inputs of one shape: `y = a + b`; backward: `da = dy`, `db = dy`."""

    def forward(self, a: Any, b: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return `a + b`. Nothing is broadcast: different shapes are a ValueError."""
        a, b = _same_type(a, b)
        y = _ops.add_forward(a, b, out)
        self._memory = y.dtype, y.shape
        return y

    def backward(
        self, dy: Any, out: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients `(da, db)` by both inputs."""
        gradients = _ops.add_backward(self._gradient(dy), *out)
        self._memory = None
        return gradients


class Maximum(Layer):
    """Larger of two inputs of one shape: `y = max(a, b)`; on a tie the first wins.

    Backward: `da = dy` where `a` was chosen, else 0; `db = dy` where `b` was, else 0.
    """

    def forward(self, a: Any, b: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return `max(a, b)`; NaN where either is. Different shapes are a ValueError."""
        a, b = _same_type(a, b)
        y = _ops.maximum_forward(a, b, out)
        self._memory = a, b
        return y

    def backward(
        self, dy: Any, out: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients `(da, db)` by both inputs."""
        a, b = self._recall()
        gradients = _ops.maximum_backward(a, b, _ops.as_floats(dy, "dY", a.dtype), *out)
        self._memory = None
        return gradients


class Scale(Layer):
    """Constant multiple: `y = factor * x`; backward: `dx = factor * dy`.

    Parameters
    ----------
    factor : float
        Finite, else ValueError.
    """

    def __init__(self, factor: float) -> None:
        self._factor = finite(factor, "factor")

    @property
    def factor(self) -> float:
        """What inputs are multiplied by."""
        return self._factor

    def forward(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return `factor * x`, for an input of any shape."""
        y = _ops.scale_forward(_ops.as_floats(x, "X"), self._factor, out)
        self._memory = y.dtype, y.shape
        return y

    def backward(self, dy: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return `factor * dy`."""
        dx = _ops.scale_backward(self._gradient(dy), self._factor, out)
        self._memory = None
        return dx

    def __repr__(self) -> str:
        return f"Scale({self._factor})"
