"""Everything a client can ask about rooms: who may, what is checked, and what the answer says.

It stands on the interfaces of storage, bus and media alone (docs/architecture.md, "Rooms and media").
`gateway/dispatcher.py` brings it requests and the news that a connection has ended; `memberships.py` keeps the
memberships.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import msgspec
import structlog

from signal_manager.bus.base import Messaging
from signal_manager.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
)
from signal_manager.media.base import WHOLE_SESSION, MediaBackend, MediaSessionId
from signal_manager.media.closing import Closer, Closings
from signal_manager.media.negotiation import Limits
from signal_manager.model import Caller, ClientId, NodeId, Participant, Role, Room, RoomId, SessionId
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.messages import (
    MAX_METADATA,
    PROTOCOL_VERSION,
    ConnectionInfo,
    DataChannelsNew,
    DataChannelsNewAck,
    IceServers,
    IceServersAck,
    MetadataUpdate,
    MetadataUpdateAck,
    Renegotiate,
    RenegotiateAck,
    RoomAck,
    RoomCreate,
    RoomCreateAck,
    RoomEntry,
    RoomJoin,
    RoomJoinAck,
    RoomLeave,
    RoomLeaveAck,
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
from signal_manager.rooms import changes as membership
from signal_manager.rooms import requests
from signal_manager.rooms.background import BackgroundTasks
from signal_manager.rooms.events import describe_all
from signal_manager.rooms.ice_servers import IceServerBook, TurnServers
from signal_manager.rooms.ledger import MediaLedger
from signal_manager.rooms.local_room import Membership
from signal_manager.rooms.member_media import MediaShared, MemberMedia, Watching
from signal_manager.rooms.memberships import Memberships
from signal_manager.rooms.requests import Entered
from signal_manager.storage.base import Expired, Storage

__all__ = ["RoomService", "RoomSettings"]

log = structlog.get_logger(__name__)

# How long (s) a stopping service waits, at most, for members to be taken out of their rooms and for their media to be
# closed.
STOP_TIMEOUT = 5.0
# How long (s) due media is left to one process before another is given it.
_CLAIM = 120.0

_CREATED = "Room created successfully"

AckT = TypeVar("AckT", bound=RoomAck)


class RoomSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What all rooms of a service share.

    `app_id` and `stun_url` are told to members; `turn` are the operator's own TURN servers; `max_participants` is that
    of a room that does not say, and no room may have more; `limits` are those of each media session's negotiations;
    `stop_timeout` is how long (s) a stopping service waits for members to be taken out of their rooms and for their
    media to be closed.
    """

    app_id: str = ""
    stun_url: str = ""
    turn: TurnServers = TurnServers()
    max_participants: int = 100
    limits: Limits = Limits()
    stop_timeout: float = STOP_TIMEOUT
    watching: Watching = Watching()


class RoomService:
    """Answer everything about rooms; an async context manager, which ends all memberships on exit.

    Every request raises besides what it says: `UnavailableError` when storage fails, what `Negotiator`'s methods raise
    where the SFU is involved, and `NotFoundError` where it names a room that the caller is not in.

    Args:
        storage: keeps rooms, clients' whereabouts, and the ledger.
        bus: reaches members.
        media: the SFU, or None for rooms without media.
        metrics: counts what becomes of media sessions.
        node_id: this process, in records that others clean up when it dies.
        closings: remembers what is to be closed at the SFU, and when to try again.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        bus: Messaging,
        media: MediaBackend | None,
        metrics: Metrics,
        node_id: NodeId,
        settings: RoomSettings | None = None,
        closings: Closings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._media = media
        self._settings = settings or RoomSettings()
        self._clock = clock
        self._background = BackgroundTasks()
        self._questions = BackgroundTasks()  # not waited for when the service stops
        self._ledger = MediaLedger(storage, node_id=node_id, clock=clock)
        self._ice_servers = IceServerBook(
            media,
            own=self._settings.turn,
            stun_url=self._settings.stun_url,
            metrics=metrics,
            start=self._questions.start,
            clock=clock,
        )
        self._closer: Closer | None = None
        shared: MediaShared | None = None
        if media is not None:
            self._closer = Closer(media, ledger=self._ledger, metrics=metrics, closings=closings)
            shared = MediaShared(
                backend=media,
                closer=self._closer,
                metrics=metrics,
                limits=self._settings.limits,
                watching=self._settings.watching,
                start=self._background.start,
            )
        self._memberships = Memberships(
            storage=storage,
            bus=bus,
            ledger=self._ledger,
            shared=shared,
            background=self._background,
            node_id=node_id,
            clock=clock,
        )
        bus.listen(on_news=self._memberships.hear, on_reunion=self._memberships.reunite, on_gone=self._memberships.miss)
        metrics.rooms.read_from(self._memberships.count_rooms)
        metrics.participants.read_from(self._memberships.count_participants)
        metrics.media_operations_pending.read_from(self._memberships.count_media_operations)

    async def __aenter__(self) -> Self:
        if self._closer is not None:
            await self._closer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._memberships.all_left("service stopped")
        try:
            async with asyncio.timeout(min(STOP_TIMEOUT, self._settings.stop_timeout)):
                await self._background.done()
                if self._closer is not None:
                    await self._closer.attended()
        except TimeoutError:
            log.warning("rooms not cleaned up in time; the ledger has the rest")
        await self._background.stop()
        await self._questions.stop()
        if self._closer is not None:
            await self._closer.__aexit__(kind, error, traceback)

    async def idle(self) -> None:
        """Wait until nothing is left to do in the background; the caller sets the time limit."""
        await self._background.done()
        if self._closer is not None:
            await self._closer.drained()

    # -- coming and going ----------------------------------------------------------------------------------------

    async def create(self, caller: Caller, request: RoomCreate) -> RoomCreateAck:
        """Open a room with its first member.

        Raises:
            InvalidRequestError, ForbiddenError, TooLargeError: the request is wrong or not allowed.
            ConflictError: the room is there already, or the session is in a room.
        """
        room_id = RoomId(request.room_id or str(uuid4()))
        role = self._check_entry(caller, room_id, request)
        self._limit_of(request)

        async def open_room(participant: Participant) -> Room:
            return await self._storage.create_room(self._opened(room_id, participant, request))

        async with (
            self._memberships.entering(caller, room_id, role, request.metadata or {}) as member,
            member.local.creation,
        ):
            room = await self._storage.get_room(room_id)
            if room is not None and room.is_active:
                raise ConflictError(f"room {room_id} is there already")
            entered = await self._negotiate_entry(member, request, ())
            room = await self._memberships.let_in(member, open_room)
            return self._welcome(RoomCreateAck, member, room, entered, _CREATED)

    async def join(self, caller: Caller, request: RoomJoin) -> RoomJoinAck:
        """Become a member of a room, which is made if that is asked for and it is not there.

        Raises:
            InvalidRequestError, ForbiddenError, TooLargeError: the request is wrong or not allowed, the room is closed.
            NotFoundError: there is no such room.
            ConflictError: the client is in it already, the session is in another, or the room is full.
        """
        room_id = RoomId(request.room_id)
        role = self._check_entry(caller, room_id, request)
        self._limit_of(request)
        async with self._memberships.entering(caller, room_id, role, request.metadata or {}) as member:
            room = await self._memberships.room_without_former(member)
            if request.create_if_missing and (room is None or not room.is_active):
                # One makes the room; the others wait for it rather than negotiate in vain.
                async with member.local.creation:
                    room = await self._storage.get_room(room_id)
                    if room is None or not room.is_active:
                        return await self._come_in(member, request, None)
            if room is None:
                raise NotFoundError(f"no such room: {room_id}")
            membership.check_entry(room, caller.identity.client_id, limit=self._settings.max_participants)
            return await self._come_in(member, request, room)

    async def _come_in(self, member: Membership, request: RoomJoin, room: Room | None) -> RoomJoinAck:
        """Join the room, or make it where there is none."""
        present = () if room is None else room.participants
        entered = await self._negotiate_entry(member, request, present)
        is_there = room is not None
        created = False

        async def enter(participant: Participant) -> Room:
            # Meanwhile others may have made the room, or closed it: what was seen of it is what is tried first.
            nonlocal is_there, created
            limit = self._settings.max_participants
            while True:
                try:
                    if is_there:
                        change = membership.with_participant(participant, limit=limit, now=self._clock())
                        return await self._storage.change_room(member.room_id, change)
                    opened = self._opened(member.room_id, participant, request)
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

        room = await self._memberships.let_in(member, enter)
        if not created:
            return self._welcome(RoomJoinAck, member, room, entered, "Joined room successfully")
        ack = self._welcome(RoomJoinAck, member, room, entered, _CREATED)
        return msgspec.structs.replace(ack, created=True)

    async def leave(self, caller: Caller, request: RoomLeave) -> RoomLeaveAck:
        """Leave a room, or come no further into it: the request to come in that is under way gets a 404."""
        if self._memberships.room_of(caller.session_id) != request.room_id:
            raise NotFoundError(f"not in room {request.room_id}")
        await self._memberships.part(caller, request.reason or "left")
        return RoomLeaveAck(
            version=PROTOCOL_VERSION,
            status=200,
            message="Left room successfully",
            room_id=request.room_id,
            client_id=caller.identity.client_id,
        )

    async def part(self, caller: Caller) -> None:
        """Take a session out of whatever room it is in, for UNREGISTER."""
        await self._memberships.part(caller, "left")

    def left(self, caller: Caller, reason: str = "connection lost") -> None:
        """Take note that a session has ended; its membership, if any, ends in the background.

        May be called again, and must be when a request of the session was answered only after its end.
        """
        self._memberships.left(caller, reason)

    def mark(self, session_id: SessionId, *, is_away: bool) -> None:
        """Take note that nothing comes from a session's client any more, or that something does again.

        The other members of its room, if it is in one, are told so.
        """
        self._memberships.mark(session_id, is_away=is_away)

    async def restart(self) -> None:
        """Take all members of this process out of their rooms, since it is about to stop, and tell them why."""
        await self._memberships.vacate("restarting")

    # -- what members ask for ------------------------------------------------------------------------------------

    async def state(self, caller: Caller, request: RoomState) -> RoomStateAck:
        """Return the room as its members have been told of it."""
        room = self._memberships.member(caller, request.room_id).room
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
        """Replace a member's own metadata, or with the grant `admin` the room's, and tell everybody."""
        member = self._memberships.member(caller, request.room_id)
        _check_metadata(request.metadata)
        if request.scope == "participant":
            return MetadataUpdateAck(sequence=await self._memberships.describe(member, request.metadata))
        if not caller.identity.grants.admin:
            raise ForbiddenError("the token does not allow to change the room's metadata, expected the grant admin")
        return MetadataUpdateAck(sequence=await self._memberships.describe_room(member.room_id, request.metadata))

    async def change_tracks(self, caller: Caller, request: TracksNew) -> TracksNewAck:
        """Publish tracks with an offer, or pull tracks without one."""
        member, media = self._media_of(caller, request.room_id)
        if request.offer_sdp is not None:
            self._check_may_publish(caller)
            published = await media.publish(request.offer_sdp, requests.to_publish(request.tracks))
            results = requests.published_results(published, media.tracks)
            return TracksNewAck(tracks=results, answer_sdp=published.answer_sdp)
        self._check_may_subscribe(caller)
        sources = requests.to_pull(request.tracks, self._memberships.publishers(member, member.room.participants))
        if not sources.remote:
            return TracksNewAck(tracks=sources.results(()))
        pulled = await media.pull(sources.remote)
        self._memberships.doubt(member, requests.not_there(pulled.tracks))
        return TracksNewAck(
            tracks=sources.results(pulled.tracks),
            offer_sdp=pulled.offer_sdp,
            requires_renegotiation=pulled.requires_renegotiation,
        )

    async def renegotiate(self, caller: Caller, request: Renegotiate) -> RenegotiateAck:
        """Pass on the answer to the SFU's last offer to this member, or replace its media session."""
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
        """Begin a new media session behind the same membership, for a peer connection that has lost its network."""
        if request.tracks is None:
            raise InvalidRequestError("answer_sdp is missing, expected it, or tracks for a new media session")
        if bool(request.tracks) is not (request.offer_sdp is not None):
            raise InvalidRequestError("expected offer_sdp with the tracks that it publishes, or neither")
        requests.check_distinct(request.tracks)
        if request.tracks:
            self._check_may_publish(caller)  # by its present token; the member may have come in with another
        former = await media.reopen()
        await self._memberships.replace_media(member, former, request.tracks)
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
        """Stop tracks that this member publishes or pulls, and tell the others of the former."""
        member, media = self._media_of(caller, request.room_id)
        if not request.tracks:
            raise InvalidRequestError("tracks is empty, expected at least one")
        mids = [track.mid for track in request.tracks]
        published = frozenset(mid for mid in mids if mid in media.tracks)
        closed = await media.close_tracks(mids, offer_sdp=request.offer_sdp)
        gone = published - media.tracks.keys()
        if gone:
            await self._memberships.unpublish(member, gone, request.reason or "closed")
        return TracksCloseAck(tracks=requests.closed_results(closed), answer_sdp=closed.answer_sdp)

    async def mute_tracks(self, caller: Caller, request: TracksMute) -> TracksMuteAck:
        """Note which tracks of this member are muted, and tell the others."""
        member, media = self._media_of(caller, request.room_id)
        if not request.tracks:
            raise InvalidRequestError("tracks is empty, expected at least one")
        results = requests.muted_results(request.tracks, media.tracks.keys())
        media.mute({track.mid: track.muted for track in request.tracks})
        await self._memberships.mute(member, {track.mid for track in request.tracks})
        return TracksMuteAck(tracks=results)

    async def update_tracks(self, caller: Caller, request: TracksUpdate) -> TracksUpdateAck:
        """Switch layer or source of tracks that this member pulls."""
        member, media = self._media_of(caller, request.room_id)
        self._check_may_subscribe(caller)
        wanted = requests.to_update(request.tracks, self._memberships.publishers(member, member.room.participants))
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
            self._check_may_publish(caller)
        if "remote" in locations:
            self._check_may_subscribe(caller)
        publishers = self._memberships.publishers(member, member.room.participants)
        wanted = requests.to_channels(request.data_channels, publishers)
        opened = await media.open_channels(wanted.channels) if wanted.channels else ()
        return DataChannelsNewAck(data_channels=wanted.results(opened))

    async def ice_servers(self, caller: Caller, request: IceServers) -> IceServersAck:
        """Return STUN servers and short-lived TURN servers, to whoever is signed in."""
        found = await self._ice_servers.servers_for(caller.identity.client_id)
        expires_at = None if found.expires_at is None else int(found.expires_at * 1000)
        return IceServersAck(ice_servers=requests.to_ice_servers(found), expires_at=expires_at)

    def others(self, caller: Caller, room_id: str) -> list[ClientId]:
        """Return the other members of a room, for a SIGNAL_MESSAGE to it."""
        own = caller.identity.client_id
        participants = self._memberships.member(caller, room_id).room.participants
        return [participant.client_id for participant in participants if participant.client_id != own]

    # -- work that the housekeeping asks for at intervals
    # -----------------------------------------------------------------

    async def close_due_media(self, now: float) -> int:
        """Have media closed that the ledger says is due, and return how many entries that are."""
        if self._closer is None:
            return 0
        entries = await self._storage.claim_media(now=now, until=now + _CLAIM)
        for entry in entries:
            session_id = MediaSessionId(entry.session_id)
            if entry.mid is None or entry.mid == WHOLE_SESSION:
                self._closer.sweep(session_id)
            else:
                self._closer.close(session_id, [entry.mid])
        return len(entries)

    async def clean_up_after(self, node_id: NodeId) -> None:
        """Take a node that has died out of the rooms' records, and let what it left at the SFU be closed."""
        after: str | None = None
        while True:
            rooms = await self._storage.list_rooms(node_id=node_id, after=after)
            for room in rooms.items:
                for participant in room.participants:
                    if participant.node_id == node_id:
                        await self._memberships.remove(room.room_id, participant, "connection lost")
            if rooms.next is None:
                break
            after = rooms.next
        await self._ledger.abandon_node(node_id, at=self._clock())

    async def expire(self, now: float) -> Expired:
        """Do as `Storage.expire`, and tell the members of rooms that are closed by that."""
        expired = await self._storage.expire(now=now, keep_closed_for=membership.CLOSED_ROOM_KEPT)
        for room in expired.closed_rooms:
            await self._memberships.dissolve(room)
        return expired

    # -- what operators see and do -----------------------------------------------------------------------------

    def room_of(self, session_id: SessionId) -> RoomId | None:
        """Return the room that a session is in, or None."""
        return self._memberships.room_of(session_id)

    async def evict(self, room_id: RoomId, client_id: ClientId) -> None:
        """Take a client out of a room; NotFoundError when it is not in one of that id."""
        await self._memberships.evict(room_id, client_id)

    async def close(self, room_id: RoomId, reason: str) -> None:
        """Close a room with its members in it; NotFoundError or InvalidRequestError when there is none to close."""
        await self._memberships.close(room_id, reason)

    async def describe(self, room_id: RoomId, client_id: ClientId | None, metadata: dict[str, Any]) -> None:
        """Replace the metadata of a room, or of a client in it.

        Raises:
            NotFoundError, InvalidRequestError: there is no such room or client in it, or the room is closed.
            TooLargeError: it is more than a member may say.
        """
        _check_metadata(metadata)
        if client_id is None:
            await self._memberships.describe_room(room_id, metadata)
        else:
            await self._memberships.describe_client(room_id, client_id, metadata)

    # -- what these have in common -------------------------------------------------------------------------------

    def _limit_of(self, request: RoomCreate | RoomJoin) -> int:
        """Return how many may be in a room that this request makes; InvalidRequestError when it asks for too many."""
        limit = request.max_participants or self._settings.max_participants
        if limit > self._settings.max_participants:
            raise InvalidRequestError(
                f"max_participants is {limit}, expected at most {self._settings.max_participants}"
            )
        return limit

    def _opened(self, room_id: RoomId, participant: Participant, request: RoomCreate | RoomJoin) -> Room:
        """Return the room that a request makes, with its first member."""
        return membership.opened(
            room_id,
            participant,
            app_id=self._settings.app_id,
            metadata=request.metadata or {},
            max_participants=self._limit_of(request),
            now=self._clock(),
        )

    def _check_entry(self, caller: Caller, room_id: RoomId, request: RoomEntry) -> Role:
        """Refuse what is wrong with a request whatever the room is like, and return the role asked for."""
        role = requests.role_of(request.role)
        requests.check_distinct(request.tracks or ())
        grants = caller.identity.grants
        if not grants.may_enter(room_id):
            raise ForbiddenError(f"the token does not allow room {room_id}")
        if grants.roles is not None and role not in grants.roles:
            raise ForbiddenError(f"the token does not allow the role of a {role}")
        if role == "sender":
            self._check_may_publish(caller)
            if self._media is not None and not request.offer_sdp:
                raise InvalidRequestError("offer_sdp is missing, expected an offer from a sender")
        else:
            self._check_may_subscribe(caller)
        _check_metadata(request.metadata or {})
        return role

    def _check_may_publish(self, caller: Caller) -> None:
        grants = caller.identity.grants
        if not grants.publish or (grants.roles is not None and "sender" not in grants.roles):
            raise ForbiddenError("the token does not allow to publish")

    def _check_may_subscribe(self, caller: Caller) -> None:
        if not caller.identity.grants.subscribe:
            raise ForbiddenError("the token does not allow to subscribe")

    def _media_of(self, caller: Caller, room_id: str) -> tuple[Membership, MemberMedia]:
        member = self._memberships.member(caller, room_id)
        if member.media is None:
            raise InvalidRequestError("this service has no media backend")
        return member, member.media

    async def _negotiate_entry(self, member: Membership, request: RoomEntry, present: Iterable[Participant]) -> Entered:
        """Do for a new member what it needs the SFU for, before anybody is told that it comes."""
        media = member.media
        asking = self._ice_servers.servers_for(member.client_id)
        if media is None:
            return Entered(ice_servers=requests.to_ice_servers(await asking))
        found, _ = await asyncio.gather(asking, media.open())
        servers = requests.to_ice_servers(found)
        if member.participant.role == "sender":
            published = await media.publish(request.offer_sdp or "", request.tracks or ())
            requests.require_some(published.tracks)
            results = requests.published_results(published, media.tracks)
            return Entered(ice_servers=servers, answer_sdp=published.answer_sdp, tracks=results)
        sources = requests.everything(self._memberships.publishers(member, present))
        if not sources.remote:
            return Entered(ice_servers=servers)
        pulled = await media.pull(sources.remote)
        self._memberships.doubt(member, requests.not_there(pulled.tracks))
        return Entered(
            ice_servers=servers,
            offer_sdp=pulled.offer_sdp,
            requires_renegotiation=pulled.requires_renegotiation,
            tracks=sources.results(pulled.tracks),
        )

    def _welcome(self, ack: type[AckT], member: Membership, room: Room, entered: Entered, message: str) -> AckT:
        session_id = member.media_session_id or ""
        return ack(
            version=PROTOCOL_VERSION,
            status=200,
            message=message,
            room_id=room.room_id,
            session_id=session_id,
            app_id=self._settings.app_id,
            stun_url=self._settings.stun_url,
            ice_servers=entered.ice_servers,
            connection_info=ConnectionInfo(
                room_id=room.room_id,
                role=member.participant.role,
                app_id=self._settings.app_id,
                session_id=session_id,
                status="Connected",  # the original service's word for a media session that is there
                metadata=room.metadata,
            ),
            answer_sdp=entered.answer_sdp,
            offer_sdp=entered.offer_sdp,
            requires_renegotiation=entered.requires_renegotiation,
            participants=describe_all(room.participants),
            tracks=list(entered.tracks),
            sequence=room.sequence,
        )


def _check_metadata(metadata: dict[str, Any]) -> None:
    size = len(msgspec.json.encode(metadata))
    if size > MAX_METADATA:
        raise TooLargeError(f"metadata is {size} bytes of JSON, expected at most {MAX_METADATA}")
