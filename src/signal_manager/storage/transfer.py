"""What the command line does with a store: see whether it works, write it out as JSON lines, read such lines in.

All of it goes through `base.Storage`, so that any store can be moved to any other. An export begins with a header line
and holds clients, rooms and the ledger; saved sessions and leases mean nothing elsewhere and stay.
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

# Lines stored at a time: enough to share commits.
BATCH = 100
# A file of another kind is bad in every line; more examples than these help nobody.
MAX_REPORTED = 100
# How long (s) what was taken over from the original service stays if nobody comes for it.
ORIGINALS_KEPT = 86_400.0
# How long (s) an importing store gives the nodes that the records name to show that they are alive.
NODE_GRACE = 60.0


class Header(msgspec.Struct, frozen=True):
    """An export's first line."""

    format: str
    version: int


class Line(msgspec.Struct, frozen=True):
    """Every other line: a record and the collection it belongs to."""

    collection: str
    record: msgspec.Raw


class Checked(NamedTuple):
    """How long (s) a store took to write a record, to read it and to remove it."""

    write: float
    read: float
    remove: float


class BadLine(NamedTuple):
    """A line that was left out, counted from 1, and why."""

    number: int
    reason: str


class Imported(NamedTuple):
    """How many records were stored and how many lines were left out, the first of them with their reasons."""

    clients: int
    rooms: int
    media: int
    rejected: int
    bad_lines: tuple[BadLine, ...]


async def check(storage: Storage) -> Checked:
    """Write, read and remove a client of an unlikely name, and return how long each took.

    Raises:
        UnavailableError: the store fails or does not return what was written.
    """
    client_id = ClientId(f"storage-check-{uuid4().hex}")
    # Expires, so that a check that is interrupted leaves nothing for ever.
    record = ClientRecord(client_id=client_id, auth_token="", expires_at=float(int(time.time()) + 60))
    written = await _timed(storage.put_client(record))
    read = await _timed(storage.get_client(client_id))
    removed = await _timed(storage.delete_client(client_id))
    if read.result != record:
        raise UnavailableError("storage does not return what was written")
    return Checked(written.seconds, read.seconds, removed.seconds)


async def export_lines(storage: Storage) -> AsyncIterator[bytes]:
    """Yield the store as JSON lines, each with its line end; tokens are hashed, damaged records left out and logged."""
    yield msgspec.json.encode(Header(FORMAT, VERSION)) + b"\n"
    async for client in _all(storage.list_clients):
        yield _line(CLIENTS, with_hashed_token(client))
    async for room in _all(storage.list_rooms):
        yield _line(ROOMS, room)
    async for entry in _all(storage.list_media):
        yield _line(MEDIA, entry)


async def import_lines(storage: Storage, lines: AsyncIterable[bytes]) -> Imported:
    """Store the records of an export, each in place of what is there under its id; a second import changes nothing.

    The nodes that the records name are given a minute to renew their lease; those that do not are cleaned up after, as
    after a crash. A line that is no record is left out and reported.

    Raises:
        ConfigurationError: the lines are no export that this version can read; nothing was stored.
        UnavailableError: the store failed; import again, it is safe.
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
    """What was, or would be, taken over from the original service, and what was left as it is."""

    rooms: int
    open_rooms: int  # of these
    clients: int
    kept: int  # that the store has already
    unreadable: tuple[str, ...]  # each with its document and a reason


async def take_over(
    rooms: AsyncIterable[tuple[str, dict[str, Any]]],
    clients: AsyncIterable[tuple[str, dict[str, Any]]],
    storage: Storage,
    *,
    apply: bool,
    now: float,
) -> TakenOver:
    """Store the original service's rooms and clients where there is no record of their id yet.

    Both expire after a day unless somebody comes: their members are not connected here.

    Args:
        rooms: documents of `webrtc_rooms`, each with its id.
        clients: documents of `webrtc_clients`.
        apply: store them; otherwise only count.
        now: seconds since the epoch.

    Raises:
        UnavailableError: the store failed; take over again, it is safe.
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
    """Yield documents of the original service, rooms first, each with its name and with what reads it."""
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
    """One import under way: what waits to be stored together, and what became of the rest."""

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
