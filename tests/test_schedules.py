"""Learning rates that change from step to step, in the layers' way and in the engine's."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastnet as fn
from fastnet import schedules


def test_values_worked_by_hand():
    step = schedules.StepDecay(0.8, every=3, factor=0.5)
    assert [step(i) for i in range(8)] == [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2]
    inverse = schedules.InverseScaling(0.6, power=0.5)
    assert [inverse(i) for i in (0, 3, 8)] == pytest.approx([0.6, 0.3, 0.2])
    cosine = schedules.Cosine(1.0, steps=10, warmup=2, final=0.2)
    assert [cosine(i) for i in (0, 1, 2, 6, 10, 1000)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.6, 0.2, 0.2])
    assert schedules.Cosine(1.0, steps=4)(1) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


@pytest.mark.parametrize("schedule, step, rate", [
    (schedules.Cosine(1e308, 100, 50), 40, 8.2e307),
    (schedules.Cosine(1.7e308, 100), 0, 1.7e308),
    (schedules.Cosine(1.7e308, 100, final=1.7e308), 50, 1.7e308),
    (schedules.Cosine(0.0, 100, final=1.7e308), 50, 0.85e308),
    (schedules.Cosine(1.0, 10**400, 10**399, 0.5), 10, 0.0),
    (schedules.Cosine(1.0, 10**400, 5, 0.5), 10, 1.0),
    (schedules.Cosine(1.0, 10**400), 2**70, 1.0),
    (schedules.StepDecay(1e-300, 1, 10.0), 400, 1e100),
    (schedules.StepDecay(1e300, 2, 0.1), 800, 1e-100),
    (schedules.StepDecay(1e300, 1, 0.1), 310, 1e-10),
    (schedules.StepDecay(0.0, 1, 10.0), 400, 0.0),
    (schedules.StepDecay(1.0, 1, 10.0), 400, math.inf),
    (schedules.StepDecay(1.0, 1, 10.0), 2**70, math.inf),
    (schedules.StepDecay(1.0, 1, 0.0), 2**70, 0.0),
    (schedules.StepDecay(1.0, 10**400, 0.5), 2**70, 1.0),
    (schedules.InverseScaling(1e300, 200.0), 99, 1e-100),
    (schedules.InverseScaling(1e-300, 0.0), 99, 1e-300),
    (schedules.InverseScaling(1.0, 1.7e308), 2**70, 0.0),
    (schedules.InverseScaling(0.0, 1.7e308), 2**70, 0.0),
], ids=lambda value: str(value)[:40])
def test_numbers_on_the_way_to_a_rate_may_be_too_large_or_small_for_floats(schedule, step, rate):
    assert schedule(step) == pytest.approx(rate, rel=1e-12, abs=0)


@pytest.mark.parametrize("make, text", [
    (lambda: schedules.StepDecay(-1, 3), "lr must be in the interval"),
    (lambda: schedules.StepDecay(1, 0), "every must be"),
    (lambda: schedules.StepDecay(1, 3, math.nan), "factor must be"),
    (lambda: schedules.Cosine(1, 5, 5), "warmup must be less than steps, 5, got 5"),
    (lambda: schedules.Cosine(1, 5, -1), "warmup must be"),
    (lambda: schedules.InverseScaling(1, -0.5), "power must be in the interval"),
    (lambda: fn.SGD(lambda step: -1.0), "lr of step 0 must be in the interval"),
    (lambda: fn.Adam(lambda step: math.inf), "lr of step 0 must be"),
])
def test_what_is_no_schedule_is_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


OPTIMIZERS = {
    "SGD": lambda lr: fn.SGD(lr, 0.9), "Adam": fn.Adam,
    "AdamW": lambda lr: fn.AdamW(lr, weight_decay=0.3), "RMSprop": fn.RMSprop,
    "clipped SGD": lambda lr: fn.SGD(lr, 0.9, True, clip_norm=0.1),
}
SCHEDULE = schedules.Cosine(0.05, steps=12, warmup=3)


def network(optimizer, dtype):
    rng = np.random.default_rng(2)
    net = fn.Sequential([fn.Dense(4, 9, dtype=dtype, rng=rng), fn.Tanh(),
                         fn.Dense(9, 3, dtype=dtype, rng=rng)])
    net.compile(optimizer)
    return net


def bits(net):
    return b"".join(value.tobytes() for _, value, _ in net.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_way_to_step_asks_the_schedule_for_its_own_step(name, dtype, rng):
    """`fit` for an epoch at once, `train_step`, steps by hand, and an lr set before each step."""
    x, y = rng.normal(size=(40, 4)), rng.integers(3, size=40)
    fitted, stepped, set_by_hand = (
        network(OPTIMIZERS[name](lr), dtype) for lr in (SCHEDULE, SCHEDULE, 0.0))
    by_hand = copy.deepcopy(list(stepped.layers))
    loss, optimizer = fn.SoftmaxCrossEntropy(), OPTIMIZERS[name](SCHEDULE)
    fitted.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0)
    for i in range(9):
        batch = slice(i % 3 * 16, i % 3 * 16 + 16)
        stepped.train_step(x[batch], y[batch])
        set_by_hand.optimizer.lr = SCHEDULE(i)
        set_by_hand.train_step(x[batch], y[batch])
        scores = x[batch]
        for layer in by_hand:
            scores = layer.forward(scores)
        loss.forward(scores, y[batch])
        dy = loss.backward()
        for layer in reversed(by_hand):
            dy = layer.backward(dy)
        optimizer.step(by_hand)
        assert optimizer.lr == SCHEDULE(i + 1)
    assert bits(fitted) == bits(stepped) == bits(set_by_hand)
    assert bits(fitted) == bits(fn.Sequential(by_hand))
    assert bits(fitted) != bits(network(OPTIMIZERS[name](SCHEDULE), dtype))


def test_a_number_takes_the_place_of_a_schedule_and_back():
    sgd = fn.SGD(SCHEDULE)
    assert repr(sgd) == f"SGD(lr={SCHEDULE!r}, momentum=0.0)" and sgd.lr == SCHEDULE(0)
    sgd.lr = 0.25
    assert sgd.lr == 0.25 and repr(sgd) == "SGD(lr=0.25, momentum=0.0)"
    with pytest.raises(ValueError, match="lr of step 0"):
        sgd.lr = lambda step: -1
    assert sgd.lr == 0.25
    sgd.lr = SCHEDULE
    assert pickle.loads(pickle.dumps(sgd)).lr == SCHEDULE(0)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyError, KeyboardInterrupt, ValueError])
def test_a_schedule_that_fails_is_not_taken(error):
    def broken(step):
        raise error

    sgd = fn.SGD(SCHEDULE)
    with pytest.raises(error):
        sgd.lr = broken
    assert sgd.schedule is SCHEDULE and sgd.lr == SCHEDULE(0)


@pytest.mark.parametrize("make, name, good, bad, text", [
    (lambda: schedules.StepDecay(1, 3), "every", 2, 0, "every must be in the interval"),
    (lambda: schedules.StepDecay(1, 3), "factor", 0.5, math.nan, "factor must be"),
    (lambda: schedules.Cosine(1, 5, 2), "steps", 3, 0, "steps must be in the interval"),
    (lambda: schedules.Cosine(1, 5, 2), "steps", 3, 2, "warmup must be less than steps, 2, got 2"),
    (lambda: schedules.Cosine(1, 5, 2), "warmup", 4, 5, "warmup must be less than steps, 5, got 5"),
    (lambda: schedules.Cosine(1, 5, 2), "final", 0.1, -1, "final must be"),
    (lambda: schedules.InverseScaling(1), "power", 1.0, -0.5, "power must be in the interval"),
    (lambda: schedules.InverseScaling(1), "lr", 0.5, math.inf, "lr must be in the interval"),
])
def test_numbers_that_are_assigned_are_checked(make, name, good, bad, text):
    schedule = make()
    before = repr(schedule)
    with pytest.raises(ValueError, match=text):
        setattr(schedule, name, bad)
    with pytest.raises(TypeError, match=f"{name} must be"):
        setattr(schedule, name, "1")
    assert repr(schedule) == before
    setattr(schedule, name, good)
    assert getattr(schedule, name) == good and repr(pickle.loads(pickle.dumps(schedule))) == repr(
        copy.copy(schedule)) == repr(schedule) != before


def test_a_bad_rate_later_on_stops_the_step(rng):
    net = network(fn.SGD(lambda step: 0.1 if step < 2 else math.nan), "float32")
    x, y = rng.normal(size=(4, 4)), rng.integers(3, size=4)
    net.train_step(x, y)
    net.train_step(x, y)
    before = bits(net)
    with pytest.raises(ValueError, match="lr of step 2 must be"):
        net.train_step(x, y)
    assert bits(net) == before
