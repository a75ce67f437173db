"""`check_gradients`: right gradients pass, a wrong one is named."""

import numpy as np
import pytest

import fastnet as fn


def dense(n_in, n_out, **options):
    return fn.Dense(n_in, n_out, dtype="float64", bias_init="uniform", rng=3, **options)


LAYERS = {
    "Dense": lambda: dense(5, 3),
    "Dense with an activation": lambda: dense(5, 3, activation="gelu"),
    "LayerNorm": lambda: fn.LayerNorm(5, dtype="float64"),
    "Dropout": lambda: fn.Dropout(0.4, rng=1),
    "LogSoftmax": fn.LogSoftmax,
    "Residual": lambda: fn.Residual([dense(5, 5), fn.Tanh()]),
    "Sequential": lambda: fn.Sequential([
        dense(5, 8), fn.LayerNorm(8, dtype="float64"), fn.SiLU(), fn.Dropout(0.2, rng=2),
        dense(8, 2)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_built_in_layers_are_right_and_stay_as_they_are(name, rng):
    layer, x = LAYERS[name](), rng.normal(size=(4, 5))
    before = [value.copy() for _, value, _ in layer.parameters()]
    report = fn.check_gradients(layer, x)
    assert report and "WRONG" not in str(report)
    assert [found.name for found in report.gradients] == [
        "input", *(parameter for parameter, _, _ in layer.parameters())]
    assert all(found.error < 1e-6 for found in report.gradients)
    assert all(map(np.array_equal, before, [value for _, value, _ in layer.parameters()]))
    again = fn.check_gradients(layer, x)
    assert str(again) == str(report)        # nothing has moved, not even dropout's count


class Shift(fn.Layer):
    """`y = x * scale + shift`, with a backward that can be wrong in one of three ways."""

    def __init__(self, fault=""):
        self.scale, self.shift = np.array([2.0, -1.0]), np.array([0.5, 3.0])
        self.scale_grad, self.shift_grad = np.zeros(2), np.zeros(2)
        self.fault = fault

    def parameters(self):
        return (("scale", self.scale, self.scale_grad), ("shift", self.shift, self.shift_grad))

    def forward(self, x):
        self._memory = x
        return x * self.scale + self.shift

    def backward(self, dy):
        self.scale_grad[...] = (dy * self._memory).sum(0) * (2 if self.fault == "scale" else 1)
        self.shift_grad[...] = dy.sum(0)
        if self.fault == "shift":
            self.shift_grad[1] += 1e-3
        return dy if self.fault == "input" else dy * self.scale


@pytest.mark.parametrize("fault", ["", "input", "scale", "shift"])
def test_the_array_that_is_wrong_is_named_and_how_far_off(fault, rng):
    report = fn.check_gradients(Shift(fault), rng.normal(size=(6, 2)))
    wrong = [found for found in report.gradients if found.error > report.tolerance]
    assert bool(report) == (not fault) and [found.name for found in wrong] == [fault] * bool(fault)
    if fault == "shift":
        assert wrong[0].place == (1,)
        assert wrong[0].backward - wrong[0].differences == pytest.approx(1e-3, rel=1e-4)
        assert "WRONG  shift  off by" in str(report)


def test_a_gradient_that_is_nan_is_wrong():
    layer = Shift()
    layer.backward = lambda dy: dy * np.nan
    assert not fn.check_gradients(layer, np.ones((2, 2)))


def test_what_cannot_be_checked_is_refused():
    x = np.ones((2, 3))
    with pytest.raises(TypeError, match="layer must have forward, backward and parameters"):
        fn.check_gradients(np.tanh, x)
    with pytest.raises(ValueError, match="weight must be float64 to be checked, got float32"):
        fn.check_gradients(fn.Dense(3, 2), x)
    with pytest.raises(ValueError, match="finite numbers"):
        fn.check_gradients(dense(3, 2), np.full((2, 3), np.inf))
    for options in ({"step": 0.0}, {"tolerance": -1.0}, {"samples": 0}):
        with pytest.raises(ValueError):
            fn.check_gradients(dense(3, 2), x, **options)
    layer = Shift()
    layer.backward = lambda dy: dy[:1]
    with pytest.raises(ValueError, match=r"gradient of input must have shape \(4, 2\), got"):
        fn.check_gradients(layer, np.ones((4, 2)))
