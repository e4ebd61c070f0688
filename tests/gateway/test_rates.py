"""A rate of messages and one of bytes, with a clock that the tests move."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_manager.gateway.rates import TokenBucket, Volume

NOW = 1000.0


def taken(bucket: TokenBucket, now: float) -> int:
    """Take all there is."""
    count = 0
    while not bucket.take(now):
        count += 1
    return count


@pytest.mark.parametrize("per_minute", [1, 5, 31, 32, 33, 1000])
def test_a_full_bucket_has_a_minute_of_tokens(per_minute: int) -> None:
    bucket = TokenBucket(per_minute, now=NOW)

    assert taken(bucket, NOW) == per_minute
    assert bucket.take(NOW) == pytest.approx(60 / per_minute)


def test_the_wait_that_is_told_is_enough_and_not_too_long() -> None:
    bucket = TokenBucket(60, now=NOW)
    taken(bucket, NOW)

    wait = bucket.take(NOW + 0.25)

    assert wait == pytest.approx(0.75)
    assert bucket.take(NOW + 0.25 + wait - 0.01) > 0
    assert bucket.take(NOW + 0.25 + wait + 0.001) == 0


def test_tokens_come_back_evenly_and_no_more_than_a_minutes() -> None:
    bucket = TokenBucket(600, now=NOW)
    taken(bucket, NOW)

    assert taken(bucket, NOW + 6.001) == 60
    assert taken(bucket, NOW + 3600) == 600


def test_looking_spends_nothing() -> None:
    bucket = TokenBucket(2, now=NOW)

    assert [bucket.wait(NOW) for _ in range(5)] == [0.0] * 5
    assert taken(bucket, NOW) == 2
    assert bucket.wait(NOW) == pytest.approx(30)
    assert bucket.wait(NOW + 31) == 0


@given(
    per_minute=st.integers(1, 500),
    gaps=st.lists(st.floats(0, 5, allow_nan=False), min_size=1, max_size=200),
)
def test_no_pace_gets_more_than_a_minutes_burst_and_the_rate(per_minute: int, gaps: list[float]) -> None:
    bucket = TokenBucket(per_minute, now=NOW)
    now, allowed = NOW, 0

    for gap in gaps:
        now += gap
        allowed += taken(bucket, now)

    assert allowed <= per_minute + (now - NOW) * per_minute / 60 + 1e-6


@given(per_minute=st.integers(1, 500), count=st.integers(1, 300))
def test_a_client_that_keeps_to_the_rate_is_never_refused(per_minute: int, count: int) -> None:
    bucket = TokenBucket(per_minute, now=NOW)

    assert not any(bucket.take(NOW + number * 60 / per_minute) for number in range(count))


def test_bytes_may_come_in_a_burst_and_then_evenly() -> None:
    volume = Volume(6000, burst=1000, now=0.0)

    def wait(size: int, now: float) -> float:
        volume.left -= size
        return 0.0 if volume.left >= 0 else volume.refill(size, now)

    assert [wait(600, 0.0), wait(400, 0.0)] == [0.0, 0.0]
    assert wait(500, 0.0) == pytest.approx(5.0)
    assert wait(500, 4.0) == pytest.approx(1.0)
    assert wait(500, 5.0) == 0.0
    assert wait(1000, 1000.0) == 0.0, "as much as a burst, however long nothing came"
    assert wait(1, 1000.0) > 0


def test_who_asks_all_the_time_loses_no_part_of_a_byte() -> None:
    volume = Volume(60, burst=10, now=0.0)
    volume.left = 0

    for turn in range(1, 101):  # ten seconds, of a byte each
        volume.left -= 11
        assert volume.refill(11, turn / 10) > 0

    assert volume.left == pytest.approx(10, abs=1)
