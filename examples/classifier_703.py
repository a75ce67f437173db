"""Exercise B: a classifier with 703 parameters, trained on one sample, layer by layer.

Dense(10 -> 50), ReLU, Dense(50 -> 3) and softmax; 1000 iterations of plain gradient descent.
Prints the final weights and biases and draws the loss, into the folder given as argument.

Three mistakes of the original are not repeated here:

* `y - t` is already the gradient by the scores in front of the softmax; sending it through a
  softmax backward as well is wrong. `SoftmaxCrossEntropy` is both in one, so it cannot happen.
* The Jacobian of softmax is `diag(y) - y y^T`, not `I - y y^T`.
* The backward of a dense layer is `dx = dy W^T`: the weights are transposed, on the right.

The right gradient by the last bias, `y - t`, sums to 0: so `sum(b2)` never changes.
"""

import argparse
from pathlib import Path

import numpy as np

import fastnet as fn

X = np.array([[0.5, 0.6, 0.1, 0.25, 0.33, 0.9, 0.88, 0.76, 0.69, 0.95]])
TARGET = np.array([[1, 0, 0]])          # one row: a batch of 1


def build(seed, dtype="float64"):
    """Return the layers, all weights and biases drawn from U(0, 0.1)."""
    uniform = fn.initializers.Uniform(0, 0.1)
    start = dict(weight_init=uniform, bias_init=uniform, dtype=dtype,
                 rng=np.random.default_rng(seed))
    return [fn.Dense(10, 50, **start), fn.ReLU(), fn.Dense(50, 3, **start)]


def train(layers, x, target, lr=0.02, iterations=1000):
    """Train the layers and return the loss at every iteration, before its update."""
    loss, sgd = fn.SoftmaxCrossEntropy(), fn.SGD(lr)
    losses = []
    for _ in range(iterations):
        y = x
        for layer in layers:
            y = layer.forward(y)
        losses.append(loss.forward(y, target))
        dy = loss.backward()
        for layer in reversed(layers):
            dy = layer.backward(dy)
        sgd.step(layers)
    return losses


def plot(losses, folder):
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No picture: matplotlib is missing. In fastnet's folder: pip install '.[plot]'")
        return
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.semilogy(losses)
    axes.set(xlabel="iteration", ylabel="cross-entropy", title="703 parameters, one sample")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "classifier_703_loss.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a classifier with 703 parameters.")
    parser.add_argument("folder", nargs="?", default=".", type=Path, help="for the picture")
    folder = parser.parse_args().folder

    hidden, relu, output = layers = build(seed=0)
    losses = train(layers, X, TARGET)
    np.set_printoptions(precision=4, suppress=True, linewidth=100)
    print(f"W1\n{hidden.weight}\nb1\n{hidden.bias}\nW2\n{output.weight}\nb2\n{output.bias}")
    n_parameters = sum(value.size for layer in layers for _, value, _ in layer.parameters())
    print(f"parameters: {n_parameters}")
    print(f"loss: {losses[0]:.6f} at the first iteration, {losses[-1]:.6f} at the last")
    plot(losses, folder)
