"""The accept loop: half-open sockets, floods, and a lack of file descriptors."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from picows import WSListener, WSUpgradeRequest
from structlog.testing import capture_logs

from signal_manager.errors import ConfigurationError
from signal_manager.gateway import listener
from signal_manager.gateway.handshake import Handshakes
from signal_manager.gateway.limits import ClientAddress, TrustedProxies
from signal_manager.gateway.listener import Listener
from tests.waiting import until

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

ListenWith = Callable[..., Awaitable[Listener]]


def accept_all(request: WSUpgradeRequest, peer: str, accepted_at: float) -> WSListener:
    return WSListener()


@pytest.fixture
async def listen() -> AsyncIterator[ListenWith]:
    """Start a listener with these arguments."""
    async with AsyncExitStack() as stack:

        async def start(host: str = "127.0.0.1", **arguments: Any) -> Listener:
            settings: dict[str, Any] = {"max_half_open": 10, "proxies": TrustedProxies([])}
            handshakes = Handshakes(accept_all, time_limit=10.0, max_frame_size=1000, read_buffer_size=2048)
            listening = listener.listen(host, 0)
            stack.callback(listening.close)
            made = Listener(handshakes, listening, **(settings | arguments))
            await made.start()
            stack.push_async_callback(made.stop)
            return made

        yield start


@pytest.fixture
def counted_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let loopback count as any other address."""
    monkeypatch.setattr(listener, "address_of", lambda text: ClientAddress(text, (text.encode(),)))


class Client:
    """A TCP client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def read(self) -> bytes:
        """Return what comes, and nothing when the connection is over."""
        try:
            return await asyncio.wait_for(self._reader.read(1000), 5)
        except ConnectionResetError:
            return b""

    async def upgrade(self) -> bool:
        self.write(REQUEST)
        return (await self.read()).startswith(b"HTTP/1.1 101 ")

    def close(self) -> None:
        self._writer.close()


Connect = Callable[[Listener], Awaitable[Client]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    clients: list[Client] = []

    async def start(to: Listener) -> Client:
        clients.append(Client(*await asyncio.open_connection(to.host, to.port)))
        return clients[-1]

    yield start
    for client in clients:
        client.close()


async def test_a_websocket_is_no_longer_half_open(listen: ListenWith, connect: Connect) -> None:
    made = await listen()
    client = await connect(made)
    await until(lambda: made.half_open == 1)

    assert await client.upgrade()

    await until(lambda: made.half_open == 0)


async def test_a_client_that_leaves_is_not_either(listen: ListenWith, connect: Connect) -> None:
    made = await listen()
    client = await connect(made)
    await until(lambda: made.half_open == 1)

    client.close()

    await until(lambda: made.half_open == 0)


async def test_a_crowd_is_accepted_a_few_at_a_time_so_that_others_get_their_turn(
    listen: ListenWith, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_ACCEPTS_PER_TURN", 2)
    turns: list[int] = []
    original = Listener._accept

    def accept(self: Listener) -> None:
        before = self.half_open
        original(self)
        turns.append(self.half_open - before)

    monkeypatch.setattr(Listener, "_accept", accept)
    made = await listen()
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        for crowd in (first, second, third):  # the kernel takes them while the service does something else
            crowd.connect((made.host, made.port))
        await until(lambda: made.half_open == 3)

    assert [came for came in turns if came] == [2, 1]


@pytest.mark.usefixtures("counted_loopback")
async def test_one_address_may_only_have_so_many_half_open(listen: ListenWith, connect: Connect) -> None:
    made = await listen(max_half_open=2)
    first, _ = await connect(made), await connect(made)

    with capture_logs() as lines:
        refused = [await connect(made) for _ in range(5)]
        assert [await client.read() for client in refused] == [b""] * 5

    assert [line["event"] for line in lines] == ["too many handshakes from one address"]
    assert await first.upgrade()
    third = await connect(made)
    assert await third.upgrade()


async def test_loopback_and_proxies_may_have_more(
    listen: ListenWith, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings in ({}, {"proxies": TrustedProxies(["127.0.0.1"])}):
        made = await listen(max_half_open=1, **settings)
        clients = [await connect(made) for _ in range(5)]
        assert [await client.upgrade() for client in clients] == [True] * 5
        monkeypatch.setattr(listener, "address_of", lambda text: ClientAddress(text, (text.encode(),)))


async def test_when_there_are_too_many_the_oldest_gives_way(
    listen: ListenWith, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HALF_OPEN", 3)
    monkeypatch.setattr(listener, "_PATIENCE", 0.0)
    made = await listen()
    clients = [await connect(made) for _ in range(4)]

    assert await clients[3].upgrade()
    assert await clients[0].read() == b""
    assert await clients[2].upgrade()


async def test_until_the_oldest_has_had_its_time_the_others_wait(
    listen: ListenWith, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HALF_OPEN", 1)
    made = await listen()
    first, second = await connect(made), await connect(made)
    await until(lambda: made.half_open == 1)

    assert await first.upgrade()
    assert await second.upgrade()


class Exhausted:
    """A listening socket whose `accept` fails as it does without descriptors, for as long as `failing` says."""

    def __init__(self, real: socket.socket, *, error: int) -> None:
        self._real = real
        self._error = error
        self.failing = True
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def accept(self) -> tuple[socket.socket, Any]:
        self.asked += 1
        if self.failing:
            raise OSError(self._error, "not now")
        return self._real.accept()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EPERM])
async def test_a_failing_accept_is_tried_again_later_and_told_once(
    listen: ListenWith, connect: Connect, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Descriptors that run out for real are in tests/integration/test_descriptors.py."""
    monkeypatch.setattr(listener, "_PAUSE_SHORTAGE", 0.02)
    exhausted: list[Exhausted] = []
    original = socket.create_server

    def create(*args: Any, **kwargs: Any) -> Any:
        exhausted.append(Exhausted(original(*args, **kwargs), error=error))
        return exhausted[-1]

    monkeypatch.setattr(socket, "create_server", create)
    with capture_logs() as lines:
        made = await listen()
        monkeypatch.setattr(os, "open", _fail)
        client = await connect(made)
        await until(lambda: exhausted[0].asked >= 4)

    assert [line["event"] for line in lines] == ["cannot accept connections"]
    exhausted[0].failing = False
    assert await client.upgrade()


def _fail(*_args: object) -> int:
    raise OSError(errno.EMFILE, "too many open files")


async def test_a_name_with_several_addresses_is_listened_on_at_its_ipv4_address(listen: ListenWith) -> None:
    made = await listen("localhost")

    assert made.host == "127.0.0.1"
    _, writer = await asyncio.open_connection("127.0.0.1", made.port)
    writer.close()


async def test_stopping_ends_every_handshake(listen: ListenWith, connect: Connect) -> None:
    made = await listen()
    client = await connect(made)
    await until(lambda: made.half_open == 1)

    await made.stop()

    assert made.half_open == 0
    assert await client.read() == b""


async def test_an_address_of_nobody_is_explained(listen: ListenWith) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1:0"):
        await listen("192.0.2.1")
