"""What do registrations take from the relay? Its figures alone, and while they are written to SQLite beside it.

Any request costs the event loop the time that answering it takes, so two controls are measured on the same schedule:
HEARTBEAT, which asks nobody, and REGISTER in memory. What SQLite adds to the latter is storage's.

Two loads answer two questions. At saturation a fixed number of offers is on its way, and messages/s is all that the
relay can carry. It is a loop of two processes that both run near their limits, so it loses more than the work: whenever
the load has to wait it falls asleep, and waking it up is the most expensive part of sending to it. At a fixed rate, as
many offers leave all the time; the service's CPU time above that without requests, by the requests, is what each one
took from relaying, and latency shows whether anybody waited. The requests come from the load process itself: a process
of their own would take the load's core from it each time it wakes.

A busy machine swings by more than what is to be measured, but not from one third of a second to the next: short slices
with and without requests alternate (`slices.py`), each is compared with the one of its own turn alone, and the median
of many such pairs is the figure, shown with the quarter of them below and above it.

The service has a core for itself. The process that writes SQLite's file shares the other one with the load, as it has
cores to choose from outside of a benchmark; its share is shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from statistics import median
from typing import Annotated, NamedTuple

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.load import TOKEN, client_ids
from benchmarks.processes import MeasurementError, child_processes, cores, end_on_sigterm
from benchmarks.relay import Plan, load_on
from benchmarks.requests import Kind, client_names
from benchmarks.results import Spread, machine, write_json
from benchmarks.servers import SERVICE, Server, service
from benchmarks.slices import Slice, Turns

__all__ = ["app", "costs_us", "kept"]

# The part of its messages that the relay must still carry while registrations run.
BAR = 0.97

# Blocks of turns on one service, then on the other.
ROUNDS = 4


class Case(NamedTuple):
    """What runs beside the relay, and where the service keeps registrations."""

    title: str
    storage: str
    beside: Kind


HEARTBEATS = Case("heartbeats", "sqlite", "heartbeat")
MEMORY = Case("registrations, in memory", "memory", "register")
SQLITE = Case("registrations, on SQLite", "sqlite", "register")
CASES = (HEARTBEATS, MEMORY, SQLITE)


Taken = dict[str, list[Turns]]

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@contextmanager
def servers(pairs: int) -> Iterator[dict[str, Server]]:
    """Run a service on each store while the block lasts, its helpers on the load's core."""
    server_core, load_core = cores()
    names = [name for pair in client_ids(pairs) for name in pair] + client_names()
    with ExitStack() as stack:
        started = {
            storage: stack.enter_context(service(dict.fromkeys(names, TOKEN), core=server_core, storage=storage))
            for storage in ("memory", "sqlite")
        }
        if load_core is not None:
            for pid in child_processes(started["sqlite"].pid):
                os.sched_setaffinity(pid, {load_core})
        yield started


def take(started: dict[str, Server], plan: Plan, *, rate: int, offers_per_second: int) -> Taken:
    """Measure all cases, in blocks of turns on one service after the other; `offers_per_second` 0 means saturation.

    Raises:
        MeasurementError: the requests could not keep up with their rate.
    """
    (in_flight,) = plan.in_flight
    turns = max(1, plan.rounds // ROUNDS)
    taken: Taken = {storage: [] for storage in started}
    for _ in range(min(ROUNDS, plan.rounds)):
        for storage, server in started.items():
            kinds = [case.beside for case in CASES if case.storage == storage]
            line = load_on(
                server,
                plan,
                in_flight,
                cores()[1],
                program="benchmarks.slices",
                repeats=turns * (len(kinds) + 1),
                turns=turns,
                beside=",".join(kinds),
                beside_per_second=rate,
                offers_per_second=offers_per_second,
            )
            taken[storage].append(_turns(line))
    for case in CASES:
        slices = [each for block in taken[case.storage] for each in block.beside[case.beside]]
        answered = sum(each.answers for each in slices) / sum(each.seconds for each in slices)
        if answered < 0.8 * rate:
            raise MeasurementError(f"{case.title}: {answered:.0f} answers/s were reached, expected {rate}")
    return taken


def _turns(line: dict[str, dict[str, list[dict[str, float]]]]) -> Turns:
    figures = dict(line)
    alone, beside = figures.pop("alone"), figures.pop("beside")
    read = {kind: [Slice(**each) for each in slices] for kind, slices in beside.items()}  # type: ignore[arg-type]  # as it was written
    return Turns(alone=[Slice(**each) for each in alone], beside=read, **figures)  # type: ignore[arg-type]  # the same


def pairs_of(taken: Taken, case: Case) -> list[tuple[Slice, Slice]]:
    """Return each slice of a case with the slice of its turn in which the relay was alone."""
    return [pair for block in taken[case.storage] for pair in zip(block.alone, block.beside[case.beside], strict=True)]


def costs_us(pairs: list[tuple[Slice, Slice]]) -> Spread:
    """Return the service's CPU time per request above what its messages cost when they are alone (µs)."""
    return Spread.of(
        [
            (beside.server_cpu - alone.server_cpu / alone.messages * beside.messages) / beside.answers * 1e6
            for alone, beside in pairs
            if beside.answers
        ]
    )


def kept(pairs: list[tuple[Slice, Slice]]) -> Spread:
    """Return the part of its messages/s that the relay carries with requests beside it."""
    return Spread.of([beside.messages / beside.seconds / (alone.messages / alone.seconds) for alone, beside in pairs])


def _per_second(slices: list[Slice]) -> float:
    return median(each.messages / each.seconds for each in slices)


def table_of(taken: Taken, title: str, *, is_saturated: bool) -> Table:
    """Return the figures of one load."""
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    last = "kept" if is_saturated else "µs/request"
    for column in ("beside the relay", "messages/s", last, "p50 ms", "p99 ms", "answer p50", "p99", "writer %"):
        table.add_column(column, justify="left" if column == "beside the relay" else "right", no_wrap=True)

    def latency(storage: str, figures: str, name: str) -> str:
        return f"{median(getattr(block, figures)[name] for block in taken[storage]):.2f}"

    alone = [each for blocks in taken.values() for block in blocks for each in block.alone]
    row = (latency("sqlite", figures, "alone") for figures in ("p50_ms", "p99_ms"))
    table.add_row("nothing", f"{_per_second(alone):,.0f}", "", *row)
    for case in CASES:
        pairs = pairs_of(taken, case)
        slices = [beside for _, beside in pairs]
        row = (
            latency(case.storage, figures, case.beside)
            for figures in ("p50_ms", "p99_ms", "answer_p50_ms", "answer_p99_ms")
        )
        spread = kept(pairs).text(".3f") if is_saturated else costs_us(pairs).text(".0f")
        writer = sum(each.helpers_cpu for each in slices) / sum(each.seconds for each in slices)
        table.add_row(case.title, f"{_per_second(slices):,.0f}", spread, *row, f"{writer:.1%}"[:-1])
    return table


def _verdict(name: str, part: float) -> str:
    return f"{name} {part:.3f} ({'within' if part >= BAR else 'over'} the bar of {BAR})"


@app.command(epilog="Example: python -m benchmarks.registrations --rounds 4")
def main(
    *,
    rate: Annotated[int, typer.Option(min=1, help="Registrations per second.")] = 200,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of clients that relay.")] = 50,
    in_flight: Annotated[int, typer.Option(min=1, help="Offers under way in each pair at saturation.")] = 8,
    offers: Annotated[int, typer.Option(min=1, help="Offers per second, below saturation.")] = 15_000,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds that one slice takes.")] = 0.3,
    rounds: Annotated[int, typer.Option(min=1, help="Slices of each case.")] = 24,
    json_target: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="File to write the results to as JSON; - is standard output."),
    ] = None,
) -> None:
    """Measure the relay alone, and beside registrations that are written to SQLite."""
    end_on_sigterm()
    plan = Plan((SERVICE,), (in_flight,), pairs, seconds, rounds)
    try:
        with servers(pairs) as started:
            steady = take(started, plan, rate=rate, offers_per_second=offers)
            saturated = take(started, plan, rate=rate, offers_per_second=0)
    except MeasurementError as error:
        Console(stderr=True).print(str(error), style="red", highlight=False, markup=False)
        raise typer.Exit(1) from error
    costs = {case.title: costs_us(pairs_of(steady, case)) for case in CASES}
    parts = {case.title: kept(pairs_of(saturated, case)) for case in CASES}
    storage_us = costs[SQLITE.title].median - costs[MEMORY.title].median
    left = {
        "storage": 1 - max(0.0, storage_us) * rate / 1e6,
        "all": 1 - max(0.0, costs[SQLITE.title].median) * rate / 1e6,
    }
    if json_target != "-":
        console = Console(width=120)
        title = (
            f"{offers:,} offers/s, {rate} requests/s beside them: medians (and quarters) of {rounds} pairs of slices"
        )
        console.print(table_of(steady, title, is_saturated=False))
        title = f"Saturated, {in_flight} in flight per pair, {rate} requests/s: medians (and quarters) of {rounds}"
        console.print(table_of(saturated, title, is_saturated=True))
        for verdict in (
            _verdict(f"beside {rate} registrations/s, storage leaves the relay of its time", left["storage"]),
            _verdict("registrations on SQLite leave it in all", left["all"]),
            _verdict("and of its messages at saturation", parts[SQLITE.title].median),
        ):
            console.print(verdict, highlight=False)
    if json_target is not None:
        spreads = {
            "us_per_request": {title: spread._asdict() for title, spread in costs.items()},
            "kept": {title: spread._asdict() for title, spread in parts.items()},
        }
        figures = {
            load: {storage: [asdict(each) for each in blocks] for storage, blocks in taken.items()}
            for load, taken in (("steady", steady), ("saturated", saturated))
        }
        write_json({"machine": machine(), "left": left, **spreads, **figures}, json_target)


if __name__ == "__main__":
    app()
