"""One WebSocket to the service: messages in and out, replies matched to requests, and how it ended.

A connection never reconnects. `link.py` opens one after another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from ssl import SSLContext
from typing import NamedTuple, TypeAlias, TypeVar
from uuid import uuid4

from picows import (
    WSCloseCode,
    WSError,
    WSFrame,
    WSListener,
    WSMsgType,
    WSProtocolError,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    ws_connect,
)

from signal_manager.client.exchange import Exchange, settle
from signal_manager.client.timing import Clock
from signal_manager.errors import (
    InvalidRequestError,
    MalformedMessageError,
    SignalManagerError,
    UnavailableError,
    error_from_wire,
)
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.close_codes import CLOSE_CODES, RETURN_OF_OTHERS, CloseCode, Ending, Return
from signal_manager.protocol.codec import decode_payload, encode_payload
from signal_manager.protocol.framing import SUBPROTOCOLS, Framing, decode_frame, encode_frame
from signal_manager.protocol.messages import (
    Connect,
    ConnectAck,
    ErrorMessage,
    GoAway,
    Heartbeat,
    HeartbeatAck,
    Message,
    PayloadType,
    Peer,
    RoomEvent,
    Shape,
    Signal,
)
from signal_manager.protocol.resume import UNCOUNTED

__all__ = ["ABNORMAL", "MAX_MESSAGE_BYTES", "Closed", "Connection", "Receiver"]

logger = logging.getLogger(__name__)

# Far above any SDP. A larger message is not of this protocol, and must not fill the application's memory.
MAX_MESSAGE_BYTES = 10 * 1024 * 1024

# The close code of a client that gives a connection up and may come back, since NORMAL would end its session.
_GIVEN_UP = CloseCode.TIMED_OUT

# RFC 6455, section 7.4.1: there was no close frame, or one without a code.
ABNORMAL = 1006
_NO_CODE = 1005

Receiver: TypeAlias = Callable[["Connection", bytes, Message], None]
Reply = TypeVar("Reply", bound=Message)


class Closed(NamedTuple):
    """How a connection ended: the WebSocket close code (1006 without one) and one line for a person."""

    code: int
    reason: str

    @property
    def may_reconnect(self) -> bool:
        """Whether the client may come back after this code (docs/protocol.md, "Errors and close codes")."""
        ending = self._ending
        return (RETURN_OF_OTHERS if ending is None else ending.returns) is not Return.NO

    @property
    def was_announced(self) -> bool:
        """Whether the service gave a reason."""
        return self.code != ABNORMAL

    def error(self) -> SignalManagerError:
        """Return the error for callers that wait."""
        reason = self.reason or f"the service closed the connection with code {self.code}"
        if self._ending is None:
            return UnavailableError(reason)
        return error_from_wire(self._ending.error_code, reason, may_retry=self.may_reconnect)

    @property
    def _ending(self) -> Ending | None:
        """The meaning of the code, where it is one of the service's."""
        return CLOSE_CODES.get(self.code)


class Connection(WSListener):
    """Speak the protocol over one WebSocket.

    Args:
        framing: the header, and with it the subprotocol to ask for.
        payload_type: how messages are written.
        clock: for `last_received`.
        exchange: the requests that wait for replies, and the session's journal.
        receive: called with CONNECT_ACK and every message that is no reply, in the order in which they arrive. The
            socket's callback calls it, so it must not block.
        on_asked: called when a message is sent after all earlier ones were answered.

    Large because it is picows' listener and the channel of requests in one, so that a message takes no further call.
    """

    def __init__(
        self,
        *,
        framing: Framing,
        payload_type: PayloadType,
        clock: Clock,
        exchange: Exchange,
        receive: Receiver,
        on_asked: Callable[[], None] = lambda: None,
    ) -> None:
        self.last_received = clock.now()
        self.frames_received = 0
        self.asked_at = self.last_received  # when the first message after the last frame was sent
        self._on_asked = on_asked
        self._framing = framing
        self._payload_type = payload_type
        self._frame_type = WSMsgType.TEXT if framing is Framing.JSON else WSMsgType.BINARY
        self._clock = clock
        self._receive: Receiver | None = receive  # None once nothing more may be delivered
        self._transport: WSTransport | None = None  # None before the upgrade
        self._closed = Closed(ABNORMAL, "connection lost")
        self._is_closed = False
        self._exchange = exchange
        self._connect: tuple[bytes, asyncio.Future[Message]] | None = None  # CONNECT's id, and its reply
        self._is_accepted = False  # from CONNECT_ACK on, messages count
        self._writable = asyncio.Event()
        self._writable.set()
        self._fragments: bytearray | None = None  # of a message whose last frame has not come yet
        self._fragments_type = self._frame_type

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended; it cannot be opened again."""
        return self._is_closed

    async def open(self, url: str, *, time_limit: float, ssl_context: SSLContext | None) -> None:
        """Connect and upgrade to a WebSocket.

        Args:
            url: `ws://` or `wss://`.
            time_limit: seconds for the upgrade, so that a cancelled call leaves no socket behind for longer. The caller
                limits the whole call.
            ssl_context: for `wss://`, in place of the default one.

        Raises:
            UnavailableError: no WebSocket service answers there.
            MalformedMessageError: the WebSocket service does not speak this framing.
        """
        subprotocol = next(name for name, framing in SUBPROTOCOLS.items() if framing is self._framing)

        def listen(_request: WSUpgradeRequest, _response: WSUpgradeResponse) -> Connection:
            return self

        try:
            transport, _ = await ws_connect(
                listen,
                url,
                ssl_context=ssl_context,
                websocket_handshake_timeout=time_limit,
                logger_name=logger,
                enable_auto_pong=False,  # a ping counts as a sign of life, so `on_ws_frame` answers it
                max_frame_size=MAX_MESSAGE_BYTES,
                extra_headers={"Sec-WebSocket-Protocol": subprotocol},
            )
        except WSError as error:
            raise UnavailableError(f"expected a WebSocket service: {error}") from error
        except ConnectionRefusedError as error:
            raise UnavailableError("cannot connect: no service listens at that address") from error
        except (OSError, UnicodeError) as error:
            raise UnavailableError(f"cannot connect: {error}") from error
        if self._transport is None:
            raise UnavailableError("the connection was closed during the WebSocket upgrade")
        chosen = transport.response.headers.get("Sec-WebSocket-Protocol")
        # The original service knows no subprotocols and speaks v1.
        if chosen != subprotocol and not (chosen is None and self._framing is Framing.V1):
            raise MalformedMessageError(f"expected a service that speaks {subprotocol}, it chose {chosen or 'none'}")

    def send(self, message: Message, message_id: bytes) -> None:
        """Write one message.

        Raises:
            InvalidRequestError: this payload type cannot express it.
            TooLargeError: it does not fit the framing.
            UnavailableError: the connection has ended.
        """
        if self._transport is None or self._is_closed:
            raise self._closed.error()
        try:
            payload_type, payload = encode_payload(message, self._payload_type, Shape.PLAIN, sent_by=Peer.CLIENT)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidRequestError(f"the message cannot be written as {self._payload_type.name}: {error}") from error
        message_type = spec_of(message).message_type
        frame = encode_frame(self._framing, message_type, message_id, payload_type, payload)
        if message_type not in UNCOUNTED and self._exchange.journal is not None:
            self._exchange.journal.keep(frame)
        self._transport.send(self._frame_type, frame)
        if self.asked_at <= self.last_received:
            self.asked_at = self._clock.now()
            self._on_asked()

    def send_again(self, frames: Iterable[bytes]) -> None:
        """Write messages that an earlier connection sent and the service did not receive."""
        for frame in frames:
            if self._transport is not None:
                self._transport.send(self._frame_type, frame)

    async def log_in(self, connect: Connect) -> ConnectAck:
        """Send CONNECT and return its reply; the caller sets the time limit. Raises what `request` does."""
        message_id = uuid4().bytes
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._connect = message_id, future
        self.send(connect, message_id)
        return _checked(await future, ConnectAck)

    async def request(self, message: Message, expected: type[Reply]) -> Reply:
        """Send a message and return its reply; the caller sets the time limit. Cancelling forgets the request.

        Raises:
            SignalManagerError: the error that the service's ERROR names.
            MalformedMessageError: the reply is not an `expected`, or cannot be read.
            UnavailableError: the connection ended first.
        """
        async with self._exchange.places:
            message_id = uuid4().bytes
            future = self._exchange.expect(message_id)
            try:
                self.send(message, message_id)
                return _checked(await future, expected)
            finally:
                self._exchange.forget(message_id)

    @property
    def is_writable(self) -> bool:
        """Whether the socket takes more now."""
        return self._writable.is_set()

    async def wait_writable(self) -> None:
        """Return once the socket takes more, or has ended."""
        await self._writable.wait()

    async def wait_closed(self) -> Closed:
        """Return how the connection ended, once it has."""
        if self._transport is not None:
            try:
                await self._transport.wait_disconnected()
            except Exception as error:  # the connection's edge: a protocol violation, or a fault in our own callback
                logger.warning("the connection ended by a local failure: %s", error)
        return self._closed

    def abort(self, reason: str, *, code: int = _GIVEN_UP) -> None:
        """End the connection at once, deliver nothing more, and drop unwritten messages."""
        if self._receive is None or self._is_closed:
            return
        self._receive = None
        if not self._closed.was_announced:
            self._closed = Closed(ABNORMAL, reason)
        if self._transport is not None:
            self._transport.send_close(code)  # type: ignore[arg-type]  # the stub has no private codes
            self._transport.disconnect(graceful=False)

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Keep the transport, unless `open` was cancelled during the upgrade."""
        self._transport = transport
        if self._receive is None:
            transport.disconnect(graceful=False)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Handle one frame; its memory is valid only until this returns."""
        self.last_received = self._clock.now()
        self.frames_received += 1
        match frame.msg_type:
            case WSMsgType.PING:
                transport.send_pong(frame.get_payload_as_bytes())
            case WSMsgType.CLOSE:
                self._take_leave(transport, frame.get_payload_as_bytes())
            case WSMsgType.PONG:
                pass
            case WSMsgType.TEXT | WSMsgType.BINARY if frame.fin and self._fragments is None:
                self._handle(frame.msg_type, frame.get_payload_as_bytes())
            case _:
                self._assemble(frame)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Fail the requests that no other connection can answer."""
        self._is_closed = True
        self._writable.set()
        end = self._closed.error()
        reason = f"no reply before the connection ended: {end.message}"
        if self._connect is not None and not self._connect[1].done():
            self._connect[1].set_exception(end if self._closed.was_announced else UnavailableError(reason))
        if self._is_accepted and (self._exchange.offer is None or not self._closed.may_reconnect):
            self._exchange.fail(reason)

    def pause_writing(self) -> None:
        """Make senders wait: the socket's buffer is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let senders continue."""
        self._writable.set()

    def _take_leave(self, transport: WSTransport, payload: bytes) -> None:
        """Answer the service's CLOSE frame (RFC 6455, section 5.5.1)."""
        # An echo of this side's own CLOSE, as after frames that break the protocol, says nothing of the service's mind.
        if not transport.is_close_frame_sent:
            code = int.from_bytes(payload[:2]) if len(payload) >= 2 else _NO_CODE
            self._closed = Closed(code, payload[2:].decode(errors="replace"))
        transport.send_close(WSCloseCode.OK)
        transport.disconnect()

    def _assemble(self, frame: WSFrame) -> None:
        """Collect a message that arrives in several frames (RFC 6455, section 5.4)."""
        if (frame.msg_type == WSMsgType.CONTINUATION) != (self._fragments is not None):
            raise WSProtocolError(WSCloseCode.PROTOCOL_ERROR, "fragments of a message out of order")
        if self._fragments is None:
            self._fragments = bytearray()
            self._fragments_type = frame.msg_type
        if len(self._fragments) + frame.payload_size > MAX_MESSAGE_BYTES:
            raise WSProtocolError(WSCloseCode.MESSAGE_TOO_BIG, f"message of more than {MAX_MESSAGE_BYTES} bytes")
        self._fragments += frame.get_payload_as_bytes()
        if frame.fin:
            message = bytes(self._fragments)
            self._fragments = None
            self._handle(self._fragments_type, message)

    def _handle(self, frame_type: WSMsgType, data: bytes) -> None:
        """Decode one message and deliver it. A message that cannot be read is logged, and fails only its request."""
        if self._receive is None:
            return
        if frame_type != self._frame_type:
            logger.warning("dropped a %s message, expected %s", frame_type.name, self._frame_type.name)
            return
        message_id: bytes | None = None
        try:
            frame = decode_frame(self._framing, data)
            message_id = frame.message_id
            if frame.message_type not in UNCOUNTED:
                self._count(data)
            message = decode_payload(
                frame.message_type, frame.payload_type, frame.payload, sent_by=Peer.SERVICE
            ).message
        except MalformedMessageError as error:
            logger.warning("dropped a message that cannot be read: %s", error.message)
            if message_id is None:
                self._count(data)
            self._resolve(message_id or error.message_id or b"", error)
            return
        self._deliver(frame.message_id, message, self._receive)

    def _count(self, data: bytes) -> None:
        """Count a message of the session, and confirm when a confirmation is due."""
        journal = self._exchange.journal
        if self._is_accepted and journal is not None and journal.take(len(data)):
            self.send(self.make_heartbeat(), uuid4().bytes)

    def make_heartbeat(self) -> Heartbeat:
        """Return a HEARTBEAT with the present time and a confirmation of received messages."""
        journal = self._exchange.journal
        received = None if journal is None else journal.tell()
        return Heartbeat(timestamp=int(self._clock.now() * 1000), received=received)

    def _deliver(self, message_id: bytes, message: Message, receive: Receiver) -> None:
        match message:
            case Heartbeat():
                if message.received is not None:
                    self._confirm(message.received)
                self.send(HeartbeatAck(timestamp=message.timestamp), message_id)
            case HeartbeatAck():
                if message.received is not None:
                    self._confirm(message.received)
                self._resolve(message_id, message)
            case ConnectAck() if self._connect is not None and message_id == self._connect[0]:
                # First the client, then the caller: the next message of the same read must find it connected.
                self._is_accepted = True
                receive(self, message_id, message)
                self._resolve(message_id, message)
            case ConnectAck():
                logger.warning("dropped an unexpected CONNECT_ACK")
            case ErrorMessage():
                error = error_from_wire(
                    message.error_code, message.error_message, message.details, may_retry=message.retryable
                )
                if not self._resolve(message_id, error):
                    receive(self, message_id, message)
            case Signal() | RoomEvent() | GoAway():
                # These are no replies. A signal keeps the id of its sender, which may be this client.
                receive(self, message_id, message)
            case _:
                if not self._resolve(message_id, message):
                    receive(self, message_id, message)

    def _confirm(self, received: int) -> None:
        try:
            self._exchange.confirm(received)
        except InvalidRequestError as error:
            logger.warning("the service confirms messages that were never sent: %s", error.message)

    def _resolve(self, message_id: bytes, reply: Message | SignalManagerError) -> bool:
        """Give CONNECT or a request its reply; return whether one waited for it."""
        if self._connect is None or message_id != self._connect[0]:
            return self._exchange.resolve(message_id, reply)
        return settle(self._connect[1], reply)


def _checked(reply: Message, expected: type[Reply]) -> Reply:
    if not isinstance(reply, expected):
        raise MalformedMessageError(f"expected {expected.__name__} in reply, got {type(reply).__name__}")
    return reply
