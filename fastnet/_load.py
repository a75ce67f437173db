"""`fastnet.load`: a network or an estimator from the file that its `save` has written."""

from __future__ import annotations

import os
from typing import Any

from fastnet._files import ModelFileError, as_path, read_bytes
from fastnet._state_file import parse
from fastnet.network import Sequential


def load(path: str | bytes | os.PathLike[Any]) -> Any:
    """Return the network or the estimator that a file holds.

    Files come from `Sequential.save`, `callbacks.Checkpoint`, the estimators' `save` and
    `python -m fastnet train`. Everything is checked before anything is built; no code in a file is
    executed, and memory is bounded by the file's size. Every format that was ever released is read.

    Parameters
    ----------
    path : str, bytes or path

    Returns
    -------
    model : Sequential, or an estimator of `fastnet.sklearn`
        Compiled, if it was when it was saved.

    Raises
    ------
    ModelFileError
        Another file, a damaged one, or one of a newer version of the format.
    OSError
        The file cannot be read.
    TypeError
        No path.
    ImportError
        An estimator, where scikit-learn is not installed.
    """
    path = as_path(path)
    kind, state = parse(path, read_bytes(path))
    try:
        if kind == "network":
            if state["network"] is None:
                raise ModelFileError("it is a checkpoint of a network that is not all built in: "
                                     "make the network, and give it to Checkpoint.restore")
            return Sequential._of_file_state(state)
        if kind == "estimator":
            return _estimator(state)
        raise ModelFileError(f"nothing is known of a {kind[:100]}")
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
            ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error


def _estimator(state: Any) -> Any:
    try:
        from fastnet import sklearn
    except ImportError as error:
        raise ImportError("it holds an estimator, which needs scikit-learn: "
                          'pip install ".[sklearn]" where fastnet\'s code is') from error
    return sklearn.estimator_of(state)
