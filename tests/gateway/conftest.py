"""A gateway for each test, and what surrounds its parts."""

from __future__ import annotations

import pytest

from tests.gateway.fakes import FakeConnection, FakeConversation, FakeSocket
from tests.gateway.harness import Gateway


@pytest.fixture
async def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
def socket() -> FakeSocket:
    return FakeSocket()


@pytest.fixture
def conversation() -> FakeConversation:
    return FakeConversation()


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()
