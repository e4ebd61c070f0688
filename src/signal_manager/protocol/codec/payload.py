"""Decodes and encodes payloads of any type. Callers of the codec need only this module.

Every codec module returns a message or raises `MalformedMessageError`, for any input.
"""

from __future__ import annotations

from typing import assert_never

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol.catalogue import SIGNAL_TYPES, SPECS
from signal_manager.protocol.codec import binary, cbor, json, protobuf, text
from signal_manager.protocol.codec.bounds import MAX_REQUEST
from signal_manager.protocol.codec.fields import Decoded
from signal_manager.protocol.messages import Message, MessageType, PayloadType, Peer, Shape

__all__ = ["decode_payload", "encode_payload", "guess_shape"]

# The beginning of every tagged object.
_TAGS = tuple(b'{"%b"' % spec.variant.encode() for spec in SPECS.values() if spec.variant is not None)
_MAY_BE_EMPTY = frozenset({MessageType.HEARTBEAT, MessageType.DISCONNECT, MessageType.ICE_SERVERS})


def decode_payload(message_type: MessageType, payload_type: PayloadType, payload: bytes, *, sent_by: Peer) -> Decoded:
    """Return the message that a frame's payload holds, and the shape of its object.

    Args:
        sent_by: the side that wrote the payload. Signals differ by direction; a client's `sender_client_id` is ignored.

    Raises:
        MalformedMessageError: the payload is not such a message.
    """
    if not payload:
        if message_type not in _MAY_BE_EMPTY:
            raise MalformedMessageError(f"{message_type.name} payload is empty")
        return Decoded(SPECS[message_type].struct(), Shape.PLAIN)
    if len(payload) > MAX_REQUEST and sent_by is Peer.CLIENT and message_type not in SIGNAL_TYPES:
        raise MalformedMessageError(
            f"{message_type.name} payload is {len(payload)} bytes, expected at most {MAX_REQUEST}"
        )
    try:
        return _decode(message_type, payload_type, payload, sent_by)
    except MalformedMessageError as error:
        raise MalformedMessageError(f"{message_type.name} payload: {error.message}") from error


def guess_shape(payload_type: PayloadType, payload: bytes) -> Shape | None:
    """Guess the shape of an unreadable payload, so that its sender can read the ERROR.

    None means that it may be either: the payload is no JSON object. CBOR and Protobuf are never the original's.
    """
    if payload_type in {PayloadType.PROTOBUF, PayloadType.CBOR}:
        return Shape.PLAIN
    start = payload.lstrip()
    if payload_type is PayloadType.JSON and start.startswith(_TAGS):
        return Shape.TAGGED
    return Shape.PLAIN if payload_type is PayloadType.JSON and start.startswith(b'{"') else None


def encode_payload(
    message: Message, payload_type: PayloadType, shape: Shape, *, sent_by: Peer
) -> tuple[PayloadType, bytes]:
    """Return a message as a payload of the given type, or of type JSON if it has no form in that type.

    Args:
        shape: the shape of the object in JSON and CBOR; the other payload types ignore it.
        sent_by: the side that sends the payload.
    """
    payload = _encode(message, payload_type, shape, sent_by)
    return (PayloadType.JSON, json.encode(message, shape)) if payload is None else (payload_type, payload)


def _decode(message_type: MessageType, payload_type: PayloadType, payload: bytes, sent_by: Peer) -> Decoded:
    match payload_type:
        case PayloadType.JSON:
            return json.decode(message_type, payload, sent_by=sent_by)
        case PayloadType.CBOR:
            return cbor.decode(message_type, payload, sent_by=sent_by)
        case PayloadType.BINARY:
            return Decoded(binary.decode(message_type, payload, sent_by=sent_by), Shape.PLAIN)
        case PayloadType.TEXT:
            return Decoded(text.decode(message_type, payload, sent_by=sent_by), Shape.PLAIN)
        case PayloadType.PROTOBUF:
            return Decoded(protobuf.decode(message_type, payload, sent_by=sent_by), Shape.PLAIN)
        case _:
            assert_never(payload_type)


def _encode(message: Message, payload_type: PayloadType, shape: Shape, sent_by: Peer) -> bytes | None:
    match payload_type:
        case PayloadType.JSON:
            return json.encode(message, shape)
        case PayloadType.CBOR:
            return cbor.encode(message, shape)
        case PayloadType.BINARY:
            return binary.encode(message, sent_by=sent_by)
        case PayloadType.TEXT:
            return text.encode(message, sent_by=sent_by)
        case PayloadType.PROTOBUF:
            return protobuf.encode(message)
        case _:
            assert_never(payload_type)
