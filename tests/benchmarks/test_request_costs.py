"""The benchmark of requests shows every case; how fast anything is, no test says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.request_costs import Case, Taken, app, verdicts

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="CPU time is read from /proc"), pytest.mark.long]


def case(title: str, microseconds: float) -> Case:
    return Case(title, [Taken(microseconds / 1e6, 0.0, 0.0)])


def test_an_event_is_the_change_in_a_large_room_without_that_in_a_small_one_and_without_sending() -> None:
    titles = (
        "relayed signal",
        "REGISTER in memory",
        "REGISTER on SQLite",
        "ROOM_JOIN in memory, no media",
        "ROOM_JOIN on SQLite, no media",
    )
    cases = {title: case(title, 10.0) for title in titles}
    cases["HEARTBEAT"] = case("HEARTBEAT", 15.0)
    cases["METADATA_UPDATE, room of 1"] = case("", 200.0)
    cases["METADATA_UPDATE, room of 100"] = case("", 1200.0)

    judged = {verdict.what: verdict for verdict in verdicts(cases, 700e-6, 100)}

    assert judged["a room event to 100 members, without 700 µs for sending:"].figure == pytest.approx(300.0)
    assert not judged["HEARTBEAT, of a relayed signal:"].is_within


def test_a_short_run_shows_every_case(tmp_path: Path) -> None:
    target = tmp_path / "requests.json"

    outcome = CliRunner().invoke(app, ["--rounds", "1", "--burst", "3", "--members", "13", "--json", str(target)])

    assert outcome.exit_code == 0, outcome.output
    assert "room event to 13 members" in outcome.output
    results = json.loads(target.read_text())
    assert results["cases"].keys() >= {"HEARTBEAT", "REGISTER on SQLite", "ROOM_JOIN with the embedded SFU"}
    assert results["sfu_us"] > results["sdp_us"] > 0
