"""A process's rooms in step with other nodes: what it hears of them, and what it reads after it could not hear."""

from __future__ import annotations

from signal_manager.model import ClientId, MemberRecord, NodeId, RoomId
from signal_manager.rooms import changes
from signal_manager.rooms.room_log import Change, write_change
from tests.rooms.harness import ROOM, RoomHarness, hear, in_one_room, with_ghost

FAR = NodeId("node-2")
GHOST = MemberRecord(client_id=ClientId("ghost"), role="sender", node_id=FAR, generation=1)


async def test_members_hear_what_other_nodes_do(harness: RoomHarness) -> None:
    (bob,) = await in_one_room(harness, "bob")
    before = await harness.room()

    hear(harness, before, await harness.storage.change_room(ROOM, lambda room: with_ghost(room, GHOST)))

    assert bob.told("participant_joined", of="ghost")


async def test_news_of_a_room_without_members_here_is_nobodys(harness: RoomHarness) -> None:
    (bob,) = await in_one_room(harness, "bob")
    closed = write_change(Change(sequence=9, event="room_closed"))

    harness.rooms._memberships.hear(RoomId("elsewhere"), closed)
    harness.rooms._memberships.hear(ROOM, b"\xc1 no change")

    assert not bob.told("room_closed")


async def test_a_node_that_could_not_hear_another_reads_the_rooms_that_they_share(harness: RoomHarness) -> None:
    (bob,) = await in_one_room(harness, "bob")
    before = await harness.room()
    ghost = await harness.storage.change_room(ROOM, lambda room: with_ghost(room, GHOST))
    hear(harness, before, ghost)
    missed = MemberRecord(client_id=ClientId("missed"), role="sender", node_id=FAR, generation=1)
    await harness.storage.change_room(ROOM, lambda room: with_ghost(room, missed))
    memberships = harness.rooms._memberships

    memberships.reunite(NodeId("another"))
    await harness.settled()
    after_another = bob.told("participant_joined", of="missed")
    memberships.reunite(FAR)
    await harness.settled()

    assert not after_another
    assert bob.told("participant_joined", of="missed")


async def test_after_a_cut_from_any_node_all_shared_rooms_are_read(harness: RoomHarness) -> None:
    (bob,) = await in_one_room(harness, "bob")
    before = await harness.room()
    hear(harness, before, await harness.storage.change_room(ROOM, lambda room: with_ghost(room, GHOST)))
    await harness.storage.change_room(
        ROOM, lambda room: with_ghost(room, MemberRecord(client_id=ClientId("missed"), role="sender", node_id=FAR))
    )

    harness.rooms._memberships.reunite(None)
    await harness.settled()

    assert bob.told("participant_joined", of="missed")


async def test_a_room_of_this_node_alone_is_not_read_again(harness: RoomHarness) -> None:
    (bob,) = await in_one_room(harness, "bob")
    news = len(bob.events)

    harness.rooms._memberships.reunite(None)
    await harness.settled()

    assert len(bob.events) == news


async def test_a_membership_that_another_node_ended_ends_here(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    room = await harness.room()
    member = next(each for each in room.participants if each.client_id == "alice")
    removed = Change(sequence=room.sequence + 1, event="participant_left", participant=member, reason="lease expired")

    harness.rooms._memberships.hear(ROOM, write_change(removed))
    await harness.settled()

    assert harness.rooms.room_of(alice.caller.session_id) is None
    assert bob.told("participant_left", of="alice")


async def test_what_another_node_says_of_an_absence_here_is_corrected(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    before = await harness.room()
    key = next(changes.key_of(each) for each in before.participants if each.client_id == "alice")

    marked = await harness.storage.change_room(ROOM, changes.with_absence(key, away=True, now=harness.now))
    hear(harness, before, marked)
    await harness.until(lambda: bob.told("participant_back", of="alice"))

    assert alice.told("participant_away", of="alice")
    member = changes.find(await harness.room(), key)
    assert member is not None
    assert not member.away
