"""`fit` in all its ways: batches, accumulation, memory maps, and what is measured on the way."""

import copy
import itertools
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import fastnet as fn
from fastnet import metrics
from fastnet.callbacks import Callback

OWN = pytest.mark.parametrize("own", [False, True], ids=["engine", "layer by layer"])
CLASSES = {
    "softmax_cross_entropy": fn.SoftmaxCrossEntropy, "nll": fn.NegativeLogLikelihood}
ENTRIES = {
    "mse": fn.MeanSquaredError, "huber": fn.Huber, "poisson": fn.Poisson,
    "binary": fn.BinaryCrossEntropy}


class Same:
    """A layer of one's own that does nothing."""

    def forward(self, x):
        return x

    def backward(self, dy):
        return dy

    def parameters(self):
        return ()


def make_network(loss="softmax_cross_entropy", metrics=(), optimizer=None, *, own=False,
                 dtype="float32", outputs=3, width=8, layers=(), end=(), **options):
    rng = np.random.default_rng(1)
    net = fn.Sequential([
        fn.Dense(4, width, dtype=dtype, rng=rng), *layers, fn.ReLU(), *([Same()] if own else []),
        fn.Dense(width, outputs, dtype=dtype, rng=rng), *end])
    net.compile(fn.SGD(0.1, 0.9) if optimizer is None else optimizer, loss, metrics, **options)
    return net


def make_data(n=30, dtype="float32"):
    x = np.random.default_rng(2).normal(size=(n, 4)).astype(dtype)
    return x, x[:, :3].argmax(axis=1)


def make_weights(n=30):
    return np.random.default_rng(3).uniform(0, 3, n).astype("float32")


def in_batches(size, *arrays):
    return [tuple(array[i:i + size] for array in arrays)
            for i in range(0, len(arrays[0]), size)]


def values(net):
    return np.concatenate([value.ravel() for _, value, _ in net.parameters()])


def bits(net):
    return values(net).tobytes()


def fit(net, *data, **options):
    return net.fit(*data, **({"batch_size": 10, "rng": 0, "verbose": 0} | options))


def assert_same(net, twin, history, expected):
    assert bits(net) == bits(twin)
    assert vars(history) == vars(expected)
    assert net.optimizer.steps == twin.optimizer.steps


# ---- Batches ---------------------------------------------------------------------------------

class Anew:
    """Can be gone through again and again."""

    def __init__(self, batches):
        self.batches, self.passes = batches, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


FORMS = {
    "list": list, "tuple": tuple, "object": Anew,
    "lists": lambda batches: [[part.tolist() for part in batch] for batch in batches]}


@OWN
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weighted", [False, True])
def test_batches_are_trained_on_like_arrays(form, weighted, own, dtype):
    x, y = make_data(dtype=dtype)
    w = make_weights() if weighted else None
    options = {"metrics": ["accuracy", "top_2_accuracy"], "own": own, "dtype": dtype}
    net, twin = make_network(**options), make_network(**options)
    batches = FORMS[form](in_batches(7, *((x, y, w) if weighted else (x, y))))
    history = fit(net, batches, epochs=3, batch_size=3, validation_data=(x, y))
    expected = fit(twin, x, y, epochs=3, batch_size=7, shuffle=False, sample_weight=w,
                   validation_data=(x, y))
    assert_same(net, twin, history, expected)


def test_a_generator_is_one_epoch():
    x, y = make_data()
    net, twin = make_network(), make_network()
    history = fit(net, (batch for batch in in_batches(10, x, y)))
    assert_same(net, twin, history, fit(twin, x, y, shuffle=False))


@pytest.mark.parametrize("loader", ["plain", "shuffled"])
def test_a_data_loader_is_gone_through_as_in_a_loop_of_ones_own(loader):
    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader, TensorDataset

    x, y = make_data()
    data = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))

    def make_loader():
        seed = torch.Generator().manual_seed(1)
        return DataLoader(data, 8, shuffle=loader == "shuffled", generator=seed)

    net, twin = make_network(), make_network()
    fit(net, make_loader(), epochs=3)
    batches = make_loader()
    for _ in range(3):
        for some, labels in batches:
            twin.train_step(some.numpy(), labels.numpy())
    assert bits(net) == bits(twin)


@pytest.mark.parametrize("steps, passes", [(None, 4), (3, 4), (1, 2)])
def test_no_pass_is_begun_that_is_not_needed(steps, passes):
    """It may cost time, or draw random numbers."""
    batches = Anew(in_batches(10, *make_data()))
    fit(make_network(), batches, epochs=4, steps_per_epoch=steps)
    assert batches.passes == passes


def test_layers_of_ones_own_are_called_once_a_batch():
    """They may draw random numbers too."""
    class Counts(Same):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x

    layer = Counts()
    fit(make_network(layers=[layer]), in_batches(10, *make_data()), epochs=2)
    assert layer.calls == 6


def test_batches_may_share_their_memory():
    """A generator may fill the same arrays again and again."""
    x, y = make_data()

    def batches():
        xs, ys = np.empty((10, 4), "float32"), np.empty(10, np.int64)
        for start in (0, 10, 20):
            xs[...], ys[...] = x[start:start + 10], y[start:start + 10]
            yield xs, ys

    for own in (False, True):
        net, twin = (make_network(metrics=["accuracy", "top_2_accuracy"], own=own)
                     for _ in range(2))
        history = fit(net, batches())
        assert_same(net, twin, history, fit(twin, x, y, shuffle=False))


@pytest.mark.parametrize("make", [
    lambda batches: itertools.cycle(batches), list, Anew], ids=["endless", "list", "object"])
def test_steps_per_epoch_cut_a_stream_of_batches(make):
    """Where batches end they begin anew, in the middle of an epoch too."""
    batches = in_batches(6, *make_data())
    net, twin = make_network(metrics=["accuracy"]), make_network(metrics=["accuracy"])
    history = fit(net, make(batches), epochs=4, steps_per_epoch=3)
    stream = itertools.cycle(batches)
    for epoch in range(4):
        some = [next(stream) for _ in range(3)]
        x, y = (np.concatenate(parts) for parts in zip(*some, strict=True))
        expected = fit(twin, x, y, batch_size=6, shuffle=False)
        assert (history.loss[epoch], history.accuracy[epoch]) == (
            expected.loss[0], expected.accuracy[0])
    assert bits(net) == bits(twin) and net.optimizer.steps == 12


def test_an_iterator_goes_on_where_it_was():
    stream = iter(in_batches(5, *make_data()))
    fit(make_network(), stream, steps_per_epoch=2, epochs=2)
    assert len(list(stream)) == 2


@OWN
def test_batches_that_run_out(own):
    net, twin = make_network(own=own), make_network(own=own)
    batches = in_batches(10, *make_data())
    with pytest.raises(ValueError, match="no more batches.* step 2 of 2"):
        fit(net, iter(batches), steps_per_epoch=2, epochs=2)
    fit(twin, batches)
    assert bits(net) == bits(twin)      # those of the steps that were taken


@pytest.mark.parametrize("empty", [[], (), iter([]), Anew([])], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("steps", [None, 3])
def test_01_no_batches(empty, steps):
    net = make_network()
    with pytest.raises(ValueError, match="x gave no batch|no more batches at step 1"):
        fit(net, empty, steps_per_epoch=steps)
    assert bits(net) == bits(make_network())


def test_an_iterator_is_refused_for_several_epochs_before_anything_changes():
    stream = iter(in_batches(10, *make_data()))
    net = make_network()
    with pytest.raises(ValueError, match="x can be gone through once, not 2 times"):
        fit(net, stream, epochs=3, initial_epoch=1)
    assert bits(net) == bits(make_network()) and len(list(stream)) == 3


X, Y = make_data(5)


@OWN
@pytest.mark.parametrize("batch, error, match", [
    (X, TypeError, "batch 2 is ndarray"), ({"x": X, "y": Y}, TypeError, "batch 2 is dict"),
    ((X,), TypeError, r"\(x, y\)"), ((X, Y, None, None), TypeError, r"\(x, y\)"),
    ("xy", TypeError, "batch 2 is str"), (None, TypeError, "batch 2 is NoneType"),
    ((X, None), TypeError, "target must be an array"), ((X, Y[:4]), ValueError, "target"),
    ((X, Y + 3), ValueError, "target"), ((X, Y + 0.5), ValueError, "target"),
    ((X.astype(complex), Y), ValueError, "X must hold real"),
    ((X.astype(str), Y), ValueError, "X must hold real"),
    ((X, Y, np.ones(4)), ValueError, "sample_weight must have shape"),
    ((X, Y, -np.ones(5)), ValueError, "sample_weight"),
    ((X[:0], Y[:0]), ValueError, "0 rows")],
    ids=lambda value: "" if isinstance(value, (tuple, dict, np.ndarray)) else None)
def test_bad_batches(batch, error, match, own):
    net, twin = make_network(own=own), make_network(own=own)
    with pytest.raises(error, match=match):
        fit(net, [(X, Y), batch, (X, Y)])
    twin.train_step(X, Y)
    assert bits(net) == bits(twin)


@pytest.mark.parametrize("x", [X[:, :3], X[0], X[None]], ids=str)
def test_04_05_batches_of_another_shape(x):
    net, twin = make_network(), make_network()
    with pytest.raises(ValueError, match="X must have"):
        fit(net, [(X, Y), (x, Y)])
    twin.train_step(X, Y)
    assert bits(net) == bits(twin)


@OWN
def test_class_weights_count_in_batches(own):
    x, y = make_data()
    net, twin = make_network(own=own), make_network(own=own)
    weights = {0: 2, 2: 0.5}
    history = fit(net, in_batches(7, x, y, make_weights()), class_weight=weights)
    expected = fit(twin, x, y, batch_size=7, shuffle=False, class_weight=weights,
                   sample_weight=make_weights())
    assert_same(net, twin, history, expected)


@pytest.mark.parametrize("options, match", [
    ({"sample_weight": np.ones(5)}, "sample_weight"), ({"validation_split": 0.5}, "split"),
    ({"class_weight": "balanced"}, "balanced"), ({"steps_per_epoch": 0}, "steps_per_epoch"),
    ({"initial_epoch": -1}, r"initial_epoch must be in the interval \[0, inf\)"),
    ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps")])
def test_49_options_that_do_not_go_with_batches(options, match):
    with pytest.raises(ValueError, match=match):
        fit(make_network(), [(X, Y)], **options)


def test_49_steps_of_an_epoch_need_batches():
    with pytest.raises(ValueError, match="steps_per_epoch needs batches"):
        fit(make_network(), X, Y, steps_per_epoch=2)


# ---- Going on with epochs --------------------------------------------------------------------

@OWN
@pytest.mark.parametrize("rng", [lambda: 5, lambda: np.random.default_rng(5)], ids=["int", "rng"])
def test_a_fit_goes_on_where_another_ended(rng, own):
    x, y = make_data()
    net, twin, given = make_network(own=own), make_network(own=own), rng()
    history = [fit(net, x, y, rng=given, epochs=epochs, initial_epoch=done)
               for done, epochs in ((0, 1), (1, 3), (3, 4))]
    expected = fit(twin, x, y, rng=rng(), epochs=4)
    assert bits(net) == bits(twin)
    assert sum((h.loss for h in history), []) == expected.loss
    assert [h.epoch for h in history] == [[1], [2, 3], [4]]


# ---- Gradients of several batches as one -----------------------------------------------------

def target_of(loss, n=30):
    rng = np.random.default_rng(4)
    if isinstance(loss, (fn.SoftmaxCrossEntropy, fn.CrossEntropy, fn.NegativeLogLikelihood)):
        return rng.integers(3, size=n)
    return rng.uniform(0, 1, (n, 3))


def end_of(loss):
    """What a network for this loss ends in."""
    return {fn.NegativeLogLikelihood: [fn.LogSoftmax()], fn.CrossEntropy: [fn.Softmax()]}.get(
        type(loss), [])


LOSSES = {f"{name} {reduction}": make(reduction)
          for reduction in ("mean", "sum") for name, make in {**CLASSES, **ENTRIES}.items()} | {
    "cross_entropy": fn.CrossEntropy(),
    "ignoring": fn.SoftmaxCrossEntropy(ignore_index=1),
    "ignoring nll": fn.NegativeLogLikelihood(ignore_index=1),
    "class weights": fn.SoftmaxCrossEntropy(weight=[1, 5, 0.1]),
    "smoothing": fn.SoftmaxCrossEntropy(label_smoothing=0.2, weight=[3, 1, 2], ignore_index=-7),
    "pos_weight": fn.BinaryCrossEntropy(pos_weight=[1, 5, 0.1])}


def parts_of(n, cuts=(0, 7, 8, 21)):
    return [slice(a, b) for a, b in itertools.pairwise((*cuts, n))]


def assert_close(net, twin, dtype):
    found, expected = values(net), values(twin)
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() <= 60 * np.finfo(dtype).eps * scale


@OWN
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_parts_make_one_step(name, weighted, own, dtype):
    """Of different sizes and weights; one of them of no weight at all."""
    loss = LOSSES[name]
    if weighted and isinstance(loss, fn.CrossEntropy):
        pytest.skip("takes no weights")
    x, y = make_data(dtype=dtype)[0], target_of(loss)
    w = make_weights() * np.repeat([1, 0, 20, 0.1], [7, 1, 13, 9]) if weighted else None
    net, twin = (make_network(copy.deepcopy(loss), own=own, dtype=dtype, end=end_of(loss),
                              optimizer=fn.SGD(0.01, 0.9)) for _ in range(2))
    before = bits(net)
    for _ in range(3):
        for rows in parts_of(30):
            net.train_step(x[rows], y[rows], None if w is None else w[rows],
                           update=rows.stop == 30)
        twin.train_step(x, y, w)
        assert net.optimizer.steps == twin.optimizer.steps
    assert bits(net) != before
    assert_close(net, twin, dtype)


OPTIMIZERS = {
    "clip_norm": lambda: fn.SGD(0.5, 0.9, clip_norm=0.05),
    "clip_value": lambda: fn.SGD(0.5, clip_value=0.01),
    "decay": lambda: fn.SGD(0.1, 0.5, weight_decay=0.1, decay_vectors=False),
    "adam": lambda: fn.Adam(0.01, eps=1e-3), "adamw": lambda: fn.AdamW(0.01, eps=1e-3),
    "rmsprop": lambda: fn.RMSprop(0.01, eps=1e-2, centered=True, momentum=0.5),
    "schedule": lambda: fn.SGD(fn.schedules.StepDecay(0.1, 1, 0.5))}


@OWN
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parts_make_one_step_of_any_optimizer(name, keep, own):
    x, y = make_data(dtype="float64")
    net, twin = (make_network(own=own, dtype="float64", optimizer=OPTIMIZERS[name](),
                              layers=[fn.LayerNorm(8, dtype="float64"), fn.Dropout(0.2, rng=1)],
                              keep_gradients=keep) for _ in range(2))
    for _ in range(3):
        for rows in parts_of(30):
            net.train_step(x[rows], y[rows], update=rows.stop == 30)
        twin.train_step(x, y)
        if keep:
            for (_, _, found), (_, _, expected) in zip(
                    net.parameters(), twin.parameters(), strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)
    assert_close(net, twin, "float64")


def make_large(optimizer, own=False, frozen=False):
    """With layers that are updated in parts."""
    rng = np.random.default_rng(1)
    net = fn.Sequential([
        fn.Dense(40, 256, dtype="float64", rng=rng), fn.LayerNorm(256, dtype="float64"),
        fn.ReLU(), fn.Dense(256, 160, dtype="float64", rng=rng), *([Same()] if own else []),
        fn.Residual([fn.Dense(160, 160, dtype="float64", rng=rng), fn.Tanh()]),
        fn.Dense(160, 3, dtype="float64", rng=rng)])
    net.layers[3].trainable = not frozen
    net.compile(optimizer, metrics=["accuracy"])
    return net


@OWN
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("optimizer", [lambda: fn.SGD(0.05, 0.9), OPTIMIZERS["adam"]])
@pytest.mark.parametrize("cuts", [(0, 1, 2), (0, 10, 20), (0, 300, 350)], ids=str)
def test_parts_make_one_step_in_large_layers_and_batches(cuts, optimizer, frozen, own):
    n = 2 * cuts[-1]
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(n, 40)), rng.integers(3, size=n)
    net, twin = (make_large(optimizer(), own, frozen) for _ in range(2))
    for _ in range(2):
        for rows in parts_of(n, cuts):
            net.train_step(x[rows], y[rows], update=rows.stop == n)
        twin.train_step(x, y)
    assert_close(net, twin, "float64")
    net.train_step(x[:1], y[:1])
    twin.train_step(x[:1], y[:1])
    assert_close(net, twin, "float64")


@OWN
@pytest.mark.parametrize("batch_size, parts", [(5, 2), (4, 3), (7, 10)])
def test_accumulation_over_arrays_is_a_larger_batch(batch_size, parts, own):
    x, y = make_data()
    options = {"metrics": ["accuracy", "top_2_accuracy"], "own": own}
    net, twin = make_network(**options), make_network(**options)
    history = fit(net, x, y, batch_size=batch_size, epochs=3, gradient_accumulation_steps=parts)
    assert_same(net, twin, history, fit(twin, x, y, batch_size=batch_size * parts, epochs=3))


@OWN
@pytest.mark.parametrize("watched", [False, True])
def test_accumulation_over_batches_ends_with_the_epoch(watched, own):
    """What is left is the last step."""
    x, y = make_data(33, "float64")
    w = make_weights(33)
    options = {"metrics": ["accuracy"], "own": own, "dtype": "float64"}
    net, twin = make_network(**options), make_network(**options)
    callback = type("Watch", (Callback,), {"on_train_batch_end": lambda *_: None})()
    fit(net, in_batches(5, x, y, w), epochs=3, gradient_accumulation_steps=3,
        callbacks=[callback] if watched else [])
    fit(twin, x, y, sample_weight=w, batch_size=15, epochs=3, shuffle=False)
    assert net.optimizer.steps == twin.optimizer.steps == 9
    assert_close(net, twin, "float64")


@OWN
def test_the_loss_of_parts_is_recorded_as_it_was(own):
    x, y = make_data(dtype="float64")
    w = make_weights()
    net = make_network(metrics=["accuracy"], own=own, dtype="float64")
    before = net.evaluate(x, y, w)
    history = fit(net, in_batches(7, x, y, w), gradient_accumulation_steps=99)
    assert (history.loss[0], history.accuracy[0]) == (
        pytest.approx(before.loss, rel=1e-12), before.accuracy)


# ---- Weights of any size ---------------------------------------------------------------------

# The first four have a sum that a batch of its own would have scaled, with all others they do not.
TINY, TOO_SMALL = np.repeat([1e-21, 1.0], 4), "the sum of sample_weight must lie between 2"


@OWN
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "mse", "weighted"])
def test_49_batches_whose_weights_cannot_be_added_up_are_refused(loss, own, dtype):
    labels = loss != "mse"
    net = make_network(fn.SoftmaxCrossEntropy(weight=[1, 2, 3]) if loss == "weighted" else loss,
                       own=own, dtype=dtype)
    x, y = make_data(8, dtype)
    y = y if labels else np.eye(3)[y]
    before = bits(net)
    for w in (TINY, TINY[::-1] * 1e30):
        for more in ({}, {"gradient_accumulation_steps": 2}):
            with pytest.raises(ValueError, match=TOO_SMALL):
                fit(net, in_batches(4, x, y, w), **more)
        with pytest.raises(ValueError, match=TOO_SMALL):
            net.train_step(x[:4], y[:4], w[:4], update=False)
    assert bits(net) == before
    if labels:
        with pytest.raises(ValueError, match="the sum of class_weight must lie between"):
            fit(net, [(x, y)], class_weight={0: 1e-25, 1: 1e-25, 2: 1e-25})
    net.train_step(x[4:], y[4:], update=False)
    with pytest.raises(ValueError, match=TOO_SMALL):
        net.train_step(x[:4], y[:4], TINY[:4])
    assert bits(net) == before
    net.train_step(x[4:], y[4:], np.zeros(4))           # updates by those that wait
    net.train_step(x[:4], y[:4], TINY[:4])              # on its own


@OWN
@pytest.mark.parametrize("undone", ["failed", "fit"])
def test_a_step_is_on_its_own_where_the_gradients_before_are_lost(undone, own):
    net, twin = make_network(own=own), make_network(own=own)
    x, y = make_data(8)
    net.train_step(x, y, update=False)
    if undone == "failed":
        with pytest.raises(FloatingPointError):
            net.train_step(poisoned(x), y, update=False)
    else:
        fit(net, x, y, epochs=1)
        fit(twin, x, y, epochs=1)
    net.train_step(x, y, np.full(8, 1e-30))
    twin.train_step(x, y)
    assert_close(net, twin, "float32")


@OWN
@pytest.mark.parametrize("weight", [None, [1, 2, 3]])
@pytest.mark.parametrize("size", [1.0, 2.0**70, 2.0**-70])
@pytest.mark.parametrize("mapped", [False, True])
def test_parts_of_samples_have_the_scale_of_all(mapped, size, weight, own, as_map, monkeypatch):
    """Whatever their own sum is, in batches and in portions of maps."""
    monkeypatch.setattr("fastnet._fitting.LAZY_ENTRIES", 16)           # 4 rows
    x, y = make_data(8)
    w = TINY * size
    loss = fn.SoftmaxCrossEntropy(weight=weight)
    net = make_network(loss, own=own, optimizer=fn.SGD(0))
    losses = fn.SoftmaxCrossEntropy("none", weight=weight).forward(net.predict(x), y)
    of_labels = np.ones(8) if weight is None else np.array(weight)[y]
    expected = pytest.approx((w * losses).sum() / (w * of_labels).sum(), rel=1e-5)
    data = (as_map(x.astype("float64")), as_map(y)) if mapped else (x, y)
    assert net.evaluate(*data, w).loss == expected
    history = fit(net, *data, batch_size=4, shuffle=False, sample_weight=w,
                  validation_data=(*data, w))
    assert history.loss == [expected] and history.val_loss == [expected]


def poisoned(x):
    x = x.copy()
    x[0, 0] = np.nan
    return x


@OWN
@pytest.mark.parametrize("update", [False, True])
def test_38_a_part_that_fails_forgets_the_others(update, own):
    x, y = make_data()
    net, twin = make_network(own=own), make_network(own=own)
    net.train_step(-x, y, update=False)
    before = bits(net)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        net.train_step(poisoned(x), y, update=update)
    assert bits(net) == before == bits(twin)
    assert net.train_step(x, y) == twin.train_step(x, y) and bits(net) == bits(twin)
    assert net.optimizer.steps == 1


@OWN
def test_38_gathered_gradients_that_overflow_are_not_applied(own):
    x, y = make_data()
    net, twin = (make_network("mse", own=own, outputs=1, keep_gradients=True) for _ in range(2))
    target = x[:, 0]
    net.train_step(x * 1e15, target * 1e15, update=False)       # finite; not so its square
    for _ in range(100):
        net.train_step(x * 1e18, target, update=False)
    with pytest.raises(FloatingPointError):
        net.train_step(x, target)
    assert bits(net) == bits(twin)
    assert net.train_step(x, target) == twin.train_step(x, target) and bits(net) == bits(twin)


@OWN
@pytest.mark.parametrize("wrong", [
    lambda net, x, y: net.train_step(x[:, :3], y), lambda net, x, y: net.train_step(x, y + 3),
    lambda net, x, y: net.train_step(x, y, [1])], ids=["x", "y", "weights"])
def test_a_refused_part_leaves_the_others(wrong, own):
    x, y = make_data()
    net, twin = make_network(own=own), make_network(own=own)
    for network in (net, twin):
        network.train_step(x, y, update=False)
        if network is net:
            with pytest.raises(ValueError):
                wrong(network, x, y)
        network.train_step(-x, y)
    assert bits(net) == bits(twin)


@OWN
@pytest.mark.parametrize("forget", [
    lambda net, x, y: net.compile(net.optimizer), lambda net, x, y: fit(net, x, y, shuffle=False)],
    ids=["compile", "fit"])
def test_compile_and_fit_forget_what_was_gathered(forget, own):
    x, y = make_data()
    net, twin = make_network(own=own), make_network(own=own)
    net.train_step(-x, y, update=False)
    for network in (net, twin):
        forget(network, x, y)
        network.train_step(x, y)
    assert bits(net) == bits(twin)


@OWN
def test_a_fit_that_fails_leaves_nothing_gathered(own):
    x, y = make_data()
    net, twin = make_network(own=own), make_network(own=own)
    with pytest.raises(ValueError):
        fit(net, [(x, y), (x, y + 3)], gradient_accumulation_steps=3)
    assert bits(net) == bits(twin)
    assert net.train_step(x, y) == twin.train_step(x, y) and bits(net) == bits(twin)


@OWN
def test_measuring_between_parts_changes_nothing(own):
    x, y = make_data()
    net, twin = make_network(own=own), make_network(own=own)
    for network in (net, twin):
        network.train_step(x, y, update=False)
        if network is net:
            network.evaluate(x, y, make_weights())
            network.predict(x)
        network.train_step(-x, y)
    assert bits(net) == bits(twin)


@OWN
def test_passes_between_parts_change_nothing(own):
    """Layers may be called one by one, as by `check_gradients`."""
    x, y = make_data()
    net, twin = make_network(own=own), make_network(own=own)
    for network in (net, twin):
        network.train_step(x, y, update=False)
        if network is net:
            network.forward(x)
            network.backward(np.ones((30, 3)))
        network.train_step(-x, y)
    assert bits(net) == bits(twin)


@OWN
def test_a_layer_that_begins_to_train_between_parts_takes_no_old_gradient(own):
    x, y = make_data()
    results = []
    for old in (0, 1000):
        net = make_network(own=own)
        net.layers[0].trainable = False
        net.layers[0].weight_grad = np.full((4, 8), old)
        net.train_step(x, y, update=False)
        net.layers[0].trainable = True
        net.train_step(x, y)
        results.append(bits(net))
    assert results[0] == results[1]


# ---- Memory maps -----------------------------------------------------------------------------

@pytest.fixture
def as_map(tmp_path):
    """Return an array in a file."""
    names = map(str, itertools.count())

    def make(array, mode="r"):
        path = tmp_path / (next(names) + ".npy")
        np.save(path, array)
        return np.load(path, mmap_mode=mode)

    return make


@OWN
@pytest.mark.parametrize("mode", ["r", "c", "r+"])
def test_maps_are_trained_on_like_arrays(mode, own, dtype, as_map):
    x, y = make_data(dtype=dtype)
    net, twin = (make_network(metrics=["accuracy", "top_2_accuracy"], own=own, dtype=dtype)
                 for _ in range(2))
    maps = as_map(x, mode), as_map(y, mode)
    w = make_weights()
    history = fit(net, *maps, epochs=3, validation_data=maps, sample_weight=as_map(w))
    expected = fit(twin, x, y, epochs=3, validation_data=(x, y), sample_weight=w)
    assert_same(net, twin, history, expected)
    assert net.predict(maps[0]).tobytes() == twin.predict(x).tobytes()
    assert net.evaluate(*maps) == twin.evaluate(x, y)
    assert np.array_equal(maps[0], x) and np.array_equal(maps[1], y)


@OWN
@pytest.mark.parametrize("stored", ["float64", "uint8", "float16", ">f4", "bool"])
@pytest.mark.parametrize("target", ["labels", "rows"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_maps_of_another_type_are_converted(stored, target, shuffle, own, as_map):
    labels = np.random.default_rng(1).integers(3, size=50)
    x = np.random.default_rng(2).integers(0, 200, (50, 4)).astype(stored)
    y = np.eye(3)[labels] if target == "rows" else labels.astype("uint8")
    w = make_weights(50)
    net, twin = (make_network(metrics=["accuracy", "top_2_accuracy"], own=own,
                              optimizer=fn.SGD(1e-4)) for _ in range(2))
    options = {"epochs": 2, "batch_size": 8, "shuffle": shuffle, "sample_weight": w,
               "validation_split": 0.3}
    history = fit(net, as_map(x), as_map(y), **options)
    assert_same(net, twin, history, fit(twin, x, y, **options))
    assert net.evaluate(as_map(x), as_map(y), w) == twin.evaluate(x, y, w)


@pytest.mark.parametrize("x_type, y_type", [("float64", "float32"), ("float32", "float64"),
                                            ("float64", "float64")])
def test_rows_of_targets_may_lie_in_maps_of_another_type(x_type, y_type, as_map):
    x, y = make_data()[0].astype(x_type), np.random.default_rng(1).normal(size=(30, 3))
    y = y.astype(y_type)
    net, twin = (make_network("mse", ["r2_score"]) for _ in range(2))
    history = fit(net, as_map(x), as_map(y), epochs=2)
    assert_same(net, twin, history, fit(twin, x, y, epochs=2))


@pytest.mark.parametrize("cut", [
    lambda a: a[:, 1:5], lambda a: a[::2, :4], lambda a: a[::-1, :4], lambda a: a[:, :8:2]])
def test_slices_of_maps(cut, as_map, dtype):
    whole = np.random.default_rng(2).normal(size=(60, 9)).astype(dtype)
    x = np.ascontiguousarray(cut(whole))
    y = x[:, :3].argmax(axis=1)
    net, twin = make_network(dtype=dtype), make_network(dtype=dtype)
    history = fit(net, cut(as_map(whole)), y, epochs=2)
    assert_same(net, twin, history, fit(twin, x, y, epochs=2))
    assert net.predict(cut(as_map(whole))).tobytes() == twin.predict(x).tobytes()


def test_20_maps_that_are_not_aligned(tmp_path):
    x, y = make_data()
    (tmp_path / "x").write_bytes(b"abc" + x.tobytes())
    given = np.memmap(tmp_path / "x", "float32", "r", 3, x.shape)
    net, twin = make_network(), make_network()
    history = fit(net, given, y)
    assert_same(net, twin, history, fit(twin, x, y))


@OWN
def test_maps_of_many_rows(own, as_map):
    """More than are converted at a time."""
    x, y = make_data(9000, "float64")
    net, twin = (make_network(metrics=["accuracy", "top_2_accuracy"], own=own) for _ in range(2))
    options = {"batch_size": 500, "class_weight": "balanced"}
    history = fit(net, as_map(x), as_map(y), validation_data=(as_map(x), y), **options)
    expected = fit(twin, x, y, validation_data=(x, y), **options)
    assert bits(net) == bits(twin) and history.accuracy == expected.accuracy
    assert history.val_loss == pytest.approx(expected.val_loss, rel=1e-6)
    assert history.val_top_2_accuracy == expected.val_top_2_accuracy
    assert np.allclose(net.predict(as_map(x)), twin.predict(x), rtol=1e-5, atol=1e-6)
    if not own:
        out = np.empty((9000, 3), "float32")
        assert net.predict(as_map(x), out) is out
        assert np.allclose(out, twin.predict(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("out", [
    np.empty((8200, 3), "float32"), np.empty((8100, 3), "float32"), np.empty((8192, 2), "float32"),
    np.empty((8192, 3)), np.empty(8192, "float32")], ids=lambda a: f"{a.shape} {a.dtype}")
def test_44_outputs_that_do_not_fit_a_map(out, as_map):
    x = as_map(np.zeros((8192, 4)))
    out[...] = 7
    with pytest.raises(ValueError, match="out must"):
        make_network().predict(x, out)
    assert (out == 7).all()


def test_images_in_maps_are_flattened(as_map):
    x = np.random.default_rng(1).integers(256, size=(40, 2, 2)).astype("uint8")
    y = np.arange(40) % 3
    networks = []
    for given in (as_map(x), x):
        net = fn.Sequential([fn.Flatten(), fn.Dense(4, 3, rng=0)])
        net.compile(fn.SGD(1e-5), metrics=["accuracy"])
        networks.append((net, fit(net, given, y, epochs=2, validation_split=0.2)))
        assert net.predict(given).shape == (40, 3)
    (net, history), (twin, expected) = networks
    assert_same(net, twin, history, expected)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("x, y, error, match", [
    (np.zeros((9, 3)), np.zeros(9, int), ValueError, "X must have 4 features, got 3"),
    (np.zeros((9, 4, 1)), np.zeros(9, int), ValueError, "X must have 2 dimensions"),
    (np.zeros((9, 4)), np.zeros(8, int), ValueError, "8"),
    (np.zeros((9, 4)), np.zeros((9, 2)), ValueError, "target must have"),
    (np.zeros((9, 4)), np.zeros((8, 3)), ValueError, "8"),
    (np.zeros((9, 4)), np.full(9, 3), ValueError, r"target\[0\] is 3|out of range|from 0 to 2"),
    (np.zeros((9, 4)), np.zeros((9, 3, 1)), ValueError, "target must have 1 dimension"),
    (np.zeros((0, 4)), np.zeros(0, int), ValueError, "rows"),
    (np.zeros((9, 4)), None, TypeError, "target must be an array, got None"),
    (np.zeros((9, 4)), 3, ValueError, "target must have 1 dimension")],
    ids=["features", "dimensions", "labels", "columns", "rows", "a label", "3-d", "none", "None",
         "a number"])
def test_maps_of_wrong_shapes_are_refused_before_the_first_step(
        x, y, error, match, dtype, tmp_path):
    given = np.memmap(tmp_path / "x", dtype, "w+", shape=(10, *x.shape[1:]))[:len(x)]
    net = make_network()
    for call in (lambda: fit(net, given, y), lambda: net.evaluate(given, y),
                 lambda: fit(net, *make_data(), validation_data=(given, y))):
        with pytest.raises(error, match=match):
            call()
    assert bits(net) == bits(make_network())


@pytest.mark.parametrize("options", [
    {}, {"shuffle": False}, {"validation_split": 0.2}, {"batch_size": 7}], ids=str)
def test_25_lists_beside_maps(options, as_map):
    x, y = make_data()[0].astype("float64"), np.eye(3)[make_data()[1]]
    for given in ((as_map(x), y.tolist()), (x.tolist(), as_map(y))):
        net, twin = make_network("mse"), make_network("mse")
        history = fit(net, *given, epochs=2, **options)
        assert_same(net, twin, history, fit(twin, x, y, epochs=2, **options))


LARGER_THAN_MEMORY = """
import resource, sys
import numpy as np, fastnet as fn

x = np.load(sys.argv[1], mmap_mode="r")[:, int(sys.argv[2]):]
y = np.arange(len(x)) % 3
net = fn.Sequential([fn.Dense(x.shape[1], 3, rng=0)])
net.compile(metrics=["accuracy", "top_2_accuracy"])
net.train_step(x[:10], y[:10])
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 60_000_000, -1))
try:
    np.ones(x.size, x.dtype)
    print("no limit")
except MemoryError:
    pass
net.fit(x, y, verbose=0, batch_size=500, validation_data=(x, y))
print(net.evaluate(x, y).accuracy, net.predict(x).shape, net.predict_labels(x).shape)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("stored", ["float32", "float64"])
@pytest.mark.parametrize("first", [0, 1], ids=["all columns", "some columns"])
def test_maps_may_be_larger_than_memory(stored, first, tmp_path):
    path = tmp_path / "x.npy"
    np.lib.format.open_memmap(path, "w+", stored, (24_000, 1_000)).flush()
    found = subprocess.run([sys.executable, "-c", LARGER_THAN_MEMORY, path, str(first)],
                           capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith("(24000, 3) (24000,)\n") and "no limit" not in found.stdout


# ---- Validation and evaluation ---------------------------------------------------------------

@pytest.mark.parametrize("given, error, match", [
    ((X,), ValueError, "got 1 items"), ((X, Y, None, None), ValueError, "got 4 items"),
    ((), ValueError, "got 0 items"), (X, TypeError, "must be a tuple, got ndarray"),
    ({"x": X}, TypeError, "must be a tuple, got dict"), ("xy", TypeError, "must be a tuple"),
    ((X, None), TypeError, "target must be an array, got None"),
    ((None, Y), TypeError, "X must be an array, got None"),
    ((X, Y[:3]), ValueError, "target"), ((X[:0], Y[:0]), ValueError, "0 rows|at least 1"),
    ((X, Y, [1]), ValueError, "sample_weight")])
def test_49_validation_data_that_is_none(given, error, match):
    net = make_network()
    with pytest.raises(error, match=match):
        fit(net, *make_data(), validation_data=given)
    assert bits(net) == bits(make_network())


@OWN
def test_validation_data_may_have_weights(own):
    x, y = make_data()
    net = make_network(metrics=["accuracy"], own=own)
    for given in ((X, Y, None), [X, Y, [1, 0, 2, 0, 3]], (X.tolist(), Y.tolist())):
        history = fit(net, x, y, validation_data=given)
        assert (history.val_loss[0], history.val_accuracy[0]) == net.evaluate(*given)


def test_scores_are_a_pair_with_names():
    net = make_network(metrics=["accuracy", "top_2_accuracy"])
    scores = net.evaluate(*make_data())
    loss, accuracy = scores
    assert (loss, accuracy) == (scores.loss, scores.accuracy) == scores == scores[:]
    assert scores.metrics == {"accuracy": accuracy, "top_2_accuracy": scores.metrics[
        "top_2_accuracy"]} and len(scores) == 2
    assert repr(scores) == (f"Scores(loss={loss}, accuracy={accuracy}, "
                            f"top_2_accuracy={scores.metrics['top_2_accuracy']})")
    for twin in (pickle.loads(pickle.dumps(scores)), copy.copy(scores), copy.deepcopy(scores)):
        assert twin == scores and twin.metrics == scores.metrics and type(twin) is fn.Scores


def test_scores_without_accuracy():
    scores = make_network(metrics=["top_1_accuracy"]).evaluate(*make_data())
    assert scores.accuracy is None and list(scores.metrics) == ["top_1_accuracy"]
    assert "accuracy=None, top_1" in repr(scores) and fn.Scores(1.0) == (1.0, None)
    assert fn.Scores(1.0).metrics == {}


def test_scores_can_be_replaced():
    scores = make_network(metrics=["accuracy"]).evaluate(*make_data())
    other = scores._replace(loss=2.0)
    assert other == (2.0, scores.accuracy) and "loss=2.0" in repr(other)


# ---- What is measured in training ------------------------------------------------------------

@OWN
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "mse", "binary_cross_entropy"])
@pytest.mark.parametrize("weighted", [False, True])
def test_figures_are_those_before_each_update(loss, weighted, own, dtype):
    x, labels = make_data(dtype=dtype)
    y = labels if loss == "softmax_cross_entropy" else np.eye(3)[labels].astype(dtype)
    names = {"softmax_cross_entropy": ["accuracy", "top_2_accuracy"], "mse": ["r2_score"],
             "binary_cross_entropy": ["accuracy", "binary_accuracy"]}[loss]
    net, twin = (make_network(loss, names, own=own, dtype=dtype) for _ in range(2))
    w = make_weights() if weighted else None
    history = fit(net, x, y, batch_size=7, epochs=2, sample_weight=w)
    rng = np.random.default_rng(0)
    for epoch in range(2):
        order, scores = rng.permutation(30), []
        for rows in np.split(order, range(7, 30, 7)):
            scores.append(twin.predict(x[rows]))
            twin.train_step(x[rows], y[rows], None if w is None else w[rows])
        for name in names:
            metric = metrics.get("binary_accuracy" if (loss, name) == (
                "binary_cross_entropy", "accuracy") else name)[1]
            assert vars(history)[name][epoch] == pytest.approx(
                metric(np.concatenate(scores), y[order]), rel=1e-6)
    assert bits(net) == bits(twin)


@OWN
@pytest.mark.parametrize("ignored", [-1, 1, 99])
def test_ignored_rows_are_left_out_of_all_metrics(ignored, own):
    def count(scores, target):
        return len(scores) * 1000 + len(target)

    x, y = make_data(300)
    y[::3] = ignored
    counted = y != ignored
    net = make_network(fn.SoftmaxCrossEntropy(ignore_index=ignored),
                       ["accuracy", "top_1_accuracy", "top_2_accuracy", count],
                       fn.SGD(0.0), own=own)
    scores = net.predict(x)[counted]
    expected = {
        "accuracy": metrics.accuracy(scores, y[counted]),
        "top_1_accuracy": metrics.accuracy(scores, y[counted]),
        "top_2_accuracy": metrics.top_k_accuracy(scores, y[counted], 2),
        "count": counted.sum() * 1001}
    history = fit(net, x, y, validation_data=(x, y))
    for name, value in expected.items():
        assert vars(history)[name] == vars(history)[f"val_{name}"] == [value]
    assert net.evaluate(x, y).metrics == expected


@OWN
@pytest.mark.parametrize("outputs", [1, 3])
def test_accuracy_of_binary_cross_entropy_counts_entries(outputs, own, dtype):
    rng = np.random.default_rng(1)
    x, y = make_data(dtype=dtype)[0], rng.integers(2, size=(30, outputs))
    net = make_network("binary_cross_entropy", ["accuracy"], fn.SGD(0.0), own=own, dtype=dtype,
                       outputs=outputs)
    scores = net.predict(x)
    for target in (y, y[:, 0]) if outputs == 1 else (y,):
        history = fit(net, x, target, batch_size=7, validation_data=(x, target))
        assert history.accuracy == history.val_accuracy == [np.mean((scores > 0) == (y > 0.5))]
        assert net.evaluate(x, target).accuracy == history.accuracy[0]


@pytest.mark.parametrize("outputs", [1, 3])
def test_answers_of_binary_cross_entropy(outputs, dtype):
    net = make_network("binary_cross_entropy", outputs=outputs, dtype=dtype)
    x = make_data(dtype=dtype)[0]
    scores = net.predict(x)
    for model in (net, net.frozen(), pickle.loads(pickle.dumps(net.frozen())),
                  pickle.loads(pickle.dumps(net))):
        np.testing.assert_allclose(model.predict_proba(x), 1 / (1 + np.exp(-scores)), rtol=1e-5)
        labels = model.predict_labels(x)
        assert labels.dtype == np.int64 and labels.shape == ((30,) if outputs == 1 else (30, 3))
        assert np.array_equal(labels, (scores > 0).astype(int).reshape(labels.shape))
        assert set(labels.ravel()) == {0, 1}
    layers = make_network("binary_cross_entropy", outputs=outputs, dtype=dtype, own=True)
    assert np.array_equal(layers.predict_labels(x), net.predict_labels(x))
    np.testing.assert_allclose(layers.predict_proba(x), net.predict_proba(x), rtol=1e-6)


@pytest.mark.parametrize("end, loss", [
    (fn.Sigmoid, "mse"), (fn.Softmax, "cross_entropy"),
    (fn.LogSoftmax, "negative_log_likelihood")])
def test_answers_of_networks_that_end_in_probabilities(end, loss, dtype):
    net = make_network(loss, end=[end()], dtype=dtype)
    x = make_data(dtype=dtype)[0]
    scores = net.predict(x)
    for model in (net, net.frozen()):
        proba, labels = model.predict_proba(x), model.predict_labels(x)
        np.testing.assert_allclose(
            proba, np.exp(scores) if end is fn.LogSoftmax else scores, rtol=1e-5)
        expected = (scores > 0.5).astype(int) if end is fn.Sigmoid else scores.argmax(axis=1)
        assert np.array_equal(labels, expected)


@pytest.mark.parametrize("behind", [
    lambda: [fn.Identity()], lambda: [fn.Flatten()], lambda: [fn.Dropout(0.5, rng=0)],
    lambda: [fn.Scale(1)],
    lambda: [fn.Identity(), fn.Sequential([fn.Dropout(rng=0), fn.Flatten()])]])
@pytest.mark.parametrize("end, loss, raw", [
    (fn.Softmax, "cross_entropy", "SoftmaxCrossEntropy"),
    (fn.Sigmoid, "mse", "BinaryCrossEntropy")])
def test_answers_of_networks_with_layers_that_do_nothing_behind_probabilities(
        end, loss, raw, behind, dtype):
    plain = make_network(loss, end=[end()], dtype=dtype)
    x = make_data(dtype=dtype)[0]
    expected, labels = plain.predict(x), plain.predict_labels(x)
    for last in ([end(), *behind()], [fn.Sequential([end()]), *behind()],
                 [fn.Dense(3, 3, activation=end(), dtype=dtype), *behind()]):
        net = make_network(loss, end=last, dtype=dtype)
        if isinstance(last[0], fn.Dense):
            last[0].weight, last[0].bias = np.eye(3), np.zeros(3)
        for model in (net, net.frozen()):
            np.testing.assert_allclose(model.predict_proba(x), expected, rtol=1e-5)
            assert np.array_equal(model.predict_labels(x), labels)
        with pytest.raises(ValueError, match=f"{raw} takes raw scores"):
            net.compile("sgd", getattr(fn, raw)())


def test_what_does_something_behind_a_softmax_ends_in_none():
    x = make_data()[0]
    for behind in ([fn.Scale(2)], [fn.Residual([fn.Identity()])], [fn.Dense(3, 3, rng=1)],
                   [fn.Dense(3, 3, activation="identity", rng=1), fn.Identity()]):
        net = make_network(end=[fn.Softmax(), *behind])
        np.testing.assert_array_equal(
            net.predict_proba(x), fn.Softmax().forward(net.predict(x)))


def test_measuring_takes_no_memory_that_grows_with_epochs():
    x, y = make_data(3000)
    net = make_network(optimizer="adam")
    validation = {"validation_data": (x, y)}
    fit(net, x, y, epochs=2, **validation)

    def peak(epochs):
        tracemalloc.start()
        try:
            fit(net, x, y, epochs=epochs, **validation)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)
    assert peak(42) < peak(2) + 40 * 200        # the numbers of the history


def test_gradients_of_a_fit_that_failed_do_not_count_as_waiting():
    """A step alone takes weights of any size; only what is added up must have a common one."""
    def batches():
        yield np.ones((4, 4)), np.arange(4) % 3
        raise ZeroDivisionError("on purpose")

    net = fn.Sequential([fn.Dense(4, 3, rng=0)])
    net.compile()
    with pytest.raises(ZeroDivisionError):
        net.fit(batches(), gradient_accumulation_steps=2, verbose=0)
    net.train_step(np.ones((4, 4)), np.arange(4) % 3, np.full(4, 1e-30))
    assert net.optimizer.steps == 1
