"""The service as tests run it: in this process, on a free port of the loopback interface."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import pytest
import structlog
import uvloop
from structlog.testing import capture_logs

from signal_manager.gateway.server import Server
from signal_manager.service.app import running
from signal_manager.service.config import Config
from tests.integration.attack import MALLORY
from tests.integration.v1_client import ALICE, BOB
from tests.waiting import until

__all__ = ["Service", "ServiceWith", "is_deserted"]


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


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on the event loop that the service runs on: its transports are below every connection.

    Tests with media peers in their own process run on asyncio's. uvloop waits forever in `close` if a peer still has a
    UDP socket with something to send.
    """
    if item.path.name in WITH_PEERS:
        return {"asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


WITH_PEERS = {
    "test_dead_tracks.py",
    "test_intent.py",
    "test_nodes.py",
    "test_nodes_media.py",
    "test_room_faults.py",
    "test_room_sdk.py",
    "test_take_over.py",
    "test_tracing.py",
    "test_turn.py",
    "test_turn_pause.py",
}

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


def is_deserted(service: Service) -> bool:
    """Tell whether nothing is left of any client: no connection, no handshake, nobody on the bus, no count."""
    server = service.server
    registry = server._registry
    return not (
        registry.connections
        or server._listener.half_open
        or registry.bus.subscribers
        or registry.background.tasks
        or len(registry.occupancy.usage._by_address)
        or len(server._listener._by_address)
    )


@pytest.fixture
async def attacked(service_with: ServiceWith, caplog: pytest.LogCaptureFixture) -> AsyncIterator[ServiceWith]:
    """Start a service that Alice, Bob and Mallory know, with a message rate that a busy test does not reach.

    Afterwards nothing may be left of them, and nothing may have failed.
    """
    structlog.reset_defaults()
    started: list[Service] = []
    own: set[asyncio.Task[Any]] = set()  # what a service does without clients, until `service_with` stops it

    async def start(**settings: Any) -> Service:
        keys = [f"{name}:{token}" for name, token in (ALICE, BOB, MALLORY)]
        defaults = {
            "auth.api_keys": keys,
            "security.max_messages_per_minute": 1_000_000,
            "security.max_bytes_per_minute": 10**12,
        }
        known = asyncio.all_tasks()
        started.append(await service_with(**(defaults | settings)))
        own.update(asyncio.all_tasks() - known)
        return started[-1]

    before = asyncio.all_tasks()
    with capture_logs() as lines, caplog.at_level(logging.WARNING):
        yield start
        for service in started:
            await until(lambda service=service: is_deserted(service))  # type: ignore[misc]  # mypy cannot infer it
            await service.server.stop()
    assert asyncio.all_tasks() - before - own <= {asyncio.current_task()}
    assert not [line for line in lines if line["log_level"] in {"error", "critical"}]
    # In this phase the fixture's own `records` are those of the teardown alone.
    assert not [record.getMessage() for when in ("call", "teardown") for record in caplog.get_records(when)]


@pytest.fixture
async def service(service_with: ServiceWith) -> Service:
    """Start the service on its defaults."""
    return await service_with()
