"""Converts documents of the original service to records of this service.

The original service kept rooms in `webrtc_rooms` and their members in `webrtc_clients`, with times as RFC 3339 text.
`documents.py` converts those that it finds in a collection of this service; `storage import --from original` imports
the others.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from signal_manager.model import ClientId, ClientRecord, Room, RoomId, SessionId

__all__ = ["CLIENTS_COLLECTION", "ROOMS_COLLECTION", "client_of", "is_of_the_original", "room_of"]

ROOMS_COLLECTION = "webrtc_rooms"
CLIENTS_COLLECTION = "webrtc_clients"

# The original's field for when a document was made; documents of this service lack it.
_MARK = "record_created_at"
_TERMINATED = "Terminated"


class _Document(msgspec.Struct, kw_only=True):
    """The fields that both kinds of the original's documents have."""

    room_id: str
    session_id: str | None = None
    status: str
    metadata: Any = None
    record_created_at: str | float


class _Room(_Document, kw_only=True):
    app_id: str | None = None
    sender_client_id: str | None = None
    receiver_client_id: str | None = None
    created_at: str | float | None = None


class _Client(_Document, kw_only=True):
    client_id: str
    role: str | None = None
    joined_at: str | float | None = None


def is_of_the_original(document: dict[str, Any]) -> bool:
    """Tell whether the original service wrote this document."""
    return _MARK in document


def room_of(document: dict[str, Any]) -> Room:
    """Return a room of the original as a record. A "Pending" room becomes active, without members.

    Raises:
        msgspec.ValidationError: the document is not a room of the original.
    """
    theirs = msgspec.convert(document, _Room)
    is_active = theirs.status != _TERMINATED
    created_at = _seconds(theirs.created_at)
    metadata = _metadata(theirs.metadata)
    return Room(
        room_id=RoomId(theirs.room_id),
        app_id=theirs.app_id,
        sender_client_id=_client_id(theirs.sender_client_id),
        receiver_client_id=_client_id(theirs.receiver_client_id),
        session_id=_session_id(theirs.session_id),
        # This service stores the time in ms there.
        metadata=metadata if created_at is None else {**metadata, "created_at": int(created_at * 1000)},
        is_active=is_active,
        closed_at=None if is_active else _seconds(theirs.record_created_at),
        close_reason=None if is_active else "terminated",
    )


def client_of(document: dict[str, Any]) -> ClientRecord:
    """Return a member of the original's rooms as a record of an offline client without a token.

    Raises:
        msgspec.ValidationError: the document is not a client of the original.
    """
    theirs = msgspec.convert(document, _Client)
    return ClientRecord(
        client_id=ClientId(theirs.client_id),
        auth_token="",
        room_id=RoomId(theirs.room_id) if theirs.room_id else None,  # empty after the member has left
        role=None if theirs.role is None else theirs.role.lower(),
        session_id=_session_id(theirs.session_id),
        metadata=_metadata(theirs.metadata),
        registered_at=_seconds(theirs.joined_at),
    )


def _metadata(value: Any) -> dict[str, Any]:
    """Return metadata as a mapping; the original also allowed other values."""
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"metadata": value}


def _seconds(time: str | float | None) -> float | None:
    """Return a time in seconds since the epoch, or None if the value is not a time."""
    if not isinstance(time, str):
        return time
    try:
        return datetime.fromisoformat(time).timestamp()
    except (ValueError, OverflowError):
        return None


def _client_id(value: str | None) -> ClientId | None:
    return None if value is None else ClientId(value)


def _session_id(value: str | None) -> SessionId | None:
    return None if value is None else SessionId(value)
