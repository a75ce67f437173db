"""Ctrl-C at every moment: KeyboardInterrupt wherever CPython looks for signals in fastnet's code."""

import dis
import itertools
import os
import sys

import fastnet

FOLDER = os.path.dirname(fastnet.__file__)
# Signals are looked for behind these, and where a function begins.
BEHIND = {name for name in dis.opmap if name.startswith("CALL") or name.startswith("JUMP_BACKWARD")}


def interrupted(call, number):
    """Make a call, with a KeyboardInterrupt at the moment of that number; whether there was one."""
    left, before = number, {}

    def opcode(frame, event, _):
        nonlocal left
        if event == "opcode":
            last = before.get(frame)
            before[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if last is None or last in BEHIND:
                left -= 1
                if left < 0:
                    sys.settrace(None)
                    raise KeyboardInterrupt
        elif event == "return":
            before.pop(frame, None)
        return opcode

    def begin(frame, event, _):
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        frame.f_trace_opcodes = True
        return opcode

    traced = sys.gettrace()
    sys.settrace(begin)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(traced)
    return left < 0         # it may have come where errors are passed over


def moments(make, call, step=1):
    """Interrupt `call(made)` at one moment after the other; yield what was made, for each."""
    for number in itertools.count(0, step):
        made = make()
        if not interrupted(lambda made=made: call(made), number):
            assert number > 10 * step, "there was hardly a moment to interrupt"
            return
        yield made
