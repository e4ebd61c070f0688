"""What a receiver report says of one stream."""

from __future__ import annotations

from aiortc.rtp import RtcpSenderInfo

from signal_manager.sfu.reports import StreamReports


def info(ntp: int = 5 << 32, rtp: int = 1000) -> RtcpSenderInfo:
    return RtcpSenderInfo(ntp_timestamp=ntp, rtp_timestamp=rtp, packet_count=7, octet_count=70)


def test_losses_are_told_since_the_last_report_and_in_all() -> None:
    reports = StreamReports()
    reports.first = 100

    assert reports.report(103, 2, 0.0) == (128, 2, 0, 0)
    assert reports.report(107, 6, 0.0) == (0, 2, 0, 0)
    assert reports.report(107, 6, 0.0) == (0, 2, 0, 0)


def test_the_publishers_last_report_and_its_age_are_told() -> None:
    reports = StreamReports()
    reports.take(info(), 10.0)

    _, _, lsr, dlsr = reports.report(0, 1, 12.0)

    assert (lsr, dlsr) == (5 << 16, 2 * 65536)


def test_the_publishers_clock_goes_on_between_its_reports() -> None:
    reports = StreamReports()
    assert reports.clock(90_000, 10.0) is None

    reports.take(info(), 10.0)
    clock = reports.clock(90_000, 11.5)

    assert clock == RtcpSenderInfo(
        ntp_timestamp=(5 << 32) + (3 << 31), rtp_timestamp=1000 + 135_000, packet_count=0, octet_count=0
    )
    reports.reset()
    assert reports.clock(90_000, 12.0) is None
