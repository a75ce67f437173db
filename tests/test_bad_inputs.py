"""What bad input gets: one test per kind of mistake, through every public door it can come in by.

Every check runs before native code starts, so an error leaves parameters, optimizer state and
outputs as they were; `unchanged` watches that. Numbers in names are those of the list of bad
inputs that the project keeps.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastnet as fn
from fastnet import _ops, initializers

LOSSES = {"softmax": fn.SoftmaxCrossEntropy, "probabilities": fn.CrossEntropy}


def matrix(*shape, dtype=np.float32):
    return np.linspace(0.1, 1, int(np.prod(shape)), dtype=dtype).reshape(shape)


@contextlib.contextmanager
def unchanged(layer):
    """The block raises, and the layer's arrays are what they were."""
    before = [(value.copy(), gradient.copy()) for _, value, gradient in layer.parameters()]
    yield
    for (_, value, gradient), (old, old_gradient) in zip(layer.parameters(), before, strict=True):
        assert np.array_equal(value, old) and np.array_equal(gradient, old_gradient)


def assert_refused(x, error, match, features=4):
    """Every door that takes a matrix of numbers refuses `x`."""
    for layer in (fn.Dense(features, 2), fn.Softmax(), fn.ReLU(), fn.Residual([fn.ReLU()])):
        with unchanged(layer), pytest.raises(error, match=match):
            layer.forward(x)
    dense = fn.Dense(2, features)
    dense.forward(matrix(1, 2))
    with unchanged(dense), pytest.raises(error, match=match):
        dense.backward(x)
    for loss in (fn.SoftmaxCrossEntropy(), fn.CrossEntropy()):
        with pytest.raises(error, match=match):
            loss.forward(x, [0])
    for arguments in ((x, matrix(1, 4)), (matrix(1, 4), x)):
        with pytest.raises(error, match=match):
            fn.MeanSquaredError().forward(*arguments)
    for layer in (fn.Add(), fn.Maximum()):
        with pytest.raises(error, match=match):
            layer.forward(matrix(1, 4), x)
    with pytest.raises(error, match=match):
        fn.accuracy(x, [0])
    with unchanged(dense), pytest.raises(error, match=match):
        dense.weight = x


# ---- Shapes ----------------------------------------------------------------------------------

def test_01_no_rows(dtype):
    x = np.empty((0, 4), dtype)
    for layer, width in [(fn.Dense(4, 3, dtype=dtype), 3), (fn.ReLU(), 4), (fn.Softmax(), 4),
                         (fn.Residual([fn.Dense(4, 4, dtype=dtype)]), 4)]:
        assert layer.forward(x).shape == (0, width)
        assert layer.backward(np.empty((0, width), dtype)).shape == (0, 4)
    for loss in LOSSES.values():
        with pytest.raises(ValueError, match="0 rows"):
            loss().forward(x, np.empty(0, int))
    with pytest.raises(ValueError, match="0 entries"):
        fn.MeanSquaredError().forward(x, x)
    with pytest.raises(ValueError, match="0 rows"):
        fn.accuracy(x, np.empty(0, int))


@pytest.mark.parametrize("width", [0, -1])
def test_02_no_features(width):
    with pytest.raises(ValueError, match=r"in_features must be in the interval \[1, inf\), got"):
        fn.Dense(width, 3)
    with pytest.raises(ValueError, match=r"out_features must be in the interval \[1, inf\), got"):
        fn.Dense(3, width)
    for wrong in (2.0, "2", None, True):
        with pytest.raises(TypeError, match="in_features must be an int"):
            fn.Dense(wrong, 3)
    empty = np.empty((3, 0), np.float32)
    for door in (fn.Softmax().forward, lambda x: fn.SoftmaxCrossEntropy().forward(x, [0, 0, 0])):
        with pytest.raises(ValueError, match="at least 1 column"):
            door(empty)


def test_03_one_class(dtype):
    loss = fn.SoftmaxCrossEntropy()
    assert loss.forward(matrix(3, 1, dtype=dtype), [0, 0, 0]) == 0
    assert not loss.backward().any()
    assert fn.accuracy(matrix(3, 1), [0, 0, 0]) == 1


@pytest.mark.parametrize("shape", [(), (4,), (1, 4, 1)])
def test_04_wrong_number_of_dimensions(shape):
    x = matrix(*shape)
    for door in (fn.Dense(4, 2).forward, fn.Softmax().forward,
                 lambda x: fn.SoftmaxCrossEntropy().forward(x, [0])):
        with pytest.raises(ValueError, match=f"must have 2 dimensions, got {len(shape)}"):
            door(x)
    dense = fn.Dense(2, 4)
    dense.forward(matrix(1, 2))
    with unchanged(dense), pytest.raises(ValueError, match="must have 2 dimensions"):
        dense.backward(x)


def test_05_wrong_number_of_features():
    layer = fn.Dense(784, 10)
    with unchanged(layer), pytest.raises(ValueError, match="X must have 784 features, got 100"):
        layer.forward(matrix(3, 100))
    layer.forward(matrix(3, 784))
    with unchanged(layer), pytest.raises(ValueError, match="must have 10 features, got 9"):
        layer.backward(matrix(3, 9))
    assert layer.backward(matrix(3, 10)).shape == (3, 784)      # the good call still works
    with pytest.raises(ValueError, match="keep the shape"):
        fn.Residual([fn.Dense(4, 3)]).forward(matrix(2, 4))
    for layer in (fn.Add(), fn.Maximum()):
        with pytest.raises(ValueError, match=r"must have shape \(2, 4\), got \(2, 1\)"):
            layer.forward(matrix(2, 4), matrix(2, 1))
    with pytest.raises(ValueError, match=r"the shape of y, \(4, 1\), got \(4,\)"):
        fn.MeanSquaredError().forward(matrix(4, 1), matrix(4))
    relu = fn.ReLU()
    relu.forward(matrix(2, 4))
    with pytest.raises(ValueError, match=r"must have shape \(2, 4\), got \(2, 3\)"):
        relu.backward(matrix(2, 3))


def test_06_different_numbers_of_rows():
    for loss in LOSSES.values():
        with pytest.raises(ValueError, match="target must have 3 rows, got 2"):
            loss().forward(matrix(3, 4), [0, 1])
        with pytest.raises(ValueError, match=r"target must have shape \(3, 4\), got \(2, 4\)"):
            loss().forward(matrix(3, 4), np.eye(4)[:2])
    layer = fn.Dense(4, 2)
    layer.forward(matrix(3, 4))
    with unchanged(layer), pytest.raises(ValueError, match="must have 3 rows, got 2"):
        layer.backward(matrix(2, 2))


def test_07_batch_size_changes_between_calls(dtype, rng):
    layer, fresh = fn.Dense(5, 3, dtype=dtype, rng=1), fn.Dense(5, 3, dtype=dtype, rng=1)
    for n in (32, 7, 1, 33, 32):
        x, dy = rng.normal(size=(n, 5)).astype(dtype), rng.normal(size=(n, 3)).astype(dtype)
        y, dx = layer.forward(x), layer.backward(dy)
        assert y.shape == (n, 3) and dx.shape == (n, 5)
        np.testing.assert_array_equal(layer.weight_grad, fresh_gradient(fresh, x, dy))


def fresh_gradient(layer, x, dy):
    layer.forward(x)
    layer.backward(dy)
    return layer.weight_grad


def test_09_sizes_that_overflow():
    for shape in [(2**40, 2**40), (2**32, 2**32), (2**62, 1), (2**31, 2**29)]:
        with pytest.raises(MemoryError):
            fn.Dense(*shape)
    wide = np.ones((2**22, 1), np.float32)
    layer = fn.Dense(1, 2**22)
    with pytest.raises(MemoryError):
        layer.forward(wide)
    assert layer.forward(wide[:1]).shape == (1, 2**22)          # 55: still usable


@pytest.mark.large
def test_09_more_than_2_to_the_31_elements():
    n = 2**31 + 1024
    x = np.zeros((n, 1), np.float32)
    x[-1] = 3
    y = _ops.dense_forward(x, np.full((1, 1), 2, np.float32))
    del x
    assert y[-1, 0] == 6 and y[-2, 0] == 0 and np.count_nonzero(y) == 1
    y[2**31] = -1
    z = _ops.relu_forward(y)
    assert z[-1, 0] == 6 and z[2**31, 0] == 0 and np.count_nonzero(z) == 1


# ---- Layout and dtype ------------------------------------------------------------------------

CONVERTED = {
    "10 float64 into float32": lambda x: x.astype(np.float64),
    "11 float16": lambda x: x.astype(np.float16),
    "12 int8": lambda x: x.astype(np.int8),
    "12 uint64": lambda x: x.astype(np.uint64),
    "12 bool": lambda x: x.astype(bool),
    "14 byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "16 Fortran order": np.asfortranarray,
    "17 negative strides": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "18 column slice": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "19 read-only": lambda x: read_only(x),
    "20 unaligned": lambda x: unaligned(x),
    "25 list": lambda x: x.tolist(),
    "25 list of arrays": list,
}


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def unaligned(x):
    memory = np.empty(x.nbytes + 1, np.uint8)[1:]
    y = memory.view(x.dtype).reshape(x.shape)
    y[...] = x
    assert not y.flags.aligned
    return y


@pytest.mark.parametrize("kind", CONVERTED)
def test_10_to_20_and_25_harmless_forms_are_converted(kind, dtype, rng):
    x = rng.integers(0, 2, size=(6, 4)).astype(dtype)
    form = CONVERTED[kind](x)
    dense = fn.Dense(4, 3, dtype=dtype, rng=0)
    dy = rng.normal(size=(6, 3)).astype(dtype)
    expected, expected_dx = dense.forward(x), dense.backward(dy)
    expected_dW = dense.weight_grad.copy()
    assert np.array_equal(dense.forward(form), expected)
    assert np.array_equal(dense.backward(dy), expected_dx)
    assert np.array_equal(dense.weight_grad, expected_dW)
    dense = fn.Dense(3, 4, dtype=dtype, rng=0)
    dense.forward(dy)
    expected = dense.backward(x)
    dense.forward(dy)
    assert np.array_equal(dense.backward(form), expected)
    for layer in (fn.ReLU(), fn.Softmax()):
        assert np.allclose(layer.forward(form), layer.forward(x), rtol=0, atol=1e-6)
    labels = np.array([0, 1, 2, 3, 0, 1])
    for loss in (fn.SoftmaxCrossEntropy(), fn.MeanSquaredError()):
        target = labels if isinstance(loss, fn.SoftmaxCrossEntropy) else x
        assert loss.forward(form, target) == pytest.approx(loss.forward(x, target), rel=1e-6)
    assert fn.SoftmaxCrossEntropy().forward(dy @ np.ones((3, 4), dtype), form) >= 0
    square = fn.Dense(6, 4, dtype=dtype)
    square.weight = form
    assert np.array_equal(square.weight, x)


def test_13_complex():
    assert_refused(matrix(1, 4) + 0j, ValueError, "must hold real numbers, got dtype complex")


@pytest.mark.parametrize("x", [np.array([["1", "2", "3", "4"]]), np.array([[1, 2, 3, None]]),
                               np.array([["2020-01-01"] * 4], "M8[D]"), "text", b"text"],
                         ids=["str", "object", "date", "text", "bytes"])
def test_15_objects_and_strings(x):
    assert_refused(x, ValueError, "must hold real numbers, got dtype")


def test_15_ragged_lists():
    assert_refused([[1, 2, 3, 4], [1]], ValueError, "must be an array of numbers")


def test_19_read_only_outputs(dtype):
    out = read_only(matrix(1, 4, dtype=dtype))
    before = out.copy()
    x = matrix(1, 4, dtype=dtype)
    for layer in (fn.Dense(4, 4, dtype=dtype), fn.ReLU(), fn.Softmax(), fn.Scale(2),
                  fn.Residual([fn.Dense(4, 4, dtype=dtype)])):
        with pytest.raises(ValueError, match="is read-only"):
            layer.forward(x, out=out)
        layer.forward(x)
        with unchanged(layer), pytest.raises(ValueError, match="is read-only"):
            layer.backward(x, out=out)
        layer.backward(x)                   # the failed call has used nothing up
    assert np.array_equal(out, before)
    weight = read_only(matrix(4))
    with pytest.raises(ValueError, match="parameter is read-only"):
        _ops.sgd_update([matrix(4)], [weight], [None], 0.1)


def test_20_unaligned_and_otherwise_unfit_arrays_never_reach_a_kernel(dtype):
    x = matrix(6, 4, dtype=dtype)
    weight, bias, z = matrix(4, 4, dtype=dtype), matrix(4, dtype=dtype), np.empty((6, 4), dtype)
    swapped = x.astype(x.dtype.newbyteorder())
    for bad in (unaligned(x), np.asfortranarray(x), swapped, x[::-1], x[:, ::-1]):
        with pytest.raises(ValueError, match="must be C-contiguous, aligned and in native byte"):
            _ops.dense_forward(bad, weight, bias, z)
        with pytest.raises(ValueError, match="must be C-contiguous, aligned and in native byte"):
            _ops.relu_forward(x, bad)
    for bad in (x.astype(np.float16), x.astype(int), x.astype(complex)):
        with pytest.raises(ValueError, match="must be float32 or float64, got"):
            _ops.dense_forward(bad, weight)
    other = np.float64 if dtype == np.float32 else np.float32
    with pytest.raises(ValueError, match=f"W must be {dtype}, got {np.dtype(other)}"):
        _ops.dense_forward(x, weight.astype(other))
    for bad in (x.tolist(), None, np.ma.array(x), memoryview(x)):
        with pytest.raises(TypeError, match="X must be a numpy.ndarray, got"):
            _ops.dense_forward(bad, weight)


def test_5_6_shapes_that_do_not_fit_never_reach_a_kernel(dtype):
    X, W, dZ = matrix(6, 4, dtype=dtype), matrix(4, 3, dtype=dtype), matrix(6, 3, dtype=dtype)
    short = matrix(2, dtype=dtype)
    for call, message in [
            (lambda: _ops.dense_forward(dZ, W), r"X must have 4 features, got 3"),
            (lambda: _ops.dense_forward(X, W, short), r"b must have shape \(3,\), got \(2,\)"),
            (lambda: _ops.dense_forward(X, W, None, X.copy()),
             r"Z must have shape \(6, 3\), got \(6, 4\)"),
            (lambda: _ops.dense_backward(X, W, X), r"dZ must have 3 features, got 4"),
            (lambda: _ops.dense_backward(X, W, dZ[:5]), r"dZ must have 6 rows, got 5"),
            (lambda: _ops.dense_backward(X, W, dZ, db=short),
             r"db must have shape \(3,\), got \(2,\)"),
            (lambda: _ops.dense_forward_packed(X, _ops.pack_weights(W), 3, short),
             r"b must have shape \(3,\), got \(2,\)"),
            (lambda: _ops.relu_backward(X, dZ), r"dY must have shape \(6, 4\), got \(6, 3\)")]:
        with pytest.raises(ValueError, match=message):
            call()


def test_21_masked_arrays():
    assert_refused(np.ma.array(matrix(1, 4), mask=[[0, 1, 0, 0]]), TypeError, "masked array")


def test_22_numpy_matrix():
    with pytest.warns(PendingDeprecationWarning):
        x = np.matrix(matrix(1, 4))
    assert_refused(x, TypeError, "numpy.matrix")


def test_24_sparse_matrices_are_told_what_to_do():
    class SparseMatrix:
        """What all of SciPy's formats have; SciPy itself is not needed to run the tests."""

        shape = (1, 4)

        def tocsr(self):
            return self

    assert_refused(SparseMatrix(), TypeError, r"got a sparse SparseMatrix; call toarray\(\)")


def test_24_scipys_own():
    sparse = pytest.importorskip("scipy.sparse")
    for x in (sparse.csr_matrix(matrix(1, 4)), sparse.coo_array(matrix(1, 4))):
        assert_refused(x, TypeError, r"call toarray\(\)")


def test_26_none():
    assert_refused(None, TypeError, "must be an array, got None")
    for loss in LOSSES.values():
        with pytest.raises(TypeError, match="target must be an array, got None"):
            loss().forward(matrix(1, 4), None)


def test_27_values_that_overflow_in_float32():
    layer = fn.Dense(2, 2)
    with unchanged(layer):
        with pytest.raises(ValueError, match=r"X\[1, 0\] is 1e\+39, too large for float32"):
            layer.forward(np.array([[1.0, 2.0], [1e39, 0.0]]))
        with pytest.raises(ValueError, match=r"weight\[0, 1\] is -1e\+300, too large for float32"):
            layer.weight = [[0, -1e300], [0, 0]]
    assert np.isinf(layer.forward([[np.inf, 0]])).any()         # infinite before: passed on


# ---- Labels ----------------------------------------------------------------------------------

@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("target, index, value", [
    ([0, 4, 1], 1, "4"), ([0, 1, -1], 2, "-1"), (np.array([9, 1, 2], np.uint8), 0, "9"),
    (np.array([0, 1, 2**63], np.uint64), 2, "9223372036854775808"),
    (np.array([0, -128, 1], np.int8), 1, "-128"),
    ([0.5, 1, 2], 0, "0.5"), ([0, 1, np.nan], 2, "nan"), ([0, np.inf, 1], 1, "inf"),
    (np.array([0, 1, 4]), 2, "4"), (np.array([0, -3, 1]), 1, "-3")])
def test_28_29_30_34_labels_that_are_no_classes(loss, target, index, value):
    with pytest.raises(ValueError, match=rf"target\[{index}\] is {value}, but labels must be whole "
                                         "numbers from 0 to 3"):
        LOSSES[loss]().forward(matrix(3, 4), target)
    with pytest.raises(ValueError, match=rf"target\[{index}\] is {value}"):
        fn.accuracy(matrix(3, 4), target)


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
                                  "uint64", "float32", "float64"])
def test_31_labels_of_every_integer_type(kind):
    loss = fn.SoftmaxCrossEntropy()
    expected = loss.forward(matrix(3, 4), [2, 0, 3])
    for labels in (np.array([2, 0, 3], kind), np.array([2, 0, 3], kind)[::-1].copy()[::-1]):
        assert loss.forward(matrix(3, 4), labels) == expected


def test_32_bool_labels_mean_two_classes():
    loss = fn.SoftmaxCrossEntropy()
    assert loss.forward(matrix(2, 2), [True, False]) == loss.forward(matrix(2, 2), [1, 0])
    with pytest.raises(ValueError, match="bool means two classes, but the scores have 4"):
        loss.forward(matrix(2, 4), [True, False])


@pytest.mark.parametrize("target", [["cat", "dog"], np.array(["a", "b"], object)])
def test_33_text_labels(target):
    with pytest.raises(ValueError, match="target must hold real numbers, got dtype"):
        fn.SoftmaxCrossEntropy().forward(matrix(2, 2), target)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.25])
def test_34_weights_that_are_none(bad):
    target = np.full((2, 2), 0.5, np.float32)
    target[1, 0] = bad
    for loss in LOSSES.values():
        with pytest.raises(ValueError, match=rf"target\[1, 0\] is {bad}, but weights must be fin"):
            loss().forward(matrix(2, 2), target)


def test_35_labels_and_rows_are_told_apart_by_dimensions():
    scores = matrix(3, 3)
    with pytest.raises(ValueError, match=r"shape \(3, 3\) or, for labels, \(3,\), got \(3, 1\)"):
        fn.SoftmaxCrossEntropy().forward(scores, [[0], [1], [2]])
    for shape in [(), (3, 3, 1)]:
        with pytest.raises(ValueError, match=r"1 dimension \(labels\) or 2"):
            fn.SoftmaxCrossEntropy().forward(scores, np.zeros(shape))
    loss = fn.SoftmaxCrossEntropy()
    assert loss.forward(scores, np.eye(3, dtype=int)) == loss.forward(scores, [0, 1, 2])


# ---- Values ----------------------------------------------------------------------------------

def test_37_nan_and_infinity_go_through_layers(dtype):
    x = np.array([[np.nan, 1], [np.inf, 1], [1, 1]], dtype)
    y = fn.ReLU().forward(fn.Dense(2, 40, weight_init=initializers.Constant(1), dtype=dtype)
                          .forward(x))
    assert np.isnan(y[0]).all() and np.isposinf(y[1]).all() and (y[2] == 2).all()
    assert np.isnan(fn.SoftmaxCrossEntropy().forward(y, [0, 0, 0]))


def test_39_huge_scores_have_an_exact_finite_loss(dtype):
    x = np.array([[1e30, -1e30]], dtype)
    assert fn.SoftmaxCrossEntropy().forward(x, [1]) == 2 * float(x[0, 0])
    assert fn.SoftmaxCrossEntropy().forward(x, [0]) == 0


def test_40_41_infinite_scores(dtype):
    loss = fn.SoftmaxCrossEntropy()
    assert np.isnan(loss.forward(np.full((1, 2), -np.inf, dtype), [0]))
    x = np.array([[0, -np.inf]], dtype)
    assert loss.forward(x, [1]) == np.inf
    assert loss.forward(x, [[1, 0]]) == 0


def test_39_probabilities_that_are_none():
    loss = fn.CrossEntropy()
    for scores in ([[3.0, -1.0]], [[0.5, 1.5]], [[-0.1, 1.0]]):
        with pytest.raises(ValueError, match=r"but probabilities lie in \[0, 1\]; for raw scores"):
            loss.forward(scores, [0])
    assert loss.forward([[1 + 1e-6, 0.0]], [0]) == pytest.approx(-1e-6)     # rounding is allowed
    assert np.isnan(loss.forward([[np.nan, 0.5]], [0]))


def test_42_subnormal_numbers_are_handled_and_the_mode_stays(dtype):
    """Results below the smallest normal number are exact, or 0: off by less than that number."""
    tiny = np.finfo(dtype).tiny
    x = np.full((3, 20), tiny / 4, dtype)
    for y in (fn.ReLU().forward(x), fn.Scale(1.0).forward(x),
              fn.Dense(20, 20, weight_init=lambda shape, rng: np.eye(20), dtype=dtype).forward(x)):
        assert np.all(np.abs(y - x) <= tiny)
    assert x[0, 0] * dtype.type(1) == tiny / 4 > 0              # the caller still has subnormals


# ---- State -----------------------------------------------------------------------------------

def test_44_out_overlaps_an_input(dtype):
    x = matrix(6, 4, dtype=dtype)
    before = x.copy()
    for layer in (fn.Dense(4, 4, dtype=dtype), fn.ReLU(), fn.Softmax(), fn.Scale(2),
                  fn.Residual([fn.Dense(4, 4, dtype=dtype)])):
        with pytest.raises(ValueError, match="must not overlap"):
            layer.forward(x, out=x)
        with pytest.raises(ValueError, match="must not overlap"):
            layer.forward(x[:5], out=x[1:])
        layer.forward(x)
        with unchanged(layer), pytest.raises(ValueError, match="must not overlap"):
            layer.backward(x, out=x)
    for layer in (fn.Add(), fn.Maximum()):
        with pytest.raises(ValueError, match="must not overlap"):
            layer.forward(x, before, out=x)
        layer.forward(x, x)
        with pytest.raises(ValueError, match="must not overlap"):
            layer.backward(before, out=(x, x))
    layer = fn.Dense(4, 4, dtype=dtype)
    with unchanged(layer), pytest.raises(ValueError, match="Z must not overlap W"):
        layer.forward(x[:4], out=layer.weight)
    layer.forward(x[:4])
    with unchanged(layer), pytest.raises(ValueError, match="dX must not overlap dW"):
        layer.backward(x[:4], out=layer.weight_grad)
    w = matrix(5, dtype=dtype)
    for arrays in ([w], [w], [None]), ([w], [w.copy()], [w]):
        with pytest.raises(ValueError, match="must not overlap"):
            _ops.sgd_update(*arrays, 0.1)
    assert np.array_equal(x, before)


def test_44_out_of_another_shape_or_type(dtype):
    layer = fn.Dense(4, 3, dtype=dtype)
    for bad in (np.empty((2, 4), dtype), np.empty((3, 3), dtype)):
        with pytest.raises(ValueError, match=r"Z must have shape \(2, 3\), got"):
            layer.forward(matrix(2, 4), out=bad)
    with pytest.raises(ValueError, match="Z must be float"):
        layer.forward(matrix(2, 4), out=np.empty((2, 3), int))
    with pytest.raises(TypeError, match="Z must be a numpy.ndarray, got list"):
        layer.forward(matrix(2, 4), out=[[0] * 3] * 2)


def make_passes():
    x = matrix(2, 4)
    return [(fn.Dense(4, 4), (x,)), (fn.ReLU(), (x,)), (fn.Softmax(), (x,)), (fn.Scale(2), (x,)),
            (fn.Residual([fn.Dense(4, 4)]), (x,)), (fn.Add(), (x, x)), (fn.Maximum(), (x, x))]


@pytest.mark.parametrize("layer, inputs", make_passes(), ids=repr)
def test_45_46_backward_before_forward_or_twice(layer, inputs):
    dy = matrix(2, 4)
    with unchanged(layer), pytest.raises(RuntimeError, match="needs a forward before it"):
        layer.backward(dy)
    layer.forward(*inputs)
    layer.backward(dy)
    with unchanged(layer), pytest.raises(RuntimeError, match="needs a forward before it"):
        layer.backward(dy)


@pytest.mark.parametrize("loss", [fn.SoftmaxCrossEntropy(), fn.CrossEntropy(),
                                  fn.MeanSquaredError()], ids=repr)
def test_45_46_loss_backward_before_forward_or_twice(loss):
    with pytest.raises(RuntimeError, match="needs a forward before it"):
        loss.backward()
    loss.forward(matrix(2, 4), np.eye(4)[:2])
    loss.backward()
    with pytest.raises(RuntimeError, match="needs a forward before it"):
        loss.backward()


def test_48_assigned_arrays_are_checked_and_copied():
    layer = fn.Dense(4, 3)
    for name, shape in [("weight", (4, 3)), ("bias", (3,)), ("weight_grad", (4, 3)),
                        ("bias_grad", (3,))]:
        with unchanged(layer):
            with pytest.raises(ValueError, match=f"{name} must have shape"):
                setattr(layer, name, matrix(3, 4))
            with pytest.raises(ValueError, match=f"{name} must hold real numbers"):
                setattr(layer, name, np.full(shape, "x"))
            with pytest.raises(TypeError, match=f"{name} must be an array, got None"):
                setattr(layer, name, None)
        source = matrix(*shape)
        setattr(layer, name, source)
        assert not np.shares_memory(getattr(layer, name), source)
    with pytest.raises(ValueError, match="bias cannot be assigned"):
        fn.Dense(4, 3, bias=False).bias = [1, 2, 3]


@pytest.mark.parametrize("arguments, error, match", [
    ({"lr": -0.1}, ValueError, r"lr must be in the interval \[0, inf\), got -0.1"),
    ({"lr": np.nan}, ValueError, "lr must be in the interval"),
    ({"lr": np.inf}, ValueError, "lr must be in the interval"),
    ({"lr": "0.1"}, TypeError, "lr must be a number"),
    ({"lr": None}, TypeError, "lr must be a number"),
    ({"lr": 0.1, "momentum": 1.0}, ValueError, r"momentum must be in the interval \[0, 1\), got 1"),
    ({"lr": 0.1, "momentum": -0.1}, ValueError, r"momentum must be in the interval \[0, 1\)"),
    ({"lr": 0.1, "nesterov": True}, ValueError, r"momentum must be in the interval \(0, 1\) with")])
def test_49_hyper_parameters_of_sgd(arguments, error, match):
    with pytest.raises(error, match=match):
        fn.SGD(**arguments)
    sgd = fn.SGD(0.5, 0.25)
    name = list(arguments)[-1]
    if name != "nesterov":
        with pytest.raises(error, match=match):
            setattr(sgd, name, arguments[name])
    assert (sgd.lr, sgd.momentum, sgd.nesterov) == (0.5, 0.25, False)


def test_49_other_hyper_parameters():
    for bad in ("float16", "int32", complex, None, ">f4"):
        with pytest.raises(ValueError, match="dtype must be float32 or float64"):
            fn.Dense(2, 2, dtype=bad)
    with pytest.raises(TypeError, match="dtype must be float32 or float64"):
        fn.Dense(2, 2, dtype="no type")
    with pytest.raises(ValueError, match="weight_init must be one of uniform, zeros"):
        fn.Dense(2, 2, weight_init="xavier")
    with pytest.raises(TypeError, match="bias_init must be a name or an initializer"):
        fn.Dense(2, 2, bias_init=3)
    with pytest.raises(ValueError, match="weight must have shape"):
        fn.Dense(2, 2, weight_init=lambda shape, rng: np.zeros(3))
    with pytest.raises(ValueError, match=r"low must be in the interval \(-inf, 0\], got 1"):
        initializers.Uniform(1, 0)
    with pytest.raises(ValueError, match="value must be in the interval"):
        initializers.Constant(np.nan)
    with pytest.raises(ValueError, match="factor must be in the interval"):
        fn.Scale(np.inf)
    with pytest.raises(ValueError, match="at least 1 layer"):
        fn.Residual([])
    for wrong in ([np.ones(3)], [fn.ReLU]):
        with pytest.raises(TypeError, match="must hold layers"):
            fn.Residual(wrong)
    with pytest.raises(TypeError, match="must be a sequence of layers, got ReLU"):
        fn.Residual(fn.ReLU())
    for wrong in ("relu", [0, 0], None):
        with pytest.raises(TypeError, match="bias must be a bool"):
            fn.Dense(2, 2, wrong)


@pytest.mark.parametrize("layer, name", [(fn.Dense(2, 3), "dtype"), (fn.Dense(2, 3), "in_features"),
                                         (fn.Scale(2), "factor")], ids=str)
def test_49_what_a_layer_is_cannot_be_assigned(layer, name):
    with pytest.raises(AttributeError):
        setattr(layer, name, "float64")
    with pytest.raises(TypeError):
        _ops.as_floats([1.0], "X", "float32")


def test_49_sgd_checks_all_before_it_changes_any():
    good, bad = fn.Dense(2, 2), fn.Dense(2, 2)
    good.weight_grad = bad.weight_grad = np.ones((2, 2))

    class Broken:
        def parameters(self):
            yield "w", bad.weight, np.ones(3, np.float32)

    sgd = fn.SGD(0.1, 0.9)
    with unchanged(good), pytest.raises(ValueError, match="must have"):
        sgd.step([good, Broken()])
    with unchanged(good), pytest.raises(TypeError, match="must hold layers"):
        sgd.step([good, 3])
    with unchanged(good), pytest.raises(TypeError, match="must hold layers"):
        sgd.step([good, fn.Dense])
    for twice in ([good, good], [good, fn.Residual([good])]):
        with unchanged(good), pytest.raises(ValueError, match="each parameter once"):
            sgd.step(twice)
    before = good.weight.copy()
    sgd.step([good])                        # the velocity did not move in the failed steps
    np.testing.assert_array_equal(good.weight, before - np.float32(0.1))


def test_49_a_failed_step_leaves_no_state_behind():
    class Own:
        value = np.zeros(3)
        gradient = np.ones(3, np.float32)

        def parameters(self):
            yield "w", self.value, self.gradient

    own, sgd = Own(), fn.SGD(0.5, 0.9)
    with pytest.raises(ValueError, match="parameter must be float32, got float64"):
        sgd.step([own])
    own.value = np.zeros(3, np.float32)
    sgd.step([own])
    assert own.value.tolist() == [-0.5] * 3


def test_49_a_learning_rate_beyond_float32():
    layer = fn.Dense(2, 2)
    layer.weight_grad = np.ones((2, 2))
    with unchanged(layer), pytest.raises(ValueError, match="for float32, got 1e"):
        fn.SGD(1e39).step([layer])
    with pytest.raises(ValueError, match="lr must be in the interval"):
        fn.SGD(10**400)
    assert fn.Scale(1e39).forward(np.array([1e-30], np.float32))[0] == np.float32(1e39 * 1e-30)


def test_50_many_threads_at_once(dtype, rng):
    """Layers share nothing: each thread drives its own, on the same input."""
    x = rng.normal(size=(64, 64)).astype(dtype)
    weight = rng.normal(size=(64, 64)).astype(dtype)

    def work(_):
        layer = fn.Dense(64, 64, dtype=dtype)
        layer.weight = weight
        results = {layer.forward(x).tobytes() + layer.backward(x).tobytes() for _ in range(50)}
        assert len(results) == 1
        return results.pop()

    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(work, range(8)))
    assert len(found) == 1
