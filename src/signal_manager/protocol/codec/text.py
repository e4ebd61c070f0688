"""The TEXT payload: fields separated by colons; only the last one may contain colons (docs/protocol.md).

Colons cannot be escaped, so a message with a colon in another field has no TEXT form.
"""

from __future__ import annotations

from typing import Any

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol.catalogue import SIGNAL_TYPES, spec_of
from signal_manager.protocol.codec.fields import address_of, build_message, decode_utf8, raw_signal_data
from signal_manager.protocol.messages import Disconnect, Heartbeat, Message, MessageType, Peer, Signal

__all__ = ["decode", "encode"]

_LAYOUTS: dict[MessageType, tuple[str, ...]] = {
    MessageType.CONNECT: ("client_id", "auth_token"),
    MessageType.CONNECT_ACK: ("status", "session_id"),
    MessageType.REGISTER: ("version", "client_id", "auth_token"),
    MessageType.REGISTER_ACK: ("version", "status", "message", "client_id", "session_id"),
    MessageType.UNREGISTER: ("version", "client_id", "auth_token"),
    MessageType.UNREGISTER_ACK: ("version", "status", "message", "client_id"),
    MessageType.ERROR: ("error_code", "error_message"),
}

# Requests that may omit the client id.
_REGISTRATIONS = frozenset({MessageType.REGISTER, MessageType.UNREGISTER})

_NUMBERS = {
    MessageType.REGISTER_ACK: "status",
    MessageType.UNREGISTER_ACK: "status",
    MessageType.ERROR: "error_code",
}

# Numbers in these layouts have at most five digits. The bound keeps `int` from parsing megabytes of digits.
_MAX_DIGITS = 20


def decode(message_type: MessageType, payload: bytes, *, sent_by: Peer) -> Message:
    """Return the message of a TEXT payload; `signal_data` comes as a string.

    Raises:
        MalformedMessageError: the type has no layout, or the payload does not match it.
    """
    names: tuple[str, ...]
    if message_type in SIGNAL_TYPES:
        names = ("target_client_id" if sent_by is Peer.CLIENT else "sender_client_id", "signal_data")
    elif message_type in _LAYOUTS:
        names = _LAYOUTS[message_type]
    else:
        raise MalformedMessageError("this type has no TEXT layout, expected another payload type")
    values = decode_utf8(payload).split(":", len(names) - 1)
    if len(values) != len(names):
        raise MalformedMessageError(f"expected {len(names)} fields between colons, got {len(values)}")
    fields: dict[str, Any] = dict(zip(names, values, strict=True))
    if message_type in _REGISTRATIONS:
        fields["client_id"] = fields["client_id"] or None
        fields["auth_token"] = fields["auth_token"] or None
    if message_type in _NUMBERS:
        name = _NUMBERS[message_type]
        fields[name] = _number(name, fields[name])
    return build_message(message_type, fields, sent_by=sent_by)


def encode(message: Message, *, sent_by: Peer) -> bytes | None:
    """Return a message's TEXT form; None if it has none, or if a request would lose a field."""
    if isinstance(message, Signal):
        return _signal(message, sent_by)
    if message in (Heartbeat(), Disconnect()):
        return b""
    spec = spec_of(message)
    if spec.message_type not in _LAYOUTS:
        return None
    values = {name: getattr(message, name) for name in _LAYOUTS[spec.message_type]}
    if spec.sent_by is Peer.CLIENT and message != spec.struct(**values):
        return None
    # The layout cannot tell absent from empty.
    if spec.message_type in _REGISTRATIONS and values["auth_token"] == "":
        return None
    return _join(["" if value is None else str(value) for value in values.values()])


def _signal(message: Signal, sent_by: Peer) -> bytes | None:
    address = address_of(message, sent_by)
    data = raw_signal_data(message.signal_data)
    try:
        # Only bytes can fail: they may be no UTF-8, which a receiver of TEXT must refuse.
        data.decode()
    except UnicodeDecodeError:
        return None
    return None if address is None else address.encode() + b":" + data


def _join(values: list[str]) -> bytes | None:
    if any(":" in value for value in values[:-1]):
        return None
    return ":".join(values).encode()


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise MalformedMessageError(f"expected `{name}` in decimal digits")
    return int(text)
