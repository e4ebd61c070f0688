"""The load of the relay benchmark, in a process of its own: pairs of clients that play offers back and forth.

`relay.py` starts it once per measurement and reads its one JSON line. Client and frames are the cheapest there are,
so that the server and not the load is measured; its own CPU use is in the result to prove it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from array import array
from dataclasses import asdict, dataclass
from time import perf_counter

import uvloop
from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks import frames
from benchmarks.processes import cpu_seconds

__all__ = [
    "TOKEN",
    "Client",
    "Load",
    "LoadError",
    "Measurement",
    "arguments",
    "client_ids",
    "close",
    "connect",
    "connected",
    "drain",
    "percentile",
    "run",
    "start",
]

TOKEN = "token-of-the-relay-benchmark"

# An offer that is not back within this many seconds was lost.
DRAIN_LIMIT = 60.0
CONNECT_LIMIT = 60.0
CLOSE_LIMIT = 2.0

# Seconds between two looks at what is due, where offers leave on a schedule.
TICK = 0.001
CATCH_UP = 0.02

# docs/protocol.md, "Resume": when a client whose session can be resumed confirms what it has received.
CONFIRM_WEIGHT = 98_304
MESSAGE_OVERHEAD = 64


@dataclass(frozen=True)
class Measurement:
    """One server under one load. Latency runs from sending an offer to its arrival at the peer."""

    messages: int
    messages_per_second: float
    cpu_us_per_message: float
    p50_ms: float
    p99_ms: float
    server_cpu_percent: float
    load_cpu_percent: float


class LoadError(Exception):
    """The server did not do what every relay must."""


def client_ids(pairs: int) -> list[tuple[str, str]]:
    """Return the two client ids of each pair."""
    return [(f"pair-{number}-a", f"pair-{number}-b") for number in range(pairs)]


class Load:
    """What all clients share: the latencies of the window, the offers on their way, and the first failure."""

    def __init__(self) -> None:
        self.latencies = array("d")
        # Whether offers arrive unanswered: because the run is over, or because they leave on a schedule.
        self.is_stopping = False
        self.is_paced = False
        self.schedule: asyncio.Future[None] | None = None
        self.on_their_way = 0
        self.drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, reason: str) -> None:
        """End the run."""
        if not self.failed.done() and not self.drained.done():
            self.failed.set_exception(LoadError(reason))

    def retire_offer(self) -> None:
        """Note that an offer arrived which nobody answers any more."""
        self.on_their_way -= 1
        if self.on_their_way == 0 and self.is_stopping and not self.drained.done():
            self.drained.set_result(None)


class Client(WSListener):
    """One connection: it answers each offer from its peer with one of its own."""

    def __init__(self, load: Load, client_id: str, peer_id: str, *, resumable: bool) -> None:
        super().__init__()
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: WSTransport | None = None
        self._load = load
        self.client_id = client_id
        self._peer_id = peer_id
        self._offer = bytearray(frames.offer(peer_id))
        self._resumable = resumable
        self._received = 0
        self._weight = 0
        # The size of every offer that comes, 0 until the first one was read and found right.
        self._expected_bytes = 0

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Say who we are."""
        self.transport = transport
        transport.send(WSMsgType.BINARY, frames.connect(self.client_id, TOKEN, resumable=self._resumable))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Take the time of an offer and send one back."""
        received_at = perf_counter()
        message = frame.get_payload_as_memoryview()
        if len(message) != self._expected_bytes:
            self._inspect(frame)
            return
        self._load.latencies.append(received_at - frames.SENT_AT.unpack_from(message, frames.SENT_AT_OFFSET)[0])
        if self._resumable:
            self._count(transport, len(message))
        self._answer(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Fail, unless the run is over."""
        self._load.fail(f"the server closed the connection of {self.client_id}")

    def serve(self) -> None:
        """Put one more offer in flight."""
        if self.transport is None:
            raise LoadError(f"{self.client_id} is not connected")
        self._load.on_their_way += 1
        self._send(self.transport)

    def _answer(self, transport: WSTransport) -> None:
        if self._load.is_stopping or self._load.is_paced:
            self._load.retire_offer()
        else:
            self._send(transport)

    def _send(self, transport: WSTransport) -> None:
        frames.SENT_AT.pack_into(self._offer, frames.SENT_AT_OFFSET, perf_counter())
        transport.send(WSMsgType.BINARY, self._offer)

    def _count(self, transport: WSTransport, size: int) -> None:
        self._received += 1
        self._weight += size + MESSAGE_OVERHEAD
        if self._weight >= CONFIRM_WEIGHT:
            self._weight = 0
            transport.send(WSMsgType.BINARY, frames.heartbeat(received=self._received))

    def _inspect(self, frame: WSFrame) -> None:
        message = frame.get_payload_as_bytes()
        if frame.msg_type is not WSMsgType.BINARY or len(message) < frames.HEADER.size:
            self._load.fail(
                f"{self.client_id} expected a v1 message, got {frame.msg_type.name} of {len(message)} bytes"
            )
        elif message[1] == frames.CONNECT_ACK and not self.accepted.done():
            self.accepted.set_result(None)
        elif self._resumable and message[1] in {frames.HEARTBEAT, frames.HEARTBEAT_ACK}:
            pass
        elif message[1] == frames.SIGNAL_OFFER and self._is_the_peers(message):
            self._expected_bytes = len(message)
            self._received += 1
            if self.transport is not None:
                self._answer(self.transport)
        else:
            self._load.fail(f"{self.client_id} got a message it did not expect: {message[1]:#04x} {message[21:200]!r}")

    def _is_the_peers(self, message: bytes) -> bool:
        length = frames.HEADER.unpack_from(message)[-1]
        body = message[frames.HEADER.size :]
        payload = json.loads(body)
        return bool(
            length == len(body)
            and payload["sender_client_id"] == self._peer_id
            and payload["signal_data"] == frames.OFFER_SDP
        )


async def measure(
    *,
    port: int,
    server_pid: int,
    pairs: int,
    in_flight: int,
    seconds: float,
    warm_up: float,
    resumable: int,
) -> Measurement:
    """Connect all clients, keep `in_flight` offers on their way in each pair, and measure for `seconds`.

    Raises:
        LoadError: the server refused a client, closed a connection, altered an offer or lost one.
    """
    load = Load()
    clients = await connected(load, port, pairs, resumable=bool(resumable))
    start(load, clients, in_flight=in_flight)
    await run(load, warm_up)

    load.latencies = array("d")
    server_cpu, own_cpu, started_at = cpu_seconds(server_pid), time.process_time(), perf_counter()
    await run(load, seconds)
    elapsed = perf_counter() - started_at
    server_cpu, own_cpu = cpu_seconds(server_pid) - server_cpu, time.process_time() - own_cpu
    latencies = sorted(load.latencies)

    await drain(load)
    await close(clients)
    if not latencies:
        raise LoadError(f"no offer arrived within {elapsed:.1f} s")
    return Measurement(
        messages=len(latencies),
        messages_per_second=len(latencies) / elapsed,
        cpu_us_per_message=server_cpu / len(latencies) * 1e6,
        p50_ms=percentile(latencies, 0.50) * 1e3,
        p99_ms=percentile(latencies, 0.99) * 1e3,
        server_cpu_percent=server_cpu / elapsed * 100,
        load_cpu_percent=own_cpu / elapsed * 100,
    )


def start(load: Load, clients: list[Client], *, in_flight: int, offers_per_second: int = 0) -> None:
    """Put `in_flight` offers on their way in each pair, or send them on a schedule until the load stops.

    A load that was drained can be started again.
    """
    load.is_stopping = False
    load.drained = asyncio.get_running_loop().create_future()
    if offers_per_second:
        load.is_paced = True
        load.schedule = asyncio.ensure_future(_send_on_schedule(clients, offers_per_second))
        return
    for client in clients[::2]:
        for _ in range(in_flight):
            client.serve()


async def _send_on_schedule(clients: list[Client], rate: int) -> None:
    """Send offers from all clients in turn; those that are due by a tick leave together.

    Those that are due for long do not leave at all: a load that falls behind would never do anything but catch up.
    """
    sent, started = 0, perf_counter()
    while True:
        due = int((perf_counter() - started) * rate)
        for number in range(max(sent, due - int(rate * CATCH_UP)), due):
            clients[number % len(clients)].serve()
        sent = due
        await asyncio.sleep(TICK)


async def connected(load: Load, port: int, pairs: int, *, resumable: bool) -> list[Client]:
    """Connect all clients."""
    clients = [Client(load, *ids, resumable=resumable) for a, b in client_ids(pairs) for ids in ((a, b), (b, a))]
    for client in clients:
        await connect(load, client, port)
    return clients


async def connect(load: Load, client: Client, port: int) -> None:
    """Connect one client, and wait until it is accepted."""
    await ws_connect(lambda: client, f"ws://127.0.0.1:{port}/", websocket_handshake_timeout=CONNECT_LIMIT)
    await asyncio.wait({client.accepted, load.failed}, timeout=CONNECT_LIMIT, return_when=asyncio.FIRST_COMPLETED)
    if load.failed.done():
        await load.failed
    if not client.accepted.done():
        raise LoadError(f"{client.client_id} was not accepted within {CONNECT_LIMIT:.0f} s")


async def run(load: Load, seconds: float) -> None:
    """Let the load run, and raise what ended it."""
    await asyncio.wait({load.failed}, timeout=seconds)
    if load.failed.done():
        await load.failed


async def drain(load: Load) -> None:
    """Stop, and wait until every offer has arrived: none may be lost, and none may meet a closed connection."""
    load.is_stopping = True
    if load.schedule is not None:
        load.schedule.cancel()
    if load.on_their_way == 0:
        return
    await asyncio.wait({load.drained, load.failed}, timeout=DRAIN_LIMIT, return_when=asyncio.FIRST_COMPLETED)
    if load.failed.done():
        await load.failed
    if not load.drained.done():
        raise LoadError(f"{load.on_their_way} offers never arrived")


async def close(clients: list[Client]) -> None:
    """Close all connections."""
    closings = []
    for client in clients:
        if client.transport is not None:
            client.transport.send_close(WSCloseCode.OK)
            closings.append(asyncio.ensure_future(client.transport.wait_disconnected()))
    await asyncio.wait(closings, timeout=CLOSE_LIMIT)


def percentile(ordered: list[float], fraction: float) -> float:
    """Return the value below which this part of the ordered values is."""
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


def arguments(program: str, description: str) -> argparse.ArgumentParser:
    """Return a parser of what every load process is told."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    for name, kind in (
        ("port", int),
        ("server-pid", int),
        ("pairs", int),
        ("in-flight", int),
        ("seconds", float),
        ("warm-up", float),
        ("resumable", int),
    ):
        parser.add_argument(f"--{name}", type=kind, required=True)
    return parser


def main() -> None:
    """Measure once and print the result as one JSON line."""
    parser = arguments("benchmarks.load", "The load process of benchmarks.relay.")
    try:
        print(json.dumps(asdict(uvloop.run(measure(**vars(parser.parse_args()))))))
    except (LoadError, WSError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
