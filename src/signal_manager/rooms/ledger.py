"""The ledger of media to close, kept in storage: what a crash interrupts is closed by whoever comes after.

`negotiator.py` and `closing.py` write it through `media.base.Ledger`; the service schedules what nobody uses any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable

from signal_manager.media.base import WHOLE_SESSION, MediaSessionId
from signal_manager.model import ClientId, EntryId, MediaClosing, NodeId, RoomId, SessionId
from signal_manager.storage.base import Storage

__all__ = ["MediaLedger"]


class MediaLedger:
    """Keep `media.base.Ledger`'s promises by means of `Storage`.

    Args:
        node_id: who cleans up: entries carry it, so that another node can take over from this one.
        clock: returns seconds since the epoch.
        room_id, client_id: on whose behalf things are caused; for people who read the ledger.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        node_id: NodeId,
        clock: Callable[[], float],
        room_id: RoomId | None = None,
        client_id: ClientId | None = None,
    ) -> None:
        self._storage = storage
        self._node_id = node_id
        self._clock = clock
        self._room_id = room_id
        self._client_id = client_id

    def on_behalf_of(self, client_id: ClientId, room_id: RoomId) -> MediaLedger:
        """Return the same ledger for what this member causes."""
        return MediaLedger(
            self._storage, node_id=self._node_id, clock=self._clock, room_id=room_id, client_id=client_id
        )

    async def caused(self, session_id: MediaSessionId, *mids: str) -> None:
        """See `media.base.Ledger`."""
        now = self._clock()
        await self._storage.add_media(
            *(
                MediaClosing(
                    entry_id=_entry_id(session_id, mid),
                    session_id=SessionId(session_id),
                    mid=None if mid == WHOLE_SESSION else mid,
                    room_id=self._room_id,
                    client_id=self._client_id,
                    node_id=self._node_id,
                    created_at=now,
                )
                for mid in mids
            )
        )

    async def closed(self, session_id: MediaSessionId, *mids: str) -> None:
        """See `media.base.Ledger`."""
        await self._storage.confirm_media([_entry_id(session_id, mid) for mid in mids])

    async def abandon(self, session_id: SessionId, *, at: float) -> None:
        """Have everything of a session that nobody uses any more closed from `at` on (seconds since the epoch)."""
        entries = [entry async for entry in self._entries(session_id=session_id)]
        await self._storage.schedule_media([entry.entry_id for entry in entries], at=at)

    async def abandon_node(self, node_id: NodeId, *, at: float) -> None:
        """Have everything that a node caused closed from `at` on (seconds since the epoch)."""
        entries = [entry async for entry in self._entries(node_id=node_id)]
        await self._storage.schedule_media([entry.entry_id for entry in entries], at=at)

    async def _entries(
        self, *, session_id: SessionId | None = None, node_id: NodeId | None = None
    ) -> AsyncIterator[MediaClosing]:
        """Give what is in use; what is scheduled already keeps its time."""
        after: str | None = None
        while True:
            page = await self._storage.list_media(session_id=session_id, node_id=node_id, after=after)
            for entry in page.items:
                if entry.next_attempt_at is None:
                    yield entry
            if page.next is None:
                return
            after = page.next


def _entry_id(session_id: str, mid: str) -> EntryId:
    """Return the same id for the same thing, so that writing it twice is writing it once.

    A hash, because the SFU and the client choose these words, and ids have their rule.
    """
    return EntryId(hashlib.sha256(f"{session_id}/{mid}".encode()).hexdigest()[:40])
