"""From an accepted socket to its WebSocket: the time limit, and what happens to the socket when that fails."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from picows import WSListener, WSUpgradeRequest
from structlog.testing import capture_logs

from signal_manager.gateway.handshake import Handshake, Handshakes
from signal_manager.gateway.tls import Certificate
from tests.certificates import Authority

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Asked:
    """Answers every request with a WebSocket, and keeps from where they came."""

    def __init__(self) -> None:
        self.peers: list[str] = []
        self.refuses = False

    def __call__(self, request: WSUpgradeRequest, peer: str, accepted_at: float) -> WSListener | None:
        self.peers.append(peer)
        return None if self.refuses else WSListener()


class Begun(NamedTuple):
    """A handshake, and whether it is over."""

    handshake: Handshake
    over: asyncio.Event


Begin = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter, "Begun"]]]


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
async def begin(asked: Asked) -> AsyncIterator[Begin]:
    """Connect a client, and begin the handshake on the service's end with these arguments."""
    async with AsyncExitStack() as stack:

        async def start(
            **arguments: Any,
        ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Begun]:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            settings: dict[str, Any] = {"time_limit": 30.0, "max_frame_size": 1000, "read_buffer_size": 2048}
            handshakes = Handshakes(asked, **(settings | arguments))
            handshakes.start()
            stack.callback(handshakes.stop)
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            stack.callback(writer.close)
            accepted, _ = listening.accept()
            accepted.setblocking(False)
            over = asyncio.Event()
            handshake = handshakes.begin(accepted, "peer", time.monotonic(), lambda _handshake: over.set())
            return reader, writer, Begun(handshake, over)

        yield start


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the service closes the socket."""
    try:
        return await asyncio.wait_for(reader.read(), 30) == b""
    except ConnectionResetError:
        return True


async def test_a_request_becomes_a_websocket_and_the_handshake_is_over(begin: Begin, asked: Asked) -> None:
    reader, writer, handshake = await begin()
    writer.write(REQUEST)

    assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 101 ")
    await asyncio.wait_for(handshake.over.wait(), 30)
    assert asked.peers == ["peer"]


@pytest.mark.parametrize("sent", [b"", b"GET / HT", REQUEST[:-2]], ids=["nothing", "a piece", "nearly all"])
async def test_a_handshake_that_takes_too_long_is_ended(begin: Begin, sent: bytes) -> None:
    with capture_logs() as lines:
        reader, writer, handshake = await begin(time_limit=0.1)
        writer.write(sent)

        assert await ended(reader)
        await asyncio.wait_for(handshake.over.wait(), 30)
    assert [line["event"] for line in lines] == ["handshake took too long"]


async def test_a_handshake_that_goes_on_byte_by_byte_is_ended_too(begin: Begin) -> None:
    reader, writer, _ = await begin(time_limit=0.2)

    async def trickle() -> None:
        while True:
            writer.write(b"G")
            await asyncio.sleep(0.01)

    trickling = asyncio.create_task(trickle())
    assert await ended(reader)
    trickling.cancel()


async def test_a_failed_tls_handshake_is_one_line_and_not_an_error_of_the_event_loop(
    begin: Begin, tmp_path: Path
) -> None:
    pair = Authority(tmp_path).issue("service")
    certificate = Certificate(cert_path=str(pair.certificate), key_path=str(pair.key))
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    with capture_logs() as lines:
        reader, writer, handshake = await begin(certificate=certificate)
        writer.write(REQUEST)
        await ended(reader)
        await asyncio.wait_for(handshake.over.wait(), 30)

    assert [line["event"] for line in lines] == ["TLS handshake failed"]
    assert reported == []


async def test_a_cancelled_handshake_closes_its_socket(begin: Begin) -> None:
    reader, _, handshake = await begin()
    await asyncio.sleep(0)

    handshake.handshake.cancel()

    assert await ended(reader)


async def test_the_event_loop_reports_errors_as_before_when_the_port_closes(tmp_path: Path, asked: Asked) -> None:
    pair = Authority(tmp_path).issue("service")
    certificate = Certificate(cert_path=str(pair.certificate), key_path=str(pair.key))
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    before = loop.get_exception_handler()
    handshakes = Handshakes(asked, time_limit=30, max_frame_size=1, read_buffer_size=1, certificate=certificate)

    handshakes.start()
    loop.call_exception_handler({"message": "client left", "exception": ssl.SSLError})
    loop.call_exception_handler({"message": "a fault", "exception": ValueError()})
    handshakes.stop()

    assert [each["message"] for each in reported] == ["a fault"]
    assert loop.get_exception_handler() is before


async def test_a_websocket_keeps_nothing_of_its_handshake(begin: Begin) -> None:
    reader, writer, begun = await begin()
    writer.write(REQUEST)
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    await asyncio.wait_for(begun.over.wait(), 30)
    number = id(begun.handshake)

    del begun
    gc.collect()

    assert number not in {id(each) for each in gc.get_objects()}


async def test_a_refused_request_is_under_way_until_its_socket_is_closed(begin: Begin, asked: Asked) -> None:
    asked.refuses = True
    reader, writer, handshake = await begin()
    writer.write(REQUEST)

    assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 404 ")
    await asyncio.wait_for(handshake.over.wait(), 30)
    assert await reader.read() != b""


async def test_a_request_that_picows_refuses_ends_too(begin: Begin) -> None:
    reader, writer, handshake = await begin()
    writer.write(REQUEST.replace(b"Upgrade: websocket", b"Upgrade: h2c"))

    assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"HTTP/1.1 400 ")
    await asyncio.wait_for(reader.read(), 30)
    await asyncio.wait_for(handshake.over.wait(), 30)
