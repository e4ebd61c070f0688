"""One connection to nats-server: who is let in, what is read, and how each end is told; the server is a double."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from signal_manager.bus.nats import connection as module
from signal_manager.bus.nats.connection import NatsConnection, RefusedError, TlsError
from signal_manager.bus.nats.protocol import Complaint, Info, SignIn
from signal_manager.bus.nats.servers import Server
from tests.waiting import until

INFO = b'INFO {"max_payload": 1000}\r\n'
PONG = b"PONG\r\n"


class Double:
    """A nats-server of which the test says every byte."""

    def __init__(self, greeting: bytes, answer: bytes) -> None:
        self.greeting = greeting
        self.answer = answer
        self.lines: list[bytes] = []
        self.port = 0
        self.is_silent = False
        self.has_ended = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None

    def say(self, data: bytes) -> None:
        """Say something to the node."""
        assert self._writer is not None
        self._writer.write(data)

    def hang_up(self) -> None:
        """End the connection."""
        assert self._writer is not None
        self._writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one node: greet it, answer its first PING as the test said, and others with PONG."""
        self._writer = writer
        try:
            writer.write(self.greeting)
            await self._answer(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self.has_ended.set()

    async def wait_ended(self) -> None:
        """Wait for the end of the connection, if there was one."""
        if self._writer is not None:
            await self.has_ended.wait()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = self.answer
        while line := await reader.readline():
            self.lines.append(line)
            if line == b"PING\r\n" and not self.is_silent:
                if not answer:
                    return
                writer.write(answer)
                answer = PONG


class Scene:
    """A connection, and what it has told."""

    def __init__(self, double: Double) -> None:
        self.double = double
        self.events: list[Info | Complaint] = []
        self.lost: list[str] = []
        self.handlers: dict[bytes, Any] = {}
        self.connection = NatsConnection(self.handlers, on_event=self.events.append, on_lost=self.lost.append)

    async def open(self, *, wants_tls: bool = False) -> Info:
        """Open the connection."""
        server = Server("127.0.0.1", self.double.port, "127.0.0.1", wants_tls=wants_tls)
        async with asyncio.timeout(30):
            return await self.connection.open(
                server, name="n0", tls=None, sign_in=lambda info: SignIn(user="u", password="p")
            )


@asynccontextmanager
async def scene_of(greeting: bytes = INFO, answer: bytes = PONG) -> AsyncIterator[Scene]:
    """Run a server that greets like this, and answers a node's signing in."""
    double = Double(greeting, answer)
    async with await asyncio.start_server(double.serve, "127.0.0.1", 0) as server:
        double.port = server.sockets[0].getsockname()[1]
        scene = Scene(double)
        yield scene
        await scene.connection.abort()
        async with asyncio.timeout(30):
            await double.wait_ended()


@pytest.fixture
async def opened() -> AsyncIterator[Scene]:
    """A connection that is open."""
    async with scene_of() as scene:
        await scene.open()
        yield scene


# Signing in


async def test_a_node_signs_in_after_it_was_greeted() -> None:
    async with scene_of() as scene:
        info = await scene.open()

        assert info.max_payload == 1000
        assert scene.double.lines[0].startswith(b"CONNECT {")
        assert b'"user":"u"' in scene.double.lines[0].replace(b" ", b"")
        assert scene.lost == []


@pytest.mark.parametrize(
    ("greeting", "answer", "error", "reason"),
    [
        (INFO, b"-ERR 'Authorization Violation'\r\n", RefusedError, "Authorization Violation"),
        (INFO, b"-ERR 'Authentication Timeout'\r\n", ConnectionError, "Authentication Timeout"),
        (INFO + b"-ERR 'maximum connections exceeded'\r\n", PONG, ConnectionError, "maximum connections"),
        (b'INFO {"auth_required": true}\r\n', b"", RefusedError, "lost"),
        (b'INFO {"tls_verify": true}\r\n', b"", TlsError, "nats_cert_path"),
        (INFO, b"", ConnectionError, "lost"),
        (b"220 mail.example ESMTP\r\n", PONG, ConnectionError, "mail"),
    ],
)
async def test_a_server_that_does_not_let_a_node_in_says_why(
    greeting: bytes, answer: bytes, error: type[Exception], reason: str
) -> None:
    async with scene_of(greeting, answer) as scene:
        with pytest.raises(error, match=reason):
            await scene.open()


async def test_tls_is_not_begun_with_a_server_that_has_none() -> None:
    async with scene_of() as scene:
        with pytest.raises(TlsError, match="it offers none"):
            await scene.open(wants_tls=True)
        assert scene.double.lines == []


async def test_there_is_nothing_to_write_to_before_it_is_open() -> None:
    with pytest.raises(ConnectionResetError, match="no connection"):
        _ = NatsConnection({}, on_event=lambda _: None, on_lost=lambda _: None).transport


# Messages


async def test_messages_reach_the_handler_of_their_subscription_and_a_failing_one_ends_nothing(opened: Scene) -> None:
    got: list[bytes] = []

    def handle(message: Any) -> None:
        if message.data == b"bad":
            raise ZeroDivisionError
        got.append(message.data)

    opened.handlers[b"1"] = handle
    with capture_logs() as logs:
        opened.double.say(b"MSG s 1 3\r\nbad\r\nMSG s 2 5\r\nother\r\nMSG s 1 4\r\ngo")
        await asyncio.sleep(0)
        opened.double.say(b"od\r\n")
        await until(lambda: got == [b"good"], limit=30)

    assert [line["event"] for line in logs] == ["message from another node failed"]
    assert opened.lost == []


async def test_a_ping_is_answered_and_what_the_cluster_says_is_passed_on(opened: Scene) -> None:
    opened.double.say(
        b'PING\r\nINFO {"connect_urls": ["b:1"]}\r\n-ERR \'Permissions Violation for Subscription to "x"\'\r\n'
    )

    await until(lambda: len(opened.events) == 2 and opened.double.lines[-1] == PONG, limit=30)

    assert isinstance(opened.events[0], Info)
    assert isinstance(opened.events[1], Complaint)
    assert opened.lost == []


async def test_pings_wait_for_what_was_written_before(opened: Scene) -> None:
    async with asyncio.timeout(30):
        await asyncio.gather(*(opened.connection.ping() for _ in range(3)))

    assert opened.double.lines.count(b"PING\r\n") == 4


# Ends


@pytest.mark.parametrize(
    ("said", "reason"),
    [(b"-ERR 'Slow Consumer'\r\n", "Slow Consumer"), (b"HTTP/1.1 400 Bad Request\r\n", "HTTP"), (None, "")],
    ids=["complaint", "noise", "hang-up"],
)
async def test_an_end_by_the_server_is_told_once_with_its_reason(
    opened: Scene, said: bytes | None, reason: str
) -> None:
    opened.double.is_silent = True
    waiting = asyncio.create_task(opened.connection.ping())
    await asyncio.sleep(0)
    if said is None:
        opened.double.hang_up()
    else:
        opened.double.say(said)

    with pytest.raises(ConnectionError):
        async with asyncio.timeout(30):
            await waiting
    with pytest.raises(ConnectionError):
        await opened.connection.ping()
    await opened.connection.abort()

    assert len(opened.lost) == 1
    assert reason in opened.lost[0]


async def test_a_server_that_answers_no_ping_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PING_INTERVAL", 0.01)
    async with scene_of() as scene:
        await scene.open()
        await until(lambda: scene.double.lines.count(b"PING\r\n") >= 4, limit=30)
        assert scene.lost == []

        scene.double.is_silent = True
        await until(lambda: bool(scene.lost), limit=30)

    assert scene.lost == ["nats-server does not answer"]


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_ending_it_here_is_no_loss_and_fails_those_who_wait(opened: Scene, end: str) -> None:
    opened.double.is_silent = True
    waiting = asyncio.create_task(opened.connection.ping())
    await asyncio.sleep(0)

    for _ in range(2):
        await (opened.connection.close(timeout=30.0) if end == "close" else opened.connection.abort())

    with pytest.raises(ConnectionError, match="closed"):
        await waiting
    assert opened.lost == []


async def test_an_end_before_it_is_open_is_none() -> None:
    connection = NatsConnection({}, on_event=lambda _: None, on_lost=lambda _: None)

    await connection.close(timeout=30.0)
    await connection.abort()
