"""How long does a registration on SQLite take at a steady rate, and what do 100,000 stored clients cost at start?

Registrations arrive on a fixed schedule whether or not earlier ones have ended (open loop), each timed from the moment
it was due. Opening is measured in processes of their own, on an empty file and on a full one.

    python -m benchmarks.storage [--rate 500] [--seconds 10] [--clients 100000] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from signal_manager.model import ClientId, ClientRecord, hash_token
from signal_manager.storage.documents import encode
from signal_manager.storage.sqlite import SqliteStorage

TOKEN = hash_token("a token")


def record(name: str) -> ClientRecord:
    """Return a client as REGISTER writes it."""
    return ClientRecord(
        client_id=ClientId(name),
        auth_token=TOKEN,
        capabilities=("audio", "video"),
        metadata={"name": "somebody", "device": "browser", "version": "1.2.3"},
        registered_at=time.time(),
    )


def percentile(sorted_values: list[float], share: float) -> float:
    """Return the value below which `share` of them lie."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


async def registrations(path: Path, rate: int, seconds: float) -> dict[str, Any]:
    """Register at `rate` per second and return the latencies in milliseconds."""
    latencies: list[float] = []

    async def register(name: str, due: float) -> None:
        await storage.change_client(ClientId(name), lambda _present: record(name))
        latencies.append((time.perf_counter() - due) * 1000)

    async with SqliteStorage(path=path) as storage, asyncio.TaskGroup() as tasks:
        start = time.perf_counter()
        for n in range(int(rate * seconds)):
            due = start + n / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(register(f"client-{n}", due))
    latencies.sort()
    return {
        "rate": rate,
        "registrations": len(latencies),
        "p50_ms": round(percentile(latencies, 0.50), 2),
        "p99_ms": round(percentile(latencies, 0.99), 2),
        "max_ms": round(latencies[-1], 2),
    }


def fill(path: Path, clients: int) -> None:
    """Put `clients` records into a store that exists."""
    rows = ((f"stored-{n}", encode(record(f"stored-{n}")).decode()) for n in range(clients))
    with sqlite3.connect(path) as connection:
        connection.executemany("INSERT INTO clients (client_id, body) VALUES (?, ?)", rows)
    connection.close()


def start(path: Path) -> dict[str, Any]:
    """Open the store in a process of its own and return what that took."""
    command = [sys.executable, "-m", "benchmarks.storage", "--open", str(path)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return result


async def opening(path: Path) -> dict[str, Any]:
    """Open the store, read one page, and return the seconds and the process's memory."""
    begin = time.perf_counter()
    async with SqliteStorage(path=path) as storage:
        await storage.list_clients()
        seconds = time.perf_counter() - begin
    return {"open_s": round(seconds, 4), "rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def main() -> None:
    """Measure and print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--directory", type=Path, help="where the files are made; default: the temporary directory")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(uvloop.run(opening(arguments.open))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        path = Path(directory) / "store.db"
        results = {"sqlite_registrations": uvloop.run(registrations(path, arguments.rate, arguments.seconds))}
        empty = Path(directory) / "empty.db"
        start(empty)  # makes the file
        results["start_empty"] = start(empty)
        fill(path, arguments.clients)
        results[f"start_with_{arguments.clients}_clients"] = start(path)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
