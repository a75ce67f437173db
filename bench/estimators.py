"""scikit-learn's estimators and ours: whole fits at equal settings, and calls with one sample.

Both get the same random state, so they make the same steps; their last losses are compared before
anything is timed. Fits stop after so many iterations and no earlier.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bench.kernels import WrongResult
from bench.measure import Run, median_ratio, time_in_turns

ITERATIONS = 200       # their default
SEEDS = 10
SCORED = ("digits", "breast_cancer", "wine", "iris", "diabetes")
SAMPLE_SECONDS = 1e-3
TOLERANCE = {"float32": 1e-3, "float64": 1e-8}      # of the last loss

# What is aimed at: how many times ours scikit-learn takes. By data set for batches of 200 (the
# default) and of 32, and for the large one.
TARGETS = {
    ("float32", "auto"): {"iris": 10, "wine": 10, "breast_cancer": 10, "digits": 6},
    ("float64", "auto"): {"iris": 8, "wine": 8, "breast_cancer": 7, "digits": 5},
    ("float32", 32): dict.fromkeys(["iris", "wine", "breast_cancer", "digits"], 10),
    ("float64", 32): dict.fromkeys(["iris", "wine", "breast_cancer", "digits"], 8),
}
LARGE_TARGET, PARTIAL_TARGET, PREDICT_TARGET = 2.5, 50, 20


class Case(NamedTuple):
    """What is compared: theirs and ours as functions, and what is aimed at."""

    what: str
    data: str
    batch: str
    theirs: Run
    ours: Run
    target: float | None


@dataclass(frozen=True)
class Result:
    """Medians in seconds, and how many times ours theirs takes."""

    what: str
    data: str
    batch: str
    dtype: str
    theirs: float
    ours: float
    ratio: float
    target: float | None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached, if there is one."""
        return None if self.target is None else self.ratio >= self.target


def samples(name: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised samples of a data set, and its classes."""
    from sklearn import datasets

    if name == "20000 x 100":
        x, y = datasets.make_classification(20000, 100, n_informative=20, random_state=0)
    else:
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    spread = x.std(axis=0)
    return ((x - x.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(dtype), y


def estimators(**options: Any) -> tuple[Any, Any]:
    """Return a classifier of theirs and one of ours."""
    from sklearn.neural_network import MLPClassifier

    from fastnet import sklearn as ours

    return MLPClassifier(**options), ours.MLPClassifier(**options)


def fits(name: str, dtype: str, batch: Any, target: float | None, iterations: int = ITERATIONS,
         **options: Any) -> Case:
    """Return whole fits, whose last losses are equal; WrongResult if they are not."""
    x, y = samples(name, dtype)
    pair = estimators(batch_size=batch, max_iter=iterations, n_iter_no_change=iterations + 1,
                      random_state=0, **options)
    theirs_loss, own_loss = (estimator.fit(x, y).loss_ for estimator in pair)
    check_equal(name, theirs_loss, own_loss, dtype)
    theirs, ours = (partial(estimator.fit, x, y) for estimator in pair)
    return Case("fit", name, str(batch), theirs, ours, target)


def check_equal(what: str, theirs: float, ours: float, dtype: str) -> None:
    """WrongResult unless two losses are equal but for rounding."""
    if not abs(theirs - ours) <= TOLERANCE[dtype] * max(1.0, abs(theirs)):
        raise WrongResult(f"{what}: the loss is {ours}, but scikit-learn's {theirs}")


def single_calls(dtype: str) -> list[Case]:
    """Return `partial_fit` and `predict` of one sample, with the network of digits."""
    x, y = samples("digits", dtype)
    theirs, ours = estimators(random_state=0, max_iter=10, alpha=1e-4)
    for estimator in (theirs, ours):
        estimator.partial_fit(x[:1], y[:1], classes=np.unique(y))
    turns: dict[int, int] = {0: 0, 1: 0}

    def step(which: int, estimator: Any) -> None:
        i = turns[which] = (turns[which] + 1) % len(x)
        estimator.partial_fit(x[i:i + 1], y[i:i + 1])

    for which, estimator in enumerate((theirs, ours)):
        for _ in range(100):
            step(which, estimator)
    check_equal("partial_fit", theirs.loss_, ours.loss_, dtype)
    frozen = ours.frozen()
    # Theirs as it is now: further steps would change it.
    if not np.array_equal(theirs.predict(x[:200]), frozen.predict(x[:200])):
        raise WrongResult("predict: classes are not scikit-learn's")
    one = x[:1]
    return [
        Case("partial_fit, 1 sample", "digits", "1", partial(step, 0, theirs),
             partial(step, 1, ours), PARTIAL_TARGET),
        Case("predict, 1 sample", "digits", "1", partial(theirs.predict, one),
             partial(frozen.predict, one), PREDICT_TARGET)]


def cases(dtype: str, quick: bool) -> Iterator[Callable[[], list[Case]]]:
    """Yield what makes the cases, one after the other, as data is loaded for each."""
    for batch in ("auto", 32):
        for name, target in TARGETS[dtype, batch].items():
            yield lambda name=name, target=target, batch=batch: [  # type: ignore[misc]
                fits(name, dtype, batch, target, 5 if quick else ITERATIONS)]
    if not quick:
        yield lambda: [fits("20000 x 100", dtype, "auto",
                            LARGE_TARGET if dtype == "float32" else None, 2,
                            hidden_layer_sizes=(512, 256))]
    yield lambda: single_calls(dtype)


def run(dtype: str, rounds: int, seconds: float, quick: bool) -> Iterator[Result]:
    """Yield the figures of each case; WrongResult if results are not equal."""
    warnings.filterwarnings("ignore", module="sklearn")
    warnings.filterwarnings("ignore", module="fastnet")
    for make in cases(dtype, quick):
        for case in make():
            taken = time_in_turns({"theirs": case.theirs, "ours": case.ours}, rounds, seconds, {},
                                  SAMPLE_SECONDS)
            yield Result(case.what, case.data, case.batch, dtype,
                         float(np.median(taken["theirs"])), float(np.median(taken["ours"])),
                         median_ratio(taken["theirs"], taken["ours"]), case.target)


@dataclass(frozen=True)
class Scores:
    """Scores on samples that were held out, over all seeds: accuracy, or R^2 for diabetes."""

    data: str
    theirs: list[float]
    ours: list[float]

    @property
    def standard_error(self) -> float:
        """Of the mean of their scores."""
        return float(np.std(self.theirs, ddof=1) / np.sqrt(len(self.theirs)))

    @property
    def difference(self) -> float:
        """Our mean minus theirs."""
        return float(np.mean(self.ours) - np.mean(self.theirs))

    @property
    def met(self) -> bool:
        """Whether our mean is not below theirs by more than its standard error."""
        return self.difference >= -self.standard_error


def scores(name: str, seeds: int) -> Scores:
    """Return scores with default settings, where a seed splits the samples and starts both."""
    from sklearn import datasets, neural_network
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from fastnet import sklearn as ours

    warnings.filterwarnings("ignore", module="sklearn")
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    kind = "MLPRegressor" if name == "diabetes" else "MLPClassifier"
    found = []
    for module in (neural_network, ours):
        of_module = []
        for seed in range(seeds):
            x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=seed)
            model = make_pipeline(StandardScaler(), getattr(module, kind)(random_state=seed))
            of_module.append(float(model.fit(x_train, y_train).score(x_test, y_test)))
        found.append(of_module)
    return Scores(name, *found)


def draw(results: list[Result], title: str) -> Any:
    """Return a figure of bars: how many times ours scikit-learn takes; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.5 + 0.36 * len(results)), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots()
    names = [f"{r.what}, {r.data}" + (f", batch {r.batch}" if r.what == "fit" else "")
             for r in results]
    axes.barh(names, [r.ratio for r in results], color="C0")
    for index, result in enumerate(results):
        target = result.target or 0
        axes.text(max(result.ratio, target), index, f" {result.ratio:.3g}", va="center", fontsize=9)
        axes.vlines([target] if target else [], index - 0.4, index + 0.4, color="black")
    axes.set_xscale("log")
    axes.set_xlim(1, 3 * max(r.ratio for r in results))
    axes.set_xlabel("scikit-learn's time / fastnet's time; a black line: what is aimed at")
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    return figure
