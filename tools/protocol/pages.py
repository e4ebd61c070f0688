"""The tables of docs/protocol.md, each between a mark that names it and `<!-- end -->`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from msgspec import inspect as shapes

from signal_manager import errors
from signal_manager.errors import ConfigurationError, SignalManagerError
from signal_manager.protocol import messages
from signal_manager.protocol.catalogue import LEAVE_REASONS, ROOM_EVENTS, SPECS, Handling, Spec
from signal_manager.protocol.close_codes import CLOSE_CODES
from signal_manager.protocol.messages import MessageType, Shape
from signal_manager.protocol.state_machine import error_code_for
from tools.protocol.source import Field, groups, objects, own_fields, summary_of

__all__ = ["wire_errors", "with_tables"]

_SECTION = "#objects-in-room-messages"


def with_tables(page: str) -> str:
    """Return the page with its tables as they are now.

    Raises:
        ValueError: the page lacks a table's mark.
    """
    for name, table in _TABLES.items():
        mark = f"<!-- made by tools/protocol: {name} -->"
        pattern = re.compile(re.escape(mark) + r"\n.*?<!-- end -->", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"docs/protocol.md has no {mark}")
        text = f"{mark}\n\n{table()}\n\n<!-- end -->"
        page = pattern.sub(lambda _, text=text: text, page)  # type: ignore[misc]  # mypy sees no second argument
    return page


def wire_errors() -> list[type[SignalManagerError]]:
    """Return the error classes that have a code on the wire, by code."""
    tree = (each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, SignalManagerError))
    return sorted((each for each in tree if each is not ConfigurationError), key=lambda each: each.code)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in (head, *rows)]
    return "\n".join((lines[0], "|" + "---|" * len(head), *lines[1:]))


def _message_types() -> str:
    return _table(
        ("byte", "name", "sent by", "answered by"),
        [
            (f"0x{spec.message_type:02X}", spec.message_type.name, _sender(spec), _answer(spec))
            for spec in SPECS.values()
        ],
    )


def _sender(spec: Spec) -> str:
    if spec.handling is Handling.SIGNAL:
        return "client, relayed"
    return str(spec.sent_by) if spec.sent_by is not None else "either"


def _answer(spec: Spec) -> str:
    if spec.message_type is MessageType.DISCONNECT:
        return "WebSocket close 1000"
    if spec.answered_by is None:
        return ""
    return spec.answered_by.name + (" when asked for" if spec.handling is Handling.SIGNAL else "")


def _variants() -> str:
    return _table(
        ("message", "variant"),
        [(spec.message_type.name, f"`{spec.variant}`") for spec in SPECS.values() if spec.variant is not None],
    )


def _messages() -> str:
    rows: list[tuple[str, ...]] = []
    for group in groups():
        title = _title(group.struct, group.specs)
        rows += _field_rows(title, own_fields(group.struct))
    return _table(("message", "field", "type and meaning"), rows)


def _title(struct: type[Any], specs: tuple[Spec, ...]) -> str:
    if struct is messages.Signal:
        return "SIGNAL_*"
    if struct is messages.Request:
        return "every request about rooms"
    return ", ".join(spec.message_type.name for spec in specs)


def _field_rows(title: str, fields: list[Field]) -> list[tuple[str, ...]]:
    names = [f"**`{field.name}`**" if field.is_required else f"`{field.name}`" for field in fields]
    titles = [title, *("" for _ in fields[1:])]
    return list(zip(titles, names, map(_says, fields), strict=True))


def _says(field: Field) -> str:
    default = "" if field.default is None else f", default {_literal(field.default)}"
    return f"{_type(field.shape)}{default}" + (f". {field.meaning}" if field.meaning else "")


def _literal(value: object) -> str:
    return f'`"{value}"`' if isinstance(value, str) else json.dumps(value)


def _type(shape: shapes.Type) -> str:
    match shape:
        case shapes.StrType(pattern=str()):
            return "name"
        case shapes.StrType():
            return "string"
        case shapes.LiteralType(values=values):
            return " or ".join(f'`"{value}"`' for value in values)
        case shapes.IntType(ge=lowest, le=highest):
            return f"integer from {lowest} to {highest}" if highest is not None else f"integer ≥ {lowest}"
        case shapes.FloatType():
            return "number"
        case shapes.BoolType():
            return "boolean"
        case shapes.DictType():
            return "object"
        case shapes.AnyType():
            return "any value"
        case shapes.StructType(cls=struct):
            return f"[{_object_name(struct)}]({_SECTION})"
        case shapes.ListType(item_type=shapes.StructType(cls=struct), max_length=most):
            return f"list of up to {most:,} [{_object_name(struct)}s]({_SECTION})"
        case shapes.ListType(max_length=most):
            return f"list of up to {most} strings"
    raise TypeError(f"no words for {shape}")


def _object_name(struct: type[Any]) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", struct.__name__).lower()
    return words.replace("ice server", "ICE server")


def _objects() -> str:
    rows: list[tuple[str, ...]] = []
    for struct in objects():
        rows += _field_rows(_object_name(struct), own_fields(struct))
    return _table(("object", "field", "type and meaning"), rows)


def _room_events() -> str:
    return _table(
        ("event", "`participant`", "`tracks`", "`reason`", "`metadata`"),
        [(name, *event) for name, event in ROOM_EVENTS.items()],
    )


def _leave_reasons() -> str:
    return _table(("reason", "why the member left"), [(f'`"{name}"`', why) for name, why in LEAVE_REASONS.items()])


def _errors() -> str:
    return _table(
        ("code", "meaning", "retryable", "tagged"),
        [
            (
                str(error.code),
                summary_of(error).rstrip("."),
                "yes" if error.may_retry else "no",
                str(error_code_for(error("example"), Shape.TAGGED)),
            )
            for error in wire_errors()
        ],
    )


def _close_codes() -> str:
    return _table(
        ("close code", "meaning", "come back?", "the session"),
        [
            (str(int(code)), ending.meaning, str(ending.returns), "stays" if ending.keeps_session else "ends")
            for code, ending in CLOSE_CODES.items()
        ],
    )


_TABLES: dict[str, Callable[[], str]] = {
    "message types": _message_types,
    "variants": _variants,
    "messages": _messages,
    "objects": _objects,
    "room events": _room_events,
    "leave reasons": _leave_reasons,
    "errors": _errors,
    "close codes": _close_codes,
}
