"""A debug build (FASTNET_DEBUG=1) notices what nobody may do; `scripts/debug_build` makes one."""

import importlib
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastnet import _ops, _pool

KERNELS = f"fastnet._kernels_float32_{_ops.isa}".replace("-", "_")
pytestmark = pytest.mark.skipif(
    not importlib.import_module(KERNELS).debug, reason="not a debug build")

# Calls a kernel by its place in the table, as compiled code does, with numbers and with pointers to
# some entry of one array.
CALL = """
import ctypes, importlib, re, sys
from pathlib import Path
import fastnet
import numpy as np
table = importlib.import_module({module!r}).table
names = re.findall(r"\\(\\*(\\w+)\\)", Path({table!r}).read_text().split("struct KernelTable")[1])
get = ctypes.pythonapi.PyCapsule_GetPointer
get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
kernels = (ctypes.c_void_p * len(names)).from_address(get(table, b"fastnet.KernelTable"))
array = np.ones(1000, np.float32)
at = lambda entry: ctypes.c_void_p(array.ctypes.data + int(4 * entry))
size = ctypes.c_ssize_t
null = ctypes.c_void_p(None)
ctypes.CFUNCTYPE(None)          # loads what calls need
call = lambda name, *given: ctypes.CFUNCTYPE(None)(kernels[names.index(name)])(*given)
{what}
print("fine")
"""


def run(what):
    table = str(Path(_ops.__file__).with_name("_table.pxd"))
    return subprocess.run([sys.executable, "-c", CALL.format(
        module=KERNELS, table=table, what=what)], capture_output=True, text=True)


@pytest.mark.parametrize("what", [
    'call("relu_forward", at(0), at(100), size(100))',
    'call("relu_forward", at(0), at(0), size(100))',
    'call("relu_forward", null, null, size(0))',
    'call("sum_rows", at(0), at(100), size(10), size(10), 0)'])
def test_what_is_right_is_let_through(what):
    done = run(what)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


@pytest.mark.parametrize("what, message", [
    ('call("relu_forward", at(0), at(99), size(100))',
     "relu_forward: an output overlaps another array"),
    ('call("relu_forward", at(0), at(0.5), size(10))',
     "relu_forward: an array that is not aligned"),
    ('call("relu_forward", null, at(0), size(10))', "relu_forward: NULL in place of an array"),
    ('call("relu_forward", at(0), at(100), size(-1))', "relu_forward: a negative size"),
    ('call("sum_rows", at(0), at(0), size(10), size(10), 0)',
     "sum_rows: an output overlaps another array"),
    ('call("dense_forward", at(0), at(100), null, at(200), size(4), size(4), size(4), 0, size(2), '
     'size(3))', "dense_forward: rows beyond the whole")])
def test_what_is_wrong_ends_the_process(what, message):
    done = run(what)
    assert done.returncode == -signal.SIGABRT
    assert f"fastnet debug build: {message}" in done.stderr


def test_indexes_are_checked():
    with pytest.raises(IndexError):
        _pool.exercise(np.zeros(0, np.int32), 0, 1)


def test_every_kernel_has_its_door():
    folder = Path(_ops.__file__).parent
    names = re.findall(r"\(\*(\w+)\)", (folder / "_table.pxd").read_text())
    doors = re.findall(r"door_(\w+)\(", (folder / "_door.pxi").read_text())
    assert set(names) - set(doors) == {"pack_weights"}      # which may be asked without arrays
