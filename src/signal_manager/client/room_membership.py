"""One client's membership in a room: join, negotiate media step by step, and join again after a loss.

The application says what it wants (`publications.py`), and the service says who is in the room (`members.py`). One loop
adapts the media session (`media.py`) to both, one negotiation at a time (`negotiations.py`). After a loss it joins
again (`joining.py`) with a new media session. Everything here turns on one state: which `Entry` is the present one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from signal_manager.client.callbacks import EventStream
from signal_manager.client.departures import Departures
from signal_manager.client.events import Disconnected, Event, Reconnected
from signal_manager.client.joining import Joining, Role
from signal_manager.client.members import Members
from signal_manager.client.negotiations import Entry, Negotiations, is_final
from signal_manager.client.ports import Requester
from signal_manager.client.publications import Publications
from signal_manager.client.room_events import RoomClosed, RoomHappening, RoomReconnected, RoomReconnecting
from signal_manager.client.room_metadata import RoomMetadata
from signal_manager.client.room_news import RoomNews
from signal_manager.client.room_tasks import Job, RoomTasks, Worker
from signal_manager.client.timing import Backoff
from signal_manager.errors import InvalidRequestError, SignalManagerError, UnavailableError
from signal_manager.protocol.messages import IceServer, RoomAck

if TYPE_CHECKING:
    from signal_manager.client.media import MediaSession

__all__ = ["RoomMembership"]

# The reason of an end after which the client joins again (docs/protocol.md, "Rooms").
_RESTARTING = "restarting"

_NO_AIORTC = "media needs aiortc: pip install 'signal-manager-client[rtc]'"


class RoomMembership:
    """Keep this client in one room until it is closed.

    Args:
        metadata: the metadata of the room and of this client, which joining again repeats.
        publications, members: what this client sends, and what it may receive.
        backoff: counts losses in a row, and waits between attempts.
        stream: takes the events for the application.
        on_closed: called once, when the membership ends for good.
    """

    def __init__(
        self,
        client: Requester,
        departures: Departures,
        room_id: str,
        *,
        role: Role | None,
        max_participants: int | None,
        metadata: RoomMetadata,
        publications: Publications,
        members: Members,
        backoff: Backoff,
        tasks: RoomTasks,
        stream: EventStream[RoomHappening],
        on_closed: Callable[[], None],
    ) -> None:
        self._client = client
        self._room_id = room_id
        self._publications = publications
        self._members = members
        self._backoff = backoff
        self._tasks = tasks
        self._stream = stream
        self._on_closed = on_closed
        self.worker = Worker(
            tasks,
            next_job=self._next_job,
            on_idle=self._recover,
            on_fault=lambda error: self.close("a fault of the SDK itself", _as_known(error)),
        )
        self._joining = Joining(
            client,
            departures,
            room_id,
            role=role,
            metadata=metadata,
            max_participants=max_participants,
            publications=publications,
            open_media=self._open_media,
        )
        self.news = RoomNews(
            client,
            room_id,
            members,
            on_change=self.worker.wake,
            on_end=self._ended_by_service,
            on_lost=self._media_lost,
            on_metadata=metadata.take_room,
            on_own_metadata=metadata.take_own,
            start=tasks.start,
        )
        self._negotiations = Negotiations(
            members,
            publications,
            on_lost=self._media_lost,
            emit=stream.emit,
            pause=lambda: backoff.pause(1),
        )
        self.entry: Entry | None = None
        self.has_media = False
        self.is_closed = False

    @property
    def is_taken(self) -> bool:
        """Whether the client is in the room, or may still get in; a failed attempt to join does not count."""
        return not self.is_closed and (self._joining.has_joined or not self._joining.is_giving_up)

    # Joining and leaving

    async def join(self, *, may_create: bool) -> None:
        """Join, for the first time or again."""
        self.news.begin()
        await self._joining.join(self._publications.fresh, may_create=may_create, on_joined=self._joined)

    async def leave(self, reason: str | None) -> None:
        """Leave the room. It never fails: the service hears of it as soon as it can be reached."""
        if not self.is_closed:
            self.close("left")
            self._joining.note_departure(reason)
        await self.end("left")
        await self._joining.settle_departure()

    async def end(self, reason: str, error: SignalManagerError | None = None) -> None:
        """Close the room on this side, and wait for the end of its background tasks."""
        self.close(reason, error)
        await self._tasks.wait()

    def close(self, reason: str, error: SignalManagerError | None = None) -> None:
        """End the membership for good on this side. A second call does nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        self._joining.close()
        self._on_closed()
        self._backoff.end()
        self.worker.stop()
        if self.entry is not None:
            self._discard(self.entry)
            self.entry = None
        self._publications.remove_all(error or UnavailableError(f"the room is closed: {reason}"))
        self._members.stop_tracks()
        self._stream.emit(RoomClosed(reason, error))
        self._stream.end()

    def _joined(self, ack: RoomAck, media: MediaSession | None) -> None:
        offer = None if ack.offer_sdp is None else (ack.offer_sdp, ack.tracks)
        entry = self.entry = Entry(media, offer)
        self.has_media = media is not None
        self.news.begin_with(ack, entry)

    def _ended_by_service(self, entry: Entry, reason: str) -> None:
        if reason == _RESTARTING:
            self._lose(entry, UnavailableError("the service is restarting"))
        else:
            self.close(reason)

    # Media, its loss, and joining again

    def note_link(self, event: Event) -> None:
        """Take in what happens to the client's connection."""
        match event:
            case Reconnected(resumed=True):
                self.worker.wake()  # a resumed session is still in its room
                if self.entry is not None and self.entry.media is not None:
                    self._tasks.start(self._check_path(self.entry, self.entry.media), "check of the path")
            case Reconnected():
                self._joining.note_new_connection()
                self._backoff.recover()
                if self.entry is not None:
                    self._lose(self.entry, UnavailableError("the connection to the service was lost"))
                self.worker.wake()
            case Disconnected(will_reconnect=False, reason=reason):
                self.close("the client is closed", UnavailableError(reason))
            case Disconnected() if self.entry is not None and self.entry.media is not None:
                self._tasks.start(self.entry.media.suspect(), "suspicion")

    def replace_media(self) -> None:
        """Begin a new media session at once, in the same membership."""
        if self.entry is not None and self.entry.media is not None:
            self._lose(self.entry, UnavailableError("the media session is replaced"), stays_in=True)

    def _open_media(self, ice_servers: list[IceServer], expires_at: int | None) -> MediaSession:
        try:
            from signal_manager.client.media import MediaSession  # noqa: PLC0415 - needs an optional dependency
        except ModuleNotFoundError as error:
            raise InvalidRequestError(_NO_AIORTC) from error

        def lost(error: Exception) -> None:
            if self.entry is not None and self.entry.media is media:
                self._media_lost(self.entry, error)

        media = MediaSession(
            self._client,
            self._room_id,
            ice_servers,
            expires_at=expires_at,
            is_receiving=self._members.are_heard,
            on_connected=self._recover,
            on_lost=lost,
            on_track=self._members.announce,
        )
        return media

    async def _check_path(self, entry: Entry, media: MediaSession) -> None:
        """After a reconnect, which often means another network, check whether the media's path is lost too."""
        if await media.has_lost_path():
            self._media_lost(entry, UnavailableError("the path to the SFU is lost"))

    def _media_lost(self, entry: Entry, error: Exception) -> None:
        if not entry.is_present or entry.is_lost:
            return
        self._fail(error)
        self._lose(entry, error, stays_in=True)

    def _lose(self, entry: Entry, error: Exception, *, stays_in: bool = False) -> None:
        """Note that a media session is lost; with `stays_in` the service still counts this client as a member."""
        if not entry.is_present:
            return
        self.entry = Entry(None, None, is_lost=True) if stays_in else None
        self._discard(entry)
        self._members.forget_mids()
        self._publications.forget_session()
        if not entry.is_lost:
            self._stream.emit(RoomReconnecting(error))
        self.worker.wake()

    def _discard(self, entry: Entry) -> None:
        entry.is_present = False
        if entry.media is not None:
            self._tasks.start(entry.media.close(), "end of media")

    def _next_job(self) -> Job | None:
        if self.is_closed:
            return None
        entry = self.entry
        if entry is None or entry.is_lost:
            return self._rejoin if self._client.is_connected else None
        return self._negotiations.next(entry)

    async def _rejoin(self) -> None:
        lost = self.entry  # the membership, where it is still there
        if lost is None or self._backoff.failures > 1:
            await self._backoff.pause()
        if self.is_closed or not self._client.is_connected or lost is not self.entry:
            return
        try:
            if lost is not None:
                await self._renew_media(lost)
            else:
                # The service may still count this client as a member.
                self._joining.note_departure("media lost")
                await self.join(may_create=True)
        except Exception as error:
            if self.is_closed or not self._client.is_connected:
                return
            if lost is not None:
                if lost is self.entry:
                    lost.is_present = False
                    self.entry = None  # the next attempt leaves and joins again
                self._fail(error)
                return
            if isinstance(error, SignalManagerError) and is_final(error):
                self.close("the room cannot be joined again", error)
            else:
                self._fail(error)
            return
        self._stream.emit(RoomReconnected())

    async def _renew_media(self, lost: Entry) -> None:
        """Begin a new media session in the same membership."""
        media = await self._joining.replace(self._publications.fresh, is_member=lambda: lost is self.entry)
        lost.is_present = False
        self.entry = Entry(media, None)
        self.news.catch_up(self.entry)

    def _fail(self, error: Exception) -> None:
        if self._backoff.fail():
            self.close("the room cannot be joined again", _as_known(error))

    def _recover(self) -> None:
        """Forget the failures when no job is left and media flows, since single failures may recur for ever."""
        if self.entry is None or self.entry.is_lost or self.worker.is_busy or self._next_job() is not None:
            return
        if self.entry.media is None or self.entry.media.is_connected:
            self._backoff.recover()


def _as_known(error: Exception) -> SignalManagerError:
    return error if isinstance(error, SignalManagerError) else SignalManagerError(f"{type(error).__name__}: {error}")
