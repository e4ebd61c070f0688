"""Cloudflare's JSON: what is ignored, what is refused, and what is left out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from signal_manager.sfu.errors import ItemError
from signal_manager.sfu.wire import (
    ChannelsRequest,
    CloseRequest,
    NewSessionResponse,
    SessionDescription,
    TrackObject,
    TracksRequest,
    TracksResponse,
)


def test_names_are_in_camel_case_and_unknown_fields_ignored() -> None:
    body = b'{"autoDiscover": true, "tracks": [{"trackName": "camera", "invented": 1}], "more": []}'

    request = msgspec.json.decode(body, type=TracksRequest)

    assert (request.auto_discover, request.tracks) == (True, [TrackObject(track_name="camera")])


def test_null_is_what_is_left_out() -> None:
    body = b'{"sessionDescription": null, "tracks": [{"mid": null, "simulcast": null}]}'

    assert msgspec.json.decode(body, type=TracksRequest) == TracksRequest(tracks=[TrackObject()])


def test_a_response_has_no_field_without_a_value() -> None:
    answers: list[Any] = [
        NewSessionResponse(session_id="s"),
        TracksResponse(requires_immediate_renegotiation=False, tracks=[TrackObject(mid="0", track_name="camera")]),
    ]

    assert [msgspec.json.encode(answer) for answer in answers] == [
        b'{"sessionId":"s"}',
        b'{"requiresImmediateRenegotiation":false,"tracks":[{"mid":"0","trackName":"camera"}]}',
    ]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (TracksRequest, {"tracks": [{"location": "nowhere"}]}),
        (TracksRequest, {"tracks": [{"trackName": ""}]}),
        (TracksRequest, {"tracks": [{"trackName": "x" * 257}]}),
        (TracksRequest, {"tracks": {}}),
        (CloseRequest, {"tracks": []}),
        (SessionDescription, {"type": "pranswer", "sdp": ""}),
        (ChannelsRequest, {"dataChannels": [{"id": 65535}]}),
        (ChannelsRequest, {"dataChannels": [{"maxRetransmits": -1}]}),
        (ChannelsRequest, {"dataChannels": [{"id": True}]}),
    ],
)
def test_what_cannot_be_meant_is_refused(kind: type[msgspec.Struct], body: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(body), type=kind)


def test_a_failed_track_keeps_what_names_it_and_nothing_else() -> None:
    track = TrackObject(location="remote", session_id="s", track_name="camera", kind="video")

    failed = track.failed(ItemError("empty_track_error", "no packet"))

    assert msgspec.to_builtins(failed) == {
        "mid": "",
        "sessionId": "s",
        "trackName": "camera",
        "errorCode": "empty_track_error",
        "errorDescription": "no packet",
    }
