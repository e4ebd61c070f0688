"""What subscribers see of a publisher's packets: rewriting, switching, retransmissions and reports."""

from __future__ import annotations

import struct
import time

import pytest
from aiortc.rtp import (
    RtcpPacket,
    RtcpPsfbPacket,
    RtcpRtpfbPacket,
    RtcpSenderInfo,
    RtcpSrPacket,
)

from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.publication import Publication, SendPacket
from signal_manager.sfu.retransmission import Allowance
from signal_manager.sfu.routing import MediaRouter
from signal_manager.sfu.sdp import Codec
from signal_manager.sfu.settings import SfuSettings
from signal_manager.sfu.subscription import Subscription

VP8 = Codec(96, "vp8", "VP8/90000", feedback=("nack", "nack pli"), rtx_payload_type=97)
OURS = Codec(100, "vp8", "VP8/90000", feedback=("nack", "nack pli"), rtx_payload_type=101)
KEY, DELTA = b"\x10\x00key", b"\x10\x01delta"


def rtp(
    sequence: int,
    body: bytes = KEY,
    *,
    ssrc: int = 11,
    timestamp: int = 3000,
    payload_type: int = 96,
    extension: bytes = b"",
) -> bytes:
    first = 0x90 if extension else 0x80
    return struct.pack("!BBHLL", first, payload_type, sequence & 0xFFFF, timestamp, ssrc) + extension + body


def named(mid: str, rid: str, *, rid_id: int = 2) -> bytes:
    """The header extension of a layer's first packets, with MID under 1."""
    items = b"".join(
        bytes((number << 4 | len(value) - 1,)) + value.encode() for number, value in ((1, mid), (rid_id, rid)) if value
    )
    items += bytes(-len(items) % 4)
    return struct.pack("!HH", 0xBEDE, len(items) // 4) + items


class Clock:
    """Seconds since some moment."""

    now = 1000.0


class Stage:
    """A publisher's router and what was sent on either side."""

    def __init__(self, *, rids: tuple[str, ...] = (), codec: Codec = VP8, kind: str = "video", limit: int = 64) -> None:
        self.counters = Counters()
        self.to_publisher: list[bytes] = []
        self.to_subscriber: list[bytes] = []
        self.settings = SfuSettings(max_ssrcs=limit)
        self.router = MediaRouter(send_rtcp=self.to_publisher.append, settings=self.settings, counters=self.counters)
        self.publication = self._publication("0", kind, codec, rids)
        self.router.publish(
            self.publication,
            ssrc=None if rids else 11,
            rtx_ssrc=None if rids else 12,
            extensions={1: "mid", 2: "rid", 3: "rrid"},
        )

    def publish_another(self, mid: str, *, ssrc: int) -> Publication:
        publication = self._publication(mid, "video", VP8, ())
        self.router.publish(publication, ssrc=ssrc, rtx_ssrc=None, extensions={})
        return publication

    def _publication(self, mid: str, kind: str, codec: Codec, rids: tuple[str, ...]) -> Publication:
        return Publication(
            session_id="s",
            track_name="camera",
            mid=mid,
            kind=kind,
            codec=codec,
            rids=rids,
            send_rtcp=self.to_publisher.append,
            settings=self.settings,
            counters=self.counters,
            now=time.monotonic(),
        )

    def subscribe(
        self,
        *,
        codec: Codec = OURS,
        rid: str | None = None,
        other: bool = False,
        drop: float = 0,
        ssrc: int = 500,
        send: SendPacket | None = None,
        resending: Allowance | None = None,
    ) -> Subscription:
        subscription = Subscription(
            ssrc=ssrc,
            rtx_ssrc=ssrc + 1,
            cname="s",
            codec=codec,
            send=send or self.to_subscriber.append,
            send_rtcp=self.to_subscriber.append,
            settings=SfuSettings(drop_rate=drop),
            resending=resending or self.router.receiver.resending,
        )
        subscription.preferred_rid, subscription.may_choose_other = rid, other
        subscription.attach(self.publication)
        subscription.open(codec)
        self.router.subscribe(str(ssrc), subscription)
        return subscription

    def seen(self) -> list[tuple[int, int, int, bytes]]:
        """Payload type, sequence number, SSRC and body of what the subscriber got."""
        packets = [(*struct.unpack_from("!xBHLL", packet), packet[12:]) for packet in self.to_subscriber]
        self.to_subscriber.clear()
        return [(first & 0x7F, sequence, ssrc, body) for first, sequence, _, ssrc, body in packets]

    def rtcp(self) -> list[object]:
        packets = [parsed for data in self.to_publisher for parsed in RtcpPacket.parse(data)]
        self.to_publisher.clear()
        return list(packets)


def test_payload_type_and_ssrc_are_rewritten_and_numbers_kept() -> None:
    stage = Stage()
    stage.subscribe()

    stage.router.receive_rtp(rtp(7))
    stage.router.receive_rtp(rtp(9, DELTA, extension=named("0", "")))

    assert stage.seen() == [(100, 7, 500, KEY), (100, 9, 500, DELTA)]


def test_a_picture_begins_with_a_key_frame_that_was_asked_for() -> None:
    stage = Stage()
    stage.subscribe()

    stage.router.receive_rtp(rtp(7, DELTA))
    stage.router.receive_rtp(rtp(8, KEY))

    assert [sequence for _, sequence, _, _ in stage.seen()] == [8]
    (pli,) = stage.rtcp()
    assert isinstance(pli, RtcpPsfbPacket)
    assert pli.media_ssrc == 11


def test_audio_begins_at_once_and_without_pli() -> None:
    stage = Stage(codec=Codec(111, "opus", "opus/48000/2"), kind="audio")
    stage.subscribe(codec=Codec(111, "opus", "opus/48000/2"))

    stage.router.receive_rtp(rtp(7, b"x", payload_type=111))

    assert stage.seen() == [(111, 7, 500, b"x")]
    assert stage.rtcp() == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that packets see, moved by hand."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def nack(*numbers: int, ssrc: int = 500) -> bytes:
    return bytes(RtcpRtpfbPacket(fmt=1, ssrc=9, media_ssrc=ssrc, lost=list(numbers)))


def pli(ssrc: int = 500) -> bytes:
    return bytes(RtcpPsfbPacket(fmt=1, ssrc=9, media_ssrc=ssrc))


def test_a_publisher_whose_numbers_go_round_at_once_disturbs_nothing(clock: Clock) -> None:
    stage = Stage()
    stage.subscribe()
    for sequence in (0, 0x5555, 0xAAAA, 0xFFFF, 0, 0x5555):
        stage.router.receive_rtp(rtp(sequence))
    clock.now += 2

    stage.router.tick(clock.now)
    stage.router.receive_rtp(rtp(0x5556))

    assert len(stage.publication.layers[""].cache) == 1


def test_what_was_not_lost_is_not_forwarded_twice() -> None:
    stage = Stage()
    stage.subscribe()
    stage.router.receive_rtp(rtp(7))
    stage.router.receive_rtp(rtp(8, DELTA))
    stage.seen()

    stage.router.receive_rtp(rtp(1, struct.pack("!H", 7) + KEY, ssrc=12, payload_type=97))
    stage.router.receive_rtp(rtp(2, struct.pack("!H", 8) + DELTA, ssrc=12, payload_type=97))
    stage.router.receive_rtp(rtp(3, b"", ssrc=12, payload_type=97))

    assert stage.seen() == []


def test_nothing_flows_before_the_answer_or_after_the_end() -> None:
    stage = Stage()
    subscription = stage.subscribe()
    subscription.pause()
    stage.router.receive_rtp(rtp(7))
    assert stage.seen() == []
    subscription.open(OURS)
    stage.router.receive_rtp(rtp(8))
    assert len(stage.seen()) == 1

    assert stage.router.unsubscribe("500")
    assert not stage.router.unsubscribe("500")
    stage.router.receive_rtp(rtp(9))
    assert stage.seen() == []
    assert stage.router.unpublish("0")
    assert not stage.router.unpublish("0")
    stage.router.receive_rtp(rtp(10))
    assert stage.counters.packets_unrouted == 1


def layered() -> tuple[Stage, Subscription]:
    """Two layers that flow, and a subscriber of the lower one."""
    stage = Stage(rids=("f", "q"))
    stage.router.receive_rtp(rtp(100, ssrc=21, extension=named("0", "f")))
    stage.router.receive_rtp(rtp(60000, ssrc=22, timestamp=900_000, extension=named("0", "q")))
    subscription = stage.subscribe(rid="q")
    stage.router.receive_rtp(rtp(60001, ssrc=22, timestamp=900_000))
    return stage, subscription


def test_a_layer_switch_waits_for_a_key_frame_and_continues_the_numbers() -> None:
    stage, subscription = layered()
    subscription.preferred_rid = "f"
    subscription.choose()

    stage.router.receive_rtp(rtp(101, DELTA, ssrc=21))
    stage.router.receive_rtp(rtp(60002, DELTA, ssrc=22, timestamp=903_000))
    stage.router.receive_rtp(rtp(102, KEY, ssrc=21, timestamp=10))
    stage.router.receive_rtp(rtp(60003, DELTA, ssrc=22))
    stage.router.receive_rtp(rtp(101, DELTA, ssrc=21))  # late, from before the switch
    stage.router.receive_rtp(rtp(103, DELTA, ssrc=21, timestamp=3010))
    timestamps = [struct.unpack_from("!L", packet, 4)[0] for packet in stage.to_subscriber]

    assert [sequence for _, sequence, _, _ in stage.seen()] == [60001, 60002, 60003, 60004]
    assert timestamps[:2] == [900_000, 903_000]
    assert 903_000 < timestamps[2] < 903_000 + 90_000
    assert timestamps[3] - timestamps[2] == 3000


def test_after_a_switch_nacks_are_understood_in_the_numbers_that_the_receiver_sees() -> None:
    stage, subscription = layered()
    subscription.preferred_rid = "f"
    subscription.choose()
    stage.router.receive_rtp(rtp(102, KEY, ssrc=21))
    stage.router.receive_rtp(rtp(103, DELTA, ssrc=21))
    stage.seen()

    stage.router.receive_rtcp(nack(60001, 60003, 60004))

    assert [body[:2] for _, _, _, body in stage.seen()] == [struct.pack("!H", 60003)]


def test_layers_are_sent_again_under_the_ssrc_of_their_retransmissions() -> None:
    stage, _ = layered()
    stage.router.receive_rtp(rtp(60003, DELTA, ssrc=22))
    stage.seen()

    extension = named("0", "q", rid_id=3)
    late = struct.pack("!H", 60002) + DELTA
    stage.router.receive_rtp(rtp(5, late, ssrc=31, payload_type=97, extension=extension))

    assert [sequence for _, sequence, _, _ in stage.seen()] == [60002]


def test_numbers_wrap_around_without_losing_their_order() -> None:
    stage = Stage()
    stage.subscribe()
    for step in range(0, 70_000, 1000):
        stage.router.receive_rtp(rtp(step))

    assert len(stage.seen()) == 70
    assert stage.publication.layers[""].highest == 69_000


def test_packets_are_lost_on_purpose() -> None:
    stage = Stage()
    stage.subscribe(drop=1)
    stage.router.receive_rtp(rtp(1))
    stage.router.receive_rtcp(nack(1))

    assert stage.seen() == []
    assert stage.counters.packets_dropped_on_purpose == 1


def test_the_publishers_clock_is_passed_on_under_the_new_ssrc() -> None:
    stage = Stage()
    stage.subscribe()
    stage.router.receive_rtp(rtp(7))
    stage.seen()
    info = RtcpSenderInfo(ntp_timestamp=1 << 40, rtp_timestamp=3000, packet_count=9, octet_count=9)
    stage.router.receive_rtcp(bytes(RtcpSrPacket(ssrc=11, sender_info=info)))
    stage.router.receive_rtcp(bytes(RtcpSrPacket(ssrc=12, sender_info=info)))

    (sent,) = stage.to_subscriber
    report = RtcpPacket.parse(sent)[0]
    assert isinstance(report, RtcpSrPacket)
    assert (report.ssrc, report.sender_info.rtp_timestamp, report.sender_info.packet_count) == (500, 3000, 1)


def test_a_late_joiner_learns_the_publishers_clock_at_once(clock: Clock) -> None:
    stage = Stage()
    stage.router.receive_rtp(rtp(7))
    info = RtcpSenderInfo(ntp_timestamp=1 << 40, rtp_timestamp=3000, packet_count=9, octet_count=9)
    stage.router.receive_rtcp(bytes(RtcpSrPacket(ssrc=11, sender_info=info)))
    clock.now += 2.5

    stage.subscribe()
    stage.router.receive_rtp(rtp(8))

    report = RtcpPacket.parse(stage.to_subscriber[0])[0]
    assert isinstance(report, RtcpSrPacket)
    assert report.ssrc == 500
    assert report.sender_info.ntp_timestamp == (1 << 40) + int(2.5 * (1 << 32))
    assert report.sender_info.rtp_timestamp == 3000 + int(2.5 * 90000)


def test_packets_tell_when_they_were_sent_where_the_client_wants_to_know(clock: Clock) -> None:
    stage = Stage()
    subscription = stage.subscribe()
    subscription.open(OURS, 5)
    stage.router.receive_rtp(rtp(7))
    stage.router.receive_rtcp(nack(7))

    first, again = stage.to_subscriber
    sent_at = bytes.fromhex("bede0001") + bytes((5 << 4 | 2,)) + (int(clock.now * 2**18) & 0xFFFFFF).to_bytes(3, "big")
    assert (first[0], first[12:]) == (0x90, sent_at + KEY)
    assert (again[0], again[12:]) == (0x90, sent_at + struct.pack("!H", 7) + KEY)
