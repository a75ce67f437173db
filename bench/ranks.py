"""Steps of several processes against steps of one, and what their messages cost.

`python -m bench mpi` starts this module with `mpiexec`, each rank with one thread. All that is
compared is measured in the same run, in turns; where a process is measured alone, the others sleep.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np

import fastnet as fn
from bench.kernels import WrongResult
from bench.measure import Summary, summarise
from fastnet._distributed import SharedSteps
from fastnet._ranks import Ranks

RANKS = 2
WAITING = {"MPIR_CVAR_POLLS_BEFORE_YIELD": "0"}     # MPICH keeps its core, as each rank has one
# 703, 557 057 and 8.4 million parameters; batches of all ranks together.
NETWORKS = [((10, 50, 3), 32), ((10, 50, 3), 4096), ((30, 1024, 512, 1), 32),
            ((30, 1024, 512, 1), 1024), ((2048, 2048, 2048, 10), 256),
            ((2048, 2048, 2048, 10), 1024)]
WAYS = "1 thread", "2 threads", "1 rank", "2 ranks"


@dataclass(frozen=True)
class Result:
    """Seconds per step of a network: as fit takes them, and through messages.

    `half`: of one rank on half of the batch, through messages to itself.
    """

    network: str
    parameters: int
    batch: int
    times: dict[str, Summary]
    half: float

    def efficiency(self, way: str) -> float:
        """Return the share of a perfect speed-up by two."""
        return self.times["1 thread"].median / self.times[way].median / 2


@dataclass(frozen=True)
class Message:
    """Seconds that it takes to add up so many numbers over two ranks, and to add them here."""

    parameters: int
    times: dict[str, Summary]


def make(widths: tuple[int, ...], dtype: str) -> fn.Sequential:
    """Return a network for regression, or for classes where there are several outputs."""
    layers: list[Any] = []
    for seed, (n_in, n_out) in enumerate(zip(widths, widths[1:], strict=False)):
        last = seed == len(widths) - 2
        layers.append(fn.Dense(n_in, n_out, dtype=dtype, rng=seed,
                               activation=None if last else "relu"))
    network = fn.Sequential(layers)
    network.compile(fn.SGD(1e-3, 0.9), "mse" if widths[-1] == 1 else "softmax_cross_entropy")
    return network


def samples(widths: tuple[int, ...], n: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs, and labels or numbers."""
    rng = np.random.default_rng(20260105)
    x = rng.standard_normal((n, widths[0])).astype(dtype)
    y = rng.integers(0, widths[-1], n) if widths[-1] > 1 else x[:, :1].copy()
    return x, y


# ---- In each rank ------------------------------------------------------------------------------


class Turns:
    """Samples of seconds per call, taken in turns by rank 0 alone or by all ranks together."""

    def __init__(self, comm: Any, seconds: float) -> None:
        self.comm, self.seconds = comm, seconds
        self.cores = sorted(os.sched_getaffinity(0))

    def sleep(self) -> None:
        """Wait for all without keeping a core busy."""
        request = self.comm.Ibarrier()
        while not request.Test():
            time.sleep(1e-3)

    def one(self, run: Callable[[], Any], together: bool, calls: int) -> float:
        """Return the seconds per call of a sample."""
        self.sleep()
        found = math.nan
        if together:                    # not both on one, where they would wait for each other
            os.sched_setaffinity(0, {self.cores[self.comm.rank % len(self.cores)]})
            self.comm.Barrier()
        if together or self.comm.rank == 0:
            start = time.perf_counter()
            for _ in range(calls):
                run()
            found = (time.perf_counter() - start) / calls
        os.sched_setaffinity(0, self.cores)
        self.sleep()
        return found

    def all(self, ways: dict[str, tuple[Callable[[], Any], bool]]) -> dict[str, list[float]]:
        """Return samples of each way, which are as long for each."""
        calls = {}
        for name, (run, together) in ways.items():      # this warms up as well
            calls[name] = 1
            while (took := self._agreed(self.one(run, together, calls[name]))) * calls[
                    name] < 0.02:
                calls[name] = max(2 * calls[name], min(1000, int(0.02 / max(took, 1e-7))))
        found: dict[str, list[float]] = {name: [] for name in ways}
        end = time.perf_counter() + self.seconds
        turn = 0
        while turn < 5 or self._agreed(time.perf_counter()) < self._agreed(end):
            for name, (run, together) in ways.items():
                found[name].append(self.one(run, together, calls[name]))
            turn += 1
        return found

    def _agreed(self, number: float) -> float:
        """Return what rank 0 has."""
        return float(self.comm.bcast(number))


def measure_steps(
    comm: Any, alone: Any, widths: tuple[int, ...], batch: int, dtype: str, seconds: float
) -> Result:
    """Return a network's figures; WrongResult where two ranks learn something else."""
    x, y = samples(widths, batch, dtype)
    part = Ranks(comm).share(batch)
    x_own, y_own = x[part], y[part]
    networks = {way: make(widths, dtype) for way in WAYS}
    fn.set_num_threads(2)
    for way, network in networks.items():
        network.n_threads = 2 if way == "2 threads" else 1
    losses = {way: [networks[way].train_step(x, y) for _ in range(3)] for way in WAYS[:3]}
    losses["2 ranks"] = [networks["2 ranks"].train_step(x_own, y_own, comm=comm) for _ in range(3)]
    if not np.allclose(losses["2 ranks"], losses["1 thread"], rtol=1e-4):
        raise WrongResult(f"{widths}: losses {losses}")
    network = networks["1 rank"]
    steps = SharedSteps(network, network._trainer, Ranks(alone))
    assert network._trainer is not None
    whole, half = (network._trainer.portion(None, x[:n], y[:n], None) for n in (batch, batch // 2))
    found = Turns(comm, seconds).all({
        "1 thread": (lambda: networks["1 thread"].train_step(x, y), False),
        "2 threads": (lambda: networks["2 threads"].train_step(x, y), False),
        "1 rank": (lambda: steps.step(whole, True), False),
        "2 ranks": (lambda: networks["2 ranks"].train_step(x_own, y_own, comm=comm), True),
        "half": (lambda: steps.step(half, True), False)})
    times = {way: summarise(found[way]) for way in WAYS} if comm.rank == 0 else {}
    size = sum(value.size for _, value, _ in networks["1 rank"].parameters())
    return Result("-".join(map(str, widths)), size, batch, times, float(np.median(found["half"])))


def measure_message(comm: Any, size: int, dtype: str, seconds: float) -> Message:
    """Return what it costs to add up so many numbers."""
    from mpi4py import MPI

    numbers, others = np.zeros(size, dtype), np.zeros(size, dtype)
    found = Turns(comm, seconds).all({
        "Allreduce": (lambda: comm.Allreduce(MPI.IN_PLACE, numbers), True),
        "add": (lambda: np.add(numbers, others, out=numbers), False)})
    return Message(size, {name: summarise(some) for name, some in found.items()}
                   if comm.rank == 0 else {})


def work(path: str, dtype: str, seconds: float) -> None:
    """Measure, as one of the ranks; rank 0 writes what was found."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    chosen = NETWORKS[:2] if seconds < 1 else NETWORKS
    results = [measure_steps(comm, MPI.COMM_SELF, *one, dtype, seconds) for one in chosen]
    messages = [measure_message(comm, size, dtype, seconds)
                for size in sorted({result.parameters for result in results})]
    if comm.rank == 0:
        Path(path).write_text(json.dumps({
            "MPI": MPI.Get_library_version().splitlines()[0].strip("\0 "),
            "results": [as_plain(one) for one in results],
            "messages": [as_plain(one) for one in messages]}))


def as_plain(found: Result | Message) -> dict[str, Any]:
    """Return it as JSON takes it."""
    times = {name: vars(summary) for name, summary in found.times.items()}
    return {**vars(found), "times": times}


def of_plain(kind: Any, found: dict[str, Any]) -> Any:
    """Return what `as_plain` was given."""
    return kind(**{**found, "times": {name: Summary(**summary)
                                      for name, summary in found["times"].items()}})


# ---- Above them --------------------------------------------------------------------------------


def run(dtype: str, seconds: float) -> tuple[str, Iterator[Result], Iterator[Message]]:
    """Start the ranks, and return the name of their MPI and what they have measured."""
    place = f"{Path(sys.executable).parent}"
    mpiexec = which("mpiexec", path=place) or which("mpiexec")
    if mpiexec is None:
        raise ImportError("mpiexec is missing (pip install mpi4py mpich)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "found.json")
        done = subprocess.run([mpiexec, "-n", str(RANKS), sys.executable, "-m", "bench.ranks",
                               str(path), dtype, str(seconds)], capture_output=True, text=True,
                              env=os.environ | WAITING)
        if done.returncode:
            raise WrongResult(done.stderr[-2000:])
        found = json.loads(path.read_text())
    return (found["MPI"], (of_plain(Result, one) for one in found["results"]),
            (of_plain(Message, one) for one in found["messages"]))


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], float(sys.argv[3]))
