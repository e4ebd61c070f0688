"""What a newcomer meets: a terminal with three lines, and a browser that finds the pages from the first port."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from signal_manager.gateway.server import Dashboard
from tests.integration.conftest import ServiceWith
from tests.web import plain_http

LIMIT = 30.0
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


class Terminal:
    """`signal-manager serve` as a person starts it; what it prints is in `shown`."""

    def __init__(self, folder: Path) -> None:
        self._main, other = pty.openpty()
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SIGNAL_MANAGER_")}
        environ |= {"SIGNAL_MANAGER_METRICS_PORT": "0", "TERM": "xterm", "NO_COLOR": "1"}
        # Lines of the log about what goes on come soon, if they come at all.
        environ |= {
            "SIGNAL_MANAGER_METRICS_CONNECTION_STATS_INTERVAL": "0.05",
            "SIGNAL_MANAGER_METRICS_MESSAGE_STATS_INTERVAL": "0.05",
        }
        command = [sys.executable, "-m", "signal_manager", "serve", "--port", "0"]
        self.process = subprocess.Popen(command, cwd=folder, env=environ, stdin=other, stdout=other, stderr=other)
        os.close(other)
        self.shown = ""

    def read_until(self, text: str | None) -> None:
        """Read until this is shown, or to the end."""
        until = time.monotonic() + LIMIT
        while text is None or text not in self.shown:
            ready, _, _ = select.select([self._main], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"expected {text!r}, got {self.shown!r}"
            try:
                more = os.read(self._main, 65536)
            except OSError:  # the other end is closed
                more = b""
            if not more:
                assert text is None, self.shown
                return
            self.shown += more.decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


@pytest.mark.long
async def test_a_person_sees_three_lines_and_no_json_and_no_warning(terminal: Terminal) -> None:
    terminal.read_until("Ctrl-C stops the service\r\n")

    lines = terminal.shown.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["demo", "dashboard", "try it"]
    assert "warning" not in terminal.shown
    demo, dashboard = lines[0].split()[1], lines[1].split()[1]
    assert "signal_manager try --url ws://127.0.0.1:" in lines[2]
    port = lines[2].partition("ws://127.0.0.1:")[2].split()[0]
    async with plain_http() as http:
        assert "<html" in (await http.get(demo)).text
        assert "<html" in (await http.get(dashboard)).text
        sent = await http.get(f"http://127.0.0.1:{port}/", headers=BROWSER)
        assert (sent.status_code, sent.headers["location"]) == (302, dashboard)

    terminal.process.send_signal(signal.SIGINT)
    terminal.read_until(None)

    assert terminal.process.wait(LIMIT) == 0
    assert "service stopped" in terminal.shown
    assert "statistics" not in terminal.shown, "there was nothing to count"
    assert '"event"' not in terminal.shown


@pytest.mark.parametrize("path", ["/", "/ws"])
async def test_a_browser_on_this_machine_is_sent_to_the_pages(path: str, service_with: ServiceWith) -> None:
    service = await service_with(**{"metrics.enabled": True, "metrics.port": 0})

    async with plain_http() as http:
        answer = await http.get(f"{service.http}{path}", headers=BROWSER)
        page = await http.get(answer.headers["location"])

    assert answer.status_code == 302
    assert answer.headers["cache-control"] == "no-store"
    assert "<html" in page.text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Accept": "application/json"},
        BROWSER | {"X-Forwarded-For": "192.0.2.1"},
        BROWSER | {"Host": "signal.example.org"},
    ],
)
async def test_others_are_not_sent_to_what_they_cannot_reach(
    headers: dict[str, str], service_with: ServiceWith
) -> None:
    service = await service_with(**{"metrics.enabled": True, "metrics.port": 0})

    async with plain_http() as http:
        answer = await http.get(service.http, headers=headers)

    assert answer.status_code >= 400
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("host", "location"),
    [
        ("signal.example.org:8080", "http://signal.example.org:9090/"),
        ("[2001:db8::1]:8080", "http://[2001:db8::1]:9090/"),
        ("evil.example/path", None),
        ("a b", None),
        ("user@signal.example.org", None),
    ],
)
async def test_where_the_pages_are_for_others_too_a_browser_keeps_its_name_for_the_host(
    host: str, location: str | None, service_with: ServiceWith
) -> None:
    service = await service_with()
    service.server.dashboard = Dashboard("0.0.0.0", 9090, is_loopback=False)

    async with plain_http() as http:
        answer = await http.get(service.http, headers=BROWSER | {"Host": host})

    assert answer.headers.get("location") == location


async def test_without_pages_nobody_is_sent_anywhere(service_with: ServiceWith) -> None:
    service = await service_with(**{"metrics.enabled": True, "metrics.port": 0, "admin.enabled": False})

    async with plain_http() as http:
        answer = await http.get(service.http, headers=BROWSER)

    assert "location" not in answer.headers
