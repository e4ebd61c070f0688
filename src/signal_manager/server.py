"""The WebSocket port: accepts connections, answers `GET /health`, looks for silent clients, and stops in order.

What one connection does is `connection.py`'s business; this module decides whether there is a connection at all.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from logging import LoggerAdapter, getLogger

import msgspec
import structlog
from picows import WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener, ws_create_server

from signal_manager.bus.local import LocalBus
from signal_manager.connection import Connection, Switchboard
from signal_manager.errors import ConfigurationError
from signal_manager.metrics import Metrics
from signal_manager.presence import LiveSessions, Phase
from signal_manager.protocol.framing import SUBPROTOCOLS, Framing, choose_subprotocol
from signal_manager.protocol.session import SessionSettings
from signal_manager.router import Router

__all__ = ["Server", "listen"]

log = structlog.get_logger(__name__)

# How long a stopping server waits for clients to answer its close frames.
STOP_TIMEOUT = 3.0
# Silent clients are looked for this many times within the shortest time limit, within these bounds (s).
_SWEEPS_PER_LIMIT = 10
_SHORTEST_SWEEP = 0.02
_LONGEST_SWEEP = 1.0
# Connections that may wait to be accepted: many clients come back at once after a restart.
_BACKLOG = 4096
_WEBSOCKET_PATHS = frozenset({b"/", b"/ws"})


class Server:
    """Listen for clients.

    Args:
        router: answers requests.
        bus: where connections make themselves known.
        listener: where clients come in, made by `listen`; the server closes it.
        version: told to clients and by `/health`.
        max_connections: a further connection is closed with 4503.
        max_message_size, read_buffer_size: in bytes.
        session: the time limits of every session.
        metrics: where everything is counted.
    """

    def __init__(
        self,
        *,
        router: Router,
        bus: LocalBus[Connection],
        listener: socket.socket,
        version: str,
        max_connections: int = 1000,
        max_message_size: int = 1048576,
        read_buffer_size: int = 2048,
        session: SessionSettings,
        metrics: Metrics,
    ) -> None:
        self.host: str = listener.getsockname()[0]
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._version = version
        self._max_message_size = max_message_size
        self._read_buffer_size = read_buffer_size
        self._session = session
        self._board = Switchboard(
            router=router,
            bus=bus,
            settings=session,
            max_connections=max_connections,
            max_message_size=max_message_size,
            metrics=metrics,
        )
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._started_at = time.monotonic()

    @property
    def presence(self) -> LiveSessions:
        """Who is connected."""
        return self._board

    async def start(self) -> None:
        """Accept clients."""
        self._server = await ws_create_server(
            self._upgrade,
            sock=self._listener,
            websocket_handshake_timeout=self._session.connection_timeout,
            enable_auto_pong=False,  # a swallowed ping could be the last frame of a read, which flushes the rest
            max_frame_size=self._max_message_size,
            read_buffer_init_size=self._read_buffer_size,
            # An adapter, because picows makes a logger of its own for each connection otherwise: 1 KB each.
            logger_name=LoggerAdapter(getLogger("picows.server"), {}),
            backlog=_BACKLOG,
        )
        self._started_at = time.monotonic()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep(), name="sweep")
        self._board.phase = Phase.SERVING

    async def stop(self) -> None:
        """Stop listening, say good-bye to every client, and cut those that do not answer."""
        if self._server is None or self._sweeper is None:
            return
        self._server.close()
        self._sweeper.cancel()
        await self._board.stop(STOP_TIMEOUT)
        await self._server.wait_closed()
        self._server = None

    def _upgrade(self, request: WSUpgradeRequest) -> Connection | WSUpgradeResponseWithListener | None:
        """Decide what an HTTP request gets: a connection, `/health`, or a refusal."""
        path = request.path.split(b"?", 1)[0]
        if path == b"/health":
            return self._health()
        if path not in _WEBSOCKET_PATHS:
            return None
        offered = ",".join(request.headers.getall("Sec-WebSocket-Protocol", []))
        subprotocol = choose_subprotocol([name.strip() for name in offered.split(",")])
        if subprotocol is None:
            return Connection(self._board, Framing.V1)
        connection = Connection(self._board, SUBPROTOCOLS[subprotocol])
        response = WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": subprotocol})
        return WSUpgradeResponseWithListener(response, connection)

    def _health(self) -> WSUpgradeResponseWithListener:
        body = {
            "status": "healthy",
            "version": self._version,
            "uptime": round(time.monotonic() - self._started_at, 3),
            "connections": len(self._board.connections),
        }
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        response = WSUpgradeResponse.create_ok_response(msgspec.json.encode(body) + b"\n", headers)
        return WSUpgradeResponseWithListener(response, None)

    async def _sweep(self) -> None:
        limits = self._session
        shortest = min(limits.connection_timeout, limits.heartbeat_interval, limits.heartbeat_timeout)
        interval = min(max(shortest / _SWEEPS_PER_LIMIT, _SHORTEST_SWEEP), _LONGEST_SWEEP)
        while True:
            await asyncio.sleep(interval)
            try:
                self._board.sweep(time.monotonic())
            except Exception:
                log.exception("sweep failed")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, before anything else is started: a taken port is the most common mistake.

    Args:
        host: an address or a name; `::` means every address of both families.
        port: 0 takes a free one.

    Raises:
        ConfigurationError: the address cannot be listened on; the message says why.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # IPv4 first: a name such as localhost has both, and clients that were told 127.0.0.1 expect it.
        family, _, _, _, address = min(found, key=lambda entry: entry[0] is not socket.AF_INET)
        dualstack = family is socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=dualstack)
    except OSError as error:
        raise ConfigurationError(_explain(error, host, port)) from error


def _explain(error: OSError, host: str, port: int) -> str:
    """Say in one line why listening failed and which setting to change."""
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {where}: the port is taken; change server.port or stop what uses it"
    if error.errno == errno.EACCES:
        return f"cannot listen on {where}: not permitted; use a port above 1023"
    if isinstance(error, socket.gaierror):
        return f"cannot listen on {where}: server.host is no address of this machine"
    return f"cannot listen on {where}: {error.strerror or error}"
