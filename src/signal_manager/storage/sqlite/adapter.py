"""The embedded store: one SQLite file in WAL mode, every acknowledged write on disk, for one process or several.

Documents are JSON text; SQLite computes the other columns from it, so a record added by hand needs only its id and
its body. Writes that wait together share one transaction, and so one flush to disk.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Awaitable, Coroutine, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar, assert_never

import aiosqlite

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
from signal_manager.storage.sqlite.schema import prepare
from signal_manager.storage.sqlite.worker import Documents, reading
from signal_manager.storage.sqlite.writer import Writer

__all__ = ["SqliteStorage"]

T = TypeVar("T")


class SqliteStorage(RecordStorage):
    """Implement `Storage` in the file at `path`, which is created if it is missing.

    Reads use a connection of their own and see committed writes. A separate process does all writes and waits up to
    `operation_timeout` seconds for other writers of the file.
    """

    def __init__(self, *, path: str | os.PathLike[str], operation_timeout: float = 5.0) -> None:
        super().__init__(operation_timeout=operation_timeout)
        self._path = os.fspath(path)
        self._writer = Writer(path=self._path, operation_timeout=operation_timeout)
        self._reader: aiosqlite.Connection
        self._opened: AsyncExitStack  # closes the reader

    async def __aenter__(self) -> Self:
        if self._path in {"", ":memory:"}:
            raise ConfigurationError(f"storage.sqlite_path is {self._path!r}, expected a file; see storage.backend")
        try:
            async with AsyncExitStack() as opened:
                _create_private(self._path)
                self._reader = await self._connect(opened)
                await prepare(self._reader, self._path)
                await self._reader.execute_fetchall("PRAGMA query_only = ON")
                await self._writer.start()
                self._opened = opened.pop_all()
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigurationError(f"storage.sqlite_path {self._path!r} cannot be used: {reason}") from error
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._writer.stop(self._operation_timeout)
        await self._opened.aclose()

    async def _connect(self, opened: AsyncExitStack) -> aiosqlite.Connection:
        # isolation_level None: transactions begin and end where this module says so.
        connection = aiosqlite.connect(self._path, isolation_level=None, timeout=self._operation_timeout)
        return await opened.enter_async_context(connection)

    def _bounded_write(self, operation: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Add no limit: the writer limits the time of its writes."""
        return operation

    # The five operations

    async def _read(self, kind: Kind[RecordT], key: str) -> RecordT | None:
        try:
            rows = await self._reader.execute_fetchall(reading(kind.collection, kind.key), (key,))
        except sqlite3.Error as error:
            raise _translated(error) from error
        for (body,) in rows:
            return require_readable(kind, key, body)
        return None

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

        return await self._writer.write(kind, [key], apply)

    async def _write(self, kind: Kind[RecordT], records: Sequence[RecordT]) -> None:
        bodies = {kind.key_of(record): encode(record).decode() for record in records}
        await self._writer.write(kind, [], lambda documents: documents.update(bodies))

    async def _remove(self, kind: Kind[Any], keys: Sequence[str]) -> None:
        await self._writer.write(kind, [], lambda documents: documents.update(dict.fromkeys(keys)))

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


def _create_private(path: str) -> None:
    """Make the file readable by its owner alone, because saved sessions are secret. SQLite's other files follow it."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _translated(error: sqlite3.Error) -> SignalManagerError:
    """Return UnavailableError for an error of SQLite: the file is full, locked, failing or damaged."""
    return UnavailableError(f"storage failed: {error}")


# The names in these statements are the constants of documents.py and never come from outside.


def _query(kind: Kind[Any], condition: Condition, after: str | None) -> tuple[str, list[Any]]:
    """Return the statement for a page, and its values except the limit.

    A row is id, body and, where the page is ordered by time, that time.
    """
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
