"""The WebSocket port: which requests become connections, what the others are answered, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import pytest
from structlog.testing import capture_logs

from signal_manager.bus.local import LocalBus
from signal_manager.gateway import limits as limits_module
from signal_manager.gateway import server as server_module
from signal_manager.gateway.dispatcher import Dispatcher
from signal_manager.gateway.limits import Limits
from signal_manager.gateway.listener import listen
from signal_manager.gateway.live_sessions import Phase
from signal_manager.gateway.ports import RelayTarget
from signal_manager.gateway.server import Dashboard, Server
from signal_manager.gateway.sessions import ResumeSettings
from signal_manager.model import ClientId
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.codec import encode_payload
from signal_manager.protocol.framing import Framing, encode_frame
from signal_manager.protocol.messages import Connect, MessageType, PayloadType, Peer, Shape
from signal_manager.protocol.state_machine import SessionSettings
from signal_manager.records.registrations import Registrations
from signal_manager.storage.memory import MemoryStorage
from tests.gateway.fakes import FakeAuthenticator
from tests.gateway.harness import ID, NODE
from tests.waiting import until

UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Port:
    """A server that listens, and what it knows."""

    def __init__(self, *, storage: MemoryStorage | None = None, **arguments: Any) -> None:
        self.storage = storage or MemoryStorage()
        self.metrics = Metrics()
        self.authenticator = FakeAuthenticator()
        self.far = FakeAuthenticator()
        self._writers: list[asyncio.StreamWriter] = []
        bus = LocalBus[RelayTarget]()
        settings: dict[str, Any] = {"limits": Limits(), "session": SessionSettings(), "drain_timeout": 0.1}
        self.server = Server(
            dispatcher=Dispatcher(
                authenticator=self.authenticator,
                far=self.far,
                bus=bus,
                registrations=Registrations(storage=self.storage, node_id=NODE),
            ),
            bus=bus,
            listening=listen("127.0.0.1", 0),
            version="1.2.3",
            metrics=self.metrics,
            storage=self.storage,
            **(settings | arguments),
        )

    async def open(
        self, *headers: str, path: str = "/", host: str = "localhost"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request; return the socket."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        self._writers.append(writer)
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode("latin-1"))
        return reader, writer

    async def ask(self, *headers: str, **request: str) -> Answer:
        """Send a request; return its answer."""
        reader, _ = await self.open(*headers, **request)
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode("latin-1")
        status, *lines = head.strip().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(fields.get("content-length", 0))
        body = await asyncio.wait_for(reader.readexactly(length), 30)
        return Answer(int(status.split(" ")[1]), fields, body)

    async def close(self) -> None:
        """Stop the server and close the clients' sockets."""
        await self.server.stop()
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    @property
    def connections(self) -> int:
        return len(self.server._registry.connections)


OpenPort = Callable[..., Awaitable[Port]]


@pytest.fixture
async def open_port() -> AsyncIterator[OpenPort]:
    """Start a server with these arguments."""
    async with AsyncExitStack() as stack:

        async def start(**arguments: Any) -> Port:
            port = Port(**arguments)
            await port.server.start()
            stack.push_async_callback(port.close)
            return port

        yield start


def connect_frame(name: str = "a") -> bytes:
    """Return CONNECT in a masked WebSocket frame; the mask is zero."""
    connect = Connect(client_id=name, auth_token="t", resumable=True)
    payload_type, payload = encode_payload(connect, PayloadType.JSON, Shape.PLAIN, sent_by=Peer.CLIENT)
    data = encode_frame(Framing.V1, MessageType.CONNECT, ID, payload_type, payload)
    assert len(data) < 126
    return bytes((0x82, 0x80 | len(data))) + bytes(4) + data


# -- which requests become connections ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/ws", "/?x=1", "/ws?token=1"])
async def test_a_websocket_is_opened_at_its_paths(open_port: OpenPort, path: str) -> None:
    port = await open_port()

    answer = await port.ask(*UPGRADE, path=path)

    assert answer.status == 101
    assert "sec-websocket-protocol" not in answer.headers


async def test_a_path_that_is_none_of_ours_is_not_found(open_port: OpenPort) -> None:
    port = await open_port()

    assert (await port.ask(*UPGRADE, path="/other")).status == 404


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("signal-manager.v2", "signal-manager.v2"),
        ("unknown, signal-manager.v1", "signal-manager.v1"),
        ("signal-manager.json", "signal-manager.json"),
        ("unknown", None),
    ],
)
async def test_the_first_subprotocol_that_both_know_is_spoken(
    open_port: OpenPort, offered: str, chosen: str | None
) -> None:
    port = await open_port()

    answer = await port.ask(*UPGRADE, f"Sec-WebSocket-Protocol: {offered}")

    assert (answer.status, answer.headers.get("sec-websocket-protocol")) == (101, chosen)


async def test_firefox_may_ask_for_more_than_the_upgrade(open_port: OpenPort) -> None:
    port = await open_port()

    assert (await port.ask("Connection: keep-alive, Upgrade", *UPGRADE[1:])).status == 101


@pytest.mark.parametrize(
    "headers",
    [
        (*UPGRADE[:2], "Sec-WebSocket-Version: 8", UPGRADE[3]),
        (*UPGRADE, "Sec-WebSocket-Version: 13"),
        (*UPGRADE, "Sec-WebSocket-Protocol: na\xefve"),
        (*UPGRADE, "Origin: http://na\xefve"),
    ],
)
async def test_headers_that_are_wrong_are_named(open_port: OpenPort, headers: tuple[str, ...]) -> None:
    port = await open_port()

    answer = await port.ask(*headers)

    assert answer.status == 400
    assert b"expected" in answer.body


async def test_pages_of_other_origins_may_not_connect(open_port: OpenPort) -> None:
    port = await open_port(allowed_origins=("https://app.test",))

    with capture_logs() as logs:
        refused = await port.ask(*UPGRADE, "Origin: https://evil.test")
    allowed = await port.ask(*UPGRADE, "Origin: https://app.test")
    no_page = await port.ask(*UPGRADE)

    assert (refused.status, allowed.status, no_page.status) == (403, 101, 101)
    assert [line["address"] for line in logs if line["event"] == "origin refused"] == ["127.0.0.1"]


# -- too many ----------------------------------------------------------------------------------------------------------

ELSEWHERE = "X-Forwarded-For: 192.0.2.7"


async def test_an_address_that_comes_too_often_is_told_when_to_come_back(open_port: OpenPort) -> None:
    port = await open_port(limits=Limits(connects_per_minute=1), trusted_proxies=("127.0.0.1",))
    usage = port.server._registry.occupancy.usage
    address = limits_module.address_of("192.0.2.7")
    usage.check_authentication(address, time.monotonic())

    answer = await port.ask(*UPGRADE, ELSEWHERE)

    assert (answer.status, answer.body) == (429, b"too many connections in a minute\n")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert (await port.ask(*UPGRADE, "X-Forwarded-For: 198.51.100.1")).status == 101


async def test_an_address_that_guesses_tokens_gets_no_connection(open_port: OpenPort) -> None:
    port = await open_port(limits=Limits(failed_auth_per_minute=1), trusted_proxies=("127.0.0.1",))
    port.server._registry.occupancy.usage.authentication_failed(limits_module.address_of("192.0.2.7"), time.monotonic())

    answer = await port.ask(*UPGRADE, ELSEWHERE)

    assert (answer.status, answer.body) == (429, b"too many failed authentications\n")
    assert "retry-after" in answer.headers


async def test_a_full_service_tells_some_why_and_the_rest_by_http(
    open_port: OpenPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "TURNED_AWAY", 0)
    port = await open_port(limits=Limits(max_connections=0))

    answer = await port.ask(*UPGRADE)

    assert (answer.status, answer.headers["retry-after"]) == (503, "5")


# -- other requests ----------------------------------------------------------------------------------------------------


async def test_health_says_version_and_connections(open_port: OpenPort) -> None:
    port = await open_port()
    await port.open(*UPGRADE)
    await until(lambda: port.connections == 1)

    answer = await port.ask(path="/health?from=probe")

    body = json.loads(answer.body)
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    assert (body["status"], body["version"], body["connections"]) == ("healthy", "1.2.3", 1)
    assert body["uptime"] >= 0


HTML = "Accept: text/html,application/xhtml+xml"


@pytest.mark.parametrize(
    ("headers", "host", "is_loopback", "location"),
    [
        ((HTML,), "localhost:8080", True, "http://127.0.0.1:9090/"),
        ((HTML,), "example.test", True, None),  # it cannot reach pages on loopback
        ((HTML,), "example.test:8080", False, "http://example.test:9090/"),
        ((HTML,), "[::1]:8080", False, "http://[::1]:9090/"),
        ((HTML,), "evil.test/path", False, None),
        (("Accept: application/json",), "localhost", True, None),
        ((HTML, *UPGRADE), "localhost", True, None),
    ],
)
async def test_a_browser_that_opens_the_port_is_sent_to_the_pages_that_it_can_reach(
    open_port: OpenPort, headers: tuple[str, ...], host: str, is_loopback: bool, location: str | None
) -> None:
    port = await open_port()
    port.server.dashboard = Dashboard("127.0.0.1", 9090, is_loopback=is_loopback)

    answer = await port.ask(*headers, host=host)

    assert answer.headers.get("location") == location
    assert (answer.status == 302) is (location is not None)


async def test_without_a_dashboard_nobody_is_sent_to_it(open_port: OpenPort) -> None:
    port = await open_port()

    assert (await port.ask(HTML)).status != 302


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9090/"),
        ("0.0.0.0", "http://127.0.0.1:9090/"),
        ("::", "http://[::1]:9090/"),
        ("example.test", "http://example.test:9090/"),
    ],
)
def test_the_dashboards_url_is_one_that_a_browser_here_can_open(host: str, url: str) -> None:
    assert Dashboard(host, 9090).url == url


# -- a connection's life -----------------------------------------------------------------------------------------------


async def test_a_client_connects_is_counted_and_is_closed_by_a_stop(open_port: OpenPort) -> None:
    port = await open_port()
    before = port.server.live_sessions.phase
    reader, writer = await port.open(*UPGRADE, "Sec-WebSocket-Protocol: signal-manager.v1")
    await reader.readuntil(b"\r\n\r\n")
    writer.write(connect_frame())
    await until(lambda: len(list(port.server.live_sessions.sessions())) == 1)
    metrics = port.metrics
    gauges = [
        metrics.sessions.value(),
        metrics.handshakes_pending.value(),
        metrics.requests_pending.value(),
        metrics.clients_behind.value(),
        metrics.outbound_queue_bytes.value(),
    ]

    await port.server.stop()
    await port.server.stop()
    rest = await asyncio.wait_for(reader.read(), 30)

    assert gauges == [1, 0, 0, 0, 0]
    assert b"service is stopping" in rest
    assert (before, port.server.live_sessions.phase) == (Phase.SERVING, Phase.DRAINING)
    assert port.connections == 0
    next_start = await open_port(storage=port.storage)
    assert await next_start.server.reclaim() == 1


async def test_clients_of_this_machine_and_of_others_are_told_apart(open_port: OpenPort) -> None:
    port = await open_port(trusted_proxies=("127.0.0.1",))
    for headers in ((), (ELSEWHERE,)):
        reader, writer = await port.open(*UPGRADE, *headers)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(connect_frame("far" if headers else "near"))
    await until(lambda: bool(port.authenticator.asked) and bool(port.far.asked))

    assert [name for name, _ in port.authenticator.asked] == ["near"]
    assert [name for name, _ in port.far.asked] == ["far"]


async def test_a_client_that_says_nothing_is_found(open_port: OpenPort) -> None:
    port = await open_port(session=SessionSettings(connection_timeout=0.2))
    reader, _ = await port.open(*UPGRADE)

    await asyncio.wait_for(reader.readuntil(b"no CONNECT in time"), 30)


async def test_a_sweep_that_fails_is_logged_and_repeated(open_port: OpenPort, monkeypatch: pytest.MonkeyPatch) -> None:
    port = await open_port(session=SessionSettings(connection_timeout=0.2))
    swept: list[float] = []

    def fail(now: float) -> None:
        swept.append(now)
        raise RuntimeError("a fault")

    with capture_logs() as logs:
        monkeypatch.setattr(port.server._registry, "sweep", fail)
        await until(lambda: len(swept) >= 2, limit=30)

    assert {line["event"] for line in logs} == {"sweep failed"}


async def test_lines_about_strangers_that_were_left_out_are_counted(
    open_port: OpenPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = await open_port(session=SessionSettings(connection_timeout=0.2))

    with capture_logs() as logs:
        monkeypatch.setattr(port.server._registry.sample, "left_out", lambda now: {"connection refused": 7})
        await until(lambda: bool(logs), limit=30)

    assert logs[0]["counts"] == {"connection refused": 7}


async def test_the_bus_asks_for_sessions_and_joins_writes(open_port: OpenPort) -> None:
    port = await open_port(resume=ResumeSettings(window=0.0))

    port.server.join_writes()
    is_open = port.server._registry.relay_context.batch is not None
    port.server.flush_writes()

    assert (is_open, port.server._registry.relay_context.batch) == (True, None)
    assert port.server.hand_over(ClientId("a"), b"garbage") is None
    assert not port.server.is_secure
