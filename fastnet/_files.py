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
def draft(path: Path) -> Iterator[IO[bytes]]:
    """Open a file with a temporary name beside `path`, which is gone at the end."""
    with suppress(FileNotFoundError):
        os.lstat(path)                  # a name that is too long is noticed now
    with open(path.parent / f".fastnet-{secrets.token_hex(8)}", "xb") as file:
        try:
            yield file
        finally:
            file.close()
            with suppress(FileNotFoundError):
                os.unlink(file.name)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` if the block ends without an exception.

    At every moment the path holds the old file or the new one, whole. At the end the new one is on
    the disk, and so is its name. Of a link what it leads to is replaced.
    """
    path = Path(os.path.realpath(path))
    with draft(path) as file:
        yield file
        file.close()
        _sync(file.name)
        os.replace(file.name, path)
        _sync(path.parent)


def _sync(path: str | Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
