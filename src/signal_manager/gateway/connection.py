"""One client's WebSocket: its frames, and the fast paths of signals and heartbeats.

The relay path is here and is as short as it can be: read what routes a signal, look up its target, write. Every other
message is decoded in `gateway/conversation.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from time import perf_counter

import structlog
from picows import WSUpgradeResponse
from picows.picows import WSFrame, WSListener, WSMsgType, WSTransport

from signal_manager.bus.base import Delivery, Exceptional, Forwarder
from signal_manager.errors import SignalManagerError
from signal_manager.gateway.conversation import Conversation
from signal_manager.gateway.dispatcher import acknowledgement
from signal_manager.gateway.frames import Frames
from signal_manager.gateway.inbound import Inbound
from signal_manager.gateway.limits import Allowance, ClientAddress
from signal_manager.gateway.outgoing import Outgoing
from signal_manager.gateway.registry import ConnectionRegistry
from signal_manager.gateway.sessions import relay_each
from signal_manager.gateway.write_batch import WriteBatch
from signal_manager.model import ClientId, SessionId, taken_up_at
from signal_manager.observe.logs import tells
from signal_manager.protocol import heartbeat
from signal_manager.protocol.close_codes import CloseCode
from signal_manager.protocol.framing import ID_AT, PAYLOAD_TYPE_AT, TYPE_AT, Framing
from signal_manager.protocol.journal import Journal
from signal_manager.protocol.messages import Connect, Message, MessageType, PayloadType, SignalAck
from signal_manager.protocol.relay import RelayedSignal, RelayEnd, sender_end
from signal_manager.protocol.state_machine import ConnectionStateMachine, Received
from signal_manager.protocol.websocket import is_text

__all__ = ["Connection"]

log = structlog.get_logger(__name__)

# One relayed signal of so many is timed: reading the clock costs as much as a part of the relay.
_TIMED_ONE_OF = 64

# In place of those of the handshake.
_NO_HEADERS = WSUpgradeResponse.create_101_response().headers
_NO_HEADERS.clear()

_BINARY = WSMsgType.BINARY
_TEXT = WSMsgType.TEXT


class Connection(WSListener):
    """A client's connection, from the upgrade to the end of the socket.

    Large because picows, the bus, operators and the relay path each need methods of one object, and because the relay
    path reads fields of the connection: a field is cheaper than a hop to another object.

    Args:
        registry: what all connections share.
        framing: how messages are wrapped.
        source: where the client comes from.
        opened_at: when the socket was accepted, on the monotonic clock.
        names_protocol: whether the client asked for a subprotocol.

    Attributes:
        conversation: the decoded messages.
        inbound: what was received and is not handled.
        outgoing: what is written.
        client_id: the client, once it is authenticated.
        has_seat: whether it takes one of `max_connections` (`Occupancy`).
        instance_id: what the client calls the running copy of itself.
        relay_end: how the relay path reads and writes this client's signals; None where it cannot.
        received: messages from the client.
    """

    # While a connection exists, its client is not away.
    is_away = False

    __slots__ = (
        "_allowance",
        "_bucket",
        "_context",
        "_counters",
        "_frames",
        "_framing",
        "_heard",
        "_is_partial",
        "_journal",
        "_next_tick",
        "_opened_at",
        "_registry",
        "_relays",
        "_session",
        "_volume",
        "client_id",
        "conversation",
        "has_seat",
        "inbound",
        "instance_id",
        "outgoing",
        "received",
        "relay_end",
        "source",
    )

    def __init__(
        self,
        registry: ConnectionRegistry,
        framing: Framing,
        *,
        source: ClientAddress,
        opened_at: float,
        names_protocol: bool = True,
    ) -> None:
        super().__init__()
        self._registry = registry
        self._context = registry.relay_context
        self._counters = registry.counters
        self._framing = framing
        self.source = source
        self._opened_at = opened_at
        self._session = ConnectionStateMachine(registry.settings, now=self._opened_at, names_protocol=names_protocol)
        self.conversation = conversation = Conversation(self, registry, self._session, framing)
        self.inbound = Inbound(self, conversation, registry.occupancy)
        self.outgoing = Outgoing(
            conversation,
            framing,
            limit=registry.limits.outbound_queue_bytes,
            bytes_sent=registry.counters.bytes_sent,
        )
        self.client_id = ClientId("")
        self.has_seat = False
        self.instance_id: str | None = None
        self._frames: Frames | None = None
        self._journal: Journal | None = None  # of a session that may outlive this connection
        self.relay_end: RelayEnd | None = None
        self._relays = False  # whether this client's signals may take the relay path
        self._heard = False  # since the last tick
        self._next_tick = 0.0
        self._is_partial = False  # whether fragments of a message are still to come
        self._allowance = Allowance(registry.occupancy.usage, now=opened_at)
        self._bucket = self._allowance.messages
        self._volume = self._allowance.volume
        self.received = 0

    # -- what picows calls ---------------------------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Start the session."""
        registry = self._registry
        self._frames = Frames(
            transport,
            self,
            conversation=self.conversation,
            inbound=self.inbound,
            outgoing=self.outgoing,
            allowance=self._allowance,
        )
        self.inbound.open(transport)
        self.outgoing.open(transport, write_buffer=registry.limits.write_buffer_bytes)
        # The handshake is not needed again, and it is a tenth of what an idle connection costs.
        request = transport.request
        request.method = request.path = request.version = b""
        request.headers = transport.response.headers = _NO_HEADERS
        if tells(logging.INFO) and registry.sample.takes("connection opened", time.monotonic()):
            log.info("connection opened", address=self.address, framing=self._framing.value)
        registry.metrics.connections_opened.labelled().add()
        no_room = registry.occupancy.enter(self)
        if no_room is not None:
            self.conversation.turned_away(no_room)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Handle one frame; the last frame of a read writes what the whole read has caused."""
        context = self._context
        batch = context.batch
        last = frame.last_in_buffer
        if batch is None and not last:
            batch = context.open_batch()
        try:
            self._heard = True
            if (
                frame.msg_type == _BINARY
                and frame.fin
                and not self._is_partial
                and self.inbound.held is None
                and not (frame.rsv1 or frame.rsv2 or frame.rsv3)
            ):
                data = frame.get_payload_as_bytes()
                size = len(data)
                self._counters.bytes_received.value += size
                bucket, volume = self._bucket, self._volume
                bucket.left = left = bucket.left - 1
                volume.left = room = volume.left - size
                if not ((left >= 0 and room >= 0) or self._may_send(data)):
                    return
                if not (self._relays and self._relay(data, batch)):
                    self._take(data, _BINARY)
            else:
                assert self._frames is not None  # noqa: S101 - frames come after the upgrade
                self._is_partial = self._frames.handle(frame)
        except Exception:
            log.exception("connection failed", client_id=self._session.client_id)
            self.conversation.broken(CloseCode.INTERNAL, "internal error")
        finally:
            if last and batch is not None:
                context.close_batch()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """End the session, whichever side ended the connection."""
        frames = self._frames
        assert frames is not None  # noqa: S101 - it was connected
        frames.closed()
        self.inbound.closed()
        self._registry.occupancy.leave(self)
        self.conversation.leave(may_resume=True)
        self._session.lost()
        self._registry.metrics.connections_closed.labelled(frames.outcome).add()
        if not tells(logging.INFO):
            return
        if not self.client_id and not self._registry.sample.takes("connection closed", time.monotonic()):
            return
        log.info(
            "connection closed",
            client_id=self._session.client_id,
            address=self.address,
            reason=frames.reason,
            duration=round(time.monotonic() - self._opened_at, 3),
            received=self.received,
            sent=self.sent,
        )

    def pause_writing(self) -> None:
        """Note that the client reads more slowly than others write to it."""
        self.outgoing.is_behind = True

    def resume_writing(self) -> None:
        """Note that the client has caught up."""
        self.outgoing.is_behind = False

    # -- what the bus calls (`RelayTarget`, `Sender`) ------------------------------------------------------------

    def write(self, data: bytes, batch: WriteBatch | None = None, *, counts: bool = True) -> None:
        """Send one encoded message (`RelayTarget.write`, `ConversationConnection.write`)."""
        self.outgoing.write(data, batch, counts=counts)

    def deliver(self, message: Message, message_id: bytes | None = None) -> Delivery:
        """Send a message to this client in its own encoding (`Subscriber.deliver`)."""
        return self.conversation.deliver(message, message_id)

    def relay(self, sender: str, signals: Sequence[tuple[bytes, bytes]]) -> Sequence[Exceptional]:
        """Send signals of another node's client to this client (`Subscriber.relay`)."""
        end = self.relay_end
        if end is None:
            return relay_each(self.deliver, self.client_id, sender, signals)
        sent, batch, write = self._counters.sent, self._context.batch, self.outgoing.write
        origin = sender_end(sender)
        exceptional: list[Exceptional] = []
        for place, (head, body) in enumerate(signals):
            outgoing = end.write(head, body, origin)
            if outgoing is None:
                odd = relay_each(self.deliver, self.client_id, sender, ((head, body),))
                exceptional += [(place, result) for _, result in odd]
            else:
                sent[head[TYPE_AT]].value += 1
                write(outgoing, batch)
        return exceptional

    def replaced(self, *, same_instance: bool) -> None:
        """End this connection in favour of a newer one (`Subscriber.replaced`)."""
        self.conversation.replaced(same_instance=same_instance)

    def told(self, head: bytes, target: str, wants_ack: bool, result: Delivery | SignalManagerError) -> None:
        """Tell the client the outcome of a signal to a client of another node (`Sender.told`)."""
        told = acknowledgement(target, result, wants_ack=wants_ack)
        if told is not None:
            message_id, payload_type = head[ID_AT:PAYLOAD_TYPE_AT], PayloadType(head[PAYLOAD_TYPE_AT])
            request = Received(SignalAck(status=""), message_id, payload_type, self._session.shape)
            self.conversation.tell(request, told)

    # -- what operators see and do (`LiveSession`) -----------------------------------------------------------------

    @property
    def is_established(self) -> bool:
        """Whether the client is authenticated and this connection represents it."""
        return self.conversation.is_established

    @property
    def session_id(self) -> SessionId:
        """The id of the session that the connection carries."""
        return self._session.session_id or SessionId("")

    @property
    def taken_up_at(self) -> int:
        """When the user took up the device (`Subscriber.taken_up_at`)."""
        return taken_up_at(self.session_id)

    @property
    def address(self) -> str:
        """The client's address."""
        return self.source.text

    @property
    def framing(self) -> str:
        """How messages are wrapped."""
        return self._framing.value

    @property
    def encoding(self) -> str:
        """How the client writes payloads."""
        return self._session.payload_type.name.lower()

    @property
    def age(self) -> float:
        """Seconds since the socket was accepted."""
        return time.monotonic() - self._opened_at

    @property
    def sent(self) -> int:
        """Messages to the client."""
        return self.outgoing.sent

    def evict(self) -> None:
        """End the connection because an operator asked for it."""
        self.conversation.evict()

    # -- what the registry and the occupancy call ------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Send pings and enforce the time limits that have passed at `now`."""
        if self._heard:
            self._heard = False
            self.conversation.heard(now)
        # A client that never falls silent has deadlines too, such as the end of its token.
        if now >= self._next_tick:
            deadline = self.conversation.tick(now)
            self._next_tick = now + 1.0 if deadline is None else deadline
        if self._frames is not None and self._frames.is_closing:
            # picows closes a connection by itself if the client breaks the WebSocket protocol, but never cuts it.
            self.conversation.leave(may_resume=True)
            self._frames.cut_later()

    def give_way(self) -> None:
        """Close the socket at once to make room for other connections."""
        self.conversation.turned_away("others want in")
        self.cut()

    def cut(self) -> None:
        """Close the socket without waiting for the client."""
        if self._frames is not None:
            self._frames.cut()

    # -- fast paths ------------------------------------------------------------------------------------------------

    def _relay(self, data: bytes, batch: WriteBatch | None) -> bool:
        """Relay a signal without decoding it; return False to leave it to the state machine and the codec."""
        context = self._context
        end = self.relay_end
        assert end is not None  # noqa: S101 - `_relays` implies it
        signal = end.read(data)
        if signal is None:
            return False
        relayed = self._counters.relayed[data[TYPE_AT]]
        began = 0.0 if relayed.value % _TIMED_ONE_OF else perf_counter()
        target = context.subscribers.get(signal.target_client_id)
        if target is None:
            forwarder = context.forwarder
            return forwarder is not None and self._forward(forwarder, data, signal, is_alone=batch is None)
        if not isinstance(target, Connection):
            return False  # a session whose client is away
        receiver = target
        if receiver.relay_end is None:
            return False
        outgoing = receiver.relay_end.write(data, signal.signal_data, end)
        if outgoing is None:
            return False
        self.received += 1
        relayed.value += 1
        if batch is None:
            receiver.outgoing.send(outgoing)
        else:
            receiver.outgoing.queue(outgoing, batch)
        if began:
            if batch is None:
                self._counters.relay_seconds.observe(perf_counter() - began)
            else:
                batch.time(began)
        journal = self._journal
        if journal is not None and journal.take(len(data)):
            self.conversation.confirm()
        if signal.ack:
            self.conversation.acknowledge(signal.target_client_id, data, batch)
        return True

    def _forward(self, forwarder: Forwarder, data: bytes, signal: RelayedSignal, *, is_alone: bool) -> bool:
        """Send a signal to another node; return False to leave it to the state machine, which builds the error."""
        target = signal.target_client_id
        try:
            forwarder.forward(self, target, data, signal.signal_data, wants_ack=signal.ack, is_alone=is_alone)
        except SignalManagerError:
            return False
        self.received += 1
        self._counters.forwarded[data[TYPE_AT]].value += 1
        journal = self._journal
        if journal is not None and journal.take(len(data)):
            self.conversation.confirm()
        return True

    def _beat(self, data: bytes, end: RelayEnd) -> bool:
        """Answer a HEARTBEAT without decoding it; return False to leave it to the state machine and the codec."""
        beat = heartbeat.read(data, end) if not end.is_tagged else None
        if beat is None:
            return False
        journal = self._journal
        if journal is not None and beat.received is not None:
            if beat.received > journal.sent:
                return False  # the slow path builds the error
            journal.confirm(beat.received)
        self.received += 1
        self._counters.received[MessageType.HEARTBEAT].value += 1
        self._counters.sent[MessageType.HEARTBEAT_ACK].value += 1
        server_time = time.time_ns() // 1_000_000
        came = None if journal is None else journal.tell()
        answer = heartbeat.acknowledgement(data, beat, end, server_time=server_time, received=came)
        self.outgoing.send(answer, False)  # by place: a C function takes no names
        return True

    # -- what is received ------------------------------------------------------------------------------------------

    def buffered(self, size: int) -> None:
        """Check a read buffer that has grown and now has `size` bytes free (`BufferedConnection.buffered`)."""
        self.inbound.buffered(size)

    def message(self, data: bytes, frame_type: WSMsgType) -> None:
        """Check a message's rate and its UTF-8 (RFC 6455, section 8.1), then handle it (`FramedConnection.message`)."""
        self._counters.bytes_received.value += len(data)
        self._bucket.left -= 1
        self._volume.left -= len(data)
        if (self._bucket.left < 0 or self._volume.left < 0) and not self._may_send(data):
            return
        if frame_type is _TEXT and not is_text(data):
            self.conversation.broken(CloseCode.NOT_TEXT, "text that is not UTF-8")
            return
        self.inbound.accept(data, frame_type)

    def handle(self, data: bytes, frame_type: WSMsgType) -> None:
        """Handle a message that nothing holds back (`ReceivingConnection.handle`)."""
        if not (frame_type is _BINARY and self._relays and self._relay(data, self._context.batch)):
            self._take(data, frame_type)

    def _take(self, data: bytes, frame_type: WSMsgType) -> None:
        """Answer a heartbeat, or leave the message to the conversation."""
        if self.relay_end is not None and frame_type is _BINARY and self._beat(data, self.relay_end):
            return
        self.received += 1
        self.conversation.take(data, is_text=frame_type is _TEXT)

    def _may_send(self, data: bytes) -> bool:
        """Check the rates of a message for which `left` was counted below zero; refuse it if they are exceeded."""
        now = time.monotonic()
        refusal = self._allowance.refuse(now) if self._bucket.left < 0 else None
        if refusal is None and self._volume.left < 0:
            refusal = self._allowance.refuse_bytes(len(data), now)
        if refusal is None:
            return True
        self.received += 1
        if self._allowance.is_insistent(now):
            self.conversation.insistent()
        else:
            self.conversation.refuse(data, refusal)
        return False

    # -- what its conversation calls (`ConversationConnection`) ----------------------------------------------------

    def identified(self, connect: Connect, *, relays: bool) -> None:
        """Treat the client as authenticated (`ConversationConnection.identified`)."""
        session = self._session
        self._bucket = self._allowance.of_client(connect.client_id, time.monotonic())
        self._volume = self._allowance.volume
        if self._frames is not None:
            self._frames.longest = self._registry.limits.largest_message
        self.client_id = ClientId(connect.client_id)
        self.instance_id = connect.instance_id
        if self._framing is not Framing.JSON:
            self.relay_end = RelayEnd(connect.client_id, self._framing, session.payload_type, session.shape)
            self._relays = relays

    def restrict(self, *, relays: bool) -> None:
        """Change whether the client's signals take the relay path (`ConversationConnection.restrict`)."""
        self._relays = relays and self.relay_end is not None

    def keep_in(self, journal: Journal) -> None:
        """Count and keep all messages in this journal (`ConversationConnection.keep_in`)."""
        self._journal = self.outgoing.journal = journal

    def let_go(self) -> None:
        """Detach from the client: stop counting input and stop relaying (`ConversationConnection.let_go`)."""
        self.outgoing.flush()  # what was written to the client so far counts
        self._journal = self.outgoing.journal = None
        self.relay_end = None
        self._relays = False

    def ping(self) -> None:
        """Send a WebSocket ping (`ConversationConnection.ping`)."""
        if self._frames is not None:
            self._frames.ping()

    def hold(self) -> None:
        """Hold back the messages that arrive from now on (`ConversationConnection.hold`)."""
        self.inbound.hold()

    def release(self) -> None:
        """Handle the messages that were held back (`ConversationConnection.release`)."""
        self._next_tick = 0.0  # a client that has joined a room has an earlier deadline
        self.inbound.release()

    def close(self, code: CloseCode, reason: str) -> None:
        """Start the closing handshake (`ConversationConnection.close`)."""
        if self._frames is not None:
            self._frames.close(code, reason)
