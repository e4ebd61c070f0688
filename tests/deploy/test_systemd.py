"""The systemd unit, as systemd itself reads it where it is installed."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from signal_manager.cli.main import HUMAN_ERROR
from signal_manager.service.settings import Config

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "signal-manager.service"
SYSTEMD = shutil.which("systemd-analyze")

# As `systemd-analyze security` counts, from 0 to 10; a unit without any protection has 9.6.
EXPOSURE = 20  # tenths


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with a program that exists on this machine."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/signal-manager/bin/signal-manager", sys.executable))
    return unit


def section(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as its documentation says
    parser.read_string(UNIT.read_text())
    return parser[name]


@pytest.mark.skipif(SYSTEMD is None, reason="there is no systemd-analyze")
def test_systemd_understands_every_line(installed: Path) -> None:
    verified = subprocess.run([str(SYSTEMD), "verify", installed], capture_output=True, text=True, check=False)

    assert installed.name not in verified.stderr, verified.stderr
    assert verified.returncode == 0, verified.stderr


@pytest.mark.skipif(SYSTEMD is None, reason="there is no systemd-analyze")
def test_the_unit_is_exposed_to_little(installed: Path) -> None:
    looked_at = [str(SYSTEMD), "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(installed)]

    report = subprocess.run(looked_at, capture_output=True, text=True, check=False)

    assert report.returncode == 0, report.stdout[-200:] + report.stderr


def test_the_service_has_time_to_drain_and_is_not_restarted_with_a_configuration_that_is_wrong() -> None:
    service = section("Service")

    assert float(service["TimeoutStopSec"]) > Config().server.drain_timeout
    assert service["RestartPreventExitStatus"] == str(HUMAN_ERROR)
    assert "HUP" in service["ExecReload"]
