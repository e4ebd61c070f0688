"""When tracks are announced, and the effects of a lost media session on its member."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from signal_manager.errors import ConflictError, InvalidRequestError, TooLateError, UnavailableError
from signal_manager.media import errors as media_errors
from signal_manager.media.negotiation import Limits
from signal_manager.protocol.messages import TrackRequest, TracksNew
from signal_manager.rooms.member_media import kinds_of
from tests.rooms.harness import (
    ROOM,
    RoomHarness,
    offer,
    running,
    sender_and_receiver,
)

PATIENT = Limits(pauses=(0.005,))


@pytest.fixture
async def patient_harness() -> AsyncIterator[RoomHarness]:
    """A service that waits long for what comes too early."""
    async with running(RoomHarness(limits=PATIENT)) as harness:
        yield harness


@pytest.fixture
async def hasty_harness() -> AsyncIterator[RoomHarness]:
    """A service that does not wait long for answers."""
    async with running(RoomHarness(limits=Limits(answer=0.05))) as harness:
        yield harness


# -- announcing ----------------------------------------------------------------------------------------------------


async def test_a_pull_that_is_too_early_is_repeated_by_the_service(patient_harness: RoomHarness) -> None:
    harness = patient_harness
    harness.sfu.sends_at_once = False
    _, bob = await sender_and_receiver(harness)
    pulling = asyncio.create_task(bob.pull("alice"))
    await harness.until(lambda: harness.sfu.calls.count("pull") > 2)

    harness.sfu.send("session-1")

    ack = await pulling
    assert ack.tracks[0].error_code is None
    await bob.answer()


async def test_a_pull_that_is_too_early_for_too_long_says_so(harness: RoomHarness) -> None:
    harness.sfu.sends_at_once = False
    _, bob = await sender_and_receiver(harness)

    ack = await bob.pull("alice")

    assert (ack.tracks[0].error_code, ack.offer_sdp) == (404, None)
    await bob.publish("1")


async def test_a_pull_ends_when_its_publisher_leaves() -> None:
    async with running(RoomHarness(limits=Limits(pauses=(0.005,), patience=1000.0))) as harness:
        harness.sfu.sends_at_once = False
        alice, bob = await sender_and_receiver(harness)
        pulling = asyncio.create_task(bob.pull("alice"))
        await harness.until(lambda: harness.sfu.calls.count("pull") > 2)

        await alice.leave()

        ack = await pulling
        assert (ack.tracks[0].error_code, ack.offer_sdp) == (404, None)


async def test_a_pull_ends_when_its_publishers_media_is_lost() -> None:
    async with running(RoomHarness(limits=Limits(pauses=(0.005,), patience=1000.0))) as harness:
        harness.sfu.sends_at_once = False
        alice, bob = await sender_and_receiver(harness)
        pulling = asyncio.create_task(bob.pull("alice"))
        await harness.until(lambda: harness.sfu.calls.count("pull") > 2)

        harness.sfu.fail("publish", media_errors.SessionGoneError("410"))
        with pytest.raises(media_errors.SessionGoneError):
            await alice.publish("1")

        assert (await pulling).tracks[0].error_code == 404


async def test_a_request_before_the_client_is_connected_waits_for_that(patient_harness: RoomHarness) -> None:
    harness = patient_harness
    harness.sfu.connects_at_once = False
    alice, _ = await sender_and_receiver(harness)
    publishing = asyncio.create_task(alice.publish("1"))
    await harness.until(lambda: harness.sfu.calls.count("publish") > 2)

    harness.sfu.connect("session-1")

    assert (await publishing).answer_sdp == "v=0 answer"


# -- losing ----------------------------------------------------------------------------------------------------------


async def test_an_answer_that_never_comes_ends_the_media_session(hasty_harness: RoomHarness) -> None:
    harness = hasty_harness
    alice, bob = harness.client("alice"), harness.client("bob")
    await alice.create()
    await bob.join()
    await harness.settled()
    await alice.pull("bob")

    await harness.until(lambda: bob.told("tracks_unpublished", of="alice"))

    assert bob.events[-1].reason == "media session lost"
    with pytest.raises(TooLateError):
        await alice.answer()
    with pytest.raises(ConflictError):
        await alice.pull("bob")
    await harness.settled()
    assert {session for session, _ in harness.sfu.open_tracks} == {"session-2"}


async def test_a_receiver_whose_session_expired_unused_gets_another(harness: RoomHarness) -> None:
    bob = harness.client("bob")
    await bob.create(role="receiver")
    harness.sfu.expire("session-1")
    await harness.client("alice").join()
    await harness.settled()

    ack = await bob.pull("alice")
    await bob.answer()

    assert ack.offer_sdp == "v=0 offer"
    assert {session for session, _ in harness.sfu.open_tracks} == {"session-2", "session-3"}


async def test_a_receiver_whose_session_expired_unused_can_publish(harness: RoomHarness) -> None:
    bob, alice = harness.client("bob"), harness.client("alice")
    await bob.create(role="receiver")
    await alice.join(role="receiver")
    harness.sfu.expire("session-1")

    await bob.publish("0", names=["camera"])
    await harness.settled()

    assert (await harness.room()).participants[0].session_id == "session-3"
    assert (await alice.pull("bob")).tracks[0].session_id == "session-3"
    await alice.answer()


async def test_a_session_that_expires_in_use_is_lost(harness: RoomHarness) -> None:
    alice, bob = await sender_and_receiver(harness)
    await harness.settled()
    harness.sfu.expire("session-1")

    with pytest.raises(ConflictError):
        await alice.publish("1")

    await harness.until(lambda: bob.told("tracks_unpublished", of="alice"))


async def test_tracks_that_are_being_announced_when_their_session_is_lost_do_not_stay(harness: RoomHarness) -> None:
    alice, bob = await sender_and_receiver(harness)
    harness.sfu.fail("publish", media_errors.NoAnswerError("lost"))

    with pytest.raises(UnavailableError):
        await alice.publish("1")
    await harness.settled()

    # The ACK of a slow join tells of the track, and then no event does.
    news = [event.event for event in bob.events if event.event.startswith("tracks_")]
    assert news in ([], ["tracks_unpublished"], ["tracks_published", "tracks_unpublished"])
    assert (await harness.room()).participants[0].tracks == ()


async def test_an_offer_that_the_sfu_cannot_read_changes_nothing(harness: RoomHarness) -> None:
    alice, bob = await sender_and_receiver(harness)
    await harness.settled()
    request = TracksNew(room_id=ROOM, offer_sdp="nonsense", tracks=[TrackRequest(mid="1", track_name="x")])

    with pytest.raises(InvalidRequestError):
        await harness.rooms.members.change_tracks(alice.caller, request)

    await harness.settled()
    assert not bob.told("tracks_unpublished")


# -- descriptions ----------------------------------------------------------------------------------------------------


def test_kinds_are_read_from_an_offer() -> None:
    sdp = offer("a", kind="audio") + offer("v") + "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:d\r\n"

    assert kinds_of(sdp) == {"a": "audio", "v": "video"}


@pytest.mark.parametrize("sdp", ["", "m=", "a=mid:0", "m=video\na=mid:", "\x00", "m=audio 9\n" * 3])
def test_what_is_no_description_has_no_kinds(sdp: str) -> None:
    assert set(kinds_of(sdp)) <= {""}
