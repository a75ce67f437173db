"""Options and inputs that layers, losses, optimizers and schedules cannot have: one table a group.

Each entry is refused with a TypeError (another kind of thing) or a ValueError (out of its interval)
that names the option and what was expected. Numbers in names are those of the list of bad inputs
that the project keeps.
"""

import copy
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest

import fastnet as fn
from fastnet import _convert, _ops, activations, schedules

# What is no number, for every option that takes one.
NO_NUMBERS = {
    "text": "0.5", "bytes": b"1", "bytearray": bytearray(b"0.5"), "None": None, "True": True,
    "numpy's True": np.True_, "list": [0.5], "array": np.array([0.5]), "arrays": np.ones(2),
    "complex": 0.5j, "numpy's complex": np.complex64(0.5), "dict": {}, "object": object(),
    "masked": np.ma.masked, "array of text": np.array("0.5"), "numpy's text": np.str_("0.5"),
    "date": np.datetime64("2020-01-01"), "array of bool": np.array(True)}
# What is no finite number.
NOT_FINITE = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "huge": 10**400, "-huge": -10**400,
              "numpy's nan": np.float32(np.nan)}
# What is no whole number.
NO_INTS = {**NO_NUMBERS, "float": 2.0, "nan": np.nan, "inf": np.inf}
# What is neither True nor False.
NO_BOOLS = {"0": 0, "1": 1, "text": "False", "None": None, "list": [], "array": np.ones(2, bool)}

INTERVALS = {
    # name: (make, interval, values outside of it, values within)
    "LeakyReLU.negative_slope": (fn.LeakyReLU, "(-inf, inf)", [], [-1, 0, 2.5]),
    "ELU.alpha": (fn.ELU, "(-inf, inf)", [], [-1, 0, 2.5]),
    "Scale.factor": (fn.Scale, "(-inf, inf)", [], [-1, 0, 2.5]),
    "Dropout.p": (fn.Dropout, "[0, 1)", [-0.1, 1, 1.5], [0, -0.0, 0.999]),
    "LayerNorm.eps": (lambda v: fn.LayerNorm(3, v), "(0, inf)", [0, -0.0, -1], [1e-12, 1]),
    "Huber.delta": (lambda v: fn.Huber(delta=v), "(0, inf)", [0, -1], [1e-12, 7]),
    "SoftmaxCrossEntropy.label_smoothing": (
        lambda v: fn.SoftmaxCrossEntropy(label_smoothing=v), "[0, 1]", [-0.1, 1.1], [0, 1, 0.5]),
    "StepDecay.lr": (lambda v: schedules.StepDecay(v, 3), "[0, inf)", [-1], [0, 1]),
    "StepDecay.factor": (lambda v: schedules.StepDecay(1, 3, v), "[0, inf)", [-1], [0, 2]),
    "Cosine.lr": (lambda v: schedules.Cosine(v, 3), "[0, inf)", [-1], [0, 1]),
    "Cosine.final": (lambda v: schedules.Cosine(1, 3, 0, v), "[0, inf)", [-1], [0, 1]),
    "InverseScaling.lr": (schedules.InverseScaling, "[0, inf)", [-1], [0, 1]),
    "InverseScaling.power": (
        lambda v: schedules.InverseScaling(1, v), "[0, inf)", [-1], [0, 2]),
}


@pytest.mark.parametrize("name", INTERVALS)
def test_49_numbers_outside_their_interval(name):
    make, interval, outside, inside = INTERVALS[name]
    option = name.split(".")[-1]
    for value in NO_NUMBERS.values():
        with pytest.raises(TypeError, match=f"^{option} must be a number, got "):
            make(value)
    for value in [*NOT_FINITE.values(), *outside]:
        with pytest.raises(ValueError, match=rf"^{option} must be in the interval "
                                             rf"{re.escape(interval)}, got "):
            make(value)
    for value in inside:
        for form in (value, np.float64(value), np.float32(value), np.array(value)):
            make(form)


@pytest.mark.parametrize("interval, inside, outside", [
    ("[0, 1)", [0, -0.0, 0.5, Fraction(1, 4)], [1, -1e-300, np.nan]),
    ("(0, 1]", [1, 1e-300], [0, -0.0, 1.0000001]), ("[0, inf)", [0, 1e308], [np.inf, -1]),
    ("(-inf, inf)", [1e308, -1e308, 2**300], [np.inf, -np.inf, 10**400])])
def test_an_interval_says_what_it_holds(interval, inside, outside):
    for value in inside:
        assert _convert.within(value, "own", interval) == value
        assert type(_convert.within(value, "own", interval)) is float
    for value in outside:
        with pytest.raises(ValueError, match=rf"own must be in the interval {re.escape(interval)}"):
            _convert.within(value, "own", interval)


def test_a_number_far_below_is_called_so():
    for value, shown in [(10**400, "got inf"), (-10**400, "got -inf")]:
        with pytest.raises(ValueError, match=shown):
            _convert.finite(value, "own")


# ---- Whole numbers, True or False, and words -------------------------------------------------

COUNTS = {
    # name: (make, the least)
    "LayerNorm.features": (fn.LayerNorm, 1), "StepDecay.every": (
        lambda v: schedules.StepDecay(1, v), 1),
    "Cosine.steps": (lambda v: schedules.Cosine(1, v), 1),
    "Cosine.warmup": (lambda v: schedules.Cosine(1, 5, v), 0),
    "StepDecay().step": (schedules.StepDecay(1, 3), 0), "Cosine().step": (
        schedules.Cosine(1, 3), 0),
    "InverseScaling().step": (schedules.InverseScaling(1), 0),
    "check_gradients().samples": (
        lambda v: fn.check_gradients(fn.Tanh(), np.ones((2, 3)), samples=v), 1),
}


@pytest.mark.parametrize("name", COUNTS)
def test_49_counts_that_are_none(name):
    make, least = COUNTS[name]
    option = name.split(".")[-1]
    for value in NO_INTS.values():
        with pytest.raises(TypeError, match=f"^{option} must be an int, got "):
            make(value)
    for value in (least - 1, -7, -10**400):
        with pytest.raises(ValueError, match=rf"^{option} must be in the interval \[{least}, inf"):
            make(value)
    for value in (least, np.int8(least + 1), np.array(least)):
        make(value)


@pytest.mark.parametrize("make", [
    fn.SoftmaxCrossEntropy, fn.NegativeLogLikelihood], ids=lambda make: make.__name__)
def test_49_an_ignored_label_that_is_none(make):
    for value in NO_INTS.values():
        if value is not None:
            with pytest.raises(TypeError, match="^ignore_index must be an int, got "):
                make(ignore_index=value)
    for value in (2**63, -2**63 - 1, 10**400):
        with pytest.raises(ValueError, match=r"^ignore_index must be in the interval \[-2\*\*63, "):
            make(ignore_index=value)


def test_49_more_features_than_memory_holds():
    for features in (2**62, 2**70, 10**400):
        with pytest.raises(MemoryError):
            fn.LayerNorm(features)


@pytest.mark.parametrize("name, make", [
    ("affine", lambda v: fn.LayerNorm(3, affine=v)), ("bias", lambda v: fn.LayerNorm(3, bias=v)),
    ("bias", lambda v: fn.Dense(3, 3, v)),
    ("nesterov", lambda v: fn.SGD(0.1, 0.9, v)), ("centered", lambda v: fn.RMSprop(centered=v)),
    ("decay_vectors", lambda v: fn.Adam(decay_vectors=v))],
    ids=["affine", "bias", "Dense.bias", "nesterov", "centered", "decay_vectors"])
def test_49_true_or_false(name, make):
    for value in NO_BOOLS.values():
        with pytest.raises(TypeError, match=f"^{name} must be a bool, got "):
            make(value)
    for value in (True, False, np.True_, np.False_):
        make(value)


@pytest.mark.parametrize("make", [
    lambda v: fn.Dropout(0.5, rng=v), lambda v: fn.Dense(2, 2, rng=v)], ids=["Dropout", "Dense"])
def test_49_sources_of_random_numbers(make):
    for value, error in [(-1, ValueError), (0.5, TypeError), ("1", TypeError), ([0.5], TypeError),
                         (object(), TypeError), (np.array(0.5), TypeError)]:
        with pytest.raises(error, match=r"^rng must be an int in the interval \[0, inf\), a numpy"):
            make(value)
    for value in (0, None, np.random.default_rng(1), np.int64(3), 2**100):
        make(value)


LOSSES = {make.__name__: make for make in (
    fn.SoftmaxCrossEntropy, fn.NegativeLogLikelihood, fn.MeanSquaredError, fn.BinaryCrossEntropy,
    fn.Huber, fn.Poisson)}


@pytest.mark.parametrize("name", LOSSES)
def test_49_reductions(name):
    for value in ("average", "MEAN", "", None, 1, True, b"mean", ["mean"], {}, np.ones(2),
                  np.array(["mean"]), np.array(["mean", "sum"]), object()):
        with pytest.raises(ValueError, match="^reduction must be 'mean', 'sum' or 'none', got "):
            LOSSES[name](value)
    with pytest.raises(AttributeError):
        LOSSES[name]().reduction = "sum"


@pytest.mark.parametrize("loss, options", [
    (fn.Huber(), {"delta": 0.1}),
    (fn.BinaryCrossEntropy(pos_weight=[2, 3]), {"pos_weight": np.ones(2)}),
    (fn.SoftmaxCrossEntropy(weight=[2, 3]),
     {"weight": np.ones(2), "ignore_index": 1, "label_smoothing": 0.1}),
    (fn.NegativeLogLikelihood(weight=[2, 3]), {"weight": np.ones(2), "ignore_index": 1})])
def test_49_options_of_losses_cannot_be_changed(loss, options, tmp_path):
    """A compiled network has read them, and would not notice."""
    net = fn.Sequential([fn.Dense(3, 2, dtype="float64")])
    net.compile("sgd", loss)
    net.save(tmp_path / "net")
    for found in (loss, copy.copy(loss), copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)),
                  copy.deepcopy(net).loss, fn.load(tmp_path / "net").loss):
        assert repr(found) == repr(loss)
        for name, value in options.items():
            with pytest.raises(AttributeError):
                setattr(found, name, value)
            if isinstance(value, np.ndarray):
                with pytest.raises(ValueError, match="read-only"):
                    getattr(found, name)[:] = value
        assert repr(found) == repr(loss)


VECTORS = {
    # name: (value, error, text)
    "number": (3.0, ValueError, r"must be a vector, got shape \(\)"),
    "True": (True, ValueError, r"must be a vector, got shape \(\)"),
    "none": ([], ValueError, r"must be a vector, got shape \(0,\)"),
    "matrix": ([[1, 2]], ValueError, r"must be a vector, got shape \(1, 2\)"),
    "negative": ([1, -1], ValueError, r"\[1\] is -1.0, but weights must be finite and at least 0"),
    "nan": ([np.nan, 1], ValueError, r"\[0\] is nan, but weights must be finite and at least 0"),
    "inf": ([1, np.inf], ValueError, r"\[1\] is inf, but weights must be finite and at least 0"),
    "text": ("abc", ValueError, "must hold real numbers, got dtype <U3"),
    "texts": (["1"], ValueError, "must hold real numbers, got dtype <U1"),
    "complex": ([1j], ValueError, "must hold real numbers, got dtype complex128"),
    "huge": ([10**400], ValueError, "must hold real numbers, got dtype object"),
    "a dict": ({0: 1}, ValueError, "must hold real numbers, got dtype object"),
    "ragged": ([[1], [1, 2]], ValueError, "must be an array of numbers"),
    "masked": (np.ma.ones(2), TypeError, "must be a plain array, got a masked array"),
    "date": (np.array(["2020-01-01"], "M8[D]"), ValueError, "must hold real numbers, got dtype"),
}


OF_CLASSES = pytest.mark.parametrize("make, name", [
    (fn.SoftmaxCrossEntropy, "weight"), (fn.NegativeLogLikelihood, "weight"),
    (fn.BinaryCrossEntropy, "pos_weight")], ids=["softmax", "likelihood", "binary"])


@pytest.mark.parametrize("kind", VECTORS)
@OF_CLASSES
def test_49_weights_of_classes(make, name, kind):
    value, error, text = VECTORS[kind]
    with pytest.raises(error, match=f"^{name} ?{text}"):
        make(**{name: value})


@OF_CLASSES
def test_27_49_weights_that_overflow_in_float32(make, name):
    loss = make(**{name: [1e39, 1]})
    target = [[1, 0]] if name == "pos_weight" else [0]
    with pytest.raises(ValueError, match=rf"^{name}\[0\] is 1e\+39, too large for float32"):
        loss.forward(np.zeros((1, 2), np.float32), target)
    assert np.isfinite(loss.forward(np.zeros((1, 2)), target))


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("name", LOSSES)
def test_06_49_weights_of_samples(name, kind):
    value, error, text = VECTORS[kind]
    text = text.replace("must be a vector, got shape", r"must have shape \(2,\), got")
    loss, y = LOSSES[name](), np.zeros((2, 3), np.float32)
    target = [0, 1] if name in ("SoftmaxCrossEntropy", "NegativeLogLikelihood") else y
    with pytest.raises(error, match=f"^sample_weight ?{text}"):
        loss.forward(y, target, value)
    with pytest.raises(RuntimeError, match="needs a forward before it"):
        loss.backward()


# ---- Layers between dense ones ---------------------------------------------------------------

# Everything with one input of any width.
LAYERS = {
    **{f"activation {name}": make for name, make in activations.NAMES.items()},
    "LayerNorm": lambda: fn.LayerNorm(4), "LayerNorm without weights": lambda: fn.LayerNorm(
        4, affine=False),
    "Dropout": lambda: fn.Dropout(0.5, rng=1), "Dropout of 0": lambda: fn.Dropout(0.0),
    "Scale": lambda: fn.Scale(0.5), "Flatten": fn.Flatten,
    "Dense with an activation": lambda: fn.Dense(4, 4, activation="gelu"),
    "Residual": lambda: fn.Residual([fn.Tanh(), fn.LayerNorm(4)]),
}
OF_ROWS = [name for name in LAYERS
           if "softmax" in name or name.startswith(("LayerNorm", "Dense", "Residual"))]
EACH = pytest.mark.parametrize("name", LAYERS)


def matrix(*shape, dtype=np.float32):
    return np.linspace(0.1, 1, int(np.prod(shape)), dtype=dtype).reshape(shape)


def bits(layer):
    return b"".join(value.tobytes() + gradient.tobytes() for _, value, gradient
                    in layer.parameters())


@EACH
def test_01_layers_of_no_rows(name):
    layer, x = LAYERS[name](), np.empty((0, 4), np.float32)
    assert layer.forward(x).shape == layer.backward(x).shape == (0, 4)
    assert layer.predict(x).shape == (0, 4)


@EACH
def test_02_04_05_layers_and_other_shapes(name):
    layer = LAYERS[name]()
    wrong = {(): 0, (4,): 1, (2, 4, 1): 3} if name in OF_ROWS else {}
    for shape, dimensions in wrong.items():
        with pytest.raises(ValueError, match=f"must have 2 dimensions, got {dimensions}"):
            layer.forward(matrix(*shape))
    if name.startswith(("LayerNorm", "Dense")):
        with pytest.raises(ValueError, match="X must have 4 features, got 5"):
            layer.forward(matrix(2, 5))
    with pytest.raises(RuntimeError, match="needs a forward before it"):
        layer.backward(matrix(2, 4))
    layer.forward(matrix(3, 4))
    before = bits(layer)
    for shape in ((2, 4), (3, 5), (3,), (3, 4, 1), ()):
        with pytest.raises(ValueError, match="dY must have|dZ must have"):
            layer.backward(matrix(*shape))
    assert bits(layer) == before
    assert layer.backward(matrix(3, 4)).shape == (3, 4)


# What no layer takes, whether as an input or as a gradient.
class Foreign:
    """An array of another library: what `__array__` gives, or raises."""

    def __init__(self, given):
        self.given = given

    def __array__(self, dtype=None, copy=None):
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


REFUSED = {
    "13 complex": (matrix(2, 4) + 0j, ValueError, "must hold real numbers, got dtype complex64"),
    "15 text": (np.array([["1"] * 4] * 2), ValueError, "must hold real numbers, got dtype <U1"),
    "15 objects": (np.array([[1, None, 2, 3]] * 2), ValueError,
                   "must hold real numbers, got dtype object"),
    "15 ragged": ([[1, 2, 3, 4], [1]], ValueError, "must be an array of numbers"),
    "21 masked": (np.ma.array(matrix(2, 4)), TypeError, "must be a plain array, got a masked arr"),
    "21 masked rows in a list": (
        [np.ma.array([1.0, 2, 3, 4], mask=[0, 1, 0, 0])] * 2, TypeError,
        "must be a plain array, got a masked arr"),
    "21 a masked entry in lists": (
        [[1.0, 2, 3, np.ma.masked]] * 2, TypeError, "must be a plain array, got a masked arr"),
    "21 masked behind __array__": (
        Foreign(np.ma.array(matrix(2, 4))), TypeError, "must be a plain array, got a masked arr"),
    "26 None": (None, TypeError, "must be an array, got None"),
    "26 a tensor that wants a gradient": (
        Foreign(RuntimeError("use detach()")), TypeError,
        r"must be an array, .* a Foreign came \(use detach\(\)\); convert it first"),
    "26 a tensor of another type": (
        Foreign(TypeError("bfloat16")), TypeError, "must be an array, .* a Foreign came"),
}


@pytest.mark.parametrize("kind", REFUSED)
@EACH
def test_13_to_26_what_no_layer_takes(name, kind):
    layer, (value, error, text) = LAYERS[name](), REFUSED[kind]
    for door in (layer.forward, layer.predict):
        with pytest.raises(error, match=f"^X {text}"):
            door(value)
    y = layer.forward(matrix(2, 4))
    before = bits(layer)
    with pytest.raises(error, match=f"^dY {text}"):
        layer.backward(value)
    assert bits(layer) == before and layer.backward(y).shape == (2, 4)


@EACH
def test_27_float64_that_overflows_as_a_gradient(name):
    layer = LAYERS[name]()
    layer.forward(matrix(2, 4))
    with pytest.raises(ValueError, match=r"^dY\[1, 0\] is 1e\+39, too large for float32"):
        layer.backward(np.array([[1.0] * 4, [1e39] * 4]))


FORMS = {
    "10 float64": lambda x: x.astype(np.float64), "11 float16": lambda x: x.astype(np.float16),
    "12 int8": lambda x: x.astype(np.int8), "12 bool": lambda x: x.astype(bool),
    "14 byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "16 Fortran order": np.asfortranarray, "17 negative strides": lambda x: x[::-1].copy()[::-1],
    "18 column slice": lambda x: np.repeat(x, 2, 1)[:, ::2], "25 list": lambda x: x.tolist(),
}


@pytest.mark.parametrize("kind", FORMS)
@EACH
def test_10_to_25_layers_convert_what_is_harmless(name, kind, rng):
    x, dy = rng.integers(0, 2, (2, 6, 4)).astype(np.float32)
    layer, form = LAYERS[name](), FORMS[kind]
    # Dropout drops by what it has seen.
    seen = layer._seen if isinstance(layer, fn.Dropout) else np.zeros(1, np.uint64)
    y, dx = layer.forward(x), layer.backward(dy)
    seen[0] = 0
    np.testing.assert_allclose(layer.forward(form(x)), y, rtol=0, atol=1e-6)
    np.testing.assert_allclose(layer.backward(form(dy)), dx, rtol=0, atol=1e-5)
    x.flags.writeable = dy.flags.writeable = False                      # 19
    seen[0] = 0
    assert np.array_equal(layer.forward(x), y) and np.array_equal(layer.backward(dy), dx)


@EACH
def test_37_layers_pass_nan_on(name):
    layer, x = LAYERS[name](), matrix(3, 4)
    x[1, 2] = np.nan
    if name.startswith("Dropout"):
        layer = fn.Dropout(0.0)
    y = layer.forward(x)
    assert np.isnan(y[1]).any() and np.isfinite(y[[0, 2]]).all()


@EACH
def test_19_44_outputs_of_layers_that_cannot_be_written(name):
    layer, x = LAYERS[name](), matrix(4, 4)
    kept = x.copy()
    read_only = np.empty((4, 4), np.float32)
    read_only.flags.writeable = False
    bad = [(x, ValueError, "overlap"), (read_only, ValueError, "is read-only"),
           (np.empty((4, 4)), ValueError, "must be float32"),
           (np.empty((3, 4), np.float32), ValueError, "must have shape"),
           (np.empty((4, 4), np.float32).T, ValueError, "must be C-contiguous"),
           ([[0] * 4] * 4, TypeError, "must be a numpy.ndarray, got list")]
    for out, error, text in bad:
        with pytest.raises(error, match=text):
            layer.forward(x, out=out)
    for out, error, text in bad:
        layer.forward(x)
        before = bits(layer)
        with pytest.raises(error, match=text):
            layer.backward(x, out=out)
        assert bits(layer) == before
        layer.backward(x)                   # nothing was used up
    assert np.array_equal(x, kept)


@EACH
def test_45_46_layers_go_backward_once(name):
    layer, x = LAYERS[name](), matrix(2, 4)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="needs a forward before it"):
            layer.backward(x)
        layer.forward(x)
        layer.predict(x)
        layer.backward(x)


@EACH
def test_47_what_a_caller_holds_never_changes(name, rng):
    layer = LAYERS[name]()
    x, dy = rng.normal(size=(2, 5, 4)).astype(np.float32)
    y = layer.forward(x)
    dx = layer.backward(dy)
    kept = y.tobytes(), dx.tobytes()
    layer.forward(dy)
    layer.backward(x)
    layer.predict(dy)
    assert (y.tobytes(), dx.tobytes()) == kept


@pytest.mark.parametrize("kind", [*_ops.ACTIVATIONS, "another"])
def test_20_49_functions_of_activations(kind):
    x = matrix(2, 4)
    if kind == "another":
        with pytest.raises(KeyError):
            _ops.activation_forward(x, kind)
        return
    y = _ops.activation_forward(x, kind, 0.5)
    for bad, error in [(x.tolist(), TypeError), (None, TypeError), (x.T, ValueError),
                       (x.astype(int), ValueError), (x.astype(np.float16), ValueError)]:
        with pytest.raises(error, match="^X must be"):
            _ops.activation_forward(bad, kind, 0.5)
        with pytest.raises(error, match="must be|must have"):
            _ops.activation_backward(x, y, bad, kind, 0.5)
        with pytest.raises(error, match="must be|must have"):
            _ops.activation_backward(x, bad, x, kind, 0.5)
    with pytest.raises(ValueError, match="must not overlap X"):
        _ops.activation_forward(x, kind, 0.5, x)


def test_49_names_of_activations():
    for value in ("no name", "", "RELU"):
        with pytest.raises(ValueError, match="^activation must be one of 'identity', 'relu', "):
            fn.Dense(2, 2, activation=value)
    for value in (3, True, np.nan, b"relu", ["relu"], fn.ReLU, np.tanh, object()):
        with pytest.raises(TypeError, match="^activation must be a name or a layer, got "):
            fn.Dense(2, 2, activation=value)
    with pytest.raises(ValueError, match="^activation must be a layer without parameters, got "):
        fn.Dense(2, 2, activation=fn.LayerNorm(2))
    with pytest.raises(TypeError, match="^activation must take one input, got "):
        fn.Dense(2, 2, activation=fn.Add())
    for value in ("no name", None, 3, True, b"tanh", ["tanh"], np.array(["tanh"]), np.ones(2)):
        with pytest.raises(ValueError, match="^approximate must be 'none' or 'tanh', got "):
            fn.GELU(value)


# ---- Optimizers and schedules ----------------------------------------------------------------

RATES = {
    # name: (make, interval, values outside, values within, whether None is one)
    "lr": (fn.SGD, r"\[0, inf\)", [-1], [0, 1], False),
    "momentum": (lambda v: fn.SGD(0.1, v), r"\[0, 1\)", [-0.1, 1, 2], [0, 0.9], False),
    "momentum of RMSprop": (
        lambda v: fn.RMSprop(momentum=v), r"\[0, 1\)", [-0.1, 1, 2], [0, 0.9], False),
    "alpha": (lambda v: fn.RMSprop(alpha=v), r"\[0, 1\)", [-0.1, 1, 2], [0, 0.9], False),
    "beta1": (lambda v: fn.Adam(betas=(v, 0.9)), r"\[0, 1\)", [-0.1, 1, 2], [0, 0.9], False),
    "beta2": (lambda v: fn.AdamW(betas=(0.9, v)), r"\[0, 1\)", [-0.1, 1, 2], [0, 0.9], False),
    "eps": (lambda v: fn.Adam(eps=v), r"\(0, inf\)", [0, -0.0, -1], [1e-12, 1], False),
    "eps of RMSprop": (lambda v: fn.RMSprop(eps=v), r"\(0, inf\)", [0, -1], [1e-12, 1], False),
    "weight_decay": (lambda v: fn.SGD(0.1, weight_decay=v), r"\[0, inf\)", [-1], [0, 1], False),
    "weight_decay of AdamW": (lambda v: fn.AdamW(weight_decay=v), r"\[0, inf\)", [-1], [0, 1],
                              False),
    "clip_norm": (lambda v: fn.Adam(clip_norm=v), r"\(0, inf\)", [0, -1], [1e-3, 1], True),
    "clip_value": (lambda v: fn.RMSprop(clip_value=v), r"\(0, inf\)", [0, -1], [1e-3, 1], True),
}


@pytest.mark.parametrize("name", RATES)
def test_49_numbers_of_optimizers(name):
    make, interval, outside, inside, optional = RATES[name]
    option = name.split()[0]
    for value in NO_NUMBERS.values():
        if value is None and optional:
            make(value)
            continue
        with pytest.raises(TypeError, match=f"^{option} must be a number, got "):
            make(value)
    for value in outside:
        with pytest.raises(ValueError, match=f"^{option} must be in the interval {interval}, got "):
            make(value)
    for value in NOT_FINITE.values():
        with pytest.raises(ValueError, match=f"^{option} must be in the interval {interval}, got "):
            make(value)
    for value in inside:
        make(value)


def test_49_pairs_of_betas():
    for value in (0.9, None, "0.9", (0.9,), (0.9, 0.99, 0.999), {}, True, np.nan, object()):
        with pytest.raises(TypeError, match="^betas must be a pair of numbers, got "):
            fn.Adam(betas=value)


def test_49_schedules_that_are_none():
    """Asked once where they are given, and again for each step."""
    for value, error, text in [
            (lambda step: np.nan, ValueError, r"must be in the interval \[0, inf\), got nan"),
            (lambda step: -1, ValueError, r"must be in the interval \[0, inf\), got -1.0"),
            (lambda step: None, TypeError, "must be a number, got None"),
            (lambda step: "0.1", TypeError, "must be a number, got '0.1'"),
            (lambda step: True, TypeError, "must be a number, got True"),
            (lambda step: 0.1j, TypeError, "must be a number, got 0.1j")]:
        with pytest.raises(error, match=f"^lr of step 0 {text}"):
            fn.SGD(value)
    with pytest.raises(ValueError, match="^warmup must be less than steps, 5, got 5"):
        schedules.Cosine(1, 5, 5)


def test_49_rates_that_grow_beyond_every_number():
    """Refused when their step comes, by its number."""
    grows = schedules.StepDecay(1.0, every=1, factor=2.0)
    assert grows(1000) == 2.0**1000 and grows(2000) == np.inf and grows(10**400) == np.inf
    sgd = fn.SGD(grows)
    sgd.steps = 2000
    layer = fn.Dense(2, 2)
    before = bits(layer)
    with pytest.raises(ValueError, match="^lr of step 2000 must be in the interval"):
        sgd.step([layer])
    assert bits(layer) == before
    assert schedules.StepDecay(0.0, every=1, factor=2.0)(2000) == 0
    assert schedules.StepDecay(0.5, every=1, factor=1.0)(10**400) == 0.5
    assert schedules.StepDecay(0.5, every=1, factor=0.5)(10**400) == 0
    assert schedules.InverseScaling(1.0, power=400)(10) == 0
    assert schedules.InverseScaling(0.5, power=0)(10**400) == 0.5
    assert schedules.Cosine(1.0, 10, final=0.25)(10**400) == 0.25


def test_steps_of_schedules_may_be_numpys():
    for schedule in (schedules.StepDecay(0.8, 3, 0.5), schedules.Cosine(1.0, 10, 2, 0.2),
                     schedules.InverseScaling(0.6)):
        for step in range(12):
            found = schedule(np.int32(step))
            assert found == schedule(step) and type(found) is float


# ---- check_gradients -------------------------------------------------------------------------

def test_49_arguments_of_check_gradients():
    x = np.ones((2, 3))
    for option in ("step", "tolerance"):
        for value in NO_NUMBERS.values():
            with pytest.raises(TypeError, match=f"^{option} must be a number, got "):
                fn.check_gradients(fn.Tanh(), x, **{option: value})
        for value in [*NOT_FINITE.values(), 0, -0.0, -1]:
            with pytest.raises(ValueError, match=rf"^{option} must be in the interval \(0, inf\)"):
                fn.check_gradients(fn.Tanh(), x, **{option: value})
    for value, error, text in [
            (None, TypeError, "must be an array, got None"), ("0.5", ValueError, "must hold real"),
            (x * 1j, ValueError, "must hold real"), (10**400, ValueError, "must hold real"),
            (np.ma.ones(3), TypeError, "must be a plain array"), ({}, ValueError, "must hold")]:
        with pytest.raises(error, match=f"^x {text}"):
            fn.check_gradients(fn.Tanh(), value)
    for value in (3, None, "tanh", fn.Tanh, x, object()):
        with pytest.raises(TypeError, match="^layer must have forward, backward and parameters, "):
            fn.check_gradients(value, x)
    with pytest.raises(ValueError, match="^weight must be float64 to be checked, got float32"):
        fn.check_gradients(fn.LayerNorm(3), x)
    with pytest.raises(ValueError, match="finite numbers"):
        fn.check_gradients(fn.Tanh(), x * np.nan)
    for value, error in [(-1, ValueError), (0.5, TypeError), ("1", TypeError)]:
        with pytest.raises(error, match=r"^rng must be an int in the interval \[0, inf\), a numpy"):
            fn.check_gradients(fn.Tanh(), x, rng=value)
