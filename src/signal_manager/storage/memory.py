"""A store in memory that ends with its process: for tests, first runs, and services whose clients all reconnect anyway.

It keeps documents as text, as the other adapters do, so that no caller changes a stored record through a reference.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, assert_never

from signal_manager.model import Room
from signal_manager.storage.base import Page
from signal_manager.storage.documents import (
    KINDS,
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
    member_nodes,
    readable,
    require_readable,
)
from signal_manager.storage.records import RecordStorage

__all__ = ["MemoryStorage"]


class Document(NamedTuple):
    """A stored record beside its indexed fields, so that a search decodes only the records that it returns."""

    body: bytes
    indexed: dict[str, Any]
    nodes: list[str]


class MemoryStorage(RecordStorage):
    """Implement `Storage` in dictionaries. Its methods never await, which makes them atomic."""

    def __init__(self, *, operation_timeout: float = 5.0) -> None:
        super().__init__(operation_timeout=operation_timeout)
        self._collections: dict[str, dict[str, Document]] = {kind.collection: {} for kind in KINDS}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    async def _read(self, kind: Kind[RecordT], key: str) -> RecordT | None:
        document = self._collections[kind.collection].get(key)
        return None if document is None else require_readable(kind, key, document.body)

    async def _change(self, kind: Kind[RecordT], key: str, change: Change[RecordT]) -> Changed[RecordT]:
        before = await self._read(kind, key)
        after = change(before)
        if after is None:
            self._collections[kind.collection].pop(key, None)
        elif after != before:
            self._collections[kind.collection][key] = _document(kind, after)
        return Changed(before, after)

    async def _write(self, kind: Kind[RecordT], records: Sequence[RecordT]) -> None:
        self._collections[kind.collection].update({kind.key_of(record): _document(kind, record) for record in records})

    async def _remove(self, kind: Kind[Any], keys: Sequence[str]) -> None:
        for key in keys:
            self._collections[kind.collection].pop(key, None)

    async def _select(self, kind: Kind[RecordT], condition: Condition, after: str | None, limit: int) -> Page[RecordT]:
        if isinstance(condition, UpTo):
            return self._select_due(kind, condition, after, limit)
        found = (key for key in self._matching(kind, condition) if after is None or key > after)
        keys = heapq.nsmallest(limit + 1, found)
        return self._page(kind, keys[:limit], keys[limit - 1] if len(keys) > limit else None)

    def _select_due(self, kind: Kind[RecordT], condition: UpTo, after: str | None, limit: int) -> Page[RecordT]:
        start = None if after is None else TimeCursor.parse(after)
        times = (
            (time, key)
            for key, document in self._collections[kind.collection].items()
            if (time := document.indexed.get(condition.field)) is not None
            and time <= condition.at
            and (start is None or (time, key) > (start.at, start.key))
        )
        due = heapq.nsmallest(limit + 1, times)
        return self._page(
            kind, [key for _, key in due[:limit]], str(TimeCursor(*due[limit - 1])) if len(due) > limit else None
        )

    def _matching(self, kind: Kind[Any], condition: Equals | HasMemberOn | None) -> Iterator[str]:
        for key, document in self._collections[kind.collection].items():
            match condition:
                case None:
                    yield key
                case Equals(field, value):
                    if document.indexed.get(field) == value:
                        yield key
                case HasMemberOn(node_id):
                    if node_id in document.nodes:
                        yield key
                case _:
                    assert_never(condition)

    def _page(self, kind: Kind[RecordT], keys: list[str], following: str | None) -> Page[RecordT]:
        documents = self._collections[kind.collection]
        records = (readable(kind, key, documents[key].body) for key in keys)
        return Page(tuple(record for record in records if record is not None), following)


def _document(kind: Kind[RecordT], record: RecordT) -> Document:
    return Document(
        body=encode(record),
        indexed={field: getattr(record, field) for field in kind.indexed},
        nodes=member_nodes(record) if isinstance(record, Room) else [],
    )
