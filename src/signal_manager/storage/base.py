"""What the service may rely on when it stores something: clients, rooms, media to close, saved sessions, leases.

`records.py` implements it once over the few operations that an adapter brings; `signal_manager.testing` holds the
contract suite that proves an adapter keeps it.

What holds for every method:

- **Atomic**: one method on one record takes effect wholly or not at all, for every process that shares the store, and
  an answer means that the effect is durable (the memory adapter's is, until its process ends). Where a method touches
  several records its docstring says what is atomic.
- **Ordered**: a caller that has its answer sees the effect in every later read, through any handle on the store.
- **Bounded**: each access to the store ends within the adapter's `operation_timeout` (s).
- **Cancellation and time limits** leave a write either wholly applied or not at all; the caller cannot know which.
- **Errors**: `UnavailableError` (503, may retry) when the store fails, is full or does not answer in time;
  `InvalidRequestError` when an id breaks the rule of `model.NAME_RULE` or a record cannot be written down (reads of
  such an id find nothing); `TooLargeError` when it is more than the store can hold. Nothing else, unless a method says
  so, and `SignalManagerError` (500) where one record was asked for and what is stored under its id cannot be read.
- **Damaged records** (edited by hand: missing or wrongly typed fields) are reported in the log by collection and id.
  Lists skip them, writing or deleting them repairs.
- Records past `expires_at` are still returned until `expire` removes them; who grants rights by them compares.
- Times are seconds since the epoch, and none is read from a clock here. Stores keep them to the microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Any, Generic, NamedTuple, Protocol, Self, TypedDict, TypeVar, Unpack

from signal_manager.model import (
    ClientId,
    ClientRecord,
    EntryId,
    MediaClosing,
    NodeId,
    Room,
    RoomId,
    SavedSession,
    SessionId,
    Track,
)

__all__ = ["DEFAULT_PAGE", "MAX_PAGE", "ClientChange", "ClientFields", "Expired", "Page", "RoomChange", "Storage"]

ItemT = TypeVar("ItemT")

DEFAULT_PAGE = 100
# A page is held in memory whole, and a record may weigh 100 KB and more.
MAX_PAGE = 1000

ClientChange = Callable[[ClientRecord | None], ClientRecord | None]
RoomChange = Callable[[Room], Room | None]


class Page(NamedTuple, Generic[ItemT]):
    """One page of a list, in order of id; `next` is handed back as `after`, and None on the last page.

    A page may hold fewer items than asked for, even none, while `next` is set.
    """

    items: tuple[ItemT, ...]
    next: str | None


class Expired(NamedTuple):
    """What one call of `expire` did; `is_complete` is False when its limit was reached, so that more is waiting."""

    closed_rooms: tuple[Room, ...]
    removed_rooms: int
    removed_clients: int
    removed_sessions: int
    is_complete: bool


class ClientFields(TypedDict, total=False):
    """The fields of a client record that `update_client` may name."""

    auth_token: str
    room_id: RoomId | None
    role: str | None
    session_id: SessionId | None
    capabilities: tuple[str, ...]
    metadata: dict[str, Any]
    tracks: tuple[Track, ...]
    status: str
    registered_at: float | None
    last_seen_at: float | None
    expires_at: float | None
    node_id: NodeId | None


class Storage(Protocol):
    """The store behind the service; the module's docstring has the promises that hold for every method.

    An async context manager: entering opens it and raises `ConfigurationError` when the store cannot be used as
    configured (with one line for a person) or `UnavailableError` when it does not answer; leaving ends every access.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    # Clients: whoever writes one, an `auth_token` in clear is replaced by its hash on the way in.

    async def create_client(self, record: ClientRecord) -> None:
        """Add a client that is not there yet; raise `ConflictError` when it is."""

    async def put_client(self, record: ClientRecord) -> None:
        """Write a client as it is, whatever was there."""

    async def get_client(self, client_id: ClientId) -> ClientRecord | None:
        """Return a client, or None when there is none."""

    async def update_client(self, client_id: ClientId, **fields: Unpack[ClientFields]) -> ClientRecord:
        """Replace the named fields alone and return the record as it is then.

        Updates of different fields at the same time are all kept.

        Raises:
            NotFoundError: there is no such client.
        """

    async def change_client(self, client_id: ClientId, change: ClientChange) -> ClientRecord | None:
        """Apply a function from the present record, or None, to the record that shall be, or None for none.

        Read and write are one atomic step. `change` must be quick and without side effects: it runs again when
        another writer was faster. An error that it raises passes through and nothing is written. What it returns is
        returned, as it was stored.
        """

    async def delete_client(self, client_id: ClientId) -> None:
        """Remove a client; one that is not there is no error."""

    async def list_clients(
        self, *, node_id: NodeId | None = None, after: str | None = None, limit: int = DEFAULT_PAGE
    ) -> Page[ClientRecord]:
        """Return a page of all clients, or of those that carry `node_id`.

        The list is no snapshot: a record that is there all the while is listed exactly once, one that comes or goes
        meanwhile may or may not be.
        """

    # Rooms

    async def create_room(self, room: Room) -> Room:
        """Add an active room and return it as stored; raise `ConflictError` when an active one has its id.

        A closed room of that id is replaced. `sequence` is set by storage: 1, or one more than the closed room's.
        """

    async def put_room(self, room: Room) -> None:
        """Write a room as it is, its `sequence` included, whatever was there; meant for imports."""

    async def get_room(self, room_id: RoomId) -> Room | None:
        """Return a room, active or closed, or None when there is none."""

    async def list_rooms(
        self,
        *,
        is_active: bool | None = None,
        node_id: NodeId | None = None,
        after: str | None = None,
        limit: int = DEFAULT_PAGE,
    ) -> Page[Room]:
        """Return a page of all rooms, of the active or closed ones, or of the active ones with a member on `node_id`.

        No snapshot, as `list_clients`. With `node_id`, closed rooms are never listed.
        """

    async def change_room(self, room_id: RoomId, change: RoomChange) -> Room:
        """Apply a function from room to room; the only way in which a room changes.

        Read and write are one atomic step, `sequence` rises by exactly one (whatever `change` did to it), and changes
        at the same time all apply, one after the other. Where `change` returns its argument unchanged, or None,
        nothing is written and the sequence stays. It must be quick and without side effects: it runs again when
        another writer was faster. An error that it raises passes through and leaves the room unharmed.

        Returns:
            The room as it is after the change.

        Raises:
            NotFoundError: there is no such room. A closed room is there; refusing it is up to `change`.
        """

    async def delete_room(self, room_id: RoomId) -> None:
        """Remove a room's record; one that is not there is no error."""

    # The ledger of media to close: docs/operations.md, "The ledger". An entry is in use (`next_attempt_at` None), then
    # due, then gone.

    async def add_media(self, *entries: MediaClosing) -> None:
        """Write entries, all or none; one with the same `entry_id` is replaced. At most `MAX_PAGE` at once."""

    async def schedule_media(self, entry_ids: Collection[EntryId], *, at: float) -> None:
        """Let these be closed from `at` on: their owner has gone, or an attempt has failed.

        Entries that are not there any more are left out. Atomic per entry.
        """

    async def claim_media(self, *, now: float, until: float, limit: int = DEFAULT_PAGE) -> tuple[MediaClosing, ...]:
        """Return due entries for the caller to close, the longest due first, each counted as one more attempt.

        Nobody else is given an entry before `until`: it is both the claim's end and the time of the next attempt, so
        that a caller that dies loses nothing. Atomic per entry; what a failed or cancelled call had claimed is due
        again at `until`.
        """

    async def confirm_media(self, entry_ids: Collection[EntryId]) -> None:
        """Remove entries that are closed for certain, all or none; those that are not there are no error."""

    async def list_media(
        self,
        *,
        session_id: SessionId | None = None,
        node_id: NodeId | None = None,
        after: str | None = None,
        limit: int = DEFAULT_PAGE,
    ) -> Page[MediaClosing]:
        """Return a page of all entries, of one media session's, or of those that `node_id` caused.

        No snapshot, as `list_clients`.
        """

    # Saved sessions

    async def save_sessions(self, sessions: Sequence[SavedSession]) -> tuple[SessionId, ...]:
        """Write drained sessions and return the ids of those that the store cannot hold, too large each.

        Atomic per session: when it fails or is cancelled, some are saved and the others are not.
        """

    async def take_session(self, session_id: SessionId, *, now: float) -> SavedSession | None:
        """Remove a saved session and return it; None when there is none, it was taken, or it has expired.

        Of all callers anywhere exactly one gets it. After an `UnavailableError` or a cancellation it may be gone.
        """

    async def take_sessions(self, *, now: float, limit: int = DEFAULT_PAGE) -> tuple[SavedSession, ...]:
        """Remove up to `limit` saved sessions and return them; none means that there are no more.

        For a service that has its store to itself. Each is given to exactly one caller, as by `take_session`; those
        that have expired are removed too, and not returned.
        """

    # Leases: a node vouches for every record that carries its `node_id`, so that keeping a hundred thousand of them
    # alive costs one write.

    async def hold_lease(self, node_id: NodeId, *, until: float) -> None:
        """Start vouching for a node's records.

        A node whose id is fixed cleans up what its earlier life left under it before it calls this.
        """

    async def renew_lease(self, node_id: NodeId, *, until: float) -> bool:
        """Extend a lease; False means that it was lost to another node, which is cleaning up or has done so."""

    async def take_over(self, *, now: float, until: float) -> NodeId | None:
        """Return a node whose lease has run out for the caller to clean up after, or None.

        Nobody else is given it before `until`. The caller lists what carries the node's id, cleans it up, and calls
        `release_lease` last; one that dies half-way is followed by another after `until`.
        """

    async def release_lease(self, node_id: NodeId) -> None:
        """End a lease whose records are cleaned up; one that is not there is no error."""

    # Expiry

    async def expire(self, *, now: float, limit: int = MAX_PAGE, keep_closed_for: float = 3600.0) -> Expired:
        """Remove what is past its `expires_at`, and close active rooms that are: up to `limit` records of each sort.

        An expired active room is closed with the reason "expired" and kept for another `keep_closed_for` seconds. It
        is reported, with the members it had, to exactly one caller anywhere. Atomic per record; when the call fails
        or is cancelled some are done, and the next call goes on.
        """
