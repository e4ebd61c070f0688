"""How hard property tests try (HYPOTHESIS_PROFILE=ci in CI, a quick "dev" otherwise), what runs first, and a NATS."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from tests.nats_server import NatsServer

# No deadline: a busy machine must not fail a test.
settings.register_profile("dev", max_examples=20, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# Whoever is started in the background by a shell ignores SIGINT, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Begun first, because a long module that comes last keeps one of two processors waiting; the longest at the top.
LONG_MODULES = (
    "e2e/test_demo",
    "integration/test_drain",
    "e2e/test_dashboard",
    "storage/test_sqlite",
    "e2e/test_sfu_browser",
    "integration/test_slow_consumers",
    "integration/test_node_failures",
    "storage/test_firestore",
    "integration/test_room_faults",
    "integration/test_workers",
    "integration/test_take_over",
    "e2e/test_agent",
    "integration/test_room_sdk",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long modules first; the others stay in random order."""
    ranks = {f"tests/{module}.py": rank for rank, module in enumerate(LONG_MODULES)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))


class OneBrowserAtATime(LoadFileScheduling):  # type: ignore[misc]
    """One module at a time for each process, but one process for all browser tests: two browsers fill this machine."""

    def _split_scope(self, nodeid: str) -> str:
        module: str = super()._split_scope(nodeid)
        return "tests/e2e" if module.startswith("tests/e2e/") else module


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneBrowserAtATime:
    """Divide the tests so."""
    return OneBrowserAtATime(config, log)


@pytest.fixture
async def nats() -> AsyncIterator[NatsServer]:
    """Run a nats-server."""
    server = NatsServer()
    await server.start()
    yield server
    await server.kill()
