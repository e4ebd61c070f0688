"""How long does a registration on SQLite take at a steady rate, and what do 100,000 stored clients cost at start?

Registrations arrive on a fixed schedule whether or not earlier ones have ended (open loop), each timed from the moment
it was due. Opening is measured in processes of their own, on an empty file and on a full one.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.processes import ROOT
from benchmarks.results import machine, write_json
from signal_manager.model import ClientId, ClientRecord, hash_token
from signal_manager.storage.documents import encode
from signal_manager.storage.sqlite.adapter import SqliteStorage

__all__ = ["app"]

TOKEN = hash_token("a token")

# What the project promises of a machine like a small server.
P99_BAR_MS = 10.0
START_BAR_S = 2.0

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Latency:
    """How long registrations took, from the moment each was due."""

    rate: int
    registrations: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Start:
    """What opening a store and reading one page of clients took in a new process."""

    clients: int
    seconds: float
    rss_mib: float


def record(name: str) -> ClientRecord:
    """Return a client as REGISTER writes it."""
    return ClientRecord(
        client_id=ClientId(name),
        auth_token=TOKEN,
        capabilities=("audio", "video"),
        metadata={"name": "Alice", "device": "browser", "version": "1.2.3"},
        registered_at=time.time(),
    )


async def register(path: Path, rate: int, seconds: float) -> Latency:
    """Register at `rate` per second for so many seconds."""
    latencies: list[float] = []

    async def one(name: str, due: float) -> None:
        await storage.change_client(ClientId(name), lambda _present: record(name))
        latencies.append((time.perf_counter() - due) * 1000)

    async with SqliteStorage(path=path) as storage, asyncio.TaskGroup() as tasks:
        begin = time.perf_counter()
        for n in range(int(rate * seconds)):
            due = begin + n / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(one(f"client-{n}", due))
    latencies.sort()
    count = len(latencies)
    return Latency(rate, count, latencies[count // 2], latencies[count * 99 // 100], latencies[-1])


def fill(path: Path, clients: int) -> None:
    """Put so many clients into a store that exists."""
    rows = ((f"stored-{n}", encode(record(f"stored-{n}")).decode()) for n in range(clients))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO clients (client_id, body) VALUES (?, ?)", rows)


async def opening(path: Path) -> None:
    """Open the store, read one page, and print the seconds and this process's memory as JSON."""
    begin = time.perf_counter()
    async with SqliteStorage(path=path) as storage:
        await storage.list_clients()
        seconds = time.perf_counter() - begin
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def start(path: Path, clients: int) -> Start:
    """Open the store in a process of its own."""
    code = f"import asyncio, pathlib, benchmarks.storage as b; asyncio.run(b.opening(pathlib.Path({str(path)!r})))"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT).stdout
    return Start(clients, *json.loads(printed))


@app.command(epilog="Example: python -m benchmarks.storage --rate 200 --clients 10000")
def main(
    rate: Annotated[int, typer.Option(min=1, help="Registrations per second.")] = 500,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds that the rate is kept up.")] = 10.0,
    clients: Annotated[int, typer.Option(min=0, help="Clients that are stored at the second start.")] = 100_000,
    directory: Annotated[Path | None, typer.Option(help="Folder for the files, on the disk to measure.")] = None,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="File to write the results to as JSON; - is standard output."),
    ] = None,
) -> None:
    """Measure registrations on SQLite, and starts on an empty and on a full file."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        path, full = Path(name) / "registrations.db", Path(name) / "full.db"
        latency = uvloop.run(register(path, rate, seconds))
        start(full, 0)  # makes the file
        starts = [start(full, 0)]
        fill(full, clients)
        starts.append(start(full, clients))
    console = Console(stderr=json_file == "-")
    table = Table("registrations/s", "p50 ms", "p99 ms", "max ms", f"p99 below {P99_BAR_MS:g} ms", box=SIMPLE_HEAD)
    verdict = "within" if latency.p99_ms < P99_BAR_MS else "over"
    table.add_row(str(rate), *(f"{ms:.2f}" for ms in (latency.p50_ms, latency.p99_ms, latency.max_ms)), verdict)
    console.print(table)
    table = Table("stored clients", "open s", "RSS MiB", f"open below {START_BAR_S:g} s", box=SIMPLE_HEAD)
    for each in starts:
        verdict = "within" if each.seconds < START_BAR_S else "over"
        table.add_row(f"{each.clients:,}", f"{each.seconds:.4f}", f"{each.rss_mib:.1f}", verdict)
    console.print(table)
    if json_file is not None:
        results = {"machine": machine(), "registrations": asdict(latency), "starts": [asdict(each) for each in starts]}
        write_json(results, json_file)


if __name__ == "__main__":
    app()
