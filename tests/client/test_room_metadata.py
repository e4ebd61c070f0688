"""Metadata of a room and of this client: the application hears of each change once."""

from __future__ import annotations

import pytest

from signal_manager.client.room_events import RoomChanged, RoomHappening, SelfChanged
from signal_manager.client.room_metadata import RoomMetadata


@pytest.fixture
def happened() -> list[RoomHappening]:
    return []


def test_what_the_room_has_at_joining_is_no_change(happened: list[RoomHappening]) -> None:
    metadata = RoomMetadata(None, happened.append)

    for value in ({}, {}, {"topic": "x"}, {"topic": "x"}, {}):
        metadata.take_room(value)

    assert happened == [RoomChanged({"topic": "x"}), RoomChanged({})]
    assert metadata.room == {}


def test_ones_own_metadata_is_what_one_joined_with_until_it_changes(happened: list[RoomHappening]) -> None:
    metadata = RoomMetadata({"name": "Alice"}, happened.append)

    metadata.take_own({"name": "Alice"})
    assert happened == []

    metadata.take_own({"name": "Al"})
    assert (happened, metadata.own) == ([SelfChanged({"name": "Al"})], {"name": "Al"})


def test_no_metadata_and_empty_metadata_are_the_same(happened: list[RoomHappening]) -> None:
    metadata = RoomMetadata(None, happened.append)

    metadata.take_own({})

    assert (happened, metadata.own) == ([], None)
