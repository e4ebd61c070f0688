"""The two ends of media that a room puts between aiortc and the application.

aiortc stops what it sends when its connection ends, and keeps every frame that nobody reads: an application's track
must outlive a lost connection, and one that only counts participants must not fill memory. `media.py` uses both.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, VideoFrame
from av.frame import Frame
from av.packet import Packet

__all__ = ["IncomingTrack", "OutgoingTrack"]

# Frames that wait for the application: about a second of sound, and pictures that are still worth showing.
_WAITING = {"audio": 50, "video": 4}

# Between the last frame of one source and the first of the next, in seconds.
_STEP = Fraction(1, 50)

# Of a black picture in YUV with limited range (ITU-R BT.601).
_BLACK = (16, 128, 128)


class OutgoingTrack(MediaStreamTrack):
    """What is sent for one of the application's publications on one connection; muted, silence and black.

    The source may be replaced at any time: what follows goes on in time where the former one was.
    """

    def __init__(self, kind: str, source: Callable[[], MediaStreamTrack], is_enabled: Callable[[], bool]) -> None:
        super().__init__()
        self.kind = kind
        self._source = source
        self._is_enabled = is_enabled
        self._present: MediaStreamTrack | None = None
        self._shift = Fraction(0)  # from the present source's time to ours, in seconds
        self._last: Fraction | None = None  # when the last frame was, in our time
        self._asking: asyncio.Timeout | None = None  # for the source

    def turn(self) -> None:
        """Wait no longer for a source that has been replaced: its next frame may never come."""
        if self._asking is not None and not self._asking.expired():
            self._asking.reschedule(asyncio.get_running_loop().time())

    async def recv(self) -> Frame | Packet[Any]:
        """Return the source's next frame, or what replaces it."""
        while True:
            source = self._source()
            try:
                async with asyncio.timeout(None) as self._asking:
                    frame = await source.recv()
            except (MediaStreamError, TimeoutError):
                if self._source() is source:
                    raise
                continue
            finally:
                self._asking = None
            if self._source() is not source:
                continue
            self._retime(source, frame)
            if self._is_enabled():
                return frame
            if isinstance(frame, VideoFrame):
                return _black(frame)
            if isinstance(frame, AudioFrame):
                return _silent(frame)
            # What comes encoded has no silent form: it is left out.

    def _retime(self, source: MediaStreamTrack, frame: Frame | Packet[Any]) -> None:
        if frame.pts is None or frame.time_base is None:
            return
        base = Fraction(frame.time_base)
        if source is not self._present:
            if self._present is not None and self._last is not None:
                self._shift = self._last + _STEP - frame.pts * base
            self._present = source
        self._last = frame.pts * base + self._shift
        if self._shift:
            frame.pts = round(self._last / base)


class IncomingTrack(MediaStreamTrack):
    """A track of another member: the newest frames of it, since old ones make way when nobody reads them."""

    def __init__(self, source: MediaStreamTrack) -> None:
        super().__init__()
        self.kind = source.kind
        self._source = source
        self._frames: deque[Frame] = deque(maxlen=_WAITING[source.kind])
        self._changed = asyncio.Event()
        self._pump = asyncio.create_task(self._receive(), name=f"receive {source.kind}")

    async def recv(self) -> Frame:
        """Return the oldest frame that waits, waiting for one.

        Raises:
            MediaStreamError: the track has ended.
        """
        while not self._frames:
            if self.readyState != "live":
                raise MediaStreamError
            self._changed.clear()
            await self._changed.wait()
        return self._frames.popleft()

    def stop(self) -> None:
        """End it; frames that wait can still be read."""
        super().stop()
        self._pump.cancel()
        self._changed.set()

    async def _receive(self) -> None:
        try:
            while True:
                frame = await self._source.recv()
                if isinstance(frame, Frame):
                    self._frames.append(frame)
                    self._changed.set()
        except MediaStreamError:
            super().stop()
            self._changed.set()


def _black(frame: VideoFrame) -> VideoFrame:
    black = VideoFrame(frame.width, frame.height, "yuv420p")
    for plane, value in zip(black.planes, _BLACK, strict=True):
        plane.update(bytes((value,)) * plane.buffer_size)
    black.pts, black.time_base = frame.pts, frame.time_base
    return black


def _silent(frame: AudioFrame) -> AudioFrame:
    silent = AudioFrame(format=frame.format.name, layout=frame.layout.name, samples=frame.samples)
    for plane in silent.planes:
        plane.update(bytes(plane.buffer_size))
    silent.pts, silent.time_base, silent.sample_rate = frame.pts, frame.time_base, frame.sample_rate
    return silent
