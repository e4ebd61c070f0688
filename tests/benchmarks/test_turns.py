"""A load that takes turns ends, and says why it could not."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from benchmarks.processes import MeasurementError, free_port
from benchmarks.turns import start_load

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="CPU time is read from /proc"), pytest.mark.long]


def order_on(port: int) -> dict[str, Any]:
    lines = [{"port": port, "pid": 1, "resumable": False}]
    return {"lines": lines, "pairs": 1, "in_flight": 1, "seconds": 0.1, "turns": 1}


def test_what_a_load_ended_with_is_in_the_error() -> None:
    with pytest.raises(MeasurementError, match="ConnectionRefusedError"):
        start_load("benchmarks.versions", order_on(free_port()), core=None)


def test_a_load_that_hangs_is_ended() -> None:
    with pytest.raises(MeasurementError, match="did not end within"):
        start_load("benchmarks.versions", order_on(free_port()) | {"turns": 0, "seconds": 0.0}, core=None, setup=0.0)
