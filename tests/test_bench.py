"""The benchmarks run, check what they time, and compute their figures rightly.

Nothing here asserts how fast anything is. `python -m bench` belongs to the repository, not to the
installed package: each test starts it as a user does, from the repository's root.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastnet import reference

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    not (ROOT / "bench" / "__main__.py").is_file(),
    reason="the bench folder of the repository is not beside the tests")


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


def script(text):
    """Run a script in which bench can be imported; what fails in it fails here."""
    done = python("-c", text)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    files = folder / "kernels.json", folder / "kernels.md"
    done = python("-m", "bench", "kernels", "--quick",
                  "--json", str(files[0]), "--markdown", str(files[1]))
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(files[0].read_text()), files[1].read_text()


# The reference has a twin of every kernel. A row stands for one of its names, except for these:
ROWS = {
    "dense_backward": {"dense_backward_dX", "dense_backward_dW", "dense_backward_db"},
    "sgd_update": {"sgd_update", "sgd_update_momentum", "sgd_update_nesterov"},
    "scale_backward": {"scale_forward"},        # one kernel for both, and one row
}
KERNELS = set().union(*(ROWS.get(name, {name}) for name in reference.__all__))


def test_quick_run_has_a_row_for_every_kernel(quick):
    printed, saved, markdown = quick
    rows = [[cell.strip() for cell in line.split("|")[1:-1]]
            for line in printed.splitlines() if line.startswith("|")]
    heading, _, *rows = rows
    assert heading == ["kernel", "shape", "fastnet us", "NumPy us", "NumPy/fastnet",
                       "reference us", "reference/fastnet", "fastnet GFLOP/s"]
    assert {row[0] for row in rows} == KERNELS
    # Small layers: all three contenders take part everywhere, and only products have GFLOP/s.
    times = r"[\d.]+ \[[\d.]+-[\d.]+\]"
    for kernel, shape, fastnet, numpy, *ratios_and_reference, gflops in rows:
        assert re.fullmatch(r"\d+x\d+(x\d+)?", shape)
        assert re.fullmatch(times, fastnet) and re.fullmatch(times, numpy)
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
        assert set(result["ratios"]) == {"NumPy", "reference"}


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


def test_verification_checks_every_result_of_every_contender():
    """Each result in turn gets one wrong entry, is NaN, or has another shape."""
    printed = script("""
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
            return case.contenders["NumPy"]()
        for array, values in zip(case.outputs, start):
            array[...] = values
        kernels.verify(case, {**case.contenders, "spy": spy}, str(plan))
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(seen, start)), plan
print(seeded)
""")
    assert int(printed) > 2 * 3 * 3 * len(KERNELS)


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
""")


def test_a_filter_without_a_match_is_an_error():
    done = python("-m", "bench", "kernels", "--quick", "--filter", "nothing like it")
    assert done.returncode == 1
    assert "no kernel and shape contain 'nothing like it'" in done.stderr
