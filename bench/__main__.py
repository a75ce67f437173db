"""Command line of the benchmarks: `python -m bench kernels --help`."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from bench import kernels
from bench.measure import SAMPLE_SECONDS, Summary, environment

# What a row shows: heading, width, and the cell of a result.
Column = tuple[str, int, Callable[[kernels.Result], str]]


def digits(number: float) -> str:
    """Return a number with three digits or all before the point."""
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}"


def microseconds(summary: Summary | None) -> str:
    """Return median [quartiles], or a dash for a contender that did not take part."""
    if summary is None:
        return "-"
    median, q1, q3 = (digits(1e6 * s) for s in (summary.median, summary.q1, summary.q3))
    return f"{median} [{q1}-{q3}]"


def times(name: str) -> Column:
    return f"{name} us", 26, lambda result: microseconds(result.times.get(name))


def ratio(name: str) -> Column:
    heading = f"{name}/fastnet"
    return heading, len(heading), lambda result: (
        digits(result.ratios[name]) if name in result.ratios else "-")


def gflop_per_second(result: kernels.Result) -> str:
    return digits(result.flop / result.times["fastnet"].median / 1e9) if result.flop else "-"


COLUMNS: list[Column] = [
    ("kernel", 21, lambda result: result.kernel),
    ("shape", 14, lambda result: "x".join(map(str, result.shape))),
    times("fastnet"), times("NumPy"), ratio("NumPy"),
    times("reference"), ratio("reference"),
    ("fastnet GFLOP/s", 15, gflop_per_second),
]


def table_row(cells: list[str]) -> str:
    """Return a line of a Markdown table, padded so that it also reads well as plain text."""
    padded = (f"{cell:<{width}}" for cell, (_, width, _) in zip(cells, COLUMNS, strict=True))
    return f"| {' | '.join(padded)} |"


def run_kernels(options: argparse.Namespace) -> None:
    """Measure, print each row as soon as it is there, then write the files."""
    layers = (kernels.read_layers() if options.all
              else kernels.SMALL_LAYERS if options.quick else kernels.SOME_LAYERS)
    plans = kernels.plans(layers, options.filter)
    if not plans:
        raise ValueError(f"no kernel and shape contain {options.filter!r}")
    rounds, seconds = (5, 0.05) if options.quick else (11, 0.6)
    described = environment(options.dtype)
    described["samples"] = (
        f"in turns for {rounds} rounds and {seconds} s or more (reference: "
        f"{kernels.REFERENCE_ROUNDS} rounds), each one call or {1e3 * SAMPLE_SECONDS:.0f} ms")
    described["figures"] = (
        "median [quartiles]; ratios are medians of the rounds' ratios, above 1 fastnet is faster")
    described["parts"] = (
        "dense_backward is timed in three; the reference's figures are its dense_forward of the "
        "same matrices, transposed beforehand, for dX and dW, and sums of columns for db; "
        "scale_forward is scale_backward's kernel too")
    lines = []

    def show(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    for name, value in described.items():
        show(f"- {name}: {value}")
    show("")
    show(table_row([heading for heading, _, _ in COLUMNS]))
    show(table_row(["-" * width for _, width, _ in COLUMNS]))
    results = []
    started, worked = time.perf_counter(), time.process_time()
    for result in kernels.run(plans, options.dtype, rounds, seconds):
        results.append(asdict(result))
        show(table_row([cell(result) for _, _, cell in COLUMNS]))
    share = (time.process_time() - worked) / (time.perf_counter() - started)
    described["share of a core"] = (
        f"{share:.0%}; the rest went to other processes, which disturb the figures")
    show(f"\n- share of a core: {described['share of a core']}")
    if options.markdown:
        options.markdown.write_text("\n".join([*lines, ""]), encoding="utf-8")
    if options.json:
        content = {"environment": described, "results": results}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def new_file(text: str) -> Path:
    """Return a path that can be written to later: not after the run is the time to learn it."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def main() -> int:
    """Return the exit status: 1 if a contender gives a wrong result, which stops the run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks of fastnet.")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser(
        "kernels", help="each core loop against NumPy and the pure-Python reference",
        description="Each core loop against NumPy and the pure-Python reference, one thread each.")
    size = command.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small layers, few rounds")
    size.add_argument("--all", action="store_true", help="every layer of the grid: takes long")
    command.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    command.add_argument("--filter", metavar="SUBSTRING", default="",
                         help="only cases like this, for example dense or 64x10")
    command.add_argument("--json", metavar="FILE", type=new_file, help="write figures to FILE")
    command.add_argument("--markdown", metavar="FILE", type=new_file,
                         help="write the table to FILE")
    command.set_defaults(run=run_kernels)
    options = parser.parse_args()
    try:
        options.run(options)
    except (kernels.WrongResult, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
