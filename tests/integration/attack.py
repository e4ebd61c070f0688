"""What the attack tests share: a client without manners, and two others that talk meanwhile.

The client writes any bytes and shows every frame, so that the tests can break each rule of RFC 6455 by itself.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ssl import SSLContext
from typing import NamedTuple
from uuid import UUID

from tests.integration.v1_client import ALICE, BOB, PLAIN, TIME_LIMIT, connect, frame, string8

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "MALLORY",
    "PING",
    "PONG",
    "TEXT",
    "Frame",
    "RudeClient",
    "close_frame",
    "request",
    "talking",
    "to_self",
    "wire",
]

MALLORY = ("mallory", "mallorys-token")

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_MASK = b"\x12\x34\x56\x78"


def wire(opcode: int, payload: bytes = b"", *, final: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """Return one client's frame (RFC 6455, section 5.2); `reserved` are its three reserved bits."""
    head = bytes([(0x80 if final else 0) | reserved << 4 | opcode])
    mark = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head += bytes([mark | size])
    elif size < 65536:
        head += bytes([mark | 126]) + struct.pack(">H", size)
    else:
        head += bytes([mark | 127]) + struct.pack(">Q", size)
    if not masked:
        return head + payload
    key = int.from_bytes(_MASK * (size // 4 + 1))
    surplus = len(_MASK) * (size // 4 + 1) - size
    return head + _MASK + (int.from_bytes(payload) ^ key >> 8 * surplus).to_bytes(size)


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """Return a close frame."""
    return wire(CLOSE, struct.pack(">H", code) + reason)


def to_self(data: bytes) -> bytes:
    """Return a v2 message of Mallory to herself, which comes back as the same bytes."""
    return frame("SIGNAL_MESSAGE", "BINARY", string8(MALLORY[0]) + data, id=UUID(int=7), version="v2")


def request(path: str = "/", *lines: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """Return an upgrade request (RFC 6455, section 4.1) with these header lines added."""
    own = (
        f"{method} {path} {version}",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version: 13",
    )
    return "\r\n".join((*own, *lines, "", "")).encode("latin-1")


class Frame(NamedTuple):
    """One frame of the service."""

    opcode: int
    payload: bytes


class RudeClient:
    """A socket that says what the test wants and answers nothing by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int, *, ssl: SSLContext | None = None) -> AsyncIterator[RudeClient]:
        """Connect, and leave at the end without a word."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ssl)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    @classmethod
    @asynccontextmanager
    async def upgraded(
        cls, port: int, *lines: str, subprotocol: str = "signal-manager.v2"
    ) -> AsyncIterator[RudeClient]:
        """Connect and become a WebSocket."""
        async with cls.open(port) as client:
            client.write(request("/", f"Sec-WebSocket-Protocol: {subprotocol}", *lines))
            assert (await client.read_head()).startswith("HTTP/1.1 101 ")
            yield client

    @classmethod
    @asynccontextmanager
    async def mallory(cls, port: int, *, subprotocol: str = "signal-manager.v2") -> AsyncIterator[RudeClient]:
        """Connect and log in."""
        async with cls.upgraded(port, subprotocol=subprotocol) as client:
            if subprotocol == "signal-manager.json":
                login = b'{"type":"CONNECT","payload":{"client_id":"%b","auth_token":"%b"}}'
                client.write(wire(TEXT, login % (MALLORY[0].encode(), MALLORY[1].encode())))
            else:
                login = frame(
                    "CONNECT", "BINARY", string8(MALLORY[0]) + string8(MALLORY[1]), id=UUID(int=1), version="v2"
                )
                client.write(wire(BINARY, login))
            answer = await client.read_frame()
            assert b"success" in answer.payload
            yield client

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)

    async def write_in_pieces(self, data: bytes, size: int) -> None:
        """Send bytes so that the service reads no more than `size` of them at a time, as far as that can be had."""
        for start in range(0, len(data), size):
            self._writer.write(data[start : start + size])
            await asyncio.sleep(0)

    async def drain(self) -> None:
        """Wait until what was written is on its way, or the service is gone."""
        with suppress(ConnectionError):
            await asyncio.wait_for(self._writer.drain(), TIME_LIMIT)

    def stop_reading(self) -> None:
        """Let what the service sends pile up."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket has it

    def go_on_reading(self) -> None:
        """Read again."""
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]  # a transport of a socket has it

    def finish(self) -> None:
        """Say that no more will come, and go on reading."""
        self._writer.write_eof()

    async def read_head(self) -> str:
        """Return the head of an HTTP response, or nothing when the connection is closed instead."""
        try:
            return (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), TIME_LIMIT)).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return ""

    async def read_frame(self) -> Frame:
        """Return the next frame, which no server masks or compresses."""
        async with asyncio.timeout(TIME_LIMIT):
            head = await self._reader.readexactly(2)
            assert head[0] & 0x70 == 0, "a reserved bit is set"
            assert head[1] & 0x80 == 0, "a server's frame is masked"
            size = head[1]
            if size == 126:
                size = struct.unpack(">H", await self._reader.readexactly(2))[0]
            elif size == 127:
                size = struct.unpack(">Q", await self._reader.readexactly(8))[0]
            return Frame(head[0] & 0x0F, await self._reader.readexactly(size))

    async def read_close(self) -> int | None:
        """Read to the close frame, and return its code; None when the connection ends without one."""
        try:
            while (answer := await self.read_frame()).opcode != CLOSE:
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return int(struct.unpack(">H", answer.payload[:2])[0])

    async def read_end(self) -> None:
        """Read until the service closes the socket."""
        with suppress(ConnectionError):
            await asyncio.wait_for(self._reader.read(), TIME_LIMIT)

    async def check_alive(self) -> None:
        """Prove that the connection works and that nothing was waiting to be read."""
        self.write(wire(PING, b"alive?"))
        assert await self.read_frame() == Frame(PONG, b"alive?")


@asynccontextmanager
async def talking(url: str) -> AsyncIterator[None]:
    """Let Alice and Bob talk while the block lasts: all that she says must reach him, in order and unharmed."""
    async with connect(url) as alice, connect(url) as bob:
        await alice.log_in()
        await bob.log_in(BOB)
        enough = asyncio.Event()

        async def talk() -> int:
            said = 0
            while not enough.is_set() or said < 3:
                await alice.signal("SIGNAL_OFFER", BOB[0], f"number {said}")
                assert PLAIN.read_signal(await bob.expect("SIGNAL_OFFER")) == (ALICE[0], f"number {said}")
                said += 1
                await asyncio.sleep(0.002)
            return said

        talk_task = asyncio.create_task(talk())
        try:
            yield
        finally:
            enough.set()
            await talk_task
        await alice.check_alive()
        await bob.check_alive()
