"""Join a room, send a pattern and a tone, and save a picture of the first camera that is seen: agent.py --help."""

import argparse
import asyncio
import contextlib
import math
import struct
from fractions import Fraction
from pathlib import Path

import av
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack

from signal_manager.client import SignalClient, TrackAdded


class Pattern(VideoStreamTrack):  # orange on the left, blue on the right, and a white line that walks down
    async def recv(self) -> av.VideoFrame:
        frame, colours = av.VideoFrame(320, 240, "yuv420p"), ((144, 41, 235), (54, 240, 128), (202, 110, 128))
        frame.pts, frame.time_base = await self.next_timestamp()  # when the next picture is due
        for plane, (left, right, line) in zip(frame.planes, colours, strict=True):
            half, top = plane.width // 2, frame.pts // 3000 * 4 % 240 * plane.height // 240
            rows = [(bytes([left]) * half + bytes([right]) * half).ljust(plane.line_size)] * plane.height
            rows[top] = bytes([line]) * plane.line_size
            plane.update(b"".join(rows))
        return frame


class Tone(AudioStreamTrack):  # a quiet A, 440 Hz
    async def recv(self) -> av.AudioFrame:
        frame = await super().recv()  # 20 ms of silence at 8 kHz, when they are due
        assert isinstance(frame, av.AudioFrame)
        wave = [int(3000 * math.sin(math.tau * 440 * ((frame.pts or 0) + n) / 8000)) for n in range(frame.samples)]
        frame.planes[0].update(struct.pack(f"{frame.samples}h", *wave))
        return frame


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("room")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--url", default="ws://127.0.0.1:8080")
    parser.add_argument("--client", nargs=2, default=("test_client_1", "test_token_1"), metavar=("ID", "TOKEN"))
    options = parser.parse_args()
    client = SignalClient(options.url, *options.client)
    async with client, await client.join(options.room, tracks=[Pattern(), Tone()], create=True) as room:
        async for event in room:
            if isinstance(event, TrackAdded) and event.track.kind == "video" and not options.picture.exists():
                frame = [await event.track.recv() for _ in range(10)][-1]  # the first ones are still blurred
                assert isinstance(frame, av.VideoFrame)
                png = av.VideoCodecContext.create("png", "w")
                png.width, png.height, png.pix_fmt, png.time_base = frame.width, frame.height, "rgb24", Fraction(1, 30)
                options.picture.write_bytes(b"".join(map(bytes, png.encode(frame.reformat(format="rgb24")))))
                print(f"saw {event.participant.client_id}: {options.picture}", flush=True)


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main())
