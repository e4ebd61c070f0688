"""The next negotiation of a room, and the meaning of its result.

`room_membership.py` runs one negotiation at a time. This module decides their order, and how often a track is tried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from signal_manager.client.descriptions import UNDECODABLE
from signal_manager.client.members import Members, PulledTrack
from signal_manager.client.publications import Publication, Publications, error_of
from signal_manager.client.room_events import RoomHappening, TrackFailed
from signal_manager.client.room_tasks import Job
from signal_manager.errors import InvalidRequestError, MediaBackendError, SignalManagerError
from signal_manager.protocol.messages import MAX_ITEMS, TrackResult

if TYPE_CHECKING:
    from signal_manager.client.media import MediaSession

__all__ = ["Entry", "Negotiations", "is_final"]

# The number of attempts with one track.
MAX_ATTEMPTS = 3

# The service or the SFU has lost the media session, or never had it ready: only a new one helps.
_LOST_CODES = frozenset({408, 409, 410, 425, 503})

_NO_MEDIA = "the service has no media backend; signal the other directly"

Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class Entry:
    """One membership, from joining to the loss of its media session or connection."""

    media: MediaSession | None  # None: the service has no media backend
    offer: tuple[str, list[TrackResult]] | None  # the SFU's, which came with the ACK, until it is answered
    stale: list[str] = field(default_factory=list)  # mids that are received and unwanted now
    is_present: bool = True  # until it is lost or left
    is_lost: bool = False  # the media session is lost, not the membership


class Negotiations:
    """Decide and run the negotiations of one room.

    Args:
        on_lost: called with a membership whose media session is useless now, and the error.
        emit: called with an event for the application.
        pause: waits before the next attempt; the end of the room ends the wait.
    """

    def __init__(
        self,
        members: Members,
        publications: Publications,
        *,
        on_lost: Callable[[Entry, Exception], None],
        emit: Callable[[RoomHappening], None],
        pause: Callable[[], Awaitable[None]],
    ) -> None:
        self._members = members
        self._publications = publications
        self._on_lost = on_lost
        self._emit = emit
        self._pause = pause

    def next(self, entry: Entry) -> Job | None:
        """Return the next job in this membership, or None."""
        publications = self._publications
        if abandoned := publications.abandoned:
            return lambda: self._forget(abandoned, None)
        fresh = publications.fresh
        if entry.media is None:
            return (lambda: self._forget(fresh, InvalidRequestError(_NO_MEDIA))) if fresh else None
        return self._next_with(entry, entry.media, fresh)

    def _next_with(self, entry: Entry, media: MediaSession, fresh: list[Publication]) -> Job | None:
        if entry.offer is not None:
            sdp, tracks = entry.offer
            return lambda: self._answer_welcome(entry, media, sdp, tracks)
        if leaving := self._publications.leaving:
            return lambda: self._unpublish(entry, media, leaving)
        if fresh:
            return lambda: self._publish(entry, media, fresh)
        if unsaid := self._publications.unsaid:
            return lambda: self._mute(entry, media, unsaid)
        if entry.stale:
            return lambda: self._drop(entry, media)
        wanted = self._members.wanted[:MAX_ITEMS]
        return (lambda: self._pull(entry, media, wanted)) if wanted else None

    async def _forget(self, publications: list[Publication], error: Exception | None) -> None:
        for publication in publications:
            self._publications.remove(publication, error)

    async def _answer_welcome(self, entry: Entry, media: MediaSession, sdp: str, tracks: list[TrackResult]) -> None:
        entry.offer = None
        pulled: dict[str, PulledTrack] = {}
        for result in tracks:
            if not result.mid or result.error_code is not None:
                continue
            track = self._members.find(result.client_id or "", result.track_name or "")
            if track is not None:
                pulled[result.mid] = track
                track.source = result.session_id
            else:
                entry.stale.append(result.mid)
        rejected = await self._attempt(entry, [], lambda: media.answer(sdp, pulled))
        for mid in rejected or ():
            self._reject(entry, mid, pulled.get(mid))

    async def _publish(self, entry: Entry, media: MediaSession, publications: list[Publication]) -> None:
        results = await self._attempt(entry, publications, lambda: media.publish(publications))
        if results is None or not entry.is_present:
            return
        for publication, result in zip(publications, results, strict=True):
            self._publications.settle(publication, result)

    async def _unpublish(self, entry: Entry, media: MediaSession, publications: list[Publication]) -> None:
        try:
            await media.unpublish(publications)
        except Exception as error:
            # The tracks may be half closed; a new session does not have them.
            self._on_lost(entry, error)
            return
        for publication in publications:
            self._publications.remove(publication)

    async def _mute(self, entry: Entry, media: MediaSession, publications: list[Publication]) -> None:
        await self._attempt(entry, [], lambda: media.mute(publications))

    async def _drop(self, entry: Entry, media: MediaSession) -> None:
        mids, entry.stale = entry.stale[:MAX_ITEMS], entry.stale[MAX_ITEMS:]
        await self._attempt(entry, [], lambda: media.drop(mids))

    async def _pull(self, entry: Entry, media: MediaSession, tracks: list[PulledTrack]) -> None:
        results = await self._attempt(entry, tracks, lambda: media.pull(tracks))
        if results is None or not entry.is_present:
            return
        is_early = False
        for track, result in zip(tracks, results, strict=True):
            if result.mid and result.error_code is not None:
                self._reject(entry, result.mid, track)
            elif track.mid is None and not track.is_paused and self._members.has(track):
                self._count_attempt(track, error_of(result))
                is_early = is_early or track.is_wanted
        if is_early:
            await self._pause()

    async def _attempt(
        self,
        entry: Entry,
        tracks: Sequence[Publication | PulledTrack],
        negotiate: Callable[[], Awaitable[Result]],
    ) -> Result | None:
        """Run one negotiation. A lost session is replaced; a refusal counts against its tracks."""
        try:
            return await negotiate()
        except Exception as error:
            if not entry.is_present:
                return None  # lost or left meanwhile
            is_known = isinstance(error, SignalManagerError)
            is_lost = isinstance(error, SignalManagerError) and error.code in _LOST_CODES
            # A lost session says nothing about the tracks. An error of aiortc itself may come again.
            if not is_lost:
                for track in tracks:
                    self._count_attempt(track, error)
            if is_lost or not is_known:
                self._on_lost(entry, error)
            elif _may_retry(error):
                await self._pause()
            return None

    def _reject(self, entry: Entry, mid: str, track: PulledTrack | None) -> None:
        """Give up a track that cannot be decoded, and have it closed at the SFU."""
        entry.stale.append(mid)
        if track is not None:
            self._count_attempt(track, MediaBackendError(UNDECODABLE))

    def _count_attempt(self, track: Publication | PulledTrack, error: Exception) -> None:
        """Count one more attempt with a track, and give it up after the last; a final refusal is the last."""
        if isinstance(track, PulledTrack) and track.is_paused:
            return  # its publisher's media session was replaced
        is_last = isinstance(error, SignalManagerError) and not _may_retry(error)
        track.attempts += MAX_ATTEMPTS if is_last else 1
        if track.attempts < MAX_ATTEMPTS:
            return
        if isinstance(track, Publication):
            self._publications.remove(track, error)
            return
        track.is_wanted = False
        if self._members.has(track):
            self._emit(TrackFailed(error, track.client_id, track.name))


def is_final(error: SignalManagerError) -> bool:
    """Return whether joining again would meet the same refusal."""
    return error.code < 500 and not error.may_retry and error.code not in _LOST_CODES


def _may_retry(error: Exception) -> bool:
    return isinstance(error, SignalManagerError) and error.may_retry
