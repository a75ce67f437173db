from typing import Any, Literal, overload

from numpy import dtype as DType
from numpy import ndarray

isa: str
ACTIVATIONS: dict[str, int]         # what activation_forward calls them in the table of kernels
ENTRY_LOSSES: dict[str, int]        # and entry_losses
__pyx_capi__: dict[str, Any]        # what other compiled modules take from this one

def force_threads(threads: int) -> None: ...
def available_isas() -> tuple[str, ...]: ...
def compiler() -> str: ...
def adam_rates(
    lrs: list[float], taken: int, steps: int, beta1: float, beta2: float, own_decay: float,
    decay: float, corrected: bool = True,
) -> ndarray: ...
def as_floats(value: Any, name: str, dtype: DType | None = None) -> ndarray: ...
def at_once(calls: list[tuple[Any, tuple[Any, ...]]]) -> None: ...
def counts(taken: ndarray, steps: int) -> bool: ...
def same_objects(a: list[Any], b: list[Any]) -> bool: ...
def check_out(out: ndarray | None, model: ndarray) -> None: ...
def as_target(value: Any, scores: ndarray, ignored: int | None = None) -> ndarray: ...
def check_target(
    target: ndarray, n: int, n_classes: int, dtype: DType, ignored: int | None = None
) -> None: ...
def check_weights(array: ndarray, name: str) -> None: ...
def check_probabilities(array: ndarray, name: str) -> None: ...
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
def activation_forward(
    X: ndarray, kind: str, alpha: float = 0.0, Y: ndarray | None = None
) -> ndarray: ...
def activation_backward(
    X: ndarray,
    Y: ndarray,
    dY: ndarray,
    kind: str,
    alpha: float = 0.0,
    dX: ndarray | None = None,
) -> ndarray: ...
def dropout(
    X: ndarray, p: float, seed: int, first: int = 0, Y: ndarray | None = None
) -> ndarray: ...
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
def log_softmax_forward(X: ndarray, Y: ndarray | None = None) -> ndarray: ...
def log_softmax_backward(Y: ndarray, dY: ndarray, dX: ndarray | None = None) -> ndarray: ...
def layer_norm_forward(
    X: ndarray,
    weight: ndarray | None = None,
    bias: ndarray | None = None,
    eps: float = 1e-5,
    Y: ndarray | None = None,
    stats: ndarray | None = None,
) -> tuple[ndarray, ndarray]: ...
@overload
def layer_norm_backward(
    X: ndarray,
    weight: ndarray | None,
    stats: ndarray,
    dY: ndarray,
    dX: ndarray | None = None,
    dweight: ndarray | None = None,
    dbias: ndarray | None = None,
    input_gradient: Literal[True] = True,
    add: bool = False,
) -> ndarray: ...
@overload
def layer_norm_backward(
    X: ndarray,
    weight: ndarray | None,
    stats: ndarray,
    dY: ndarray,
    dX: None = None,
    dweight: ndarray | None = None,
    dbias: ndarray | None = None,
    input_gradient: bool = True,
    add: bool = False,
) -> ndarray | None: ...
def target_rows(
    target: ndarray,
    n_classes: int,
    dtype: DType,
    sample_weight: ndarray | None = None,
    class_weight: ndarray | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    T: ndarray | None = None,
) -> tuple[ndarray, float]: ...
def softmax_cross_entropy(
    logits: ndarray,
    target: ndarray,
    dlogits: ndarray | None = None,
    gradient: bool = True,
    total: float | None = None,
    losses: ndarray | None = None,
) -> tuple[float, Any]: ...
def negative_log_likelihood(
    L: ndarray,
    T: ndarray,
    dL: ndarray | None = None,
    gradient: bool = True,
    total: float | None = None,
    losses: ndarray | None = None,
) -> tuple[float, Any]: ...
def entry_losses(
    Y: ndarray,
    T: ndarray,
    kind: str,
    weights: ndarray | None = None,
    pos_weight: ndarray | None = None,
    delta: float = 1.0,
    total: float | None = None,
    dY: ndarray | None = None,
    losses: ndarray | None = None,
    gradient: bool = True,
) -> tuple[float, Any]: ...
def sum_of_weights(weights: ndarray) -> float: ...
def balanced(weights: ndarray) -> ndarray: ...
def scale_rows(X: ndarray, factors: ndarray, Y: ndarray | None = None) -> ndarray: ...
def cross_entropy(
    P: ndarray, target: ndarray, dP: ndarray | None = None, gradient: bool = True
) -> tuple[float, Any]: ...
def mean_squared_error(
    Y: ndarray, T: ndarray, dY: ndarray | None = None, gradient: bool = True
) -> tuple[float, Any]: ...
def count_correct(scores: ndarray, target: ndarray, k: int = 1) -> int: ...
def count_same_side(scores: ndarray, T: ndarray) -> int: ...
def r2_score(Y: ndarray, T: ndarray) -> float: ...
def sgd_update(
    gradients: list[ndarray],
    parameters: list[ndarray],
    velocities: list[ndarray | None],
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    *,
    gain: float = 1.0,
    look: float | None = None,
    direct: float | None = None,
    scale: float = 1.0,
    clip: float = ...,
    decay: float = 0.0,
    shrink: float = 1.0,
    decays: list[bool] | None = None,
    taken: ndarray | None = None,
) -> None: ...
def adam_update(
    gradients: list[ndarray],
    parameters: list[ndarray],
    means: list[ndarray],
    squares: list[ndarray],
    *,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    root: float = 1.0,
    scale: float = 1.0,
    clip: float = ...,
    decay: float = 0.0,
    shrink: float = 1.0,
    decays: list[bool] | None = None,
    taken: ndarray | None = None,
) -> None: ...
def rmsprop_update(
    gradients: list[ndarray],
    parameters: list[ndarray],
    squares: list[ndarray],
    velocities: list[ndarray] | None = None,
    averages: list[ndarray] | None = None,
    *,
    rate: float,
    alpha: float,
    eps: float,
    momentum: float = 0.0,
    scale: float = 1.0,
    clip: float = ...,
    decay: float = 0.0,
    shrink: float = 1.0,
    decays: list[bool] | None = None,
    taken: ndarray | None = None,
) -> None: ...
def sum_of_squares(array: ndarray) -> float: ...
