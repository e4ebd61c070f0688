"""`python -m signal_manager` is the command line, and importing the module runs nothing."""

from __future__ import annotations

import importlib
import runpy
import sys

import pytest

from signal_manager import __version__


def test_the_package_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["signal-manager", "--version"])
    monkeypatch.delitem(sys.modules, "signal_manager.__main__", raising=False)

    with pytest.raises(SystemExit) as ended:
        runpy.run_module("signal_manager", run_name="__main__")

    assert ended.value.code in {None, 0}
    assert __version__ in capsys.readouterr().out


def test_importing_it_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("signal_manager.__main__")

    assert capsys.readouterr().out == ""
