"""A second port with rooms behind it, for every test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.admin.harness import AdminHarness, opened


@pytest.fixture
async def admin_harness() -> AsyncIterator[AdminHarness]:
    async with opened() as admin_harness:
        yield admin_harness
