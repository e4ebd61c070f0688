"""A room as a member sees it: who is there, what they send, and what this client sends to them.

The application says what it wants (`publications.py`), the service who is there (`members.py`); one loop brings the
media session (`media.py`) to both, one negotiation at a time, and begins again with a new session when one is lost.
Joining, losing and that loop are one module because they are one state: which membership is the present one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar, overload

from signal_manager.client.callbacks import Callbacks
from signal_manager.client.events import Disconnected, Event, EventQueue, Reconnected
from signal_manager.client.members import Members, PulledTrack
from signal_manager.client.publications import Publication, Publications
from signal_manager.client.room_events import (
    ROOM_EVENT_NAMES,
    Participant,
    ParticipantChanged,
    ParticipantJoined,
    ParticipantLeft,
    RoomClosed,
    RoomEventName,
    RoomHappening,
    RoomReconnected,
    RoomReconnecting,
    TrackAdded,
    TrackFailed,
    TrackKind,
    TrackRemoved,
)
from signal_manager.client.timing import RetryPolicy
from signal_manager.errors import (
    ConflictError,
    InvalidRequestError,
    MalformedMessageError,
    MediaBackendError,
    NotFoundError,
    SignalManagerError,
    TooLateError,
    UnavailableError,
    error_from_wire,
)
from signal_manager.model import NAME_RULE, is_valid_name
from signal_manager.protocol.messages import (
    MAX_ITEMS,
    IceServer,
    IceServers,
    IceServersAck,
    PublishedTrack,
    RoomAck,
    RoomCreate,
    RoomCreateAck,
    RoomEvent,
    RoomJoin,
    RoomJoinAck,
    RoomLeave,
    RoomLeaveAck,
    RoomState,
    RoomStateAck,
    TrackResult,
)

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack

    from signal_manager.client.client import SignalClient
    from signal_manager.client.media import MediaSession

__all__ = ["Room"]

logger = logging.getLogger(__name__)

# How often one track is tried before it is given up.
MAX_ATTEMPTS = 3

# Media sessions lost, or not even had, in a row before the room is given up: with the delays between, about a minute.
MAX_FAILURES = 10

# Seconds for joining, as the service may wait for the SFU, and for leaving, which nobody needs an answer to.
_JOIN_TIMEOUT = 30.0
_LEAVE_TIMEOUT = 5.0

# The service, or the SFU behind it, has lost the media session or never had it ready: only a new one helps.
_LOST_CODES = frozenset({408, 409, 410, 425, 503})

# The reasons of events that ask for a new session rather than mean an end (docs/protocol.md, "Rooms").
_SESSION_LOST = "media session lost"
_RESTARTING = "restarting"

_NO_MEDIA = "the service has no media backend; signal the other directly"
_NO_AIORTC = "media needs aiortc: pip install 'signal-manager[rtc]'"

Happening = TypeVar("Happening", bound=RoomHappening)
Callback: TypeAlias = Callable[[Happening], object]
Result = TypeVar("Result")
Job: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


@dataclass(eq=False, slots=True)
class _Entry:
    """One membership, from joining until its media session or its connection is lost."""

    media: MediaSession | None  # None: the service has no media backend
    offer: tuple[str, list[TrackResult]] | None  # that came with the welcome, until it is answered
    stale: list[str] = field(default_factory=list)  # mids that are received and wanted no longer


class Room:
    """A room that a client is in; made by `SignalClient.join`.

        async with await client.join("demo", create=True) as room:
            await room.publish(camera, microphone)
            async for event in room:
                match event:
                    case TrackAdded(participant=participant, track=track):
                        frame = await track.recv()

    Tracks are aiortc's `MediaStreamTrack`s. Those of others are pulled as soon as they are announced; of a track that
    the application does not read, the newest frames are kept and older ones dropped. When the connection to the service
    or the media is lost, the room is joined again with a new media session: what was published is published again, and
    what was pulled is pulled again, until `RoomClosed`.

    **Events** are read with `async for event in room`, or with callbacks (`on`), as those of `SignalClient`. Members
    that were there before are in `participants`, without an event. Iteration ends when the room is left or given up.
    """

    def __init__(
        self,
        client: SignalClient,
        room_id: str,
        *,
        role: Literal["sender", "receiver"] | None,
        metadata: Mapping[str, Any] | None,
        max_participants: int | None,
        auto_pull: bool,
        retry: RetryPolicy | None,
    ) -> None:
        if not is_valid_name(room_id):
            raise InvalidRequestError(f"room_id is {room_id!r}, expected {NAME_RULE}")
        self.id = room_id
        self._client = client
        self._role = role
        self._metadata = None if metadata is None else dict(metadata)
        self._max_participants = max_participants
        self._retry = retry or RetryPolicy(attempts=MAX_FAILURES)
        self._members = Members(client.client_id, auto_pull=auto_pull, emit=self._emit, on_stale=self._note_stale)
        self._publications = Publications()
        self._events: EventQueue[RoomHappening] = EventQueue()
        self._callbacks: Callbacks[RoomHappening] = Callbacks(ROOM_EVENT_NAMES)
        self._entry: _Entry | None = None
        self._has_media = False
        self._is_closed = False
        self._is_resyncing = False
        self._sequence = 0  # of the last change that `participants` shows
        self._newest = 0  # the highest sequence heard of
        self._connections = 0  # that the client has made since this object was
        self._failures = 0  # of media sessions, in a row
        self._stop_pausing = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # What applications use

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.leave()

    @property
    def participants(self) -> Mapping[str, Participant]:
        """The other members, by client id."""
        return self._members.all

    @property
    def state(self) -> Literal["joined", "reconnecting", "closed"]:
        """Whether the client is in the room, is joining it again, or is out for good."""
        if self._is_closed:
            return "closed"
        return "reconnecting" if self._entry is None else "joined"

    @property
    def has_media(self) -> bool:
        """Whether there is an SFU behind the room, as far as is known; without one only signals can be sent."""
        return self._has_media

    @property
    def dropped_events(self) -> int:
        """How many events were dropped because the application did not keep up."""
        return self._events.dropped + self._callbacks.queue.dropped

    async def publish(self, *tracks: MediaStreamTrack, name: str | None = None) -> None:
        """Send tracks of aiortc's to the others, until `unpublish` or `leave`.

        Returns when the SFU has taken all of them; when it refuses one, none is published. The tracks themselves are
        never stopped.

        Args:
            name: goes before "audio" and "video" in the tracks' names, as in "screen-video".

        Raises:
            InvalidRequestError: the room is closed, or the arguments cannot be.
            ForbiddenError, MediaBackendError…: what the service or the SFU says.
        """
        if self._is_closed:
            raise InvalidRequestError("the room is closed; join it again")
        added = self._publications.add(tracks, name)
        self._wake()
        try:
            await asyncio.gather(*(asyncio.shield(each.published) for each in added))
        except BaseException:
            for each in added:
                each.is_wanted = False
            self._wake()
            raise

    async def unpublish(self, *tracks: MediaStreamTrack) -> None:
        """Stop sending tracks; returns when the SFU has closed them."""
        leaving = self._publications.of(tracks)
        for each in leaving:
            each.is_wanted = False
        self._wake()
        await asyncio.gather(*(asyncio.shield(each.gone) for each in leaving))

    def mute(self, kind: TrackKind | None = None) -> None:
        """Send silence and black in place of what is published, at once and without negotiation."""
        self._publications.enable(kind, is_enabled=False)

    def unmute(self, kind: TrackKind | None = None) -> None:
        """Send sound and picture again."""
        self._publications.enable(kind, is_enabled=True)

    def pull(self, client_id: str, name: str) -> None:
        """Receive a track that is not received yet: without `auto_pull`, or after it failed. A `TrackAdded` follows.

        Raises:
            NotFoundError: nobody publishes it.
        """
        track = self._members.find(client_id, name)
        if track is None:
            raise NotFoundError(f"{client_id} publishes no track {name}")
        track.is_wanted = True
        track.attempts = 0
        self._wake()

    async def leave(self, reason: str | None = None) -> None:
        """Leave the room. It never fails: a service that cannot be reached finds out by itself."""
        was_closed = self._is_closed
        await self.end("left")
        if not was_closed:
            await self._leave_quietly(reason)

    def __aiter__(self) -> AsyncIterator[RoomHappening]:
        return self

    async def __anext__(self) -> RoomHappening:
        event = await self._events.get()
        if event is None:
            raise StopAsyncIteration
        return event

    @overload
    def on(self, name: Literal["participant_joined"], callback: Callback[ParticipantJoined]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["participant_left"], callback: Callback[ParticipantLeft]) -> Callable[[], None]: ...
    @overload
    def on(
        self, name: Literal["participant_changed"], callback: Callback[ParticipantChanged]
    ) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["track"], callback: Callback[TrackAdded]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["track_removed"], callback: Callback[TrackRemoved]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["error"], callback: Callback[TrackFailed]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["reconnecting"], callback: Callback[RoomReconnecting]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["reconnected"], callback: Callback[RoomReconnected]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["closed"], callback: Callback[RoomClosed]) -> Callable[[], None]: ...
    def on(self, name: RoomEventName, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Call back for every event of one name, as `SignalClient.on` does; return what takes the callback away.

        Raises:
            ValueError: there is no event of that name.
        """
        return self._callbacks.add(name, callback)

    # What the client calls

    async def enter(self, tracks: Sequence[MediaStreamTrack], *, create: bool) -> None:
        """Join for the first time; `SignalClient.join` is the way to call this."""
        if self._role == "sender" and not tracks:
            raise InvalidRequestError("a sender joins with what it sends, expected tracks")
        if tracks:
            self._publications.add(tracks)
        try:
            await self._enter(may_create=create)
        except BaseException as error:
            await self.end("not joined", error if isinstance(error, SignalManagerError) else None)
            raise
        self._start(self._callbacks.run(), "callbacks")
        self._wake()

    def hear(self, event: RoomEvent) -> None:
        """Take in what the service tells; every change has a number, and none may be missing."""
        if event.room_id != self.id or self._is_closed:
            return
        self._newest = max(self._newest, event.sequence)
        entry = self._entry
        # While joining or reading the whole state, that is newer; `_newest` tells whether it is new enough.
        if entry is None or self._is_resyncing or event.sequence <= self._sequence:
            return
        if event.sequence > self._sequence + 1:
            self._start(self._resync(entry), "state")
            return
        self._sequence = event.sequence
        if event.event == "room_closed":
            self._hear_the_end(entry, event.reason or "the room was closed")
        elif event.participant is not None and event.participant.client_id == self._client.client_id:
            self._hear_of_myself(entry, event)
        else:
            self._members.apply(event)
        self._wake()

    def hear_of_link(self, event: Event) -> None:
        """Take note of what happens to the client's connection."""
        match event:
            case Reconnected(resumed=True):
                self._wake()  # a session that goes on is in its room still
            case Reconnected():
                self._connections += 1
                self._failures = 0
                if self._entry is not None:
                    self._lose(self._entry, UnavailableError("the connection to the service was lost"))
                self._wake()
            case Disconnected(will_reconnect=False, reason=reason):
                self._close("the client is closed", UnavailableError(reason))

    async def end(self, reason: str, error: SignalManagerError | None = None) -> None:
        """Close the room on this side, and wait until nothing of it is left."""
        self._close(reason, error)
        current = asyncio.current_task()
        # Callbacks end by themselves, with the queue: one of them may be what leaves the room.
        waiting = [task for task in self._tasks if task is not current and task.get_name() != "room callbacks"]
        if waiting:
            await asyncio.wait(waiting)

    # Joining

    async def _enter(self, *, may_create: bool) -> None:
        """Become a member, with a new media session."""
        self._newest = 0
        fresh = self._publications.fresh
        # Whoever joins again brings what it published since, as if it had had it from the start.
        is_sender = self._role != "receiver" and bool(fresh)
        media: MediaSession | None = None
        try:
            offer: tuple[str, list[PublishedTrack]] | None = None
            if is_sender:
                servers = await self._client.request(IceServers(), IceServersAck)
                media = self._open_media(servers.ice_servers)
                offer = await media.offer(fresh)
            ack = await self._knock(offer, may_create=may_create)
            connections = self._connections
            if ack.session_id == "":
                if media is not None:
                    await media.close()
                media = None
            elif media is None:
                media = self._open_media(ack.ice_servers)
            elif offer is not None:
                await self._finish_offer(media, fresh, offer[1], ack)
            if self._is_closed or connections != self._connections:
                raise UnavailableError("the connection was lost while joining")
            self._welcome(ack, media)
        except BaseException as error:
            if media is not None:
                await media.close()
            if _may_be_member(error):
                await self._leave_quietly()
            raise

    async def _knock(self, offer: tuple[str, list[PublishedTrack]] | None, *, may_create: bool) -> RoomAck:
        """Ask to be let in, and create the room when it is not there and that is wanted."""
        fields: dict[str, Any] = {"room_id": self.id, "metadata": self._metadata, "role": "receiver"}
        if offer is not None:
            fields |= {"role": "sender", "offer_sdp": offer[0], "tracks": offer[1]}
        try:
            return await self._client.request(RoomJoin(**fields), RoomJoinAck, timeout=_JOIN_TIMEOUT)
        except (NotFoundError, InvalidRequestError):  # a room that was closed answers 400 rather than 404
            if not may_create:
                raise
        try:
            creation = RoomCreate(**fields, max_participants=self._max_participants)
            return await self._client.request(creation, RoomCreateAck, timeout=_JOIN_TIMEOUT)
        except ConflictError:
            # Another client has created it meanwhile.
            return await self._client.request(RoomJoin(**fields), RoomJoinAck, timeout=_JOIN_TIMEOUT)

    def _open_media(self, ice_servers: list[IceServer]) -> MediaSession:
        try:
            from signal_manager.client.media import MediaSession  # noqa: PLC0415 - needs an optional dependency
        except ModuleNotFoundError as error:
            raise InvalidRequestError(_NO_AIORTC) from error
        media = MediaSession(
            self._client,
            self.id,
            ice_servers,
            on_connected=self._calm_down,
            on_lost=lambda error: self._lose_media_of(media, error),
            on_track=self._members.announce,
        )
        return media

    async def _finish_offer(
        self, media: MediaSession, sent: list[Publication], tracks: list[PublishedTrack], ack: RoomAck
    ) -> None:
        """Apply the answer that came with the welcome; what it leaves out is published later."""
        if ack.answer_sdp is None:
            await media.withdraw(sent)
            return
        by_mid = {result.mid: result for result in ack.tracks}
        results = [by_mid.get(track.mid) for track in tracks]
        refused = [each for each, r in zip(sent, results, strict=True) if r is not None and r.error_code is not None]
        await media.accept(ack.answer_sdp, refused)
        for publication, result in zip(sent, results, strict=True):
            self._settle(publication, result)

    def _welcome(self, ack: RoomAck, media: MediaSession | None) -> None:
        offer = None if ack.offer_sdp is None else (ack.offer_sdp, ack.tracks)
        entry = self._entry = _Entry(media, offer)
        self._has_media = media is not None
        self._show_state(ack)
        if self._newest > self._sequence:
            self._start(self._resync(entry), "state")

    async def _leave_quietly(self, reason: str | None = None) -> None:
        if not self._client.is_connected:
            return
        try:
            message = RoomLeave(room_id=self.id, reason=reason)
            await self._client.request(message, RoomLeaveAck, timeout=_LEAVE_TIMEOUT)
        except SignalManagerError as error:
            logger.info("leaving room %s: %s", self.id, error.message)

    # Losing the room, joining it again, and its end

    def _lose(self, entry: _Entry, error: Exception) -> None:
        if entry is not self._entry:
            return
        self._entry = None
        self._discard(entry)
        self._members.forget_mids()
        self._publications.forget_session()
        self._emit(RoomReconnecting(error))
        self._wake()

    def _lose_media(self, entry: _Entry, error: Exception) -> None:
        if entry is self._entry:
            self._fail(error)
        self._lose(entry, error)

    def _lose_media_of(self, media: MediaSession, error: Exception) -> None:
        if self._entry is not None and self._entry.media is media:
            self._lose_media(self._entry, error)

    def _discard(self, entry: _Entry) -> None:
        if entry.media is not None:
            self._start(entry.media.close(), "end of media")

    async def _reenter(self) -> None:
        await self._pause(self._failures)
        if self._is_closed or not self._client.is_connected:
            return
        try:
            # The service still counts this client in when only its media was lost.
            await self._leave_quietly("media lost")
            await self._enter(may_create=True)
        except Exception as error:
            if self._is_closed or not self._client.is_connected:
                return
            if isinstance(error, SignalManagerError) and _is_final(error):
                self._close("the room cannot be joined again", error)
            else:
                self._fail(error)
            return
        self._emit(RoomReconnected())

    def _fail(self, error: Exception) -> None:
        """Count one more failure in a row, until it is one too many."""
        self._failures += 1
        if self._retry.attempts is not None and self._failures >= self._retry.attempts:
            self._close("the room cannot be joined again", _as_known(error))

    def _calm_down(self) -> None:
        """Forget the failures once nothing is left to do and media flows: each alone may go wrong again and again."""
        is_busy = self._worker is not None and not self._worker.done()
        if self._entry is None or is_busy or self._next_job() is not None:
            return
        if self._entry.media is None or self._entry.media.is_connected:
            self._failures = 0

    async def _pause(self, failures: int) -> None:
        """Wait the longer the more went wrong before; the end of the room ends it early."""
        delay = self._retry.delay(failures)
        if delay:
            try:
                async with asyncio.timeout(delay):
                    await self._stop_pausing.wait()
            except TimeoutError:
                pass

    def _close(self, reason: str, error: SignalManagerError | None = None) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._client.forget_room(self)
        self._stop_pausing.set()
        if self._worker is not None and self._worker is not asyncio.current_task():
            self._worker.cancel()
        if self._entry is not None:
            self._discard(self._entry)
            self._entry = None
        self._publications.remove_all(error or UnavailableError(f"the room is closed: {reason}"))
        self._members.stop_tracks()
        self._emit(RoomClosed(reason, error))
        self._events.end()
        self._callbacks.queue.end()

    # The others

    def _hear_the_end(self, entry: _Entry, reason: str) -> None:
        if reason == _RESTARTING:
            self._lose(entry, UnavailableError("the service is restarting"))
        else:
            self._close(reason)

    def _hear_of_myself(self, entry: _Entry, event: RoomEvent) -> None:
        if event.event == "participant_left":
            self._hear_the_end(entry, event.reason or "removed from the room")
        elif event.event == "tracks_unpublished" and event.reason == _SESSION_LOST:
            self._lose_media(entry, UnavailableError("the SFU has lost the media session"))

    async def _resync(self, entry: _Entry) -> None:
        """Ask for the whole room, since an event is missing."""
        self._is_resyncing = True
        try:
            while entry is self._entry and self._newest > self._sequence:
                state = await self._client.request(RoomState(room_id=self.id), RoomStateAck)
                if entry is self._entry:
                    self._show_state(state)
        except SignalManagerError as error:
            self._lose_media(entry, error)
        finally:
            self._is_resyncing = False
        self._wake()

    def _show_state(self, state: RoomAck | RoomStateAck) -> None:
        self._sequence = state.sequence
        self._members.show_state(state.participants)

    def _note_stale(self, mid: str) -> None:
        if self._entry is not None:
            self._entry.stale.append(mid)

    # The loop: one negotiation at a time

    def _wake(self) -> None:
        """See to it that everything becomes as it is wanted; only one such loop runs."""
        if not self._is_closed and (self._worker is None or self._worker.done()):
            self._worker = self._start(self._work(), "work")

    async def _work(self) -> None:
        try:
            while (job := self._next_job()) is not None:
                await job()
        except Exception as error:  # the background task's edge
            logger.exception("the room ends by a fault of its own")
            self._close("a fault of the SDK itself", _as_known(error))
        self._worker = None
        self._calm_down()

    def _next_job(self) -> Job | None:
        if self._is_closed:
            return None
        entry = self._entry
        if entry is None:
            return self._reenter if self._client.is_connected else None
        publications = self._publications
        if abandoned := publications.abandoned:
            return lambda: self._forget(abandoned, None)
        fresh = publications.fresh
        if entry.media is None:
            return (lambda: self._forget(fresh, InvalidRequestError(_NO_MEDIA))) if fresh else None
        return self._next_negotiation(entry, entry.media, fresh)

    def _next_negotiation(self, entry: _Entry, media: MediaSession, fresh: list[Publication]) -> Job | None:
        if entry.offer is not None:
            sdp, tracks = entry.offer
            return lambda: self._answer_welcome(entry, media, sdp, tracks)
        if leaving := self._publications.leaving:
            return lambda: self._unpublish(entry, media, leaving)
        if fresh:
            return lambda: self._publish(entry, media, fresh)
        if entry.stale:
            return lambda: self._drop(entry, media)
        wanted = self._members.wanted[:MAX_ITEMS]
        return (lambda: self._pull(entry, media, wanted)) if wanted else None

    async def _forget(self, publications: list[Publication], error: Exception | None) -> None:
        for publication in publications:
            self._publications.remove(publication, error)

    async def _answer_welcome(self, entry: _Entry, media: MediaSession, sdp: str, tracks: list[TrackResult]) -> None:
        entry.offer = None
        pulled: dict[str, PulledTrack] = {}
        for result in tracks:
            if not result.mid or result.error_code is not None:
                continue
            track = self._members.find(result.client_id or "", result.track_name or "")
            if track is not None:
                pulled[result.mid] = track
            else:
                entry.stale.append(result.mid)
        rejected = await self._attempt(entry, [], lambda: media.answer(sdp, pulled))
        for mid in rejected or ():
            self._reject(entry, mid, pulled.get(mid))

    async def _publish(self, entry: _Entry, media: MediaSession, publications: list[Publication]) -> None:
        results = await self._attempt(entry, publications, lambda: media.publish(publications))
        if results is None or entry is not self._entry:
            return
        for publication, result in zip(publications, results, strict=True):
            self._settle(publication, result)

    async def _unpublish(self, entry: _Entry, media: MediaSession, publications: list[Publication]) -> None:
        try:
            await media.unpublish(publications)
        except Exception as error:
            # Half closed is nothing to go on with; a new session does not have them.
            self._lose_media(entry, error)
            return
        for publication in publications:
            self._publications.remove(publication)

    async def _drop(self, entry: _Entry, media: MediaSession) -> None:
        mids, entry.stale = entry.stale[:MAX_ITEMS], entry.stale[MAX_ITEMS:]
        await self._attempt(entry, [], lambda: media.drop(mids))

    async def _pull(self, entry: _Entry, media: MediaSession, tracks: list[PulledTrack]) -> None:
        results = await self._attempt(entry, tracks, lambda: media.pull(tracks))
        if results is None or entry is not self._entry:
            return
        is_early = False
        for track, result in zip(tracks, results, strict=True):
            if result.mid and result.error_code is not None:
                self._reject(entry, result.mid, track)
            elif track.mid is None and self._members.has(track):
                self._count_attempt(track, _error_of(result))
                is_early = is_early or track.is_wanted
        if is_early:
            await self._pause(1)

    async def _attempt(
        self,
        entry: _Entry,
        tracks: Sequence[Publication | PulledTrack],
        negotiate: Callable[[], Awaitable[Result]],
    ) -> Result | None:
        """Run one negotiation: a lost session is replaced, and a refusal counts against the tracks that it is about."""
        try:
            return await negotiate()
        except Exception as error:
            if entry is not self._entry:
                return None  # lost or left meanwhile
            is_known = isinstance(error, SignalManagerError)
            is_lost = isinstance(error, SignalManagerError) and error.code in _LOST_CODES
            # A lost session says nothing about the tracks; what aiortc itself refuses, it may refuse again.
            if not is_lost:
                for track in tracks:
                    self._count_attempt(track, error)
            if is_lost or not is_known:
                self._lose_media(entry, error)
            elif _may_retry(error):
                await self._pause(1)
            return None

    def _settle(self, publication: Publication, result: TrackResult | None) -> None:
        if result is None or result.error_code is None:
            self._publications.settle(publication)
        else:
            self._publications.remove(publication, _error_of(result))

    def _reject(self, entry: _Entry, mid: str, track: PulledTrack | None) -> None:
        """Give up a track that cannot be decoded, and have it closed at the SFU."""
        entry.stale.append(mid)
        if track is not None:
            from signal_manager.client.media import UNDECODABLE  # noqa: PLC0415 - needs an optional dependency

            self._count_attempt(track, MediaBackendError(UNDECODABLE))

    def _count_attempt(self, track: Publication | PulledTrack, error: Exception) -> None:
        """Count one more try of a track, until it is one too many; a refusal that will stay is the last."""
        is_last = isinstance(error, SignalManagerError) and not _may_retry(error)
        track.attempts += MAX_ATTEMPTS if is_last else 1
        if track.attempts < MAX_ATTEMPTS:
            return
        if isinstance(track, Publication):
            self._publications.remove(track, error)
            return
        track.is_wanted = False
        if self._members.has(track):
            self._emit(TrackFailed(error, track.client_id, track.name))

    # Events and tasks

    def _emit(self, event: RoomHappening) -> None:
        (self._callbacks.queue if self._callbacks.wants(event) else self._events).put(event)

    def _start(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"room {what}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _may_be_member(error: BaseException) -> bool:
    """Tell whether the service may count a client in that met this error while joining. A refusal is clear."""
    is_refusal = isinstance(error, SignalManagerError) and not isinstance(error, MalformedMessageError)
    return not is_refusal or isinstance(error, TooLateError | UnavailableError)


def _is_final(error: SignalManagerError) -> bool:
    """Tell whether joining again would meet the same refusal."""
    return error.code < 500 and not error.may_retry and error.code not in _LOST_CODES


def _may_retry(error: Exception) -> bool:
    return isinstance(error, SignalManagerError) and error.may_retry


def _as_known(error: Exception) -> SignalManagerError:
    return error if isinstance(error, SignalManagerError) else SignalManagerError(f"{type(error).__name__}: {error}")


def _error_of(result: TrackResult) -> SignalManagerError:
    message = result.error_message or "the SFU took no notice of the track"
    return error_from_wire(result.error_code or 502, message)
