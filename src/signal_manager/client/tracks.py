"""The tracks that a room puts between aiortc and the application.

aiortc stops a sent track when its connection ends, but an application's track must outlive a lost connection. aiortc
also keeps every unread frame, but an application that reads none must not fill memory. `media.py` uses both classes.
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

# Frames that wait for the application: about a second of audio, and the few pictures that are still worth showing.
_WAITING = {"audio": 50, "video": 4}

# Seconds between the last frame of one source and the first of the next.
_STEP = Fraction(1, 50)

# Y, U and V of black, in limited range (ITU-R BT.601).
_BLACK = (16, 128, 128)


class OutgoingTrack(MediaStreamTrack):
    """Sends a publication's source on one connection; while it is muted, silence or black pictures.

    The source may be replaced at any time. Timestamps continue where the former source stopped.
    """

    def __init__(self, kind: str, source: Callable[[], MediaStreamTrack], is_enabled: Callable[[], bool]) -> None:
        super().__init__()
        self.kind = kind
        self._source = source
        self._is_enabled = is_enabled
        self._present: MediaStreamTrack | None = None
        self._shift = Fraction(0)  # seconds to add to the present source's timestamps
        self._last: Fraction | None = None  # timestamp of the last frame that was sent
        self._asking: asyncio.Timeout | None = None  # the wait for the source's next frame

    def turn(self) -> None:
        """Stop waiting for a source that has been replaced, because its next frame may never come."""
        if self._asking is not None and not self._asking.expired():
            self._asking.reschedule(asyncio.get_running_loop().time())

    async def recv(self) -> Frame | Packet[Any]:
        """Return the source's next frame, or silence or black while muted."""
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
            # An encoded packet has no silent form, so it is skipped.

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
    """A track of another member; it keeps only the newest frames while the application does not read."""

    def __init__(self, source: MediaStreamTrack) -> None:
        super().__init__()
        self.kind = source.kind
        self._source = source
        self._frames: deque[Frame] = deque(maxlen=_WAITING[source.kind])
        self._changed = asyncio.Event()
        self._pump = asyncio.create_task(self._receive(), name=f"receive {source.kind}")

    async def recv(self) -> Frame:
        """Return the oldest kept frame; wait for one if there is none.

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
        """End the track; frames that are kept can still be read."""
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
