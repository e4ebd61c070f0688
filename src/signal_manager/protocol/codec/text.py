"""The TEXT payload: fields between colons, of which the last one may hold colons itself (docs/protocol.md).

A field has no escape for its colons, so a message with one elsewhere than at its end has no TEXT form.
"""

from __future__ import annotations

from typing import Any

import msgspec

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol.codec.fields import build_message, decode_utf8
from signal_manager.protocol.messages import (
    SIGNAL_TYPES,
    Connect,
    ConnectAck,
    Disconnect,
    ErrorMessage,
    Heartbeat,
    Message,
    MessageType,
    Peer,
    Register,
    RegisterAck,
    Signal,
    SignalMessage,
    Unregister,
    UnregisterAck,
)

__all__ = ["address_of", "decode", "encode", "raw_signal_data"]

_LAYOUTS: dict[MessageType, tuple[str, ...]] = {
    MessageType.CONNECT: ("client_id", "auth_token"),
    MessageType.CONNECT_ACK: ("status", "session_id"),
    MessageType.REGISTER: ("version", "client_id", "auth_token"),
    MessageType.REGISTER_ACK: ("version", "status", "message", "client_id", "session_id"),
    MessageType.UNREGISTER: ("version", "client_id", "auth_token"),
    MessageType.UNREGISTER_ACK: ("version", "status", "message", "client_id"),
    MessageType.ERROR: ("error_code", "error_message"),
}

# Numbers in these layouts have at most five digits; a bound keeps `int` from reading megabytes of them.
_MAX_DIGITS = 20


def decode(message_type: MessageType, payload: bytes, *, sent_by: Peer) -> Message:
    """Return the message of a TEXT payload; `signal_data` comes as a string.

    Raises:
        MalformedMessageError: when the type has no layout or the payload does not follow it.
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
    if message_type in (MessageType.REGISTER, MessageType.UNREGISTER):
        fields["client_id"] = fields["client_id"] or None
        fields["auth_token"] = fields["auth_token"] or None
    for name in ("status", "error_code"):
        if name in fields and message_type is not MessageType.CONNECT_ACK:
            fields[name] = _number(name, fields[name])
    return build_message(message_type, fields, sent_by=sent_by)


def encode(message: Message, *, sent_by: Peer) -> bytes | None:
    """Return a message's TEXT form, or None when it has none or a request would lose something in it."""
    match message:
        case Connect(client_id=client_id, auth_token=auth_token):
            return (
                _join(client_id, auth_token) if message == Connect(client_id=client_id, auth_token=auth_token) else None
            )
        case ConnectAck():
            return _join(message.status, message.session_id)
        case Register(version=version, client_id=client_id, auth_token=auth_token):
            # Absent and empty look alike in a layout.
            if auth_token == "" or message != Register(version=version, client_id=client_id, auth_token=auth_token):
                return None
            return _join(version, client_id or "", auth_token or "")
        case Unregister(version=version, client_id=client_id, auth_token=auth_token):
            return None if auth_token == "" else _join(version, client_id or "", auth_token or "")
        case RegisterAck():
            return _join(message.version, str(message.status), message.message, message.client_id, message.session_id)
        case UnregisterAck():
            return _join(message.version, str(message.status), message.message, message.client_id)
        case ErrorMessage():
            return _join(str(message.error_code), message.error_message)
        case Signal():
            return _signal(message, sent_by)
        case Heartbeat(timestamp=0, received=None) | Disconnect(client_id=None, reason=None):
            return b""
        case _:
            return None


def address_of(message: Signal, sent_by: Peer) -> str | None:
    """Return the one client id that stands before `signal_data` in BINARY and TEXT, or None when there is no such form.

    From the service that is the sender, and `ack` and `room_id` are left out; from a client they would be lost.
    """
    if sent_by is Peer.SERVICE:
        return message.sender_client_id
    if message.ack or (isinstance(message, SignalMessage) and message.room_id is not None):
        return None
    return message.target_client_id


def raw_signal_data(data: Any) -> bytes:
    """Return `signal_data` as it stands in BINARY and TEXT (docs/protocol.md, "Between encodings")."""
    if isinstance(data, bytes):
        return data
    return data.encode() if isinstance(data, str) else msgspec.json.encode(data)


def _signal(message: Signal, sent_by: Peer) -> bytes | None:
    address = address_of(message, sent_by)
    data = raw_signal_data(message.signal_data)
    try:
        # Only bytes can fail: a receiver of TEXT would have to refuse them.
        data.decode()
    except UnicodeDecodeError:
        return None
    return None if address is None else address.encode() + b":" + data


def _join(*values: str) -> bytes | None:
    if any(":" in value for value in values[:-1]):
        return None
    return ":".join(values).encode()


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise MalformedMessageError(f"expected `{name}` in decimal digits")
    return int(text)
