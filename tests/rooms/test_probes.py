"""Asking the SFU whether tracks send: before they are announced, and for as long as they are."""

from __future__ import annotations

import asyncio

from signal_manager.errors import UnavailableError
from signal_manager.media import errors as media_errors
from signal_manager.media.base import MediaSessionId
from signal_manager.rooms.probes import ProbeSettings
from tests.rooms.harness import (
    LIMITS,
    Client,
    RoomHarness,
    running,
    sender_and_receiver,
)

# As in `harness`, with nothing asked about announced tracks unless something happens, or all the time.
UNASKED = ProbeSettings(first_pause=0.005, longest_pause=0.02, check=1000.0, second_look=0.01)


ASKED = ProbeSettings(first_pause=0.005, longest_pause=0.02, check=0.02, second_look=0.01)


async def announced(harness: RoomHarness) -> tuple[Client, Client]:
    """Return a sender whose camera is announced, and a receiver who has heard so."""
    harness.sfu.sends_at_once = False  # else the ACK of a slow join tells of the track, and no event does
    alice, bob = await sender_and_receiver(harness)
    harness.sfu.send("session-1")
    harness.sfu.sends_at_once = True
    await harness.until(lambda: bob.told("tracks_published", of="alice"))
    await harness.settled()  # the room hears of a track just before its media session counts it as announced
    return alice, bob


def asked(harness: RoomHarness) -> int:
    """How often the SFU was asked what a session holds."""
    return harness.sfu.calls.count("session_state")


async def test_a_pull_that_fails_makes_the_service_ask_and_unpublish_the_dead_track() -> None:
    async with running(RoomHarness(limits=LIMITS, probing=UNASKED)) as harness:
        _, bob = await announced(harness)
        harness.sfu.silence("session-1", "0")

        assert (await bob.pull("alice")).tracks[0].error_code == 404

        await harness.until(lambda: bob.told("tracks_unpublished", of="alice"))
        assert bob.events[-1].reason == "media lost"
        assert [track.mid for track in bob.events[-1].tracks or ()] == ["0"]


async def test_whoever_comes_in_and_fails_to_pull_makes_the_service_ask_too() -> None:
    async with running(RoomHarness(limits=LIMITS, probing=UNASKED)) as harness:
        _, bob = await announced(harness)
        harness.sfu.silence("session-1", "0")

        await harness.client("carol").join(role="receiver")

        await harness.until(lambda: bob.told("tracks_unpublished", of="alice"))


async def test_a_member_that_comes_back_is_asked_for_what_it_publishes() -> None:
    async with running(RoomHarness(probing=UNASKED)) as harness:
        alice, bob = await announced(harness)
        harness.rooms.set_away(alice.caller.session_id, is_away=True)
        del harness.sfu.sessions[MediaSessionId("session-1")].tracks["0"]

        harness.rooms.set_away(alice.caller.session_id, is_away=False)

        await harness.until(lambda: bob.told("tracks_unpublished", of="alice"))
        assert next(event for event in bob.events if event.event == "tracks_unpublished").reason == "media lost"


async def test_the_sfu_is_asked_now_and_then_and_two_bad_answers_unpublish_a_track() -> None:
    async with running(RoomHarness(probing=ASKED)) as harness:
        alice, bob = await announced(harness)
        await alice.publish("1", names=["screen"])
        await harness.until(lambda: len(bob.events) == 2)

        harness.sfu.silence("session-1", "1")

        await harness.until(lambda: bob.told("tracks_unpublished", of="alice"))
        assert [track.track_name for track in bob.events[-1].tracks or ()] == ["screen"]
        member = bob.events[-1].participant
        assert member is not None
        assert [track.track_name for track in member.tracks or ()] == ["camera"]


async def test_a_track_that_was_given_up_is_announced_again_when_it_sends_again() -> None:
    async with running(RoomHarness(probing=ASKED)) as harness:
        _, bob = await announced(harness)
        harness.sfu.silence("session-1", "0")
        await harness.until(lambda: bob.told("tracks_unpublished", of="alice"))

        harness.sfu.send("session-1", "0")

        await harness.until(lambda: bob.news[-1][1] == "tracks_published")


async def test_a_media_session_that_the_sfu_has_forgotten_takes_its_tracks_with_it() -> None:
    async with running(RoomHarness(probing=ASKED)) as harness:
        _, bob = await announced(harness)

        harness.sfu.expire("session-1")

        await harness.until(lambda: bob.told("tracks_unpublished", of="alice"))


async def test_an_sfu_that_fails_or_does_not_answer_unpublishes_nothing() -> None:
    async with running(RoomHarness(probing=ASKED)) as harness:
        _, bob = await announced(harness)
        for _ in range(10):
            harness.sfu.fail("session_state", media_errors.UnreachableError("no route"))
            harness.sfu.fail("session_state", media_errors.TransientFaultError("503"))
        await harness.until(lambda: not harness.sfu.failures["session_state"])
        harness.sfu.gate.clear()
        await asyncio.sleep(5 * ASKED.check)
        assert not bob.told("tracks_unpublished")
        harness.sfu.gate.set()
        before = asked(harness)
        await harness.until(lambda: asked(harness) > before + 2)

        assert not bob.told("tracks_unpublished")


async def test_a_change_that_storage_refuses_is_tried_again_at_the_next_question() -> None:
    async with running(RoomHarness(probing=ASKED)) as harness:
        _, bob = await announced(harness)
        harness.flaky.append((UnavailableError("locked"), False))

        harness.sfu.silence("session-1", "0")

        await harness.until(lambda: bob.told("tracks_unpublished", of="alice"))


async def test_nothing_is_asked_of_members_without_announced_tracks() -> None:
    async with running(RoomHarness(probing=ASKED)) as harness:
        alice, _ = await announced(harness)
        before = asked(harness)
        await harness.until(lambda: asked(harness) > before + 2)

        await alice.close("0")
        await harness.settled()
        before = asked(harness)
        await asyncio.sleep(10 * ASKED.check)

        assert asked(harness) <= before + 1


async def test_a_track_is_announced_when_it_is_sending_and_not_before(harness: RoomHarness) -> None:
    harness.sfu.sends_at_once = False
    _, bob = await sender_and_receiver(harness)
    asked = harness.sfu.calls.count("session_state")
    await harness.until(lambda: harness.sfu.calls.count("session_state") > asked + 2)
    assert bob.events == []

    harness.sfu.send("session-1")

    await harness.until(lambda: bob.told("tracks_published", of="alice"))
    assert (await bob.pull("alice")).tracks[0].error_code is None
    await bob.answer()


async def test_tracks_that_begin_to_send_one_after_the_other_are_announced_so(harness: RoomHarness) -> None:
    harness.sfu.sends_at_once = False
    alice, bob = await sender_and_receiver(harness)
    await alice.publish("1", names=["screen"])
    harness.sfu.send("session-1", "1")
    await harness.until(lambda: bob.told("tracks_published"))

    harness.sfu.send("session-1", "0")
    await harness.until(lambda: len(bob.events) == 2)

    names = [[track.track_name for track in event.tracks or ()] for event in bob.events]
    assert names == [["screen"], ["camera"]]


async def test_what_is_closed_before_it_was_announced_never_is(harness: RoomHarness) -> None:
    harness.sfu.sends_at_once = False
    alice, bob = await sender_and_receiver(harness)

    await alice.close("0")
    await harness.settled()

    assert bob.events == []


async def test_a_track_that_never_sends_is_given_up() -> None:
    probing = ProbeSettings(first_pause=0.001, longest_pause=0.005, patience=0.02)
    async with running(RoomHarness(probing=probing)) as harness:
        harness.sfu.sends_at_once = False
        _, bob = await sender_and_receiver(harness)
        await harness.settled()
        asked = harness.sfu.calls.count("session_state")

        harness.sfu.send("session-1")

        assert harness.sfu.calls.count("session_state") == asked
        assert bob.events == []


async def test_an_sfu_that_cannot_say_who_is_sending_is_asked_again(harness: RoomHarness) -> None:
    harness.sfu.fail("session_state", media_errors.UnreachableError("no route"))

    _, bob = await sender_and_receiver(harness)

    await harness.until(lambda: bob.told("tracks_published", of="alice"))


async def test_a_new_track_is_looked_for_at_once() -> None:
    """Even when the pauses have become long."""
    probing = ProbeSettings(first_pause=0.005, longest_pause=1000.0, growth=100_000.0, patience=1000.0)
    async with running(RoomHarness(probing=probing)) as harness:
        harness.sfu.sends_at_once = False
        alice, bob = await sender_and_receiver(harness)
        await harness.until(lambda: "session_state" in harness.sfu.calls)
        harness.sfu.sends_at_once = True

        await alice.publish("1")

        await harness.until(lambda: bob.told("tracks_published", of="alice"))
