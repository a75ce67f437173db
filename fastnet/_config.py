"""What this build of fastnet is and what it runs on."""

import os
import sys

import numpy as np

from fastnet import _ops, _threads


def show_config(mode: str = "stdout") -> dict[str, str] | None:
    """Print versions, compiler and instruction sets, or return them.

    Parameters
    ----------
    mode : {"stdout", "dict"}

    Returns
    -------
    config : dict of str to str, or None if it is printed
        "instruction set" is the one in use; the environment variable FASTNET_ISA, read on import,
        forces one of those under "available". "threads" is `get_num_threads()`, and "threads by"
        what that comes from.

    Raises
    ------
    ValueError
        Another mode.
    """
    import platform  # both are slow to import
    from importlib.util import find_spec

    if mode not in ("stdout", "dict"):
        raise ValueError(f"mode must be 'stdout' or 'dict', got {mode!r}")
    config = {
        "fastnet": sys.modules["fastnet"].__version__,      # it is imported, whoever asks
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "compiler": _ops.compiler(),
        "instruction set": _ops.isa,
        "available": ", ".join(_ops.available_isas()),
        "threads": f"up to {_threads.get_num_threads()}",
        "threads by": _threads.described(os.environ),
        "matplotlib": "present" if find_spec("matplotlib") else "missing",
        "tqdm": "present" if find_spec("tqdm") else "missing",
    }
    if mode == "dict":
        return config
    width = max(map(len, config))
    for name, value in config.items():
        print(f"{name:{width}}  {value}")
    return None
