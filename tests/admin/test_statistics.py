"""Totals become rates, a bounded past, and lines of the log."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from structlog.testing import capture_logs

from signal_manager.admin import statistics
from signal_manager.admin.statistics import SAMPLES, Statistics, quantile
from signal_manager.observe.metrics import Metrics


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watched(metrics: Metrics, clock: Clock) -> Statistics:
    return Statistics(metrics, clock=clock, timer=clock)


def test_a_sample_holds_the_rates_since_the_last_one(watched: Statistics, metrics: Metrics, clock: Clock) -> None:
    metrics.connections.read_from(lambda: 7)
    relayed = [0]
    metrics.signals_relayed.read_from(lambda: relayed[0])
    metrics.messages_received.labelled("REGISTER").add(40)
    metrics.messages_received.labelled("CONNECT").add(60)
    metrics.messages_sent.labelled("ERROR").add(10)
    metrics.bytes_received.labelled().add(5000)
    metrics.errors_sent.labelled("404").add(4)
    relayed[0] = 20
    clock.now += 2

    watched.sample()
    clock.now += 2
    watched.sample()

    first, second = watched.samples
    assert (first.connections, first.received, first.sent, first.relayed) == (7, 50, 5, 10)
    assert (first.received_bytes, first.errors) == (2500, 2)
    assert (second.received, second.errors) == (0, 0)
    assert first.memory > 0


def test_a_sample_tells_how_long_relays_took(watched: Statistics, metrics: Metrics, clock: Clock) -> None:
    relay = metrics.relay_seconds.labelled()
    for _ in range(99):
        relay.observe(0.000015)
    relay.observe(0.04)
    clock.now += 2

    watched.sample()
    watched.sample()

    first, second = watched.samples
    assert first.relay_p50 == pytest.approx(0.000015, abs=1e-6)
    assert first.relay_p99 == pytest.approx(0.00002)
    assert (second.relay_p50, second.relay_p99) == (None, None)


def test_the_longest_lag_is_kept_for_one_sample(watched: Statistics) -> None:
    for seconds in (0.001, 0.25, -0.0001):
        watched.lagged(seconds)

    watched.sample()
    watched.sample()

    assert [sample.lag for sample in watched.samples] == [0.25, 0.0]


def test_the_past_is_bounded(watched: Statistics) -> None:
    for _ in range(SAMPLES + 10):
        watched.sample()

    assert len(watched.samples) == SAMPLES


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ([0, 0, 0], 0.5, None),
        ([10, 0, 0], 0.5, 0.5),
        ([10, 10, 0], 0.75, 1.5),
        ([0, 4, 0], 0.5, 1.5),
        ([0, 0, 5], 0.5, 2.0),
        ([1, 0, 99], 0.5, 2.0),
    ],
)
def test_quantiles_are_read_off_buckets(counts: list[int], share: float, expected: float | None) -> None:
    assert quantile((1.0, 2.0), counts, share) == expected


def test_lines_of_the_log_tell_what_happened_since_the_last_one(watched: Statistics, metrics: Metrics) -> None:
    structlog.reset_defaults()
    metrics.connections.read_from(lambda: 3)
    metrics.connections_opened.labelled().add(5)
    metrics.connections_closed.labelled("client").add(2)
    metrics.authentications.labelled("refused").add(1)
    metrics.sessions_away.read_from(lambda: 4)
    metrics.resumes.labelled("resumed").add(2)
    metrics.messages_received.labelled("CONNECT").add(5)
    metrics.errors_sent.labelled("401").add(1)

    with capture_logs() as lines:
        watched.log_connections()
        watched.log_messages()
        watched.log_connections()

    connections, messages, later = lines
    assert connections["event"] == "connection statistics"
    assert (connections["open"], connections["opened"]) == (3, 5)
    assert (connections["closed"], connections["authentications"]) == ({"client": 2}, {"refused": 1})
    assert (connections["away"], connections["resumes"]) == (4, {"resumed": 2})
    assert (messages["event"], messages["received"], messages["errors"]) == ("message statistics", 5, {"401": 1})
    assert (later["opened"], later["closed"], later["resumes"]) == (0, {}, {})


def test_nothing_is_written_of_a_service_that_nobody_uses(watched: Statistics, metrics: Metrics) -> None:
    structlog.reset_defaults()
    metrics.connections.read_from(lambda: 0)

    with capture_logs() as lines:
        watched.log_connections()
        watched.log_messages()
        assert not lines
        metrics.connections.read_from(lambda: 1)
        watched.log_connections()
        metrics.messages_sent.labelled("HEARTBEAT").add(1)
        watched.log_messages()
        watched.log_messages()

    assert [line["event"] for line in lines] == ["connection statistics", "message statistics"]


async def test_it_samples_and_writes_by_itself_and_tells_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SAMPLE_INTERVAL", 0.01)
    monkeypatch.setattr(statistics, "LAG_INTERVAL", 0.001)
    structlog.reset_defaults()
    metrics = Metrics()
    metrics.connections.read_from(lambda: 1)
    watched = Statistics(metrics, connection_stats_interval=0.01, message_stats_interval=0.01)

    with capture_logs() as lines:
        async with asyncio.timeout(5), watched:
            metrics.messages_received.labelled("CONNECT").add(1)
            seen = [await watched.next_sample(), await watched.next_sample()]
            while len({line["event"] for line in lines}) < 2:
                await watched.next_sample()
            waiting = asyncio.create_task(watched.next_sample())
            await asyncio.sleep(0)

    assert all(sample is not None for sample in seen)
    assert await waiting is None
    assert await watched.next_sample() is None


async def test_a_fault_of_one_duty_is_logged_and_the_next_turn_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SAMPLE_INTERVAL", 0.001)
    structlog.reset_defaults()
    metrics = Metrics()
    watched = Statistics(metrics)
    turns = iter([1 / 2, 0])

    metrics.clients.read_from(lambda: 1 / next(turns, 1))
    with capture_logs() as lines:
        async with asyncio.timeout(5), watched:
            while len(watched.samples) < 2:  # the second turn divides by zero, the third is the second sample
                await watched.next_sample()

    assert [line["event"] for line in lines] == ["statistics failed"]
    assert [sample.clients for sample in watched.samples][:2] == [2, 1]
