"""Processes that train one network together, and what they say to each other by MPI.

mpi4py is imported where a communicator of several processes is given, and nowhere else.

No rank may wait for one that does not come. So whatever a rank does by itself stands between two
messages, and the next message carries along whether it has failed: then every rank raises, that one
its own error. An error that comes where no message can tell of it ends all processes.
"""

from __future__ import annotations

import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

SECONDS_TO_READ = 0.5           # so that launchers pass on what was written before they end
LOOKED_AT = 16      # rows, to see whether ranks were given the same array
GOLDEN = 0x9E3779B97F4A7C15     # an odd number: its multiples in 64 bits are all different


class Ranks:
    """The processes of a communicator, of which this is one.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm

    Attributes
    ----------
    rank, size : int
    seed : int
        What this rank adds to seeds of 64 bits, to have random numbers of its own; 0 on rank 0.
    """

    def __init__(self, comm: Any) -> None:
        from mpi4py import MPI

        self.comm = comm
        self.rank, self.size = int(comm.Get_rank()), int(comm.Get_size())
        self.seed = self.rank * GOLDEN % 2**64
        self._in_place = MPI.IN_PLACE
        self._known = False             # whether all ranks know of the error that is under way
        self._prepares = False          # whether the next message can still tell of one

    # ---- Messages ------------------------------------------------------------------------------

    def exchange(self, value: T, error: BaseException | None = None) -> list[T]:
        """Return the values of all ranks; where one has failed, raise on all of them."""
        found = self.comm.allgather((value, _in_words(error)))
        self._raise([words for _, words in found], error)
        return [one for one, _ in found]

    def on_first(self, work: Callable[[], T]) -> T:
        """Return what rank 0 makes of this, on all ranks; its error too."""
        value, error = None, None
        if self.rank == 0:
            try:
                value = work()
            except BaseException as problem:        # also Ctrl-C: the others wait
                error = problem
        found: tuple[T, str | None] = self.comm.bcast((value, _in_words(error)))
        self._raise([found[1]], error)
        return found[0]

    def add_up(self, numbers: np.ndarray) -> None:
        """Put the sums over all ranks in the place of the numbers."""
        self.comm.Allreduce(self._in_place, numbers)

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks on rank 0, and nothing elsewhere."""
        found: list[T] | None = self.comm.gather(value)
        return found or []

    def agree(self, described: dict[str, Any]) -> None:
        """ValueError on all ranks for what must be the same on them and is not."""
        first, *others = self.exchange(described)
        self._prepares = False
        for rank, other in enumerate(others, 1):
            for name, value in first.items():
                if other[name] != value:
                    raise self.known(ValueError(
                        f"{name} must be the same on all ranks, but is {value!r} on rank 0 and "
                        f"{other[name]!r} on rank {rank}"))

    # ---- Errors --------------------------------------------------------------------------------

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around what each rank does by itself: if one of them fails, all raise at its end."""
        error: BaseException | None = None
        try:
            yield
        except BaseException as problem:
            if self._known:
                raise
            error = problem
        self.exchange(None, error)

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Around all of it: an error that the other ranks cannot know of ends them too.

        Before `agree` it reaches them by the next message: nothing but `exchange` may be called.
        """
        self._known, self._prepares = False, True
        try:
            yield
        except BaseException as error:
            if self._prepares and not self._known:
                self.exchange(None, error)
            if not self._known:
                print(f"{traceback.format_exc()}rank {self.rank} of {self.size} ends all others, "
                      "which would wait for it", file=sys.stderr, flush=True)
                time.sleep(SECONDS_TO_READ)
                self.comm.Abort(1)
            raise

    def known(self, error: BaseException) -> BaseException:
        """Return an error that all ranks raise alike."""
        self._known = True
        return error

    def _raise(self, messages: Sequence[str | None], error: BaseException | None) -> None:
        for rank, message in enumerate(messages):
            if message is not None:
                raise self.known(error or RuntimeError(f"rank {rank} failed: {message}"))

    # ---- Parts of what all have ----------------------------------------------------------------

    def share(self, n: int) -> slice:
        """Return which of n rows this rank takes, one after the other; the first ranks more."""
        each, more = divmod(n, self.size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))


def _in_words(error: BaseException | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}"


def ranks_of(comm: Any) -> Ranks | None:
    """Return the ranks of a communicator; None where there is one process, or no communicator.

    Raises
    ------
    TypeError
        Something else.
    ImportError
        mpi4py is not installed.
    """
    if comm is None:
        return None
    if not (hasattr(comm, "Get_size") and hasattr(comm, "Allreduce")):
        raise TypeError("comm must be an mpi4py communicator, such as MPI.COMM_WORLD, "
                        f"got {comm!r}")
    return Ranks(comm) if comm.Get_size() > 1 else None


def splits(shard: Any) -> bool:
    """Return whether `shard` says that ranks take parts of what all were given."""
    if not isinstance(shard, str) or shard not in ("own", "split"):
        raise ValueError(f"shard must be 'own' or 'split', got {shard!r}")
    return shard == "split"


def all_or_none(ranks: Ranks | None) -> AbstractContextManager[None]:
    """See `Ranks.all_or_none`; nothing without ranks."""
    return nullcontext() if ranks is None else ranks.all_or_none()


def fingerprint(*arrays: Any) -> tuple[int, ...]:
    """Return number and checksum of some rows of each array: others if the arrays are others."""
    found: list[int] = []
    for array in arrays:
        chosen = sorted(set(np.linspace(0, len(array) - 1, LOOKED_AT).astype(int).tolist()))
        rows = np.ascontiguousarray(array[chosen] if len(array) else array)
        found += [len(array), zlib.crc32(rows.tobytes())]
    return tuple(found)
