"""The operations on a media session as values, and functions that inspect their results.

`negotiation.py` orders operations and inspects them only through the functions here. `negotiator.py` turns each one
into the call of `MediaBackend` with its name.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from signal_manager.media.base import (
    ChannelResult,
    ChannelUpdate,
    ClosedTracks,
    DataChannel,
    EstablishedChannels,
    LocalTrack,
    MediaSessionId,
    Published,
    Pulled,
    RemoteTrack,
    TrackResult,
    TrackUpdate,
)

__all__ = [
    "Answer",
    "CloseChannels",
    "CloseTracks",
    "EstablishChannels",
    "Open",
    "OpenChannels",
    "Operation",
    "Publish",
    "Pull",
    "Result",
    "UpdateChannels",
    "UpdateTracks",
    "awaits_answer",
    "came_too_early",
    "carries_sdp",
    "caused_mids",
    "closed_mids",
    "pulls_from",
]


class Open(msgspec.Struct, frozen=True):
    """Open a session if there is none; the only operation that needs no session."""

    correlation_id: str | None = None


class Publish(msgspec.Struct, frozen=True):
    """Publish tracks with the client's offer."""

    offer_sdp: str
    tracks: tuple[LocalTrack, ...] = ()


class Pull(msgspec.Struct, frozen=True):
    """Pull tracks of other sessions."""

    tracks: tuple[RemoteTrack, ...]


class Answer(msgspec.Struct, frozen=True):
    """Answer the SFU's last offer; the only operation that does not wait in the queue."""

    answer_sdp: str


class CloseTracks(msgspec.Struct, frozen=True):
    """Close published or pulled tracks."""

    mids: tuple[str, ...]
    offer_sdp: str | None = None


class UpdateTracks(msgspec.Struct, frozen=True):
    """Change the layer or source of pulled tracks."""

    updates: tuple[TrackUpdate, ...]


class EstablishChannels(msgspec.Struct, frozen=True):
    """Negotiate the transport for data channels."""

    offer_sdp: str | None = None


class OpenChannels(msgspec.Struct, frozen=True):
    """Publish data channels or subscribe to them."""

    channels: tuple[DataChannel, ...]


class UpdateChannels(msgspec.Struct, frozen=True):
    """Change the right to reply on data channels."""

    updates: tuple[ChannelUpdate, ...]


class CloseChannels(msgspec.Struct, frozen=True):
    """Close data channels."""

    ids: tuple[int, ...]


Operation = (
    Open
    | Publish
    | Pull
    | Answer
    | CloseTracks
    | UpdateTracks
    | EstablishChannels
    | OpenChannels
    | UpdateChannels
    | CloseChannels
)
Result = (
    MediaSessionId
    | Published
    | Pulled
    | ClosedTracks
    | EstablishedChannels
    | tuple[TrackResult, ...]
    | tuple[ChannelResult, ...]
    | None
)


def carries_sdp(operation: Operation) -> bool:
    """Tell whether an operation has an SDP of the client, which the SFU may refuse."""
    match operation:
        case Publish() | Answer():
            return True
        case CloseTracks() | EstablishChannels():
            return operation.offer_sdp is not None
        case _:
            return False


def awaits_answer(result: Result) -> bool:
    """Tell whether a result is the SFU's offer, which the client must answer before anything else."""
    return isinstance(result, Pulled | EstablishedChannels) and result.requires_renegotiation


def caused_mids(result: Result) -> tuple[str, ...]:
    """Return the mids that a result created, which must be closed some day."""
    if not isinstance(result, Published | Pulled):
        return ()
    return tuple(track.mid for track in result.tracks if track.mid and track.error is None)


def closed_mids(result: Result) -> tuple[str, ...]:
    """Return the mids that a result confirms as closed."""
    if not isinstance(result, ClosedTracks):
        return ()
    return tuple(track.mid for track in result.tracks if track.error is None or track.error.is_already_closed)


def pulls_from(operation: Operation, session_id: MediaSessionId) -> bool:
    """Tell whether an operation pulls tracks of that session."""
    return isinstance(operation, Pull) and any(track.session_id == session_id for track in operation.tracks)


def came_too_early(result: Result, *, gone: Collection[MediaSessionId] = ()) -> bool:
    """Tell whether to repeat an operation: no item succeeded, and some item may succeed later.

    Tracks of publishers in `gone` can no longer succeed.
    """
    match result:
        case Pulled():
            items = [(item.error, item.session_id) for item in result.tracks]
        case Published() | ClosedTracks():
            items = [(item.error, None) for item in result.tracks]
        case EstablishedChannels():
            items = [(result.channel.error, None)]
        case tuple():
            items = [(item.error, None) for item in result]
        case _:
            return False
    failed = [(error, source) for error, source in items if error is not None]
    return len(failed) == len(items) and any(error.is_too_early and source not in gone for error, source in failed)
