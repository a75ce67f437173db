from typing import Any, Literal, overload

from numpy import dtype as DType
from numpy import ndarray

isa: str
__pyx_capi__: dict[str, Any]        # what other compiled modules take from this one

def available_isas() -> tuple[str, ...]: ...
def compiler() -> str: ...
def as_floats(value: Any, name: str, dtype: DType | None = None) -> ndarray: ...
def check_out(out: ndarray | None, model: ndarray) -> None: ...
def as_target(value: Any, scores: ndarray) -> ndarray: ...
def check_target(target: ndarray, n: int, n_classes: int, dtype: DType) -> None: ...
def dense_forward(
    X: ndarray, W: ndarray, b: ndarray | None = None, Z: ndarray | None = None, relu: bool = False
) -> ndarray: ...
@overload
def dense_backward(
    X: ndarray,
    W: ndarray,
    dZ: ndarray,
    dX: ndarray | None = None,
    dW: ndarray | None = None,
    db: ndarray | None = None,
    input_gradient: Literal[True] = True,
    relu: bool = False,
    add: bool = False,
) -> ndarray: ...
@overload
def dense_backward(
    X: ndarray,
    W: ndarray,
    dZ: ndarray,
    dX: None = None,
    dW: ndarray | None = None,
    db: ndarray | None = None,
    input_gradient: bool = True,
    relu: bool = False,
    add: bool = False,
) -> ndarray | None: ...
def pack_weights(W: ndarray, packed: ndarray | None = None) -> ndarray: ...
def dense_forward_packed(
    X: ndarray,
    packed: ndarray,
    n_out: int,
    b: ndarray | None = None,
    Z: ndarray | None = None,
    relu: bool = False,
) -> ndarray: ...
def dense_sgd_update(
    X: ndarray,
    dZ: ndarray,
    W: ndarray,
    V: ndarray | None = None,
    dX: ndarray | None = None,
    *,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    relu: bool = False,
    rows: int = 0,
) -> None: ...
def exp_forward(X: ndarray, Y: ndarray | None = None) -> ndarray: ...
def log_forward(X: ndarray, Y: ndarray | None = None) -> ndarray: ...
def relu_forward(X: ndarray, Y: ndarray | None = None) -> ndarray: ...
def relu_backward(X: ndarray, dY: ndarray, dX: ndarray | None = None) -> ndarray: ...
def add_forward(A: ndarray, B: ndarray, Y: ndarray | None = None) -> ndarray: ...
def add_backward(
    dY: ndarray, dA: ndarray | None = None, dB: ndarray | None = None
) -> tuple[ndarray, ndarray]: ...
def maximum_forward(A: ndarray, B: ndarray, Y: ndarray | None = None) -> ndarray: ...
def maximum_backward(
    A: ndarray, B: ndarray, dY: ndarray, dA: ndarray | None = None, dB: ndarray | None = None
) -> tuple[ndarray, ndarray]: ...
def scale_forward(X: ndarray, factor: float, Y: ndarray | None = None) -> ndarray: ...
def scale_backward(dY: ndarray, factor: float, dX: ndarray | None = None) -> ndarray: ...
def softmax_forward(X: ndarray, Y: ndarray | None = None) -> ndarray: ...
def softmax_backward(Y: ndarray, dY: ndarray, dX: ndarray | None = None) -> ndarray: ...
def softmax_cross_entropy(
    logits: ndarray, target: ndarray, dlogits: ndarray | None = None, gradient: bool = True
) -> tuple[float, Any]: ...
def cross_entropy(
    P: ndarray, target: ndarray, dP: ndarray | None = None, gradient: bool = True
) -> tuple[float, Any]: ...
def mean_squared_error(
    Y: ndarray, T: ndarray, dY: ndarray | None = None, gradient: bool = True
) -> tuple[float, Any]: ...
def count_correct(scores: ndarray, target: ndarray) -> int: ...
def sgd_update(
    gradients: list[ndarray],
    parameters: list[ndarray],
    velocities: list[ndarray | None],
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> None: ...
