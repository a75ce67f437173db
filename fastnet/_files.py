"""Files that are written out of sight, and moved to their place when they are complete."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


class ModelFileError(ValueError):
    """A file that is no model, or a damaged one."""


@contextmanager
def draft(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file with a temporary name beside `path`, which is gone at the end."""
    path = str(path)
    with suppress(FileNotFoundError):
        os.lstat(path)                  # a name that is too long is noticed now
    name = os.path.join(os.path.dirname(path), f".fastnet-{secrets.token_hex(8)}")
    try:
        with open(name, "xb") as file:
            yield file
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` if the block ends without an exception.

    At every moment the path holds the old file or the new one, whole. At the end the new one is on
    the disk, and so is its name. Of a link what it leads to is replaced.
    """
    path = os.path.realpath(path)
    with draft(path) as file:
        yield file
        file.close()
        _sync(file.name)
        os.replace(file.name, path)
        _sync(os.path.dirname(path))


def _sync(path: str | Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
