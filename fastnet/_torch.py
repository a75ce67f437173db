"""Networks to and from PyTorch, which is imported where it is needed and not before.

Layers and modules of the same name compute the same; a `Dense` is a `Linear`. Parameters have the
same names too, and each is the transpose of the other: a weight is (in, out) here, (out, in) there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from fastnet import _ops
from fastnet._convert import copying, floats, numeric
from fastnet._describe import ARGUMENTS, CLASSES
from fastnet._layer import WeightedLayer
from fastnet.layers import Dense, LayerNorm, Residual

# Layers without parameters, which are made with the same arguments in both libraries.
SAME = [CLASSES[name] for name in (
    "Dropout", "ELU", "Flatten", "GELU", "Identity", "LeakyReLU", "LogSoftmax", "ReLU", "Sigmoid",
    "SiLU", "Softmax", "Tanh")]
# Arguments of PyTorch alone, with the values that mean what fastnet does; the first is written.
FIXED: dict[str, dict[str, tuple[int, ...]]] = {
    "Flatten": {"start_dim": (1,), "end_dim": (-1,)},
    "LogSoftmax": {"dim": (1, -1)},
    "Softmax": {"dim": (1, -1)},
}


def _torch() -> Any:
    """Return the module torch, which mypy need not know."""
    try:
        return import_module("torch")
    except ModuleNotFoundError as error:
        raise ImportError("to_torch and from_torch need PyTorch: install torch") from error


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


# ---- Parameters by name ------------------------------------------------------------------------


def named_parameters(layers: Iterable[Any], place: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield the parameters of built-in layers as PyTorch names and lays them out: views.

    Raises
    ------
    ValueError
        A layer with parameters that is not built in.
    """
    for index, layer in enumerate(layers):
        name = f"{place}{index}"
        if hasattr(layer, "_chain"):
            yield from named_parameters(layer._chain, f"{name}.")
            continue
        for parameter, value, _ in layer.parameters():
            if not isinstance(layer, WeightedLayer):
                raise ValueError("parameters of built-in layers have names in PyTorch, but layer "
                                 f"{name} is {type(layer).__name__}")
            yield f"{name}.{parameter}", value.T


def load(parameters: dict[str, np.ndarray], state: Any) -> None:
    """Copy a state into these parameters; see `Sequential.load_state_dict`."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a dict of names and arrays, got {type(state).__name__}")
    missing = [name for name in parameters if name not in state]
    unexpected = [name for name in state if name not in parameters]
    if missing or unexpected:
        raise ValueError("state must have the names that state_dict() gives; "
                         f"missing: {missing}, unexpected: {unexpected}")
    found = [_entry(state[name], f"state[{name!r}]", value) for name, value in parameters.items()]
    _ops.at_once(copying(parameters.values(), found))


def _entry(given: Any, name: str, model: np.ndarray) -> np.ndarray:
    """Return an entry of a state as a copy in shape and dtype of its model.

    A copy, as it may be a view of a parameter that is changed before it is read.
    """
    array = numeric(_array(given, name), name)
    if array.dtype.kind != "f":
        raise ValueError(f"{name} must hold floating-point numbers, got {array.dtype}")
    if array.shape != model.shape:
        raise ValueError(f"{name} must have shape {model.shape}, got {array.shape}")
    return floats(array, name, model.dtype).copy()


def _array(given: Any, name: str) -> Any:
    """Return a tensor as an array, for which torch is not imported; anything else as it is."""
    if not hasattr(given, "detach"):
        return given
    try:
        return given.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be made an array: {error}") from error


# ---- To PyTorch --------------------------------------------------------------------------------


def _plain_module(nn: Any, layer: Any) -> Any:
    kind = type(layer)
    arguments = {name: getattr(layer, name) for name in ARGUMENTS[kind]}
    fixed = {name: values[0] for name, values in FIXED.get(kind.__name__, {}).items()}
    return getattr(nn, kind.__name__)(**arguments, **fixed)


# On the device "meta" nothing is drawn or stored: the parameters come afterwards.
MODULES: dict[type, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(SAME, _plain_module),
    Dense: lambda nn, layer: nn.Linear(
        layer.in_features, layer.out_features, layer.bias is not None, device="meta"),
    LayerNorm: lambda nn, layer: nn.LayerNorm(
        layer.features, layer.eps, layer.weight is not None, layer.bias is not None,
        device="meta"),
}


def module_of(layers: Iterable[Any]) -> Any:
    """Return a `torch.nn.Sequential` of layers in a row; see `Sequential.to_torch`."""
    torch = _torch()
    modules = []
    for index, layer in enumerate(layers):
        if type(layer) not in MODULES:
            raise ValueError(f"module {index} would be {type(layer).__name__}, which PyTorch has "
                             "no module for")
        module = MODULES[type(layer)](torch.nn, layer)
        for name, value, _ in layer.parameters():
            values = torch.from_numpy(value.T.copy())
            setattr(module, name, torch.nn.Parameter(values, requires_grad=layer.trainable))
        modules.append(module)
    return torch.nn.Sequential(*modules)


# ---- From PyTorch ------------------------------------------------------------------------------


def _plain_layer(kind: type, module: Any, dtype: Any) -> Any:
    for name, values in FIXED.get(kind.__name__, {}).items():
        if getattr(module, name) not in values:
            raise ValueError(f"{name} must be {' or '.join(map(str, values))}, "
                             f"got {getattr(module, name)}")
    return kind(**{name: getattr(module, name) for name in ARGUMENTS[kind]})


def _dense(
    weight: np.ndarray, bias: np.ndarray | None, dtype: np.dtype, trainable: bool
) -> Dense:
    n_in, n_out = weight.shape
    layer = Dense(n_in, n_out, bias is not None, weight_init="zeros", dtype=dtype)
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    layer.trainable = trainable
    return layer


def _dense_of(module: Any, dtype: np.dtype) -> Dense:
    if module.weight is None:
        raise ValueError("it has no weight")
    weight, bias = _array(module.weight, "weight"), _array(module.bias, "bias")
    return _dense(weight.T, bias, dtype, _trainable(module))


def _layer_norm_of(module: Any, dtype: np.dtype) -> LayerNorm:
    shape = tuple(module.normalized_shape)
    if len(shape) != 1:
        raise ValueError(f"normalized_shape must have 1 dimension, got {shape}")
    layer = LayerNorm(*shape, module.eps, affine=module.weight is not None,
                      bias=module.bias is not None, dtype=dtype)
    for name, _, _ in layer.parameters():
        setattr(layer, name, _array(getattr(module, name), name))
    layer.trainable = _trainable(module)
    return layer


def _trainable(module: Any) -> bool:
    """Return whether the parameters require gradients, True where there are none."""
    found = {parameter.requires_grad for parameter in module.parameters()}
    if len(found) > 1:
        raise ValueError("weight and bias must both require gradients, or neither: a layer of "
                         "fastnet is frozen as a whole")
    return found != {False}


LAYERS: dict[str, Callable[[Any, np.dtype], Any]] = {
    "Linear": _dense_of,
    "LayerNorm": _layer_norm_of,
    **{kind.__name__: partial(_plain_layer, kind) for kind in SAME},
}


class _BatchNorm(NamedTuple):
    """A BatchNorm1d among the layers, which waits for a dense layer beside it."""

    where: str
    module: Any


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Say of errors which module they are about."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from error
    except AttributeError as error:     # somebody has taken it away
        raise ValueError(f"{where}: {error}") from error


def layers_of(module: Any) -> list[Any]:
    """Return the layers of a module in a row; see `Sequential.from_torch`."""
    nn = _torch().nn
    try:
        row = list(_modules(module, "", nn))
    except RecursionError as error:
        raise ValueError("the module is nested too deeply, or stands inside itself") from error
    _check_apart(row)
    dtype = _dtype(row)
    layers: list[Any] = []
    for where, one in row:
        kind = type(one).__name__
        with _naming(where):
            layers.append(_BatchNorm(where, one) if kind == "BatchNorm1d"
                          else LAYERS[kind](one, dtype))
        _fold(layers)
    for layer in layers:
        if isinstance(layer, _BatchNorm):
            raise ValueError(f"{layer.where}: there is no Linear directly before or behind it that "
                             "it could be folded into")
    return layers


def _modules(module: Any, place: str, nn: Any) -> Iterator[tuple[str, Any]]:
    """Yield where each module stands and the module; inner sequences are followed.

    Raises
    ------
    TypeError
        Something that is no module.
    ValueError
        A module that fastnet has no layer for, or one with hooks or a forward of its own.
    """
    where = f"module {place}" if place else "the module"
    if not isinstance(module, nn.Module):
        raise TypeError(f"{where} must be a torch.nn.Module, got {module!r}")
    kind = type(module)
    where += f" is {kind.__name__}"
    sequence = kind.forward is nn.Sequential.forward
    # By name and class, as somebody's own class may have a name of PyTorch's.
    known = kind.__name__ in (*LAYERS, "BatchNorm1d") and kind is getattr(nn, kind.__name__)
    if not sequence and not known:
        raise ValueError(f"{where}, which fastnet has no layer for")
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"{where}: it has forward hooks, which would be lost; remove them first")
    if "forward" in vars(module):
        raise ValueError(f"{where}: it has a forward of its own, which would be lost")
    if not sequence:
        yield where, module
        return
    for index, inner in enumerate(module):
        yield from _modules(inner, f"{place}.{index}" if place else str(index), nn)


def _check_apart(row: list[tuple[str, Any]]) -> None:
    """ValueError where modules share a parameter, which layers cannot."""
    owners: dict[int, str] = {}
    for where, module in row:
        for parameter in module.parameters():
            owner = owners.setdefault(id(parameter), where)
            if owner != where:
                raise ValueError(f"{where}: it shares a parameter with another ({owner}), but "
                                 "layers of fastnet have their own")


def _dtype(row: list[tuple[str, Any]]) -> np.dtype:
    """Return the one dtype of all parameters and statistics, float32 where there are none."""
    common = ""
    for where, module in row:
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(module, name, None)
            if tensor is None:
                continue
            found = str(tensor.dtype).removeprefix("torch.")
            allowed = (common,) if common else ("float32", "float64")
            if found not in allowed:
                raise ValueError(f"{where}: its {name} must be {' or '.join(allowed)}"
                                 f"{' as those before it' if common else ''}, got {found}")
            common = found
    return np.dtype(common or "float32")


def _scale_and_shift(batch_norm: Any, dense: Dense, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what a batch normalization multiplies its input by and then adds, in float64."""
    if batch_norm.training:
        raise ValueError("it is in training mode, where results depend on the batch: call eval() "
                         "first")
    if batch_norm.running_mean is None:
        raise ValueError("it keeps no running statistics, so that results depend on the batch")
    if batch_norm.num_features != width:
        raise ValueError(f"it takes {batch_norm.num_features} features, but the Linear beside it "
                         f"has {width}")
    if batch_norm.affine and _trainable(batch_norm) != dense.trainable:
        raise ValueError("it and the Linear that it is folded into must both require gradients, "
                         "or neither")
    mean, variance, weight, bias = (
        None if tensor is None else _array(tensor, "its values").astype(np.float64)
        for tensor in (batch_norm.running_mean, batch_norm.running_var, batch_norm.weight,
                       batch_norm.bias))
    scale = (1 if weight is None else weight) / np.sqrt(variance + batch_norm.eps)
    return scale, (0 if bias is None else bias) - mean * scale


def _folded_behind(dense: Dense, batch_norm: Any) -> Dense:
    """Return a layer that does what a dense layer and then a batch normalization do."""
    scale, shift = _scale_and_shift(batch_norm, dense, dense.out_features)
    bias = shift if dense.bias is None else dense.bias * scale + shift
    return _dense(dense.weight * scale, bias, dense.dtype, dense.trainable)


def _folded_ahead(batch_norm: Any, dense: Dense) -> Dense:
    """Return a layer that does what a batch normalization and then a dense layer do."""
    scale, shift = _scale_and_shift(batch_norm, dense, dense.in_features)
    bias = shift @ dense.weight + (0 if dense.bias is None else dense.bias)
    return _dense(scale[:, np.newaxis] * dense.weight, bias, dense.dtype, dense.trainable)


def _fold(layers: list[Any]) -> None:
    """While the last two are a dense layer and a batch normalization, make one layer of them."""
    while True:
        match layers[-2:]:
            case [Dense() as dense, _BatchNorm(where, module)]:
                with _naming(where):
                    layers[-2:] = [_folded_behind(dense, module)]
            case [_BatchNorm(where, module), Dense() as dense]:
                with _naming(where):
                    layers[-2:] = [_folded_ahead(module, dense)]
            case _:
                return
