"""What bad input gets: one test per kind of mistake, through every public door it can come in by.

Every check runs before native code starts, so an error leaves parameters, optimizer state and
outputs as they were; `unchanged` watches that. Numbers in names are those of the list of bad
inputs that the project keeps, of which every row has a test here; other files go on where a part of
the library has more to say. First layers, losses and kernels, then the other doors: `doors.py`.
"""

import contextlib
import copy
import os
import pickle
import re
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from doors import (
    ANSWERS,
    CLASSES,
    FEATURES,
    LEARN,
    NETWORKS,
    ROWS,
    N,
    Own,
    X,
    Y,
    answers_through_estimators,
    command,
    estimator_state,
    labels_for,
    make_estimator,
    make_network,
    quiet,
    state,
    table,
    targets_through_networks,
    through_estimators,
    through_networks,
    weights_through_estimators,
    write_files,
)

import fastnet as fn
from fastnet import _engine, _ops, _pool, initializers

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


@pytest.mark.parametrize("kind", ["masked", "wants a gradient", "bfloat16", "meta", "sparse"])
def test_21_26_arrays_of_others_that_are_none(kind):
    """As inputs, as targets of both kinds, as weights, and as parameters."""
    bad = [np.ma.array(row, mask=row > 0.5) for row in X]
    if kind != "masked":
        torch = pytest.importorskip("torch")
        bad = {"wants a gradient": lambda: torch.ones(N, FEATURES, requires_grad=True),
               "bfloat16": lambda: torch.ones(N, FEATURES, dtype=torch.bfloat16),
               "meta": lambda: torch.ones(N, FEATURES, device="meta"),
               "sparse": lambda: torch.ones(N, FEATURES).to_sparse()}[kind]()
    net = make_network()
    dense = net.layers[0]
    for name, call in [
            ("X", lambda: net.predict(bad)), ("X", lambda: net.train_step(bad, Y)),
            ("target", lambda: net.train_step(X, bad)), ("X", lambda: net.evaluate(bad, Y)),
            ("sample_weight", lambda: net.train_step(X, Y, bad)),
            ("target", lambda: fn.MeanSquaredError().forward(X, bad)),
            ("weight", lambda: setattr(dense, "weight", bad))]:
        before = state(net)
        with pytest.raises(TypeError, match=f"^{name} must be a"):
            call()
        assert state(net) == before


def test_27_conversions_do_not_depend_on_the_callers_error_state(tmp_path):
    """Small numbers become 0 on the way to float32, and are no error; too large ones are."""
    small = np.full((N, FEATURES), 1e-300)
    mapped = np.memmap(tmp_path / "x", "f8", "w+", shape=small.shape)
    mapped[...] = small
    with np.errstate(all="raise"):
        for x in (small, small.tolist(), mapped):
            for _, _, call in through_networks(x):
                call()
        net = make_network()
        zeros = net.predict(np.zeros((N, FEATURES)))
        assert np.array_equal(net.predict(small), zeros)
        net.train_step(X, Y.astype(float), np.full(N, 1e-30))
        net.train_step(X, Y.astype(float), [1.0] + [1e-300] * (N - 1))
        net.layers[0].weight = np.full((FEATURES, 8), 1e-300)
        assert not net.layers[0].weight.any()
        net.load_state_dict({name: np.full(value.shape, 1e-300)
                             for name, value in net.state_dict().items()})
        assert not net.layers[-1].weight.any()
        with pytest.raises(ValueError, match="too large for float32"):
            net.predict(np.full((N, FEATURES), 1e300))
        model = make_estimator()
        assert np.array_equal(model.predict(small), model.predict(0 * small))
        model.partial_fit(small, Y)


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
    for low, high in ((-1.7e308, 1.7e308), (-1e308, 8 * 10**307)):
        with pytest.raises(ValueError, match=r"high - low must be in the interval \(-inf, inf\), "):
            initializers.Uniform(low, high)
    edge = np.float32(3e38)         # whose difference float32 has not
    wide = initializers.Uniform(-edge, edge)((2, 2), np.random.default_rng(0))
    assert np.isfinite(wide).all() and abs(wide).max() > 1e37
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


def test_49_the_layers_of_a_residual_cannot_be_assigned():
    residual = fn.Residual([fn.Dense(3, 3, rng=0)])
    net, inner = fn.Sequential([fn.Dense(3, 3), residual]), residual.layers
    for new in ([fn.Dense(3, 3)], (residual,)):
        with pytest.raises(AttributeError):
            residual.layers = new
    assert residual.layers is inner and net.predict(np.ones((1, 3))).shape == (1, 3)
    for twin in (copy.copy(residual), pickle.loads(pickle.dumps(residual))):
        assert np.array_equal(twin.layers[0].weight, inner[0].weight)
    for wrong in (None, 5):
        with pytest.raises(TypeError, match=f"^layers must be a sequence of layers, got {wrong}"):
            fn.Residual(wrong)
        with pytest.raises(TypeError, match=f"^layers must be a sequence of layers, got {wrong}"):
            fn.SGD(0.1).step(wrong)


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


@pytest.mark.parametrize("own", [False, True])
def test_49_a_schedule_that_goes_beyond_float32_in_the_middle_of_an_epoch(own):
    for make in (fn.SGD, fn.Adam):
        net = make_network(own, optimizer=make(lambda step: 0.1 if step < 2 else 1e39))
        with pytest.raises(ValueError, match="lr must be in the interval .* for float32, got"):
            net.fit(X, Y, batch_size=5, verbose=0)
        assert all(np.isfinite(value).all() for _, value, _ in net.parameters())


@pytest.mark.parametrize("bad", ["no", None, 1, 0.0])
def test_49_true_or_false(bad):
    net = make_network()
    with pytest.raises(TypeError, match="keep_gradients must be a bool, got"):
        net.compile(keep_gradients=bad)
    for thing in (net, net.layers[0], fn.ReLU(), fn.LayerNorm(3), fn.Residual([fn.Dense(3, 3)])):
        with pytest.raises(TypeError, match="trainable must be a bool, got"):
            thing.trainable = bad
        assert thing.trainable


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("spoil", [
    lambda d: d + 0j, lambda d: d.astype(str), lambda d: d.astype(object),
    lambda d: np.ma.array(d, mask=d > 1), np.matrix, lambda d: None])
def test_13_15_21_22_26_gradients_of_single_losses(spoil):
    bad = spoil(X[:, :3])
    for make, target in ((fn.SoftmaxCrossEntropy, Y), (fn.MeanSquaredError, X[:, :3])):
        loss = make("none")
        loss.forward(X[:, :3], target)
        with pytest.raises((TypeError, ValueError), match="dloss must|needs the gradient"):
            loss.backward(bad)


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


# ---- The other doors: networks, frozen networks, estimators, the command line ------------------

LAST_ROW = 66


def rows_of(name):
    """The rows that a test's name begins with: test_10_to_20_and_25_..., test_45_46_..."""
    found, words = set(), re.match(r"test_((?:\d\d_|to_|and_)*)", name).group(1).split("_")
    for i, word in enumerate(words):
        if word == "to":
            found |= set(range(int(words[i - 1]), int(words[i + 1])))
        elif word.isdigit():
            found.add(int(word))
    return found


def test_every_row_has_a_test_here():
    found = set().union(*(rows_of(name) for name in globals() if name.startswith("test_")))
    assert sorted(set(range(1, LAST_ROW + 1)) - found) == []
    assert max(found) == LAST_ROW


def refuse(doors, error, match, leaves=state):
    """Every door raises; networks stay as they were, and take good data after that."""
    for name, net, call in doors:
        before = leaves(net)
        with pytest.raises(error, match=match):
            call()
            pytest.fail(name)
        assert leaves(net) == before, name
        assert np.isfinite(net.train_step(X, Y)), name


def refuse_by_estimators(doors, error, match):
    """Every door of the estimators raises, and leaves the estimator as it was."""
    pytest.importorskip("sklearn")
    for name, model, call in doors:
        before = estimator_state(model)
        with pytest.raises(error, match=match):
            call()
            pytest.fail(name)
        assert estimator_state(model) == before, name


def test_01_networks_and_no_rows():
    for name, net, call in through_networks(X[:0]):
        before = state(net)
        if name.split(",")[0] in LEARN:
            with pytest.raises(ValueError, match="a mean over 0 rows is not defined"):
                call()
            assert state(net) == before, name
        else:
            assert call().shape in ((0, CLASSES), (0,)), name
    refuse_by_estimators(through_estimators(X[:0]), ValueError, "0 sample")


def test_02_networks_and_no_features():
    with pytest.raises(ValueError, match=r"in_features must be in the interval \[1, inf\)"):
        fn.Sequential([fn.Dense(0, 3)])
    refuse(through_networks(X[:, :0]), ValueError,
           "X must have (4 features|at least 1 column), got 0")
    refuse_by_estimators(through_estimators(X[:, :0]), ValueError, "0 feature")


def test_03_networks_and_one_class():
    net = fn.Sequential([fn.Dense(FEATURES, 1)])
    net.compile(metrics=["accuracy"])
    history = net.fit(X, np.zeros(len(X), int), verbose=0)
    assert history.accuracy == [1] and history.loss == [0]
    assert not net.predict_labels(X).any() and (net.predict_proba(X) == 1).all()
    assert not net.frozen().predict_labels(X).any()
    pytest.importorskip("sklearn")
    for label in (7, "only"):
        model = make_estimator(y=np.array([label] * len(X)))
        assert set(model.predict(X)) == set(model.frozen().predict(X)) == {label}


SHAPES = {"0-d": X[0, 0], "1-d": X[0], "3-d": X[None], "4-d": X[None, None]}


@pytest.mark.parametrize("name", SHAPES)
def test_04_networks_and_wrong_numbers_of_dimensions(name):
    x = SHAPES[name]
    refuse(through_networks(x), ValueError,
           f"X must have 2 dimensions, got {np.ndim(x)}|X must have a row for each sample")
    refuse_by_estimators(through_estimators(x), ValueError,
                         "Expected 2D array|while dim <= 2 is required")
    labels = {"0-d": Y[0], "3-d": Y[:, None, None]}.get(name)
    if labels is not None:
        refuse(targets_through_networks(labels), ValueError, "target must have 1 dimension")


def test_05_networks_and_wrong_numbers_of_features():
    for x in (X[:, :3], np.repeat(X, 2, axis=1)):
        refuse(through_networks(x), ValueError, f"X must have 4 features, got {x.shape[1]}")
    pytest.importorskip("sklearn")
    refuse_by_estimators(
        (door for door in through_estimators(X[:, :3])
         if not door[0].endswith((".fit", "lbfgs"))),           # which begin anew
        ValueError, "X has 3 features, but .* is expecting 4")


def test_06_networks_and_different_numbers_of_rows():
    for y in (Y[:-1], np.append(Y, 0)):
        refuse(targets_through_networks(y), ValueError, f"target must have 20 rows, got {len(y)}")
    net = make_network()
    for weights in (np.ones(19), np.ones(21)):
        for call in (net.train_step, net.evaluate):
            with pytest.raises(ValueError, match=r"sample_weight must have shape \(20,\)"):
                call(X, Y, weights)
        with pytest.raises(ValueError, match=r"sample_weight must have shape \(20,\)"):
            net.fit(X, Y, sample_weight=weights, verbose=0)
    pytest.importorskip("sklearn")
    model = make_estimator()
    for call in (lambda: model.fit(X, Y[:-1]), lambda: model.partial_fit(X, Y[:-1]),
                 lambda: model.score(X, Y[:-1]), lambda: model.fit(X, Y, np.ones(19))):
        with pytest.raises(ValueError, match="inconsistent numbers|sample_weight.shape"):
            call()


@pytest.mark.parametrize("own", [False, True])
def test_07_networks_and_batches_of_changing_size(own, dtype, rng):
    """Each result is that of a network that has seen nothing but this batch."""
    net, twin = make_network(own, dtype), make_network(own, dtype)
    for n in (32, 7, 1, 33, 300, 2, 32):
        x = rng.normal(size=(n, FEATURES)).astype(dtype)
        fresh = copy.deepcopy(twin)
        assert np.array_equal(net.predict(x), fresh.predict(x))
        assert net.train_step(x, labels_for(x)) == twin.train_step(x, labels_for(x))
        assert net.evaluate(x, labels_for(x)) == copy.deepcopy(twin).evaluate(x, labels_for(x))
    net.fit(X, Y, batch_size=7, epochs=2, shuffle=False, verbose=0)         # the last has 6
    for first in (0, 7, 14) * 2:
        twin.train_step(X[first:first + 7], Y[first:first + 7])
    assert state(net)[0] == state(twin)[0]


def test_08_every_width_and_batch_from_1_to_33(dtype):
    """Also under the address sanitizer: scripts/address_sanitizer runs this file."""
    rng = np.random.default_rng(8)
    tolerance = 400 * np.finfo(dtype).eps           # of sums of up to 33 products
    for width in range(1, 34):
        net = fn.Sequential([fn.Dense(width, 34 - width, False, dtype=dtype, rng=rng), fn.ReLU(),
                             fn.Dense(34 - width, width, False, dtype=dtype, rng=rng)])
        net.compile(fn.SGD(0.01))
        first, second = net.layers[0], net.layers[2]
        for n in range(1, 34):
            x = rng.normal(size=(n, width)).astype(dtype)
            w, u = first.weight.astype(float), second.weight.astype(float)
            hidden = np.maximum(x @ w, 0)
            scores = hidden @ u
            for predict in (net.predict, net.frozen().predict):
                assert np.abs(predict(x) - scores).max() <= tolerance
            labels = rng.integers(width, size=n)
            p = np.exp(scores - scores.max(1, keepdims=True))
            dz = (p / p.sum(1, keepdims=True) - np.eye(width)[labels]) / n
            du, dw = hidden.T @ dz, x.T @ (dz @ u.T * (hidden > 0))
            net.train_step(x, labels)
            assert np.abs(second.weight - (u - 0.01 * du)).max() <= tolerance
            assert np.abs(first.weight - (w - 0.01 * dw)).max() <= tolerance


def test_09_networks_whose_sizes_overflow():
    for shape in [(2**40, 2**40), (2**62, 4), (2**31, 2**31), (10**400, 3)]:
        with pytest.raises(MemoryError):
            fn.Sequential([fn.Dense(*shape)])


def test_09_estimators_whose_sizes_overflow():
    pytest.importorskip("sklearn")
    for size in (2**62, 10**400):
        refuse_by_estimators(
            [(name, model := make_estimator(), lambda model=model, door=door, size=size: door(
                model.set_params(hidden_layer_sizes=(size,)))) for name, door in (
                ("fit", lambda m: m.fit(X, Y)),
                ("lbfgs", lambda m: m.set_params(solver="lbfgs").fit(X, Y)))],
            MemoryError, "no memory holds 4 x")


FORMS = {name: form for name, form in CONVERTED.items() if not name.startswith("25 list of")}


@pytest.mark.parametrize("kind", FORMS)
def test_10_11_12_14_16_17_18_19_20_25_other_doors_convert_what_is_harmless(kind, dtype, rng):
    x = rng.integers(0, 2, size=(20, FEATURES)).astype(dtype)
    form = FORMS[kind](x)
    before = copy.deepcopy(form)
    for own, name, door in NETWORKS:
        results = []
        for given in (x, form):
            net = make_network(own, dtype)
            more = (Y,) if name in LEARN else ()
            result = door(net, given, *more)
            results.append((state(net), repr(result), np.asarray(result).tobytes()
                            if isinstance(result, np.ndarray) else b""))
        assert results[0] == results[1], (kind, name)
    assert np.array_equal(before, form)             # and nobody has written to it
    pytest.importorskip("sklearn")
    model = make_estimator(dtype=str(dtype))
    np.testing.assert_array_equal(model.predict(form), model.predict(x))
    np.testing.assert_array_equal(model.frozen().predict_proba(form),
                                  model.frozen().predict_proba(x))


UNFIT = {
    "13": (X + 0j, ValueError, "must hold real numbers, got dtype complex64"),
    "15 text": (X.astype(str), ValueError, "must hold real numbers, got dtype <U"),
    "15 objects": (X.astype(object), ValueError, "must hold real numbers, got dtype object"),
    "15 ragged": ([[1, 2, 3, 4], [1]], ValueError, "X must be an array of numbers"),
    "21": (np.ma.array(X, mask=X > 1), TypeError, "masked array, whose mask would be lost"),
    "26": (None, TypeError, "must be an array, got None"),
    "27": (np.where(X > 1, 1e39, X.astype(float)), ValueError,
           r"X\[1, 3\] is 1e\+39, too large for float32"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_13_15_21_26_27_other_doors_refuse(name):
    x, error, match = UNFIT[name]
    refuse(through_networks(x), error, match)
    if name not in ("15 objects", "15 text", "26", "27"):       # as scikit-learn does
        refuse_by_estimators(through_estimators(x), (TypeError, ValueError),
                             "Complex data|sequence|masked array|scalar array|None")


def quick_estimator(kind="MLPClassifier"):
    """One whose next `partial_fit` on plain arrays leaves scikit-learn's checks out."""
    model = make_estimator(kind, ANSWERS[kind])
    return model.partial_fit(X, ANSWERS[kind])


QUICK_REFUSES = {
    # row: (estimator, X, y, the error, what it says)
    "13": ("MLPClassifier", X + 0j, Y, ValueError, "Complex data not supported"),
    "13 labels": ("MLPClassifier", X, Y + 0j, ValueError, "Complex data not supported"),
    "13 objects": ("MLPClassifier", X, (Y + 0j).astype(object), TypeError, "'complex'"),
    "13 numbers": ("MLPRegressor", X, X[:, 0] + 0j, ValueError, "Complex data not supported"),
    "21": ("MLPClassifier", np.ma.array(X, mask=X > 1), Y, TypeError,
           "X must be a plain array, got a masked array"),
    "21 labels": ("MLPClassifier", X, np.ma.array(Y, mask=Y > 1), TypeError,
                  "y must be a plain array, got a masked array"),
    "21 no label masked": ("MLPClassifier", X, np.ma.array(Y), TypeError,
                           "y must be a plain array, got a masked array"),
    "21 numbers": ("MLPRegressor", X, np.ma.array(X[:, 0], mask=Y > 1), TypeError,
                   "y must be a plain array, got a masked array"),
    "22": ("MLPClassifier", X.view(np.matrix), Y, TypeError, "np.matrix is not supported"),
    "22 labels": ("MLPClassifier", X, Y[:, None].view(np.matrix), TypeError,
                  "np.matrix is not supported"),
    "22 numbers": ("MLPRegressor", X, X[:, :1].view(np.matrix), TypeError,
                   "np.matrix is not supported"),
    "34": ("MLPClassifier", X, np.where(Y, Y, np.nan), ValueError, "Input y contains NaN"),
    "34 numbers": ("MLPRegressor", X, np.where(Y, 1, np.nan), ValueError, "Input y contains NaN"),
    "34 infinity": ("MLPRegressor", X, np.where(Y, 1, np.inf), ValueError,
                    "Input y contains infinity"),
    "37": ("MLPClassifier", np.where(X > 1, np.float32(np.nan), X), Y, ValueError,
           "Input X contains NaN"),
    "37 infinity": ("MLPRegressor", np.where(X > 1, np.float32(np.inf), X), X[:, 0], ValueError,
                    "Input X contains infinity"),
}


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("name", QUICK_REFUSES)
def test_13_21_22_34_37_estimators_refuse_in_a_second_partial_fit(name):
    pytest.importorskip("sklearn")
    kind, x, y, error, match = QUICK_REFUSES[name]
    model = quick_estimator(kind)
    refuse_by_estimators([(name, model, lambda: model.partial_fit(x, y))], error, match)


def test_15_estimators_take_objects_that_are_numbers_as_theirs_do():
    pytest.importorskip("sklearn")
    model = make_estimator()
    assert np.array_equal(model.predict(X.astype(object)), model.predict(X))
    words = np.array([["a", "b", "c", "d"]] * len(X), object)
    refuse_by_estimators(through_estimators(words), ValueError, "could not convert|not compatible")


def test_21_estimators_and_masks():
    """scikit-learn would not see the mask."""
    pytest.importorskip("sklearn")
    from sklearn.base import clone
    masked = np.ma.array(X, mask=X > 1)
    for form in (masked, list(masked)):
        refuse_by_estimators(through_estimators(form), TypeError,
                             "X(_val)? must be a plain array, got a masked array")
    model = make_estimator()
    labels, weights = np.ma.array(Y, mask=Y > 1), np.ma.ones(len(Y))
    for call, name in ((lambda: model.fit(X, labels), "y"),
                       (lambda: model.fit(X, list(labels)), "y"),
                       (lambda: model.fit(X, [np.ma.array(y, mask=True) for y in Y]), "y"),
                       (lambda: model.partial_fit(X, labels), "y"),
                       (lambda: clone(model).partial_fit(X, list(labels), classes=[0, 1, 2]), "y"),
                       (lambda: clone(model).partial_fit(
                           X, Y, classes=np.ma.array([0, 1, 2], mask=[0, 0, 1])), "classes"),
                       (lambda: model.fit(X, Y, list(weights[:, None])), "sample_weight"),
                       (lambda: model.fit(X, Y, X_val=X, y_val=list(labels)), "y_val"),
                       (lambda: model.fit(X, Y, weights), "sample_weight"),
                       (lambda: model.fit(X, Y, X_val=X, y_val=labels), "y_val"),
                       (lambda: model.score(X, labels), "y"),
                       (lambda: model.score(X, Y, weights), "sample_weight"),
                       (lambda: make_estimator("MLPRegressor").score(X, labels), "y")):
        with pytest.raises(TypeError, match=f"{name} must be a plain array, got a masked array"):
            call()


FROZEN_REFUSES = {
    "04": (X[0], ValueError, "X must have 2 dimensions, got 1"),
    "05": (X[:, :3], ValueError, "X must have 4 features, got 3"),
    **{name: case for name, case in UNFIT.items() if name != "27"},
}


@pytest.mark.parametrize("name", FROZEN_REFUSES)
def test_04_05_13_15_21_26_frozen_estimators_refuse(name):
    pytest.importorskip("sklearn")
    x, error, match = FROZEN_REFUSES[name]
    for kind, answers in ANSWERS.items():
        frozen = make_estimator(kind, answers).frozen()
        for door in ("predict", "predict_proba")[:1 + (kind == "MLPClassifier")]:
            expected = getattr(frozen, door)(X)
            with pytest.raises(error, match=match):
                getattr(frozen, door)(x)
            assert np.array_equal(getattr(frozen, door)(X), expected)


def test_01_37_frozen_estimators_pass_on_what_networks_do():
    pytest.importorskip("sklearn")
    frozen = make_estimator().frozen()
    x = X.copy()
    x[3, 1] = np.nan
    assert frozen.predict(X[:0]).shape == (0,)
    assert np.isnan(frozen.predict_proba(x)).any(axis=1).nonzero()[0].tolist() == [3]


def test_22_24_other_doors_and_matrices():
    with pytest.warns(PendingDeprecationWarning):
        x = np.matrix(X)
    refuse(through_networks(x), TypeError, "got a numpy.matrix; call numpy.asarray")
    refuse_by_estimators(through_estimators(x), TypeError, "np.matrix is not supported")
    sparse = pytest.importorskip("scipy.sparse")
    for kind in (sparse.csr_matrix, sparse.coo_array):
        refuse(through_networks(kind(X)), TypeError, r"got a sparse c.._\w+; call toarray\(\)")
        refuse(targets_through_networks(kind(np.eye(3)[Y])), TypeError, r"call toarray\(\)")


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_22_estimators_and_matrices_of_answers():
    pytest.importorskip("sklearn")
    for kind, answers in ANSWERS.items():
        refuse_by_estimators(
            answers_through_estimators(kind, answers[:, None].view(np.matrix)), TypeError,
            "np.matrix is not supported")


def test_24_estimators_take_sparse_matrices_as_theirs_do():
    pytest.importorskip("sklearn")
    sparse = pytest.importorskip("scipy.sparse")
    model = make_estimator()
    for kind in (sparse.csr_matrix, sparse.csc_array):
        assert np.array_equal(model.predict_proba(kind(X)), model.predict_proba(X))
    with pytest.raises(TypeError, match=r"call toarray\(\)"):
        model.frozen().predict(sparse.csr_matrix(X))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_23_frames_through_the_estimators(library):
    pytest.importorskip("sklearn")
    frames = pytest.importorskip(library)
    names = ["a", "b", "c", "d"]
    x = X.astype(np.float64)                        # to which scikit-learn converts some frames
    frame = frames.DataFrame({name: x[:, i] for i, name in enumerate(names)})
    answers = frames.Series(Y.tolist())
    model, plain = make_estimator(), make_estimator()
    quiet(lambda: (model.fit(frame, answers), plain.fit(x, Y)))
    assert model.feature_names_in_.tolist() == names
    assert np.array_equal(model.predict_proba(frame), plain.predict_proba(x))
    quiet(lambda: model.partial_fit(frame, answers))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename({"a": "e"} if library == "polars" else str.upper,
                                   **({} if library == "polars" else {"axis": 1})))
    for net_call in (make_network().predict, make_network().frozen().predict):
        assert net_call(frame).shape == (len(X), CLASSES)       # numbers alone are an array


def test_27_estimators_and_numbers_too_large_for_their_dtype():
    pytest.importorskip("sklearn")
    x = X.astype(float)
    x[3, 1] = 1e39
    message = r"X\[3, 1\] is 1e\+39, too large for float32"
    refuse_by_estimators(through_estimators(x, dtype="float32"), ValueError, message)
    with pytest.raises(ValueError, match=message):
        make_estimator(dtype="float32").frozen().predict(x)
    with pytest.raises(ValueError, match=r"y\[3, 0\] is 1e\+39, too large for float32"):
        make_estimator("MLPRegressor", x[:, 1], dtype="float32")
    assert np.isfinite(make_estimator("MLPRegressor", Y).predict(np.abs(x) ** 0.1)).all()


def test_27_estimators_and_whole_numbers_too_large_for_floats():
    pytest.importorskip("sklearn")
    x = X.tolist()
    x[3][1] = 10**400
    message = "^{} (holds a number too large for float64|must hold real numbers, got dtype object)"
    refuse_by_estimators(through_estimators(x), ValueError, message.format("X(_val)?"))
    weights = [1] * (N - 1) + [10**400]
    refuse_by_estimators(weights_through_estimators(weights), ValueError,
                         message.format("sample_weight"))
    refuse_by_estimators(answers_through_estimators("MLPRegressor", weights), ValueError,
                         message.format("y(_val)?"))
    model = make_estimator("MLPRegressor", X[:, 0])
    with pytest.raises(ValueError, match=message.format("y")):
        model.score(X, weights)


# ---- Targets through the other doors -----------------------------------------------------------

def labels_with(value, kind=float, at=3):
    labels = Y.astype(kind)
    labels[at] = value
    return labels


WRONG_LABELS = {
    "28": (labels_with(7, int), r"target\[3\] is 7, but labels must be whole numbers from 0 to 2"),
    "28 uint64": (labels_with(2**63, np.uint64), r"target\[3\] is 9223372036854775808, but"),
    "29": (labels_with(-1, int), r"target\[3\] is -1, but labels must be .* from 0 to 2"),
    "29 int8": (labels_with(-128, np.int8), r"target\[3\] is -128, but"),
    "30": (labels_with(0.5), r"target\[3\] is 0.5, but labels must be whole numbers"),
    "32": (Y > 0, "target of bool means two classes, but the scores have 3"),
    "33": (np.array(["cat", "dog", "eel"])[Y], "target must hold real numbers, got dtype <U3"),
    "33 objects": (np.array(["a", "b", "c"], object)[Y], "must hold real numbers, got dtype obj"),
    "34": (labels_with(np.nan), r"target\[3\] is nan, but"),
    "34 rows": (np.full((20, 3), np.nan), r"target\[0, 0\] is nan, but weights must be finite"),
    "35 column": (Y[:, None], r"shape \(20, 3\) or, for labels, \(20,\), got \(20, 1\)"),
    "35 wide": (np.eye(4)[Y], r"target must have shape \(20, 3\), got \(20, 4\)"),
    "35 negative": (-np.eye(3)[Y], r"weights must be finite and at least 0"),
}


@pytest.mark.parametrize("name", WRONG_LABELS)
def test_28_29_30_32_33_34_35_networks_and_targets_that_are_none(name):
    labels, match = WRONG_LABELS[name]
    refuse(targets_through_networks(labels), ValueError, match)


def test_26_networks_and_no_target():
    refuse(targets_through_networks(None), TypeError, "target must be an array, got None")


def test_31_32_33_35_labels_of_other_types_through_the_other_doors():
    for own in (False, True):
        expected = make_network(own).fit(X, Y, verbose=0, rng=0).loss
        for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", ">i4"):
            assert make_network(own).fit(X, Y.astype(kind), verbose=0, rng=0).loss == expected
        rows = make_network(own).fit(X, np.eye(3)[Y], verbose=0, rng=0).loss
        assert rows == pytest.approx(expected, rel=1e-6)
    pytest.importorskip("sklearn")
    expected = make_estimator().predict(X)
    for labels in (Y.astype("u1"), Y.astype(float), np.array(["a", "b", "c"])[Y],
                   np.array(["a", "b", "c"], object)[Y]):
        found = make_estimator(y=labels).predict(X)
        assert np.array_equal(np.unique(labels, return_inverse=True)[1],
                              Y) and np.array_equal(found, np.unique(labels)[expected])
    two = make_estimator(y=Y > 0)
    assert two.classes_.tolist() == [False, True] and two.predict(X).dtype == bool


def test_30_34_estimators_and_labels_that_are_none():
    pytest.importorskip("sklearn")
    for wrong, match in ((labels_with(0.5), "Unknown label type"),
                         (labels_with(np.nan), "contains NaN"),
                         (labels_with(np.inf), "contains infinity"), (None, "y is None")):
        for call in (lambda wrong=wrong: make_estimator().fit(X, wrong),
                     lambda wrong=wrong: make_estimator().partial_fit(X, wrong)):
            with pytest.raises(ValueError, match=match):
                call()


@pytest.mark.parametrize("wrong, what", [
    (None, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
@pytest.mark.parametrize("columns", [1, 2])
def test_26_34_estimators_and_objects_that_are_no_numbers(wrong, what, columns):
    """scikit-learn's regressors make NaN and infinity of them after they have looked."""
    pytest.importorskip("sklearn")
    numbers = np.ones((N, columns), object)
    answers = numbers.astype(float)
    numbers[3, columns - 1] = wrong
    refuse_by_estimators(answers_through_estimators("MLPRegressor", numbers, answers), ValueError,
                         f"Input y(_val)? contains {what}")


WRONG_VALIDATION = {
    # row: (estimator, y_val, what the message says)
    "06": ("MLPClassifier", Y[:-1], "inconsistent numbers of samples"),
    "28": ("MLPClassifier", labels_with(7, int), r"y_val\[3\] is 7, but the classes are \[0, 1, 2"),
    "29": ("MLPClassifier", labels_with(-1, int), r"y_val\[3\] is -1, but the classes are"),
    "30": ("MLPClassifier", labels_with(0.5), r"y_val\[3\] is 0.5, but the classes are"),
    "33": ("MLPClassifier", labels_with("a", object), r"y_val\[3\] is 'a', but the classes are"),
    "34": ("MLPClassifier", labels_with(np.nan), r"y_val\[3\] is nan, but the classes are"),
    "35": ("MLPClassifier", np.eye(3)[Y], "y should be a 1d array"),
    "27 numbers": ("MLPRegressor", labels_with(1e39), r"y_val\[3, 0\] is 1e\+39, too large"),
    "33 numbers": ("MLPRegressor", labels_with("a", object), "could not convert"),
    "34 numbers": ("MLPRegressor", labels_with(np.nan), "Input y_val contains NaN"),
    "34 infinity": ("MLPRegressor", labels_with(np.inf), "Input y_val contains infinity"),
    "35 numbers": ("MLPRegressor", np.eye(3)[Y], "y_val must have 1 outputs, got 3"),
}


def test_06_one_column_of_numbers_for_several_outputs():
    """Also in a `partial_fit` behind another one, of which less is looked at."""
    model = make_estimator("MLPRegressor", np.eye(3)[Y])
    model.partial_fit(X, np.eye(3)[Y])
    refuse_by_estimators([("partial_fit", model, lambda: model.partial_fit(X, np.ones(len(X))))],
                         ValueError, "y must have 3 outputs, got 1")


@pytest.mark.parametrize("name", WRONG_VALIDATION)
def test_06_27_28_29_30_33_34_35_estimators_and_targets_for_validation(name):
    kind, targets, match = WRONG_VALIDATION[name]
    answers = ANSWERS[kind]
    refuse_by_estimators(
        [(name, model := make_estimator(kind, answers), lambda: quiet(
            lambda: model.fit(X, answers, X_val=X, y_val=targets)))], ValueError, match)


def test_26_estimators_and_half_of_the_data_for_validation():
    for given in ("X_val", "y_val"):
        half = {given: X if given == "X_val" else Y}
        refuse_by_estimators(
            [(given, model := make_estimator(), lambda model=model, half=half: model.fit(
                X, Y, **half))], ValueError, f"X_val and y_val .* got {given} alone")


def test_35_rows_and_labels_for_validation_are_told_apart():
    model = make_estimator(y=np.eye(3, dtype=int)[Y])
    with pytest.raises(ValueError, match="y_val must have 3 outputs, got 1"):
        model.fit(X, np.eye(3, dtype=int)[Y], X_val=X, y_val=Y)


WRONG_WEIGHTS = {
    "06": (np.ones(N - 1), "sample_weight.shape == "),
    "13": (np.ones(N) + 1j, "Complex data not supported"),
    "15": (["a"] * N, "could not convert"),
    "27": (np.full(N, 1e39), "infinity or a value too large"),
    "34": (np.where(Y, 1, np.nan), "contains NaN"),
    "34 negative": (np.where(Y, 1.0, -1), "Negative values"),
    "34 all 0": (np.zeros(N), "at least one non-zero"),
}


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("name", WRONG_WEIGHTS)
def test_06_13_15_27_34_estimators_and_weights_that_are_none(name):
    weights, match = WRONG_WEIGHTS[name]
    refuse_by_estimators(weights_through_estimators(weights), ValueError, match)


def test_36_a_class_that_was_never_announced():
    pytest.importorskip("sklearn")
    from fastnet.sklearn import MLPClassifier

    model = MLPClassifier((6,), random_state=0)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X, Y)
    model.partial_fit(X, Y, classes=[0, 1, 2])
    for _ in range(2):                              # the second time by the quick way
        before = [coef.copy() for coef in model.coefs_]
        for wrong in (labels_with(7, int), labels_with(-1, int), np.array(["a"] * len(X))):
            with pytest.raises(ValueError, match="`y` has classes not in `self.classes_`"):
                model.partial_fit(X, wrong)
        with pytest.raises(ValueError, match="not the same as on last call"):
            model.partial_fit(X, Y, classes=[0, 1, 5])
        assert all(map(np.array_equal, model.coefs_, before))
        model.partial_fit(X, Y)


# ---- Values through the other doors ------------------------------------------------------------

@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_37_values_that_are_not_finite_through_the_other_doors(value):
    """Kernels pass them on, to the rows they stand in; what learns does not take the step."""
    x = X.copy()
    x[3, 1] = value
    for name, net, call in through_networks(x):
        before = state(net)
        if name.split(",")[0] in ("fit", "fit on batches", "train_step",
                                  "train_step without update"):
            with pytest.raises(FloatingPointError, match="the loss is nan"):
                call()
            assert state(net)[0] == before[0], name     # it is in the first batch
        elif name.startswith("evaluate"):
            assert np.isnan(call().loss)
        elif "validation" in name:
            assert np.isnan(call().val_loss[0])
        elif "labels" not in name:
            found = call()
            assert not np.isfinite(found[3]).any() or value != value and np.isnan(found[3]).all()
            assert np.isfinite(np.delete(found, 3, axis=0)).all(), name
    refuse_by_estimators(through_estimators(x), ValueError, "contains (NaN|infinity)")


def test_37_relu_hides_no_nan_and_makes_no_negative_zero(dtype):
    x = np.array([[np.nan, -0.0, 0.0, -1.0, 1.0] * 8], dtype)
    for relu in (fn.ReLU().forward, fn.ReLU().predict,
                 fn.Sequential([fn.Dense(40, 40, bias=False, dtype=dtype,
                                         weight_init=lambda shape, rng: np.eye(40)),
                                fn.ReLU()]).predict):
        with np.errstate(all="ignore"):
            y = relu(x if relu.__self__.__class__ is fn.ReLU else np.nan_to_num(x))
        assert not np.signbit(y[~np.isnan(y)]).any()            # relu(-0.0) = 0.0
    assert np.isnan(fn.ReLU().forward(x)[0, ::5]).all()


@pytest.mark.parametrize("own", [False, True])
def test_38_training_that_diverges_through_every_door(own, tmp_path):
    for door in ("fit", "train_step", "fit on batches"):
        net = make_network(own, optimizer=fn.SGD(1e30))
        with pytest.raises(FloatingPointError, match="the loss is|made parameters infinite") as no:
            for _ in range(50):
                last = state(net)
                LEARN[door](net, X, Y)
        if "was not applied" in str(no.value) and door != "fit":
            assert state(net) == last
        if door != "train_step":
            assert re.search("epoch 1, step [1-3]", str(no.value))
    (tmp_path / "table.csv").write_text(table(ROWS * 3))
    status, _, errors = command("train", tmp_path / "table.csv", "--target", "kind", "--lr", "1e30",
                                "--out", tmp_path / "model")
    assert status == 1 and "epoch" in errors and "a smaller lr may help" in errors
    assert os.listdir(tmp_path) == ["table.csv"]
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        make_estimator(solver="sgd", learning_rate_init=1e30)


def with_scores(scores, dtype="float32"):
    """A network that gives these scores for one-hot rows."""
    scores = np.array(scores, dtype)
    net = fn.Sequential([fn.Dense(*scores.shape, bias=False, dtype=dtype)])
    net.compile(fn.SGD(1e-30))
    net.layers[0].weight = scores
    return net, np.eye(len(scores), dtype=dtype)


def test_39_networks_with_huge_scores(dtype):
    net, x = with_scores([[1e30, -1e30]], dtype)
    expected = 2 * float(dtype.type(1e30))
    assert net.evaluate(x, [1]).loss == net.train_step(x, [1]) == expected
    assert net.evaluate(x, [0]).loss == 0 and net.predict_proba(x).tolist() == [[1, 0]]


@pytest.mark.parametrize("own", [False, True])
def test_40_41_networks_with_scores_of_minus_infinity(own, dtype):
    layers = [fn.Dense(1, 2, bias=False, dtype=dtype)] + ([fn.Scale(1.0)] if own else [])
    net = fn.Sequential(layers)
    net.compile()
    x = np.ones((1, 1), dtype)
    for scores, loss in (([[-np.inf, -np.inf]], np.nan), ([[0, -np.inf]], np.inf)):
        layers[0].weight = scores
        before = layers[0].weight.copy()
        assert str(net.evaluate(x, [1]).loss) == str(loss)
        for call in (net.train_step, lambda x, y: net.fit(x, y, verbose=0)):
            with pytest.raises(FloatingPointError, match="the loss is .*not applied"):
                call(x, [1])
        assert np.array_equal(layers[0].weight, before)
    assert net.evaluate(x, [[1.0, 0.0]]).loss == 0          # a target weight of 0 counts for 0


def test_42_the_processes_mode_stays_whatever_is_called(dtype):
    def has_subnormals():
        return np.finfo(dtype).tiny / dtype.type(2) * dtype.type(2) == np.finfo(dtype).tiny

    tiny = np.full((20, FEATURES), np.finfo(dtype).tiny / 4, dtype)
    assert has_subnormals()
    for own, name, door in NETWORKS:
        net = make_network(own, dtype)
        for x in (tiny, tiny[:, :3]):                       # right and wrong
            with contextlib.suppress(ValueError):
                door(net, x, *((Y,) if name in LEARN else ()))
            assert has_subnormals(), name
    net = make_network(dtype=dtype)
    net._engine.forced = 3
    net.fit(np.tile(tiny, (100, 1)), np.tile(Y, 100), batch_size=2000, verbose=0)
    assert has_subnormals()


def test_43_sums_in_double():
    """A loss over many rows, and gradients of biases: a float32 sum would have lost them."""
    n = 2**20
    x = np.zeros((n, 1), np.float32)
    net = fn.Sequential([fn.Dense(1, 2, weight_init="zeros")])
    net.compile(fn.SGD(1.0))
    labels = np.zeros(n, int)
    labels[0] = 1
    exact = np.log(2)
    assert net.evaluate(x, labels).loss == pytest.approx(exact, rel=1e-7)
    assert fn.SoftmaxCrossEntropy().forward(np.zeros((n, 2), np.float32), labels) == pytest.approx(
        exact, rel=1e-7)
    y = np.full((n, 1), 0.1, np.float32)
    assert fn.MeanSquaredError().forward(0 * y, y) == pytest.approx(float(y[0, 0])**2, rel=1e-9)
    dense = fn.Dense(1, 1)
    dense.forward(x)
    dense.backward(y)
    assert dense.bias_grad[0] == pytest.approx(n * float(y[0, 0]), rel=1e-7)
    assert np.add.accumulate(y[:, 0])[-1] != pytest.approx(n * float(y[0, 0]), rel=1e-4)    # naive


# ---- State through the other doors -------------------------------------------------------------

def test_44_networks_and_outputs_that_overlap(dtype):
    for own in (False, True):
        net = make_network(own, dtype)
        memory = np.ones((20, 4 + CLASSES), dtype)
        x, before = memory.ravel()[:80].reshape(20, 4), memory.copy()
        out = memory.ravel()[70:130].reshape(20, 3)
        for call in (net.predict, *([] if own else [net.frozen().predict])):
            with pytest.raises(ValueError, match="must not overlap"):
                call(x, out)
        with pytest.raises(ValueError, match="must not overlap"):
            net.predict(x[:8], out=net.layers[-1].weight)
        assert np.array_equal(memory, before)


UNFIT_OUT = {
    "another shape": lambda shape: np.empty((shape[0], shape[1] + 1), np.float32),
    "more dimensions": lambda shape: np.empty((5, *shape), np.float32),
    "another type": lambda shape: np.empty(shape, np.float64),
    "integers": lambda shape: np.empty(shape, int),
    "columns first": lambda shape: np.empty(shape, np.float32, order="F"),
    "read-only": lambda shape: np.frombuffer(bytes(4 * shape[0] * shape[1]), "f4").reshape(shape),
    "masked": lambda shape: np.ma.zeros(shape, np.float32),
    "a list": lambda shape: np.zeros(shape).tolist(),
}
PASSING = {
    "layers": lambda: [fn.Dense(4, 4, rng=0), fn.Dropout(0.4, rng=1), fn.Dense(4, 3, rng=2)],
    "a fused activation": lambda: [fn.Dense(4, 4, activation="tanh", rng=0), fn.Dropout(0.4, rng=1),
                                   fn.Dense(4, 3, activation="softmax", rng=2)],
    "a Residual": lambda: [fn.Residual([fn.Dense(4, 4, rng=0), fn.Dropout(0.4, rng=1)])],
    "a network": lambda: [fn.Sequential([fn.ReLU(), fn.Dense(4, 3, rng=0), fn.Tanh()])],
    "own at the end": lambda: [fn.Dropout(0.4, rng=1), fn.Dense(4, 3, rng=0), Own()],
    "own at the beginning": lambda: [Own(), fn.Dense(4, 3, rng=0), fn.Dropout(0.4, rng=1)],
}


@pytest.mark.parametrize("passing", PASSING)
@pytest.mark.parametrize("unfit", UNFIT_OUT)
def test_19_44_networks_remember_their_pass_when_out_does_not_fit(unfit, passing):
    """A refused pass is none: gradients and what Dropout has seen are of the one before."""
    net, twin = (fn.Sequential(PASSING[passing]()) for _ in range(2))
    shape = net.forward(X).shape
    dy = np.ones_like(twin.forward(X))
    for call in (net.forward, net.predict):
        with pytest.raises((ValueError, TypeError), match=r"\b(Y|Z|P|out|C)\b"):
            call(X[::-1].copy(), UNFIT_OUT[unfit](shape))
    before = [gradient.copy() for _, _, gradient in net.parameters()]
    with pytest.raises((ValueError, TypeError), match=r"\b(dX|out|C)\b"):
        net.backward(dy, UNFIT_OUT[unfit](X.shape))
    if passing == "own at the beginning":       # what it takes is known when it has it
        with pytest.raises(RuntimeError, match="needs a forward before it"):
            net.backward(dy)
        assert net.forward(X).tobytes() == twin.forward(X).tobytes()
    else:
        assert all(np.array_equal(old, gradient) for old, (_, _, gradient) in
                   zip(before, net.parameters(), strict=True))
    for _ in range(2):
        assert net.backward(dy).tobytes() == twin.backward(dy).tobytes()
        assert ([gradient.tobytes() for _, _, gradient in net.parameters()]
                == [gradient.tobytes() for _, _, gradient in twin.parameters()])
        assert net.forward(X).tobytes() == twin.forward(X).tobytes()


def test_05_networks_and_dropout_that_has_not_seen_what_was_refused():
    net, twin = (fn.Sequential([fn.Dropout(0.4, rng=1), fn.Dense(4, 3, rng=0)]) for _ in range(2))
    with pytest.raises(ValueError, match="X must have 4 features, got 3"):
        net.forward(X[:, :3])
    assert net.forward(X).tobytes() == twin.forward(X).tobytes()


def test_44_outputs_that_overlap_a_map_of_another_type(tmp_path):
    """It is taken in parts, each of which would be written over what is still to be read."""
    rows = 300_000
    x = np.memmap(tmp_path / "x", "f8", "w+", shape=(rows, 4))
    out = np.asarray(x).reshape(-1).view("f4")[-3 * rows:].reshape(rows, 3)
    with pytest.raises(ValueError, match="out must not overlap X"):
        make_network().predict(x, out)


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_networks_have_no_passes_of_their_own(name):
    """Training and predictions would not ask them, and give other numbers without a word."""
    with pytest.raises(TypeError, match=f"Doubled, a network, cannot have its own {name}"):
        type("Doubled", (fn.Sequential,), {
            name: lambda self, x, out=None: 2 * getattr(super(type(self), self), name)(x, out)})
    kept = type("Kept", (fn.Sequential,), {"predict": lambda self, x: 2 * super(
        type(self), self).predict(x)})([fn.Dense(FEATURES, CLASSES, rng=0)])
    assert kept.predict(X).tobytes() == (2 * kept.forward(X)).tobytes()


def test_45_46_networks_backward_before_forward_or_twice():
    for own in (False, True):
        net = make_network(own)
        dy = np.ones((20, CLASSES), np.float32)
        with pytest.raises(RuntimeError, match="needs a forward before it"):
            net.backward(dy)
        net.forward(X)
        net.predict(X)                              # leaves alone what backward needs
        net.backward(dy)
        with pytest.raises(RuntimeError, match="needs a forward before it"):
            net.backward(dy)


def test_47_the_callers_arrays_and_ours():
    """Layers keep references until backward; all that was returned stays as it is."""
    dense, x = fn.Dense(2, 2, rng=0), np.ones((3, 2), np.float32)
    dense.forward(x)
    x[:] = 2                                        # documented: backward sees it
    dense.backward(np.ones((3, 2)))
    assert (dense.weight_grad == 6).all()
    for own in (False, True):
        net = make_network(own)
        held = [net.predict(X), net.predict_proba(X), net.forward(X)]
        before = [array.copy() for array in held]
        changing = X.copy()
        history = net.fit(changing, Y, verbose=0, shuffle=False)
        losses = list(history.loss)
        changing[:] = np.nan                        # nothing of it was kept
        net.fit(X, Y, epochs=3, verbose=0, shuffle=False)
        net.predict(X[:5])
        assert all(map(np.array_equal, held, before)) and history.loss == losses
        assert np.isfinite(net.predict(X)).all()


def test_48_arrays_that_are_assigned_to_a_networks_layers(dtype):
    net = make_network(dtype=dtype)
    frozen = net.frozen()
    layer, expected = net.layers[0], frozen.predict(X)
    loose = fn.Dense(4, 4, dtype=dtype)
    early = loose.weight
    joined = fn.Sequential([loose])
    with pytest.raises(ValueError, match="read-only"):
        early[:] = 1
    assert joined.layers[0].weight is not early
    for wrong, error in ((np.ones((3, 8)), ValueError), (None, TypeError),
                         (np.full((4, 8), "x"), ValueError), (np.ones((4, 8)) + 0j, ValueError)):
        with pytest.raises(error):
            layer.weight = wrong
    view, source = layer.weight, np.zeros((4, 8))
    layer.weight = source
    source[:] = 7
    assert view is layer.weight and not view.any()          # copied in, and no pointer is stale
    assert np.array_equal(net.predict(X), net.predict(0 * X))
    assert np.array_equal(frozen.predict(X), expected)
    view[:] = 1
    assert not np.array_equal(net.predict(X), net.predict(0 * X))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_49_networks_and_hyper_parameters_that_are_none():
    net = make_network()
    before = state(net)
    for options, error in (({"batch_size": 0}, ValueError), ({"epochs": -1}, ValueError),
                           ({"validation_split": 1}, ValueError), ({"verbose": 7}, ValueError),
                           ({"batch_size": 2.0}, TypeError), ({"shuffle": "yes"}, TypeError),
                           ({"initial_epoch": -1}, ValueError), ({"rng": -1}, ValueError)):
        with pytest.raises(error, match=next(iter(options))):
            net.fit(X, Y, **options)
    assert state(net) == before
    pytest.importorskip("sklearn")
    for options in ({"alpha": -1}, {"max_iter": 0}, {"dropout": 1}, {"solver": "none"},
                    {"hidden_layer_sizes": (0,)}, {"batch_size": -1}, {"dtype": "int32"}):
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            quiet(lambda options=options: make_estimator().set_params(**options).fit(X, Y))
    for options, match in (
            ({"activation": ["relu"] * 2}, "one name for each of 1"),
            ({"activation": ["relo"]}, "activation must hold names"),
            ({"dtype": np.int64}, "dtype must be float32, float64"),
            ({"callbacks": [3]}, "callback"), ({"solver": "sgd", "weight_decay": 0.1}, "adam"),
            ({"class_weight": {0: "a"}}, r"class_weight\[0\] must be a number, got 'a'"),
            ({"class_weight": {0: -1.0}}, r"class_weight\[0\] must be in the interval \[0, inf\)"),
            ({"class_weight": {2: np.nan}}, r"class_weight\[2\] must be .* got nan"),
            ({"class_weight": {2: np.inf}}, r"class_weight\[2\] must be .* got inf"),
            ({"class_weight": {0: 0, 1: 0, 2: 0}}, "at least one non-zero"),
            ({"class_weight": {0: 1e39}}, "too large for dtype"),
            ({"early_stopping": True, "validation_fraction": 0.01}, "validation set is too small"),
            ({"solver": "lbfgs", "dropout": 0.1}, "dropout needs solver='sgd' or 'adam', got 'lb"),
            ({"solver": "lbfgs", "weight_decay": 0.1}, "weight_decay needs"),
            ({"solver": "lbfgs", "clip_norm": 1.0}, "clip_norm needs"),
            ({"solver": "lbfgs", "callbacks": [fn.callbacks.Callback()]}, "callbacks needs")):
        refuse_by_estimators(
            [(str(options), model := make_estimator(), lambda model=model, options=options: quiet(
                lambda: model.set_params(**options).fit(X, Y)))], (TypeError, ValueError), match)
    model = make_estimator().set_params(solver="lbfgs")
    refuse_by_estimators(
        [("lbfgs", model, lambda: model.fit(X, Y, X_val=X, y_val=Y))], ValueError, "X_val needs")
    for options in (["--lr", "-1"], ["--epochs", "0"], ["--hidden", "0"], ["--momentum", "1"]):
        status, _, errors = command("train", *options)
        assert status == 2 and "must be" in errors


# ---- Threads and processes: test_concurrency.py and test_threads.py have more ------------------

WRONG_COEFS = {
    # row: (what is assigned to coefs_, by what stands there, the error, what it says)
    "13": (lambda a, b: [a, b + 1j], ValueError, r"coefs_\[1\] must hold .* got dtype complex"),
    "15": (lambda a, b: [a + 1, "b"], ValueError, r"coefs_\[1\] must hold .* got dtype <U"),
    "21": (lambda a, b: [a + 1, np.ma.array(b, mask=b > 0)], TypeError,
           r"coefs_\[1\] must be a plain array, got a masked array"),
    "22": (lambda a, b: [a.view(np.matrix), b], TypeError, r"coefs_\[0\] .* got a numpy.matrix"),
    "26": (lambda a, b: [a, None], TypeError, r"coefs_\[1\] must be an array, got None"),
    "48": (lambda a, b: [a.T, b], ValueError,
           r"coefs_\[0\] must have shape \(4, 6\), got \(6, 4\)"),
    "48 None": (lambda a, b: None, TypeError, "coefs_ must be a list of arrays, got None"),
    "48 one": (lambda a, b: [a], ValueError, "coefs_ must hold 2 arrays, got 1"),
    "48 three": (lambda a, b: (a, b, b), ValueError, "coefs_ must hold 2 arrays, got 3"),
}


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("name", WRONG_COEFS)
def test_13_15_21_22_26_48_estimators_and_coefs_that_are_none(name, tmp_path):
    pytest.importorskip("sklearn")
    assigned, error, match = WRONG_COEFS[name]
    for call in (lambda m: m.predict(X), lambda m: m.score(X, Y), lambda m: m.partial_fit(X, Y),
                 lambda m: m.set_params(warm_start=True).fit(X, Y), lambda m: m.frozen(),
                 lambda m: m.save(tmp_path / "model"), lambda m: m.to_sklearn()):
        model = quick_estimator()
        expected, kept = model.predict_proba(X), model.coefs_
        model.coefs_ = assigned(*kept)
        for _ in range(2):
            with pytest.raises(error, match=match):
                call(model)
        model.coefs_ = kept
        assert np.array_equal(model.predict_proba(X), expected)
    never_fitted = type(model)().from_sklearn(model.to_sklearn())
    if not name.startswith("48") or assigned(*kept) is None:
        never_fitted.coefs_ = assigned(*kept)
        with pytest.raises(error, match=match):
            never_fitted.predict(X)


def test_48_coefs_in_other_places_and_forms():
    pytest.importorskip("sklearn")
    model = make_estimator().set_params(hidden_layer_sizes=(4,))
    quiet(lambda: model.fit(X, np.eye(4)[Y].astype(int)))
    first, second = (coef.copy() for coef in model.coefs_)
    held = model.coefs_
    held.reverse()                                  # each one where the other was
    model.predict(X)
    assert model.coefs_ is held
    assert np.array_equal(model.coefs_[0], second) and np.array_equal(model.coefs_[1], first)
    model.coefs_ = first.tolist(), second
    model.predict(X)
    assert np.array_equal(model.network_.layers[0].weight, first)
    assert model.coefs_[0] is model.network_.layers[0].weight


@pytest.mark.parametrize("sizes", [(np.nan,), (1.5,), ("a",), (3, None), (True,), ([3, 4],)])
def test_49_estimators_and_sizes_that_are_none(sizes):
    pytest.importorskip("sklearn")
    for name in ("fit", "partial_fit"):
        model = make_estimator()
        refuse_by_estimators(
            [(name, model, lambda model=model, name=name: getattr(
                model.set_params(hidden_layer_sizes=sizes), name)(X, Y))],
            TypeError, "hidden_layer_sizes must be an int, got")


def test_50_51_a_second_thread_predicts_but_does_not_train():
    net, results = make_network(), []
    expected = net.predict(X).tobytes()

    class Meanwhile(fn.callbacks.Callback):
        def on_train_begin(self, logs=None):
            def other():
                results.append(self.model.predict(X).tobytes())
                for door in LEARN:
                    if door != "evaluate":
                        with pytest.raises(RuntimeError, match="in use by another thread"):
                            LEARN[door](self.model, X, Y)
                        results.append(door)

            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    net.fit(X, Y, verbose=0, callbacks=[Meanwhile()])
    assert results == [expected, *(door for door in LEARN if door != "evaluate")]


class Held(fn.callbacks.Callback):
    """Calls a function in another thread, once, between the epochs of a fit."""

    def __init__(self, call):
        self.call = call

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            thread = threading.Thread(target=self.call)
            thread.start()
            thread.join()


USES_ESTIMATOR = {
    "predict": lambda m, path: m.predict(X),
    "predict_proba": lambda m, path: m.predict_proba(X),
    "predict_log_proba": lambda m, path: m.predict_log_proba(X),
    "score": lambda m, path: m.score(X, Y),
    "frozen": lambda m, path: m.frozen(),
    "save": lambda m, path: m.set_params(callbacks=None).save(path),
    "pickle": lambda m, path: pickle.dumps(m),
    "deepcopy": lambda m, path: copy.deepcopy(m),
    "copy": lambda m, path: copy.copy(m),
    "to_sklearn": lambda m, path: m.to_sklearn(),
    "fit": lambda m, path: m.fit(X, Y),
    "partial_fit": lambda m, path: m.partial_fit(X, Y),
    "partial_fit of a row": lambda m, path: m.partial_fit(X[:1], Y[:1]),
    "network_.load_state_dict": lambda m, path: m.network_.load_state_dict(m.network_.state_dict()),
    "network_.train_step": lambda m, path: m.network_.train_step(X, Y),
    "network_.fit": lambda m, path: m.network_.fit(X, Y, verbose=0),
    "network_.compile": lambda m, path: m.network_.compile(),
    "network_ pickled": lambda m, path: pickle.dumps(m.network_),
}


@pytest.mark.parametrize("name", USES_ESTIMATOR)
def test_50_51_an_estimator_that_is_fitted_refuses_other_threads(name, tmp_path):
    pytest.importorskip("sklearn")
    refused = []

    def other():
        try:
            USES_ESTIMATOR[name](model, tmp_path / "file")
        except RuntimeError as error:
            refused.append(str(error))

    model, twin = make_estimator(), make_estimator()
    quiet(lambda: model.set_params(callbacks=[Held(other)]).fit(X, Y))
    assert refused and re.match("this network is (in use|being trained) by another thread",
                                refused[0])
    assert estimator_state(model)[:2] == estimator_state(twin)[:2]
    model.set_params(callbacks=None)
    quiet(lambda: USES_ESTIMATOR[name](model, tmp_path / "file"))       # and now it may


def test_50_51_a_network_of_an_estimator_that_is_fitted_predicts_as_after_a_step():
    pytest.importorskip("sklearn")
    found = []
    for options in ({"max_iter": 2}, {}):
        model = make_estimator()
        held = Held(lambda model=model: found.append(model.network_.predict(X).tobytes()))
        quiet(lambda model=model, options=options, held=held: model.set_params(
            callbacks=[held], **options).fit(X, Y))
        found.append(model.network_.predict(X).tobytes())
    assert found[0] == found[1] == found[2] != found[3]


FORKED = """
import os
import numpy as np
import fastnet as fn

net = fn.Sequential([fn.Dense(300, 400, rng=0), fn.ReLU(), fn.Dense(400, 3, rng=1)])
net.compile()
net._engine.forced = 3
x, y = np.ones((600, 300), "f4"), np.zeros(600, int)
net.train_step(x, y)
expected = net.predict(x).tobytes()
for _ in range(5):
    child = os.fork()
    if not child:
        right = net.predict(x).tobytes() == expected and np.isfinite(net.train_step(x, y))
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
assert net.predict(x).tobytes() == expected
print("fine")
"""


def run(script, *arguments, **options):
    return subprocess.run([sys.executable, "-c", script, *map(str, arguments)],
                          capture_output=True, text=True, timeout=120, **options)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_52_a_child_after_native_threads_ran():
    done = run(FORKED)
    assert done.stdout == "fine\n", done.stderr


def test_53_numbers_of_native_threads_that_are_none():
    expected = make_network().fit(X, Y, verbose=0, rng=0).loss
    for threads in (0, -1, -2**31, 2, 300):
        net = make_network()
        net._engine.forced = threads
        assert net.fit(X, Y, verbose=0, rng=0).loss == expected
    counts = np.zeros(1000, np.int32)
    for threads in (0, -1, -2**31, 4):
        _pool.exercise(counts, 100, threads)
    assert set(counts) == {4}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
@pytest.mark.parametrize("own", [False, True])
def test_54_an_interrupt_stops_a_fit_between_two_steps(own):
    def interrupt(*_):
        raise KeyboardInterrupt

    net, twin = make_network(own), make_network(own)
    before = signal.signal(signal.SIGALRM, interrupt)
    x, y = np.tile(X, (500, 1)), np.tile(Y, 500)
    try:
        for seconds in (0.05, 0.5, 5, 50):      # until a step was taken, also where that is slow
            signal.setitimer(signal.ITIMER_REAL, seconds)
            with pytest.raises(KeyboardInterrupt):
                net.fit(x, y, batch_size=len(x), shuffle=False, epochs=10**9, verbose=0)
            if net.optimizer.steps:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for _ in range(net.optimizer.steps):
        twin.train_step(x, y)
    assert net.optimizer.steps > 0 and state(net)[0] == state(twin)[0]


def test_55_memory_that_runs_out(monkeypatch):
    """Wherever the engine asks for some; the sweep over every allocation is elsewhere."""
    original = _engine.aligned_zeros
    for call in ("train_step", "fit", "evaluate"):
        for at in range(20):
            net, asked = make_network(optimizer="adam"), []
            expected = state(net)[0]

            def fails(*arguments, asked=asked, at=at):
                asked.append(arguments)
                if len(asked) == at + 1:
                    raise MemoryError
                return original(*arguments)

            monkeypatch.setattr(_engine, "aligned_zeros", fails)
            try:
                LEARN[call](net, X, Y)
            except MemoryError:
                monkeypatch.setattr(_engine, "aligned_zeros", original)
                assert state(net)[0] == expected
                assert np.isfinite(net.train_step(X, Y))
            monkeypatch.setattr(_engine, "aligned_zeros", original)
            if len(asked) <= at:
                break
        assert len(asked) <= at, "it always asks for more"


@pytest.mark.long
def test_56_processes_of_joblib():
    pytest.importorskip("sklearn")
    from sklearn.model_selection import cross_val_score

    x, y = np.tile(X, (5, 1)), np.tile(Y, 5)
    scores = [quiet(lambda jobs=jobs: cross_val_score(make_estimator(), x, y, cv=3, n_jobs=jobs))
              for jobs in (1, 2)]
    assert np.array_equal(*scores)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
def test_56_no_threads_beyond_what_was_asked_for():
    """So that processes of joblib, one for each processor, do not stand in each other's way."""
    done = run("""
import os
import numpy as np
import fastnet as fn
fn.set_num_threads(1)
net = fn.Sequential([fn.Dense(300, 400), fn.ReLU(), fn.Dense(400, 3)])
net.compile()
before = len(os.listdir("/proc/self/task"))
net.fit(np.ones((3000, 300)), np.zeros(3000, int), batch_size=1000, verbose=0)
print(len(os.listdir("/proc/self/task")) - before)
""")
    assert done.stdout == "0\n", done.stderr


# ---- Files through every door that reads or writes them: test_model_files.py has more ----------

@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path)


def assert_no_model(read, path, content):
    path.write_bytes(content)
    with pytest.raises(fn.ModelFileError):
        read(path)


def test_57_58_files_that_are_cut_or_changed(files):
    for path, read in files.values():
        whole = path.read_bytes()
        for cut in (0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1):
            assert_no_model(read, path, whole[:cut])
        assert_no_model(read, path, whole + b"\0")
        for at in range(0, len(whole), 97):
            assert_no_model(read, path,
                            whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1:])
        path.write_bytes(whole)
        read(path)


def test_59_headers_that_claim_anything(files):
    for path, read in files.values():
        whole = path.read_bytes()
        for claimed in (0, 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, len(whole), len(whole) + 1):
            assert_no_model(read, path, claimed.to_bytes(8, "little") + whole[8:])
        for header in (b"{}", b"[]", b"null", b"{" * 100_000, b'{"a": 1e999}', b"\xff\xfe",
                       b'{"a":{"dtype":"F32","shape":[4000000000,4000000],"data_offsets":[0,1]}}'):
            assert_no_model(read, path, len(header).to_bytes(8, "little") + header)
        path.write_bytes(whole)


def test_60_61_tensors_that_do_not_fit(files):
    from changed_files import change

    for kind, (path, read) in files.items():
        written = {"estimator": "estimator"}.get(kind, "network")
        for way, value in (("parameters/0.weight", None),
                           ("parameters/9.weight", np.ones((2, 2), np.float32)),
                           ("parameters/0.weight", lambda w: w[:, :-1].copy()),
                           ("parameters/0.weight", lambda w: w.T.copy()),
                           ("parameters/0.weight", lambda w: w.astype(np.float64)),
                           ("parameters/0.weight", "text")):
            changed = path.with_suffix(".changed")
            change(path, way, value, kind=written, to=changed)
            with pytest.raises(fn.ModelFileError):
                read(changed)


def test_62_versions_of_files(files, monkeypatch):
    from test_model_files import GOLDEN

    from fastnet import _state_file

    with monkeypatch.context() as patch:
        patch.setattr(_state_file, "VERSION", _state_file.VERSION + 1)
        make_network().save(files["network"][0])
    message = f"format version {_state_file.VERSION + 1}; .* reads {_state_file.VERSION}"
    with pytest.raises(fn.ModelFileError, match=message):
        fn.load(files["network"][0])
    for path in GOLDEN.glob("*.safetensors"):
        if not (path.name.startswith("estimator") and "estimator" not in files):
            assert hasattr(fn.load(path), "predict"), path


@pytest.mark.skipif(os.name != "posix", reason="needs limits of resources")
def test_63_a_save_that_fails_leaves_the_old_file(files):
    done = run("""
import resource, signal, sys
import fastnet as fn
from doors import make_estimator
big = fn.Sequential([fn.Dense(100, 100)])
big.compile()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for path, write in ((sys.argv[1], big.save), (sys.argv[2], lambda path: big.fit(
        [[0.0] * 100], [0], verbose=0, callbacks=[fn.callbacks.Checkpoint(path)])),
        (sys.argv[1], lambda path: fn.to_c(big, path))):
    before = open(path, "rb").read()
    try:
        write(path)
    except OSError as error:
        print(error.strerror, open(path, "rb").read() == before)
""", files["network"][0], files["checkpoint"][0],
               env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.stdout == "File too large True\n" * 3, done.stdout + done.stderr
    for path, read in files.values():
        read(path)
    left = {path.name for path in files["network"][0].parent.iterdir()}
    assert not [name for name in left if "tmp" in name]


def test_64_a_file_that_is_replaced_while_in_use(files):
    path, _ = files["network"]
    net = fn.load(path)
    expected = net.predict(X)
    path.write_bytes(b"x" * 10)
    assert np.array_equal(net.predict(X), expected)
    net.save(path)
    path.unlink()
    net.train_step(X, Y)
    assert np.isfinite(net.predict(X)).all()


def test_65_a_pickle_of_an_older_version():
    from test_model_files import GOLDEN

    old = pickle.loads((GOLDEN / "network-0.1.pickle").read_bytes())
    assert isinstance(old, fn.Sequential)
    x = np.ones((2, old._engine.n_in))
    again = pickle.loads(pickle.dumps(old))
    assert np.array_equal(again.predict(x), old.predict(x))
    assert np.array_equal(pickle.loads(pickle.dumps(old.frozen())).predict(x),
                          old.frozen().predict(x))


def test_65_losses_whose_options_could_be_assigned():
    """An older version had them under their own names."""
    for kind, options in ((fn.Huber, {"delta": 0.3}),
                          (fn.BinaryCrossEntropy, {"pos_weight": np.array([2.0, 3])})):
        old = kind.__new__(kind)
        vars(old).update({"_reduction": "sum", **options})
        again, made = pickle.loads(pickle.dumps(old)), kind("sum", **options)
        assert repr(again) == repr(made) and vars(again).keys() >= vars(made).keys()
        assert again.forward([[1.0, 2]], [[0.0, 1]]) == made.forward([[1.0, 2]], [[0.0, 1]])


def in_buffers(thing):
    """Return a copy by a pickle whose arrays lie in bytes, and these bytes."""
    buffers = []
    packed = pickle.dumps(thing, 5, buffer_callback=buffers.append)
    given = [bytes(buffer.raw()) for buffer in buffers]
    return pickle.loads(packed, buffers=given), given


def test_65_arrays_of_a_pickle_are_copied():
    """Those that a step writes to may come out as somebody's bytes, or as a map of the file."""
    for net in (make_network(), make_network(own=True),
                fn.Sequential([fn.Dropout(0.3, rng=1), fn.Dense(FEATURES, CLASSES, rng=2)])):
        net.compile(fn.Adam())
        net.train_step(X, Y)
        twin, given = in_buffers(net)
        before = [bytes(bytearray(one)) for one in given]
        for _ in range(2):
            assert twin.train_step(X, Y) == net.train_step(X, Y)
        assert given == before and state(twin) == state(net)
    layers, optimizer = [fn.Dense(FEATURES, CLASSES, rng=2), fn.Dropout(rng=1)], fn.Adam()
    optimizer.step(layers)
    (twins, twin), _ = in_buffers((layers, optimizer))
    for chain, rule in ((layers, optimizer), (twins, twin)):
        chain[0].weight_grad = np.ones((FEATURES, CLASSES))
        rule.step(chain)
    assert np.array_equal(twins[0].weight, layers[0].weight) and twin.steps == 2
    assert np.array_equal(twins[1].forward(X), layers[1].forward(X))


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_65_a_pickle_that_is_mapped_into_memory_stays_as_it_is(mode, tmp_path):
    joblib = pytest.importorskip("joblib")
    net = fn.Sequential([fn.Dropout(0.3, rng=1), fn.Dense(FEATURES, CLASSES, rng=2)])
    net.compile(fn.SGD(0.1, 0.9))
    path = tmp_path / "model"
    for learner, learn in (
            (net, lambda one: one.train_step(X, Y)),
            (quiet(make_estimator), lambda one: one.partial_fit(X, Y))):
        learn(learner)
        joblib.dump(learner, path)
        before = path.read_bytes()
        twin = joblib.load(path, mmap_mode=mode)
        for _ in range(2):
            learn(learner)
            learn(twin)
        assert path.read_bytes() == before
        assert np.array_equal(twin.predict(X), learner.predict(X))


def test_65_pickles_of_what_predicts_of_an_older_version():
    from test_model_files import GOLDEN

    old = pickle.loads((GOLDEN / "predictor-0.1.pickle").read_bytes())
    expected = [-0.27817597, 0.26768403, -0.11605255]
    for predictor in (old, pickle.loads(pickle.dumps(old))):
        np.testing.assert_allclose(predictor.predict(np.ones((1, old.in_features)))[0], expected,
                                   atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_65_pickles_of_estimators_of_an_older_version():
    pytest.importorskip("sklearn")
    from test_model_files import GOLDEN

    x = [[0.1257302165, -0.1321048588, 0.6404226422], [0.1049001142, -0.5356693864, 0.3615950644]]
    expected = [[0.193509, 0.512031, 0.294459], [0.239929, 0.476142, 0.283929]]
    for name in ("estimator-0.1.pickle", "estimator-frozen-0.1.pickle"):
        old = pickle.loads((GOLDEN / name).read_bytes())
        for model in (old, pickle.loads(pickle.dumps(old))):
            np.testing.assert_allclose(model.predict_proba(np.float32(x)), expected, atol=1e-5)
            assert model.predict(np.float32(x)).tolist() == ["no", "no"]
            if hasattr(model, "partial_fit"):
                assert np.isfinite(model.partial_fit(np.float32(x), ["yes", "no"]).loss_)


def test_66_paths_that_cannot_be_read_or_written(tmp_path):
    net = make_network()
    missing, folder = tmp_path / "missing" / "file", tmp_path
    for path in (missing, folder):
        for call in (lambda path=path: fn.load(path), lambda path=path: net.save(path),
                     lambda path=path: fn.to_c(net, path),
                     lambda path=path: net.fit(X, Y, verbose=0, callbacks=[
                         fn.callbacks.Checkpoint(path, resume=True)])):
            with pytest.raises(OSError):
                call()
    for arguments in (["predict", missing, missing], ["train", missing, "--target", "a"],
                      ["predict", folder, folder],
                      ["train", "--out", missing, "--epochs", "1"]):
        status, _, errors = command(*arguments)
        assert status == 1 and errors.startswith("fastnet: ") and errors.count("\n") == 1
    pytest.importorskip("sklearn")
    with pytest.raises(OSError):
        make_estimator().save(missing)


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR])
def test_66_a_pipe_or_a_device_is_not_replaced(kind, linked, tmp_path):
    """Nor a link to one; on the command line this is found at once."""
    net, data, model = make_network(), tmp_path / "table.csv", tmp_path / "model"
    data.write_text(table(ROWS))
    train = ["train", data, "--target", "kind", "--epochs", "1", "--out"]
    predict = ["predict", f"{model}.safetensors", data, "--out"]
    assert command(*train, model)[0] == 0
    path = tmp_path / "special.safetensors"
    special = tmp_path / "itself" if linked else path
    try:
        os.mknod(special, kind | 0o600, os.makedev(1, 3))       # the device is another /dev/null
    except PermissionError:
        pytest.skip("needs the right to make a device")
    if linked:
        path.symlink_to(special)
    before = sorted(os.listdir(tmp_path))
    for call in (net.save, lambda path: fn.to_c(net, path),
                 lambda path: net.fit(X, Y, verbose=0, callbacks=[fn.callbacks.Checkpoint(path)])):
        with pytest.raises(OSError, match=f"it is no regular file: '{path}'"):
            call(path)
    for arguments in ([*predict, path], [*train, path.with_suffix("")]):
        for force in ([], ["--force"]):
            assert command(*arguments, *force) == (
                1, "", f"fastnet: cannot write {path}: it is no regular file\n")
    assert stat.S_IFMT(special.lstat().st_mode) == kind and path.is_symlink() == linked
    assert sorted(os.listdir(tmp_path)) == before


# ---- Tables for the command line ---------------------------------------------------------------

NUMBERED = [[*row[:3], i % 2] for i, row in enumerate(ROWS)]
TABLES = {
    # row: (lines of the table, header, what the message says)
    "01": ([], "a,b,c,kind", "there are no rows below the header"),
    "02": ([["x"], ["y"]], "kind", "there is no column besides the target"),
    "05": ([*ROWS, [1, 2, 3]], "a,b,c,kind", "the header has 4 columns, but this row has 3"),
    "15": ([*ROWS, [1, "oops", 2, "x"]], "a,b,c,kind", "line 22, column 'b': 'oops' is not a num"),
    "26": ([*ROWS, [1, "", 2, "x"]], "a,b,c,kind", "line 22, column 'b': the cell is empty"),
    "27": ([*ROWS, [1, "1e300", 2, "x"]], "a,b,c,kind", "'1e300' is too large"),
    "27 float32": ([*ROWS, [1, "1e39", 2, "x"]], "a,b,c,kind", "1e+39 is too far from the train"),
    "34": ([*ROWS, [1, 2, 3, ""]], "a,b,c,kind", "column 'kind': the cell is empty"),
    "34 nan": ([*NUMBERED, [1, 2, 3, "nan"]], "a,b,c,kind",
               "column 'kind': 'nan' is not a finite number, while others are"),
    "34 inf": ([*NUMBERED, [1, 2, 3, "-inf"]], "a,b,c,kind", "'-inf' is not a finite number"),
    "34 large": ([*NUMBERED, [1, 2, 3, "1e300"]], "a,b,c,kind", "'1e300' is too large"),
    "37": ([*ROWS, [1, "nan", 2, "x"]], "a,b,c,kind", "'nan' is not a finite number"),
    "37 inf": ([*ROWS, [1, "-inf", 2, "x"]], "a,b,c,kind", "'-inf' is not a finite number"),
}


@pytest.mark.parametrize("name", TABLES)
def test_01_02_05_15_26_27_34_37_tables_for_the_command_line(name, tmp_path):
    rows, header, message = TABLES[name]
    path = tmp_path / "table.csv"
    path.write_text(table(rows, header))
    if name != "27 float32":                        # in training it widens the scale
        status, _, errors = command("train", path, "--target", "kind", "--epochs", 1,
                                    "--out", tmp_path / "model")
        assert status == 1 and errors.startswith("fastnet: ") and message in errors, errors
        assert os.listdir(tmp_path) == ["table.csv"]
    if name == "02" or "34" in name:
        return
    path.write_text(table(ROWS))
    assert command("train", path, "--target", "kind", "--epochs", 1, "--out",
                   tmp_path / "model")[0] == 0
    path.write_text(table(rows, header))
    status, _, errors = command("predict", tmp_path / "model.safetensors", path)
    assert status == 1 and errors.startswith("fastnet: ") and message in errors, errors


def test_33_texts_that_look_like_numbers_may_be_names_of_classes(tmp_path):
    """Where all are names, or where these are asked for."""
    path = tmp_path / "table.csv"
    for names, options in ((["nan", "inf", "x"], []), ([0, 1, "unknown"], []),
                           ([0, 1, "nan"], ["--task", "classification"])):
        path.write_text(table([[*row[:3], names[i % 3]] for i, row in enumerate(ROWS)]))
        status, output, errors = command("train", path, "--target", "kind", "--epochs", 1,
                                         "--out", tmp_path / "model", "--force", *options)
        assert status == 0 and "3 classes" in output, (output, errors)


def test_03_one_class_on_the_command_line(tmp_path):
    path, arrays = tmp_path / "table.csv", tmp_path / "arrays.npz"
    path.write_text(table([[*row[:3], "x"] for row in ROWS]))
    np.savez(arrays, x=X[:, :3], y=np.zeros(20, int))
    for arguments in ([path, "--target", "kind"], [arrays]):
        status, output, errors = command("train", *arguments, "--epochs", 1, "--out",
                                         tmp_path / "model", "--force")
        assert status == 0 and "one of 1 classes" in output, (output, errors)
        status, output, errors = command("predict", tmp_path / "model.safetensors", arguments[0])
        name = "x" if arguments[0] is path else "0"
        assert output.split() == [f"label,{name}"] + [f"{name},1.0"] * N, (output, errors)


ARRAYS = {
    "04": ({"x": np.zeros((20, 3, 2))}, "x must have shape (n, n_features)"),
    "06": ({"y": np.arange(19) % 2}, "x has 20 rows, but y has 19"),
    "13": ({"x": np.zeros((20, 3), complex)}, "x must hold real numbers, got dtype complex128"),
    "15": ({"x": np.full((20, 3), "a", object)}, "is not an NPZ file of plain arrays"),
    "34": ({"y": np.where(np.arange(20) == 3, np.nan, 1)}, "'nan' is not a finite number"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_04_06_13_15_arrays_for_the_command_line(name, tmp_path):
    arrays, message = ARRAYS[name]
    path, model = tmp_path / "arrays.npz", tmp_path / "model"
    good = {"x": X[:, :3], "y": np.arange(20) % 2}
    np.savez(path, **{**good, **arrays})
    status, _, errors = command("train", path, "--out", model)
    assert status == 1 and errors.startswith("fastnet: ") and message in errors, errors
    if "x" not in arrays:                           # the answers are not read in predictions
        return
    np.savez(path, **good)
    assert command("train", path, "--epochs", 1, "--out", model)[0] == 0
    assert command("predict", f"{model}.safetensors", path)[0] == 0
    np.savez(path, **arrays)
    status, _, errors = command("predict", f"{model}.safetensors", path)
    assert status == 1 and errors.startswith("fastnet: ") and message in errors, errors


@pytest.mark.parametrize("bad, shown", [(np.nan, "nan' is not a finite"), (np.inf, "inf' is not"),
                                        (-np.inf, "-inf' is not"), (1e101, "1e+101' is too large")])
@pytest.mark.parametrize("options", [[], ["--task", "regression"], ["--task", "classification"]])
def test_34_numbers_of_an_array_are_no_names_of_classes(options, bad, shown, tmp_path):
    """Not where all are such, either; texts are names, whatever they look like."""
    path, model = tmp_path / "arrays.npz", tmp_path / "model"
    ys = [(np.full(20, bad), 0), (np.where(np.arange(20) == 3, bad, 1.5), 3)]
    if not np.isfinite(bad):
        ys += [(ys[1][0].astype(kind), 3) for kind in ("f2", ">f4", np.longdouble)]
    for y, place in ys:
        np.savez(path, x=X[:, :3], y=y)
        status, output, errors = command("train", path, "--out", model, *options)
        assert (status, output) == (1, "") and errors.count("\n") == 1
        assert errors.startswith(f"fastnet: {path}, y[{place}]: '{shown}"), errors
        assert "names of classes" not in errors and os.listdir(tmp_path) == ["arrays.npz"]
    if options != ["--task", "regression"]:
        np.savez(path, x=X[:, :3], y=np.full(20, str(bad)))
        status, output, errors = command("train", path, "--out", model, "--epochs", 1, *options)
        assert status == 0 and f"one of 1 classes: {bad}\n" in output, (output, errors)


def test_05_37_arrays_with_other_features_or_nan_for_predictions(tmp_path):
    path, model = tmp_path / "arrays.npz", tmp_path / "model"
    np.savez(path, x=X[:, :3], y=np.arange(20) % 2)
    assert command("train", path, "--epochs", 1, "--out", model)[0] == 0
    for x, message in ((X, "4"), (np.where(X[:, :3] > 1, np.nan, X[:, :3]), "not a finite number")):
        np.savez(path, x=x)
        status, _, errors = command("predict", f"{model}.safetensors", path)
        assert status == 1 and errors.startswith("fastnet: ") and message in errors, errors
