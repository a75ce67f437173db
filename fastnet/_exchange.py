"""What the formats of others have in common: a network's layers in one row."""

from collections.abc import Iterable
from typing import Any

from fastnet.layers import Dense, Residual


def unfolded(layers: Iterable[Any]) -> list[Any]:
    """Return layers with those of inner networks and the activations of dense layers in their row.

    A `Residual` stays as it is, with layers of its own.
    """
    found: list[Any] = []
    for layer in layers:
        if hasattr(layer, "_chain") and not isinstance(layer, Residual):
            found += unfolded(layer._chain)
            continue
        found.append(layer)
        if isinstance(layer, Dense) and layer.activation is not None:
            found.append(layer.activation)
    return found
