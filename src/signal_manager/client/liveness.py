"""When a connection is asked for a sign of life, and when it is given up for silence; without any I/O or clock.

`link.py` asks what is due and does it. Only silence on the whole connection counts: any frame is life, and a slow
request beside answered heartbeats is no silence.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["ANSWER_TIME", "PROBE_AFTER", "ROOM_INTERVAL", "Due", "LivenessMonitor", "Signs"]

# What was sent has this long (s) for any frame to follow; then a HEARTBEAT asks for one.
PROBE_AFTER = 2.0
# A HEARTBEAT has this long (s) for any frame to follow; then the connection is taken to be dead.
ANSWER_TIME = 2.5
# Seconds between two heartbeats in a room, where a network that has gone away costs sound and picture.
ROOM_INTERVAL = 2.0


class Due(Enum):
    """What is to be done about a connection now."""

    NOTHING = "nothing"
    BEAT = "send a HEARTBEAT"
    GIVE_UP = "give the connection up"


class Signs(NamedTuple):
    """What is known of a connection: when a frame last came, when the first message after it was sent, what waits."""

    heard_at: float
    asked_at: float
    is_waiting: bool  # whether requests wait for their replies
    is_in_room: bool


class LivenessMonitor:
    """Watch over one connection. `now` is a time in seconds that never goes back.

    Args:
        interval: seconds between two heartbeats.
    """

    def __init__(self, now: float, *, interval: float) -> None:
        self._interval = interval
        self._beat_at = now  # the last heartbeat, or the beginning
        self._has_beaten = False

    def deadline(self, signs: Signs) -> float:
        """Return when `check` has something to say."""
        if self._is_unanswered(signs):
            return self._beat_at + ANSWER_TIME
        deadline = self._beat_at + (min(self._interval, ROOM_INTERVAL) if signs.is_in_room else self._interval)
        if signs.asked_at > signs.heard_at:
            deadline = min(deadline, signs.asked_at + PROBE_AFTER)
        elif signs.is_waiting:
            deadline = min(deadline, signs.heard_at + PROBE_AFTER)
        return deadline

    def check(self, now: float, signs: Signs) -> Due:
        """Say what is due; a heartbeat that is due is taken to be sent."""
        if now < self.deadline(signs):
            return Due.NOTHING
        if self._is_unanswered(signs):
            return Due.GIVE_UP
        self._beat_at, self._has_beaten = now, True
        return Due.BEAT

    def _is_unanswered(self, signs: Signs) -> bool:
        """Tell whether nothing has come since the last heartbeat."""
        return self._has_beaten and self._beat_at > signs.heard_at
