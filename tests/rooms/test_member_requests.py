"""What members ask for: tracks, answers, data channels, ICE servers and the room's state."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
)
from signal_manager.protocol.messages import (
    DataChannelRequest,
    DataChannelResult,
    IceServers,
    RoomState,
    Simulcast,
    TrackRequest,
    TracksNew,
    TracksUpdate,
    TrackUpdate,
)
from tests.rooms.harness import ROOM, TURN, RoomHarness, in_one_room, offer, open_channels


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
