"""What only a bus of several nodes can show: relayed signals, news for some nodes, and being cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from signal_manager.bus.base import Bus, Delivery
from signal_manager.errors import SignalManagerError, UnavailableError
from signal_manager.model import ClientId, NodeId, RoomId
from signal_manager.testing.bus.fixtures import PATIENCE, BusFixtures, Phone, come, message, result_of

__all__ = ["NodesContract"]

A, B = ClientId("a"), ClientId("b")
ROOM = RoomId("r")


class NodesContract(BusFixtures):
    """Two nodes, called "here" and "there", that do not share memory."""

    async def cut(self) -> None:
        """Cut the nodes off from each other."""
        raise NotImplementedError

    async def heal(self) -> None:
        """Let the nodes reach each other again."""
        raise NotImplementedError

    @pytest.fixture
    async def third(self) -> Bus[Phone]:
        """Return a third node's bus, called "third"; close it after the test."""
        raise NotImplementedError

    async def test_order_holds_while_the_client_moves_between_other_nodes(
        self, here: Bus[Phone], there: Bus[Phone], third: Bus[Phone]
    ) -> None:
        phones = [await come(there, A, Phone())]
        told: list[object] = []
        sent = 0

        for bus in (third, there, third):
            for _ in range(20):
                here.send(A, message(sent), outcome=told.append)
                sent += 1
                await asyncio.sleep(0)
            phones.append(await come(bus, A, Phone()))
            await _until(lambda: len(told) == sent)  # noqa: B023 - awaited here

        assert [text for phone in phones for text in phone.texts] == list(range(sent))
        assert set(told) == {Delivery.DELIVERED}

    async def test_order_holds_and_all_is_accounted_for_while_the_client_goes_and_comes_back(
        self, here: Bus[Phone], there: Bus[Phone], third: Bus[Phone]
    ) -> None:
        phones = [await come(there, A, Phone())]
        told: dict[int, object] = {}
        sent = 0

        # What was refused while the client was away cannot be delivered once something later has been.
        for bus in (third, there, third, there):
            for _ in range(20):
                here.send(A, message(sent), outcome=partial(told.__setitem__, sent))
                sent += 1
                await asyncio.sleep(0)
            phones.append(await come(bus, A, Phone()))

        await _until(lambda: len(told) == sent)
        arrived = [text for phone in phones for text in phone.texts]
        assert arrived == [number for number in range(sent) if told[number] is Delivery.DELIVERED]
        others = [result for result in told.values() if result is not Delivery.DELIVERED]
        assert all(isinstance(result, UnavailableError) for result in others)
        assert await result_of(here, A, message(sent)) is Delivery.DELIVERED
        assert phones[-1].texts[-1] == sent

    async def test_news_reach_the_nodes_that_are_named_and_in_order(
        self, here: Bus[Phone], there: Bus[Phone], third: Bus[Phone]
    ) -> None:
        heard: list[bytes] = []
        overheard: list[bytes] = []
        there.listen(on_news=lambda room_id, news: heard.append(news), on_reunion=lambda node_id: None)
        third.listen(on_news=lambda room_id, news: overheard.append(news), on_reunion=lambda node_id: None)

        for i in range(100):
            here.announce([NodeId("there")], ROOM, b"%d" % i)
        here.announce([NodeId("nobody")], ROOM, b"lost")
        here.announce([NodeId("third")], ROOM, b"last")

        await _until(lambda: bool(overheard) and len(heard) == 100)
        assert heard == [b"%d" % i for i in range(100)]
        assert overheard == [b"last"]

    async def test_cut_off_nodes_say_so_and_serve_their_own(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        near, far = await come(here, A, Phone()), await come(there, B, Phone())

        await self.cut()

        assert isinstance(await result_of(here, B, message()), UnavailableError)
        assert await result_of(here, A, message()) is Delivery.DELIVERED
        assert (len(near.received), len(far.received)) == (1, 0)

    async def test_what_was_on_its_way_when_the_nodes_were_cut_off_is_told(
        self, here: Bus[Phone], there: Bus[Phone]
    ) -> None:
        far = await come(there, B, Phone())
        told: list[Delivery | SignalManagerError] = []
        for i in range(100):
            here.send(B, message(i), outcome=told.append)

        await self.cut()

        await _until(lambda: len(told) == 100)
        assert far.texts == list(range(len(far.received)))
        assert sum(result is Delivery.DELIVERED for result in told) <= len(far.received)
        assert all(result is Delivery.DELIVERED or isinstance(result, UnavailableError) for result in told)

    async def test_nodes_find_each_other_again(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        phone = await come(there, B, Phone())
        reunions: list[str] = []
        here.listen(on_news=lambda room_id, news: None, on_reunion=lambda node_id: reunions.append(f"here {node_id}"))

        await self.cut()
        assert isinstance(await result_of(here, B, message("lost")), UnavailableError)
        await self.heal()

        await _until(lambda: "here None" in reunions)
        await _until_delivered(here, B)
        assert phone.texts[-1] == "again"
        assert "lost" not in phone.texts

    async def test_of_two_presences_the_newer_one_stays_when_nodes_meet_again(
        self, here: Bus[Phone], there: Bus[Phone]
    ) -> None:
        old = await come(here, A, Phone("i"))
        await self.cut()
        new = await come(there, A, Phone("i"))
        assert not old.is_replaced

        await self.heal()

        await _until(lambda: old.is_replaced)
        assert old.replaced_by_same_instance
        assert not new.is_replaced
        await _until_delivered(here, A)
        assert new.texts == ["again"]

    async def test_who_comes_while_the_nodes_are_cut_off_is_found_afterwards(
        self, here: Bus[Phone], there: Bus[Phone]
    ) -> None:
        await self.cut()
        phone = await come(there, B, Phone())

        await self.heal()

        await _until_delivered(here, B)
        assert phone.texts == ["again"]


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for happens on the other node
            await asyncio.sleep(0.005)


async def _until_delivered(bus: Bus[Phone], target: ClientId) -> None:
    """Send until a message arrives: for a moment after a reunion, it may not be known yet who is where."""
    async with asyncio.timeout(PATIENCE):
        while await result_of(bus, target, message("again")) is not Delivery.DELIVERED:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)
