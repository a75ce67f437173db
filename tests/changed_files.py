"""Model files of which something was changed, with a checksum that is right."""

from fastnet._state_file import read_state, write_state


def change(path, way, value, *, kind="network", to=None):
    """Write a file with something else at a place of its content; with None for it, nothing.

    `way` are the names and numbers that lead there, "network/layers/0/class"; a function as value
    is given what stands there. Without `to` the file itself is changed.
    """
    state = place = read_state(path, kind)
    *names, last = (int(name) if name.isdigit() else name for name in way.split("/"))
    for name in names:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value(place[last]) if callable(value) else value
    write_state(to or path, kind, state)
