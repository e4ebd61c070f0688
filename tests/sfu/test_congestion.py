"""What a client with a narrow network is given: whole calls on a link of which only the rate is real."""

from __future__ import annotations

import random
import time

import pytest
from aiortc.rtp import RTCP_PSFB_APP, RtcpPsfbPacket, RtcpReceiverInfo, RtcpRrPacket, pack_remb_fci

from signal_manager.sfu.publication import Publication
from signal_manager.sfu.sdp import Codec
from signal_manager.sfu.subscription import Subscription
from tests.sfu.test_forwarding import KEY, Clock, Stage, nack, named, rtp

OPUS = Codec(111, "opus", "opus/48000/2")
STEP = 0.01


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that packets see, moved by hand."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


class Link:
    """A receiver behind a link of so many bit/s, with a queue; it asks for what was lost once the next packet came.

    Args:
        queue: how much the queue holds (s).
        loss: the share of packets that is lost on the way behind it.
    """

    def __init__(self, stage: Stage, clock: Clock, rate: float, *, queue: float = 0.4, loss: float = 0.0) -> None:
        self.stage, self.clock, self.rate, self.queue, self.loss = stage, clock, rate, queue, loss
        self.chance = random.Random(1)
        self.free_at = 0.0
        self.sound = self.picture = self.lost_sound = 0
        self.lost: list[tuple[float, int]] = []  # pictures, and when that is noticed

    def send(self, packet: bytes) -> None:
        if 192 <= packet[1] <= 223:
            return
        ssrc, sequence = int.from_bytes(packet[8:12], "big"), packet[2] << 8 | packet[3]
        begin = max(self.free_at, self.clock.now)
        is_full = begin - self.clock.now > self.queue
        if not is_full:
            self.free_at = begin + 8 * len(packet) / self.rate
        if is_full or self.chance.random() < self.loss:
            if ssrc == 500:
                self.lost.append((max(self.free_at, self.clock.now) + STEP, sequence))
            self.lost_sound += ssrc == 900
            return
        self.sound += ssrc == 900
        self.picture += ssrc != 900

    def complain(self) -> None:
        noticed = [number for at, number in self.lost if at <= self.clock.now]
        self.lost = [each for each in self.lost if each[0] > self.clock.now]
        if noticed:
            self.stage.router.receive_rtcp(nack(*noticed))

    def report(self, sent: int, lost: int) -> None:
        """Tell which share of the sound was lost since the last report."""
        report = RtcpReceiverInfo(900, round(256 * lost / sent), 0, 0, 0, 0, 0)
        self.stage.router.receive_rtcp(bytes(RtcpRrPacket(ssrc=9, reports=[report])))


class Call:
    """A publisher of pictures and sound, and one receiver behind a link."""

    def __init__(
        self, clock: Clock, rate: float, *, layers: dict[str, int], queue: float = 0.4, loss: float = 0.0
    ) -> None:
        self.clock, self.layers = clock, layers
        self.stage = Stage(rids=tuple(layers) if "" not in layers else ())
        self.link = Link(self.stage, clock, rate, queue=queue, loss=loss)
        self.video = self.stage.subscribe(send=self.link.send)
        self.audio_source = Publication(
            session_id="s",
            track_name="sound",
            mid="1",
            kind="audio",
            codec=OPUS,
            rids=(),
            send_rtcp=self.stage.to_publisher.append,
            settings=self.stage.settings,
            counters=self.stage.counters,
            now=clock.now,
        )
        self.stage.router.publish(self.audio_source, ssrc=13, rtx_ssrc=None, extensions={})
        self.audio = Subscription(
            ssrc=900,
            rtx_ssrc=901,
            cname="s",
            codec=OPUS,
            send=self.link.send,
            send_rtcp=self.link.send,
            settings=self.stage.settings,
            resending=self.stage.router.receiver.resending,
        )
        self.audio.attach(self.audio_source)
        self.audio.open(OPUS)
        self.stage.router.subscribe("900", self.audio)
        self.steps = self.lost_sound = 0
        self.numbers = dict.fromkeys(layers, 0)

    def run(self, seconds: float) -> None:
        """Send 50 packets of sound a second, and pictures at each layer's rate in packets of 1000 bytes."""
        for _ in range(round(seconds / STEP)):
            self.steps += 1
            self.clock.now += STEP
            if self.steps % 2 == 0:
                self.stage.router.receive_rtp(rtp(self.steps // 2, bytes(100), ssrc=13, payload_type=111))
            for index, (rid, rate) in enumerate(self.layers.items()):
                while self.numbers[rid] < self.steps * STEP * rate / 8000:
                    self.numbers[rid] += 1
                    extension = named("0", rid) if rid else b""
                    ssrc = 21 + index if rid else 11
                    body = KEY + bytes(1000 - len(KEY))
                    packet = rtp(self.numbers[rid], body, ssrc=ssrc, timestamp=9000 * self.steps, extension=extension)
                    self.stage.router.receive_rtp(packet)
            self.link.complain()
            if self.steps % 500 == 0:
                self.link.report(250, self.link.lost_sound - self.lost_sound)
                self.lost_sound = self.link.lost_sound
            if self.steps % 100 == 0:
                self.stage.router.tick(self.clock.now)


def test_a_receiver_that_cannot_keep_up_keeps_its_sound_when_the_picture_is_held(clock: Clock) -> None:
    call = Call(clock, 300_000, layers={"": 360_000})
    call.run(4)
    lost, sound, picture = call.link.lost_sound, call.link.sound, call.link.picture
    assert call.video.is_held

    call.run(2)

    assert call.link.lost_sound == lost
    assert call.link.sound - sound >= 95
    assert call.link.picture == picture
    assert lost < 100


def test_attempts_to_give_the_picture_back_become_rarer(clock: Clock) -> None:
    call = Call(clock, 300_000, layers={"": 360_000})
    call.run(120)

    assert 2 <= call.stage.counters.subscriptions_held <= 7
    assert call.link.lost_sound < 0.1 * call.link.sound


def test_the_picture_comes_back_when_the_network_does(clock: Clock) -> None:
    call = Call(clock, 300_000, layers={"": 360_000})
    call.run(4)
    assert call.video.is_held

    call.link.rate = 3_000_000
    call.run(15)
    picture = call.link.picture
    call.run(10)

    assert not call.video.is_held
    assert call.stage.router.receiver.allowed is None
    assert call.link.picture - picture > 400


def test_a_receiver_that_cannot_keep_up_gets_the_lower_layer(clock: Clock) -> None:
    call = Call(clock, 300_000, layers={"f": 600_000, "q": 100_000})
    call.video.preferred_rid = "f"
    call.run(8)
    picture, lost = call.link.picture, call.link.lost_sound
    layer = call.stage.publication.layers["q"]

    call.run(1)

    assert call.video.stream.layer is layer
    assert call.link.picture > picture
    assert call.link.lost_sound == lost


def test_a_receiver_that_keeps_up_is_left_alone(clock: Clock) -> None:
    call = Call(clock, 3_000_000, layers={"f": 600_000, "q": 100_000})
    call.video.preferred_rid = "f"
    call.run(30)

    assert call.stage.router.receiver.allowed is None
    assert call.video.stream.layer is call.stage.publication.layers["f"]


def test_losses_of_a_radio_are_no_congestion(clock: Clock) -> None:
    call = Call(clock, 3_000_000, layers={"": 360_000})
    for _ in range(60):
        call.run(0.5)
        call.link.lost = [(0.0, (call.numbers[""] - n) & 0xFFFF) for n in (9, 3)]  # of some 22

    assert not call.video.is_held
    assert call.stage.counters.packets_resent > 50


def test_an_estimate_that_keeps_falling_below_what_is_sent_is_believed_before_anything_is_lost(clock: Clock) -> None:
    call = Call(clock, 3_000_000, layers={"": 360_000})
    call.run(5)
    for estimate in range(400_000, 200_000, -20_000):
        estimated(call, estimate)
        call.run(0.5)

    assert call.video.is_held


def estimated(call: Call, bitrate: int) -> None:
    fci = pack_remb_fci(bitrate, [500])
    call.stage.router.receive_rtcp(bytes(RtcpPsfbPacket(fmt=RTCP_PSFB_APP, ssrc=9, media_ssrc=0, fci=fci)))


@pytest.mark.parametrize("loss", [0.1, 0.15])
def test_what_gets_lost_without_a_queue_does_not_take_the_picture(clock: Clock, loss: float) -> None:
    """Nor do packets that come late now and then because the receiver's machine has much to do."""
    call = Call(clock, 3_000_000, layers={"": 360_000}, loss=loss)
    for _ in range(30):
        for estimate in (400_000, 250_000, 240_000):
            estimated(call, estimate)
            call.run(0.5)
        call.run(1.5)

    assert call.stage.counters.subscriptions_held == 0
    assert call.stage.counters.packets_resent > 200


@pytest.mark.parametrize("loss", [0.3, 0.4])
def test_a_picture_is_given_back_where_as_much_sound_gets_lost_without_it(clock: Clock, loss: float) -> None:
    call = Call(clock, 3_000_000, layers={"": 360_000}, loss=loss)
    call.run(40)
    held = call.stage.counters.subscriptions_held
    assert 1 <= held <= 3

    call.run(60)

    assert not call.video.is_held
    assert call.stage.counters.subscriptions_held == held


def test_a_network_that_cuts_off_without_a_queue_keeps_its_sound(clock: Clock) -> None:
    call = Call(clock, 260_000, layers={"": 360_000}, queue=0.01)
    call.run(10)
    lost, sound = call.link.lost_sound, call.link.sound
    assert call.video.is_held

    call.run(120)

    assert call.stage.counters.subscriptions_held <= 8
    assert call.link.lost_sound - lost < 0.1 * (call.link.sound - sound)


def test_a_network_that_becomes_narrow_while_it_loses_anyhow_is_found_out(clock: Clock) -> None:
    call = Call(clock, 3_000_000, layers={"": 360_000}, loss=0.3)
    call.run(40)
    assert not call.video.is_held

    call.link.rate = 200_000
    call.run(5)

    assert call.video.is_held


def test_packets_that_the_publisher_sent_again_tell_nothing_of_a_queue() -> None:
    """A receiver asks for them before they come: that it asks soon is no news of its network."""
    stage = Stage()
    video = stage.subscribe()
    for number in (1, 3, 2):
        stage.router.receive_rtp(rtp(number, KEY if number == 1 else b"x"))

    stage.router.receive_rtcp(nack(2))
    assert video.since_last_look()[2:] == (1, float("inf"))

    stage.router.receive_rtcp(nack(3))
    assert video.since_last_look()[3] < 30


@pytest.mark.parametrize("fci", [b"", b"REMB", b"REMB\xff\x00\x00\x00", b"NONE" + bytes(8)])
def test_estimates_that_cannot_be_read_are_ignored(fci: bytes) -> None:
    stage = Stage()
    packet = RtcpPsfbPacket(fmt=RTCP_PSFB_APP, ssrc=9, media_ssrc=0, fci=fci)
    stage.router.receive_rtcp(bytes(packet))

    assert stage.router.receiver.allowed is None
