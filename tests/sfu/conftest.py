"""One SFU per test, on ports of the system's choice and with short time limits."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from signal_manager.sfu import LocalSfu, SfuSettings
from tests.sfu.clients import Api, api_of


@pytest.fixture
def settings() -> SfuSettings:
    """Time limits that tests can wait for."""
    return SfuSettings(connect_wait=0.3, first_packet_wait=0.3, tick=0.1)


@pytest.fixture
async def sfu(settings: SfuSettings) -> AsyncIterator[LocalSfu]:
    """A running SFU."""
    async with LocalSfu(http_port=0, settings=settings) as sfu:
        yield sfu


@pytest.fixture
async def api(sfu: LocalSfu) -> AsyncIterator[Api]:
    """A client of it."""
    async with api_of(sfu) as api:
        yield api
