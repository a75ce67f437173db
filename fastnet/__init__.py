"""fastnet: small and medium dense neural networks on a CPU, in compiled kernels.

    import fastnet as fn

    layers = [fn.Dense(64, 100), fn.ReLU(), fn.Dense(100, 10)]
    loss, sgd = fn.SoftmaxCrossEntropy(), fn.SGD(lr=0.1, momentum=0.9)

Layers have `forward(x)` and `backward(dy)`, losses `forward(y, target)` and `backward()`,
optimizers `step(layers)`. Rows are samples, weights are (in_features, out_features).
"""

try:
    import fastnet._ops  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        "fastnet's compiled modules are not here. Where its source stands, Python finds the source "
        "first: start it in another folder, or install with `pip install -e .`"
    ) from error
from fastnet import initializers
from fastnet._config import show_config
from fastnet.digits import load_digits
from fastnet.layers import Add, Dense, Flatten, Layer, Maximum, ReLU, Residual, Scale, Softmax
from fastnet.losses import CrossEntropy, MeanSquaredError, SoftmaxCrossEntropy
from fastnet.metrics import accuracy
from fastnet.network import History, Predictor, Scores, Sequential
from fastnet.optimizers import SGD

__version__ = "0.1.0"

__all__ = [
    "SGD", "Add", "CrossEntropy", "Dense", "Flatten", "History", "Layer", "Maximum",
    "MeanSquaredError", "Predictor", "ReLU", "Residual", "Scale", "Scores", "Sequential", "Softmax",
    "SoftmaxCrossEntropy", "accuracy", "initializers",
    "load_digits", "show_config",
]
