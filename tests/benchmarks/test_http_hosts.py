"""The HTTP benchmark asks each server the same; what a request costs, no test says."""

from __future__ import annotations

import sys

import pytest

from benchmarks.http_hosts import REQUESTS, measure

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="CPU time is read from /proc"),
    pytest.mark.long,
]


@pytest.mark.parametrize("host", ["ours", "uvicorn-httptools"])
def test_each_kind_of_request_is_answered_and_measured(host: str) -> None:
    assert all(figure > 0 for figure in measure(host, 50))
    assert len(REQUESTS) == 3
