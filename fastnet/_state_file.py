"""Files of numbers, text and arrays: the safetensors layout, with what is no array as JSON.

A file is 8 bytes with the length of a header, the header, JSON, and the arrays' bytes. The header
says of each array its type, shape and place, so the `safetensors` package reads these files, and in
`__metadata__`, where there is room for text alone:

* `format`: "fastnet", and `version`, that of this layout;
* `kind`: what the file holds, "network", "estimator" ...;
* `content`: all the rest as JSON, in which `{"$array": name}` stands for an array;
* `sha256`: of the whole file, with 64 zeros in place of this number.

Nothing in a file is executed, and reading takes memory by the file's size alone, whatever it says.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fastnet._files import ModelFileError, as_path, read_bytes, replacing

FORMAT, VERSION = "fastnet", 1
# safetensors' words for types, and ours.
TYPES = {"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2",
         "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8"}
WORDS = {np.dtype(ours): word for word, ours in TYPES.items()}
NO_SUM = "0" * 64


# ---- Writing -----------------------------------------------------------------------------------

def write_state(path: str | bytes | os.PathLike[Any], kind: str, state: Any) -> None:
    """Write numbers, text, None and arrays, in lists, tuples and dicts, as a file of some kind.

    An array is called by the keys that lead to it, `training.optimizer.0`; those under
    "parameters" by what follows that word. At every moment the path holds the old file or the new
    one, whole.

    Raises
    ------
    OSError
        As of any file; the old one is as it was.
    TypeError
        No path; something else in the state.
    """
    import json  # slow to import, as hashlib is, and seldom needed

    path = as_path(path)
    arrays: dict[str, np.ndarray] = {}
    content = json.dumps(_apart(state, "", arrays))
    metadata = {"sha256": NO_SUM, "format": FORMAT, "version": str(VERSION), "kind": kind,
                "content": content}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    # Those of large entries first: so all lie at multiples of their entries' size.
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)
    for name, array in ordered:
        start, end = end, end + array.nbytes
        header[name] = {"dtype": WORDS[array.dtype], "shape": list(array.shape),
                        "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    beginning = len(text).to_bytes(8, "little") + text
    digest = _sha256([beginning, *(_bytes_of(array) for _, array in ordered)])
    beginning = beginning.replace(NO_SUM.encode(), digest, 1)
    with replacing(path) as file:
        file.write(beginning)
        for _, array in ordered:
            file.write(_bytes_of(array))


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _apart(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return a value as JSON, and put its arrays into `arrays`."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        items = [_apart(one, f"{name}.{index}", arrays) for index, one in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        if any(key.startswith("$") for key in value):
            raise TypeError(f"a file cannot hold the key {next(k for k in value if k[:1] == '$')}")
        return {key: _apart(one, f"{name}.{key}", arrays) for key, one in value.items()}
    if isinstance(value, dict):
        return {"$pairs": _apart([list(item) for item in value.items()], name, arrays)}
    if isinstance(value, np.ndarray) and (stored := _as_stored(value.dtype)) in WORDS:
        name = name[1:].removeprefix("parameters.")
        while name in arrays:           # as keys have points, too
            name += "_"
        fits = stored == value.dtype and value.flags.c_contiguous
        arrays[name] = value if fits else np.asarray(value, stored, order="C")
        return {"$array": name}
    raise TypeError(f"a file cannot hold {value!r}")


def _sha256(parts: Iterable[bytes | memoryview]) -> bytes:
    """Return the SHA-256 of some bytes, in hexadecimal digits."""
    import hashlib

    try:
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        return digest.hexdigest().encode()
    except ValueError as error:         # what OpenSSL says for want of memory
        raise MemoryError(str(error)) from error


def _as_stored(dtype: np.dtype) -> np.dtype:
    """Return a type in little-endian order; NumPy crashes in `newbyteorder` for want of memory."""
    return dtype if dtype in WORDS else dtype.newbyteorder("<")


# ---- Reading -----------------------------------------------------------------------------------

def read_state(path: str | bytes | os.PathLike[Any], kind: str) -> Any:
    """Return what a file of this kind holds; arrays are read-only views of what was read.

    Raises
    ------
    OSError
        As of any file.
    ModelFileError
        Another file, a damaged one, or one of a newer version.
    """
    path = as_path(path)
    found, state = parse(path, read_bytes(path))
    if found != kind:
        raise ModelFileError(f"{path} cannot be read: it holds a {found}, not a {kind}")
    return state


def parse(path: str, data: bytes) -> tuple[str, Any]:
    """Return kind and state of a file with this content; ModelFileError as of `read_state`."""
    try:
        kind, content, arrays = _parts(data)
        state = _together(content, arrays)
        if arrays:
            raise ModelFileError(f"nothing tells what {', '.join(list(arrays)[:5])} is")
    except RecursionError as error:
        raise ModelFileError(f"{path} cannot be read: it is nested too deeply") from error
    except ModelFileError as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error
    return kind, state


def _parts(data: bytes) -> tuple[str, Any, dict[str, np.ndarray]]:
    """Return kind, content and arrays of a file, checked as a whole."""
    header, start = _header(data)
    metadata = _metadata(header)
    if (found := metadata["version"]) != str(VERSION):
        raise ModelFileError(f"it has format version {found[:20]}; this version of fastnet reads "
                             f"{VERSION}")
    expected = metadata["sha256"].encode()
    at = data.find(expected, 0, start)
    whole = memoryview(data)
    if at < 0 or _sha256([whole[:at], NO_SUM.encode(), whole[at + 64:]]) != expected:
        raise ModelFileError("it is damaged: its checksum is another")
    return metadata["kind"], _json(metadata["content"]), _arrays(header, data, start)


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the header, and where the arrays begin."""
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or start > len(data) or data[8:9] != b"{":
        raise ModelFileError("it is no safetensors file, or damaged")
    try:
        header = _json(data[8:start].decode())
    except UnicodeDecodeError as error:
        raise ModelFileError("its header is no text") from error
    if not isinstance(header, dict):
        raise ModelFileError("its header is no table")
    return header, start


def _metadata(header: dict[str, Any]) -> dict[str, str]:
    """Return what the header says of the file itself."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ModelFileError("it is a safetensors file, but none of fastnet's")
    for name, length in (("version", None), ("kind", None), ("content", None), ("sha256", 64)):
        value = metadata.get(name)
        if not isinstance(value, str) or length not in (None, len(value)) or not value.isascii():
            raise ModelFileError(f"its {name} is missing")
    return metadata


def _json(text: str) -> Any:
    """Return what JSON says; a name twice in one table is an error."""
    import json

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ModelFileError("a name came twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=table)
    except ModelFileError:
        raise
    except RecursionError as error:
        raise ModelFileError("it is nested too deeply") from error
    except ValueError as error:
        raise ModelFileError(f"its header is damaged: {error}") from error


def _arrays(header: dict[str, Any], data: bytes, start: int) -> dict[str, np.ndarray]:
    """Return the arrays, which lie one after the other and fill the file to its end."""
    found, end = {}, 0
    for name, about in header.items():
        if name == "__metadata__":
            continue
        array, end = _array(name, about, data, start, end)
        found[name] = array
    if start + end != len(data):
        raise ModelFileError(f"its arrays end at {start + end}, but the file at {len(data)}")
    return found


def _array(
    name: str, about: Any, data: bytes, start: int, begins: int
) -> tuple[np.ndarray, int]:
    """Return an array that begins there, and where it ends."""
    if not isinstance(about, dict) or set(about) != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(f"{name} is not described")
    word, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if not isinstance(word, str) or word not in TYPES or not _are_sizes(shape):
        raise ModelFileError(f"{name} has no shape or type")
    dtype = np.dtype(TYPES[word])
    ends = begins + math.prod(shape) * dtype.itemsize
    if not _are_sizes(offsets) or offsets != [begins, ends] or ends > len(data) - start:
        raise ModelFileError(f"{name} does not fit into its place")
    try:
        flat = np.frombuffer(data, dtype, math.prod(shape), start + begins) if ends > begins \
            else np.empty(0, dtype)
        return flat.reshape(shape), ends
    except ValueError as error:         # more dimensions than NumPy has
        raise ModelFileError(f"{name} has no shape: {error}") from error


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and len(values) <= 64 and all(
        type(value) is int and 0 <= value < 2**63 for value in values)


def _together(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return what `_apart` was given; arrays that are used leave `arrays`."""
    if isinstance(value, list):
        return [_together(one, arrays) for one in value]
    if not isinstance(value, dict):
        return value
    for word, rebuild in REBUILDERS.items():
        if word in value:
            return rebuild(value[word], arrays)
    return {key: _together(one, arrays) for key, one in value.items()}


def _an_array(name: Any, arrays: dict[str, np.ndarray]) -> np.ndarray:
    if not isinstance(name, str) or name not in arrays:
        raise ModelFileError(f"the array {str(name)[:100]} is missing, or there twice")
    return arrays.pop(name)


def _a_tuple(items: Any, arrays: dict[str, np.ndarray]) -> tuple[Any, ...]:
    found = _together(items, arrays)
    if not isinstance(found, list):
        raise ModelFileError("a tuple is no list of items")
    return tuple(found)


def _a_dict(pairs: Any, arrays: dict[str, np.ndarray]) -> dict[Any, Any]:
    try:
        return dict(_together(pairs, arrays))
    except (TypeError, ValueError) as error:
        raise ModelFileError("a table is no list of pairs") from error


REBUILDERS: dict[str, Callable[[Any, dict[str, np.ndarray]], Any]] = {
    "$array": _an_array, "$tuple": _a_tuple, "$pairs": _a_dict}
