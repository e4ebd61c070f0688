"""The tables themselves: recorded replies fit them, and what is wrong is named with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.media.field_tables import endpoint_of, misfits_of_reply, misfits_of_request

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "cloudflare_replies.json").read_text())


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_reply_fits_its_table(name: str) -> None:
    recorded = RECORDED[name]

    assert misfits_of_reply(recorded["endpoint"], recorded["status"], recorded["reply"]) == []


def test_a_misfit_names_the_place_and_what_was_expected() -> None:
    body = {"tracks": [{"location": "local", "mid": 0, "trackName": "a"}], "sessionDescription": {"type": "offer"}}

    assert misfits_of_request("tracks_new", body) == [
        "tracks_new request.tracks[0].mid: int, expected str",
        "tracks_new request.sessionDescription.sdp: missing",
    ]


@pytest.mark.parametrize(
    ("endpoint", "status", "body"),
    [
        ("sessions_new", 200, {"sessionId": "a"}),
        ("sessions_new", 201, {"sessionId": "a", "surprise": 1}),
        ("tracks_close", 200, {"requiresImmediateRenegotiation": True, "tracks": []}),
        ("tracks_new", 200, []),
        ("tracks_new", 406, {"error": "no"}),
    ],
)
def test_a_reply_that_does_not_fit_is_told(endpoint: str, status: int, body: Any) -> None:
    assert misfits_of_reply(endpoint, status, body)


def test_a_body_where_none_belongs_is_told() -> None:
    assert misfits_of_request("sessions_new", {"sessionDescription": {}})


def test_endpoints_are_known_by_method_and_path() -> None:
    assert endpoint_of("POST", "/v1/apps/a/sessions/new?correlationId=x") == "sessions_new"
    assert endpoint_of("GET", "/v1/apps/a/sessions/2a43") == "session_get"
    assert endpoint_of("PUT", "/v1/apps/a/sessions/2a43/tracks/close") == "tracks_close"
    assert endpoint_of("POST", "/v1/turn/keys/k/credentials/generate-ice-servers") == "turn_credentials"
