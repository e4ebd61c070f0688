"""The comparison of Pythons runs the service as it says; how fast anything is, no test says."""

from __future__ import annotations

import json
import platform
import sys

import pytest
from typer.testing import CliRunner

from benchmarks.pythons import app

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="CPU time is read from /proc"), pytest.mark.long]


def test_a_short_run_measures_the_relay_under_every_combination() -> None:
    choice = ["--loop", "uvloop", "--loop", "asyncio", "--gc", "default", "--gc", "off"]

    outcome = CliRunner().invoke(app, [*choice, "--pairs", "2", "--rounds", "1", "--seconds", "0.2", "--json", "-"])

    assert outcome.exit_code == 0, outcome.output
    rows = json.loads(outcome.stdout)["results"]
    version = platform.python_version()
    assert [row["name"] for row in rows] == [
        f"{version}, {loop}, gc {collecting}" for loop in ("uvloop", "asyncio") for collecting in ("default", "off")
    ]
    assert all(row["cpu_us"] > 0 and row["rss_mib"] > 0 for row in rows)


def test_an_interpreter_that_is_not_there_is_one_line() -> None:
    outcome = CliRunner().invoke(app, ["--python", "/no/such/python"])

    assert outcome.exit_code == 1
    assert "No such file" in outcome.output


def test_an_unknown_loop_is_named_with_those_there_are() -> None:
    outcome = CliRunner().invoke(app, ["--loop", "twisted"])

    assert outcome.exit_code == 2
    assert "twisted" in outcome.output
