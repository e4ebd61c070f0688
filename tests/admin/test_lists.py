"""Pages of clients and rooms: everything is on one page, and a page costs a bounded number of reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from signal_manager.admin import lists
from signal_manager.admin.cluster import ClusterSessions
from signal_manager.admin.lists import list_clients, list_rooms
from signal_manager.model import ClientId, ClientRecord, NodeId, Room, RoomId, SessionId
from signal_manager.storage.base import Page
from signal_manager.storage.memory import MemoryStorage
from tests.admin.fakes import FakeLiveSessions, FakeSession
from tests.rooms.harness import RoomHarness, running


class CountingStorage(MemoryStorage):
    """Storage that counts the pages that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def list_rooms(self, **arguments: Any) -> Page[Room]:
        self.reads += 1
        return await super().list_rooms(**arguments)


class Listed:
    """Clients on record and connected, and rooms."""

    def __init__(self, harness: RoomHarness) -> None:
        self.storage = CountingStorage()
        self.live_sessions = FakeLiveSessions()
        self.cluster = ClusterSessions(
            live_sessions=self.live_sessions, rooms=harness.rooms, node_id=NodeId("n"), others=harness.bus.ask_others
        )

    async def record(self, *names: str) -> None:
        for name in names:
            await self.storage.put_client(ClientRecord(client_id=ClientId(name), auth_token="t"))

    def connect(self, *names: str) -> None:
        self.live_sessions.connected += [FakeSession(ClientId(name), SessionId(f"s-{name}")) for name in names]

    async def clients(self, limit: int, *, contains: str = "", is_connected: bool | None = None) -> list[str]:
        found: list[str] = []
        after: str | None = None
        while True:
            page = await list_clients(
                self.cluster, self.storage, is_connected=is_connected, contains=contains, after=after, limit=limit
            )
            assert len(page.items) <= limit
            found += [each.client_id for each in page.items]
            after = page.next
            if after is None:
                return found


@pytest.fixture
async def listed() -> AsyncIterator[Listed]:
    async with running(RoomHarness(has_media=False)) as harness:
        yield Listed(harness)


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_clients_on_record_and_connected_are_listed_once_and_in_order(listed: Listed, limit: int) -> None:
    await listed.record("a", "c", "e", "g")
    listed.connect("b", "c", "f", "z")

    assert await listed.clients(limit) == ["a", "b", "c", "e", "f", "g", "z"]


async def test_clients_are_filtered_by_name_and_by_whether_they_are_connected(listed: Listed) -> None:
    await listed.record("alice", "bob", "malice")
    listed.connect("alice", "carol")

    assert await listed.clients(2, is_connected=True) == ["alice", "carol"]
    assert await listed.clients(2, is_connected=False) == ["bob", "malice"]
    assert await listed.clients(1, contains="lic") == ["alice", "malice"]


async def test_a_filter_that_matches_little_continues_on_the_next_page(
    listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "_READS", 3)
    for number in range(10):
        name = f"r{number}" if number < 9 else "wanted"
        await listed.storage.create_room(Room(room_id=RoomId(name), is_active=True))

    first = await list_rooms(listed.storage, is_active=None, contains="wanted", after=None, limit=1)
    reads = listed.storage.reads
    found = list(first.items)
    after = first.next
    while after is not None:
        page = await list_rooms(listed.storage, is_active=None, contains="wanted", after=after, limit=1)
        found += page.items
        after = page.next

    assert (list(first.items), reads) == ([], 3)
    assert [room.room_id for room in found] == ["wanted"]
