"""Transport-wide congestion control (draft-holmer-rmcat-transport-wide-cc-extensions-01): reports packet arrivals.

Neighbours: `routing` passes in the number of each packet of a publisher and sends the feedback. From the feedback a
browser computes the bit rate that its network carries, before packets are lost.
"""

from __future__ import annotations

import struct

from aiortc.rtp import RTCP_RTPFB, pack_rtcp_packet

__all__ = ["ArrivalFeedback", "transport_number"]

_FORMAT = 15
_ONE_BYTE_HEADERS = 0xBEDE
_HALF = 0x8000
# Seconds between two feedback messages; browsers expect 50 to 250 ms.
_INTERVAL = 0.1
# The most packets in one feedback message; a message that is full is sent at once.
_MAX_PACKETS = 400
# A larger gap means that the sender restarted its numbers, so it is not reported as a loss.
_LARGEST_GAP = 1000
_NOT_RECEIVED, _SMALL_DELTA, _LARGE_DELTA = 0, 1, 2


def transport_number(packet: bytes, begin: int, end: int, extension_id: int) -> int | None:
    """Return the transport-wide sequence number of a packet.

    Args:
        packet: the RTP packet.
        begin: where its header extension begins, with the profile.
        end: where it ends.
        extension_id: the id of the number's extension in the session description.
    """
    if packet[begin] << 8 | packet[begin + 1] != _ONE_BYTE_HEADERS:
        return None
    position = begin + 4
    while position + 2 < end:
        head = packet[position]
        if head == 0:
            position += 1
        elif head >> 4 == extension_id:
            return packet[position + 1] << 8 | packet[position + 2]
        else:
            position += 2 + (head & 0x0F)
    return None


class ArrivalFeedback:
    """Collects the arrival times of one client's packets and builds the feedback on them.

    Args:
        ssrc: the sender of the feedback.
    """

    def __init__(self, ssrc: int) -> None:
        self._ssrc = ssrc
        self._arrivals: dict[int, float] = {}  # by sequence number, extended beyond 16 bits
        self._latest = -1  # the highest number so far
        self._next = -1  # the first number that was not reported yet
        self._count = 0
        self._due = 0.0

    def take(self, number: int, now: float) -> bool:
        """Note a packet; return whether feedback is due."""
        if self._latest < 0:
            self._latest = self._next = number + 0x10000
            self._arrivals[self._latest] = now
            self._due = now + _INTERVAL
            return False
        ahead = (number - self._latest) & 0xFFFF
        if ahead >= _HALF:
            ahead -= 0x10000
        extended = self._latest + ahead
        if ahead > 0:
            self._latest = extended
        self._arrivals.setdefault(extended, now)
        return now >= self._due or len(self._arrivals) >= _MAX_PACKETS

    def build(self, media_ssrc: int, now: float) -> list[bytes]:
        """Return the feedback messages on the packets since the last call."""
        self._due = now + _INTERVAL
        arrivals, self._arrivals = sorted(self._arrivals.items()), {}
        messages = []
        while arrivals:
            first = min(self._next, arrivals[0][0])
            if arrivals[0][0] - first > _LARGEST_GAP:
                first = arrivals[0][0]
            # One message covers a limited range of numbers; the next one covers the rest.
            fitting = [item for item in arrivals if item[0] - first <= _LARGEST_GAP]
            arrivals = arrivals[len(fitting) :]
            self._next = max(self._next, fitting[-1][0] + 1)
            messages.append(self._message(media_ssrc, first, fitting))
        return messages

    def _message(self, media_ssrc: int, first: int, arrivals: list[tuple[int, float]]) -> bytes:
        # The reference is a multiple of 64 ms; deltas are multiples of 250 µs.
        reference = int(min(at for _, at in arrivals) / 0.064)
        clock = reference * 256
        statuses = [_NOT_RECEIVED] * (arrivals[-1][0] - first + 1)
        deltas = bytearray()
        for number, at in arrivals:
            delta = int(at * 4000) - clock
            if not -0x8000 <= delta <= 0x7FFF:
                continue  # a gap of eight seconds does not fit a delta and says nothing about the network
            clock += delta
            statuses[number - first] = _SMALL_DELTA if 0 <= delta <= 0xFF else _LARGE_DELTA
            deltas += bytes((delta,)) if 0 <= delta <= 0xFF else struct.pack("!h", delta)
        head = struct.pack("!LLHH", self._ssrc, media_ssrc, first & 0xFFFF, len(statuses))
        head += (reference & 0xFFFFFF).to_bytes(3, "big") + bytes((self._count & 0xFF,))
        self._count += 1
        payload = head + _chunks(statuses) + bytes(deltas)
        return pack_rtcp_packet(RTCP_RTPFB, _FORMAT, payload + bytes(-len(payload) % 4))


def _chunks(statuses: list[int]) -> bytes:
    """Return the packet chunks: runs of one status (section 3.1.3), or seven of two bits each (3.1.4)."""
    chunks = bytearray()
    position = 0
    while position < len(statuses):
        status, end = statuses[position], position + 1
        while end < len(statuses) and statuses[end] == status:
            end += 1
        if end - position >= 7 or end == len(statuses):
            chunks += (status << 13 | end - position).to_bytes(2, "big")
            position = end
            continue
        vector = 0xC000
        for step, two_bits in enumerate(statuses[position : position + 7]):
            vector |= two_bits << (12 - 2 * step)
        chunks += vector.to_bytes(2, "big")
        position += 7
    return bytes(chunks)
