"""Which announced tracks still send, judged by the SFU's answers; PURE.

An SFU forgets a track without packets silently. One bad answer may mean a moment's silence, so a track is dead after
two bad answers in a row, or after one when a member has failed to pull the track. A dead track that sends again is
announced again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from signal_manager.media.base import SessionState

__all__ = ["HealthReport", "TrackHealth"]

# So many bad answers in a row mean that a track is dead.
_ENOUGH = 2


class HealthReport(NamedTuple):
    """What an answer means: the mids that are dead, the mids that send again, and whether to ask again soon."""

    dead: frozenset[str]
    back: frozenset[str]
    is_urgent: bool


class TrackHealth:
    """The announced tracks of one session, by mid."""

    def __init__(self) -> None:
        self._announced: dict[str, int] = {}  # the number of bad answers in a row about each
        self._dead: set[str] = set()  # unpublished because they are dead
        self._doubted: set[str] = set()  # a member has failed to pull them

    @property
    def is_worth_asking(self) -> bool:
        """Whether there is a track to ask about."""
        return bool(self._announced or self._dead)

    @property
    def is_doubted(self) -> bool:
        """Whether a doubt waits for an answer."""
        return bool(self._doubted)

    def announce(self, mids: Iterable[str]) -> None:
        """Note that tracks are announced and send."""
        for mid in mids:
            self._announced[mid] = 0
            self._dead.discard(mid)

    def unpublished(self, mids: Iterable[str]) -> None:
        """Note that dead tracks are unpublished."""
        for mid in mids:
            if self._announced.pop(mid, None) is not None:
                self._dead.add(mid)

    def doubt(self, mids: Iterable[str]) -> None:
        """Note that a member has failed to pull tracks."""
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
        """Return the doubts that a question now answers; later doubts need the next question."""
        doubted = frozenset(self._doubted)
        self._doubted.clear()
        return doubted

    def read(self, state: SessionState, doubted: frozenset[str]) -> HealthReport:
        """Judge the answer to a question."""
        own = [track for track in state.tracks if track.location != "remote"]
        # A closed track may still be listed beside its successor in the same m-section.
        present = {track.mid for track in own}
        active = {track.mid for track in own if track.is_active}
        for mid, misses in self._announced.items():
            self._announced[mid] = 0 if mid in active else misses + (_ENOUGH if mid in doubted else 1)
        dead = frozenset(mid for mid, misses in self._announced.items() if misses >= _ENOUGH)
        # A silent track may need time; a track that the SFU does not have will not come back.
        is_urgent = any(mid not in present for mid in self._announced.keys() - dead)
        return HealthReport(dead, frozenset(self._dead & active), is_urgent)
