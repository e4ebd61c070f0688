"""The relay benchmark measures what it says and writes it in a stable shape; how fast anything is, no test says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.load import Measurement
from benchmarks.processes import MeasurementError, free_port, running
from benchmarks.relay import app, compare, medians
from benchmarks.servers import FLOOR, GORILLA, SERVICE, TUNGSTENITE, WEBSOCKETS, WS, why_skipped

FIGURES = {
    "messages",
    "messages_per_second",
    "cpu_us_per_message",
    "p50_ms",
    "p99_ms",
    "server_cpu_percent",
    "load_cpu_percent",
}

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="CPU time is read from /proc"), pytest.mark.long]


def measurement(*, cpu: float, p50: float = 1.0, p99: float = 2.0) -> Measurement:
    return Measurement(
        messages=1000,
        messages_per_second=1000.0,
        cpu_us_per_message=cpu,
        p50_ms=p50,
        p99_ms=p99,
        server_cpu_percent=100.0,
        load_cpu_percent=50.0,
    )


@pytest.mark.parametrize("server", [FLOOR, GORILLA, TUNGSTENITE, WEBSOCKETS, WS])
def test_a_short_run_writes_every_figure_of_every_round(server: str, tmp_path: Path) -> None:
    if (reason := why_skipped(server)) is not None:
        pytest.skip(reason)
    target = tmp_path / "relay.json"
    arguments = ["--only", server, "--pairs", "2", "--in-flight", "3", "--seconds", "0.5", "--rounds", "2"]

    outcome = CliRunner().invoke(app, [*arguments, "--json", str(target)])

    assert outcome.exit_code == 0, outcome.output
    results = json.loads(target.read_text())
    assert results["load"]["in_flight"] == [3]
    (row,) = results["results"]
    assert (row["server"], row["in_flight"]) == (server, 3)
    assert row.keys() == {"server", "in_flight", "rounds"} | FIGURES
    assert [taken.keys() for taken in row["rounds"]] == [FIGURES, FIGURES]
    assert all(taken["messages"] > 0 and taken["cpu_us_per_message"] > 0 for taken in row["rounds"])
    assert results["ratios"] == []


def test_an_unknown_server_is_named_with_those_there_are() -> None:
    outcome = CliRunner().invoke(app, ["--only", "apache"])

    assert outcome.exit_code == 2
    assert "expected one of service, floor, tungstenite, gorilla, ws, websockets, got apache" in " ".join(
        outcome.output.split()
    )


def test_a_figure_is_the_median_of_its_rounds() -> None:
    figures = medians({(SERVICE, 1): [measurement(cpu=30), measurement(cpu=10), measurement(cpu=11)]})

    assert figures[SERVICE, 1].cpu_us_per_message == 11


def test_bars_hold_up_to_and_including_their_limit() -> None:
    ratios = compare(
        {
            (SERVICE, 1): measurement(cpu=48, p50=1.0, p99=2.1),
            (WEBSOCKETS, 1): measurement(cpu=100),
            (WS, 1): measurement(cpu=50),
        }
    )

    over = {(ratio.reference, ratio.measure): ratio.is_over for ratio in ratios if ratio.limit is not None}
    assert over == {(WEBSOCKETS, "cpu"): False, (WS, "cpu"): True, (WS, "p50"): False, (WS, "p99"): True}


def test_loads_without_a_bar_are_compared_and_never_over() -> None:
    ratios = compare({(SERVICE, 5): measurement(cpu=99), (WS, 5): measurement(cpu=1)})

    assert [ratio.limit for ratio in ratios] == [None, None, None]
    assert not any(ratio.is_over for ratio in ratios)


def test_a_server_that_does_not_start_says_why() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such table')"]

    with pytest.raises(MeasurementError, match="status 1:\nno such table"), running(command, port=free_port()):
        pass
