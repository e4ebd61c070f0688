"""Log lines: where they go, what they look like, and what never gets into them."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.errors import ConfigurationError
from signal_manager.observe.logs import Logs, configure, escape_control_characters, tells

SECRET_NAMES = [
    "token",
    "auth_token",
    "resume_token",
    "secret",
    "token_secret",
    "Authorization",
    "proxy-authorization",
    "password",
    "api_key",
    "x-api-key",
    "credential",
    "sdp",
    "offer_sdp",
    "answer_sdp",
    "signal_data",
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


Start = Callable[..., Logs]


@pytest.fixture
def stderr() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def start(stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    running: list[Logs] = []

    def start(*, on: io.StringIO = stderr, **settings: Any) -> Logs:
        monkeypatch.setattr(sys, "stderr", on)
        running.append(configure(**settings))
        return running[-1]

    yield start
    for each in running:
        each.close()


def entries(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


log = structlog.get_logger("tests.logs")


def test_a_line_is_a_json_object_with_its_origin(stderr: io.StringIO, start: Start) -> None:
    start()

    log.info("client connected", client_id="alice", sessions=2)

    (entry,) = entries(stderr)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {
        "event": "client connected",
        "client_id": "alice",
        "sessions": 2,
        "level": "info",
        "logger": "tests.logs",
    }


@pytest.mark.parametrize("name", ["asyncio", "httpx", "picows", "anything.else"])
def test_the_standard_library_s_loggers_come_the_same_way(stderr: io.StringIO, start: Start, name: str) -> None:
    logging.getLogger(name).addHandler(logging.StreamHandler(stderr))
    logging.getLogger(name).propagate = name != "picows"
    if name == "anything.else":
        logging.getLogger(name).handlers.clear()
    start()

    logging.getLogger(name).warning("%d of %d", 1, 2)

    (entry,) = entries(stderr)
    assert (entry["event"], entry["level"], entry["logger"]) == ("1 of 2", "warning", name)


def test_warnings_become_log_lines(stderr: io.StringIO, start: Start) -> None:
    start()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old-fashioned", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)

    assert "old-fashioned" in entries(stderr)[0]["event"]


def test_lines_below_the_level_are_left_out(stderr: io.StringIO, start: Start) -> None:
    start(level="warning")

    log.info("left out")
    logging.getLogger("other").info("left out")
    log.error("kept")

    assert [entry["event"] for entry in entries(stderr)] == ["kept"]


def test_http_clients_tell_about_requests_at_debug_level_only_and_never_about_headers(
    stderr: io.StringIO, start: Start
) -> None:
    start(level="info").close()
    logging.getLogger("httpx").setLevel(logging.NOTSET)
    start(level="debug")

    logging.getLogger("httpx").info("GET /keys")
    logging.getLogger("hpack.table").debug("authorization: Bearer hunter2")
    logging.getLogger("httpcore.http11").debug("authorization: Bearer hunter2")

    assert [entry["event"] for entry in entries(stderr)] == ["GET /keys"]


@pytest.mark.parametrize("name", SECRET_NAMES)
@pytest.mark.parametrize("format", ["json", "console"])
def test_values_under_secret_names_are_removed(stderr: io.StringIO, start: Start, name: str, format: str) -> None:
    start(format=format)

    log.info("request", **{name: "hunter2"})
    log.info("request", message={"nested": [{name: {"type": "hunter2"}}, (b"1", {name: ["hunter2"]})]})

    assert "hunter2" not in stderr.getvalue()
    assert stderr.getvalue().count("***") == 3


def test_names_that_merely_resemble_secret_ones_are_kept(stderr: io.StringIO, start: Start) -> None:
    start()

    log.info("kept", tokens_issued=3, sdp_length=1200, token="", setting="auth.token_secret")

    entry = entries(stderr)[0]
    assert (entry["tokens_issued"], entry["sdp_length"], entry["token"]) == (3, 1200, "")
    assert entry["setting"] == "auth.token_secret"


EVIL = "alice\n2026-01-01T00:00:00Z [info] all is well\r\x1b[2J\u2028\u202e"


@pytest.mark.parametrize("format", ["json", "console"])
def test_no_value_can_forge_a_line_or_command_the_terminal(stderr: io.StringIO, start: Start, format: str) -> None:
    start(format=format)

    log.info(EVIL, client_id=EVIL, nested=[EVIL])
    logging.getLogger("asyncio").warning("%s", EVIL)

    lines = stderr.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    assert escape_control_characters(text).isprintable()
    assert escape_control_characters(text) == text or not text.isprintable()


def fail(_secret: str) -> None:
    raise ValueError(f"broken\n{EVIL}")


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_traceback_shows_no_variables_and_starts_no_line_of_its_own(
    stderr: io.StringIO, start: Start, format: str
) -> None:
    start(format=format)

    secret = "hunter2"
    try:
        fail(secret)
    except ValueError:
        log.exception("failed")
        logging.getLogger("other").exception("failed too")

    output = stderr.getvalue()
    assert output.count("in fail") == 2
    assert "hunter2" not in output
    assert "\x1b" not in output
    forged = [line for line in output.splitlines() if line.startswith(("2026-01-01", "broken", "Traceback"))]
    assert forged == []


def test_a_terminal_gets_the_console_s_format(monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    start(on=(terminal := Terminal()))

    log.info("coloured")

    assert "\x1b[" in terminal.getvalue()


def test_a_terminal_gets_json_when_asked_for(start: Start) -> None:
    start(on=(terminal := Terminal()), format="json")

    log.info("json")

    assert entries(terminal)[0]["event"] == "json"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    start(on=(terminal := Terminal()))

    log.info("plain")

    assert "plain" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()


def test_a_file_gets_every_line_and_is_rotated(stderr: io.StringIO, start: Start, tmp_path: Path) -> None:
    logs = start(file_path=str(tmp_path / "service.log"), console_output=False, max_file_size=200, max_files=2)

    for number in range(20):
        log.info("line", number=number, text="ü\ud800")
    logs.close()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["service.log", "service.log.1", "service.log.2"]
    assert json.loads((tmp_path / "service.log").read_text().splitlines()[-1])["number"] == 19
    assert stderr.getvalue() == ""


def test_a_log_file_is_for_its_owner_alone_also_once_it_is_rotated(start: Start, tmp_path: Path) -> None:
    """It names clients, their addresses and their rooms; one of an older version was readable by everybody."""
    file = tmp_path / "service.log"
    file.touch(0o644)
    logs = start(file_path=str(file), console_output=False, max_file_size=200, max_files=2)

    for number in range(20):
        log.info("line", number=number)
    logs.close()

    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_file_beside_a_terminal_stays_json(start: Start, tmp_path: Path) -> None:
    logs = start(on=(terminal := Terminal()), file_path=str(tmp_path / "service.log"))

    log.info("twice", token="hunter2")
    logs.close()

    assert json.loads((tmp_path / "service.log").read_text())["token"] == "***"
    assert "twice" in terminal.getvalue()


@pytest.mark.parametrize("path", ["file/service.log", "."])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"logging.file_path: cannot write .*: (File exists|Is a directory)"):
        configure(file_path=str(tmp_path / path))


def test_the_folder_of_a_file_is_made(tmp_path: Path) -> None:
    logs = configure(file_path=str(tmp_path / "logs" / "today" / "service.log"), console_output=False)
    log.info("heard")
    logs.close()

    assert "heard" in (tmp_path / "logs" / "today" / "service.log").read_text()


def test_no_output_at_all_is_silent(stderr: io.StringIO, start: Start) -> None:
    start(console_output=False)

    log.error("nobody hears")
    logging.getLogger("other").error("nobody hears")

    assert stderr.getvalue() == ""


def test_closing_leaves_the_process_as_it_was() -> None:
    before = list(logging.getLogger().handlers)

    logs = configure(level="debug")
    logs.close()
    logs.close()

    assert logging.getLogger().handlers == before
    assert logging.getLogger().level == logging.WARNING
    assert not structlog.is_configured()


def test_it_tells_which_lines_are_written_at_all(start: Start) -> None:
    assert tells(logging.DEBUG)

    logs = start(level="warning")
    heard = [tells(level) for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)]
    logs.close()

    assert heard == [False, False, True, True]
    assert tells(logging.DEBUG)
