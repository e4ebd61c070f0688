"""Which Python, which event loop, which garbage collection? The same relay load on the same service under each.

All services run at the same time and one process loads them in turn, slice by slice (`curve_load.py`). Each slice is
compared with the one of the first service in the same round.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import idle
from benchmarks.connections import idle_clients, raise_file_limit
from benchmarks.load import TOKEN, client_ids
from benchmarks.processes import MeasurementError, cores, cpu_seconds, end_on_sigterm, resident_bytes
from benchmarks.results import Spread, machine, write_json
from benchmarks.servers import Server, service
from benchmarks.turns import start_load

__all__ = ["COLLECTING", "LOOPS", "Row", "Variant", "app"]

# What runs before the service in its process. `freeze` waits until the service has started and its clients are there.
LOOPS = {"uvloop": "", "asyncio": "import asyncio, uvloop; uvloop.run = asyncio.run"}
COLLECTING = {
    "default": "",
    "freeze": "import gc, threading; threading.Timer({delay}, gc.freeze).start()",
    "off": "import gc; gc.disable()",
    "gen0 50,000": "import gc; gc.set_threshold(50_000, *gc.get_threshold()[1:])",
}
_START = "import sys; sys.argv[0] = 'signal-manager'; from signal_manager.cli.main import main; main()"
_ABOUT = (
    "import sys, sysconfig; print(sys.version.split()[0] + 't' * bool(sysconfig.get_config_var('Py_GIL_DISABLED')))"
)

FREEZE_AFTER = 5.0


@dataclass(frozen=True)
class Variant:
    """One way to run the service."""

    python: str
    version: str
    loop: str
    collecting: str

    @property
    def program(self) -> tuple[str, ...]:
        """The beginning of its command."""
        before = f"{LOOPS[self.loop]}\n{COLLECTING[self.collecting].format(delay=FREEZE_AFTER)}\n"
        return (self.python, "-c", before + _START)

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.version}, {self.loop}, gc {self.collecting}"


@dataclass(frozen=True)
class Row:
    """What was measured of a variant: CPU µs per message, that as a part of the first one's, CPU for the start, MiB."""

    name: str
    cpu_us: float
    ratio: Spread
    start_cpu_seconds: float
    rss_mib: float


def version_of(python: str) -> str:
    """Return the version of an interpreter, with a t when it is a free-threaded build.

    Raises:
        MeasurementError: it does not run, or has not what the service needs.
    """
    command = [python, "-c", f"import signal_manager, uvloop, picows; {_ABOUT}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise MeasurementError(f"{python}: {error.strerror}") from error
    if done.returncode:
        raise MeasurementError(f"{python}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


def take(
    variants: Sequence[Variant], *, pairs: int, waiting: int, in_flight: int, rounds: int, seconds: float
) -> list[Row]:
    """Measure all variants.

    Raises:
        MeasurementError: a service did not start, or did not relay as it must.
    """
    tokens = {client_id: TOKEN for pair in client_ids(pairs) for client_id in pair}
    tokens |= {idle.client_id(number): idle.TOKEN for number in range(waiting)}
    server_core, load_core = cores()
    with ExitStack() as stack:
        servers: list[Server] = []
        starts = []
        for variant in variants:
            servers.append(stack.enter_context(service(tokens, core=server_core, program=variant.program)))
            starts.append(cpu_seconds(servers[-1].pid))
            if waiting:
                stack.enter_context(idle_clients(servers[-1], waiting))
        points = [
            {
                "kind": "relay",
                "places": [(server.port, server.port)] * pairs,
                "in_flight": in_flight,
                "pids": [server.pid],
            }
            for server in servers
        ]
        order: dict[str, Any] = {"lines": points, "points": points, "token": TOKEN, "seconds": seconds}
        costs = start_load("benchmarks.curve_load", order | {"turns": rounds, "rounds": rounds}, core=load_core)
        return [
            Row(
                variant.name,
                median(taken),
                Spread.of([cost / first for cost, first in zip(taken, costs[0], strict=True)]),
                start,
                resident_bytes(server.pid) / 2**20,
            )
            for variant, server, taken, start in zip(variants, servers, costs, starts, strict=True)
        ]


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.pythons --python /tmp/py-3.12/bin/python --loop uvloop")
def main(
    *,
    python: Annotated[
        list[str] | None,
        typer.Option(help="Interpreter with the service installed; may be repeated. [default: the present one]"),
    ] = None,
    loop: Annotated[
        list[str] | None, typer.Option(metavar="|".join(LOOPS), help="Event loop; may be repeated. [default: all]")
    ] = None,
    collecting: Annotated[
        list[str] | None,
        typer.Option("--gc", metavar="|".join(COLLECTING), help="Garbage collection; may be repeated. [default: all]"),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of clients.")] = 50,
    idle_connections: Annotated[int, typer.Option("--idle", min=0, help="Further clients, which say nothing.")] = 0,
    in_flight: Annotated[int, typer.Option(min=1, help="Offers under way in each pair.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Slices that each gets.")] = 30,
    seconds: Annotated[float, typer.Option(min=0.05, help="Seconds that one slice takes.")] = 0.3,
    json_target: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="File to write the results to as JSON; - is standard output."),
    ] = None,
) -> None:
    """Measure the relay under several Pythons, event loops and settings of the garbage collector.

    The first one of each option is combined with all others: `--python A --python B --loop X --loop Y` takes A with X
    and Y, and B with both.
    """
    for given, known in ((loop or [], LOOPS), (collecting or [], COLLECTING)):
        if unknown := set(given) - set(known):
            raise typer.BadParameter(f"expected one of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    end_on_sigterm()
    raise_file_limit()
    try:
        variants = [
            Variant(each, version_of(each), event_loop, garbage)
            for each in (str(Path(os.path.abspath(name))) for name in python or [sys.executable])
            for event_loop in loop or LOOPS
            for garbage in collecting or COLLECTING
        ]
        rows = take(
            variants, pairs=pairs, waiting=idle_connections, in_flight=in_flight, rounds=rounds, seconds=seconds
        )
    except MeasurementError as error:
        Console(stderr=True).print(str(error), style="red", highlight=False, markup=False)
        raise typer.Exit(1) from error
    if json_target is not None:
        results = [asdict(row) | {"ratio": row.ratio._asdict()} for row in rows]
        write_json({"benchmark": "pythons", "machine": machine(), "results": results}, json_target)
    if json_target != "-":
        title = f"A relayed offer, {in_flight} in flight: medians (and quarters) of {rounds} rounds"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for column in ("python, loop, garbage collection", "CPU µs", "of the first", "start s", "MiB"):
            table.add_column(column, justify="left" if column.startswith("python") else "right", no_wrap=True)
        for row in rows:
            figures = (f"{row.start_cpu_seconds:.2f}", f"{row.rss_mib:.1f}")
            table.add_row(row.name, f"{row.cpu_us:.1f}", row.ratio.text(".2f"), *figures)
        Console(width=120).print(table)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.pythons")
