"""The scale curves compare points of the same round and draw what they measured; how fast anything is, no test says."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from benchmarks.curves import CURVES, PICTURES, Series, app, draw
from tests.nats_server import NatsServer

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="CPU time is read from /proc"), pytest.mark.long]


def test_each_slice_is_compared_with_the_smallest_point_of_its_own_round() -> None:
    series = Series.of("relayed offer", {"1": [10.0, 20.0, 10.0], "10": [11.0, 22.0, 15.0]}, "")

    assert series.ratios["10"].median == pytest.approx(1.1)
    assert series.is_flat
    assert series.verdict == "flat"


def test_a_point_that_is_dearer_has_its_reason_beside_it_or_says_that_there_is_none() -> None:
    dearer = {"1": [10.0, 10.0], "10": [13.0, 13.0]}

    assert Series.of("x", dearer, "the processor's caches").verdict == "not flat: the processor's caches"
    assert Series.of("x", dearer, "").verdict == "not flat: no reason is known"


def test_a_picture_is_xml_with_every_point_and_both_grounds() -> None:
    curve = CURVES["rooms"]
    svg = draw(curve, [Series.of("a < b", {"1": [1.0], "10": [1.1]}, ""), Series.of("c", {"10": [2.0]}, "")])

    root = ElementTree.fromstring(svg)
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 3
    assert "prefers-color-scheme: dark" in svg
    assert len({(circle.get("cx"), circle.get("cy")) for circle in circles}) == 3


def test_the_docs_have_a_picture_of_every_curve() -> None:
    assert {path.stem for path in PICTURES.glob("*.svg")} == set(CURVES)


@pytest.mark.parametrize("name", CURVES)
def test_a_quick_run_takes_every_series_and_draws_it(name: str, tmp_path: Path) -> None:
    if name == "nodes":
        NatsServer()  # skips where there is none
    target = tmp_path / "curves.json"
    quick = ["--quick", "--seconds", "0.1", "--only", name, "--draw", "--folder", str(tmp_path)]

    outcome = CliRunner().invoke(app, [*quick, "--json", str(target)])

    assert outcome.exit_code == 0, outcome.output
    taken = json.loads(target.read_text())["curves"][name]
    assert all(cost > 0 for series in taken.values() for cost in series["cpu_us"].values())
    assert all(name in outcome.output for name in taken)
    ElementTree.fromstring((tmp_path / f"{name}.svg").read_text())


def test_an_unknown_curve_is_named_with_those_there_are() -> None:
    outcome = CliRunner().invoke(app, ["--only", "moons"])

    assert outcome.exit_code == 2
    assert "moons" in outcome.output


def test_without_a_nats_server_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)

    outcome = CliRunner().invoke(app, ["--quick", "--only", "nodes"])

    assert outcome.exit_code == 1
    assert "there is no nats-server on the PATH" in outcome.output
