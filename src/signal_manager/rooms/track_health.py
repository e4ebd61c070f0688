"""Which tracks that were announced still send, from what the SFU says of them; PURE.

An SFU forgets a track without packets and tells nobody. One bad answer may be a moment's silence, so that it takes two
in a row, or one after somebody has failed to pull the track. What was unpublished for that is announced again when it
sends again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from signal_manager.media.base import SessionState

__all__ = ["HealthReport", "TrackHealth"]

# So many bad answers in a row mean that a track is dead.
_ENOUGH = 2


class HealthReport(NamedTuple):
    """What an answer means: mids that are dead, those that are back, and whether to ask again soon."""

    dead: frozenset[str]
    back: frozenset[str]
    is_urgent: bool


class TrackHealth:
    """The announced tracks of one session, by mid."""

    def __init__(self) -> None:
        self._announced: dict[str, int] = {}  # how many bad answers in a row there were about each
        self._dead: set[str] = set()  # unpublished for that
        self._doubted: set[str] = set()  # somebody has failed to pull them

    @property
    def is_worth_asking(self) -> bool:
        """Whether there is anything to ask about."""
        return bool(self._announced or self._dead)

    @property
    def is_doubted(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._doubted)

    def announce(self, mids: Iterable[str]) -> None:
        """Take note that tracks are announced, and send."""
        for mid in mids:
            self._announced[mid] = 0
            self._dead.discard(mid)

    def bury(self, mids: Iterable[str]) -> None:
        """Take note that dead tracks are unpublished."""
        for mid in mids:
            if self._announced.pop(mid, None) is not None:
                self._dead.add(mid)

    def doubt(self, mids: Iterable[str]) -> None:
        """Take note that somebody has failed to pull tracks."""
        self._doubted.update(mid for mid in mids if mid in self._announced)

    def forget(self, mids: Iterable[str]) -> None:
        """Forget tracks that are closed."""
        for mid in mids:
            self._announced.pop(mid, None)
            self._dead.discard(mid)
            self._doubted.discard(mid)

    def clear(self) -> None:
        """Forget all tracks."""
        self._announced.clear()
        self._dead.clear()
        self._doubted.clear()

    def ask(self) -> frozenset[str]:
        """Return what is doubted at the time of a question; doubts from now on are for the next one."""
        doubted = frozenset(self._doubted)
        self._doubted.clear()
        return doubted

    def read(self, state: SessionState, doubted: frozenset[str]) -> HealthReport:
        """Take note of the answer to a question."""
        own = [track for track in state.tracks if track.location != "remote"]
        # A closed track may still be listed beside its successor in the same m-section.
        present = {track.mid for track in own}
        active = {track.mid for track in own if track.is_active}
        for mid, misses in self._announced.items():
            self._announced[mid] = 0 if mid in active else misses + (_ENOUGH if mid in doubted else 1)
        dead = frozenset(mid for mid, misses in self._announced.items() if misses >= _ENOUGH)
        # One that is silent may need its time; one that the SFU does not have will not come back.
        is_urgent = any(mid not in present for mid in self._announced.keys() - dead)
        return HealthReport(dead, frozenset(self._dead & active), is_urgent)
