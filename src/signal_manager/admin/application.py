"""Builds the application of the second port: probes, management interface, pages, and the guard around them.

`server.py` imports this module in a thread after it listens, because FastAPI and the models are a quarter of all
imports.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from signal_manager.admin.access import Guard, refusal
from signal_manager.admin.api import Management, api
from signal_manager.admin.events import event_stream
from signal_manager.admin.exposition import MetricsExposition
from signal_manager.admin.pages import demo_pages, pages
from signal_manager.admin.probes import probes
from signal_manager.admin.statistics import Statistics
from signal_manager.errors import SignalManagerError
from signal_manager.gateway.live_sessions import LiveSessions
from signal_manager.observe.metrics import Metrics
from signal_manager.storage.base import Storage

__all__ = ["application"]

# The most mistakes of one request to report.
_REPORTED = 5


def application(
    *,
    host: str,
    is_loopback: bool,
    version: str,
    live_sessions: LiveSessions,
    storage: Storage,
    degradations: Callable[[], list[str]],
    metrics: Metrics,
    exposition: MetricsExposition,
    statistics: Statistics,
    token: str,
    management: Management | None,
    websocket_url: str,
) -> ASGIApp:
    """Return the application; the arguments are those of `AdminServer`."""
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
            live_sessions=live_sessions,
            storage=storage,
            degradations=degradations,
            metrics=metrics,
            exposition=exposition,
            version=version,
        )
    )
    if management is not None:
        app.state.management = management
        app.include_router(api)
        app.include_router(event_stream(statistics, live_sessions))
        app.include_router(pages())
        if management.has_demo:
            app.include_router(demo_pages(websocket_url=websocket_url, tokens=management.tokens))
    return Guard(app, host=host, is_loopback=is_loopback, token=token)


def _add_error_answers(app: FastAPI) -> None:
    """Make every error a JSON response of one shape, without stack traces and without the request's content."""

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
