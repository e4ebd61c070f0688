"""Serves the second port and stops it in order.

`service/app.py` starts it before the WebSocket port and stops it after, so that /ready is right at both ends. It
listens at once; requests wait until the application is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import structlog

from signal_manager.admin.exposition import MetricsExposition
from signal_manager.admin.statistics import Statistics
from signal_manager.asgi import HttpServer
from signal_manager.errors import ConfigurationError
from signal_manager.gateway.live_sessions import LiveSessions
from signal_manager.loading import Loader
from signal_manager.observe.metrics import Metrics
from signal_manager.storage.base import Storage

if TYPE_CHECKING:
    from signal_manager.admin.api import Management

__all__ = ["AdminServer"]

log = structlog.get_logger(__name__)

# Enough connections for some dashboards, Prometheus servers and probes.
MAX_CONNECTIONS = 128


class AdminServer:
    """Serve the second port; an async context manager.

    Args:
        host, port: where to listen; port 0 takes a free port, which `port` returns once the server listens.
        is_loopback: whether only this machine can reach `host`.
        version: the version of the service.
        live_sessions: the connected sessions.
        storage: /ready checks it.
        degradations: returns the present degradations, for /ready.
        metrics: the metrics of this process.
        exposition: the metrics for /metrics; None serves those of this process alone.
        connection_stats_interval, message_stats_interval: seconds between two lines of the log.
        token: the bearer token of the management interface, or "" for none; required unless `is_loopback`.
        management: builds the management interface's parts, in a thread; None omits the interface and the dashboard.
        websocket_url: where the demo page finds the service.
        loader: builds the application; None builds it at once.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 9090,
        is_loopback: bool = True,
        version: str,
        live_sessions: LiveSessions,
        storage: Storage,
        degradations: Callable[[], list[str]] = list,
        metrics: Metrics,
        exposition: MetricsExposition | None = None,
        connection_stats_interval: float = 60.0,
        message_stats_interval: float = 30.0,
        token: str = "",
        management: Callable[[], Management] | None = None,
        websocket_url: str = "",
        loader: Loader | None = None,
    ) -> None:
        self.host = host
        self._statistics = Statistics(
            metrics,
            connection_stats_interval=connection_stats_interval,
            message_stats_interval=message_stats_interval,
        )

        def build() -> Any:
            from signal_manager.admin.application import application  # noqa: PLC0415 - see there

            return application(
                host=host,
                is_loopback=is_loopback,
                version=version,
                live_sessions=live_sessions,
                storage=storage,
                degradations=degradations,
                metrics=metrics,
                exposition=exposition or MetricsExposition(metrics),
                statistics=self._statistics,
                token=token,
                management=management() if management is not None else None,
                websocket_url=websocket_url,
            )

        self._app = _Late(build, loader or Loader())
        self._server = HttpServer(self._app, host=host, port=port, max_connections=MAX_CONNECTIONS)
        self._stack = contextlib.AsyncExitStack()

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self._server.port

    async def __aenter__(self) -> Self:
        """Listen; raise ConfigurationError with the reason in one line if that fails."""
        try:
            await self._server.start()
        except OSError as error:
            raise ConfigurationError(_explain(error, self.host, self.port)) from error
        self._stack.push_async_callback(self._app.loaded)
        self._app.load()
        self._stack.push_async_callback(self._server.stop)
        await self._stack.enter_async_context(self._statistics)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # End the statistics first: their event streams would delay the stop of the server.
        await self._stack.aclose()


class _Late:
    """An ASGI application that is built in a thread; requests wait until it is built."""

    def __init__(self, build: Callable[[], Any], loader: Loader) -> None:
        self._build = build
        self._loader = loader
        self._building: asyncio.Task[Any] | None = None

    def load(self) -> None:
        """Start to build the application."""
        self._building = asyncio.create_task(self._loader.load(self._build), name="second port")
        self._building.add_done_callback(_report)

    async def loaded(self) -> None:
        """Wait until the build has ended or failed, because its thread cannot be stopped."""
        self._loader.begin()
        if self._building is not None:
            await asyncio.wait([self._building])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Wait for the application, then let it answer the request."""
        assert self._building is not None  # noqa: S101 - nothing listens before
        # A cancelled request must not cancel the build.
        app = await asyncio.shield(self._building)
        await app(scope, receive, send)


def _report(building: asyncio.Task[Any]) -> None:
    if not building.cancelled() and building.exception() is not None:
        log.error("the second port cannot answer", exc_info=building.exception())


def _explain(error: OSError, host: str, port: int) -> str:
    """Return one line: why listening failed and which setting to change."""
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {where}: the port is taken; change metrics.port or stop what uses it"
    if error.errno == errno.EACCES:
        return f"cannot listen on {where}: not permitted; use a metrics.port above 1023"
    if isinstance(error, socket.gaierror):
        return f"cannot listen on {where}: metrics.host is no address of this machine"
    # The text of socket.create_server repeats the address.
    return f"cannot listen on {where}: {os.strerror(error.errno) if error.errno else error}"
