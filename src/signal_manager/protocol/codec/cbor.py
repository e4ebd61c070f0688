"""The CBOR payload: the JSON object's map in CBOR, RFC 8949, with byte strings for opaque `signal_data`.

CBOR has more types than JSON. This module accepts only values that JSON has too, so that every signal can be relayed
as JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import cbor2

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol.codec.bounds import check_cbor
from signal_manager.protocol.codec.fields import MAX_DEPTH, Decoded, object_fields, read_object, write_object
from signal_manager.protocol.messages import Message, MessageType, Peer, Shape

__all__ = ["decode", "encode"]


def _refuse_tag(_value: object, _immutable: bool) -> Any:
    raise ValueError("tags are not allowed")


class _EveryTag(dict[int, Callable[[Any, bool], Any]]):
    """Refuses every tag that cbor2 knows: dates, regular expressions and, above all, references to shared values.

    A few bytes of references can stand for a value of any size, or for a value that contains itself.
    """

    def __missing__(self, tag: int) -> Callable[[Any, bool], Any]:
        return _refuse_tag


_NO_TAGS = _EveryTag()


def decode(message_type: MessageType, payload: bytes, *, sent_by: Peer) -> Decoded:
    """Return the message of a CBOR payload.

    Raises:
        MalformedMessageError: the payload is not exactly one map with this type's fields.
    """
    check_cbor(payload)
    stream = BytesIO(payload)
    decoder = cbor2.CBORDecoder(
        stream,
        semantic_decoders=_NO_TAGS,
        max_depth=MAX_DEPTH + 1,  # the tagged shape's outer map is not counted
        strict_hashable_types=True,
    )
    try:
        value = decoder.decode()
    except cbor2.CBORDecodeError as error:
        raise MalformedMessageError(f"CBOR is malformed: {error}") from error
    if stream.tell() != len(payload):
        raise MalformedMessageError(f"{len(payload) - stream.tell()} bytes follow the CBOR map, expected none")
    return read_object(message_type, value, sent_by=sent_by)


def encode(message: Message, shape: Shape) -> bytes:
    """Return a message's CBOR."""
    return cbor2.dumps(write_object(message, object_fields(message, shape), shape))
