"""Ids and frozen records, without bytes, sockets or storage.

Every layer may use them. They do not know how they are sent or stored.
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
    "MemberRecord",
    "NodeId",
    "NodeLease",
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

# Names that clients choose become document ids, paths and log fields (docs/protocol.md, "Conversation").
NAME_PATTERN = r"^(?!\.{1,2}$)(?!__.*__$)[A-Za-z0-9._~@+=-]{1,128}\Z"
NAME_RULE = "1 to 128 letters, digits or . _ ~ @ + = -, and not '.', '..' or '__…__'"
_NAME = re.compile(NAME_PATTERN)
# A UUID of version 7, as `new_session_id` writes it.
_OUR_SESSION_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def is_valid_name(name: object) -> bool:
    """Tell whether `name` may be a client id, room id or track name (docs/protocol.md, "Conversation")."""
    return isinstance(name, str) and _NAME.match(name) is not None


def new_session_id(taken_up_at: int) -> SessionId:
    """Return the id of a new session: a UUID of version 7 (RFC 9562) with the time when the user took up the device.

    A returning client names its last session. So the service knows which of two devices is newer, even after a crash.

    Args:
        taken_up_at: milliseconds since the epoch.
    """
    number = taken_up_at << 80 | secrets.randbits(80)
    # The version, and the variant that all UUIDs of RFC 9562 have.
    number = number & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62
    digits = f"{number:032x}"
    return SessionId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")


def taken_up_at(session_id: str) -> int:
    """Return when a session's user took up the device (ms since the epoch); 0 if the id has no time."""
    if _OUR_SESSION_ID.fullmatch(session_id):  # the class takes ten times as long
        return int(session_id[:8] + session_id[9:13], 16)
    try:
        session = UUID(session_id)
    except ValueError:
        return 0
    return session.int >> 80 if session.version == 7 else 0


class Grants(msgspec.Struct, frozen=True, kw_only=True):
    """The permissions of a token. An absent field allows everything of its kind, except `admin`.

    `rooms` and `signal_to` are case-sensitive shell-style patterns (`demo-*`).
    """

    rooms: tuple[str, ...] | None = None
    roles: tuple[str, ...] | None = None
    publish: bool = True
    subscribe: bool = True
    signal_to: tuple[str, ...] | None = None
    admin: bool = False

    def may_enter(self, room_id: str) -> bool:
        """Tell whether the client may enter `room_id`."""
        return self.rooms is None or any(fnmatchcase(room_id, pattern) for pattern in self.rooms)

    def may_signal(self, client_id: str) -> bool:
        """Tell whether the client may signal `client_id`."""
        return self.signal_to is None or any(fnmatchcase(client_id, pattern) for pattern in self.signal_to)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated client and its grants.

    `expires_at` is in seconds since the epoch, or None if the credentials do not expire.
    """

    client_id: ClientId
    grants: Grants = Grants()
    expires_at: float | None = None


class Caller(msgspec.Struct, frozen=True, gc=False):
    """The client that makes a request; `token_hash` is the hash of the token that it authenticated with."""

    identity: Identity
    session_id: SessionId
    token_hash: str


Count = Annotated[int, msgspec.Meta(ge=0)]


class Track(msgspec.Struct, frozen=True, kw_only=True):
    """One audio or video track that a member publishes; `mid` identifies it in the publisher's media session."""

    mid: str
    track_name: str
    kind: str | None = None
    muted: bool = False


class MemberRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A member, which is a client in a room, as the room's record has it.

    `session_id` is the member's media session, and `node_id` the node of its connection. `generation` counts the
    client's joins, which identifies late replies to an earlier join. `away` means that the client has been silent for a
    while or has lost its connection.
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

    The original service's README lists the fields up to `is_active`. `sequence` grows by one with every change. A
    closed room keeps the members that it had when it closed.
    """

    room_id: RoomId
    app_id: str | None = None
    sender_client_id: ClientId | None = None
    receiver_client_id: ClientId | None = None
    session_id: SessionId | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    is_active: bool
    participants: tuple[MemberRecord, ...] = ()
    sequence: Count = 0
    max_participants: Annotated[int, msgspec.Meta(ge=1)] | None = None
    updated_at: float | None = None
    expires_at: float | None = None
    closed_at: float | None = None
    close_reason: str | None = None


class ClientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A registered or provisioned client as it is stored; times are seconds since the epoch.

    The original service's README lists the fields up to `metadata`. `auth_token` is `sha256:<hex>` after storage has
    written the record, in clear only in a record that an operator provisioned, and empty for a client without a token.
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
    """A ledger entry for something to close at the SFU: a mid of a media session, or without `mid` the whole session.

    The entry is written when the mid is created and removed when its closing is confirmed. `next_attempt_at` (seconds
    since the epoch) is None while the mid is in use. `attempts` counts the attempts to close it.
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
    """A drained session; `state` is opaque to storage (`ClientSession.save`)."""

    session_id: SessionId
    client_id: ClientId
    state: bytes
    expires_at: float


class NodeLease(msgspec.Struct, frozen=True, kw_only=True):
    """A node's lease on the records with its `node_id`, until a time in seconds since the epoch.

    `is_taken_over` means that another node is cleaning up after it.
    """

    node_id: NodeId
    lease_expires_at: float
    is_taken_over: bool = False


_TOKEN_HASH = re.compile(r"sha256:[0-9a-f]{64}\Z")


def hash_token(token: str) -> str:
    """Return the stored form of a token: `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def is_token_hash(stored: str) -> bool:
    """Tell whether `stored` is a result of `hash_token` and not a token in clear."""
    return _TOKEN_HASH.match(stored) is not None


def token_matches(stored: str, presented: str) -> bool:
    """Tell in constant time whether `presented` is the token in `stored`, which is hashed or in clear.

    An empty `stored` matches no token. A presented hash does not match itself.
    """
    if not stored:
        return False
    expected = stored if is_token_hash(stored) else hash_token(stored)
    return hmac.compare_digest(expected, hash_token(presented))
