"""The browser SDK's part of the protocol: message types, field rules, error classes and close codes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from msgspec import inspect as shapes

from signal_manager.errors import MalformedMessageError, SignalManagerError
from signal_manager.protocol import messages
from signal_manager.protocol.catalogue import LEAVE_REASONS, ROOM_EVENTS, SIGNAL_TYPES, SPECS
from signal_manager.protocol.close_codes import CLOSE_CODES, Return
from signal_manager.protocol.messages import MAX_ITEMS, Peer
from tools.protocol.pages import wire_errors
from tools.protocol.source import Field, objects, own_fields, struct_fields, summary_of

__all__ = ["close_codes", "errors", "rules", "types"]

# What TypeScript calls a literal type that it uses by name.
_ALIASES: dict[frozenset[Any], str] = {frozenset({"audio", "video"}): "TrackKind"}
# Words of the service that applications know; a newer service may say others, which the SDK ignores.
_KNOWN_WORDS = {"event": "RoomChange", "kind": "TrackKind"}
# Where clients may send only words that the service knows (`_check_kinds` in protocol/codec/fields.py).
_STRICT = {messages.PublishedTrack: {"kind": 'oneOf("audio", "video")'}}

_TYPES = """\
/**
 * The messages of the protocol: their types and the fields of each, in the words of docs/protocol.md.
 *
 * Made by tools/protocol from src/signal_manager/protocol: do not edit. `rules.ts` says what each field may hold,
 * `payload.ts` reads and writes them, `frames.ts` puts them into bytes.
 */

/** The byte of each message type (docs/protocol.md, "Message types"). */
export const TYPE_BYTES = {
%(bytes)s
} as const;

/** The name of a message type. */
export type MessageType = keyof typeof TYPE_BYTES;

/** The types that relay application data from one client to another. */
export type SignalType = %(signals)s;

/** A JSON object. */
export type JsonObject = Record<string, unknown>;

/** Tell whether a value is a JSON object. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Tell whether two JSON values are the same; the order of keys, which storage may change, says nothing. */
export function isSame(one: unknown, other: unknown): boolean {
  const write = (value: unknown): string =>
    JSON.stringify(value, (_, each: unknown) =>
      isObject(each) ? Object.fromEntries(Object.entries(each).sort()) : each,
    );
  return write(one) === write(other);
}

/** What kind of media a track carries. */
export type TrackKind = "audio" | "video";

/** What can happen in a room. */
export type RoomChange = %(events)s;

/** Why a member left, where its own WEBRTC_ROOM_LEAVE does not say. */
export type LeaveReason = %(reasons)s;

%(interfaces)s

/** The fields of every message type (docs/protocol.md, "Messages"). */
export interface Fields {
%(fields)s
}

/** One change of a room. */
export type RoomEvent = Fields["ROOM_EVENT"];

/** One message: `fields` holds what its type has, absent ones left out. */
export type Message = { [T in MessageType]: { type: T; id: string; fields: Fields[T] } }[MessageType];

const SIGNAL_TYPES: ReadonlySet<MessageType> = new Set<SignalType>([%(signal_list)s]);

/** Tell whether messages of this type relay application data. */
export function isSignalType(type: MessageType): type is SignalType {
  return SIGNAL_TYPES.has(type);
}

/** Tell whether a message relays application data. */
export function isSignal(message: Message): message is Extract<Message, { type: SignalType }> {
  return isSignalType(message.type);
}
"""

_RULES = """\
/**
 * What each field of each message must be, for what is sent and for what is received alike.
 *
 * Made by tools/protocol from src/signal_manager/protocol: do not edit.
 */

import type { MessageType } from "./messages.js";
import { %(imports)s, type Rules } from "./fields.js";

%(consts)s

/** By message type. */
export const RULES: Record<MessageType, Rules> = {
%(rules)s
};
"""


def types() -> str:
    """Return messages.ts."""
    signals = [f'"{SPECS[each].message_type.name}"' for each in sorted(SIGNAL_TYPES)]
    return _TYPES % {
        "bytes": "\n".join(f"  {spec.message_type.name}: 0x{spec.message_type:02x}," for spec in SPECS.values()),
        "signals": " | ".join(signals),
        "signal_list": ", ".join(signals),
        "events": " | ".join(f'"{each}"' for each in ROOM_EVENTS),
        "reasons": " | ".join(f'"{each}"' for each in LEAVE_REASONS),
        "interfaces": "\n\n".join(_interface(each) for each in (*objects(), *_bases())),
        "fields": "\n".join(_fields_of(spec.message_type.name, spec.struct) for spec in SPECS.values()),
    }


def _bases() -> list[type[Any]]:
    """Return the structs that several message types share, each after its own base."""
    found: list[type[Any]] = []
    for spec in SPECS.values():
        for each in reversed(spec.struct.__mro__):
            if issubclass(each, messages.Message) and each not in (messages.Message, spec.struct) and each not in found:
                found.append(each)
    return found


def _interface(struct: type[Any]) -> str:
    base = struct.__base__
    extends = f" extends {base.__name__}" if base in _bases() else ""
    return f"/** {summary_of(struct)} */\nexport interface {struct.__name__}{extends} {{\n{_members(struct)}\n}}"


def _fields_of(name: str, struct: type[Any]) -> str:
    base = struct.__base__.__name__ if struct.__base__ in _bases() else ""
    own = own_fields(struct)
    body = f"{{\n{_members(struct, indent='    ')}\n  }}" if own else ""
    return (
        f"  /** {summary_of(struct)} */\n  {name}: {' & '.join(part for part in (base, body) if part) or 'JsonObject'};"
    )


def _members(struct: type[Any], indent: str = "  ") -> str:
    lines = []
    for field in own_fields(struct):
        if field.plain_meaning:
            lines.append(f"{indent}/** {field.plain_meaning} */")
        kind = _KNOWN_WORDS.get(field.name) or _type(field.shape)
        lines.append(
            f"{indent}{field.name}: {kind};" if field.is_required else f"{indent}{field.name}?: {kind} | undefined;"
        )
    return "\n".join(lines)


def _type(shape: shapes.Type) -> str:
    match shape:
        case shapes.LiteralType(values=values) if frozenset(values) in _ALIASES:
            return _ALIASES[frozenset(values)]
        case shapes.LiteralType(values=values):
            return " | ".join(f'"{value}"' for value in values)
        case shapes.StrType():
            return "string"
        case shapes.IntType() | shapes.FloatType():
            return "number"
        case shapes.BoolType():
            return "boolean"
        case shapes.DictType():
            return "JsonObject"
        case shapes.AnyType():
            return "unknown"
        case shapes.StructType(cls=struct):
            return str(struct.__name__)
        case shapes.ListType(item_type=item):
            return f"{_type(item)}[]"
    raise TypeError(f"no TypeScript type for {shape}")


def rules() -> str:
    """Return rules.ts."""
    consts = [f"const {_const(each)} = part({{\n{_rows(struct_fields(each))}\n}});" for each in objects()]
    consts += [
        f"const {_const(each, is_sent=True)} = part({{\n{_rows(struct_fields(each), strict=words)}\n}});"
        for each, words in _STRICT.items()
    ]
    consts += [
        f"const {_const(each)} = {{\n{_spread(each)}{_rows(own_fields(each), is_sent=_is_sent(each))}\n}};"
        for each in _bases()
    ]
    rows = []
    for spec in SPECS.values():
        own = own_fields(spec.struct)
        if not own and spec.struct.__base__ in _bases():
            rows.append(f"  {spec.message_type.name}: {_const(spec.struct.__base__)},")
        else:
            body = _spread(spec.struct) + _rows(own, is_sent=_is_sent(spec.struct))
            rows.append(f"  {spec.message_type.name}: {{\n{body}\n  }},")
    text = "\n\n".join(consts), "\n".join(rows)
    used = [each for each in _PRIMITIVES if re.search(rf"\b{each}\b(?!:)", "".join(text))]
    return _RULES % {"imports": ", ".join(used), "consts": text[0], "rules": text[1]}


_PRIMITIVES = (
    *("anything", "count", "flag", "integer", "amount", "listOf", "maybe", "name", "object", "oneOf"),
    *("part", "places", "tag", "text", "MAX_ITEMS"),
)


def _const(struct: type[Any], *, is_sent: bool = False) -> str:
    name = struct.__name__
    return f"sent{name}Rules" if is_sent and struct in _STRICT else f"{name[0].lower()}{name[1:]}Rules"


def _spread(struct: type[Any]) -> str:
    return f"  ...{_const(struct.__base__)},\n" if struct.__base__ in _bases() else ""


def _is_sent(struct: type[Any]) -> bool:
    """Tell whether clients send this, so that its lists are bounded before they leave."""
    return all(spec.sent_by is Peer.CLIENT for spec in SPECS.values() if issubclass(spec.struct, struct))


def _rows(fields: list[Field], *, is_sent: bool = False, strict: Mapping[str, str] = MappingProxyType({})) -> str:
    rows = ((field, strict.get(field.name) or _rule(field.shape, is_sent)) for field in fields)
    return "\n".join(
        f"  {field.name}: {rule}," if field.is_required else f"  {field.name}: maybe({rule})," for field, rule in rows
    )


def _rule(shape: shapes.Type, is_sent: bool) -> str:
    match shape:
        case shapes.LiteralType(values=values):
            return f"oneOf({', '.join(json.dumps(value) for value in values)})"
        case shapes.StrType(pattern=str()):
            return "name"
        case shapes.StrType(min_length=int()):
            return "tag"
        case shapes.StrType():
            return "text"
        case shapes.IntType(ge=1):
            return "places"
        case shapes.IntType():
            return "count"
        case shapes.FloatType():
            return "amount"
        case shapes.BoolType():
            return "flag"
        case shapes.DictType():
            return "object"
        case shapes.AnyType():
            return "anything"
        case shapes.StructType(cls=struct):
            return _const(struct, is_sent=is_sent)
        case shapes.ListType(item_type=item, max_length=most):
            bound = ", MAX_ITEMS" if is_sent and most == MAX_ITEMS else ""
            return f"listOf({_rule(item, is_sent)}{bound})"
    raise TypeError(f"no rule for {shape}")


def errors(present: str) -> str:
    """Return errors.ts with its classes as they are now."""
    own = [each for each in wire_errors() if each not in (SignalManagerError, MalformedMessageError)]
    classes = "\n\n".join(_class(each) for each in own)
    names = "".join(f"  {each.__name__},\n" for each in own)
    return _between(present, "error classes", f"{classes}\n\nconst WIRE_ERRORS = [\n{names}];\n")


def _class(error: type[SignalManagerError]) -> str:
    retryable = "  static override readonly retryable = true;\n" if error.may_retry else ""
    return (
        f"/** {summary_of(error)} */\nexport class {error.__name__} extends SignalManagerError {{\n"
        f'  static override readonly kind = "{error.__name__}";\n'
        f"  static override readonly code = {error.code};\n{retryable}}}"
    )


def close_codes(present: str) -> str:
    """Return closing.ts with its rows as they are now."""
    rows = "".join(
        f"  [{int(code)}, {_return(ending.returns)}, {ending.error_code}], // {ending.meaning}\n"
        for code, ending in CLOSE_CODES.items()
    )
    return _between(present, "close codes", rows)


def _return(returns: Return) -> str:
    return "FINAL" if returns is Return.NO else "BACK"


def _between(present: str, name: str, text: str) -> str:
    """Return a file with `text` between the marks of `name`.

    Raises:
        ValueError: the file lacks the marks.
    """
    opening = re.search(rf"^ *// made by tools/protocol: {name}\n", present, re.MULTILINE)
    closing = re.search(r"^ *// end\n", present, re.MULTILINE)
    if opening is None or closing is None:
        raise ValueError(f"no marks for {name}")
    return present[: opening.end()] + text + present[closing.start() :]
