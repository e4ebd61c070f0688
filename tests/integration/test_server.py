"""The listener and its connections, where only bytes on the socket tell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import structlog
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from signal_manager.errors import ConfigurationError
from signal_manager.gateway import frames
from signal_manager.protocol import relay
from tests.integration.conftest import Service, ServiceWith
from tests.web import plain_http

ONE = ("test_client_1", "test_token_1")
TWO = ("test_client_2", "test_token_2")
OFFER, CONNECT, HEARTBEAT_ACK = 0x10, 0x01, 0x05


def frame(message_type: int, body: bytes, payload_type: int = 2) -> bytes:
    return struct.pack(">BB16sBH", 0xAA, message_type, bytes(16), payload_type, len(body)) + body


def masked(payload: bytes, opcode: int = 0x82) -> bytes:
    """A client's WebSocket frame (RFC 6455, section 5.2) with a mask of zeros."""
    size = len(payload)
    head = bytes((opcode, 0x80 | size)) if size < 126 else struct.pack(">BBH", opcode, 0x80 | 126, size)
    return head + bytes(4) + payload


def connect_frame(client: tuple[str, str]) -> bytes:
    return frame(CONNECT, json.dumps({"client_id": client[0], "auth_token": client[1]}).encode())


def offer_frame(target: str, number: int) -> bytes:
    return frame(OFFER, json.dumps({"target_client_id": target, "signal_data": number}).encode())


class RawClient:
    """A WebSocket client that shows when bytes were written together."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(1 << 20), 5)

    async def frame(self) -> bytes:
        head = await asyncio.wait_for(self.reader.readexactly(2), 5)
        size = head[1]
        if size == 126:
            size = struct.unpack(">H", await self.reader.readexactly(2))[0]
        return await asyncio.wait_for(self.reader.readexactly(size), 5)


RawConnect = Callable[[Service, tuple[str, str]], Awaitable[RawClient]]


@pytest.fixture
async def raw_connect() -> AsyncIterator[RawConnect]:
    clients: list[RawClient] = []

    async def start(service: Service, client: tuple[str, str]) -> RawClient:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        clients.append(RawClient(reader, writer))
        writer.write(masked(connect_frame(client)))
        await clients[-1].frame()
        return clients[-1]

    yield start
    for client in clients:
        client.writer.close()


async def connected(service: Service, client: tuple[str, str]) -> ClientConnection:
    websocket = await connect(service.url, compression=None)
    await websocket.send(connect_frame(client))
    await websocket.recv()
    return websocket


async def close_code(websocket: ClientConnection) -> int | None:
    """Read to the end, and tell how it ended."""
    with contextlib.suppress(ConnectionClosed):
        async with asyncio.timeout(5):
            while True:
                await websocket.recv()
    return websocket.close_code


async def test_what_one_read_causes_for_a_target_goes_out_in_one_write(
    service: Service, raw_connect: RawConnect
) -> None:
    sender, receiver = await raw_connect(service, ONE), await raw_connect(service, TWO)

    sender.writer.write(b"".join(masked(offer_frame(TWO[0], number)) for number in range(8)))

    together = await receiver.read()
    assert [together.count(b'"signal_data":%d}' % number) for number in range(8)] == [1] * 8


async def test_a_ping_at_the_end_of_a_read_holds_nothing_back(service: Service, raw_connect: RawConnect) -> None:
    sender, receiver = await raw_connect(service, ONE), await raw_connect(service, TWO)

    sender.writer.write(masked(offer_frame(TWO[0], 1)) + masked(b"hi", 0x89))

    assert b'"signal_data":1' in await receiver.frame()
    assert await sender.frame() == b"hi"


@pytest.mark.parametrize("size", [10, 1_000, 60_000])
async def test_joined_frames_of_every_length_are_right(service: Service, raw_connect: RawConnect, size: int) -> None:
    sender, receiver = await connected(service, ONE), await connected(service, TWO)
    body = json.dumps({"target_client_id": TWO[0], "signal_data": "x" * size}).encode()

    # One write of the transport, so that the service reads the two together where they fit one buffer.
    await asyncio.gather(*(sender.send(frame(OFFER, body)) for _ in range(3)))

    for _ in range(3):
        message = await asyncio.wait_for(receiver.recv(), 5)
        assert isinstance(message, bytes)
        assert json.loads(message[21:])["signal_data"] == "x" * size
    await sender.close()
    await receiver.close()


async def test_one_client_too_many_is_closed_4503(service_with: ServiceWith) -> None:
    service = await service_with(**{"server.max_connections": 1})
    first = await connected(service, ONE)

    second = await connect(service.url, compression=None)

    assert await close_code(second) == 4503
    await first.close()


async def test_a_message_larger_than_allowed_is_closed_1009(service_with: ServiceWith) -> None:
    service = await service_with(**{"server.max_message_size": 1000})
    whole, in_pieces = await connected(service, ONE), await connected(service, TWO)

    await whole.send(bytes(1001))
    await in_pieces.send([bytes(400)] * 3)

    assert await close_code(whole) == 1009
    assert await close_code(in_pieces) == 1009


async def test_fragments_out_of_order_are_closed_1002(service: Service, raw_connect: RawConnect) -> None:
    client = await raw_connect(service, ONE)

    client.writer.write(masked(b"a continuation of nothing", 0x80))

    assert (await client.frame())[:2] == struct.pack(">H", 1002)


async def test_a_fault_in_a_handler_ends_only_that_connection(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await connected(service, ONE), await connected(service, TWO)

    def fail(*_args: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(relay, "_decode_plain", fail)
    await one.send(offer_frame(TWO[0], 1))

    assert await close_code(one) == 1011
    monkeypatch.undo()
    await two.send(frame(0x04, b'{"timestamp":7}'))
    answer = await asyncio.wait_for(two.recv(), 5)
    assert isinstance(answer, bytes)
    assert answer[1] == HEARTBEAT_ACK
    await two.close()


async def test_a_client_that_does_not_answer_the_close_is_cut(
    service: Service, raw_connect: RawConnect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "CLOSE_TIMEOUT", 0.05)
    client = await raw_connect(service, ONE)

    client.writer.write(masked(frame(0x03, b"{}")))

    assert (await client.frame())[:2] == struct.pack(">H", 1000)
    assert await client.read() == b""


async def test_stopping_closes_every_client_1012_and_frees_the_port(service_with: ServiceWith) -> None:
    service = await service_with()
    websocket = await connected(service, ONE)

    await asyncio.gather(service.server.stop(), close_code(websocket))

    assert websocket.close_code == 1012
    with pytest.raises(OSError, match=r"refused|failed"):
        await connect(service.url)


async def test_health_counts_connections(service: Service) -> None:
    websocket = await connected(service, ONE)
    async with plain_http() as http:
        response = await http.get(f"{service.http}/health")
        missing = await http.get(f"{service.http}/nothing")

    assert response.headers["content-type"] == "application/json"
    assert response.json() | {"uptime": 0, "version": ""} == {
        "status": "healthy",
        "version": "",
        "uptime": 0,
        "connections": 1,
    }
    assert missing.status_code == 404
    await websocket.close()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"server.host": "192.0.2.1"}, "cannot listen on 192.0.2.1"),
        ({"server.host": "no.such.host.invalid"}, "no address of this machine"),
    ],
)
async def test_an_address_that_cannot_be_listened_on_is_explained(
    service_with: ServiceWith, settings: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        await service_with(**settings)


async def test_a_taken_port_is_explained(service: Service, service_with: ServiceWith) -> None:
    with pytest.raises(ConfigurationError, match="the port is taken"):
        await service_with(**{"server.port": service.port})


async def test_the_log_has_a_line_for_each_step_and_no_secret(service_with: ServiceWith) -> None:
    structlog.reset_defaults()
    with capture_logs() as lines:
        service = await service_with()
        one, two = await connected(service, ONE), await connected(service, TWO)
        refused = await connect(service.url, compression=None)
        await refused.send(connect_frame((ONE[0], "wrong-token")))
        await close_code(refused)
        for number in range(50):
            await one.send(offer_frame(TWO[0], number))
        for _ in range(50):
            await two.recv()
        await one.close()
        await two.close()
        await service.server.stop()

    events = [line["event"] for line in lines]
    assert events.count("connection opened") == 3
    assert events.count("connection authenticated") == 2
    assert events.count("connection refused") == 1
    closed = [line for line in lines if line["event"] == "connection closed"]
    assert sorted((line["received"], line["sent"]) for line in closed) == [(1, 1), (1, 51), (51, 1)]
    assert all("reason" in line and "duration" in line for line in closed)
    assert len(lines) < 15, "a relayed signal is not worth a line"
    assert not any(secret in json.dumps(lines) for secret in ("test_token_1", "test_token_2", "wrong-token"))
