"""Counters and histograms of the whole service, declared once and read by Prometheus when it asks.

Counting adds to a plain int, so hot paths may count. `Metrics` is a prometheus-client collector, which formats the
numbers. This module imports no other of this package. `service/app.py` passes the one instance to all parts that count.

To add one: declare a family in `Metrics.__init__` with its help text and label names, and count with
`metrics.the_family.labelled("value", …).add()` or `.observe(seconds)`. A hot path looks its child up once and keeps
it. Label values come from closed sets in the code, never from a peer: every distinct value is kept for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from signal_manager.observe.counts import Counter, Histogram

__all__ = ["CounterFamily", "HistogramFamily", "KeptElsewhere", "Metrics"]

# Upper bounds in seconds. An SFU call takes about 250 ms at the median and 1.1 s at p99; empty tracks wait 8 s.
CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# A relay takes tens of microseconds alone, and a millisecond where one read brings a hundred signals.
RELAY_SECONDS = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
# SQLite answers in a fraction of a millisecond, Firestore in tens; above these bounds operations are given up.
STORAGE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
# 50 ms is what people call responsive; whole seconds are what makes heartbeats fail.
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

# Between nodes of one network it is about a millisecond; batches are given up after five seconds.
BUS_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class CounterFamily:
    """The counters of one name, one for each combination of label values."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = ()) -> None:
        self._name = name
        self._help = help_text
        self.labels = labels
        self._children: dict[tuple[str, ...], Counter] = {}
        self._shared: dict[tuple[str, ...], list[Counter]] = {}

    def labelled(self, *values: str) -> Counter:
        """Return the counter for these label values, in the order of the declaration."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = Counter()
        return child

    def share(self, counter: Counter, *values: str) -> None:
        """Use `counter` for these label values too; several families may share it."""
        self.labelled(*values)
        self._shared.setdefault(values, []).append(counter)

    def total(self) -> int:
        """Return the sum over all label values."""
        return sum(count for _, count in self._counts())

    def by_label(self) -> dict[str, int]:
        """Return the counts by the first label."""
        counts: dict[str, int] = {}
        for values, count in self._counts():
            counts[values[0]] = counts.get(values[0], 0) + count
        return counts

    def read(self) -> Metric:
        """Return the present values as a Prometheus metric."""
        family = CounterMetricFamily(self._name, self._help, labels=self.labels)
        for values, count in self._counts():
            family.add_metric(values, count)
        return family

    def _counts(self) -> Iterator[tuple[tuple[str, ...], int]]:
        for values, child in self._children.items():
            yield values, child.value + sum(shared.value for shared in self._shared.get(values, ()))


class HistogramFamily:
    """The histograms of one name, one for each combination of label values."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = (), *, bounds: Sequence[float]) -> None:
        self._name = name
        self._help = help_text
        self.labels = labels
        self._bounds = bounds
        self._children: dict[tuple[str, ...], Histogram] = {}

    def labelled(self, *values: str) -> Histogram:
        """Return the histogram for these label values, in the order of the declaration."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = Histogram(self._bounds)
        return child

    def read(self) -> Metric:
        """Return the present values as a Prometheus metric, whose buckets are cumulative."""
        family = HistogramMetricFamily(self._name, self._help, labels=self.labels)
        names = [*map(str, self._bounds), "+Inf"]
        for values, child in self._children.items():
            buckets = list(zip(names, map(float, accumulate(child.counts)), strict=True))
            family.add_metric(values, buckets, child.total)
        return family


class KeptElsewhere:
    """A number that another object keeps and returns when Prometheus asks."""

    labels: Sequence[str] = ()

    def __init__(self, name: str, help_text: str, *, only_grows: bool = False) -> None:
        self._name = name
        self._help = help_text
        self._only_grows = only_grows
        self._source: Callable[[], float] | None = None

    def read_from(self, source: Callable[[], float]) -> None:
        """Read the number from `source` from now on."""
        self._source = source

    def value(self) -> float:
        """Return the present number; 0 without a source."""
        return 0 if self._source is None else self._source()

    def read(self) -> Metric:
        """Return the present number as a Prometheus metric; it has no sample without a source."""
        kind = CounterMetricFamily if self._only_grows else GaugeMetricFamily
        family = kind(self._name, self._help, labels=self.labels)
        if self._source is not None:
            family.add_metric((), self._source())
        return family


class Metrics:
    """All metrics of the service, as a collector for a prometheus-client registry.

    Large because it is a list: one attribute for each metric.
    """

    def __init__(self) -> None:
        self.connections = KeptElsewhere("signal_manager_connections", "WebSocket connections that are open.")
        self.connections_opened = CounterFamily("signal_manager_connections_opened", "WebSocket connections accepted.")
        self.connections_closed = CounterFamily(
            "signal_manager_connections_closed", "WebSocket connections ended, by why they ended.", ("outcome",)
        )
        self.clients = KeptElsewhere("signal_manager_clients", "Clients that are signed in.")
        self.sessions = KeptElsewhere("signal_manager_sessions", "Sessions that have a connection.")
        self.handshakes_pending = KeptElsewhere(
            "signal_manager_handshakes_pending", "Sockets that are on their way to being WebSockets."
        )
        self.requests_pending = KeptElsewhere("signal_manager_requests_pending", "Requests that are being answered.")
        self.clients_behind = KeptElsewhere(
            "signal_manager_clients_behind", "Connections that read more slowly than others write to them."
        )
        self.outbound_queue_bytes = KeptElsewhere(
            "signal_manager_outbound_queue_bytes", "Bytes that wait for connections that are behind."
        )
        self.authentications = CounterFamily(
            "signal_manager_authentications", "CONNECT and TOKEN_RENEW requests by outcome.", ("outcome",)
        )
        self.resumes = CounterFamily(
            "signal_manager_resumes", "CONNECT requests with a session to resume, by outcome.", ("outcome",)
        )
        self.sessions_away = KeptElsewhere(
            "signal_manager_sessions_away", "Sessions that wait for their client to come back."
        )
        self.resume_buffer_bytes = KeptElsewhere(
            "signal_manager_resume_buffer_bytes", "Messages that are kept until their clients confirm them."
        )
        self.messages_received = CounterFamily("signal_manager_messages_received", "Messages from clients.", ("type",))
        self.messages_sent = CounterFamily("signal_manager_messages_sent", "Messages to clients.", ("type",))
        self.bytes_received = CounterFamily("signal_manager_received_bytes", "Bytes of messages from clients.")
        self.bytes_sent = CounterFamily("signal_manager_sent_bytes", "Bytes of messages to clients.")
        self.signals_relayed = KeptElsewhere(
            "signal_manager_signals_relayed", "Signals passed from one client to another.", only_grows=True
        )
        self.relay_seconds = HistogramFamily(
            "signal_manager_relay_seconds",
            "Time from reading a signal to writing it to its target's socket; one signal of 64 is timed.",
            bounds=RELAY_SECONDS,
        )
        self.errors_sent = CounterFamily("signal_manager_errors_sent", "ERROR messages by their code.", ("code",))
        self.rooms = KeptElsewhere("signal_manager_rooms", "Rooms with a member on this node.")
        self.participants = KeptElsewhere("signal_manager_participants", "Members of rooms on this node.")
        self.bus_connected = KeptElsewhere(
            "signal_manager_bus_connected", "1 while the other nodes can be reached, otherwise 0."
        )
        self.bus_nodes = KeptElsewhere("signal_manager_bus_nodes", "Other nodes that were heard of lately.")
        self.bus_waiting_bytes = KeptElsewhere(
            "signal_manager_bus_waiting_bytes", "Bytes that other nodes have not confirmed, or that wait for them."
        )
        self.bus_messages = CounterFamily(
            "signal_manager_bus_messages", "Messages and room news exchanged with other nodes.", ("direction",)
        )
        self.bus_bytes = CounterFamily(
            "signal_manager_bus_bytes", "Bytes of batches exchanged with other nodes.", ("direction",)
        )
        self.bus_batches = CounterFamily(
            "signal_manager_bus_batches", "Batches exchanged with other nodes, answers included.", ("direction",)
        )
        self.bus_refused = CounterFamily(
            "signal_manager_bus_refused", "Messages to other nodes that were refused at once, by why.", ("reason",)
        )
        self.bus_lost = CounterFamily(
            "signal_manager_bus_lost", "Messages to other nodes of which nobody knows what became, by why.", ("reason",)
        )
        self.bus_round_trip_seconds = HistogramFamily(
            "signal_manager_bus_round_trip_seconds",
            "Time from sending a batch to its answer, where one of its senders waits for that.",
            bounds=BUS_SECONDS,
        )
        self.storage_calls = CounterFamily(
            "signal_manager_storage_calls", "Storage operations by how they ended.", ("operation", "outcome")
        )
        self.storage_seconds = HistogramFamily(
            "signal_manager_storage_seconds",
            "Time that a storage operation took.",
            ("operation",),
            bounds=STORAGE_SECONDS,
        )
        self.event_loop_lag_seconds = HistogramFamily(
            "signal_manager_event_loop_lag_seconds",
            "How late the event loop ran something that was due.",
            bounds=LAG_SECONDS,
        )
        self.media_calls = CounterFamily(
            "signal_manager_media_calls", "Calls to the SFU by how they ended.", ("operation", "outcome")
        )
        self.media_call_seconds = HistogramFamily(
            "signal_manager_media_call_seconds",
            "Time until the SFU answered or the call was given up.",
            ("operation",),
            bounds=CALL_SECONDS,
        )
        self.ice_servers = CounterFamily(
            "signal_manager_ice_servers",
            "ICE servers that the media backend was to name to a client: cached, asked for, or STUN as a fallback.",
            ("outcome",),
        )
        self.media_operations_pending = KeptElsewhere(
            "signal_manager_media_operations_pending",
            "Operations that wait for the SFU, or for others of their session.",
        )
        self.media_sessions_replaced = CounterFamily(
            "signal_manager_media_sessions_replaced", "Media sessions given up before their client left.", ("reason",)
        )
        self.media_closings = CounterFamily(
            "signal_manager_media_closings", "Attempts to close what a media session left behind.", ("outcome",)
        )

    def collect(self) -> Iterator[Metric]:
        """Yield every metric (prometheus-client's collector interface)."""
        for family in self.families():
            yield family.read()

    def families(self) -> Iterator[CounterFamily | HistogramFamily | KeptElsewhere]:
        """Yield every family in the order of its declaration."""
        yield from vars(self).values()
