"""Exercise D: how many parameters dense networks have, and the shapes that a batch of 32 takes.

A dense layer has one weight for each pair of input and output and one bias for each output. Rows
are samples here; where the write-up stores features along the first axis, its shapes are these
turned round.
"""

import numpy as np

import fastnet as fn


def build(widths):
    """Return dense layers from width to width, with ReLU between them."""
    layers = []
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        layers += [fn.Dense(n_in, n_out), fn.ReLU()]
    return layers[:-1]


def count(layer):
    """Return the number of parameters of a layer."""
    return sum(value.size for _, value, _ in layer.parameters())


def show(widths, batch):
    """Print output shape and parameters of each layer, and their total."""
    layers = build(widths)
    y = np.zeros((batch, widths[0]), dtype="float32")
    print(f"{'-'.join(map(str, widths))}: input {y.shape}")
    for layer in layers:
        y = layer.forward(y)
        print(f"  {layer!r:<18} output {y.shape!s:<11} parameters {count(layer)}")
    print(f"  total {sum(map(count, layers))}")


if __name__ == "__main__":
    show([10, 50, 3], batch=1)                  # exercise B
    show([30, 1024, 512, 1], batch=32)
