"""A process that keeps one core busy while others are measured."""

import os
import signal
import sys
import time
from types import TracebackType

from bench.kernels import WrongResult

# Ends itself when its parent is gone, however that ended.
SPIN = """
import os, sys
parent, core = map(int, sys.argv[1:])
os.sched_setaffinity(0, {core})
while os.getppid() == parent:
    for _ in range(10000):
        pass
"""


class BusyNeighbour:
    """Spins on one core, the last of those that this process may use, from `with` to its end."""

    def __init__(self) -> None:
        self.core = max(os.sched_getaffinity(0))
        self.seconds = self.worked = 0.0

    def __enter__(self) -> "BusyNeighbour":
        self._started = time.perf_counter()
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", SPIN, str(os.getpid()), str(self.core)],
            os.environ, setpgroup=0)        # Ctrl-C is for this process alone
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        """End it; WrongResult if it had not run until now."""
        os.kill(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        self.seconds = time.perf_counter() - self._started
        self.worked = usage.ru_utime + usage.ru_stime
        if error is None and status != signal.SIGKILL:
            raise WrongResult("the busy neighbour ended before what it was to disturb")

    def described(self) -> str:
        return (f"spun on core {self.core} all the time, {self.seconds:.1f} s, of which it got "
                f"{self.worked:.1f} s ({self.worked / self.seconds:.0%}); contenders took the rest")
