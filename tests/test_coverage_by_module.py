"""The check of what unit tests reach names what is below its limit, and its list only shrinks."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tools.coverage_by_module import REMAINING, ROOT, SOURCES, compare, measured, missing, percentages


def test_a_module_below_the_limit_is_named_with_what_was_expected() -> None:
    assert list(compare({"rooms/a.py": 84.9, "rooms/b.py": 85.0}, [])) == [
        "rooms/a.py: unit tests reach 84.9 %, expected at least 85 %"
    ]


def test_the_protocol_is_reached_as_a_whole() -> None:
    assert list(compare({"protocol/a.py": 99.0}, [])) == [
        "protocol/a.py: unit tests reach 99.0 %, expected at least 100 %"
    ]


def test_a_module_on_the_list_may_be_below_the_limit() -> None:
    assert list(compare({"rooms/a.py": 20.0}, ["rooms/a.py"])) == []


@pytest.mark.parametrize("percent", [85.1, 86.9])
def test_a_module_on_the_list_that_timing_took_over_the_limit_is_no_finding(percent: float) -> None:
    assert list(compare({"rooms/a.py": percent}, ["rooms/a.py"])) == []


def test_the_list_only_shrinks() -> None:
    findings = list(compare({"rooms/a.py": 90.0}, ["rooms/a.py", "rooms/gone.py"]))

    assert findings == [
        f"rooms/a.py: unit tests reach 90.0 %; take it out of {REMAINING}",
        f"rooms/gone.py: there is no such module; take it out of {REMAINING}",
    ]


def test_lines_in_a_row_are_one_range() -> None:
    assert missing({"missing_lines": [7, 8, 9, 12, 20, 21]}) == "7-9, 12, 20-21"
    assert missing({"missing_lines": []}) == ""


def test_the_list_names_modules_that_exist() -> None:
    listed = tomllib.loads((ROOT / REMAINING).read_text())["remaining"]

    assert listed == sorted(set(listed))
    assert [module for module in listed if not (ROOT / SOURCES / module).exists()] == []


@pytest.mark.long
def test_what_pytest_measured_is_what_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVERAGE_FILE", str(tmp_path / "measured"))
    script = tmp_path / "script.py"
    script.write_text("import signal_manager.gateway.shares\n")
    subprocess.run([sys.executable, "-m", "coverage", "run", script], cwd=ROOT, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "coverage", "combine"], cwd=ROOT, check=True, capture_output=True)

    reached = percentages(measured())

    assert 0 < reached["gateway/shares.py"] < 100
    assert reached["service/supervisor.py"] == 0
