"""A message as a mapping from field names to JSON values, and the rules that all payload types share.

The codec modules turn bytes into such a mapping. `build_message` turns the mapping into the struct, or raises an error
that says what is wrong.
"""

from __future__ import annotations

import binascii
import math
from typing import Any, NamedTuple

import msgspec

from signal_manager.errors import MalformedMessageError
from signal_manager.model import NAME_RULE
from signal_manager.protocol.catalogue import SIGNAL_TYPES, SPECS, spec_of
from signal_manager.protocol.codec.bounds import check_json, check_texts
from signal_manager.protocol.messages import (
    Message,
    MessageType,
    Peer,
    PublishedTrack,
    Renegotiate,
    RoomEntry,
    Shape,
    Signal,
    SignalMessage,
)

__all__ = [
    "MAX_DEPTH",
    "Decoded",
    "address_of",
    "build_message",
    "decode_json",
    "decode_utf8",
    "fields_of",
    "object_fields",
    "raw_signal_data",
    "read_object",
    "write_object",
]

# Levels of nested objects and arrays, with the message itself: far more than signaling needs, and far fewer than would
# exhaust the stack. All payload types have the same bound, so each can carry what another accepts.
MAX_DEPTH = 64

# Integers that JSON, CBOR and Protobuf all carry without loss.
_MIN_INTEGER = -(2**63)
_MAX_INTEGER = 2**64 - 1

_STRUCTS = {spec.struct: msgspec.structs.fields(spec.struct) for spec in SPECS.values()}
_OPTIONAL = {struct: [field.name for field in fields if not field.required] for struct, fields in _STRUCTS.items()}
# Each field's name, whether it is required, and its default.
_FIELDS = {
    struct: [(field.name, field.required, field.default) for field in fields] for struct, fields in _STRUCTS.items()
}

# JSON and CBOR write values of these types unchanged.
_BUILTIN = frozenset({str, int, bool, float, bytes, type(None)})


class Decoded(NamedTuple):
    """A message and the shape of its object; PLAIN for payload types without objects."""

    message: Message
    shape: Shape


def build_message(message_type: MessageType, fields: dict[str, Any], *, sent_by: Peer) -> Message:
    """Return the message of these fields; the call modifies the mapping.

    Unknown fields are ignored, and null means that an optional field is absent. `sender_client_id` from a client is
    ignored, so no client can speak for another.

    Raises:
        MalformedMessageError: a field is missing, wrong or too long, or a signal has no receiver or no sender.
    """
    struct = SPECS[message_type].struct
    if message_type in SIGNAL_TYPES and sent_by is Peer.CLIENT:
        fields.pop("sender_client_id", None)
    for name in _OPTIONAL[struct]:
        if name in fields and fields[name] is None:
            del fields[name]
    for name, value in fields.items():
        if type(value) is not str and (name != "signal_data" or type(value) is not bytes):
            _check_value(value, MAX_DEPTH - 1)
    try:
        message = msgspec.convert(fields, struct)
    except msgspec.ValidationError as error:
        raise MalformedMessageError(_reason(error)) from error
    check_texts(message)
    if isinstance(message, Signal):
        _check_addresses(message, sent_by)
    elif isinstance(message, RoomEntry | Renegotiate):
        _check_kinds(message.tracks or [])
    return message


def fields_of(message: Message, *, with_defaults: bool) -> dict[str, Any]:
    """Return the fields to write, as JSON values (or bytes, for opaque `signal_data`).

    Optional fields that are None are omitted. Fields that equal another default are omitted unless `with_defaults`.
    """
    fields = {}
    for name, required, default in _FIELDS[type(message)]:
        value = getattr(message, name)
        if required or (value is not None and (with_defaults or value != default)):
            is_builtin = type(value) in _BUILTIN
            fields[name] = value if is_builtin else msgspec.to_builtins(value, builtin_types=(bytes,))
    return fields


def object_fields(message: Message, shape: Shape) -> dict[str, Any]:
    """Return the fields of a JSON or CBOR object.

    The tagged shape writes defaults too, because clients of the original service require fields that are optional here.
    It omits `ack`, which is for the service and means nothing to the receiver.
    """
    fields = fields_of(message, with_defaults=shape is Shape.TAGGED)
    if shape is Shape.TAGGED and fields.get("ack") is False:
        del fields["ack"]
    return fields


def read_object(message_type: MessageType, value: object, *, sent_by: Peer) -> Decoded:
    """Return the message of a decoded JSON or CBOR item in either shape.

    Raises:
        MalformedMessageError: as `build_message`; also if the item is not an object.
    """
    shape = Shape.PLAIN
    variant = SPECS[message_type].variant
    if isinstance(value, dict) and len(value) == 1 and variant is not None and variant in value:
        shape, value = Shape.TAGGED, value[variant]
    if not isinstance(value, dict):
        raise MalformedMessageError(f"expected an object, got {_kind(value)}")
    _check_keys(value)
    if message_type in SIGNAL_TYPES:
        _read_signal_encoding(value)
    return Decoded(build_message(message_type, value, sent_by=sent_by), shape)


def write_object(message: Message, fields: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """Return the object of these fields in the given shape; a type without a variant is always plain."""
    variant = spec_of(message).variant
    return {variant: fields} if shape is Shape.TAGGED and variant is not None else fields


def address_of(message: Signal, sent_by: Peer) -> str | None:
    """Return the client id before `signal_data` in BINARY and TEXT, or None if the message has no such form.

    It is the sender in messages of the service, which omit `ack` and `room_id`. It is the target in messages of a
    client, which have no such form if they set `ack` or `room_id`.
    """
    if sent_by is Peer.SERVICE:
        return message.sender_client_id
    if message.ack or (isinstance(message, SignalMessage) and message.room_id is not None):
        return None
    return message.target_client_id


def raw_signal_data(data: Any) -> bytes:
    """Return the bytes of `signal_data` in BINARY and TEXT (docs/protocol.md, "Between encodings")."""
    if isinstance(data, bytes):
        return data
    return data.encode() if isinstance(data, str) else msgspec.json.encode(data)


def decode_json(text: bytes | str) -> Any:
    """Return the JSON value of a text.

    Raises:
        MalformedMessageError: the text is not JSON or not UTF-8, has lone surrogates, or has too many values.
    """
    check_json(text if isinstance(text, bytes) else text.encode())
    try:
        return msgspec.json.decode(text)
    except UnicodeDecodeError as error:
        raise MalformedMessageError("JSON is not UTF-8") from error
    except RecursionError as error:
        raise MalformedMessageError(f"nested deeper than {MAX_DEPTH} levels") from error
    except msgspec.DecodeError as error:
        raise MalformedMessageError(_reason(error)) from error


def decode_utf8(data: bytes) -> str:
    """Return the text of these bytes, or raise MalformedMessageError."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedMessageError("text is not UTF-8") from error


def _read_signal_encoding(fields: dict[str, Any]) -> None:
    encoding = fields.pop("signal_encoding", None)
    if encoding is None:
        return
    data = fields.get("signal_data")
    if encoding != "base64" or not isinstance(data, str):
        raise MalformedMessageError('expected `signal_encoding` to be "base64", and `signal_data` a string then')
    try:
        fields["signal_data"] = binascii.a2b_base64(data, strict_mode=True)
    except ValueError as error:
        raise MalformedMessageError("`signal_data` is not base64") from error


def _check_value(value: Any, levels: int) -> None:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not _MIN_INTEGER <= value <= _MAX_INTEGER:
            raise MalformedMessageError("integer is out of range, expected -2^63 to 2^64-1")
    elif kind is float:
        # CBOR has NaN and infinities, JSON has none.
        if not math.isfinite(value):
            raise MalformedMessageError("number is not finite")
    elif kind is list or kind is dict:
        if levels == 0:
            raise MalformedMessageError(f"nested deeper than {MAX_DEPTH} levels")
        if kind is dict:
            _check_keys(value)
            value = value.values()
        for item in value:
            _check_value(item, levels - 1)
    else:
        raise MalformedMessageError(f"expected a JSON value, got {_kind(value)}")


def _check_keys(mapping: dict[Any, Any]) -> None:
    for key in mapping:
        if type(key) is not str:
            raise MalformedMessageError(f"expected keys to be strings, got {_kind(key)}")


def _check_addresses(message: Signal, sent_by: Peer) -> None:
    if sent_by is Peer.SERVICE:
        if message.sender_client_id is None:
            raise MalformedMessageError("missing `sender_client_id`")
    elif isinstance(message, SignalMessage):
        if (message.target_client_id is None) == (message.room_id is None):
            raise MalformedMessageError("expected exactly one of `target_client_id` and `room_id`")
    elif message.target_client_id is None:
        raise MalformedMessageError("missing `target_client_id`")


def _check_kinds(tracks: list[PublishedTrack]) -> None:
    """Refuse unknown kinds of tracks from a client; a newer service may announce other kinds."""
    for number, track in enumerate(tracks):
        if track.kind not in {None, "audio", "video"}:
            raise MalformedMessageError(f"Invalid enum value '{track.kind}' - at `$.tracks[{number}].kind`")


def _reason(error: msgspec.DecodeError) -> str:
    reason, at, path = str(error).partition(" - at ")
    # The rule in words is easier to read than its pattern.
    if "matching regex" in reason:
        reason = f"Expected a name of {NAME_RULE}"
    return reason + at + path


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
