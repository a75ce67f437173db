"""The house rules that a machine can watch: imports point down, arithmetic stays in the kernels."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastnet"

pytestmark = pytest.mark.skipif(not PACKAGE.is_dir(), reason="needs the source tree")

# From the bottom up. A module may import from the floors below its own, never beside or above.
FLOORS = [
    {"_table", "_tuner", "_pool", "_convert", "_files", "_ranks", "history", "reference"},
    {"_kernels", "_parts", "_state_file", "_threads", "initializers", "digits", "schedules"},
    {"_ops", "_data"},
    {"_engine"},
    {"_layer"},
    {"activations", "checking"},
    {"layers", "losses", "metrics", "optimizers", "callbacks", "_config"},
    {"_fitting", "_describe"},
    {"_trainer", "_distributed", "_torch"},
    {"network"},
    {"_onnx", "_c", "sklearn", "_model"},
    {"_load"},
    {"__init__"},
    {"_training"},
    {"_results"},
    {"_cli"},
    {"__main__"},
]


def floor_of(module):
    return next(i for i, floor in enumerate(FLOORS) if module in floor)


def imports_of(path):
    """The modules of fastnet that a source file imports or cimports."""
    text = path.read_text()
    if path.suffix == ".py":
        lines = [ast.unparse(node) for node in ast.walk(ast.parse(text))
                 if isinstance(node, (ast.Import, ast.ImportFrom))]
    else:
        lines = [line for line in text.splitlines() if re.match(r"\s*(from|c?import)\b", line)]
    found = set()
    for line in lines:
        if match := re.match(r"\s*from fastnet(?:\.(\w+))? c?import (.*)", line):
            module, names = match.groups()
            found |= {module} if module else {
                name if name in set().union(*FLOORS) else "__init__"
                for name in re.findall(r"(\w+)(?: as \w+)?,?", names)}
        elif match := re.match(r"\s*c?import fastnet(?:\.(\w+))?", line):
            found.add(match[1] or "__init__")
    return found


def test_every_module_has_its_floor_and_imports_point_down():
    sources = [path for path in PACKAGE.iterdir() if path.suffix in (".py", ".pyx", ".pxd")]
    assert {path.stem for path in sources} <= set().union(*FLOORS)
    wrong = [f"{path.stem} -> {name}" for path in sources for name in imports_of(path)
             if floor_of(name) >= floor_of(path.stem)]
    assert wrong == []


def test_imports_are_seen(tmp_path):
    """The reader above really finds the forms that are in use."""
    source = tmp_path / "m.py"
    source.write_text("import fastnet as fn\nfrom fastnet import _ops, initializers\n"
                      "from fastnet.layers import Dense\nimport numpy\n")
    assert imports_of(source) == {"__init__", "_ops", "initializers", "layers"}
    source = tmp_path / "m.pyx"
    source.write_text("from fastnet import _convert\nfrom fastnet._table cimport real\n")
    assert imports_of(source) == {"_convert", "_table"}


def test_the_core_needs_numpy_alone(tmp_path):
    script = ("import sys; before = set(sys.modules); import numpy; import fastnet; "
              "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))")
    found = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True,
                           text=True, check=True).stdout.split()
    assert "fastnet" in found
    foreign = set(found) - set(sys.stdlib_module_names) - {"numpy", "fastnet"}
    # Editable installs bring a finder of their own; Cython modules register their shared types.
    assert {m for m in foreign if not m.startswith(("__editable__", "_cython", "cython_runtime"))
            } == set()


def kernel_sources():
    return [PACKAGE / "_kernels.pyx", *PACKAGE.glob("*.pxi")]


def test_kernels_are_typed_noexcept_and_without_the_gil():
    function = re.compile(r"^cdef (?!enum|extern)[^:]*?\)([^:()]*):$", re.M)
    heads = [head for path in kernel_sources() for head in function.findall(path.read_text())]
    assert len(heads) > 20
    assert {head.strip() for head in heads} == {"noexcept nogil"}


def test_kernels_see_no_python_arrays():
    for path in kernel_sources():
        forbidden = r"numpy|memoryview|^\s*cdef [^#\n]*\[:|^def |object"
        assert not re.search(forbidden, path.read_text(), re.M), path


def test_arithmetic_outside_the_kernels_is_not_written_in_numpy():
    """Layers, losses, metrics and optimizers call kernels; they do not compute."""
    for name in {"activations", "layers", "losses", "metrics", "optimizers"}:
        tree = ast.parse((PACKAGE / f"{name}.py").read_text())
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.MatMult)]
        calls = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call)
                 and isinstance(node.func, ast.Attribute)
                 and isinstance(node.func.value, ast.Name) and node.func.value.id == "np"}
        assert calls <= {"dtype", "empty", "zeros", "zeros_like", "result_type"}, name


def test_the_header_says_only_what_cython_cannot():
    text = (PACKAGE / "_machine.h").read_text()
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 140
    assert not re.search(r"\b(for|while|do|goto)\b", code)
    assert [path.name for path in PACKAGE.glob("*.h")] == ["_machine.h"]


def test_import_brings_nothing_that_is_slow_and_not_needed_yet(tmp_path):
    slow = ("numpy.random", "importlib.metadata", "email", "html", "gzip", "csv", "json")
    script = f"import sys, numpy, fastnet; print([m for m in {slow} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True,
                           text=True, check=True).stdout.strip()
    assert found == "[]"


def test_the_build_file_stays_short():
    assert len((ROOT / "setup.py").read_text().splitlines()) <= 100


def test_stubs_name_what_the_compiled_module_has():
    from fastnet import _ops

    stub = ast.parse((PACKAGE / "_ops.pyi").read_text())
    stubbed = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    public = {name for name in vars(_ops) if callable(getattr(_ops, name))
              and not name.startswith("_") and getattr(_ops, name).__module__ == "fastnet._ops"}
    assert stubbed == public


def test_every_kernel_has_a_twin_in_the_reference_and_a_checked_door():
    from fastnet import _ops, reference

    table = (PACKAGE / "_table.pxd").read_text()
    kernels = set(re.findall(r"\(\*(\w+)\)\(", table))
    assert len(kernels) > 15
    checks = {"first_bad_weight", "first_bad_probability", "first_not_finite"}  # for bad values
    others = {                                                  # what the formula is called there
        "scale": {"scale_forward", "scale_backward"},
        "pack_weights": set(),                                  # a copy, without a formula
        "dense_forward_packed": {"dense_forward"},
        **dict.fromkeys(("dense_update", "input_gradient", "weight_gradient", "sum_rows"),
                        {"dense_backward"}),
        "update": {"sgd_update", "adam_update", "rmsprop_update"},
        "entry_losses": {"entry_losses", "mean_squared_error"},
    }
    twins = set().union(*(others.get(name, {name}) for name in kernels - checks))
    assert set(reference.__all__) == twins
    inner = {"scale", "update", "dense_update", "input_gradient", "weight_gradient", "sum_rows"}
    doors = twins | kernels - checks - inner | {"dense_sgd_update"}
    assert all(hasattr(_ops, name) for name in doors)


def test_in_the_source_folder_of_a_plain_install_the_message_says_what_to_do(tmp_path):
    (tmp_path / "fastnet").mkdir()
    for path in PACKAGE.glob("*.py"):
        (tmp_path / "fastnet" / path.name).write_text(path.read_text())
    done = subprocess.run([sys.executable, "-c", "import fastnet"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert "fastnet's compiled modules are not here" in done.stderr.splitlines()[-1]
