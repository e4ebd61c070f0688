"""Runs of signals: told as one when all arrived, and one by one otherwise."""

from __future__ import annotations

from signal_manager.bus.base import Delivery
from signal_manager.bus.nats.routes import KNOWN, Route
from signal_manager.bus.nats.runs import Run, alone
from signal_manager.bus.nats.wire import Signals, size_of
from signal_manager.errors import SignalManagerError, UnavailableError
from tests.bus.nats.clients import Caller, frame


def run_of(caller: Caller, *names: str) -> Run:
    entry = Signals("bob", caller.client_id, [(frame(name), b"body") for name in names])
    route = Route(KNOWN)
    route.out = 1
    return Run(caller, entry, True, route, size_of(entry), 0)


def test_all_signals_of_a_run_arrive_together() -> None:
    caller = Caller()
    run = run_of(caller, "one", "two")

    run.arrived()

    assert (run.target, run.count) == ("bob", 2)
    assert caller.heard == [("one", Delivery.DELIVERED), ("two", Delivery.DELIVERED)]


def test_taken_apart_each_signal_is_settled_and_counted_by_itself() -> None:
    caller = Caller()
    run = run_of(caller, "one", "two", "three")

    envelopes = run.envelopes()
    results: list[Delivery | SignalManagerError] = [Delivery.QUEUED, UnavailableError("gone"), Delivery.OFFLINE]
    for envelope, result in zip(envelopes, results, strict=True):
        assert envelope.outcome is not None
        envelope.outcome(result)

    assert run.route.out == 3
    assert all(envelope.route is run.route for envelope in envelopes)
    assert caller.heard == [("one", Delivery.QUEUED), ("two", "gone"), ("three", Delivery.OFFLINE)]


def test_signals_taken_apart_weigh_at_least_what_their_run_did() -> None:
    run = run_of(Caller(), "one", "two")

    assert sum(envelope.size for envelope in run.envelopes()) >= run.size


def test_a_lone_signal_without_a_route_is_not_on_one() -> None:
    envelope = alone(Caller(), "bob", frame("one"), b"body", wants_ack=False)

    assert (envelope.target, envelope.route, envelope.attempts) == ("bob", None, 0)
    assert envelope.size == size_of(envelope.entry)
