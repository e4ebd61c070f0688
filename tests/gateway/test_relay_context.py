"""The writes of one turn of the event loop share one batch."""

from __future__ import annotations

from signal_manager.gateway.counters import GatewayCounters
from signal_manager.gateway.relay_context import RelayContext
from signal_manager.observe.metrics import Metrics


class Queue:
    def __init__(self) -> None:
        self.flushed = 0

    def flush(self) -> None:
        self.flushed += 1


def new_context() -> RelayContext:
    return RelayContext({}, None, GatewayCounters(Metrics()))


def test_who_opens_a_batch_while_one_is_open_gets_that_one() -> None:
    context = new_context()

    batch = context.open_batch()

    assert context.open_batch() is batch
    assert context.batch is batch


def test_closing_writes_every_queue_once_and_lets_the_next_turn_begin() -> None:
    context, queue = new_context(), Queue()
    context.open_batch().queues.append(queue)

    context.close_batch()
    context.close_batch()

    assert queue.flushed == 1
    assert context.batch is None
