"""The WebSocket port: upgrades requests, answers `GET /health`, finds silent clients, stops in order.

`gateway/listener.py` accepts the socket, and `gateway/connection.py` handles the connection. This module decides
whether a request becomes a connection at all.
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
from signal_manager.gateway.handshake import Handshakes
from signal_manager.gateway.limits import (
    TURNED_AWAY,
    ClientAddress,
    Limits,
    Origins,
    TrustedProxies,
    is_from_this_machine,
    names_this_machine,
    near,
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
# The server looks for silent clients this many times within the shortest time limit, within these bounds (s).
_SWEEPS_PER_LIMIT = 10
_SWEEPS_BEFORE_AWAY = 8
_SHORTEST_SWEEP = 0.02
_LONGEST_SWEEP = 1.0
# How long a client that found the service full waits before it tries again (s).
_FULL_RETRY = 5.0
# The beginnings of the names of headers that the handshake reads.
_READ_HEADERS = ("sec-websocket-", "host", "origin", "upgrade", "connection")
_WEBSOCKET_PATHS = frozenset({b"/", b"/ws"})
# A name or an address in a Host header, without the port behind it (RFC 9110, section 7.2).
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
# The address at which a browser on the same machine reaches a socket that listens on every address.
_CALLED_AS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not listened on


class Dashboard(NamedTuple):
    """The address of the second port's pages."""

    host: str
    port: int
    is_loopback: bool = True

    @property
    def url(self) -> str:
        """The URL for a browser on this machine."""
        host = _CALLED_AS.get(self.host, self.host)
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"


class Server:
    """Listen for clients.

    Args:
        dispatcher: answers requests.
        bus: delivers messages to clients.
        listening: the socket to accept from, made by `listener.listen`; the server closes it.
        version: shown by `/health`.
        limits: what the service allows.
        allowed_origins: web pages that may connect; "*" is any.
        trusted_proxies: addresses and networks whose X-Forwarded-For is believed.
        certificate: for wss://.
        read_buffer_size: in bytes.
        session: the time limits of every session.
        metrics: shows all counters to Prometheus.
        resume: how long sessions outlive their connections, and how much is kept for them.
        storage: keeps sessions from one start to the next; None for a service whose sessions end with it.
        drain_timeout: seconds that `stop` may take.

    Attributes:
        dashboard: where the server redirects browsers that open this port; None for no redirect.
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
        handshakes = Handshakes(
            self._upgrade,
            time_limit=session.connection_timeout,
            max_frame_size=limits.largest_message,
            read_buffer_size=read_buffer_size,
            certificate=certificate,
            sample=self._registry.sample,
        )
        self._listener = Listener(
            handshakes, listening, max_half_open=limits.max_connections_per_address, proxies=self._proxies
        )
        self._listens_beyond = not names_this_machine(f"[{self.host}]")
        self._publish(metrics)
        self._sweeper: asyncio.Task[None] | None = None
        self._started_at = time.monotonic()

    @property
    def host(self) -> str:
        """The address on which the server listens."""
        return self._listener.host

    @property
    def port(self) -> int:
        """The port on which the server listens."""
        return self._listener.port

    @property
    def live_sessions(self) -> LiveSessions:
        """The sessions of this process."""
        return self._registry

    async def reclaim(self) -> int:
        """Load the sessions that an earlier start has saved, so that their clients can resume; return how many.

        Only for a service that has its store to itself. Other services load a session when its client asks for it.

        Raises:
            UnavailableError: the store does not answer.
        """
        return await self._registry.session_store.reclaim()

    def hand_over(self, client_id: ClientId, wants: bytes) -> bytes | None:
        """Give a client's session to the node that claims the client (`bus.base.HandOver`)."""
        return self._registry.session_store.hand_over(client_id, wants)

    def join_writes(self) -> None:
        """Collect what is written to clients until `flush_writes` (`Bus.serve_others`)."""
        self._registry.relay_context.open_batch()

    def flush_writes(self) -> None:
        """Write what was collected since `join_writes`."""
        self._registry.relay_context.close_batch()

    async def start(self) -> None:
        """Accept clients.

        Raises:
            ConfigurationError: no file descriptor is left.
        """
        await self._listener.start()
        self._started_at = time.monotonic()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep(), name="sweep")
        self._registry.phase = Phase.SERVING

    async def stop(self) -> None:
        """Stop listening, send every client away, save the sessions, and cut connections that do not close."""
        if self._sweeper is None:
            return
        sweeper, self._sweeper = self._sweeper, None
        sweeper.cancel()
        await asyncio.wait([sweeper])
        await self._listener.stop()
        await Drain(self._registry, timeout=self._drain_timeout, close_timeout=STOP_TIMEOUT).run()

    def _publish(self, metrics: Metrics) -> None:
        """Register gauges, which count when Prometheus reads them."""
        connections = self._registry.connections
        metrics.sessions.read_from(lambda: sum(each.is_established for each in connections))
        metrics.handshakes_pending.read_from(lambda: self._listener.half_open)
        metrics.requests_pending.read_from(lambda: sum(each.conversation.pending_requests for each in connections))
        metrics.clients_behind.read_from(lambda: sum(each.outgoing.is_behind for each in connections))
        metrics.outbound_queue_bytes.read_from(lambda: _waiting_bytes(connections))

    def _upgrade(
        self, request: WSUpgradeRequest, peer: str, accepted_at: float
    ) -> Connection | WSUpgradeResponseWithListener | None:
        """Answer an HTTP request with a connection, with `/health`, or with a refusal."""
        path = request.path.split(b"?", 1)[0]
        if path == b"/health":
            return self._health()
        if path not in _WEBSOCKET_PATHS:
            return None
        address = self._proxies.client(peer, request.headers.getall("X-Forwarded-For", []))
        if is_from_this_machine(tuple(request.headers.items()), listens_beyond=self._listens_beyond):
            address = near(address)
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
        """Redirect a browser that opens this port to the second port's pages, if the browser can reach them."""
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
        """Return the refusal of an invalid or excessive request, or None."""
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
    """Return what is wrong with the headers that are read here; picows cannot write answers with non-ASCII bytes."""
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
    """Return the values of a list header."""
    return [word.strip() for word in ",".join(request.headers.getall(header, [])).split(",")]


def _refusal(status: HTTPStatus, why: str, *, retry_after: float | None = None) -> WSUpgradeResponseWithListener:
    headers = {} if retry_after is None else {"Retry-After": str(math.ceil(retry_after))}
    return WSUpgradeResponseWithListener(
        WSUpgradeResponse.create_error_response(status, why.encode() + b"\n", headers), None
    )
