"""The embedded store: one SQLite file in WAL mode, every acknowledged write on disk, for one process or several.

Documents are JSON text beside columns that SQLite computes from it, so that a record edited or added by hand needs
nothing but its id and its body. Writes that wait together share one transaction, and so one flush to disk.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, assert_never

import aiosqlite
import msgspec
import structlog

from signal_manager.errors import ConfigurationError, SignalManagerError, UnavailableError
from signal_manager.storage.base import Page
from signal_manager.storage.documents import (
    Change,
    Changed,
    Condition,
    Equals,
    HasMemberOn,
    Kind,
    RecordT,
    TimeCursor,
    UpTo,
    encode,
    readable,
    require_readable,
)
from signal_manager.storage.records import RecordStorage
from signal_manager.storage.sqlite_schema import prepare

__all__ = ["SqliteStorage"]

T = TypeVar("T")

# Enough for a second of 500 writes/s behind a slow disk many times over; past it, waiting would only end in time-outs.
MAX_WAITING = 10_000
# How many waiting writes share a transaction: it holds the file's only write lock, so other processes wait for it.
MAX_BATCH = 200

log = structlog.get_logger(__name__)


# Bodies by id, of one collection; None: there is no such document.
Documents = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class _Write(Generic[T]):
    """A write that waits for its turn.

    `apply` finds the documents that `reads` names, and sets those that shall be written; it raises before it sets any.
    """

    kind: Kind[Any]
    reads: Sequence[str]
    apply: Callable[[Documents], T]
    done: asyncio.Future[T]


class SqliteStorage(RecordStorage):
    """Implement `Storage` in the file at `path`, which is made when it is not there.

    Reads have a connection of their own and see what is committed; all writes go through one task. A second process on
    the same file is waited for up to `operation_timeout` seconds.
    """

    def __init__(self, *, path: str | os.PathLike[str], operation_timeout: float = 5.0) -> None:
        super().__init__(operation_timeout=operation_timeout)
        self._path = os.fspath(path)
        self._writes: asyncio.Queue[_Write[Any]] = asyncio.Queue(MAX_WAITING)
        self._writer: aiosqlite.Connection
        self._reader: aiosqlite.Connection
        self._writing: asyncio.Task[None]
        self._opened: AsyncExitStack  # closes both connections

    async def __aenter__(self) -> Self:
        if self._path in {"", ":memory:"}:
            raise ConfigurationError(f"storage.sqlite_path is {self._path!r}, expected a file; see storage.backend")
        try:
            async with AsyncExitStack() as opened:
                _create_private(self._path)
                self._writer = await self._connect(opened)
                await prepare(self._writer, self._path)
                self._reader = await self._connect(opened)
                await self._reader.execute_fetchall("PRAGMA query_only = ON")
                self._opened = opened.pop_all()
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigurationError(f"storage.sqlite_path {self._path!r} cannot be used: {reason}") from error
        self._writing = asyncio.create_task(self._write_batches(), name="sqlite writer")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            async with asyncio.timeout(self._operation_timeout):
                await self._writes.join()
        except TimeoutError:
            log.warning("storage closes with writes waiting", waiting=self._writes.qsize())
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        await self._opened.aclose()

    async def _connect(self, opened: AsyncExitStack) -> aiosqlite.Connection:
        # isolation_level None: transactions begin and end where this module says so.
        connection = aiosqlite.connect(self._path, isolation_level=None, timeout=self._operation_timeout)
        return await opened.enter_async_context(connection)

    # The five operations

    async def _read(self, kind: Kind[RecordT], key: str) -> RecordT | None:
        try:
            body = (await _fetch(self._reader, kind, [key]))[key]
        except sqlite3.Error as error:
            raise _translated(error) from error
        return None if body is None else require_readable(kind, key, body)

    async def _change(self, kind: Kind[RecordT], key: str, change: Change[RecordT]) -> Changed[RecordT]:
        def apply(documents: Documents) -> Changed[RecordT]:
            body = documents[key]
            before = None if body is None else require_readable(kind, key, body)
            after = change(before)
            if after is None:
                documents[key] = None
            elif after != before:
                documents[key] = encode(after).decode()
            return Changed(before, after)

        return await self._submit(kind, [key], apply)

    async def _write(self, kind: Kind[RecordT], records: Sequence[RecordT]) -> None:
        bodies = {kind.key_of(record): encode(record).decode() for record in records}
        await self._submit(kind, [], lambda documents: documents.update(bodies))

    async def _remove(self, kind: Kind[Any], keys: Sequence[str]) -> None:
        await self._submit(kind, [], lambda documents: documents.update(dict.fromkeys(keys)))

    async def _select(self, kind: Kind[RecordT], condition: Condition, after: str | None, limit: int) -> Page[RecordT]:
        query, values = _query(kind, condition, after)
        try:
            rows = list(await self._reader.execute_fetchall(query, (*values, limit + 1)))
        except sqlite3.Error as error:
            raise _translated(error) from error
        following = None
        if len(rows) > limit:
            key, _, time = rows[limit - 1]
            following = str(TimeCursor(time, key)) if isinstance(condition, UpTo) else str(key)
        records = (readable(kind, key, body) for key, body, _ in rows[:limit])
        return Page(tuple(record for record in records if record is not None), following)

    # The writer

    async def _submit(self, kind: Kind[Any], reads: Sequence[str], apply: Callable[[Documents], T]) -> T:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            self._writes.put_nowait(_Write(kind, reads, apply, done))
        except asyncio.QueueFull:
            raise UnavailableError(f"storage has {MAX_WAITING} writes waiting already") from None
        return await done

    async def _write_batches(self) -> None:
        while True:
            batch = [await self._writes.get()]
            while len(batch) < MAX_BATCH and not self._writes.empty():
                batch.append(self._writes.get_nowait())
            try:
                await self._commit(batch)
            except Exception as error:  # the edge of a background task: these writes fail, the next ones go on
                log.exception("storage writes failed")
                _settle([(write, error) for write in batch])
            finally:
                for _ in batch:
                    self._writes.task_done()

    async def _commit(self, batch: Sequence[_Write[Any]]) -> None:
        """Run the writes in one transaction and then tell their callers; one that fails does not fail the others."""
        # A caller that gave up before its turn gets no effect, and nobody waits for the lock on its behalf.
        batch = [write for write in batch if not write.done.done()]
        if not batch:
            return
        try:
            outcomes = await _run(self._writer, lambda connection: _transact(connection, batch))
        except sqlite3.Error as error:
            if len(batch) > 1:
                for write in batch:
                    await self._commit([write])
                return
            log.warning("storage write failed", reason=str(error))
            outcomes = [(batch[0], _translated(error))]
        _settle(outcomes)


async def _run(connection: aiosqlite.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Run `work` in the connection's thread.

    Every visit to that thread costs more than the statements, and takes the interpreter's lock from the event loop; so
    a transaction is one visit, for which aiosqlite has no public method.
    """
    result: T = await connection._execute(work, connection._conn)  # type: ignore[no-untyped-call]  # it is private
    return result


def _transact(connection: sqlite3.Connection, batch: Sequence[_Write[Any]]) -> list[tuple[_Write[Any], Any]]:
    """Read what the writes need, apply them one after the other, and commit what came of it."""
    kinds = {write.kind.collection: write.kind for write in batch}
    try:
        _roll_back(connection)
        connection.execute("BEGIN IMMEDIATE")
        found: dict[str, Documents] = {}
        for collection, kind in kinds.items():
            keys = {key for write in batch if write.kind is kind for key in write.reads}
            found[collection] = _found(keys, connection.execute(*_fetching(kind, sorted(keys)))) if keys else {}
        documents = {collection: dict(bodies) for collection, bodies in found.items()}
        outcomes = [(write, _outcome(write, documents[write.kind.collection])) for write in batch]
        for collection, kind in kinds.items():
            before = found[collection]
            bodies = documents[collection].items()
            _store(connection, kind, {key: body for key, body in bodies if before.get(key, ...) != body})
        connection.execute("COMMIT")
    except sqlite3.Error:
        # At once, for the lock of other processes' sake; should this fail too, the next transaction begins with it.
        with suppress(sqlite3.Error):
            _roll_back(connection)
        raise
    return outcomes


def _roll_back(connection: sqlite3.Connection) -> None:
    """End a transaction that failed."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _outcome(write: _Write[Any], documents: Documents) -> Any:
    try:
        return write.apply(documents)
    except Exception as error:  # whatever a change raises belongs to its caller alone
        return error


def _settle(outcomes: Iterable[tuple[_Write[Any], Any]]) -> None:
    for write, outcome in outcomes:
        if write.done.done():
            continue
        if isinstance(outcome, Exception):
            write.done.set_exception(outcome)
        else:
            write.done.set_result(outcome)


def _create_private(path: str) -> None:
    """Make the file readable by its owner alone: it holds what resumes sessions. SQLite's other files follow it."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _translated(error: sqlite3.Error) -> SignalManagerError:
    """Return the error of ours for one of SQLite's: full, locked, failing or damaged storage is unavailable."""
    return UnavailableError(f"storage failed: {error}")


# The names in these statements are the constants of documents.py and never come from outside.


async def _fetch(connection: aiosqlite.Connection, kind: Kind[Any], keys: Sequence[str]) -> Documents:
    """Return the bodies of these documents, None for those that are not there."""
    return _found(keys, await connection.execute_fetchall(*_fetching(kind, keys)))


def _fetching(kind: Kind[Any], keys: Sequence[str]) -> tuple[str, tuple[str]]:
    query = f"SELECT {kind.key}, body FROM {kind.collection} WHERE {kind.key} IN (SELECT value FROM json_each(?))"  # noqa: S608 - see above
    return query, (msgspec.json.encode(keys).decode(),)


def _found(keys: Iterable[str], rows: Iterable[Any]) -> Documents:
    documents: Documents = dict.fromkeys(keys)
    for key, body in rows:
        documents[key] = body
    return documents


def _store(connection: sqlite3.Connection, kind: Kind[Any], documents: Documents) -> None:
    """Write the bodies, and remove the documents that have none."""
    written = [(key, body) for key, body in documents.items() if body is not None]
    removed = [(key,) for key, body in documents.items() if body is None]
    upsert = (
        f"INSERT INTO {kind.collection} ({kind.key}, body) VALUES (?, ?) "  # noqa: S608 - see above
        f"ON CONFLICT ({kind.key}) DO UPDATE SET body = excluded.body"
    )
    if written:
        connection.executemany(upsert, written)
    if removed:
        connection.executemany(f"DELETE FROM {kind.collection} WHERE {kind.key} = ?", removed)  # noqa: S608 - see above


def _query(kind: Kind[Any], condition: Condition, after: str | None) -> tuple[str, list[Any]]:
    """Return the statement for a page of id, body and (where it is the order) time, and its values but the limit."""
    key, order, time = kind.key, kind.key, "NULL"
    values: list[Any] = []
    match condition:
        case None:
            where = "TRUE"
        case Equals(field, value):
            where, values = f"{field} = ?", [value]
        case HasMemberOn(node_id):
            where = (
                "is_active AND EXISTS (SELECT 1 FROM json_each(body, '$.participants') "
                "WHERE CASE type WHEN 'object' THEN json_extract(value, '$.node_id') END = ?)"
            )
            values = [node_id]
        case UpTo(field, at):
            where, values, order, time = f"{field} <= ?", [at], f"{field}, {key}", field
        case _:
            assert_never(condition)
    if after is not None:
        start = TimeCursor.parse(after) if isinstance(condition, UpTo) else None
        where += f" AND {key} > ?" if start is None else f" AND ({order}) > (?, ?)"
        values += [after] if start is None else [start.at, start.key]
    query = f"SELECT {key}, body, {time} FROM {kind.collection} WHERE {where} ORDER BY {order} LIMIT ?"  # noqa: S608 - see above
    return query, values
