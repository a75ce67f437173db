"""Each core loop of fastnet against NumPy as its expert writes it, and the pure-Python reference.

A function per kernel makes its case: the inputs, the contenders and the exact result. All
contenders read and write the same arrays, so none has the better alignment. Scratch space and
constants of NumPy's side are made beforehand, as zero-dimensional arrays where they are scalars,
which its functions take faster than Python floats; row sums are products with a vector of ones,
which its BLAS adds up faster than `sum`; copies are assignments to `[...]`, which start faster than
`copyto`. Every contender is one Python call, some 30 ns of each figure. The error function, which
gelu needs and NumPy lacks, is SciPy's; without SciPy these rows have no figure of NumPy.

Inputs are standard normal, probabilities a softmax of such. Shapes are those of layers in
grid.toml: n x n_in x n_out for products, n x n_out for what a layer's output goes through,
n_in x n_out for updates.
"""

import contextlib
import math
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
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

Exact = list[tuple[Any, Any]]


@dataclass
class Case:
    """One kernel at one shape.

    `contenders` return their results, in one order. `reference` does so from the inputs as lists,
    `exact` from the inputs in float64, with a scale for each result or each of its entries (see
    `check`). `outputs` are all arrays that contenders change.
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

    def eighths(self, *shape: int) -> np.ndarray:
        """1/8 to 1. Sums of a million are exact, also of products, be it in any order."""
        return self.rng.integers(1, 9, shape).astype(self.dtype) / 8

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


# ---- Activations -------------------------------------------------------------------------------
# A backward has the result of its forward at hand: so have both contenders, and not the reference.

ACTIVATIONS = ["sigmoid", "tanh", "gelu", "gelu_tanh", "silu"]     # leaky_relu, elu: as relu, exp
GELU_A, GELU_B = math.sqrt(2 / math.pi), 0.044715


def exact_activation(kind: str, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return f(X), f'(X), and the size of what is rounded on the way to f(X).

    That is at least |f(X)|: the tolerance allows the 8 ulp that `_ops.activation_forward` states.
    """
    if kind == "tanh":
        Y = np.tanh(X)
        return Y, 1 - Y**2, np.abs(Y)
    # The others have a step p from 0 to 1, which may be rounded at the size of 1.
    if kind == "gelu":
        p = np.vectorize(math.erfc)(-X * math.sqrt(0.5)) / 2
        dp = np.exp(-X**2 / 2) / math.sqrt(2 * math.pi)
    else:
        u, du = X, np.ones_like(X)
        if kind == "gelu_tanh":
            u = 2 * GELU_A * (X + GELU_B * X**3)
            du = 2 * GELU_A * (1 + 3 * GELU_B * X**2)
        p = 1 / (1 + np.exp(-u))
        dp = p / (1 + np.exp(u)) * du
    return (p, dp, 1) if kind == "sigmoid" else (X * p, p + X * dp, np.abs(X))


def numpy_activation(
    new: Arrays, name: str, X: np.ndarray, Y: np.ndarray, dY: np.ndarray, dX: np.ndarray
) -> Run | None:
    """Return NumPy's side of a row, or None where there is no SciPy but a need for it."""
    scratch = new.nan(*X.shape)
    half, one, minus_half = map(new.constant, (0.5, 1, -0.5))
    root_half, density = new.constant(math.sqrt(0.5)), new.constant(math.sqrt(2 / math.pi))
    two_a, ab = 2 * GELU_A, 2 * GELU_A * GELU_B
    minus_a, minus_ab, a, three_ab = map(new.constant, (-two_a, -ab, two_a, 3 * ab))
    by_tanh = new.dtype == np.float32       # there tanh is the quicker one, in float64 exp is
    erf: Any = None
    with contextlib.suppress(ImportError):
        if name.startswith("gelu_") and "tanh" not in name:
            erf = import_module("scipy.special").erf

    def sigmoid_forward() -> Any:
        if by_tanh:
            np.multiply(X, half, out=Y)
            np.tanh(Y, out=Y)
            np.multiply(Y, half, out=Y)
            return np.add(Y, half, out=Y)
        np.negative(X, out=Y)
        np.exp(Y, out=Y)
        np.add(Y, one, out=Y)
        return np.divide(one, Y, out=Y)

    def sigmoid_backward() -> Any:
        np.subtract(one, Y, out=dX)
        np.multiply(dX, Y, out=dX)
        return np.multiply(dX, dY, out=dX)

    def tanh_forward() -> Any:
        return np.tanh(X, out=Y)

    def tanh_backward() -> Any:
        np.multiply(Y, Y, out=dX)
        np.subtract(one, dX, out=dX)
        return np.multiply(dX, dY, out=dX)

    def gelu_forward() -> Any:
        np.multiply(X, root_half, out=Y)
        erf(Y, out=Y)
        np.add(Y, one, out=Y)
        np.multiply(Y, X, out=Y)
        return np.multiply(Y, half, out=Y)

    def gelu_backward() -> Any:             # half of (1 + erf) + x sqrt(2 / pi) exp(-x^2 / 2)
        np.multiply(X, X, out=scratch)
        np.multiply(scratch, minus_half, out=scratch)
        np.exp(scratch, out=scratch)
        np.multiply(scratch, density, out=scratch)
        np.multiply(scratch, X, out=scratch)
        np.multiply(X, root_half, out=dX)
        erf(dX, out=dX)
        np.add(dX, one, out=dX)
        np.add(dX, scratch, out=dX)
        np.multiply(dX, half, out=dX)
        return np.multiply(dX, dY, out=dX)

    def gelu_tanh_forward() -> Any:         # x / (1 + exp(-2u)) has fewer steps than with tanh
        np.multiply(X, X, out=Y)
        np.multiply(Y, minus_ab, out=Y)
        np.add(Y, minus_a, out=Y)
        np.multiply(Y, X, out=Y)
        np.exp(Y, out=Y)
        np.add(Y, one, out=Y)
        return np.divide(X, Y, out=Y)

    def gelu_tanh_backward() -> Any:        # (1 + y 2u' e) / (1 + e) with e = exp(-2u)
        np.multiply(X, X, out=scratch)
        np.multiply(scratch, minus_ab, out=dX)
        np.add(dX, minus_a, out=dX)
        np.multiply(dX, X, out=dX)
        np.exp(dX, out=dX)
        np.multiply(scratch, three_ab, out=scratch)
        np.add(scratch, a, out=scratch)
        np.multiply(scratch, Y, out=scratch)
        np.multiply(scratch, dX, out=scratch)
        np.add(scratch, one, out=scratch)
        np.add(dX, one, out=dX)
        np.divide(scratch, dX, out=dX)
        return np.multiply(dX, dY, out=dX)

    def silu_forward() -> Any:
        if by_tanh:
            np.multiply(X, half, out=scratch)
            np.tanh(scratch, out=Y)
            np.multiply(Y, scratch, out=Y)
            return np.add(Y, scratch, out=Y)
        np.negative(X, out=Y)
        np.exp(Y, out=Y)
        np.add(Y, one, out=Y)
        return np.divide(X, Y, out=Y)

    def silu_backward() -> Any:             # (1 + y e) / (1 + e) with e = exp(-x)
        np.negative(X, out=dX)
        np.exp(dX, out=dX)
        np.multiply(Y, dX, out=scratch)
        np.add(scratch, one, out=scratch)
        np.add(dX, one, out=dX)
        np.divide(scratch, dX, out=dX)
        return np.multiply(dX, dY, out=dX)

    runs = (sigmoid_forward, sigmoid_backward, tanh_forward, tanh_backward, gelu_tanh_forward,
            gelu_tanh_backward, silu_forward, silu_backward,
            *((gelu_forward, gelu_backward) if erf else ()))
    return {run.__name__: run for run in runs}.get(name)


def activation(kind: str) -> list[Callable[..., Case]]:
    """Return the cases of one kind: forward and backward."""

    def forward(new: Arrays, n: int, n_out: int) -> Case:
        X, Y = new.normal(n, n_out), new.nan(n, n_out)
        with_numpy = numpy_activation(new, forward.__name__, X, Y, Y, Y)

        def exact(X: np.ndarray) -> Exact:
            Y, _, size = exact_activation(kind, X)
            return [(Y, size)]

        return Case(
            inputs=(X,), outputs=(Y,),
            contenders={"fastnet": lambda: _ops.activation_forward(X, kind, 0, Y),
                        **({"NumPy": with_numpy} if with_numpy else {})},
            reference=lambda X: reference.activation_forward(X, kind), exact=exact)

    def backward(new: Arrays, n: int, n_out: int) -> Case:
        X, dY, dX = new.normal(n, n_out), new.normal(n, n_out), new.nan(n, n_out)
        Y = exact_activation(kind, X.astype(np.float64))[0].astype(new.dtype)
        with_numpy = numpy_activation(new, backward.__name__, X, Y, dY, dX)
        return Case(
            inputs=(X, dY), outputs=(dX,),
            contenders={"fastnet": lambda: _ops.activation_backward(X, Y, dY, kind, 0, dX),
                        **({"NumPy": with_numpy} if with_numpy else {})},
            reference=lambda X, dY: reference.activation_backward(X, dY, kind),
            # The derivative is a sum or difference of numbers of size 1.
            exact=lambda X, dY: [(exact_activation(kind, X)[1] * dY, np.abs(dY))])

    forward.__name__, backward.__name__ = f"{kind}_forward", f"{kind}_backward"
    return [forward, backward]


# ---- Dropout -----------------------------------------------------------------------------------

DROPPED, SEED = 0.25, 20260102


def random_words(size: int) -> np.ndarray:
    """Return the 32 random bits of each entry: Philox4x32-10, numbered as in `reference`."""
    low = 0xFFFFFFFF
    counters = np.arange(16 * -(-size // 64), dtype=np.uint64)
    c = [counters & low, counters >> 32, np.zeros_like(counters), np.zeros_like(counters)]
    k0, k1 = SEED & low, SEED >> 32
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k0, b & low, (a >> 32) ^ c[3] ^ k1, a & low]
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    lanes: np.ndarray = np.stack(c).reshape(4, -1, 16).swapaxes(0, 1)
    return lanes.ravel()[:size]


def dropout(new: Arrays, n: int, n_out: int) -> Case:
    """NumPy draws its random numbers, but then takes those that are fastnet's, made beforehand.

    So it has all of its work, and a result that can be checked.
    """
    X, Y, drawn = new.normal(n, n_out), new.nan(n, n_out), new.nan(n, n_out)
    words = random_words(n * n_out).reshape(n, n_out)
    taken = ((words >> 8) / 2**24).astype(new.dtype)        # exact, and so is DROPPED
    generator, keep = np.random.Generator(np.random.SFC64(SEED)), np.empty((n, n_out), bool)
    p, factor = new.constant(DROPPED), new.constant(1 / (1 - DROPPED))
    small = n * n_out <= REFERENCE_LIMIT // 32      # in the reference each entry takes so long

    def with_numpy() -> Any:
        generator.random(dtype=new.dtype, out=drawn)
        np.greater_equal(taken, p, out=keep)
        Y[...] = keep
        np.multiply(Y, factor, out=Y)
        return np.multiply(Y, X, out=Y)

    return Case(
        inputs=(X,), outputs=(Y,),
        contenders={"fastnet": lambda: _ops.dropout(X, DROPPED, SEED, 0, Y), "NumPy": with_numpy},
        reference=(lambda X: reference.dropout(X, DROPPED, SEED)) if small else None,
        exact=lambda X: [(np.where(words < DROPPED * 2**32, 0, X / (1 - DROPPED)), 1)])


# ---- Layer normalization -----------------------------------------------------------------------

EPS = 1e-5


def layer_norm_forward(new: Arrays, n: int, n_out: int) -> Case:
    X, weight, bias = new.normal(n, n_out), new.normal(n_out), new.normal(n_out)
    Y, stats, column = new.nan(n, n_out), np.full((n, 2), np.nan), new.nan(n, 1)
    row, shares = column.reshape(n), np.full(n_out, 1 / n_out, new.dtype)
    share, eps = new.constant(1 / n_out), new.constant(EPS)

    def with_fastnet() -> np.ndarray:
        _ops.layer_norm_forward(X, weight, bias, EPS, Y, stats)
        return Y

    def with_numpy() -> Any:
        np.dot(X, shares, out=row)
        np.subtract(X, column, out=Y)
        np.vecdot(Y, Y, out=row)
        np.multiply(row, share, out=row)
        np.add(row, eps, out=row)
        np.sqrt(row, out=row)
        np.reciprocal(row, out=row)         # a product per entry is quicker than a quotient
        np.multiply(Y, column, out=Y)
        np.multiply(Y, weight, out=Y)
        return np.add(Y, bias, out=Y)

    def exact(X: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Exact:
        H, factor = normalized(X)
        # x and the mean are rounded before the factor, h at its own size.
        scale = factor + np.abs(H) * growth(n_out)
        return [(weight * H + bias, np.abs(weight) * scale)]

    return Case(
        inputs=(X, weight, bias), outputs=(Y, stats),
        contenders={"fastnet": with_fastnet, "NumPy": with_numpy},
        reference=lambda X, weight, bias: reference.layer_norm_forward(X, weight, bias, EPS),
        exact=exact)


def normalized(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows with mean 0 and variance 1, and the factors, a column."""
    D = X - X.mean(axis=1, keepdims=True)
    factor = 1 / np.sqrt(np.mean(D**2, axis=1, keepdims=True) + EPS)
    return D * factor, factor


def growth(k: int) -> float:
    """Return how much a variance adds to the tolerance of what is divided by its root.

    Where k squares are added up one by one, partial sums grow, and their roundings too: the sum's
    relative error is some 0.1 eps sqrt(k), the root's half of that, and now and then four times it.
    """
    return 1 + math.sqrt(k) / 16


def layer_norm_backward(new: Arrays, n: int, n_out: int) -> Case:
    X, weight, dY = new.normal(n, n_out), new.normal(n_out), new.normal(n, n_out)
    dX, dweight, dbias = new.nan(n, n_out), new.nan(n_out), new.nan(n_out)
    X64 = X.astype(np.float64)
    # From the forward: fastnet has it in float64.
    stats = np.concatenate([X64.mean(axis=1, keepdims=True), normalized(X64)[1]], axis=1)
    mean, factor = (np.ascontiguousarray(stats[:, i:i + 1], new.dtype) for i in (0, 1))
    H, products, column = new.nan(n, n_out), new.nan(n, n_out), new.nan(n, 1)
    row, weights, share = column.reshape(n), new.nan(n_out), new.constant(1 / n_out)
    ones = np.ones(n, new.dtype)

    def with_fastnet() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        _ops.layer_norm_backward(X, weight, stats, dY, dX, dweight, dbias)
        return dX, dweight, dbias

    def with_numpy() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        np.subtract(X, mean, out=H)
        np.multiply(H, factor, out=H)
        np.multiply(dY, H, out=products)
        np.dot(ones, products, out=dweight)
        np.dot(ones, dY, out=dbias)
        np.multiply(weight, share, out=weights)
        np.multiply(dY, weight, out=dX)
        np.dot(dY, weights, out=row)
        np.subtract(dX, column, out=dX)
        np.dot(products, weights, out=row)
        np.multiply(H, column, out=H)
        np.subtract(dX, H, out=dX)
        np.multiply(dX, factor, out=dX)
        return dX, dweight, dbias

    def exact(X: np.ndarray, weight: np.ndarray, dY: np.ndarray) -> Exact:
        H, factor = normalized(X)
        G = weight * dY
        inner = np.mean(G * H, axis=1, keepdims=True)
        # What is subtracted has the size of G and of 1, and h that of `factor` besides its own.
        scale = factor * (np.abs(G) + 1 + (factor + np.abs(H)) * np.abs(inner)) * growth(n_out)
        return [(factor * (G - G.mean(axis=1, keepdims=True) - H * inner), scale),
                ((dY * H).sum(axis=0), n), (dY.sum(axis=0), n)]

    return Case(
        inputs=(X, weight, dY), outputs=(dX, dweight, dbias),
        contenders={"fastnet": with_fastnet, "NumPy": with_numpy},
        reference=lambda X, weight, dY: reference.layer_norm_backward(X, weight, dY, EPS),
        exact=exact)


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


def log_softmax_forward(new: Arrays, n: int, n_classes: int) -> Case:
    X, Y, exps = new.normal(n, n_classes), new.nan(n, n_classes), new.nan(n, n_classes)
    columns, ones = new.nan(n_classes, n), np.ones(n_classes, new.dtype)
    column = new.nan(n, 1)
    row = column.reshape(n)

    def with_numpy() -> Any:
        columns[...] = X.T
        np.maximum.reduce(columns, axis=0, out=row)
        np.subtract(X, column, out=Y)
        np.exp(Y, out=exps)
        np.dot(exps, ones, out=row)
        np.log(row, out=row)
        return np.subtract(Y, column, out=Y)

    def exact(X: np.ndarray) -> Exact:
        D = X - X.max(axis=1, keepdims=True)
        return [(D - np.log(np.exp(D).sum(axis=1, keepdims=True)), n_classes)]

    return Case(
        inputs=(X,), outputs=(Y,),
        contenders={"fastnet": lambda: _ops.log_softmax_forward(X, Y), "NumPy": with_numpy},
        reference=reference.log_softmax_forward, exact=exact)


def log_softmax_backward(new: Arrays, n: int, n_classes: int) -> Case:
    Y, dY = np.log(new.probabilities(n, n_classes)), new.normal(n, n_classes)
    dX, products = new.nan(n, n_classes), new.nan(n, n_classes)
    ones = np.ones((n_classes, n_classes), new.dtype)

    def with_numpy() -> Any:
        np.dot(dY, ones, out=dX)            # the row sums, already spread over the classes
        np.exp(Y, out=products)
        np.multiply(products, dX, out=products)
        return np.subtract(dY, products, out=dX)

    return Case(
        inputs=(Y, dY), outputs=(dX,),
        contenders={"fastnet": lambda: _ops.log_softmax_backward(Y, dY, dX), "NumPy": with_numpy},
        reference=reference.log_softmax_backward,
        exact=lambda Y, dY: [(dY - np.exp(Y) * dY.sum(axis=1, keepdims=True), n_classes)])


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


def target_rows(new: Arrays, n: int, n_classes: int) -> Case:
    """With labels, and all that weighs them."""
    w, c, T = new.eighths(n), new.eighths(n_classes), new.nan(n, n_classes)
    labels = new.rng.integers(0, n_classes, n)
    smoothing = 0.1
    spread, share = new.nan(n_classes), new.constant(smoothing / n_classes)
    column, flat = w.reshape(n, 1), T.reshape(n * n_classes)
    row_starts, positions = np.arange(n) * n_classes, np.empty(n, np.int64)
    rest, at_label, there = new.constant(1 - smoothing), new.nan(n), new.nan(n)

    def with_fastnet() -> tuple[np.ndarray, float]:
        return _ops.target_rows(labels, n_classes, new.dtype, w, c, smoothing, None, T)

    def with_numpy() -> tuple[np.ndarray, float]:
        np.multiply(c, share, out=spread)
        np.multiply(column, spread, out=T)
        np.add(row_starts, labels, out=positions)
        c.take(labels, out=at_label, mode="clip")           # "raise" would buffer the output
        total = float(np.dot(at_label, w))
        np.multiply(at_label, w, out=at_label)
        np.multiply(at_label, rest, out=at_label)
        flat.take(positions, out=there, mode="clip")
        np.add(there, at_label, out=there)
        flat[positions] = there
        return T, total

    def exact(w: np.ndarray, c: np.ndarray, labels: np.ndarray) -> Exact:
        rows = (1 - smoothing) * np.eye(n_classes)[labels] + smoothing / n_classes
        return [(w[:, None] * c * rows, 0), (np.sum(w * c[labels]), 0)]     # no differences

    return Case(
        inputs=(w, c, labels), outputs=(T,),
        contenders={"fastnet": with_fastnet, "NumPy": with_numpy},
        reference=lambda w, c, labels: reference.target_rows(labels, n_classes, w, c, smoothing),
        exact=exact)


def negative_log_likelihood(new: Arrays, n: int, n_classes: int) -> Case:
    L, T = np.log(new.probabilities(n, n_classes)), new.probabilities(n, n_classes)
    dL, size = new.nan(n, n_classes), n * n_classes
    flat_L, flat_T, minus_share = L.reshape(size), T.reshape(size), new.constant(-1 / n)

    def with_numpy() -> tuple[float, Any]:
        loss = float(np.dot(flat_L, flat_T)) / -n
        return loss, np.multiply(T, minus_share, out=dL)

    return Case(
        inputs=(L, T), outputs=(dL,),
        contenders={"fastnet": lambda: _ops.negative_log_likelihood(L, T, dL, total=n),
                    "NumPy": with_numpy},
        reference=lambda L, T: reference.negative_log_likelihood(L, T, n),
        # Each row is a mean of logarithms; n_classes terms of one sign are added up for it.
        exact=lambda L, T: [(-np.sum(T * L) / n, math.sqrt(size)), (-T / n, 0)])


def entry_loss(kind: str, new: Arrays, Y: np.ndarray, T: np.ndarray, dY: np.ndarray,
               with_numpy: Run, exact: Callable[..., tuple[Any, Any, Any]]) -> Case:
    """The case of `entry_losses`. `exact` gives losses, derivatives and their scale by entry."""
    size = Y.size

    def exact_mean(Y: np.ndarray, T: np.ndarray) -> Exact:
        losses, D, scale = exact(Y, T)
        return [(np.mean(losses), math.sqrt(size)), (D / size, scale / size)]

    return Case(
        inputs=(Y, T), outputs=(dY,),
        contenders={"fastnet": lambda: _ops.entry_losses(Y, T, kind, dY=dY), "NumPy": with_numpy},
        reference=lambda Y, T: reference.entry_losses(Y, T, kind), exact=exact_mean)


def binary_cross_entropy(new: Arrays, n: int, n_out: int) -> Case:
    X, T = new.normal(n, n_out), new.rng.integers(0, 2, (n, n_out)).astype(new.dtype)
    dX, scratch, size = new.nan(n, n_out), new.nan(n, n_out), n * n_out
    flat_X, flat_T, flat = X.reshape(size), T.reshape(size), scratch.reshape(size)
    zero, one, share, ones = *map(new.constant, (0, 1, 1 / size)), np.ones(size, new.dtype)

    def with_numpy() -> tuple[float, np.ndarray]:
        """With softplus(x) = max(x, 0) - log(max(p, 1 - p)), which takes no second exp."""
        np.negative(X, out=dX)
        np.exp(dX, out=dX)
        np.add(dX, one, out=dX)
        np.divide(one, dX, out=dX)
        np.subtract(one, dX, out=scratch)
        np.maximum(scratch, dX, out=scratch)
        np.log(scratch, out=scratch)
        loss = float(np.dot(flat, ones))
        np.maximum(X, zero, out=scratch)
        loss = (float(np.dot(flat, ones)) - float(np.dot(flat_X, flat_T)) - loss) / size
        np.subtract(dX, T, out=dX)
        np.multiply(dX, share, out=dX)
        return loss, dX

    return entry_loss(
        "binary_cross_entropy", new, X, T, dX, with_numpy,
        lambda X, T: (np.logaddexp(0, X) - T * X, 1 / (1 + np.exp(-X)) - T, 1))


def huber(new: Arrays, n: int, n_out: int) -> Case:
    Y, T, dY, D = (*(new.normal(n, n_out) for _ in range(2)), *(new.nan(n, n_out) for _ in "ab"))
    size = n * n_out
    flat, flat_D = dY.reshape(size), D.reshape(size)
    one, minus_one, share = map(new.constant, (1, -1, 1 / size))

    def with_numpy() -> tuple[float, np.ndarray]:
        """With the loss c d - c^2 / 2, where c is d between -1 and 1."""
        np.subtract(Y, T, out=D)
        np.minimum(D, one, out=dY)
        np.maximum(dY, minus_one, out=dY)
        loss = (float(np.dot(flat, flat_D)) - float(np.dot(flat, flat)) / 2) / size
        np.multiply(dY, share, out=dY)
        return loss, dY

    def exact(Y: np.ndarray, T: np.ndarray) -> tuple[Any, Any, Any]:
        D = np.abs(Y - T)
        return np.where(D <= 1, D**2 / 2, D - 0.5), np.clip(Y - T, -1, 1), 1

    return entry_loss("huber", new, Y, T, dY, with_numpy, exact)


def poisson(new: Arrays, n: int, n_out: int) -> Case:
    X, T, dX = new.normal(n, n_out), new.rng.poisson(1, (n, n_out)), new.nan(n, n_out)
    T, size = T.astype(new.dtype), n * n_out
    flat_X, flat_T, flat = X.reshape(size), T.reshape(size), dX.reshape(size)
    share, ones = new.constant(1 / size), np.ones(size, new.dtype)

    def with_numpy() -> tuple[float, np.ndarray]:
        np.exp(X, out=dX)
        loss = (float(np.dot(flat, ones)) - float(np.dot(flat_X, flat_T))) / size
        np.subtract(dX, T, out=dX)
        np.multiply(dX, share, out=dX)
        return loss, dX

    return entry_loss(
        "poisson", new, X, T, dX, with_numpy,
        lambda X, T: (np.exp(X) - T * X, np.exp(X) - T, np.exp(X)))


def scale_rows(new: Arrays, n: int, n_out: int) -> Case:
    X, factors, Y = new.normal(n, n_out), new.normal(n), new.nan(n, n_out)
    column = factors.reshape(n, 1)
    return Case(
        inputs=(X, factors), outputs=(Y,),
        contenders={"fastnet": lambda: _ops.scale_rows(X, factors, Y),
                    "NumPy": lambda: np.multiply(X, column, out=Y)},
        reference=reference.scale_rows,
        exact=lambda X, factors: [(X * factors[:, None], 0)])


def sum_of_weights(new: Arrays, n: int, n_out: int) -> Case:
    size = n * n_out
    weights, ones = new.eighths(size), np.ones(size, new.dtype)
    return Case(
        inputs=(weights,), outputs=(),
        contenders={"fastnet": lambda: _ops.sum_of_weights(weights),
                    "NumPy": lambda: float(np.dot(weights, ones))},
        reference=reference.sum_of_weights,
        exact=lambda weights: [(weights.sum(), 0)])


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


def count_same_side(new: Arrays, n: int, n_out: int) -> Case:
    scores, target = new.normal(n, n_out), (new.normal(n, n_out) > 0).astype(new.dtype)
    above, wanted = (np.empty((n, n_out), bool) for _ in range(2))

    def with_numpy() -> int:
        np.greater(scores, 0, out=above)
        np.greater(target, 0.5, out=wanted)
        np.equal(above, wanted, out=above)
        return int(np.count_nonzero(above))

    return Case(
        inputs=(scores, target), outputs=(),
        contenders={"fastnet": lambda: _ops.count_same_side(scores, target), "NumPy": with_numpy},
        reference=reference.count_same_side,
        exact=lambda scores, target: [(np.sum((scores > 0) == (target > 0.5)), 1)])


def r2_score(new: Arrays, n: int, n_out: int) -> Case:
    y, target = new.normal(n, n_out), new.normal(n, n_out)

    def formula(y: np.ndarray, target: np.ndarray) -> Any:
        residual = np.sum((target - y) ** 2, axis=0, dtype=np.float64)
        spread = np.sum((target - target.mean(axis=0)) ** 2, axis=0, dtype=np.float64)
        return np.mean(1 - residual / spread)

    return Case(
        inputs=(y, target), outputs=(),
        contenders={"fastnet": lambda: _ops.r2_score(y, target),
                    "NumPy": lambda: float(formula(y, target))},
        reference=reference.r2_score, exact=lambda y, target: [(formula(y, target), 4)])


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


def adam_update(new: Arrays, *shape: int) -> Case:
    size, steps = math.prod(shape), 10
    dW, W, M, step = new.normal(size), new.normal(size), new.normal(size), new.nan(size)
    S = np.square(new.normal(size))
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    rate, root = 1e-3 / (1 - beta1**steps), 1 / math.sqrt(1 - beta2**steps)
    b1, rest1, b2, rest2 = map(new.constant, (beta1, 1 - beta1, beta2, 1 - beta2))
    eps_over, rate_over = new.constant(eps / root), new.constant(rate / root)

    def with_fastnet() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        _ops.adam_update([dW], [W], [M], [S], rate=rate, beta1=beta1, beta2=beta2, eps=eps,
                         root=root)
        return W, M, S

    def with_numpy() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        np.multiply(M, b1, out=M)
        np.multiply(dW, rest1, out=step)
        np.add(M, step, out=M)
        np.multiply(S, b2, out=S)
        np.multiply(dW, dW, out=step)
        np.multiply(step, rest2, out=step)
        np.add(S, step, out=S)
        np.sqrt(S, out=step)
        np.add(step, eps_over, out=step)
        np.divide(M, step, out=step)
        np.multiply(step, rate_over, out=step)
        np.subtract(W, step, out=W)
        return W, M, S

    def exact(dW: np.ndarray, W: np.ndarray, M: np.ndarray, S: np.ndarray) -> Exact:
        S = beta2 * S + (1 - beta2) * dW**2
        factor = rate / (root * np.sqrt(S) + eps)
        terms = beta1 * np.abs(M) + (1 - beta1) * np.abs(dW)    # they may cancel
        M = beta1 * M + (1 - beta1) * dW
        return [(W - factor * M, factor * terms), (M, terms), (S, 0)]

    return Case(
        inputs=(dW, W, M, S), outputs=(W, M, S),
        contenders={"fastnet": with_fastnet, "NumPy": with_numpy},
        reference=lambda dW, W, M, S: reference.adam_update(
            dW, W, M, S, rate, beta1, beta2, eps, root),
        exact=exact)


def rmsprop_update(new: Arrays, *shape: int) -> Case:
    """Neither centered nor with momentum."""
    size, alpha, eps = math.prod(shape), 0.99, 1e-8
    dW, W, S, step = new.normal(size), new.normal(size), new.normal(size), new.nan(size)
    np.square(S, out=S)
    a, rest, small, rate = map(new.constant, (alpha, 1 - alpha, eps, LR))

    def with_fastnet() -> tuple[np.ndarray, np.ndarray]:
        _ops.rmsprop_update([dW], [W], [S], rate=LR, alpha=alpha, eps=eps)
        return W, S

    def with_numpy() -> tuple[np.ndarray, np.ndarray]:
        np.multiply(S, a, out=S)
        np.multiply(dW, dW, out=step)
        np.multiply(step, rest, out=step)
        np.add(S, step, out=S)
        np.sqrt(S, out=step)
        np.add(step, small, out=step)
        np.divide(dW, step, out=step)
        np.multiply(step, rate, out=step)
        np.subtract(W, step, out=W)
        return W, S

    def exact(dW: np.ndarray, W: np.ndarray, S: np.ndarray) -> Exact:
        S = alpha * S + (1 - alpha) * dW**2
        step = LR * dW / (np.sqrt(S) + eps)
        return [(W - step, np.abs(step)), (S, 0)]

    return Case(
        inputs=(dW, W, S), outputs=(W, S),
        contenders={"fastnet": with_fastnet, "NumPy": with_numpy},
        reference=lambda dW, W, S: reference.rmsprop_update(dW, W, S, LR, alpha, eps)[:2],
        exact=exact)


def sum_of_squares(new: Arrays, *shape: int) -> Case:
    X = np.rint(new.normal(math.prod(shape)))       # sums of ten million are exact
    return Case(
        inputs=(X,), outputs=(),
        contenders={"fastnet": lambda: _ops.sum_of_squares(X),
                    "NumPy": lambda: float(np.dot(X, X))},
        reference=reference.sum_of_squares,
        exact=lambda X: [(np.sum(X**2), 0)])


# ---- Which cases there are, and their figures --------------------------------------------------

PRODUCTS = [dense_forward, dense_backward_dX, dense_backward_dW]
HIDDEN = [dense_backward_db, exp_forward, log_forward, relu_forward, relu_backward, add_forward,
          add_backward, maximum_forward, maximum_backward, scale_forward]
LAST = [dense_backward_db, softmax_forward, softmax_backward, softmax_cross_entropy, cross_entropy,
        mean_squared_error, count_correct]
UPDATES = [sgd_update, sgd_update_momentum, sgd_update_nesterov]

# These only in layers with more than one sample, or a run would take twice as long.
MORE_HIDDEN = [*(make for kind in ACTIVATIONS for make in activation(kind)),
               layer_norm_forward, layer_norm_backward, dropout]
MORE_LAST = [log_softmax_forward, log_softmax_backward, target_rows, negative_log_likelihood,
             binary_cross_entropy, huber, poisson, scale_rows, sum_of_weights, count_same_side,
             r2_score]
MORE_UPDATES = [adam_update, rmsprop_update, sum_of_squares]


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
        if n > 1:
            found += [Plan(make, (n, n_out)) for make in (MORE_LAST if last else MORE_HIDDEN)]
            found += [] if last else [Plan(make, (n_in, n_out)) for make in MORE_UPDATES]
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
