"""The HTTP interface: Cloudflare Realtime's endpoints (all but the websocket adapters) as an ASGI application.

`service.py` owns the sessions, `wire.py` defines the JSON, and `faults.py` injects faults. Every error response has
Cloudflare's shape, `{"errorCode", "errorDescription"}`.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from signal_manager.sfu.capacity import Load
from signal_manager.sfu.errors import ItemError, RefusedError, decoding_error, gone
from signal_manager.sfu.faults import Faults, Plan
from signal_manager.sfu.metrics import Counters, Gauges, SfuCollector
from signal_manager.sfu.sessions import Session
from signal_manager.sfu.settings import SfuSettings
from signal_manager.sfu.status import render_status
from signal_manager.sfu.wire import (
    ChannelsRequest,
    ChannelsResponse,
    CloseRequest,
    DataChannelObject,
    Empty,
    ErrorResponse,
    EstablishRequest,
    LoadResponse,
    NewSessionRequest,
    NewSessionResponse,
    RenegotiateRequest,
    TracksRequest,
    TracksResponse,
    UpdateRequest,
)

__all__ = ["LostResponse", "ServedSfu", "create_app", "failed", "room_of"]

_log = structlog.get_logger(__name__)

_Body = TypeVar("_Body", bound=msgspec.Struct)

_encode = msgspec.json.Encoder().encode
_PARTIAL = ItemError("retryable_transient_error", "this fault was injected on purpose")


class ServedSfu(Protocol):
    """An SFU as its HTTP interface sees it."""

    app_id: str
    app_secret: str
    settings: SfuSettings
    faults: Faults
    counters: Counters
    load: Load

    @property
    def sessions(self) -> Mapping[str, Session]:
        """All sessions, by id."""

    def open_session(self, room: str = "") -> Session:
        """Return a new session, for a room if that is known."""

    def gauges(self) -> Gauges:
        """Return the present numbers of sessions, tracks and channels."""


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """One operation on a session."""

    name: str
    method: str
    path: str
    run: Callable[[Session, Any], Awaitable[msgspec.Struct]]
    body: type[msgspec.Struct] | None = None


class LostResponse(Response):
    """A response that is lost: it announces a body and sends none, so the server cuts the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Announce one byte, and send none."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})


def create_app(sfu: ServedSfu) -> Starlette:
    """Return the SFU as an application to serve or to mount.

    Cloudflare's base URL ends in /v1; some of its own applications leave that out, so both work.
    """
    api = _Api(sfu)
    routes = [Route("/", api.status, methods=["GET"]), Route("/metrics", api.metrics, methods=["GET"])]
    for prefix in ("/v1", ""):
        sessions = f"{prefix}/apps/{{app_id}}/sessions"
        routes.append(Route(f"{sessions}/new", api.new_session, methods=["POST"]))
        routes += [
            Route(f"{sessions}/{{session_id}}{endpoint.path}", api.handler(endpoint), methods=[endpoint.method])
            for endpoint in api.endpoints(sfu)
        ]
        turn = f"{prefix}/turn/keys/{{key_id}}/credentials/generate-ice-servers"
        routes.append(Route(turn, api.ice_servers, methods=["POST"]))
        routes.append(Route(f"{prefix}/apps/{{app_id}}/load", api.load, methods=["GET"]))
    return Starlette(routes=routes, exception_handlers={HTTPException: _not_found})


async def _not_found(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return failed(RefusedError(status, "not_found", "there is no such endpoint"))


def _json(status: int, body: msgspec.Struct) -> Response:
    return Response(_encode(body), status, {"vary": "Origin"}, "application/json")


def failed(error: RefusedError) -> Response:
    """Return the response for a refusal, in Cloudflare's form."""
    return _json(error.status, ErrorResponse(error_code=error.error_code, error_description=error.message))


def room_of(correlation_id: str) -> str:
    """Return the room of a session: the part of its correlationId before the slash."""
    return correlation_id.partition("/")[0][:256]


class _Api:
    """The endpoints of one SFU."""

    def __init__(self, sfu: ServedSfu) -> None:
        self._sfu = sfu
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(SfuCollector(sfu.counters, sfu.gauges))

    # -- pages ---------------------------------------------------------------------------------------------------------

    async def status(self, request: Request) -> Response:
        """Serve the status page."""
        sfu = self._sfu
        return HTMLResponse(render_status(sfu.gauges(), list(sfu.sessions.values()), tick=sfu.settings.tick))

    async def metrics(self, request: Request) -> Response:
        """Serve the metrics in Prometheus' text format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    async def ice_servers(self, request: Request) -> Response:
        """Answer like Cloudflare's TURN service, with no server: one machine needs none."""
        return Response(b'{"iceServers":[]}', 201, {"vary": "Origin"}, "application/json")

    async def load(self, request: Request) -> Response:
        """Return the load of this SFU, for the process in front of several workers."""

        async def run(plan: Plan) -> Response:
            load = self._sfu.load
            rooms = sorted({session.room for session in self._sfu.sessions.values() if session.room})
            return _json(200, LoadResponse(packets_per_second=load.packets_per_second, busy=load.busy, rooms=rooms))

        return await self._respond("load", request, run)

    # -- sessions ------------------------------------------------------------------------------------------------------

    async def new_session(self, request: Request) -> Response:
        """Open a session, and answer the request's offer if there is one."""

        async def run(plan: Plan) -> Response:
            body = await self._body(request)
            description = _decode(body, NewSessionRequest).session_description if body else None
            session = self._sfu.open_session(room_of(request.query_params.get("correlationId", "")))
            answer = session.requests.negotiate_only(description) if description is not None else None
            return _json(201, NewSessionResponse(session_id=session.id, session_description=answer))

        return await self._respond("sessions/new", request, run)

    def handler(self, endpoint: _Endpoint) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler of one operation."""

        async def handle(request: Request) -> Response:
            async def run(plan: Plan) -> Response:
                session = self._sfu.sessions.get(request.path_params["session_id"])
                if session is None:
                    raise gone("could not find the session: it expired, or never was")
                session.admit(time.monotonic())
                body: msgspec.Struct = Empty()
                if endpoint.body is not None:
                    body = _decode(await self._body(request), endpoint.body)
                if plan.is_partial and isinstance(body, TracksRequest | CloseRequest | UpdateRequest):
                    return _json(200, await _partial(endpoint, session, body))
                return _json(200, await endpoint.run(session, body))

            return await self._respond(endpoint.name, request, run)

        return handle

    def endpoints(self, sfu: ServedSfu) -> list[_Endpoint]:
        """Return the operations on a session (cf. Cloudflare's OpenAPI description)."""

        async def renegotiate(session: Session, body: RenegotiateRequest) -> Empty:
            return Empty(session_description=await session.requests.renegotiate(body.session_description))

        async def new_tracks(session: Session, body: TracksRequest) -> TracksResponse:
            return await session.requests.open(body)

        async def close_tracks(session: Session, body: CloseRequest) -> TracksResponse:
            return await session.requests.close(body)

        async def update_tracks(session: Session, body: UpdateRequest) -> TracksResponse:
            return await session.requests.update(body)

        async def state(session: Session, body: Empty) -> msgspec.Struct:
            return session.state()

        async def new_channels(session: Session, body: ChannelsRequest) -> ChannelsResponse:
            await session.ready_for_channels()
            return _each_channel(body, lambda item: _open_channel(sfu, session, item))

        async def update_channels(session: Session, body: ChannelsRequest) -> ChannelsResponse:
            return _each_channel(body, session.channels.update)

        async def close_channels(session: Session, body: ChannelsRequest) -> ChannelsResponse:
            return _each_channel(body, session.channels.close)

        return [
            _Endpoint("state", "GET", "", state),
            _Endpoint("tracks/new", "POST", "/tracks/new", new_tracks, TracksRequest),
            _Endpoint("renegotiate", "PUT", "/renegotiate", renegotiate, RenegotiateRequest),
            _Endpoint("tracks/close", "PUT", "/tracks/close", close_tracks, CloseRequest),
            _Endpoint("tracks/update", "PUT", "/tracks/update", update_tracks, UpdateRequest),
            _Endpoint("datachannels/establish", "POST", "/datachannels/establish", Session.establish, EstablishRequest),
            _Endpoint("datachannels/new", "POST", "/datachannels/new", new_channels, ChannelsRequest),
            _Endpoint("datachannels/update", "PUT", "/datachannels/update", update_channels, ChannelsRequest),
            _Endpoint("datachannels/close", "PUT", "/datachannels/close", close_channels, ChannelsRequest),
        ]

    # -- around every request ------------------------------------------------------------------------------------------

    async def _respond(self, endpoint: str, request: Request, run: Callable[[Plan], Awaitable[Response]]) -> Response:
        """Carry out a request with the configured faults, and turn an exception into a response."""
        counters = self._sfu.counters
        error_code = ""
        try:
            self._authorize(request)
            plan = self._sfu.faults.plan(endpoint, request.headers.get("x-fault", ""))
            counters.faults += not plan.is_harmless
            await asyncio.sleep(plan.latency)
            if plan.is_cut:
                response: Response = LostResponse()
            elif plan.refusal is not None:
                raise plan.refusal
            else:
                response = await run(plan)
                if plan.is_lost:
                    response = LostResponse()
        except RefusedError as error:
            error_code, response = error.error_code, failed(error)
        except ClientDisconnect:
            response = LostResponse()
        except Exception:  # the connection's edge
            _log.exception("request failed", endpoint=endpoint)
            error_code = "internal_error"
            response = failed(RefusedError(500, error_code, "Backend error"))
        counters.requests[endpoint, response.status_code, error_code] += 1
        return response

    def _authorize(self, request: Request) -> None:
        if request.path_params["app_id"] != self._sfu.app_id:
            raise RefusedError(404, "not_found", "there is no app with this id")
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(secret.strip().encode(), self._sfu.app_secret.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise RefusedError(401, "unauthorized", "expected the app's secret as bearer token")

    async def _body(self, request: Request) -> bytes:
        limit = self._sfu.settings.max_body
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise RefusedError(413, "payload_too_large", f"expected a body of at most {limit} bytes")
            chunks.append(chunk)
        return b"".join(chunks)


def _decode(body: bytes, kind: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise decoding_error(f"JSON body validation error: {error}") from None


async def _partial(
    endpoint: _Endpoint, session: Session, body: TracksRequest | CloseRequest | UpdateRequest
) -> TracksResponse:
    """Carry out all items of a request but the first, which fails."""
    first, *body.tracks = body.tracks or []
    failed = [first.failed(_PARTIAL)]
    if not body.tracks:
        return TracksResponse(requires_immediate_renegotiation=False, tracks=failed)
    response = await endpoint.run(session, body)
    if not isinstance(response, TracksResponse):
        raise TypeError(f"{endpoint.name} has no items")
    response.tracks = failed + response.tracks
    return response


def _open_channel(sfu: ServedSfu, session: Session, item: DataChannelObject) -> DataChannelObject | ItemError:
    if item.location is None or item.data_channel_name is None:
        return ItemError("invalid_params", "expected a location and a dataChannelName")
    if item.location == "local":
        return session.channels.publish(item)
    publisher = sfu.sessions.get(item.session_id or "")
    return session.channels.subscribe(item, publisher.channels.named(item.data_channel_name) if publisher else None)


def _each_channel(
    body: ChannelsRequest, run: Callable[[DataChannelObject], DataChannelObject | ItemError]
) -> ChannelsResponse:
    answered = []
    for item in body.data_channels:
        result = run(item)
        if isinstance(result, ItemError):
            result = DataChannelObject(
                location=item.location,
                session_id=item.session_id,
                data_channel_name=item.data_channel_name,
                id=item.id,
                error_code=result.code,
                error_description=result.description,
            )
        answered.append(result)
    return ChannelsResponse(data_channels=answered)
