"""Metadata of rooms and members: who may change it, and who hears of it."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
)
from signal_manager.model import ClientId, RoomId
from signal_manager.protocol.messages import (
    MAX_METADATA,
    RoomState,
)
from tests.rooms.harness import ROOM, RoomHarness, in_one_room


async def test_a_member_changes_its_own_metadata_for_everybody_and_those_who_come_later(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    sequence = await alice.describe({"name": "Alice", "hand": True})

    for member in (alice, bob):
        told = member.events[-1]
        assert (told.event, told.sequence) == ("metadata_changed", sequence)
        assert told.participant is not None
        assert (told.participant.client_id, told.participant.metadata) == ("alice", {"name": "Alice", "hand": True})
    carol = harness.client("carol")
    ack = await carol.join()
    assert ack.participants[0].metadata == {"name": "Alice", "hand": True}
    assert await alice.describe({}) == ack.sequence + 1, "it is replaced as a whole"
    state = await harness.rooms.members.state(bob.caller, RoomState(room_id=ROOM))
    assert state.participants[0].metadata == {}


async def test_the_rooms_metadata_is_for_who_has_the_grant_admin(harness: RoomHarness) -> None:
    alice, bob = harness.client("alice", admin=True), harness.client("bob")
    await alice.create(metadata={"topic": "soup"})
    await bob.join()

    with pytest.raises(ForbiddenError, match="admin"):
        await bob.describe({"topic": "mine"}, scope="room")
    await alice.describe({"topic": "salad", "created_at": 7}, scope="room")

    told = bob.events[-1]
    metadata = {"topic": "salad", "created_at": 1_000_000}
    assert (told.event, told.participant, told.metadata) == ("metadata_changed", None, metadata)
    assert (await harness.rooms.members.state(bob.caller, RoomState(room_id=ROOM))).metadata == metadata


async def test_metadata_is_bounded_and_of_ones_own_room(harness: RoomHarness) -> None:
    [alice] = await in_one_room(harness, "alice")

    with pytest.raises(TooLargeError, match="16384"):
        await alice.describe({"a": "x" * MAX_METADATA})
    with pytest.raises(NotFoundError):
        await harness.client("bob").describe({})
    with pytest.raises(NotFoundError):
        await harness.rooms.describe(ROOM, ClientId("bob"), {})
    with pytest.raises(NotFoundError):
        await harness.rooms.describe(RoomId("elsewhere"), None, {})
    await harness.rooms.close(ROOM, "over")
    with pytest.raises(InvalidRequestError, match="is closed"):
        await harness.rooms.describe(ROOM, None, {})


async def test_metadata_and_tracks_that_change_at_once_are_all_kept(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    await asyncio.gather(
        *(alice.describe({"n": number}) for number in range(5)), alice.publish("1"), bob.describe({"b": 1})
    )
    await harness.settled()

    room = await harness.room()
    assert [len(each.tracks) for each in room.participants] == [2, 1]
    assert room.participants[1].metadata == {"b": 1}
    sequences = [sequence for sequence, _ in bob.news]
    assert sequences == sorted(set(sequences)), "each once and in order"
