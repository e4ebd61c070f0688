"""The writes of one turn of the event loop share one batch."""

from __future__ import annotations

from signal_manager.gateway.counters import GatewayCounters
from signal_manager.gateway.switchboard import Switchboard
from signal_manager.observe.metrics import Metrics


class Queue:
    def __init__(self) -> None:
        self.flushed = 0

    def flush(self) -> None:
        self.flushed += 1


def switchboard() -> Switchboard:
    return Switchboard({}, None, GatewayCounters(Metrics()))


def test_who_opens_a_batch_while_one_is_open_gets_that_one() -> None:
    board = switchboard()

    batch = board.open_batch()

    assert board.open_batch() is batch
    assert board.batch is batch


def test_closing_writes_every_queue_once_and_lets_the_next_turn_begin() -> None:
    board, queue = switchboard(), Queue()
    board.open_batch().queues.append(queue)

    board.close_batch()
    board.close_batch()

    assert queue.flushed == 1
    assert board.batch is None
