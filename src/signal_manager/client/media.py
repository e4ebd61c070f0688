"""One media session: aiortc's RTCPeerConnection to the SFU, which publishes and pulls tracks.

`negotiations.py` decides what to publish and pull. `room_membership.py` replaces a lost session; it imports this
module, and with it aiortc, only when there is media to negotiate.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from msgspec import structs

from signal_manager.client.descriptions import UNDECODABLE, Descriptions
from signal_manager.client.ice_path import is_relayed
from signal_manager.client.members import PulledTrack
from signal_manager.client.ports import Requester
from signal_manager.client.publications import Publication
from signal_manager.client.tracks import IncomingTrack, OutgoingTrack
from signal_manager.errors import SignalManagerError, UnavailableError
from signal_manager.protocol.messages import (
    IceServer,
    IceServers,
    IceServersAck,
    Message,
    PublishedTrack,
    Renegotiate,
    RenegotiateAck,
    TrackMid,
    TrackMute,
    TrackRequest,
    TrackResult,
    TracksClose,
    TracksCloseAck,
    TracksMute,
    TracksMuteAck,
    TracksNew,
    TracksNewAck,
)

__all__ = ["MEDIA_TIMEOUT", "MediaSession"]

logger = logging.getLogger(__name__)

# Seconds that a request about media may take. The service waits for other requests to the SFU and for tracks that are
# not sent yet, with its own bounds.
MEDIA_TIMEOUT = 30.0

# A path is lost when no packet arrives in the time in which this many packets arrived before, within these bounds in
# seconds. The upper bound exceeds the longest interval of RTCP reports (RFC 3550, section 6.2), which may be the only
# packets.
MISSED_PACKETS = 10
SILENCE = (0.8, 6.5)
# Seconds. A younger path counts as this old, because few packets give a poor estimate.
_YOUNG = 2.0
# Seconds between two checks.
_LOOK = 0.1

# Seconds. A TURN server may drop a relay when its credentials end. That is a weaker sign of a loss than a lost
# connection, so the silence must be longer. Clocks differ, so checks begin a tenth of the credentials' remaining life
# before their end, but at most `_RELAY_MARGIN` before it.
_RELAY_SILENCE = 2.0
_RELAY_LOOK = 1.0
_RELAY_MARGIN = 60.0
# Seconds between two requests for the end of the credentials.
_RELAY_PAUSE = 10.0

Reply = TypeVar("Reply", bound=Message)


class MediaSession:
    """One media session. After a method has raised any error but a refusal, the session must be replaced.

    Args:
        client: carries the negotiations.
        room_id: the room of the negotiations.
        ice_servers: the ICE servers from the service; without one, only host candidates are used.
        expires_at: when their credentials end (ms since 1970), or None if that is unknown.
        is_receiving: tells whether media should arrive.
        on_connected: called when media can flow.
        on_lost: called once, when the session cannot continue; not called after `close`.
        on_track: called with the receiving end of a pulled track, and its mid.

    Large because publishing, pulling and the watch over the path share one peer connection and its state.
    """

    def __init__(
        self,
        client: Requester,
        room_id: str,
        ice_servers: Sequence[IceServer],
        *,
        expires_at: int | None = None,
        is_receiving: Callable[[], bool],
        on_connected: Callable[[], None],
        on_lost: Callable[[UnavailableError], None],
        on_track: Callable[[PulledTrack, str, MediaStreamTrack], None],
    ) -> None:
        self._client = client
        self._room_id = room_id
        # Without a list, aiortc would ask a public STUN server. Without max-bundle, it would gather for each section.
        self._configuration = RTCConfiguration(
            iceServers=[
                RTCIceServer(urls=server.urls, username=server.username, credential=server.credential)
                for server in ice_servers
            ],
            bundlePolicy=RTCBundlePolicy.MAX_BUNDLE,
        )
        self._expires_at = expires_at
        self._relay_watch: asyncio.Task[None] | None = None
        self._is_receiving = is_receiving
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._on_track = on_track
        self._senders: dict[Publication, RTCRtpTransceiver] = {}
        self._is_closed = False
        self._changed = asyncio.Event()  # set when the state of the connection changes
        self._asking: set[asyncio.Task[Message]] = set()
        self._connected_at: float | None = None
        self._suspicion: tuple[float, int] | None = (
            None  # when the path may have been lost, and the number of packets received until then
        )
        self._open_connection()

    def _open_connection(self) -> None:
        peer = self._peer = RTCPeerConnection(self._configuration)
        self._descriptions = Descriptions(_is_decodable)
        peer.on("connectionstatechange", lambda: self._watch(peer))

    @property
    def is_connected(self) -> bool:
        """Whether media can flow now."""
        return bool(self._peer.connectionState == "connected")

    async def close(self) -> None:
        """Close the connection; open requests raise UnavailableError."""
        self._is_closed = True
        self._changed.set()
        if self._relay_watch is not None:
            self._relay_watch.cancel()
        for task in self._asking:
            task.cancel()
        await self._peer.close()

    async def offer(self, publications: Sequence[Publication]) -> tuple[str, list[PublishedTrack]]:
        """Return the offer that publishes tracks; `accept` or `withdraw` must follow."""
        for each in publications:
            outgoing = OutgoingTrack(each.kind, lambda each=each: each.track, lambda each=each: not each.muted)  # type: ignore[misc]  # lambdas' defaults
            each.on_replaced = outgoing.turn
            each.said = each.muted
            self._senders[each] = self._peer.addTransceiver(outgoing, direction="sendonly")
        sdp = await self._make_offer()
        return sdp, [
            PublishedTrack(mid=self._senders[each].mid or "", track_name=each.name, kind=each.kind, muted=each.said)
            for each in publications
        ]

    async def accept(self, answer_sdp: str, refused: Sequence[Publication] = ()) -> None:
        """Apply the SFU's answer to `offer`, and stop the tracks that the SFU refused."""
        await self._take("answer", self._descriptions.take_answer(answer_sdp))
        for each in refused:
            await self._forget(each)

    async def withdraw(self, publications: Sequence[Publication]) -> None:
        """Withdraw an offer that the service refused."""
        refusal = self._descriptions.take_refusal()
        if refusal is None:
            former = self._peer
            self._senders.clear()
            self._open_connection()
            await former.close()
            return
        await self._take("answer", refusal)
        for each in publications:
            await self._forget(each)

    async def publish(self, publications: Sequence[Publication]) -> list[TrackResult]:
        """Publish tracks by TRACKS_NEW and return their results; raise without a change if all are refused."""
        await self._ready()
        sdp, tracks = await self.offer(publications)
        requests = [
            TrackRequest(mid=track.mid, track_name=track.track_name, kind=each.kind, muted=track.muted)
            for each, track in zip(publications, tracks, strict=True)
        ]
        message = TracksNew(room_id=self._room_id, tracks=requests, offer_sdp=sdp)
        try:
            reply = await self._ask(message, TracksNewAck)
            results = _results(reply.tracks, [track.mid for track in tracks])
            refused = [each for each, r in zip(publications, results, strict=True) if r.error_code is not None]
            if reply.answer_sdp is None:
                await self.withdraw(publications)
            else:
                await self.accept(reply.answer_sdp, refused)
        except Exception:
            if not self._is_closed and self._peer.signalingState == "have-local-offer":
                await self.withdraw(publications)
            raise
        return results

    async def unpublish(self, publications: Sequence[Publication]) -> None:
        """Stop publishing, with a negotiation, so that the m-sections can be used again."""
        await self._ready()
        mids = [TrackMid(mid=self._senders[each].mid or "") for each in publications if each in self._senders]
        for each in publications:
            await self._forget(each)
        # All of them leave for the same reason (`Publications.leaving`).
        reason = "ended" if any(each.has_ended for each in publications) else None
        message = TracksClose(room_id=self._room_id, tracks=mids, offer_sdp=await self._make_offer(), reason=reason)
        reply = await self._ask(message, TracksCloseAck)
        if reply.answer_sdp is None:
            raise UnavailableError("expected an SDP answer from the SFU, got none")
        await self.accept(reply.answer_sdp)

    async def mute(self, publications: Sequence[Publication]) -> None:
        """Tell the service which publications are muted."""
        said = {each: each.muted for each in publications if each in self._senders}
        tracks = [TrackMute(mid=self._senders[each].mid or "", muted=muted) for each, muted in said.items()]
        try:
            if tracks:
                await self._ask(TracksMute(room_id=self._room_id, tracks=tracks), TracksMuteAck)
        finally:  # a service that refuses the request is not asked again
            for each in publications:
                each.said = said.get(each, each.muted)

    async def pull(self, tracks: Sequence[PulledTrack]) -> list[TrackResult]:
        """Pull tracks of other members and return their results; raise without a change if the request is refused."""
        await self._ready()
        requests = [TrackRequest(client_id=track.client_id, track_name=track.name) for track in tracks]
        reply = await self._ask(TracksNew(room_id=self._room_id, tracks=requests), TracksNewAck)
        found = {(result.client_id, result.track_name): result for result in reply.tracks}
        results = [found.get((track.client_id, track.name), TrackResult()) for track in tracks]
        pulled: dict[str, PulledTrack] = {}
        for track, result in zip(tracks, results, strict=True):
            if result.mid and result.error_code is None:
                pulled[result.mid] = track
                track.source = result.session_id
        undecodable = await self.answer(reply.offer_sdp, pulled)
        return [
            structs.replace(result, error_code=400, error_message=UNDECODABLE) if result.mid in undecodable else result
            for result in results
        ]

    async def answer(self, offer_sdp: str | None, pulled: Mapping[str, PulledTrack]) -> frozenset[str]:
        """Answer the SFU's offer for pulled tracks, which are announced; without an offer only announce them.

        Returns:
            the mids of those that were rejected, because aiortc cannot decode them.
        """
        shown = None
        if offer_sdp is not None:
            shown = self._descriptions.take_offer(offer_sdp, pulled)
            if shown is not None:
                await self._take("offer", shown)
        by_mid = {transceiver.mid: transceiver for transceiver in self._peer.getTransceivers()}
        for mid, track in pulled.items():
            transceiver = by_mid.get(self._descriptions.mid_of(mid))
            if mid not in self._descriptions.undecodable and transceiver is not None and transceiver.receiver.track:
                self._on_track(track, mid, IncomingTrack(transceiver.receiver.track))
        if offer_sdp is None:
            return frozenset()
        if shown is not None:
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        answer = self._descriptions.give_answer(None if shown is None else self._peer.localDescription.sdp)
        await self._ask(Renegotiate(room_id=self._room_id, answer_sdp=answer), RenegotiateAck)
        return self._descriptions.undecodable

    async def drop(self, mids: Sequence[str]) -> None:
        """Stop receiving pulled tracks; tracks that are closed already are no error."""
        message = TracksClose(room_id=self._room_id, tracks=[TrackMid(mid=mid) for mid in mids])
        await self._ask(message, TracksCloseAck)
        for transceiver in self._peer.getTransceivers():
            if transceiver.mid in {self._descriptions.mid_of(mid) for mid in mids}:
                # A receiver keeps its first SSRC and codecs, so it cannot be used again.
                await transceiver.stop()
        for mid in mids:
            self._descriptions.retire(mid)

    async def suspect(self) -> None:
        """Note that the path may be lost now; `has_lost_path` measures the silence from here."""
        self._suspicion = time.monotonic(), await self._count_received()

    async def has_lost_path(self, least: float = SILENCE[0]) -> bool:
        """Tell whether the path to the SFU is lost: silent for `least` seconds or more.

        A path on which no media is sent or received is silent by itself, and is never lost.
        """
        silent_since = began = time.monotonic()
        before: int | None = None
        while self._is_fed():
            await asyncio.sleep(_LOOK)  # packets under way still arrive
            received = await self._count_received()
            if before is None:
                before = received
                if self._suspicion is not None and self._suspicion[1] == received:
                    silent_since = self._suspicion[0]
            elif received != before:
                return False
            if time.monotonic() - silent_since > max(self._patience(began, received), least):
                return True
        return False

    def _patience(self, now: float, received: int) -> float:
        """Return the seconds of silence after which a path is lost."""
        least, most = SILENCE
        age = max(now - (self._connected_at or now), _YOUNG)
        return min(max(MISSED_PACKETS * age / max(received, 1), least), most)

    def _is_fed(self) -> bool:
        return self.is_connected and (bool(self._senders) or self._is_receiving())

    async def _count_received(self) -> int:
        reports = await self._peer.getStats()
        return sum(report.packetsReceived for report in reports.values() if report.type == "transport")

    async def _watch_relay(self) -> None:
        """Check a relay every second once its credentials end, because aiortc cannot renew them."""
        ends = self._expires_at
        while ends is None:
            try:
                ends = (await self._ask(IceServers(), IceServersAck)).expires_at
            except SignalManagerError as error:
                logger.debug("the service did not tell when the relay's credentials end: %s", error.message)
                await asyncio.sleep(_RELAY_PAUSE)
            else:
                if ends is None:
                    return
        left = ends / 1000 - time.time()
        await asyncio.sleep(left - min(left / 10, _RELAY_MARGIN))
        while not await self.has_lost_path(_RELAY_SILENCE):  # noqa: ASYNC110 - nothing tells when a relay is dropped
            await asyncio.sleep(_RELAY_LOOK)
        self._lose("the relay is lost")

    async def _ready(self) -> None:
        """Wait until a negotiated connection is up, because the SFU refuses requests before that."""
        try:
            async with asyncio.timeout(MEDIA_TIMEOUT):
                while self._peer.remoteDescription is not None and not self.is_connected:
                    if self._is_closed:
                        raise UnavailableError("the media session has ended")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise UnavailableError(f"the peer connection was not up within {MEDIA_TIMEOUT:g} s") from None

    async def _make_offer(self) -> str:
        await self._peer.setLocalDescription(await self._peer.createOffer())
        return self._descriptions.give_offer(self._peer.localDescription.sdp)

    async def _take(self, kind: str, sdp: str) -> None:
        await self._peer.setRemoteDescription(RTCSessionDescription(sdp=sdp, type=kind))

    async def _ask(self, message: Message, expected: type[Reply]) -> Reply:
        task: asyncio.Task[Reply] = asyncio.create_task(
            self._client.request(message, expected, timeout=MEDIA_TIMEOUT), name=f"negotiate in {self._room_id}"
        )
        self._asking.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if not self._is_closed or (current := asyncio.current_task()) is None or current.cancelling():
                task.cancel()
                raise
            raise UnavailableError("the media session has ended") from None
        finally:
            self._asking.discard(task)

    async def _forget(self, publication: Publication) -> None:
        transceiver = self._senders.pop(publication, None)
        if transceiver is None:
            return
        transceiver.direction = "inactive"
        if transceiver.mid is not None:
            self._descriptions.retire(transceiver.mid)
        await transceiver.stop()

    def _watch(self, peer: RTCPeerConnection) -> None:
        self._changed.set()
        if self._is_closed or peer is not self._peer:
            return
        if self._peer.connectionState == "connected":
            if self._connected_at is None:
                self._connected_at = time.monotonic()
                if is_relayed(self._peer):
                    self._relay_watch = asyncio.create_task(self._watch_relay(), name="watch of the relay")
            self._on_connected()
        elif self._peer.connectionState in {"failed", "closed"}:
            self._lose(f"the peer connection {self._peer.connectionState}")

    def _lose(self, reason: str) -> None:
        self._is_closed = True
        self._on_lost(UnavailableError(reason))


def _is_decodable(kind: str, name: str, parameters: str) -> bool:
    """Tell whether aiortc negotiates a codec."""
    capabilities = RTCRtpReceiver.getCapabilities(kind)
    known = {codec.mimeType.lower() for codec in capabilities.codecs} if capabilities is not None else set()
    if name == "h264":
        # RFC 6184, section 8.1: (constrained) baseline in either of its spellings, and FU-A.
        values = dict(parameter.partition("=")[::2] for parameter in parameters.split(";"))
        is_baseline = values.get("profile-level-id", "42e01f")[:4] in {"4200", "42e0", "42c0"}
        return is_baseline and values.get("packetization-mode") == "1"
    return name != "rtx" and f"{kind}/{name}" in known


def _results(results: Sequence[TrackResult], mids: Sequence[str]) -> list[TrackResult]:
    """Return the results in the order of the requested mids; a failed result may lack its mid."""
    by_mid = {result.mid: result for result in results if result.mid}
    return [
        by_mid.get(mid) or (results[index] if index < len(results) else TrackResult()) for index, mid in enumerate(mids)
    ]
