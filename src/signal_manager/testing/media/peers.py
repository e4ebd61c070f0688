"""WebRTC peers for the media contract: aiortc on the client's side of a `MediaBackend`."""

from __future__ import annotations

import asyncio
import fractions
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from aiortc import (
    AudioStreamTrack,
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
)
from av import VideoFrame

from signal_manager.media.base import LocalTrack, MediaBackend, MediaSessionId, Published, Pulled, RemoteTrack

__all__ = ["Camera", "Microphone", "MutedCamera", "Peer", "frames", "open_peer", "within"]

# For one step of a test, an SFU's own waits of up to 8 s included.
TIME_LIMIT = 20.0

Microphone = AudioStreamTrack


class Camera(VideoStreamTrack):
    """A small picture whose grey value changes, cheap to encode."""

    async def recv(self) -> VideoFrame:
        """Return the next picture when its time has come."""
        pts, time_base = await self.next_timestamp()
        frame = VideoFrame(160, 120, "yuv420p")
        for plane, value in zip(frame.planes, (pts // 3000 * 8 % 256, 128, 128), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts, frame.time_base = pts, fractions.Fraction(time_base)
        return frame


class MutedCamera(MediaStreamTrack):
    """A camera that never delivers a picture, so that no packet is sent."""

    kind = "video"

    async def recv(self) -> VideoFrame:
        """Wait for ever."""
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


class Peer:
    """One member: a session at the SFU and the peer connection that belongs to it."""

    def __init__(self, backend: MediaBackend, session_id: MediaSessionId) -> None:
        self.backend = backend
        self.session_id = session_id
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._arrived: asyncio.Queue[MediaStreamTrack] = asyncio.Queue()
        self._changed = asyncio.Event()
        self.connection.on("track", self._arrived.put_nowait)
        self.connection.on("connectionstatechange", self._changed.set)

    @classmethod
    async def open(cls, backend: MediaBackend) -> Self:
        """Open a session and make a connection for it."""
        return cls(backend, await backend.open_session())

    async def offer(self, **tracks: MediaStreamTrack) -> tuple[str, list[LocalTrack]]:
        """Add tracks under their names; returns the offer, set locally, and what to publish with it."""
        senders = {name: self.connection.addTrack(track) for name, track in tracks.items()}
        await self.connection.setLocalDescription(await self.connection.createOffer())
        mids = {transceiver.sender: transceiver.mid for transceiver in self.connection.getTransceivers()}
        local = [LocalTrack(mid=mids[sender] or "", track_name=name) for name, sender in senders.items()]
        return self.connection.localDescription.sdp, local

    async def accept(self, answer_sdp: str | None) -> None:
        """Take the SFU's answer."""
        assert answer_sdp is not None
        await self.connection.setRemoteDescription(RTCSessionDescription(_with_candidates(answer_sdp), "answer"))

    async def publish(self, **tracks: MediaStreamTrack) -> Published:
        """Publish tracks under their names, and wait until they can flow."""
        offer, local = await self.offer(**tracks)
        published = await self.backend.publish(self.session_id, offer, local)
        await self.accept(published.answer_sdp)
        await self.connected()
        return published

    async def answer_to(self, offer_sdp: str | None) -> str:
        """Take the SFU's offer; returns the answer, set locally."""
        assert offer_sdp is not None
        await self.connection.setRemoteDescription(RTCSessionDescription(_with_candidates(offer_sdp), "offer"))
        await self.connection.setLocalDescription(await self.connection.createAnswer())
        return str(self.connection.localDescription.sdp)

    async def answer(self, offer_sdp: str | None) -> None:
        """Answer the SFU's offer, and wait until media can flow."""
        await self.backend.answer(self.session_id, await self.answer_to(offer_sdp))
        await self.connected()

    async def pull(self, *tracks: RemoteTrack) -> Pulled:
        """Pull tracks, and answer the offer where there is one."""
        pulled = await self.backend.pull(self.session_id, tracks)
        if pulled.requires_renegotiation:
            await self.answer(pulled.offer_sdp)
        return pulled

    async def establish_channels(self) -> None:
        """Negotiate the transport for data channels."""
        established = await self.backend.establish_channels(self.session_id)
        await self.answer(established.offer_sdp)

    async def open_channel(self, name: str, channel_id: int | None) -> RTCDataChannel:
        """Open the client's end of a data channel."""
        assert channel_id is not None
        channel = self.connection.createDataChannel(name, negotiated=True, id=channel_id)
        if channel.readyState != "open":
            opened = asyncio.Event()
            channel.on("open", opened.set)
            async with within():
                await opened.wait()
        return channel

    def track(self, name: str, **more: Any) -> RemoteTrack:
        """Return what others pull this peer's track by."""
        return RemoteTrack(session_id=self.session_id, track_name=name, **more)

    async def arrived(self) -> MediaStreamTrack:
        """Return the next track that the SFU announced to this peer."""
        async with within():
            return await self._arrived.get()

    async def connected(self) -> None:
        """Wait until the connection is up."""
        async with within():
            while self.connection.connectionState != "connected":
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def open_peer(backend: MediaBackend) -> AsyncIterator[Peer]:
    """Give a peer with a session of its own, for as long as the test needs it."""
    peer = await Peer.open(backend)
    try:
        yield peer
    finally:
        await peer.connection.close()


@asynccontextmanager
async def within(seconds: float = TIME_LIMIT) -> AsyncIterator[None]:
    """Bound a wait for something that should come soon."""
    async with asyncio.timeout(seconds):
        yield


async def frames(track: MediaStreamTrack, count: int = 3) -> list[Any]:
    """Receive so many frames."""
    async with within():
        return [await track.recv() for _ in range(count)]


def _with_candidates(sdp: str) -> str:
    """Return an SFU's SDP with its candidates in every m-section.

    RFC 9143 wants them in the first section of a bundle alone, and aiortc takes those of the last one.
    """
    head, *sections = sdp.split("\r\nm=")
    lines = [line for section in sections for line in section.split("\r\n") if line.startswith("a=candidate:")]
    complete = [
        section if "a=candidate:" in section else "\r\n".join([section.removesuffix("\r\n"), *lines, ""])
        for section in sections
    ]
    return "\r\nm=".join([head, *complete])
