"""Implements the promises of `base.Storage` once, over five operations on documents that each adapter brings.

Room changes, claims and expiry are defined here, so they work alike in every store. An adapter only keeps documents
(`documents.py`); `operations.py` checks and bounds requests to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar, Unpack

import msgspec

from signal_manager.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
)
from signal_manager.model import (
    ClientId,
    ClientRecord,
    EntryId,
    MediaClosing,
    NodeId,
    NodeLease,
    Room,
    RoomId,
    SavedSession,
    SessionId,
    hash_token,
    is_token_hash,
    is_valid_name,
)
from signal_manager.storage.base import (
    DEFAULT_PAGE,
    MAX_PAGE,
    ClientChange,
    ClientFields,
    Expired,
    Page,
    RoomChange,
)
from signal_manager.storage.documents import (
    CLIENTS,
    MEDIA,
    NODES,
    ROOMS,
    SESSIONS,
    Changed,
    Condition,
    Equals,
    HasMemberOn,
    Kind,
    RecordT,
    UpTo,
)
from signal_manager.storage.operations import DocumentStorage

__all__ = ["RecordStorage", "with_hashed_token"]

T = TypeVar("T")

# One write of saved sessions stays below what Firestore (10 MiB) and its emulator (4 MiB) take in a request.
SAVE_BYTES = 2 * 1024 * 1024
SAVE_RECORDS = 100
# Records of a batch in progress at once: enough to share commits, few enough to leave other callers a turn.
PARALLEL = 50


class RecordStorage(DocumentStorage):
    """Base class of adapters: implements `base.Storage` over the operations of `DocumentStorage`.

    Large because it has one method for each promise of `base.Storage`, most of them a few lines long.
    """

    # Clients

    async def create_client(self, record: ClientRecord) -> None:
        """Add a client; raise `ConflictError` if its id is taken."""
        hashed = with_hashed_token(record)

        def change(present: ClientRecord | None) -> ClientRecord:
            if present is not None:
                raise ConflictError(f"client {record.client_id} exists already")
            return hashed

        await self._apply(CLIENTS, record.client_id, change)

    async def put_client(self, record: ClientRecord) -> None:
        """Write a client and replace any record with its id."""
        await self._put(CLIENTS, [with_hashed_token(record)])

    async def get_client(self, client_id: ClientId) -> ClientRecord | None:
        """Return a client, or None if there is no record of it."""
        return await self._get(CLIENTS, client_id)

    async def update_client(self, client_id: ClientId, **fields: Unpack[ClientFields]) -> ClientRecord:
        """Replace the named fields and return the new record; raise `NotFoundError` if there is none."""

        def change(present: ClientRecord | None) -> ClientRecord:
            if present is None:
                raise NotFoundError(f"there is no client {client_id}")
            return with_hashed_token(msgspec.structs.replace(present, **fields))

        changed = await self._apply(CLIENTS, client_id, change)
        assert changed.after is not None  # noqa: S101 - for the type checker: `change` never returns None
        return changed.after

    async def change_client(self, client_id: ClientId, change: ClientChange) -> ClientRecord | None:
        """Apply a function to a client's record in one atomic step and return the result."""

        def apply(present: ClientRecord | None) -> ClientRecord | None:
            wanted = change(present)
            return None if wanted is None else with_hashed_token(wanted)

        return (await self._apply(CLIENTS, client_id, apply)).after

    async def delete_client(self, client_id: ClientId) -> None:
        """Remove a client's record, if there is one."""
        await self._delete(CLIENTS, [client_id])

    async def list_clients(
        self, *, node_id: NodeId | None = None, after: str | None = None, limit: int = DEFAULT_PAGE
    ) -> Page[ClientRecord]:
        """Return a page of all clients, or of those of one node."""
        return await self._list(CLIENTS, None if node_id is None else Equals("node_id", node_id), after, limit)

    # Rooms

    async def create_room(self, room: Room) -> Room:
        """Add an active room and return it as stored; raise `ConflictError` if an active room has its id."""

        def change(present: Room | None) -> Room:
            if present is not None and present.is_active:
                raise ConflictError(f"room {room.room_id} exists already")
            return msgspec.structs.replace(room, sequence=1 if present is None else present.sequence + 1)

        changed = await self._apply(ROOMS, room.room_id, change)
        assert changed.after is not None  # noqa: S101 - for the type checker: `change` never returns None
        return changed.after

    async def put_room(self, room: Room) -> None:
        """Write a room with its `sequence` and replace any record with its id."""
        await self._put(ROOMS, [room])

    async def get_room(self, room_id: RoomId) -> Room | None:
        """Return a room, or None if there is no record of it."""
        return await self._get(ROOMS, room_id)

    async def list_rooms(
        self,
        *,
        is_active: bool | None = None,
        node_id: NodeId | None = None,
        after: str | None = None,
        limit: int = DEFAULT_PAGE,
    ) -> Page[Room]:
        """Return a page of rooms, filtered by activity or by node."""
        if node_id is not None:
            if is_active is False:
                return Page((), None)
            return await self._list(ROOMS, HasMemberOn(node_id), after, limit)
        return await self._list(ROOMS, None if is_active is None else Equals("is_active", is_active), after, limit)

    async def change_room(self, room_id: RoomId, change: RoomChange) -> Room:
        """Apply a function to a room in one atomic step that raises `sequence` by one."""

        def apply(present: Room | None) -> Room:
            if present is None:
                raise NotFoundError(f"there is no room {room_id}")
            wanted = change(present)
            return present if wanted is None or wanted == present else _next(present, wanted)

        changed = await self._apply(ROOMS, room_id, apply)
        assert changed.after is not None  # noqa: S101 - for the type checker: `apply` never returns None
        return changed.after

    async def delete_room(self, room_id: RoomId) -> None:
        """Remove a room's record, if there is one."""
        await self._delete(ROOMS, [room_id])

    # The ledger of media to close

    async def add_media(self, *entries: MediaClosing) -> None:
        """Write ledger entries, all or none."""
        await self._put(MEDIA, entries)

    async def schedule_media(self, entry_ids: Collection[EntryId], *, at: float) -> None:
        """Make ledger entries due from `at` on."""

        def change(present: MediaClosing | None) -> MediaClosing | None:
            return None if present is None else msgspec.structs.replace(present, next_attempt_at=at)

        await _each(self._apply(MEDIA, entry_id, change) for entry_id in entry_ids)

    async def claim_media(self, *, now: float, until: float, limit: int = DEFAULT_PAGE) -> tuple[MediaClosing, ...]:
        """Return due ledger entries and reserve them for the caller until `until`."""

        def claim(present: MediaClosing | None) -> MediaClosing | None:
            if present is None or present.next_attempt_at is None or present.next_attempt_at > now:
                return present
            return msgspec.structs.replace(present, next_attempt_at=until, attempts=present.attempts + 1)

        due = await self._collect(MEDIA, UpTo("next_attempt_at", now), limit)
        outcomes = await _each(self._apply(MEDIA, entry.entry_id, claim) for entry in due)
        return tuple(after for before, after in outcomes if after is not None and after != before)

    async def confirm_media(self, entry_ids: Collection[EntryId]) -> None:
        """Remove ledger entries whose media is closed, all or none."""
        await self._delete(MEDIA, list(entry_ids))

    async def list_media(
        self,
        *,
        session_id: SessionId | None = None,
        node_id: NodeId | None = None,
        after: str | None = None,
        limit: int = DEFAULT_PAGE,
    ) -> Page[MediaClosing]:
        """Return a page of ledger entries, of all, of one media session or of one node."""
        if session_id is not None and node_id is not None:
            raise InvalidRequestError("expected session_id or node_id, got both")
        condition: Condition = None
        if session_id is not None:
            condition = Equals("session_id", session_id)
        elif node_id is not None:
            condition = Equals("node_id", node_id)
        return await self._list(MEDIA, condition, after, limit)

    # Saved sessions

    async def save_sessions(self, sessions: Sequence[SavedSession]) -> tuple[SessionId, ...]:
        """Write drained sessions and return the ids of those that are too large."""
        refused: list[SessionId] = []
        for batch in _batches(sessions):
            try:
                await self._put(SESSIONS, batch)
            except TooLargeError:
                refused += [session.session_id for session in batch if not await self._saves(session)]
        return tuple(refused)

    async def _saves(self, session: SavedSession) -> bool:
        """Write one session; tell whether it was small enough."""
        try:
            await self._put(SESSIONS, [session])
        except TooLargeError:
            return False
        return True

    async def take_session(self, session_id: SessionId, *, now: float) -> SavedSession | None:
        """Remove a saved session and return it to exactly one caller; None if it is missing or expired."""
        if not is_valid_name(session_id):
            return None
        taken = (await self._apply(SESSIONS, session_id, lambda _present: None)).before
        return taken if taken is not None and taken.expires_at > now else None

    async def take_sessions(self, *, now: float, limit: int = DEFAULT_PAGE) -> tuple[SavedSession, ...]:
        """Remove up to `limit` saved sessions and return those that have not expired."""
        taken: list[SavedSession] = []
        after: str | None = None
        while len(taken) < limit:
            page = await self._list(SESSIONS, None, after, limit - len(taken))
            claimed = await _each(self.take_session(session.session_id, now=now) for session in page.items)
            taken += [session for session in claimed if session is not None]
            after = page.next
            if after is None:
                break
        return tuple(taken)

    # Leases

    async def hold_lease(self, node_id: NodeId, *, until: float) -> None:
        """Start a node's lease."""
        await self._put(NODES, [NodeLease(node_id=node_id, lease_expires_at=until)])

    async def renew_lease(self, node_id: NodeId, *, until: float) -> bool:
        """Extend a node's lease; return False if another node has taken it over."""

        def change(present: NodeLease | None) -> NodeLease | None:
            if present is None or present.is_taken_over:
                return present
            return msgspec.structs.replace(present, lease_expires_at=until)

        after = (await self._apply(NODES, node_id, change)).after
        return after is not None and not after.is_taken_over

    async def take_over(self, *, now: float, until: float) -> NodeId | None:
        """Return a node whose lease has run out, reserved for the caller until `until`, or None."""

        def change(present: NodeLease | None) -> NodeLease | None:
            if present is None or present.lease_expires_at > now:
                return present
            return msgspec.structs.replace(present, lease_expires_at=until, is_taken_over=True)

        for lease in await self._collect(NODES, UpTo("lease_expires_at", now), DEFAULT_PAGE):
            before, after = await self._apply(NODES, lease.node_id, change)
            if after is not None and after != before:
                return lease.node_id
        return None

    async def release_lease(self, node_id: NodeId) -> None:
        """End a lease whose records are cleaned up."""
        await self._delete(NODES, [node_id])

    # Expiry

    async def expire(self, *, now: float, limit: int = MAX_PAGE, keep_closed_for: float = 3600.0) -> Expired:
        """Remove expired records and close expired active rooms, up to `limit` of each sort."""

        def close(room: Room) -> Room | None:
            if not room.is_active:
                return None
            closed = msgspec.structs.replace(
                room,
                is_active=False,
                updated_at=now,
                closed_at=now,
                close_reason="expired",
                expires_at=now + keep_closed_for,
            )
            return _next(room, closed)

        rooms = await self._expire(ROOMS, now, limit, close)
        clients = await self._expire(CLIENTS, now, limit, lambda _record: None)
        sessions = await self._expire(SESSIONS, now, limit, lambda _record: None)
        return Expired(
            closed_rooms=tuple(after for _, after in rooms if after is not None),
            removed_rooms=sum(after is None for _, after in rooms),
            removed_clients=len(clients),
            removed_sessions=len(sessions),
            is_complete=max(len(rooms), len(clients), len(sessions)) < limit,
        )

    async def _expire(
        self, kind: Kind[RecordT], now: float, limit: int, fate: Callable[[RecordT], RecordT | None]
    ) -> list[Changed[RecordT]]:
        """Replace each expired record by what `fate` returns for it; skip those that another caller handled first."""

        def change(present: RecordT | None) -> RecordT | None:
            expires_at: float | None = getattr(present, "expires_at", None)
            return present if present is None or expires_at is None or expires_at > now else fate(present)

        past = await self._collect(kind, UpTo("expires_at", now), limit)
        outcomes = await _each(self._apply(kind, kind.key_of(record), change) for record in past)
        return [outcome for outcome in outcomes if outcome.before != outcome.after]


def with_hashed_token(record: ClientRecord) -> ClientRecord:
    """Return the record with its token hashed."""
    if not record.auth_token or is_token_hash(record.auth_token):
        return record
    return msgspec.structs.replace(record, auth_token=hash_token(record.auth_token))


def _next(present: Room, wanted: Room) -> Room:
    return msgspec.structs.replace(wanted, sequence=present.sequence + 1)


def _batches(sessions: Iterable[SavedSession]) -> Iterator[list[SavedSession]]:
    batch: list[SavedSession] = []
    size = 0
    for session in sessions:
        if batch and (size + len(session.state) > SAVE_BYTES or len(batch) == SAVE_RECORDS):
            yield batch
            batch, size = [], 0
        batch.append(session)
        size += len(session.state)
    if batch:
        yield batch


async def _each(operations: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all operations, a few at a time. When one fails, the others of its batch end before its error is raised."""
    waiting = iter(operations)
    results: list[T] = []
    while turn := list(islice(waiting, PARALLEL)):
        for outcome in await asyncio.gather(*turn, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
            results.append(outcome)
    return results
