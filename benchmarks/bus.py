"""What does it cost when clients are on different nodes? Two nodes and a nats-server against one node alone.

The load is that of `load.py`, in a process of its own. Where all processes share two cores, messages per second say how
those were divided and little else: so the CPU time of each process per message is measured, and what two cores of
workers could relay is computed from it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
import uvloop
from picows import ws_connect
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.load import TOKEN, Client, Load, client_ids, drain, percentile
from benchmarks.load import run as run_load
from benchmarks.processes import (
    ROOT,
    MeasurementError,
    cpu_seconds,
    end_on_sigterm,
    free_port,
    resident_bytes,
    running,
)
from benchmarks.results import machine, write_json
from signal_manager.bus.nats import NatsBus
from signal_manager.model import ClientId, NodeId
from signal_manager.testing.bus import Phone

__all__ = ["Figure", "app"]

# What the project asks of itself: two workers against one, and latency over nodes against latency on one.
WORKERS_BAR = 1.6
LATENCY_BAR = 4.0

# Pairs by where their two clients are: nodes by place.
TOGETHER, BY_CHANCE, APART = "together", "by chance", "apart"
_PLACES = {TOGETHER: [(0, 0), (1, 1)], BY_CHANCE: [(0, 0), (0, 1), (1, 0), (1, 1)], APART: [(0, 1), (1, 0)]}

_LOAD_LIMIT = 60.0
_WARM_UP = 1.0
_SUBJECTS = 10_000


@dataclass(frozen=True)
class Figure:
    """One arrangement under one load; CPU is in µs per relayed message."""

    nodes: int
    peers: str
    in_flight: int
    messages_per_second: float
    node_cpu_us: float
    nats_cpu_us: float
    load_cpu_percent: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Subjects:
    """What one client costs beyond its connection where there are several nodes."""

    count: int
    node_bytes: float
    node_cpu_us: float
    nats_bytes: float
    nats_cpu_us: float


@contextmanager
def nats_server() -> Iterator[tuple[int, int]]:
    """Run nats-server while the block lasts; give its pid and port."""
    found = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/bin")
    if found is None:
        raise MeasurementError("there is no nats-server on the PATH: apt-get install nats-server")
    port = free_port()
    with running([found, "--addr", "127.0.0.1", "--port", str(port)], port=port) as pid:
        yield pid, port


@contextmanager
def nodes(count: int, nats_port: int | None, pairs: int) -> Iterator[list[tuple[int, int]]]:
    """Run nodes while the block lasts; give the pid and port of each. Without a NATS there is one on its own."""
    keys = [f"{client_id}:{TOKEN}" for pair in client_ids(pairs) for client_id in pair]
    with TemporaryDirectory(prefix="signal-manager-bench-") as folder, ExitStack() as stack:
        started = []
        for number in range(count):
            port, config = free_port(), Path(folder) / f"{number}.toml"
            config.write_text(
                f"[server]\nport = {port}\n[auth]\napi_keys = {json.dumps(keys)}\n"
                f'[security]\nmax_messages_per_minute = 1000000000\n[logging]\nlevel = "warning"\n'
                f'[storage]\nsqlite_path = "{folder}/shared.db"\n[media]\nbackend = "none"\n'
                "[metrics]\nenabled = false\n"
                + (f'[bus]\nbackend = "nats"\nnats_url = "nats://127.0.0.1:{nats_port}"\n' if nats_port else "")
            )
            command = [sys.executable, "-m", "signal_manager", "serve", "--config", str(config)]
            started.append((stack.enter_context(running(command, port=port)), port))
        yield started


def measure(
    servers: Sequence[tuple[int, int]], nats_pid: int | None, *, peers: str, pairs: int, in_flight: int, seconds: float
) -> Figure:
    """Put one load on these nodes and return what it cost."""
    order = {
        "ports": [port for _, port in servers],
        "pids": [pid for pid, _ in servers],
        "nats_pid": nats_pid,
        "peers": peers,
        "pairs": pairs,
        "in_flight": in_flight,
        "seconds": seconds,
    }
    command = [sys.executable, "-m", "benchmarks.bus", "load", json.dumps(order)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + _LOAD_LIMIT, check=False)
    if done.returncode:
        raise MeasurementError(f"{peers}, {in_flight} in flight: {done.stderr.strip()[-2000:]}")
    return Figure(**json.loads(done.stdout))


async def _load(order: dict[str, Any]) -> Figure:
    load = Load()
    places = _PLACES[order["peers"]]
    clients = []
    for number, (a, b) in enumerate(client_ids(order["pairs"])):
        for ids, place in zip(((a, b), (b, a)), places[number % len(places)], strict=True):
            client = Client(load, *ids, resumable=False)
            port = order["ports"][place % len(order["ports"])]
            await ws_connect(lambda client=client: client, f"ws://127.0.0.1:{port}/")
            await asyncio.wait_for(client.accepted, _LOAD_LIMIT)
            clients.append(client)
    for client in clients[::2]:
        for _ in range(order["in_flight"]):
            client.serve()
    await run_load(load, _WARM_UP)
    load.latencies = array("d")

    def used() -> tuple[float, float, float]:
        nats = cpu_seconds(order["nats_pid"]) if order["nats_pid"] else 0.0
        return sum(map(cpu_seconds, order["pids"])), nats, time.process_time()

    before, started_at = used(), time.perf_counter()
    await run_load(load, order["seconds"])
    elapsed = time.perf_counter() - started_at
    node, nats, own = (after - earlier for after, earlier in zip(used(), before, strict=True))
    latencies = sorted(load.latencies)
    await drain(load)
    return Figure(
        nodes=len(order["ports"]),
        peers=order["peers"],
        in_flight=order["in_flight"],
        messages_per_second=len(latencies) / elapsed,
        node_cpu_us=node / len(latencies) * 1e6,
        nats_cpu_us=nats / len(latencies) * 1e6,
        load_cpu_percent=own / elapsed * 100,
        p50_ms=percentile(latencies, 0.50) * 1e3,
        p99_ms=percentile(latencies, 0.99) * 1e3,
    )


async def measure_subjects(nats_pid: int, nats_port: int) -> Subjects:
    """Attach many clients to a bus and return what each costs, with the claim that precedes it."""
    async with NatsBus[Phone](node_id=NodeId("subjects"), url=f"nats://127.0.0.1:{nats_port}") as bus:
        phones = [(ClientId(f"client-{number:07d}"), Phone()) for number in range(_SUBJECTS)]
        memory = resident_bytes(os.getpid()), resident_bytes(nats_pid)
        cpu = time.process_time(), cpu_seconds(nats_pid)
        for client_id, phone in phones:
            await bus.claim(client_id, None)
            bus.attach(client_id, phone)
        return Subjects(
            count=_SUBJECTS,
            node_bytes=(resident_bytes(os.getpid()) - memory[0]) / _SUBJECTS,
            node_cpu_us=(time.process_time() - cpu[0]) / _SUBJECTS * 1e6,
            nats_bytes=(resident_bytes(nats_pid) - memory[1]) / _SUBJECTS,
            nats_cpu_us=(cpu_seconds(nats_pid) - cpu[1]) / _SUBJECTS * 1e6,
        )


def _medians(figures: Sequence[Figure]) -> Figure:
    first = figures[0]
    numbers = {
        name: median(getattr(figure, name) for figure in figures)
        for name in asdict(first)
        if name not in {"nodes", "peers", "in_flight"}
    }
    return Figure(nodes=first.nodes, peers=first.peers, in_flight=first.in_flight, **numbers)


def _table(figures: Sequence[Figure]) -> Table:
    table = Table(title="Relaying offers over nodes; CPU µs per message", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("nodes", "peers", "in flight", "messages/s", "nodes µs", "nats µs", "load %", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for figure in figures:
        table.add_row(
            str(figure.nodes),
            figure.peers,
            str(figure.in_flight),
            f"{figure.messages_per_second:,.0f}",
            f"{figure.node_cpu_us:.1f}",
            f"{figure.nats_cpu_us:.1f}",
            f"{figure.load_cpu_percent:.0f}",
            f"{figure.p50_ms:.3f}",
            f"{figure.p99_ms:.3f}",
        )
    return table


app = typer.Typer(add_completion=False)


@app.command()
def load(order: str) -> None:
    """Be the load of one measurement (started by `run`)."""
    print(json.dumps(asdict(uvloop.run(_load(json.loads(order))))))


@app.command()
def run(
    pairs: Annotated[int, typer.Option(min=4, help="Pairs of clients.")] = 40,
    in_flight: Annotated[int, typer.Option(min=1, help="Offers on their way in each pair.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of one measurement.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each arrangement.")] = 3,
    json_file: Annotated[str | None, typer.Option("--json", help="Write all results there; - is stdout.")] = None,
) -> None:
    """Measure, and compare with the bars."""
    end_on_sigterm()
    console = Console(stderr=json_file == "-", width=120)
    taken: dict[str, list[Figure]] = {}
    with nats_server() as (nats_pid, nats_port), ExitStack() as stack:
        alone = stack.enter_context(nodes(1, None, pairs))
        two = stack.enter_context(nodes(2, nats_port, pairs))
        for _ in range(rounds):
            for name, servers, pid, peers, count, flying in (
                ("one", alone, None, TOGETHER, pairs, in_flight),
                ("two together", two, nats_pid, TOGETHER, pairs, in_flight),
                ("two by chance", two, nats_pid, BY_CHANCE, pairs, in_flight),
                ("two apart", two, nats_pid, APART, pairs, in_flight),
                ("near", two, nats_pid, TOGETHER, 1, 1),
                ("far", two, nats_pid, APART, 1, 1),
            ):
                figure = measure(servers, pid, peers=peers, pairs=count, in_flight=flying, seconds=seconds)
                taken.setdefault(name, []).append(figure)
        subjects = uvloop.run(measure_subjects(nats_pid, nats_port))
    figures = {name: _medians(each) for name, each in taken.items()}
    one, chance = figures["one"], figures["two by chance"]
    capacity = 2 * one.node_cpu_us / chance.node_cpu_us
    shared = 2 * one.node_cpu_us / (chance.node_cpu_us + chance.nats_cpu_us)
    latency = figures["far"].p50_ms / figures["near"].p50_ms
    ratios = {
        "messages/s of two workers, measured": chance.messages_per_second / one.messages_per_second,
        "messages/s of two workers on two cores, NATS elsewhere (by CPU)": capacity,
        "messages/s of two workers and NATS on two cores (by CPU)": shared,
        "p50 over nodes": latency,
    }
    bars = {
        "messages/s of two workers on two cores, NATS elsewhere (by CPU)": capacity >= WORKERS_BAR,
        "p50 over nodes": latency <= LATENCY_BAR,
    }
    console.print(_table(list(figures.values())))
    for name, ratio in ratios.items():
        verdict = "" if name not in bars else f" ({'within' if bars[name] else 'over'} the bar)"
        console.print(f"{name}: {ratio:.2f} times that of one{verdict}")
    console.print(f"each client: {asdict(subjects)}")
    if json_file is not None:
        results = {
            "benchmark": "bus",
            "machine": machine(),
            "results": {name: asdict(figure) for name, figure in figures.items()},
            "rounds": {name: [asdict(figure) for figure in each] for name, each in taken.items()},
            "ratios": ratios,
            "subjects": asdict(subjects),
        }
        write_json(results, json_file)


if __name__ == "__main__":
    app()
