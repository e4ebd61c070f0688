"""The rooms of one process: what the gateway, the housekeeping and operators do with them.

The service stands on the interfaces of storage, bus and media alone (docs/architecture.md, "Rooms").
`entry_requests.py` and `member_requests.py` answer clients' requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import structlog

from signal_manager.background import BackgroundTasks
from signal_manager.bus.base import Messaging
from signal_manager.media.base import WHOLE_SESSION, MediaBackend, MediaSessionId
from signal_manager.media.closing import Closer, Closings
from signal_manager.model import Caller, ClientId, NodeId, RoomId, SessionId
from signal_manager.observe.metrics import Metrics
from signal_manager.rooms import changes
from signal_manager.rooms.checks import check_metadata
from signal_manager.rooms.entry_requests import EntryRequests
from signal_manager.rooms.ice_servers import IceServerBook
from signal_manager.rooms.ledger import MediaLedger
from signal_manager.rooms.member_requests import MemberRequests
from signal_manager.rooms.memberships import Memberships
from signal_manager.rooms.probes import MediaContext
from signal_manager.rooms.settings import STOP_TIMEOUT, RoomSettings
from signal_manager.storage.base import Expired, Storage

__all__ = ["RoomService"]

log = structlog.get_logger(__name__)

# How long (s) one process has to close due media before another process may take it over.
_CLAIM = 120.0


class RoomService:
    """Put everything about rooms together; an async context manager, which ends all memberships on exit.

    Every method raises `UnavailableError` when storage fails.

    Args:
        storage: keeps rooms, which client is in which room, and the ledger.
        bus: reaches members.
        media: the SFU, or None for rooms without media.
        metrics: counts how media sessions end.
        node_id: this process, in records that other processes clean up when it dies.
        closings: remembers what has to be closed at the SFU, and when to try again.
        clock: returns seconds since the epoch.

    Attributes:
        entry: answers requests to create, join and leave rooms.
        members: answers the requests of members.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        bus: Messaging,
        media: MediaBackend | None,
        metrics: Metrics,
        node_id: NodeId,
        settings: RoomSettings | None = None,
        closings: Closings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._settings = settings or RoomSettings()
        self._clock = clock
        self._background = BackgroundTasks()
        self._ice_questions = BackgroundTasks()  # a stopping service does not wait for them
        self._ledger = MediaLedger(storage, node_id=node_id, clock=clock)
        ice_servers = IceServerBook(
            media,
            own=self._settings.turn,
            stun_url=self._settings.stun_url,
            metrics=metrics,
            start=self._ice_questions.start,
            clock=clock,
        )
        self._closer: Closer | None = None
        context: MediaContext | None = None
        if media is not None:
            self._closer = Closer(media, ledger=self._ledger, metrics=metrics, closings=closings)
            context = MediaContext(
                backend=media,
                closer=self._closer,
                metrics=metrics,
                limits=self._settings.limits,
                probing=self._settings.probing,
                start=self._background.start,
            )
        self._memberships = Memberships(
            storage=storage,
            bus=bus,
            ledger=self._ledger,
            context=context,
            background=self._background,
            node_id=node_id,
            clock=clock,
        )
        self.entry = EntryRequests(
            memberships=self._memberships,
            storage=storage,
            ice_servers=ice_servers,
            settings=self._settings,
            has_media=media is not None,
            clock=clock,
        )
        self.members = MemberRequests(memberships=self._memberships, ice_servers=ice_servers, settings=self._settings)
        bus.listen(
            on_news=self._memberships.hear,
            on_reunion=self._memberships.reunite,
            on_gone=self._memberships.absences.node_missed,
        )
        rooms = self._memberships.rooms
        metrics.rooms.read_from(rooms.count_rooms)
        metrics.participants.read_from(rooms.count_members)
        metrics.media_operations_pending.read_from(rooms.count_media_operations)

    async def __aenter__(self) -> Self:
        if self._closer is not None:
            await self._closer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._memberships.leaving.all_sessions_ended("service stopped")
        try:
            async with asyncio.timeout(min(STOP_TIMEOUT, self._settings.stop_timeout)):
                await self._background.done()
                if self._closer is not None:
                    await self._closer.attended()
        except TimeoutError:
            log.warning("rooms not cleaned up in time; the ledger has the rest")
        await self._background.stop()
        await self._ice_questions.stop()
        if self._closer is not None:
            await self._closer.__aexit__(kind, error, traceback)

    async def idle(self) -> None:
        """Wait until all background work is done; the caller sets the time limit."""
        await self._background.done()
        if self._closer is not None:
            await self._closer.drained()

    # -- sessions ------------------------------------------------------------------------------------------------

    def room_of(self, session_id: SessionId) -> RoomId | None:
        """Return the room that a session is in, is joining or is leaving, or None."""
        return self._memberships.rooms.room_of(session_id)

    def others(self, caller: Caller, room_id: str) -> list[ClientId]:
        """Return the other members of a room, for a SIGNAL_MESSAGE; NotFoundError when the caller is not in it."""
        own = caller.identity.client_id
        members = self._memberships.rooms.member(caller, room_id).room.participants
        return [record.client_id for record in members if record.client_id != own]

    def set_away(self, session_id: SessionId, *, is_away: bool) -> None:
        """Note that a session's client has fallen silent, or that it sends again, and tell the members of its room."""
        self._memberships.absences.set_away(session_id, is_away=is_away)

    async def leave_room(self, caller: Caller) -> None:
        """Take a session out of the room that it is in or is joining, if any, for UNREGISTER."""
        await self._memberships.leaving.leave(caller, "left")

    def session_ended(self, caller: Caller, reason: str = "connection lost") -> None:
        """End the membership of a session that has ended, if it has one, in the background.

        Call it again when a request of the session is answered after the session's end; that is safe.
        """
        self._memberships.leaving.session_ended(caller, reason)

    async def empty(self) -> None:
        """Take all members of this process out of their rooms because it is about to stop, and tell them why."""
        await self._memberships.leaving.empty_rooms()

    # -- housekeeping --------------------------------------------------------------------------------------------

    async def close_due_media(self, now: float) -> int:
        """Close the media that is due by the ledger, and return the number of entries."""
        if self._closer is None:
            return 0
        entries = await self._storage.claim_media(now=now, until=now + _CLAIM)
        for entry in entries:
            session_id = MediaSessionId(entry.session_id)
            if entry.mid is None or entry.mid == WHOLE_SESSION:
                self._closer.sweep(session_id)
            else:
                self._closer.close(session_id, [entry.mid])
        return len(entries)

    async def clean_up_after(self, node_id: NodeId) -> None:
        """Take the members of a dead node out of the rooms' records, and have its media closed at the SFU."""
        after: str | None = None
        while True:
            rooms = await self._storage.list_rooms(node_id=node_id, after=after)
            for room in rooms.items:
                for record in room.participants:
                    if record.node_id == node_id:
                        await self._memberships.leaving.remove(room.room_id, record, "connection lost")
            if rooms.next is None:
                break
            after = rooms.next
        await self._ledger.abandon_node(node_id, at=self._clock())

    async def expire(self, now: float) -> Expired:
        """Let storage drop what has expired, and tell the members of rooms that this closes."""
        expired = await self._storage.expire(now=now, keep_closed_for=changes.CLOSED_ROOM_KEPT)
        for room in expired.closed_rooms:
            await self._memberships.leaving.room_expired(room)
        return expired

    # -- operators -----------------------------------------------------------------------------------------------

    async def evict(self, room_id: RoomId, client_id: ClientId) -> None:
        """Take a client out of a room; NotFoundError when it is not in one of that id."""
        await self._memberships.leaving.evict(room_id, client_id)

    async def close(self, room_id: RoomId, reason: str) -> None:
        """Close a room with its members in it.

        Raises:
            NotFoundError, InvalidRequestError: there is no such room, or it is closed already.
        """
        await self._memberships.leaving.close_room(room_id, reason)

    async def describe(self, room_id: RoomId, client_id: ClientId | None, metadata: dict[str, Any]) -> None:
        """Replace the metadata of a room, or of a client in it.

        Raises:
            NotFoundError, InvalidRequestError: there is no such room or client in it, or the room is closed.
            TooLargeError: it exceeds what a member may set.
        """
        check_metadata(metadata)
        if client_id is None:
            await self._memberships.metadata.replace_room(room_id, metadata)
        else:
            await self._memberships.metadata.replace_client(room_id, client_id, metadata)
