"""What RTCP says of one stream of a publisher: what was lost on the way here, and the publisher's clock."""

from __future__ import annotations

from aiortc.rtp import RtcpSenderInfo

__all__ = ["StreamReports"]


class StreamReports:
    """The reports of one stream.

    Attributes:
        first: the number of its first packet.
    """

    def __init__(self) -> None:
        self.first = 0
        self._seen = (0, 0)  # expected and received at the last report
        self._sender_report: tuple[RtcpSenderInfo, float] | None = None  # and when it came

    def reset(self) -> None:
        """Start again with another stream."""
        self._seen = (0, 0)
        self._sender_report = None

    def take(self, info: RtcpSenderInfo, now: float) -> None:
        """Keep the publisher's clock."""
        self._sender_report = (info, now)

    def clock(self, clock_rate: int, now: float) -> RtcpSenderInfo | None:
        """Return the publisher's clock, extrapolated from its last report; None before the first one."""
        if self._sender_report is None:
            return None
        info, at = self._sender_report
        elapsed = now - at
        return RtcpSenderInfo(
            ntp_timestamp=(info.ntp_timestamp + int(elapsed * (1 << 32))) & 0xFFFFFFFFFFFFFFFF,
            rtp_timestamp=(info.rtp_timestamp + int(elapsed * clock_rate)) & 0xFFFFFFFF,
            packet_count=0,
            octet_count=0,
        )

    def report(self, highest: int, received: int, now: float) -> tuple[int, int, int, int]:
        """Return fraction lost (of 256), total lost, and LSR and DLSR for a receiver report (RFC 3550, 6.4.1).

        Args:
            highest: the extended highest sequence number.
            received: how many packets came.
            now: `time.monotonic()`.
        """
        expected = highest - self.first + 1
        new, came = expected - self._seen[0], received - self._seen[1]
        self._seen = (expected, received)
        fraction = min(255, max(0, ((new - came) << 8) // new)) if new > 0 else 0
        if self._sender_report is None:
            return fraction, max(0, expected - received), 0, 0
        info, at = self._sender_report
        lsr = (info.ntp_timestamp >> 16) & 0xFFFFFFFF
        return fraction, max(0, expected - received), lsr, min(0xFFFFFFFF, int((now - at) * 65536))
