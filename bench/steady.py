"""Whether steps stay as fast as they were: through long training, and among subnormal numbers.

Numbers below the smallest normal one (1.2e-38 in float32) slow processors down, and training makes
them: where gradients vanish, what optimizers keep decays into them. Each case learns first. Then
it is at rest: all samples have weight 0, so gradients are exactly 0 and nothing but decay happens,
for as many steps as take every mean from 1 to below the smallest subnormal. Then it is saturated:
inputs are so large that derivatives and probabilities underflow.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import fastnet as fn

WIDTH, BATCH, CHUNK = 64, 64, 1000          # a chunk of steps is timed as one
REST_STEPS = {"float32": 110_000, "float64": 760_000}       # 0.999 ** n passes the smallest number
FACTOR = 1e3                                # of inputs that saturate


@dataclass(frozen=True)
class Result:
    """Seconds per step: the median while learning and saturated, the slowest stretch at rest."""

    case: str
    learning: float
    at_rest: float
    saturated: float
    steps: int


def _layers(activation: Callable[[], Any], dtype: str, drops: bool) -> list[Any]:
    layers: list[Any] = []
    for seed in range(2):
        layers.append(fn.Dense(WIDTH, WIDTH, dtype=dtype, rng=seed))
        if drops:
            layers.append(fn.LayerNorm(WIDTH, dtype=dtype))
        layers.append(activation())
        if drops:
            layers.append(fn.Dropout(0.1, rng=seed))
    return [*layers, fn.Dense(WIDTH, 10, dtype=dtype, rng=2)]


CASES: dict[str, tuple[Callable[[], Any], Callable[[], fn.optimizers.Optimizer], bool]] = {
    "SGD momentum, ReLU": (fn.ReLU, partial(fn.SGD, 1e-3, 0.9), False),
    "Adam, ReLU": (fn.ReLU, partial(fn.Adam, 1e-3), False),
    "AdamW, GELU": (fn.GELU, partial(fn.AdamW, 1e-3), False),
    "RMSprop centered, tanh": (
        fn.Tanh, partial(fn.RMSprop, 1e-3, momentum=0.9, centered=True), False),
    "Adam, sigmoid": (fn.Sigmoid, partial(fn.Adam, 1e-3), False),
    "Adam, LayerNorm and dropout": (fn.ReLU, partial(fn.Adam, 1e-3), True),
}


def _chunks(
    network: fn.Sequential, x: np.ndarray, y: np.ndarray, weight: float, steps: int
) -> list[float]:
    """Return the seconds per step of each chunk."""
    x, y = np.tile(x, (CHUNK, 1)), np.tile(y, (CHUNK, 1))
    weights = np.full(len(x), weight, x.dtype)
    found = []
    for _ in range(max(1, steps // CHUNK)):
        start = time.perf_counter()
        network.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0,
                    sample_weight=weights)
        found.append((time.perf_counter() - start) / CHUNK)
    return found


def slowest_stretch(chunks: list[float]) -> float:
    """Return the largest median of five neighbours: noise is short, subnormal numbers stay."""
    return max(float(np.median(chunks[i:i + 5])) for i in range(max(1, len(chunks) - 4)))


def measure(case: str, dtype: str, quick: bool) -> Result:
    """Return the figures of a case."""
    activation, optimizer, drops = CASES[case]
    rng = np.random.default_rng(20260103)
    network = fn.Sequential(_layers(activation, dtype, drops))
    network.compile(optimizer(), fn.MeanSquaredError())
    assert network.optimizer is not None
    x = rng.standard_normal((BATCH, WIDTH)).astype(dtype)
    y = rng.standard_normal((BATCH, 10)).astype(dtype)
    _chunks(network, x, y, 1, CHUNK)            # warms up
    learning = _chunks(network, x, y, 1, 9 * CHUNK)
    rest = _chunks(network, x, y, 0, 2000 if quick else REST_STEPS[dtype])
    check_decayed(network, quick)
    network.optimizer.lr = 0.0                  # such steps would lead nowhere
    saturated = _chunks(network, x * np.dtype(dtype).type(FACTOR), y, 1, 9 * CHUNK)
    return Result(case, float(np.median(learning)), slowest_stretch(rest),
                  float(np.median(saturated)), network.optimizer.steps)


def check_decayed(network: fn.Sequential, quick: bool) -> None:
    """ValueError unless all that the optimizer keeps has decayed to 0, past subnormal numbers."""
    optimizer = network.optimizer
    assert optimizer is not None
    left = max(float(np.abs(state).max()) for layers in optimizer._states.values()
               for states in layers for state in states if state is not None)
    if left > 0 and not quick:
        raise ValueError(f"at rest {left} is left in the optimizer's state")


def run(dtype: str, quick: bool) -> Iterator[Result]:
    """Yield the figures of every case."""
    for case in CASES:
        yield measure(case, dtype, quick)
