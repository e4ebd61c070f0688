"""The second port over a real socket: it opens, it answers, it closes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import httpx
import pytest
import structlog
from structlog.testing import capture_logs

from signal_manager.admin.api import Management
from signal_manager.admin.server import AdminServer
from signal_manager.errors import ConfigurationError
from signal_manager.gateway.live_sessions import Phase
from signal_manager.observe.metrics import Metrics
from signal_manager.storage.memory import MemoryStorage
from tests.admin.fakes import FakeLiveSessions
from tests.web import plain_http


def admin_server(
    live_sessions: FakeLiveSessions | None = None, *, host: str = "127.0.0.1", port: int = 0
) -> AdminServer:
    return AdminServer(
        host=host,
        port=port,
        version="1.2.3",
        live_sessions=live_sessions or FakeLiveSessions(),
        storage=MemoryStorage(),
        metrics=Metrics(),
    )


async def get(server: AdminServer, path: str) -> httpx.Response:
    async with plain_http() as http:
        return await http.get(f"http://127.0.0.1:{server.port}{path}")


@pytest.fixture
async def server() -> AsyncIterator[AdminServer]:
    async with admin_server() as running:
        yield running


async def test_health_tells_that_the_process_is_alive(server: AdminServer) -> None:
    response = await get(server, "/health")

    assert response.json() | {"uptime": 0} == {"status": "healthy", "version": "1.2.3", "uptime": 0, "connections": 0}
    assert response.headers["cache-control"] == "no-store"


async def test_ready_gives_its_reasons() -> None:
    live_sessions = FakeLiveSessions()
    async with admin_server(live_sessions) as server:
        serving = await get(server, "/ready")
        live_sessions.phase = Phase.DRAINING
        draining = await get(server, "/ready")

    assert (serving.status_code, serving.json()) == (200, {"status": "ready", "reasons": []})
    assert (draining.status_code, draining.json()) == (503, {"status": "not ready", "reasons": ["draining"]})


async def test_metrics_are_text_for_prometheus(server: AdminServer) -> None:
    response = await get(server, "/metrics")

    assert response.headers["content-type"].startswith("text/plain")
    assert "# TYPE signal_manager_connections gauge" in response.text
    assert "process_resident_memory_bytes" in response.text


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/../etc/passwd", "/api/v1/rooms"])
async def test_what_is_not_there_is_an_error_like_every_other(server: AdminServer, path: str) -> None:
    response = await get(server, path)

    assert response.status_code == 404
    assert response.json() == {"error_code": 404, "error_message": "Not Found"}


async def test_a_wrong_method_is_an_error_like_every_other(server: AdminServer) -> None:
    async with plain_http() as http:
        response = await http.post(f"http://127.0.0.1:{server.port}/health", json={})

    assert (response.status_code, response.json()["error_code"]) == (405, 405)


async def test_a_fault_of_ours_says_nothing_about_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    live_sessions = FakeLiveSessions()
    monkeypatch.setattr(FakeLiveSessions, "phase", property(lambda self: 1 / 0, lambda self, value: None))
    async with admin_server(live_sessions) as server:
        response = await get(server, "/ready")

    assert (response.status_code, response.json()) == (500, {"error_code": 500, "error_message": "internal error"})


async def test_a_taken_port_is_explained_in_one_line(server: AdminServer) -> None:
    with pytest.raises(ConfigurationError, match=r"the port is taken; change metrics\.port"):
        await admin_server(port=server.port).__aenter__()


@pytest.mark.parametrize(
    ("host", "says"),
    [("192.0.2.1", "cannot listen on 192.0.2.1"), ("no.such.host.invalid", r"metrics\.host is no address")],
)
async def test_an_address_that_cannot_be_listened_on_is_explained(host: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        await admin_server(host=host).__aenter__()


async def test_it_stops_in_spite_of_open_connections() -> None:
    server = admin_server()
    async with server:
        idle = await asyncio.open_connection("127.0.0.1", server.port)
        half = await asyncio.open_connection("127.0.0.1", server.port)
        half[1].write(b"POST /health HTTP/1.1\r\nContent-Length: 100\r\n")
    async with asyncio.timeout(2):
        assert await idle[0].read() == b""

    for _, writer in (idle, half):
        writer.close()
    with pytest.raises(httpx.ConnectError):
        await get(server, "/health")


async def test_what_is_no_http_is_answered_and_hurts_nobody(server: AdminServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
    async with asyncio.timeout(5):
        assert b"400" in await reader.readline()
    writer.close()

    assert (await get(server, "/health")).status_code == 200


async def test_it_listens_at_once_and_requests_wait_for_what_answers_them() -> None:
    may_go_on = threading.Event()

    def slowly() -> Management:
        assert may_go_on.wait(30)
        raise RuntimeError("no management today")

    server = AdminServer(
        port=0,
        version="1.2.3",
        live_sessions=FakeLiveSessions(),
        storage=MemoryStorage(),
        metrics=Metrics(),
        management=slowly,
    )
    structlog.reset_defaults()
    with capture_logs() as lines:
        async with server:
            early = asyncio.create_task(get(server, "/health"))
            await asyncio.sleep(0.05)
            assert not early.done()
            may_go_on.set()
            answer = await early

    assert answer.status_code == 500
    assert [line["event"] for line in lines if line["log_level"] == "error"] == [
        "the second port cannot answer",
        "the application failed",
    ]


@pytest.mark.long
def test_nothing_of_fastapi_is_imported_before_it_is_needed() -> None:
    code = "import sys, signal_manager.service.app, signal_manager.admin.server; print('fastapi' in sys.modules)"

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout == "False\n"
