"""Measuring a store changes nothing but the numbers."""

from __future__ import annotations

import pytest

from signal_manager.errors import NotFoundError, UnavailableError
from signal_manager.model import Room, RoomId
from signal_manager.observe.metrics import Metrics
from signal_manager.storage.base import Storage
from signal_manager.storage.measured import measured
from signal_manager.storage.memory import MemoryStorage


class Away(MemoryStorage):
    async def get_room(self, room_id: RoomId) -> Room | None:
        raise UnavailableError("gone fishing")


def calls(metrics: Metrics, operation: str) -> dict[str, float]:
    samples = metrics.storage_calls.read().samples
    return {each.labels["outcome"]: each.value for each in samples if each.labels["operation"] == operation}


async def test_operations_do_what_they_did_and_are_counted() -> None:
    metrics = Metrics()
    async with MemoryStorage() as store:
        storage = measured(store, metrics)
        await storage.create_room(Room(room_id=RoomId("standup"), is_active=True))

        assert (await storage.list_rooms(is_active=True)).items[0].room_id == "standup"

    assert calls(metrics, "create_room") == {"answered": 1, "unavailable": 0}
    assert sum(metrics.storage_seconds.labelled("list_rooms").counts) == 1


async def test_a_refusal_is_an_answer_and_a_store_that_is_away_is_not() -> None:
    metrics = Metrics()
    async with Away() as store:
        storage = measured(store, metrics)
        with pytest.raises(NotFoundError):
            await storage.change_room(RoomId("nowhere"), lambda room: room)
        with pytest.raises(UnavailableError):
            await storage.get_room(RoomId("nowhere"))

    assert calls(metrics, "change_room") == {"answered": 1, "unavailable": 0}
    assert calls(metrics, "get_room") == {"answered": 0, "unavailable": 1}


def test_every_operation_of_the_interface_is_measured() -> None:
    storage = measured(MemoryStorage(), Metrics())

    for name in vars(Storage):
        if not name.startswith("_"):
            assert callable(getattr(storage, name))
