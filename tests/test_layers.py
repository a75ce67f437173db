"""The contract of layers, losses and SGD, as a script that drives them by hand sees it."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest

import fastnet as fn
from fastnet import initializers


def make_all(dtype):
    """One of each layer that maps (n, 4) to (n, 4)."""
    return [fn.Dense(4, 4, dtype=dtype), fn.ReLU(), fn.Softmax(), fn.Scale(2.0),
            fn.Residual([fn.Dense(4, 4, dtype=dtype)])]


def forward(layers, x):
    for layer in layers:
        x = layer.forward(x)
    return x


def backward(layers, dy):
    for layer in reversed(layers):
        dy = layer.backward(dy)
    return dy


def test_the_hand_driven_script_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    target = (x[:, 0] * x[:, 1] > 0).astype(int)
    layers = [fn.Dense(2, 16, rng=rng), fn.ReLU(), fn.Dense(16, 2, rng=rng)]
    loss, sgd = fn.SoftmaxCrossEntropy(), fn.SGD(lr=0.5, momentum=0.9)
    first = loss.forward(forward(layers, x), target)
    for _ in range(200):
        loss.forward(forward(layers, x), target)
        backward(layers, loss.backward())
        sgd.step(layers)
    assert loss.forward(forward(layers, x), target) < first / 5
    assert fn.accuracy(forward(layers, x), target) > 0.95


def test_outputs_and_gradients_have_the_layers_dtype(dtype):
    x = np.ones((3, 4))
    for layer in make_all(dtype):
        y = layer.forward(x.astype(dtype))
        dx = layer.backward(np.ones((3, 4)))
        assert y.dtype == dx.dtype == dtype
        for _, value, gradient in layer.parameters():
            assert value.dtype == gradient.dtype == dtype
            assert value.shape == gradient.shape


def test_default_dtype_is_float32():
    layer = fn.Dense(2, 3)
    assert layer.weight.dtype == layer.bias.dtype == layer.weight_grad.dtype == np.float32
    assert layer.forward([[1, 2]]).dtype == np.float32


def test_every_pass_returns_a_fresh_array(dtype):
    x = np.ones((3, 4), dtype)
    for layer in make_all(dtype):
        first = layer.forward(x)
        dx = layer.backward(x)
        kept, kept_dx = first.copy(), dx.copy()
        second = layer.forward(2 * x)
        second_dx = layer.backward(3 * x)
        assert not np.shares_memory(first, second) and not np.shares_memory(dx, second_dx)
        assert np.array_equal(first, kept) and np.array_equal(dx, kept_dx)


def test_out_is_written_to_and_returned(dtype):
    x = np.ones((3, 4), dtype)
    for layer in make_all(dtype):
        expected, expected_dx = layer.forward(x), layer.backward(x)
        out, dx = np.full((3, 4), np.nan, dtype), np.full((3, 4), np.nan, dtype)
        assert layer.forward(x, out=out) is out
        assert layer.backward(x, out=dx) is dx
        assert np.array_equal(out, expected) and np.array_equal(dx, expected_dx)
    pair = np.empty((3, 4), dtype), np.empty((3, 4), dtype)
    for layer in (fn.Add(), fn.Maximum()):
        assert layer.forward(x, x, out=pair[0]) is pair[0]
        found = layer.backward(x, out=pair)
        assert found[0] is pair[0] and found[1] is pair[1]


def test_weight_and_bias_can_be_read_changed_and_assigned(dtype):
    layer = fn.Dense(2, 3, dtype=dtype)
    weight, bias = layer.weight, layer.bias
    layer.weight = [[1, 2, 3], [4, 5, 6]]
    layer.bias = np.arange(3)
    assert weight is layer.weight and bias is layer.bias            # copied in, never replaced
    assert layer.forward([[1, 1]]).tolist() == [[5, 8, 11]]
    layer.weight[0, 0] = 0
    layer.bias += 1
    assert layer.forward([[1, 1]]).tolist() == [[5, 9, 12]]
    source = np.zeros((2, 3), dtype)
    layer.weight = source
    source[...] = 9
    assert not layer.weight.any()


def test_parameters_are_the_arrays_themselves(dtype):
    layer = fn.Dense(2, 3, dtype=dtype)
    (name, value, gradient), (bias_name, bias, bias_gradient) = layer.parameters()
    assert (name, bias_name) == ("weight", "bias")
    assert value is layer.weight and gradient is layer.weight_grad
    assert bias is layer.bias and bias_gradient is layer.bias_grad
    without = fn.Dense(2, 3, bias=False)
    assert [name for name, _, _ in without.parameters()] == ["weight"]
    assert without.bias is None and without.bias_grad is None
    assert sum(v.size for layer in [fn.Dense(10, 50), fn.Dense(50, 3)]
               for _, v, _ in layer.parameters()) == 703


def test_residual_names_its_inner_parameters_and_adds_its_input(dtype, rng):
    inner = fn.Dense(4, 4, dtype=dtype)
    layer = fn.Residual([inner, fn.ReLU()])
    assert [name for name, _, _ in layer.parameters()] == ["0.weight", "0.bias"]
    x, dy = rng.normal(size=(3, 4)).astype(dtype), rng.normal(size=(3, 4)).astype(dtype)
    relu, dense = fn.ReLU(), fn.Dense(4, 4, dtype=dtype)
    dense.weight, dense.bias = inner.weight, inner.bias
    assert np.array_equal(layer.forward(x), relu.forward(dense.forward(x)) + x)
    assert np.array_equal(layer.backward(dy), dense.backward(relu.backward(dy)) + dy)
    assert np.array_equal(inner.weight_grad, dense.weight_grad)


def test_backward_reads_the_input_again():
    """Documented: a change of the input between the passes shows; of a converted one it cannot."""
    layer = fn.Dense(1, 1, dtype="float64")
    x = np.array([[1.0]])
    layer.forward(x)
    x[...] = 5
    layer.backward([[1]])
    assert layer.weight_grad.tolist() == [[5]]
    whole = np.array([[1]])
    layer.forward(whole)
    whole[...] = 5
    layer.backward([[1]])
    assert layer.weight_grad.tolist() == [[1]]


def test_softmax_and_cross_entropy_by_hand_give_the_fused_gradient(dtype, rng):
    """float32 rounds p and t / p in between: 4 eps of the largest entry, 1 / n."""
    x = rng.normal(size=(6, 3)).astype(dtype)
    target = [0, 2, 1, 1, 0, 2]
    fused, softmax, by_hand = fn.SoftmaxCrossEntropy(), fn.Softmax(), fn.CrossEntropy()
    loss = fused.forward(x, target)
    eps = float(np.finfo(dtype).eps)
    assert by_hand.forward(softmax.forward(x), target) == pytest.approx(loss, rel=8 * eps)
    np.testing.assert_allclose(softmax.backward(by_hand.backward()), fused.backward(),
                               rtol=0, atol=4 * eps / 6)


def test_losses_are_python_floats_and_targets_come_in_all_forms(dtype):
    x = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])).astype(dtype)
    expected = -(np.log(0.5) + np.log(0.8)) / 2
    loss = fn.SoftmaxCrossEntropy()
    one_hot = [[1, 0, 0], [0, 1, 0]]
    for target in ([0, 1], np.array([0, 1], np.uint8), [0.0, 1.0],
                   one_hot, np.array(one_hot, bool)):
        value = loss.forward(x, target)
        assert type(value) is float
        assert value == pytest.approx(expected, rel=4 * float(np.finfo(dtype).eps))
        assert loss.backward().dtype == dtype


def test_a_layer_of_ones_own_keeps_the_contract():
    class Shift:
        """y = x + s, in plain Python."""

        def __init__(self):
            self.s, self.ds = np.zeros(3, np.float32), np.zeros(3, np.float32)

        def forward(self, x):
            return x + self.s

        def backward(self, dy):
            self.ds[...] = dy.sum(axis=0)
            return dy

        def parameters(self):
            yield "s", self.s, self.ds

    shift = Shift()
    layers = [fn.Dense(2, 3, rng=0), shift, fn.ReLU(), fn.Residual([shift_in := Shift()])]
    y = forward(layers, np.ones((4, 2)))
    backward(layers, np.ones_like(y))
    before = shift.s.copy()
    fn.SGD(lr=0.5).step(layers)
    assert np.array_equal(shift.s, before - 0.5 * shift.ds) and shift.ds.any()
    assert np.array_equal(shift_in.s, np.full(3, -2, np.float32))


def test_sgd_state_belongs_to_the_optimizer_and_lr_counts_from_the_next_step(dtype):
    layer = fn.Dense(1, 1, bias=False, weight_init="zeros", dtype=dtype)
    layer.weight_grad = [[1]]
    sgd = fn.SGD(lr=1.0, momentum=0.5)
    sgd.step([layer])
    assert layer.weight[0, 0] == -1                     # v = 1
    sgd.lr = 0.5
    sgd.step([layer])
    assert layer.weight[0, 0] == -1.75                  # v = 1.5
    fn.SGD(lr=1.0, momentum=0.5).step([layer])
    assert layer.weight[0, 0] == -2.75                  # another optimizer starts with v = 0


def test_a_step_with_other_layers_changes_those(dtype):
    """One optimizer may serve several lists in turn, also a list that has changed."""
    a, b, c = (fn.Dense(1, 1, dtype=dtype) for _ in range(3))
    sgd = fn.SGD(lr=1.0, momentum=0.5)
    for layer in (a, b, c):
        layer.weight = [[0.0]]
        layer.weight_grad = [[1.0]]
    layers = [a, b]
    sgd.step(layers)
    sgd.step([a, c])
    layers[1] = c
    sgd.step(layers)
    assert [layer.weight.item() for layer in (a, b, c)] == [-1 - 1.5 - 1.75, -1, -1 - 1.5]


def test_momentum_survives_copies_and_is_forgotten_at_zero():
    layer = fn.Dense(1, 1, bias=False, weight_init="zeros")
    layer.weight_grad = [[1]]
    sgd = fn.SGD(lr=1.0, momentum=0.5)
    sgd.step(layer)
    for copies in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        twin, twin_sgd = copies((layer, sgd))
        twin_sgd.step([twin])
        assert twin.weight[0, 0] == -2.5                # v = 1.5
        new = fn.Dense(1, 1, bias=False, weight_init="zeros")
        twin_sgd.step([new])
        assert new.weight[0, 0] == 0                    # a stranger starts with v = 0
    sgd.momentum = 0
    sgd.momentum = 0.5
    sgd.step(layer)
    assert layer.weight[0, 0] == -2                     # v = 1 again


def test_parameters_of_one_name_have_velocities_of_their_own():
    class Twice:
        def __init__(self):
            self.a, self.b = np.zeros(1, np.float32), np.zeros(1, np.float32)

        def parameters(self):
            yield "w", self.a, np.ones(1, np.float32)
            yield "w", self.b, np.ones(1, np.float32)

    layer, sgd = Twice(), fn.SGD(1.0, 0.5)
    sgd.step([layer])
    sgd.step([layer])
    assert layer.a[0] == layer.b[0] == -2.5


def test_a_shallow_copy_shares_nothing_either():
    net = fn.Sequential([fn.Dense(3, 3, activation=fn.Dropout(rng=0), rng=0), fn.LayerNorm(3),
                         fn.Dropout(rng=1), fn.Residual([fn.Dense(3, 3, rng=2)])])
    x = np.ones((5, 3), np.float32)
    before, own = net.predict(x), [copy.copy(layer) for layer in net.layers]
    other = fn.Sequential(own)
    expected = copy.deepcopy(net).forward(x)
    assert np.array_equal(other.forward(x), expected)
    for layer in own:
        layer.trainable = False
    other.load_state_dict({name: value + 1 for name, value in other.state_dict().items()})
    assert all(layer.trainable for layer in net.layers)
    assert np.array_equal(net.predict(x), before) and np.array_equal(net.forward(x), expected)
    net.load_state_dict({name: value + 1 for name, value in net.state_dict().items()})


def test_layers_that_compare_equal_or_are_unhashable_have_velocities_of_their_own():
    @dataclasses.dataclass              # equal by its fields, and so without a hash
    class Scaled:
        name: str = "scaled"

        def __post_init__(self):
            self.w = np.zeros(1, np.float32)

        def parameters(self):
            yield "w", self.w, np.ones(1, np.float32)

    a, b, sgd = Scaled(), Scaled(), fn.SGD(1.0, 0.5)
    assert a == b
    sgd.step([a])
    sgd.step([a, b])
    assert (a.w[0], b.w[0]) == (-2.5, -1)
    (a, b), sgd = copy.deepcopy(((a, b), sgd))
    sgd.step([a, b])
    assert (a.w[0], b.w[0]) == (-4.25, -2.5)


def test_copies_carry_parameters_but_no_data():
    layer, loss = fn.Dense(3, 2, rng=0), fn.MeanSquaredError()
    residual = fn.Residual([fn.Dense(3, 3)])
    x = np.ones((10000, 3), np.float32)
    loss.forward(layer.forward(residual.forward(x)), np.ones((10000, 2)))
    for original in (layer, residual, loss):
        packed = pickle.dumps(original)
        assert len(packed) < 2000
        with pytest.raises(RuntimeError, match="needs a forward"):
            pickle.loads(packed).backward(*([] if original is loss else [x]))
    assert np.array_equal(pickle.loads(pickle.dumps(layer)).weight, layer.weight)


def test_dtypes_in_other_byte_orders_stay_what_they_are():
    for name in ("float32", "float64"):
        x = np.ones((1, 2), np.dtype(name).newbyteorder())
        assert fn.ReLU().forward(x).dtype == fn.Softmax().forward(x).dtype == np.dtype(name)
    assert fn.ReLU().forward(np.ones(2, np.float16)).dtype == np.float32
    assert fn.ReLU().forward([1, 2]).dtype == np.float64


def test_sgd_with_nesterov_looks_ahead(dtype):
    layer = fn.Dense(1, 1, bias=False, weight_init="zeros", dtype=dtype)
    layer.weight_grad = [[1]]
    sgd = fn.SGD(lr=1.0, momentum=0.5, nesterov=True)
    sgd.step([layer])
    assert layer.weight[0, 0] == -1.5                   # g + 0.5 v,  v = 1
    sgd.step([layer])
    assert layer.weight[0, 0] == -3.25                  # g + 0.5 v,  v = 1.5


def test_initial_values_come_from_the_given_seed_or_generator():
    by_seed = fn.Dense(5, 4, rng=3).weight
    assert np.array_equal(by_seed, fn.Dense(5, 4, rng=3).weight)
    assert np.array_equal(by_seed, fn.Dense(5, 4, rng=np.random.default_rng(3)).weight)
    assert not np.array_equal(fn.Dense(5, 4).weight, fn.Dense(5, 4).weight)
    generator = np.random.default_rng(3)
    first = fn.Dense(5, 4, rng=generator).weight
    assert not np.array_equal(first, fn.Dense(5, 4, rng=generator).weight)


def test_the_global_random_state_is_neither_read_nor_changed():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    fn.Dense(5, 4), fn.Dense(5, 4, rng=1, weight_init="he_normal")
    assert np.array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("name, variance", [
    ("he_normal", 2 / 200), ("he_uniform", 2 / 200),
    ("glorot_normal", 2 / 500), ("glorot_uniform", 2 / 500), ("uniform", 0.1**2 / 12)])
def test_initializers_have_the_stated_variance(name, variance):
    """60000 draws: the sample variance strays by about 0.6 % (normal), so 3 % is 5 sigma."""
    w = fn.Dense(200, 300, weight_init=name, dtype="float64", rng=0).weight
    assert np.var(w) == pytest.approx(variance, rel=0.03)
    assert abs(w.mean()) < 5 * np.sqrt(variance / w.size)
    if name.endswith("uniform"):
        assert np.abs(w).max() <= np.sqrt(3 * variance) * (1 + 1e-12)


def test_constant_initializers():
    layer = fn.Dense(2, 2, weight_init=initializers.Constant(0.5), bias_init="zeros")
    assert (layer.weight == 0.5).all() and not layer.bias.any()
    uniform = fn.Dense(50, 50, weight_init=initializers.Uniform(0, 0.1), rng=0).weight
    assert 0 <= uniform.min() < 0.01 and 0.09 < uniform.max() <= 0.1


def test_representations_tell_the_layer():
    layers = [fn.Dense(2, 3), fn.Dense(2, 3, bias=False, dtype="float64"), fn.ReLU(), fn.Scale(3.0),
              fn.Residual([fn.ReLU()]), fn.SoftmaxCrossEntropy(), fn.SGD(0.1, 0.9, True)]
    assert [repr(layer) for layer in layers] == [
        "Dense(2, 3)", 'Dense(2, 3, bias=False, dtype="float64")', "ReLU()", "Scale(3.0)",
        "Residual([ReLU()])", "SoftmaxCrossEntropy()",
        "SGD(lr=0.1, momentum=0.9, nesterov=True)"]
