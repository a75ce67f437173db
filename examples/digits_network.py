"""Exercise F again, through `Sequential`: the loop is gone, the numbers stay.

One hidden ReLU layer, 200 epochs of full-batch gradient descent with momentum, curves of loss and
accuracy. `fit` records training as it was before each update, and validation after it.
"""

import argparse
from pathlib import Path

import numpy as np

import fastnet as fn


def make_network(rng):
    net = fn.Sequential([fn.Dense(64, 100, rng=rng), fn.ReLU(), fn.Dense(100, 10, rng=rng)])
    net.compile(optimizer=fn.SGD(lr=0.1, momentum=0.9), loss=fn.SoftmaxCrossEntropy(),
                metrics=["accuracy"])
    return net


def train(net, training, validation, epochs=200):
    x, y = training
    return net.fit(x, y, batch_size=len(x), epochs=epochs, validation_data=validation,
                   shuffle=False, verbose=0)


def plot(history, folder):
    try:
        import matplotlib
    except ImportError:
        print("No picture: matplotlib is missing. In fastnet's folder: pip install '.[plot]'")
        return
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    loss, _ = history.plot()
    loss.figure.savefig(folder / "digits_network.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn handwritten digits.")
    parser.add_argument("folder", nargs="?", default=".", type=Path, help="for the picture")
    folder = parser.parse_args().folder

    rng = np.random.default_rng(0)
    x, digits = fn.load_digits()
    order = rng.permutation(len(x))
    x, digits = x[order], digits[order]
    net = make_network(rng)
    net.summary()
    history = train(net, (x[:1437], digits[:1437]), (x[1437:], digits[1437:]))
    print(history)
    plot(history, folder)
