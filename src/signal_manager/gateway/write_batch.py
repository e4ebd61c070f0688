"""Messages that are written together, so that each client gets its share in one system call."""

from __future__ import annotations

from time import perf_counter
from typing import Protocol

from signal_manager.observe.counts import Histogram

__all__ = ["WriteBatch", "WriteQueue"]


class WriteQueue(Protocol):
    """The messages that one connection has queued."""

    def flush(self) -> None:
        """Write the queued messages."""


class WriteBatch:
    """The writes that one read causes, or one batch of another node.

    A write that is given a batch queues its message and adds its queue to the batch; `flush` writes every queue. A
    write that is given none sends its message at once.

    Args:
        relay_seconds: records how long relayed signals took.

    Attributes:
        queues: the queues that hold messages of this batch.
    """

    __slots__ = ("_began", "_relay_seconds", "queues")

    def __init__(self, relay_seconds: Histogram) -> None:
        self._relay_seconds = relay_seconds
        self._began: list[float] = []
        self.queues: list[WriteQueue] = []

    def time(self, began: float) -> None:
        """Record the time from `began`, when a signal was read, to the end of `flush`."""
        self._began.append(began)

    def flush(self) -> None:
        """Write all queues."""
        queues = self.queues
        while queues:
            queues.pop().flush()
        while self._began:
            self._relay_seconds.observe(perf_counter() - self._began.pop())
