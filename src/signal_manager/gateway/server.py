"""The WebSocket port: decides what a request gets, answers `GET /health`, looks for silent clients, stops in order.

What one connection does is `gateway/connection.py`'s business and how its socket got here `gateway/listener.py`'s; this
module decides whether there is a connection at all.
"""

from __future__ import annotations

import asyncio
import math
import re
import socket
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

import msgspec
import structlog
from picows import WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener

from signal_manager.bus.base import Bus
from signal_manager.gateway.connection import Connection
from signal_manager.gateway.dispatcher import Dispatcher
from signal_manager.gateway.drain import Drain
from signal_manager.gateway.limits import (
    TURNED_AWAY,
    ClientAddress,
    Limits,
    Origins,
    TrustedProxies,
    is_from_this_machine,
    names_this_machine,
)
from signal_manager.gateway.listener import Listener
from signal_manager.gateway.live_sessions import LiveSessions, Phase
from signal_manager.gateway.ports import RegisteredConnection, RelayTarget
from signal_manager.gateway.registry import ConnectionRegistry
from signal_manager.gateway.sessions import ResumeSettings
from signal_manager.gateway.tls import Certificate
from signal_manager.model import ClientId
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.framing import SUBPROTOCOLS, Framing, choose_subprotocol
from signal_manager.protocol.state_machine import SessionSettings
from signal_manager.storage.base import Storage

__all__ = ["Dashboard", "Server"]

log = structlog.get_logger(__name__)

# How long a stopping server waits for clients to answer its close frames.
STOP_TIMEOUT = 3.0
# Silent clients are looked for this many times within the shortest time limit, within these bounds (s).
_SWEEPS_PER_LIMIT = 10
_SWEEPS_BEFORE_AWAY = 8
_SHORTEST_SWEEP = 0.02
_LONGEST_SWEEP = 1.0
# When a client that found the service full may ask again (s).
_FULL_RETRY = 5.0
# The headers of a handshake that mean something here, as the beginnings of their names.
_READ_HEADERS = ("sec-websocket-", "host", "origin", "upgrade", "connection")
_WEBSOCKET_PATHS = frozenset({b"/", b"/ws"})
# A name or an address in a Host header, without the port behind it (RFC 9110, section 7.2).
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
# Where a browser on the same machine finds what listens on every address.
_CALLED_AS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not listened on


class Dashboard(NamedTuple):
    """Where the pages of the second port are."""

    host: str
    port: int
    is_loopback: bool = True

    @property
    def url(self) -> str:
        """Where a browser on this machine opens them."""
        host = _CALLED_AS.get(self.host, self.host)
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"


class Server:
    """Listen for clients.

    Args:
        dispatcher: answers requests.
        bus: where connections make themselves known.
        listening: where clients come in, made by `listener.listen`; the server closes it.
        version: told to clients and by `/health`.
        limits: what the service allows.
        allowed_origins: web pages that may connect; "*" is any.
        trusted_proxies: addresses and networks whose X-Forwarded-For is believed.
        certificate: for wss://.
        read_buffer_size: in bytes.
        session: the time limits of every session.
        metrics: where everything is counted.
        resume: how long sessions outlive their connections, and what is kept for them.
        storage: keeps sessions from one start to the next; None for a service whose sessions end with it.
        drain_timeout: seconds that `stop` may take.

    Attributes:
        dashboard: where browsers that open this port are sent; None where there is nothing to see.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        bus: Bus[RelayTarget],
        listening: socket.socket,
        version: str,
        limits: Limits,
        allowed_origins: tuple[str, ...] = ("*",),
        trusted_proxies: tuple[str, ...] = (),
        certificate: Certificate | None = None,
        read_buffer_size: int = 2048,
        session: SessionSettings,
        metrics: Metrics,
        resume: ResumeSettings | None = None,
        storage: Storage | None = None,
        drain_timeout: float = 20.0,
    ) -> None:
        self.dashboard: Dashboard | None = None
        self.is_secure = certificate is not None
        self._version = version
        self._limits = limits
        self._origins = Origins(allowed_origins)
        self._proxies = TrustedProxies(trusted_proxies)
        self._session = session
        self._resume = resume or ResumeSettings()
        self._registry = ConnectionRegistry(
            dispatcher=dispatcher,
            bus=bus,
            settings=session,
            limits=limits,
            metrics=metrics,
            resume=self._resume,
            storage=storage,
        )
        self._drain_timeout = drain_timeout
        self._listener = Listener(
            self._upgrade,
            listening,
            time_limit=session.connection_timeout,
            max_half_open=limits.max_connections_per_address,
            proxies=self._proxies,
            max_frame_size=limits.largest_message,
            read_buffer_size=read_buffer_size,
            certificate=certificate,
            sample=self._registry.sample,
        )
        self._publish(metrics)
        self._sweeper: asyncio.Task[None] | None = None
        self._started_at = time.monotonic()

    @property
    def host(self) -> str:
        """The address that it listens on."""
        return self._listener.host

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._listener.port

    @property
    def presence(self) -> LiveSessions:
        """Who is connected."""
        return self._registry

    async def reclaim(self) -> int:
        """Expect the clients whose sessions an earlier start has saved; return how many.

        Only for a service that has its store to itself; others find a session there when its client asks for it.

        Raises:
            UnavailableError: the store does not answer.
        """
        return await self._registry.session_store.reclaim()

    def hand_over(self, client_id: ClientId, wants: bytes) -> bytes | None:
        """Give a client's session to the node that it has come to (`bus.base.HandOver`)."""
        return self._registry.session_store.hand_over(client_id, wants)

    def join_writes(self) -> None:
        """Collect what is written to clients until `flush_writes` (`Bus.serve_others`)."""
        self._registry.open_batch()

    def flush_writes(self) -> None:
        """Write what was collected since `join_writes`."""
        self._registry.close_batch()

    async def start(self) -> None:
        """Accept clients.

        Raises:
            ConfigurationError: there is no file descriptor to do it with.
        """
        await self._listener.start()
        self._started_at = time.monotonic()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep(), name="sweep")
        self._registry.phase = Phase.SERVING

    async def stop(self) -> None:
        """Stop listening, send every client away, save sessions, and cut those that do not answer."""
        if self._sweeper is None:
            return
        sweeper, self._sweeper = self._sweeper, None
        sweeper.cancel()
        await asyncio.wait([sweeper])
        await self._listener.stop()
        await Drain(self._registry, timeout=self._drain_timeout, close_timeout=STOP_TIMEOUT).run()

    def _publish(self, metrics: Metrics) -> None:
        """Let metrics know how much waits; everything is counted when somebody asks."""
        connections = self._registry.connections
        metrics.sessions.read_from(lambda: sum(each.is_established for each in connections))
        metrics.handshakes_pending.read_from(lambda: self._listener.half_open)
        metrics.requests_pending.read_from(lambda: sum(each.conversation.pending_requests for each in connections))
        metrics.clients_behind.read_from(lambda: sum(each.outgoing.is_behind for each in connections))
        metrics.outbound_queue_bytes.read_from(lambda: _waiting_bytes(connections))

    def _upgrade(
        self, request: WSUpgradeRequest, peer: str, accepted_at: float
    ) -> Connection | WSUpgradeResponseWithListener | None:
        """Decide what an HTTP request gets: a connection, `/health`, or a refusal."""
        path = request.path.split(b"?", 1)[0]
        if path == b"/health":
            return self._health()
        if path not in _WEBSOCKET_PATHS:
            return None
        address = self._proxies.client(peer, request.headers.getall("X-Forwarded-For", []))
        listens_beyond = not names_this_machine(f"[{self.host}]")
        if is_from_this_machine(tuple(request.headers.items()), listens_beyond=listens_beyond):
            address = address._replace(is_near=True)
        pages = self._pages_for(request, address)
        if pages is not None:
            return pages
        refusal = self._refuse(request, address)
        if refusal is not None:
            return refusal
        if "upgrade" in (word.lower() for word in _words(request, "Connection")):
            # Firefox asks for "keep-alive, Upgrade" (RFC 6455, section 4.2.1, allows that); picows for the one word.
            request.headers["Connection"] = "upgrade"
        subprotocol = choose_subprotocol(_words(request, "Sec-WebSocket-Protocol"))
        if subprotocol is None:
            return Connection(self._registry, Framing.V1, source=address, opened_at=accepted_at, names_protocol=False)
        connection = Connection(self._registry, SUBPROTOCOLS[subprotocol], source=address, opened_at=accepted_at)
        response = WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": subprotocol})
        return WSUpgradeResponseWithListener(response, connection)

    def _pages_for(self, request: WSUpgradeRequest, address: ClientAddress) -> WSUpgradeResponseWithListener | None:
        """Send a person who has opened this port in a browser to the second port's pages, where they can be reached."""
        dashboard, headers = self.dashboard, request.headers
        if dashboard is None or "Upgrade" in headers or "text/html" not in headers.get("Accept", ""):
            return None
        if dashboard.is_loopback:
            url = dashboard.url if address.is_near else None
        else:
            name = _HOST.fullmatch(headers.get("Host", ""))
            url = f"http://{name[1]}:{dashboard.port}/" if name else None
        if url is None:
            return None
        response = WSUpgradeResponse.create_redirect_response(HTTPStatus.FOUND, url, {"Cache-Control": "no-store"})
        return WSUpgradeResponseWithListener(response, None)

    def _refuse(self, request: WSUpgradeRequest, address: ClientAddress) -> WSUpgradeResponseWithListener | None:
        """Return the refusal of a request that is not worth a WebSocket."""
        wrong = _wrong_header(request)
        if wrong is not None:
            return _refusal(HTTPStatus.BAD_REQUEST, wrong)
        if not self._origins.allow(request.headers.getall("Origin", [])):
            if self._registry.sample.takes("origin refused", time.monotonic()):
                log.info("origin refused", address=address.text)
            return _refusal(HTTPStatus.FORBIDDEN, "this origin may not connect")
        wait = self._registry.occupancy.usage.authentication_wait(address, time.monotonic())
        if wait:
            return _refusal(HTTPStatus.TOO_MANY_REQUESTS, "too many failed authentications", retry_after=wait)
        wait = self._registry.occupancy.usage.connect_wait(address, time.monotonic())
        if wait:
            return _refusal(HTTPStatus.TOO_MANY_REQUESTS, "too many connections in a minute", retry_after=wait)
        if self._registry.occupancy.usage.is_full and len(self._registry.occupancy.strangers) >= TURNED_AWAY:
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the service is full", retry_after=_FULL_RETRY)
        return None

    def _health(self) -> WSUpgradeResponseWithListener:
        body = {
            "status": "healthy",
            "version": self._version,
            "uptime": round(time.monotonic() - self._started_at, 3),
            "connections": len(self._registry.connections),
        }
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        response = WSUpgradeResponse.create_ok_response(msgspec.json.encode(body) + b"\n", headers)
        return WSUpgradeResponseWithListener(response, None)

    async def _sweep(self) -> None:
        limits = self._session
        times = (limits.connection_timeout, limits.heartbeat_interval, limits.heartbeat_timeout, self._resume.window)
        shortest = min(time for time in times if time > 0) / _SWEEPS_PER_LIMIT
        shortest = min(shortest, limits.away_after / _SWEEPS_BEFORE_AWAY)
        interval = min(max(shortest, _SHORTEST_SWEEP), _LONGEST_SWEEP)
        while True:
            await asyncio.sleep(interval)
            left_out = self._registry.sample.left_out(time.monotonic())
            if left_out:
                log.info("lines about strangers left out", counts=left_out)
            try:
                self._registry.sweep(time.monotonic())
            except Exception:
                log.exception("sweep failed")


def _wrong_header(request: WSUpgradeRequest) -> str | None:
    """Say what is wrong with the headers that are read here; picows cannot write answers about bytes beyond ASCII."""
    for name, value in request.headers.items():
        if name.lower().startswith(_READ_HEADERS) and not value.isascii():
            return f"expected ASCII in {name}"
    versions = request.headers.getall("Sec-WebSocket-Version", [])
    if versions and versions != ["13"]:  # RFC 6455, section 4.2.1; without one, picows says so
        return "expected Sec-WebSocket-Version: 13"
    return None


def _waiting_bytes(connections: Iterable[RegisteredConnection]) -> int:
    """Return how many bytes wait for clients that read too slowly."""
    return sum(each.outgoing.waiting_bytes for each in connections if each.outgoing.is_behind)


def _words(request: WSUpgradeRequest, header: str) -> list[str]:
    """Return the values of a header that holds a list."""
    return [word.strip() for word in ",".join(request.headers.getall(header, [])).split(",")]


def _refusal(status: HTTPStatus, why: str, *, retry_after: float | None = None) -> WSUpgradeResponseWithListener:
    headers = {} if retry_after is None else {"Retry-After": str(math.ceil(retry_after))}
    return WSUpgradeResponseWithListener(
        WSUpgradeResponse.create_error_response(status, why.encode() + b"\n", headers), None
    )
