"""The five operations on documents that each adapter brings, with their arguments checked and their time bounded."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, TypeVar

from signal_manager.errors import InvalidRequestError, UnavailableError
from signal_manager.model import NAME_RULE, is_valid_name
from signal_manager.storage.base import MAX_PAGE, Page
from signal_manager.storage.documents import Change, Changed, Condition, Kind, RecordT

__all__ = ["DocumentStorage"]

T = TypeVar("T")


class DocumentStorage(ABC):
    """What keeps documents: an adapter implements the abstract methods, and `records.py` calls the others.

    Args:
        operation_timeout: seconds after which an operation of the adapter is given up.
    """

    def __init__(self, *, operation_timeout: float = 5.0) -> None:
        self._operation_timeout = operation_timeout

    # What an adapter brings. Keys are valid names; every method may be cancelled at any time.

    @abstractmethod
    async def _read(self, kind: Kind[RecordT], key: str) -> RecordT | None:
        """Return the record, or None; raise what `require_readable` raises."""

    @abstractmethod
    async def _change(self, kind: Kind[RecordT], key: str, change: Change[RecordT]) -> Changed[RecordT]:
        """Read, apply and write back as one atomic step; write nothing if `change` returns its argument.

        An error that `change` raises passes through. A damaged record raises as in `_read`.
        """

    @abstractmethod
    async def _write(self, kind: Kind[RecordT], records: Sequence[RecordT]) -> None:
        """Write the records, all or none, and replace those with the same ids."""

    @abstractmethod
    async def _remove(self, kind: Kind[Any], keys: Sequence[str]) -> None:
        """Remove the documents, all or none; ignore those that are missing."""

    @abstractmethod
    async def _select(self, kind: Kind[RecordT], condition: Condition, after: str | None, limit: int) -> Page[RecordT]:
        """Return up to `limit` undamaged documents that meet `condition` and come after the cursor `after`."""

    # The types of values in records.

    async def _get(self, kind: Kind[RecordT], key: str) -> RecordT | None:
        return await self._bounded(self._read(kind, key)) if is_valid_name(key) else None

    async def _apply(self, kind: Kind[RecordT], key: str, change: Change[RecordT]) -> Changed[RecordT]:
        _require_names(kind, [key])

        def checked(present: RecordT | None) -> RecordT | None:
            wanted = change(present)
            if wanted is not None and kind.key_of(wanted) != key:
                raise ValueError(f"a change may not rename {kind.collection} {key} to {kind.key_of(wanted)}")
            return wanted

        return await self._bounded_write(self._change(kind, key, checked))

    async def _put(self, kind: Kind[RecordT], records: Sequence[RecordT]) -> None:
        _require_names(kind, [kind.key_of(record) for record in records])
        if records:
            await self._bounded_write(self._write(kind, records))

    async def _delete(self, kind: Kind[Any], keys: Sequence[str]) -> None:
        _require_names(kind, keys)
        if keys:
            await self._bounded_write(self._remove(kind, keys))

    async def _list(self, kind: Kind[RecordT], condition: Condition, after: str | None, limit: int) -> Page[RecordT]:
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequestError(f"limit is {limit}, expected 1 to {MAX_PAGE}")
        if after is not None:
            _require_names(kind, [after])
        return await self._bounded(self._select(kind, condition, after, limit))

    async def _collect(self, kind: Kind[RecordT], condition: Condition, limit: int) -> list[RecordT]:
        """Return up to `limit` records; read on past damaged ones, so that these never block the others."""
        found: list[RecordT] = []
        after: str | None = None
        while len(found) < limit:
            page = await self._bounded(self._select(kind, condition, after, min(limit - len(found), MAX_PAGE)))
            found += page.items
            if page.next is None:
                break
            after = page.next
        return found

    async def _bounded(self, operation: Coroutine[Any, Any, T]) -> T:
        # In memory nothing waits, and a timer would cost as much as the operation.
        try:
            first = operation.send(None)
        except StopIteration as end:
            value: T = end.value
            return value
        try:
            async with asyncio.timeout(self._operation_timeout):
                return await _Begun(operation, first)
        except TimeoutError:
            raise UnavailableError(f"storage did not answer within {self._operation_timeout:g} s") from None

    def _bounded_write(self, operation: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Limit the time of a write. An adapter that limits its writes itself overrides this."""
        return self._bounded(operation)


class _Begun(Generic[T]):
    """The rest of an operation, which waits for `first`."""

    def __init__(self, operation: Coroutine[Any, Any, T], first: Any) -> None:
        self._operation = operation
        self._first = first

    def __await__(self) -> Generator[Any, Any, T]:
        waits_for = self._first
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:
                step: Callable[[Any], Any] = self._operation.throw
                sent = error
            else:
                step = self._operation.send
            try:
                waits_for = step(sent)
            except StopIteration as end:
                value: T = end.value
                return value


def _require_names(kind: Kind[Any], keys: Sequence[str]) -> None:
    if len(keys) > MAX_PAGE:
        raise InvalidRequestError(f"{len(keys)} records at once, expected at most {MAX_PAGE}")
    if not all(map(is_valid_name, keys)):
        raise InvalidRequestError(f"{kind.key} is not a valid name: expected {NAME_RULE}")
