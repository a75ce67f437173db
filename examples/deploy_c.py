"""A trained network as a C file, for a program or a device without Python.

A small network learns the handwritten digits. `to_c` writes it as one C file, the C compiler makes
a library of it, and what its function says of the test images is compared with `predict`. A program
in C would say `void digits(const float *x, float *y);`, call it, and be linked with the file.
"""

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import fastnet as fn


def train():
    """Return a network that knows the digits, and the images and labels it has not seen."""
    rng = np.random.default_rng(0)
    x, digits = fn.load_digits()
    order = rng.permutation(len(x))
    x, digits = x[order].astype(np.float32), digits[order]
    net = fn.Sequential([
        fn.Dense(64, 32, activation="relu", rng=rng), fn.Dense(32, 10, rng=rng), fn.Softmax()])
    net.compile("adam", "cross_entropy")
    net.fit(x[:1437], digits[:1437], epochs=30, rng=0, verbose=0)
    return net, x[1437:], digits[1437:]


def load(library):
    """Return a Python function of one image that calls the C function."""
    digits = ctypes.CDLL(library).digits
    digits.restype = None
    digits.argtypes = [np.ctypeslib.ndpointer(np.float32, shape=(64,)),
                       np.ctypeslib.ndpointer(np.float32, shape=(10,))]

    def predict(image):
        probabilities = np.empty(10, np.float32)
        digits(image, probabilities)
        return probabilities

    return predict


if __name__ == "__main__":
    net, x, labels = train()
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "digits.c"), Path(folder, "digits.so")
        fn.to_c(net, source, name="digits")
        print(f"{source.name}: {len(source.read_text().splitlines())} lines of C for {net!r}")
        compiler = shutil.which("cc")
        if compiler is None:
            print("There is no C compiler (cc) to go on with.")
            raise SystemExit
        subprocess.run([compiler, "-std=c99", "-O3", "-shared", "-fPIC", source, "-lm",
                        "-o", library], check=True)
        predict = load(library)
        found = np.array([predict(image) for image in x])
    expected = net.predict(x)
    print(f"accuracy on {len(x)} images: {fn.accuracy(found, labels):.4f} in C, "
          f"{fn.accuracy(expected, labels):.4f} in Python")
    print(f"largest difference of a probability: {np.abs(found - expected).max():.1g}")
