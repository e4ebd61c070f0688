"""The tracks that this client publishes in a room, from `publish` to the end of `unpublish`.

`negotiations.py` brings the media session to the state that is wanted here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from signal_manager.client.arguments import a_name, a_track, maybe
from signal_manager.client.room_events import TrackKind
from signal_manager.errors import InvalidRequestError, SignalManagerError, error_from_wire
from signal_manager.protocol.messages import MAX_ITEMS, TrackResult

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack

__all__ = ["Publication", "Publications", "error_of"]


class _Listener(NamedTuple):
    """The callbacks of publications: one has changed, or its track has ended by itself."""

    on_change: Callable[[], None]
    on_ended: Callable[[Publication], None]


class Publication:
    """A track of this client, and the state of publishing it."""

    def __init__(self, name: str, track: MediaStreamTrack, *, is_named: bool, room: _Listener) -> None:
        self.name = name
        self.track = track
        self.kind: TrackKind = "audio" if track.kind == "audio" else "video"
        self.muted = False
        self.said = False  # the last value of `muted` that the service knows
        self.is_named = is_named
        self._room = room
        self.on_replaced: Callable[[], None] = lambda: None  # what sends it is told that its track is another
        self._watch(track)
        self.is_wanted = True
        self.has_ended = False  # by itself, for which it is unpublished
        self.is_published = False  # in the present media session
        self.attempts = 0  # to publish it, in a row
        loop = asyncio.get_running_loop()
        self.published: asyncio.Future[None] = (
            loop.create_future()
        )  # done when the SFU takes the track, or refuses it for good
        self.gone: asyncio.Future[None] = loop.create_future()  # done when the publication has ended

    def mute(self) -> None:
        """Send silence or black in place of the track, at once, and tell the others."""
        self.muted = True
        self._room.on_change()

    def unmute(self) -> None:
        """Send the track again, and tell the others."""
        self.muted = False
        self._room.on_change()

    def replace_track(self, track: MediaStreamTrack) -> None:
        """Send another track from now on, without negotiation; what is muted stays so. The old one is not stopped.

        Raises:
            InvalidRequestError: it is of another kind.
        """
        if a_track(track, "track").kind != self.kind:
            raise InvalidRequestError(f"the track is of kind {track.kind}, expected {self.kind}")
        self.track = track
        self._watch(track)
        self.on_replaced()

    def _watch(self, track: MediaStreamTrack) -> None:
        def ended() -> None:
            if track is self.track:
                self._room.on_ended(self)

        track.on("ended", ended)


class Publications:
    """The publications of one room. What is to be done next is never more than one request may carry."""

    def __init__(self, on_change: Callable[[], None], on_ended: Callable[[Publication], None]) -> None:
        self._all: list[Publication] = []
        self._room = _Listener(on_change, on_ended)

    @property
    def unsaid(self) -> list[Publication]:
        """The publications to tell the service about next, because it does not know whether they are muted."""
        return [each for each in self._all if each.is_published and each.muted is not each.said][:MAX_ITEMS]

    @property
    def wanted(self) -> list[Publication]:
        """The publications that the application wants."""
        return [each for each in self._all if each.is_wanted]

    @property
    def fresh(self) -> list[Publication]:
        """The publications to publish next."""
        return [each for each in self._all if each.is_wanted and not each.is_published][:MAX_ITEMS]

    @property
    def leaving(self) -> list[Publication]:
        """The publications to close next, all for the same reason."""
        leaving = [each for each in self._all if not each.is_wanted and each.is_published]
        return ([each for each in leaving if each.has_ended] or leaving)[:MAX_ITEMS]

    @property
    def abandoned(self) -> list[Publication]:
        """The publications that only need to be forgotten."""
        return [each for each in self._all if not each.is_wanted and not each.is_published]

    def of(self, tracks: Sequence[MediaStreamTrack | Publication]) -> list[Publication]:
        """Return those of these tracks, and those that are named themselves."""
        return [each for each in self._all if any(track is each or track is each.track for track in tracks)]

    def add(self, tracks: Sequence[MediaStreamTrack], prefix: str | None = None) -> list[Publication]:
        """Want tracks to be published, under names that are free.

        Raises:
            InvalidRequestError: there are none, one is published already or no audio or video, or the name cannot be.
        """
        if not tracks:
            raise InvalidRequestError("there are no tracks, expected at least one")
        for track in tracks:
            a_track(track, "a track")
        maybe(a_name, prefix, "name")
        if self.of(tracks) or len({id(track) for track in tracks}) < len(tracks):
            raise InvalidRequestError("a track is published already, expected new ones")
        wanted = [f"{prefix}-{track.kind}" if prefix is not None else track.kind for track in tracks]
        for name in wanted:
            a_name(name, "a track's name")
        added = []
        for name, track in zip(wanted, tracks, strict=True):
            added.append(Publication(self._free_name(name), track, is_named=prefix is not None, room=self._room))
            self._all.append(added[-1])
        return added

    def remove(self, publication: Publication, error: Exception | None = None) -> None:
        """Forget a publication that the SFU does not have."""
        if publication in self._all:
            self._all.remove(publication)
        if not publication.published.done():
            publication.published.set_exception(error or InvalidRequestError("unpublished meanwhile"))
            publication.published.exception()  # a result that no caller awaits is not an error
        if not publication.gone.done():
            publication.gone.set_result(None)

    def remove_all(self, error: Exception) -> None:
        """Forget all publications."""
        for publication in list(self._all):
            self.remove(publication, error)

    def settle(self, publication: Publication, result: TrackResult | None) -> None:
        """Note the SFU's result for a publication; no result means success."""
        if result is not None and result.error_code is not None:
            self.remove(publication, error_of(result))
            return
        publication.is_published = True
        publication.attempts = 0
        if not publication.published.done():
            publication.published.set_result(None)

    def forget_session(self) -> None:
        """Note that the media session is lost: all wanted tracks must be published again."""
        for publication in self._all:
            publication.is_published = False

    def mute(self, kind: str | None, *, muted: bool) -> None:
        """Mute or unmute the publications without a name: camera and microphone, or one of them."""
        for publication in self._all:
            if not publication.is_named and kind in {None, publication.kind}:
                publication.muted = muted
        self._room.on_change()

    def _free_name(self, wanted: str) -> str:
        taken = {each.name for each in self._all}
        name, n = wanted, 2
        while name in taken:
            name, n = f"{wanted}-{n}", n + 1
        return name


def error_of(result: TrackResult) -> SignalManagerError:
    """Return the error of a track that the SFU has refused to publish or pull."""
    message = result.error_message or "the SFU took no notice of the track"
    # A track of a replaced media session comes again.
    return error_from_wire(result.error_code or (503 if result.mid else 502), message)
