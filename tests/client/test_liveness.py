"""When a connection is asked for a sign of life and given up, decided without any connection."""

from __future__ import annotations

import pytest

from signal_manager.client.liveness import ANSWER_TIME, PROBE_AFTER, ROOM_INTERVAL, Due, LivenessMonitor, Signs


def signs(heard: float = 0.0, asked: float = 0.0, *, waiting: bool = False, in_room: bool = False) -> Signs:
    return Signs(heard, asked, waiting, in_room)


def test_an_idle_client_sends_a_heartbeat_at_the_interval_and_no_more() -> None:
    liveness = LivenessMonitor(0.0, interval=30.0)

    assert liveness.check(29.9, signs()) is Due.NOTHING
    assert liveness.check(30.0, signs()) is Due.BEAT
    assert liveness.check(59.9, signs(heard=30.1)) is Due.NOTHING
    assert liveness.check(60.0, signs(heard=30.1)) is Due.BEAT


def test_nothing_was_asked_before_the_first_heartbeat() -> None:
    liveness = LivenessMonitor(10.1, interval=30.0)

    assert liveness.deadline(signs(heard=10.0, asked=9.9)) == 40.1
    assert liveness.check(40.0, signs(heard=10.0, asked=9.9)) is Due.NOTHING


def test_a_heartbeat_that_nothing_follows_ends_the_connection() -> None:
    liveness = LivenessMonitor(0.0, interval=30.0)
    liveness.check(30.0, signs())

    assert liveness.deadline(signs()) == 30.0 + ANSWER_TIME
    assert liveness.check(30.0 + ANSWER_TIME, signs()) is Due.GIVE_UP


def test_what_nothing_follows_is_asked_after_and_then_ends_the_connection_within_five_seconds() -> None:
    liveness = LivenessMonitor(0.0, interval=30.0)
    unanswered = signs(heard=5.0, asked=10.0)

    assert liveness.check(10.0, unanswered) is Due.NOTHING
    assert liveness.check(10.0 + PROBE_AFTER, unanswered) is Due.BEAT
    assert liveness.check(10.0 + PROBE_AFTER + ANSWER_TIME, unanswered) is Due.GIVE_UP
    assert PROBE_AFTER + ANSWER_TIME < 5.0


def test_a_slow_request_beside_answered_heartbeats_is_no_silence() -> None:
    liveness, now = LivenessMonitor(0.0, interval=30.0), 0.0
    for _ in range(100):
        heard = now
        now = liveness.deadline(signs(heard=heard, asked=0.0, waiting=True))
        assert liveness.check(now, signs(heard=heard, asked=0.0, waiting=True)) is Due.BEAT
        now += 0.1  # its answer

    assert now == pytest.approx(100 * (PROBE_AFTER + 0.1))


def test_in_a_room_the_interval_is_short_unless_the_service_names_a_shorter_one() -> None:
    assert LivenessMonitor(0.0, interval=30.0).deadline(signs(in_room=True)) == ROOM_INTERVAL
    assert LivenessMonitor(0.0, interval=0.5).deadline(signs(in_room=True)) == 0.5
    assert ROOM_INTERVAL + ANSWER_TIME < 5.0


def test_a_machine_that_slept_asks_before_it_gives_up() -> None:
    liveness = LivenessMonitor(0.0, interval=30.0)

    assert liveness.check(9000.0, signs()) is Due.BEAT
