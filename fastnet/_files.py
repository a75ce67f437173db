"""Files that are written out of sight, and moved to their place when they are complete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO


@contextmanager
def draft(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of the same name in a temporary folder beside `path`; both vanish at the end.

    The folder, not the file, has the temporary name: so the file gets the usual permissions, and a
    name that is too long is noticed.
    """
    with TemporaryDirectory(prefix=".fastnet-", dir=path.parent) as folder:
        with open(Path(folder, path.name), "wb") as file:
            yield file


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` if the block ends without an exception.

    At every moment the path holds the old file or the new one, whole. At the end the new one is on
    the disk, and so is its name.
    """
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
