"""The contract of closing: a closed track stops, and closing it again does no harm."""

from __future__ import annotations

import pytest

from signal_manager.errors import InvalidRequestError
from signal_manager.media.base import MediaBackend
from signal_manager.media.errors import InvalidSessionDescriptionError
from signal_manager.testing.media.fixtures import NO_SDP, MediaFixtures
from signal_manager.testing.media.peers import Camera, Peer, frames


class EndingContract(MediaFixtures):
    """Closing tracks."""

    async def mid_of(self, backend: MediaBackend, peer: Peer, name: str) -> str:
        """Return the mid of a track that a peer publishes."""
        state = await backend.session_state(peer.session_id)
        return next(track.mid for track in state.tracks if track.track_name == name)

    async def test_a_closed_publication_cannot_be_pulled(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        closed = await backend.close_tracks(alice.session_id, [await self.mid_of(backend, alice, "camera")])
        pulled = await bob.pull(alice.track("camera"))

        assert [track.error for track in closed.tracks] == [None]
        assert pulled.tracks[0].error is not None

    async def test_closing_one_track_leaves_the_others(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        await backend.close_tracks(alice.session_id, [await self.mid_of(backend, alice, "microphone")])

        await bob.pull(alice.track("camera"))

        assert await frames(await bob.arrived())

    async def test_a_closed_pull_is_no_longer_active(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        pulled = await bob.pull(alice.track("camera"))

        closed = await backend.close_tracks(bob.session_id, [pulled.tracks[0].mid])

        state = await backend.session_state(bob.session_id)
        assert [track.error for track in closed.tracks] == [None]
        assert not any(track.is_active for track in state.tracks)

    async def test_closing_a_pull_leaves_the_publication(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        pulled = await bob.pull(alice.track("camera"))
        await backend.close_tracks(bob.session_id, [pulled.tracks[0].mid])

        again = await bob.pull(alice.track("camera"))

        assert again.tracks[0].error is None

    async def test_closing_twice_is_as_good_as_once(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        pulled = await bob.pull(alice.track("camera"))
        mid = pulled.tracks[0].mid
        await backend.close_tracks(bob.session_id, [mid])

        (track,) = (await backend.close_tracks(bob.session_id, [mid])).tracks

        assert track.mid == mid
        assert track.error is None or track.error.is_already_closed

    async def test_a_mid_that_never_was_is_already_closed(self, backend: MediaBackend, alice: Peer) -> None:
        (track,) = (await backend.close_tracks(alice.session_id, ["77"])).tracks

        assert track.error is not None
        assert track.error.is_already_closed

    async def test_each_of_many_is_told_about(self, backend: MediaBackend, alice: Peer) -> None:
        mid = await self.mid_of(backend, alice, "camera")

        closed = await backend.close_tracks(alice.session_id, ["77", mid])

        errors = {track.mid: track.error for track in closed.tracks}
        assert errors[mid] is None
        assert errors["77"] is not None

    async def test_closing_needs_no_answer_and_may_come_between(
        self, backend: MediaBackend, alice: Peer, bob: Peer
    ) -> None:
        """The tracks of a given-up session are closed although its offer was never answered."""
        pulled = await backend.pull(bob.session_id, [alice.track("camera")])

        closed = await backend.close_tracks(bob.session_id, [pulled.tracks[0].mid])

        assert closed.answer_sdp is None
        assert [track.error for track in closed.tracks] == [None]

    async def test_closing_with_an_offer_is_answered(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        mid = await self.mid_of(backend, alice, "camera")
        for transceiver in alice.connection.getTransceivers():
            if transceiver.mid == mid:
                transceiver.sender.replaceTrack(None)
                transceiver.direction = "inactive"
        offer, _ = await alice.offer()

        closed = await backend.close_tracks(alice.session_id, [mid], offer_sdp=offer)
        await alice.accept(closed.answer_sdp)

        await bob.pull(alice.track("microphone"))
        assert [track.error for track in closed.tracks] == [None]
        assert await frames(await bob.arrived())

    async def test_closing_with_an_sdp_that_is_none_is_refused(self, backend: MediaBackend, alice: Peer) -> None:
        mid = await self.mid_of(backend, alice, "camera")

        with pytest.raises(InvalidSessionDescriptionError):
            await backend.close_tracks(alice.session_id, [mid], offer_sdp=NO_SDP)

    async def test_closing_nothing_is_not_even_sent(self, backend: MediaBackend, alice: Peer) -> None:
        with pytest.raises(InvalidRequestError):
            await backend.close_tracks(alice.session_id, [])

    async def test_a_name_is_free_again_after_closing(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        await backend.close_tracks(alice.session_id, [await self.mid_of(backend, alice, "camera")])
        offer, local = await alice.offer(screen=Camera())
        renamed = [type(local[0])(mid=local[0].mid, track_name="camera")]

        published = await backend.publish(alice.session_id, offer, renamed)
        await alice.accept(published.answer_sdp)
        await bob.pull(alice.track("camera"))

        assert published.tracks[0].error is None
        assert await frames(await bob.arrived())
