"""Networks of drawn layers, losses, optimizers and batches.

The engine against layers called one by one, against the formulas in pure Python and (in
test_against_torch.py) against PyTorch, and backward against central differences.
`--hypothesis-show-statistics` shows how many were tried.
"""

import copy

import numpy as np
import pytest

import fastnet as fn
from fastnet import reference

hypothesis = pytest.importorskip("hypothesis")
from drawn_networks import ANY, SMOOTH, losses, networks, optimizers, tried  # noqa: E402

given, some = hypothesis.given, hypothesis.strategies


def bits(layers):
    return [value.tobytes() for layer in layers for _, value, _ in layer.parameters()]


@tried(150)
@given(networks(ANY, ["float32", "float64"]), some.data())
def test_a_network_trains_and_predicts_with_the_bits_of_its_layers(network, data):
    layers, dtype, n_in, n_out = network
    end = data.draw(some.sampled_from([None, None, fn.Softmax, fn.LogSoftmax]))
    layers += [end()] if end else []
    (loss, target_of), optimizer = data.draw(losses(n_out, end)), data.draw(optimizers())
    twins, of_twins = copy.deepcopy((layers, (loss, optimizer)))
    net = fn.Sequential(layers)
    net.compile(optimizer, loss)
    rng = np.random.default_rng(data.draw(some.integers(0, 2**32 - 1)))
    for n in data.draw(some.lists(some.integers(1, 256), min_size=1, max_size=4)):
        x, target = rng.normal(size=(n, n_in)).astype(dtype), target_of(rng, n)
        weighs = end is not fn.Softmax and data.draw(some.booleans())
        weights = [rng.uniform(0, 2, n)] if weighs else []
        values, y = x, None
        for layer in twins:
            values = layer.forward(values)
        value = of_twins[0].forward(values, target, *weights)
        dy = of_twins[0].backward()
        for layer in reversed(twins):
            dy = layer.backward(dy)
        of_twins[1].step(twins)
        try:
            assert net.train_step(x, target, *weights) == value
        except FloatingPointError:      # exponentials of Poisson's, after much dropout
            hypothesis.assume(np.isfinite(value) and np.isfinite(
                np.concatenate([p.ravel() for t in twins for _, p, _ in t.parameters()])).all())
            raise
        assert bits(layers) == bits(twins)
        y = x
        for layer in twins:
            y = layer.predict(y)
        assert net.predict(x).tobytes() == np.asarray(y).tobytes()


@tried(25, derandomize=True)
@given(networks(ANY, ["float32", "float64"], widest=40), some.data())
def test_an_epoch_in_one_call_has_the_bits_of_its_steps(network, data):
    """Batches in blocks, too, and a last one whose blocks are larger than those of the others."""
    layers, dtype, n_in, n_out = network
    (loss, target_of), optimizer = data.draw(losses(n_out)), data.draw(optimizers())
    batch, n = data.draw(some.integers(200, 800)), data.draw(some.integers(1, 1600))
    rng = np.random.default_rng(data.draw(some.integers(0, 2**32 - 1)))
    x, target = rng.normal(size=(n, n_in)).astype(dtype), target_of(rng, n)
    net = fn.Sequential(layers)
    net.compile(optimizer, loss)
    twin = copy.deepcopy(net)
    try:
        for first in range(0, n, batch):
            twin.train_step(x[first:first + batch], target[first:first + batch])
    except FloatingPointError:
        hypothesis.assume(False)
    net.fit(x, target, batch, shuffle=False, verbose=0)
    assert bits([net]) == bits([twin])
    net.fit(x, target, batch, rng=0, verbose=0)
    order = np.random.default_rng(0).permutation(n)
    twin.fit(x[order], target[order], batch, shuffle=False, verbose=0)
    assert bits([net]) == bits([twin])


@pytest.mark.parametrize("width", [30, 300])
@pytest.mark.parametrize("n_out", [1, 9])
def test_dropout_at_the_end_does_nothing_in_prediction(n_out, width, dtype):
    """Beside wider layers, whose values lie in the same memory; several numbers of rows."""
    x = np.random.default_rng(0).normal(size=(256, 233)).astype(dtype)
    layers = [fn.Dense(233, width, dtype=dtype, rng=0), fn.Tanh(),
              fn.Dense(width, n_out, dtype=dtype, rng=1)]
    net = fn.Sequential([*copy.deepcopy(layers), fn.Dropout(0.3)])
    for n in (1, 5, 40, 107, 256):
        y = x[:n]
        for layer in layers:
            y = layer.predict(y)
        for model in (net, net.frozen()):
            np.testing.assert_allclose(model.predict(x[:n]), y, rtol=0, atol=1e-4)


# ---- Layouts -----------------------------------------------------------------------------------

def unaligned(x):
    memory = np.empty(x.nbytes + 1, np.uint8)
    found = memory[1:].view(x.dtype).reshape(x.shape)
    found[...] = x
    return found


def read_only(x):
    found = x.copy()
    found.flags.writeable = False
    return found


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "some columns": lambda x: np.hstack([x, x])[:, :x.shape[1]],
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "every third row": lambda x: np.repeat(x, 3, axis=0)[::3],
    "unaligned": unaligned,
    "read-only": read_only,
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "one row again and again": lambda x: np.broadcast_to(x[0], x.shape),
}


@tried(100)
@given(networks(ANY, ["float32", "float64"]), some.sampled_from(sorted(LAYOUTS)), some.data())
def test_any_layout_gives_the_bits_of_a_plain_copy(network, layout, data):
    layers, dtype, n_in, n_out = network
    (loss, target_of), optimizer = data.draw(losses(n_out)), data.draw(optimizers())
    twins = copy.deepcopy((layers, loss, optimizer))
    net, twin = fn.Sequential(layers), fn.Sequential(twins[0])
    net.compile(optimizer, loss)
    twin.compile(twins[2], twins[1])
    n, size = data.draw(some.integers(1, 200)), data.draw(some.integers(1, 64))
    rng = np.random.default_rng(data.draw(some.integers(0, 2**32 - 1)))
    x = LAYOUTS[layout](rng.normal(size=(n, n_in)).astype(dtype))
    target = target_of(rng, n)
    if target.ndim == 2:
        target = LAYOUTS[data.draw(some.sampled_from(sorted(LAYOUTS)))](target)
    plain, plain_target = (np.array(a, a.dtype.newbyteorder("="), order="C") for a in (x, target))
    assert plain.strides == (n_in * plain.itemsize, plain.itemsize) and plain.flags.aligned

    def all_of(net, x, target):
        try:
            return (net.predict(x).tobytes(), net.train_step(x, target),
                    net.fit(x, target, batch_size=size, verbose=0, rng=3).loss,
                    net.evaluate(x, target).loss, net.frozen().predict(x).tobytes())
        except FloatingPointError as error:     # exponentials of Poisson's, after much dropout
            return str(error)

    assert repr(all_of(net, x, target)) == repr(all_of(twin, plain, plain_target))
    assert bits(layers) == bits(twins[0])


# ---- Derivatives -------------------------------------------------------------------------------

@tried(25, derandomize=True)
@given(networks(SMOOTH, ["float64"], rough=False), some.data())
def test_backward_of_a_network_is_its_derivative(network, data):
    layers, _, n_in, _ = network
    rng = np.random.default_rng(data.draw(some.integers(0, 2**32 - 1)))
    x = rng.normal(size=(data.draw(some.integers(1, 5)), n_in))
    network = fn.Sequential(layers)
    for step in (1e-6, 1e-5, 1e-7, 1e-4):   # where it is steep small ones are needed, else larger
        report = fn.check_gradients(network, x, step=step)
        if report:
            break
    assert report, report


# ---- Against the formulas ----------------------------------------------------------------------

def in_reference(layer, x):
    """What a layer gives in prediction, by the pure Python of `fastnet.reference`."""
    if isinstance(layer, fn.Dense):
        bias = None if layer.bias is None else layer.bias.tolist()
        y = reference.dense_forward(x, layer.weight.tolist(), bias)
        return y if layer.activation is None else in_reference(layer.activation, y)
    if isinstance(layer, (fn.Residual, fn.Sequential)):
        y = x
        for inner in layer.layers:
            y = in_reference(inner, y)
        return reference.add_forward(x, y) if isinstance(layer, fn.Residual) else y
    if isinstance(layer, fn.LayerNorm):
        weight, bias = (None if p is None else p.tolist() for p in (layer.weight, layer.bias))
        return reference.layer_norm_forward(x, weight, bias, layer.eps)
    if isinstance(layer, (fn.Dropout, fn.Flatten, fn.Identity)):
        return x
    if isinstance(layer, fn.Scale):
        return reference.scale_forward(x, layer.factor)
    if isinstance(layer, (fn.ReLU, fn.Softmax, fn.LogSoftmax)):
        return {fn.ReLU: reference.relu_forward, fn.Softmax: reference.softmax_forward,
                fn.LogSoftmax: reference.log_softmax_forward}[type(layer)](x)
    return reference.activation_forward(x, layer.kind, layer.alpha)


@tried(40)
@given(networks(ANY, ["float64"], widest=200), some.data())     # pure Python takes its time
def test_a_network_predicts_what_the_formulas_say(network, data):
    layers, dtype, n_in, _ = network
    net = fn.Sequential(layers)
    rng = np.random.default_rng(data.draw(some.integers(0, 2**32 - 1)))
    x = rng.normal(size=(data.draw(some.integers(1, 3)), n_in))
    y = x.tolist()
    for layer in layers:
        y = in_reference(layer, y)
    scale = 1 + np.abs(y).max()         # a LayerNorm of nearly equal entries enlarges rounding
    for model in (net, net.frozen()):
        np.testing.assert_allclose(model.predict(x), y, rtol=0, atol=1e-7 * scale)
