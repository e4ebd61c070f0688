"""The local SFU as a service: its sessions, its clock, and the ways to run it.

Neighbours: inside another service, mount `LocalSfu.app` or give `LocalSfu` an HTTP port; `serve` runs it alone. It is
for one machine, development and tests, and warns where it starts on more.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from dataclasses import replace
from types import TracebackType
from typing import Self

import structlog
import uvicorn
from starlette.applications import Starlette

from signal_manager.asgi import Guest
from signal_manager.errors import ConfigurationError
from signal_manager.sfu.capacity import Load
from signal_manager.sfu.connection import Resources
from signal_manager.sfu.dtls import Certificate
from signal_manager.sfu.errors import RefusedError
from signal_manager.sfu.faults import Faults
from signal_manager.sfu.http import create_app
from signal_manager.sfu.metrics import Counters, Gauges
from signal_manager.sfu.secure_transport import Handshakes
from signal_manager.sfu.sessions import Session
from signal_manager.sfu.settings import SfuSettings
from signal_manager.sfu.transport import MediaPort

__all__ = ["LocalSfu", "SfuHttp", "serve"]

_log = structlog.get_logger(__name__)


class SfuHttp:
    """An application behind an HTTP port."""

    def __init__(self, app: Starlette, *, host: str, port: int, max_connections: int) -> None:
        self.port = port
        self._app = app
        self._host = host
        self._max_connections = max_connections
        self._server: Guest | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        """Return what a client of Cloudflare Realtime takes as base URL."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}/v1"

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: the address cannot be bound.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self.port))
        except OSError as error:
            listener.close()
            raise ConfigurationError(f"cannot listen on {self._host} port {self.port}: {error.strerror}") from error
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            log_config=None,
            access_log=False,
            limit_concurrency=self._max_connections,
            timeout_graceful_shutdown=1,
        )
        self._server = Guest(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="sfu-http")
        await self._server.is_up.wait()

    async def stop(self) -> None:
        """Close the port, and let requests end."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait([self._serving])
            self._server = self._serving = None

    async def wait_closed(self) -> None:
        """Wait until it ends by itself, which it only does when it fails."""
        if self._serving is not None:
            await self._serving


class LocalSfu:
    """A small SFU behind Cloudflare Realtime's HTTP interface, as an async context manager.

    Args:
        host: the address of the media port, and of the HTTP port where there is one.
        http_port: where to serve `app`; 0 lets the system choose, None leaves serving to the caller.
        udp_port: the media port of all sessions; 0 lets the system choose.
        public_addresses: what to offer as host candidates in place of `host`.
        app_id: the app in every URL, 32 hex digits; made up where it is not given.
        app_secret: the bearer token of every request; made up where it is not given.
        settings: limits and time limits.
        faults: what goes wrong on purpose.
        http_host: the address of the HTTP port, where it is another one than `host`.
        prefix: what the ids of sessions begin with: hex digits, of one of several workers.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        http_port: int | None = None,
        udp_port: int = 0,
        public_addresses: tuple[str, ...] = (),
        app_id: str | None = None,
        app_secret: str | None = None,
        settings: SfuSettings | None = None,
        faults: Faults | None = None,
        http_host: str | None = None,
        prefix: str = "",
    ) -> None:
        self.faults = faults or Faults()
        self.settings = settings or SfuSettings()
        if self.faults.drop_rate:
            self.settings = replace(self.settings, drop_rate=self.faults.drop_rate)
        self.app_id = app_id or secrets.token_hex(16)
        self.app_secret = app_secret or secrets.token_hex(32)
        self.counters = Counters()
        self.sessions: dict[str, Session] = {}
        self.app: Starlette = create_app(self)
        self._host = host
        self._prefix = prefix
        self._http = (
            SfuHttp(
                self.app,
                host=http_host or host,
                port=http_port,
                max_connections=self.settings.max_http_connections,
            )
            if http_port is not None
            else None
        )
        self._udp_port = udp_port
        self._public_addresses = public_addresses
        self._port = MediaPort(self.counters)
        self._handshakes = Handshakes(self.settings.max_pending_handshakes, time_limit=self.settings.handshake_timeout)
        self.load = Load(self.settings, self.counters)
        self._resources = Resources(
            settings=self.settings,
            counters=self.counters,
            port=self._port,
            certificate=Certificate(),
            handshakes=self._handshakes,
            load=self.load,
            prefix=prefix,
        )
        self._clock: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the ports.

        Raises:
            ConfigurationError: an address cannot be bound.
        """
        await self._port.start(self._host, self._udp_port, public_addresses=self._public_addresses)
        try:
            if self._http is not None:
                await self._http.start()
        except ConfigurationError:
            await self._port.stop()
            raise
        self._clock = asyncio.create_task(self._tick(), name="sfu-clock")
        # On loopback it is on its one machine, which is no reason to warn a newcomer.
        say = _log.debug if self._host.startswith(("127.", "::1", "localhost")) else _log.warning
        say(
            "the local SFU is for one machine, development and tests",
            media=f"{self._host}:{self.media_port}",
            http=self._http.port if self._http is not None else None,
        )

    async def stop(self) -> None:
        """Close every session, then the ports."""
        if self._clock is not None:
            self._clock.cancel()
            await asyncio.wait([self._clock])
            self._clock = None
        # First the sessions, because requests wait for their transports, and then those that were opened meanwhile.
        await self._close_sessions()
        if self._http is not None:
            await self._http.stop()
        await self._close_sessions()
        await self._port.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def wait_closed(self) -> None:
        """Wait until the HTTP server ends by itself, which it only does when it fails."""
        if self._http is not None:
            await self._http.wait_closed()

    @property
    def media_port(self) -> int:
        """Return the UDP port that all media goes through."""
        return self._port.candidates[0][1] if self._port.candidates else 0

    @property
    def base_url(self) -> str:
        """Return what a client of Cloudflare Realtime takes as base URL."""
        return self._http.base_url if self._http is not None else ""

    def open_session(self, room: str = "") -> Session:
        """Return a new session, for a room where that is known.

        Raises:
            RefusedError: the SFU has the most sessions that it may have, or no capacity is left (503).
        """
        self.load.check_join()
        if len(self.sessions) >= self.settings.max_sessions:
            raise RefusedError(
                503, "temporarily_unavailable_error", f"the SFU has its {self.settings.max_sessions} sessions"
            )
        session_id = self._prefix + secrets.token_hex(16)[len(self._prefix) :]
        session = Session(session_id, room=room, resources=self._resources, sessions=self.sessions)
        self.sessions[session_id] = session
        self.counters.sessions_opened += 1
        return session

    def gauges(self) -> Gauges:
        """Return how much there is of everything now."""
        sessions = list(self.sessions.values())
        return Gauges(
            sessions=len(sessions),
            connected_sessions=sum(session.is_connected for session in sessions),
            publications=sum(len(session.tracks.published) for session in sessions),
            subscriptions=sum(len(session.tracks.router.subscriptions) for session in sessions),
            data_channels=sum(len(session.channels.channels) for session in sessions),
            pending_handshakes=self._handshakes.pending,
        )

    async def _close_sessions(self) -> None:
        for session_id in list(self.sessions):
            self._retire(session_id)
        if self._closing:
            await asyncio.wait(self._closing)

    def _retire(self, session_id: str) -> None:
        """Take a session out, and close it beside everything else: one that fails even at that holds up nobody."""
        session = self.sessions.pop(session_id, None)
        if session is not None:
            task = asyncio.create_task(session.close(), name="sfu-close-session")
            self._closing.add(task)
            task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("media session did not close", error=type(error).__name__)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.settings.tick)
            now = time.monotonic()
            self.load.tick(now)
            self._port.count_missed()
            for session in list(self.sessions.values()):
                try:
                    if session.is_expired(now):
                        self.counters.sessions_expired += 1
                        self._retire(session.id)
                    else:
                        session.tick(now)
                except Exception:  # a background task's edge: one session's fault ends that session
                    _log.exception("media session failed", session=session.id)
                    self._retire(session.id)


async def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8787,
    udp_port: int = 0,
    public_addresses: tuple[str, ...] = (),
    app_id: str | None = None,
    app_secret: str | None = None,
    settings: SfuSettings | None = None,
    faults: Faults | None = None,
) -> None:
    """Run the SFU alone until this is cancelled; arguments as for `LocalSfu`.

    Raises:
        ConfigurationError: an address cannot be bound.
    """
    sfu = LocalSfu(
        host=host,
        http_port=port,
        udp_port=udp_port,
        public_addresses=public_addresses,
        app_id=app_id,
        app_secret=app_secret,
        settings=settings,
        faults=faults,
    )
    async with sfu:
        _log.info("serving", base_url=sfu.base_url, app_id=sfu.app_id)
        await sfu.wait_closed()
