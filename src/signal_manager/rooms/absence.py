"""Whether a member is away, as it is and as the room has been told; PURE.

A member whose connection comes and goes must not flood its room: some changes are told at once, later ones at a bounded
rate, and of what happened in between only the outcome.
"""

from __future__ import annotations

__all__ = ["BURST", "PAUSE", "Absence"]

# So many changes of one member are told at once: twice away and back. Each gives its place back after `PAUSE` seconds.
BURST = 4
PAUSE = 5.0


class Absence:
    """One member's absence. `now` is a time in seconds that never goes back."""

    __slots__ = ("_told_at", "is_away", "told")

    def __init__(self) -> None:
        self.is_away = False  # as it is
        self.told = False  # as the room has been told
        self._told_at: list[float] = []  # when, of the last `BURST` changes

    @property
    def is_settled(self) -> bool:
        """Whether the room knows how it is."""
        return self.is_away is self.told

    def wait(self, now: float) -> float:
        """Return the seconds until the room may be told of a change."""
        if len(self._told_at) < BURST:
            return 0.0
        return max(0.0, self._told_at[0] + BURST * PAUSE - now)

    def tell(self, now: float) -> bool:
        """Take note that the room is told how it is now, and return that."""
        self.told = self.is_away
        self._told_at = [*self._told_at[-BURST + 1 :], now]
        return self.told
