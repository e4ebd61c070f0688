"""How hard property tests try (HYPOTHESIS_PROFILE=ci in `make test-all`, else "dev"), what runs first, and a NATS."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from coverage import Coverage
from hypothesis import is_hypothesis_test, settings

import signal_manager
from signal_manager.form import form
from tests.nats_server import NatsServer

# No deadline: a busy machine must not fail a test.
settings.register_profile("dev", max_examples=20, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# A process that a shell starts in the background ignores SIGINT, and so would all processes that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Begun first, because a long module that comes last keeps the processors waiting; the longest at the top.
LONG_MODULES = (
    "deploy/test_packages",
    "e2e/test_demo",
    "integration/test_drain",
    "e2e/test_dashboard",
    "storage/sqlite/test_adapter",
    "e2e/test_direct_call",
    "cli/test_storage",
    "bus/nats/test_bus",
    "test_docs_adapters",
    "integration/test_crash",
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

# Coverage asks what unit tests reach, so it pauses where a whole service runs. It pauses too while properties are tried
# hundreds of times, and in tests that read the sources instead of running them: it would slow these down for nothing.
NOT_MEASURED = (
    *(f"tests/{folder}/" for folder in ("benchmarks", "deploy", "docs", "e2e", "integration")),
    *(f"tests/test_{name}.py" for name in ("distributions", "docs_adapters", "house", "modules", "prose", "walk")),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long modules first, leave the others in random order, and mark properties."""
    ranks = {f"tests/{module}.py": rank for rank, module in enumerate(LONG_MODULES)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("property")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Measure what importing the package reaches, and not pytest, which rewrites every test file after that."""
    coverage = Coverage.current()
    if coverage is not None:
        for module in pkgutil.walk_packages(signal_manager.__path__, "signal_manager."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        coverage.stop()
    try:
        return (yield)
    finally:
        if coverage is not None:
            coverage.start()


def pytest_report_header() -> str:
    """Say which form of the relay path is tested."""
    return f"form: {form()}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Measure coverage while unit tests and their fixtures run."""
    is_measured = not item.nodeid.startswith(NOT_MEASURED) and item.get_closest_marker("property") is None
    coverage = None if is_measured else Coverage.current()
    if coverage is not None:
        coverage.stop()
    try:
        return (yield)
    finally:
        if coverage is not None:
            coverage.start()


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
