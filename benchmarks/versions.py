"""What has this version made of the relay's cost? It and an earlier one side by side, sessions that resume or not.

All services run at the same time and one process loads them in turn, slice by slice (`turns.py`). Each slice is
compared with the one of the earlier version in the same turn.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.load import TOKEN, Load, client_ids, connected
from benchmarks.processes import ROOT, MeasurementError, cores, end_on_sigterm
from benchmarks.results import Spread, machine, write_json
from benchmarks.servers import service
from benchmarks.turns import Line, Slice, be_the_load, paired, start_load, take_turns

__all__ = ["app", "ratios", "tree_of"]

# What the relay may cost with sessions that can be resumed, as a part of what it cost before there were any.
BAR = 1.15
BEFORE_RESUME = "c299f78"


def ratios(earlier: list[Slice], later: list[Slice]) -> Spread:
    """Return what messages cost in slices as a part of what they cost in the earlier version's of the same turn."""
    return paired(earlier, later, lambda theirs, ours: ours.cpu_us / theirs.cpu_us)


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
    """Measure the service of `tree` and this one, without and with resumable clients where they know such.

    Raises:
        MeasurementError: a service did not start, or did not relay as it must.
    """
    tokens = {client_id: TOKEN for pair in client_ids(pairs) for client_id in pair}
    server_core, load_core = cores()
    sources = {"earlier": tree, "this one": ROOT, "this one, resumable": ROOT}
    if (tree / "src/signal_manager/protocol/resume.py").exists():
        sources["earlier, resumable"] = tree
    with ExitStack() as stack:
        started = [stack.enter_context(service(tokens, core=server_core, source=each)) for each in sources.values()]
        order = {
            "lines": [
                {"port": server.port, "pid": server.pid, "resumable": name.endswith("resumable")}
                for name, server in zip(sources, started, strict=True)
            ],
            "pairs": pairs,
            "in_flight": in_flight,
            "seconds": seconds,
            "turns": turns,
        }
        taken = start_load("benchmarks.versions", order, core=load_core)
    lines = [[Slice(**each) for each in line] for line in taken]
    return dict(zip(sources, lines, strict=True))


async def _load(order: dict[str, Any]) -> list[list[dict[str, float]]]:
    lines = []
    for line in order["lines"]:
        load = Load()
        clients = await connected(load, line["port"], order["pairs"], resumable=line["resumable"])
        lines.append(Line(load, clients, order["in_flight"], [line["pid"]]))
    await take_turns(lines, turns=order["turns"], seconds=order["seconds"])
    return [[asdict(each) for each in line.slices] for line in lines]


def table_of(taken: dict[str, list[Slice]], in_flight: int, revision: str) -> Table:
    """Return the figures of one load."""
    earlier = taken["earlier"]
    title = f"{in_flight} in flight per pair: medians (and quarters) of {len(earlier)} turns"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    for column in ("version", "CPU µs/message", "of the earlier", "of its resumable", "messages/s", "load %"):
        table.add_column(column, justify="left" if column == "version" else "right", no_wrap=True)
    kept = taken.get("earlier, resumable")
    for name, slices in taken.items():
        table.add_row(
            name.replace("earlier", revision),
            f"{median(each.cpu_us for each in slices):.1f}",
            "" if slices is earlier else ratios(earlier, slices).text(".3f"),
            ratios(kept, slices).text(".3f") if kept is not None and name == "this one, resumable" else "",
            f"{median(each.messages_per_second for each in slices):,.0f}",
            f"{median(each.load_cpu for each in slices):.0%}"[:-1],
        )
    return table


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(name="run", epilog="Example: python -m benchmarks.versions run HEAD~50 --turns 10")
def main(
    revision: Annotated[str, typer.Argument(help="Git revision to compare with.")] = BEFORE_RESUME,
    *,
    in_flight: Annotated[
        list[int] | None, typer.Option(min=1, help="Offers under way in each pair; may be repeated. [default: 1, 8]")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of clients.")] = 50,
    seconds: Annotated[float, typer.Option(min=0.05, help="Seconds that one slice takes.")] = 0.2,
    turns: Annotated[int, typer.Option(min=1, help="Slices that each service gets.")] = 60,
    json_target: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="File to write the results to as JSON; - is standard output."),
    ] = None,
) -> None:
    """Compare what relaying costs with an earlier revision; the default one had no resumable sessions."""
    end_on_sigterm()
    results: dict[str, Any] = {}
    console = Console(width=120)
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
                ratio = ratios(taken["earlier"], taken["this one, resumable"]).median
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
    be_the_load(_load(json.loads(order)))


if __name__ == "__main__":
    app()
