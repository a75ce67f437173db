"""Which kernels are in use, and that each build of them passes the kernel tests."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fastnet import _ops

KERNEL_TESTS = [str(Path(__file__).with_name(f"test_{name}.py"))
                for name in ("kernels", "memory", "exp_log", "floating_point_mode", "activations",
                             "layer_norm", "dropout")]


def run(isa, *command):
    """Run Python elsewhere, so that the installed package is found and not the source tree."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run([sys.executable, *command], env={**os.environ, "FASTNET_ISA": isa},
                              cwd=folder, capture_output=True, text=True, timeout=600)


def test_the_best_available_is_the_default():
    expected = os.environ.get("FASTNET_ISA") or _ops.available_isas()[0]
    assert _ops.isa == expected
    assert _ops.available_isas()[-1] == "baseline"


@pytest.mark.parametrize("isa", [isa for isa in _ops.available_isas() if isa != _ops.isa])
@pytest.mark.parametrize("some", [
    ("-k", "not float64"), pytest.param((), marks=pytest.mark.long)], ids=["float32", "all"])
def test_the_kernel_tests_pass_on_every_other_instruction_set(isa, some):
    used = run(isa, "-c", "from fastnet import _ops; print(_ops.isa)")
    assert used.stdout.strip() == isa
    done = run(isa, "-m", "pytest", "-q", "-p", "no:cacheprovider", *some, *KERNEL_TESTS)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("isa", ["x86-64-v9", "avx2", "BASELINE"])
def test_an_unavailable_one_is_an_error(isa):
    done = run(isa, "-c", "import fastnet")
    assert done.returncode != 0
    assert f"ImportError: FASTNET_ISA is '{isa}', but available here are" in done.stderr
