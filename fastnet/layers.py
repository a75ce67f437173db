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
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastnet import _ops, activations, initializers
from fastnet._convert import finite, flag, generator, positive, within
from fastnet._layer import (
    Chain,
    Layer,
    Seed,
    WeightedLayer,
    chained,
    check_apart,
    float_type,
    is_layer,
)
from fastnet.activations import (
    ELU,
    GELU,
    Identity,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)

__all__ = [
    "ELU", "GELU", "Add", "Dense", "Dropout", "Flatten", "Identity", "Layer", "LayerNorm",
    "LeakyReLU", "LogSoftmax", "Maximum", "ReLU", "Residual", "Scale", "SiLU", "Sigmoid", "Softmax",
    "Tanh",
]


class Dense(WeightedLayer):
    """Fully connected layer: `y = x @ weight + bias`.

    Backward: `dx = dy @ weight.T`, `weight_grad = x.T @ dy`, `bias_grad = dy.sum(axis=0)`, by the
    chain rule on `y_ij = sum_k x_ik weight_kj + bias_j` (exercises B and F).

    Parameters
    ----------
    in_features, out_features : int
        Widths of input and output, at least 1.
    bias : bool
        Whether there is a bias.
    activation : str or layer, optional
        Applied to the output: a name as in `fastnet.activations.NAMES`, or a layer without
        parameters, of which a copy is taken.
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
        Widths that are no positive integers, another dtype, an unknown initializer or activation,
        an activation of another width or dtype.
    MemoryError
        More weights than memory holds.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activation: Any = None,
        weight_init: str | initializers.Initializer = "glorot_uniform",
        bias_init: str | initializers.Initializer = "zeros",
        dtype: Any = "float32",
        rng: Seed = None,
    ) -> None:
        n_in, n_out = positive(in_features, "in_features"), positive(out_features, "out_features")
        dtype = float_type(dtype)
        bias = flag(bias, "bias")
        weight_init = initializers.get(weight_init, "weight_init")
        bias_init = initializers.get(bias_init, "bias_init")
        activation = activations.get(activation)
        if isinstance(activation, LayerNorm) and (activation.features, activation.dtype) != (
                n_out, dtype):
            raise ValueError(f"activation must take {n_out} features of {dtype}, got "
                             f"{activation!r}")
        numbers = generator(rng)
        if n_in * n_out > sys.maxsize // dtype.itemsize:
            raise MemoryError(f"no memory holds {n_in} x {n_out} weights")

        self._allocate(dtype, np.empty((n_in, n_out), dtype),
                       np.empty(n_out, dtype) if bias else None)
        self.weight = weight_init((n_in, n_out), numbers)
        if bias:
            self.bias = bias_init((n_out,), numbers)
        self._activation = activation

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return int(self._weight.shape[0])

    @property
    def activation(self) -> Any:
        """The layer that is applied to the output, or None."""
        return self._activation

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return int(self._weight.shape[1])

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
        if self._activation is None:
            y = _ops.dense_forward(x, self._weight, self._bias, out)
        else:
            self._check_out(out, x, "X")
            y = self._activation.forward(_ops.dense_forward(x, self._weight, self._bias), out)
        self._memory = x
        return y

    def predict(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return what `forward` does, by the activation's `predict`."""
        if self._activation is None:
            return super().predict(x, out)
        x = _ops.as_floats(x, "X", self._weight.dtype)
        self._check_out(out, x, "X")
        z = _ops.dense_forward(x, self._weight, self._bias)
        y: np.ndarray = getattr(self._activation, "predict", self._activation.forward)(z, out)
        return y

    def _check_out(self, out: Any, given: np.ndarray, name: str) -> None:
        """Refuse an `out` in which something stands that is still to be read."""
        check_apart(out, given, name)
        for name, *arrays in self._parameters:
            for array in arrays:
                check_apart(out, array, name)

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
        if self._activation is not None:
            _ops.check_out(out, x)      # now: afterwards the activation has changed
            self._check_out(out, dy, "dY")
            dy = self._activation.backward(dy)
        dx = _ops.dense_backward(x, self._weight, dy, out, self._weight_grad, self._bias_grad)
        self._memory = None
        return dx

    def __repr__(self) -> str:
        bias = "" if self._bias is not None else ", bias=False"
        activation = "" if self._activation is None else f", activation={self._activation!r}"
        return (f"Dense({self.in_features}, {self.out_features}{bias}{activation}"
                f"{_shown(self.dtype)})")


def _shown(dtype: np.dtype) -> str:
    return "" if dtype == np.float32 else f', dtype="{dtype}"'


class LayerNorm(WeightedLayer):
    """Layer normalization: `y = weight * (x - mean) / sqrt(variance + eps) + bias`.

    Mean and variance are those of each row, so a sample's result does not depend on the batch. A
    row whose deviation has no inverse of the dtype, as it is above 8.5e37 or 1.3e154, becomes NaN.
    Backward: with `h = (x - mean) / sqrt(variance + eps)`, `g = weight * dy` and means along the
    row, `dx = (g - mean(g) - h * mean(g * h)) / sqrt(variance + eps)`,
    `weight_grad = (dy * h).sum(axis=0)`, `bias_grad = dy.sum(axis=0)` (Ba, Kiros, Hinton, 2016).

    Parameters
    ----------
    features : int
        Width of input and output, at least 1.
    eps : float
        Positive.
    affine : bool
        Whether there is a weight, which begins as 1.
    bias : bool
        Whether there is a bias as well, which begins as 0.
    dtype : {"float32", "float64"}

    Attributes
    ----------
    weight, bias, weight_grad, bias_grad : ndarray (features,), or None

    Raises
    ------
    TypeError, ValueError
        A width that is no positive integer, an eps that is no positive number, another dtype.
    """

    def __init__(
        self, features: int, eps: float = 1e-5, *, affine: bool = True, bias: bool = True,
        dtype: Any = "float32",
    ) -> None:
        affine, bias = flag(affine, "affine"), flag(bias, "bias")
        self._features = positive(features, "features")
        self._eps = within(eps, "eps", "(0, inf)")
        dtype = float_type(dtype)
        if self._features > sys.maxsize // dtype.itemsize:
            raise MemoryError(f"no memory holds {self._features} weights")
        self._allocate(dtype, np.zeros(self._features, dtype) if affine else None,
                       np.zeros(self._features, dtype) if affine and bias else None)
        if affine:
            self.weight = [1] * self._features

    @property
    def features(self) -> int:
        """Width of input and output."""
        return self._features

    @property
    def eps(self) -> float:
        """What is added to the variance."""
        return self._eps

    def forward(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the normalized rows of `x` (n, features)."""
        x = _ops.as_floats(x, "X", self._dtype)
        if x.ndim == 2 and x.shape[1] != self._features:
            raise ValueError(f"X must have {self._features} features, got {x.shape[1]}")
        y, stats = _ops.layer_norm_forward(x, self._weight, self._bias, self._eps, out)
        self._memory = x, stats
        return y

    def backward(self, dy: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Set `weight_grad` and `bias_grad`, and return the gradient by the input."""
        x, stats = self._recall()
        dx = _ops.layer_norm_backward(x, self._weight, stats, _ops.as_floats(dy, "dY", x.dtype),
                                      out, self._weight_grad, self._bias_grad)
        self._memory = None
        return dx

    def __repr__(self) -> str:
        eps = "" if self._eps == 1e-5 else f", eps={self._eps}"
        affine = ", affine=False" if self._weight is None else (
            ", bias=False" if self._bias is None else "")
        return f"LayerNorm({self._features}{eps}{affine}{_shown(self._dtype)})"


class Dropout(Layer):
    """In training, drops entries at random: `y = x / (1 - p)`, or 0 with probability `p`.

    `predict` leaves everything as it is. Which entries are dropped is computed from a seed and
    from how many entries the layer has seen before (Philox; Salmon et al., 2011): it does not
    depend on how samples are cut into batches. Backward drops the same entries of `dy`
    (Srivastava et al., 2014).

    Parameters
    ----------
    p : float
        In [0, 1).
    rng : int, numpy.random.Generator or None
        Source of the seed; None: another one each time. Give several layers one generator.

    Raises
    ------
    TypeError, ValueError
        A `p` outside its interval or that is no number.
    """

    def __init__(self, p: float = 0.5, *, rng: Seed = None) -> None:
        self._p = within(p, "p", "[0, 1)")
        seed = generator(rng).integers(2**64, dtype=np.uint64)
        # An array, so that a network's compiled code can count on.
        self._seen = np.zeros(2, np.uint64)
        self._seen[1] = seed

    @property
    def _seed(self) -> int:
        return int(self._seen[1])

    @property
    def p(self) -> float:
        """Share of the entries that are dropped."""
        return self._p

    def forward(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return `x`, of any shape, with entries dropped and the others grown."""
        x = _ops.as_floats(x, "X")
        first = int(self._seen[0])
        y = _ops.dropout(x, self._p, self._seed, first, out)
        self._seen[0] = (first + x.size) % 2**64
        self._memory = y.dtype, y.shape, first
        return y

    def backward(self, dy: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the gradient by the input."""
        *model, first = self._recall()
        dx = _ops.dropout(self._fitting(dy, *model), self._p, self._seed, first, out)
        self._memory = None
        return dx

    def predict(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the entries of `x` as they are, in a fresh array."""
        return _ops.scale_forward(_ops.as_floats(x, "X"), 1.0, out)

    def __repr__(self) -> str:
        return f"Dropout({self._p})"


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
        dy = self._fitting(dy, dtype, (shape[0], math.prod(shape[1:])))
        dx = _ops.scale_forward(dy.reshape(shape), 1.0, out)
        self._memory = None
        return dx


class Residual(Chain):
    """Skip connection: `y = inner(x) + x`.

    Backward: `dx = inner.backward(dy) + dy` (exercise C; He et al., 2016).

    Parameters
    ----------
    layers : sequence of layers
        The inner chain, at least one layer; its output must have the shape of its input.

    Raises
    ------
    TypeError
        Something that is no layer, or a layer of two inputs.
    ValueError
        No layers.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        if is_layer(layers):
            raise TypeError(f"layers must be a sequence of layers, got {layers!r}")
        vars(self)["layers"] = chained(layers)

    @property
    def layers(self) -> tuple[Any, ...]:
        """The inner layers, in order."""
        inner: tuple[Any, ...] = vars(self)["layers"]       # as in older pickles
        return inner

    def forward(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return `inner(x) + x`, in the dtype of the inner chain's output.

        Raises
        ------
        ValueError
            The inner chain changes the shape; and whatever its layers raise.
        """
        x = y = _ops.as_floats(x, "X")
        before = self._remembered()
        try:
            for layer in self.layers:
                y = layer.forward(y)
            y = _ops.as_floats(y, "the inner layers' output")
            if y.shape != x.shape:
                raise ValueError(f"the inner layers must keep the shape {x.shape}, got {y.shape}")
            y = _ops.add_forward(y, _ops.as_floats(x, "X", y.dtype), out)
        except BaseException:
            self._put_back(before)
            raise
        self._memory = y.dtype, y.shape
        return y

    def predict(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return what the inner layers' `predict` gives for `x`, plus `x`."""
        y = x
        for layer in self.layers:
            y = getattr(layer, "predict", layer.forward)(y)
        y = _ops.as_floats(y, "the inner layers' output")
        return _ops.add_forward(y, _ops.as_floats(x, "X", y.dtype), out)

    def backward(self, dy: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the gradient by the input; the inner layers get their parameters' gradients."""
        dx = dy = self._gradient(dy)
        _ops.check_out(out, dy)         # now: afterwards the inner layers have changed
        for layer in reversed(self.layers):
            dx = layer.backward(dx)
        dx = _ops.add_forward(_ops.as_floats(dx, "the inner layers' gradient", dy.dtype), dy, out)
        self._memory = None
        return dx

    def __repr__(self) -> str:
        return f"Residual({list(self.layers)!r})"


def _same_type(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays of one dtype: float32 if both have it, else float64."""
    a, b = _ops.as_floats(a, "A"), _ops.as_floats(b, "B")
    dtype = np.result_type(a, b)
    return _ops.as_floats(a, "A", dtype), _ops.as_floats(b, "B", dtype)


class Add(Layer):
    """Sum of two inputs of one shape: `y = a + b`; backward: `da = dy`, `db = dy`."""

    takes_two = True

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

    takes_two = True

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
