"""An independent library: PyTorch in float64, when it is installed."""

import numpy as np
import pytest

import fastnet as fn

torch = pytest.importorskip("torch")

# Both sides compute in float64 and differ by the order of their sums: 1e-10 is far above that
# and far below any real mistake.
TOLERANCE = {"rtol": 0, "atol": 1e-10}


def network(rng):
    layers = [fn.Dense(7, 13, dtype="float64", rng=rng), fn.ReLU(),
              fn.Residual([fn.Dense(13, 13, dtype="float64", rng=rng), fn.ReLU()]),
              fn.Dense(13, 4, dtype="float64", rng=rng)]
    for layer in layers:
        for name, value, _ in layer.parameters():
            if name.endswith("bias"):
                value[...] = rng.normal(size=value.shape)
    return layers


def torch_copy(layers):
    """The parameters as leaves of a torch graph, in the order of `layers`."""
    return [torch.tensor(value, requires_grad=True)
            for layer in layers for _, value, _ in layer.parameters()]


def torch_forward(parameters, x):
    W1, b1, W2, b2, W3, b3 = parameters
    h = torch.relu(x @ W1 + b1)
    h = torch.relu(h @ W2 + b2) + h
    return h @ W3 + b3


def run(layers, x, loss, target):
    y = x
    for layer in layers:
        y = layer.forward(y)
    value = loss.forward(y, target)
    dy = loss.backward()
    for layer in reversed(layers):
        dy = layer.backward(dy)
    return y, value, dy


def soft_rows(rng, n, k):
    return rng.dirichlet(np.ones(k), n)


CASES = {
    "labels": (fn.SoftmaxCrossEntropy, lambda rng: rng.integers(4, size=23),
               torch.nn.functional.cross_entropy),
    "soft": (fn.SoftmaxCrossEntropy, lambda rng: soft_rows(rng, 23, 4),
             torch.nn.functional.cross_entropy),
    "squares": (fn.MeanSquaredError, lambda rng: rng.normal(size=(23, 4)),
                torch.nn.functional.mse_loss),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_losses_and_all_gradients(case, rng):
    loss_class, make_target, torch_loss = CASES[case]
    layers, x, target = network(rng), rng.normal(size=(23, 7)), make_target(rng)
    parameters, leaf = torch_copy(layers), torch.tensor(x, requires_grad=True)

    y, value, dx = run(layers, x, loss_class(), target)
    expected = torch_forward(parameters, leaf)
    expected_loss = torch_loss(expected, torch.tensor(target))
    expected_loss.backward()

    np.testing.assert_allclose(y, expected.detach().numpy(), **TOLERANCE)
    assert value == pytest.approx(expected_loss.item(), abs=1e-10)
    np.testing.assert_allclose(dx, leaf.grad.numpy(), **TOLERANCE)
    gradients = [g for layer in layers for _, _, g in layer.parameters()]
    for gradient, parameter in zip(gradients, parameters, strict=True):
        np.testing.assert_allclose(gradient, parameter.grad.numpy(), **TOLERANCE)


def test_softmax_layer_with_cross_entropy_on_probabilities(rng):
    x, target = rng.normal(size=(9, 5)), rng.integers(5, size=9)
    softmax, loss = fn.Softmax(), fn.CrossEntropy()
    leaf = torch.tensor(x, requires_grad=True)
    p = torch.softmax(leaf, dim=1)
    expected = torch.nn.functional.nll_loss(torch.log(p), torch.tensor(target))
    expected.backward()
    assert loss.forward(softmax.forward(x), target) == pytest.approx(expected.item(), abs=1e-10)
    np.testing.assert_allclose(softmax.backward(loss.backward()), leaf.grad.numpy(), **TOLERANCE)


@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_ten_steps_of_sgd(momentum, nesterov, rng):
    layers, x, target = network(rng), rng.normal(size=(23, 7)), rng.integers(4, size=23)
    parameters = torch_copy(layers)
    sgd = fn.SGD(lr=0.1, momentum=momentum, nesterov=nesterov)
    torch_sgd = torch.optim.SGD(parameters, lr=0.1, momentum=momentum, nesterov=nesterov)
    for step in range(10):
        if step == 5:                                   # the learning rate changes on the way
            sgd.lr = torch_sgd.param_groups[0]["lr"] = 0.02
        run(layers, x, fn.SoftmaxCrossEntropy(), target)
        sgd.step(layers)
        torch_sgd.zero_grad()
        torch.nn.functional.cross_entropy(
            torch_forward(parameters, torch.tensor(x)), torch.tensor(target)).backward()
        torch_sgd.step()
    values = [v for layer in layers for _, v, _ in layer.parameters()]
    for value, parameter in zip(values, parameters, strict=True):
        np.testing.assert_allclose(value, parameter.detach().numpy(), **TOLERANCE)


def test_relu_at_zero_and_at_nan():
    x = np.array([[0.0, -0.0, 1.0, -1.0, np.nan]])
    relu, leaf = fn.ReLU(), torch.tensor(x, requires_grad=True)
    expected = torch.relu(leaf)
    expected.backward(torch.ones_like(leaf))
    np.testing.assert_array_equal(relu.forward(x), expected.detach().numpy())
    np.testing.assert_array_equal(relu.backward(np.ones_like(x)), leaf.grad.numpy())
