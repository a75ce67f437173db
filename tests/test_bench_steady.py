"""The benchmark of steps through long training measures what it says."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastnet as fn

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.bench, pytest.mark.skipif(
    not (ROOT / "bench" / "__main__.py").is_file(),
    reason="the bench folder of the repository is not beside the tests")]


def script(text):
    """Run a script in which bench can be imported; what fails in it fails here."""
    done = subprocess.run([sys.executable, "-c", "from bench import steady\n" + text], cwd=ROOT,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_noise_is_short_and_subnormal_numbers_stay():
    script("""
assert steady.slowest_stretch([1] * 20 + [9] + [1] * 20) == 1
assert steady.slowest_stretch([1] * 20 + [9] * 5 + [1] * 20) == 9
assert steady.slowest_stretch([2, 3]) == 2.5
""")


def test_every_case_rests_until_nothing_is_left():
    """With so fast a decay few steps are enough; the check refuses fewer."""
    script("""
import fastnet as fn
steady.CHUNK, steady.REST_STEPS["float32"] = 2, 80
for case, (activation, _, drops) in list(steady.CASES.items()):
    steady.CASES[case] = activation, lambda: fn.Adam(betas=(0.1, 0.1)), drops
    result = steady.measure(case, "float32", quick=False)
    assert (result.case, result.steps) == (case, 2 + 18 + 80 + 18)
    assert min(result.learning, result.at_rest, result.saturated) > 0
    steady.CASES[case] = activation, fn.Adam, drops
    try:
        steady.measure(case, "float32", quick=False)
    except ValueError as error:
        assert "is left in the optimizer's state" in str(error)
    else:
        raise AssertionError(case)
""")


def test_at_rest_nothing_but_decay_happens(rng):
    net = fn.Sequential([fn.Dense(4, 3, rng=0)])
    net.compile(fn.SGD(0.1, 0.5), "mse")
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 3))
    net.train_step(x, y)
    (velocity, *_), _ = net.optimizer._states[net.layers[0]]
    before = velocity.copy()
    net.train_step(x, y, np.zeros(6))
    assert np.array_equal(velocity, before / 2) and velocity.any()


def test_the_command_shows_every_case():
    printed = script("""
import sys
from bench import __main__
steady.CHUNK, sys.argv = 10, ["bench", "steady", "--quick"]
assert __main__.main() == 0
print(*steady.CASES, sep=";")
""")
    table, cases = printed.split("- threads")[0], printed.splitlines()[-1].split(";")
    assert len(cases) == 6 and all(f"| {case}" in table for case in cases)
