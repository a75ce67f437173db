"""Every script in examples/ runs as a student runs it: by itself, in some folder, as a program.

What the scripts compute is tested in test_worked_examples.py; here it is what they print and draw.
"""

import ast
import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colors, image

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
PICTURES = {
    "classifier_703.py": ["classifier_703_loss.png"],
    "digits_curves.py": ["digits_accuracy.png", "digits_loss.png"],
    "digits_network.py": ["digits_network.png"],
}
# What a script needs besides fastnet.
PACKAGES = {"dask_search.py": ["dask", "distributed", "sklearn"]}


def run_in(folder, name, *arguments, path=None):
    """Run the script with `folder` as current folder; modules in `path` hide installed ones."""
    for package in PACKAGES.get(name, []):
        pytest.importorskip(package)
    paths = [str(path)] if path else []
    paths += os.environ.get("PYTHONPATH", "").split(os.pathsep)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run([sys.executable, EXAMPLES / name, *arguments], cwd=folder,
                          env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a script once, in an empty folder; further calls return the same result and folder."""
    @functools.cache
    def run_once(name):
        folder = tmp_path_factory.mktemp("run")
        return run_in(folder, name), folder
    return run_once


@pytest.fixture
def without_matplotlib(tmp_path):
    """A folder whose matplotlib cannot be imported."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    (folder / "matplotlib.py").write_text('raise ImportError("hidden by a test")\n')
    return folder


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def output_of(run, name):
    return run(name)[0].stdout


def assert_is_a_picture_of_curves(path, n_curves):
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = image.imread(path)[:, :, :3]
    # Pixels in exactly the colours C0, C1, C2 ... of curves. A key shows a short piece of each; a
    # curve itself crosses most of the picture, but another one may cover parts of it.
    counts = [np.count_nonzero(np.all(np.abs(pixels - colors.to_rgb(f"C{i}")) < 1 / 255, axis=2))
              for i in range(n_curves + 1)]
    assert all(count > pixels.shape[1] / 4 for count in counts[:n_curves]), counts
    assert counts[n_curves] == 0, counts


# ---- All scripts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_succeeds_and_leaves_only_its_pictures(run, name):
    result, folder = run(name)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""              # no warnings either
    assert result.stdout.strip()
    assert names_in(folder) == PICTURES.get(name, [])


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "dask_search.py"])
def test_script_says_the_same_without_matplotlib(run, name, tmp_path, without_matplotlib):
    folder = tmp_path / "current"
    folder.mkdir()
    result = run_in(folder, name, path=without_matplotlib)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert names_in(folder) == []
    lines, usual = result.stdout.splitlines(), output_of(run, name).splitlines()
    assert lines[:len(usual)] == usual
    advice = lines[len(usual):]
    if name in PICTURES:
        assert len(advice) == 1 and "pip install '.[plot]'" in advice[0]
    else:
        assert advice == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_one_page_that_says_what_it_is(name):
    text = (EXAMPLES / name).read_text()
    assert len(text.splitlines()) <= 80
    assert ast.get_docstring(ast.parse(text))


def test_readme_lists_every_script_once():
    listed = re.findall(r"^\| `(\w+\.py)` \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == SCRIPTS


# ---- What each of them prints --------------------------------------------------------------------


def test_graph_gradients_prints_both_cases_and_the_dead_unit(run):
    output = output_of(run, "graph_gradients.py")
    assert "x = (2.0, 4.0, 1.0, 5.0): y3 = 33, dy3/dx = (3, 3, 0, 3)" in output
    assert "x = (2.0, 4.0, 5.0, 5.0): y3 = 33, dy3/dx = (3, 3, 3, 0)" in output
    # Unit 1 passes 1 + 2 + 3 and three times 1; unit 2 is dead.
    assert "weight gradients [6. 0.], bias gradients [3. 0.]" in output


def test_classifier_prints_its_parameters_and_loss(run):
    output = output_of(run, "classifier_703.py")
    assert "parameters: 703\n" in output
    blocks = re.split(r"^(W1|b1|W2|b2|parameters:.*)$", output, flags=re.MULTILINE)
    values = {name: np.array(re.findall(r"-?\d+\.\d*", text), float)
              for name, text in zip(blocks[1::2], blocks[2::2], strict=True)}
    assert [values[name].size for name in ("W1", "b1", "W2", "b2")] == [500, 50, 150, 3]
    # sum(b2) stays where it started, in (0, 0.3); three numbers are printed to 4 digits.
    assert -1.5e-4 < values["b2"].sum() < 0.3 + 1.5e-4
    first, last = map(float, re.search(r"loss: (\S+) at .*, (\S+) at the last", output).groups())
    assert last < 0.002 < 0.5 < first


def test_skip_connection_prints_the_right_intermediate_values(run):
    output = output_of(run, "skip_connection.py")
    assert "x1 = 0.4, x1 * w1 = -0.08, y1 = -0.38, z = 0.62\n" in output
    assert "dz/dw0 = -0.2, dz/dw1 = 0.4, dz/db0 = -0.2, dz/db1 = 1\n" in output
    first, last = map(float, re.search(r"of 2: (\S+) before training, (\S+) at", output).groups())
    assert first == 1.904               # (0.62 - 2)^2, to 4 digits
    assert last < 1e-3


def test_parameter_counts_prints_shapes_and_totals(run):
    output = output_of(run, "parameter_counts.py")
    rows = re.findall(r"(Dense\(.*?\)) +output (\(.*?\)) +parameters (\d+)", output)
    assert rows == [
        ("Dense(10, 50)", "(1, 50)", "550"),
        ("Dense(50, 3)", "(1, 3)", "153"),
        ("Dense(30, 1024)", "(32, 1024)", "31744"),
        ("Dense(1024, 512)", "(32, 512)", "524800"),
        ("Dense(512, 1)", "(32, 1)", "513"),
    ]
    assert re.findall(r"total (\d+)", output) == ["703", "557057"]


def test_one_step_prints_the_table_of_the_exercise(run):
    assert output_of(run, "one_step.py") == """\
| | gradient | after the step | | gradient | after the step |
|---|---|---|---|---|---|
| w1 | 0.01 | 0.09 | w10 | 0.23 | 0.08 |
| w2 | 0.02 | 0.49 | w11 | 0.23 | -0.01 |
| w3 | -0.05 | 0.22 | w12 | 0.21 | 0.30 |
| w4 | -0.06 | 0.43 | b1 | 0.05 | 0.28 |
| w5 | 0.01 | 0.39 | b2 | -0.19 | 0.39 |
| w6 | 0.02 | 0.09 | b3 | 0.05 | 0.28 |
| w7 | -0.23 | 0.22 | b4 | -0.47 | 0.94 |
| w8 | -0.23 | 0.61 | b5 | 0.47 | 0.46 |
| w9 | -0.21 | 0.40 | | | |
Outputs 0.53 and 0.47, loss 0.64.
To more digits: outputs 0.52517868, 0.47482132; loss 0.6440167232.
"""


def test_digits_are_learned(run):
    """Bounds from 20 seeds for split and weights: training 0.990 to 0.996, validation 0.950
    to 0.983; the nearest mean image, without any learning, gets 0.87 to 0.94."""
    found = {name: (float(loss), float(accuracy)) for name, loss, accuracy in re.findall(
        r"(\w+): loss (\S+), accuracy (\S+) at epoch 200", output_of(run, "digits_curves.py"))}
    assert found.keys() == {"training", "validation"}
    assert found["training"][1] > 0.98
    assert found["validation"][1] > 0.94
    assert found["training"][0] < found["validation"][0] < 0.2


def test_the_network_learns_the_digits_as_the_layers_do(run):
    """Training is recorded at the same moment in both, so the last line shows the same figures."""
    by_hand = re.search(r"training: loss (\S+), accuracy (\S+) at epoch 200",
                        output_of(run, "digits_curves.py"))
    whole = re.search(r"loss (\S+), accuracy (\S+), val_loss (\S+), val_accuracy (\S+)\)",
                      output_of(run, "digits_network.py"))
    assert whole.groups()[:2] == by_hand.groups()
    assert float(whole[3]) < 0.2 and float(whole[4]) > 0.94


def test_digits_are_learned_alike_by_any_number_of_processes(run, tmp_path):
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    pytest.importorskip("mpi4py")
    if mpiexec is None:
        pytest.skip("needs mpiexec")
    alone = output_of(run, "mpi_digits.py")
    command = [mpiexec, "-n", "2", sys.executable, "-m", "mpi4py", EXAMPLES / "mpi_digits.py"]
    together = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert together.returncode == 0, together.stderr
    assert together.stdout == alone.replace("1 processes", "2 processes") != alone
    assert float(re.search(r"held out: loss \S+, accuracy (\S+)", alone)[1]) > 0.9


def test_a_search_on_dask_finds_what_a_search_in_one_process_does(run, monkeypatch):
    found = re.search(r"best: (.*), accuracy (\S+) in", output_of(run, "dask_search.py"))
    monkeypatch.syspath_prepend(EXAMPLES)
    import dask_search

    alone = dask_search.make_search().fit(*dask_search.digits()[0])
    assert found.groups() == (str(alone.best_params_), f"{alone.best_score_:.4f}")


# ---- What they draw ------------------------------------------------------------------------------


@pytest.mark.parametrize("name, picture, n_curves", [
    ("classifier_703.py", "classifier_703_loss.png", 1),
    ("digits_curves.py", "digits_loss.png", 2),             # training and validation
    ("digits_curves.py", "digits_accuracy.png", 2),
    ("digits_network.py", "digits_network.png", 2),
])
def test_picture_shows_its_curves(run, name, picture, n_curves):
    assert_is_a_picture_of_curves(run(name)[1] / picture, n_curves)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_go_to_the_folder_that_is_asked_for(name, tmp_path):
    result = run_in(tmp_path, name, "new/folder")
    assert result.returncode == 0, result.stderr
    assert names_in(tmp_path) == ["new"]
    assert names_in(tmp_path / "new" / "folder") == PICTURES[name]
