"""Bounds on the cost of decoding a payload: the number of its values, and the lengths of its fields.

The codecs call `check_json` and `check_cbor` before they decode, because decoding one MiB of the worst shapes takes up
to 0.8 s (`benchmarks/decoders.py`). `check_texts` counts bytes of UTF-8, where msgspec counts characters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from signal_manager.errors import MalformedMessageError
from signal_manager.protocol.catalogue import SPECS

__all__ = ["MAX_REQUEST", "MAX_VALUES", "check_cbor", "check_json", "check_texts"]

# The most values in one payload: strings, numbers, arrays and objects. Each costs up to 0.8 µs, so decoding a message
# and encoding it for others blocks the event loop for less than 20 ms.
MAX_VALUES = 8192
# A tiny number such as "1e-300" costs as much as this many others, because msgspec computes its digits one by one.
_TINY_NUMBER = 31
# The largest payload (bytes) of a message that is no signal: the longest SDP and the longest metadata fit.
MAX_REQUEST = 327_680

_TOO_MANY = f"more than {MAX_VALUES} values"

# Major types of CBOR (RFC 8949, section 3.1), and the number of bytes in the argument of a head.
_LONG = (2, 3)  # bytes and text
_SHORT = 24
_ARGUMENTS = {24: 1, 25: 2, 26: 4, 27: 8}


def check_json(text: bytes) -> None:
    """Refuse a JSON text with too many values; this takes a few passes over its bytes.

    Raises:
        MalformedMessageError: the text has more than `MAX_VALUES` values.
    """
    if len(text) <= MAX_VALUES or _weight(text) <= MAX_VALUES:
        return
    # Much of the text may be inside strings, of which there are no more than values and keys. Count outside of them.
    most = 2 * 2 * MAX_VALUES
    parts = text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"', most + 1)
    if len(parts) > most + 1 or _weight(b"".join(parts[::2])) > MAX_VALUES:
        raise MalformedMessageError(_TOO_MANY)


def _weight(text: bytes) -> int:
    """Return an upper bound of the number of inner values: each follows a comma or begins an array or object."""
    values = text.count(b",") + text.count(b"[") + text.count(b"{")
    return values + _TINY_NUMBER * (text.count(b"e-") + text.count(b"E-"))


def check_cbor(payload: bytes) -> None:
    """Refuse CBOR with too many data items, keys included. The decoder checks whether it is well formed.

    Raises:
        MalformedMessageError: the payload has more than `MAX_VALUES` items.
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
            width = _ARGUMENTS.get(argument, 0)  # no argument: indefinite length, its end, or malformed
            argument = int.from_bytes(payload[at : at + width]) if width else 0
            at += width
        if major in _LONG:
            at += argument


def check_texts(part: msgspec.Struct) -> None:
    """Refuse text that keeps its field's bound in characters but exceeds it in bytes.

    Raises:
        MalformedMessageError: a field is too long; the message names it.
    """
    for name, most in _BOUNDS[type(part)]:
        held = getattr(part, name)
        for value in held if isinstance(held, list) else (held,):
            if isinstance(value, msgspec.Struct):
                check_texts(value)
            elif isinstance(value, str) and not value.isascii() and len(value.encode()) > most:
                raise MalformedMessageError(f"`{name}` is {len(value.encode())} bytes, expected at most {most}")


def _add_bounds(struct: type[Any]) -> None:
    """Store the bounds of a struct and of the structs in its fields, once each, when the process starts."""
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
    """Yield the types that a field may hold: the members of a union, and the items of a list."""
    if isinstance(kind, msgspec.inspect.UnionType):
        for each in kind.types:
            yield from _kinds(each)
    elif isinstance(kind, msgspec.inspect.ListType):
        yield from _kinds(kind.item_type)
    else:
        yield kind


# The text fields of a struct with their bounds, and its fields that hold structs, with 0.
_BOUNDS: dict[type[Any], tuple[tuple[str, int], ...]] = {}
for _spec in SPECS.values():
    _add_bounds(_spec.struct)
