"""The comparison of two versions pairs slices of the same turn; how fast anything is, no test says."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from benchmarks.load import TOKEN, client_ids
from benchmarks.servers import service
from benchmarks.turns import Slice
from benchmarks.versions import app, ratios

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="CPU time is read from /proc"), pytest.mark.long]


def slice_of(cpu_us: float) -> Slice:
    return Slice(seconds=0.2, messages=100, cpu_us=cpu_us, nats_cpu_us=0.0, load_cpu=0.5, p50_ms=1.0, p99_ms=2.0)


def test_each_slice_is_compared_with_that_of_its_own_turn() -> None:
    earlier = [slice_of(10.0), slice_of(20.0), slice_of(10.0)]
    later = [slice_of(11.0), slice_of(24.0), slice_of(13.0)]

    assert ratios(earlier, later) == pytest.approx((1.15, 1.2, 1.25))


def test_a_load_that_takes_turns_is_drained_and_started_again() -> None:
    tokens = {client_id: TOKEN for pair in client_ids(2) for client_id in pair}
    with service(tokens) as server:
        order = {
            "lines": [{"port": server.port, "pid": server.pid, "resumable": True}],
            "pairs": 2,
            "in_flight": 2,
            "seconds": 0.1,
            "turns": 2,
        }
        outcome = CliRunner().invoke(app, ["load", json.dumps(order)])

    assert outcome.exit_code == 0, outcome.output
    (taken,) = json.loads(outcome.output)
    assert len(taken) == 2
    assert all(each["messages"] and each["cpu_us"] for each in taken)


def test_a_revision_that_is_not_there_is_one_line() -> None:
    outcome = CliRunner().invoke(app, ["run", "no-such-revision"])

    assert outcome.exit_code == 1
    assert "no such revision" in outcome.output
