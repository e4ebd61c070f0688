"""Which form runs is what is installed, and operators can read it."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run

import pytest

import signal_manager.form
import signal_manager.gateway
from signal_manager import __version__
from signal_manager.form import form, is_compiled


def test_the_form_is_that_of_the_module_which_python_loads() -> None:
    import signal_manager.gateway.connection as loaded

    assert is_compiled() is not str(loaded.__file__).endswith(".py")


@pytest.mark.parametrize(("origin", "expected"), [("connection.abi3.so", "compiled"), ("connection.py", "pure Python")])
def test_an_extension_module_is_the_compiled_form(monkeypatch: pytest.MonkeyPatch, origin: str, expected: str) -> None:
    class Found:
        def __init__(self) -> None:
            self.origin = str(Path(signal_manager.gateway.__path__[0]) / origin)

    monkeypatch.setattr(signal_manager.form, "find_spec", lambda name: Found())

    assert form() == expected


def test_the_version_says_which_form_runs() -> None:
    printed = run([sys.executable, "-m", "signal_manager", "--version"], capture_output=True, text=True, check=True)

    assert printed.stdout.strip() == f"signal-manager {__version__} ({form()})"
