"""Who is in which room: the parts that begin, change and end memberships, put together.

Three rules keep members in step. All changes of a room in this process happen under its lock, and each is announced
before the lock is released. Every node tells its own members, in the order of `sequence` (`announcements.py`). And from
the change that adds a member until its ACK is returned nothing awaits (`joining.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from signal_manager.background import BackgroundTasks
from signal_manager.bus.base import Messaging
from signal_manager.model import NodeId, RoomId
from signal_manager.rooms.absence_reports import AbsenceReports
from signal_manager.rooms.announcements import Announcements
from signal_manager.rooms.joining import Joining
from signal_manager.rooms.leaving import Leaving
from signal_manager.rooms.ledger import MediaLedger
from signal_manager.rooms.local_room import LocalRooms, Membership
from signal_manager.rooms.probes import MediaContext
from signal_manager.rooms.published_tracks import PublishedTracks
from signal_manager.rooms.room_log import read_change
from signal_manager.rooms.room_metadata import RoomMetadata
from signal_manager.rooms.room_records import RoomRecords
from signal_manager.storage.base import Storage

__all__ = ["Memberships"]


class Memberships:
    """Keep the memberships of this process, and the rooms' records in step with them.

    Args:
        context: what members' media need, or None for rooms without media.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        bus: Messaging,
        ledger: MediaLedger,
        context: MediaContext | None,
        background: BackgroundTasks,
        node_id: NodeId,
        clock: Callable[[], float],
    ) -> None:
        self._node_id = node_id
        self.rooms = rooms = LocalRooms()
        records = RoomRecords(storage=storage, ledger=ledger, clock=clock)
        self._announcements = announcements = Announcements(
            storage=storage,
            bus=bus,
            background=background,
            node_id=node_id,
            on_removed=self._removed,
            on_marked=self._marked,
        )
        self.metadata = RoomMetadata(rooms=rooms, records=records, announcements=announcements)
        self.tracks = PublishedTracks(records=records, announcements=announcements, background=background)
        self.absences = AbsenceReports(
            rooms=rooms, records=records, announcements=announcements, background=background, node_id=node_id
        )
        self.leaving = Leaving(
            bus=bus, rooms=rooms, records=records, announcements=announcements, background=background
        )
        self.joining = Joining(
            rooms=rooms,
            records=records,
            announcements=announcements,
            absences=self.absences,
            tracks=self.tracks,
            leaving=self.leaving,
            ledger=ledger,
            context=context,
            node_id=node_id,
        )

    def hear(self, room_id: RoomId, news: bytes) -> None:
        """Take in a change that another node has announced."""
        local = self.rooms.get(room_id)
        change = read_change(news) if local is not None else None
        if local is None or change is None:
            return  # all members here have left meanwhile
        self._announcements.hear(local, room_id, change)

    def reunite(self, node_id: NodeId | None) -> None:
        """Read the records of rooms shared with this node, or with any other, after nodes could not hear each other."""
        for member in tuple(self.rooms.members.values()):
            room = member.local.record
            nodes = {each.node_id for each in room.participants} - {self._node_id} if room is not None else set()
            if nodes if node_id is None else node_id in nodes:
                self._announcements.catch_up(member.local, member.room_id, after=0.0)

    def _removed(self, member: Membership, reason: str) -> None:
        self.leaving.begin(member, reason)

    def _marked(self, member: Membership, is_away: bool) -> None:
        self.absences.correct(member, is_away)
