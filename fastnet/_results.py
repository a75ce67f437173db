"""The files that a training run leaves: curves as a picture or a table, and the parameters.

Each is written out of sight and moved to its place when it is complete: a write that fails leaves
no half file, and the file that was there before.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fastnet._training import Epoch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def can_draw() -> bool:
    """Return whether matplotlib can be imported, which is also its first import."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def check_writable(path: Path, force: bool) -> None:
    """Find out whether `path` can be written, before the work whose result it is to hold.

    Raises
    ------
    OSError
        A directory, a file that exists (with `force`: one that is write-protected), a folder that
        does not exist or takes no new files. The message is meant to be shown.
    """
    if os.path.isdir(path):
        raise OSError(f"cannot write {path}: it is a directory")
    if os.path.lexists(path) and not force:
        raise OSError(f"cannot write {path}: it exists already; --force replaces it")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise OSError(f"cannot write {path}: it is write-protected")
    with _draft(path):
        pass


@contextmanager
def _draft(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of the same name in a temporary folder beside `path`; both vanish at the end.

    The folder, not the file, has the temporary name: so the file gets the usual permissions, and a
    name that is too long is noticed.
    """
    try:
        with TemporaryDirectory(prefix=".fastnet-", dir=path.parent) as folder:
            with open(Path(folder, path.name), "wb") as file:
                yield file
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` if the block ends without an exception."""
    with _draft(path) as file:
        yield file
        file.close()
        os.replace(file.name, path)


def draw(history: Sequence[Epoch], title: str) -> "Figure":
    """Return a figure of loss and accuracy side by side, each in training and validation."""
    # A Figure by itself: pyplot would choose a backend and keep the figure for the whole process.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = range(1, len(history) + 1)
    marker = "." if len(history) <= 20 else ""      # a line of one point would not be seen
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(title)
    for axes, name in zip(figure.subplots(1, 2), ["loss", "accuracy"], strict=True):
        for label, column, style in [("training", name, "-"), ("validation", f"val_{name}", "--")]:
            curve = [getattr(epoch, column) for epoch in history]
            axes.plot(epochs, curve, style, marker=marker, label=label)
        axes.set(xlabel="epoch", ylabel=name, xlim=(0, len(history) + 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.axes[0].set_yscale("log")                # else all but the first epochs look like 0
    return figure


def write_picture(path: Path, history: Sequence[Epoch], title: str) -> None:
    """Write the curves as PNG; needs matplotlib. OSError has a message to be shown."""
    with _replacing(path) as file:
        draw(history, title).savefig(file, format="png", dpi=150)


def write_table(path: Path, history: Sequence[Epoch]) -> None:
    """Write the curves as CSV, with all digits. OSError has a message to be shown."""
    lines = [",".join(["epoch", *Epoch._fields])]
    lines += [",".join(map(repr, [number, *epoch])) for number, epoch in enumerate(history, 1)]
    with _replacing(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())


def write_parameters(path: Path, layers: Sequence[Any]) -> None:
    """Write the parameters as NPZ, named by the layer's number: `0.weight`, `0.bias`, ...

    OSError has a message to be shown.
    """
    arrays: dict[str, Any] = {
        f"{number}.{name}": value
        for number, layer in enumerate(layers)
        for name, value, _ in layer.parameters()
    }
    with _replacing(path) as file:
        np.savez(file, **arrays)
