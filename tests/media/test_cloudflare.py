"""The Cloudflare client on real sockets, against scripted replies; every request is held to the field tables."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hpack import Encoder

from signal_manager.errors import ConfigurationError, InvalidRequestError
from signal_manager.media import errors
from signal_manager.media.base import (
    ChannelUpdate,
    DataChannel,
    IceServer,
    LocalTrack,
    MediaBackend,
    MediaSessionId,
    RemoteTrack,
    Simulcast,
    TrackUpdate,
)
from signal_manager.media.cloudflare import CloudflareBackend
from signal_manager.media.cloudflare_client import MAX_REPLY
from signal_manager.media.errors import FAULTS, After, MediaFault
from signal_manager.observe.metrics import Metrics
from tests.media.http_stub import CUT, CUT_SHORT, HttpStub, Reply

SECRET = "s3cret-of-the-app"
TURN_TOKEN = "t0ken-of-the-turn-key"
SESSION = MediaSessionId("2a4361156d3ad43a27ae3bb3ca9a5b6a")
PUBLISHER = MediaSessionId("6cb1b1e6e5e02bfa5fe3b0a9b9f1c4d2")
OFFER = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\n"
CAMERA = RemoteTrack(session_id=PUBLISHER, track_name="camera")

_recorded = json.loads((Path(__file__).parent / "cloudflare_replies.json").read_text())


def recorded(name: str) -> Reply:
    return Reply(_recorded[name]["status"], _recorded[name]["reply"])


def backend_at(stub: HttpStub, metrics: Metrics | None = None, **options: Any) -> CloudflareBackend:
    options = {"request_timeout": 5.0, "retry_wait": 0.0} | options
    return CloudflareBackend(
        app_id="app", app_secret=SECRET, base_url=stub.base_url, metrics=metrics or Metrics(), **options
    )


@pytest.fixture
async def stub() -> AsyncIterator[HttpStub]:
    async with HttpStub() as stub:
        yield stub


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def backend(stub: HttpStub, metrics: Metrics) -> AsyncIterator[CloudflareBackend]:
    async with backend_at(stub, metrics) as backend:
        yield backend


def test_the_client_is_a_media_backend(stub: HttpStub) -> None:
    promised: MediaBackend = backend_at(stub)

    assert promised


# What is sent, and what is made of the replies


async def test_a_session_is_opened_without_a_body(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("session opened"))

    assert await backend.open_session(correlation_id="room 1/a") == SESSION

    request = stub.requests[0]
    assert request.path == "/v1/apps/app/sessions/new?correlationId=room%201%2Fa"
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    assert request.headers["content-type"] == "application/json"


async def test_publishing_sends_the_offer_with_its_tracks(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("published"))

    published = await backend.publish(SESSION, OFFER, [LocalTrack(mid="0", track_name="camera")])

    assert stub.requests[0].body == {
        "sessionDescription": {"type": "offer", "sdp": OFFER},
        "tracks": [{"location": "local", "mid": "0", "trackName": "camera"}],
    }
    assert [(track.mid, track.track_name) for track in published.tracks] == [("0", "camera"), ("1", "microphone")]
    assert published.answer_sdp is not None
    assert published.answer_sdp.startswith("v=0")


async def test_publishing_without_tracks_lets_the_sfu_name_them(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("discovered"))

    published = await backend.publish(SESSION, OFFER)

    assert stub.requests[0].body["autoDiscover"] is True
    assert "tracks" not in stub.requests[0].body
    assert published.tracks[0].mid == "0"


async def test_a_trimmed_last_line_end_is_put_back(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("answered"))

    await backend.answer(SESSION, OFFER.rstrip())

    assert stub.requests[0].body == {"sessionDescription": {"type": "answer", "sdp": OFFER}}


async def test_pulling_returns_the_offer_and_the_mids(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("pulled"))
    track = RemoteTrack(session_id=PUBLISHER, track_name="camera", simulcast=Simulcast(preferred_rid="h"))

    pulled = await backend.pull(SESSION, [track])

    assert stub.requests[0].body == {
        "tracks": [
            {
                "location": "remote",
                "sessionId": PUBLISHER,
                "trackName": "camera",
                "simulcast": {"preferredRid": "h"},
            }
        ]
    }
    assert pulled.requires_renegotiation
    assert pulled.offer_sdp == "v=0\r\n"
    assert [(track.mid, track.session_id) for track in pulled.tracks] == [("3", PUBLISHER)]


async def test_a_pull_can_fail_in_part(stub: HttpStub, backend: CloudflareBackend, metrics: Metrics) -> None:
    stub.will_reply(recorded("pulled in part"))

    good, bad = (await backend.pull(SESSION, [CAMERA, CAMERA])).tracks

    assert (good.mid, good.error) == ("3", None)
    assert bad.mid == ""
    assert bad.error is not None
    assert bad.error.is_too_early
    assert isinstance(bad.error.as_fault(), errors.TrackNotFoundError)
    assert metrics.media_calls.labelled("tracks_new", "partial").value == 1


async def test_a_pull_whose_every_item_failed_has_no_offer(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("pulled nothing"))

    pulled = await backend.pull(SESSION, [CAMERA])

    assert (pulled.offer_sdp, pulled.requires_renegotiation) == (None, False)
    assert isinstance(pulled.tracks[0].error and pulled.tracks[0].error.as_fault(), errors.EmptyTrackError)


async def test_closing_is_forced_without_an_offer(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("closed before"))

    closed = await backend.close_tracks(SESSION, ["3"])

    assert stub.requests[0].body == {"tracks": [{"mid": "3"}], "force": True}
    assert closed.tracks[0].error is not None
    assert closed.tracks[0].error.is_already_closed


async def test_closing_with_an_offer_returns_the_answer(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("closed by negotiation"))

    closed = await backend.close_tracks(SESSION, ["0"], offer_sdp=OFFER)

    assert stub.requests[0].body["force"] is False
    assert closed.answer_sdp == "v=0\r\n"


async def test_tracks_are_updated_by_mid(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("updated"))
    updates = [
        TrackUpdate(mid="3", simulcast=Simulcast(preferred_rid="h", priority_ordering="asciibetical")),
        TrackUpdate(mid="4", session_id=PUBLISHER, track_name="screen"),
    ]

    layer, source = await backend.update_tracks(SESSION, updates)

    assert stub.requests[0].body["tracks"] == [
        {"location": "remote", "mid": "3", "simulcast": {"preferredRid": "h", "priorityOrdering": "asciibetical"}},
        {"location": "remote", "mid": "4", "sessionId": PUBLISHER, "trackName": "screen"},
    ]
    assert layer.error is None
    assert isinstance(source.error and source.error.as_fault(), errors.UpdateRefusedError)


async def test_channels_are_established_by_the_sfus_offer(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("channels established"))

    established = await backend.establish_channels(SESSION)

    assert established.requires_renegotiation
    assert (established.offer_sdp, established.answer_sdp, established.channel.id) == ("v=0\r\n", None, 0)


async def test_channels_are_established_by_the_clients_offer(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("channels established by answer"))

    established = await backend.establish_channels(SESSION, offer_sdp=OFFER)

    assert (established.offer_sdp, established.answer_sdp) == (None, "v=0\r\n")


async def test_channels_open_with_their_delivery_policy(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("channels opened"))
    channel = DataChannel(location="local", data_channel_name="chat", ordered=False, max_retransmits=0)

    opened, repeated = await backend.open_channels(SESSION, [channel, channel])

    assert stub.requests[0].body["dataChannels"][0] == {
        "location": "local",
        "dataChannelName": "chat",
        "ordered": False,
        "maxRetransmits": 0,
    }
    assert (opened.id, opened.error) == (1, None)
    assert isinstance(repeated.error and repeated.error.as_fault(), errors.RepeatedTrackError)


async def test_the_right_to_reply_is_granted(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("channel updated"))

    (updated,) = await backend.update_channels(
        SESSION, [ChannelUpdate(session_id=PUBLISHER, data_channel_name="chat", can_reply=True)]
    )

    assert updated.id == 2


async def test_channels_are_closed_by_id(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("channel closed"))

    (closed,) = await backend.close_channels(SESSION, [1])

    assert closed.error is None


async def test_the_state_of_a_session_is_read(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("state"))

    state = await backend.session_state(SESSION)

    assert [(track.mid, track.location, track.is_active) for track in state.tracks] == [
        ("0", "local", True),
        ("3", "remote", False),
    ]
    assert [(channel.id, channel.status) for channel in state.channels] == [(1, "initializing")]


async def test_ids_cannot_leave_their_place_in_the_path(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("gone"))

    with pytest.raises(errors.SessionGoneError):
        await backend.session_state(MediaSessionId("../new?x"))

    assert stub.requests[0].path == "/v1/apps/app/sessions/..%2Fnew%3Fx"


# ICE servers


async def test_without_a_turn_key_stun_is_named_without_a_call(stub: HttpStub, backend: CloudflareBackend) -> None:
    named = await backend.ice_servers()

    assert named.servers == (IceServer(urls=("stun:stun.cloudflare.com:3478",)),)
    assert named.expires_at is None
    assert stub.requests == []


async def test_turn_credentials_expire_and_avoid_port_53(stub: HttpStub) -> None:
    stub.will_reply(recorded("TURN credentials"))

    async with backend_at(stub, turn_key_id="key", turn_key_token=TURN_TOKEN, turn_ttl=600) as backend:
        named = await backend.ice_servers()

    assert stub.requests[0].path == "/v1/turn/keys/key/credentials/generate-ice-servers"
    assert stub.requests[0].headers["authorization"] == f"Bearer {TURN_TOKEN}"
    assert stub.requests[0].body == {"ttl": 600}
    stun, turn = named.servers
    assert stun.urls == ("stun:stun.cloudflare.com:3478",)
    assert not [url for url in turn.urls if ":53?" in url]
    assert (len(turn.urls), turn.username, turn.credential) == (5, "g0aa1b2c3", "6f1c9a0b")
    assert "6f1c9a0b" not in repr(named)
    assert named.expires_at is not None
    assert 590 < named.expires_at - time.time() <= 600


async def test_the_older_single_object_is_understood(stub: HttpStub) -> None:
    server = {"urls": "turn:turn.cloudflare.com:3478", "username": "u", "credential": "c"}
    stub.will_reply(Reply(201, {"iceServers": server}))

    async with backend_at(stub, turn_key_id="key", turn_key_token=TURN_TOKEN) as backend:
        named = await backend.ice_servers()

    expected = IceServer(urls=("turn:turn.cloudflare.com:3478",), username="u", credential="c")
    assert named.servers == (expected,)


@pytest.mark.parametrize("ice_servers", [None, [], [{"urls": ["turn:turn.cloudflare.com:53"]}]])
async def test_a_reply_without_usable_ice_servers_is_no_answer(stub: HttpStub, ice_servers: Any) -> None:
    stub.will_reply(Reply(201, {"iceServers": ice_servers}))

    async with backend_at(stub, turn_key_id="key", turn_key_token=TURN_TOKEN) as backend:
        with pytest.raises(errors.NoAnswerError):
            await backend.ice_servers()


# Refusals


@pytest.mark.parametrize(("error_code", "kind"), FAULTS.items())
async def test_every_error_code_has_its_error(
    stub: HttpStub, backend: CloudflareBackend, error_code: str, kind: type[MediaFault]
) -> None:
    stub.will_reply(Reply(400, {"errorCode": error_code, "errorDescription": "because"}))

    with pytest.raises(kind) as raised:
        await backend.pull(SESSION, [CAMERA])

    assert raised.value.message == f"the SFU replied 400, {error_code}: because"
    assert kind.error_code == error_code


@pytest.mark.parametrize(
    "expected",
    [
        (401, errors.CredentialsRefusedError, After.REFUSED),
        (404, errors.SessionGoneError, After.REPLACE),
        (406, errors.InvalidParametersError, After.REFUSED),
        (410, errors.SessionGoneError, After.REPLACE),
        (413, errors.PayloadTooLargeError, After.REFUSED),
        (418, errors.SfuRefusedError, After.REFUSED),
        (425, errors.SessionNotReadyError, After.TRY_LATER),
        (429, errors.TooManyCallsError, After.TRY_LATER),
        (500, errors.InternalFaultError, After.REPLACE),
        (503, errors.InternalFaultError, After.REPLACE),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"errorCode": 7}', {"errorCode": "brand_new_error"}])
async def test_a_status_alone_is_enough(
    stub: HttpStub, backend: CloudflareBackend, expected: tuple[int, type[MediaFault], After], body: Any
) -> None:
    status, kind, after = expected
    stub.will_reply(Reply(status, body))

    with pytest.raises(kind) as raised:
        await backend.pull(SESSION, [CAMERA])

    assert raised.value.after is after


async def test_the_status_tells_a_gone_session_from_one_not_ready(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("not ready"), recorded("gone"))

    with pytest.raises(errors.SessionNotReadyError):
        await backend.pull(SESSION, [CAMERA])
    with pytest.raises(errors.SessionGoneError):
        await backend.pull(SESSION, [CAMERA])


async def test_a_known_code_below_5xx_means_that_nothing_changed(stub: HttpStub, backend: CloudflareBackend) -> None:
    refusal = {"errorCode": "invalid_params", "errorDescription": "no"}
    stub.will_reply(Reply(406, refusal), Reply(503, refusal))

    with pytest.raises(errors.InvalidParametersError) as before:
        await backend.pull(SESSION, [CAMERA])
    with pytest.raises(errors.InvalidParametersError) as after:
        await backend.pull(SESSION, [CAMERA])

    assert (before.value.after, after.value.after) == (After.REFUSED, After.REPLACE)


async def test_a_refusal_inside_a_success_is_a_refusal(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(Reply(201, {"errorCode": "internal_error", "errorDescription": "Backend error"}))

    with pytest.raises(errors.InternalFaultError):
        await backend.open_session()


async def test_what_the_sfu_says_is_passed_on_as_one_harmless_line(stub: HttpStub, backend: CloudflareBackend) -> None:
    telling = f"bad \x1b[31mtoken {SECRET} at /srv/app/main.py of https://internal.example/x {'a' * 40} " + "why " * 90
    stub.will_reply(Reply(400, {"errorCode": "decoding_error", "errorDescription": telling + "\nTraceback"}))

    with pytest.raises(errors.RequestNotUnderstoodError) as raised:
        await backend.pull(SESSION, [CAMERA])

    message = raised.value.message
    assert message.startswith("the SFU replied 400, decoding_error: bad [31mtoken … at … of … … why")
    assert len(message) < 250
    assert SECRET not in message


async def test_an_item_with_an_unknown_code_is_refused_for_good(stub: HttpStub, backend: CloudflareBackend) -> None:
    item = {"mid": "", "errorCode": "brand_new_error"}
    stub.will_reply(Reply(200, {"requiresImmediateRenegotiation": False, "tracks": [item]}))

    (track,) = (await backend.pull(SESSION, [CAMERA])).tracks

    assert track.error is not None
    assert not track.error.is_too_early
    assert isinstance(track.error.as_fault(), errors.SfuRefusedError)


@pytest.mark.parametrize(
    "reply",
    [
        b"not JSON",
        [1, 2],
        {"tracks": [{"mid": 0}]},
        {"tracks": [{"trackName": "camera"}]},
        {"requiresImmediateRenegotiation": True, "tracks": [{"mid": "3"}]},
        {"tracks": [], "sessionDescription": {"type": "pranswer", "sdp": ""}},
        b"{" + b" " * MAX_REPLY + b"}",
    ],
)
async def test_a_reply_of_another_shape_leaves_the_outcome_open(
    stub: HttpStub, backend: CloudflareBackend, reply: Any
) -> None:
    stub.will_reply(Reply(200, reply))

    with pytest.raises(errors.NoAnswerError) as raised:
        await backend.pull(SESSION, [CAMERA])

    assert raised.value.after is After.REPLACE


async def test_tracks_without_an_answer_leave_the_outcome_open(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(Reply(200, {"tracks": [{"mid": "0", "trackName": "camera"}]}))

    with pytest.raises(errors.NoAnswerError):
        await backend.publish(SESSION, OFFER, [LocalTrack(mid="0", track_name="camera")])


@pytest.mark.parametrize("reply", [{}, {"dataChannel": {"dataChannelName": "server-events", "id": 0}}])
async def test_channels_without_a_description_leave_the_outcome_open(
    stub: HttpStub, backend: CloudflareBackend, reply: Any
) -> None:
    stub.will_reply(Reply(200, reply))

    with pytest.raises(errors.NoAnswerError):
        await backend.establish_channels(SESSION)


@pytest.mark.parametrize("session_id", [None, "", "x" * 129, "a\nb"])
async def test_a_session_without_a_usable_id_is_no_session(
    stub: HttpStub, backend: CloudflareBackend, session_id: str | None
) -> None:
    stub.will_reply(Reply(201, {"sessionId": session_id}))

    with pytest.raises(errors.NoAnswerError):
        await backend.open_session()


async def test_unknown_fields_and_nulls_are_no_misfit(stub: HttpStub, backend: CloudflareBackend) -> None:
    reply = {"tracks": None, "dataChannels": None, "errorCode": None, "surprise": {"a": 1}}
    stub.will_reply(Reply(200, reply))

    state = await backend.session_state(SESSION)

    assert (state.tracks, state.channels) == ((), ())


async def test_what_cannot_be_sent_is_refused_here(stub: HttpStub, backend: CloudflareBackend) -> None:
    with pytest.raises(InvalidRequestError, match="65 tracks, expected 1 to 64"):
        await backend.pull(SESSION, [CAMERA] * 65)
    with pytest.raises(InvalidRequestError, match="0 mids, expected 1 to 64"):
        await backend.close_tracks(SESSION, [])

    assert stub.requests == []


# Losses


@pytest.mark.parametrize("loss", [CUT, CUT_SHORT])
async def test_a_lost_reply_means_that_the_session_must_be_replaced(
    stub: HttpStub, backend: CloudflareBackend, loss: bytes
) -> None:
    stub.will_reply(loss)

    with pytest.raises(errors.NoAnswerError) as raised:
        await backend.pull(SESSION, [CAMERA])

    assert raised.value.after is After.REPLACE
    assert len(stub.requests) == 1


async def test_silence_ends_in_time(stub: HttpStub, metrics: Metrics) -> None:
    stub.will_reply(None)

    async with backend_at(stub, metrics, request_timeout=0.05) as backend:
        with pytest.raises(errors.NoAnswerError) as raised:
            await backend.answer(SESSION, OFFER)

    assert raised.value.after is After.REPLACE
    assert metrics.media_calls.labelled("renegotiate", "no_answer").value == 1


async def test_a_request_that_was_never_sent_may_be_repeated(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub._server.close()
    await stub._server.wait_closed()

    with pytest.raises(errors.UnreachableError) as raised:
        await backend.pull(SESSION, [CAMERA])

    assert raised.value.after is After.TRY_LATER
    assert "127.0.0.1" not in raised.value.message


@pytest.mark.parametrize("url", ["", "ftp://sfu/v1", "http:///v1", "http://sfu:99999999/v1", "http://sfu:x", "sfu/v1"])
def test_a_base_url_that_is_none_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        CloudflareBackend(app_id="app", app_secret=SECRET, base_url=url, metrics=Metrics())


@pytest.mark.parametrize("failure", [CUT, Reply(503), Reply(429), Reply(500, {"errorCode": "backend_error"})])
async def test_closing_and_reading_are_repeated(
    stub: HttpStub, backend: CloudflareBackend, failure: Reply | bytes
) -> None:
    stub.will_reply(failure, failure, recorded("closed"), failure, recorded("state"))

    assert (await backend.close_tracks(SESSION, ["3"])).tracks[0].error is None
    assert (await backend.session_state(SESSION)).tracks


async def test_repetition_is_bounded(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(*[Reply(503)] * 4)

    with pytest.raises(errors.InternalFaultError) as raised:
        await backend.close_channels(SESSION, [1])

    assert raised.value.after is After.TRY_LATER
    assert len(stub.requests) == 3


@pytest.mark.parametrize("refusal", ["not ready", "gone", "bad JSON"])
async def test_a_clear_refusal_is_not_repeated(stub: HttpStub, backend: CloudflareBackend, refusal: str) -> None:
    stub.will_reply(recorded(refusal))

    with pytest.raises(MediaFault):
        await backend.close_tracks(SESSION, ["3"])

    assert len(stub.requests) == 1


@pytest.mark.parametrize("failure", [CUT, Reply(503), Reply(429), Reply(425)])
async def test_what_changes_a_session_is_never_repeated(
    stub: HttpStub, backend: CloudflareBackend, failure: Reply | bytes
) -> None:
    for call in (
        backend.open_session(),
        backend.publish(SESSION, OFFER),
        backend.pull(SESSION, [CAMERA]),
        backend.answer(SESSION, OFFER),
        backend.establish_channels(SESSION),
    ):
        stub.requests.clear()
        stub.will_reply(failure)

        with pytest.raises(MediaFault):
            await call

        assert len(stub.requests) == 1


async def test_a_cancelled_call_is_counted_as_such(
    stub: HttpStub, backend: CloudflareBackend, metrics: Metrics
) -> None:
    stub.will_reply(None)
    call = asyncio.create_task(backend.pull(SESSION, [CAMERA]))
    async with asyncio.timeout(5):
        await stub.waiting.wait()

    call.cancel()
    await asyncio.wait([call])

    assert metrics.media_calls.labelled("tracks_new", "cancelled").value == 1


# Credentials


async def test_good_credentials_are_proved_by_one_call(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("session opened"))

    await backend.validate_credentials()

    assert len(stub.requests) == 1


async def test_bad_credentials_are_told_apart(stub: HttpStub, backend: CloudflareBackend) -> None:
    stub.will_reply(recorded("wrong secret"), recorded("unknown app"))

    with pytest.raises(errors.CredentialsRefusedError):
        await backend.validate_credentials()
    with pytest.raises(errors.AppNotFoundError):
        await backend.validate_credentials()


async def test_turn_credentials_are_proved_too(stub: HttpStub) -> None:
    stub.will_reply(recorded("session opened"), Reply(401))

    async with backend_at(stub, turn_key_id="key", turn_key_token=TURN_TOKEN) as backend:
        with pytest.raises(errors.CredentialsRefusedError):
            await backend.validate_credentials()

    assert stub.requests[1].body == {"ttl": 60}


async def test_secrets_are_in_no_representation(stub: HttpStub) -> None:
    async with backend_at(stub, turn_key_id="key", turn_key_token=TURN_TOKEN) as backend:
        assert SECRET not in f"{backend!r} {backend}"
        assert TURN_TOKEN not in f"{backend!r} {backend}"


async def test_secrets_are_in_no_log(
    stub: HttpStub, backend: CloudflareBackend, caplog: pytest.LogCaptureFixture
) -> None:
    stub.will_reply(recorded("session opened"), recorded("wrong secret"))

    with caplog.at_level(logging.DEBUG):
        await backend.open_session()
        with pytest.raises(errors.CredentialsRefusedError):
            await backend.open_session()
        Encoder().encode([("authorization", f"Bearer {SECRET}")])  # what HTTP/2 would do, which needs TLS

    assert caplog.text
    assert SECRET not in caplog.text


async def test_calls_are_timed_and_counted(stub: HttpStub, backend: CloudflareBackend, metrics: Metrics) -> None:
    stub.will_reply(recorded("session opened"), recorded("pulled"), recorded("not ready"))

    await backend.open_session()
    await backend.pull(SESSION, [CAMERA])
    with pytest.raises(errors.SessionNotReadyError):
        await backend.pull(SESSION, [CAMERA])

    assert metrics.media_calls.labelled("tracks_new", "ok").value == 1
    assert metrics.media_calls.labelled("tracks_new", "session_error").value == 1
    assert sum(metrics.media_call_seconds.labelled("tracks_new").counts) == 2
