"""Every kernel against two witnesses: the pure-Python reference and central differences.

Tolerances are error bounds, not guesses. A sum of k products that is added up in any order in a
type with unit eps is off by at most about k * eps * (sum of the absolute products); `product_bound`
computes that for the very numbers of the test, with 2 more roundings for the bias and the final
store, and twice, since in float64 the reference rounds as well. Functions that round a handful of
times per element are compared to a few eps of the largest value involved.
"""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from fastnet import _ops, reference

SIZES = [*range(1, 34), 37, 53, 67, 101, 127]       # vector tails, tile edges, some primes


def draw(rng, dtype, *shape):
    return rng.normal(size=shape).astype(dtype)


def exact(*arrays):
    """The arrays in float64, where sums of their products are as good as exact."""
    return [a.astype(np.float64) for a in arrays]


def product_bound(A, B, dtype):
    A, B = exact(A, B)
    return 2 * (A.shape[1] + 2) * np.finfo(dtype).eps * (np.abs(A) @ np.abs(B) + 1)


def assert_within(found, expected, bound):
    found = np.asarray(found, dtype=np.float64)
    assert found.shape == np.shape(expected)
    assert np.all(np.abs(found - expected) <= bound), np.max(np.abs(found - expected) / bound)


def assert_close(found, expected, n_eps):
    """Equal to `n_eps` units in the last place of the largest value (at least of 1)."""
    eps = np.finfo(np.asarray(found).dtype).eps
    assert_within(found, expected, n_eps * eps * max(1.0, np.max(np.abs(expected), initial=0)))


# ---- Dense -----------------------------------------------------------------------------------

SHAPES = sorted({shape for s in SIZES for shape in [(s, 5, 7), (3, s, 4), (4, 6, s)]})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dense_agrees_with_the_reference(shape, dtype, rng):
    n, n_in, n_out = shape
    X, W, b = draw(rng, dtype, n, n_in), draw(rng, dtype, n_in, n_out), draw(rng, dtype, n_out)
    dZ = draw(rng, dtype, n, n_out)

    Z = _ops.dense_forward(X, W, b)
    assert_within(Z, reference.dense_forward(X.tolist(), W.tolist(), b.tolist()),
                  product_bound(X, W, dtype) + np.abs(b) * np.finfo(dtype).eps)
    without_bias = _ops.dense_forward(X, W)
    assert_within(without_bias, reference.dense_forward(X.tolist(), W.tolist()),
                  product_bound(X, W, dtype))
    rectified = _ops.dense_forward(X, W, b, relu=True)
    assert np.array_equal(rectified, np.maximum(Z, 0))

    dW, db = np.empty_like(W), np.empty_like(b)
    dX = _ops.dense_backward(X, W, dZ, dW=dW, db=db)
    expected = reference.dense_backward(X.tolist(), W.tolist(), dZ.tolist())
    assert_within(dX, expected[0], product_bound(dZ, W.T, dtype))
    assert_within(dW, expected[1], product_bound(X.T, dZ, dtype))
    assert_within(db, expected[2], product_bound(np.ones((1, n), dtype), dZ, dtype)[0])


def assert_dense(shape, dtype, rng, fenced):
    """Dense kernels agree with float64. Outputs start as NaN and lie between fences."""
    n, n_in, n_out = shape
    X, W, b = draw(rng, dtype, n, n_in), draw(rng, dtype, n_in, n_out), draw(rng, dtype, n_out)
    dZ, fences = draw(rng, dtype, n, n_out), fenced()
    Z, packed_Z, dX, dW, db = (fences.put(np.full(size, np.nan, dtype)) for size in [
        (n, n_out), (n, n_out), (n, n_in), (n_in, n_out), n_out])

    _ops.dense_forward(X, W, b, Z)
    _ops.dense_forward_packed(X, _ops.pack_weights(W), n_out, b, packed_Z)
    _ops.dense_backward(X, W, dZ, dX, dW, db)
    masked = _ops.dense_backward(X, W, dZ, fences.put(np.full_like(X, np.nan)), relu=True)
    sum_dW, sum_db = fences.put(W), fences.put(b)
    _ops.dense_backward(X, W, dZ, dW=sum_dW, db=sum_db, input_gradient=False, add=True)

    assert fences.stand()
    assert np.array_equal(masked, _ops.relu_backward(X, dX))
    bound = product_bound(X, W, dtype) + np.abs(b) * np.finfo(dtype).eps
    bounds = (product_bound(dZ, W.T, dtype), product_bound(X.T, dZ, dtype),
              product_bound(np.ones((1, n)), dZ, dtype)[0])
    X, W, b, dZ = exact(X, W, b, dZ)
    assert_within(Z, X @ W + b, bound)
    assert_within(packed_Z, X @ W + b, bound)
    for found, expected, bound in zip((dX, dW, db), (dZ @ W.T, X.T @ dZ, dZ.sum(0)), bounds,
                                      strict=True):
        assert_within(found, expected, bound)
    for found, expected, bound in zip((sum_dW, sum_db), (W + X.T @ dZ, b + dZ.sum(0)), bounds[1:],
                                      strict=True):
        assert_within(found, expected, bound + np.abs(expected) * np.finfo(dtype).eps)


@pytest.mark.parametrize("n_in", [1, 2, 3, 7, 8, 9, 16, 33])
def test_dense_at_every_width_and_batch(n_in, dtype, rng, fenced):
    for n, n_out in itertools.product(range(1, 34), repeat=2):
        assert_dense((n, n_in, n_out), dtype, rng, fenced)


def limit(name):
    """The value of a constant of the kernels."""
    source = Path(__file__).parents[1] / "fastnet"
    text = "".join(path.read_text() for path in source.glob("*.pxi"))
    return int(re.search(rf"^    {name} = ([\d_]+)", text, re.M)[1])


HEIGHT, LARGE, FAR, TALL = map(limit, ["HEIGHT", "LARGE", "FAR", "TALL"])
DEPTH = 320 if _ops.isa == "x86-64-v4" else 512

# On both sides of every limit at which products are cut, or computed another way.
LIMITS = [
    (1, 4096, 1), (4096, 1, 1), (1, 1, 4096), (1, 4096, 5), (4096, 1, 5), (5, 1, 4096),
    (4096, 5, 1),
    # the inner dimension in one block and in more: of Z, dX, dW
    (20, DEPTH, 24), (20, DEPTH + 1, 24), (20, 24, DEPTH), (20, 24, DEPTH + 1), (DEPTH, 24, 20),
    (DEPTH + 1, 24, 20), (1, 1100, 300), (3, 300, 1100), (64, 2 * DEPTH + 1, 10),
    # rows in one block and in more
    (HEIGHT, 20, 24), (HEIGHT + 1, 20, 24), (20, HEIGHT, 24), (20, HEIGHT + 1, 24), (5, 7, 1100),
    (HEIGHT + 1, DEPTH + 1, 24), (DEPTH + 1, HEIGHT + 1, 24),
    # results so large that they are written row by row
    (512, 30, LARGE // 512), (512, 30, LARGE // 512 + 1), (30, 512, LARGE // 512 + 1),
    (300, 5, 1000), (283, 938, 1), (1332, 202, 3), (655, DEPTH + 1, 401), (DEPTH + 1, 655, 401),
    # B copied to a panel if it is large and its strips serve many rows; all of it if there is room
    (TALL, FAR // 363, 363), (TALL, FAR // 363 + 1, 363), (TALL - 1, FAR // 363 + 1, 363),
    (79, 136, 993), (153, 76, 879), (443, 594, 2), (HEIGHT + 1, DEPTH + 1, FAR // DEPTH),
    (DEPTH + 1, HEIGHT + 1, FAR // DEPTH), (400, 40, 20), (400, 600, 70), (800, 70, 520),
    # few outputs for many rows by scalar products, unless the weights exceed the panel
    (33, 128, 4), (1025, 40, 2), (150, 3300, 5),
    # few rows in wide strips, alone and along several blocks
    (2, 300, 270), (3, 50, 390), (4, 50, 390), (5, 167, 2), (DEPTH + 1, 138, 2),
    (DEPTH + 1, 1, 152), (DEPTH + 1, 142, 1),
    # dX and dW the other way round
    (4, HEIGHT + 1, 1), (4, HEIGHT + 1, 2), (7, 1100, 5), (16, HEIGHT + 1, DEPTH + 1),
    (21, HEIGHT + 1, 115), (80, HEIGHT + 1, 199), (586, 239, 68), (1359, 16, 395),
]


@pytest.mark.parametrize("shape", LIMITS, ids=str)
def test_dense_on_both_sides_of_every_limit(shape, dtype, rng, fenced):
    assert_dense(shape, dtype, rng, fenced)


@pytest.mark.parametrize("shape", [
    (3, DEPTH + 1, 300), (70, DEPTH + 1, 48), (64, DEPTH + 1, 500), (1025, 40, 2)], ids=str)
def test_dense_forward_rectifies_its_results_at_last(shape, dtype, rng):
    n, n_in, n_out = shape
    X, W, b = draw(rng, dtype, n, n_in), draw(rng, dtype, n_in, n_out), draw(rng, dtype, n_out)
    packed = _ops.pack_weights(W)
    for run in (lambda relu: _ops.dense_forward(X, W, b, relu=relu),
                lambda relu: _ops.dense_forward_packed(X, packed, n_out, b, relu=relu)):
        assert np.array_equal(run(True), np.maximum(run(False), 0))


# A single output goes by scalar products or tiles, whole vectors of outputs by tiles, and two
# outputs of many rows by whichever is quicker: packed or not, on every instruction set.
@pytest.mark.parametrize("shape", [
    (1, 300, 256), (7, 5, 64), (33, 500, 48), (400, 600, 160), (8, 784, 1), (40, 3, 1),
    (1000, 64, 2)], ids=str)
def test_packed_weights_give_the_same_bits_where_both_go_the_same_way(shape, dtype, rng):
    n, n_in, n_out = shape
    X, W, b = draw(rng, dtype, n, n_in), draw(rng, dtype, n_in, n_out), draw(rng, dtype, n_out)
    packed = _ops.pack_weights(W)
    assert np.array_equal(_ops.dense_forward_packed(X, packed, n_out, b, relu=True),
                          _ops.dense_forward(X, W, b, relu=True))
    assert np.array_equal(_ops.dense_forward_packed(X, packed, n_out), _ops.dense_forward(X, W))


def test_dense_with_bias_starts_from_it_and_zero_input_gives_it(dtype):
    b = np.arange(1, 36, dtype=dtype)
    Z = _ops.dense_forward(np.zeros((3, 2), dtype), np.ones((2, 35), dtype), b)
    assert np.array_equal(Z, np.tile(b, (3, 1)))


def test_dense_backward_parts_can_be_left_out(dtype, rng):
    X, W, dZ = draw(rng, dtype, 9, 5), draw(rng, dtype, 5, 7), draw(rng, dtype, 9, 7)
    dW, db = np.empty_like(W), np.empty(7, dtype)
    dX = _ops.dense_backward(X, W, dZ, dW=dW, db=db)
    assert np.array_equal(_ops.dense_backward(X, W, dZ), dX)
    only_dW, only_db = np.full_like(dW, np.nan), np.full_like(db, np.nan)
    assert _ops.dense_backward(X, W, dZ, dW=only_dW, input_gradient=False) is None
    assert _ops.dense_backward(X, W, dZ, db=only_db, input_gradient=False) is None
    assert np.array_equal(only_dW, dW) and np.array_equal(only_db, db)


@pytest.mark.parametrize("n_out", [1, 3, 40])
def test_the_gradient_passes_a_relu_where_its_output_is_nan(dtype, n_out):
    X, W, dZ = np.ones((20, 40), dtype), np.ones((40, n_out), dtype), np.ones((20, n_out), dtype)
    X[:, :3] = np.nan, -0.0, 0.0
    expected = np.full_like(X, n_out)
    expected[:, 1:3] = 0
    assert np.array_equal(_ops.dense_backward(X, W, dZ, relu=True), expected)


def test_gradients_are_overwritten_not_added_to(dtype, rng):
    X, W, dZ = draw(rng, dtype, 9, 5), draw(rng, dtype, 5, 7), draw(rng, dtype, 9, 7)
    dW, db = np.empty_like(W), np.empty(7, dtype)
    _ops.dense_backward(X, W, dZ, dW=dW, db=db)
    again_dW, again_db = dW.copy(), db.copy()
    _ops.dense_backward(X, W, dZ, dW=again_dW, db=again_db)
    assert np.array_equal(again_dW, dW) and np.array_equal(again_db, db)


def test_dense_with_no_rows(dtype):
    X, W, b = np.empty((0, 3), dtype), np.ones((3, 2), dtype), np.ones(2, dtype)
    assert _ops.dense_forward(X, W, b).shape == (0, 2)
    dW, db = np.ones((3, 2), dtype), np.ones(2, dtype)
    dX = _ops.dense_backward(X, W, np.empty((0, 2), dtype), dW=dW, db=db)
    assert dX.shape == (0, 3) and not dW.any() and not db.any()
    assert _ops.dense_forward_packed(X, _ops.pack_weights(W), 2, b).shape == (0, 2)
    _ops.dense_sgd_update(X, np.empty((0, 2), dtype), W, lr=0.1)
    assert (W == 1).all()


def test_long_bias_sums_are_taken_in_double():
    """2 ** 24 + 1 is no float32: a float32 sum of ones would stop at 2 ** 24."""
    dZ = np.ones((2**24 + 8, 1), np.float32)
    db = np.empty(1, np.float32)
    _ops.dense_backward(dZ, np.ones((1, 1), np.float32), dZ, db=db, input_gradient=False)
    assert db[0] == 2**24 + 8


# ---- Element by element ----------------------------------------------------------------------

@pytest.mark.parametrize("size", SIZES)
def test_exp_and_log_agree_with_the_reference(size, dtype, rng):
    """Either is off by at most 2 units in the last place; test_exp_log.py is about accuracy."""
    X = 10 * draw(rng, dtype, 3, size)
    Y = _ops.exp_forward(X)
    expected = np.array(reference.exp_forward(X.tolist()))
    assert_within(Y, expected, 2 * np.finfo(dtype).eps * expected)
    expected = np.array(reference.log_forward(Y.tolist()))
    assert_within(_ops.log_forward(Y), expected, 2 * np.finfo(dtype).eps * np.abs(expected))


@pytest.mark.parametrize("size", SIZES)
def test_elementwise_kernels_equal_the_reference(size, dtype, rng):
    """At most one rounding per element: both must give the same number, rounded to the dtype."""
    A, B, dY = (draw(rng, dtype, 3, size) for _ in range(3))
    A[0, 0] = B[0, 0]                                   # a tie
    A[1, 0], B[2, 0] = 0, -0.0
    a, b, dy = A.tolist(), B.tolist(), dY.tolist()

    def same(found, expected):
        assert np.array_equal(found, np.array(expected).astype(dtype))

    same(_ops.relu_forward(A), reference.relu_forward(a))
    same(_ops.relu_backward(A, dY), reference.relu_backward(a, dy))
    same(_ops.add_forward(A, B), reference.add_forward(a, b))
    for found, expected in zip(_ops.add_backward(dY), reference.add_backward(dy), strict=True):
        same(found, expected)
    same(_ops.maximum_forward(A, B), reference.maximum_forward(a, b))
    for found, expected in zip(_ops.maximum_backward(A, B, dY),
                               reference.maximum_backward(a, b, dy), strict=True):
        same(found, expected)
    same(_ops.scale_forward(A, 3.0), reference.scale_forward(a, 3.0))
    same(_ops.scale_backward(dY, -0.5), reference.scale_backward(dy, -0.5))


def test_maximum_on_a_tie_lets_the_first_win(dtype):
    A, B = np.array([1, 2], dtype), np.array([1, 3], dtype)
    dA, dB = _ops.maximum_backward(A, B, np.array([5, 7], dtype))
    assert dA.tolist() == [5, 0] and dB.tolist() == [0, 7]


def test_relu_at_zero_and_its_mask(dtype):
    X = np.array([-2, -0.0, 0.0, np.finfo(dtype).tiny, 3], dtype)
    Y = _ops.relu_forward(X)
    assert Y.tolist() == [0, 0, 0, np.finfo(dtype).tiny, 3]
    assert not np.signbit(Y).any()                      # -0.0 becomes 0.0
    assert _ops.relu_backward(X, np.ones(5, dtype)).tolist() == [0, 0, 0, 1, 1]


def test_nan_and_infinity_are_passed_on(dtype):
    nan, inf = np.nan, np.inf
    X = np.array([nan, inf, -inf, 1], dtype)
    ones = np.ones(4, dtype)
    np.testing.assert_array_equal(_ops.relu_forward(X), [nan, inf, 0, 1])
    np.testing.assert_array_equal(_ops.relu_backward(X, ones), [1, 1, 0, 1])
    np.testing.assert_array_equal(_ops.relu_backward(ones, X), X)
    np.testing.assert_array_equal(_ops.maximum_forward(X, ones), [nan, inf, 1, 1])
    np.testing.assert_array_equal(_ops.maximum_forward(ones, X), [nan, inf, 1, 1])
    np.testing.assert_array_equal(_ops.add_forward(X, ones), [nan, inf, -inf, 2])
    rows = X.reshape(1, 4)
    assert np.isnan(_ops.dense_forward(rows, np.ones((4, 35), dtype))).all()
    assert np.isnan(_ops.dense_forward(rows, np.ones((4, 35), dtype), relu=True)).all()
    for position in range(4):
        row = np.zeros((1, 4), dtype)
        row[0, position] = nan
        assert np.isnan(_ops.softmax_forward(row)).all()
        loss, gradient = _ops.softmax_cross_entropy(row, np.array([1]))
        assert np.isnan(loss) and np.isnan(gradient).all()


# ---- Softmax and losses ----------------------------------------------------------------------

def targets(rng, dtype, n, n_classes):
    """All forms of a target, and what the reference takes for each."""
    labels = rng.integers(n_classes, size=n)
    one_hot = np.eye(n_classes, dtype=dtype)[labels]
    soft = rng.dirichlet(np.ones(n_classes), n).astype(dtype)
    weights = (3 * rng.random((n, n_classes))).astype(dtype)
    weights[0] = 0                                      # a row that counts for nothing
    return {"labels": labels, "one-hot": one_hot, "soft": soft, "weights": weights}


@pytest.mark.parametrize("form", ["labels", "one-hot", "soft", "weights"])
@pytest.mark.parametrize("size", SIZES)
def test_softmax_and_losses_agree_with_the_reference(size, form, dtype, rng):
    """Sums and log are double inside and the result is rounded a few times: 4 eps of the largest
    value; where the dtype is double as well, a sum of n_classes terms adds as many.

    A loss is a double, but scores x are subtracted and exponentials taken in the dtype: an error of
    eps / 2 |x - m| + 1.3 eps in exp(x - m), and 4 eps in log-sum-exp.
    """
    for n, n_classes in [(3, size), (size, 4)]:
        n_eps = 4 + (n_classes if dtype == np.float64 else 0)
        X = (4 * draw(rng, dtype, n, n_classes))
        dY = draw(rng, dtype, n, n_classes)
        T = targets(rng, dtype, n, n_classes)[form]

        Y = _ops.softmax_forward(X)
        assert_close(Y, reference.softmax_forward(X.tolist()), n_eps)
        assert_close(_ops.softmax_backward(Y, dY),
                     reference.softmax_backward(Y.tolist(), dY.tolist()), n_eps)

        loss, gradient = _ops.softmax_cross_entropy(X, T)
        expected, expected_gradient = reference.softmax_cross_entropy(X.tolist(), T.tolist())
        assert isinstance(loss, float)
        eps = 4 * float(np.finfo(dtype).eps)
        assert loss == pytest.approx(expected, rel=n * n_classes * 1e-15 + eps, abs=eps)
        assert_close(gradient, expected_gradient, n_eps)

        # Of these losses all is double, whatever the dtype.
        P = np.maximum(Y, np.finfo(dtype).tiny)
        loss, gradient = _ops.cross_entropy(P, T)
        expected, expected_gradient = reference.cross_entropy(P.tolist(), T.tolist())
        assert loss == pytest.approx(expected, rel=n * n_classes * 1e-15, abs=1e-15)
        assert_close(gradient, expected_gradient, n_eps)

        assert _ops.count_correct(X, T) == reference.count_correct(X.tolist(), T.tolist())
        for k in (2, 3):
            assert (_ops.count_correct(X, T, k)
                    == reference.count_correct(X.tolist(), T.tolist(), k))


@pytest.mark.parametrize("n_classes", [*range(1, limit("NARROW") + 4), 64, 67, 4096])
def test_softmax_and_losses_at_every_width_and_batch(n_classes, dtype, rng):
    """Against float64; bounds as above, for gradients times the n by which they are divided."""
    n_eps = 4 + (n_classes if dtype == np.float64 else 0)
    for n in [*range(1, 34), 67] if n_classes < 4096 else [1, 3, 5]:
        X, dY = 4 * draw(rng, dtype, n, n_classes), draw(rng, dtype, n, n_classes)
        target = targets(rng, dtype, n, n_classes)
        labels, T = target["labels"], target["weights"]
        x, dy, t, one_hot = exact(X, dY, T, target["one-hot"])
        e = np.exp(x - x.max(1, keepdims=True))
        softmax, log_softmax = e / e.sum(1, keepdims=True), x - x.max(1, keepdims=True)
        log_softmax -= np.log(e.sum(1, keepdims=True))

        Y = _ops.softmax_forward(X)
        assert_close(Y, softmax, n_eps)
        y = exact(Y)[0]
        assert_close(_ops.softmax_backward(Y, dY), y * (dy - (y * dy).sum(1, keepdims=True)), n_eps)
        for given, weights in (labels, one_hot), (T, t):
            loss, gradient = _ops.softmax_cross_entropy(X, given)
            eps = 4 * float(np.finfo(dtype).eps)
            assert loss == pytest.approx(-(weights * log_softmax).sum() / n, abs=eps,
                                         rel=n * n_classes * 1e-15 + eps)
            assert_close(gradient * n, weights.sum(1, keepdims=True) * softmax - weights, n_eps)

            P = np.maximum(Y, np.finfo(dtype).tiny)
            p = exact(P)[0]
            loss, gradient = _ops.cross_entropy(P, given)
            assert loss == pytest.approx(-(weights * np.log(p)).sum() / n, abs=1e-15,
                                         rel=n * n_classes * 1e-15)
            assert_within(gradient, -weights / p / n, 2 * np.finfo(dtype).eps * weights / p / n)


@pytest.mark.parametrize("size", SIZES)
def test_mean_squared_error_agrees_with_the_reference(size, dtype, rng):
    Y, T = draw(rng, dtype, 3, size), draw(rng, dtype, 3, size)
    loss, gradient = _ops.mean_squared_error(Y, T)
    expected, expected_gradient = reference.mean_squared_error(Y.tolist(), T.tolist())
    assert loss == pytest.approx(expected, rel=3 * size * 1e-15)
    assert_close(gradient, expected_gradient, 2)


def test_count_correct_counts_the_first_of_equals_and_nan_as_largest(dtype):
    scores = np.array([[1, 1, 0], [0, np.nan, 5], [2, 3, 3], [1, 2, 0]], dtype)
    assert _ops.count_correct(scores, np.argmax(scores, axis=1)) == 4
    assert _ops.count_correct(scores, np.array([1, 2, 2, 0])) == 0


def test_softmax_of_scores_of_any_finite_size(dtype):
    X = np.array([[1e30, -1e30, 1e30], [1000, 1001, 1000], [-1e30, -1e30, -1e30]], dtype)
    e = np.exp(1)
    expected = [[0.5, 0, 0.5], [1 / (2 + e), e / (2 + e), 1 / (2 + e)], [1 / 3] * 3]
    assert_close(_ops.softmax_forward(X), np.array(expected), 1)


def test_scores_of_any_finite_size_have_their_exact_loss(dtype):
    X = np.array([[1e30, -1e30], [1e30, 1e30], [-1e30, -1e30]], dtype)
    wrong = float(X[0, 0]) - float(X[0, 1])
    loss, gradient = _ops.softmax_cross_entropy(X, np.array([1, 0, 1]))
    assert loss == pytest.approx((wrong + 2 * np.log(2)) / 3, rel=1e-15)
    assert_close(gradient, np.array([[1, -1], [-0.5, 0.5], [0.5, -0.5]]) / 3, 1)
    assert _ops.softmax_cross_entropy(X[:1], np.array([0]))[0] == 0.0


def test_a_weight_of_zero_contributes_zero_even_at_minus_infinity(dtype):
    X = np.array([[0.0, -np.inf]], dtype)
    for target in (np.array([0]), np.array([[1, 0]], dtype)):
        loss, gradient = _ops.softmax_cross_entropy(X, target)
        assert loss == 0.0 and gradient.tolist() == [[0, 0]]
    loss, gradient = _ops.softmax_cross_entropy(X, np.array([1]))
    assert loss == np.inf and gradient.tolist() == [[1, -1]]
    loss, gradient = _ops.cross_entropy(np.array([[1, 0]], dtype), np.array([0]))
    assert loss == 0.0 and gradient.tolist() == [[-1, 0]]


def test_all_scores_minus_infinity_give_nan(dtype):
    X = np.full((1, 3), -np.inf, dtype)
    assert np.isnan(_ops.softmax_cross_entropy(X, np.array([0]))[0])


def test_long_losses_are_summed_in_double():
    """Equal scores of n rows: the mean is log 2 to the last digits, in float32 as well."""
    X = np.zeros((100_003, 2), np.float32)
    loss, _ = _ops.softmax_cross_entropy(X, np.zeros(len(X), np.int64))
    assert loss == pytest.approx(np.log(2), rel=1e-11)      # 1e5 roundings of 1e-16
    loss, _ = _ops.mean_squared_error(np.full(100_003, 0.1, np.float32),
                                      np.zeros(100_003, np.float32))
    assert loss == pytest.approx(float(np.float32(0.1)) ** 2, rel=1e-11)


# ---- Central differences ---------------------------------------------------------------------
# In float64 with step h = 1e-5 the central difference is off by about h^2 = 1e-10 times the third
# derivative, of order 1 to 10, for which 1e-8 is allowed, and by the rounding of the loss divided
# by h: some 20 eps of its size, as it is a sum of many terms.

H = 1e-5


def central_difference(function, array):
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + H
        above = function()
        array[index] = value - H
        below = function()
        array[index] = value
        gradient[index] = (above - below) / (2 * H)
    return gradient


def assert_gradient(found, function, array):
    allowed = 1e-8 + 20 * np.finfo(np.float64).eps * abs(function()) / H
    np.testing.assert_allclose(found, central_difference(function, array), rtol=0, atol=allowed)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dense_backward_is_the_derivative(shape, dtype, rng):
    n, n_in, n_out = shape
    X, W, b = draw(rng, dtype, n, n_in), draw(rng, dtype, n_in, n_out), draw(rng, dtype, n_out)
    R = draw(rng, dtype, n, n_out)                      # loss = sum of R * Z, so dZ = R
    dW, db = np.empty_like(W), np.empty_like(b)
    dX = _ops.dense_backward(X, W, R, dW=dW, db=db)
    bounds = (product_bound(R, W.T, dtype), product_bound(X.T, R, dtype),
              product_bound(np.ones((1, n)), R, dtype)[0])
    X, W, b, R = exact(X, W, b, R)

    def loss():
        return float(np.sum(R * _ops.dense_forward(X, W, b)))

    # The loss is linear in each array: its difference has no error but that of rounding a sum of
    # n * n_out terms, divided by 2 h.
    rounding = n * n_out * 1e-15 * np.sqrt(n_in) / H
    for gradient, array, bound in zip((dX, dW, db), (X, W, b), bounds, strict=True):
        assert_within(gradient, central_difference(loss, array), bound + rounding)


@pytest.mark.parametrize("size", SIZES)
def test_elementwise_backwards_are_the_derivatives(size, rng):
    A, B = rng.normal(size=(2, size)), rng.normal(size=(2, size))
    A += np.sign(A) * 10 * H                            # away from the kinks at 0 and at A = B
    B += np.sign(B - A) * 10 * H
    R = rng.normal(size=(2, size))

    def weighted(Y):
        return float(np.sum(R * Y))

    assert_gradient(_ops.relu_backward(A, R), lambda: weighted(_ops.relu_forward(A)), A)
    assert_gradient(_ops.scale_backward(R, 2.5), lambda: weighted(_ops.scale_forward(A, 2.5)), A)
    for gradient, array in zip(_ops.add_backward(R), (A, B), strict=True):
        assert_gradient(gradient, lambda: weighted(_ops.add_forward(A, B)), array)
    for gradient, array in zip(_ops.maximum_backward(A, B, R), (A, B), strict=True):
        assert_gradient(gradient, lambda: weighted(_ops.maximum_forward(A, B)), array)


@pytest.mark.parametrize("n_classes", SIZES)
def test_softmax_and_loss_gradients_are_the_derivatives(n_classes, rng):
    X, R = rng.normal(size=(4, n_classes)), rng.normal(size=(4, n_classes))
    assert_gradient(_ops.softmax_backward(_ops.softmax_forward(X), R),
                    lambda: float(np.sum(R * _ops.softmax_forward(X))), X)
    P = rng.uniform(0.2, 1.0, size=(4, n_classes))
    for T in targets(rng, np.float64, 4, n_classes).values():
        assert_gradient(_ops.softmax_cross_entropy(X, T)[1],
                        lambda T=T: _ops.softmax_cross_entropy(X, T)[0], X)
        assert_gradient(_ops.cross_entropy(P, T)[1], lambda T=T: _ops.cross_entropy(P, T)[0], P)
    assert_gradient(_ops.mean_squared_error(X, R)[1],
                    lambda: _ops.mean_squared_error(X, R)[0], X)


def test_losses_without_gradient(dtype, rng):
    X, T = draw(rng, dtype, 5, 4), rng.integers(4, size=5)
    P = _ops.softmax_forward(X)
    for kernel, arguments in [(_ops.softmax_cross_entropy, (X, T)), (_ops.cross_entropy, (P, T)),
                              (_ops.mean_squared_error, (X, P))]:
        assert kernel(*arguments, gradient=False) == (kernel(*arguments)[0], None)


def test_softmax_then_cross_entropy_equals_the_fused_kernel(dtype, rng):
    """Two routes to one gradient; the long one rounds p, t / p and their products: 8 eps."""
    X = draw(rng, dtype, 20, 7)
    for T in targets(rng, dtype, 20, 7).values():
        loss, gradient = _ops.softmax_cross_entropy(X, T)
        Y = _ops.softmax_forward(X)
        by_hand, dY = _ops.cross_entropy(Y, T)
        assert by_hand == pytest.approx(loss, rel=8 * float(np.finfo(dtype).eps))
        assert_close(_ops.softmax_backward(Y, dY), gradient.astype(np.float64), 8)


# ---- SGD -------------------------------------------------------------------------------------

@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("size", SIZES)
def test_sgd_update_agrees_with_the_reference(size, momentum, nesterov, dtype, rng):
    """Three steps; lr and momentum are rounded to the dtype, then about 4 roundings a step."""
    W, V = draw(rng, dtype, size), np.zeros(size, dtype)
    lr, momentum = float(dtype.type(0.1)), float(dtype.type(momentum))
    expected_W, expected_V = W.tolist(), V.tolist()
    for _ in range(3):
        dW = draw(rng, dtype, size)
        _ops.sgd_update([dW], [W], [V], lr, momentum, nesterov)
        expected_W, expected_V = reference.sgd_update(
            dW.tolist(), expected_W, expected_V, lr, momentum, nesterov)
    assert_close(W, expected_W, 12)
    assert_close(V, expected_V, 12)


def test_sgd_update_without_velocity_is_plain_descent(dtype, rng):
    W, dW = draw(rng, dtype, 33), draw(rng, dtype, 33)
    expected = W - dtype.type(0.5) * dW
    _ops.sgd_update([dW], [W], [None], 0.5)
    np.testing.assert_array_equal(W, expected)              # halving is exact: one rounding


@pytest.mark.parametrize("shape", [
    (1, 1, 1), (1, 65, 3), (1, 70, 1), (1, 300, 140), (5, 33, 7), (64, 40, 3), (40, 64, 1),
    (2, 300, 140), (9, 70, 65), (300, 70, 2), (DEPTH + 1, 515, 51), (140, 100, 993)], ids=str)
def test_dense_sgd_update_gives_the_bits_of_its_two_steps(shape, dtype, rng):
    n, n_in, n_out = shape
    X, dZ = draw(rng, dtype, n, n_in), draw(rng, dtype, n, n_out)
    W, V, dW = (draw(rng, dtype, n_in, n_out) for _ in range(3))
    dX = _ops.dense_backward(X, W, dZ, dW=dW, relu=True)
    for momentum, nesterov in [(None, False), (0.0, False), (0.9, False), (0.9, True)]:
        options = {"lr": 0.1, "momentum": momentum or 0.0, "nesterov": nesterov}
        w, v = W.copy(), None if momentum is None else V.copy()
        _ops.sgd_update([dW], [w], [v], **options)
        for rows in (0, 1, 3, 32, 45, n_in, 10 * n_in):
            new_w, new_v = W.copy(), None if momentum is None else V.copy()
            new_dX = np.full_like(X, np.nan)
            _ops.dense_sgd_update(X, dZ, new_w, new_v, new_dX, **options, relu=True, rows=rows)
            assert new_dX.tobytes() == dX.tobytes(), (options, rows)
            assert new_w.tobytes() == w.tobytes(), (options, rows)
            assert v is None or new_v.tobytes() == v.tobytes(), (options, rows)
