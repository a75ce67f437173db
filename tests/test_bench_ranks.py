"""The benchmark of several processes, and the model of many machines that is made of it."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "SCALING.md"

pytestmark = [pytest.mark.bench, pytest.mark.skipif(
    not (ROOT / "bench" / "__main__.py").is_file(),
    reason="the bench folder of the repository is not beside the tests")]


def bench(*arguments):
    return subprocess.run([sys.executable, "-m", "bench", *map(str, arguments)], cwd=ROOT,
                          capture_output=True, text=True, timeout=120)


def script(text):
    done = subprocess.run([sys.executable, "-c", "from bench import ranks, scaling\n" + text],
                          cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or not (
        (Path(sys.executable).parent / "mpiexec").exists() or shutil.which("mpiexec")),
    reason="needs mpi4py and mpiexec")
def test_the_command_measures_every_way_and_the_model_reads_it(tmp_path):
    done = bench("mpi", "--quick", "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    *steps, message = json.loads((tmp_path / "found.json").read_text())["results"]
    assert [step["batch"] for step in steps] == [32, 4096] and message["parameters"] == 703
    for step in steps:
        assert list(step["times"]) == ["1 thread", "2 threads", "1 rank", "2 ranks"]
        assert 0 < step["half"]
        assert all(0 < time["q1"] <= time["q3"] for time in step["times"].values())
    done = bench("scaling", "--measured", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n| 10-50-3 |") == 4       # two batches; two kinds of wires


def test_the_page_has_the_tables_that_the_model_makes_of_the_measured_costs():
    done = bench("scaling")
    assert done.returncode == 0, done.stderr
    tables = done.stdout.strip().split("\n\n")
    assert len(tables) == 3
    for table in tables:
        assert table in PAGE.read_text()


def test_the_tables_of_a_page_can_be_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(re.sub(r"(?m)^\| .*[0-9].*\n", "| old |\n", PAGE.read_text()))
    assert page.read_text() != PAGE.read_text()
    assert bench("scaling", "--page", page).returncode == 0
    assert page.read_text() == PAGE.read_text()
    page.write_text("without markers")
    assert "the page has no marker" in bench("scaling", "--page", page).stderr


def test_the_page_names_the_numbers_that_the_model_assumes():
    text = PAGE.read_text()
    found = script("for w in scaling.WIRES: print(f'{1e6 * w.latency:g} us')\nprint(scaling.GOOD)")
    *latencies, good = found.split("\n")[:3]
    assert all(latency in text for latency in latencies)
    assert f"{float(good):.0%}".replace("%", " %") in text


def test_the_model_is_what_it_says():
    script("""
import math
wires = scaling.Wires("w", 1e-3, 1e6)
net = scaling.Network("n", 1000, [(10, 2.0), (20, 3.0), (40, 4.0)], 4, 1e-6)
assert [net.local(n) for n in (10, 15, 20, 30, 40, 80)] == [2, 2.5, 3, 3.5, 4, 6]
assert net.local(5) == 1.5 and net.local(1) == 1.1
assert scaling.Network("n", 1, [(10, 1.0), (20, 9.0)], 4, 0).local(5) == 0.5
assert net.message(1, wires) == 0
# One exchange: all of it, 4 ms on the wire and 1 ms to add; halves: twice the latency, 5 ms less.
assert math.isclose(net.message(2, wires), min(1e-3 + 5e-3, 2e-3 + 4e-3 + 0.5e-3))
assert math.isclose(net.message(1024, wires), 20e-3 + 1023 / 1024 * 9e-3)
assert math.isclose(net.step(4, 80, wires), 3 + net.message(4, wires))
assert math.isclose(net.efficiency(2, 80, wires), 6 / (2 * (4 + net.message(2, wires))))
slow = scaling.Wires("s", 1.0, 1e9)
needed = net.samples_needed(2, slow)
assert net.efficiency(2, 2 * needed, slow) >= 0.8 > net.efficiency(2, needed, slow)
""")


def test_times_have_units():
    assert script("print(*map(scaling.duration, (2.5e-6, 0.0123, 4.2)))").split() == [
        "2.50", "us", "12.3", "ms", "4.20", "s"]


def test_the_measured_file_is_of_this_benchmark():
    found = json.loads((ROOT / "docs/benchmarks/mpi_float32.json").read_text())
    assert re.fullmatch(r"python -m bench mpi( --\w+ \S+)*", found["environment"]["command"])
    assert {one["parameters"] for one in found["results"]} == {703, 557_057, 8_413_194}
