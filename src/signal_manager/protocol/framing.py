"""Frames: the header and payload of a message, and their bytes in each framing (docs/protocol.md, first section).

`codec` decodes the payload. `state_machine.py` decides whether the message is allowed now.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from signal_manager.errors import MalformedMessageError, TooLargeError
from signal_manager.protocol.messages import MessageType, PayloadType

__all__ = [
    "HEAD",
    "ID_AT",
    "LENGTH_STRUCTS",
    "PAYLOAD_TYPE_AT",
    "START_BYTES",
    "SUBPROTOCOLS",
    "TYPE_AT",
    "Frame",
    "Framing",
    "choose_subprotocol",
    "decode_frame",
    "encode_frame",
]


class Framing(StrEnum):
    """The framings; a connection uses one."""

    V1 = "v1"
    V2 = "v2"
    JSON = "json"


SUBPROTOCOLS: dict[str, Framing] = {
    "signal-manager.v1": Framing.V1,
    "signal-manager.v2": Framing.V2,
    "signal-manager.json": Framing.JSON,
}


class Frame(NamedTuple):
    """One protocol message whose payload is still bytes; `message_id` is the sixteen bytes of a UUID."""

    message_type: MessageType
    message_id: bytes
    payload_type: PayloadType
    payload: bytes


# Where the fields of a v1 or v2 header begin: one start byte, then these. The message id ends where the payload type
# begins.
TYPE_AT = 1
ID_AT = 2
PAYLOAD_TYPE_AT = 18
# The length field begins here. The bytes before it are the head: all that relaying needs of a frame beside its signal.
HEAD = 19
START_BYTES = {Framing.V1: 0xAA, Framing.V2: 0xAB}
LENGTH_STRUCTS = {Framing.V1: struct.Struct(">H"), Framing.V2: struct.Struct(">I")}


class _Header(NamedTuple):
    start_byte: int
    length: struct.Struct
    size: int


_HEADERS = {
    framing: _Header(START_BYTES[framing], length, HEAD + length.size) for framing, length in LENGTH_STRUCTS.items()
}
_V1_MAX_PAYLOAD = 0xFFFF

# Calling an enumeration with a value takes two calls to find the member; a dictionary takes none.
_MESSAGE_TYPES = {member.value: member for member in MessageType}
_PAYLOAD_TYPES = {member.value: member for member in PayloadType}

_NIL_ID = bytes(16)
# `uuid.UUID` itself also takes braces, "urn:uuid:" and underscores.
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_NULL = msgspec.Raw(b"null")


class _TextFrame(msgspec.Struct, gc=False):
    """The known members of a text message, undecoded, so that only the JSON codec decodes the payload."""

    type: msgspec.Raw = _NULL
    id: msgspec.Raw = _NULL
    payload: msgspec.Raw = _NULL


_decode_members = msgspec.json.Decoder(_TextFrame).decode
_decode_name = msgspec.json.Decoder(str | None).decode


def choose_subprotocol(offered: Sequence[str]) -> str | None:
    """Return the first offered WebSocket subprotocol that the service knows; None if there is none, which means v1."""
    return next((name for name in offered if name in SUBPROTOCOLS), None)


def decode_frame(framing: Framing, data: bytes) -> Frame:
    """Split one WebSocket message into its header and payload.

    Raises:
        MalformedMessageError: the bytes are not exactly one frame; the error has the `message_id` if it could be read.
    """
    if framing is Framing.JSON:
        return _decode_text_frame(data)
    header = _HEADERS[framing]
    if len(data) < PAYLOAD_TYPE_AT:
        raise MalformedMessageError(f"frame is {len(data)} bytes, expected at least {header.size}")
    message_id = data[ID_AT:PAYLOAD_TYPE_AT]
    if data[0] != header.start_byte:
        raise MalformedMessageError(
            f"frame starts with 0x{data[0]:02X}, expected 0x{header.start_byte:02X}", message_id=message_id
        )
    if len(data) < header.size:
        raise MalformedMessageError(
            f"frame is {len(data)} bytes, expected at least {header.size}", message_id=message_id
        )
    length = header.length.unpack_from(data, HEAD)[0]
    if len(data) - header.size != length:
        raise MalformedMessageError(
            f"payload is {len(data) - header.size} bytes, expected the {length} that the header names",
            message_id=message_id,
        )
    message_type = _message_type(data[TYPE_AT], message_id)
    return Frame(message_type, message_id, _payload_type(data[PAYLOAD_TYPE_AT], message_id), data[header.size :])


def encode_frame(
    framing: Framing, message_type: MessageType, message_id: bytes, payload_type: PayloadType, payload: bytes
) -> bytes:
    """Return the WebSocket message for a payload; under JSON framing the UTF-8 bytes of a text message.

    Args:
        message_id: sixteen bytes.
        payload_type: must be JSON under JSON framing.

    Raises:
        TooLargeError: when v1's length field cannot hold the payload's size.
    """
    if framing is Framing.JSON:
        return _encode_text_frame(message_type, message_id, payload_type, payload)
    if framing is Framing.V1 and len(payload) > _V1_MAX_PAYLOAD:
        raise TooLargeError(
            f"the {message_type.name} payload is {len(payload)} bytes, signal-manager.v1 carries at most"
            f" {_V1_MAX_PAYLOAD}; connect with the subprotocol signal-manager.v2"
        )
    header = _HEADERS[framing]
    start = bytes((header.start_byte, message_type))
    length = header.length.pack(len(payload))
    return b"".join((start, message_id, bytes((payload_type,)), length, payload))


def _message_type(value: int, message_id: bytes) -> MessageType:
    message_type = _MESSAGE_TYPES.get(value)
    if message_type is None:
        raise MalformedMessageError(f"unknown message type 0x{value:02X}", message_id=message_id)
    return message_type


def _payload_type(value: int, message_id: bytes) -> PayloadType:
    payload_type = _PAYLOAD_TYPES.get(value)
    if payload_type is None:
        raise MalformedMessageError(f"unknown payload type 0x{value:02X}, expected 0x01 to 0x05", message_id=message_id)
    return payload_type


def _decode_text_frame(data: bytes) -> Frame:
    try:
        # msgspec does not check the strings that it skips, but the whole payload must be UTF-8.
        members = _decode_members(str(data, "utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedMessageError("message is not UTF-8") from error
    except RecursionError as error:
        raise MalformedMessageError("message is nested too deeply") from error
    except msgspec.DecodeError as error:
        raise MalformedMessageError(f'message is not an object {{"type", "id", "payload"}}: {error}') from error
    message_id = _text_id(members.id)
    name = _text(members.type)
    if name is None or name not in MessageType.__members__:
        raise MalformedMessageError(
            '"type" is not the name of a message type, such as "CONNECT"', message_id=message_id
        )
    payload = bytes(members.payload)
    return Frame(MessageType[name], message_id, PayloadType.JSON, b"" if payload == b"null" else payload)


def _text(member: msgspec.Raw) -> str | None:
    """Return a member's text, or None if it is not a string."""
    try:
        text: str | None = _decode_name(member)
    except (msgspec.DecodeError, RecursionError):
        return None
    return text


def _text_id(member: msgspec.Raw) -> bytes:
    # A person who types messages by hand may omit the id.
    if bytes(member) == b"null":
        return _NIL_ID
    text = _text(member)
    if text is None or not _UUID.fullmatch(text):
        raise MalformedMessageError('"id" is not a UUID in its 36-character form')
    return UUID(text).bytes


def _encode_text_frame(
    message_type: MessageType, message_id: bytes, payload_type: PayloadType, payload: bytes
) -> bytes:
    if payload_type is not PayloadType.JSON:
        raise ValueError(f"payload type is {payload_type.name}, JSON framing carries JSON only")
    members: dict[str, Any] = {"type": message_type.name, "id": str(UUID(bytes=message_id))}
    if payload:
        members["payload"] = msgspec.Raw(payload)
    return msgspec.json.encode(members)
