"""The promises of a store: clients, rooms, the ledger of media to close, saved sessions and leases.

`records.py` implements this interface once, over the few operations that an adapter brings. The contract suite in
`signal_manager.testing` checks an adapter against it.

These promises hold for every method:

- **Atomic**: one method on one record takes effect completely or not at all, for every process that shares the store.
  When the method returns, the effect is durable (in the memory adapter until its process ends). If a method touches
  several records, its docstring says what is atomic.
- **Ordered**: once a method has returned, every later read sees its effect, through any handle on the store.
- **Bounded**: each access to the store ends within the adapter's `operation_timeout` (s).
- **Cancellation and time limits** leave a write either fully applied or not applied; the caller cannot know which.
- **Errors**: `UnavailableError` (503, may retry) if the store fails, is full or does not answer in time.
  `InvalidRequestError` if an id breaks `model.NAME_RULE` or a record has no form in JSON; a read of such an id finds
  nothing. `TooLargeError` if a record is larger than the store can hold. `SignalManagerError` (500) if the caller asks
  for one record and its document is damaged. A method that raises other errors says so.
- **Damaged records** have missing or wrongly typed fields, for example after an edit by hand. The log names their
  collection and id. Lists skip them. Writing or deleting such a record repairs it.
- **Expired records** are returned until `expire` removes them. A caller that grants rights by a record compares
  `expires_at` itself.
- **Times** are seconds since the epoch, kept to the microsecond. The store reads no clock.
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
# A whole page is held in memory, and a record may weigh more than 100 KB.
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
    """The result of `expire`; `is_complete` is False if the limit was reached and more records may be due."""

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

    An async context manager. Entering opens the store and leaving ends every access.

    Large because it is a list: one method for each promise, about six kinds of records.

    Entering raises:
        ConfigurationError: the store cannot work as configured, in one line for a person.
        UnavailableError: the store does not answer.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    # Clients. Every method that writes a client replaces an `auth_token` in clear by its hash.

    async def create_client(self, record: ClientRecord) -> None:
        """Add a client; raise `ConflictError` if there is a record of it."""

    async def put_client(self, record: ClientRecord) -> None:
        """Write a client and replace any record of it."""

    async def get_client(self, client_id: ClientId) -> ClientRecord | None:
        """Return a client, or None if there is no record of it."""

    async def update_client(self, client_id: ClientId, **fields: Unpack[ClientFields]) -> ClientRecord:
        """Replace only the named fields and return the new record.

        Concurrent updates of different fields all take effect.

        Raises:
            NotFoundError: there is no record of the client.
        """

    async def change_client(self, client_id: ClientId, change: ClientChange) -> ClientRecord | None:
        """Apply `change` to a client's record and return the result as stored.

        `change` gets the present record, or None if there is none, and returns the new record, or None to remove it.
        Read and write are one atomic step. `change` must be quick and without side effects, because it runs again if
        another writer was faster. An error that it raises passes through, and nothing is written.
        """

    async def delete_client(self, client_id: ClientId) -> None:
        """Remove a client's record, if there is one."""

    async def list_clients(
        self, *, node_id: NodeId | None = None, after: str | None = None, limit: int = DEFAULT_PAGE
    ) -> Page[ClientRecord]:
        """Return a page of all clients, or of those whose record has this `node_id`.

        The pages are no snapshot. A record that exists from the first page to the last is listed exactly once; a record
        that is added or removed in between may be listed or not.
        """

    # Rooms

    async def create_room(self, room: Room) -> Room:
        """Add an active room and return it as stored; raise `ConflictError` if an active room has its id.

        A closed room with that id is replaced. The store sets `sequence`: 1, or the closed room's plus one.
        """

    async def put_room(self, room: Room) -> None:
        """Write a room with its `sequence` and replace any record of it; meant for imports."""

    async def get_room(self, room_id: RoomId) -> Room | None:
        """Return a room, active or closed, or None if there is no record of it."""

    async def list_rooms(
        self,
        *,
        is_active: bool | None = None,
        node_id: NodeId | None = None,
        after: str | None = None,
        limit: int = DEFAULT_PAGE,
    ) -> Page[Room]:
        """Return a page of all rooms, of active or closed rooms, or of active rooms with a member on `node_id`.

        The pages are no snapshot (`list_clients`). With `node_id`, closed rooms are never listed.
        """

    async def change_room(self, room_id: RoomId, change: RoomChange) -> Room:
        """Apply `change` to a room; a room changes in no other way.

        Read and write are one atomic step. The store raises `sequence` by exactly one and ignores what `change` does to
        it. Concurrent changes all apply, one after the other. If `change` returns its argument or None, nothing is
        written and `sequence` stays. `change` must be quick and without side effects, because it runs again if another
        writer was faster. An error that it raises passes through, and nothing is written.

        Returns:
            The room after the change.

        Raises:
            NotFoundError: there is no record of the room. A closed room has one; `change` decides whether to refuse it.
        """

    async def delete_room(self, room_id: RoomId) -> None:
        """Remove a room's record, if there is one."""

    # The ledger of media to close: docs/operations.md, "The ledger". An entry is in use (`next_attempt_at` None), then
    # due, then gone.

    async def add_media(self, *entries: MediaClosing) -> None:
        """Write at most `MAX_PAGE` entries, all or none, and replace those with the same `entry_id`."""

    async def schedule_media(self, entry_ids: Collection[EntryId], *, at: float) -> None:
        """Make entries due from `at` on, because their owner has gone or an attempt has failed.

        Missing entries are ignored. Atomic per entry.
        """

    async def claim_media(self, *, now: float, until: float, limit: int = DEFAULT_PAGE) -> tuple[MediaClosing, ...]:
        """Return due entries for the caller to close, the longest due first, and raise `attempts` of each by one.

        No other caller gets these entries before `until`. Then they are due again, so a caller that dies loses nothing.
        Atomic per entry. Entries that a failed or cancelled call had claimed are also due again at `until`.
        """

    async def confirm_media(self, entry_ids: Collection[EntryId]) -> None:
        """Remove entries whose media is certainly closed, all or none; ignore missing ones."""

    async def list_media(
        self,
        *,
        session_id: SessionId | None = None,
        node_id: NodeId | None = None,
        after: str | None = None,
        limit: int = DEFAULT_PAGE,
    ) -> Page[MediaClosing]:
        """Return a page of all entries, of those of one media session, or of those that `node_id` wrote.

        The pages are no snapshot (`list_clients`).
        """

    # Saved sessions

    async def save_sessions(self, sessions: Sequence[SavedSession]) -> tuple[SessionId, ...]:
        """Write drained sessions and return the ids of those that are too large for the store.

        Atomic per session: a call that fails or is cancelled may have saved some of them.
        """

    async def take_session(self, session_id: SessionId, *, now: float) -> SavedSession | None:
        """Remove a saved session and return it; None if it is missing, was taken before, or has expired.

        Exactly one caller on all nodes gets it. After an `UnavailableError` or a cancellation it may be lost.
        """

    async def take_sessions(self, *, now: float, limit: int = DEFAULT_PAGE) -> tuple[SavedSession, ...]:
        """Remove up to `limit` saved sessions and return them; an empty result means that none are left.

        For a service that is alone on its store. Exactly one caller gets each session (`take_session`). Expired
        sessions are removed and not returned.
        """

    # Leases. A node's lease covers every record with its `node_id`, so one write keeps them all alive.

    async def hold_lease(self, node_id: NodeId, *, until: float) -> None:
        """Start a node's lease.

        A node with a fixed id first cleans up the records that its earlier run left under that id.
        """

    async def renew_lease(self, node_id: NodeId, *, until: float) -> bool:
        """Extend a lease; return False if another node has taken it over and cleans up or has done so."""

    async def take_over(self, *, now: float, until: float) -> NodeId | None:
        """Return a node whose lease has run out, for the caller to clean up after, or None.

        No other caller gets this node before `until`. The caller lists the records with the node's id, cleans them up
        and then calls `release_lease`. If the caller dies half-way, another caller gets the node after `until`.
        """

    async def release_lease(self, node_id: NodeId) -> None:
        """End a lease whose records are cleaned up; ignore a missing one."""

    # Expiry

    async def expire(self, *, now: float, limit: int = MAX_PAGE, keep_closed_for: float = 3600.0) -> Expired:
        """Remove records past their `expires_at` and close active rooms past theirs, up to `limit` of each sort.

        An expired active room is closed with the reason "expired" and kept for another `keep_closed_for` seconds.
        Exactly one caller on all nodes gets it in the result, with its members. Atomic per record: after a call that
        fails or is cancelled, the next call does the rest.
        """
