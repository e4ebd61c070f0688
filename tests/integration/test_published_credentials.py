"""The credentials that come with the service are good on its machine alone, and only until there are others."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from websockets.asyncio.client import connect as websocket_connect
from websockets.typing import Subprotocol

from benchmarks.processes import free_port, running
from signal_manager.auth.token_report import issue_token
from signal_manager.model import ClientId
from signal_manager.service.settings import DEFAULT_TOKEN_SECRET
from tests.integration.attack import TEXT, RudeClient, request, wire
from tests.integration.conftest import Service, ServiceWith
from tests.integration.processes import service_process
from tests.waiting import until

TEST_CLIENT = ("test_client_1", "test_token_1")
OWN = ("alice", "a token of her own")
SECRET = "a secret of more than 32 bytes, for tests"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")

FORWARDED = [
    {"Forwarded": "for=203.0.113.7"},
    {"X-Forwarded-For": "203.0.113.7"},
    {"X-Forwarded-Proto": "https"},
    {"X-Real-IP": "203.0.113.7"},
    {"Via": "1.1 proxy"},
]


def signed(secret: str = DEFAULT_TOKEN_SECRET) -> tuple[str, str]:
    return "bob", issue_token(secret=secret, client_id=ClientId("bob"), ttl=3600, now=time.time())


async def answer(url: str, who: tuple[str, str], *, origin: str | None = None, **headers: str) -> str:
    """Log in, and return the answer's status, or its error."""
    given: dict[str, str] = {name.replace("_", "-"): value for name, value in headers.items()}
    if origin is not None:
        given["Origin"] = origin
    protocols = [Subprotocol("signal-manager.json")]
    async with websocket_connect(url, subprotocols=protocols, additional_headers=given, proxy=None) as socket:
        await socket.send(json.dumps({"type": "CONNECT", "payload": {"client_id": who[0], "auth_token": who[1]}}))
        payload = json.loads(await socket.recv())["payload"]
        return str(payload.get("status") or payload["error_message"])


def is_in(said: str) -> bool:
    return said == "success"


async def test_they_are_good_while_nothing_of_auth_is_set(service: Service) -> None:
    assert is_in(await answer(service.url, TEST_CLIENT))
    assert is_in(await answer(service.url, signed()))


@pytest.mark.parametrize(
    "settings",
    [
        {"auth.token_secret": SECRET},
        {"auth.api_keys": [":".join(OWN)]},
        {"auth.auth_method": "api_key"},
        {"auth.token_expiry": 60},
    ],
    ids=["token_secret", "api_keys", "auth_method", "token_expiry"],
)
async def test_the_test_clients_are_gone_once_anything_of_auth_is_set(
    service_with: ServiceWith, settings: dict[str, object]
) -> None:
    service = await service_with(**settings)

    assert not is_in(await answer(service.url, TEST_CLIENT))


@pytest.mark.parametrize("headers", FORWARDED, ids=lambda headers: next(iter(headers)))
async def test_who_comes_through_a_proxy_is_not_let_in_by_them(service: Service, headers: dict[str, str]) -> None:
    for who in (TEST_CLIENT, signed()):
        assert "set auth.token_secret" in await answer(service.url, who, **headers)


async def test_own_credentials_come_through_a_proxy_and_published_ones_beside_them_do_not(
    service_with: ServiceWith,
) -> None:
    keys = [":".join(OWN), ":".join(TEST_CLIENT)]
    service = await service_with(**{"auth.api_keys": keys})

    for who in (TEST_CLIENT, signed(), OWN):
        assert is_in(await answer(service.url, who))
    for who, expected in ((TEST_CLIENT, False), (signed(), False), (OWN, True)):
        assert is_in(await answer(service.url, who, Via="1.1 proxy")) == expected


async def test_a_previous_secret_that_is_published_is_no_better(service_with: ServiceWith) -> None:
    service = await service_with(**{"auth.token_secret": SECRET, "auth.previous_token_secrets": [DEFAULT_TOKEN_SECRET]})

    assert not is_in(await answer(service.url, signed(), Via="1.1 proxy"))
    assert is_in(await answer(service.url, signed(SECRET), Via="1.1 proxy"))


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1:9090", True),
        ("http://[::1]:9090", True),
        ("http://app.localhost", True),
        ("https://evil.example", False),
        ("https://localhost.evil.example", False),
        ("null", False),
    ],
)
async def test_pages_of_other_sites_cannot_use_them(service: Service, origin: str, expected: bool) -> None:
    assert is_in(await answer(service.url, TEST_CLIENT, origin=origin)) == expected


async def test_a_page_whose_name_was_made_to_point_here_cannot_either(service: Service) -> None:
    """DNS rebinding: its origin is that of the Host header."""
    name = f"evil.example:{service.port}"
    login = {"type": "CONNECT", "payload": {"client_id": TEST_CLIENT[0], "auth_token": TEST_CLIENT[1]}}
    async with RudeClient.open(service.port) as client:
        own = request("/", f"Origin: http://{name}", "Sec-WebSocket-Protocol: signal-manager.json")
        client.write(own.replace(b"Host: localhost", b"Host: " + name.encode()))
        await client.read_head()

        client.write(wire(TEXT, json.dumps(login).encode()))

        assert b"set auth.token_secret" in (await client.read_frame()).payload


async def test_pages_of_any_site_can_use_own_ones(service_with: ServiceWith) -> None:
    service = await service_with(**{"auth.api_keys": [":".join(OWN)]})

    assert is_in(await answer(service.url, OWN, origin="https://app.example"))


async def test_serve_says_that_they_are_good(tmp_path: Path) -> None:
    with service_process(tmp_path, {}) as service:

        def said() -> list[list[str]]:
            return [line["published"] for line in service.logged() if line["event"].startswith("published credentials")]

        await until(lambda: bool(said()))
        assert said() == [["auth.token_secret", "test_client_1", "test_client_2"]]


NGINX_CONF = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; fastcgi_temp_path {directory}/c;
    uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
    server {{
        listen 127.0.0.1:{front};
        location / {{
            proxy_pass http://127.0.0.1:{back};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            {more}
        }}
    }}
}}
"""


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.parametrize(
    "more", ["proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;", "proxy_set_header Host signal.example;"]
)
async def test_behind_nginx_nobody_is_let_in_by_them(service: Service, tmp_path: Path, more: str) -> None:
    front = free_port()
    conf = tmp_path / "nginx.conf"
    conf.write_text(NGINX_CONF.format(directory=tmp_path, front=front, back=service.port, more=more))
    with running([str(NGINX), "-p", str(tmp_path), "-c", str(conf)], port=front):
        assert "set auth.token_secret" in await answer(f"ws://127.0.0.1:{front}", TEST_CLIENT)
