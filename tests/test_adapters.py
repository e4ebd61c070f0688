from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from signal_manager import adapters
from signal_manager.adapters import OURS, load_adapter
from signal_manager.bus.local import LocalBus
from signal_manager.bus.nats.bus import NatsBus
from signal_manager.errors import ConfigurationError
from signal_manager.storage.memory import MemoryStorage

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def test_our_own_adapters_are_found_by_name() -> None:
    assert load_adapter("storage", "memory") is MemoryStorage
    assert (load_adapter("bus", "local"), load_adapter("bus", "nats")) == (LocalBus, NatsBus)


def test_the_package_announces_the_adapters_that_are_ours() -> None:
    groups = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]

    assert groups == {f"signal_manager.{wall}": ours for wall, ours in OURS.items()}


def test_ours_are_found_without_a_search_through_all_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "entry_points", None)

    for wall, ours in OURS.items():
        for name in ours:
            assert callable(load_adapter(wall, name))


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"storage\.backend is 'postgres', expected one of: .*memory"):
        load_adapter("storage", "postgres")


def test_a_missing_package_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OURS["storage"], "firestore", "no_such_package:Storage")

    with pytest.raises(ConfigurationError, match=r'pip install "signal-manager\[firestore\]"'):
        load_adapter("storage", "firestore")


def test_an_adapter_of_another_package_that_cannot_be_imported_names_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = EntryPoint(name="redis", group="signal_manager.bus", value="no_such_package:Bus")
    monkeypatch.setattr(adapters, "entry_points", lambda group: EntryPoints([broken]))

    with pytest.raises(ConfigurationError, match=r"bus\.backend 'redis' needs .*no_such_package'\)$"):
        load_adapter("bus", "redis")
