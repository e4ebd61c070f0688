"""A room as an application uses it: the other members and their tracks, and what this client publishes.

`room_membership.py` keeps the client in the room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
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
from signal_manager.client.callbacks import EventStream
from signal_manager.client.departures import Departures
from signal_manager.client.events import Event
from signal_manager.client.members import Members
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
from signal_manager.client.room_membership import RoomMembership
from signal_manager.client.room_metadata import RoomMetadata
from signal_manager.client.room_tasks import CALLBACKS, RoomTasks
from signal_manager.client.timing import Backoff, RetryPolicy
from signal_manager.errors import (
    InvalidRequestError,
    NotFoundError,
    SignalManagerError,
)
from signal_manager.protocol.messages import (
    MetadataUpdate,
    MetadataUpdateAck,
    RoomEvent,
)

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack


__all__ = ["Room"]

logger = logging.getLogger(__name__)

# So many media sessions are lost, or fail to open, in a row before the room is given up: after about a minute.
MAX_FAILURES = 10

# Of a room (docs/protocol.md, "Rooms").
_MAX_PLACES = 65_535

_a_role = one_of(("sender", "receiver"))
_a_scope = one_of(("participant", "room"))

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
                    case TrackAdded(participant=member, track=track):
                        frame = await track.recv()

    Tracks are aiortc's `MediaStreamTrack`s. Those of others are pulled as soon as they are announced; of a track that
    the application does not read, the newest frames are kept and older ones dropped. When the connection to the service
    or the media is lost, the room is joined again with a new media session: what was published is published again, and
    what was pulled is pulled again, until `RoomClosed`.

    **Events** are read with `async for event in room`, or with callbacks (`on`), as those of `SignalClient`. Members
    that were there before are in `participants`, without an event. Iteration ends when the room is left or given up.

    Large because it is everything that an application can do in a room, and delegates all of it.
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
        self._stream: EventStream[RoomHappening] = EventStream(ROOM_EVENT_NAMES)
        self._tasks = RoomTasks()
        self._metadata = RoomMetadata(maybe(an_object, metadata, "metadata"), self._stream.emit)
        self._members = Members(
            client.client_id, auto_pull=auto_pull, emit=self._stream.emit, on_stale=self._note_stale
        )
        self._publications = Publications(self._wake, self._track_ended)
        self._membership = RoomMembership(
            client,
            client.departures,
            room_id,
            role=role,
            max_participants=maybe(whole(1, _MAX_PLACES), max_participants, "max_participants"),
            metadata=self._metadata,
            publications=self._publications,
            members=self._members,
            backoff=Backoff(policy or RetryPolicy(attempts=MAX_FAILURES)),
            tasks=self._tasks,
            stream=self._stream,
            on_closed=lambda: client.forget_room(self),
        )

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
        """The publications of this client, among them those that begin."""
        return self._publications.wanted

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The room's metadata; the service sets `created_at` (ms since the epoch)."""
        return self._metadata.room or {}

    @property
    def own_metadata(self) -> Mapping[str, Any]:
        """The metadata of this client, which the other members see."""
        return self._metadata.own or {}

    @property
    def state(self) -> Literal["joined", "reconnecting", "closed"]:
        """Whether the client is in the room, is joining it again, or is out for good."""
        if self._membership.is_closed:
            return "closed"
        entry = self._membership.entry
        return "reconnecting" if entry is None or entry.is_lost else "joined"

    @property
    def has_media(self) -> bool:
        """Whether the service has an SFU, as far as this side knows; without one the room carries only signals."""
        return self._membership.has_media

    @property
    def dropped_events(self) -> int:
        """The number of events that were dropped because the application did not keep up."""
        return self._stream.dropped

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
            the publications, to mute, to unmute and to replace their tracks.

        Raises:
            InvalidRequestError: the room is closed, or the arguments cannot be.
            ForbiddenError, MediaBackendError…: the service or the SFU refuses.
        """
        if self._membership.is_closed:
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
        """Replace this client's metadata, which joining again repeats, or the room's.

        Raises:
            ForbiddenError: the room's metadata needs the grant `admin`.
            TooLargeError: it is larger than 16,384 bytes as JSON.
            InvalidRequestError: the room is closed, or `scope` is another.
        """
        wanted = an_object(metadata, "metadata")
        _a_scope(scope, "scope")
        if self._membership.is_closed:
            raise InvalidRequestError("the room is closed; join it again")
        message = MetadataUpdate(room_id=self.id, metadata=wanted, scope=scope)
        ack = await self._client.request(message, MetadataUpdateAck)
        # Otherwise the event has come already, and perhaps one of a later change too.
        if scope == "participant" and not self._membership.news.shows(ack.sequence):
            self._metadata.take_own(wanted)

    def pull(self, client_id: str, track_name: str) -> None:
        """Receive a track that is not received yet: without `auto_pull`, or after it failed. A `TrackAdded` follows.

        Raises:
            NotFoundError: no member publishes it.
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
        self._membership.replace_media()

    async def leave(self, reason: str | None = None) -> None:
        """Leave the room. It never fails: the service hears of it as soon as it can be reached.

        Raises:
            InvalidRequestError: the reason is no string, or one of more than 256 bytes.
        """
        maybe(a_text, reason, "reason")
        await self._membership.leave(reason)

    def __aiter__(self) -> AsyncIterator[RoomHappening]:
        return self

    async def __anext__(self) -> RoomHappening:
        return await self._stream.next()

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
        """Call back for every event of one name, as `SignalClient.on` does; return a function that ends it.

        Raises:
            InvalidRequestError: there is no event of that name.
        """
        return self._stream.callbacks.add(name, callback)

    # What the client calls

    @property
    def is_taken(self) -> bool:
        """Whether the client is in the room, or may still get in; a failed attempt to join does not count."""
        return self._membership.is_taken

    async def enter(self, tracks: Sequence[MediaStreamTrack], *, create: bool) -> None:
        """Join for the first time; applications call `SignalClient.join`."""
        if self._role == "sender" and not tracks:
            raise InvalidRequestError("expected tracks with the role sender, got none")
        if tracks:
            self._publications.add(tracks)
        try:
            await self._membership.join(may_create=create)
        except BaseException as error:
            await self.end("not joined", error if isinstance(error, SignalManagerError) else None)
            raise
        self._tasks.start(self._stream.callbacks.run(), CALLBACKS)
        self._wake()

    def hear(self, event: RoomEvent) -> None:
        """Take in an event of any room."""
        if event.room_id == self.id and not self._membership.is_closed:
            self._membership.news.hear(event, self._membership.entry)

    def note_link(self, event: Event) -> None:
        """Take in what happens to the client's connection."""
        self._membership.note_link(event)

    async def end(self, reason: str, error: SignalManagerError | None = None) -> None:
        """Close the room on this side, and wait for the end of its background tasks."""
        await self._membership.end(reason, error)

    def _wake(self) -> None:
        """Begin to negotiate the difference between what is wanted and what is there."""
        self._membership.worker.wake()

    def _note_stale(self, mid: str) -> None:
        if self._membership.entry is not None:
            self._membership.entry.stale.append(mid)

    def _track_ended(self, publication: Publication) -> None:
        """Unpublish a track that has ended by itself."""
        if publication in self._publications.wanted:
            publication.is_wanted, publication.has_ended = False, True
            self._stream.emit(PublicationEnded(publication.name, publication.track))
            self._wake()
