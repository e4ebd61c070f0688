"""The client that applications use: connect, signal, join rooms, and hear events.

`link.py` keeps it connected. `events.py` has its events, and `callbacks.py` brings them to the application.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from ssl import SSLContext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar, overload
from uuid import uuid4

from signal_manager.client.arguments import (
    a_flag,
    a_name,
    a_text,
    a_time_limit,
    a_token,
    a_url,
    an_object,
    instance_of,
    maybe,
    refuse,
    texts,
    tracks_of,
)
from signal_manager.client.callbacks import EventStream
from signal_manager.client.departures import Departures
from signal_manager.client.dialer import DialSettings
from signal_manager.client.events import (
    Connected,
    Disconnected,
    ErrorReceived,
    Event,
    EventName,
    GoingAway,
    Reconnected,
    RoomEventReceived,
    SignalKind,
    SignalReceived,
    ToRoom,
)
from signal_manager.client.link import Link
from signal_manager.client.room import Room
from signal_manager.client.timing import Clock, RetryPolicy
from signal_manager.client.tokens import Token, TokenSource
from signal_manager.errors import (
    ConflictError,
    InvalidRequestError,
    TooLateError,
    UnavailableError,
    error_from_wire,
)
from signal_manager.protocol.framing import Framing
from signal_manager.protocol.messages import (
    PROTOCOL_VERSION,
    Connect,
    Disconnect,
    ErrorMessage,
    Heartbeat,
    HeartbeatAck,
    Message,
    PayloadType,
    Register,
    RegisterAck,
    RoomEvent,
    Signal,
    SignalAck,
    SignalAnswer,
    SignalIceCandidate,
    SignalMessage,
    SignalOffer,
    Unregister,
    UnregisterAck,
)

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack

__all__ = ["Callback", "SignalClient"]

logger = logging.getLogger(__name__)

# Signals sent without `ack` whose target is remembered, so that a refusal can name it.
REMEMBERED_TARGETS = 1024

# These have room for a client id and a token only. A CONNECT with more would travel as JSON, and its payload type is
# that of all that the service sends.
_BARE_CONNECT = frozenset({PayloadType.BINARY, PayloadType.TEXT})

Happening = TypeVar("Happening", bound=Event)
Callback: TypeAlias = Callable[[Happening], object]
Reply = TypeVar("Reply", bound=Message)

_KIND_OF: dict[type[Signal], SignalKind] = {
    SignalOffer: "offer",
    SignalAnswer: "answer",
    SignalIceCandidate: "ice_candidate",
    SignalMessage: "message",
}


class SignalClient:
    """A client of the signaling service.

        async with SignalClient("ws://127.0.0.1:8080", "alice", token) as client:
            await client.send_offer("bob", {"type": "offer", "sdp": sdp})
            async for event in client:
                match event:
                    case SignalReceived(sender="bob", kind="answer", data=answer):
                        ...

    Entering connects and authenticates; leaving says good-bye and stops everything the client started. In between a
    lost connection is made again (`RetryPolicy`), unless its close code says that this is pointless (docs/protocol.md,
    "Errors and close codes"); what is sent meanwhile waits for the new connection within its own time limit. Where the
    service still has the session, it goes on as if nothing had happened (`Reconnected.resumed`).

    **Events** are read with `async for event in client`, or with callbacks (`on`). An event that has a callback goes
    to its callbacks and is not iterated as well. Either way at most `EVENT_QUEUE_SIZE` events wait: when the
    application does not keep up, the oldest are dropped and counted in `dropped_events`. Iteration ends when the client
    is closed or gives up.

    **Errors** are those of `signal_manager.errors`. Every awaiting method takes a `timeout` in seconds in place of
    `request_timeout` and raises:

    - `UnavailableError` when there was no connection within that time, or the session was lost while waiting for a
      reply;
    - `TooLateError` when the request was sent and no reply came in time;
    - `AuthenticationError`, `ForbiddenError`, `NotFoundError`, `ConflictError`, `RateLimitedError`… when the service
      refuses;
    - the error that ended the client, once it has ended.

    A client object is used once, by one event loop; any number of tasks may share it.

    Args:
        url: `ws://host:port` or `wss://host:port`, with an optional path.
        client_id: the name of this client, which other clients address.
        token: proves it; sent to the service, never logged. A token that ends needs a function that fetches one: it is
            called before every connection, and before the token ends, so that calls outlive their tokens. It may be
            async; when it fails it is called again later (`ErrorReceived` says why), and nothing ends.
        framing: the protocol's header (docs/protocol.md, first section).
        payload_type: how messages are written (docs/protocol.md, "Payload types"). To a client with BINARY or TEXT
            all `data` comes as bytes or text: a JSON value as its JSON text. What has no form in a payload type travels
            as JSON; with a token of more than 255 bytes, which BINARY cannot carry, everything does.
        connect_timeout: seconds for one attempt to connect and authenticate.
        request_timeout: seconds for any other call.
        retry: when and how often to try again; by default the first connect fails fast, and a lost connection is tried
            again until `close`.
        ssl_context: for `wss://`, in place of the default one.
        resumable: whether the session goes on when a lost connection is made again soon enough, with nothing lost and
            nothing twice (`Reconnected.resumed`). BINARY and TEXT have no room for that.
        clock: where time comes from.

    Raises:
        InvalidRequestError: an argument, or the combination of framing and payload type, cannot work.

    Large because every verb of the SDK is a method of this class.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        token: Token,
        *,
        framing: Framing = Framing.V2,
        payload_type: PayloadType = PayloadType.JSON,
        connect_timeout: float = 10.0,
        request_timeout: float = 10.0,
        retry: RetryPolicy | None = None,
        ssl_context: SSLContext | None = None,
        resumable: bool = True,
        clock: Clock | None = None,
    ) -> None:
        a_url(url, "url")
        a_token(token, "token")
        instance_of(Framing)(framing, "framing")
        instance_of(PayloadType)(payload_type, "payload_type")
        a_flag(resumable, "resumable")
        maybe(instance_of(SSLContext), ssl_context, "ssl_context")
        if framing is Framing.JSON and payload_type is not PayloadType.JSON:
            raise InvalidRequestError(
                f"payload_type is {payload_type.name}, expected JSON: JSON framing carries nothing else"
            )
        self.client_id = a_name(client_id, "client_id")
        self._request_timeout = a_time_limit(request_timeout, "request_timeout")
        self._clock = maybe(instance_of(Clock), clock, "clock") or Clock()
        self._link = Link(
            DialSettings(
                url=url,
                connect=_make_connect(client_id, payload_type, resumable=resumable),
                token=TokenSource(token),
                framing=framing,
                payload_type=payload_type,
                time_limit=a_time_limit(connect_timeout, "connect_timeout"),
                ssl_context=ssl_context,
            ),
            retry=maybe(instance_of(RetryPolicy), retry, "retry") or RetryPolicy(),
            clock=self._clock,
            on_message=self._receive,
            on_event=self._emit,
            is_in_room=lambda: bool(self._rooms),
        )
        self.departures = Departures(self)  # what rooms have still to tell the service
        self._stream: EventStream[Event] = EventStream()
        self._rooms: list[Room] = []  # that hear what happens, from joining to their end
        self._targets: dict[bytes, str] = {}  # by message id, oldest first, at most REMEMBERED_TARGETS
        self._is_used = False  # by `connect` or `close`
        self._caller: asyncio.Task[None] | None = None

    # Connecting and closing

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connect and authenticate; entering the client does the same.

        Raises:
            AuthenticationError: the service does not accept the client id with this token.
            UnavailableError: nobody answered within `connect_timeout`, or the service is full or draining.
            ConflictError: another client with this id is connected, and the service keeps that one.
            InvalidRequestError: this object was used before, whether that succeeded or not.
        """
        if self._is_used:
            raise InvalidRequestError("this client was used before; make a new one")
        self._is_used = True
        await self._link.open()
        self._caller = asyncio.create_task(
            self._stream.callbacks.run(), name=f"signal-client {self.client_id} callbacks"
        )

    async def close(self, reason: str | None = None) -> None:
        """Say good-bye and stop everything the client started; leaving the client does the same.

        A callback that is still running is cancelled. Closing twice does nothing more. Cancelling this still closes
        the connection.

        Args:
            reason: one line for the service's log.
        """
        maybe(a_text, reason, "reason")
        self._is_used = True
        self._stream.callbacks.clear()
        for room in tuple(self._rooms):
            await room.end("the client is closed")
        try:
            await self._link.close(Disconnect(client_id=self.client_id, reason=reason))
        finally:
            self._stream.end()
            # A callback may close the client: then its own task ends by itself, with the queue.
            if self._caller is not None and self._caller is not asyncio.current_task():
                self._caller.cancel()
                await asyncio.wait([self._caller])

    async def reconnect(self, *, timeout: float | None = None) -> None:
        """Open a new connection at once in place of the present one, for an application that knows of a new network.

        Where the service still has the session it goes on, with nothing lost (`Reconnected.resumed`). The client itself
        does so when nothing is heard for some seconds after something was sent.

        Raises:
            UnavailableError: no connection was accepted within `timeout`; the client goes on trying.
            InvalidRequestError: `retry` allows no second connection.
            SignalManagerError: the error that ended the client.
        """
        limit = self._limit(timeout)
        try:
            async with asyncio.timeout(limit):
                await self._link.reconnect()
        except TimeoutError:
            raise UnavailableError(f"no connection within {limit} s") from None

    @property
    def is_connected(self) -> bool:
        """Whether the client is connected and authenticated, as far as it knows."""
        return self._link.is_up

    @property
    def session_id(self) -> str | None:
        """The session that the service named last; None before the first."""
        return self._link.session_id

    @property
    def dropped_events(self) -> int:
        """The number of events that were dropped because the application did not keep up."""
        return self._stream.dropped

    # Signals

    async def send_offer(self, target: str, data: Any, *, ack: bool = False, timeout: float | None = None) -> str:
        """Send an SDP offer to another client.

        Signals from one task arrive in the order of its calls.

        Args:
            target: the other client's id.
            data: any JSON value or bytes; browsers and this project use `{"type": "offer", "sdp": "…"}`.
            ack: wait for the service's acknowledgement. Without it, a refusal arrives later as `ErrorReceived`.
            timeout: seconds in place of `request_timeout`.

        Returns:
            "sent" without `ack`; with it the service's word: "delivered", "queued" (the target is expected back) or
            "offline".

        Raises:
            NotFoundError: with `ack`, no such client.
            TooLargeError: it does not fit the framing; `Framing.V2` carries 4 GiB, V1 64 KiB.
            InvalidRequestError: the target cannot be, or `data` cannot be written in this payload type.
        """
        return await self._signal(SignalOffer(target_client_id=target, signal_data=data, ack=ack), timeout)

    async def send_answer(self, target: str, data: Any, *, ack: bool = False, timeout: float | None = None) -> str:
        """Send an SDP answer to another client; see `send_offer`."""
        return await self._signal(SignalAnswer(target_client_id=target, signal_data=data, ack=ack), timeout)

    async def send_ice_candidate(
        self, target: str, data: Any, *, ack: bool = False, timeout: float | None = None
    ) -> str:
        """Send a trickled ICE candidate to another client; see `send_offer`.

        Browsers and this project use `{"candidate": "candidate:…", "sdpMid": "0", "sdpMLineIndex": 0}` as data, with an
        empty `candidate` after the last one (RFC 8838, section 14).
        """
        return await self._signal(SignalIceCandidate(target_client_id=target, signal_data=data, ack=ack), timeout)

    async def send_message(
        self, target: str | ToRoom, data: Any, *, ack: bool = False, timeout: float | None = None
    ) -> str:
        """Send application data to another client, or to all other members of a room; see `send_offer`.

        Args:
            target: a client's id, or `ToRoom("demo")` for a room that this client is in.
            data: any JSON value or bytes.
            ack: as in `send_offer`; for a room "delivered" says that at least one member got it.
            timeout: seconds in place of `request_timeout`.
        """
        if isinstance(target, ToRoom):
            message = SignalMessage(room_id=target.room_id, signal_data=data, ack=ack)
        else:
            message = SignalMessage(target_client_id=target, signal_data=data, ack=ack)
        return await self._signal(message, timeout)

    # Rooms

    async def join(
        self,
        room_id: str,
        *,
        tracks: Sequence[MediaStreamTrack] = (),
        role: Literal["sender", "receiver"] | None = None,
        metadata: Mapping[str, Any] | None = None,
        create: bool = False,
        max_participants: int | None = None,
        auto_pull: bool = True,
        retry: RetryPolicy | None = None,
    ) -> Room:
        """Become a member of a room.

        Callbacks that are registered before the caller awaits anything else miss nothing. Media needs aiortc:
        `pip install 'signal-manager-client[rtc]'`. Cancelling leaves the room again.

        Args:
            room_id: the room's name.
            tracks: published as part of joining, which saves a round trip; `Room.publish` does the same later.
            role: by default "sender" with tracks, else "receiver". Either may do both as far as its token allows.
            metadata: what the other members see of this one.
            create: create the room when it is not there.
            max_participants: of a room that is created.
            auto_pull: receive every track of the others without being asked; else see `Room.pull`.
            retry: when and how often in a row to join again where media was lost; by default for about a minute.

        Raises:
            NotFoundError: there is no such room.
            ConflictError: this client is in it or in another already, or it is full.
            ForbiddenError: the token does not allow it.
            InvalidRequestError: the room is closed, the arguments cannot be, or aiortc is missing.
        """
        wanted = tracks_of(tracks, "tracks")
        a_flag(create, "create")
        room = Room(
            self,
            room_id,
            role=role,
            metadata=metadata,
            max_participants=max_participants,
            auto_pull=auto_pull,
            retry=retry,
        )
        # The service would refuse it too, but giving up this attempt would end the membership that there is.
        if any(each.id == room_id and each.is_taken for each in self._rooms):
            raise ConflictError(f"this client is in room {room_id} already, or is joining it")
        self._rooms.append(room)
        try:
            await room.enter(wanted, create=create)
        except BaseException:
            self.forget_room(room)
            raise
        return room

    def forget_room(self, room: Room) -> None:
        """Stop telling a room of events; rooms call this when they end."""
        if room in self._rooms:
            self._rooms.remove(room)

    # Other requests

    async def request(self, message: Message, expected: type[Reply], *, timeout: float | None = None) -> Reply:
        """Send any request of the protocol, and return its reply.

        Args:
            message: one of `signal_manager.protocol.messages`.
            expected: the type of its acknowledgement.
            timeout: seconds in place of `request_timeout`.

        Raises:
            MalformedMessageError: the reply is of another type.
        """
        instance_of(Message)(message, "message")
        if not isinstance(expected, type) or not issubclass(expected, Message):
            raise refuse(expected, "expected", "a class of messages")
        return await self._request(message, expected, timeout)

    async def register(
        self,
        capabilities: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Put this client's capabilities and metadata on record; again after a `Reconnected` that is not `resumed`.

        Args:
            capabilities: what the client can do, in the application's own words.
            metadata: any JSON object.
            timeout: seconds in place of `request_timeout`.
        """
        message = Register(
            capabilities=maybe(texts, capabilities, "capabilities"), metadata=maybe(an_object, metadata, "metadata")
        )
        await self._request(message, RegisterAck, timeout)

    async def unregister(self, *, timeout: float | None = None) -> None:
        """Remove this client's record."""
        await self._request(Unregister(), UnregisterAck, timeout)

    async def heartbeat(self, *, timeout: float | None = None) -> float:
        """Measure the round trip to the service in seconds; the client's own heartbeats need no help."""
        started = self._clock.now()
        await self._request(Heartbeat(timestamp=int(started * 1000)), HeartbeatAck, timeout)
        return self._clock.now() - started

    # Events

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        return await self._stream.next()

    @overload
    def on(self, name: SignalKind, callback: Callback[SignalReceived]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["connected"], callback: Callback[Connected]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["disconnected"], callback: Callback[Disconnected]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["reconnected"], callback: Callback[Reconnected]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["room_event"], callback: Callback[RoomEventReceived]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["error"], callback: Callback[ErrorReceived]) -> Callable[[], None]: ...
    @overload
    def on(self, name: Literal["going_away"], callback: Callback[GoingAway]) -> Callable[[], None]: ...
    def on(self, name: EventName, callback: Callable[[Any], object]) -> Callable[[], None]:
        """Call back for every event of one name.

        Callbacks run one after another in the order of the events, so that an ICE candidate never overtakes its offer;
        an `async` callback is awaited before the next one. What a callback raises is logged and changes nothing else.
        Register before connecting to see `connected` too.

        Args:
            name: "offer", "answer", "ice_candidate", "message", "connected", "disconnected", "reconnected",
                "room_event", "error" or "going_away".
            callback: a function or coroutine function of one event.

        Returns:
            a function that takes the callback away again.

        Raises:
            InvalidRequestError: there is no event of that name.
        """
        return self._stream.callbacks.add(name, callback)

    # Sending

    async def _signal(self, signal: Signal, timeout: float | None) -> str:
        room_id = signal.room_id if isinstance(signal, SignalMessage) else None
        target = a_name(signal.target_client_id if room_id is None else room_id, "target")
        if a_flag(signal.ack, "ack"):
            return (await self._request(signal, SignalAck, timeout)).status
        limit = self._limit(timeout)
        try:
            async with asyncio.timeout(limit):
                connection = await self._link.ready()
        except TimeoutError:
            raise self._unavailable(limit) from None
        message_id = uuid4().bytes
        connection.send(signal, message_id)
        self._targets[message_id] = target
        if len(self._targets) > REMEMBERED_TARGETS:
            del self._targets[next(iter(self._targets))]
        return "sent"

    async def _request(self, message: Message, expected: type[Reply], timeout: float | None) -> Reply:
        limit = self._limit(timeout)
        connection = None
        try:
            async with asyncio.timeout(limit):
                connection = await self._link.ready()
                return await connection.request(message, expected)
        except TimeoutError:
            if connection is None:
                raise self._unavailable(limit) from None
            raise TooLateError(f"expected {expected.__name__} within {limit} s, none came") from None

    def _limit(self, timeout: float | None) -> float:
        return self._request_timeout if timeout is None else a_time_limit(timeout, "timeout")

    def _unavailable(self, limit: float) -> UnavailableError:
        return UnavailableError(f"no usable connection within {limit} s; nothing was sent")

    # Receiving: called by the link from inside the socket's callback

    def _receive(self, message_id: bytes, message: Message) -> None:
        match message:
            case Signal() if message.sender_client_id is not None:
                room_id = message.room_id if isinstance(message, SignalMessage) else None
                kind = _KIND_OF[type(message)]
                self._emit(SignalReceived(message.sender_client_id, kind, message.signal_data, room_id))
            case RoomEvent():
                for room in tuple(self._rooms):
                    room.hear(message)
                self._stream.emit_to_callbacks(RoomEventReceived(message))
            case ErrorMessage():
                error = error_from_wire(
                    message.error_code, message.error_message, message.details, may_retry=message.retryable
                )
                self._emit(ErrorReceived(error, self._targets.pop(message_id, None)))
            case _:
                logger.debug("no call waits for this %s", type(message).__name__)

    def _emit(self, event: Event) -> None:
        for room in tuple(self._rooms):
            room.note_link(event)
        self._stream.emit(event)
        if isinstance(event, Disconnected) and not event.will_reconnect:
            self._stream.end()


def _make_connect(client_id: str, payload_type: PayloadType, *, resumable: bool) -> Connect:
    """Return the CONNECT of a client, without its token."""
    if payload_type in _BARE_CONNECT:
        return Connect(client_id=client_id, auth_token="")
    # The instance lets the service recognise a reconnect of this very client (docs/protocol.md, "Conversation").
    return Connect(
        client_id=client_id,
        auth_token="",
        version=PROTOCOL_VERSION,
        instance_id=str(uuid4()),
        resumable=resumable,
    )
