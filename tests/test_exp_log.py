"""How far exp and log are from the truth; scripts/exp_log_ulp asks the same of every float32.

Errors are in units in the last place (ulp) of the true result, which NumPy computes in long double.
Kernels take subnormal numbers for 0, and give 0 where a result would be one.
"""

import numpy as np
import pytest

from fastnet import _ops, reference

# exp loses half an ulp when it is rounded and what its series loses, which is less where
# multiplication and addition are rounded together. log is computed in double: for a float32 there
# is one rounding at the end, for a float64 there are some more; 2.9 ulp is the most ever seen.
EXP = 1.3 if _ops.isa == "baseline" else 1.0
BOUNDS = {("exp", "float32"): EXP, ("exp", "float64"): EXP,
          ("log", "float32"): 0.51, ("log", "float64"): 3.0}


def numbers(dtype, rng):
    """Bit patterns from the whole range, and all those near the limits."""
    bits = np.dtype(f"u{dtype.itemsize}")
    info = np.finfo(dtype)
    patterns = np.arange(0, 2**32, 65521, np.uint64) if dtype == np.float32 else rng.integers(
        2**64, size=2**16, dtype=np.uint64)
    top, bottom = info.maxexp * np.log(2), info.minexp * np.log(2)
    limits = np.array([0, info.tiny, 1, top, bottom, bottom - info.nmant * np.log(2), np.inf,
                       np.nan], dtype).view(bits)
    near = limits[:, None] + np.arange(-1000, 1000).astype(bits)     # wraps around below 0
    usual = rng.uniform(bottom, top, 2**14).astype(dtype), rng.uniform(0.5, 2, 2**14).astype(dtype)
    either_sign = np.concatenate([near.ravel().view(dtype), -near.ravel().view(dtype)])
    return np.concatenate([patterns.astype(bits).view(dtype), either_sign, *usual])


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="needs a longer long double")
@pytest.mark.parametrize("name", ["exp", "log"])
def test_exp_and_log_are_within_their_bounds(name, dtype, rng):
    x, tiny = numbers(dtype, rng), np.finfo(dtype).tiny
    y = getattr(_ops, f"{name}_forward")(x)
    with np.errstate(all="ignore"):
        truth = getattr(np, name)(np.where(np.abs(x) < tiny, 0, x).astype(np.longdouble))
        rounded = truth.astype(dtype)
    special = (truth == 0) | ~np.isfinite(rounded)
    np.testing.assert_array_equal(y[special], rounded[special])
    below = ~special & (np.abs(truth) < tiny)
    assert np.isin(y[below], [0, tiny]).all()       # what rounds to tiny is none that is below

    x, y, truth = (array[~special & ~below] for array in (x, y, truth))
    ulp = np.ldexp(np.longdouble(1), np.frexp(truth)[1] - 1 - np.finfo(dtype).nmant)
    error = np.abs(y - truth) / ulp
    assert error.max() <= BOUNDS[name, dtype.name], x[error.argmax()]


def test_special_numbers_are_those_of_the_reference(dtype):
    inf, nan = np.inf, np.nan
    x = np.array([[0.0, -0.0, inf, -inf, nan, 1e4, -1e4]], dtype)
    np.testing.assert_array_equal(_ops.exp_forward(x), [[1, 1, inf, 0, nan, inf, 0]])
    np.testing.assert_array_equal(reference.exp_forward(x.tolist()), _ops.exp_forward(x))
    x = np.array([[0.0, -0.0, inf, -inf, nan, -1.0, 1.0]], dtype)
    np.testing.assert_array_equal(_ops.log_forward(x), [[-inf, -inf, inf, nan, nan, nan, 0]])
    np.testing.assert_array_equal(reference.log_forward(x.tolist()), _ops.log_forward(x))


def test_a_subnormal_argument_counts_as_zero(dtype):
    x = np.array([1, -1], dtype) * np.finfo(dtype).smallest_subnormal
    assert (_ops.exp_forward(x) == 1).all()
    assert (_ops.log_forward(x) == -np.inf).all()
