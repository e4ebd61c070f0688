"""Presence and delivery within one process."""

from __future__ import annotations

import pytest

from signal_manager.bus.base import Delivery
from signal_manager.bus.local import LocalBus
from signal_manager.model import ClientId
from signal_manager.protocol.messages import SignalMessage
from signal_manager.testing.bus import Phone
from tests.contracts.bus_contract import BusContract

A = ClientId("a")
MESSAGE = SignalMessage(target_client_id="a", signal_data=1)


class TestLocalBus(BusContract):
    """One node is both."""

    @pytest.fixture
    async def here(self) -> LocalBus[Phone]:
        return LocalBus()

    @pytest.fixture
    async def there(self, here: LocalBus[Phone]) -> LocalBus[Phone]:
        return here


@pytest.fixture
def bus() -> LocalBus[Phone]:
    return LocalBus()


def test_a_message_reaches_the_client(bus: LocalBus[Phone]) -> None:
    phone = Phone()
    bus.attach(A, phone)

    assert bus.send(A, MESSAGE, b"id") is Delivery.DELIVERED
    assert phone.received == [(MESSAGE, b"id")]


def test_nobody_is_there(bus: LocalBus[Phone]) -> None:
    phone = Phone()
    bus.attach(A, phone)
    bus.detach(A, phone)

    assert bus.send(A, MESSAGE) is Delivery.OFFLINE
    assert bus.subscribers == {}


def test_the_newest_connection_wins(bus: LocalBus[Phone]) -> None:
    old, new = Phone(), Phone()
    bus.attach(A, old)

    bus.attach(A, new)

    assert old.replaced_by_same_instance is False
    bus.send(A, MESSAGE)
    assert (len(old.received), len(new.received)) == (0, 1)


def test_a_reconnect_of_the_same_instance_is_no_duplicate(bus: LocalBus[Phone]) -> None:
    old, new = Phone("i"), Phone("i")
    bus.attach(A, old)

    bus.attach(A, new)

    assert old.replaced_by_same_instance is True
    assert bus.subscribers == {"a": new}


def test_the_late_end_of_a_replaced_connection_changes_nothing(bus: LocalBus[Phone]) -> None:
    old, new = Phone(), Phone()
    bus.attach(A, old)
    bus.attach(A, new)

    bus.detach(A, old)

    assert bus.subscribers == {"a": new}


def test_an_older_connection_steps_in_for_a_newer_one() -> None:
    bus: LocalBus[Phone] = LocalBus(max_subscribers=2)
    first, second, third = Phone(), Phone(), Phone()
    bus.attach(A, first)
    bus.attach(A, second)
    assert second.replaced_by_same_instance is None

    bus.attach(A, third)

    assert first.replaced_by_same_instance is False
    bus.detach(A, third)
    assert bus.subscribers == {"a": second}
    bus.detach(A, second)
    assert bus.subscribers == {}


def test_an_older_connection_may_leave_first() -> None:
    bus: LocalBus[Phone] = LocalBus(max_subscribers=2)
    first, second = Phone(), Phone()
    bus.attach(A, first)
    bus.attach(A, second)

    bus.detach(A, first)
    bus.detach(A, second)

    assert bus.subscribers == {}
