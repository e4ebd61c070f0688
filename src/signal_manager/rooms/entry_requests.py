"""Requests that begin and end a membership: WEBRTC_ROOM_CREATE, WEBRTC_ROOM_JOIN and WEBRTC_ROOM_LEAVE."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar
from uuid import uuid4

import msgspec

from signal_manager.errors import ConflictError, ForbiddenError, InvalidRequestError, NotFoundError
from signal_manager.model import Caller, MemberRecord, Role, Room, RoomId
from signal_manager.protocol.messages import (
    PROTOCOL_VERSION,
    ConnectionInfo,
    RoomAck,
    RoomCreate,
    RoomCreateAck,
    RoomEntry,
    RoomJoin,
    RoomJoinAck,
    RoomLeave,
    RoomLeaveAck,
)
from signal_manager.rooms import changes, requests
from signal_manager.rooms.checks import check_may_publish, check_may_subscribe, check_metadata
from signal_manager.rooms.events import describe_all
from signal_manager.rooms.ice_servers import IceServerBook
from signal_manager.rooms.local_room import Membership
from signal_manager.rooms.memberships import Memberships
from signal_manager.rooms.requests import JoinNegotiation
from signal_manager.rooms.settings import RoomSettings
from signal_manager.storage.base import Storage

__all__ = ["EntryRequests"]

_CREATED = "Room created successfully"

AckT = TypeVar("AckT", bound=RoomAck)


class EntryRequests:
    """Answer requests to create, join and leave rooms."""

    def __init__(
        self,
        *,
        memberships: Memberships,
        storage: Storage,
        ice_servers: IceServerBook,
        settings: RoomSettings,
        has_media: bool,
        clock: Callable[[], float],
    ) -> None:
        self._rooms = memberships.rooms
        self._joining = memberships.joining
        self._leaving = memberships.leaving
        self._tracks = memberships.tracks
        self._storage = storage
        self._ice_servers = ice_servers
        self._settings = settings
        self._has_media = has_media
        self._clock = clock

    async def create(self, caller: Caller, request: RoomCreate) -> RoomCreateAck:
        """Open a room with its first member.

        Raises:
            InvalidRequestError, ForbiddenError, TooLargeError: the request is wrong or not allowed.
            ConflictError: the room exists already, or the session is in a room.
        """
        room_id = RoomId(request.room_id or str(uuid4()))
        role = self._check_entry(caller, room_id, request)
        self._limit_of(request)

        async def open_room(record: MemberRecord) -> Room:
            return await self._storage.create_room(self._opened(room_id, record, request))

        async with (
            self._joining.reserve(caller, room_id, role, request.metadata or {}) as member,
            member.local.creation,
        ):
            room = await self._storage.get_room(room_id)
            if room is not None and room.is_active:
                raise ConflictError(f"room {room_id} exists already")
            negotiated = await self._negotiate(member, request, ())
            room = await self._joining.add(member, open_room)
            return self._ack(RoomCreateAck, member, room, negotiated, _CREATED)

    async def join(self, caller: Caller, request: RoomJoin) -> RoomJoinAck:
        """Add the caller to a room; with `create_if_missing` make the room if there is none.

        Raises:
            InvalidRequestError, ForbiddenError, TooLargeError: the request is wrong or not allowed, the room is closed.
            NotFoundError: there is no such room.
            ConflictError: the client is in it already, the session is in another, or the room is full.
        """
        room_id = RoomId(request.room_id)
        role = self._check_entry(caller, room_id, request)
        self._limit_of(request)
        async with self._joining.reserve(caller, room_id, role, request.metadata or {}) as member:
            room = await self._joining.room_without_former(member)
            if request.create_if_missing and (room is None or not room.is_active):
                # One request makes the room; the others wait for it rather than negotiate in vain.
                async with member.local.creation:
                    room = await self._storage.get_room(room_id)
                    if room is None or not room.is_active:
                        return await self._enter_room(member, request, None)
            if room is None:
                raise NotFoundError(f"no such room: {room_id}")
            changes.check_entry(room, caller.identity.client_id, limit=self._settings.max_participants)
            return await self._enter_room(member, request, room)

    async def leave(self, caller: Caller, request: RoomLeave) -> RoomLeaveAck:
        """Leave a room, or stop joining it: the pending request to join is answered with 404."""
        if self._rooms.room_of(caller.session_id) != request.room_id:
            raise NotFoundError(f"not in room {request.room_id}")
        await self._leaving.leave(caller, request.reason or "left")
        return RoomLeaveAck(
            version=PROTOCOL_VERSION,
            status=200,
            message="Left room successfully",
            room_id=request.room_id,
            client_id=caller.identity.client_id,
        )

    async def _enter_room(self, member: Membership, request: RoomJoin, room: Room | None) -> RoomJoinAck:
        """Negotiate, then join the room, or make it where there is none."""
        present = () if room is None else room.participants
        negotiated = await self._negotiate(member, request, present)
        is_there = room is not None
        created = False

        async def enter(record: MemberRecord) -> Room:
            # Another request may have made or closed the room meanwhile. Try the earlier state first.
            nonlocal is_there, created
            limit = self._settings.max_participants
            while True:
                try:
                    if is_there:
                        change = changes.with_member(record, limit=limit, now=self._clock())
                        return await self._storage.change_room(member.room_id, change)
                    opened = self._opened(member.room_id, record, request)
                    room = await self._storage.create_room(opened)
                except (NotFoundError, InvalidRequestError):
                    if not (is_there and request.create_if_missing):
                        raise
                    is_there = False
                except ConflictError:
                    if is_there:
                        raise
                    is_there = True
                else:
                    created = True
                    return room

        room = await self._joining.add(member, enter)
        if not created:
            return self._ack(RoomJoinAck, member, room, negotiated, "Joined room successfully")
        ack = self._ack(RoomJoinAck, member, room, negotiated, _CREATED)
        return msgspec.structs.replace(ack, created=True)

    def _limit_of(self, request: RoomCreate | RoomJoin) -> int:
        """Return the capacity of a room that this request makes; InvalidRequestError when it asks for too much."""
        limit = request.max_participants or self._settings.max_participants
        if limit > self._settings.max_participants:
            raise InvalidRequestError(
                f"max_participants is {limit}, expected at most {self._settings.max_participants}"
            )
        return limit

    def _opened(self, room_id: RoomId, record: MemberRecord, request: RoomCreate | RoomJoin) -> Room:
        """Return the room that a request makes, with its first member."""
        return changes.opened(
            room_id,
            record,
            app_id=self._settings.app_id,
            metadata=request.metadata or {},
            max_participants=self._limit_of(request),
            now=self._clock(),
        )

    def _check_entry(self, caller: Caller, room_id: RoomId, request: RoomEntry) -> Role:
        """Check what does not depend on the room, and return the requested role."""
        role = requests.role_of(request.role)
        requests.check_distinct(request.tracks or ())
        grants = caller.identity.grants
        if not grants.may_enter(room_id):
            raise ForbiddenError(f"the token does not allow room {room_id}")
        if grants.roles is not None and role not in grants.roles:
            raise ForbiddenError(f"the token does not allow the role of a {role}")
        if role == "sender":
            check_may_publish(caller)
            if self._has_media and not request.offer_sdp:
                raise InvalidRequestError("offer_sdp is missing, expected an offer from a sender")
        else:
            check_may_subscribe(caller)
        check_metadata(request.metadata or {})
        return role

    async def _negotiate(
        self, member: Membership, request: RoomEntry, present: Iterable[MemberRecord]
    ) -> JoinNegotiation:
        """Negotiate with the SFU for a new member, before the room is told of it."""
        media = member.media
        asking = self._ice_servers.servers_for(member.client_id)
        if media is None:
            return JoinNegotiation(ice_servers=requests.to_ice_servers(await asking))
        found, _ = await asyncio.gather(asking, media.open())
        servers = requests.to_ice_servers(found)
        if member.record.role == "sender":
            published = await media.publish(request.offer_sdp or "", request.tracks or ())
            requests.require_some(published.tracks)
            results = requests.published_results(published, media.tracks)
            return JoinNegotiation(ice_servers=servers, answer_sdp=published.answer_sdp, tracks=results)
        sources = requests.everything(self._tracks.publishers(member, present))
        if not sources.remote:
            return JoinNegotiation(ice_servers=servers)
        pulled = await media.pull(sources.remote)
        self._tracks.doubt(member, requests.not_there(pulled.tracks))
        return JoinNegotiation(
            ice_servers=servers,
            offer_sdp=pulled.offer_sdp,
            requires_renegotiation=pulled.requires_renegotiation,
            tracks=sources.results(pulled.tracks),
        )

    def _ack(self, ack: type[AckT], member: Membership, room: Room, negotiated: JoinNegotiation, message: str) -> AckT:
        session_id = member.media_session_id or ""
        return ack(
            version=PROTOCOL_VERSION,
            status=200,
            message=message,
            room_id=room.room_id,
            session_id=session_id,
            app_id=self._settings.app_id,
            stun_url=self._settings.stun_url,
            ice_servers=negotiated.ice_servers,
            connection_info=ConnectionInfo(
                room_id=room.room_id,
                role=member.record.role,
                app_id=self._settings.app_id,
                session_id=session_id,
                status="Connected",  # the original service's word for an open media session
                metadata=room.metadata,
            ),
            answer_sdp=negotiated.answer_sdp,
            offer_sdp=negotiated.offer_sdp,
            requires_renegotiation=negotiated.requires_renegotiation,
            participants=describe_all(room.participants),
            tracks=list(negotiated.tracks),
            sequence=room.sequence,
        )
