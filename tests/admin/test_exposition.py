"""The numbers of several workers at one port."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from signal_manager.admin.exposition import MetricsExposition
from signal_manager.model import NodeId
from signal_manager.observe.metrics import Metrics


def numbers(node_id: str, opened: int, *others: MetricsExposition, workers: int = 2) -> MetricsExposition:
    metrics = Metrics()
    metrics.connections_opened.labelled().add(opened)

    async def ask(question: bytes) -> list[bytes]:
        return [answer for other in others if (answer := other.answer(question)) is not None]

    return MetricsExposition(metrics, node_id=NodeId(node_id), workers=workers, others=ask)


def read(text: bytes, name: str) -> dict[str | None, float]:
    return {
        sample.labels.get("worker"): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name == name
    }


async def test_each_worker_has_its_own_numbers_under_one_heading() -> None:
    text = await numbers("machine-0", 3, numbers("machine-1", 4)).text()

    assert read(text, "signal_manager_connections_opened_total") == {"0": 3, "1": 4}
    assert read(text, "signal_manager_workers_unheard") == {None: 0}
    assert text.count(b"# TYPE signal_manager_connections_opened_total ") == 1
    assert set(read(text, "process_cpu_seconds_total")) == {"0", "1"}


async def test_a_worker_that_does_not_answer_is_left_out_and_counted() -> None:
    text = await numbers("machine-0", 3, numbers("machine-1", 4), workers=3).text()

    assert read(text, "signal_manager_workers_unheard") == {None: 1}


async def test_workers_of_other_machines_and_single_nodes_are_asked_at_their_own_ports() -> None:
    others = numbers("other-1", 9), numbers("machine-1", 9, workers=1)

    text = await numbers("machine-0", 3, *others).text()

    assert read(text, "signal_manager_connections_opened_total") == {"0": 3}


async def test_one_process_alone_needs_no_label() -> None:
    text = await numbers("machine", 3, workers=1).text()

    assert read(text, "signal_manager_connections_opened_total") == {None: 3}
    assert read(text, "signal_manager_workers_unheard") == {}


def test_questions_of_another_kind_are_for_others_to_answer() -> None:
    assert numbers("machine-0", 3).answer(b"\x81\xa5about\xa8sessions") is None


async def test_those_who_ask_at_the_same_time_share_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    read_alone, readings = MetricsExposition._read, 0

    async def counted(self: MetricsExposition) -> bytes:
        nonlocal readings
        readings += 1
        return await read_alone(self)

    monkeypatch.setattr(MetricsExposition, "_read", counted)
    metrics = Metrics()
    asked = MetricsExposition(metrics)

    await asyncio.gather(*(asked.text() for _ in range(100)))
    assert readings == 1

    metrics.connections_opened.labelled().add(5)
    assert read(await asked.text(), "signal_manager_connections_opened_total") == {None: 5}, "and no old one"
