"""What does an idle connection cost? The service's memory and CPU with many authenticated clients that say nothing.

`idle.py` holds the clients and `servers.py` starts the service; this module reads the service's memory and CPU.
"""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.certificates import self_signed
from benchmarks.idle import TOKEN, client_id
from benchmarks.processes import (
    MeasurementError,
    cores,
    cpu_seconds,
    end_on_sigterm,
    resident_bytes,
    said,
    speaking,
)
from benchmarks.results import machine, write_json
from benchmarks.servers import SPARE_CONNECTIONS, Server, service
from signal_manager.gateway.limits import HALF_OPEN, STRANGERS

__all__ = ["OTHER_FILES", "Footprint", "app", "idle_clients", "measure", "raise_file_limit"]

# One source address has some 28,000 ports for us (net.ipv4.ip_local_port_range), and closed ones rest for a minute.
CONNECTIONS_PER_ADDRESS = 10_000

# What a process has open besides its connections: the service keeps some for handshakes and refusals.
OTHER_FILES = HALF_OPEN + STRANGERS + SPARE_CONNECTIONS + 100

# What an idle connection may cost, and all of them together, in KiB and in % of one core.
BAR_KIB = 8.0
BAR_KIB_TLS = 24.0
BAR_CPU_PERCENT = 15.0

# Memory is read when the last handshakes are over.
SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Growth:
    """What each connection beyond the first `since` ones adds to the memory, up to `until` of them."""

    since: int
    until: int
    kib_per_connection: float


@dataclass(frozen=True)
class Footprint:
    """What the connections cost. Connecting includes the WebSocket handshake, CONNECT and CONNECT_ACK.

    The bar of memory is for growth where it is known: a service takes some memory once, with its first connections.
    """

    connections: int
    is_secure: bool
    rss_before_bytes: int
    rss_after_bytes: int
    kib_per_connection: float
    connects_per_second: float
    connect_cpu_seconds: float
    idle_seconds: float
    idle_cpu_percent: float
    growth: tuple[Growth, ...]

    @property
    def bar_kib(self) -> float:
        """What a connection may take."""
        return BAR_KIB_TLS if self.is_secure else BAR_KIB

    @property
    def is_within(self) -> bool:
        """Whether both bars hold."""
        grown = [step.kib_per_connection for step in self.growth] or [self.kib_per_connection]
        return max(grown) <= self.bar_kib and self.idle_cpu_percent <= BAR_CPU_PERCENT


def measure(
    server: Server,
    numbers: Sequence[int],
    *,
    idle_seconds: float,
    report: Callable[[str], None],
    is_secure: bool = False,
) -> Footprint:
    """Hold clients against a fresh `server` and read what that costs it.

    Args:
        server: the server.
        numbers: how many connections there are at each reading of the memory, ascending.
        idle_seconds: how long the CPU is measured, with all of them.
        report: told what is being done.
        is_secure: whether the clients use TLS.

    Raises:
        MeasurementError: the server refused a client, or lost one.
    """
    time.sleep(SETTLE_SECONDS)
    rss_before = resident_bytes(server.pid)
    with ExitStack() as stack:
        holders: list[subprocess.Popen[str]] = []
        resident: list[int] = []
        seconds = connect_cpu = 0.0
        for since, until in pairwise((0, *numbers)):
            report(f"connecting {until - since:,} clients")
            cpu_then = cpu_seconds(server.pid)
            added = [
                stack.enter_context(_holder(server, len(holders) + number, first, until, is_secure=is_secure))
                for number, first in enumerate(range(since, until, _connections_per_process()))
            ]
            holders += added
            seconds += max(said(holder)["seconds"] for holder in added)
            connect_cpu += cpu_seconds(server.pid) - cpu_then
            time.sleep(SETTLE_SECONDS)
            resident.append(resident_bytes(server.pid))

        report(f"watching them for {idle_seconds:g} s")
        idle_cpu = _cpu_share(server.pid, idle_seconds)
        resident[-1] = rss_after = resident_bytes(server.pid)

        held = sum(_end(holder) for holder in holders)
    connections = numbers[-1]
    if held != connections:
        raise MeasurementError(f"the server closed {connections - held:,} of {connections:,} idle connections")
    return Footprint(
        connections=connections,
        is_secure=is_secure,
        rss_before_bytes=rss_before,
        rss_after_bytes=rss_after,
        kib_per_connection=(rss_after - rss_before) / connections / 1024,
        connects_per_second=connections / seconds,
        connect_cpu_seconds=connect_cpu,
        idle_seconds=idle_seconds,
        idle_cpu_percent=idle_cpu * 100,
        growth=tuple(
            Growth(since, until, (later - before) / (until - since) / 1024)
            for (since, before), (until, later) in pairwise(zip(numbers, resident, strict=True))
        ),
    )


def raise_file_limit() -> int:
    """Let this process and those it starts open as many files as the system allows, and return how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextmanager
def idle_clients(server: Server, count: int) -> Iterator[None]:
    """Hold so many idle connections against a server while the block lasts.

    Raises:
        MeasurementError: the server refused a client, or lost one.
    """
    with ExitStack() as stack:
        starts = enumerate(range(0, count, _connections_per_process()))
        holders = [stack.enter_context(_holder(server, number, first, count)) for number, first in starts]
        for holder in holders:
            said(holder)
        yield
        held = sum(map(_end, holders))
    if held != count:
        raise MeasurementError(f"the server closed {count - held:,} of {count:,} idle connections")


def _connections_per_process() -> int:
    return min(CONNECTIONS_PER_ADDRESS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_FILES)


def _cpu_share(pid: int, seconds: float) -> float:
    cpu_before, started_at = cpu_seconds(pid), time.perf_counter()
    time.sleep(seconds)
    return (cpu_seconds(pid) - cpu_before) / (time.perf_counter() - started_at)


@contextmanager
def _holder(
    server: Server, number: int, first: int, connections: int, *, is_secure: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Run a client process, with a loopback address of its own, while the block lasts."""
    arguments = {
        "port": server.port,
        "address": f"127.0.0.{number + 2}",
        "first": first,
        "count": min(_connections_per_process(), connections - first),
        "tls": int(is_secure),
    }
    with speaking("benchmarks.idle", *(f"--{name}={value}" for name, value in arguments.items())) as process:
        yield process


def _end(holder: subprocess.Popen[str]) -> int:
    """Let a client process go, and return how many connections it still had."""
    if holder.stdin is not None:
        holder.stdin.close()
    return int(said(holder)["held"])


def _table(footprint: Footprint) -> Table:
    table = Table(
        title=f"{footprint.connections:,} idle authenticated connections{', with TLS' * footprint.is_secure}",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        show_header=False,
        pad_edge=False,
    )
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for label, figure, bar in (
        ("memory before, MiB", footprint.rss_before_bytes / 2**20, None),
        ("memory with all connected, MiB", footprint.rss_after_bytes / 2**20, None),
        ("memory per connection, KiB", footprint.kib_per_connection, None if footprint.growth else footprint.bar_kib),
        *(
            (
                f"KiB per connection between {step.since:,} and {step.until:,}",
                step.kib_per_connection,
                footprint.bar_kib,
            )
            for step in footprint.growth
        ),
        ("connects per second", footprint.connects_per_second, None),
        ("service CPU for connecting, s", footprint.connect_cpu_seconds, None),
        (f"service CPU over {footprint.idle_seconds:g} idle s, %", footprint.idle_cpu_percent, BAR_CPU_PERCENT),
    ):
        held = "" if bar is None else f"bar {bar:g}: {'within' if figure <= bar else 'over'}"
        table.add_row(label, f"{figure:,.1f}", held)
    return table


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.connections -n 1000 --check")
def main(
    *,
    connections: Annotated[
        list[int],
        typer.Option(
            "--connections",
            "-n",
            min=1,
            help="Connections to hold; several numbers show what each connection between two of them adds.",
        ),
    ] = [1_000, 10_000],  # noqa: B006 - typer wants it so
    tls: Annotated[bool, typer.Option("--tls", help="Connect with TLS.")] = False,
    idle_seconds: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds that the idle CPU is measured; past 30 s it includes the service's pings."),
    ] = 5.0,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 1 if a bar is missed.")] = False,
    json_target: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="File to write the results to as JSON; - is standard output, without the table.",
        ),
    ] = None,
) -> None:
    """Measure the memory and the CPU time that an idle connection costs.

    Opens authenticated connections from as many loopback addresses as that takes, and divides the growth of the
    service's resident memory by their number. A connection is a file to either side: when the limit on open files
    (ulimit -Hn) is too low, fewer are opened and a line says so.
    """
    end_on_sigterm()
    screen = Console(stderr=True, highlight=False)
    most = raise_file_limit() - OTHER_FILES
    asked = max(connections)
    if asked > most:
        screen.print(f"the limit on open files, {most + OTHER_FILES:,}, allows {most:,} connections of {asked:,}")
    numbers = sorted({min(number, most) for number in connections})
    tokens = {client_id(number): TOKEN for number in range(numbers[-1])}
    try:
        with TemporaryDirectory(prefix="signal-manager-bench-") as directory:
            certificate = self_signed(Path(directory)) if tls else None
            with service(tokens, core=cores()[0], certificate=certificate) as server:
                footprint = measure(server, numbers, idle_seconds=idle_seconds, report=screen.print, is_secure=tls)
    except MeasurementError as error:
        screen.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    if json_target is not None:
        write_json(
            {
                "benchmark": "connections",
                "machine": machine(),
                "load": {"asked": asked, "connections": numbers[-1], "tls": tls},
                "results": asdict(footprint),
            },
            json_target,
        )
    if json_target != "-":
        Console().print(_table(footprint))
    if check and not footprint.is_within:
        raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.connections")
