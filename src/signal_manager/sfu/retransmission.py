"""Lost packets: what the SFU keeps to send again, what it lacks itself, and how much of that anybody may ask for.

Neighbours: a layer in `forwarding` has one cache and one list of what it misses; `congestion` has each receiver's
allowance. A receiver's NACK is answered from the cache and never reaches the publisher, who is asked once for what the
SFU lacks, however many receivers lack it too.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Allowance", "MissingPackets", "PacketCache"]

# A gap beyond this is a stream that began anew: nobody sends so much again.
_LARGEST_GAP = 256


class PacketCache:
    """The last packets of one layer, by sequence number.

    Args:
        max_bytes: payload that is kept at most.
        max_age: how long a packet is kept (s).
    """

    def __init__(self, *, max_bytes: int, max_age: float) -> None:
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._packets: dict[int, tuple[bytes, bytes, float]] = {}
        self._order: deque[tuple[int, int, float]] = deque()  # sequence number, size and arrival, the oldest first
        self.size = 0

    def __len__(self) -> int:
        """Return how many packets are kept."""
        return len(self._packets)

    def __contains__(self, sequence: int) -> bool:
        """Say whether this packet is kept."""
        return sequence in self._packets

    def put(self, sequence: int, header: bytes, body: bytes, now: float, *, is_late: bool = False) -> None:
        """Keep a packet that is not kept yet.

        Args:
            sequence: its number, 16 bits.
            header: its fixed header (12 bytes).
            body: its payload.
            now: `time.monotonic()`.
            is_late: whether the ones behind it were sent on before it.
        """
        order = self._order
        self._packets[sequence] = (header, body, float("inf") if is_late else now)
        order.append((sequence, len(body), now))
        self.size += len(body)
        oldest = now - self._max_age
        while self.size > self._max_bytes or order[0][2] < oldest:
            self._drop_oldest()

    def get(self, sequence: int) -> tuple[bytes, bytes, float] | None:
        """Return the header and the payload of a packet, and when it was sent on in its turn; None if it is not kept.

        For one that was late that time is infinite: others noticed that it was missing before it was sent on.
        """
        return self._packets.get(sequence)

    def expire(self, now: float) -> None:
        """Drop what is too old, for a layer that stopped."""
        while self._order and self._order[0][2] < now - self._max_age:
            self._drop_oldest()

    def clear(self) -> None:
        """Drop everything."""
        self._packets.clear()
        self._order.clear()
        self.size = 0

    def _drop_oldest(self) -> None:
        sequence, size, _ = self._order.popleft()
        del self._packets[sequence]
        self.size -= size


class MissingPackets:
    """What the SFU lacks of one layer: when it asked the publisher for it, and how often.

    Args:
        interval: the time between two requests for the same packet (s).
        max_requests: how often a packet is asked for before it is given up.
    """

    def __init__(self, *, interval: float, max_requests: int) -> None:
        self._interval = interval
        self._max_requests = max_requests
        self._requests: dict[int, tuple[int, float]] = {}  # sequence number -> how often asked for, and when last
        self.due = float("inf")  # when to ask again

    def __len__(self) -> int:
        """Return how many packets are missing."""
        return len(self._requests)

    def skipped(self, sequence: int, count: int, now: float) -> list[int]:
        """Take note that `count` numbers from `sequence` on were skipped, and return those to ask for now."""
        if len(self._requests) + count > _LARGEST_GAP:
            self.clear()
        if count > _LARGEST_GAP:
            return []
        lost = [(sequence + step) & 0xFFFF for step in range(count)]
        self._requests.update(dict.fromkeys(lost, (1, now)))
        self.due = min(self.due, now + self._interval)
        return lost

    def came(self, sequence: int) -> None:
        """Stop asking for a packet."""
        self._requests.pop(sequence, None)

    def ask_again(self, now: float) -> list[int]:
        """Return what to ask for once more, giving up what was asked for too often."""
        asked, left = [], {}
        for sequence, (count, at) in self._requests.items():
            if now - at < self._interval:
                left[sequence] = (count, at)
            elif count < self._max_requests:
                left[sequence] = (count + 1, now)
                asked.append(sequence)
        self._requests = left
        self.due = min((at for _, at in left.values()), default=float("inf")) + self._interval
        return asked

    def clear(self) -> None:
        """Miss nothing any more."""
        self._requests.clear()
        self.due = float("inf")


class Allowance:
    """A token bucket: `burst` at once, and `rate` a second in the long run."""

    def __init__(self, *, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._left = burst
        self._at = float("-inf")

    def take(self, amount: float, now: float) -> bool:
        """Use some of it, and say whether there was enough."""
        self._left = min(self.burst, self._left + max(0.0, now - self._at) * self.rate)
        self._at = now
        if self._left < amount:
            return False
        self._left -= amount
        return True
