"""One client's WebSocket: its frames, the short ways of signals and heartbeats, and what is written to it.

The relay path is here, as short as it can be: read what routes a signal, look its target up, write. Everything else
is decoded, and talked about, in `gateway/conversation.py`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from time import perf_counter

import structlog
from picows import WSFrame, WSListener, WSMsgType, WSTransport

from signal_manager.bus.base import Delivery, Exceptional, Forwarder
from signal_manager.errors import SignalManagerError
from signal_manager.gateway.conversation import Conversation
from signal_manager.gateway.dispatcher import acknowledgement
from signal_manager.gateway.frames import Frames
from signal_manager.gateway.limits import BEFORE_CONNECT, Allowance, ClientAddress
from signal_manager.gateway.registry import ConnectionRegistry
from signal_manager.gateway.sessions import relay_each
from signal_manager.gateway.write_batch import WriteBatch
from signal_manager.model import ClientId, SessionId, taken_up_at
from signal_manager.protocol import heartbeat, relay
from signal_manager.protocol.close_codes import CloseCode
from signal_manager.protocol.framing import ID_AT, PAYLOAD_TYPE_AT, TYPE_AT, Framing
from signal_manager.protocol.messages import Connect, Message, MessageType, PayloadType, SignalAck
from signal_manager.protocol.relay import RelayedSignal, RelayEnd
from signal_manager.protocol.resume import Journal
from signal_manager.protocol.state_machine import ConnectionStateMachine, Received
from signal_manager.protocol.websocket import frame_head, is_text

__all__ = ["Connection"]

log = structlog.get_logger(__name__)

# One relayed signal of so many is timed: the clock costs as much as a part of the relay does.
_TIMED_ONE_OF = 64

# What one read causes for one client waits for the end of that read, but no more than this: beyond it, joining saves
# nothing, and only what was written shows whether the client keeps up (bytes).
_JOINED_BYTES = 65536

# What may be free in the read buffer of who has not proved anything: 16 KiB of a message, and what is read beside it.
_STRANGERS_BUFFER = 28_672
# Of one connection, in bytes, that nobody counts: what any message of 64 KiB takes.
_FREE_BUFFER = 131_072
_FREE_FRAGMENTS = 65_536

_BINARY = WSMsgType.BINARY
_TEXT = WSMsgType.TEXT


class Connection(WSListener):
    """A client's connection, from the upgrade to the end of the socket."""

    # While there is a connection, its client is not away.
    is_away: bool = False

    __slots__ = (
        "_allowance",
        "_bucket",
        "_buffered",
        "_conversation",
        "_counters",
        "_first_byte",
        "_frame_type",
        "_frames",
        "_framing",
        "_heard",
        "_held",
        "_is_partial",
        "_is_paused",
        "_journal",
        "_kept",
        "_next_tick",
        "_opened_at",
        "_outbound",
        "_registry",
        "_relays",
        "_session",
        "_transport",
        "_volume",
        "_waiting",
        "client_id",
        "instance_id",
        "is_behind",
        "received",
        "relay_end",
        "sent",
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
        self._counters = registry.counters  # a field, because the relay path reads it
        self._framing = framing
        # How its messages are framed (RFC 6455, section 5.2): a final, unmasked frame of text or of bytes.
        self._first_byte, self._frame_type = (0x81, _TEXT) if framing is Framing.JSON else (0x82, _BINARY)
        self.source = source
        self._opened_at = opened_at
        self._session = ConnectionStateMachine(registry.settings, now=self._opened_at, names_protocol=names_protocol)
        self._conversation = Conversation(self, registry, self._session, framing)
        self.client_id = ClientId("")  # the client that it proves to be
        self.instance_id: str | None = None
        self._transport: WSTransport | None = None
        self._frames: Frames | None = None
        self._journal: Journal | None = None  # of a session that may outlive this connection
        self.relay_end: RelayEnd | None = None  # once established on v1 or v2
        self._relays = False  # whether this client's signals may take the short way
        self._heard = False  # since the last tick
        self._next_tick = 0.0
        # Messages that wait for an exclusive request's reply, each with its frame type.
        self._held: list[tuple[bytes, WSMsgType]] | None = None
        self._is_paused = False  # whether the socket waits with them
        self._is_partial = False  # whether the rest of a message is still to come
        self._outbound: list[bytes] = []  # heads and messages, in turn, that wait for the end of this read
        self._waiting = 0  # bytes of these messages
        self.is_behind = False  # whether the client reads more slowly than others write to it
        self._allowance = Allowance(registry.occupancy.usage, now=opened_at)
        self._bucket = self._allowance.messages
        self._volume = self._allowance.volume
        self._buffered = self._kept = 0  # bytes of read buffer and of fragments, where they are many
        self.received = 0  # messages from the client
        self.sent = 0  # and to it

    # -- what picows calls ---------------------------------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Start the session."""
        self._transport = transport
        self._frames = Frames(transport, self, self._allowance)
        transport.underlying_transport.set_write_buffer_limits(high=self._registry.limits.write_buffer_bytes)
        # The handshake's headers are not needed again, and they are a tenth of what an idle connection costs.
        transport.request.headers.clear()
        transport.response.headers.clear()
        if self._registry.sample.takes("connection opened", time.monotonic()):
            log.info("connection opened", address=self.address, framing=self._framing.value)
        self._registry.metrics.connections_opened.labelled().add()
        no_room = self._registry.occupancy.enter(self)
        if no_room is not None:
            self._conversation.perform(self._session.turned_away(no_room))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Handle one frame, and write what a whole read has caused once its last frame was handled."""
        registry = self._registry
        batch = registry.batch
        last = frame.last_in_buffer
        if batch is None and not last:
            batch = registry.open_batch()
        try:
            self._heard = True
            if (
                frame.msg_type is _BINARY
                and frame.fin
                and not self._is_partial
                and self._held is None
                and not (frame.rsv1 or frame.rsv2 or frame.rsv3)
            ):
                data = frame.get_payload_as_bytes()
                size = len(data)
                self._counters.bytes_received.value += size
                bucket, volume = self._bucket, self._volume
                bucket.left = left = bucket.left - 1
                volume.left = room = volume.left - size
                if ((left >= 0 and room >= 0) or self._may_send(data)) and not (
                    self._relays and self._relay(data, batch)
                ):
                    self._take(data, _BINARY)
            else:
                assert self._frames is not None  # noqa: S101 - frames come after the upgrade
                self._is_partial = self._frames.handle(frame)
        except Exception:
            log.exception("connection failed", client_id=self._session.client_id)
            self.broken(CloseCode.INTERNAL, "internal error")
        finally:
            if last and batch is not None:
                registry.close_batch()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """End the session, whoever ended the connection."""
        frames = self._frames
        assert frames is not None  # noqa: S101 - it was connected
        frames.closed()
        self._registry.occupancy.leave(self)
        self._conversation.leave(may_resume=True)
        self._session.lost()
        self._registry.metrics.connections_closed.labelled(frames.outcome).add()
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
        """Take note that the client reads more slowly than others write to it."""
        self.is_behind = True

    def resume_writing(self) -> None:
        """Take note that the client has caught up."""
        self.is_behind = False

    # -- what the bus calls --------------------------------------------------------------------------------------------

    def deliver(self, message: Message, message_id: bytes | None = None) -> Delivery:
        """Send a message to this client in its own encoding (`Subscriber.deliver`)."""
        return self._conversation.deliver(message, message_id)

    def relay(self, sender: str, signals: Sequence[tuple[bytes, bytes]]) -> Sequence[Exceptional]:
        """Send signals of another node's client to this client (`Subscriber.relay`)."""
        end = self.relay_end
        if end is None:
            return relay_each(self.deliver, self.client_id, sender, signals)
        sent, batch = self._counters.sent, self._registry.batch
        origin, write = relay.sender_end(sender), relay.write
        exceptional: list[Exceptional] = []
        for place, (head, body) in enumerate(signals):
            outgoing = write(head, body, origin, end)
            if outgoing is None:
                odd = relay_each(self.deliver, self.client_id, sender, ((head, body),))
                exceptional += [(place, result) for _, result in odd]
            else:
                sent[head[TYPE_AT]].value += 1
                self.write(outgoing, batch)
        return exceptional

    def replaced(self, *, same_instance: bool) -> None:
        """End this connection in favour of a newer one (`Subscriber.replaced`)."""
        self._conversation.replaced(same_instance=same_instance)

    # -- what its session calls (`SessionConnection`) ------------------------------------------------------------------

    def handed_over(self) -> None:
        """Close, since the session goes on elsewhere (`SessionConnection.handed_over`)."""
        self._conversation.handed_over()

    def answered(self, request: Received, reply: bytes, *, exclusive: bool) -> None:
        """Send the reply to a request (`SessionConnection.answered`)."""
        self._conversation.answered(request, reply, exclusive=exclusive)

    # -- what operators see and do (`LiveSession`) ---------------------------------------------------------------------

    @property
    def is_established(self) -> bool:
        """Whether this is its client's presence now."""
        return self._conversation.is_established

    @property
    def session_id(self) -> SessionId:
        """The session that it carries."""
        return self._session.session_id or SessionId("")

    @property
    def taken_up_at(self) -> int:
        """When its user took up the device (`Subscriber.taken_up_at`)."""
        return taken_up_at(self.session_id)

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

    # -- what metrics ask for ------------------------------------------------------------------------------------------

    @property
    def queued_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._transport.underlying_transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def pending_requests(self) -> int:
        """Requests of the client that are being answered."""
        return len(self._conversation.pending)

    # -- what ends it --------------------------------------------------------------------------------------------------

    def evict(self) -> None:
        """End the connection because an operator says so."""
        self._conversation.perform(self._session.evicted())

    # -- what the server calls -----------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due at `now`: pings and time limits."""
        if self._heard:
            self._heard = False
            self._conversation.heard(now)
        # A client that never falls silent has deadlines too: that of its token.
        if now >= self._next_tick:
            deadline = self._conversation.tick(now)
            self._next_tick = now + 1.0 if deadline is None else deadline
        if self._transport is not None and self._frames is not None and self._transport.is_close_frame_sent:
            # picows ends a connection by itself where the client breaks the WebSocket protocol, but never cuts it.
            self._conversation.leave(may_resume=True)
            self._frames.cut_later()

    @property
    def is_answering(self) -> bool:
        """Whether requests of its client are being answered."""
        return self._conversation.is_answering

    def go_away(self, reconnect_after: int) -> None:
        """Tell the client that the service is about to stop (`RegisteredConnection.go_away`)."""
        self._conversation.perform(self._session.draining(reconnect_after=reconnect_after))

    def freeze(self) -> None:
        """Let nothing count that still comes; `part` says good-bye (`RegisteredConnection.freeze`)."""
        self._conversation.freeze()

    def part(self) -> None:
        """Say good-bye after `freeze` (`RegisteredConnection.part`)."""
        self._conversation.part()

    def give_way(self) -> None:
        """Say so, and close the socket without waiting for the client (`RegisteredConnection.give_way`)."""
        self._conversation.perform(self._session.turned_away("others want in"))
        self.cut()

    def cut(self) -> None:
        """Close the socket without waiting for the client."""
        if self._frames is not None:
            self._frames.cut()

    def flush(self) -> None:
        """Write the frames that have waited, in one go."""
        outbound = self._outbound
        if not outbound:
            return
        self._outbound = []
        count, data = len(outbound) // 2, b"".join(outbound)
        self.sent += count
        self._counters.bytes_sent.value += self._waiting
        self._waiting = 0
        if self._journal is not None:
            self._journal.keep(data, count)
        transport = self._transport
        if transport is None or transport.is_close_frame_sent or transport.is_disconnected:
            return
        if not self.is_behind or self._has_room(len(data)):
            transport.underlying_transport.write(data)

    # -- the short ways ------------------------------------------------------------------------------------------------

    def _relay(self, data: bytes, batch: WriteBatch | None) -> bool:
        """Send a signal the short way; False leaves it to the session and the codec."""
        registry = self._registry
        end = self.relay_end
        assert end is not None  # noqa: S101 - `_relays` says so
        signal = relay.read(data, end)
        if signal is None:
            return False
        relayed = self._counters.relayed[data[TYPE_AT]]
        began = 0.0 if relayed.value % _TIMED_ONE_OF else perf_counter()
        target = registry.bus.subscribers.get(signal.target_client_id)
        if target is None:
            return registry.forwarder is not None and self._forward(
                registry.forwarder, data, signal, is_alone=batch is None
            )
        if target.relay_end is None:
            return False
        outgoing = relay.write(data, signal.signal_data, end, target.relay_end)
        if outgoing is None:
            return False
        self.received += 1
        relayed.value += 1
        target.write(outgoing, batch)
        if began:
            if batch is None:
                self._counters.relay_seconds.observe(perf_counter() - began)
            else:
                batch.time(began)
        journal = self._journal
        if journal is not None and journal.take(len(data)):
            self._conversation.confirm()
        if signal.ack:
            self._conversation.acknowledge(signal.target_client_id, data, batch)
        return True

    def _forward(self, forwarder: Forwarder, data: bytes, signal: RelayedSignal, *, is_alone: bool) -> bool:
        """Send a signal to a client that is not here; False leaves it to the session, which says what is wrong."""
        target = signal.target_client_id
        try:
            forwarder.forward(self, target, data, signal.signal_data, wants_ack=signal.ack, is_alone=is_alone)
        except SignalManagerError:
            return False
        self.received += 1
        self._counters.forwarded[data[TYPE_AT]].value += 1
        journal = self._journal
        if journal is not None and journal.take(len(data)):
            self._conversation.confirm()
        return True

    def told(self, head: bytes, target: str, wants_ack: bool, result: Delivery | SignalManagerError) -> None:
        """Tell the client what became of a signal to a client of another node (`Sender.told`)."""
        told = acknowledgement(target, result, wants_ack=wants_ack)
        if told is not None:
            request = Received(
                SignalAck(status=""),
                head[ID_AT:PAYLOAD_TYPE_AT],
                PayloadType(head[PAYLOAD_TYPE_AT]),
                self._session.shape,
            )
            self._conversation.tell(request, told)

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
        self.received += 1
        self._counters.received[MessageType.HEARTBEAT].value += 1
        self._counters.sent[MessageType.HEARTBEAT_ACK].value += 1
        server_time = time.time_ns() // 1_000_000
        came = None if journal is None else journal.tell()
        answer = heartbeat.acknowledgement(data, beat, end, server_time=server_time, received=came)
        self.write(answer, counts=False)
        return True

    # -- what its read buffer calls (`BufferedConnection`) -------------------------------------------------------------

    def buffered(self, size: int) -> None:
        """Bound the read buffer of a stranger, and count that of a client (`BufferedConnection.buffered`)."""
        if self.is_established:
            if size > _FREE_BUFFER:
                self._buffered = size
                self._hold()
        # Free by half may be one that was filled, or a smaller one that holds nothing after a message.
        elif size > _STRANGERS_BUFFER or (size == _STRANGERS_BUFFER and not self.received):
            if self._held is None:
                self.broken(CloseCode.TOO_LARGE, f"message larger than {BEFORE_CONNECT} bytes before CONNECT")
            self._pause()  # for good, or until the credentials are checked

    def hold_less(self) -> None:
        """End, since this connection holds most of what messages that are not whole yet take."""
        self.broken(CloseCode.FULL, "too many messages that are not whole yet")
        self._pause()

    def _hold(self) -> None:
        self._registry.occupancy.hold(self, self._buffered + self._kept)

    # -- what its frames call (`FramedConnection`) ---------------------------------------------------------------------

    def message(self, data: bytes, frame_type: WSMsgType) -> None:
        """Let a message in if it is within the rate, and if text is text (RFC 6455, section 8.1)."""
        self._counters.bytes_received.value += len(data)
        self._bucket.left -= 1
        self._volume.left -= len(data)
        if (self._bucket.left < 0 or self._volume.left < 0) and not self._may_send(data):
            return
        if frame_type is _TEXT and not is_text(data):
            self.broken(CloseCode.NOT_TEXT, "text that is not UTF-8")
            return
        self._take_or_hold(data, frame_type)

    def keeps(self, size: int) -> None:
        """Count what is kept of a message in fragments (`FramedConnection.keeps`)."""
        kept = size if size > _FREE_FRAGMENTS else 0
        if kept != self._kept:
            self._kept = kept
            self._hold()

    def may_write(self, size: int) -> bool:
        """Tell whether the client may be sent so many bytes more (`FramedConnection.may_write`)."""
        return not self.is_behind or self._has_room(size)

    def hung_up(self, *, may_return: bool) -> None:
        """End the session, since the client has closed (`FramedConnection.hung_up`)."""
        self._session.lost()
        self._conversation.leave(may_resume=may_return)

    def broken(self, code: CloseCode, reason: str) -> None:
        """Close because a frame is invalid or its handling failed (`FramedConnection.broken`)."""
        self._conversation.perform(self._session.broken(code, reason))

    def insistent(self) -> None:
        """Close because the client goes beyond the rate for too long (`FramedConnection.insistent`)."""
        self._conversation.perform(self._session.insistent())

    # -- inbound -------------------------------------------------------------------------------------------------------

    def _may_send(self, data: bytes) -> bool:
        """Look whether the rates allow a message after all, and refuse it if not; what is left of one is below zero."""
        now = time.monotonic()
        refusal = self._allowance.refuse(now) if self._bucket.left < 0 else None
        if refusal is None and self._volume.left < 0:
            refusal = self._allowance.refuse_bytes(len(data), now)
        if refusal is None:
            return True
        self.received += 1
        if self._allowance.is_insistent(now):
            self.insistent()
        else:
            self._conversation.refuse(data, refusal)
        return False

    def _take_or_hold(self, data: bytes, frame_type: WSMsgType) -> None:
        """Handle a message now, or after the request that must be answered first."""
        if self._held is not None:
            self._held.append((data, frame_type))
            self._pause()
        elif not (frame_type is _BINARY and self._relays and self._relay(data, self._registry.batch)):
            self._take(data, frame_type)

    def _take(self, data: bytes, frame_type: WSMsgType) -> None:
        """Answer a heartbeat the short way, or leave the message to the conversation."""
        if self.relay_end is not None and frame_type is _BINARY and self._beat(data, self.relay_end):
            return
        self.received += 1
        self._conversation.take(data, is_text=frame_type is _TEXT)

    # -- what its conversation calls (`ConversationConnection`) --------------------------------------------------------

    def identified(self, connect: Connect, *, relays: bool) -> None:
        """Serve the client as what it has proved to be (`ConversationConnection.identified`)."""
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
        """Let the client's signals take the short way from now on, or not (`ConversationConnection.restrict`)."""
        self._relays = relays and self.relay_end is not None

    def keep_in(self, journal: Journal) -> None:
        """Count and keep all messages in this journal (`ConversationConnection.keep_in`)."""
        self._journal = journal

    def let_go(self) -> None:
        """Be nobody's presence any more (`ConversationConnection.let_go`)."""
        self.flush()  # what has been written to the client so far counts
        self._journal = None
        self.relay_end = None
        self._relays = False

    def ping(self) -> None:
        """Ask the other end whether it is there (`ConversationConnection.ping`)."""
        if self._transport is not None:
            self._transport.send_ping()

    def hold(self) -> None:
        """Let later messages wait (`ConversationConnection.hold`)."""
        self._held = []

    def _pause(self) -> None:
        """Let the socket wait with the messages, so that no more than one read's worth piles up.

        Most clients say nothing until they are answered, and are spared two calls of the kernel.
        """
        if self._transport is not None and not self._is_paused:
            self._is_paused = True
            self._transport.underlying_transport.pause_reading()

    def release(self) -> None:
        """Handle the messages that were held back, up to the next exclusive request."""
        self._next_tick = 0.0  # whoever has come into a room is looked after sooner
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

    # -- outbound ------------------------------------------------------------------------------------------------------

    def write(self, data: bytes, batch: WriteBatch | None = None, *, counts: bool = True) -> None:
        """Send one encoded message: with the others of `batch`, or at once (`ConversationConnection.write`)."""
        size = len(data)
        if batch is not None and counts:
            outbound = self._outbound
            if not outbound:
                batch.queues.append(self)
            outbound.append(frame_head(self._first_byte, size))
            outbound.append(data)
            self._waiting = waiting = self._waiting + size
            if waiting > _JOINED_BYTES:
                self.flush()
            return
        if self._waiting:
            self.flush()  # a run of messages that are kept has none between them that are not
        if counts and self._journal is not None:
            self._journal.keep(data)
        self.sent += 1
        self._counters.bytes_sent.value += size
        if self._transport is not None and (not self.is_behind or self._has_room(size)):
            self._transport.send(self._frame_type, data)

    def _has_room(self, size: int) -> bool:
        """Tell whether a client that is behind may be sent `size` bytes more; if not, its connection ends."""
        transport = self._transport
        assert transport is not None  # noqa: S101 - without one, nothing can be behind
        if transport.underlying_transport.get_write_buffer_size() + size <= self._registry.limits.outbound_queue_bytes:
            return True
        self._conversation.perform(self._session.fell_behind())
        return False

    def close(self, code: CloseCode, reason: str) -> None:
        """Start the closing handshake (`ConversationConnection.close`)."""
        if self._frames is not None:
            self._frames.close(code, reason)
