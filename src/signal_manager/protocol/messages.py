"""Every message of the protocol as a frozen struct, and the one table that lists them.

A new message type takes a struct and a row in `SPECS` (docs/protocol.md, "Message types"); the JSON and CBOR codecs
need nothing more, Protobuf a message of the same name in its schema, BINARY and TEXT a layout where they have one.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Annotated, Any, NamedTuple

import msgspec

from signal_manager.model import NAME_PATTERN

__all__ = [
    "MAX_TIMESTAMP",
    "PROTOCOL_VERSION",
    "SIGNAL_TYPES",
    "SPECS",
    "Connect",
    "ConnectAck",
    "Disconnect",
    "ErrorMessage",
    "GoAway",
    "Heartbeat",
    "HeartbeatAck",
    "Message",
    "MessageType",
    "PayloadType",
    "Peer",
    "Register",
    "RegisterAck",
    "Resume",
    "Shape",
    "Signal",
    "SignalAck",
    "SignalAnswer",
    "SignalIceCandidate",
    "SignalMessage",
    "SignalOffer",
    "Spec",
    "Unregister",
    "UnregisterAck",
    "spec_of",
]

PROTOCOL_VERSION = "1.0.0"

# `timestamp` is any u64.
MAX_TIMESTAMP = 2**64 - 1


class MessageType(IntEnum):
    """The second byte of a frame. Values up to 0x35 and 0xFF are the original service's and may not change."""

    CONNECT = 0x01
    CONNECT_ACK = 0x02
    DISCONNECT = 0x03
    HEARTBEAT = 0x04
    HEARTBEAT_ACK = 0x05
    GOAWAY = 0x06
    SIGNAL_OFFER = 0x10
    SIGNAL_ANSWER = 0x11
    SIGNAL_ICE_CANDIDATE = 0x12
    SIGNAL_MESSAGE = 0x13
    SIGNAL_ACK = 0x14
    REGISTER = 0x20
    REGISTER_ACK = 0x21
    UNREGISTER = 0x22
    UNREGISTER_ACK = 0x23
    ERROR = 0xFF


class PayloadType(IntEnum):
    """How a payload is written (docs/protocol.md, "Payload types")."""

    BINARY = 0x01
    JSON = 0x02
    TEXT = 0x03
    PROTOBUF = 0x04
    CBOR = 0x05


class Shape(StrEnum):
    """The two shapes of a JSON (and CBOR) object; TAGGED is what the original service's clients send."""

    PLAIN = "plain"
    TAGGED = "tagged"


class Peer(StrEnum):
    """Who sent a message: BINARY and TEXT signals look different in the two directions."""

    CLIENT = "client"
    SERVICE = "service"


Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
Count = Annotated[int, msgspec.Meta(ge=0)]
# In HTTP's manner; bounded so that every payload type can carry it.
StatusCode = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What all messages share: a field that has its default value may be absent on the wire."""


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """The session that a CONNECT asks to continue, and how many of its messages the client has received."""

    session_id: str
    resume_token: str
    received: Count


class Connect(Message, frozen=True, kw_only=True):
    """A client's first message."""

    client_id: Name
    auth_token: str
    version: str | None = None
    capabilities: list[str] | None = None
    metadata: dict[str, Any] | None = None
    instance_id: str | None = None
    resumable: bool = False
    resume: Resume | None = None


class ConnectAck(Message, frozen=True, kw_only=True):
    """The service's welcome. Intervals and windows are in seconds."""

    status: str
    session_id: str
    server_version: str | None = None
    heartbeat_interval: float | None = None
    heartbeat_timeout: float | None = None
    capabilities: list[str] | None = None
    resume_token: str | None = None
    resume_window: float | None = None
    resumed: bool = False
    received: Count | None = None


class Disconnect(Message, frozen=True, kw_only=True):
    """A client's good-bye; an empty payload is one too."""

    client_id: Name | None = None
    reason: str | None = None


class Heartbeat(Message, frozen=True, kw_only=True):
    """A sign of life from either side; an empty payload counts as timestamp 0."""

    timestamp: Count = 0
    received: Count | None = None


class HeartbeatAck(Message, frozen=True, kw_only=True):
    """The answer to a HEARTBEAT, with its timestamp. `server_time` is in ms since the epoch."""

    timestamp: Count
    server_time: Count | None = None


class GoAway(Message, frozen=True, kw_only=True):
    """The service is about to close; come back after `reconnect_after` ms."""

    reason: str
    reconnect_after: Count


class Signal(Message, frozen=True, kw_only=True):
    """What two clients tell each other; the service adds `sender_client_id` and passes it on.

    `signal_data` is a JSON value or bytes (docs/protocol.md, "Between encodings").
    """

    target_client_id: Name | None = None
    sender_client_id: Name | None = None
    signal_data: Any
    ack: bool = False


class SignalOffer(Signal, frozen=True, kw_only=True):
    """An SDP offer for another client."""


class SignalAnswer(Signal, frozen=True, kw_only=True):
    """An SDP answer for another client."""


class SignalIceCandidate(Signal, frozen=True, kw_only=True):
    """A trickled ICE candidate for another client."""


class SignalMessage(Signal, frozen=True, kw_only=True):
    """Application data for another client, or for all other members of `room_id`."""

    room_id: Name | None = None


class SignalAck(Message, frozen=True, kw_only=True):
    """What became of a signal that asked for `ack`: "delivered", "queued" or "offline"."""

    status: str
    target_client_id: Name | None = None


class Register(Message, frozen=True, kw_only=True):
    """Put the client's capabilities and metadata on record."""

    version: str = PROTOCOL_VERSION
    client_id: Name | None = None
    auth_token: str | None = None
    room_id: Name | None = None
    capabilities: list[str] | None = None
    metadata: dict[str, Any] | None = None


class RegisterAck(Message, frozen=True, kw_only=True):
    """The answer to REGISTER; `status` is 200."""

    version: str
    status: StatusCode
    message: str
    client_id: str
    session_id: str


class Unregister(Message, frozen=True, kw_only=True):
    """Take the client's record away again."""

    version: str = PROTOCOL_VERSION
    client_id: Name | None = None
    auth_token: str | None = None


class UnregisterAck(Message, frozen=True, kw_only=True):
    """The answer to UNREGISTER; `status` is 200."""

    version: str
    status: StatusCode
    message: str
    client_id: str


class ErrorMessage(Message, frozen=True, kw_only=True):
    """A refusal (docs/protocol.md, "Errors and close codes")."""

    error_code: StatusCode
    error_message: str
    details: dict[str, Any] | None = None
    retryable: bool = False


class Spec(NamedTuple):
    """One row of the table: a message type, its struct and its variant name in the tagged shape.

    `sent_by` is None for what either side may send. Types without a variant are never sent to a tagged connection.
    """

    message_type: MessageType
    struct: type[Message]
    variant: str | None
    sent_by: Peer | None


SPECS: dict[MessageType, Spec] = {
    spec.message_type: spec
    for spec in (
        Spec(MessageType.CONNECT, Connect, "Connect", Peer.CLIENT),
        Spec(MessageType.CONNECT_ACK, ConnectAck, "ConnectAck", Peer.SERVICE),
        Spec(MessageType.DISCONNECT, Disconnect, "Disconnect", Peer.CLIENT),
        Spec(MessageType.HEARTBEAT, Heartbeat, "Heartbeat", None),
        Spec(MessageType.HEARTBEAT_ACK, HeartbeatAck, "HeartbeatAck", None),
        Spec(MessageType.GOAWAY, GoAway, None, Peer.SERVICE),
        Spec(MessageType.SIGNAL_OFFER, SignalOffer, "SignalOffer", None),
        Spec(MessageType.SIGNAL_ANSWER, SignalAnswer, "SignalAnswer", None),
        Spec(MessageType.SIGNAL_ICE_CANDIDATE, SignalIceCandidate, "SignalIceCandidate", None),
        Spec(MessageType.SIGNAL_MESSAGE, SignalMessage, None, None),
        Spec(MessageType.SIGNAL_ACK, SignalAck, None, Peer.SERVICE),
        Spec(MessageType.REGISTER, Register, "Register", Peer.CLIENT),
        Spec(MessageType.REGISTER_ACK, RegisterAck, "RegisterAck", Peer.SERVICE),
        Spec(MessageType.UNREGISTER, Unregister, "Unregister", Peer.CLIENT),
        Spec(MessageType.UNREGISTER_ACK, UnregisterAck, "UnregisterAck", Peer.SERVICE),
        Spec(MessageType.ERROR, ErrorMessage, "Error", Peer.SERVICE),
    )
}

_BY_STRUCT: dict[type[Message], Spec] = {spec.struct: spec for spec in SPECS.values()}

SIGNAL_TYPES = frozenset(
    {
        MessageType.SIGNAL_OFFER,
        MessageType.SIGNAL_ANSWER,
        MessageType.SIGNAL_ICE_CANDIDATE,
        MessageType.SIGNAL_MESSAGE,
    }
)


def spec_of(message: Message) -> Spec:
    """Return the table row of a message object."""
    return _BY_STRUCT[type(message)]
