"""What clients put on record: capabilities, metadata, and whether they are there.

The dispatcher calls it for REGISTER and UNREGISTER and when a session ends; `records/housekeeping.py` when a whole node
has ended. Relaying never waits for any of this.
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
    """Keep the `clients` records of this node's sessions.

    Args:
        storage: where they are.
        node_id: vouches for the records of clients that are here.
        keeps_records: whether unregistering leaves the record itself, because it is what its client authenticates by.
        offline_ttl: seconds that the record of a client that has gone is kept, unless `keeps_records`.
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
        # Sessions that have a record to update when they end; the others end without a word to storage.
        self._registered: set[SessionId] = set()

    async def register(
        self, caller: Caller, *, capabilities: Sequence[str], metadata: Mapping[str, Any]
    ) -> ClientRecord | None:
        """Write the client's record, or write it anew.

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
            # The session has ended meanwhile, and storage may have been told of that before it was told of this.
            await self._end(caller)
        return record

    async def unregister(self, caller: Caller) -> None:
        """Take the client's record away.

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
        """Note that a session has ended, unless its client has registered from another one since."""
        if caller.session_id not in self._registered:
            return
        self._registered.discard(caller.session_id)
        await self._end(caller)

    def is_registered(self, session_id: SessionId) -> bool:
        """Tell whether a session of this node has a record."""
        return session_id in self._registered

    def disown(self, session_id: SessionId) -> bool:
        """Leave the record of a session that goes on at another node to that; tell whether it has one."""
        is_registered = session_id in self._registered
        self._registered.discard(session_id)
        return is_registered

    async def adopt(self, caller: Caller) -> None:
        """Note that a session of another node, or of an earlier start, goes on here; its client's record says so."""
        now = self._clock()

        def change(record: ClientRecord | None) -> ClientRecord | None:
            if record is None or record.registered_at is None:
                return record  # it was removed
            if record.status == "online" and record.session_id != caller.session_id:
                return record  # its client has registered from another session since
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
        """Note that all sessions of a node that is gone have ended; return how many there were."""
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
    """Tell whether a record is the caller's to change.

    A signed token is a new one each time, and its signature says whose it is; a static one must be the record's own.
    """
    is_signed = caller.identity.expires_at is not None
    return is_signed or not record.auth_token or record.auth_token == caller.token_hash
