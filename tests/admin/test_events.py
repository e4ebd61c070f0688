"""The stream that the dashboard follows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from signal_manager.admin import events, statistics
from signal_manager.gateway.live_sessions import RecentError
from signal_manager.model import ClientId
from tests.admin.harness import AdminHarness


@pytest.fixture(autouse=True)
def _quick_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "SAMPLE_INTERVAL", 0.01)


async def news(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line:
            assert line.startswith("data: ")
            yield json.loads(line[len("data: ") :])


async def test_a_reader_gets_the_past_and_then_what_is_new(admin_harness: AdminHarness) -> None:
    admin_harness.live_sessions.recent_errors.append(RecentError(1.0, 404, "gone", ClientId("alice")))
    async with asyncio.timeout(10), admin_harness.http.stream("GET", "/api/v1/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        seen: list[float] = []
        errors: list[Any] = []
        async for each in news(response):
            if not errors:
                admin_harness.live_sessions.recent_errors.append(RecentError(2.0, 500, "oh", None))
            seen += [sample["at"] for sample in each["samples"]]
            errors += each["errors"]
            if len(seen) > 3 and len(errors) > 1:
                break

    assert seen == sorted(set(seen)), "each sample once, in order"
    assert errors == [[1.0, 404, "gone", "alice"], [2.0, 500, "oh", None]]


async def test_too_many_readers_are_turned_away(admin_harness: AdminHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_READERS", 1)
    async with asyncio.timeout(10), admin_harness.http.stream("GET", "/api/v1/events") as response:
        await anext(news(response))

        assert (await admin_harness.http.get("/api/v1/events")).status_code == 503

    async with asyncio.timeout(10):
        while True:  # the server learns of the first one's end in a moment
            async with admin_harness.http.stream("GET", "/api/v1/events") as response:
                if response.status_code == 200:
                    break


async def test_stopping_ends_the_streams(admin_harness: AdminHarness) -> None:
    async with asyncio.timeout(5), admin_harness.http.stream("GET", "/api/v1/events") as response:
        lines = news(response)
        await anext(lines)
        stopping = asyncio.create_task(admin_harness.server.__aexit__(None, None, None))

        async for _ in lines:
            pass
        await stopping
