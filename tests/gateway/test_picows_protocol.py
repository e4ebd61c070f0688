"""What the service takes from picows' protocol class, which has no public name (docs/upstream.md)."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import pytest
import uvloop
from picows import WSFrame, WSListener, WSTransport

from signal_manager.gateway.picows_protocol import PicowsProtocol
from tests.waiting import until

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MOVED = f"picows {version('picows')} has changed how its WSProtocol reads; see docs/upstream.md"


class Client(WSListener):
    """A connection that notes what its read buffer reports."""

    def __init__(self, *, is_established: bool) -> None:
        self.is_established = is_established
        self.sizes: list[int] = []
        self.received: list[int] = []
        self.does: Callable[[], None] | None = None

    def buffered(self, size: int) -> None:
        self.sizes.append(size)
        if self.does is not None:
            self.does()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.received.append(frame.payload_size)


class Observed(PicowsProtocol):
    """Notes how much it offers to read."""

    __slots__ = ("offered",)

    offered: list[int]

    def get_buffer(self, size_hint: int) -> memoryview:
        free = super().get_buffer(size_hint)
        self.offered.append(len(free))
        return free


@asynccontextmanager
async def upgraded(client: Client) -> AsyncIterator[tuple[Observed, asyncio.StreamWriter]]:
    """Serve this client on a TCP port, and return both ends once the WebSocket is open."""
    made: list[Observed] = []

    def protocol() -> Any:
        made.append(
            Observed(
                lambda _request: client,
                logger=logging.LoggerAdapter(logging.getLogger("picows.test"), {}),
                max_frame_size=1 << 20,
                read_buffer_size=2048,
            )
        )
        made[0].offered = []
        return made[0]

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(REQUEST)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await made[0].wait_until_handshake_complete()
        yield made[0], writer
        writer.transport.abort()


def frame(size: int) -> bytes:
    """Return a binary frame with a mask of zeros."""
    length = b"\xfe" + size.to_bytes(2, "big") if size < 65_536 else b"\xff" + size.to_bytes(8, "big")
    return b"\x82" + length + bytes(4 + size)


@pytest.mark.parametrize(("is_established", "at_once"), [(False, 8192), (True, 65_536)], ids=["stranger", "client"])
async def test_a_read_is_bounded_and_the_buffer_reports_its_growth(is_established: bool, at_once: int) -> None:
    client = Client(is_established=is_established)

    async with upgraded(client) as (protocol, writer):
        writer.write(frame(300_000))
        await until(lambda: bool(client.received))

    assert client.received == [300_000], MOVED
    assert max(protocol.offered) == at_once, MOVED
    # It doubles: each report is of a buffer that holds the message so far and has about as much room again.
    assert client.sizes == sorted(client.sizes), MOVED
    assert client.sizes[-1] > 131_072, MOVED


async def test_small_messages_do_not_make_the_buffer_grow() -> None:
    client = Client(is_established=True)

    async with upgraded(client) as (protocol, writer):
        writer.write(frame(1000) * 200)
        await until(lambda: len(client.received) == 200)

    # The first reads of a flood fill a buffer of 2 KB; beyond twice the size of a read it holds nothing unfinished.
    assert all(size <= 2 * 65_536 for size in client.sizes), MOVED
    assert max(protocol.offered) <= 65_536, MOVED


@pytest.mark.parametrize("what", ["pause_reading", "abort"])
def test_a_connection_whose_buffer_has_grown_may_pause_or_cut_the_socket(what: str) -> None:
    async def run() -> None:
        client = Client(is_established=False)
        async with upgraded(client) as (protocol, writer):
            socket = protocol.transport.underlying_transport
            client.does = getattr(socket, what)
            writer.write(frame(60_000))
            await until(lambda: bool(client.sizes))
            await asyncio.sleep(0)

            assert len(client.sizes) == 1
            assert not client.received
            socket.abort()
            await until(lambda: protocol.transport.is_disconnected)

    uvloop.run(run())  # it ends the process if a socket is paused while it asks where to read to


def test_a_picows_without_the_class_is_named_with_what_to_install() -> None:
    program = "import picows.picows\ndel picows.picows.WSProtocol\nimport signal_manager.gateway.picows_protocol\n"

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert result.stderr.splitlines()[-1] == (
        f"ImportError: picows {version('picows')} has no class WSProtocol in picows.picows, on which the service "
        "builds; install picows 2.3, and see docs/upstream.md"
    )
