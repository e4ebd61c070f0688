"""What the guard of the second port lets through, as requests and their answers."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from benchmarks.processes import free_port, running
from signal_manager.admin.access import MAX_BODY, Guard
from signal_manager.asgi import HttpServer
from tests.web import plain_http

JSON = {"Content-Type": "application/json"}


async def answer(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


APP = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


def client(guard: Guard, base_url: str = "http://127.0.0.1:9090") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url=base_url)


LOCAL = Guard(APP, host="127.0.0.1", is_loopback=True)
WITH_TOKEN = Guard(APP, host="127.0.0.1", is_loopback=True, token="let me in")
PUBLIC = Guard(APP, host="0.0.0.0", is_loopback=False, token="let me in")


@pytest.mark.parametrize("host", ["127.0.0.1:9090", "localhost:9090", "LOCALHOST", "[::1]:9090", "[::1]", "127.8.9.1"])
async def test_a_host_header_that_names_this_machine_is_let_through(host: str) -> None:
    async with client(LOCAL) as http:
        assert (await http.get("/anything", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "10.0.0.1"]
)
async def test_dns_rebinding_is_refused_on_every_path_of_loopback(host: str) -> None:
    async with client(LOCAL) as http:
        for path in ("/", "/metrics", "/api/v1/rooms", "/demo/config.json"):
            refused = await http.get(path, headers={"Host": host})
            assert refused.status_code == 403
            assert refused.json() == {
                "error_code": 403,
                "error_message": "the Host header does not name this machine",
            }


async def test_beyond_loopback_any_name_may_lead_here() -> None:
    async with client(PUBLIC, "http://metrics.internal:9090") as http:
        assert (await http.get("/metrics")).status_code == 200


@pytest.mark.parametrize(
    "authorization", [None, "", "let me in", "Bearer", "Bearer wrong", "Basic let me in", "Bearer let me", "Bearer é"]
)
@pytest.mark.parametrize("guard", [WITH_TOKEN, PUBLIC])
async def test_without_the_token_nothing_below_api_is_seen(guard: Guard, authorization: str | None) -> None:
    headers = [] if authorization is None else [(b"Authorization", authorization.encode())]
    async with client(guard) as http:
        refused = await http.get("/api/v1/rooms", headers=headers)

    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "let me in" not in refused.text


async def test_without_the_token_nothing_is_changed_anywhere() -> None:
    async with client(WITH_TOKEN) as http:
        assert (await http.post("/demo/token", json={})).status_code == 401


async def test_the_token_opens_the_interface_and_pages_and_probes_need_none() -> None:
    async with client(WITH_TOKEN) as http:
        assert (await http.get("/api/v1/rooms", headers={"Authorization": "bearer let me in"})).status_code == 200
        for path in ("/", "/health", "/metrics"):
            assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_page_of_another_site_changes_nothing(site: str) -> None:
    async with client(LOCAL) as http:
        assert (await http.post("/api/v1/x", json={}, headers={"Sec-Fetch-Site": site})).status_code == 403


@pytest.mark.parametrize(
    "origin", ["null", "http://evil.example", "http://127.0.0.1:8080", "http://localhost:9090", ""]
)
async def test_a_page_of_another_origin_changes_nothing(origin: str) -> None:
    async with client(LOCAL) as http:
        assert (await http.post("/api/v1/x", json={}, headers={"Origin": origin})).status_code == 403


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "none"}, {"Origin": "http://127.0.0.1:9090"}])
async def test_our_own_page_and_programs_may_change_things(headers: dict[str, str]) -> None:
    async with client(LOCAL) as http:
        assert (await http.post("/api/v1/x", json={}, headers=headers)).status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_what_a_form_could_send_is_refused(content_type: str) -> None:
    async with client(LOCAL) as http:
        refused = await http.post("/api/v1/x", content=b"{}", headers={"Content-Type": content_type})

    assert refused.status_code == 415


async def test_a_body_that_is_too_large_is_refused_whether_or_not_it_says_so() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield bytes(MAX_BODY // 8)

    async with client(LOCAL) as http:
        announced = await http.post("/api/v1/x", content=bytes(MAX_BODY + 1), headers=JSON)
        unannounced = await http.post("/api/v1/x", content=chunks(), headers=JSON)
        nonsense = await http.post("/api/v1/x", content=b"{}", headers={**JSON, "Content-Length": "-2"})
        largest = await http.post("/api/v1/x", content=bytes(MAX_BODY), headers=JSON)

    assert [announced.status_code, unannounced.status_code, nonsense.status_code] == [413, 413, 413]
    assert largest.text == str(MAX_BODY)


async def test_every_answer_carries_safe_headers() -> None:
    async with client(LOCAL) as http:
        for response in (await http.get("/x"), await http.post("/x", content=b"")):
            assert "default-src 'none'" in response.headers["content-security-policy"]
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["x-frame-options"] == "DENY"


# -- proxies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    ["Forwarded", "X-Forwarded-For", "x-forwarded-host", "X-Real-IP", "Via", "CF-Connecting-IP", "True-Client-IP"],
)
async def test_who_comes_through_a_proxy_needs_a_token_that_has_to_be_set(header: str) -> None:
    async with client(LOCAL) as http:
        for path in ("/", "/api/v1/rooms", "/demo/config.json"):
            refused = await http.get(path, headers={header: "x"})
            assert (refused.status_code, refused.json()["error_message"]) == (
                403,
                "the request came through a proxy: set admin.token",
            )
        for path in ("/health", "/ready", "/metrics"):
            assert (await http.get(path, headers={header: "x"})).status_code == 200
    async with client(WITH_TOKEN) as http:
        own = {header: "x", "Authorization": "Bearer let me in"}
        assert (await http.get("/api/v1/rooms", headers={header: "x"})).status_code == 401
        assert (await http.get("/api/v1/rooms", headers=own)).status_code == 200


NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
NGINX_CONF = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; fastcgi_temp_path {directory}/c;
    uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
    server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://127.0.0.1:{back}; {more} }} }}
}}
"""


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.parametrize(
    "more",
    [
        "",
        "proxy_http_version 1.1; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        "proxy_set_header X-Real-IP $remote_addr;",
    ],
    ids=["nothing more", "X-Forwarded-For", "X-Real-IP"],
)
async def test_behind_nginx_nobody_is_an_operator_without_a_token(tmp_path: Path, more: str) -> None:
    """Nginx sends the Host of this machine for every visitor."""
    front = free_port()
    for token, expected in (("", (403, 403)), ("let me in", (401, 200))):
        guard = Guard(APP, host="127.0.0.1", is_loopback=True, token=token)
        server = HttpServer(guard, host="127.0.0.1", port=0, max_connections=10)
        await server.start()
        conf = tmp_path / "nginx.conf"
        conf.write_text(NGINX_CONF.format(directory=tmp_path, front=front, back=server.port, more=more))
        with running([str(NGINX), "-p", str(tmp_path), "-c", str(conf)], port=front):
            async with plain_http() as http:
                url = f"http://127.0.0.1:{front}/api/v1/rooms"
                with_token = await http.get(url, headers={"Authorization": "Bearer let me in"})
                assert ((await http.get(url)).status_code, with_token.status_code) == expected
                assert (await http.get(f"http://127.0.0.1:{front}/health")).status_code == 200
        await server.stop()
