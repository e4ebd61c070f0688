"""The contract of presence: a client has one presence over all nodes, and the newest wins."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.bus.base import Bus, Delivery
from signal_manager.model import ClientId
from signal_manager.testing.bus.fixtures import BusFixtures, Phone, come, message, result_of

__all__ = ["PresenceContract"]

A = ClientId("a")


class PresenceContract(BusFixtures):
    """Clients attach, detach and move."""

    async def test_who_has_gone_is_offline(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        phone = await come(there, A, Phone())
        there.detach(A, phone)

        assert await result_of(here, A, message()) is Delivery.OFFLINE

    async def test_the_newest_connection_wins(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        old = await come(here, A, Phone())
        new = await come(there, A, Phone())

        assert old.replaced_by_same_instance is False
        assert await result_of(here, A, message()) is Delivery.DELIVERED
        assert (len(old.received), len(new.received)) == (0, 1)

    async def test_a_reconnect_of_the_same_instance_is_no_duplicate(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        old = await come(here, A, Phone("i"))
        new = await come(there, A, Phone("i"))

        assert (old.replaced_by_same_instance, new.replaced_by_same_instance) == (True, None)

    async def test_the_late_end_of_a_replaced_connection_changes_nothing(
        self, here: Bus[Phone], there: Bus[Phone]
    ) -> None:
        old = await come(here, A, Phone())
        new = await come(there, A, Phone())

        here.detach(A, old)

        assert await result_of(here, A, message()) is Delivery.DELIVERED
        assert len(new.received) == 1

    async def test_a_claim_that_is_given_up_leaves_nobody(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        assert (await there.claim(A, None)).is_won
        there.release(A)

        assert await result_of(here, A, message()) is Delivery.OFFLINE

    async def test_a_reconnect_takes_nothing_from_a_device_that_was_taken_up_later(
        self, here: Bus[Phone], there: Bus[Phone]
    ) -> None:
        phone = await come(here, A, Phone("used now", taken_up_at=2))

        for bus in (here, there):
            assert not (await bus.claim(A, "left behind", yields=True, taken_up_at=1)).is_won

        assert not phone.is_replaced
        assert await result_of(there, A, message()) is Delivery.DELIVERED

    @pytest.mark.parametrize(("instance", "since"), [("used now", 1), ("as new", 2), ("newer", 3)])
    async def test_a_reconnect_wins_otherwise(
        self, here: Bus[Phone], there: Bus[Phone], instance: str, since: int
    ) -> None:
        phone = await come(here, A, Phone("used now", taken_up_at=2))

        assert (await there.claim(A, instance, yields=True, taken_up_at=since)).is_won
        there.attach(A, Phone(instance, taken_up_at=since))

        assert phone.replaced_by_same_instance is (instance == "used now")

    async def test_whoever_comes_by_itself_yields_to_nobody(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        phone = await come(here, A, Phone("used now", taken_up_at=2))

        assert (await there.claim(A, "left behind", taken_up_at=1)).is_won
        there.attach(A, Phone("left behind", taken_up_at=1))

        assert phone.replaced_by_same_instance is False

    async def test_of_many_that_come_at_once_one_stays(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        phones = [Phone() for _ in range(10)]

        async def try_to_come(bus: Bus[Phone], phone: Phone) -> None:
            if (await bus.claim(A, None)).is_won:
                bus.attach(A, phone)
            else:
                phone.replaced(same_instance=False)

        await asyncio.gather(*(try_to_come((here, there)[i % 2], phone) for i, phone in enumerate(phones)))

        (winner,) = (phone for phone in phones if phone.replaced_by_same_instance is None)
        assert await result_of(here, A, message("from here")) is Delivery.DELIVERED
        assert await result_of(there, A, message("from there")) is Delivery.DELIVERED
        assert winner.texts == ["from here", "from there"]

    async def test_a_successor_takes_the_place_of_a_connection_and_ends_nobody(
        self, here: Bus[Phone], there: Bus[Phone]
    ) -> None:
        connection, session = await come(there, A, Phone()), Phone()

        assert there.swap(A, connection, session)

        there.detach(A, connection)  # is no longer attached
        assert await result_of(here, A, message()) is Delivery.DELIVERED
        assert (len(connection.received), len(session.received)) == (0, 1)
        assert not connection.is_replaced
        assert not there.swap(A, connection, session)

    async def test_the_relay_path_finds_a_client_among_the_subscribers(self, there: Bus[Phone]) -> None:
        phone = await come(there, A, Phone())
        assert there.subscribers.get("a") is phone
        assert there.subscribers.get("b") is None

        there.detach(A, phone)

        assert "a" not in there.subscribers
