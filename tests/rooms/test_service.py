"""What clients ask of rooms and what they are answered, each way to be refused included."""

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
from signal_manager.model import ClientId, NodeId, Participant, Room, RoomId
from signal_manager.protocol.messages import (
    MAX_METADATA,
    ConnectionInfo,
    DataChannelRequest,
    DataChannelResult,
    DataChannelsNew,
    DataChannelsNewAck,
    IceServer,
    IceServers,
    Member,
    PublishedTrack,
    RoomState,
    Simulcast,
    TrackRequest,
    TrackResult,
    TracksNew,
    TracksUpdate,
    TrackUpdate,
)
from tests.rooms.harness import ROOM, Client, RoomHarness, offer, running

STUN = IceServer(urls=["stun:stun.test:3478"])
TURN = IceServer(urls=["turn:turn.test:3478"], username="u", credential="c")


async def in_one_room(harness: RoomHarness, *names: str, role: str = "sender") -> list[Client]:
    """Return clients who are in the room, the first one its creator, with everybody's camera announced."""
    clients = [harness.client(name) for name in names]
    await clients[0].create(role=role)
    for client in clients[1:]:
        await client.join(role=role)
    await harness.settled()
    return clients


# -- coming in ---------------------------------------------------------------------------------------------------


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
    participant = Participant(client_id=alice.name, role="receiver", node_id=NodeId("node-2"))
    await harness.storage.create_room(Room(room_id=ROOM, is_active=True, participants=(participant,)))
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
    assert [participant.client_id for participant in (await harness.room()).participants] == ["bob"]


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

    assert [participant.client_id for participant in (await harness.room()).participants] == ["alice"]
    await harness.settled()
    assert not alice.told("participant_joined")


async def test_a_room_has_no_more_participants_than_the_service_allows(harness: RoomHarness) -> None:
    with pytest.raises(InvalidRequestError, match="max_participants is 101, expected at most 100"):
        await harness.client("alice").create(max_participants=101)


async def test_a_room_that_is_there_cannot_be_created(harness: RoomHarness) -> None:
    await harness.client("alice").create()

    with pytest.raises(ConflictError, match="there already"):
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


# -- grants ------------------------------------------------------------------------------------------------------


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


async def test_a_token_says_who_may_publish_and_pull(harness: RoomHarness) -> None:
    alice = harness.client("alice", subscribe=False)
    await alice.create()
    await harness.settled()
    bob, carol = harness.client("bob", publish=False), harness.client("carol", roles=("receiver",))
    for receiver in (bob, carol):
        await receiver.join(role="receiver")
        await receiver.answer()

        with pytest.raises(ForbiddenError, match="publish"):
            await receiver.publish("0")
    with pytest.raises(ForbiddenError, match="subscribe"):
        await alice.pull("bob")
    update = TracksUpdate(room_id=ROOM, tracks=[TrackUpdate(mid="1", simulcast=Simulcast(preferred_rid="h"))])
    with pytest.raises(ForbiddenError, match="subscribe"):
        await harness.rooms.members.update_tracks(alice.caller, update)
    with pytest.raises(ForbiddenError, match="publish"):
        await open_channels(bob, DataChannelRequest(location="local", data_channel_name="chat"))
    channel = DataChannelRequest(location="remote", data_channel_name="chat", client_id="bob")
    with pytest.raises(ForbiddenError, match="subscribe"):
        await open_channels(alice, channel)


# -- what only members may do --------------------------------------------------------------------------------------


async def test_whoever_is_not_in_a_room_can_do_nothing_in_it(harness: RoomHarness) -> None:
    await harness.client("alice").create()
    await harness.settled()
    outsider = harness.client("mallory")
    await outsider.create("another-room")
    attempts = [
        outsider.leave(),
        outsider.publish("0"),
        outsider.pull("alice"),
        outsider.answer(),
        outsider.close("0"),
        open_channels(outsider),
        harness.rooms.members.state(outsider.caller, RoomState(room_id=ROOM)),
        harness.rooms.members.update_tracks(outsider.caller, TracksUpdate(room_id=ROOM, tracks=[])),
    ]

    for attempt in attempts:
        with pytest.raises(NotFoundError, match="not in room room-1"):
            await attempt
    with pytest.raises(NotFoundError):
        harness.rooms.others(outsider.caller, ROOM)


async def test_the_state_is_what_members_have_been_told(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    state = await harness.rooms.members.state(bob.caller, RoomState(room_id=ROOM))

    assert (state.room_id, state.sequence) == (ROOM, alice.events[-1].sequence)
    assert [member.client_id for member in state.participants] == ["alice", "bob"]
    assert (state.max_participants, state.created_at) == (100, 1_000_000)


async def test_a_message_to_the_room_goes_to_all_others(harness: RoomHarness) -> None:
    alice, *_ = await in_one_room(harness, "alice", "bob", "carol")

    assert harness.rooms.others(alice.caller, ROOM) == [ClientId("bob"), ClientId("carol")]


async def test_leaving_is_answered_with_the_originals_fields(harness: RoomHarness) -> None:
    alice = harness.client("alice")
    await alice.create()

    ack = await alice.leave()

    assert (ack.status, ack.message, ack.room_id, ack.client_id) == (200, "Left room successfully", ROOM, "alice")
    with pytest.raises(NotFoundError):
        await alice.leave()


async def test_unregistering_outside_of_rooms_is_nothing_special(harness: RoomHarness) -> None:
    await harness.rooms.leave_room(harness.client("alice").caller)


# -- tracks --------------------------------------------------------------------------------------------------------


async def test_a_member_publishes_more_later(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    ack = await alice.publish("1", "2", names=["screen", "microphone"])
    await harness.settled()

    assert ack.answer_sdp == "v=0 answer"
    assert [(track.mid, track.track_name) for track in ack.tracks] == [("1", "screen"), ("2", "microphone")]
    told = bob.events[-1]
    assert told.event == "tracks_published"
    assert told.tracks is not None
    assert [track.track_name for track in told.tracks] == ["screen", "microphone"]
    assert told.participant is not None
    assert told.participant.tracks is not None
    assert [track.track_name for track in told.participant.tracks] == ["camera", "screen", "microphone"]


async def test_an_offer_without_tracks_publishes_all_it_holds(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob", role="receiver")

    request = TracksNew(room_id=ROOM, offer_sdp=offer("a", "b", kind="audio"), tracks=[])
    ack = await harness.rooms.members.change_tracks(alice.caller, request)
    await harness.until(lambda: bob.told("tracks_published"))

    assert [(track.mid, track.track_name, track.kind) for track in ack.tracks] == [
        ("a", "auto-a", "audio"),
        ("b", "auto-b", "audio"),
    ]


async def test_a_track_that_fails_leaves_the_others_alone(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    ack = await alice.publish("1", "2", names=["camera", "screen"])
    await harness.until(lambda: any(event.tracks and event.tracks[0].track_name == "screen" for event in bob.events))

    failed, fine = ack.tracks
    assert (failed.track_name, failed.mid, failed.error_code) == ("camera", None, 409)
    assert (fine.mid, fine.error_code) == ("2", None)


async def test_pulling_brings_an_offer_and_an_error_for_what_is_not_there(harness: RoomHarness) -> None:
    _, bob = await in_one_room(harness, "alice", "bob")

    ack = await bob.pull("alice", "camera", "screen")
    await bob.answer()

    fine, missing = ack.tracks
    assert (ack.offer_sdp, ack.requires_renegotiation) == ("v=0 offer", True)
    assert (fine.client_id, fine.session_id, fine.error_code) == ("alice", "session-1", None)
    assert (missing.track_name, missing.mid, missing.error_code) == ("screen", None, 404)


async def test_pulling_what_nobody_publishes_does_not_bother_the_sfu(harness: RoomHarness) -> None:
    _, bob = await in_one_room(harness, "alice", "bob")
    await harness.client("eve").create("another-room")
    await harness.settled()
    calls = len(harness.sfu.calls)

    by_client = await bob.pull("eve")
    elsewhere = TrackRequest(session_id="session-3", track_name="camera")
    by_session = await harness.rooms.members.change_tracks(bob.caller, TracksNew(room_id=ROOM, tracks=[elsewhere]))

    assert [track.error_code for track in by_client.tracks + by_session.tracks] == [404, 404]
    assert (by_client.offer_sdp, len(harness.sfu.calls)) == (None, calls)


async def test_a_track_is_found_by_its_publishers_session_too(harness: RoomHarness) -> None:
    _, bob = await in_one_room(harness, "alice", "bob")
    wanted = TrackRequest(session_id="session-1", track_name="camera", simulcast=Simulcast(preferred_rid="h"))

    ack = await harness.rooms.members.change_tracks(bob.caller, TracksNew(room_id=ROOM, tracks=[wanted]))
    await bob.answer()

    assert ack.tracks[0].client_id == "alice"
    assert ack.tracks[0].mid is not None


@pytest.mark.parametrize(
    "request_",
    [
        TracksNew(room_id=ROOM, tracks=[]),
        TracksNew(room_id=ROOM, tracks=[TrackRequest(track_name="camera")]),
        TracksNew(room_id=ROOM, tracks=[TrackRequest(track_name="camera", client_id="alice")] * 2),
        TracksNew(room_id=ROOM, tracks=[TrackRequest(track_name="camera")], offer_sdp=offer("1")),
        TracksNew(
            room_id=ROOM, tracks=[TrackRequest(track_name="x", mid="1", client_id="alice")], offer_sdp=offer("1")
        ),
        TracksNew(room_id=ROOM, tracks=[TrackRequest(track_name="x", mid="1")], offer_sdp="nonsense"),
    ],
)
async def test_a_wrong_request_for_tracks_is_refused(harness: RoomHarness, request_: TracksNew) -> None:
    _, bob = await in_one_room(harness, "alice", "bob")

    with pytest.raises(InvalidRequestError):
        await harness.rooms.members.change_tracks(bob.caller, request_)

    await bob.publish("1")


async def test_closing_a_published_track_takes_it_from_the_room(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    ack = await alice.close("0", "99", offer_sdp=offer("0"))

    assert [(track.mid, track.error_code) for track in ack.tracks] == [("0", None), ("99", None)]
    assert ack.answer_sdp == "v=0 answer"
    told = bob.events[-1]
    assert (told.event, told.reason) == ("tracks_unpublished", "closed")
    assert told.tracks == [PublishedTrack(mid="0", track_name="camera", kind="video")]
    assert told.participant is not None
    assert told.participant.tracks == []
    assert ("session-1", "0") not in harness.sfu.open_tracks
    assert ("session-1", "0") not in await harness.ledger()


async def test_closing_a_pulled_track_is_nobodys_news(harness: RoomHarness) -> None:
    _, bob = await in_one_room(harness, "alice", "bob")
    ack = await bob.pull("alice")
    await bob.answer()
    before = len(bob.events)

    await bob.close(ack.tracks[0].mid or "")

    assert len(bob.events) == before


async def test_closing_nothing_is_refused(harness: RoomHarness) -> None:
    [alice] = await in_one_room(harness, "alice")

    with pytest.raises(InvalidRequestError, match="tracks is empty"):
        await alice.close()


async def test_a_pulled_track_is_switched_without_negotiation(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    await alice.publish("1", names=["screen"])
    await harness.settled()
    mid = (await bob.pull("alice")).tracks[0].mid or ""
    await bob.answer()
    updates = [
        TrackUpdate(mid=mid, simulcast=Simulcast(preferred_rid="q")),
        TrackUpdate(mid=mid, track_name="nothing", client_id="alice"),
        TrackUpdate(mid="99", track_name="screen", client_id="alice"),
    ]

    ack = await harness.rooms.members.update_tracks(bob.caller, TracksUpdate(room_id=ROOM, tracks=updates))

    assert [(track.mid, track.error_code) for track in ack.tracks] == [(mid, None), (mid, 404), ("99", 502)]


@pytest.mark.parametrize(
    "tracks", [[], [TrackUpdate(mid="1")], [TrackUpdate(mid="1", track_name="camera")]], ids=["none", "what", "whose"]
)
async def test_a_wrong_update_is_refused(harness: RoomHarness, tracks: list[TrackUpdate]) -> None:
    _, bob = await in_one_room(harness, "alice", "bob")

    with pytest.raises(InvalidRequestError):
        await harness.rooms.members.update_tracks(bob.caller, TracksUpdate(room_id=ROOM, tracks=tracks))


async def test_answers_are_for_ones_own_offer_alone(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    await bob.pull("alice")

    with pytest.raises(InvalidRequestError, match="answer without an offer"):
        await alice.answer()
    with pytest.raises(InvalidRequestError):
        await bob.answer("nonsense")

    await bob.answer()


async def test_an_answer_overtakes_what_waits_for_it(harness: RoomHarness) -> None:
    _, bob = await in_one_room(harness, "alice", "bob")
    await bob.pull("alice")
    waiting = asyncio.create_task(bob.publish("5"))
    await asyncio.sleep(0)

    await bob.answer()

    assert (await waiting).answer_sdp == "v=0 answer"


# -- data channels and ICE -----------------------------------------------------------------------------------------


async def open_channels(
    client: Client, *channels: DataChannelRequest, offer_sdp: str | None = None
) -> DataChannelsNewAck:
    request = DataChannelsNew(room_id=ROOM, data_channels=list(channels), offer_sdp=offer_sdp)
    return await client.harness.rooms.members.open_channels(client.caller, request)


async def test_data_channels_are_published_and_subscribed_to(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    transport = await open_channels(alice, offer_sdp=offer("5"))
    await open_channels(bob)
    await bob.answer()
    published = await open_channels(alice, DataChannelRequest(location="local", data_channel_name="chat"))
    subscribed = await open_channels(
        bob,
        DataChannelRequest(location="remote", data_channel_name="chat", client_id="alice"),
        DataChannelRequest(location="remote", data_channel_name="chat", client_id="eve"),
    )

    assert transport.answer_sdp == "v=0 answer"
    assert published.data_channels == [DataChannelResult(data_channel_name="chat", id=1, location="local")]
    fine, missing = subscribed.data_channels
    assert (fine.id, fine.client_id, fine.session_id) == (1, "alice", "session-1")
    assert (missing.id, missing.error_code) == (None, 404)


async def test_wrong_requests_for_data_channels_are_refused(harness: RoomHarness) -> None:
    [alice] = await in_one_room(harness, "alice")
    fussy = DataChannelRequest(location="local", data_channel_name="c", max_retransmits=1, max_packet_life_time=1)
    nobodys = DataChannelRequest(location="remote", data_channel_name="c")
    plain = DataChannelRequest(location="local", data_channel_name="c")

    for channel, sdp in ((fussy, None), (nobodys, None), (plain, offer("0"))):
        with pytest.raises(InvalidRequestError):
            await open_channels(alice, channel, offer_sdp=sdp)


async def test_ice_servers_are_given_with_their_end(harness: RoomHarness) -> None:
    ack = await harness.rooms.members.ice_servers(harness.client("alice").caller, IceServers())

    assert (ack.ice_servers, ack.expires_at) == ([TURN], 2_000_500)


# -- without media ---------------------------------------------------------------------------------------------------


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


# -- the SFU fails -----------------------------------------------------------------------------------------------


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
    assert [participant.client_id for participant in (await harness.room()).participants] == ["alice"]
    assert {session for session, _ in harness.sfu.open_tracks} == {"session-1"}
    assert not alice.told("participant_joined")
    await bob.join(role=role)


async def test_an_sfu_that_opens_no_session_lets_nobody_in(harness: RoomHarness) -> None:
    harness.sfu.fail("open_session", media_errors.UnreachableError("no route"))

    with pytest.raises(UnavailableError, match="no route"):
        await harness.client("alice").create()

    assert await harness.storage.get_room(ROOM) is None


@pytest.mark.parametrize(("given", "told"), [(None, "closed"), ("ended", "ended")])
async def test_the_others_hear_why_a_track_is_closed(harness: RoomHarness, given: str | None, told: str) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    await alice.close("0", reason=given)

    await harness.until(lambda: bob.told("tracks_unpublished", of="alice"))
    assert bob.events[-1].reason == told


@pytest.mark.parametrize("step", ["publish", "pull"])
async def test_an_sfu_that_fails_later_ends_the_media_session_and_tells_the_room(
    harness: RoomHarness, step: str
) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    harness.sfu.fail(step, media_errors.NoAnswerError("lost"), after=True)

    with pytest.raises(UnavailableError):
        await (alice.publish("1") if step == "publish" else alice.pull("bob"))
    await harness.until(lambda: bob.told("tracks_unpublished", of="alice"))
    await harness.settled()

    assert bob.events[-1].reason == "media session lost"
    assert {session for session, _ in harness.sfu.open_tracks} == {"session-2"}
    with pytest.raises(ConflictError):
        await alice.publish("2")
    await alice.leave()
    await alice.join()


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


# -- metadata ----------------------------------------------------------------------------------------------------


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


# -- muting ------------------------------------------------------------------------------------------------------


async def test_a_muted_track_is_told_to_all_and_shown_to_those_who_come_later(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    ack = await alice.mute(mid_0=True, mid_7=True)

    assert [(each.mid, each.error_code) for each in ack.tracks] == [("0", None), ("7", 404)]
    told = bob.events[-1]
    muted = [PublishedTrack(mid="0", track_name="camera", kind="video", muted=True)]
    assert (told.event, told.tracks) == ("tracks_muted", muted)
    assert told.participant is not None
    assert told.participant.tracks == muted
    carol = harness.client("carol")
    assert (await carol.join()).participants[0].tracks == muted
    before = len(bob.events)
    await alice.mute(mid_0=True)
    assert len(bob.events) == before, "what is known already is not told again"
    await alice.mute(mid_0=False)
    await harness.settled()
    assert "tracks_unmuted" in [event.event for event in carol.events]
    with pytest.raises(InvalidRequestError):
        await alice.mute()


async def test_a_track_may_be_muted_from_the_start_and_before_it_is_announced(harness: RoomHarness) -> None:
    harness.sfu.sends_at_once = False
    alice, bob = harness.client("alice"), harness.client("bob")
    await alice.create(tracks=[PublishedTrack(mid="0", track_name="camera", muted=True)])
    await bob.join(role="receiver")
    await alice.publish("1")
    await alice.mute(mid_1=True)
    [member, _] = (await harness.rooms.members.state(bob.caller, RoomState(room_id=ROOM))).participants
    harness.sfu.send(member.session_id or "")
    await harness.until(lambda: sum(len(event.tracks or ()) for event in bob.events) == 2)

    tracks = [track for event in bob.events for track in event.tracks or ()]
    assert [(track.mid, track.muted) for track in tracks] == [("0", True), ("1", True)]
    await harness.settled()
