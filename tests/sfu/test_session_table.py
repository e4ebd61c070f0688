"""Sessions open within limits, end when they are over, and one that fails disturbs no other."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from signal_manager.sfu import session_table
from signal_manager.sfu.errors import RefusedError
from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.session_table import SessionTable
from signal_manager.sfu.settings import SfuSettings


class FakeSession:
    """A session that can be over, or fail."""

    def __init__(self, session_id: str, *, room: str, resources: Any, sessions: Any) -> None:
        self.id = session_id
        self.room = room
        self.is_over = False
        self.fails = False
        self.fails_to_close = False
        self.ticks = 0
        self.is_closed = False

    def is_expired(self, now: float) -> bool:
        return self.is_over

    def tick(self, now: float) -> None:
        if self.fails:
            raise ValueError("a fault")
        self.ticks += 1

    async def close(self) -> None:
        if self.fails_to_close:
            raise ValueError("a fault")
        self.is_closed = True


class Table:
    """A table with room for two sessions."""

    def __init__(self) -> None:
        self.counters = Counters()
        resources: Any = SimpleNamespace(
            settings=SfuSettings(max_sessions=2),
            counters=self.counters,
            load=SimpleNamespace(check_join=lambda: None),
            prefix="ab",
        )
        self.table = SessionTable(resources)

    def open(self, room: str = "") -> Any:
        return self.table.open(room)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr(session_table, "Session", FakeSession)
    return Table()


def test_sessions_have_the_workers_prefix_and_a_limit(table: Table) -> None:
    first, second = table.open("room"), table.open()

    assert (len(first.id), first.id[:2], first.room) == (32, "ab", "room")
    assert first.id != second.id
    with pytest.raises(RefusedError, match="the SFU has its 2 sessions"):
        table.open()
    assert table.counters.sessions_opened == 2


async def test_a_session_that_is_over_or_fails_is_closed_and_the_others_go_on(table: Table) -> None:
    over, well = table.open(), table.open()
    over.is_over = True
    table.table.tick(1.0)
    faulty = table.open()
    faulty.fails = True

    with capture_logs() as lines:
        table.table.tick(2.0)
    await asyncio.sleep(0)

    assert (over.is_closed, faulty.is_closed, well.ticks) == (True, True, 2)
    assert list(table.table.by_id.values()) == [well]
    assert [line["event"] for line in lines] == ["media session failed"]
    assert table.counters.sessions_expired == 1


async def test_closing_waits_for_every_session_even_if_one_fails_at_that(table: Table) -> None:
    faulty, well = table.open(), table.open()
    faulty.fails_to_close = True

    with capture_logs() as lines:
        await table.table.close()
        await asyncio.sleep(0)

    assert well.is_closed
    assert table.table.by_id == {}
    assert [line["event"] for line in lines] == ["media session did not close"]
