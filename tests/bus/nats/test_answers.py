"""What a node answers about a client that is here, coming, gone, or wanted elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from signal_manager.bus.nats.answers import Answers
from signal_manager.bus.nats.claims import Claims
from signal_manager.bus.nats.questions import Claim, Gone, Here, Late, Where
from signal_manager.model import ClientId
from tests.bus.nats.link_double import KeptLink, arrival

A = ClientId("a")


class Phone:
    """A client's connection."""

    instance_id = "i"
    taken_up_at = 0

    def __init__(self) -> None:
        self.replaced_by_same: list[bool] = []

    def replaced(self, *, same_instance: bool) -> None:
        self.replaced_by_same.append(same_instance)


class Node:
    """A node that answers, and the order of what it does."""

    def __init__(self) -> None:
        self.link = KeptLink()
        self.subscribers: dict[str, Any] = {}
        self.claims = Claims("here", self.subscribers, clock=lambda: 1.0, is_taken_over=lambda *_: False)
        self.flushed = 0
        link: Any = self.link
        self.answers: Answers[Any] = Answers(
            "here",
            self.subscribers,
            self.claims,
            link,
            flush=self._flush,
            detach=self._detach,
        )

    def _flush(self) -> None:
        assert self.link.published == []  # answers to what was sent here must not come after the claim's
        self.flushed += 1

    def _detach(self, client_id: str, phone: Phone) -> None:
        del self.subscribers[client_id]

    def attach(self) -> Phone:
        phone = self.subscribers[A] = Phone()
        self.claims.attached(A)
        return phone


@pytest.fixture
def node() -> Node:
    return Node()


def claim(**more: Any) -> Claim:
    return Claim("there", "i", 2.0, taken_up_at=0, **more)


def test_where_a_client_is(node: Node) -> None:
    node.answers.take(A, arrival(Where()))
    node.attach()
    node.answers.take(A, arrival(Where()))
    node.answers.take(A, arrival(Where(), reply=""))

    assert [answer for _, answer in node.link.published] == [Late(), Here("here")]


def test_who_asks_for_a_client_that_is_coming_waits(node: Node) -> None:
    coming = node.claims.begin(A, "i", 0)

    node.answers.take(A, arrival(Where(), reply="asker"))

    assert node.link.published == []
    node.answers.answer_where(A, coming.questions)
    assert node.link.published == [("asker", Late())]


def test_a_claimed_client_is_let_go_and_what_waits_goes_first(node: Node) -> None:
    phone = node.attach()

    node.answers.take(A, arrival(claim()))

    assert [answer for _, answer in node.link.published] == [Gone()]
    assert (phone.replaced_by_same, node.subscribers, node.flushed) == ([True], {}, 1)


def test_a_claimed_client_that_is_not_here_may_be_on_its_way_elsewhere(node: Node) -> None:
    node.answers.take(A, arrival(claim()))

    assert [answer for _, answer in node.link.published] == [Late()]


@pytest.mark.parametrize(("size", "answer"), [(10, Gone(bytes(10))), (2_000_000, Gone())])
def test_a_session_is_handed_over_if_nats_takes_it(node: Node, size: int, answer: Gone) -> None:
    node.attach()
    node.answers.hand_over = lambda client_id, wants: bytes(size)

    node.answers.take(A, arrival(claim(wants=b"w")))

    assert [given for _, given in node.link.published] == [answer]


def test_a_nodes_name_is_taken(node: Node) -> None:
    node.answers.identify(arrival(Where(), reply="asker"))
    node.answers.identify(arrival(Where(), reply=""))

    assert node.link.published == [("asker", Here("here"))]
