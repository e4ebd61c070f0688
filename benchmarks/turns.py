"""Loads that take turns, slice by slice, in one process: how `versions.py` and `bus.py` compare what relaying costs.

A machine swings by more than what is compared differs, but hardly from one fifth of a second to the next. So all
servers run at the same time, each slice is compared with another line's in the same turn alone, and the median of many
such pairs is the figure, shown with the quarter of them below and above it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import uvloop
from picows import WSError

from benchmarks.load import Client, Load, LoadError, close, drain, percentile, run, start
from benchmarks.processes import ROOT, MeasurementError, cpu_seconds, pinned
from benchmarks.results import Spread

__all__ = ["Line", "Slice", "be_the_load", "paired", "start_load", "take_turns"]

# What one slice has caused must not be counted in the next one (s).
PAUSE = 0.05
LOAD_LIMIT = 60.0


@dataclass(frozen=True)
class Slice:
    """What happened in one slice: its length in s, and CPU times in µs per relayed message.

    `cpu_us` is of all the servers together, `load_cpu` the part of a core that the load itself took. Latency runs from
    sending an offer to its arrival at the peer.
    """

    seconds: float
    messages: int
    cpu_us: float
    nats_cpu_us: float
    load_cpu: float
    p50_ms: float
    p99_ms: float

    @property
    def messages_per_second(self) -> float:
        """Messages relayed in a second."""
        return self.messages / self.seconds


@dataclass
class Line:
    """One load among those that take turns: its clients, the processes that relay for them, and what was measured."""

    load: Load
    clients: list[Client]
    in_flight: int
    pids: Sequence[int]
    nats_pid: int | None = None
    slices: list[Slice] = field(default_factory=list)
    latencies: array[float] = field(default_factory=lambda: array("d"))


async def take_turns(lines: Sequence[Line], *, turns: int, seconds: float) -> None:
    """Load the lines in turn, each for `seconds`, and close them.

    Raises:
        LoadError: a server closed a connection, altered an offer or lost one.
    """
    for turn in range(turns + 1):
        # Each turn starts with another line, so that no line always follows the same one.
        first = turn % len(lines)
        for line in [*lines[first:], *lines[:first]]:
            start(line.load, line.clients, in_flight=line.in_flight)
            measured, latencies = await _slice(line, seconds)
            await drain(line.load)
            if turn:  # the first one only warms up
                line.slices.append(measured)
                line.latencies.extend(latencies)
    for line in lines:
        await close(line.clients)


async def _slice(line: Line, seconds: float) -> tuple[Slice, list[float]]:
    await run(line.load, PAUSE)
    line.load.latencies = array("d")
    before, began = _used(line), perf_counter()
    await run(line.load, seconds)
    elapsed, after = perf_counter() - began, _used(line)
    latencies = sorted(line.load.latencies)
    if not latencies:
        raise LoadError(f"no offer arrived within {elapsed:.1f} s")
    servers, nats, own = (now - earlier for now, earlier in zip(after, before, strict=True))
    measured = Slice(
        seconds=elapsed,
        messages=len(latencies),
        cpu_us=servers / len(latencies) * 1e6,
        nats_cpu_us=nats / len(latencies) * 1e6,
        load_cpu=own / elapsed,
        p50_ms=percentile(latencies, 0.50) * 1e3,
        p99_ms=percentile(latencies, 0.99) * 1e3,
    )
    return measured, latencies


def _used(line: Line) -> tuple[float, float, float]:
    nats = 0.0 if line.nats_pid is None else cpu_seconds(line.nats_pid)
    return sum(map(cpu_seconds, line.pids)), nats, time.process_time()


def paired(control: Sequence[Slice], slices: Sequence[Slice], figure: Callable[[Slice, Slice], float]) -> Spread:
    """Return the spread of a figure of each slice of the control and another one of the same turn."""
    return Spread.of([figure(*pair) for pair in zip(control, slices, strict=True)])


def start_load(program: str, order: dict[str, Any], *, core: int | None, setup: float = LOAD_LIMIT) -> Any:
    """Run a module's command `load` with `order` and return the JSON that it prints.

    Args:
        order: how many `turns` of how many `seconds` for each of the `lines`, and the module's own keys.
        core: the processor it may use.
        setup: how long it may take for all that is no turn, in s.

    Raises:
        MeasurementError: a server did not relay as it must, or the load hung.
    """
    limit = len(order["lines"]) * (order["turns"] + 1) * (order["seconds"] + PAUSE) + setup
    command = [sys.executable, "-m", program, "load", json.dumps(order)]
    try:
        with pinned(core):
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"the load did not end within {limit:.0f} s") from error
    if done.returncode:
        raise MeasurementError(f"the load: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)


def be_the_load(taking: Coroutine[Any, Any, Any]) -> None:
    """Run what a command `load` does, and print its result as one JSON line."""
    try:
        result = uvloop.run(taking)
    except (LoadError, WSError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps(result))
