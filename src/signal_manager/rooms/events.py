"""What members are shown of a room and of each other, and how they are told of its changes.

docs/protocol.md, "Rooms": one ROOM_EVENT for each change, to all members, in the order of `sequence`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import structlog

from signal_manager.bus.base import Bus
from signal_manager.errors import InvalidRequestError, SignalManagerError
from signal_manager.model import ClientId, Participant, Room, Track
from signal_manager.protocol.messages import Member, PublishedTrack, RoomEvent

__all__ = ["announce", "describe", "describe_all", "event", "tell"]

log = structlog.get_logger(__name__)

_Change = Literal["participant_joined", "participant_left", "tracks_published", "tracks_unpublished", "room_closed"]


def describe(participant: Participant) -> Member:
    """Return a member as the others see it."""
    return Member(
        client_id=participant.client_id,
        role=participant.role,
        session_id=participant.session_id,
        metadata=participant.metadata,
        tracks=_published(participant.tracks),
    )


def describe_all(participants: Iterable[Participant]) -> list[Member]:
    """Return members as they see each other, in the order in which they came."""
    return [describe(participant) for participant in participants]


def event(
    room: Room,
    change: _Change,
    *,
    participant: Participant | None = None,
    tracks: Sequence[Track] = (),
    reason: str | None = None,
) -> RoomEvent:
    """Return what is said of the change that made `room` what it is."""
    return RoomEvent(
        room_id=room.room_id,
        sequence=room.sequence,
        event=change,
        participant=None if participant is None else describe(participant),
        tracks=_published(tracks) if tracks else None,
        reason=reason,
    )


def announce(bus: Bus, room: Room, news: RoomEvent, *, but: ClientId | None = None) -> None:
    """Tell all members, except one who knows.

    Nobody's trouble keeps the others from being told: a member that is gone is about to leave the room, and one that
    was sent less than everything sees the gap in `sequence`.
    """
    for participant in room.participants:
        if participant.client_id != but:
            tell(bus, participant.client_id, news)


def tell(bus: Bus, client_id: ClientId, news: RoomEvent) -> None:
    """Tell one client, if it can be told."""
    try:
        bus.send(client_id, news)
    except InvalidRequestError:
        pass  # a tagged connection has no ROOM_EVENT
    except SignalManagerError as error:
        log.warning("room event not sent", client_id=client_id, reason=error.message)


def _published(tracks: Iterable[Track]) -> list[PublishedTrack]:
    return [PublishedTrack(mid=track.mid, track_name=track.track_name, kind=_kind(track)) for track in tracks]


def _kind(track: Track) -> Literal["audio", "video"] | None:
    match track.kind:
        case "audio":
            return "audio"
        case "video":
            return "video"
        case _:
            return None
