"""What tells of congestion: queues that requests for lost packets show, estimates that fall, and failed attempts."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

__all__ = ["Attempts", "Estimates", "QueueSigns"]

# Requests that are this many seconds later than the soonest ones mean a queue; bounds for the soonest ones.
_QUEUED, _SOONEST_AT_MOST = 0.1, 0.15
# The number of half seconds over which the soonest request counts, so that one lucky packet does not decide.
_LOOKS = 3
# How fast the soonest request ever is forgotten, because a path may grow longer: it doubles in half a minute.
_FORGETTING = 1.01
# A smaller fall of an estimate does not count; a fall counts for this many seconds.
_FALLEN, _FRESH = 0.97, 1.0


class QueueSigns:
    """Tells a full queue from a bad radio by how soon a client asks for what it lost."""

    def __init__(self) -> None:
        self._missed_after: deque[float] = deque(maxlen=_LOOKS)  # the soonest request, by half second
        self._soonest = _SOONEST_AT_MOST

    def take(self, missed_after: float) -> None:
        """Keep the soonest request of a half second; infinite if nothing was lost."""
        self._missed_after.append(missed_after)
        self._soonest = min(_FORGETTING * self._soonest, missed_after, _SOONEST_AT_MOST)

    def has_queue(self) -> bool | None:
        """Tell whether a full queue caused the loss; None if nothing was lost."""
        soonest = min(self._missed_after, default=float("inf"))
        return None if soonest == float("inf") else soonest > self._soonest + _QUEUED


class Estimates:
    """The client's own estimates of its bandwidth (REMB).

    Such an estimate is at most half more than what arrives, so only its fall is useful.

    Args:
        limit: how many are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._last: dict[tuple[int, ...], float] = {}  # by the SSRCs it is for
        self._fallen: tuple[float, float] | None = None  # time and value of the last fall of an estimate

    def take(self, bitrate: float, ssrcs: Collection[int], now: float) -> None:
        """Keep an estimate."""
        key = tuple(sorted(ssrcs))[:64]
        before = self._last.get(key)
        if before is None and len(self._last) >= self._limit:
            self._last.clear()
        self._last[key] = bitrate
        if before is not None and bitrate < before * _FALLEN:
            self._fallen = (now, bitrate)

    def fallen(self, now: float) -> float | None:
        """Return the estimate that fell lately; None if none did."""
        return self._fallen[1] if self._fallen is not None and now - self._fallen[0] < _FRESH else None

    def forget(self) -> None:
        """Forget what fell, because the bandwidth was changed since."""
        self._fallen = None


class Attempts:
    """When to give more again: after a failed attempt the next one comes later.

    Args:
        first, last: the shortest and the longest pause, in seconds.
    """

    def __init__(self, *, first: float, last: float) -> None:
        self._first = first
        self._last = last
        self._patience = first
        self._due_at = 0.0
        self._made_at = float("-inf")
        self._has_failed = False  # whether the last attempt failed

    def is_under_way(self, now: float) -> bool:
        """Whether more was given a short while ago."""
        return now - self._made_at < 2 * self._first

    def is_due(self, now: float) -> bool:
        """Whether it is time for the next one."""
        return now >= self._due_at

    def fail(self, now: float) -> None:
        """Note that less had to be given."""
        if self.is_under_way(now):
            self._patience = min(2 * self._patience, self._last)
        self._due_at = now + self._patience
        self._has_failed = True

    def hurry(self, now: float) -> None:
        """Make the next one due."""
        self._due_at = now

    def settle(self) -> None:
        """Begin with the shortest pause again, unless the last one failed."""
        if not self._has_failed:
            self._patience = self._first

    def make(self, now: float) -> None:
        """Note that more is given."""
        self._made_at, self._due_at = now, now + self._patience
        self._has_failed = False
