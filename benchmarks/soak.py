"""Does the service stay as it is? Many clients that talk, come and go in rooms and lose their connections, for minutes.

`soak_load.py` has the clients and accounts for every message; this module watches the service's memory, its event loop
and its log.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.connections import raise_file_limit
from benchmarks.processes import (
    MeasurementError,
    child_processes,
    cores,
    cpu_seconds,
    end_on_sigterm,
    free_port,
    resident_bytes,
    said,
    speaking,
    waited_seconds,
)
from benchmarks.results import machine, write_json
from benchmarks.servers import Server, service
from benchmarks.soak_load import TOKEN, client_id
from signal_manager.admin.statistics import quantile

__all__ = ["Soak", "app", "measure", "missed"]

# Clients of one load process; one core carries about so many of the SDK's.
CLIENTS_PER_PROCESS = 1000
# Memory is compared with what it was when caches and buffers had filled (s).
WARM_UP = 60.0
# What "flat" allows: pages that the allocator holds come and go by as much.
GROWTH = 1.10
LAG_MS = 50.0
GOOD_BYE_LIMIT = 60.0
LINES_SHOWN = 10


@dataclass(frozen=True)
class Soak:
    """What the service and its clients went through."""

    clients: int
    seconds: float
    rss_start_bytes: int
    rss_warm_bytes: int
    rss_end_bytes: int
    cpu_percent: float
    waited_percent: float
    lag_p99_ms: float
    errors_logged: int
    warnings_logged: dict[str, int]
    sent: int
    arrived: int
    told: int
    gone_with_a_session: int
    lost: int
    duplicates: int
    out_of_order: int
    overflowed: int
    drops: int
    counts: dict[str, int]


@dataclass(frozen=True)
class Watched:
    """A running service, and where it can be looked into."""

    server: Server
    metrics_port: int
    log: Path


def measure(
    watched: Watched,
    clients: int,
    *,
    seconds: float,
    drops: float,
    pause: float,
    room_pause: float,
    report: Callable[[str], None],
) -> Soak:
    """Let `clients` loose on a fresh service for so long.

    Raises:
        MeasurementError: they could not connect, or the service is gone.
    """
    pid = watched.server.pid
    with ExitStack() as stack:
        report(f"connecting {clients:,} clients")
        loads = [
            stack.enter_context(
                _load(
                    port=watched.server.port,
                    first=first,
                    count=min(CLIENTS_PER_PROCESS, clients - first),
                    seconds=seconds,
                    drops=drops,
                    pause=pause,
                    room_pause=room_pause,
                )
            )
            for first in range(0, clients, CLIENTS_PER_PROCESS)
        ]
        for load in loads:
            said(load)
        start, lag_before = _memory(pid), _lag_counts(watched)
        cpu, waited = cpu_seconds(pid), waited_seconds(pid)
        report(f"letting them talk for {seconds:g} s, of whom {drops:.1%} are dropped each second")
        began = time.monotonic()
        for load in loads:
            _say(load, "\n")
        time.sleep(min(WARM_UP, seconds / 2))
        warm = _memory(pid)
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        end, lag_after = _memory(pid), _lag_counts(watched)
        elapsed = time.monotonic() - began
        cpu_share, waited_share = (cpu_seconds(pid) - cpu) / elapsed, (waited_seconds(pid) - waited) / elapsed
        report("waiting for what is on its way")
        accounts = [said(load) for load in loads]
        for load in loads:
            load.wait(GOOD_BYE_LIMIT)
    errors, warnings = _logged(watched.log)
    totals: Counter[str] = Counter()
    for account in accounts:
        totals.update(account.pop("counts"))
    return Soak(
        clients=clients,
        seconds=seconds,
        rss_start_bytes=start,
        rss_warm_bytes=warm,
        rss_end_bytes=end,
        cpu_percent=cpu_share * 100,
        waited_percent=waited_share * 100,
        lag_p99_ms=_p99(lag_before, lag_after) * 1000,
        errors_logged=errors,
        warnings_logged=warnings,
        counts=dict(sorted(totals.items())),
        **{name: sum(account[name] for account in accounts) for name in accounts[0]},
    )


def missed(soak: Soak) -> list[str]:
    """Return the bars that were missed, one phrase each."""
    bars = {
        f"{soak.lost:,} messages were lost": soak.lost > 0,
        f"{soak.duplicates:,} messages came twice": soak.duplicates > 0,
        f"{soak.out_of_order:,} messages overtook others": soak.out_of_order > 0,
        f"{soak.counts.get('gave_up', 0):,} clients gave up": soak.counts.get("gave_up", 0) > 0,
        f"{soak.errors_logged:,} errors were logged": soak.errors_logged > 0,
        f"memory grew by {soak.rss_end_bytes / soak.rss_warm_bytes - 1:.0%} after the warm-up": (
            soak.rss_end_bytes > soak.rss_warm_bytes * GROWTH
        ),
        f"the event loop's lag has a p99 of {soak.lag_p99_ms:.0f} ms": soak.lag_p99_ms > LAG_MS,
    }
    return [phrase for phrase, is_missed in bars.items() if is_missed]


def _load(**arguments: float) -> AbstractContextManager[subprocess.Popen[str]]:
    """Run a client process while the block lasts."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in arguments.items()]
    return speaking("benchmarks.soak_load", *options, shows_errors=True)


def _say(load: subprocess.Popen[str], text: str) -> None:
    if load.stdin is not None:
        load.stdin.write(text)
        load.stdin.flush()


def _memory(pid: int) -> int:
    """Return the resident memory of the service with that of the process that writes its store."""
    return sum(map(resident_bytes, (pid, *child_processes(pid))))


def _lag_counts(watched: Watched) -> dict[float, float]:
    """Return how often the event loop's lag was at most so many seconds."""
    with urllib.request.urlopen(f"http://127.0.0.1:{watched.metrics_port}/metrics", timeout=30) as response:
        text = response.read().decode()
    return {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(text)
        if family.name == "signal_manager_event_loop_lag_seconds"
        for sample in family.samples
        if sample.name.endswith("_bucket")
    }


def _p99(before: dict[float, float], after: dict[float, float]) -> float:
    bounds = sorted(after)
    cumulative = [after[bound] - before.get(bound, 0) for bound in bounds]
    counts = [int(now - earlier) for now, earlier in zip(cumulative, [0.0, *cumulative], strict=False)]
    return quantile(bounds[:-1], counts, 0.99) or 0.0


def _logged(log: Path) -> tuple[int, dict[str, int]]:
    """Return how many errors were logged, and the warnings by what they say."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    warnings = Counter(
        ": ".join((line["event"], *([line["reason"]] if "reason" in line else [])))
        for line in lines
        if line["level"] == "warning"
    )
    errors = [line for line in lines if line["level"] in {"error", "critical"}]
    for line in errors[:LINES_SHOWN]:
        print(json.dumps(line, indent=2), file=sys.stderr)
    return len(errors), dict(warnings)


def _table(soak: Soak) -> Table:
    table = Table(
        title=f"{soak.clients:,} clients that talk, move and are dropped, for {soak.seconds:g} s",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        show_header=False,
        pad_edge=False,
    )
    table.add_column()
    table.add_column(justify="right")
    for label, figure in (
        ("messages sent", f"{soak.sent:,}"),
        ("arrived", f"{soak.arrived:,}"),
        ("refused, or unknown to their senders", f"{soak.told:,}"),
        ("gone with a session that could not be resumed", f"{soak.gone_with_a_session:,}"),
        ("lost", f"{soak.lost:,}"),
        ("twice, out of order", f"{soak.duplicates:,}, {soak.out_of_order:,}"),
        ("connections dropped", f"{soak.drops:,}"),
        ("rooms entered, left", f"{soak.counts.get('rooms_entered', 0):,}, {soak.counts.get('rooms_left', 0):,}"),
        ("memory at the start, MiB", f"{soak.rss_start_bytes / 2**20:,.1f}"),
        (f"memory after {min(WARM_UP, soak.seconds / 2):g} s, MiB", f"{soak.rss_warm_bytes / 2**20:,.1f}"),
        ("memory at the end, MiB", f"{soak.rss_end_bytes / 2**20:,.1f}"),
        ("service CPU, % of a core", f"{soak.cpu_percent:,.0f}"),
        ("service waited for a core, % of the time", f"{soak.waited_percent:,.0f}"),
        ("event loop lag, p99, ms", f"{soak.lag_p99_ms:,.1f}"),
        ("errors in the log", f"{soak.errors_logged:,}"),
        ("warnings in the log", ", ".join(f"{count} {text}" for text, count in soak.warnings_logged.items()) or "0"),
        ("what clients met besides", ", ".join(f"{name}: {count}" for name, count in _rare(soak)) or "nothing"),
    ):
        table.add_row(label, figure)
    return table


def _rare(soak: Soak) -> list[tuple[str, int]]:
    usual = {"sent", "arrived", "duplicates", "out_of_order", "rooms_entered", "rooms_left"}
    return [(name, count) for name, count in soak.counts.items() if name not in usual and count]


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.soak --minutes 2 --clients 200")
def main(
    *,
    minutes: Annotated[float, typer.Option(min=0.05, help="Minutes that the clients talk.")] = 10.0,
    clients: Annotated[int, typer.Option("--clients", "-n", min=2, help="Clients that talk.")] = 2000,
    drops: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the connections that are dropped each second.")
    ] = 0.01,
    pause: Annotated[float, typer.Option(min=0.01, help="Seconds between two messages of a client, on average.")] = 2.0,
    room_pause: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a client stays in a room, and outside, on average.")
    ] = 20.0,
    storage: Annotated[str, typer.Option(help="Storage of rooms and clients: sqlite or memory.")] = "sqlite",
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
    """Let many clients talk, move between rooms and lose their connections, and account for every message.

    Clients talk within groups of eight that share a room. Memory must stay what it was after the first minute, no
    message may be lost, nothing may fail in the log, and the event loop must stay responsive.
    """
    end_on_sigterm()
    screen = Console(stderr=True, highlight=False)
    raise_file_limit()
    tokens = {client_id(number): TOKEN for number in range(clients)}
    metrics_port = free_port()
    try:
        with TemporaryDirectory(prefix="signal-manager-soak-") as directory:
            log = Path(directory) / "service.log"
            with service(
                tokens,
                core=cores()[0],
                storage="memory" if storage == "memory" else "sqlite",
                metrics_port=metrics_port,
                log=log,
            ) as server:
                soak = measure(
                    Watched(server, metrics_port, log),
                    clients,
                    seconds=minutes * 60,
                    drops=drops,
                    pause=pause,
                    room_pause=room_pause,
                    report=screen.print,
                )
    except (MeasurementError, OSError) as error:
        screen.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    if json_target is not None:
        write_json({"benchmark": "soak", "machine": machine(), "results": asdict(soak)}, json_target)
    if json_target != "-":
        Console(highlight=False).print(_table(soak))
    for phrase in missed(soak):
        screen.print(f"missed: {phrase}", style="red", markup=False)
    if check and missed(soak):
        raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.soak")
