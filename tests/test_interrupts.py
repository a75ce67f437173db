"""Ctrl-C at every moment of a call: what belongs together has changed as a whole, or not at all."""

import copy
import sys

import doors
import numpy as np
import pytest
from doors import ANSWERS, Own, make_estimator, quiet
from interrupts import moments

import fastnet as fn

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or sys.gettrace() is not None,
    reason="it looks at what CPython 3.11 is about to do, by the only trace function that there is")

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 5)).astype("f4"), RNG.integers(3, size=12)


def make(own=False, optimizer=None):
    net = fn.Sequential([fn.Dense(5, 4, activation="tanh", rng=0), *([Own()] if own else []),
                         fn.Dropout(0.3, rng=2), fn.Dense(4, 3, rng=1)])
    net.compile(fn.SGD(0.1, 0.9) if optimizer is None else optimizer)
    return net


def seen(net):
    """Parameters, and what training needs besides."""
    return repr({**net._training_state(), "fit": 0})


def goes_on(net):
    net.train_step(X, Y)        # not in use any more
    return True


@pytest.mark.parametrize("gathered", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("optimizer", [fn.SGD(0.1, 0.9), fn.Adam(0.1, clip_norm=1)], ids=repr)
def test_54_steps_are_taken_and_counted_or_not(optimizer, own, gathered):
    def made():
        net = make(own, copy.deepcopy(optimizer))
        goes_on(net)
        if gathered:
            net.train_step(X[:4], Y[:4], update=False)
        return net

    expected = {}
    for steps in (0, 1):
        net = made()
        if steps:
            net.train_step(X, Y)
        first = seen(net)
        goes_on(net)                    # by what waits, too
        expected[first] = seen(net)
    for net in moments(made, lambda net: net.train_step(X, Y)):
        first = seen(net)
        goes_on(net)
        assert seen(net) == expected[first]


@pytest.mark.parametrize("own", [False, True])
def test_54_parameters_are_loaded_as_a_whole(own):
    other = make(own)
    other.fit(X, Y, epochs=2, verbose=0)
    names = {name: value.copy() for name, value, _ in other.parameters()}
    state = None if own else other.state_dict()

    def load(net):
        if own:
            net._set_training_state({**other._training_state(), "fit": None})
        else:
            net.load_state_dict(state)

    for net in moments(lambda: make(own), load):
        new = [np.array_equal(value, names[name]) for name, value, _ in net.parameters()]
        assert all(new) or not any(new)
        if own:
            assert net.optimizer.steps == (2 if all(new) else 0)
        assert goes_on(net)


def test_54_a_checkpoint_is_restored_as_a_whole(tmp_path):
    file, first = fn.callbacks.Checkpoint(tmp_path / "a"), make()
    first.fit(X, Y, epochs=3, verbose=0, callbacks=[file])
    expected, fresh = seen(first), seen(make())
    for net in moments(make, file.restore, 7):
        assert seen(net) in (fresh, expected) and goes_on(net)


def test_54_the_best_parameters_are_put_back_as_a_whole():
    def made():
        net = make()
        net.stopping = fn.callbacks.EarlyStopping("loss", patience=9)
        net.stopping.model = net
        net.stopping.on_epoch_end(0, {"loss": 1.0})
        net.train_step(X, Y)
        return net

    net = made()
    worse = [value.copy() for _, value, _ in net.parameters()]
    for net in moments(made, lambda net: net.stopping.on_train_end()):
        best = net.stopping._best_weights
        values = [value for _, value, _ in net.parameters()]
        assert all(map(np.array_equal, values, best)) or all(map(np.array_equal, values, worse))
    for net in moments(made, lambda net: net.stopping.on_epoch_end(1, {"loss": 0.5})):
        stopping = net.stopping
        better = all(map(np.array_equal, stopping._best_weights, worse))
        assert (stopping.best, stopping.best_epoch) == ((0.5, 1) if better else (1.0, 0))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name, value", [
    ("lr", 0.0), ("momentum", 0.0), ("momentum", 0.5), ("weight_decay", 0.5), ("clip_norm", 0.01),
    ("clip_value", 0.01), ("decay_vectors", False)])
def test_54_options_count_as_soon_as_they_are_shown(name, value, own):
    def made(new=None):
        net = make(own, fn.SGD(0.1, 0.9, weight_decay=0.1))
        goes_on(net)
        if new is not None:
            setattr(net.optimizer, name, new)
        return net

    old = getattr(made().optimizer, name)
    expected = {}
    for number in (old, value):
        net = made(None if number == old else number)
        goes_on(net)
        expected[number] = seen(net)
    for net in moments(made, lambda net: setattr(net.optimizer, name, value)):
        shown = getattr(net.optimizer, name)
        goes_on(net)
        assert seen(net) == expected[shown]


def test_54_layers_are_taken_into_a_network_as_a_whole():
    """Inner networks are those of before, and still trained, or parts of the new one."""
    def made():
        inner, last = make(), fn.Dense(3, 2, rng=3)
        return inner, last, []

    def join(objects):
        inner, last, outer = objects
        outer.append(fn.Sequential([inner, last]))

    for inner, last, _ in moments(made, join, 3):
        for layer in (*inner.layers[::2], last):
            for name, value, gradient in layer.parameters():
                assert value is getattr(layer, name)
                assert gradient is getattr(layer, f"{name}_grad")
                assert value.flags.writeable and gradient.flags.writeable
        before = inner.predict(X)
        if inner._trainer is not None:
            goes_on(inner)
        else:
            with inner._use.exclusive:
                inner.layers[0].weight = inner.layers[0].weight + 1
        assert not np.array_equal(inner.predict(X), before)
        assert np.array_equal(inner.predict(X), copy.deepcopy(inner).predict(X))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_54_estimators_keep_the_steps_that_were_taken(kind, solver):
    """Also where the fit is interrupted when it has just ended."""
    def make_fresh():
        return make_estimator(kind, ANSWERS[kind]).set_params(
            solver=solver, max_iter=3, warm_start=True)

    def fit(model):
        quiet(lambda: model.fit(doors.X, ANSWERS[kind]))

    trained = make_fresh()
    fit(trained)
    for model in moments(lambda: copy.deepcopy(trained), fit, last=70):
        new = [not np.array_equal(*pair) for pair in zip(model.coefs_, trained.coefs_, strict=True)]
        assert all(new)
        assert model.network_._current_fit is None
