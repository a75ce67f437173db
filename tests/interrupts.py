"""Ctrl-C at every moment: KeyboardInterrupt wherever CPython looks for signals in our code."""

import dis
import os
import sys

import fastnet

FOLDER = os.path.dirname(fastnet.__file__)
# Signals are looked for behind these, and where a function begins.
BEHIND = {name for name in dis.opmap if name.startswith("CALL") or name.startswith("JUMP_BACKWARD")}


def moment_of(call, number):
    """Make a call, with a KeyboardInterrupt at the moment of that number.

    Returns it if there was one (also where errors are passed over), else how many there are.
    """
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
        pass
    finally:
        sys.settrace(traced)
    return number - max(left, 0)


def moments(make, call, step=1, last=None):
    """Interrupt `call(made)` at one moment after the other, or at the last ones; yield `made`."""
    made = make()
    total = moment_of(lambda: call(made), sys.maxsize)
    assert total > 3 * step, "there is hardly a moment to interrupt"
    for number in range(0 if last is None else total - last, total, step):
        made = make()
        moment_of(lambda made=made: call(made), number)
        yield made
