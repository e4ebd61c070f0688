"""Announcements: tell other nodes of a room's changes at once, and this process's members in the order of `sequence`.

This process and other nodes make changes. `room_log.py` decides which of them can be told. A change that never
arrives is derived from the room's record.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence

from signal_manager.background import BackgroundTasks
from signal_manager.bus.base import Messaging
from signal_manager.model import NodeId, Room, RoomId
from signal_manager.rooms import changes
from signal_manager.rooms.events import event, tell
from signal_manager.rooms.local_room import LocalRoom, Membership
from signal_manager.rooms.persistence import persist
from signal_manager.rooms.room_log import Change, RoomLog, write_change
from signal_manager.storage.base import Storage

__all__ = ["REMOVED", "Announcements"]

# How long (s) a change waits for an earlier one from another node before this process reads the record instead.
_GAP_PATIENCE = 0.5
# While the first member here joins a room, so many changes from other nodes are kept.
_MOST_EARLY = 200

# The reason of a member that an operator or another node removed (docs/protocol.md, ROOM_EVENT).
REMOVED = "removed"


class Announcements:
    """Tell nodes and members of changes.

    Args:
        on_removed: called with a membership that a change has ended, and the reason.
        on_marked: called with a membership when members are told that it is away (true) or back (false).
    """

    def __init__(
        self,
        *,
        storage: Storage,
        bus: Messaging,
        background: BackgroundTasks,
        node_id: NodeId,
        on_removed: Callable[[Membership, str], object],
        on_marked: Callable[[Membership, bool], object],
    ) -> None:
        self._storage = storage
        self._bus = bus
        self._background = background
        self._node_id = node_id
        self._on_removed = on_removed
        self._on_marked = on_marked

    def settle(self, local: LocalRoom, room: Room, change: Change) -> None:
        """Announce a change of this process to members here and to other nodes. The caller holds the room's lock."""
        affected = room.participants if change.participant is None else (*room.participants, change.participant)
        nodes = {each.node_id for each in affected if each.node_id is not None} - {self._node_id}
        if nodes:
            self._bus.announce(nodes, room.room_id, write_change(change))
        if local.room_log is None and local.members:
            local.room_log = RoomLog(room)
            local.early, early = [], local.early
            for later in early:
                self._tell(local, room.room_id, local.room_log.take(later))
        elif local.room_log is not None:
            # A closed room has no earlier change that is worth waiting for.
            room_log = local.room_log
            self._tell(local, room.room_id, room_log.take(change, room))
            if not room.is_active:
                self._tell(local, room.room_id, room_log.catch_up(room))
        self._mind_gap(local, room.room_id)

    def hear(self, local: LocalRoom, room_id: RoomId, change: Change) -> None:
        """Take in a change that another node has announced."""
        if local.room_log is None:
            if len(local.early) < _MOST_EARLY:
                local.early.append(change)
            return
        self._tell(local, room_id, local.room_log.take(change))
        self._mind_gap(local, room_id)

    def catch_up(self, local: LocalRoom, room_id: RoomId, *, after: float) -> None:
        """Read the room's record if a missing change has not arrived after `after` seconds."""
        if local.is_catching_up:
            return
        local.is_catching_up = True

        async def read() -> None:
            await asyncio.sleep(after)
            local.is_catching_up = False
            room_log = local.room_log
            if room_log is None or (after and not room_log.has_gap):
                return
            room = await self._storage.get_room(room_id)
            if room is not None:
                self._tell(local, room_id, room_log.catch_up(room))
                self._mind_gap(local, room_id)

        async def catch_up() -> None:
            await persist(read)

        self._background.start(catch_up, f"catch up with room {room_id}")

    def _tell(self, local: LocalRoom, room_id: RoomId, due: Sequence[Change]) -> None:
        """Tell the members here of changes, and end the memberships that other nodes have ended."""
        for change in due:
            news = event(room_id, change)
            if change.event == "participant_left" and change.participant is not None:
                local.end_source(change.participant.session_id)
            about = None if change.participant is None else changes.key_of(change.participant)
            for member in tuple(local.members.values()):
                is_about = about is not None and about == member.key
                if change.event == "participant_left" and is_about:
                    member.since = sys.maxsize  # it gets no more events of this room
                    self._on_removed(member, change.reason or REMOVED)
                elif change.sequence > member.since:
                    tell(self._bus, member.client_id, news)
                    if is_about and change.event in {"participant_away", "participant_back"}:
                        self._on_marked(member, change.event == "participant_away")
                    if change.event == "room_closed":
                        self._on_removed(member, REMOVED)

    def _mind_gap(self, local: LocalRoom, room_id: RoomId) -> None:
        if local.room_log is not None and local.room_log.has_gap:
            self.catch_up(local, room_id, after=_GAP_PATIENCE)
