"""Activations: layers without parameters, entry by entry or row by row.

`Dense(..., activation=)` takes one by name or as an object; in a sequence they stand like other
layers.
How exact each is, in units in the last place, is said at `fastnet._ops.activation_forward`.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np

from fastnet import _ops
from fastnet._convert import finite
from fastnet._layer import Layer, is_layer

__all__ = ["ELU", "GELU", "NAMES", "Identity", "LeakyReLU", "LogSoftmax", "ReLU", "SiLU", "Sigmoid",
           "Softmax", "Tanh", "get"]


class Identity(Layer):
    """What goes in comes out: `y = x`, in a fresh array; backward: `dx = dy`."""

    def forward(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the entries of `x`, of any shape."""
        y = _ops.scale_forward(_ops.as_floats(x, "X"), 1.0, out)
        self._memory = y.dtype, y.shape
        return y

    def backward(self, dy: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the entries of `dy`."""
        dx = _ops.scale_forward(self._gradient(dy), 1.0, out)
        self._memory = None
        return dx


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


class Activation(Layer):
    """Base of the activations that the kernel calls by a kind, and an alpha where they have one."""

    kind: Any = ""
    _alpha = 0.0

    @property
    def alpha(self) -> float:
        """The parameter of the kinds that have one."""
        return self._alpha

    def forward(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return `f(x)` in the shape of `x`; float32 and float64 keep their type."""
        x = _ops.as_floats(x, "X")
        y = _ops.activation_forward(x, self.kind, self.alpha, out)
        self._memory = x, y
        return y

    def backward(self, dy: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the gradient by the input, `f'(x) * dy`."""
        x, y = self._recall()
        dx = _ops.activation_backward(
            x, y, _ops.as_floats(dy, "dY", x.dtype), self.kind, self.alpha, out)
        self._memory = None
        return dx


class LeakyReLU(Activation):
    """`y = x` where `x > 0`, else `negative_slope * x`.

    Parameters
    ----------
    negative_slope : float
        Finite, else ValueError.
    """

    kind = "leaky_relu"

    def __init__(self, negative_slope: float = 0.01) -> None:
        self._alpha = finite(negative_slope, "negative_slope")

    @property
    def negative_slope(self) -> float:
        """What negative inputs are multiplied by."""
        return self._alpha

    def __repr__(self) -> str:
        return f"LeakyReLU({self.alpha})"


class ELU(Activation):
    """Exponential linear unit: `y = x` where `x > 0`, else `alpha * (exp(x) - 1)`.

    Clevert, Unterthiner, Hochreiter, 2016.

    Parameters
    ----------
    alpha : float
        Finite, else ValueError.
    """

    kind = "elu"

    def __init__(self, alpha: float = 1.0) -> None:
        self._alpha = finite(alpha, "alpha")

    def __repr__(self) -> str:
        return f"ELU({self.alpha})"


class Sigmoid(Activation):
    """Logistic function: `y = 1 / (1 + exp(-x))`; backward: `dx = y * (1 - y) * dy`."""

    kind = "sigmoid"


class Tanh(Activation):
    """Hyperbolic tangent; backward: `dx = (1 - y**2) * dy`."""

    kind = "tanh"


class GELU(Activation):
    """Gaussian error linear unit: `y = x * Phi(x)`, with the normal distribution `Phi`.

    Hendrycks and Gimpel, 2016.

    Parameters
    ----------
    approximate : {"none", "tanh"}
        "tanh": `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2`. Anything else:
        ValueError.
    """

    def __init__(self, approximate: str = "none") -> None:
        if not isinstance(approximate, str) or approximate not in ("none", "tanh"):
            raise ValueError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
        self._approximate = approximate

    @property
    def approximate(self) -> str:
        """Which form it is."""
        return self._approximate

    @property
    def kind(self) -> str:
        """What the kernel calls this form."""
        return "gelu" if self._approximate == "none" else "gelu_tanh"

    def __repr__(self) -> str:
        return "GELU()" if self.kind == "gelu" else 'GELU("tanh")'


class SiLU(Activation):
    """Sigmoid linear unit, also called swish: `y = x / (1 + exp(-x))`."""

    kind = "silu"


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


class LogSoftmax(Layer):
    """Logarithm of the softmax over each row: `y = x - log(sum(exp(x)))`, exact for any scores.

    Backward: `dx = dy - exp(y) * dy.sum(axis=1, keepdims=True)`. It reads the output again, so
    leave that unchanged in between.
    """

    def forward(self, x: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the logarithms of the probabilities (n, n_classes) of scores `x`."""
        y = _ops.log_softmax_forward(_ops.as_floats(x, "X"), out)
        self._memory = y
        return y

    def backward(self, dy: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return the gradient by the input (n, n_classes)."""
        y = self._recall()
        dx = _ops.log_softmax_backward(y, _ops.as_floats(dy, "dY", y.dtype), out)
        self._memory = None
        return dx


NAMES: dict[str, Callable[[], Layer]] = {
    "identity": Identity,
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "elu": ELU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "gelu": GELU,
    "gelu_tanh": lambda: GELU("tanh"),
    "silu": SiLU,
    "softmax": Softmax,
    "log_softmax": LogSoftmax,
}


def get(activation: Any) -> Any:
    """Return a layer for a name, a copy of a layer without parameters, or None for None.

    Raises
    ------
    TypeError, ValueError
        Anything else; another name; a layer with parameters.
    """
    if activation is None:
        return None
    if isinstance(activation, str):
        if activation not in NAMES:
            raise ValueError(f"activation must be one of {', '.join(map(repr, NAMES))}, "
                             f"got {activation!r}")
        return NAMES[activation]()
    if not is_layer(activation):
        raise TypeError(f"activation must be a name or a layer, got {activation!r}")
    if any(True for _ in activation.parameters()) or hasattr(activation, "_chain"):
        raise ValueError(f"activation must be a layer without parameters, got {activation!r}")
    if getattr(activation, "takes_two", False):
        raise TypeError(f"activation must take one input, got {activation!r}")
    return deepcopy(activation)
