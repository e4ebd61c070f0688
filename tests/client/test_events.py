"""The bounded queue of events."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.client.events import EventQueue, SignalReceived
from tests.client.fake_service import within


def numbered(number: int) -> SignalReceived:
    return SignalReceived("bob", "message", number)


async def test_events_come_out_in_order_and_then_the_end() -> None:
    queue: EventQueue[SignalReceived] = EventQueue()
    queue.put(numbered(1))
    queue.put(numbered(2))
    queue.end()

    assert [await queue.get() for _ in range(4)] == [numbered(1), numbered(2), None, None]


async def test_a_full_queue_drops_the_oldest_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    queue: EventQueue[SignalReceived] = EventQueue(size=2)
    for number in range(5):
        queue.put(numbered(number))

    assert queue.dropped == 3
    assert [await queue.get(), await queue.get()] == [numbered(3), numbered(4)]
    assert caplog.text.count("dropping the oldest of 2") == 1


async def test_readers_share_the_events_and_all_see_the_end() -> None:
    queue: EventQueue[SignalReceived] = EventQueue()
    readers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.put(numbered(1))
    queue.put(numbered(2))
    queue.end()

    results = await within(asyncio.gather(*readers))

    assert sorted(results, key=str) == [None, numbered(1), numbered(2)]
