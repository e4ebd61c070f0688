"""How members see a room and each other, and how they are told of changes.

Each change is one ROOM_EVENT to all members, in the order of `sequence` (docs/protocol.md, "Rooms").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import structlog

from signal_manager.bus.base import Messaging
from signal_manager.errors import InvalidRequestError, SignalManagerError
from signal_manager.model import ClientId, MemberRecord, RoomId, Track
from signal_manager.protocol.messages import Member, PublishedTrack, RoomEvent
from signal_manager.rooms.room_log import Change

__all__ = ["describe", "describe_all", "event", "tell"]

log = structlog.get_logger(__name__)


def describe(member: MemberRecord) -> Member:
    """Return a member as the others see it."""
    return Member(
        client_id=member.client_id,
        role=member.role,
        session_id=member.session_id,
        metadata=member.metadata,
        tracks=_published(member.tracks),
        away=member.away,
    )


def describe_all(members: Iterable[MemberRecord]) -> list[Member]:
    """Return members as they see each other, in the order in which they joined."""
    return [describe(member) for member in members]


def event(room_id: RoomId, change: Change) -> RoomEvent:
    """Return the event that tells members of a change."""
    return RoomEvent(
        room_id=room_id,
        sequence=change.sequence,
        event=change.event,
        participant=None if change.participant is None else describe(change.participant),
        tracks=_published(change.tracks) if change.tracks else None,
        reason=change.reason,
        metadata=change.metadata,
    )


def tell(bus: Messaging, client_id: ClientId, news: RoomEvent) -> None:
    """Send an event to one client; log a failure."""
    try:
        bus.send(client_id, news)
    except InvalidRequestError:
        pass  # a tagged connection has no ROOM_EVENT
    except SignalManagerError as error:
        log.warning("room event not sent", client_id=client_id, reason=error.message)


def _published(tracks: Iterable[Track]) -> list[PublishedTrack]:
    return [
        PublishedTrack(mid=track.mid, track_name=track.track_name, kind=_kind(track), muted=track.muted)
        for track in tracks
    ]


def _kind(track: Track) -> Literal["audio", "video"] | None:
    match track.kind:
        case "audio":
            return "audio"
        case "video":
            return "video"
        case _:
            return None
