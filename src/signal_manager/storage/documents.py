"""Stored documents: their collections, ids and text, and the conditions by which a collection is searched.

Adapters keep documents and do not know their meaning; `records.py` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import structlog

from signal_manager.errors import InvalidRequestError, SignalManagerError
from signal_manager.model import ClientRecord, MediaClosing, NodeId, NodeLease, Room, SavedSession
from signal_manager.storage import original

__all__ = [
    "CLIENTS",
    "KINDS",
    "MEDIA",
    "NODES",
    "ROOMS",
    "SESSIONS",
    "Change",
    "Changed",
    "Condition",
    "Equals",
    "HasMemberOn",
    "Kind",
    "RecordT",
    "TimeCursor",
    "UpTo",
    "decode",
    "encode",
    "member_nodes",
    "readable",
    "require_readable",
]

RecordT = TypeVar("RecordT", bound=msgspec.Struct)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Kind(Generic[RecordT]):
    """One sort of document.

    `key` is the field of the record that is the document's id, `indexed` the fields that a condition may name.
    `of_original` reads the original service's documents of this sort.
    """

    collection: str
    record: type[RecordT]
    key: str
    indexed: tuple[str, ...]
    of_original: Callable[[dict[str, Any]], RecordT] | None = None

    def key_of(self, record: RecordT) -> str:
        """Return the id under which `record` is stored."""
        return str(getattr(record, self.key))


CLIENTS = Kind("clients", ClientRecord, "client_id", ("node_id", "expires_at"), original.client_of)
ROOMS = Kind("rooms", Room, "room_id", ("is_active", "expires_at"), original.room_of)
MEDIA = Kind("media_closings", MediaClosing, "entry_id", ("session_id", "node_id", "next_attempt_at"))
SESSIONS = Kind("saved_sessions", SavedSession, "session_id", ("expires_at",))
NODES = Kind("nodes", NodeLease, "node_id", ("lease_expires_at",))
KINDS: tuple[Kind[Any], ...] = (CLIENTS, ROOMS, MEDIA, SESSIONS, NODES)


class Equals(NamedTuple):
    """Documents whose `field` is `value`, in order of id."""

    field: str
    value: str | bool


class UpTo(NamedTuple):
    """Documents whose time in `field` is at or before `at`, ordered by that time and then by id."""

    field: str
    at: float


class HasMemberOn(NamedTuple):
    """Active rooms with a member on the node, in order of id."""

    node_id: NodeId


Condition = Equals | UpTo | HasMemberOn | None

# From the stored record to the new one; None means that there is none.
Change = Callable[[RecordT | None], RecordT | None]


class Changed(NamedTuple, Generic[RecordT]):
    """The record before and after a change."""

    before: RecordT | None
    after: RecordT | None


class TimeCursor(msgspec.Struct, frozen=True, array_like=True):
    """The end of a page of an `UpTo` condition: the last document's time and id."""

    at: float
    key: str

    def __str__(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def parse(cls, text: str) -> TimeCursor:
        """Return the cursor from its text (`str`)."""
        return msgspec.json.decode(text, type=cls)


def member_nodes(room: Room) -> list[str]:
    """Return the nodes that an active room's members are on; a closed room has none."""
    return sorted({member.node_id for member in room.participants if member.node_id}) if room.is_active else []


def encode(record: object) -> bytes:
    """Return the record as one line of JSON; raise `InvalidRequestError` if a value has no form in JSON."""
    try:
        return msgspec.json.encode(record)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequestError(f"the record cannot be stored: expected JSON values, got {error}") from None


def decode(kind: Kind[RecordT], key: str, document: bytes | str | dict[str, Any]) -> RecordT:
    """Return the record in a document (JSON or a dict); raise `ValueError` if the document is damaged."""
    if not isinstance(document, dict):
        record = msgspec.json.decode(document, type=kind.record)
    elif kind.of_original is not None and original.is_of_the_original(document) and kind.key in document:
        return _of_original(kind.of_original, kind.record, document)
    else:
        record = msgspec.convert(document, kind.record, builtin_types=(bytes,))
    if kind.key_of(record) != key:
        raise msgspec.ValidationError(f"`{kind.key}` is not the document's id")
    return record


def _of_original(
    of_original: Callable[[dict[str, Any]], RecordT], record: type[RecordT], document: dict[str, Any]
) -> RecordT:
    """Return the record in a document of the original service, which this service may have changed since."""
    try:
        return msgspec.convert(document, record, builtin_types=(bytes,))
    except msgspec.ValidationError:
        return of_original(document)


def readable(kind: Kind[RecordT], key: str, document: bytes | str | dict[str, Any]) -> RecordT | None:
    """Return the record in a document; log a damaged document and return None."""
    try:
        return decode(kind, key, document)
    except (ValueError, RecursionError) as error:
        log.warning("stored record is damaged", collection=kind.collection, id=key, reason=str(error))
        return None


def require_readable(kind: Kind[RecordT], key: str, document: bytes | str | dict[str, Any]) -> RecordT:
    """Return the record in a document; log a damaged document and raise `SignalManagerError`."""
    record = readable(kind, key, document)
    if record is None:
        raise SignalManagerError(f"the record {key} in {kind.collection} is damaged; the log says how")
    return record
