"""What is checked before an adapter is asked, and what an adapter that does not answer costs."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.errors import InvalidRequestError, UnavailableError
from signal_manager.model import ClientId
from signal_manager.storage.base import MAX_PAGE
from signal_manager.storage.documents import CLIENTS, Kind, RecordT
from signal_manager.storage.memory import MemoryStorage
from signal_manager.testing.storage.fixtures import client


class SilentStorage(MemoryStorage):
    """A store that does not answer."""

    async def _read(self, kind: Kind[RecordT], key: str) -> RecordT | None:
        await asyncio.Event().wait()
        return None


async def test_an_operation_is_given_up_after_its_time() -> None:
    async with SilentStorage(operation_timeout=0.01) as store:
        with pytest.raises(UnavailableError, match=r"did not answer within 0\.01 s"):
            await store.get_client(ClientId("a"))
        with pytest.raises(UnavailableError, match="did not answer"):
            await store.update_client(ClientId("a"), status="online")


async def test_a_cancelled_call_is_cancelled_and_no_error_of_the_store() -> None:
    async with SilentStorage() as store:
        call = asyncio.ensure_future(store.get_client(ClientId("a")))
        await asyncio.sleep(0)
        call.cancel()

        with pytest.raises(asyncio.CancelledError):
            await call


class ThinkingStorage(MemoryStorage):
    """A store that waits twice, and whose second wait may end in an error."""

    error: Exception | None = None

    async def _read(self, kind: Kind[RecordT], key: str) -> RecordT | None:
        for _ in range(2):
            await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return await super()._read(kind, key)


async def test_an_operation_that_waits_for_a_while_returns_and_raises_as_it_does_alone() -> None:
    async with ThinkingStorage() as store:
        await store.put_client(client("a"))

        assert await store.get_client(ClientId("a")) == client("a")
        store.error = UnavailableError("full")
        with pytest.raises(UnavailableError, match="full"):
            await store.get_client(ClientId("a"))


async def test_an_operation_that_never_waits_takes_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "timeout", None)

    async with MemoryStorage() as store:
        assert await store.get_client(ClientId("a")) is None


async def test_no_adapter_is_asked_for_what_is_no_name_or_too_much() -> None:
    async with SilentStorage() as store:
        assert await store._get(CLIENTS, "no/name") is None
        with pytest.raises(InvalidRequestError, match="client_id is not a valid name"):
            await store._delete(CLIENTS, ["no/name"])
        with pytest.raises(InvalidRequestError, match=f"expected at most {MAX_PAGE}"):
            await store._delete(CLIENTS, ["a"] * (MAX_PAGE + 1))
        with pytest.raises(InvalidRequestError, match=f"limit is 0, expected 1 to {MAX_PAGE}"):
            await store._list(CLIENTS, None, None, 0)


async def test_a_change_may_not_give_a_record_another_id() -> None:
    async with MemoryStorage() as store:
        with pytest.raises(ValueError, match="may not rename clients a to b"):
            await store._apply(CLIENTS, "a", lambda _present: client("b"))

        assert await store.get_client(ClientId("a")) is None
