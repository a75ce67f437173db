"""What a run prints, row by row, and the files that it writes at its end."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import THREADS
from bench.measure import Summary, threads

# What a row shows: heading, width, and the cell of a result.
Column = tuple[str, int, Callable[[Any], str]]


def digits(number: float) -> str:
    """Return a number with three digits, or with all before the point."""
    decimals = 3 if number < 1 else 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:.{decimals}f}"


def microseconds(summary: Summary | None) -> str:
    """Return median [quartiles], or a dash for a contender that did not take part."""
    if summary is None:
        return "-"
    median, q1, q3 = (digits(1e6 * s) for s in (summary.median, summary.q1, summary.q3))
    return f"{median} [{q1}-{q3}]"


def times(name: str) -> Column:
    return f"{name} us", 26, lambda result: microseconds(result.times.get(name))


def shape(result: Any) -> str:
    return "x".join(map(str, result.shape))


def table_row(cells: Iterable[str], columns: list[Column]) -> str:
    """Return a line of a Markdown table, padded so that it also reads well as plain text."""
    padded = (f"{cell:<{width}}" for cell, (_, width, _) in zip(cells, columns, strict=True))
    return f"| {' | '.join(padded)} |"


class Report:
    """The lines of a run, which starts now: printed as soon as they are there, and kept."""

    def __init__(self, described: dict[str, str]) -> None:
        self.described: dict[str, str] = {}
        self.lines: list[str] = []
        self.started, self.worked = time.perf_counter(), time.process_time()
        for name, value in described.items():
            self.note(name, value)
        self.show("")

    def note(self, name: str, value: str) -> None:
        self.described[name] = value
        self.show(f"- {name}: {value}")

    def show(self, line: str) -> None:
        self.lines.append(line)
        print(line, flush=True)

    def table(self, columns: list[Column], results: Iterable[Any]) -> Iterator[Any]:
        """Show each result as a row, and yield it."""
        self.show(table_row([heading for heading, _, _ in columns], columns))
        self.show(table_row(["-" * width for _, width, _ in columns], columns))
        for result in results:
            self.show(table_row([cell(result) for _, _, cell in columns], columns))
            yield result
        self.show("")

    def close(self, results: list[Any], markdown: Path | None, json_file: Path | None) -> None:
        """Show what is known at the end, and write the files that are asked for."""
        if THREADS == 1:
            share = (time.process_time() - self.worked) / (time.perf_counter() - self.started)
            self.note("share of a core", f"{share:.0%}; the rest went to other processes, which "
                      "disturb the figures")
        self.note("threads", threads())
        if markdown:
            markdown.write_text("\n".join([*self.lines, ""]), encoding="utf-8")
        if json_file:
            content = {"environment": self.described, "results": [asdict(r) for r in results]}
            json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
