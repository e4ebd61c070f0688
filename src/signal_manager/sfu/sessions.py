"""One session: a client's peer connection, its tracks, and Cloudflare's rules for changing them.

Neighbours: `http` calls it, `connection` is its transport, `tracks` and `datachannels` are its media and channels. A
request first waits for the transport or for a publisher's packets. Then it checks and changes everything without
awaiting, so overlapping requests see a consistent session, and the later one is refused.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Collection, Mapping

from signal_manager.sfu.connection import Connection, Resources
from signal_manager.sfu.datachannels import SERVER_EVENTS, DataChannels
from signal_manager.sfu.errors import ItemError, RefusedError, invalid_params, not_ready
from signal_manager.sfu.negotiation import Sending, match_codec, new_outgoing
from signal_manager.sfu.publication import Publication
from signal_manager.sfu.sdp import Codec, Description, RemoteSection
from signal_manager.sfu.tracks import Tracks
from signal_manager.sfu.wire import (
    CloseRequest,
    DataChannelObject,
    EstablishRequest,
    EstablishResponse,
    SessionDescription,
    StateResponse,
    TrackObject,
    TracksRequest,
    TracksResponse,
    UpdateRequest,
)

__all__ = ["Session"]

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


class Session:
    """One client of the SFU, with its tracks and data channels."""

    def __init__(
        self, session_id: str, *, resources: Resources, sessions: Mapping[str, Session], room: str = ""
    ) -> None:
        settings = resources.settings
        self.id = session_id
        self.room = room
        self._prefix = resources.prefix
        self.last_request = time.monotonic()
        self._settings = settings
        self._load = resources.load
        self._sessions = sessions
        self._asked: dict[str, str] = {}  # mid -> name of a track that the SFU's pending offer asks the client to send
        self._allowance = float(settings.requests_per_second)
        self._connection = Connection(resources, on_connected=self._connected)
        self.channels = DataChannels(self._connection.transport, settings=settings, counters=resources.counters)
        self.tracks = Tracks(
            session_id,
            connection=self._connection,
            channels=self.channels,
            settings=settings,
            counters=resources.counters,
        )

    # -- life ----------------------------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether packets can flow now."""
        return self._connection.is_connected

    async def is_back(self) -> bool:
        """Return whether the client is usable; wait for one that has lost its connection to come back."""
        if self._connection.is_lost:
            try:
                await self._connection.ready()
            except RefusedError:
                return False
        return True

    def is_expired(self, now: float) -> bool:
        """Return whether the session is over."""
        return self._connection.is_expired(now, last_request=self.last_request)

    def admit(self, now: float) -> None:
        """Count a request against the session's rate.

        Raises:
            RefusedError: the session exceeds its rate.
        """
        rate = float(self._settings.requests_per_second)
        self._allowance = min(rate, self._allowance + (now - self.last_request) * rate)
        self.last_request = now
        if self._allowance < 1:
            raise RefusedError(
                429,
                "rate_limited",
                f"expected at most {self._settings.requests_per_second} requests per second in a session",
            )
        self._allowance -= 1

    def tick(self, now: float) -> None:
        """Send RTCP reports; close publications without packets and channels that the client did not acknowledge."""
        self.tracks.tick(now)
        self.channels.tick(now)

    async def close(self) -> None:
        """Close all tracks and channels and the connection; the client is told."""
        self.tracks.close()
        await self.channels.stop()
        self._connection.close()

    def _connected(self) -> None:
        self.channels.begin()
        self.tracks.open_subscriptions()

    # -- requests ------------------------------------------------------------------------------------------------------

    async def new_tracks(self, request: TracksRequest) -> TracksResponse:
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
            taken = {publication.mid for publication in self.tracks.published.values()}
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
        for section, remote in self.tracks.apply_offer(offer, receive=accepted):
            if section.mid in accepted and section.receives:
                self.tracks.receive(accepted[section.mid], section, remote)
        return TracksResponse(
            requires_immediate_renegotiation=False, tracks=answered, session_description=self._connection.answer()
        )

    def _why_not(self, name: str, remote: RemoteSection, taken: Collection[str]) -> ItemError | None:
        if name in self.tracks.published or name in taken:
            return ItemError("repeated_local_track_error", "this session already publishes a track of that name")
        if any(publication.mid == remote.mid for publication in self.tracks.published.values()):
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
            if name in self.tracks.published or name in self._asked.values():
                error = ItemError("repeated_local_track_error", "this session already publishes a track of that name")
                answered.append(track.failed(error))
                continue
            outgoing = new_outgoing(self.id, _token(name)) if track.bidirectional_media_stream else None
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
                self.tracks.send(section.mid, source, track, outgoing, section.codecs[0])
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
            and section.mid not in self.tracks.router.subscriptions
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
            self.tracks.send(mid, source, track, send.outgoing, send.codec)
        self.tracks.apply_offer(offer, send={mid: send for mid, (_, _, send) in sending.items()})
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
        subscription = self.tracks.router.subscriptions.get(mid)
        if subscription is None:
            self.tracks.send(mid, source, track, section.outgoing, codec).open(codec, section.send_time_id)
        else:
            self.tracks.prefer(subscription, track)
            subscription.attach(source)
        self.tracks.sources[mid] = (source.session_id, source.track_name)
        return None

    def _mid_of(self, mid: str) -> str:
        """Resolve `#name`, which means a local track, to its mid; return any other mid as it is."""
        publication = self.tracks.published.get(mid[1:]) if mid.startswith("#") else None
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
            self.tracks.apply_offer(self._connection.read_offer(description))
            return self._connection.answer()
        pairs = self._connection.apply_answer(description)
        asked, self._asked = self._asked, {}
        for section, remote in pairs:
            if section.mid in asked and section.receives:
                self.tracks.receive(asked[section.mid], section, remote)
        self.tracks.settle(pairs)
        return None

    async def close_tracks(self, request: CloseRequest) -> TracksResponse:
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
            TrackObject(mid=mid) if self.tracks.end(mid or "") else TrackObject(mid=mid).failed(_ALREADY_CLOSED)
            for mid in mids
        ]
        response = TracksResponse(requires_immediate_renegotiation=False, tracks=tracks)
        if offer is not None:
            self.tracks.apply_offer(offer)
            response.session_description = self._connection.answer()
        return response

    async def update_tracks(self, request: UpdateRequest) -> TracksResponse:
        """Switch a pulled track to another simulcast layer or to another publication."""
        if not request.tracks or any(not track.mid for track in request.tracks):
            raise invalid_params("tracks is expected to hold at least one item, each with a mid")
        await self._connection.ready()
        tracks = [self._update(track) for track in request.tracks]
        return TracksResponse(requires_immediate_renegotiation=False, tracks=tracks)

    def _update(self, track: TrackObject) -> TrackObject:
        mid = track.mid or ""
        subscription = self.tracks.router.subscriptions.get(mid)
        if subscription is None or subscription.publication is None:
            return track.failed(ItemError("update_track_error", "this mid receives no track"))
        publication, session_id = subscription.publication, track.session_id or self.tracks.sources[mid][0]
        name = track.track_name or self.tracks.sources[mid][1]
        if (session_id, name) != (publication.session_id, publication.track_name):
            session = self._sessions.get(session_id)
            other = session.tracks.published.get(name) if session is not None else None
            if other is None:
                return track.failed(_NOT_FOUND if session_id.startswith(self._prefix) else _ELSEWHERE)
            if other.codec.key != publication.codec.key:
                return track.failed(ItemError("update_track_error", "the other track has another codec"))
            self.tracks.prefer(subscription, track)
            subscription.attach(other)
            self.tracks.sources[mid] = (session_id, name)
        elif not publication.is_simulcast:
            return track.failed(ItemError("update_track_error", "the track is not simulcast"))
        else:
            self.tracks.prefer(subscription, track)
            subscription.choose()
        return TrackObject(mid=mid, session_id=session_id, track_name=name, simulcast=track.simulcast)

    async def establish(self, request: EstablishRequest) -> EstablishResponse:
        """Negotiate the data channels' transport."""
        await self._connection.ready()
        if self._connection.negotiation.data_section is not None:
            raise RefusedError(400, "decoding_error", "the data channel transport is established already")
        channel = request.data_channel
        if channel.location not in (None, "remote") or channel.data_channel_name not in (None, SERVER_EVENTS):
            raise invalid_params(f"expected the remote data channel {SERVER_EVENTS}")
        answered = DataChannelObject(location="remote", data_channel_name=SERVER_EVENTS, id=0)
        if request.session_description is None:
            self._connection.check_stable()
            self._connection.negotiation.open_data()
            description = self._connection.offer()
        else:
            offer = self._connection.read_offer(request.session_description)
            if not any(s.kind == "application" and not s.is_rejected for s in offer.sections):
                raise RefusedError(400, "decoding_error", "the offer has no m-section for data channels")
            self.tracks.apply_offer(offer)
            description = self._connection.answer()
        return EstablishResponse(
            requires_immediate_renegotiation=description.type == "offer",
            data_channel=answered,
            session_description=description,
        )

    async def ready_for_channels(self) -> None:
        """Wait until data channels can be opened.

        Raises:
            RefusedError: 425 or 410 as for tracks; 406 if no m-section for data channels was negotiated.
        """
        await self._connection.ready()
        if not self.channels.is_accepted:
            raise invalid_params("the session has no data channel transport: establish it first")
        if not self.is_connected:
            raise not_ready()

    def state(self) -> StateResponse:
        """Return all tracks and data channels with their status."""
        tracks = [
            TrackObject(
                location="local",
                mid=publication.mid,
                track_name=name,
                status="active" if publication.is_flowing else "inactive",
            )
            for name, publication in self.tracks.published.items()
        ]
        for mid, subscription in self.tracks.router.subscriptions.items():
            session_id, name = self.tracks.sources.get(mid, ("", ""))
            source = subscription.publication
            status = "active" if source is not None and source.is_flowing else "inactive"
            tracks.append(
                TrackObject(
                    location="remote",
                    mid=mid,
                    session_id=session_id,
                    track_name=name,
                    status=status,  # type: ignore[arg-type]  # one of the two words above
                )
            )
        return StateResponse(tracks=tracks, data_channels=self.channels.state())

    def negotiate_only(self, description: SessionDescription) -> SessionDescription:
        """Answer the offer in sessions/new: it opens a transport without tracks."""
        self.tracks.apply_offer(self._connection.read_offer(description))
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
