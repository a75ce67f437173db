"""Dropout: which entries are dropped is a function of a seed and of their numbers alone."""

import copy
import pickle

import numpy as np
import pytest

import fastnet as fn
from fastnet import _ops, reference

# Known answers of Philox4x32-10, of the library Random123: counter, key, and four words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
# Numbers of first entries: 64 of them share 16 counters, of which the low word ends at 2^32.
FIRST = [0, 1, 15, 16, 37, 63, 64, 65, 2**32 - 30, 2**32, 4 * 2**32 - 70, 4 * 2**32, 2**63,
         2**64 - 200, 2**64 - 65]
SEEDS = [0, 1, 2**32 - 1, 2**32, 0x299F31D0A4093822, 2**64 - 1]


def words(text):
    return tuple(int(word, 16) for word in text.split())


def kept(n, p, seed, first=0, dtype=np.float64):
    """Which of n entries the kernel keeps."""
    return _ops.dropout(np.ones(n, dtype), p, seed, first) != 0


# ---- The generator ---------------------------------------------------------------------------

@pytest.mark.parametrize("counter, key, answer", KNOWN)
def test_the_reference_gives_the_known_answers(counter, key, answer):
    assert reference._philox(words(counter), words(key)) == words(answer)


def test_the_kernel_gives_the_known_answer():
    """The words of counter 0 belong to entries 0, 16, 32, 48, and are compared with p 2^32."""
    answer = words(KNOWN[0][2])
    for entry, word in zip((0, 16, 32, 48), answer, strict=True):
        assert kept(64, word / 2**32, 0)[entry]
        assert not kept(64, (word + 1) / 2**32, 0)[entry]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernel_drops_what_the_reference_drops(seed, rng):
    """In float64 with the same bits, from any number on and up to any."""
    for first in FIRST:
        for n in (1, 2, 3, 16, 27, 63, 64, 65, 130):
            x = rng.normal(size=n)
            [expected] = reference.dropout([x.tolist()], 0.4, seed, first)
            assert _ops.dropout(x, 0.4, seed, first).tobytes() == np.array(expected).tobytes()
    x = rng.normal(size=(13, 7))
    expected = np.array(reference.dropout(x.tolist(), 0.7, seed, 5))
    assert _ops.dropout(x, 0.7, seed, 5).tobytes() == expected.tobytes()


def test_every_word_is_compared_with_all_its_bits(rng):
    """Between p and p + 2^-32 just the entries change whose word is p 2^32."""
    found = [reference._random_word(3, number) for number in range(64)]
    for word in found[::5]:
        below, above = kept(64, word / 2**32, 3), kept(64, (word + 1) / 2**32, 3)
        assert (below != above).tolist() == [other == word for other in found]


@pytest.mark.parametrize("n", [*range(1, 41), 63, 64, 65, 200])
def test_any_alignment_and_any_first_entry_will_do(n, dtype, rng, fenced):
    """The mask of numbers 0 to 300, of which a call takes a part."""
    everything = kept(300, 0.5, 9)
    for first in (0, 1, 7, 61, 64, 99):
        fences = fenced()
        x = fences.put(rng.uniform(1, 2, n).astype(dtype), first % 5)
        y = fences.put(np.full_like(x, np.nan), n % 7)
        assert _ops.dropout(x, 0.5, 9, first, y) is y
        assert fences.stand()
        assert np.array_equal(y, np.where(everything[first:first + n], 2 * x, 0))


# ---- The share, and its independence ---------------------------------------------------------

@pytest.mark.parametrize("p", [0.001, 0.1, 1 / 3, 0.5, 0.9, 0.999])
def test_the_share_of_dropped_entries_is_p(p):
    """Within 5 sigma, as a whole and for each of the 64 places among the counters."""
    n = 64 * 20_000
    for seed in (1, 2**63 + 5):
        dropped = ~kept(n, p, seed)
        assert abs(dropped.mean() - p) <= 5 * np.sqrt(p * (1 - p) / n)
        places = dropped.reshape(-1, 64).mean(0)
        assert np.abs(places - p).max() <= 5 * np.sqrt(p * (1 - p) / 20_000)


def test_neighbours_seeds_and_numbers_far_away_are_independent():
    """Two fair masks agree in half of the entries, within 5 sigma."""
    n = 500_000
    mask = kept(n, 0.5, 7)
    others = [kept(n, 0.5, 7, first) for first in (1, 16, 64, 100_003, 2**32, 4 * 2**32, 2**40)]
    others += [kept(n, 0.5, seed) for seed in (6, 7 + 2**32, 7 + 2**63, 0)]
    for other in others:
        assert abs((mask == other).mean() - 0.5) <= 5 * 0.5 / np.sqrt(n)


def test_the_mean_is_kept(dtype):
    """Of ones: each has the variance p / (1 - p)."""
    n = 200_000
    for p in (0.1, 0.5, 0.8):
        y = _ops.dropout(np.ones(n, dtype), p, 4)
        assert abs(y.mean(dtype=np.float64) - 1) <= 5 * np.sqrt(p / (1 - p) / n) + 1e-6
        assert set(np.unique(y)) == {0, dtype.type(1 / (1 - p))}


def test_masks_are_the_same_for_all_types_and_shapes(rng):
    single = rng.uniform(1, 2, (20, 30)).astype(np.float32)
    expected = kept(600, 0.3, 12, 5).reshape(20, 30)
    for x in (single, single.astype(np.float64)):
        assert np.array_equal(_ops.dropout(x, 0.3, 12, 5) != 0, expected)
        assert np.array_equal(_ops.dropout(x.reshape(4, 5, 30), 0.3, 12, 5).ravel() != 0,
                              expected.ravel())


def test_an_entry_that_is_kept_is_rounded_once_or_twice(dtype, rng):
    """1 / (1 - p) is rounded to the dtype, and the product."""
    x = rng.normal(size=1000).astype(dtype)
    y = _ops.dropout(x, 0.3, 1)
    factor = dtype.type(1 / (1 - 0.3))
    assert np.array_equal(y[y != 0], (x * factor)[y != 0])


# ---- Edges -----------------------------------------------------------------------------------

def test_a_p_of_zero_drops_nothing(dtype, rng):
    x = rng.normal(size=500).astype(dtype)
    assert _ops.dropout(x, 0.0, 5, 77).tobytes() == x.tobytes()
    assert reference.dropout([[1.5, -2.0]], 0.0, 5) == [[1.5, -2.0]]


def test_a_p_next_to_one_drops_nearly_all():
    """All but words of 2^32 - 1, which none is among these."""
    assert not kept(100_000, np.nextafter(1, 0), 3).any()
    assert 0 < kept(100_000, 1 - 2**-14, 3).sum() < 40


def test_infinity_and_nan_are_dropped_like_others(dtype):
    mask = kept(200, 0.5, 2)
    for value in (np.nan, np.inf, -np.inf):
        y = _ops.dropout(np.full(200, value, dtype), 0.5, 2)
        np.testing.assert_array_equal(y, np.where(mask, value, 0))
        [expected] = reference.dropout([[value] * 200], 0.5, 2)
        np.testing.assert_array_equal(y, expected)


def test_a_subnormal_entry_counts_as_zero(dtype):
    x = np.full(100, np.finfo(dtype).tiny / 2, dtype)
    assert not _ops.dropout(x, 0.5, 2).any()


def test_no_entries(dtype):
    assert _ops.dropout(np.empty((0, 4), dtype), 0.5, 1).shape == (0, 4)


def test_arguments_that_are_none_are_refused(dtype):
    x = np.ones(8, dtype)
    for p in (-0.1, 1.0, 1.5, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"p must be in the interval \[0, 1\), got"):
            _ops.dropout(x, p, 1)
    for number in (-1, 2**64):
        with pytest.raises(OverflowError):
            _ops.dropout(x, 0.5, number)
        with pytest.raises(OverflowError):
            _ops.dropout(x, 0.5, 1, number)
    for out in (x, x[::-1][::-1]):
        with pytest.raises(ValueError, match="Y must not overlap X"):
            _ops.dropout(x, 0.5, 1, 0, out)
    with pytest.raises(ValueError, match=r"Y must have shape \(8,\), got \(7,\)"):
        _ops.dropout(x, 0.5, 1, 0, np.ones(7, dtype))
    with pytest.raises(TypeError, match="X must be a numpy.ndarray, got list"):
        _ops.dropout([1.0], 0.5, 1)
    assert (x == 1).all()


# ---- The layer -------------------------------------------------------------------------------

def test_backward_drops_the_entries_that_forward_dropped(dtype, rng):
    layer = fn.Dropout(0.4, rng=1)
    for n in (5, 1, 40):
        x, dy = rng.uniform(1, 2, (n, 7)).astype(dtype), rng.uniform(1, 2, (n, 7)).astype(dtype)
        before = x.copy()
        y, dx = layer.forward(x), layer.backward(dy)
        assert y.dtype == dx.dtype == dtype and np.array_equal(x, before)
        mask = y != 0
        assert np.array_equal(dx != 0, mask) and 0 < mask.mean() < 1
        np.testing.assert_allclose(y[mask], x[mask] / 0.6, rtol=2 * np.finfo(dtype).eps)
        np.testing.assert_allclose(dx[mask], dy[mask] / 0.6, rtol=2 * np.finfo(dtype).eps)


def test_backward_still_knows_its_entries_when_predictions_came_in_between(rng):
    layer, x = fn.Dropout(0.5, rng=1), rng.uniform(1, 2, (9, 7))
    y = layer.forward(x)
    layer.predict(x)
    assert np.array_equal(layer.backward(np.ones((9, 7))) != 0, y != 0)


def test_every_pass_drops_other_entries():
    layer, x = fn.Dropout(0.5, rng=1), np.ones((10, 10))
    assert len({layer.forward(x).tobytes() for _ in range(50)}) == 50


@pytest.mark.parametrize("cuts", [[1], [3, 4], [7, 20, 21, 60], list(range(1, 64))], ids=len)
def test_it_does_not_depend_on_how_rows_are_cut_into_batches(cuts, dtype, rng):
    x = rng.uniform(1, 2, (64, 9)).astype(dtype)
    whole = fn.Dropout(0.3, rng=5).forward(x)
    layer = fn.Dropout(0.3, rng=5)
    parts = [layer.forward(part) for part in np.split(x, cuts)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_it_is_the_reference_from_the_first_entry_on(rng):
    layer, x = fn.Dropout(0.3, rng=5), rng.normal(size=(6, 7))
    for first in (0, 42, 84):
        expected = reference.dropout(x.tolist(), 0.3, layer._seed, first)
        assert layer.forward(x).tolist() == expected


def test_predictions_leave_entries_alone_and_do_not_count(dtype, rng):
    layer, twin = fn.Dropout(0.5, rng=3), fn.Dropout(0.5, rng=3)
    x = rng.normal(size=(4, 5)).astype(dtype)
    for _ in range(3):
        y = layer.predict(x)
        assert np.array_equal(y, x) and not np.shares_memory(y, x) and y.dtype == dtype
    out = np.empty_like(x)
    assert layer.predict(x, out=out) is out and np.array_equal(out, x)
    assert np.array_equal(layer.forward(x), twin.forward(x))
    fresh = fn.Dropout(0.5)
    fresh.predict(x)
    with pytest.raises(RuntimeError, match="needs a forward"):
        fresh.backward(x)


def test_a_residual_predicts_with_what_is_inside():
    residual, x = fn.Residual([fn.Dropout(0.5, rng=0), fn.Scale(2.0)]), np.ones((5, 40))
    assert (residual.predict(x) == 3).all()
    assert set(np.unique(residual.forward(x))) == {1, 5}
    assert (fn.Residual([residual]).predict(x) == 4).all()


def test_equal_seeds_give_equal_entries_and_a_generator_gives_others_each_time():
    x = np.ones((10, 10))

    def dropped(rng):
        return fn.Dropout(0.5, rng=rng).forward(x).tobytes()

    assert dropped(3) == dropped(3) == dropped(np.random.default_rng(3))
    generator = np.random.default_rng(3)
    assert len({dropped(generator), dropped(generator), dropped(4), dropped(None),
                dropped(None)}) == 5


@pytest.mark.parametrize("make_copy", [
    copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_where_its_original_stands_and_each_for_itself(make_copy):
    layer, x = fn.Dropout(0.5, rng=3), np.ones((1000, 10))
    layer.forward(x)
    twin = make_copy(layer)
    with pytest.raises(RuntimeError, match="needs a forward"):
        twin.backward(x)
    assert len(pickle.dumps(layer)) < 500
    layer.backward(x)                           # its own memory is not gone
    assert repr(twin) == repr(layer) == "Dropout(0.5)"
    first = twin.forward(x)
    assert np.array_equal(layer.forward(x), first)
    assert np.array_equal(layer.forward(x), twin.forward(x))
    assert not np.array_equal(twin.forward(x), first)


@pytest.mark.parametrize("seen", [2**32 - 20, 2**34 - 3, 2**64 - 300])
def test_numbers_beyond_32_and_up_to_64_bits_are_counted_on(seen):
    """After 2^64 entries it begins anew; nobody gets there by counting."""
    layer, x = fn.Dropout(0.4, rng=1), np.ones((10, 15))
    layer._seen[0] = seen
    for first in (seen, seen + 150):
        expected = kept(150, 0.4, layer._seed, first).reshape(10, 15)
        assert np.array_equal(layer.forward(x) != 0, expected)
        assert np.array_equal(layer.backward(x) != 0, expected)
    assert layer._seen[0] == (seen + 300) % 2**64


def test_a_p_of_zero_is_the_identity(dtype, rng):
    layer, x = fn.Dropout(0.0, rng=1), rng.normal(size=(5, 6)).astype(dtype)
    assert layer.forward(x).tobytes() == layer.backward(x).tobytes() == x.tobytes()


def test_it_takes_any_shape_and_converts():
    layer = fn.Dropout(0.5, rng=0)
    for x in ([1, 2, 3], [[1.0, 2.0]], np.ones((2, 3, 4), np.float16), np.ones((3, 0))):
        y = layer.forward(x)
        assert y.shape == np.shape(x) == layer.backward(x).shape
    assert layer.forward(np.ones(3, np.float16)).dtype == np.float32


def test_an_unfit_out_or_gradient_is_refused_and_uses_nothing_up(dtype):
    layer, twin = fn.Dropout(0.5, rng=1), fn.Dropout(0.5, rng=1)
    x, dy = np.ones((4, 5), dtype), np.full((4, 5), 2, dtype)
    for out, match in [(x, "must not overlap"), (np.empty((4, 4), dtype), "must have shape")]:
        with pytest.raises(ValueError, match=match):
            layer.forward(x, out=out)
        with pytest.raises(ValueError, match=match):
            layer.predict(x, out=out)
    y = np.full_like(x, np.nan)
    assert layer.forward(x, out=y) is y and np.array_equal(y, twin.forward(x))
    with pytest.raises(ValueError, match=r"dY must have shape \(4, 5\), got \(3, 5\)"):
        layer.backward(dy[:3])
    with pytest.raises(ValueError, match="must not overlap"):
        layer.backward(dy, out=dy)
    dx = np.full_like(x, np.nan)
    assert layer.backward(dy, out=dx) is dx and np.array_equal(dx != 0, y != 0)


def test_backward_before_forward_or_twice_is_refused():
    layer = fn.Dropout()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Dropout.backward needs a forward before it"):
            layer.backward(np.ones((2, 4)))
        layer.forward(np.ones((2, 4)))
        layer.backward(np.ones((2, 4)))


def test_options_that_are_none():
    assert fn.Dropout().p == 0.5 and repr(fn.Dropout(0.25)) == "Dropout(0.25)"
    for wrong in (-0.1, 1, 1.0, 2):
        with pytest.raises(ValueError, match=r"p must be in the interval \[0, 1\), got"):
            fn.Dropout(wrong)
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="p must be in the interval"):
            fn.Dropout(wrong)
    for wrong in ("0.5", None, [0.5, 0.1]):
        with pytest.raises(TypeError, match="p must be a number, got"):
            fn.Dropout(wrong)
    with pytest.raises(AttributeError):
        fn.Dropout().p = 0.1
    assert list(fn.Dropout().parameters()) == []
