"""The metrics of this process, and of the other workers that share its port, for Prometheus.

Workers share one second port. The worker that has it asks the others over the bus and labels each sample with its
worker. `signal_manager_workers_unheard` counts workers that do not answer in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from signal_manager.model import NodeId
from signal_manager.observe.metrics import Metrics

__all__ = ["MetricsExposition"]


class _Sample(msgspec.Struct, frozen=True, array_like=True):
    name: str
    labels: dict[str, str]
    value: float


class _Family(msgspec.Struct, frozen=True, array_like=True):
    name: str
    help: str
    kind: str
    samples: list[_Sample]


class _Question(msgspec.Struct, frozen=True, tag="numbers"):
    """Asks the workers of one supervisor for their metrics."""

    service: str


class _Answer(msgspec.Struct, frozen=True):
    worker: str = ""  # empty if the question was for another supervisor's workers
    families: list[_Family] = []


_encode = msgspec.msgpack.Encoder().encode
_read_question = msgspec.msgpack.Decoder(_Question).decode
_read_answer = msgspec.msgpack.Decoder(_Answer).decode


class MetricsExposition:
    """Writes the metrics of this process and of its fellow workers as text.

    Args:
        metrics: the metrics of this process.
        node_id: this node; a worker's is its supervisor's name, a dash and the worker's number.
        workers: how many processes share the port.
        others: asks all other nodes; None if there are no other workers.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        node_id: NodeId | None = None,
        workers: int = 1,
        others: Callable[[bytes], Awaitable[list[bytes]]] | None = None,
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(metrics)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._service, _, self._worker = (node_id or "").rpartition("-")
        self._workers = workers
        self._others = others
        self._reading = asyncio.Lock()
        self._begun = 0  # count of readings
        self._text = b""  # the last reading

    async def text(self) -> bytes:
        """Return all metrics in Prometheus's text format; concurrent callers share one reading."""
        begun = self._begun
        async with self._reading:
            if self._begun == begun:  # otherwise the last reading began after this call
                await asyncio.sleep(0)  # lets all concurrent callers arrive here first
                self._begun += 1
                self._text = await self._read()
            return self._text

    async def _read(self) -> bytes:
        if self._workers < 2 or self._others is None:
            return generate_latest(self._registry)
        replies = await self._others(_encode(_Question(self._service)))
        answers = {answer.worker: answer for answer in map(_read_answer, replies) if answer.worker}
        answers[self._worker] = self._own()
        together = CollectorRegistry(auto_describe=False)
        together.register(_Together(answers, unheard=max(0, self._workers - len(answers))))
        return generate_latest(together)

    def answer(self, question: bytes) -> bytes | None:
        """Return this process's answer to another process; None if the question is not about metrics."""
        try:
            asked = _read_question(question)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return _encode(self._own() if self._workers > 1 and asked.service == self._service else _Answer())

    def _own(self) -> _Answer:
        families = [
            _Family(
                family.name,
                family.documentation,
                family.type,
                [_Sample(sample.name, sample.labels, float(sample.value)) for sample in family.samples],
            )
            for family in self._registry.collect()
        ]
        return _Answer(self._worker, families)


class _Together:
    """Merges the metric families of several workers; each sample gets its worker as a label."""

    def __init__(self, answers: dict[str, _Answer], *, unheard: int) -> None:
        self._answers = answers
        self._unheard = unheard

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family (prometheus-client's collector interface)."""
        families: dict[str, Metric] = {}
        for worker, answer in sorted(self._answers.items()):
            for each in answer.families:
                family = families.get(each.name)
                if family is None:
                    family = families[each.name] = Metric(each.name, each.help, each.kind)
                for sample in each.samples:
                    family.add_sample(sample.name, {**sample.labels, "worker": worker}, sample.value)
        yield from families.values()
        yield GaugeMetricFamily(
            "signal_manager_workers_unheard", "Workers that did not report their metrics in time.", value=self._unheard
        )
