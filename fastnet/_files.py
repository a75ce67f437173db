"""Files that are read as they are, and written out of sight until they are complete."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


class ModelFileError(ValueError):
    """A file that is no model, or a damaged one."""


def as_path(path: Any) -> str:
    """Return a path as a str; TypeError for what is none, such as the number of an open file."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"path must be a str, bytes or a path, got {path!r}")
    return os.fsdecode(path)


def read_bytes(path: str) -> bytes:
    """Return a file's content, no more than it has now.

    Raises
    ------
    ModelFileError
        A pipe or a device, which need not ever end.
    OSError
        As of any file.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ModelFileError(f"{path} is no file of its own")
        return file.read(about.st_size)


def _without_waiting(path: str, flags: int) -> int:
    """Open a pipe, too, before somebody writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def is_special(path: str | Path) -> bool:
    """Return whether a path leads to a pipe, a device or a socket: no file takes its place."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


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
        try:                            # at once: Ctrl-C could come between longer ways
            os.unlink(name)
        except FileNotFoundError:
            pass


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` if the block ends without an exception.

    At every moment the path holds the old file or the new one, whole. At the end the new one is on
    the disk, and so is its name. Of a link what it leads to is replaced. A pipe or a device is an
    OSError and stays.
    """
    if is_special(path):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
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
