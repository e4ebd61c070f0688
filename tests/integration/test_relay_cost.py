"""What one relayed signal may cost, counted in calls of the service's own functions: no clock, no machine's mood."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import signal_manager
from signal_manager.form import is_compiled
from tests.integration.conftest import Service
from tests.integration.v1_client import ALICE, BOB, connect

SOURCES = f"{Path(signal_manager.__file__).parent}/"
# A read of what does not fit into the first read buffer, so that those of both clients grow.
BURST = 25
PADDING = "x" * 1000

RELAYED = Counter(get_buffer=1, on_ws_frame=1, _relay=1, read=1, write=1, send=1)


@contextmanager
def calls() -> Iterator[Counter[str]]:
    """Count the calls of the service's functions, by name, while the block lasts."""
    counted: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(SOURCES):
            counted[frame.f_code.co_name] += 1

    sys.setprofile(count)
    try:
        yield counted
    finally:
        sys.setprofile(None)


@pytest.mark.skipif(is_compiled(), reason="the compiled form calls no Python functions, which are what is counted")
@pytest.mark.parametrize(
    ("resumable", "beside"), [(False, Counter[str]()), (True, Counter(take=1, keep=1))], ids=["plain", "resumable"]
)
async def test_a_relayed_signal_takes_no_more_calls_than_it_needs(
    service: Service, resumable: bool, beside: Counter[str]
) -> None:
    signal = {"target_client_id": BOB[0], "signal_data": PADDING}
    async with connect(service.url) as alice, connect(service.url) as bob:
        for client, (client_id, token) in ((alice, ALICE), (bob, BOB)):
            await client.send("CONNECT", {"client_id": client_id, "auth_token": token, "resumable": resumable})
            await client.expect("CONNECT_ACK")
        for _ in range(BURST):
            await alice.send("SIGNAL_OFFER", signal)
        for _ in range(BURST):
            await bob.expect("SIGNAL_OFFER")

        with calls() as counted:
            await alice.send("SIGNAL_OFFER", signal)
            await bob.expect("SIGNAL_OFFER")

    # Ticks and sweeps of a slow machine may fall into it; what a signal takes is counted by its names.
    expected = RELAYED + beside
    assert {name: counted[name] for name in expected} == expected
    assert not counted.keys() & {"_bounded", "is_established", "_may_send", "refill", "flush", "_hold"}
