"""The three products of a dense layer against NumPy, over many shapes: where are the weak spots?

Random shapes tell how it is in general, powers of two and their neighbours what happens where
vectors, tiles and blocks just fill up or begin anew. At a cliff a shape takes longer than a larger
one: computing with padding would be quicker.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import kernels
from bench.kernels import Arrays, Plan, verify
from bench.measure import Run, Summary, median_ratio, summarise, time_in_turns

Shape = tuple[int, ...]

N_RANDOM = 300
LARGEST = 4096
MOST_WORK = 10**8       # multiply-adds
EDGES = sorted({2**k + d for k in range(13) for d in (-1, 0, 1)} - {0})
BASES = [64, 128]       # edges in one dimension, and these in the others
CLIFF = 1.1             # so many times what a larger shape takes
AGAIN = 3               # measurements of what looks weak, before it is listed
SAMPLE_SECONDS = 1e-3


def random_shapes() -> list[Shape]:
    """Return shapes whose dimensions are log-uniform from 1 to LARGEST, always the same ones."""
    rng = np.random.default_rng(20260102)
    shapes: list[Shape] = []
    while len(shapes) < N_RANDOM:
        shape = tuple(int(d) for d in np.exp(rng.uniform(0, np.log(LARGEST + 1), 3)))
        if np.prod(shape) <= MOST_WORK:
            shapes.append(shape)
    return shapes


def edge_shapes() -> list[Shape]:
    """Return cubes of edges, and cubes of BASES with one dimension that is an edge."""
    cubes = [(edge,) * 3 for edge in EDGES if edge**3 <= MOST_WORK]
    lines = [(base,) * axis + (edge,) + (base,) * (2 - axis)
             for base in BASES for axis in range(3) for edge in EDGES]
    return list(dict.fromkeys(cubes + lines))


def grown(shape: Shape) -> list[Shape]:
    """Return the shape with each dimension one larger, and as large as the next edge."""
    larger = []
    for axis, d in enumerate(shape):
        for longer in {d + 1, min((edge for edge in EDGES if edge > d), default=d + 1)}:
            larger.append(shape[:axis] + (longer,) + shape[axis + 1:])
    return larger


@dataclass
class Point:
    """Figures of one product at one shape; `cliffs` tells how many times a larger shape's time."""

    kernel: str
    shape: Shape
    times: dict[str, Summary]
    ratio: float
    cliffs: dict[str, float]

    def gflop_per_second(self, name: str) -> float:
        return float(2e-9 * np.prod(self.shape)) / self.times[name].median


@dataclass
class Distribution:
    """How many times fastnet's NumPy's time is, over all points of a product."""

    kernel: str
    points: list[Point]

    def quantile(self, share: float) -> float:
        return float(np.quantile([point.ratio for point in self.points], share))


def distributions(points: list[Point]) -> list[Distribution]:
    """Return that of each product, and of all."""
    names = dict.fromkeys(point.kernel for point in points)
    return [*(Distribution(name, [p for p in points if p.kernel == name]) for name in names),
            Distribution("all", points)]


def run(shapes: Iterable[Shape], dtype: str, rounds: int) -> Iterator[Point]:
    """Yield the figures of each product at each shape; WrongResult if a contender is wrong."""
    for shape in shapes:
        for make in kernels.PRODUCTS:
            contenders = checked(Plan(make, shape), dtype)
            for larger in grown(shape):
                plan = Plan(make, larger)
                contenders["x".join(map(str, larger))] = checked(plan, dtype)["fastnet"]
            times, ratios = measure(contenders, rounds)
            beside_numpy = ratios.pop("NumPy")
            cliffs = {larger: 1 / ratio for larger, ratio in ratios.items()
                      if is_weak(larger, ratio)}
            yield Point(make.__name__, shape, times, beside_numpy, cliffs)


def checked(plan: Plan, dtype: str) -> dict[str, Run]:
    case = plan.make(Arrays(dtype), *plan.shape)
    verify(case, case.contenders, str(plan))
    return case.contenders


def is_weak(name: str, ratio: float) -> bool:
    """Return whether fastnet takes too long beside NumPy, or beside itself at a larger shape."""
    return ratio < (1 if name == "NumPy" else 1 / CLIFF)


def measure(
    contenders: dict[str, Run], rounds: int
) -> tuple[dict[str, Summary], dict[str, float]]:
    """Return the times of fastnet and NumPy, and how many times fastnet's each contender takes.

    What is weak is measured again, and is weak in the end if it was so each time.
    """
    times: dict[str, Summary] = {}
    ratios: dict[str, float] = {}
    suspects = contenders
    for _ in range(1 + AGAIN):
        samples = time_in_turns(suspects, rounds, 0.0, {}, SAMPLE_SECONDS)
        if "NumPy" in samples:
            times = {name: summarise(samples[name]) for name in ("fastnet", "NumPy")}
        rivals = [name for name in samples if name != "fastnet"]
        ratios |= {name: median_ratio(samples[name], samples["fastnet"]) for name in rivals}
        suspects = {"fastnet": contenders["fastnet"]}
        suspects |= {name: contenders[name] for name in rivals if is_weak(name, ratios[name])}
        if len(suspects) == 1:
            break
    return times, ratios


def draw(points: list[Point], title: str) -> Any:
    """Return a figure of speed over work, a panel for each product; needs matplotlib."""
    from matplotlib.figure import Figure

    products = distributions(points)[:-1]
    figure = Figure(figsize=(5 * len(products), 5), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(products), sharey=True, squeeze=False)[0]
    for axes, product in zip(panels, products, strict=True):
        work = [np.prod(point.shape) for point in product.points]
        for name, marker in [("NumPy", "x"), ("fastnet", ".")]:
            speed = [point.gflop_per_second(name) for point in product.points]
            axes.loglog(work, speed, marker, label=name, alpha=0.6)
        axes.set(title=product.kernel, xlabel="work: n x n_in x n_out (multiply-adds)")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("GFLOP/s")
    panels[0].legend()
    return figure
