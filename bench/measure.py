"""Timing in turns, statistics of the samples, and a description of where they were taken."""

import contextlib
import os
import platform
import shlex
import sys
import time
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastnet
from bench import THREAD_VARIABLES, THREADS
from fastnet import _ops

Run = Callable[[], Any]

SAMPLE_SECONDS = 2e-3     # far above what reading the clock costs
LONGEST_REST = 3.0        # seconds


@dataclass(frozen=True)
class Loop:
    """A contender that repeats itself `repeat(calls)` times, free of a Python call for each."""

    repeat: Callable[[int], Any]

    def __call__(self) -> Any:
        return self.repeat(1)

    def timeit(self, calls: int) -> float:
        """Return the seconds that so many calls take, as `timeit.Timer` does."""
        start = time.perf_counter()
        self.repeat(calls)
        return time.perf_counter() - start


@dataclass(frozen=True)
class Summary:
    """Quartiles of the samples, in seconds per call, and how many samples there were."""

    q1: float
    median: float
    q3: float
    samples: int


def summarise(samples: list[float]) -> Summary:
    """Return the quartiles of `samples`, interpolated linearly between neighbours."""
    q1, median, q3 = np.percentile(samples, [25, 50, 75])
    return Summary(float(q1), float(median), float(q3), len(samples))


def median_ratio(rival: list[float], own: list[float]) -> float:
    """Return the median of `rival / own`, taken round by round.

    A slow phase of the machine hits both sides of a round, and cancels. If one has fewer samples,
    only the rounds that both took part in count.
    """
    return float(np.median([r / o for r, o in zip(rival, own, strict=False)]))


def running() -> int:
    """Return how many threads of this process run, or would if there were a core, as this one."""
    stats = []
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/stat", "rb") as file:
            stats.append(file.read())       # OSError: it has ended meanwhile
    return sum(stat.rpartition(b") ")[2].startswith(b"R") for stat in stats)


def rest() -> None:
    """Wait until no other thread of this process runs any more, but no longer than LONGEST_REST.

    Threads look for more work when theirs is done, on a core that the next contender needs: those
    of OpenMP for some milliseconds, of OpenBLAS for 130, of onnxruntime for 40 and on some machines
    for a second.
    """
    end = time.perf_counter() + LONGEST_REST
    while running() > 1 and time.perf_counter() < end:
        time.sleep(1e-3)


def time_in_turns(
    contenders: Mapping[str, Run], rounds: int, seconds: float, fewer: Mapping[str, int],
    sample_seconds: float = SAMPLE_SECONDS,
) -> dict[str, list[float]]:
    """Return seconds per call, one sample of each contender per round, in the order A B C A B C.

    Where contenders have several threads, each finds the cores idle, and wakes its threads by some
    calls that do not count.

    Parameters
    ----------
    contenders : mapping of name to function without arguments, or Loop
    rounds : int
        At least so many, and
    seconds : float
        at least for so long: another process that takes its turns on a core then falls on all
        contenders alike.
    fewer : mapping of name to int
        Contenders that only take part in so many rounds, the first ones.
    sample_seconds : float
        A sample repeats a call that is shorter.
    """
    timers = {name: run if isinstance(run, Loop) else timeit.Timer(run)     # uses perf_counter
              for name, run in contenders.items()}
    calls = dict.fromkeys(timers, 1)        # per sample
    for name, timer in timers.items():      # this is the warm-up as well
        while timer.timeit(calls[name]) < sample_seconds:
            calls[name] *= 2
    samples: dict[str, list[float]] = {name: [] for name in timers}
    end = time.perf_counter() + seconds
    turn = 0
    while turn < rounds or time.perf_counter() < end:
        for name, timer in timers.items():
            if turn < fewer.get(name, turn + 1):
                if THREADS > 1:
                    rest()
                    timer.timeit(calls[name] // 4)
                samples[name].append(timer.timeit(calls[name]) / calls[name])
        turn += 1
    return samples


def processor() -> str:
    """Return the processor's name as Linux knows it."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def blas() -> str:
    """Return name, version and configuration of the BLAS that NumPy was built with."""
    config: Any = np.show_config(mode="dicts")
    found = config["Build Dependencies"]["blas"]
    parts = (found.get(key, "") for key in ("name", "version", "openblas configuration"))
    return ", ".join(part for part in parts if part)


def in_words(threads: int) -> str:
    return "one thread" if threads == 1 else f"{threads} threads"


def environment(dtype: str) -> dict[str, str]:
    """Return what a reader needs to judge the figures or to take them again."""
    return {
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "processor": f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before",
        "contenders": f"{in_words(THREADS)} each, on {len(os.sched_getaffinity(0))} cores",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "NumPy": f"{np.__version__}, BLAS: {blas()}",
        "fastnet": f"{fastnet.__version__}, {_ops.isa}, compiled by {_ops.compiler()}",
        "dtype": dtype,
    }


def threads() -> str:
    """Return how many threads there are by now, in words."""
    found = len(os.listdir("/proc/self/task"))
    variables = ", ".join(f"{variable}={os.environ[variable]}" for variable in THREAD_VARIABLES)
    return f"{found} in this process ({variables})"
