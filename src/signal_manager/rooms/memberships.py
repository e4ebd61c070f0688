"""Who is in which room: the one place in which memberships begin, change and end.

Three rules keep members in step. All changes of a room in this process happen under its lock, and each is announced
before the lock is released. Every node tells its own members, in the order of `sequence` (`announcements.py`). And from
the change that lets a member in until its ACK is returned nothing awaits, so that the ACK is on its way before any
later event.
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog

from signal_manager.bus.base import Messaging
from signal_manager.errors import ConflictError, NotFoundError, SignalManagerError
from signal_manager.media.base import RemoteTrack
from signal_manager.model import Caller, ClientId, NodeId, Participant, Role, Room, RoomId, SessionId, Track
from signal_manager.protocol.messages import PublishedTrack
from signal_manager.rooms import changes as membership
from signal_manager.rooms.announcements import REMOVED, Announcements
from signal_manager.rooms.background import BackgroundTasks
from signal_manager.rooms.changes import MemberKey
from signal_manager.rooms.events import event, tell
from signal_manager.rooms.ledger import MediaLedger
from signal_manager.rooms.local_room import LocalRoom, Membership
from signal_manager.rooms.member_media import MediaShared, MemberMedia
from signal_manager.rooms.requests import Publisher
from signal_manager.rooms.room_log import Change, Happening, read_change
from signal_manager.storage.base import ClientFields, RoomChange, Storage

__all__ = ["Memberships"]

log = structlog.get_logger(__name__)

# What a member leaves behind is closed at once; this much later (s) the ledger brings up what that did not confirm.
_SECOND_LOOK = 60.0

# Rooms that a stopping process leaves at the same time.
_VACATED_AT_ONCE = 50

# Why a member left when its process stops (docs/protocol.md, ROOM_EVENT).
_RESTARTING = "restarting"
# What a client's record says of one that is in no room.
_NOWHERE: ClientFields = {"room_id": None, "role": None, "tracks": ()}


class Memberships:
    """Keep the memberships of this process, and the rooms' records in step with them.

    Args:
        shared: what members' media need, or None for rooms without media.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        bus: Messaging,
        ledger: MediaLedger,
        shared: MediaShared | None,
        background: BackgroundTasks,
        node_id: NodeId,
        clock: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._bus = bus
        self._ledger = ledger
        self._shared = shared
        self._background = background
        self._node_id = node_id
        self._clock = clock
        self._members: dict[SessionId, Membership] = {}
        # A room is here while somebody holds it: a member, or a change that is under way.
        self._rooms: weakref.WeakValueDictionary[RoomId, LocalRoom] = weakref.WeakValueDictionary()
        self._generations = itertools.count(1)
        self._announcements = Announcements(
            storage=storage,
            bus=bus,
            background=background,
            node_id=node_id,
            on_removed=self._begin_parting,
            on_marked=self._meet_mark,
        )

    def count_participants(self) -> int:
        """Return how many memberships there are in this process."""
        return len(self._members)

    def count_rooms(self) -> int:
        """Return how many rooms have a member in this process."""
        return len({member.room_id for member in self._members.values()})

    def count_media_operations(self) -> int:
        """Return how many operations of members wait for the SFU or for each other."""
        return sum(member.media.pending for member in self._members.values() if member.media is not None)

    def room_of(self, session_id: SessionId) -> RoomId | None:
        """Return the room that a session is in, coming into or leaving."""
        member = self._members.get(session_id)
        return member.room_id if member is not None else None

    def member(self, caller: Caller, room_id: str) -> Membership:
        """Return a session's membership in this room; NotFoundError when there is none."""
        member = self._members.get(caller.session_id)
        if member is None or member.room_id != room_id or not member.is_in:
            raise NotFoundError(f"not in room {room_id}")
        return member

    # -- coming in -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def entering(
        self, caller: Caller, room_id: RoomId, role: Role, metadata: dict[str, Any]
    ) -> AsyncIterator[Membership]:
        """Reserve a session for this room; whoever fails to come in, for whatever reason, leaves nothing behind.

        Raises:
            ConflictError: the session is in a room, or coming into one.
        """
        member = self._reserve(caller, room_id, role, metadata)
        try:
            yield member
        except BaseException:
            if not member.is_in:
                self._begin_parting(member, "left")
            raise
        finally:
            member.entered.set()

    async def room_without_former(self, member: Membership) -> Room | None:
        """Return the room that a client comes into, once no former membership of the same client is in it.

        A client that lost its connection is often back before its old membership is cleaned up; one whose node has
        crashed, before anybody has cleaned up.

        Raises:
            ConflictError: the client is in the room on another connection.
        """
        async with member.local.lock:  # so that nobody is half-way in
            former = member.local.members.get(member.client_id)
            room = await self._storage.get_room(member.room_id)
        if former is not None:
            if former.parting is None:
                raise ConflictError(f"client {member.client_id} is already in room {member.room_id}")
            await self._background.wait_for(former.parting)
        else:
            stale = membership.find_client(room, member.client_id) if room is not None and room.is_active else None
            if stale is None:
                return room
            await self.remove(member.room_id, stale, "replaced")
        return await self._storage.get_room(member.room_id)

    async def let_in(self, member: Membership, enter: Callable[[Participant], Awaitable[Room]]) -> Room:
        """Make a member of somebody for whom everything is ready, and tell the others.

        The caller must not await anything before it returns the welcome, see the module's docstring.

        Args:
            enter: puts the participant into the room's record; what it raises passes through.
        """
        participant = msgspec.structs.replace(member.participant, session_id=member.media_session_id)
        await self._note(member.client_id, room_id=member.room_id, role=participant.role, tracks=())
        async with member.local.lock:
            if member.ended is not None:
                raise NotFoundError(f"not let into room {member.room_id}: {member.ended}")
            if not member.local.members:  # what was known of the room before is of no use
                member.local.room_log, member.local.early = None, []
            room = await enter(participant)
            member.local.members[member.client_id] = member
            member.since = room.sequence
            joined = Change(sequence=room.sequence, event="participant_joined", participant=participant)
            self._announcements.settle(member.local, room, joined)
        if member.ended is not None:  # meanwhile
            self._begin_parting(member, member.ended)
        else:
            if member.media is not None:
                member.media.start()
            self._report_absence(member)
        return room

    def _reserve(self, caller: Caller, room_id: RoomId, role: Role, metadata: dict[str, Any]) -> Membership:
        present = self._members.get(caller.session_id)
        if present is not None:
            raise ConflictError(f"this session is in room {present.room_id} already, expected it to leave that first")
        client_id = caller.identity.client_id
        participant = Participant(
            client_id=client_id,
            role=role,
            metadata=metadata,
            node_id=self._node_id,
            generation=next(self._generations),
            joined_at=self._clock(),
        )
        member = Membership(caller, room_id, self._local(room_id), participant)
        if self._shared is not None:
            member.media = MemberMedia(
                self._shared,
                self._ledger.on_behalf_of(client_id, room_id),
                label=f"{room_id}/{client_id}",  # an SFU of several workers keeps together what has the room in common
                on_sending=lambda tracks: self._publish(member, tracks),
                on_dead=lambda mids: self._unpublish(member, "media lost", mids),
                on_lost=lambda session_id: self._lost_media(member, session_id),
            )
        self._members[caller.session_id] = member
        member.local.present.add(member)
        return member

    # -- going ---------------------------------------------------------------------------------------------------

    def left(self, caller: Caller, reason: str) -> None:
        """Take note that a session has ended; its membership, if any, ends in the background."""
        member = self._members.get(caller.session_id)
        if member is not None:
            self._end_membership(member, reason)

    def _end_membership(self, member: Membership, reason: str) -> None:
        member.ended = member.ended or reason
        if member.is_in:
            self._begin_parting(member, reason)
        elif member.media is not None:
            member.media.close()  # it is still coming in: what it waits for is refused, and that ends it

    def all_left(self, reason: str) -> None:
        """Take note that all sessions of this process have ended."""
        for member in tuple(self._members.values()):
            self.left(member.caller, reason)

    async def part(self, caller: Caller, reason: str) -> None:
        """Take a session out of whatever room it is in or coming into; UnavailableError when that takes too long."""
        member = self._members.get(caller.session_id)
        if member is None:
            return
        self._end_membership(member, reason)
        if member.parting is None:
            await member.entered.wait()
        if member.parting is not None:
            await self._background.wait_for(member.parting)

    async def remove(self, room_id: RoomId, participant: Participant, reason: str) -> None:
        """Take a participant out of a room and tell those who stay; if it is out already, that is well."""
        local = self._local(room_id)
        key = membership.key_of(participant)
        async with local.lock:
            known = local.find(key)
            change = membership.without_participant(key, now=self._clock())
            room = await self._change(local, room_id, change, is_known=known is not None)
            if room is not None:
                local.end_source(participant.session_id)
                participant = known or participant
                left = Change(sequence=room.sequence, event="participant_left", participant=participant, reason=reason)
                self._announcements.settle(local, room, left)
                if reason in {REMOVED, _RESTARTING}:  # nobody who left by itself needs to be told
                    tell(self._bus, participant.client_id, event(room_id, left))

    async def evict(self, room_id: RoomId, client_id: ClientId) -> None:
        """Take a client out of a room because an operator says so, and tell it.

        Raises:
            NotFoundError: it is not in such a room.
            UnavailableError: that takes too long; it goes on.
        """
        room = await self._storage.get_room(room_id)
        participant = membership.find_client(room, client_id) if room is not None and room.is_active else None
        if participant is None:
            raise NotFoundError(f"client {client_id} is not in room {room_id}")
        member = self._local(room_id).members.get(client_id)
        if member is None:  # of another node, or of one that is gone
            await self.remove(room_id, participant, REMOVED)
        else:
            await self._background.wait_for(self._begin_parting(member, REMOVED))

    async def close(self, room_id: RoomId, reason: str) -> None:
        """Close a room with its members in it.

        Raises:
            NotFoundError, InvalidRequestError: there is no such room, or it is closed already.
        """
        local = self._local(room_id)
        async with local.lock:
            room = await self._storage.change_room(room_id, membership.closed(reason, now=self._clock()))
            self._end(local, room)

    async def dissolve(self, room: Room) -> None:
        """Tell the members of a room that storage has closed, and end their memberships."""
        local = self._local(room.room_id)
        async with local.lock:
            self._end(local, room)

    async def vacate(self, reason: str) -> None:
        """Take all members of this process out of their rooms, and tell them.

        A room without members elsewhere is closed, in one step and with one event, rather than emptied one by one.
        """
        rooms = {member.room_id: member.local for member in self._members.values() if member.is_in}
        places = asyncio.Semaphore(_VACATED_AT_ONCE)

        async def vacate(room_id: RoomId, local: LocalRoom) -> None:
            async with places:
                try:
                    await self._vacate(room_id, local, reason)
                except SignalManagerError as error:
                    log.warning("room not vacated", room_id=room_id, reason=error.message)

        await asyncio.gather(*(vacate(room_id, local) for room_id, local in rooms.items()))

    async def _vacate(self, room_id: RoomId, local: LocalRoom, reason: str) -> None:
        here = {member.key for member in local.members.values()}
        present = local.record.participants if local.record is not None else ()
        if all(membership.key_of(participant) in here for participant in present):
            await self.close(room_id, reason)
            return
        for member in tuple(local.members.values()):
            await self._background.wait_for(self._begin_parting(member, reason))

    def _end(self, local: LocalRoom, room: Room) -> None:
        """Tell members that their room is closed, while its lock is held, and end their memberships."""
        closed = Change(sequence=room.sequence, event="room_closed", reason=room.close_reason)
        self._announcements.settle(local, room, closed)
        for member in tuple(local.members.values()):
            self._begin_parting(member, REMOVED)

    def _begin_parting(self, member: Membership, reason: str) -> asyncio.Task[None]:
        """End a membership, in the one way in which all of them end; what is under way already is returned."""
        if member.parting is None:
            del self._members[member.caller.session_id]
            member.local.present.discard(member)
            if member.media is not None:
                member.media.close()
            member.local.end_source(member.media_session_id)
            member.parting = self._background.start(lambda: self._part(member, reason), f"leave {member.room_id}")
        return member.parting

    async def _part(self, member: Membership, reason: str) -> None:
        members = member.local.members
        try:
            await self._background.persist(lambda: self.remove(member.room_id, member.participant, reason))
        finally:
            if members.get(member.client_id) is member:
                del members[member.client_id]
        if member.client_id not in members:
            await self._note(member.client_id, **_NOWHERE)
        session_id = member.media_session_id
        if session_id is not None:
            await self._abandon(session_id)

    # -- away and back ---------------------------------------------------------------------------------------------

    def mark(self, session_id: SessionId, *, is_away: bool) -> None:
        """Take note that nothing comes from a session's client any more, or that something does again."""
        member = self._members.get(session_id)
        if member is not None:
            if member.absence.is_away and not is_away and member.media is not None:
                member.media.check()  # what it published may have died meanwhile
            member.absence.is_away = is_away
            self._report_absence(member)

    def _report_absence(self, member: Membership) -> None:
        """Tell the room whether a member is away, in the background; its coming in, or going, comes first."""
        absence, loop = member.absence, asyncio.get_running_loop()
        if not member.is_in or member.is_reporting or absence.is_settled:
            return
        member.is_reporting = True
        wait = absence.wait(loop.time())
        if wait:
            loop.call_later(wait, self._report_absence_now, member)
        else:
            self._background.start(lambda: self._tell_absence(member), f"absence in {member.room_id}")

    def _meet_mark(self, member: Membership, is_away: bool) -> None:
        """Set right what another node has said of a member of ours, which it took for gone."""
        member.absence.told = is_away
        self._report_absence(member)

    def _report_absence_now(self, member: Membership) -> None:
        member.is_reporting = False
        self._report_absence(member)

    async def _tell_absence(self, member: Membership) -> None:
        is_away = member.absence.tell(asyncio.get_running_loop().time())
        try:
            await self._background.persist(
                lambda: self._set_away(member.local, member.room_id, member.key, is_away=is_away)
            )
        finally:
            self._report_absence_now(member)  # it may have changed meanwhile

    async def _set_away(self, local: LocalRoom, room_id: RoomId, key: MemberKey, *, is_away: bool) -> None:
        async with local.lock:
            known = local.find(key)
            change = membership.with_absence(key, away=is_away, now=self._clock())
            is_news = known is not None and known.away is not is_away
            room = await self._change(local, room_id, change, is_known=is_news)
            participant = membership.find(room, key) if room is not None else None
            if room is None or participant is None or participant.away is not is_away:
                return  # it has left, or others were faster
            event: Happening = "participant_away" if is_away else "participant_back"
            self._announcements.settle(
                local, room, Change(sequence=room.sequence, event=event, participant=participant)
            )

    # -- metadata ------------------------------------------------------------------------------------------------

    async def describe(self, member: Membership, metadata: dict[str, Any]) -> int:
        """Replace a member's metadata, tell the room, and return the room's sequence."""
        return await self._describe(member.local, member.room_id, member.key, metadata)

    async def describe_client(self, room_id: RoomId, client_id: ClientId, metadata: dict[str, Any]) -> None:
        """Replace the metadata of a client on whatever node; NotFoundError when it is not in such a room."""
        room = await self._storage.get_room(room_id)
        participant = membership.find_client(room, client_id) if room is not None and room.is_active else None
        if participant is None:
            raise NotFoundError(f"client {client_id} is not in room {room_id}")
        await self._describe(self._local(room_id), room_id, membership.key_of(participant), metadata)

    async def describe_room(self, room_id: RoomId, metadata: dict[str, Any]) -> int:
        """Replace a room's metadata, tell its members, and return its sequence.

        Raises:
            NotFoundError, InvalidRequestError: there is no such room, or it is closed.
        """
        local = self._local(room_id)
        async with local.lock:
            room = await self._storage.change_room(room_id, membership.with_room_metadata(metadata, now=self._clock()))
            changed = Change(sequence=room.sequence, event="metadata_changed", metadata=room.metadata)
            self._announcements.settle(local, room, changed)
        return room.sequence

    async def _describe(self, local: LocalRoom, room_id: RoomId, key: MemberKey, metadata: dict[str, Any]) -> int:
        async with local.lock:
            room = await self._storage.change_room(room_id, membership.with_metadata(key, metadata, now=self._clock()))
            changed = Change(sequence=room.sequence, event="metadata_changed", participant=membership.find(room, key))
            self._announcements.settle(local, room, changed)
        return room.sequence

    # -- tracks --------------------------------------------------------------------------------------------------

    def publishers(self, member: Membership, present: Iterable[Participant]) -> list[Publisher]:
        """Return who publishes what, with what is not announced yet of those that are here."""
        publishers = []
        for participant in present:
            here = member.local.members.get(participant.client_id)
            tracks = {track.track_name: track for track in participant.tracks}
            announced = frozenset(tracks)
            session_id = participant.session_id
            if here is not None and here.media is not None:
                tracks |= {track.track_name: track for track in here.media.tracks.values()}
                session_id = here.media.session_id
            if session_id is not None:
                publishers.append(Publisher(participant.client_id, session_id, tracks, announced))
        return publishers

    def doubt(self, member: Membership, failed: Iterable[RemoteTrack]) -> None:
        """Take note that a member has failed to pull these tracks; those of other nodes find out by themselves."""
        for other in member.local.members.values():
            if other.media is not None:
                other.media.doubt(failed)

    async def unpublish(self, member: Membership, mids: frozenset[str], reason: str) -> None:
        """Tell the room that a member has closed these tracks; UnavailableError when that takes too long."""

        async def work() -> None:
            await self._background.persist(lambda: self._unpublish(member, reason, mids))

        await self._background.wait_for(self._background.start(work, f"unpublish in {member.room_id}"))

    async def replace_media(
        self, member: Membership, former: SessionId | None, tracks: Sequence[PublishedTrack]
    ) -> None:
        """Tell the room that a member has a new media session, which is about to publish these tracks.

        UnavailableError when that takes too long.
        """
        member.local.end_source(former)
        coming = tuple(
            Track(mid=track.mid, track_name=track.track_name, kind=track.kind, muted=track.muted) for track in tracks
        )

        async def work() -> None:
            await self._background.persist(lambda: self._replace_media(member, coming))
            if former is not None:
                await self._abandon(former)

        await self._background.wait_for(self._background.start(work, f"replace media in {member.room_id}"))

    async def _replace_media(self, member: Membership, coming: tuple[Track, ...]) -> None:
        async with member.local.lock:
            if not member.is_in:
                return
            change = membership.with_media(member.key, member.media_session_id, now=self._clock())
            room = await self._change(member.local, member.room_id, change, is_known=False)
            publisher = membership.find(room, member.key) if room is not None else None
            if room is None or publisher is None:
                return
            self._announcements.settle(
                member.local,
                room,
                Change(sequence=room.sequence, event="media_replaced", participant=publisher, tracks=coming),
            )
        await self._note(member.client_id, tracks=())

    async def _publish(self, member: Membership, tracks: Sequence[Track]) -> None:
        """Announce tracks that can be pulled from now on."""
        media = member.media
        async with member.local.lock:
            if media is None or not member.is_in:
                return
            present = [(track, media.tracks.get(track.mid)) for track in tracks]
            # It may have been muted since it was seen to be sending.
            new = [now for seen, now in present if now is not None and now.track_name == seen.track_name]
            if not new:
                return
            change = membership.with_tracks(member.key, media.session_id, new, now=self._clock())
            room = await self._storage.change_room(member.room_id, change)
            publisher = membership.find(room, member.key)
            published = Change(
                sequence=room.sequence, event="tracks_published", participant=publisher, tracks=tuple(new)
            )
            self._announcements.settle(member.local, room, published)
        await self._note(member.client_id, tracks=publisher.tracks if publisher is not None else ())

    async def mute(self, member: Membership, mids: Collection[str]) -> None:
        """Tell the room which of these tracks are muted now; those that are not announced yet will be announced so.

        UnavailableError when that takes too long.
        """

        async def work() -> None:
            await self._background.persist(lambda: self._mute(member, "tracks_muted", mids, muted=True))
            await self._background.persist(lambda: self._mute(member, "tracks_unmuted", mids, muted=False))

        await self._background.wait_for(self._background.start(work, f"mute in {member.room_id}"))

    async def _mute(self, member: Membership, happening: Happening, mids: Collection[str], *, muted: bool) -> None:
        media = member.media
        async with member.local.lock:
            known = member.local.find(member.key)
            if media is None or known is None or not member.is_in:
                return
            # As it is now: of two requests that overlap, the later one holds.
            now = {mid for mid in mids if mid in media.tracks and media.tracks[mid].muted is muted}
            turned = {track.mid for track in known.tracks if track.mid in now and track.muted is not muted}
            if not turned:
                return
            change = membership.with_muted(member.key, turned, muted=muted, now=self._clock())
            room = await self._change(member.local, member.room_id, change, is_known=True)
            publisher = membership.find(room, member.key) if room is not None else None
            if room is None or publisher is None:
                return
            tracks = tuple(track for track in publisher.tracks if track.mid in turned)
            self._announcements.settle(
                member.local,
                room,
                Change(sequence=room.sequence, event=happening, participant=publisher, tracks=tracks),
            )

    async def _unpublish(self, member: Membership, reason: str, mids: frozenset[str] | None = None) -> None:
        """Announce that these tracks, or all, are gone; those that were never announced are gone without a word."""
        async with member.local.lock:
            known = member.local.find(member.key)
            tracks = known.tracks if known is not None else ()
            gone = [track for track in tracks if mids is None or track.mid in mids]
            if not gone or not member.is_in:
                return
            change = membership.without_tracks(member.key, {track.mid for track in gone}, now=self._clock())
            room = await self._change(member.local, member.room_id, change, is_known=True)
            if room is None:
                return
            publisher = membership.find(room, member.key)
            unpublished = Change(
                sequence=room.sequence,
                event="tracks_unpublished",
                participant=publisher,
                tracks=tuple(gone),
                reason=reason,
            )
            self._announcements.settle(member.local, room, unpublished)
        await self._note(member.client_id, tracks=publisher.tracks if publisher is not None else ())

    def _lost_media(self, member: Membership, session_id: SessionId) -> None:
        """See to what a media session leaves behind that was given up while its member stays."""
        member.local.end_source(session_id)

        async def clean_up() -> None:
            if member.media_session_id == session_id:  # else the client has replaced it already
                await self._background.persist(lambda: self._unpublish(member, "media session lost"))
            await self._abandon(session_id)

        self._background.start(clean_up, f"clean up media session {session_id}")

    async def _abandon(self, session_id: SessionId) -> None:
        """Let the ledger bring up what is not confirmed to be closed by then."""
        await self._background.persist(lambda: self._ledger.abandon(session_id, at=self._clock() + _SECOND_LOOK))

    # -- records -------------------------------------------------------------------------------------------------

    async def _note(self, client_id: ClientId, **fields: Any) -> None:
        """Put on record where a registered client is; that record is information, on which nothing depends."""
        try:
            await self._storage.update_client(client_id, **fields)
        except NotFoundError:
            pass  # it never registered
        except SignalManagerError as error:
            log.warning("client record not updated", client_id=client_id, reason=error.message)

    async def _change(self, local: LocalRoom, room_id: RoomId, change: RoomChange, *, is_known: bool) -> Room | None:
        """Apply a change; None when the room is so already and nobody is to be told.

        If the record has a change that this process does not know of (`is_known`), an earlier attempt of ours succeeded
        although it reported an error: then the room as it is now is what members have to be told of.
        """
        try:
            return await self._storage.change_room(room_id, change)
        except NotFoundError:
            room = await self._storage.get_room(room_id) if is_known else None
            if room is None or local.record is None or not room.is_active or room.sequence <= local.record.sequence:
                return None
            return room

    def _local(self, room_id: RoomId) -> LocalRoom:
        local = self._rooms.get(room_id)
        if local is None:
            local = self._rooms[room_id] = LocalRoom()
        return local

    # -- what other nodes say ------------------------------------------------------------------------------------

    def hear(self, room_id: RoomId, news: bytes) -> None:
        """Take note of what another node has announced of a room."""
        local = self._rooms.get(room_id)
        change = read_change(news) if local is not None else None
        if local is None or change is None:
            return  # all members here have left meanwhile
        self._announcements.hear(local, room_id, change)

    def miss(self, node_id: NodeId) -> None:
        """Let rooms know that the members of a node are away that is not heard of; it has left or says that it is back.

        Of the other nodes in a room the first one by name does so, since each would.
        """
        for room_id, local in tuple(self._rooms.items()):
            room = local.record
            nodes = {each.node_id for each in room.participants if each.node_id} if room is not None else set()
            if room is None or min(nodes - {node_id}, default=None) != self._node_id:
                continue
            for participant in room.participants:
                if participant.node_id == node_id and not participant.away:
                    self._note_missed(local, room_id, membership.key_of(participant))

    def _note_missed(self, local: LocalRoom, room_id: RoomId, key: MemberKey) -> None:
        async def work() -> None:
            await self._background.persist(lambda: self._set_away(local, room_id, key, is_away=True))

        self._background.start(work, f"member of a node that is missed in {room_id}")

    def reunite(self, node_id: NodeId | None) -> None:
        """Look what was missed in rooms that are shared with this node, or with any other."""
        for member in tuple(self._members.values()):
            room = member.local.record
            nodes = {each.node_id for each in room.participants} - {self._node_id} if room is not None else set()
            if nodes if node_id is None else node_id in nodes:
                self._announcements.catch_up(member.local, member.room_id, after=0.0)
