"""Clients that stop reading: closed at their bound, and the service's memory stays where it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from benchmarks.processes import resident_bytes
from signal_manager.form import is_compiled
from signal_manager.gateway import frames
from signal_manager.gateway.outgoing import Outgoing
from tests.integration.attack import BINARY, MALLORY, PING, RudeClient, talking, wire
from tests.integration.conftest import ServiceWith
from tests.integration.processes import service_process
from tests.integration.v1_client import ALICE, MESSAGE_TYPES, NIL_ID, connect, frame, string8
from tests.integration.v1_client import BINARY as IN_BINARY

BOUND = 65_536
STALLED = 100
MIB = 2**20
HEARTBEAT_ACK, ERROR = MESSAGE_TYPES["HEARTBEAT_ACK"], MESSAGE_TYPES["ERROR"]


def offer(target: str, size: int) -> bytes:
    return frame("SIGNAL_OFFER", "BINARY", string8(target) + bytes(size), id=NIL_ID, version="v2")


def login(name: str) -> bytes:
    return wire(BINARY, frame("CONNECT", "BINARY", string8(name) * 2, id=NIL_ID, version="v2"))


@asynccontextmanager
async def logged_in(port: int, name: str) -> AsyncIterator[RudeClient]:
    """Connect a client whose token is its name."""
    async with RudeClient.upgraded(port) as client:
        client.write(login(name))
        await client.read_frame()
        yield client


async def flood(port: int, names: list[str]) -> int:
    """Send each of these clients offers as fast as the service takes them, until it is gone; return the bytes sent."""
    sent = 0
    heartbeat = frame("HEARTBEAT", "BINARY", bytes(8), id=NIL_ID, version="v2")
    async with logged_in(port, "bob") as bob:
        for name in names:
            message = wire(BINARY, offer(name, 30_000))
            is_gone = False
            while not is_gone:
                bob.write(message * 10 + wire(BINARY, heartbeat))
                sent += len(message) * 10
                while (answer := (await bob.read_frame()).payload[1]) != HEARTBEAT_ACK:
                    is_gone = answer == ERROR
    return sent


@pytest.mark.parametrize("subprotocol", ["signal-manager.v2", "signal-manager.json"])
async def test_a_client_that_stops_reading_is_closed_4413(attacked: ServiceWith, subprotocol: str) -> None:
    service = await attacked(**{"server.outbound_queue_bytes": BOUND})
    async with RudeClient.mallory(service.port, subprotocol=subprotocol) as mallory:
        mallory.stop_reading()
        async with connect(service.url) as alice:
            await alice.log_in()
            while True:
                await alice.signal("SIGNAL_OFFER", MALLORY[0], "x" * 50_000)
                await alice.send("HEARTBEAT", b'{"timestamp":1}', "JSON")
                answer = await alice.receive()
                if answer.type == "ERROR":
                    break
            assert answer.error_code == 404
        mallory.go_on_reading()

        assert await mallory.read_close() == 4413
        mallory.write(wire(0x8))


async def test_it_is_cut_when_it_never_reads_again(attacked: ServiceWith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "CLOSE_TIMEOUT", 0.05)
    service = await attacked(**{"server.outbound_queue_bytes": BOUND})
    async with talking(service.url), RudeClient.mallory(service.port) as mallory:
        mallory.stop_reading()
        while len(service.server._registry.connections) == 3:
            # What a client causes itself counts as well.
            mallory.write(wire(BINARY, offer(MALLORY[0], 50_000)) * 10)
            await asyncio.sleep(0)


async def test_pongs_that_nobody_reads_count_too(attacked: ServiceWith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "CLOSE_TIMEOUT", 0.05)
    service = await attacked(**{"server.outbound_queue_bytes": BOUND})
    async with RudeClient.mallory(service.port) as mallory:
        mallory.stop_reading()
        with capture_logs() as lines:
            while service.server._registry.connections:
                mallory.write(wire(PING, bytes(125)) * 500)
                await asyncio.sleep(0)

    (closed,) = [line for line in lines if line["event"] == "connection closed"]
    assert closed["reason"] == "4413 outbound queue is full"


async def test_a_client_that_reads_gets_a_burst_of_any_size(attacked: ServiceWith) -> None:
    """The bound is for what piles up, not for what is on its way to a client that keeps up."""
    service = await attacked(**{"server.outbound_queue_bytes": 1000})
    async with connect(service.url, dialect=IN_BINARY) as alice, RudeClient.mallory(service.port) as mallory:
        await alice.log_in()
        for _ in range(5):
            mallory.write(wire(BINARY, offer(ALICE[0], 60_000)))
            received = await alice.expect("SIGNAL_OFFER")
            assert len(received.payload) == len(MALLORY[0]) + 1 + 60_000


@pytest.mark.skipif(is_compiled(), reason="nobody can watch a method of the compiled form")
async def test_what_one_read_causes_for_a_client_does_not_pile_up(
    attacked: ServiceWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[int] = []
    flush = Outgoing.flush

    def watched(self: Outgoing) -> None:
        waiting.append(sum(map(len, self._queue or ())))
        flush(self)

    monkeypatch.setattr(Outgoing, "flush", watched)
    service = await attacked()
    async with RudeClient.mallory(service.port) as mallory:
        mallory.write(wire(BINARY, offer(MALLORY[0], 500_000)))  # makes room for as much in one read
        await mallory.read_frame()
        mallory.write(wire(BINARY, offer(MALLORY[0], 1_000)) * 600)
        for _ in range(600):
            await mallory.read_frame()

    assert 10_000 < max(waiting) < BOUND + 2_000


@pytest.mark.long
async def test_memory_stays_flat_while_a_hundred_clients_do_not_read(tmp_path: Path) -> None:
    names = [f"stalled-{number}" for number in range(STALLED)]
    settings: dict[str, Any] = {
        "server.outbound_queue_bytes": BOUND,
        "security.rate_limit_enabled": False,
        "auth.api_keys": [f"{name}:{name}" for name in (*names, "alice", "bob")] + [":".join(ALICE)],
    }
    with service_process(tmp_path, settings) as service:
        before = resident_bytes(service.pid)
        sent, peak = 0, before
        for _ in range(3):
            async with AsyncExitStack() as stack:
                for name in names:
                    client = await stack.enter_async_context(logged_in(service.port, name))
                    client.stop_reading()
                sent += await flood(service.port, names)
                peak = max(peak, resident_bytes(service.pid))
        async with connect(service.url) as alice:
            await alice.log_in()
            await alice.check_alive()

        assert sent > 10 * STALLED * BOUND
        assert peak - before < 2 * STALLED * BOUND + 16 * MIB
        assert [line["level"] for line in service.logged()].count("error") == 0
        reasons = [line["reason"] for line in service.logged() if line["event"] == "connection closed"]
        assert reasons.count("4413 outbound queue is full") == 3 * STALLED
