"""`python -m fastnet`: what its commands print, write and refuse, and how its training counts."""

import csv
import errno
import io
import math
import os
import pickle
import platform
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from changed_files import change

import fastnet as fn
from fastnet import _cli, _data, _model, _ops, _results, _training
from fastnet._state_file import read_state, write_state

HEADER = "epoch      loss  accuracy  val_loss  val_accuracy"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def without(monkeypatch):
    """Return a function that makes a package look as if it were not installed."""
    def hide(package):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"{package}.figure", raising=False)
    return hide


@pytest.fixture
def no_training(monkeypatch):
    """Make the test fail if training starts."""
    def train(*args, **kwargs):
        raise AssertionError("training has started")
    monkeypatch.setattr(_training, "train", train)


def command(*args):
    return [sys.executable, "-m", "fastnet", *args]


def run(*args):
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=60)


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def trained(seed=0, dtype="float32", **options):
    """Return history, network and test samples of the run that the command should make."""
    rng = np.random.default_rng(seed)
    model, training, validation, test = _training.prepare(
        _data.digits(), [100], rng, dtype, standardise=False)
    history = list(_training.train(model.network, training, validation, rng, **options))
    return history, model.network, test


def rows_of(text):
    """Return the numbers of the lines that begin with an epoch's number."""
    return [[float(word) for word in line.split()]
            for line in text.splitlines() if re.match(r" *\d", line)]


# ---- A whole run -----------------------------------------------------------------------------

def test_train_with_its_defaults(folder):
    pytest.importorskip("matplotlib")
    done = run("train")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == HEADER and len(rows_of(done.stdout)) == 50
    found = re.fullmatch(r"test accuracy (\d\.\d{4}), trained in \d+\.\d s", lines[-2])
    # One seed, 180 digits: the promise about ten seeds stands in test_digits.py.
    assert float(found[1]) > 0.95
    assert lines[-1] == "wrote digits.safetensors and digits.png"
    assert sorted(os.listdir(folder)) == ["digits.png", "digits.safetensors"]


def test_lines_show_the_history(capsys):
    options = {"epochs": 3, "batch_size": 50, "lr": 0.05, "momentum": 0.5}
    history, network, test = trained(seed=4, **options)
    assert _cli.main(["train", "--epochs", "3", "--batch-size", "50", "--lr", "0.05",
                      "--momentum", "0.5", "--seed", "4"]) == 0
    out = capsys.readouterr().out
    # Printed with 4 decimals.
    assert np.allclose(rows_of(out), [[n, *row.values()] for n, row in enumerate(history, 1)],
                       rtol=0, atol=0.5001e-4)
    assert f"test accuracy {network.evaluate(*test).accuracy:.4f}," in out


def test_defaults_are_those_of_the_training(capsys):
    history, _, _ = trained()
    assert _cli.main(["train"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert len(rows) == len(history) == 50
    assert np.allclose([row[1:] for row in rows], [list(epoch.values()) for epoch in history],
                       rtol=0, atol=0.5001e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_are_saved_as_plain_arrays(dtype):
    _, network, _ = trained(dtype=dtype, epochs=2)
    assert _cli.main(["train", "--epochs", "2", "--dtype", dtype]) == 0
    state = read_state("digits.safetensors", "network")
    parameters = state["parameters"]
    first, _, second = network.layers
    expected = {"0.weight": first.weight, "0.bias": first.bias,
                "2.weight": second.weight, "2.bias": second.bias}
    assert list(parameters) == list(expected) and state["optimizer"] is None
    for name, value in expected.items():
        assert parameters[name].dtype == dtype
        assert np.array_equal(parameters[name], value)


def test_same_seed_same_numbers():
    def parameters(stem, *args):
        assert _cli.main(["train", "--epochs", "2", "--out", stem, *args]) == 0
        saved = read_state(f"{stem}.safetensors", "network")["parameters"]
        return np.concatenate([saved[name].ravel() for name in ("0.weight", "2.bias")])

    first = parameters("first", "--seed", "5")
    assert np.array_equal(first, parameters("second", "--seed", "5"))
    assert not np.array_equal(first, parameters("third", "--seed", "6"))


# ---- Curves ----------------------------------------------------------------------------------

def test_picture_is_a_png_of_the_announced_size():
    image = pytest.importorskip("matplotlib.image")
    assert _cli.main(["train", "--epochs", "2", "--out", "some.name"]) == 0
    with open("some.name.png", "rb") as file:
        start = file.read(24)
    assert start[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", start[16:])
    assert (width, height) == (1500, 630)
    pixels = image.imread("some.name.png")
    assert pixels.shape[:2] == (height, width)
    assert pixels.std() > 0                     # something is drawn


def test_figure_has_two_plots_with_two_curves_each():
    pytest.importorskip("matplotlib")
    history = [{"loss": 2.0, "accuracy": 0.5, "val_loss": 1.5, "val_accuracy": 0.6},
               {"loss": 1.0, "accuracy": 0.7, "val_loss": 1.2, "val_accuracy": 0.65}]
    figure = _results.draw(history, "a title")
    assert figure.get_suptitle() == "a title"
    expected = {"loss": ([2.0, 1.0], [1.5, 1.2]), "accuracy": ([0.5, 0.7], [0.6, 0.65])}
    assert [axes.get_ylabel() for axes in figure.axes] == list(expected)
    for axes, curves in zip(figure.axes, expected.values(), strict=True):
        assert axes.get_xlabel() == "epoch"
        assert [text.get_text() for text in axes.get_legend().texts] == ["training", "validation"]
        assert [line.get_label() for line in axes.lines] == ["training", "validation"]
        for line, curve in zip(axes.lines, curves, strict=True):
            assert list(line.get_xdata()) == [1, 2]
            assert list(line.get_ydata()) == curve
    left, right = (axes.get_position() for axes in figure.axes)
    assert left.x1 < right.x0 and left.y0 == right.y0


@pytest.mark.parametrize("losses, scale", [([0.0, 0.0], "linear"), ([0.5, 0.0], "log")])
def test_losses_of_0_are_drawn_without_a_warning(losses, scale):
    pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = _results.draw([{"loss": loss, "val_loss": loss} for loss in losses], "zeros")
        figure.savefig(io.BytesIO(), format="png")
    assert figure.axes[0].get_yscale() == scale


def test_title_tells_net_and_test_accuracy(monkeypatch):
    pytest.importorskip("matplotlib")
    titles = []
    draw = _results.draw
    monkeypatch.setattr(_results, "draw", lambda h, title: titles.append(title) or draw(h, title))
    assert _cli.main(["train", "--epochs", "2"]) == 0
    _, network, test = trained(epochs=2)
    accuracy = network.evaluate(*test).accuracy
    assert titles == [f"64-100-10 on handwritten digits: test accuracy {accuracy:.4f}"]


def test_drawing_leaves_pyplot_alone():
    pytest.importorskip("matplotlib")
    done = python("import sys; from fastnet._cli import main; main(['train', '--epochs', '1']); "
                  "assert 'matplotlib' in sys.modules; "
                  "assert 'matplotlib.pyplot' not in sys.modules")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_matplotlib_the_curves_are_a_table(folder, without, capsys):
    without("matplotlib")
    history, _, _ = trained(epochs=3)
    assert _cli.main(["train", "--epochs", "3"]) == 0
    assert sorted(os.listdir(folder)) == ["digits.csv", "digits.safetensors"]
    header, *rows = (folder / "digits.csv").read_text().splitlines()
    assert header == "epoch,loss,accuracy,val_loss,val_accuracy"
    # All digits are written, so nothing is lost.
    assert [[float(cell) for cell in row.split(",")] for row in rows] == [
        [number, *epoch.values()] for number, epoch in enumerate(history, 1)]
    assert all(row.split(",")[0] == str(number) for number, row in enumerate(rows, 1))
    *_, hint, wrote = capsys.readouterr().out.splitlines()
    assert "pip install '.[plot]'" in hint
    assert wrote == "wrote digits.safetensors and digits.csv"


# ---- Progress --------------------------------------------------------------------------------

def test_lines_are_the_same_without_tqdm(without, capsys):
    def lines():
        assert _cli.main(["train", "--epochs", "2", "--force"]) == 0
        return re.sub(r"trained in .* s", "", capsys.readouterr().out)

    with_tqdm = lines()
    without("tqdm")
    assert lines() == with_tqdm


def test_bar_is_shown_on_a_terminal():
    pytest.importorskip("tqdm")
    terminal, child_end = pty.openpty()
    termios.tcsetwinsize(child_end, (24, 80))   # tqdm draws nothing on a terminal of no width
    with subprocess.Popen(command("train", "--epochs", "2"), stdout=subprocess.PIPE,
                          stderr=child_end, text=True) as process:
        os.close(child_end)
        out, _ = process.communicate(timeout=60)
        shown = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert process.returncode == 0
    assert "0/2 [" in shown
    assert "0/2 [" not in out and len(rows_of(out)) == 2


# ---- Files that cannot be written ------------------------------------------------------------

@pytest.mark.parametrize("name", ["digits.safetensors", "digits.png"])
def test_existing_file_is_refused_and_untouched(folder, no_training, capsys, name):
    pytest.importorskip("matplotlib")
    (folder / name).write_text("precious")
    assert _cli.main(["train"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (f"fastnet: cannot write {name}: it exists already; "
                            "--force replaces it\n")
    assert (folder / name).read_text() == "precious"
    assert os.listdir(folder) == [name]


def test_link_to_nowhere_counts_as_existing(folder, no_training, capsys):
    (folder / "digits.safetensors").symlink_to("nowhere")
    assert _cli.main(["train"]) == 1
    assert "exists already" in capsys.readouterr().err


def test_force_replaces(folder):
    pytest.importorskip("matplotlib")
    for name in ("digits.safetensors", "digits.png", "digits.csv"):
        (folder / name).write_text("old")
    assert _cli.main(["train", "--epochs", "1", "--force"]) == 0
    assert (folder / "digits.png").read_bytes().startswith(b"\x89PNG")
    assert fn.load("digits.safetensors").predict(np.ones((1, 64))).shape == (1, 10)
    assert (folder / "digits.csv").read_text() == "old"      # not a file of this run
    assert len(os.listdir(folder)) == 3


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("out, reason", [
    ("missing/digits", "cannot write missing/digits.safetensors: No such file or directory"),
    ("file/digits", "cannot write file/digits.safetensors: Not a directory"),
    ("taken", "cannot write taken.png: it is a directory"),
    ("n" * 300, "File name too long"),
])
def test_unwritable_path_is_found_before_training(folder, no_training, capsys, out, reason, force):
    pytest.importorskip("matplotlib")
    (folder / "file").touch()
    (folder / "taken.png").mkdir()
    assert _cli.main(["train", "--out", out, *force]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fastnet: cannot write ")
    assert captured.err.endswith(f"{reason}\n") and captured.err.count("\n") == 1
    assert sorted(os.listdir(folder)) == ["file", "taken.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_missing_permission_is_found_before_training(folder, no_training, capsys):
    (folder / "digits.safetensors").touch(mode=0o444)
    assert _cli.main(["train", "--force"]) == 1
    assert "digits.safetensors: it is write-protected" in capsys.readouterr().err
    (folder / "closed").mkdir(mode=0o555)
    assert _cli.main(["train", "--out", "closed/digits"]) == 1
    assert "closed/digits.safetensors: Permission denied" in capsys.readouterr().err


def test_unwritable_path_gives_no_traceback():
    done = run("train", "--out", "missing/digits")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("fastnet: cannot write missing/digits.safetensors: "
                           "No such file or directory\n")


def test_failed_write_leaves_the_old_file(folder, monkeypatch, capsys):
    def fsync(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    assert _cli.main(["train", "--epochs", "1"]) == 1
    assert capsys.readouterr().err == (
        "fastnet: cannot write digits.safetensors: No space left on device\n")
    assert os.listdir(folder) == []
    (folder / "digits.safetensors").write_text("old")
    assert _cli.main(["train", "--epochs", "1", "--force"]) == 1
    assert (folder / "digits.safetensors").read_text() == "old"
    assert os.listdir(folder) == ["digits.safetensors"]


def test_files_have_the_usual_permissions(folder):
    (folder / "usual").touch()
    assert _cli.main(["train", "--epochs", "1"]) == 0
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1


# ---- Arguments -------------------------------------------------------------------------------

@pytest.mark.parametrize("option, value, message", [
    ("--epochs", "0", "must be an int in the interval [1, inf), got '0'"),
    ("--epochs", "1.5", "must be an int in the interval [1, inf), got '1.5'"),
    ("--batch-size", "-3", "must be an int in the interval [1, inf), got '-3'"),
    ("--lr", "-0.1", "must be a number in the interval [0, inf), got '-0.1'"),
    ("--lr", "nan", "must be a number in the interval [0, inf), got 'nan'"),
    ("--lr", "inf", "must be a number in the interval [0, inf), got 'inf'"),
    ("--lr", "fast", "must be a number in the interval [0, inf), got 'fast'"),
    ("--momentum", "1", "must be a number in the interval [0, 1), got '1'"),
    ("--seed", "-1", "must be an int in the interval [0, inf), got '-1'"),
    ("--dtype", "float16", "invalid choice: 'float16'"),
    ("--out", "folder/", "must end in the name of a file, got 'folder/'"),
    ("--out", "", "must end in the name of a file, got ''"),
])
def test_bad_value_is_refused(folder, no_training, capsys, option, value, message):
    with pytest.raises(SystemExit) as stop:
        _cli.main(["train", option, value])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert f"python -m fastnet train: error: argument {option}: {message}" in err
    assert os.listdir(folder) == []


def test_a_learning_rate_that_the_dtype_cannot_hold_is_refused(folder, no_training, capsys):
    # The second number is the largest one's neighbour in float64.
    for lr in ("1e39", "3.4028234663852893e38"):
        assert _cli.main(["train", "no.csv", "--target", "t", "--lr", lr]) == 1
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == (
            "", "fastnet: --lr must be in the interval [0, 3.403e+38] for float32, "
                f"got {float(lr)}\n")
    for options in (["--lr", "3.4028234663852886e38"], ["--lr", "1e39", "--dtype", "float64"]):
        assert _cli.main(["train", "no.csv", "--target", "t", *options]) == 1
        assert "cannot read no.csv" in capsys.readouterr().err
    assert os.listdir(folder) == []


@pytest.mark.parametrize("args", [["learn"], ["train", "--colour", "red"], ["info", "more"]])
def test_unknown_argument_is_refused(args):
    with pytest.raises(SystemExit) as stop:
        _cli.main(args)
    assert stop.value.code == 2


def test_no_command_prints_help():
    done = run()
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m fastnet ")
    assert "learn to read handwritten digits" in done.stderr
    assert "show versions" in done.stderr


# ---- Runs that end early ---------------------------------------------------------------------

def test_loss_that_is_not_finite_stops_the_run(folder, capsys):
    # The first step makes weights of about 1e29, the second a product of two of them.
    assert _cli.main(["train", "--lr", "1e30"]) == 1
    captured = capsys.readouterr()
    assert captured.err == ("fastnet: the loss is nan at epoch 1, step 2; "
                            "a smaller lr may help\n")
    assert rows_of(captured.out) == []
    assert os.listdir(folder) == []


def test_loss_that_the_last_step_ruins_stops_the_run(folder, capsys):
    assert _cli.main(["train", "--lr", "1e30", "--epochs", "1", "--batch-size", "1437"]) == 1
    assert "the validation loss is nan after epoch 1, step 1" in capsys.readouterr().err
    assert os.listdir(folder) == []


def test_interrupt_ends_without_traceback(folder):
    # The signal may be ignored where tests run in the background, and that is inherited.
    with subprocess.Popen(
        command("train", "--epochs", "1000000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert lines[0] == HEADER + "\n" and len(rows_of("".join(lines))) == 2
    assert process.returncode == 130
    assert err == "fastnet: interrupted\n"
    assert os.listdir(folder) == []


@pytest.mark.parametrize("args", [["info"], ["train", "--epochs", "2"]])
def test_reader_that_leaves_ends_without_traceback(args):
    # With a buffer, as is usual, short output is noticed to be lost only at the end.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env=buffered) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (1, "")


@pytest.mark.parametrize("args", [["info"], ["train", "--epochs", "2"]])
def test_a_closed_output_is_told_in_a_line(args, folder):
    found = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command(*args)],
                           stderr=subprocess.PIPE, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (1, "fastnet: the standard output is closed\n")
    assert os.listdir(folder) == []


def test_nothing_but_a_bar_and_messages_need_the_error_output(folder):
    found = subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *command("train", "--epochs", "2")],
                           stdout=subprocess.PIPE, text=True, timeout=60)
    assert found.returncode == 0 and len(rows_of(found.stdout)) == 2


# ---- The training itself ---------------------------------------------------------------------

@pytest.fixture
def samples(rng):
    """Two sets of 10 and 6 samples with 64 features and 10 classes."""
    return [(rng.normal(size=(n, 64)), rng.integers(0, 10, n)) for n in (10, 6)]


def make_network(rng, dtype="float64"):
    return _model.make_network([64, 100, 10], rng, dtype)


def measure(network, samples):
    """Return loss and accuracy, from losses and metrics on their own."""
    scores = network.predict(samples[0])
    return fn.SoftmaxCrossEntropy().forward(scores, samples[1]), fn.accuracy(scores, samples[1])


def values_of(network):
    return [value.copy() for _, value, _ in network.parameters()]


def test_training_figures_are_means_over_the_samples(samples, rng):
    """With lr 0 nothing changes, so batches of 4, 4 and 2 must give the figures of all 10."""
    (x, _), validation = samples
    network = make_network(rng)
    target = network.predict_labels(x)
    target[0] = (target[0] + 1) % 10            # one of ten is wrong
    training = x, target
    [epoch] = _training.train(network, training, validation, rng, epochs=1, batch_size=4, lr=0)
    assert list(epoch) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert epoch["accuracy"] == pytest.approx(0.9, rel=1e-14)
    expected = [*measure(network, training), *measure(network, validation)]
    # The same sum of 10 numbers near 1 in another order: some units in the last place.
    assert np.allclose(list(epoch.values()), expected, rtol=1e-14, atol=0)


def test_training_figures_are_those_before_the_step(samples, rng):
    training, validation = samples
    network = make_network(rng)
    before = measure(network, training)
    [epoch] = _training.train(network, training, validation, rng, epochs=1, batch_size=10)
    # Another order of the samples, as above.
    assert np.allclose((epoch["loss"], epoch["accuracy"]), before, rtol=1e-14, atol=0)
    assert np.allclose((epoch["val_loss"], epoch["val_accuracy"]), measure(network, validation),
                       rtol=1e-14, atol=0)
    assert measure(network, training)[0] < before[0]


def test_validation_only_measures(samples):
    training, validation = samples
    results = []
    for held_out in (validation, (100 * validation[0], 9 - validation[1])):
        rng = np.random.default_rng(0)
        network = make_network(rng, "float32")
        history = list(_training.train(network, training, held_out, rng, epochs=3, batch_size=4))
        results.append(([list(epoch.values()) for epoch in history], values_of(network)))
    (first, first_values), (second, second_values) = results
    assert [epoch[:2] for epoch in first] == [epoch[:2] for epoch in second]
    assert [epoch[2:] for epoch in first] != [epoch[2:] for epoch in second]
    assert all(map(np.array_equal, first_values, second_values))


def test_lr_and_momentum_reach_the_optimizer(samples, rng):
    """Two full-batch steps by hand: v = 0.25 v + g, w = w - 0.5 v."""
    training, validation = samples
    network, twin = (make_network(np.random.default_rng(0)) for _ in range(2))
    for _ in _training.train(network, training, validation, rng,
                             epochs=2, batch_size=10, lr=0.5, momentum=0.25):
        pass
    velocities = [np.zeros_like(value) for value in values_of(twin)]
    for _ in range(2):
        loss = fn.SoftmaxCrossEntropy()
        loss.forward(twin.forward(training[0]), training[1])
        twin.backward(loss.backward())
        for velocity, (_, value, gradient) in zip(velocities, twin.parameters(), strict=True):
            velocity[...] = 0.25 * velocity + gradient
            value -= 0.5 * velocity
    for value, expected in zip(values_of(network), values_of(twin), strict=True):
        # Sums over 10 samples in another order; entries near 0 have lost leading digits.
        assert np.allclose(value, expected, rtol=1e-12, atol=1e-14)


def test_step_with_a_bad_loss_is_not_applied(samples, rng):
    training, validation = samples
    network = make_network(rng)
    training[0][3, 5] = math.nan
    order = np.random.default_rng(1).permutation(10)
    bad_step = int(np.flatnonzero(order == 3)[0]) // 2 + 1
    assert bad_step > 1
    before = values_of(network)
    epochs = _training.train(network, training, validation, np.random.default_rng(1), batch_size=2)
    with pytest.raises(FloatingPointError, match=f"loss is nan at epoch 1, step {bad_step};"):
        next(epochs)
    after = values_of(network)
    assert not np.array_equal(before[0], after[0])          # the good steps before it are
    assert all(np.isfinite(value).all() for value in after)


def test_error_names_the_epoch_of_the_whole_run(samples, rng):
    training, validation = samples
    epochs = _training.train(make_network(rng), training, validation, rng, batch_size=5)
    next(epochs)
    next(epochs)
    training[0][:] = math.nan
    with pytest.raises(FloatingPointError, match="loss is nan at epoch 3, step 1;"):
        next(epochs)


# ---- Tables of one's own ---------------------------------------------------------------------

@pytest.fixture
def own(folder, without, capsys):
    """Return a function: write a table, run a command quickly on it, return its output."""
    without("matplotlib")                       # a picture takes longer than these networks

    def command_on(content, *args, command="train", status=0):
        if content is not None:
            (folder / "t.csv").write_bytes(content.encode() if isinstance(content, str)
                                           else content)
        epochs = ["--epochs", "2"] if command == "train" and "--epochs" not in args else []
        assert _cli.main([command, *args, *epochs]) == status
        captured = capsys.readouterr()
        if status:
            assert captured.err.startswith("fastnet: ") and captured.err.count("\n") == 1
            return captured.err.removeprefix("fastnet: ").rstrip("\n")
        assert captured.err == ""
        return captured.out

    return command_on


def table(target, n=20, header="a,b,t"):
    """A CSV table of n rows with columns a and b; `target(i)` gives the third cell."""
    rows = [f"{math.sin(i):.3f},{10 + 5 * math.cos(2 * i):.3f},{target(i)}" for i in range(n)]
    return "\n".join([header, *rows]) + "\n"


COLOURS = table(lambda i: ["red", "blue", "green"][i % 3])
NUMBERS = table(lambda i: 1000 + 50 * math.sin(i))


def saved(path="t-model.safetensors"):
    """What a model file says, and its arrays."""
    state = read_state(path, "network")
    dense = [layer for layer in state["network"]["layers"] if layer["class"] == "Dense"]
    about = {**state["table"], "dtype": dense[0]["dtype"],
             "widths": [dense[0]["in_features"], *(layer["out_features"] for layer in dense)]}
    about["task"] = "regression" if about["classes"] is None else "classification"
    return about, {**state["parameters"], "mean": about.pop("mean"), "scale": about.pop("scale")}


def by_hand(x, path="t-model.safetensors"):
    """The outputs of a saved network, in NumPy and float64."""
    about, arrays = saved(path)
    y = (x - arrays["mean"]) / arrays["scale"]
    n_layers = len(about["widths"]) - 1
    for i in range(n_layers):
        y = y @ arrays[f"{2 * i}.weight"].astype(float) + arrays[f"{2 * i}.bias"]
        if i < n_layers - 1:
            y = np.maximum(y, 0)
    return about, y


def numbers_of(text, columns):
    """The named columns of a CSV text, as floats."""
    rows = list(csv.DictReader(text.splitlines()))
    return np.array([[float(row[name]) for name in columns] for row in rows])


@pytest.mark.parametrize("content, args, task, classes", [
    (COLOURS, [], "classification", ["blue", "green", "red"]),
    (table(lambda i: 10 - i % 2), [], "classification", [9, 10]),
    (table(lambda i: f"{i % 2 - 1}"), [], "classification", [-1, 0]),
    (table(lambda i: "+-"[i % 2] + "1"), [], "classification", ["+1", "-1"]),
    (table(lambda i: ["007", "7", "10"][i % 3]), [], "classification", ["007", "10", "7"]),
    (table(lambda i: ["-0", "0"][i % 2]), ["--task", "classification"], "classification",
     ["-0", "0"]),
    (table(lambda i: ["1", "2b"][i % 2]), [], "classification", ["1", "2b"]),
    (table(lambda i: "only"), [], "classification", ["only"]),
    (NUMBERS, [], "regression", None),
    (table(lambda i: f"{i}.0"), [], "regression", None),
    (table(lambda i: ["1", "2", "2.5"][i % 3]), [], "regression", None),
    (table(lambda i: i), ["--task", "regression"], "regression", None),
    (table(lambda i: f"{i % 2}.0"), ["--task", "classification"], "classification", ["0.0", "1.0"]),
    (table(lambda i: ["1.5", "n/a"][i % 2]), ["--task", "classification"], "classification",
     ["1.5", "n/a"]),
])
def test_target_decides_the_task_unless_it_is_given(own, content, args, task, classes):
    out = own(content, "t.csv", "--target", "t", *args)
    about, arrays = saved()
    assert (about["task"], about["classes"]) == (task, classes)
    assert about["features"] == ["a", "b"] and about["target"] == "t"
    assert about["dtype"] == "float32" and about["widths"] == [2, 100, len(classes or [1])]
    first, header = out.splitlines()[:2]
    if classes:
        assert first == (f"t.csv: 20 rows, 2 features, t is one of {len(classes)} classes: "
                         + ", ".join(map(str, classes)))
        assert header == HEADER and "test accuracy " in out
    else:
        assert first == "t.csv: 20 rows, 2 features, t is a number"
        assert header == "epoch      loss  val_loss" and "accuracy" not in out
        assert re.search(r"^test RMSE \S+, R2 -?\d+\.\d{4}, trained in", out, re.MULTILINE)


@pytest.mark.parametrize("args, widths", [
    ([], [2, 100, 3]), (["--hidden"], [2, 3]), (["--hidden", "7"], [2, 7, 3]),
    (["--hidden", "7", "5"], [2, 7, 5, 3]),
])
def test_hidden_widths(own, args, widths):
    own(COLOURS, "t.csv", "--target", "t", *args)
    about, arrays = saved()
    assert about["widths"] == widths
    assert [arrays[f"{2 * i}.weight"].shape for i in range(len(widths) - 1)] == [
        *zip(widths, widths[1:], strict=False)]


@pytest.mark.parametrize("content, lr", [(COLOURS, 0.1), (NUMBERS, 0.01)])
def test_own_table_is_trained_as_the_options_say(own, content, lr):
    def expected(seed=0, hidden=(100,), **options):
        rng = np.random.default_rng(seed)
        model, training, validation, test = _training.prepare(
            _data.read("t.csv", "t", None), list(hidden), rng, "float32", standardise=True)
        history = list(_training.train(model.network, training, validation, rng, **options))
        return [[n, *epoch.values()] for n, epoch in enumerate(history, 1)], (
            _training.describe_test(model, test))

    for args, options in [
        ([], {"lr": lr, "epochs": 2}),
        (["--hidden", "6", "4", "--epochs", "3", "--batch-size", "5", "--lr", "0.03",
          "--momentum", "0.2", "--seed", "9"],
         {"hidden": [6, 4], "epochs": 3, "batch_size": 5, "lr": 0.03, "momentum": 0.2, "seed": 9}),
    ]:
        out = own(content, "t.csv", "--target", "t", *args, "--force")
        rows, result = expected(**options)
        assert np.allclose(rows_of(out), rows, rtol=0, atol=0.5001e-4)      # 4 decimals
        assert f"\n{result}, trained in" in out


def test_features_are_standardised_with_the_training_part_alone(own):
    own(table(lambda i: i % 2, n=40, header="a,b,t").replace(",t\n", ",t\n", 1),
        "t.csv", "--target", "t", "--seed", "3")
    data = _data.read("t.csv", "t", None)
    order = np.random.default_rng(3).permutation(40)[:32]
    _, arrays = saved()
    for name, expected in [("mean", data.x[order].mean(axis=0)),
                           ("scale", data.x[order].std(axis=0))]:
        assert arrays[name].dtype == np.float64
        assert np.array_equal(arrays[name], expected)

    rng = np.random.default_rng(3)
    _, training, validation, test = _training.prepare(data, [5], rng, "float64", standardise=True)
    assert [len(x) for x, _ in (training, validation, test)] == [32, 4, 4]
    # 32 numbers of size 1, and their sums in double.
    assert np.allclose(training[0].mean(axis=0), 0, atol=1e-14)
    assert np.allclose(training[0].std(axis=0), 1, rtol=1e-14)
    assert abs(validation[0].mean(axis=0)).max() > 1e-3


def test_constant_column_loses_only_its_mean(own):
    content = "a,b,t\n" + "".join(f"0.1,{i},{i % 2}\n" for i in range(40))
    own(content, "t.csv", "--target", "t")
    _, arrays = saved()
    assert arrays["scale"][0] == 1 and arrays["mean"][0] == pytest.approx(0.1, rel=1e-15)


def test_numbers_to_predict_are_standardised_and_errors_are_in_their_units(own):
    own(NUMBERS, "t.csv", "--target", "t", "--dtype", "float64")
    data = _data.read("t.csv", "t", None)
    order = np.random.default_rng(0).permutation(20)
    about, y = by_hand(data.x)
    assert about["target_mean"] == data.y[order[:16]].mean()
    assert about["target_scale"] == data.y[order[:16]].std()

    rng = np.random.default_rng(0)
    model, training, validation, test = _training.prepare(
        data, [100], rng, "float64", standardise=True)
    list(_training.train(model.network, training, validation, rng, epochs=2, lr=0.01))
    truth = data.y[order[18:]]
    errors = y[order[18:], 0] * about["target_scale"] + about["target_mean"] - truth
    r2 = 1 - np.mean(errors**2) / truth.var()
    assert _training.describe_test(model, test) == (
        f"test RMSE {np.sqrt(np.mean(errors**2)):.4g}, R2 {r2:.4f}")


def test_networks_learn_from_tables(own):
    """Two clear tasks: signs of a product, which no linear model tells, and a plane."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 2))
    lines = [f"{a},{b},{'same' if a * b > 0 else 'other'}" for a, b in x]
    out = own("\n".join(["a,b,t", *lines]), "t.csv", "--target", "t", "--epochs", "50")
    assert float(re.search(r"test accuracy (\S+),", out)[1]) > 0.9     # the larger class: 0.6
    lines = [f"{a},{b},{1e6 + 100 * a - 300 * b}" for a, b in x]
    out = own("\n".join(["a,b,t", *lines]), "t.csv", "--target", "t", "--epochs", "50",
              "--hidden", "--force")
    assert float(re.search(r"R2 (\S+),", out)[1]) > 0.999


def test_numpy_arrays_serve_as_a_table(own, folder):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), rng.integers(3, 6, 20)
    np.savez("n.npz", x=x, y=y)
    out = own(None, "n.npz")
    assert out.startswith("n.npz: 20 rows, 3 features, y is one of 3 classes: 3, 4, 5\n")
    about, _ = saved("n-model.safetensors")
    assert about["features"] == ["x0", "x1", "x2"]
    for changed in ({"X": x, "Y": y}, {"x": x.astype(">f8"), "y": y.astype(str)},
                    {"x": np.asfortranarray(x), "y": y.astype("u1")}):
        np.savez("n.npz", **changed)
        assert own(None, "n.npz", "--force").splitlines()[:3] == out.splitlines()[:3]
    for other, first in [(y / 2, "y is a number"), (np.array(["b", "a"] * 10), "2 classes: a, b"),
                         (np.array(["1", "1 "] * 10), "2 classes: 1, 1 "),
                         (y > 4, "2 classes: False, True")]:
        np.savez("n.npz", x=x, y=other)
        assert first in own(None, "n.npz", "--force").splitlines()[0]


def test_files_are_named_after_the_table(own, folder):
    out = own(COLOURS, "t.csv", "--target", "t")
    assert out.splitlines()[-1] == "wrote t-model.safetensors and t-model.csv"
    assert sorted(os.listdir(folder)) == ["t-model.csv", "t-model.safetensors", "t.csv"]
    assert (folder / "t-model.csv").read_text().startswith(
        "epoch,loss,accuracy,val_loss,val_accuracy\n1,")
    own(NUMBERS, "t.csv", "--target", "t", "--out", "other")
    assert (folder / "other.csv").read_text().startswith("epoch,loss,val_loss\n1,")
    assert own(None, "t.csv", "--target", "t", status=1) == (
        "cannot write t-model.safetensors: it exists already; --force replaces it")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8:surrogateescape"])
def test_a_name_that_is_no_text_is_shown_as_far_as_it_is(folder, encoding):
    """On Linux a name may have any bytes."""
    data = os.fsencode(folder) + b"/t\xff.csv"
    Path(os.fsdecode(data)).write_text(COLOURS)
    found = subprocess.run(command("train", data, "--target", "t", "--epochs", "1"), text=True,
                           env={**os.environ, "PYTHONIOENCODING": encoding},
                           capture_output=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")
    assert "t?.csv: 20 rows" in found.stdout and "wrote t?-model.safetensors" in found.stdout
    assert b"t\xff-model.safetensors" in os.listdir(os.fsencode(folder))


def test_text_that_the_output_cannot_show_is_told_in_a_line(own):
    own(COLOURS.replace("red", "r\u00f6t"), "t.csv", "--target", "t", "--hidden")
    found = subprocess.run(command("predict", "t-model.safetensors", "t.csv"), text=True,
                           env={**os.environ, "PYTHONIOENCODING": "ascii"},
                           capture_output=True, timeout=60)
    assert found.returncode == 1
    assert re.fullmatch(r"fastnet: 'ascii' codec can't encode .*\n", found.stderr)


def test_picture_of_a_regression_has_one_plot(folder, monkeypatch):
    pytest.importorskip("matplotlib")
    figures = []
    draw = _results.draw
    monkeypatch.setattr(_results, "draw", lambda *a: figures.append(draw(*a)) or figures[-1])
    (folder / "a$_$.csv").write_text(NUMBERS)
    assert _cli.main(["train", "a$_$.csv", "--target", "t", "--epochs", "2"]) == 0
    [figure] = figures
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss"]
    assert figure.get_figwidth() == 5
    assert [len(line.get_ydata()) for line in figure.axes[0].lines] == [2, 2]
    assert figure.get_suptitle().startswith(r"2-100-1 on a\$_\$.csv: test RMSE ")
    assert (folder / "a$_$-model.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("change", [
    lambda text: b"\xef\xbb\xbf" + text.encode(),
    lambda text: text.replace(",", ";").encode(),
    lambda text: text.replace(",", "\t").encode(),
    lambda text: text.replace(",", " , ").encode(),
    lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: text.rstrip().encode(),
    lambda text: (text + "\n\n").encode(),
    lambda text: text.replace("red", '"red"').encode(),
    lambda text: text.replace("red", ' "red"').encode(),
], ids=["BOM", "semicolons", "tabs", "spaces", "CRLF", "no end", "blank end", "quotes",
        "space and quotes"])
def test_forms_of_csv(own, change):
    expected = own(COLOURS, "t.csv", "--target", "t", "--seed", "1").splitlines()[:-2]
    out = own(change(COLOURS), "t.csv", "--target", "t", "--seed", "1", "--force")
    assert out.splitlines()[:-2] == expected
    assert saved()[0]["features"] == ["a", "b"]


ROWS = "".join(f"{i},{i * i},{i % 2}\n" for i in range(10))


@pytest.mark.parametrize("content, message", [
    ("a,b,t\n" + ROWS + "1,,0\n", "t.csv, line 12, column 'b': the cell is empty"),
    ("a,b,t\n" + ROWS + "1,2,\n", "t.csv, line 12, column 't': the cell is empty"),
    ("a,b,t\n1,n/a,0\n" + ROWS, "t.csv, line 2, column 'b': 'n/a' is not a number"),
    ("a,b,t\n1_0,1,0\n" + ROWS, "t.csv, line 2, column 'a': '1_0' is not a number"),
    ("a,b,t\nnan,1,0\n" + ROWS, "t.csv, line 2, column 'a': 'nan' is not a finite number"),
    ("a,b,t\n-inf,1,0\n" + ROWS, "t.csv, line 2, column 'a': '-inf' is not a finite number"),
    ("a,b,t\n1e200,1,0\n" + ROWS,
     "t.csv, line 2, column 'a': '1e200' is too large, numbers go to 1e+100"),
    ("a,b,t\n1,1,0.5\n1,1,x\n" + ROWS,
     "t.csv, line 3, column 't': 'x' is not a number, while others are; "
     "--task classification takes all as names of classes"),
    ("a,b,t\n1,1,0.5\n1,1,nan\n" + ROWS,
     "t.csv, line 3, column 't': 'nan' is not a finite number, while others are; "
     "--task classification takes all as names of classes"),
    ('a,b,t\n"1\n",1,0\nx,1,1\n', "t.csv, line 4, column 'a': 'x' is not a number"),
    ("a,b,t\n1,2\n" + ROWS, "t.csv, line 2: the header has 3 columns, but this row has 2"),
    ("a,b,t\n" + ROWS + "\n1,2,0\n",
     "t.csv, line 12: the header has 3 columns, but this row has 0"),
    ("a,b,t\n1,2,3,4\n", "t.csv, line 2: the header has 3 columns, but this row has 4"),
    ('a,b,t\n1,2,"0\n', "t.csv, line 2: unexpected end of data"),
    ("a,a,t\n" + ROWS, "t.csv, line 1: column 'a' is there twice"),
    ("a,,t\n" + ROWS, "t.csv, line 1: column 2 has no name"),
    ("\n1,2,3\n", "t.csv, line 1: there are no names of columns"),
    ("a,b,c\n" + ROWS, "t.csv, line 1: there is no column 't', only a, b, c"),
    ("t\n1\n", "t.csv, line 1: there is no column besides the target 't'"),
    ("a,b,t\n", "t.csv, line 2: there are no rows below the header"),
    ("", "t.csv is empty"),
    ("\ufeff\n\n", "t.csv is empty"),
    (b"a,b,t\n1,2,0\n\xe4,2,1\n", "t.csv, line 3: this is not UTF-8 text"),
    (b"\xef\xbb\xbfa,b,t\n1,2,0\n\xe4,2,1\n", "t.csv, line 3: this is not UTF-8 text"),
    ("a,b,t\n1,2,0\n", "t.csv: 1 row is too few, as none is left for validation and test; "
                       "there must be at least 6"),
    ("a,b,t\n" + 5 * "1,2,0\n", "t.csv: 5 rows are too few, as none is left for validation and "
                                "test; there must be at least 6"),
])
def test_fault_in_a_table_is_named_with_its_place(own, folder, no_training, content, message):
    assert own(content, "t.csv", "--target", "t", status=1) == message
    assert os.listdir(folder) == ["t.csv"]


def test_six_rows_are_enough(own):
    own("a,t\n" + "".join(f"{i},c{i}\n" for i in range(6)), "t.csv", "--target", "t")
    assert saved()[0]["classes"] == [f"c{i}" for i in range(6)]     # two never seen in training


def test_text_where_a_number_is_asked_for(own, no_training):
    assert own(COLOURS, "t.csv", "--target", "t", "--task", "regression", status=1) == (
        "t.csv, line 2, column 't': 'red' is not a number")


def test_csv_needs_a_target(own, no_training):
    assert own(COLOURS, "t.csv", status=1) == (
        "t.csv: --target must name the column to predict, one of a, b, t")


def test_options_of_tables_need_a_table(own, no_training):
    for args in (["--target", "t"], ["--task", "regression"]):
        assert own(None, *args, status=1) == "--target and --task need DATA"


def test_missing_table(own, folder, no_training):
    assert own(None, "no.csv", "--target", "t", status=1) == (
        "cannot read no.csv: No such file or directory")
    assert own(None, ".", "--target", "t", "--out", "o", status=1) == (
        "cannot read .: Is a directory")
    assert os.listdir(folder) == []


@pytest.mark.parametrize("arrays, message", [
    ({}, "n.npz: there is no array x, only none"),
    ({"a": [1], "y": [1]}, "n.npz: there is no array x, only a, y"),
    ({"x": [[1]]}, "n.npz: there is no array y, only x"),
    ({"x": [1], "y": [1]}, "n.npz: x must have shape (n, n_features), with at least one row and "
                           "one feature, got (1,)"),
    ({"x": np.ones((0, 3)), "y": []}, "n.npz: x must have shape (n, n_features), with at least "
                                      "one row and one feature, got (0, 3)"),
    ({"x": [["a"]], "y": [1]}, "n.npz: x must hold real numbers, got dtype <U1"),
    ({"x": [[1j]], "y": [1]}, "n.npz: x must hold real numbers, got dtype complex128"),
    ({"x": [[1, 2], [3, math.inf]], "y": [1, 2]}, "n.npz, x[1, 1]: 'inf' is not a finite number"),
    ({"x": [[math.nan], [3]], "y": [1, 2]}, "n.npz, x[0, 0]: 'nan' is not a finite number"),
    ({"x": [[1], [2]], "y": [1.5, math.nan]},
     "n.npz, y[1]: 'nan' is not a finite number"),
    ({"x": [[1], [2]], "y": ["a", ""]}, "n.npz, y[1]: the cell is empty"),
    ({"x": [[1], [2]], "y": [1]}, "n.npz: x has 2 rows, but y has 1"),
    ({"x": [[1], [2]], "y": [[1], [2]]}, "n.npz: y must have shape (n,), got (2, 1)"),
    ({"x": [[1], [2]], "y": [1j, 2]}, "n.npz: y must hold numbers or text, got dtype complex128"),
    ({"x": np.array([[None]]), "y": [1]}, "n.npz is not an NPZ file of plain arrays, "
                                          "or is damaged"),
])
def test_fault_in_arrays_is_named(own, no_training, arrays, message):
    np.savez("n.npz", **arrays)
    assert own(None, "n.npz", status=1) == message


def test_damaged_arrays_are_refused(own, no_training):
    message = "t.csv is not an NPZ file of plain arrays, or is damaged"
    assert own(b"PK\x03\x04 and more", "t.csv", status=1) == message


@pytest.mark.parametrize("name", ["x", "y"])
def test_60_an_array_that_is_there_twice(own, folder, no_training, name):
    np.savez("n.npz", x=[[1.0], [2.0]], y=[0, 1])
    with zipfile.ZipFile("n.npz", "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(f"{name}.npy", archive.read(f"{name}.npy"))
    assert own(None, "n.npz", status=1) == f"n.npz: the array {name} is there twice"


def test_arrays_have_no_column_to_name(own, no_training):
    np.savez("n.npz", x=np.ones((20, 1)), y=np.arange(20))
    assert own(None, "n.npz", "--target", "y", status=1) == (
        "n.npz: --target names a column of a CSV file, but in an NPZ file the target is the "
        "array y")


def test_number_that_the_network_cannot_hold(own, no_training):
    content = "a,t\n" + "".join(f"{i},{i % 2}\n" for i in range(60))
    first = int(np.random.default_rng(0).permutation(60)[-1])           # in the test part
    far = content.replace(f"\n{first},", "\n1e90,", 1)
    assert own(far, "t.csv", "--target", "t", status=1) == (
        f"row {first + 1}, column 'a': 1e+90 is too far from the training data")
    far = content.replace(f"\n{first},{first % 2}\n", f"\n{first},1e90\n", 1)
    assert own(far, "t.csv", "--target", "t", "--task", "regression", status=1) == (
        f"row {first + 1}, column 't': 1e+90 is too far from the training data")


def test_table_is_not_overwritten(own, folder, no_training):
    assert own(COLOURS, "t.csv", "--target", "t", "--out", "t", "--force", status=1) == (
        "cannot write t.csv: it is to be read")
    assert (folder / "t.csv").read_text() == COLOURS


def test_too_little_memory_is_told_in_a_line(own, monkeypatch):
    def prepare(*args, **kwargs):
        raise MemoryError
    monkeypatch.setattr(_training, "prepare", prepare)
    assert own(COLOURS, "t.csv", "--target", "t", status=1) == (
        "there is not enough memory for this")


def test_losses_keep_their_columns_however_large(own):
    # Linear, with a step much too long: the loss grows steadily.
    out = own(NUMBERS, "t.csv", "--target", "t", "--hidden", "--lr", "3", "--momentum", "0",
              "--epochs", "9", "--dtype", "float64")
    assert rows_of(out)[-1][1] > 1e5
    lines = [line for line in out.splitlines() if re.match(r" *\d", line)]
    assert {len(line) for line in lines} == {25}


# ---- Predicting ------------------------------------------------------------------------------

@pytest.mark.parametrize("content, names", [
    (COLOURS, ["blue", "green", "red"]),
    (table(lambda i: 7 + i % 2), ["7", "8"]),
])
@pytest.mark.parametrize("hidden", [[], ["5"], ["6", "4"]])
def test_labels_and_probabilities(own, content, names, hidden):
    own(content, "t.csv", "--target", "t", "--hidden", *hidden)
    out = own(None, "t-model.safetensors", "t.csv", command="predict")
    header, *rows = out.splitlines()
    assert header == ",".join(["label", *names]) and len(rows) == 20
    _, scores = by_hand(numbers_of(content, "ab"))
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    # float32 beside float64.
    assert np.allclose(numbers_of(out, names), expected, rtol=1e-5, atol=1e-7)
    assert [row.split(",")[0] for row in rows] == [names[i] for i in scores.argmax(axis=1)]


@pytest.mark.parametrize("names", [["007", "7"], ["+1", "1"], ["-0", "0"], ["\u0663", "3"],
                                   ["7", "8"], ["07", "08"]])
def test_predicted_labels_are_written_as_in_the_table(own, names):
    rng = np.random.default_rng(0)
    lines = [f"{a},{names[int(a > 0)]}" for a in rng.normal(size=60)]
    for options in ([], ["--task", "classification"]):
        own("\n".join(["a,t", *lines]), "t.csv", "--target", "t", "--epochs", "60", "--force",
            *options)
        out = own("a\n-2\n2\n", "t-model.safetensors", "t.csv", command="predict")
        assert [line.split(",")[0] for line in out.splitlines()] == ["label", *names]


def test_a_class_that_is_called_label(own):
    names = ["label", "p(label)", "x"]
    own(table(lambda i: names[i % 3]), "t.csv", "--target", "t")
    own(None, "t-model.safetensors", "t.csv", "--out", "p.csv", command="predict")
    predicted = _data.read("p.csv", "label", None)
    assert predicted.features == ["p(label)", "p(p(label))", "p(x)"]
    assert [predicted.classes[i] for i in predicted.y] == [
        names[i] for i in predicted.x.argmax(axis=1)]


def test_predictions_are_in_the_units_of_the_target(own):
    own(NUMBERS, "t.csv", "--target", "t", "--dtype", "float64")
    out = own(None, "t-model.safetensors", "t.csv", command="predict")
    about, y = by_hand(numbers_of(NUMBERS, "ab"))
    assert out.startswith("prediction\n")
    # Sums in another order.
    assert np.allclose(numbers_of(out, ["prediction"]),
                       y * about["target_scale"] + about["target_mean"], rtol=1e-12)


def test_columns_are_found_by_name(own, folder):
    own(COLOURS, "t.csv", "--target", "t")
    expected = own(None, "t-model.safetensors", "t.csv", command="predict")
    rows = [line.split(",") for line in COLOURS.splitlines()]
    assert own("\n".join(f"{b},note {i},{a}" if i else f"{b},more,{a}"
                         for i, (a, b, _) in enumerate(rows)),
               "t-model.safetensors", "t.csv", command="predict") == expected
    for extra in ({}, {"y": np.arange(3)}):
        np.savez("n.npz", X=[[float(a), float(b)] for a, b, _ in rows[1:]], **extra)
        assert own(None, "t-model.safetensors", "n.npz", command="predict") == expected


def test_predictions_go_to_a_file(own, folder):
    own(COLOURS, "t.csv", "--target", "t")
    expected = own(None, "t-model.safetensors", "t.csv", command="predict")
    assert own(None, "t-model.safetensors", "t.csv", "--out", "p.csv", command="predict") == ""
    assert (folder / "p.csv").read_text() == expected
    again = ["t-model.safetensors", "t.csv", "--out"]
    assert own(None, *again, "p.csv", command="predict", status=1) == (
        "cannot write p.csv: it exists already; --force replaces it")
    assert own(None, *again, "p.csv", "--force", command="predict") == ""
    for source in ("t.csv", "t-model.safetensors"):
        assert own(None, *again, source, "--force", command="predict", status=1) == (
            f"cannot write {source}: it is to be read")


def test_digits_are_predicted_too(own):
    own(None)
    x, y = fn.load_digits()
    np.savez("n.npz", x=x)
    out = own(None, "digits.safetensors", "n.npz", command="predict")
    assert out.startswith("label,0,1,2,3,4,5,6,7,8,9\n")
    labels = numbers_of(out, ["label"])[:, 0]
    assert np.mean(labels == y) > 0.85          # after 2 epochs; 0.1 would be chance


@pytest.mark.parametrize("content, message", [
    ("a,c\n1,2\n", "t.csv, line 1: there is no column 'b', which the model needs, only a, c"),
    ("a,b\n1,\n", "t.csv, line 2, column 'b': the cell is empty"),
    ("b,x,a\n1,x,2\n1,x,?\n", "t.csv, line 3, column 'a': '?' is not a number"),
    ("a,b\n", "t.csv, line 2: there are no rows below the header"),
    ("a,b\n1,2\n1,1e80\n", "row 2, column 'b': 1e+80 is too far from the training data"),
    ("", "t.csv is empty"),
])
def test_fault_in_a_table_to_predict(own, content, message):
    own(COLOURS, "t.csv", "--target", "t")
    assert own(content, "t-model.safetensors", "t.csv", command="predict", status=1) == message


def test_outputs_that_are_not_finite_are_refused(own):
    own(NUMBERS, "t.csv", "--target", "t")
    state = read_state("t-model.safetensors", "network")
    state["parameters"]["0.weight"] = 1e10 * state["parameters"]["0.weight"]
    write_state("t-model.safetensors", "network", state)
    content = "a,b\n1,12\n1e30,1e30\n"
    assert own(content, "t-model.safetensors", "t.csv", command="predict", status=1) == (
        "row 2: the numbers are too far from the training data")


def test_arrays_of_another_width_are_refused(own):
    own(COLOURS, "t.csv", "--target", "t")
    np.savez("n.npz", x=np.ones((4, 3)))
    assert own(None, "t-model.safetensors", "n.npz", command="predict", status=1) == (
        "n.npz: x must have 2 features, got 3")


# ---- As a network --------------------------------------------------------------------------------

SPREAD = np.array([[1e6, 3e5], [-2e-4, 1e-4], [0.0, 1.0], [1e-20, 3e-20]])      # means, deviations


def measured(target):
    """Return a table of columns of very different sizes, and its features as an array."""
    x = SPREAD[:, 0] + SPREAD[:, 1] * np.random.default_rng(5).normal(size=(60, len(SPREAD)))
    rows = [",".join(map(str, [*row, target((row - SPREAD[:, 0]) / SPREAD[:, 1])]))
            for row in x.tolist()]
    return "\n".join(["a,b,c,d,t", *rows, ""]), x


@pytest.mark.parametrize("hidden", [[], ["5"], ["6", "4"]])
def test_a_loaded_regression_gives_what_the_command_prints(own, hidden, dtype):
    content, x = measured(lambda z: float(3e4 + 2e3 * (z[0] - z[1] + 0.5 * z[3])))
    own(content, "t.csv", "--target", "t", "--dtype", str(dtype), "--hidden", *hidden)
    expected = numbers_of(own(None, "t-model.safetensors", "t.csv", command="predict"),
                          ["prediction"])
    net = fn.load("t-model.safetensors")
    assert net.dtype == dtype and net.optimizer is None
    rtol = 1e-6 if dtype == "float32" else 1e-13
    for model in (net, net.frozen()):
        np.testing.assert_allclose(model.predict(x), expected, rtol=rtol)
    net.save("again")
    assert np.array_equal(fn.load("again").predict(x), net.predict(x))


@pytest.mark.parametrize("hidden", [[], ["5"], ["6", "4"]])
def test_loaded_classes_are_what_the_command_prints(own, hidden, dtype):
    names = ["high", "low", "middle"]
    content, x = measured(lambda z: names[int(z[0] > 0.5) - int(z[0] < -0.5)])
    own(content, "t.csv", "--target", "t", "--dtype", str(dtype), "--hidden", *hidden)
    out = own(None, "t-model.safetensors", "t.csv", command="predict")
    net = fn.load("t-model.safetensors")
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(net.predict_proba(x), numbers_of(out, names), tolerance, tolerance)
    assert [names[label] for label in net.predict_labels(x)] == [
        line.split(",")[0] for line in out.splitlines()[1:]]


def test_a_loaded_network_without_standardisation_is_as_it_was(own):
    own(None)
    state, net = read_state("digits.safetensors", "network"), fn.load("digits.safetensors")
    for name, value, _ in net.parameters():
        assert np.array_equal(value, state["parameters"][name])


@pytest.mark.parametrize("path, value, name", [
    ("table/scale", np.array([1e-30, 1]), "'a'"), ("table/scale", np.array([1, 1e30]), "'b'"),
    ("table/mean", np.array([0.0, 1e9]), "'b'"), ("table/target_mean", 1e9, "'t'"),
    ("table/target_scale", 1e-40, "'t'"), ("table/target_scale", 1e300, "'t'"),
    ("parameters/2.weight", lambda w: w + np.float32(3e38), "2.weight")])
def test_columns_that_float32_cannot_hold_are_no_network(own, path, value, name):
    own(NUMBERS, "t.csv", "--target", "t")
    change("t-model.safetensors", "table/target_scale", 2.0)
    change("t-model.safetensors", path, value)
    assert _model.read_model("t-model.safetensors").features == ["a", "b"]
    with pytest.raises(fn.ModelFileError, match=f"t-model.safetensors cannot be read: .*{name}"):
        fn.load("t-model.safetensors")


def test_a_loaded_table_does_not_go_on_training_on_other_scales(own):
    own(NUMBERS, "t.csv", "--target", "t")
    state = read_state("t-model.safetensors", "network")
    trained = _model.read_model("t-model.safetensors").network
    trained.compile(fn.Adam(), "mse")
    trained.train_step(np.ones((3, 2)), np.ones((3, 1)))
    write_state("t-model.safetensors", "network",
                {**trained._file_state(), "table": state["table"]})
    net = fn.load("t-model.safetensors")
    assert net.optimizer is net.loss is None
    with pytest.raises(RuntimeError, match="compile the network first"):
        net.train_step(np.ones((3, 2)), np.ones((3, 1)))


# ---- Model files that are none -----------------------------------------------------------------

NO_TABLE = "m is not a model of a table, or is damaged"


@pytest.fixture
def model_file(own, folder):
    """A small model's content, and a function that tries another content."""
    own(COLOURS, "t.csv", "--target", "t", "--hidden", "2")

    def refused(content):
        (folder / "m").write_bytes(content)
        return own(None, "m", "t.csv", command="predict", status=1)

    return (folder / "t-model.safetensors").read_bytes(), refused


def test_damaged_model_is_refused(model_file):
    content, refused = model_file
    for end in [0, 1, 10, 100, *range(200, len(content), 97), len(content) - 1]:
        assert refused(content[:end]).startswith("m cannot be read: it")
    for content in (COLOURS.encode(), b"\x93NUMPY", pickle.dumps([1])):
        assert refused(content) == "m cannot be read: it is no safetensors file, or damaged"


def test_flipped_bits_are_noticed(model_file):
    content, refused = model_file
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content), size=100):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.integers(8)
        assert refused(flipped).startswith("m cannot be read: ")


def test_a_network_without_a_table_is_refused(model_file, folder):
    fn.Sequential([fn.Dense(2, 3)]).save("net")
    assert "does not say what its columns are" in model_file[1]((folder / "net").read_bytes())


@pytest.mark.parametrize("path, value", [
    ("parameters/0.bias", None), ("parameters/more", np.zeros(1)),
    ("parameters/0.weight", np.zeros((2, 3), "f4")),
    ("parameters/0.weight", lambda w: w.astype("f8")),
    ("parameters/0.weight", lambda w: w * np.float32(np.nan)),
    ("table/scale", np.zeros(2)), ("table/mean", lambda mean: mean + np.inf),
    ("table/mean", np.zeros(3)), ("table/mean", np.zeros(2, "f4")), ("table/mean", 0),
    ("network/layers", None), ("network/layers", 7), ("network/layers", []),
    ("network/layers/0/in_features", 10**12), ("network/layers/0/out_features", 2.0),
    ("network/layers/0/dtype", "float16"), ("network/layers/0/dtype", "float64"),
    ("network/layers/0/class", "Softmax"), ("network/layers/0/class", "os.system"),
    ("network/layers/1/class", "Tanh"), ("network/layers/0/activation", {"class": "Tanh"}),
    ("table/classes", ["a", "b"]), ("table/classes", ["a", "b", "b"]),
    ("table/classes", ["a", "b", 3]), ("table/classes", lambda classes: None),
    ("table/features", ["a"]), ("table/features", "ab"), ("table/target", lambda target: None),
    ("table/target_scale", 0.0), ("table/target_mean", math.nan), ("table/target_mean", "x"),
    ("table/target_scale", 10**400), ("table/more", 1), ("table", "no")])
def test_model_whose_parts_do_not_fit_is_refused(model_file, folder, path, value):
    change("t-model.safetensors", path, value, to="changed")
    said = model_file[1]((folder / "changed").read_bytes())
    assert said == NO_TABLE


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_a_model_that_is_no_regular_file_is_refused_unread(own, kind):
    if kind == "pipe":
        os.mkfifo(kind)
    assert own(COLOURS, kind, "t.csv", command="predict", status=1) == (
        f"{kind} is no file of its own")


def test_missing_model(own):
    assert own(COLOURS, "no", "t.csv", command="predict", status=1) == (
        "cannot read no: No such file or directory")


# ---- The README's commands on tables -----------------------------------------------------------

def test_readme_commands_on_a_table_run(folder):
    readme = Path(__file__).parents[1] / "README.md"
    if not readme.exists():
        pytest.skip("needs the source tree")
    commands = re.search(r"<!-- table -->\n```sh\n(.*?)```", readme.read_text(), re.DOTALL)[1]
    (folder / "iris.csv").write_text(COLOURS.replace("a,b,t", "width,length,species", 1))
    (folder / "new.csv").write_text("length,width\n10,0.5\n12,-0.1\n")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-euc", commands], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PATH": path})
    assert (done.returncode, done.stderr) == (0, "")
    [line] = [line for line in done.stdout.splitlines() if line.startswith("label")]
    assert line == "label,blue,green,red"


# ---- What is imported, and what info shows ---------------------------------------------------

def test_import_stays_light():
    done = python("import sys, fastnet; "
                  "print(sorted({'matplotlib', 'tqdm', 'argparse'} & set(sys.modules)))")
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_info(capsys):
    assert _cli.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["fastnet", "Python", "NumPy", "compiler", "instruction set", "available",
             "threads", "threads by", "matplotlib", "tqdm"]
    width = max(map(len, names)) + 2
    assert [line[:width].rstrip() for line in lines] == names
    values = dict(zip(names, (line[width:] for line in lines), strict=True))
    assert all(value == value.strip() != "" for value in values.values())
    assert values["fastnet"] == fn.__version__
    assert values["Python"] == platform.python_version()
    assert values["NumPy"] == np.__version__
    assert values["compiler"] == _ops.compiler()
    assert values["instruction set"] == _ops.isa
    assert values["available"].split(", ") == list(_ops.available_isas())


@pytest.mark.parametrize("package", ["matplotlib", "tqdm"])
def test_info_tells_what_is_missing(without, capsys, package):
    pytest.importorskip(package)
    assert _cli.main(["info"]) == 0
    assert re.search(rf"^{package} +present$", capsys.readouterr().out, re.MULTILINE)
    without(package)
    assert _cli.main(["info"]) == 0
    assert re.search(rf"^{package} +missing$", capsys.readouterr().out, re.MULTILINE)


def test_info_imports_neither():
    done = python("import sys; from fastnet._cli import main; main(['info']); "
                  "assert not {'matplotlib', 'tqdm'} & set(sys.modules)")
    assert (done.returncode, done.stderr) == (0, "")
