"""Layers, losses, optimizers and schedules as plain words, and back: what files say of them."""

from __future__ import annotations

from typing import Any

from fastnet import activations, layers, losses, optimizers, schedules
from fastnet._convert import flag
from fastnet._files import ModelFileError
from fastnet._layer import WeightedLayer
from fastnet.initializers import Zeros

_CLIPS = ("decay_vectors", "clip_norm", "clip_value")
_ADAM = ("lr", "betas", "eps", "weight_decay", *_CLIPS)

# What the classes are made with; all of it can be read from an object by the same name, but for
# what `_argument` knows.
ARGUMENTS: dict[type, tuple[str, ...]] = {
    layers.Dense: ("in_features", "out_features", "bias", "activation", "dtype"),
    layers.LayerNorm: ("features", "eps", "affine", "bias", "dtype"),
    layers.Dropout: ("p",),
    layers.Residual: ("layers",),
    layers.Scale: ("factor",),
    activations.LeakyReLU: ("negative_slope",),
    activations.ELU: ("alpha",),
    activations.GELU: ("approximate",),
    **dict.fromkeys((layers.Flatten, activations.Identity, activations.ReLU, activations.Sigmoid,
                     activations.Tanh, activations.SiLU, activations.Softmax,
                     activations.LogSoftmax), ()),
    losses.SoftmaxCrossEntropy: ("reduction", "weight", "ignore_index", "label_smoothing"),
    losses.NegativeLogLikelihood: ("reduction", "weight", "ignore_index"),
    losses.CrossEntropy: (),
    losses.MeanSquaredError: ("reduction",),
    losses.BinaryCrossEntropy: ("reduction", "pos_weight"),
    losses.Huber: ("reduction", "delta"),
    losses.Poisson: ("reduction",),
    optimizers.SGD: ("lr", "momentum", "nesterov", "weight_decay", *_CLIPS),
    optimizers.Adam: _ADAM,
    optimizers.AdamW: _ADAM,
    optimizers.RMSprop: ("lr", "alpha", "eps", "momentum", "centered", "weight_decay", *_CLIPS),
    schedules.StepDecay: ("lr", "every", "factor"),
    schedules.Cosine: ("lr", "steps", "warmup", "final"),
    schedules.InverseScaling: ("lr", "power"),
}
CLASSES = {kind.__name__: kind for kind in ARGUMENTS}
PRESENT = {"bias": "bias", "affine": "weight"}      # whether a layer has this array


def register(kind: type, *arguments: str) -> None:
    """Let a class be described, too."""
    ARGUMENTS[kind] = arguments
    CLASSES[kind.__name__] = kind


def describe(thing: Any) -> dict[str, Any]:
    """Return the name of an object's class, and what it was made with.

    Raises
    ------
    ValueError
        The class is not built in.
    """
    kind = type(thing)
    if kind not in ARGUMENTS:
        raise ValueError(f"{thing!r} cannot be saved, as it is not built in")
    found = {name: _argument(thing, name) for name in ARGUMENTS[kind]}
    if isinstance(thing, WeightedLayer):
        found["trainable"] = thing.trainable
    return {"class": kind.__name__, **found}


def _argument(thing: Any, name: str) -> Any:
    if name in PRESENT:
        return getattr(thing, PRESENT[name]) is not None
    value = getattr(thing, name)
    if name == "layers":
        return [describe(layer) for layer in value]
    if name == "lr" and getattr(thing, "schedule", None) is not None:
        return describe(thing.schedule)
    if name == "activation":
        return None if value is None else describe(value)
    return str(value) if name == "dtype" else value


def parameters_of(description: Any, name: str = "") -> dict[str, tuple[tuple[Any, ...], Any]]:
    """Return shape and dtype of every parameter of a layer that is described, by name.

    Nothing is built for that. Where it is no description, one of several errors.
    """
    found: dict[str, tuple[tuple[Any, ...], Any]] = {}
    for index, inner in enumerate(description.get("layers", ())):
        found |= parameters_of(inner, f"{name}{index}.")
    shape: tuple[Any, ...] = ()
    if description["class"] == "Dense":
        shape = description["in_features"], description["out_features"]
    elif description["class"] == "LayerNorm" and flag(description["affine"], "affine"):
        shape = (description["features"],)
    if shape:
        found[f"{name}weight"] = shape, description["dtype"]
        if flag(description["bias"], "bias"):
            found[f"{name}bias"] = shape[-1:], description["dtype"]
    return found


def build(description: Any) -> Any:
    """Return an object as it is described; parameters of layers are 0.

    Raises
    ------
    ModelFileError
        A description of something else.
    TypeError, ValueError
        What the classes say of their arguments.
    """
    if not isinstance(description, dict) or not isinstance(description.get("class"), str):
        raise ModelFileError("something is not described")
    arguments = dict(description)
    kind = CLASSES.get(arguments.pop("class"))
    if kind is None:
        raise ModelFileError(f"there is no {description['class'][:100]}")
    weighted = issubclass(kind, WeightedLayer)
    trainable = arguments.pop("trainable", None) if weighted else True
    if set(arguments) != set(ARGUMENTS[kind]):
        raise ModelFileError(f"{kind.__name__} is described by {', '.join(arguments) or 'nothing'}")
    if "layers" in arguments:
        if not isinstance(arguments["layers"], list):
            raise ModelFileError(f"{kind.__name__} has no list of layers")
        arguments["layers"] = [build(one) for one in arguments["layers"]]
    for part in ("activation", "lr"):
        if isinstance(arguments.get(part), dict):
            arguments[part] = build_bare(arguments[part])
    if kind is layers.Dense:
        arguments["weight_init"] = Zeros()
    made = kind(**arguments)
    if weighted:
        made.trainable = flag(trainable, "trainable")
    return made


def build_bare(description: Any) -> Any:
    """As `build`, of what has no parameters."""
    if names := list(parameters_of(description)):
        raise ModelFileError(f"{description['class']} stands where nothing has a {names[0]}")
    return build(description)
