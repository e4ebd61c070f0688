"""Traces of a whole service, as a collector gets them."""

from __future__ import annotations

import asyncio
import json

import pytest

from signal_manager.service.app import running
from signal_manager.service.config import Config
from tests.integration.conftest import DEFAULTS, Service
from tests.integration.test_server import ONE, connected, frame
from tests.observe.test_tracing import collector


async def test_a_room_s_creation_reaches_the_collector_with_storage_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal_manager.observe.tracing.STOP_TIMEOUT", 30.0)
    async with collector() as (url, kept):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        async with running(Config.model_validate(DEFAULTS)) as server:
            one = await connected(Service(server), ONE)
            await one.send(frame(0x30, json.dumps({"room_id": "lunch", "role": "receiver"}).encode()))
            await asyncio.wait_for(one.recv(), 20)
            await one.close()

    spans = [span for sent in kept for scope in sent.resource_spans[0].scope_spans for span in scope.spans]
    (root,) = (span for span in spans if span.name == "WEBRTC_ROOM_CREATE")
    assert "storage create_room" in {span.name for span in spans if span.parent_span_id == root.span_id}
