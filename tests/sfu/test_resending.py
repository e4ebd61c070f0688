"""What one receiver lost is sent again to it alone, within bounds."""

from __future__ import annotations

import struct
import time

import pytest

from signal_manager.sfu.retransmission import Allowance
from signal_manager.sfu.sdp import Codec
from tests.sfu.test_forwarding import DELTA, KEY, Clock, Stage, nack, rtp


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that packets see, moved by hand."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def test_what_one_receiver_lost_is_sent_again_to_that_one_and_not_asked_of_the_publisher() -> None:
    stage, others = Stage(), list[bytes]()
    stage.subscribe()
    stage.subscribe(ssrc=600, send=others.append)
    for sequence in (7, 8, 9):
        stage.router.receive_rtp(rtp(sequence, KEY if sequence == 7 else DELTA))
    stage.seen()
    stage.rtcp()

    stage.router.receive_rtcp(nack(8))

    ((payload_type, _, ssrc, body),) = stage.seen()
    assert (payload_type, ssrc, body) == (101, 501, struct.pack("!H", 8) + DELTA)
    assert len(others) == 3
    assert stage.rtcp() == []


def test_a_client_without_rtx_gets_retransmissions_as_plain_packets() -> None:
    stage = Stage()
    stage.subscribe(codec=Codec(100, "vp8", "VP8/90000"))
    stage.router.receive_rtp(rtp(7))
    stage.router.receive_rtp(rtp(8, DELTA))
    stage.seen()

    stage.router.receive_rtcp(nack(8))

    assert stage.seen() == [(100, 8, 500, DELTA)]


def test_one_packet_is_sent_again_once_in_a_tenth_of_a_second(clock: Clock) -> None:
    stage = Stage()
    stage.subscribe()
    stage.router.receive_rtp(rtp(7))
    stage.seen()

    for _ in range(25):
        stage.router.receive_rtcp(nack(7) + nack(7))
        clock.now += 0.01

    assert stage.counters.packets_resent == 3


def test_retransmissions_to_one_receiver_have_a_budget(clock: Clock) -> None:
    stage = Stage()
    stage.subscribe(resending=Allowance(rate=1000, burst=5000))
    for sequence in range(100):
        stage.router.receive_rtp(rtp(sequence, KEY + bytes(1000 - len(KEY))))

    for _ in range(50):
        stage.router.receive_rtcp(nack(*range(100)))
        clock.now += 0.02

    assert 5 <= stage.counters.packets_resent <= 6
    assert stage.counters.resends_refused > 0


def test_a_lost_packet_is_forgotten_after_a_while_and_beyond_the_caches_size(clock: Clock) -> None:
    stage = Stage()
    stage.subscribe()
    cache = stage.publication.layers[""].cache
    for sequence in range(1000):
        stage.router.receive_rtp(rtp(sequence, KEY + bytes(997)))
    held = cache.size
    stage.seen()
    clock.now += 2
    stage.router.tick(clock.now)

    stage.router.receive_rtcp(nack(999))

    assert 500 * 1000 <= held <= stage.settings.max_cache
    assert (cache.size, len(cache), stage.seen()) == (0, 0, [])
