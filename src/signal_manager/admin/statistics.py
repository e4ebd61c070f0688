"""Samples of the last fifteen minutes, the event loop's lag, and statistics for the log.

`Metrics` has totals since the start; this module computes rates. `events.py` sends the samples, the dashboard draws
them.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections import Counter as Counts
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

import msgspec
import structlog

from signal_manager.observe.metrics import Metrics

__all__ = ["SAMPLES", "SAMPLE_INTERVAL", "Sample", "Statistics", "quantile"]

log = structlog.get_logger(__name__)

# Fifteen minutes, in steps (s) that look live to a person.
SAMPLE_INTERVAL = 2.0
SAMPLES = 450
# Seconds between two measurements of the event loop's lag: often enough to see a stall, rarely enough to cost nothing.
LAG_INTERVAL = 0.25

_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The service during one interval that ended `at` (seconds since the epoch).

    Counts are those at that moment, and rates are per second over the interval. Times are in seconds, or None if
    nothing was timed. `memory` is resident bytes, and `cpu` the share of one core.

    Large because it is a list: one field for each figure of the dashboard.
    """

    at: float
    connections: int
    clients: int
    rooms: int
    participants: int
    received: float
    sent: float
    relayed: float
    received_bytes: float
    sent_bytes: float
    errors: float
    relay_p50: float | None
    relay_p99: float | None
    lag: float
    cpu: float
    memory: int


class _Totals(msgspec.Struct, frozen=True):
    """All totals at one moment."""

    opened: int
    closed: dict[str, int]
    received: int
    sent: int
    relayed: int
    received_bytes: int
    sent_bytes: int
    errors: dict[str, int]
    authentications: dict[str, int]
    resumes: dict[str, int]
    relay_counts: tuple[int, ...]
    cpu_seconds: float


class Statistics:
    """Samples the service while it runs; an async context manager.

    Args:
        metrics: the metrics to sample.
        connection_stats_interval, message_stats_interval: seconds between two lines of the log.
        clock: seconds since the epoch.
        timer: seconds, monotonic.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        connection_stats_interval: float = 60.0,
        message_stats_interval: float = 30.0,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._metrics = metrics
        self._intervals = (connection_stats_interval, message_stats_interval)
        self._clock = clock
        self._timer = timer
        self._lag = metrics.event_loop_lag_seconds.labelled()
        self._relay = metrics.relay_seconds.labelled()
        self._longest_lag = 0.0  # since the last sample
        self._sampled_at = timer()
        totals = self._read()
        self._at_sample = self._at_connection_line = self._at_message_line = totals
        self._is_over = False
        self._news = asyncio.Event()  # set at the next sample, and then replaced
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        connections, messages = self._intervals
        for interval, duty, name in (
            (SAMPLE_INTERVAL, self.sample, "sample"),
            (connections, self.log_connections, "connection statistics"),
            (messages, self.log_messages, "message statistics"),
        ):
            self._tasks.append(asyncio.create_task(_every(interval, duty), name=name))
        self._tasks.append(asyncio.create_task(self._watch_loop(asyncio.sleep), name="event loop lag"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def end(self) -> None:
        """End the waits for a sample: there are no more."""
        self._is_over = True
        self._news.set()

    async def next_sample(self) -> Sample | None:
        """Wait for the next sample; return None if the service stops first."""
        if not self._is_over:
            await self._news.wait()
        return None if self._is_over else self.samples[-1]

    def sample(self) -> None:
        """Add a sample for the time since the last one."""
        now, totals, before = self._timer(), self._read(), self._at_sample
        seconds = max(now - self._sampled_at, 1e-3)
        timed = [after - earlier for after, earlier in zip(totals.relay_counts, before.relay_counts, strict=True)]
        metrics = self._metrics
        self.samples.append(
            Sample(
                at=round(self._clock(), 3),
                connections=int(metrics.connections.value()),
                clients=int(metrics.clients.value()),
                rooms=int(metrics.rooms.value()),
                participants=int(metrics.participants.value()),
                received=round((totals.received - before.received) / seconds, 2),
                sent=round((totals.sent - before.sent) / seconds, 2),
                relayed=round((totals.relayed - before.relayed) / seconds, 2),
                received_bytes=round((totals.received_bytes - before.received_bytes) / seconds, 2),
                sent_bytes=round((totals.sent_bytes - before.sent_bytes) / seconds, 2),
                errors=round((sum(totals.errors.values()) - sum(before.errors.values())) / seconds, 2),
                relay_p50=quantile(self._relay.bounds, timed, 0.5),
                relay_p99=quantile(self._relay.bounds, timed, 0.99),
                lag=round(self._longest_lag, 6),
                cpu=round((totals.cpu_seconds - before.cpu_seconds) / seconds, 4),
                memory=_resident_bytes(),
            )
        )
        self._sampled_at, self._at_sample, self._longest_lag = now, totals, 0.0
        news, self._news = self._news, asyncio.Event()
        news.set()

    def log_connections(self) -> None:
        """Log a line about the connections since the last line, if there were any."""
        totals, before = self._read(), self._at_connection_line
        self._at_connection_line = totals
        counted = {
            "open": int(self._metrics.connections.value()),
            "clients": int(self._metrics.clients.value()),
            "away": int(self._metrics.sessions_away.value()),
            "opened": totals.opened - before.opened,
            "closed": _since(totals.closed, before.closed),
            "authentications": _since(totals.authentications, before.authentications),
            "resumes": _since(totals.resumes, before.resumes),
        }
        if any(counted.values()):
            log.info("connection statistics", **counted)

    def log_messages(self) -> None:
        """Log a line about the messages since the last line, if there were any."""
        totals, before = self._read(), self._at_message_line
        self._at_message_line = totals
        timed = [after - earlier for after, earlier in zip(totals.relay_counts, before.relay_counts, strict=True)]
        p99 = quantile(self._relay.bounds, timed, 0.99)
        counted = {
            "received": totals.received - before.received,
            "sent": totals.sent - before.sent,
            "relayed": totals.relayed - before.relayed,
            "received_bytes": totals.received_bytes - before.received_bytes,
            "sent_bytes": totals.sent_bytes - before.sent_bytes,
            "errors": _since(totals.errors, before.errors),
        }
        if any(counted.values()):
            log.info("message statistics", **counted, relay_p99_ms=None if p99 is None else round(p99 * 1000, 3))

    def lagged(self, seconds: float) -> None:
        """Record how many seconds late the event loop ran a call."""
        seconds = max(seconds, 0.0)
        self._lag.observe(seconds)
        self._longest_lag = max(self._longest_lag, seconds)

    async def _watch_loop(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        while True:
            due = self._timer() + LAG_INTERVAL
            await sleep(LAG_INTERVAL)
            self.lagged(self._timer() - due)

    def _read(self) -> _Totals:
        metrics = self._metrics
        return _Totals(
            opened=metrics.connections_opened.total(),
            closed=metrics.connections_closed.by_label(),
            received=metrics.messages_received.total(),
            sent=metrics.messages_sent.total(),
            relayed=int(metrics.signals_relayed.value()),
            received_bytes=metrics.bytes_received.total(),
            sent_bytes=metrics.bytes_sent.total(),
            errors=metrics.errors_sent.by_label(),
            authentications=metrics.authentications.by_label(),
            resumes=metrics.resumes.by_label(),
            relay_counts=tuple(self._relay.counts),
            cpu_seconds=_cpu_seconds(),
        )


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Return an estimate of the value below which `share` of the observations lie; None without observations.

    Args:
        bounds, counts: as in `Histogram`: a bucket for each upper bound, and one for all larger values.
    """
    wanted = sum(counts) * share
    if not wanted:
        return None
    lower, passed = 0.0, 0
    for upper, count in zip(bounds, counts, strict=False):
        if passed + count >= wanted:
            return lower + (upper - lower) * (wanted - passed) / count
        lower, passed = upper, passed + count
    return lower  # above every bound; there is no better estimate


async def _every(interval: float, duty: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(interval)
        try:
            duty()
        except Exception:
            log.exception("statistics failed", duty=duty.__name__)


def _since(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """Return the counts between two moments, without those that are zero."""
    return dict(Counts(now) - Counts(before))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_SIZE
    except OSError:  # no /proc on this system: the peak is better than nothing
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
