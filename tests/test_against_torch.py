"""An independent library: PyTorch in float64, when it is installed."""

import copy
import itertools

import numpy as np
import pytest

import fastnet as fn

torch = pytest.importorskip("torch")
torch.set_num_threads(1)        # its second one waits for long where a core is busy
hypothesis = pytest.importorskip("hypothesis")
from drawn_networks import ANY, KINDS, networks, tried  # noqa: E402

given, some = hypothesis.given, hypothesis.strategies

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


# A layer, and what it is in torch. Weights of a LayerNorm are drawn and copied.
MODULES = {
    "LeakyReLU": (lambda: fn.LeakyReLU(0.3), lambda: torch.nn.LeakyReLU(0.3)),
    "ELU": (lambda: fn.ELU(1.7), lambda: torch.nn.ELU(1.7)),
    "Sigmoid": (fn.Sigmoid, torch.nn.Sigmoid),
    "Tanh": (fn.Tanh, torch.nn.Tanh),
    "GELU": (fn.GELU, torch.nn.GELU),
    "GELU by tanh": (lambda: fn.GELU("tanh"), lambda: torch.nn.GELU(approximate="tanh")),
    "SiLU": (fn.SiLU, torch.nn.SiLU),
    "LogSoftmax": (fn.LogSoftmax, lambda: torch.nn.LogSoftmax(dim=1)),
    "LayerNorm": (lambda: fn.LayerNorm(13, dtype="float64"),
                  lambda: torch.nn.LayerNorm(13, dtype=torch.float64)),
    "LayerNorm with another eps": (lambda: fn.LayerNorm(13, 0.1, dtype="float64"),
                                   lambda: torch.nn.LayerNorm(13, 0.1, dtype=torch.float64)),
    "LayerNorm without bias": (
        lambda: fn.LayerNorm(13, bias=False, dtype="float64"),
        lambda: torch.nn.LayerNorm(13, bias=False, dtype=torch.float64)),
    "LayerNorm without weights": (
        lambda: fn.LayerNorm(13, affine=False, dtype="float64"),
        lambda: torch.nn.LayerNorm(13, elementwise_affine=False, dtype=torch.float64)),
}


@pytest.mark.parametrize("scale", [1, 8])
@pytest.mark.parametrize("name", MODULES)
def test_modules_values_and_gradients(name, scale, rng):
    """Values of up to 30; where PyTorch's GELU has a relative error, the absolute one is small."""
    layer, module = (make() for make in MODULES[name])
    for (key, value, _), parameter in zip(layer.parameters(), module.parameters(), strict=True):
        value[...] = rng.normal(size=value.shape)
        assert getattr(module, key) is parameter
        parameter.data = torch.tensor(value)
    x, dy = scale * rng.normal(size=(23, 13)), rng.normal(size=(23, 13))
    leaf = torch.tensor(x, requires_grad=True)
    expected = module(leaf)
    expected.backward(torch.tensor(dy))
    close = {"rtol": 0, "atol": 1e-9}
    np.testing.assert_allclose(layer.forward(x), expected.detach().numpy(), **close)
    np.testing.assert_allclose(layer.backward(dy), leaf.grad.numpy(), **close)
    for (_, _, gradient), parameter in zip(layer.parameters(), module.parameters(), strict=True):
        np.testing.assert_allclose(gradient, parameter.grad.numpy(), **close)


@pytest.mark.parametrize("name", [
    name for name in MODULES if not name.startswith(("LayerNorm", "LogSoftmax"))])
def test_modules_at_special_values(name):
    """Without infinity: PyTorch multiplies it by 0 in some of them, where the limit is 0."""
    layer, module = (make() for make in MODULES[name])
    x = np.array([[0.0, -0.0, 50.0, -50.0, 1e300, -1e300, np.nan]])
    expected = module(torch.tensor(x))
    np.testing.assert_allclose(layer.forward(x), expected.numpy(), rtol=1e-15, atol=1e-20)


def test_relu_at_zero_and_at_nan():
    x = np.array([[0.0, -0.0, 1.0, -1.0, np.nan]])
    relu, leaf = fn.ReLU(), torch.tensor(x, requires_grad=True)
    expected = torch.relu(leaf)
    expected.backward(torch.ones_like(leaf))
    np.testing.assert_array_equal(relu.forward(x), expected.detach().numpy())
    np.testing.assert_array_equal(relu.backward(np.ones_like(x)), leaf.grad.numpy())


# ---- Losses ----------------------------------------------------------------------------------

functions = torch.nn.functional
REDUCTIONS = ("mean", "sum", "none")
# Rows and columns: narrow ones go by columns, wide ones and few ones by rows.
SHAPES = [(1, 1), (1, 4), (3, 5), (20, 10), (40, 3), (7, 50), (300, 2)]


def assert_loss_like_torchs(loss, expected_loss, rng, y, target, **more):
    """Value and gradient are those of `expected_loss(scores)`, a function of a tensor."""
    value = loss.forward(y, target, **more)
    leaf = torch.tensor(y, requires_grad=True)
    expected = expected_loss(leaf)
    if loss.reduction == "none":
        weights = rng.normal(size=np.shape(value))
        found = loss.backward(weights)
        expected.backward(torch.tensor(weights))
    else:
        assert type(value) is float
        found = loss.backward()
        expected.backward()
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-9, atol=1e-11)


def reduced(losses, weights, reduction, total):
    """Weighted losses of rows or entries, as PyTorch cannot reduce them itself."""
    losses = losses * weights
    return losses if reduction == "none" else losses.sum() / (total if reduction == "mean" else 1)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("n, k", SHAPES)
def test_losses_of_labels_with_every_option(n, k, reduction, rng):
    x = 4 * rng.normal(size=(n, k))
    logp = np.log(rng.dirichlet(np.ones(k), n)) if k > 1 else np.full((n, 1), -0.5)
    for weighs, ignored, smoothing in itertools.product(
            (False, True), (None, -100, 0), (0.0, 0.2, 1.0)):
        labels = rng.integers(k, size=n)
        if ignored is not None:
            labels[rng.integers(n, size=n // 3)] = ignored
            if (labels == ignored).all():
                continue                        # where PyTorch's mean is 0 / 0
        weight = rng.uniform(0.1, 2, k) if weighs else None
        theirs = {"weight": torch.tensor(weight) if weighs else None, "reduction": reduction,
                  "ignore_index": -100 if ignored is None else ignored}
        target = torch.tensor(labels)
        assert_loss_like_torchs(
            fn.SoftmaxCrossEntropy(
                reduction, weight=weight, ignore_index=ignored, label_smoothing=smoothing),
            lambda leaf, target=target, options={**theirs, "label_smoothing": smoothing}:
                functions.cross_entropy(leaf, target, **options), rng, x, labels)
        if smoothing == 0:
            assert_loss_like_torchs(
                fn.NegativeLogLikelihood(reduction, weight=weight, ignore_index=ignored),
                lambda leaf, target=target, theirs=theirs:
                    functions.nll_loss(leaf, target, **theirs), rng, logp, labels)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("n, k", SHAPES)
def test_losses_of_soft_rows_with_every_option(n, k, reduction, rng):
    x, rows = 4 * rng.normal(size=(n, k)), soft_rows(rng, n, k)
    for weighs, smoothing in itertools.product((False, True), (0.0, 0.2, 1.0)):
        weight = rng.uniform(0.1, 2, k) if weighs else None
        theirs = {"weight": torch.tensor(weight) if weighs else None, "reduction": reduction,
                  "label_smoothing": smoothing}
        assert_loss_like_torchs(
            fn.SoftmaxCrossEntropy(reduction, weight=weight, label_smoothing=smoothing),
            lambda leaf, theirs=theirs:
                functions.cross_entropy(leaf, torch.tensor(rows), **theirs), rng, x, rows)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("n, k", SHAPES)
def test_losses_over_classes_with_weights_of_samples(n, k, reduction, rng):
    """The mean divides by the weights of samples times those of their labels."""
    x, labels = 4 * rng.normal(size=(n, k)), rng.integers(k, size=n)
    samples, classes = rng.uniform(0.1, 2, n), rng.uniform(0.1, 2, k)
    for weight, smoothing in itertools.product((None, classes), (0.0, 0.2)):
        total = (samples * (1 if weight is None else classes[labels])).sum()
        theirs = {"reduction": "none", "weight": None if weight is None else torch.tensor(weight)}
        assert_loss_like_torchs(
            fn.SoftmaxCrossEntropy(reduction, weight=weight, label_smoothing=smoothing),
            lambda leaf, total=total, theirs={**theirs, "label_smoothing": smoothing}: reduced(
                functions.cross_entropy(leaf, torch.tensor(labels), **theirs),
                torch.tensor(samples), reduction, total), rng, x, labels, sample_weight=samples)
        if smoothing == 0:
            assert_loss_like_torchs(
                fn.NegativeLogLikelihood(reduction, weight=weight),
                lambda leaf, total=total, theirs=theirs: reduced(
                    functions.nll_loss(leaf, torch.tensor(labels), **theirs),
                    torch.tensor(samples), reduction, total), rng, x, labels,
                sample_weight=samples)


@pytest.mark.parametrize("weighs", [False, True], ids=["", "sample_weight"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("n, k", SHAPES)
def test_losses_of_entries_with_every_option(n, k, reduction, weighs, rng):
    x, shares = 4 * rng.normal(size=(n, k)), rng.uniform(size=(n, k))
    positive, counts = rng.uniform(0.1, 3, k), rng.poisson(2, size=(n, k)).astype(float)
    numbers = 4 * rng.normal(size=(n, k))
    samples = rng.uniform(0.1, 2, n)
    binary = functions.binary_cross_entropy_with_logits
    cases = [
        (fn.BinaryCrossEntropy(reduction), binary, shares, {}),
        (fn.BinaryCrossEntropy(reduction), binary, np.rint(shares), {}),
        (fn.BinaryCrossEntropy(reduction, pos_weight=positive), binary, shares,
         {"pos_weight": torch.tensor(positive)}),
        (fn.MeanSquaredError(reduction), functions.mse_loss, numbers, {}),
        (fn.Huber(reduction), functions.huber_loss, numbers, {}),
        (fn.Huber(reduction, delta=0.3), functions.huber_loss, numbers, {"delta": 0.3}),
        (fn.Huber(reduction, delta=50), functions.huber_loss, numbers, {"delta": 50}),
        (fn.Poisson(reduction), functions.poisson_nll_loss, counts, {})]
    for loss, function, target, theirs in cases:
        def expected(leaf, function=function, target=target, theirs=theirs):
            goal = torch.tensor(target)
            if not weighs:
                return function(leaf, goal, reduction=reduction, **theirs)
            return reduced(function(leaf, goal, reduction="none", **theirs),
                           torch.tensor(samples)[:, None], reduction, samples.sum() * k)

        more = {"sample_weight": samples} if weighs else {}
        assert_loss_like_torchs(loss, expected, rng, x, target, **more)


# ---- Optimizers ------------------------------------------------------------------------------

# Each with its options and PyTorch's. Clipping and decay_vectors are common to all.
OPTIMIZERS = {
    "SGD": [(fn.SGD, {}, torch.optim.SGD, {}),
            (fn.SGD, {"momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
            (fn.SGD, {"momentum": 0.9, "nesterov": True},
             torch.optim.SGD, {"momentum": 0.9, "nesterov": True})],
    "Adam": [(fn.Adam, {}, torch.optim.Adam, {}),
             (fn.Adam, {"betas": (0.8, 0.99), "eps": 1e-4},
              torch.optim.Adam, {"betas": (0.8, 0.99), "eps": 1e-4}),
             (fn.Adam, {"betas": (0.0, 0.5)}, torch.optim.Adam, {"betas": (0.0, 0.5)})],
    "AdamW": [(fn.AdamW, {}, torch.optim.AdamW, {}),
              (fn.AdamW, {"betas": (0.8, 0.99), "eps": 1e-4},
               torch.optim.AdamW, {"betas": (0.8, 0.99), "eps": 1e-4})],
    "RMSprop": [(fn.RMSprop, options, torch.optim.RMSprop, options) for options in (
        {}, {"momentum": 0.9}, {"centered": True}, {"momentum": 0.8, "centered": True},
        {"alpha": 0.9, "eps": 1e-4})],
}
COMMON = {
    "": {}, "decay": {"weight_decay": 0.1}, "decay of matrices":
        {"weight_decay": 0.3, "decay_vectors": False},
    "clipped norm": {"clip_norm": 0.05}, "clipped entries": {"clip_value": 0.01},
    "all": {"weight_decay": 0.05, "decay_vectors": False, "clip_norm": 0.5, "clip_value": 0.02},
}


def torch_groups(parameters, weight_decay=None, decay_vectors=True, **clips):
    """PyTorch's way to say what decays."""
    if weight_decay is None:
        return [{"params": parameters}]
    return [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim < 2],
             "weight_decay": weight_decay if decay_vectors else 0}]


def large_network(rng):
    """The inner layer is updated together with its gradient."""
    layers = [fn.Dense(6, 200, dtype="float64", rng=rng), fn.Tanh(),
              fn.Dense(200, 200, dtype="float64", rng=rng), fn.Tanh(),
              fn.Dense(200, 4, dtype="float64", rng=rng)]
    for layer in layers:
        for name, value, _ in layer.parameters():
            if name == "bias":
                value[...] = rng.normal(size=value.shape)
    return layers


def large_torch_forward(parameters, x):
    W1, b1, W2, b2, W3, b3 = parameters
    return torch.tanh(torch.tanh(x @ W1 + b1) @ W2 + b2) @ W3 + b3


@pytest.mark.parametrize("n", [1, 20, 300])
@pytest.mark.parametrize("common", COMMON)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_of_every_optimizer_with_a_rate_that_changes(name, common, n, rng):
    """By hand and by the network; batches of 300 rows are taken in blocks.

    RMSprop's first steps are 10 times the rate in each of 40000 weights: with more than a small
    rate, what differs by rounding is soon far apart.
    """
    lr = 0.0005 if name == "RMSprop" else 0.01
    for make, options, torch_make, torch_options in OPTIMIZERS[name]:
        options = {"lr": lr, **options, **COMMON[common]}
        layers = large_network(rng)
        parameters, twins = torch_copy(layers), copy.deepcopy(layers)
        net, optimizer, by_hand = fn.Sequential(layers), make(**options), make(**options)
        net.compile(optimizer)
        theirs = torch_make(torch_groups(parameters, **COMMON[common]), lr=lr, **torch_options)
        for step in range(20):
            if step == 10:
                optimizer.lr = by_hand.lr = lr / 3
                for group in theirs.param_groups:
                    group["lr"] = lr / 3
            x, target = rng.normal(size=(n, 6)), rng.integers(4, size=n)
            value = net.train_step(x, target)
            run(twins, x, fn.SoftmaxCrossEntropy(), target)
            by_hand.step(twins)
            theirs.zero_grad()
            expected = functions.cross_entropy(
                large_torch_forward(parameters, torch.tensor(x)), torch.tensor(target))
            expected.backward()
            if "clip_norm" in options:
                torch.nn.utils.clip_grad_norm_(parameters, options["clip_norm"])
            if "clip_value" in options:
                torch.nn.utils.clip_grad_value_(parameters, options["clip_value"])
            theirs.step()
            assert value == pytest.approx(expected.item(), abs=1e-9)
        for chain in (net.layers, twins):
            values = [v for layer in chain for _, v, _ in layer.parameters()]
            for value, parameter in zip(values, parameters, strict=True):
                np.testing.assert_allclose(value, parameter.detach().numpy(), rtol=0, atol=1e-9)


# ---- Drawn networks ----------------------------------------------------------------------------

IN_TORCH = [kind for kind in KINDS if kind not in ("residual", "scale", "drop")]
SINGLE = {name: make for name, make in ANY.items() if name != "log_softmax"}


@tried(80)
@given(networks(SINGLE, ["float64"], rough=False, kinds=IN_TORCH), some.data())
def test_a_network_is_pytorchs(network, data):
    """Scores, loss and the gradients of all parameters, in float64."""
    layers, dtype, n_in, n_out = network
    net = fn.Sequential(layers)
    net.compile(fn.SGD(0.0), keep_gradients=True)
    rng = np.random.default_rng(data.draw(some.integers(0, 2**32 - 1)))
    n = data.draw(some.integers(1, 60))
    x, labels = rng.normal(size=(n, n_in)).astype(dtype), rng.integers(n_out, size=n)
    module = net.to_torch()
    scores = module(torch.tensor(x))
    loss = torch.nn.functional.cross_entropy(scores, torch.tensor(labels))
    loss.backward()
    close = 1e-6                            # a LayerNorm of nearly equal entries is steep
    expected = scores.detach().numpy()
    assert np.abs(net.predict(x) - expected).max() <= close * (1 + np.abs(expected).max())
    assert net.train_step(x, labels) == pytest.approx(float(loss.detach()), rel=close, abs=close)
    theirs = [p.grad for p in module.parameters()]
    ours = [gradient for _, _, gradient in net.parameters()]
    assert len(theirs) == len(ours)
    for gradient, other in zip(ours, theirs, strict=True):
        if other is not None:                           # frozen there, and of no interest here
            other = other.numpy().reshape(gradient.T.shape).T
            assert np.abs(gradient - other).max() <= close * (1 + np.abs(other).max())
