"""The guide's files in a real nginx and a real Caddy: TLS, WebSockets through them, the client's address."""

from __future__ import annotations

import os
import shutil
import ssl
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from benchmarks.processes import free_port, running
from signal_manager.client import SignalClient, SignalReceived
from tests.certificates import Authority, Pair
from tests.docs.blocks import DOCS, blocks, program
from tests.docs.programs import TIME_LIMIT, finished
from tests.integration.processes import ServiceProcess, service_process
from tests.waiting import until

pytestmark = pytest.mark.long

PAGE = "guides/proxies.md"
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/bin"])
NGINX, CADDY = shutil.which("nginx", path=PATH), shutil.which("caddy", path=PATH)
SECRET = "a secret of the proxies, of more than 32 bytes"
ORIGIN = Origin("https://app.example.org")
LETSENCRYPT = "/etc/letsencrypt/live/signal.example.org"

# What surrounds a file of conf.d in nginx.conf, with all that it writes in a folder of the test's.
NGINX_CONF = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    include {folder}/site.conf;
}}
"""
CADDY_OPTIONS = "{{\n    admin off\n    auto_https off\n    storage file_system {folder}/storage\n}}\n"


@contextmanager
def nginx(folder: Path, front: int, back: int, pair: Pair) -> Iterator[None]:
    if NGINX is None:
        pytest.skip("nginx is not installed")
    site = program(
        PAGE,
        "/etc/nginx/conf.d/signal-manager.conf",
        back=f"127.0.0.1:8080=>127.0.0.1:{back}",
        front=f"listen 443 ssl=>listen 127.0.0.1:{front} ssl",
        certificate=f"{LETSENCRYPT}/fullchain.pem=>{pair.certificate}",
        key=f"{LETSENCRYPT}/privkey.pem=>{pair.key}",
    )
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(NGINX_CONF.format(folder=folder))
    with running([NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")], port=front):
        yield


@contextmanager
def caddy(folder: Path, front: int, back: int, pair: Pair) -> Iterator[None]:
    if CADDY is None:
        pytest.skip("Caddy is not installed")
    site = program(
        PAGE,
        "/etc/caddy/Caddyfile",
        back=f"127.0.0.1:8080=>127.0.0.1:{back}",
        front=f"signal.example.org {{=>https://127.0.0.1:{front} {{\n    tls {pair.certificate} {pair.key}",
    )
    (folder / "Caddyfile").write_text(CADDY_OPTIONS.format(folder=folder) + site)
    environment = os.environ | {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = [CADDY, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with running(command, port=front, environment=environment):
        yield


class Front:
    """A proxy before a service that is set up as the guide says."""

    def __init__(self, port: int, service: ServiceProcess, tls: ssl.SSLContext, authority: Path) -> None:
        self.url = f"wss://127.0.0.1:{port}"
        self.service = service
        self.tls = tls
        self.authority = authority


@pytest.fixture(scope="module", params=[nginx, caddy], ids=["nginx", "caddy"])
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("proxy")
    authority = Authority(folder)
    pair = authority.issue("signal")
    [own] = [tomllib.loads(block.text) for block in blocks(DOCS / PAGE, "toml")]
    own["auth"]["token_secret"] = SECRET
    settings: dict[str, Any] = {f"{section}.{key}": value for section in own for key, value in own[section].items()}
    assert settings["security.allowed_origins"] == [ORIGIN]
    port = free_port()
    with service_process(folder, settings) as service, request.param(folder, port, service.port, pair):
        yield Front(port, service, ssl.create_default_context(cafile=str(authority.path)), authority.path)


def token(client_id: str) -> str:
    return jwt.encode({"sub": client_id, "exp": 4_000_000_000}, SECRET, algorithm="HS256")


async def test_two_clients_signal_through_it(front: Front) -> None:
    async with (
        SignalClient(front.url, "alice", token("alice"), ssl_context=front.tls) as alice,
        SignalClient(front.url, "bob", token("bob"), ssl_context=front.tls) as bob,
    ):
        assert await alice.send_message("bob", "x" * 100_000, ack=True) == "delivered"
        heard = await anext(event async for event in bob if isinstance(event, SignalReceived))

    assert (heard.sender, len(heard.data)) == ("alice", 100_000)


async def test_the_program_of_the_guide_says_that_it_is_reached(front: Front, tmp_path: Path) -> None:
    reach = program(PAGE, "reach.py")

    said = await finished(
        tmp_path, reach, front.url, "alice", token("alice"), environment={"SSL_CERT_FILE": str(front.authority)}
    )

    assert said.startswith("answers after ")


async def test_the_service_sees_the_clients_address_and_not_the_proxy_s(front: Front) -> None:
    """A client of 127.0.0.2, which claims to be another."""

    def seen() -> set[str]:
        return {line["address"] for line in front.service.logged() if line["event"] == "connection opened"}

    async with connect(
        front.url,
        ssl=front.tls,
        origin=ORIGIN,
        local_addr=("127.0.0.2", 0),
        additional_headers={"X-Forwarded-For": "203.0.113.9"},
    ):
        await until(lambda: "127.0.0.2" in seen(), limit=TIME_LIMIT)

    assert "203.0.113.9" not in seen()


async def test_a_page_of_another_site_is_refused(front: Front) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        await connect(front.url, ssl=front.tls, origin=Origin("https://elsewhere.example"))
