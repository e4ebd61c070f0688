"""Ids and frozen records of the product, free of bytes, sockets and storage.

Every layer may speak in these words; none of them knows how a record is sent or kept.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import NewType

import msgspec

__all__ = ["NAME_RULE", "ClientId", "Grants", "Identity", "RoomId", "SessionId", "is_valid_name"]

ClientId = NewType("ClientId", str)
RoomId = NewType("RoomId", str)
SessionId = NewType("SessionId", str)

# docs/protocol.md, "Conversation": the names that clients choose end up in document ids, paths and logs.
NAME_PATTERN = r"^(?!\.{1,2}$)(?!__.*__$)[A-Za-z0-9._~@+=-]{1,128}\Z"
NAME_RULE = "1 to 128 letters, digits or . _ ~ @ + = -, and not '.', '..' or '__…__'"
_NAME = re.compile(NAME_PATTERN)


def is_valid_name(name: str) -> bool:
    """Tell whether `name` may be a client id, room id or track name (docs/protocol.md, "Conversation")."""
    return _NAME.match(name) is not None


class Grants(msgspec.Struct, frozen=True, kw_only=True):
    """What a token allows; a field left out allows everything of its kind, except `admin`.

    `rooms` and `signal_to` are shell-style patterns (`demo-*`), matched with their case.
    """

    rooms: tuple[str, ...] | None = None
    roles: tuple[str, ...] | None = None
    publish: bool = True
    subscribe: bool = True
    signal_to: tuple[str, ...] | None = None
    admin: bool = False

    def may_enter(self, room_id: str) -> bool:
        """Tell whether these grants open `room_id`."""
        return self.rooms is None or any(fnmatchcase(room_id, pattern) for pattern in self.rooms)

    def may_signal(self, client_id: str) -> bool:
        """Tell whether these grants allow signals to `client_id`."""
        return self.signal_to is None or any(fnmatchcase(client_id, pattern) for pattern in self.signal_to)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a connection proved to be, and until when.

    `expires_at` is in seconds since the epoch, or None for credentials that do not expire.
    """

    client_id: ClientId
    grants: Grants = Grants()
    expires_at: float | None = None
