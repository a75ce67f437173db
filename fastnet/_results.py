"""The files that the commands leave: curves as a picture or a table, models, and predictions.

Each is written out of sight and moved to its place when it is complete: a write that fails leaves
no half file, and the file that was there before.
"""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fastnet._files import draft, is_special, replacing
from fastnet._model import Model
from fastnet._state_file import write_state
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


def check_writable(path: Path, force: bool, sources: Sequence[str] = ()) -> None:
    """Find out whether `path` can be written, before the work whose result it is to hold.

    Raises
    ------
    OSError
        A directory, a pipe or a device, a file that exists (with `force`: one that is
        write-protected, or one of `sources`, which are to be read), a folder that does not exist
        or takes no new files. The message is meant to be shown.
    """
    if os.path.isdir(path):
        raise OSError(f"cannot write {path}: it is a directory")
    if is_special(path):
        raise OSError(f"cannot write {path}: it is no regular file")
    if os.path.lexists(path) and not force:
        raise OSError(f"cannot write {path}: it exists already; --force replaces it")
    for source in sources:
        if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise OSError(f"cannot write {path}: it is to be read")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise OSError(f"cannot write {path}: it is write-protected")
    with _told(path), draft(path):
        pass


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Give errors a message to be shown."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` if the block ends without an exception."""
    with _told(path), replacing(path) as file:
        yield file


def draw(history: Sequence[Epoch], title: str) -> "Figure":
    """Return a figure of loss and, with classes, accuracy, each in training and validation."""
    # A Figure by itself: pyplot would choose a backend and keep the figure for the whole process.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = range(1, len(history) + 1)
    marker = "." if len(history) <= 20 else ""      # a line of one point would not be seen
    names = [name for name in ("loss", "accuracy") if name in history[0]]
    figure = Figure(figsize=(5 * len(names), 4.2), layout="constrained")
    figure.suptitle(title.replace("$", r"\$"), wrap=True)   # dollars in a file's name are no math
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for label, column, style in [("training", name, "-"), ("validation", f"val_{name}", "--")]:
            curve = [epoch[column] for epoch in history]
            axes.plot(epochs, curve, style, marker=marker, label=label)
        axes.set(xlabel="epoch", ylabel=name, xlim=(0, len(history) + 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.grid(alpha=0.3)
        axes.legend()
    if any(epoch["loss"] > 0 for epoch in history):
        figure.axes[0].set_yscale("log")            # else all but the first epochs look like 0
    return figure


def write_picture(path: Path, history: Sequence[Epoch], title: str) -> None:
    """Write the curves as PNG; needs matplotlib. OSError has a message to be shown."""
    with _replacing(path) as file:
        draw(history, title).savefig(file, format="png", dpi=150)


def write_table(path: Path, history: Sequence[Epoch]) -> None:
    """Write the curves as CSV, with all digits. OSError has a message to be shown."""
    write_csv(path, ["epoch", *history[0]],
              [[number, *epoch.values()] for number, epoch in enumerate(history, 1)])


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table with all digits. OSError has a message to be shown."""
    with _replacing(path) as file, io.TextIOWrapper(file, "utf-8", newline="") as text:
        print_csv(text, header, rows)


def print_csv(file: IO[str], header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table with all digits."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)


def write_model(path: Path, model: Model) -> None:
    """Write a model, as `Sequential.save` does; OSError has a message to be shown."""
    with _told(path):
        write_state(path, "network", model.state())
