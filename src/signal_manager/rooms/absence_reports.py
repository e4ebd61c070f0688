"""Absence: tell a room that a member is away, or back, at a bounded rate (`absence.py`)."""

from __future__ import annotations

import asyncio

from signal_manager.background import BackgroundTasks
from signal_manager.model import NodeId, RoomId, SessionId
from signal_manager.rooms import changes
from signal_manager.rooms.announcements import Announcements
from signal_manager.rooms.changes import MemberKey
from signal_manager.rooms.local_room import LocalRoom, LocalRooms, Membership
from signal_manager.rooms.persistence import persist
from signal_manager.rooms.room_log import Change, Happening
from signal_manager.rooms.room_records import RoomRecords

__all__ = ["AbsenceReports"]


class AbsenceReports:
    """Report the absence of this process's members, and of the members of a node that is missed."""

    def __init__(
        self,
        *,
        rooms: LocalRooms,
        records: RoomRecords,
        announcements: Announcements,
        background: BackgroundTasks,
        node_id: NodeId,
    ) -> None:
        self._rooms = rooms
        self._records = records
        self._announcements = announcements
        self._background = background
        self._node_id = node_id

    def set_away(self, session_id: SessionId, *, is_away: bool) -> None:
        """Note that a session's client has fallen silent, or that it sends again, and report it."""
        member = self._rooms.members.get(session_id)
        if member is not None:
            if member.absence.is_away and not is_away and member.media is not None:
                member.media.health.check_now()  # its tracks may have died meanwhile
            member.absence.is_away = is_away
            self.report(member)

    def report(self, member: Membership) -> None:
        """Tell the room in the background whether a member is away; joining and leaving come first."""
        absence, loop = member.absence, asyncio.get_running_loop()
        if not member.is_joined or member.is_reporting_absence or absence.is_settled:
            return
        member.is_reporting_absence = True
        wait = absence.wait(loop.time())
        if wait:
            loop.call_later(wait, self._report_again, member)
        else:
            self._background.start(lambda: self._tell(member), f"absence in {member.room_id}")

    def correct(self, member: Membership, is_away: bool) -> None:
        """Correct what another node has announced about a member of this process, which it took to be away."""
        member.absence.told = is_away
        self.report(member)

    def node_missed(self, node_id: NodeId) -> None:
        """Tell rooms that the members of a silent node are away; that node leaves later, or says that it is back.

        Every other node in a room would do so; the first one by name does.
        """
        for room_id, local in self._rooms.all():
            room = local.record
            nodes = {each.node_id for each in room.participants if each.node_id} if room is not None else set()
            if room is None or min(nodes - {node_id}, default=None) != self._node_id:
                continue
            for record in room.participants:
                if record.node_id == node_id and not record.away:
                    self._report_missed(local, room_id, changes.key_of(record))

    def _report_missed(self, local: LocalRoom, room_id: RoomId, key: MemberKey) -> None:
        async def work() -> None:
            await persist(lambda: self._write(local, room_id, key, is_away=True))

        self._background.start(work, f"member of a node that is missed in {room_id}")

    def _report_again(self, member: Membership) -> None:
        member.is_reporting_absence = False
        self.report(member)

    async def _tell(self, member: Membership) -> None:
        is_away = member.absence.tell(asyncio.get_running_loop().time())
        try:
            await persist(lambda: self._write(member.local, member.room_id, member.key, is_away=is_away))
        finally:
            self._report_again(member)  # it may have changed meanwhile

    async def _write(self, local: LocalRoom, room_id: RoomId, key: MemberKey, *, is_away: bool) -> None:
        async with local.lock:
            known = local.find(key)
            change = changes.with_absence(key, away=is_away, now=self._records.clock())
            is_known = known is not None and known.away is not is_away
            room = await self._records.repair(local, room_id, change, is_known=is_known)
            record = changes.find(room, key) if room is not None else None
            if room is None or record is None or record.away is not is_away:
                return  # it has left, or another node was faster
            event: Happening = "participant_away" if is_away else "participant_back"
            self._announcements.settle(local, room, Change(sequence=room.sequence, event=event, participant=record))
