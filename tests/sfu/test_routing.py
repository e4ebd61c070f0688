"""Where the packets of one session belong, and what its reports ask for."""

from __future__ import annotations

import struct

import pytest
from aiortc.rtp import (
    RtcpPsfbPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpRtpfbPacket,
)

from tests.sfu.test_forwarding import DELTA, Clock, Stage, clock, named, rtp

__all__ = ["clock"]  # a fixture


@pytest.mark.parametrize(
    "packet",
    [
        rtp(1, ssrc=99, payload_type=50),
        rtp(1, ssrc=99, extension=named("9", "")),
        rtp(1, ssrc=99, extension=b"\xbe\xde\x00\x01\x1f\x00\x00\x00"),
        rtp(1, ssrc=99, extension=b"\xbe\xde\x00\x01\x10\xff\x00\x00"),
        rtp(1, b"", extension=b"\xbe\xde\xff\xff"),
        rtp(1, b"")[:12],
        b"\x8f" + rtp(1, b"")[1:],
    ],
)
def test_packets_that_belong_nowhere_go_nowhere(packet: bytes) -> None:
    stage = Stage(rids=("f",)) if b"\xbe\xde" in packet else Stage()
    stage.subscribe()

    stage.router.receive_rtp(packet)

    assert stage.seen() == []


def test_what_a_closed_publication_still_sends_is_not_taken_for_another() -> None:
    stage = Stage()
    stage.subscribe()
    stage.router.receive_rtp(rtp(7))
    stage.router.receive_rtp(rtp(8, ssrc=99))
    stage.router.receive_rtp(rtp(1, struct.pack("!H", 8) + DELTA, ssrc=98, payload_type=97))

    assert [sequence for _, sequence, _, _ in stage.seen()] == [7]
    assert stage.counters.packets_unrouted == 2


def test_a_stream_without_signalled_ssrc_is_found_by_its_payload_type() -> None:
    stage = Stage()
    stage.router.unpublish("0")
    stage.router.publish(stage.publication, ssrc=None, rtx_ssrc=None, extensions={})
    stage.publication.layers[""].ssrc = stage.publication.layers[""].rtx_ssrc = None
    stage.subscribe()

    stage.router.receive_rtp(rtp(7, ssrc=1234))

    assert len(stage.seen()) == 1


def test_a_publisher_cannot_fill_memory_with_ssrcs() -> None:
    stage = Stage(rids=("f",), limit=1)
    stage.router.receive_rtp(rtp(1, ssrc=1000, extension=named("0", "f")))
    stage.router.receive_rtp(rtp(1, ssrc=1001, extension=named("0", "f")))

    assert stage.counters.packets_unrouted == 1


def test_a_publisher_is_told_when_its_packets_arrived(clock: Clock) -> None:
    stage = Stage()
    stage.router.publish(stage.publication, ssrc=11, rtx_ssrc=12, extensions={3: "transport number"})
    for number in range(20):
        extension = bytes.fromhex("bede0002") + b"\x10\x30" + bytes((0x31,)) + struct.pack("!H", number) + bytes(3)
        stage.router.receive_rtp(rtp(number, extension=extension))
        clock.now += 0.01

    (feedback,) = stage.rtcp()
    assert isinstance(feedback, RtcpRtpfbPacket)
    assert (feedback.fmt, feedback.media_ssrc) == (15, 11)


def test_pli_and_fir_reach_the_publisher(clock: Clock) -> None:
    stage = Stage()
    subscription = stage.subscribe()
    stage.router.receive_rtp(rtp(7))
    layer = stage.publication.layers[""]
    for feedback in (
        RtcpPsfbPacket(fmt=1, ssrc=9, media_ssrc=500),
        RtcpPsfbPacket(fmt=4, ssrc=9, media_ssrc=0, fci=struct.pack("!LL", 500, 0)),
    ):
        stage.rtcp()
        clock.now += 5
        stage.router.receive_rtcp(bytes(feedback))
        assert len(stage.rtcp()) == 1
    stage.router.receive_rtcp(bytes(RtcpPsfbPacket(fmt=1, ssrc=9, media_ssrc=499)))
    stage.router.receive_rtcp(bytes(RtcpRtpfbPacket(fmt=1, ssrc=9, media_ssrc=499, lost=[1])))
    assert stage.rtcp() == []
    assert subscription.stream.layer is layer


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\xc8\x00\x01", b"\x81\xc9\x00\xff" + bytes(8), bytes(40)])
def test_rtcp_garbage_is_ignored(data: bytes) -> None:
    stage = Stage()
    stage.router.receive_rtcp(data)

    assert stage.rtcp() == []


def test_the_publisher_is_told_what_was_lost_and_what_it_may_send() -> None:
    stage = Stage()
    for sequence in (65534, 65535, 0, 2, 4):
        stage.router.receive_rtp(rtp(sequence))
    stage.rtcp()
    stage.router.tick(1.0)
    report, estimate = stage.rtcp()
    stage.router.receive_rtp(rtp(5))
    stage.router.tick(2.0)
    (later, _) = stage.rtcp()

    assert isinstance(report, RtcpRrPacket)
    assert isinstance(later, RtcpRrPacket)
    assert report.reports == [RtcpReceiverInfo(11, (2 << 8) // 7, 2, 65536 + 4, 0, 0, 0)]
    assert later.reports[0].fraction_lost == 0
    assert isinstance(estimate, RtcpPsfbPacket)
    assert estimate.fci.startswith(b"REMB")


def test_a_publisher_of_many_tracks_is_told_about_each() -> None:
    stage = Stage()
    for number in range(40):
        publication = stage.publish_another(str(number + 1), ssrc=1000 + number)
        stage.router.receive_rtp(rtp(1, ssrc=1000 + number))
        assert publication.has_packets
    stage.rtcp()

    stage.router.tick(1.0)
    reports = [each for each in stage.rtcp() if isinstance(each, RtcpRrPacket)]

    assert [len(each.reports) for each in reports] == [31, 9]
    assert {report.ssrc for each in reports for report in each.reports} == set(range(1000, 1040))


def test_a_publisher_that_sent_nothing_gets_no_report() -> None:
    stage = Stage()
    stage.router.tick(1.0)

    assert stage.rtcp() == []
