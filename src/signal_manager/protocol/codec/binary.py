"""The BINARY payload: the compact layouts of docs/protocol.md, "Payload types".

Every length is one byte, and most optional fields have no place. A message that does not fit has no BINARY form.
"""

from __future__ import annotations

from typing import Any

import msgspec

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol.catalogue import SIGNAL_TYPES
from signal_manager.protocol.codec.fields import address_of, build_message, decode_json, decode_utf8, raw_signal_data
from signal_manager.protocol.messages import (
    Connect,
    Disconnect,
    Heartbeat,
    HeartbeatAck,
    Message,
    MessageType,
    Peer,
    Register,
    Signal,
    Unregister,
)

__all__ = ["decode", "encode"]


def decode(message_type: MessageType, payload: bytes, *, sent_by: Peer) -> Message:
    """Return the message of a BINARY payload; `signal_data` comes as bytes.

    Raises:
        MalformedMessageError: the type has no layout, or the payload does not match it exactly.
    """
    reader = _Reader(payload)
    fields: dict[str, Any]
    match message_type:
        case MessageType.CONNECT:
            fields = {"client_id": reader.string(), "auth_token": reader.string()}
        case MessageType.REGISTER:
            fields = {
                "version": reader.string(),
                "client_id": reader.string() or None,
                "auth_token": reader.string() or None,
            }
            if not reader.is_at_end:  # the original service reads no further
                fields["capabilities"] = [reader.string() for _ in range(reader.integer(1))] or None
                fields["metadata"] = decode_json(reader.metadata() or b"null")
        case MessageType.UNREGISTER:
            fields = {
                "version": reader.string(),
                "client_id": reader.string() or None,
                "auth_token": reader.string() or None,
            }
        case MessageType.HEARTBEAT | MessageType.HEARTBEAT_ACK:
            fields = {"timestamp": reader.integer(8)}
        case _ if message_type in SIGNAL_TYPES:
            address = "target_client_id" if sent_by is Peer.CLIENT else "sender_client_id"
            fields = {address: reader.string(), "signal_data": reader.rest()}
        case _:
            raise MalformedMessageError("this type has no BINARY layout, expected another payload type")
    reader.finish()
    return build_message(message_type, fields, sent_by=sent_by)


def encode(message: Message, *, sent_by: Peer) -> bytes | None:
    """Return a message's BINARY form; None if it has none, or if a request would lose a field."""
    match message:
        case Connect(client_id=client_id, auth_token=auth_token) if message == Connect(
            client_id=client_id, auth_token=auth_token
        ):
            return _strings(client_id, auth_token)
        case Register():
            return _register(message)
        case Unregister(version=version, client_id=client_id, auth_token=auth_token):
            # A layout cannot tell absent from empty.
            return None if auth_token == "" else _strings(version, client_id or "", auth_token or "")
        case Heartbeat(timestamp=timestamp, received=None):
            return timestamp.to_bytes(8, "big")
        case HeartbeatAck(timestamp=timestamp, server_time=server_time, received=None):
            return timestamp.to_bytes(8, "big") if server_time is None or sent_by is Peer.SERVICE else None
        case Signal():
            address = address_of(message, sent_by)
            prefix = None if address is None else _strings(address)
            return None if prefix is None else prefix + raw_signal_data(message.signal_data)
        case Disconnect(client_id=None, reason=None):
            return b""
        case _:
            return None


class _Reader:
    """Reads a layout from its start to its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise MalformedMessageError(f"payload is {len(self._data)} bytes, expected at least {end}")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def string(self) -> str:
        return decode_utf8(self.take(self.integer(1)))

    @property
    def is_at_end(self) -> bool:
        return self._position == len(self._data)

    def metadata(self) -> bytes:
        """Read REGISTER's last field. Its length is a u16, or a u8 from clients of the original service.

        The field may be absent. Its length must reach the end of the payload, so no payload matches both.
        """
        left = self._data[self._position :]
        if not left:
            return b""
        return self.take(self.integer(1 if left[0] == len(left) - 1 else 2))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._position)

    def finish(self) -> None:
        if self._position != len(self._data):
            raise MalformedMessageError(f"payload is {len(self._data)} bytes, expected {self._position}")


def _strings(*values: str) -> bytes | None:
    raw = [value.encode() for value in values]
    if any(len(value) > 0xFF for value in raw):
        return None
    return b"".join(bytes((len(value),)) + value for value in raw)


def _register(message: Register) -> bytes | None:
    # A layout cannot tell absent from empty, and has no place for the room.
    if message.room_id is not None or message.auth_token == "" or message.capabilities == []:
        return None
    head = _strings(message.version, message.client_id or "", message.auth_token or "")
    capabilities = message.capabilities or []
    items = _strings(*capabilities)
    metadata = b"" if message.metadata is None else msgspec.json.encode(message.metadata)
    if head is None or items is None or len(capabilities) > 0xFF or len(metadata) > 0xFFFF:
        return None
    return b"".join((head, bytes((len(capabilities),)), items, len(metadata).to_bytes(2, "big"), metadata))
