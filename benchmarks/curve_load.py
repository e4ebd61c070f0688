"""The load of the scale curves, in a process of its own: it takes the points of one curve in turn, slice by slice.

`curves.py` starts what is measured and reads the CPU times from the one JSON line that this process prints.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from array import array
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from time import perf_counter
from typing import Any

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks import frames
from benchmarks.load import Client, Load, LoadError, client_ids, close, connect, drain, run, start
from benchmarks.processes import cpu_seconds
from benchmarks.turns import be_the_load

__all__ = ["MEMBERS", "member", "stored"]

# Members of each room of the curve of rooms.
MEMBERS = 3

# Generous: a busy machine must not end a measurement.
ANSWER_LIMIT = 60.0

# Operations of the stored clients that are under way at the same time.
AT_A_TIME = 8
PAGE = 20
# Rooms that are filled at the same time.
CONNECTING = 20
# Clients that register in turn; they stay connected.
REGISTERING = 40

# What one slice has caused must not be counted in the next one (s).
PAUSE = 0.05


def member(room: int, number: int) -> str:
    """Return the client id of a member of a room."""
    return f"member-{room}-{number}"


def stored(number: int) -> str:
    """Return the client id of a stored client."""
    return f"stored-{number}"


class Work:
    """What is done to the servers of one point; `pids` are theirs."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = pids

    async def prepare(self) -> None:
        """Connect what is needed."""

    async def begin(self) -> None:
        """Start the work, where it goes on by itself."""

    async def do(self, seconds: float) -> int:
        """Work for so long, and return how many operations were done."""
        raise NotImplementedError

    async def end(self) -> None:
        """Stop the work, so that another point has the machine."""

    async def close(self) -> None:
        """Close all connections."""


class Relay(Work):
    """Pairs of clients that play offers back and forth; the two of a pair are at these two ports."""

    def __init__(self, pids: Sequence[int], places: Sequence[tuple[int, int]], in_flight: int) -> None:
        super().__init__(pids)
        self._in_flight = in_flight
        self._load = Load()
        self._clients: list[tuple[Client, int]] = []
        for (a, b), (near, far) in zip(client_ids(len(places)), places, strict=True):
            for name, peer, port in ((a, b, near), (b, a, far)):
                self._clients.append((Client(self._load, name, peer, resumable=False), port))

    async def prepare(self) -> None:
        """Connect all clients."""
        for client, port in self._clients:
            await connect(self._load, client, port)

    async def begin(self) -> None:
        """Put the offers on their way."""
        start(self._load, [client for client, _ in self._clients], in_flight=self._in_flight)

    async def do(self, seconds: float) -> int:
        """Let them run."""
        self._load.latencies = array("d")
        await run(self._load, seconds)
        return len(self._load.latencies)

    async def end(self) -> None:
        """Wait until all have arrived."""
        await drain(self._load)

    async def close(self) -> None:
        """Close all connections."""
        await close([client for client, _ in self._clients])


class Caller(WSListener):
    """A connection that asks and waits for answers, as cheaply as can be; it counts what else it hears."""

    def __init__(self, client_id: str, token: str) -> None:
        super().__init__()
        self._connect = frames.connect(client_id, token)
        self._expected: tuple[int, asyncio.Future[bytes]] | None = None
        self.client_id = client_id
        self.transport: WSTransport | None = None
        self.heard: dict[int, int] = {}
        self.on_news: Callable[[int], None] | None = None

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Take an answer, or count a message."""
        message = frame.get_payload_as_bytes()
        kind = message[1]
        if self._expected is not None and kind in {self._expected[0], frames.ERROR}:
            (_, answer), self._expected = self._expected, None
            if kind == frames.ERROR:
                answer.set_exception(LoadError(f"{self.client_id} got ERROR {message[21:300]!r}"))
            else:
                answer.set_result(message)
        elif self.on_news is not None:
            self.on_news(kind)

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Keep the connection."""
        self.transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Fail what waits for an answer."""
        if self._expected is not None and not self._expected[1].done():
            self._expected[1].set_exception(LoadError(f"the server closed the connection of {self.client_id}"))

    async def open(self, port: int) -> None:
        """Connect and be accepted."""
        await ws_connect(lambda: self, f"ws://127.0.0.1:{port}/", websocket_handshake_timeout=ANSWER_LIMIT)
        await self.ask(self._connect, frames.CONNECT_ACK)

    async def ask(self, request: bytes, expected: int) -> bytes:
        """Send a request and return its answer."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._expected = (expected, answer)
        self.send(request)
        async with asyncio.timeout(ANSWER_LIMIT):
            return await answer

    def send(self, request: bytes) -> None:
        """Send a message."""
        if self.transport is not None:
            self.transport.send(WSMsgType.BINARY, request)

    def close(self) -> None:
        """Close the connection."""
        if self.transport is not None:
            self.transport.disconnect(graceful=False)


class Rooms(Work):
    """One operation at a time in each room in turn, which the other members hear of: a message, or a change."""

    def __init__(self, pids: Sequence[int], port: int, token: str, rooms: int, *, is_event: bool) -> None:
        super().__init__(pids)
        self._port = port
        self._next = 0
        self._is_event = is_event
        self._rooms = [[Caller(member(room, number), token) for number in range(MEMBERS)] for room in range(rooms)]
        self._missing = 0
        self._awaited = frames.ROOM_EVENT if is_event else frames.SIGNAL_MESSAGE
        self._all_heard: asyncio.Future[None] | None = None

    async def prepare(self) -> None:
        """Fill all rooms."""
        for first in range(0, len(self._rooms), CONNECTING):
            await asyncio.gather(*map(self._fill, range(first, min(first + CONNECTING, len(self._rooms)))))

    async def _fill(self, number: int) -> None:
        for each in self._rooms[number]:
            await each.open(self._port)
            await each.ask(frames.room_join(f"room-{number}", create_if_missing=True), frames.ROOM_JOIN_ACK)
            each.on_news = self._heard

    async def do(self, seconds: float) -> int:
        """Go round the rooms."""
        count, until = 0, perf_counter() + seconds
        while perf_counter() < until:
            at = self._next = (self._next + 1) % len(self._rooms)
            room, name = self._rooms[at], f"room-{at}"
            self._missing = MEMBERS - 1
            self._all_heard = asyncio.get_running_loop().create_future()
            if self._is_event:
                await room[0].ask(frames.metadata_update(name, count), frames.METADATA_UPDATE_ACK)
            else:
                room[0].send(frames.message(name))
            async with asyncio.timeout(ANSWER_LIMIT):
                await self._all_heard
            count += 1
        return count

    def _heard(self, kind: int) -> None:
        if kind == self._awaited and self._all_heard is not None:
            self._missing -= 1
            if self._missing == 0 and not self._all_heard.done():
                self._all_heard.set_result(None)

    async def close(self) -> None:
        """Close all connections."""
        for room in self._rooms:
            for each in room:
                each.close()


class Stored(Work):
    """Operations on one of so many stored clients, chosen by chance, a few at a time."""

    def __init__(
        self, pids: Sequence[int], port: int, admin_port: int, token: str, clients: int, *, operation: str
    ) -> None:
        super().__init__(pids)
        self._port, self._admin_port, self._token, self._clients = port, admin_port, token, clients
        self._one: Callable[[int], Awaitable[None]] = {
            "register": self._register,
            "connect": self._connect,
            "list": self._list,
        }[operation]
        self._chance = random.Random(1)
        self._until = 0.0
        self._done = 0
        self._names = sorted(map(stored, range(clients))) if operation == "list" else []
        # As many in each store, spread over all of it.
        chosen = [stored(number * clients // REGISTERING) for number in range(REGISTERING)]
        self._registering = [Caller(name, token) for name in chosen] if operation == "register" else []

    async def prepare(self) -> None:
        """Connect those that stay."""
        for each in self._registering:
            await each.open(self._port)

    async def do(self, seconds: float) -> int:
        """Keep a few operations under way."""
        self._until, self._done = perf_counter() + seconds, 0
        await asyncio.gather(*map(self._repeat, range(AT_A_TIME)))
        return self._done

    async def _repeat(self, lane: int) -> None:
        while perf_counter() < self._until:
            await self._one(lane)
            self._done += 1

    async def _register(self, lane: int) -> None:
        number = self._chance.randrange(REGISTERING // AT_A_TIME) * AT_A_TIME + lane
        await self._registering[number].ask(frames.register(self._chance.randrange(10**9)), frames.REGISTER_ACK)

    async def _connect(self, lane: int) -> None:
        # No lane takes another one's client: that would end the session under its feet.
        client = Caller(stored(self._chance.randrange(self._clients // AT_A_TIME) * AT_A_TIME + lane), self._token)
        await client.open(self._port)
        client.close()

    async def _list(self, lane: int) -> None:
        # A page is always full.
        after = self._names[self._chance.randrange(self._clients - PAGE)]
        path = f"/api/v1/clients?limit={PAGE}&after={after}"
        reader, writer = await asyncio.open_connection("127.0.0.1", self._admin_port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            async with asyncio.timeout(ANSWER_LIMIT):
                answer = await reader.read()
        finally:
            writer.close()
        if int(answer.split(b" ", 2)[1]) != HTTPStatus.OK:
            raise LoadError(f"GET {path} got {answer[:300]!r}")

    async def close(self) -> None:
        """Close all connections."""
        for each in self._registering:
            each.close()


@dataclass
class Point:
    """One point of a curve, and what an operation cost in each round, in µs of all its processes' CPU time."""

    work: Work
    cpu_us: list[float] = field(default_factory=list)


async def scrape(port: int, every: float) -> None:
    """Read /metrics every so many seconds, until cancelled."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        await reader.read()
        writer.close()
        await asyncio.sleep(every)


def _work(order: dict[str, Any], token: str) -> Work:
    pids = order["pids"]
    match order["kind"]:
        case "relay":
            return Relay(pids, order["places"], order["in_flight"])
        case "message" | "event" as kind:
            return Rooms(pids, order["port"], token, order["size"], is_event=kind == "event")
        case operation:
            return Stored(pids, order["port"], order["admin_port"], token, order["size"], operation=operation)


async def take(order: dict[str, Any]) -> list[list[float]]:
    """Take all points of all rounds.

    Raises:
        LoadError: a server did not do what it must.
    """
    points = [Point(_work(each, order["token"])) for each in order["points"]]
    for point in points:
        await point.work.prepare()
    for turn in range(order["rounds"] + 1):
        # Each round starts with another point, so that no point always follows the same one.
        first = turn % len(points)
        for number in [*range(first, len(points)), *range(first)]:
            scraped = order["points"][number].get("scraped")
            cost = await _slice(points[number].work, order["seconds"], scraped)
            if turn:  # the first one only warms up
                points[number].cpu_us.append(cost)
    for point in points:
        await point.work.close()
    return [point.cpu_us for point in points]


async def _slice(work: Work, seconds: float, scraped: int | None) -> float:
    scraping = None if scraped is None else asyncio.ensure_future(scrape(scraped, 1.0))
    try:
        await work.begin()
        await asyncio.sleep(PAUSE)
        before = sum(map(cpu_seconds, work.pids))
        operations = await work.do(seconds)
        used = sum(map(cpu_seconds, work.pids)) - before
        await work.end()
    finally:
        if scraping is not None:
            scraping.cancel()
            with suppress(asyncio.CancelledError):
                await scraping
    if not operations:
        raise LoadError(f"no operation ended within {seconds:g} s")
    return used / operations * 1e6


def main() -> None:
    """Be the load, and print what each point cost in each round as one JSON line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.curve_load", description="The load of benchmarks.curves."
    )
    parser.add_argument("command", choices=["load"])
    parser.add_argument("order")
    be_the_load(take(json.loads(parser.parse_args().order)))


if __name__ == "__main__":
    main()
