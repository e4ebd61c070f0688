"""Subjects keep their handlers over connections, and get new numbers on each."""

from __future__ import annotations

from signal_manager.bus.nats.link import Arrival
from signal_manager.bus.nats.subscriptions import Subscriptions


def handle(message: Arrival) -> None:
    raise AssertionError("nothing arrives here")


def other(message: Arrival) -> None:
    raise AssertionError("nothing arrives here")


def test_a_subject_keeps_its_first_handler() -> None:
    subscriptions = Subscriptions()

    assert subscriptions.add("a", handle)
    assert not subscriptions.add("a", other)

    assert subscriptions.by_number[subscriptions.number("a")] is handle


def test_another_connection_has_other_numbers() -> None:
    subscriptions = Subscriptions()
    subscriptions.add("a", handle)
    first = subscriptions.number("a")

    subscriptions.begin()

    assert subscriptions.by_number == {}
    assert list(subscriptions) == ["a"]
    assert subscriptions.number("a") != first


def test_what_is_on_its_way_to_a_removed_subject_still_has_a_handler() -> None:
    subscriptions = Subscriptions()
    subscriptions.add("a", handle)
    number = subscriptions.number("a")

    assert subscriptions.remove("a") == number

    assert list(subscriptions) == []
    assert subscriptions.by_number == {number: handle}
    assert subscriptions.remove("a") is None
