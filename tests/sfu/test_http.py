"""The HTTP interface: cases A to H of tracks/new and the rest of the table, with Cloudflare's errors and statuses."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from signal_manager.sfu import LocalSfu, SfuSettings
from signal_manager.sfu.errors import RefusedError
from tests.sfu.clients import Api, Json, Peer, api_of
from tests.sfu.sdps import answer_to, offer, sdp, section

CAMERA = {"location": "local", "mid": "0", "trackName": "camera"}
ESTABLISH = {"dataChannel": {"location": "remote", "dataChannelName": "server-events"}}


async def publish(api: Api, *, more: tuple[str, ...] = ()) -> str:
    """Publish a camera in a new session, without media, and return the session."""
    session = await api.new_session()
    body = {"sessionDescription": offer(section("0", more=more)), "tracks": [CAMERA]}
    await api.ok("POST", f"/sessions/{session}/tracks/new", body)
    return session


async def publish_flowing(sfu: LocalSfu, api: Api, *, more: tuple[str, ...] = ()) -> str:
    """Publish a camera, and let the SFU believe that its packets arrive."""
    session = await publish(api, more=more)
    sfu.sessions[session].tracks.published["camera"].begin()
    return session


def camera_of(session: str, **more: Any) -> Json:
    return {"location": "remote", "sessionId": session, "trackName": "camera", **more}


async def failure(api: Api, method: str, path: str, body: Any = None) -> tuple[int, str]:
    response = await api.call(method, path, body)
    answer = response.json()
    assert set(answer) == {"errorCode", "errorDescription"}
    return response.status_code, answer["errorCode"]


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_a_new_session_has_an_id_of_32_hex_digits(api: Api) -> None:
    response = await api.call("POST", "/sessions/new?correlationId=x&thirdparty=true")

    assert response.status_code == 201
    assert response.headers["vary"] == "Origin"
    assert list(response.json()) == ["sessionId"]
    assert len(bytes.fromhex(response.json()["sessionId"])) == 16


async def test_a_new_session_answers_the_offer_that_comes_with_it(api: Api) -> None:
    body = {"sessionDescription": offer(section("0"), section("d", "application"))}

    answer = await api.ok("POST", "/sessions/new", body)

    assert answer["sessionDescription"]["type"] == "answer"
    assert "a=inactive" in answer["sessionDescription"]["sdp"]
    assert "m=application 9" in answer["sessionDescription"]["sdp"]


async def test_both_base_urls_work(sfu: LocalSfu, api: Api) -> None:
    api.root = api.root.replace("/v1", "")

    assert await api.new_session() in sfu.sessions


async def test_an_unknown_app_is_404_and_a_wrong_secret_401(sfu: LocalSfu, api: Api) -> None:
    root = api.root
    api.root = root.replace(sfu.app_id, "0" * 32)
    assert await failure(api, "POST", "/sessions/new") == (404, "not_found")
    api.root = root
    for header in ("Bearer wrong", f"Basic {sfu.app_secret}", sfu.app_secret, ""):
        api.headers = {"authorization": header}
        assert await failure(api, "POST", "/sessions/new") == (401, "unauthorized")


async def test_an_unknown_session_is_gone(api: Api) -> None:
    for session in ("0" * 32, "nonsense", "%00"):
        assert await failure(api, "GET", f"/sessions/{session}") == (410, "session_error")


async def test_an_unknown_path_and_a_wrong_method_keep_the_shape(api: Api) -> None:
    assert await failure(api, "POST", "/adapters/websocket/new", {}) == (404, "not_found")
    assert await failure(api, "DELETE", "/sessions/x") == (405, "not_found")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"tracks": 1}',
        b'{"tracks": [{"location": "moon"}]}',
        b'{"tracks": [{"trackName": ""}]}',
        b'{"autoDiscover": 1}',
        b'{"sessionDescription": {"type": "pranswer", "sdp": ""}}',
    ],
)
async def test_json_of_the_wrong_shape_is_a_decoding_error(api: Api, body: bytes) -> None:
    session = await api.new_session()

    response = await api.http.post(f"{api.root}/sessions/{session}/tracks/new", content=body, headers=api.headers)

    assert (response.status_code, response.json()["errorCode"]) == (400, "decoding_error")


async def test_a_body_of_a_megabyte_is_too_large(api: Api) -> None:
    session = await api.new_session()
    body = {"sessionDescription": {"type": "offer", "sdp": "v=0\r\n" + "a=x\r\n" * 200_000}}

    assert await failure(api, "POST", f"/sessions/{session}/tracks/new", body) == (413, "payload_too_large")


async def test_the_51st_request_of_a_second_is_one_too_many(sfu: LocalSfu, api: Api) -> None:
    session = sfu.open_session()
    now = session.last_request
    for _ in range(50):
        session.admit(now)

    with pytest.raises(RefusedError, match="at most 50 requests per second") as caught:
        session.admit(now)

    assert (caught.value.status, caught.value.error_code) == (429, "rate_limited")
    session.admit(now + 0.03)


async def test_sessions_are_bounded() -> None:
    async with LocalSfu(http_port=0, settings=SfuSettings(max_sessions=1)) as sfu, api_of(sfu) as api:
        await api.new_session()

        assert await failure(api, "POST", "/sessions/new") == (503, "temporarily_unavailable_error")


async def test_a_session_that_never_connects_expires() -> None:
    settings = SfuSettings(unconnected_timeout=0, tick=0.01)
    async with LocalSfu(http_port=0, settings=settings) as sfu, api_of(sfu) as api, asyncio.timeout(5):
        session = await api.new_session()
        while sfu.sessions:  # noqa: ASYNC110 -- the SFU tells of it by its state only
            await asyncio.sleep(0.01)

        assert await failure(api, "GET", f"/sessions/{session}") == (410, "session_error")
        assert sfu.counters.sessions_expired == 1


# -- tracks/new, the client offers -------------------------------------------------------------------------------------


async def test_publishing_is_answered_with_mid_and_name(api: Api) -> None:
    session = await api.new_session()
    body = {"sessionDescription": offer(section("0")), "tracks": [CAMERA]}

    answer = await api.ok("POST", f"/sessions/{session}/tracks/new", body)

    assert answer["requiresImmediateRenegotiation"] is False
    assert answer["tracks"] == [{"trackName": "camera", "mid": "0"}]
    assert "a=recvonly" in answer["sessionDescription"]["sdp"]
    assert "a=rtcp-fb:96 transport-cc" in answer["sessionDescription"]["sdp"]
    state = await api.ok("GET", f"/sessions/{session}")
    assert state["tracks"] == [{"location": "local", "mid": "0", "trackName": "camera", "status": "inactive"}]


async def test_auto_discovery_names_every_section_that_sends(api: Api) -> None:
    session = await api.new_session()
    sections = section("0"), section("1", "audio"), section("2", direction="recvonly")

    body = {"sessionDescription": offer(*sections), "autoDiscover": True}
    answer = await api.ok("POST", f"/sessions/{session}/tracks/new", body)

    assert [track["mid"] for track in answer["tracks"]] == ["0", "1"]
    assert len({track["trackName"] for track in answer["tracks"]}) == 2


async def test_a_name_or_a_mid_that_is_taken_fails_alone(api: Api) -> None:
    session = await api.new_session()
    tracks = [CAMERA, {"location": "local", "mid": "1", "trackName": "camera"}]
    body = {"sessionDescription": offer(section("0"), section("1")), "tracks": tracks}

    answer = await api.ok("POST", f"/sessions/{session}/tracks/new", body)

    assert [track.get("errorCode") for track in answer["tracks"]] == [None, "repeated_local_track_error"]


async def test_a_section_that_sends_nothing_cannot_be_published(api: Api) -> None:
    session = await api.new_session()
    body = {"sessionDescription": offer(section("0", direction="recvonly")), "tracks": [CAMERA]}

    answer = await api.ok("POST", f"/sessions/{session}/tracks/new", body)

    assert answer["tracks"][0]["errorCode"] == "invalid_params"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 406, "invalid_params"),
        ({"tracks": [{"trackName": "x"}]}, 406, "invalid_params"),
        ({"tracks": [CAMERA, {"location": "remote", "trackName": "x"}]}, 406, "invalid_params"),
        ({"tracks": [CAMERA] * 65}, 406, "invalid_params"),
        ({"tracks": [{"location": "remote", "trackName": "x"}]}, 406, "invalid_params"),
        ({"tracks": [{"location": "local", "trackName": "x"}]}, 406, "invalid_params"),
        ({"tracks": [{**CAMERA, "mid": "9"}], "sessionDescription": offer(section("0"))}, 406, "invalid_params"),
        ({"tracks": [{**CAMERA, "trackName": None}], "sessionDescription": offer(section("0"))}, 406, "invalid_params"),
        ({"tracks": [CAMERA, CAMERA], "sessionDescription": offer(section("0"))}, 406, "invalid_params"),
        ({"sessionDescription": {"type": "offer", "sdp": "no SDP"}}, 406, "invalid_session_description"),
        (
            {"sessionDescription": {"type": "offer", "sdp": sdp(section("0")).strip()}},
            406,
            "invalid_session_description",
        ),
        ({"sessionDescription": offer(section("0"), section("0"))}, 406, "invalid_session_description"),
        ({"sessionDescription": {"type": "answer", "sdp": sdp(section("0"))}}, 406, "invalid_session_description"),
    ],
)
async def test_a_request_that_makes_no_sense_changes_nothing(api: Api, body: Json, status: int, code: str) -> None:
    session = await api.new_session()

    assert await failure(api, "POST", f"/sessions/{session}/tracks/new", body) == (status, code)
    assert (await api.ok("GET", f"/sessions/{session}"))["tracks"] == []


async def test_a_second_operation_before_the_transport_is_up_is_425(api: Api) -> None:
    session = await publish(api)
    body = {"tracks": [camera_of(session)]}

    assert await failure(api, "POST", f"/sessions/{session}/tracks/new", body) == (425, "session_error")


async def test_pulling_into_the_clients_own_offer_is_answered(sfu: LocalSfu, api: Api) -> None:
    publisher, session = await publish_flowing(sfu, api), await api.new_session()
    body = {
        "sessionDescription": offer(section("a", "audio", direction="recvonly"), section("v", direction="recvonly")),
        "tracks": [camera_of(publisher), camera_of(publisher)],
    }

    answer = await api.ok("POST", f"/sessions/{session}/tracks/new", body)

    assert answer["requiresImmediateRenegotiation"] is False
    assert [track["mid"] for track in answer["tracks"]] == ["v", ""]
    assert answer["tracks"][1]["errorCode"] == "invalid_params"
    assert "a=sendonly" in answer["sessionDescription"]["sdp"]


# -- tracks/new, the SFU offers ----------------------------------------------------------------------------------------


async def test_pulling_brings_an_offer_and_takes_one_answer(sfu: LocalSfu, api: Api) -> None:
    publisher, session = await publish_flowing(sfu, api), await api.new_session()

    answer = await api.ok("POST", f"/sessions/{session}/tracks/new", {"tracks": [camera_of(publisher)]})
    text = answer["sessionDescription"]["sdp"]
    renegotiate = {"sessionDescription": answer_to(text)}

    assert answer["requiresImmediateRenegotiation"] is True
    assert answer["tracks"] == [{"sessionId": publisher, "trackName": "camera", "mid": "0"}]
    assert "a=setup:actpass" in text
    assert "a=sendonly" in text
    assert await api.ok("PUT", f"/sessions/{session}/renegotiate", renegotiate) == {}
    second = await failure(api, "PUT", f"/sessions/{session}/renegotiate", renegotiate)
    assert second == (406, "invalid_session_description")


async def test_while_an_offer_waits_other_changes_are_406(sfu: LocalSfu, api: Api) -> None:
    publisher, session = await publish_flowing(sfu, api), await api.new_session()
    pull = {"tracks": [camera_of(publisher)]}
    await api.ok("POST", f"/sessions/{session}/tracks/new", pull)
    push = {"tracks": [CAMERA], "sessionDescription": offer(section("0"))}
    ask = {"tracks": [{"location": "local", "trackName": "x", "kind": "video"}]}

    for body in (pull, push, ask):
        answer = await failure(api, "POST", f"/sessions/{session}/tracks/new", body)
        assert answer == (406, "invalid_session_description")
    answer = await failure(api, "POST", f"/sessions/{session}/datachannels/establish", ESTABLISH)
    assert answer == (406, "invalid_session_description")


@pytest.mark.parametrize("wrong", ["fewer", "other mid", "garbage", "no newline"])
async def test_an_answer_that_does_not_fit_leaves_the_offer_waiting(sfu: LocalSfu, api: Api, wrong: str) -> None:
    publisher, session = await publish_flowing(sfu, api), await api.new_session()
    answer = await api.ok(
        "POST", f"/sessions/{session}/tracks/new", {"tracks": [camera_of(publisher), camera_of(publisher)]}
    )
    right = answer_to(answer["sessionDescription"]["sdp"])
    texts = {
        "fewer": sdp(section("0", direction="recvonly"), setup="active"),
        "other mid": right["sdp"].replace("a=mid:1", "a=mid:7"),
        "garbage": "garbage",
        "no newline": right["sdp"].strip(),
    }

    body = {"sessionDescription": {"type": "answer", "sdp": texts[wrong]}}
    assert (await failure(api, "PUT", f"/sessions/{session}/renegotiate", body))[0] == 406
    await api.ok("PUT", f"/sessions/{session}/renegotiate", {"sessionDescription": right})


async def test_an_answer_without_an_offer_is_refused(api: Api) -> None:
    session = await api.new_session()
    body = {"sessionDescription": {"type": "answer", "sdp": sdp(section("0"))}}

    answer = await failure(api, "PUT", f"/sessions/{session}/renegotiate", body)

    assert answer == (406, "invalid_session_description")


async def test_a_track_nobody_publishes_is_not_found(api: Api) -> None:
    session = await api.new_session()

    answer = await api.ok("POST", f"/sessions/{session}/tracks/new", {"tracks": [camera_of("0" * 32)]})

    assert answer["requiresImmediateRenegotiation"] is False
    assert "sessionDescription" not in answer
    assert answer["tracks"][0]["mid"] == ""
    assert answer["tracks"][0]["errorCode"] == "not_found_track_error"


async def test_a_publisher_that_is_not_connected_is_not_found_after_a_while(api: Api) -> None:
    publisher, session = await publish(api), await api.new_session()

    answer = await api.ok("POST", f"/sessions/{session}/tracks/new", {"tracks": [camera_of(publisher)]})

    assert answer["tracks"][0]["errorCode"] == "not_found_track_error"


async def test_a_connected_publisher_without_packets_is_empty(api: Api) -> None:
    session = await api.new_session()
    async with await Peer.open(api) as alice:
        alice.connection.createDataChannel("any")
        alice.connection.addTransceiver("audio", direction="sendonly")
        body = {"sessionDescription": await alice.offer(), "tracks": [{**CAMERA, "mid": "0"}]}
        answer = await api.ok("POST", f"{alice.path}/tracks/new", body)
        await alice.take(answer["sessionDescription"])
        await alice.connected()

        answer = await api.ok("POST", f"/sessions/{session}/tracks/new", {"tracks": [camera_of(alice.session_id)]})

    assert answer["tracks"][0]["errorCode"] == "empty_track_error"


async def test_a_pull_waits_for_the_first_packet(sfu: LocalSfu, api: Api) -> None:
    publisher, session = await publish(api), await api.new_session()

    pulling = asyncio.create_task(api.ok("POST", f"/sessions/{session}/tracks/new", {"tracks": [camera_of(publisher)]}))
    await asyncio.sleep(0)
    sfu.sessions[publisher].tracks.published["camera"].begin()

    assert (await pulling)["tracks"][0]["mid"] == "0"


async def test_good_and_bad_items_are_answered_together(sfu: LocalSfu, api: Api) -> None:
    publisher, session = await publish_flowing(sfu, api), await api.new_session()

    body = {"tracks": [camera_of(publisher), camera_of("f" * 32)]}
    answer = await api.ok("POST", f"/sessions/{session}/tracks/new", body)

    assert answer["requiresImmediateRenegotiation"] is True
    assert [track["mid"] for track in answer["tracks"]] == ["0", ""]
    assert answer["sessionDescription"]["sdp"].count("m=") == 1


async def test_a_push_without_an_offer_gets_the_sfus(api: Api) -> None:
    session = await api.new_session()
    asked = {"location": "local", "kind": "video", "trackName": "camera", "bidirectionalMediaStream": True}

    answer = await api.ok("POST", f"/sessions/{session}/tracks/new", {"tracks": [asked, asked]})
    text = answer["sessionDescription"]["sdp"]
    accepted = {"sessionDescription": answer_to(text, direction="sendrecv")}
    await api.ok("PUT", f"/sessions/{session}/renegotiate", accepted)

    assert answer["requiresImmediateRenegotiation"] is True
    assert [track.get("errorCode") for track in answer["tracks"]] == [None, "repeated_local_track_error"]
    assert "a=sendrecv" in text
    assert all(f" {codec}/90000" in text for codec in ("VP8", "VP9", "H264", "AV1"))
    state = await api.ok("GET", f"/sessions/{session}")
    assert state["tracks"] == [{"location": "local", "mid": "0", "trackName": "camera", "status": "inactive"}]


async def test_pushes_that_all_fail_bring_no_offer(api: Api) -> None:
    session = await publish(api)
    asked = {"location": "local", "kind": "video", "trackName": "camera"}

    assert await failure(api, "POST", f"/sessions/{session}/tracks/new", {"tracks": [asked]}) == (425, "session_error")


# -- closing, updating, data channels ----------------------------------------------------------------------------------


async def test_closing_by_force_needs_no_transport_and_can_be_repeated(sfu: LocalSfu, api: Api) -> None:
    session = await publish(api)
    body = {"tracks": [{"mid": "0"}], "force": True}

    first = await api.ok("PUT", f"/sessions/{session}/tracks/close", body)
    second = await api.ok("PUT", f"/sessions/{session}/tracks/close", body)

    assert first == {"requiresImmediateRenegotiation": False, "tracks": [{"mid": "0"}]}
    assert second["tracks"][0]["errorCode"] == "close_track_error"
    assert not sfu.sessions[session].tracks.published


@pytest.mark.parametrize(
    "body", [{"tracks": [], "force": True}, {"tracks": [{}], "force": True}, {"tracks": [{"mid": "0"}], "force": False}]
)
async def test_closing_without_mids_or_description_is_refused(api: Api, body: Json) -> None:
    session = await publish(api)

    assert await failure(api, "PUT", f"/sessions/{session}/tracks/close", body) == (406, "invalid_params")


async def test_updating_needs_a_mid(api: Api) -> None:
    session = await api.new_session()

    assert await failure(api, "PUT", f"/sessions/{session}/tracks/update", {"tracks": [{}]}) == (406, "invalid_params")


async def test_updating_chooses_a_layer_or_another_publication(sfu: LocalSfu, api: Api) -> None:
    rids = ("a=rid:f send", "a=rid:q send", "a=simulcast:send f;q")
    layered, plain = await publish_flowing(sfu, api, more=rids), await publish_flowing(sfu, api)
    session = await api.new_session()
    pull = {"tracks": [camera_of(layered, simulcast={"preferredRid": "q"}), camera_of(plain)]}
    await api.ok("POST", f"/sessions/{session}/tracks/new", pull)

    body = {
        "tracks": [
            {"mid": "0", "simulcast": {"preferredRid": "f", "ridNotAvailable": "asciibetical"}},
            {"mid": "1", "simulcast": {"preferredRid": "f"}},
            {"mid": "1", "location": "remote", "sessionId": layered, "trackName": "camera"},
            {"mid": "0", "sessionId": "0" * 32, "trackName": "camera"},
            {"mid": "9"},
        ]
    }
    answer = await api.ok("PUT", f"/sessions/{session}/tracks/update", body)

    codes = [track.get("errorCode") for track in answer["tracks"]]
    assert codes == [None, "update_track_error", None, "not_found_track_error", "update_track_error"]
    subscriptions = sfu.sessions[session].tracks.router.subscriptions
    assert subscriptions["0"].preferred_rid == "f"
    assert subscriptions["1"].publication is sfu.sessions[layered].tracks.published["camera"]


async def test_establishing_works_once_and_with_either_side_offering(api: Api) -> None:
    first, second = await api.new_session(), await api.new_session()

    offered = await api.ok("POST", f"/sessions/{first}/datachannels/establish", ESTABLISH)
    again = {"sessionDescription": answer_to(offered["sessionDescription"]["sdp"])}
    await api.ok("PUT", f"/sessions/{first}/renegotiate", again)
    body = {**ESTABLISH, "sessionDescription": offer(section("d", "application"))}
    answered = await api.ok("POST", f"/sessions/{second}/datachannels/establish", body)

    assert offered["requiresImmediateRenegotiation"] is True
    assert offered["dataChannel"] == {"location": "remote", "dataChannelName": "server-events", "id": 0}
    assert answered["requiresImmediateRenegotiation"] is False
    assert answered["sessionDescription"]["type"] == "answer"
    repeated = await failure(api, "POST", f"/sessions/{first}/datachannels/establish", ESTABLISH)
    assert repeated == (425, "session_error")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({**ESTABLISH, "sessionDescription": offer(section("0"))}, 400, "decoding_error"),
        ({"dataChannel": {"location": "local", "dataChannelName": "x"}}, 406, "invalid_params"),
        ({}, 400, "decoding_error"),
    ],
)
async def test_establishing_something_else_is_refused(api: Api, body: Json, status: int, code: str) -> None:
    session = await api.new_session()

    assert await failure(api, "POST", f"/sessions/{session}/datachannels/establish", body) == (status, code)


async def test_a_data_channel_without_a_transport_is_refused(api: Api) -> None:
    session = await api.new_session()
    body = {"dataChannels": [{"location": "local", "dataChannelName": "chat"}]}

    assert await failure(api, "POST", f"/sessions/{session}/datachannels/new", body) == (406, "invalid_params")


# -- pages -------------------------------------------------------------------------------------------------------------


async def test_turn_credentials_are_an_empty_list(sfu: LocalSfu, api: Api) -> None:
    response = await api.http.post(f"{sfu.base_url}/turn/keys/any/credentials/generate-ice-servers", json={"ttl": 60})

    assert (response.status_code, response.json()) == (201, {"iceServers": []})


async def test_metrics_count_requests_by_outcome(sfu: LocalSfu, api: Api) -> None:
    await api.new_session()
    await api.call("GET", "/sessions/none")

    text = (await api.http.get(sfu.base_url.removesuffix("v1") + "metrics")).text

    assert 'sfu_requests_total{endpoint="sessions/new",error="",status="201"} 1.0' in text
    assert 'sfu_requests_total{endpoint="state",error="session_error",status="410"} 1.0' in text
    assert "sfu_sessions 1.0" in text


async def test_the_status_page_escapes_what_clients_call_their_tracks(sfu: LocalSfu, api: Api) -> None:
    session = await api.new_session()
    name = "<script>alert(1)</script>\r\na=evil"
    body = {"sessionDescription": offer(section("0")), "tracks": [{**CAMERA, "trackName": name}]}
    await api.ok("POST", f"/sessions/{session}/tracks/new", body)
    sfu.sessions[session].tracks.published[name].begin()
    pull = {"tracks": [{"location": "remote", "sessionId": session, "trackName": name}]}
    pulled = await api.ok("POST", f"/sessions/{await api.new_session()}/tracks/new", pull)

    page = (await api.http.get(sfu.base_url.removesuffix("v1"))).text

    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "a=evil\r\n" not in pulled["sessionDescription"]["sdp"]


async def test_a_client_that_hangs_up_disturbs_nobody(sfu: LocalSfu, api: Api) -> None:
    session = await api.new_session()
    _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(sfu.base_url).port)
    writer.write(
        f"POST /v1/apps/{sfu.app_id}/sessions/{session}/tracks/new HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n"
        f"authorization: Bearer {sfu.app_secret}\r\n\r\n{{".encode()
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    assert await api.new_session()
