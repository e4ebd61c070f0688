"""Rooms hear that a member is away or back, at a bounded rate and never of one that has left."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from signal_manager.errors import (
    UnavailableError,
)
from signal_manager.model import ClientId, MemberRecord, NodeId
from signal_manager.rooms import absence
from tests.rooms.harness import ROOM, Client, RoomHarness, hear, in_one_room, with_ghost
from tests.waiting import until


async def test_others_hear_that_a_member_is_away_and_back_and_late_joiners_see_it(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    harness.rooms.set_away(alice.caller.session_id, is_away=True)
    await harness.settled()
    ack = await harness.client("carol").join()
    harness.rooms.set_away(alice.caller.session_id, is_away=False)
    await harness.settled()

    assert [each.client_id for each in ack.participants if each.away] == ["alice"]
    told = [event for event in bob.events if event.event in {"participant_away", "participant_back"}]
    assert [(event.participant.away, event.participant.client_id) for event in told if event.participant] == [
        (True, "alice"),
        (False, "alice"),
    ]
    assert [sequence for sequence, _ in bob.news] == sorted({sequence for sequence, _ in bob.news})
    assert not any(each.away for each in (await harness.room()).participants)


async def test_a_member_that_flaps_does_not_flood_its_room_and_the_last_state_wins(
    harness: RoomHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absence, "PAUSE", 0.02)
    alice, bob = await in_one_room(harness, "alice", "bob")

    for _ in range(50):
        harness.rooms.set_away(alice.caller.session_id, is_away=True)
        await harness.settled()
        harness.rooms.set_away(alice.caller.session_id, is_away=False)
        await harness.settled()
    harness.rooms.set_away(alice.caller.session_id, is_away=True)
    await until(lambda: bob.events[-1].event == "participant_away")
    await harness.settled()

    told = [event for _, event in bob.news if event in {"participant_away", "participant_back"}]
    assert told == ["participant_away", "participant_back"] * (len(told) // 2) + ["participant_away"] * (len(told) % 2)
    assert len(told) < 50
    assert [each.away for each in (await harness.room()).participants if each.client_id == "alice"] == [True]


async def test_who_is_away_before_it_has_come_in_comes_in_away(harness: RoomHarness) -> None:
    (bob,) = await in_one_room(harness, "bob")
    alice = harness.client("alice")
    joining = asyncio.ensure_future(alice.join())
    await asyncio.sleep(0)

    harness.rooms.set_away(alice.caller.session_id, is_away=True)
    await joining
    await harness.settled()

    assert bob.told("participant_away", of="alice")


@pytest.mark.parametrize("is_made", [False, True], ids=["not made", "made all the same"])
@pytest.mark.usefixtures("_impatient")
async def test_a_store_that_fails_while_somebody_is_away_is_asked_again(harness: RoomHarness, is_made: bool) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    harness.flaky.append((UnavailableError("disk"), is_made))

    harness.rooms.set_away(alice.caller.session_id, is_away=True)
    await harness.settled()

    assert bob.told("participant_away", of="alice")


async def test_nobody_hears_of_the_absence_of_who_has_left(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    await alice.leave()

    harness.rooms.set_away(alice.caller.session_id, is_away=True)
    await harness.settled()

    assert not bob.told("participant_away")


# -- a node that is missed -----------------------------------------------------------------------------------------


async def shared_with(harness: RoomHarness, *nodes: str) -> Client:
    """Return a member of a room that has a member on each of these nodes too."""
    (bob,) = await in_one_room(harness, "bob")
    before = await harness.room()
    for node in nodes:
        ghost = MemberRecord(client_id=ClientId(f"on-{node}"), role="receiver", node_id=NodeId(node), generation=1)
        after = await harness.storage.change_room(ROOM, partial(with_ghost, ghost=ghost))
        hear(harness, before, after)
        before = after
    return bob


async def test_members_of_a_node_that_is_missed_are_away_for_those_who_stay(harness: RoomHarness) -> None:
    bob = await shared_with(harness, "node-9")

    harness.rooms._memberships.absences.node_missed(NodeId("node-9"))
    await harness.settled()
    harness.rooms._memberships.absences.node_missed(NodeId("node-9"))
    await harness.settled()

    assert [event for _, event in bob.news].count("participant_away") == 1
    assert {each.client_id: each.away for each in (await harness.room()).participants} == {
        "bob": False,
        "on-node-9": True,
    }


async def test_of_the_nodes_that_are_left_only_the_first_one_says_so(harness: RoomHarness) -> None:
    bob = await shared_with(harness, "node-0", "node-9")

    harness.rooms._memberships.absences.node_missed(NodeId("node-9"))
    await harness.settled()

    assert not bob.told("participant_away")


@pytest.mark.usefixtures("_impatient")
async def test_a_missed_node_is_noted_though_storage_fails_first(harness: RoomHarness) -> None:
    bob = await shared_with(harness, "node-9")
    harness.flaky.append((UnavailableError("away"), False))

    harness.rooms._memberships.absences.node_missed(NodeId("node-9"))
    await harness.settled()

    assert bob.told("participant_away", of="on-node-9")


async def test_a_room_that_the_missed_node_is_not_in_hears_nothing(harness: RoomHarness) -> None:
    bob = await shared_with(harness, "node-9")

    harness.rooms._memberships.absences.node_missed(NodeId("node-7"))
    await harness.settled()

    assert not bob.told("participant_away")
