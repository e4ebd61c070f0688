from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from signal_manager import adapters
from signal_manager.adapters import load_adapter
from signal_manager.errors import ConfigurationError
from signal_manager.storage.memory import MemoryStorage


def test_our_own_adapters_are_found_by_name() -> None:
    assert load_adapter("storage", "memory") is MemoryStorage


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"storage\.backend is 'postgres', expected one of: .*memory"):
        load_adapter("storage", "postgres")


def test_a_missing_package_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint(name="firestore", group="signal_manager.storage", value="no_such_package:Storage")
    monkeypatch.setattr(adapters, "entry_points", lambda group: EntryPoints([broken]))

    with pytest.raises(ConfigurationError, match=r'pip install "signal-manager\[firestore\]"'):
        load_adapter("storage", "firestore")
