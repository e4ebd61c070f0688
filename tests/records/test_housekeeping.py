"""Leases, and what is cleaned up when they run out."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from signal_manager.errors import UnavailableError
from signal_manager.model import ClientId, ClientRecord, NodeId
from signal_manager.records.housekeeping import Housekeeping
from signal_manager.storage.memory import MemoryStorage


class Node:
    """A node's housekeeping with a clock that tests move, and what it has cleaned up."""

    def __init__(self, storage: MemoryStorage, name: str = "n", *, lease: float = 30.0, is_alone: bool = False) -> None:
        self.now = 1000.0
        self.cleaned: list[str] = []
        self.media_closed_at: list[float] = []
        self.housekeeping = Housekeeping(
            storage=storage,
            node_id=NodeId(name),
            clean_ups=[self.clean_up],
            expire=lambda now: storage.expire(now=now),
            close_media=self.close_media,
            is_alone=is_alone,
            lease=lease,
            clock=lambda: self.now,
        )

    async def close_media(self, now: float) -> None:
        self.media_closed_at.append(now)

    async def clean_up(self, node_id: NodeId) -> None:
        self.cleaned.append(node_id)


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


async def test_a_node_cleans_up_after_its_earlier_life_and_its_own(storage: MemoryStorage) -> None:
    node = Node(storage)

    async with node.housekeeping:
        assert node.cleaned == ["n"]

    assert node.cleaned == ["n", "n"]
    assert await storage.take_over(now=1e9, until=1e9 + 1) is None


async def test_a_node_that_is_gone_is_cleaned_up_after_once_its_lease_has_run_out(storage: MemoryStorage) -> None:
    await storage.hold_lease(NodeId("gone"), until=1030)
    node, other = Node(storage), Node(storage, "other")
    async with node.housekeeping, other.housekeeping:
        await node.housekeeping.keep()
        assert "gone" not in node.cleaned

        node.now = other.now = 1015
        await asyncio.gather(node.housekeeping.keep(), other.housekeeping.keep())
        node.now = other.now = 1031
        await asyncio.gather(node.housekeeping.keep(), other.housekeeping.keep())

        assert (node.cleaned + other.cleaned).count("gone") == 1
        assert await storage.take_over(now=1031, until=1061) is None


async def test_a_node_that_is_alone_waits_for_no_lease(storage: MemoryStorage) -> None:
    await storage.hold_lease(NodeId("crashed-a-moment-ago"), until=1029.9)
    node = Node(storage, is_alone=True)

    async with node.housekeeping:
        assert "crashed-a-moment-ago" in node.cleaned


async def test_a_lost_lease_is_held_again_and_logged(storage: MemoryStorage) -> None:
    node = Node(storage)
    async with node.housekeeping:
        assert await storage.take_over(now=2000, until=2030) == "n"
        node.now = 2001

        with capture_logs() as lines:
            await node.housekeeping.keep()

        assert "lease lost" in [line["event"] for line in lines]
        assert await storage.renew_lease(NodeId("n"), until=2100)


async def test_records_past_their_time_are_removed(storage: MemoryStorage) -> None:
    for number in range(3):
        await storage.put_client(ClientRecord(client_id=ClientId(f"c{number}"), auth_token="", expires_at=999.0))
    await storage.put_client(ClientRecord(client_id=ClientId("stays"), auth_token="", expires_at=1001.0))
    node = Node(storage)

    with capture_logs() as lines:
        await node.housekeeping.expire()

    assert [record.client_id for record in (await storage.list_clients()).items] == ["stays"]
    assert [line["clients"] for line in lines] == [3]


async def test_media_is_closed_when_it_is_due(storage: MemoryStorage) -> None:
    node = Node(storage)

    await node.housekeeping.close_media()

    assert node.media_closed_at == [1000.0]


async def test_duties_go_on_when_storage_is_away_for_a_while(storage: MemoryStorage) -> None:
    node = Node(storage, lease=0.003)
    attempts = asyncio.Queue[int]()

    async def renew(node_id: NodeId, *, until: float) -> bool:
        attempts.put_nowait(1)
        if attempts.qsize() % 2:
            raise UnavailableError("away")
        raise RuntimeError("a mistake of ours")

    with capture_logs() as lines:
        async with node.housekeeping:
            storage.renew_lease = renew  # type: ignore[method-assign]  # a store that fails
            async with asyncio.timeout(5):
                for _ in range(3):
                    await attempts.get()

    assert {line["event"] for line in lines} >= {"housekeeping failed"}


async def test_what_cannot_be_cleaned_up_at_the_end_is_left_to_the_lease(storage: MemoryStorage) -> None:
    node = Node(storage)

    async def release(node_id: NodeId) -> None:
        raise UnavailableError("away")

    with capture_logs() as lines:
        async with node.housekeeping:
            storage.release_lease = release  # type: ignore[method-assign]  # a store that fails

    assert [line["event"] for line in lines] == ["records left to the lease"]
