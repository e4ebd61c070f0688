"""What a payload may cost whoever reads it: how many values it holds, and how long its fields are.

The codecs call `check_json` and `check_cbor` before they decode, because decoding is what costs: up to 0.8 s for one
MiB of the worst shapes (`benchmarks/decoders.py`). `check_texts` counts what msgspec does not: bytes of UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol.catalogue import SPECS

__all__ = ["MAX_REQUEST", "MAX_VALUES", "check_cbor", "check_json", "check_texts"]

# Values of one payload: its strings, numbers, arrays and objects. Each costs up to 0.8 µs, so that reading a message
# and writing it for others keeps the event loop for less than 20 ms.
MAX_VALUES = 8192
# A number next to nothing ("1e-300") costs as much as so many others: msgspec works its digits out one by one.
_TINY_NUMBER = 31
# A payload that is no signal: the longest SDP and the longest metadata fit in (bytes).
MAX_REQUEST = 327_680

_TOO_MANY = f"more than {MAX_VALUES} values"

# Major types of CBOR (RFC 8949, section 3.1), and how many bytes the argument of a head has.
_LONG = (2, 3)  # bytes and text
_SHORT = 24
_ARGUMENTS = {24: 1, 25: 2, 26: 4, 27: 8}


def check_json(text: bytes) -> None:
    """Refuse a JSON text of too many values, at the cost of some passes over its bytes.

    Raises:
        MalformedMessageError: there are more than `MAX_VALUES`.
    """
    if len(text) <= MAX_VALUES or _weight(text) <= MAX_VALUES:
        return
    # Much of it may be within strings, of which there cannot be more than values and keys: count what is between them.
    most = 2 * 2 * MAX_VALUES
    parts = text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"', most + 1)
    if len(parts) > most + 1 or _weight(b"".join(parts[::2])) > MAX_VALUES:
        raise MalformedMessageError(_TOO_MANY)


def _weight(text: bytes) -> int:
    """Return at least how many values there are: each is the first of its array or object, or follows a comma."""
    values = text.count(b",") + text.count(b"[") + text.count(b"{")
    return values + _TINY_NUMBER * (text.count(b"e-") + text.count(b"E-"))


def check_cbor(payload: bytes) -> None:
    """Refuse CBOR of too many data items, keys included; whether it is well formed is for the decoder to say.

    Raises:
        MalformedMessageError: there are more than `MAX_VALUES`.
    """
    size, at, items = len(payload), 0, 0
    if size <= MAX_VALUES:
        return
    while at < size:
        items += 1
        if items > MAX_VALUES:
            raise MalformedMessageError(_TOO_MANY)
        head = payload[at]
        at += 1
        major, argument = head >> 5, head & 31
        if argument >= _SHORT:
            width = _ARGUMENTS.get(argument, 0)  # without one: of indefinite length, the end of such, or malformed
            argument = int.from_bytes(payload[at : at + width]) if width else 0
            at += width
        if major in _LONG:
            at += argument


def check_texts(part: msgspec.Struct) -> None:
    """Refuse text that is within its field's bound in characters, but not in bytes.

    Raises:
        MalformedMessageError: naming the field.
    """
    for name, most in _BOUNDS[type(part)]:
        held = getattr(part, name)
        for value in held if isinstance(held, list) else (held,):
            if isinstance(value, msgspec.Struct):
                check_texts(value)
            elif isinstance(value, str) and not value.isascii() and len(value.encode()) > most:
                raise MalformedMessageError(f"`{name}` is {len(value.encode())} bytes, expected at most {most}")


def _add_bounds(struct: type[Any]) -> None:
    """Note the bounds of a struct and of those in its fields, once each: every process works them out as it starts."""
    bounds: dict[str, int] = {}
    for field in msgspec.structs.fields(struct):
        for kind in _kinds(msgspec.inspect.type_info(field.type)):
            if isinstance(kind, msgspec.inspect.StructType):
                bounds[field.name] = 0
                if kind.cls not in _BOUNDS:
                    _add_bounds(kind.cls)
            elif isinstance(kind, msgspec.inspect.StrType) and kind.max_length is not None:
                bounds[field.name] = kind.max_length
    _BOUNDS[struct] = tuple(bounds.items())


def _kinds(kind: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    """Yield what a field may hold: the members of a union, and the items of a list."""
    if isinstance(kind, msgspec.inspect.UnionType):
        for each in kind.types:
            yield from _kinds(each)
    elif isinstance(kind, msgspec.inspect.ListType):
        yield from _kinds(kind.item_type)
    else:
        yield kind


# The fields of a struct that hold text, each with its bound, and those that hold structs, with 0.
_BOUNDS: dict[type[Any], tuple[tuple[str, int], ...]] = {}
for _spec in SPECS.values():
    _add_bounds(_spec.struct)
