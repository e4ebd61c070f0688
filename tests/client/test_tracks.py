"""A publication sends the frames of its present track only, even while the former track still runs."""

from __future__ import annotations

import asyncio
from collections import deque
from fractions import Fraction
from typing import Any

import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, VideoFrame
from av.frame import Frame
from av.packet import Packet

from signal_manager.client.tracks import IncomingTrack, OutgoingTrack
from tests.client.fake_service import within


class Source(MediaStreamTrack):
    """A track whose frames the test puts in; it hangs where there are none."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.frames: asyncio.Queue[AudioFrame] = asyncio.Queue()
        self.is_asked = asyncio.Event()

    def put(self, samples: int) -> None:
        frame = AudioFrame(format="s16", layout="mono", samples=samples)
        frame.pts, frame.time_base, frame.sample_rate = 0, Fraction(1, 48000), 48000
        self.frames.put_nowait(frame)

    async def recv(self) -> AudioFrame:
        self.is_asked.set()
        return await self.frames.get()


class Sender:
    """A publication and what is sent for it."""

    def __init__(self, track: MediaStreamTrack) -> None:
        self.track = track
        self.outgoing = OutgoingTrack("audio", lambda: self.track, lambda: True)

    def replace(self, track: MediaStreamTrack) -> None:
        self.track = track
        self.outgoing.turn()


async def test_a_replaced_track_that_hangs_holds_up_nothing() -> None:
    """A camera that was unplugged may never give another frame."""
    hanging, never_asked, fresh = Source(), Source(), Source()
    sender = Sender(hanging)
    receiving = asyncio.create_task(sender.outgoing.recv())
    await within(hanging.is_asked.wait())

    sender.replace(never_asked)
    fresh.put(960)
    sender.replace(fresh)

    assert isinstance(frame := await within(receiving), AudioFrame)
    assert frame.samples == 960
    assert not never_asked.is_asked.is_set()


async def test_a_track_that_is_replaced_between_two_frames_is_not_waited_for() -> None:
    first, second = Source(), Source()
    sender = Sender(first)
    first.put(480)
    await within(sender.outgoing.recv())

    second.put(960)
    sender.replace(second)

    assert isinstance(frame := await within(sender.outgoing.recv()), AudioFrame)
    assert frame.samples == 960


@pytest.mark.parametrize("error", [TimeoutError, MediaStreamError])
async def test_what_the_present_track_raises_is_raised(error: type[Exception]) -> None:
    class Broken(Source):
        async def recv(self) -> AudioFrame:
            raise error

    with pytest.raises(error):
        await within(Sender(Broken()).outgoing.recv())


async def test_whoever_stops_sending_while_a_track_hangs_is_not_held_up() -> None:
    hanging = Source()
    receiving = asyncio.create_task(Sender(hanging).outgoing.recv())
    await within(hanging.is_asked.wait())

    receiving.cancel()

    with pytest.raises(asyncio.CancelledError):
        await within(receiving)


# Time and silence


class Frames(MediaStreamTrack):
    """A track with these frames, of which each is there at once; then it has ended."""

    def __init__(self, *frames: Frame | Packet[Any], kind: str = "audio") -> None:
        super().__init__()
        self.kind = kind
        self.frames = deque(frames)

    async def recv(self) -> Frame | Packet[Any]:
        if not self.frames:
            self.stop()
            raise MediaStreamError
        return self.frames.popleft()


def sound(pts: int | None = 0, *, rate: int = 48000) -> AudioFrame:
    frame = AudioFrame(format="s16", layout="stereo", samples=rate // 50)
    for plane in frame.planes:
        plane.update(b"\x55" * plane.buffer_size)
    frame.pts, frame.sample_rate = pts, rate
    if pts is not None:
        frame.time_base = Fraction(1, rate)
    return frame


def picture(pts: int = 0) -> VideoFrame:
    frame = VideoFrame(4, 2, "rgb24")
    for plane in frame.planes:
        plane.update(b"\xff" * plane.buffer_size)
    frame.pts, frame.time_base = pts, Fraction(1, 90000)
    return frame


async def test_a_replaced_track_goes_on_in_time_where_the_former_one_was() -> None:
    """Otherwise the receiver takes what follows for very late or very early."""
    sender = Sender(Frames(sound(96000), sound(96960)))
    times = [(await sender.outgoing.recv()).pts for _ in range(2)]

    sender.replace(Frames(sound(0, rate=8000), sound(160, rate=8000)))
    times += [(await sender.outgoing.recv()).pts for _ in range(2)]

    # 20 ms after the last frame, in the new track's clock.
    assert times == [96000, 96960, 16320, 16480]


async def test_a_frame_without_a_time_is_left_as_it_is() -> None:
    assert (await Sender(Frames(sound(None))).outgoing.recv()).pts is None


async def test_a_muted_track_sends_silence_in_the_same_form_and_time() -> None:
    source = Frames(sound(960))
    track = OutgoingTrack("audio", lambda: source, lambda: False)

    frame = await track.recv()

    assert isinstance(frame, AudioFrame)
    assert not any(bytes(frame.planes[0]))
    assert (frame.pts, frame.sample_rate, frame.samples, frame.layout.name) == (960, 48000, 960, "stereo")


async def test_a_muted_picture_is_black_in_the_same_size_and_time() -> None:
    source = Frames(picture(9))
    track = OutgoingTrack("video", lambda: source, lambda: False)

    frame = await track.recv()

    assert isinstance(frame, VideoFrame)
    assert (frame.width, frame.height, frame.pts, frame.time_base) == (4, 2, 9, Fraction(1, 90000))
    assert not any(bytes(frame.reformat(format="rgb24").planes[0]))


async def test_what_comes_encoded_is_left_out_while_muted() -> None:
    is_enabled = False
    source = Frames(Packet(b"one"), Packet(b"two"), sound())
    track = OutgoingTrack("audio", lambda: source, lambda: is_enabled)

    assert isinstance(await track.recv(), AudioFrame)
    assert not source.frames


# Received tracks


async def test_only_the_newest_frames_wait_for_an_application_that_does_not_read() -> None:
    """A client that only counts members must not fill memory."""
    track = IncomingTrack(Frames(*(picture(n) for n in range(10)), kind="video"))
    await within(track._pump)

    assert [(await track.recv()).pts for _ in range(4)] == [6, 7, 8, 9]
    with pytest.raises(MediaStreamError):
        await track.recv()


async def test_a_reader_waits_for_frames_and_for_the_end() -> None:
    source = Source()
    track = IncomingTrack(source)
    reading = asyncio.create_task(track.recv())
    await within(source.is_asked.wait())
    source.put(960)
    assert isinstance(await within(reading), AudioFrame)

    reading = asyncio.create_task(track.recv())
    await asyncio.sleep(0)
    track.stop()
    track.stop()

    with pytest.raises(MediaStreamError):
        await within(reading)


async def test_packets_are_no_frames() -> None:
    track = IncomingTrack(Frames(Packet(b"encoded"), sound(7)))

    assert (await within(track.recv())).pts == 7
