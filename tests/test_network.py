"""`Sequential` as its user sees it: building, training, measuring, predicting, copies, mistakes.

What its engine computes is tested in `test_engine.py`. Numbers in names are those of the list of
bad inputs that the project keeps.
"""

import contextlib
import copy
import gc
import pickle
import signal
import sys
import threading

import numpy as np
import pytest

import fastnet as fn


class Shift:
    """A layer of one's own, in plain Python: y = x + s."""

    def __init__(self, width, dtype=np.float32):
        self.s, self.ds = np.zeros(width, dtype), np.zeros(width, dtype)

    def forward(self, x):
        return x + self.s

    def backward(self, dy):
        self.ds[...] = dy.sum(axis=0)
        return dy

    def parameters(self):
        return (("s", self.s, self.ds),)


class Double:
    """y = 2 x, and no parameters."""

    def forward(self, x):
        return 2 * x

    def backward(self, dy):
        return 2 * dy

    def parameters(self):
        return ()


class OwnDense(fn.Dense):
    """Even a subclass that changes nothing is a layer of one's own."""


def make_layers(dtype="float32", own=False):
    """From 4 features to 3 classes."""
    rng = np.random.default_rng(1)
    return [fn.Dense(4, 8, dtype=dtype, rng=rng), *([Shift(8, dtype)] if own else []), fn.ReLU(),
            fn.Dense(8, 3, dtype=dtype, rng=rng)]


def make_network(dtype="float32", own=False, loss="softmax_cross_entropy", **options):
    net = fn.Sequential(make_layers(dtype, own))
    net.compile(fn.SGD(0.1, 0.9), loss, **options)
    return net


def make_data(n=30, dtype="float32"):
    """Classes that can be learnt."""
    x = np.random.default_rng(2).normal(size=(n, 4)).astype(dtype)
    return x, x[:, :3].argmax(axis=1)


def values(net):
    return [value.copy() for _, value, _ in net.parameters()]


def bits(net):
    return b"".join(value.tobytes() for value in values(net))


@contextlib.contextmanager
def unchanged(net):
    """Parameters and their gradients are what they were."""
    before = [(value.tobytes(), grad.tobytes()) for _, value, grad in net.parameters()]
    yield
    after = [(value.tobytes(), grad.tobytes()) for _, value, grad in net.parameters()]
    assert after == before


OWN = pytest.mark.parametrize("own", [False, True], ids=["engine", "layer by layer"])


# ---- Building --------------------------------------------------------------------------------

def test_a_network_learns(dtype):
    net = make_network(dtype, metrics=["accuracy"])
    x, y = make_data(300, dtype)
    history = net.fit(x, y, batch_size=20, epochs=30, rng=0, verbose=0)
    assert history.loss[-1] < history.loss[0] / 4 and history.accuracy[-1] > 0.95
    assert net.evaluate(x, y).accuracy == np.mean(net.predict_labels(x) == y)


def test_layers_that_are_none():
    for wrong, error, match in [
            ([], ValueError, "at least 1 layer, got 0"),
            (fn.ReLU(), TypeError, "must be a sequence of layers, got ReLU"),
            ("relu", TypeError, "must be a sequence of layers"),
            ([fn.Dense(2, 2), 3], TypeError, "must hold layers, got 3"),
            ([fn.ReLU], TypeError, "must hold layers, got <class"),
            ([fn.Add()], TypeError, r"Add\(\) takes two inputs"),
            ([fn.Dense(2, 3), fn.Dense(2, 3)], ValueError, "takes 2 features, but is given 3"),
            ([fn.Dense(2, 2), fn.Residual([fn.Dense(2, 3)])], ValueError, "keep the width 2"),
            ([fn.Residual([fn.Dense(2, 3)])], ValueError, "keep the width 2, but give 3"),
            ([fn.Sequential([fn.Dense(2, 3)]), fn.ReLU(), fn.Dense(2, 3)], ValueError,
             "takes 2 features, but is given 3")]:
        with pytest.raises(error, match=match):
            fn.Sequential(wrong)


def test_one_network_has_one_dtype():
    with pytest.raises(ValueError, match="one dtype, got float32 and float64"):
        fn.Sequential([fn.Dense(2, 2), fn.Residual([fn.Dense(2, 2, dtype="float64")])])
    assert fn.Sequential(make_layers("float64")).dtype == np.float64


def test_a_layer_belongs_to_one_network():
    layer, relu = fn.Dense(2, 2), fn.ReLU()
    for twice in ([layer, layer], [layer, fn.Residual([layer])], [relu, layer, relu]):
        with pytest.raises(ValueError, match="each layer once, but one came twice"):
            fn.Sequential(twice)
    net = fn.Sequential([layer, relu])
    for stolen in ([layer], [relu], [fn.Dense(2, 2), fn.Residual([layer])], net.layers):
        with pytest.raises(ValueError, match="belongs to another network already"):
            fn.Sequential(stolen)
    outer = fn.Sequential([net])
    for stolen in ([net], [fn.Residual([net])]):
        with pytest.raises(ValueError, match="belongs to another network already"):
            fn.Sequential(stolen)
    assert outer.predict([[1, 2]]).tobytes() == net.predict([[1, 2]]).tobytes()


def test_a_layer_whose_network_is_gone_is_free_again():
    layer = fn.Dense(2, 3)
    fn.Sequential([layer])
    gc.collect()
    inner = fn.Sequential([layer])
    fn.Sequential([inner])
    gc.collect()
    inner.compile()
    assert inner.train_step([[1, 2]], [0]) > 0


def test_a_refused_network_leaves_its_layers_free():
    layer = fn.Dense(2, 3)
    weight = layer.weight
    for wrong in ([layer, 3], [layer, layer], [layer, fn.Dense(2, 2)]):
        with pytest.raises((TypeError, ValueError)):
            fn.Sequential(wrong)
    weight[0, 0] = 5
    assert fn.Sequential([layer]).predict([[1, 0]])[0, 0] == 5 + layer.bias[0]


def test_48_arrays_of_before_are_read_only_and_assigned_ones_count(dtype):
    """No stale pointer anywhere: what is written is what the engine sees, or an error."""
    layer = fn.Dense(2, 3, dtype=dtype)
    old = [array for _, *both in layer.parameters() for array in both]
    net = fn.Sequential([layer, fn.ReLU()])
    for array in old:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1
    layer.weight = [[1, 2, 3], [4, 5, 6]]
    layer.bias[...] = [0, 0, 1]
    assert net.predict([[1, 1]]).tolist() == [[5, 7, 10]]
    for bad in (np.ones((3, 2)), np.full((2, 3), "x")):
        with unchanged(net), pytest.raises(ValueError, match="weight must"):
            layer.weight = bad
    inner = layer.weight
    outer = fn.Sequential([net])
    with pytest.raises(ValueError, match="read-only"):
        inner[...] = 1
    layer.weight *= 2
    for network in (net, outer):
        assert network.predict([[1, 1]]).tolist() == [[10, 14, 19]]
    assert layer.weight_grad.shape == (2, 3) and layer.parameters()[0][1] is layer.weight


def test_a_network_is_a_layer(dtype):
    net, layers = fn.Sequential(make_layers(dtype)), make_layers(dtype)
    x, dy = make_data(7, dtype)[0], np.ones((7, 3), dtype)
    y = x
    for layer in layers:
        y = layer.forward(y)
    dx = dy
    for layer in reversed(layers):
        dx = layer.backward(dx)
    out, dx_out = np.empty_like(y), np.empty_like(x)
    for arguments in ((), (out,)):
        assert net.forward(x, *arguments).tobytes() == y.tobytes()
        assert net.backward(dy, *([dx_out] if arguments else [])).tobytes() == dx.tobytes()
    assert np.array_equal(out, y) and np.array_equal(dx_out, dx)
    names = [name for name, _, _ in net.parameters()]
    assert names == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for (_, value, grad), (_, expected, expected_grad) in zip(
            net.parameters(), fn.Sequential(layers).parameters(), strict=True):
        assert np.array_equal(value, expected) and np.array_equal(grad, expected_grad)
    with pytest.raises(RuntimeError, match="needs a forward before it"):
        net.backward(dy)


def test_44_a_networks_passes_refuse_an_output_that_overlaps_their_input(dtype):
    net = fn.Sequential([fn.Dense(4, 4, dtype=dtype), fn.ReLU(), fn.Dense(4, 4, dtype=dtype)])
    x, _ = make_data(6, dtype)
    before = x.copy()
    with pytest.raises(ValueError, match="must not overlap"):
        net.forward(x, out=x)
    net.forward(x)
    with pytest.raises(ValueError, match="must not overlap"):
        net.backward(x, out=x)
    assert np.array_equal(x, before)


def test_flattened_inputs_of_any_shape_are_taken():
    net = fn.Sequential([fn.Flatten(), fn.Dense(784, 10, rng=0)])
    net.compile("sgd", metrics=["accuracy"])
    images = np.random.default_rng(0).normal(size=(20, 28, 28)).astype("float32")
    labels, rows = np.arange(20) % 10, images.reshape(20, 784)
    for model in (net, net.frozen()):
        expected = model.predict(rows)
        assert np.array_equal(model.predict(images), expected)
        assert np.array_equal(model.predict(images.tolist()), expected)
        assert np.array_equal(model.predict(np.asfortranarray(images)), expected)
        assert np.array_equal(model.predict(images.reshape(20, 7, 4, 28)), expected)
        with pytest.raises(ValueError, match="X must have 784 features, got 756"):
            model.predict(images[:, 1:])
    assert net.evaluate(images, labels) == net.evaluate(rows, labels)
    twin = copy.deepcopy(net)
    assert net.train_step(images, labels) == twin.train_step(rows, labels)
    for x in (images, rows):
        history = net.fit(images, labels, rng=0, verbose=0, validation_data=(x, labels))
        assert vars(history) == vars(twin.fit(rows, labels, rng=0, verbose=0,
                                              validation_data=(rows, labels)))


def test_01_no_images():
    net = fn.Sequential([fn.Flatten(), fn.Dense(784, 10)])
    assert net.predict(np.empty((0, 28, 28))).shape == (0, 10)
    assert net.frozen().predict(np.empty((0, 28, 28))).shape == (0, 10)


# ---- Compiling -------------------------------------------------------------------------------

def test_compile_takes_names_and_objects():
    x, y = make_data()
    rows = np.eye(3)[y]
    for name, loss, target in [
            ("softmax_cross_entropy", fn.SoftmaxCrossEntropy(), y),
            ("mse", fn.MeanSquaredError(), rows), ("mean_squared_error", "mse", rows)]:
        by_name, by_object = fn.Sequential(make_layers()), fn.Sequential(make_layers())
        by_name.compile("sgd", name)
        by_object.compile(fn.SGD(lr=0.01), loss)
        assert by_name.train_step(x, target) == by_object.train_step(x, target)
        assert bits(by_name) == bits(by_object)
    net = fn.Sequential([*make_layers(), fn.Softmax()])
    net.compile(loss="cross_entropy", metrics=[fn.accuracy])
    assert net.evaluate(x, y).loss == pytest.approx(
        fn.CrossEntropy().forward(net.forward(x), y), rel=1e-6)


@pytest.mark.parametrize("arguments, error, match", [
    (("lion",), ValueError, "optimizer must be one of 'sgd', 'adam', 'adamw', 'rmsprop' or an"),
    ((0.1,), TypeError, "optimizer must be an optimizer or its name, got 0.1"),
    ((fn.SGD,), TypeError, "optimizer must be an optimizer"),
    (("sgd", "hinge"), ValueError, "loss must be one of 'softmax_cross_entropy'.*, got 'hinge'"),
    (("sgd", None), TypeError, "loss must be a loss or its name, got None"),
    (("sgd", fn.CrossEntropy), TypeError, "loss must be a loss or its name"),
    (("sgd", "mse", "accuracy"), TypeError, "metrics must be a list, got 'accuracy'"),
    (("sgd", "cross_entropy", ["recall"]), ValueError, "metrics must hold callables, "),
    (("sgd", "mse", ["accuracy"]), ValueError, "accuracy needs classes")])
def test_49_what_cannot_be_compiled(arguments, error, match):
    net = make_network()
    x, y = make_data()
    with pytest.raises(error, match=match):
        net.compile(*arguments)
    assert net.train_step(x, y) == make_network().train_step(x, y)      # what was chosen stays


def test_softmax_is_not_taken_twice():
    for layers in ([*make_layers(), fn.Softmax()],
                   [fn.Sequential([*make_layers(), fn.Softmax()])]):
        net = fn.Sequential(layers)
        with pytest.raises(ValueError, match="ends in a Softmax: leave that out .* or use CrossEn"):
            net.compile()
        net.compile(loss="cross_entropy")       # the cure


@pytest.mark.parametrize("name", ["Half", "SoftmaxCrossEntropy"])
def test_an_own_loss_is_used_or_refused(name):
    """Never taken for a built-in one, and never an obscure error in the middle of training."""
    def forward(self, logits, target):
        return fn.SoftmaxCrossEntropy.forward(self, logits, target) / 2

    loss = type(name, (fn.SoftmaxCrossEntropy,), {"forward": forward})()
    x, y = make_data()
    net, expected = make_network(), make_network().evaluate(x, y).loss
    with contextlib.suppress(TypeError, ValueError):
        net.compile(loss=loss)
        assert net.train_step(x, y) == pytest.approx(expected / 2, rel=1e-6)


def test_an_own_optimizer_is_used_or_refused():
    class Still(fn.SGD):
        def step(self, layers):
            pass

    x, y = make_data()
    net = make_network()
    before = [value.tobytes() for _, value, _ in net.parameters()]
    with contextlib.suppress(TypeError, ValueError):
        net.compile(Still(0.1))
        net.train_step(x, y)
    assert [value.tobytes() for _, value, _ in net.parameters()] == before


@OWN
def test_before_compile_there_is_only_prediction(own):
    net = fn.Sequential(make_layers(own=own))
    x, y = make_data()
    for call in (net.train_step, net.evaluate, net.fit):
        with unchanged(net), pytest.raises(RuntimeError, match="compile the network first"):
            call(x, y)
    assert net.predict(x).shape == net.predict_proba(x).shape == (30, 3)


def test_an_inner_network_is_trained_by_the_outer_one():
    inner = make_network()
    outer = fn.Sequential([inner])
    with pytest.raises(RuntimeError, match="part of another one"):
        inner.compile()
    x, y = make_data()
    outer.compile(fn.SGD(0.1, 0.9))
    alone = make_network()
    for _ in range(3):
        assert outer.train_step(x, y) == alone.train_step(x, y)
    assert bits(outer) == bits(inner) == bits(alone)
    assert np.array_equal(inner.predict(x), alone.predict(x))


# ---- fit -------------------------------------------------------------------------------------

@OWN
def test_the_loss_is_recorded_as_it_was_before_each_update(own):
    net = make_network(own=own, metrics=["accuracy"])
    x, y = make_data()
    before = net.evaluate(x, y)
    history = net.fit(x, y, batch_size=30, epochs=2, shuffle=False, verbose=0)
    assert (history.loss[0], history.accuracy[0]) == before
    assert history.loss[1] < history.loss[0]
    before = net.evaluate(x, y)
    assert net.train_step(x, y) == before.loss


@OWN
def test_validation_only_measures(own):
    x, y = make_data(60)
    plain, measured, split = (make_network(own=own, metrics=["accuracy"]) for _ in range(3))
    history = plain.fit(x[:45], y[:45], epochs=3, rng=1, verbose=0)
    others = [measured.fit(x[:45], y[:45], epochs=3, rng=1, verbose=0,
                           validation_data=(x[45:].tolist(), y[45:].tolist())),
              split.fit(x, y, epochs=3, rng=1, verbose=0, validation_split=0.25)]
    for other, net in zip(others, (measured, split), strict=True):
        assert bits(net) == bits(plain)
        assert (other.loss, other.accuracy) == (history.loss, history.accuracy)
        assert len(other.val_loss) == len(other.val_accuracy) == 3
        assert (other.val_loss[-1], other.val_accuracy[-1]) == plain.evaluate(x[45:], y[45:])
    assert history.val_loss == history.val_accuracy == []


@OWN
def test_every_sample_counts_once_however_batches_are_cut(own):
    """With lr 0 the mean is the same for all: equal to rounding, which is 1e-6 in float32."""
    x, y = make_data(50)
    net = make_network(own=own, metrics=["accuracy"])
    net.compile(fn.SGD(0), metrics=["accuracy"])
    expected = net.evaluate(x, y)
    for batch_size in (1, 7, 32, 49, 50, 51, 2**40, 10**30):    # the last is no C integer
        history = net.fit(x, y, batch_size, verbose=0, rng=0)
        assert history.loss == [pytest.approx(expected.loss, rel=1e-6)]
        assert history.accuracy == [expected.accuracy]


@OWN
def test_orders_come_from_rng(own):
    x, y = make_data()

    def fit(**options):
        net = make_network(own=own)
        net.fit(x, y, batch_size=4, epochs=2, verbose=0, **options)
        return bits(net)

    assert fit(rng=3) == fit(rng=3) == fit(rng=np.random.default_rng(3))
    assert fit(shuffle=False) == fit(shuffle=False, rng=3)
    different = [fit(), fit(), fit(rng=3), fit(rng=4), fit(shuffle=False)]
    assert len(set(different)) == 5


def test_each_epoch_has_an_order_of_its_own():
    x, y = make_data()
    at_once, one_by_one, repeated = (make_network() for _ in range(3))
    generator = np.random.default_rng(0)
    at_once.fit(x, y, batch_size=4, epochs=2, rng=0, verbose=0)
    for _ in range(2):
        one_by_one.fit(x, y, batch_size=4, rng=generator, verbose=0)
        repeated.fit(x, y, batch_size=4, rng=0, verbose=0)
    assert bits(at_once) == bits(one_by_one) != bits(repeated)


def test_fit_leaves_its_arguments_alone():
    x, y = make_data()
    before = x.copy(), y.copy()
    make_network().fit(x, y, validation_split=0.2, verbose=0)
    assert np.array_equal(x, before[0]) and np.array_equal(y, before[1])


@OWN
@pytest.mark.parametrize("options, error, match", [
    ({"batch_size": 0}, ValueError, r"batch_size must be in the interval \[1, inf\), got 0"),
    ({"batch_size": 2.0}, TypeError, "batch_size must be an int, got 2.0"),
    ({"epochs": -1}, ValueError, r"epochs must be in the interval \[1, inf\), got -1"),
    ({"epochs": True}, TypeError, "epochs must be an int, got True"),
    ({"verbose": 2}, ValueError, "verbose must be 0 or 1, got 2"),
    ({"validation_split": 1.0}, ValueError, r"validation_split must be in the interval \[0, 1\)"),
    ({"validation_split": -0.1}, ValueError, "validation_split must be in the interval"),
    ({"validation_split": np.nan}, ValueError, "validation_split must be in the interval"),
    ({"validation_split": 0.001}, ValueError, "leaves no sample of 30 on one side"),
    ({"validation_split": 0.1, "validation_data": make_data()}, ValueError, "exclude each other"),
    ({"validation_data": (np.ones((2, 5)), [0, 1])}, ValueError, None),
    ({"validation_data": (np.ones((2, 4)), [0, 3])}, ValueError, r"target\[1\] is 3"),
    ({"validation_data": (np.ones((2, 4)), [0])}, ValueError, "target must have 2 rows, got 1"),
    ({"validation_data": 3}, TypeError, None),
    ({"rng": -1}, ValueError, None), ({"rng": "seed"}, TypeError, None)],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")
def test_49_arguments_of_fit(options, error, match, own):
    net = make_network(own=own)
    x, y = make_data()
    with unchanged(net), pytest.raises(error, match=match):
        net.fit(x, y, **{"verbose": 0, **options})


# ---- Weights ---------------------------------------------------------------------------------

NAMES = {
    "softmax_cross_entropy": fn.SoftmaxCrossEntropy, "cross_entropy": fn.CrossEntropy,
    "negative_log_likelihood": fn.NegativeLogLikelihood,
    "binary_cross_entropy": fn.BinaryCrossEntropy, "mean_squared_error": fn.MeanSquaredError,
    "mse": fn.MeanSquaredError, "huber": fn.Huber, "poisson": fn.Poisson}


@OWN
@pytest.mark.parametrize("name", NAMES)
def test_losses_by_name(name, own, dtype):
    """With the defaults of their classes."""
    layers = make_layers(dtype, own)
    layers += {"cross_entropy": [fn.Softmax()], "negative_log_likelihood": [fn.LogSoftmax()]}.get(
        name, [])
    net = fn.Sequential(layers)
    net.compile(loss=name)
    x, y = make_data(dtype=dtype)
    if not name.endswith(("cross_entropy", "likelihood")) or name.startswith("binary"):
        y = np.eye(3)[y]
    expected = NAMES[name]().forward(net.predict(x), y)
    rounding = 20 * float(np.finfo(dtype).eps)
    assert net.evaluate(x, y).loss == pytest.approx(expected, rel=rounding)
    assert net.train_step(x, y) == pytest.approx(expected, rel=rounding)
    assert net.evaluate(x, y).loss < expected


def losses_of_samples(name, net, x, y):
    """In float64, one number a sample: entries' losses count alike."""
    losses = WEIGHTED[name]("none").forward(net.predict(x).astype(float), y)
    return losses if losses.ndim == 1 else losses.mean(axis=1)


def by_label(loss, y):
    """What a mean divides by, for each sample."""
    weight, ignored = getattr(loss, "weight", None), getattr(loss, "ignore_index", None)
    share = np.ones(len(y)) if weight is None else weight[np.maximum(y, 0)]
    return share if ignored is None else share * (y != ignored)


WEIGHTED = {
    "softmax": lambda reduction: fn.SoftmaxCrossEntropy(reduction),
    "softmax, weight": lambda reduction: fn.SoftmaxCrossEntropy(
        reduction, weight=[1, 3, 0.5], label_smoothing=0.1),
    "softmax, ignore_index": lambda reduction: fn.SoftmaxCrossEntropy(reduction, ignore_index=-1),
    "softmax, ignored class": lambda reduction: fn.SoftmaxCrossEntropy(reduction, ignore_index=1),
    "softmax, all": lambda reduction: fn.SoftmaxCrossEntropy(
        reduction, weight=[1, 3, 0.5], ignore_index=-1),
    "likelihood": lambda reduction: fn.NegativeLogLikelihood(
        reduction, weight=[1, 3, 0.5], ignore_index=-1),
    "squares": lambda reduction: fn.MeanSquaredError(reduction),
    "huber": lambda reduction: fn.Huber(reduction, delta=0.3),
    "binary": lambda reduction: fn.BinaryCrossEntropy(reduction, pos_weight=[1, 2, 3]),
    "poisson": lambda reduction: fn.Poisson(reduction),
}


def weighted_case(name, own, dtype="float64", n=50, lr=0.0, reduction="mean"):
    """A network, its loss, samples and their weights; with lr 0 nothing is learnt."""
    rng, loss = np.random.default_rng(4), WEIGHTED[name](reduction)
    layers = make_layers(dtype, own) + ([fn.LogSoftmax()] if name == "likelihood" else [])
    net = fn.Sequential(layers)
    classes = name.startswith(("softmax", "likelihood"))
    net.compile(fn.SGD(lr), loss, metrics=["accuracy"] if classes else [])
    x, y = make_data(n, dtype)
    if "ignore_index" in name or "all" in name or name == "likelihood":
        y[rng.uniform(size=n) < 0.3] = -1
    if not classes:
        y = np.eye(3, dtype=dtype)[y]
    weights = (rng.uniform(0.5, 2, n) * (rng.uniform(size=n) < 0.8)).astype(dtype)
    return net, loss, x, y, weights


@OWN
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", WEIGHTED)
def test_histories_are_means_by_the_weights_however_batches_are_cut(name, reduction, own):
    """A sum is reported for a sample: divided by their number, whatever they weigh."""
    net, loss, x, y, w = weighted_case(name, own, reduction=reduction)
    for weights in (None, w):
        each = np.ones(50) if weights is None else w
        losses = losses_of_samples(name, net, x, y)
        if loss.reduction == "mean":
            expected = (each * losses).sum() / (each * by_label(loss, y)).sum()
        else:
            expected = (each * losses).sum() / 50 * (1 if y.ndim == 1 else 3)
        assert net.evaluate(x, y, weights).loss == pytest.approx(expected, rel=1e-12)
        for batch_size in (1, 7, 32, 50):
            for shuffle in (False, True):
                history = net.fit(x, y, batch_size, epochs=2, rng=0, verbose=0, shuffle=shuffle,
                                  sample_weight=weights, validation_data=(x, y, weights))
                assert history.loss == pytest.approx([expected] * 2, rel=1e-12)
                assert history.val_loss == pytest.approx([expected] * 2, rel=1e-12)


@OWN
def test_batches_without_any_weight_count_for_nothing(own):
    """Neither in the mean nor for the parameters."""
    net, _, x, y, _ = weighted_case("softmax", own)
    w = np.r_[np.ones(20), np.zeros(30)]
    expected = losses_of_samples("softmax", net, x, y)[:20].mean()
    history = net.fit(x, y, 10, shuffle=False, verbose=0, sample_weight=w)
    assert history.loss == [pytest.approx(expected, rel=1e-12)]
    net.compile(fn.SGD(0.1), fn.SoftmaxCrossEntropy(ignore_index=-1))
    history = net.fit(x[20:], np.r_[y[20:40], [-1] * 10], 10, shuffle=False, verbose=0)
    assert net.train_step(x[:3], y[:3], np.zeros(3)) == 0
    before = bits(net)
    assert net.fit(x, np.full(50, -1), 10, verbose=0).loss == [0]
    assert net.evaluate(x, np.full(50, -1)).loss == 0 and bits(net) == before


@OWN
@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_go_with_their_samples_when_these_are_shuffled(name, own, dtype):
    """The bits of steps on the same batches, one after the other."""
    net, loss, x, y, w = weighted_case(name, own, dtype, lr=0.01)
    twin, *_ = weighted_case(name, own, dtype, lr=0.01)
    net.fit(x, y, 16, epochs=2, rng=3, verbose=0, sample_weight=w)
    orders = np.random.default_rng(3)
    for _ in range(2):
        order = orders.permutation(50)
        for batch in (order[:16], order[16:32], order[32:48], order[48:]):
            twin.train_step(x[batch], y[batch], w[batch])
    assert bits(net) == bits(twin)


@OWN
def test_validation_split_takes_the_last_weights_along(own, dtype):
    split, apart = (weighted_case("softmax", own, dtype, lr=0.1) for _ in range(2))
    net, _, x, y, w = split
    history = net.fit(x, y, 16, epochs=3, rng=1, verbose=0, sample_weight=w, validation_split=0.2)
    other = apart[0].fit(x[:40], y[:40], 16, epochs=3, rng=1, verbose=0, sample_weight=w[:40],
                         validation_data=(x[40:], y[40:], w[40:].tolist()))
    assert vars(history) == vars(other) and bits(net) == bits(apart[0])
    assert history.val_loss[-1] == net.evaluate(x[40:], y[40:], w[40:]).loss
    assert history.val_loss[-1] != net.evaluate(x[40:], y[40:]).loss


@OWN
@pytest.mark.parametrize("weighs", [False, True])
@pytest.mark.parametrize("weights", ["balanced", {0: 5, 2: 0.5}], ids=str)
def test_class_weights_do_not_count_in_validation(weights, weighs, own, dtype):
    """Nor are its samples counted for "balanced"."""
    split, apart = (weighted_case("softmax", own, dtype, lr=0.1) for _ in range(2))
    net, _, x, y, w = split
    y[30:] = np.arange(20) % 2
    history = net.fit(x, y, 16, epochs=3, rng=1, verbose=0, sample_weight=w if weighs else None,
                      class_weight=weights, validation_split=0.4)
    other = apart[0].fit(
        x[:30], y[:30], 16, epochs=3, rng=1, verbose=0, sample_weight=w[:30] if weighs else None,
        class_weight=weights, validation_data=(x[30:], y[30:], *([w[30:]] if weighs else [])))
    assert vars(history) == vars(other) and bits(net) == bits(apart[0])
    assert history.val_loss[-1] == net.evaluate(x[30:], y[30:], w[30:] if weighs else None).loss


@OWN
def test_class_weights_are_weights_of_samples_by_their_labels(own, dtype):
    nets = [weighted_case("softmax", own, dtype, lr=0.1)[0] for _ in range(6)]
    *_, x, y, w = weighted_case("softmax", own, dtype)
    counts = np.bincount(y)
    balanced = len(y) / (3 * counts[y])
    by_hand = np.array([1, 3, 0.25])[y].astype(dtype)
    pairs = [({"class_weight": {1: 3, 2: 0.25}}, {"sample_weight": by_hand}),
             ({"class_weight": {0: 1, np.int8(1): 3.0, 2: 0.25}, "sample_weight": w},
              {"sample_weight": by_hand * w}),
             ({"class_weight": "balanced"}, {"sample_weight": balanced})]
    for (options, expected), net, twin in zip(pairs, nets[::2], nets[1::2], strict=True):
        histories = [each.fit(x, y, 16, epochs=2, rng=1, verbose=0, **more)
                     for each, more in ((net, options), (twin, expected))]
        assert vars(histories[0]) == vars(histories[1]) and bits(net) == bits(twin)
    assert len({bits(net) for net in nets}) == 3


@OWN
def test_balanced_weights_are_those_of_the_classes_that_count(own, dtype):
    """A label that is ignored is no class."""
    net, twin = (weighted_case("softmax", own, dtype)[0] for _ in range(2))
    x, y = make_data(50, dtype)
    y[:20] = -1
    counts = np.bincount(y[20:], minlength=3)
    for each in (net, twin):
        each.compile(fn.SGD(0.01), fn.SoftmaxCrossEntropy("sum", ignore_index=-1))
    net.fit(x, y, 16, shuffle=False, verbose=0, class_weight="balanced")
    twin.fit(x, y, 16, shuffle=False, verbose=0, sample_weight=30 / (3 * counts[y]))
    for value, other in zip(values(net), values(twin), strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)


@OWN
@pytest.mark.parametrize("ignored", [-1, 0], ids=["no class", "a class"])
def test_ignored_samples_are_not_counted_as_right_or_wrong(ignored, own, dtype):
    net = make_network(dtype, own)
    net.compile(fn.SGD(0), fn.SoftmaxCrossEntropy(ignore_index=ignored), metrics=["accuracy"])
    x, y = make_data(60, dtype)
    y[::4] = ignored
    counted = y != ignored
    expected = np.mean(net.predict_labels(x)[counted] == y[counted])
    assert 0 < expected < 1 and not net.predict_labels(x)[~counted].all()
    assert net.evaluate(x, y).accuracy == expected
    for shuffle in (False, True):
        history = net.fit(x, y, 16, verbose=0, shuffle=shuffle, validation_data=(x, y))
        assert history.accuracy == history.val_accuracy == [expected]
    assert net.evaluate(x[:3], [ignored] * 3).accuracy == 0


@OWN
def test_rows_are_all_counted_though_a_label_would_be_ignored(own, dtype):
    """Rows of weights have no label that could be."""
    net = make_network(dtype, own)
    net.compile(fn.SGD(0), fn.SoftmaxCrossEntropy(ignore_index=1), metrics=["accuracy"])
    x, y = make_data(60, dtype)
    expected = np.mean(net.predict_labels(x) == y)
    rows = np.eye(3)[y]
    assert net.evaluate(x, rows).accuracy == expected
    assert net.fit(x, rows, verbose=0).accuracy == [expected]


@OWN
def test_weights_do_not_count_in_accuracy(own, dtype):
    net, _, x, y, w = weighted_case("softmax", own, dtype)
    assert net.evaluate(x, y, w).accuracy == net.evaluate(x, y).accuracy
    assert net.fit(x, y, verbose=0, sample_weight=w).accuracy == net.fit(x, y, verbose=0).accuracy


def test_many_rows_are_measured_in_blocks_by_their_weights(dtype):
    net, loss, x, y, w = weighted_case("softmax, all", False, dtype, n=5000)
    losses = losses_of_samples("softmax, all", net, x, y)
    expected = (w * losses).sum() / (w * by_label(loss, y)).sum()
    assert net.evaluate(x, y, w).loss == pytest.approx(expected, rel=1e-5)
    assert net.train_step(x, y, w) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss, match", [
    (fn.SoftmaxCrossEntropy("none"), "reduction must be 'mean' or 'sum', got 'none'"),
    (fn.Huber("none"), "reduction must be 'mean' or 'sum', got 'none'"),
    (fn.SoftmaxCrossEntropy(weight=[1, 2]), "weight must have 3 entries, one for each output, got"),
    (fn.NegativeLogLikelihood(weight=[1] * 4), "weight must have 3 entries, one for each output"),
    (fn.BinaryCrossEntropy(pos_weight=[1]), "pos_weight must have 3 entries, one for each output"),
    ], ids=repr)
def test_49_losses_that_do_not_fit_a_network(loss, match):
    net = make_network()
    x, y = make_data()
    with pytest.raises(ValueError, match=match):
        net.compile(loss=loss)
    assert np.isfinite(net.train_step(x, y))            # compiled as it was


@pytest.mark.parametrize("loss", [fn.MeanSquaredError(), fn.Huber(), fn.Poisson()], ids=repr)
def test_49_accuracy_needs_classes(loss):
    net = make_network()
    with pytest.raises(ValueError, match=f"accuracy needs classes, which {type(loss).__name__} "):
        net.compile(loss=loss, metrics=["accuracy"])
    net.compile(loss=loss)
    with pytest.raises(ValueError, match="probabilities need classes"):
        net.predict_proba(np.ones((2, 4)))


@OWN
def test_49_cross_entropy_of_probabilities_takes_no_weights(own):
    layers = [*make_layers(own=own), fn.Softmax()]
    net = fn.Sequential(layers)
    net.compile(loss="cross_entropy")
    x, y = make_data()
    w, match = np.ones(30), "CrossEntropy takes no weights; SoftmaxCrossEntropy does"
    for call in (lambda: net.fit(x, y, verbose=0, sample_weight=w),
                 lambda: net.fit(x, y, verbose=0, class_weight="balanced"),
                 lambda: net.fit(x, y, verbose=0, validation_data=(x, y, w)),
                 lambda: net.evaluate(x, y, w), lambda: net.train_step(x, y, w)):
        with unchanged(net), pytest.raises(ValueError, match=match):
            call()


@OWN
@pytest.mark.parametrize("weights, error, match", [
    (np.ones(29), ValueError, r"sample_weight must have shape \(30,\), got \(29,\)"),
    (np.ones((30, 1)), ValueError, "sample_weight must have"),
    (1.0, ValueError, "sample_weight must have"),
    (np.full(30, -0.5), ValueError, r"sample_weight\[0\] is -0.5, but weights must be finite and"),
    (np.full(30, np.nan), ValueError, r"sample_weight\[0\] is nan, but weights must be finite"),
    (np.full(30, np.inf), ValueError, r"sample_weight\[0\] is inf, but weights must be finite"),
    (["a"] * 30, ValueError, "sample_weight must hold real numbers"),
    (np.ma.ones(30), TypeError, "sample_weight must be a plain array")])
def test_06_49_weights_of_samples_that_are_none(weights, error, match, own):
    net = make_network(own=own)
    x, y = make_data()
    for call in (lambda: net.fit(x, y, verbose=0, sample_weight=weights),
                 lambda: net.fit(x, y, verbose=0, validation_data=(x, y, weights)),
                 lambda: net.evaluate(x, y, weights), lambda: net.train_step(x, y, weights)):
        with unchanged(net), pytest.raises(error, match=match):
            call()


@OWN
@pytest.mark.parametrize("more", [{}, {"sample_weight": np.ones(30)}], ids=["", "sample_weight"])
@pytest.mark.parametrize("weights, error, match", [
    ({0: -1}, ValueError, r"weight.* is -1.0, but weights must be finite and at least 0"),
    ({0: np.nan}, ValueError, "weight.* is nan, but weights must be finite and at least 0"),
    ({0: np.inf}, ValueError, "weight.* is inf, but weights must be finite and at least 0"),
    ({0: 1e39}, ValueError, "class_weight.* too large for float32"),
    ({"1": 50.0}, TypeError, "a label of class_weight must be an int, got '1'"),
    ({1.5: 50.0}, TypeError, "a label of class_weight must be an int, got 1.5"),
    ({True: 50.0}, TypeError, "a label of class_weight must be an int, got True"),
    ({1: 2, 7: 50.0}, ValueError, "class_weight must have labels from 0 to 2, got 7"),
    ({-1: 50.0}, ValueError, "class_weight must have labels from 0 to 2, got -1"),
    ({0: "a lot"}, (TypeError, ValueError), None), ({0: None}, (TypeError, ValueError), None),
    ("even", TypeError, "class_weight must be a dict or 'balanced', got 'even'"),
    ([1, 2, 3], TypeError, "class_weight must be a dict or 'balanced', got")])
def test_49_weights_of_classes_that_are_none(weights, error, match, more, own):
    net = make_network(own=own)
    x, y = make_data()
    with unchanged(net), pytest.raises(error, match=match):
        net.fit(x, y, verbose=0, class_weight=weights, **more)


@OWN
def test_class_weights_may_name_the_label_that_is_ignored(own):
    net, twin = (make_network(own=own, loss=fn.SoftmaxCrossEntropy(ignore_index=-1))
                 for _ in range(2))
    x, y = make_data()
    y[::3] = -1
    for each, weights in ((net, {-1: 0, 2: 3}), (twin, {2: 3})):
        each.fit(x, y, rng=0, verbose=0, class_weight=weights)
    assert bits(net) == bits(twin)


@OWN
def test_49_class_weights_of_batches_are_of_labels_of_the_network(own):
    net = make_network(own=own)
    with unchanged(net), pytest.raises(ValueError, match="labels from 0 to 2, got 3"):
        net.fit([make_data()], verbose=0, class_weight={3: 2})


@OWN
def test_49_class_weights_need_labels(own):
    x, y = make_data()
    for loss in ("softmax_cross_entropy", "mse"):
        net = make_network(own=own, loss=loss)
        for weights in ({0: 1}, "balanced"):
            with unchanged(net), pytest.raises(ValueError, match="class_weight needs labels"):
                net.fit(x, np.eye(3)[y], verbose=0, class_weight=weights)


@OWN
def test_49_weights_that_together_are_too_large_for_a_sum_are_refused(own):
    net = make_network(own=own, loss=fn.SoftmaxCrossEntropy("sum"))
    x, y = make_data()
    with unchanged(net), pytest.raises(ValueError, match="must be finite"):
        net.fit(x, y, verbose=0, sample_weight=np.full(30, 1e30), class_weight={0: 1e30, 1: 1e30})


@OWN
@pytest.mark.parametrize("reduction, weights, of_classes", [
    ("sum", np.full(30, 1e-25), {0: 1e-25, 1: 1e-25, 2: 1e-25}),
    ("mean", np.r_[np.full(29, 1e-25), 1], {1: 1e-25})], ids=["sum", "mean"])
def test_49_weights_that_together_are_too_small_are_refused(reduction, weights, of_classes, own):
    """They would count as 0."""
    net = make_network(own=own, loss=fn.SoftmaxCrossEntropy(reduction))
    x, y = make_data()
    first = np.isin(y, list(of_classes)).argmax()
    with unchanged(net), pytest.raises(ValueError, match="sample_weight times class_weight is too "
                                                         f"small for float32 at sample {first}$"):
        net.fit(x, y, verbose=0, sample_weight=weights, class_weight=of_classes)


@OWN
@pytest.mark.parametrize("size", [1e30, 1e-25])
def test_in_a_mean_weights_may_be_of_any_size_together(size, own):
    x, y = make_data()
    net, twin = make_network(own=own), make_network(own=own)
    history = net.fit(x, y, rng=0, verbose=0, sample_weight=np.full(30, size),
                      class_weight={0: size, 1: 2 * size, 2: size})
    expected = twin.fit(x, y, rng=0, verbose=0, class_weight={1: 2})
    assert history.loss == pytest.approx(expected.loss, rel=1e-6)
    for value, other in zip(values(net), values(twin), strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)


def test_fit_and_evaluate_leave_weights_alone():
    net, x, y = make_network(), *make_data()
    weights, before = np.linspace(0, 1, 30, dtype=np.float32), np.linspace(0, 1, 30, dtype="f4")
    net.fit(x, y, verbose=0, sample_weight=weights, class_weight={0: 2}, validation_split=0.5)
    net.train_step(x, y, weights)
    net.evaluate(x, y, weights)
    assert np.array_equal(weights, before)


# ---- What is shown ---------------------------------------------------------------------------

@OWN
def test_silence_or_a_line_per_epoch(own, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)              # import fails
    net = make_network(own=own, metrics=["accuracy"])
    x, y = make_data()
    net.fit(x, y, epochs=10, verbose=0)
    assert capsys.readouterr() == ("", "")
    history = net.fit(x, y, epochs=10, validation_split=0.2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[0].startswith("epoch  1/10: loss ")
    assert lines[-1] == (f"epoch 10/10: loss {history.loss[-1]:.4f}, "
                         f"accuracy {history.accuracy[-1]:.4f}, "
                         f"val_loss {history.val_loss[-1]:.4f}, "
                         f"val_accuracy {history.val_accuracy[-1]:.4f}")


def test_a_bar_where_tqdm_is_installed(capsys):
    pytest.importorskip("tqdm")
    net = make_network()
    x, y = make_data()
    net.fit(x, y, epochs=3, verbose=0)
    assert capsys.readouterr() == ("", "")
    history = net.fit(x, y, epochs=3)
    last = capsys.readouterr().out.split("\r")[-1]
    assert "3/3" in last and f"loss {history.loss[-1]:.4f}" in last
    with pytest.raises(FloatingPointError) as error:            # whose traceback holds the bar
        net.fit(np.full_like(x, np.nan), y, epochs=3)
    assert capsys.readouterr().out.endswith("\n") and error     # and it is closed


def test_history_shows_itself():
    history = fn.History()
    assert repr(history) == "History(0 epochs)"
    history.loss, history.val_loss = [0.5], [0.25]
    assert repr(history) == "History(1 epoch: loss 0.5000, val_loss 0.2500)"
    x, y = make_data()
    history = make_network(metrics=["accuracy"]).fit(x, y, epochs=2, verbose=0)
    assert repr(history) == (f"History(2 epochs: loss {history.loss[1]:.4f}, "
                             f"accuracy {history.accuracy[1]:.4f})")
    assert all(type(value) is float for value in history.loss + history.accuracy)
    assert pickle.loads(pickle.dumps(history)).loss == history.loss


def test_history_plots_labelled_curves():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot
    x, y = make_data()
    history = make_network(metrics=["accuracy"]).fit(
        x, y, epochs=4, validation_split=0.2, verbose=0)
    axes = history.plot()
    for ax, name in zip(axes, ("loss", "accuracy"), strict=True):
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", name)
        for curve, label, column in zip(ax.get_lines(), ("training", "validation"),
                                        (name, "val_" + name), strict=True):
            assert curve.get_label() == label
            assert curve.get_xdata().tolist() == [1, 2, 3, 4]
            assert list(curve.get_ydata()) == getattr(history, column)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == [
            "training", "validation"]
    ax = make_network().fit(x, y, verbose=0).plot()
    assert [curve.get_label() for curve in ax.get_lines()] == ["training"]
    pyplot.close("all")


def test_a_network_shows_its_layers():
    net = fn.Sequential([fn.Flatten(), fn.Dense(4, 3), fn.Residual([fn.Dense(3, 3, False)])])
    assert repr(net) == ("Sequential([Flatten(), Dense(4, 3), "
                         "Residual([Dense(3, 3, bias=False)])])")
    assert isinstance(net.layers, tuple) and len(net.layers) == 3
    assert "4 to 3" in repr(net.frozen())


def test_summary_shows_shapes_parameters_and_bytes(capsys):
    net = fn.Sequential([fn.Dense(1000, 20), fn.ReLU(),
                         fn.Residual([fn.Sequential([fn.Dense(20, 20, bias=False)])])])
    net.summary()
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines]
    assert table[0] == ["layer", "output", "parameters"]
    assert table[2] == ["Dense(1000,", "20)", "(n,", "20)", "20,020"]
    assert table[3] == ["ReLU()", "(n,", "20)", "0"]
    assert lines[4].strip() == "Residual" and lines[5].startswith("  Sequential")
    assert table[6] == ["Dense(20,", "20,", "bias=False)", "(n,", "20)", "400"]
    assert lines[6].startswith("    Dense")
    assert lines[-1] == "20,420 parameters, 81,680 bytes, float32"
    assert "layer by layer" not in "".join(lines)


def test_summary_is_a_table_in_notebooks():
    html = make_network(own=True)._table()._repr_html_()
    assert html.startswith("<table>") and "<td>Dense(4, 8)</td><td>(n, 8)</td><td>40</td>" in html
    assert "&lt;" in html and "<test" not in html               # a name in brackets is escaped
    assert "runs layer by layer, because of Shift" in html


# ---- Layers of one's own ---------------------------------------------------------------------

@pytest.mark.parametrize("make, name", [
    (lambda: Shift(8), "Shift"), (lambda: fn.Residual([Shift(8)]), "Shift"),
    (lambda: fn.Sequential([fn.ReLU(), Shift(8)]), "Shift"),
    (lambda: OwnDense(8, 8), "OwnDense"),
    (lambda: fn.Residual([fn.Sequential([OwnDense(8, 8)])]), "OwnDense")],
    ids=["plain", "in Residual", "in Sequential", "subclass", "subclass inside"])
def test_a_network_with_an_own_layer_runs_layer_by_layer_and_says_so(make, name, capsys):
    net = fn.Sequential([fn.Dense(4, 8), make(), fn.Dense(8, 3)])
    net.summary()
    assert f"runs layer by layer, because of {name}\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match="only a network of built-in layers"):
        net.frozen()
    x, y = make_data()
    net.compile(fn.SGD(0.1, 0.9))
    first = net.train_step(x, y)
    assert net.fit(x, y, epochs=20, verbose=0).loss[-1] < first


def test_built_in_layers_never_leave_the_engine(capsys):
    layers = [fn.Flatten(), fn.Dense(4, 4), fn.ReLU(), fn.Scale(2), fn.Softmax(),
              fn.Residual([fn.Sequential([fn.Dense(4, 4), fn.Flatten(),
                                          fn.Residual([fn.ReLU()])])])]
    for layer in layers:
        layer.forward = layer.backward = None       # who calls them fails
    net = fn.Sequential([*layers, fn.Sequential([fn.ReLU()])])
    net.compile(metrics=["accuracy"])
    x, y = make_data()
    net.train_step(x, y)
    net.fit(x, y, validation_split=0.5, verbose=0)
    net.evaluate(x, y)
    net.predict_labels(x)
    net.frozen().predict_proba(x)
    net.summary()
    assert "layer by layer" not in capsys.readouterr().out


def test_own_layers_train_to_the_bits_of_built_in_ones(dtype):
    """2 x, of one's own, and Scale(2): both are exact."""
    x, y = make_data(45, dtype)
    nets = []
    for double in (Double(), fn.Scale(2)):
        first, *others = make_layers(dtype)
        net = fn.Sequential([first, double, *others])
        net.compile(fn.SGD(0.1, 0.9), metrics=["accuracy"])
        nets.append(net)
    own, built_in = nets
    for _ in range(3):
        assert own.train_step(x, y) == built_in.train_step(x, y)
        a, b = (net.fit(x, y, batch_size=16, epochs=2, rng=0, validation_split=0.2, verbose=0)
                for net in nets)
        assert vars(a) == vars(b)
        assert own.evaluate(x, y) == built_in.evaluate(x, y)
        for name in ("predict", "predict_proba", "predict_labels"):
            assert np.array_equal(getattr(own, name)(x), getattr(built_in, name)(x))
        assert bits(own) == bits(built_in)


def test_38_layer_by_layer_too_a_failed_step_is_not_applied():
    net = make_network(own=True)
    x, y = make_data()
    x[22] = np.nan
    twin = make_network(own=True)
    twin.fit(x[:20], y[:20], batch_size=10, shuffle=False, verbose=0)
    with pytest.raises(FloatingPointError, match="at epoch 1, step 3, and the step was not appl"):
        net.fit(x, y, batch_size=10, shuffle=False, verbose=0)
    assert bits(net) == bits(twin)
    net = fn.Sequential([fn.Dense(1, 1, weight_init="zeros"), Double()])
    net.compile(fn.SGD(0.1), "mse", keep_gradients=True)
    with pytest.raises(FloatingPointError, match="the gradient is not finite"):
        net.train_step([[1e25]], [[1e15]])
    assert not bits(net).strip(b"\0")


def test_06_layer_by_layer_too_rows_are_counted():
    x, _ = make_data()
    net = make_network(own=True, loss="mse")
    for n in (29, 31):
        for call in (net.train_step, net.evaluate, lambda x, y: net.fit(x, y, verbose=0)):
            with unchanged(net), pytest.raises(ValueError, match="target must have"):
                call(x, np.ones((n, 3)))


def test_21_22_layer_by_layer_too_masks_are_not_lost():
    x, y = make_data()
    net = make_network(own=True)
    for call in (net.train_step, net.evaluate, lambda x, y: net.fit(x, y, verbose=0)):
        with unchanged(net), pytest.raises(TypeError, match="masked array"):
            call(x, np.ma.array(y, mask=y > 1))
        with unchanged(net), pytest.raises(TypeError, match="masked array"):
            call(np.ma.array(x, mask=x > 1), y)


def test_28_layer_by_layer_too_labels_are_checked_before_the_first_step():
    x, y = make_data()
    y[-1] = -1
    net = make_network(own=True)
    with unchanged(net), pytest.raises(ValueError, match=r"target\[29\] is -1"):
        net.fit(x, y, batch_size=10, shuffle=False, verbose=0)


def test_51_layer_by_layer_too_a_prediction_does_not_disturb_training():
    """In the middle of a step, between forward and backward, another thread predicts."""
    class Meanwhile(Double):
        call = None

        def backward(self, dy):
            if self.call:
                thread = threading.Thread(target=self.call)
                thread.start()
                thread.join()
            return super().backward(dy)

    def predict():
        with contextlib.suppress(RuntimeError):
            net.predict(3 * x)

    x, y = make_data()
    found = []
    for call in (None, predict):
        own = Meanwhile()
        net = fn.Sequential([*make_layers(), own])
        net.compile(fn.SGD(0.1))
        own.call = call
        net.train_step(x, y)
        found.append(bits(net))
    assert found[0] == found[1]


# ---- Measuring and predicting ----------------------------------------------------------------

def test_scores(dtype):
    x, y = make_data(30, dtype)
    net = make_network(dtype)
    scores = net.evaluate(x, y)
    assert isinstance(scores, fn.Scores) and scores.accuracy is None
    assert scores.loss == fn.SoftmaxCrossEntropy().forward(net.predict(x), y)
    net.compile(metrics=["accuracy"])
    with unchanged(net):
        loss, accuracy = net.evaluate(x, y)
    assert loss == scores.loss and type(loss) is float
    assert accuracy == fn.accuracy(net.predict(x), y) == np.mean(net.predict_labels(x) == y)
    assert net.evaluate(x, np.eye(3)[y]).accuracy == accuracy
    net.compile(loss="mse")
    rows = np.eye(3, dtype=dtype)[y]
    assert net.evaluate(x, rows) == (fn.MeanSquaredError().forward(net.predict(x), rows), None)


def test_predictions_of_many_rows_are_taken_in_blocks(dtype):
    """Sums of 300 products in another order: some hundred eps."""
    layers = [fn.Dense(4, 300, dtype=dtype, rng=0), fn.ReLU(), fn.Dense(300, 3, dtype=dtype, rng=1)]
    net = fn.Sequential(layers)
    net.compile(metrics=["accuracy"])
    x, y = make_data(3001, dtype)
    together = net.forward(x)
    tolerance = 300 * float(np.finfo(dtype).eps)
    for model in (net, net.frozen()):
        for n in (0, 1, 255, 256, 257, 437, 1000, 3001):
            found = model.predict(x[:n])
            assert found.shape == (n, 3) and found.dtype == dtype
            np.testing.assert_allclose(found, together[:n], rtol=0, atol=tolerance)
    loss, accuracy = net.evaluate(x, y)
    assert loss == pytest.approx(fn.SoftmaxCrossEntropy().forward(together, y), rel=tolerance)
    assert accuracy == fn.accuracy(net.predict(x), y)


@pytest.mark.parametrize("freeze", [False, True])
def test_predictions(freeze, dtype):
    net = make_network(dtype)
    model = net.frozen() if freeze else net
    x, _ = make_data(9, dtype)
    scores = model.predict(x)
    np.testing.assert_allclose(scores, net.forward(x), rtol=0, atol=50 * np.finfo(dtype).eps)
    assert np.array_equal(model.predict_proba(x), fn.Softmax().forward(scores))
    labels = model.predict_labels(x)
    assert labels.dtype == np.int64 and np.array_equal(labels, scores.argmax(axis=1))
    out = np.full((9, 3), np.nan, dtype)
    assert model.predict(x, out) is out and np.array_equal(out, scores)
    kept = model.predict(x)
    model.predict(2 * x)
    assert np.array_equal(kept, scores)                         # 47: never changes later
    assert model.predict(x[:0]).shape == model.predict_proba(x[:0]).shape == (0, 3)
    assert model.predict_labels(x[:0]).shape == (0,)


def test_probabilities_of_a_softmax_are_taken_as_they_are():
    net = fn.Sequential([fn.Sequential([*make_layers(), fn.Softmax()])])
    x, _ = make_data()
    for model in (net, net.frozen(), pickle.loads(pickle.dumps(net.frozen()))):
        assert np.array_equal(model.predict_proba(x), model.predict(x))
        np.testing.assert_allclose(model.predict(x).sum(axis=1), 1, rtol=1e-6)
    net = make_network(loss="mse")
    with pytest.raises(ValueError, match="which MeanSquaredError does not have"):
        net.predict_proba(x)


@pytest.mark.parametrize("freeze", [False, True])
def test_19_44_outputs_that_cannot_be_written(freeze, dtype):
    net = fn.Sequential([fn.Dense(4, 6, dtype=dtype), fn.ReLU(), fn.Dense(6, 4, dtype=dtype)])
    model = net.frozen() if freeze else net
    x, _ = make_data(6, dtype)
    before = x.copy()
    read_only = np.zeros((6, 4), dtype)
    read_only.flags.writeable = False
    for out, error, match in [
            (x, ValueError, "must not overlap"),
            (read_only, ValueError, "is read-only"),
            (np.zeros((5, 4), dtype), ValueError, r"must have shape \(6, 4\), got \(5, 4\)"),
            (np.zeros((6, 4), int), ValueError, "must be float"),
            (np.zeros((4, 6), dtype).T, ValueError, "must be C-contiguous"),
            ([[0] * 4] * 6, TypeError, "must be a numpy.ndarray, got list")]:
        with unchanged(net), pytest.raises(error, match=match):
            model.predict(x, out)
    with pytest.raises(ValueError, match="must not overlap"):
        model.predict(x[:5], x[1:])
    if not freeze:
        with unchanged(net), pytest.raises(ValueError, match="must not overlap the parameters"):
            net.predict(x, net.layers[2].weight)
    assert np.array_equal(x, before) and not read_only.any()


# ---- Frozen ----------------------------------------------------------------------------------

def test_a_frozen_network_never_changes(dtype):
    net = make_network(dtype)
    x, y = make_data(30, dtype)
    frozen = net.frozen()
    kept = frozen.predict(x)
    net.fit(x, y, epochs=3, verbose=0)
    net.layers[0].weight = np.zeros((4, 8))
    net.layers[2].bias[...] = 5
    assert np.array_equal(frozen.predict(x), kept)
    assert not np.allclose(net.predict(x), kept)
    del net
    gc.collect()
    assert np.array_equal(frozen.predict(x), kept)


def test_no_public_name_of_a_frozen_network_leads_to_its_weights():
    frozen = make_network().frozen()
    names = [name for name in dir(frozen) if not name.startswith("_")]
    assert {"predict", "predict_proba", "predict_labels"} <= set(names)
    for name in names:
        value = getattr(frozen, name)
        assert not isinstance(value, np.ndarray) or not value.flags.writeable
        assert not hasattr(value, "train"), name
    for name in ("fit", "train_step", "compile", "layers", "parameters"):
        assert not hasattr(frozen, name)


def test_a_frozen_network_can_be_pickled_and_copied(dtype):
    net = fn.Sequential([fn.Flatten(), fn.Residual([fn.Dense(4, 4, dtype=dtype), fn.Scale(0.5)]),
                         fn.ReLU(), fn.Dense(4, 3, False, dtype=dtype)])
    x, _ = make_data(30, dtype)
    frozen = net.frozen()
    for twin in (pickle.loads(pickle.dumps(frozen)), copy.deepcopy(frozen), copy.copy(frozen)):
        assert type(twin) is fn.Predictor and repr(twin) == repr(frozen)
        assert np.array_equal(twin.predict(x.reshape(30, 2, 2)), frozen.predict(x))
        assert np.array_equal(twin.predict_labels(x), frozen.predict_labels(x))


# ---- Copies ----------------------------------------------------------------------------------

@OWN
@pytest.mark.parametrize("make_copy", [
    copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_training_with_the_same_bits(make_copy, own, dtype):
    """The optimizer's velocities included, and by itself."""
    net = fn.Sequential([fn.Sequential(make_layers(dtype, own)),
                         fn.Residual([fn.Dense(3, 3, dtype=dtype)])])
    net.compile(fn.SGD(0.1, 0.9, nesterov=True), metrics=["accuracy"], keep_gradients=True)
    x, y = make_data(45, dtype)
    net.fit(x, y, epochs=2, rng=0, verbose=0)
    twin, before = make_copy(net), bits(net)
    assert bits(twin) == before
    histories = [one.fit(x, y, epochs=2, rng=1, verbose=0) for one in (twin, net)]
    assert vars(histories[0]) == vars(histories[1])
    assert bits(twin) == bits(net) != before
    third = make_copy(twin)
    net.train_step(x, y)
    assert bits(twin) != bits(net)
    twin.train_step(x, y)
    third.train_step(x, y)
    assert bits(third) == bits(twin) == bits(net)
    assert np.array_equal(third.predict(x), net.predict(x))
    assert np.array_equal(third.layers[1].layers[0].weight_grad,
                          net.layers[1].layers[0].weight_grad)


def test_a_copied_layer_is_free():
    net = make_network()
    layers = copy.deepcopy(list(net.layers))
    twin = fn.Sequential(layers)
    layers[0].weight = np.zeros((4, 8))
    assert bits(net) != bits(twin) and net.layers[0].weight.any()


# ---- Bad inputs ------------------------------------------------------------------------------

def doors(net):
    """Everything that takes samples; X is checked first, and then the number of labels."""
    return [net.predict, net.predict_proba, net.predict_labels, net.frozen().predict,
            lambda x: net.train_step(x, [0]), lambda x: net.evaluate(x, [0]),
            lambda x: net.fit(x, [0], verbose=0),
            lambda x: net.fit(np.ones((1, 4)), [0], validation_data=(x, [0]), verbose=0)]


def steps(net):
    """Everything that takes samples and a target."""
    x, y = make_data()
    return [net.train_step, net.evaluate, lambda x, y: net.fit(x, y, verbose=0),
            lambda x_val, y_val: net.fit(x, y, validation_data=(x_val, y_val), verbose=0)]


def test_01_no_rows():
    net = make_network()
    for call in (net.train_step, net.evaluate, lambda x, y: net.fit(x, y, verbose=0)):
        for target in (np.empty(0, int), np.empty((0, 3))):
            with unchanged(net), pytest.raises(ValueError, match="0 rows"):
                call(np.empty((0, 4)), target)
    net.compile(loss="mse")
    with unchanged(net), pytest.raises(ValueError, match="0 rows"):
        net.train_step(np.empty((0, 4)), np.empty((0, 3)))


@pytest.mark.parametrize("shape", [(), (4,), (1, 2, 2)])
def test_04_wrong_number_of_dimensions(shape):
    net, match = make_network(), f"X must have 2 dimensions, got {len(shape)}"
    for door in doors(net):
        with unchanged(net), pytest.raises(ValueError, match=match):
            door(np.ones(shape, np.float32))


def test_05_wrong_number_of_features():
    net = make_network()
    for door in doors(net):
        for width in (0, 3, 5):
            match = f"X must have 4 features, got {width}"
            with unchanged(net), pytest.raises(ValueError, match=match):
                door(np.ones((2, width), np.float32))


def test_06_different_numbers_of_rows():
    x, y = make_data()
    net = make_network()
    for call in steps(net):
        with unchanged(net), pytest.raises(ValueError, match="target must have 30 rows, got 29"):
            call(x, y[1:])
        with unchanged(net), pytest.raises(ValueError, match=r"target must have shape \(30, 3\)"):
            call(x, np.eye(3)[y[1:]])
    net.compile(loss="mse")
    for call in steps(net)[:3]:
        for target in (np.ones((29, 3)), np.ones((30, 2)), np.ones(30), np.ones((30, 3, 1))):
            with unchanged(net), pytest.raises(ValueError, match=r"target must have shape \(30, 3"):
                call(x, target)


FORMS = {
    "10 float64": lambda x: x.astype(np.float64), "11 float16": lambda x: x.astype(np.float16),
    "12 int8": lambda x: x.astype(np.int8), "12 uint64": lambda x: x.astype(np.uint64),
    "12 bool": lambda x: x.astype(bool), "14 byte-swapped": lambda x: x.astype(">f4"),
    "16 Fortran order": np.asfortranarray,
    "17 negative strides": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "18 column slice": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "19 read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "20 unaligned": lambda x: np.frombuffer(b"-" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
    "25 list": lambda x: x.tolist(), "25 list of arrays": list,
}


@pytest.mark.parametrize("kind", FORMS)
def test_10_to_20_and_25_harmless_forms_are_converted(kind, dtype):
    x = np.random.default_rng(0).integers(0, 2, (30, 4)).astype(dtype)
    form, y = FORMS[kind](x), make_data()[1]
    nets = [make_network(dtype), make_network(dtype)]
    results = []
    for net, given in zip(nets, (x, form), strict=True):
        history = net.fit(given, y, epochs=2, rng=0, validation_data=(given, y), verbose=0)
        results.append((vars(history), net.train_step(given, y), net.evaluate(given, y),
                        net.predict(given).tobytes(), net.frozen().predict(given).tobytes()))
    assert results[0] == results[1] and bits(nets[0]) == bits(nets[1])
    nets = [fn.Sequential([fn.Dense(4, 4, dtype=dtype, rng=0)]) for _ in range(2)]
    for net, target in zip(nets, (x, form), strict=True):
        net.compile(loss="mse")
        net.train_step(x, target)
    assert bits(nets[0]) == bits(nets[1])


@pytest.mark.parametrize("x, error, match", [
    (np.ones((1, 4)) + 0j, ValueError, "must hold real numbers, got dtype complex"),
    (np.array([["1", "2", "3", "4"]]), ValueError, "must hold real numbers, got dtype"),
    (np.array([[1, 2, 3, None]]), ValueError, "must hold real numbers, got dtype object"),
    ([[1, 2, 3, 4], [1]], ValueError, "must be an array of numbers"),
    (np.ma.array(np.ones((1, 4)), mask=[[0, 1, 0, 0]]), TypeError, "masked array"),
    (None, TypeError, "must be an array, got None"),
    (np.array([[1, 2, 1e39, 4]]), ValueError, r"X\[0, 2\] is 1e\+39, too large for float32")],
    ids=["13 complex", "15 text", "15 objects", "15 ragged", "21 masked", "26 None", "27 large"])
def test_13_15_21_26_27_what_is_no_array_of_numbers(x, error, match):
    net = make_network()
    for door in doors(net):
        with unchanged(net), pytest.raises(error, match=match):
            door(x)
    if error is TypeError:
        for call in steps(net):
            with unchanged(net), pytest.raises(error, match="target must be a.*" + match[-5:]):
                call(np.ones((1, 4)), x)


def test_22_24_matrices_of_other_kinds():
    class SparseMatrix:
        """What all of SciPy's formats have."""

        shape = (1, 4)

        def tocsr(self):
            return self

    net = make_network()
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(np.ones((1, 4)))
    for x, match in [(matrix, "numpy.matrix"), (SparseMatrix(), r"call toarray\(\)")]:
        for door in doors(net):
            with unchanged(net), pytest.raises(TypeError, match=match):
                door(x)


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "cross_entropy"])
@pytest.mark.parametrize("target, match", [
    ([0, 1, 3], r"target\[2\] is 3, but labels must be whole numbers from 0 to 2"),
    (np.array([0, -1, 2]), r"target\[1\] is -1"),
    (np.array([0, 2**63, 2], np.uint64), r"target\[1\] is 9223372036854775808"),
    ([0.5, 1, 2], r"target\[0\] is 0.5"), ([0, np.nan, 1], r"target\[1\] is nan"),
    ([True, False, True], "bool means two classes, but the scores have 3"),
    (["a", "b", "c"], "target must hold real numbers"),
    ([[0], [1], [2]], r"must have shape \(3, 3\) or, for labels, \(3,\), got \(3, 1\)"),
    (np.zeros((3, 3, 1)), r"1 dimension \(labels\) or 2"),
    ([[0.5, 0.5, 0], [1, 0, 0], [0, -0.5, 1]], r"target\[2, 1\] is -0.5, but weights must be fin"),
    ([[np.nan, 0, 1], [1, 0, 0], [1, 0, 0]], r"target\[0, 0\] is nan, but weights must be finite")])
def test_28_to_35_targets_that_are_none(loss, target, match):
    net = fn.Sequential([*make_layers(), fn.Softmax()] if loss == "cross_entropy"
                        else make_layers())
    net.compile(fn.SGD(0.1), loss)
    for call in steps(net):
        with unchanged(net), pytest.raises(ValueError, match=match):
            call(np.ones((3, 4)), target)


def test_31_to_35_all_forms_of_labels_train_alike():
    x, y = make_data()
    found = set()
    for target in [y.astype(kind) for kind in (
            "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", ">i8")] + [
            y.tolist(), np.repeat(y, 2)[::2]]:
        net = make_network(metrics=["accuracy"])
        history = net.fit(x, target, rng=0, verbose=0)
        found.add((*history.loss, *history.accuracy, net.train_step(x, target), bits(net)))
    assert len(found) == 1


def test_32_35_bool_labels_mean_two_classes_and_rows_are_weights():
    """One-hot rows go through another loop of the kernel: 1e-6 apart in float32."""
    x, y = make_data()
    nets = [fn.Sequential([fn.Dense(4, 2, rng=0)]) for _ in range(3)]
    labels = (y > 0).astype(int)
    for net, target in zip(nets, (labels, y > 0, np.eye(2, dtype=bool)[labels]), strict=True):
        net.compile(fn.SGD(0.1))
        net.train_step(x, target)
    assert bits(nets[0]) == bits(nets[1])
    np.testing.assert_allclose(values(nets[2])[0], values(nets[0])[0], rtol=0, atol=1e-6)


def test_a_vector_of_numbers_is_a_target_of_one_output():
    x, y = make_data()
    nets = [fn.Sequential([fn.Dense(4, 1, rng=0)]) for _ in range(2)]
    for net, target in zip(nets, (y, y.reshape(-1, 1)), strict=True):
        net.compile(loss="mse")
        net.train_step(x, target)
    assert bits(nets[0]) == bits(nets[1])


def test_37_nan_goes_through_predictions():
    net = make_network()
    x, _ = make_data(5)
    x[2, 1] = np.nan
    for model in (net, net.frozen()):
        assert np.isnan(model.predict(x)).all(axis=1).tolist() == [False, False, True, False, False]


def test_39_huge_scores_have_an_exact_finite_loss(dtype):
    net = fn.Sequential([fn.Dense(1, 2, dtype=dtype)])
    net.compile(fn.SGD(0.0))
    net.layers[0].weight = [[1e30, -1e30]]
    assert net.train_step([[1]], [1]) == 2 * float(dtype.type(1e30))
    assert net.train_step([[1]], [0]) == 0


def test_47_arrays_may_change_after_a_call():
    x, y = make_data()
    net, twin = make_network(), make_network()
    for i in range(3):
        given, labels = x + i, y.copy()
        net.train_step(given, labels)
        given[...], labels[...] = np.nan, 77
        twin.train_step(x + i, y)
    assert bits(net) == bits(twin)


def test_49_a_learning_rate_beyond_float32_changes_nothing():
    net = make_network()
    net.compile(fn.SGD(1e39))
    x, y = make_data()
    for call in (net.train_step, lambda x, y: net.fit(x, y, verbose=0)):
        with unchanged(net), pytest.raises(ValueError, match="for float32, got 1e"):
            call(x, y)


# ---- What would leave half of something behind -------------------------------------------------

def small(optimizer=None, **options):
    net = fn.Sequential([fn.Dense(4, 8, rng=0), fn.ReLU(), fn.Dense(8, 3, rng=1)])
    net.compile(optimizer or fn.SGD(0.1, 0.9), **options)
    return net


X20 = np.random.default_rng(0).normal(size=(20, 4)).astype("f4")
Y20 = np.arange(20) % 3


class Calls(fn.callbacks.Callback):
    """Calls something in the middle of a fit."""

    def __init__(self, call):
        self.call = call

    def on_epoch_end(self, epoch, logs=None):
        self.call()


def test_a_network_is_compiled_before_or_after_its_fit():
    net, seen = small(), []

    def compiles():
        with pytest.raises(RuntimeError, match="when its fit has ended, not in a callback"):
            net.compile(fn.SGD(0.0))
        seen.append(net.optimizer)

    net.fit(X20, Y20, epochs=2, verbose=0, callbacks=[Calls(compiles)])
    assert seen == [net.optimizer] * 2
    net.compile(fn.SGD(0.0))


def test_a_fit_in_a_callback_stops_for_itself():
    def stops(callbacks, inner):
        net = small()
        net.fit(X20, Y20, epochs=1, verbose=0, rng=0)
        early = fn.callbacks.EarlyStopping("loss", min_delta=1e9, patience=1)
        fits = Calls(lambda: net.fit(X20, Y20, epochs=3, verbose=0, rng=0,
                                     callbacks=[early] if inner else []))
        if callbacks:
            last = Calls(lambda: setattr(net, "stop_training", True))
            return net.fit(X20, Y20, epochs=4, verbose=0, rng=0, callbacks=[last, fits])
        return net.fit(X20, Y20, epochs=4, verbose=0, rng=0, callbacks=[fits])

    assert len(stops(False, True).loss) == 4        # the inner one's is not the outer one's
    assert len(stops(True, False).loss) == 1        # nor the other way round


class Tripled(fn.Sequential):
    """Its constructor takes something else than layers, and adds one."""

    def __init__(self, hidden):
        super().__init__([fn.Scale(3.0), fn.Dense(4, hidden, rng=0)])


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy,
                                    lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_of_networks_of_a_class_of_ones_own(copied):
    net = Tripled(3)
    net.compile("adam")
    net.mean = np.arange(3)
    net.forward(X20)
    other = copied(net)
    assert type(other) is Tripled and other.predict(X20).tobytes() == net.predict(X20).tobytes()
    assert (other.mean == net.mean).all() and type(other.optimizer) is fn.Adam
    with pytest.raises(RuntimeError, match="needs a forward before it"):
        other.backward(np.ones((20, 3)))


@pytest.mark.parametrize("rows", [fn.Softmax, fn.LogSoftmax, lambda: fn.Residual([fn.Softmax()])])
def test_04_a_softmax_before_a_flatten_wants_rows(rows):
    x = np.random.default_rng(0).normal(size=(4, 3, 5)).astype("f4")
    net = fn.Sequential([rows(), fn.Flatten(), fn.Dense(15, 2, rng=0)])
    net.compile()
    for call in (net.forward, net.predict, net.frozen().predict,
                 lambda x: net.train_step(x, [0, 1, 0, 1])):
        with pytest.raises(ValueError, match="X must have 2 dimensions, got 3"):
            call(x)
    flat = x.reshape(4, 15)
    assert net.predict(flat).tobytes() == net.layers[2].predict(
        net.layers[0].predict(flat)).tobytes()


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4)])
def test_04_labels_need_rows(shape):
    net = fn.Sequential([fn.ReLU()])
    with pytest.raises(ValueError, match=f"need rows of scores, got {len(shape)} dimensions"):
        net.predict_labels(np.ones(shape))


@pytest.mark.parametrize("make", [fn.Sequential, fn.Residual])
@pytest.mark.parametrize("two", [fn.Add, fn.Maximum])
def test_layers_of_two_inputs_stand_in_no_sequence(make, two):
    with pytest.raises(TypeError, match="takes two inputs, and cannot stand in a sequence"):
        make([two()])


def test_probabilities_of_a_loss_that_takes_probabilities():
    """Whatever layer gives them."""
    class Own:
        def forward(self, x):
            self.softmax = fn.Softmax()
            return self.softmax.forward(x)

        def backward(self, dy):
            return self.softmax.backward(dy)

        def parameters(self):
            return ()

    net = fn.Sequential([fn.Dense(4, 3, rng=0), Own()])
    net.compile("sgd", "cross_entropy")
    assert net.predict_proba(X20).tobytes() == net.predict(X20).tobytes()


def test_a_network_is_made_once():
    net = small()
    before = net.layers
    for again in (lambda: net.__init__([fn.Dense(5, 2)]),
                  lambda: net.__setstate__(small().__getstate__())):
        with pytest.raises(RuntimeError, match="made once"):
            again()
        with pytest.raises(RuntimeError, match="made once"):
            net.fit(X20, Y20, epochs=2, verbose=0, callbacks=[Calls(again)])
    assert net.layers is before
    assert np.isfinite(net.train_step(X20, Y20))


def test_a_network_is_not_taken_into_another_one_while_it_is_in_use():
    net = small()
    with pytest.raises(RuntimeError, match="in use"):
        net.fit(X20, Y20, epochs=2, verbose=0,
                callbacks=[Calls(lambda: fn.Sequential([net, fn.Dense(3, 3)]))])
    outer = fn.Sequential([net, fn.Dense(3, 3)])
    outer.compile()
    assert np.isfinite(outer.train_step(X20, Y20))


@pytest.mark.parametrize("make", [
    lambda inner: fn.Sequential([inner, fn.Dense(3, 2)], n_threads=0),
    lambda inner: fn.Sequential([inner, fn.Residual([fn.Dense(3, 2)])]),
    lambda inner: fn.Sequential([inner, fn.Dense(4, 2)])])
def test_a_network_that_was_refused_leaves_those_inside_as_they_were(make):
    inner = small()
    use, predicted = inner._use, inner.predict(X20).tobytes()
    with pytest.raises(ValueError):
        make(inner)
    assert inner._use is use
    assert inner.predict(X20).tobytes() == predicted
    assert np.isfinite(inner.train_step(X20, Y20))


def test_a_predictor_needs_what_it_is_made_of():
    kind = type(small().frozen())

    class Empty(kind):
        def __init__(self):
            pass

    for make in (lambda: kind.__new__(kind), Empty, lambda: kind([], np.zeros(3, "f4"), False, 1,
                                                                None)):
        with pytest.raises((TypeError, ValueError)):
            make()
    for changed in ({"weight": 1}, {"weight": -1}, {"n_out": 3000}, {"n_out": 2**40}, {"bias": 7}):
        first = {"kind": "dense", "n_in": 2, "n_out": 4, "weight": 0, "bias": -1,
                 "trains": np.ones(1, "u1")}
        make = kind([first], np.zeros(8, "f4"), False, 1, None)
        assert make.predict(np.ones((3, 2), "f4")).shape == (3, 4)
        with pytest.raises(ValueError, match="the (weight|bias) of operation 0 lies outside of"):
            kind([{**first, **changed}], np.zeros(8, "f4"), False, 1, None)
        with pytest.raises(ValueError, match="operation 1 must take 4 features, not 2"):
            kind([first, first], np.zeros(8, "f4"), False, 1, None)
    frozen = small().frozen()
    expected = frozen.predict(X20).tobytes()
    with pytest.raises(RuntimeError, match="a Predictor never changes"):
        frozen.__init__([], np.zeros(3, "f4"), False, 1, None)
    assert frozen.predict(X20).tobytes() == expected


def test_momentum_that_a_schedule_sets_counts_from_the_next_step():
    def losses(sets):
        optimizer = fn.SGD(0.1)

        def schedule(step):
            if sets and step >= 2 and optimizer.momentum == 0:
                optimizer.momentum = 0.9
            return 0.1

        optimizer.lr = schedule
        net = small(optimizer)
        found = []
        for step in range(8):
            if not sets and step == 2:
                optimizer.momentum = 0.9
            found.append(net.train_step(X20, Y20))
        return found

    assert losses(True) == losses(False)


def test_a_step_that_is_refused_does_not_change_the_fit_around_it():
    """By a signal's handler, in the middle of a native call."""
    x = np.random.default_rng(0).normal(size=(19200, 64)).astype("f4")
    y = np.arange(19200) % 3

    def fitted(interrupts):
        net = fn.Sequential([fn.Dense(64, 512, rng=0), fn.ReLU(), fn.Dense(512, 3, rng=1)])
        net.compile(fn.Adam(1e-3))
        refused, taken = [], []

        def step(*_):
            try:
                net.train_step(x[:64], y[:64])
                taken.append(1)
            except RuntimeError:
                refused.append(1)

        before = signal.signal(signal.SIGALRM, step)
        try:
            if interrupts:
                signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            net.fit(x, y, batch_size=64, verbose=0, shuffle=False)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return [value.tobytes() for _, value, _ in net.parameters()], len(refused), len(taken)

    alone, _, _ = fitted(False)
    for _ in range(5):      # an alarm may come before the fit has begun, and its step is taken
        others, refused, taken = fitted(True)
        if not taken:
            break
    assert refused and not taken and others == alone


@pytest.mark.parametrize("own", [False, True])
def test_arrays_that_get_another_shape_in_the_middle_of_a_fit(own):
    """The fit goes on with what it was given."""
    def fitted(changes):
        y, y_val = Y20.copy(), Y20.copy()

        def change():
            y.shape, y_val.shape = (-1, 1), (-1, 1)

        net = fn.Sequential([fn.Dense(4, 8, rng=0), *([Own()] if own else []),
                             fn.Dense(8, 3, rng=1)])
        net.compile()
        return net.fit(X20, y, batch_size=7, epochs=4, rng=0, verbose=0,
                       validation_data=(X20, y_val),
                       callbacks=[Calls(change)] if changes else []).curves

    assert fitted(True) == fitted(False)


class Own(fn.Identity):
    """A layer of somebody's own, which takes no `out` into account."""

    def forward(self, x, out=None):
        return np.asarray(x) + 0

    def backward(self, dy, out=None):
        return np.asarray(dy)


def test_outputs_that_are_parameters():
    for layers in ([fn.Dense(3, 3, rng=0), fn.Dense(3, 3, rng=1)],
                   [fn.Dense(3, 3, rng=0), fn.Dense(3, 3, rng=1), Own()]):
        net = fn.Sequential(layers)
        x = np.ones((3, 3), "f4")
        before = net.layers[0].weight.copy()
        net.forward(x)
        for call in (net.forward, net.predict, net.backward):
            with pytest.raises(ValueError, match="overlap"):
                call(x, out=net.layers[0].weight)
        assert np.array_equal(net.layers[0].weight, before)
        out = np.zeros((3, 3), "f4")
        assert net.predict(x, out) is out and out.tobytes() == net.predict(x).tobytes()


@pytest.mark.parametrize("gives", [None, "text", [["a"]], {}])
def test_layers_that_give_no_array(gives):
    class Gives(Own):
        def forward(self, x, out=None):
            return gives

    net = fn.Sequential([fn.Dense(4, 3), Gives()])
    net.compile()
    for call in (lambda: net.predict(X20), lambda: net.train_step(X20, Y20),
                 lambda: net.fit(X20, Y20, verbose=0), lambda: net.predict_labels(X20)):
        with pytest.raises(TypeError, match="must give an array of numbers"):
            call()


def test_layers_that_are_equal_or_have_no_hash():
    class Equal(Own):
        def __eq__(self, other):
            return isinstance(other, Equal)

    one, two = Equal(), Equal()
    first = fn.Sequential([fn.Dense(4, 3), one])
    second = fn.Sequential([fn.Dense(4, 3), two, fn.Dense(3, 3), Equal()])
    assert first.predict(X20).shape == second.predict(X20).shape
    with pytest.raises(ValueError, match="belongs to another network"):
        fn.Sequential([fn.Dense(4, 3), one])
    del first, second
    gc.collect()
    assert fn.Sequential([fn.Dense(4, 3), one, two]).predict(X20).shape == (20, 3)


def test_layers_without_weak_references():
    class Slots:
        __slots__ = ()

        def forward(self, x):
            return x

        def backward(self, dy):
            return dy

        def parameters(self):
            return ()

    inner = small()
    use = inner._use
    with pytest.raises(TypeError, match="must allow weak references"):
        fn.Sequential([inner, Slots()])
    assert inner._use is use and np.isfinite(inner.train_step(X20, Y20))


def test_epochs_that_are_done_already_cost_nothing():
    net = small()
    assert net.fit(X20, Y20, rng=0, initial_epoch=10**12, verbose=0).epoch == []
