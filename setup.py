"""Build of the compiled modules; all that is not about compiling stands in pyproject.toml.

Other builds look for faults, slowly: FASTNET_DEBUG=1 checks indexes and what kernels are given,
FASTNET_COVERAGE=1 counts how often lines run, FASTNET_SANITIZE=address goes to gcc's -fsanitize.
FASTNET_ISA names the one instruction set they are for.
"""
import os
import platform
import re
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,       # kernels use pointers; what has an index is checked before the loop
    "wraparound": False,        # and is never negative
    "cdivision": True,          # C's division: divisors are sizes and sums, checked to be positive
    "embedsignature": True,     # help() shows arguments
    "autotestdict": False,      # no __test__ dictionary: doctests are not kept in compiled code
}

FLAGS = [
    "-O3",                      # -O2 leaves the tiles' constant loops rolled up
    "-fno-trapping-math",       # lets both sides of a comparison be computed; values are unchanged
    "-fno-wrapv",               # Python asks for wrapping sizes, for which gcc lacks registers
    "-fno-inline-functions-called-once",    # each panel on the stack only while it is in use
    "-g0",                      # no debug sections: they are most of a module's size
]

# Instruction sets, each a build of the kernels of its own; fastnet/_ops.pyx chooses at import, and
# fastnet/_machine.h asks the processor for just what is switched on here. The baseline is what the
# compiler makes without being asked, on any architecture.
ISAS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    ISAS["x86-64-v3"] = ["-mavx2", "-mfma", "-mbmi", "-mbmi2"]
    ISAS["x86-64-v4"] = [*ISAS["x86-64-v3"], "-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq"]
    ISAS["x86-64-v4"] += ["-mavx512vl", "-mprefer-vector-width=512"]    # gcc would stay at 256

DTYPES = {"float32": 32, "float64": 64}

DEBUG, COVERAGE, SANITIZE = (
    os.environ.get(f"FASTNET_{name}", "") for name in ("DEBUG", "COVERAGE", "SANITIZE"))
MACROS = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), ("FASTNET_DEBUG", f"{bool(DEBUG):d}")]
DIRECTIVES["boundscheck"] = bool(DEBUG)
INSTRUMENTS = ["--coverage"] if COVERAGE else []
if SANITIZE:
    INSTRUMENTS = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=undefined"]
if DEBUG or INSTRUMENTS:    # optimized sanitized tiles take minutes to compile; exp needs fused
    FLAGS[0], FLAGS[-1] = "-O1", "-g"                                           # multiplication
    FLAGS += ["-fexpensive-optimizations", "-fno-omit-frame-pointer", *INSTRUMENTS]
    ISAS = {isa: ISAS[isa] for isa in [os.environ.get("FASTNET_ISA", "")] if isa} or ISAS
# In generated C, where what Cython adds for itself begins: no lines of the source's.
OWN = re.compile(r"/\* #### Code section: (?!(module_code|init_module) )\w+ ### \*/")


def extension(name, source, macros=(), flags=()):
    """One compiled module. `source` may serve several modules, each translated into its own folder.

    Flags are set after cythonize, which would otherwise mix those of modules that share a source.
    """
    import numpy

    build_dir = f"build/cython/{name}"
    [module] = cythonize(
        Extension(name, [source]), build_dir=build_dir, compiler_directives=DIRECTIVES, quiet=True,
        emit_linenums=bool(COVERAGE),
    )
    if COVERAGE:
        code = Path(module.sources[0])
        code.write_text(OWN.sub('#line 1 "cython"', code.read_text()))
    module.define_macros = [*MACROS, *macros]
    module.extra_compile_args = [*FLAGS, *flags]
    module.extra_link_args = INSTRUMENTS
    module.include_dirs = ["fastnet", numpy.get_include()]
    return module


def kernels(dtype, isa):
    """The kernels for one float type and instruction set."""
    name = f"fastnet._kernels_{dtype}_{isa}".replace("-", "_")
    macros = [
        ("FASTNET_BITS", DTYPES[dtype]),
        # A tile is unrolled only where its constant sizes are known: inside its caller.
        ("CYTHON_INLINE", "inline __attribute__((always_inline))"),
    ]
    return extension(name, "fastnet/_kernels.pyx", macros, ISAS[isa])


setup(
    ext_modules=[
        extension("fastnet._ops", "fastnet/_ops.pyx"),
        extension("fastnet._engine", "fastnet/_engine.pyx"),
        extension("fastnet._pool", "fastnet/_pool.pyx"),
        *(kernels(dtype, isa) for dtype in DTYPES for isa in ISAS),
    ],
    options={"build_ext": {"parallel": True}},
)
