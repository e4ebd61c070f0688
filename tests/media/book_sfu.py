"""An SFU that only keeps books, in memory: for tests of what stands in front of a `MediaBackend`, not of one.

It refuses what a real one refuses (overlaps, a second answer, unknown sessions), and fails on demand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from signal_manager.media import errors
from signal_manager.media.base import (
    ChannelResult,
    ChannelState,
    ChannelUpdate,
    ClosedTracks,
    DataChannel,
    EstablishedChannels,
    IceServers,
    ItemError,
    LocalTrack,
    MediaSessionId,
    Published,
    Pulled,
    RemoteTrack,
    SessionState,
    TrackResult,
    TrackState,
    TrackUpdate,
)


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Bound a wait for something that should come at once."""
    async with asyncio.timeout(seconds):
        yield


@dataclass
class BookSession:
    """What the SFU holds for one session."""

    mids: set[str] = field(default_factory=set)
    channels: set[int] = field(default_factory=set)
    offers: bool = False
    is_busy: bool = False
    emptied: asyncio.Event = field(default_factory=asyncio.Event)  # set when the last mid is closed


class BookSfu:
    """A media backend without media."""

    def __init__(self) -> None:
        self.sessions: dict[MediaSessionId, BookSession] = {}
        self.calls: list[str] = []
        self.failures: list[Exception] = []  # raised by the next calls, after they were carried out
        self.failing_items: list[ItemError] = []  # errors of the next items
        self.silent = False  # calls are carried out and never return
        self.asked = asyncio.Event()  # set when a call arrives
        self.state: SessionState | None = None  # what session_state returns instead of the books
        self._mids = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    async def validate_credentials(self) -> None:
        await self._begin("validate_credentials")

    async def open_session(self, *, correlation_id: str | None = None) -> MediaSessionId:
        session_id = MediaSessionId(f"session-{len(self.sessions) + 1}")
        self.sessions[session_id] = BookSession()
        await self._begin("open_session")
        return session_id

    async def publish(self, session_id: MediaSessionId, offer_sdp: str, tracks: Sequence[LocalTrack] = ()) -> Published:
        async with self._changing(session_id, "publish") as session:
            results = tuple(self._item(track.mid, session) for track in tracks)
        return Published(tracks=results, answer_sdp="answer")

    async def pull(self, session_id: MediaSessionId, tracks: Sequence[RemoteTrack]) -> Pulled:
        async with self._changing(session_id, "pull") as session:
            results = []
            for _ in tracks:
                self._mids += 1
                results.append(self._item(str(self._mids), session))
            session.offers = any(result.error is None for result in results)
        offer = "offer" if session.offers else None
        return Pulled(tracks=tuple(results), offer_sdp=offer, requires_renegotiation=session.offers)

    async def answer(self, session_id: MediaSessionId, answer_sdp: str) -> None:
        async with self._changing(session_id, "answer") as session:
            session.offers = False

    async def close_tracks(
        self, session_id: MediaSessionId, mids: Sequence[str], *, offer_sdp: str | None = None
    ) -> ClosedTracks:
        session = await self._begin_on(session_id, "close_tracks")
        results = []
        for mid in mids:
            error = self.failing_items.pop(0) if self.failing_items else None
            if error is None and mid not in session.mids:
                error = ItemError(error_code="close_track_error", message="already closed")
            elif error is None:
                session.mids.remove(mid)
            results.append(TrackResult(mid=mid, error=error))
        if not session.mids:
            session.emptied.set()
        return ClosedTracks(tracks=tuple(results))

    async def update_tracks(
        self, session_id: MediaSessionId, updates: Sequence[TrackUpdate]
    ) -> tuple[TrackResult, ...]:
        async with self._changing(session_id, "update_tracks"):
            return tuple(TrackResult(mid=update.mid) for update in updates)

    async def establish_channels(
        self, session_id: MediaSessionId, *, offer_sdp: str | None = None
    ) -> EstablishedChannels:
        async with self._changing(session_id, "establish_channels") as session:
            session.offers = offer_sdp is None
        channel = ChannelResult(data_channel_name="server-events", id=0)
        return EstablishedChannels(channel=channel, offer_sdp="offer", requires_renegotiation=session.offers)

    async def open_channels(
        self, session_id: MediaSessionId, channels: Sequence[DataChannel]
    ) -> tuple[ChannelResult, ...]:
        async with self._changing(session_id, "open_channels") as session:
            ids = range(1, len(channels) + 1)
            session.channels |= set(ids)
            return tuple(ChannelResult(id=number) for number in ids)

    async def update_channels(
        self, session_id: MediaSessionId, updates: Sequence[ChannelUpdate]
    ) -> tuple[ChannelResult, ...]:
        async with self._changing(session_id, "update_channels"):
            return tuple(ChannelResult(id=1) for _ in updates)

    async def close_channels(self, session_id: MediaSessionId, ids: Sequence[int]) -> tuple[ChannelResult, ...]:
        session = await self._begin_on(session_id, "close_channels")
        session.channels -= set(ids)
        return tuple(ChannelResult(id=number) for number in ids)

    async def session_state(self, session_id: MediaSessionId) -> SessionState:
        session = await self._begin_on(session_id, "session_state")
        tracks = tuple(TrackState(mid=mid, track_name=mid, is_active=True) for mid in sorted(session.mids))
        channels = tuple(ChannelState(data_channel_name="c", id=number, status="active") for number in session.channels)
        return self.state or SessionState(tracks=tracks, channels=channels)

    async def ice_servers(self) -> IceServers:
        await self._begin("ice_servers")
        return IceServers(servers=())

    async def _begin(self, name: str) -> None:
        """Note the call; let others run, as a call over a network does; then fail if that was asked for."""
        self.calls.append(name)
        self.asked.set()
        await asyncio.sleep(0)
        if self.silent:
            await asyncio.Event().wait()
        if self.failures:
            raise self.failures.pop(0)

    async def _begin_on(self, session_id: MediaSessionId, name: str) -> BookSession:
        await self._begin(name)
        if session_id not in self.sessions:
            raise errors.SessionGoneError("410")
        return self.sessions[session_id]

    @asynccontextmanager
    async def _changing(self, session_id: MediaSessionId, name: str) -> AsyncIterator[BookSession]:
        """Carry out a change; like a real SFU, refuse one that overlaps another or ignores an offer."""
        if session_id not in self.sessions:
            raise errors.SessionGoneError("410")
        session = self.sessions[session_id]
        if session.is_busy or session.offers is not (name == "answer"):
            raise errors.InvalidSessionDescriptionError("overlap")
        session.is_busy = True
        try:
            yield session
            await self._begin(name)
        finally:
            session.is_busy = False

    def _item(self, mid: str, session: BookSession) -> TrackResult:
        if self.failing_items:
            return TrackResult(error=self.failing_items.pop(0))
        session.mids.add(mid)
        return TrackResult(mid=mid)


class ListLedger:
    """A ledger in memory, which fails on demand."""

    def __init__(self) -> None:
        self.entries: set[tuple[MediaSessionId, str]] = set()
        self.failures: list[Exception] = []

    async def caused(self, session_id: MediaSessionId, *mids: str) -> None:
        await self._fail()
        self.entries |= {(session_id, mid) for mid in mids}

    async def closed(self, session_id: MediaSessionId, *mids: str) -> None:
        await self._fail()
        self.entries -= {(session_id, mid) for mid in mids}

    async def _fail(self) -> None:
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
