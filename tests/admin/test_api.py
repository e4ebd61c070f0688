"""The management interface as an operator's program uses it."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from signal_manager.gateway.live_sessions import Phase, RecentError
from signal_manager.model import ClientId, SessionId
from signal_manager.protocol.messages import SignalMessage
from tests.admin.fakes import FakeSession
from tests.admin.office import SECRET, Office
from tests.rooms.house import ROOM


def connect(office: Office, *names: str) -> list[FakeSession]:
    sessions = [FakeSession(ClientId(name), SessionId(f"session-of-{name}")) for name in names]
    office.presence.connected += sessions
    return sessions


async def get(office: Office, path: str, **query: Any) -> Any:
    response = await office.http.get(f"/api/v1{path}", params=query)
    assert response.status_code == 200, response.text
    return response.json()


async def post(office: Office, path: str, **body: Any) -> Any:
    response = await office.http.post(f"/api/v1{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def refused(office: Office, path: str, body: Any = None) -> tuple[int, str]:
    response = await office.http.post(f"/api/v1{path}", json={} if body is None else body)
    failure = response.json()
    assert list(failure) == ["error_code", "error_message"]
    assert failure["error_code"] == response.status_code
    return response.status_code, failure["error_message"]


async def every_page(office: Office, path: str, key: str, **query: Any) -> list[str]:
    """Follow a list to its end."""
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = await get(office, path, **query, **after)
        found += [item[key] for item in page["items"]]
        if page["next"] is None:
            return found
        after = {"after": page["next"]}


# -- sessions ----------------------------------------------------------------------------------------------------


async def test_sessions_are_shown_with_what_they_are(office: Office) -> None:
    connect(office, "alice")

    shown = await get(office, "/sessions/session-of-alice")

    assert shown == {
        "session_id": "session-of-alice",
        "client_id": "alice",
        "instance_id": None,
        "node_id": "node-1",
        "room_id": None,
        "address": "192.0.2.7",
        "framing": "v1",
        "encoding": "json",
        "is_away": False,
        "age": 60.0,
        "received": 3,
        "sent": 4,
    }


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_every_session_is_on_exactly_one_page(office: Office, limit: int) -> None:
    names = ["a", "a-b", "a.b", "ab", "a", "b"]
    office.presence.connected = [
        FakeSession(ClientId(name), SessionId(f"s{number}")) for number, name in enumerate(names)
    ]

    found = await every_page(office, "/sessions", "session_id", limit=limit)

    assert sorted(found) == [f"s{number}" for number in range(len(names))]


async def test_sessions_are_found_by_client_and_by_part_of_its_name(office: Office) -> None:
    connect(office, "alice", "alina", "bob")

    assert await every_page(office, "/sessions", "client_id", client_id="bob") == ["bob"]
    assert await every_page(office, "/sessions", "client_id", contains="ali", limit=1) == ["alice", "alina"]


async def test_a_session_is_ended_alone(office: Office) -> None:
    alice, bob = connect(office, "alice", "bob")

    assert await post(office, "/sessions/session-of-alice/disconnect") == {"ended": 1}

    assert (alice.is_evicted, bob.is_evicted) == (True, False)
    assert await refused(office, "/sessions/nothing/disconnect") == (404, "no such session: nothing")


# -- clients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_clients_are_those_on_record_and_those_connected_each_once(office: Office, limit: int) -> None:
    for name in ("bob", "dora", "eve"):
        await office.house.register(name)
    connect(office, "alice", "bob", "carol", "zoe")

    assert await every_page(office, "/clients", "client_id", limit=limit) == [
        "alice", "bob", "carol", "dora", "eve", "zoe",
    ]  # fmt: skip
    assert await every_page(office, "/clients", "client_id", is_connected=False, limit=limit) == ["dora", "eve"]
    assert await every_page(office, "/clients", "client_id", is_connected=True, contains="o", limit=limit) == [
        "bob", "carol", "zoe",
    ]  # fmt: skip


async def test_a_filter_that_fits_nothing_costs_a_bounded_number_of_reads(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal_manager.admin.lists._READS", 2)
    for number in range(5):
        await office.house.register(f"client-{number}")

    page = await get(office, "/clients", contains="nobody", limit=1)

    assert page == {"items": [], "next": "client-1"}
    assert await every_page(office, "/clients", "client_id", contains="-4", limit=1) == ["client-4"]


async def test_a_client_is_shown_with_its_sessions_and_never_with_its_token(office: Office) -> None:
    await office.house.register("alice")
    connect(office, "alice")

    shown = await get(office, "/clients/alice")

    assert (shown["is_connected"], shown["is_registered"]) == (True, True)
    assert [session["session_id"] for session in shown["sessions"]] == ["session-of-alice"]
    assert "sha256" not in str(shown)
    assert "token" not in str(shown)


@pytest.mark.parametrize("name", ["nobody", "..%2F..", "%00", "a b", "x" * 128])
async def test_a_client_that_is_not_there_is_404_whatever_its_name(office: Office, name: str) -> None:
    response = await office.http.get(f"/api/v1/clients/{name}")

    assert response.status_code == 404


async def test_a_client_is_disconnected_with_all_its_sessions(office: Office) -> None:
    sessions = connect(office, "alice", "alice", "bob")

    assert await post(office, "/clients/alice/disconnect") == {"ended": 2}

    assert [session.is_evicted for session in sessions] == [True, True, False]
    assert await refused(office, "/clients/nobody/disconnect") == (404, "client nobody is not connected")


async def test_a_message_for_a_client_comes_from_the_operator(office: Office) -> None:
    assert await post(office, "/clients/alice/messages", data={"please": ["hang", "up"]}) == {
        "delivered": 1,
        "undelivered": 0,
    }

    (message,) = office.house.bus.inboxes[ClientId("alice")]
    assert isinstance(message, SignalMessage)
    assert (message.sender_client_id, message.signal_data) == ("~operator", {"please": ["hang", "up"]})


async def test_a_message_that_cannot_be_delivered_says_why(office: Office) -> None:
    office.house.bus.offline.add(ClientId("alice"))
    office.house.bus.tagged.add(ClientId("old"))

    assert (await refused(office, "/clients/alice/messages", {"data": 1}))[0] == 404
    assert await refused(office, "/clients/old/messages", {"data": 1}) == (
        400,
        "the target's protocol has no such message",
    )


# -- rooms -------------------------------------------------------------------------------------------------------


async def test_rooms_are_listed_with_how_much_is_in_them(office: Office) -> None:
    alice, bob = office.house.client("alice"), office.house.client("bob")
    await alice.create()
    await bob.join()
    await office.house.settled()
    await office.house.client("carol").create("over")
    await office.house.rooms.close((await office.house.room("over")).room_id, "over")

    active = await get(office, "/rooms", is_active=True)
    closed = await get(office, "/rooms", is_active=False)

    (room,) = active["items"]
    assert (room["room_id"], room["participants"], room["tracks"], room["created_at"]) == (ROOM, 2, 2, 1000.0)
    assert [(each["room_id"], each["close_reason"]) for each in closed["items"]] == [("over", "over")]
    assert await every_page(office, "/rooms", "room_id", limit=1, contains="o") == ["over", "room-1"]


async def test_a_room_is_shown_with_participants_and_tracks(office: Office) -> None:
    await office.house.client("alice").create(metadata={"topic": "lunch"})
    await office.house.settled()

    room = await get(office, f"/rooms/{ROOM}")

    (member,) = room["members"]
    assert (member["client_id"], member["role"], member["media_session_id"]) == ("alice", "sender", "session-1")
    assert member["tracks"] == [{"mid": "0", "track_name": "camera", "kind": "video"}]
    assert room["metadata"]["topic"] == "lunch"
    assert (await office.http.get("/api/v1/rooms/nowhere")).status_code == 404


async def test_a_session_says_which_room_it_is_in(office: Office) -> None:
    alice = office.house.client("alice")
    await alice.create()
    office.presence.connected.append(FakeSession(alice.name, alice.caller.session_id))

    assert (await get(office, "/sessions"))["items"][0]["room_id"] == ROOM


async def test_the_metadata_of_a_room_and_of_a_participant_are_replaced(office: Office) -> None:
    alice, bob = office.house.client("alice"), office.house.client("bob")
    await alice.create()
    await bob.join()

    room = await office.http.patch(f"/api/v1/rooms/{ROOM}", json={"metadata": {"topic": "soup"}})
    member = await office.http.patch(f"/api/v1/rooms/{ROOM}/participants/alice", json={"metadata": {"name": "Al"}})

    assert (room.status_code, member.status_code) == (200, 200)
    assert room.json()["metadata"]["topic"] == "soup"
    told = [event for event in bob.events if event.event == "metadata_changed"]
    assert told[0].metadata is not None
    assert told[0].metadata["topic"] == "soup"
    assert told[1].participant is not None
    assert told[1].participant.metadata == {"name": "Al"}
    for path in ("/rooms/nowhere", f"/rooms/{ROOM}/participants/carol"):
        assert (await office.http.patch(f"/api/v1{path}", json={"metadata": {}})).status_code == 404


async def test_a_participant_is_removed_and_a_room_closed(office: Office) -> None:
    alice, bob = office.house.client("alice"), office.house.client("bob")
    await alice.create()
    await bob.join()

    assert await post(office, f"/rooms/{ROOM}/participants/alice/remove") == {"ended": 1}
    assert await post(office, f"/rooms/{ROOM}/close", reason="lunch") == {"ended": 1}

    await office.house.settled()
    assert bob.told("participant_left", of="alice")
    assert (bob.events[-1].event, bob.events[-1].reason) == ("room_closed", "lunch")
    assert await refused(office, f"/rooms/{ROOM}/close") == (400, "room room-1 is closed")
    assert (await refused(office, f"/rooms/{ROOM}/participants/bob/remove"))[0] == 404
    assert (await refused(office, "/rooms/nowhere/close"))[0] == 404


async def test_a_message_for_a_room_reaches_whom_it_can(office: Office) -> None:
    for name in ("alice", "bob", "carol"):
        client = office.house.client(name)
        await (client.create() if name == "alice" else client.join())
    office.house.bus.offline.add(ClientId("bob"))
    office.house.bus.tagged.add(ClientId("carol"))

    assert await post(office, f"/rooms/{ROOM}/messages", data="fire drill") == {"delivered": 1, "undelivered": 2}

    (message,) = (each for each in office.house.bus.inboxes[ClientId("alice")] if isinstance(each, SignalMessage))
    assert (message.room_id, message.sender_client_id, message.signal_data) == (ROOM, "~operator", "fire drill")
    assert (await refused(office, "/rooms/nowhere/messages", {"data": 1}))[0] == 404


# -- the service -------------------------------------------------------------------------------------------------


async def test_a_token_is_issued_with_its_grants(office: Office) -> None:
    issued = await post(office, "/tokens", client_id="alice", ttl=60, rooms=["demo-*"], publish=False)

    claims = jwt.decode(
        issued["token"], SECRET, algorithms=["HS256"], options={"verify_exp": False, "verify_iat": False}
    )
    assert claims == {"sub": "alice", "iat": 1000, "exp": 1060, "rooms": ["demo-*"], "publish": False}
    assert issued["expires_at"] == 1060


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({}, "client_id"),
        ({"client_id": "a/b"}, "client id"),
        ({"client_id": "a", "ttl": 0}, "ttl"),
        ({"client_id": "a", "ttl": 1e300}, "ttl"),
        ({"client_id": "a", "rooms": [""]}, "rooms"),
        ({"client_id": "a", "superuser": True}, "superuser"),
        ([], "body"),
        ("a" * 1000, "body"),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong(office: Office, body: Any, names: str) -> None:
    status, message = await refused(office, "/tokens", body)

    assert status == 400
    assert names in message
    assert len(message) < 300


async def test_what_is_no_json_is_told_so(office: Office) -> None:
    for content in (b"", b"{", b"[" * 100_000, b"\xff"):
        response = await office.http.post(
            "/api/v1/tokens", content=content, headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 400
        assert response.json()["error_code"] == 400


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=many", "is_connected=perhaps", f"after={'x' * 301}"])
async def test_a_wrong_query_is_told_what_is_wrong(office: Office, query: str) -> None:
    response = await office.http.get(f"/api/v1/clients?{query}")

    assert response.status_code == 400
    assert query.partition("=")[0] in response.json()["error_message"]


async def test_version_and_configuration_are_shown(office: Office) -> None:
    office.presence.phase = Phase.DRAINING

    version = await get(office, "/version")

    assert version | {"uptime": 0} == {
        "version": "1.2.3",
        "node_id": "node-1",
        "uptime": 0,
        "phase": "draining",
        "has_demo": True,
    }
    assert await get(office, "/configuration") == {"server": {"port": 8080}, "auth": {"token_secret": "***"}}


async def test_recent_errors_are_listed_newest_first(office: Office) -> None:
    office.presence.recent_errors = [
        RecentError(1.0, 401, "wrong", None),
        RecentError(2.0, 404, "gone", ClientId("alice")),
    ]

    assert await get(office, "/errors") == [
        {"at": 2.0, "code": 404, "message": "gone", "client_id": "alice"},
        {"at": 1.0, "code": 401, "message": "wrong", "client_id": None},
    ]


async def test_the_interface_is_described_and_documented_without_anything_from_elsewhere(office: Office) -> None:
    description = (await office.http.get("/openapi.json")).json()
    page = await office.http.get("/docs")
    script = await office.http.get("/static/swagger/swagger-ui-bundle.js")

    assert "/api/v1/rooms/{room_id}/close" in description["paths"]
    assert page.status_code == 200
    assert "http" not in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert script.headers["content-type"].startswith("text/javascript")
