"""55. Memory runs out at any allocation: a MemoryError, and nothing is lost.

Every malloc of the process can be told to fail, those for Python's objects, NumPy's arrays and our
own: `out_of_memory.py` lets one after the other.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
NAMES = [
    "fit", "fit with weights", "fit in blocks on threads",
    "fit with validation and a checkpoint", "fit layer by layer", "fit on gathered batches",
    "train_step", "train_step after gathered gradients",
    "train_step layer by layer", "train_step layer by layer after gathered gradients", "build",
    "predict", "predict layer by layer", "predict_proba", "predict, frozen", "freeze", "evaluate",
    "save", "load"]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("gcc") is None
    or not hasattr(ctypes.CDLL(None), "__libc_memalign")
    or "LD_PRELOAD" in os.environ,              # a sanitizer has its own malloc
    reason="needs gcc, glibc and a malloc to take the place of")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Run the script with a malloc that can fail; returns what it prints."""
    library = tmp_path_factory.mktemp("malloc") / "failing_malloc.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-fno-builtin", "-Wall", "-Werror",
                    "-o", library, FOLDER / "failing_malloc.c"], check=True)

    def run(argument):
        done = subprocess.run(
            [sys.executable, FOLDER / "out_of_memory.py", argument], capture_output=True, text=True,
            env={**os.environ, "LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc",
                 "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)})
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout
    return run


def test_all_of_the_script_is_run_here(sweep):
    assert sweep("--names").splitlines() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_55_memory_runs_out(name, sweep):
    found = sweep(name)
    print(found)
    lines = found.splitlines()
    assert len(lines) == 2 and all(" MemoryError" in line for line in lines)
