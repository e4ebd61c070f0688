"""Probes: ask the SFU which tracks of one media session send.

A track is negotiated long before its first packet reaches the SFU, and a pull before that fails. So `StartProbe` asks
with growing pauses until a track sends. The SFU forgets tracks that send nothing, silently. So `HealthProbe`
asks now and then about announced tracks (`track_health.py` judges the answers).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterable

import msgspec
import structlog

from signal_manager.errors import SignalManagerError
from signal_manager.media.base import MediaBackend, MediaSessionId, RemoteTrack, SessionState
from signal_manager.media.closing import Closer
from signal_manager.media.errors import SessionGoneError
from signal_manager.media.negotiation import Limits
from signal_manager.model import Track
from signal_manager.observe.metrics import Metrics
from signal_manager.rooms.track_health import TrackHealth

__all__ = ["HealthProbe", "MediaContext", "ProbeSettings", "ProbedSession", "StartProbe"]

log = structlog.get_logger(__name__)


class ProbeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How often the SFU is asked whether tracks send, before and after they are announced. Times are in seconds."""

    first_pause: float = 0.05
    longest_pause: float = 2.0
    growth: float = 1.5
    patience: float = 30.0  # Cloudflare forgets a track without packets after the same time
    check: float = 30.0  # the average time between questions about announced tracks
    second_look: float = 2.0  # the least time between such questions, for any reason


class MediaContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the media of all members have in common."""

    backend: MediaBackend
    closer: Closer
    metrics: Metrics
    limits: Limits
    probing: ProbeSettings
    start: Callable[[Callable[[], Awaitable[None]], str], asyncio.Task[None]]  # does background work under a name


class ProbedSession:
    """One member's media session as the probes see it: its id at the SFU, and its tracks by mid.

    Args:
        current: returns the session's id, or None when the session is lost.
    """

    def __init__(self, context: MediaContext, *, label: str, current: Callable[[], MediaSessionId | None]) -> None:
        self.settings = context.probing
        self.label = label
        self.tracks: dict[str, Track] = {}
        self.current = current
        self.is_watched = False  # from the time that the member has joined until it leaves
        self.start = context.start
        self._backend = context.backend

    async def state(self, session_id: MediaSessionId) -> SessionState:
        """Ask the SFU for its view of the session."""
        return await self._backend.session_state(session_id)


class StartProbe:
    """Ask about negotiated tracks until each of them sends, or has had its time.

    Args:
        on_sending: awaited with tracks that others can pull from now on; an error means to try again.
    """

    def __init__(self, session: ProbedSession, on_sending: Callable[[tuple[Track, ...]], Awaitable[None]]) -> None:
        self._session = session
        self._on_sending = on_sending
        self._silent: dict[str, float] = {}  # tracks not known to send yet, and the time to give each up
        self._published = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def expect(self, mid: str, *, until: float) -> None:
        """Ask about a track until it sends, or until this time of the event loop. `watch` begins."""
        self._silent[mid] = until

    def watch(self) -> None:
        """Ask now, if the member has joined and a track is silent; the pauses start anew."""
        self._published.set()
        if self._session.is_watched and self._silent and (self._task is None or self._task.done()):
            self._task = self._session.start(self._watch_silent, f"watch tracks of {self._session.label}")

    def forget(self, mid: str) -> None:
        """Stop asking about a closed track."""
        self._silent.pop(mid, None)

    def clear(self) -> None:
        """Stop asking about all tracks."""
        self._silent.clear()

    def stop(self) -> None:
        """End the background work."""
        if self._task is not None:
            self._task.cancel()

    async def _watch_silent(self) -> None:
        settings = self._session.settings
        pause = settings.first_pause
        while self._silent:
            self._published.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._published.wait()
                pause = settings.first_pause
            except TimeoutError:
                pause = min(pause * settings.growth, settings.longest_pause)
            try:
                await self._probe()
            except SignalManagerError as error:
                log.info("tracks not announced yet", session_id=self._session.current(), reason=error.message)
            self._give_up_silent()

    async def _probe(self) -> None:
        """Ask the SFU which tracks send, and report them."""
        session_id = self._session.current()
        if session_id is None:
            return
        state = await self._session.state(session_id)
        sending = tuple(
            self._session.tracks[track.mid]
            for track in state.tracks
            if track.mid in self._silent and track.is_active and track.location != "remote"
        )
        if sending:
            await self._on_sending(sending)
            for track in sending:
                self._silent.pop(track.mid, None)

    def _give_up_silent(self) -> None:
        now = asyncio.get_running_loop().time()
        for mid in [mid for mid, until in self._silent.items() if until <= now]:
            del self._silent[mid]
            log.info("track never sent anything", session_id=self._session.current(), mid=mid)


class HealthProbe:
    """Ask now and then whether announced tracks still send.

    Args:
        on_sending: awaited with tracks that send again; an error means to try again.
        on_dead: awaited with mids of announced tracks that send no more; an error means to try again.
    """

    def __init__(
        self,
        session: ProbedSession,
        *,
        on_sending: Callable[[tuple[Track, ...]], Awaitable[None]],
        on_dead: Callable[[frozenset[str]], Awaitable[None]],
    ) -> None:
        self._session = session
        self._on_sending = on_sending
        self._on_dead = on_dead
        self._health = TrackHealth()
        self._next_check: asyncio.TimerHandle | None = None
        self._check: asyncio.Task[None] | None = None
        self._checked_at = float("-inf")

    def announced(self, tracks: Iterable[Track]) -> None:
        """Ask about these tracks from now on: the room knows them."""
        self._health.announce(track.mid for track in tracks if track.mid in self._session.tracks)
        if self._next_check is None:
            self._check_after(self._usual_pause())

    def doubt(self, failed: Collection[RemoteTrack]) -> None:
        """Note that a member has failed to pull tracks, and ask about those that were announced here."""
        current = self._session.current()
        names = {track.track_name for track in failed if track.session_id == current}
        self._health.doubt(mid for mid, track in self._session.tracks.items() if track.track_name in names)
        if self._health.is_doubted:
            self._check_after(0.0)

    def check_now(self) -> None:
        """Ask now, because the announced tracks may have died."""
        self._check_after(0.0)

    def forget(self, mid: str) -> None:
        """Stop asking about a closed track."""
        self._health.forget((mid,))

    def clear(self) -> None:
        """Stop asking about all tracks."""
        self._health.clear()

    def stop(self) -> None:
        """End the background work."""
        for work in (self._check, self._next_check):
            if work is not None:
                work.cancel()

    def _usual_pause(self) -> float:
        return self._session.settings.check * random.uniform(0.75, 1.25)  # noqa: S311 - not all members at once

    def _check_after(self, pause: float) -> None:
        """Ask after this pause, but not while an earlier question is open, and not too soon after it."""
        if not self._session.is_watched or (self._check is not None and not self._check.done()):
            return
        if self._next_check is not None:
            self._next_check.cancel()
        loop = asyncio.get_running_loop()
        earliest = self._checked_at + self._session.settings.second_look
        self._next_check = loop.call_at(max(loop.time() + pause, earliest), self._begin_check)

    def _begin_check(self) -> None:
        self._next_check = None
        if self._session.is_watched and self._health.is_worth_asking:
            self._check = self._session.start(self._check_announced, f"check tracks of {self._session.label}")

    async def _check_announced(self) -> None:
        pause = self._usual_pause()
        doubted = self._health.ask()
        try:
            if await self._ask(doubted) or self._health.is_doubted:
                pause = 0.0
        except SignalManagerError as error:  # an error says nothing about tracks
            self._health.doubt(doubted)
            log.info("announced tracks not checked", session_id=self._session.current(), reason=error.message)
        finally:
            self._check = None
            self._checked_at = asyncio.get_running_loop().time()
        self._check_after(pause)

    async def _ask(self, doubted: frozenset[str]) -> bool:
        """Ask the SFU, report what has changed, and return whether to ask again soon."""
        session_id = self._session.current()
        if session_id is None:
            return False
        try:
            state = await self._session.state(session_id)
        except SessionGoneError:
            state = SessionState()
        if session_id != self._session.current():
            return False
        dead, back, is_urgent = self._health.read(state, doubted)
        if dead:
            log.info("announced tracks are dead", session_id=session_id, mids=sorted(dead))
            await self._on_dead(dead)
            self._health.unpublished(dead)
        again = tuple(self._session.tracks[mid] for mid in sorted(back) if mid in self._session.tracks)
        if again:
            await self._on_sending(again)
            self._health.announce(track.mid for track in again if track.mid in self._session.tracks)
        return is_urgent
