"""Leaving: the one way in which every membership ends, for any reason."""

from __future__ import annotations

import asyncio

import structlog

from signal_manager.background import BackgroundTasks
from signal_manager.bus.base import Messaging
from signal_manager.errors import SignalManagerError
from signal_manager.model import Caller, ClientId, MemberRecord, Room, RoomId
from signal_manager.rooms import changes
from signal_manager.rooms.announcements import REMOVED, Announcements
from signal_manager.rooms.events import event, tell
from signal_manager.rooms.local_room import LocalRoom, LocalRooms, Membership
from signal_manager.rooms.persistence import persist, wait_for
from signal_manager.rooms.room_log import Change
from signal_manager.rooms.room_records import RoomRecords
from signal_manager.storage.base import ClientFields

__all__ = ["Leaving"]

log = structlog.get_logger(__name__)

# A stopping process empties so many rooms at the same time.
_EMPTIED_AT_ONCE = 50

# Why a member left when its process stops (docs/protocol.md, ROOM_EVENT).
_RESTARTING = "restarting"
# The fields of a client's record when the client is in no room.
_IN_NO_ROOM: ClientFields = {"room_id": None, "role": None, "tracks": ()}


class Leaving:
    """End memberships, and take members out of the rooms' records."""

    def __init__(
        self,
        *,
        bus: Messaging,
        rooms: LocalRooms,
        records: RoomRecords,
        announcements: Announcements,
        background: BackgroundTasks,
    ) -> None:
        self._bus = bus
        self._rooms = rooms
        self._records = records
        self._announcements = announcements
        self._background = background

    # -- one member ----------------------------------------------------------------------------------------------

    def session_ended(self, caller: Caller, reason: str) -> None:
        """End the membership of a session that has ended, if it has one, in the background."""
        member = self._rooms.members.get(caller.session_id)
        if member is not None:
            self._end(member, reason)

    def all_sessions_ended(self, reason: str) -> None:
        """End all memberships of this process in the background."""
        for member in tuple(self._rooms.members.values()):
            self.session_ended(member.caller, reason)

    async def leave(self, caller: Caller, reason: str) -> None:
        """Take a session out of the room that it is in or is joining; UnavailableError when that takes too long."""
        member = self._rooms.members.get(caller.session_id)
        if member is None:
            return
        self._end(member, reason)
        if member.leaving is None:
            await member.join_finished.wait()
        if member.leaving is not None:
            await wait_for(member.leaving)

    async def evict(self, room_id: RoomId, client_id: ClientId) -> None:
        """Take a client out of a room on an operator's request, and tell the client.

        Raises:
            NotFoundError: it is not in such a room.
            UnavailableError: that takes too long; it goes on.
        """
        record = await self._records.member(room_id, client_id)
        member = self._rooms.get_or_create(room_id).members.get(client_id)
        if member is None:  # it is on another node, or on one that has died
            await self.remove(room_id, record, REMOVED)
        else:
            await wait_for(self.begin(member, REMOVED))

    def begin(self, member: Membership, reason: str) -> asyncio.Task[None]:
        """End a membership, and return the task that cleans up. A second call returns the same task."""
        if member.leaving is None:
            del self._rooms.members[member.caller.session_id]
            member.local.present.discard(member)
            if member.media is not None:
                member.media.close()
            member.local.end_source(member.media_session_id)
            member.leaving = self._background.start(lambda: self._clean_up(member, reason), f"leave {member.room_id}")
        return member.leaving

    async def remove(self, room_id: RoomId, record: MemberRecord, reason: str) -> None:
        """Take a member out of a room and tell those who stay; do nothing if it has left already."""
        local = self._rooms.get_or_create(room_id)
        key = changes.key_of(record)
        async with local.lock:
            known = local.find(key)
            change = changes.without_member(key, now=self._records.clock())
            room = await self._records.repair(local, room_id, change, is_known=known is not None)
            if room is not None:
                local.end_source(record.session_id)
                record = known or record
                left = Change(sequence=room.sequence, event="participant_left", participant=record, reason=reason)
                self._announcements.settle(local, room, left)
                if reason in {REMOVED, _RESTARTING}:  # a member that left by itself knows
                    tell(self._bus, record.client_id, event(room_id, left))

    def _end(self, member: Membership, reason: str) -> None:
        member.end_reason = member.end_reason or reason
        if member.is_joined:
            self.begin(member, reason)
        elif member.media is not None:
            member.media.close()  # this refuses what joining waits for, and so ends the attempt

    async def _clean_up(self, member: Membership, reason: str) -> None:
        members = member.local.members
        try:
            await persist(lambda: self.remove(member.room_id, member.record, reason))
        finally:
            if members.get(member.client_id) is member:
                del members[member.client_id]
        if member.client_id not in members:
            await self._records.note_client(member.client_id, **_IN_NO_ROOM)
        session_id = member.media_session_id
        if session_id is not None:
            await self._records.abandon_media(session_id)

    # -- whole rooms ---------------------------------------------------------------------------------------------

    async def close_room(self, room_id: RoomId, reason: str) -> None:
        """Close a room with its members in it.

        Raises:
            NotFoundError, InvalidRequestError: there is no such room, or it is closed already.
        """
        local = self._rooms.get_or_create(room_id)
        async with local.lock:
            room = await self._records.change(room_id, changes.closed(reason, now=self._records.clock()))
            self._end_room(local, room)

    async def room_expired(self, room: Room) -> None:
        """Tell the members of a room that storage has closed, and end their memberships."""
        local = self._rooms.get_or_create(room.room_id)
        async with local.lock:
            self._end_room(local, room)

    async def empty_rooms(self) -> None:
        """Take all members of this process out of their rooms because it stops, and tell them.

        A room without members on other nodes is closed in one step and with one event, rather than member by member.
        """
        rooms = {member.room_id: member.local for member in self._rooms.members.values() if member.is_joined}
        places = asyncio.Semaphore(_EMPTIED_AT_ONCE)

        async def empty(room_id: RoomId, local: LocalRoom) -> None:
            async with places:
                try:
                    await self._empty(room_id, local)
                except SignalManagerError as error:
                    log.warning("room not vacated", room_id=room_id, reason=error.message)

        await asyncio.gather(*(empty(room_id, local) for room_id, local in rooms.items()))

    async def _empty(self, room_id: RoomId, local: LocalRoom) -> None:
        here = {member.key for member in local.members.values()}
        present = local.record.participants if local.record is not None else ()
        if all(changes.key_of(record) in here for record in present):
            await self.close_room(room_id, _RESTARTING)
            return
        for member in tuple(local.members.values()):
            await wait_for(self.begin(member, _RESTARTING))

    def _end_room(self, local: LocalRoom, room: Room) -> None:
        """Tell members that their room is closed, and end their memberships. The caller holds the room's lock."""
        closed = Change(sequence=room.sequence, event="room_closed", reason=room.close_reason)
        self._announcements.settle(local, room, closed)
        for member in tuple(local.members.values()):
            self.begin(member, REMOVED)
