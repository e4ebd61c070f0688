"""An office for every test of the second port."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.admin.office import Office, opened


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with opened() as office:
        yield office
