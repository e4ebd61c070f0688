"""How long one connection may take, in microseconds of test time."""

from __future__ import annotations

from signal_manager.asgi.limits import Clock, TimeLimits

LIMITS = TimeLimits(request=10.0, write=30.0, keep_alive=5.0)


def test_a_request_has_its_time_and_the_application_takes_its_own() -> None:
    clock = Clock(LIMITS, 0.0)

    assert not clock.is_over(10.0, is_behind=False)
    assert clock.is_over(10.1, is_behind=False)
    clock.request_came()
    assert not clock.is_over(1e9, is_behind=False)


def test_a_connection_rests_for_a_while_and_its_next_request_has_the_same_time() -> None:
    clock = Clock(LIMITS, 0.0)
    clock.request_came()
    clock.response_ended(100.0)

    assert not clock.is_over(105.0, is_behind=False)
    assert clock.is_over(105.1, is_behind=False)
    clock.data_came(104.0)
    clock.data_came(113.0)  # more data gives no more time
    assert not clock.is_over(114.0, is_behind=False)
    assert clock.is_over(114.1, is_behind=False)


def test_a_request_behind_another_one_has_its_time_from_its_turn() -> None:
    clock = Clock(LIMITS, 0.0)
    clock.request_came()

    clock.turn_came(50.0)

    assert not clock.is_over(60.0, is_behind=False)
    assert clock.is_over(60.1, is_behind=False)


def test_a_client_that_reads_in_time_is_not_cut() -> None:
    clock = Clock(LIMITS, 0.0)
    clock.request_came()

    assert not clock.is_over(10.0, is_behind=True)
    assert not clock.is_over(40.0, is_behind=True)
    assert not clock.is_over(41.0, is_behind=False)
    assert not clock.is_over(50.0, is_behind=True)
    assert clock.is_over(80.1, is_behind=True)
