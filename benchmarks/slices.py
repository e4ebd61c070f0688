"""The load of the registrations benchmark, in a process of its own: offers, and by turns requests beside them.

Short slices alternate on the same connections, so that other load on the machine slows the relay alone as much as the
relay with requests beside it. `records/registrations.py` compares only slices of the same turn.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from array import array
from dataclasses import asdict, dataclass, field
from time import perf_counter

import uvloop
from picows import WSError

from benchmarks.load import TOKEN, Load, LoadError, arguments, close, connected, drain, percentile, run, start
from benchmarks.processes import child_processes, cpu_seconds
from benchmarks.requests import Kind, Requests

__all__ = ["Slice", "Turns"]

# What one slice has caused must not be counted in the next one (s).
PAUSE = 0.03


@dataclass(frozen=True)
class Slice:
    """What happened in one slice; times are in seconds, CPU times those of the server and of its child processes."""

    seconds: float
    messages: int
    answers: int
    server_cpu: float
    helpers_cpu: float
    load_cpu: float


@dataclass(frozen=True)
class Turns:
    """The slices of all turns: the relay alone, and with each kind of request beside it; and latencies (ms)."""

    alone: list[Slice] = field(default_factory=list)
    beside: dict[Kind, list[Slice]] = field(default_factory=dict)
    p50_ms: dict[str, float] = field(default_factory=dict)
    p99_ms: dict[str, float] = field(default_factory=dict)
    answer_p50_ms: dict[str, float] = field(default_factory=dict)
    answer_p99_ms: dict[str, float] = field(default_factory=dict)


class Measuring:
    """One server under one load, slice by slice."""

    def __init__(self, load: Load, server_pid: int) -> None:
        self._load = load
        self._server_pid = server_pid
        self.latencies: dict[str, list[float]] = {}
        self.waits: dict[str, list[float]] = {}

    async def slice(self, seconds: float, requests: Requests | None, name: str) -> Slice:
        """Measure one slice, with `requests` beside the offers."""
        schedule = None if requests is None else asyncio.ensure_future(requests.run())
        await run(self._load, PAUSE)
        self._load.latencies = array("d")
        if requests is not None:
            requests.latencies.clear()
        before, own_cpu, began = self._cpu(), time.process_time(), perf_counter()
        await run(self._load, seconds)
        elapsed, after = perf_counter() - began, self._cpu()
        own_cpu = time.process_time() - own_cpu
        waits = [] if requests is None else list(requests.latencies)
        measured = self._load.latencies
        if schedule is not None:
            schedule.cancel()
        if not measured:
            raise LoadError(f"no offer arrived within {elapsed:.1f} s")
        self.latencies.setdefault(name, []).extend(measured)
        self.waits.setdefault(name, []).extend(waits)
        return Slice(elapsed, len(measured), len(waits), after[0] - before[0], after[1] - before[1], own_cpu)

    def _cpu(self) -> tuple[float, float]:
        return cpu_seconds(self._server_pid), sum(map(cpu_seconds, child_processes(self._server_pid)))


async def measure(
    *,
    port: int,
    server_pid: int,
    pairs: int,
    in_flight: int,
    seconds: float,
    warm_up: float,
    resumable: int,
    offers_per_second: int,
    beside: list[Kind],
    beside_per_second: int,
    turns: int,
) -> Turns:
    """Take `turns`, each of one slice of offers alone and one with each kind of request beside them.

    Raises:
        LoadError: the server refused a client, closed a connection, altered an offer or lost one.
    """
    load = Load()
    clients = await connected(load, port, pairs, resumable=bool(resumable))
    asking = Requests(beside_per_second, TOKEN)
    await asking.connect(port)
    start(load, clients, in_flight=in_flight, offers_per_second=offers_per_second)
    measuring = Measuring(load, server_pid)
    taken = Turns()
    for request in beside:
        taken.beside[request] = []
        asking.kind = request
        await measuring.slice(warm_up, asking, request)
    measuring.latencies.clear()
    measuring.waits.clear()
    for number in range(turns):
        # Each turn starts with another case, so that no case always follows the same one.
        order: list[Kind | None] = [None, *beside]
        for kind in order[number % len(order) :] + order[: number % len(order)]:
            if kind is None:
                taken.alone.append(await measuring.slice(seconds, None, "alone"))
            else:
                asking.kind = kind
                taken.beside[kind].append(await measuring.slice(seconds, asking, kind))
    await drain(load)
    await close(clients)
    asking.close()
    for figures, values in ((taken.p50_ms, measuring.latencies), (taken.answer_p50_ms, measuring.waits)):
        figures.update({name: percentile(sorted(each), 0.50) * 1e3 for name, each in values.items() if each})
    for figures, values in ((taken.p99_ms, measuring.latencies), (taken.answer_p99_ms, measuring.waits)):
        figures.update({name: percentile(sorted(each), 0.99) * 1e3 for name, each in values.items() if each})
    return taken


def main() -> None:
    """Measure once and print the result as one JSON line."""
    parser = arguments("benchmarks.slices", "The load process of benchmarks.registrations.")
    for name in ("offers-per-second", "beside-per-second", "turns"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--beside", type=lambda text: text.split(","), required=True)
    try:
        print(json.dumps(asdict(uvloop.run(measure(**vars(parser.parse_args()))))))
    except (LoadError, WSError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
