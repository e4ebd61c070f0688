"""The fake service of the client's tests, listening on a port that the system chose."""

from collections.abc import AsyncIterator

import pytest

from tests.client.fake_service import FakeService


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    async with FakeService() as service:
        yield service
