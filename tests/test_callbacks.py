"""Callbacks: when they are called, when training stops, and going on from a checkpoint."""

import concurrent.futures
import copy
import io
import math
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from changed_files import change

import fastnet as fn
from fastnet import _files, _state_file
from fastnet._state_file import read_state, write_state
from fastnet.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    ReduceLROnPlateau,
    methods_called,
)
from fastnet.schedules import Cosine, InverseScaling, StepDecay

METHODS = ["on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end",
           "on_epoch_end", "on_train_end"]
OWN = pytest.mark.parametrize("own", [False, True], ids=["engine", "layer by layer"])


class Shift:
    """A layer of one's own: y = x + s."""

    def __init__(self, width, dtype):
        self.s, self.ds = np.zeros(width, dtype), np.zeros(width, dtype)

    def forward(self, x):
        return x + self.s

    def backward(self, dy):
        self.ds[...] = dy.sum(axis=0)
        return dy

    def parameters(self):
        return (("s", self.s, self.ds),)


def make_network(optimizer=None, loss="softmax_cross_entropy", metrics=(), *, own=False,
                 dropout=0, dtype="float32", width=8, outputs=3):
    rng = np.random.default_rng(1)
    net = fn.Sequential([
        fn.Dense(4, width, dtype=dtype, rng=rng), *([Shift(width, dtype)] if own else []),
        fn.ReLU(), *([fn.Dropout(dropout, rng=3)] if dropout else []),
        fn.Dense(width, outputs, dtype=dtype, rng=rng)])
    net.compile(fn.SGD(0.1, 0.9) if optimizer is None else optimizer, loss, metrics)
    return net


def make_data(n=30, dtype="float32"):
    x = np.random.default_rng(2).normal(size=(n, 4)).astype(dtype)
    return x, x[:, :3].argmax(axis=1)


def bits(net):
    return b"".join(value.tobytes() for _, value, _ in net.parameters())


def fit(net, *callbacks, data=None, **options):
    options = {"batch_size": 10, "rng": 0, "verbose": 0, "callbacks": callbacks} | options
    return net.fit(*(data or make_data()), **options)


def does(**methods):
    """A callback with these methods."""
    return type("Does", (Callback,), methods)()


class Scripted:
    """A metric that is what it was told to be."""

    __name__ = "figure"

    def __init__(self, *values):
        self.values = iter(values)

    def __call__(self, scores, target):
        return next(self.values)


class Recorder(Callback):
    """Writes down every call."""

    def __init__(self, name="", calls=None):
        self.name, self.calls = name, [] if calls is None else calls

    for _method in METHODS:
        exec(f"def {_method}(self, *arguments): self.note({_method!r}, *arguments)")

    def note(self, method, *arguments):
        self.calls.append((self.name + method, *arguments[:-1], dict(arguments[-1])))


# ---- When they are called --------------------------------------------------------------------

@OWN
def test_calls_and_their_arguments(own):
    net, twin, recorder = make_network(own=own), make_network(own=own), Recorder()
    x, y = make_data(25)
    history = fit(net, recorder, data=(x, y), epochs=2, shuffle=False, validation_data=(x, y))
    losses = [twin.train_step(x[i:i + 10], y[i:i + 10]) for _ in range(2) for i in (0, 10, 20)]
    figures = [{"loss": history.loss[i], "val_loss": history.val_loss[i]} for i in range(2)]
    expected = [("on_train_begin", {})]
    for epoch in range(2):
        expected.append(("on_epoch_begin", epoch, {}))
        for batch in range(3):
            expected += [("on_train_batch_begin", batch, {}),
                         ("on_train_batch_end", batch, {"loss": losses[3 * epoch + batch]})]
        expected.append(("on_epoch_end", epoch, figures[epoch]))
    assert recorder.calls == [*expected, ("on_train_end", figures[-1])]
    assert recorder.model is net


def test_figures_of_all_metrics_are_passed_on():
    net, recorder = make_network(metrics=["accuracy", "top_2_accuracy"]), Recorder()
    history = fit(net, recorder, validation_split=0.2)
    assert recorder.calls[-1][-1] == {name: values[0] for name, values in history.curves.items()}
    assert len(history.curves) == 6


def test_epochs_count_from_the_initial_one():
    recorder = Recorder()
    fit(make_network(), recorder, epochs=5, initial_epoch=3)
    assert [call[1] for call in recorder.calls if call[0] == "on_epoch_end"] == [3, 4]


def test_nothing_left_to_do():
    recorder = Recorder()
    history = fit(make_network(), recorder, epochs=3, initial_epoch=3)
    assert recorder.calls == [("on_train_begin", {}), ("on_train_end", {})]
    assert history.epoch == []


def test_callbacks_are_called_in_their_order():
    calls = []
    fit(make_network(), Recorder("a ", calls), Recorder("b ", calls))
    names = [call[0] for call in calls]
    assert names[::2] == ["a " + name[2:] for name in names[1::2]]
    assert all(name.startswith("b ") for name in names[1::2])


def test_checkpoints_come_last(tmp_path):
    """So that a file holds what the other callbacks have come to."""
    seen = []
    look = does(on_epoch_end=lambda self, epoch, logs: seen.append((tmp_path / "c").exists()))
    fit(make_network(), Checkpoint(tmp_path / "c"), look)
    assert seen == [False] and (tmp_path / "c").exists()


@pytest.mark.parametrize("own", [False, True], ids=["engine", "layer by layer"])
@pytest.mark.parametrize("options", [
    {}, {"shuffle": False}, {"batch_size": 7}, {"batch_size": 100},
    {"sample_weight": np.arange(30.0)}, {"class_weight": "balanced"},
    {"validation_split": 0.3}, {"gradient_accumulation_steps": 2}], ids=str)
def test_methods_for_batches_change_no_bit(options, own):
    results = []
    for callbacks in ([], [Recorder()], [does(on_train_batch_begin=lambda *_: None)]):
        net = make_network(fn.Adam(0.01), metrics=["accuracy", "top_2_accuracy"], own=own,
                           dropout=0.3)
        history = fit(net, *callbacks, epochs=3, **options)
        results.append((bits(net), vars(history), net.optimizer.steps))
    assert results[0] == results[1] == results[2]


def test_only_methods_for_batches_cost_a_call_per_step():
    for name in ("on_train_batch_begin", "on_train_batch_end"):
        mine = does(**{name: lambda *_: None})
        assert [method.__self__ for method in methods_called(
            name, [Callback(), mine, EarlyStopping()])] == [mine]


def test_callbacks_may_look_at_the_network():
    net, twin = make_network(), make_network()
    x, y = make_data()
    seen = []
    look = does(on_epoch_end=lambda self, epoch, logs: seen.append(self.model.evaluate(x, y).loss))
    history = fit(net, look, epochs=3, validation_data=(x, y))
    fit(twin, epochs=3)
    assert seen == history.val_loss and bits(net) == bits(twin)


def test_a_callback_may_change_the_learning_rate():
    def set_lr(self, epoch, logs=None):
        self.model.optimizer.lr = 0.1 / (1 + epoch)

    for own in (False, True):
        net, twin = make_network(own=own), make_network(own=own)
        fit(net, does(on_epoch_begin=set_lr), epochs=3, shuffle=False)
        for epoch in range(3):
            twin.optimizer.lr = 0.1 / (1 + epoch)
            fit(twin, shuffle=False)
        assert bits(net) == bits(twin)


# ---- Stopping, and errors --------------------------------------------------------------------

def stop(self, *arguments):
    self.model.stop_training = True


@OWN
@pytest.mark.parametrize("method, steps, epochs", [
    ("on_train_begin", 0, 0), ("on_train_batch_begin", 1, 1), ("on_train_batch_end", 1, 1),
    ("on_epoch_end", 3, 1)])
def test_a_fit_ends_when_a_callback_says_so(method, steps, epochs, own):
    net, recorder = make_network(own=own), Recorder()
    history = fit(net, does(**{method: stop}), recorder, epochs=5)
    assert net.optimizer.steps == steps and len(history.loss) == epochs
    assert recorder.calls[-1][0] == "on_train_end"
    fit(net)
    assert net.optimizer.steps == steps + 3         # a new fit starts anew


@OWN
def test_stopping_at_an_epochs_begin_does_not_depend_on_who_watches(own):
    steps = []
    for others in ([], [Recorder()]):
        net = make_network(own=own)
        fit(net, does(on_epoch_begin=stop), *others, epochs=5)
        steps.append(net.optimizer.steps)
    assert steps[0] == steps[1]


@OWN
@pytest.mark.parametrize("method", METHODS)
def test_an_error_comes_through_and_leaves_the_network_usable(method, own):
    def fail(self, *arguments):
        raise LookupError(method)

    net = make_network(own=own)
    with pytest.raises(LookupError, match=method):
        fit(net, does(**{method: fail}), epochs=2)
    steps = {"on_train_batch_end": 1, "on_epoch_end": 3, "on_train_end": 6}.get(method, 0)
    twin = make_network(own=own)
    data = make_data()
    rng = np.random.default_rng(0)
    orders = np.concatenate([rng.permutation(30), rng.permutation(30)])
    for rows in orders.reshape(6, 10)[:steps]:
        twin.train_step(data[0][rows], data[1][rows])
    assert bits(net) == bits(twin)
    assert vars(fit(net, epochs=2)) == vars(fit(twin, epochs=2)) and bits(net) == bits(twin)


@pytest.mark.parametrize("callbacks, match", [
    (EarlyStopping(), "callbacks must be a list of callbacks"), (None, "callbacks must be a list"),
    ((c for c in []), "callbacks must be a list"), ([EarlyStopping], "callbacks must hold"),
    ([None], "callbacks must hold callbacks, got None"), ("ab", "callbacks must hold callbacks")])
def test_49_callbacks_that_are_none(callbacks, match):
    net = make_network()
    before = bits(net)
    with pytest.raises(TypeError, match=match):
        fit(net, callbacks=callbacks)
    assert bits(net) == before


# ---- EarlyStopping ---------------------------------------------------------------------------

def stub(lr=1.0):
    """All that callbacks for figures ask of a network."""
    return SimpleNamespace(optimizer=fn.SGD(lr), stop_training=False, parameters=lambda: ())


def stopped_after(callback, figures, name="val_loss"):
    """Return how many of the figures are looked at."""
    callback.model = stub()
    callback.on_train_begin()
    for epoch, value in enumerate(figures):
        callback.on_epoch_end(epoch, {name: value})
        if callback.model.stop_training:
            break
    return epoch + 1


@pytest.mark.parametrize("options, figures, epochs, best", [
    ({}, [3, 2, 2], 3, 1), ({}, [3, 2, 1, 2], 4, 2), ({"patience": 1}, [3, 2, 2], 3, 1),
    ({"patience": 2}, [3, 4, 2, 3, 3], 5, 2), ({"patience": 2}, [3, 4, 2, 3, 1, 2, 2], 7, 4),
    ({"min_delta": 1}, [5, 4.5], 2, 0), ({"min_delta": 1}, [5, 4], 2, 0),
    ({"min_delta": 1, "patience": 3}, [5, 4.5, 3.9, 4, 4, 4], 6, 2),
    ({"mode": "max"}, [3, 4, 4], 3, 1), ({"mode": "max", "min_delta": 1}, [3, 4], 2, 0),
    ({"start_from_epoch": 2}, [1, 1, 3, 2, 2], 5, 3),
    ({"start_from_epoch": 1, "patience": 2}, [0, 5, 6, 7], 4, 1),
    ({}, [3, math.nan], 2, 0), ({"patience": 2}, [math.nan, 3, math.nan, 2, 2, 2], 6, 3),
    ({"patience": 3}, [math.nan] * 3, 3, None), ({}, [math.inf], 1, None),
    ({"mode": "max"}, [-math.inf], 1, None)])
def test_when_training_stops_early(options, figures, epochs, best):
    callback = EarlyStopping(**options)
    assert stopped_after(callback, [*figures, -9, -9]) == epochs == len(figures)
    assert (callback.stopped_epoch, callback.best_epoch) == (epochs - 1, best)
    if best is not None:
        assert callback.best == figures[best]


@pytest.mark.parametrize("monitor, figures, epochs", [
    ("val_accuracy", [1, 2, 2], 3), ("accuracy", [1, 0], 2), ("val_top_5_accuracy", [1, 2, 1], 3),
    ("binary_accuracy", [1, 0], 2), ("r2_score", [1, 2, 1], 3), ("loss", [1, 2], 2),
    ("error", [2, 1, 1], 3)])
def test_auto_knows_which_way_is_better(monitor, figures, epochs):
    assert stopped_after(EarlyStopping(monitor), [*figures, 0, 0], monitor) == epochs


def keras(figures, patience, min_delta, start):
    """Return epochs and the best one, by the rules of Keras's EarlyStopping."""
    best, best_epoch, wait = math.inf, None, 0
    for epoch, value in enumerate(figures):
        if epoch < start:
            continue
        wait += 1
        if value < best - min_delta:
            best, best_epoch, wait = value, epoch, 0
        elif wait >= patience:
            return epoch + 1, best_epoch
    return len(figures), best_epoch


def test_stopping_early_is_that_of_keras():
    draw = random.Random(1)
    for _ in range(300):
        figures = [draw.randint(0, 12) / 4 for _ in range(draw.randint(1, 20))]
        options = {"patience": draw.randint(0, 5), "min_delta": draw.choice([0, 0.25, 0.5])}
        start = draw.randint(0, 4)
        callback = EarlyStopping(start_from_epoch=start, **options)
        epochs = stopped_after(callback, figures)
        assert (epochs, callback.best_epoch) == keras(figures, start=start, **options)


@OWN
@pytest.mark.parametrize("restore", [True, False])
@pytest.mark.parametrize("epochs", [3, 9], ids=["to the end", "stopped"])
def test_the_best_parameters_come_back(restore, epochs, own, dtype):
    kept = []
    keep = does(on_epoch_end=lambda self, epoch, logs: kept.append(bits(self.model)))
    net = make_network(metrics=[Scripted(3, 1, 2, 2, 2)], own=own, dtype=dtype)
    stopper = EarlyStopping("figure", patience=3, restore_best_weights=restore)
    history = fit(net, stopper, keep, epochs=epochs, data=make_data(dtype=dtype))
    assert len(history.loss) == min(epochs, 5) and len(set(kept)) == len(kept)
    assert bits(net) == (kept[1] if restore else kept[-1])


def elsewhere(call):
    """What another thread is given."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@pytest.mark.parametrize("fault", ["a parameter that is read-only", "a layer's own error"])
def test_a_network_is_free_when_its_best_parameters_cannot_come_back(fault):
    net = make_network(own=True)
    stopper = EarlyStopping("loss")
    shift = net.layers[1]

    def breaks():
        raise ArithmeticError("no parameters today")

    def ends(self, logs):               # before the stopper's own end
        if fault == "a layer's own error":
            shift.parameters = breaks
        else:
            shift.s.flags.writeable = False

    with pytest.raises((ArithmeticError, ValueError), match="today|read-only"):
        fit(net, does(on_train_end=ends), stopper)
    assert elsewhere(lambda: net.predict(make_data()[0])).shape == (30, 3)
    vars(shift).pop("parameters", None)
    shift.s.flags.writeable = True
    fit(net, stopper)


def test_a_second_fit_starts_anew():
    stopper = EarlyStopping("figure", patience=1)
    for values in ([1, 2], [9, 8, 7, 7]):
        net = make_network(metrics=[Scripted(*values)])
        assert len(fit(net, stopper, epochs=9).loss) == len(values)
    assert (stopper.best, stopper.best_epoch, stopper.stopped_epoch) == (7, 2, 3)
    kept = []
    keep = does(on_epoch_end=lambda self, epoch, logs: kept.append(bits(self.model)))
    other = make_network(metrics=[Scripted(math.nan)])
    fit(other, stopper, keep)
    assert bits(other) == kept[0] and stopper.best_epoch is None    # not those of the fit before


@pytest.mark.parametrize("make", [
    lambda: EarlyStopping("val_loss"), lambda: ReduceLROnPlateau("val_loss"),
    lambda: Checkpoint("never", monitor="val_loss")])
def test_49_a_figure_that_is_not_measured(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="monitor is 'val_loss', but fit measures 'loss', 'acc"):
        fit(make_network(metrics=["accuracy"]), make())
    assert os.listdir() == []


# ---- ReduceLROnPlateau -----------------------------------------------------------------------

def rates(callback, figures, lr=1.0):
    callback.model = stub(lr)
    callback.on_train_begin()
    found = []
    for epoch, value in enumerate(figures):
        callback.on_epoch_end(epoch, {"val_loss": value})
        found.append(callback.model.optimizer.lr)
    return found


@pytest.mark.parametrize("options, figures, expected", [
    ({"patience": 1}, [3, 2, 2, 1], [1, 1, 0.5, 0.5]),
    ({"patience": 2}, [3, 3, 3, 3, 3], [1, 1, 0.5, 0.5, 0.25]),
    ({"patience": 0}, [3, 3, 2], [1, 0.5, 0.5]),
    ({"patience": 1, "min_lr": 0.4}, [3, 3, 3], [1, 0.5, 0.4]),
    ({"patience": 1, "min_lr": 2}, [3, 3, 3], [1, 1, 1]),
    ({"patience": 1, "min_delta": 1}, [3, 2, 1], [1, 0.5, 0.5]),
    ({"patience": 1, "mode": "max"}, [3, 4, 3], [1, 1, 0.5]),
    ({"patience": 1}, [3, math.nan, 2], [1, 0.5, 0.5]),
    ({"patience": 1, "cooldown": 1}, [3, 3, 3, 3, 3], [1, 0.5, 0.5, 0.25, 0.25]),
    ({"patience": 1, "cooldown": 2}, [3, 3, 3, 3, 3], [1, 0.5, 0.5, 0.5, 0.25])])
def test_when_rates_become_smaller(options, figures, expected):
    """A cooldown is so many epochs that do not count."""
    assert rates(ReduceLROnPlateau(factor=0.5, **options), figures) == expected


@pytest.mark.parametrize("cooldown", [0, 1, 3])
def test_rates_are_those_of_pytorch(cooldown):
    torch = pytest.importorskip("torch")
    draw = random.Random(1)
    for _ in range(100):
        patience, mode = draw.randint(1, 4), draw.choice(["min", "max"])
        options = {"factor": draw.choice([0.1, 0.5]), "min_lr": draw.choice([0, 0.05, 2]),
                   "mode": mode, "cooldown": cooldown}
        delta = draw.choice([0, 0.3])
        figures = [draw.randint(0, 12) / 4 for _ in range(30)]
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, patience=patience - 1, threshold=delta, threshold_mode="abs", eps=0,
            **options)
        expected = []
        for value in figures:
            theirs.step(value)
            expected.append(optimizer.param_groups[0]["lr"])
        callback = ReduceLROnPlateau(patience=patience, min_delta=delta, **options)
        assert rates(callback, figures) == expected


@OWN
def test_a_smaller_rate_counts_from_the_next_step(own):
    net = make_network(fn.SGD(0.5), metrics=[Scripted(1, 2, 2)], own=own)
    twin = make_network(fn.SGD(0.5), own=own)
    fit(net, ReduceLROnPlateau("figure", factor=0.5, patience=1), epochs=3, shuffle=False)
    for lr in (0.5, 0.5, 0.25):
        twin.optimizer.lr = lr
        fit(twin, shuffle=False)
    assert bits(net) == bits(twin) and net.optimizer.lr == 0.125


def test_plateaus_are_forgotten_by_the_next_fit():
    callback = ReduceLROnPlateau(factor=0.5, patience=2, cooldown=5)
    assert rates(callback, [1, 2, 2]) == [1, 1, 0.5]
    assert rates(callback, [5, 6, 6]) == [1, 1, 0.5]


def test_49_a_schedule_cannot_be_reduced():
    net = make_network(fn.SGD(Cosine(0.1, 10)))
    before = bits(net)
    with pytest.raises(ValueError, match="needs an optimizer whose lr is a number, got SGD"):
        fit(net, ReduceLROnPlateau("loss"))
    assert bits(net) == before


@pytest.mark.parametrize("make, error, match", [
    (lambda: EarlyStopping(monitor=None), TypeError, "monitor"),
    (lambda: EarlyStopping(monitor=["loss"]), TypeError, "monitor"),
    (lambda: EarlyStopping(mode="down"), ValueError, "mode must be 'auto', 'min' or 'max'"),
    (lambda: EarlyStopping(mode=None), ValueError, "mode"),
    (lambda: EarlyStopping(min_delta=-1), ValueError, r"min_delta must be in .* \[0, inf\)"),
    (lambda: EarlyStopping(min_delta=math.nan), ValueError, "min_delta"),
    (lambda: EarlyStopping(min_delta="0"), TypeError, "min_delta must be a number"),
    (lambda: EarlyStopping(patience=-1), ValueError, r"patience must be in .* \[0, inf\)"),
    (lambda: EarlyStopping(patience=1.5), TypeError, "patience must be an int"),
    (lambda: EarlyStopping(patience=True), TypeError, "patience must be an int"),
    (lambda: EarlyStopping(patience=None), TypeError, "patience must be an int"),
    (lambda: EarlyStopping(start_from_epoch=-1), ValueError, r"start_from.* \[0, inf\)"),
    (lambda: EarlyStopping(start_from_epoch="1"), TypeError, "start_from_epoch"),
    (lambda: EarlyStopping(restore_best_weights="no"), TypeError, "restore_best_.* must be a bool"),
    (lambda: ReduceLROnPlateau(monitor=1), TypeError, "monitor"),
    (lambda: ReduceLROnPlateau(mode=""), ValueError, "mode"),
    (lambda: ReduceLROnPlateau(min_delta=math.inf), ValueError, "min_delta"),
    (lambda: ReduceLROnPlateau(factor=0), ValueError, r"factor must be in .* \(0, 1\)"),
    (lambda: ReduceLROnPlateau(factor=1), ValueError, "factor"),
    (lambda: ReduceLROnPlateau(factor=None), TypeError, "factor"),
    (lambda: ReduceLROnPlateau(patience=-2), ValueError, r"patience must be in .* \[0, inf\)"),
    (lambda: ReduceLROnPlateau(cooldown=-1), ValueError, r"cooldown must be in .* \[0, inf\)"),
    (lambda: ReduceLROnPlateau(cooldown=0.5), TypeError, "cooldown"),
    (lambda: ReduceLROnPlateau(min_lr=-0.1), ValueError, "min_lr"),
    (lambda: ReduceLROnPlateau(min_lr="0"), TypeError, "min_lr"),
    (lambda: Checkpoint(None), TypeError, "(?i)path"),
    (lambda: Checkpoint(5), TypeError, "(?i)path"),
    (lambda: Checkpoint("a", every=0), ValueError, "every"),
    (lambda: Checkpoint("a", every=1.0), TypeError, "every"),
    (lambda: Checkpoint("a", every=True), TypeError, "every"),
    (lambda: Checkpoint("a", resume="no"), TypeError, "resume must be a bool"),
    (lambda: Checkpoint("a", resume=1), TypeError, "resume must be a bool"),
    (lambda: Checkpoint("a", monitor=3), TypeError, "monitor"),
    (lambda: Checkpoint("a", monitor="loss", mode="best"), ValueError, "mode"),
    (lambda: Checkpoint("a", mode="best"), ValueError, "mode must be 'auto', 'min' or 'max'"),
    (lambda: Checkpoint("a", mode=None), ValueError, "mode must be 'auto', 'min' or 'max'")])
def test_49_options_that_are_none(make, error, match):
    with pytest.raises(error, match=match):
        make()


# ---- Checkpoint: going on --------------------------------------------------------------------

class Each(Checkpoint):
    """A file for every epoch."""

    def __init__(self, folder):
        super().__init__(folder)
        self.folder = folder

    def on_epoch_end(self, epoch, logs=None):
        self.path = self.folder / str(epoch + 1)
        super().on_epoch_end(epoch, logs)


def check_going_on(make, tmp_path, callbacks=lambda: (), epochs=4, **options):
    """From every epoch on, a new network comes to the same end."""
    def run(*more):
        net, own = make(), callbacks()
        history = fit(net, *own, *more, epochs=epochs,
                      **{name: value() if callable(value) else value
                         for name, value in options.items()})
        states = [{name: value for name, value in callback.state_dict().items()
                   if name != "weights"} for callback in own]
        return bits(net), vars(history), net.optimizer.lr, net.optimizer.steps, states, net

    *expected, net = run(Each(tmp_path))
    if options.get("rng", 0) is not None:
        assert run()[:-1] == tuple(expected)        # writing changes nothing
    files = sorted(tmp_path.iterdir())
    assert len(files) == len(expected[1]["epoch"]) > 1
    for file in files:
        *found, other = run(Checkpoint(file, resume=True))
        assert found == expected
        x, y = make_data(dtype=net.dtype)
        last = copy.deepcopy(net)
        for _ in range(2):
            assert other.train_step(x, y) == last.train_step(x, y)


@OWN
@pytest.mark.parametrize("optimizer", [
    lambda: fn.SGD(0.1, 0.9), lambda: fn.SGD(0.1), lambda: fn.SGD(0.1, 0.9, True),
    lambda: fn.Adam(0.01, clip_norm=0.1), lambda: fn.AdamW(Cosine(0.01, 10, warmup=4)),
    lambda: fn.RMSprop(0.01, momentum=0.5, centered=True, weight_decay=0.1),
    lambda: fn.SGD(StepDecay(0.1, 5), 0.5), lambda: fn.Adam(InverseScaling(0.1))],
    ids=lambda make: repr(make()))
def test_optimizers_go_on(optimizer, own, dtype, tmp_path):
    check_going_on(lambda: make_network(optimizer(), own=own, dropout=0.2, dtype=dtype),
                   tmp_path, data=make_data(dtype=dtype))


@pytest.mark.parametrize("rng", [
    7, None, lambda: np.random.default_rng(7),
    *[lambda kind=kind: np.random.Generator(getattr(np.random, kind)(7))
      for kind in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")]],
    ids=["int", "None", "default", "PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_orders_go_on(rng, tmp_path):
    check_going_on(make_network, tmp_path, rng=rng)


def test_without_shuffling_there_is_no_order(tmp_path):
    check_going_on(make_network, tmp_path, shuffle=False)


@OWN
def test_other_callbacks_and_metrics_go_on(own, tmp_path):
    def callbacks():
        return (EarlyStopping("val_loss", patience=3, min_delta=0.02),
                ReduceLROnPlateau("loss", factor=0.5, patience=2, min_delta=0.2, cooldown=2))

    check_going_on(
        lambda: make_network(fn.Adam(0.02), metrics=["accuracy", "top_2_accuracy"], own=own),
        tmp_path, callbacks, epochs=9, validation_split=0.3)


def test_large_layers_and_inner_networks_go_on(tmp_path):
    def make():
        rng = np.random.default_rng(1)
        net = fn.Sequential([
            fn.Dense(4, 256, rng=rng), fn.Sequential([fn.Dense(256, 160, rng=rng), fn.Tanh()]),
            fn.Residual([fn.LayerNorm(160), fn.Dense(160, 160, rng=rng), fn.Dropout(0.2, rng=2)]),
            fn.Dense(160, 3, rng=rng)])
        net.layers[0].trainable = False
        net.compile("adam", metrics=["accuracy"])
        return net

    check_going_on(make, tmp_path, epochs=3)


def test_batches_go_on(tmp_path):
    x, y = make_data()
    batches = [(x[i:i + 7], y[i:i + 7], np.arange(7.0)[:len(y[i:])]) for i in range(0, 30, 7)]
    check_going_on(lambda: make_network("adam"), tmp_path, data=(batches,),
                   gradient_accumulation_steps=2)


def test_dropout_without_a_seed_goes_on_too(tmp_path):
    def make():
        net = fn.Sequential([fn.Dense(4, 8, rng=1), fn.Dropout(0.5), fn.Dense(8, 3, rng=2)])
        net.compile("adam")
        return net

    net, other = make(), make()
    fit(net, Each(tmp_path), epochs=3)
    fit(other, Checkpoint(tmp_path / "1", resume=True), epochs=3)
    assert bits(other) == bits(net)


def stopped_early(path):
    net, stopper = make_network(), EarlyStopping("loss", patience=2, min_delta=9)
    history = fit(net, stopper, Checkpoint(path, resume=True), epochs=9)
    return net, vars(history), stopper


def test_a_fit_that_was_stopped_early_stays_stopped(tmp_path):
    """With the best parameters."""
    (net, history, stopper), (again, same, other) = (
        stopped_early(tmp_path / "c") for _ in range(2))
    assert same == history and history["epoch"] == [1, 2, 3]
    assert net.optimizer.steps == again.optimizer.steps == 9
    assert bits(net) == bits(again) and other.best_epoch == stopper.best_epoch == 0


def test_a_fit_that_stays_stopped_knows_when_that_was(tmp_path):
    for _ in range(2):
        assert stopped_early(tmp_path / "c")[2].stopped_epoch == 2


def test_a_fit_that_ones_own_callback_stopped_goes_on(tmp_path):
    """As after a time that was up."""
    def time_is_up(self, epoch, logs=None):
        self.model.stop_training = epoch == 1

    net, expected = make_network(), make_network()
    fit(net, does(on_epoch_end=time_is_up), Checkpoint(tmp_path / "c"), epochs=5)
    assert net.optimizer.steps == 6
    fit(net, does(on_epoch_end=time_is_up), Checkpoint(tmp_path / "c", resume=True), epochs=5)
    fit(expected, epochs=5)
    assert bits(net) == bits(expected)


def test_a_bar_knows_what_was_done_before(tmp_path, capsys):
    pytest.importorskip("tqdm")
    for epochs in (2, 4):
        fit(make_network(), Checkpoint(tmp_path / "c", resume=True), epochs=epochs, verbose=1)
    assert "4/4" in capsys.readouterr().out


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_callbacks import *
path, epochs = sys.argv[2], int(sys.argv[3])
net = make_network(fn.Adam(0.01), metrics=["accuracy"], own=True, dropout=0.3)
history = fit(net, ReduceLROnPlateau("loss", patience=1, min_delta=1),
              Checkpoint(path, resume=True), epochs=epochs)
print(bits(net).hex(), vars(history), net.optimizer.lr)
"""


def test_a_new_process_goes_on(tmp_path):
    def run(path, epochs):
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, Path(__file__).parent, tmp_path / path, str(epochs)],
            capture_output=True, text=True, check=True).stdout

    whole = run("whole", 5)
    assert run("parts", 2) != whole and run("parts", 5) == whole


def test_an_interrupted_fit_goes_on(tmp_path):
    def interrupt(self, batch, logs=None):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 8:
            raise KeyboardInterrupt

    net, expected = make_network("adam", dropout=0.3), make_network("adam", dropout=0.3)
    with pytest.raises(KeyboardInterrupt):
        fit(net, Checkpoint(tmp_path / "c"), does(on_train_batch_end=interrupt), epochs=5)
    again = fit(net, Checkpoint(tmp_path / "c", resume=True), epochs=5)
    assert vars(again) == vars(fit(expected, epochs=5)) and bits(net) == bits(expected)


def test_restore_without_a_fit(tmp_path):
    net, other = make_network("adam", dropout=0.2), make_network("adam", dropout=0.2)
    fit(net, Checkpoint(tmp_path / "c"), epochs=2)
    Checkpoint(tmp_path / "c").restore(other)
    x, y = make_data()
    assert bits(net) == bits(other) and net.train_step(x, y) == other.train_step(x, y)
    assert bits(net) == bits(other)
    raw = fn.Sequential([fn.Dense(4, 8), fn.ReLU(), fn.Dropout(0.2), fn.Dense(8, 3)])
    Checkpoint(tmp_path / "c").restore(raw)         # not compiled: the parameters alone
    assert raw.predict(x).shape == (30, 3)


class Keeps(Callback):
    """Has a state."""

    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def round_trip(tmp_path, state, other):
    """Return what a callback is given back."""
    fit(make_network(), Keeps(state), Checkpoint(tmp_path / "c"))
    keeps = Keeps(other)
    fit(make_network(), keeps, Checkpoint(tmp_path / "c", resume=True))
    return keeps.state


@pytest.mark.parametrize("state", [
    {"a": 1, "b": 0.1, "c": "text \u00e9 \0 \ud800", "d": None, "e": True, "f": math.inf},
    {"list": [1, [2.5, None], {"deep": {}}], "big": 10**40, "small": 5e-324},
    {"rows": np.arange(6.0).reshape(2, 3), "in": {"a": [np.float32(0.1), np.arange(0)]}},
    {"array": np.arange(3)}, {"array": "0"}, {"deep": {"array": "0"}}, {"deep": {"array": [1]}}],
    ids=str)
def test_states_of_own_callbacks_come_back(state, tmp_path):
    np.testing.assert_equal(round_trip(tmp_path, state, {"a": 0}), state)


def test_a_state_may_be_empty_at_first(tmp_path):
    assert round_trip(tmp_path, {"seen": 1}, {}) == {"seen": 1}


@pytest.mark.parametrize("value", [
    {1, 2}, b"bytes", object(), 1j, np.array([None, {}]), {"$array": "0.weight"}],
    ids=["set", "bytes", "object", "complex", "objects", "a word of the files"])
def test_49_a_state_that_would_not_come_back_is_refused_when_it_is_written(value, tmp_path):
    with pytest.raises(TypeError):
        fit(make_network(), Keeps({"a": value}), Checkpoint(tmp_path / "c"))
    assert list(tmp_path.iterdir()) == []


class Counts(Checkpoint):
    """Removes its file before each epoch's end, and remembers what was written, by epoch."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.written = {}

    def on_epoch_end(self, epoch, logs=None):
        self.path.unlink(missing_ok=True)
        super().on_epoch_end(epoch, logs)
        if self.path.exists():
            self.written[epoch + 1] = read_state(self.path, "network")


@pytest.mark.parametrize("every, epochs", [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (5, [5]), (6, [])])
def test_files_are_written_every_so_many_epochs(every, epochs, tmp_path):
    checkpoint = Counts(tmp_path / "c", every)
    fit(make_network(), checkpoint, epochs=5)
    assert list(checkpoint.written) == epochs


def test_with_monitor_the_file_has_the_best_epoch(tmp_path):
    kept = []
    keep = does(on_epoch_end=lambda self, epoch, logs: kept.append(bits(self.model)))
    net = make_network(metrics=[Scripted(3, 1, math.nan, 2)])
    fit(net, keep, Checkpoint(tmp_path / "c", monitor="figure"), epochs=4)
    Checkpoint(tmp_path / "c").restore(net)
    assert bits(net) == kept[1]


@pytest.mark.parametrize("figures, written", [
    ((3, 1, 2, 2, 2, 2), [2]), ((3, 4, 1, 2, 0, 1), []), ((3, 2, 4, 1, 2, 2), [2, 4]),
    ((math.nan, 3, 1, 2, 2, 0), [2, 6])])
def test_with_monitor_all_epochs_are_looked_at_and_some_may_be_written(figures, written, tmp_path):
    checkpoint = Counts(tmp_path / "c", every=2, monitor="figure")
    fit(make_network(metrics=[Scripted(*figures)]), checkpoint, epochs=6)
    assert {epoch: dict(state["fit"]["callbacks"])["Counts"]["best"]
            for epoch, state in checkpoint.written.items()} == {
                epoch: figures[epoch - 1] for epoch in written}


def test_the_best_figure_of_before_counts_after_going_on(tmp_path):
    path = tmp_path / "c"
    fit(make_network(metrics=[Scripted(3, 1)]), Checkpoint(path, monitor="figure"), epochs=2)
    before = path.read_bytes()
    options = {"monitor": "figure", "resume": True}
    fit(make_network(metrics=[Scripted(2)]), Checkpoint(path, **options), epochs=3)
    assert path.read_bytes() == before
    fit(make_network(metrics=[Scripted(0)]), Checkpoint(path, **options), epochs=3)
    assert path.read_bytes() != before


def test_without_resume_the_file_is_not_looked_at(tmp_path):
    (tmp_path / "c").write_bytes(b"nothing")
    net, twin = make_network(), make_network()
    fit(net, Checkpoint(tmp_path / "c"))
    fit(twin)
    assert bits(net) == bits(twin)


def test_a_file_holds_nothing_but_the_state(tmp_path):
    net = make_network(own=True)
    fit(net, Checkpoint(tmp_path / "c"))
    state = read_state(tmp_path / "c", "network")
    assert state["network"] is None
    assert [(name, value.tobytes()) for name, value in state["parameters"].items()] == [
        (name, value.tobytes()) for name, value, _ in net.parameters()]
    with pytest.raises(fn.ModelFileError, match=r"not all built in.*Checkpoint\.restore"):
        fn.load(tmp_path / "c")


def test_load_makes_the_network_of_a_checkpoint(tmp_path):
    net = make_network("adam", dropout=0.3)
    fit(net, Checkpoint(tmp_path / "c"), epochs=2)
    loaded = fn.load(tmp_path / "c")
    assert bits(loaded) == bits(net) and repr(loaded) == repr(net)
    fit(net), fit(loaded)
    assert bits(loaded) == bits(net)


# ---- Checkpoint: files that do not fit -------------------------------------------------------

@pytest.mark.parametrize("make, callbacks, match", [
    (lambda: make_network(width=9), (), "0.weight"),
    (lambda: make_network(dtype="float64"), (), "float32"),
    (lambda: make_network(outputs=4), (), "weight"),
    (lambda: make_network(own=True), (), "parameters"),
    (lambda: make_network(dropout=0.5), (), "parameters|Dropout"),
    (lambda: make_network("adam"), (), "optimizer is SGD, not Adam"),
    (make_network, (ReduceLROnPlateau("loss"),), "callbacks were EarlyStopping"),
    (make_network, (EarlyStopping("loss"), EarlyStopping("loss")), "callbacks were EarlyStopping"),
    (make_network, None, "callbacks were EarlyStopping, but are none")])
def test_a_file_of_another_fit_changes_nothing(make, callbacks, match, tmp_path):
    """Neither the network and its optimizer, nor the generator and the callbacks."""
    stopper = EarlyStopping("loss", patience=5)
    fit(make_network(), stopper, Checkpoint(tmp_path / "c"), epochs=2)
    own = (EarlyStopping("loss", patience=5),) if callbacks == () else callbacks or ()
    net, twin, rng = make(), make(), np.random.default_rng(9)
    before = [callback.state_dict() for callback in own]
    with pytest.raises(ValueError, match=match):
        fit(net, *own, Checkpoint(tmp_path / "c", resume=True), rng=rng,
            data=make_data(dtype=net.dtype))
    assert bits(net) == bits(twin)
    assert (net.optimizer.lr, net.optimizer.steps) == (twin.optimizer.lr, 0)
    assert rng.bit_generator.state == np.random.default_rng(9).bit_generator.state
    assert [callback.state_dict() for callback in own] == before
    data = make_data(dtype=net.dtype)
    assert vars(fit(net, data=data)) == vars(fit(twin, data=data)) and bits(net) == bits(twin)


@pytest.mark.parametrize("options", [
    {"shuffle": False}, {"rng": np.random.Generator(np.random.MT19937(1))}], ids=["none", "other"])
def test_other_orders_are_noticed(options, tmp_path):
    fit(make_network(), Checkpoint(tmp_path / "c"))
    net = make_network()
    with pytest.raises(ValueError, match="shuffle|PCG64|MT19937|generator"):
        fit(net, Checkpoint(tmp_path / "c", resume=True), **options)
    assert bits(net) == bits(make_network())


FAULTS = [
    ("epoch", "3"), ("epoch", None), ("epoch", 1.5), ("epoch", -1), ("epoch", True),
    ("orders/state", {"state": -1, "inc": 1}), ("orders/has_uint32", "x"), ("orders", 3),
    ("history", 3), ("history/loss", 5), ("history/loss", ["a"]), ("history/loss", [None]),
    ("history/epoch", [1.5]), ("history/plot", []), ("history/_append", []),
    ("history/more", "text"), ("callbacks", 3), ("callbacks/0", ["EarlyStopping"]),
    ("callbacks/0/1", 3), ("callbacks/0/1/best", "x"), ("callbacks/0/1/best", None),
    ("callbacks/0/1/best", math.nan), ("callbacks/0/1/wait", "x"), ("callbacks/0/1/wait", -1),
    ("callbacks/0/1/best_epoch", "x"), ("callbacks/0/1/stopped_epoch", 0.5),
    ("callbacks/0/1/weights", 3), ("callbacks/0/1/weights", []),
    ("callbacks/0/1/weights/0", None), ("callbacks/0/1/weights/0", 3),
    ("callbacks/0/1/weights/0", np.zeros((8, 4), "f4")),
    ("callbacks/0/1/weights/0", np.zeros((4, 8), "f8")),
    ("callbacks/1/1/best", []), ("callbacks/1/1/resting", 0.5), ("callbacks/1/1/wait", None),
    ("callbacks/1/1/resting", "x"), ("callbacks/2/1/best", {}), ("callbacks/2/1", None)]


@pytest.mark.parametrize("way, value", FAULTS)
def test_60_61_a_made_up_state_of_a_fit_changes_nothing(way, value, tmp_path):
    """And what a file does not hold is noticed when it is read, not epochs later."""
    path = tmp_path / "c"

    def options():
        stopper, plateau = EarlyStopping("loss", patience=9), ReduceLROnPlateau("loss")
        return (stopper, plateau, Checkpoint(path, monitor="loss", resume=True))

    fit(make_network(), *options(), epochs=2)
    change(path, f"fit/{way}", value)
    net, twin, own, rng = make_network(), make_network(), options(), np.random.default_rng(9)
    before = [callback.state_dict() for callback in own]
    with pytest.raises(fn.ModelFileError, match="does not fit this network: ."):
        fit(net, *own, rng=rng, epochs=4)
    assert bits(net) == bits(twin) and net.optimizer.steps == 0
    assert net.optimizer._state(net.layers) == twin.optimizer._state(twin.layers)
    assert rng.bit_generator.state == np.random.default_rng(9).bit_generator.state
    assert [callback.state_dict() for callback in own] == before


@pytest.fixture
def small(tmp_path):
    """A network, a file of it, and whether a file is refused or gives just what it held."""
    def make():
        net = fn.Sequential([fn.Dense(1, 1, rng=0)])
        net.compile(fn.SGD(0.1, 0.9), "mse")
        return net

    path = tmp_path / "c"
    trained, net = make(), make()
    trained.fit([[1], [2]], [1, 3], rng=0, verbose=0, callbacks=[Checkpoint(path)])
    before, expected = bits(net), bits(trained)

    def refused():
        """Any other end is an error."""
        try:
            Checkpoint(path).restore(net)
        except ValueError as error:
            assert str(path) in str(error) and bits(net) == before
            return True
        assert bits(net) == expected
        net.layers[0].weight[...] = np.frombuffer(before, "float32")[0]
        net.layers[0].bias[...] = 0
        assert bits(net) == before
        return False

    assert not refused()
    return path, refused


def test_57_a_truncated_file(small):
    path, refused = small
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        assert refused()


def test_58_a_changed_byte_anywhere(small):
    path, refused = small
    data, draw = path.read_bytes(), random.Random(1)
    with open(path, "r+b", buffering=0) as file:
        for place, byte in enumerate(data):
            file.seek(place)
            file.write(bytes([byte ^ draw.choice([1, 8, 128, 255])]))
            assert refused()
            file.seek(place)
            file.write(bytes([byte]))


class Evil:
    """Leaves a trace where it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def archive(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def written(state, kind="network"):
    """The content of a file."""
    with tempfile.TemporaryDirectory() as folder:
        write_state(Path(folder, "c"), kind, state)
        return Path(folder, "c").read_bytes()


STATE = {"network": None, "parameters": {}, "dropout": [], "optimizer": None, "fit": None}


@pytest.mark.parametrize("content", [
    b"", b"text", pickle.dumps(Evil()), archive(a=np.arange(3)), written(STATE, "estimator"),
    written([]), written({}), written(STATE), written({**STATE, "parameters": 3}),
    written({**STATE, "parameters": {"0.weight": 1, "0.bias": 2}})],
    ids=["empty", "text", "pickle", "NumPy archive", "another kind", "list", "nothing",
         "no parameters", "a number", "numbers for arrays"])
def test_59_60_what_is_no_checkpoint(content, small, tmp_path, monkeypatch):
    path, refused = small
    monkeypatch.chdir(tmp_path)
    path.write_bytes(content)
    assert refused()
    assert not Path("executed").exists()


def test_62_a_newer_format_is_refused(small, monkeypatch):
    path, refused = small
    with monkeypatch.context() as patch:
        patch.setattr(_state_file, "VERSION", 2)
        write_state(path, "network", STATE)
    assert refused()
    with pytest.raises(fn.ModelFileError, match="format version 2; .* reads 1"):
        Checkpoint(path).restore(make_network())


# ---- Checkpoint: files that cannot be written or read ----------------------------------------

@pytest.mark.parametrize("fail_after", [0, 2000])
def test_63_the_old_file_stays_when_writing_fails(fail_after, tmp_path, monkeypatch):
    path = tmp_path / "c"
    net = make_network()
    fit(net, Checkpoint(path))
    before = path.read_bytes()

    @contextmanager
    def full(path):
        def write(data):
            nonlocal left
            left -= len(data)
            if left < 0:
                raise OSError(28, "No space left on device")

        left = fail_after
        with _files.replacing(path) as file:
            yield SimpleNamespace(write=write)
            file.write(b"not reached")

    with monkeypatch.context() as patch:
        patch.setattr(_state_file, "replacing", full)
        with pytest.raises(OSError, match="No space left"):
            fit(net, Checkpoint(path))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["c"]
    fit(net, Checkpoint(path))
    assert path.read_bytes() != before


def test_66_folders_that_are_missing_or_none(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in ("missing/c", "file/c", "folder"):
        net = make_network()
        with pytest.raises(OSError):
            fit(net, Checkpoint(tmp_path / path))
        assert net.optimizer.steps == 3
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"] and not os.listdir(
        tmp_path / "folder")
    with pytest.raises(OSError):
        Checkpoint(tmp_path / "missing").restore(make_network())
    with pytest.raises(OSError):
        fit(make_network(), Checkpoint(tmp_path / "folder", resume=True))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_66_a_folder_that_cannot_be_written_to(tmp_path):
    fit(make_network(), Checkpoint(tmp_path / "c"))
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            fit(make_network(), Checkpoint(tmp_path / "c"))
    finally:
        tmp_path.chmod(0o700)
    Checkpoint(tmp_path / "c").restore(make_network())


def test_nothing_else_is_left_in_the_folder(tmp_path):
    for name in ("c", "c.npz", "a b \u00e9.tar"):
        fit(make_network(), Checkpoint(str(tmp_path / name)), epochs=2)
    assert sorted(os.listdir(tmp_path)) == sorted(["c", "c.npz", "a b \u00e9.tar"])


def test_a_relative_path_is_taken_from_where_the_process_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(make_network(), Checkpoint("c"))
    shutil.move("c", "d")
    net = make_network()
    fit(net, Checkpoint("d", resume=True))
    assert net.optimizer.steps == 3
