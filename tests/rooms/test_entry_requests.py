"""Create, join, leave: who may come in, and what it is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from signal_manager.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    MediaBackendError,
    NotFoundError,
    SignalManagerError,
    TooLargeError,
    UnavailableError,
)
from signal_manager.media import errors as media_errors
from signal_manager.model import MemberRecord, NodeId, Room
from signal_manager.protocol.messages import (
    MAX_METADATA,
    ConnectionInfo,
    Member,
    PublishedTrack,
    TrackResult,
)
from tests.rooms.harness import ROOM, STUN, TURN, RoomHarness


async def test_a_sender_who_creates_a_room_gets_an_answer_and_everything_else(harness: RoomHarness) -> None:
    ack = await harness.client("alice").create(metadata={"name": "Alice"})

    assert (ack.status, ack.message, ack.room_id) == (200, "Room created successfully", ROOM)
    assert (ack.session_id, ack.app_id, ack.stun_url) == ("session-1", "app", "stun:stun.test:3478")
    assert ack.ice_servers == [TURN]
    assert (ack.answer_sdp, ack.offer_sdp, ack.requires_renegotiation) == ("v=0 answer", None, False)
    metadata = {"name": "Alice", "created_at": 1_000_000}
    assert ack.connection_info == ConnectionInfo(
        room_id=ROOM, role="sender", app_id="app", session_id="session-1", status="Connected", metadata=metadata
    )
    alice = Member(client_id="alice", role="sender", session_id="session-1", metadata={"name": "Alice"}, tracks=[])
    assert ack.participants == [alice]
    assert ack.tracks == [TrackResult(mid="0", track_name="camera", kind="video")]
    assert ack.sequence == 1


async def test_a_receiver_who_joins_gets_an_offer_for_what_is_there(harness: RoomHarness) -> None:
    alice, bob = harness.client("alice"), harness.client("bob")
    await alice.create()
    await harness.settled()

    ack = await bob.join(role="receiver")

    assert (ack.status, ack.message, ack.session_id) == (200, "Joined room successfully", "session-2")
    assert (ack.offer_sdp, ack.requires_renegotiation, ack.answer_sdp) == ("v=0 offer", True, None)
    [track] = ack.tracks
    assert (track.track_name, track.kind, track.client_id, track.session_id) == (
        "camera",
        "video",
        "alice",
        "session-1",
    )
    assert (ack.session_id, track.mid) in harness.sfu.open_tracks
    assert [member.client_id for member in ack.participants] == ["alice", "bob"]
    assert ack.participants[0].tracks == [PublishedTrack(mid="0", track_name="camera", kind="video")]
    assert (await bob.answer()).status == 200


async def test_a_receiver_who_finds_nothing_to_pull_gets_no_offer(harness: RoomHarness) -> None:
    ack = await harness.client("alice").create(role="receiver")

    assert (ack.answer_sdp, ack.offer_sdp, ack.requires_renegotiation, ack.tracks) == (None, None, False, [])
    assert ack.session_id == "session-1"


async def test_a_room_without_a_name_gets_one(harness: RoomHarness) -> None:
    ack = await harness.client("alice").create(None)

    assert (await harness.room(ack.room_id)).is_active


async def test_roles_are_read_in_any_case_as_the_original_service_did(harness: RoomHarness) -> None:
    ack = await harness.client("alice").create(role="SENDER")

    assert ack.connection_info.role == "sender"


async def test_the_records_say_who_is_where(harness: RoomHarness) -> None:
    await harness.register("alice")
    await harness.register("bob")
    alice, bob = harness.client("alice"), harness.client("bob")

    await alice.create(metadata={"k": 1}, max_participants=4)
    await harness.settled()
    await bob.join(role="receiver")

    room = await harness.room()
    assert (room.sender_client_id, room.receiver_client_id, room.session_id) == ("alice", "bob", "session-1")
    assert (room.app_id, room.max_participants, room.is_active) == ("app", 4, True)
    assert room.metadata == {"k": 1, "created_at": 1_000_000}
    record = await harness.record("alice")
    assert (record.room_id, record.role) == (ROOM, "sender")
    assert [track.track_name for track in record.tracks] == ["camera"]


async def test_of_many_who_would_make_a_room_at_once_one_does_and_the_others_join_it(harness: RoomHarness) -> None:
    clients = [harness.client(f"client-{number}") for number in range(60)]

    acks = await asyncio.gather(*(client.join(create_if_missing=True, max_participants=60) for client in clients))

    assert [ack.created for ack in acks].count(True) == 1
    assert sorted(ack.message for ack in acks).count("Room created successfully") == 1
    assert len({ack.sequence for ack in acks}) == 60
    room = await harness.room()
    assert len(room.participants) == room.max_participants == 60
    assert len(harness.sfu.open_tracks) == 60, "nobody negotiated twice"


async def test_a_room_made_by_joining_is_as_one_that_was_created(harness: RoomHarness) -> None:
    alice, bob = harness.client("alice"), harness.client("bob")
    first = await alice.join(create_if_missing=True, metadata={"k": 1}, max_participants=1)

    assert first.created is True
    assert first.connection_info.metadata == {"k": 1, "created_at": 1_000_000}
    with pytest.raises(ConflictError, match="is full"):
        await bob.join(create_if_missing=True)

    await alice.leave()
    second = await bob.join(create_if_missing=True)
    assert second.created is True, "a room that is closed is made anew"
    third = await alice.join(create_if_missing=True)
    assert third.created is None


async def test_who_may_not_enter_a_room_may_not_make_it_by_joining_either(harness: RoomHarness) -> None:
    with pytest.raises(ForbiddenError):
        await harness.client("alice", rooms=("other-*",)).join(create_if_missing=True)
    with pytest.raises(InvalidRequestError, match="max_participants is 101"):
        await harness.client("alice").join(create_if_missing=True, max_participants=101)
    with pytest.raises(NotFoundError):
        await harness.client("alice").join()
    assert await harness.storage.get_room(ROOM) is None


async def test_a_room_that_another_node_makes_meanwhile_is_joined(harness: RoomHarness) -> None:
    alice, bob = harness.client("alice"), harness.client("bob")
    harness.sfu.gate.clear()
    joining = asyncio.create_task(bob.join(create_if_missing=True))
    await harness.until(lambda: bool(harness.sfu.calls))
    record = MemberRecord(client_id=alice.name, role="receiver", node_id=NodeId("node-2"))
    await harness.storage.create_room(Room(room_id=ROOM, is_active=True, participants=(record,)))
    harness.sfu.gate.set()

    ack = await joining

    assert (ack.created, ack.sequence) == (None, 2)
    assert [member.client_id for member in ack.participants] == ["alice", "bob"]


async def test_a_room_that_closes_while_somebody_joins_is_made_again(harness: RoomHarness) -> None:
    alice, bob = harness.client("alice"), harness.client("bob")
    await alice.create()
    await harness.settled()
    harness.sfu.gate.clear()
    harness.sfu.calls.clear()
    joining = asyncio.create_task(bob.join(create_if_missing=True))
    await harness.until(lambda: bool(harness.sfu.calls))
    await harness.rooms.close(ROOM, "enough")
    harness.sfu.gate.set()

    assert (await joining).created is True
    assert [record.client_id for record in (await harness.room()).participants] == ["bob"]


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"role": "spectator"}, InvalidRequestError),
        ({"role": ""}, InvalidRequestError),
        ({"offer_sdp": None}, InvalidRequestError),
        ({"offer_sdp": ""}, InvalidRequestError),
        ({"offer_sdp": "hello"}, InvalidRequestError),
        ({"tracks": [PublishedTrack(mid="0", track_name=name) for name in "ab"]}, InvalidRequestError),
        ({"tracks": [PublishedTrack(mid=mid, track_name="a") for mid in "01"]}, InvalidRequestError),
        ({"tracks": [PublishedTrack(mid="7", track_name="a")]}, MediaBackendError),
        ({"metadata": {"a": "x" * MAX_METADATA}}, TooLargeError),
    ],
)
async def test_a_wrong_request_to_come_in_is_refused(
    harness: RoomHarness, fields: dict[str, Any], refusal: type[SignalManagerError]
) -> None:
    alice, bob = harness.client("alice"), harness.client("bob")
    with pytest.raises(refusal):
        await alice.create(**fields)
    assert await harness.storage.get_room(ROOM) is None
    await alice.create()

    with pytest.raises(refusal):
        await bob.join(**fields)

    assert [record.client_id for record in (await harness.room()).participants] == ["alice"]
    await harness.settled()
    assert not alice.told("participant_joined")


async def test_a_room_has_no_more_participants_than_the_service_allows(harness: RoomHarness) -> None:
    with pytest.raises(InvalidRequestError, match="max_participants is 101, expected at most 100"):
        await harness.client("alice").create(max_participants=101)


async def test_a_room_that_is_there_cannot_be_created(harness: RoomHarness) -> None:
    await harness.client("alice").create()

    with pytest.raises(ConflictError, match="exists already"):
        await harness.client("bob").create()


async def test_of_two_who_create_one_room_at_once_one_wins(harness: RoomHarness) -> None:
    alice, bob = harness.client("alice"), harness.client("bob")

    outcomes = await asyncio.gather(alice.create(), bob.create(), return_exceptions=True)

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ConflictError", "RoomCreateAck"]
    await harness.settled()
    assert {session for session, _ in harness.sfu.open_tracks} <= {
        outcome.session_id for outcome in outcomes if not isinstance(outcome, BaseException)
    }


async def test_an_unknown_room_cannot_be_joined(harness: RoomHarness) -> None:
    with pytest.raises(NotFoundError, match="no such room: room-1"):
        await harness.client("bob").join()

    assert "publish" not in harness.sfu.calls


async def test_a_closed_room_cannot_be_joined_but_created_again(harness: RoomHarness) -> None:
    alice, bob = harness.client("alice"), harness.client("bob")
    await alice.create()
    await alice.leave()

    with pytest.raises(InvalidRequestError, match="closed"):
        await bob.join()

    ack = await bob.create()
    assert ack.sequence > 2
    assert [member.client_id for member in ack.participants] == ["bob"]


async def test_nobody_joins_twice(harness: RoomHarness) -> None:
    alice = harness.client("alice")
    await alice.create()

    with pytest.raises(ConflictError, match="already"):
        await alice.join()
    with pytest.raises(ConflictError, match="already in room"):
        await harness.client("alice", session="another").join()

    await harness.settled()
    assert len((await harness.room()).participants) == 1


async def test_a_session_is_in_one_room_at_a_time(harness: RoomHarness) -> None:
    alice = harness.client("alice")
    await alice.create("one")

    with pytest.raises(ConflictError, match="room one already"):
        await alice.create("two")
    await alice.leave("one")

    await alice.create("two")


async def test_a_full_room_lets_nobody_in(harness: RoomHarness) -> None:
    await harness.client("alice").create(max_participants=1)

    with pytest.raises(ConflictError, match="full: 1 of 1"):
        await harness.client("bob").join()


async def test_turn_that_is_out_of_order_keeps_nobody_out(harness: RoomHarness) -> None:
    harness.sfu.fail("ice_servers", media_errors.UnreachableError("no route"))

    ack = await harness.client("alice").create()

    assert ack.ice_servers == [STUN]


@pytest.mark.parametrize(
    ("grants", "role"),
    [
        ({"rooms": ("demo-*",)}, "sender"),
        ({"rooms": ()}, "receiver"),
        ({"roles": ("receiver",)}, "sender"),
        ({"roles": ("sender",)}, "receiver"),
        ({"publish": False}, "sender"),
        ({"subscribe": False}, "receiver"),
    ],
)
async def test_a_token_that_does_not_allow_it_lets_nobody_in(
    harness: RoomHarness, grants: dict[str, Any], role: str
) -> None:
    await harness.client("alice").create()
    bob = harness.client("bob", **grants)

    with pytest.raises(ForbiddenError):
        await bob.join(role=role)
    with pytest.raises(ForbiddenError):
        await bob.create("room-2", role=role)


async def test_a_token_for_a_room_opens_it(harness: RoomHarness) -> None:
    await harness.client("alice", rooms=("room-*",), roles=("sender",)).create()

    await harness.client("bob", rooms=("room-1",), roles=("receiver",)).join(role="receiver")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "error",
    [media_errors.NoAnswerError("?"), media_errors.InternalFaultError("500"), media_errors.SessionGoneError("410")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(("role", "step"), [("sender", "publish"), ("receiver", "pull")])
async def test_an_sfu_that_fails_while_somebody_comes_in_leaves_nobody_half_in(
    harness: RoomHarness, role: str, step: str, error: SignalManagerError, after: bool
) -> None:
    alice, bob = harness.client("alice"), harness.client("bob")
    await alice.create()
    await harness.settled()
    harness.sfu.fail(step, error, after=after)
    if isinstance(error, media_errors.SessionGoneError):
        harness.sfu.fail(step, error)  # the first one is taken for an unused session that has expired

    with pytest.raises(type(error)):
        await bob.join(role=role)

    await harness.settled()
    assert [record.client_id for record in (await harness.room()).participants] == ["alice"]
    assert {session for session, _ in harness.sfu.open_tracks} == {"session-1"}
    assert not alice.told("participant_joined")
    await bob.join(role=role)


async def test_an_sfu_that_opens_no_session_lets_nobody_in(harness: RoomHarness) -> None:
    harness.sfu.fail("open_session", media_errors.UnreachableError("no route"))

    with pytest.raises(UnavailableError, match="no route"):
        await harness.client("alice").create()

    assert await harness.storage.get_room(ROOM) is None


async def test_who_creates_a_room_that_is_being_created_waits_and_asks_nothing_of_the_sfu(harness: RoomHarness) -> None:
    alice, bob = harness.client("alice"), harness.client("bob")
    harness.sfu.gate.clear()
    first = asyncio.create_task(alice.create())
    await harness.until(lambda: "open_session" in harness.sfu.calls)
    second = asyncio.create_task(bob.create())
    harness.sfu.gate.set()

    await first
    with pytest.raises(ConflictError):
        await second

    assert harness.sfu.calls.count("open_session") == 1


async def test_leaving_is_answered_with_the_originals_fields(harness: RoomHarness) -> None:
    alice = harness.client("alice")
    await alice.create()

    ack = await alice.leave()

    assert (ack.status, ack.message, ack.room_id, ack.client_id) == (200, "Left room successfully", ROOM, "alice")
    with pytest.raises(NotFoundError):
        await alice.leave()
