"""Benchmarks of fastnet, run from the repository's root: `python -m bench --help`."""

import argparse
import os
import sys
from pathlib import Path


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it must be 1 or more, got {text!r}")
    return int(text)


# How many threads every contender has. It is read here, before the commands' own options: libraries
# ask their variables once, when they are loaded, and BLAS is with NumPy.
threads_option = argparse.ArgumentParser(prog="python -m bench", add_help=False)
threads_option.add_argument(
    "--threads", metavar="N", type=at_least_one, default=1,
    help="how many every contender has; more than 1 also sees how much these gain in fastnet")
THREADS: int = threads_option.parse_known_args()[0].threads
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
for _variable in THREAD_VARIABLES:
    os.environ[_variable] = str(THREADS)

# What is installed is measured: the source folder beside this one, where nothing may be compiled,
# comes last in the search.
_root = str(Path(__file__).resolve().parent.parent)
sys.path[:] = [path for path in sys.path if path not in ("", _root)] + [_root]
