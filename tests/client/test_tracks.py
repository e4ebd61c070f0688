"""A publication sends the frames of its present track only, even while the former track still runs."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame

from signal_manager.client.tracks import OutgoingTrack
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
