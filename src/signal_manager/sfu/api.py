"""Cloudflare Realtime's interface (all but the websocket adapters): a call in, its status and JSON out.

`http.py` serves it, and a service with the SFU in its own process calls it without HTTP. `wire.py` defines the JSON,
and `faults.py` injects faults. Every error has Cloudflare's shape, `{"errorCode", "errorDescription"}`.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
import structlog

from signal_manager.sfu.capacity import Load
from signal_manager.sfu.errors import ItemError, RefusedError, decoding_error, gone
from signal_manager.sfu.faults import Faults, Plan
from signal_manager.sfu.metrics import Counters, Gauges
from signal_manager.sfu.sessions import Session
from signal_manager.sfu.settings import SfuSettings
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

__all__ = ["LOST", "Api", "Call", "LostBodyError", "Reply", "ServedSfu", "failed", "room_of"]

_log = structlog.get_logger(__name__)

_Body = TypeVar("_Body", bound=msgspec.Struct)

_encode = msgspec.json.Encoder().encode
_PARTIAL = ItemError("retryable_transient_error", "this fault was injected on purpose")


class LostBodyError(Exception):
    """The caller went away before its whole body had come."""


async def _nothing() -> bytes:
    return b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call.

    `path` is decoded and has no query. `authorization` and `fault` are the headers Authorization and X-Fault, and
    `correlation_id` is the query's. `body` reads the body.
    """

    method: str
    path: str
    authorization: str = ""
    fault: str = ""
    correlation_id: str = ""
    body: Callable[[], Awaitable[bytes]] = _nothing


class Reply(NamedTuple):
    """A status and a JSON body."""

    status: int
    body: bytes


# What a caller gets whose reply is lost on the way.
LOST = Reply(200, b"")


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


def failed(error: RefusedError) -> Reply:
    """Return the reply for a refusal, in Cloudflare's form."""
    return _json(error.status, ErrorResponse(error_code=error.error_code, error_description=error.message))


def room_of(correlation_id: str) -> str:
    """Return the room of a session: the part of its correlationId before the slash."""
    return correlation_id.partition("/")[0][:256]


def _json(status: int, body: msgspec.Struct) -> Reply:
    return Reply(status, _encode(body))


class Api:
    """The calls of one SFU."""

    def __init__(self, sfu: ServedSfu) -> None:
        self._sfu = sfu
        self._endpoints = {(each.method, each.path): each for each in self._all_endpoints(sfu)}
        self._paths = {path for _, path in self._endpoints}

    async def call(self, call: Call) -> Reply:
        """Carry out a call; a reply that is `LOST` must not reach the caller.

        Cloudflare's base URL ends in /v1. Some of its own applications leave that out, so both work.
        """
        match call.path.removeprefix("/v1").split("/"):
            case ["", "apps", app_id, "sessions", "new"]:
                return await self._with_method(call, "POST", "sessions/new", app_id, self._new_session)
            case ["", "apps", app_id, "sessions", session_id, *rest]:
                return await self._on_session(call, app_id, session_id, "".join(f"/{part}" for part in rest))
            case ["", "apps", app_id, "load"]:
                return await self._with_method(call, "GET", "load", app_id, self._tell_load)
            case ["", "turn", "keys", _, "credentials", "generate-ice-servers"] if call.method == "POST":
                # As Cloudflare's TURN service answers: on one machine no server is needed.
                return Reply(201, b'{"iceServers":[]}')
            case _:
                return _NO_ENDPOINT

    async def _with_method(
        self, call: Call, method: str, name: str, app_id: str, run: Callable[[Call, Plan], Awaitable[Reply]]
    ) -> Reply:
        if call.method != method:
            return _WRONG_METHOD
        return await self._respond(name, call, app_id, run)

    async def _on_session(self, call: Call, app_id: str, session_id: str, path: str) -> Reply:
        endpoint = self._endpoints.get((call.method, path))
        if endpoint is None:
            return _WRONG_METHOD if path in self._paths else _NO_ENDPOINT

        async def run(call: Call, plan: Plan) -> Reply:
            session = self._sfu.sessions.get(session_id)
            if session is None:
                raise gone("could not find the session: it expired, or never was")
            session.admit(time.monotonic())
            body: msgspec.Struct = Empty()
            if endpoint.body is not None:
                body = _decode(await call.body(), endpoint.body)
            if plan.is_partial and isinstance(body, TracksRequest | CloseRequest | UpdateRequest):
                return _json(200, await _partial(endpoint, session, body))
            return _json(200, await endpoint.run(session, body))

        return await self._respond(endpoint.name, call, app_id, run)

    async def _new_session(self, call: Call, plan: Plan) -> Reply:
        """Open a session, and answer the request's offer if there is one."""
        body = await call.body()
        description = _decode(body, NewSessionRequest).session_description if body else None
        session = self._sfu.open_session(room_of(call.correlation_id))
        answer = session.requests.negotiate_only(description) if description is not None else None
        return _json(201, NewSessionResponse(session_id=session.id, session_description=answer))

    async def _tell_load(self, call: Call, plan: Plan) -> Reply:
        """Return the load of this SFU, for the process in front of several workers."""
        load = self._sfu.load
        rooms = sorted({session.room for session in self._sfu.sessions.values() if session.room})
        return _json(200, LoadResponse(packets_per_second=load.packets_per_second, busy=load.busy, rooms=rooms))

    async def _respond(
        self, name: str, call: Call, app_id: str, run: Callable[[Call, Plan], Awaitable[Reply]]
    ) -> Reply:
        """Carry a call out between the faults that were asked for, and turn what fails into a reply."""
        counters = self._sfu.counters
        error_code = ""
        try:
            self._authorize(call, app_id)
            plan = self._sfu.faults.plan(name, call.fault)
            if not plan.is_harmless:
                counters.faults += 1
                await asyncio.sleep(plan.latency)
            if plan.is_cut:
                reply = LOST
            elif plan.refusal is not None:
                raise plan.refusal
            else:
                reply = await run(call, plan)
                if plan.is_lost:
                    reply = LOST
        except RefusedError as error:
            error_code, reply = error.error_code, failed(error)
        except LostBodyError:
            reply = LOST
        except Exception:  # the connection's edge
            _log.exception("request failed", endpoint=name)
            error_code = "internal_error"
            reply = failed(RefusedError(500, error_code, "Backend error"))
        counters.requests[name, reply.status, error_code] += 1
        return reply

    def _authorize(self, call: Call, app_id: str) -> None:
        if app_id != self._sfu.app_id:
            raise RefusedError(404, "not_found", "no app of that id")
        scheme, _, secret = call.authorization.partition(" ")
        is_right = hmac.compare_digest(secret.strip().encode(), self._sfu.app_secret.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise RefusedError(401, "unauthorized", "expected the app's secret as bearer token")

    def _all_endpoints(self, sfu: ServedSfu) -> list[_Endpoint]:
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


def _decode(body: bytes, kind: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise decoding_error(f"JSON body validation error: {error}") from None


async def _partial(
    endpoint: _Endpoint, session: Session, body: TracksRequest | CloseRequest | UpdateRequest
) -> TracksResponse:
    """Carry out all of a request but its first item, which fails."""
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


_NO_ENDPOINT = failed(RefusedError(404, "not_found", "there is no such endpoint"))
_WRONG_METHOD = failed(RefusedError(405, "not_found", "there is no such endpoint"))
