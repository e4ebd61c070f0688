"""The order of a room's changes on one node: members hear each change once, in the order of `sequence`; PURE.

Changes of this node and of others arrive in any order. A change that arrives too early waits. A change that never
arrives is derived from the room's record, which is the truth.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from signal_manager.model import MemberRecord, Room, Track

__all__ = ["Change", "Happening", "RoomLog", "applied", "difference", "read_change", "write_change"]

_replace = msgspec.structs.replace

# So many changes wait for an earlier one. Beyond that, reading the record is quicker.
_MOST_EARLY = 200

Happening = Literal[
    "participant_joined",
    "participant_left",
    "participant_away",
    "participant_back",
    "tracks_published",
    "tracks_unpublished",
    "tracks_muted",
    "tracks_unmuted",
    "media_replaced",
    "metadata_changed",
    "room_closed",
]


_MUTING: tuple[tuple[Happening, bool], ...] = (("tracks_muted", True), ("tracks_unmuted", False))


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change of a room, as nodes send it to each other.

    `participant` is the member that joined or left, or a member's state after the change.
    """

    sequence: int
    event: Happening
    participant: MemberRecord | None = None
    tracks: tuple[Track, ...] = ()
    reason: str | None = None
    metadata: dict[str, Any] | None = None  # the room's


write_change = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Change).decode


def read_change(data: bytes) -> Change | None:
    """Return a change that another node has written, or None when the data is no change."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class RoomLog:
    """The state of a room that this node's members were told, and the latest state that this node knows.

    Args:
        room: its state when its first member here joins.
    """

    def __init__(self, room: Room) -> None:
        self.told = room  # the state that the members were told
        self.latest = room  # the latest state that this node knows
        self._early: dict[int, tuple[Change, Room | None]] = {}

    @property
    def has_gap(self) -> bool:
        """Whether changes wait for an earlier one."""
        return bool(self._early)

    def take(self, change: Change, room: Room | None = None) -> list[Change]:
        """Take in a change, and return the changes to tell now, in order.

        Args:
            room: its state after the change, where that is known.
        """
        if change.sequence > self.told.sequence and len(self._early) < _MOST_EARLY:
            self._early[change.sequence] = (change, room)
        if room is not None and room.sequence > self.latest.sequence:
            self.latest = room
        return self._due()

    def catch_up(self, room: Room) -> list[Change]:
        """Take the room's record in place of missing changes, and return the changes to tell now, in order."""
        if room.sequence <= self.told.sequence:
            return []
        missing = difference(self.told, room)
        self._advance(room)
        self._early = {sequence: early for sequence, early in self._early.items() if sequence > room.sequence}
        return missing + self._due()

    def _due(self) -> list[Change]:
        due = []
        while (early := self._early.pop(self.told.sequence + 1, None)) is not None:
            change, room = early
            self._advance(room if room is not None else applied(self.told, change))
            due.append(change)
        return due

    def _advance(self, room: Room) -> None:
        self.told = room
        if room.sequence >= self.latest.sequence:
            self.latest = room


def applied(room: Room, change: Change) -> Room:
    """Return the room after a change."""
    members, member = room.participants, change.participant
    match change.event:
        case "participant_joined" if member is not None:
            members = (*members, member)
        case "participant_left" if member is not None:
            members = tuple(each for each in members if not _is_same(each, member))
        case (
            "participant_away"
            | "participant_back"
            | "tracks_published"
            | "tracks_unpublished"
            | "tracks_muted"
            | "tracks_unmuted"
            | "media_replaced"
            | "metadata_changed"
        ) if member is not None:
            members = tuple(member if _is_same(each, member) else each for each in members)
        case "metadata_changed" if change.metadata is not None:
            return _replace(room, sequence=change.sequence, metadata=change.metadata)
        case "room_closed":
            return _replace(room, sequence=change.sequence, is_active=False, close_reason=change.reason)
        case _:
            pass
    return _replace(room, sequence=change.sequence, participants=members)


def difference(before: Room, after: Room) -> list[Change]:
    """Return changes that lead from one state of a room to a later one.

    They may be fewer than there were: a member that joined and left meanwhile is missing. The last change has the later
    state's number, so that a client that hears all of them has caught up.
    """
    changes = [*_left(before, after), *_joined(before, after), *_described(before, after), *_tracks(before, after)]
    if before.is_active and not after.is_active:
        changes.append(Change(sequence=0, event="room_closed", reason=after.close_reason))
    first = after.sequence - len(changes) + 1
    return [_replace(change, sequence=first + place) for place, change in enumerate(changes)]


def _left(before: Room, after: Room) -> Iterable[Change]:
    for member in before.participants:
        if _find(after, member) is None:
            yield Change(sequence=0, event="participant_left", participant=member, reason="connection lost")


def _joined(before: Room, after: Room) -> Iterable[Change]:
    for member in after.participants:
        if _find(before, member) is None:
            yield Change(sequence=0, event="participant_joined", participant=member)


def _described(before: Room, after: Room) -> Iterable[Change]:
    yield from _absences(before, after)
    if before.metadata != after.metadata:
        yield Change(sequence=0, event="metadata_changed", metadata=after.metadata)
    for member in after.participants:
        former = _find(before, member)
        if former is not None and former.metadata != member.metadata:
            yield Change(sequence=0, event="metadata_changed", participant=member)


def _absences(before: Room, after: Room) -> Iterable[Change]:
    for member in after.participants:
        former = _find(before, member)
        if former is not None and former.away is not member.away:
            happening: Happening = "participant_away" if member.away else "participant_back"
            yield Change(sequence=0, event=happening, participant=member)


def _tracks(before: Room, after: Room) -> Iterable[Change]:
    for member in after.participants:
        former = _find(before, member)
        if former is None:
            continue
        before_tracks = former.tracks
        # When a member had no tracks, their publication announces the session too.
        if former.session_id != member.session_id and (before_tracks or not member.tracks):
            yield Change(
                sequence=0,
                event="media_replaced",
                participant=_replace(member, tracks=()),
                tracks=member.tracks,
            )
            before_tracks = ()
        was = {_replace(track, muted=False): track.muted for track in before_tracks}
        now = {_replace(track, muted=False) for track in member.tracks}
        gone = tuple(track for track in before_tracks if _replace(track, muted=False) not in now)
        new = tuple(track for track in member.tracks if _replace(track, muted=False) not in was)
        for event, muted in _MUTING:
            turned = tuple(
                track
                for track in member.tracks
                if track.muted is muted and was.get(_replace(track, muted=False), muted) is not muted
            )
            if turned:
                yield Change(sequence=0, event=event, participant=member, tracks=turned)
        if gone:
            yield Change(sequence=0, event="tracks_unpublished", participant=member, tracks=gone, reason="closed")
        if new:
            yield Change(sequence=0, event="tracks_published", participant=member, tracks=new)


def _find(room: Room, member: MemberRecord) -> MemberRecord | None:
    return next((each for each in room.participants if _is_same(each, member)), None)


def _is_same(one: MemberRecord, other: MemberRecord) -> bool:
    """Tell whether both are the same membership of a client (`changes.MemberKey`)."""
    return (one.client_id, one.node_id, one.generation) == (other.client_id, other.node_id, other.generation)
