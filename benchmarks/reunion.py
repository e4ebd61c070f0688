"""What does a reunion cost? All clients of a service that was killed, or drained, come back at once.

First the steps of a connect, one by one: the service's CPU time for clients that stop after the TCP handshake, after
TLS, after the upgrade, and after CONNECT with a static key, with a signed token, and into a session that resumes. Each
is the median of the rounds; a step is what it adds to the one before it.

Then the storm: the service is killed, or told to stop, and started again. All clients come back at once while others
talk over it. `reunion_load.py` has the clients; they run at a lower priority than those who talk.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.certificates import self_signed
from benchmarks.connections import OTHER_FILES, raise_file_limit
from benchmarks.processes import (
    MeasurementError,
    cores,
    cpu_seconds,
    end_on_sigterm,
    said,
    speaking,
)
from benchmarks.results import machine, write_json
from benchmarks.reunion_load import KEY, SECRET, TALKERS, caller, talker
from benchmarks.servers import Server, service
from signal_manager.gateway.limits import STRANGERS

__all__ = ["Cost", "Storm", "app", "costs", "storm"]

# The service's CPU per connect (us), connects/s, and the relay's p99 meanwhile (ms).
BARS = {"key": 120.0, "token": 150.0, "resume": 220.0}
BAR_RATE = 4000.0
BAR_P99 = 25.0

# A step that ends before CONNECT leaves strangers, of whom the service holds no more than STRANGERS.
SHORT = STRANGERS - 100
# The module of the clients.
LOAD = "benchmarks.reunion_load"
# CPU is read when the last connection is quiet.
SETTLE = 0.5


class Case(NamedTuple):
    """How far clients go, and what they bring."""

    name: str
    plan: dict[str, Any]


CASES = (
    Case("accept", {"until": "accept"}),
    Case("tls", {"until": "tls", "is_secure": True}),
    Case("upgrade", {"until": "upgrade"}),
    Case("key", {}),
    Case("token", {"is_signed": True}),
    Case("resumable", {"is_resumable": True, "is_signed": True}),
    Case("resume", {"is_resumable": True, "is_signed": True}),
)

_TITLES = {
    "accept": "TCP",
    "tls": "TCP, TLS",
    "upgrade": "TCP, upgrade",
    "key": "CONNECT with a static key",
    "token": "CONNECT with a signed token",
    "resumable": "the same, resumable",
    "resume": "the same, into its session",
}


@dataclass(frozen=True)
class Cost:
    """The service's CPU time for one client that goes so far (us), over the rounds."""

    name: str
    cpu_us: float
    least: float
    most: float
    connects_per_second: float


@dataclass(frozen=True)
class Storm:
    """A reunion: `last_served` counts from the service's start to listen (s); latencies in ms."""

    end: str
    is_secure: bool
    clients: int
    resumed: int
    again: int
    last_served: float
    connects_per_second: float
    cpu_us: float
    load_cpu_us: float
    p50: float
    p99: float
    longest: float


class Load:
    """A process of callers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def do(self, **order: Any) -> dict[str, Any]:
        """Give an order and return what came of it."""
        self.ask(**order)
        return self.answer()

    def ask(self, **order: Any) -> None:
        """Give an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Return what the process says next."""
        return said(self._process)


class Place:
    """Where the service runs: a port, a database and a certificate that outlive it."""

    def __init__(self, directory: Path, clients: int) -> None:
        self.port = _lasting_port()
        self._directory = directory
        self._tokens = {caller(number): KEY for number in range(clients)} | {
            talker(number): KEY for number in range(TALKERS)
        }
        self._certificate = self_signed(directory)

    @contextmanager
    def serving(self, *, is_secure: bool) -> Iterator[Server]:
        """Run the service while the block lasts."""
        with service(
            self._tokens,
            core=cores()[0],
            storage="sqlite",
            database=self._directory / "reunion.db",
            port=self.port,
            token_secret=SECRET,
            certificate=self._certificate if is_secure else None,
        ) as server:
            yield server


def _lasting_port() -> int:
    """Return a port that no client takes for its own end while nobody listens there."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        lowest = int(file.read().split()[0])
    while True:
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", random.randrange(10_000, lowest)))
            except OSError:
                continue
            port: int = sock.getsockname()[1]
            return port


def costs(clients: int, rounds: int, report: Callable[[str], None]) -> list[Cost]:
    """Measure the steps of a connect."""
    taken: dict[str, list[tuple[float, float]]] = {case.name: [] for case in CASES}
    with (
        TemporaryDirectory(prefix="signal-manager-bench-") as directory,
        speaking(LOAD, "--callers", str(clients)) as process,
    ):
        load = Load(process)
        load.answer()
        place = Place(Path(directory), clients)
        for is_secure in (False, True):
            with place.serving(is_secure=is_secure) as server:
                time.sleep(2 * SETTLE)
                for number in range(rounds):
                    report(f"steps of a connect{' with TLS' if is_secure else ''}, round {number + 1} of {rounds}")
                    for case in CASES:
                        if ("is_secure" in case.plan) is is_secure:
                            taken[case.name].append(_taken(server, load, case, clients))
    return [
        Cost(
            name,
            median(cpu for cpu, _ in figures),
            min(cpu for cpu, _ in figures),
            max(cpu for cpu, _ in figures),
            median(rate for _, rate in figures),
        )
        for name, figures in taken.items()
    ]


def _taken(server: Server, load: Load, case: Case, clients: int) -> tuple[float, float]:
    """Let clients come as far as the case says, and return the CPU time for each (us) and how many come in a second."""
    count = min(clients, SHORT) if "until" in case.plan else clients
    before = cpu_seconds(server.pid)
    facts = load.do(port=server.port, count=count, at_once=64, **case.plan)
    time.sleep(SETTLE)
    used = cpu_seconds(server.pid) - before
    load.do(drop=True)
    time.sleep(SETTLE)
    if case.name == "resume" and facts["resumed"] < count:
        raise MeasurementError(f"{facts['resumed']} of {count} sessions resumed, expected all")
    return used / count * 1e6, count / facts["seconds"]


def storm(clients: int, *, end: str, is_secure: bool, report: Callable[[str], None]) -> Storm:
    """End a service that `clients` are connected to, start it again, and watch them come back.

    Args:
        end: "killed" (SIGKILL) or "drained" (SIGTERM).
    """
    report(f"{clients:,} clients of a service that is {end}{', with TLS' if is_secure else ''}")
    plan = {
        "port": 0,
        "count": clients,
        "at_once": 64,
        "is_secure": is_secure,
        "is_signed": True,
        "is_resumable": True,
    }
    with TemporaryDirectory(prefix="signal-manager-bench-") as directory, ExitStack() as stack:
        load = Load(stack.enter_context(speaking(LOAD, "--callers", str(clients))))
        load.answer()
        place = Place(Path(directory), clients)
        plan["port"] = place.port
        with place.serving(is_secure=is_secure) as server:
            load.do(**plan)
            os.kill(server.pid, signal.SIGKILL if end == "killed" else signal.SIGTERM)
            time.sleep(1.0)
        load.do(drop=True)
        talking = None if is_secure else stack.enter_context(speaking(LOAD, "--talk-on", str(place.port)))
        with place.serving(is_secure=is_secure) as server:
            before = cpu_seconds(server.pid)
            if talking is not None:
                said(talking)
                before = cpu_seconds(server.pid)
            load.ask(**plan | {"at_once": clients})
            facts = load.answer()
            used = cpu_seconds(server.pid) - before
            latencies = _latencies(talking) if talking is not None else []
        return Storm(
            end=end,
            is_secure=is_secure,
            clients=clients,
            resumed=facts["resumed"],
            again=facts["again"],
            last_served=max(facts["served"]),
            connects_per_second=clients / facts["seconds"],
            cpu_us=used / clients * 1e6,
            load_cpu_us=facts["cpu"] / clients * 1e6,
            p50=_percentile(latencies, 50),
            p99=_percentile(latencies, 99),
            longest=max(latencies, default=0.0) * 1e3,
        )


def _latencies(talking: subprocess.Popen[str]) -> list[float]:
    assert talking.stdin is not None
    talking.stdin.write("\n")
    talking.stdin.flush()
    facts = said(talking)
    latencies: list[float] = facts["latencies"]
    if len(latencies) < facts["sent"]:
        raise MeasurementError(f"{len(latencies)} of {facts['sent']} offers arrived, expected all")
    return latencies


def _percentile(latencies: list[float], percent: int) -> float:
    if len(latencies) < 2:
        return 0.0
    return quantiles(latencies, n=100, method="inclusive")[percent - 1] * 1e3


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _costs_table(figures: Sequence[Cost]) -> Table:
    table = _table(
        "The service's CPU for one client that comes so far", ("up to", "CPU us", "(rounds)", "per s", "bar")
    )
    for cost in figures:
        bar = BARS.get(cost.name)
        held = "" if bar is None else f"<= {bar:g} {'within' if cost.cpu_us <= bar else 'over'}"
        table.add_row(
            _TITLES[cost.name],
            f"{cost.cpu_us:.0f}",
            f"({cost.least:.0f}-{cost.most:.0f})",
            f"{cost.connects_per_second:,.0f}",
            held,
        )
    return table


def _storms_table(storms: Sequence[Storm]) -> Table:
    table = _table(
        "All clients come back at once",
        (
            "service was",
            "clients",
            "resumed",
            "tried again",
            "last served s",
            "per s",
            "CPU us",
            "load's",
            "relay p50 ms",
            "p99",
            "longest",
        ),
    )
    for each in storms:
        table.add_row(
            each.end + (", TLS" if each.is_secure else ""),
            f"{each.clients:,}",
            f"{each.resumed:,}",
            f"{each.again:,}",
            f"{each.last_served:.2f}",
            f"{each.connects_per_second:,.0f}",
            f"{each.cpu_us:.0f}",
            f"{each.load_cpu_us:.0f}",
            *((f"{each.p50:.1f}", f"{each.p99:.1f}", f"{each.longest:.0f}") if each.p99 else ("", "", "")),
        )
    return table


def _missed(figures: Sequence[Cost], storms: Sequence[Storm]) -> list[str]:
    """Return the bars that are missed."""
    missed = [f"{each.name}: {each.cpu_us:.0f} us" for each in figures if each.cpu_us > BARS.get(each.name, math.inf)]
    missed += [
        f"key: {each.connects_per_second:,.0f} connects/s"
        for each in figures
        if each.name == "key" and each.cpu_us > 1e6 / BAR_RATE
    ]
    return missed + [f"{each.end}: relay p99 {each.p99:.0f} ms" for each in storms if each.p99 > BAR_P99]


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.reunion -n 1000 --rounds 3 --check")
def main(
    *,
    clients: Annotated[
        list[int] | None,
        typer.Option("--clients", "-n", min=10, help="Clients; may be repeated. [default: 1000, 10000]"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each step; medians are shown.")] = 5,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 1 if a bar is missed.")] = False,
    json_target: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="File to write the results to as JSON; - is standard output, without the tables.",
        ),
    ] = None,
) -> None:
    """Measure what it takes until all clients of a service that ended are back.

    Prints the service's CPU time for each step of a connect, and how long the last client waits when all come at once,
    with what their messages meanwhile take. The smallest number of clients measures the steps.
    """
    end_on_sigterm()
    screen = Console(stderr=True, highlight=False)
    most = raise_file_limit() - OTHER_FILES - TALKERS
    numbers = sorted({min(each, most) for each in clients or (1000, 10_000)})
    try:
        figures = costs(numbers[0], rounds, screen.print)
        storms = [
            storm(number, end=end, is_secure=is_secure, report=screen.print)
            for number in numbers
            for end in ("killed", "drained")
            for is_secure in (False, True)
        ]
    except MeasurementError as error:
        screen.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from error
    if json_target is not None:
        write_json(
            {
                "benchmark": "reunion",
                "machine": machine(),
                "costs": [asdict(each) for each in figures],
                "storms": [asdict(each) for each in storms],
            },
            json_target,
        )
    if json_target != "-":
        Console().print(_costs_table(figures), _storms_table(storms), sep="\n")
    missed = _missed(figures, storms)
    if check and missed:
        screen.print("missed: " + "; ".join(missed), style="red", markup=False)
        raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.reunion")
