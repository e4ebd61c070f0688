"""The contract of delivery: messages reach a client on any node, and the sender learns the result."""

from __future__ import annotations

import asyncio

import pytest

from signal_manager.bus.base import Bus, Delivery
from signal_manager.errors import InvalidRequestError, SignalManagerError, TooLargeError
from signal_manager.model import ClientId
from signal_manager.testing.bus.fixtures import PATIENCE, BusFixtures, Phone, come, message, result_of

__all__ = ["DeliveryContract"]

A = ClientId("a")


class DeliveryContract(BusFixtures):
    """A message is delivered once and in order, or its sender is told."""

    async def test_a_message_reaches_the_client(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        phone = await come(there, A, Phone())
        sent, message_id = message({"n": [1, "ü", None]}), bytes(range(16))

        assert await result_of(here, A, sent, message_id) is Delivery.DELIVERED
        assert phone.received == [(sent, message_id)]

    async def test_a_message_for_a_client_that_is_away_is_queued(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        await come(there, A, Phone(result=Delivery.QUEUED))

        assert await result_of(here, A, message()) is Delivery.QUEUED

    async def test_bytes_arrive_as_bytes(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        phone = await come(there, A, Phone())

        await result_of(here, A, message(b"\x00\xff"))

        assert phone.texts == [b"\x00\xff"]

    async def test_nobody_is_there(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        assert await result_of(here, "nobody", message()) is Delivery.OFFLINE

    @pytest.mark.parametrize("name", ["a.b", "..c", "a.", "~@+=-_", "x" * 128])
    async def test_every_name_can_be_reached(self, here: Bus[Phone], there: Bus[Phone], name: str) -> None:
        phone = await come(there, name, Phone())

        assert await result_of(here, name, message()) is Delivery.DELIVERED
        assert len(phone.received) == 1

    @pytest.mark.parametrize("refusal", [TooLargeError("too large"), InvalidRequestError("no such message")])
    async def test_the_sender_is_told_why_its_message_was_refused(
        self, here: Bus[Phone], there: Bus[Phone], refusal: SignalManagerError
    ) -> None:
        await come(there, A, Phone(refusal=refusal))

        result = await result_of(here, A, message())

        assert type(result) is type(refusal)
        assert isinstance(result, SignalManagerError)
        assert result.message == refusal.message

    async def test_messages_arrive_in_order_and_each_once(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        phone = await come(there, A, Phone())
        told: list[object] = []

        for i in range(500):
            if here.send(A, message(i), outcome=told.append) is not Delivery.PENDING:
                told.append(Delivery.DELIVERED)
            if i % 50 == 0:
                await asyncio.sleep(0)

        async with asyncio.timeout(PATIENCE):
            while len(told) < 500:  # noqa: ASYNC110 - each outcome is an event; all of them are not
                await asyncio.sleep(0.001)
        assert phone.texts == list(range(500))
        assert set(told) == {Delivery.DELIVERED}

    async def test_order_holds_while_the_client_moves(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        phones = [await come(there, A, Phone())]
        told: list[object] = []
        sent = 0

        for bus in (here, there, here, there):
            for _ in range(25):
                if here.send(A, message(sent), outcome=told.append) is not Delivery.PENDING:
                    told.append(Delivery.DELIVERED)
                sent += 1
            phones.append(await come(bus, A, Phone()))

        async with asyncio.timeout(PATIENCE):
            while len(told) < sent:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.001)
        assert [text for phone in phones for text in phone.texts] == list(range(sent))
        assert set(told) == {Delivery.DELIVERED}
