"""PURE: how long a client may take to send a request, to read a response, and to send the next request."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

__all__ = ["Clock", "TimeLimits"]


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Time limits in seconds."""

    request: float  # for a request to arrive
    write: float  # for the client to read what is written to it
    keep_alive: float  # for a further request to begin


class Clock:
    """What one connection waits for, and since when."""

    __slots__ = ("_behind_since", "_deadline", "_is_resting", "_limits")

    def __init__(self, limits: TimeLimits, now: float) -> None:
        self._limits = limits
        self._deadline = now + limits.request
        self._is_resting = False
        self._behind_since: float | None = None

    def data_came(self, now: float) -> None:
        """Begin to wait for the rest of a request, if none had begun."""
        if self._is_resting:
            self._is_resting = False
            self._deadline = now + self._limits.request

    def request_came(self) -> None:
        """Wait for nothing: the application takes its time."""
        self._deadline = inf

    def turn_came(self, now: float) -> None:
        """Wait for the rest of a request that stood behind another one."""
        if self._deadline == inf:
            self._deadline = now + self._limits.request

    def response_ended(self, now: float) -> None:
        """Wait for the next request."""
        self._is_resting = True
        self._deadline = now + self._limits.keep_alive

    def is_over(self, now: float, *, is_behind: bool) -> bool:
        """Return whether a limit is exceeded; `is_behind` tells whether the client has left something unread."""
        if not is_behind:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        is_unread = self._behind_since is not None and now - self._behind_since > self._limits.write
        return is_unread or now > self._deadline
