"""How this process changes the records of rooms and clients in storage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from signal_manager.errors import NotFoundError, SignalManagerError
from signal_manager.model import ClientId, MemberRecord, Room, RoomId, SessionId
from signal_manager.rooms import changes
from signal_manager.rooms.ledger import MediaLedger
from signal_manager.rooms.local_room import LocalRoom
from signal_manager.rooms.persistence import persist
from signal_manager.storage.base import RoomChange, Storage

__all__ = ["RoomRecords"]

log = structlog.get_logger(__name__)

# A leaving member's media is closed at once; this much later (s) the ledger brings up what the SFU did not confirm.
_SECOND_LOOK = 60.0


class RoomRecords:
    """Change records. The caller holds the room's lock and announces the change before it releases the lock.

    Args:
        clock: returns seconds since the epoch.
    """

    def __init__(self, *, storage: Storage, ledger: MediaLedger, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._storage = storage
        self._ledger = ledger

    async def get(self, room_id: RoomId) -> Room | None:
        """Return a room's record."""
        return await self._storage.get_room(room_id)

    async def member(self, room_id: RoomId, client_id: ClientId) -> MemberRecord:
        """Return the record of a client in a room; NotFoundError when it is in no open room of that id."""
        room = await self._storage.get_room(room_id)
        member = changes.find_client(room, client_id) if room is not None and room.is_active else None
        if member is None:
            raise NotFoundError(f"client {client_id} is not in room {room_id}")
        return member

    async def change(self, room_id: RoomId, change: RoomChange) -> Room:
        """Apply a change, and return the changed room.

        Raises:
            NotFoundError: there is no such room, or the change says so.
        """
        return await self._storage.change_room(room_id, change)

    async def repair(self, local: LocalRoom, room_id: RoomId, change: RoomChange, *, is_known: bool) -> Room | None:
        """Apply a change that may have been applied before; None when there is nothing to announce.

        `is_known` says that this process still sees the room without the change. If the record has the change
        nevertheless, an earlier attempt succeeded although it reported an error; return the current room to announce.
        """
        try:
            return await self._storage.change_room(room_id, change)
        except NotFoundError:
            room = await self._storage.get_room(room_id) if is_known else None
            if room is None or local.record is None or not room.is_active or room.sequence <= local.record.sequence:
                return None
            return room

    async def note_client(self, client_id: ClientId, **fields: Any) -> None:
        """Write where a registered client is. Nothing depends on that record, so a failure is only logged."""
        try:
            await self._storage.update_client(client_id, **fields)
        except NotFoundError:
            pass  # it never registered
        except SignalManagerError as error:
            log.warning("client record not updated", client_id=client_id, reason=error.message)

    async def abandon_media(self, session_id: SessionId) -> None:
        """Let the ledger bring up what the SFU has not confirmed to be closed after `_SECOND_LOOK` seconds."""
        await persist(lambda: self._ledger.abandon(session_id, at=self.clock() + _SECOND_LOOK))
