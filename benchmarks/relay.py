"""What does relaying an offer cost? This service beside reference relays, in turn and on the same load.

`load.py` is the load and `servers.py` starts what is measured; this module takes the rounds and judges their medians.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from statistics import median
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.frames import offer
from benchmarks.load import TOKEN, Measurement, client_ids
from benchmarks.processes import ROOT, MeasurementError, cores, end_on_sigterm, pinned
from benchmarks.results import machine, write_json
from benchmarks.servers import FLOOR, SERVERS, SERVICE, WEBSOCKETS, WS, Server, reference, service, why_skipped
from signal_manager.form import form

__all__ = ["Plan", "Ratio", "app", "compare", "load_on", "medians", "take_rounds"]

# What the service's figure may be, as a part of the reference's: CPU per message by offers in flight, and latency.
CPU_BARS = {
    (FLOOR, 1): 1.50,
    (FLOOR, 8): 1.25,
    (WEBSOCKETS, 1): 0.48,
    (WS, 1): 0.72,
    (WEBSOCKETS, 8): 0.40,
    (WS, 8): 0.60,
}
LATENCY_BARS = {(WS, 1): 1.0}

# A just-in-time compiler needs its time; shorter runs are smoke runs.
WARM_UP = 1.0
LOAD_LIMIT = 60.0

Rounds = dict[tuple[str, int], list[Measurement]]
Medians = dict[tuple[str, int], Measurement]


@dataclass(frozen=True)
class Plan:
    """What is measured, for how long (s), and how often."""

    servers: tuple[str, ...]
    in_flight: tuple[int, ...]
    pairs: int
    seconds: float
    rounds: int
    resumable: bool = False


@dataclass(frozen=True)
class Ratio:
    """The service's figure as a part of a reference's; `limit` is the bar, where the project has set one."""

    reference: str
    in_flight: int
    measure: str
    ratio: float
    limit: float | None

    @property
    def is_over(self) -> bool:
        """Whether a bar is missed."""
        return self.limit is not None and self.ratio > self.limit


def take_rounds(plan: Plan, *, report: Callable[[str], None]) -> Rounds:
    """Measure every server at every load, `plan.rounds` times in turn.

    All servers run from the first round to the last and idle while it is not their turn; each round begins with
    another one, so that none always follows the same neighbour.

    Args:
        report: called with one line before each measurement.

    Raises:
        MeasurementError: a server did not start, or did not relay as it must.
    """
    server_core, load_core = cores()
    rounds: Rounds = {}
    with ExitStack() as stack:
        servers = [stack.enter_context(_started(name, plan.pairs, server_core)) for name in plan.servers]
        for number in range(plan.rounds):
            start = number % len(servers)
            for in_flight in plan.in_flight:
                for server in servers[start:] + servers[:start]:
                    report(f"round {number + 1} of {plan.rounds}: {server.name}, {in_flight} in flight")
                    measurement = measure(server, plan, in_flight, load_core)
                    rounds.setdefault((server.name, in_flight), []).append(measurement)
    return rounds


def medians(rounds: Rounds) -> Medians:
    """Return the median of each figure over the rounds."""
    return {
        key: Measurement(
            messages=int(median(m.messages for m in taken)),
            messages_per_second=median(m.messages_per_second for m in taken),
            cpu_us_per_message=median(m.cpu_us_per_message for m in taken),
            p50_ms=median(m.p50_ms for m in taken),
            p99_ms=median(m.p99_ms for m in taken),
            server_cpu_percent=median(m.server_cpu_percent for m in taken),
            load_cpu_percent=median(m.load_cpu_percent for m in taken),
        )
        for key, taken in rounds.items()
    }


def compare(figures: Medians) -> list[Ratio]:
    """Return the service's ratios to every reference that was measured on the same load."""
    ratios = []
    for (name, in_flight), theirs in figures.items():
        ours = figures.get((SERVICE, in_flight))
        if name == SERVICE or ours is None:
            continue
        cpu_bar, latency_bar = CPU_BARS.get((name, in_flight)), LATENCY_BARS.get((name, in_flight))
        ratios += [
            Ratio(name, in_flight, "cpu", ours.cpu_us_per_message / theirs.cpu_us_per_message, cpu_bar),
            Ratio(name, in_flight, "p50", ours.p50_ms / theirs.p50_ms, latency_bar),
            Ratio(name, in_flight, "p99", ours.p99_ms / theirs.p99_ms, latency_bar),
        ]
    return ratios


def _started(name: str, pairs: int, core: int | None) -> AbstractContextManager[Server]:
    if name == SERVICE:
        return service({client_id: TOKEN for pair in client_ids(pairs) for client_id in pair}, core=core)
    return reference(name, core=core)


def measure(server: Server, plan: Plan, in_flight: int, core: int | None) -> Measurement:
    """Put one load on a server, from a process on `core`, and return what it saw."""
    return Measurement(**load_on(server, plan, in_flight, core))


def load_on(
    server: Server,
    plan: Plan,
    in_flight: int,
    core: int | None,
    *,
    program: str = "benchmarks.load",
    repeats: int = 1,
    **more: str | int,
) -> Any:
    """Put one load on a server and return what it printed.

    Args:
        program: the module that is the load.
        repeats: how many times `plan.seconds` it takes.
        more: arguments of that module.

    Raises:
        MeasurementError: the server did not relay as it must.
    """
    arguments = {
        "port": server.port,
        "server-pid": server.pid,
        "pairs": plan.pairs,
        "in-flight": in_flight,
        "seconds": plan.seconds,
        "warm-up": min(WARM_UP, plan.seconds),
        **{name.replace("_", "-"): value for name, value in more.items()},
        # The references know nothing of sessions.
        "resumable": int(plan.resumable and server.name == SERVICE),
    }
    command = [sys.executable, "-m", program, *(f"--{name}={value}" for name, value in arguments.items())]
    with pinned(core):
        load = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        output, errors = load.communicate(timeout=plan.seconds * repeats + LOAD_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"the load on {server.name} did not end within {error.timeout:.0f} s") from error
    finally:
        load.kill()
        load.wait()
    if load.returncode != 0:
        raise MeasurementError(f"{server.name}, {in_flight} in flight: {errors.strip()[-2000:]}")
    return json.loads(output)


def _results(
    plan: Plan, rounds: Rounds, figures: Medians, ratios: Sequence[Ratio], skipped: dict[str, str]
) -> dict[str, Any]:
    return {
        "benchmark": "relay",
        "machine": machine(),
        "form": form(),
        "load": {**asdict(plan), "offer_bytes": len(offer(client_ids(plan.pairs)[-1][1]))},
        "results": [
            {
                "server": name,
                "in_flight": in_flight,
                **asdict(figure),
                "rounds": [asdict(measurement) for measurement in rounds[name, in_flight]],
            }
            for (name, in_flight), figure in figures.items()
        ],
        "ratios": [{**asdict(ratio), "within": None if ratio.limit is None else not ratio.is_over} for ratio in ratios],
        "skipped": skipped,
    }


def _figures_table(plan: Plan, rounds: Rounds, figures: Medians) -> Table:
    table = Table(
        title=f"Relaying offers, {plan.pairs} pairs, service: {form()}; medians of {plan.rounds} x {plan.seconds:g} s",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in ("in flight", "server", "messages/s", "CPU µs", "(rounds)", "p50 ms", "p99 ms", "load %"):
        table.add_column(heading, justify="left" if heading == "server" else "right", no_wrap=True)
    for in_flight in plan.in_flight:
        for name in plan.servers:
            figure = figures[name, in_flight]
            costs = [measurement.cpu_us_per_message for measurement in rounds[name, in_flight]]
            table.add_row(
                str(in_flight),
                name,
                f"{figure.messages_per_second:,.0f}",
                f"{figure.cpu_us_per_message:.1f}",
                f"({min(costs):.0f}-{max(costs):.0f})",
                f"{figure.p50_ms:.2f}",
                f"{figure.p99_ms:.2f}",
                f"{figure.load_cpu_percent:.0f}",
            )
        table.add_section()
    return table


def _ratios_table(ratios: Sequence[Ratio]) -> Table:
    table = Table(
        title="This service's figures as a part of the references'",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading in ("in flight", "reference", "measure", "ratio", "bar", "holds"):
        table.add_column(heading, justify="right" if heading in {"in flight", "ratio", "bar"} else "left")
    for ratio in ratios:
        bar = ("", "") if ratio.limit is None else (f"<= {ratio.limit:.2f}", "over" if ratio.is_over else "within")
        table.add_row(str(ratio.in_flight), ratio.reference, ratio.measure, f"{ratio.ratio:.2f}", *bar)
    return table


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    *,
    only: Annotated[
        list[str] | None, typer.Option(metavar="|".join(SERVERS), help="Measure only this server; may be repeated.")
    ] = None,
    in_flight: Annotated[
        list[int] | None, typer.Option(min=1, help="Offers under way in each pair; may be repeated. [default: 1, 8]")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of clients.")] = 50,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds that one measurement takes, after a warm-up.")] = 4.0,
    rounds: Annotated[int, typer.Option(min=1, help="Times that everything is measured; medians are shown.")] = 3,
    resumable: Annotated[
        bool,
        typer.Option(
            "--resumable", help="Use sessions that resume: the service keeps each message until its client confirms it."
        ),
    ] = False,
    json_target: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="File to write the results to as JSON; - is standard output, without the table.",
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 1 if a bar is missed.")] = False,
) -> None:
    """Measure what relaying an offer costs, beside relays in C, Rust, Go, Node and Python.

    Pairs of clients play 1.2 KB offers back and forth. The servers take turns on this load; each figure is the median
    of the rounds. Server and load each get a core of their own where there are two.

    Read the CPU per message first: it depends least on what else the machine does. Its column is followed by the range
    over the rounds; when that is wide, take more rounds. A load near 100 % was itself the bottleneck: then
    messages/s and latency say little about the server.

    A quick look while tuning:

    \b
      python -m benchmarks.relay --only service --only websockets --in-flight 1 --seconds 2 --rounds 1
    """
    unknown = set(only or ()) - set(SERVERS)
    if unknown:
        raise typer.BadParameter(f"expected one of {', '.join(SERVERS)}, got {', '.join(sorted(unknown))}")
    end_on_sigterm()
    screen = Console(stderr=True)
    wanted = [name for name in SERVERS if name in (only or SERVERS)]
    skipped = {name: reason for name in wanted if (reason := why_skipped(name)) is not None}
    for name, reason in skipped.items():
        screen.print(f"{name} is skipped: {reason}", highlight=False)
    plan = Plan(
        tuple(name for name in wanted if name not in skipped),
        tuple(in_flight or (1, 8)),
        pairs,
        seconds,
        rounds,
        resumable,
    )
    if not plan.servers:
        raise typer.Exit(1)

    try:
        # Redrawn by hand: a progress bar that animates itself would take CPU from what is measured.
        with Progress(console=screen, auto_refresh=False, transient=True) as progress:
            task = progress.add_task("", total=rounds * len(plan.servers) * len(plan.in_flight))

            def report(line: str) -> None:
                progress.update(task, description=line)
                progress.refresh()
                progress.advance(task)

            taken = take_rounds(plan, report=report)
    except MeasurementError as error:
        screen.print(str(error), style="red", highlight=False, markup=False)
        raise typer.Exit(1) from error

    figures = medians(taken)
    ratios = compare(figures)
    if json_target is not None:
        write_json(_results(plan, taken, figures, ratios, skipped), json_target)
    if json_target != "-":
        Console().print(_figures_table(plan, taken, figures), *([_ratios_table(ratios)] if ratios else []), sep="\n")
    if check and any(ratio.is_over for ratio in ratios):
        raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.relay")
