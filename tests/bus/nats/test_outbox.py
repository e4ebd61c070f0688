"""What goes to other nodes: a lone signal at once, many signals and answers together, in as few batches as fit."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from signal_manager.bus.nats import wire
from signal_manager.bus.nats.link import NatsLink
from signal_manager.bus.nats.outbox import Announcement, Outboxes
from signal_manager.bus.nats.routes import KNOWN, Envelope, Route
from signal_manager.bus.nats.runs import Run
from signal_manager.bus.nats.subjects import Subjects
from signal_manager.observe.metrics import Metrics
from tests.bus.nats.clients import Caller, frame
from tests.bus.nats.link_double import KeptLink
from tests.waiting import until

CONTENT = wire.Content(1, 1, bytes(16), b"payload")


def run_of(target: str = "bob", body: bytes = b"body") -> Run:
    entry = wire.Signals(target, "alice", [(frame("s"), body)])
    return Run(Caller(), entry, False, Route(KNOWN), wire.size_of(entry), 1000)


def letter(target: str = "bob", content: wire.Content = CONTENT) -> Envelope:
    return Envelope(target, content, wire.size_of(content), None)


class Scene:
    """The outboxes of the node n0."""

    def __init__(self) -> None:
        self.link = KeptLink()
        self.unsent: list[int] = []
        self.outboxes = Outboxes(
            cast("NatsLink", self.link), Subjects("p", "n0"), Metrics(), on_unsent=self.unsent.append
        )

    def lone(self, node_id: str = "n1") -> bool:
        """Send a lone signal, and return whether it may take more."""
        return self.outboxes.put_run(node_id, run_of(), is_alone=True, is_awaited=False)

    @property
    def sent(self) -> list[tuple[str, int, int]]:
        """The subject of each batch, with the numbers of its entries and answers."""
        return [(subject, len(batch.entries), len(batch.answers)) for subject, _, batch in self.link.batches]


@pytest.fixture
async def scene() -> Scene:
    return Scene()


async def test_a_lone_signal_leaves_at_once_with_the_answers_that_are_owed(scene: Scene) -> None:
    scene.outboxes.owe("n1", wire.Answer(7), is_awaited=False)

    assert not scene.lone()

    [(subject, reply, batch)] = scene.link.batches
    assert (subject, reply) == ("p.n.n1", f"p.r.n0.b{batch.number}")
    assert (batch.node_id, batch.answers, batch.is_awaited) == ("n0", [wire.Answer(7)], False)
    assert scene.link.written == 1
    assert [*scene.outboxes.sent] == [batch.number]
    scene.outboxes.flush()
    assert len(scene.link.batches) == 1  # the answer has left


async def test_many_signals_at_once_wait_for_each_other(scene: Scene) -> None:
    may_take_more = [scene.lone() for _ in range(50)]
    at_once = len(scene.link.batches)

    await until(lambda: sum(entries for _, entries, _ in scene.sent) == 50, limit=30)

    assert may_take_more == [False] * at_once + [True] * (50 - at_once)
    assert 1 <= at_once < 10
    assert len(scene.link.batches) == at_once + 1


async def test_what_is_put_in_one_turn_leaves_together_for_each_node(scene: Scene) -> None:
    for node_id in ("n1", "n2", "n1"):
        scene.outboxes.put(node_id, letter(content=wire.Content(1, 1, bytes(16), node_id.encode())))
    assert scene.sent == []

    await until(lambda: len(scene.link.batches) == 2, limit=30)

    assert sorted(subject for subject, _, _ in scene.sent) == ["p.n.n1", "p.n.n2"]
    assert all(batch.is_awaited for _, _, batch in scene.link.batches)


async def test_one_message_for_several_clients_travels_once_to_their_node(scene: Scene) -> None:
    for target in ("bob", "carol", "dave"):
        scene.outboxes.put("n1", letter(target))
    scene.outboxes.flush()

    [(_, _, batch)] = scene.link.batches
    assert batch.entries == [wire.Message(["bob", "carol", "dave"], CONTENT)]


async def test_what_does_not_fit_one_batch_leaves_in_several(scene: Scene) -> None:
    scene.link.max_payload = wire.OVERHEAD + 250
    for number in range(5):
        scene.outboxes.put("n1", letter(content=wire.Content(1, 1, bytes(16), bytes([number]) * 50)))
    scene.outboxes.put("n1", letter("carol"))
    scene.outboxes.put("n1", letter("dave"))
    scene.outboxes.flush()

    payloads = [
        (entry.content.payload[:1], tuple(entry.targets))
        for _, _, batch in scene.link.batches
        for entry in batch.entries
        if isinstance(entry, wire.Message)
    ]
    assert [first for first, _ in payloads] == [b"\0", b"\1", b"\2", b"\3", b"\4", b"p"]
    assert payloads[-1][1] == ("carol", "dave")
    assert len(scene.link.batches) > 1
    assert all(len(wire.encode(batch)) <= scene.link.max_payload for _, _, batch in scene.link.batches)
    assert sum(len(sent.items) for sent in scene.outboxes.sent.values()) == 7


async def test_an_answer_leaves_by_itself_when_nothing_else_does(scene: Scene) -> None:
    scene.outboxes.owe("n1", wire.Answer(7), is_awaited=False)
    scene.outboxes.owe("n1", wire.Answer(8), is_awaited=True)

    await until(lambda: bool(scene.link.batches), limit=30)

    assert scene.sent == [("p.n.n1", 0, 2)]
    assert scene.link.batches[0][1] == ""  # it wants no answer itself
    assert scene.outboxes.sent == {}


async def test_a_closed_outbox_sends_no_answer_by_itself(scene: Scene) -> None:
    scene.outboxes.close()
    scene.outboxes.owe("n1", wire.Answer(7), is_awaited=True)
    scene.outboxes.close()

    await asyncio.sleep(0.01)

    assert scene.sent == []


async def test_a_batch_that_the_link_refuses_is_told_with_its_number(scene: Scene) -> None:
    scene.link.is_up = False
    scene.lone()

    assert scene.unsent == [*scene.outboxes.sent]


async def test_the_outbox_of_a_node_that_is_gone_is_dropped_and_made_anew(scene: Scene) -> None:
    scene.outboxes.forget("n1")
    scene.lone()
    scene.outboxes.forget("n1")
    scene.lone()

    assert [subject for subject, _, _ in scene.sent] == ["p.n.n1"] * 2


async def test_a_run_that_was_sent_takes_no_more(scene: Scene) -> None:
    run = run_of()
    assert scene.outboxes.put_run("n1", run, is_alone=False, is_awaited=True)

    scene.outboxes.flush()

    assert run.room < 0


async def test_numbers_are_those_of_no_other_batch(scene: Scene) -> None:
    for _ in range(3):
        scene.lone()
    numbers = [batch.number for _, _, batch in scene.link.batches]

    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]
    other = Scene()
    other.lone()
    assert other.link.batches[0][2].number not in numbers


async def test_news_leave_as_any_item_does(scene: Scene) -> None:
    news = wire.News("demo", b"news")
    scene.outboxes.put("n1", Announcement("n1", news, wire.size_of(news), 0.0))
    scene.outboxes.flush()

    assert scene.link.batches[0][2].entries == [news]
