"""The management interface under /api/v1: sessions, clients and rooms, and the actions of operators.

`access.py` guards it, `lists.py` searches, and `views.py` has the shapes of requests and responses. `application.py`
turns errors into responses.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.security import HTTPBearer

from signal_manager.admin import lists
from signal_manager.admin.cluster import ClusterSessions
from signal_manager.admin.tokens import TokenIssuer, require_issuer
from signal_manager.admin.views import (
    ClientDetails,
    ClientView,
    Close,
    Delivered,
    Done,
    ErrorView,
    Failure,
    NewMessage,
    NewMetadata,
    NewToken,
    PageOf,
    RoomDetails,
    RoomView,
    SessionView,
    Token,
    Version,
)
from signal_manager.bus.base import Delivery, Messaging
from signal_manager.errors import (
    InvalidRequestError,
    NotFoundError,
    SignalManagerError,
    TooLargeError,
    UnavailableError,
)
from signal_manager.gateway.live_sessions import LiveSessions
from signal_manager.model import ClientId, NodeId, RoomId
from signal_manager.protocol.messages import SignalMessage
from signal_manager.rooms import RoomService
from signal_manager.storage.base import Storage

__all__ = ["OPERATOR", "Management", "api"]

log = structlog.get_logger(__name__)

# The sender of an operator's messages. No token is issued for this client: its holder could pass for an operator.
OPERATOR = ClientId("~operator")
_LARGEST_PAGE = 500


@dataclass(frozen=True, kw_only=True)
class Management:
    """The parts of the service that an operator sees and controls.

    `configuration` is section → key → value with secrets hidden. `tokens` is None if the service does not accept the
    tokens that it could sign.
    """

    live_sessions: LiveSessions
    storage: Storage
    rooms: RoomService
    bus: Messaging
    cluster: ClusterSessions
    tokens: TokenIssuer | None
    configuration: Mapping[str, Mapping[str, Any]]
    node_id: NodeId
    version: str
    has_demo: bool = False
    started_at: float = field(default_factory=time.monotonic)

    async def deliver(self, client_id: ClientId, message: SignalMessage) -> Delivery:
        """Send a message to a client on any node and return the delivery; raises the errors of `Messaging.send`."""
        later: asyncio.Future[Delivery | SignalManagerError] = asyncio.get_running_loop().create_future()
        delivery = self.bus.send(client_id, message, outcome=later.set_result)
        result = await later if delivery is Delivery.PENDING else delivery
        if isinstance(result, SignalManagerError):
            raise result
        return result

    async def send(self, client_id: ClientId, message: SignalMessage) -> bool:
        """Send a message to a client; return whether it was delivered."""
        try:
            return await self.deliver(client_id, message) is Delivery.DELIVERED
        except (InvalidRequestError, TooLargeError, UnavailableError):
            return False


async def _management(request: Request) -> Management:
    management: Management = request.app.state.management
    return management


_Manage = Annotated[Management, Depends(_management)]
# An invalid name is not found, like any other unknown name.
_Name = Annotated[str, Path(max_length=128)]
_After = Annotated[str | None, Query(max_length=300, description="`next` of the page before.")]
_Limit = Annotated[int, Query(ge=1, le=_LARGEST_PAGE, description="Items of one page.")]
_Contains = Annotated[str, Query(max_length=128, description="Only ids that contain this text.")]

api = APIRouter(
    prefix="/api/v1",
    # access.py checks the token. This makes Swagger UI offer to send one.
    dependencies=[Depends(HTTPBearer(auto_error=False, description="`admin.token`, where one is set."))],
    responses={status: {"model": Failure} for status in (400, 401, 403, 404)},
)


# -- sessions ----------------------------------------------------------------------------------------------------


@api.get("/sessions", tags=["sessions"])
async def list_sessions(
    management: _Manage,
    client_id: Annotated[str | None, Query(max_length=128, description="Only this client's.")] = None,
    contains: _Contains = "",
    after: _After = None,
    limit: _Limit = 100,
) -> PageOf[SessionView]:
    """List the sessions on all nodes."""
    return await management.cluster.sessions(client_id=client_id, contains=contains, after=after or "", limit=limit)


@api.get("/sessions/{session_id}", tags=["sessions"])
async def show_session(management: _Manage, session_id: _Name) -> SessionView:
    """Show one session."""
    session = await management.cluster.session(session_id)
    if session is None:
        raise NotFoundError(f"no such session: {session_id}")
    return session


@api.post("/sessions/{session_id}/disconnect", tags=["sessions"])
async def disconnect_session(management: _Manage, session_id: _Name) -> Done:
    """End one session. Its client does not come back by itself."""
    if not await management.cluster.end(session_id=session_id):
        raise NotFoundError(f"no such session: {session_id}")
    log.info("session disconnected by an operator", session_id=session_id)
    return Done(ended=1)


# -- clients -----------------------------------------------------------------------------------------------------


@api.get("/clients", tags=["clients"])
async def list_clients(
    management: _Manage,
    is_connected: Annotated[bool | None, Query(description="Only clients that are, or are not, connected.")] = None,
    contains: _Contains = "",
    after: _After = None,
    limit: _Limit = 100,
) -> PageOf[ClientView]:
    """List the clients that are connected or have a record."""
    return await lists.list_clients(
        management.cluster,
        management.storage,
        is_connected=is_connected,
        contains=contains,
        after=after,
        limit=limit,
    )


@api.get("/clients/{client_id}", tags=["clients"])
async def show_client(management: _Manage, client_id: _Name) -> ClientDetails:
    """Show one client with its sessions."""
    record = await management.storage.get_client(ClientId(client_id))
    sessions = await management.cluster.sessions_of(client_id)
    if record is None and not sessions:
        raise NotFoundError(f"no such client: {client_id}")
    return ClientDetails.from_record(client_id, record, sessions)


@api.post("/clients/{client_id}/disconnect", tags=["clients"])
async def disconnect_client(management: _Manage, client_id: _Name) -> Done:
    """End all sessions of a client. It does not come back by itself, and its token stays valid."""
    ended = await management.cluster.end(client_id=client_id)
    if not ended:
        raise NotFoundError(f"client {client_id} is not connected")
    log.info("client disconnected by an operator", client_id=client_id, sessions=ended)
    return Done(ended=ended)


@api.post("/clients/{client_id}/messages", tags=["clients"])
async def send_to_client(management: _Manage, client_id: _Name, message: NewMessage) -> Delivered:
    """Send a client a SIGNAL_MESSAGE from `~operator`."""
    signal = SignalMessage(sender_client_id=OPERATOR, target_client_id=client_id, signal_data=message.data)
    if await management.deliver(ClientId(client_id), signal) is Delivery.OFFLINE:
        raise NotFoundError(f"client {client_id} is not connected")
    return Delivered(delivered=1, undelivered=0)


# -- rooms -------------------------------------------------------------------------------------------------------


@api.get("/rooms", tags=["rooms"])
async def list_rooms(
    management: _Manage,
    is_active: Annotated[bool | None, Query(description="Only active, or only closed rooms.")] = None,
    contains: _Contains = "",
    after: _After = None,
    limit: _Limit = 100,
) -> PageOf[RoomView]:
    """List the rooms that have a record."""
    return await lists.list_rooms(management.storage, is_active=is_active, contains=contains, after=after, limit=limit)


@api.get("/rooms/{room_id}", tags=["rooms"])
async def show_room(management: _Manage, room_id: _Name) -> RoomDetails:
    """Show one room with its members and their tracks."""
    room = await management.storage.get_room(RoomId(room_id))
    if room is None:
        raise NotFoundError(f"no such room: {room_id}")
    return RoomDetails.from_record(room)


@api.post("/rooms/{room_id}/close", tags=["rooms"])
async def close_room(management: _Manage, room_id: _Name, close: Close) -> Done:
    """Close a room and remove its members."""
    await management.rooms.close(RoomId(room_id), close.reason)
    log.info("room closed by an operator", room_id=room_id)
    return Done(ended=1)


@api.patch("/rooms/{room_id}", tags=["rooms"])
async def describe_room(management: _Manage, room_id: _Name, wanted: NewMetadata) -> RoomDetails:
    """Replace a room's metadata and tell its members."""
    await management.rooms.describe(RoomId(room_id), None, wanted.metadata)
    log.info("room metadata changed by an operator", room_id=room_id)
    return await show_room(management, room_id)


@api.patch("/rooms/{room_id}/participants/{client_id}", tags=["rooms"])
async def describe_participant(
    management: _Manage, room_id: _Name, client_id: _Name, wanted: NewMetadata
) -> RoomDetails:
    """Replace a member's metadata and tell all members."""
    await management.rooms.describe(RoomId(room_id), ClientId(client_id), wanted.metadata)
    log.info("participant metadata changed by an operator", room_id=room_id, client_id=client_id)
    return await show_room(management, room_id)


@api.post("/rooms/{room_id}/participants/{client_id}/remove", tags=["rooms"])
async def remove_participant(management: _Manage, room_id: _Name, client_id: _Name) -> Done:
    """Remove a member from a room; its connection stays."""
    await management.rooms.evict(RoomId(room_id), ClientId(client_id))
    log.info("participant removed by an operator", room_id=room_id, client_id=client_id)
    return Done(ended=1)


@api.post("/rooms/{room_id}/messages", tags=["rooms"])
async def send_to_room(management: _Manage, room_id: _Name, message: NewMessage) -> Delivered:
    """Send all members of a room a SIGNAL_MESSAGE from `~operator`."""
    room = await management.storage.get_room(RoomId(room_id))
    if room is None or not room.is_active:
        raise NotFoundError(f"no such room: {room_id}")
    signal = SignalMessage(sender_client_id=OPERATOR, room_id=room_id, signal_data=message.data)
    sent = await asyncio.gather(*(management.send(each.client_id, signal) for each in room.participants))
    return Delivered(delivered=sum(sent), undelivered=len(sent) - sum(sent))


# -- the service -------------------------------------------------------------------------------------------------


@api.post("/tokens", tags=["service"])
async def issue_token(management: _Manage, wanted: NewToken) -> Token:
    """Issue a signed token."""
    issuer = require_issuer(management.tokens)
    issued = issuer.issue(ClientId(wanted.client_id), ttl=wanted.ttl, grants=wanted.grants())
    log.info("token issued by an operator", client_id=wanted.client_id, expires_at=issued.expires_at)
    return Token(client_id=wanted.client_id, token=issued.token, expires_at=issued.expires_at)


@api.get("/version", tags=["service"])
async def show_version(management: _Manage) -> Version:
    """Show the version, uptime and phase of the service."""
    return Version(
        version=management.version,
        node_id=management.node_id,
        uptime=round(time.monotonic() - management.started_at, 1),
        phase=management.live_sessions.phase,
        has_demo=management.has_demo,
    )


@api.get("/configuration", tags=["service"])
async def show_configuration(management: _Manage) -> dict[str, dict[str, Any]]:
    """Show every setting in effect, with secrets hidden."""
    return {section: dict(values) for section, values in management.configuration.items()}


@api.get("/errors", tags=["service"])
async def list_errors(management: _Manage) -> list[ErrorView]:
    """List the latest errors that the service sent to clients, newest first."""
    return [ErrorView.of(error) for error in reversed(tuple(management.live_sessions.recent_errors))]
