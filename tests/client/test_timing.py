"""How often and how soon a client tries again."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from signal_manager.client.timing import Clock, RetryPolicy
from signal_manager.errors import InvalidRequestError


def test_delays_double_up_to_their_maximum() -> None:
    policy = RetryPolicy(base_delay=0.5, max_delay=30, random=lambda: 1.0)

    assert [policy.delay(failures) for failures in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_million_failures_overflow_nothing() -> None:
    assert RetryPolicy(random=lambda: 1.0).delay(10**6) == 30.0


def test_delays_have_full_jitter() -> None:
    policy = RetryPolicy(base_delay=8, max_delay=8, random=random.Random(7).random)

    delays = [policy.delay(0) for _ in range(1000)]

    assert 0 <= min(delays) < 1
    assert 7 < max(delays) <= 8


@pytest.mark.parametrize(
    "wrong", [{"first_attempts": 0}, {"attempts": -1}, {"base_delay": 0.0}, {"base_delay": 2.0, "max_delay": 1.0}]
)
def test_a_policy_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="expected"):
        RetryPolicy(**wrong)


async def test_the_clock_is_the_machines() -> None:
    clock = Clock()

    before = time.monotonic()
    await clock.sleep(0)

    assert clock.now() >= before
