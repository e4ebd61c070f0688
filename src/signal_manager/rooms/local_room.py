"""What this process knows of its rooms and of each membership in them.

Memberships begin in `joining.py` and end in `leaving.py`. `announcements.py` keeps the rooms' records up to date.
"""

from __future__ import annotations

import asyncio
import weakref

from signal_manager.errors import NotFoundError
from signal_manager.model import Caller, ClientId, MemberRecord, Room, RoomId, SessionId
from signal_manager.rooms import changes
from signal_manager.rooms.absence import Absence
from signal_manager.rooms.changes import MemberKey
from signal_manager.rooms.member_media import MemberMedia
from signal_manager.rooms.room_log import Change, RoomLog

__all__ = ["LocalRoom", "LocalRooms", "Membership"]


class LocalRoom:
    """A room with members in this process, or one that this process is about to change."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.creation = (
            asyncio.Lock()
        )  # held by the request that makes the room, so that others do not negotiate in vain
        self.room_log: RoomLog | None = None  # from the first member on
        self.members: dict[ClientId, Membership] = {}
        self.present: set[Membership] = set()  # members, and clients that are joining
        self.early: list[Change] = []  # other nodes' changes that arrived while the first member was joining
        self.is_catching_up = False

    @property
    def record(self) -> Room | None:
        """The room, as far as this process knows."""
        return self.room_log.latest if self.room_log is not None else None

    def find(self, key: MemberKey) -> MemberRecord | None:
        """Return a member as this process knows it."""
        return changes.find(self.record, key) if self.record is not None else None

    def end_source(self, session_id: SessionId | None) -> None:
        """Tell every member that a media session has ended, so that none waits for its tracks."""
        if session_id is None:
            return
        for other in self.present:
            if other.media is not None:
                other.media.source_gone(session_id)


class Membership:
    """One session's membership in a room, from the request to join to the end of all cleaning up."""

    def __init__(self, caller: Caller, room_id: RoomId, local: LocalRoom, record: MemberRecord) -> None:
        self.caller = caller
        self.room_id = room_id
        self.local = local
        self.record = record  # as it joined; the room's record has later changes
        self.key = changes.key_of(record)
        self.since = 0  # the room's sequence at joining: the ACK reports everything up to it
        self.media: MemberMedia | None = None
        self.end_reason: str | None = None  # set when the session ends or leaves, perhaps while it is still joining
        self.join_finished = asyncio.Event()  # set when joining succeeds or fails
        self.absence = Absence()
        self.is_reporting_absence = False  # whether a task is telling the room of its absence
        self.leaving: asyncio.Task[None] | None = None

    @property
    def client_id(self) -> ClientId:
        """The client that is the member."""
        return self.record.client_id

    @property
    def is_joined(self) -> bool:
        """Whether it has joined and has not begun to leave."""
        return self.leaving is None and self.local.members.get(self.client_id) is self

    @property
    def media_session_id(self) -> SessionId | None:
        """The member's own session at the SFU."""
        return self.media.session_id if self.media is not None else None

    @property
    def room(self) -> Room:
        """The room as it was last announced."""
        record = self.local.record
        if record is None:  # pragma: no cover - joining sets the record
            raise NotFoundError(f"not in room {self.room_id}")
        return record


class LocalRooms:
    """The rooms and the memberships of this process."""

    def __init__(self) -> None:
        self.members: dict[SessionId, Membership] = {}
        # A room stays while a member or a change under way refers to it.
        self._rooms: weakref.WeakValueDictionary[RoomId, LocalRoom] = weakref.WeakValueDictionary()

    def get(self, room_id: RoomId) -> LocalRoom | None:
        """Return a room that this process knows."""
        return self._rooms.get(room_id)

    def get_or_create(self, room_id: RoomId) -> LocalRoom:
        """Return a room. The caller keeps the reference for as long as it needs the room."""
        local = self._rooms.get(room_id)
        if local is None:
            local = self._rooms[room_id] = LocalRoom()
        return local

    def all(self) -> tuple[tuple[RoomId, LocalRoom], ...]:
        """Return all rooms that this process knows."""
        return tuple(self._rooms.items())

    def room_of(self, session_id: SessionId) -> RoomId | None:
        """Return the room that a session is in, is joining or is leaving."""
        member = self.members.get(session_id)
        return member.room_id if member is not None else None

    def member(self, caller: Caller, room_id: str) -> Membership:
        """Return a session's membership in this room; NotFoundError when there is none."""
        member = self.members.get(caller.session_id)
        if member is None or member.room_id != room_id or not member.is_joined:
            raise NotFoundError(f"not in room {room_id}")
        return member

    def count_members(self) -> int:
        """Return the number of memberships in this process."""
        return len(self.members)

    def count_rooms(self) -> int:
        """Return the number of rooms with a member in this process."""
        return len({member.room_id for member in self.members.values()})

    def count_media_operations(self) -> int:
        """Return the number of members' operations that wait for the SFU or for each other."""
        return sum(member.media.pending for member in self.members.values() if member.media is not None)
