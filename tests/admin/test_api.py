"""The management interface as an operator's program uses it."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from signal_manager.gateway.live_sessions import Phase, RecentError
from signal_manager.model import ClientId, SessionId
from signal_manager.protocol.messages import SignalMessage
from tests.admin.fakes import FakeSession
from tests.admin.harness import SECRET, AdminHarness
from tests.rooms.harness import ROOM


def connect(admin_harness: AdminHarness, *names: str) -> list[FakeSession]:
    sessions = [FakeSession(ClientId(name), SessionId(f"session-of-{name}")) for name in names]
    admin_harness.live_sessions.connected += sessions
    return sessions


async def get(admin_harness: AdminHarness, path: str, **query: Any) -> Any:
    response = await admin_harness.http.get(f"/api/v1{path}", params=query)
    assert response.status_code == 200, response.text
    return response.json()


async def post(admin_harness: AdminHarness, path: str, **body: Any) -> Any:
    response = await admin_harness.http.post(f"/api/v1{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def refused(admin_harness: AdminHarness, path: str, body: Any = None) -> tuple[int, str]:
    response = await admin_harness.http.post(f"/api/v1{path}", json={} if body is None else body)
    failure = response.json()
    assert list(failure) == ["error_code", "error_message"]
    assert failure["error_code"] == response.status_code
    return response.status_code, failure["error_message"]


async def every_page(admin_harness: AdminHarness, path: str, key: str, **query: Any) -> list[str]:
    """Follow a list to its end."""
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = await get(admin_harness, path, **query, **after)
        found += [item[key] for item in page["items"]]
        if page["next"] is None:
            return found
        after = {"after": page["next"]}


# -- sessions ----------------------------------------------------------------------------------------------------


async def test_sessions_are_shown_with_what_they_are(admin_harness: AdminHarness) -> None:
    connect(admin_harness, "alice")

    shown = await get(admin_harness, "/sessions/session-of-alice")

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
async def test_every_session_is_on_exactly_one_page(admin_harness: AdminHarness, limit: int) -> None:
    names = ["a", "a-b", "a.b", "ab", "a", "b"]
    admin_harness.live_sessions.connected = [
        FakeSession(ClientId(name), SessionId(f"s{number}")) for number, name in enumerate(names)
    ]

    found = await every_page(admin_harness, "/sessions", "session_id", limit=limit)

    assert sorted(found) == [f"s{number}" for number in range(len(names))]


async def test_sessions_are_found_by_client_and_by_part_of_its_name(admin_harness: AdminHarness) -> None:
    connect(admin_harness, "alice", "alina", "bob")

    assert await every_page(admin_harness, "/sessions", "client_id", client_id="bob") == ["bob"]
    assert await every_page(admin_harness, "/sessions", "client_id", contains="ali", limit=1) == ["alice", "alina"]


async def test_a_session_is_ended_alone(admin_harness: AdminHarness) -> None:
    alice, bob = connect(admin_harness, "alice", "bob")

    assert await post(admin_harness, "/sessions/session-of-alice/disconnect") == {"ended": 1}

    assert (alice.is_evicted, bob.is_evicted) == (True, False)
    assert await refused(admin_harness, "/sessions/nothing/disconnect") == (404, "no such session: nothing")


# -- clients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_clients_are_those_on_record_and_those_connected_each_once(
    admin_harness: AdminHarness, limit: int
) -> None:
    for name in ("bob", "dora", "eve"):
        await admin_harness.harness.register(name)
    connect(admin_harness, "alice", "bob", "carol", "zoe")

    assert await every_page(admin_harness, "/clients", "client_id", limit=limit) == [
        "alice", "bob", "carol", "dora", "eve", "zoe",
    ]  # fmt: skip
    assert await every_page(admin_harness, "/clients", "client_id", is_connected=False, limit=limit) == ["dora", "eve"]
    assert await every_page(admin_harness, "/clients", "client_id", is_connected=True, contains="o", limit=limit) == [
        "bob", "carol", "zoe",
    ]  # fmt: skip


async def test_a_filter_that_fits_nothing_costs_a_bounded_number_of_reads(
    admin_harness: AdminHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal_manager.admin.lists._READS", 2)
    for number in range(5):
        await admin_harness.harness.register(f"client-{number}")

    page = await get(admin_harness, "/clients", contains="nobody", limit=1)

    assert page == {"items": [], "next": "client-1"}
    assert await every_page(admin_harness, "/clients", "client_id", contains="-4", limit=1) == ["client-4"]


async def test_a_client_is_shown_with_its_sessions_and_never_with_its_token(admin_harness: AdminHarness) -> None:
    await admin_harness.harness.register("alice")
    connect(admin_harness, "alice")

    shown = await get(admin_harness, "/clients/alice")

    assert (shown["is_connected"], shown["is_registered"]) == (True, True)
    assert [session["session_id"] for session in shown["sessions"]] == ["session-of-alice"]
    assert "sha256" not in str(shown)
    assert "token" not in str(shown)


@pytest.mark.parametrize("name", ["nobody", "..%2F..", "%00", "a b", "x" * 128])
async def test_a_client_that_is_not_there_is_404_whatever_its_name(admin_harness: AdminHarness, name: str) -> None:
    response = await admin_harness.http.get(f"/api/v1/clients/{name}")

    assert response.status_code == 404


async def test_a_client_is_disconnected_with_all_its_sessions(admin_harness: AdminHarness) -> None:
    sessions = connect(admin_harness, "alice", "alice", "bob")

    assert await post(admin_harness, "/clients/alice/disconnect") == {"ended": 2}

    assert [session.is_evicted for session in sessions] == [True, True, False]
    assert await refused(admin_harness, "/clients/nobody/disconnect") == (404, "client nobody is not connected")


async def test_a_message_for_a_client_comes_from_the_operator(admin_harness: AdminHarness) -> None:
    assert await post(admin_harness, "/clients/alice/messages", data={"please": ["hang", "up"]}) == {
        "delivered": 1,
        "undelivered": 0,
    }

    (message,) = admin_harness.harness.bus.inboxes[ClientId("alice")]
    assert isinstance(message, SignalMessage)
    assert (message.sender_client_id, message.signal_data) == ("~operator", {"please": ["hang", "up"]})


async def test_a_message_that_cannot_be_delivered_says_why(admin_harness: AdminHarness) -> None:
    admin_harness.harness.bus.offline.add(ClientId("alice"))
    admin_harness.harness.bus.tagged.add(ClientId("old"))

    assert (await refused(admin_harness, "/clients/alice/messages", {"data": 1}))[0] == 404
    assert await refused(admin_harness, "/clients/old/messages", {"data": 1}) == (
        400,
        "the target's protocol has no such message",
    )


# -- rooms -------------------------------------------------------------------------------------------------------


async def test_rooms_are_listed_with_how_much_is_in_them(admin_harness: AdminHarness) -> None:
    alice, bob = admin_harness.harness.client("alice"), admin_harness.harness.client("bob")
    await alice.create()
    await bob.join()
    await admin_harness.harness.settled()
    await admin_harness.harness.client("carol").create("over")
    await admin_harness.harness.rooms.close((await admin_harness.harness.room("over")).room_id, "over")

    active = await get(admin_harness, "/rooms", is_active=True)
    closed = await get(admin_harness, "/rooms", is_active=False)

    (room,) = active["items"]
    assert (room["room_id"], room["participants"], room["tracks"], room["created_at"]) == (ROOM, 2, 2, 1000.0)
    assert [(each["room_id"], each["close_reason"]) for each in closed["items"]] == [("over", "over")]
    assert await every_page(admin_harness, "/rooms", "room_id", limit=1, contains="o") == ["over", "room-1"]


async def test_a_room_is_shown_with_participants_and_tracks(admin_harness: AdminHarness) -> None:
    await admin_harness.harness.client("alice").create(metadata={"topic": "lunch"})
    await admin_harness.harness.settled()

    room = await get(admin_harness, f"/rooms/{ROOM}")

    (member,) = room["members"]
    assert (member["client_id"], member["role"], member["media_session_id"]) == ("alice", "sender", "session-1")
    assert member["tracks"] == [{"mid": "0", "track_name": "camera", "kind": "video"}]
    assert room["metadata"]["topic"] == "lunch"
    assert (await admin_harness.http.get("/api/v1/rooms/nowhere")).status_code == 404


async def test_a_session_says_which_room_it_is_in(admin_harness: AdminHarness) -> None:
    alice = admin_harness.harness.client("alice")
    await alice.create()
    admin_harness.live_sessions.connected.append(FakeSession(alice.name, alice.caller.session_id))

    assert (await get(admin_harness, "/sessions"))["items"][0]["room_id"] == ROOM


async def test_the_metadata_of_a_room_and_of_a_participant_are_replaced(admin_harness: AdminHarness) -> None:
    alice, bob = admin_harness.harness.client("alice"), admin_harness.harness.client("bob")
    await alice.create()
    await bob.join()

    room = await admin_harness.http.patch(f"/api/v1/rooms/{ROOM}", json={"metadata": {"topic": "soup"}})
    member = await admin_harness.http.patch(
        f"/api/v1/rooms/{ROOM}/participants/alice", json={"metadata": {"name": "Al"}}
    )

    assert (room.status_code, member.status_code) == (200, 200)
    assert room.json()["metadata"]["topic"] == "soup"
    told = [event for event in bob.events if event.event == "metadata_changed"]
    assert told[0].metadata is not None
    assert told[0].metadata["topic"] == "soup"
    assert told[1].participant is not None
    assert told[1].participant.metadata == {"name": "Al"}
    for path in ("/rooms/nowhere", f"/rooms/{ROOM}/participants/carol"):
        assert (await admin_harness.http.patch(f"/api/v1{path}", json={"metadata": {}})).status_code == 404


async def test_a_participant_is_removed_and_a_room_closed(admin_harness: AdminHarness) -> None:
    alice, bob = admin_harness.harness.client("alice"), admin_harness.harness.client("bob")
    await alice.create()
    await bob.join()

    assert await post(admin_harness, f"/rooms/{ROOM}/participants/alice/remove") == {"ended": 1}
    assert await post(admin_harness, f"/rooms/{ROOM}/close", reason="lunch") == {"ended": 1}

    await admin_harness.harness.settled()
    assert bob.told("participant_left", of="alice")
    assert (bob.events[-1].event, bob.events[-1].reason) == ("room_closed", "lunch")
    assert await refused(admin_harness, f"/rooms/{ROOM}/close") == (400, "room room-1 is closed")
    assert (await refused(admin_harness, f"/rooms/{ROOM}/participants/bob/remove"))[0] == 404
    assert (await refused(admin_harness, "/rooms/nowhere/close"))[0] == 404


async def test_a_message_for_a_room_reaches_whom_it_can(admin_harness: AdminHarness) -> None:
    for name in ("alice", "bob", "carol"):
        client = admin_harness.harness.client(name)
        await (client.create() if name == "alice" else client.join())
    admin_harness.harness.bus.offline.add(ClientId("bob"))
    admin_harness.harness.bus.tagged.add(ClientId("carol"))

    assert await post(admin_harness, f"/rooms/{ROOM}/messages", data="fire drill") == {"delivered": 1, "undelivered": 2}

    (message,) = (
        each for each in admin_harness.harness.bus.inboxes[ClientId("alice")] if isinstance(each, SignalMessage)
    )
    assert (message.room_id, message.sender_client_id, message.signal_data) == (ROOM, "~operator", "fire drill")
    assert (await refused(admin_harness, "/rooms/nowhere/messages", {"data": 1}))[0] == 404


# -- the service -------------------------------------------------------------------------------------------------


async def test_a_token_is_issued_with_its_grants(admin_harness: AdminHarness) -> None:
    issued = await post(admin_harness, "/tokens", client_id="alice", ttl=60, rooms=["demo-*"], publish=False)

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
async def test_a_wrong_request_is_told_what_is_wrong(admin_harness: AdminHarness, body: Any, names: str) -> None:
    status, message = await refused(admin_harness, "/tokens", body)

    assert status == 400
    assert names in message
    assert len(message) < 300


async def test_what_is_no_json_is_told_so(admin_harness: AdminHarness) -> None:
    for content in (b"", b"{", b"[" * 100_000, b"\xff"):
        response = await admin_harness.http.post(
            "/api/v1/tokens", content=content, headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 400
        assert response.json()["error_code"] == 400


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=many", "is_connected=perhaps", f"after={'x' * 301}"])
async def test_a_wrong_query_is_told_what_is_wrong(admin_harness: AdminHarness, query: str) -> None:
    response = await admin_harness.http.get(f"/api/v1/clients?{query}")

    assert response.status_code == 400
    assert query.partition("=")[0] in response.json()["error_message"]


async def test_version_and_configuration_are_shown(admin_harness: AdminHarness) -> None:
    admin_harness.live_sessions.phase = Phase.DRAINING

    version = await get(admin_harness, "/version")

    assert version | {"uptime": 0} == {
        "version": "1.2.3",
        "node_id": "node-1",
        "uptime": 0,
        "phase": "draining",
        "has_demo": True,
    }
    assert await get(admin_harness, "/configuration") == {"server": {"port": 8080}, "auth": {"token_secret": "***"}}


async def test_recent_errors_are_listed_newest_first(admin_harness: AdminHarness) -> None:
    admin_harness.live_sessions.recent_errors = [
        RecentError(1.0, 401, "wrong", None),
        RecentError(2.0, 404, "gone", ClientId("alice")),
    ]

    assert await get(admin_harness, "/errors") == [
        {"at": 2.0, "code": 404, "message": "gone", "client_id": "alice"},
        {"at": 1.0, "code": 401, "message": "wrong", "client_id": None},
    ]


async def test_the_interface_is_described_and_documented_without_anything_from_elsewhere(
    admin_harness: AdminHarness,
) -> None:
    description = (await admin_harness.http.get("/openapi.json")).json()
    page = await admin_harness.http.get("/docs")
    script = await admin_harness.http.get("/static/swagger/swagger-ui-bundle.js")

    assert "/api/v1/rooms/{room_id}/close" in description["paths"]
    assert page.status_code == 200
    assert "http" not in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert script.headers["content-type"].startswith("text/javascript")
