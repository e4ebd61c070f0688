"""A harness for each test, whose rooms must be empty in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from signal_manager.rooms import persistence
from tests.rooms.harness import RoomHarness, running


@pytest.fixture
async def harness() -> AsyncIterator[RoomHarness]:
    async with running(RoomHarness()) as harness:
        yield harness


@pytest.fixture
async def bare_harness() -> AsyncIterator[RoomHarness]:
    """A service without a media backend."""
    async with running(RoomHarness(has_media=False)) as harness:
        yield harness


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what storage refuses be tried again at once."""
    monkeypatch.setattr(persistence, "_PAUSES", (0.001,))
