"""The one way in which memberships end, for all reasons."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from structlog.testing import capture_logs

from signal_manager.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    SignalManagerError,
    UnavailableError,
)
from signal_manager.model import ClientId, MemberRecord, NodeId, Room, RoomId
from signal_manager.protocol.messages import RoomState
from signal_manager.rooms import persistence, service
from tests.rooms.harness import ROOM, SOON, RoomHarness, hear, in_one_room, with_ghost


@pytest.mark.parametrize("way", ["leave", "part", "lose"])
async def test_every_way_to_go_ends_in_the_same_clean_up(harness: RoomHarness, way: str) -> None:
    await harness.register("alice")
    alice, bob = await in_one_room(harness, "alice", "bob")
    await bob.pull("alice")
    await bob.answer()
    match way:
        case "leave":
            await alice.leave(reason="battery is empty")
        case "part":
            await harness.rooms.leave_room(alice.caller)
        case _:
            alice.lose_connection()
    await harness.until(lambda: bob.told("participant_left", of="alice"))
    await harness.settled()

    told = bob.events[-1]
    assert told.reason == {"leave": "battery is empty", "part": "left", "lose": "connection lost"}[way]
    assert told.participant is not None
    assert told.participant.tracks is not None
    assert [track.track_name for track in told.participant.tracks] == ["camera"]
    assert {session for session, _ in harness.sfu.open_tracks} == {"session-2"}
    assert {session for session, _ in await harness.ledger()} == {"session-2"}
    record = await harness.record("alice")
    assert (record.room_id, record.role, record.tracks) == (None, None, ())
    with pytest.raises(NotFoundError):
        await harness.rooms.members.state(alice.caller, RoomState(room_id=ROOM))


async def test_an_empty_room_is_closed(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    await alice.leave()
    assert (await harness.room()).is_active

    bob.lose_connection()
    await harness.settled()

    room = await harness.room()
    assert (room.is_active, room.close_reason, room.closed_at, room.participants) == (False, "empty", 1000.0, ())
    assert room.expires_at == 4600.0


async def test_whoever_leaves_while_it_negotiates_is_refused_what_it_waits_for(harness: RoomHarness) -> None:
    alice, _ = await in_one_room(harness, "alice", "bob")
    harness.sfu.gate.clear()
    publishing = asyncio.create_task(alice.publish("1"))
    await harness.until(lambda: harness.sfu.calls[-1] == "publish")

    alice.lose_connection()
    harness.sfu.gate.set()

    with pytest.raises(ConflictError):
        await publishing
    await harness.settled()


async def test_a_service_that_stops_does_not_wait_for_what_a_lost_call_may_yet_bring(
    harness: RoomHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "STOP_TIMEOUT", 1000.0)
    harness.rooms._settings = msgspec.structs.replace(harness.rooms._settings, stop_timeout=1000.0)
    alice, _ = await in_one_room(harness, "alice", "bob")
    harness.sfu.gate.clear()
    publishing = asyncio.create_task(alice.publish("1"))
    await harness.until(lambda: harness.sfu.calls[-1] == "publish")

    stopping = asyncio.create_task(harness.rooms.__aexit__(None, None, None))
    with pytest.raises(ConflictError):
        await publishing
    harness.sfu.gate.set()

    async with asyncio.timeout(SOON):
        await stopping
    assert {session for session, _ in await harness.ledger()} == {"session-1"}
    page = await harness.storage.list_media()
    await harness.storage.confirm_media([entry.entry_id for entry in page.items])


async def test_a_request_that_outlived_its_connection_is_cleaned_up_after(bare_harness: RoomHarness) -> None:
    alice = bare_harness.client("alice")
    alice.lose_connection()
    await alice.create()

    alice.lose_connection()
    await bare_harness.settled()

    assert not (await bare_harness.room()).is_active


@pytest.mark.parametrize("is_made", [False, True], ids=["not made", "made all the same"])
@pytest.mark.usefixtures("_impatient")
async def test_a_store_that_fails_while_somebody_leaves_is_asked_again(harness: RoomHarness, is_made: bool) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    harness.flaky.append((UnavailableError("disk"), is_made))

    await alice.leave()

    assert [event.event for event in bob.events].count("participant_left") == 1
    sequences = [event.sequence for event in bob.events]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


@pytest.mark.usefixtures("_impatient")
async def test_leaving_does_not_wait_forever_for_a_store(harness: RoomHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "PATIENCE", 0.01)
    alice, bob = await in_one_room(harness, "alice", "bob")
    harness.flaky.extend([(UnavailableError("disk"), False)] * 100_000)

    with pytest.raises(UnavailableError, match="retried until it can"):
        await alice.leave()
    harness.flaky.clear()

    await harness.until(lambda: bob.told("participant_left", of="alice"))


async def test_an_operator_takes_a_member_out_who_is_told_like_the_others(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    await harness.rooms.evict(ROOM, alice.name)
    await harness.settled()

    for client in (alice, bob):
        assert client.told("participant_left", of="alice")
        assert client.events[-1].reason == "removed"
    assert {session for session, _ in harness.sfu.open_tracks} == {"session-2"}
    await alice.join()
    assert [each.client_id for each in (await harness.room()).participants] == ["bob", "alice"]


async def test_an_operator_takes_out_what_no_process_knows_of(harness: RoomHarness) -> None:
    ghost = MemberRecord(client_id=ClientId("ghost"), role="sender", node_id=NodeId("gone"))
    await harness.storage.create_room(Room(room_id=ROOM, is_active=True, participants=(ghost,)))
    bob = harness.client("bob")
    await bob.join()

    await harness.rooms.evict(ROOM, ClientId("ghost"))

    assert bob.told("participant_left", of="ghost")
    assert [each.client_id for each in (await harness.room()).participants] == ["bob"]


async def test_an_operator_closes_a_room_with_its_members_in_it(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    await harness.rooms.close(ROOM, "the meeting is over")
    await harness.settled()

    for client in (alice, bob):
        assert (client.events[-1].event, client.events[-1].reason) == ("room_closed", "the meeting is over")
    room = await harness.room()
    assert (room.is_active, room.close_reason, room.closed_at) == (False, "the meeting is over", harness.now)
    assert harness.sfu.open_tracks == set()
    with pytest.raises(InvalidRequestError, match="is closed"):
        await harness.rooms.close(ROOM, "again")


async def test_what_is_not_there_cannot_be_taken_out_or_closed(harness: RoomHarness) -> None:
    await in_one_room(harness, "alice")

    for room_id, client_id in ((RoomId("nowhere"), "alice"), (ROOM, "bob")):
        with pytest.raises(NotFoundError):
            await harness.rooms.evict(room_id, ClientId(client_id))
    with pytest.raises(NotFoundError):
        await harness.rooms.close(RoomId("nowhere"), "why not")


# -- a stop --------------------------------------------------------------------------------------------------------


async def test_a_room_of_this_process_alone_is_closed_in_one_step_when_it_stops(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    await harness.rooms.empty()
    await harness.settled()

    for client in (alice, bob):
        assert client.events[-1].event == "room_closed"
        assert client.events[-1].reason == "restarting"
    assert not (await harness.room()).is_active
    assert harness.rooms.room_of(alice.caller.session_id) is None


async def test_a_room_with_members_on_other_nodes_goes_on_without_ours(harness: RoomHarness) -> None:
    (bob,) = await in_one_room(harness, "bob")
    before = await harness.room()
    ghost = MemberRecord(client_id=ClientId("ghost"), role="receiver", node_id=NodeId("node-9"), generation=1)
    hear(harness, before, await harness.storage.change_room(ROOM, lambda room: with_ghost(room, ghost)))

    await harness.rooms.empty()
    await harness.settled()

    assert [each.client_id for each in (await harness.room()).participants] == ["ghost"]
    assert (bob.events[-1].event, bob.events[-1].reason) == ("participant_left", "restarting")


async def test_a_room_that_cannot_be_emptied_keeps_no_other_from_it(harness: RoomHarness) -> None:
    alice = harness.client("alice")
    await alice.create("room-0")
    (bob,) = await in_one_room(harness, "bob")
    harness.flaky.append((SignalManagerError("the record cannot be read"), False))

    with capture_logs() as logs:
        await harness.rooms.empty()
    await harness.settled()

    assert [line["event"] for line in logs] == ["room not vacated"]
    rooms = (await harness.storage.list_rooms(is_active=True)).items
    assert len(rooms) == 1
    await harness.rooms.empty()
    await harness.settled()
    assert not (await harness.storage.list_rooms(is_active=True)).items
    assert bob.told("room_closed")
