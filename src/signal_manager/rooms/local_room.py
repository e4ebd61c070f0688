"""What this process knows of a room and of each membership in it.

Memberships begin and end in `memberships.py`; what the room's record says is kept up to date by `announcements.py`.
"""

from __future__ import annotations

import asyncio

from signal_manager.errors import NotFoundError
from signal_manager.model import Caller, ClientId, Participant, Room, RoomId, SessionId
from signal_manager.rooms import changes as membership
from signal_manager.rooms.absence import Absence
from signal_manager.rooms.changes import MemberKey
from signal_manager.rooms.member_media import MemberMedia
from signal_manager.rooms.room_log import Change, RoomLog

__all__ = ["LocalRoom", "Membership"]


class LocalRoom:
    """A room that has members in this process, or is about to have, or to be changed by it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.creation = asyncio.Lock()  # held by whoever makes the room, so that others do not negotiate in vain
        self.room_log: RoomLog | None = None  # from the first member on
        self.members: dict[ClientId, Membership] = {}
        self.present: set[Membership] = set()  # members, and those coming in
        self.early: list[Change] = []  # what other nodes said while the first member was coming in
        self.is_catching_up = False

    @property
    def record(self) -> Room | None:
        """The room, as far as this process knows."""
        return self.room_log.latest if self.room_log is not None else None

    def find(self, key: MemberKey) -> Participant | None:
        """Return a participant as this process knows it."""
        return membership.find(self.record, key) if self.record is not None else None

    def end_source(self, session_id: SessionId | None) -> None:
        """Let nobody in the room wait for tracks of a media session that has ended."""
        if session_id is None:
            return
        for other in self.present:
            if other.media is not None:
                other.media.source_gone(session_id)


class Membership:
    """One session's membership in a room, from the request to come in until everything is cleaned up."""

    def __init__(self, caller: Caller, room_id: RoomId, local: LocalRoom, participant: Participant) -> None:
        self.caller = caller
        self.room_id = room_id
        self.local = local
        self.participant = participant  # as it came in; what has changed since is in the room's record
        self.key = membership.key_of(participant)
        self.since = 0  # the room's sequence when it came in: its ACK tells of everything up to that
        self.media: MemberMedia | None = None
        self.ended: str | None = None  # why, perhaps while it was still coming in: its connection was lost, or it left
        self.entered = asyncio.Event()  # set when coming in has worked, or has failed
        self.absence = Absence()
        self.is_reporting = False  # whether a task is telling the room of its absence
        self.parting: asyncio.Task[None] | None = None

    @property
    def client_id(self) -> ClientId:
        """Whose membership this is."""
        return self.participant.client_id

    @property
    def is_in(self) -> bool:
        """Whether it has come in and not begun to leave."""
        return self.parting is None and self.local.members.get(self.client_id) is self

    @property
    def media_session_id(self) -> SessionId | None:
        """The member's own session at the SFU."""
        return self.media.session_id if self.media is not None else None

    @property
    def room(self) -> Room:
        """The room as it was last announced."""
        record = self.local.record
        if record is None:  # pragma: no cover - whoever is in was let in by a change
            raise NotFoundError(f"not in room {self.room_id}")
        return record
