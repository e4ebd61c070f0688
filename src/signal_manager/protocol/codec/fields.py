"""What every payload type shares: a message as a mapping from field names to JSON values, and the rules for it.

The codec modules turn bytes into such a mapping; `build_message` makes the struct of it, or says what is wrong.
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

# Objects and arrays within each other, the message itself included: far more than signaling needs, far less than would
# exhaust the stack. Every payload type has the same bound, so that what one of them lets in every other can carry.
MAX_DEPTH = 64

# What all of JSON, CBOR and Protobuf carry without loss.
_MIN_INTEGER = -(2**63)
_MAX_INTEGER = 2**64 - 1

_STRUCTS = {spec.struct: msgspec.structs.fields(spec.struct) for spec in SPECS.values()}
_OPTIONAL = {struct: [field.name for field in fields if not field.required] for struct, fields in _STRUCTS.items()}
# Name, whether it is required, and what it is when it is absent.
_FIELDS = {
    struct: [(field.name, field.required, field.default) for field in fields] for struct, fields in _STRUCTS.items()
}

# Values of these types are what JSON and CBOR write, as they are.
_BUILTIN = frozenset({str, int, bool, float, bytes, type(None)})


class Decoded(NamedTuple):
    """A message and the shape its object had; PLAIN for payload types that are no objects."""

    message: Message
    shape: Shape


def build_message(message_type: MessageType, fields: dict[str, Any], *, sent_by: Peer) -> Message:
    """Return the message of these fields; the mapping itself is used up.

    Fields that the type does not have are ignored, null stands for an optional field that is absent, and a sender that
    a client names is ignored: nobody speaks for another.

    Raises:
        MalformedMessageError: when a field is missing, wrong or too long, or a signal has no receiver or no sender.
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
    """Return the fields that are worth writing as JSON values (or bytes, for opaque `signal_data`).

    Optional fields that are None are left out, and so are those with another default unless `with_defaults`.
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

    The tagged shape writes defaults too: the original service's clients have required fields where ours are optional.
    `ack` alone is left out, because it asks the service for something and says nothing to the receiver.
    """
    fields = fields_of(message, with_defaults=shape is Shape.TAGGED)
    if shape is Shape.TAGGED and fields.get("ack") is False:
        del fields["ack"]
    return fields


def read_object(message_type: MessageType, value: object, *, sent_by: Peer) -> Decoded:
    """Return the message that a decoded JSON or CBOR item stands for, in either shape.

    Raises:
        MalformedMessageError: as `build_message`, and for what is not an object.
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
    """Return the object of these fields in the shape asked for; a type without a variant name is always plain."""
    variant = spec_of(message).variant
    return {variant: fields} if shape is Shape.TAGGED and variant is not None else fields


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


def decode_json(text: bytes | str) -> Any:
    """Return the JSON value of a text.

    Raises:
        MalformedMessageError: for anything else, invalid UTF-8, lone surrogates and too many values included.
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
        # NaN and the infinities are CBOR's; JSON has no word for them.
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
    """Refuse a client the kinds of tracks that there are not; a newer service may announce others."""
    for number, track in enumerate(tracks):
        if track.kind not in {None, "audio", "video"}:
            raise MalformedMessageError(f"Invalid enum value '{track.kind}' - at `$.tracks[{number}].kind`")


def _reason(error: msgspec.DecodeError) -> str:
    reason, at, path = str(error).partition(" - at ")
    # The rule in words: its pattern helps nobody.
    if "matching regex" in reason:
        reason = f"Expected a name of {NAME_RULE}"
    return reason + at + path


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
