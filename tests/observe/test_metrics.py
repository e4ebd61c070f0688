"""What Prometheus reads is what was counted."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from signal_manager.observe.counts import Counter
from signal_manager.observe.metrics import CounterFamily, Metrics


def test_a_counted_call_is_published_with_its_labels() -> None:
    metrics = Metrics()
    registry = CollectorRegistry()
    registry.register(metrics)

    metrics.media_calls.labelled("tracks_new", "ok").add()
    metrics.media_calls.labelled("tracks_new", "ok").add(2)

    labels = {"operation": "tracks_new", "outcome": "ok"}
    assert registry.get_sample_value("signal_manager_media_calls_total", labels) == 3


def test_a_histogram_is_published_as_cumulative_buckets() -> None:
    metrics = Metrics()
    registry = CollectorRegistry()
    registry.register(metrics)

    for seconds in (0.25, 0.3, 60.0):
        metrics.media_call_seconds.labelled("renegotiate").observe(seconds)

    def bucket(bound: str) -> float | None:
        labels = {"operation": "renegotiate", "le": bound}
        return registry.get_sample_value("signal_manager_media_call_seconds_bucket", labels)

    assert [bucket(bound) for bound in ("0.1", "0.25", "0.5", "10.0", "+Inf")] == [0, 1, 2, 2, 3]
    labels = {"operation": "renegotiate"}
    assert registry.get_sample_value("signal_manager_media_call_seconds_count", labels) == 3
    assert registry.get_sample_value("signal_manager_media_call_seconds_sum", labels) == 60.55


def test_what_was_never_counted_is_published_without_samples() -> None:
    registry = CollectorRegistry()
    registry.register(Metrics())

    text = generate_latest(registry).decode()

    assert "# TYPE signal_manager_media_calls_total counter" in text
    assert 'operation="' not in text


def test_what_is_counted_once_may_count_for_several_families() -> None:
    received = CounterFamily("received", "Messages received.", ("type",))
    sent = CounterFamily("sent", "Messages sent.", ("type",))
    relayed = Counter()
    received.share(relayed, "OFFER")
    sent.share(relayed, "OFFER")
    received.labelled("OFFER").add(2)

    relayed.value += 3

    assert (received.by_label(), received.total()) == ({"OFFER": 5}, 5)
    assert [(sample.labels, sample.value) for sample in sent.read().samples] == [({"type": "OFFER"}, 3)]
