"""The benchmark of slow consumers closes what it opened and counts what the service closed."""

from __future__ import annotations

import sys

import pytest

from benchmarks.processes import MeasurementError
from benchmarks.servers import service
from benchmarks.slow_consumers import TALKER, TOKEN, client_id, measure

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"), pytest.mark.long]


def test_clients_that_do_not_read_are_closed_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.slow_consumers.SETTLE_SECONDS", 0.0)
    said: list[str] = []

    with service(dict.fromkeys((TALKER, client_id(0)), TOKEN)) as server:
        flood = measure(server, 1, seconds=2.0, report=said.append)

    assert flood.sent_bytes > 2**20
    assert flood.closed > 0
    assert flood.rss_peak_bytes >= flood.rss_before_bytes > 0
    assert said == ["connecting 1 clients that do not read", "sending to them for 2 s"]


def test_a_client_that_the_service_does_not_know_ends_the_measurement() -> None:
    with service({TALKER: TOKEN}) as server, pytest.raises(MeasurementError, match="did not accept stalled-0"):
        measure(server, 1, seconds=0.1, report=lambda line: None)
