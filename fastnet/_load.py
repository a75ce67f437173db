"""`fastnet.load`: a network or an estimator from the file that its `save` has written."""

from __future__ import annotations

import os
from typing import Any

from fastnet._files import ModelFileError, as_path, read_bytes
from fastnet._state_file import parse
from fastnet.callbacks import check_history
from fastnet.network import Sequential


def load(path: str | bytes | os.PathLike[Any]) -> Any:
    """Return the network or the estimator that a file holds.

    Files come from `Sequential.save`, `callbacks.Checkpoint`, the estimators' `save` and
    `python -m fastnet train`. Everything is checked before anything is built; no code in a file is
    executed, and memory is bounded by the file's size. Every format that was ever released is read.

    The network of `python -m fastnet train` takes rows as they stand in the table, with the columns
    in the order of the training data, as its first layer standardises them. From a numeric target
    it gives that number, in the target's unit; from classes their scores, in the order in which
    `python -m fastnet predict` names them, which is also how `predict_labels` counts. All up to
    rounding in the network's dtype.

    Parameters
    ----------
    path : str, bytes or path

    Returns
    -------
    model : Sequential, or an estimator of `fastnet.sklearn`
        Compiled, if it was when it was saved; that of a table is not.

    Raises
    ------
    ModelFileError
        Another file, a damaged one, or one of a newer version of the format; a table's column
        whose numbers lie so close together, for their size, that the network's dtype does not tell
        them apart, or are too large or too small for it: `train --dtype float64` helps.
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
            if "table" in state:
                from fastnet._model import network_for_rows  # and csv, which is slow to import
                return network_for_rows(state)
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
    check_history(state["estimator"].get("history", {}))
    return sklearn.estimator_of(state)
