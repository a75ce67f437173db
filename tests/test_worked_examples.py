"""The six worked exercises A to F, digit by digit.

Every exercise runs through the layers, through the compiled kernels and through the pure-Python
reference. B, E and F are networks with one hidden ReLU layer, so they share four witnesses: these
three, and plain NumPy written from the formulas. Where an exercise is also a script in examples/,
the script's own functions are tested.
"""

import itertools
import runpy
from pathlib import Path

import numpy as np
import pytest

import fastnet as fn
from fastnet import _ops, reference

EXAMPLES = Path(__file__).parents[1] / "examples"


def script(name):
    """Names and values that a script in examples/ defines, without running its main part."""
    return runpy.run_path(str(EXAMPLES / name))


def eps(dtype):
    return float(np.finfo(dtype).eps)


def close(found, expected, tolerance):
    found, expected = np.asarray(found, "float64"), np.asarray(expected, "float64")
    assert found.shape == expected.shape
    assert np.all(np.abs(found - expected) <= tolerance), np.max(np.abs(found - expected))


# ---- Witnesses: one hidden ReLU layer, softmax, mean cross-entropy, momentum ---------------------
#
# Each is made from (W1, b1, W2, b2). `step(X, T)` returns the loss and the gradients in that order,
# from before its update; `parameters()` returns the four arrays; `scores(X)` has no effect.


class ByNumpy:
    """From the formulas, with `v = gamma v + lr g`, `w = w - v` as in exercise F."""

    def __init__(self, start, lr, momentum=0.0, dtype="float64"):
        self.w = [np.array(p, dtype) for p in start]
        self.v = [np.zeros_like(p) for p in self.w]
        self.lr, self.gamma = lr, momentum

    def parameters(self):
        return self.w

    def scores(self, X):
        W1, b1, W2, b2 = self.w
        return np.maximum(X @ W1 + b1, 0) @ W2 + b2

    def loss(self, X, T):
        S = self.scores(X)
        m = S.max(axis=1, keepdims=True)
        log_p = S - m - np.log(np.exp(S - m).sum(axis=1, keepdims=True))
        return -(T * log_p).sum() / len(X)

    def step(self, X, T):
        W1, b1, W2, b2 = self.w
        loss = self.loss(X, T)
        Z = X @ W1 + b1
        H = Z * (Z > 0)
        S = H @ W2 + b2
        E = np.exp(S - S.max(axis=1, keepdims=True))
        dS = (E / E.sum(axis=1, keepdims=True) - T) / len(X)
        dZ = (dS @ W2.T) * (Z > 0)
        gradients = [X.T @ dZ, dZ.sum(axis=0), H.T @ dS, dS.sum(axis=0)]
        self.v = [self.gamma * v + self.lr * g for v, g in zip(self.v, gradients, strict=True)]
        self.w = [w - v for w, v in zip(self.w, self.v, strict=True)]
        return loss, gradients


class ByLayers:
    def __init__(self, start, lr, momentum=0.0, dtype="float64"):
        W1, b1, W2, b2 = start
        self.hidden = fn.Dense(*np.shape(W1), dtype=dtype)
        self.output = fn.Dense(*np.shape(W2), dtype=dtype)
        self.hidden.weight, self.hidden.bias = W1, b1
        self.output.weight, self.output.bias = W2, b2
        self.layers = [self.hidden, fn.ReLU(), self.output]
        self.loss, self.sgd = fn.SoftmaxCrossEntropy(), fn.SGD(lr, momentum)

    def parameters(self):
        return [self.hidden.weight, self.hidden.bias, self.output.weight, self.output.bias]

    def scores(self, X):
        for layer in self.layers:
            X = layer.forward(X)
        return X

    def step(self, X, T):
        loss = self.loss.forward(self.scores(X), T)
        dy = self.loss.backward()
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        self.sgd.step(self.layers)
        return loss, [self.hidden.weight_grad, self.hidden.bias_grad,
                      self.output.weight_grad, self.output.bias_grad]


class ByKernels:
    def __init__(self, start, lr, momentum=0.0, dtype="float64"):
        self.dtype = np.dtype(dtype)
        self.w = [np.array(p, dtype) for p in start]
        self.g = [np.empty_like(p) for p in self.w]
        self.v = [np.zeros_like(p) if momentum else None for p in self.w]
        self.lr, self.momentum = lr, momentum

    def parameters(self):
        return self.w

    def scores(self, X):
        W1, b1, W2, b2 = self.w
        X = np.array(X, self.dtype)
        return _ops.dense_forward(_ops.dense_forward(X, W1, b1, relu=True), W2, b2)

    def step(self, X, T):
        X, T = np.array(X, self.dtype), np.array(T, self.dtype)
        W1, b1, W2, b2 = self.w
        dW1, db1, dW2, db2 = self.g
        Z = _ops.dense_forward(X, W1, b1)
        H = _ops.relu_forward(Z)
        S = _ops.dense_forward(H, W2, b2)
        loss, dS = _ops.softmax_cross_entropy(S, T)
        dH = _ops.dense_backward(H, W2, dS, dW=dW2, db=db2)
        dZ = _ops.relu_backward(Z, dH)
        _ops.dense_backward(X, W1, dZ, dW=dW1, db=db1)
        _ops.sgd_update(self.g, self.w, self.v, self.lr, self.momentum)
        return loss, self.g


class ByReference:
    def __init__(self, start, lr, momentum=0.0, dtype="float64"):
        assert dtype == "float64"               # Python's floats have no other type
        self.w = [np.asarray(p, dtype).tolist() for p in start]
        self.v = [[0.0] * np.size(p) for p in start]
        self.lr, self.momentum = lr, momentum

    def parameters(self):
        return [np.array(p) for p in self.w]

    def scores(self, X):
        W1, b1, W2, b2 = self.w
        H = reference.dense_forward(np.asarray(X).tolist(), W1, b1, relu=True)
        return reference.dense_forward(H, W2, b2)

    def step(self, X, T):
        X, T = np.asarray(X).tolist(), np.asarray(T).tolist()
        W1, b1, W2, b2 = self.w
        Z = reference.dense_forward(X, W1, b1)
        H = reference.relu_forward(Z)
        loss, dS = reference.softmax_cross_entropy(reference.dense_forward(H, W2, b2), T)
        dH, dW2, db2 = reference.dense_backward(H, W2, dS)
        _, dW1, db1 = reference.dense_backward(X, W1, reference.relu_backward(Z, dH))
        gradients = [np.array(g) for g in (dW1, db1, dW2, db2)]
        for i, g in enumerate(gradients):
            w, self.v[i] = reference.sgd_update(
                g.ravel().tolist(), np.ravel(self.w[i]).tolist(), self.v[i], self.lr, self.momentum)
            self.w[i] = np.reshape(w, g.shape).tolist()
        return loss, gradients


WITNESSES = [(ByLayers, "float32"), (ByLayers, "float64"), (ByKernels, "float32"),
             (ByKernels, "float64"), (ByReference, "float64")]


@pytest.fixture(params=WITNESSES, ids=lambda w: f"{w[0].__name__}-{w[1]}")
def witness(request):
    return request.param


# ---- A: gradients of a small graph ---------------------------------------------------------------


def graph_by_layers(x1, x2, x3, x4, dtype):
    y3, dx = script("graph_gradients.py")["gradients"](*np.array([x1, x2, x3, x4], dtype))
    return y3, dx


def graph_by_kernels(x1, x2, x3, x4, dtype):
    x1, x2, x3, x4 = (np.array([[x]], dtype) for x in (x1, x2, x3, x4))
    y2 = _ops.add_forward(_ops.add_forward(x1, x2), _ops.maximum_forward(x3, x4))
    y3 = _ops.scale_forward(y2, 3.0)
    dy11, dy12 = _ops.add_backward(_ops.scale_backward(np.ones_like(y3), 3.0))
    return y3, (*_ops.add_backward(dy11), *_ops.maximum_backward(x3, x4, dy12))


def graph_by_reference(x1, x2, x3, x4, dtype):
    x1, x2, x3, x4 = ([[x]] for x in (x1, x2, x3, x4))
    y2 = reference.add_forward(reference.add_forward(x1, x2), reference.maximum_forward(x3, x4))
    y3 = reference.scale_forward(y2, 3.0)
    dy11, dy12 = reference.add_backward(reference.scale_backward([[1.0]], 3.0))
    return y3, (*reference.add_backward(dy11), *reference.maximum_backward(x3, x4, dy12))


@pytest.mark.parametrize("graph", [graph_by_layers, graph_by_kernels, graph_by_reference])
@pytest.mark.parametrize("x, gradient", [
    ((2.0, 4.0, 1.0, 5.0), (3, 3, 0, 3)),
    ((-1.5, 0.25, 1.0, 5.0), (3, 3, 0, 3)),         # x1 and x2 do not matter
    ((2.0, 4.0, 5.0, 1.0), (3, 3, 3, 0)),
    ((2.0, 4.0, 5.0, 5.0), (3, 3, 3, 0)),           # a tie: the first argument wins
])
def test_a_gradients_of_the_graph(graph, x, gradient, dtype):
    y3, dx = graph(*x, dtype)
    assert np.ravel(y3).item() == 3 * (x[0] + x[1] + max(x[2], x[3]))      # all exact in binary
    assert tuple(np.ravel(d).item() for d in dx) == gradient


def test_a_derivative_of_relu(dtype):
    """1 above 0 and 0 below; at 0 it is 0, as exercise E has it."""
    a = np.array([[-3.0, -0.5, 0.0, 0.5, 3.0]], dtype)
    relu = fn.ReLU()
    for y in (relu.forward(a), _ops.relu_forward(a), reference.relu_forward(a.tolist())):
        assert np.array_equal(y, [[0, 0, 0, 0.5, 3]])
    dy = np.ones_like(a)
    for dx in (relu.backward(dy), _ops.relu_backward(a, dy),
               reference.relu_backward(a.tolist(), dy.tolist())):
        assert np.array_equal(dx, [[0, 0, 0, 1, 1]])


def test_a_dead_unit_has_gradient_zero_everywhere(witness):
    """Hidden unit 1 of 3 is negative for every sample; its neighbours are not."""
    make, dtype = witness
    X, T = [[0.2, 0.9], [0.7, 0.1], [0.4, 0.4]], [[1, 0], [0, 1], [1, 0]]
    W1, b1 = [[0.3, -1.0, 0.2], [0.1, -1.0, 0.5]], [0.1, -0.1, 0.1]
    W2, b2 = [[0.3, 0.1], [0.9, -0.9], [-0.2, 0.4]], [0.0, 0.0]
    network = make([np.array(p) for p in (W1, b1, W2, b2)], lr=0.5, momentum=0.9, dtype=dtype)
    before = [np.array(p) for p in network.parameters()]
    for _ in range(3):
        _, (dW1, db1, dW2, _) = network.step(np.array(X), np.array(T))
        assert not np.any(dW1[:, 1]) and db1[1] == 0 and not np.any(dW2[1])
        assert np.all(dW1[:, [0, 2]]) and np.all(db1[[0, 2]]) and np.all(dW2[[0, 2]])
    W1, b1, W2, _ = network.parameters()
    assert np.array_equal(W1[:, 1], before[0][:, 1]) and b1[1] == before[1][1]
    assert np.array_equal(W2[1], before[2][1])


# ---- B: the classifier with 703 parameters -------------------------------------------------------

CLASSIFIER = script("classifier_703.py")
X_B = np.array([[0.5, 0.6, 0.1, 0.25, 0.33, 0.9, 0.88, 0.76, 0.69, 0.95]])
T_B = np.array([[1.0, 0.0, 0.0]])


def starting_values(layers):
    return [value.copy() for layer in layers for _, value, _ in layer.parameters()]


def test_b_has_703_parameters_drawn_from_0_to_a_tenth():
    assert np.array_equal(CLASSIFIER["X"], X_B) and np.array_equal(CLASSIFIER["TARGET"], T_B)
    W1, b1, W2, b2 = starting_values(CLASSIFIER["build"](seed=0))
    assert W1.size + b1.size == 550 and W2.size + b2.size == 153
    values = np.concatenate([p.ravel() for p in (W1, b1, W2, b2)])
    assert values.size == 703
    assert np.all((0 < values) & (values < 0.1))        # exactly 0 would be a default, not drawn
    # All 703 below (or above) the middle tenth has a probability of 0.9^703 < 1e-32.
    assert values.min() < 0.01 and values.max() > 0.09


@pytest.mark.parametrize("seed", range(5))
def test_b_loss_is_below_2e_3_and_the_sum_of_b2_stays(seed, dtype):
    layers = CLASSIFIER["build"](seed, dtype=dtype)
    b2 = layers[2].bias
    total = b2.sum(dtype="float64")
    losses = CLASSIFIER["train"](layers, X_B, T_B)
    assert len(losses) == 1000
    assert all(b < a for a, b in itertools.pairwise(losses))
    assert losses[-1] < 0.002
    # The gradient y - t sums to 0. Each of 1000 updates rounds 3 biases below 1, by eps / 2 at
    # most, and 3 gradients, of at most eps each, that count with lr = 0.02.
    close(b2.sum(dtype="float64"), total, 1000 * 3 * (0.5 + 0.02) * eps(dtype))
    assert b2[0] > 0.2 and b2[1] < 0 and b2[2] < 0         # and yet they have moved


@pytest.mark.parametrize("seed", range(3))
def test_b_script_ends_where_plain_numpy_ends(seed):
    layers = CLASSIFIER["build"](seed)
    numpy = ByNumpy(starting_values(layers), lr=0.02)
    expected = [numpy.step(X_B, T_B)[0] for _ in range(1000)]
    losses = CLASSIFIER["train"](layers, X_B, T_B)
    close(losses, expected, 1e-9)
    for found, value in zip(starting_values(layers), numpy.parameters(), strict=True):
        close(found, value, 1e-9)


def test_b_witnesses_agree_with_plain_numpy(witness):
    make, dtype = witness
    iterations = 50 if make is ByReference else 1000        # pure Python takes a second for 1000
    start = starting_values(CLASSIFIER["build"](seed=7, dtype=dtype))
    numpy = ByNumpy(start, lr=0.02)
    expected = [numpy.step(X_B, T_B)[0] for _ in range(iterations)]
    network = make(start, lr=0.02, dtype=dtype)
    losses = [network.step(X_B, T_B)[0] for _ in range(iterations)]
    # Each update rounds a parameter below 1 once: at most eps / 2. Descent on this loss contracts,
    # so that errors do not grow; 1e-9 in float64 is the promise of the exercise.
    tolerance = 1e-9 if dtype == "float64" else iterations * eps(dtype) / 2
    close(losses, expected, tolerance)
    for found, value in zip(network.parameters(), numpy.parameters(), strict=True):
        close(found, value, tolerance)


def test_b_does_not_repeat_the_mistakes_of_the_original(dtype, rng):
    """The gradient by scores is y - t, by two ways; a dense layer hands back dy W^T."""
    scores = rng.normal(size=(1, 3)).astype(dtype)
    softmax, from_scores, from_p = fn.Softmax(), fn.SoftmaxCrossEntropy(), fn.CrossEntropy()
    y = softmax.forward(scores)
    assert from_scores.forward(scores, T_B) == pytest.approx(-np.log(y[0, 0]), rel=4 * eps(dtype))
    # A handful of roundings of numbers below 1; through 1 / y_0 it is a few more.
    close(from_scores.backward(), y - T_B, 4 * eps(dtype))
    from_p.forward(y, T_B)
    close(softmax.backward(from_p.backward()), y - T_B, 8 * eps(dtype))

    dense = fn.Dense(4, 4, dtype=dtype, rng=rng)            # square: W instead of W^T would fit too
    dense.forward(np.zeros((1, 4), dtype))
    # dy picks a row of W^T: products with 0 and 1 are exact.
    assert np.array_equal(dense.backward([[0, 1, 0, 0]]), dense.weight[:, 1][None])


# ---- B: a hand-written script with other layers --------------------------------------------------


class HandDense:
    def __init__(self, W, b):
        self.W, self.b = W.copy(), b.copy()

    def forward(self, x):
        self.x = np.asarray(x)
        return self.x @ self.W + self.b

    def backward(self, dy):
        self.dW, self.db = self.x.T @ dy, dy.sum(axis=0)
        return dy @ self.W.T

    def adjust_w(self, lr):
        self.W -= lr * self.dW
        self.b -= lr * self.db


class HandReLU:
    def forward(self, x):
        self.x = x
        return np.maximum(x, 0)

    def backward(self, dy):
        return dy * (self.x > 0)

    def adjust_w(self, lr):
        pass


class HandSoftmax:
    def forward(self, x):
        e = np.exp(x - x.max())
        self.y = e / e.sum()
        return self.y

    def backward(self, dy):
        y = self.y[0]
        return dy @ (np.diag(y) - np.outer(y, y))

    def adjust_w(self, lr):
        pass


def hand_written_script(layers, adjust, iterations=1000):
    """The exercise's loop, which knows layers only by forward, backward and one update each."""
    x = X_B.tolist()
    losses = []
    for _ in range(iterations):
        y = x
        for layer in layers:
            y = layer.forward(y)
        losses.append(-np.sum(T_B * np.log(y)))
        dy = -T_B / y
        for layer in layers[::-1]:
            dy = layer.backward(dy)
        for layer in layers:
            adjust(layer)
    return losses


def hand_and_our_layers():
    """The same four layers twice, with the same numbers."""
    ours = [*CLASSIFIER["build"](seed=3), fn.Softmax()]
    W1, b1, W2, b2 = starting_values(ours)
    return [HandDense(W1, b1), HandReLU(), HandDense(W2, b2), HandSoftmax()], ours


def final_values(layers):
    dense = layers[0], layers[2]
    return [p for d in dense for p in ((d.W, d.b) if isinstance(d, HandDense)
                                       else (d.weight, d.bias))]


@pytest.mark.parametrize("replaced", [*itertools.product([False, True], repeat=4)], ids=str)
def test_b_hand_written_script_runs_with_any_of_its_layers_replaced(replaced):
    expected = hand_and_our_layers()[0]
    expected_losses = hand_written_script(expected, lambda layer: layer.adjust_w(0.02))

    layers = [ours if ours_here else theirs for theirs, ours, ours_here
              in zip(*hand_and_our_layers(), replaced, strict=True)]
    sgd = fn.SGD(lr=0.02)

    def adjust(layer):
        if hasattr(layer, "adjust_w"):
            layer.adjust_w(0.02)
        else:
            sgd.step([layer])

    losses = hand_written_script(layers, adjust)
    close(losses, expected_losses, 1e-9)            # as for the script: the exercise's promise
    for found, value in zip(final_values(layers), final_values(expected), strict=True):
        close(found, value, 1e-9)
    assert losses[-1] < 0.002


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_b_one_step_for_all_layers_is_one_step_for_each(momentum, dtype):
    together, apart = (CLASSIFIER["build"](seed=4, dtype=dtype) for _ in range(2))
    loss = fn.SoftmaxCrossEntropy()
    sgd_together, sgd_apart = fn.SGD(0.02, momentum), fn.SGD(0.02, momentum)
    for _ in range(10):
        for layers in (together, apart):
            y = X_B
            for layer in layers:
                y = layer.forward(y)
            loss.forward(y, T_B)
            dy = loss.backward()
            for layer in reversed(layers):
                dy = layer.backward(dy)
        sgd_together.step(together)
        for layer in apart:
            sgd_apart.step([layer])
    for a, b in zip(starting_values(together), starting_values(apart), strict=True):
        assert np.array_equal(a, b)


# ---- C: scalars with a skip connection -----------------------------------------------------------

C_VALUES = {"x1": 0.4, "x1*w1": -0.08, "y1": -0.38, "z": 0.62}
C_GRADIENTS = {"w0": -0.2, "w1": 0.4, "b0": -0.2, "b1": 1.0}


def skip_by_layers(dtype):
    residual, relu = script("skip_connection.py")["build"](dtype=dtype)
    first, inner_relu, second = residual.layers
    x1 = inner_relu.forward(first.forward([[1.0]]))
    values = {"x1": x1, "x1*w1": x1 * second.weight, "y1": second.forward(x1),
              "z": relu.forward(residual.forward([[1.0]]))}
    dx0 = residual.backward(relu.backward([[1.0]]))
    gradients = {"w0": first.weight_grad, "w1": second.weight_grad,
                 "b0": first.bias_grad, "b1": second.bias_grad}
    return values, gradients, dx0


def skip_by_kernels(dtype):
    x0, w0, w1 = (np.array([[v]], dtype) for v in (1.0, 0.3, -0.2))
    b0, b1 = (np.array([v], dtype) for v in (0.1, -0.3))
    a = _ops.dense_forward(x0, w0, b0)
    x1 = _ops.relu_forward(a)
    y1 = _ops.dense_forward(x1, w1, b1)
    s = _ops.add_forward(y1, x0)
    values = {"x1": x1, "x1*w1": _ops.dense_forward(x1, w1), "y1": y1, "z": _ops.relu_forward(s)}
    gradients = g = {"w0": np.empty_like(w0), "w1": np.empty_like(w1),
                     "b0": np.empty_like(b0), "b1": np.empty_like(b1)}
    dy1, skip = _ops.add_backward(_ops.relu_backward(s, np.ones_like(s)))
    dx1 = _ops.dense_backward(x1, w1, dy1, dW=g["w1"], db=g["b1"])
    through = _ops.dense_backward(x0, w0, _ops.relu_backward(a, dx1), dW=g["w0"], db=g["b0"])
    return values, gradients, _ops.add_forward(through, skip)


def skip_by_reference(dtype):
    x0, w0, w1, b0, b1 = [[1.0]], [[0.3]], [[-0.2]], [0.1], [-0.3]
    a = reference.dense_forward(x0, w0, b0)
    x1 = reference.relu_forward(a)
    y1 = reference.dense_forward(x1, w1, b1)
    s = reference.add_forward(y1, x0)
    values = {"x1": x1, "x1*w1": reference.dense_forward(x1, w1), "y1": y1,
              "z": reference.relu_forward(s)}
    dy1, skip = reference.add_backward(reference.relu_backward(s, [[1.0]]))
    dx1, dw1, db1 = reference.dense_backward(x1, w1, dy1)
    through, dw0, db0 = reference.dense_backward(x0, w0, reference.relu_backward(a, dx1))
    gradients = {"w0": dw0, "w1": dw1, "b0": db0, "b1": db1}
    return values, gradients, reference.add_forward(through, skip)


@pytest.mark.parametrize("skip, dtype", [
    (skip_by_layers, "float32"), (skip_by_layers, "float64"), (skip_by_kernels, "float32"),
    (skip_by_kernels, "float64"), (skip_by_reference, "float64")])
def test_c_values_and_gradients_of_the_skip_connection(skip, dtype):
    values, gradients, dx0 = skip(dtype)
    assert values.keys() == C_VALUES.keys() and gradients.keys() == C_GRADIENTS.keys()
    # At most 8 roundings of numbers of at most 1, each by eps / 2.
    for name, expected in (C_VALUES | C_GRADIENTS).items():
        close(np.ravel((values | gradients)[name]), [expected], 4 * eps(dtype))
    close(np.ravel(dx0), [1 + 0.3 * -0.2], 4 * eps(dtype))         # the skip, and through w1 and w0


def test_c_trains_end_to_end_through_the_skip_connection(dtype):
    """A step towards z = 2 by hand: dz = 2 (0.62 - 2) = -2.76, each parameter moves 0.276 dz/dp."""
    example = script("skip_connection.py")
    layers = example["build"](dtype=dtype)
    loss, sgd = fn.MeanSquaredError(), fn.SGD(lr=0.1)
    errors = [example["step"](layers, loss, sgd, [[2.0]])]
    tolerance = 16 * eps(dtype)         # the 8 roundings of above, and 8 of numbers up to 4
    close(errors[0], (0.62 - 2) ** 2, tolerance)
    found = {name: value.item() for name, value, _ in layers[0].parameters()}
    expected = {"0.weight": 0.3 - 0.0552, "0.bias": 0.1 - 0.0552,
                "2.weight": -0.2 + 0.1104, "2.bias": -0.3 + 0.276}
    assert found == pytest.approx(expected, abs=tolerance)

    errors += [example["step"](layers, loss, sgd, [[2.0]]) for _ in range(20)]
    assert all(b < a for a, b in itertools.pairwise(errors))
    assert errors[-1] < 1e-3            # the error shrinks by about a third at each step


# ---- D: shapes, parameter counts, the derivative of softmax --------------------------------------


def test_d_shapes_and_parameters_of_30_1024_512_1(dtype):
    layers = [fn.Dense(30, 1024, dtype=dtype), fn.ReLU(), fn.Dense(1024, 512, dtype=dtype),
              fn.ReLU(), fn.Dense(512, 1, dtype=dtype)]
    y = np.ones((32, 30), dtype)
    dense_shapes = []
    for layer in layers:
        y = layer.forward(y)
        assert y.dtype == dtype
        if isinstance(layer, fn.Dense):
            dense_shapes.append(y.shape)
    assert dense_shapes == [(32, 1024), (32, 512), (32, 1)]
    dy = np.ones_like(y)
    for layer in reversed(layers):
        dy = layer.backward(dy)
    assert dy.shape == (32, 30)

    values = [value for layer in layers for _, value, _ in layer.parameters()]
    assert [v.shape for v in values] == [(30, 1024), (1024,), (1024, 512), (512,), (512, 1), (1,)]
    assert sum(v.size for v in values) == 557057
    assert all(g.shape == v.shape for layer in layers for _, v, g in layer.parameters())


def test_d_script_counts_the_same():
    example = script("parameter_counts.py")
    assert sum(map(example["count"], example["build"]([30, 1024, 512, 1]))) == 557057
    assert sum(map(example["count"], example["build"]([10, 50, 3]))) == 703


def softmax_by_layers(h):
    layer = fn.Softmax()
    return layer.forward(h), layer.backward


def softmax_by_kernels(h):
    P = _ops.softmax_forward(h)
    return P, lambda dP: _ops.softmax_backward(P, dP)


def softmax_by_reference(h):
    P = reference.softmax_forward(h.tolist())
    return np.array(P), lambda dP: np.array(reference.softmax_backward(P, dP.tolist()))


SOFTMAXES = [softmax_by_layers, softmax_by_kernels, softmax_by_reference]


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_d_probabilities_and_jacobian_of_softmax(softmax, dtype):
    """P_j = exp(h_j) / sum_k exp(h_k), and dP_j / dh_i = P_i (delta_ij - P_j)."""
    h = np.array([[0.5, -1.0, 2.0, 0.0]], dtype)
    P = softmax(h)[0]
    e = np.exp(h.astype("float64"))
    close(P, e / e.sum(), 4 * eps(dtype))           # exp, sum and quotient of numbers up to 1
    p = (e / e.sum())[0]
    for j in range(4):
        dP = np.zeros_like(h)
        dP[0, j] = 1
        _, backward = softmax(h)
        row = [p[i] * ((i == j) - p[j]) for i in range(4)]
        close(backward(dP), [row], 8 * eps(dtype))  # as above, and twice as many roundings


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_d_jacobian_of_softmax_by_central_differences(softmax):
    h, step = np.array([[0.5, -1.0, 2.0, 0.0]]), 1e-5
    for j in range(4):
        dP = np.zeros_like(h)
        dP[0, j] = 1
        _, backward = softmax(h)
        moved = [(softmax(h + d)[0] - softmax(h - d)[0])[0, j] / (2 * step)
                 for d in step * np.eye(4)[:, None]]
        # Truncation step^2 / 6 times a third derivative below 1; rounding eps / step.
        close(backward(dP), [moved], step**2 / 6 + 2 * eps("float64") / step)


def test_d_gradient_of_the_loss_by_the_scores(dtype):
    """dL / dh_i = P(y = i) - y_i, and L = -sum_j y_j log P(y = j)."""
    h = np.array([[0.5, -1.0, 2.0, 0.0]], dtype)
    p = np.exp(h.astype("float64")) / np.exp(h.astype("float64")).sum()
    for label in range(4):
        y = np.eye(4, dtype=dtype)[[label]]
        layer = fn.SoftmaxCrossEntropy()
        for loss, dh in [(layer.forward(h, y), layer.backward()),
                         _ops.softmax_cross_entropy(h, y),
                         reference.softmax_cross_entropy(h.tolist(), y.tolist())]:
            close(loss, -np.log(p[0, label]), 8 * eps(dtype))       # a number up to 4
            close(dh, p - y, 4 * eps(dtype))


# ---- E: one exact step ---------------------------------------------------------------------------

X_E, T_E = np.array([[0.26, 0.33]]), np.array([[1.0, 0.0]])
START_E = [np.array(p) for p in (
    [[0.1, 0.2, 0.4], [0.5, 0.4, 0.1]], [0.3, 0.3, 0.3],        # w1 w3 w5; w2 w4 w6; b1 b2 b3
    [[0.1, 0.2], [0.5, 0.1], [0.3, 0.4]], [0.7, 0.7])]          # w7 w10; w8 w11; w9 w12; b4 b5
TABLE_E = """
| w1 | 0.01 | 0.09 | w10 | 0.23 | 0.08 |
| w2 | 0.02 | 0.49 | w11 | 0.23 | -0.01 |
| w3 | -0.05 | 0.22 | w12 | 0.21 | 0.30 |
| w4 | -0.06 | 0.43 | b1 | 0.05 | 0.28 |
| w5 | 0.01 | 0.39 | b2 | -0.19 | 0.39 |
| w6 | 0.02 | 0.09 | b3 | 0.05 | 0.28 |
| w7 | -0.23 | 0.22 | b4 | -0.47 | 0.94 |
| w8 | -0.23 | 0.61 | b5 | 0.47 | 0.46 |
| w9 | -0.21 | 0.40 | | | |
"""


def table_e():
    """{name: (gradient, after the step)} as printed."""
    words = TABLE_E.replace("|", " ").split()
    return {name: (float(g), float(after)) for name, g, after
            in zip(words[::3], words[1::3], words[2::3], strict=True)}


def by_name(W1, b1, W2, b2):
    """The exercise's names: w1, w2 lead into h1, w3, w4 into h2, ..., w10, w11, w12 into o2."""
    return {
        "w1": W1[0, 0], "w2": W1[1, 0], "w3": W1[0, 1], "w4": W1[1, 1], "w5": W1[0, 2],
        "w6": W1[1, 2], "b1": b1[0], "b2": b1[1], "b3": b1[2],
        "w7": W2[0, 0], "w8": W2[1, 0], "w9": W2[2, 0], "w10": W2[0, 1], "w11": W2[1, 1],
        "w12": W2[2, 1], "b4": b2[0], "b5": b2[1],
    }


def digits_or_eps(half_a_digit, dtype):
    """Half a printed digit; where float32 has no such digits, 8 roundings of numbers below 2."""
    return half_a_digit if dtype == "float64" else 8 * eps(dtype)


def test_e_every_number_of_the_table(witness):
    make, dtype = witness
    network = make(START_E, lr=0.5, dtype=dtype)
    loss, gradients = network.step(X_E, T_E)
    gradients, after = by_name(*gradients), by_name(*network.parameters())
    printed = table_e()
    assert len(printed) == 17 and printed.keys() == gradients.keys()
    for name, (gradient, value) in printed.items():
        assert abs(gradients[name] - gradient) <= 0.005, name       # two digits, rounded
        assert abs(after[name] - value) <= 0.005, name
    close(loss, 0.6440167232, digits_or_eps(0.5e-10, dtype))
    assert abs(loss - 0.64) <= 0.005


def test_e_gradients_and_step_beyond_the_printed_digits(witness):
    make, dtype = witness
    network, numpy = make(START_E, lr=0.5, dtype=dtype), ByNumpy(START_E, lr=0.5)
    for found, expected in zip(network.step(X_E, T_E)[1], numpy.step(X_E, T_E)[1], strict=True):
        close(found, expected, 8 * eps(dtype))      # a dozen roundings of numbers up to 1
    for found, expected in zip(network.parameters(), numpy.parameters(), strict=True):
        close(found, expected, 8 * eps(dtype))


def test_e_outputs(witness):
    make, dtype = witness
    scores = make(START_E, lr=0.5, dtype=dtype).scores(X_E)
    scores = np.array(scores, dtype)
    for outputs in (fn.Softmax().forward(scores), _ops.softmax_forward(scores),
                    reference.softmax_forward(scores.tolist())):
        close(outputs, [[0.52517868, 0.47482132]], digits_or_eps(0.5e-8, dtype))
        close(outputs, [[0.53, 0.47]], 0.005)


def test_e_script_computes_the_same():
    example = script("one_step.py")
    outputs, loss, gradients, after = example["step"](example["build"]())
    close(outputs, [0.52517868, 0.47482132], 0.5e-8)
    close(loss, 0.6440167232, 0.5e-10)
    numpy = ByNumpy(START_E, lr=0.5)
    expected = by_name(*numpy.step(X_E, T_E)[1])
    assert gradients == pytest.approx(expected, abs=8 * eps("float64"))
    assert after == pytest.approx(by_name(*numpy.parameters()), abs=8 * eps("float64"))


# ---- F: momentum, training and validation curves -------------------------------------------------

CURVES = script("digits_curves.py")


def small_digits(dtype="float64"):
    """120 digits to train on, 40 to validate with, one-hot targets, and a network 64-16-10."""
    x, y = fn.load_digits()
    x, t = x[:160].astype(dtype), np.eye(10, dtype=dtype)[y[:160]]
    rng = np.random.default_rng(5)
    layers = [fn.Dense(64, 16, dtype=dtype, rng=rng), fn.ReLU(),
              fn.Dense(16, 10, dtype=dtype, rng=rng)]
    return layers, (x[:120], t[:120]), (x[120:], t[120:])


def measured_by_numpy(network, x, t):
    correct = network.scores(x).argmax(axis=1) == t.argmax(axis=1)
    return network.loss(x, t), correct.mean()


def test_f_curves_and_parameters_are_those_of_plain_numpy():
    layers, training, validation = small_digits()
    numpy = ByNumpy(starting_values(layers), lr=0.2, momentum=0.9)
    expected = {"training": [], "validation": []}
    for _ in range(50):
        expected["training"].append(measured_by_numpy(numpy, *training))
        expected["validation"].append(measured_by_numpy(numpy, *validation))
        numpy.step(*training)

    curves = CURVES["train"](layers, training, validation, epochs=50, lr=0.2, momentum=0.9)
    for name in ("training", "validation"):
        loss, accuracy = np.transpose(expected[name])
        close(curves[name][:, 0], loss, 1e-9)
        assert np.array_equal(curves[name][:, 1], accuracy)
    for found, value in zip(starting_values(layers), numpy.parameters(), strict=True):
        close(found, value, 1e-9)
    assert curves["training"][-1, 0] < 0.1 * curves["training"][0, 0]      # it has learned


def test_f_witnesses_agree_with_plain_numpy(witness):
    make, dtype = witness
    layers, (x, t), _ = small_digits(dtype)
    start = starting_values(layers)
    numpy = ByNumpy(start, lr=0.2, momentum=0.9)
    network = make(start, lr=0.2, momentum=0.9, dtype=dtype)
    epochs = 10
    expected = [numpy.step(x.astype("float64"), t)[0] for _ in range(epochs)]
    losses = [network.step(x, t)[0] for _ in range(epochs)]
    # Per epoch a parameter below 1 is rounded by eps / 2, and so is its gradient, a mean of numbers
    # below 1, which momentum counts lr / (1 - 0.9) = 2 times.
    tolerance = 1e-9 if dtype == "float64" else (0.5 + 2 * 0.5) * eps(dtype) * epochs
    close(losses, expected, tolerance)
    for found, value in zip(network.parameters(), numpy.parameters(), strict=True):
        close(found, value, tolerance)


def test_f_training_is_recorded_before_the_update(dtype):
    layers, training, validation = small_digits(dtype)
    before = CURVES["measure"](layers, fn.SoftmaxCrossEntropy(), *training)
    curves = CURVES["train"](layers, training, validation, epochs=1)
    assert tuple(curves["training"][0]) == before
    after = CURVES["measure"](layers, fn.SoftmaxCrossEntropy(), *training)
    assert after[0] < before[0]


def test_f_validation_only_measures(dtype):
    """Other validation data, even of another size: the same training, bit for bit."""
    results = []
    for rows in (slice(0, 40), slice(7, 8)):
        layers, training, (x, t) = small_digits(dtype)
        curves = CURVES["train"](layers, training, (x[rows], t[rows]), epochs=5)
        results.append((curves, starting_values(layers)))
    (first, first_values), (second, second_values) = results
    assert np.array_equal(first["training"], second["training"])
    assert all(np.array_equal(a, b) for a, b in zip(first_values, second_values, strict=True))
    assert not np.array_equal(first["validation"], second["validation"])


def test_f_loss_comes_from_the_scores_exactly(dtype):
    """With log(p + 1e-5) no loss could be above 11.6, and a certain answer would have one below 0.

    The row's maximum is subtracted first, or exp(1000) would be infinite.
    """
    scores = np.array([[1000, 0, 0]], dtype)
    right, wrong = np.eye(3, dtype=dtype)[[0]], np.eye(3, dtype=dtype)[[1]]
    for loss in (lambda s, t: fn.SoftmaxCrossEntropy().forward(s, t),
                 lambda s, t: _ops.softmax_cross_entropy(s, t)[0],
                 lambda s, t: reference.softmax_cross_entropy(s.tolist(), t.tolist())[0]):
        assert loss(scores, right) == 0
        assert loss(scores, wrong) == 1000
    assert np.array_equal(fn.Softmax().forward(scores), [[1, 0, 0]])
    assert np.array_equal(reference.softmax_forward(scores.tolist()), [[1, 0, 0]])


def test_f_rows_are_samples_and_the_loss_is_their_mean(dtype, rng):
    """x (N, F), w (F, H), b (H,): x w + b is (N, H); the mean over N comes in once."""
    layers = [fn.Dense(6, 4, dtype=dtype, rng=rng)]
    x, t = rng.normal(size=(5, 6)).astype(dtype), np.eye(4, dtype=dtype)[[0, 1, 2, 3, 0]]
    y = layers[0].forward(x)
    assert layers[0].weight.shape == (6, 4) and layers[0].bias.shape == (4,) and y.shape == (5, 4)
    loss = fn.SoftmaxCrossEntropy()
    each = []
    for row, target in zip(y, t, strict=True):
        each.append((loss.forward(row[None], target[None]), loss.backward()[0]))
    close(loss.forward(y, t), np.mean([value for value, _ in each]), 8 * eps(dtype))
    close(loss.backward(), np.array([gradient for _, gradient in each]) / 5, 2 * eps(dtype))


def test_f_momentum_of_the_exercise_is_the_momentum_of_the_kernel(dtype, rng):
    """v = gamma v + lr g, w = w - v: the same steps while lr is constant."""
    w, v = rng.normal(size=7), np.zeros(7)
    W, V = w.astype(dtype), np.zeros(7, dtype)
    w = W.astype("float64")
    W_list, V_list = W.tolist(), V.tolist()
    for _ in range(10):
        g = rng.uniform(-1, 1, size=7).astype(dtype)
        v = 0.9 * v + 0.3 * g.astype("float64")
        w = w - v
        _ops.sgd_update([g], [W], [V], 0.3, 0.9)
        W_list, V_list = reference.sgd_update(g.tolist(), W_list, V_list, 0.3, 0.9)
        close(W_list, w, 1e-12)
    # 10 steps, each with 4 roundings by eps / 2 of numbers below 8.
    assert np.abs(w).max() < 8
    close(W, w, 10 * 4 * 8 * eps(dtype) / 2)
