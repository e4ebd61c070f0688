"""A room as a member sees it: who is there, what they send, and what this client sends to them.

The application says what it wants (`publications.py`), the service who is there (`members.py`); one loop brings the
media session (`media.py`) to both, one negotiation at a time (`negotiations.py`), and joins again (`joining.py`) with
a new session when one is lost. All that is here turns on one state: which membership is the present one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeAlias, TypeVar, overload

from signal_manager.client.arguments import (
    a_flag,
    a_kind,
    a_name,
    a_text,
    a_track,
    an_object,
    instance_of,
    maybe,
    one_of,
    whole,
)
from signal_manager.client.callbacks import Callbacks
from signal_manager.client.departures import Departures
from signal_manager.client.events import Disconnected, Event, EventQueue, Reconnected
from signal_manager.client.joining import Joining
from signal_manager.client.members import Members
from signal_manager.client.negotiations import Entry, Job, Negotiations, is_final
from signal_manager.client.ports import Requester
from signal_manager.client.publications import Publication, Publications
from signal_manager.client.room_events import (
    ROOM_EVENT_NAMES,
    Participant,
    ParticipantAway,
    ParticipantBack,
    ParticipantChanged,
    ParticipantJoined,
    ParticipantLeft,
    PublicationEnded,
    RoomChanged,
    RoomClosed,
    RoomEventName,
    RoomHappening,
    RoomReconnected,
    RoomReconnecting,
    SelfChanged,
    TrackAdded,
    TrackFailed,
    TrackKind,
    TrackMuted,
    TrackRemoved,
    TrackUnmuted,
)
from signal_manager.client.room_news import RoomNews
from signal_manager.client.timing import Backoff, RetryPolicy
from signal_manager.errors import (
    InvalidRequestError,
    NotFoundError,
    SignalManagerError,
    UnavailableError,
)
from signal_manager.protocol.messages import (
    IceServer,
    MetadataUpdate,
    MetadataUpdateAck,
    RoomAck,
    RoomEvent,
)

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack

    from signal_manager.client.media import MediaSession

__all__ = ["Room"]

logger = logging.getLogger(__name__)

# Media sessions lost, or not even had, in a row before the room is given up: with the delays between, about a minute.
MAX_FAILURES = 10

# Of a room (docs/protocol.md, "Rooms").
_MAX_PLACES = 65_535

_a_role = one_of(("sender", "receiver"))
_a_scope = one_of(("participant", "room"))

# The reason of ends that ask for a new session rather than mean what they say (docs/protocol.md, "Rooms").
_RESTARTING = "restarting"

_NO_AIORTC = "media needs aiortc: pip install 'signal-manager[rtc]'"

Happening = TypeVar("Happening", bound=RoomHappening)
Callback: TypeAlias = Callable[[Happening], object]


class RoomHost(Requester, Protocol):
    """The client of a room."""

    departures: Departures

    def forget_room(self, room: Room) -> None:
        """Stop telling a room of events; rooms call this when they end."""


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
        client: RoomHost,
        room_id: str,
        *,
        role: Literal["sender", "receiver"] | None,
        metadata: Mapping[str, Any] | None,
        max_participants: int | None,
        auto_pull: bool,
        retry: RetryPolicy | None,
    ) -> None:
        self.id = a_name(room_id, "room_id")
        self._client = client
        self._role = role
        maybe(_a_role, role, "role")
        a_flag(auto_pull, "auto_pull")
        policy = maybe(instance_of(RetryPolicy), retry, "retry")
        self._patience = Backoff(policy or RetryPolicy(attempts=MAX_FAILURES))
        self._members = Members(client.client_id, auto_pull=auto_pull, emit=self._emit, on_stale=self._note_stale)
        self._publications = Publications(self._wake, self._hear_of_end)
        self._joining = Joining(
            client,
            client.departures,
            room_id,
            role=role,
            metadata=maybe(an_object, metadata, "metadata"),
            max_participants=maybe(whole(1, _MAX_PLACES), max_participants, "max_participants"),
            publications=self._publications,
            open_media=self._open_media,
            connection=lambda: None if self._is_closed else self._connections,
        )
        self._news = RoomNews(
            client,
            room_id,
            self._members,
            on_change=self._wake,
            on_end=self._hear_the_end,
            on_lost=self._lose_media,
            on_metadata=self._take_metadata,
            on_own_metadata=self._take_own_metadata,
            start=self._start,
        )
        self._negotiations = Negotiations(
            self._members,
            self._publications,
            on_lost=self._lose_media,
            emit=self._emit,
            pause=lambda: self._patience.pause(1),
        )
        self._events: EventQueue[RoomHappening] = EventQueue()
        self._callbacks: Callbacks[RoomHappening] = Callbacks(ROOM_EVENT_NAMES)
        self._entry: Entry | None = None
        self._metadata: Mapping[str, Any] | None = None
        self._has_media = False
        self._has_been_in = False
        self._is_closed = False
        self._connections = 0  # that the client has made since this object was
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
    def publications(self) -> Sequence[Publication]:
        """What this client publishes, or is about to."""
        return self._publications.wanted

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What is said of the room; `created_at` (ms since the epoch) is the service's."""
        return self._metadata or {}

    @property
    def own_metadata(self) -> Mapping[str, Any]:
        """What the others see of this client."""
        return self._joining.metadata or {}

    @property
    def state(self) -> Literal["joined", "reconnecting", "closed"]:
        """Whether the client is in the room, is joining it again, or is out for good."""
        if self._is_closed:
            return "closed"
        return "reconnecting" if self._entry is None or self._entry.is_lost else "joined"

    @property
    def has_media(self) -> bool:
        """Whether there is an SFU behind the room, as far as is known; without one only signals can be sent."""
        return self._has_media

    @property
    def dropped_events(self) -> int:
        """How many events were dropped because the application did not keep up."""
        return self._events.dropped + self._callbacks.queue.dropped

    async def publish(
        self, *tracks: MediaStreamTrack, name: str | None = None, muted: bool = False
    ) -> list[Publication]:
        """Send tracks of aiortc's to the others, until `unpublish` or `leave`.

        Returns when the SFU has taken all of them; when it refuses one, none is published. The tracks themselves are
        never stopped.

        Args:
            name: goes before "audio" and "video" in the tracks' names, as in "screen-video".
            muted: publish them as muted.

        Returns:
            what was published, to mute and unmute and to replace its track.

        Raises:
            InvalidRequestError: the room is closed, or the arguments cannot be.
            ForbiddenError, MediaBackendError…: what the service or the SFU says.
        """
        if self._is_closed:
            raise InvalidRequestError("the room is closed; join it again")
        a_flag(muted, "muted")
        added = self._publications.add(tracks, name)
        for each in added:
            each.muted = muted
        self._wake()
        try:
            await asyncio.gather(*(asyncio.shield(each.published) for each in added))
        except BaseException:
            for each in added:
                each.is_wanted = False
            self._wake()
            raise
        return added

    async def unpublish(self, *tracks: MediaStreamTrack | Publication) -> None:
        """Stop sending tracks, or publications; returns when the SFU has closed them."""
        for each in tracks:
            if not isinstance(each, Publication):
                a_track(each, "a track")
        leaving = self._publications.of(tracks)
        for each in leaving:
            each.is_wanted = False
        self._wake()
        await asyncio.gather(*(asyncio.shield(each.gone) for each in leaving))

    def mute(self, kind: TrackKind | None = None) -> None:
        """Mute camera and microphone, or one of them: what was published without a name, so not the screen."""
        self._publications.mute(maybe(a_kind, kind, "kind"), muted=True)

    def unmute(self, kind: TrackKind | None = None) -> None:
        """Send sound and picture of camera and microphone again."""
        self._publications.mute(maybe(a_kind, kind, "kind"), muted=False)

    async def set_metadata(
        self, metadata: Mapping[str, Any], *, scope: Literal["participant", "room"] = "participant"
    ) -> None:
        """Replace what the others see of this client, which joining again repeats, or what is said of the room.

        Raises:
            ForbiddenError: the room's metadata is for whoever has the grant `admin`.
            TooLargeError: it is larger than 16,384 bytes as JSON.
            InvalidRequestError: the room is closed, or `scope` is another.
        """
        wanted = an_object(metadata, "metadata")
        _a_scope(scope, "scope")
        if self._is_closed:
            raise InvalidRequestError("the room is closed; join it again")
        message = MetadataUpdate(room_id=self.id, metadata=wanted, scope=scope)
        ack = await self._client.request(message, MetadataUpdateAck)
        # Otherwise the event has come already, and perhaps one of a later change too.
        if scope == "participant" and not self._news.shows(ack.sequence):
            self._take_own_metadata(wanted)

    def pull(self, client_id: str, track_name: str) -> None:
        """Receive a track that is not received yet: without `auto_pull`, or after it failed. A `TrackAdded` follows.

        Raises:
            NotFoundError: nobody publishes it.
        """
        track = self._members.find(a_name(client_id, "client_id"), a_name(track_name, "track_name"))
        if track is None:
            raise NotFoundError(f"{client_id} publishes no track {track_name}")
        track.is_wanted = True
        track.attempts = 0
        self._wake()

    def restart_ice(self) -> None:
        """Make a new path to the SFU at once, as after a change of network that the application knows of.

        The media session is replaced behind the same membership: `RoomReconnecting` and `RoomReconnected` follow,
        others see a pause. The room does so by itself when the connection fails, and when nothing arrives any more
        after a reconnect.
        """
        if self._entry is not None and self._entry.media is not None:
            self._lose(self._entry, UnavailableError("the media session is replaced"), stays_in=True)

    async def leave(self, reason: str | None = None) -> None:
        """Leave the room. It never fails: a service that cannot be reached is told as soon as it can be.

        Raises:
            InvalidRequestError: the reason is no string, or one of more than 256 bytes.
        """
        maybe(a_text, reason, "reason")
        if not self._is_closed:
            self._close("left")
            self._joining.note_departure(reason)
        await self.end("left")
        await self._joining.depart()

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
    def on(self, name: Literal["participant_away"], callback: Callback[ParticipantAway]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["participant_back"], callback: Callback[ParticipantBack]) -> Callable[[], None]: ...
    @overload
    def on(
        self, name: Literal["participant_changed"], callback: Callback[ParticipantChanged]
    ) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["track_muted"], callback: Callback[TrackMuted]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["track_unmuted"], callback: Callback[TrackUnmuted]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["publication_ended"], callback: Callback[PublicationEnded]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["room_changed"], callback: Callback[RoomChanged]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["self_changed"], callback: Callback[SelfChanged]) -> Callable[[], None]: ...
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
            InvalidRequestError: there is no event of that name.
        """
        return self._callbacks.add(name, callback)

    # What the client calls

    @property
    def is_taken(self) -> bool:
        """Whether this is the client's place in the room, now or soon; a failed attempt to come in is none."""
        return not self._is_closed and (self._has_been_in or not self._joining.is_giving_up)

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
        """Take in what the service tells of rooms."""
        if event.room_id == self.id and not self._is_closed:
            self._news.hear(event, self._entry)

    def hear_of_link(self, event: Event) -> None:
        """Take note of what happens to the client's connection."""
        match event:
            case Reconnected(resumed=True):
                self._wake()  # a session that goes on is in its room still
                if self._entry is not None and self._entry.media is not None:
                    self._start(self._check_path(self._entry, self._entry.media), "check of the path")
            case Reconnected():
                self._connections += 1
                self._patience.recover()
                if self._entry is not None:
                    self._lose(self._entry, UnavailableError("the connection to the service was lost"))
                self._wake()
            case Disconnected(will_reconnect=False, reason=reason):
                self._close("the client is closed", UnavailableError(reason))
            case Disconnected() if self._entry is not None and self._entry.media is not None:
                self._start(self._entry.media.suspect(), "suspicion")

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
        self._news.begin()
        await self._joining.enter(self._publications.fresh, may_create=may_create, welcome=self._welcome)

    def _open_media(self, ice_servers: list[IceServer], expires_at: int | None) -> MediaSession:
        try:
            from signal_manager.client.media import MediaSession  # noqa: PLC0415 - needs an optional dependency
        except ModuleNotFoundError as error:
            raise InvalidRequestError(_NO_AIORTC) from error
        media = MediaSession(
            self._client,
            self.id,
            ice_servers,
            expires_at=expires_at,
            is_receiving=self._members.are_heard,
            on_connected=self._calm_down,
            on_lost=lambda error: self._lose_media_of(media, error),
            on_track=self._members.announce,
        )
        return media

    def _welcome(self, ack: RoomAck, media: MediaSession | None) -> None:
        offer = None if ack.offer_sdp is None else (ack.offer_sdp, ack.tracks)
        entry = self._entry = Entry(media, offer)
        self._has_been_in = True
        self._has_media = media is not None
        self._news.begin_with(ack, entry)

    # Losing the room, joining it again, and its end

    def _lose(self, entry: Entry, error: Exception, *, stays_in: bool = False) -> None:
        """Note that a media session is lost; `stays_in`: the service still counts this client in."""
        if not entry.is_present:
            return
        self._entry = Entry(None, None, is_lost=True) if stays_in else None
        self._discard(entry)
        self._members.forget_mids()
        self._publications.forget_session()
        if not entry.is_lost:
            self._emit(RoomReconnecting(error))
        self._wake()

    def _lose_media(self, entry: Entry, error: Exception) -> None:
        if not entry.is_present or entry.is_lost:
            return
        self._fail(error)
        self._lose(entry, error, stays_in=True)

    async def _check_path(self, entry: Entry, media: MediaSession) -> None:
        """After a reconnect, which often comes of another network, see whether the media's path is lost too."""
        if await media.has_lost_path():
            self._lose_media(entry, UnavailableError("the path to the SFU is lost"))

    def _lose_media_of(self, media: MediaSession, error: Exception) -> None:
        if self._entry is not None and self._entry.media is media:
            self._lose_media(self._entry, error)

    def _discard(self, entry: Entry) -> None:
        entry.is_present = False
        if entry.media is not None:
            self._start(entry.media.close(), "end of media")

    async def _reenter(self) -> None:
        lost = self._entry  # the membership, where that is still there
        if lost is None or self._patience.failures > 1:
            await self._patience.pause()
        if self._is_closed or not self._client.is_connected or lost is not self._entry:
            return
        try:
            if lost is not None:
                await self._replace_media(lost)
            else:
                # The service may still count this client in.
                self._joining.note_departure("media lost")
                await self._enter(may_create=True)
        except Exception as error:
            if self._is_closed or not self._client.is_connected:
                return
            if lost is not None:
                if lost is self._entry:
                    lost.is_present = False
                    self._entry = None  # leaving and joining again is what is left
                self._fail(error)
                return
            if isinstance(error, SignalManagerError) and is_final(error):
                self._close("the room cannot be joined again", error)
            else:
                self._fail(error)
            return
        self._emit(RoomReconnected())

    async def _replace_media(self, lost: Entry) -> None:
        """Begin a new media session behind the same membership."""
        media = await self._joining.replace(self._publications.fresh, is_member=lambda: lost is self._entry)
        lost.is_present = False
        self._entry = Entry(media, None)
        self._news.catch_up(self._entry)

    def _fail(self, error: Exception) -> None:
        if self._patience.fail():
            self._close("the room cannot be joined again", _as_known(error))

    def _calm_down(self) -> None:
        """Forget the failures once nothing is left to do and media flows: each alone may go wrong again and again."""
        is_busy = self._worker is not None and not self._worker.done()
        if self._entry is None or self._entry.is_lost or is_busy or self._next_job() is not None:
            return
        if self._entry.media is None or self._entry.media.is_connected:
            self._patience.recover()

    def _close(self, reason: str, error: SignalManagerError | None = None) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._client.forget_room(self)
        self._patience.end()
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

    def _hear_the_end(self, entry: Entry, reason: str) -> None:
        if reason == _RESTARTING:
            self._lose(entry, UnavailableError("the service is restarting"))
        else:
            self._close(reason)

    def _hear_of_end(self, publication: Publication) -> None:
        """Unpublish a track that has ended by itself: it is of no use to anybody."""
        if publication in self._publications.wanted:
            publication.is_wanted, publication.has_ended = False, True
            self._emit(PublicationEnded(publication.name, publication.track))
            self._wake()

    def _take_metadata(self, metadata: dict[str, Any]) -> None:
        if metadata != self._metadata:
            is_first, self._metadata = self._metadata is None, metadata
            if not is_first:
                self._emit(RoomChanged(metadata))

    def _take_own_metadata(self, metadata: dict[str, Any]) -> None:
        if metadata != self.own_metadata:
            self._joining.metadata = metadata
            self._emit(SelfChanged(metadata))

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
        if entry is None or entry.is_lost:
            return self._reenter if self._client.is_connected else None
        return self._negotiations.next(entry)

    # Events and tasks

    def _emit(self, event: RoomHappening) -> None:
        (self._callbacks.queue if self._callbacks.wants(event) else self._events).put(event)

    def _start(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"room {what}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _as_known(error: Exception) -> SignalManagerError:
    return error if isinstance(error, SignalManagerError) else SignalManagerError(f"{type(error).__name__}: {error}")
