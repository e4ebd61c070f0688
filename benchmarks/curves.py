"""Does anything get dearer as a service grows? CPU per operation against connections, rooms, clients, nodes, metrics.

All points of a curve run at the same time and one process loads them in turn, slice by slice (`curve_load.py`). Each
slice is compared with the one of the smallest point in the same round, so that a busy machine hits both.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import idle, storage
from benchmarks.bus import nodes
from benchmarks.connections import OTHER_FILES, idle_clients, raise_file_limit
from benchmarks.curve_load import MEMBERS, member
from benchmarks.load import TOKEN, client_ids
from benchmarks.pictures import picture
from benchmarks.processes import ROOT, MeasurementError, child_processes, cores, end_on_sigterm, free_port
from benchmarks.results import Spread, machine, write_json
from benchmarks.servers import Server, nats_server, service
from benchmarks.turns import start_load
from signal_manager.storage.sqlite.adapter import SqliteStorage

__all__ = ["CURVES", "Curve", "Series", "app"]

# How much dearer an operation may be at any point than at the smallest one.
FLAT = 0.20

PAIRS = 50
PAIRS_ON_A_NODE = 25
# Thousands of clients connect before the first round (s).
SETUP_LIMIT = 300.0
PICTURES = ROOT / "docs/curves"

# A series with its points: by label, what `curve_load.py` is to do there.
Orders = dict[str, dict[str, dict[str, Any]]]

STORED_TOKEN = "a token"  # of the records that `storage.record` makes


@dataclass(frozen=True)
class Series:
    """What one operation cost at each point: CPU µs, and as a part of the smallest point's in the same round."""

    name: str
    cpu_us: dict[str, float]
    ratios: dict[str, Spread]
    reason: str

    @classmethod
    def of(cls, name: str, taken: Mapping[str, list[float]], reason: str) -> Series:
        """Return it for the costs of all rounds by point, the smallest first."""
        base = next(iter(taken.values()))
        return cls(
            name,
            {label: median(costs) for label, costs in taken.items()},
            {
                label: Spread.of([cost / least for cost, least in zip(costs, base, strict=True)])
                for label, costs in taken.items()
            },
            reason,
        )

    @property
    def is_flat(self) -> bool:
        """Whether no point is dearer than the bar allows."""
        return all(ratio.median <= 1 + FLAT for ratio in self.ratios.values())

    @property
    def verdict(self) -> str:
        """Return whether it is flat, and why not, in words."""
        return "flat" if self.is_flat else f"not flat: {self.reason or 'no reason is known'}"


@dataclass(frozen=True)
class Curve:
    """One question: `run` starts the servers for all points and says what is to be done there."""

    title: str
    axis: str
    sizes: tuple[int, ...]
    run: Callable[[ExitStack, tuple[int, ...]], Orders]
    # By series, why it may cost more at some point.
    reasons: Mapping[str, str]


def _connections(stack: ExitStack, sizes: tuple[int, ...]) -> Orders:
    points = {}
    for size in sizes:
        waiting = max(0, size - 2 * PAIRS)
        tokens = _pair_tokens(PAIRS) | {idle.client_id(number): idle.TOKEN for number in range(waiting)}
        server = stack.enter_context(service(tokens, core=cores()[0]))
        if waiting:
            stack.enter_context(idle_clients(server, waiting))
        points[f"{size:,}"] = _relay([server], PAIRS)
    return {"relayed offer": points}


def _metrics(stack: ExitStack, _sizes: tuple[int, ...]) -> Orders:
    tokens, scraped_port = _pair_tokens(PAIRS), free_port()
    ports = {"off": None, "on": 0, "on, read each second": scraped_port}
    servers = {
        label: stack.enter_context(service(tokens, core=cores()[0], metrics_port=port)) for label, port in ports.items()
    }
    points = {label: _relay([server], PAIRS) for label, server in servers.items()}
    points["on, read each second"]["scraped"] = scraped_port
    return {"relayed offer": points}


def _rooms(stack: ExitStack, sizes: tuple[int, ...]) -> Orders:
    series: Orders = {"message to a room": {}, "room event": {}}
    for size in sizes:
        tokens = {member(room, number): TOKEN for room in range(size) for number in range(MEMBERS)}
        server = stack.enter_context(service(tokens, core=cores()[0]))
        point = {"port": server.port, "pids": _pids(server), "size": size}
        series["message to a room"][f"{size:,}"] = point | {"kind": "message"}
        series["room event"][f"{size:,}"] = point | {"kind": "event"}
    return series


def _stored(stack: ExitStack, sizes: tuple[int, ...]) -> Orders:
    series: Orders = {"REGISTER": {}, "CONNECT": {}, "page of a list": {}}
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="signal-manager-bench-")))
    for size in sizes:
        database, admin_port = folder / f"{size}.db", free_port()
        asyncio.run(_fill(database, size))
        server = stack.enter_context(
            service(
                {},
                core=cores()[0],
                storage="sqlite",
                database=database,
                auth_method="store",
                metrics_port=admin_port,
            )
        )
        point = {"port": server.port, "admin_port": admin_port, "pids": _pids(server), "size": size}
        for name, kind in zip(series, ("register", "connect", "list"), strict=True):
            series[name][f"{size:,}"] = point | {"kind": kind}
    return series


async def _fill(database: Path, clients: int) -> None:
    async with SqliteStorage(path=database):
        storage.fill(database, clients)


def _nodes(stack: ExitStack, sizes: tuple[int, ...]) -> Orders:
    series: Orders = {"on the same node": {}, "to another node": {}}
    server_core, load_core = cores()
    for size in sizes:
        tokens = _pair_tokens(size * PAIRS_ON_A_NODE)
        nats = stack.enter_context(nats_server(core=load_core))
        group = stack.enter_context(nodes(size, tokens, core=server_core, nats=nats))
        series["on the same node"][str(size)] = _relay(group, PAIRS_ON_A_NODE)
        if size > 1:
            series["to another node"][str(size)] = _relay(group, PAIRS_ON_A_NODE, apart=1)
    return series


def _relay(servers: list[Server], pairs: int, *, apart: int = 0) -> dict[str, Any]:
    """Return the order for so many pairs on each server; the second of a pair is so many servers further on."""
    ports = [server.port for server in servers]
    places = [(port, ports[(number + apart) % len(ports)]) for number, port in enumerate(ports) for _ in range(pairs)]
    return {"kind": "relay", "places": places, "in_flight": 1, "pids": [*itertools.chain(*map(_pids, servers))]}


def _pair_tokens(pairs: int) -> dict[str, str]:
    return {client_id: TOKEN for pair in client_ids(pairs) for client_id in pair}


def _pids(server: Server) -> list[int]:
    return [server.pid, *child_processes(server.pid)]


CURVES = {
    "connections": Curve("A relayed offer, by connections", "connections", (100, 1_000, 10_000), _connections, {}),
    "rooms": Curve(
        "A message and an event in a room, by rooms",
        "rooms of 3",
        (1, 10, 100, 1_000),
        _rooms,
        {
            "room event": "each change meets another room, cold in the processor's caches; it grows no more beyond 100",
        },
    ),
    "clients": Curve(
        "What asks the store, by stored clients", "clients in SQLite", (100, 1_000, 10_000, 100_000), _stored, {}
    ),
    "nodes": Curve("A relayed offer, by nodes", "nodes", (1, 2, 3), _nodes, {}),
    "metrics": Curve("A relayed offer, with metrics off and on", "metrics", (0, 1, 2), _metrics, {}),
}


def take(curve: Curve, *, sizes: tuple[int, ...], rounds: int, seconds: float) -> list[Series]:
    """Measure one curve.

    Raises:
        MeasurementError: a server did not start, or did not do what it must.
    """
    with ExitStack() as stack:
        series = []
        for name, points in curve.run(stack, sizes).items():
            token = STORED_TOKEN if curve.run is _stored else TOKEN
            order = {"lines": list(points), "points": list(points.values()), "token": token}
            order |= {"turns": rounds, "rounds": rounds, "seconds": seconds}
            costs = start_load("benchmarks.curve_load", order, core=cores()[1], setup=SETUP_LIMIT)
            series.append(Series.of(name, dict(zip(points, costs, strict=True)), curve.reasons.get(name, "")))
        return series


def _table(curve: Curve, taken: list[Series], rounds: int) -> Table:
    table = Table(
        title=f"{curve.title}: medians (and quarters) of {rounds} rounds", title_justify="left", box=SIMPLE_HEAD
    )
    for column in ("operation", curve.axis, "CPU µs", "of the smallest"):
        table.add_column(column, justify="left" if column == "operation" else "right", no_wrap=True)
    for series in taken:
        for label, ratio in series.ratios.items():
            table.add_row(series.name, label, f"{series.cpu_us[label]:,.1f}", ratio.text(".2f"))
        table.add_section()
    return table


def draw(curve: Curve, taken: list[Series]) -> str:
    """Return the picture of a curve."""
    labels = dict.fromkeys(label for series in taken for label in series.ratios)
    shown = {series.name: {label: ratio.median for label, ratio in series.ratios.items()} for series in taken}
    return picture(f"{curve.title} (CPU, as a part of the smallest)", curve.axis, list(labels), shown, FLAT)


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks.curves --only connections --rounds 10")
def main(
    *,
    only: Annotated[
        list[str] | None, typer.Option(metavar="|".join(CURVES), help="Take only this curve; may be repeated.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Slices that each point gets.")] = 30,
    seconds: Annotated[float, typer.Option(min=0.05, help="Seconds that one slice takes.")] = 0.3,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two rounds of each curve's two smallest points: a smoke run.")
    ] = False,
    pictures: Annotated[
        bool, typer.Option("--draw", help="Write the pictures of the curves that are taken into docs/curves.")
    ] = False,
    folder: Annotated[Path, typer.Option(help="Where --draw writes.")] = PICTURES,
    json_target: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="File to write the results to as JSON; - is standard output."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with status 1 if a curve is not flat and no reason is known.")
    ] = False,
) -> None:
    """Measure what an operation costs as the service grows; each curve is to be flat within 20 %, or says why not.

    CPU is that of all the service's processes for one operation: an offer of 1.2 KB that is relayed, a message of
    1.2 KB or a change in a room of three, a REGISTER, a connection with its CONNECT, a page of 20 clients.
    """
    unknown = set(only or ()) - set(CURVES)
    if unknown:
        raise typer.BadParameter(f"expected one of {', '.join(CURVES)}, got {', '.join(sorted(unknown))}")
    end_on_sigterm()
    screen = Console(stderr=True, highlight=False)
    most = raise_file_limit() - OTHER_FILES
    results: dict[str, list[Series]] = {}
    for name in only or CURVES:
        curve = CURVES[name]
        sizes = tuple(size for size in curve.sizes[: 2 if quick else None] if name != "connections" or size <= most)
        if name == "connections" and len(sizes) < len(curve.sizes) and not quick:
            screen.print(f"the limit on open files allows {most:,} connections: larger points are left out")
        try:
            taken = take(curve, sizes=sizes, rounds=2 if quick else rounds, seconds=seconds)
        except MeasurementError as error:
            screen.print(f"{name}: {error}", style="red", markup=False)
            raise typer.Exit(1) from error
        results[name] = taken
        if json_target != "-":
            Console(width=120).print(_table(curve, taken, 2 if quick else rounds))
            for series in taken:
                Console(highlight=False, width=120).print(f"{series.name}: {series.verdict}", markup=False)
        if pictures:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.svg").write_text(draw(curve, taken))
    if json_target is not None:
        write_json({"benchmark": "curves", "machine": machine(), "curves": _plain(results)}, json_target)
    if check and any(not each.is_flat and not each.reason for taken in results.values() for each in taken):
        raise typer.Exit(1)


def _plain(results: Mapping[str, list[Series]]) -> dict[str, Any]:
    return {
        name: {
            series.name: {
                "cpu_us": series.cpu_us,
                "ratios": {label: ratio._asdict() for label, ratio in series.ratios.items()},
                "is_flat": series.is_flat,
                "verdict": series.verdict,
            }
            for series in taken
        }
        for name, taken in results.items()
    }


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.curves")
