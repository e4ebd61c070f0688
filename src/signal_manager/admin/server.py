"""The second port as a whole: what is served there, where it listens, and its orderly stop.

`service/app.py` starts it before the WebSocket port and stops it after, so that /ready tells the truth at both ends. It
listens at once; requests wait until what answers them is loaded.
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
from signal_manager.loading import load
from signal_manager.observe.metrics import Metrics
from signal_manager.storage.base import Storage

if TYPE_CHECKING:
    from signal_manager.admin.api import Management

__all__ = ["AdminServer"]

log = structlog.get_logger(__name__)

# Connections of one dashboard, a few Prometheus servers and probes; whoever opens more is up to no good.
MAX_CONNECTIONS = 128


class AdminServer:
    """Serve the second port; an async context manager.

    Args:
        host, port: where to listen; port 0 takes a free one, which `port` tells once it listens.
        is_loopback: whether only this machine can reach `host`.
        version: of the service.
        presence: who is connected.
        storage: asked by /ready.
        degradations: returns what works less well than it should, for /ready.
        metrics: what this process counts.
        numbers: served by /metrics; without it, this process's alone.
        connection_stats_interval, message_stats_interval: seconds between two lines of the log.
        token: the bearer token of the management interface, or "" for none; required unless `is_loopback`.
        management: makes what operators look at and act on, in a thread; None leaves out the interface and the
            dashboard.
        websocket_url: where the demo page finds the service.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 9090,
        is_loopback: bool = True,
        version: str,
        presence: LiveSessions,
        storage: Storage,
        degradations: Callable[[], list[str]] = list,
        metrics: Metrics,
        numbers: MetricsExposition | None = None,
        connection_stats_interval: float = 60.0,
        message_stats_interval: float = 30.0,
        token: str = "",
        management: Callable[[], Management] | None = None,
        websocket_url: str = "",
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
                presence=presence,
                storage=storage,
                degradations=degradations,
                metrics=metrics,
                numbers=numbers or MetricsExposition(metrics),
                statistics=self._statistics,
                token=token,
                management=management() if management is not None else None,
                websocket_url=websocket_url,
            )

        self._app = _Late(build)
        self._server = HttpServer(self._app, host=host, port=port, max_connections=MAX_CONNECTIONS)
        self._stack = contextlib.AsyncExitStack()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.port

    async def __aenter__(self) -> Self:
        """Listen; ConfigurationError when that cannot be, with the reason in one line."""
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
        # The statistics end first: streams of them would hold up the server.
        await self._stack.aclose()


class _Late:
    """An ASGI application that is built in a thread, and for which requests wait."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self._building: asyncio.Task[Any] | None = None

    def load(self) -> None:
        """Begin to build it."""
        self._building = asyncio.create_task(load(self._build), name="second port")
        self._building.add_done_callback(_report)

    async def loaded(self) -> None:
        """Wait until it is built, or has failed to be: its thread cannot be stopped."""
        if self._building is not None:
            await asyncio.wait([self._building])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        assert self._building is not None  # noqa: S101 - nothing listens before
        # A request that is given up must not take the building with it.
        app = await asyncio.shield(self._building)
        await app(scope, receive, send)


def _report(building: asyncio.Task[Any]) -> None:
    if not building.cancelled() and building.exception() is not None:
        log.error("the second port cannot answer", exc_info=building.exception())


def _explain(error: OSError, host: str, port: int) -> str:
    """Say in one line why listening failed and which setting to change."""
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {where}: the port is taken; change metrics.port or stop what uses it"
    if error.errno == errno.EACCES:
        return f"cannot listen on {where}: not permitted; use a metrics.port above 1023"
    if isinstance(error, socket.gaierror):
        return f"cannot listen on {where}: metrics.host is no address of this machine"
    # socket.create_server puts the address into its text once more.
    return f"cannot listen on {where}: {os.strerror(error.errno) if error.errno else error}"
