"""The interface of stores: every adapter of ours has all of it, in the same form."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from signal_manager.model import ClientRecord
from signal_manager.storage.base import DEFAULT_PAGE, MAX_PAGE, ClientFields, Storage
from signal_manager.storage.firestore import FirestoreStorage
from signal_manager.storage.memory import MemoryStorage
from signal_manager.storage.sqlite.adapter import SqliteStorage

METHODS = {name: method for name, method in vars(Storage).items() if inspect.isfunction(method) and name[0] != "_"}


@pytest.mark.parametrize("adapter", [MemoryStorage, SqliteStorage, FirestoreStorage])
@pytest.mark.parametrize("name", METHODS)
def test_an_adapter_takes_what_the_interface_says(adapter: type[Any], name: str) -> None:
    expected, actual = inspect.signature(METHODS[name]), inspect.signature(getattr(adapter, name))

    assert [each.replace(annotation=None) for each in actual.parameters.values()] == [
        each.replace(annotation=None) for each in expected.parameters.values()
    ]


@pytest.mark.parametrize("name", METHODS)
def test_every_promise_is_written_down_and_kept_without_blocking(name: str) -> None:
    assert METHODS[name].__doc__
    assert inspect.iscoroutinefunction(METHODS[name])


def test_the_fields_that_an_update_may_name_are_those_of_a_record_but_for_its_id() -> None:
    assert ClientFields.__annotations__.keys() == set(ClientRecord.__struct_fields__) - {"client_id"}


def test_a_page_has_a_bound() -> None:
    assert 0 < DEFAULT_PAGE <= MAX_PAGE
