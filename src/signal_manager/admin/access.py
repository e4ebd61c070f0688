"""Guards the second port: checks a request before its body is read.

Pure ASGI around the whole application. docs/operations.md, "The admin port", lists what it refuses and why.
"""

from __future__ import annotations

import hmac
import ipaddress
from hashlib import sha256

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from signal_manager.gateway.limits import is_forwarded

__all__ = ["MAX_BODY", "Guard", "refusal"]

log = structlog.get_logger(__name__)

# In bytes. The largest body here is a message for a client.
MAX_BODY = 262_144
_TOO_LARGE = f"expected a body of at most {MAX_BODY} bytes"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Probes for machines, which reveal nothing about clients.
_PROBES = frozenset({"/health", "/ready", "/metrics"})
# Sec-Fetch-Site of a page of this origin, and of an address that a person typed.
_OUR_SITES = frozenset({"same-origin", "none"})

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# For responses without a policy of their own: nothing from other origins, nothing inline.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error in the shape that all errors on this port have."""
    return JSONResponse({"error_code": status, "error_message": message}, status_code=status, headers=headers)


class Guard:
    """Pass on allowed requests and refuse the others.

    - **DNS rebinding**: on loopback, the Host header must name this machine, for every path. A page of another site
      whose name resolves to this machine sends that name instead. Beyond loopback a token is required, which such a
      page does not have.
    - **Token**: if one is set, every path below /api/ and every change needs it.
    - **Proxies**: without a token, requests through a proxy reach only the probes, because a proxy makes remote clients
      look local. A proxy without telling headers mostly speaks HTTP/1.0, as nginx does by default.
    - **Cross-site requests**: a change must be JSON, which a page of another site cannot send without a preflight. If
      it comes from a page, the page must be of this origin.
    - **Size**: a body of more than `MAX_BODY` bytes is refused.

    Args:
        host: the name or address that the port listens on.
        is_loopback: whether only this machine can reach `host`.
        token: the bearer token, or "" for none.
    """

    def __init__(self, app: ASGIApp, *, host: str, is_loopback: bool, token: str = "") -> None:
        self._app = app
        self._host = host.lower()
        self._is_loopback = is_loopback
        self._digest = sha256(token.encode()).digest() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on and add security headers to its response."""
        if scope["type"] != "http":  # pragma: no cover - the server serves nothing else
            return
        headers = Headers(scope=scope)

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    given.setdefault(name, value)
                given.setdefault("Content-Security-Policy", _POLICY)
            await send(message)

        answer = self._refuse(scope, headers)
        if answer is not None:
            peer = scope.get("client")
            log.info("admin request refused", status=answer.status_code, address=peer[0] if peer else "unknown")
            await answer(scope, receive, send_safely)
            return
        await self._app(scope, _Bounded(receive) if scope["method"] not in _SAFE_METHODS else receive, send_safely)

    def _refuse(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        method, path, host = scope["method"], scope["path"], headers.get("host", "")
        if self._is_loopback and not self._is_this_machine(_name_in(host)):
            return refusal(403, "the Host header does not name this machine")
        came_by_proxy = is_forwarded(headers.keys()) or scope["http_version"] == "1.0"
        if came_by_proxy and self._digest is None and path not in _PROBES:
            return refusal(403, "the request came through a proxy: set admin.token")
        changes = method not in _SAFE_METHODS
        if (changes or path.startswith("/api/")) and not self._is_authorized(headers.get("authorization", "")):
            return refusal(401, "expected the bearer token of admin.token", {"WWW-Authenticate": "Bearer"})
        if not changes:
            return None
        if headers.get("sec-fetch-site", "none") not in _OUR_SITES:
            return refusal(403, "the request comes from a page of another site")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return refusal(403, "the request comes from a page of another origin")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return refusal(415, "expected Content-Type: application/json")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return refusal(413, _TOO_LARGE)
        return None

    def _is_this_machine(self, name: str) -> bool:
        if name in ("localhost", self._host):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    def _is_authorized(self, authorization: str) -> bool:
        if self._digest is None:
            return True
        scheme, _, token = authorization.partition(" ")
        # Hashes make the comparison take equal time for tokens of any length.
        given = sha256(token.strip().encode("utf-8", "surrogatepass")).digest()
        return hmac.compare_digest(given, self._digest) and scheme.lower() == "bearer"


class _Bounded:
    """Counts the bytes of a body without Content-Length."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = MAX_BODY

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413, _TOO_LARGE)
        return message


def _name_in(host: str) -> str:
    """Return a Host header's name or address, without the port and without brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
