"""The reunion benchmark brings every client back and accounts for what they say; how quickly, no test says."""

from __future__ import annotations

import sys

import pytest

from benchmarks.reunion import CASES, costs, storm

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="CPU time is read from /proc"),
    pytest.mark.long,
]


def test_every_step_of_a_connect_is_measured() -> None:
    figures = costs(20, 1, lambda line: None)

    assert [cost.name for cost in figures] == [case.name for case in CASES]
    assert all(cost.connects_per_second > 0 for cost in figures)


@pytest.mark.parametrize(("end", "resumed"), [("killed", 0), ("drained", 20)])
def test_all_clients_come_back(end: str, resumed: int) -> None:
    reunion = storm(20, end=end, is_secure=False, report=lambda line: None)

    assert reunion.resumed == resumed
    assert reunion.last_served > 0
    assert reunion.p99 > 0


def test_clients_come_back_over_tls() -> None:
    assert storm(20, end="drained", is_secure=True, report=lambda line: None).resumed == 20
