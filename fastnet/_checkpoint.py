"""A state of training as a file: a NumPy archive of arrays, with everything else as JSON."""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fastnet._files import replacing

FORMAT = "fastnet checkpoint 1"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write numbers, text, None and arrays, in lists and dicts; OSError as of any file."""
    import json  # slow to import, and seldom needed

    arrays: dict[str, Any] = {}

    def apart(value: Any) -> Any:
        """Name an array, for what stands in its place."""
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, np.ndarray):
            raise TypeError(f"a checkpoint cannot hold {value!r}")
        arrays[str(len(arrays))] = value
        return {"array": str(len(arrays) - 1)}

    text = json.dumps({"format": FORMAT, **state}, default=apart)
    with replacing(path) as file:
        np.savez(file, state=np.array(text), **arrays)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what was written; ValueError where the file is no checkpoint."""
    import json

    with open(path, "rb") as file:
        try:
            arrays = np.load(file, allow_pickle=False)
            text = str(arrays["state"])

            def together(value: dict[str, Any]) -> Any:
                return arrays[value["array"]] if value.keys() == {"array"} else value

            state: dict[str, Any] = json.loads(text, object_hook=together)
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
            raise ValueError(f"{path} is no checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is no checkpoint of this version, {FORMAT!r}")
    return state
