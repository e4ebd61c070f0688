"""The members of a room and their tracks, built from the service's states and events.

`room_news.py` brings states and events in order. `negotiations.py` pulls the tracks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from signal_manager.client.room_events import (
    ParticipantAway,
    ParticipantBack,
    ParticipantChanged,
    ParticipantJoined,
    ParticipantLeft,
    RoomHappening,
    TrackAdded,
    TrackKind,
    TrackMuted,
    TrackRemoved,
    TrackUnmuted,
)
from signal_manager.protocol.messages import Member, PublishedTrack, RoomEvent

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack

__all__ = ["Members", "PulledTrack", "RoomMember"]

# A newer service may announce another kind, which counts as none here.
_KINDS: dict[str | None, TrackKind] = {"audio": "audio", "video": "video"}

# The events that bring a member, or tracks of one.
_BRINGING = frozenset({"participant_joined", "tracks_published"})


class PulledTrack:
    """A track of another member, and the state of pulling it."""

    def __init__(self, client_id: str, published: PublishedTrack, *, is_wanted: bool) -> None:
        self.client_id = client_id
        self.name: str = published.track_name
        self.kind: TrackKind | None = _KINDS.get(published.kind)
        self.muted = published.muted
        self.track: MediaStreamTrack | None = None
        self.is_wanted = is_wanted
        self.mid: str | None = None  # in the present media session
        self.attempts = 0  # to pull it, in a row
        self.source: str | None = None  # the media session that it was pulled from last
        self.is_paused = False  # its publisher has a new media session and does not send there yet


class RoomMember:
    """Another member in its present state."""

    def __init__(self, state: Member) -> None:
        self.client_id: str = state.client_id
        self.role = ""
        self.away = False
        self.metadata: dict[str, Any] = {}
        self.session_id: str | None = None
        self.tracks: dict[str, PulledTrack] = {}
        self.update(state)

    def update(self, state: Member) -> None:
        """Take over the service's state of the member."""
        self.role = state.role
        self.away = state.away
        self.session_id = state.session_id
        if state.metadata is not None:
            self.metadata = state.metadata


class Members:
    """The other members of one room.

    Args:
        own_id: this client's id.
        auto_pull: whether to pull every track.
        emit: called with an event for the application.
        on_stale: called with the mid of a received track that is unwanted now.
    """

    def __init__(
        self,
        own_id: str,
        *,
        auto_pull: bool,
        emit: Callable[[RoomHappening], None],
        on_stale: Callable[[str], None],
    ) -> None:
        self.all: dict[str, RoomMember] = {}
        self._own_id = own_id
        self._auto_pull = auto_pull
        self._emit = emit
        self._on_stale = on_stale

    @property
    def wanted(self) -> list[PulledTrack]:
        """The tracks to pull."""
        return [track for track in self._tracks() if track.is_wanted and track.mid is None and not track.is_paused]

    def are_heard(self) -> bool:
        """Return whether a track of a present member is received."""
        return any(track.mid is not None and not self.all[track.client_id].away for track in self._tracks())

    def has(self, track: PulledTrack) -> bool:
        """Return whether a track is still published."""
        member = self.all.get(track.client_id)
        return member is not None and member.tracks.get(track.name) is track

    def show_state(self, members: Sequence[Member]) -> None:
        """Take over the service's state of all members, and emit the events that lead to it."""
        others = [member for member in members if member.client_id != self._own_id]
        present = {member.client_id for member in others}
        for client_id in [client_id for client_id in self.all if client_id not in present]:
            self._remove(client_id)
        for state in others:
            member = self.all.get(state.client_id) or self._add(state)
            was_away, metadata = member.away, member.metadata
            is_same_session = member.session_id == state.session_id
            published = state.tracks or []
            for track in published:
                if track.track_name in member.tracks and member.tracks[track.track_name].is_paused:
                    self._add_track(member, track)
            names = {track.track_name for track in published}
            for name in [name for name in member.tracks if not is_same_session or name not in names]:
                self._remove_track(member, name)
            member.update(state)
            if member.away is not was_away:
                self._tell_absence(member)
            if member.metadata != metadata:
                self._emit(ParticipantChanged(member))
            for track in published:
                if track.track_name in member.tracks:
                    self._set_muted(member, track)
                else:
                    self._add_track(member, track)

    def apply(self, event: RoomEvent) -> None:
        """Apply one event about another member."""
        state = event.participant
        if state is None or state.client_id == self._own_id:
            return
        if event.event == "participant_left":
            self._remove(state.client_id, event.reason)
            return
        brings = event.event in _BRINGING
        member = self.all.get(state.client_id) or (self._add(state) if brings else None)
        if member is None:
            return  # an event of a newer service
        member.update(state)
        if event.event == "metadata_changed":
            self._emit(ParticipantChanged(member))
        elif event.event in {"participant_away", "participant_back"}:
            self._tell_absence(member)
        elif event.event in {"tracks_muted", "tracks_unmuted"}:
            for track in event.tracks or []:
                self._set_muted(member, track)
        elif event.event == "media_replaced":
            self._pause(member, event.tracks or [])
        elif event.event == "tracks_unpublished":
            for track in event.tracks or []:
                self._remove_track(member, track.track_name, event.reason)
        elif brings:
            for track in event.tracks if event.tracks is not None else state.tracks or []:
                self._add_track(member, track)

    def announce(self, pulled: PulledTrack, mid: str, track: MediaStreamTrack) -> None:
        """Give a pulled track to the application, or drop it when it is unwanted by now."""
        member = self.all.get(pulled.client_id)
        # The publisher's media session was replaced during the pull: the track has ended.
        is_former = member is not None and pulled.source is not None and pulled.source != member.session_id
        is_unwanted = not self.has(pulled) or not pulled.is_wanted or pulled.mid is not None
        if member is None or is_unwanted or is_former:
            track.stop()
            self._on_stale(mid)
            return
        # The track of the last media session was kept until now, so that the application has a picture.
        self._retire(member, pulled)
        pulled.mid = mid
        pulled.track = track
        pulled.attempts = 0
        self._emit(TrackAdded(member, pulled.name, track))

    def find(self, client_id: str, name: str) -> PulledTrack | None:
        """Return a track that is published."""
        member = self.all.get(client_id)
        return None if member is None else member.tracks.get(name)

    def forget_mids(self) -> None:
        """Note that the media session is lost: all wanted tracks must be pulled again."""
        for track in self._tracks():
            track.mid = None

    def stop_tracks(self) -> None:
        """Stop all received tracks, because the room is closed."""
        for pulled in self._tracks():
            if pulled.track is not None:
                pulled.track.stop()

    def _tracks(self) -> list[PulledTrack]:
        return [track for member in self.all.values() for track in member.tracks.values()]

    def _tell_absence(self, member: RoomMember) -> None:
        self._emit(ParticipantAway(member) if member.away else ParticipantBack(member))

    def _add(self, state: Member) -> RoomMember:
        member = self.all[state.client_id] = RoomMember(state)
        self._emit(ParticipantJoined(member))
        return member

    def _remove(self, client_id: str, reason: str | None = None) -> None:
        member = self.all.get(client_id)
        if member is None:
            return
        for name in list(member.tracks):
            self._remove_track(member, name)
        del self.all[client_id]
        self._emit(ParticipantLeft(member, reason))

    def _pause(self, member: RoomMember, coming: Sequence[PublishedTrack]) -> None:
        """Keep the received end of these tracks until they come from a new media session; remove the others."""
        names = {track.track_name for track in coming}
        for name, pulled in list(member.tracks.items()):
            if name in names:
                self._forget_mid(pulled)
                pulled.is_paused = True
            else:
                self._remove_track(member, name)

    def _forget_mid(self, pulled: PulledTrack) -> None:
        if pulled.mid is not None:
            self._on_stale(pulled.mid)
        pulled.mid = None

    def _add_track(self, member: RoomMember, published: PublishedTrack) -> None:
        paused = member.tracks.get(published.track_name)
        if paused is not None and paused.is_paused:
            self._forget_mid(paused)  # a pull during the pause brought the former track
            paused.is_paused = False
            paused.attempts = 0
            self._set_muted(member, published)
            return
        self._remove_track(member, published.track_name)
        member.tracks[published.track_name] = PulledTrack(member.client_id, published, is_wanted=self._auto_pull)

    def _set_muted(self, member: RoomMember, published: PublishedTrack) -> None:
        track = member.tracks.get(published.track_name)
        if track is not None and track.muted is not published.muted:
            track.muted = published.muted
            happening = TrackMuted if track.muted else TrackUnmuted
            self._emit(happening(member, track.name))

    def _remove_track(self, member: RoomMember, name: str, reason: str | None = None) -> None:
        pulled = member.tracks.pop(name, None)
        if pulled is None:
            return
        if pulled.mid is not None:
            self._on_stale(pulled.mid)
        self._retire(member, pulled, reason)

    def _retire(self, member: RoomMember, pulled: PulledTrack, reason: str | None = None) -> None:
        if pulled.track is not None:
            pulled.track.stop()
            self._emit(TrackRemoved(member, pulled.name, pulled.track, reason))
