"""Tracks are announced, muted and closed, and the room hears of each once."""

from __future__ import annotations

import pytest

from signal_manager.errors import (
    ConflictError,
    InvalidRequestError,
    UnavailableError,
)
from signal_manager.media import errors as media_errors
from signal_manager.protocol.messages import (
    PublishedTrack,
    RoomState,
)
from tests.rooms.harness import ROOM, RoomHarness, in_one_room, offer


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


@pytest.mark.parametrize("is_made", [False, True], ids=["not made", "made all the same"])
@pytest.mark.usefixtures("_impatient")
async def test_a_store_that_fails_while_tracks_are_announced_is_asked_again(
    harness: RoomHarness, is_made: bool
) -> None:
    alice, bob = await in_one_room(harness, "alice", "bob")
    harness.flaky.append((UnavailableError("disk"), is_made))

    await alice.publish("1", names=["screen"])
    await harness.settled()
    harness.flaky.append((UnavailableError("disk"), is_made))
    await alice.close("1")

    told = [event for event in bob.events if event.tracks and event.tracks[0].track_name == "screen"]
    assert [event.event for event in told] == ["tracks_published", "tracks_unpublished"]
    assert [track.track_name for track in (await harness.room()).participants[0].tracks] == ["camera"]
