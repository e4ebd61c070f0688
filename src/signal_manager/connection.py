"""One client's WebSocket: frames to the session, and the actions it returns to the socket.

The relay path is here, as short as it can be: read what routes a signal, look its target up, write. Everything else
goes frame → codec → session → actions, and requests on to the router.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from functools import partial
from time import perf_counter
from typing import assert_never
from uuid import uuid4

import msgspec
import structlog
from picows import WSFrame, WSListener, WSMsgType, WSTransport

from signal_manager.bus.base import Claimed, Delivery
from signal_manager.errors import (
    AuthenticationError,
    InvalidRequestError,
    MalformedMessageError,
    RateLimitedError,
    SignalManagerError,
    TooLargeError,
)
from signal_manager.limits import PENDING_REQUESTS, Allowance, ClientAddress
from signal_manager.model import Caller, ClientId, SessionId, is_valid_name
from signal_manager.protocol import heartbeat, relay
from signal_manager.protocol.codec import decode_payload, encode_payload, guess_shape
from signal_manager.protocol.framing import Framing, decode_frame, encode_frame
from signal_manager.protocol.messages import (
    Connect,
    ErrorMessage,
    Heartbeat,
    Message,
    MessageType,
    PayloadType,
    Peer,
    Shape,
    Signal,
    SignalAck,
    spec_of,
)
from signal_manager.protocol.relay import RelayedSignal, RelayEnd
from signal_manager.protocol.resume import UNCOUNTED, Journal, Manner
from signal_manager.protocol.session import (
    Action,
    Authenticate,
    Close,
    CloseCode,
    Confirm,
    Dispatch,
    Ping,
    Received,
    Relay,
    ResumeTerms,
    Send,
    Session,
    State,
)
from signal_manager.protocol.websocket import is_text, may_be_sent
from signal_manager.resumption import ResumableSession, decode_relayed
from signal_manager.router import acknowledgement
from signal_manager.switchboard import Forwarder, Switchboard

__all__ = ["Connection"]

log = structlog.get_logger(__name__)

# How long a client may take to answer our close frame before its socket is cut (RFC 6455, section 7.1.1).
CLOSE_TIMEOUT = 2.0

# One relayed signal of so many is timed: the clock costs as much as a part of the relay does.
_TIMED_ONE_OF = 64

# Two and four bytes of head, or ten (RFC 6455, section 5.2).
_MEDIUM = struct.Struct(">BBH").pack
_LONG = struct.Struct(">BBQ").pack

# What one read causes for one client waits for the end of that read, but no more than this: beyond it, joining saves
# nothing, and only what was written shows whether the client keeps up (bytes).
_JOINED_BYTES = 65536

# After these, and after a connection that is just gone, a client may come back to its session; the others are final.
_RESUMABLE = frozenset({CloseCode.TIMED_OUT, CloseCode.SLOW_CONSUMER, CloseCode.RATE_LIMITED, CloseCode.RESTARTING})
# A client that closes so has left: 1001 is what browsers send when their page goes (RFC 6455, section 7.4.1).
_LEFT = frozenset({1000, 1001})

# What the other members of a room are told of a connection that was closed so.
_REASONS: dict[int, str] = {CloseCode.NORMAL: "left", CloseCode.REPLACED: "replaced", CloseCode.EVICTED: "removed"}
_LOST = "connection lost"

_BINARY = WSMsgType.BINARY
_TEXT = WSMsgType.TEXT


class Connection(WSListener):
    """A client's connection, from the upgrade to the end of the socket."""

    __slots__ = (
        "_allowance",
        "_away",
        "_board",
        "_bucket",
        "_caller",
        "_close_reason",
        "_close_timer",
        "_farewell",
        "_fragments",
        "_framing",
        "_heard",
        "_held",
        "_is_behind",
        "_is_paused",
        "_journal",
        "_next_tick",
        "_opened_at",
        "_outbound",
        "_outcome",
        "_pending",
        "_received",
        "_relays",
        "_resumable",
        "_sent",
        "_session",
        "_transport",
        "_waiting",
        "instance_id",
        "relay_end",
        "source",
    )

    def __init__(self, board: Switchboard, framing: Framing, *, source: ClientAddress, opened_at: float) -> None:
        super().__init__()
        self._board = board
        self._framing = framing
        self.source = source
        self._opened_at = opened_at
        self._session = Session(board.settings, now=self._opened_at)
        self.instance_id: str | None = None
        self._transport: WSTransport | None = None
        self._caller: Caller | None = None
        self._resumable: ResumableSession | None = None  # the session, where it may outlive this connection
        self._journal: Journal | None = None  # its journal
        self.relay_end: RelayEnd | None = None  # once established on v1 or v2
        self._relays = False  # whether this client's signals may take the short way
        self._heard = False  # since the last tick
        self._next_tick = 0.0
        # Messages that wait for an exclusive request's reply, each with its frame type.
        self._held: list[tuple[bytes, WSMsgType]] | None = None
        self._is_paused = False  # whether the socket waits with them
        self._fragments: bytearray | None = None  # the frame type, then what has come of the message so far
        self._outbound: list[bytes] = []  # WebSocket frames that wait for the end of this read
        self._waiting = 0  # bytes in them
        self._is_behind = False  # whether the client reads more slowly than others write to it
        self._pending: dict[int, Received] = {}  # requests that are being answered, by their identity
        self._away = 0  # signals to clients of other nodes of which nobody has said yet what became of them
        self._allowance = Allowance(board.usage, now=opened_at)
        self._bucket = self._allowance.messages
        self._close_timer: asyncio.TimerHandle | None = None
        self._farewell: list[Action] = []  # what is left to do once the session is saved
        self._close_reason = ""
        self._outcome = "lost"  # how the connection ended, in one word of a closed set
        self._received = 0
        self._sent = 0

    # -- what picows calls ---------------------------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Start the session."""
        self._transport = transport
        transport.underlying_transport.set_write_buffer_limits(high=self._board.limits.write_buffer_bytes)
        # The handshake's headers are not needed again, and they are a tenth of what an idle connection costs.
        transport.request.headers.clear()
        transport.response.headers.clear()
        log.info("connection opened", address=self.address, framing=self._framing.value)
        self._board.connections.add(self)
        self._board.metrics.connections_opened.labelled().add()
        no_room = self._board.usage.enter(self.source)
        if no_room is not None:
            self._perform(self._session.turned_away(no_room))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Handle one frame, and write what a whole read has caused once its last frame was handled."""
        board = self._board
        last = frame.last_in_buffer
        if not last:
            board.joining = True
        try:
            self._heard = True
            if (
                frame.msg_type is _BINARY
                and frame.fin
                and self._fragments is None
                and self._held is None
                and not (frame.rsv1 or frame.rsv2 or frame.rsv3)
            ):
                data = frame.get_payload_as_bytes()
                board.bytes_received.value += len(data)
                bucket = self._bucket
                bucket.left -= 1
                if (bucket.left >= 0 or self._may_send(data)) and not (self._relays and self._relay(data)):
                    self._take(data, _BINARY)
            else:
                self._handle_frame(frame)
        except Exception:
            log.exception("connection failed", client_id=self._session.client_id)
            self._break_off(CloseCode.INTERNAL, "internal error")
        finally:
            if last and board.joining:
                board.flush()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """End the session, whoever ended the connection."""
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._board.leave(self)
        self._leave(_LOST, may_resume=True)
        self._session.lost()
        self._board.metrics.connections_closed.labelled(self._outcome).add()
        log.info(
            "connection closed",
            client_id=self._session.client_id,
            address=self.address,
            reason=self._close_reason or _reason(transport),
            duration=round(time.monotonic() - self._opened_at, 3),
            received=self._received,
            sent=self._sent,
        )

    def pause_writing(self) -> None:
        """Take note that the client reads more slowly than others write to it."""
        self._is_behind = True

    def resume_writing(self) -> None:
        """Take note that the client has caught up."""
        self._is_behind = False

    # -- what the bus calls --------------------------------------------------------------------------------------

    def deliver(self, message: Message, message_id: bytes | None = None) -> Delivery:
        """Send a message to this client in its own encoding (`Subscriber.deliver`)."""
        session = self._session
        if session.shape is Shape.TAGGED and spec_of(message).variant is None:
            raise InvalidRequestError(f"the target's protocol has no {spec_of(message).message_type.name}")
        self.write(self._encode(message, message_id, session.payload_type, session.shape))
        return Delivery.DELIVERED

    def relay(self, head: bytes, sender: str, body: bytes) -> Delivery:
        """Send a signal of another node's client to this client (`Subscriber.relay`)."""
        end = self.relay_end
        if end is not None:
            signal = RelayedSignal("", msgspec.Raw(body))
            outgoing = relay.write(head, signal, relay.sender_end(sender), end)
            if outgoing is not None:
                self._board.sent[head[1]].value += 1
                self.write(outgoing)
                return Delivery.DELIVERED
        return self.deliver(decode_relayed(head, sender, self.client_id, body), head[2:18])

    def replaced(self, *, same_instance: bool) -> None:
        """End this connection in favour of a newer one (`Subscriber.replaced`)."""
        actions = self._session.replaced(same_instance=same_instance)
        self._leave(_LOST if same_instance else "replaced")  # for good, although the code invites the instance back
        self._perform(actions)

    # -- what its session calls (`Carrier`) ----------------------------------------------------------------------

    def handed_over(self) -> None:
        """Close, since the session goes on elsewhere (`Carrier.handed_over`)."""
        self._let_go()
        self._perform(self._session.replaced(same_instance=True))

    def answered(self, request: Received, reply: bytes, *, exclusive: bool) -> None:
        """Send the reply to a request (`Carrier.answered`)."""
        self._pending.pop(id(request), None)
        self.write(reply)
        if exclusive:
            if self._resumable is not None:
                self._resumable.is_busy = False
            self._release()

    # -- what operators see and do (`LiveSession`) -----------------------------------------------------------------

    @property
    def is_established(self) -> bool:
        """Whether this is its client's presence now."""
        return self._caller is not None

    @property
    def is_away(self) -> bool:
        """Whether its client is away: not while there is a connection."""
        return False

    @property
    def client_id(self) -> ClientId:
        """The client that it proved to be."""
        return self._session.client_id or ClientId("")

    @property
    def session_id(self) -> SessionId:
        """The session that it carries."""
        return self._session.session_id or SessionId("")

    @property
    def address(self) -> str:
        """Where it comes from."""
        return self.source.text

    @property
    def framing(self) -> str:
        """How its messages are wrapped."""
        return self._framing.value

    @property
    def encoding(self) -> str:
        """How it writes payloads."""
        return self._session.payload_type.name.lower()

    @property
    def age(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._opened_at

    @property
    def received(self) -> int:
        """Messages from the client."""
        return self._received

    @property
    def sent(self) -> int:
        """Messages to the client."""
        return self._sent

    # -- what metrics ask for --------------------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """Whether the client reads more slowly than others write to it."""
        return self._is_behind

    @property
    def queued_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._transport.underlying_transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def pending_requests(self) -> int:
        """Requests of the client that are being answered."""
        return len(self._pending)

    # -- what ends it ----------------------------------------------------------------------------------------------

    def evict(self) -> None:
        """End the connection because an operator says so."""
        self._perform(self._session.evicted())

    # -- what the server calls -----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due at `now`: pings and time limits."""
        if self._heard:
            self._heard = False
            self._session.heard(now)
        elif now >= self._next_tick:
            self._perform(self._session.tick(now))
            deadline = self._session.next_deadline()
            self._next_tick = now + 1.0 if deadline is None else deadline
        if self._transport is not None and self._transport.is_close_frame_sent:
            # picows ends a connection by itself where the client breaks the WebSocket protocol, but never cuts it.
            self._leave(_LOST, may_resume=True)
            self._cut_later()

    @property
    def is_answering(self) -> bool:
        """Whether requests of its client are being answered."""
        return (bool(self._pending) or self._away > 0) and self._caller is not None

    def go_away(self, reconnect_after: int) -> None:
        """Tell the client that the service is about to stop (`Line.go_away`)."""
        self._perform(self._session.draining(reconnect_after=reconnect_after))

    def freeze(self) -> None:
        """Let nothing count that still comes; `part` says good-bye (`Line.freeze`)."""
        self._farewell = self._session.stopped()
        if self._journal is not None and self._journal.is_complete:
            self._board.bus.detach(self.client_id, self)
            self._let_go()

    def part(self) -> None:
        """Say good-bye after `freeze` (`Line.part`)."""
        farewell, self._farewell = self._farewell, []
        self._perform(farewell)

    def cut(self) -> None:
        """Close the socket without waiting for the client."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    def flush(self) -> None:
        """Write the frames that have waited, in one go."""
        outbound = self._outbound
        if not outbound:
            return
        self._outbound = []
        self._waiting = 0
        transport = self._transport
        if transport is not None and not transport.is_close_frame_sent and not transport.is_disconnected:
            data = outbound[0] if len(outbound) == 1 else b"".join(outbound)
            if not self._is_behind or self._has_room(len(data)):
                transport.underlying_transport.write(data)

    # -- inbound -------------------------------------------------------------------------------------------------

    def _relay(self, data: bytes) -> bool:
        """Send a signal the short way; False leaves it to the session and the codec."""
        board = self._board
        end = self.relay_end
        assert end is not None  # noqa: S101 - `_relays` says so
        began = 0.0 if board.relayed % _TIMED_ONE_OF else perf_counter()
        signal = relay.read(data, end)
        if signal is None:
            return False
        target = board.bus.subscribers.get(signal.target_client_id)
        if target is None:
            return board.away is not None and self._forward(board.away, data, signal)
        if target.relay_end is None:
            return False
        outgoing = relay.write(data, signal, end, target.relay_end)
        if outgoing is None:
            return False
        self._received += 1
        board.relayed += 1
        board.received[data[1]].value += 1
        board.sent[data[1]].value += 1
        target.write(outgoing)
        if began:
            board.timed(began)
        journal = self._journal
        if journal is not None and journal.take(len(data)):
            self._confirm()
        if signal.ack:
            self._acknowledge(signal.target_client_id, data)
        return True

    def _forward(self, away: Forwarder, data: bytes, signal: RelayedSignal) -> bool:
        """Send a signal to a client that is not here; False leaves it to the session, which says what is wrong."""
        target = signal.target_client_id
        if not is_valid_name(target):
            return False
        head = data[: relay.HEAD]
        told = partial(self._forwarded, head, target, signal.ack)
        try:
            away.forward(head, target, self.client_id, bytes(signal.signal_data), told)
        except SignalManagerError:
            return False
        self._away += 1
        self._received += 1
        self._board.relayed += 1
        self._board.received[data[1]].value += 1
        self._count(MessageType(data[1]), data)
        return True

    def _forwarded(self, head: bytes, target: str, wants_ack: bool, result: Delivery | SignalManagerError) -> None:
        """Tell the client what became of a signal to a client of another node, if there is anything to tell."""
        if wants_ack or isinstance(result, SignalManagerError) or result is Delivery.OFFLINE:
            told = acknowledgement(target, result, wants_ack=wants_ack)
            request = Received(SignalAck(status=""), head[2:18], PayloadType(head[18]), self._session.shape)
            self._told_later(request, told)
        else:
            self._away -= 1

    def _told_later(self, request: Received, told: SignalAck | SignalManagerError | None) -> None:
        """Answer a signal whose way was known only after others were handled, wherever its client is by now."""
        self._away -= 1
        if isinstance(told, SignalManagerError):
            reply = self._encoded(self._session.error(told, request))
        elif told is None or self._session.shape is Shape.TAGGED:
            return
        else:
            reply = self._encoded(self._session.reply(told, request))
        if self._resumable is not None:
            self._resumable.tell(reply)
        elif self._caller is not None:
            self.write(reply)

    def _acknowledge(self, target: str, data: bytes) -> None:
        ack = SignalAck(status="delivered", target_client_id=target)
        if self._session.shape is not Shape.TAGGED:
            self.write(self._encode(ack, data[2:18], PayloadType(data[18]), self._session.shape))

    def _handle_frame(self, frame: WSFrame) -> None:
        """Handle what is not a whole binary message: text, fragments, control frames, messages that must wait."""
        transport = self._transport
        assert transport is not None  # noqa: S101 - frames come after the upgrade
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._break_off(CloseCode.PROTOCOL, "reserved bits are set, and no extension was agreed on")
            return
        is_message = frame.fin and (frame.msg_type is _BINARY or frame.msg_type is _TEXT)
        if not is_message and self._allowance.has_too_many_frames(time.monotonic()):
            self._perform(self._session.insistent())
            return
        match frame.msg_type:
            case WSMsgType.PING:
                payload = frame.get_payload_as_bytes()
                if not self._is_behind or self._has_room(len(payload)):
                    transport.send_pong(payload)
            case WSMsgType.PONG:
                pass
            case WSMsgType.CLOSE:
                self._close_by_client(transport, frame)
            case message_type:
                self._assemble(message_type, frame)

    def _close_by_client(self, transport: WSTransport, frame: WSFrame) -> None:
        """Answer a close frame (RFC 6455, section 5.5.1); whatever the client sends after it does not count."""
        code = int.from_bytes(frame.get_payload_as_bytes()[:2]) if frame.payload_size else CloseCode.NORMAL
        if not may_be_sent(code):
            self._break_off(CloseCode.PROTOCOL, "no such close code")
            return
        self._session.lost()
        self._leave(_LOST, may_resume=code not in _LEFT)
        if not self._close_reason:
            self._close_reason, self._outcome = "closed by the client", "client"
        if not transport.is_close_frame_sent:
            self._say_good_bye(transport, code, "")
        self._cut_later()
        transport.disconnect()

    def _assemble(self, frame_type: WSMsgType, frame: WSFrame) -> None:
        """Put the frames of one message together (RFC 6455, section 5.4)."""
        fragments = self._fragments
        if (frame_type is WSMsgType.CONTINUATION) is (fragments is None):
            self._break_off(CloseCode.PROTOCOL, "fragments out of order")
            return
        if fragments is None:
            if frame.fin:
                self._message(frame.get_payload_as_bytes(), frame_type)
                return
            fragments = self._fragments = bytearray((frame_type.value,))
        fragments += frame.get_payload_as_bytes()
        if len(fragments) - 1 > self._board.max_message_size:
            self._fragments = None
            self._break_off(CloseCode.TOO_LARGE, f"message larger than {self._board.max_message_size} bytes")
        elif frame.fin:
            self._fragments = None
            self._message(bytes(fragments[1:]), WSMsgType(fragments[0]))

    def _message(self, data: bytes, frame_type: WSMsgType) -> None:
        """Let a message in if it is within the rate, and if text is text (RFC 6455, section 8.1)."""
        self._board.bytes_received.value += len(data)
        self._bucket.left -= 1
        if self._bucket.left < 0 and not self._may_send(data):
            return
        if frame_type is _TEXT and not is_text(data):
            self._break_off(CloseCode.NOT_TEXT, "text that is not UTF-8")
            return
        self._take_or_hold(data, frame_type)

    def _may_send(self, data: bytes) -> bool:
        """Look whether the rate allows a message after all, and refuse it if not; `_bucket.left` is below zero."""
        now = time.monotonic()
        refusal = self._allowance.refuse(now)
        if refusal is None:
            return True
        self._received += 1
        if self._allowance.is_insistent(now):
            self._perform(self._session.insistent())
            return False
        message_id, payload_type, message_type = None, self._session.payload_type, None
        with contextlib.suppress(MalformedMessageError):
            header = decode_frame(self._framing, data)
            message_id, payload_type, message_type = header.message_id, header.payload_type, header.message_type
            self._board.received[message_type].value += 1
        self._count(message_type, data)
        self._perform(self._session.limited(refusal, message_id=message_id, payload_type=payload_type))
        return False

    def _take_or_hold(self, data: bytes, frame_type: WSMsgType) -> None:
        """Handle a message now, or after the request that must be answered first."""
        if self._held is not None:
            self._held.append((data, frame_type))
            self._pause()
        elif not (frame_type is _BINARY and self._relays and self._relay(data)):
            self._take(data, frame_type)

    def _take(self, data: bytes, frame_type: WSMsgType) -> None:
        """Decode a message and give it to the session."""
        if self.relay_end is not None and frame_type is _BINARY and self._beat(data, self.relay_end):
            return
        self._received += 1
        now = time.monotonic()
        session = self._session
        payload_type, shape = session.payload_type, session.shape
        try:
            if (frame_type is _TEXT) is not (self._framing is Framing.JSON):
                wanted, came = ("text", "binary") if self._framing is Framing.JSON else ("binary", "text")
                raise MalformedMessageError(f"expected a {wanted} WebSocket message, got a {came} one")
            header = decode_frame(self._framing, data)
            payload_type = header.payload_type
            self._board.received[header.message_type].value += 1
            try:
                message, shape = decode_payload(header.message_type, payload_type, header.payload, sent_by=Peer.CLIENT)
            except MalformedMessageError as error:
                error.message_id = header.message_id
                shape = guess_shape(header.message_type, payload_type, header.payload)
                raise
            finally:
                self._count(header.message_type, data)
        except MalformedMessageError as error:
            if error.message_id is None:
                self._count(None, data)
            self._perform(session.malformed(error, payload_type=payload_type, shape=shape, now=now))
            return
        received = Received(message, header.message_id, payload_type, shape)
        self._perform(session.receive(received, now=now, server_time=time.time_ns() // 1_000_000))

    def _beat(self, data: bytes, end: RelayEnd) -> bool:
        """Answer a HEARTBEAT the short way; False leaves it to the session and the codec."""
        beat = heartbeat.read(data, end) if not end.is_tagged else None
        if beat is None:
            return False
        journal = self._journal
        if journal is not None and beat.received is not None:
            if beat.received > journal.sent:
                return False  # the long way has the words for that
            journal.confirm(beat.received)
        self._received += 1
        board = self._board
        board.received[MessageType.HEARTBEAT].value += 1
        board.sent[MessageType.HEARTBEAT_ACK].value += 1
        server_time = time.time_ns() // 1_000_000
        self.write(heartbeat.acknowledgement(data, beat, end, server_time=server_time), counts=False)
        return True

    def _count(self, message_type: MessageType | None, data: bytes) -> None:
        """Count a message for the session, and confirm it when that is due; None is for what has no type."""
        journal = self._journal
        if journal is not None and message_type not in UNCOUNTED and journal.take(len(data)):
            self._confirm()

    def _confirm(self) -> None:
        """Tell the client how many of its messages have come, so that it need not keep them."""
        journal, session = self._journal, self._session
        assert journal is not None  # noqa: S101 - whoever counts has one
        timestamp, received, end = time.time_ns() // 1_000_000, journal.tell(), self.relay_end
        if end is not None and session.payload_type is PayloadType.JSON:  # only plain sessions can be resumed
            self._board.sent[MessageType.HEARTBEAT].value += 1
            beat = heartbeat.confirmation(end, uuid4().bytes, timestamp=timestamp, received=received)
        else:
            message = Heartbeat(timestamp=timestamp, received=received)
            beat = self._encode(message, None, session.payload_type, session.shape)
        self.write(beat, counts=False)

    # -- actions -------------------------------------------------------------------------------------------------

    def _perform(self, actions: list[Action]) -> None:
        """Do what the session asks for."""
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case Relay():
                    self._relay_decoded(action.signal)
                case Authenticate():
                    self._hold()
                    self._board.start(self._authenticate(action.connect), name="authenticate")
                case Dispatch():
                    self._dispatch(action.request)
                case Confirm():
                    self._confirmed(action)
                case Ping():
                    if self._transport is not None:
                        self._transport.send_ping()
                case Close():
                    self._close(action.code, action.reason)
                case _:
                    assert_never(action)

    def _send(self, action: Send) -> None:
        counts = spec_of(action.message).message_type not in UNCOUNTED
        self.write(self._encoded(action), counts=counts)

    def _encoded(self, action: Send) -> bytes:
        """Return a message's bytes, or those of the ERROR that it is too large for this client's framing."""
        if isinstance(action.message, ErrorMessage):
            self._board.failed(action.message, self._session.client_id)
        try:
            return self._encode(action.message, action.message_id, action.payload_type, action.shape)
        except TooLargeError as error:
            refusal = self._session.error(error, _as_request(action))
            return self._encode(refusal.message, refusal.message_id, refusal.payload_type, refusal.shape)

    def _confirmed(self, action: Confirm) -> None:
        if self._journal is not None:
            try:
                self._journal.confirm(action.received)
            except InvalidRequestError as error:
                self._send(self._session.error(error, action.heartbeat))

    def _relay_decoded(self, received: Received) -> None:
        """Send a signal the long way: its target uses another encoding, or something about it is wrong."""
        signal, caller = received.message, self._caller
        assert isinstance(signal, Signal) and caller is not None  # noqa: S101, PT018 - the session says so
        try:
            ack = self._board.router.relay(
                caller, signal, received.message_id, later=partial(self._told_later, received)
            )
        except SignalManagerError as error:
            self._send(self._session.error(error, received))
            return
        self._board.relayed += 1
        if ack is Delivery.PENDING:
            self._away += 1
        elif isinstance(ack, SignalAck) and self._session.shape is not Shape.TAGGED:
            self._send(self._session.reply(ack, received))

    async def _authenticate(self, connect: Connect) -> None:
        session, board = self._session, self._board
        try:
            board.usage.check_authentication(self.source, time.monotonic())
            caller = await board.router.admit(connect)
            former = await self._former(caller, connect)
            claimed = await self._claim(caller, connect, former)
        except SignalManagerError as error:
            outcome = "unavailable" if error.may_retry else "refused"
            if isinstance(error, AuthenticationError):
                board.usage.authentication_failed(self.source, time.monotonic())
            elif isinstance(error, RateLimitedError):
                outcome = "limited"
            board.metrics.authentications.labelled(outcome).add()
            log.info("connection refused", client_id=connect.client_id, address=self.address, reason=error.message)
            self._perform(session.refused(error))
            self._release()
            return
        board.metrics.authentications.labelled("accepted").add()
        client_id = caller.identity.client_id
        if session.state is not State.AUTHENTICATING:  # the client has gone meanwhile
            if claimed.is_won:
                board.bus.release(client_id)
        elif not claimed.is_won:  # it is on another node by now
            self._perform(session.accepted(caller.identity, caller.session_id, now=time.monotonic()))
            self._perform(session.replaced(same_instance=False))
        else:
            if former is None and claimed.handed_over is not None:
                former = board.resumption.receive(client_id, claimed.handed_over)
                if former is not None:
                    board.start(board.resumption.adopt(former), name="adopt")
            self._welcome(caller, connect, former)
        if self._resumable is None or not self._resumable.is_busy:
            self._release()

    async def _former(self, caller: Caller, connect: Connect) -> ResumableSession | None:
        """Return the session that a client wants to go on with, if there is one."""
        if connect.resume is None or not self._may_resume(connect):
            return None
        return await self._board.resumption.find(connect.resume, caller.identity.client_id)

    async def _claim(self, caller: Caller, connect: Connect, former: ResumableSession | None) -> Claimed:
        """Have the other nodes let go of the client, and of its session where it wants to go on with that."""
        wants: bytes | None = None
        if connect.resume is not None and former is None and self._may_resume(connect):
            manner = Manner(self._framing, self._session.payload_type, self._session.shape)
            wants = self._board.resumption.ask(connect.resume, manner)
        return await self._board.bus.claim(caller.identity.client_id, connect.instance_id, wants=wants)

    def _may_resume(self, connect: Connect) -> bool:
        """Tell whether this client's session may outlive this connection: a tagged client knows nothing of it."""
        session = self._session
        return connect.resumable and session.shape is Shape.PLAIN and self._board.resumption.settings.window > 0

    def _welcome(self, caller: Caller, connect: Connect, former: ResumableSession | None) -> None:
        """Accept a client: to the session it had, with all that it misses, or to a new one."""
        session, resumption = self._session, self._board.resumption
        if not self._may_resume(connect):
            actions = session.accepted(caller.identity, caller.session_id, now=time.monotonic())
            self._join(caller, connect)
            self._board.bus.attach(caller.identity.client_id, self)
            self._perform(actions)
            return
        manner = Manner(self._framing, session.payload_type, session.shape)
        offer = connect.resume
        if offer is not None and resumption.judge(former, offer, caller.identity.client_id, manner) and former:
            caller = msgspec.structs.replace(caller, session_id=former.session_id)
            self._carry(former, caller, connect, missing_from=offer.received)
            return
        self._carry(resumption.open(self, caller, connect, manner), caller, connect, missing_from=None)

    def _carry(
        self, resumable: ResumableSession, caller: Caller, connect: Connect, *, missing_from: int | None
    ) -> None:
        """Make a session that outlives its connections go on here, from where its client was, or begin."""
        is_resumed = missing_from is not None
        terms = ResumeTerms(
            token=resumable.stay.token,
            window=resumable.stay.window,
            resumed=is_resumed,
            received=resumable.stay.journal.tell(),
        )
        actions = self._session.accepted(caller.identity, caller.session_id, now=time.monotonic(), resume=terms)
        self._join(caller, connect)
        missing: tuple[bytes, ...] = ()
        if missing_from is None:
            self._board.bus.attach(caller.identity.client_id, self)
        else:
            missing = resumable.resume(self, caller, missing_from)
        self._resumable, self._journal, self._pending = resumable, resumable.stay.journal, resumable.pending
        self._perform(actions)
        for data in missing:
            self.write(data, counts=False)

    def _join(self, caller: Caller, connect: Connect) -> None:
        """Make this connection its client's presence."""
        session = self._session
        self._caller = caller
        self._bucket = self._allowance.of_client(connect.client_id, time.monotonic())
        self.instance_id = connect.instance_id
        if self._framing is not Framing.JSON:
            self.relay_end = RelayEnd(connect.client_id, self._framing, session.payload_type, session.shape)
            self._relays = caller.identity.grants.signal_to is None
        log.info("connection authenticated", client_id=connect.client_id, address=self.address)

    def _dispatch(self, request: Received) -> None:
        """Have a request answered in the background, unless too many are being answered already."""
        caller = self._caller
        assert caller is not None  # noqa: S101 - the session dispatches established connections only
        if len(self._pending) >= PENDING_REQUESTS:
            error = RateLimitedError(f"{len(self._pending)} requests wait for their answers, expected fewer")
            self._send(self._session.error(error, request))
            return
        self._pending[id(request)] = request
        exclusive = self._board.router.is_exclusive(request.message)
        if exclusive:
            self._hold()
            if self._resumable is not None:
                self._resumable.is_busy = True
        self._board.start(self._answer(caller, request, self._resumable, exclusive=exclusive), name="answer")

    async def _answer(
        self, caller: Caller, request: Received, resumable: ResumableSession | None, *, exclusive: bool
    ) -> None:
        try:
            action = self._session.reply(await self._board.router.answer(caller, request.message), request)
        except SignalManagerError as error:
            action = self._session.error(error, request)
        except Exception:
            log.exception("request failed", client_id=caller.identity.client_id)
            action = self._session.error(SignalManagerError("internal error"), request)
        reply = self._encoded(action)
        if resumable is None:
            self.answered(request, reply, exclusive=exclusive)
            is_there = self._caller is not None
        else:
            is_there = resumable.answered(request, reply, exclusive=exclusive)
        if not is_there:  # the session has ended, and this request may have come in after that
            self._board.router.left(caller, _LOST)

    def _hold(self) -> None:
        """Let later messages wait."""
        self._held = []

    def _pause(self) -> None:
        """Let the socket wait with the messages, so that no more than one read's worth piles up.

        Most clients say nothing until they are answered, and are spared two calls of the kernel.
        """
        if self._transport is not None and not self._is_paused:
            self._is_paused = True
            self._transport.underlying_transport.pause_reading()

    def _release(self) -> None:
        """Handle what has waited, up to the next request that others must wait for."""
        waiting, self._held = self._held or [], None
        for index, (data, frame_type) in enumerate(waiting):
            self._take_or_hold(data, frame_type)
            if self._held is not None:
                self._held = waiting[index + 1 :]
                return
        transport = self._transport
        if self._is_paused and transport is not None and not transport.is_disconnected:
            self._is_paused = False
            transport.underlying_transport.resume_reading()

    # -- outbound ------------------------------------------------------------------------------------------------

    def _encode(self, message: Message, message_id: bytes | None, payload_type: PayloadType, shape: Shape) -> bytes:
        payload_type, payload = encode_payload(message, payload_type, shape, sent_by=Peer.SERVICE)
        message_type = spec_of(message).message_type
        frame = encode_frame(self._framing, message_type, message_id or uuid4().bytes, payload_type, payload)
        self._board.sent[message_type].value += 1
        return frame

    def write(self, data: bytes, *, counts: bool = True) -> None:
        """Write one message: at once, or with the others of this read; keep it where it `counts` for the session."""
        self._sent += 1
        if counts and self._journal is not None:
            self._journal.keep(data)
        board = self._board
        board.bytes_sent.value += len(data)
        if board.joining:
            if not self._outbound:
                board.written.append(self)
            size = len(data)
            first = 0x82 if self._framing is not Framing.JSON else 0x81
            # RFC 6455, section 5.2: a final, unmasked frame.
            if size < 126:
                self._outbound.append(bytes((first, size)))
            elif size < 65536:
                self._outbound.append(_MEDIUM(first, 126, size))
            else:
                self._outbound.append(_LONG(first, 127, size))
            self._outbound.append(data)
            self._waiting += size
            if self._waiting > _JOINED_BYTES:
                self.flush()
        elif self._transport is not None and (not self._is_behind or self._has_room(len(data))):
            self._transport.send(_BINARY if self._framing is not Framing.JSON else _TEXT, data)

    def _has_room(self, size: int) -> bool:
        """Tell whether a client that is behind may be sent `size` bytes more; if not, its connection ends."""
        transport = self._transport
        assert transport is not None  # noqa: S101 - without one, nothing can be behind
        if transport.underlying_transport.get_write_buffer_size() + size <= self._board.limits.outbound_queue_bytes:
            return True
        self._perform(self._session.fell_behind())
        return False

    def _break_off(self, code: CloseCode, reason: str) -> None:
        """Close because frames came that are no messages, or because handling one failed."""
        self._perform(self._session.broken(code, reason))

    def _close(self, code: CloseCode, reason: str) -> None:
        """Start the closing handshake; the socket is cut if the client does not take part in it."""
        transport = self._transport
        self._leave(_REASONS.get(code, _LOST), may_resume=code in _RESUMABLE)
        if transport is None:
            return
        if not transport.is_close_frame_sent:
            self._close_reason, self._outcome = f"{int(code)} {reason}", code.name.lower()
            self._say_good_bye(transport, code, reason)
        self._cut_later()

    def _say_good_bye(self, transport: WSTransport, code: int, reason: str) -> None:
        """Send the close frame, after all that has waited."""
        self.flush()
        transport.send_close(code, reason)  # type: ignore[arg-type]  # the stub has no private codes

    def _cut_later(self) -> None:
        if self._close_timer is None:
            self._close_timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.cut)

    def _leave(self, reason: str, *, may_resume: bool = False) -> None:
        """Stop being the client's presence; a session that may be resumed waits for its client instead."""
        caller, resumable = self._caller, self._resumable
        self._let_go()
        if caller is None:
            return
        if resumable is not None:
            if may_resume and resumable.suspend(self):
                return
            resumable.ended()
        self._board.bus.detach(caller.identity.client_id, self)
        self._board.depart(caller, reason)

    def _let_go(self) -> None:
        """Be nobody's presence any more: what still comes does not count, and what is written reaches nobody."""
        self._caller = None
        self._resumable = self._journal = None
        self._pending = {}
        self.relay_end = None
        self._relays = False


def _reason(transport: WSTransport) -> str:
    """Return why a connection ended that neither we nor the client closed: picows did, or the network."""
    handshake = transport.close_handshake
    sent = handshake.sent if handshake is not None else None
    return f"{int(sent.code)} {sent.reason}" if sent is not None else "connection lost"  # type: ignore[call-overload]


def _as_request(action: Send) -> Received:
    return Received(action.message, action.message_id or bytes(16), action.payload_type, action.shape)
