"""Metadata of rooms and members: replace it and tell the members."""

from __future__ import annotations

from typing import Any

from signal_manager.model import ClientId, RoomId
from signal_manager.rooms import changes
from signal_manager.rooms.announcements import Announcements
from signal_manager.rooms.changes import MemberKey
from signal_manager.rooms.local_room import LocalRoom, LocalRooms, Membership
from signal_manager.rooms.room_log import Change
from signal_manager.rooms.room_records import RoomRecords

__all__ = ["RoomMetadata"]


class RoomMetadata:
    """Replace metadata."""

    def __init__(self, *, rooms: LocalRooms, records: RoomRecords, announcements: Announcements) -> None:
        self._rooms = rooms
        self._records = records
        self._announcements = announcements

    async def replace_own(self, member: Membership, metadata: dict[str, Any]) -> int:
        """Replace a member's metadata, tell the room, and return the room's sequence."""
        return await self._replace(member.local, member.room_id, member.key, metadata)

    async def replace_client(self, room_id: RoomId, client_id: ClientId, metadata: dict[str, Any]) -> None:
        """Replace the metadata of a client on any node; NotFoundError when it is not in such a room."""
        member = await self._records.member(room_id, client_id)
        await self._replace(self._rooms.get_or_create(room_id), room_id, changes.key_of(member), metadata)

    async def replace_room(self, room_id: RoomId, metadata: dict[str, Any]) -> int:
        """Replace a room's metadata, tell its members, and return its sequence.

        Raises:
            NotFoundError, InvalidRequestError: there is no such room, or it is closed.
        """
        local = self._rooms.get_or_create(room_id)
        async with local.lock:
            room = await self._records.change(room_id, changes.with_room_metadata(metadata, now=self._records.clock()))
            changed = Change(sequence=room.sequence, event="metadata_changed", metadata=room.metadata)
            self._announcements.settle(local, room, changed)
        return room.sequence

    async def _replace(self, local: LocalRoom, room_id: RoomId, key: MemberKey, metadata: dict[str, Any]) -> int:
        async with local.lock:
            change = changes.with_metadata(key, metadata, now=self._records.clock())
            room = await self._records.change(room_id, change)
            changed = Change(sequence=room.sequence, event="metadata_changed", participant=changes.find(room, key))
            self._announcements.settle(local, room, changed)
        return room.sequence
