"""Messages to other nodes: bounded, kept in order, and each sender learns the outcome of its message."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import cast

import pytest
from structlog.testing import capture_logs

from signal_manager.bus.base import Delivery
from signal_manager.bus.nats import wire
from signal_manager.bus.nats.batches import AWAY, Batches
from signal_manager.bus.nats.link import NatsLink
from signal_manager.bus.nats.subjects import Subjects
from signal_manager.errors import InvalidRequestError, SignalManagerError, TooLargeError, UnavailableError
from signal_manager.observe.metrics import Metrics
from tests.bus.nats.clients import Caller, frame
from tests.bus.nats.link_double import KeptLink

CONTENT = wire.Content(1, 1, bytes(16), b"payload")


class Scene:
    """The node n0, which sends to bob at the node n1."""

    def __init__(self, *, max_buffered: int = 100_000) -> None:
        self.link = KeptLink()
        self.asked: list[str] = []
        self.told: list[Delivery | str] = []
        self.metrics = Metrics()
        self.alice = Caller()
        self.batches = Batches(
            cast("NatsLink", self.link),
            Subjects("p", "n0"),
            ask=self.asked.append,
            timeout=10.0,
            max_buffered=max_buffered,
            metrics=self.metrics,
        )

    def send(self, target: str = "bob", content: wire.Content = CONTENT) -> None:
        """Send a message."""
        self.batches.send(target, content, wire.size_of(content), self._outcome)

    def signal(self, name: str, target: str = "bob", *, body: bytes = b"body", wants_ack: bool = True) -> None:
        """Forward a signal of alice's."""
        self.batches.forward(self.alice, target, frame(name), body, wants_ack=wants_ack)

    def find(self, target: str = "bob", node_id: str = "n1") -> None:
        """Learn where a client is."""
        self.batches.take(self.batches.routes.found(target, node_id))
        self.batches.outboxes.flush()

    def known(self) -> Scene:
        """Know where bob is, with nothing on its way."""
        self.send()
        self.find()
        self.answer()
        self.told.clear()
        self.link.batches.clear()
        return self

    def numbers(self) -> list[int]:
        """Return the numbers of the batches without an answer."""
        return [*self.batches.outboxes.sent]

    def answer(self, *unsettled: wire.Unsettled) -> None:
        """Answer the oldest batch."""
        self.batches.outboxes.flush()
        self.batches.answered(wire.Answer(self.numbers()[0], list(unsettled)))
        self.batches.outboxes.flush()

    def lost(self, reason: str) -> float:
        """Return how many messages were counted as lost for this reason."""
        return self.metrics.bus_lost.labelled(reason).value

    def _outcome(self, result: Delivery | SignalManagerError) -> None:
        self.told.append(result.message if isinstance(result, SignalManagerError) else result)


@pytest.fixture
async def scene() -> Scene:
    return Scene()


@pytest.fixture
async def known() -> Scene:
    return Scene().known()


def signals_in(scene: Scene) -> list[list[str]]:
    """Return the names of the signals of each run that was sent."""
    return [
        [head.rstrip(b".").decode() for head, _ in entry.signals]
        for _, _, batch in scene.link.batches
        for entry in batch.entries
        if isinstance(entry, wire.Signals)
    ]


# Results


async def test_a_message_waits_for_its_clients_node_and_is_told_when_it_arrived(scene: Scene) -> None:
    scene.send()
    scene.send()
    assert (scene.asked, scene.link.batches, scene.batches.is_waiting) == (["bob"], [], True)

    scene.find()
    assert scene.told == []

    scene.answer()
    assert scene.told == [Delivery.DELIVERED] * 2
    assert not scene.batches.is_waiting


async def test_a_client_of_no_node_is_offline(scene: Scene) -> None:
    scene.send()

    scene.batches.take(scene.batches.routes.absent("bob"))

    assert (scene.told, scene.batches.buffered) == ([Delivery.OFFLINE], 0)


async def test_an_answer_names_what_was_not_delivered(known: Scene) -> None:
    for name in ("one", "two", "three", "four"):
        known.signal(name)

    known.answer(
        wire.Unsettled(1, wire.Verdict.QUEUED),
        wire.Unsettled(2, wire.Verdict.TOO_LARGE, "too large for bob"),
    )

    assert known.alice.heard == [
        ("one", Delivery.DELIVERED),
        ("two", Delivery.QUEUED),
        ("three", "too large for bob"),
        ("four", Delivery.DELIVERED),
    ]
    assert known.batches.buffered == 0


async def test_a_client_that_has_moved_is_followed(known: Scene) -> None:
    known.send()
    known.asked.clear()

    known.answer(wire.Unsettled(0, wire.Verdict.ABSENT))
    assert (known.asked, known.told) == (["bob"], [])
    known.find(node_id="n2")
    known.answer()

    assert known.link.batches[-1][0] == "p.n.n2"
    assert known.told == [Delivery.DELIVERED]


async def test_an_answer_that_comes_twice_or_to_no_batch_changes_nothing(known: Scene) -> None:
    known.send()
    known.batches.outboxes.flush()
    [number] = known.numbers()
    for each in (number, number, 7):
        known.batches.answered(wire.Answer(each))

    assert (known.told, known.batches.buffered) == ([Delivery.DELIVERED], 0)


async def test_a_sender_that_fails_keeps_no_other_from_being_told(known: Scene) -> None:
    known.alice.is_broken = True
    known.signal("one")
    known.send()

    with capture_logs():
        known.answer()

    assert known.told == [Delivery.DELIVERED]
    assert known.batches.buffered == 0


async def test_a_signal_whose_sender_does_not_want_to_know_is_told_to_nobody(known: Scene) -> None:
    known.signal("one", wants_ack=False)

    known.answer()

    assert known.alice.heard == []
    assert known.batches.buffered == 0


# Runs


async def test_signals_of_one_turn_to_one_peer_are_one_run(known: Scene) -> None:
    for name in ("one", "two", "three"):
        known.signal(name)
    known.batches.outboxes.flush()
    known.signal("four")
    known.batches.outboxes.flush()

    assert signals_in(known) == [["one", "two", "three"], ["four"]]


async def test_another_sender_or_wish_or_message_begins_another_run(known: Scene) -> None:
    known.signal("one")
    known.signal("two", wants_ack=False)
    known.batches.forward(Caller("carol"), "bob", frame("three"), b"body", wants_ack=False)
    known.send()
    known.signal("four", wants_ack=False)
    known.batches.outboxes.flush()

    assert signals_in(known) == [["one"], ["two"], ["three"], ["four"]]


async def test_a_run_is_bounded(known: Scene) -> None:
    known.batches._max_buffered = 10_000_000
    for _ in range(5):
        known.signal("s", body=bytes(30_000))
    known.batches.outboxes.flush()

    assert signals_in(known) == [["s"] * 2, ["s"] * 2, ["s"]]


async def test_a_signal_to_a_client_that_is_not_known_is_asked_for_under_a_name_only(scene: Scene) -> None:
    scene.signal("one")
    assert scene.asked == ["bob"]
    with pytest.raises(InvalidRequestError, match="no name"):
        scene.signal("two", "bob.*")

    scene.find()
    scene.answer()
    assert scene.alice.heard == [("one", Delivery.DELIVERED)]


# Bounds


async def test_what_nats_cannot_carry_is_refused(known: Scene) -> None:
    known.link.max_payload = 1000
    large = wire.Content(1, 1, bytes(16), bytes(1000))

    with pytest.raises(TooLargeError, match="to a client of another node"):
        known.send(content=large)
    with pytest.raises(TooLargeError):
        known.signal("one", body=bytes(1000))

    assert known.batches.buffered == 0
    assert known.metrics.bus_refused.labelled("too large").value == 2


async def test_what_waits_is_bounded() -> None:
    scene = Scene(max_buffered=300).known()
    refused = 0
    for _ in range(20):
        for send in (scene.send, lambda: scene.signal("s", body=bytes(100))):
            with suppress(UnavailableError):
                send()  # type: ignore[no-untyped-call]  # a lambda
                continue
            refused += 1

    assert 0 < scene.batches.buffered <= 300
    assert refused == scene.metrics.bus_refused.labelled("too much waits").value > 30
    while scene.numbers() or scene.batches.is_waiting:
        scene.answer()
    assert scene.batches.buffered == 0


async def test_without_a_link_nothing_is_taken(known: Scene) -> None:
    known.link.is_up = False

    for send in (known.send, lambda: known.signal("one")):
        with pytest.raises(UnavailableError, match=AWAY):
            send()  # type: ignore[no-untyped-call]  # a lambda
    assert known.batches.buffered == 0


# Losses


async def test_a_batch_without_an_answer_is_given_up_in_time(known: Scene) -> None:
    known.signal("one")
    known.batches.outboxes.flush()
    [number] = known.numbers()
    now = asyncio.get_running_loop().time()

    known.batches.give_up_late(now + 9.0)
    assert known.alice.heard == []
    known.batches.give_up_late(now + 11.0)
    known.batches.answered(wire.Answer(number))

    assert known.alice.heard == [("one", "another node does not answer")]
    assert (known.batches.buffered, known.lost("no answer")) == (0, 1)


async def test_a_cut_tells_all_who_wait(known: Scene) -> None:
    known.signal("one")
    known.signal("two")
    known.send()

    known.batches.cut_off()

    assert known.alice.heard == [("one", AWAY), ("two", AWAY)]
    assert (known.told, known.batches.buffered, known.lost("cut off")) == ([AWAY], 0, 3)


async def test_a_node_that_is_gone_has_lost_what_went_before_and_the_last_is_sent_on(known: Scene) -> None:
    known.signal("one")
    known.batches.outboxes.flush()
    known.send()
    known.batches.outboxes.flush()
    before, last = known.numbers()
    known.asked.clear()

    known.batches.unheard(last)
    known.batches.unheard(last)
    known.batches.unheard(before)

    assert known.alice.heard == [("one", "the other node is gone")]
    assert (known.asked, known.told) == (["bob"], [])
    known.find(node_id="n2")
    known.answer()
    assert known.told == [Delivery.DELIVERED]


async def test_a_batch_that_the_link_does_not_take_is_lost(known: Scene) -> None:
    known.signal("one")
    known.link.is_up = False

    known.batches.outboxes.flush()

    assert known.alice.heard == [("one", AWAY)]


# News


async def test_news_go_to_each_node_and_are_repeated_to_one_that_does_not_answer(known: Scene) -> None:
    known.batches.announce(["n1", "n2"], wire.News("demo", b"news"))
    known.batches.outboxes.flush()
    now = asyncio.get_running_loop().time()
    known.batches.answered(wire.Answer(known.numbers()[0]))

    known.batches.give_up_late(now + 11.0)
    known.batches.outboxes.flush()

    assert [subject for subject, _, _ in known.link.batches] == ["p.n.n1", "p.n.n2", "p.n.n2"]
    known.batches.unheard(known.numbers()[0])
    known.batches.announce(["n1"], wire.News("demo", b"more"))
    known.batches.cut_off()
    assert known.numbers() == []
    assert known.batches._news == 0
