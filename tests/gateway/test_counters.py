"""Counters of messages, and the errors that the dashboard shows."""

from __future__ import annotations

import pytest

from signal_manager.gateway.counters import GatewayCounters, SentErrors
from signal_manager.model import ClientId
from signal_manager.observe.metrics import Metrics
from signal_manager.protocol.messages import ErrorMessage, MessageType


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_a_relayed_signal_counts_as_received_and_sent_and_a_forwarded_one_as_received(metrics: Metrics) -> None:
    counters = GatewayCounters(metrics)

    counters.relayed[MessageType.SIGNAL_OFFER].add()
    counters.forwarded[MessageType.SIGNAL_OFFER].add()

    assert metrics.messages_received.total() == 2
    assert metrics.messages_sent.total() == 1


def test_signals_are_counted_on_whichever_path_they_took(metrics: Metrics) -> None:
    counters = GatewayCounters(metrics)

    counters.relayed[MessageType.SIGNAL_OFFER].add(2)
    counters.forwarded[MessageType.SIGNAL_ANSWER].add(3)
    counters.relayed_decoded.add(4)

    assert counters.signals() == 9


def test_every_message_type_has_a_counter(metrics: Metrics) -> None:
    counters = GatewayCounters(metrics)

    assert set(counters.received) == set(counters.sent) == {int(each) for each in MessageType}


def test_the_errors_kept_for_the_dashboard_are_the_last_hundred(metrics: Metrics) -> None:
    errors = SentErrors(metrics)

    for number in range(150):
        errors.record(ErrorMessage(error_code=404, error_message=f"no {number}"), ClientId("a"))
    errors.record(ErrorMessage(error_code=401, error_message="who?"), None)

    assert len(errors.recent) == 100
    assert (errors.recent[0].message, errors.recent[0].client_id) == ("no 51", "a")
    assert (errors.recent[-1].code, errors.recent[-1].client_id) == (401, None)
    assert metrics.errors_sent.total() == 151
