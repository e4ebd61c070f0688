"""Requests about the tracks of one session, by Cloudflare's rules: publish, pull, answer, close and update.

A request waits first, for the transport or for a publisher's packets, and then checks and changes everything without
awaiting: requests that overlap meet a consistent session, and the one that comes second is refused.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Collection, Mapping
from typing import Protocol

from signal_manager.sfu.connection import Connection, Resources
from signal_manager.sfu.errors import ItemError, invalid_params
from signal_manager.sfu.negotiation import Sending, match_codec, new_outgoing
from signal_manager.sfu.publication import Publication
from signal_manager.sfu.sdp import Codec, Description, RemoteSection
from signal_manager.sfu.tracks import Tracks
from signal_manager.sfu.wire import (
    CloseRequest,
    SessionDescription,
    TrackObject,
    TracksRequest,
    TracksResponse,
    UpdateRequest,
)

__all__ = ["PublishingSession", "TrackRequests"]

_NOT_FOUND = ItemError(
    "not_found_track_error",
    "Track not found on remote peer. Make sure the publisher peer is connected and sending packets for this track",
)
_ELSEWHERE = ItemError(
    "not_found_track_error",
    "The session is with another worker of the SFU: sessions that pull from each other are expected to be opened with "
    "the same room in their correlationId (room/anything)",
)
_EMPTY = ItemError("empty_track_error", "No packets arrived for this track")
_ALREADY_CLOSED = ItemError("close_track_error", "Track doesn't exist or was already closed")
_VIDEO_FEEDBACK = ("nack", "nack pli", "ccm fir", "goog-remb", "transport-cc")
# The codecs that an offer of the SFU asks a client to send (case E of tracks/new).
_OFFERED_CODECS = {
    "audio": (Codec(111, "opus", "opus/48000/2", "minptime=10;useinbandfec=1", ("transport-cc",)),),
    "video": tuple(
        Codec(number, name, f"{label}/90000", fmtp, _VIDEO_FEEDBACK, number + 1)
        for number, name, label, fmtp in (
            (96, "vp8", "VP8", ""),
            (98, "vp9", "VP9", "profile-id=0"),
            (100, "h264", "H264", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"),
            (102, "av1", "AV1", ""),
        )
    ),
}


class PublishingSession(Protocol):
    """A session as another one sees it that pulls its tracks."""

    @property
    def tracks(self) -> Tracks:
        """What it publishes."""

    @property
    def is_connected(self) -> bool:
        """Whether packets can flow now."""

    async def is_back(self) -> bool:
        """Wait for a client that was connected and is not now; return whether it came back."""


class TrackRequests:
    """Changes the tracks of one session as its client asks.

    Args:
        session_id: the session.
        resources: what all sessions share.
        connection: negotiates.
        tracks: what the session sends and receives.
        sessions: all sessions, for pulls.
    """

    def __init__(
        self,
        session_id: str,
        resources: Resources,
        connection: Connection,
        tracks: Tracks,
        sessions: Mapping[str, PublishingSession],
    ) -> None:
        self._session_id = session_id
        self._prefix = resources.prefix
        self._settings = resources.settings
        self._load = resources.load
        self._connection = connection
        self._tracks = tracks
        self._sessions = sessions
        self._asked: dict[str, str] = {}  # mid -> name of the track that our pending offer asks the client to send

    async def open(self, request: TracksRequest) -> TracksResponse:
        """Publish or pull tracks (cases A to H of tracks/new)."""
        tracks = request.tracks or []
        locations = {track.location for track in tracks}
        if len(tracks) > self._settings.max_tracks_per_request:
            raise invalid_params(
                f"{len(tracks)} tracks in one request, expected at most {self._settings.max_tracks_per_request}"
            )
        if len(locations) > 1 or None in locations:
            raise invalid_params("the tracks of one request are expected to be all local or all remote")
        if not tracks and request.session_description is None:
            raise invalid_params("expected tracks, a sessionDescription, or both")
        await self._connection.ready()
        if locations == {"remote"}:
            return await self._pull(tracks, request.session_description)
        if request.session_description is None:
            return self._ask_to_push(tracks)
        return self._publish(tracks, request.session_description, discover=request.auto_discover and not tracks)

    def _publish(self, tracks: list[TrackObject], description: SessionDescription, *, discover: bool) -> TracksResponse:
        offer = self._connection.read_offer(description)
        remotes = {section.mid: section for section in offer.sections}
        if discover:
            taken = {publication.mid for publication in self._tracks.published.values()}
            tracks = [
                TrackObject(location="local", mid=mid, track_name=secrets.token_hex(16))
                for mid, remote in remotes.items()
                if remote.sends and remote.codecs and mid not in taken
            ]
        mids = [track.mid for track in tracks]
        if any(mid not in remotes for mid in mids) or any(track.track_name is None for track in tracks):
            raise invalid_params("every local track is expected to have a trackName and the mid of an m-section")
        if len(set(mids)) != len(mids):
            raise invalid_params("two tracks have the same mid")
        answered, accepted = [], dict[str, str]()
        for track in tracks:
            mid, name = track.mid or "", track.track_name or ""
            error = self._why_not(name, remotes[mid], accepted.values())
            if error is None:
                accepted[mid] = name
                answered.append(TrackObject(track_name=name, mid=mid))
            else:
                answered.append(track.failed(error))
        for section, remote in self._tracks.apply_offer(offer, receive=accepted):
            if section.mid in accepted and section.receives:
                self._tracks.receive(accepted[section.mid], section, remote)
        return TracksResponse(
            requires_immediate_renegotiation=False, tracks=answered, session_description=self._connection.answer()
        )

    def _why_not(self, name: str, remote: RemoteSection, taken: Collection[str]) -> ItemError | None:
        if name in self._tracks.published or name in taken:
            return ItemError("repeated_local_track_error", "this session already publishes a track of that name")
        if any(publication.mid == remote.mid for publication in self._tracks.published.values()):
            return ItemError("repeated_local_track_error", "this mid already carries a track")
        if not remote.sends or not remote.codecs:
            return ItemError("invalid_params", "the mid's m-section sends nothing that can be forwarded")
        return None

    def _ask_to_push(self, tracks: list[TrackObject]) -> TracksResponse:
        """Return an offer that asks the client to publish (case E)."""
        if any(track.kind is None or track.track_name is None for track in tracks):
            raise invalid_params(
                "without a sessionDescription every local track is expected to have kind and trackName"
            )
        self._connection.check_stable()
        answered, is_any = [], False
        for track in tracks:
            name, kind = track.track_name or "", track.kind or ""
            if name in self._tracks.published or name in self._asked.values():
                error = ItemError("repeated_local_track_error", "this session already publishes a track of that name")
                answered.append(track.failed(error))
                continue
            outgoing = new_outgoing(self._session_id, _token(name)) if track.bidirectional_media_stream else None
            section = self._connection.negotiation.open_receiving(kind, _OFFERED_CODECS[kind], outgoing)
            self._asked[section.mid] = name
            answered.append(TrackObject(track_name=name, mid=section.mid))
            is_any = True
        return (
            self._offering(answered)
            if is_any
            else TracksResponse(requires_immediate_renegotiation=False, tracks=answered)
        )

    async def _pull(self, tracks: list[TrackObject], description: SessionDescription | None) -> TracksResponse:
        if any(track.session_id is None or track.track_name is None for track in tracks):
            raise invalid_params("every remote track is expected to have a sessionId and a trackName")
        self._connection.check_stable()
        found = await asyncio.gather(*(self._find(track) for track in tracks))
        self._connection.check_open()
        self._connection.check_stable()
        self._load.check_pull(sum(source.packet_rate for source in found if isinstance(source, Publication)))
        pairs = list(zip(tracks, found, strict=True))
        if description is not None:
            return self._pull_into_offer(pairs, self._connection.read_offer(description))
        answered, is_any = [], False
        for track, source in pairs:
            if isinstance(source, ItemError):
                answered.append(track.failed(source))
            elif track.mid:
                error = self._reuse(track, source)
                answered.append(error or _pulled(track, self._mid_of(track.mid)))
            else:
                outgoing = new_outgoing(source.session_id, _token(source.track_name))
                section = self._connection.negotiation.open_sending(source.kind, source.codec, outgoing)
                self._tracks.send(section.mid, source, track, outgoing, section.codecs[0])
                answered.append(_pulled(track, section.mid))
                is_any = True
        return (
            self._offering(answered)
            if is_any
            else TracksResponse(requires_immediate_renegotiation=False, tracks=answered)
        )

    def _pull_into_offer(
        self, pairs: list[tuple[TrackObject, Publication | ItemError]], offer: Description
    ) -> TracksResponse:
        """Pull tracks on the recvonly m-sections of the client's offer (case D)."""
        free = [
            section
            for section in offer.sections
            if section.receives
            and section.kind != "application"
            and section.mid not in self._tracks.router.subscriptions
        ]
        answered, sending = [], dict[str, tuple[TrackObject, Publication, Sending]]()
        for track, source in pairs:
            if isinstance(source, ItemError):
                answered.append(track.failed(source))
                continue
            for section in free:
                codec = match_codec(source.codec, section.codecs)
                if section.kind == source.kind and track.mid in (None, section.mid) and codec is not None:
                    break
            else:
                error = ItemError("invalid_params", "the offer has no free m-section that can receive this track")
                answered.append(track.failed(error))
                continue
            free.remove(section)
            outgoing = new_outgoing(source.session_id, _token(source.track_name))
            sending[section.mid] = (track, source, Sending(outgoing, codec))
            answered.append(_pulled(track, section.mid))
        for mid, (track, source, send) in sending.items():
            self._tracks.send(mid, source, track, send.outgoing, send.codec)
        self._tracks.apply_offer(offer, send={mid: send for mid, (_, _, send) in sending.items()})
        return TracksResponse(
            requires_immediate_renegotiation=False, tracks=answered, session_description=self._connection.answer()
        )

    def _reuse(self, track: TrackObject, source: Publication) -> TrackObject | None:
        """Pull a track on a section that already sends (case F); no description changes."""
        mid = self._mid_of(track.mid or "")
        section = self._connection.negotiation.section(mid)
        if section is None or section.outgoing is None or not section.sends:
            return track.failed(ItemError("invalid_params", "the mid belongs to no m-section on which the SFU sends"))
        codec = section.codecs[0]
        if codec.key != source.codec.key:
            return track.failed(ItemError("invalid_params", "the m-section was negotiated for another codec"))
        subscription = self._tracks.router.subscriptions.get(mid)
        if subscription is None:
            self._tracks.send(mid, source, track, section.outgoing, codec).open(codec, section.send_time_id)
        else:
            self._tracks.prefer(subscription, track)
            subscription.attach(source)
        self._tracks.sources[mid] = (source.session_id, source.track_name)
        return None

    def _mid_of(self, mid: str) -> str:
        """Resolve `#name`, which means a local track, to its mid; return any other mid as it is."""
        publication = self._tracks.published.get(mid[1:]) if mid.startswith("#") else None
        return mid if publication is None else publication.mid

    async def _find(self, track: TrackObject) -> Publication | ItemError:
        """Return the publication that a track names, once it has packets."""
        session = self._sessions.get(track.session_id or "")
        publication = session.tracks.published.get(track.track_name or "") if session is not None else None
        if session is None and not (track.session_id or "").startswith(self._prefix):
            return _ELSEWHERE
        if session is None or publication is None or not await session.is_back():
            return _NOT_FOUND
        if not publication.has_packets:
            try:
                async with asyncio.timeout(self._settings.first_packet_wait):
                    await publication.first_packet.wait()
            except TimeoutError:
                return _EMPTY if session.is_connected else _NOT_FOUND
        # The publication may have ended meanwhile, or another one may have its name.
        return publication if session.tracks.published.get(track.track_name or "") is publication else _NOT_FOUND

    async def renegotiate(self, description: SessionDescription) -> SessionDescription | None:
        """Apply the client's answer, or answer its offer; a client restarts ICE by an offer."""
        if description.type == "offer":
            await self._connection.ready()
            self._tracks.apply_offer(self._connection.read_offer(description))
            return self._connection.answer()
        pairs = self._connection.apply_answer(description)
        asked, self._asked = self._asked, {}
        for section, remote in pairs:
            if section.mid in asked and section.receives:
                self._tracks.receive(asked[section.mid], section, remote)
        self._tracks.settle(pairs)
        return None

    async def close(self, request: CloseRequest) -> TracksResponse:
        """Close tracks by negotiation, or at once with `force`."""
        mids = [track.mid for track in request.tracks]
        if not mids or any(not mid for mid in mids):
            raise invalid_params("tracks is expected to hold at least one item, each with a mid")
        offer = None
        if not request.force:
            if request.session_description is None:
                raise invalid_params("without force a sessionDescription is expected")
            await self._connection.ready()
            offer = self._connection.read_offer(request.session_description)
        tracks = [
            TrackObject(mid=mid) if self._tracks.end(mid or "") else TrackObject(mid=mid).failed(_ALREADY_CLOSED)
            for mid in mids
        ]
        response = TracksResponse(requires_immediate_renegotiation=False, tracks=tracks)
        if offer is not None:
            self._tracks.apply_offer(offer)
            response.session_description = self._connection.answer()
        return response

    async def update(self, request: UpdateRequest) -> TracksResponse:
        """Switch a pulled track to another simulcast layer or to another publication."""
        if not request.tracks or any(not track.mid for track in request.tracks):
            raise invalid_params("tracks is expected to hold at least one item, each with a mid")
        await self._connection.ready()
        tracks = [self._update(track) for track in request.tracks]
        return TracksResponse(requires_immediate_renegotiation=False, tracks=tracks)

    def _update(self, track: TrackObject) -> TrackObject:
        mid = track.mid or ""
        subscription = self._tracks.router.subscriptions.get(mid)
        if subscription is None or subscription.publication is None:
            return track.failed(ItemError("update_track_error", "this mid receives no track"))
        publication, session_id = subscription.publication, track.session_id or self._tracks.sources[mid][0]
        name = track.track_name or self._tracks.sources[mid][1]
        if (session_id, name) != (publication.session_id, publication.track_name):
            session = self._sessions.get(session_id)
            other = session.tracks.published.get(name) if session is not None else None
            if other is None:
                return track.failed(_NOT_FOUND if session_id.startswith(self._prefix) else _ELSEWHERE)
            if other.codec.key != publication.codec.key:
                return track.failed(ItemError("update_track_error", "the other track has another codec"))
            self._tracks.prefer(subscription, track)
            subscription.attach(other)
            self._tracks.sources[mid] = (session_id, name)
        elif not publication.is_simulcast:
            return track.failed(ItemError("update_track_error", "the track is not simulcast"))
        else:
            self._tracks.prefer(subscription, track)
            subscription.choose()
        return TrackObject(mid=mid, session_id=session_id, track_name=name, simulcast=track.simulcast)

    def negotiate_only(self, description: SessionDescription) -> SessionDescription:
        """Answer the offer in sessions/new: it opens a transport without tracks."""
        self._tracks.apply_offer(self._connection.read_offer(description))
        return self._connection.answer()

    def _offering(self, tracks: list[TrackObject]) -> TracksResponse:
        return TracksResponse(
            requires_immediate_renegotiation=True, tracks=tracks, session_description=self._connection.offer()
        )


def _pulled(track: TrackObject, mid: str) -> TrackObject:
    return TrackObject(session_id=track.session_id, track_name=track.track_name, mid=mid)


def _token(name: str) -> str:
    """Return a track name in the characters that msid allows (RFC 8830, 2)."""
    return re.sub(r"[^0-9A-Za-z_.{}-]", "_", name)[:64]
