"""The kernels of fastnet as formulas, in pure Python: a page to read and a witness to test against.

Each function has the name and the meaning of a compiled kernel, written straight from its formula
with lists of floats and the `math` module only. It is slow; nothing in fastnet falls back on it.
Read it from top to bottom: each forward is followed by its backward.

Conventions
-----------
* A matrix is a list of rows, and a row is one sample: `X (n, n_in)`. Every dimension is at least 1.
* For a quantity `Q`, `dQ` is the gradient of the loss with respect to `Q`, and has its shape.
  A backward gets the gradient of its forward's result and applies the chain rule
  (Goodfellow et al., Deep Learning, ch. 6.5).
* Results are new lists; arguments are never changed.
* The mean over samples, `1/n`, is taken once, in the losses. Everything else is a plain sum.
* Infinity and NaN are ordinary values, as in IEEE arithmetic: they go in and come out, and no float
  makes a function raise. Python itself is stricter: `1.0 / 0.0`, `math.log(0.0)`, `math.exp(1e3)`
  and `1e200 ** 2` raise. Where such a case can occur, the code below says how it is met.
* Sums are the built-in `sum`. `math.fsum` rounds only once, but raises when it meets `inf - inf` or
  a total beyond the largest float.
* Shapes are only checked as far as `zip(..., strict=True)` does it.

Letters A to F refer to the project's worked exercises (`tests/test_worked_examples.py`).
"""

import math
from collections.abc import Callable

Vector = list[float]
Matrix = list[list[float]]
Target = list[int] | Matrix  # one class label per sample, or one row of class weights per sample

__all__ = [
    "activation_backward",
    "activation_forward",
    "adam_update",
    "add_backward",
    "add_forward",
    "count_correct",
    "count_same_side",
    "cross_entropy",
    "dense_backward",
    "dense_forward",
    "dropout",
    "entry_losses",
    "exp_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "log_forward",
    "log_softmax_backward",
    "log_softmax_forward",
    "maximum_backward",
    "maximum_forward",
    "mean_squared_error",
    "negative_log_likelihood",
    "r2_score",
    "relu_backward",
    "relu_forward",
    "rmsprop_update",
    "scale_backward",
    "scale_forward",
    "scale_rows",
    "sgd_update",
    "softmax_backward",
    "softmax_cross_entropy",
    "softmax_forward",
    "sum_of_squares",
    "sum_of_weights",
    "target_rows",
]


# ---- Dense layer -------------------------------------------------------------------------------


def _transpose(A: Matrix) -> Matrix:
    """Return `A^T`, the columns of `A` as rows."""
    return [list(column) for column in zip(*A, strict=True)]


def _matmul(A: Matrix, B: Matrix) -> Matrix:
    """Return `A B`: element (i, j) is row i of `A` times column j of `B`."""
    columns = _transpose(B)
    return [
        [sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in A
    ]


def dense_forward(X: Matrix, W: Matrix, b: Vector | None = None, relu: bool = False) -> Matrix:
    """Return `Z = X W + b`, or `max(0, X W + b)` with `relu`.

    Shapes: `X (n, n_in)`, `W (n_in, n_out)`, `b (n_out,)`, `Z (n, n_out)`.
    Without `b` the bias is zero. Source: worked exercises B, D and F.
    """
    Z = _matmul(X, W)
    if b is not None:
        Z = [[z + bias for z, bias in zip(row, b, strict=True)] for row in Z]
    return relu_forward(Z) if relu else Z


def dense_backward(X: Matrix, W: Matrix, dZ: Matrix) -> tuple[Matrix, Matrix, Vector]:
    """Return `dX = dZ W^T`, `dW = X^T dZ` and `db`, the column sums of `dZ`.

    Shapes: `dX (n, n_in)`, `dW (n_in, n_out)`, `db (n_out,)`, from `dZ (n, n_out)`.
    `dZ` belongs to `X W + b`. After a forward with `relu`, whose result is `Y`,
    `dZ = relu_backward(Y, dY)`: `Y` is positive exactly where `X W + b` is.
    Source: the chain rule on `Z[r][j] = sum_i X[r][i] W[i][j] + b[j]`.
    """
    dX = _matmul(dZ, _transpose(W))
    dW = _matmul(_transpose(X), dZ)
    db: Vector = [sum(column) for column in _transpose(dZ)]
    return dX, dW, db


# ---- ReLU --------------------------------------------------------------------------------------


def _passes(x: float) -> bool:
    """Return whether ReLU lets `x` through: positive numbers, and NaN so that it stays visible."""
    return x > 0.0 or math.isnan(x)


def relu_forward(X: Matrix) -> Matrix:
    """Return `Y = max(0, X)` element by element; `X` and `Y` are `(n, k)`.

    Both zeros give 0.0, and NaN stays NaN.
    Source: worked exercise A; Goodfellow et al., Deep Learning, ch. 6.3.1.
    """
    return [[x if _passes(x) else 0.0 for x in row] for row in X]


def relu_backward(X: Matrix, dY: Matrix) -> Matrix:
    """Return `dX`: 0 where `x <= 0`, `dY` elsewhere; `X`, `dY` and `dX` are `(n, k)`.

    The derivative at 0 is 0. Where `x` is NaN, `dY` passes.
    Source: worked exercises A and E.
    """
    return [
        [dy if _passes(x) else 0.0 for x, dy in zip(x_row, dy_row, strict=True)]
        for x_row, dy_row in zip(X, dY, strict=True)
    ]


# ---- Exponential and logarithm -----------------------------------------------------------------


def _exp(x: float) -> float:
    """Return `exp(x)`, with the IEEE value where `math.exp` raises: +inf when it is too large."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _log(x: float) -> float:
    """Return `log(x)`, with the IEEE values where `math.log` raises: -inf at 0, NaN below 0."""
    if x == 0.0:
        return -math.inf
    return math.nan if x < 0.0 else math.log(x)


def exp_forward(X: Matrix) -> Matrix:
    """Return `Y = exp(X)` element by element; `X` and `Y` are `(n, k)`.

    What is too large becomes +inf; exp(-inf) is 0; NaN stays NaN.
    """
    return [[_exp(x) for x in row] for row in X]


def log_forward(X: Matrix) -> Matrix:
    """Return `Y = log(X)` element by element, to the base e; `X` and `Y` are `(n, k)`.

    Both zeros give -inf, what is below gives NaN; +inf and NaN stay.
    """
    return [[_log(x) for x in row] for row in X]


# ---- Arithmetic where Python raises, or where a term is left out -------------------------------


def _times(a: float, b: float) -> float:
    """Return `a b`, and 0 where the weight `a` is 0, whatever `b` is."""
    return a * b if a != 0.0 else 0.0


def _quotient(a: float, b: float) -> float:
    """Return `a / b`, with the IEEE values where Python raises: `a = 0` or NaN gives NaN."""
    return a / b if b != 0.0 else a * math.copysign(math.inf, b)


def _sqrt(x: float) -> float:
    """Return the square root of `x`, with the IEEE value where `math.sqrt` raises: NaN below 0."""
    return math.nan if x < 0.0 else math.sqrt(x)


def _clamp(x: float, bound: float) -> float:
    """Return `max(-bound, min(x, bound))`; NaN stays, as `x` is the first argument of both."""
    return max(min(x, bound), -bound)


# ---- Activations -------------------------------------------------------------------------------
#
# Each is a pair: the function and its derivative, both of `x` and the parameter `alpha`.


def _sigmoid(x: float) -> float:
    """Return `1 / (1 + exp(-x))`; of its two forms, the one where `exp` cannot overflow."""
    if x >= 0.0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


def _sigmoid_slope(x: float) -> float:
    """Return `s(x) s(-x)`, for the sigmoid `s`: its derivative `s (1 - s)` without cancellation."""
    return _sigmoid(x) * _sigmoid(-x)


def _normal_cdf(x: float) -> float:
    """Return the normal distribution function `Phi(x) = erfc(-x / sqrt(2)) / 2`.

    `erfc` is small on the left, where `1 + erf(x / sqrt(2))` would cancel. Down there the rounding
    of `x / sqrt(2)` is still felt: the relative error is about `x^2` times that of one operation.
    """
    return 0.5 * math.erfc(-x * math.sqrt(0.5))


def _normal_density(x: float) -> float:
    """Return the derivative of `Phi`, `exp(-x^2 / 2) / sqrt(2 pi)`."""
    return math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)  # x * x: x ** 2 could raise


def _leaky_relu(x: float, alpha: float) -> float:
    return x if _passes(x) else _times(alpha, x)


def _leaky_relu_slope(x: float, alpha: float) -> float:
    if math.isnan(x):
        return x
    return 1.0 if x > 0.0 else alpha


def _elu(x: float, alpha: float) -> float:
    return x if x > 0.0 else alpha * math.expm1(x)  # never above 0 here: cannot overflow


def _elu_slope(x: float, alpha: float) -> float:
    return 1.0 if x > 0.0 else alpha * math.exp(x)


def _tanh_slope(x: float) -> float:
    """Return `1 - tanh(x)^2` as `4 s(2x) s(-2x)`, since `tanh(x) = 2 s(2x) - 1`."""
    return 4.0 * _sigmoid_slope(2.0 * x)


# The last three are `y = x p(x)` with derivative `p(x) + x p'(x)`, for a step `p` from 0 to 1.
# Where `p` or `p'` is 0, also by underflow, the product with `x` has the limit 0.


def _gelu(x: float) -> float:
    return _times(_normal_cdf(x), x)


def _gelu_slope(x: float) -> float:
    return _normal_cdf(x) + _times(_normal_density(x), x)


_GELU_A = math.sqrt(2.0 / math.pi)
_GELU_B = 0.044715


def _gelu_tanh(x: float) -> float:
    """Return `0.5 x (1 + tanh(u))` as `x s(2u)`, with `u = A (x + B x^3)`."""
    u = _GELU_A * (x + _GELU_B * x * x * x)
    return _times(_sigmoid(2.0 * u), x)


def _gelu_tanh_slope(x: float) -> float:
    """Return `s(2u) + x s'(2u) 2u'`, with `u' = A (1 + 3 B x^2)`."""
    u = _GELU_A * (x + _GELU_B * x * x * x)
    du = _GELU_A * (1.0 + 3.0 * _GELU_B * x * x)  # may overflow where s' is 0
    return _sigmoid(2.0 * u) + _times(_times(_sigmoid_slope(2.0 * u), 2.0 * du), x)


def _silu(x: float) -> float:
    return _times(_sigmoid(x), x)


def _silu_slope(x: float) -> float:
    return _sigmoid(x) + _times(_sigmoid_slope(x), x)


_Pointwise = Callable[[float, float], float]

_ACTIVATIONS: dict[str, tuple[_Pointwise, _Pointwise]] = {
    "leaky_relu": (_leaky_relu, _leaky_relu_slope),
    "elu": (_elu, _elu_slope),
    "sigmoid": (lambda x, _: _sigmoid(x), lambda x, _: _sigmoid_slope(x)),
    "tanh": (lambda x, _: math.tanh(x), lambda x, _: _tanh_slope(x)),
    "gelu": (lambda x, _: _gelu(x), lambda x, _: _gelu_slope(x)),
    "gelu_tanh": (lambda x, _: _gelu_tanh(x), lambda x, _: _gelu_tanh_slope(x)),
    "silu": (lambda x, _: _silu(x), lambda x, _: _silu_slope(x)),
}


def activation_forward(X: Matrix, kind: str, alpha: float = 0.0) -> Matrix:
    """Return `Y`, the activation `kind` of each element; `X` and `Y` are `(n, k)`::

        leaky_relu   x for x > 0, alpha x elsewhere
        elu          x for x > 0, alpha (exp(x) - 1) elsewhere
        sigmoid      s(x) = 1 / (1 + exp(-x))
        tanh         tanh(x)
        gelu         x Phi(x), Phi the normal distribution function
        gelu_tanh    0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
        silu         x s(x)

    Infinities give the limits, here at -inf, 0 for the last three and for `alpha = 0`; NaN stays.
    Source: Maas, Hannun and Ng 2013 (leaky_relu); Clevert, Unterthiner and Hochreiter 2016 (elu);
    Goodfellow et al., Deep Learning, ch. 6.3.2 (sigmoid, tanh); Hendrycks and Gimpel 2016,
    arXiv:1606.08415 (gelu, gelu_tanh, silu).
    """
    function, _ = _ACTIVATIONS[kind]
    return [[function(x, alpha) for x in row] for row in X]


def activation_backward(X: Matrix, dY: Matrix, kind: str, alpha: float = 0.0) -> Matrix:
    """Return `dX = dY f'(X)` for the activation `f = kind`; `X`, `dY` and `dX` are `(n, k)`::

        leaky_relu   1 for x > 0, alpha elsewhere
        elu          1 for x > 0, alpha exp(x) elsewhere
        sigmoid      s(x) (1 - s(x))               = s(x) s(-x)
        tanh         1 - tanh(x)^2                 = 4 s(2x) s(-2x)
        gelu         Phi(x) + x phi(x), with the density phi = Phi'
        gelu_tanh    s(2u) + x s(2u) s(-2u) 2u', with u = sqrt(2 / pi) (x + 0.044715 x^3)
        silu         s(x) + x s(x) s(-x)

    At 0 the first two have the derivative `alpha`. `X` is the argument of `activation_forward`, not
    its result. Infinities give the limits of the derivative; NaN in `X` or in `dY` gives NaN.
    Source: the derivatives of the formulas above.
    """
    _, slope = _ACTIVATIONS[kind]
    return [
        [dy * slope(x, alpha) for x, dy in zip(x_row, dy_row, strict=True)]
        for x_row, dy_row in zip(X, dY, strict=True)
    ]


# ---- Softmax -----------------------------------------------------------------------------------


def _shifted_exp(row: Vector, maximum: float) -> Vector:
    """Return `exp(x - maximum)` for each `x` of `row`, with `maximum = max(row)`.

    Each `x - maximum` is at most 0, or NaN, so `math.exp` cannot overflow. The largest `x` gives
    exactly 1, so the sum is at least 1. NaN, +inf, or nothing but -inf in the row: the sum is NaN.
    (`max` starts at element 0 and replaces it by what is greater, which no NaN is.)
    """
    return [math.exp(x - maximum) for x in row]


def softmax_forward(X: Matrix) -> Matrix:
    """Return `Y[r][i] = exp(X[r][i]) / sum_k exp(X[r][k])`, `X` and `Y` `(n, n_classes)`.

    The row maximum is subtracted first; it cancels in the quotient and keeps `exp` in range.
    Source: worked exercises D and F; Goodfellow et al., Deep Learning, ch. 4.1 and 6.2.2.3.
    """
    Y: Matrix = []
    for row in X:
        exps = _shifted_exp(row, max(row))
        total = sum(exps)
        Y.append([e / total for e in exps])
    return Y


def softmax_backward(Y: Matrix, dY: Matrix) -> Matrix:
    """Return `dX_i = Y_i (dY_i - sum_j dY_j Y_j)` for each row; all are `(n, n_classes)`.

    `Y` is the result of `softmax_forward`, not its argument.
    Source: the chain rule with the derivative of `Y_j` by `X_i`, `Y_i (delta_ij - Y_j)`, from
    worked exercise D.
    """
    dX: Matrix = []
    for y_row, dy_row in zip(Y, dY, strict=True):
        inner = sum(dy * y for y, dy in zip(y_row, dy_row, strict=True))
        dX.append([y * (dy - inner) for y, dy in zip(y_row, dy_row, strict=True)])
    return dX


# ---- Logarithm of softmax ----------------------------------------------------------------------


def log_softmax_forward(X: Matrix) -> Matrix:
    """Return `Y[r][i] = X[r][i] - log sum_k exp(X[r][k])`, `X` and `Y` `(n, n_classes)`.

    -inf stays -inf next to a finite score. A row is NaN throughout where softmax is: with NaN,
    with +inf, or with nothing but -inf.
    Source: the logarithm of `softmax_forward`; Goodfellow et al., Deep Learning, ch. 6.2.2.3.
    """
    Y: Matrix = []
    for row in X:
        maximum = max(row)
        # (x - maximum) - log(total) in this order, as in softmax_cross_entropy
        log_total = math.log(sum(_shifted_exp(row, maximum)))
        Y.append([(x - maximum) - log_total for x in row])
    return Y


def log_softmax_backward(Y: Matrix, dY: Matrix) -> Matrix:
    """Return `dX_i = dY_i - exp(Y_i) sum_j dY_j` for each row; all are `(n, n_classes)`.

    `Y` is the result of `log_softmax_forward`, not its argument.
    Source: the chain rule with the derivative of `Y_j` by `X_i`, `delta_ij - exp(Y_i)`.
    """
    dX: Matrix = []
    for y_row, dy_row in zip(Y, dY, strict=True):
        total = sum(dy_row)
        dX.append([dy - _exp(y) * total for y, dy in zip(y_row, dy_row, strict=True)])
    return dX


# ---- Layer normalization -----------------------------------------------------------------------


def _normalized(row: Vector, eps: float) -> tuple[Vector, float]:
    """Return `(row - mean) / sqrt(variance + eps)` and `1 / sqrt(variance + eps)`."""
    mean = sum(row) / len(row)
    differences = [x - mean for x in row]
    variance = sum(d * d for d in differences) / len(row)
    factor = _quotient(1.0, _sqrt(variance + eps))
    return [d * factor for d in differences], factor


def layer_norm_forward(
    X: Matrix, weight: Vector | None = None, bias: Vector | None = None, eps: float = 1e-5
) -> Matrix:
    """Return, for each row `x` of `X (n, k)` with mean `mu` and variance `sigma^2`::

        h_j = (x_j - mu) / sqrt(sigma^2 + eps),  sigma^2 = (1/k) sum_j (x_j - mu)^2
        y_j = weight_j h_j + bias_j

    Shapes: `weight (k,)`, `bias (k,)`, `Y (n, k)`. Without `weight` it is 1, without `bias` 0.
    A row with infinity or NaN, or one of equal elements with `eps = 0`, is NaN throughout.
    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450.
    """
    Y = [_normalized(row, eps)[0] for row in X]
    if weight is not None:
        Y = [[w * h for h, w in zip(row, weight, strict=True)] for row in Y]
    if bias is not None:
        Y = [[y + b for y, b in zip(row, bias, strict=True)] for row in Y]
    return Y


def layer_norm_backward(
    X: Matrix, weight: Vector | None, dY: Matrix, eps: float = 1e-5
) -> tuple[Matrix, Vector, Vector]:
    """Return `dX`, `dweight` and `dbias` of `layer_norm_forward`, with its `h`, for each row::

        dh_j = dY_j weight_j
        dX_j = (dh_j - mean(dh) - h_j mean(dh h)) / sqrt(sigma^2 + eps)

    and over the rows, `dweight` the column sums of `dY h`, `dbias` those of `dY`.
    Shapes: `dX (n, k)`, `dweight (k,)`, `dbias (k,)`, from `dY (n, k)`.
    Source: the chain rule; the derivative of `h_j` by `x_i` is
    `(delta_ij - 1/k - h_i h_j / k) / sqrt(sigma^2 + eps)`.
    """
    k = len(X[0])
    weight = [1.0] * k if weight is None else weight
    dX: Matrix = []
    products: Matrix = []
    for row, dy_row in zip(X, dY, strict=True):
        H, factor = _normalized(row, eps)
        dH = [dy * w for dy, w in zip(dy_row, weight, strict=True)]
        mean = sum(dH) / k
        inner = sum(dh * h for dh, h in zip(dH, H, strict=True)) / k
        dX.append([factor * (dh - mean - h * inner) for dh, h in zip(dH, H, strict=True)])
        products.append([dy * h for dy, h in zip(dy_row, H, strict=True)])
    dweight: Vector = [sum(column) for column in _transpose(products)]
    dbias: Vector = [sum(column) for column in _transpose(dY)]
    return dX, dweight, dbias


# ---- Dropout -----------------------------------------------------------------------------------

_MASK = 0xFFFFFFFF  # the low 32 bits


def _philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return four random words of 32 bits, a function of `counter` and `key`: Philox4x32-10.

    A round multiplies words 0 and 2 by constants; the high halves of the products, mixed with the
    other words and the key, and the low halves change places. The key advances between rounds.
    Source: Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a = 0xD2511F53 * c0
        b = 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & _MASK, (a >> 32) ^ c3 ^ k1, a & _MASK
        k0 = (k0 + 0x9E3779B9) & _MASK
        k1 = (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def _random_word(seed: int, number: int) -> int:
    """Return the 32 random bits that belong to the element of this number.

    64 elements share 16 counters: number `64 g + 16 w + l` has word `w` of counter `16 g + l`.
    """
    group, rest = divmod(number, 64)
    word, lane = divmod(rest, 16)
    counter = group * 16 + lane
    return _philox((counter & _MASK, counter >> 32, 0, 0), key=(seed & _MASK, seed >> 32))[word]


def dropout(X: Matrix, p: float, seed: int, first: int = 0) -> Matrix:
    """Return `Y`: each element 0 with probability `p`, else times `1 / (1 - p)`; both `(n, k)`.

    Elements are numbered from `first` on, row after row. Number and `seed`, both of 64 bits, decide
    which random word an element has; it is dropped where this is below `floor(p 2^32)`. Also
    infinity and NaN become 0. `0 <= p < 1`. The backward is the same function, of `dY`.
    Source: Srivastava et al. 2014, JMLR 15; Goodfellow et al., Deep Learning, ch. 7.12.
    """
    bound = math.floor(p * 2.0**32)
    factor = 1.0 / (1.0 - p)
    k = len(X[0])
    return [
        [
            0.0 if _random_word(seed, first + i * k + j) < bound else factor * x
            for j, x in enumerate(row)
        ]
        for i, row in enumerate(X)
    ]


# ---- Losses: each returns the loss and its gradient --------------------------------------------


def _one_hot(label: int, n_classes: int) -> Vector:
    """Return the target row of a label: 1 at the label, 0 elsewhere."""
    if not 0 <= label < n_classes:
        raise ValueError(f"target has label {label}, expected 0 to {n_classes - 1}")
    return [1.0 if j == label else 0.0 for j in range(n_classes)]


def _target_rows(target: Target, n_classes: int) -> Matrix:
    """Return `target` as `(n, n_classes)` rows of class weights."""
    return [_one_hot(t, n_classes) if isinstance(t, int) else t for t in target]


def softmax_cross_entropy(logits: Matrix, target: Target) -> tuple[float, Matrix]:
    """Return the mean cross-entropy of `softmax(logits)` with `target`, and `dlogits`.

    For a row `x` of `logits (n, n_classes)` with target weights `t`, of sum `s` (1 for a label)::

        lse       = log sum_k exp(x_k)
        l         = sum_j t_j (lse - x_j)        = -sum_j t_j log softmax(x)_j
        dlogits_j = (s softmax(x)_j - t_j) / n

    and the loss is the sum of `l` over the rows, divided by `n`. A class of weight 0 adds 0 to `l`,
    also where its score is -inf; a class of positive weight at -inf makes the loss +inf. A row
    whose weights are all 0 has the loss 0 and the gradient 0, whatever its scores are.
    Source: worked exercises D and F; Goodfellow et al., Deep Learning, ch. 6.2.2.3.
    """
    n = len(logits)
    T = _target_rows(target, n_classes=len(logits[0]))
    loss = 0.0
    dlogits: Matrix = []
    for row, weights in zip(logits, T, strict=True):
        if all(t == 0.0 for t in weights):
            dlogits.append([0.0] * len(row))
            continue
        maximum = max(row)
        exps = _shifted_exp(row, maximum)
        total = sum(exps)
        # lse - x = (maximum - x) + log(total), in this order: next to scores like 1e30, which
        # cancel in the bracket, log(total) would be lost. total is at least 1 or NaN: log is safe.
        loss += sum(
            t * ((maximum - x) + math.log(total))
            for x, t in zip(row, weights, strict=True)
            if t != 0.0
        )
        s = sum(weights)
        dlogits.append([(s * (e / total) - t) / n for e, t in zip(exps, weights, strict=True)])
    return loss / n, dlogits


def _weight_over_probability(t: float, p: float) -> float:
    """Return `t / p`, with its limit from above where Python raises: +inf at `p = 0`, `t > 0`."""
    return t * math.inf if p == 0.0 else t / p


def cross_entropy(P: Matrix, target: Target) -> tuple[float, Matrix]:
    """Return `-(1/n) sum t log p` over all rows and classes, and `dP = -t / p / n`.

    Shapes: `P` and `dP` are `(n, n_classes)`; `P` holds probabilities, for example from
    `softmax_forward`. Where `t` is 0, loss and gradient get 0 whatever `p` is. Where `t > 0`:
    `p = 0` gives loss +inf and gradient -inf, a negative `p` gives loss NaN.
    Source: worked exercises B and D. From logits, `softmax_cross_entropy` is the exact form.
    """
    n = len(P)
    T = _target_rows(target, n_classes=len(P[0]))
    loss = 0.0
    dP: Matrix = []
    for row, weights in zip(P, T, strict=True):
        loss += sum(-t * _log(p) for p, t in zip(row, weights, strict=True) if t != 0.0)
        dP.append(
            [
                -_weight_over_probability(t, p) / n if t != 0.0 else 0.0
                for p, t in zip(row, weights, strict=True)
            ]
        )
    return loss / n, dP


def mean_squared_error(Y: Matrix, T: Matrix) -> tuple[float, Matrix]:
    """Return the mean of `(Y - T)^2` over all `n k` elements, and `dY = 2 (Y - T) / (n k)`.

    Shapes: `Y`, `T` and `dY` are `(n, k)`. Source: Goodfellow et al., Deep Learning, ch. 5.1.4.
    """
    size = len(Y) * len(Y[0])
    differences = [
        [y - t for y, t in zip(y_row, t_row, strict=True)]
        for y_row, t_row in zip(Y, T, strict=True)
    ]
    loss = sum(d * d for row in differences for d in row) / size  # d * d: d ** 2 could raise
    dY = [[2.0 * d / size for d in row] for row in differences]
    return loss, dY


# ---- Targets with weights, and the losses that take them ---------------------------------------


def target_rows(
    target: Target,
    n_classes: int,
    sample_weight: Vector | None = None,
    class_weight: Vector | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> tuple[Matrix, float]:
    """Return the effective target weights `T (n, n_classes)`, and their `total`.

    For sample `i` with weight `w`, class weights `c` and smoothing `s`::

        label y:   t_j = w c_j ((1 - s) [j = y] + s / n_classes)             total += w c_y
        row r:     t_j = w c_j ((1 - s) r_j     + s / n_classes sum(r))      total += w

    `w` and `c` are 1 where not given. A label equal to `ignore_index`, which may lie outside of the
    classes, has zeros and adds nothing to `total`. A sample or class of weight 0 has exact zeros.
    The loss is `negative_log_likelihood(log_softmax_forward(logits), T, total)`; from the logits,
    it is that of `softmax_cross_entropy(logits, T)` times `n / total`.
    Source: Goodfellow et al., Deep Learning, ch. 7.5.1, and Szegedy et al. 2016, arXiv:1512.00567
    (smoothing). As in PyTorch's CrossEntropyLoss, `total` has the class weights of the labels, but
    counts a row as 1.
    """
    s = label_smoothing
    weights = [1.0] * len(target) if sample_weight is None else sample_weight
    c = [1.0] * n_classes if class_weight is None else class_weight
    T: Matrix = []
    total = 0.0
    for t, w in zip(target, weights, strict=True):
        if isinstance(t, int) and t == ignore_index:
            T.append([0.0] * n_classes)
            continue
        if isinstance(t, int):
            r = _one_hot(t, n_classes)
            total += w * c[t]
        else:
            r = t  # type: ignore[assignment]  # zip forgets what a target is a list of
            total += w
        spread = _times(s, sum(r) / n_classes)
        T.append([_times(w * c_j, (1.0 - s) * r_j + spread) for r_j, c_j in zip(r, c, strict=True)])
    return T, total


def negative_log_likelihood(logp: Matrix, T: Matrix, total: float) -> tuple[float, Matrix]:
    """Return `-(1/total) sum t logp` over all rows and classes, and `dlogp = -t / total`.

    Shapes: `logp`, `T` and `dlogp` are `(n, n_classes)`; `T` and `total` are from `target_rows`,
    `logp` for example from `log_softmax_forward`. Where `t` is 0, loss and gradient get 0 whatever
    `logp` is, and the gradient also where `total` is 0; the loss is 0/0 = NaN then.
    Source: Goodfellow et al., Deep Learning, ch. 5.5 and 6.2.1.1.
    """
    loss = sum(
        _times(-t, x)
        for row, weights in zip(logp, T, strict=True)
        for x, t in zip(row, weights, strict=True)
    )
    dlogp = [[_quotient(-t, total) if t != 0.0 else 0.0 for t in weights] for weights in T]
    return _quotient(loss, total), dlogp


def _weighted(
    L: Matrix, D: Matrix, total: float, sample_weight: Vector | None
) -> tuple[float, Matrix]:
    """Return `(1/total) sum_ij w_i L_ij` and `w_i D_ij / total`, for losses `L`, derivatives `D`.

    A row of weight 0 adds 0 and has the gradient 0, whatever is in it, and also where `total` is 0.
    """
    weights = [1.0] * len(L) if sample_weight is None else sample_weight
    loss = sum(_times(w, x) for row, w in zip(L, weights, strict=True) for x in row)
    dY = [[_times(w, _quotient(d, total)) for d in row] for row, w in zip(D, weights, strict=True)]
    return _quotient(loss, total), dY


def _softplus(x: float) -> float:
    """Return `log(1 + exp(x))`, as `max(x, 0) + log(1 + exp(-|x|))`: `exp` cannot overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))  # max(x, 0.0) with x first: NaN stays


def _binary_cross_entropy(
    X: Matrix,
    T: Matrix,
    total: float,
    sample_weight: Vector | None = None,
    pos_weight: Vector | None = None,
) -> tuple[float, Matrix]:
    """Return `(1/total) sum_ij w_i l_ij` and `dX`, for scores `x`, targets `t` in [0, 1]::

        l       = p_j t softplus(-x) + (1 - t) softplus(x),  softplus(x) = log(1 + exp(x))
                = -p_j t log s(x) - (1 - t) log(1 - s(x)),   s(x) = 1 / (1 + exp(-x))
        dX      = w_i (-p_j t s(-x) + (1 - t) s(x)) / total

    Shapes: `X`, `T` and `dX` are `(n, k)`, `sample_weight` is `w (n,)`, `pos_weight` is `p (k,)`;
    both are 1 where not given. A term with the factor 0, as one of the two at `t = 0` and `t = 1`,
    is 0 whatever `x` is: the loss is 0 at `t = 1`, `x = inf`, and +inf at `t = 1`, `x = -inf`.
    Source: Goodfellow et al., Deep Learning, ch. 6.2.2.2.
    """
    P = [1.0] * len(X[0]) if pos_weight is None else pos_weight
    L: Matrix = []
    D: Matrix = []
    for x_row, t_row in zip(X, T, strict=True):
        triples = list(zip(x_row, t_row, P, strict=True))
        L.append(
            [_times(p * t, _softplus(-x)) + _times(1.0 - t, _softplus(x)) for x, t, p in triples]
        )
        D.append(
            [_times(1.0 - t, _sigmoid(x)) - _times(p * t, _sigmoid(-x)) for x, t, p in triples]
        )
    return _weighted(L, D, total, sample_weight)


def _huber(d: float, delta: float) -> float:
    """Return `d^2 / 2` where `|d| <= delta`, `delta (|d| - delta / 2)` elsewhere."""
    return 0.5 * d * d if abs(d) <= delta else delta * (abs(d) - 0.5 * delta)


def _huber_loss(
    Y: Matrix,
    T: Matrix,
    total: float,
    sample_weight: Vector | None = None,
    delta: float = 1.0,
) -> tuple[float, Matrix]:
    """Return `(1/total) sum_ij w_i l_ij` and `dY`, for the differences `d = y - t`::

        l   = d^2 / 2 where |d| <= delta, delta (|d| - delta / 2) elsewhere
        dY  = w_i max(-delta, min(d, delta)) / total

    Shapes: `Y`, `T` and `dY` are `(n, k)`, `sample_weight` is `w (n,)`, 1 where not given.
    At `y = inf` the loss is +inf and the derivative `delta`; `inf - inf` and NaN give NaN.
    Source: Huber 1964, Annals of Mathematical Statistics 35; as PyTorch's HuberLoss.
    """
    differences = [
        [y - t for y, t in zip(y_row, t_row, strict=True)]
        for y_row, t_row in zip(Y, T, strict=True)
    ]
    L = [[_huber(d, delta) for d in row] for row in differences]
    D = [[_clamp(d, delta) for d in row] for row in differences]
    return _weighted(L, D, total, sample_weight)


def _poisson(
    X: Matrix, T: Matrix, total: float, sample_weight: Vector | None = None
) -> tuple[float, Matrix]:
    """Return `(1/total) sum_ij w_i (exp(x) - t x)` and `dX = w_i (exp(x) - t) / total`.

    `x` is the logarithm of the expected count, `t >= 0` the count. Shapes: `X`, `T` and `dX` are
    `(n, k)`, `sample_weight` is `w (n,)`, 1 where not given. This is the negative log-likelihood
    without `log(t!)`, which does not depend on `x`. Where `t` is 0, `t x` is 0 whatever `x` is: the
    loss is 0 at `t = 0`, `x = -inf`, and +inf at `t > 0`, `x = -inf`. At `t > 0`, `x = inf` it is
    `inf - inf`, NaN.
    Source: McCullagh and Nelder, Generalized Linear Models, 2nd ed., ch. 6.
    """
    L: Matrix = []
    D: Matrix = []
    for x_row, t_row in zip(X, T, strict=True):
        L.append([_exp(x) - _times(t, x) for x, t in zip(x_row, t_row, strict=True)])
        D.append([_exp(x) - t for x, t in zip(x_row, t_row, strict=True)])
    return _weighted(L, D, total, sample_weight)


def entry_losses(
    Y: Matrix,
    T: Matrix,
    kind: str,
    sample_weight: Vector | None = None,
    pos_weight: Vector | None = None,
    delta: float = 1.0,
    total: float | None = None,
) -> tuple[float, Matrix]:
    """Return `(1/total) sum_ij w_i l(y_ij, t_ij)` and `dY`, for a loss `l` by its `kind`.

    "mean_squared_error" is `(y - t)^2`; "binary_cross_entropy", "huber" and "poisson" are the three
    functions above. `total` is the number of entries unless it is given. All are `(n, k)`.
    """
    total = float(len(Y) * len(Y[0])) if total is None else total
    if kind == "binary_cross_entropy":
        return _binary_cross_entropy(Y, T, total, sample_weight, pos_weight)
    if kind == "huber":
        return _huber_loss(Y, T, total, sample_weight, delta)
    if kind == "poisson":
        return _poisson(Y, T, total, sample_weight)
    if kind != "mean_squared_error":
        raise KeyError(kind)
    D = [[y - t for y, t in zip(y_row, t_row, strict=True)]
         for y_row, t_row in zip(Y, T, strict=True)]
    return _weighted([[d * d for d in row] for row in D], [[2.0 * d for d in row] for row in D],
                     total, sample_weight)


def sum_of_weights(weights: Vector) -> float:
    """Return the sum of `weights`, by which a weighted mean divides."""
    return sum(weights)


# ---- Nodes of a graph: sum, maximum, multiple --------------------------------------------------


def add_forward(A: Matrix, B: Matrix) -> Matrix:
    """Return `Y = A + B`; all are `(n, k)`.

    Source: worked exercise A; in C it is the skip connection.
    """
    return [
        [a + b for a, b in zip(a_row, b_row, strict=True)]
        for a_row, b_row in zip(A, B, strict=True)
    ]


def add_backward(dY: Matrix) -> tuple[Matrix, Matrix]:
    """Return `dA = dY` and `dB = dY`, two separate copies; all are `(n, k)`.

    Source: worked exercises A and C.
    """
    return [list(row) for row in dY], [list(row) for row in dY]


def _first_wins(a: float, b: float) -> bool:
    """Return whether `max(a, b)` is `a`: on a tie it is, and a NaN wins over any number."""
    return a >= b or math.isnan(a)


def maximum_forward(A: Matrix, B: Matrix) -> Matrix:
    """Return `Y = max(A, B)` element by element; all are `(n, k)`.

    NaN in either argument gives NaN. Source: worked exercise A.
    """
    return [
        [a if _first_wins(a, b) else b for a, b in zip(a_row, b_row, strict=True)]
        for a_row, b_row in zip(A, B, strict=True)
    ]


def maximum_backward(A: Matrix, B: Matrix, dY: Matrix) -> tuple[Matrix, Matrix]:
    """Return `dA` and `dB`: each element of `dY` goes to the argument that won; all are `(n, k)`.

    `dA = dY` and `dB = 0` where `A >= B` or `A` is NaN; `dA = 0` and `dB = dY` elsewhere.
    So on a tie the first argument gets it all. Source: worked exercise A.
    """
    dA: Matrix = []
    dB: Matrix = []
    for a_row, b_row, dy_row in zip(A, B, dY, strict=True):
        triples = list(zip(a_row, b_row, dy_row, strict=True))
        dA.append([dy if _first_wins(a, b) else 0.0 for a, b, dy in triples])
        dB.append([0.0 if _first_wins(a, b) else dy for a, b, dy in triples])
    return dA, dB


def scale_forward(X: Matrix, factor: float) -> Matrix:
    """Return `Y = factor X`, with a constant factor; both are `(n, k)`. Source: exercise A."""
    return [[factor * x for x in row] for row in X]


def scale_backward(dY: Matrix, factor: float) -> Matrix:
    """Return `dX = factor dY`; both are `(n, k)`. Source: exercise A."""
    return [[factor * dy for dy in row] for row in dY]


def scale_rows(X: Matrix, factors: Vector) -> Matrix:
    """Return `Y_ij = factors_i X_ij`; `X` and `Y` are `(n, k)`, `factors` `(n,)`."""
    return [[factor * x for x in row] for row, factor in zip(X, factors, strict=True)]


# ---- Learning step: one parameter --------------------------------------------------------------
#
# All vectors are flat lists of one length. States (v, m, buffer, average) start at 0.


def _gradient(g: Vector, w: Vector, scale: float, clip: float | None, decay: float) -> Vector:
    """Return `g' = clamp(scale g, -clip, clip) + decay w`; without `clip` nothing is clamped.

    `decay` is the L2 penalty `decay / 2 sum w^2`. `scale` turns a sum into a mean, or is the factor
    of clipping by the norm; -1 climbs. Source: Goodfellow et al., Deep Learning, ch. 7.1.1 and
    10.11.1.
    """
    g = [scale * x for x in g]
    if clip is not None:
        g = [_clamp(x, clip) for x in g]
    return [x + _times(decay, y) for x, y in zip(g, w, strict=True)]


def sgd_update(
    g: Vector,
    w: Vector,
    v: Vector,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    *,
    gain: float = 1.0,
    look: float | None = None,
    direct: float | None = None,
    scale: float = 1.0,
    clip: float | None = None,
    decay: float = 0.0,
    shrink: float = 1.0,
) -> tuple[Vector, Vector]:
    """Return `w` and the velocity `v` after one step of gradient descent with momentum::

        g' = clamp(scale g, -clip, clip) + decay w
        v <- momentum v + gain g'
        w <- shrink w - lr (look v + direct g')         with the new v

    `look` and `direct` are 1 and 0, or with `nesterov` `momentum` and 1, unless they are given.
    A term of `v`, `look v` and `direct g'` with the factor 0 is left out. The usual conventions,
    with learning rate `eta` and momentum `mu`::

                                     lr     momentum  gain            look   direct
        PyTorch                      eta    mu        1 - dampening   1      0
        PyTorch, nesterov            eta    mu        1               mu     1
        scikit-learn                 1      mu        eta             1      0
        scikit-learn, nesterov       1      mu        eta             mu     eta
        ONNX Momentum                eta    alpha     beta            1      0
        ONNX Momentum, nesterov      eta    alpha     beta            alpha  1

    In PyTorch and ONNX the first step has `gain = 1`; in PyTorch every step with `mu = 0` has.
    scikit-learn's velocity has the opposite sign. While `eta` is constant, PyTorch's `eta v` and
    the `v` of scikit-learn are the same; PyTorch applies a changed `eta` to the past gradients
    too. `decay` is PyTorch's `weight_decay` and ONNX's `norm_coefficient`; with
    `shrink = 1 - eta lambda` there is a decay that does not pass through the velocity.
    Source: worked exercises E and F; Goodfellow et al., Deep Learning, ch. 8.3; Sutskever et al.
    2013; Loshchilov and Hutter 2019, arXiv:1711.05101 (`shrink`).
    """
    look = (momentum if nesterov else 1.0) if look is None else look
    direct = (1.0 if nesterov else 0.0) if direct is None else direct
    g = _gradient(g, w, scale, clip, decay)
    v = [_times(momentum, y) + _times(gain, x) for x, y in zip(g, v, strict=True)]
    step = [_times(look, y) + _times(direct, x) for x, y in zip(g, v, strict=True)]
    w = [shrink * x - lr * s for x, s in zip(w, step, strict=True)]
    return w, v


def adam_update(
    g: Vector,
    w: Vector,
    m: Vector,
    v: Vector,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    root: float = 1.0,
    scale: float = 1.0,
    clip: float | None = None,
    decay: float = 0.0,
    shrink: float = 1.0,
) -> tuple[Vector, Vector, Vector]:
    """Return `w` and the moments `m` and `v` after one step of Adam::

        g' = clamp(scale g, -clip, clip) + decay w
        m <- beta1 m + (1 - beta1) g'
        v <- beta2 v + (1 - beta2) g'^2
        w <- shrink w - rate m / (root sqrt(v) + eps)       with the new m and v

    The correction of the bias is in `rate` and `root`. At step `t = 1, 2, ...`, with learning rate
    `lr`, `b1 = 1 - beta1^t` and `b2 = 1 - beta2^t`::

                                     rate                root
        PyTorch, Kingma and Ba       lr / b1             1 / sqrt(b2)
        scikit-learn                 lr sqrt(b2) / b1    1
        ONNX Adam                    lr sqrt(b2) / b1    1       (t the input T; at T = 0: lr)

    The last two let `eps` stand next to the uncorrected root (the end of section 2 of the paper).
    PyTorch's AdamW is `shrink = 1 - lr weight_decay` with `decay = 0`. ONNX's `norm_coefficient` is
    `decay`; `norm_coefficient_post`, c, shrinks after the step: `shrink = 1 - c`, `rate` times it.
    A denominator of 0 gives 0/0 = NaN or infinity, a negative `v` NaN.
    Source: Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019, arXiv:1711.05101.
    """
    g = _gradient(g, w, scale, clip, decay)
    m = [beta1 * y + (1.0 - beta1) * x for x, y in zip(g, m, strict=True)]
    v = [beta2 * y + (1.0 - beta2) * (x * x) for x, y in zip(g, v, strict=True)]
    step = [_quotient(x, root * _sqrt(y) + eps) for x, y in zip(m, v, strict=True)]
    w = [shrink * x - rate * s for x, s in zip(w, step, strict=True)]
    return w, m, v


def rmsprop_update(
    g: Vector,
    w: Vector,
    v: Vector,
    rate: float,
    alpha: float,
    eps: float,
    buffer: Vector | None = None,
    momentum: float = 0.0,
    average: Vector | None = None,
    scale: float = 1.0,
    clip: float | None = None,
    decay: float = 0.0,
    shrink: float = 1.0,
) -> tuple[Vector, Vector, Vector, Vector | None]:
    """Return `w`, `v`, `buffer` and `average` after one step of RMSProp::

        g' = clamp(scale g, -clip, clip) + decay w
        v       <- alpha v + (1 - alpha) g'^2
        average <- alpha average + (1 - alpha) g'                   centered: if it is given
        d        = sqrt(v) + eps, or sqrt(v - average^2) + eps      centered
        buffer  <- momentum buffer + g' / d
        w       <- shrink w - rate buffer                           all with the new values

    Without `buffer` it is 0; without `average` it stays None. A `d` of 0 gives 0/0 = NaN or
    infinity. Where rounding makes `v - average^2` negative, after many equal gradients, it counts
    as 0 (in PyTorch the root is NaN).
    Source: Tieleman and Hinton 2012, lecture 6.5; Goodfellow et al., Deep Learning, ch. 8.5.2;
    Graves 2013, arXiv:1308.0850 (centered); the places of `eps`, `momentum` and `rate` are those of
    PyTorch's RMSprop.
    """
    g = _gradient(g, w, scale, clip, decay)
    v = [alpha * y + (1.0 - alpha) * (x * x) for x, y in zip(g, v, strict=True)]
    if average is None:
        variance = v
    else:
        average = [alpha * y + (1.0 - alpha) * x for x, y in zip(g, average, strict=True)]
        variance = [max(y - a * a, 0.0) for y, a in zip(v, average, strict=True)]
    scaled = [_quotient(x, _sqrt(y) + eps) for x, y in zip(g, variance, strict=True)]
    buffer = [0.0] * len(w) if buffer is None else buffer
    buffer = [_times(momentum, b) + s for b, s in zip(buffer, scaled, strict=True)]
    w = [shrink * x - rate * b for x, b in zip(w, buffer, strict=True)]
    return w, v, buffer, average


def sum_of_squares(g: Vector) -> float:
    """Return the sum of `g^2`, the square of the norm by which gradients are clipped."""
    return sum(x * x for x in g)


# ---- Accuracy ----------------------------------------------------------------------------------


def _first_largest(row: Vector) -> int:
    """Return the index of the first largest element; as in `numpy.argmax`, NaN is the largest."""
    largest = 0
    for j, x in enumerate(row):
        if math.isnan(x):
            return j
        if x > row[largest]:
            largest = j
    return largest


def count_correct(scores: Matrix, target: Target, k: int = 1) -> int:
    """Return for how many rows of `scores (n, n_classes)` one of the k largest is at the target.

    Of equal scores the first counts as larger, NaN as largest; the label of a target row is its
    first largest entry. Divided by `n` this is the (top-k) accuracy. Source: worked exercise F.
    """
    def best(row: Vector) -> list[int]:
        order = sorted(range(len(row)), key=lambda j: math.inf if math.isnan(row[j]) else row[j],
                       reverse=True)            # keeps equals in their order
        order.sort(key=lambda j: not math.isnan(row[j]))
        return order[:k]

    T = _target_rows(target, n_classes=len(scores[0]))
    return sum(_first_largest(weights) in best(row) for row, weights in zip(scores, T, strict=True))


def count_same_side(scores: Matrix, T: Matrix) -> int:
    """Return how many entries have a score above 0 where the target is above 1/2, and only there.

    A score of 0 is a probability of 1/2; NaN, in either, is on no side. Divided by the number of
    entries this is the accuracy of independent yes and no answers.
    """
    return sum(
        not math.isnan(x) and not math.isnan(t) and (x > 0) == (t > 0.5)
        for row, targets in zip(scores, T, strict=True)
        for x, t in zip(row, targets, strict=True))


def r2_score(Y: Matrix, T: Matrix) -> float:
    """Return the share of the targets' variance that is explained, averaged over columns.

    `1 - sum (t - y)^2 / sum (t - mean of t)^2`; for a column of equal targets 1 if all are met and
    else 0. Source: Draper and Smith, 1998; the rule for equal targets is scikit-learn's.
    """
    total = 0.0
    for column, targets in zip(zip(*Y, strict=True), zip(*T, strict=True), strict=True):
        mean = math.fsum(targets) / len(targets)
        residual = math.fsum((t - y) ** 2 for y, t in zip(column, targets, strict=True))
        spread = math.fsum((t - mean) ** 2 for t in targets)
        if len(set(targets)) > 1:
            total += 1 - residual / spread
        elif not residual > 0:
            total += 1 if residual == 0 else residual
    return total / len(Y[0])
