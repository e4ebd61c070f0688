"""The load of the SFU and its limits: present members must not suffer from new ones.

`service.py` checks it before a session begins and updates it; `sessions.py` checks it before a pull. One process
forwards on one core, even on a machine with more. A core that is used up loses packets of all members.
"""

from __future__ import annotations

import time

from signal_manager.sfu.errors import RefusedError
from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.settings import SfuSettings

__all__ = ["Load"]

# The limit for a join is lower than that for a pull, so that members can receive each other.
_SHARE_FOR_JOINS = 0.9


class Load:
    """The load of one SFU process.

    Args:
        settings: the limits.
        counters: counts of forwarded packets.
    """

    def __init__(self, settings: SfuSettings, counters: Counters) -> None:
        self.busy = 0.0  # share of a core that the SFU's thread uses
        self.packets_per_second = 0.0
        self._settings = settings
        self._counters = counters
        self._forwarded = 0
        self._cpu = 0.0
        self._at: float | None = None
        self._granted = (0.0, 0.0)  # packets a second of pulls since the last tick, and between that and the one before

    def tick(self, now: float) -> None:
        """Measure the use since the last tick; call it in the thread that forwards."""
        self.measure(now, cpu=time.thread_time())

    def measure(self, now: float, *, cpu: float) -> None:
        """Compute the load from the CPU time of this thread so far (`cpu`, in seconds)."""
        forwarded = self._counters.packets_forwarded
        if self._at is not None and now > self._at:
            elapsed = now - self._at
            self.busy += (min(1.0, (cpu - self._cpu) / elapsed) - self.busy) / 2
            self.packets_per_second += ((forwarded - self._forwarded) / elapsed - self.packets_per_second) / 2
        self._at, self._cpu, self._forwarded = now, cpu, forwarded
        self._granted = (0.0, self._granted[0])

    def check_join(self) -> None:
        """Refuse a session if the present members need the whole capacity.

        Raises:
            RefusedError: 503 with the reason.
        """
        self._check(0.0, _SHARE_FOR_JOINS)

    def check_pull(self, packets_per_second: float) -> None:
        """Reserve capacity for this many more packets per second, or refuse.

        Raises:
            RefusedError: 503 with the reason.
        """
        self._check(packets_per_second, 1.0)
        self._granted = (self._granted[0] + packets_per_second, self._granted[1])

    def _check(self, more: float, share: float) -> None:
        limit = self._settings.max_packets_per_second
        expected = self.packets_per_second + sum(self._granted) + more
        if expected > share * limit:
            self._refuse(
                f"the SFU forwards {self.packets_per_second:.0f} packets/s and would have to forward {expected:.0f}, "
                f"of {limit} that it may (media.sfu_max_packets_per_second)"
            )
        if self.busy > share * self._settings.max_busy:
            allowed = 100 * self._settings.max_busy
            self._refuse(f"the SFU uses {100 * self.busy:.0f} % of its core, of {allowed:.0f} % that it may")

    def _refuse(self, reason: str) -> None:
        self._counters.refused_for_load += 1
        raise RefusedError(503, "temporarily_unavailable_error", f"{reason}: it has no room for more")
