"""What nodes send each other is counted by direction."""

from __future__ import annotations

from signal_manager.bus.nats.traffic import traffic_of
from signal_manager.observe.metrics import Metrics


def test_each_direction_counts_for_itself() -> None:
    metrics = Metrics()
    traffic_of(metrics, "out").bytes.value += 5

    assert metrics.bus_bytes.labelled("out").value == 5
    assert metrics.bus_bytes.labelled("in").value == 0
    assert traffic_of(metrics, "out").bytes is metrics.bus_bytes.labelled("out")
