"""An SFU without media that refuses what a real one refuses, for tests of what stands on `MediaBackend`.

It knows who is connected and which tracks are sending, and it fails on demand: a call before or after it was carried
out, or forever. `open_tracks` is what nobody has closed.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
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
    IceServer,
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

NOT_SENDING = ItemError(error_code="not_found_track_error", message="track not found on remote peer")
REPEATED = ItemError(error_code="repeated_local_track_error", message="track exists")
CLOSED = ItemError(error_code="close_track_error", message="already closed")
NO_TRACK = ItemError(error_code="update_track_error", message="no such track")


@dataclass
class FakeTrack:
    """One transceiver of a session."""

    name: str
    is_remote: bool = False
    is_sending: bool = False


@dataclass
class FakeSession:
    """One peer connection, as the SFU sees it."""

    tracks: dict[str, FakeTrack] = field(default_factory=dict)
    channels: dict[int, str] = field(default_factory=dict)
    is_negotiated: bool = False
    is_connected: bool = False
    is_offering: bool = False
    is_busy: bool = False


@dataclass
class Failure:
    """How a call is to fail: with this error, before or after it was carried out."""

    error: Exception
    after: bool = False


class FakeSfu:
    """A media backend in memory; `on_change` is called at the beginning and at the end of every call."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self.sessions: dict[MediaSessionId, FakeSession] = {}
        self.calls: list[str] = []
        self.failures: dict[str, deque[Failure]] = defaultdict(deque)
        self.connects_at_once = True  # clients apply answers at once
        self.sends_at_once = True  # clients send as soon as they are connected
        self.gate = asyncio.Event()  # calls wait for it
        self.gate.set()
        self._on_change = on_change
        self._numbers = itertools.count(1)

    # -- what tests do -------------------------------------------------------------------------------------------

    def fail(self, method: str, error: Exception, *, after: bool = False) -> None:
        """Let the next call of `method` fail."""
        self.failures[method].append(Failure(error, after))

    def connect(self, session_id: str) -> None:
        """The client of a session has applied the answer."""
        session = self.sessions[MediaSessionId(session_id)]
        session.is_connected = True
        if self.sends_at_once:
            self.send(session_id)

    def send(self, session_id: str, *mids: str) -> None:
        """The client of a session sends what it publishes, or these tracks of it."""
        for mid, track in self.sessions[MediaSessionId(session_id)].tracks.items():
            if not track.is_remote and (not mids or mid in mids):
                track.is_sending = True
        self._on_change()

    def silence(self, session_id: str, *mids: str) -> None:
        """The client of a session sends nothing any more of these tracks; it is as if they had been collected."""
        for mid in mids:
            self.sessions[MediaSessionId(session_id)].tracks[mid].is_sending = False
        self._on_change()

    def expire(self, session_id: str) -> None:
        """Forget a session, as an SFU does with one that was never used."""
        del self.sessions[MediaSessionId(session_id)]

    @property
    def open_tracks(self) -> set[tuple[str, str]]:
        """What nobody has closed, as session and mid."""
        return {(session_id, mid) for session_id, session in self.sessions.items() for mid in session.tracks}

    # -- MediaBackend --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    async def validate_credentials(self) -> None:
        async with self._called("validate_credentials"):
            pass

    async def open_session(self, *, correlation_id: str | None = None) -> MediaSessionId:
        async with self._called("open_session"):
            session_id = MediaSessionId(f"session-{next(self._numbers)}")
            self.sessions[session_id] = FakeSession()
        return session_id

    async def publish(self, session_id: MediaSessionId, offer_sdp: str, tracks: Sequence[LocalTrack] = ()) -> Published:
        async with self._changing("publish", session_id) as session:
            if not offer_sdp.startswith("v=0"):
                raise errors.InvalidSessionDescriptionError("no SDP")
            mids = re.findall(r"^a=mid:(\S+)", offer_sdp, re.MULTILINE)
            wanted = tracks or [
                LocalTrack(mid=mid, track_name=f"auto-{mid}") for mid in mids if mid not in session.tracks
            ]
            results = tuple(self._publish(session, track, mids) for track in wanted)
            self._negotiated(session_id, session)
        return Published(
            tracks=results, answer_sdp="v=0 answer" if any(result.error is None for result in results) else None
        )

    async def pull(self, session_id: MediaSessionId, tracks: Sequence[RemoteTrack]) -> Pulled:
        async with self._changing("pull", session_id) as session:
            results = tuple(self._pull(session, track) for track in tracks)
            session.is_offering = any(result.error is None for result in results)
        return Pulled(
            tracks=results,
            offer_sdp="v=0 offer" if session.is_offering else None,
            requires_renegotiation=session.is_offering,
        )

    async def answer(self, session_id: MediaSessionId, answer_sdp: str) -> None:
        async with self._changing("answer", session_id, is_answer=True) as session:
            if not answer_sdp.startswith("v=0"):
                raise errors.InvalidSessionDescriptionError("no SDP")
            session.is_offering = False
            self._negotiated(session_id, session)

    async def close_tracks(
        self, session_id: MediaSessionId, mids: Sequence[str], *, offer_sdp: str | None = None
    ) -> ClosedTracks:
        async with self._called("close_tracks"):
            session = self._session(session_id)
            results = tuple(
                TrackResult(mid=mid, error=None if session.tracks.pop(mid, None) is not None else CLOSED)
                for mid in mids
            )
        return ClosedTracks(tracks=results, answer_sdp=None if offer_sdp is None else "v=0 answer")

    async def update_tracks(
        self, session_id: MediaSessionId, updates: Sequence[TrackUpdate]
    ) -> tuple[TrackResult, ...]:
        async with self._changing("update_tracks", session_id) as session:
            return tuple(
                TrackResult(mid=update.mid, error=None if update.mid in session.tracks else NO_TRACK)
                for update in updates
            )

    async def establish_channels(
        self, session_id: MediaSessionId, *, offer_sdp: str | None = None
    ) -> EstablishedChannels:
        async with self._changing("establish_channels", session_id) as session:
            session.is_offering = offer_sdp is None
            if offer_sdp is not None:
                self._negotiated(session_id, session)
        return EstablishedChannels(
            channel=ChannelResult(data_channel_name="server-events", id=0),
            offer_sdp="v=0 offer" if offer_sdp is None else None,
            answer_sdp=None if offer_sdp is None else "v=0 answer",
            requires_renegotiation=offer_sdp is None,
        )

    async def open_channels(
        self, session_id: MediaSessionId, channels: Sequence[DataChannel]
    ) -> tuple[ChannelResult, ...]:
        async with self._changing("open_channels", session_id) as session:
            results = []
            for channel in channels:
                number = len(session.channels) + 1
                session.channels[number] = channel.data_channel_name
                results.append(ChannelResult(data_channel_name=channel.data_channel_name, id=number))
        return tuple(results)

    async def update_channels(
        self, session_id: MediaSessionId, updates: Sequence[ChannelUpdate]
    ) -> tuple[ChannelResult, ...]:
        async with self._changing("update_channels", session_id):
            return tuple(ChannelResult(data_channel_name=update.data_channel_name, id=1) for update in updates)

    async def close_channels(self, session_id: MediaSessionId, ids: Sequence[int]) -> tuple[ChannelResult, ...]:
        async with self._called("close_channels"):
            session = self._session(session_id)
            for number in ids:
                session.channels.pop(number, None)
        return tuple(ChannelResult(id=number) for number in ids)

    async def session_state(self, session_id: MediaSessionId) -> SessionState:
        async with self._called("session_state"):
            session = self._session(session_id)
            tracks = tuple(
                TrackState(
                    mid=mid,
                    track_name=track.name,
                    location="remote" if track.is_remote else "local",
                    is_active=track.is_sending or track.is_remote,
                )
                for mid, track in session.tracks.items()
            )
            channels = tuple(
                ChannelState(data_channel_name=name, id=number, status="active")
                for number, name in session.channels.items()
            )
        return SessionState(tracks=tracks, channels=channels)

    async def ice_servers(self) -> IceServers:
        async with self._called("ice_servers"):
            turn = IceServer(urls=("turn:turn.test:3478",), username="u", credential="c")
        return IceServers(servers=(turn,), expires_at=2000.5)

    # -- the rules -----------------------------------------------------------------------------------------------

    def _publish(self, session: FakeSession, track: LocalTrack, mids: Sequence[str]) -> TrackResult:
        if any(present.name == track.track_name and not present.is_remote for present in session.tracks.values()):
            return TrackResult(track_name=track.track_name, error=REPEATED)
        if track.mid not in mids:
            error = ItemError(error_code="invalid_params", message="no such mid in the offer")
            return TrackResult(track_name=track.track_name, error=error)
        session.tracks[track.mid] = FakeTrack(track.track_name)
        return TrackResult(mid=track.mid, track_name=track.track_name)

    def _pull(self, session: FakeSession, track: RemoteTrack) -> TrackResult:
        publisher = self.sessions.get(track.session_id, FakeSession())
        source = next(
            (item for item in publisher.tracks.values() if item.name == track.track_name and not item.is_remote), None
        )
        if source is None or not source.is_sending:
            return TrackResult(track_name=track.track_name, session_id=track.session_id, error=NOT_SENDING)
        mid = f"r{next(self._numbers)}"
        session.tracks[mid] = FakeTrack(track.track_name, is_remote=True)
        return TrackResult(mid=mid, track_name=track.track_name, session_id=track.session_id)

    def _negotiated(self, session_id: MediaSessionId, session: FakeSession) -> None:
        session.is_negotiated = True
        if self.connects_at_once:
            self.connect(session_id)
        elif session.is_connected and self.sends_at_once:
            self.send(session_id)

    def _session(self, session_id: MediaSessionId) -> FakeSession:
        if session_id not in self.sessions:
            raise errors.SessionGoneError("410")
        return self.sessions[session_id]

    @asynccontextmanager
    async def _called(self, method: str) -> AsyncIterator[None]:
        self.calls.append(method)
        self._on_change()
        await asyncio.sleep(0)  # others run meanwhile, as they do during a call over a network
        await self.gate.wait()
        failure = self.failures[method].popleft() if self.failures[method] else None
        if failure is not None and not failure.after:
            raise failure.error
        yield
        self._on_change()
        await asyncio.sleep(0)
        if failure is not None:
            raise failure.error

    @asynccontextmanager
    async def _changing(
        self, method: str, session_id: MediaSessionId, *, is_answer: bool = False
    ) -> AsyncIterator[FakeSession]:
        """Change a session: never two at once, never before it is connected, never while an offer is unanswered."""
        session = self._session(session_id)
        if session.is_busy or session.is_offering is not is_answer:
            raise errors.InvalidSessionDescriptionError("overlap")
        session.is_busy = True
        try:
            async with self._called(method):
                if session.is_negotiated and not session.is_connected:
                    raise errors.SessionNotReadyError("session is not ready yet")
                yield session
        finally:
            session.is_busy = False
