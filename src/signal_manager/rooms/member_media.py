"""One member's media: its session at the SFU, what it publishes there, and when that can be pulled.

The negotiator keeps the order and closes what is given up; here is what a room has to know about it. A track is
negotiated long before its first packet reaches the SFU, and pulling it before that fails: so the SFU is asked, with
growing pauses, and the room is told when a track is sending. Of what was announced it is asked now and then, since it
forgets tracks that send nothing and tells nobody (`track_health.py`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec
import structlog

from signal_manager.errors import SignalManagerError
from signal_manager.media.base import (
    ChannelResult,
    ClosedTracks,
    DataChannel,
    EstablishedChannels,
    LocalTrack,
    MediaBackend,
    MediaSessionId,
    Published,
    Pulled,
    RemoteTrack,
    SessionState,
    TrackResult,
    TrackUpdate,
)
from signal_manager.media.closing import Closer
from signal_manager.media.errors import SessionGoneError, SessionReplacedError
from signal_manager.media.negotiation import Limits, LossReason, ReplaceSession
from signal_manager.media.negotiator import Negotiator
from signal_manager.media.operations import closed_mids
from signal_manager.model import SessionId, Track
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.messages import PublishedTrack
from signal_manager.rooms.ledger import MediaLedger
from signal_manager.rooms.track_health import TrackHealth

__all__ = ["MediaShared", "MemberMedia", "Watching", "kinds_of"]

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Watching(msgspec.Struct, frozen=True, kw_only=True):
    """How the SFU is asked whether tracks are sending, before and after they are announced. Times are in seconds."""

    first_pause: float = 0.05
    longest_pause: float = 2.0
    growth: float = 1.5
    patience: float = 30.0  # Cloudflare forgets a track without packets after as long
    check: float = 30.0  # between questions about announced tracks, on average
    second_look: float = 2.0  # between such questions at least, whatever the reason


class MediaShared(msgspec.Struct, frozen=True, kw_only=True):
    """What all members of a service share."""

    backend: MediaBackend
    closer: Closer
    metrics: Metrics
    limits: Limits
    watching: Watching
    start: Callable[[Callable[[], Awaitable[None]], str], asyncio.Task[None]]  # does background work under a name


class MemberMedia:
    """Negotiate for one member.

    Methods raise what `Negotiator`'s do. A session that expired before anything was negotiated in it, as a receiver's
    may in an empty room, is replaced without anybody noticing; any other loss is for the client to mend, by leaving
    and joining again with a new peer connection.

    Args:
        label: for the SFU's own diagnostics.
        on_sending: awaited with tracks that others can pull from now on; an error means to try again.
        on_dead: awaited with mids of announced tracks that do not send any more; an error means to try again.
        on_lost: called when a session was lost, with its id.
    """

    def __init__(
        self,
        shared: MediaShared,
        ledger: MediaLedger,
        *,
        label: str,
        on_sending: Callable[[tuple[Track, ...]], Awaitable[None]],
        on_dead: Callable[[frozenset[str]], Awaitable[None]],
        on_lost: Callable[[SessionId], None],
    ) -> None:
        self._shared = shared
        self._label = label
        self._on_sending = on_sending
        self._on_dead = on_dead
        self._on_lost = on_lost
        self._negotiator = Negotiator(
            shared.backend,
            ledger=ledger,
            closer=shared.closer,
            metrics=shared.metrics,
            on_replaced=self._replaced,
            limits=shared.limits,
        )
        self.session_id: SessionId | None = None  # the latest one, lost or not
        self.tracks: dict[str, Track] = {}  # negotiated to be published, by mid
        self._silent: dict[str, float] = {}  # those not known to be sending yet: until when they are watched
        self._reopened = 0  # how often a new session was asked for in the place of one
        self._is_bound = False  # the client's peer connection belongs to this session
        self._watcher: asyncio.Task[None] | None = None
        self._is_watched = False
        self._published = asyncio.Event()
        self._health = TrackHealth()
        self._next_check: asyncio.TimerHandle | None = None
        self._check: asyncio.Task[None] | None = None
        self._checked_at = float("-inf")

    @property
    def pending(self) -> int:
        """How many operations wait for the SFU or for each other."""
        return self._negotiator.pending

    async def open(self) -> None:
        """Open the session."""
        self.session_id = SessionId(await self._negotiator.open(correlation_id=self._label))

    async def reopen(self) -> SessionId | None:
        """Give the present session up for a new one, and return the former one's id.

        The client has built a new peer connection; what it publishes there follows.
        """
        former = self.session_id
        self._reopened += 1
        attempt = self._reopened
        self._negotiator.abandon()
        self._forget_tracks()
        try:
            await self.open()
        except SignalManagerError:
            if former is not None and attempt == self._reopened:  # else the next attempt says what becomes of it
                self._on_lost(former)
            raise
        # What the new peer connection offers belongs to this session alone, also when it is lost meanwhile.
        self._is_bound = True
        return former

    async def publish(self, offer_sdp: str, wanted: Sequence[PublishedTrack]) -> Published:
        """Publish the tracks of an offer; with none named, the SFU takes and names all of them."""
        tracks = [LocalTrack(mid=track.mid, track_name=track.track_name) for track in wanted]
        published = await self._in_session(lambda: self._negotiator.publish(offer_sdp, tracks))
        if self._negotiator.session_id is None:
            raise SessionReplacedError("the media session was given up")
        self._is_bound = self._is_bound or published.answer_sdp is not None
        names = {track.mid: track.track_name for track in wanted}
        muted = {track.mid for track in wanted if track.muted}
        kinds = kinds_of(offer_sdp) | {track.mid: track.kind for track in wanted if track.kind is not None}
        until = asyncio.get_running_loop().time() + self._shared.watching.patience
        for result in published.tracks:
            if result.mid and result.error is None:
                name = result.track_name or names.get(result.mid, result.mid)
                self.tracks[result.mid] = Track(
                    mid=result.mid, track_name=name, kind=kinds.get(result.mid), muted=result.mid in muted
                )
                self._silent[result.mid] = until
        self._watch()
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
        """Stop tracks; those that were published are no longer in `tracks`."""
        closed = await self._negotiator.close_tracks(mids, offer_sdp=offer_sdp)
        for mid in closed_mids(closed):
            self.tracks.pop(mid, None)
            self._silent.pop(mid, None)
            self._health.forget((mid,))
        return closed

    def mute(self, muted: Mapping[str, bool]) -> None:
        """Note which of the published tracks are muted; mids that are none are left out."""
        for mid, is_muted in muted.items():
            track = self.tracks.get(mid)
            if track is not None:
                self.tracks[mid] = msgspec.structs.replace(track, muted=is_muted)

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
        """Take note that another member's session has ended: its tracks are not waited for any longer."""
        self._negotiator.source_gone(MediaSessionId(session_id))

    def start(self) -> None:
        """Begin to say which tracks are sending: the member is in the room now."""
        self._is_watched = True
        self._watch()

    def close(self) -> None:
        """Give everything up, because the member has left: what is waiting is refused, what exists is closed."""
        self._is_watched = False
        for background in (self._watcher, self._check, self._next_check):
            if background is not None:
                background.cancel()
        self._forget_tracks()
        self._negotiator.close()

    def doubt(self, failed: Iterable[RemoteTrack]) -> None:
        """Take note that somebody has failed to pull tracks: of those that were announced here the SFU is asked."""
        names = {track.track_name for track in failed if track.session_id == self._negotiator.session_id}
        self._health.doubt(mid for mid, track in self.tracks.items() if track.track_name in names)
        if self._health.is_doubted:
            self._check_after(0.0)

    def check(self) -> None:
        """Ask the SFU for the announced tracks now, for something suggests that they may have died."""
        self._check_after(0.0)

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
            return  # see `reopen`
        self._forget_tracks()
        if loss.session_id is not None:
            self._on_lost(SessionId(loss.session_id))

    def _forget_tracks(self) -> None:
        self.tracks.clear()
        self._silent.clear()
        self._health.clear()

    def _watch(self) -> None:
        self._published.set()
        if self._is_watched and self._silent and (self._watcher is None or self._watcher.done()):
            self._watcher = self._shared.start(self._watch_silent, f"watch tracks of {self._label}")

    async def _watch_silent(self) -> None:
        watching = self._shared.watching
        pause = watching.first_pause
        while self._silent:
            self._published.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._published.wait()
                pause = watching.first_pause
            except TimeoutError:
                pause = min(pause * watching.growth, watching.longest_pause)
            try:
                await self._probe()
            except SignalManagerError as error:
                log.info("tracks not announced yet", session_id=self.session_id, reason=error.message)
            self._give_up_silent()

    async def _probe(self) -> None:
        """Ask the SFU which tracks are sending, and pass that on."""
        session_id = self._negotiator.session_id
        if session_id is None:
            return
        state = await self._shared.backend.session_state(session_id)
        sending = tuple(
            self.tracks[track.mid]
            for track in state.tracks
            if track.mid in self._silent and track.is_active and track.location != "remote"
        )
        if sending:
            await self._on_sending(sending)
            for track in sending:
                self._silent.pop(track.mid, None)
            self._note_announced(sending)

    # -- whether announced tracks still send -----------------------------------------------------------------------

    def _note_announced(self, tracks: Iterable[Track]) -> None:
        self._health.announce(track.mid for track in tracks if track.mid in self.tracks)
        if self._next_check is None:
            self._check_after(self._usual_pause())

    def _usual_pause(self) -> float:
        return self._shared.watching.check * random.uniform(0.75, 1.25)  # noqa: S311 - not all members at once

    def _check_after(self, pause: float) -> None:
        """Let the next question come then, or when one that is under way is answered and another may follow."""
        if not self._is_watched or (self._check is not None and not self._check.done()):
            return
        if self._next_check is not None:
            self._next_check.cancel()
        loop = asyncio.get_running_loop()
        earliest = self._checked_at + self._shared.watching.second_look
        self._next_check = loop.call_at(max(loop.time() + pause, earliest), self._begin_check)

    def _begin_check(self) -> None:
        self._next_check = None
        if self._is_watched and self._health.is_worth_asking:
            self._check = self._shared.start(self._check_announced, f"check tracks of {self._label}")

    async def _check_announced(self) -> None:
        pause = self._usual_pause()
        doubted = self._health.ask()
        try:
            if await self._ask_for_announced(doubted) or self._health.is_doubted:
                pause = 0.0
        except SignalManagerError as error:  # which says nothing about tracks
            self._health.doubt(doubted)
            log.info("announced tracks not checked", session_id=self.session_id, reason=error.message)
        finally:
            self._check = None
            self._checked_at = asyncio.get_running_loop().time()
        self._check_after(pause)

    async def _ask_for_announced(self, doubted: frozenset[str]) -> bool:
        """Ask the SFU, pass on what has changed, and return whether to ask again soon."""
        session_id = self._negotiator.session_id
        if session_id is None:
            return False
        try:
            state = await self._shared.backend.session_state(session_id)
        except SessionGoneError:
            state = SessionState()
        if session_id != self._negotiator.session_id:
            return False
        dead, back, is_urgent = self._health.read(state, doubted)
        if dead:
            log.info("announced tracks are dead", session_id=session_id, mids=sorted(dead))
            await self._on_dead(dead)
            self._health.bury(dead)
        again = tuple(self.tracks[mid] for mid in sorted(back) if mid in self.tracks)
        if again:
            await self._on_sending(again)
            self._health.announce(track.mid for track in again if track.mid in self.tracks)
        return is_urgent

    def _give_up_silent(self) -> None:
        now = asyncio.get_running_loop().time()
        for mid in [mid for mid, until in self._silent.items() if until <= now]:
            del self._silent[mid]
            log.info("track never sent anything", session_id=self.session_id, mid=mid)


def kinds_of(sdp: str) -> dict[str, str | None]:
    """Return "audio" or "video" by mid, as far as an SDP says (RFC 8866, section 5.14, and RFC 5888)."""
    kinds: dict[str, str | None] = {}
    kind: str | None = None
    for line in sdp.splitlines():
        if line.startswith("m="):
            media = line[2:].split(" ", 1)[0]
            kind = media if media in {"audio", "video"} else None
        elif line.startswith("a=mid:") and kind is not None:
            kinds[line[len("a=mid:") :].strip()] = kind
    return kinds
