"""The PROTOBUF payload: the messages of signal_manager.proto, which have the names and fields of the structs.

The generated schema drives the conversion, so a new message type changes nothing here.
"""

from __future__ import annotations

from typing import Any

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol.catalogue import SPECS
from signal_manager.protocol.codec import signal_manager_pb2
from signal_manager.protocol.codec.bounds import MAX_VALUES
from signal_manager.protocol.codec.fields import build_message, decode_json, fields_of
from signal_manager.protocol.messages import Message, MessageType, Peer

__all__ = ["decode", "encode"]

# An open object is JSON text in a string field, because Protobuf's own Struct would turn every integer into a double.
_JSON_FIELDS = frozenset({"metadata", "details", "signal_json"})


def decode(message_type: MessageType, payload: bytes, *, sent_by: Peer) -> Message:
    """Return the message of a PROTOBUF payload.

    Raises:
        MalformedMessageError: the payload is not this type's Protobuf message, or its fields are wrong.
    """
    wire = _wire_class(SPECS[message_type].struct)()
    try:
        wire.ParseFromString(payload)
    except DecodeError as error:
        raise MalformedMessageError(f"not a Protobuf {wire.DESCRIPTOR.full_name}") from error
    return build_message(message_type, _read(wire), sent_by=sent_by)


def encode(message: Message) -> bytes:
    """Return a message's PROTOBUF form; every message has one."""
    wire = _wire_class(type(message))()
    _write(wire, fields_of(message, with_defaults=True))
    return wire.SerializeToString()


def _wire_class(struct: type[Message]) -> type[ProtobufMessage]:
    wire_class: type[ProtobufMessage] = getattr(signal_manager_pb2, struct.__name__)
    return wire_class


def _read(wire: ProtobufMessage) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for field, value in wire.ListFields():
        name = _field_name(field)
        if isinstance(value, ProtobufMessage):
            fields[name] = _read_list(value) if _is_list(value) else _read(value)
        else:
            fields[name] = decode_json(value) if field.name in _JSON_FIELDS else value
    return fields


def _is_list(wire: ProtobufMessage) -> bool:
    """Tell whether `wire` is one of the schema's list messages, which can be absent, unlike a repeated field."""
    return list(wire.DESCRIPTOR.fields_by_name) == ["items"]


def _read_list(wire: ProtobufMessage) -> list[Any]:
    items = getattr(wire, "items")  # noqa: B009 - a field of the schema, which the base class does not have
    if len(items) > MAX_VALUES:  # each item becomes an object before the list's own bound is checked
        raise MalformedMessageError(f"{len(items)} items, expected at most {MAX_VALUES}")
    return [_read(item) if isinstance(item, ProtobufMessage) else item for item in items]


def _write(wire: ProtobufMessage, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if name == "signal_data":
            name = "signal_bytes" if isinstance(value, bytes) else "signal_json"  # noqa: PLW2901 - the oneof's member
        if name in _JSON_FIELDS:
            setattr(wire, name, msgspec.json.encode(value).decode())
        elif isinstance(value, list):
            part = getattr(wire, name)
            part.SetInParent()  # marks an empty list as present
            for item in value:
                if isinstance(item, dict):
                    _write(part.items.add(), item)
                else:
                    part.items.append(item)
        elif isinstance(value, dict):
            part = getattr(wire, name)
            part.SetInParent()
            _write(part, value)
        else:
            setattr(wire, name, value)


def _field_name(field: FieldDescriptor) -> str:
    # An optional field has a synthetic oneof, whose name is the field's with an underscore before it.
    oneof = field.containing_oneof
    return "signal_data" if oneof is not None and oneof.name == "signal_data" else field.name
