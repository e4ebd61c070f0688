"""Files for browsers: nothing but what is meant for them, typed, cached and confined."""

from __future__ import annotations

import tomllib
from pathlib import Path

import httpx
import jwt
import pytest
from fastapi import FastAPI

from signal_manager.admin.access import Guard
from signal_manager.admin.pages import demo_pages
from signal_manager.admin.tokens import TokenIssuer
from signal_manager.model import is_valid_name
from tests.admin.harness import SECRET, AdminHarness


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    demo = tmp_path / "demo"
    (demo / "assets").mkdir(parents=True)
    (demo / "index.html").write_text("<!doctype html><script type=module src=assets/room.js></script>")
    (demo / "assets" / "room.js").write_text("export {}")
    (demo / ".secret.json").write_text("{}")
    (demo / "notes.py").write_text("print('source')")
    (tmp_path / "outside.html").write_text("not for you")
    return demo


def client(folder: Path, *, tokens: TokenIssuer | None = None) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(demo_pages(websocket_url="ws://127.0.0.1:8080", tokens=tokens, folder=folder))
    transport = httpx.ASGITransport(Guard(app, host="127.0.0.1", is_loopback=True), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9090")


async def test_the_demo_page_is_confined_to_this_service(folder: Path) -> None:
    async with client(folder) as http:
        moved = await http.get("/demo", params={"room": "hello"})
        page = await http.get("/demo/")
        script = await http.get("/demo/assets/room.js")

    assert (moved.status_code, moved.headers["location"]) == (307, "/demo/?room=hello")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self' ws://127.0.0.1:8080;" in policy
    assert "unsafe" not in policy


async def test_a_copy_that_is_good_is_not_sent_again(folder: Path) -> None:
    async with client(folder) as http:
        first = await http.get("/demo/")
        again = await http.get("/demo/", headers={"If-None-Match": f'"other", {first.headers["etag"]}'})
        changed = await http.get("/demo/", headers={"If-None-Match": '"other"'})

    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert changed.status_code == 200


@pytest.mark.parametrize(
    "path",
    ["../outside.html", "%2e%2e/outside.html", "..%2foutside.html", "/etc/passwd", ".secret.json", "notes.py", "assets",
     "assets/", "index.html/", "nothing.js"],
)  # fmt: skip
async def test_nothing_else_can_be_had(folder: Path, path: str) -> None:
    async with client(folder) as http:
        response = await http.get(f"http://127.0.0.1:9090/demo/{path}")

    assert response.status_code == 404


async def test_a_demo_that_was_not_built_is_not_there(tmp_path: Path) -> None:
    async with client(tmp_path / "nothing") as http:
        assert (await http.get("/demo/")).status_code == 404


async def test_the_page_learns_where_the_service_is(folder: Path) -> None:
    async with client(folder) as http:
        response = await http.get("/demo/config.json")

    assert response.json() == {"url": "ws://127.0.0.1:8080", "port": 8080}
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("Ann", "ann-"),
        ("Zoë & Cie", "zo-cie-"),
        ("", "guest-"),
        ("../..", "guest-"),
        ("名前", "guest-"),
        ("x" * 64, "xxx"),
    ],
)
async def test_a_guest_gets_a_token_for_an_id_of_its_own(folder: Path, name: str, begins: str) -> None:
    tokens = TokenIssuer(SECRET, default_ttl=1)
    async with client(folder, tokens=tokens) as http:
        guests = [(await http.post("/demo/token", json={"name": name})).json() for _ in range(2)]

    for guest in guests:
        assert guest["client_id"].startswith(begins)
        assert is_valid_name(guest["client_id"])
        claims = jwt.decode(guest["token"], SECRET, algorithms=["HS256"])
        assert claims["sub"] == guest["client_id"]
        assert claims["exp"] - claims["iat"] == 3600
        assert "admin" not in claims
    assert guests[0]["client_id"] != guests[1]["client_id"]


async def test_where_tokens_are_not_accepted_none_are_given_and_pages_elsewhere_get_none(
    admin_harness: AdminHarness,
) -> None:
    elsewhere = {"Origin": "http://evil.example"}

    assert (await admin_harness.http.post("/demo/token", json={}, headers=elsewhere)).status_code == 403
    assert (await admin_harness.http.post("/demo/token", content=b"name=Ann")).status_code == 415
    assert (await admin_harness.http.post("/demo/token", json={"name": "x" * 65})).status_code == 400
    assert (await admin_harness.http.post("/demo/token", json={"name": "Ann"})).status_code == 200


async def test_the_dashboard_links_to_the_documentation(admin_harness: AdminHarness) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    page = await admin_harness.http.get("/")

    assert f'<a href="{project["urls"]["Documentation"]}"' in page.text


async def test_the_dashboard_loads_nothing_from_elsewhere(admin_harness: AdminHarness) -> None:
    page = await admin_harness.http.get("/")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "unsafe" not in page.headers["content-security-policy"]
    for name in ("dashboard.css", "dashboard.js"):
        file = await admin_harness.http.get(f"/static/{name}")
        assert file.status_code == 200
        assert "://" not in file.text.replace("http://www.w3.org/2000/svg", "")
