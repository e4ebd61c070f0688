"""Counters and histograms of the whole service, declared once and read by Prometheus when it asks.

Counting is adding to a plain int, so that hot paths may count; `Metrics` is a prometheus-client collector and does the
work of presenting the numbers. It imports nothing of ours, and `app.py` hands the one instance to whoever counts.

To add one: declare a family in `Metrics.__init__` with its help text and label names, and count with
`metrics.the_family.labelled("value", …).add()` or `.observe(seconds)`. A hot path looks its child up once and keeps
it. Label values come from closed sets in the code, never from a peer: every distinct value is kept for ever.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

__all__ = ["Counter", "CounterFamily", "Histogram", "HistogramFamily", "Metrics"]

# Upper bounds in seconds. An SFU call takes about 250 ms at the median and 1.1 s at p99; empty tracks wait 8 s.
CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int = 1) -> None:
        """Count `amount` more events."""
        self.value += amount


class Histogram:
    """How often a value fell under each of some fixed upper bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one is for values above every bound
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one `value` in the first bucket whose bound is not below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class CounterFamily:
    """Counters of one name, one for each combination of label values seen."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        self._name = name
        self._help = help_text
        self._labels = labels
        self._children: dict[tuple[str, ...], Counter] = {}

    def labelled(self, *values: str) -> Counter:
        """Return the counter for these label values, in the order of the declaration."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = Counter()
        return child

    def read(self) -> Metric:
        """Return the present numbers in Prometheus's words."""
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, child in self._children.items():
            family.add_metric(values, child.value)
        return family


class HistogramFamily:
    """Histograms of one name and the same bounds, one for each combination of label values seen."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = (), *, bounds: Sequence[float]) -> None:
        self._name = name
        self._help = help_text
        self._labels = labels
        self._bounds = bounds
        self._children: dict[tuple[str, ...], Histogram] = {}

    def labelled(self, *values: str) -> Histogram:
        """Return the histogram for these label values, in the order of the declaration."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = Histogram(self._bounds)
        return child

    def read(self) -> Metric:
        """Return the present numbers in Prometheus's words: buckets are cumulative there."""
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        names = [*map(str, self._bounds), "+Inf"]
        for values, child in self._children.items():
            buckets = list(zip(names, map(float, accumulate(child.counts)), strict=True))
            family.add_metric(values, buckets, child.total)
        return family


class Metrics:
    """Every number the service publishes; register it with a prometheus-client registry to serve them."""

    def __init__(self) -> None:
        self.media_calls = CounterFamily(
            "signal_manager_media_calls", "Calls to the SFU by how they ended.", ("operation", "outcome")
        )
        self.media_call_seconds = HistogramFamily(
            "signal_manager_media_call_seconds",
            "Time until the SFU answered or the call was given up.",
            ("operation",),
            bounds=CALL_SECONDS,
        )
        self.media_sessions_replaced = CounterFamily(
            "signal_manager_media_sessions_replaced", "Media sessions given up before their client left.", ("reason",)
        )
        self.media_closings = CounterFamily(
            "signal_manager_media_closings", "Attempts to close what a media session left behind.", ("outcome",)
        )

    def collect(self) -> Iterator[Metric]:
        """Yield every family, as prometheus-client's collector interface asks."""
        for family in vars(self).values():
            yield family.read()
