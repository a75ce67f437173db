"""The benchmarks with `--threads`: all get as many, what these gain is judged, neighbours end.

Nothing here asserts how fast anything is. As in test_bench.py each test starts a Python in the
repository's root; its arguments are those of the command, as the number of threads is read from
them when bench is imported.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.bench, pytest.mark.skipif(
    not (ROOT / "bench" / "__main__.py").is_file(),
    reason="the bench folder of the repository is not beside the tests")]


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env={**os.environ},
                          capture_output=True, text=True, timeout=120)


def script(text, *arguments):
    """Run a script in which bench can be imported; what fails in it fails here."""
    done = python("-c", text, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(printed, heading):
    """The cells of the rows of the table below a heading."""
    _, _, below = printed.partition(f"## {heading}\n\n")
    lines = below.partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


# ---- How many ----------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, threads", [
    (["networks"], 1), (["networks", "--threads", "3", "--quick"], 3), (["--threads=2"], 2)])
def test_everyone_has_as_many_threads(arguments, threads):
    script(f"threads = {threads}" + """
import bench, importlib.util, os, sys
assert bench.THREADS == threads and "numpy" not in sys.modules
from bench import contenders, measure
assert {os.environ[name] for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS",
                                      "MKL_NUM_THREADS", "NPROC")} == {str(threads)}
assert os.environ["XLA_FLAGS"] == ("--xla_cpu_multi_thread_eigen="
    f"{'true' if threads > 1 else 'false'} intra_op_parallelism_threads={threads}")
described = measure.environment("float32")["contenders"]
assert described.startswith("one thread each" if threads == 1 else f"{threads} threads each")

assert contenders.Fastnet.n_threads == threads and contenders.OneThread.n_threads == 1
names = ["fastnet"] if threads == 1 else ["fastnet", "fastnet on one thread"]
few = {name: contenders.PEERS[name] for name in ("PyTorch", "JAX", "onnxruntime")}
loaded, _ = contenders.load(contenders.fastnets() | few, "float32")
assert list(loaded)[:len(names)] == names and list(contenders.fastnets()) == names
asked = []
contenders.fastnet.Sequential = lambda layers, n_threads: asked.append(n_threads)
for name in names:
    try:
        loaded[name].network(contenders.Task((2, 3), 1, [], *contenders.np.zeros((2, 1, 1, 2))))
    except AttributeError:
        pass                        # a made-up network cannot be compiled
assert asked == [threads, 1][:len(names)]
if "PyTorch" in loaded:
    assert loaded["PyTorch"].torch.get_num_threads() == threads
if "JAX" in loaded:
    for batch, large in ((1, False), (10**6, True), (1, False)):
        loaded["JAX"].choose_dispatch(
            contenders.Task((20, 30), batch, [contenders.np.zeros((20, 30))], None, None))
        assert loaded["JAX"].asynchronous == (large and threads > 1)
        # Clients are made anew by a change, and work.
        assert loaded["JAX"].jax.numpy.arange(4).sum() == 6
if "onnxruntime" in loaded:
    from bench import networks
    class Session(Exception):
        pass
    def session(model, options, providers):
        raise Session(options.intra_op_num_threads, options.inter_op_num_threads)
    loaded["onnxruntime"].runtime.InferenceSession = session
    task = networks.make_task(networks.Network((2, 3), 1), "float32")
    try:
        loaded["onnxruntime"].inference(task, task.x[0])
    except Session as error:
        assert error.args == (threads, 1)
""", *arguments)


@pytest.mark.parametrize("arguments, status, message", [
    (["networks", "--threads", "0"], 2, "argument --threads: it must be 1 or more, got '0'"),
    (["networks", "--threads", "two"], 2, "it must be 1 or more, got 'two'"),
    (["kernels", "--threads", "2"], 2, "unrecognized arguments: --threads 2"),
    (["sweep", "--threads", "2"], 1, "error: products have one thread"),
    (["networks", "--busy-neighbour"], 1, "error: --busy-neighbour compares threads with one"),
])
def test_what_makes_no_sense_is_refused(arguments, status, message):
    done = python("-m", "bench", *arguments)
    assert done.returncode == status and message in done.stderr, done.stderr
    assert done.stdout == ""


def test_contenders_wait_for_the_threads_of_others():
    """A contender finds the cores idle, and wakes its threads before its time counts."""
    script("""
import threading, time
from bench import measure
measure.rest()                      # those of NumPy's BLAS have just begun
assert measure.running() == 1
end = time.perf_counter() + 0.2
def spin():
    while time.perf_counter() < end:
        pass
threading.Thread(target=spin).start()
assert measure.running() == 2
measure.rest()
assert end < time.perf_counter() < end + 0.1
end = time.perf_counter() + 0.5
threading.Thread(target=spin).start()
measure.LONGEST_REST = 0.05
measure.rest()
assert time.perf_counter() < end - 0.2

calls = []
measure.rest = lambda: calls.append("rest")
run = measure.Loop(calls.append)
measure.time_in_turns({"A": run, "B": run}, 2, 0.0, {}, sample_seconds=0.0)
assert calls == [1, 1] + ["rest", 0, 1] * 4, calls
calls.clear()
def repeat(n):
    calls.append(n)
    time.sleep(0.01 * n)
measure.time_in_turns({"A": measure.Loop(repeat)}, 1, 0.0, {}, sample_seconds=0.1)
assert calls[-3] == "rest" and calls[-2] == calls[-1] // 4 >= 2, calls
""", "--threads", "2")


# ---- Verdicts ----------------------------------------------------------------------------------

def test_comparisons_of_made_up_samples():
    script("""
from bench.contenders import VARIANTS
from bench.networks import INFERENCE, MANY, ONE, TARGETS, compare

def judged(found):
    return [(speedup.way, speedup.ratio, speedup.target, speedup.met)
            for speedup in found.speedups]

# Against others fastnet stands with its threads, though one may be faster.
samples = {"fastnet step": [2.0, 2.0, 4.0], "fastnet step, 1 thread": [3.5, 1.0, 8.0],
           "NumPy": [8.0, 8.0, 8.0], "JAX jit": [2.25, 2.0, 4.5]}
large = "784-1000-10@10000"
found = compare(large, ONE, "float32", samples)
assert (found.fastnet, found.fastest, found.ratio) == ("fastnet step", "JAX jit", 1.125)
assert found.ratios == {"NumPy": 4.0, "JAX jit": 1.125}
assert (found.target, found.met) == (1.1, True)
assert judged(found) == [("fastnet step", 1.75, 1.75, True)]    # round by round 1.75, 0.5 and 2
assert found.all_ratios() == found.ratios | {"fastnet step, 1 thread": 1.75}
inference = {"fastnet frozen": [1.0], "fastnet frozen, 1 thread": [1.5], "fastnet layers": [0.1],
             "fastnet predict": [1.0], "fastnet predict, 1 thread": [1.75], "NumPy": [1.0]}
assert judged(compare(large, INFERENCE, "float64", inference)) == [
    ("fastnet frozen", 1.5, 1.75, False), ("fastnet predict", 1.75, 1.75, True)]
ways = {"fastnet fit": [1.0], "fastnet fit, 1 thread": [2.0], **samples}
assert judged(compare(large, MANY, "float32", ways)) == [("fastnet fit", 2.0, 1.75, True)]

# What is aimed at: against others in float32 and of plain networks alone, threads everywhere.
def aims(network, dtype="float32", variant="plain", busy=False):
    found = compare(network, ONE, dtype, samples, VARIANTS[variant], busy)
    return found.target, found.speedups[0].target
largest = {"2048-2048-2048-10@256", "512-512-512-512-10@1024"}
gains = {large: 1.75, **dict.fromkeys(largest, 1.75),
         "784-1000-10@128": 1.55, "100-512-256-2@1024": 1.55}
assert gains.keys() < TARGETS.keys()
for name in TARGETS:
    gain = gains.get(name, 0.97)
    assert aims(name) == (1.0 if name in largest else 1.1, gain)
    assert aims(name, "float64") == (None, gain)
    assert aims(name, variant="adam") == (None, 0.97)
    assert aims(name, busy=True) == aims(name, "float64", "adam", True) == (None, 1 / 1.15)

# What just reaches a bound keeps it.
for seconds, met in [(0.97, True), (0.96, False)]:
    [speedup] = compare("2-3-2@1", ONE, "float32", {
        "fastnet step": [1.0], "fastnet step, 1 thread": [seconds]}).speedups
    assert (speedup.ratio, speedup.met) == (seconds, met)
for seconds, met in [(1.15, True), (1.16, False)]:
    [speedup] = compare("2-3-2@1", INFERENCE, "float64", {
        "fastnet frozen": [seconds], "fastnet frozen, 1 thread": [1.0]}, busy=True).speedups
    assert speedup.met == met
""", "--threads", "2")


def test_samples_are_as_long_as_what_disturbs_them():
    text = """
from bench.networks import choose_timing
usual, busy = choose_timing(False, False, None), choose_timing(False, True, 20)
print(usual.sample_seconds, usual.busy, busy.sample_seconds, busy.busy, busy.rounds)
"""
    assert script(text).startswith("0.003 False ")
    assert script(text, "--threads", "2") == "0.02 False 0.1 True 20\n"


# ---- The commands ------------------------------------------------------------------------------

@pytest.mark.parametrize("busy", [False, True])
def test_the_command_shows_what_threads_gain(tmp_path, busy):
    json_file, plot = tmp_path / "a.json", tmp_path / "a.png"
    drawn = ["--plot", str(plot)] if importlib.util.find_spec("matplotlib") else []
    done = python("-m", "bench", "networks", "--threads", "2", "--quick", "--nets", "2-3-2@1",
                  "--peers", "NumPy", "--rounds", "2", "--json", str(json_file), *drawn,
                  *(["--busy-neighbour"] if busy else []))
    assert done.returncode == 0, done.stderr
    if drawn:
        assert plot.read_bytes().startswith(b"\x89PNG")
    saved = json.loads(json_file.read_text())
    known = saved["environment"]
    assert known["contenders"].startswith("2 threads each, on ")
    assert "Sequential(n_threads=2)" in known["fastnet as"]
    assert "Sequential(n_threads=1)" in known["fastnet on one thread as"]
    assert "(OPENBLAS_NUM_THREADS=2" in known["threads"] and "share of a core" not in known
    for name, value in known.items():
        assert f"- {name}: {value}\n" in done.stdout
    assert ("busy neighbour" in known) == busy
    if busy:
        assert f"spun on core {max(os.sched_getaffinity(0))} all the time" in known[
            "busy neighbour"]
        assert "- busy neighbour: a process that spins, pinned to core" in done.stdout

    [result] = saved["results"]
    speedups = [(found, speedup) for found in result["comparisons"]
                for speedup in found["speedups"]]
    assert [(found["form"], speedup["way"]) for found, speedup in speedups] == [
        ("one step per call", "fastnet step"), ("many steps per call", "fastnet fit"),
        ("inference", "fastnet frozen"), ("inference", "fastnet predict")]
    shown = rows(done.stdout, "2 threads against one")
    for row, (found, speedup) in zip(shown, speedups, strict=True):
        least = 1 / 1.15 if busy else 0.97
        assert speedup["target"] == least and speedup["met"] == (speedup["ratio"] >= least)
        assert row[:3] == ["2-3-2@1", found["form"], speedup["way"]]
        for cell, name in ((row[3], f"{speedup['way']}, 1 thread"), (row[4], speedup["way"])):
            # Three digits are shown.
            assert float(cell.split()[0]) == pytest.approx(
                1e6 * found["times"][name]["median"], rel=5e-3)
        assert float(row[5]) == pytest.approx(speedup["ratio"], rel=5e-3)
        assert row[6:] == ["0.870" if busy else "0.970", "yes" if speedup["met"] else "no"]
    met = sum(speedup["met"] for _, speedup in speedups)
    assert f"\n{met} of 4 targets are met\n" in done.stdout
    assert [row[7] for row in rows(done.stdout, "The fastest other library")] == [
        "-" if busy else "1.1"] * 3
    assert "fastnet layers, 1 thread" not in done.stdout        # layers alone have no threads


def test_pictures_say_how_many_threads():
    printed = script("""
from bench import __main__
print(__main__.title({"dtype": "float64", "processor": "A B, 2 cores, load 0"}))
""", "networks", "--threads", "2")
    assert printed == "float64, 2 threads, A B\n"


def test_the_plot_shows_what_threads_gain():
    pytest.importorskip("matplotlib")
    script("""
from bench.networks import INFERENCE, MANY, ONE, Result, compare, draw
samples = {ONE: {"fastnet step": [1.0], "fastnet step, 1 thread": [1.5], "NumPy": [3.0]},
           MANY: {"fastnet fit": [1.0], "fastnet fit, 1 thread": [1.75], "NumPy": [3.0]},
           INFERENCE: {"fastnet frozen": [1.0], "fastnet frozen, 1 thread": [2.0]}}
figure = draw([Result("2-3-2@1", 10, [compare("2-3-2@1", form, "float32", found)
                                      for form, found in samples.items()], {})], "title")
shown = [{line.get_label(): line.get_ydata().tolist() for line in axes.lines
          if line.get_label().startswith("fastnet")} for axes in figure.axes]
assert shown == [{"fastnet step, 1 thread": [1.5]}, {"fastnet fit, 1 thread": [1.75]},
                 {"fastnet frozen, 1 thread": [2.0]}], shown
""", "--threads", "2")


SWEEP = """
import sys
from bench import __main__, network_sweep as sweep
sweep.choose = lambda quick: {"batch": [sweep.Network((4, 3), 2)],
                              "random": [sweep.Network((3, 5, 4, 2), 9)]}
sweep.SAMPLE_SECONDS /= 10
sys.argv[1:] = ["sweep", "--networks", *sys.argv[1:]]
"""


def test_the_sweep_is_against_one_thread(tmp_path):
    files = tmp_path / "a.json", tmp_path / "a.png"
    drawn = ["--plot", str(files[1])] if importlib.util.find_spec("matplotlib") else []
    printed = script(SWEEP + """
class Verified(sweep.Verified):
    def __init__(self, network, dtype):
        super().__init__(network, dtype)
        loops = self.training | self.inference
        assert set(loops) == {name for way in sweep.WAYS for name in (way, f"{way}, 1 thread")}
        # Seconds of a clock, not of all threads together.
        assert {type(loop) for loop in loops.values()} == {sweep.Loop}
        assert self.steps("fit, 1 thread") == self.steps("fit") > 1 == self.steps("frozen")
sweep.Verified = Verified
assert __main__.main() == 0
""", "--threads", "2", "--quick", "--json", str(files[0]), *drawn)
    saved = json.loads(files[0].read_text())
    assert [point["name"] for point in saved["results"]] == ["4-3@2", "3-5-4-2@9"]
    ways = ["step", "fit", "predict", "frozen"]
    for point in saved["results"]:
        assert set(point["times"]) == {*ways, "1 thread training", "1 thread inference"}
        assert set(point["ratios"]) == set(ways)
    assert "below 0.97 times the speed of one thread in each of 4" in saved["environment"]["listed"]
    slower = [f"- {way} of {point['name']}: " for way in ways for point in saved["results"]
              if point["ratios"][way] < 0.97]
    _, _, listed = printed.partition("\nBelow 0.97 times the speed of one thread:\n")
    assert listed.count(" of ") == len(slower) and all(line in listed for line in slower)
    assert "NumPy/" not in printed and "Cliffs" not in printed
    assert "| below 0.97 |" in printed
    if drawn:
        assert files[1].read_bytes().startswith(b"\x89PNG")


def test_measured_again_is_what_threads_make_slower():
    script("""
from bench.network_sweep import TRAINING, measure

def measured(*turns):
    left = list(turns)
    def take():
        step, fit, step_alone, fit_alone = left.pop(0)
        return {"step": [step], "fit": [fit],
                "step, 1 thread": [step_alone], "fit, 1 thread": [fit_alone]}
    times, ratios = measure(take, TRAINING)
    return ratios, times["1 thread"].median, len(turns) - len(left)

# Each way is compared with itself, and what is just not slower is not measured again.
assert measured((1.0, 2.0, 0.97, 3.0)) == ({"step": 0.97, "fit": 1.5}, 0.97, 1)
# A moment's weakness is forgotten, what stays is measured four times.
assert measured((1.0, 1.0, 0.5, 2.0), (1.0, 1.0, 1.0, 0.1)) == ({"step": 1.0, "fit": 2.0}, 1.0, 2)
assert measured(*[(1.0, 1.0, 2.0, 0.5)] * 3, (1.0, 1.0, 2.0, 0.75), (1.0,) * 4) == (
    {"step": 2.0, "fit": 0.75}, 2.0, 4)
""", "--threads", "2")


# ---- The busy neighbour ------------------------------------------------------------------------

NEIGHBOUR = """
import os, signal, sys, time
from bench.neighbour import BusyNeighbour
from bench.kernels import WrongResult

def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
"""


def test_the_neighbour_spins_on_its_core_until_the_end():
    script(NEIGHBOUR + """
with BusyNeighbour() as neighbour:
    time.sleep(1)
    assert not gone(neighbour.pid)
    assert os.sched_getaffinity(neighbour.pid) == {neighbour.core} <= os.sched_getaffinity(0)
assert gone(neighbour.pid)
assert 0.1 < neighbour.worked < neighbour.seconds + 0.1 and neighbour.seconds >= 1
assert f"core {neighbour.core} all the time, {neighbour.seconds:.1f} s" in neighbour.described()

for error in (ValueError, KeyboardInterrupt):
    try:
        with BusyNeighbour() as neighbour:
            if error is KeyboardInterrupt:
                signal.raise_signal(signal.SIGINT)
            raise error
    except error:
        assert gone(neighbour.pid)

# One that ended by itself disturbed nobody: the figures do not count.
try:
    with BusyNeighbour() as neighbour:
        os.kill(neighbour.pid, signal.SIGTERM)
        time.sleep(0.2)
except WrongResult as error:
    assert "ended before" in str(error)
else:
    raise AssertionError("it was gone, and nobody saw it")
""")


def state(pid):
    """A process's state as Linux names it, Z for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return "Z"


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_the_neighbour_ends_with_its_parent(signal_number):
    parent = subprocess.Popen(
        [sys.executable, "-c", NEIGHBOUR + """
with BusyNeighbour() as neighbour:
    print(neighbour.pid, flush=True)
    time.sleep(100)
"""], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with parent:
        pid = int(parent.stdout.readline())
        assert state(pid) != "Z"
        parent.send_signal(signal_number)
    end = time.monotonic() + 20
    while state(pid) != "Z" and time.monotonic() < end:
        time.sleep(0.01)
    assert state(pid) == "Z"
