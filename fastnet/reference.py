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

Vector = list[float]
Matrix = list[list[float]]
Target = list[int] | Matrix  # one class label per sample, or one row of class weights per sample

__all__ = [
    "add_backward",
    "add_forward",
    "count_correct",
    "cross_entropy",
    "dense_backward",
    "dense_forward",
    "exp_forward",
    "log_forward",
    "maximum_backward",
    "maximum_forward",
    "mean_squared_error",
    "relu_backward",
    "relu_forward",
    "scale_backward",
    "scale_forward",
    "sgd_update",
    "softmax_backward",
    "softmax_cross_entropy",
    "softmax_forward",
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
    also where its score is -inf; a class of positive weight at -inf makes the loss +inf.
    Source: worked exercises D and F; Goodfellow et al., Deep Learning, ch. 6.2.2.3.
    """
    n = len(logits)
    T = _target_rows(target, n_classes=len(logits[0]))
    loss = 0.0
    dlogits: Matrix = []
    for row, weights in zip(logits, T, strict=True):
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


# ---- Learning step -----------------------------------------------------------------------------


def sgd_update(
    dW: Vector,
    W: Vector,
    V: Vector,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> tuple[Vector, Vector]:
    """Return `W` and the velocity `V` after one step of gradient descent with momentum::

        V <- momentum V + dW
        W <- W - lr V                       or, with nesterov,
        W <- W - lr (dW + momentum V)       with the new V

    Shapes: `dW`, `W` and `V` are flat lists of one length; `V` starts at 0. `momentum = 0` is plain
    gradient descent. `lr` stands outside the velocity, as in `torch.optim.SGD`; while `lr` is
    constant this is the same as `v = momentum v + lr g`, `w = w - v` of worked exercise F.
    Source: worked exercises E and F; Goodfellow et al., Deep Learning, ch. 8.3.1 to 8.3.3.
    """
    V = [momentum * v + dw for v, dw in zip(V, dW, strict=True)]
    if nesterov:
        step = [dw + momentum * v for dw, v in zip(dW, V, strict=True)]
    else:
        step = V
    W = [w - lr * s for w, s in zip(W, step, strict=True)]
    return W, V


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


def count_correct(scores: Matrix, target: Target) -> int:
    """Return for how many rows of `scores (n, n_classes)` the largest score is at the target.

    Of equal largest scores the first counts; the label of a target row is its first largest entry.
    Divided by `n` this is the accuracy. Source: worked exercise F.
    """
    T = _target_rows(target, n_classes=len(scores[0]))
    return sum(
        _first_largest(row) == _first_largest(weights)
        for row, weights in zip(scores, T, strict=True)
    )
