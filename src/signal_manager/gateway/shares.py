"""How much one sender may leave in the buffers of clients that are away, so that room remains for others."""

from __future__ import annotations

from signal_manager.errors import RateLimitedError, TooLargeError
from signal_manager.model import ClientId
from signal_manager.protocol.journal import MESSAGE_OVERHEAD, Journal

__all__ = ["SenderShares"]

# The part of one client's buffer, and of all buffers, that one sender may use.
_BUFFER_SHARE = 0.75
_TOTAL_SHARE = 1 / 16


class SenderShares:
    """What each sender has left for clients that are away.

    Args:
        buffer_bytes: the size of one client's buffer.
        total_bytes: the size of all buffers.
    """

    def __init__(self, *, buffer_bytes: int, total_bytes: int) -> None:
        self._share = int(buffer_bytes * _BUFFER_SHARE)
        self._total_share = total_bytes * _TOTAL_SHARE
        self._left_by: dict[str, int] = {}

    def check(self, sender: str, weight: int, *, target: ClientId, left_there: int, journal: Journal) -> None:
        """Check that a sender may leave a message of this weight for a client that is away.

        Args:
            sender: who sends it.
            weight: its bytes, and what keeping it costs.
            target: the client that is away.
            left_there: what the sender has already left for that client.
            journal: keeps the client's messages.

        Raises:
            TooLargeError: no sender may leave as much.
            RateLimitedError: the sender has to wait until the client is back.
        """
        if weight > self._share:
            raise TooLargeError(
                f"the signal is {weight - MESSAGE_OVERHEAD} bytes, expected at most {self._share - MESSAGE_OVERHEAD}"
                f" since client {target} is away"
            )
        if (
            left_there + weight > self._share
            or self._left_by.get(sender, 0) + weight > self._total_share
            or not journal.has_room(weight - MESSAGE_OVERHEAD)
        ):
            raise RateLimitedError(f"client {target} is away, and no more of this is kept for it")

    def add(self, sender: str, weight: int) -> None:
        """Count what a sender has left for a client."""
        self._left_by[sender] = self._left_by.get(sender, 0) + weight

    def take_back(self, left_by: dict[str, int]) -> None:
        """Stop counting what was left for a client that is back or does not return, and clear that client's table."""
        for sender, weight in left_by.items():
            left = self._left_by[sender] - weight
            if left:
                self._left_by[sender] = left
            else:
                del self._left_by[sender]
        left_by.clear()
