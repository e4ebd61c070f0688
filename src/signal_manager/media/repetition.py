"""When an operation that came too early is repeated, and when that is hopeless. PURE."""

from __future__ import annotations

from collections.abc import Iterable

from signal_manager.media.base import MediaSessionId
from signal_manager.media.operations import Operation, Result, came_too_early, pulls_from

__all__ = ["Repetition"]


class Repetition:
    """The attempts at one operation, and the publishers for whom it need not wait.

    Args:
        patience: seconds for all attempts.
        pauses: seconds between them; the last pause repeats.

    Attributes:
        early: the result of the last attempt, while the operation waits to be repeated.
    """

    def __init__(self, *, patience: float, pauses: tuple[float, ...]) -> None:
        self._patience = patience
        self._pauses = pauses
        self._started_at = 0.0  # when the first attempt began
        self._attempts = 0  # after the first
        self._gone: set[MediaSessionId] = set()  # sessions of publishers that left, if a pull here names them
        self.early: Result = None

    def begin(self, now: float) -> None:
        """Begin with another operation."""
        self._started_at = now
        self._attempts = 0

    def is_early(self, result: Result) -> bool:
        """Whether a result is worth another attempt."""
        return came_too_early(result, gone=self._gone)

    def may_wait(self, now: float) -> bool:
        """Whether there is time for another attempt."""
        return now + self._pause() - self._started_at <= self._patience

    def wait(self, now: float, result: Result) -> float:
        """Keep the result of an attempt that came too early; return when to make the next one."""
        self.early = result
        due = now + self._pause()
        self._attempts += 1
        return due

    def source_gone(self, session_id: MediaSessionId) -> None:
        """Wait no longer for this publisher."""
        self._gone.add(session_id)

    @property
    def is_hopeless(self) -> bool:
        """Whether all that the operation waits for is gone."""
        return self.early is not None and not self.is_early(self.early)

    def keep_gone(self, operations: Iterable[Operation] = ()) -> None:
        """Forget the publishers that none of these operations names."""
        named = list(operations)
        self._gone = {gone for gone in self._gone if any(pulls_from(each, gone) for each in named)}

    def _pause(self) -> float:
        return self._pauses[min(self._attempts, len(self._pauses) - 1)]
