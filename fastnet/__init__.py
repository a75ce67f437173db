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
from fastnet import activations, callbacks, initializers, metrics, schedules
from fastnet._c import to_c
from fastnet._config import show_config
from fastnet._files import ModelFileError
from fastnet._load import load
from fastnet._onnx import from_onnx, to_onnx
from fastnet._threads import get_num_threads, set_num_threads
from fastnet.checking import check_gradients
from fastnet.digits import load_digits
from fastnet.history import History, Scores
from fastnet.layers import (
    ELU,
    GELU,
    Add,
    Dense,
    Dropout,
    Flatten,
    Identity,
    Layer,
    LayerNorm,
    LeakyReLU,
    LogSoftmax,
    Maximum,
    ReLU,
    Residual,
    Scale,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from fastnet.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    MeanSquaredError,
    NegativeLogLikelihood,
    Poisson,
    SoftmaxCrossEntropy,
)
from fastnet.metrics import accuracy
from fastnet.network import Predictor, Sequential
from fastnet.optimizers import SGD, Adam, AdamW, RMSprop

from_torch = Sequential.from_torch

__version__ = "0.1.0"

__all__ = [
    "ELU", "GELU", "SGD", "Adam", "AdamW", "Add", "BinaryCrossEntropy", "CrossEntropy", "Dense",
    "Dropout", "Flatten", "History", "Huber", "Identity", "Layer", "LayerNorm", "LeakyReLU",
    "LogSoftmax", "Maximum", "MeanSquaredError", "ModelFileError", "NegativeLogLikelihood",
    "Poisson", "Predictor", "RMSprop", "ReLU", "Residual", "Scale", "Scores", "Sequential",
    "SiLU", "Sigmoid", "Softmax", "SoftmaxCrossEntropy", "Tanh", "accuracy", "activations",
    "callbacks", "check_gradients", "from_onnx", "from_torch", "get_num_threads",
    "initializers", "load", "load_digits", "metrics", "schedules", "set_num_threads",
    "show_config", "to_c", "to_onnx",
]
