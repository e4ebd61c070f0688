"""How often a room hears of one member that comes and goes."""

from __future__ import annotations

from signal_manager.rooms.absence import BURST, PAUSE, Absence


def test_the_first_changes_are_told_at_once_and_later_ones_at_a_bounded_rate() -> None:
    absence, now, told = Absence(), 100.0, []

    for _ in range(3 * BURST):
        absence.is_away = not absence.is_away
        now += absence.wait(now)
        absence.tell(now)
        told.append(now - 100)

    assert told[:BURST] == [0.0] * BURST
    assert len([at for at in told if at <= 2 * BURST * PAUSE]) <= 3 * BURST
    assert told[-1] == 2 * BURST * PAUSE


def test_what_changes_back_before_it_is_told_is_nothing_to_tell() -> None:
    absence = Absence()
    absence.is_away = True
    assert not absence.is_settled
    absence.is_away = False
    assert absence.is_settled


def test_a_member_that_was_calm_for_a_while_is_told_of_at_once_again() -> None:
    absence = Absence()
    for _ in range(BURST):
        absence.tell(0.0)

    assert absence.wait(1.0) == BURST * PAUSE - 1.0
    assert absence.wait(BURST * PAUSE) == 0.0
