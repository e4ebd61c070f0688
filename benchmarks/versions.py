"""What has this version made of the relay's cost? It and an earlier one side by side, sessions that resume or not.

A machine swings by more than two versions differ, but hardly from one fifth of a second to the next. So all services
run at the same time and one process loads them in turn, slice by slice. Each slice is compared with the one of the
earlier version in the same turn, and the median of many such pairs is the figure, shown with the quarter of them below
and above it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, Any

import typer
import uvloop
from picows import WSError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.load import TOKEN, Client, Load, LoadError, client_ids, close, connected, drain, run, start
from benchmarks.processes import ROOT, MeasurementError, cores, cpu_seconds, end_on_sigterm, pinned
from benchmarks.results import Spread, machine, write_json
from benchmarks.servers import service

__all__ = ["Slice", "app", "ratios", "tree_of"]

# What the relay may cost with sessions that can be resumed, as a part of what it cost before there were any.
BAR = 1.15
BEFORE_RESUME = "c299f78"

# What one slice has caused must not be counted in the next one (s).
PAUSE = 0.05
LOAD_LIMIT = 60.0


@dataclass(frozen=True)
class Slice:
    """What happened in one slice; times are in seconds, CPU times in µs per relayed message."""

    seconds: float
    messages: int
    cpu_us: float
    load_cpu: float


def ratios(earlier: list[Slice], later: list[Slice]) -> Spread:
    """Return what messages cost in slices as a part of what they cost in the earlier version's of the same turn."""
    return Spread.of([ours.cpu_us / theirs.cpu_us for theirs, ours in zip(earlier, later, strict=True)])


@contextmanager
def tree_of(revision: str) -> Iterator[Path]:
    """Check a revision out while the block lasts.

    Raises:
        MeasurementError: git does not know it, or is not there.
    """
    if shutil.which("git") is None:
        raise MeasurementError("there is no git on the PATH, which has the earlier revision")
    with TemporaryDirectory(prefix="signal-manager-bench-") as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        added = subprocess.run(
            [*git, "add", "--detach", str(tree), revision], capture_output=True, text=True, check=False
        )
        if added.returncode:
            raise MeasurementError(f"no such revision: {added.stderr.strip().splitlines()[-1]}")
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], capture_output=True, check=False)


def take(tree: Path, *, pairs: int, in_flight: int, seconds: float, turns: int) -> dict[str, list[Slice]]:
    """Measure the service of `tree`, and this one without and with resumable clients.

    Raises:
        MeasurementError: a service did not start, or did not relay as it must.
    """
    tokens = {client_id: TOKEN for pair in client_ids(pairs) for client_id in pair}
    server_core, load_core = cores()
    names = ("earlier", "this one", "this one, resumable")
    with ExitStack() as stack:
        started = [
            stack.enter_context(service(tokens, core=server_core, source=source)) for source in (tree, ROOT, ROOT)
        ]
        order = {
            "servers": [
                {"port": server.port, "pid": server.pid, "resumable": name == names[-1]}
                for name, server in zip(names, started, strict=True)
            ],
            "pairs": pairs,
            "in_flight": in_flight,
            "seconds": seconds,
            "turns": turns,
        }
        command = [sys.executable, "-m", "benchmarks.versions", "load", json.dumps(order)]
        limit = len(names) * (turns + 1) * (seconds + PAUSE) + LOAD_LIMIT
        try:
            with pinned(load_core):
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"the load did not end within {limit:.0f} s") from error
    if done.returncode:
        raise MeasurementError(f"{in_flight} in flight: {done.stderr.strip()[-2000:]}")
    lines = [[Slice(**each) for each in line] for line in json.loads(done.stdout)]
    return dict(zip(names, lines, strict=True))


async def _load(order: dict[str, Any]) -> list[list[Slice]]:
    lines: list[tuple[Load, list[Client], int, list[Slice]]] = []
    for server in order["servers"]:
        load = Load()
        clients = await connected(load, server["port"], order["pairs"], resumable=server["resumable"])
        lines.append((load, clients, server["pid"], []))
    for turn in range(order["turns"] + 1):
        # Whoever comes first in a turn changes, so that no service always follows the same neighbour.
        first = turn % len(lines)
        for load, clients, pid, taken in lines[first:] + lines[:first]:
            start(load, clients, in_flight=order["in_flight"])
            measured = await _slice(load, pid, order["seconds"])
            await drain(load)
            if turn:  # the first one only warms up
                taken.append(measured)
    for _, clients, _, _ in lines:
        await close(clients)
    return [taken for *_, taken in lines]


async def _slice(load: Load, pid: int, seconds: float) -> Slice:
    await run(load, PAUSE)
    load.latencies = array("d")
    cpu, own_cpu, began = cpu_seconds(pid), time.process_time(), perf_counter()
    await run(load, seconds)
    messages, elapsed = len(load.latencies), perf_counter() - began
    if not messages:
        raise LoadError(f"no offer arrived within {elapsed:.1f} s")
    return Slice(
        elapsed, messages, (cpu_seconds(pid) - cpu) / messages * 1e6, (time.process_time() - own_cpu) / elapsed
    )


def table_of(taken: dict[str, list[Slice]], in_flight: int, revision: str) -> Table:
    """Return the figures of one load."""
    earlier, *_ = taken.values()
    title = f"{in_flight} in flight per pair: medians (and quarters) of {len(earlier)} turns"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    for column in ("version", "CPU µs/message", "of the earlier", "messages/s", "load %"):
        table.add_column(column, justify="left" if column == "version" else "right", no_wrap=True)
    for name, slices in taken.items():
        table.add_row(
            revision if slices is earlier else name,
            f"{median(each.cpu_us for each in slices):.1f}",
            "" if slices is earlier else ratios(earlier, slices).text(".3f"),
            f"{median(each.messages / each.seconds for each in slices):,.0f}",
            f"{median(each.load_cpu for each in slices):.0%}"[:-1],
        )
    return table


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(name="run")
def main(
    revision: Annotated[str, typer.Argument(help="What is compared with, as git names it.")] = BEFORE_RESUME,
    *,
    in_flight: Annotated[
        list[int] | None, typer.Option(min=1, help="Offers on their way per pair; may be repeated. [default: 1, 8]")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of clients.")] = 50,
    seconds: Annotated[float, typer.Option(min=0.05, help="Length of one slice.")] = 0.2,
    turns: Annotated[int, typer.Option(min=1, help="How many slices each service is given.")] = 60,
    json_target: Annotated[str | None, typer.Option("--json", metavar="FILE", help="- is stdout.")] = None,
) -> None:
    """Compare what relaying costs with an earlier revision; the one by default knew no sessions that can be resumed."""
    end_on_sigterm()
    results: dict[str, Any] = {}
    console = Console(width=100)
    try:
        with tree_of(revision) as tree:
            for load in in_flight or (1, 8):
                taken = take(tree, pairs=pairs, in_flight=load, seconds=seconds, turns=turns)
                results[str(load)] = {name: [asdict(each) for each in slices] for name, slices in taken.items()}
                if json_target == "-":
                    continue
                console.print(table_of(taken, load, revision))
                if revision != BEFORE_RESUME:
                    continue  # the bar is for that one
                earlier, _, resumable = taken.values()
                ratio = ratios(earlier, resumable).median
                holds = "within" if ratio <= BAR else "over"
                console.print(f"{load} in flight, resumable: {ratio:.3f} ({holds} the bar of {BAR})", highlight=False)
    except MeasurementError as error:
        Console(stderr=True).print(str(error), style="red", highlight=False, markup=False)
        raise typer.Exit(1) from error
    if json_target is not None:
        write_json({"machine": machine(), "revision": revision, "in_flight": results}, json_target)


@app.command(hidden=True)
def load(order: str) -> None:
    """Be the load: the process that `run` starts."""
    try:
        slices = uvloop.run(_load(json.loads(order)))
    except (LoadError, WSError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps([[asdict(each) for each in line] for line in slices]))


if __name__ == "__main__":
    app()
