"""The Protobuf schema. A field keeps the number that it has in the present file; a new one takes the next."""

from __future__ import annotations

import re
from typing import Any

from msgspec import inspect as shapes

from signal_manager.protocol.catalogue import SPECS
from tools.protocol.source import Field, objects, struct_fields

__all__ = ["schema"]

_HEAD = """\
// The PROTOBUF payload (docs/protocol.md, "Payload types"): one message per message type, with the field names of the
// JSON object. Every field is optional here, so that absent and empty stay apart; docs/protocol.md says which of them a
// message must have. `make protocol` writes this file and signal_manager_pb2.py; numbers never change.

syntax = "proto3";

package signal_manager.v1;

// A list that may be absent, which is not the same as empty.
message StringList {
  repeated string items = 1;
}
"""
_SIGNAL = """\
  oneof signal_data {{
    bytes signal_bytes = {bytes};
    string signal_json = {json};  // JSON text of any value
  }}
"""


def schema(present: str) -> str:
    """Return the schema; `present` is the file as it is, which pins the numbers."""
    pinned = _numbers(present)
    structs = [*objects(), *(spec.struct for spec in SPECS.values())]
    listed = {each.__name__ for struct in structs for each in _listed(struct)}
    parts = [_HEAD]
    for struct in structs:
        parts.append(_message(struct, pinned.get(struct.__name__, {})))
        if struct.__name__ in listed:
            parts.append(f"message {struct.__name__}List {{\n  repeated {struct.__name__} items = 1;\n}}\n")
    return "\n".join(parts)


def _numbers(present: str) -> dict[str, dict[str, int]]:
    """Return the number of each field of each message, reserved ones under their numbers."""
    found: dict[str, dict[str, int]] = {}
    for name, body in re.findall(r"^message (\w+) \{\n(.*?)^\}", present, re.MULTILINE | re.DOTALL):
        numbers = {field: int(number) for field, number in re.findall(r"(\w+) = (\d+);", body)}
        numbers |= {
            f"reserved {number}": int(number)
            for line in re.findall(r"reserved ([\d, ]+);", body)
            for number in line.split(", ")
        }
        found[name] = numbers
    return found


def _message(struct: type[Any], pinned: dict[str, int]) -> str:
    numbers = dict(pinned)

    def number(name: str) -> int:
        return numbers.setdefault(name, max(numbers.values(), default=0) + 1)

    lines: list[tuple[int, str]] = []
    used = set()
    for field in struct_fields(struct):
        if field.name == "signal_data":
            used |= {"signal_bytes", "signal_json"}
            both = {"bytes": number("signal_bytes"), "json": number("signal_json")}
            lines.append((both["bytes"], _SIGNAL.format(**both)))
        else:
            used.add(field.name)
            comment = "JSON text of an object" if isinstance(field.shape, shapes.DictType) else field.plain_meaning
            line = f"  optional {_type(field)} {field.name} = {number(field.name)};"
            lines.append((number(field.name), f"{line}  // {comment}\n" if comment else f"{line}\n"))
    if gone := sorted(value for name, value in pinned.items() if name not in used):
        lines.insert(0, (0, f"  reserved {', '.join(map(str, gone))};\n"))
    return f"message {struct.__name__} {{\n{''.join(line for _, line in sorted(lines))}}}\n"


def _type(field: Field) -> str:
    match field.shape:
        case shapes.StrType() | shapes.LiteralType() | shapes.DictType():
            return "string"
        case shapes.BoolType():
            return "bool"
        case shapes.FloatType():
            return "double"
        case shapes.IntType(le=highest):
            return "uint32" if highest is not None else "uint64"
        case shapes.StructType(cls=struct):
            return str(struct.__name__)
        case shapes.ListType(item_type=shapes.StructType(cls=struct)):
            return f"{struct.__name__}List"
        case shapes.ListType():
            return "StringList"
    raise TypeError(f"no Protobuf type for {field.name}: {field.shape}")


def _listed(struct: type[Any]) -> list[type[Any]]:
    return [
        field.shape.item_type.cls
        for field in struct_fields(struct)
        if isinstance(field.shape, shapes.ListType) and isinstance(field.shape.item_type, shapes.StructType)
    ]
