"""Members whose network or process is gone, over real sockets: others hear soon that they are away, and have left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from signal_manager.gateway.connection import Connection
from tests.integration.conftest import Service, ServiceWith
from tests.integration.v1_client import TAGGED, Client, connect

V2 = "signal-manager.v2"
KEYS = ["ann:t", "ben:t", "cat:t"]
FAST = {"auth.api_keys": KEYS, "rooms.away_after": 0.4, "rooms.leave_after": 1.2}
PATIENT = {"auth.api_keys": KEYS, "rooms.away_after": 0.4, "rooms.leave_after": 60}


@asynccontextmanager
async def at(service: Service, name: str, **fields: Any) -> AsyncIterator[Client]:
    async with connect(service.url, V2) as client:
        await log_in(client, name, **fields)
        yield client


async def log_in(client: Client, name: str, **fields: Any) -> dict[str, Any]:
    await client.send("CONNECT", {"client_id": name, "auth_token": "t", **fields})
    return (await client.expect("CONNECT_ACK")).fields


async def ask(client: Client, message_type: str, **fields: Any) -> dict[str, Any]:
    """Send a request and return its ACK's fields, leaving out what comes before."""
    request = await client.send(message_type, fields)
    while (reply := await client.receive()).id != request:
        pass
    assert reply.type == f"{message_type}_ACK", reply
    return reply.fields


async def event(client: Client) -> tuple[int, str, str, bool]:
    """Return the next room event: its number, what it is, of whom, and whether that one is away."""
    fields = (await client.expect("ROOM_EVENT")).fields
    member = fields["participant"]
    return fields["sequence"], fields["event"], member["client_id"], member.get("away", False)


def go_silent(client: Client) -> None:
    """Neither read nor write any more, not even pongs, while the socket stays open."""
    client.websocket.transport.pause_reading()


def wake_up(client: Client) -> None:
    client.websocket.transport.resume_reading()


@pytest.mark.long
@pytest.mark.parametrize("resumable", [False, True])
async def test_a_member_that_has_vanished_is_away_and_then_has_left(service_with: ServiceWith, resumable: bool) -> None:
    service = await service_with(**FAST)
    async with at(service, "ann") as ann, at(service, "ben", resumable=resumable) as ben:
        await ask(ann, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        await ask(ben, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")
        assert await event(ann) == (2, "participant_joined", "ben", False)

        go_silent(ben)

        assert await event(ann) == (3, "participant_away", "ben", True)
        left = (await ann.expect("ROOM_EVENT")).fields
        assert (left["sequence"], left["event"], left["reason"]) == (4, "participant_left", "connection lost")


async def test_a_member_that_is_heard_again_is_back(service_with: ServiceWith) -> None:
    service = await service_with(**PATIENT)
    async with at(service, "ann") as ann, at(service, "ben") as ben:
        await ask(ann, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        await ask(ben, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")
        await event(ann)
        go_silent(ben)
        assert await event(ann) == (3, "participant_away", "ben", True)

        async with at(service, "cat") as cat:
            welcome = await ask(cat, "WEBRTC_ROOM_JOIN", role="receiver", room_id="r")
            assert [each["client_id"] for each in welcome["participants"] if each.get("away")] == ["ben"]
            assert (await event(ann))[1:3] == ("participant_joined", "cat")
            wake_up(ben)  # its pong is enough

            assert await event(ann) == await event(cat) == (5, "participant_back", "ben", False)
            state = await ask(ann, "ROOM_STATE", room_id="r")
            assert not any(each.get("away") for each in state["participants"])


async def test_a_member_whose_socket_is_gone_is_away_at_once_and_back_when_its_session_resumes(
    service_with: ServiceWith,
) -> None:
    service = await service_with(**{"auth.api_keys": KEYS, "rooms.away_after": 3600, "rooms.leave_after": 7200})
    async with at(service, "ann") as ann:
        await ask(ann, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        async with connect(service.url, V2) as ben:
            session = await log_in(ben, "ben", resumable=True)
            await ask(ben, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")
            await event(ann)
            ben.websocket.transport.abort()
            assert await event(ann) == (3, "participant_away", "ben", True)

        offer = {"session_id": session["session_id"], "resume_token": session["resume_token"], "received": 1}
        async with connect(service.url, V2) as ben:
            assert (await log_in(ben, "ben", resumable=True, resume=offer))["resumed"]
            assert await event(ann) == (4, "participant_back", "ben", False)
            # What it missed comes first, and what it was itself is among it.
            assert [(await event(ben))[:3] for _ in range(2)] == [
                (3, "participant_away", "ben"),
                (4, "participant_back", "ben"),
            ]


async def test_a_member_that_does_not_come_back_has_left_before_its_sessions_window_is_over(
    service_with: ServiceWith,
) -> None:
    service = await service_with(**FAST, **{"session.resume_window": 3600})
    async with at(service, "ann") as ann, at(service, "ben", resumable=True) as ben:
        await ask(ann, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        await ask(ben, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")
        await event(ann)

        ben.websocket.transport.abort()

        assert [(await event(ann))[:2] for _ in range(2)] == [(3, "participant_away"), (4, "participant_left")]


async def test_a_session_that_is_in_no_room_waits_for_its_whole_window(service_with: ServiceWith) -> None:
    service = await service_with(**FAST, **{"session.resume_window": 3600})
    async with at(service, "ann") as ann, at(service, "ben", resumable=True) as ben:
        await ask(ben, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        await ask(ben, "WEBRTC_ROOM_LEAVE", room_id="r")
        ben.websocket.transport.abort()
        session_store = service.server._registry.session_store
        while not any(session_store.away()):
            await ann.check_alive()

        (session,) = session_store.away()
        assert session.client_session.expires_at is not None
        session_store.sweep(session.client_session.expires_at - 60)
        assert [*session_store.away()] == [session]


async def test_a_silent_client_of_the_original_service_is_away_and_hears_nothing_of_it(
    service_with: ServiceWith,
) -> None:
    service = await service_with(**PATIENT)
    async with at(service, "ann") as ann, connect(service.url, dialect=TAGGED) as ben:
        await ben.log_in(("ben", "t"))
        await ask(ann, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        join = await ben.send("WEBRTC_ROOM_JOIN", {"role": "sender", "room_id": "r"})
        assert (await ben.receive()).id == join
        await event(ann)

        go_silent(ben)
        assert await event(ann) == (3, "participant_away", "ben", True)
        wake_up(ben)
        assert await event(ann) == (4, "participant_back", "ben", False)
        await ben.check_alive()


async def test_who_is_in_no_room_is_not_looked_after_more_often(service_with: ServiceWith) -> None:
    service = await service_with(**FAST)
    async with at(service, "ann") as ann, at(service, "ben") as ben:
        await ask(ben, "WEBRTC_ROOM_CREATE", role="sender", room_id="r")
        await ask(ann, "WEBRTC_ROOM_JOIN", role="sender", room_id="r")
        await ask(ben, "WEBRTC_ROOM_LEAVE", room_id="r")
        deadlines: dict[str, float | None] = {}

        for each in tuple(service.server._registry.connections):
            assert isinstance(each, Connection)
            each._heard = True  # the service itself may have taken note of that before, at a time of its own
            each.tick(0.0)
            each.tick(0.0)
            deadlines[each.client_id] = each._session.next_deadline()

        assert deadlines == {"ann": 0.2, "ben": 30.0}
