"""The SFU over HTTP: its interface (`api.py`), a status page, and metrics, as an ASGI application."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from signal_manager.sfu.api import LOST, Api, Call, LostBodyError, Reply, ServedSfu
from signal_manager.sfu.errors import RefusedError
from signal_manager.sfu.metrics import SfuCollector
from signal_manager.sfu.status import render_status

__all__ = ["LostResponse", "create_app", "response_of"]


class LostResponse(Response):
    """A response that never gets through: the body it announces does not come, so the server cuts the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Announce a byte, and send none."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})


def create_app(sfu: ServedSfu, api: Api) -> Starlette:
    """Return the SFU as an application to serve or to mount."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SfuCollector(sfu.counters, sfu.gauges))

    async def status(request: Request) -> Response:
        return HTMLResponse(render_status(sfu.gauges(), list(sfu.sessions.values()), tick=sfu.settings.tick))

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def call(request: Request) -> Response:
        async def body() -> bytes:
            return await _body(request, sfu.settings.max_body)

        reply = await api.call(
            Call(
                method=request.method,
                path=f"/{request.path_params['path']}",
                authorization=request.headers.get("authorization", ""),
                fault=request.headers.get("x-fault", ""),
                correlation_id=request.query_params.get("correlationId", ""),
                body=body,
            )
        )
        return response_of(reply)

    return Starlette(
        routes=[
            Route("/", status, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            Route("/{path:path}", call, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ]
    )


def response_of(reply: Reply) -> Response:
    """Return a reply as a response."""
    if reply is LOST:
        return LostResponse()
    return Response(reply.body, reply.status, {"vary": "Origin"}, "application/json")


async def _body(request: Request, limit: int) -> bytes:
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise RefusedError(413, "payload_too_large", f"the body is larger than {limit} bytes")
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise LostBodyError from error
    return b"".join(chunks)
