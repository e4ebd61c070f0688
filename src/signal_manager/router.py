"""Who answers a request: one table from message type to handler.

The session has decided that the request may come now; the handler awaits what it needs and returns the reply.
A new request type takes a handler and a row in `_ROUTES`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec

from signal_manager.auth import Authenticator
from signal_manager.bus.base import Bus, Delivery
from signal_manager.errors import InvalidRequestError, NotFoundError
from signal_manager.model import ClientId, SessionId, hash_token
from signal_manager.protocol.messages import (
    PROTOCOL_VERSION,
    Connect,
    Message,
    Register,
    RegisterAck,
    Signal,
    SignalAck,
    SignalMessage,
    Unregister,
    UnregisterAck,
)
from signal_manager.registrations import Caller, Registrations

__all__ = ["Router"]


class Router:
    """Answer requests.

    Args:
        authenticator: checks the credentials of CONNECT, and of requests that carry a token of their own.
        bus: reaches other clients.
        registrations: keeps what clients put on record.
    """

    def __init__(self, *, authenticator: Authenticator, bus: Bus, registrations: Registrations) -> None:
        self._authenticator = authenticator
        self._bus = bus
        self._registrations = registrations

    async def admit(self, connect: Connect) -> Caller:
        """Check CONNECT's credentials and open a session.

        Raises:
            AuthenticationError: they are wrong.
            UnavailableError: what checks them does not answer.
        """
        identity = await self._authenticator.authenticate(ClientId(connect.client_id), connect.auth_token)
        return Caller(identity, SessionId(str(uuid4())), hash_token(connect.auth_token))

    async def depart(self, caller: Caller) -> None:
        """Clean up after a session that has ended, however it ended."""
        await self._registrations.end_session(caller)

    async def answer(self, caller: Caller, request: Message) -> Message:
        """Return the reply to `request`.

        Raises:
            SignalManagerError: the refusal to send instead.
        """
        route = _ROUTES.get(type(request))
        if route is None:
            raise InvalidRequestError("this service does not answer such requests")
        token = getattr(request, "auth_token", None)
        if token:  # a request may repeat the credentials; then they must be right
            identity = await self._authenticator.authenticate(caller.identity.client_id, token)
            caller = Caller(identity, caller.session_id, hash_token(token))
        return await route.handler(self, caller, request)

    def is_exclusive(self, request: Message) -> bool:
        """Tell whether the connection's later messages must wait for the reply to this one."""
        route = _ROUTES.get(type(request))
        return route is not None and route.exclusive

    def relay(self, caller: Caller, signal: Signal, message_id: bytes) -> SignalAck | None:
        """Pass a signal on, and return the acknowledgement that its sender asked for.

        Raises:
            NotFoundError: nobody holds the target.
            TooLargeError, InvalidRequestError: the target cannot be sent this.
        """
        if isinstance(signal, SignalMessage) and signal.room_id is not None:
            raise NotFoundError("no such room")
        target = ClientId(signal.target_client_id or "")
        outgoing = msgspec.structs.replace(signal, sender_client_id=caller.identity.client_id, ack=False)
        if self._bus.send(target, outgoing, message_id) is Delivery.OFFLINE:
            raise NotFoundError(f"client {target} is not connected", details={"target_client_id": target})
        return SignalAck(status=Delivery.DELIVERED, target_client_id=target) if signal.ack else None

    async def _register(self, caller: Caller, request: Register) -> Message:
        await self._registrations.register(
            caller, capabilities=request.capabilities or (), metadata=request.metadata or {}
        )
        return RegisterAck(
            version=PROTOCOL_VERSION,
            status=200,
            message="registered",
            client_id=caller.identity.client_id,
            session_id=caller.session_id,
        )

    async def _unregister(self, caller: Caller, request: Unregister) -> Message:
        client_id = caller.identity.client_id
        await self._registrations.unregister(caller)
        return UnregisterAck(version=PROTOCOL_VERSION, status=200, message="unregistered", client_id=client_id)


class _Route(NamedTuple):
    handler: Callable[[Router, Caller, Any], Awaitable[Message]]
    exclusive: bool


_ROUTES: dict[type[Message], _Route] = {
    Register: _Route(Router._register, exclusive=True),
    Unregister: _Route(Router._unregister, exclusive=True),
}
