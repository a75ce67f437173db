"""The benchmark of the estimators compares equal fits, and judges what it has measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.bench, pytest.mark.skipif(
    not (ROOT / "bench" / "__main__.py").is_file(),
    reason="the bench folder of the repository is not beside the tests")]
pytest.importorskip("sklearn")


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True,
                          timeout=300)


def script(text):
    """Run a script in which bench can be imported; what fails in it fails here."""
    done = run("-c", "from bench import estimators\n" + text)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_shows_and_writes_all_it_found(tmp_path):
    pytest.importorskip("matplotlib")
    files = [tmp_path / f"found.{kind}" for kind in ("md", "json", "png")]
    done = run("-m", "bench", "estimators", "--quick", "--dtype", "float64", "--markdown",
               str(files[0]), "--json", str(files[1]), "--plot", str(files[2]))
    assert done.returncode == 0, done.stderr
    assert files[0].read_text() in done.stdout
    results = json.loads(files[1].read_text())["results"]
    assert [(row["what"], row["data"], row["batch"], row["target"]) for row in results] == [
        ("fit", "iris", "auto", 8), ("fit", "wine", "auto", 8), ("fit", "breast_cancer", "auto", 7),
        ("fit", "digits", "auto", 5), ("fit", "iris", "32", 8), ("fit", "wine", "32", 8),
        ("fit", "breast_cancer", "32", 8), ("fit", "digits", "32", 8),
        ("partial_fit, 1 sample", "digits", "1", 50), ("predict, 1 sample", "digits", "1", 20)]
    met = [row["ratio"] >= row["target"] for row in results]
    assert f"{sum(met)} of 10 targets are met" in done.stdout
    assert all(row["dtype"] == "float64" and 0 < row["ours"] < row["theirs"] for row in results)
    assert files[2].read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("wrong, call", [
    ("ours._Adam.rates = lambda self, n, real=ours._Adam.rates: 1.01 * real(self, n)",
     "estimators.fits('iris', 'float64', 32, None, 5)"),
    ("ours._Frozen.predict = lambda self, X: X[:, 0]", "estimators.single_calls('float64')")])
def test_other_results_stop_the_run(wrong, call):
    script(f"""
from bench.kernels import WrongResult
from fastnet import sklearn as ours
{call}
{wrong}
try:
    {call}
except WrongResult:
    pass
else:
    raise AssertionError("not noticed")
""")


def test_scores_are_judged_by_their_standard_error():
    script("""
made = estimators.Scores("iris", [0.9, 0.8, 0.7, 0.8], [0.8, 0.8, 0.7, 0.8])
assert abs(made.standard_error - 0.040825) < 1e-6 and abs(made.difference + 0.025) < 1e-12
assert made.met
assert not estimators.Scores("iris", [0.9, 0.8, 0.7, 0.8], [0.7, 0.8, 0.7, 0.8]).met
found = estimators.scores("diabetes", 2)
assert max(abs(a - b) for a, b in zip(found.theirs, found.ours)) < 1e-9, found
assert found.met and len(set(found.theirs)) == 2
""")


def test_lower_scores_end_in_an_error(tmp_path):
    done = run("-c", """
import sys
from bench import __main__, estimators
estimators.SCORED = ("iris",)
estimators.scores = lambda name, seeds: estimators.Scores(name, [0.9] * seeds, [0.8] * seeds)
sys.argv = ["bench", "estimators", "--scores", "--quick"]
sys.exit(__main__.main())
""")
    assert done.returncode == 1 and "below" in done.stderr and "| no" in done.stdout
