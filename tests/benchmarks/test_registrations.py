"""The registrations benchmark compares each slice with its neighbour; how fast anything is, no test says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.registrations import app, costs_us, kept
from benchmarks.results import Spread
from benchmarks.slices import Slice

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="CPU time is read from /proc"), pytest.mark.long]


def slice_of(*, messages: int, answers: int, server_cpu: float) -> Slice:
    return Slice(seconds=1.0, messages=messages, answers=answers, server_cpu=server_cpu, helpers_cpu=0.0, load_cpu=0.5)


def test_a_request_costs_what_is_left_when_the_messages_of_its_slice_are_paid_for() -> None:
    alone = slice_of(messages=1000, answers=0, server_cpu=0.50)
    beside = slice_of(messages=1200, answers=100, server_cpu=0.61)

    assert costs_us([(alone, beside)]) == pytest.approx((100.0, 100.0, 100.0))
    assert kept([(alone, beside)]) == pytest.approx((1.2, 1.2, 1.2))


def test_a_spread_is_the_median_with_a_quarter_on_either_side() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 3.0, 4.0]) == (2.0, 3.0, 4.0)


def test_a_short_run_compares_both_stores(tmp_path: Path) -> None:
    target = tmp_path / "registrations.json"
    load = ["--pairs", "2", "--in-flight", "2", "--offers", "200", "--rate", "40", "--seconds", "0.25", "--rounds", "1"]

    outcome = CliRunner().invoke(app, [*load, "--json", str(target)])

    assert outcome.exit_code == 0, outcome.output
    assert "registrations, on SQLite" in outcome.output
    results = json.loads(target.read_text())
    assert results["left"].keys() == {"storage", "all"}
    for loaded in ("steady", "saturated"):
        assert results[loaded].keys() == {"memory", "sqlite"}
        blocks = results[loaded]["sqlite"]
        assert sum(len(block["alone"]) for block in blocks) == 1
        assert all(each["answers"] for block in blocks for each in block["beside"]["register"])
