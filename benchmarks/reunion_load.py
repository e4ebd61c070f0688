"""Clients that all come at once, and pairs that talk meanwhile, in processes of their own.

`reunion.py` starts it and speaks with it in lines of JSON. It has sockets and epoll and no WebSocket library: a client
that costs more than the service's side of it would measure itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks import frames
from signal_manager.auth.token_report import issue_token

__all__ = ["KEY", "SECRET", "TALKERS", "Step", "caller", "talker"]

KEY = "token-of-the-reunion-benchmark"
SECRET = "the token secret of the reunion benchmark, 32 bytes or more"
TALKERS = 100
# Offers per second of all pairs, while the others come back.
TALK_RATE = 500

Step = Literal["accept", "tls", "upgrade", "connect"]

# How long a client may take from its first SYN to its CONNECT_ACK, and how long all may (s).
CLIENT_LIMIT = 60.0
ALL_LIMIT = 300.0
_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# Ports of one source address: see `connections.py`.
_PER_ADDRESS = 10_000


def caller(number: int) -> str:
    """Return the client id of one that comes back."""
    return f"caller-{number}"


def talker(number: int) -> str:
    """Return the client id of one that talks meanwhile."""
    return f"talker-{number}"


class LoadError(Exception):
    """The service did something else than was expected."""


@dataclass
class Plan:
    """How the clients come."""

    port: int
    count: int
    at_once: int
    until: Step = "connect"
    is_secure: bool = False
    is_signed: bool = False
    is_resumable: bool = False


class Caller:
    """One client, between its SYN and its CONNECT_ACK."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.token = ""
        self.session: dict[str, str] | None = None  # what CONNECT_ACK gave, to resume
        self.tls_session: ssl.SSLSession | None = None
        self.sock: socket.socket | None = None
        self.steps: Iterator[int] = iter(())
        self.began = 0.0
        self.is_resumed = False

    def close(self) -> None:
        """Drop the connection without a word, as a network does."""
        if self.sock is not None:
            if isinstance(self.sock, ssl.SSLSocket):
                with suppress(ValueError):  # the handshake had not got far enough for one
                    self.tls_session = self.sock.session or self.tls_session
            self.sock.close()
            self.sock = None

    def come(self, plan: Plan, context: ssl.SSLContext | None) -> Generator[int, None, None]:
        """Take the steps; each yield is the events of epoll to wait for."""
        sock = socket.socket()
        self.sock = sock
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((f"127.0.0.{self.number // _PER_ADDRESS + 2}", 0))
        sock.connect_ex(("127.0.0.1", plan.port))
        yield select.EPOLLOUT
        if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise ConnectionRefusedError(os.strerror(error))
        if plan.until == "accept":
            return
        if context is not None:
            secured = context.wrap_socket(sock, do_handshake_on_connect=False, session=self.tls_session)
            self.sock = sock = secured
            yield from _patiently(secured.do_handshake)
            if plan.until == "tls":
                return
        sock.send(_UPGRADE)
        head = yield from self._receive(lambda data: data.endswith(b"\r\n\r\n"))
        if not head.startswith(b"HTTP/1.1 101 "):
            raise LoadError(f"expected HTTP 101, got {head[:60]!r}")
        if plan.until == "upgrade":
            return
        sock.send(_masked(self._connect(plan)))
        frame = yield from self._receive(_is_whole)
        if frame[0] == 0x88:
            raise ConnectionResetError(repr(frame[4:]))
        message = frame[4 if frame[1] == 126 else 2 :]
        if frame[0] != 0x82 or message[1] != frames.CONNECT_ACK:
            raise LoadError(f"expected CONNECT_ACK, got {frame[:200]!r}")
        length = frames.HEADER.unpack_from(message)[-1]
        ack = json.loads(message[frames.HEADER.size : frames.HEADER.size + length])
        self.is_resumed = bool(ack.get("resumed"))
        if plan.is_resumable:
            self.session = {"session_id": ack["session_id"], "resume_token": ack["resume_token"]}

    def _connect(self, plan: Plan) -> bytes:
        fields: dict[str, Any] = {}
        if plan.is_resumable and self.session is not None:
            fields["resume"] = self.session | {"received": 0}
        token = self.token if plan.is_signed else KEY
        return frames.connect(caller(self.number), token, resumable=plan.is_resumable, **fields)

    def _receive(self, is_whole: Callable[[bytes], bool]) -> Generator[int, None, bytes]:
        data = b""
        assert self.sock is not None
        while not is_whole(data):
            yield select.EPOLLIN
            try:
                part = self.sock.recv(4096)
            except (BlockingIOError, ssl.SSLWantReadError):
                continue
            if not part:
                raise ConnectionResetError(f"closed after {data[:200]!r}")
            data += part
        return data


def _patiently(handshake: Callable[[], None]) -> Iterator[int]:
    while True:
        try:
            handshake()
        except ssl.SSLWantReadError:
            yield select.EPOLLIN
        except ssl.SSLWantWriteError:
            yield select.EPOLLOUT
        else:
            return


def _is_whole(data: bytes) -> bool:
    if len(data) < 4:
        return False
    length = data[1] & 127
    return len(data) >= (4 + int.from_bytes(data[2:4], "big") if length == 126 else 2 + length)


def _masked(message: bytes) -> bytes:
    """Return a client's frame; a mask of zeros leaves the message as it is (RFC 6455, section 5.3)."""
    size = len(message)
    length = bytes((0x80 | size,)) if size < 126 else bytes((0xFE,)) + size.to_bytes(2, "big")
    return b"\x82" + length + bytes(4) + message


class Callers:
    """All clients."""

    def __init__(self, count: int) -> None:
        self.all = [Caller(number) for number in range(count)]
        now = time.time()
        for each in self.all:
            each.token = issue_token(secret=SECRET, client_id=caller(each.number), ttl=3600, now=now)
        # A session of TLS belongs to its context.
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    def come(self, plan: Plan) -> dict[str, Any]:
        """Let them come, `at_once` at a time, and return when each was served, in seconds since the first."""
        return Arrival(plan, self.all[: plan.count], self._context if plan.is_secure else None).run()

    def drop(self) -> None:
        """Drop all connections."""
        for each in self.all:
            each.close()


class Arrival:
    """Clients on their way."""

    def __init__(self, plan: Plan, clients: list[Caller], context: ssl.SSLContext | None) -> None:
        self._plan = plan
        self._context = context
        self._waiting = iter(clients)
        self._poll = select.epoll()
        self._under_way: dict[int, Caller] = {}
        self._again: list[Caller] = []
        self._tries = 0
        self._served: list[float] = []
        self._resumed = 0
        self._started = time.perf_counter()

    def run(self) -> dict[str, Any]:
        """Serve them all.

        Raises:
            LoadError: the service refuses one, or lets one wait too long.
        """
        cpu = time.process_time()
        for _ in range(self._plan.at_once):
            self._start_next()
        while self._under_way or self._again:
            if time.perf_counter() - self._started > ALL_LIMIT:
                raise LoadError(f"only {len(self._served)} of {self._plan.count} were served within {ALL_LIMIT:g} s")
            for number, _ in self._poll.poll(0.02 if self._again else 1.0):
                self._poll.unregister(number)
                self._go_on(self._under_way.pop(number))
            repeated, self._again = self._again, []
            for client in repeated:
                self._start(client)
        self._poll.close()
        return {
            "seconds": time.perf_counter() - self._started,
            "served": self._served,
            "resumed": self._resumed,
            "again": self._tries - self._plan.count,
            "cpu": time.process_time() - cpu,
        }

    def _start_next(self) -> None:
        client = next(self._waiting, None)
        if client is not None:
            client.began = time.perf_counter()
            self._start(client)

    def _start(self, client: Caller) -> None:
        self._tries += 1
        client.steps = client.come(self._plan, self._context)
        self._go_on(client)

    def _go_on(self, client: Caller) -> None:
        try:
            events = next(client.steps)
        except StopIteration:
            self._serve(client)
        except OSError as error:
            # The service is not there yet.
            client.close()
            if time.perf_counter() - client.began > CLIENT_LIMIT:
                raise LoadError(f"{caller(client.number)} was not served within {CLIENT_LIMIT:g} s: {error}") from error
            self._again.append(client)
        else:
            assert client.sock is not None
            number = client.sock.fileno()
            self._poll.register(number, events)
            self._under_way[number] = client

    def _serve(self, client: Caller) -> None:
        self._served.append(time.perf_counter() - self._started)
        self._resumed += client.is_resumed
        self._start_next()


class Talker(WSListener):
    """A client that sends offers to its peer, and takes the time of those that come."""

    def __init__(self, number: int, latencies: list[float]) -> None:
        super().__init__()
        self.number = number
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: WSTransport | None = None
        self._latencies = latencies
        self._offer = bytearray(frames.offer(talker(number ^ 1)))

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Say who we are."""
        self.transport = transport
        transport.send(WSMsgType.BINARY, frames.connect(talker(self.number), KEY))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Take the time of an offer."""
        now = time.perf_counter()
        message = frame.get_payload_as_memoryview()
        if message[1] == frames.SIGNAL_OFFER:
            self._latencies.append(now - frames.SENT_AT.unpack_from(message, frames.SENT_AT_OFFSET)[0])
        elif message[1] == frames.CONNECT_ACK:
            self.accepted.set_result(None)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Fail a sign-in that is under way."""
        if not self.accepted.done():
            self.accepted.set_exception(ConnectionResetError())

    def talk(self) -> None:
        """Send one offer."""
        if self.transport is not None:
            frames.SENT_AT.pack_into(self._offer, frames.SENT_AT_OFFSET, time.perf_counter())
            self.transport.send(WSMsgType.BINARY, self._offer)


async def talk(port: int, latencies: list[float], is_over: asyncio.Event) -> int:
    """Connect the talkers, let them talk until it is over, and return how many offers they sent."""
    talkers = await asyncio.gather(*(_signed_in(number, port, latencies) for number in range(TALKERS)))
    _say({"talking": len(talkers)})
    loop = asyncio.get_running_loop()
    started, sent = loop.time(), 0
    while not is_over.is_set():
        due = int((loop.time() - started) * TALK_RATE)
        while sent < due:
            talkers[sent % len(talkers)].talk()
            sent += 1
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.5)  # what is on its way
    return sent


async def _signed_in(number: int, port: int, latencies: list[float]) -> Talker:
    async with asyncio.timeout(CLIENT_LIMIT):
        while True:
            client = Talker(number, latencies)
            try:
                await ws_connect(lambda client=client: client, f"ws://127.0.0.1:{port}/", local_addr=("127.0.0.1", 0))
                await client.accepted
            except (TimeoutError, OSError):
                await asyncio.sleep(0.02)
            else:
                return client


async def _talk(port: int) -> None:
    latencies: list[float] = []
    is_over = asyncio.Event()
    reader = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    reader.add_done_callback(lambda done: is_over.set())
    sent = await talk(port, latencies, is_over)
    _say({"sent": sent, "latencies": latencies})


def _say(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


def _call(count: int) -> None:
    """Obey lines of JSON: a `Plan` to carry out, or {"drop": true}."""
    os.nice(5)  # those who talk meanwhile share this core, and their wait for it is none of the service's
    callers = Callers(count)
    _say({"ready": count})
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("drop"):
            callers.drop()
            _say({"dropped": True})
        else:
            _say(callers.come(Plan(**order)))


def main() -> None:
    """Run the callers or the talkers of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reunion_load", description="The client processes of benchmarks.reunion."
    )
    parser.add_argument("--callers", type=int)
    parser.add_argument("--talk-on", type=int)
    arguments = parser.parse_args()
    try:
        if arguments.callers is not None:
            _call(arguments.callers)
        else:
            asyncio.run(_talk(arguments.talk_on))
    except (LoadError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
