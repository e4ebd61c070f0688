"""The counters of the local SFU: plain integers on the packet path, which prometheus-client reads on request.

Neighbours: every module adds to `Counters`; `http` serves `SfuCollector` at /metrics, `status` shows a part of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["Counters", "Gauges", "SfuCollector"]


@dataclass(slots=True)
class Counters:
    """Counts that only grow.

    Large because it is a list: one field for each counter.
    """

    packets_received: int = 0
    bytes_received: int = 0
    packets_forwarded: int = 0
    bytes_forwarded: int = 0
    packets_unrouted: int = 0
    packets_dropped_on_purpose: int = 0
    packets_asked_again: int = 0
    packets_resent: int = 0
    resends_refused: int = 0
    key_frame_requests: int = 0
    key_frame_requests_held_back: int = 0
    subscriptions_limited: int = 0
    subscriptions_held: int = 0
    refused_for_load: int = 0
    send_failures: int = 0
    datagrams_missed: int = 0  # datagrams lost in the kernel, because the SFU did not read in time
    early_datagrams: int = 0  # media that arrived before the handshake
    refused_datagrams: int = 0
    refused_stun: int = 0
    handshakes: int = 0
    handshakes_failed: int = 0
    sessions_opened: int = 0
    sessions_expired: int = 0
    tracks_collected: int = 0
    channel_messages: int = 0
    channels_overflowed: int = 0
    faults: int = 0
    requests: Counter[tuple[str, int, str]] = field(default_factory=Counter)  # endpoint, status, error code


@dataclass(frozen=True, slots=True)
class Gauges:
    """Present numbers of sessions, tracks and channels."""

    sessions: int
    connected_sessions: int
    publications: int
    subscriptions: int
    data_channels: int
    pending_handshakes: int


class SfuCollector(Collector):
    """Turn the plain integers into Prometheus metrics, named `sfu_*`."""

    def __init__(self, counters: Counters, gauges: Callable[[], Gauges]) -> None:
        self._counters = counters
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        """Yield every metric as it is now."""
        for name in Counters.__dataclass_fields__:
            if name != "requests":
                title = name.replace("_", " ")
                yield CounterMetricFamily(f"sfu_{name}", f"{title} so far", value=getattr(self._counters, name))
        requests = CounterMetricFamily("sfu_requests", "HTTP requests so far", labels=["endpoint", "status", "error"])
        for (endpoint, status, error), count in self._counters.requests.items():
            requests.add_metric([endpoint, str(status), error], count)
        yield requests
        gauges = self._gauges()
        for name in Gauges.__dataclass_fields__:
            yield GaugeMetricFamily(f"sfu_{name}", f"{name.replace('_', ' ')} now", value=getattr(gauges, name))
