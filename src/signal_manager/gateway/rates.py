"""How fast one client may send: a rate of messages, and one of bytes.

Pure: time comes in as `now`, a monotonic time in seconds. The relay path counts both down by itself.
"""

from __future__ import annotations

from functools import lru_cache

__all__ = ["TokenBucket", "Volume"]

# Tokens that are spent without looking at the clock.
_GRANT = 32
_MINUTE = 60.0
# A part of a token: sums of seconds are not exact, and rounding must not cost a client the last token of a burst.
_ROUNDING = 1e-6


@lru_cache(maxsize=16)
def _interval(per_minute: int) -> float:
    """Return the seconds for one token: the same object for all buckets of a rate."""
    return _MINUTE / per_minute


@lru_cache(maxsize=16)
def _per_second(per_minute: int) -> float:
    return per_minute / _MINUTE


class TokenBucket:
    """A rate with a burst: as many tokens as a minute brings, refilled evenly.

    `left` tokens can be spent without looking at the clock. The relay path counts `left` down by itself and calls
    `refill` only below zero.
    """

    __slots__ = ("_full_at", "_interval", "left", "volume")

    def __init__(self, per_minute: int, *, now: float) -> None:
        self.volume: Volume | None = None  # of the same client, where its bytes count too
        self._interval = _interval(per_minute)
        self._full_at = now
        self.left = 0

    def take(self, now: float) -> float:
        """Spend one token and return 0.0, or spend none and return how many seconds to wait for one."""
        self.left -= 1
        return 0.0 if self.left >= 0 else self.refill(now)

    def refill(self, now: float) -> float:
        """Do as `take`, where `left` has already been counted down below zero."""
        tokens = self._tokens(now)
        if tokens < 1 - _ROUNDING:
            self.left = 0
            return (1 - tokens) * self._interval
        granted = int(min(tokens + _ROUNDING, _GRANT))
        self._full_at = max(self._full_at, now) + granted * self._interval
        self.left = granted - 1
        return 0.0

    def wait(self, now: float) -> float:
        """Return how many seconds it takes until there is a token, and spend none."""
        tokens = self.left + self._tokens(now)
        return 0.0 if tokens >= 1 - _ROUNDING else (1 - tokens) * self._interval

    def _tokens(self, now: float) -> float:
        """Return how many there are that were not granted yet."""
        return (_MINUTE - (max(self._full_at, now) - now)) / self._interval


class Volume:
    """A rate of bytes: a burst at once, then evenly.

    `left` bytes may arrive without a look at the clock. The relay path counts `left` down by itself and calls `refill`
    only below zero. It is an integer, because Python counts integers in half the time.
    """

    __slots__ = ("_at", "_burst", "_per_second", "left")

    def __init__(self, per_minute: int, *, burst: int, now: float) -> None:
        self._per_second = _per_second(per_minute)
        self._burst = burst
        self._at = now  # up to when `left` has grown
        self.left = burst

    def refill(self, size: int, now: float) -> float:
        """Return 0.0 if the bytes are within the rate; otherwise undo their count and return the seconds to wait.

        Args:
            size: the bytes, which the caller has already subtracted from `left`.
        """
        grown = int((now - self._at) * self._per_second)
        self._at += grown / self._per_second  # not `now`, because with many calls the fractions of a byte add up
        self.left = min(self.left + grown, self._burst - size)
        if self.left >= 0:
            return 0.0
        wait = -self.left / self._per_second
        self.left += size
        return wait
