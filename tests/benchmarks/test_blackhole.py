"""The benchmark of changed networks takes the time of clients that come back with their session, and of no others."""

from __future__ import annotations

import pytest

from benchmarks.blackhole import TOKEN, client_id, measure
from benchmarks.processes import MeasurementError
from benchmarks.servers import service

pytestmark = pytest.mark.long


async def test_returns_are_timed_scene_by_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.blackhole.SCENES", {"asked": "reconnect", "only browsers hear of it": "online"})
    said: list[str] = []

    with service({client_id(0): TOKEN}) as server:
        results = await measure(server.port, None, runs=1, report=said.append)

    assert said == ["Python: asked"]
    assert [(each.sdk, each.scene, len(each.seconds)) for each in results] == [("Python", "asked", 1)]
    assert results[0].median == results[0].seconds[0] > 0


async def test_a_session_that_is_lost_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.blackhole.SCENES", {"asked": "reconnect"})
    monkeypatch.setattr("signal_manager.client.exchange.Exchange.offer", None)

    with service({client_id(0): TOKEN}) as server, pytest.raises(MeasurementError, match="expected back, heard lost"):
        await measure(server.port, None, runs=1, report=lambda line: None)
