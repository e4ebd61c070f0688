"""The JSON payload: one object per message, in either of its two shapes (docs/protocol.md, "Payload types").

`fields.py` has the rules of the object, which CBOR shares. This module adds the text, and bytes, which JSON lacks.
"""

from __future__ import annotations

import binascii
from typing import Any

import msgspec

from signal_manager.protocol.codec.fields import Decoded, decode_json, object_fields, read_object, write_object
from signal_manager.protocol.messages import Message, MessageType, Peer, Shape

__all__ = ["decode", "encode"]


def decode(message_type: MessageType, payload: bytes, *, sent_by: Peer) -> Decoded:
    """Return the message of a JSON payload.

    Raises:
        MalformedMessageError: the payload is not one JSON object with this type's fields.
    """
    return read_object(message_type, decode_json(payload), sent_by=sent_by)


def encode(message: Message, shape: Shape) -> bytes:
    """Return a message's JSON.

    Bytes in `signal_data` become a string if they are UTF-8, else base64 (docs/protocol.md, "Between encodings").
    """
    fields = object_fields(message, shape)
    data = fields.get("signal_data")
    if isinstance(data, bytes):
        fields |= _text_fields(data)
    return msgspec.json.encode(write_object(message, fields, shape))


def _text_fields(data: bytes) -> dict[str, Any]:
    try:
        return {"signal_data": data.decode()}
    except UnicodeDecodeError:
        text = binascii.b2a_base64(data, newline=False).decode()
        return {"signal_data": text, "signal_encoding": "base64"}
