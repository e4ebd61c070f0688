"""docs/asyncapi.yaml: the plain JSON shape of the protocol as an AsyncAPI 3 document, for generators."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

from signal_manager.protocol.catalogue import LEAVE_REASONS, ROOM_EVENTS, SPECS, Handling, Spec
from signal_manager.protocol.close_codes import CLOSE_CODES, CloseCode
from signal_manager.protocol.messages import PROTOCOL_VERSION, Peer
from tools.protocol.pages import wire_errors
from tools.protocol.source import objects, struct_fields, summary_of

__all__ = ["document"]

_HEAD = "# Made by tools/protocol from src/signal_manager/protocol: do not edit.\n"
_TEXT = """\
Signaling between WebRTC clients over one WebSocket. docs/protocol.md has the rules: framings, order, sessions, rooms.
The messages below are those of the subprotocol `signal-manager.json`, one JSON object in each text frame.
"""
_CHANNEL = "#/channels/signaling"


def document() -> str:
    """Return the document as YAML."""
    structs = [*objects(), *(spec.struct for spec in SPECS.values())]
    _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    for struct in structs:
        _describe(schemas[struct.__name__], struct)
    whole = {
        "asyncapi": "3.0.0",
        "info": {"title": "signal-manager", "version": PROTOCOL_VERSION, "description": _TEXT},
        "defaultContentType": "application/json",
        "servers": {"local": {"host": "127.0.0.1:8080", "protocol": "ws"}},
        "channels": {
            "signaling": {
                "address": "/",
                "messages": {
                    spec.message_type.name: {"$ref": f"#/components/messages/{spec.message_type.name}"}
                    for spec in SPECS.values()
                },
                "bindings": {"ws": {"method": "GET"}},
            }
        },
        "operations": dict(_operation(spec, peer) for spec in SPECS.values() for peer in _senders(spec)),
        "components": {
            "messages": {spec.message_type.name: _message(spec) for spec in SPECS.values()},
            "schemas": schemas,
        },
        "x-room-events": {name: {k: v for k, v in event._asdict().items() if v} for name, event in ROOM_EVENTS.items()},
        "x-leave-reasons": dict(LEAVE_REASONS),
        "x-error-codes": [
            {"name": each.__name__, "code": each.code, "retryable": each.may_retry, "meaning": summary_of(each)}
            for each in wire_errors()
        ],
        "x-close-codes": [
            {"code": int(code), "name": CloseCode(code).name, **{k: _plain(v) for k, v in ending._asdict().items()}}
            for code, ending in CLOSE_CODES.items()
        ],
    }
    return _HEAD + yaml.dump(whole, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value


def _describe(schema: dict[str, Any], struct: type[Any]) -> None:
    """Add what fields mean, in place of msgspec's title."""
    schema.pop("title", None)
    schema["description"] = summary_of(struct)
    for field in struct_fields(struct):
        if field.plain_meaning and "$ref" not in schema["properties"][field.name]:
            schema["properties"][field.name] = {"description": field.plain_meaning, **schema["properties"][field.name]}


def _message(spec: Spec) -> dict[str, Any]:
    kind = spec.message_type
    return {
        "name": kind.name,
        "summary": summary_of(spec.struct),
        "payload": {
            "type": "object",
            "properties": {
                "type": {"const": kind.name},
                "id": {"type": "string", "format": "uuid"},
                "payload": {"$ref": f"#/components/schemas/{spec.struct.__name__}"},
            },
            "required": ["type"],
        },
        "x-type-byte": int(kind),
        **({"x-tagged-variant": spec.variant} if spec.variant else {}),
    }


def _senders(spec: Spec) -> tuple[Peer, ...]:
    return (Peer.CLIENT, Peer.SERVICE) if spec.sent_by is None else (spec.sent_by,)


def _operation(spec: Spec, sender: Peer) -> tuple[str, dict[str, Any]]:
    """Return an operation as the service sees it: it receives what clients send."""
    action = "receive" if sender is Peer.CLIENT else "send"
    name = spec.message_type.name
    operation: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": _CHANNEL},
        "summary": summary_of(spec.struct),
        "messages": [{"$ref": f"{_CHANNEL}/messages/{name}"}],
    }
    if spec.answered_by is not None and (sender is Peer.CLIENT or spec.handling is Handling.HEARTBEAT):
        answers = [spec.answered_by.name, *(["ERROR"] if sender is Peer.CLIENT else [])]
        operation["reply"] = {
            "channel": {"$ref": _CHANNEL},
            "messages": [{"$ref": f"{_CHANNEL}/messages/{each}"} for each in answers],
        }
    return f"{action}_{name}", operation
