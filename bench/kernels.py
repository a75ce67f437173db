"""Each core loop of fastnet against NumPy as its expert writes it, and the pure-Python reference.

A function per kernel makes its case: the inputs, the contenders and the exact result. All
contenders read and write the same arrays, so none has the better alignment. Scratch space and
constants of NumPy's side are made beforehand, as zero-dimensional arrays where they are scalars,
which its functions take faster than Python floats; row sums are products with a vector of ones,
which its BLAS adds up faster than `sum`; copies are assignments to `[...]`, which start faster than
`copyto`. Every contender is one Python call, some 30 ns of each figure.

Inputs are standard normal, probabilities a softmax of such. Shapes are those of layers in
grid.toml: n x n_in x n_out for products, n x n_out for what a layer's output goes through,
n_in x n_out for updates.
"""

import math
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.measure import Run, Summary, median_ratio, summarise, time_in_turns
from fastnet import _ops, reference

GRID = Path(__file__).with_name("grid.toml")
REFERENCE_LIMIT = 2_000_000     # product of a shape: beyond it the reference takes too long
REFERENCE_ROUNDS = 3            # it is slow and far behind: a few samples tell enough


class Layer(NamedTuple):
    """A dense layer as a network of the grid has it; `last` has classes for outputs, no ReLU."""

    n: int
    n_in: int
    n_out: int
    last: bool


SMALL_LAYERS = [
    Layer(1, 2, 3, False), Layer(1, 3, 2, True), Layer(64, 64, 64, False), Layer(64, 64, 10, True),
]
SOME_LAYERS = [
    *SMALL_LAYERS, Layer(1, 256, 256, False), Layer(128, 784, 128, False),
    Layer(10000, 1000, 10, True), Layer(1024, 512, 512, False),
]


def read_layers(path: Path = GRID) -> list[Layer]:
    """Return every distinct layer of the networks in a grid file, in the file's order."""
    with open(path, "rb") as file:
        networks = tomllib.load(file)["net"]
    layers = []
    for network in networks:
        widths = network["widths"]
        pairs = list(zip(widths, widths[1:], strict=False))
        for index, (n_in, n_out) in enumerate(pairs, start=1):
            layers.append(Layer(network["batch"], n_in, n_out, index == len(pairs)))
    return list(dict.fromkeys(layers))


# ---- What a case is, and how a contender is checked --------------------------------------------

Exact = list[tuple[Any, float]]


@dataclass
class Case:
    """One kernel at one shape.

    `contenders` return their results, in one order. `reference` does so from the inputs as lists,
    `exact` from the inputs in float64, with a scale for each result (see `check`). `outputs` are
    all arrays that contenders change.
    """

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    contenders: dict[str, Run]
    exact: Callable[..., Exact]
    reference: Callable[..., Any] | None = None
    flop: int | None = None


class WrongResult(Exception):
    """A contender's result is not the exact one."""


def check(found: Any, exact: Exact, dtype: np.dtype, who: str) -> None:
    """Raise WrongResult unless each result is within `4 eps (scale + |exact|)`.

    Each rounding is off by eps / 2 of the number rounded, at most. `4 eps |exact|` allows 8 such
    for the handful at a result's own size, `4 eps scale` the same for numbers of another size on
    the way to it. In a sum of k standard normal products, added up in any order, k partial sums of
    size up to sqrt(k) are rounded; such errors add up like a random walk, to some 0.2 eps k.
    With scale k the bound is twice the largest error seen among ten million results, and far below
    1, the size of a product that is missing or one too many.
    """
    results = found if isinstance(found, tuple) else (found,)
    for result, (value, scale) in zip(results, exact, strict=True):
        if np.shape(result) != np.shape(value):
            raise WrongResult(f"{who}: shape {np.shape(result)}, expected {np.shape(value)}")
        error = np.abs(np.asarray(result, np.float64) - value)
        bound = 4 * np.finfo(dtype).eps * (scale + np.abs(value))
        if not np.all(error <= bound):      # also where the result is NaN
            raise WrongResult(f"{who}: off by {np.max(error / bound):.3g} times the tolerance")


def verify(case: Case, contenders: dict[str, Run], name: str) -> None:
    """Check every contender, each from the same start: none can pass on another's result."""
    exact = case.exact(*[a.astype(np.float64) if a.dtype.kind == "f" else a for a in case.inputs])
    start = [array.copy() for array in case.outputs]
    for who, run in contenders.items():
        for array, values in zip(case.outputs, start, strict=True):
            np.copyto(array, values)
        check(run(), exact, case.inputs[0].dtype, f"{name}: {who} is wrong")


class Arrays:
    """Maker of a case's arrays, in one dtype and with the same numbers in every run."""

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.rng = np.random.default_rng(20260101)

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape, self.dtype)

    def probabilities(self, n: int, n_classes: int) -> np.ndarray:
        P: np.ndarray = np.exp(self.normal(n, n_classes))
        P /= P.sum(axis=1, keepdims=True)
        return P

    def nan(self, *shape: int) -> np.ndarray:
        """For results: an entry that a contender leaves out is seen."""
        return np.full(shape, np.nan, self.dtype)

    def constant(self, value: float) -> np.ndarray:
        return np.array(value, self.dtype)


# ---- Dense -------------------------------------------------------------------------------------

def dense_forward(new: Arrays, n: int, n_in: int, n_out: int, relu: bool = False) -> Case:
    X, W, b, Z = new.normal(n, n_in), new.normal(n_in, n_out), new.normal(n_out), new.nan(n, n_out)
    zero = new.constant(0)

    def with_numpy() -> Any:
        np.dot(X, W, out=Z)
        np.add(Z, b, out=Z)
        return np.maximum(Z, zero, out=Z) if relu else Z

    def exact(X: np.ndarray, W: np.ndarray, b: np.ndarray) -> Exact:
        Z = X @ W + b
        return [(np.maximum(Z, 0) if relu else Z, n_in + 1)]

    return Case(
        inputs=(X, W, b), outputs=(Z,), flop=2 * n * n_in * n_out,
        contenders={"fastnet": lambda: _ops.dense_forward(X, W, b, Z, relu), "NumPy": with_numpy},
        reference=partial(reference.dense_forward, relu=relu), exact=exact)


def dense_forward_relu(new: Arrays, n: int, n_in: int, n_out: int) -> Case:
    return dense_forward(new, n, n_in, n_out, relu=True)


# fastnet and its reference have one dense_backward; its three parts are timed one by one. The
# reference cannot leave any out. So its figure for dX and dW is the same product by its
# dense_forward, with the transposed matrix made beforehand, and for db the sum of each column in
# plain Python, as its dense_backward takes it. Each spares the reference one transposition.

def dense_backward_dX(new: Arrays, n: int, n_in: int, n_out: int) -> Case:
    X, W, dZ = new.normal(n, n_in), new.normal(n_in, n_out), new.normal(n, n_out)
    dX = new.nan(n, n_in)
    return Case(
        inputs=(dZ, W.T), outputs=(dX,), flop=2 * n * n_in * n_out,
        contenders={"fastnet": lambda: _ops.dense_backward(X, W, dZ, dX),
                    "NumPy": lambda: np.dot(dZ, W.T, out=dX)},
        reference=reference.dense_forward,
        exact=lambda dZ, W_T: [(dZ @ W_T, n_out)])


def dense_backward_dW(new: Arrays, n: int, n_in: int, n_out: int) -> Case:
    X, W, dZ = new.normal(n, n_in), new.normal(n_in, n_out), new.normal(n, n_out)
    dW = new.nan(n_in, n_out)

    def with_fastnet() -> np.ndarray:
        _ops.dense_backward(X, W, dZ, None, dW, None, False)
        return dW

    return Case(
        inputs=(X.T, dZ), outputs=(dW,), flop=2 * n * n_in * n_out,
        contenders={"fastnet": with_fastnet, "NumPy": lambda: np.dot(X.T, dZ, out=dW)},
        reference=reference.dense_forward,
        exact=lambda X_T, dZ: [(X_T @ dZ, n)])


def dense_backward_db(new: Arrays, n: int, n_out: int) -> Case:
    X, W = new.normal(n, 1), new.normal(1, n_out)      # must be there, but are not looked at
    dZ, db, ones = new.normal(n, n_out), new.nan(n_out), np.ones(n, new.dtype)

    def with_fastnet() -> np.ndarray:
        _ops.dense_backward(X, W, dZ, None, None, db, False)
        return db

    return Case(
        inputs=(dZ,), outputs=(db,),
        contenders={"fastnet": with_fastnet, "NumPy": lambda: np.dot(ones, dZ, out=db)},
        reference=lambda dZ: [sum(column) for column in zip(*dZ, strict=True)],
        exact=lambda dZ: [(dZ.sum(axis=0), n)])


# ---- Element by element ------------------------------------------------------------------------
# NumPy multiplies by a mask faster when the mask has become floats before.

def exp_forward(new: Arrays, n: int, n_out: int) -> Case:
    X, Y = new.normal(n, n_out), new.nan(n, n_out)
    return Case(
        inputs=(X,), outputs=(Y,),
        contenders={"fastnet": lambda: _ops.exp_forward(X, Y), "NumPy": lambda: np.exp(X, out=Y)},
        reference=reference.exp_forward,
        exact=lambda X: [(np.exp(X), 0)])


def log_forward(new: Arrays, n: int, n_out: int) -> Case:
    X, Y = new.probabilities(n, n_out), new.nan(n, n_out)
    return Case(
        inputs=(X,), outputs=(Y,),
        contenders={"fastnet": lambda: _ops.log_forward(X, Y), "NumPy": lambda: np.log(X, out=Y)},
        reference=reference.log_forward,
        exact=lambda X: [(np.log(X), 0)])


def relu_forward(new: Arrays, n: int, n_out: int) -> Case:
    X, Y, zero = new.normal(n, n_out), new.nan(n, n_out), new.constant(0)
    return Case(
        inputs=(X,), outputs=(Y,),
        contenders={"fastnet": lambda: _ops.relu_forward(X, Y),
                    "NumPy": lambda: np.maximum(X, zero, out=Y)},
        reference=reference.relu_forward,
        exact=lambda X: [(np.maximum(X, 0), 1)])


def relu_backward(new: Arrays, n: int, n_out: int) -> Case:
    X, dY, dX = new.normal(n, n_out), new.normal(n, n_out), new.nan(n, n_out)
    zero, positive = new.constant(0), np.empty((n, n_out), bool)

    def with_numpy() -> Any:
        np.greater(X, zero, out=positive)
        dX[...] = positive
        return np.multiply(dX, dY, out=dX)

    return Case(
        inputs=(X, dY), outputs=(dX,),
        contenders={"fastnet": lambda: _ops.relu_backward(X, dY, dX), "NumPy": with_numpy},
        reference=reference.relu_backward,
        exact=lambda X, dY: [(np.where(X > 0, dY, 0), 1)])


def of_two(new: Arrays, n: int, n_out: int, fastnet: Any, numpy: np.ufunc, slow: Any) -> Case:
    """The case of `Y = f(A, B)`."""
    A, B, Y = new.normal(n, n_out), new.normal(n, n_out), new.nan(n, n_out)
    return Case(
        inputs=(A, B), outputs=(Y,),
        contenders={"fastnet": lambda: fastnet(A, B, Y), "NumPy": lambda: numpy(A, B, out=Y)},
        reference=slow,
        exact=lambda A, B: [(numpy(A, B), 1)])


def add_forward(new: Arrays, n: int, n_out: int) -> Case:
    return of_two(new, n, n_out, _ops.add_forward, np.add, reference.add_forward)


def add_backward(new: Arrays, n: int, n_out: int) -> Case:
    dY, dA, dB = new.normal(n, n_out), new.nan(n, n_out), new.nan(n, n_out)

    def with_numpy() -> tuple[np.ndarray, np.ndarray]:
        dA[...] = dY
        dB[...] = dY
        return dA, dB

    return Case(
        inputs=(dY,), outputs=(dA, dB),
        contenders={"fastnet": lambda: _ops.add_backward(dY, dA, dB), "NumPy": with_numpy},
        reference=reference.add_backward,
        exact=lambda dY: [(dY, 1), (dY, 1)])


def maximum_forward(new: Arrays, n: int, n_out: int) -> Case:
    return of_two(new, n, n_out, _ops.maximum_forward, np.maximum, reference.maximum_forward)


def maximum_backward(new: Arrays, n: int, n_out: int) -> Case:
    A, B, dY = new.normal(n, n_out), new.normal(n, n_out), new.normal(n, n_out)
    dA, dB, first = new.nan(n, n_out), new.nan(n, n_out), np.empty((n, n_out), bool)

    def with_numpy() -> tuple[np.ndarray, np.ndarray]:
        np.greater_equal(A, B, out=first)
        dA[...] = first
        np.multiply(dA, dY, out=dA)
        np.subtract(dY, dA, out=dB)         # dY or 0, exactly
        return dA, dB

    return Case(
        inputs=(A, B, dY), outputs=(dA, dB),
        contenders={"fastnet": lambda: _ops.maximum_backward(A, B, dY, dA, dB),
                    "NumPy": with_numpy},
        reference=reference.maximum_backward,
        exact=lambda A, B, dY: [(np.where(A >= B, dY, 0), 1), (np.where(A >= B, 0, dY), 1)])


FACTOR = 0.1


def scale_forward(new: Arrays, n: int, n_out: int) -> Case:
    """Also the case of scale_backward: both are one kernel, and differ in names alone."""
    X, Y, factor = new.normal(n, n_out), new.nan(n, n_out), new.constant(FACTOR)
    return Case(
        inputs=(X,), outputs=(Y,),
        contenders={"fastnet": lambda: _ops.scale_forward(X, FACTOR, Y),
                    "NumPy": lambda: np.multiply(X, factor, out=Y)},
        reference=lambda X: reference.scale_forward(X, FACTOR),
        exact=lambda X: [(FACTOR * X, 1)])


# ---- Softmax, losses, accuracy -----------------------------------------------------------------
# NumPy finds the maxima of short rows in a transposed copy, up to eight times as fast.

def softmax_forward(new: Arrays, n: int, n_classes: int) -> Case:
    X, Y = new.normal(n, n_classes), new.nan(n, n_classes)
    columns, ones = new.nan(n_classes, n), np.ones(n_classes, new.dtype)
    column = new.nan(n, 1)
    row = column.reshape(n)

    def with_numpy() -> Any:
        columns[...] = X.T
        np.maximum.reduce(columns, axis=0, out=row)
        np.subtract(X, column, out=Y)
        np.exp(Y, out=Y)
        np.dot(Y, ones, out=row)
        return np.divide(Y, column, out=Y)

    def exact(X: np.ndarray) -> Exact:
        exps = np.exp(X - X.max(axis=1, keepdims=True))
        return [(exps / exps.sum(axis=1, keepdims=True), n_classes)]

    return Case(
        inputs=(X,), outputs=(Y,),
        contenders={"fastnet": lambda: _ops.softmax_forward(X, Y), "NumPy": with_numpy},
        reference=reference.softmax_forward, exact=exact)


def softmax_backward(new: Arrays, n: int, n_classes: int) -> Case:
    Y, dY, dX = new.probabilities(n, n_classes), new.normal(n, n_classes), new.nan(n, n_classes)
    products, ones = new.nan(n, n_classes), np.ones((n_classes, n_classes), new.dtype)

    def with_numpy() -> Any:
        np.multiply(dY, Y, out=products)
        np.dot(products, ones, out=dX)      # the row sums, already spread over the classes
        np.subtract(dY, dX, out=dX)
        return np.multiply(dX, Y, out=dX)

    return Case(
        inputs=(Y, dY), outputs=(dX,),
        contenders={"fastnet": lambda: _ops.softmax_backward(Y, dY, dX), "NumPy": with_numpy},
        reference=reference.softmax_backward,
        exact=lambda Y, dY: [(Y * (dY - (dY * Y).sum(axis=1, keepdims=True)), n_classes)])


def softmax_cross_entropy(new: Arrays, n: int, n_classes: int) -> Case:
    logits, dlogits = new.normal(n, n_classes), new.nan(n, n_classes)
    labels = new.rng.integers(0, n_classes, n)
    columns, ones = new.nan(n_classes, n), np.ones(n_classes, new.dtype)
    row_ones = np.ones(n, new.dtype)
    column, at_label, logs = new.nan(n, 1), new.nan(n), new.nan(n)
    row, flat = column.reshape(n), dlogits.reshape(n * n_classes)
    row_starts, positions = np.arange(n) * n_classes, np.empty(n, np.int64)
    rows, share = new.constant(n), new.constant(1 / n)

    def with_numpy() -> tuple[float, np.ndarray]:
        columns[...] = logits.T
        np.maximum.reduce(columns, axis=0, out=row)
        np.subtract(logits, column, out=dlogits)
        np.add(row_starts, labels, out=positions)
        flat.take(positions, out=at_label, mode="clip")     # "raise" would buffer the output
        np.exp(dlogits, out=dlogits)
        np.dot(dlogits, ones, out=row)
        np.log(row, out=logs)
        np.subtract(logs, at_label, out=logs)
        loss = float(np.dot(logs, row_ones)) / n
        np.multiply(row, rows, out=row)
        np.divide(dlogits, column, out=dlogits)
        flat.take(positions, out=at_label, mode="clip")
        np.subtract(at_label, share, out=at_label)
        flat[positions] = at_label
        return loss, dlogits

    def exact(logits: np.ndarray, labels: np.ndarray) -> Exact:
        exps = np.exp(logits - logits.max(axis=1, keepdims=True))
        P = exps / exps.sum(axis=1, keepdims=True)
        loss = -np.log(P[np.arange(n), labels]).mean()
        # The loss is a mean of n rounded terms, the gradient n_classes exps of size 1, over n.
        return [(loss, math.sqrt(n)), ((P - np.eye(n_classes)[labels]) / n, n_classes / n)]

    return Case(
        inputs=(logits, labels), outputs=(dlogits,),
        contenders={"fastnet": lambda: _ops.softmax_cross_entropy(logits, labels, dlogits),
                    "NumPy": with_numpy},
        reference=reference.softmax_cross_entropy, exact=exact)


def cross_entropy(new: Arrays, n: int, n_classes: int) -> Case:
    P, dP = new.probabilities(n, n_classes), new.nan(n, n_classes)
    labels, row_ones = new.rng.integers(0, n_classes, n), np.ones(n, new.dtype)
    at_label, logs, flat_P, flat_dP = new.nan(n), new.nan(n), P.reshape(-1), dP.reshape(-1)
    row_starts, positions = np.arange(n) * n_classes, np.empty(n, np.int64)
    minus_share = new.constant(-1 / n)

    def with_numpy() -> tuple[float, np.ndarray]:
        np.add(row_starts, labels, out=positions)
        flat_P.take(positions, out=at_label, mode="clip")
        np.log(at_label, out=logs)
        loss = float(np.dot(logs, row_ones)) / -n
        np.divide(minus_share, at_label, out=at_label)
        dP.fill(0)
        flat_dP[positions] = at_label
        return loss, dP

    def exact(P: np.ndarray, labels: np.ndarray) -> Exact:
        at_label = np.eye(n_classes)[labels]
        # The loss is a mean of n rounded terms; the gradient is 0, or rounded at its own size.
        return [(-np.log(P[np.arange(n), labels]).mean(), math.sqrt(n)), (-at_label / P / n, 1 / n)]

    return Case(
        inputs=(P, labels), outputs=(dP,),
        contenders={"fastnet": lambda: _ops.cross_entropy(P, labels, dP), "NumPy": with_numpy},
        reference=reference.cross_entropy, exact=exact)


def mean_squared_error(new: Arrays, n: int, n_out: int) -> Case:
    Y, T, dY = new.normal(n, n_out), new.normal(n, n_out), new.nan(n, n_out)
    size = n * n_out
    flat, factor = dY.reshape(size), new.constant(2 / size)

    def with_numpy() -> tuple[float, np.ndarray]:
        np.subtract(Y, T, out=dY)
        loss = float(np.dot(flat, flat)) / size
        np.multiply(dY, factor, out=dY)
        return loss, dY

    return Case(
        inputs=(Y, T), outputs=(dY,),
        contenders={"fastnet": lambda: _ops.mean_squared_error(Y, T, dY), "NumPy": with_numpy},
        reference=reference.mean_squared_error,
        exact=lambda Y, T: [(np.mean((Y - T) ** 2), math.sqrt(size)),
                            (2 * (Y - T) / size, 1 / size)])


def count_correct(new: Arrays, n: int, n_classes: int) -> Case:
    scores, labels = new.normal(n, n_classes), new.rng.integers(0, n_classes, n)
    labels[::2] = scores[::2].argmax(axis=1)    # else a wrong count might well be as high by chance
    largest, hits = np.empty(n, np.int64), np.empty(n, bool)

    def with_numpy() -> int:
        scores.argmax(axis=1, out=largest)      # maxima would not tell the first of equals
        np.equal(largest, labels, out=hits)
        return int(np.count_nonzero(hits))

    return Case(
        inputs=(scores, labels), outputs=(),
        contenders={"fastnet": lambda: _ops.count_correct(scores, labels), "NumPy": with_numpy},
        reference=reference.count_correct,
        # One more or less is beyond the tolerance up to two million rows in float32.
        exact=lambda scores, labels: [(np.sum(scores.argmax(axis=1) == labels), 1)])


# ---- Updates -----------------------------------------------------------------------------------

LR, MOMENTUM = 0.01, 0.9


def sgd_update(new: Arrays, *shape: int) -> Case:
    size = math.prod(shape)
    dW, W, step, lr = new.normal(size), new.normal(size), new.nan(size), new.constant(LR)

    def with_fastnet() -> np.ndarray:
        _ops.sgd_update([dW], [W], [None], LR)
        return W

    def with_numpy() -> Any:
        np.multiply(dW, lr, out=step)
        return np.subtract(W, step, out=W)

    return Case(
        inputs=(dW, W), outputs=(W,),
        contenders={"fastnet": with_fastnet, "NumPy": with_numpy},
        reference=lambda dW, W: reference.sgd_update(dW, W, [0.0] * size, LR)[0],
        exact=lambda dW, W: [(W - LR * dW, 1)])


def sgd_update_momentum(new: Arrays, *shape: int, nesterov: bool = False) -> Case:
    size = math.prod(shape)
    dW, W, V, step = new.normal(size), new.normal(size), new.normal(size), new.nan(size)
    lr, momentum = new.constant(LR), new.constant(MOMENTUM)

    def with_fastnet() -> tuple[np.ndarray, np.ndarray]:
        _ops.sgd_update([dW], [W], [V], LR, MOMENTUM, nesterov)
        return W, V

    def with_numpy() -> tuple[np.ndarray, np.ndarray]:
        np.multiply(V, momentum, out=V)
        np.add(V, dW, out=V)
        if nesterov:
            np.multiply(V, momentum, out=step)
            np.add(step, dW, out=step)
            np.multiply(step, lr, out=step)
        else:
            np.multiply(V, lr, out=step)
        np.subtract(W, step, out=W)
        return W, V

    def exact(dW: np.ndarray, W: np.ndarray, V: np.ndarray) -> Exact:
        V = MOMENTUM * V + dW
        return [(W - LR * (dW + MOMENTUM * V if nesterov else V), 1), (V, 1)]

    return Case(
        inputs=(dW, W, V), outputs=(W, V),
        contenders={"fastnet": with_fastnet, "NumPy": with_numpy},
        reference=lambda dW, W, V: reference.sgd_update(dW, W, V, LR, MOMENTUM, nesterov),
        exact=exact)


def sgd_update_nesterov(new: Arrays, *shape: int) -> Case:
    return sgd_update_momentum(new, *shape, nesterov=True)


# ---- Which cases there are, and their figures --------------------------------------------------

PRODUCTS = [dense_forward, dense_backward_dX, dense_backward_dW]
HIDDEN = [dense_backward_db, exp_forward, log_forward, relu_forward, relu_backward, add_forward,
          add_backward, maximum_forward, maximum_backward, scale_forward]
LAST = [dense_backward_db, softmax_forward, softmax_backward, softmax_cross_entropy, cross_entropy,
        mean_squared_error, count_correct]
UPDATES = [sgd_update, sgd_update_momentum, sgd_update_nesterov]


class Plan(NamedTuple):
    """A case that is not yet made: the function and its dimensions."""

    make: Callable[..., Case]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.make.__name__} {'x'.join(map(str, self.shape))}"


def plans(layers: Iterable[Layer], text: str = "") -> list[Plan]:
    """Return the distinct cases of these layers whose name and shape contain `text`."""
    found = []
    for n, n_in, n_out, last in layers:
        found += [Plan(make, (n, n_in, n_out)) for make in PRODUCTS]
        found += [Plan(make, (n, n_out)) for make in (LAST if last else HIDDEN)]
        found += [Plan(make, (n_in, n_out)) for make in UPDATES]
    return [plan for plan in dict.fromkeys(found) if text in str(plan)]


@dataclass
class Result:
    """Figures of one case: seconds of every contender, and how many times fastnet's they are."""

    kernel: str
    shape: tuple[int, ...]
    flop: int | None
    times: dict[str, Summary]
    ratios: dict[str, float]


def run(plans: Iterable[Plan], dtype: str, rounds: int, seconds: float) -> Iterator[Result]:
    """Yield the figures of each case; WrongResult if a contender is wrong.

    A case is measured for so many rounds and so many seconds, whatever takes longer.
    """
    for plan in plans:
        case = plan.make(Arrays(dtype), *plan.shape)
        contenders = dict(case.contenders)
        if case.reference and math.prod(plan.shape) <= REFERENCE_LIMIT:
            contenders["reference"] = partial(case.reference, *[a.tolist() for a in case.inputs])
        verify(case, contenders, str(plan))
        samples = time_in_turns(contenders, rounds, seconds, {"reference": REFERENCE_ROUNDS})
        yield Result(
            plan.make.__name__, plan.shape, case.flop,
            {name: summarise(values) for name, values in samples.items()},
            {name: median_ratio(values, samples["fastnet"])
             for name, values in samples.items() if name != "fastnet"})
