"""What the command line costs before it does anything."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# What takes longest to import: the libraries of the service and the dressing of terminals.
HEAVY = {
    "aiortc",
    "asyncio",
    "cryptography",
    "fastapi",
    "google.protobuf",
    "httptools",
    "httpx",
    "jwt",
    "markdown_it",
    "msgspec",
    "nats",
    "picows",
    "prometheus_client",
    "pydantic",
    "pygments",
    "rich",
    "structlog",
    "uvloop",
}
SAY_WHAT_WAS_IMPORTED = """
import json, sys
sys.argv = ["signal-manager", *sys.argv[1:]]
from signal_manager.cli.main import main
try:
    main()
except SystemExit as end:
    print(json.dumps([end.code, sorted(sys.modules)]), file=sys.stderr)
"""


# Typer reads the options in front of a command with pydantic.
BEFORE_A_COMMAND = {"pydantic"}


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], set()),
        (["--version"], set()),
        ([], BEFORE_A_COMMAND),
        (["serve", "--help"], BEFORE_A_COMMAND),
        (["storage", "--help"], BEFORE_A_COMMAND),
        (["rooms", "-h"], BEFORE_A_COMMAND),
        (["check-config", "-h"], BEFORE_A_COMMAND),
    ],
)
def test_help_and_version_import_nothing_heavy(arguments: list[str], allowed: set[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SAY_WHAT_WAS_IMPORTED, *arguments], capture_output=True, text=True, check=True
    )

    status, modules = json.loads(ended.stderr)
    assert status == 0
    assert ended.stdout
    assert HEAVY.intersection(modules) <= allowed


@pytest.mark.long
def test_a_service_runs_without_the_dressing_of_terminals() -> None:
    code = """
import sys
from signal_manager.cli.main import _without_rich
with _without_rich():
    import signal_manager.service.app, signal_manager.observe.logs
written = signal_manager.observe.logs.configure(format="console")
print(*sys.modules)
import rich.console
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "structlog" in ended.stdout.split()
    assert not {"rich", "pygments", "markdown_it"} & set(ended.stdout.split())


def test_heavy_modules_would_be_noticed() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SAY_WHAT_WAS_IMPORTED, "token", "--client-id", "a"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert {"pydantic", "jwt"} <= set(json.loads(ended.stderr.splitlines()[-1])[1])
