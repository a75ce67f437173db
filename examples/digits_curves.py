"""Exercise F: learn handwritten digits, with training and validation curves.

One hidden ReLU layer and a softmax output; 200 epochs of full-batch gradient descent with momentum.
Draws loss and accuracy, into the folder given as argument. Momentum in the exercise,
`v = gamma * v + lr * g`, `w = w - v`, is the same as that of `SGD` while lr stays as it is.

Two mistakes of the original are not repeated here:

* `log(p + 1e-5)` is not the cross-entropy. `SoftmaxCrossEntropy` has it exactly, from the scores.
* Its validation curve came from a second network, trained on the validation data. Validation only
  measures: the same network, without backward and without a step.
"""

import argparse
from pathlib import Path

import numpy as np

import fastnet as fn


def measure(layers, loss, x, target):
    """Return loss and accuracy of the layers as they are."""
    y = x
    for layer in layers:
        y = layer.forward(y)
    return loss.forward(y, target), fn.accuracy(y, target)


def train(layers, training, validation, epochs=200, lr=0.1, momentum=0.9):
    """Train, and return loss and accuracy on both (x, target) pairs before each update."""
    loss, sgd = fn.SoftmaxCrossEntropy(), fn.SGD(lr, momentum)
    curves = {"training": [], "validation": []}
    for _ in range(epochs):
        curves["validation"].append(measure(layers, loss, *validation))
        # Training comes second: backward belongs to the last forward.
        curves["training"].append(measure(layers, loss, *training))
        dy = loss.backward()
        for layer in reversed(layers):
            dy = layer.backward(dy)
        sgd.step(layers)
    return {name: np.array(curve) for name, curve in curves.items()}


def plot(curves, folder):
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No pictures: matplotlib is missing. In fastnet's folder: pip install '.[plot]'")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for column, title in enumerate(["loss", "accuracy"]):
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        for name, curve in curves.items():
            axes.plot(curve[:, column], label=name)
        axes.set(xlabel="epoch", ylabel=title, title=f"Handwritten digits: {title}")
        axes.legend()
        figure.savefig(folder / f"digits_{title}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn handwritten digits.")
    parser.add_argument("folder", nargs="?", default=".", type=Path, help="for the pictures")
    folder = parser.parse_args().folder

    rng = np.random.default_rng(0)
    x, digits = fn.load_digits()
    order = rng.permutation(len(x))
    x, target = x[order], np.eye(10)[digits[order]]     # one-hot rows
    layers = [fn.Dense(64, 100, rng=rng), fn.ReLU(), fn.Dense(100, 10, rng=rng)]
    curves = train(layers, (x[:1437], target[:1437]), (x[1437:], target[1437:]))
    for name, curve in curves.items():
        print(f"{name}: loss {curve[-1, 0]:.4f}, accuracy {curve[-1, 1]:.4f} at epoch {len(curve)}")
    plot(curves, folder)
