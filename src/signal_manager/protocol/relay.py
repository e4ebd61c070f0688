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


# What all connections of a framing share: the first byte, the length's form, where the body starts, and its limit.
_SHARED = {
    framing: (bytes((START_BYTES[framing],)), length.pack, HEAD + length.size, 256**length.size - 1)
    for framing, length in LENGTH_STRUCTS.items()
}

# The continuation of a signal's JSON that omits the sender.
_ANONYMOUS = b'{"target_client_id":"'

_decode_plain = msgspec.json.Decoder(RelayedSignal).decode

# A loop over bytes takes a third of msgspec's time where this module is compiled. As Python it would take many times as
# long, so there msgspec decodes everything.
_SCANS = not __file__.endswith(".py")
# How both SDKs write a signal.
_TARGET = b'{"target_client_id":"'
_DATA = b',"signal_data":'
# Members of an object, and escaped quotes of a long string: where there are more, msgspec is quicker.
_FEW = 16
# Bytes in which a quote is looked for one by one: a call of `find` costs as much.
_NEAR = 32
_QUOTE, _COMMA, _COLON, _OPENING, _CLOSING = b'",:{}'
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
        self.start, self.pack_length, self.body_start, self.largest = _SHARED[framing]
        # Valid names have no character that JSON escapes.
        self.json_sender = b'{"sender_client_id":"%b","target_client_id":"' % self.name
        self.json_target = b'%b","signal_data":' % self.name

    def read(self, data: bytes) -> RelayedSignal | None:
        """Return the routing fields and body of the signal in `data`, a whole frame of this client.

        Returns:
            None if the codec must decode it.
        """
        raw, end = data, len(data)  # `raw` is a C pointer where this is compiled, which is quicker to cut
        start = self.body_start
        if end <= start or not _FIRST_SIGNAL <= data[TYPE_AT] <= _LAST_SIGNAL or data[0] != self.start_byte:
            return None
        length = data[HEAD] << 8 | data[HEAD + 1]
        if start > HEAD + 2:  # four bytes, in v2
            length = length << 16 | data[HEAD + 2] << 8 | data[HEAD + 3]
        if length != end - start:
            return None
        payload_type = data[PAYLOAD_TYPE_AT]
        signal = _scan(data, start, end) if _SCANS and payload_type == _JSON else None
        if signal is not None:
            return signal
        body = raw[start:end]
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
        raw = head
        payload_type = head[PAYLOAD_TYPE_AT]
        if payload_type != self.payload_type:
            return None
        if payload_type == _JSON and not self.is_tagged:
            # By far the most common case. Joining all pieces at once saves a copy.
            sending, sent_to = sender.json_sender, self.json_target
            size = len(sending) + len(sent_to) + len(body) + 1
            if size > self.largest:
                return None
            return b"".join((self.start, raw[TYPE_AT:HEAD], self.pack_length(size), sending, sent_to, body, b"}"))
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
        return b"".join((self.start, raw[TYPE_AT:HEAD], self.pack_length(size), before, body, after))


def _scan(data: bytes, start: int, end: int) -> RelayedSignal | None:
    """Read the signal in `data[start:end]` if its JSON is in ASCII and as the SDKs write it.

    Returns:
        None if msgspec must decode it; otherwise what msgspec would return.
    """
    if not data.startswith(_TARGET, start):
        return None
    name = start + len(_TARGET)
    name_end = _string_end(data, name, end)
    if name_end < 0 or not data.startswith(_DATA, name_end + 1):
        return None
    body = name_end + 1 + len(_DATA)
    body_end = _value_end(data, body, end - 1)
    if body_end != end - 1 or data[body_end] != _CLOSING:
        return None
    raw = data
    target = raw[name:name_end]
    return None if b"\\" in target else RelayedSignal(target.decode(), msgspec.Raw(raw[body:body_end]))


def _value_end(data: bytes, at: int, end: int) -> int:
    """Return where the string or the object of strings that begins at `at` has ended; -1 if it may be anything else."""
    if at >= end:
        return -1
    if data[at] == _QUOTE:
        return _string_end(data, at + 1, end) + 1 or -1
    if data[at] != _OPENING:
        return -1
    for _ in range(_FEW):
        if at + 1 >= end or data[at + 1] != _QUOTE:
            return -1
        at = _string_end(data, at + 2, end)
        if at < 0 or at + 2 >= end or data[at + 1] != _COLON or data[at + 2] != _QUOTE:
            return -1
        at = _string_end(data, at + 3, end) + 1
        if at == 0 or at >= end:
            return -1
        if data[at] == _CLOSING:
            return at + 1
        if data[at] != _COMMA:
            return -1
    return -1


def _string_end(data: bytes, at: int, end: int) -> int:
    """Return the place of the quote that closes the string whose text begins at `at`.

    Returns:
        -1 if there is none before `end`, or if the text has control characters, anything but ASCII, or other escapes
        than of a quote, a slash, a tab and the ends of lines.
    """
    raw, odd, stop, near = data, 0, at, min(at + _NEAR, end)
    while stop < near and (raw[stop] != 34 or raw[stop - 1] == 92):  # `"`, and not behind `\\`
        stop += 1
    if stop == near:
        for _ in range(_FEW):
            stop = data.find(b'"', stop, end)
            if stop < 0 or raw[stop - 1] != 92:
                break
            stop += 1
        else:
            return -1
    # Without a jump, so that a C compiler takes sixteen bytes at a time.
    for place in range(at, stop):
        byte, before = raw[place], raw[place - 1]
        odd |= (byte < 32) | (byte > 126)
        odd |= (before == 92) & (byte != 110) & (byte != 114) & (byte != 116) & (byte != 34) & (byte != 47)
    return -1 if odd else stop


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
