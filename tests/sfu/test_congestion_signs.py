"""Queues, falling estimates, and the pauses between attempts."""

from __future__ import annotations

from signal_manager.sfu.congestion_signs import Attempts, Estimates, QueueSigns

NOTHING = float("inf")


def test_a_request_that_comes_late_shows_a_queue_and_a_soon_one_shows_none() -> None:
    signs = QueueSigns()
    assert signs.has_queue() is None

    signs.take(0.02)
    assert signs.has_queue() is False
    for _ in range(3):
        signs.take(0.2)

    assert signs.has_queue() is True
    for _ in range(3):
        signs.take(NOTHING)
    assert signs.has_queue() is None


def test_only_an_estimate_that_fell_lately_is_news() -> None:
    estimates = Estimates(10)
    estimates.take(1000.0, [1], 0.0)
    estimates.take(990.0, [1], 0.1)
    assert estimates.fallen(0.1) is None

    estimates.take(500.0, [1], 0.2)

    assert (estimates.fallen(1.1), estimates.fallen(1.3)) == (500.0, None)


def test_estimates_for_other_tracks_are_not_compared_and_are_bounded() -> None:
    estimates = Estimates(2)
    estimates.take(1000.0, [1], 0.0)
    estimates.take(100.0, [2], 0.0)
    assert estimates.fallen(0.0) is None

    estimates.take(1.0, [3], 0.0)  # the first ones are forgotten
    estimates.take(1.0, [1], 0.0)

    assert estimates.fallen(0.0) is None


def test_after_a_failed_attempt_the_next_one_comes_later_up_to_a_limit() -> None:
    attempts = Attempts(first=1.0, last=3.0)
    attempts.fail(0.0)
    assert (attempts.is_due(0.9), attempts.is_due(1.0)) == (False, True)

    now, pauses = 1.0, []
    for _ in range(3):
        attempts.settle()
        attempts.make(now)
        assert attempts.is_under_way(now + 1.9)
        attempts.fail(now)
        pauses.append(next(pause / 10 for pause in range(100) if attempts.is_due(now + pause / 10)))
        now += 10.0

    assert pauses == [2.0, 3.0, 3.0]


def test_after_a_success_the_pause_is_short_again() -> None:
    attempts = Attempts(first=1.0, last=8.0)
    attempts.make(0.0)
    attempts.fail(0.0)
    attempts.make(10.0)

    attempts.settle()
    attempts.make(20.0)

    assert attempts.is_due(21.0)
