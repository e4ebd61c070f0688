"""The numbers of calls to the SFU: the one in progress, and those whose caller has gone. PURE."""

from __future__ import annotations

from signal_manager.media.base import MediaSessionId

__all__ = ["Calls"]


class Calls:
    """The calls of one member."""

    def __init__(self) -> None:
        self._latest = 0
        self._in_progress: int | None = None
        self._orphans: dict[int, MediaSessionId | None] = {}  # for sessions that were given up

    @property
    def is_in_progress(self) -> bool:
        """Whether a call of the present session is with the SFU."""
        return self._in_progress is not None

    def begin(self) -> int:
        """Return the number of another call."""
        self._latest += 1
        self._in_progress = self._latest
        return self._latest

    def end(self, call: int) -> None:
        """End the call in progress.

        Raises:
            RuntimeError: it is another one.
        """
        if call != self._in_progress:
            raise RuntimeError(f"call {call} was reported, expected call {self._in_progress}")
        self._in_progress = None

    def give_up(self, session_id: MediaSessionId | None) -> None:
        """Make the call in progress, if there is one, an orphan of this session."""
        if self._in_progress is not None:
            self._orphans[self._in_progress] = session_id
            self._in_progress = None

    def is_orphan(self, call: int) -> bool:
        """Whether a call was made for a session that was given up."""
        return call in self._orphans

    def end_orphan(self, call: int) -> MediaSessionId | None:
        """End an orphan; return its session, None for the opening of one."""
        return self._orphans.pop(call)
