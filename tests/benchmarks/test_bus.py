"""The comparison over nodes pairs slices of the same turn; how fast anything is, no test says."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence

import pytest
from typer.testing import CliRunner

from benchmarks import bus
from benchmarks.bus import RATIOS, Taken, app
from benchmarks.turns import Slice
from tests.nats_server import NatsServer

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="CPU time is read from /proc"), pytest.mark.long]


def taken(cpu_us: Sequence[float], *, nats_cpu_us: float = 0.0, messages: int = 100, p50_ms: float = 1.0) -> Taken:
    slices = [
        Slice(
            seconds=0.2,
            messages=messages,
            cpu_us=each,
            nats_cpu_us=nats_cpu_us,
            load_cpu=0.5,
            p50_ms=p50_ms,
            p99_ms=9.0,
        )
        for each in cpu_us
    ]
    return Taken(slices, p50_ms=p50_ms, p99_ms=9.0)


def test_what_two_workers_can_relay_follows_from_the_cpu_time_of_each_turn() -> None:
    arrangements = {
        "one": taken([10.0, 20.0, 10.0]),
        "two by chance": taken([10.0, 25.0, 12.5], nats_cpu_us=10.0, messages=80),
        "near": taken([50.0] * 3),
        "far": taken([50.0] * 3, p50_ms=5.0),
    }

    measured, elsewhere, here, latency = (ratio.of(arrangements) for ratio in RATIOS)

    assert measured.median == pytest.approx(0.8)
    assert elsewhere == pytest.approx((1.6, 1.6, 1.8))
    assert here.median == pytest.approx(1.0)
    assert latency.median == pytest.approx(5.0)


def test_each_bar_is_judged_in_its_own_direction() -> None:
    assert [ratio.verdict(2.0) for ratio in RATIOS] == [
        "",
        " (within the bar of 1.6)",
        "",
        " (within the bar of 4.0)",
    ]
    assert [ratio.verdict(each) for ratio, each in zip(RATIOS, (1.0, 1.5, 1.0, 4.5), strict=True)] == [
        "",
        " (under the bar of 1.6)",
        "",
        " (over the bar of 4.0)",
    ]


def test_a_short_run_loads_every_arrangement(monkeypatch: pytest.MonkeyPatch) -> None:
    NatsServer()  # skips where there is none
    monkeypatch.setattr(bus, "_SUBJECTS", 100)
    tiny = ["--pairs", "4", "--in-flight", "2", "--seconds", "0.3", "--turns", "2"]

    outcome = CliRunner().invoke(app, ["run", *tiny, "--json", "-"])

    assert outcome.exit_code == 0, outcome.output
    results = json.loads(outcome.stdout)
    arrangements = results["arrangements"]
    assert arrangements.keys() == {"one", "two by chance", "two together", "two apart", "near", "far"}
    for each in arrangements.values():
        assert len(each["slices"]) == 2
        assert all(measured["messages"] and measured["cpu_us"] for measured in each["slices"])
        assert 0 < each["p50_ms"] <= each["p99_ms"]
    # Only what crosses from node to node goes through NATS.
    for apart, together in (("two apart", "two together"), ("far", "near")):
        costs = [sum(each["nats_cpu_us"] for each in arrangements[name]["slices"]) for name in (apart, together)]
        assert costs[0] > costs[1]
    assert results["ratios"].keys() == {ratio.title for ratio in RATIOS}
    assert results["subjects"]["count"] == 100


def test_without_a_nats_server_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)

    outcome = CliRunner().invoke(app, ["run"])

    assert outcome.exit_code == 1
    assert "there is no nats-server on the PATH" in outcome.output
