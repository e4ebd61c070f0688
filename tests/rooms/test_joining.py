"""Memberships begin: no client is ever half a member, and none is one twice."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.errors import (
    ConflictError,
    SignalManagerError,
    UnavailableError,
)
from signal_manager.model import MemberRecord, NodeId
from tests.rooms.harness import ROOM, RoomHarness, hear, in_one_room, with_ghost


@pytest.mark.parametrize("how", ["leave", "unregister"])
async def test_whoever_leaves_while_it_comes_in_does_not_come_in(harness: RoomHarness, how: str) -> None:
    """What a client says last holds: it was told 404 before, and then it was let in."""
    alice, bob = harness.client("alice"), harness.client("bob")
    await alice.create()
    await harness.settled()
    harness.sfu.gate.clear()
    joining = asyncio.create_task(bob.join())
    await harness.until(lambda: harness.sfu.calls[-1] == "open_session")

    async def leave() -> None:
        await (bob.leave() if how == "leave" else harness.rooms.leave_room(bob.caller))

    leaving = asyncio.create_task(leave())
    await asyncio.sleep(0)
    harness.sfu.gate.set()

    with pytest.raises(SignalManagerError):
        await joining
    await leaving
    await harness.settled()
    assert not alice.told("participant_joined")
    assert harness.rooms._memberships.rooms.room_of(bob.caller.session_id) is None


async def test_whoever_goes_while_it_comes_in_does_not_come_in(harness: RoomHarness) -> None:
    alice, bob = harness.client("alice"), harness.client("bob")
    await alice.create()
    await harness.settled()
    harness.sfu.gate.clear()
    joining = asyncio.create_task(bob.join())
    await harness.until(lambda: harness.sfu.calls[-1] == "open_session")

    bob.lose_connection()
    harness.sfu.gate.set()

    with pytest.raises(SignalManagerError):
        await joining
    await harness.settled()
    assert not alice.told("participant_joined")
    assert {session for session, _ in harness.sfu.open_tracks} == {"session-1"}


async def test_whoever_goes_while_its_coming_is_written_down_leaves_again(harness: RoomHarness) -> None:
    alice, bob = harness.client("alice"), harness.client("bob")
    await alice.create()
    await harness.settled()
    joining = asyncio.create_task(bob.join())
    await harness.until(lambda: harness.sfu.calls.count("publish") == 2)
    while not joining.done():
        bob.lose_connection()
        await asyncio.sleep(0)

    await asyncio.gather(joining, return_exceptions=True)
    await harness.settled()

    assert [record.client_id for record in (await harness.room()).participants] == ["alice"]
    assert alice.told("participant_joined", of="bob") is alice.told("participant_left", of="bob")


async def test_a_cancelled_request_lets_nobody_in(harness: RoomHarness) -> None:
    harness.sfu.gate.clear()
    creating = asyncio.create_task(harness.client("alice").create())
    await harness.until(lambda: harness.sfu.calls == ["ice_servers", "open_session"])

    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)
    harness.sfu.gate.set()
    await harness.settled()

    assert await harness.storage.get_room(ROOM) is None
    await harness.client("alice").create()


async def test_a_client_who_is_back_at_once_waits_for_its_former_self_to_go(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    alice.lose_connection()
    again = harness.client("alice", session="the next")

    ack = await again.join()

    assert [member.client_id for member in ack.participants] == ["bob", "alice"]
    await harness.settled()
    assert [event for _, event in bob.news][-3:] == ["participant_left", "participant_joined", "tracks_published"]


async def test_a_membership_that_nobody_knows_of_gives_way(harness: RoomHarness) -> None:
    """As after a crash whose lease has not run out yet."""
    bob = harness.client("bob")
    await bob.create()
    await harness.settled()
    ghost = MemberRecord(client_id=harness.client("alice").name, role="sender", node_id=NodeId("dead"), generation=7)
    before = await harness.room()
    hear(harness, before, await harness.storage.change_room(ROOM, lambda room: with_ghost(room, ghost)))

    ack = await harness.client("alice").join()

    assert [member.client_id for member in ack.participants] == ["bob", "alice"]
    assert bob.told("participant_left", of="alice")


async def test_of_fifty_who_join_at_once_as_many_get_in_as_may(harness: RoomHarness) -> None:
    alice = harness.client("alice")
    await alice.create(max_participants=10)
    others = [harness.client(f"client-{number}") for number in range(50)]

    outcomes = await asyncio.gather(*(other.join() for other in others), return_exceptions=True)

    assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 41
    assert len((await harness.room()).participants) == 10
    await harness.settled()
    assert len(harness.sfu.open_tracks) == 10


@pytest.mark.parametrize("is_made", [False, True], ids=["not made", "made all the same"])
@pytest.mark.usefixtures("_impatient")
async def test_a_store_that_fails_while_somebody_comes_in_leaves_nobody_half_in(
    harness: RoomHarness, is_made: bool
) -> None:
    [alice] = await in_one_room(harness, "alice")
    harness.flaky.append((UnavailableError("disk"), is_made))

    with pytest.raises(UnavailableError):
        await harness.client("bob").join()

    await harness.settled()
    assert [record.client_id for record in (await harness.room()).participants] == ["alice"]
    await harness.client("carol").join()
    assert alice.told("participant_joined", of="carol")
