"""The records that clients store with REGISTER: capabilities, metadata and status.

The dispatcher calls it for REGISTER and UNREGISTER and at the end of a session; `housekeeping.py` calls it for a node
that is gone. Relaying never waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from signal_manager.errors import ConflictError, NotFoundError
from signal_manager.model import Caller, ClientId, ClientRecord, NodeId, SessionId
from signal_manager.storage.base import Storage

__all__ = ["Registrations"]


class Registrations:
    """Keeps the `clients` records of this node's sessions.

    Args:
        storage: the store of the records.
        node_id: this node, whose lease covers the records of its clients.
        keeps_records: whether UNREGISTER keeps the record itself, because the client authenticates by it.
        offline_ttl: seconds that the record of an offline client is kept, unless `keeps_records`.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        node_id: NodeId,
        keeps_records: bool = False,
        offline_ttl: float = 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._node_id = node_id
        self._keeps_records = keeps_records
        self._offline_ttl = offline_ttl
        self._clock = clock
        # Sessions that have a record to update at their end; the others end without a write.
        self._registered: set[SessionId] = set()

    async def register(
        self, caller: Caller, *, capabilities: Sequence[str], metadata: Mapping[str, Any]
    ) -> ClientRecord | None:
        """Write or replace the client's record.

        Raises:
            ConflictError: the record belongs to another token.
        """
        now = self._clock()

        def change(record: ClientRecord | None) -> ClientRecord:
            record = record or ClientRecord(client_id=caller.identity.client_id, auth_token=caller.token_hash)
            if not _is_owner(caller, record):
                raise ConflictError("this client id is registered with another token")
            return msgspec.structs.replace(
                record,
                auth_token=record.auth_token if self._keeps_records else caller.token_hash,
                session_id=caller.session_id,
                capabilities=tuple(capabilities),
                metadata=dict(metadata),
                status="online",
                registered_at=now,
                last_seen_at=now,
                expires_at=None,
                node_id=self._node_id,
            )

        self._registered.add(caller.session_id)
        record = await self._storage.change_client(caller.identity.client_id, change)
        if caller.session_id not in self._registered:
            # The session has ended meanwhile, and storage may have handled its end before this write.
            await self._end(caller)
        return record

    async def unregister(self, caller: Caller) -> None:
        """Remove the client's record.

        Raises:
            NotFoundError: the client is not registered.
            ConflictError: the record belongs to another token.
        """

        def change(record: ClientRecord | None) -> ClientRecord | None:
            if record is None or record.registered_at is None:
                raise NotFoundError("this client is not registered")
            if not _is_owner(caller, record):
                raise ConflictError("this client id is registered with another token")
            if not self._keeps_records:
                return None
            return ClientRecord(client_id=record.client_id, auth_token=record.auth_token)

        await self._storage.change_client(caller.identity.client_id, change)
        self._registered.discard(caller.session_id)

    async def end_session(self, caller: Caller) -> None:
        """Mark the record of an ended session as offline, unless its client has another session since."""
        if caller.session_id not in self._registered:
            return
        self._registered.discard(caller.session_id)
        await self._end(caller)

    def is_registered(self, session_id: SessionId) -> bool:
        """Tell whether a session of this node has a record."""
        return session_id in self._registered

    def disown(self, session_id: SessionId) -> bool:
        """Leave the record of a session that moves to another node to that node; return whether there is one."""
        is_registered = session_id in self._registered
        self._registered.discard(session_id)
        return is_registered

    async def adopt(self, caller: Caller) -> None:
        """Assign the client's record to this node, for a session of another node or of an earlier start."""
        now = self._clock()

        def change(record: ClientRecord | None) -> ClientRecord | None:
            if record is None or record.registered_at is None:
                return record  # the record was removed
            if record.status == "online" and record.session_id != caller.session_id:
                return record  # the client has registered from another session since
            return msgspec.structs.replace(
                record,
                session_id=caller.session_id,
                status="online",
                last_seen_at=now,
                expires_at=None,
                node_id=self._node_id,
            )

        self._registered.add(caller.session_id)
        await self._storage.change_client(caller.identity.client_id, change)

    async def end_node(self, node_id: NodeId) -> int:
        """Mark all clients of a node that is gone as offline; return how many there were."""
        ended, after = 0, None
        while True:
            page = await self._storage.list_clients(node_id=node_id, after=after)
            for record in page.items:
                await self._go_offline(record.client_id, lambda current: current.node_id == node_id)
                ended += 1
            after = page.next
            if after is None:
                return ended

    async def _end(self, caller: Caller) -> None:
        await self._go_offline(caller.identity.client_id, lambda record: record.session_id == caller.session_id)

    async def _go_offline(self, client_id: ClientId, applies: Callable[[ClientRecord], bool]) -> None:
        now = self._clock()

        def change(record: ClientRecord | None) -> ClientRecord | None:
            if record is None or not applies(record):
                return record
            return msgspec.structs.replace(
                record,
                session_id=None,
                room_id=None,
                role=None,
                status="offline",
                last_seen_at=now,
                expires_at=None if self._keeps_records else now + self._offline_ttl,
                node_id=None,
            )

        await self._storage.change_client(client_id, change)


def _is_owner(caller: Caller, record: ClientRecord) -> bool:
    """Tell whether the caller may change a record.

    A signed token differs each time, and its signature proves the client. A static token must be that of the record.
    """
    is_signed = caller.identity.expires_at is not None
    return is_signed or not record.auth_token or record.auth_token == caller.token_hash
