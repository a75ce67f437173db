"""Tables to learn from and to predict: CSV and NPZ files, and the bundled digits, as arrays.

What is wrong with a file is told by place: line and column of a CSV file, index of an array.
"""

import csv
import io
import math
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from fastnet import _convert
from fastnet.digits import load_digits

Classes = list[str] | list[int]
Name = TypeVar("Name", str, int)

LARGEST = 1e100     # of the numbers in a file: their squares can be summed
BEGINNINGS_OF_NPZ = (b"PK\x03\x04", b"PK\x05\x06")


class FileError(ValueError):
    """A file whose content is not what it should be; the message is meant to be shown."""


class Data(NamedTuple):
    """Samples to learn from, and what their columns are called.

    `y` holds indices into `classes` (n,), or numbers (n,) where there are no classes.
    """

    source: str
    x: np.ndarray
    y: np.ndarray
    features: list[str]
    target: str
    classes: Classes | None


def digits() -> Data:
    """Return the handwritten digits."""
    x, y = load_digits()
    features = [f"pixel{i}" for i in range(x.shape[1])]
    return Data("handwritten digits", x, y, features, "digit", list(range(10)))


def read(path: str, target: str | None, task: str | None) -> Data:
    """Return the samples of a file.

    Parameters
    ----------
    path : str
        CSV with a header, or NPZ with the arrays `x` (n, n_features) and `y` (n,).
    target : str or None
        The CSV file's column to predict, which must be named; all others are features.
    task : "classification", "regression" or None
        None: whole numbers and text are classes, other numbers a regression. Classes are called
        as they are written: `007` and `7` are two.

    Raises
    ------
    FileError
        A content that is not as described, with the place of the first fault.
    OSError
        A file that cannot be read. The message is meant to be shown.
    """
    content = read_bytes(path)
    if not content.startswith(BEGINNINGS_OF_NPZ):
        return _read_csv(path, content, target, task)
    if target is not None:
        raise FileError(f"{path}: --target names a column of a CSV file, but in an NPZ file the "
                        "target is the array y")
    arrays = read_arrays(path, content)
    x, cells = _matrix(path, arrays), _target_cells(path, arrays)
    if len(cells) != len(x):
        raise FileError(f"{path}: x has {len(x)} rows, but y has {len(cells)}")
    y, classes = _encode(cells, task, lambda i: f"{path}, y[{i}]")
    return Data(path, x, y, [f"x{i}" for i in range(x.shape[1])], "y", classes)


def _read_csv(path: str, content: bytes, target: str | None, task: str | None) -> Data:
    rows = _rows(path, content)
    names = _header(path, rows)
    if target is None:
        raise FileError(f"{path}: --target must name the column to predict, one of "
                        f"{', '.join(names)}")
    if target not in names:
        raise FileError(f"{path}, line 1: there is no column {target!r}, only {', '.join(names)}")
    place = names.index(target)
    features = names[:place] + names[place + 1:]
    if not features:
        raise FileError(f"{path}, line 1: there is no column besides the target {target!r}")
    numbers, cells, lines = array("d"), [], []
    for line, row in rows:
        cells.append(row.pop(place))
        numbers.extend(_numbers(path, line, features, row))
        lines.append(line)
    y, classes = _encode(cells, task, lambda i: f"{path}, line {lines[i]}, column {target!r}")
    x = np.array(numbers).reshape(len(lines), len(features))
    return Data(path, x, y, features, target, classes)


def read_features(path: str, features: list[str]) -> np.ndarray:
    """Return the named columns of a CSV file, or the array `x` of an NPZ file, as (n, n_features).

    Raises
    ------
    FileError, OSError
        As `read`; FileError too for a missing column or another number of features.
    """
    content = read_bytes(path)
    if content.startswith(BEGINNINGS_OF_NPZ):
        x = _matrix(path, read_arrays(path, content))
        if x.shape[1] != len(features):
            raise FileError(f"{path}: x must have {len(features)} features, got {x.shape[1]}")
        return x
    rows = _rows(path, content)
    places = {name: i for i, name in enumerate(_header(path, rows))}
    for name in features:
        if name not in places:
            raise FileError(f"{path}, line 1: there is no column {name!r}, which the model needs, "
                            f"only {', '.join(places)}")
    numbers = array("d")
    for line, row in rows:
        numbers.extend(_numbers(path, line, features, [row[places[name]] for name in features]))
    return np.array(numbers).reshape(-1, len(features))


def read_bytes(path: str) -> bytes:
    """Return a file's content; OSError has a message to be shown."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from error


# ---- CSV -------------------------------------------------------------------------------------

def _rows(path: str, content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield the line where each row begins, and its cells; the header first."""
    try:
        text = content.decode().removeprefix("\ufeff").rstrip("\r\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileError(f"{path}, line {line}: this is not UTF-8 text") from error
    if not text:
        raise FileError(f"{path} is empty")
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True,
                        delimiter=max(",;\t", key=first.count))
    line, n_rows, n_columns = 1, 0, 0
    try:
        for row in reader:
            n_rows, n_columns = n_rows + 1, n_columns or len(row)
            if len(row) != n_columns:
                raise FileError(f"{path}, line {line}: the header has {n_columns} columns, but "
                                f"this row has {len(row)}")
            yield line, [cell.strip() for cell in row]
            line = reader.line_num + 1
    except csv.Error as error:
        raise FileError(f"{path}, line {line}: {error}") from error
    if n_rows == 1:
        raise FileError(f"{path}, line {line}: there are no rows below the header")


def _header(path: str, rows: Iterator[tuple[int, list[str]]]) -> list[str]:
    """Return the names of the columns, all different."""
    _, names = next(rows)
    if not names:
        raise FileError(f"{path}, line 1: there are no names of columns")
    seen = set()
    for number, name in enumerate(names, 1):
        if not name:
            raise FileError(f"{path}, line 1: column {number} has no name")
        if name in seen:
            raise FileError(f"{path}, line 1: column {name!r} is there twice")
        seen.add(name)
    return names


def _numbers(path: str, line: int, names: list[str], cells: list[str]) -> list[float]:
    """Return the numbers in a row's cells."""
    numbers = []
    for name, cell in zip(names, cells, strict=True):
        number = _parsed(float, cell)
        if number is None:
            raise FileError(f"{path}, line {line}, column {name!r}: {_complaint(cell)}")
        numbers.append(number)
    return numbers


def _parsed(kind: type[int] | type[float], cell: str) -> float | None:
    """Return the int or float in a cell, or None."""
    try:
        value = kind(cell)
    except ValueError:
        return None
    # Python would take 1_000 as well. NaN compares as false.
    return value if -LARGEST <= value <= LARGEST and "_" not in cell else None


def _is_out_of_range(cell: str) -> bool:
    """Return whether a cell holds a number, but NaN, infinity or too large a one."""
    try:
        return not abs(float(cell)) <= LARGEST
    except ValueError:
        return False


def _complaint(cell: str) -> str:
    """Return what is wrong with a cell that holds no number."""
    if not cell:
        return "the cell is empty"
    try:
        value = float(cell)
    except ValueError:
        return f"{cell!r} is not a number"
    if not math.isfinite(value):
        return f"{cell!r} is not a finite number"
    if abs(value) > LARGEST:
        return f"{cell!r} is too large, numbers go to {LARGEST:g}"
    return f"{cell!r} is not a number"      # 1_000


# ---- NPZ -------------------------------------------------------------------------------------

def read_arrays(path: str, content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of an NPZ file by name; FileError if it is none or damaged."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as entries:
            names, found = list(entries), dict(entries)
    except Exception as error:      # of many kinds: what zipfile and NumPy say to damaged files
        raise FileError(f"{path} is not an NPZ file of plain arrays, or is damaged") from error
    for name in found:
        if names.count(name) > 1:
            raise FileError(f"{path}: the array {name} is there twice")
    # What is no array in such a file is handed over as bytes.
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def _array(path: str, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    for candidate in (name, name.upper()):
        if candidate in arrays:
            return arrays[candidate]
    raise FileError(f"{path}: there is no array {name}, only {', '.join(arrays) or 'none'}")


def _matrix(path: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the array `x` as finite float64."""
    found = _array(path, arrays, "x")
    try:
        x = _convert.floats(found, "x", np.dtype("float64"))
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
    if x.ndim != 2 or 0 in x.shape:
        raise FileError(f"{path}: x must have shape (n, n_features), with at least one row and "
                        f"one feature, got {x.shape}")
    _check_finite(path, "x", x)
    return x


def _check_finite(path: str, name: str, array: np.ndarray) -> None:
    """FileError unless all numbers are finite, and none too large."""
    bad = np.argwhere(~(np.abs(array) <= np.float64(LARGEST)))      # float32 has no such number
    if len(bad):
        index = bad[0].tolist()
        raise FileError(f"{path}, {name}{index}: {_complaint(str(array[tuple(index)]))}")


def _target_cells(path: str, arrays: dict[str, np.ndarray]) -> list[str]:
    """Return the array `y` as it would stand in a CSV file."""
    y = _array(path, arrays, "y")
    if y.ndim != 1:
        raise FileError(f"{path}: y must have shape (n,), got {y.shape}")
    if y.dtype.kind not in "biufU":
        raise FileError(f"{path}: y must hold numbers or text, got dtype {y.dtype}")
    if y.dtype.kind == "f":
        _check_finite(path, "y", y)
    return [str(value) for value in y.tolist()]


# ---- Targets ---------------------------------------------------------------------------------

def _encode(
    cells: list[str], task: str | None, place: Callable[[int], str]
) -> tuple[np.ndarray, Classes | None]:
    """Return labels and the sorted classes that they index, or numbers and None."""
    whole = [_parsed(int, cell) is not None for cell in cells]
    numbers = [_parsed(float, cell) for cell in cells]
    if task is None and None not in numbers and not all(whole):
        task = "regression"
    for i, cell in enumerate(cells):
        if not cell or (task == "regression" and numbers[i] is None):
            raise FileError(f"{place(i)}: {_complaint(cell)}")
    if task == "regression":
        return np.array(numbers, np.float64), None
    if all(str(_parsed(int, cell)) == cell for cell in cells):     # 007 is not 7, but a name
        return _labels([int(cell) for cell in cells])
    if task is None and any(number is not None for number in numbers) and (
            any(number is not None and not w for number, w in zip(numbers, whole, strict=True))
            or any(map(_is_out_of_range, cells))):
        i = next((i for i, cell in enumerate(cells) if _is_out_of_range(cell)), numbers.index(None))
        raise FileError(f"{place(i)}: {_complaint(cells[i])}, while others are; "
                        "--task classification takes all as names of classes")
    return _labels(cells)


def _labels(names: list[Name]) -> tuple[np.ndarray, list[Name]]:
    """Return the index of each name among the sorted different names, and these."""
    classes = sorted(set(names))
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[name] for name in names], np.int64), classes
