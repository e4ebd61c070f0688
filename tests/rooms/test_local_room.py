"""What a process knows of its rooms: a room stays one object while a member needs it, and is then forgotten."""

from __future__ import annotations

import gc

import pytest

from signal_manager.errors import NotFoundError
from signal_manager.model import Caller, ClientId, Identity, MemberRecord, RoomId, SessionId
from signal_manager.rooms import changes
from signal_manager.rooms.local_room import LocalRoom, LocalRooms, Membership
from signal_manager.rooms.room_log import RoomLog
from tests.rooms.harness import RoomHarness, in_one_room

R = RoomId("r")


def membership(rooms: LocalRooms, name: str, room_id: RoomId = R) -> Membership:
    """Return a member, as joining leaves it."""
    caller = Caller(Identity(client_id=ClientId(name)), SessionId(f"session-of-{name}"), "hash")
    local = rooms.get_or_create(room_id)
    member = Membership(caller, room_id, local, MemberRecord(client_id=ClientId(name), role="receiver"))
    rooms.members[caller.session_id] = member
    local.members[member.client_id] = member
    return member


async def test_a_room_is_one_object_for_as_long_as_it_is_needed() -> None:
    rooms = LocalRooms()
    local = rooms.get_or_create(R)

    assert rooms.get_or_create(R) is local
    assert [room_id for room_id, _ in rooms.all()] == [R]
    del local
    gc.collect()
    assert rooms.get(R) is None


async def test_a_member_is_found_in_its_own_room_alone_and_no_more_when_it_leaves() -> None:
    rooms = LocalRooms()
    alice = membership(rooms, "alice")

    assert rooms.member(alice.caller, "r") is alice
    assert rooms.room_of(alice.caller.session_id) == R
    with pytest.raises(NotFoundError, match="not in room other"):
        rooms.member(alice.caller, "other")
    del alice.local.members[alice.client_id]
    with pytest.raises(NotFoundError, match="not in room r"):
        rooms.member(alice.caller, "r")
    assert rooms.room_of(SessionId("another")) is None


async def test_a_newer_membership_of_the_same_client_is_the_member() -> None:
    rooms = LocalRooms()
    older = membership(rooms, "alice")
    newer = membership(rooms, "alice")

    assert (older.is_joined, newer.is_joined) == (False, True)


async def test_rooms_and_members_are_counted() -> None:
    rooms = LocalRooms()
    for name, room in (("a", "r"), ("b", "r"), ("c", "s")):
        membership(rooms, name, RoomId(room))

    assert (rooms.count_members(), rooms.count_rooms(), rooms.count_media_operations()) == (3, 2, 0)


async def test_a_room_knows_nothing_before_its_first_member() -> None:
    local = LocalRoom()
    record = MemberRecord(client_id=ClientId("a"), role="sender")

    before = (local.record, local.find(changes.key_of(record)))
    local.room_log = RoomLog(changes.opened(R, record, app_id="", metadata={}, max_participants=2, now=0.0))

    assert before == (None, None)
    assert local.find(changes.key_of(record)) == record


async def test_those_who_wait_for_a_media_session_hear_that_it_has_ended(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    local = harness.rooms._memberships.rooms.member(bob.caller, "room-1").local

    local.end_source(None)
    local.end_source(SessionId("session-1"))

    pulled = await bob.pull("alice")
    assert pulled.tracks[0].error_code in {None, 404}
    await alice.leave()
