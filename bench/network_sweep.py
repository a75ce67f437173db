"""Whole networks against NumPy in place, over many shapes: where are the weak spots?

Random networks tell how it is in general, lines of networks that differ in one size what happens
as that grows. At a cliff a network takes longer than the next larger one of its line.

With threads the rival is not NumPy but one thread: where do threads cost more than they gain?
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, repeat
from typing import Any

import numpy as np

from bench import THREADS, networks
from bench.contenders import (
    Fastnet,
    Flat,
    NumPy,
    OneThread,
    Scores,
    Task,
    Trainer,
    alone,
    in_place,
    samples_last,
)
from bench.kernels import WrongResult
from bench.measure import Loop, Run, Summary, median_ratio, summarise, time_in_turns
from bench.networks import NO_LOSS, Samples
from bench.sweep import AGAIN, CLIFF, EDGES

RANDOM = "random"
PER_DEPTH, DEEPEST = 3, 20      # random networks
WIDEST, LARGEST_BATCH = 4096, 10000
MOST_SECONDS = 0.03             # of a step, as estimated
CALL_SECONDS = 5e-3             # of many steps
QUICK_SECONDS, QUICK_SHARE = 1e-4, 12

TRAINING, INFERENCE = ("step", "fit"), ("predict", "frozen")
WAYS = TRAINING + INFERENCE

# Who is meant to take this many times as long, at least.
RIVAL, LEAST = ("NumPy", 1.0) if THREADS == 1 else ("1 thread", NO_LOSS)
SAMPLE_SECONDS = networks.choose_timing(False, False, None).sample_seconds


class Network(networks.Network):
    """A network of the sweep; some of these are bound by memory, not by multiplications."""

    @property
    def depth(self) -> int:
        return len(self.widths) - 1

    @property
    def seconds(self) -> float:
        """Of a step, roughly: multiplications, and passes over weights and values."""
        weights = sum(a * b for a, b in pairwise(self.widths))
        return 5e-7 + self.flop / 50e9 + 2e-9 * (weights + self.batch * sum(self.widths))

    @property
    def steps_per_call(self) -> int:
        return int(np.clip(CALL_SECONDS / self.seconds, 2, 1000))


def random_networks() -> list[Network]:
    """Return networks of each depth, widths and batches log-uniform; always the same ones.

    The first of each depth has one width in all its hidden layers, as most networks have.
    """
    rng = np.random.default_rng(20260104)

    def drawn(most: int, count: int) -> tuple[int, ...]:
        return tuple(int(size) for size in np.exp(rng.uniform(0, np.log(most + 1), count)))

    found: list[Network] = []
    while len(found) < PER_DEPTH * DEEPEST:
        depth = len(found) // PER_DEPTH + 1
        first, *hidden, last = drawn(WIDEST, depth + 1)
        if len(found) % PER_DEPTH == 0:
            hidden = hidden[:1] * len(hidden)
        network = Network((first, *hidden, last), *drawn(LARGEST_BATCH, 1))
        if network.seconds <= MOST_SECONDS:
            found.append(network)
    return found


def lines() -> dict[str, list[Network]]:
    """Return networks that grow in one size, and the random ones, by what tells them apart."""
    batches = [*(2**k for k in range(14)), LARGEST_BATCH]
    return {
        "width": [Network((width, width, 10), 32) for width in EDGES],
        "batch": [Network((64, 64, 10), batch) for batch in batches],
        "depth": [Network((32,) * depth + (10,), 32) for depth in range(1, DEEPEST + 1)],
        RANDOM: random_networks(),
    }


def choose(quick: bool) -> dict[str, list[Network]]:
    """Return all networks by line, or few and small ones."""
    if not quick:
        return lines()
    return {line: [network for network in found if network.seconds < QUICK_SECONDS][::QUICK_SHARE]
            for line, found in lines().items()}


# ---- Contenders --------------------------------------------------------------------------------

def single_layer(task: Task) -> Trainer:
    """NumPy in place for a network without hidden layers."""
    flat, scores = Flat(task.weights), Scores(task)
    Z, ones = scores.Z, np.ones(task.batch, task.dtype)
    (W, b), (dW, db) = flat.W, flat.dW
    W_T, b_column, dZ = W.T, b[:, None], Z.T

    def step(x: np.ndarray, places: np.ndarray) -> float:
        np.dot(W_T, x.T, out=Z)
        np.add(Z, b_column, out=Z)
        loss = scores.loss(places)
        np.dot(x.T, dZ, out=dW)
        np.dot(Z, ones, out=db)
        flat.update()
        return loss

    return Trainer(lambda x, y: (x, scores.places(y)), step, lambda: flat.W)


def trainers(task: Task) -> dict[str, Trainer]:
    """Return fastnet's ways to train, and the rival's: NumPy has a row or a column per sample."""
    dtype = task.dtype.name
    own = Fastnet(dtype).training(task)
    if THREADS > 1:
        single = OneThread(dtype).training(task)
        rivals = {alone(way): single[alone(f"fastnet {way}")] for way in TRAINING}
    elif len(task.widths) > 2:
        rivals = {"NumPy rows": in_place(task), "NumPy columns": samples_last(task)}
    else:
        rivals = {"NumPy": single_layer(task)}
    return {**{way: own[f"fastnet {way}"] for way in TRAINING}, **rivals}


def predictors(task: Task, x: np.ndarray) -> dict[str, Run]:
    """Return fastnet's ways to infer raw scores, and the rival's."""
    dtype = task.dtype.name

    def ways(contender: Fastnet) -> dict[str, Run]:
        network, shape = contender.network(task), (len(x), task.n_classes)
        return {"predict": partial(network.predict, x, np.empty(shape, task.dtype)),
                "frozen": partial(network.frozen().predict, x, np.empty(shape, task.dtype))}

    if THREADS > 1:
        rivals = {alone(way): run for way, run in ways(OneThread(dtype)).items()}
    else:
        found = NumPy(dtype).inference(task, x)
        rivals = {"NumPy rows": found["NumPy in place"],
                  "NumPy columns": found["NumPy samples last"]}
    return {**ways(Fastnet(dtype)), **rivals}


def verified_trainers(network: Network, task: Task) -> dict[str, Trainer]:
    """Return contenders in training that have made the exact steps; else WrongResult."""
    found, exact = trainers(task), networks.exact_training(task)
    for who, trainer in found.items():
        networks.verify_training(f"{network}: {who}", trainer, task, exact)
    return found


class OwnTime(Loop):
    """A contender timed in seconds of this process: what others take of its core does not count.

    Samples as short as here, one after the other, would meet others' turns in step: it made one
    contender look three times as slow in each round.
    """

    def timeit(self, calls: int) -> float:
        start = time.process_time()
        self.repeat(calls)
        return time.process_time() - start


# Seconds of this process are those of all its threads together.
timed: type[Loop] = OwnTime if THREADS == 1 else Loop


def again_and_again(run: Run) -> Loop:
    def repeated(calls: int) -> None:
        for _ in repeat(None, calls):
            run()

    return timed(repeated)


class Verified:
    """A network's contenders, which give right results.

    Training is tried with other inputs before it counts as wrong. Where a sum in a deep network is
    just 0, ReLU lets a gradient pass or not as it is rounded; one such case in five steps, among
    all networks, made 5 times the tolerance, and the same for fastnet and NumPy.
    """

    def __init__(self, network: Network, dtype: str) -> None:
        """Make and verify them; WrongResult if one is wrong."""
        self.network, task = network, networks.make_task(network, dtype)
        try:
            self.trainers = verified_trainers(network, task)
        except WrongResult:
            self.trainers = verified_trainers(network, replace(task, x=-task.x))
        x = task.x[0].copy()
        runs = predictors(task, x)
        for who, run in runs.items():
            networks.verify_inference(f"{network}: {who}", run, task, x)
        steps = network.steps_per_call
        self.training = {who: timed(networks.repeated(trainer, task, steps).repeat)
                         for who, trainer in self.trainers.items()}
        self.inference = {who: again_and_again(run) for who, run in runs.items()}

    def training_samples(self, rounds: int) -> Samples:
        """Return seconds per step; WrongResult if weights end as no numbers."""
        samples = in_turns(self.training, rounds)
        for who, trainer in self.trainers.items():
            if not all(np.isfinite(array).all() for array in trainer.weights()):
                raise WrongResult(f"{self.network}: {who} is wrong: weights are not finite")
        return {who: [second / self.steps(who) for second in values]
                for who, values in samples.items()}

    def inference_samples(self, rounds: int) -> Samples:
        return in_turns(self.inference, rounds)

    def steps(self, way: str) -> int:
        """Return how many steps a call of it makes."""
        return self.network.steps_per_call if way in ("fit", alone("fit")) else 1


def in_turns(contenders: Mapping[str, Run], rounds: int) -> Samples:
    return time_in_turns(contenders, rounds, 0, {}, SAMPLE_SECONDS)


# ---- Measuring ---------------------------------------------------------------------------------

@dataclass
class Point:
    """Figures of one network: seconds per step or prediction, and the rival's time over fastnet's.

    NumPy stands for the faster of its forms.
    """

    line: str
    network: Network
    name: str
    times: dict[str, Summary]
    ratios: dict[str, float]


def rival(way: str, times: Mapping[str, Summary]) -> str:
    """Return NumPy's faster form, or with threads the same way on one."""
    if THREADS > 1:
        return alone(way)
    return min(times.keys() - set(WAYS), key=lambda name: times[name].median)


def measure(
    take: Callable[[], Samples], ways: Sequence[str]
) -> tuple[dict[str, Summary], dict[str, float]]:
    """Return the times of fastnet's ways and of the first one's rival, and ratios of these.

    All are measured again if one way looks slower than it may be, which is so in the end if it was
    so each time.
    """
    times: dict[str, Summary] = {}
    ratios: dict[str, float] = {}
    for _ in range(1 + AGAIN):
        samples = take()
        found = {name: summarise(values) for name, values in samples.items()}
        for way in ways:
            if ratios.get(way, 0) < LEAST:
                ratios[way] = median_ratio(samples[rival(way, found)], samples[way])
                times[way] = found[way]
        times[RIVAL] = found[rival(ways[0], found)]
        if min(ratios.values()) >= LEAST:
            break
    return times, ratios


def run(
    chosen: Mapping[str, Sequence[Network]], dtype: str, rounds: int
) -> Iterator[Point]:
    """Yield the figures of each network; WrongResult if a contender is wrong."""
    for line, found in chosen.items():
        for network in found:
            verified = Verified(network, dtype)
            times, ratios = measure(partial(verified.training_samples, rounds), TRAINING)
            times[f"{RIVAL} training"] = times.pop(RIVAL)
            more_times, more_ratios = measure(
                partial(verified.inference_samples, rounds), INFERENCE)
            more_times[f"{RIVAL} inference"] = more_times.pop(RIVAL)
            yield Point(line, network, str(network), times | more_times, ratios | more_ratios)


@dataclass
class Cliff:
    """A network that takes so many times what the next larger one of its line takes."""

    way: str
    network: str
    larger: str
    ratio: float


def cliffs(points: Sequence[Point], dtype: str, rounds: int) -> Iterator[Cliff]:
    """Yield what looks like a cliff and is one each time the two networks take turns."""
    for point, larger in pairwise(points):
        if point.line != larger.line or point.line == RANDOM:
            continue
        suspects = [way for way in WAYS
                    if point.times[way].median > CLIFF * larger.times[way].median]
        if not suspects:
            continue
        pair = [Verified(each.network, dtype) for each in (point, larger)]
        for way in suspects:
            ratio = min(beside(pair, way, rounds) for _ in range(AGAIN))
            if ratio > CLIFF:
                yield Cliff(way, point.name, larger.name, ratio)


def beside(pair: Sequence[Verified], way: str, rounds: int) -> float:
    """Return how many times the second's time the first takes."""
    samples = in_turns({str(i): (verified.training | verified.inference)[way]
                        for i, verified in enumerate(pair)}, rounds)
    own, larger = ([second / verified.steps(way) for second in values]
                   for verified, values in zip(pair, samples.values(), strict=True))
    return median_ratio(own, larger)


# ---- Showing -----------------------------------------------------------------------------------

@dataclass
class Distribution:
    """How many times fastnet's the rival's time is, over all networks, for one of its ways."""

    way: str
    points: Sequence[Point]
    cliffs: int

    def quantile(self, share: float) -> float:
        return float(np.quantile([point.ratios[self.way] for point in self.points], share))

    @property
    def slower(self) -> list[tuple[str, float]]:
        """Return networks and ratios that are less than is meant to be, the worst first."""
        return sorted(((point.name, point.ratios[self.way]) for point in self.points
                       if point.ratios[self.way] < LEAST), key=lambda found: found[1])


def distributions(points: Sequence[Point], found: Sequence[Cliff]) -> list[Distribution]:
    return [Distribution(way, points, sum(cliff.way == way for cliff in found)) for way in WAYS]


SIZES: dict[str, Callable[[Network], int]] = {
    "width": lambda network: network.widths[0],
    "batch": lambda network: network.batch,
    "depth": lambda network: network.depth,
}
KINDS = {"training": TRAINING, "inference": INFERENCE}
TICKS = [0.5, 1, 2, 5, 10, 20]
COLOURS = {"step": "C0", "fit": "C2", "predict": "C1", "frozen": "C3"}


def draw(points: Sequence[Point], title: str) -> Any:
    """Return a figure: ratios over work, and times along the lines; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 10), layout="constrained")
    figure.suptitle(title)
    halves: Any = figure.subfigures(2, 1)
    panels = halves[0].subplots(1, 2, sharex=True, sharey=True)
    for axes, (kind, ways) in zip(panels, KINDS.items(), strict=True):
        for way, marker in zip(ways, "ox", strict=True):
            axes.loglog([point.network.flop for point in points],
                        [point.ratios[way] for point in points],
                        marker, color=COLOURS[way], markersize=5, alpha=0.7, label=way)
        axes.axhline(1, color="black", linewidth=1)
        axes.set(title=kind, xlabel="work of a training step (floating-point operations)",
                 ylabel=f"time of {RIVAL} / fastnet's time")
        axes.set_yticks(TICKS, map(str, TICKS))
    grown = [line for line in SIZES if any(point.line == line for point in points)]
    panels = halves[1].subplots(1, len(grown), squeeze=False)[0]
    for axes, line in zip(panels, grown, strict=True):
        own = [point for point in points if point.line == line]
        for kind, ways in KINDS.items():
            for name, style in ((ways[0], ".-"), (f"{RIVAL} {kind}", ".--")):
                axes.plot([SIZES[line](point.network) for point in own],
                          [1e6 * point.times[name].median for point in own],
                          style, color=COLOURS[ways[0]], label=name)
        axes.set(title=f"as {line} grows", xlabel=line, ylabel="time (us)", yscale="log",
                 xscale="linear" if line == "depth" else "log")
        if line == "depth":
            axes.set_xticks(range(0, DEEPEST + 1, 5))
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
