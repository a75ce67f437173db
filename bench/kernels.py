"""Each core loop of fastnet against NumPy as its expert writes it, and the pure-Python reference.

A function per kernel makes its case: the inputs, the contenders and the exact result. All
contenders read and write the same arrays, so none has the better alignment. Scratch space and
constants of NumPy's side are made beforehand, as zero-dimensional arrays where they are scalars,
which its functions take faster than Python floats; row sums are products with a vector of ones,
which its BLAS adds up faster than `sum`. Every contender is one Python call, some 30 ns of each
figure.

Inputs are standard normal. Shapes are those of layers in grid.toml: n x n_in x n_out for products,
n x n_out for what a layer's output goes through, n_in x n_out for updates.
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
    reference: Callable[..., Any]
    exact: Callable[..., Exact]
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
        return self.rng.standard_normal(shape).astype(self.dtype)

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

def dense_forward(new: Arrays, n: int, n_in: int, n_out: int) -> Case:
    X, W, b, Z = new.normal(n, n_in), new.normal(n_in, n_out), new.normal(n_out), new.nan(n, n_out)

    def with_numpy() -> Any:
        np.dot(X, W, out=Z)
        return np.add(Z, b, out=Z)

    return Case(
        inputs=(X, W, b), outputs=(Z,), flop=2 * n * n_in * n_out,
        contenders={"fastnet": lambda: _ops.dense_forward(X, W, b, Z), "NumPy": with_numpy},
        reference=reference.dense_forward,
        exact=lambda X, W, b: [(X @ W + b, n_in + 1)])


# fastnet and its reference have one dense_backward; its three parts are timed one by one, and for
# the reference they are the three lines that its body consists of.

def dense_backward_dX(new: Arrays, n: int, n_in: int, n_out: int) -> Case:
    X, W, dZ = new.normal(n, n_in), new.normal(n_in, n_out), new.normal(n, n_out)
    dX = new.nan(n, n_in)
    return Case(
        inputs=(W, dZ), outputs=(dX,), flop=2 * n * n_in * n_out,
        contenders={"fastnet": lambda: _ops.dense_backward(X, W, dZ, dX),
                    "NumPy": lambda: np.dot(dZ, W.T, out=dX)},
        reference=lambda W, dZ: reference._matmul(dZ, reference._transpose(W)),
        exact=lambda W, dZ: [(dZ @ W.T, n_out)])


def dense_backward_dW(new: Arrays, n: int, n_in: int, n_out: int) -> Case:
    X, W, dZ = new.normal(n, n_in), new.normal(n_in, n_out), new.normal(n, n_out)
    dW = new.nan(n_in, n_out)

    def with_fastnet() -> np.ndarray:
        _ops.dense_backward(X, W, dZ, None, dW, None, False)
        return dW

    return Case(
        inputs=(X, dZ), outputs=(dW,), flop=2 * n * n_in * n_out,
        contenders={"fastnet": with_fastnet, "NumPy": lambda: np.dot(X.T, dZ, out=dW)},
        reference=lambda X, dZ: reference._matmul(reference._transpose(X), dZ),
        exact=lambda X, dZ: [(X.T @ dZ, n)])


def dense_backward_db(new: Arrays, n: int, n_out: int) -> Case:
    X, W = new.normal(n, 1), new.normal(1, n_out)      # must be there, but are not looked at
    dZ, db, ones = new.normal(n, n_out), new.nan(n_out), np.ones(n, new.dtype)

    def with_fastnet() -> np.ndarray:
        _ops.dense_backward(X, W, dZ, None, None, db, False)
        return db

    return Case(
        inputs=(dZ,), outputs=(db,),
        contenders={"fastnet": with_fastnet, "NumPy": lambda: np.dot(ones, dZ, out=db)},
        reference=lambda dZ: [sum(column) for column in reference._transpose(dZ)],
        exact=lambda dZ: [(dZ.sum(axis=0), n)])


# ---- Element by element ------------------------------------------------------------------------

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
        return np.multiply(dY, positive, out=dX)

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


def maximum_forward(new: Arrays, n: int, n_out: int) -> Case:
    return of_two(new, n, n_out, _ops.maximum_forward, np.maximum, reference.maximum_forward)


# ---- Softmax and losses ------------------------------------------------------------------------
# NumPy finds the maxima of short rows in a transposed copy, up to eight times as fast.

def softmax_forward(new: Arrays, n: int, n_classes: int) -> Case:
    X, Y = new.normal(n, n_classes), new.nan(n, n_classes)
    columns, ones = new.nan(n_classes, n), np.ones(n_classes, new.dtype)
    column = new.nan(n, 1)
    row = column.reshape(n)

    def with_numpy() -> Any:
        np.copyto(columns, X.T)
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
        np.copyto(columns, logits.T)
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


# ---- Updates -----------------------------------------------------------------------------------

LR, MOMENTUM = 0.01, 0.9


def sgd_update(new: Arrays, n_in: int, n_out: int) -> Case:
    size = n_in * n_out
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


def sgd_update_momentum(new: Arrays, n_in: int, n_out: int, nesterov: bool = False) -> Case:
    size = n_in * n_out
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


def sgd_update_nesterov(new: Arrays, n_in: int, n_out: int) -> Case:
    return sgd_update_momentum(new, n_in, n_out, nesterov=True)


# ---- Which cases there are, and their figures --------------------------------------------------

PRODUCTS = [dense_forward, dense_backward_dX, dense_backward_dW]
HIDDEN = [dense_backward_db, relu_forward, relu_backward, add_forward, maximum_forward]
LAST = [dense_backward_db, softmax_forward, softmax_backward, softmax_cross_entropy,
        mean_squared_error]
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
        if math.prod(plan.shape) <= REFERENCE_LIMIT:
            contenders["reference"] = partial(case.reference, *[a.tolist() for a in case.inputs])
        verify(case, contenders, str(plan))
        samples = time_in_turns(contenders, rounds, seconds, {"reference": REFERENCE_ROUNDS})
        yield Result(
            plan.make.__name__, plan.shape, case.flop,
            {name: summarise(values) for name, values in samples.items()},
            {name: median_ratio(values, samples["fastnet"])
             for name, values in samples.items() if name != "fastnet"})
