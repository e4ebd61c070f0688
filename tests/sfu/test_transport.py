"""The UDP port that all sessions share."""

from __future__ import annotations

import socket
import sys

import pytest

from signal_manager.sfu.metrics import Counters
from signal_manager.sfu.transport import MediaPort


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
async def test_what_the_kernel_had_no_room_for_is_counted() -> None:
    """Media that is lost before the SFU reads it must not look like a network's loss."""
    counters = Counters()
    port = MediaPort(counters)
    await port.start("127.0.0.1", 0)
    [address] = port.candidates
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        for _ in range(40_000):  # while this loop runs, nobody reads
            flood.sendto(bytes(1000), address)

    port.count_missed()
    await port.stop()
    port.count_missed()

    assert counters.datagrams_missed > 1000
