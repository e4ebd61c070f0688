"""Does relaying wait for storage? The relay's figures alone, and while registrations are written to SQLite beside it.

The registrations come from clients of their own, in a process of its own, on a fixed schedule. The load keeps the
service's core busy, so what registering costs in CPU is taken from relaying: that share is measured first.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from statistics import median
from typing import Annotated

import typer
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import frames
from benchmarks.load import TOKEN, Measurement, client_ids
from benchmarks.processes import ROOT, MeasurementError, cores, cpu_seconds, end_on_sigterm, pinned
from benchmarks.relay import Plan, measure
from benchmarks.results import machine, write_json
from benchmarks.servers import SERVICE, Server, service

__all__ = ["app"]

# The part of its messages that the relay must still carry while registrations run.
BAR = 0.97
# Clients that register in turn: each waits for its reply, and none must have to wait for its turn.
REGISTERING = 40

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def names() -> list[str]:
    """Return the clients that register."""
    return [f"registering-{number}" for number in range(REGISTERING)]


class RegisteringClient(WSListener):
    """A connection that registers when it is told to, as cheaply as can be: it shares a core with the load."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self.transport: WSTransport | None = None
        self.replies = 0

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Say who we are."""
        self.transport = transport
        transport.send(WSMsgType.BINARY, frames.connect(self._name, TOKEN))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Count the replies that say yes."""
        self.replies += frame.get_payload_as_bytes()[1] == frames.REGISTER_ACK

    def register(self, number: int) -> None:
        """Send one registration."""
        if self.transport is not None:
            self.transport.send(WSMsgType.BINARY, frames.register(number))


async def register(port: int, rate: int) -> None:
    """Register `rate` times a second until standard input ends, then print how many were confirmed per second."""
    clients = [RegisteringClient(name) for name in names()]
    for client in clients:
        await ws_connect(lambda client=client: client, f"ws://127.0.0.1:{port}")
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    print("ready", flush=True)
    sent, started = 0, time.perf_counter()
    while not ended.done():
        clients[sent % REGISTERING].register(sent)
        sent += 1
        await asyncio.sleep(max(0.0, started + sent / rate - time.perf_counter()))
    print(sum(client.replies for client in clients) / (time.perf_counter() - started), flush=True)


@contextmanager
def registering(server: Server, rate: int, core: int | None) -> Iterator[None]:
    """Have clients register while the block lasts.

    Raises:
        MeasurementError: they could not keep up with the rate.
    """
    command = [sys.executable, "-m", "benchmarks.registrations", "register", str(server.port), str(rate)]
    with (
        pinned(core),
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise MeasurementError("the registering clients did not start")
            yield
            process.stdin.close()
            reached = float(process.stdout.readline() or 0)
            if reached < 0.9 * rate:
                raise MeasurementError(f"{reached:.0f} registrations/s were reached, expected {rate}")
        finally:
            process.terminate()


def cpu_share(server: Server, seconds: float) -> float:
    """Return the part of a core that the service takes over `seconds`."""
    before = cpu_seconds(server.pid)
    time.sleep(seconds)
    return (cpu_seconds(server.pid) - before) / seconds


@app.command("register", hidden=True)
def register_process(port: int, rate: int) -> None:
    """Be the process of the registering clients."""
    uvloop.run(register(port, rate))


@app.command()
def main(
    *,
    rate: Annotated[int, typer.Option(min=1, help="Registrations per second.")] = 200,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of clients that relay.")] = 50,
    in_flight: Annotated[int, typer.Option(min=1, help="Offers on their way per pair.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one measurement.")] = 4.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured; medians are shown.")] = 5,
    json_target: Annotated[str | None, typer.Option("--json", metavar="FILE", help="- is stdout.")] = None,
) -> None:
    """Measure the relay alone and beside registrations that are written to SQLite."""
    end_on_sigterm()
    server_core, load_core = cores()
    plan = Plan((SERVICE,), (in_flight,), pairs, seconds, rounds)
    everyone = {name: TOKEN for pair in client_ids(pairs) for name in pair} | dict.fromkeys(names(), TOKEN)
    alone: list[Measurement] = []
    beside: list[Measurement] = []
    with service(everyone, core=server_core, storage="sqlite") as server:
        with registering(server, rate, load_core):
            share = cpu_share(server, seconds)
        for _ in range(rounds):
            alone.append(measure(server, plan, in_flight, load_core))
            with registering(server, rate, load_core):
                beside.append(measure(server, plan, in_flight, load_core))
    table = Table(box=SIMPLE_HEAD, title=f"Relaying, {pairs} pairs, {in_flight} in flight: medians of {rounds}")
    for column in ("", "messages/s", "CPU µs", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right" if column else "left")
    for title, taken in (("alone", alone), (f"beside {rate} registrations/s", beside)):
        values = [
            median(getattr(each, field) for each in taken)
            for field in ("messages_per_second", "cpu_us_per_message", "p50_ms", "p99_ms")
        ]
        table.add_row(title, f"{values[0]:,.0f}", *(f"{value:.2f}" for value in values[1:]))
    kept = median(each.messages_per_second for each in beside) / median(each.messages_per_second for each in alone)
    if json_target != "-":
        Console().print(table)
        Console().print(
            f"beside registrations the relay carries {kept:.3f} of what it carries alone (bar {BAR}: "
            f"{'within' if kept >= BAR else 'over'}); the registrations by themselves take {share:.1%} of a core",
            highlight=False,
        )
    if json_target is not None:
        results = {"machine": machine(), "registrations_cpu_share": share, "kept": kept}
        write_json(results | {"alone": [*map(asdict, alone)], "beside": [*map(asdict, beside)]}, json_target)


if __name__ == "__main__":
    app()
