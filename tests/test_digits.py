"""The digits, and the promise about what the network learns from them."""

import numpy as np
import pytest

import fastnet as fn
from fastnet import _data, _training


def test_shapes_dtypes_and_ranges():
    x, y = fn.load_digits()
    assert x.shape == (1797, 64) and x.dtype == np.float32
    assert y.shape == (1797,) and y.dtype == np.int64
    assert x.min() == 0 and x.max() == 1
    # Ink is counted in sixteenths, and float32 holds those exactly.
    assert np.array_equal(np.unique(x), np.arange(17, dtype=np.float32) / 16)


def test_counts_of_the_digits():
    _, y = fn.load_digits()
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_table_is_that_of_scikit_learn():
    expected = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = fn.load_digits()
    assert np.array_equal(16 * x, expected.data)
    assert np.array_equal(y, expected.target)


def test_each_call_returns_arrays_of_its_own():
    x, y = fn.load_digits()
    kept_x, kept_y = x.copy(), y.copy()
    for array in (x, y):
        assert array.flags.writeable and array.flags.owndata and array.flags.c_contiguous
        array[...] = 7
    again_x, again_y = fn.load_digits()
    assert np.array_equal(again_x, kept_x) and np.array_equal(again_y, kept_y)


def prepared(rng, dtype="float32"):
    """Return model and parts as the command makes them."""
    return _training.prepare(_data.digits(), [100], rng, dtype, standardise=False)


def test_split_deals_out_every_digit_once(dtype):
    _, *parts = prepared(np.random.default_rng(3), dtype.name)
    assert [len(x) for x, _ in parts] == [len(y) for _, y in parts] == [1437, 180, 180]
    assert all(x.dtype == dtype for x, _ in parts)
    dealt = np.concatenate([np.column_stack([x, y]) for x, y in parts])
    table = np.column_stack(fn.load_digits())
    assert not np.array_equal(dealt, table)
    # Whole rows, sorted by all of their columns: images are still beside their labels.
    assert np.array_equal(dealt[np.lexsort(dealt.T)], table[np.lexsort(table.T)])


def test_split_and_initial_weights_vary_with_the_seed():
    tests, weights = [], []
    for seed in (0, 1):
        model, _, _, (x, _) = prepared(np.random.default_rng(seed))
        tests.append(x)
        weights.append(model.network.layers[0].weight)
    assert not np.array_equal(*tests)
    assert not np.array_equal(*weights)


def test_mean_test_accuracy_over_10_seeds_is_at_least_97_percent(dtype):
    """With the defaults of the training, after its last epoch, not after the best one."""
    accuracies = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        model, training, validation, test = prepared(rng, dtype.name)
        assert model.widths == [64, 100, 10]
        history = list(_training.train(model.network, training, validation, rng))
        assert len(history) <= 50
        accuracies.append(model.network.evaluate(*test).accuracy)
    assert np.mean(accuracies) >= 0.97
