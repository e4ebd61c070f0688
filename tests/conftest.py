"""How hard property tests try (HYPOTHESIS_PROFILE=ci in `make test-all`, else "dev"), what runs first, and a NATS."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import AsyncIterator

import pytest
from hypothesis import is_hypothesis_test, settings

from tests.nats_server import NatsServer

# No deadline: a busy machine must not fail a test.
settings.register_profile("dev", max_examples=20, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# A process that a shell starts in the background ignores SIGINT, and so would all processes that the tests interrupt.
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

# Tests that carry video, or hundreds of clients, in their own process: coverage would slow them down, and has nothing
# to learn from them that shorter tests do not show. The same goes for properties, which are tried hundreds of times.
BUSY = ("tests/e2e/", "tests/benchmarks/", "tests/integration/test_drain", "tests/integration/test_slow_consumers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long modules first, leave the others in random order, and take coverage from busy ones."""
    ranks = {f"tests/{module}.py": rank for rank, module in enumerate(LONG_MODULES)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))
    for item in items:
        is_property = is_hypothesis_test(getattr(item, "obj", None))
        if is_property:
            item.add_marker("property")
        if item.nodeid.startswith(BUSY) or is_property:
            item.add_marker("no_cover")


def pytest_collection_finish() -> None:
    """Keep the garbage collector from looking through thousands of collected tests again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
async def nats() -> AsyncIterator[NatsServer]:
    """Run a nats-server."""
    server = NatsServer()
    await server.start()
    yield server
    await server.kill()
