"""Requests of members about tracks, media, data channels, metadata and the room's state.

They raise NotFoundError when the caller is not in the room that they name.
"""

from __future__ import annotations

from signal_manager.errors import ForbiddenError, InvalidRequestError
from signal_manager.model import Caller
from signal_manager.protocol.messages import (
    DataChannelsNew,
    DataChannelsNewAck,
    IceServers,
    IceServersAck,
    MetadataUpdate,
    MetadataUpdateAck,
    Renegotiate,
    RenegotiateAck,
    RoomState,
    RoomStateAck,
    TracksClose,
    TracksCloseAck,
    TracksMute,
    TracksMuteAck,
    TracksNew,
    TracksNewAck,
    TracksUpdate,
    TracksUpdateAck,
)
from signal_manager.rooms import requests
from signal_manager.rooms.checks import check_may_publish, check_may_subscribe, check_metadata
from signal_manager.rooms.events import describe_all
from signal_manager.rooms.ice_servers import IceServerBook
from signal_manager.rooms.local_room import Membership
from signal_manager.rooms.member_media import MemberMedia
from signal_manager.rooms.memberships import Memberships
from signal_manager.rooms.settings import RoomSettings

__all__ = ["MemberRequests"]


class MemberRequests:
    """Answer members' requests. They also raise what `Negotiator`'s methods raise where the SFU is involved."""

    def __init__(self, *, memberships: Memberships, ice_servers: IceServerBook, settings: RoomSettings) -> None:
        self._rooms = memberships.rooms
        self._tracks = memberships.tracks
        self._metadata = memberships.metadata
        self._ice_servers = ice_servers
        self._settings = settings

    async def state(self, caller: Caller, request: RoomState) -> RoomStateAck:
        """Return the room in the state that its members were last told."""
        room = self._rooms.member(caller, request.room_id).room
        created_at = room.metadata.get("created_at")
        return RoomStateAck(
            room_id=room.room_id,
            sequence=room.sequence,
            participants=describe_all(room.participants),
            metadata=room.metadata,
            max_participants=room.max_participants or self._settings.max_participants,
            created_at=created_at if isinstance(created_at, int) and created_at >= 0 else None,
        )

    async def update_metadata(self, caller: Caller, request: MetadataUpdate) -> MetadataUpdateAck:
        """Replace a member's own metadata, or with the grant `admin` the room's, and tell the members."""
        member = self._rooms.member(caller, request.room_id)
        check_metadata(request.metadata)
        if request.scope == "participant":
            return MetadataUpdateAck(sequence=await self._metadata.replace_own(member, request.metadata))
        if not caller.identity.grants.admin:
            raise ForbiddenError("the token does not allow to change the room's metadata, expected the grant admin")
        return MetadataUpdateAck(sequence=await self._metadata.replace_room(member.room_id, request.metadata))

    async def change_tracks(self, caller: Caller, request: TracksNew) -> TracksNewAck:
        """Publish tracks with an offer, or pull tracks without one."""
        member, media = self._media_of(caller, request.room_id)
        if request.offer_sdp is not None:
            check_may_publish(caller)
            published = await media.publish(request.offer_sdp, requests.to_publish(request.tracks))
            results = requests.published_results(published, media.tracks)
            return TracksNewAck(tracks=results, answer_sdp=published.answer_sdp)
        check_may_subscribe(caller)
        sources = requests.to_pull(request.tracks, self._tracks.publishers(member, member.room.participants))
        if not sources.remote:
            return TracksNewAck(tracks=sources.results(()))
        pulled = await media.pull(sources.remote)
        self._tracks.doubt(member, requests.not_there(pulled.tracks))
        return TracksNewAck(
            tracks=sources.results(pulled.tracks),
            offer_sdp=pulled.offer_sdp,
            requires_renegotiation=pulled.requires_renegotiation,
        )

    async def renegotiate(self, caller: Caller, request: Renegotiate) -> RenegotiateAck:
        """Pass a member's answer to the SFU, or replace the member's media session."""
        member, media = self._media_of(caller, request.room_id)
        if request.answer_sdp is not None:
            if request.offer_sdp is not None or request.tracks is not None:
                raise InvalidRequestError("answer_sdp came with offer_sdp or tracks, expected either")
            await media.answer(request.answer_sdp)
            return RenegotiateAck(status=200)
        return await self._replace_media(caller, member, media, request)

    async def _replace_media(
        self, caller: Caller, member: Membership, media: MemberMedia, request: Renegotiate
    ) -> RenegotiateAck:
        """Open a new media session in the same membership, for a client whose peer connection lost its network."""
        if request.tracks is None:
            raise InvalidRequestError("answer_sdp is missing, expected it, or tracks for a new media session")
        if bool(request.tracks) is not (request.offer_sdp is not None):
            raise InvalidRequestError("expected offer_sdp with the tracks that it publishes, or neither")
        requests.check_distinct(request.tracks)
        if request.tracks:
            check_may_publish(caller)  # the present token counts; the member may have joined with another
        former = await media.reopen()
        await self._tracks.replace_media(member, former, request.tracks)
        if request.offer_sdp is None:
            return RenegotiateAck(status=200, session_id=media.session_id, tracks=[])
        published = await media.publish(request.offer_sdp, request.tracks)
        requests.require_some(published.tracks)
        return RenegotiateAck(
            status=200,
            session_id=media.session_id,
            answer_sdp=published.answer_sdp,
            tracks=requests.published_results(published, media.tracks),
        )

    async def close_tracks(self, caller: Caller, request: TracksClose) -> TracksCloseAck:
        """Stop tracks that this member publishes or pulls, and tell the others which published tracks ended."""
        member, media = self._media_of(caller, request.room_id)
        if not request.tracks:
            raise InvalidRequestError("tracks is empty, expected at least one")
        mids = [track.mid for track in request.tracks]
        published = frozenset(mid for mid in mids if mid in media.tracks)
        closed = await media.close_tracks(mids, offer_sdp=request.offer_sdp)
        gone = published - media.tracks.keys()
        if gone:
            await self._tracks.unpublish(member, gone, request.reason or "closed")
        return TracksCloseAck(tracks=requests.closed_results(closed), answer_sdp=closed.answer_sdp)

    async def mute_tracks(self, caller: Caller, request: TracksMute) -> TracksMuteAck:
        """Note which tracks of this member are muted, and tell the others."""
        member, media = self._media_of(caller, request.room_id)
        if not request.tracks:
            raise InvalidRequestError("tracks is empty, expected at least one")
        results = requests.muted_results(request.tracks, media.tracks.keys())
        media.mute({track.mid: track.muted for track in request.tracks})
        await self._tracks.mute(member, {track.mid for track in request.tracks})
        return TracksMuteAck(tracks=results)

    async def update_tracks(self, caller: Caller, request: TracksUpdate) -> TracksUpdateAck:
        """Switch layer or source of tracks that this member pulls."""
        member, media = self._media_of(caller, request.room_id)
        check_may_subscribe(caller)
        wanted = requests.to_update(request.tracks, self._tracks.publishers(member, member.room.participants))
        updated = await media.update_tracks(wanted.updates) if wanted.updates else ()
        return TracksUpdateAck(tracks=wanted.results(updated))

    async def open_channels(self, caller: Caller, request: DataChannelsNew) -> DataChannelsNewAck:
        """Open data channels, or negotiate the transport for them."""
        member, media = self._media_of(caller, request.room_id)
        if not request.data_channels:
            established = await media.establish_channels(request.offer_sdp)
            if established.channel.error is not None:
                raise established.channel.error.as_fault()
            return DataChannelsNewAck(
                data_channels=[],
                answer_sdp=established.answer_sdp,
                offer_sdp=established.offer_sdp,
                requires_renegotiation=established.requires_renegotiation,
            )
        if request.offer_sdp is not None:
            raise InvalidRequestError("offer_sdp came with data_channels, expected one of them")
        locations = {channel.location for channel in request.data_channels}
        if "local" in locations:
            check_may_publish(caller)
        if "remote" in locations:
            check_may_subscribe(caller)
        publishers = self._tracks.publishers(member, member.room.participants)
        wanted = requests.to_channels(request.data_channels, publishers)
        opened = await media.open_channels(wanted.channels) if wanted.channels else ()
        return DataChannelsNewAck(data_channels=wanted.results(opened))

    async def ice_servers(self, caller: Caller, request: IceServers) -> IceServersAck:
        """Return STUN servers and short-lived TURN servers to any client that is signed in."""
        found = await self._ice_servers.servers_for(caller.identity.client_id)
        expires_at = None if found.expires_at is None else int(found.expires_at * 1000)
        return IceServersAck(ice_servers=requests.to_ice_servers(found), expires_at=expires_at)

    def _media_of(self, caller: Caller, room_id: str) -> tuple[Membership, MemberMedia]:
        member = self._rooms.member(caller, room_id)
        if member.media is None:
            raise InvalidRequestError("this service has no media backend")
        return member, member.media
