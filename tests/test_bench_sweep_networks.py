"""`python -m bench sweep --networks`: what it draws, what it verifies, and what it says.

Nothing here asserts how fast anything is. As in test_bench.py each test starts a Python in the
repository's root.
"""

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.bench, pytest.mark.skipif(
    not (ROOT / "bench" / "__main__.py").is_file(),
    reason="the bench folder of the repository is not beside the tests")]


def python(text, *arguments):
    return subprocess.run([sys.executable, "-c", text, *arguments], cwd=ROOT, env={**os.environ},
                          capture_output=True, text=True, timeout=120)


def script(text):
    """Run a script in which bench can be imported; what fails in it fails here."""
    done = python(text)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tables(printed):
    """The tables, each as the cells of its lines without the rule below the heading."""
    blocks = re.findall(r"(?:^\|.*\n)+", printed, re.MULTILINE)
    found = [[[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
             for block in blocks]
    return [[heading, *rows] for heading, _, *rows in found]


# ---- Networks ----------------------------------------------------------------------------------

def test_random_networks_keep_their_bounds():
    script("""
from bench import network_sweep as sweep
found = sweep.random_networks()
assert found == sweep.random_networks() and len(set(found)) == len(found) == 60
assert [network.depth for network in found] == [depth for depth in range(1, 21) for _ in range(3)]
widths = [width for network in found for width in network.widths]
batches = [network.batch for network in found]
assert min(widths) >= 1 and 2048 < max(widths) <= 4096
assert min(batches) >= 1 and 1000 < max(batches) <= 10000
assert sum(width < 64 for width in widths) > 200 < sum(width >= 64 for width in widths)
assert max(network.seconds for network in found) <= 0.03
# The first of each depth has one width in all hidden layers, the others have many.
for index, network in enumerate(found):
    if network.depth > 3:
        assert (len(set(network.widths[1:-1])) == 1) == (index % 3 == 0), network
""")


def test_lines_grow_in_one_size():
    script("""
from itertools import pairwise
from bench import network_sweep as sweep
lines = sweep.lines()
assert set(lines) == {*sweep.SIZES, sweep.RANDOM}
for line, size in sweep.SIZES.items():
    assert all(size(one) < size(next) for one, next in pairwise(lines[line])), line
assert [network.batch for network in lines["batch"]] == [
    1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 10000]
assert {(63, 63, 10), (64, 64, 10), (65, 65, 10), (1, 1, 10), (4096, 4096, 10)} <= {
    network.widths for network in lines["width"]}
assert {network.batch for network in lines["width"] + lines["depth"]} == {32}
assert [network.depth for network in lines["depth"]] == list(range(1, 21))
quick = [network for found in sweep.choose(quick=True).values() for network in found]
assert 4 < len(quick) < 12 and max(network.seconds for network in quick) < 1e-4
assert sweep.choose(quick=False) == lines
""")


def test_work_counts_where_memory_bounds_it():
    script("""
from bench.network_sweep import Network
# A batch of 1 reads each weight for two multiplications: more than at 50 GFLOP/s.
assert Network((4096, 4096), 1).seconds > 0.03
assert Network((10, 20), 5).seconds < 1e-5
assert Network((10, 20), 5).steps_per_call > 100 > 2 == Network((4096, 4096), 1).steps_per_call
""")


# ---- Verification ------------------------------------------------------------------------------

def test_every_contender_is_verified():
    script("""
import numpy as np
from bench import contenders, network_sweep as sweep
from bench.kernels import WrongResult
trainers, predictors = sweep.trainers, sweep.predictors

def complaint(network):
    try:
        sweep.Verified(network, "float64")
    except WrongResult as error:
        return str(error)
    return ""

def wrong_trainers(who):
    def make(task):
        found = trainers(task)
        right = found[who]
        def weights():
            return [2 * array for array in right.weights()]
        return found | {who: contenders.Trainer(right.prepare, right.step, weights, right.many)}
    return make

def wrong_predictors(who):
    def make(task, x):
        found = predictors(task, x)
        right = found[who]
        return found | {who: lambda: right() * 1.01}
    return make

caught = []
for widths in ((5, 3), (5, 4, 3), (1, 1, 1), (5, 4, 4, 4, 1)):
    network = sweep.Network(widths, 7)
    task = sweep.networks.make_task(network, "float64")
    assert complaint(network) == ""
    for who in trainers(task):
        sweep.trainers = wrong_trainers(who)
        assert f"{network}: {who} is wrong" in complaint(network)
        caught.append(who)
    sweep.trainers = trainers
    for who in predictors(task, task.x[0]):
        sweep.predictors = wrong_predictors(who)
        assert f"{network}: {who} is wrong: scores" in complaint(network)
    sweep.predictors = predictors
assert set(caught) == {"step", "fit", "NumPy", "NumPy rows", "NumPy columns"}
""")


def test_a_moment_of_rounding_is_no_wrong_result():
    """What is off with one input and right with another is no mistake of the contender."""
    script("""
from bench import network_sweep as sweep
from bench.kernels import WrongResult
seen = []
def verify(who, trainer, task, exact):
    seen.append(task)
    if len(seen) in wrong:
        raise WrongResult(who)
sweep.networks.verify_training = verify
network = sweep.Network((5, 3), 7)
for wrong, calls in [((), 3), ((2,), 5)]:
    seen.clear()
    verified = sweep.Verified(network, "float32")
    assert len(seen) == calls
assert (seen[0].x == -seen[-1].x).all() and seen[0].y is seen[-1].y
wrong = (2, 4)
seen.clear()
try:
    sweep.Verified(network, "float32")
except WrongResult as error:
    assert str(error) == "5-3@7: fit" and len(seen) == 4
else:
    raise AssertionError("wrong twice, and timed")
""")


# ---- Figures -----------------------------------------------------------------------------------

def test_measured_again_is_what_looks_slower_than_numpy():
    script("""
from bench.network_sweep import TRAINING, measure

def measured(*turns):
    left = list(turns)
    def take():
        step, fit, rows, columns = left.pop(0)
        return {"step": [step], "fit": [fit], "NumPy rows": [rows], "NumPy columns": [columns]}
    times, ratios = measure(take, TRAINING)
    return ratios, times["NumPy"].median, len(turns) - len(left)

# The faster NumPy counts.
assert measured((1.0, 0.5, 3.0, 2.0)) == ({"step": 2.0, "fit": 4.0}, 2.0, 1)
# A moment's weakness is forgotten, and what was found for the other way stays.
assert measured((4.0, 1.0, 2.0, 3.0), (1.0, 3.0, 3.0, 9.0)) == ({"step": 3.0, "fit": 2.0}, 3.0, 2)
# What stays is measured four times, and the last counts.
assert measured(*[(2.0, 1.0, 1.0, 3.0)] * 3, (4.0, 1.0, 3.0, 3.0), (1.0,) * 4) == (
    {"step": 0.75, "fit": 1.0}, 3.0, 4)
""")


def test_what_others_take_of_the_core_does_not_count():
    script("""
import time
from bench.network_sweep import again_and_again
calls = []
waiting = again_and_again(lambda: calls.append(time.sleep(0.05)))
assert waiting.timeit(4) < 0.03 and len(calls) == 4
def work():
    start = time.process_time()
    while time.process_time() < start + 0.01:
        pass
assert 0.03 <= again_and_again(work).timeit(3) < 0.1
""")


def test_seconds_are_those_of_a_step():
    script("""
from bench import network_sweep as sweep
verified = sweep.Verified(sweep.Network((5, 3), 7), "float64")
steps = verified.network.steps_per_call
sweep.time_in_turns = lambda contenders, *_: {name: [3.0] for name in contenders}
assert verified.training_samples(1) == {"step": [3.0], "fit": [3.0 / steps], "NumPy": [3.0]}
assert set(verified.inference_samples(1)) == {"predict", "frozen", "NumPy rows", "NumPy columns"}
verified.trainers["NumPy"].weights()[0][0, 0] = float("nan")
try:
    verified.training_samples(1)
except sweep.WrongResult as error:
    assert str(error) == "5-3@7: NumPy is wrong: weights are not finite"
else:
    raise AssertionError("steps without numbers were timed")
""")


MADE_UP = """
from bench import network_sweep as sweep
from bench.measure import Summary
from bench.network_sweep import Network, Point

def point(line, network, ratio, seconds=1.0):
    names = [*sweep.WAYS, "NumPy training", "NumPy inference"]
    times = {name: Summary(seconds, seconds, seconds, 1) for name in names}
    return Point(line, network, str(network), times, dict.fromkeys(sweep.WAYS, ratio))
"""


def test_distribution_names_what_is_slower():
    script(MADE_UP + """
points = [point("random", Network((n, 2), 1), ratio)
          for n, ratio in enumerate([0.9, 3.0, 1.0, 0.5, 2.0], 1)]
points[1].ratios["fit"] = 0.99
step, fit, predict, frozen = sweep.distributions(points, [sweep.Cliff("fit", "a", "b", 1.5)])
assert step.slower == predict.slower == frozen.slower == [("4-2@1", 0.5), ("1-2@1", 0.9)]
assert fit.slower == [("4-2@1", 0.5), ("1-2@1", 0.9), ("2-2@1", 0.99)]
assert [found.cliffs for found in (step, fit, predict, frozen)] == [0, 1, 0, 0]
assert [step.quantile(share) for share in (0, 0.5, 1)] == [0.5, 1.0, 3.0]
""")


def test_cliffs_are_seen_along_lines_and_again_in_turns():
    script(MADE_UP + """
sizes = [Network((5, 3), batch) for batch in (1, 2, 4, 8, 4000)]
slow = [1.0, 1.05, 2.0, 1.9, 0.5]       # 2 is no cliff, 4 no more than 5 %, 8 is one
points = [point("batch", network, 1.0, seconds)
          for network, seconds in zip(sizes, slow, strict=True)]
points += [point("depth", sizes[0], 1.0, 0.1), point("random", sizes[0], 1.0, 0.1),
           point("random", sizes[1], 1.0, 0.01)]
turns = []
def in_turns(contenders, *_):
    # Seconds of a call of each; fit makes many steps per call.
    turns.append(contenders)
    return {"0": [found[len(turns) % len(found)]], "1": [1.0]}
sweep.time_in_turns = in_turns
def seen():
    turns.clear()
    return [(cliff.way, cliff.network, cliff.larger, round(cliff.ratio, 9))
            for cliff in sweep.cliffs(points, "float64", 1)]
share = sizes[3].steps_per_call / sizes[4].steps_per_call
assert share > 2
found = [3.0 * share]
assert seen() == [(way, "5-3@8", "5-3@4000", round(3.0 * (1 if way == "fit" else share), 9))
                  for way in sweep.WAYS], seen()
assert len(turns) == 4 * sweep.AGAIN
found = [3.0 * share, 1.0, 3.0 * share]     # once it was none
assert seen() == []
""")


def test_the_plot_shows_all_networks_and_lines():
    pytest.importorskip("matplotlib")
    script(MADE_UP + """
a, b, c = Network((5, 3), 1), Network((5, 3), 2), Network((9, 8, 7), 6)
figure = sweep.draw([point("batch", a, 0.5, 1e-6), point("batch", b, 2.0, 3e-6),
                     point("random", c, 4.0)], "title")
training, inference, batch = figure.axes        # no panel for lines that were not measured
def shown(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines
            if not line.get_label().startswith("_")}
ratios = [[float(network.flop), ratio] for network, ratio in ((a, 0.5), (b, 2.0), (c, 4.0))]
assert shown(training) == {"step": ratios, "fit": ratios}
assert shown(inference) == {"predict": ratios, "frozen": ratios}
for axes in (training, inference):
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert [list(line.get_ydata()) for line in axes.lines if line.get_label()[0] == "_"] == [[1, 1]]
names = {"step", "NumPy training", "predict", "NumPy inference"}
assert shown(batch).keys() == names
assert all(abs(x - y) < 1e-9 for found in shown(batch).values()
           for (x, y) in zip(sum(found, []), [1.0, 1.0, 2.0, 3.0], strict=True))
assert len({line.get_color() for axes in (training, inference) for line in axes.lines}) == 5
""")


# ---- The command -------------------------------------------------------------------------------

COMMAND = """
import sys
from bench import __main__, network_sweep as sweep
chosen = {"batch": [sweep.Network((4, 3), 2)], "random": [sweep.Network((3, 5, 4, 2), 9)]}
asked = []
sweep.choose = lambda quick: asked.append(quick) or chosen
sys.argv[1:] = ["sweep", "--networks", *sys.argv[1:]]
"""


def test_the_command_shows_what_it_found(tmp_path):
    files = tmp_path / "a.json", tmp_path / "a.md"
    done = python(COMMAND + """
sys.modules["matplotlib"] = None                # not needed without --plot
status = __main__.main()
assert asked == [True]
sys.exit(status)
""", "--quick", "--dtype", "float64", "--json", str(files[0]), "--markdown", str(files[1]))
    assert done.returncode == 0, done.stderr
    assert files[1].read_text() == done.stdout
    saved = json.loads(files[0].read_text())
    for name in ("command", "processor", "NumPy", "fastnet", "dtype", "NumPy as", "fastnet as",
                 "samples", "verified", "figures", "listed", "share of a core"):
        assert f"- {name}: {saved['environment'][name]}\n" in done.stdout
    assert saved["environment"]["dtype"] == "float64"

    points = saved["results"]
    assert [(point["line"], point["name"]) for point in points] == [
        ("batch", "4-3@2"), ("random", "3-5-4-2@9")]
    ways = ["step", "fit", "predict", "frozen"]
    (_, *rows), (_, *spreads) = tables(done.stdout)
    for row, point in zip(rows, points, strict=True):
        assert row[:2] == [point["line"], point["name"]]
        times = [point["times"][name]["median"] * 1e6 for name in
                 ("step", "fit", "NumPy training", "predict", "frozen", "NumPy inference")]
        ratios = [point["ratios"][way] for way in ways]
        # Three digits are shown.
        assert [float(cell) for cell in row[2:]] == pytest.approx(
            [*times[:3], *ratios[:2], *times[3:], *ratios[2:]], rel=5e-3)
    for row, way in zip(spreads, ways, strict=True):
        ratios = [point["ratios"][way] for point in points]
        assert row[:2] == [way, "2"] and row[6] == str(sum(ratio < 1 for ratio in ratios))
        assert [float(row[2]), float(row[4]), float(row[5])] == pytest.approx(
            [min(ratios), statistics.mean(ratios), max(ratios)], rel=5e-3)


def test_the_command_names_what_is_slower_and_cliffs():
    printed = script(MADE_UP + COMMAND + """
points = [point("batch", Network((4, 3), 2), 0.875), point("batch", Network((4, 3), 4), 2.0)]
sweep.run = lambda *_: iter(points)
sweep.cliffs = lambda *_: iter([sweep.Cliff("frozen", "4-3@2", "4-3@4", 1.5)])
assert __main__.main() == 0 and asked == [False]
""")
    slower = "".join(f"- {way} of 4-3@2: 0.875\n" for way in ("step", "fit", "predict", "frozen"))
    assert f"\nSlower than NumPy:\n{slower}\n" in printed
    assert "\nCliffs:\n- frozen of 4-3@2 takes 50% longer than of 4-3@4\n\n" in printed


def test_a_wrong_contender_stops_the_run():
    done = python(COMMAND + """
right = sweep.samples_last
def wrong(task):
    trainer = right(task)
    trainer.weights()[0][0, 0] += 1e-2
    return trainer
sweep.samples_last = wrong
sys.exit(__main__.main())
""", "--quick")
    assert done.returncode == 1
    assert "error: 3-5-4-2@9: NumPy columns is wrong: " in done.stderr
    assert "| batch" in done.stdout and "| random" not in done.stdout


def test_a_plot_is_drawn_on_request(tmp_path):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "a.png"
    done = python(COMMAND + "sys.exit(__main__.main())", "--quick", "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    assert plot.read_bytes().startswith(b"\x89PNG")
