"""What subscribers see of a publisher's packets: rewriting, switching, retransmissions and reports."""

from __future__ import annotations

import struct

import pytest
from aiortc.rtp import (
    RtcpPacket,
    RtcpPsfbPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtcpSenderInfo,
    RtcpSrPacket,
)

from signal_manager.media.sfu.forwarding import Publication, Subscription
from signal_manager.media.sfu.metrics import Counters
from signal_manager.media.sfu.routing import MediaRouter
from signal_manager.media.sfu.sdp import Codec

VP8 = Codec(96, "vp8", "VP8/90000", rtx_payload_type=97)
OURS = Codec(100, "vp8", "VP8/90000", rtx_payload_type=101)
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


class Stage:
    """A publisher's router and what was sent on either side."""

    def __init__(self, *, rids: tuple[str, ...] = (), codec: Codec = VP8, kind: str = "video", limit: int = 64) -> None:
        self.counters = Counters()
        self.to_publisher: list[bytes] = []
        self.to_subscriber: list[bytes] = []
        self.router = MediaRouter(
            send_rtcp=self.to_publisher.append, max_bitrate=1_000_000, max_ssrcs=limit, counters=self.counters
        )
        self.publication = Publication(
            session_id="s",
            track_name="camera",
            mid="0",
            kind=kind,
            codec=codec,
            rids=rids,
            send_rtcp=self.to_publisher.append,
            key_frame_interval=0.3,
            counters=self.counters,
            now=0,
        )
        self.router.publish(
            self.publication,
            ssrc=None if rids else 11,
            rtx_ssrc=None if rids else 12,
            extensions={1: "mid", 2: "rid", 3: "rrid"},
        )

    def subscribe(
        self, *, codec: Codec = OURS, rid: str | None = None, other: bool = False, drop: float = 0
    ) -> Subscription:
        subscription = Subscription(
            ssrc=500,
            rtx_ssrc=501,
            cname="s",
            codec=codec,
            send=self.to_subscriber.append,
            send_rtcp=self.to_subscriber.append,
            drop_rate=drop,
        )
        subscription.preferred_rid, subscription.may_choose_other = rid, other
        subscription.attach(self.publication)
        subscription.open(codec)
        self.router.subscribe("5", subscription)
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


def test_many_requests_for_a_key_frame_become_one() -> None:
    stage = Stage()
    subscription = stage.subscribe()

    opened = stage.publication.layers[""]._asked_at
    for after in (0.1, 0.2, 0.4, 0.5, 0.6):
        subscription.ask_key_frame(opened + after)

    assert stage.counters.key_frame_requests == 2  # the first when the subscription opened


def test_retransmissions_keep_their_original_number_under_the_subscribers_ssrc() -> None:
    stage = Stage()
    stage.subscribe()
    stage.router.receive_rtp(rtp(7))
    stage.seen()

    stage.router.receive_rtp(rtp(1, struct.pack("!H", 8) + DELTA, ssrc=12, payload_type=97))
    stage.router.receive_rtp(rtp(2, b"", ssrc=12, payload_type=97))

    ((payload_type, _, ssrc, body),) = stage.seen()
    assert (payload_type, ssrc, body) == (101, 501, struct.pack("!H", 8) + DELTA)


def test_a_client_without_rtx_gets_retransmissions_as_plain_packets() -> None:
    stage = Stage()
    stage.subscribe(codec=Codec(100, "vp8", "VP8/90000"))
    stage.router.receive_rtp(rtp(7))
    stage.seen()

    stage.router.receive_rtp(rtp(1, struct.pack("!H", 8) + DELTA, ssrc=12, payload_type=97))

    assert stage.seen() == [(100, 8, 500, DELTA)]


def test_nothing_flows_before_the_answer_or_after_the_end() -> None:
    stage = Stage()
    subscription = stage.subscribe()
    subscription.pause()
    stage.router.receive_rtp(rtp(7))
    assert stage.seen() == []
    subscription.open(OURS)
    stage.router.receive_rtp(rtp(8))
    assert len(stage.seen()) == 1

    assert stage.router.unsubscribe("5")
    assert not stage.router.unsubscribe("5")
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


def test_after_a_switch_nacks_and_retransmissions_are_translated() -> None:
    stage, subscription = layered()
    subscription.preferred_rid = "f"
    subscription.choose()
    stage.router.receive_rtp(rtp(102, KEY, ssrc=21))
    stage.seen()
    stage.rtcp()

    nack = RtcpRtpfbPacket(fmt=1, ssrc=9, media_ssrc=500, lost=[60001, 60003, 60004])
    stage.router.receive_rtcp(bytes(nack))
    extension = named("0", "f", rid_id=3)
    late = struct.pack("!H", 104) + DELTA
    stage.router.receive_rtp(rtp(5, late, ssrc=31, payload_type=97, extension=extension))

    (asked,) = stage.rtcp()
    assert isinstance(asked, RtcpRtpfbPacket)
    assert (asked.media_ssrc, asked.lost) == (21, [103, 104])
    assert [body[:2] for _, _, _, body in stage.seen()] == [struct.pack("!H", 60004)]


def test_going_back_before_the_key_frame_came_keeps_the_layer() -> None:
    stage, subscription = layered()
    stage.seen()
    for rid in ("f", "q"):
        subscription.preferred_rid = rid
        subscription.choose()

    stage.router.receive_rtp(rtp(102, KEY, ssrc=21))
    stage.router.receive_rtp(rtp(60002, DELTA, ssrc=22))

    assert [sequence for _, sequence, _, _ in stage.seen()] == [60002]


def test_a_layer_that_stops_is_replaced_only_where_that_was_asked_for() -> None:
    for other, expected in ((False, "f"), (True, "q")):
        stage = Stage(rids=("f", "q"))
        subscription = stage.subscribe(rid="f", other=other)
        stage.router.receive_rtp(rtp(1, ssrc=21, extension=named("0", "f")))
        assert subscription.layer is stage.publication.layers["f"]

        for second in range(3):
            stage.router.receive_rtp(rtp(second, ssrc=22, extension=named("0", "q")))
            stage.router.tick(second)
        stage.router.receive_rtp(rtp(9, ssrc=22))

        assert subscription.layer is stage.publication.layers[expected]


def test_without_a_preference_the_first_layer_that_flows_is_taken() -> None:
    stage = Stage(rids=("f", "q"))
    subscription = stage.subscribe()
    stage.router.receive_rtp(rtp(1, ssrc=22, extension=named("0", "q")))
    stage.router.tick(1)
    stage.router.receive_rtp(rtp(2, ssrc=22))

    assert subscription.layer is stage.publication.layers["q"]


def test_a_layer_that_does_not_exist_is_waited_for_in_vain() -> None:
    stage = Stage(rids=("f", "q"))
    subscription = stage.subscribe(rid="x")
    stage.router.receive_rtp(rtp(1, ssrc=22, extension=named("0", "q")))
    stage.router.tick(1)

    assert subscription.layer is None
    assert stage.seen() == []


def test_another_publication_continues_the_same_stream() -> None:
    stage, other = Stage(), Stage()
    subscription = stage.subscribe()
    stage.router.receive_rtp(rtp(7))
    subscription.attach(other.publication)
    other.router.receive_rtp(rtp(1, KEY))
    stage.router.receive_rtp(rtp(8, DELTA))

    assert [sequence for _, sequence, _, _ in stage.seen()] == [7, 8]


def test_a_publisher_that_changes_its_ssrc_goes_on_with_a_key_frame() -> None:
    stage = Stage()
    stage.subscribe()
    stage.router.receive_rtp(rtp(7))
    stage.router.signal(stage.publication, ssrc=77, rtx_ssrc=78)
    stage.router.receive_rtp(rtp(40000, DELTA, ssrc=77))
    stage.router.receive_rtp(rtp(40001, KEY, ssrc=77))

    assert [sequence for _, sequence, _, _ in stage.seen()] == [7, 8]


def test_numbers_wrap_around_without_losing_their_order() -> None:
    stage = Stage()
    stage.subscribe()
    for step in range(0, 70_000, 1000):
        stage.router.receive_rtp(rtp(step))

    assert len(stage.seen()) == 70
    assert stage.publication.layers[""].highest == 69_000


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


def test_packets_are_lost_on_purpose() -> None:
    stage = Stage()
    stage.subscribe(drop=1)
    stage.router.receive_rtp(rtp(1))
    stage.router.receive_rtp(rtp(1, struct.pack("!H", 2) + DELTA, ssrc=12, payload_type=97))

    assert stage.seen() == []
    assert stage.counters.packets_dropped_on_purpose == 2


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


def test_pli_and_fir_reach_the_publisher() -> None:
    stage = Stage()
    subscription = stage.subscribe()
    stage.router.receive_rtp(rtp(7))
    layer = stage.publication.layers[""]
    for feedback in (
        RtcpPsfbPacket(fmt=1, ssrc=9, media_ssrc=500),
        RtcpPsfbPacket(fmt=4, ssrc=9, media_ssrc=0, fci=struct.pack("!LL", 500, 0)),
    ):
        stage.rtcp()
        layer._asked_at = 0  # as if the last one were long ago
        stage.router.receive_rtcp(bytes(feedback))
        assert len(stage.rtcp()) == 1
    stage.router.receive_rtcp(bytes(RtcpPsfbPacket(fmt=1, ssrc=9, media_ssrc=499)))
    stage.router.receive_rtcp(bytes(RtcpRtpfbPacket(fmt=1, ssrc=9, media_ssrc=499, lost=[1])))
    assert stage.rtcp() == []
    assert subscription.layer is layer


def test_a_nack_across_the_wrap_keeps_all_its_numbers() -> None:
    stage = Stage()
    subscription = stage.subscribe()
    stage.router.receive_rtp(rtp(65530))
    stage.rtcp()

    subscription.ask_again([65534, 65535, 0, 40, 40])

    (nack,) = stage.rtcp()
    assert isinstance(nack, RtcpRtpfbPacket)
    assert [number & 0xFFFF for number in nack.lost] == [65534, 65535, 0, 40]


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\xc8\x00\x01", b"\x81\xc9\x00\xff" + bytes(8), bytes(40)])
def test_rtcp_garbage_is_ignored(data: bytes) -> None:
    stage = Stage()
    stage.router.receive_rtcp(data)

    assert stage.rtcp() == []


def test_the_publisher_is_told_what_was_lost_and_what_it_may_send() -> None:
    stage = Stage()
    for sequence in (65534, 65535, 0, 2, 4):
        stage.router.receive_rtp(rtp(sequence))
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


def test_a_publisher_that_sent_nothing_gets_no_report() -> None:
    stage = Stage()
    stage.router.tick(1.0)

    assert stage.rtcp() == []
