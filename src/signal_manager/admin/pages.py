"""Files for browsers: the dashboard, the documentation of the management interface, and the demo page.

The files of a folder are listed once, at the start, so the path of a request never reaches the file system.
"""

from __future__ import annotations

import re
import secrets
from hashlib import sha256
from pathlib import Path
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Mount

from signal_manager.admin.tokens import TokenIssuer, require_issuer
from signal_manager.model import ClientId

__all__ = ["DEMO_FOLDER", "STATIC_FOLDER", "Folder", "demo_pages", "pages"]

STATIC_FOLDER = Path(__file__).with_name("static")
DEMO_FOLDER = Path(__file__).with_name("demo")
# Swagger UI writes styles into the page.
_SWAGGER_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# Seconds: long enough for a call with a reconnection, short enough to limit the harm of a leaked token.
DEMO_TOKEN_TTL = 3600.0
_LONGEST_DEMO_NAME = 64

_CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
# The browser asks each time and gets 304 while the file is unchanged, so an update shows at once.
_CACHING = "no-cache"


class _File(NamedTuple):
    content: bytes
    content_type: str
    etag: str


class Folder:
    """The files of a folder and its subfolders that browsers may load.

    Files with a leading dot or an unknown suffix are left out. A missing folder counts as empty.

    Args:
        policy: the Content-Security-Policy of its pages, or None for the strictest.
    """

    def __init__(self, path: Path, *, policy: str | None = None) -> None:
        self._headers = {"Cache-Control": _CACHING} | ({"Content-Security-Policy": policy} if policy else {})
        self._read: dict[str, _File] = {}  # files that a browser has requested
        self._paths = {
            file.relative_to(path).as_posix(): file
            for file in sorted(path.rglob("*"))
            if file.is_file() and file.suffix in _CONTENT_TYPES and not file.name.startswith(".")
        }

    def answer(self, name: str, request: Request) -> Response:
        """Return a file, or 304 if the browser's copy is current, or 404 if there is no such file."""
        if name not in self._paths:
            raise HTTPException(404)
        if name not in self._read:
            self._read[name] = _read(self._paths[name])
        file = self._read[name]
        headers = self._headers | {"ETag": file.etag}
        if file.etag in re.split(r"\s*,\s*", request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.content_type)


def pages() -> APIRouter:
    """Return the routes of the dashboard and of the files that it loads."""
    router = APIRouter(include_in_schema=False)
    folder = Folder(STATIC_FOLDER)
    swagger = Folder(_swagger_folder())

    @router.get("/")
    async def dashboard(request: Request) -> Response:
        return folder.answer("dashboard.html", request)

    @router.get("/docs")
    async def documentation(request: Request) -> Response:
        answer = folder.answer("docs.html", request)
        answer.headers["Content-Security-Policy"] = _SWAGGER_POLICY
        return answer

    @router.get("/static/swagger/{name:path}")
    async def swagger_file(name: str, request: Request) -> Response:
        return swagger.answer(name, request)

    @router.get("/static/{name:path}")
    async def static(name: str, request: Request) -> Response:
        return folder.answer(name, request)

    return router


class DemoGuest(BaseModel):
    """A visitor of the demo page, who asks for a token."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=_LONGEST_DEMO_NAME)] = ""


def demo_pages(*, websocket_url: str, tokens: TokenIssuer | None, folder: Path = DEMO_FOLDER) -> APIRouter:
    """Return the routes of the demo page: its files, its configuration, and tokens for its visitors."""
    router = APIRouter(prefix="/demo", include_in_schema=False)
    files = Folder(
        folder,
        policy=(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
            f"media-src 'self' blob:; connect-src 'self' {websocket_url}; manifest-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    )
    no_store = {"Cache-Control": "no-store"}

    @router.get("")
    async def without_slash(request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"/demo/{query}")  # its links are relative

    @router.get("/config.json")
    async def configuration() -> Response:
        return JSONResponse({"url": websocket_url, "port": _port_in(websocket_url)}, headers=no_store)

    @router.post("/token")
    async def token(guest: DemoGuest) -> Response:
        client_id = ClientId(f"{_as_id(guest.name)}-{secrets.token_hex(3)}")
        issued = require_issuer(tokens).issue(client_id, ttl=DEMO_TOKEN_TTL)
        body = {"client_id": client_id, "token": issued.token, "expires_at": issued.expires_at}
        return JSONResponse(body, headers=no_store)

    @router.get("/{name:path}")
    async def file(name: str, request: Request) -> Response:
        return files.answer(name or "index.html", request)

    return router


def _swagger_folder() -> Path:
    """Return the folder of Swagger UI in fastapi-offline, so that the page loads nothing from other hosts.

    That package does not promise where its files are, so this function takes the folder from its routes.
    """
    routes = FastAPIOffline(docs_url=None, redoc_url=None).routes
    mounts = [route.app for route in routes if isinstance(route, Mount)]
    (folder,) = [app.directory for app in mounts if isinstance(app, StaticFiles) and app.directory is not None]
    return Path(folder)


def _read(file: Path) -> _File:
    content = file.read_bytes()
    return _File(content, _CONTENT_TYPES[file.suffix], f'"{sha256(content).hexdigest()[:20]}"')


def _as_id(name: str) -> str:
    """Return the characters of a name that a client id may have (`model.NAME_RULE`)."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() or "guest"


def _port_in(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])
