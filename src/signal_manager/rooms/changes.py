"""How a room changes: pure functions from room to room, for `Storage.change_room` to apply.

Each function returns the change to make. A change that does not fit the room raises, and storage keeps the room.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec

from signal_manager.errors import ConflictError, InvalidRequestError, NotFoundError
from signal_manager.model import ClientId, MemberRecord, NodeId, Room, RoomId, SessionId, Track
from signal_manager.storage.base import RoomChange

__all__ = [
    "CLOSED_ROOM_KEPT",
    "MemberKey",
    "check_entry",
    "closed",
    "find",
    "find_client",
    "key_of",
    "opened",
    "with_absence",
    "with_media",
    "with_member",
    "with_metadata",
    "with_muted",
    "with_room_metadata",
    "with_tracks",
    "without_member",
    "without_tracks",
]

# How long (s) a closed room's record can still be read; then it expires.
CLOSED_ROOM_KEPT = 3600.0

_replace = msgspec.structs.replace


class MemberKey(NamedTuple):
    """Names one membership of a client, so that a late change never hits a later membership of the same client."""

    client_id: ClientId
    node_id: NodeId | None
    generation: int


def key_of(member: MemberRecord) -> MemberKey:
    """Return the key that tells this member from the same client in another membership."""
    return MemberKey(member.client_id, member.node_id, member.generation)


def find(room: Room, key: MemberKey) -> MemberRecord | None:
    """Return the record of a membership, or None."""
    return next((member for member in room.participants if key_of(member) == key), None)


def find_client(room: Room, client_id: str) -> MemberRecord | None:
    """Return the record of a client's present membership, or None."""
    return next((member for member in room.participants if member.client_id == client_id), None)


def opened(
    room_id: RoomId,
    member: MemberRecord,
    *,
    app_id: str,
    metadata: dict[str, Any],
    max_participants: int,
    now: float,
) -> Room:
    """Return a new room with its first member."""
    return Room(
        room_id=room_id,
        app_id=app_id,
        sender_client_id=member.client_id if member.role == "sender" else None,
        receiver_client_id=member.client_id if member.role == "receiver" else None,
        session_id=member.session_id,
        metadata={**metadata, "created_at": int(now * 1000)},
        is_active=True,
        participants=(member,),
        max_participants=max_participants,
        updated_at=now,
    )


def check_entry(room: Room, client_id: ClientId, *, limit: int) -> None:
    """Refuse a client that cannot join.

    Raises:
        InvalidRequestError: the room is closed.
        ConflictError: the client is in it already, or it is full.
    """
    if not room.is_active:
        raise InvalidRequestError(f"room {room.room_id} is closed")
    if find_client(room, client_id) is not None:
        raise ConflictError(f"client {client_id} is already in room {room.room_id}")
    limit = room.max_participants or limit
    if len(room.participants) >= limit:
        raise ConflictError(f"room {room.room_id} is full: {limit} of {limit} members are in it")


def with_member(member: MemberRecord, *, limit: int, now: float) -> RoomChange:
    """Add a member; raises what `check_entry` does."""

    def change(room: Room) -> Room:
        check_entry(room, member.client_id, limit=limit)
        sender, receiver = room.sender_client_id, room.receiver_client_id
        if member.role == "sender":
            sender = sender or member.client_id
        else:
            receiver = receiver or member.client_id
        return _replace(
            room,
            participants=(*room.participants, member),
            sender_client_id=sender,
            receiver_client_id=receiver,
            updated_at=now,
        )

    return change


def without_member(key: MemberKey, *, now: float) -> RoomChange:
    """Remove a member, and close the room after the last one; NotFoundError when it has left already."""

    def change(room: Room) -> Room:
        _require(room, key)
        remaining = tuple(member for member in room.participants if key_of(member) != key)
        left = _replace(room, participants=remaining, updated_at=now)
        return left if remaining else _closed(left, "empty", now)

    return change


def closed(reason: str, *, now: float) -> RoomChange:
    """Close a room with its members in it; InvalidRequestError when it is closed already."""

    def change(room: Room) -> Room:
        if not room.is_active:
            raise InvalidRequestError(f"room {room.room_id} is closed")
        return _closed(_replace(room, updated_at=now), reason, now)

    return change


def with_absence(key: MemberKey, *, away: bool, now: float) -> RoomChange:
    """Note that a member is away or back; NotFoundError when it has left or the record says so already."""

    def change(room: Room) -> Room:
        member = _require(room, key)
        if member.away is away:
            raise NotFoundError(f"client {key.client_id} is known to be {'away' if away else 'back'}")
        return _swap(room, _replace(member, away=away), now)

    return change


def with_metadata(key: MemberKey, metadata: dict[str, Any], *, now: float) -> RoomChange:
    """Replace a member's metadata; NotFoundError when it has left."""

    def change(room: Room) -> Room:
        return _swap(room, _replace(_require(room, key), metadata=metadata), now)

    return change


def with_room_metadata(metadata: dict[str, Any], *, now: float) -> RoomChange:
    """Replace the room's metadata and keep `created_at`; InvalidRequestError when the room is closed."""

    def change(room: Room) -> Room:
        if not room.is_active:
            raise InvalidRequestError(f"room {room.room_id} is closed")
        kept = {name: value for name, value in room.metadata.items() if name == "created_at"}
        return _replace(room, metadata=metadata | kept, updated_at=now)

    return change


def with_tracks(key: MemberKey, session_id: SessionId | None, tracks: Sequence[Track], *, now: float) -> RoomChange:
    """Add tracks that others can pull from this media session; NotFoundError when the publisher has left."""

    def change(room: Room) -> Room:
        member = _require(room, key)
        new = {track.mid for track in tracks}
        kept = tuple(track for track in member.tracks if track.mid not in new)
        publisher = _replace(member, session_id=session_id, tracks=(*kept, *tracks))
        return _swap(room, publisher, now)

    return change


def with_media(key: MemberKey, session_id: SessionId | None, *, now: float) -> RoomChange:
    """Give a member a new media session, which publishes nothing yet; NotFoundError when it has left."""

    def change(room: Room) -> Room:
        return _swap(room, _replace(_require(room, key), session_id=session_id, tracks=()), now)

    return change


def with_muted(key: MemberKey, mids: Collection[str], *, muted: bool, now: float) -> RoomChange:
    """Note that tracks are muted or unmuted; NotFoundError when the publisher has left or nothing changes."""

    def change(room: Room) -> Room:
        member = _require(room, key)
        tracks = tuple(_replace(track, muted=muted) if track.mid in mids else track for track in member.tracks)
        if tracks == member.tracks:
            raise NotFoundError("no such tracks")
        return _swap(room, _replace(member, tracks=tracks), now)

    return change


def without_tracks(key: MemberKey, mids: Collection[str], *, now: float) -> RoomChange:
    """Remove tracks; NotFoundError when the publisher has left or has none of them."""

    def change(room: Room) -> Room:
        member = _require(room, key)
        kept = tuple(track for track in member.tracks if track.mid not in mids)
        if kept == member.tracks:
            raise NotFoundError("no such tracks")
        return _swap(room, _replace(member, tracks=kept), now)

    return change


def _closed(room: Room, reason: str, now: float) -> Room:
    return _replace(room, is_active=False, closed_at=now, close_reason=reason, expires_at=now + CLOSED_ROOM_KEPT)


def _require(room: Room, key: MemberKey) -> MemberRecord:
    member = find(room, key) if room.is_active else None
    if member is None:
        raise NotFoundError(f"client {key.client_id} is not in room {room.room_id}")
    return member


def _swap(room: Room, member: MemberRecord, now: float) -> Room:
    members = tuple(member if other.client_id == member.client_id else other for other in room.participants)
    return _replace(room, participants=members, updated_at=now)
