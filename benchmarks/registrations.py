"""Does relaying wait for storage? The relay's figures alone, and while registrations are written to SQLite beside it.

Any request costs the event loop the time that answering it takes, so two controls are measured on the same schedule:
HEARTBEAT, which asks nobody, and REGISTER in memory. Only what SQLite adds to the latter is storage's.

Two loads answer two questions. At saturation a fixed number of offers is on its way, and messages/s is all that the
relay can carry. It is a loop of two processes that both run near their limits, so it loses more than the work: whenever
the load has to wait it falls asleep, and waking it up is the most expensive part of sending to it. At a fixed rate, as
many offers leave in all runs; the service's CPU time above the run alone, by the requests, is what each one took from
relaying, and latency shows whether anybody waited. The requests come from the load process itself: a process of their
own would take the load's core from it each time it wakes.

The service has a core for itself. The process that writes SQLite's file shares the other one with the load, as it has
cores to choose from outside of a benchmark; its share is shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from statistics import median
from typing import Annotated, NamedTuple

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.load import TOKEN, BesideMeasurement, Measurement, client_ids
from benchmarks.processes import MeasurementError, child_processes, cores, end_on_sigterm
from benchmarks.relay import Plan, load_on
from benchmarks.requests import Kind, client_names
from benchmarks.results import machine, write_json
from benchmarks.servers import SERVICE, Server, service

__all__ = ["app"]

# The part of its messages that the relay must still carry while registrations run.
BAR = 0.97


class Case(NamedTuple):
    """What runs beside the relay, and where the service keeps registrations."""

    title: str
    storage: str
    beside: Kind | None


ALONE = Case("alone", "sqlite", None)
HEARTBEATS = Case("heartbeats", "sqlite", "heartbeat")
MEMORY = Case("registrations, in memory", "memory", "register")
SQLITE = Case("registrations, on SQLite", "sqlite", "register")
CASES = (ALONE, HEARTBEATS, MEMORY, SQLITE)

Taken = dict[Case, list[Measurement]]

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@contextmanager
def servers(pairs: int) -> Iterator[dict[str, Server]]:
    """Run a service on each store while the block lasts, its helpers on the load's core."""
    server_core, load_core = cores()
    names = [name for pair in client_ids(pairs) for name in pair] + client_names()
    with ExitStack() as stack:
        started = {
            "memory": stack.enter_context(service(dict.fromkeys(names, TOKEN), core=server_core, storage="memory")),
            "sqlite": stack.enter_context(service(dict.fromkeys(names, TOKEN), core=server_core, storage="sqlite")),
        }
        if load_core is not None:
            for pid in child_processes(started["sqlite"].pid):
                os.sched_setaffinity(pid, {load_core})
        yield started


def measure(server: Server, case: Case, plan: Plan, *, rate: int, offers_per_second: int) -> Measurement:
    """Measure one case; `offers_per_second` 0 means saturation."""
    (in_flight,) = plan.in_flight
    core = cores()[1]
    if case.beside is None:
        return Measurement(**load_on(server, plan, in_flight, core, offers_per_second=offers_per_second))
    schedule = {"beside": case.beside, "beside_per_second": rate, "offers_per_second": offers_per_second}
    return BesideMeasurement(**load_on(server, plan, in_flight, core, **schedule))


def take_rounds(plan: Plan, *, rate: int, offers_per_second: int) -> Taken:
    """Measure all cases in turn, each round beginning with another one.

    Raises:
        MeasurementError: the requests could not keep up with their rate.
    """
    taken: Taken = {case: [] for case in CASES}
    with servers(plan.pairs) as started:
        for number in range(plan.rounds):
            first = number % len(CASES)
            for case in CASES[first:] + CASES[:first]:
                server = started[case.storage]
                taken[case].append(measure(server, case, plan, rate=rate, offers_per_second=offers_per_second))
    for case in CASES[1:]:
        answered = of(taken[case], "answers_per_second")
        if answered < 0.9 * rate:
            raise MeasurementError(f"{case.title}: {answered:.0f} answers/s were reached, expected {rate}")
    return taken


def of(taken: list[Measurement], field: str, choose: Callable[[list[float]], float] = median) -> float:
    """Return one figure of the rounds, 0 where they have none."""
    return choose([getattr(each, field, 0.0) for each in taken])


def cost_us(taken: Taken, case: Case, rate: int) -> float:
    """Return the service's CPU time per request above the runs alone, from the quietest round of each (µs).

    Other work on the machine makes the same instructions take longer, and never less: the least is the truest.
    """
    share = of(taken[case], "server_cpu_percent", min) - of(taken[ALONE], "server_cpu_percent", min)
    return share * 1e4 / rate


def table_of(taken: Taken, title: str, *, rate: int, is_saturated: bool) -> Table:
    """Return the figures of one load."""
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    last = "kept" if is_saturated else "µs/request"
    for column in ("", "messages/s", last, "CPU %", "p50 ms", "p99 ms", "answer p50", "p99", "writer %"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for case, rounds in taken.items():
        kept = of(rounds, "messages_per_second") / of(taken[ALONE], "messages_per_second")
        answers = (of(rounds, name) for name in ("answer_p50_ms", "answer_p99_ms", "helpers_cpu_percent"))
        table.add_row(
            case.title,
            f"{of(rounds, 'messages_per_second'):,.0f}",
            f"{kept:.3f}" if is_saturated else f"{cost_us(taken, case, rate):.0f}",
            *(f"{of(rounds, name):.1f}" for name in ("server_cpu_percent",)),
            *(f"{of(rounds, name):.2f}" for name in ("p50_ms", "p99_ms")),
            *(("", "", "") if case.beside is None else (f"{value:.2f}" for value in answers)),
        )
    return table


@app.command()
def main(
    *,
    rate: Annotated[int, typer.Option(min=1, help="Registrations per second.")] = 200,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of clients that relay.")] = 50,
    in_flight: Annotated[int, typer.Option(min=1, help="Offers on their way per pair, at saturation.")] = 8,
    offers: Annotated[int, typer.Option(min=1, help="Offers per second, below saturation.")] = 15_000,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one measurement.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured.")] = 8,
    json_target: Annotated[str | None, typer.Option("--json", metavar="FILE", help="- is stdout.")] = None,
) -> None:
    """Measure the relay alone, and beside registrations that are written to SQLite."""
    end_on_sigterm()
    plan = Plan((SERVICE,), (in_flight,), pairs, seconds, rounds)
    try:
        steady = take_rounds(plan, rate=rate, offers_per_second=offers)
        saturated = take_rounds(plan, rate=rate, offers_per_second=0)
    except MeasurementError as error:
        Console(stderr=True).print(str(error), style="red", highlight=False, markup=False)
        raise typer.Exit(1) from error
    storage_us = cost_us(steady, SQLITE, rate) - cost_us(steady, MEMORY, rate)
    left = 1 - max(0.0, storage_us) * rate / 1e6
    if json_target != "-":
        console = Console(width=120)
        title = f"{offers:,} offers/s, {rate} requests/s beside them: medians of {rounds}; µs/request: quietest rounds"
        console.print(table_of(steady, title, rate=rate, is_saturated=False))
        title = f"Saturated, {in_flight} in flight per pair, {rate} requests/s: medians of {rounds}"
        console.print(table_of(saturated, title, rate=rate, is_saturated=True))
        console.print(
            f"writing {rate} registrations/s to SQLite leaves the relay {left:.3f} of the time that it has without "
            f"storage (bar {BAR}: {'within' if left >= BAR else 'over'})",
            highlight=False,
        )
    if json_target is not None:
        loads = {"steady": steady, "saturated": saturated}
        figures = {
            load: {case.title: [asdict(each) for each in rounds] for case, rounds in taken.items()}
            for load, taken in loads.items()
        }
        costs = {case.title: cost_us(steady, case, rate) for case in CASES}
        write_json({"machine": machine(), "left": left, "us_per_request": costs, **figures}, json_target)


if __name__ == "__main__":
    app()
