"""Every contender in training and running a network, as its own expert would set it up.

A step is the forward pass, the mean softmax cross-entropy of labels, the backward pass and SGD with
momentum: `v = momentum * v + g`, `w = w - lr * v`. Hidden layers end in ReLU. A `Variant` says what
is otherwise in training. All have as many threads, start from the same weights and get the same
batches, each in a form of its own that is prepared beforehand. For inference all get the same NumPy
array and hand a NumPy array of raw scores back.

What is said about speed was measured on an AMD EPYC (Zen 4).
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np

import fastnet
from bench import THREADS
from bench.measure import Run, in_words

# A small lr keeps networks as they are through tens of thousands of timed steps. At 0.01 most units
# of 17-256-256-6@1 ceased to fire, and their velocities became subnormal numbers: steps took nearly
# twice as long for all who do not take these for 0.
LR, MOMENTUM = 1e-4, 0.9
ADAM_LR, BETA1, BETA2, ADAM_EPS = 1e-5, 0.9, 0.999, 1e-8
NORM_EPS = 1e-5

# XLA reads these when JAX is first imported. The flags are the documented ones; its pool of
# threads, which products of matrices use all the same, is as large as NPROC says.
XLA_THREADS = {
    "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if THREADS > 1 else 'false'} "
                 f"intra_op_parallelism_threads={THREADS}",
    "NPROC": str(THREADS),
}
os.environ.update(XLA_THREADS)


class Skipped(Exception):
    """A contender cannot take part, for the reason that is given."""


@dataclass(frozen=True)
class Variant:
    """What follows the product of each hidden layer, in this order, and what updates the weights.

    `norm` is layer normalization with gain and shift; `activation` is "relu", "tanh" or "gelu" (the
    exact one), `dropout` the share that is dropped, `optimizer` "sgd" (with momentum) or "adam".
    """

    name: str
    norm: bool = False
    activation: str = "relu"
    dropout: float = 0.0
    optimizer: str = "sgd"

    def described(self) -> str:
        dropout = f"dropout({self.dropout})" if self.dropout else ""
        stages = "layer norm" if self.norm else "", self.activation, dropout
        return f"{', '.join(filter(None, stages))} in hidden layers; {self.optimizer}"


PLAIN = Variant("plain")
VARIANTS = {variant.name: variant for variant in (
    PLAIN,
    Variant("adam", optimizer="adam"),
    Variant("gelu", activation="gelu"),
    Variant("tanh", activation="tanh"),
    Variant("dropout_layernorm", norm=True, dropout=0.1),
)}


@dataclass(frozen=True)
class Task:
    """A network and what it is trained on.

    `weights` are W, b, W, b ... from input to output, or with layer normalization W, b, gain, shift
    of hidden layers; `x` (steps, batch, n_in) and `y` (steps, batch) hold the batches.
    """

    widths: tuple[int, ...]
    batch: int
    weights: list[np.ndarray]
    x: np.ndarray
    y: np.ndarray
    variant: Variant = PLAIN

    @property
    def dtype(self) -> np.dtype:
        return self.x.dtype

    @property
    def n_classes(self) -> int:
        return self.widths[-1]

    def without_dropout(self) -> "Task":
        """Return the same task, but with nothing left to chance."""
        return replace(self, variant=replace(self.variant, dropout=0.0))


@dataclass(frozen=True)
class Trainer:
    """A contender in training.

    `prepare` puts a batch and its labels into the contender's form; `step` trains on them and
    returns the loss. With `many` steps per call both get several batches; it returns their losses,
    or the mean of these where that is what it computes.
    """

    prepare: Callable[[np.ndarray, np.ndarray], tuple[Any, Any]]
    step: Callable[[Any, Any], Any]
    weights: Callable[[], list[np.ndarray]]
    many: bool = False


class Contender:
    """A library: loaded for a dtype, and asked for all of its ways to do a task.

    To load it raises ImportError where something is not installed, or Skipped.
    """

    def __init__(self, dtype: str) -> None:
        """Load what is needed."""

    def described(self) -> str:
        """Return versions and settings."""
        raise NotImplementedError

    def training(self, task: Task) -> dict[str, Trainer]:
        """Return the contenders in training by name, or raise Skipped."""
        return {}

    def inference(self, task: Task, x: np.ndarray) -> dict[str, Run]:
        """Return functions by name that read `x` anew and return raw scores, or raise Skipped."""
        return {}


def as_they_are(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x, y


def in_a_row(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return several batches as one."""
    return x.reshape(-1, x.shape[-1]), y.reshape(-1)


def pairs(arrays: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return `(W, b)` for each layer."""
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def layered(arrays: Iterable[Any]) -> list[list[Any]]:
    """Return the parameters of each layer; they begin with its matrix."""
    layers: list[list[Any]] = []
    for array in arrays:
        if array.ndim == 2:
            layers.append([])
        layers[-1].append(array)
    return layers


def unpaired(layers: Iterable[Iterable[Any]]) -> list[Any]:
    return [array for layer in layers for array in layer]


def adam_rate(step: Any) -> tuple[Any, Any]:
    """Return rate and eps of `w -= rate * m / (sqrt(v) + eps)`, which is Adam's step 1, 2, ...

    Both correct m and v, which began as 0, for all weights at once.
    """
    corrected = (1 - BETA2**step) ** 0.5
    return ADAM_LR * corrected / (1 - BETA1**step), ADAM_EPS * corrected


# ---- fastnet -----------------------------------------------------------------------------------

class Fastnet(Contender):
    """A network with a call per step, with a call per epoch, and frozen; layers driven by hand."""

    n_threads = THREADS

    ACTIVATIONS: dict[str, Callable[[], Any]] = {
        "relu": fastnet.ReLU, "tanh": fastnet.Tanh, "gelu": fastnet.GELU}
    OPTIMIZERS: dict[str, Callable[[], Any]] = {
        "sgd": lambda: fastnet.SGD(lr=LR, momentum=MOMENTUM),
        "adam": lambda: fastnet.Adam(lr=ADAM_LR, betas=(BETA1, BETA2), eps=ADAM_EPS)}

    def described(self) -> str:
        return (f"Sequential(n_threads={self.n_threads}): train_step; fit without shuffling; "
                "frozen().predict with out=; predict. Layers driven by hand as in the README, with "
                "out=")

    def layers(self, task: Task) -> list[Any]:
        """Return new layers with the task's weights."""
        variant, layers, last = task.variant, list[Any](), len(task.widths) - 2
        for index, (W, b, *affine) in enumerate(layered(task.weights)):
            dense = fastnet.Dense(*W.shape, dtype=task.dtype)
            dense.weight, dense.bias = W, b
            layers.append(dense)
            if affine:
                norm = fastnet.LayerNorm(len(b), NORM_EPS, dtype=task.dtype)
                norm.weight, norm.bias = affine
                layers.append(norm)
            if index < last:
                layers.append(self.ACTIVATIONS[variant.activation]())
                if variant.dropout:
                    layers.append(fastnet.Dropout(variant.dropout, rng=index))
        return layers

    def network(self, task: Task) -> fastnet.Sequential:
        network = fastnet.Sequential(self.layers(task), n_threads=self.n_threads)
        network.compile(optimizer=self.OPTIMIZERS[task.variant.optimizer](),
                        loss=fastnet.SoftmaxCrossEntropy())
        return network

    @staticmethod
    def weights(layers: Sequence[Any]) -> list[np.ndarray]:
        return [value for layer in layers for _, value, _ in layer.parameters()]

    def training(self, task: Task) -> dict[str, Trainer]:
        stepping, fitted, by_hand = self.network(task), self.network(task), self.layers(task)

        def fit(x: np.ndarray, y: np.ndarray) -> Any:
            history = fitted.fit(
                x, y, batch_size=task.batch, epochs=1, shuffle=False, verbose=0)
            return history.loss[-1]

        return {
            "fastnet step": Trainer(
                as_they_are, stepping.train_step, lambda: self.weights(stepping.layers)),
            "fastnet layers": Trainer(
                as_they_are, self.step_by_hand(task, by_hand), lambda: self.weights(by_hand)),
            "fastnet fit": Trainer(
                in_a_row, fit, lambda: self.weights(fitted.layers), many=True),
        }

    def step_by_hand(self, task: Task, layers: list[Any]) -> Callable[[Any, Any], float]:
        loss, optimizer = fastnet.SoftmaxCrossEntropy(), self.OPTIMIZERS[task.variant.optimizer]()
        outputs = self.outputs(task, layers)
        inputs = [np.empty((task.batch, task.widths[0]), task.dtype),
                  *map(np.empty_like, outputs[:-1])]
        forward = list(zip(layers, outputs, strict=True))
        backward = list(zip(layers, inputs, strict=True))[::-1]

        def step(x: np.ndarray, y: np.ndarray) -> float:
            for layer, out in forward:
                x = layer.forward(x, out)
            value: float = loss.forward(x, y)
            dy = loss.backward()
            for layer, out in backward:
                dy = layer.backward(dy, out)
            optimizer.step(layers)
            return value

        return step

    def outputs(self, task: Task, layers: Sequence[Any]) -> list[np.ndarray]:
        """Return an array for each output, which is as wide as that of the Dense before."""
        found, width = list[np.ndarray](), 0
        for layer in layers:
            width = getattr(layer, "out_features", width)
            found.append(np.empty((task.batch, width), task.dtype))
        return found

    def inference(self, task: Task, x: np.ndarray) -> dict[str, Run]:
        network = self.network(task)
        scores = np.empty((len(x), task.n_classes), task.dtype)
        layers = self.layers(task)
        forward = list(zip(layers, self.outputs(task, layers), strict=True))

        def by_hand() -> np.ndarray:
            y = x
            for layer, out in forward:
                y = layer.forward(y, out)
            return y

        return {"fastnet frozen": partial(network.frozen().predict, x, scores),
                "fastnet predict": partial(network.predict, x),
                "fastnet layers": by_hand}


def alone(way: str) -> str:
    """Return the name of one of fastnet's ways on one thread, where it stands beside threads."""
    return f"{way}, 1 thread"


class OneThread(Fastnet):
    """The same networks on one thread, to see what more of them gain."""

    n_threads = 1

    def described(self) -> str:
        return f"Sequential(n_threads={self.n_threads}), else the same"

    def training(self, task: Task) -> dict[str, Trainer]:
        return self.of_networks(super().training(task))

    def inference(self, task: Task, x: np.ndarray) -> dict[str, Run]:
        return self.of_networks(super().inference(task, x))

    @staticmethod
    def of_networks(ways: dict[str, Any]) -> dict[str, Any]:
        return {alone(way): run for way, run in ways.items() if way != "fastnet layers"}


# ---- NumPy -------------------------------------------------------------------------------------

@cache
def load_erf() -> Any:
    """Return SciPy's erf, or None."""
    with contextlib.suppress(ImportError):
        return import_module("scipy.special").erf
    return None


def textbook_forward(weights: Sequence[np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """Return the input of every layer of a plain network, and the scores."""
    *hidden, (W, b) = pairs(weights)
    inputs = [x]
    for W_hidden, b_hidden in hidden:
        inputs.append(np.maximum(inputs[-1] @ W_hidden + b_hidden, 0))
    return [*inputs, inputs[-1] @ W + b]


def textbook_activation(kind: str, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values and derivatives."""
    if kind == "relu":
        return np.maximum(z, 0), z > 0
    if kind == "tanh":
        value = np.tanh(z)
        return value, 1 - value**2
    erf = load_erf() or np.vectorize(math.erf, otypes=[z.dtype])
    share = (1 + erf(z / math.sqrt(2))) / 2
    return z * share, share + z * np.exp(-z**2 / 2) / math.sqrt(2 * math.pi)


# From the gradient by some output to that by the input, and those by the parameters.
Backward = Callable[[np.ndarray], tuple[np.ndarray, list[np.ndarray]]]


def textbook_hidden(
    z: np.ndarray, affine: Sequence[np.ndarray], variant: Variant,
    rng: np.random.Generator | None,
) -> tuple[np.ndarray, Backward]:
    """Return what a hidden layer makes of its sums, and its backward; `affine`: gain and shift."""
    if affine:
        gain, shift = affine
        centred = z - z.mean(axis=1, keepdims=True)
        factor = 1 / np.sqrt(np.mean(centred**2, axis=1, keepdims=True) + NORM_EPS)
        normal = centred * factor
        z = gain * normal + shift
    h, slope = textbook_activation(variant.activation, z)
    if variant.dropout:
        assert rng is not None
        kept = (rng.random(h.shape) >= variant.dropout).astype(h.dtype) / (1 - variant.dropout)
        h, slope = h * kept, slope * kept

    def backward(dh: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        dz = dh * slope
        if not affine:
            return dz, []
        g = gain * dz
        along = (g * normal).mean(axis=1, keepdims=True)
        return (factor * (g - g.mean(axis=1, keepdims=True) - normal * along),
                [(dz * normal).sum(axis=0), dz.sum(axis=0)])

    return h, backward


def textbook_state(weights: Sequence[np.ndarray], variant: Variant) -> list[np.ndarray]:
    """Return what the optimizer keeps: velocities, or both moments and the number of steps."""
    zeros = [np.zeros_like(w) for w in weights]
    return ([*zeros, *map(np.zeros_like, zeros), np.zeros(())] if variant.optimizer == "adam"
            else zeros)


def textbook_update(
    weights: Sequence[np.ndarray], state: list[np.ndarray], gradients: Sequence[np.ndarray],
    variant: Variant,
) -> None:
    """Change weights and state in place."""
    if variant.optimizer == "adam":
        *moments, steps = state
        steps += 1
        t, firsts, seconds = float(steps), moments[:len(weights)], moments[len(weights):]
        for w, m, v, g in zip(weights, firsts, seconds, gradients, strict=True):
            m[...] = BETA1 * m + (1 - BETA1) * g
            v[...] = BETA2 * v + (1 - BETA2) * g**2
            w -= ADAM_LR * (m / (1 - BETA1**t)) / (np.sqrt(v / (1 - BETA2**t)) + ADAM_EPS)
        return
    for w, v, g in zip(weights, state, gradients, strict=True):
        v *= MOMENTUM
        v += g
        w -= LR * v


def textbook_step(
    weights: list[np.ndarray], state: list[np.ndarray], x: np.ndarray, y: np.ndarray,
    variant: Variant = PLAIN, rng: np.random.Generator | None = None,
) -> float:
    """Change weights and state in place, as the formulas say, and return the loss."""
    n, rows = len(x), np.arange(len(x))
    layers = layered(weights)
    inputs: list[np.ndarray] = [x]
    backwards: list[Backward | None] = [None]       # of what is below each layer
    for W, b, *affine in layers[:-1]:
        h, backward = textbook_hidden(inputs[-1] @ W + b, affine, variant, rng)
        inputs.append(h)
        backwards.append(backward)
    W, b = layers[-1]
    scores = inputs[-1] @ W + b
    scores = scores - scores.max(axis=1, keepdims=True)
    exps = np.exp(scores)
    sums = exps.sum(axis=1, keepdims=True)
    loss = np.mean(np.log(sums[:, 0]) - scores[rows, y])

    dZ = exps / sums
    dZ[rows, y] -= 1
    dZ /= n
    gradients: list[np.ndarray] = []
    for X, (W, *_), below in zip(inputs[::-1], layers[::-1], backwards[::-1], strict=True):
        gradients = [X.T @ dZ, dZ.sum(axis=0), *gradients]
        if below:
            dZ, own = below(dZ @ W.T)
            gradients = [*own, *gradients]
    textbook_update(weights, state, gradients, variant)
    return float(loss)


class Flat:
    """Parameters, gradients and velocities in a flat buffer each, and the update of all at once.

    For SGD the gradients are meant to be multiplied by lr already: those of the scores are, where
    that is cheapest. The velocity is then `v = momentum * v + lr * g`, the same while lr is
    constant.
    """

    def __init__(self, start: Sequence[np.ndarray], variant: Variant = PLAIN) -> None:
        self._W = np.concatenate([array.ravel() for array in start])
        self._dW = np.zeros_like(self._W)
        ends = np.cumsum([array.size for array in start])[:-1]
        self.W, self.dW = ([part.reshape(array.shape)
                            for part, array in zip(np.split(flat, ends), start, strict=True)]
                           for flat in (self._W, self._dW))
        self.update: Callable[[], None] = UPDATES[variant.optimizer](self._W, self._dW)


def sgd(W: np.ndarray, dW: np.ndarray) -> Callable[[], None]:
    V, momentum = np.zeros_like(W), np.array(MOMENTUM, W.dtype)

    def update() -> None:
        np.multiply(V, momentum, out=V)
        np.add(V, dW, out=V)
        np.subtract(W, V, out=W)

    return update


def adam(W: np.ndarray, dW: np.ndarray) -> Callable[[], None]:
    """Block by block, which stay in a cache from one operation to the next.

    The moments are kept as `m / (1 - beta1)` and `v / (1 - beta2)`: two products less.
    """
    (M, V), scratch = np.zeros((2, W.size), W.dtype), np.empty(BLOCK, W.dtype)
    blocks = [(*(array[i:i + BLOCK] for array in (W, dW, M, V)), scratch[:W.size - i])
              for i in range(0, W.size, BLOCK)]
    beta1, beta2, rate, eps = (np.array(value, W.dtype) for value in (BETA1, BETA2, 0, 0))
    root, steps = math.sqrt(1 - BETA2), 0

    def update() -> None:
        nonlocal steps
        steps += 1
        step_rate, step_eps = adam_rate(steps)
        rate[...], eps[...] = step_rate * (1 - BETA1) / root, step_eps / root
        for w, g, m, v, s in blocks:
            np.multiply(m, beta1, out=m)
            np.add(m, g, out=m)
            np.multiply(v, beta2, out=v)
            np.multiply(g, g, out=s)
            np.add(v, s, out=v)
            np.sqrt(v, out=s)
            np.add(s, eps, out=s)
            np.divide(m, s, out=s)
            np.multiply(s, rate, out=s)
            np.subtract(w, s, out=w)

    return update


BLOCK = 32768
UPDATES = {"sgd": sgd, "adam": adam}


class Scores:
    """Scores of a batch, a row for each class, and their loss.

    In this order whole rows are added and divided. It takes half the time of a row per sample,
    whose few entries are one inner loop of NumPy each.
    """

    def __init__(self, task: Task) -> None:
        n, dtype = task.batch, task.dtype
        self.Z = np.empty((task.n_classes, n), dtype)
        self._flat = self.Z.reshape(-1)
        self._columns = np.arange(n)
        self._row, self._at_label, self._logs = np.empty((3, n), dtype)
        self._class_ones, self._ones = np.ones(task.n_classes, dtype), np.ones(n, dtype)
        factor = LR if task.variant.optimizer == "sgd" else 1.0
        self._n_by_lr, self._share = np.array(n / factor, dtype), np.array(factor / n, dtype)

    def places(self, y: np.ndarray) -> np.ndarray:
        """Return where the scores of these labels stand."""
        return y * len(self._columns) + self._columns

    def loss(self, places: np.ndarray) -> float:
        """Return the mean cross-entropy; turn the scores into its gradient, for SGD times lr."""
        Z, flat, row, at_label = self.Z, self._flat, self._row, self._at_label
        np.maximum.reduce(Z, axis=0, out=row)
        np.subtract(Z, row, out=Z)
        flat.take(places, out=at_label, mode="clip")    # "raise" would buffer the output
        np.exp(Z, out=Z)
        np.dot(self._class_ones, Z, out=row)
        np.log(row, out=self._logs)
        np.subtract(self._logs, at_label, out=at_label)
        loss = float(np.dot(at_label, self._ones)) / len(row)
        np.multiply(row, self._n_by_lr, out=row)
        np.divide(Z, row, out=Z)
        flat.take(places, out=at_label, mode="clip")
        np.subtract(at_label, self._share, out=at_label)
        flat[places] = at_label
        return loss


# A forward that changes the sums of a hidden layer in place, and a backward that changes gradients.
Stage = tuple[Callable[[], Any], Callable[[np.ndarray], Any]]


def relu(H: np.ndarray) -> Stage:
    zero, active, factor = np.zeros((), H.dtype), np.empty_like(H, bool), np.empty_like(H)

    def backward(dH: np.ndarray) -> None:
        np.greater(H, zero, out=active)
        factor[...] = active            # to multiply by floats is quicker
        np.multiply(dH, factor, out=dH)

    return partial(np.maximum, H, zero, out=H), backward


def tanh(H: np.ndarray) -> Stage:
    one, slope = np.ones((), H.dtype), np.empty_like(H)

    def backward(dH: np.ndarray) -> None:
        np.multiply(H, H, out=slope)
        np.subtract(one, slope, out=slope)
        np.multiply(dH, slope, out=dH)

    return partial(np.tanh, H, out=H), backward


def gelu(H: np.ndarray) -> Stage:
    """The forward computes the slope as well, so that erf is computed once."""
    erf, share, slope = load_erf(), np.empty_like(H), np.empty_like(H)
    if erf is None:
        raise Skipped("GELU needs SciPy's erf")
    root, half, log_density = (
        np.array(value, H.dtype)
        for value in (math.sqrt(0.5), 0.5, -0.5 * math.log(2 * math.pi)))

    def forward() -> None:
        np.multiply(H, root, out=share)
        np.multiply(share, share, out=slope)
        np.subtract(log_density, slope, out=slope)
        np.exp(slope, out=slope)
        np.multiply(slope, H, out=slope)
        erf(share, out=share)
        np.multiply(share, half, out=share)
        np.add(share, half, out=share)
        np.add(slope, share, out=slope)
        np.multiply(H, share, out=H)

    return forward, lambda dH: np.multiply(dH, slope, out=dH)


def dropout(H: np.ndarray, p: float, rng: np.random.Generator) -> Stage:
    drawn, keep, factor = np.empty_like(H), np.empty_like(H, bool), np.empty_like(H)
    share, growth = np.array(p, H.dtype), np.array(1 / (1 - p), H.dtype)

    def forward() -> None:
        rng.random(dtype=H.dtype, out=drawn)
        np.greater_equal(drawn, share, out=keep)
        factor[...] = keep
        np.multiply(factor, growth, out=factor)
        np.multiply(H, factor, out=H)

    return forward, lambda dH: np.multiply(dH, factor, out=dH)


def layer_norm(
    Z: np.ndarray, gain: np.ndarray, shift: np.ndarray, d_gain: np.ndarray, d_shift: np.ndarray
) -> Stage:
    """With a row per sample, contiguous or transposed."""
    n, width = Z.shape
    normal, products = np.empty_like(Z), np.empty_like(Z)
    shares, ones = np.full(width, 1 / width, Z.dtype), np.ones(n, Z.dtype)
    weights, eps = np.empty_like(gain), np.array(NORM_EPS, Z.dtype)
    mean, factor = np.empty((2, n), Z.dtype)
    mean_column, factor_column = mean[:, None], factor[:, None]

    def forward() -> None:
        np.dot(Z, shares, out=mean)
        np.subtract(Z, mean_column, out=Z)
        np.multiply(Z, Z, out=products)
        np.dot(products, shares, out=factor)
        np.add(factor, eps, out=factor)
        np.sqrt(factor, out=factor)
        np.reciprocal(factor, out=factor)       # a product per entry is quicker than a quotient
        np.multiply(Z, factor_column, out=normal)
        np.multiply(normal, gain, out=Z)
        np.add(Z, shift, out=Z)

    def backward(dZ: np.ndarray) -> None:
        np.multiply(dZ, normal, out=products)
        np.dot(ones, products, out=d_gain)
        np.dot(ones, dZ, out=d_shift)
        np.multiply(gain, shares, out=weights)
        np.dot(products, weights, out=mean)
        np.multiply(normal, mean_column, out=products)
        np.dot(dZ, weights, out=mean)
        np.multiply(dZ, gain, out=dZ)
        np.subtract(dZ, mean_column, out=dZ)
        np.subtract(dZ, products, out=dZ)
        np.multiply(dZ, factor_column, out=dZ)

    return forward, backward


ACTIVATIONS = {"relu": relu, "tanh": tanh, "gelu": gelu}


def stages(
    variant: Variant, H: Sequence[np.ndarray], layers: Sequence[Sequence[np.ndarray]],
    gradients: Sequence[Sequence[np.ndarray]],
) -> list[Stage]:
    """Return for each hidden layer what follows its sums, all as one stage.

    `H` are the sums, a row per sample; `layers` and `gradients` end in gain and shift, if any.
    """
    rng = np.random.Generator(np.random.SFC64(1))

    def joined(h: np.ndarray, *affine: np.ndarray) -> Stage:
        found = [ACTIVATIONS[variant.activation](h)]
        if variant.norm:
            found.insert(0, layer_norm(h, *affine))
        if variant.dropout:
            found.append(dropout(h, variant.dropout, rng))
        if len(found) == 1:
            return found[0]
        forwards, backwards = [run for run, _ in found], [run for _, run in found[::-1]]

        def forward() -> None:
            for run in forwards:
                run()

        def backward(dh: np.ndarray) -> None:
            for run in backwards:
                run(dh)

        return forward, backward

    return [joined(h, *layer[-2:], *gradient[-2:])
            for h, layer, gradient in zip(H, layers, gradients, strict=False)]


class NumPy(Contender):
    """Plain as in a textbook, and in place: all arrays made beforehand, updates on flat buffers."""

    def described(self) -> str:
        return "plain; in place; in place with samples last"

    def training(self, task: Task) -> dict[str, Trainer]:
        weights = [array.copy() for array in task.weights]
        step = partial(textbook_step, weights, textbook_state(weights, task.variant),
                       variant=task.variant, rng=np.random.default_rng(0))
        plain = Trainer(as_they_are, step, lambda: weights)
        return {"NumPy": plain, "NumPy in place": in_place(task),
                "NumPy samples last": samples_last(task)}

    def inference(self, task: Task, x: np.ndarray) -> dict[str, Run]:
        zero = np.zeros((), task.dtype)
        layers = [(W, b, np.empty((len(x), len(b)), task.dtype)) for W, b in pairs(task.weights)]
        transposed = [(W.T.copy(), b[:, None], np.empty((len(b), len(x)), task.dtype))
                      for W, b in pairs(task.weights)]
        scores, scores_T = layers[-1][2], transposed[-1][2]

        def rows() -> np.ndarray:
            X = x
            for W, b, Z in layers:
                np.dot(X, W, out=Z)
                np.add(Z, b, out=Z)
                X = Z if Z is scores else np.maximum(Z, zero, out=Z)
            return X

        def columns() -> np.ndarray:
            X = x.T
            for W, b, Z in transposed:
                np.dot(W, X, out=Z)
                np.add(Z, b, out=Z)
                X = Z if Z is scores_T else np.maximum(Z, zero, out=Z)
            return X.T

        return {"NumPy": lambda: textbook_forward(task.weights, x)[-1],
                "NumPy in place": rows, "NumPy samples last": columns}


def in_place(task: Task) -> Trainer:
    """A row per sample, save for the scores."""
    n, dtype = task.batch, task.dtype
    flat, scores = Flat(task.weights, task.variant), Scores(task)
    Z, ones = scores.Z, np.ones(n, dtype)
    H, dH = ([np.empty((n, width), dtype) for width in task.widths[1:-1]] for _ in range(2))
    layers, gradients = layered(flat.W), layered(flat.dW)
    followed = stages(task.variant, H, layers, gradients)
    W_last, b_last = layers[-1]
    dW_last, db_last = gradients[-1]
    W_last_T, b_column, H_last_T, dZ_last = W_last.T, b_last[:, None], H[-1].T, Z.T
    forward = [(W, b, h, activate)
               for (W, b, *_), h, (activate, _) in zip(layers, H, followed, strict=False)]
    above = [W.T for W, *_ in layers[1:]]
    below = [None, *(h.T for h in H[:-1])]      # None: the inputs
    backward = [(W_T, leave, dh, X_T, dW, db) for W_T, (_, leave), dh, X_T, (dW, db, *_)
                in zip(above, followed, dH, below, gradients, strict=False)][::-1]

    def step(x: np.ndarray, places: np.ndarray) -> float:
        X = x
        for W, b, h, activate in forward:
            np.dot(X, W, out=h)
            np.add(h, b, out=h)
            activate()
            X = h
        np.dot(W_last_T, H_last_T, out=Z)
        np.add(Z, b_column, out=Z)
        loss = scores.loss(places)
        np.dot(H_last_T, dZ_last, out=dW_last)
        np.dot(Z, ones, out=db_last)
        dZ = dZ_last
        for W_T, leave, dh, X_T, dW, db in backward:
            np.dot(dZ, W_T, out=dh)
            leave(dh)
            dZ = dh
            np.dot(x.T if X_T is None else X_T, dZ, out=dW)
            np.dot(ones, dZ, out=db)
        flat.update()
        return loss

    return Trainer(lambda x, y: (x, scores.places(y)), step, lambda: flat.W)


def samples_last(task: Task) -> Trainer:
    """A column per sample, and b as the weights of one more feature, which is always 1.

    Quicker than rows where layers are narrow, slower for a batch of 1 in wide ones.
    """
    n, dtype = task.batch, task.dtype
    flat = Flat(unpaired([np.vstack([W, b]).T, *affine]
                         for W, b, *affine in layered(task.weights)), task.variant)
    scores = Scores(task)
    Z = scores.Z
    X_one = [np.ones((width + 1, n), dtype) for width in task.widths[1:-1]]
    H = [X[:-1] for X in X_one]
    dH = [np.empty((width, n), dtype) for width in task.widths[1:-1]]
    layers, gradients = layered(flat.W), layered(flat.dW)
    followed = stages(task.variant, [h.T for h in H], layers, gradients)
    W_first, *W_others = [W for W, *_ in layers]
    dW_first, *dW_others = [dW for dW, *_ in gradients]
    forward = [(W, X, activate, Z_next) for W, X, (activate, _), Z_next
               in zip(W_others, X_one, followed, [*H[1:], Z], strict=True)]
    backward = [(dW, X.T, W[:, :-1].T, leave, dh, dh.T) for dW, X, W, (_, leave), dh
                in zip(dW_others, X_one, W_others, followed, dH, strict=True)][::-1]

    def prepare(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.vstack([x.T, np.ones((1, n), dtype)]), scores.places(y)

    def step(x_one: np.ndarray, places: np.ndarray) -> float:
        np.dot(W_first, x_one, out=H[0])
        for W, X, activate, Z_next in forward:
            activate()
            np.dot(W, X, out=Z_next)
        loss = scores.loss(places)
        dZ = Z
        for dW, X_T, W_T, leave, dh, dh_T in backward:
            np.dot(dZ, X_T, out=dW)
            np.dot(W_T, dZ, out=dh)
            leave(dh_T)
            dZ = dh
        np.dot(dZ, x_one.T, out=dW_first)
        flat.update()
        return loss

    def weights() -> list[np.ndarray]:
        return unpaired([W[:, :-1].T, W[:, -1], *affine] for W, *affine in layers)

    return Trainer(prepare, step, weights)


# ---- PyTorch -----------------------------------------------------------------------------------

class PyTorch(Contender):
    """`nn.Sequential` and its own SGD, fused, which beats its other ways and a flat buffer.

    Adam, fused, takes half the time of `foreach` or less.
    """

    def __init__(self, dtype: str) -> None:
        self.torch: Any = import_module("torch")
        self.torch.set_num_threads(THREADS)
        nn, optim = self.torch.nn, self.torch.optim
        self.activations = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
        self.optimizers = {
            "sgd": partial(optim.SGD, lr=LR, momentum=MOMENTUM, fused=True),
            "adam": partial(optim.Adam, lr=ADAM_LR, betas=(BETA1, BETA2), eps=ADAM_EPS,
                            fused=True)}

    def described(self) -> str:
        return f"{self.torch.__version__}: eager, SGD or Adam with fused=True, inference_mode"

    def network(self, task: Task) -> Any:
        nn, dtype, layers = self.torch.nn, getattr(self.torch, task.dtype.name), list[Any]()
        *hidden, last = layered(task.weights)
        for W, b, *affine in [*hidden, last]:
            linear = nn.Linear(*W.shape, dtype=dtype)
            linear.weight.data, linear.bias.data = self.tensor(W.T.copy()), self.tensor(b.copy())
            layers.append(linear)
            if affine:
                norm = nn.LayerNorm(len(b), NORM_EPS, dtype=dtype)
                norm.weight.data, norm.bias.data = (self.tensor(a.copy()) for a in affine)
                layers.append(norm)
            if W is not last[0]:
                layers.append(self.activations[task.variant.activation]())
                if task.variant.dropout:
                    layers.append(nn.Dropout(task.variant.dropout))
        return nn.Sequential(*layers)

    def tensor(self, array: np.ndarray) -> Any:
        return self.torch.from_numpy(array)

    def prepare(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        return self.tensor(x), self.tensor(y)

    @staticmethod
    def weights(parameters: Iterable[Any]) -> list[np.ndarray]:
        """Return parameters as arrays, `weight` transposed."""
        return [array.detach().numpy().T for array in parameters]      # .T leaves vectors alone

    def training(self, task: Task) -> dict[str, Trainer]:
        network = self.network(task)
        parameters = list(network.parameters())
        optimizer = self.optimizers[task.variant.optimizer](parameters)
        cross_entropy = self.torch.nn.functional.cross_entropy

        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad(set_to_none=True)
            loss = cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return {"PyTorch": Trainer(self.prepare, step, lambda: self.weights(parameters))}

    def inference(self, task: Task, x: np.ndarray) -> dict[str, Run]:
        network, from_numpy = self.network(task), self.torch.from_numpy
        inference_mode = self.torch.inference_mode

        def run() -> Any:
            with inference_mode():
                return network(from_numpy(x)).numpy()

        return {"PyTorch": run}


class TorchCompile(PyTorch):
    """The whole step as one function of the weights; frozen for inference.

    One graph takes a third of the time of a compiled model with backward() and SGD beside it for
    the smallest networks, and as much for the largest. Mode max-autotune compiles for 10 s more
    per network, and was ahead of other libraries nowhere.
    """

    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        try:
            self.torch.compile(lambda x: x + 1)(self.torch.ones(8))
        except Exception as error:      # of many types: most often there is no C++ compiler
            raise Skipped(f"compiles nothing here: {first_line(error)}") from error

    def described(self) -> str:
        return f"{self.torch.__version__}: whole step in one graph; inference with freezing"

    def training(self, task: Task) -> dict[str, Trainer]:
        torch, functional, variant = self.torch, self.torch.nn.functional, task.variant
        parameters = [array.detach() for array in self.network(task).parameters()]
        velocities, squares = ([torch.zeros_like(array) for array in parameters] for _ in range(2))
        steps = torch.zeros((), dtype=torch.float64)
        activation = getattr(functional, variant.activation)

        def loss(parameters: list[Any], x: Any, y: Any) -> Any:
            *hidden, last = layered(parameters)
            for weight, bias, *affine in hidden:
                x = functional.linear(x, weight, bias)
                if affine:
                    x = functional.layer_norm(x, bias.shape, *affine, NORM_EPS)
                x = activation(x)
                if variant.dropout:
                    x = functional.dropout(x, variant.dropout)
            return functional.cross_entropy(functional.linear(x, *last), y)

        def sgd(gradients: list[Any]) -> None:
            for w, v, g in zip(parameters, velocities, gradients, strict=True):
                v.mul_(MOMENTUM).add_(g)
                w.sub_(v, alpha=LR)

        def adam(gradients: list[Any]) -> None:
            rate, eps = (number.to(parameters[0].dtype) for number in adam_rate(steps.add_(1)))
            for w, m, v, g in zip(parameters, velocities, squares, gradients, strict=True):
                m.lerp_(g, 1 - BETA1)
                v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
                w.sub_(rate * m / (v.sqrt() + eps))

        gradients_and_loss = torch.func.grad_and_value(loss)
        update = {"sgd": sgd, "adam": adam}[variant.optimizer]

        def whole_step(x: Any, y: Any) -> Any:
            gradients, value = gradients_and_loss(parameters, x, y)
            update(gradients)
            return value

        torch.compiler.reset()
        compiled = torch.compile(whole_step, dynamic=False, fullgraph=True)

        def step(x: Any, y: Any) -> Any:
            with torch.no_grad():
                return compiled(x, y)

        return {"torch.compile": Trainer(self.prepare, step, lambda: self.weights(parameters))}

    def inference(self, task: Task, x: np.ndarray) -> dict[str, Run]:
        torch = self.torch
        torch.compiler.reset()
        compiled = torch.compile(self.network(task).eval(), dynamic=False,
                                 options={"freezing": True})

        def run() -> Any:
            with torch.no_grad():       # freezing asks for this, not for inference_mode
                return compiled(torch.from_numpy(x)).numpy()

        return {"torch.compile": run}


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


# ---- JAX ---------------------------------------------------------------------------------------

ASYNCHRONOUS = 5e7       # multiplications of a forward pass


class JAX(Contender):
    """A jitted step, and many steps in a jitted `lax.scan`; weights and velocities are donated.

    Without asynchronous dispatch no call is handed to another thread: with one core to run on, this
    takes a third off small steps. With threads, calls with much work are handed over all the same:
    on two cores this took 10 to 30 % off most of them. Two steps per turn of the scan are quicker
    than one or four. Dropout compares 16 random bits from Threefry, not partitionable and drawn for
    all layers at once, which takes half the time of `bernoulli` as it comes; those from rbg took up
    to ten times as long. GELU as written here takes a fifth less than `jax.nn.gelu`.
    """

    def __init__(self, dtype: str) -> None:
        self.jax: Any = import_module("jax")
        self.jax.config.update("jax_platforms", "cpu")
        self.jax.config.update("jax_cpu_enable_async_dispatch", False)
        self.clear_backends = import_module("jax.extend.backend").clear_backends
        self.asynchronous = False
        self.jax.config.update("jax_enable_x64", dtype == "float64")
        self.jax.config.update("jax_threefry_partitionable", False)
        self.activations = {"relu": self.jax.nn.relu, "tanh": self.jax.numpy.tanh,
                            "gelu": lambda x: x * (
                                0.5 + 0.5 * self.jax.lax.erf(x * math.sqrt(0.5)))}

    def described(self) -> str:
        flags = ", ".join(f"{name}={value}" for name, value in XLA_THREADS.items())
        where = f" below {ASYNCHRONOUS:.0e} multiplications" if THREADS > 1 else ""
        return (f"{self.jax.__version__}: jit and lax.scan(unroll=2), donated weights, no "
                f"asynchronous dispatch{where}, {flags}")

    def choose_dispatch(self, task: Task) -> None:
        """Have calls handed to another thread where that is quicker; a new client is made then."""
        multiplications = task.batch * sum(W.size for W, *_ in layered(task.weights))
        asynchronous = THREADS > 1 and multiplications > ASYNCHRONOUS
        if asynchronous != self.asynchronous:
            self.asynchronous = asynchronous
            self.jax.config.update("jax_cpu_enable_async_dispatch", asynchronous)
            self.clear_backends()

    def forward(
        self, variant: Variant, layers: Sequence[Sequence[Any]], x: Any, kept: Sequence[Any] = ()
    ) -> Any:
        """Return the scores; `kept` tells for each hidden layer what is not dropped."""
        jnp = self.jax.numpy
        *hidden, (W_last, b_last) = layers
        for index, (W, b, *affine) in enumerate(hidden):
            x = x @ W + b
            if affine:
                x = x - jnp.mean(x, axis=1, keepdims=True)
                x = x * self.jax.lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + NORM_EPS)
                x = x * affine[0] + affine[1]
            x = self.activations[variant.activation](x)
            if variant.dropout:
                x = jnp.where(kept[index], x * (1 / (1 - variant.dropout)), 0)
        return x @ W_last + b_last

    def keep(self, task: Task, key: Any) -> list[Any]:
        """Return what is kept in each hidden layer."""
        jnp, widths = self.jax.numpy, np.array(task.widths[1:-1])
        bits = self.jax.random.bits(key, (task.batch * sum(task.widths[1:-1]),), jnp.uint16)
        ends = task.batch * np.cumsum(widths)[:-1]
        return [part.reshape(task.batch, -1)
                for part in jnp.split(bits >= round(task.variant.dropout * 2**16), ends)]

    def optimizer(self, name: str, layers: Any) -> tuple[Any, Callable[..., Any]]:
        """Return the state that it starts with, and the update."""
        jnp, over = self.jax.numpy, self.jax.tree.map
        zeros = partial(over, jnp.zeros_like, layers)

        def sgd(layers: Any, velocities: Any, gradients: Any) -> Any:
            velocities = over(lambda v, g: MOMENTUM * v + g, velocities, gradients)
            return over(lambda w, v: w - LR * v, layers, velocities), velocities

        def adam(layers: Any, state: Any, gradients: Any) -> Any:
            firsts, seconds, steps = state
            steps = steps + 1
            rate, eps = adam_rate(steps)
            firsts = over(lambda m, g: BETA1 * m + (1 - BETA1) * g, firsts, gradients)
            seconds = over(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, seconds, gradients)
            layers = over(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + eps),
                          layers, firsts, seconds)
            return layers, (firsts, seconds, steps)

        return (zeros(), sgd) if name == "sgd" else ((zeros(), zeros(), jnp.zeros(())), adam)

    def training(self, task: Task) -> dict[str, Trainer]:
        self.choose_dispatch(task)
        jax, jnp, variant = self.jax, self.jax.numpy, task.variant
        random = jax.random

        def loss(layers: Any, x: Any, y: Any, key: Any) -> Any:
            kept = self.keep(task, key) if variant.dropout else ()
            scores = self.forward(variant, layers, x, kept)
            at_label = jnp.take_along_axis(scores, y[:, None], axis=1)[:, 0]
            return jnp.mean(jax.nn.logsumexp(scores, axis=1) - at_label)

        def step(state: Any, batch: Any) -> Any:
            layers, optimizer = state
            value, gradients = jax.value_and_grad(loss)(layers, *batch)
            return update(layers, optimizer, gradients), value

        def train(many: bool, state: Any, x: Any, y: Any) -> Any:
            trained, key = state
            keys = None
            if variant.dropout:
                key, own = random.split(key)
                keys = random.split(own, len(y)) if many else own
            trained, losses = (jax.lax.scan(step, trained, (x, y, keys), unroll=2) if many else
                               step(trained, (x, y, keys)))
            return (trained, key), losses

        def new_layers() -> Any:
            return jax.tree.map(jnp.array, layered(task.weights))

        _, update = self.optimizer(variant.optimizer, new_layers())

        def trainer(many: bool) -> Trainer:
            run = jax.jit(partial(train, many), donate_argnums=0)
            start = new_layers()
            state = (start, self.optimizer(variant.optimizer, start)[0]), (
                random.key(0) if variant.dropout else None)

            def call(x: Any, y: Any) -> Any:
                nonlocal state
                state, losses = run(state, x, y)
                return losses.block_until_ready()

            def weights() -> list[np.ndarray]:
                return [np.asarray(array) for array in unpaired(state[0][0])]

            return Trainer(lambda x, y: (jnp.array(x), jnp.array(y.astype(np.int32))), call,
                           weights, many)

        return {"JAX jit": trainer(many=False), "JAX scan": trainer(many=True)}

    def inference(self, task: Task, x: np.ndarray) -> dict[str, Run]:
        self.choose_dispatch(task)
        # Weights that are constants are quicker than weights that are arguments.
        run = self.jax.jit(partial(self.forward, PLAIN, pairs(task.weights)))
        return {"JAX jit": lambda: np.asarray(run(x))}


# ---- scikit-learn ------------------------------------------------------------------------------

class ScikitLearn(Contender):
    """`MLPClassifier.partial_fit` with a batch, and with an epoch of batches.

    Its velocity is `v = momentum * v - lr * g`, the same while lr is constant. Its Adam adds eps
    before it corrects v; `eps` is corrected here, to make the same steps as all others.
    """

    def __init__(self, dtype: str) -> None:
        self.sklearn: Any = import_module("sklearn")
        self.classifier: Any = import_module("sklearn.neural_network").MLPClassifier
        self.sklearn.set_config(assume_finite=True, skip_parameter_validation=True)

    def described(self) -> str:
        return (f"{self.sklearn.__version__}: MLPClassifier.partial_fit, assume_finite, "
                "skip_parameter_validation")

    def network(self, task: Task) -> Any:
        if task.n_classes == 2:
            raise Skipped("two classes have one score there, which is another network")
        variant = task.variant
        if variant.norm or variant.dropout or variant.activation not in ("relu", "tanh"):
            raise Skipped("has no such layers")
        solvers = {"sgd": dict(learning_rate_init=LR, momentum=MOMENTUM, nesterovs_momentum=False),
                   "adam": dict(learning_rate_init=ADAM_LR, beta_1=BETA1, beta_2=BETA2)}
        network = self.classifier(
            task.widths[1:-1], activation=variant.activation, solver=variant.optimizer,
            **solvers[variant.optimizer], alpha=0.0, batch_size=task.batch, shuffle=False)
        network.partial_fit(task.x[0], task.y[0], classes=np.arange(task.n_classes))
        own = unpaired(list(zip(network.coefs_, network.intercepts_, strict=True)))
        for array, start in zip(own, task.weights, strict=True):
            array[...] = start
        optimizer = network._optimizer
        if variant.optimizer == "adam":
            optimizer.__class__ = type("Adam", (type(optimizer),), {"epsilon": property(
                lambda self: adam_rate(self.t)[1], lambda self, value: None)})
            optimizer.t = 0
            states = optimizer.ms + optimizer.vs
        else:
            states = optimizer.velocities
        for state in states:
            state[...] = 0
        return network

    def training(self, task: Task) -> dict[str, Trainer]:
        def trainer(prepare: Any, many: bool) -> Trainer:
            network = self.network(task)

            def step(x: np.ndarray, y: np.ndarray) -> Any:
                return network.partial_fit(x, y).loss_

            def weights() -> list[np.ndarray]:
                return unpaired(list(zip(network.coefs_, network.intercepts_, strict=True)))

            return Trainer(prepare, step, weights, many)

        return {"scikit-learn": trainer(as_they_are, many=False),
                "scikit-learn epoch": trainer(in_a_row, many=True)}

    def inference(self, task: Task, x: np.ndarray) -> dict[str, Run]:
        network = self.network(task)
        network.out_activation_ = "identity"        # it then hands out the raw scores
        return {"scikit-learn": lambda: network.predict_proba(x)}


# ---- onnxruntime -------------------------------------------------------------------------------

class OnnxRuntime(Contender):
    """Inference with input and output bound to arrays, which takes half the time of `run`."""

    def __init__(self, dtype: str) -> None:
        self.onnx: Any = import_module("onnx")
        self.runtime: Any = import_module("onnxruntime")

    def described(self) -> str:
        return (f"{self.runtime.__version__}: {in_words(THREADS)}, sequential, input and output "
                "bound")

    def model(self, task: Task, n: int) -> bytes:
        """Return the network as ONNX: Gemm and Relu in turns."""
        onnx, helper = self.onnx, self.onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(task.dtype)
        nodes, constants, name = [], [], "x"
        for index, (W, b) in enumerate(pairs(task.weights)):
            if index:
                nodes.append(helper.make_node("Relu", [name], [f"h{index}"]))
                name = f"h{index}"
            constants += [onnx.numpy_helper.from_array(W, f"W{index}"),
                          onnx.numpy_helper.from_array(b, f"b{index}")]
            nodes.append(helper.make_node(
                "Gemm", [name, f"W{index}", f"b{index}"], [f"z{index}"]))
            name = f"z{index}"
        nodes[-1].output[0] = "scores"
        ends = [[helper.make_tensor_value_info(name, kind, [n, width])]
                for name, width in (("x", task.widths[0]), ("scores", task.n_classes))]
        graph = helper.make_graph(nodes, "network", *ends, constants)
        model = helper.make_model(
            graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
        return bytes(model.SerializeToString())

    def inference(self, task: Task, x: np.ndarray) -> dict[str, Run]:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
        options.execution_mode = self.runtime.ExecutionMode.ORT_SEQUENTIAL
        session = self.runtime.InferenceSession(
            self.model(task, len(x)), options, providers=["CPUExecutionProvider"])
        scores = np.empty((len(x), task.n_classes), task.dtype)
        binding = session.io_binding()
        binding.bind_cpu_input("x", x)
        binding.bind_output(
            "scores", "cpu", 0, task.dtype.type, scores.shape, scores.ctypes.data)

        def run() -> np.ndarray:
            session.run_with_iobinding(binding)
            return scores

        return {"onnxruntime": run}


PEERS: dict[str, type[Contender]] = {
    "NumPy": NumPy, "PyTorch": PyTorch, "torch.compile": TorchCompile, "JAX": JAX,
    "scikit-learn": ScikitLearn, "onnxruntime": OnnxRuntime}


def fastnets() -> dict[str, type[Contender]]:
    """Return fastnet, and beside threads fastnet on one."""
    return {"fastnet": Fastnet, **({"fastnet on one thread": OneThread} if THREADS > 1 else {})}


def load(
    classes: Mapping[str, type[Contender]], dtype: str
) -> tuple[dict[str, Contender], dict[str, str]]:
    """Return what can be loaded, and the reason for each that cannot."""
    loaded: dict[str, Contender] = {}
    skipped: dict[str, str] = {}
    for name, contender in classes.items():
        try:
            loaded[name] = contender(dtype)
        except (ImportError, Skipped) as error:
            skipped[name] = str(error)
    return loaded, skipped
