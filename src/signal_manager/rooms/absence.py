"""Whether a member is away, and what the room has been told of it; PURE.

A member whose connection comes and goes must not flood its room. The room hears the first changes at once and later
ones at a bounded rate; of several changes between two reports it hears only the outcome.
"""

from __future__ import annotations

__all__ = ["BURST", "PAUSE", "Absence"]

# The room hears so many changes of one member at once: twice away and back. After `PAUSE` seconds one more is allowed.
BURST = 4
PAUSE = 5.0


class Absence:
    """One member's absence. `now` is a time in seconds that never goes back."""

    __slots__ = ("_told_at", "is_away", "told")

    def __init__(self) -> None:
        self.is_away = False  # what is true now
        self.told = False  # what the room was told last
        self._told_at: list[float] = []  # the times of the last `BURST` reports

    @property
    def is_settled(self) -> bool:
        """Whether the room knows what is true now."""
        return self.is_away is self.told

    def wait(self, now: float) -> float:
        """Return the seconds until the room may hear of a change."""
        if len(self._told_at) < BURST:
            return 0.0
        return max(0.0, self._told_at[0] + BURST * PAUSE - now)

    def tell(self, now: float) -> bool:
        """Note that the room is told what is true now, and return that."""
        self.told = self.is_away
        self._told_at = [*self._told_at[-BURST + 1 :], now]
        return self.told
