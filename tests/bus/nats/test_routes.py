"""Where clients of other nodes are, and what waits: decided without any node."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from signal_manager.bus.base import Delivery
from signal_manager.bus.nats.routes import Ask, Dispatch, Envelope, Routes, Step, Tell
from signal_manager.bus.nats.wire import Content, size_of
from signal_manager.errors import SignalManagerError, UnavailableError


def envelope(text: str = "m", target: str = "a") -> Envelope:
    content = Content(0, 0, bytes(16), text.encode())
    return Envelope(target, content, size_of(content), None)


def number_of(envelope: Envelope) -> int:
    assert isinstance(envelope.entry, Content)
    return int(envelope.entry.payload)


def test_a_client_is_asked_for_once() -> None:
    routes = Routes()
    first, second, third = envelope(), envelope(), envelope()

    assert routes.send(first) == Ask("a")
    assert routes.send(second) is None
    assert routes.found("a", "n") == [Dispatch("n", first), Dispatch("n", second)]
    assert routes.send(third) == Dispatch("n", third)


def test_nobody_holds_the_client() -> None:
    routes = Routes()
    message = envelope()
    routes.send(message)

    assert routes.absent("a") == [Tell(message, Delivery.OFFLINE)]
    assert len(routes) == 0


def test_everything_comes_back_before_the_client_is_asked_for_again() -> None:
    routes = Routes()
    first, second, third = envelope(), envelope(), envelope()
    routes.send(first)
    routes.found("a", "old")
    routes.send(second)

    assert routes.refused(first) == []
    assert routes.send(third) is None
    assert routes.refused(second) == [Ask("a")]
    assert routes.found("a", "new") == [Dispatch("new", each) for each in (first, second, third)]


def test_a_client_that_keeps_moving_is_offline_at_last() -> None:
    routes = Routes()
    message = envelope()
    routes.send(message)
    for _ in range(3):
        routes.found("a", "n")
        assert routes.refused(message) == [Ask("a")]
    routes.found("a", "n")

    assert routes.refused(message) == [Tell(message, Delivery.OFFLINE)]


def test_what_waits_for_a_client_that_comes_here_is_handed_over_in_order() -> None:
    routes = Routes()
    first, second = envelope(), envelope()
    routes.send(first)
    routes.found("a", "n")
    routes.hold("a")
    assert routes.send(second) is None
    routes.refused(first)

    assert routes.arrived("a") == [first, second]
    assert len(routes) == 0


def test_what_comes_back_after_that_is_not_delivered_out_of_order() -> None:
    routes = Routes()
    message = envelope()
    routes.send(message)
    routes.found("a", "n")
    routes.hold("a")
    routes.arrived("a")

    (told,) = routes.refused(message)

    assert isinstance(told, Tell)
    assert isinstance(told.result, UnavailableError)


def test_a_client_that_stays_away_is_asked_for() -> None:
    routes = Routes()
    routes.hold("a")
    message = envelope()
    routes.send(message)

    assert routes.stayed_away("a") == [Ask("a")]
    assert routes.stayed_away("a") == []
    assert routes.found("a", "n") == [Dispatch("n", message)]


def test_a_held_client_with_nothing_waiting_is_forgotten() -> None:
    routes = Routes()
    routes.hold("a")

    assert routes.stayed_away("a") == []
    assert len(routes) == 0


def test_late_answers_to_questions_change_nothing() -> None:
    routes = Routes()

    assert routes.found("a", "n") == routes.absent("a") == routes.unknown("a", UnavailableError("")) == []


def test_only_so_many_clients_are_remembered() -> None:
    routes = Routes(max_routes=10)
    busy = envelope(target="busy")
    routes.send(busy)
    for i in range(30):
        message = envelope(target=f"c{i}")
        routes.send(message)
        routes.found(message.target, "n")
        routes.delivered(message)

    assert len(routes) <= 10
    assert routes.found("busy", "n") == [Dispatch("n", busy)]


class MovingClient(RuleBasedStateMachine):
    """A client that moves among nodes while it is sent to: order holds, and each message is told of once."""

    def __init__(self) -> None:
        super().__init__()
        self.routes = Routes()
        self.sent = 0
        self.home: str | None = "n0"
        self.asked = 0
        self.out: list[Dispatch] = []  # on its way, in order
        self.delivered: list[int] = []
        self.told: dict[int, Delivery | SignalManagerError] = {}

    def do(self, steps: Iterable[Step | None]) -> None:
        for step in steps:
            match step:
                case Ask():
                    assert self.asked == 0
                    self.asked += 1
                case Dispatch():
                    self.out.append(step)
                case Tell():
                    number = number_of(step.envelope)
                    assert number not in self.told
                    self.told[number] = step.result

    @rule()
    def send(self) -> None:
        self.do([self.routes.send(envelope(str(self.sent)))])
        self.sent += 1

    @rule(home=st.sampled_from(["n0", "n1", None]))
    def move(self, home: str | None) -> None:
        self.home = home

    @precondition(lambda self: self.asked)
    @rule(is_answered=st.booleans())
    def answer(self, is_answered: bool) -> None:
        self.asked -= 1
        if not is_answered:
            self.do(self.routes.unknown("a", UnavailableError("")))
        elif self.home is None:
            self.do(self.routes.absent("a"))
        else:
            self.do(self.routes.found("a", self.home))

    @precondition(lambda self: self.out)
    @rule(is_lost=st.booleans())
    def arrive(self, is_lost: bool) -> None:
        step = self.out.pop(0)
        if is_lost:
            self.do(self.routes.lost(step.envelope, UnavailableError("")))
        elif step.node_id == self.home:
            self.delivered.append(number_of(step.envelope))
            self.do(self.routes.delivered(step.envelope))
        else:
            self.do(self.routes.refused(step.envelope))

    @invariant()
    def order_holds(self) -> None:
        assert self.delivered == sorted(set(self.delivered))

    @invariant()
    def what_was_delivered_is_told_so(self) -> None:
        told = {number for number, result in self.told.items() if result is Delivery.DELIVERED}
        assert told == set(self.delivered)

    def teardown(self) -> None:
        while self.asked or self.out:
            if self.asked:
                self.answer(True)
            else:
                self.arrive(False)
        assert set(self.told) == set(range(self.sent))


TestMovingClient = MovingClient.TestCase
TestMovingClient.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
