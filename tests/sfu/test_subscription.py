"""Which layer fills a subscription, and when a key frame is asked for."""

from __future__ import annotations

import time

import pytest
from aiortc.rtp import RtcpPsfbPacket

from tests.sfu.test_forwarding import DELTA, KEY, Clock, Stage, layered, named, pli, rtp


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that packets see, moved by hand."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


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
        assert subscription.stream.layer is stage.publication.layers["f"]

        for second in range(3):
            stage.router.receive_rtp(rtp(second, ssrc=22, extension=named("0", "q")))
            stage.router.tick(second)
        stage.router.receive_rtp(rtp(9, ssrc=22))

        assert subscription.stream.layer is stage.publication.layers[expected]


def test_without_a_preference_the_first_layer_that_flows_is_taken() -> None:
    stage = Stage(rids=("f", "q"))
    subscription = stage.subscribe()
    stage.router.receive_rtp(rtp(1, ssrc=22, extension=named("0", "q")))
    stage.router.tick(1)
    stage.router.receive_rtp(rtp(2, ssrc=22))

    assert subscription.stream.layer is stage.publication.layers["q"]


def test_a_layer_that_does_not_exist_is_waited_for_in_vain() -> None:
    stage = Stage(rids=("f", "q"))
    subscription = stage.subscribe(rid="x")
    stage.router.receive_rtp(rtp(1, ssrc=22, extension=named("0", "q")))
    stage.router.tick(1)

    assert subscription.stream.layer is None
    assert stage.seen() == []


def test_another_publication_continues_the_same_stream() -> None:
    stage, other = Stage(), Stage()
    subscription = stage.subscribe()
    stage.router.receive_rtp(rtp(7))
    subscription.attach(other.publication)
    other.router.receive_rtp(rtp(1, KEY))
    stage.router.receive_rtp(rtp(8, DELTA))

    assert [sequence for _, sequence, _, _ in stage.seen()] == [7, 8]


def test_a_receiver_that_asks_for_key_frames_all_the_time_gets_one_at_once_and_then_one_in_two_seconds(
    clock: Clock,
) -> None:
    stage = Stage()
    stage.subscribe()
    stage.router.receive_rtp(rtp(7))
    clock.now += 5
    stage.counters.key_frame_requests = 0

    stage.router.receive_rtcp(pli())
    at_once = stage.counters.key_frame_requests
    for _ in range(2000):
        clock.now += 0.01
        stage.router.receive_rtcp(pli())

    assert at_once == 1
    assert 10 <= stage.counters.key_frame_requests <= 11


def test_many_receivers_that_ask_for_key_frames_share_one_in_a_second(clock: Clock) -> None:
    stage = Stage()
    for number in range(50):
        stage.subscribe(ssrc=500 + 2 * number)
    stage.router.receive_rtp(rtp(7))
    clock.now += 5
    stage.counters.key_frame_requests = 0

    for _ in range(100):
        clock.now += 0.1
        for number in range(50):
            stage.router.receive_rtcp(pli(500 + 2 * number))

    assert 10 <= stage.counters.key_frame_requests <= 11


def test_a_key_frame_that_was_held_back_is_asked_for_later(clock: Clock) -> None:
    stage = Stage()
    stage.subscribe()
    stage.router.receive_rtp(rtp(7))
    clock.now += 5
    stage.router.receive_rtcp(pli())
    clock.now += 0.5
    stage.router.receive_rtcp(pli())
    stage.rtcp()

    clock.now += 2
    stage.router.tick(clock.now)

    assert any(isinstance(packet, RtcpPsfbPacket) and packet.fmt == 1 for packet in stage.rtcp())
