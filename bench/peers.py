"""The kernels against NumPy, PyTorch and BLAS at their best, on one core, and what is aimed at.

The products of every layer of the grid are also called from C, by a loop that calls SciPy's BLAS
as well: there neither side carries the cost of a Python call. BLAS does the bare product, fastnet
adds bias and ReLU. Beside them runs a loop of multiply-adds on registers, the peak of what a
product can reach. The other rows are losses, updates, and layers that are driven by hand.

PyTorch takes part if it is installed. Where there are several ways to do it, all are timed and the
quickest counts. It reads and writes the same memory as the others.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

import fastnet
from bench import kernels
from bench.kernels import LR, MOMENTUM, Arrays, Case, Exact, Layer, verify
from bench.measure import Loop, Run, Summary, median_ratio, summarise, time_in_turns
from bench.native import load_loops

Samples = dict[str, list[float]]


@dataclass
class Contest:
    """What a row measures: cases to verify, all that is timed in turns, and figures of that."""

    cases: list[Case]
    timed: dict[str, Run]
    figures: Callable[[Samples], dict[str, float]] = lambda samples: {}


class Peers:
    """What the rivals need: the loops in C for one dtype, and PyTorch or None."""

    def __init__(self, dtype: str) -> None:
        self.loops = load_loops(dtype)
        self.torch: Any = None
        with contextlib.suppress(ImportError):
            self.torch = import_module("torch")
            self.torch.set_num_threads(1)

    def mode(self, inference: bool) -> Any:
        """Return the context for PyTorch: it is quicker where no gradients can be asked for."""
        return self.torch.inference_mode(inference) if self.torch else contextlib.nullcontext()

    def versions(self) -> dict[str, str]:
        """Return what the environment's description has to add."""
        scipy: Any = import_module("scipy")
        blas = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return {
            "SciPy": f"{scipy.__version__}, BLAS: {blas['name']}, {blas['version']}",
            "PyTorch": self.torch.__version__ if self.torch else "not installed",
        }


# ---- Products ----------------------------------------------------------------------------------

def product(
    make: Callable[..., Case], new: Arrays, peers: Peers, n: int, n_in: int, n_out: int
) -> Contest:
    """One product of a dense layer."""
    case = make(new, n, n_in, n_out)
    A, B, *b = case.inputs
    [C] = case.outputs
    loops, relu = peers.loops, make is kernels.dense_forward_relu
    if make is kernels.dense_backward_dX:
        in_c = partial(loops.backward_dX, B.T, A, C)
    elif make is kernels.dense_backward_dW:
        in_c = partial(loops.backward_dW, A.T, B, C)
    else:
        in_c = partial(loops.forward, A, B, *b, C, relu)
    case.contenders["fastnet in C"] = Loop(in_c)
    if peers.torch:
        case.contenders["PyTorch"] = torch_product(peers.torch, case, relu)
    bare = replace(
        case, inputs=(A, B), contenders={"gemm": Loop(partial(loops.gemm, A, B, C))},
        exact=lambda A, B: [(A @ B, A.shape[1])])

    def figures(samples: Samples) -> dict[str, float]:
        share = median_ratio(samples["peak"], samples["fastnet in C"]) / loops.FLOP
        return {"share of peak": 2 * n * n_in * n_out * share,
                "peak GFLOP/s": loops.FLOP / float(np.median(samples["peak"])) / 1e9}

    peak: dict[str, Run] = {"peak": Loop(loops.multiply_add)}
    return Contest([case, bare], case.contenders | bare.contenders | peak, figures)


def torch_product(torch: Any, case: Case, relu: bool) -> Run:
    A, B, *b = map(torch.from_numpy, case.inputs)
    C = torch.from_numpy(case.outputs[0])
    if relu:
        return lambda: torch.addmm(*b, A, B, out=C).relu_()
    return partial(torch.addmm, *b, A, B, out=C) if b else partial(torch.mm, A, B, out=C)


# ---- Losses and updates ------------------------------------------------------------------------

def loss(new: Arrays, peers: Peers, n: int, n_classes: int) -> Contest:
    """Softmax cross-entropy of labels, and its gradient."""
    case = kernels.softmax_cross_entropy(new, n, n_classes)
    if peers.torch:
        case.contenders.update(torch_loss(peers.torch, *case.inputs, *case.outputs))
    return Contest([case], case.contenders, lambda samples: {
        "ns per row": 1e9 * float(np.median(samples["fastnet"])) / n})


def torch_loss(
    torch: Any, logits: np.ndarray, labels: np.ndarray, dlogits: np.ndarray
) -> dict[str, Run]:
    """By autograd, and by hand in place."""
    X, y, dX = map(torch.from_numpy, (logits, labels, dlogits))
    leaf, n = X.detach().requires_grad_(), len(labels)
    column, minus_share = y[:, None], torch.full((n, 1), -1 / n, dtype=X.dtype)

    def by_autograd() -> tuple[float, Any]:
        loss = torch.nn.functional.cross_entropy(leaf, y)
        [gradient] = torch.autograd.grad(loss, leaf)
        return loss.item(), gradient

    def by_hand() -> tuple[float, Any]:
        torch.log_softmax(X, 1, out=dX)
        loss = torch.nn.functional.nll_loss(dX, y).item()
        return loss, dX.exp_().mul_(1 / n).scatter_add_(1, column, minus_share)

    return {"PyTorch by autograd": by_autograd, "PyTorch by hand": by_hand}


def update(make: Callable[..., Case], new: Arrays, peers: Peers, size: int) -> Contest:
    """SGD with momentum on one flat buffer, and a copy that moves as many bytes."""
    case = make(new, size)
    traffic = 5 * size * new.dtype.itemsize         # reads dW, V and W, writes V and W
    source, target = np.ones((2, traffic // 2), np.uint8)
    if peers.torch:
        case.contenders.update(torch_updates(
            peers.torch, case.inputs, nesterov=make is kernels.sgd_update_nesterov))
    return Contest(
        [case], {**case.contenders, "copy": partial(np.copyto, target, source)},
        lambda samples: {f"{name} GB/s": traffic / float(np.median(samples[name])) / 1e9
                         for name in ("fastnet", "copy")})


def torch_updates(
    torch: Any, arrays: tuple[np.ndarray, ...], nesterov: bool
) -> dict[str, Run]:
    """Its own optimizer.

    `foreach`, a third way, is for many buffers and slower for one; with Nesterov it also changes
    the gradient.
    """
    dW, W, V = arrays

    def contender(**way: bool) -> Run:
        weight = torch.nn.Parameter(torch.from_numpy(W))
        weight.grad = torch.from_numpy(dW)
        sgd = torch.optim.SGD([weight], LR, MOMENTUM, nesterov=nesterov, **way)
        sgd.state[weight]["momentum_buffer"] = torch.from_numpy(V)

        def step() -> tuple[np.ndarray, np.ndarray]:
            sgd.step()
            return W, V

        return step

    return {"PyTorch plain": contender(foreach=False), "PyTorch fused": contender(fused=True)}


# ---- Layers driven by hand ---------------------------------------------------------------------

def called(case: Case) -> Contest:
    """The contest of something that Python calls: its time is a figure."""
    return Contest([case], case.contenders, lambda samples: {
        "us": 1e6 * float(np.median(samples["fastnet"]))})


def relu_layer(new: Arrays, peers: Peers, n: int, n_features: int) -> Contest:
    case = kernels.relu_forward(new, n, n_features)
    case.contenders["fastnet"] = partial(fastnet.ReLU().forward, *case.inputs, *case.outputs)
    return called(case)


def dense_layer(new: Arrays, peers: Peers, n: int, n_in: int, n_out: int) -> Contest:
    case = kernels.dense_forward(new, n, n_in, n_out)
    layer = fastnet.Dense(n_in, n_out, dtype=new.dtype)
    x, layer.weight, layer.bias = case.inputs
    case.contenders["fastnet"] = partial(layer.forward, x, *case.outputs)
    return called(case)


def training_step(
    new: Arrays, peers: Peers, n: int, n_in: int, n_hidden: int, n_out: int
) -> Contest:
    """One step of a script that drives two layers, a loss and SGD by hand, as in the README."""
    x, labels = new.normal(n, n_in), new.rng.integers(0, n_out, n)
    hidden = fastnet.Dense(n_in, n_hidden, dtype=new.dtype, rng=new.rng)
    output = fastnet.Dense(n_hidden, n_out, dtype=new.dtype, rng=new.rng)
    layers: list[Any] = [hidden, fastnet.ReLU(), output]
    parameters = (hidden.weight, hidden.bias, output.weight, output.bias)
    loss, sgd = fastnet.SoftmaxCrossEntropy(), fastnet.SGD(LR, MOMENTUM)

    def with_fastnet(steps: int) -> tuple[Any, ...]:
        for _ in range(steps):
            y = x
            for layer in layers:
                y = layer.forward(y)
            value = loss.forward(y, labels)
            dy = loss.backward()
            for layer in reversed(layers):
                dy = layer.backward(dy)
            sgd.step(layers)
        return value, *parameters

    with_numpy, flat = numpy_training(new, x, labels, parameters)

    def exact(*start: np.ndarray) -> Exact:
        """The same in float64, as a textbook writes it."""
        x, *W = start
        V = [np.zeros_like(w) for w in W]
        for _ in range(VERIFIED_STEPS):
            H = np.maximum(x @ W[0] + W[1], 0)
            exps = np.exp(H @ W[2] + W[3])
            P = exps / exps.sum(axis=1, keepdims=True)
            value = -np.log(P[np.arange(n), labels]).mean()
            dZ = (P - np.eye(n_out)[labels]) / n
            dH = dZ @ W[2].T * (H > 0)
            gradients = x.T @ dH, dH.sum(axis=0), H.T @ dZ, dZ.sum(axis=0)
            V = [MOMENTUM * v + g for v, g in zip(V, gradients, strict=True)]
            W = [w - LR * v for w, v in zip(W, V, strict=True)]
        return [(value, n_hidden), *((w, n_hidden) for w in W)]

    timed: dict[str, Run] = {"fastnet": Loop(with_fastnet), "NumPy": Loop(with_numpy)}
    few: dict[str, Run] = {
        "fastnet": partial(with_fastnet, VERIFIED_STEPS),
        "NumPy": partial(with_numpy, VERIFIED_STEPS)}
    case = Case((x, *parameters), (*parameters, flat), few, exact)
    return replace(called(case), timed=timed)


def numpy_training(
    new: Arrays, x: np.ndarray, labels: np.ndarray, start: tuple[np.ndarray, ...]
) -> tuple[Callable[[int], Any], np.ndarray]:
    """Return the script in NumPy, in place, and its parameters in one flat buffer."""
    ends = np.cumsum([array.size for array in start])

    def views(flat: np.ndarray) -> list[np.ndarray]:
        parts = np.split(flat, ends[:-1])
        return [part.reshape(array.shape) for part, array in zip(parts, start, strict=True)]

    W = np.concatenate([array.ravel() for array in start])
    dW, V, step = np.zeros((3, W.size), new.dtype)
    W1, b1, W2, b2 = parameters = views(W)
    dW1, db1, dW2, db2 = views(dW)
    n = len(x)
    case = kernels.softmax_cross_entropy(new, n, b2.size)
    scores, case_labels = case.inputs
    case_labels[...] = labels
    loss, [dZ] = case.contenders["NumPy"], case.outputs
    H, dH, active = new.nan(n, b1.size), new.nan(n, b1.size), np.empty((n, b1.size), bool)
    zero, ones = new.constant(0), np.ones(n, new.dtype)
    lr, momentum = new.constant(LR), new.constant(MOMENTUM)

    def train(steps: int) -> tuple[Any, ...]:
        for _ in range(steps):
            np.dot(x, W1, out=H)
            np.add(H, b1, out=H)
            np.maximum(H, zero, out=H)
            np.dot(H, W2, out=scores)
            np.add(scores, b2, out=scores)
            value, _ = loss()
            np.dot(H.T, dZ, out=dW2)
            np.dot(ones, dZ, out=db2)
            np.dot(dZ, W2.T, out=dH)
            np.greater(H, zero, out=active)
            np.multiply(dH, active, out=dH)
            np.dot(x.T, dH, out=dW1)
            np.dot(ones, dH, out=db1)
            np.multiply(V, momentum, out=V)
            np.add(V, dW, out=V)
            np.multiply(V, lr, out=step)
            np.subtract(W, step, out=W)
        return value, *parameters

    return train, W


# ---- What is aimed at --------------------------------------------------------------------------

PRODUCTS = [kernels.dense_forward_relu, kernels.dense_forward,
            kernels.dense_backward_dX, kernels.dense_backward_dW]
UPDATES = [kernels.sgd_update_momentum, kernels.sgd_update_nesterov]
LOSS_SHAPES = [(128, 10), (10000, 10), (256, 1000)]
UPDATE_SIZES = [17, 9_000, 102_000, 795_000]
VERIFIED_STEPS = 3


@dataclass
class Verdict:
    """A target that is meant for a row, and what was found."""

    target: str
    found: float
    met: bool


@dataclass
class Row:
    """A row of the table: seconds of every contender, figures, and how these are judged."""

    kernel: str
    shape: tuple[int, ...]
    dtype: str
    times: dict[str, Summary]
    figures: dict[str, float]
    verdicts: list[Verdict] = field(default_factory=list)


class Target(NamedTuple):
    """What a figure is to reach, or with `at_most` to stay within, in the rows that are meant."""

    figure: str
    bound: float
    rows: Callable[[Row], bool]
    at_most: bool = False

    def judge(self, found: float) -> Verdict:
        return Verdict(f"{self.figure} {'<=' if self.at_most else '>='} {self.bound:g}", found,
                       found <= self.bound if self.at_most else found >= self.bound)


def is_product(kernel: str) -> bool:
    return kernel in {make.__name__ for make in PRODUCTS}


# For one figure of a row, the last line that means it counts.
TARGETS = [
    Target("NumPy/fastnet", 1.1, lambda row: row.dtype == "float32"),
    Target("NumPy/fastnet", 1.0, lambda row: row.dtype == "float64"),
    Target("NumPy/fastnet", 12, lambda row: row.kernel == "loss"),
    Target("NumPy/fastnet", 4, lambda row: row.kernel == "loss" and row.shape[1] == 1000),
    Target("NumPy/fastnet", 3, lambda row: "sgd" in row.kernel and row.shape[0] < 10_000),
    Target("PyTorch/fastnet", 1.0, lambda row: True),
    Target("gemm/fastnet in C", 1.0, lambda row: True),
    Target("gemm/fastnet in C", 0.95, lambda row: max(row.shape) <= 64 or row.shape[-1] <= 16),
    Target("share of peak", 0.35, lambda row: row.shape[0] >= 64 and 8 <= row.shape[-1] <= 16),
    Target("share of peak", 0.65, lambda row: min(row.shape) >= 64),
    Target("share of peak", 0.75, lambda row: min(row.shape) >= 128),
    Target("ns per row", 10, lambda row: row.shape == (10000, 10), at_most=True),
    Target("us", 0.4, lambda row: row.kernel in ("relu_layer", "dense_layer"), at_most=True),
    Target("us", 4, lambda row: row.kernel == "training_step", at_most=True),
]


def judge(row: Row) -> list[Verdict]:
    """Return the verdicts on a row's figures."""
    meant = {target.figure: target for target in TARGETS
             if target.figure in row.figures and target.rows(row)}
    return [target.judge(row.figures[figure]) for figure, target in meant.items()]


# ---- The rows ----------------------------------------------------------------------------------

class Plan(NamedTuple):
    """A row that is not yet measured: its name, shape, and what makes its contest."""

    kernel: str
    shape: tuple[int, ...]
    make: Callable[..., Contest]

    def __str__(self) -> str:
        return f"{self.kernel} {'x'.join(map(str, self.shape))}"


def plans(layers: Iterable[Layer], text: str = "", small: bool = False) -> list[Plan]:
    """Return the rows whose name and shape contain `text`; `small` leaves the large ones out."""
    found = []
    for n, n_in, n_out, last in layers:
        skipped = PRODUCTS[0] if last else PRODUCTS[1]
        found += [Plan(make.__name__, (n, n_in, n_out), partial(product, make))
                  for make in PRODUCTS if make is not skipped]
    found += [Plan("loss", shape, loss) for shape in LOSS_SHAPES[:1 if small else None]]
    found += [Plan(make.__name__, (size,), partial(update, make))
              for size in UPDATE_SIZES[:2 if small else None] for make in UPDATES]
    found += [Plan("relu_layer", (1, 50), relu_layer), Plan("dense_layer", (1, 2, 3), dense_layer),
              Plan("training_step", (1, 10, 50, 3), training_step)]
    return [plan for name, plan in {str(plan): plan for plan in found}.items() if text in name]


def ratios(samples: Samples) -> dict[str, float]:
    """Return how many times fastnet's each rival's time is; of PyTorch's ways the quickest's."""
    found = {}
    for rival, own in (("NumPy", "fastnet"), ("PyTorch", "fastnet"), ("gemm", "fastnet in C")):
        ways = [values for name, values in samples.items() if name.startswith(rival)]
        if ways:
            found[f"{rival}/{own}"] = median_ratio(min(ways, key=np.median), samples[own])
    return found


def run(
    plans: Iterable[Plan], peers: Peers, dtype: str, rounds: int, seconds: float
) -> Iterator[Row]:
    """Yield the figures of each row; WrongResult if a contender is wrong."""
    for plan in plans:
        with peers.mode(inference=is_product(plan.kernel)):
            contest = plan.make(Arrays(dtype), peers, *plan.shape)
            for case in contest.cases:
                verify(case, case.contenders, str(plan))
            samples = time_in_turns(contest.timed, rounds, seconds, {})
        row = Row(plan.kernel, plan.shape, dtype,
                  {name: summarise(values) for name, values in samples.items()},
                  {**ratios(samples), **contest.figures(samples)})
        row.verdicts = judge(row)
        yield row
