"""The application of the second port: every error has one shape, and only what is wanted is there."""

from __future__ import annotations

import httpx
import pytest

from signal_manager.admin.application import application
from signal_manager.admin.exposition import MetricsExposition
from signal_manager.admin.statistics import Statistics
from signal_manager.model import NodeId
from signal_manager.observe.metrics import Metrics
from signal_manager.storage.memory import MemoryStorage
from tests.admin.fakes import FakeLiveSessions
from tests.admin.harness import AdminHarness


async def no_others(question: bytes) -> list[bytes]:
    return []


@pytest.fixture
async def bare() -> httpx.AsyncClient:
    """A client of an application without the management interface."""
    metrics, live_sessions = Metrics(), FakeLiveSessions()
    app = application(
        host="127.0.0.1",
        is_loopback=True,
        version="1.2.3",
        live_sessions=live_sessions,
        storage=MemoryStorage(),
        degradations=lambda: [],
        metrics=metrics,
        exposition=MetricsExposition(metrics, node_id=NodeId("n"), workers=1, others=no_others),
        statistics=Statistics(metrics),
        token="",
        management=None,
        websocket_url="ws://127.0.0.1:8080",
    )
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://127.0.0.1"
    )


@pytest.mark.parametrize("path", ["/", "/api/v1/sessions", "/openapi.json", "/docs", "/demo/"])
async def test_without_management_there_are_probes_alone(bare: httpx.AsyncClient, path: str) -> None:
    assert (await bare.get("/health")).status_code == 200
    refused = await bare.get(path)
    assert refused.status_code == 404
    assert refused.json().keys() == {"error_code", "error_message"}


async def test_an_error_of_the_service_keeps_its_code(admin_harness: AdminHarness) -> None:
    answer = await admin_harness.http.get("/api/v1/rooms/no-such-room")

    assert (answer.status_code, answer.json()["error_code"]) == (404, 404)


async def test_the_mistakes_of_a_body_are_named_up_to_a_bound(admin_harness: AdminHarness) -> None:
    wrong = {"client_id": 1, "ttl": "x", "rooms": 1, "roles": 1, "signal_to": 1, "publish": "x", "subscribe": "x"}

    answer = await admin_harness.http.post("/api/v1/tokens", json=wrong)

    message = answer.json()["error_message"]
    assert answer.status_code == 400
    assert message.startswith("client_id: ")
    assert message.count("; ") == 4


async def test_a_slash_too_many_is_no_redirect(admin_harness: AdminHarness) -> None:
    assert (await admin_harness.http.get("/health/")).status_code == 404
