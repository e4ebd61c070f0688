"""Sessions in storage: what was saved comes back once, and a store that fails or lies harms nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import pytest
from structlog.testing import capture_logs

from signal_manager.errors import UnavailableError
from signal_manager.gateway.saved_sessions import SavedSessions
from signal_manager.model import ClientId, SavedSession, SessionId
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.journal import Budget, Journal
from signal_manager.protocol.messages import PayloadType, Shape
from signal_manager.protocol.resume import ClientSession, SessionPhase, WireFormat
from signal_manager.storage.memory import MemoryStorage

LIMIT = 1000


def session(name: str = "s", *messages: bytes) -> ClientSession:
    journal = Journal(limit=LIMIT)
    for message in messages:
        journal.keep(message)
    return ClientSession(
        session_id=SessionId(name),
        client_id=ClientId(f"client of {name}"),
        instance_id="i",
        token="secret",
        wire_format=WireFormat(Framing.V1, PayloadType.JSON, Shape.PLAIN),
        window=30.0,
        journal=journal,
    )


def saved_sessions(storage: MemoryStorage | None, *, limit: int = LIMIT) -> SavedSessions:
    return SavedSessions(storage, budget=Budget(1_000_000), window=30.0, limit=limit)


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def saved(storage: MemoryStorage) -> SavedSessions:
    return saved_sessions(storage)


async def test_a_saved_session_comes_back_once_with_its_messages_and_waits_for_its_client(saved: SavedSessions) -> None:
    await saved.save([session("s", b"one", b"two")])

    record = await saved.take(SessionId("s"))
    again = await saved.take(SessionId("s"))

    assert again is None
    assert record is not None
    loaded = saved.load(record)
    assert loaded is not None
    assert (loaded.phase, loaded.journal.unconfirmed, loaded.token) == (SessionPhase.AWAY, (b"one", b"two"), "secret")
    assert loaded.expires_at is not None
    assert not loaded.has_expired(time.monotonic() + 29)


async def test_a_session_is_dropped_from_storage_when_its_window_is_over(
    saved: SavedSessions, storage: MemoryStorage
) -> None:
    await saved.save([session("s")])

    assert await storage.take_session(SessionId("s"), now=time.time() + 31) is None


async def test_all_sessions_come_back_page_by_page(saved: SavedSessions) -> None:
    await saved.save([session(f"s{n}") for n in range(120)])

    names: list[str] = []
    while page := await saved.take_page():
        names += [record.session_id for record in page]

    assert sorted(names) == sorted(f"s{n}" for n in range(120))


async def test_a_session_of_another_client_is_put_back(saved: SavedSessions) -> None:
    await saved.save([session("s")])
    record = await saved.take(SessionId("s"))
    assert record is not None

    await saved.put_back(record)

    assert await saved.take(SessionId("s")) == record


async def test_sessions_that_cannot_be_written_are_lost_and_logged(saved: SavedSessions) -> None:
    class Away(MemoryStorage):
        async def save_sessions(self, sessions: Sequence[SavedSession]) -> tuple[SessionId, ...]:
            raise UnavailableError("the store does not answer")

    with capture_logs() as logs:
        await saved_sessions(Away()).save([session("s"), session("t")])

    assert [(line["log_level"], line["sessions"], line["reason"]) for line in logs] == [
        ("error", 2, "the store does not answer")
    ]


async def test_sessions_that_are_too_large_for_the_store_are_logged(saved: SavedSessions) -> None:
    class Small(MemoryStorage):
        async def save_sessions(self, sessions: Sequence[SavedSession]) -> tuple[SessionId, ...]:
            return (sessions[0].session_id,)

    with capture_logs() as logs:
        await saved_sessions(Small()).save([session("s"), session("t")])

    assert [(line["log_level"], line["sessions"]) for line in logs] == [("warning", 1)]


@pytest.mark.parametrize("change", [b"", b"garbage", b"\xc1", b"\x93" * 2000])
async def test_a_state_that_cannot_be_read_is_no_session(saved: SavedSessions, change: bytes) -> None:
    record = SavedSession(session_id=SessionId("s"), client_id=ClientId("a"), state=change, expires_at=0.0)

    with capture_logs() as logs:
        loaded = saved.load(record)

    assert loaded is None
    assert [line["session_id"] for line in logs] == ["s"]


async def test_a_state_of_another_version_is_no_session(saved: SavedSessions) -> None:
    fields = msgspec.msgpack.decode(session("s").save())
    state = msgspec.msgpack.encode(fields | {"version": 99})

    record = SavedSession(session_id=SessionId("s"), client_id=ClientId("a"), state=state, expires_at=0.0)

    assert saved.load(record) is None


async def test_a_session_larger_than_one_may_be_here_is_not_continued(
    saved: SavedSessions, storage: MemoryStorage
) -> None:
    await saved.save([session("s", bytes(800))])
    record = await saved.take(SessionId("s"))
    assert record is not None

    assert saved_sessions(storage, limit=100).load(record) is None


async def test_without_storage_sessions_end_with_the_service() -> None:
    none = saved_sessions(None)

    await none.save([session("s")])
    await none.put_back(SavedSession(session_id=SessionId("s"), client_id=ClientId("a"), state=b"", expires_at=0.0))

    assert not none.is_kept
    assert await none.take(SessionId("s")) is None
    assert await none.take_page() == ()
    assert saved_sessions(MemoryStorage()).is_kept
