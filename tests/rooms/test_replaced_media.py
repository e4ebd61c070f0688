"""A media session replaced behind its membership: RENEGOTIATE with tracks in place of an answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from signal_manager.errors import ForbiddenError, InvalidRequestError, SignalManagerError
from signal_manager.media import errors as media_errors
from signal_manager.protocol.messages import PublishedTrack, Renegotiate, RenegotiateAck
from tests.rooms.harness import ROOM, Client, RoomHarness, in_one_room, offer


async def replace(client: Client, *mids: str) -> RenegotiateAck:
    """Begin a new media session that publishes cameras."""
    tracks = [PublishedTrack(mid=mid, track_name=f"new-{mid}", kind="video") for mid in mids]
    message = Renegotiate(room_id=ROOM, offer_sdp=offer(*mids) if mids else None, tracks=tracks)
    return await client.harness.rooms.members.renegotiate(client.caller, message)


async def test_a_replaced_media_session_is_a_pause_and_no_departure(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    former = (await harness.room()).participants[0].session_id
    seen = len(bob.events)

    ack = await replace(alice, "0")
    await harness.until(lambda: len(bob.events) == seen + 2)

    replaced, published = bob.events[seen:]
    assert (replaced.event, published.event) == ("media_replaced", "tracks_published")
    assert ack.session_id not in {None, former}
    assert (ack.answer_sdp, [track.track_name for track in ack.tracks or []]) == ("v=0 answer", ["new-0"])
    for event in (replaced, published):
        assert event.participant is not None
        assert (event.participant.client_id, event.participant.session_id) == ("alice", ack.session_id)
        assert [track.track_name for track in event.tracks or []] == ["new-0"]
    assert replaced.participant is not None
    assert replaced.participant.tracks == []


async def test_the_former_session_is_closed_and_forgotten_once_it_is_replaced(harness: RoomHarness) -> None:
    (alice,) = await in_one_room(harness, "alice")
    former = (await harness.room()).participants[0].session_id

    ack = await replace(alice, "0")
    await harness.settled()

    assert {session for session, _ in harness.sfu.open_tracks} == {ack.session_id}
    assert former not in {session for session, _ in await harness.ledger()}


async def test_others_pull_from_the_new_session(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")

    ack = await replace(alice, "0")
    pulled = await bob.pull("alice", "new-0")

    assert [track.session_id for track in pulled.tracks] == [ack.session_id]


async def test_a_receivers_session_is_replaced_without_an_offer(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    ack = await replace(bob)

    pulled = await bob.pull("alice")

    assert (ack.status, ack.answer_sdp, ack.tracks) == (200, None, [])
    assert pulled.requires_renegotiation
    assert alice.events[-1].event == "media_replaced"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"offer_sdp": offer("0")},
        {"tracks": [PublishedTrack(mid="0", track_name="a")]},
        {"tracks": [], "offer_sdp": offer("0")},
        {"answer_sdp": "v=0", "tracks": []},
        {"answer_sdp": "v=0", "offer_sdp": offer("0")},
        {
            "offer_sdp": offer("0"),
            "tracks": [PublishedTrack(mid="0", track_name="a"), PublishedTrack(mid="0", track_name="b")],
        },
    ],
)
async def test_renegotiate_is_either_an_answer_or_a_new_session(harness: RoomHarness, fields: dict[str, Any]) -> None:
    (alice,) = await in_one_room(harness, "alice")
    before = await harness.room()

    with pytest.raises(InvalidRequestError):
        await harness.rooms.members.renegotiate(alice.caller, Renegotiate(room_id=ROOM, **fields))

    assert await harness.room() == before


async def test_a_new_session_that_the_sfu_refuses_to_open_can_be_asked_for_again(harness: RoomHarness) -> None:
    (alice,) = await in_one_room(harness, "alice")
    harness.sfu.fail("open_session", media_errors.UnreachableError("no route"))

    with pytest.raises(SignalManagerError):
        await replace(alice, "0")

    assert (await replace(alice, "0")).status == 200


async def test_of_two_new_sessions_at_once_the_later_one_counts(harness: RoomHarness) -> None:
    (alice,) = await in_one_room(harness, "alice")

    first, second = await asyncio.gather(replace(alice, "0"), replace(alice, "1"), return_exceptions=True)

    assert isinstance(first, SignalManagerError)
    assert isinstance(second, RenegotiateAck)
    assert (await harness.room()).participants[0].session_id == second.session_id


async def test_a_new_session_publishes_what_the_present_token_allows(harness: RoomHarness) -> None:
    """A token may have been renewed since its client came in."""
    (alice,) = await in_one_room(harness, "alice")
    restricted = harness.client("alice", publish=False)
    before = await harness.room()

    with pytest.raises(ForbiddenError):
        await replace(restricted, "0")

    assert await harness.room() == before
    assert (await replace(alice, "0")).status == 200


async def test_what_was_published_is_gone_for_others_when_no_new_session_can_be_opened(harness: RoomHarness) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    harness.sfu.fail("open_session", media_errors.UnreachableError("no route"))

    with pytest.raises(SignalManagerError):
        await replace(alice, "0")
    await harness.settled()

    assert (bob.events[-1].event, bob.events[-1].reason) == ("tracks_unpublished", "media session lost")
    assert (await harness.room()).participants[0].tracks == ()
    assert (await replace(alice, "0")).status == 200
    await harness.until(lambda: bob.events[-1].event == "tracks_published")
