"""What a request about tracks is refused for before anything is negotiated."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from signal_manager.sfu import LocalSfu, SfuSettings
from signal_manager.sfu.errors import RefusedError
from signal_manager.sfu.track_requests import TrackRequests
from signal_manager.sfu.wire import CloseRequest, SessionDescription, TrackObject, TracksRequest, UpdateRequest

REMOTE = TrackObject(location="remote", session_id="0" * 32, track_name="camera")
ASKED = TrackObject(location="local", kind="video", track_name="face")


@pytest.fixture
async def requests() -> AsyncIterator[TrackRequests]:
    """The requests of a new session."""
    async with LocalSfu(settings=SfuSettings(connect_wait=0.01, max_tracks_per_request=2)) as sfu:
        yield sfu.open_session().requests


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (TracksRequest(), "expected tracks, a sessionDescription, or both"),
        (TracksRequest(tracks=[REMOTE, ASKED]), "all local or all remote"),
        (TracksRequest(tracks=[TrackObject()]), "all local or all remote"),
        (TracksRequest(tracks=[REMOTE] * 3), "3 tracks in one request, expected at most 2"),
        (TracksRequest(tracks=[TrackObject(location="remote")]), "a sessionId and a trackName"),
        (TracksRequest(tracks=[TrackObject(location="local")]), "kind and trackName"),
    ],
)
async def test_a_request_that_makes_no_sense_is_explained(
    requests: TrackRequests, request_: TracksRequest, reason: str
) -> None:
    with pytest.raises(RefusedError, match=reason):
        await requests.open(request_)


async def test_the_sfu_offers_what_a_client_is_asked_to_publish(requests: TrackRequests) -> None:
    response = await requests.open(TracksRequest(tracks=[ASKED]))

    assert response.requires_immediate_renegotiation
    assert [(track.track_name, track.error_code) for track in response.tracks] == [("face", None)]
    assert response.session_description is not None
    assert "a=recvonly" in response.session_description.sdp


async def test_a_session_that_is_nowhere_has_no_tracks(requests: TrackRequests) -> None:
    response = await requests.open(TracksRequest(tracks=[REMOTE]))

    assert [track.error_code for track in response.tracks] == ["not_found_track_error"]
    assert not response.requires_immediate_renegotiation


async def test_only_tracks_with_a_mid_can_be_closed_or_updated(requests: TrackRequests) -> None:
    with pytest.raises(RefusedError, match="each with a mid"):
        await requests.close(CloseRequest(tracks=[], force=True))
    with pytest.raises(RefusedError, match="each with a mid"):
        await requests.update(UpdateRequest(tracks=[TrackObject()]))
    with pytest.raises(RefusedError, match="without force a sessionDescription is expected"):
        await requests.close(CloseRequest(tracks=[TrackObject(mid="0")], force=False))

    closed = await requests.close(CloseRequest(tracks=[TrackObject(mid="0")], force=True))
    updated = await requests.update(UpdateRequest(tracks=[TrackObject(mid="0")]))

    assert [track.error_code for track in closed.tracks] == ["close_track_error"]
    assert [track.error_code for track in updated.tracks] == ["update_track_error"]


async def test_an_answer_without_an_offer_is_refused(requests: TrackRequests) -> None:
    with pytest.raises(RefusedError):
        await requests.renegotiate(SessionDescription(type="answer", sdp="v=0\r\n"))
