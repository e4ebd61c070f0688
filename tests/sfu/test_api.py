"""The SFU's interface without HTTP: which calls there are, who may make them, and what a fault takes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from signal_manager.sfu import LocalSfu
from signal_manager.sfu.api import LOST, Call, LostBodyError, Reply, room_of


@pytest.fixture
async def sfu() -> AsyncIterator[LocalSfu]:
    async with LocalSfu() as sfu:
        yield sfu


def call(sfu: LocalSfu, method: str, path: str, *, fault: str = "", body: bytes = b"") -> Call:
    async def read() -> bytes:
        return body

    authorization = f"Bearer {sfu.app_secret}"
    return Call(method=method, path=f"/v1/apps/{sfu.app_id}{path}", authorization=authorization, fault=fault, body=read)


def error_of(reply: Reply) -> tuple[int, str]:
    return reply.status, json.loads(reply.body)["errorCode"]


async def test_a_session_is_opened_and_its_state_told(sfu: LocalSfu) -> None:
    opened = await sfu.call(call(sfu, "POST", "/sessions/new"))
    session_id = json.loads(opened.body)["sessionId"]

    state = await sfu.call(call(sfu, "GET", f"/sessions/{session_id}"))

    assert (opened.status, state.status) == (201, 200)
    assert json.loads(state.body)["tracks"] == []


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/sessions/new", 405),
        ("POST", "/load", 405),
        ("DELETE", "/sessions/1/tracks/new", 405),
        ("POST", "/sessions/1/tracks/none", 404),
        ("GET", "/nothing", 404),
        ("GET", "", 404),
    ],
)
async def test_a_call_that_there_is_not_is_told_so(sfu: LocalSfu, method: str, path: str, expected: int) -> None:
    assert error_of(await sfu.call(call(sfu, method, path))) == (expected, "not_found")


async def test_only_the_secret_opens_an_app(sfu: LocalSfu) -> None:
    path = f"/v1/apps/{sfu.app_id}/sessions/new"

    assert error_of(await sfu.call(Call(method="POST", path=path))) == (401, "unauthorized")
    assert error_of(await sfu.call(Call(method="POST", path=path, authorization="Bearer wrong"))) == (
        401,
        "unauthorized",
    )
    assert error_of(await sfu.call(Call(method="POST", path="/v1/apps/other/sessions/new"))) == (404, "not_found")
    assert not sfu.sessions


async def test_a_lost_reply_is_no_refusal(sfu: LocalSfu) -> None:
    assert await sfu.call(call(sfu, "POST", "/sessions/new", fault="lost")) is LOST
    assert len(sfu.sessions) == 1


async def test_a_caller_that_goes_away_within_its_body_changes_nothing(sfu: LocalSfu) -> None:
    async def read() -> bytes:
        raise LostBodyError

    whole = call(sfu, "POST", "/sessions/new")

    assert await sfu.call(Call(method="POST", path=whole.path, authorization=whole.authorization, body=read)) is LOST
    assert not sfu.sessions


async def test_a_caller_that_gives_up_does_not_end_what_it_asked_for(sfu: LocalSfu) -> None:
    asked = asyncio.create_task(sfu.call(call(sfu, "POST", "/sessions/new")))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await asyncio.sleep(0.01)

    assert len(sfu.sessions) == 1


async def test_a_turn_key_gives_no_servers(sfu: LocalSfu) -> None:
    reply = await sfu.call(Call(method="POST", path="/v1/turn/keys/key/credentials/generate-ice-servers"))

    assert reply == (201, b'{"iceServers":[]}')


@pytest.mark.parametrize(("correlation_id", "room"), [("room/client", "room"), ("", ""), ("r" * 300, "r" * 256)])
def test_a_session_is_for_the_room_before_the_slash(correlation_id: str, room: str) -> None:
    assert room_of(correlation_id) == room
