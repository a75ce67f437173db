"""Whole networks against other libraries: who trains and runs them fastest, on equal threads.

Every contender is verified against float64 first: the losses of some steps and the weights after
these, and the scores of two inputs. Then all of them take turns. There are three comparisons:

* one step per call: of those that get a batch per call;
* many steps per call: of fastnet, which gets an epoch per call, with all others, be it that they
  get so many steps per call too, or are called in a loop;
* inference: raw scores of a batch, a NumPy array in and another out.

A `Variant` of the networks or of the optimizer is compared in training only. With more threads
than one fastnet is also compared with itself on one.
"""

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import THREADS
from bench.contenders import (
    PLAIN,
    Contender,
    Skipped,
    Task,
    Trainer,
    Variant,
    alone,
    layered,
    pairs,
    textbook_forward,
    textbook_state,
    textbook_step,
    unpaired,
)
from bench.kernels import GRID, WrongResult
from bench.measure import Loop, Run, Summary, median_ratio, summarise, time_in_turns

Samples = dict[str, list[float]]

SAMPLE_SECONDS = 3e-3
THREADED_SAMPLE_SECONDS = 20e-3             # rests make rounds few
BUSY_SAMPLE_SECONDS = 100e-3                # many of the scheduler's slices, of 3 or 4 ms
VERIFIED_STEPS = 5
CALL_SECONDS, MOST_STEPS = 0.02, 1000       # work per call of contenders with many steps
QUICK_FLOP = 1e9                            # per step


class Network(NamedTuple):
    """Widths of a dense network from input to output, and its batch."""

    widths: tuple[int, ...]
    batch: int

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.widths))}@{self.batch}"

    @property
    def flop(self) -> int:
        """Of a step: three products per layer, save that inputs need no gradient."""
        sizes = [a * b for a, b in zip(self.widths, self.widths[1:], strict=False)]
        return 2 * self.batch * (3 * sum(sizes) - sizes[0])

    @property
    def steps_per_call(self) -> int:
        """So many that a call takes some 20 ms and its own cost does not count."""
        seconds = 0.5e-6 + self.flop / 50e9
        return int(np.clip(CALL_SECONDS / seconds, 2, MOST_STEPS))


def read_networks(path: Path = GRID) -> list[Network]:
    with open(path, "rb") as file:
        return [Network(tuple(net["widths"]), net["batch"]) for net in tomllib.load(file)["net"]]


def choose(names: Sequence[str] | None, quick: bool) -> list[Network]:
    """Return the networks of these names, or all, or those for a quick run; else ValueError."""
    known = {str(network): network for network in read_networks()}
    for name in names or ():
        if name not in known:
            raise ValueError(f"no network is called {name!r}; there are {', '.join(known)}")
    return ([known[name] for name in names] if names else
            [network for network in known.values() if not quick or network.flop < QUICK_FLOP])


def make_task(network: Network, dtype: str, variant: Variant = PLAIN) -> Task:
    """Return weights and data, the same ones in every run; ReLU keeps the size of activations."""
    rng = np.random.default_rng(20260103)
    weights = []
    for n_in, n_out in zip(network.widths, network.widths[1:], strict=False):
        weights += [rng.standard_normal((n_in, n_out)) * np.sqrt(2 / n_in),
                    rng.standard_normal(n_out) * 0.1]
    steps = max(network.steps_per_call, VERIFIED_STEPS)
    x = rng.standard_normal((steps, network.batch, network.widths[0]), np.dtype(dtype))
    y = rng.integers(0, network.widths[-1], (steps, network.batch))
    if variant.norm:
        *hidden, last = pairs(weights)
        weights = unpaired([*((W, b, 1 + 0.1 * rng.standard_normal(len(b)),
                               0.1 * rng.standard_normal(len(b))) for W, b in hidden), last])
    return Task(network.widths, network.batch, [array.astype(dtype) for array in weights],
                x, y, variant)


# ---- Verifying ---------------------------------------------------------------------------------

# Allowed errors of losses and scores, in eps: sums of up to 2048 products are rounded on the way.
# The largest seen were 4 and 42.
ROUNDINGS = 1000
# Allowed errors of weights: 1 eps of them, and a share of how they have changed. Each step rounds
# the weights, which alone was 0.8 % of the change in float32. Where a sum is just 0, the ReLU of
# one contender lets a sample's gradient pass and that of another does not; this made 0.3 %. A wrong
# constant, or a term, row or column that is missing, makes more.
CHANGE = {"float32": 1e-2, "float64": 1e-8}
# Such a sample, which large layers nearly always have, turns the sign of gradients near 0, and
# Adam's steps by these are as large as any: 2 % of the change, where 1 of 3000 signs was another.
LARGE_LAYER, LARGE_ADAM_CHANGE = 2**20, 3e-2


class Exact(NamedTuple):
    """Losses of some steps, and the weights after these, in float64."""

    losses: np.ndarray
    weights: list[np.ndarray]


def exact_training(task: Task) -> Exact:
    """Train for VERIFIED_STEPS steps as a textbook says; there is to be no dropout."""
    weights = [array.astype(np.float64) for array in task.weights]
    state = textbook_state(weights, task.variant)
    losses = [textbook_step(weights, state, x.astype(np.float64), y, task.variant)
              for x, y in zip(task.x[:VERIFIED_STEPS], task.y, strict=False)]
    return Exact(np.array(losses), weights)


def rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def check(error: float, tolerance: float, what: str) -> None:
    """Raise WrongResult unless the error is within the tolerance; NaN is not."""
    if not error <= tolerance:
        raise WrongResult(f"{what} off by {error / tolerance:.3g} times the tolerance")


def first_losses(trainer: Trainer, task: Task) -> np.ndarray:
    """Train for VERIFIED_STEPS steps, and return the losses, or their mean."""
    x, y = task.x[:VERIFIED_STEPS], task.y[:VERIFIED_STEPS]
    if trainer.many:
        return np.asarray(trainer.step(*trainer.prepare(x, y)), np.float64)
    return np.array([float(trainer.step(*trainer.prepare(*batch)))
                     for batch in zip(x, y, strict=True)])


def verify_training(who: str, trainer: Trainer, task: Task, exact: Exact) -> None:
    """Train for VERIFIED_STEPS steps; WrongResult unless losses and weights are the exact ones."""
    losses = first_losses(trainer, task)
    expected = exact.losses if losses.ndim else exact.losses.mean()
    found = trainer.weights()
    if [losses.shape, *map(np.shape, found)] != [expected.shape, *map(np.shape, exact.weights)]:
        raise WrongResult(f"{who} is wrong: losses and weights have the shapes "
                          f"{[losses.shape, *map(np.shape, found)]}")
    eps = float(np.finfo(task.dtype).eps)
    check(float(np.max(np.abs(losses - expected) / (1 + np.abs(expected)))), ROUNDINGS * eps,
          f"{who} is wrong: losses")
    change = CHANGE[task.dtype.name]
    if (task.variant.optimizer == "adam" and task.dtype == np.float32
            and max(value.size for value in exact.weights) > LARGE_LAYER):
        change = LARGE_ADAM_CHANGE
    names = [f"{name} of layer {index}" for index, layer in enumerate(layered(exact.weights), 1)
             for name, _ in zip(("W", "b", "gain", "shift"), layer, strict=False)]
    for name, own, value, start in zip(names, found, exact.weights, task.weights, strict=True):
        check(rms(own - value), change * rms(value - start) + eps * rms(value),
              f"{who} is wrong: {name}")


def verify_dropout(who: str, trainer: Trainer, task: Task, exact: Exact) -> None:
    """Train for VERIFIED_STEPS steps; WrongResult if losses are those without dropout.

    Even where nothing is dropped, what is kept has grown.
    """
    losses = first_losses(trainer, task)
    expected = exact.losses if losses.ndim else exact.losses.mean()
    tolerance = ROUNDINGS * float(np.finfo(task.dtype).eps) * (1 + np.abs(expected))
    if not (np.abs(losses - expected) > tolerance).any():
        raise WrongResult(f"{who} is wrong: it drops nothing")


def verify_inference(who: str, run: Run, task: Task, x: np.ndarray) -> None:
    """Raise WrongResult unless the scores of each of two batches, put into `x`, are right."""
    weights = [array.astype(np.float64) for array in task.weights]
    for batch in (task.x[1], task.x[0]):
        x[...] = batch
        exact = textbook_forward(weights, x.astype(np.float64))[-1]
        found = run()
        if type(found) is not np.ndarray or (found.shape, found.dtype) != (exact.shape, x.dtype):
            raise WrongResult(f"{who} is wrong: scores are no array ({type(found).__name__}), or "
                              "one of another shape or dtype")
        check(float(np.max(np.abs(found - exact))) / rms(exact),
              ROUNDINGS * float(np.finfo(x.dtype).eps), f"{who} is wrong: scores")


# ---- Timing and judging ------------------------------------------------------------------------

ONE, MANY, INFERENCE = "one step per call", "many steps per call", "inference"

# Which of fastnet's ways stands for it in a comparison.
WAYS = {ONE: "fastnet step", MANY: "fastnet fit", INFERENCE: "fastnet frozen"}

# Which of them are also compared with themselves on one thread.
THREADED = {ONE: [WAYS[ONE]], MANY: [WAYS[MANY]], INFERENCE: [WAYS[INFERENCE], "fastnet predict"]}

# What is aimed at in float32 on one thread: time of the fastest other library over fastnet's, in
# training and in inference.
TARGETS = {
    "2-3-2@1": (4, 25),
    "10-50-3@1": (5, 20),
    "24-8-2@200": (3, 4),
    "17-256-256-6@1": (2.2, 3.5),
    "17-256-256-6@256": (1.35, 1.15),
    "64-64-64-10@64": (2, 2.05),
    "784-128-10@128": (1.3, 1.08),
    "30-1024-512-2@32": (1.35, 1.1),
    "784-1000-10@128": (1.15, 1.1),
    "784-1000-10@10000": (1.15, 1.1),
    "512-512-512-512-10@1024": (1.12, 1.1),
    "100-512-256-2@1024": (1.2, 1.15),
    "2048-2048-2048-10@256": (1.05, 1.08),
}
# The same with threads, in both; others: ELSEWHERE.
LARGEST = {"2048-2048-2048-10@256": 1.0, "512-512-512-512-10@1024": 1.0}
ELSEWHERE = 1.1

# What threads are to gain: time on one thread over time with them; nowhere less than NO_LOSS, or
# than NO_LOSS_BUSY where another process keeps a core busy.
GAINS = {
    "784-1000-10@10000": 1.75,
    "512-512-512-512-10@1024": 1.75,
    "2048-2048-2048-10@256": 1.75,
    "784-1000-10@128": 1.55,
    "100-512-256-2@1024": 1.55,
}
NO_LOSS, NO_LOSS_BUSY = 0.97, 1 / 1.15


class Timing(NamedTuple):
    """How long to measure, and whether another process keeps a core busy meanwhile.

    The rounds and the seconds, whatever takes longer, count for training; for inference half the
    seconds.
    """

    rounds: int
    seconds: float
    sample_seconds: float = SAMPLE_SECONDS
    busy: bool = False


def choose_timing(quick: bool, busy: bool, rounds: int | None) -> Timing:
    """Return what is usual, but so many rounds, if that is said."""
    usual, seconds = (5, 0.5) if quick else (7, 6) if THREADS == 1 else (7, 12)
    sample_seconds = (BUSY_SAMPLE_SECONDS if busy else THREADED_SAMPLE_SECONDS if THREADS > 1
                      else SAMPLE_SECONDS)
    return Timing(rounds or usual, seconds, sample_seconds / (5 if quick and THREADS > 1 else 1),
                  busy)


def target(network: str, form: str, dtype: str, variant: Variant, busy: bool) -> float | None:
    """Return how many times fastnet's time the fastest other library is to take, if it is said."""
    if (dtype, variant) != ("float32", PLAIN) or network not in TARGETS or busy:
        return None
    if THREADS > 1:
        return LARGEST.get(network, ELSEWHERE)
    return TARGETS[network][form == INFERENCE]


def gain(network: str, variant: Variant, busy: bool) -> float:
    """Return how many times the time with threads one thread is to take, at least."""
    if busy:
        return NO_LOSS_BUSY
    return GAINS.get(network, NO_LOSS) if variant == PLAIN else NO_LOSS


@dataclass
class Speedup:
    """How many times a way's time one thread takes, and whether that reaches the target."""

    way: str
    ratio: float
    target: float
    met: bool


@dataclass
class Comparison:
    """Seconds per step of all that take part, and how many times fastnet's these are.

    `fastnet` names the way that stands for it, `fastest` the fastest other library, if there is
    one, `ratio` its ratio, and `met` tells whether that reaches the target, if there are both.
    `speedups` tell of threads against one.
    """

    network: str
    form: str
    dtype: str
    times: dict[str, Summary]
    fastnet: str
    ratios: dict[str, float]
    fastest: str | None
    ratio: float | None
    target: float | None
    met: bool | None
    speedups: list[Speedup]

    def all_ratios(self) -> dict[str, float]:
        """Return those of others, and of fastnet on one thread."""
        return self.ratios | {alone(found.way): found.ratio for found in self.speedups}


def compare(
    network: str, form: str, dtype: str, samples: Samples, variant: Variant = PLAIN,
    busy: bool = False,
) -> Comparison:
    """Return the comparison of samples in seconds per step."""
    fastnet = WAYS[form]
    times = {name: summarise(values) for name, values in samples.items()}
    ratios = {name: median_ratio(values, samples[fastnet])
              for name, values in samples.items() if not name.startswith("fastnet")}
    fastest = min(ratios, key=lambda name: times[name].median, default=None)
    ratio = ratios[fastest] if fastest else None
    aim = target(network, form, dtype, variant, busy)
    met = None if ratio is None or aim is None else ratio >= aim
    least = gain(network, variant, busy)
    gained = {way: median_ratio(samples[alone(way)], samples[way])
              for way in THREADED[form] if alone(way) in samples}
    speedups = [Speedup(way, found, least, found >= least) for way, found in gained.items()]
    return Comparison(
        network, form, dtype, times, fastnet, ratios, fastest, ratio, aim, met, speedups)


@dataclass
class Result:
    """All that was found for a network, and the reason for each library that was left out.

    The comparisons are of one step per call, of many, and for plain networks of inference.
    """

    network: str
    steps_per_call: int
    comparisons: list[Comparison]
    skipped: dict[str, str]


def repeated(trainer: Trainer, task: Task, steps: int) -> Loop:
    """Return the contender as timed: on and on with the first `steps` batches."""
    step, x, y = trainer.step, task.x[:steps], task.y[:steps]
    batches = cycle([trainer.prepare(x, y)] if trainer.many else
                    [trainer.prepare(*batch) for batch in zip(x, y, strict=True)])

    def repeat(calls: int) -> None:
        for x, y in islice(batches, calls):
            step(x, y)

    return Loop(repeat)


def time_training(
    trainers: Mapping[str, Trainer], task: Task, network: Network, timing: Timing
) -> Samples:
    """Return seconds per step of verified contenders; WrongResult if weights end as no numbers."""
    steps = network.steps_per_call
    loops = {name: repeated(trainer, task, steps) for name, trainer in trainers.items()}
    samples = time_in_turns(loops, timing.rounds, timing.seconds, {}, timing.sample_seconds)
    for name, trainer in trainers.items():
        if not all(np.isfinite(array).all() for array in trainer.weights()):
            raise WrongResult(f"{network}: {name} is wrong: weights are not finite in the end")
    return {name: [second / (steps if trainers[name].many else 1) for second in values]
            for name, values in samples.items()}


def asked(
    contenders: Mapping[str, Contender], ask: Callable[[Contender], dict[str, Any]],
    skipped: dict[str, str],
) -> dict[str, Any]:
    """Return all ways of all contenders by name; note why one does not take part."""
    found: dict[str, Any] = {}
    for name, contender in contenders.items():
        try:
            found |= ask(contender)
        except Skipped as error:
            skipped[name] = str(error)
    return found


def verified_trainers(
    contenders: Mapping[str, Contender], task: Task, name: str, skipped: dict[str, str]
) -> dict[str, Trainer]:
    """Return all contenders in training; WrongResult if one is wrong.

    With dropout each is verified without it, and then shown to have it.
    """
    certain = task.without_dropout()
    exact = exact_training(certain)
    trainers = asked(contenders, lambda contender: contender.training(certain), skipped)
    for who, trainer in trainers.items():
        verify_training(f"{name}: {who}", trainer, certain, exact)
    if task.variant.dropout:
        trainers = asked(contenders, lambda contender: contender.training(task), skipped)
        for who, trainer in trainers.items():
            verify_dropout(f"{name}: {who}", trainer, task, exact)
    return trainers


def compare_training(
    contenders: Mapping[str, Contender], task: Task, network: Network, timing: Timing,
    skipped: dict[str, str],
) -> list[Comparison]:
    """Return two comparisons: of one step per call and of many."""
    name, dtype = str(network), task.dtype.name
    trainers = verified_trainers(contenders, task, name, skipped)
    samples = time_training(trainers, task, network, timing)
    single = {who: samples[who] for who, trainer in trainers.items() if not trainer.many}
    return [compare(name, ONE, dtype, single, task.variant, timing.busy),
            compare(name, MANY, dtype, samples, task.variant, timing.busy)]


def compare_inference(
    contenders: Mapping[str, Contender], task: Task, network: Network, timing: Timing,
    skipped: dict[str, str],
) -> Comparison:
    name, x = str(network), task.x[0].copy()
    runs = asked(contenders, lambda contender: contender.inference(task, x), skipped)
    for who, run in runs.items():
        verify_inference(f"{name}: {who}", run, task, x)
    samples = time_in_turns(runs, timing.rounds, timing.seconds / 2, {}, timing.sample_seconds)
    return compare(name, INFERENCE, task.dtype.name, samples, busy=timing.busy)


def run(
    networks: Iterable[Network], contenders: Mapping[str, Contender], dtype: str, timing: Timing,
    variant: Variant = PLAIN,
) -> Iterator[Result]:
    """Yield figures of each network, of inference only of plain ones; WrongResult as above."""
    for network in networks:
        task, skipped = make_task(network, dtype, variant), dict[str, str]()
        found = compare_training(contenders, task, network, timing, skipped)
        if variant == PLAIN:
            found.append(compare_inference(contenders, task, network, timing, skipped))
        yield Result(str(network), network.steps_per_call, found, skipped)


# ---- Showing -----------------------------------------------------------------------------------

def draw(results: Sequence[Result], title: str) -> Any:
    """Return a figure: how many times fastnet's time each takes; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.5 + 0.9 * len(results), 12), layout="constrained")
    figure.suptitle(title)
    names = list(dict.fromkeys(name for result in results for comparison in result.comparisons
                               for name in comparison.all_ratios()))
    looks = dict(zip(names, cycle((f"C{i}", marker) for marker in "osv" for i in range(10)),
                     strict=False))
    forms = [comparison.form for comparison in results[0].comparisons]
    panels = figure.subplots(len(forms), 1, sharex=True)
    for index, (axes, form) in enumerate(zip(panels, forms, strict=True)):
        comparisons = [result.comparisons[index] for result in results]
        for name, (colour, marker) in looks.items():
            points = [(i, comparison.all_ratios()[name])
                      for i, comparison in enumerate(comparisons)
                      if name in comparison.all_ratios()]
            if points:
                axes.plot(*zip(*points, strict=True), marker, color=colour, label=name, alpha=0.8)
        targets = [(i, comparison.target) for i, comparison in enumerate(comparisons)
                   if comparison.target is not None]
        if targets:
            axes.plot(*zip(*targets, strict=True), "_", color="black", markersize=22,
                      label="target for the lowest")
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_yscale("log")
        axes.set(title=form if form == INFERENCE else f"training, {form}",
                 ylabel="time / fastnet's time")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    panels[-1].set_xticks(range(len(results)), [result.network for result in results],
                          rotation=40, ha="right")
    return figure
