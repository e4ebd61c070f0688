"""What clients ask of rooms and what they are answered, each way to be refused included."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from signal_manager.errors import (
    InvalidRequestError,
    NotFoundError,
)
from signal_manager.media import errors as media_errors
from signal_manager.model import ClientId, NodeId
from signal_manager.protocol.messages import (
    IceServers,
)
from tests.rooms.harness import ROOM, STUN, RoomHarness, in_one_room, open_channels, running


async def test_a_message_to_the_room_goes_to_all_others(harness: RoomHarness) -> None:
    alice, *_ = await in_one_room(harness, "alice", "bob", "carol")

    assert harness.rooms.others(alice.caller, ROOM) == [ClientId("bob"), ClientId("carol")]


async def test_unregistering_outside_of_rooms_is_nothing_special(harness: RoomHarness) -> None:
    await harness.rooms.leave_room(harness.client("alice").caller)


async def test_without_a_media_backend_rooms_have_members_alone(bare_harness: RoomHarness) -> None:
    alice, bob = bare_harness.client("alice"), bare_harness.client("bob")
    created = await alice.create(offer_sdp=None)
    joined = await bob.join(role="receiver")

    assert (created.session_id, created.answer_sdp, created.ice_servers) == ("", None, [STUN])
    assert joined.offer_sdp is None
    assert alice.told("participant_joined", of="bob")
    for request in (alice.publish("0"), bob.pull("alice"), bob.answer(), alice.close("0"), open_channels(bob)):
        with pytest.raises(InvalidRequestError, match="no media backend"):
            await request
    ack = await bare_harness.rooms.members.ice_servers(alice.caller, IceServers())
    assert (ack.ice_servers, ack.expires_at) == ([STUN], None)
    assert await bare_harness.rooms.close_due_media(bare_harness.now) == 0
    assert bare_harness.sfu.calls == []


async def test_members_of_a_service_that_stops_are_taken_out(harness: RoomHarness) -> None:
    async with running(RoomHarness(storage=harness.storage)) as other:
        await other.client("alice").create("room-2")

    assert not (await harness.room("room-2")).is_active


async def test_operations_that_wait_for_the_sfu_are_counted(harness: RoomHarness) -> None:
    alice = harness.client("alice")
    await alice.create()
    await harness.settled()
    harness.sfu.gate.clear()

    publishing = [asyncio.create_task(alice.publish(mid)) for mid in ("1", "2")]
    await harness.until(lambda: harness.metrics.media_operations_pending.value() == 2)

    harness.sfu.gate.set()
    await asyncio.gather(*publishing)
    assert harness.metrics.media_operations_pending.value() == 0


async def test_a_node_that_has_died_is_cleaned_up_after(harness: RoomHarness) -> None:
    await in_one_room(harness, "bob")
    dead = RoomHarness(storage=harness.storage, node_id=NodeId("dead"), sfu=harness.sfu)
    dead.bus.announced = harness.rooms._memberships.hear
    await dead.rooms.__aenter__()
    await dead.client("ghost").join()
    await dead.settled()  # and then it is gone without another word

    await harness.rooms.clean_up_after(NodeId("dead"))
    await harness.rooms.close_due_media(harness.now)
    await harness.settled()

    assert [record.client_id for record in (await harness.room()).participants] == ["bob"]
    assert harness.client("bob").told("participant_left", of="ghost")
    assert {session for session, _ in harness.sfu.open_tracks} == {"session-1"}


async def test_members_of_a_room_that_expires_are_told_and_taken_out(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    await harness.storage.change_room(ROOM, lambda room: msgspec.structs.replace(room, expires_at=harness.now))

    expired = await harness.rooms.expire(harness.now + 1)

    assert [room.room_id for room in expired.closed_rooms] == [ROOM]
    await harness.settled()
    for client in (alice, bob):
        assert (client.events[-1].event, client.events[-1].reason) == ("room_closed", "expired")
        with pytest.raises(NotFoundError):
            await client.leave()
    assert harness.sfu.open_tracks == set()
    await alice.create("room-2")


async def test_rooms_and_participants_of_this_process_are_counted(harness: RoomHarness) -> None:
    await in_one_room(harness, "alice", "bob")
    await harness.client("carol").create("room-2")

    assert (harness.metrics.rooms.value(), harness.metrics.participants.value()) == (2, 3)


async def test_a_service_that_stops_gives_up_in_time_what_cannot_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal_manager.rooms.service.STOP_TIMEOUT", 0.05)
    harness = RoomHarness()
    async with harness.rooms:
        await harness.client("alice").create()
        await harness.settled()
        for _ in range(1000):
            harness.sfu.fail("close_tracks", media_errors.UnreachableError("no route"))

    assert not (await harness.room()).is_active
    assert await harness.ledger() == {("session-1", None), ("session-1", "0")}
