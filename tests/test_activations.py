"""Activations: kernels against the reference, results against the truth, layers against kernels.

Errors are in units in the last place (ulp) of the true result; of a derivative, which may have a
root or come close to one, in eps. Kernels take subnormal numbers for 0, and give 0 where a result
would be one.
"""

import copy
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest

import fastnet as fn
from fastnet import _ops, activations, reference

# Every kind, with an alpha that both types hold exactly. An alpha of 1 makes no rounding of its
# own, and one just below 2 the largest.
CASES = [("leaky_relu", 0.25), ("leaky_relu", -1.5), ("elu", 1.0), ("elu", 1.71875),
         ("sigmoid", 0.0), ("tanh", 0.0), ("gelu", 0.0), ("gelu_tanh", 0.0), ("silu", 0.0)]
KINDS = dict(CASES)
SIZES = range(1, 41)
PRODUCTS = {"gelu", "gelu_tanh", "silu"}        # of x and a factor from 0 to 1


def test_every_kind_is_tested():
    assert set(KINDS) == set(_ops.ACTIVATIONS)


def draw(rng, dtype, *shape):
    return rng.normal(size=shape).astype(dtype)


# ---- The truth, and how far results may be from it -------------------------------------------

def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def twice_u(x):
    """2 sqrt(2 / pi) (x + 0.044715 x^3), to the last bit of any type."""
    number = x.dtype.type
    return 2 * np.sqrt(2 / np.arccos(number(-1))) * (x + number(44715) / 10**6 * x**3)


def twice_u_slope(x):
    number = x.dtype.type
    return 2 * np.sqrt(2 / np.arccos(number(-1))) * (1 + number(3 * 44715) / 10**6 * x**2)


def normal_share(x):
    """Phi, which NumPy does not have."""
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x.tolist()])


def truth(kind, x, alpha):
    """f(x), in a type that is longer than the one that is judged."""
    if kind == "leaky_relu":
        return np.where(x > 0, x, alpha * x)
    if kind == "elu":
        return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))
    if kind == "tanh":
        return np.tanh(x)
    if kind == "sigmoid":
        return sigmoid(x)
    return x * {"gelu": normal_share, "gelu_tanh": lambda x: sigmoid(twice_u(x)),
                "silu": sigmoid}[kind](x)


def true_slope(kind, x, alpha):
    """f'(x); beyond 10^3 it no longer changes."""
    x = np.clip(x, -1000, 1000)
    if kind == "leaky_relu":
        return np.where(x > 0, 1, alpha)
    if kind == "elu":
        return np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0)))
    if kind == "tanh":
        return 4 * sigmoid(2 * x) * sigmoid(-2 * x)
    if kind == "sigmoid":
        return sigmoid(x) * sigmoid(-x)
    if kind == "gelu":
        return normal_share(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    v, slope = (twice_u(x), twice_u_slope(x)) if kind == "gelu_tanh" else (x, 1)
    return sigmoid(v) + x * slope * sigmoid(v) * sigmoid(-v)


# The most that was ever seen, with a little room: 0.5, 2.9, 2.4, 2.9, 7.0 and 2.7 ulp.
ULP = {"leaky_relu": 0.5, "elu": 3.1, "sigmoid": 3, "tanh": 3, "gelu": 8, "silu": 3}


def ulp_bound(kind, x, alpha):
    """In exp(2 u), a few roundings of 2 u count as often as 2 u says; on the right it adds to 1."""
    if kind == "gelu_tanh":
        return 3 + 3 * np.where(x < 0, -np.maximum(twice_u(x), -1e4), 0)
    return 1.6 if kind == "elu" and alpha == 1 else ULP[kind]


def slope_bound(kind, x, alpha, eps):
    """In eps: a few roundings of what is at most about 1.

    SiLU and the approximate GELU multiply 1 - s, which is off by an eps or all of itself, by x or
    even x 2 u'.
    """
    if kind in ("silu", "gelu_tanh"):
        x = np.clip(x, -1000, 1000)
        v, slope = (twice_u(x), twice_u_slope(x)) if kind == "gelu_tanh" else (x, 1)
        return 3 + np.abs(x * slope) * np.minimum(1, 2 / eps * np.exp(-np.abs(v)))
    return {"leaky_relu": 0, "elu": 2 * abs(alpha), "sigmoid": 1, "tanh": 3, "gelu": 2}[kind]


# ---- The reference ---------------------------------------------------------------------------

@pytest.mark.parametrize("kind, alpha", CASES)
def test_activations_agree_with_the_reference(kind, alpha, dtype, rng, fenced):
    """At every tail of a vector and wherever arrays begin; the reference rounds as well.

    In its Phi(x) the rounding of x / sqrt 2 counts x^2 times.
    """
    eps = np.finfo(dtype).eps
    for size in SIZES:
        fences = fenced()
        X = fences.put(2 * draw(rng, dtype, size), size % 5)
        dY, Y, dX = (fences.put(draw(rng, dtype, size), size % (5 + i)) for i in (1, 2, 3))
        assert _ops.activation_forward(X, kind, alpha, Y) is Y
        assert _ops.activation_backward(X, Y, dY, kind, alpha, dX) is dX
        assert fences.stand()

        x = X.astype(float)
        [expected] = reference.activation_forward([X.tolist()], kind, alpha)
        allowed = 2 * ulp_bound(kind, x, alpha) + (x**2 if kind == "gelu" else 0)
        assert np.all(np.abs(Y - expected) <= allowed * eps * np.abs(expected))
        [expected] = reference.activation_backward([X.tolist()], [dY.tolist()], kind, alpha)
        allowed = (2 * slope_bound(kind, x, alpha, eps) + 2) * np.abs(dY) + np.abs(expected)
        assert np.all(np.abs(dX - expected) <= allowed * eps)


@pytest.mark.parametrize("kind, alpha", CASES)
def test_activations_take_arrays_of_any_shape_and_make_outputs(kind, alpha, dtype, rng):
    for shape in (), (0,), (3, 0, 2), (7,), (2, 3, 5):
        X, dY = (np.asarray(rng.normal(size=shape), dtype) for _ in range(2))
        Y = _ops.activation_forward(X, kind, alpha)
        dX = _ops.activation_backward(X, Y, dY, kind, alpha)
        assert Y.shape == dX.shape == shape and Y.dtype == dX.dtype == dtype
        for one in np.ndindex(shape):
            x, y = X[one].reshape(1), Y[one].reshape(1)
            assert _ops.activation_forward(x, kind, alpha) == y
            assert _ops.activation_backward(x, y, dY[one].reshape(1), kind, alpha) == dX[one]


# ---- Accuracy --------------------------------------------------------------------------------

def numbers(dtype, rng):
    """Bit patterns from the whole range but for infinity and NaN, and many of usual size."""
    bits = np.dtype(f"u{dtype.itemsize}")
    patterns = np.arange(0, 2**32, 65521, np.uint64) if dtype == np.float32 else rng.integers(
        2**64, size=2**16, dtype=np.uint64)
    n, end = 2**16, -np.log(np.finfo(dtype).tiny) + 5
    usual = np.concatenate([
        rng.uniform(-1, 1, n), rng.uniform(-8, 8, n), rng.uniform(-end, end, n),
        rng.choice([-1, 1], n) * 2.0 ** rng.uniform(-60, 3, n)])
    x = np.concatenate([patterns.astype(bits).view(dtype), usual.astype(dtype),
                        np.array([0, -0.0], dtype)])
    x = x[np.isfinite(x)]
    return np.where(np.abs(x) < np.finfo(dtype).tiny, 0, x)


def longer(dtype):
    """The type in which the truth about a type is computed."""
    return np.dtype(np.float64 if dtype == np.float32 else np.longdouble)


needs_truth = pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60,
                                 reason="needs a longer long double")


@needs_truth
@pytest.mark.parametrize("kind, alpha", CASES)
def test_results_are_within_their_bounds(kind, alpha, dtype, rng):
    """But for products with a subnormal factor, which have a test of their own."""
    if kind == "gelu" and dtype == np.float64:
        pytest.skip("no erfc in long double; there are constants below")
    x, tiny = numbers(dtype, rng), np.finfo(dtype).tiny
    y = _ops.activation_forward(x, kind, alpha)
    with np.errstate(all="ignore"):
        wide = x.astype(longer(dtype))
        expected = truth(kind, wide, alpha)
        lost = (np.abs(expected / wide) < tiny) if kind in PRODUCTS else np.zeros(x.shape, bool)
    assert not y[expected == 0].any()
    below = (expected != 0) & (np.abs(expected) < tiny)
    assert np.isin(np.abs(y[below]), [0, tiny]).all()   # what rounds to tiny is none that is below
    judged = (np.abs(expected) >= tiny) & (np.abs(expected) <= np.finfo(dtype).max) & ~lost
    assert judged.sum() > len(x) / 3
    x, y, wide, expected = (array[judged] for array in (x, y, wide, expected))
    error = np.abs(y - expected) / ulp(expected, dtype) / ulp_bound(kind, wide, alpha)
    assert error.max() <= 1, (x[error.argmax()], error.max())


def ulp(values, dtype):
    """The unit in the last place that `dtype` has at each of some normal values."""
    return np.ldexp(np.ones_like(values), np.frexp(values)[1] - 1 - np.finfo(dtype).nmant)


@needs_truth
@pytest.mark.parametrize("kind", sorted(PRODUCTS))
def test_a_result_is_0_where_its_factor_is_subnormal(kind, dtype):
    """As in -90 sigmoid(-90) = -7e-38, for float32: the result is 0 or right. 1e-5 is far above any
    rounding."""
    x, tiny = -np.linspace(5, 800, 400_001).astype(dtype), np.finfo(dtype).tiny
    with np.errstate(all="ignore"):
        expected = truth(kind, x.astype(np.float64), 0.0)
    between = (-expected >= tiny) & (-expected < tiny * -x)
    assert between.any()
    y = _ops.activation_forward(x[between], kind)
    lost = y == 0
    assert lost.any() and (np.abs(expected[between][lost]) < tiny * 1000).all()
    np.testing.assert_allclose(y[~lost], expected[between][~lost], rtol=1e-5, atol=0)


@needs_truth
@pytest.mark.parametrize("kind, alpha", CASES)
def test_derivatives_are_within_their_bounds(kind, alpha, dtype, rng):
    if kind == "gelu" and dtype == np.float64:
        pytest.skip("no erfc in long double; there are constants below")
    x, eps = numbers(dtype, rng), np.finfo(dtype).eps
    slope = _ops.activation_backward(
        x, _ops.activation_forward(x, kind, alpha), np.ones_like(x), kind, alpha)
    with np.errstate(all="ignore"):
        wide = x.astype(longer(dtype))
        expected = true_slope(kind, wide, alpha)
        error = np.abs(slope - expected) - slope_bound(kind, wide, alpha, eps) * eps
    assert error.max() <= 0, (x[error.argmax()], error.max() / eps)


# x, x Phi(x) and Phi(x) + x phi(x), where x is the float64 next to what is written; from mpmath.
GELU = [
    (-37.5, "-1.727007378593233066435488e-306", "-6.476271143055812622971645e-305"),
    (-36.9, "-8.525835335408878269234576e-297", "-3.146029857348670009887455e-295"),
    (-31.7, "-2.462566656569427192288802e-219", "-7.806320916599775817987373e-218"),
    (-24.3, "-2.381789426348899923429284e-129", "-5.787715385467983638186886e-128"),
    (-18.77, "-1.247130242592675547980621e-77", "-2.340826271660744653269163e-76"),
    (-14.1, "-2.677376414933137974539288e-44", "-3.774914357043554148150058e-43"),
    (-11.3, "-7.413816933221696954327743e-29", "-8.376623572339263464332755e-28"),
    (-9.49, "-1.096257597391464169858220e-20", "-1.040105108683933307648245e-19"),
    (-7.23, "-1.746023438706068207591197e-12", "-1.261528709945512534721201e-11"),
    (-6.1, "-3.235088190398793141725649e-9", "-1.970875155934365362490850e-8"),
    (-5.03, "-1.233556787868811776749921e-6", "-6.188409953531796382331923e-6"),
    (-3.9, "-1.875757416686506614125319e-4", "-7.266599944142106974002645e-4"),
    (-2.81, "-6.960580746588269846643839e-3", "-0.01915011304950101441388931"),
    (-2.2, "-0.03058758452969693195878910", "-0.06414065674821052735535382"),
    (-1.5, "-0.1002108019032870990067411", "-0.1274691922299795254166553"),
    (-1.1, "-0.1492326670410209334558532", "-0.1039713337894229246342166"),
    (-0.7517915, "-0.1699712074799035301373615", "1.065512497231612906397250e-8"),
    (-0.6, "-0.1645518706500441465264187", "0.07431835601499381103712377"),
    (-0.3, "-0.1146265733433142058362825", "0.2676722331728901450984896"),
    (-0.12, "-0.05426898887752993608714028", "0.4047119485641774251527360"),
    (-0.03, "-0.01464100579757662013228904", "0.4760706426830243661591953"),
    (-0.0041, "-2.043293799054996999815100e-3", "0.4967286916309728604093947"),
    (-1e-05, "-4.999960105771960930644749e-6", "0.4999920211543922373073088"),
    (1e-09, "5.000000003989423115422285e-10", "0.5000000007978845608028654"),
    (0.0003, "1.500359048046975437229223e-4", "0.5002393653610598986839834"),
    (0.0302, "0.01546379601715702134986724", "0.5240887896994383066403553"),
    (0.11, "0.05981748437965484676276564", "0.5874142688073422206622264"),
    (0.37, "0.2383942392762022943982084", "0.7821516329592821029523319"),
    (0.84, "0.6716184776612222526985361", "1.035034607844831595646041"),
    (1.31, "1.185421727688236911878809", "1.126484338985951801475709"),
    (2.6, "2.587880911138331340887928", "1.030654531983863849026217"),
    (4.7, "4.699993886204966766415091", "1.000028637370886758068983"),
    (8.1, "8.099999999999997418881524", "1.000000000000018021560226"),
]


@pytest.mark.parametrize("x, value, slope", GELU)
def test_gelu_has_the_values_of_arbitrary_precision(x, value, slope):
    """The derivative has a root near -0.75: to 2 eps, and left of -2 to 8 ulp."""
    x = np.array([x])
    y = _ops.activation_forward(x, "gelu")
    found = _ops.activation_backward(x, y, np.ones(1), "gelu")
    assert abs(Fraction(y[0]) - Fraction(value)) <= 8 * Fraction(math.ulp(float(value)))
    small = Fraction(math.ulp(float(slope))) if x < -2 else Fraction(1, 2**54)
    assert abs(Fraction(found[0]) - Fraction(slope)) <= 8 * small


@needs_truth
def test_the_left_tail_of_gelu_keeps_its_relative_precision(dtype):
    """Against Phi(-z) = phi(z) / (z + 1 / (z + 2 / (z + 3 / ...))), in long double."""
    x = np.linspace(-37.5 if dtype == np.float64 else -12.8, -5, 20_000).astype(dtype)
    z = -x.astype(np.longdouble)
    fraction = z
    for k in range(100, 0, -1):
        fraction = z + k / fraction
    pi = np.arccos(np.longdouble(-1))
    expected = -z * np.exp(-z * z / 2) / np.sqrt(2 * pi) / fraction
    error = np.abs(_ops.activation_forward(x, "gelu") - expected) / ulp(expected, dtype)
    assert error.max() <= ULP["gelu"], x[error.argmax()]


# ---- Derivatives -----------------------------------------------------------------------------

@pytest.mark.parametrize("kind, alpha", CASES)
def test_activation_backward_is_the_derivative(kind, alpha, rng):
    """A central difference is off by h^2 = 1e-10 times a third derivative, and by eps / h."""
    h = 1e-5
    X, dY = rng.uniform(-6, 6, 2000), rng.normal(size=2000)
    X = X[np.abs(X) > 10 * h]                           # away from the kinks at 0
    dY = dY[:len(X)]
    above, below = (_ops.activation_forward(X + step, kind, alpha) for step in (h, -h))
    found = _ops.activation_backward(X, _ops.activation_forward(X, kind, alpha), dY, kind, alpha)
    np.testing.assert_allclose(found, dY * (above - below) / (2 * h), rtol=0, atol=1e-8)


# ---- Special values --------------------------------------------------------------------------

@pytest.mark.parametrize("kind, alpha", CASES)
def test_special_values_are_those_of_the_reference(kind, alpha, dtype):
    """The limits at infinity; and at a number as large as may be, which is as good as infinity."""
    inf, huge = np.inf, np.finfo(dtype).max / 4
    X = np.array([0.0, -0.0, inf, -inf, np.nan, huge, -huge, 1e30, -1e30], dtype)
    Y = _ops.activation_forward(X, kind, alpha)
    [expected] = reference.activation_forward([X.tolist()], kind, alpha)
    np.testing.assert_array_equal(Y, np.array(expected).astype(dtype))
    for value in (1.0, -0.5):
        dY = np.full_like(X, value)
        [expected] = reference.activation_backward([X.tolist()], [dY.tolist()], kind, alpha)
        np.testing.assert_array_equal(
            _ops.activation_backward(X, Y, dY, kind, alpha), np.array(expected).astype(dtype))


def test_an_alpha_of_zero_gives_zero_at_minus_infinity(dtype):
    """The limit from above, as in the reference: this is a ReLU."""
    numbers, results = np.array([-np.inf, -1, 0, 2, np.inf], dtype), [0, 0, 0, 2, np.inf]
    for kind, first in (("leaky_relu", 1), ("elu", 0)):     # 0 times infinity is NaN
        X, expected = numbers[first:], results[first:]
        assert reference.activation_forward([X.tolist()], kind, 0.0) == [expected]
        np.testing.assert_array_equal(_ops.activation_forward(X, kind, 0.0), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_and_infinity_of_the_gradient_are_passed_on(kind, dtype):
    X, dY = np.ones(5, dtype), np.array([np.nan, np.inf, -np.inf, 0, 1], dtype)
    found = _ops.activation_backward(X, _ops.activation_forward(X, kind), dY, kind)
    np.testing.assert_array_equal(found[:4], dY[:4])
    assert np.isfinite(found[4])


@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_in_its_lane(kind, dtype):
    X = np.ones(37, dtype)
    X[::5] = np.nan
    Y = _ops.activation_forward(X, kind, 0.5)
    assert np.array_equal(np.isnan(Y), np.isnan(X))
    dX = _ops.activation_backward(X, Y, np.ones_like(X), kind, 0.5)
    assert np.array_equal(np.isnan(dX), np.isnan(X))


@pytest.mark.parametrize("kind", KINDS)
def test_a_subnormal_argument_counts_as_zero(kind, dtype):
    X = np.array([1, -1], dtype) * np.finfo(dtype).smallest_subnormal
    zero, ones = np.zeros(2, dtype), np.ones(2, dtype)
    Y = _ops.activation_forward(X, kind, 0.5)
    assert np.array_equal(Y, _ops.activation_forward(zero, kind, 0.5))
    assert np.array_equal(_ops.activation_backward(X, Y, ones, kind, 0.5),
                          _ops.activation_backward(zero, Y, ones, kind, 0.5))
    assert not _ops.activation_backward(ones, ones / 2, X, kind, 0.5).any()


# ---- What kernels refuse ---------------------------------------------------------------------

def test_an_output_that_overlaps_an_input_is_refused(dtype):
    X, Y, dY = (np.full(40, value, dtype) for value in (0.5, 0.25, 2.0))
    for out in (X, X[::-1][::-1]):
        with pytest.raises(ValueError, match="Y must not overlap X"):
            _ops.activation_forward(X, "tanh", 0.0, out)
    with pytest.raises(ValueError, match="Y must not overlap X"):
        _ops.activation_forward(X[:39], "tanh", 0.0, X[1:])
    for name, out in ("X", X), ("Y", Y), ("dY", dY):
        with pytest.raises(ValueError, match=f"dX must not overlap {name}"):
            _ops.activation_backward(X, Y, dY, "tanh", 0.0, out)
    assert (X == 0.5).all() and (Y == 0.25).all() and (dY == 2).all()


def test_an_unknown_kind_and_unfit_arrays_are_refused(dtype):
    X = np.ones(4, dtype)
    for kind in ("swish", "TANH", ""):
        with pytest.raises(KeyError, match=f"'{kind}'"):
            _ops.activation_forward(X, kind)
        with pytest.raises(KeyError, match=f"'{kind}'"):
            _ops.activation_backward(X, X, X, kind)
    with pytest.raises(TypeError):
        _ops.activation_forward(X, 3)
    with pytest.raises(TypeError, match="X must be a numpy.ndarray, got list"):
        _ops.activation_forward([1.0], "tanh")
    with pytest.raises(ValueError, match=r"Y must have shape \(4,\), got \(3,\)"):
        _ops.activation_forward(X, "tanh", 0.0, np.ones(3, dtype))
    for arrays in (X[:3], X), (X, X[:3]):
        with pytest.raises(ValueError, match=r"d?Y must have shape \(4,\), got \(3,\)"):
            _ops.activation_backward(X, *arrays, "tanh")
    other = np.float32 if dtype == np.float64 else np.float64
    with pytest.raises(ValueError, match=f"dY must be {dtype}, got"):
        _ops.activation_backward(X, X, X.astype(other), "tanh")


# ---- Logarithm of softmax --------------------------------------------------------------------

def log_softmax(X):
    """In float64, with the largest score taken off."""
    x = X.astype(np.float64)
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def assert_log_softmax(X, dY, expected, expected_gradient):
    """Scores are subtracted and exponentials taken in the dtype, sums and log in double.

    So Y has a rounding of x - m, of the logarithm and of their difference, and what exponentials
    lose; dX those of its two terms, of which exp(Y) is off by the rounding of Y as well.
    """
    n_classes, eps = X.shape[1], np.finfo(X.dtype).eps
    sums = n_classes * np.finfo(np.float64).eps
    Y = _ops.log_softmax_forward(X)
    below = X.max(1, keepdims=True).astype(np.float64) - X
    allowed = eps * (2 + np.abs(expected) + below) + sums
    assert np.all(np.abs(Y - expected) <= allowed)
    dX = _ops.log_softmax_backward(Y, dY)
    total = np.abs(dY.sum(1, keepdims=True, dtype=np.float64))
    spread = np.abs(dY).sum(1, keepdims=True, dtype=np.float64)
    allowed = eps * np.abs(dY) + np.exp(expected) * (
        total * (3 * eps + allowed) + sums * spread) + 2 * eps * np.abs(expected_gradient)
    assert np.all(np.abs(dX - expected_gradient) <= allowed)


@pytest.mark.parametrize("size", [*range(1, 41), 67])
def test_log_softmax_agrees_with_the_reference(size, dtype, rng):
    for shape in (3, size), (size, 4), (9, size):
        X, dY = 4 * draw(rng, dtype, *shape), draw(rng, dtype, *shape)
        Y = np.array(reference.log_softmax_forward(X.tolist()))
        dX = np.array(reference.log_softmax_backward(Y.tolist(), dY.tolist()))
        assert_log_softmax(X, dY, Y, dX)


@pytest.mark.parametrize("n_classes", [*range(1, 41), 64, 67, 4096])
def test_log_softmax_at_every_width_and_batch(n_classes, dtype, rng):
    for n in [*range(1, 34), 67] if n_classes < 4096 else [1, 3, 5]:
        X, dY = 4 * draw(rng, dtype, n, n_classes), draw(rng, dtype, n, n_classes)
        Y = log_softmax(X)
        dX = dY - np.exp(Y) * dY.sum(1, keepdims=True, dtype=np.float64)
        assert_log_softmax(X, dY, Y, dX)


@pytest.mark.parametrize("n_classes", [1, 2, 7, 16, 33, 70])
def test_log_softmax_backward_is_the_derivative(n_classes, rng):
    """A central difference is off by h^2 = 1e-10 times a third derivative, and by eps / h."""
    X, dY, h = rng.normal(size=(5, n_classes)), rng.normal(size=(5, n_classes)), 1e-5
    found = _ops.log_softmax_backward(_ops.log_softmax_forward(X), dY)
    for j in range(n_classes):
        above, below = X.copy(), X.copy()
        above[:, j] += h
        below[:, j] -= h
        difference = _ops.log_softmax_forward(above) - _ops.log_softmax_forward(below)
        np.testing.assert_allclose(
            found[:, j], (dY * difference).sum(1) / (2 * h), rtol=0, atol=1e-8)


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("more", [0, 40])
def test_log_softmax_of_scores_of_any_size(rows, more, dtype):
    """Where rows are few or classes many the kernel goes another way: for all of them."""
    def log_softmax_of(*scores):
        X = np.full((rows, len(scores) + more), -np.inf, dtype)
        X[:, :len(scores)] = scores
        Y = _ops.log_softmax_forward(X)
        assert np.array_equal(Y, np.broadcast_to(Y[0], Y.shape), equal_nan=True)
        if np.isfinite(Y[0, 0]):
            assert np.isneginf(Y[:, len(scores):]).all()
        return Y[0, :len(scores)]

    halves, big = np.full(2, -np.log(2)), float(dtype.type(1e30))
    np.testing.assert_allclose(log_softmax_of(1e30, 1e30), halves, rtol=np.finfo(dtype).eps)
    np.testing.assert_allclose(log_softmax_of(-1e30, -1e30), halves, rtol=np.finfo(dtype).eps)
    assert log_softmax_of(big, 0, big).tolist()[1] == -big
    assert log_softmax_of(1e4, -1e4).tolist() == [0, -2e4]
    assert log_softmax_of(5, -np.inf).tolist() == [0, -np.inf]
    for spoilt in (1, np.nan), (np.nan, 1), (np.inf, 1), (np.inf, np.inf), (-np.inf, -np.inf):
        assert np.isnan(log_softmax_of(*spoilt)).all()


def test_the_gradient_passes_log_softmax_by_a_score_of_minus_infinity(dtype):
    Y = _ops.log_softmax_forward(np.array([[0, -np.inf, 0]], dtype))
    assert _ops.log_softmax_backward(Y, np.array([[1, 3, 4]], dtype)).tolist() == [[-3, 3, 0]]


def test_a_subnormal_score_counts_as_zero_in_log_softmax(dtype):
    """0 and not itself, though next to 0 both are the same after one rounding."""
    X = np.array([[1, -1]], dtype) * np.finfo(dtype).smallest_subnormal
    Y = _ops.log_softmax_forward(X)
    assert np.array_equal(Y, _ops.log_softmax_forward(np.zeros_like(X)))
    assert not _ops.log_softmax_backward(Y, X).any()


def test_log_softmax_is_the_logarithm_of_softmax(dtype, rng):
    """exp of Y is off by the rounding of Y, which is at most 20 here."""
    X = 4 * draw(rng, dtype, 20, 7)
    np.testing.assert_allclose(np.exp(_ops.log_softmax_forward(X)), _ops.softmax_forward(X),
                               rtol=30 * np.finfo(dtype).eps)


# ---- Layers ----------------------------------------------------------------------------------

def make_layers():
    """Each activation that is new here; of ReLU and Softmax other tests tell."""
    return [fn.Identity(), fn.LeakyReLU(0.25), fn.ELU(1.5), fn.Sigmoid(), fn.Tanh(), fn.GELU(),
            fn.GELU("tanh"), fn.SiLU(), fn.LogSoftmax()]


every_layer = pytest.mark.parametrize("layer", make_layers(), ids=repr)


def kernels_of(layer):
    """The kernels that a layer calls: Y of X, and dX of X, Y and dY."""
    if isinstance(layer, fn.Identity):
        return np.copy, lambda X, Y, dY: dY.copy()
    if isinstance(layer, fn.LogSoftmax):
        return _ops.log_softmax_forward, lambda X, Y, dY: _ops.log_softmax_backward(Y, dY)
    return (lambda X: _ops.activation_forward(X, layer.kind, layer.alpha),
            lambda X, Y, dY: _ops.activation_backward(X, Y, dY, layer.kind, layer.alpha))


@every_layer
def test_a_layer_gives_what_its_kernel_gives(layer, dtype, rng):
    X, dY = draw(rng, dtype, 5, 7), draw(rng, dtype, 5, 7)
    forward, backward = kernels_of(layer)
    before = X.copy()
    y, dx = layer.forward(X), layer.backward(dY)
    assert np.array_equal(X, before)
    assert np.array_equal(y, forward(X)) and np.array_equal(dx, backward(X, y, dY))
    assert y.dtype == dx.dtype == dtype
    assert np.array_equal(layer.predict(X), y)
    assert list(layer.parameters()) == []


def test_kinds_of_layers_are_those_of_their_formulas():
    kinds = [(layer.kind, layer.alpha) for layer in make_layers() if hasattr(layer, "kind")]
    assert kinds == [("leaky_relu", 0.25), ("elu", 1.5), ("sigmoid", 0.0), ("tanh", 0.0),
                     ("gelu", 0.0), ("gelu_tanh", 0.0), ("silu", 0.0)]
    assert fn.LeakyReLU().alpha == fn.LeakyReLU().negative_slope == 0.01
    assert fn.ELU().alpha == 1.0 and fn.GELU().approximate == "none"
    assert fn.LeakyReLU(0.3).negative_slope == 0.3 and fn.GELU("tanh").approximate == "tanh"


@pytest.mark.parametrize("layer", make_layers()[:-1], ids=repr)
def test_a_layer_that_goes_entry_by_entry_takes_any_shape_and_converts(layer):
    y = layer.forward([[[1, -2, 3]]])
    assert y.shape == (1, 1, 3) and y.dtype == np.float64
    assert layer.backward([[[1, 1, 1]]]).shape == (1, 1, 3)
    assert layer.forward(np.ones((2, 3), np.float16)).dtype == np.float32
    with pytest.raises(ValueError, match=r"must have shape \(2, 3\), got \(2, 2\)"):
        layer.backward(np.ones((2, 2)))
    assert layer.backward(np.ones((2, 3))).dtype == np.float32      # nothing was used up
    assert layer.forward(np.empty((0, 4))).shape == (0, 4)


def test_log_softmax_takes_matrices():
    for shape in (4,), (1, 4, 1):
        with pytest.raises(ValueError, match="must have 2 dimensions"):
            fn.LogSoftmax().forward(np.ones(shape))
    with pytest.raises(ValueError, match="at least 1 column"):
        fn.LogSoftmax().forward(np.ones((3, 0)))


@every_layer
def test_out_is_written_to_and_each_pass_else_returns_a_fresh_array(layer, dtype, rng):
    X, dY = draw(rng, dtype, 5, 7), draw(rng, dtype, 5, 7)
    y, dx = layer.forward(X), layer.backward(dY)
    kept, kept_dx = y.copy(), dx.copy()
    out, dx_out = np.full_like(X, np.nan), np.full_like(X, np.nan)
    assert layer.forward(X, out=out) is out and layer.backward(dY, out=dx_out) is dx_out
    assert np.array_equal(out, y) and np.array_equal(dx_out, dx)
    again, again_dx = layer.forward(2 * X), layer.backward(3 * dY)
    assert not np.shares_memory(again, y) and not np.shares_memory(again_dx, dx)
    assert np.array_equal(y, kept) and np.array_equal(dx, kept_dx)


@every_layer
def test_an_unfit_out_is_refused_and_uses_nothing_up(layer, dtype, rng):
    X, dY = draw(rng, dtype, 5, 7), draw(rng, dtype, 5, 7)
    read_only = np.zeros_like(X)
    read_only.flags.writeable = False
    before, gradient = X.copy(), dY.copy()
    for out, match in [(X, "must not overlap"), (read_only, "is read-only"),
                       (np.empty((5, 6), dtype), "must have shape")]:
        with pytest.raises(ValueError, match=match):
            layer.forward(X, out=out)
    y = layer.forward(X)
    for out, match in [(dY, "must not overlap"), (read_only, "is read-only"),
                       (np.empty((5, 6), dtype), "must have shape")]:
        with pytest.raises(ValueError, match=match):
            layer.backward(dY, out=out)
    assert np.array_equal(X, before) and np.array_equal(dY, gradient)
    assert np.array_equal(layer.backward(dY), kernels_of(layer)[1](X, y, dY))


@every_layer
def test_backward_before_forward_or_twice_is_refused(layer):
    layer = copy.deepcopy(layer)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"{type(layer).__name__}.backward needs a forward"):
            layer.backward(np.ones((1, 4)))
        layer.forward(np.ones((1, 4)))
        layer.backward(np.ones((1, 4)))


@every_layer
def test_copies_keep_options_but_no_data(layer, rng):
    layer.forward(np.ones((10_000, 4)))
    x = rng.normal(size=(3, 4))
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), copy.copy(layer)):
        with pytest.raises(RuntimeError, match="needs a forward"):
            twin.backward(np.ones((10_000, 4)))
        assert repr(twin) == repr(layer) and type(twin) is type(layer)
        assert np.array_equal(twin.predict(x), kernels_of(layer)[0](x))
    assert len(pickle.dumps(layer)) < 300


def test_representations_tell_the_layer():
    assert [repr(layer) for layer in make_layers()] == [
        "Identity()", "LeakyReLU(0.25)", "ELU(1.5)", "Sigmoid()", "Tanh()", "GELU()",
        'GELU("tanh")', "SiLU()", "LogSoftmax()"]
    for layer in make_layers():
        assert repr(eval(repr(layer), vars(fn))) == repr(layer)


def test_options_that_are_none():
    for make, name in (fn.LeakyReLU, "negative_slope"), (fn.ELU, "alpha"):
        for wrong in (np.nan, np.inf, -np.inf, 10**400):
            with pytest.raises(ValueError, match=rf"{name} must be in the interval \(-inf, inf\)"):
                make(wrong)
        for wrong in ("0.1", None, [0.1, 0.2]):
            with pytest.raises(TypeError, match=f"{name} must be a number, got"):
                make(wrong)
    for wrong in ("erf", "", None, True, 1):
        with pytest.raises(ValueError, match="approximate must be 'none' or 'tanh', got"):
            fn.GELU(wrong)


@pytest.mark.parametrize("layer, name", [
    (fn.LeakyReLU(), "negative_slope"), (fn.LeakyReLU(), "alpha"), (fn.ELU(), "alpha"),
    (fn.GELU(), "approximate"), (fn.Dense(2, 2, activation="tanh"), "activation")], ids=str)
def test_what_an_activation_is_cannot_be_assigned(layer, name):
    """A network has taken it over into its compiled code, and would not see it."""
    with pytest.raises(AttributeError):
        setattr(layer, name, "tanh")


# ---- By name, and as part of a Dense ---------------------------------------------------------

def test_every_name_gives_its_layer():
    found = {name: repr(activations.get(name)) for name in activations.NAMES}
    assert found == {
        "identity": "Identity()", "relu": "ReLU()", "leaky_relu": "LeakyReLU(0.01)",
        "elu": "ELU(1.0)", "sigmoid": "Sigmoid()", "tanh": "Tanh()", "gelu": "GELU()",
        "gelu_tanh": 'GELU("tanh")', "silu": "SiLU()", "softmax": "Softmax()",
        "log_softmax": "LogSoftmax()"}
    assert activations.get("tanh") is not activations.get("tanh")
    assert activations.get(None) is None


def test_what_is_no_activation_is_refused():
    with pytest.raises(ValueError, match="activation must be one of 'identity', 'relu', .*swish"):
        fn.Dense(2, 2, activation="swish")
    for wrong in (3, fn.ReLU, np.tanh, ["tanh"]):
        with pytest.raises(TypeError, match="activation must be a name or a layer, got"):
            fn.Dense(2, 2, activation=wrong)
    for wrong in (fn.Dense(2, 2), fn.LayerNorm(2), fn.Residual([fn.Dense(2, 2)])):
        with pytest.raises(ValueError, match="must be a layer without parameters, got"):
            fn.Dense(2, 2, activation=wrong)


def test_an_activation_of_another_width_or_dtype_is_refused():
    for wrong, n_out, dtype in [(fn.LayerNorm(3, affine=False), 2, "float32"),
                                (fn.LayerNorm(2, affine=False, dtype="float64"), 2, "float32"),
                                (fn.LayerNorm(2, affine=False), 2, "float64")]:
        with pytest.raises(ValueError, match=f"activation must take 2 features of {dtype}, got"):
            fn.Dense(4, n_out, activation=wrong, dtype=dtype)
    layer = fn.Dense(4, 2, activation=fn.LayerNorm(2, affine=False))
    assert layer.forward([[1, 2, 3, 4]]).shape == (1, 2)


@pytest.mark.parametrize("name", activations.NAMES)
def test_a_dense_with_an_activation_is_both_one_after_the_other(name, dtype, rng):
    x, dy = draw(rng, dtype, 6, 5), draw(rng, dtype, 6, 4)
    both = fn.Dense(5, 4, activation=name, dtype=dtype, rng=1)
    dense, activation = fn.Dense(5, 4, dtype=dtype, rng=1), activations.get(name)
    assert np.array_equal(both.weight, dense.weight)
    y, dx = np.full_like(dy, np.nan), np.full_like(x, np.nan)
    assert both.forward(x, out=y) is y and both.backward(dy, out=dx) is dx
    assert np.array_equal(y, activation.forward(dense.forward(x)))
    assert np.array_equal(dx, dense.backward(activation.backward(dy)))
    assert np.array_equal(both.weight_grad, dense.weight_grad) and both.weight_grad.any()
    assert np.array_equal(both.bias_grad, dense.bias_grad)
    assert np.array_equal(both.predict(x), y)
    assert [name for name, _, _ in both.parameters()] == ["weight", "bias"]


def test_a_dense_takes_a_copy_of_its_activation():
    relu, x = fn.LeakyReLU(0.5), np.array([[-1.0, 2.0]])
    relu.forward(x)
    first, second = (fn.Dense(2, 2, activation=relu, weight_init="zeros") for _ in range(2))
    assert first.activation is not relu and first.activation is not second.activation
    assert repr(first.activation) == "LeakyReLU(0.5)"
    first.forward([[1, 1]])
    second.forward([[1, 1], [1, 1]])
    assert first.backward([[1, 1]]).shape == (1, 2)
    assert relu.backward([[1, 1]]).tolist() == [[0.5, 1]]           # it still has its own input


def test_a_dropout_as_activation_is_a_copy_too_and_leaves_predictions_alone():
    dropout = fn.Dropout(0.5, rng=0)
    twin = copy.deepcopy(dropout)
    layer = fn.Dense(3, 200, activation=dropout, bias_init="uniform", rng=0)
    x = np.ones((4, 3), np.float32)
    assert (layer.forward(x) == 0).any()
    assert (layer.predict(x) != 0).all()
    ones = np.ones((4, 200))
    assert np.array_equal(dropout.forward(ones), twin.forward(ones))


def test_a_dense_with_an_activation_shows_and_copies_it(rng):
    layer = fn.Dense(3, 2, False, activation=fn.ELU(0.5), dtype="float64")
    assert repr(layer) == 'Dense(3, 2, bias=False, activation=ELU(0.5), dtype="float64")'
    assert repr(fn.Dense(3, 2, activation="gelu_tanh")) == 'Dense(3, 2, activation=GELU("tanh"))'
    assert fn.Dense(3, 2).activation is None
    x = rng.normal(size=(1000, 3))
    layer.forward(x)
    packed = pickle.dumps(layer)
    assert len(packed) < 2000
    for twin in (pickle.loads(packed), copy.deepcopy(layer)):
        assert twin.activation is not layer.activation and repr(twin) == repr(layer)
        with pytest.raises(RuntimeError, match="Dense.backward needs a forward"):
            twin.backward(np.ones((1000, 2)))
        assert np.array_equal(twin.forward(x), layer.forward(x))


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_a_dense_refuses_an_out_that_overlaps_with_an_activation_too(activation, dtype):
    """What is overwritten is still to be read: by backward, and by the next forward."""
    layer = fn.Dense(4, 4, activation=activation, dtype=dtype, rng=0)
    x, dy = np.ones((4, 4), dtype), np.full((4, 4), 2, dtype)
    weight = layer.weight.copy()
    for out in (x, layer.weight):
        with pytest.raises(ValueError, match="must not overlap"):
            layer.forward(x, out=out)
    layer.forward(x)
    for out in (x, dy, layer.weight, layer.weight_grad):
        with pytest.raises(ValueError, match="must not overlap"):
            layer.backward(dy, out=out)
    assert (x == 1).all() and (dy == 2).all() and np.array_equal(layer.weight, weight)
    assert not layer.weight_grad.any()
    layer.backward(dy)                      # the failed calls have used nothing up


def test_a_dense_with_an_activation_backward_before_forward_or_twice_is_refused():
    layer = fn.Dense(2, 3, activation="sigmoid")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Dense.backward needs a forward before it"):
            layer.backward(np.ones((1, 3)))
        layer.forward(np.ones((1, 2)))
        with pytest.raises(ValueError, match=r"must have shape \(1, 3\), got \(1, 2\)"):
            layer.backward(np.ones((1, 2)))
        assert layer.backward(np.ones((1, 3))).shape == (1, 2)
