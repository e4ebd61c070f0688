"""The numbers that metrics count in: hot paths add to them, `metrics.py` names them and shows them to Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["Counter", "Histogram"]


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int = 1) -> None:
        """Count `amount` more events."""
        self.value += amount


class Histogram:
    """Counts of values in buckets with fixed upper bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one is for values above every bound
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one `value` in the first bucket whose bound is not below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
