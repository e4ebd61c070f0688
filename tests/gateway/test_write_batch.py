"""A batch of writes: each client gets its share once, and the time of a relayed signal ends with the write."""

from __future__ import annotations

from time import perf_counter

from signal_manager.gateway.write_batch import WriteBatch
from signal_manager.observe.metrics import Metrics


class Queue:
    """A client's queue, which notes its writes."""

    def __init__(self, written: list[str], name: str) -> None:
        self._written = written
        self._name = name

    def flush(self) -> None:
        self._written.append(self._name)


def test_every_queue_is_written_once() -> None:
    batch, written = WriteBatch(Metrics().relay_seconds.labelled()), list[str]()
    batch.queues += [Queue(written, "a"), Queue(written, "b")]

    batch.flush()
    batch.flush()

    assert sorted(written) == ["a", "b"]


def test_a_queue_that_a_write_adds_is_written_too() -> None:
    batch, written = WriteBatch(Metrics().relay_seconds.labelled()), list[str]()

    class Adding(Queue):
        def flush(self) -> None:
            super().flush()
            batch.queues.append(Queue(written, "added"))

    batch.queues.append(Adding(written, "first"))
    batch.flush()

    assert written == ["first", "added"]


def test_each_timed_signal_is_measured_once_to_the_end_of_the_batch() -> None:
    seconds = Metrics().relay_seconds.labelled()
    batch = WriteBatch(seconds)

    batch.time(perf_counter() - 3600)
    batch.time(perf_counter())
    before = sum(seconds.counts)
    batch.flush()
    batch.flush()

    assert (before, sum(seconds.counts)) == (0, 2)
    assert seconds.total >= 3600
