"""`signal-manager sfu`: where it says it is, how it ends, and what it refuses; media is in tests/sfu."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from signal_manager.cli import sfu as command
from tests.cli.test_main import Run, assert_one_error, run

__all__ = ["run"]  # a fixture

SECRET = "a secret of this test"
ORDER = {
    "index": 1,
    "host": "127.0.0.1",
    "udp_port": 0,
    "public_addresses": [],
    "app_id": "a" * 32,
    "app_secret": SECRET,
    "faults": None,
    "max_packets_per_second": 100,
}
# A worker that takes its order and says where it would be.
WORKER = "import sys; sys.stdin.readline(); print('http://127.0.0.1:9/v1', flush=True); sys.stdin.read()"


def test_the_local_sfu_tells_where_it_is_and_stops_in_order() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "signal_manager", "sfu", "--port", "0", "--json", "--app-id", "a" * 32],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        shown = json.loads("".join(process.stdout.readline() for _ in range(5)))
        url = f"{shown['base_url']}/apps/{shown['app_id']}/sessions/new"
        opened = httpx.post(url, headers={"Authorization": f"Bearer {shown['app_secret']}"}, timeout=10)
        refused = httpx.post(url, headers={"Authorization": "Bearer wrong"}, timeout=10)
        process.send_signal(signal.SIGTERM)

        assert process.wait(20) == 0
        assert (opened.status_code, refused.status_code) == (201, 401)
    finally:
        process.kill()
        process.communicate()


def test_the_local_sfu_explains_faults_that_are_none(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    file.write_text("[[faults]]\nkind = 'gremlins'\n")

    assert_one_error(run("sfu", "--faults", str(file)), "gremlins")
    assert_one_error(run("sfu", "--faults", "nowhere.toml"), "faults file")


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """End the command by SIGTERM once it has printed where it is, and return what it printed as JSON."""
    shown: list[dict[str, Any]] = []

    def show(document: dict[str, Any]) -> None:
        shown.append(document)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(command, "print_json", show)
    return shown


def test_a_secret_that_is_made_up_is_printed_and_a_given_one_is_not(run: Run, stopped: list[dict[str, Any]]) -> None:
    made_up = run("sfu", "--port", "0", "--json")
    given = run("sfu", "--port", "0", "--json", "--app-id", "a" * 32, "--app-secret", SECRET)

    assert (made_up.status, given.status) == (0, 0)
    assert [set(shown) for shown in stopped] == [{"base_url", "app_id", "app_secret"}, {"base_url", "app_id"}]
    assert stopped[1]["app_id"] == "a" * 32
    assert SECRET not in given.out + given.err


def test_several_workers_are_told_all_settings_and_share_one_url(
    run: Run, stopped: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_WORK", WORKER)

    result = run("sfu", "--port", "0", "--workers", "2", "--json")

    assert result.status == 0
    assert len(stopped) == 1
    assert stopped[0]["base_url"] != "http://127.0.0.1:9/v1"


def test_a_person_reads_one_line_for_each_value(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def write(self, text: str) -> int:
            if text.startswith("app_secret"):
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(text)

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)

    assert run("sfu", "--port", "0").status == 0
    assert [line.split()[0] for line in terminal.getvalue().splitlines()] == ["base_url", "app_id", "app_secret"]


def test_faults_that_are_none_are_refused_once_before_workers_start(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    file.write_text("[[faults]]\nkind = 'gremlins'\n")

    assert_one_error(run("sfu", "--workers", "2", "--faults", str(file)), "gremlins")


def test_without_the_sfu_the_command_says_how_to_install_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "signal_manager.sfu", None)  # its import fails as if it were not installed

    for arguments in ((), ("--workers", "2")):
        assert_one_error(run("sfu", "--port", "0", *arguments), "pip install 'signal-manager[sfu]'")


# One of several workers


def test_a_worker_says_where_it_is_and_ends_with_its_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(ORDER) + "\n"))

    command.work()

    assert capsys.readouterr().out.startswith("http://127.0.0.1:")


def test_a_worker_that_cannot_listen_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order = ORDER | {"host": "192.0.2.1"}  # RFC 5737: an address that no machine has
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(order) + "\n"))

    with pytest.raises(SystemExit) as ended:
        command.work()

    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert said.err.startswith("signal-manager: ")
    assert said.err.count("\n") == 1
