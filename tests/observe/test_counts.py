"""The numbers that hot paths add to."""

from __future__ import annotations

from signal_manager.observe.counts import Counter, Histogram


def test_a_counter_grows_by_what_it_is_told() -> None:
    counter = Counter()

    counter.add()
    counter.add(41)
    counter.value += 1

    assert counter.value == 43


def test_a_value_counts_in_the_first_bucket_whose_bound_is_not_below_it() -> None:
    histogram = Histogram((1.0, 2.0))

    for value in (0.5, 1.0, 1.5, 3.0):
        histogram.observe(value)

    assert histogram.counts == [2, 1, 1]
    assert histogram.total == 6.0
