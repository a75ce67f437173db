"""Conversion of what users hand over into arrays that the kernels take, or a clear error.

Lists, integers, other float types, other memory orders and byte orders are harmless and converted.
What would lose its meaning on the way (masks, sparse storage, imaginary parts, text) is refused.
"""

from __future__ import annotations  # numpy.random is slow to import: not before it is used

import functools
import math
import operator
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

Call: TypeAlias = "tuple[Any, tuple[Any, ...]]"     # of compiled code, for `_ops.at_once`

_NUMBERS = frozenset((bool, int, float))
_SILENTLY = np.errstate(all="ignore")       # whatever the caller's says: what is lost is told


@functools.cache
def _ends(interval: str) -> tuple[float, float]:
    """Return both ends of an interval such as "[0, 1)"."""
    low, high = interval[1:-1].split(",")
    return float(low), float(high)


def as_number(value: Any, name: str) -> float:
    """Return a number as a float, an infinite one where it is too large; TypeError for no number.

    A bool and text are none.
    """
    if type(value) is not float and (
            isinstance(value, (bool, str, bytes, bytearray, np.ma.MaskedArray))
            or isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind not in "iuf"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except TypeError as error:
        raise TypeError(f"{name} must be a number, got {value!r}") from error
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def within(value: Any, name: str, interval: str) -> float:
    """Return a hyper-parameter as a float, if it lies in an interval such as "[0, 1)".

    Raises
    ------
    TypeError
        No real number, or a bool.
    ValueError
        Outside of the interval, or NaN.
    """
    found = as_number(value, name)
    low, high = _ends(interval)
    if not (low < found < high or found == low and interval[0] == "["
            or found == high and interval[-1] == "]"):
        raise ValueError(f"{name} must be in the interval {interval}, got {found}")
    return found


def finite(value: Any, name: str) -> float:
    """Return a hyper-parameter as a float, as `within` (-inf, inf)."""
    return within(value, name, "(-inf, inf)")


def whole(value: Any, name: str, least: int | None = None) -> int:
    """Return a whole number as an int.

    Raises
    ------
    TypeError
        No whole number, or a bool.
    ValueError
        Below the least.
    """
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an int, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be an int, got {value!r}") from error
    if least is not None and number < least:
        raise ValueError(f"{name} must be in the interval [{least}, inf), got {number}")
    return number


def positive(value: Any, name: str) -> int:
    """Return a size or a count as an int, as `whole` from 1 on."""
    return whole(value, name, 1)


def flag(value: Any, name: str) -> bool:
    """Return True or False; TypeError for what only counts as one of them."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a bool, got {value!r}")
    return bool(value)


def generator(value: Any, name: str = "rng") -> np.random.Generator:
    """Return a source of random numbers: `value` itself, or a new one that begins with it.

    Raises
    ------
    TypeError, ValueError
        What `numpy.random.default_rng` does not take, such as a negative int.
    """
    try:
        return np.random.default_rng(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be an int in the interval [0, inf), a "
                          f"numpy.random.Generator or None, got {value!r}") from error


def copying(places: Iterable[np.ndarray], values: Iterable[Any]) -> list[Call]:
    """Return the calls that copy values into arrays."""
    return [(operator.setitem, (place, ..., value))
            for place, value in zip(places, values, strict=True)]


def numeric(value: Any, name: str) -> np.ndarray:
    """Return `value` as an array of bool, integers or floats.

    Raises
    ------
    TypeError
        None, a masked array, also inside lists, a `numpy.matrix`, a sparse matrix, or an object
        that NumPy cannot read, such as a tensor of PyTorch that wants a gradient.
    ValueError
        Complex numbers, text, objects, ragged lists.
    """
    if value is None:
        raise TypeError(f"{name} must be an array, got None")
    if hasattr(value, "tocsr"):
        raise TypeError(f"{name} must be a dense array, got a sparse {type(value).__name__}; "
                        "call toarray()")
    masked = holds_mask(value)
    try:
        array = value if masked else np.asanyarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from error
    except (TypeError, RuntimeError) as error:      # of an __array__
        raise TypeError(f"{name} must be an array, or what NumPy makes one of, but a "
                        f"{type(value).__name__} came ({error}); convert it first") from error
    if masked or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a plain array, got a masked array, whose mask would be "
                        "lost; call filled()")
    if isinstance(array, np.matrix):
        raise TypeError(f"{name} must be a plain array, got a numpy.matrix; call numpy.asarray")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return np.asarray(array)


def holds_mask(value: Any, depth: int = 64) -> bool:
    """Return whether a mask stands somewhere in nested lists, where NumPy does not see it."""
    if isinstance(value, (list, tuple)):
        return depth > 0 and not _NUMBERS.issuperset(map(type, value)) and any(
            holds_mask(one, depth - 1) for one in value)
    return isinstance(value, np.ma.MaskedArray)


@_SILENTLY
def floats(value: Any, name: str, dtype: np.dtype | None = None) -> np.ndarray:
    """Return `value` as a C-contiguous, aligned, native array of `dtype` that the kernels take.

    Without `dtype`, float32 and float16 become float32 and everything else float64.

    Raises
    ------
    TypeError, ValueError
        As `numeric`; ValueError too where a finite number would become infinite.
    """
    array = numeric(value, name)
    if dtype is None:
        dtype = np.dtype("float32" if array.dtype.name in ("float16", "float32") else "float64")
    converted = np.require(array, dtype, ["C", "A"])
    if array.dtype.kind == "f" and array.dtype.itemsize > dtype.itemsize:
        lost = np.isinf(converted) & np.isfinite(array)
        if lost.any():
            index = tuple(int(i) for i in np.argwhere(lost)[0])
            raise ValueError(f"{name}{list(index)} is {array[index]}, too large for {dtype}")
    return converted


@_SILENTLY
def target(
    value: Any, n_classes: int, dtype: np.dtype, ignored: int | None = None
) -> np.ndarray:
    """Return labels as an int64 vector, or target rows as a matrix of `dtype`.

    One dimension means labels (bool, integers, or floats that are whole numbers), two dimensions
    mean rows of weights. Range and shape are checked where the loss is computed. The label
    `ignored` may lie out of range.

    Raises
    ------
    TypeError, ValueError
        As `numeric`; ValueError too for floats that are not whole, for bool labels where there
        are not two classes, and for any other number of dimensions.
    """
    array = numeric(value, "target")
    if array.ndim == 2:
        return floats(array, "target", dtype)
    if array.ndim != 1:
        raise ValueError("target must have 1 dimension (labels) or 2 (one-hot or soft rows), "
                         f"got {array.ndim}")
    if array.dtype.kind == "b" and n_classes != 2:
        raise ValueError(f"target of bool means two classes, but the scores have {n_classes}")
    if array.dtype.kind == "f":
        bad = ~np.isfinite(array) | (array != np.rint(array))
    else:
        bad = np.zeros(len(array), bool)
    # What does not fit int64 is out of range for any number of classes.
    out = (array >= n_classes) | (array < 0)
    bad |= out if ignored is None else out & (array != ignored)
    if bad.any():
        index = int(np.argmax(bad))
        raise ValueError(f"target[{index}] is {array[index]}, but labels must be whole numbers "
                         f"from 0 to {n_classes - 1}")
    return np.require(array, np.intp, ["C", "A"])


def own_arrays(state: Any, copies: dict[int, np.ndarray] | None = None) -> Any:
    """Return what came out of a pickle, with arrays that are writable and nobody else's.

    Those of a pickle may be read-only, maps of its file, or lie in a buffer of the caller's. What
    is one array in several places stays one.
    """
    copies = {} if copies is None else copies
    if type(state) in (np.ndarray, np.memmap):
        if type(state) is np.ndarray and state.flags.owndata and state.flags.writeable:
            return state
        return copies.setdefault(id(state), np.array(state))
    if type(state) in (tuple, list):
        return type(state)(own_arrays(one, copies) for one in state)
    if type(state) is dict:
        return {name: own_arrays(one, copies) for name, one in state.items()}
    return state


def set_random_state(source: Any, state: Any) -> None:
    """Let a bit generator or `RandomState` go on; one of several errors where it is no state.

    NumPy takes positions outside of its buffers, and reads there.
    """
    numbers = state.get("state", {})
    for name, value, most in (("pos", numbers.get("pos", 0), 624),
                              ("buffer_pos", state.get("buffer_pos", 0), 4)):
        if not 0 <= value <= most:
            raise ValueError(f"{name} of random numbers must be in [0, {most}], got {value!r}")
    if isinstance(source, np.random.RandomState):
        source.set_state(state)
    else:
        source.state = state
