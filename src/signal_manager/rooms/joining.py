"""Joining: reserve a session for a room, negotiate, then write the member down.

From the change that adds a member until its ACK is returned nothing awaits, so that the ACK leaves before any later
event.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from signal_manager.errors import ConflictError, NotFoundError
from signal_manager.model import Caller, MemberRecord, NodeId, Role, Room, RoomId
from signal_manager.rooms import changes
from signal_manager.rooms.absence_reports import AbsenceReports
from signal_manager.rooms.announcements import Announcements
from signal_manager.rooms.leaving import Leaving
from signal_manager.rooms.ledger import MediaLedger
from signal_manager.rooms.local_room import LocalRooms, Membership
from signal_manager.rooms.member_media import MemberMedia
from signal_manager.rooms.persistence import wait_for
from signal_manager.rooms.probes import MediaContext
from signal_manager.rooms.published_tracks import PublishedTracks
from signal_manager.rooms.room_log import Change
from signal_manager.rooms.room_records import RoomRecords

__all__ = ["Joining"]


class Joining:
    """Begin memberships.

    Args:
        context: what members' media need, or None for rooms without media.
    """

    def __init__(
        self,
        *,
        rooms: LocalRooms,
        records: RoomRecords,
        announcements: Announcements,
        absences: AbsenceReports,
        tracks: PublishedTracks,
        leaving: Leaving,
        ledger: MediaLedger,
        context: MediaContext | None,
        node_id: NodeId,
    ) -> None:
        self._rooms = rooms
        self._records = records
        self._announcements = announcements
        self._absences = absences
        self._tracks = tracks
        self._leaving = leaving
        self._ledger = ledger
        self._context = context
        self._node_id = node_id
        self._generations = itertools.count(1)

    @asynccontextmanager
    async def reserve(
        self, caller: Caller, room_id: RoomId, role: Role, metadata: dict[str, Any]
    ) -> AsyncIterator[Membership]:
        """Reserve a session for this room while it joins. An attempt that fails leaves nothing behind.

        Raises:
            ConflictError: the session is in a room, or is joining one.
        """
        member = self._reserve(caller, room_id, role, metadata)
        try:
            yield member
        except BaseException:
            if not member.is_joined:
                self._leaving.begin(member, "left")
            raise
        finally:
            member.join_finished.set()

    async def room_without_former(self, member: Membership) -> Room | None:
        """Return the room to join, after any former membership of the same client in it has ended.

        A client that lost its connection is often back before its old membership is cleaned up. A client whose node
        has crashed may be back before another node cleans up.

        Raises:
            ConflictError: the client is in the room on another connection.
        """
        async with member.local.lock:  # so that no other request is half-way through joining
            former = member.local.members.get(member.client_id)
            room = await self._records.get(member.room_id)
        if former is not None:
            if former.leaving is None:
                raise ConflictError(f"client {member.client_id} is already in room {member.room_id}")
            await wait_for(former.leaving)
        else:
            stale = changes.find_client(room, member.client_id) if room is not None and room.is_active else None
            if stale is None:
                return room
            await self._leaving.remove(member.room_id, stale, "replaced")
        return await self._records.get(member.room_id)

    async def add(self, member: Membership, enter: Callable[[MemberRecord], Awaitable[Room]]) -> Room:
        """Add a member for whom everything is negotiated, and tell the others.

        The caller must not await anything before it returns the ACK, see the module's docstring.

        Args:
            enter: puts the member into the room's record; its errors pass through.
        """
        record = msgspec.structs.replace(member.record, session_id=member.media_session_id)
        await self._records.note_client(member.client_id, room_id=member.room_id, role=record.role, tracks=())
        async with member.local.lock:
            if member.end_reason is not None:
                raise NotFoundError(f"joining room {member.room_id} was ended: {member.end_reason}")
            if not member.local.members:  # earlier knowledge of the room is out of date
                member.local.room_log, member.local.early = None, []
            room = await enter(record)
            member.local.members[member.client_id] = member
            member.since = room.sequence
            joined = Change(sequence=room.sequence, event="participant_joined", participant=record)
            self._announcements.settle(member.local, room, joined)
        if member.end_reason is not None:  # it ended while the record was written
            self._leaving.begin(member, member.end_reason)
        else:
            if member.media is not None:
                member.media.start()
            self._absences.report(member)
        return room

    def _reserve(self, caller: Caller, room_id: RoomId, role: Role, metadata: dict[str, Any]) -> Membership:
        present = self._rooms.members.get(caller.session_id)
        if present is not None:
            raise ConflictError(f"this session is in room {present.room_id} already, expected it to leave that first")
        client_id = caller.identity.client_id
        record = MemberRecord(
            client_id=client_id,
            role=role,
            metadata=metadata,
            node_id=self._node_id,
            generation=next(self._generations),
            joined_at=self._records.clock(),
        )
        member = Membership(caller, room_id, self._rooms.get_or_create(room_id), record)
        if self._context is not None:
            member.media = MemberMedia(
                self._context,
                self._ledger.on_behalf_of(client_id, room_id),
                label=f"{room_id}/{client_id}",  # an SFU of several workers keeps one room's sessions together by it
                on_sending=lambda tracks: self._tracks.announce_published(member, tracks),
                on_dead=lambda mids: self._tracks.announce_unpublished(member, "media lost", mids),
                on_lost=lambda session_id: self._tracks.media_lost(member, session_id),
            )
        self._rooms.members[caller.session_id] = member
        member.local.present.add(member)
        return member
