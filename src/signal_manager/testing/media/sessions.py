"""The contract of sessions: their life, credentials, and what they say about themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from signal_manager.media.base import LocalTrack, MediaBackend, RemoteTrack, SessionState, TrackUpdate
from signal_manager.media.errors import After, CredentialsRefusedError, MediaFault, SessionGoneError
from signal_manager.testing.media.fixtures import NO_SDP, UNKNOWN, MediaFixtures
from signal_manager.testing.media.peers import Camera, Peer, open_peer


class SessionsContract(MediaFixtures):
    """Sessions and credentials."""

    async def test_good_credentials_are_good(self, backend: MediaBackend) -> None:
        await backend.validate_credentials()

    async def test_a_wrong_secret_is_told_and_not_repeated_in_the_message(self, intruder: MediaBackend) -> None:
        with pytest.raises(CredentialsRefusedError) as raised:
            await intruder.validate_credentials()

        assert "wrong-secret" not in raised.value.message

    async def test_a_wrong_secret_opens_no_session(self, intruder: MediaBackend) -> None:
        with pytest.raises(CredentialsRefusedError):
            await intruder.open_session()

    async def test_a_wrong_secret_reads_no_session(self, intruder: MediaBackend, alice: Peer) -> None:
        with pytest.raises(CredentialsRefusedError):
            await intruder.session_state(alice.session_id)

    async def test_every_session_has_an_id_of_its_own(self, backend: MediaBackend) -> None:
        ids = await asyncio.gather(*(backend.open_session() for _ in range(5)))

        assert len(set(ids)) == 5
        assert all(ids)

    async def test_a_label_of_any_characters_is_only_a_label(self, backend: MediaBackend) -> None:
        first = await backend.open_session(correlation_id="röom 1/?&=#")
        second = await backend.open_session(correlation_id="röom 1/?&=#")

        assert first != second

    async def test_a_new_session_holds_nothing(self, backend: MediaBackend) -> None:
        session = await backend.open_session()

        assert await backend.session_state(session) == SessionState()

    @pytest.mark.parametrize("operation", ["state", "publish", "pull", "answer", "close", "update", "establish"])
    async def test_an_unknown_session_is_gone(self, backend: MediaBackend, operation: str) -> None:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "state": lambda: backend.session_state(UNKNOWN),
            "publish": lambda: backend.publish(UNKNOWN, NO_SDP, [LocalTrack(mid="0", track_name="camera")]),
            "pull": lambda: backend.pull(UNKNOWN, [RemoteTrack(session_id=UNKNOWN, track_name="camera")]),
            "answer": lambda: backend.answer(UNKNOWN, NO_SDP),
            "close": lambda: backend.close_tracks(UNKNOWN, ["0"]),
            "update": lambda: backend.update_tracks(UNKNOWN, [TrackUpdate(mid="0")]),
            "establish": lambda: backend.establish_channels(UNKNOWN),
        }

        with pytest.raises(SessionGoneError) as raised:
            await calls[operation]()

        assert raised.value.after is After.REPLACE

    async def test_a_session_tells_what_it_publishes(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        await bob.pull(alice.track("camera"), alice.track("microphone"))  # succeeds only when both flow
        state = await backend.session_state(alice.session_id)

        assert {track.track_name for track in state.tracks} == {"camera", "microphone"}
        assert {track.location for track in state.tracks} == {"local"}
        assert all(track.is_active for track in state.tracks)

    async def test_a_session_tells_what_it_pulls_and_from_whom(
        self, backend: MediaBackend, alice: Peer, bob: Peer
    ) -> None:
        pulled = await bob.pull(alice.track("camera"))
        (track,) = (await backend.session_state(bob.session_id)).tracks

        assert (track.location, track.session_id, track.track_name) == ("remote", alice.session_id, "camera")
        assert track.mid == pulled.tracks[0].mid

    async def test_sessions_do_not_wait_for_each_other(self, backend: MediaBackend, alice: Peer, bob: Peer) -> None:
        """An offer that one session has not answered is nothing to another."""
        await backend.pull(bob.session_id, [alice.track("camera")])

        async with open_peer(backend) as carol:
            await carol.publish(camera=Camera())
            await carol.pull(alice.track("camera"))

    async def test_ice_servers_are_what_a_browser_takes(self, backend: MediaBackend) -> None:
        named = await backend.ice_servers()
        urls = [url for server in named.servers for url in server.urls]

        assert all(url.startswith(("stun:", "turn:", "turns:")) for url in urls)
        assert not [url for url in urls if url.partition("?")[0].endswith(":53")]

    async def test_garbage_of_one_session_disturbs_no_other(
        self, backend: MediaBackend, alice: Peer, bob: Peer
    ) -> None:
        async with open_peer(backend) as mallory:
            with pytest.raises(MediaFault):
                await backend.publish(mallory.session_id, "\x00\xff" * 50, [LocalTrack(mid="0", track_name="x")])
            with pytest.raises(MediaFault):
                await backend.answer(mallory.session_id, "v=0\r\n" * 200)
            with pytest.raises(MediaFault):
                await backend.close_tracks(mallory.session_id, ["\u2028" * 20], offer_sdp=NO_SDP)

        assert (await bob.pull(alice.track("camera"))).tracks[0].error is None
