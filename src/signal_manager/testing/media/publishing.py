"""The contract of publishing: offers of the client, and the SFU's answers."""

from __future__ import annotations

import pytest

from signal_manager.errors import InvalidRequestError, SignalManagerError, TooLargeError
from signal_manager.media.base import LocalTrack, MediaBackend
from signal_manager.media.errors import (
    After,
    InvalidParametersError,
    InvalidSessionDescriptionError,
    MediaFault,
    RepeatedTrackError,
    SessionNotReadyError,
)
from signal_manager.testing.media.fixtures import NO_SDP, MediaFixtures
from signal_manager.testing.media.peers import Camera, Microphone, Peer


class PublishingContract(MediaFixtures):
    """Publishing tracks."""

    async def is_refused(self, backend: MediaBackend, peer: Peer, offer: str, tracks: list[LocalTrack]) -> bool:
        """Tell whether a request is refused as a whole, without harm, or in one of its items."""
        try:
            published = await backend.publish(peer.session_id, offer, tracks)
        except MediaFault as fault:
            return fault.after is After.REFUSED
        return any(track.error is not None for track in published.tracks)

    async def test_an_offer_is_answered_and_the_connection_comes_up(self, bob: Peer) -> None:
        published = await bob.publish(camera=Camera(), microphone=Microphone())

        assert [(track.track_name, track.error) for track in published.tracks] == [
            ("camera", None),
            ("microphone", None),
        ]
        assert all(track.mid for track in published.tracks)
        assert bob.connection.connectionState == "connected"

    async def test_the_mids_are_those_of_the_offer(self, backend: MediaBackend, bob: Peer) -> None:
        offer, local = await bob.offer(camera=Camera())

        published = await backend.publish(bob.session_id, offer, local)

        assert [track.mid for track in published.tracks] == [track.mid for track in local]

    async def test_without_names_the_sfu_names_the_tracks(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        offer, local = await bob.offer(camera=Camera())
        published = await backend.publish(bob.session_id, offer)
        await bob.accept(published.answer_sdp)
        await bob.connected()

        (track,) = published.tracks
        pulled = await alice.pull(bob.track(track.track_name))

        assert track.mid == local[0].mid
        assert pulled.tracks[0].error is None

    async def test_a_session_can_publish_more_later(self, alice: Peer, bob: Peer) -> None:
        published = await alice.publish(screen=Camera())
        pulled = await bob.pull(alice.track("screen"), alice.track("camera"))

        assert [track.track_name for track in published.tracks] == ["screen"]
        assert [track.error for track in pulled.tracks] == [None, None]

    async def test_a_taken_name_fails_alone(self, backend: MediaBackend, alice: Peer) -> None:
        offer, local = await alice.offer(second=Camera())

        published = await backend.publish(alice.session_id, offer, [LocalTrack(mid=local[0].mid, track_name="camera")])

        (track,) = published.tracks
        assert track.error is not None
        assert isinstance(track.error.as_fault(), RepeatedTrackError)

    async def test_the_same_name_is_free_in_another_session(self, alice: Peer, bob: Peer) -> None:
        published = await bob.publish(camera=Camera())

        assert published.tracks[0].error is None

    @pytest.mark.parametrize("sdp", [NO_SDP, "", "v=0\r\n", "v=0\r\nm=video\r\n", "\x00" * 100])
    async def test_an_sdp_that_is_none_is_refused(self, backend: MediaBackend, bob: Peer, sdp: str) -> None:
        with pytest.raises((InvalidSessionDescriptionError, InvalidParametersError)) as raised:
            await backend.publish(bob.session_id, sdp, [LocalTrack(mid="0", track_name="camera")])

        assert isinstance(raised.value, MediaFault)
        assert raised.value.after is After.REFUSED

    async def test_a_refused_offer_leaves_the_session_usable(self, backend: MediaBackend, bob: Peer) -> None:
        with pytest.raises(SignalManagerError):
            await backend.publish(bob.session_id, NO_SDP, [LocalTrack(mid="0", track_name="camera")])

        assert (await bob.publish(camera=Camera())).tracks[0].error is None

    async def test_an_sdp_of_a_megabyte_is_refused(self, backend: MediaBackend, bob: Peer) -> None:
        offer, local = await bob.offer(camera=Camera())
        padded = offer + "a=padding:" + "x" * 1_000_000 + "\r\n"

        with pytest.raises((TooLargeError, InvalidSessionDescriptionError)):
            await backend.publish(bob.session_id, padded, local)

    async def test_a_mid_that_the_offer_does_not_have_is_refused(self, backend: MediaBackend, bob: Peer) -> None:
        offer, _ = await bob.offer(camera=Camera())

        assert await self.is_refused(backend, bob, offer, [LocalTrack(mid="77", track_name="camera")])

    async def test_two_tracks_of_one_mid_are_refused(self, backend: MediaBackend, bob: Peer) -> None:
        offer, local = await bob.offer(camera=Camera())
        again = LocalTrack(mid=local[0].mid, track_name="again")

        assert await self.is_refused(backend, bob, offer, [local[0], again])

    async def test_more_than_64_tracks_are_not_even_sent(self, backend: MediaBackend, bob: Peer) -> None:
        tracks = [LocalTrack(mid=str(number), track_name=f"track-{number}") for number in range(65)]

        with pytest.raises(InvalidRequestError):
            await backend.publish(bob.session_id, NO_SDP, tracks)

    async def test_a_second_operation_before_the_connection_is_up_comes_too_early(
        self, backend: MediaBackend, alice: Peer, bob: Peer
    ) -> None:
        offer, local = await bob.offer(camera=Camera())
        published = await backend.publish(bob.session_id, offer, local)

        with pytest.raises(SessionNotReadyError) as raised:
            await backend.pull(bob.session_id, [alice.track("camera")])

        assert raised.value.after is After.TRY_LATER

        await bob.accept(published.answer_sdp)
        await bob.connected()
        assert (await bob.pull(alice.track("camera"))).tracks[0].error is None
