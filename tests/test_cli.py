"""`python -m fastnet`: what its commands print, write and refuse, and how its training counts."""

import errno
import math
import os
import platform
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest

import fastnet as fn
from fastnet import _cli, _ops, _results, _training

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
    """Return history, layers and test samples of the run that the command should make."""
    rng = np.random.default_rng(seed)
    training, validation, test = _training.split_digits(rng, dtype)
    layers = _training.make_layers(rng, dtype)
    return list(_training.train(layers, training, validation, rng, **options)), layers, test


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
    assert lines[-1] == "wrote digits.npz and digits.png"
    assert sorted(os.listdir(folder)) == ["digits.npz", "digits.png"]


def test_lines_show_the_history(capsys):
    options = {"epochs": 3, "batch_size": 50, "lr": 0.05, "momentum": 0.5}
    history, layers, test = trained(seed=4, **options)
    assert _cli.main(["train", "--epochs", "3", "--batch-size", "50", "--lr", "0.05",
                      "--momentum", "0.5", "--seed", "4"]) == 0
    out = capsys.readouterr().out
    # Printed with 4 decimals.
    assert np.allclose(rows_of(out), [[n, *row] for n, row in enumerate(history, 1)],
                       rtol=0, atol=0.5001e-4)
    assert f"test accuracy {_training.measure(layers, test)[1]:.4f}," in out


def test_defaults_are_those_of_the_training(capsys):
    history, _, _ = trained()
    assert _cli.main(["train"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert len(rows) == len(history) == 50
    assert np.allclose([row[1:] for row in rows], history, rtol=0, atol=0.5001e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_are_saved_as_plain_arrays(dtype):
    _, layers, _ = trained(dtype=dtype, epochs=2)
    assert _cli.main(["train", "--epochs", "2", "--dtype", dtype]) == 0
    with np.load("digits.npz", allow_pickle=False) as saved:
        parameters = dict(saved)
    expected = {"0.weight": layers[0].weight, "0.bias": layers[0].bias,
                "2.weight": layers[2].weight, "2.bias": layers[2].bias}
    assert list(parameters) == list(expected)
    for name, value in expected.items():
        assert parameters[name].dtype == dtype
        assert np.array_equal(parameters[name], value)


def test_same_seed_same_numbers():
    def parameters(stem, *args):
        assert _cli.main(["train", "--epochs", "2", "--out", stem, *args]) == 0
        with np.load(f"{stem}.npz") as saved:
            return np.concatenate([array.ravel() for array in saved.values()])

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
    history = [_training.Epoch(2.0, 0.5, 1.5, 0.6), _training.Epoch(1.0, 0.7, 1.2, 0.65)]
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


def test_title_tells_net_and_test_accuracy(monkeypatch):
    pytest.importorskip("matplotlib")
    titles = []
    draw = _results.draw
    monkeypatch.setattr(_results, "draw", lambda h, title: titles.append(title) or draw(h, title))
    assert _cli.main(["train", "--epochs", "2"]) == 0
    _, layers, test = trained(epochs=2)
    accuracy = _training.measure(layers, test)[1]
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
    assert sorted(os.listdir(folder)) == ["digits.csv", "digits.npz"]
    header, *rows = (folder / "digits.csv").read_text().splitlines()
    assert header == "epoch,loss,accuracy,val_loss,val_accuracy"
    # All digits are written, so nothing is lost.
    assert [[float(cell) for cell in row.split(",")] for row in rows] == [
        [number, *epoch] for number, epoch in enumerate(history, 1)]
    assert all(row.split(",")[0] == str(number) for number, row in enumerate(rows, 1))
    *_, hint, wrote = capsys.readouterr().out.splitlines()
    assert "pip install '.[plot]'" in hint
    assert wrote == "wrote digits.npz and digits.csv"


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

@pytest.mark.parametrize("name", ["digits.npz", "digits.png"])
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
    (folder / "digits.npz").symlink_to("nowhere")
    assert _cli.main(["train"]) == 1
    assert "exists already" in capsys.readouterr().err


def test_force_replaces(folder):
    pytest.importorskip("matplotlib")
    for name in ("digits.npz", "digits.png", "digits.csv"):
        (folder / name).write_text("old")
    assert _cli.main(["train", "--epochs", "1", "--force"]) == 0
    assert (folder / "digits.png").read_bytes().startswith(b"\x89PNG")
    assert len(np.load("digits.npz")) == 4
    assert (folder / "digits.csv").read_text() == "old"      # not a file of this run
    assert len(os.listdir(folder)) == 3


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("out, reason", [
    ("missing/digits", "cannot write missing/digits.npz: No such file or directory"),
    ("file/digits", "cannot write file/digits.npz: Not a directory"),
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
    (folder / "digits.npz").touch(mode=0o444)
    assert _cli.main(["train", "--force"]) == 1
    assert "digits.npz: it is write-protected" in capsys.readouterr().err
    (folder / "closed").mkdir(mode=0o555)
    assert _cli.main(["train", "--out", "closed/digits"]) == 1
    assert "closed/digits.npz: Permission denied" in capsys.readouterr().err


def test_unwritable_path_gives_no_traceback():
    done = run("train", "--out", "missing/digits")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "fastnet: cannot write missing/digits.npz: No such file or directory\n"


def test_failed_write_leaves_the_old_file(folder, monkeypatch, capsys):
    def savez(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", savez)
    assert _cli.main(["train", "--epochs", "1"]) == 1
    assert capsys.readouterr().err == (
        "fastnet: cannot write digits.npz: No space left on device\n")
    assert os.listdir(folder) == []
    (folder / "digits.npz").write_text("old")
    assert _cli.main(["train", "--epochs", "1", "--force"]) == 1
    assert (folder / "digits.npz").read_text() == "old"
    assert os.listdir(folder) == ["digits.npz"]


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


# ---- The training itself ---------------------------------------------------------------------

@pytest.fixture
def samples(rng):
    """Two sets of 10 and 6 samples with 64 features and 10 classes."""
    return [(rng.normal(size=(n, 64)), rng.integers(0, 10, n)) for n in (10, 6)]


def values_of(layers):
    return [value.copy() for layer in layers for _, value, _ in layer.parameters()]


def test_training_figures_are_means_over_the_samples(samples, rng):
    """With lr 0 nothing changes, so batches of 4, 4 and 2 must give the figures of all 10."""
    (x, _), validation = samples
    layers = _training.make_layers(rng, "float64")
    scores = layers[2].forward(layers[1].forward(layers[0].forward(x)))
    target = scores.argmax(axis=1)
    target[0] = (target[0] + 1) % 10            # one of ten is wrong
    training = x, target
    [epoch] = _training.train(layers, training, validation, rng, epochs=1, batch_size=4, lr=0)
    assert epoch.accuracy == pytest.approx(0.9, rel=1e-14)
    expected = [*_training.measure(layers, training), *_training.measure(layers, validation)]
    # The same sum of 10 numbers near 1 in another order: some units in the last place.
    assert np.allclose(epoch, expected, rtol=1e-14, atol=0)


def test_training_figures_are_those_before_the_step(samples, rng):
    training, validation = samples
    layers = _training.make_layers(rng, "float64")
    before = _training.measure(layers, training)
    [epoch] = _training.train(layers, training, validation, rng, epochs=1, batch_size=10)
    # Another order of the samples, as above.
    assert np.allclose((epoch.loss, epoch.accuracy), before, rtol=1e-14, atol=0)
    assert (epoch.val_loss, epoch.val_accuracy) == _training.measure(layers, validation)
    assert _training.measure(layers, training)[0] < before[0]


def test_validation_only_measures(samples):
    training, validation = samples
    results = []
    for held_out in (validation, (100 * validation[0], 9 - validation[1])):
        rng = np.random.default_rng(0)
        layers = _training.make_layers(rng, "float32")
        history = list(_training.train(layers, training, held_out, rng, epochs=3, batch_size=4))
        results.append((history, values_of(layers)))
    (first, first_values), (second, second_values) = results
    assert [epoch[:2] for epoch in first] == [epoch[:2] for epoch in second]
    assert [epoch[2:] for epoch in first] != [epoch[2:] for epoch in second]
    assert all(map(np.array_equal, first_values, second_values))


def test_lr_and_momentum_reach_the_optimizer(samples, rng):
    """Two full-batch steps by hand: v = 0.25 v + g, w = w - 0.5 v."""
    training, validation = samples
    layers, twins = (_training.make_layers(np.random.default_rng(0), "float64") for _ in range(2))
    for _ in _training.train(layers, training, validation, rng,
                             epochs=2, batch_size=10, lr=0.5, momentum=0.25):
        pass
    velocities = [np.zeros_like(value) for value in values_of(twins)]
    for _ in range(2):
        loss, y = fn.SoftmaxCrossEntropy(), training[0]
        for layer in twins:
            y = layer.forward(y)
        loss.forward(y, training[1])
        dy = loss.backward()
        for layer in reversed(twins):
            dy = layer.backward(dy)
        parameters = [parameter for layer in twins for parameter in layer.parameters()]
        for velocity, (_, value, gradient) in zip(velocities, parameters, strict=True):
            velocity[...] = 0.25 * velocity + gradient
            value -= 0.5 * velocity
    for value, expected in zip(values_of(layers), values_of(twins), strict=True):
        # Sums over 10 samples in another order; entries near 0 have lost leading digits.
        assert np.allclose(value, expected, rtol=1e-12, atol=1e-14)


def test_step_with_a_bad_loss_is_not_applied(samples, rng):
    training, validation = samples
    layers = _training.make_layers(rng, "float64")
    training[0][3, 5] = math.nan
    order = np.random.default_rng(1).permutation(10)
    bad_step = int(np.flatnonzero(order == 3)[0]) // 2 + 1
    assert bad_step > 1
    before = values_of(layers)
    epochs = _training.train(layers, training, validation, np.random.default_rng(1), batch_size=2)
    with pytest.raises(FloatingPointError, match=f"loss is nan at epoch 1, step {bad_step};"):
        next(epochs)
    after = values_of(layers)
    assert not np.array_equal(before[0], after[0])          # the good steps before it are
    assert all(np.isfinite(value).all() for value in after)


# ---- What is imported, and what info shows ---------------------------------------------------

def test_import_stays_light():
    done = python("import sys, fastnet; "
                  "print(sorted({'matplotlib', 'tqdm', 'argparse'} & set(sys.modules)))")
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_info(capsys):
    assert _cli.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["fastnet", "Python", "NumPy", "compiler", "instruction set", "available",
             "matplotlib", "tqdm"]
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
