"""Checks a store, exports it as JSON lines and imports such lines, for the command line.

Everything goes through `base.Storage`, so the content of any store can move to any other. An export is a header line,
then clients, rooms and the ledger. It leaves out saved sessions and leases, which mean nothing in another store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import msgspec

from signal_manager.errors import ConfigurationError, SignalManagerError, UnavailableError
from signal_manager.model import ClientId, ClientRecord, MediaClosing, NodeId, Room
from signal_manager.storage import original
from signal_manager.storage.base import Page, Storage
from signal_manager.storage.documents import CLIENTS, MEDIA, ROOMS, Kind, encode
from signal_manager.storage.records import with_hashed_token

__all__ = ["BadLine", "Checked", "Imported", "TakenOver", "check", "export_lines", "import_lines", "take_over"]

T = TypeVar("T")

FORMAT = "signal-manager storage"
VERSION = 1
EXPORTED: dict[str, Kind[Any]] = {kind.collection: kind for kind in (CLIENTS, ROOMS, MEDIA)}

# Lines to store at once: enough to share commits.
BATCH = 100
# The most bad lines to report: a file of another kind is bad in every line.
MAX_REPORTED = 100
# Seconds for which imported records of the original service stay if their client does not connect.
ORIGINALS_KEPT = 86_400.0
# Seconds that the nodes named in imported records have to renew their lease.
NODE_GRACE = 60.0


class Header(msgspec.Struct, frozen=True):
    """An export's first line."""

    format: str
    version: int


class Line(msgspec.Struct, frozen=True):
    """Any other line of an export: a record and its collection."""

    collection: str
    record: msgspec.Raw


class Checked(NamedTuple):
    """Seconds that a store took to write, read and remove a record."""

    write: float
    read: float
    remove: float


class BadLine(NamedTuple):
    """The number, counted from 1, of a line that was skipped, and the reason."""

    number: int
    reason: str


class Imported(NamedTuple):
    """The number of stored records and of skipped lines, with the reasons for the first of them."""

    clients: int
    rooms: int
    media: int
    rejected: int
    bad_lines: tuple[BadLine, ...]


async def check(storage: Storage) -> Checked:
    """Write, read and remove a client with an unlikely name, and return how long each step took.

    Raises:
        UnavailableError: the store fails, or returns another record than the one written.
    """
    client_id = ClientId(f"storage-check-{uuid4().hex}")
    # The record expires, in case the check is interrupted.
    record = ClientRecord(client_id=client_id, auth_token="", expires_at=float(int(time.time()) + 60))
    written = await _timed(storage.put_client(record))
    read = await _timed(storage.get_client(client_id))
    removed = await _timed(storage.delete_client(client_id))
    if read.result != record:
        raise UnavailableError("storage does not return what was written")
    return Checked(written.seconds, read.seconds, removed.seconds)


async def export_lines(storage: Storage) -> AsyncIterator[bytes]:
    """Yield the store as JSON lines with line ends; tokens are hashed, damaged records are logged and skipped."""
    yield msgspec.json.encode(Header(FORMAT, VERSION)) + b"\n"
    async for client in _all(storage.list_clients):
        yield _line(CLIENTS, with_hashed_token(client))
    async for room in _all(storage.list_rooms):
        yield _line(ROOMS, room)
    async for entry in _all(storage.list_media):
        yield _line(MEDIA, entry)


async def import_lines(storage: Storage, lines: AsyncIterable[bytes]) -> Imported:
    """Store the records of an export and replace those with the same ids; a second import changes nothing.

    Nodes named in the records have a minute to renew their lease; the service cleans up after the others as after a
    crash. Lines that are not records are skipped and reported.

    Raises:
        ConfigurationError: the lines are not an export that this version can read; nothing was stored.
        UnavailableError: the store failed; it is safe to import again.
    """
    run = _Import(storage)
    number = 0
    async for line in lines:
        number += 1
        if number == 1:
            _require_header(line)
        elif line.strip():
            await run.take(number, line)
    if number == 0:
        raise ConfigurationError("the import is empty, expected an export of signal-manager")
    return await run.finish()


class TakenOver(NamedTuple):
    """Counts of records that were, or would be, imported from the original service, and of those that were skipped."""

    rooms: int
    open_rooms: int  # of the imported rooms
    clients: int
    kept: int  # records that the store has already
    unreadable: tuple[str, ...]  # each names its document and a reason


async def take_over(
    rooms: AsyncIterable[tuple[str, dict[str, Any]]],
    clients: AsyncIterable[tuple[str, dict[str, Any]]],
    storage: Storage,
    *,
    apply: bool,
    now: float,
) -> TakenOver:
    """Store the original service's rooms and clients whose ids have no record yet.

    Their members are not connected here, so both expire after a day unless the members connect.

    Args:
        rooms: documents of `webrtc_rooms`, each with its id.
        clients: documents of `webrtc_clients`.
        apply: store the records; otherwise only count them.
        now: seconds since the epoch.

    Raises:
        UnavailableError: the store failed; it is safe to repeat the call.
    """
    found: list[ClientRecord | Room] = []
    kept, unreadable = 0, []
    async for name, document, read in _documents(rooms, clients):
        try:
            record = read(document)
        except ValueError as error:
            unreadable.append(f"{name}: {error}")
            continue
        if await _is_stored(storage, record):
            kept += 1
        else:
            found.append(msgspec.structs.replace(record, expires_at=now + ORIGINALS_KEPT))
    if apply:
        for record in found:
            await _store(storage, record)
    found_rooms = [record for record in found if isinstance(record, Room)]
    open_rooms = sum(room.is_active for room in found_rooms)
    return TakenOver(len(found_rooms), open_rooms, len(found) - len(found_rooms), kept, tuple(unreadable))


async def _documents(
    rooms: AsyncIterable[tuple[str, dict[str, Any]]], clients: AsyncIterable[tuple[str, dict[str, Any]]]
) -> AsyncIterator[tuple[str, dict[str, Any], Callable[[dict[str, Any]], ClientRecord | Room]]]:
    """Yield documents of the original service, rooms first, each with its name and the function that reads it."""
    async for key, document in rooms:
        yield f"{original.ROOMS_COLLECTION}/{key}", document, original.room_of
    async for key, document in clients:
        yield f"{original.CLIENTS_COLLECTION}/{key}", document, original.client_of


async def _is_stored(storage: Storage, record: ClientRecord | Room) -> bool:
    if isinstance(record, Room):
        return await storage.get_room(record.room_id) is not None
    return await storage.get_client(record.client_id) is not None


async def _store(storage: Storage, record: ClientRecord | Room | MediaClosing) -> None:
    match record:
        case ClientRecord():
            await storage.put_client(record)
        case Room():
            await storage.put_room(record)
        case MediaClosing():
            await storage.add_media(record)


class _Import:
    """One import: the records that wait to be stored together, and counts of those stored and skipped."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._waiting: list[tuple[int, ClientRecord | Room | MediaClosing]] = []
        self._stored = dict.fromkeys((ClientRecord, Room, MediaClosing), 0)
        self._nodes: set[NodeId] = set()
        self._rejected = 0
        self._bad_lines: list[BadLine] = []

    async def take(self, number: int, line: bytes) -> None:
        try:
            self._waiting.append((number, _record(line)))
        except (ValueError, RecursionError) as error:
            self._reject(number, str(error))
        if len(self._waiting) == BATCH:
            await self._flush()

    async def finish(self) -> Imported:
        await self._flush()
        until = time.time() + NODE_GRACE
        for node_id in sorted(self._nodes):
            if not await self._storage.renew_lease(node_id, until=until):
                await self._storage.hold_lease(node_id, until=until)
        clients, rooms, media = self._stored.values()
        return Imported(clients, rooms, media, self._rejected, tuple(self._bad_lines))

    async def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        outcomes = await asyncio.gather(*(_store(self._storage, record) for _, record in batch), return_exceptions=True)
        for (number, record), outcome in zip(batch, outcomes, strict=True):
            if outcome is None:
                self._stored[type(record)] += 1
                self._nodes.update(_nodes(record))
            elif isinstance(outcome, SignalManagerError) and not outcome.may_retry:
                self._reject(number, outcome.message)
            else:
                raise outcome

    def _reject(self, number: int, reason: str) -> None:
        self._rejected += 1
        if len(self._bad_lines) < MAX_REPORTED:
            self._bad_lines.append(BadLine(number, reason))


class _Timed(NamedTuple):
    result: Any
    seconds: float


async def _timed(operation: Awaitable[Any]) -> _Timed:
    begin = time.perf_counter()
    result = await operation
    return _Timed(result, time.perf_counter() - begin)


async def _all(list_page: Callable[..., Awaitable[Page[T]]]) -> AsyncIterator[T]:
    after: str | None = None
    while True:
        page = await list_page(after=after)
        for item in page.items:
            yield item
        if page.next is None:
            return
        after = page.next


def _line(kind: Kind[Any], record: msgspec.Struct) -> bytes:
    return msgspec.json.encode(Line(kind.collection, msgspec.Raw(encode(record)))) + b"\n"


def _require_header(line: bytes) -> None:
    try:
        header = msgspec.json.decode(line, type=Header)
    except ValueError:
        header = None
    if header is None or header.format != FORMAT:
        raise ConfigurationError("the first line is no header, expected an export of signal-manager")
    if header.version > VERSION:
        raise ConfigurationError(f"the export has version {header.version}, expected at most {VERSION}")


def _record(line: bytes) -> ClientRecord | Room | MediaClosing:
    parsed = msgspec.json.decode(line, type=Line)
    kind = EXPORTED.get(parsed.collection)
    if kind is None:
        raise ValueError(f"the collection is {parsed.collection[:40]!r}, expected one of: {', '.join(EXPORTED)}")
    record: ClientRecord | Room | MediaClosing = msgspec.json.decode(parsed.record, type=kind.record)
    return record


def _nodes(record: ClientRecord | Room | MediaClosing) -> Collection[NodeId]:
    holders: Sequence[Any] = record.participants if isinstance(record, Room) else (record,)
    return {holder.node_id for holder in holders if holder.node_id}
