"""The ledger of media to close, kept in storage: after a crash another process closes what is left at the SFU.

`media/negotiator.py` and `media/closing.py` write it through `media.base.Ledger`. Rooms schedule entries that no member
uses any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable

from signal_manager.media.base import WHOLE_SESSION, MediaSessionId
from signal_manager.model import ClientId, EntryId, MediaClosing, NodeId, RoomId, SessionId
from signal_manager.storage.base import Storage

__all__ = ["MediaLedger"]


class MediaLedger:
    """Implement `media.base.Ledger` with `Storage`.

    Args:
        node_id: the node that cleans up; entries name it, so that another node can take over after its death.
        clock: returns seconds since the epoch.
        room_id, client_id: the member that causes the entries, for people who read the ledger.
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
        """Return a ledger whose entries name this member."""
        return MediaLedger(
            self._storage, node_id=self._node_id, clock=self._clock, room_id=room_id, client_id=client_id
        )

    async def caused(self, session_id: MediaSessionId, *mids: str) -> None:
        """Record tracks that are about to exist at the SFU, before the SFU is asked."""
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
        """Strike out tracks that the SFU has confirmed to be closed."""
        await self._storage.confirm_media([_entry_id(session_id, mid) for mid in mids])

    async def abandon(self, session_id: SessionId, *, at: float) -> None:
        """Schedule the closing of an unused session, from `at` on (seconds since the epoch)."""
        entries = [entry async for entry in self._entries(session_id=session_id)]
        await self._storage.schedule_media([entry.entry_id for entry in entries], at=at)

    async def abandon_node(self, node_id: NodeId, *, at: float) -> None:
        """Schedule the closing of everything that a node caused, from `at` on (seconds since the epoch)."""
        entries = [entry async for entry in self._entries(node_id=node_id)]
        await self._storage.schedule_media([entry.entry_id for entry in entries], at=at)

    async def _entries(
        self, *, session_id: SessionId | None = None, node_id: NodeId | None = None
    ) -> AsyncIterator[MediaClosing]:
        """Yield entries that are in use; a scheduled entry keeps its time."""
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
    """Return the same id for the same track, so that a second write changes nothing.

    The id is a hash because the SFU and the client choose both words freely, and ids allow only some characters.
    """
    return EntryId(hashlib.sha256(f"{session_id}/{mid}".encode()).hexdigest()[:40])
