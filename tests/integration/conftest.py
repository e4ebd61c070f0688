"""The service as tests run it: in this process, on a free port of the loopback interface."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import pytest

from signal_manager.app import running
from signal_manager.config import Config
from signal_manager.server import Server

__all__ = ["Service", "ServiceWith"]


class Service(NamedTuple):
    """Where a running service is."""

    server: Server

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"


ServiceWith = Callable[..., Awaitable[Service]]

# Nothing on disk and no second port, unless a test asks for them.
DEFAULTS: dict[str, dict[str, Any]] = {
    "server": {"port": 0},
    "storage": {"backend": "memory"},
    "media": {"backend": "none"},
    "metrics": {"enabled": False},
}


@pytest.fixture
async def service_with() -> AsyncIterator[ServiceWith]:
    """Start a service with settings of the test's own: `await service_with(**{"server.heartbeat_timeout": 1})`."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Service:
            sections = {name: dict(values) for name, values in DEFAULTS.items()}
            for name, value in settings.items():
                section, key = name.split(".")
                sections.setdefault(section, {})[key] = value
            return Service(await stack.enter_async_context(running(Config.model_validate(sections))))

        yield start


@pytest.fixture
async def service(service_with: ServiceWith) -> Service:
    """Start the service on its defaults."""
    return await service_with()
