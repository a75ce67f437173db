"""A model of the time per step on many machines, from costs that `python -m bench mpi` measured.

A step of R machines with n samples each takes

    local(n) + message(R, P)

where `local` goes through the measured steps of one rank (messages to itself included) by straight
lines, and the message that adds up P gradients is the quicker of two ways that MPI libraries go:

    halves, exchanged log2 R times and back:   2 log2(R) a + (R - 1) / R * P * (2 w / b + s)
    all of it, exchanged log2 R times:         log2(R) * (a + P * (w / b + s))

with a message's latency a, the wire's bytes per second b, w bytes a number, and s seconds to add
one, as measured here.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.ranks import Message, Result, of_plain
from bench.report import digits

MEASURED = Path(__file__).resolve().parent.parent / "docs/benchmarks/mpi_float32.json"
MACHINES = [2**i for i in range(11)]
GOOD = 0.8              # of a speed-up by the number of machines


@dataclass(frozen=True)
class Wires:
    """A network between machines: seconds until a message arrives, and bytes per second."""

    name: str
    latency: float
    bytes_per_second: float


# 94 % of the nominal rate is what is left of it for data. Latencies: TCP through a switch, and
# RDMA (InfiniBand, RoCE).
WIRES = [Wires("10 Gbit/s", 25e-6, 0.94 * 10e9 / 8), Wires("100 Gbit/s", 2e-6, 0.94 * 100e9 / 8)]


@dataclass(frozen=True)
class Network:
    """Measured costs of a network: seconds of a local step by samples, ascending."""

    name: str
    parameters: int
    points: list[tuple[float, float]]
    bytes_per_number: int
    seconds_to_add: float

    @property
    def batch(self) -> int:
        """The largest batch that was measured."""
        return int(self.points[-1][0])

    def local(self, n: float) -> float:
        """Return the seconds of a step with n samples, by straight lines through the points."""
        after = next((i for i, (rows, _) in enumerate(self.points) if rows >= n),
                     len(self.points) - 1)
        (n0, t0), (n1, t1) = self.points[max(0, after - 1)], self.points[max(1, after)]
        # Below the first point a line may go too low: no step is quicker than its share of it.
        return max(t0 + (n - n0) * (t1 - t0) / (n1 - n0), t0 * min(1, n / n0))

    def message(self, machines: int, wires: Wires) -> float:
        """Return the seconds that it takes to add up the gradients of all machines."""
        rounds, share = math.log2(machines), (machines - 1) / machines
        wire = self.bytes_per_number / wires.bytes_per_second
        return min(
            2 * rounds * wires.latency
            + share * self.parameters * (2 * wire + self.seconds_to_add),
            rounds * (wires.latency + self.parameters * (wire + self.seconds_to_add)))

    def step(self, machines: int, batch: float, wires: Wires) -> float:
        """Return the seconds of a step with so many samples in all."""
        return self.local(batch / machines) + self.message(machines, wires)

    def efficiency(self, machines: int, batch: float, wires: Wires) -> float:
        """Return the speed-up over one machine with the whole batch, over the machines."""
        return self.local(batch) / (machines * self.step(machines, batch, wires))

    def samples_needed(self, machines: int, wires: Wires) -> int:
        """Return the samples per machine, a power of 2, from which on machines are `GOOD`."""
        n = 1
        while self.efficiency(machines, machines * n, wires) < GOOD:
            n *= 2
        return n


def read(path: Path) -> tuple[list[Result], list[Message], int]:
    """Return what was measured, and the bytes of a number."""
    found = json.loads(path.read_text())
    size = 4 if found["environment"]["dtype"] == "float32" else 8
    return ([of_plain(Result, one) for one in found["results"] if "network" in one],
            [of_plain(Message, one) for one in found["results"] if "network" not in one], size)


def networks_of(results: Iterable[Result], messages: list[Message], size: int) -> list[Network]:
    """Return every network with its costs."""
    largest = max(messages, key=lambda message: message.parameters)
    seconds = largest.times["add"].median / largest.parameters
    points: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for result in results:
        points.setdefault((result.network, result.parameters), []).extend(
            [(result.batch / 2, result.half), (result.batch, result.times["1 rank"].median)])
    return [Network(name, parameters, sorted(some), size, seconds)
            for (name, parameters), some in points.items()]


def duration(seconds: float) -> str:
    """Return a time with its unit."""
    if seconds < 1e-3:
        return f"{digits(1e6 * seconds)} us"
    return f"{digits(1e3 * seconds)} ms" if seconds < 1 else f"{digits(seconds)} s"


def table(rows: Iterable[Iterable[str]]) -> str:
    """Return rows as a Markdown table, the first one as its head."""
    head, *body = [list(row) for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def predictions(results: list[Result], messages: list[Message]) -> Iterable[list[str]]:
    """Yield rows: what the model says of two ranks on one machine, beside what was measured."""
    yield ["network", "batch", "half the batch", "message", "predicted", "measured", "off by"]
    costs = {message.parameters: message.times["Allreduce"].median for message in messages}
    for result in results:
        message = costs[result.parameters]
        predicted, measured = result.half + message, result.times["2 ranks"].median
        yield [result.network, str(result.batch), duration(result.half), duration(message),
               duration(predicted), duration(measured), f"{measured / predicted - 1:+.0%}"]


def steps(networks: list[Network]) -> Iterable[list[str]]:
    """Yield rows: the time per step by machines, for one batch, whoever shares it."""
    yield ["machines", *(f"{network.name} @ {network.batch}, {wires.name}"
                         for network in networks for wires in WIRES)]
    for machines in MACHINES:
        yield [str(machines), *(
            duration(network.step(machines, network.batch, wires))
            if machines <= network.batch else "-" for network in networks for wires in WIRES)]


def limits(networks: list[Network]) -> Iterable[list[str]]:
    """Yield rows: where a batch of one size stops to gain, and what batch is needed to go on."""
    yield ["network", "wires", "one batch", "quickest on", "speed-up",
           *(f"samples a machine, {machines} machines" for machines in (2, 16, 1024))]
    for network in networks:
        for wires in WIRES:
            times = {machines: network.step(machines, network.batch, wires)
                     for machines in MACHINES if machines <= network.batch}
            best = min(times, key=lambda machines: times[machines])
            yield [network.name, wires.name, str(network.batch), str(best),
                   f"{times[1] / times[best]:.3g}",
                   *(f"{network.samples_needed(machines, wires):,}" for machines in (2, 16, 1024))]


def tables(path: Path) -> dict[str, str]:
    """Return the tables of docs/SCALING.md by the names of their markers there."""
    results, messages, size = read(path)
    networks = networks_of(results, messages, size)
    return {"prediction": table(predictions(results, messages)), "steps": table(steps(networks)),
            "limits": table(limits(networks))}


def updated(page: str, path: Path) -> str:
    """Return a page with the table behind each marker replaced by what the model says now."""
    for name, found in tables(path).items():
        before, marker, rest = page.partition(f"<!-- {name} -->\n")
        if not marker:
            raise ValueError(f"the page has no marker {name}")
        lines = rest.splitlines(keepends=True)
        while lines and lines[0].startswith("|"):
            del lines[0]
        page = f"{before}{marker}{found}\n{''.join(lines)}"
    return page
