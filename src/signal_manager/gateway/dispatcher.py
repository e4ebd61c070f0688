"""One table from request type to handler.

The state machine has decided that the request is allowed now. The handler awaits what it needs and returns the reply.
A new request type needs a handler here; importing this module fails while one is missing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, Literal

import msgspec

from signal_manager.auth.authenticators import Authenticator
from signal_manager.bus.base import Delivery, Messaging
from signal_manager.errors import (
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    SignalManagerError,
    TooLargeError,
    UnavailableError,
)
from signal_manager.model import Caller, ClientId, SessionId, hash_token, new_session_id, taken_up_at
from signal_manager.observe.tracing import Tracing
from signal_manager.protocol.catalogue import SPECS, Handling, Spec, spec_of
from signal_manager.protocol.messages import (
    MAX_METADATA,
    PROTOCOL_VERSION,
    Connect,
    DataChannelsNew,
    IceServers,
    Message,
    MetadataUpdate,
    Register,
    RegisterAck,
    Renegotiate,
    RoomCreate,
    RoomJoin,
    RoomLeave,
    RoomState,
    Signal,
    SignalAck,
    SignalMessage,
    TokenRenew,
    TracksClose,
    TracksMute,
    TracksNew,
    TracksUpdate,
    Unregister,
    UnregisterAck,
)
from signal_manager.records.registrations import Registrations
from signal_manager.rooms import RoomService

__all__ = ["Dispatcher", "acknowledgement", "check_handlers"]

# Called with the answer to a signal's sender, or None if the sender gets no answer.
Later = Callable[[SignalAck | SignalManagerError | None], None]


def acknowledgement(
    target: str, result: Delivery | SignalManagerError, *, wants_ack: bool
) -> SignalAck | SignalManagerError | None:
    """Return the answer to the sender of a signal to one client; None if the sender gets no answer."""
    if isinstance(result, SignalManagerError):
        return result
    if result is Delivery.OFFLINE:
        return NotFoundError(f"client {target} is not connected", details={"target_client_id": target})
    return SignalAck(status=result, target_client_id=target) if wants_ack else None


class Dispatcher:
    """Answer requests.

    Args:
        authenticator: checks the credentials of CONNECT, and of requests that carry a token of their own.
        bus: delivers signals.
        registrations: keeps client records.
        rooms: answers requests about rooms; None for a service without them.
        tracing: records a span for every request; None for no tracing.
        far: replaces `authenticator` for clients that may be on another machine.
    """

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        bus: Messaging,
        registrations: Registrations,
        rooms: RoomService | None = None,
        tracing: Tracing | None = None,
        far: Authenticator | None = None,
    ) -> None:
        self._near, self._far = authenticator, far or authenticator
        self._bus = bus
        self._registrations = registrations
        self._rooms = rooms
        self._tracing = tracing

    async def admit(self, connect: Connect, *, is_near: bool = True) -> Caller:
        """Check CONNECT's credentials and open a session.

        Args:
            connect: the client's CONNECT.
            is_near: whether the client is certain to be on this machine.

        Raises:
            AuthenticationError: the credentials are wrong.
            UnavailableError: the authenticator does not answer.
        """
        identity = await self.door(is_near=is_near).authenticate(ClientId(connect.client_id), connect.auth_token)
        now = time.time_ns() // 1_000_000
        # A client that reconnects by itself keeps the time at which its user took it up, but never one in the future.
        since = now if connect.resume is None else min(taken_up_at(connect.resume.session_id), now)
        return Caller(identity, new_session_id(since), hash_token(connect.auth_token))

    def door(self, *, is_near: bool) -> Authenticator:
        """Return what checks the credentials of a client."""
        return self._near if is_near else self._far

    async def renew(self, caller: Caller, token: str, *, is_near: bool = True) -> Caller:
        """Check another token of the same client; return the same session with the grants of that token.

        Raises: as `admit`.
        """
        identity = await self.door(is_near=is_near).authenticate(caller.identity.client_id, token)
        return Caller(identity, caller.session_id, hash_token(token))

    @property
    def rooms(self) -> RoomService:
        """The part that answers requests about rooms."""
        if self._rooms is None:
            raise InvalidRequestError("this service has no rooms")
        return self._rooms

    def left(self, caller: Caller, reason: str) -> None:
        """Take a session that has ended out of its room, at once, so that its client can return at once."""
        if self._rooms is not None:
            self._rooms.session_ended(caller, reason)

    def is_in_room(self, session_id: SessionId) -> bool:
        """Return whether a session is in a room, or is joining or leaving one."""
        return self._rooms is not None and self._rooms.room_of(session_id) is not None

    def mark(self, session_id: SessionId, *, is_away: bool) -> None:
        """Tell the members of a session's room that its client is away, or back."""
        if self._rooms is not None:
            self._rooms.set_away(session_id, is_away=is_away)

    def has_record(self, caller: Caller) -> bool:
        """Tell whether a session has a record, for `depart` to update."""
        return self._registrations.is_registered(caller.session_id)

    async def depart(self, caller: Caller) -> None:
        """Update the record of a session that has ended."""
        await self._registrations.end_session(caller)

    async def release(self, caller: Caller) -> bool:
        """Mark the client's record offline; return whether a record exists, for `adopt`."""
        if not self._registrations.is_registered(caller.session_id):
            return False
        await self._registrations.end_session(caller)
        return True

    def hand_over(self, caller: Caller) -> bool:
        """Give up a session that continues at another node; return whether it has a record, for `adopt` there.

        The session leaves its room, and the client is told so, because its media session stays here.
        """
        self.left(caller, "restarting")
        return self._registrations.disown(caller.session_id)

    async def adopt(self, caller: Caller) -> None:
        """Mark the record of a client online again, for its session on this node."""
        await self._registrations.adopt(caller)

    async def restart_rooms(self) -> None:
        """Take all members of this process out of their rooms in order, and tell them the reason."""
        if self._rooms is not None:
            await self._rooms.empty()

    async def answer(self, caller: Caller, request: Message) -> Message:
        """Return the reply to `request`.

        Raises:
            SignalManagerError: the refusal to send instead.
        """
        if self._tracing is None:
            return await self._answer(caller, request)
        with self._tracing.request(
            spec_of(request).message_type.name,
            client_id=caller.identity.client_id,
            session_id=caller.session_id,
            room_id=getattr(request, "room_id", None),
        ):
            return await self._answer(caller, request)

    async def _answer(self, caller: Caller, request: Message) -> Message:
        token = getattr(request, "auth_token", None)
        if token:  # a request may repeat the credentials, which must be right then
            caller = await self.renew(caller, token)
        return await _HANDLERS[type(request)](self, caller, request)

    def relay(
        self, caller: Caller, signal: Signal, message_id: bytes, *, later: Later
    ) -> SignalAck | Literal[Delivery.PENDING] | None:
        """Relay a signal, and return the acknowledgement if its sender asked for one.

        PENDING means that the signal is on its way to other nodes: `later` is called once with the answer.

        Raises:
            NotFoundError: the target is on no node.
            TooLargeError, InvalidRequestError: the target cannot receive this signal.
            UnavailableError: the target may be on another node, and no other node can be reached.
        """
        outgoing = msgspec.structs.replace(signal, sender_client_id=caller.identity.client_id, ack=False)
        if isinstance(signal, SignalMessage) and signal.room_id is not None:
            return self._relay_to_room(caller, signal.room_id, outgoing, message_id, wants_ack=signal.ack, later=later)
        target, wants_ack = ClientId(signal.target_client_id or ""), signal.ack

        def told(result: Delivery | SignalManagerError) -> None:
            later(acknowledgement(target, result, wants_ack=wants_ack))

        result = self._bus.send(target, outgoing, message_id, outcome=told)
        if result is Delivery.PENDING:
            return Delivery.PENDING
        ack = acknowledgement(target, result, wants_ack=wants_ack)
        if isinstance(ack, SignalManagerError):
            raise ack
        return ack

    def _relay_to_room(
        self, caller: Caller, room_id: str, outgoing: Signal, message_id: bytes, *, wants_ack: bool, later: Later
    ) -> SignalAck | Literal[Delivery.PENDING] | None:
        """Relay a signal to all other members that the sender may signal; one failure does not stop the others."""
        if self._rooms is None:
            raise NotFoundError(f"not in room {room_id}")
        best = Delivery.OFFLINE
        waiting = 0

        def take(result: Delivery | SignalManagerError) -> None:
            nonlocal best
            if isinstance(result, Delivery) and best is not Delivery.DELIVERED and result is not Delivery.OFFLINE:
                best = result

        def told(result: Delivery | SignalManagerError) -> None:
            nonlocal waiting
            take(result)
            waiting -= 1
            if not waiting:
                later(SignalAck(status=best) if wants_ack else None)

        for target in self._rooms.others(caller, room_id):
            if not caller.identity.grants.may_signal(target):
                continue
            try:
                result = self._bus.send(target, outgoing, message_id, outcome=told)
            except (TooLargeError, InvalidRequestError, RateLimitedError, UnavailableError):
                continue  # the member's framing, shape or buffer has no room for it, or its node cannot be reached
            if result is Delivery.PENDING:
                waiting += 1
            else:
                take(result)
        if waiting:
            return Delivery.PENDING
        return SignalAck(status=best) if wants_ack else None

    async def _register(self, caller: Caller, request: Register) -> Message:
        size = len(msgspec.json.encode(request.metadata or {}))
        if size > MAX_METADATA:
            raise TooLargeError(f"metadata is {size} bytes of JSON, expected at most {MAX_METADATA}")
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
        if self._rooms is not None:
            await self._rooms.leave_room(caller)
        await self._registrations.unregister(caller)
        return UnregisterAck(version=PROTOCOL_VERSION, status=200, message="unregistered", client_id=client_id)


_Handler = Callable[[Dispatcher, Caller, Any], Awaitable[Message]]


def _of_rooms(method: Callable[[RoomService], Callable[[Caller, Any], Awaitable[Message]]]) -> _Handler:
    async def handler(dispatcher: Dispatcher, caller: Caller, request: Any) -> Message:
        return await method(dispatcher.rooms)(caller, request)

    return handler


_HANDLERS: dict[type[Message], _Handler] = {
    Register: Dispatcher._register,
    Unregister: Dispatcher._unregister,
    RoomCreate: _of_rooms(lambda rooms: rooms.entry.create),
    RoomJoin: _of_rooms(lambda rooms: rooms.entry.join),
    RoomLeave: _of_rooms(lambda rooms: rooms.entry.leave),
    RoomState: _of_rooms(lambda rooms: rooms.members.state),
    MetadataUpdate: _of_rooms(lambda rooms: rooms.members.update_metadata),
    TracksNew: _of_rooms(lambda rooms: rooms.members.change_tracks),
    Renegotiate: _of_rooms(lambda rooms: rooms.members.renegotiate),
    TracksClose: _of_rooms(lambda rooms: rooms.members.close_tracks),
    TracksMute: _of_rooms(lambda rooms: rooms.members.mute_tracks),
    TracksUpdate: _of_rooms(lambda rooms: rooms.members.update_tracks),
    DataChannelsNew: _of_rooms(lambda rooms: rooms.members.open_channels),
    IceServers: _of_rooms(lambda rooms: rooms.members.ice_servers),
}


def check_handlers(specs: Iterable[Spec], handlers: Collection[type[Message]]) -> None:
    """Check that every request of the catalogue has a handler, and nothing else has one.

    Raises:
        TypeError: a request has no handler, or a handler belongs to a message that is no request.
    """
    requests = {spec.struct for spec in specs if spec.handling is Handling.REQUEST} - {TokenRenew}
    if missing := requests - set(handlers):
        raise TypeError(f"requests without a handler: {', '.join(sorted(each.__name__ for each in missing))}")
    if extra := set(handlers) - requests:
        raise TypeError(f"handlers for messages that are no requests: {', '.join(sorted(e.__name__ for e in extra))}")


# The conversation itself answers TOKEN_RENEW (`gateway/conversation.py`). All other requests of the catalogue are here.
check_handlers(SPECS.values(), _HANDLERS)
