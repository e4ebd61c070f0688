"""The fakes of the client's tests offer what the real ones do, so that no test passes for a drifted fake."""

from __future__ import annotations

import inspect
from typing import Any

from signal_manager.client.media import MediaSession
from tests.client.fakes import FakeMedia


def signatures(kind: type[Any]) -> dict[str, list[str]]:
    """Return the public methods of a class, each with the names of its parameters."""
    methods = inspect.getmembers(kind, inspect.isfunction)
    return {name: [*inspect.signature(method).parameters] for name, method in methods if not name.startswith("_")}


def test_the_media_session_of_the_tests_has_the_methods_of_the_real_one() -> None:
    fake = signatures(FakeMedia)
    del fake["mid"]

    assert fake == signatures(MediaSession)
