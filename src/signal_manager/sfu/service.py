"""The local SFU as a service: its sessions, its clock, and the ways to run it.

Another service calls `LocalSfu.call`, mounts `LocalSfu.app`, or gives it an HTTP port; `serve` runs it alone. It is for
one machine, development and tests, and logs a warning if it listens beyond this machine.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog

from signal_manager.errors import ConfigurationError
from signal_manager.sfu.api import Api, Call, Reply
from signal_manager.sfu.capacity import Load
from signal_manager.sfu.connection import Resources
from signal_manager.sfu.dtls import Certificate
from signal_manager.sfu.faults import Faults
from signal_manager.sfu.metrics import Counters, Gauges
from signal_manager.sfu.secure_transport import Handshakes
from signal_manager.sfu.session_table import SessionTable
from signal_manager.sfu.sessions import Session
from signal_manager.sfu.settings import SfuSettings
from signal_manager.sfu.transport import MediaPort

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from signal_manager.sfu.http_port import SfuHttp

__all__ = ["LocalSfu", "serve"]

_log = structlog.get_logger(__name__)


class LocalSfu:
    """A small SFU behind Cloudflare Realtime's HTTP interface, as an async context manager.

    Args:
        host: the address of the media port, and of the HTTP port where there is one.
        http_port: where to serve `app`; 0 lets the system choose, None leaves serving to the caller.
        udp_port: the media port of all sessions; 0 lets the system choose.
        public_addresses: what to offer as host candidates in place of `host`.
        app_id: the app in every URL, 32 hex digits; by default a random one.
        app_secret: the bearer token of every request; by default a random one.
        settings: limits and time limits.
        faults: the faults to play.
        http_host: the address of the HTTP port, if it is not `host`.
        prefix: the hex digits at the start of all session ids, which name one of several workers.
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
        self._host = host
        self._udp_port = udp_port
        self._public_addresses = public_addresses
        self._port = MediaPort(self.counters)
        handshakes = Handshakes(self.settings.max_pending_handshakes, time_limit=self.settings.handshake_timeout)
        self.load = Load(self.settings, self.counters)
        resources = Resources(
            settings=self.settings,
            counters=self.counters,
            port=self._port,
            certificate=Certificate(),
            handshakes=handshakes,
            load=self.load,
            prefix=prefix,
        )
        self._table = SessionTable(resources)
        self._api = Api(self)
        self._calls: set[asyncio.Task[Reply]] = set()
        self._http = self._http_port(http_host or host, http_port) if http_port is not None else None
        self._clock: asyncio.Task[None] | None = None

    @functools.cached_property
    def app(self) -> Starlette:
        """The interface over HTTP, a status page and metrics, as an ASGI application."""
        from signal_manager.sfu.http import create_app  # noqa: PLC0415 - a service that calls it itself needs no HTTP

        return create_app(self, self._api)

    def _http_port(self, host: str, port: int) -> SfuHttp:
        from signal_manager.sfu.http_port import SfuHttp  # noqa: PLC0415 - as above

        return SfuHttp(self.app, host=host, port=port, max_connections=self.settings.max_http_connections)

    async def call(self, call: Call) -> Reply:
        """Carry out a call without HTTP. As over HTTP, a caller that gives up does not end what it asked for."""
        calling = asyncio.create_task(self._api.call(call), name=f"sfu {call.method}")
        self._calls.add(calling)
        calling.add_done_callback(self._calls.discard)
        return await asyncio.shield(calling)

    @property
    def sessions(self) -> dict[str, Session]:
        """All sessions, by id."""
        return self._table.by_id

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
        # On loopback the SFU serves one machine, so no warning is needed.
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
        # Close the sessions first, because requests wait for their transports; then those opened meanwhile.
        await self._table.close()
        if self._http is not None:
            await self._http.stop()
        if self._calls:
            await asyncio.wait(self._calls)
        await self._table.close()
        await self._port.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def media_port(self) -> int:
        """Return the UDP port that all media goes through."""
        return self._port.candidates[0][1] if self._port.candidates else 0

    @property
    def base_url(self) -> str:
        """Return the base URL for a client of Cloudflare Realtime."""
        return self._http.base_url if self._http is not None else ""

    def open_session(self, room: str = "") -> Session:
        """Return a new session, for a room where that is known (`SessionTable.open`)."""
        return self._table.open(room)

    def gauges(self) -> Gauges:
        """Return the present numbers of sessions, tracks and channels."""
        return self._table.gauges()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.settings.tick)
            now = time.monotonic()
            self.load.tick(now)
            self._port.count_missed()
            self._table.tick(now)


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
    """Run the SFU alone until this is cancelled; the arguments are those of `LocalSfu`.

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
        await asyncio.Event().wait()  # until this is cancelled
