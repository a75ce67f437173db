"""Every contender in training and running a network, as its own expert would set it up.

A step is the forward pass, the mean softmax cross-entropy of labels, the backward pass and SGD with
momentum: `v = momentum * v + g`, `w = w - lr * v`. All have one thread, start from the same weights
and get the same batches, each in a form of its own that is prepared beforehand. For inference all
get the same NumPy array and hand a NumPy array of raw scores back.

What is said about speed was measured on an AMD EPYC (Zen 4).
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

import fastnet
from bench.measure import Run

# A small lr keeps networks as they are through tens of thousands of timed steps. At 0.01 most units
# of 17-256-256-6@1 ceased to fire, and their velocities became subnormal numbers: steps took nearly
# twice as long for all who do not take these for 0.
LR, MOMENTUM = 1e-4, 0.9

# XLA reads these when JAX is first imported. The flags are the documented ones; its pool of
# threads, which products of matrices use all the same, is as large as NPROC says.
XLA_ONE_THREAD = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "NPROC": "1",
}
os.environ.update(XLA_ONE_THREAD)


class Skipped(Exception):
    """A contender cannot take part, for the reason that is given."""


@dataclass(frozen=True)
class Task:
    """A network and what it is trained on.

    `weights` are W, b, W, b ... from input to output; `x` (steps, batch, n_in) and `y`
    (steps, batch) hold the batches.
    """

    widths: tuple[int, ...]
    batch: int
    weights: list[np.ndarray]
    x: np.ndarray
    y: np.ndarray

    @property
    def dtype(self) -> np.dtype:
        return self.x.dtype

    @property
    def n_classes(self) -> int:
        return self.widths[-1]


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


def unpaired(layers: Sequence[tuple[Any, Any]]) -> list[Any]:
    return [array for pair in layers for array in pair]


# ---- fastnet -----------------------------------------------------------------------------------

class Fastnet(Contender):
    """A network with a call per step, with a call per epoch, and frozen; layers driven by hand."""

    def described(self) -> str:
        return ("Sequential: train_step; fit without shuffling; frozen().predict with out=; "
                "predict. Layers driven by hand as in the README, with out=")

    def layers(self, task: Task) -> list[Any]:
        """Return new layers with the task's weights."""
        layers: list[Any] = []
        for W, b in pairs(task.weights):
            dense = fastnet.Dense(*W.shape, dtype=task.dtype)
            dense.weight, dense.bias = W, b
            layers += [dense, fastnet.ReLU()]
        return layers[:-1]

    def network(self, task: Task) -> fastnet.Sequential:
        network = fastnet.Sequential(self.layers(task))
        network.compile(optimizer=fastnet.SGD(lr=LR, momentum=MOMENTUM),
                        loss=fastnet.SoftmaxCrossEntropy())
        return network

    @staticmethod
    def weights(layers: Sequence[Any]) -> list[np.ndarray]:
        return unpaired([(layer.weight, layer.bias) for layer in layers[::2]])

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
        loss, sgd = fastnet.SoftmaxCrossEntropy(), fastnet.SGD(lr=LR, momentum=MOMENTUM)
        outputs = self.outputs(task)
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
            sgd.step(layers)
            return value

        return step

    def outputs(self, task: Task) -> list[np.ndarray]:
        """Return an array for each output; that of a ReLU is as wide as its input."""
        widths = [width for width in task.widths[1:] for _ in range(2)][:-1]
        return [np.empty((task.batch, width), task.dtype) for width in widths]

    def inference(self, task: Task, x: np.ndarray) -> dict[str, Run]:
        network = self.network(task)
        scores = np.empty((len(x), task.n_classes), task.dtype)
        forward = list(zip(self.layers(task), self.outputs(task), strict=True))

        def by_hand() -> np.ndarray:
            y = x
            for layer, out in forward:
                y = layer.forward(y, out)
            return y

        return {"fastnet frozen": partial(network.frozen().predict, x, scores),
                "fastnet predict": partial(network.predict, x),
                "fastnet layers": by_hand}


# ---- NumPy -------------------------------------------------------------------------------------

def textbook_forward(weights: Sequence[np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """Return the input of every layer, and the scores."""
    *hidden, (W, b) = pairs(weights)
    inputs = [x]
    for W_hidden, b_hidden in hidden:
        inputs.append(np.maximum(inputs[-1] @ W_hidden + b_hidden, 0))
    return [*inputs, inputs[-1] @ W + b]


def textbook_step(
    weights: list[np.ndarray], velocities: list[np.ndarray], x: np.ndarray, y: np.ndarray
) -> float:
    """Change weights and velocities in place, as the formulas say, and return the loss."""
    n, rows = len(x), np.arange(len(x))
    *inputs, scores = textbook_forward(weights, x)
    scores = scores - scores.max(axis=1, keepdims=True)
    exps = np.exp(scores)
    sums = exps.sum(axis=1, keepdims=True)
    loss = np.mean(np.log(sums[:, 0]) - scores[rows, y])

    dZ = exps / sums
    dZ[rows, y] -= 1
    dZ /= n
    gradients: list[np.ndarray] = []
    for X, W in zip(inputs[::-1], weights[-2::-2], strict=True):
        gradients = [X.T @ dZ, dZ.sum(axis=0), *gradients]
        if X is not x:
            dZ = (dZ @ W.T) * (X > 0)

    for w, v, g in zip(weights, velocities, gradients, strict=True):
        v *= MOMENTUM
        v += g
        w -= LR * v
    return float(loss)


class Flat:
    """Parameters, gradients and velocities in a flat buffer each, and the update of all at once.

    The gradients are meant to be multiplied by lr already: those of the scores are, where that is
    cheapest. The velocity is then `v = momentum * v + lr * g`, the same while lr is constant.
    """

    def __init__(self, start: Sequence[np.ndarray]) -> None:
        self._W = np.concatenate([array.ravel() for array in start])
        self._dW, self._V = np.zeros_like(self._W), np.zeros_like(self._W)
        self._momentum = np.array(MOMENTUM, self._W.dtype)
        ends = np.cumsum([array.size for array in start])[:-1]
        self.W, self.dW = ([part.reshape(array.shape)
                            for part, array in zip(np.split(flat, ends), start, strict=True)]
                           for flat in (self._W, self._dW))

    def update(self) -> None:
        np.multiply(self._V, self._momentum, out=self._V)
        np.add(self._V, self._dW, out=self._V)
        np.subtract(self._W, self._V, out=self._W)


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
        self._n_by_lr, self._share = np.array(n / LR, dtype), np.array(LR / n, dtype)

    def places(self, y: np.ndarray) -> np.ndarray:
        """Return where the scores of these labels stand."""
        return y * len(self._columns) + self._columns

    def loss(self, places: np.ndarray) -> float:
        """Return the mean cross-entropy, and turn the scores into lr times its gradient."""
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


class NumPy(Contender):
    """Plain as in a textbook, and in place: all arrays made beforehand, updates on flat buffers."""

    def described(self) -> str:
        return "plain; in place; in place with samples last"

    def training(self, task: Task) -> dict[str, Trainer]:
        weights = [array.copy() for array in task.weights]
        velocities = [np.zeros_like(array) for array in weights]
        plain = Trainer(as_they_are, partial(textbook_step, weights, velocities), lambda: weights)
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
    flat, scores = Flat(task.weights), Scores(task)
    Z, zero, ones = scores.Z, np.zeros((), dtype), np.ones(n, dtype)
    H, dH, mask = ([np.empty((n, width), dtype) for width in task.widths[1:-1]] for _ in range(3))
    active = [np.empty(h.shape, bool) for h in H]
    *hidden, (W_last, b_last) = pairs(flat.W)
    *hidden_gradients, (dW_last, db_last) = pairs(flat.dW)
    W_last_T, b_column, H_last_T, dZ_last = W_last.T, b_last[:, None], H[-1].T, Z.T
    forward = [(W, b, h) for (W, b), h in zip(hidden, H, strict=True)]
    above = [W.T for W in flat.W[2::2]]
    below = [None, *(h.T for h in H[:-1])]      # None: the inputs
    backward = list(zip(above, H, active, mask, dH, below, hidden_gradients, strict=True))[::-1]

    def step(x: np.ndarray, places: np.ndarray) -> float:
        X = x
        for W, b, h in forward:
            np.dot(X, W, out=h)
            np.add(h, b, out=h)
            X = np.maximum(h, zero, out=h)
        np.dot(W_last_T, H_last_T, out=Z)
        np.add(Z, b_column, out=Z)
        loss = scores.loss(places)
        np.dot(H_last_T, dZ_last, out=dW_last)
        np.dot(Z, ones, out=db_last)
        dZ = dZ_last
        for W_T, h, on, factor, dh, X_T, (dW, db) in backward:
            np.dot(dZ, W_T, out=dh)
            np.greater(h, zero, out=on)
            factor[...] = on            # to multiply by floats is quicker
            dZ = np.multiply(dh, factor, out=dh)
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
    flat = Flat([np.vstack([W, b]).T for W, b in pairs(task.weights)])
    scores = Scores(task)
    Z, zero = scores.Z, np.zeros((), dtype)
    X_one = [np.ones((width + 1, n), dtype) for width in task.widths[1:-1]]
    H = [X[:-1] for X in X_one]
    dH, mask = ([np.empty((width, n), dtype) for width in task.widths[1:-1]] for _ in range(2))
    active = [np.empty(h.shape, bool) for h in H]
    W_first, *W_others = flat.W
    outputs = [*H[1:], Z]
    forward = list(zip(W_others, X_one, H, outputs, strict=True))
    backward = list(zip(flat.dW[1:], [X.T for X in X_one], [W[:, :-1].T for W in W_others],
                        H, active, mask, dH, strict=True))[::-1]

    def prepare(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.vstack([x.T, np.ones((1, n), dtype)]), scores.places(y)

    def step(x_one: np.ndarray, places: np.ndarray) -> float:
        np.dot(W_first, x_one, out=H[0])
        for W, X, h, Z_next in forward:
            np.maximum(h, zero, out=h)
            np.dot(W, X, out=Z_next)
        loss = scores.loss(places)
        dZ = Z
        for dW, X_T, W_T, h, on, factor, dh in backward:
            np.dot(dZ, X_T, out=dW)
            np.dot(W_T, dZ, out=dh)
            np.greater(h, zero, out=on)
            factor[...] = on
            dZ = np.multiply(dh, factor, out=dh)
        np.dot(dZ, x_one.T, out=flat.dW[0])
        flat.update()
        return loss

    def weights() -> list[np.ndarray]:
        return unpaired([(W[:, :-1].T, W[:, -1]) for W in flat.W])

    return Trainer(prepare, step, weights)


# ---- PyTorch -----------------------------------------------------------------------------------

class PyTorch(Contender):
    """`nn.Sequential` and its own SGD, fused, which beats its other ways and a flat buffer."""

    def __init__(self, dtype: str) -> None:
        self.torch: Any = import_module("torch")
        self.torch.set_num_threads(1)

    def described(self) -> str:
        return f"{self.torch.__version__}: eager, SGD(fused=True), inference_mode"

    def network(self, task: Task) -> Any:
        nn, layers = self.torch.nn, []
        for W, b in pairs(task.weights):
            linear = nn.Linear(*W.shape, dtype=getattr(self.torch, task.dtype.name))
            linear.weight.data, linear.bias.data = self.tensor(W.T.copy()), self.tensor(b.copy())
            layers += [linear, nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def tensor(self, array: np.ndarray) -> Any:
        return self.torch.from_numpy(array)

    def prepare(self, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
        return self.tensor(x), self.tensor(y)

    @staticmethod
    def weights(parameters: Iterable[Any]) -> list[np.ndarray]:
        """Return parameters as arrays, `weight` transposed."""
        return [array.detach().numpy().T for array in parameters]

    def training(self, task: Task) -> dict[str, Trainer]:
        network = self.network(task)
        parameters = list(network.parameters())
        sgd = self.torch.optim.SGD(parameters, LR, MOMENTUM, fused=True)
        cross_entropy = self.torch.nn.functional.cross_entropy

        def step(x: Any, y: Any) -> Any:
            sgd.zero_grad(set_to_none=True)
            loss = cross_entropy(network(x), y)
            loss.backward()
            sgd.step()
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
        torch, functional = self.torch, self.torch.nn.functional
        parameters = [array.detach() for array in self.network(task).parameters()]
        velocities = [torch.zeros_like(array) for array in parameters]

        def loss(parameters: list[Any], x: Any, y: Any) -> Any:
            *hidden, last = pairs(parameters)
            for weight, bias in hidden:
                x = torch.relu(functional.linear(x, weight, bias))
            return functional.cross_entropy(functional.linear(x, *last), y)

        gradients_and_loss = torch.func.grad_and_value(loss)

        def whole_step(x: Any, y: Any) -> Any:
            gradients, value = gradients_and_loss(parameters, x, y)
            for w, v, g in zip(parameters, velocities, gradients, strict=True):
                v.mul_(MOMENTUM).add_(g)
                w.sub_(v, alpha=LR)
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

class JAX(Contender):
    """A jitted step, and many steps in a jitted `lax.scan`; weights and velocities are donated.

    Without asynchronous dispatch no call is handed to another thread: with one core to run on, this
    takes a third off small steps. Two steps per turn of the scan are quicker than one or four.
    """

    def __init__(self, dtype: str) -> None:
        self.jax: Any = import_module("jax")
        self.jax.config.update("jax_platforms", "cpu")
        self.jax.config.update("jax_cpu_enable_async_dispatch", False)
        self.jax.config.update("jax_enable_x64", dtype == "float64")

    def described(self) -> str:
        flags = ", ".join(f"{name}={value}" for name, value in XLA_ONE_THREAD.items())
        return (f"{self.jax.__version__}: jit and lax.scan(unroll=2), donated weights, no "
                f"asynchronous dispatch, {flags}")

    def forward(self, layers: list[tuple[Any, Any]], x: Any) -> Any:
        *hidden, (W_last, b_last) = layers
        for W, b in hidden:
            x = self.jax.nn.relu(x @ W + b)
        return x @ W_last + b_last

    def training(self, task: Task) -> dict[str, Trainer]:
        jax, jnp = self.jax, self.jax.numpy

        def loss(layers: list[tuple[Any, Any]], x: Any, y: Any) -> Any:
            scores = self.forward(layers, x)
            at_label = jnp.take_along_axis(scores, y[:, None], axis=1)[:, 0]
            return jnp.mean(jax.nn.logsumexp(scores, axis=1) - at_label)

        def step(state: Any, batch: Any) -> Any:
            layers, velocities = state
            value, gradients = jax.value_and_grad(loss)(layers, *batch)
            velocities = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocities, gradients)
            return (jax.tree.map(lambda w, v: w - LR * v, layers, velocities), velocities), value

        def scan(state: Any, batches: Any) -> Any:
            return jax.lax.scan(step, state, batches, unroll=2)

        def trainer(function: Any, many: bool) -> Trainer:
            run = jax.jit(function, donate_argnums=0)
            start = [(jnp.array(W), jnp.array(b)) for W, b in pairs(task.weights)]
            state = start, jax.tree.map(jnp.zeros_like, start)

            def call(x: Any, y: Any) -> Any:
                nonlocal state
                state, losses = run(state, (x, y))
                return losses.block_until_ready()

            def weights() -> list[np.ndarray]:
                return [np.asarray(array) for array in unpaired(state[0])]

            return Trainer(lambda x, y: (jnp.array(x), jnp.array(y.astype(np.int32))), call,
                           weights, many)

        return {"JAX jit": trainer(step, many=False), "JAX scan": trainer(scan, many=True)}

    def inference(self, task: Task, x: np.ndarray) -> dict[str, Run]:
        # Weights that are constants are quicker than weights that are arguments.
        run = self.jax.jit(partial(self.forward, pairs(task.weights)))
        return {"JAX jit": lambda: np.asarray(run(x))}


# ---- scikit-learn ------------------------------------------------------------------------------

class ScikitLearn(Contender):
    """`MLPClassifier.partial_fit` with a batch, and with an epoch of batches.

    Its velocity is `v = momentum * v - lr * g`, the same while lr is constant.
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
        network = self.classifier(
            task.widths[1:-1], solver="sgd", learning_rate_init=LR, momentum=MOMENTUM,
            nesterovs_momentum=False, alpha=0.0, batch_size=task.batch, shuffle=False)
        network.partial_fit(task.x[0], task.y[0], classes=np.arange(task.n_classes))
        own = unpaired(list(zip(network.coefs_, network.intercepts_, strict=True)))
        for array, start in zip(own, task.weights, strict=True):
            array[...] = start
        for velocity in network._optimizer.velocities:
            velocity[...] = 0
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
        return f"{self.runtime.__version__}: one thread, sequential, input and output bound"

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
        options.intra_op_num_threads = options.inter_op_num_threads = 1
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
