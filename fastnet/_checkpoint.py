"""A state of training as a file: a NumPy archive of arrays, with everything else as JSON."""

import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fastnet._files import replacing

FORMAT = 1
DAMAGED = (ArithmeticError, AttributeError, BadZipFile, EOFError, IndexError, KeyError, MemoryError,
           NotImplementedError, OSError, RuntimeError, TypeError, ValueError, zlib.error)


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write numbers, text, None and arrays, in lists and in dicts with keys of text.

    Raises
    ------
    OSError
        As of any file.
    TypeError
        Something else in the state.
    """
    import json  # slow to import, and seldom needed

    arrays: dict[str, Any] = {}

    def apart(value: Any) -> Any:
        """Say of everything that is no number or text what it is; arrays go elsewhere."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (list, tuple)):
            return {"list": [apart(one) for one in value]}
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": {key: apart(one) for key, one in value.items()}}
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            arrays[str(len(arrays))] = value
            return {"array": str(len(arrays) - 1)}
        raise TypeError(f"a checkpoint cannot hold {value!r}")

    text = json.dumps({"fastnet checkpoint": FORMAT, "state": apart(state)})
    with replacing(path) as file:
        np.savez(file, state=np.array(text), **arrays)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what was written; ValueError where the file is no checkpoint, or a newer one."""
    import json

    with open(path, "rb") as file:
        try:
            arrays = np.load(file, allow_pickle=False)

            def together(value: Any) -> Any:
                if not isinstance(value, dict):
                    return value
                (kind, content), = value.items()
                if kind == "list":
                    return [together(one) for one in content]
                if kind == "dict":
                    return {key: together(one) for key, one in content.items()}
                return arrays[content]

            described = json.loads(str(arrays["state"]))
            found = described["fastnet checkpoint"]
            state: dict[str, Any] = together(described["state"]) if found == FORMAT else {}
        except DAMAGED as error:
            raise ValueError(f"{path} is no checkpoint: {error}") from error
    if found != FORMAT:
        raise ValueError(f"{path} is a checkpoint of format {found!r}; this version of fastnet "
                         f"reads format {FORMAT}")
    if not isinstance(state, dict):
        raise ValueError(f"{path} is no checkpoint: it holds {type(state).__name__}")
    return state
