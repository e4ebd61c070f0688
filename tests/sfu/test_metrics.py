"""The SFU's counters and gauges as Prometheus reads them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from signal_manager.sfu.metrics import Counters, Gauges, SfuCollector


def exposition(counters: Counters, gauges: Gauges) -> dict[str, float]:
    """Return the samples by name and labels."""
    registry = CollectorRegistry()
    registry.register(SfuCollector(counters, lambda: gauges))
    lines = generate_latest(registry).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_every_counter_and_gauge_is_exposed_under_its_name() -> None:
    counters, gauges = Counters(), Gauges(1, 2, 3, 4, 5, 6)
    names = [name for name in Counters.__dataclass_fields__ if name != "requests"]
    for value, name in enumerate(names):
        setattr(counters, name, value)

    samples = exposition(counters, gauges)

    assert [samples[f"sfu_{name}_total"] for name in names] == [*range(len(names))]
    assert [samples[f"sfu_{name}"] for name in Gauges.__dataclass_fields__] == [1, 2, 3, 4, 5, 6]
    assert len(samples) == len(names) + 6


def test_requests_are_counted_by_endpoint_status_and_error() -> None:
    counters = Counters()
    counters.requests["tracks/new", 200, ""] += 2
    counters.requests["tracks/new", 406, 'a "quoted" code'] += 1

    samples = exposition(counters, Gauges(0, 0, 0, 0, 0, 0))

    assert samples['sfu_requests_total{endpoint="tracks/new",error="",status="200"}'] == 2
    assert samples[r'sfu_requests_total{endpoint="tracks/new",error="a \"quoted\" code",status="406"}'] == 1


def test_two_sfus_of_one_process_do_not_count_together() -> None:
    first, second = Counters(), Counters()
    first.requests["state", 200, ""] += 1

    assert not second.requests
