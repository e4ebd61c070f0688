"""Published tracks: announce what can be pulled, what is muted and what has ended, and find what others publish."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from signal_manager.background import BackgroundTasks
from signal_manager.media.base import RemoteTrack
from signal_manager.model import MemberRecord, SessionId, Track
from signal_manager.protocol.messages import PublishedTrack
from signal_manager.rooms import changes
from signal_manager.rooms.announcements import Announcements
from signal_manager.rooms.local_room import Membership
from signal_manager.rooms.persistence import persist, wait_for
from signal_manager.rooms.requests import Publisher
from signal_manager.rooms.room_log import Change, Happening
from signal_manager.rooms.room_records import RoomRecords

__all__ = ["PublishedTracks"]


class PublishedTracks:
    """Keep the tracks in a room's record in step with the members' media sessions."""

    def __init__(self, *, records: RoomRecords, announcements: Announcements, background: BackgroundTasks) -> None:
        self._records = records
        self._announcements = announcements
        self._background = background

    def publishers(self, member: Membership, present: Iterable[MemberRecord]) -> list[Publisher]:
        """Return the publishers with their tracks, among them tracks of this process that wait to be announced."""
        publishers = []
        for record in present:
            here = member.local.members.get(record.client_id)
            tracks = {track.track_name: track for track in record.tracks}
            announced = frozenset(tracks)
            session_id = record.session_id
            if here is not None and here.media is not None:
                tracks |= {track.track_name: track for track in here.media.tracks.values()}
                session_id = here.media.session_id
            if session_id is not None:
                publishers.append(Publisher(record.client_id, session_id, tracks, announced))
        return publishers

    def doubt(self, member: Membership, failed: Collection[RemoteTrack]) -> None:
        """Note that a member has failed to pull these tracks. Other nodes check their own tracks themselves."""
        for other in member.local.members.values():
            if other.media is not None:
                other.media.health.doubt(failed)

    # -- requests ------------------------------------------------------------------------------------------------

    async def unpublish(self, member: Membership, mids: frozenset[str], reason: str) -> None:
        """Tell the room that a member has closed these tracks; UnavailableError when that takes too long."""

        async def work() -> None:
            await persist(lambda: self.announce_unpublished(member, reason, mids))

        await wait_for(self._background.start(work, f"unpublish in {member.room_id}"))

    async def mute(self, member: Membership, mids: Collection[str]) -> None:
        """Tell the room which of these tracks are muted; a track that is announced later carries its mute state.

        UnavailableError when that takes too long.
        """

        async def work() -> None:
            await persist(lambda: self._announce_muted(member, "tracks_muted", mids, muted=True))
            await persist(lambda: self._announce_muted(member, "tracks_unmuted", mids, muted=False))

        await wait_for(self._background.start(work, f"mute in {member.room_id}"))

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
            await persist(lambda: self._announce_replaced(member, coming))
            if former is not None:
                await self._records.abandon_media(former)

        await wait_for(self._background.start(work, f"replace media in {member.room_id}"))

    # -- what a media session reports ----------------------------------------------------------------------------

    async def announce_published(self, member: Membership, tracks: Sequence[Track]) -> None:
        """Announce tracks that can be pulled from now on."""
        media = member.media
        async with member.local.lock:
            if media is None or not member.is_joined:
                return
            present = [(track, media.tracks.get(track.mid)) for track in tracks]
            # The member may have muted a track since the SFU reported that it sends.
            new = [now for seen, now in present if now is not None and now.track_name == seen.track_name]
            if not new:
                return
            change = changes.with_tracks(member.key, media.session_id, new, now=self._records.clock())
            room = await self._records.change(member.room_id, change)
            publisher = changes.find(room, member.key)
            published = Change(
                sequence=room.sequence, event="tracks_published", participant=publisher, tracks=tuple(new)
            )
            self._announcements.settle(member.local, room, published)
        await self._records.note_client(member.client_id, tracks=publisher.tracks if publisher is not None else ())

    async def announce_unpublished(self, member: Membership, reason: str, mids: frozenset[str] | None = None) -> None:
        """Announce that these tracks, or all, have ended. A track that was never announced ends silently."""
        async with member.local.lock:
            known = member.local.find(member.key)
            tracks = known.tracks if known is not None else ()
            gone = [track for track in tracks if mids is None or track.mid in mids]
            if not gone or not member.is_joined:
                return
            change = changes.without_tracks(member.key, {track.mid for track in gone}, now=self._records.clock())
            room = await self._records.repair(member.local, member.room_id, change, is_known=True)
            if room is None:
                return
            publisher = changes.find(room, member.key)
            unpublished = Change(
                sequence=room.sequence,
                event="tracks_unpublished",
                participant=publisher,
                tracks=tuple(gone),
                reason=reason,
            )
            self._announcements.settle(member.local, room, unpublished)
        await self._records.note_client(member.client_id, tracks=publisher.tracks if publisher is not None else ())

    def media_lost(self, member: Membership, session_id: SessionId) -> None:
        """Clean up after a lost media session whose member stays."""
        member.local.end_source(session_id)

        async def clean_up() -> None:
            if member.media_session_id == session_id:  # otherwise the client has replaced the session already
                await persist(lambda: self.announce_unpublished(member, "media session lost"))
            await self._records.abandon_media(session_id)

        self._background.start(clean_up, f"clean up media session {session_id}")

    async def _announce_replaced(self, member: Membership, coming: tuple[Track, ...]) -> None:
        async with member.local.lock:
            if not member.is_joined:
                return
            change = changes.with_media(member.key, member.media_session_id, now=self._records.clock())
            room = await self._records.repair(member.local, member.room_id, change, is_known=False)
            publisher = changes.find(room, member.key) if room is not None else None
            if room is None or publisher is None:
                return
            self._announcements.settle(
                member.local,
                room,
                Change(sequence=room.sequence, event="media_replaced", participant=publisher, tracks=coming),
            )
        await self._records.note_client(member.client_id, tracks=())

    async def _announce_muted(
        self, member: Membership, happening: Happening, mids: Collection[str], *, muted: bool
    ) -> None:
        media = member.media
        async with member.local.lock:
            known = member.local.find(member.key)
            if media is None or known is None or not member.is_joined:
                return
            # The state now counts: of two requests that overlap, the later one holds.
            now = {mid for mid in mids if mid in media.tracks and media.tracks[mid].muted is muted}
            turned = {track.mid for track in known.tracks if track.mid in now and track.muted is not muted}
            if not turned:
                return
            change = changes.with_muted(member.key, turned, muted=muted, now=self._records.clock())
            room = await self._records.repair(member.local, member.room_id, change, is_known=True)
            publisher = changes.find(room, member.key) if room is not None else None
            if room is None or publisher is None:
                return
            tracks = tuple(track for track in publisher.tracks if track.mid in turned)
            self._announcements.settle(
                member.local,
                room,
                Change(sequence=room.sequence, event=happening, participant=publisher, tracks=tracks),
            )
