"""One member's media: its session at the SFU, what it publishes there, and when that can be pulled.

The negotiator keeps operations in order and closes what is given up. `MemberMedia` adds what a room has to know: the
published tracks, when each of them sends (`probes.py`), and when the session is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from signal_manager.errors import SignalManagerError
from signal_manager.media.base import (
    ChannelResult,
    ClosedTracks,
    DataChannel,
    EstablishedChannels,
    LocalTrack,
    MediaSessionId,
    Published,
    Pulled,
    RemoteTrack,
    TrackResult,
    TrackUpdate,
)
from signal_manager.media.errors import SessionGoneError, SessionReplacedError
from signal_manager.media.negotiation import LossReason, ReplaceSession
from signal_manager.media.negotiator import Negotiator
from signal_manager.media.operations import closed_mids
from signal_manager.model import SessionId, Track
from signal_manager.protocol.messages import PublishedTrack
from signal_manager.rooms.ledger import MediaLedger
from signal_manager.rooms.probes import HealthProbe, MediaContext, ProbedSession, StartProbe

__all__ = ["MemberMedia", "kinds_of"]

T = TypeVar("T")


class MemberMedia:
    """Negotiate for one member.

    Methods raise what `Negotiator`'s do. A session may expire before anything is negotiated in it, as a receiver's does
    in an empty room; another session replaces it silently. The client repairs any other loss: with a new peer
    connection it asks for a new session, or leaves and joins again.

    Args:
        label: for the SFU's own diagnostics.
        on_sending: awaited with tracks that others can pull from now on; an error means to try again.
        on_dead: awaited with mids of announced tracks that send no more; an error means to try again.
        on_lost: called with the id of a session that was lost.

    Attributes:
        health: asks the SFU whether announced tracks still send.
    """

    def __init__(
        self,
        context: MediaContext,
        ledger: MediaLedger,
        *,
        label: str,
        on_sending: Callable[[tuple[Track, ...]], Awaitable[None]],
        on_dead: Callable[[frozenset[str]], Awaitable[None]],
        on_lost: Callable[[SessionId], None],
    ) -> None:
        self._label = label
        self._on_sending = on_sending
        self._on_lost = on_lost
        self._negotiator = Negotiator(
            context.backend,
            ledger=ledger,
            closer=context.closer,
            metrics=context.metrics,
            on_replaced=self._replaced,
            limits=context.limits,
        )
        self.session_id: SessionId | None = None  # the latest session, lost or not
        self._reopens = 0  # how often the client has asked for another session
        self._is_bound = False  # whether the client's peer connection belongs to this session
        self._session = ProbedSession(context, label=label, current=lambda: self._negotiator.session_id)
        self._start_probe = StartProbe(self._session, self._announce)
        self.health = HealthProbe(self._session, on_sending=on_sending, on_dead=on_dead)

    @property
    def tracks(self) -> Mapping[str, Track]:
        """The tracks that are negotiated to be published, by mid."""
        return self._session.tracks

    @property
    def pending(self) -> int:
        """The number of operations that wait for the SFU or for each other."""
        return self._negotiator.pending

    async def open(self) -> None:
        """Open the session."""
        self.session_id = SessionId(await self._negotiator.open(correlation_id=self._label))

    async def reopen(self) -> SessionId | None:
        """Replace the session by a new one, and return the former one's id.

        The client has built a new peer connection; the tracks that it publishes there follow.
        """
        former = self.session_id
        self._reopens += 1
        attempt = self._reopens
        self._negotiator.abandon()
        self._forget_tracks()
        try:
            await self.open()
        except SignalManagerError:
            if former is not None and attempt == self._reopens:  # otherwise the next attempt decides
                self._on_lost(former)
            raise
        # The new peer connection's offer belongs to this session alone, even if the session is lost meanwhile.
        self._is_bound = True
        return former

    async def publish(self, offer_sdp: str, wanted: Sequence[PublishedTrack]) -> Published:
        """Publish the tracks of an offer. If the request names none, the SFU takes and names all of them."""
        tracks = [LocalTrack(mid=track.mid, track_name=track.track_name) for track in wanted]
        published = await self._in_session(lambda: self._negotiator.publish(offer_sdp, tracks))
        if self._negotiator.session_id is None:
            raise SessionReplacedError("the media session was given up")
        self._is_bound = self._is_bound or published.answer_sdp is not None
        names = {track.mid: track.track_name for track in wanted}
        muted = {track.mid for track in wanted if track.muted}
        kinds = kinds_of(offer_sdp) | {track.mid: track.kind for track in wanted if track.kind is not None}
        until = asyncio.get_running_loop().time() + self._session.settings.patience
        for result in published.tracks:
            if result.mid and result.error is None:
                name = result.track_name or names.get(result.mid, result.mid)
                self._session.tracks[result.mid] = Track(
                    mid=result.mid, track_name=name, kind=kinds.get(result.mid), muted=result.mid in muted
                )
                self._start_probe.expect(result.mid, until=until)
        self._start_probe.watch()
        return published

    async def pull(self, tracks: Sequence[RemoteTrack]) -> Pulled:
        """Pull tracks; with `requires_renegotiation` the client's answer must follow."""
        pulled = await self._in_session(lambda: self._negotiator.pull(tracks))
        self._is_bound = self._is_bound or pulled.requires_renegotiation
        return pulled

    async def answer(self, answer_sdp: str) -> None:
        """Answer the SFU's last offer."""
        await self._negotiator.answer(answer_sdp)

    async def close_tracks(self, mids: Sequence[str], *, offer_sdp: str | None) -> ClosedTracks:
        """Stop tracks, and drop the published ones from `tracks`."""
        closed = await self._negotiator.close_tracks(mids, offer_sdp=offer_sdp)
        for mid in closed_mids(closed):
            self._session.tracks.pop(mid, None)
            self._start_probe.forget(mid)
            self.health.forget(mid)
        return closed

    def mute(self, muted: Mapping[str, bool]) -> None:
        """Note which of the published tracks are muted; ignore other mids."""
        for mid, is_muted in muted.items():
            track = self.tracks.get(mid)
            if track is not None:
                self._session.tracks[mid] = msgspec.structs.replace(track, muted=is_muted)

    async def update_tracks(self, updates: Sequence[TrackUpdate]) -> tuple[TrackResult, ...]:
        """Switch layer or source of pulled tracks."""
        return await self._negotiator.update_tracks(updates)

    async def establish_channels(self, offer_sdp: str | None) -> EstablishedChannels:
        """Negotiate the transport for data channels."""
        established = await self._in_session(lambda: self._negotiator.establish_channels(offer_sdp=offer_sdp))
        self._is_bound = True
        return established

    async def open_channels(self, channels: Sequence[DataChannel]) -> tuple[ChannelResult, ...]:
        """Publish data channels or subscribe to them."""
        return await self._negotiator.open_channels(channels)

    def source_gone(self, session_id: SessionId) -> None:
        """Stop waiting for the tracks of another member's session, which has ended."""
        self._negotiator.source_gone(MediaSessionId(session_id))

    def start(self) -> None:
        """Begin to report which tracks send, now that the member has joined."""
        self._session.is_watched = True
        self._start_probe.watch()

    def close(self) -> None:
        """End the session because the member leaves: refuse waiting operations, and close what exists at the SFU."""
        self._session.is_watched = False
        self._start_probe.stop()
        self.health.stop()
        self._forget_tracks()
        self._negotiator.close()

    async def _in_session(self, operation: Callable[[], Awaitable[T]]) -> T:
        try:
            return await operation()
        except (SessionGoneError, SessionReplacedError):
            if self._is_bound:
                raise
        await self.open()
        return await operation()

    def _replaced(self, loss: ReplaceSession) -> None:
        if loss.reason is LossReason.ABANDONED:
            return  # `reopen` has replaced it on purpose
        self._forget_tracks()
        if loss.session_id is not None:
            self._on_lost(SessionId(loss.session_id))

    def _forget_tracks(self) -> None:
        self._session.tracks.clear()
        self._start_probe.clear()
        self.health.clear()

    async def _announce(self, tracks: tuple[Track, ...]) -> None:
        await self._on_sending(tracks)
        self.health.announced(tracks)


def kinds_of(sdp: str) -> dict[str, str | None]:
    """Return "audio" or "video" by mid, where an SDP says so (RFC 8866, section 5.14, and RFC 5888)."""
    kinds: dict[str, str | None] = {}
    kind: str | None = None
    for line in sdp.splitlines():
        if line.startswith("m="):
            media = line[2:].split(" ", 1)[0]
            kind = media if media in {"audio", "video"} else None
        elif line.startswith("a=mid:") and kind is not None:
            kinds[line[len("a=mid:") :].strip()] = kind
    return kinds
