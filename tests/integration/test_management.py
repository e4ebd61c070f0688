"""The management interface and the demo page of a whole service, with real clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from websockets.asyncio.client import ClientConnection

from signal_manager.client import RoomChanged, SelfChanged, SignalClient
from tests.integration.conftest import Service, ServiceWith
from tests.integration.test_server import ONE, TWO, close_code, connected, frame
from tests.web import plain_http


@dataclass
class Managed:
    service: Service
    http: httpx.AsyncClient


@pytest.fixture
async def managed(service_with: ServiceWith, unused_tcp_port: int) -> AsyncIterator[Managed]:
    service = await service_with(**{"metrics.enabled": True, "metrics.port": unused_tcp_port, "media.backend": "none"})
    async with plain_http(base_url=f"http://127.0.0.1:{unused_tcp_port}") as http:
        yield Managed(service, http)


async def received(websocket: ClientConnection) -> tuple[int, dict[str, object]]:
    message = await asyncio.wait_for(websocket.recv(), 5)
    assert isinstance(message, bytes)
    return message[1], json.loads(message[21:])


async def test_an_operator_sees_a_session_writes_to_it_and_ends_it(managed: Managed) -> None:
    one, two = await connected(managed.service, ONE), await connected(managed.service, TWO)

    (session,) = (await managed.http.get("/api/v1/sessions", params={"client_id": ONE[0]})).json()["items"]
    assert (session["framing"], session["encoding"], session["address"]) == ("v1", "json", "127.0.0.1")
    assert (session["received"], session["sent"]) == (1, 1)

    sent = await managed.http.post(f"/api/v1/clients/{ONE[0]}/messages", json={"data": "goodbye"})
    assert sent.json() == {"delivered": 1, "undelivered": 0}
    _, body = await received(one)
    assert (body["signal_data"], body["sender_client_id"]) == ("goodbye", "~operator")

    ended = await managed.http.post(f"/api/v1/clients/{ONE[0]}/disconnect", json={})
    assert ended.json() == {"ended": 1}
    assert await close_code(one) == 4403
    assert (await managed.http.get("/api/v1/sessions")).json()["items"][0]["client_id"] == TWO[0]
    await two.close()


async def test_an_operator_closes_a_room_that_clients_are_in(managed: Managed) -> None:
    one = await connected(managed.service, ONE)
    await one.send(frame(0x30, json.dumps({"room_id": "lunch", "role": "receiver"}).encode()))
    await received(one)

    room = (await managed.http.get("/api/v1/rooms/lunch")).json()
    assert [member["client_id"] for member in room["members"]] == [ONE[0]]
    assert "signal_manager_participants 1.0" in (await managed.http.get("/metrics")).text

    await managed.http.post("/api/v1/rooms/lunch/close", json={"reason": "over"})

    _, event = await received(one)
    assert (event["event"], event["reason"]) == ("room_closed", "over")
    await one.close()


async def test_a_guest_of_the_demo_can_connect_with_its_token(managed: Managed) -> None:
    where = (await managed.http.get("/demo/config.json")).json()
    guest = (await managed.http.post("/demo/token", json={"name": "Ann"})).json()

    assert where == {"url": f"ws://127.0.0.1:{managed.service.port}", "port": managed.service.port}
    websocket = await connected(managed.service, (guest["client_id"], guest["token"]))
    await websocket.send(frame(0x04, b'{"timestamp":7}'))
    assert (await received(websocket))[0] == 0x05
    await websocket.close()


async def test_errors_are_shown_to_operators(managed: Managed) -> None:
    one = await connected(managed.service, ONE)
    await one.send(frame(0x10, json.dumps({"target_client_id": "nobody", "signal_data": 1}).encode()))
    await received(one)

    (error,) = (await managed.http.get("/api/v1/errors")).json()

    assert (error["code"], error["client_id"]) == (404, ONE[0])
    await one.close()


async def test_the_configuration_is_shown_without_secrets(managed: Managed) -> None:
    text = (await managed.http.get("/api/v1/configuration")).text

    settings = json.loads(text)
    assert settings["auth"]["token_secret"] == "***"
    assert settings["auth"]["api_keys"] == []
    assert settings["media"]["backend"] == "none"
    assert ONE[1] not in text


async def test_without_admin_there_are_probes_alone(service_with: ServiceWith, unused_tcp_port: int) -> None:
    await service_with(**{"metrics.enabled": True, "metrics.port": unused_tcp_port, "admin.enabled": False})
    async with plain_http(base_url=f"http://127.0.0.1:{unused_tcp_port}") as http:
        seen = {
            path: (await http.get(path)).status_code for path in ("/ready", "/", "/api/v1/rooms", "/demo/", "/docs")
        }

    assert seen == {"/ready": 200, "/": 404, "/api/v1/rooms": 404, "/demo/": 404, "/docs": 404}


async def test_a_token_guards_the_interface_and_the_demo_s_tokens(
    service_with: ServiceWith, unused_tcp_port: int
) -> None:
    await service_with(
        **{"metrics.enabled": True, "metrics.port": unused_tcp_port, "admin.token": "a token for operators"}
    )
    async with plain_http(base_url=f"http://127.0.0.1:{unused_tcp_port}") as http:
        assert (await http.get("/api/v1/sessions")).status_code == 401
        assert (await http.post("/demo/token", json={})).status_code == 401
        http.headers["Authorization"] = "Bearer a token for operators"
        assert (await http.get("/api/v1/sessions")).status_code == 200


@pytest.mark.parametrize("method", ["api_key", "store"])
async def test_where_signed_tokens_are_not_accepted_none_is_issued(
    service_with: ServiceWith, unused_tcp_port: int, method: str
) -> None:
    await service_with(**{"metrics.enabled": True, "metrics.port": unused_tcp_port, "auth.auth_method": method})
    async with plain_http(base_url=f"http://127.0.0.1:{unused_tcp_port}") as http:
        refused = await http.post("/api/v1/tokens", json={"client_id": "alice"})

    assert refused.status_code == 400
    assert "auth.auth_method" in refused.json()["error_message"]


async def test_a_client_learns_what_an_operator_makes_of_its_metadata_and_of_the_rooms(managed: Managed) -> None:
    async with SignalClient(managed.service.url, *ONE) as client:
        room = await client.join("lunch", create=True, metadata={"name": "Ann"})
        assert room.own_metadata == {"name": "Ann"}

        body = {"metadata": {"name": "Ann", "seat": 4}}
        await managed.http.patch(f"/api/v1/rooms/lunch/participants/{ONE[0]}", json=body)
        await managed.http.patch("/api/v1/rooms/lunch", json={"metadata": {"topic": "soup"}})
        myself, theirs = [await asyncio.wait_for(anext(room), 5) for _ in range(2)]

        assert myself == SelfChanged({"name": "Ann", "seat": 4})
        assert room.own_metadata == {"name": "Ann", "seat": 4}
        assert isinstance(theirs, RoomChanged)
        assert theirs.metadata["topic"] == room.metadata["topic"] == "soup"
