"""Cloudflare's JSON: what goes there, and what its answers and refusals mean here."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from signal_manager.media.base import ChannelUpdate, DataChannel, LocalTrack, MediaSessionId, RemoteTrack, Simulcast
from signal_manager.media.cloudflare_wire import (
    DESCRIPTION_LENGTH,
    ChannelJson,
    ChannelsReply,
    IceServersReply,
    TrackJson,
    TracksReply,
    TracksRequest,
    channel_json,
    channel_result,
    fault_of,
    harmless,
    track_json,
    track_result,
)
from signal_manager.media.errors import (
    After,
    AppNotFoundError,
    InternalFaultError,
    InvalidParametersError,
    MediaFault,
    RequestNotUnderstoodError,
    SessionGoneError,
    SessionNotReadyError,
    SfuRefusedError,
)

SESSION = MediaSessionId("s" * 32)


def sent(value: msgspec.Struct) -> dict[str, Any]:
    """Return what goes to the SFU."""
    body: dict[str, Any] = json.loads(msgspec.json.encode(value))
    return body


# Requests


def test_tracks_go_out_with_the_fields_that_they_have() -> None:
    request = TracksRequest(
        tracks=[
            track_json(LocalTrack(mid="0", track_name="camera")),
            track_json(RemoteTrack(session_id=SESSION, track_name="camera", simulcast=Simulcast(preferred_rid="h"))),
        ]
    )

    assert sent(request) == {
        "tracks": [
            {"location": "local", "mid": "0", "trackName": "camera"},
            {
                "location": "remote",
                "sessionId": SESSION,
                "trackName": "camera",
                "simulcast": {"preferredRid": "h"},
            },
        ]
    }


def test_a_channel_goes_out_with_its_delivery_policy_and_an_update_as_a_remote_one() -> None:
    channel = DataChannel(location="local", data_channel_name="chat", ordered=False, max_retransmits=0)
    update = ChannelUpdate(session_id=SESSION, data_channel_name="chat", can_reply=True)

    assert sent(channel_json(channel)) == {
        "location": "local",
        "dataChannelName": "chat",
        "ordered": False,
        "maxRetransmits": 0,
    }
    assert sent(channel_json(update)) == {
        "location": "remote",
        "sessionId": SESSION,
        "dataChannelName": "chat",
        "canReply": True,
    }


# Replies


@pytest.mark.parametrize(
    ("reply", "failed"),
    [
        (TracksReply(), False),
        (TracksReply(tracks=[TrackJson(mid="0")]), False),
        (TracksReply(tracks=[TrackJson(mid="0"), TrackJson(error_code="x")]), True),
        (ChannelsReply(), False),
        (ChannelsReply(data_channels=[ChannelJson(error_code="x")]), True),
        (IceServersReply(), False),
    ],
)
def test_a_success_may_have_failed_items(reply: Any, failed: bool) -> None:
    assert reply.has_failed_items() is failed


def test_an_item_without_values_has_none_and_a_failed_one_has_its_reason() -> None:
    track = track_result(TrackJson())
    channel = channel_result(
        ChannelJson(error_code="session_error", session_id=SESSION, data_channel_name="chat", id=3)
    )

    assert (track.mid, track.track_name, track.session_id, track.error) == ("", "", None, None)
    assert (channel.data_channel_name, channel.id, channel.session_id) == ("chat", 3, SESSION)
    assert channel.error is not None
    assert (channel.error.error_code, channel.error.message) == ("session_error", "no reason given")


# Refusals


def refusal(code: str | None = None, description: str | None = None) -> bytes:
    return json.dumps({"errorCode": code, "errorDescription": description}).encode()


@pytest.mark.parametrize(
    ("status", "code", "of_session", "kind", "after"),
    [
        (406, "invalid_params", True, InvalidParametersError, After.REFUSED),
        (503, "invalid_params", True, InvalidParametersError, After.REPLACE),  # who knows what was carried out
        (425, "session_error", True, SessionNotReadyError, After.TRY_LATER),
        (410, "session_error", True, SessionGoneError, After.REPLACE),
        (410, None, False, SessionGoneError, After.REPLACE),
        (404, "not_found", True, SessionGoneError, After.REPLACE),
        (404, None, False, AppNotFoundError, After.REFUSED),
        (400, "brand_new_error", True, RequestNotUnderstoodError, After.REFUSED),
        (451, "brand_new_error", True, SfuRefusedError, After.REFUSED),
        (599, None, True, InternalFaultError, After.REPLACE),
    ],
)
def test_code_and_status_say_together_what_a_refusal_means(
    status: int, code: str | None, of_session: bool, kind: type[MediaFault], after: After
) -> None:
    fault = fault_of(status, refusal(code), of_session=of_session)

    assert (type(fault), fault.after) == (kind, after)


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"errorCode": 7}', b"\xff\xfe", b"[" * 10_000])
def test_a_refusal_of_any_shape_is_one(content: bytes) -> None:
    fault = fault_of(429, content, of_session=True)

    assert fault.message == "the SFU replied 429, no known error code: no reason given"


def test_secrets_and_codes_that_are_none_are_in_no_message() -> None:
    content = refusal("<script>", "bad token hunter2 here, hunter2")

    fault = fault_of(401, content, of_session=False, secrets=("", "hunter2"))

    assert fault.message == "the SFU replied 401, no known error code: bad token … here, …"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        (" \n ", ""),
        ("first\nsecond", "first"),
        ("bell\x07 and \x1b[31mred", "bell and [31mred"),
        ("see https://internal.example/x now", "see … now"),
        ("in /srv/app/main.py", "in …"),
        ("key " + "a" * 32, "key …"),
        ("key " + "a" * 31, "key " + "a" * 31),
        ("why " * 90, ("why " * 90)[: DESCRIPTION_LENGTH - 1] + "…"),
    ],
)
def test_another_services_text_is_shown_as_one_harmless_line(text: str, shown: str) -> None:
    assert harmless(text) == shown
