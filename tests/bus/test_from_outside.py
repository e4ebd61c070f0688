"""A bus that was written from `bus/base.py` alone keeps the whole contract."""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from signal_manager.model import NodeId
from signal_manager.testing.bus import NodesFixtures, Phone
from signal_manager.testing.bus.handing_over import HandingOverContract
from signal_manager.testing.bus.nodes import ManyNodesContract
from tests.bus import queue_bus
from tests.bus.queue_bus import Broker, QueueBus
from tests.contracts.bus_contract import BusContract, NodesContract


class QueueBuses(NodesFixtures):
    """Several nodes in one process."""

    has_forwarder = True

    @pytest.fixture
    async def here(self) -> AsyncIterator[QueueBus[Phone]]:
        self.broker = Broker()
        async with self.another("here") as bus:
            yield bus

    @pytest.fixture
    async def there(self, here: QueueBus[Phone]) -> AsyncIterator[QueueBus[Phone]]:
        async with self.another("there") as bus:
            yield bus

    @pytest.fixture
    async def third(self, here: QueueBus[Phone]) -> AsyncIterator[QueueBus[Phone]]:
        async with self.another("third") as bus:
            yield bus

    def another(self, name: str) -> QueueBus[Phone]:
        return QueueBus(self.broker, node_id=NodeId(name), has_forwarder=self.has_forwarder)

    async def cut(self) -> None:
        self.broker.cut()

    async def heal(self) -> None:
        self.broker.heal()


class TestQueueBus(QueueBuses, BusContract, NodesContract):
    """The whole contract."""


class TestQueueBusWithoutForwarder(QueueBuses, BusContract, ManyNodesContract, HandingOverContract):
    """The same for a bus on which every signal goes by `send`."""

    has_forwarder = False


def test_it_needs_nothing_of_the_package_but_its_interface() -> None:
    tree = ast.parse(Path(queue_bus.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert {module for module in imported if module and module.startswith("signal_manager.bus")} == {
        "signal_manager.bus.base"
    }
