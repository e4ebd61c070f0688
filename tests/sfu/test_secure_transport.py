"""DTLS-SRTP of a session: when handshakes begin, are repeated and are given up, and the packets meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from signal_manager.sfu.dtls import Certificate
from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.secure_transport import Handshakes, SecureTransport
from tests.waiting import until

ALICE, BOB = Certificate(), Certificate()
RTP = b"\x80\x60\x00\x01" + bytes(4) + b"ssrc" + b"a picture"
RTCP = b"\x80\xc9\x00\x01ssrc" + bytes(4)


class End:
    """An endpoint whose datagrams reach the other end in the loop's next turn."""

    def __init__(self) -> None:
        self.address: Any = ("192.0.2.1", 1)
        self.other: End | None = None
        self.lost = 0  # of the next datagrams, so many
        self.on_srtp: Callable[[bytes], None] = lambda data: None
        self.on_dtls: Callable[[bytes], None] = lambda data: None

    def send(self, data: bytes) -> None:
        if self.lost:
            self.lost -= 1
        elif self.other is not None:
            asyncio.get_running_loop().call_soon(self.other.receive, data)

    def receive(self, data: bytes) -> None:
        (self.on_srtp if data[0] > 127 else self.on_dtls)(data)


class Side:
    """One transport, and what came out of it."""

    def __init__(self, certificate: Certificate, handshakes: Handshakes | None = None) -> None:
        self.end = End()
        self.counters = Counters()
        self.handshakes = handshakes or Handshakes(10, time_limit=30)
        self.got: list[bytes] = []
        self.connections = 0
        self.transport = SecureTransport(
            self.end,  # type: ignore[arg-type]  # it needs no more of an endpoint than this
            certificate=certificate,
            handshakes=self.handshakes,
            counters=self.counters,
        )
        self.transport.on_rtp = self.transport.on_rtcp = self.transport.on_data = self.got.append
        self.transport.on_connected = self._count

    def _count(self) -> None:
        self.connections += 1


def sides(**handshakes: Any) -> tuple[Side, Side]:
    client, server = Side(ALICE), Side(BOB, Handshakes(**handshakes) if handshakes else None)
    client.end.other, server.end.other = server.end, client.end
    return client, server


def expect(client: Side, server: Side) -> None:
    server.transport.expect((("sha-256", ALICE.fingerprint),), is_client=False)
    client.transport.expect((("sha-256", BOB.fingerprint),), is_client=True)


async def connect(client: Side, server: Side) -> None:
    expect(client, server)
    await until(lambda: client.transport.is_connected and server.transport.is_connected)


async def test_media_and_data_get_through_in_both_directions() -> None:
    client, server = sides()
    await connect(client, server)

    for side, other in ((client, server), (server, client)):
        side.transport.send_rtp(RTP)
        side.transport.send_rtcp(RTCP)
        side.transport.send_data(b"data")
        await until(lambda other=other: len(other.got) == 3)  # type: ignore[misc]
        assert other.got == [RTP, RTCP, b"data"]

    assert (client.connections, server.connections) == (1, 1)
    assert (client.counters.handshakes, server.counters.handshakes) == (1, 1)
    assert client.handshakes.pending == server.handshakes.pending == 0


async def test_a_handshake_begins_with_an_address_and_a_fingerprint() -> None:
    client, server = sides()
    server.transport.begin()
    assert server.handshakes.pending == 0
    server.end.address = None
    expect(client, server)
    assert server.handshakes.pending == 0

    server.end.address = ("192.0.2.1", 1)
    server.transport.begin()
    server.transport.begin()

    assert server.handshakes.pending == 1
    await until(lambda: server.transport.is_connected)


async def test_a_lost_datagram_of_a_handshake_is_sent_again() -> None:
    client, server = sides()
    server.end.lost = 1

    await connect(client, server)

    assert server.handshakes.pending == 0


async def test_a_handshake_without_an_answer_is_given_up() -> None:
    client, server = sides(limit=10, time_limit=0.05)
    client.end.lost = 1000
    expect(client, server)
    assert server.handshakes.pending == 1

    await until(lambda: server.counters.handshakes_failed == 1)

    assert server.handshakes.pending == 0
    assert not server.transport.is_connected


async def test_handshakes_beyond_the_limit_wait_for_their_turn() -> None:
    handshakes = Handshakes(1, time_limit=30)
    first, second = Side(BOB, handshakes), Side(BOB, handshakes)
    for side in (first, second):
        side.transport.expect((("sha-256", ALICE.fingerprint),), is_client=False)
    assert handshakes.pending == 1

    first.transport.close()
    second.transport.begin()

    assert handshakes.pending == 1
    assert first.counters.handshakes_failed == 0
    second.transport.close()
    assert handshakes.pending == 0


async def test_a_peer_that_is_another_is_refused_on_both_sides() -> None:
    client, server = sides()
    server.transport.expect((("sha-256", BOB.fingerprint),), is_client=False)
    client.transport.expect((("sha-256", BOB.fingerprint),), is_client=True)

    await until(lambda: server.counters.handshakes_failed == 1)

    assert server.connections == 0
    assert not server.transport.is_connected
    await until(lambda: not client.transport.is_connected)


async def test_media_without_keys_is_early_and_what_cannot_be_is_refused() -> None:
    client, server = sides()
    server.end.receive(RTP + bytes(30))
    server.end.receive(b"\x17" * 40)
    assert server.counters.early_datagrams == 2
    client.transport.send_rtp(RTP)
    client.transport.send_rtcp(RTCP)
    client.transport.send_data(b"data")
    await connect(client, server)

    server.end.receive(RTP + bytes(30))
    server.end.receive(RTP[:12])
    client.transport.send_rtp(bytes(1500))
    client.transport.send_rtcp(bytes(1500))

    assert server.counters.refused_datagrams == 2
    assert client.counters.send_failures == 2
    assert server.got == []


@pytest.mark.parametrize("is_nominated_first", [True, False])
async def test_a_peer_that_ended_its_association_may_begin_another(is_nominated_first: bool) -> None:
    client, server = sides()
    await connect(client, server)

    client.transport.end()
    await until(lambda: not server.transport.is_connected)
    if is_nominated_first:
        server.transport.begin()
    client.transport.begin()

    await until(lambda: client.transport.is_connected and server.transport.is_connected)
    assert server.counters.handshakes == 2
    assert server.counters.handshakes_failed == 0


async def test_only_a_client_hello_begins_another_association() -> None:
    client, server = sides()
    await connect(client, server)
    client.transport.end()
    await until(lambda: not server.transport.is_connected)

    server.end.receive(b"\x16\xfe\xfd" + bytes(60))

    assert server.handshakes.pending == 0


async def test_a_closed_transport_tells_its_peer_and_begins_no_more() -> None:
    client, server = sides()
    await connect(client, server)

    server.transport.close()
    await until(lambda: not client.transport.is_connected)
    client.transport.begin()
    server.transport.begin()
    server.transport.close()

    assert server.handshakes.pending == 0
    assert not server.transport.is_connected
    client.transport.close()
