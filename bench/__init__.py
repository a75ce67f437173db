"""Benchmarks of fastnet, run from the repository's root: `python -m bench --help`."""

import os
import sys
from pathlib import Path

# One thread each. BLAS libraries read these once, when they are loaded: before NumPy is imported.
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
for _variable in ONE_THREAD:
    os.environ[_variable] = "1"

# What is installed is measured: the source folder beside this one, where nothing may be compiled,
# comes last in the search.
_root = str(Path(__file__).resolve().parent.parent)
sys.path[:] = [path for path in sys.path if path not in ("", _root)] + [_root]
