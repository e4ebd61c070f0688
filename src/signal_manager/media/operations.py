"""What one media session may be asked for, as values, and what matters about the replies.

`negotiation.py` puts operations in order without looking into them any further than the functions here do;
`negotiator.py` turns each into the call of `MediaBackend` that has its name.
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
    """Open a session unless there is one; the only operation that is allowed without one."""

    correlation_id: str | None = None


class Publish(msgspec.Struct, frozen=True):
    """See `MediaBackend.publish`."""

    offer_sdp: str
    tracks: tuple[LocalTrack, ...] = ()


class Pull(msgspec.Struct, frozen=True):
    """See `MediaBackend.pull`."""

    tracks: tuple[RemoteTrack, ...]


class Answer(msgspec.Struct, frozen=True):
    """See `MediaBackend.answer`; alone of all operations it does not wait in the queue."""

    answer_sdp: str


class CloseTracks(msgspec.Struct, frozen=True):
    """See `MediaBackend.close_tracks`."""

    mids: tuple[str, ...]
    offer_sdp: str | None = None


class UpdateTracks(msgspec.Struct, frozen=True):
    """See `MediaBackend.update_tracks`."""

    updates: tuple[TrackUpdate, ...]


class EstablishChannels(msgspec.Struct, frozen=True):
    """See `MediaBackend.establish_channels`."""

    offer_sdp: str | None = None


class OpenChannels(msgspec.Struct, frozen=True):
    """See `MediaBackend.open_channels`."""

    channels: tuple[DataChannel, ...]


class UpdateChannels(msgspec.Struct, frozen=True):
    """See `MediaBackend.update_channels`."""

    updates: tuple[ChannelUpdate, ...]


class CloseChannels(msgspec.Struct, frozen=True):
    """See `MediaBackend.close_channels`."""

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
    """Tell whether an operation brings an SDP of the client's, which the SFU may find wanting."""
    match operation:
        case Publish() | Answer():
            return True
        case CloseTracks() | EstablishChannels():
            return operation.offer_sdp is not None
        case _:
            return False


def awaits_answer(result: Result) -> bool:
    """Tell whether a reply is the SFU's offer, after which nothing but its answer may come."""
    return isinstance(result, Pulled | EstablishedChannels) and result.requires_renegotiation


def caused_mids(result: Result) -> tuple[str, ...]:
    """Return the mids that a reply says exist now and must be closed some day."""
    if not isinstance(result, Published | Pulled):
        return ()
    return tuple(track.mid for track in result.tracks if track.mid and track.error is None)


def closed_mids(result: Result) -> tuple[str, ...]:
    """Return the mids that a reply confirms to be closed."""
    if not isinstance(result, ClosedTracks):
        return ()
    return tuple(track.mid for track in result.tracks if track.error is None or track.error.is_already_closed)


def pulls_from(operation: Operation, session_id: MediaSessionId) -> bool:
    """Tell whether an operation pulls tracks of that session."""
    return isinstance(operation, Pull) and any(track.session_id == session_id for track in operation.tracks)


def came_too_early(result: Result, *, gone: Collection[MediaSessionId] = ()) -> bool:
    """Tell whether nothing succeeded and something may succeed later; what has succeeded must not be repeated.

    Tracks of publishers that are `gone` will not come.
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
