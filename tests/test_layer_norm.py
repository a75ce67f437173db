"""Layer normalization: kernel and layer against the reference, float64 and central differences.

Tolerances are error bounds. Sums are double, whatever the dtype, and off by at most `width` times
the unit of double, and so is the mean; then there are a few roundings of each number.
"""

import copy
import pickle

import numpy as np
import pytest

import fastnet as fn
from fastnet import _ops, reference

SIZES = [*range(1, 41), 67, 101]
WIDTHS = [1, 2, 7, 16, 33, 100, 1000]
DOUBLE = np.finfo(np.float64).eps


def draw(rng, dtype, *shape):
    return rng.normal(size=shape).astype(dtype)


class Exact:
    """What the formula gives in float64, or in what the arrays are, and how far off it may be."""

    def __init__(self, X, weight, bias, dY, eps=1e-5):
        unit, width = np.finfo(X.dtype).eps, X.shape[1]
        sums, sums_of_rows = width * DOUBLE, len(X) * DOUBLE
        x, dy = X.astype(np.longdouble), dY.astype(np.longdouble)
        w = np.ones(width) if weight is None else weight.astype(np.longdouble)
        b = np.zeros(width) if bias is None else bias.astype(np.longdouble)

        def mean(values):
            return values.mean(1, keepdims=True)

        factor = 1 / np.sqrt(mean((x - mean(x)) ** 2) + eps)
        h = (x - mean(x)) * factor
        self.Y = w * h + b
        # The mean is taken off in two parts, of which the second is unit / 2 of it at most.
        off_h = (factor * (unit**2 / 2 * np.abs(mean(x)) + sums * mean(np.abs(x)))
                 + 2 * (unit + sums) * np.abs(h))
        self.off_Y = np.abs(w) * off_h + unit * (np.abs(w * h) + np.abs(self.Y))

        g = w * dy
        inner = mean(g * h)
        self.dX = (g - mean(g) - h * inner) * factor
        off_inner = mean(np.abs(g) * off_h) + (2 * unit + sums) * mean(np.abs(g * h))
        self.off_dX = factor * (
            3 * unit * (np.abs(g) + np.abs(h * inner)) + (3 * unit + sums) * mean(np.abs(g))
            + off_h * np.abs(inner) + np.abs(h) * off_inner) + 2 * (unit + sums) * np.abs(self.dX)

        self.dweight, self.dbias = (dy * h).sum(0), dy.sum(0)
        self.off_dweight = ((np.abs(dy) * (off_h + (unit + sums_of_rows) * np.abs(h))).sum(0)
                            + unit * np.abs(self.dweight))
        self.off_dbias = sums_of_rows * np.abs(dy).sum(0) + unit * np.abs(self.dbias)

    def assert_close(self, **found):
        """Each within its bound, or of doubles twice that, as what is exact here can be one too."""
        for name, values in found.items():
            times = 2 if values.dtype == np.float64 else 1
            expected, bound = getattr(self, name), times * getattr(self, f"off_{name}")
            assert values.shape == expected.shape
            error = np.abs(values - expected)
            assert np.all(error <= bound), (name, np.max(error / bound))


def run(X, weight, bias, dY, eps=1e-5):
    """All results of both kernels, by name. Outputs start as NaN."""
    Y, stats = _ops.layer_norm_forward(X, weight, bias, eps)
    dweight, dbias = np.full((2, X.shape[1]), np.nan, X.dtype)
    dX = _ops.layer_norm_backward(X, weight, stats, dY, None, dweight, dbias)
    return {"Y": Y, "dX": dX, "dweight": dweight, "dbias": dbias}


def forms(rng, dtype, width):
    """Weight and bias, or fewer of them."""
    return [(draw(rng, dtype, width), draw(rng, dtype, width)), (draw(rng, dtype, width), None),
            (None, draw(rng, dtype, width)), (None, None)]


# ---- The reference, and the formula in NumPy -------------------------------------------------

@pytest.mark.parametrize("size", SIZES)
def test_layer_norm_agrees_with_the_reference(size, dtype, rng):
    for shape in (3, size), (size, 4):
        X, dY = 1 + 2 * draw(rng, dtype, *shape), draw(rng, dtype, *shape)
        for weight, bias in forms(rng, dtype, shape[1]):
            exact = Exact(X, weight, bias, dY)
            lists = [None if array is None else array.tolist() for array in (X, weight, bias, dY)]
            exact.Y = np.array(reference.layer_norm_forward(*lists[:3]))
            exact.dX, exact.dweight, exact.dbias = map(
                np.array, reference.layer_norm_backward(lists[0], lists[1], lists[3]))
            exact.assert_close(**run(X, weight, bias, dY))


@pytest.mark.parametrize("width", [*range(1, 35), 64, 67, 1000, 4099])
def test_layer_norm_at_every_width_and_batch(width, dtype, rng):
    """Sums of columns are taken in bands of some thousand."""
    for n in [*range(1, 20), 67] if width < 1000 else [1, 3, 5]:
        X, dY = 1 + 2 * draw(rng, dtype, n, width), draw(rng, dtype, n, width)
        for weight, bias in forms(rng, dtype, width)[:: 3]:
            Exact(X, weight, bias, dY).assert_close(**run(X, weight, bias, dY))


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.1, 3.0])
def test_eps_is_added_to_the_variance(eps, dtype, rng):
    X, dY = 0.01 * draw(rng, dtype, 5, 7), draw(rng, dtype, 5, 7)
    Exact(X, None, None, dY, eps).assert_close(**run(X, None, None, dY, eps))
    Y, _ = _ops.layer_norm_forward(X, eps=eps)
    expected = reference.layer_norm_forward(X.tolist(), eps=eps)
    np.testing.assert_allclose(Y, expected, rtol=0, atol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("offset", [0.0, -1e2, 1e4, -1e6, 3e6, 1e7])
def test_a_large_offset_costs_nothing(offset, dtype, rng):
    """A variance by the mean of squares would have nothing left of it in float32, and little here;
    a mean that is rounded to float32 would leave a share of the offset in every entry.

    Rows vary by 1 around an offset. Their mean is taken in double, so it is off by `width` times
    the unit of double, times the offset.
    """
    unit = np.finfo(dtype).eps
    for width in (7, 16, 1000):
        X, dY = (offset + draw(rng, dtype, 5, width)).astype(dtype), draw(rng, dtype, 5, width)
        for weight, bias in forms(rng, dtype, width)[:: 3]:
            Exact(X, weight, bias, dY).assert_close(**run(X, weight, bias, dY))
        Y, stats = _ops.layer_norm_forward(X)
        x = X.astype(np.longdouble)
        expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        allowed = 2 * unit * np.abs(expected).max() + 2 * width * DOUBLE * (1 + abs(offset))
        assert np.abs(Y - expected).max() <= allowed
        assert np.abs(Y.mean(1, dtype=np.float64)).max() <= allowed
        np.testing.assert_allclose(stats[:, 0], x.mean(1).astype(float),
                                   rtol=width * DOUBLE, atol=width * DOUBLE)
        np.testing.assert_allclose(stats[:, 1], (1 / np.sqrt(x.var(1) + 1e-5)).astype(float),
                                   rtol=1e-9)


def test_a_large_offset_is_as_exact_as_pytorch_and_more(rng):
    """In float32, against float64."""
    torch = pytest.importorskip("torch")
    for offset in (0.0, 1e2, 1e4, 1e6):
        X, dY = (offset + draw(rng, "float32", 64, 100)).astype(np.float32), draw(
            rng, "float32", 64, 100)
        weight = draw(rng, "float32", 100)

        def by_torch(dtype, X=X, dY=dY, weight=weight):
            x, w = (torch.tensor(array, dtype=dtype, requires_grad=True) for array in (X, weight))
            y = torch.nn.functional.layer_norm(x, (100,), w)
            y.backward(torch.tensor(dY, dtype=dtype))
            return {"Y": y.detach().numpy(), "dX": x.grad.numpy(), "dweight": w.grad.numpy()}

        expected, rival = by_torch(torch.float64), by_torch(torch.float32)
        found = run(X, weight, None, dY)
        for name, exact in expected.items():
            worst = np.abs(found[name] - exact).max()
            assert worst <= 2 * np.abs(rival[name] - exact).max(), name
            assert worst <= 1e-5 or offset > 1e2


def test_stats_are_mean_and_inverse_deviation_in_float64(dtype):
    X = np.array([[1, 3, 5, 7], [-2, -2, -2, -2]], dtype)
    Y, stats = _ops.layer_norm_forward(X, eps=4.0)
    assert stats.dtype == np.float64
    assert stats.tolist() == [[4, 1 / 3], [-2, 0.5]]
    assert np.array_equal(Y, np.array([[-1, -1 / 3, 1 / 3, 1], [0, 0, 0, 0]]).astype(dtype))


def test_rows_have_mean_0_and_variance_1(dtype, rng):
    """Variance, less the share of eps in it; sums of 1000, and each number rounded a few times."""
    X = 3 + 5 * draw(rng, dtype, 9, 1000)
    Y = _ops.layer_norm_forward(X)[0].astype(np.float64)
    unit = np.finfo(dtype).eps
    assert np.abs(Y.mean(1)).max() <= unit + 1000 * DOUBLE
    expected = 1 - 1e-5 / (X.astype(np.float64).var(1) + 1e-5)
    np.testing.assert_allclose(Y.var(1), expected, rtol=8 * unit)


def test_a_rows_result_does_not_depend_on_the_batch(dtype, rng):
    X, dY = draw(rng, dtype, 20, 37), draw(rng, dtype, 20, 37)
    weight, bias = forms(rng, dtype, 37)[0]
    whole = run(X, weight, bias, dY)
    for i in range(20):
        alone = run(X[i:i + 1], weight, bias, dY[i:i + 1])
        assert np.array_equal(alone["Y"], whole["Y"][i:i + 1])
        assert np.array_equal(alone["dX"], whole["dX"][i:i + 1])


def test_long_sums_are_taken_in_double():
    """2 ** 24 + 1 is no float32: a float32 sum of ones would stop at 2 ** 24."""
    n = 2**24 + 8
    X = np.ones((1, n), np.float32)
    _, stats = _ops.layer_norm_forward(X)
    assert stats[0, 0] == 1
    rows, dbias = X.reshape(n, 1), np.empty(1, np.float32)
    _ops.layer_norm_backward(rows, None, np.zeros((n, 2)), rows, None, None, dbias, False)
    assert dbias[0] == n


# ---- Edges -----------------------------------------------------------------------------------

def test_a_single_column_gives_the_bias_and_passes_no_gradient(dtype, rng):
    """But for the rounding of weight * dY, where only one of two equal products is rounded."""
    X, dY = draw(rng, dtype, 5, 1), draw(rng, dtype, 5, 1)
    found = run(X, np.full(1, 3, dtype), np.full(1, 0.5, dtype), dY)
    assert (found["Y"] == 0.5).all() and not found["dweight"].any()
    rounding = np.finfo(dtype).eps / 2 * 3 * np.abs(dY) / np.sqrt(1e-5)
    assert np.all(np.abs(found["dX"]) <= 1.01 * rounding)
    np.testing.assert_allclose(found["dbias"], dY.sum(0), rtol=4 * np.finfo(dtype).eps)


def test_no_rows(dtype):
    X = np.empty((0, 5), dtype)
    found = run(X, np.ones(5, dtype), None, X)
    assert found["Y"].shape == found["dX"].shape == (0, 5)
    assert not found["dweight"].any() and not found["dbias"].any()


def test_a_constant_row_is_zero_with_eps_and_nan_without(dtype):
    X = np.full((2, 7), 3, dtype)
    assert not _ops.layer_norm_forward(X)[0].any()
    assert np.isnan(_ops.layer_norm_forward(X, eps=0.0)[0]).all()
    assert np.isnan(reference.layer_norm_forward(X.tolist(), eps=0.0)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (5, 3), (17, 33)], ids=str)
def test_what_is_not_finite_spoils_its_row(shape, value, dtype, rng):
    X, dY, i = draw(rng, dtype, *shape), draw(rng, dtype, *shape), rng.integers(shape[0])
    X[i, rng.integers(shape[1])] = value
    assert np.isnan(reference.layer_norm_forward(X.tolist())[i]).all()
    found = run(X, None, None, dY)
    for name in ("Y", "dX"):
        assert np.isnan(found[name][i]).all()
        assert np.isfinite(np.delete(found[name], i, 0)).all()
    assert np.isnan(found["dweight"]).all() and np.isfinite(found["dbias"]).all()


def test_a_row_too_far_apart_is_nan_and_not_constant(dtype):
    far = 1e37 if dtype == np.float32 else 1e150
    for factor, fits in ((1, True), (30 if dtype == np.float32 else 1e5, False)):
        x = np.array([[far, -far, 0, 0]], dtype) * dtype.type(factor)
        layer = fn.LayerNorm(4, dtype=dtype)
        y = layer.forward(np.vstack([x, np.ones_like(x)]))
        assert np.isnan(y[0]).all() != fits and not y[1].any()
        if fits:
            np.testing.assert_allclose(y[0], [2**0.5, -(2**0.5), 0, 0], rtol=1e-6)
            assert np.isfinite(layer.backward(np.ones_like(y))).all()


def test_a_subnormal_argument_counts_as_zero(dtype):
    tiny = np.finfo(dtype).tiny
    X = np.array([[1, 0.5, 0.25, 0]]).astype(dtype) * tiny / 2
    Y, stats = _ops.layer_norm_forward(X, eps=float(tiny))
    assert not Y.any() and stats[0, 0] == 0
    Y, _ = _ops.layer_norm_forward(np.array([[4, 0]], dtype), np.full(2, tiny / 2, dtype))
    assert not Y.any()


# ---- Parts, and outputs ----------------------------------------------------------------------

def test_parts_of_the_backward_can_be_left_out(dtype, rng):
    X, dY, weight = draw(rng, dtype, 9, 7), draw(rng, dtype, 9, 7), draw(rng, dtype, 7)
    _, stats = _ops.layer_norm_forward(X, weight)
    whole = run(X, weight, None, dY)
    assert np.array_equal(_ops.layer_norm_backward(X, weight, stats, dY), whole["dX"])
    for name in ("dweight", "dbias"):
        part = np.full(7, np.nan, dtype)
        assert _ops.layer_norm_backward(
            X, weight, stats, dY, **{name: part}, input_gradient=False) is None
        assert np.array_equal(part, whole[name])
    with pytest.raises(ValueError, match="dX is given, but input_gradient is False"):
        _ops.layer_norm_backward(X, weight, stats, dY, np.empty_like(X), input_gradient=False)


def test_gradients_are_overwritten_unless_they_are_to_be_added_to(dtype, rng):
    """The old number joins the sum in double: one rounding at the end."""
    X, dY, weight = draw(rng, dtype, 9, 7), draw(rng, dtype, 9, 7), draw(rng, dtype, 7)
    _, stats = _ops.layer_norm_forward(X, weight)
    whole = run(X, weight, None, dY)
    old = draw(rng, dtype, 2, 7)
    dweight, dbias = old.copy()
    dX = _ops.layer_norm_backward(X, weight, stats, dY, None, dweight, dbias, add=True)
    assert np.array_equal(dX, whole["dX"])
    for found, before, part in zip((dweight, dbias), old, (whole["dweight"], whole["dbias"]),
                                   strict=True):
        np.testing.assert_allclose(found, before.astype(np.float64) + part, rtol=0,
                                   atol=2 * np.finfo(dtype).eps * np.abs(part).max())
    _ops.layer_norm_backward(X, weight, stats, dY, None, dweight, dbias)
    assert np.array_equal(dweight, whole["dweight"]) and np.array_equal(dbias, whole["dbias"])


def test_outputs_are_written_to_and_returned(dtype, rng):
    X, weight, bias = draw(rng, dtype, 5, 7), draw(rng, dtype, 7), draw(rng, dtype, 7)
    Y, stats, dX = np.full_like(X, np.nan), np.full((5, 2), np.nan), np.full_like(X, np.nan)
    found = _ops.layer_norm_forward(X, weight, bias, 1e-5, Y, stats)
    assert found[0] is Y and found[1] is stats
    assert _ops.layer_norm_backward(X, weight, stats, X, dX) is dX
    expected = run(X, weight, bias, X)
    assert np.array_equal(Y, expected["Y"]) and np.array_equal(dX, expected["dX"])


def test_outputs_that_overlap_are_refused(dtype):
    X, dY, stats = np.ones((7, 7), dtype), np.ones((7, 7), dtype), np.ones((7, 2))
    weight, bias = np.ones(7, dtype), np.ones(7, dtype)
    memory = np.zeros(500)                  # of doubles, for outputs that lie in one another
    inner = memory.view(dtype)[:49].reshape(7, 7)
    for arguments, match in [
            ((X, weight, bias, 1e-5, X), "Y must not overlap X"),
            ((dY[:1], X[0], None, 1e-5, X[:1]), "Y must not overlap weight"),
            ((dY[:1], None, X[0], 1e-5, X[:1]), "Y must not overlap bias"),
            ((X, weight, bias, 1e-5, inner, memory[:14].reshape(7, 2)),
             "stats must not overlap Y")]:
        with pytest.raises(ValueError, match=match):
            _ops.layer_norm_forward(*arguments)
    for outputs, match in [
            ({"dX": X}, "dX must not overlap X"), ({"dX": dY}, "dX must not overlap dY"),
            ({"dweight": weight}, "dweight must not overlap weight"),
            ({"dweight": X[0]}, "dweight must not overlap X"),
            ({"dbias": dY[3]}, "dbias must not overlap dY"),
            ({"dweight": bias, "dbias": bias}, "dweight must not overlap dbias"),
            ({"dX": inner, "dbias": inner[6]}, "dX must not overlap dbias")]:
        with pytest.raises(ValueError, match=match):
            _ops.layer_norm_backward(X, weight, stats, dY, **outputs)
    if dtype == np.float64:
        with pytest.raises(ValueError, match="dbias must not overlap stats"):
            _ops.layer_norm_backward(X, weight, stats, dY, dbias=stats.reshape(14)[:7])
    assert (X == 1).all() and (dY == 1).all() and (weight == 1).all() and (bias == 1).all()


def test_arrays_of_other_shapes_and_types_are_refused(dtype):
    X, weight = np.ones((5, 7), dtype), np.ones(7, dtype)
    other = np.float32 if dtype == np.float64 else np.float64
    for arguments, match in [
            ((X[0],), "X must have 2 dimensions"),
            ((np.empty((5, 0), dtype),), "X must have at least 1 column"),
            ((X, weight[:6]), r"weight must have shape \(7,\), got \(6,\)"),
            ((X, weight, X), "bias must have 1 dimension"),
            ((X, weight.astype(other)), f"weight must be {dtype}"),
            ((X, None, None, 1e-5, X[:4]), r"Y must have shape \(5, 7\), got \(4, 7\)"),
            ((X, None, None, 1e-5, None, np.ones((5, 3))), r"stats must have shape \(5, 2\)"),
            ((X, None, None, 1e-5, None, np.ones((5, 2), np.float32)), "stats must be float64")]:
        with pytest.raises(ValueError, match=match):
            _ops.layer_norm_forward(*arguments)
    stats = np.ones((5, 2))
    for arguments, match in [
            ((X, weight, stats[:4], X), r"stats must have shape \(5, 2\), got \(4, 2\)"),
            ((X, weight, stats.astype(np.float32), X), "stats must be float64"),
            ((X, weight, stats, X[:4]), r"dY must have shape \(5, 7\), got \(4, 7\)"),
            ((X, weight, stats, X, None, weight[:6]), r"dweight must have shape \(7,\)"),
            ((X, weight, stats, X, None, None, weight[:6]), r"dbias must have shape \(7,\)")]:
        with pytest.raises(ValueError, match=match):
            _ops.layer_norm_backward(*arguments)
    with pytest.raises(TypeError, match="stats must be a numpy.ndarray, got None"):
        _ops.layer_norm_backward(X, weight, None, X)


# ---- Central differences ---------------------------------------------------------------------

def assert_is_derivative(gradient, loss, array, h=1e-5):
    """A central difference is off by h^2 = 1e-10 times a third derivative, and by the rounding of
    the loss, a sum of many terms, divided by h."""
    difference = np.empty_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + h
        above = loss()
        array[index] = value - h
        below = loss()
        array[index] = value
        difference[index] = (above - below) / (2 * h)
    allowed = 2e-8 + 20 * DOUBLE * abs(loss()) / h
    np.testing.assert_allclose(gradient, difference, rtol=0, atol=allowed)


@pytest.mark.parametrize("n, width", [(1, 7), (5, 1), (5, 2), (4, 7), (3, 16), (2, 1000)])
def test_layer_norm_backward_is_the_derivative(n, width, rng):
    for weight, bias in forms(rng, np.float64, width)[:: 3]:
        X, R = 1 + 2 * rng.normal(size=(n, width)), rng.normal(size=(n, width))
        found = run(X, weight, bias, R)

        def loss(X=X, R=R, weight=weight, bias=bias):
            return float(np.sum(R * _ops.layer_norm_forward(X, weight, bias, 0.1)[0]))

        found = run(X, weight, bias, R, 0.1)
        assert_is_derivative(found["dX"], loss, X)
        if weight is not None:
            assert_is_derivative(found["dweight"], loss, weight)
            assert_is_derivative(found["dbias"], loss, bias)


# ---- The layer -------------------------------------------------------------------------------

def make_layer(rng, dtype, features=7, **options):
    layer = fn.LayerNorm(features, dtype=dtype, **options)
    for _, value, _ in layer.parameters():
        value[...] = rng.normal(size=value.shape)
    return layer


@pytest.mark.parametrize("options", [
    {}, {"bias": False}, {"affine": False}, {"eps": 0.5}], ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_layer_gives_what_the_kernels_give(width, options, dtype, rng):
    layer = make_layer(rng, dtype, width, **options)
    x, dy = draw(rng, dtype, 6, width), draw(rng, dtype, 6, width)
    kept = x.copy(), dy.copy()
    found = run(x, layer.weight, layer.bias, dy, layer.eps)
    for times in range(2):                                  # gradients are overwritten
        y = np.full_like(x, np.nan) if times else None
        dx = np.full_like(x, np.nan) if times else None
        y, dx = layer.forward(x, out=y), layer.backward(dy, out=dx)
        assert np.array_equal(y, found["Y"]) and np.array_equal(dx, found["dX"])
        for name, _, gradient in layer.parameters():
            assert np.array_equal(gradient, found[f"d{name}"])
    assert np.array_equal(layer.predict(x), y)
    assert np.array_equal(x, kept[0]) and np.array_equal(dy, kept[1])


def test_it_starts_with_weights_of_1_and_biases_of_0(dtype):
    layer = fn.LayerNorm(5, dtype=dtype)
    assert (layer.weight == 1).all() and not layer.bias.any()
    assert not layer.weight_grad.any() and not layer.bias_grad.any()
    assert layer.dtype == layer.weight.dtype == layer.bias_grad.dtype == dtype
    assert fn.LayerNorm(5).dtype == np.float32 and layer.features == 5 and layer.eps == 1e-5


def test_it_has_the_parameters_that_it_was_made_with():
    def names(**options):
        layer = fn.LayerNorm(5, **options)
        assert all(value is getattr(layer, name) and gradient is getattr(layer, f"{name}_grad")
                   for name, value, gradient in layer.parameters())
        return [name for name, _, _ in layer.parameters()]

    assert names() == ["weight", "bias"]
    assert names(bias=False) == ["weight"]
    assert names(affine=False) == names(affine=False, bias=True) == []
    assert fn.LayerNorm(5, bias=False).bias is None
    assert fn.LayerNorm(5, affine=False).weight is None
    assert fn.LayerNorm(5, affine=False).bias_grad is None


def test_assigned_arrays_are_checked_and_copied_in():
    layer = fn.LayerNorm(3)
    weight, source = layer.weight, np.full(3, 2.0)
    layer.weight, layer.bias = source, [1, 2, 3]
    source[...] = 9
    assert layer.weight is weight and weight.tolist() == [2, 2, 2]
    assert layer.forward([[5, 5, 5]]).tolist() == [[1, 2, 3]]
    with pytest.raises(ValueError, match=r"weight must have shape \(3,\), got \(2,\)"):
        layer.weight = [1, 2]
    with pytest.raises(ValueError, match="bias cannot be assigned: the layer was made without one"):
        fn.LayerNorm(3, bias=False).bias = [1, 2, 3]


def test_inputs_are_converted_and_checked(dtype, rng):
    layer = make_layer(rng, dtype, 4)
    x = rng.integers(-9, 9, size=(3, 4))
    expected = layer.forward(x.astype(dtype))
    for form in (x, x.tolist(), np.asfortranarray(x), x.astype(np.float16)):
        assert np.array_equal(layer.forward(form), expected) and expected.dtype == dtype
    assert layer.backward(np.ones((3, 4), int)).dtype == dtype
    with pytest.raises(ValueError, match="X must have 4 features, got 5"):
        layer.forward(np.ones((3, 5)))
    for shape in (4,), (2, 3, 4):
        with pytest.raises(ValueError, match="X must have 2 dimensions"):
            layer.forward(np.ones(shape))
    assert layer.forward(np.empty((0, 4))).shape == (0, 4)


def test_an_unfit_out_or_gradient_is_refused_and_uses_nothing_up(dtype, rng):
    layer, x, dy = make_layer(rng, dtype, 4), draw(rng, dtype, 4, 4), draw(rng, dtype, 4, 4)
    read_only = np.zeros_like(x)
    read_only.flags.writeable = False
    for out, match in [(x, "must not overlap"), (read_only, "is read-only"),
                       (np.empty((4, 3), dtype), "must have shape")]:
        with pytest.raises(ValueError, match=match):
            layer.forward(x, out=out)
    layer.forward(x)
    for out, match in [(x, "dX must not overlap X"), (dy, "dX must not overlap dY"),
                       (read_only, "is read-only"), (np.empty((3, 4), dtype), "must have shape")]:
        with pytest.raises(ValueError, match=match):
            layer.backward(dy, out=out)
    with pytest.raises(ValueError, match=r"dY must have shape \(4, 4\), got \(3, 4\)"):
        layer.backward(dy[:3])
    assert not layer.weight_grad.any() and not layer.bias_grad.any()
    layer.backward(dy)
    assert layer.weight_grad.any() and layer.bias_grad.any()


def test_backward_before_forward_or_twice_is_refused():
    layer = fn.LayerNorm(4)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="LayerNorm.backward needs a forward before it"):
            layer.backward(np.ones((2, 4)))
        layer.forward(np.ones((2, 4)))
        layer.backward(np.ones((2, 4)))


def test_copies_keep_parameters_and_options_but_no_data(dtype, rng):
    for options in {}, {"bias": False, "eps": 0.25}, {"affine": False}:
        layer = make_layer(rng, dtype, 4, **options)
        layer.trainable = False
        layer.forward(draw(rng, dtype, 10_000, 4))
        packed = pickle.dumps(layer)
        assert len(packed) < 2000
        x = draw(rng, dtype, 3, 4)
        for twin in (pickle.loads(packed), copy.deepcopy(layer)):
            with pytest.raises(RuntimeError, match="needs a forward"):
                twin.backward(np.ones((10_000, 4)))
            assert repr(twin) == repr(layer) and not twin.trainable
            assert np.array_equal(twin.forward(x), layer.forward(x))
            for (_, value, gradient), (_, own, _) in zip(
                    twin.parameters(), layer.parameters(), strict=True):
                assert not np.shares_memory(value, own) and gradient.shape == own.shape


def test_representations_tell_the_layer():
    layers = [fn.LayerNorm(5), fn.LayerNorm(5, 1e-3, bias=False), fn.LayerNorm(5, affine=False),
              fn.LayerNorm(5, dtype="float64")]
    assert [repr(layer) for layer in layers] == [
        "LayerNorm(5)", "LayerNorm(5, eps=0.001, bias=False)", "LayerNorm(5, affine=False)",
        'LayerNorm(5, dtype="float64")']
    for layer in layers:
        assert repr(eval(repr(layer), vars(fn))) == repr(layer)


def test_options_that_are_none():
    for wrong in (0, -3):
        with pytest.raises(ValueError, match=r"features must be in the interval \[1, inf\), got"):
            fn.LayerNorm(wrong)
    for wrong in (2.0, "2", None, True, (2, 3)):
        with pytest.raises(TypeError, match="features must be an int"):
            fn.LayerNorm(wrong)
    for wrong in (0, -1e-5):
        with pytest.raises(ValueError, match=r"eps must be in the interval \(0, inf\), got"):
            fn.LayerNorm(3, wrong)
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="eps must be in the interval"):
            fn.LayerNorm(3, wrong)
    for wrong in ("1e-5", None):
        with pytest.raises(TypeError, match="eps must be a number"):
            fn.LayerNorm(3, wrong)
    with pytest.raises(ValueError, match="dtype must be float32 or float64"):
        fn.LayerNorm(3, dtype="float16")


@pytest.mark.parametrize("name", ["features", "eps", "dtype"])
def test_what_it_is_cannot_be_assigned(name):
    with pytest.raises(AttributeError):
        setattr(fn.LayerNorm(3), name, 4)


def test_a_hand_driven_script_learns_its_parameters(rng):
    """From the columns of a normalization with other weights and biases."""
    x, teacher, layer = rng.normal(size=(100, 5)), make_layer(rng, "float64", 5), fn.LayerNorm(
        5, dtype="float64")
    target = teacher.forward(x)
    loss, sgd = fn.MeanSquaredError(), fn.SGD(1.0)
    for _ in range(100):
        loss.forward(layer.forward(x), target)
        layer.backward(loss.backward())
        sgd.step([layer])
    np.testing.assert_allclose(layer.weight, teacher.weight, atol=1e-6)
    np.testing.assert_allclose(layer.bias, teacher.bias, atol=1e-6)
