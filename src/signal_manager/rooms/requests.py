"""Translate members' requests into the words of the media interface, and its replies into those of the protocol.

A request of several tracks may succeed in part. An item that no member publishes fails without a question to the SFU,
beside items that the SFU refuses. Each item keeps its place (docs/protocol.md, "Objects in room messages").
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from signal_manager.errors import InvalidRequestError
from signal_manager.media import base as media
from signal_manager.model import ClientId, Role, SessionId, Track
from signal_manager.protocol.messages import (
    MAX_ITEMS,
    DataChannelRequest,
    DataChannelResult,
    IceServer,
    PublishedTrack,
    Simulcast,
    TrackMute,
    TrackRequest,
    TrackResult,
    TrackUpdate,
)

__all__ = [
    "Channels",
    "JoinNegotiation",
    "Publisher",
    "Sources",
    "Updates",
    "check_distinct",
    "closed_results",
    "everything",
    "muted_results",
    "not_there",
    "published_results",
    "require_some",
    "role_of",
    "to_channels",
    "to_ice_servers",
    "to_publish",
    "to_pull",
    "to_update",
]

# The SFU's error codes for a track of another session that it does not have, or that sends nothing.
_NOT_THERE = frozenset({"not_found_track_error", "empty_track_error"})


class JoinNegotiation(msgspec.Struct, frozen=True, kw_only=True):
    """What was negotiated with the SFU for a client that joins."""

    ice_servers: list[IceServer]
    answer_sdp: str | None = None
    offer_sdp: str | None = None
    requires_renegotiation: bool = False
    tracks: Sequence[TrackResult] = ()


class Publisher(NamedTuple):
    """A publisher and its negotiated tracks by name; `announced` names those that the room knows."""

    client_id: ClientId
    session_id: SessionId
    tracks: Mapping[str, Track]
    announced: frozenset[str]


class _Named(Protocol):
    """A request that names a publisher by client, by media session, or by both."""

    @property
    def client_id(self) -> str | None: ...

    @property
    def session_id(self) -> str | None: ...


def role_of(role: str) -> Role:
    """Return the role of a request, in any case of letters, as the original service allows."""
    match role.lower():
        case "sender":
            return "sender"
        case "receiver":
            return "receiver"
        case _:
            raise InvalidRequestError('invalid role, expected "sender" or "receiver"')


def to_ice_servers(found: media.IceServers) -> list[IceServer]:
    """Return ICE servers in the protocol's form."""
    return [
        IceServer(urls=list(server.urls), username=server.username, credential=server.credential)
        for server in found.servers
    ]


def check_distinct(tracks: Iterable[PublishedTrack]) -> None:
    """Refuse tracks when two of them have the same mid or the same name."""
    mids: set[str] = set()
    names: set[str] = set()
    for track in tracks:
        if track.mid in mids or track.track_name in names:
            raise InvalidRequestError("two tracks have the same mid or track_name, expected them to differ")
        mids.add(track.mid)
        names.add(track.track_name)


def to_publish(tracks: Iterable[TrackRequest]) -> list[PublishedTrack]:
    """Return the tracks of a request that came with an offer."""
    wanted = []
    for track in tracks:
        if track.mid is None:
            raise InvalidRequestError(f"track {track.track_name} has no mid, expected the one it has in offer_sdp")
        if track.client_id is not None or track.session_id is not None or track.simulcast is not None:
            raise InvalidRequestError("a track to pull came with offer_sdp, expected tracks to publish alone")
        wanted.append(PublishedTrack(mid=track.mid, track_name=track.track_name, kind=track.kind, muted=track.muted))
    check_distinct(wanted)
    return wanted


def published_results(published: media.Published, tracks: Mapping[str, Track]) -> list[TrackResult]:
    """Return the result of each track to publish."""
    results = []
    for result in published.tracks:
        track = tracks.get(result.mid)
        if result.error is not None or track is None:
            results.append(_failed(TrackResult(track_name=result.track_name or None), result.error))
        else:
            results.append(TrackResult(mid=track.mid, track_name=track.track_name, kind=_kind(track)))
    return results


def require_some(results: Sequence[media.TrackResult]) -> None:
    """Raise the first item's error when every item failed."""
    first = next((result.error for result in results if result.error is not None), None)
    if first is not None and all(result.error is not None for result in results):
        raise first.as_fault()


def closed_results(closed: media.ClosedTracks) -> list[TrackResult]:
    """Return the result of each track to close. A track that was closed already is a success."""
    return [
        TrackResult(mid=result.mid)
        if result.error is None or result.error.is_already_closed
        else _failed(TrackResult(mid=result.mid), result.error)
        for result in closed.tracks
    ]


def muted_results(tracks: Iterable[TrackMute], published: Collection[str]) -> list[TrackResult]:
    """Return the result of each track to mute."""
    return [
        TrackResult(mid=track.mid) if track.mid in published else _missing(TrackResult(mid=track.mid))
        for track in tracks
    ]


class Sources:
    """The tracks of a pull request that members publish, and how the SFU's replies become results."""

    def __init__(self) -> None:
        self.remote: list[media.RemoteTrack] = []
        self._results: list[tuple[TrackResult, media.RemoteTrack | None]] = []

    def add(self, publisher: Publisher, track: Track, request: TrackRequest | None = None) -> None:
        """Pull this track."""
        remote = media.RemoteTrack(
            session_id=media.MediaSessionId(publisher.session_id),
            track_name=track.track_name,
            mid=request.mid if request is not None else None,
            simulcast=_simulcast(request.simulcast) if request is not None else None,
        )
        template = TrackResult(
            track_name=track.track_name,
            kind=_kind(track),
            client_id=publisher.client_id,
            session_id=publisher.session_id,
        )
        self.remote.append(remote)
        self._results.append((template, remote))

    def add_missing(self, request: TrackRequest) -> None:
        """Answer that no member of the room publishes this track."""
        template = TrackResult(
            track_name=request.track_name, client_id=request.client_id, session_id=request.session_id
        )
        self._results.append((template, None))

    def results(self, replies: Sequence[media.TrackResult]) -> list[TrackResult]:
        """Return the result of each track, in the order in which they were added."""
        found = {(reply.session_id, reply.track_name): reply for reply in replies}
        results = []
        for template, remote in self._results:
            if remote is None:
                results.append(_missing(template))
                continue
            reply = found.get((remote.session_id, remote.track_name))
            if reply is None or reply.error is not None:
                results.append(_failed(template, reply.error if reply is not None else None))
            else:
                results.append(msgspec.structs.replace(template, mid=reply.mid))
        return results


def not_there(replies: Sequence[media.TrackResult]) -> list[media.RemoteTrack]:
    """Return the tracks whose pull failed because the SFU does not have them or receives nothing of them."""
    return [
        media.RemoteTrack(session_id=reply.session_id, track_name=reply.track_name)
        for reply in replies
        if reply.session_id is not None and reply.error is not None and reply.error.error_code in _NOT_THERE
    ]


def everything(publishers: Iterable[Publisher]) -> Sources:
    """Pull all announced tracks, up to the bound of one request."""
    sources = Sources()
    for publisher in publishers:
        for name, track in publisher.tracks.items():
            if name in publisher.announced and len(sources.remote) < MAX_ITEMS:
                sources.add(publisher, track)
    return sources


def to_pull(tracks: Sequence[TrackRequest], publishers: Sequence[Publisher]) -> Sources:
    """Return the sources of the tracks of a request without an offer."""
    if not tracks:
        raise InvalidRequestError("tracks is empty, expected at least one, or an offer_sdp to publish with")
    sources = Sources()
    seen: set[tuple[str, str]] = set()
    for request in tracks:
        _check_named(request, request.track_name)
        publisher = _find(publishers, request)
        track = publisher.tracks.get(request.track_name) if publisher is not None else None
        if publisher is None or track is None:
            sources.add_missing(request)
            continue
        if (publisher.session_id, track.track_name) in seen:
            raise InvalidRequestError(f"track {track.track_name} is requested twice, expected once")
        seen.add((publisher.session_id, track.track_name))
        sources.add(publisher, track, request)
    return sources


class Updates(NamedTuple):
    """The changes to pulled tracks that can be asked of the SFU."""

    updates: list[media.TrackUpdate]
    mids: list[tuple[str, bool]]  # in the request's order, each with whether the SFU is asked

    def results(self, replies: Sequence[media.TrackResult]) -> list[TrackResult]:
        """Return the result of each track."""
        found = {reply.mid: reply.error for reply in replies}
        results = []
        for mid, is_asked in self.mids:
            template = TrackResult(mid=mid)
            if not is_asked:
                results.append(_missing(template))
            elif mid not in found or found[mid] is not None:
                results.append(_failed(template, found.get(mid)))
            else:
                results.append(template)
        return results


def to_update(tracks: Sequence[TrackUpdate], publishers: Sequence[Publisher]) -> Updates:
    """Return the changes that a request asks for."""
    if not tracks:
        raise InvalidRequestError("tracks is empty, expected at least one")
    wanted = Updates([], [])
    for track in tracks:
        publisher = None
        if track.track_name is not None:
            _check_named(track, track.track_name)
            publisher = _find(publishers, track)
            if publisher is None or track.track_name not in publisher.tracks:
                wanted.mids.append((track.mid, False))
                continue
        elif track.simulcast is None:
            raise InvalidRequestError(f"mid {track.mid} has neither simulcast nor track_name, expected one of them")
        wanted.mids.append((track.mid, True))
        wanted.updates.append(
            media.TrackUpdate(
                mid=track.mid,
                simulcast=_simulcast(track.simulcast),
                session_id=media.MediaSessionId(publisher.session_id) if publisher is not None else None,
                track_name=track.track_name,
            )
        )
    return wanted


class Channels(NamedTuple):
    """The data channels that can be asked of the SFU."""

    channels: list[media.DataChannel]
    templates: list[tuple[DataChannelResult, bool]]  # in the request's order, each with whether the SFU is asked

    def results(self, replies: Sequence[media.ChannelResult]) -> list[DataChannelResult]:
        """Return the result of each channel; the SFU replies in the order of the questions."""
        remaining = iter(replies)
        results = []
        for template, is_asked in self.templates:
            if not is_asked:
                results.append(msgspec.structs.replace(template, error_code=404, error_message=_NOT_PUBLISHED))
                continue
            reply = next(remaining, None)
            if reply is None or reply.error is not None:
                code, message = _wire_error(reply.error if reply is not None else None)
                results.append(msgspec.structs.replace(template, error_code=code, error_message=message))
            else:
                results.append(msgspec.structs.replace(template, id=reply.id))
        return results


def to_channels(channels: Sequence[DataChannelRequest], publishers: Sequence[Publisher]) -> Channels:
    """Return the data channels that a request asks for."""
    wanted = Channels([], [])
    for channel in channels:
        if channel.max_retransmits is not None and channel.max_packet_life_time is not None:
            raise InvalidRequestError("max_retransmits came with max_packet_life_time, expected at most one of them")
        publisher = None
        if channel.location == "remote":
            _check_named(channel, channel.data_channel_name)
            publisher = _find(publishers, channel)
        template = DataChannelResult(
            data_channel_name=channel.data_channel_name,
            location=channel.location,
            client_id=channel.client_id if publisher is None else publisher.client_id,
            session_id=channel.session_id if publisher is None else publisher.session_id,
        )
        is_asked = channel.location == "local" or publisher is not None
        wanted.templates.append((template, is_asked))
        if is_asked:
            wanted.channels.append(
                media.DataChannel(
                    location=channel.location,
                    data_channel_name=channel.data_channel_name,
                    session_id=media.MediaSessionId(publisher.session_id) if publisher is not None else None,
                    ordered=channel.ordered,
                    max_retransmits=channel.max_retransmits,
                    max_packet_life_time=channel.max_packet_life_time,
                    wait_for_ack=channel.wait_for_ack,
                    can_reply=channel.can_reply,
                )
            )
    return wanted


_NOT_PUBLISHED = "no member of the room publishes this"


def _check_named(request: _Named, name: str) -> None:
    if request.client_id is None and request.session_id is None:
        raise InvalidRequestError(f"{name} has neither client_id nor session_id, expected its publisher's")


def _find(publishers: Sequence[Publisher], request: _Named) -> Publisher | None:
    """Return the member that a request names by client, by media session, or by both. An id grants nothing."""
    for publisher in publishers:
        if request.client_id in {None, publisher.client_id} and request.session_id in {None, publisher.session_id}:
            return publisher
    return None


def _missing(template: TrackResult) -> TrackResult:
    return msgspec.structs.replace(template, error_code=404, error_message=_NOT_PUBLISHED)


def _failed(template: TrackResult, error: media.ItemError | None) -> TrackResult:
    code, message = _wire_error(error)
    return msgspec.structs.replace(template, error_code=code, error_message=message)


def _wire_error(error: media.ItemError | None) -> tuple[int, str]:
    if error is None:
        return 502, "the SFU said nothing about this"
    fault = error.as_fault()
    return fault.code, fault.message


def _simulcast(wanted: Simulcast | None) -> media.Simulcast | None:
    if wanted is None:
        return None
    return media.Simulcast(
        preferred_rid=wanted.preferred_rid,
        priority_ordering=wanted.priority_ordering or "none",
        rid_not_available=wanted.rid_not_available or "none",
    )


def _kind(track: Track) -> Literal["audio", "video"] | None:
    kinds: dict[str | None, Literal["audio", "video"]] = {"audio": "audio", "video": "video"}
    return kinds.get(track.kind)
