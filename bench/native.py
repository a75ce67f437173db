"""Compile and load loops.pyx, into a temporary folder; needs a C compiler and the [bench] extra."""

import shutil
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fastnet import _ops

ROOT = Path(__file__).resolve().parent.parent


def settings() -> dict[str, Any]:
    """Return the names that setup.py defines, its flags among them, without running the build."""
    before, _, _ = (ROOT / "setup.py").read_text(encoding="utf-8").partition("\nsetup(")
    names: dict[str, Any] = {}
    exec(before, names)
    return names


def load_loops(dtype: str) -> Any:
    """Return loops.pyx as a module for `dtype` and the instruction set that fastnet has chosen.

    Raises
    ------
    ImportError
        Without Cython, setuptools or SciPy.
    """
    import_module("scipy.linalg.cython_blas")       # before compiling: here its absence is clear
    cythonize = import_module("Cython.Build").cythonize
    setuptools = import_module("setuptools")
    built = settings()
    name = f"loops_{dtype}"
    with TemporaryDirectory() as folder:
        source = shutil.copy(ROOT / "bench" / "loops.pyx", folder)
        [extension] = cythonize(
            setuptools.Extension(
                name, [source],
                define_macros=[*built["MACROS"], ("FASTNET_BITS", built["DTYPES"][dtype])],
                extra_compile_args=[*built["FLAGS"], *built["ISAS"][_ops.isa]],
                include_dirs=[str(ROOT / "fastnet"), np.get_include()]),
            compiler_directives=built["DIRECTIVES"], quiet=True)
        command = setuptools.Distribution({"ext_modules": [extension]}).get_command_obj("build_ext")
        command.build_lib = command.build_temp = folder
        command.ensure_finalized()
        command.run()
        spec = spec_from_file_location(name, command.get_ext_fullpath(name))
        assert spec and spec.loader
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    return module
