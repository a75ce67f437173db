"""Command line of the benchmarks: `python -m bench --help`."""

import argparse
import math
import statistics
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from bench import (
    contenders,
    estimators,
    kernels,
    network_sweep,
    networks,
    peers,
    ranks,
    scaling,
    steady,
    sweep,
)
from bench.measure import SAMPLE_SECONDS, environment
from bench.report import Column, Report, digits, microseconds, shape, times


def ratio(name: str) -> Column:
    heading = f"{name}/fastnet"
    return heading, len(heading), lambda result: (
        digits(result.ratios[name]) if name in result.ratios else "-")


def gflop_per_second(result: kernels.Result) -> str:
    return digits(result.flop / result.times["fastnet"].median / 1e9) if result.flop else "-"


KERNEL_COLUMNS: list[Column] = [
    ("kernel", 21, lambda result: result.kernel),
    ("shape", 14, shape),
    times("fastnet"), times("NumPy"), ratio("NumPy"),
    times("reference"), ratio("reference"),
    ("fastnet GFLOP/s", 15, gflop_per_second),
]


def figure(name: str) -> Column:
    return name, len(name), lambda row: digits(row.figures[name]) if name in row.figures else "-"


def further(row: peers.Row) -> str:
    """Return the figures that only some rows have."""
    names = "ns per row", "fastnet GB/s", "copy GB/s"
    return ", ".join(f"{digits(row.figures[name])} {name}" for name in names if name in row.figures)


def targets(row: peers.Row) -> str:
    missed = [verdict.target for verdict in row.verdicts if not verdict.met]
    return f"missed: {', '.join(missed)}" if missed else "met"


PEER_COLUMNS: list[Column] = [
    ("kernel", 19, lambda row: row.kernel),
    ("shape", 14, shape),
    times("fastnet"), figure("NumPy/fastnet"), figure("PyTorch/fastnet"),
    times("fastnet in C"), figure("gemm/fastnet in C"), figure("share of peak"),
    ("further", 31, further), ("targets", 36, targets),
]


def nothing_like(text: str) -> ValueError:
    return ValueError(f"no kernel and shape contain {text!r}")


def in_turns(rounds: int, seconds: float, sample_seconds: float = SAMPLE_SECONDS) -> str:
    return (f"in turns for {rounds} rounds and {seconds} s or more, each one call or "
            f"{1e3 * sample_seconds:.0f} ms")


RATIOS = "median [quartiles]; ratios are medians of the rounds' ratios, above 1 fastnet is faster"


def run_kernels(options: argparse.Namespace) -> None:
    """Measure the kernels against NumPy and the reference, or against their peers."""
    if options.peers:
        run_peers(options)
        return
    layers = (kernels.read_layers() if options.all
              else kernels.SMALL_LAYERS if options.quick else kernels.SOME_LAYERS)
    plans = kernels.plans(layers, options.filter)
    if not plans:
        raise nothing_like(options.filter)
    rounds, seconds = (5, 0.05) if options.quick else (11, 0.6)
    report = Report({
        **environment(options.dtype),
        "samples": f"{in_turns(rounds, seconds)}; of the reference {kernels.REFERENCE_ROUNDS}",
        "figures": RATIOS,
        "parts": "dense_backward is timed in three; the reference's figures are its dense_forward "
                 "of the same matrices, transposed beforehand, for dX and dW, and sums of columns "
                 "for db; scale_forward is scale_backward's kernel too",
    })
    found = kernels.run(plans, options.dtype, rounds, seconds)
    report.close(list(report.table(KERNEL_COLUMNS, found)), options.markdown, options.json)


def run_peers(options: argparse.Namespace) -> None:
    """Measure the kernels against their peers, and judge them by the targets."""
    layers = kernels.SMALL_LAYERS if options.quick else kernels.read_layers()
    plans = peers.plans(layers, options.filter, small=options.quick)
    if not plans:
        raise nothing_like(options.filter)
    rounds, seconds = (5, 0.05) if options.quick else (9, 2)
    rivals = peers.Peers(options.dtype)
    report = Report({
        **environment(options.dtype), **rivals.versions(),
        "samples": in_turns(rounds, seconds),
        "figures": RATIOS,
        "in C": "repeated by a loop in C: gemm the bare product, fastnet with bias and ReLU",
    })
    found = peers.run(plans, rivals, options.dtype, rounds, seconds)
    rows = list(report.table(PEER_COLUMNS, found))
    verdicts = [verdict for row in rows for verdict in row.verdicts]
    report.show(f"{sum(verdict.met for verdict in verdicts)} of {len(verdicts)} targets are met; "
                "missed:")
    for row in rows:
        for verdict in row.verdicts:
            if not verdict.met:
                report.show(f"- {row.kernel} {shape(row)}: {verdict.target}, "
                            f"found {verdict.found:.4g}")
    report.show("")
    peaks = [row.figures["peak GFLOP/s"] for row in rows if "peak GFLOP/s" in row.figures]
    if peaks:
        report.show(f"- peak: {digits(statistics.median(peaks))} GFLOP/s, median of the rows")
    report.close(rows, options.markdown, options.json)


WEAK_COLUMNS: list[Column] = [
    ("kernel", 17, lambda point: point.kernel),
    ("shape", 14, shape),
    times("fastnet"), times("NumPy"),
    ("NumPy/fastnet", 13, lambda point: digits(point.ratio)),
    ("slower than", 40, lambda point: ", ".join(
        f"{larger} by {ratio - 1:.0%}" for larger, ratio in point.cliffs.items())),
]


def quantile(heading: str, share: float) -> Column:
    return heading, 6, lambda found: digits(found.quantile(share))


DISTRIBUTION_COLUMNS: list[Column] = [
    ("NumPy/fastnet", 17, lambda found: found.kernel),
    ("points", 6, lambda found: str(len(found.points))),
    quantile("min", 0), quantile("5 %", 0.05), quantile("median", 0.5), quantile("max", 1),
    ("below 1", 7, lambda found: str(sum(point.ratio < 1 for point in found.points))),
    ("cliffs", 6, lambda found: str(sum(bool(point.cliffs) for point in found.points))),
]


def run_sweep(options: argparse.Namespace) -> None:
    """Measure the products over many shapes; show the weak ones and how ratios are distributed."""
    if options.plot:
        import_module("matplotlib")     # not after the run is the time to learn that it is missing
    if options.networks:
        run_network_sweep(options)
        return
    shapes = sweep.random_shapes() + sweep.edge_shapes()
    rounds = 7
    if options.quick:
        shapes = [shape for shape in shapes if math.prod(shape) < 10**5][::50]
        rounds = 3
    described = environment(options.dtype)
    report = Report({
        **described,
        "samples": in_turns(rounds, 0, sweep.SAMPLE_SECONDS),
        "figures": RATIOS,
        "listed": f"what is slower than NumPy, or by {sweep.CLIFF - 1:.0%} slower than a larger "
                  f"shape, in each of {1 + sweep.AGAIN} measurements",
    })
    points: list[sweep.Point] = []

    def weak() -> Iterator[sweep.Point]:
        for point in sweep.run(shapes, options.dtype, rounds):
            points.append(point)
            if point.ratio < 1 or point.cliffs:
                yield point

    list(report.table(WEAK_COLUMNS, weak()))
    list(report.table(DISTRIBUTION_COLUMNS, sweep.distributions(points)))
    if options.plot:
        title = f"{options.dtype}, one thread, {described['processor'].split(',')[0]}"
        sweep.draw(points, title).savefig(options.plot, dpi=150)
    report.close(points, options.markdown, options.json)


def microseconds_of(heading: str, way: str) -> Column:
    return heading, 10, lambda point: digits(1e6 * point.times[way].median)


def ratio_of(way: str) -> Column:
    heading = f"NumPy/{way}"
    return heading, len(heading), lambda point: digits(point.ratios[way])


SWEPT_COLUMNS: list[Column] = [
    ("line", 6, lambda point: point.line),
    ("network", 23, lambda point: point.name),
    *(microseconds_of(f"{way} us", way) for way in network_sweep.TRAINING),
    microseconds_of("NumPy us", "NumPy training"),
    *map(ratio_of, network_sweep.TRAINING),
    *(microseconds_of(f"{way} us", way) for way in network_sweep.INFERENCE),
    microseconds_of("NumPy us", "NumPy inference"),
    *map(ratio_of, network_sweep.INFERENCE),
]

SPREAD_COLUMNS: list[Column] = [
    ("NumPy/fastnet", 13, lambda found: found.way),
    ("networks", 8, lambda found: str(len(found.points))),
    quantile("min", 0), quantile("5 %", 0.05), quantile("median", 0.5), quantile("max", 1),
    ("below 1", 7, lambda found: str(len(found.slower))),
    ("cliffs", 6, lambda found: str(found.cliffs)),
]


def run_network_sweep(options: argparse.Namespace) -> None:
    """Measure networks of many shapes; name those slower than NumPy, and the cliffs."""
    rounds = 3 if options.quick else 7
    described = environment(options.dtype)
    report = Report({
        **described,
        "samples": in_turns(rounds, 0, networks.SAMPLE_SECONDS) + " of this process",
        "verified": f"against float64: {networks.VERIFIED_STEPS} steps, and scores of 2 batches",
        "figures": "medians per step or prediction; ratios are medians of the rounds' ratios, "
                   "above 1 fastnet is faster",
        "fastnet as": "Sequential: train_step; fit of many steps; predict and frozen().predict "
                      "with out=",
        "NumPy as": "in place, a row or a column per sample: whichever is faster",
        "listed": f"what is slower than NumPy in each of {1 + sweep.AGAIN} measurements, or by "
                  f"{sweep.CLIFF - 1:.0%} slower than the next larger network of its line",
    })
    found = network_sweep.run(network_sweep.choose(options.quick), options.dtype, rounds)
    points = list(report.table(SWEPT_COLUMNS, found))
    cliffs = list(network_sweep.cliffs(points, options.dtype, rounds))
    spreads = list(report.table(SPREAD_COLUMNS, network_sweep.distributions(points, cliffs)))
    report.show("Slower than NumPy:")
    for spread in spreads:
        for name, ratio in spread.slower:
            report.show(f"- {spread.way} of {name}: {digits(ratio)}")
    report.show("")
    report.show("Cliffs:")
    for cliff in cliffs:
        report.show(f"- {cliff.way} of {cliff.network} takes {cliff.ratio - 1:.0%} longer than of "
                    f"{cliff.larger}")
    report.show("")
    if options.plot:
        title = f"{options.dtype}, one thread, {described['processor'].split(',')[0]}"
        network_sweep.draw(points, title).savefig(options.plot, dpi=110)
    report.close([*points, *cliffs], options.markdown, options.json)


def network_columns(result: networks.Result) -> list[Column]:
    """Return the columns of a network's table, whose rows are names of contenders."""
    one, many, *inference = result.comparisons

    def times_of(comparison: networks.Comparison, heading: str) -> Column:
        return heading, 26, lambda name: microseconds(comparison.times.get(name))

    def ratio_to(comparison: networks.Comparison) -> Column:
        heading = f"/{comparison.fastnet}"
        return heading, len(heading), lambda name: (
            digits(comparison.ratios[name]) if name in comparison.ratios else "-")

    return [
        ("contender", 18, str),
        ("steps per call", 14, lambda name: (
            "1" if name in one.times else str(result.steps_per_call) if name in many.times
            else "-")),
        times_of(many, "training step us"), ratio_to(one), ratio_to(many),
        *(column for found in inference
          for column in (times_of(found, "inference us"), ratio_to(found))),
    ]


def yes_or_no(met: bool | None) -> str:
    return "-" if met is None else "yes" if met else "no"


VERDICT_COLUMNS: list[Column] = [
    ("network", 23, lambda found: found.network),
    ("comparison", 19, lambda found: found.form),
    ("fastest other", 18, lambda found: found.fastest or "-"),
    ("its us", 26, lambda found: microseconds(found.times.get(found.fastest))),
    ("fastnet as", 14, lambda found: found.fastnet),
    ("its us", 26, lambda found: microseconds(found.times[found.fastnet])),
    ("ratio", 6, lambda found: digits(found.ratio) if found.ratio else "-"),
    ("target", 6, lambda found: f"{found.target:g}" if found.target else "-"),
    ("met", 3, lambda found: yes_or_no(found.met)),
]


def run_networks(options: argparse.Namespace) -> None:
    """Measure whole networks against other libraries, and judge them by the targets."""
    if options.plot:
        import_module("matplotlib")
    chosen = networks.choose(options.nets, options.quick)
    names = options.peers or list(contenders.PEERS)
    rivals = {name: contenders.PEERS[name] for name in names}
    variant = contenders.VARIANTS[options.variant]
    plain = variant == contenders.PLAIN
    skipped: dict[str, str] = {}
    if options.quick and rivals.pop("torch.compile", None):
        skipped["torch.compile"] = "compiles for too long for a quick run"
    if not plain and "onnxruntime" in rivals:
        del rivals["onnxruntime"]
        skipped["onnxruntime"] = "does not train"
    loaded, missing = contenders.load({"fastnet": contenders.Fastnet, **rivals}, options.dtype)
    skipped |= missing
    rounds, seconds = (5, 0.5) if options.quick else (7, 6)
    rounds = options.rounds or rounds
    described = environment(options.dtype)
    verified = f"against float64: {networks.VERIFIED_STEPS} steps"
    report = Report({
        **described,
        **({} if plain else {"variant": f"{variant.name}: {variant.described()}"}),
        **{f"{name} as": contender.described() for name, contender in loaded.items()},
        **{name: f"left out: {reason}" for name, reason in skipped.items()},
        "samples": in_turns(rounds, seconds, networks.SAMPLE_SECONDS) + (
            "; half the time for inference" if plain else ""),
        "verified": verified + (
            ", and scores of 2 batches" if plain else
            " without dropout; with it losses are others" if variant.dropout else ""),
        "figures": RATIOS,
    })
    results = []
    for result in networks.run(chosen, loaded, options.dtype, rounds, seconds, variant):
        results.append(result)
        report.show(f"## {result.network}")
        report.show("")
        contestants = {name: None for found in result.comparisons[1:] for name in found.times}
        list(report.table(network_columns(result), contestants))
        for name, reason in result.skipped.items():
            report.show(f"- {name} left out: {reason}")
        if result.skipped:
            report.show("")
    verdicts = [found for result in results for found in result.comparisons]
    report.show("## The fastest other library")
    report.show("")
    list(report.table(VERDICT_COLUMNS, verdicts))
    judged = [found for found in verdicts if found.met is not None]
    if judged:
        met = sum(found.met is True for found in judged)
        report.show(f"{met} of {len(judged)} targets are met")
        report.show("")
    if options.plot:
        title = f"{options.dtype}, one thread, {described['processor'].split(',')[0]}"
        title += "" if plain else f"; {variant.described()}"
        networks.draw(results, title).savefig(options.plot, dpi=110)
    report.close(results, options.markdown, options.json)


STEADY_COLUMNS: list[Column] = [
    ("case", 28, lambda result: result.case),
    ("learning us", 11, lambda result: digits(1e6 * result.learning)),
    ("at rest us", 10, lambda result: digits(1e6 * result.at_rest)),
    ("/learning", 9, lambda result: digits(result.at_rest / result.learning)),
    ("saturated us", 12, lambda result: digits(1e6 * result.saturated)),
    ("/learning", 9, lambda result: digits(result.saturated / result.learning)),
    ("steps", 8, lambda result: str(result.steps)),
]


def run_steady(options: argparse.Namespace) -> None:
    """See whether steps stay as fast as they were."""
    report = Report({
        **environment(options.dtype),
        "network": f"{steady.WIDTH}-{steady.WIDTH}-{steady.WIDTH}-10, batch {steady.BATCH}",
        "figures": "a step while learning (median), in the slowest stretch at rest, saturated"})
    results = list(report.table(STEADY_COLUMNS, steady.run(options.dtype, options.quick)))
    report.close(results, options.markdown, options.json)


def milliseconds(seconds: float) -> str:
    return digits(1e3 * seconds)


ESTIMATOR_COLUMNS: list[Column] = [
    ("what", 21, lambda result: result.what),
    ("data", 13, lambda result: result.data),
    ("batch", 5, lambda result: result.batch),
    ("dtype", 7, lambda result: result.dtype),
    ("scikit-learn ms", 15, lambda result: milliseconds(result.theirs)),
    ("fastnet ms", 10, lambda result: milliseconds(result.ours)),
    ("ratio", 6, lambda result: digits(result.ratio)),
    ("target", 6, lambda result: f"{result.target:g}" if result.target else "-"),
    ("met", 3, lambda result: yes_or_no(result.met)),
]


SCORE_COLUMNS: list[Column] = [
    ("data", 13, lambda scores: scores.data),
    ("scikit-learn", 12, lambda scores: f"{statistics.mean(scores.theirs):.4f}"),
    ("fastnet", 7, lambda scores: f"{statistics.mean(scores.ours):.4f}"),
    ("difference", 10, lambda scores: f"{scores.difference:+.1e}"),
    ("standard error", 14, lambda scores: f"{scores.standard_error:.4f}"),
    ("met", 3, lambda scores: yes_or_no(scores.met)),
]


def run_scores(options: argparse.Namespace, version: str) -> None:
    """Compare what the estimators reach with their defaults."""
    seeds = 2 if options.quick else estimators.SEEDS
    report = Report({
        "scikit-learn": version,
        "scores": f"means over {seeds} seeds, of the quarter of samples that was held out: "
                  "accuracy, for diabetes R^2",
        "met": "not below scikit-learn's by more than its standard error"})
    results = list(report.table(
        SCORE_COLUMNS, (estimators.scores(name, seeds) for name in estimators.SCORED)))
    report.close(results, options.markdown, options.json)
    if not all(result.met for result in results):
        raise kernels.WrongResult("scores are below scikit-learn's")


def run_estimators(options: argparse.Namespace) -> None:
    """Measure the estimators against scikit-learn's."""
    if options.plot:
        import_module("matplotlib")
    version = import_module("sklearn").__version__
    if options.scores:
        run_scores(options, version)
        return
    rounds, seconds = (3, 0.1) if options.quick else (9, 3)
    described = environment(options.dtype)
    report = Report({
        **described, "scikit-learn": version,
        "samples": in_turns(rounds, seconds, estimators.SAMPLE_SECONDS),
        "verified": "equal losses from equal random states",
        "figures": RATIOS})
    results = list(report.table(
        ESTIMATOR_COLUMNS, estimators.run(options.dtype, rounds, seconds, options.quick)))
    judged = [result for result in results if result.met is not None]
    report.show(f"{sum(result.met is True for result in judged)} of {len(judged)} targets are met")
    report.show("")
    if options.plot:
        title = f"{options.dtype}, one thread, {described['processor'].split(',')[0]}"
        estimators.draw(results, title).savefig(options.plot, dpi=110)
    report.close(results, options.markdown, options.json)


RANK_COLUMNS: list[Column] = [
    ("network", 21, lambda result: result.network),
    ("parameters", 10, lambda result: f"{result.parameters:,}"),
    ("batch", 5, lambda result: str(result.batch)),
    *(times(way) for way in ranks.WAYS),
    ("of 2 threads", 12, lambda result: f"{result.efficiency('2 threads'):.0%}"),
    ("of 2 ranks", 10, lambda result: f"{result.efficiency('2 ranks'):.0%}"),
]
MESSAGE_COLUMNS: list[Column] = [
    ("parameters", 10, lambda message: f"{message.parameters:,}"),
    times("Allreduce"), times("add"),
]


def run_ranks(options: argparse.Namespace) -> None:
    """Measure steps of two processes, and their messages."""
    seconds = 0.2 if options.quick else 4
    described = environment(options.dtype)
    mpi, results, messages = ranks.run(options.dtype, seconds)
    report = Report({
        **described, "MPI": mpi, "mpi4py": metadata.version("mpi4py"),
        "samples": f"in turns for {seconds} s or more, each 20 ms; all in one run of "
                   f"{ranks.RANKS} ranks, each on a core of its own; where one is measured alone, "
                   "the other sleeps",
        "waiting": ", ".join(f"{name}={value}" for name, value in ranks.WAITING.items()),
        "figures": "median [quartiles] of a train_step; of: t(1 thread) / (2 t); 1 rank: through "
                   "messages to itself",
        "verified": "two ranks have the losses of one process",
    })
    found: list[Any] = list(report.table(RANK_COLUMNS, results))
    found += report.table(MESSAGE_COLUMNS, messages)
    report.close(found, options.markdown, options.json)


def run_scaling(options: argparse.Namespace) -> None:
    """Show what the model makes of measured costs, or put it on a page."""
    if options.page is None:
        print("\n\n".join(scaling.tables(options.measured).values()))
        return
    page = options.page.read_text()
    options.page.write_text(scaling.updated(page, options.measured))


def new_file(text: str) -> Path:
    """Return a path that can be written to later: not after the run is the time to learn it."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    command.add_argument("--json", metavar="FILE", type=new_file, help="write figures to FILE")
    command.add_argument("--markdown", metavar="FILE", type=new_file,
                         help="write what is printed to FILE")


def main() -> int:
    """Return the exit status: 1 if a contender gives a wrong result, which stops the run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks of fastnet.")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser(
        "kernels", help="each core loop against NumPy and the pure-Python reference",
        description="Each core loop against NumPy and the pure-Python reference, one thread each.")
    command.add_argument("--peers", action="store_true",
                         help="against NumPy, PyTorch and BLAS at their best, every layer of the "
                              "grid, and judged by targets; needs the [bench] extra")
    size = command.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small layers, few rounds")
    size.add_argument("--all", action="store_true", help="every layer of the grid: takes long")
    command.add_argument("--filter", metavar="SUBSTRING", default="",
                         help="only cases like this, for example dense or 64x10")
    add_common(command)
    command.set_defaults(run=run_kernels)

    command = commands.add_parser(
        "sweep", help="the products, or whole networks, against NumPy over many shapes",
        description="The three products of a dense layer against NumPy over many shapes: where "
                    "NumPy is faster, and where a larger shape is.")
    command.add_argument("--networks", action="store_true",
                         help="training and inference of whole networks instead")
    command.add_argument("--quick", action="store_true", help="few and small shapes")
    command.add_argument("--plot", metavar="FILE", type=new_file,
                         help="draw the figures over work as PNG; needs matplotlib")
    add_common(command)
    command.set_defaults(run=run_sweep)

    command = commands.add_parser(
        "networks", help="whole networks against other libraries",
        description="Training and inference of whole networks against NumPy, PyTorch, JAX, "
                    "scikit-learn and onnxruntime, one thread each, judged by targets. What is "
                    "not installed is left out; the [bench] extra installs all but PyTorch.")
    command.add_argument("--quick", action="store_true",
                         help="few rounds, without the largest networks and torch.compile")
    command.add_argument("--nets", metavar="NET", nargs="+", help="only these, for example 2-3-2@1")
    command.add_argument("--peers", metavar="NAME", nargs="+", choices=list(contenders.PEERS),
                         help=f"only against these of {', '.join(contenders.PEERS)}")
    command.add_argument("--variant", choices=list(contenders.VARIANTS),
                         default=contenders.PLAIN.name,
                         help="other hidden layers or another optimizer, in training only: "
                         + "; ".join(f"{variant.name} ({variant.described()})"
                                     for variant in contenders.VARIANTS.values()))
    command.add_argument("--rounds", type=int, help="at least so many")
    command.add_argument("--plot", metavar="FILE", type=new_file,
                         help="draw all ratios as PNG; needs matplotlib")
    add_common(command)
    command.set_defaults(run=run_networks)

    command = commands.add_parser(
        "estimators", help="the estimators against scikit-learn's",
        description="Whole fits of the estimators, and calls with one sample, against "
                    "scikit-learn's at equal settings, one thread each; needs the extra [sklearn].")
    command.add_argument("--quick", action="store_true",
                         help="few rounds of 5 iterations, or few seeds")
    command.add_argument("--scores", action="store_true",
                         help="compare scores with default settings over 10 seeds instead")
    command.add_argument("--plot", metavar="FILE", type=new_file,
                         help="draw the ratios as PNG; needs matplotlib")
    add_common(command)
    command.set_defaults(run=run_estimators)

    command = commands.add_parser(
        "steady", help="steps through long training and among subnormal numbers",
        description="Whether a step stays as fast as it was: through long training with vanishing "
                    "gradients, whose averages decay into subnormal numbers, and saturated.")
    command.add_argument("--quick", action="store_true", help="2000 steps at rest")
    add_common(command)
    command.set_defaults(run=run_steady)

    command = commands.add_parser(
        "mpi", help="steps of two processes, and their messages",
        description="A step of two processes (MPI, one thread each) against one process with one "
                    "and two threads, and what it takes to add up gradients. Needs mpi4py and "
                    "mpiexec.")
    command.add_argument("--quick", action="store_true", help="small networks, short samples")
    add_common(command)
    command.set_defaults(run=run_ranks)

    command = commands.add_parser(
        "scaling", help="what the costs measured by 'mpi' say of 1 to 1024 machines",
        description="The tables of docs/SCALING.md: a model of the time per step, from measured "
                    "costs.")
    command.add_argument("--measured", metavar="FILE", type=Path, default=scaling.MEASURED,
                         help="what 'mpi --json' has written")
    command.add_argument("--page", metavar="FILE", type=Path,
                         help="replace the tables on this page instead of showing them")
    command.set_defaults(run=run_scaling)
    options = parser.parse_args()
    try:
        options.run(options)
    except ImportError as error:
        print(f"error: {error}; this needs the [bench] extra: pip install -e '.[bench]'",
              file=sys.stderr)
        return 1
    except (kernels.WrongResult, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
