"""What comes from other nodes: delivered in order, and only what was not delivered is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from signal_manager.bus.base import Delivery
from signal_manager.bus.nats import wire
from signal_manager.bus.nats.batches import Batches
from signal_manager.bus.nats.deliveries import Deliveries
from signal_manager.bus.nats.link import Arrival
from signal_manager.bus.nats.routes import Envelope
from signal_manager.errors import TooLargeError
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.codec import encode_payload
from signal_manager.protocol.messages import GoAway, MessageType, PayloadType, Peer, Shape
from tests.bus.nats.clients import Phone, frame

GOAWAY = GoAway(reason="restarting", reconnect_after=1)


class AnswerBook:
    """Stands for `Batches`: notes the answers that came and those that this node owes."""

    def __init__(self) -> None:
        self.came: list[wire.Answer] = []
        self.owed: list[tuple[str, wire.Answer, bool]] = []
        self.outboxes = self

    def answered(self, answer: wire.Answer) -> None:
        """Note an answer of another node."""
        self.came.append(answer)

    def owe(self, node_id: str, answer: wire.Answer, *, is_awaited: bool) -> None:
        """Note an answer to another node."""
        self.owed.append((node_id, answer, is_awaited))


class Scene:
    """A node with bob, and what it owes the node n1."""

    def __init__(self) -> None:
        self.bob = Phone()
        self.book = AnswerBook()
        self.turns: list[str] = []
        self.news: list[tuple[str, bytes]] = []
        subscribers: dict[str, Any] = {"bob": self.bob}
        self.deliveries = Deliveries(subscribers, cast("Batches", self.book), Metrics())
        self.deliveries.on_news = lambda room_id, data: self.news.append((room_id, data))
        self.deliveries.before = lambda: self.turns.append("before")
        self.deliveries.after = lambda: self.turns.append("after")

    def take(self, *entries: wire.Entry, is_awaited: bool = False, answers: tuple[wire.Answer, ...] = ()) -> None:
        """Take a batch."""
        batch = wire.Batch(wire.VERSION, 7, is_awaited, "n1", list(answers), list(entries))
        self.deliveries.take(Arrival(b"1", "n", "", wire.encode(batch)))

    @property
    def unsettled(self) -> list[tuple[int, wire.Verdict]]:
        """What the last answer says was not delivered."""
        return [(each.place, each.verdict) for each in self.book.owed[-1][1].unsettled]


def signals(*bodies: bytes, target: str = "bob") -> wire.Signals:
    return wire.Signals(target, "alice", [(frame("s"), body) for body in bodies])


def content(**fields: Any) -> wire.Content:
    payload_type, payload = encode_payload(GOAWAY, PayloadType.JSON, Shape.PLAIN, sent_by=Peer.SERVICE)
    given: dict[str, Any] = {
        "message_type": MessageType.GOAWAY,
        "payload_type": payload_type,
        "payload": payload,
    } | fields
    return wire.Content(given["message_type"], given["payload_type"], bytes(16), given["payload"])


@pytest.fixture
def scene() -> Iterator[Scene]:
    with capture_logs():  # a traceback takes a second to render
        yield Scene()


def test_a_lone_signal_is_delivered_and_owed_an_answer_that_says_nothing(scene: Scene) -> None:
    scene.take(signals(b"one"))

    assert scene.bob.got == [("alice", b"one")]
    assert scene.book.owed == [("n1", wire.Answer(7), False)]
    assert scene.turns == []


def test_several_messages_are_delivered_in_one_turn_and_in_their_order(scene: Scene) -> None:
    scene.take(signals(b"one", b"two"), wire.Message(["bob"], content()), signals(b"three"), is_awaited=True)

    assert scene.bob.got == [("alice", b"one"), ("alice", b"two"), GOAWAY, ("alice", b"three")]
    assert scene.turns == ["before", "after"]
    assert scene.book.owed[0][2]  # the sender waits for it


def test_what_is_for_clients_of_no_connection_is_absent_each_at_its_place(scene: Scene) -> None:
    scene.take(signals(b"one"), signals(b"x", b"y", target="carol"), wire.Message(["bob", "dave"], content()))

    assert scene.unsettled == [(1, wire.Verdict.ABSENT), (2, wire.Verdict.ABSENT), (4, wire.Verdict.ABSENT)]
    assert scene.book.owed[0][2]  # what was not delivered is told soon


def test_what_waits_for_a_client_that_is_away_is_queued(scene: Scene) -> None:
    scene.bob.exceptional = [(1, Delivery.QUEUED)]

    scene.take(signals(b"one", b"two"))

    assert scene.unsettled == [(1, wire.Verdict.QUEUED)]


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(TooLargeError("too large"), wire.Verdict.TOO_LARGE), (ZeroDivisionError(), wire.Verdict.FAILED)],
)
def test_a_client_that_cannot_take_a_message_costs_the_others_nothing(
    scene: Scene, error: Exception, verdict: wire.Verdict
) -> None:
    carol = Phone()
    subscribers: dict[str, Any] = {"bob": scene.bob, "carol": carol}
    scene.deliveries = Deliveries(subscribers, cast("Batches", scene.book), Metrics())
    scene.bob.result = error

    scene.take(wire.Message(["bob", "carol"], content()))

    assert carol.got == [GOAWAY]
    assert scene.unsettled == [(0, verdict)]


def test_signals_that_fail_are_all_told_so(scene: Scene) -> None:
    scene.bob.result = ZeroDivisionError()

    scene.take(signals(b"one", b"two"))

    assert scene.unsettled == [(0, wire.Verdict.FAILED), (1, wire.Verdict.FAILED)]
    assert scene.turns == ["before", "after"]


@pytest.mark.parametrize("wrong", [{"message_type": 250}, {"payload_type": 77}, {"payload": b"{"}])
def test_a_message_that_no_service_writes_fails_alone(scene: Scene, wrong: dict[str, Any]) -> None:
    scene.take(wire.Message(["bob"], content(**wrong)), signals(b"one"))

    assert scene.bob.got == [("alice", b"one")]
    assert [place for place, _ in scene.unsettled] == [0]


def test_news_are_confirmed_so_that_lost_ones_are_repeated(scene: Scene) -> None:
    scene.take(wire.News("demo", b"news"))

    assert scene.news == [("demo", b"news")]
    assert scene.book.owed == [("n1", wire.Answer(7), False)]


def test_answers_want_no_answer(scene: Scene) -> None:
    scene.take(answers=(wire.Answer(3), wire.Answer(4)))

    assert scene.book.came == [wire.Answer(3), wire.Answer(4)]
    assert scene.book.owed == []


def test_noise_is_no_batch(scene: Scene) -> None:
    scene.deliveries.take(Arrival(b"1", "n", "", b"noise"))

    assert (scene.book.owed, scene.turns) == ([], [])


@pytest.mark.parametrize(
    ("target", "entry", "result"),
    [
        ("bob", signals(b"one"), Delivery.DELIVERED),
        ("carol", signals(b"one", target="carol"), Delivery.OFFLINE),
        ("bob", content(), Delivery.DELIVERED),
        ("carol", content(), Delivery.OFFLINE),
    ],
)
def test_what_waited_for_a_client_that_came_here_is_delivered_here(
    scene: Scene, target: str, entry: wire.Signals | wire.Content, result: Delivery
) -> None:
    assert scene.deliveries.deliver_parcel(Envelope(target, entry, 0, None)) is result
