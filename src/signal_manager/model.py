"""Ids and frozen records of the product, free of bytes, sockets and storage.

Every layer may speak in these words; none of them knows how a record is sent or kept.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import msgspec

__all__ = [
    "NAME_RULE",
    "Caller",
    "ClientId",
    "ClientRecord",
    "EntryId",
    "Grants",
    "Identity",
    "MediaClosing",
    "NodeId",
    "NodeLease",
    "Participant",
    "Role",
    "Room",
    "RoomId",
    "SavedSession",
    "SessionId",
    "Track",
    "hash_token",
    "is_token_hash",
    "is_valid_name",
    "new_session_id",
    "taken_up_at",
    "token_matches",
]

ClientId = NewType("ClientId", str)
EntryId = NewType("EntryId", str)
NodeId = NewType("NodeId", str)
RoomId = NewType("RoomId", str)
SessionId = NewType("SessionId", str)

Role = Literal["sender", "receiver"]

# docs/protocol.md, "Conversation": the names that clients choose end up in document ids, paths and logs.
NAME_PATTERN = r"^(?!\.{1,2}$)(?!__.*__$)[A-Za-z0-9._~@+=-]{1,128}\Z"
NAME_RULE = "1 to 128 letters, digits or . _ ~ @ + = -, and not '.', '..' or '__…__'"
_NAME = re.compile(NAME_PATTERN)


def is_valid_name(name: object) -> bool:
    """Tell whether `name` may be a client id, room id or track name (docs/protocol.md, "Conversation")."""
    return isinstance(name, str) and _NAME.match(name) is not None


def new_session_id(taken_up_at: int) -> SessionId:
    """Return the id of a new session: a UUID of version 7 (RFC 9562), whose time is when its user took up the device.

    A client names its last session when it comes back, so that of two devices the service knows which is the newer,
    even after a crash that left nothing else to tell it from.

    Args:
        taken_up_at: milliseconds since the epoch.
    """
    number = taken_up_at << 80 | secrets.randbits(80)
    # The version, and the variant that all UUIDs of RFC 9562 have.
    number = number & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62
    return SessionId(str(UUID(int=number)))


def taken_up_at(session_id: str) -> int:
    """Return when a session's user took up the device (ms since the epoch); 0 where its id does not tell."""
    try:
        session = UUID(session_id)
    except ValueError:
        return 0
    return session.int >> 80 if session.version == 7 else 0


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


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Who makes a request; `token_hash` is of the token that proved it."""

    identity: Identity
    session_id: SessionId
    token_hash: str


Count = Annotated[int, msgspec.Meta(ge=0)]


class Track(msgspec.Struct, frozen=True, kw_only=True):
    """One audio or video track that a participant publishes; `mid` is its place in the publisher's media session."""

    mid: str
    track_name: str
    kind: str | None = None
    muted: bool = False


class Participant(msgspec.Struct, frozen=True, kw_only=True):
    """A client's membership in a room.

    `session_id` is this participant's own media session, `node_id` the node that serves its connection, and
    `generation` counts the client's joins, so that a late reply to an earlier one can be told apart. `away` says that
    nothing has come from the client for a while, or that its connection is lost.
    """

    client_id: ClientId
    role: Role
    session_id: SessionId | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    tracks: tuple[Track, ...] = ()
    node_id: NodeId | None = None
    generation: Count = 1
    joined_at: float | None = None
    away: bool = False


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """A room as it is stored; times are seconds since the epoch.

    The fields up to `is_active` are those that the original service's README gives a room. `sequence` grows by one
    with every change, and a closed room keeps the participants it had when it closed.
    """

    room_id: RoomId
    app_id: str | None = None
    sender_client_id: ClientId | None = None
    receiver_client_id: ClientId | None = None
    session_id: SessionId | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    is_active: bool
    participants: tuple[Participant, ...] = ()
    sequence: Count = 0
    max_participants: Annotated[int, msgspec.Meta(ge=1)] | None = None
    updated_at: float | None = None
    expires_at: float | None = None
    closed_at: float | None = None
    close_reason: str | None = None


class ClientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A registered or provisioned client as it is stored; times are seconds since the epoch.

    The fields up to `metadata` are those that the original service's README gives a client. `auth_token`
    is `sha256:<hex>` once storage has written
    the record, in clear only as an operator provisioned it, and empty for a client that has none.
    """

    client_id: ClientId
    auth_token: str
    room_id: RoomId | None = None
    role: str | None = None
    session_id: SessionId | None = None
    capabilities: tuple[str, ...] = ()
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    tracks: tuple[Track, ...] = ()
    status: str = "offline"
    registered_at: float | None = None
    last_seen_at: float | None = None
    expires_at: float | None = None
    node_id: NodeId | None = None


class MediaClosing(msgspec.Struct, frozen=True, kw_only=True):
    """One thing at the SFU that has to be closed some day: a mid of a media session, or with no `mid` all of it.

    The entry is written when the thing is caused and goes when its closing is confirmed. `next_attempt_at` (seconds
    since the epoch) is None while the thing is in use; `attempts` counts how often closing it was tried.
    """

    entry_id: EntryId
    session_id: SessionId
    mid: str | None = None
    room_id: RoomId | None = None
    client_id: ClientId | None = None
    node_id: NodeId | None = None
    created_at: float
    next_attempt_at: float | None = None
    attempts: Count = 0


class SavedSession(msgspec.Struct, frozen=True, kw_only=True):
    """A drained session; `state` is what its owner needs to resume it, opaque to storage."""

    session_id: SessionId
    client_id: ClientId
    state: bytes
    expires_at: float


class NodeLease(msgspec.Struct, frozen=True, kw_only=True):
    """The time (seconds since the epoch) until which a node vouches for the records that carry its `node_id`.

    `is_taken_over` says that another node is cleaning up after it.
    """

    node_id: NodeId
    lease_expires_at: float
    is_taken_over: bool = False


_TOKEN_HASH = re.compile(r"sha256:[0-9a-f]{64}\Z")


def hash_token(token: str) -> str:
    """Return the form in which a token is stored: `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def is_token_hash(stored: str) -> bool:
    """Tell whether `stored` is what `hash_token` returns, not a token in clear."""
    return _TOKEN_HASH.match(stored) is not None


def token_matches(stored: str, presented: str) -> bool:
    """Tell in constant time whether `presented` is the token that `stored` holds, hashed or in clear.

    An empty `stored` matches nothing, and presenting a hash does not match it.
    """
    if not stored:
        return False
    expected = stored if is_token_hash(stored) else hash_token(stored)
    return hmac.compare_digest(expected, hash_token(presented))
