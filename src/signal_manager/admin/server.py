"""The second port as a whole: what is served there, where it listens, and its orderly stop.

`app.py` starts it before the WebSocket port and stops it after, so that /ready tells the truth at both ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from signal_manager.admin.access import Guard, refusal
from signal_manager.admin.api import Management, api
from signal_manager.admin.events import event_stream
from signal_manager.admin.numbers import Numbers
from signal_manager.admin.pages import demo_pages, pages
from signal_manager.admin.probes import probes
from signal_manager.admin.statistics import Statistics
from signal_manager.errors import ConfigurationError, SignalManagerError
from signal_manager.metrics import Metrics
from signal_manager.presence import LiveSessions
from signal_manager.serving import HttpServer
from signal_manager.storage.base import Storage

__all__ = ["AdminServer"]

# Connections of one dashboard, a few Prometheus servers and probes; whoever opens more is up to no good.
MAX_CONNECTIONS = 128
# Mistakes of one request that are worth naming.
_REPORTED = 5


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
        management: what operators look at and act on; None leaves out the interface and the dashboard.
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
        numbers: Numbers | None = None,
        connection_stats_interval: float = 60.0,
        message_stats_interval: float = 30.0,
        token: str = "",
        management: Management | None = None,
        websocket_url: str = "",
    ) -> None:
        self.host = host
        self._statistics = Statistics(
            metrics,
            connection_stats_interval=connection_stats_interval,
            message_stats_interval=message_stats_interval,
        )
        app = FastAPI(
            title="signal-manager",
            version=version,
            docs_url=None,
            redoc_url=None,
            openapi_url=None if management is None else "/openapi.json",
            redirect_slashes=False,
        )
        _add_error_answers(app)
        app.include_router(
            probes(
                presence=presence,
                storage=storage,
                degradations=degradations,
                metrics=metrics,
                numbers=numbers or Numbers(metrics),
                version=version,
            )
        )
        if management is not None:
            app.state.management = management
            app.include_router(api)
            app.include_router(event_stream(self._statistics, presence))
            app.include_router(pages())
            if management.has_demo:
                app.include_router(demo_pages(websocket_url=websocket_url, tokens=management.tokens))
        guarded = Guard(app, host=host, is_loopback=is_loopback, token=token)
        self._server = HttpServer(guarded, host=host, port=port, max_connections=MAX_CONNECTIONS)
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
        self._stack.push_async_callback(self._server.stop)
        await self._stack.enter_async_context(self._statistics)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The statistics end first: streams of them would hold up the server.
        await self._stack.aclose()


def _add_error_answers(app: FastAPI) -> None:
    """Let every failure be JSON of one shape, without stacks and without what was sent."""

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> JSONResponse:
        return refusal(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        wrong = [
            f"{'.'.join(str(part) for part in each['loc'][1:]) or 'body'}: {each['msg']}" for each in error.errors()
        ]
        return refusal(400, "; ".join(wrong[:_REPORTED]))

    @app.exception_handler(SignalManagerError)
    async def refused(_request: Request, error: SignalManagerError) -> JSONResponse:
        return refusal(error.code, error.message)

    @app.exception_handler(Exception)
    async def failed(_request: Request, _error: Exception) -> JSONResponse:
        return refusal(500, "internal error")


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
