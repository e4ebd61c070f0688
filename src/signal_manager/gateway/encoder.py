"""How the messages to one client are encoded."""

from __future__ import annotations

import time
from uuid import uuid4

import msgspec

from signal_manager.errors import InvalidRequestError, TooLargeError
from signal_manager.gateway.counters import GatewayCounters, SentErrors
from signal_manager.protocol import heartbeat
from signal_manager.protocol.catalogue import spec_of
from signal_manager.protocol.codec import encode_payload
from signal_manager.protocol.codec.fields import raw_signal_data
from signal_manager.protocol.framing import ID_AT, PAYLOAD_TYPE_AT, Framing, encode_frame
from signal_manager.protocol.messages import (
    ErrorMessage,
    Heartbeat,
    Message,
    MessageType,
    PayloadType,
    Peer,
    Shape,
    Signal,
    SignalAck,
)
from signal_manager.protocol.relay import RelayEnd
from signal_manager.protocol.state_machine import ConnectionStateMachine, Received, Send

__all__ = ["LastMessage", "MessageEncoder"]


class LastMessage:
    """The frames of the message that was encoded last: a room event goes to many members, one after the other.

    It is encoded once for each wire format, which is framing, payload type and shape. All frames have the same message
    id.
    """

    __slots__ = ("_frames", "_given_id", "_message", "message_id")

    def __init__(self) -> None:
        self._message: Message | None = None
        self._given_id: bytes | None = None
        self._frames: dict[tuple[Framing, PayloadType, Shape], bytes] = {}
        self.message_id = b""

    def frames_of(self, message: Message, given_id: bytes | None) -> dict[tuple[Framing, PayloadType, Shape], bytes]:
        """Return the frames of a message by wire format; the caller adds the one that it misses.

        Args:
            given_id: its message id; None for one of its own, which is `message_id` from now on.
        """
        if message is not self._message or given_id != self._given_id:
            self._message, self._given_id, self._frames = message, given_id, {}
            self.message_id = given_id or uuid4().bytes
        return self._frames


class MessageEncoder:
    """Encode the messages to one client, and count them.

    Args:
        session: knows the payload type and the shape that the client uses.
        framing: how messages are wrapped.
        counters: counts messages by type.
        errors: remembers the errors that are sent.
        last: the message that was encoded last for any client.
    """

    __slots__ = ("_counters", "_errors", "_framing", "_last", "_session")

    def __init__(
        self,
        session: ConnectionStateMachine,
        framing: Framing,
        counters: GatewayCounters,
        errors: SentErrors,
        last: LastMessage,
    ) -> None:
        self._session = session
        self._framing = framing
        self._counters = counters
        self._errors = errors
        self._last = last

    def message(self, message: Message, message_id: bytes | None) -> bytes:
        """Return a message in the client's own encoding.

        Raises:
            InvalidRequestError: the client's protocol has no such message.
            TooLargeError: the message does not fit the client's framing.
        """
        session = self._session
        if session.shape is not Shape.TAGGED:
            return self._encode_once(message, message_id)
        if spec_of(message).variant is None:
            raise InvalidRequestError(f"the target's protocol has no {spec_of(message).message_type.name}")
        if not isinstance(message, Signal):
            return self._encode(message, message_id, session.payload_type, session.shape)
        signal = _with_text(message)
        try:
            return self._encode(signal, message_id, session.payload_type, session.shape)
        except TooLargeError:
            # As `RelayEnd.write` does: without its sender it may fit, and clients of the original service know of none.
            signal = msgspec.structs.replace(signal, sender_client_id=None)
            return self._encode(signal, message_id, session.payload_type, session.shape)

    def reply(self, action: Send) -> bytes:
        """Return what an action sends, or an ERROR if that is too large for the client's framing."""
        if isinstance(action.message, ErrorMessage):
            self._errors.record(action.message, self._session.client_id)
        try:
            return self._encode(action.message, action.message_id, action.payload_type, action.shape)
        except TooLargeError as error:
            refusal = self._session.error(error, _as_request(action))
            return self._encode(refusal.message, refusal.message_id, refusal.payload_type, refusal.shape)

    def acknowledgement(self, target: str, signal: bytes) -> bytes | None:
        """Return the SIGNAL_ACK for a delivered signal's frame; None for a client that knows no such message."""
        if self._session.shape is Shape.TAGGED:
            return None
        ack = SignalAck(status="delivered", target_client_id=target)
        payload_type = PayloadType(signal[PAYLOAD_TYPE_AT])
        return self._encode(ack, signal[ID_AT:PAYLOAD_TYPE_AT], payload_type, self._session.shape)

    def confirmation(self, end: RelayEnd | None, received: int) -> bytes:
        """Return a HEARTBEAT that confirms how many messages the service has received.

        Args:
            end: encodes it without the codec where the client uses JSON.
            received: the number of messages.
        """
        session, timestamp = self._session, time.time_ns() // 1_000_000
        if end is not None and session.payload_type is PayloadType.JSON:  # only plain sessions can be resumed
            self._counters.sent[MessageType.HEARTBEAT].value += 1
            return heartbeat.confirmation(end, uuid4().bytes, timestamp=timestamp, received=received)
        message = Heartbeat(timestamp=timestamp, received=received)
        return self._encode(message, None, session.payload_type, session.shape)

    def _encode_once(self, message: Message, message_id: bytes | None) -> bytes:
        """Return a message that may go to many clients."""
        session = self._session
        frames = self._last.frames_of(message, message_id)
        wire_format = (self._framing, session.payload_type, session.shape)
        frame = frames.get(wire_format)
        if frame is None:
            frame = self._encode(message, self._last.message_id, session.payload_type, session.shape)
            frames[wire_format] = frame
        else:
            self._counters.sent[spec_of(message).message_type].value += 1
        return frame

    def _encode(self, message: Message, message_id: bytes | None, payload_type: PayloadType, shape: Shape) -> bytes:
        payload_type, payload = encode_payload(message, payload_type, shape, sent_by=Peer.SERVICE)
        message_type = spec_of(message).message_type
        frame = encode_frame(self._framing, message_type, message_id or uuid4().bytes, payload_type, payload)
        self._counters.sent[message_type].value += 1
        return frame


def _as_request(action: Send) -> Received:
    return Received(action.message, action.message_id or bytes(16), action.payload_type, action.shape)


def _with_text(signal: Signal) -> Signal:
    """Return a signal whose data is text: the original's clients end their connection at any other JSON value."""
    data = signal.signal_data
    if isinstance(data, str | bytes):
        return signal
    return msgspec.structs.replace(signal, signal_data=raw_signal_data(data).decode())
