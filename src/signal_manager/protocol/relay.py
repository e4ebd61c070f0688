"""The fast path of a signal: from the bytes of one client to the bytes for another, without message objects.

This module decodes only the fields that route a signal. The body stays bytes, with the sender written before it
(docs/protocol.md, SIGNAL_*). `RelayEnd.read` and `RelayEnd.write` return None if they are not certain; then the codec
decodes the whole message and decides, on errors too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from signal_manager.protocol.catalogue import SIGNAL_TYPES, SPECS
from signal_manager.protocol.framing import HEAD, LENGTH_STRUCTS, PAYLOAD_TYPE_AT, START_BYTES, TYPE_AT, Framing
from signal_manager.protocol.messages import PayloadType, Shape

__all__ = ["RelayEnd", "RelayedSignal", "client_payload", "sender_end"]

# Plain ints: comparing enum members would cost more than the rest of the check.
_JSON = int(PayloadType.JSON)
_BINARY = int(PayloadType.BINARY)
_TEXT = int(PayloadType.TEXT)
_FIRST_SIGNAL = int(min(SIGNAL_TYPES))
_LAST_SIGNAL = int(max(SIGNAL_TYPES))


class RelayedSignal(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The fields that route a signal, and its undecoded body. Messages with other fields go to the codec."""

    target_client_id: str
    signal_data: msgspec.Raw
    ack: bool = False


def _tagged_forms() -> dict[int, tuple[Any, bytes]]:
    """Return the decoder and the opening of the JSON for each signal type that has a tagged form."""
    forms: dict[int, tuple[Any, bytes]] = {}
    for message_type in SIGNAL_TYPES:
        variant = SPECS[message_type].variant
        if variant is not None:
            fields = [("signal", RelayedSignal, msgspec.field(name=variant))]
            struct_type = msgspec.defstruct(variant, fields, forbid_unknown_fields=True, gc=False)
            forms[message_type] = (msgspec.json.Decoder(struct_type).decode, b'{"%b":' % variant.encode())
    return forms


# The continuation of a signal's JSON that omits the sender.
_ANONYMOUS = b'{"target_client_id":"'

_decode_plain = msgspec.json.Decoder(RelayedSignal).decode
_TAGGED = _tagged_forms()


class RelayEnd:
    """The relay's view of an established connection: how to read its signals, and how to write signals to it.

    It computes everything that depends on the connection alone, once. Only v1 and v2 connections have one.
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
    )

    def __init__(self, client_id: str, framing: Framing, payload_type: PayloadType, shape: Shape) -> None:
        self.name = client_id.encode()
        self.payload_type = int(payload_type)
        self.is_tagged = shape is Shape.TAGGED
        self.start_byte = START_BYTES[framing]
        self.start = bytes((self.start_byte,))
        length = LENGTH_STRUCTS[framing]
        self.pack_length = length.pack
        self.body_start = HEAD + length.size
        self.largest = 256**length.size - 1
        # Valid names have no character that JSON escapes.
        self.json_sender = b'{"sender_client_id":"%b","target_client_id":"' % self.name
        self.json_target = b'%b","signal_data":' % self.name

    def read(self, data: bytes) -> RelayedSignal | None:
        """Return the routing fields and body of the signal in `data`, a whole frame of this client.

        Returns:
            None if the codec must decode it.
        """
        start = self.body_start
        if len(data) <= start or not _FIRST_SIGNAL <= data[TYPE_AT] <= _LAST_SIGNAL or data[0] != self.start_byte:
            return None
        length = data[HEAD] << 8 | data[HEAD + 1]
        if start > HEAD + 2:  # four bytes, in v2
            length = length << 16 | data[HEAD + 2] << 8 | data[HEAD + 3]
        if length != len(data) - start:
            return None
        body = data[start:]
        payload_type = data[PAYLOAD_TYPE_AT]
        if payload_type == _JSON:
            try:
                tagged = body.startswith(b'{"Signal')
                signal = _TAGGED[data[TYPE_AT]][0](body).signal if tagged else _decode_plain(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
                return None
            # msgspec does not check the strings that it skips.
            return signal if body.isascii() or _is_utf8(body) else None
        if payload_type == _BINARY:
            name_end = 1 + body[0]
            return _split(body[1:name_end], body[name_end:]) if len(body) >= name_end else None
        if payload_type == _TEXT:
            name, colon, rest = body.partition(b":")
            return _split(name, rest) if colon and _is_utf8(rest) else None
        return None

    def write(self, head: bytes, body: bytes | msgspec.Raw, sender: RelayEnd) -> bytes | None:
        """Return a signal's frame for this client, with the sender; None if the codec must convert it.

        Args:
            head: the received frame, or its first `HEAD` bytes.
            body: the signal's `signal_data`.
            sender: the client that sent it.
        """
        payload_type = head[PAYLOAD_TYPE_AT]
        if payload_type != self.payload_type:
            return None
        if payload_type == _JSON and not self.is_tagged:
            # By far the most common case. Joining all pieces at once saves a copy.
            sending, sent_to = sender.json_sender, self.json_target
            size = len(sending) + len(sent_to) + len(body) + 1
            if size > self.largest:
                return None
            return b"".join((self.start, head[TYPE_AT:HEAD], self.pack_length(size), sending, sent_to, body, b"}"))
        if payload_type == _JSON:
            if head[TYPE_AT] not in _TAGGED or not _is_harmless(bytes(body)):
                return None
            opening = _TAGGED[head[TYPE_AT]][1]
            before, after = b"".join((opening, sender.json_sender, self.json_target)), b"}}"
            if len(before) + len(body) + len(after) > self.largest:
                # The original service never names the sender, so its clients miss nothing.
                before = b"".join((opening, _ANONYMOUS, self.json_target))
        elif payload_type == _BINARY:
            before, after = bytes((len(sender.name),)) + sender.name, b""
        else:
            before, after = sender.name + b":", b""
        size = len(before) + len(body) + len(after)
        if size > self.largest:
            return None
        return b"".join((self.start, head[TYPE_AT:HEAD], self.pack_length(size), before, body, after))


@lru_cache(maxsize=4096)
def sender_end(client_id: str) -> RelayEnd:
    """Return a `RelayEnd` for a sender on another node, of which `write` needs only the name."""
    return RelayEnd(client_id, Framing.V1, PayloadType.JSON, Shape.PLAIN)


def client_payload(payload_type: int, target: str, body: bytes) -> bytes:
    """Return a payload with this target and body, for the codec to decode."""
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
    """Tell whether every strict JSON parser accepts `body`.

    Clients of the original service close their connection if they cannot decode a message, and their parser refuses
    lone surrogates, deep nesting and huge numbers. A string without escapes has none of these.
    """
    return body.startswith(b'"') and b"\\u" not in body
