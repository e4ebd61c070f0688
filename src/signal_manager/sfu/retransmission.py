"""Lost packets: the SFU's cache for receivers, the packets it lacks itself, and the limit on retransmissions.

Neighbours: each layer in `forwarding` has a cache and a list of missing packets; `congestion` has each receiver's
allowance. The SFU answers a receiver's NACK from the cache and never passes it to the publisher. It asks the publisher
once for a packet that it lacks itself, however many receivers lack it too.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Allowance", "MissingPackets", "PacketCache"]

# A larger gap means that the stream restarted; no sender would retransmit so many packets.
_LARGEST_GAP = 256


class PacketCache:
    """The last packets of one layer, by sequence number.

    Args:
        max_bytes: the most payload to keep.
        max_age: seconds that a packet is kept.
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
        """Return whether this packet is kept."""
        return sequence in self._packets

    def put(self, sequence: int, header: bytes, body: bytes, now: float, *, is_late: bool = False) -> None:
        """Add a packet unless it is kept already.

        Args:
            sequence: its number, 16 bits.
            header: its fixed header (12 bytes).
            body: its payload.
            now: `time.monotonic()`.
            is_late: whether later packets were forwarded before it.
        """
        if sequence in self._packets:
            return
        order = self._order
        self._packets[sequence] = (header, body, float("inf") if is_late else now)
        order.append((sequence, len(body), now))
        self.size += len(body)
        oldest = now - self._max_age
        while order and (self.size > self._max_bytes or order[0][2] < oldest):
            self._drop_oldest()

    def get(self, sequence: int) -> tuple[bytes, bytes, float] | None:
        """Return the header and the payload of a packet, and when it was forwarded; None if it is not kept.

        The time of a late packet is infinite, because receivers noticed the gap before it was forwarded.
        """
        return self._packets.get(sequence)

    def expire(self, now: float) -> None:
        """Drop packets that are too old; a layer that stopped adds none that would push them out."""
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
    """The packets of one layer that the SFU lacks, with the times of its requests to the publisher.

    Args:
        interval: seconds between two requests for the same packet.
        max_requests: the number of requests after which a packet is given up.
    """

    def __init__(self, *, interval: float, max_requests: int) -> None:
        self._interval = interval
        self._max_requests = max_requests
        self._requests: dict[int, tuple[int, float]] = {}  # sequence number -> number of requests, time of the last one
        self.due = float("inf")  # when to ask again

    def __len__(self) -> int:
        """Return how many packets are missing."""
        return len(self._requests)

    def skipped(self, sequence: int, count: int, now: float) -> list[int]:
        """Note that `count` numbers from `sequence` on are missing; return those to request now."""
        if len(self._requests) + count > _LARGEST_GAP:
            self.clear()
        if count > _LARGEST_GAP:
            return []
        lost = [(sequence + step) & 0xFFFF for step in range(count)]
        self._requests.update(dict.fromkeys(lost, (1, now)))
        self.due = min(self.due, now + self._interval)
        return lost

    def came(self, sequence: int) -> None:
        """Note that a packet has arrived."""
        self._requests.pop(sequence, None)

    def ask_again(self, now: float) -> list[int]:
        """Return the packets to request again; give up those requested too often."""
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
        """Forget all missing packets."""
        self._requests.clear()
        self.due = float("inf")


class Allowance:
    """A token bucket: at most `burst` at once, and `rate` per second in the long run."""

    def __init__(self, *, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._left = burst
        self._at = float("-inf")

    def take(self, amount: float, now: float) -> bool:
        """Take an amount; return False and take nothing if there is not enough."""
        self._left = min(self.burst, self._left + max(0.0, now - self._at) * self.rate)
        self._at = now
        if self._left < amount:
            return False
        self._left -= amount
        return True
