"""The contract of several nodes: announcements, questions to all nodes, and cuts between nodes."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from signal_manager.bus.base import Bus, Delivery
from signal_manager.errors import ConfigurationError, SignalManagerError, UnavailableError
from signal_manager.model import ClientId, NodeId, RoomId
from signal_manager.testing.bus.fixtures import NodesFixtures, Phone, come, message, result_of, until, until_delivered

__all__ = ["ManyNodesContract"]

A, B = ClientId("a"), ClientId("b")
ROOM = RoomId("r")


class ManyNodesContract(NodesFixtures):
    """Messages, news and questions between nodes, and nodes that are cut off, gone or of the same name."""

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
            await until(lambda: len(told) == sent)  # noqa: B023 - awaited here

        assert [text for phone in phones for text in phone.texts] == list(range(sent))
        assert set(told) == {Delivery.DELIVERED}

    async def test_order_holds_and_all_is_accounted_for_while_the_client_goes_and_comes_back(
        self, here: Bus[Phone], there: Bus[Phone], third: Bus[Phone]
    ) -> None:
        phones = [await come(there, A, Phone())]
        told: dict[int, object] = {}
        sent = 0

        # A message refused while the client was away must not arrive after a later one.
        for bus in (third, there, third, there):
            for _ in range(20):
                here.send(A, message(sent), outcome=partial(told.__setitem__, sent))
                sent += 1
                await asyncio.sleep(0)
            phones.append(await come(bus, A, Phone()))

        await until(lambda: len(told) == sent)
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

        await until(lambda: bool(overheard) and len(heard) == 100)
        assert heard == [b"%d" % i for i in range(100)]
        assert overheard == [b"last"]

    async def test_a_message_that_is_sent_while_its_client_is_coming_waits_for_it(
        self, here: Bus[Phone], there: Bus[Phone]
    ) -> None:
        await come(there, A, Phone())
        told: list[object] = []
        assert (await here.claim(A, None)).is_won

        delivery = here.send(A, message("early"), outcome=told.append)
        assert delivery is Delivery.PENDING
        assert here.is_waiting
        assert told == []
        phone = Phone()
        here.attach(A, phone)
        here.send(A, message("late"))

        await until(lambda: told == [Delivery.DELIVERED])
        await until(lambda: not here.is_waiting)
        assert phone.texts == ["early", "late"]

    async def test_a_message_that_waits_for_a_client_that_does_not_come_is_told(
        self, here: Bus[Phone], there: Bus[Phone]
    ) -> None:
        await come(there, A, Phone())
        told: list[object] = []
        assert (await here.claim(A, None)).is_won
        here.send(A, message(), outcome=told.append)

        here.release(A)

        await until(lambda: told == [Delivery.OFFLINE])
        await until(lambda: not here.is_waiting)

    async def test_of_two_nodes_that_claim_a_client_of_a_third_at_once_one_gets_it(
        self, here: Bus[Phone], there: Bus[Phone], third: Bus[Phone]
    ) -> None:
        await come(third, A, Phone())
        arrived: list[Phone] = []

        async def try_to_come(bus: Bus[Phone]) -> None:
            if (await bus.claim(A, None)).is_won:
                arrived.append(Phone())
                bus.attach(A, arrived[-1])

        await asyncio.gather(try_to_come(here), try_to_come(there))

        (winner,) = (phone for phone in arrived if not phone.is_replaced)
        assert await result_of(here, A, message("from here")) is Delivery.DELIVERED
        assert await result_of(there, A, message("from there")) is Delivery.DELIVERED
        assert winner.texts == ["from here", "from there"]

    @pytest.mark.parametrize("is_held", [True, False])
    async def test_a_claim_that_is_cancelled_leaves_nothing_behind(
        self, here: Bus[Phone], there: Bus[Phone], third: Bus[Phone], is_held: bool
    ) -> None:
        if is_held:
            await come(there, A, Phone())
        told: list[Delivery | SignalManagerError] = []
        claiming = asyncio.ensure_future(here.claim(A, None))
        await asyncio.sleep(0)  # the claim has begun, and no other node has answered it
        assert here.send(A, message("meanwhile"), outcome=told.append) is Delivery.PENDING

        claiming.cancel()
        try:
            await claiming
        except asyncio.CancelledError:
            pass
        else:  # a bus that knows that no node has the client need not ask
            assert not is_held
            here.release(A)

        await until(lambda: len(told) == 1)
        assert told[0] in {Delivery.DELIVERED, Delivery.OFFLINE}
        assert A not in here.subscribers
        phone = await come(third, A, Phone())
        for bus in (here, there):
            assert await result_of(bus, A, message("afterwards")) is Delivery.DELIVERED
        assert phone.texts == ["afterwards", "afterwards"]
        again = await come(here, A, Phone())
        assert phone.is_replaced
        assert await result_of(there, A, message("again")) is Delivery.DELIVERED
        assert again.texts == ["again"]

    async def test_a_node_knows_its_own_clients_alone(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        subscribers = here.subscribers
        phone = await come(here, A, Phone())
        await come(there, B, Phone())
        assert dict(subscribers) == {A: phone}

        await come(there, A, Phone())

        assert dict(subscribers) == {}
        assert here.subscribers is subscribers

    async def test_a_client_that_was_attached_without_a_claim_is_claimed_all_the_same(
        self, here: Bus[Phone], there: Bus[Phone]
    ) -> None:
        old, expected, new = await come(there, A, Phone()), Phone(), Phone()
        here.attach(A, expected)
        assert not old.is_replaced

        await come(here, A, new)

        assert old.is_replaced
        assert expected.is_replaced
        assert await result_of(there, A, message()) is Delivery.DELIVERED
        assert len(new.received) == 1

    async def test_all_other_nodes_answer_a_question(
        self, here: Bus[Phone], there: Bus[Phone], third: Bus[Phone]
    ) -> None:
        here.respond(lambda question: b"here " + question)
        there.respond(lambda question: b"there " + question)
        third.respond(lambda question: b"third " + question)

        answers: list[bytes] = []
        while len(answers) < 2:  # nodes may need a moment to find each other
            answers = await here.ask_others(b"?")

        assert sorted(answers) == [b"there ?", b"third ?"]

    async def test_writes_are_joined_and_always_flushed(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        calls: list[str] = []
        there.serve_others(
            hand_over=lambda client_id, wants: None,
            join=lambda: calls.append("join"),
            flush=lambda: calls.append("flush"),
        )
        phone = await come(there, A, Phone())
        told: list[object] = []

        for i in range(50):
            here.send(A, message(i), outcome=told.append)

        await until(lambda: len(told) == 50)
        assert phone.texts == list(range(50))
        assert calls == ["join", "flush"] * (len(calls) // 2)

    async def test_a_node_that_is_gone_is_missed(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        gone: list[NodeId] = []
        here.listen(on_news=lambda room_id, news: None, on_reunion=lambda node_id: None, on_gone=gone.append)

        async with self.another("brief") as brief:
            phone = await come(brief, A, Phone())
            assert await result_of(here, A, message()) is Delivery.DELIVERED

        await until(lambda: gone == ["brief"])
        assert await result_of(here, A, message()) is Delivery.OFFLINE
        assert len(phone.received) == 1

    async def test_a_node_leaves_nobody_without_an_answer(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        await come(there, A, Phone())
        told: list[object] = []

        async with self.another("brief") as brief:
            for i in range(50):
                brief.send(A, message(i), outcome=told.append)

        assert len(told) == 50
        assert not brief.is_waiting

    async def test_a_node_that_leaves_answers_what_waits_for_a_client_that_has_not_come(
        self, here: Bus[Phone], there: Bus[Phone]
    ) -> None:
        told: list[object] = []

        async with self.another("brief") as brief:
            assert (await brief.claim(A, None)).is_won
            brief.send(A, message(), outcome=told.append)

        assert len(told) == 1
        assert not brief.is_waiting

    async def test_two_nodes_cannot_have_one_name(self, here: Bus[Phone]) -> None:
        with pytest.raises(ConfigurationError, match="here"):
            await self.another("here").__aenter__()

    async def test_cut_off_nodes_say_so_and_serve_their_own(self, here: Bus[Phone], there: Bus[Phone]) -> None:
        near, far = await come(here, A, Phone()), await come(there, B, Phone())
        assert here.is_connected

        await self.cut()

        assert not here.is_connected
        assert await here.ask_others(b"?") == []
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

        await until(lambda: len(told) == 100)
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

        await until(lambda: "here None" in reunions)
        await until_delivered(here, B)
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

        await until(lambda: old.is_replaced)
        assert old.replaced_by_same_instance
        assert not new.is_replaced
        await until_delivered(here, A)
        assert new.texts == ["again"]

    async def test_who_comes_while_the_nodes_are_cut_off_is_found_afterwards(
        self, here: Bus[Phone], there: Bus[Phone]
    ) -> None:
        await self.cut()
        phone = await come(there, B, Phone())

        await self.heal()

        await until_delivered(here, B)
        assert phone.texts == ["again"]
