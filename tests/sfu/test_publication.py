"""What a publisher is asked for, and what its layers send."""

from __future__ import annotations

import struct
import time

import pytest
from aiortc.rtp import RtcpRtpfbPacket

from signal_manager.sfu.publication import Rates
from tests.sfu.test_forwarding import DELTA, KEY, Clock, Stage, nack, rtp


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that packets see, moved by hand."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def test_the_publisher_is_asked_once_for_what_the_sfu_lacks_and_everybody_gets_it(clock: Clock) -> None:
    stage, others = Stage(), list[bytes]()
    stage.subscribe()
    stage.subscribe(ssrc=600, send=others.append)
    stage.router.receive_rtp(rtp(7))
    stage.rtcp()

    stage.router.receive_rtp(rtp(10, DELTA))
    (first,) = stage.rtcp()
    stage.router.receive_rtcp(nack(8, 9))
    stage.router.receive_rtcp(nack(8, 9, ssrc=600))
    stage.router.receive_rtp(rtp(11, DELTA))
    unasked = stage.rtcp()
    stage.router.receive_rtp(rtp(1, struct.pack("!H", 8) + DELTA, ssrc=12, payload_type=97))
    clock.now += 0.11
    stage.router.receive_rtp(rtp(12, DELTA))
    (second,) = stage.rtcp()

    assert isinstance(first, RtcpRtpfbPacket)
    assert isinstance(second, RtcpRtpfbPacket)
    assert (first.media_ssrc, first.lost, unasked, second.lost) == (11, [8, 9], [], [9])
    assert [sequence for _, sequence, _, _ in stage.seen()] == [7, 10, 11, 8, 12]
    assert len(others) == 5


def test_a_packet_that_never_comes_is_given_up(clock: Clock) -> None:
    stage = Stage()
    stage.router.receive_rtp(rtp(7))
    for sequence in range(9, 50):
        stage.router.receive_rtp(rtp(sequence, DELTA))
        clock.now += 0.1

    assert stage.counters.packets_asked_again == stage.settings.max_requests_for_lost_packet


def test_a_publisher_that_jumps_is_not_asked_for_what_it_never_sent() -> None:
    stage = Stage()
    stage.router.receive_rtp(rtp(7))
    stage.router.receive_rtp(rtp(5000, DELTA))
    for start in (5100, 5250):
        stage.router.receive_rtp(rtp(start, DELTA))

    assert stage.counters.packets_asked_again == 99 + 149


def test_a_publisher_that_changes_its_ssrc_goes_on_with_a_key_frame() -> None:
    stage = Stage()
    stage.subscribe()
    stage.router.receive_rtp(rtp(7))
    stage.router.signal(stage.publication, ssrc=77, rtx_ssrc=78)
    stage.router.receive_rtp(rtp(40000, DELTA, ssrc=77))
    stage.router.receive_rtp(rtp(40001, KEY, ssrc=77))

    assert [sequence for _, sequence, _, _ in stage.seen()] == [7, 8]


def test_a_nack_across_the_wrap_keeps_all_its_numbers() -> None:
    stage = Stage()
    stage.router.receive_rtp(rtp(65533))
    stage.router.receive_rtp(rtp(1))

    (asked,) = stage.rtcp()
    assert isinstance(asked, RtcpRtpfbPacket)
    assert [number & 0xFFFF for number in asked.lost] == [65534, 65535, 0]


def test_rates_are_smoothed_and_begin_anew_with_another_stream() -> None:
    rates = Rates(0.0)

    assert rates.tick(10, 1000, 1.0)
    assert (rates.packets, rates.bits, rates.recent_bytes) == (10.0, 8000.0, 1000)
    assert not rates.tick(10, 1000, 2.0)
    assert (rates.packets, rates.bits, rates.recent_bytes) == (5.0, 4000.0, 0)
    rates.reset()
    assert rates.tick(1, 100, 3.0)
    assert rates.recent_bytes == 100
