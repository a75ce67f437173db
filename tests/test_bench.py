"""The benchmarks run, check what they time, and compute their figures rightly.

Nothing here asserts how fast anything is. `python -m bench` belongs to the repository, not to the
installed package: each test starts it as a user does, from the repository's root.
"""

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from fastnet import reference

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.bench, pytest.mark.skipif(
    not (ROOT / "bench" / "__main__.py").is_file(),
    reason="the bench folder of the repository is not beside the tests")]


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120)


def script(text, **environment):
    """Run a script in which bench can be imported; what fails in it fails here."""
    done = python("-c", text, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(folder, *arguments):
    """What a run prints, and the two files that it writes."""
    files = folder / "figures.json", folder / "table.md"
    done = python("-m", "bench", *arguments, "--json", str(files[0]), "--markdown", str(files[1]))
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(files[0].read_text()), files[1].read_text()


def cells(printed):
    """The cells of all tables, line by line."""
    return [[cell.strip() for cell in line.split("|")[1:-1]]
            for line in printed.splitlines() if line.startswith("|")]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return run(tmp_path_factory.mktemp("bench"), "kernels", "--quick")


KINDS = "sigmoid", "tanh", "gelu", "gelu_tanh", "silu"

# The reference has a twin of every kernel. A row stands for one of its names, except for these:
ROWS = {
    "dense_backward": {"dense_backward_dX", "dense_backward_dW", "dense_backward_db"},
    "sgd_update": {"sgd_update", "sgd_update_momentum", "sgd_update_nesterov"},
    "scale_backward": {"scale_forward"},        # one kernel for both, and one row
    "activation_forward": {f"{kind}_forward" for kind in KINDS},
    "activation_backward": {f"{kind}_backward" for kind in KINDS},
    "entry_losses": {"mean_squared_error", "binary_cross_entropy", "huber", "poisson"},
}
KERNELS = set().union(*(ROWS.get(name, {name}) for name in reference.__all__))

# What NumPy has no function for: it borrows SciPy's, if that is there.
NEED_SCIPY = {"gelu_forward", "gelu_backward"}
WITHOUT_NUMPY = set() if importlib.util.find_spec("scipy") else NEED_SCIPY


def test_quick_run_has_a_row_for_every_kernel(quick):
    printed, saved, markdown = quick
    heading, _, *rows = cells(printed)
    assert heading == ["kernel", "shape", "fastnet us", "NumPy us", "NumPy/fastnet",
                       "reference us", "reference/fastnet", "fastnet GFLOP/s"]
    assert {row[0] for row in rows} == KERNELS
    # Small layers: all three contenders take part everywhere (if there is SciPy), and only products
    # have GFLOP/s.
    times = r"[\d.]+ \[[\d.]+-[\d.]+\]"
    for kernel, shape, fastnet, numpy, *ratios_and_reference, gflops in rows:
        assert re.fullmatch(r"\d+x\d+(x\d+)?", shape)
        assert re.fullmatch(times, fastnet)
        assert re.fullmatch("-" if kernel in WITHOUT_NUMPY else times, numpy)
        assert re.fullmatch(times, ratios_and_reference[1])
        is_product = kernel in {"dense_forward", "dense_backward_dX", "dense_backward_dW"}
        assert (gflops != "-") == is_product, kernel
    assert markdown == printed
    assert [(r["kernel"], "x".join(map(str, r["shape"]))) for r in saved["results"]] == [
        (row[0], row[1]) for row in rows]


def test_files_tell_where_the_figures_come_from(quick):
    _, saved, markdown = quick
    for name in ("command", "processor", "Python", "NumPy", "fastnet", "threads", "dtype"):
        assert f"- {name}: {saved['environment'][name]}\n" in markdown
    assert saved["environment"]["threads"].startswith("1 in this process (OPENBLAS_NUM_THREADS=1")
    assert "--quick" in saved["environment"]["command"]
    for result in saved["results"]:
        for times in result["times"].values():
            assert 0 < times["q1"] <= times["median"] <= times["q3"]
        assert result["times"]["fastnet"]["samples"] >= 5
        assert result["times"]["reference"]["samples"] == 3
        without = {"NumPy"} if result["kernel"] in WITHOUT_NUMPY else set()
        assert set(result["ratios"]) == {"NumPy", "reference"} - without


def test_statistics_of_made_up_samples():
    script("""
from bench.measure import median_ratio, summarise
summary = summarise([5.0, 1.0, 4.0, 2.0, 3.0])
assert (summary.q1, summary.median, summary.q3, summary.samples) == (2.0, 3.0, 4.0, 5)
assert summarise([1.0, 2.0]).median == 1.5
assert summarise([7.0]).q1 == summarise([7.0]).q3 == 7.0

# Round by round 2, 3 and 4: the ratio of the two medians would be 30 / 1.
assert median_ratio([2.0, 30.0, 400.0], [1.0, 10.0, 100.0]) == 3.0
assert median_ratio([30.0, 4.0, 2.0], [1.0, 10.0, 1.0]) == 2.0
# A contender with fewer samples counts in the rounds it took part in.
assert median_ratio([2.0, 6.0, 8.0], [1.0, 2.0, 2.0, 1000.0]) == 3.0
""")


def test_contenders_take_turns():
    script("""
import time
import bench.measure as measure
calls = []
samples = measure.time_in_turns(
    {name: lambda name=name: calls.append(name) for name in "ABC"}, 4, 0.0, {"C": 2},
    sample_seconds=0.0)             # a sample is one call
assert "".join(calls) == "ABC" + "ABC" "ABC" "AB" "AB", calls     # after one warm-up each
assert {name: len(values) for name, values in samples.items()} == {"A": 4, "B": 4, "C": 2}

# A sample repeats what is shorter, and counts seconds per call.
calls.clear()
[sample] = measure.time_in_turns({"A": lambda: calls.append(1)}, 1, 0.0, {}, 1e-3)["A"]
assert len(calls) > 100 and 0 < sample < 1e-4, (len(calls), sample)

# A Loop does so itself: the timer hands it the number of calls, and counts seconds per call.
repeats = []
loop = measure.Loop(lambda calls: repeats.append(calls) or time.sleep(1e-3 * calls) or "result")
assert loop() == "result" and repeats == [1]
repeats.clear()
[sample] = measure.time_in_turns({"A": loop}, 1, 0.0, {}, 3e-2)["A"]
assert repeats[:3] == [1, 2, 4] and repeats[-1] == repeats[-2] > 1, repeats
assert 1e-3 <= sample < 1e-2, sample
""")


def test_a_wrong_contender_stops_the_run():
    wrong = """
import sys
from bench import __main__, kernels
right = kernels._ops.relu_forward

def wrong(X, Y):
    right(X, Y)
    Y[-1, -1] += 1e-5       # beyond rounding in float32: one entry, by a hundred-thousandth
    return Y

kernels._ops.relu_forward = wrong
sys.argv[1:] = ["kernels", "--quick", "--filter", "relu"]
sys.exit(__main__.main())
"""
    done = python("-c", wrong)
    assert done.returncode == 1
    assert "relu_forward 1x3: fastnet is wrong: off by" in done.stderr
    assert not re.search(r"\| relu", done.stdout)      # nothing wrong was timed


SEEDED = """
from functools import partial
import numpy as np
from bench import kernels

def spoil(run, index, wrong):
    found = run()
    results = list(found) if isinstance(found, tuple) else [found]
    results[index] = wrong(np.array(results[index], np.float64))
    return tuple(results)

def one_off(result):
    result.flat[-1] += 1e-3 * max(np.abs(result).max(), 1e-3)
    return result

def complaint(case, contenders):
    try:
        kernels.verify(case, contenders, "seeded")
    except kernels.WrongResult as error:
        return str(error)
    return ""
"""


def test_verification_checks_every_result_of_every_contender():
    """Each result in turn gets one wrong entry, is NaN, or has another shape."""
    printed = script(SEEDED + """
seeded = 0
for dtype in ("float32", "float64"):
    for plan in kernels.plans(kernels.SMALL_LAYERS):
        case = plan.make(kernels.Arrays(dtype), *plan.shape)
        lists = [array.tolist() for array in case.inputs]
        contenders = {**case.contenders, "reference": partial(case.reference, *lists)}
        start = [array.copy() for array in case.outputs]
        assert complaint(case, contenders) == "", plan
        for array, values in zip(case.outputs, start):
            array[...] = values
        for name, run in contenders.items():
            found = run()
            for index in range(len(found) if isinstance(found, tuple) else 1):
                for wrong in (one_off, lambda result: result * np.nan, lambda result: result[None]):
                    for array, values in zip(case.outputs, start):
                        array[...] = values
                    spoilt = {**contenders, name: partial(spoil, run, index, wrong)}
                    assert f"seeded: {name} is wrong" in complaint(case, spoilt), (plan, index)
                    seeded += 1
        # What one contender has written is gone before the next one starts.
        seen = []
        def spy():
            seen.extend(array.copy() for array in case.outputs)
            return case.contenders.get("NumPy", case.contenders["fastnet"])()
        for array, values in zip(case.outputs, start):
            array[...] = values
        kernels.verify(case, {**case.contenders, "spy": spy}, str(plan))
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(seen, start)), plan
print(seeded)
""")
    assert int(printed) > 2 * 3 * 3 * len(KERNELS)


def test_kernels_without_scipy():
    """Only the rows that need it are without NumPy."""
    done = python("-c", """
import sys
sys.modules["scipy"] = None
from bench import __main__
sys.argv[1:] = ["kernels", "--quick", "--filter", "elu"]
sys.exit(__main__.main())
""")
    assert done.returncode == 0, done.stderr
    heading, _, *rows = cells(done.stdout)
    assert NEED_SCIPY < {row[0] for row in rows}
    for row in rows:
        for figure in ("NumPy us", "NumPy/fastnet"):
            assert (row[heading.index(figure)] == "-") == (row[0] in NEED_SCIPY), row


def test_random_numbers_of_dropout():
    """They are made anew, not by fastnet or its reference; for any number of entries alike."""
    script("""
import numpy as np
from bench import kernels
from fastnet import reference
for size in (1, 15, 16, 64, 65, 200):
    words = kernels.random_words(size)
    assert words.tolist() == [reference._random_word(kernels.SEED, i) for i in range(size)], size
""")


def test_layers_come_from_the_grid(tmp_path):
    grid = tmp_path / "grid.toml"
    grid.write_text("[[net]]\nwidths = [4, 5, 6]\nbatch = 7\n"
                    "[[net]]\nwidths = [4, 5, 5, 6]\nbatch = 7\n")
    script(f"""
from pathlib import Path
from bench.kernels import SOME_LAYERS, plans, read_layers
assert read_layers(Path({str(grid)!r})) == [
    (7, 4, 5, False), (7, 5, 6, True), (7, 5, 5, False)]      # each once

layers = read_layers()
assert (1, 2, 3, False) in layers and (256, 2048, 10, True) in layers
assert set(SOME_LAYERS) <= set(layers), set(SOME_LAYERS) - set(layers)

names = [str(plan) for plan in plans(layers)]
assert len(names) == len(set(names)) and "sgd_update 2048x2048" in names
assert [str(plan) for plan in plans(layers, "relu_forward 64x")] == ["relu_forward 64x64"]
# Some are for hidden layers of several samples only.
assert [name for name in names if name.startswith("tanh_forward 64x")] == ["tanh_forward 64x64"]
assert "relu_forward 1x50" in names and not plans(layers, "tanh_forward 1x")
assert not plans(layers, "dropout 64x10") and not plans(layers, "adam_update 64x10")
""")


def test_a_filter_without_a_match_is_an_error():
    done = python("-m", "bench", "kernels", "--quick", "--filter", "nothing like it")
    assert done.returncode == 1
    assert "no kernel and shape contain 'nothing like it'" in done.stderr


# ---- The peers ---------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def compiled():
    """What `--peers` cannot do without."""
    for name in ("scipy", "Cython", "setuptools"):
        pytest.importorskip(name)


def test_peers_are_measured_and_judged(compiled, tmp_path):
    printed, saved, markdown = run(tmp_path, "kernels", "--peers", "--quick")
    assert markdown == printed
    heading, _, *rows = cells(printed)
    rows = [dict(zip(heading, row, strict=True)) for row in rows]
    assert len(rows) == len(saved["results"])
    products = {"dense_forward_relu", "dense_forward", "dense_backward_dX", "dense_backward_dW"}
    assert {row["kernel"] for row in rows} == products | {
        "loss", "sgd_update_momentum", "sgd_update_nesterov",
        "relu_layer", "dense_layer", "training_step"}
    has_torch = importlib.util.find_spec("torch") is not None
    missed = []
    for row, result in zip(rows, saved["results"], strict=True):
        assert row["NumPy/fastnet"] != "-"
        with_torch = has_torch and not row["kernel"].endswith(("layer", "step"))
        assert (row["PyTorch/fastnet"] != "-") == with_torch
        for figure in ("fastnet in C us", "gemm/fastnet in C", "share of peak"):
            assert (row[figure] != "-") == (row["kernel"] in products), row
        assert result["verdicts"]
        targets = [verdict["target"] for verdict in result["verdicts"] if not verdict["met"]]
        assert row["targets"] == (f"missed: {', '.join(targets)}" if targets else "met")
        assert all(result["figures"][verdict["target"].rsplit(" ", 2)[0]] == verdict["found"]
                   for verdict in result["verdicts"])
        missed += [f"- {row['kernel']} {row['shape']}: {target}, found" for target in targets]
    n_targets = sum(len(result["verdicts"]) for result in saved["results"])
    verdict, *lines = printed[printed.index(f"{n_targets - len(missed)} of {n_targets} "):].split(
        "\n\n")[0].splitlines()
    assert verdict == f"{n_targets - len(missed)} of {n_targets} targets are met; missed:"
    assert [line.rsplit(" ", 1)[0] for line in lines] == missed
    assert saved["environment"]["threads"].startswith("1 in this process")
    for name in ("SciPy", "PyTorch"):
        assert f"- {name}: {saved['environment'][name]}\n" in markdown


def test_every_peer_is_verified(compiled):
    """All that is timed has been checked, and each contender's results are, one by one."""
    printed = script(SEEDED + """
from bench import peers
rivals = peers.Peers("float64")
seeded = 0
for plan in peers.plans(kernels.SMALL_LAYERS, small=True):
    with rivals.mode(peers.is_product(plan.kernel)):
        contest = plan.make(kernels.Arrays("float64"), rivals, *plan.shape)
        names = [name for case in contest.cases for name in case.contenders]
        assert sorted(names) == sorted(contest.timed.keys() - {"peak", "copy"}), plan
        for case in contest.cases:
            start = [array.copy() for array in case.outputs]
            for name, run in case.contenders.items():
                found = run()
                for index in range(len(found) if isinstance(found, tuple) else 1):
                    for array, values in zip(case.outputs, start):
                        array[...] = values
                    spoilt = {name: partial(spoil, run, index, one_off)}
                    assert f"seeded: {name} is wrong" in complaint(case, spoilt), (plan, index)
                    seeded += 1
print(seeded)
""")
    assert int(printed) > 60


def test_a_wrong_peer_stops_the_run(compiled):
    done = python("-c", """
import sys
sys.modules["torch"] = None     # it takes two seconds to import
from bench import __main__, peers
load = peers.load_loops

def load_wrong(dtype):
    loops = load(dtype)
    gemm = loops.gemm
    loops.gemm = lambda A, B, C, repeat: gemm(A, B, C, repeat) + 1e-4
    return loops

peers.load_loops = load_wrong
sys.argv[1:] = ["kernels", "--peers", "--quick", "--filter", "dense_backward_dX 64x64x64"]
sys.exit(__main__.main())
""")
    assert done.returncode == 1
    assert "dense_backward_dX 64x64x64: gemm is wrong: off by" in done.stderr
    assert "| dense_backward_dX" not in done.stdout


@pytest.mark.parametrize(
    "dtype, isa", [("float32", None), ("float64", None), ("float64", "baseline")])
def test_loops_in_c(compiled, dtype, isa):
    """They compute what NumPy does, with the vectors of the instruction set that is in use."""
    script(f"dtype = {dtype!r}" + """
import numpy as np
from bench import native
from fastnet import _ops
loops = native.load_loops(dtype)
rng = np.random.default_rng(0)
for n, n_in, n_out in [(1, 1, 1), (1, 5, 1), (7, 1, 1), (1, 1, 4), (3, 1, 4), (5, 7, 3)]:
    X, W, b, dZ = (rng.normal(size=s).astype(dtype)
                   for s in [(n, n_in), (n_in, n_out), n_out, (n, n_out)])
    def new(*shape):
        return np.full(shape, np.nan, dtype)
    for repeat in (1, 3):
        for found, expected in [
            (loops.forward(X, W, b, new(n, n_out), False, repeat), X @ W + b),
            (loops.forward(X, W, b, new(n, n_out), True, repeat), np.maximum(X @ W + b, 0)),
            (loops.backward_dX(W, dZ, new(n, n_in), repeat), dZ @ W.T),
            (loops.backward_dW(X, dZ, new(n_in, n_out), repeat), X.T @ dZ),
            (loops.gemm(X, W, new(n, n_out), repeat), X @ W),
            (loops.gemm(dZ, W.T, new(n, n_in), repeat), dZ @ W.T),
            (loops.gemm(X.T, dZ, new(n_in, n_out), repeat), X.T @ dZ),
        ]:      # a handful of roundings
            np.testing.assert_allclose(found, expected, rtol=0, atol=20 * np.finfo(dtype).eps)

# The peak: every lane of every chain ends at 2. Each takes a multiplication and an addition a step.
vector = {"x86-64-v4": 64, "x86-64-v3": 32}.get(_ops.isa, 16)
lanes = vector // np.dtype(dtype).itemsize
chains = loops.multiply_add(1) / 2 / lanes
assert chains == 12 and loops.multiply_add(5) == 2 * lanes * chains
assert loops.FLOP == 2 * 100 * chains * lanes
""", **({"FASTNET_ISA": isa} if isa else {}))


def test_peers_without_what_they_need():
    done = python("-c", """
import sys
sys.modules["scipy"] = None
from bench import __main__
sys.argv[1:] = ["kernels", "--peers", "--quick"]
sys.exit(__main__.main())
""")
    assert done.returncode == 1
    assert "scipy" in done.stderr and "pip install -e '.[bench]'" in done.stderr


def test_peers_without_torch(compiled):
    done = python("-c", """
import sys
sys.modules["torch"] = None
from bench import __main__
sys.argv[1:] = ["kernels", "--peers", "--quick", "--filter", "64x64x10"]
sys.exit(__main__.main())
""")
    assert done.returncode == 0, done.stderr
    heading, _, *rows = cells(done.stdout)
    assert [row[heading.index("PyTorch/fastnet")] for row in rows] == ["-", "-", "-"]
    assert "- PyTorch: not installed\n" in done.stdout


def test_rows_of_the_peers():
    script("""
from bench import kernels, peers
layers = kernels.read_layers()
names = [str(plan) for plan in peers.plans(layers)]
assert len(names) == len(set(names))
for n, n_in, n_out, last in layers:
    products = {name.split()[0] for name in names if name.endswith(f" {n}x{n_in}x{n_out}")}
    forward = "dense_forward" if last else "dense_forward_relu"     # relu follows hidden layers
    assert products - {"dense_layer"} == {forward, "dense_backward_dX", "dense_backward_dW"}
assert [name for name in names if name.startswith("loss")] == [
    "loss 128x10", "loss 10000x10", "loss 256x1000"]
assert [str(plan) for plan in peers.plans(layers, "nesterov 17")] == ["sgd_update_nesterov 17"]

# The quickest way of PyTorch counts, and the loop in C is compared with its like.
samples = {"fastnet": [2.0, 2.0], "NumPy": [6.0, 6.0], "PyTorch fused": [8.0, 8.0],
           "PyTorch plain": [4.0, 4.0], "fastnet in C": [1.0, 1.0], "gemm": [5.0, 5.0]}
assert peers.ratios(samples) == {
    "NumPy/fastnet": 3.0, "PyTorch/fastnet": 2.0, "gemm/fastnet in C": 5.0}
del samples["PyTorch fused"], samples["PyTorch plain"], samples["gemm"]
assert peers.ratios(samples) == {"NumPy/fastnet": 3.0}
""")


def test_targets_on_made_up_rows():
    """Kernel, shape, dtype and figures, and the verdicts on these: met or missed."""
    script("""
from bench.peers import Row, judge

def judged(kernel, shape, dtype="float32", **figures):
    names = {"numpy": "NumPy/fastnet", "torch": "PyTorch/fastnet", "gemm": "gemm/fastnet in C",
             "share": "share of peak", "ns": "ns per row", "us": "us"}
    row = Row(kernel, shape, dtype, {}, {names[key]: value for key, value in figures.items()})
    return {verdict.target: verdict.met for verdict in judge(row)}

forward = "dense_forward"
assert judged(forward, (64, 64, 64), numpy=1.1, torch=0.99, gemm=0.95, share=0.65) == {
    "NumPy/fastnet >= 1.1": True, "PyTorch/fastnet >= 1": False,
    "gemm/fastnet in C >= 0.95": True, "share of peak >= 0.65": True}
assert judged(forward, (64, 64, 64), "float64", numpy=1.0) == {"NumPy/fastnet >= 1": True}
assert judged(forward, (64, 64, 65), gemm=0.99) == {"gemm/fastnet in C >= 1": False}
assert judged(forward, (999, 999, 16), gemm=0.94) == {"gemm/fastnet in C >= 0.95": False}
assert judged(forward, (999, 999, 17), gemm=1.0) == {"gemm/fastnet in C >= 1": True}
assert judged(forward, (128, 999, 128), share=0.74) == {"share of peak >= 0.75": False}
assert judged(forward, (127, 999, 999), share=0.66) == {"share of peak >= 0.65": True}
assert judged(forward, (64, 2, 8), share=0.34) == {"share of peak >= 0.35": False}
assert judged(forward, (64, 2, 16), share=0.36) == {"share of peak >= 0.35": True}
assert judged(forward, (63, 99, 16), share=0.1) == judged(forward, (64, 99, 7), share=0.1) == {}
assert judged("loss", (128, 10), numpy=11.9, ns=99) == {"NumPy/fastnet >= 12": False}
assert judged("loss", (10000, 10), numpy=12, ns=10) == {
    "NumPy/fastnet >= 12": True, "ns per row <= 10": True}
assert judged("loss", (10000, 10), ns=10.1) == {"ns per row <= 10": False}
assert judged("loss", (256, 1000), numpy=4.1) == {"NumPy/fastnet >= 4": True}
assert judged("sgd_update_momentum", (9000,), numpy=2.9) == {"NumPy/fastnet >= 3": False}
assert judged("sgd_update_momentum", (102000,), numpy=2.9) == {"NumPy/fastnet >= 1.1": True}
assert judged("relu_layer", (1, 50), us=0.41) == {"us <= 0.4": False}
assert judged("dense_layer", (1, 2, 3), us=0.4) == {"us <= 0.4": True}
assert judged("training_step", (1, 10, 50, 3), us=3.9) == {"us <= 4": True}
""")


# ---- The sweep ---------------------------------------------------------------------------------

def test_sweep_runs_and_its_distribution_is_right(tmp_path):
    printed, saved, markdown = run(tmp_path, "sweep", "--quick", "--dtype", "float64")
    assert markdown == printed
    points = saved["results"]
    products = ["dense_forward", "dense_backward_dX", "dense_backward_dW"]
    assert [point["kernel"] for point in points] == products * (len(points) // 3)
    heading = ["NumPy/fastnet", "points", "min", "5 %", "median", "max", "below 1", "cliffs"]
    rows = cells(printed)
    table = {row[0]: row[1:] for row in rows[rows.index(heading) + 2:]}
    assert list(table) == [*products, "all"]
    for name, (count, least, _, median, most, below, cliffs) in table.items():
        own = [point for point in points if name in (point["kernel"], "all")]
        ratios = sorted(point["ratio"] for point in own)
        assert int(count) == len(own) > 3
        # Three digits are shown.
        assert [float(least), float(median), float(most)] == pytest.approx(
            [ratios[0], statistics.median(ratios), ratios[-1]], rel=5e-3)
        assert int(below) == sum(ratio < 1 for ratio in ratios)
        assert int(cliffs) == sum(bool(point["cliffs"]) for point in own)
    # Listed is what is slower than NumPy or stands before a cliff, and nothing else.
    weak = [point for point in points if point["ratio"] < 1 or point["cliffs"]]
    assert [row[:2] for row in rows[2:rows.index(heading)]] == [
        [point["kernel"], "x".join(map(str, point["shape"]))] for point in weak]


def test_shapes_of_the_sweep():
    script("""
from math import prod
from bench import sweep
shapes = sweep.random_shapes()
assert shapes == sweep.random_shapes() and len(shapes) == 300 and len(set(shapes)) > 290
assert all(1 <= d <= 4096 for shape in shapes for d in shape)
assert max(map(prod, shapes)) <= 10**8
for axis in range(3):       # log-uniform: about a quarter in each factor of 8, up to 8^4 = 4096
    for power in range(4):
        count = sum(8**power <= shape[axis] < 8**(power + 1) for shape in shapes)
        assert 40 < count < 110, (axis, power, count)

edges = sweep.edge_shapes()
assert len(edges) == len(set(edges)) and {(64, 64, 63), (129, 128, 128), (128, 4097, 128),
                                          (1, 64, 64), (257, 257, 257), (31, 31, 31)} <= set(edges)
assert max(map(prod, edges)) <= 10**8

assert sorted(sweep.grown((63, 64, 100))) == sorted([
    (64, 64, 100), (63, 65, 100), (63, 64, 101), (63, 64, 127)])
assert sweep.grown((4097, 1, 1)) == [(4098, 1, 1), (4097, 2, 1), (4097, 1, 2)]
""")


def test_sweep_measures_again_what_looks_weak():
    script("""
from bench import sweep
turns = []

def measured(*rounds):
    # Ratios and number of measurements, for made-up seconds of each.
    turns[:] = rounds
    sweep.time_in_turns = lambda contenders, *_: {
        name: [seconds] for name, seconds in {"fastnet": 1.0, **turns.pop(0)}.items()
        if name in contenders}
    contenders = dict.fromkeys(["fastnet", *rounds[0]])
    times, ratios = sweep.measure(contenders, 1)
    assert set(times) == {"fastnet", "NumPy"}
    return ratios, len(rounds) - len(turns)

assert measured({"NumPy": 1.0, "2x2x2": 0.92}) == ({"NumPy": 1.0, "2x2x2": 0.92}, 1)
# A moment's weakness is forgotten, be it towards NumPy or a larger shape.
assert measured({"NumPy": 0.9, "2x2x2": 2.0}, {"NumPy": 1.2}) == ({"NumPy": 1.2, "2x2x2": 2.0}, 2)
assert measured({"NumPy": 2.0, "2x2x2": 0.9}, {"2x2x2": 0.8}, {"2x2x2": 0.95}) == (
    {"NumPy": 2.0, "2x2x2": 0.95}, 3)
# What stays is measured four times, and the last counts.
assert measured({"NumPy": 0.5, "2x2x2": 0.5}, {"NumPy": 1.5, "2x2x2": 0.6}, {"2x2x2": 0.7},
                {"2x2x2": 0.8}, {"2x2x2": 9.0}) == ({"NumPy": 1.5, "2x2x2": 0.8}, 4)

# A cliff is a larger shape that takes less time, by more than 10 %.
sweep.time_in_turns = lambda contenders, *_: {
    name: [{"fastnet": 1.0, "NumPy": 0.5, "5x4x3": 0.5, "4x5x3": 0.92}.get(name, 2.0)]
    for name in contenders}
point = next(sweep.run([(4, 4, 3)], "float32", 1))
assert (point.shape, point.ratio, point.cliffs) == ((4, 4, 3), 0.5, {"5x4x3": 2.0}), point
""")


def test_sweep_verifies_larger_shapes_too():
    script("""
from bench import kernels, sweep
right = kernels._ops.dense_forward

def wrong(X, W, b, Z, relu=False):
    right(X, W, b, Z, relu)
    Z[-1, -1] += 1e-4 * (len(X) == 6)
    return Z

kernels._ops.dense_forward = wrong
try:
    next(sweep.run([(5, 3, 4)], "float32", 1))
except kernels.WrongResult as error:
    assert "dense_forward 6x3x4: fastnet is wrong" in str(error), error
else:
    raise AssertionError("a wrong result was timed")
""")


def test_sweep_draws_speed_over_work():
    pytest.importorskip("matplotlib")
    script("""
from bench.measure import Summary
from bench.sweep import Point, draw
def seconds(s):
    return Summary(s, s, s, 1)
points = [Point(kernel, (10, 20, 30), {"fastnet": seconds(1e-6), "NumPy": seconds(2e-6)}, 2.0, {})
          for kernel in ("dense_forward", "dense_backward_dX", "dense_backward_dW")]
figure = draw(points, "title")
assert [axes.get_title() for axes in figure.axes] == [point.kernel for point in points]
for axes in figure.axes:
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {"fastnet": [[6000.0, 12.0]], "NumPy": [[6000.0, 6.0]]}
    assert axes.get_xscale() == axes.get_yscale() == "log"
""")


def test_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    done = python("-m", "bench", "sweep", "--quick", "--plot", str(tmp_path / "speed.png"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
