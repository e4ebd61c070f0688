"""What does it cost when clients are on different nodes? Two nodes and a nats-server against one node alone.

All nodes run at the same time, and one process has the clients of every arrangement and loads these in turn, slice by
slice (`turns.py`). Each slice is compared with the one of the same turn whose clients are on one node.

Where there are two cores, all nodes share one, and the load and nats-server the other: one worker and two are then
disturbed by the same things, and never by the load. Messages per second are what that one core relays in either case.
What two workers could relay on a core each follows from CPU time: twice what one worker spends on a message, by what
two together spend on it. What cores take from each other, in caches and memory, is not in it.

Latency is measured apart, with one offer on its way between two nodes of their own and nothing pinned: nodes that share
a core would wait for each other, or be spared from waking another core up.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import typer
import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.load import TOKEN, Client, Load, client_ids, connect, percentile
from benchmarks.processes import MeasurementError, child_processes, cores, cpu_seconds, end_on_sigterm, resident_bytes
from benchmarks.results import Spread, machine, write_json
from benchmarks.servers import Server, nats_server, service
from benchmarks.turns import Line, Slice, be_the_load, paired, start_load, take_turns
from signal_manager.bus.nats.bus import NatsBus
from signal_manager.model import ClientId, NodeId
from signal_manager.testing.bus import Phone

__all__ = ["RATIOS", "Taken", "app"]

# What the project asks of itself: two workers against one, and latency over nodes against latency on one.
WORKERS_BAR = 1.6
LATENCY_BAR = 4.0

# Pairs by where their two clients are: nodes by place.
TOGETHER, BY_CHANCE, APART = "together", "by chance", "apart"
_PLACES = {TOGETHER: [(0, 0), (1, 1)], BY_CHANCE: [(0, 0), (0, 1), (1, 0), (1, 1)], APART: [(0, 1), (1, 0)]}

_SUBJECTS = 10_000


@dataclass(frozen=True)
class Taken:
    """What was measured of one arrangement; latencies are in ms, over all of its slices."""

    slices: list[Slice]
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


class Ratio(NamedTuple):
    """A figure of two arrangements in the same turn, and the project's bar for it: a least or a most it may be."""

    title: str
    control: str
    other: str
    figure: Callable[[Slice, Slice], float]
    least: float | None = None
    most: float | None = None

    def of(self, taken: Mapping[str, Taken]) -> Spread:
        """Return its spread over all turns."""
        return paired(taken[self.control].slices, taken[self.other].slices, self.figure)

    def verdict(self, ratio: float) -> str:
        """Return on which side of the bar the ratio lies, in brackets, or "" without a bar."""
        if self.least is not None:
            return f" ({'within' if ratio >= self.least else 'under'} the bar of {self.least})"
        if self.most is not None:
            return f" ({'within' if ratio <= self.most else 'over'} the bar of {self.most})"
        return ""


RATIOS = (
    Ratio(
        "messages/s of two workers, measured",
        "one",
        "two by chance",
        lambda one, two: two.messages_per_second / one.messages_per_second,
    ),
    Ratio(
        "messages/s of two workers on two cores, NATS elsewhere (by CPU)",
        "one",
        "two by chance",
        lambda one, two: 2 * one.cpu_us / two.cpu_us,
        least=WORKERS_BAR,
    ),
    Ratio(
        "messages/s of two workers and NATS on two cores (by CPU)",
        "one",
        "two by chance",
        lambda one, two: 2 * one.cpu_us / (two.cpu_us + two.nats_cpu_us),
    ),
    Ratio("p50 over nodes", "near", "far", lambda near, far: far.p50_ms / near.p50_ms, most=LATENCY_BAR),
)


@contextmanager
def nodes(
    count: int, tokens: Mapping[str, str], *, core: int | None = None, nats: Server | None = None
) -> Iterator[list[Server]]:
    """Run nodes of one service while the block lasts; without a NATS there can only be one."""
    with TemporaryDirectory(prefix="signal-manager-bench-") as folder, ExitStack() as stack:
        database, nats_port = Path(folder) / "shared.db", None if nats is None else nats.port
        yield [
            stack.enter_context(service(tokens, core=core, storage="sqlite", database=database, nats_port=nats_port))
            for _ in range(count)
        ]


def take_throughput(*, pairs: int, in_flight: int, seconds: float, turns: int) -> dict[str, Taken]:
    """Measure what relaying costs one node, and two with their clients in various places.

    Raises:
        MeasurementError: a server did not start, or did not relay as it must.
    """
    node_core, other_core = cores()
    tokens = _tokens(4 * pairs)
    with (
        nats_server(core=other_core) as nats,
        nodes(1, tokens, core=node_core) as alone,
        nodes(2, tokens, core=node_core, nats=nats) as two,
    ):
        # Those that the bar compares are neighbours: least time passes between their slices.
        arrangements = {
            "one": (alone, TOGETHER),
            "two by chance": (two, BY_CHANCE),
            "two together": (two, TOGETHER),
            "two apart": (two, APART),
        }
        order = {"pairs": pairs, "in_flight": in_flight, "seconds": seconds, "turns": turns}
        return _take(arrangements, nats, order, core=other_core)


def take_latency(*, seconds: float, turns: int) -> tuple[dict[str, Taken], Subjects]:
    """Measure one offer at a time, between clients of one node and of two; and what a client's subject costs.

    Raises:
        MeasurementError: a server did not start, or did not relay as it must.
    """
    with nats_server() as nats, nodes(2, _tokens(2), nats=nats) as two:
        order = {"pairs": 1, "in_flight": 1, "seconds": seconds, "turns": turns}
        taken = _take({"near": (two, TOGETHER), "far": (two, APART)}, nats, order, core=None)
        return taken, uvloop.run(measure_subjects(nats.pid, nats.port))


def _tokens(pairs: int) -> dict[str, str]:
    return {client_id: TOKEN for pair in client_ids(pairs) for client_id in pair}


def _take(
    arrangements: Mapping[str, tuple[Sequence[Server], str]], nats: Server, order: dict[str, Any], *, core: int | None
) -> dict[str, Taken]:
    order["nats_pid"] = nats.pid
    order["lines"] = [
        {
            "ports": [server.port for server in servers],
            "pids": [pid for server in servers for pid in (server.pid, *child_processes(server.pid))],
            "peers": peers,
        }
        for servers, peers in arrangements.values()
    ]
    lines = start_load("benchmarks.bus", order, core=core)
    return {
        name: Taken(slices=[Slice(**each) for each in line.pop("slices")], **line)
        for name, line in zip(arrangements, lines, strict=True)
    }


async def _load(order: dict[str, Any]) -> list[dict[str, Any]]:
    pairs = order["pairs"]
    # All arrangements are connected at the same time, so that each has clients of its own.
    ids = client_ids(len(order["lines"]) * pairs)
    lines = []
    for number, line in enumerate(order["lines"]):
        load = Load()
        clients = await _placed(load, ids[number * pairs : (number + 1) * pairs], line["ports"], line["peers"])
        lines.append(Line(load, clients, order["in_flight"], line["pids"], order["nats_pid"]))
    await take_turns(lines, turns=order["turns"], seconds=order["seconds"])
    return [asdict(_taken(line)) for line in lines]


async def _placed(load: Load, ids: Sequence[tuple[str, str]], ports: Sequence[int], peers: str) -> list[Client]:
    clients = []
    for number, (a, b) in enumerate(ids):
        places = _PLACES[peers][number % len(_PLACES[peers])]
        for own_and_peer, place in zip(((a, b), (b, a)), places, strict=True):
            clients.append(Client(load, *own_and_peer, resumable=False))
            await connect(load, clients[-1], ports[place % len(ports)])
    return clients


def _taken(line: Line) -> Taken:
    ordered = sorted(line.latencies)
    return Taken(line.slices, p50_ms=percentile(ordered, 0.50) * 1e3, p99_ms=percentile(ordered, 0.99) * 1e3)


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


def table_of(taken: Mapping[str, Taken], load: str) -> Table:
    """Return the figures of one load, CPU µs per message; the first arrangement is the control."""
    control, *_ = taken
    title = f"{load} in flight: medians (and quarters) of {len(taken[control].slices)} turns"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    for column in ("clients", "nodes µs", f"of {control}", "nats µs", "messages/s", "load %", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "clients" else "right", no_wrap=True)
    for name, each in taken.items():
        cost = paired(taken[control].slices, each.slices, lambda ours, theirs: theirs.cpu_us / ours.cpu_us)
        table.add_row(
            name,
            f"{median(one.cpu_us for one in each.slices):.1f}",
            "" if name == control else cost.text(".2f"),
            f"{median(one.nats_cpu_us for one in each.slices):.1f}",
            f"{median(one.messages_per_second for one in each.slices):,.0f}",
            f"{median(one.load_cpu for one in each.slices):.0%}"[:-1],
            f"{each.p50_ms:.3f}",
            f"{each.p99_ms:.3f}",
        )
    return table


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(name="run", epilog="Example: python -m benchmarks.bus run --turns 10")
def main(
    *,
    pairs: Annotated[int, typer.Option(min=4, help="Pairs of clients.")] = 40,
    in_flight: Annotated[int, typer.Option(min=1, help="Offers under way in each pair.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.05, help="Seconds that one slice takes.")] = 0.2,
    turns: Annotated[int, typer.Option(min=1, help="Slices that each arrangement gets.")] = 40,
    json_target: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="File to write the results to as JSON; - is standard output."),
    ] = None,
) -> None:
    """Measure what relaying costs between two nodes, and compare it with one node."""
    end_on_sigterm()
    try:
        throughput = take_throughput(pairs=pairs, in_flight=in_flight, seconds=seconds, turns=turns)
        latency, subjects = take_latency(seconds=seconds, turns=turns)
    except MeasurementError as error:
        Console(stderr=True).print(str(error), style="red", highlight=False, markup=False)
        raise typer.Exit(1) from error
    taken = throughput | latency
    ratios = {ratio: ratio.of(taken) for ratio in RATIOS}
    if json_target != "-":
        console = Console(width=110)
        console.print(table_of(throughput, f"{pairs} pairs, {in_flight}"))
        console.print(table_of(latency, "1 pair, 1"))
        for ratio, spread in ratios.items():
            line = f"{ratio.title}: {spread.text('.2f')} times that of one{ratio.verdict(spread.median)}"
            console.print(line, highlight=False, soft_wrap=True)
        console.print(f"each client: {asdict(subjects)}", highlight=False, soft_wrap=True)
    if json_target is not None:
        results = {
            "benchmark": "bus",
            "machine": machine(),
            "arrangements": {name: asdict(each) for name, each in taken.items()},
            "ratios": {ratio.title: spread._asdict() for ratio, spread in ratios.items()},
            "subjects": asdict(subjects),
        }
        write_json(results, json_target)


@app.command(hidden=True)
def load(order: str) -> None:
    """Be the load: the process that `run` starts."""
    be_the_load(_load(json.loads(order)))


if __name__ == "__main__":
    app()
