"""A house for each test, which must be empty in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.rooms.house import House, running


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with running(House()) as house:
        yield house


@pytest.fixture
async def bare_house() -> AsyncIterator[House]:
    """A service without a media backend."""
    async with running(House(has_media=False)) as house:
        yield house
