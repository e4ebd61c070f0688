"""Counts what nodes send each other."""

from __future__ import annotations

from typing import NamedTuple

from signal_manager.observe.counts import Counter
from signal_manager.observe.metrics import Metrics

__all__ = ["Traffic", "traffic_of"]


class Traffic(NamedTuple):
    """The counters of one direction."""

    entries: Counter
    batches: Counter
    bytes: Counter


def traffic_of(metrics: Metrics, direction: str) -> Traffic:
    """Return the counters of a direction, "in" or "out"."""
    return Traffic(
        metrics.bus_messages.labelled(direction),
        metrics.bus_batches.labelled(direction),
        metrics.bus_bytes.labelled(direction),
    )
