"""The short way of a signal: from the bytes of one client to the bytes for another, without objects in between.

Only what routes a signal is decoded; its body travels as bytes with the sender spliced in (docs/protocol.md,
SIGNAL_*). `read` and `write` return None for whatever they do not know for certain; then the codec decodes the
message in full and has the last word, on errors too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from signal_manager.protocol.catalogue import SIGNAL_TYPES, SPECS
from signal_manager.protocol.framing import HEAD, LENGTH_STRUCTS, PAYLOAD_TYPE_AT, START_BYTES, TYPE_AT, Framing
from signal_manager.protocol.messages import PayloadType, Shape

__all__ = ["RelayEnd", "RelayedSignal", "client_payload", "read", "sender_end", "write"]

# Plain ints: comparing enum members would cost more than the rest of the check.
_JSON = int(PayloadType.JSON)
_BINARY = int(PayloadType.BINARY)
_TEXT = int(PayloadType.TEXT)
_FIRST_SIGNAL = int(min(SIGNAL_TYPES))
_LAST_SIGNAL = int(max(SIGNAL_TYPES))


class RelayedSignal(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What routes a signal, and its body as it came; a message with any other field is one for the codec."""

    target_client_id: str
    signal_data: msgspec.Raw
    ack: bool = False


def _tagged_forms() -> dict[int, tuple[Any, bytes]]:
    """Return, for each signal type that has a tagged form, its decoder and the opening of its JSON."""
    forms: dict[int, tuple[Any, bytes]] = {}
    for message_type in SIGNAL_TYPES:
        variant = SPECS[message_type].variant
        if variant is not None:
            fields = [("signal", RelayedSignal, msgspec.field(name=variant))]
            struct_type = msgspec.defstruct(variant, fields, forbid_unknown_fields=True, gc=False)
            forms[message_type] = (msgspec.json.Decoder(struct_type).decode, b'{"%b":' % variant.encode())
    return forms


# How a signal's JSON goes on where it does not name its sender.
_ANONYMOUS = b'{"target_client_id":"'

_decode_plain = msgspec.json.Decoder(RelayedSignal).decode
_TAGGED = _tagged_forms()


class RelayEnd:
    """One established connection as the relay sees it: how to read what it sends, and how to write to it.

    Everything that depends on the connection alone is made once, here. Only v1 and v2 connections have one.
    """

    __slots__ = (
        "body_start",
        "is_tagged",
        "json_sender",
        "json_target",
        "largest",
        "name",
        "pack_length",
        "payload_type",
        "start",
        "start_byte",
        "unpack_length",
    )

    def __init__(self, client_id: str, framing: Framing, payload_type: PayloadType, shape: Shape) -> None:
        self.name = client_id.encode()
        self.payload_type = int(payload_type)
        self.is_tagged = shape is Shape.TAGGED
        self.start_byte = START_BYTES[framing]
        self.start = bytes((self.start_byte,))
        length = LENGTH_STRUCTS[framing]
        self.unpack_length, self.pack_length = length.unpack_from, length.pack
        self.body_start = HEAD + length.size
        self.largest = 256**length.size - 1
        # The rules for names leave nothing in them that JSON would have to escape.
        self.json_sender = b'{"sender_client_id":"%b","target_client_id":"' % self.name
        self.json_target = b'%b","signal_data":' % self.name


def read(data: bytes, sender: RelayEnd) -> RelayedSignal | None:
    """Return what routes the signal in `data`, a whole frame, or None when that is for the codec to say."""
    start = sender.body_start
    if len(data) <= start or not _FIRST_SIGNAL <= data[TYPE_AT] <= _LAST_SIGNAL or data[0] != sender.start_byte:
        return None
    body = data[start:]
    if sender.unpack_length(data, HEAD)[0] != len(body):
        return None
    payload_type = data[PAYLOAD_TYPE_AT]
    if payload_type == _JSON:
        try:
            tagged = body.startswith(b'{"Signal')
            signal = _TAGGED[data[TYPE_AT]][0](body).signal if tagged else _decode_plain(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
            return None
        # msgspec does not look into the strings that it passes over.
        return signal if body.isascii() or _is_utf8(body) else None
    if payload_type == _BINARY:
        name_end = 1 + body[0]
        return _split(body[1:name_end], body[name_end:]) if len(body) >= name_end else None
    if payload_type == _TEXT:
        name, colon, rest = body.partition(b":")
        return _split(name, rest) if colon and _is_utf8(rest) else None
    return None


def write(head: bytes, body: bytes | msgspec.Raw, sender: RelayEnd, receiver: RelayEnd) -> bytes | None:
    """Return a signal's frame for `receiver` with `sender` spliced in, or None when the two do not speak alike.

    Args:
        head: the frame that it came in, or its first `HEAD` bytes.
        body: its `signal_data`.
    """
    payload_type = head[PAYLOAD_TYPE_AT]
    if payload_type != receiver.payload_type:
        return None
    if payload_type == _JSON and not receiver.is_tagged:
        # By far the most common; pieces that go straight into the frame save a copy.
        sending, sent_to = sender.json_sender, receiver.json_target
        size = len(sending) + len(sent_to) + len(body) + 1
        if size > receiver.largest:
            return None
        return b"".join((receiver.start, head[TYPE_AT:HEAD], receiver.pack_length(size), sending, sent_to, body, b"}"))
    if payload_type == _JSON:
        if head[TYPE_AT] not in _TAGGED or not _is_harmless(bytes(body)):
            return None
        opening = _TAGGED[head[TYPE_AT]][1]
        before, after = b"".join((opening, sender.json_sender, receiver.json_target)), b"}}"
        if len(before) + len(body) + len(after) > receiver.largest:
            # The original service never names the sender, so its clients miss nothing; the signal itself counts more.
            before = b"".join((opening, _ANONYMOUS, receiver.json_target))
    elif payload_type == _BINARY:
        before, after = bytes((len(sender.name),)) + sender.name, b""
    else:
        before, after = sender.name + b":", b""
    size = len(before) + len(body) + len(after)
    if size > receiver.largest:
        return None
    return b"".join((receiver.start, head[TYPE_AT:HEAD], receiver.pack_length(size), before, body, after))


@lru_cache(maxsize=4096)
def sender_end(client_id: str) -> RelayEnd:
    """Return as much as `write` needs of a sender that is on another node."""
    return RelayEnd(client_id, Framing.V1, PayloadType.JSON, Shape.PLAIN)


def client_payload(payload_type: int, target: str, body: bytes) -> bytes:
    """Return the payload that a signal's body was read from, or one that means the same, for the codec to decode."""
    name = target.encode()
    if payload_type == _JSON:
        return b'{"target_client_id":"%b","signal_data":%b}' % (name, body)
    if payload_type == _BINARY:
        return b"".join((bytes((len(name),)), name, body))
    return b"".join((name, b":", body))


def _split(name: bytes, body: bytes) -> RelayedSignal | None:
    return RelayedSignal(name.decode(), msgspec.Raw(body)) if name.isascii() else None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_harmless(body: bytes) -> bool:
    """Tell whether no strict JSON parser can choke on `body`.

    The original's clients end their connection at what they cannot decode, and their parser refuses lone surrogates,
    deep nesting and huge numbers; a string without escaped characters is none of these.
    """
    return body.startswith(b'"') and b"\\u" not in body
