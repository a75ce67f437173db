"""How many threads fastnet may use: what the process was given, and what its user chose."""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from fastnet import _pool
from fastnet._convert import positive

# What libraries call the function that tells how many threads they take.
BLAS = ("scipy_openblas_get_num_threads64_", "scipy_openblas_get_num_threads",
        "openblas_get_num_threads64_", "openblas_get_num_threads", "MKL_Get_Max_Threads",
        "bli_thread_get_num_threads")


def set_num_threads(n_threads: int | None = None) -> None:
    """Limit the threads that may work on one network's step or prediction, in this process.

    By default there are as many as the process may use: processors by its affinity, the processor
    time of its control group, and no more than `OMP_NUM_THREADS` or than NumPy's BLAS takes. So a
    limit by threadpoolctl, or what joblib leaves to each of its processes, counts here too.
    Whether more than one pays is measured as the work goes on, and results have the same bits for
    any number.

    Parameters
    ----------
    n_threads : int, optional
        At least 1. More than there are processors count as that many. It takes the place of what
        the environment says; a limit of NumPy's BLAS counts again as soon as it changes. None: the
        default again.

    Raises
    ------
    TypeError, ValueError
        No whole number, or less than 1.
    """
    if n_threads is None:
        _pool.set_limit(default_limit(os.environ), False)
    else:
        _pool.set_limit(min(positive(n_threads, "n_threads"), processors()), True)


def get_num_threads() -> int:
    """Return how many threads may work on one network's step or prediction now."""
    return _pool.get_limit()


def default_limit(environment: Any) -> int:
    """Return how many threads a process with this environment may use."""
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()    # of nested levels
    chosen = int(first) if first.isdecimal() else 0
    return min(chosen, processors()) if chosen else processors()


def described(environment: Any) -> str:
    """Return, in words, what limits the threads."""
    quota = group_limit(Path("/"))
    blas = _pool.blas_limit()
    limits = {
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "control group": "no limit" if quota is None else quota,
        "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", "not set"),
        "NumPy's BLAS": blas or "unknown",
        "set_num_threads": _pool.chosen() or "not called",
    }
    return ", ".join(f"{name}: {value}" for name, value in limits.items())


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        found = len(os.sched_getaffinity(0))
    else:
        found = os.cpu_count() or 1
    quota = group_limit(Path("/"))
    return found if quota is None else min(found, quota)


def group_limit(root: Path) -> int | None:
    """Return how many processors' time this process's control group has, or None: no limit.

    Parameters
    ----------
    root : Path
        Where `proc` and `sys` are.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":                                   # version 2
            places = [(root / "sys/fs/cgroup", "cpu.max")]
        elif "cpu" in controllers.split(","):                   # version 1
            places = [(root / "sys/fs/cgroup" / name, "cpu.cfs_quota_us")
                      for name in (controllers, "cpu")]
        else:
            continue
        for place, file in places:
            group = place / path.lstrip("/")
            for folder in (group, *group.parents):              # a limit holds for all below
                quotas.append(_quota(folder / file))
                if folder == place:
                    break
    found = [quota for quota in quotas if quota is not None]
    return max(1, math.ceil(min(found))) if found else None


def _quota(file: Path) -> float | None:
    """Return processors by a control group's file, or None where it sets no limit."""
    try:
        quota, *period = file.read_text(encoding="utf-8").split()
        if not period:
            period = file.with_name("cpu.cfs_period_us").read_text(encoding="utf-8").split()
        return int(quota) / int(period[0]) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError, IndexError):        # "max", or no such file
        return None


def _follow_blas() -> None:
    """Let the pool ask NumPy's BLAS how many threads that may take, where it can be found."""
    try:
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)      # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return
    for name in BLAS:
        function = getattr(library, name, None)
        if function is not None:
            address = ctypes.cast(function, ctypes.c_void_p).value
            _pool.follow(address or 0)
            return


_follow_blas()
set_num_threads()
