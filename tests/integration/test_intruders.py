"""Those who look for what is not theirs: rooms, files, other clients' names, and the log."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from signal_manager.auth.token_report import issue_token
from signal_manager.model import ClientId, Grants
from signal_manager.observe import logs
from signal_manager.service.app import running
from signal_manager.service.config import Config
from tests.integration.attack import MALLORY, RudeClient, request, talking
from tests.integration.conftest import DEFAULTS, Service, ServiceWith
from tests.integration.v1_client import ALICE, BOB, Client, connect, string8
from tests.web import plain_http

SECRET = "a secret of more than 32 bytes, for tests"
NOW = 1_700_000_000.0
UUID_ROOM = "5a0c6f2e-6f6c-4f43-9b0e-0f7f1d2f3a4b"


@asynccontextmanager
async def signed_in(service: Service, who: tuple[str, str]) -> AsyncIterator[Client]:
    async with connect(service.url, "signal-manager.v2") as client:
        yield await client.log_in(who)


async def answers(client: Client, requests: dict[str, dict[str, Any]]) -> list[tuple[str, int, str]]:
    """Return what a client is answered, as type, code and text."""
    found = []
    for message_type, fields in requests.items():
        await client.send(message_type, fields)
        received = await client.expect("ERROR")
        found.append((message_type, received.error_code, str(received.fields["error_message"])))
    return found


# -- rooms -------------------------------------------------------------------------------------------------------


async def test_whoever_is_not_in_a_room_cannot_find_out_whether_there_is_one(attacked: ServiceWith) -> None:
    service = await attacked()
    async with signed_in(service, ALICE) as alice, signed_in(service, MALLORY) as mallory:
        await alice.send("WEBRTC_ROOM_CREATE", {"room_id": "secret-room", "role": "receiver"})
        await alice.expect("WEBRTC_ROOM_CREATE_ACK")

        def questions(room: str) -> dict[str, dict[str, Any]]:
            return {
                "ROOM_STATE": {"room_id": room},
                "WEBRTC_ROOM_LEAVE": {"room_id": room},
                "TRACKS_NEW": {"room_id": room, "tracks": [{"client_id": ALICE[0], "track_name": "camera"}]},
                "TRACKS_CLOSE": {"room_id": room, "tracks": [{"mid": "0"}]},
                "TRACKS_UPDATE": {"room_id": room, "tracks": [{"mid": "0"}]},
                "RENEGOTIATE": {"room_id": room, "answer_sdp": "v=0"},
                "DATACHANNELS_NEW": {"room_id": room, "data_channels": []},
                "SIGNAL_MESSAGE": {"room_id": room, "signal_data": 1},
            }

        there = await answers(mallory, questions("secret-room"))
        not_there = await answers(mallory, questions("guessed-room"))

        assert [(kind, code) for kind, code, _ in there] == [(kind, 404) for kind in questions("")]
        assert [text.replace("secret-room", "X") for _, _, text in there] == [
            text.replace("guessed-room", "X") for _, _, text in not_there
        ]


async def test_a_token_for_some_rooms_says_nothing_about_others(attacked: ServiceWith) -> None:
    service = await attacked(**{"auth.token_secret": SECRET, "auth.token_expiry": 3600})
    grants = Grants(rooms=("demo-*",))
    token = issue_token(secret=SECRET, client_id=ClientId("guest"), ttl=10**9, grants=grants, now=NOW)
    async with signed_in(service, ALICE) as alice, signed_in(service, ("guest", token)) as guest:
        await alice.send("WEBRTC_ROOM_CREATE", {"room_id": "private", "role": "receiver"})
        await alice.expect("WEBRTC_ROOM_CREATE_ACK")

        there = await answers(guest, {"WEBRTC_ROOM_JOIN": {"room_id": "private", "role": "receiver"}})
        not_there = await answers(guest, {"WEBRTC_ROOM_JOIN": {"room_id": "nothing", "role": "receiver"}})
        assert there == [("WEBRTC_ROOM_JOIN", 403, "the token does not allow room private")]
        assert not_there == [("WEBRTC_ROOM_JOIN", 403, "the token does not allow room nothing")]


async def test_guessing_room_ids_is_limited_like_everything_else(attacked: ServiceWith) -> None:
    service = await attacked(**{"security.max_messages_per_minute": 30})
    async with signed_in(service, MALLORY) as mallory:
        codes: list[int] = []
        while 429 not in codes:
            room = f"{UUID_ROOM[:-2]}{len(codes) % 100:02}"
            await mallory.send("WEBRTC_ROOM_JOIN", {"room_id": room, "role": "receiver"})
            codes.append((await mallory.expect("ERROR")).error_code)

        assert set(codes[:-1]) == {404}


# -- ids ---------------------------------------------------------------------------------------------------------

CLIMBING = [
    "../../etc/passwd",
    "..",
    ".",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "%2e%2e%2f",
    "a\x00b",
    "__all__",
    "a b",
    "a\nb",
    "\x1b[31m",
    "a;rm -rf",
    "' OR '1'='1",
    "é",
    "",
    "x" * 129,
]


async def test_ids_that_climb_are_no_ids(attacked: ServiceWith, tmp_path: Path) -> None:
    """Ids become keys of documents, columns and parts of URLs: what could mean something else there is refused."""
    database = tmp_path / "data" / "signal.db"
    database.parent.mkdir()
    service = await attacked(**{"storage.backend": "sqlite", "storage.sqlite_path": str(database)})
    async with talking(service.url):
        for fields in ({"room_id": "%"}, {"room_id": "ok", "tracks": [{"mid": "0", "track_name": "%"}]}):
            async with signed_in(service, MALLORY) as mallory:
                for name in CLIMBING:
                    text = json.dumps(fields | {"role": "sender", "offer_sdp": "v=0"}).replace('"%"', json.dumps(name))
                    if fields == {"room_id": "%"} and not name:
                        continue  # no name is a name of the service's choice
                    await mallory.send("WEBRTC_ROOM_CREATE", json.loads(text))
                    await mallory.expect_error(400)
        async with signed_in(service, MALLORY) as mallory:
            for name in CLIMBING:
                await mallory.send("SIGNAL_OFFER", {"target_client_id": name, "signal_data": 1})
                await mallory.expect_error(400)

    assert {path.name.removesuffix("-wal").removesuffix("-shm") for path in database.parent.iterdir()} == {"signal.db"}


async def test_a_client_that_calls_itself_so_is_not_let_in(attacked: ServiceWith) -> None:
    service = await attacked(**{"security.max_failed_auth_per_minute": 1000})
    async with talking(service.url):
        for name in CLIMBING[:-1]:
            async with connect(service.url, "signal-manager.v2") as client:
                await client.send("CONNECT", string8(name) + string8("token"), "BINARY")
                await client.expect_error(400)


async def test_paths_that_climb_lead_nowhere_on_the_second_port(
    service_with: ServiceWith, unused_tcp_port: int
) -> None:
    await service_with(**{"metrics.enabled": True, "metrics.port": unused_tcp_port})
    paths = ("/../../etc/passwd", "/static/../../pyproject.toml", "/demo/..%2f..%2fapi.py", "/static/%2e%2e/api.py",
             "/demo/....//....//x", "//etc/passwd", "/api/v1/clients/..%2f..%2fconfiguration", "/%00")  # fmt: skip
    for path in paths:
        async with RudeClient.open(unused_tcp_port) as client:
            client.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            assert (await client.read_head()).startswith(("HTTP/1.1 404 ", "HTTP/1.1 400 ")), path


# -- the second port ---------------------------------------------------------------------------------------------


async def test_a_page_of_another_site_gets_nothing_from_the_second_port(
    service_with: ServiceWith, unused_tcp_port: int
) -> None:
    """Whole service, real sockets: tests/admin/test_access.py has every case."""
    service = await service_with(**{"metrics.enabled": True, "metrics.port": unused_tcp_port})
    evil = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    async with (
        signed_in(service, ALICE) as alice,
        plain_http(base_url=f"http://127.0.0.1:{unused_tcp_port}") as http,
    ):
        kicked = await http.post(f"/api/v1/clients/{ALICE[0]}/disconnect", json={}, headers=evil)
        form = await http.post(f"/api/v1/clients/{ALICE[0]}/disconnect", data={"a": "b"})
        rebound = await http.get("/api/v1/sessions", headers={"Host": "evil.example"})
        asked = await http.options("/api/v1/sessions", headers=evil | {"Access-Control-Request-Method": "GET"})

        assert [kicked.status_code, form.status_code, rebound.status_code] == [403, 415, 403]
        assert asked.status_code == 405
        assert not [name for answer in (kicked, asked) for name in answer.headers if name.startswith("access-control")]
        await alice.check_alive()


async def test_methods_that_nobody_needs_do_nothing(service_with: ServiceWith, unused_tcp_port: int) -> None:
    await service_with(**{"metrics.enabled": True, "metrics.port": unused_tcp_port})
    for method in ("TRACE", "TRACK", "PUT", "DELETE", "PATCH", "PROPFIND", "DEBUG"):
        async with RudeClient.open(unused_tcp_port) as client:
            client.write(
                f"{method} /api/v1/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Secret: 7\r\nConnection: close\r\n"
                "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}".encode()
            )
            head = await client.read_head()

        assert head.startswith(("HTTP/1.1 405 ", "HTTP/1.1 400 ")), method
        assert "X-Secret" not in head


# -- the log -----------------------------------------------------------------------------------------------------

FORGED = (
    'x\n{"event": "forged", "level": "info"}\r\n2026-01-01 00:00:00 [info     ] forged '
    "\x1b[2J\x1b]0;title\x07\u2028\u202e"
)


@pytest.mark.parametrize("format", ["json", "console"])
async def test_nothing_that_a_client_says_forges_a_line_of_the_log(tmp_path: Path, format: str) -> None:
    file = tmp_path / "service.log"
    written = logs.configure(level="debug", format=format, file_path=str(file), console_output=False)  # type: ignore[arg-type]  # one of both
    try:
        async with running(
            Config.model_validate(DEFAULTS | {"security": {"allowed_origins": ["https://a.example"]}})
        ) as server:
            await say_forged_things(Service(server))
    finally:
        written.close()

    lines = file.read_text().splitlines()
    assert len(lines) > 5
    assert file.read_text().count("\n") == len(lines)
    assert all(line.isprintable() for line in lines)
    if format == "json":
        assert all(json.loads(line)["event"] != "forged" for line in lines)
    else:
        assert not [line for line in lines if line.startswith("2026-01-01")]


async def say_forged_things(service: Service) -> None:
    """Put it into everything that the service may log."""
    async with connect(service.url, "signal-manager.v2") as client:
        await client.send("CONNECT", {"client_id": FORGED, "auth_token": FORGED})
        await client.expect_error(400)
        await client.send("CONNECT", {"client_id": "nobody", "auth_token": FORGED})
        await client.expect_error(401)
    async with connect(service.url, "signal-manager.v2") as client:
        await client.send("CONNECT", {"client_id": BOB[0], "auth_token": BOB[1], "instance_id": FORGED[:60]})
        await client.receive()
    async with signed_in(service, ALICE) as alice:
        said: dict[str, dict[str, Any]] = {
            "REGISTER": {"capabilities": [FORGED], "metadata": {FORGED: FORGED}},
            "WEBRTC_ROOM_CREATE": {"room_id": "r", "role": "receiver", "metadata": {"a": FORGED}},
            "WEBRTC_ROOM_LEAVE": {"room_id": "r", "reason": FORGED[:100]},
            "SIGNAL_MESSAGE": {"target_client_id": "nobody", "signal_data": FORGED},
            "WEBRTC_ROOM_JOIN": {"room_id": FORGED, "role": FORGED},
            "DISCONNECT": {"reason": FORGED[:100]},
        }
        for message_type, fields in said.items():
            await alice.send(message_type, fields)
            if message_type != "DISCONNECT":
                await alice.receive()
        await alice.expect_close(1000)
    for lines in (
        ("Origin: https://evil.example/\x1b[2J",),
        ("Origin: https://evil.example", "User-Agent: \u0080\u0085forged"),
        ("X-Forwarded-For: 1.2.3.4\x85forged", "Cookie: \x9b2J"),
    ):
        async with RudeClient.open(service.port) as rude:
            rude.write(request("/\x1b[2J", *lines))
            await rude.read_head()
        async with RudeClient.open(service.port) as rude:
            rude.write(request("/", *lines))
            await rude.read_head()
