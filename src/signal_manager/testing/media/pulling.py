"""The contract of pulling: offers of the SFU, the client's answers, and the media that flows then."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.errors import InvalidRequestError
from signal_manager.media.base import MediaBackend, RemoteTrack, Simulcast, TrackUpdate
from signal_manager.media.errors import (
    After,
    InvalidSessionDescriptionError,
    MediaFault,
    TrackNotFoundError,
    UpdateRefusedError,
)
from signal_manager.testing.media.fixtures import NO_SDP, UNKNOWN, MediaFixtures
from signal_manager.testing.media.peers import Camera, Microphone, MutedCamera, Peer, frames, open_peer


class PullingContract(MediaFixtures):
    """Pulling tracks, and changing what is pulled.

    Large because it is a list: one method for each promise.
    """

    async def test_what_is_published_arrives(self, alice: Peer, bob: Peer) -> None:
        await bob.pull(alice.track("camera"), alice.track("microphone"))
        by_kind = {track.kind: track for track in [await bob.arrived(), await bob.arrived()]}

        pictures, sounds = await asyncio.gather(frames(by_kind["video"]), frames(by_kind["audio"]))

        assert {(picture.width, picture.height) for picture in pictures} == {(160, 120)}
        assert {sound.sample_rate for sound in sounds} == {48000}

    async def test_a_pull_is_an_offer_that_must_be_answered(
        self, backend: MediaBackend, alice: Peer, bob: Peer
    ) -> None:
        pulled = await backend.pull(bob.session_id, [alice.track("camera")])

        (track,) = pulled.tracks
        assert pulled.requires_renegotiation
        assert pulled.offer_sdp is not None
        assert f"a=mid:{track.mid}" in pulled.offer_sdp
        assert (track.track_name, track.session_id) == ("camera", alice.session_id)

    async def test_one_pull_may_name_several_publishers(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        async with open_peer(backend) as carol:
            await carol.publish(microphone=Microphone())
            pulled = await bob.pull(alice.track("camera"), carol.track("microphone"))

            assert [track.error for track in pulled.tracks] == [None, None]
            assert len({track.mid for track in pulled.tracks}) == 2

    async def test_a_session_can_pull_more_later(self, alice: Peer, bob: Peer) -> None:
        first = await bob.pull(alice.track("microphone"))
        second = await bob.pull(alice.track("camera"))
        await bob.arrived()

        assert first.tracks[0].mid != second.tracks[0].mid
        assert await frames(await bob.arrived())

    async def test_one_session_can_publish_and_pull(self, alice: Peer, bob: Peer) -> None:
        await bob.publish(camera=Camera())
        await bob.pull(alice.track("camera"))
        await alice.pull(bob.track("camera"))

        assert await frames(await bob.arrived())
        assert await frames(await alice.arrived())

    async def test_one_track_may_be_pulled_twice(self, alice: Peer, bob: Peer) -> None:
        first = await bob.pull(alice.track("microphone"))
        second = await bob.pull(alice.track("microphone"))

        assert first.tracks[0].mid != second.tracks[0].mid

    async def test_a_track_that_is_not_there_is_too_early(self, alice: Peer, bob: Peer) -> None:
        pulled = await bob.pull(alice.track("screen"))

        (track,) = pulled.tracks
        assert (track.mid, pulled.offer_sdp, pulled.requires_renegotiation) == ("", None, False)
        assert track.error is not None
        assert isinstance(track.error.as_fault(), TrackNotFoundError)
        assert track.error.is_too_early

    async def test_a_publisher_that_is_not_there_is_an_error_of_the_item(self, bob: Peer) -> None:
        pulled = await bob.pull(RemoteTrack(session_id=UNKNOWN, track_name="camera"))

        assert pulled.tracks[0].error is not None

    async def test_a_track_that_does_not_send_yet_is_too_early(self, backend: MediaBackend, bob: Peer) -> None:
        async with open_peer(backend) as carol:
            await carol.publish(camera=MutedCamera())
            pulled = await bob.pull(carol.track("camera"))

        assert pulled.offer_sdp is None
        assert pulled.tracks[0].error is not None
        assert pulled.tracks[0].error.is_too_early

    async def test_the_good_part_of_a_pull_holds(self, alice: Peer, bob: Peer) -> None:
        pulled = await bob.pull(alice.track("screen"), alice.track("camera"))
        by_name = {track.track_name: track for track in pulled.tracks}

        assert by_name["screen"].error is not None
        assert by_name["screen"].mid == ""
        assert by_name["camera"].error is None
        assert await frames(await bob.arrived())

    async def test_too_many_pulls_and_none_at_all_are_not_even_sent(
        self, backend: MediaBackend, alice: Peer, bob: Peer
    ) -> None:
        with pytest.raises(InvalidRequestError):
            await backend.pull(bob.session_id, [alice.track("camera")] * 65)
        with pytest.raises(InvalidRequestError):
            await backend.pull(bob.session_id, [])

    async def test_a_second_pull_before_the_answer_is_refused(
        self, backend: MediaBackend, alice: Peer, bob: Peer
    ) -> None:
        pulled = await backend.pull(bob.session_id, [alice.track("camera")])

        with pytest.raises(MediaFault):
            await backend.pull(bob.session_id, [alice.track("microphone")])

        await bob.answer(pulled.offer_sdp)
        assert await frames(await bob.arrived())

    async def test_publishing_before_the_answer_is_refused(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        pulled = await backend.pull(bob.session_id, [alice.track("camera")])
        async with open_peer(backend) as other:
            offer, local = await other.offer(camera=Camera())

            with pytest.raises(MediaFault):
                await backend.publish(bob.session_id, offer, local)

        await bob.answer(pulled.offer_sdp)

    async def test_an_answer_to_nothing_is_refused(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        pulled = await backend.pull(bob.session_id, [alice.track("camera")])
        answer = await bob.answer_to(pulled.offer_sdp)

        async with open_peer(backend) as carol:
            with pytest.raises(InvalidSessionDescriptionError):
                await backend.answer(carol.session_id, answer)

    async def test_a_second_answer_is_refused_and_harms_nothing(
        self, backend: MediaBackend, alice: Peer, bob: Peer
    ) -> None:
        pulled = await backend.pull(bob.session_id, [alice.track("camera")])
        answer = await bob.answer_to(pulled.offer_sdp)
        await backend.answer(bob.session_id, answer)

        with pytest.raises(InvalidSessionDescriptionError) as raised:
            await backend.answer(bob.session_id, answer)

        assert raised.value.after is After.REFUSED
        assert await frames(await bob.arrived())

    async def test_a_bad_answer_may_be_followed_by_a_good_one(
        self, backend: MediaBackend, alice: Peer, bob: Peer
    ) -> None:
        pulled = await backend.pull(bob.session_id, [alice.track("camera")])

        with pytest.raises(InvalidSessionDescriptionError):
            await backend.answer(bob.session_id, NO_SDP)

        await bob.answer(pulled.offer_sdp)
        assert await frames(await bob.arrived())

    async def test_an_answer_whose_last_line_end_was_trimmed_is_taken(
        self, backend: MediaBackend, alice: Peer, bob: Peer
    ) -> None:
        pulled = await backend.pull(bob.session_id, [alice.track("camera")])
        answer = await bob.answer_to(pulled.offer_sdp)

        await backend.answer(bob.session_id, answer.rstrip())

        assert await frames(await bob.arrived())

    async def test_a_pulled_track_can_be_pointed_at_another_source(
        self, backend: MediaBackend, alice: Peer, bob: Peer
    ) -> None:
        async with open_peer(backend) as carol, open_peer(backend) as dave:
            await carol.publish(camera=Camera())
            await dave.pull(carol.track("camera"))
            pulled = await bob.pull(alice.track("camera"))
            mid = pulled.tracks[0].mid
            update = TrackUpdate(mid=mid, session_id=carol.session_id, track_name="camera")
            (updated,) = await backend.update_tracks(bob.session_id, [update])
            (state,) = (await backend.session_state(bob.session_id)).tracks

            assert (updated.mid, updated.error) == (mid, None)
            assert (state.mid, state.session_id) == (mid, carol.session_id)

    async def test_a_layer_of_a_track_without_layers_is_refused(
        self, backend: MediaBackend, alice: Peer, bob: Peer
    ) -> None:
        pulled = await bob.pull(alice.track("camera"))
        update = TrackUpdate(mid=pulled.tracks[0].mid, simulcast=Simulcast(preferred_rid="h"))

        (updated,) = await backend.update_tracks(bob.session_id, [update])

        assert updated.error is not None
        assert isinstance(updated.error.as_fault(), UpdateRefusedError)

    async def test_a_change_of_nothing_fails_alone(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        await bob.pull(alice.track("camera"))

        (updated,) = await backend.update_tracks(
            bob.session_id, [TrackUpdate(mid="77", simulcast=Simulcast(preferred_rid="h"))]
        )

        assert updated.error is not None

    async def test_a_pull_may_use_a_transceiver_that_is_there(
        self, backend: MediaBackend, alice: Peer, bob: Peer
    ) -> None:
        first = await bob.pull(alice.track("camera"))
        mid = first.tracks[0].mid

        async with open_peer(backend) as carol:
            await carol.publish(camera=Camera())
            again = await bob.pull(carol.track("camera", mid=mid))

        assert not again.requires_renegotiation
        assert [(track.mid, track.error) for track in again.tracks] == [(mid, None)]
