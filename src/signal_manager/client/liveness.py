"""When a silent connection is probed, and when it is given up; PURE.

`link.py` asks what is due and does it. Only silence on the whole connection counts: any frame is a sign of life, and a
slow request beside answered heartbeats is no silence.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["ANSWER_TIME", "PROBE_AFTER", "ROOM_INTERVAL", "Due", "LivenessMonitor", "Signs"]

# After a sent message the client waits this long (s) for any frame; then it sends a HEARTBEAT.
PROBE_AFTER = 2.0
# After a HEARTBEAT the client waits this long (s) for any frame; then it takes the connection to be dead.
ANSWER_TIME = 2.5
# Seconds between two heartbeats in a room, where a lost network costs sound and picture.
ROOM_INTERVAL = 2.0


class Due(Enum):
    """What a connection needs now."""

    NOTHING = "nothing"
    BEAT = "send a HEARTBEAT"
    GIVE_UP = "give the connection up"


class Signs(NamedTuple):
    """When a frame last came, when the first message after it was sent, and whether requests wait."""

    heard_at: float
    asked_at: float
    is_waiting: bool  # whether requests wait for their replies
    is_in_room: bool


class LivenessMonitor:
    """Watch one connection. `now` is a time in seconds that never goes back.

    Args:
        interval: seconds between two heartbeats.
    """

    def __init__(self, now: float, *, interval: float) -> None:
        self._interval = interval
        self._beat_at = now  # the last heartbeat, or the beginning
        self._has_beaten = False

    def deadline(self, signs: Signs) -> float:
        """Return the time at which `check` returns more than NOTHING."""
        if self._is_unanswered(signs):
            return self._beat_at + ANSWER_TIME
        deadline = self._beat_at + (min(self._interval, ROOM_INTERVAL) if signs.is_in_room else self._interval)
        if signs.asked_at > signs.heard_at:
            deadline = min(deadline, signs.asked_at + PROBE_AFTER)
        elif signs.is_waiting:
            deadline = min(deadline, signs.heard_at + PROBE_AFTER)
        return deadline

    def check(self, now: float, signs: Signs) -> Due:
        """Return what is due; the caller sends a heartbeat that is due."""
        if now < self.deadline(signs):
            return Due.NOTHING
        if self._is_unanswered(signs):
            return Due.GIVE_UP
        self._beat_at, self._has_beaten = now, True
        return Due.BEAT

    def _is_unanswered(self, signs: Signs) -> bool:
        """Tell whether nothing has come since the last heartbeat."""
        return self._has_beaten and self._beat_at > signs.heard_at
